"""What `train` promises around the algorithm: random states, signals, notes, the best policy."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import VectorEnv
from toy import BATCH, TOY, PointEnv, cartpole, curve

from ballbot.errors import SettingsError
from ballbot.ppo import PPOConfig, TrainResult, evaluate, load_checkpoint, train, training
from ballbot.ppo.training import seed_everything

Make = Callable[[int], VectorEnv]


def run(run_dir: Path, make: Make, make_eval: Make, resume: Path | None = None, **changes: Any) -> TrainResult:
    config = PPOConfig(**(TOY | {"total_timesteps": 6 * BATCH, "eval_interval": 2 * BATCH} | changes))
    return train(config, make, make_eval, run_dir=run_dir, resume=resume)


def returns(run_dir: Path) -> list[str]:
    return [row["charts/episodic_return"] for row in curve(run_dir)]


class Returns(PointEnv):
    """Returns something else than a row for each environment."""

    def __init__(self, num_envs: int, place: int, change: Callable[[Any], Any]) -> None:
        super().__init__(num_envs)
        self.place, self.change = place, change

    def step(self, actions: Any) -> Any:
        found = list(super().step(actions))
        found[self.place] = self.change(found[self.place])
        return tuple(found)


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (0, lambda x: x[:1], "observations of 1 environments, expected 4"),
        (1, lambda x: x[:1], r"rewards of shape \(1,\), expected \(4,\)"),
        (1, lambda x: x[:, None], r"rewards of shape \(4, 1\)"),
        (2, lambda x: x[0], r"terminated of shape \(\)"),
        (3, lambda x: x[:2], r"truncated of shape \(2,\)"),
    ],
)
def test_a_step_without_a_row_for_each_environment_is_refused(
    tmp_path: Path, place: int, change: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "r", lambda n: Returns(n, place, change), PointEnv)


class Other(PointEnv):
    """Observes, or takes, another number of numbers."""

    def __init__(self, num_envs: int, observed: int, acts: int) -> None:
        super().__init__(num_envs)
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (observed,), np.float32)
        self.single_action_space = gym.spaces.Box(-1.0, 1.0, (acts,), np.float32)


@pytest.mark.parametrize(("numbers", "message"), [((3, 1), "observations the policy cannot take"), ((2, 2), "actions")])
def test_evaluation_environments_that_do_not_fit_are_refused_before_training(
    tmp_path: Path, numbers: tuple[int, int], message: str
) -> None:
    with pytest.raises(SettingsError, match=f"make_eval_envs returned environments w.*{message}"):
        run(tmp_path / "r", PointEnv, lambda n: Other(n, *numbers))
    assert not (tmp_path / "r" / "last.pt").exists()


class DrawsWhenBuilt(PointEnv):
    """Its dynamics depend on a number that the constructor drew from NumPy's global generator."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.wind = np.random.normal()

    def step(self, actions: Any) -> Any:
        self.x[:, 1] += 0.1 * self.wind
        return super().step(actions)


class DrawsWhenStepped(PointEnv):
    """Draws its noise from NumPy's global generator."""

    def step(self, actions: Any) -> Any:
        self.x[:, 1] += 0.1 * np.random.normal(size=self.num_envs)
        return super().step(actions)


class TestGlobalRandomStates:
    def test_what_constructors_draw_depends_on_the_seed_alone(self, tmp_path: Path) -> None:
        curves = []
        for i in range(2):
            np.random.seed(i)
            run(tmp_path / str(i), DrawsWhenBuilt, PointEnv)
            curves.append(returns(tmp_path / str(i)))
        assert curves[0] == curves[1]
        run(tmp_path / "other", DrawsWhenBuilt, PointEnv, seed=1)
        assert returns(tmp_path / "other") != curves[0]

    def test_what_the_evaluation_draws_when_built_shifts_neither_start_nor_resumption(self, tmp_path: Path) -> None:
        run(tmp_path / "quiet", DrawsWhenStepped, PointEnv)
        run(tmp_path / "noisy", DrawsWhenStepped, DrawsWhenBuilt)
        expected = returns(tmp_path / "quiet")
        assert returns(tmp_path / "noisy") == expected
        shutil.copytree(tmp_path / "noisy", tmp_path / "again")
        step = tmp_path / "again" / "checkpoints" / f"step_{4 * BATCH}.pt"
        run(tmp_path / "again", DrawsWhenStepped, DrawsWhenBuilt, resume=step)
        assert returns(tmp_path / "again") == expected

    def test_determinism_is_switched_on_and_off_again(self) -> None:
        try:
            seed_everything(0, deterministic_cuda=True)
            assert torch.are_deterministic_algorithms_enabled()
            seed_everything(0, deterministic_cuda=False)
            assert not torch.are_deterministic_algorithms_enabled()
        finally:
            torch.use_deterministic_algorithms(False)


