"""A policy that sees what it estimates: learned from what the value function is told, in checkpoints and exact."""

# mypy: allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from toy import PointEnv, curve

from ballbot.ppo import Hooks, InitFrom, PPOConfig, Structure, evaluate, load_agent, load_checkpoint, train
from ballbot.ppo.agent import Agent
from ballbot.ppo.checkpoint import CheckpointError
from ballbot.ppo.estimator import Estimate


class Hidden(PointEnv):
    """Tells the value function alone where the point is; the policy its speed, and two numbers that give it away."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        told = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        truth = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.single_observation_space = gym.spaces.Dict({"policy": told, "truth": truth})
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, num_envs)

    def _out(self, x: np.ndarray) -> Any:
        place, speed = x.T
        told = np.stack([speed, np.sin(place), np.cos(place)], axis=1)
        return {"policy": told.astype(np.float32), "truth": place[:, None].astype(np.float32)}

    def step(self, actions: Any) -> Any:
        *out, infos = super().step(actions)
        if infos:
            found = self._out(infos["final_obs"])
            infos["final_obs"] = np.array(
                [{key: x[i] for key, x in found.items()} for i in range(self.num_envs)], object
            )
        return *out, infos


class Shown(PointEnv):
    """Tells the policy too, behind the three."""

    def _out(self, x: np.ndarray) -> Any:
        place, speed = x.T
        return np.stack([speed, np.sin(place), np.cos(place), place], axis=1).astype(np.float32)

    def step(self, actions: Any) -> Any:
        *out, infos = super().step(actions)
        if infos:
            infos["final_obs"] = self._out(infos["final_obs"])
        return *out, infos

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, num_envs)


def estimate() -> Estimate:
    return Estimate(torch.tensor([1, 2]), torch.ones(2), torch.tensor([0]), torch.tensor([0.5]))


SETTINGS: dict[str, Any] = {
    "num_envs": 16, "num_steps": 32, "minibatch_size": 128, "hidden_size": 8, "num_layers": 1,
    "eval_interval": 10**9, "initial_std": 0.5,
}  # fmt: skip


def settings(**changes: Any) -> PPOConfig:
    return PPOConfig(**(SETTINGS | {"value_only": ("truth",), "total_timesteps": 20_480} | changes))


def learn(run_dir: Path, structure: Structure | None = None, resume: Path | None = None, **changes: Any) -> Agent:
    changes = {"imitation_timesteps": 20_480} | changes
    structure = structure or Structure(estimate=estimate())
    options: dict[str, Any] = {"structure": structure, "console": False, "resume": resume}
    return train(settings(**changes), Hidden, run_dir=run_dir, **options).agent


def errors(agent: Agent) -> float:
    """Mean absolute error of what it estimates."""
    envs = Hidden(64)
    obs, _ = envs.reset(seed=3)
    rows = agent.flatten(obs, whole=True)
    assert rows.shape == (64, 5) and agent.flatten(obs).shape == (64, 4)
    np.testing.assert_array_equal(rows[:, :3], obs["policy"])
    np.testing.assert_array_equal(rows[:, 4:], obs["truth"])
    return float((rows[:, 3] - rows[:, 4]).abs().mean())


def test_what_it_estimates_becomes_true_and_stays_when_ppo_takes_over(tmp_path: Path) -> None:
    agent = learn(tmp_path / "r", total_timesteps=24_576)
    assert errors(agent) < 0.15
    rows = curve(tmp_path / "r")
    differences = [float(row["imitation/difference"]) for row in rows if row["imitation/difference"]]
    assert differences[0] > 0.3 and differences[-1] < 0.05 and len(differences) < len(rows)
    states = sorted((tmp_path / "r" / "checkpoints").glob("step_*.pt"))
    assert errors(load_agent(tmp_path / "r" / "last.pt")) == errors(agent)
    assert states


def test_a_policy_that_was_told_goes_on_with_estimates(tmp_path: Path) -> None:
    """What somebody learned who was told where the point is, a student does who estimates it."""
    told = {key: value for key, value in SETTINGS.items()}
    teacher = train(
        PPOConfig(**told, total_timesteps=30_720, learning_rate=3e-3), Shown, run_dir=tmp_path / "t", console=False
    ).agent
    start = InitFrom(tmp_path / "t", columns=[0, 1, 2, 3, None])
    config = settings(imitation_timesteps=20_480, initial_std=0.3)
    structure = Structure(estimate=estimate())
    student = train(config, Hidden, run_dir=tmp_path / "s", structure=structure, init_from=start, console=False).agent
    for name in ("policy_head.weight", "policy_trunk.0.weight"):
        torch.testing.assert_close(student.state_dict()[name], teacher.state_dict()[name], rtol=0, atol=1e-6)
    scores = [
        evaluate(agent, envs, 64, seed=5)["return_mean"]
        for agent, envs in ((teacher, Shown(64)), (student, Hidden(64)))
    ]
    assert abs(scores[0] - scores[1]) < 0.15 * abs(scores[0])


@pytest.mark.parametrize("memory", ["none", "gru"])
@pytest.mark.parametrize("stop", [8192, 12_288])
def test_a_run_goes_on_bit_for_bit_in_both_stages(tmp_path: Path, stop: int, memory: str) -> None:
    changes: dict[str, Any] = {
        "imitation_timesteps": 10_240,
        "total_timesteps": 14_336,
        "memory": memory,
        "memory_size": 4,
    }
    whole = learn(tmp_path / "whole", **changes, checkpoint_interval=4096, keep_checkpoints=9)
    copy = tmp_path / "whole" / "checkpoints" / f"step_{stop:012d}.pt"
    found = copy if copy.exists() else next(iter((tmp_path / "whole" / "checkpoints").glob(f"*{stop}*.pt")))
    again = learn(tmp_path / "again", resume=found, **changes)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_another_estimate_is_another_policy(tmp_path: Path) -> None:
    learn(tmp_path / "r", imitation_timesteps=2048, total_timesteps=2048)
    other = Estimate(torch.tensor([0, 2]), torch.ones(2), torch.tensor([0]), torch.tensor([0.5]))
    with pytest.raises(CheckpointError, match="another estimate"):
        learn(tmp_path / "r", Structure(estimate=other), tmp_path / "r", imitation_timesteps=2048, total_timesteps=4096)
    assert load_checkpoint(tmp_path / "r" / "last.pt")["global_step"] == 2048


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": torch.tensor([1])}, "estimate is of column 1 from column 2, .* is told 1 numbers, the policy 3"),
        ({"inputs": torch.tensor([1, 3])}, "from column 3"),
        ({"inputs": torch.tensor([1, 1])}, "different columns"),
        ({"inputs": torch.tensor([-1, 1])}, "different columns from 0 up"),
        ({"scale": torch.tensor([1.0])}, "as many factors as inputs"),
        ({"unit": torch.tensor([0.0])}, "above 0 and finite"),
    ],
)
def test_what_cannot_be_estimated_is_refused(change: dict[str, torch.Tensor], message: str) -> None:
    given = {"inputs": torch.tensor([1, 2]), "scale": torch.ones(2), "truth": torch.tensor([0])}
    with pytest.raises(ValueError, match=message):
        structure = Structure(estimate=Estimate(**(given | {"unit": torch.ones(1)} | change)))
        Agent(Hidden(1).single_observation_space, Hidden(1).single_action_space, settings(), None, structure)


def test_a_teacher_that_knows_the_truth_is_imitated_by_who_estimates_it(tmp_path: Path) -> None:
    def to_the_middle(obs: Any, began: np.ndarray) -> np.ndarray:
        return np.clip(-0.8 * obs["truth"] - 0.5 * obs["policy"][:, :1], -1, 1)

    steps = 16_384
    train(
        settings(imitation_timesteps=steps, total_timesteps=steps, initial_std=0.1),
        Hidden,
        run_dir=tmp_path / "r",
        structure=Structure(estimate=estimate()),
        hooks=Hooks(teacher=to_the_middle),
        console=False,
    )
    agent, envs = load_agent(tmp_path / "r" / "last.pt"), Hidden(64)
    obs, _ = envs.reset(seed=3)
    wanted = to_the_middle(obs, np.ones(64, bool))
    assert np.abs(wanted).mean() > 0.2
    assert np.abs(agent.act({"policy": obs["policy"]}).numpy() - wanted).mean() < 0.1
    found = agent.flatten({"policy": obs["policy"]})[:, agent.told_size :].numpy()
    assert np.abs(found - obs["truth"]).mean() < 0.1 < np.abs(obs["truth"]).mean()
