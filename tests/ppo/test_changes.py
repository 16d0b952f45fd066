"""A run goes on with other settings where that makes sense, and says what is no longer as it would have been."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy import BATCH, TOY, PointEnv, assert_same_weights, curve, run

from ballbot.ppo import CheckpointError, Hooks, PPOConfig, load_checkpoint, train
from ballbot.ppo.checkpoint import save_checkpoint
from ballbot.ppo.state import TrainingState, training_seed


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A run of four updates."""
    run(tmp_path / "r", total_timesteps=4 * BATCH, schedule_timesteps=8 * BATCH)
    return tmp_path / "r"


def go_on(half: Path, make: Any = PointEnv, **changes: Any) -> Any:
    changes = {"total_timesteps": 8 * BATCH, "schedule_timesteps": 8 * BATCH} | changes
    return run(half, make, resume=half, **changes)


def notes(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]


class TestNumberOfEnvironments:
    @pytest.mark.parametrize("scaled", [False, True])
    def test_the_curve_goes_on(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], scaled: bool) -> None:
        r = tmp_path / "r"
        run(r, total_timesteps=4 * BATCH, normalize_rewards=scaled)
        before, held = curve(r), load_checkpoint(r / "last.pt")["ranks"][0]
        capsys.readouterr()
        run(r, resume=r, total_timesteps=8 * BATCH, num_envs=8, normalize_rewards=scaled)
        (note,) = notes(capsys)
        assert note == (
            "note: num_envs is 8, was 4: new episodes start in all environments, and the run no longer repeats bit for "
            "bit"
        )
        rows = curve(r)
        assert rows[:4] == before
        assert [int(row["global_step"]) for row in rows[4:]] == [6 * BATCH, 8 * BATCH]
        state = load_checkpoint(r / "last.pt")
        assert state["ranks"][0]["episodes"]["returns"].shape == (8,)
        assert state["agent"]["normalizer.count"] == 8 * BATCH
        known = held["episodes"]["recent"]
        assert known and state["ranks"][0]["episodes"]["recent"][: len(known)] == known
        if scaled:
            assert state["ranks"][0]["reward_scaler"]["statistics.count"] == 8 * BATCH

    def test_from_then_on_it_is_exact_again(self, half: Path, tmp_path: Path) -> None:
        go_on(half, num_envs=2, total_timesteps=6 * BATCH)
        shutil.copytree(half, tmp_path / "again")
        options: dict[str, Any] = {"num_envs": 2, "total_timesteps": 8 * BATCH}
        go_on(half, **options)
        middle = tmp_path / "again" / "checkpoints" / f"step_{6 * BATCH}.pt"
        run(tmp_path / "again", resume=middle, schedule_timesteps=8 * BATCH, **options)
        assert_same_weights(half / "last.pt", tmp_path / "again" / "last.pt")
        assert curve(half) == curve(tmp_path / "again")

    def test_nothing_is_remembered_of_earlier_episodes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither by the networks nor by a teacher, who is told that all episodes begin."""
        heard: list[np.ndarray] = []
        memories: list[torch.Tensor | None] = []
        restore = TrainingState.restore

        def teacher(obs: Any, began: np.ndarray) -> Any:
            heard.append(began.copy())
            return -0.5 * obs[:, :1]

        def watched(state: TrainingState, *args: Any) -> None:
            restore(state, *args)
            memories.append(state.env_state.memory)
            heard.clear()

        monkeypatch.setattr(TrainingState, "restore", watched)
        steps = {"total_timesteps": 8 * BATCH, "imitation_timesteps": 6 * BATCH}
        fixed: dict[str, Any] = {"memory": "gru", "memory_size": 8, **steps}

        def learn(run_dir: Path, resume: Path | None = None, **changes: Any) -> Any:
            config, hooks = PPOConfig(**(TOY | fixed | changes)), Hooks(teacher=teacher)
            train(config, PointEnv, run_dir=run_dir, resume=resume, hooks=hooks, console=False)
            return load_checkpoint(run_dir / "last.pt")["ranks"][0]["memory"]

        assert learn(tmp_path / "r").shape == (4, 2, 8)
        middle = tmp_path / "r" / "checkpoints" / f"step_{2 * BATCH}.pt"
        learn(tmp_path / "same", middle)
        assert memories[0] is not None and memories[0].abs().max() > 0 and not heard[0].all()
        assert learn(tmp_path / "more", middle, num_envs=8).shape == (8, 2, 8)
        assert memories[1] is None and len(heard) == 2 * 16  # two rollouts of imitation are left
        assert heard[0].tolist() == [True] * 8 and not heard[1].all()

    def test_other_steps_and_minibatches_go_on_within_episodes(
        self, half: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        seeds: list[Any] = []

        class Counts(PointEnv):
            def reset(self, **kwargs: Any) -> Any:
                seeds.append(kwargs["seed"])
                return super().reset(**kwargs)

        capsys.readouterr()
        go_on(half, Counts, num_steps=32, minibatch_size=64)
        said = [line.split(":")[1].strip() for line in notes(capsys)]
        assert said == ["num_steps is 32, was 16", "minibatch_size is 64, was 32"]
        assert training_seed(PPOConfig(**TOY), 4 * BATCH) not in seeds and training_seed(PPOConfig(**TOY), 0) in seeds
        assert [int(row["global_step"]) for row in curve(half)[4:]] == [6 * BATCH, 8 * BATCH]


class TestLearningRate:
    def test_is_the_new_one_by_the_schedule(self, half: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = [float(row["charts/learning_rate"]) for row in curve(half)]
        capsys.readouterr()
        go_on(half, learning_rate=1e-3)
        assert notes(capsys) == [
            "note: learning_rate is 0.001, was 0.0003: from here on it is not what it would have been"
        ]
        rates = [float(row["charts/learning_rate"]) for row in curve(half)]
        assert rates[:4] == before
        np.testing.assert_allclose(rates[4:], [1e-3 * (1 - k / 8) for k in range(4, 8)])

    def test_an_adaptive_one_starts_where_it_is_told(self, half: Path) -> None:
        go_on(half, lr_schedule="adaptive", learning_rate=5e-4, target_kl=0.01)
        assert float(curve(half)[4]["charts/learning_rate"]) == 5e-4

    def test_an_adaptive_one_that_is_not_changed_goes_on(self, tmp_path: Path) -> None:
        adaptive: dict[str, Any] = {"lr_schedule": "adaptive", "target_kl": 1e-4}
        run(tmp_path / "r", total_timesteps=4 * BATCH, **adaptive)
        reached = load_checkpoint(tmp_path / "r" / "last.pt")["learning_rate"]
        assert reached != 3e-4
        run(tmp_path / "r", resume=tmp_path / "r", total_timesteps=8 * BATCH, min_learning_rate=1e-6, **adaptive)
        assert float(curve(tmp_path / "r")[4]["charts/learning_rate"]) == reached


def on_gpu(path: Path) -> None:
    """Make of a checkpoint one that was written on a GPU: its generators have another state."""
    state = load_checkpoint(path)
    state["config"]["device"] = "cuda"
    state["ranks"][0] |= {"generator": torch.zeros(16, dtype=torch.uint8), "cuda": torch.zeros(16, dtype=torch.uint8)}
    save_checkpoint([path], state)


class TestDevice:
    def test_a_run_of_a_gpu_goes_on_on_a_cpu(self, half: Path, capsys: pytest.CaptureFixture[str]) -> None:
        on_gpu(half / "last.pt")
        capsys.readouterr()
        go_on(half)
        assert notes(capsys) == [
            "note: device is cpu, was cuda: exploration draws other numbers, and the run no longer repeats bit for bit"
        ]
        assert len(curve(half)) == 8
        capsys.readouterr()
        go_on(half, total_timesteps=9 * BATCH)
        assert not notes(capsys)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_without_one_the_advice_works(self, half: Path) -> None:
        with pytest.raises(ValueError, match='use device = "cpu"'):
            go_on(half, device="cuda")

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_there_and_back(self, half: Path, capsys: pytest.CaptureFixture[str]) -> None:
        capsys.readouterr()
        go_on(half, device="cuda", total_timesteps=6 * BATCH)
        assert ["device is cuda, was cpu" in line for line in notes(capsys)] == [True]
        go_on(half, device="cuda:0", total_timesteps=7 * BATCH)
        assert not notes(capsys)
        go_on(half)
        assert ["device is cpu, was cuda:0" in line for line in notes(capsys)] == [True]
        assert len(curve(half)) == 8


@pytest.mark.parametrize("changes", [{"gamma": 0.9}, {"hidden_size": 16}, {"activation": "tanh"}, {"clip_range": 0.1}])
def test_what_is_learned_stays_and_the_way_out_is_named(half: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=rf"{next(iter(changes))} .*--init-from, in Python init_from="):
        go_on(half, **changes)


def test_an_unchanged_run_says_nothing(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    go_on(half)
    assert not notes(capsys)