class TestNotes:
    def test_environments_without_state_are_mentioned_at_the_start(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(tmp_path / "a", cartpole, cartpole, total_timesteps=2 * BATCH)
        assert "resuming will start new episodes" in capsys.readouterr().out
        run(tmp_path / "b", PointEnv, PointEnv, total_timesteps=2 * BATCH)
        assert "resuming" not in capsys.readouterr().out

    def test_another_number_of_threads_is_mentioned_on_resume(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(tmp_path / "r", PointEnv, PointEnv, total_timesteps=2 * BATCH)
        run(tmp_path / "r", PointEnv, PointEnv, total_timesteps=4 * BATCH, resume=tmp_path / "r")
        assert "threads of PyTorch" not in capsys.readouterr().out
        assert load_checkpoint(tmp_path / "r" / "last.pt")["torch_threads"] == 1
        run(tmp_path / "r", PointEnv, PointEnv, resume=tmp_path / "r", torch_threads=2)
        assert "the run had 1 threads of PyTorch, now there are 2" in capsys.readouterr().out


class Threads(PointEnv):
    """Notes how many threads PyTorch has when it is stepped."""

    seen: ClassVar[set[int]] = set()

    def step(self, actions: Any) -> Any:
        self.seen.add(torch.get_num_threads())
        return super().step(actions)


class Fails(Threads):
    def step(self, actions: Any) -> Any:
        super().step(actions)
        raise RuntimeError("power cut")


class TestThreads:
    @pytest.mark.parametrize(("asked", "used"), [(1, 1), (2, 2), (0, 3)])
    def test_are_as_many_as_asked_for_and_put_back(self, tmp_path: Path, asked: int, used: int) -> None:
        Threads.seen.clear()
        try:
            torch.set_num_threads(3)
            run(tmp_path / "r", Threads, PointEnv, total_timesteps=2 * BATCH, torch_threads=asked)
            assert (Threads.seen, torch.get_num_threads()) == ({used}, 3)
            with pytest.raises(RuntimeError, match="power cut"):
                run(tmp_path / "s", Fails, PointEnv, torch_threads=asked)
            assert torch.get_num_threads() == 3
            with pytest.raises(ValueError, match="returned 1 environments"):
                run(tmp_path / "t", lambda n: PointEnv(1), PointEnv, torch_threads=asked)
            assert torch.get_num_threads() == 3
        finally:
            torch.set_num_threads(1)
        assert json.loads((tmp_path / "r" / "config.json").read_text())["ppo"]["torch_threads"] == used
        assert load_checkpoint(tmp_path / "r" / "last.pt")["torch_threads"] == used


class TestSignals:
    @pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
    @pytest.mark.parametrize(("when", "code"), [(6, None), (3, 143)])
    def test_a_signal_in_the_last_update_finds_the_run_finished(
        self, tmp_path: Path, when: int, code: int | None
    ) -> None:
        class Terminated(PointEnv):
            def step(self, actions: Any) -> Any:
                if len(self.received) == (when - 1) * 16 + 8:
                    os.kill(os.getpid(), signal.SIGTERM)
                return super().step(actions)

        if code is None:
            assert run(tmp_path / "r", Terminated, PointEnv).global_step == 6 * BATCH
        else:
            with pytest.raises(SystemExit) as stop:
                run(tmp_path / "r", Terminated, PointEnv)
            assert stop.value.code == code
        assert load_checkpoint(tmp_path / "r" / "last.pt")["global_step"] == when * BATCH


class TestBest:
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_return_that_is_no_number_is_beaten_by_any_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
    ) -> None:
        returns = iter([bad, -5.0, bad])
        monkeypatch.setattr("ballbot.ppo.training.evaluate", lambda *_, **__: {"return_mean": next(returns)})
        result = run(tmp_path / "r", PointEnv, PointEnv)
        assert result.best_return == -5.0
        assert load_checkpoint(tmp_path / "r" / "best.pt")["global_step"] == 4 * BATCH


class Holds(PointEnv):
    """Says that it holds actions."""

    action_repeat = 3


class TestNoise:
    @pytest.mark.parametrize("share", [1.0, 0.5])
    def test_its_bound_falls_to_the_end_and_on_when_resumed(self, tmp_path: Path, share: float) -> None:
        noise: dict[str, Any] = {"initial_std": 0.5, "final_std": 0.05, "final_std_share": share}
        noise["total_timesteps"] = 8 * BATCH
        run(tmp_path / "r", PointEnv, PointEnv, **noise)
        rows = curve(tmp_path / "r")
        std = [float(row["policy/std"]) for row in rows]
        bounds = [0.5 * 0.1 ** min(k / 8 / share, 1) for k in range(8)]
        assert all(s <= b * 1.0001 for s, b in zip(std[1:], bounds[1:], strict=True))  # the first only measures
        assert std[-1] > 0.9 * bounds[-1]
        shutil.copytree(tmp_path / "r", tmp_path / "again")
        run(tmp_path / "again", PointEnv, PointEnv, tmp_path / "again/checkpoints" / f"step_{4 * BATCH}.pt", **noise)
        assert [float(row["policy/std"]) for row in curve(tmp_path / "again")] == std


class TestSchedules:
    def test_a_schedule_of_its_own_length_is_not_stretched_by_a_longer_run(self, tmp_path: Path) -> None:
        own: dict[str, Any] = {"schedule_timesteps": 4 * BATCH, "learning_rate": 1e-3, "lr_schedule": "linear"}
        run(tmp_path / "r", PointEnv, PointEnv, **own, total_timesteps=2 * BATCH)
        run(tmp_path / "r", PointEnv, PointEnv, tmp_path / "r", **own, total_timesteps=6 * BATCH)
        rates = [float(row["charts/learning_rate"]) for row in curve(tmp_path / "r")]
        np.testing.assert_allclose(rates, [1e-3, 7.5e-4, 5e-4, 2.5e-4, 0, 0], atol=1e-12)


class TestHeldActions:
    def test_steps_count_those_of_the_environment(self, tmp_path: Path) -> None:
        run(tmp_path / "r", Holds, PointEnv, action_repeat=3, total_timesteps=12 * BATCH, eval_interval=6 * BATCH)
        rows = curve(tmp_path / "r")
        assert [int(row["global_step"]) for row in rows] == [3 * BATCH * k for k in range(1, 5)]
        assert [bool(row["eval/return_mean"]) for row in rows] == [False, True, False, True]
        assert float(rows[-1]["charts/episodic_length"]) > 20  # of at most 20 actions

    def test_environments_that_do_not_hold_as_long_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="action_repeat = 2, but the training environments hold an action for 3"):
            run(tmp_path / "r", Holds, PointEnv, action_repeat=2)
        with pytest.raises(ValueError, match="action_repeat = 2, but the training environments hold an action for 1"):
            run(tmp_path / "r", PointEnv, PointEnv, action_repeat=2)


