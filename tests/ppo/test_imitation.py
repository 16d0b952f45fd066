"""A policy that imitates a teacher before it learns from rewards."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from toy import BOX1, OBS2, PointEnv, ScriptedEnv, SplitEnv, cartpole, curve, generator, small_config

from ballbot.ppo import (
    Agent,
    FeedbackPrior,
    Hooks,
    SettingsError,
    Structure,
    evaluate,
    load_agent,
    load_checkpoint,
    train,
)
from ballbot.ppo.imitation import Lessons, imitation_loss
from ballbot.ppo.ppo import rollout
from ballbot.ppo.stopwatch import Stopwatch
from ballbot.ppo.storage import EnvState, Rollout


def to_the_middle(obs: Any, began: np.ndarray) -> np.ndarray:
    """A teacher that brings the point back, without memory."""
    x = np.asarray(obs["policy"] if isinstance(obs, dict) else obs)
    return np.clip(-0.8 * x[:, :1] - 0.5 * x[:, 1:], -1, 1)


class Counting:
    """A teacher whose action is how long the episode has lasted: what it knows, it remembers."""

    def __init__(self, num_envs: int) -> None:
        self.steps = np.zeros(num_envs)

    def __call__(self, obs: Any, began: np.ndarray) -> np.ndarray:
        self.steps = np.where(began, 0.0, self.steps + 1)
        return 0.05 * self.steps[:, None] * np.sign(obs[:, :1])

    def get_state(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def set_state(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"].copy()


def settings(**changes: Any) -> Any:
    imitation = {"imitation_timesteps": 4096, "total_timesteps": 4096, "initial_std": 0.1, "update_epochs": 5}
    return small_config(**(imitation | {"policy_average": 0.5, "checkpoint_interval": 512} | changes))


def teach(path: Path, envs: Any = PointEnv, teacher: Any = to_the_middle, **changes: Any) -> Agent:
    train(settings(**changes), envs, run_dir=path, hooks=Hooks(teacher=teacher), console=False)
    return load_agent(path / "last.pt")


@pytest.mark.parametrize("envs", [PointEnv, SplitEnv, partial(PointEnv, as_tensors=True)])
def test_the_policy_does_what_its_teacher_does(tmp_path: Path, envs: Any) -> None:
    changes = {"imitation_timesteps": 8192, "total_timesteps": 8192}
    agent = teach(tmp_path / "r", envs, **changes, value_only=("age",) if envs is SplitEnv else ())
    x = 2 * torch.rand(256, 2, generator=generator()) - 1
    wanted = to_the_middle(x.numpy(), np.zeros(256, bool))
    assert np.abs(agent.act(x).numpy() - wanted).mean() < 0.1  # of a new policy: 0.4
    rows = curve(tmp_path / "r")
    assert float(rows[-1]["imitation/difference"]) < 0.1 < 0.2 < float(rows[1]["imitation/difference"])


def test_the_value_function_learns_meanwhile_and_the_noise_does_not() -> None:
    """PPO will need the values."""
    config = small_config(vf_coef=0.3)
    agent = Agent(OBS2, BOX1, config, generator())
    obs, answers, returns = (torch.randn(16, *size, generator=generator(1)) for size in ((2,), (1,), ()))
    loss, _ = imitation_loss(agent, obs, answers, returns, returns, returns, returns, None, config)
    torch.autograd.backward(loss)
    found = agent.value_head.weight.grad
    agent.zero_grad()
    torch.autograd.backward(0.3 * 0.5 * ((agent.get_value(obs) - returns) ** 2).mean())
    torch.testing.assert_close(found, agent.value_head.weight.grad)
    assert agent.log_std.grad is None


@pytest.mark.slow
def test_a_policy_that_remembers_learns_what_a_teacher_remembers(tmp_path: Path) -> None:
    make = partial(teach, teacher=Counting(4), imitation_timesteps=20_000, total_timesteps=20_000, hidden_size=32)
    errors = {}
    for memory in ("none", "gru"):
        agent = make(tmp_path / memory, memory=memory, memory_size=16, teacher=Counting(4))
        envs, teacher = PointEnv(32), Counting(32)
        (obs, _), began, found = envs.reset(seed=1), np.ones(32, bool), []
        kept = agent.new_memory(32)
        for _ in range(60):
            if kept is not None:
                kept[torch.from_numpy(began)] = 0.0
            action = agent.act(obs, memory=kept).numpy()
            found.append(np.abs(action - np.clip(teacher(obs, began), -1, 1)).mean())
            obs, _, terminated, truncated, _ = envs.step(action)
            began = terminated | truncated
        errors[memory] = np.mean(found)
    assert errors["gru"] < 0.6 * errors["none"], errors


def test_choices_are_imitated_too(tmp_path: Path) -> None:
    def balance(obs: Any, began: np.ndarray) -> np.ndarray:
        return (obs[:, 2] + 0.4 * obs[:, 3] + 0.05 * obs[:, 0] + 0.1 * obs[:, 1] > 0).astype(np.int64)

    changes = {"num_envs": 8, "imitation_timesteps": 8192, "total_timesteps": 8192}
    agent = teach(tmp_path / "r", cartpole, balance, **changes)
    assert evaluate(agent, cartpole(5), 5, seed=3)["return_mean"] > 450


@pytest.mark.parametrize("wrong", [7, -1, 0.5])
def test_a_choice_that_there_is_not_is_refused(tmp_path: Path, wrong: float) -> None:
    with pytest.raises(ValueError, match="chose what there is not"):
        teach(tmp_path / "r", cartpole, lambda obs, began: np.full(4, wrong))


def lessons_of(envs: Any, teacher: Any, **changes: Any) -> tuple[Lessons, Rollout, EnvState]:
    config = settings(num_envs=envs.num_envs, normalize_observations=False, **changes)
    agent = Agent(envs.single_observation_space, envs.single_action_space, config, generator())
    next_step = envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    storage = Rollout.allocate(agent, config.num_steps, envs.num_envs, next_step, torch.device("cpu"))
    return Lessons(teacher, agent, envs.num_envs), storage, EnvState(envs.reset(seed=0)[0], torch.zeros(1).bool())


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_the_teacher_is_told_where_episodes_begin(mode: AutoresetMode) -> None:
    heard: list[tuple[float, bool]] = []

    def listen(obs: Any, began: np.ndarray) -> np.ndarray:
        heard.append((float(obs[0, 0]), bool(began[0])))
        return np.zeros((1, 1))

    envs = ScriptedEnv("...T..L." if mode == AutoresetMode.SAME_STEP else "...T...L.", mode)
    lessons, storage, state = lessons_of(envs, listen, num_steps=16, minibatch_size=16)
    for _ in range(2):  # the second rollout goes on where the first one stopped
        lessons.begin(storage, 1.0)
        rollout(lessons.agent, envs, state, storage, generator(), Stopwatch(), lessons=lessons)
    begun = [obs for obs, began in heard if began]
    assert begun[0] == 0.0 and len(heard) == 32
    ends = "...T..L." if mode == AutoresetMode.SAME_STEP else "...T...L."
    filler, expected = False, [0.0]
    for t in range(1, 32):
        end = ends[(t - 1) % len(ends)]
        if mode == AutoresetMode.SAME_STEP:
            expected += [float(t)] if end != "." else []
        elif filler:  # the step after the end, whose observation is the new episode's first
            expected, filler = [*expected, float(t)], False
        else:
            filler = end != "."
    assert begun == expected


def test_the_teacher_drives_at_first_and_hands_over() -> None:
    envs = PointEnv(4)
    lessons, storage, state = lessons_of(envs, lambda obs, began: np.full((4, 1), 0.5))
    shares = []
    for progress in (0.0, 0.15, 0.3, 1.0):
        envs.received.clear()
        lessons.begin(storage, progress)
        rollout(lessons.agent, envs, state, storage, generator(), Stopwatch(), lessons=lessons)
        assert (lessons.answers == 0.5).all()
        driven = np.abs(np.mean(envs.received, axis=0)[:, 0] - 0.5) < 0.1  # a new policy's actions are near 0
        shares.append(driven.mean())
        spread = np.std(envs.received, axis=0)
        assert np.abs(spread - 0.1).max() < 0.04  # whoever drives, the noise is there
    assert shares == [1.0, 0.5, 0.0, 0.0]


def test_what_the_prior_does_need_not_be_learned() -> None:
    prior = FeedbackPrior(torch.tensor([[0.5, 0.0]]), torch.zeros(1, 1), torch.zeros(1, 2), torch.zeros(1))
    agent = Agent(OBS2, BOX1, small_config(), generator(), Structure(prior=prior))
    obs, wanted = torch.tensor([[1.0, 2.0], [-0.4, 0.0]]), torch.tensor([[0.3], [-0.2]])
    assert torch.allclose(agent.stored_action(wanted, obs), torch.tensor([[-0.2], [0.0]]))
    assert torch.allclose(agent.env_action(agent.stored_action(wanted, obs), obs), wanted)


@pytest.mark.parametrize("memory", ["none", "gru"])
@pytest.mark.parametrize("stop", [512, 1024, 1536])
def test_a_run_goes_on_bit_for_bit_in_every_stage(tmp_path: Path, stop: int, memory: str) -> None:
    """Within the imitation, at its end, and when PPO has taken over."""
    changes = {"imitation_timesteps": 1024, "memory": memory, "memory_size": 8, "keep_checkpoints": 9}
    config = settings(total_timesteps=2048, update_epochs=2, **changes)
    train(config, PointEnv, run_dir=tmp_path / "whole", hooks=Hooks(teacher=Counting(4)), console=False)
    resumed = tmp_path / "whole" / "checkpoints" / f"step_{stop}.pt"
    other = Counting(4)
    other.steps[:] = 99  # what it remembers comes from the checkpoint
    train(config, PointEnv, run_dir=tmp_path / "again", resume=resumed, hooks=Hooks(teacher=other), console=False)
    whole, again = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "again"))
    for name, weight in whole["agent"].items():
        assert torch.equal(weight, again["agent"][name]), name


def test_ppo_begins_anew_where_imitation_ends(tmp_path: Path) -> None:
    """With its own learning rate, and an optimiser that knows nothing of other gradients."""
    changes = {"total_timesteps": 1024, "imitation_timesteps": 512, "learning_rate": 1e-5, "checkpoint_interval": 128}
    teach(tmp_path / "r", **changes, lr_schedule="constant", keep_checkpoints=20)
    rates, steps = {}, {}
    for path in (tmp_path / "r" / "checkpoints").glob("step_*.pt"):
        state = load_checkpoint(path)
        rates[state["global_step"]] = state["learning_rate"]
        steps[state["global_step"]] = max([0.0, *(float(s["step"]) for s in state["optimizer"]["state"].values())])
    assert rates[256] == pytest.approx(1e-3 * 0.75) and rates[384] == pytest.approx(1e-3 * 0.5)
    assert rates[512] == rates[640] == rates[1024] == 1e-5
    assert steps[512] == 0 < steps[640] <= 5 * 4 < steps[384]


@pytest.mark.parametrize(
    ("changes", "teacher", "message"),
    [
        ({"imitation_timesteps": 0}, to_the_middle, "say how long the policy imitates it"),
        ({}, None, "needs a teacher whom the policy imitates"),
        ({}, lambda obs, began: np.full((4, 1), np.nan), "not finite"),
        ({}, lambda obs, began: None, "not finite|shape"),
        ({}, lambda obs, began: np.zeros((4, 2)), r"shape \(4, 2\), expected \(4, 1\)"),
    ],
)
def test_what_cannot_be_taught_is_refused(tmp_path: Path, changes: Any, teacher: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(settings(**changes), PointEnv, run_dir=tmp_path / "r", hooks=Hooks(teacher=teacher), console=False)


def test_imitation_is_a_part_of_the_training() -> None:
    with pytest.raises(SettingsError, match="above total_timesteps"):
        settings(imitation_timesteps=5000)
    measuring = {"normalize_observations": True, "num_envs": 4, "num_steps": 64, "minibatch_size": 64}
    with pytest.raises(SettingsError, match="imitation_timesteps = 256 is no more than the first rollout of 256 steps"):
        settings(**measuring, total_timesteps=1024, imitation_timesteps=256)
    settings(**measuring, total_timesteps=1024, imitation_timesteps=257)
    with pytest.raises(SettingsError, match=r"schedule_timesteps = 900 ends before .* learning rate of 0"):
        settings(total_timesteps=2000, imitation_timesteps=960, schedule_timesteps=900)
    settings(total_timesteps=960, imitation_timesteps=960, schedule_timesteps=900)  # nothing follows
