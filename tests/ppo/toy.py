"""Small environments and settings whose every number can be checked by hand."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from ballbot.ppo import Agent, PPOConfig, Record, Rollout, TrainResult, gae, load_checkpoint, rollout, train, update
from ballbot.ppo.ppo import make_optimizer
from ballbot.ppo.stopwatch import Stopwatch
from ballbot.ppo.storage import EnvState, autoreset_mode

BOX1 = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
OBS2 = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)


def cartpole(num_envs: int, mode: AutoresetMode = AutoresetMode.SAME_STEP) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: gym.make("CartPole-v1")] * num_envs, autoreset_mode=mode)


class PointEnv(VectorEnv):
    """A point on a line, pushed by the action and at random; terminated beyond 2, truncated after 20 steps.

    Can save and restore itself, reports reward terms, and returns tensors if asked to.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - Gymnasium's convention
    LIMIT = 20

    def __init__(self, num_envs: int, as_tensors: bool = False) -> None:
        self.num_envs = num_envs
        self.as_tensors = as_tensors
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.single_action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.rng = np.random.default_rng(0)
        self.x = np.zeros((num_envs, 2), np.float32)
        self.age = np.zeros(num_envs, np.uint32)
        self.term = np.zeros(num_envs)
        self.returned: list[Any] = []
        self.received: list[Any] = []

    def _out(self, x: np.ndarray) -> Any:
        out = torch.from_numpy(x.copy()) if self.as_tensors else x.copy()
        self.returned.append(out)
        return out

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.x = self.rng.normal(size=(self.num_envs, 2)).astype(np.float32)
        self.age[:] = 0
        self.term[:] = 0
        return self._out(self.x), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.received.append(actions)
        push = np.asarray(actions).reshape(self.num_envs)
        self.x[:, 1] += 0.1 * push + 0.05 * self.rng.normal(size=self.num_envs)
        self.x[:, 0] += 0.1 * self.x[:, 1]
        self.age += 1
        position = -np.abs(self.x[:, 0])
        self.term += position
        terminated = np.abs(self.x[:, 0]) > 2
        truncated = self.age >= self.LIMIT
        infos: dict[str, Any] = {}
        if (done := terminated | truncated).any():
            infos = {
                "final_obs": self.x.copy(),
                "_final_obs": done,
                "final_info": {
                    "reward_terms": {"position": self.term.copy()},
                    "_reward_terms": done,
                    "diverged": np.zeros(self.num_envs, bool),
                },
            }
            self.x[done] = self.rng.normal(size=(int(done.sum()), 2))
            self.age[done] = 0
            self.term[done] = 0
        reward = position.astype(np.float32)
        if self.as_tensors:
            return self._out(self.x), *map(torch.from_numpy, (reward, terminated, truncated)), infos
        return self._out(self.x), reward, terminated, truncated, infos

    def get_state(self) -> dict[str, Any]:
        return {
            "rng": self.rng.bit_generator.state,
            "x": self.x,
            "age": self.age,
            "term": self.term,
            "nested": [{"flag": True, "name": "point"}, np.float32(0.1)],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        assert state["nested"][0] == {"flag": True, "name": "point"}
        assert state["age"].dtype == np.uint32
        self.rng.bit_generator.state = state["rng"]
        self.x, self.age, self.term = state["x"].copy(), state["age"].copy(), state["term"].copy()


class SplitEnv(PointEnv):
    """A PointEnv that tells the policy position and speed, and whoever trains it how long the episode has lasted."""

    def __init__(self, num_envs: int, as_tensors: bool = False) -> None:
        super().__init__(num_envs, as_tensors)
        age = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.single_observation_space = gym.spaces.Dict({"age": age, "policy": OBS2})

    def _out(self, x: np.ndarray) -> Any:
        age = (self.age[:, None] / self.LIMIT).astype(np.float32)
        return {"age": torch.from_numpy(age) if self.as_tensors else age, "policy": super()._out(x)}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        age = ((self.age[:, None] + 1) / self.LIMIT).astype(np.float32)
        *out, infos = super().step(actions)
        if infos:
            rows = [{"age": a, "policy": x} for a, x in zip(age, infos["final_obs"], strict=True)]
            infos["final_obs"] = np.array(rows, object)
        return out[0], out[1], out[2], out[3], infos


class ScriptedEnv(VectorEnv):
    """One environment that plays back episode ends; observation t is [t], a final one [100 + t].

    With NEXT_STEP, the step after an episode end is a filler of reward 0, as Gymnasium specifies.
    """

    def __init__(self, ends: str, mode: AutoresetMode = AutoresetMode.SAME_STEP) -> None:
        """`ends`: per step "." goes on, "T" terminates, "L" hits the time limit, "B" does both."""
        self.metadata = {"autoreset_mode": mode}
        self.num_envs, self.ends, self.t, self.done = 1, ends, 0, False
        self.next_step = mode == AutoresetMode.NEXT_STEP
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.single_action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.t, self.done = 0, False
        return np.zeros((1, 1), np.float32), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        end = self.ends[self.t % len(self.ends)]
        self.t += 1
        filler, self.done = self.done and self.next_step, end != "." and not (self.done and self.next_step)
        obs = np.full((1, 1), self.t, np.float32)
        if filler:
            return obs, np.zeros(1), np.zeros(1, bool), np.zeros(1, bool), {}
        infos = {}
        if self.done and self.next_step:
            obs = obs + 100
        elif self.done:
            final = np.full(1, None, object)
            final[0] = obs[0] + 100
            infos = {"final_obs": final, "_final_obs": np.ones(1, bool)}
        reward = np.full(1, float(self.t))
        return obs, reward, np.array([end in "TB"]), np.array([end in "LB"]), infos

    def get_state(self) -> dict[str, Any]:
        return {"t": self.t, "done": self.done}

    def set_state(self, state: dict[str, Any]) -> None:
        self.t, self.done = state["t"], state["done"]


def small_config(**changes: Any) -> PPOConfig:
    settings: dict[str, Any] = {
        "num_envs": 4,
        "num_steps": 32,
        "minibatch_size": 32,
        "update_epochs": 2,
        "hidden_size": 16,
        "num_layers": 2,
    }
    return PPOConfig(**(settings | changes))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def collect(envs: Any, config: PPOConfig, agent: Agent | None = None, seed: int = 0) -> tuple[Agent, Rollout]:
    agent = agent or Agent(envs.single_observation_space, envs.single_action_space, config, generator(seed))
    next_step = autoreset_mode(envs) == AutoresetMode.NEXT_STEP
    storage = Rollout.allocate(agent, config.num_steps, envs.num_envs, next_step, torch.device("cpu"))
    obs, _ = envs.reset(seed=seed)
    state = EnvState(obs, torch.zeros(envs.num_envs, dtype=torch.bool))
    rollout(agent, envs, state, storage, generator(seed), Stopwatch(), measure=config.normalize_observations_per_step)
    return agent, storage


def advantages_of(batch: Rollout, config: PPOConfig) -> tuple[torch.Tensor, torch.Tensor]:
    return gae(
        batch.rewards,
        batch.values,
        batch.terminated,
        batch.truncated,
        batch.final_values,
        batch.next_value,
        config.gamma,
        config.gae_lambda,
    )


def learned_beside(garbage: float, config: PPOConfig) -> tuple[Agent, Rollout]:
    """An agent after an update, whose filler rows held this besides, and the rollout it learned from."""
    agent, batch = collect(ScriptedEnv("..L..T..", AutoresetMode.NEXT_STEP), config)
    assert batch.valid is not None
    advantages, returns = advantages_of(batch, config)
    for x in (advantages, returns, batch.actions, batch.values):
        x[~batch.valid] += garbage
    update(agent, make_optimizer(agent, config), batch, advantages, returns, config, generator())
    return agent, batch


BATCH = 4 * 16
TOY: dict[str, Any] = {
    "total_timesteps": 10 * BATCH,
    "num_envs": 4,
    "num_steps": 16,
    "minibatch_size": 32,
    "hidden_size": 8,
    "num_layers": 1,
    "eval_interval": 3 * BATCH,
    "eval_episodes": 2,
    "checkpoint_interval": 2 * BATCH,
    "keep_checkpoints": 100,
}


def run(
    run_dir: Path, make: Callable[[int], VectorEnv] = PointEnv, resume: Path | None = None, **changes: Any
) -> TrainResult:
    """Train; changes are settings of PPO, but for the options of `train` and "env_metadata"."""
    metadata = changes.pop("env_metadata", {"layout": "v1"})
    options: dict[str, Any] = {name: changes.pop(name) for name in ("structure", "init_from") if name in changes}
    options |= {"record": Record(env_metadata=metadata), "resume": resume, "console": False}
    return train(PPOConfig(**(TOY | changes)), make, make, run_dir=run_dir, **options)


def curve(run_dir: Path) -> list[dict[str, str]]:
    """All of progress.csv but the columns that depend on the clock."""
    with open(run_dir / "progress.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.startswith("time/") and k != "charts/SPS"} for row in rows]


def assert_resumes_exactly(folder: Path, make: Callable[[int], VectorEnv], capsys: pytest.CaptureFixture[str]) -> None:
    """A training in these environments that goes on from half of it ends as the whole did, and says nothing else."""
    run(folder / "a", make)
    shutil.copytree(folder / "a", folder / "b")
    run(folder / "b", make, resume=folder / "b" / "checkpoints" / f"step_{4 * BATCH}.pt")
    assert "new episodes" not in capsys.readouterr().out
    assert curve(folder / "a") == curve(folder / "b")
    assert_same_weights(folder / "a" / "last.pt", folder / "b" / "last.pt")


def assert_same_weights(one: Path, two: Path) -> None:
    a, b = load_checkpoint(one), load_checkpoint(two)
    for networks in ("agent", "policy"):
        assert a[networks].keys() == b[networks].keys()
        for key in a[networks]:
            assert torch.equal(a[networks][key], b[networks][key]), (networks, key)
    for i in a["optimizer"]["state"]:
        for key, value in a["optimizer"]["state"][i].items():
            assert torch.equal(value, b["optimizer"]["state"][i][key]), (i, key)