def test_what_makes_no_vector_environment_is_refused_in_words(tmp_path: Path) -> None:
    config = PPOConfig(**TOY)
    with pytest.raises(TypeError, match=r"make_envs is a PointEnv, and must be a function"):
        train(config, PointEnv(4), run_dir=tmp_path / "a")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"returned .*, which is no vector environment: return gym.make_vec"):
        train(config, lambda num_envs: gym.make("CartPole-v1"), run_dir=tmp_path / "b")  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="agent is a str, and must be what load_agent returns"):
        evaluate("runs/pole", PointEnv(4), 4, 0)  # type: ignore[arg-type]


def test_the_first_evaluation_comes_early_and_changes_nothing_that_is_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rare: dict[str, Any] = {"eval_interval": 10**6, "total_timesteps": 5 * BATCH}
    run(tmp_path / "late", PointEnv, PointEnv, **rare)
    monkeypatch.setattr(training, "FIRST_EVALUATION", 2 * BATCH - 1)
    run(tmp_path / "early", PointEnv, PointEnv, **rare)
    rows, others = curve(tmp_path / "early"), curve(tmp_path / "late")
    assert [bool(row["eval/return_mean"]) for row in rows] == [False, True, False, False, True]
    learned = [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in rows]
    assert learned == [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in others]


class Punctual(PointEnv):
    """Episodes of 24 steps, whoever acts."""

    LIMIT = 24

    def step(self, actions: Any) -> Any:
        self.x *= 0
        return super().step(actions)


def test_the_console_shows_no_averages_of_episodes_where_none_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "r", Punctual, PointEnv, total_timesteps=4 * BATCH, eval_interval=10**6)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    cells = {line[0]: line[2] for line in lines if line[0].isdecimal()}
    assert [cells[str(k * BATCH)] == "-" for k in (1, 2, 3, 4)] == [True, False, False, True]  # ends at steps 24 and 48


def test_who_started_by_make_is_told_what_to_type_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BALLBOT_MAKE", raising=False)
    assert training.as_typed("--resume runs/a") == "--resume runs/a"
    monkeypatch.setenv("BALLBOT_MAKE", "1")
    assert training.as_typed("--resume runs/a") == 'make train ARGS="--resume runs/a"'
