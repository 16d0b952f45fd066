"""Checkpoints survive everything, say what is wrong with them, and continue a run to the last bit."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from toy import BATCH, TOY, PointEnv, ScriptedEnv, assert_same_weights, cartpole, curve, run

from ballbot.ppo import CheckpointError, PPOConfig, load_checkpoint, train
from ballbot.ppo.checkpoint import from_plain, prune_checkpoints, save_checkpoint, to_plain
from ballbot.ppo.diagnosis import Diagnosis


class TestPlainTypes:
    def test_round_trip_is_exact(self, tmp_path: Path) -> None:
        state: dict[Any, Any] = {
            "ints": [np.arange(5, dtype=t) for t in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")],
            "floats": tuple(np.array([0.1, -0.0, np.inf, np.nan], dtype=t) for t in ("f2", "f4", "f8")),
            "bool": np.array([[True], [False]]),
            "big": np.array([2**64 - 1], np.uint64),
            "huge": 2**127 + 1,  # the state of NumPy's PCG64 has 128 bits
            "zero_d": np.array(3.5),
            "scalar": np.float32(0.1),
            "empty": np.zeros((0, 3)),
            "swapped": np.array([1, 2], ">i4"),
            "strided": np.arange(10)[::2],
            "none": None,
            1: "text",
        }
        path = tmp_path / "x.pt"
        save_checkpoint([path], {"state": state})
        back = load_checkpoint(path)["state"]
        assert list(back) == list(state)
        assert type(back["floats"]) is tuple
        assert (back["huge"], back["none"], back[1]) == (state["huge"], None, "text")
        assert isinstance(back["scalar"], np.float32)
        pairs = [
            *zip(state["ints"], back["ints"], strict=True),
            *zip(state["floats"], back["floats"], strict=True),
        ]
        pairs += [(state[k], back[k]) for k in ("bool", "big", "zero_d", "scalar", "empty", "strided")]
        for before, after in pairs:
            assert before.dtype == after.dtype
            assert before.shape == after.shape
            assert before.tobytes() == after.tobytes()
        np.testing.assert_array_equal(back["swapped"], [1, 2])

    @pytest.mark.parametrize(
        "value", [np.array([[3, 2**16 - 1]], np.uint16), np.array(7, np.uint32), np.uint64(2**64 - 1)]
    )
    def test_unsigned_numbers_need_no_unsigned_tensors(self, value: Any) -> None:
        """Which PyTorch 2.4 cannot save."""
        (stored, _), back = to_plain(value).values(), from_plain(to_plain(value))
        assert not str(stored.dtype).startswith("torch.u")
        assert type(back) is type(value) and back.dtype == value.dtype
        np.testing.assert_array_equal(back, value, strict=True)

    def test_later_changes_do_not_reach_the_stored_state(self) -> None:
        array = np.zeros(2)
        stored = to_plain([array])
        array += 1
        assert from_plain(stored)[0].tolist() == [0, 0]

    @pytest.mark.parametrize("value", [np.array(["a"]), np.array([None]), {1, 2}, object()])
    def test_anything_else_is_refused(self, value: Any) -> None:
        with pytest.raises(TypeError, match="cannot store"):
            to_plain(value)


class TestResume:
    @pytest.mark.parametrize("updates", [2, 4, 6, 8])
    def test_continues_to_the_last_bit(self, finished: Path, tmp_path: Path, updates: int) -> None:
        part = tmp_path / "part"
        shutil.copytree(finished, part)
        run(part, resume=part / "checkpoints" / f"step_{updates * BATCH}.pt")
        assert curve(part) == curve(finished)
        assert_same_weights(part / "last.pt", finished / "last.pt")

    @pytest.mark.parametrize("per_step", [False, True])
    def test_continues_with_scaled_rewards_and_adaptive_rate(self, tmp_path: Path, per_step: bool) -> None:
        changes: dict[str, Any] = {"normalize_rewards": True, "lr_schedule": "adaptive", "activation": "tanh"}
        changes |= {"normalize_observations_per_step": per_step, "normalize_advantage_per_minibatch": per_step}
        run(tmp_path / "a", **changes)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        run(tmp_path / "b", resume=tmp_path / "b" / "checkpoints" / f"step_{4 * BATCH}.pt", **changes)
        assert curve(tmp_path / "a") == curve(tmp_path / "b")
        assert_same_weights(tmp_path / "a" / "last.pt", tmp_path / "b" / "last.pt")
        learned = [row["losses/value_loss"] != "" for row in curve(tmp_path / "a")]
        assert learned == [per_step, *[True] * 9]  # statistics per rollout need one rollout to begin with
        assert load_checkpoint(tmp_path / "a" / "last.pt")["agent"]["normalizer.count"] == 10 * BATCH

    def test_continues_where_a_filler_row_is_due(self, tmp_path: Path) -> None:
        """Each rollout ends with an episode, so the first row of the next is a filler, and must stay one."""

        def make(num_envs: int) -> VectorEnv:
            return ScriptedEnv("." * 15 + "L", AutoresetMode.NEXT_STEP)

        config = PPOConfig(**(TOY | {"num_envs": 1, "minibatch_size": 8, "total_timesteps": 6 * 16}))
        config.checkpoint_interval = 2 * 16
        train(config, make, run_dir=tmp_path / "a", console=False)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        resume = tmp_path / "b" / "checkpoints" / "step_32.pt"
        train(config, make, run_dir=tmp_path / "b", resume=resume, console=False)
        assert curve(tmp_path / "a") == curve(tmp_path / "b")
        assert_same_weights(tmp_path / "a" / "last.pt", tmp_path / "b" / "last.pt")
        # observation t is t, but that of a filler row, which the statistics leave out
        real = torch.tensor([t for t in range(96) if t % 16 or t == 0]).double()
        agent = load_checkpoint(tmp_path / "a" / "last.pt")["agent"]
        assert agent["normalizer.count"] == len(real) == 91
        torch.testing.assert_close(agent["normalizer.mean"], real.mean().view(1))
        torch.testing.assert_close(agent["normalizer.var"], real.var(correction=0).view(1))

    def test_same_seed_same_bits_other_seed_other_bits(self, finished: Path, tmp_path: Path) -> None:
        run(tmp_path / "same")
        assert curve(tmp_path / "same") == curve(finished)
        run(tmp_path / "other", seed=1)
        assert curve(tmp_path / "other") != curve(finished)

    def test_a_run_directory_stands_for_its_last_checkpoint(self, finished: Path, tmp_path: Path) -> None:
        shutil.copytree(finished, tmp_path / "r")
        result = run(tmp_path / "r", resume=tmp_path / "r", total_timesteps=12 * BATCH)
        assert result.global_step == 12 * BATCH
        assert [int(row["global_step"]) for row in curve(tmp_path / "r")] == [BATCH * i for i in range(1, 13)]

    def test_the_hints_of_a_resumed_run_know_its_rows(
        self, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known: list[list[dict[str, float]]] = []

        class Listens(Diagnosis):
            def __init__(self, config: PPOConfig, earlier: Iterable[dict[str, float]], shaped_rewards: bool) -> None:
                known.append(list(earlier))
                super().__init__(config, earlier, shaped_rewards)

        monkeypatch.setattr("ballbot.ppo.training.Diagnosis", Listens)
        shutil.copytree(finished, tmp_path / "r")
        run(tmp_path / "r", resume=tmp_path / "r" / "checkpoints" / f"step_{4 * BATCH}.pt")
        assert [row["global_step"] for row in known[0]] == [BATCH * i for i in range(1, 5)]
        assert known[0][3]["policy/std"] == float(curve(finished)[3]["policy/std"])
        run(tmp_path / "fork", resume=finished / "checkpoints" / f"step_{6 * BATCH}.pt")
        assert known[1] == []

    def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
        self, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(finished, tmp_path / "r")
        for name in ("last.pt", f"checkpoints/step_{10 * BATCH}.pt"):
            data = (tmp_path / "r" / name).read_bytes()
            (tmp_path / "r" / name).write_bytes(data[: len(data) // 2])
        run(tmp_path / "r", resume=tmp_path / "r")
        printed = capsys.readouterr().out
        assert "warning" in printed
        assert f"step_{8 * BATCH}.pt" in printed
        assert_same_weights(tmp_path / "r" / "last.pt", finished / "last.pt")

    def test_a_checkpoint_from_elsewhere_starts_a_new_run(self, finished: Path, tmp_path: Path) -> None:
        run(tmp_path / "fork", resume=finished / "checkpoints" / f"step_{6 * BATCH}.pt")
        assert [int(row["global_step"]) for row in curve(tmp_path / "fork")] == [BATCH * i for i in range(7, 11)]
        assert_same_weights(tmp_path / "fork" / "last.pt", finished / "last.pt")
        assert (tmp_path / "fork" / "best.pt").exists()

    def test_environments_without_state_start_new_episodes(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(tmp_path / "r", cartpole, total_timesteps=4 * BATCH)
        run(tmp_path / "r", cartpole, total_timesteps=8 * BATCH, resume=tmp_path / "r")
        assert "cannot restore their state" in capsys.readouterr().out
        assert len(curve(tmp_path / "r")) == 8

    def test_metadata_that_is_none_is_as_if_not_there(self, finished: Path, tmp_path: Path) -> None:
        shutil.copytree(finished, tmp_path / "r")
        start = tmp_path / "r" / "checkpoints" / f"step_{4 * BATCH}.pt"
        run(tmp_path / "r", resume=start, env_metadata={"layout": "v1", "eyes": None})
        assert curve(tmp_path / "r") == curve(finished)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"hidden_size": 16}, r"hidden_size \(then 8, now 16\)"),
            ({"gamma": 0.9}, "gamma"),
            (
                {"env_metadata": {"layout": "v1", "eyes": 2}},
                r"settings: env_metadata eyes \(then None, now 2\)\. Resume",
            ),
            ({"make": cartpole}, "spaces"),
        ],
    )
    def test_other_settings_are_refused_and_nothing_is_written(
        self, finished: Path, changes: dict[str, Any], words: str
    ) -> None:
        before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
        with pytest.raises(CheckpointError, match=words):
            run(finished, resume=finished, **changes)
        assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class TestRewind:
    """Going back in a run loses nothing and mixes nothing."""

    def test_what_the_abandoned_branch_saved_is_kept_aside(self, finished: Path, tmp_path: Path) -> None:
        r = tmp_path / "r"
        shutil.copytree(finished, r)
        later = {
            p.name: p.read_bytes() for p in (r / "checkpoints").iterdir() if p.name[:6] not in ("step_1", "step_2")
        }
        later |= {"best.pt": (r / "best.pt").read_bytes(), "progress.csv": (r / "progress.csv").read_bytes()}
        assert load_checkpoint(r / "best.pt")["global_step"] > 4 * BATCH
        run(r, resume=r / "checkpoints" / f"step_{4 * BATCH}.pt", total_timesteps=5 * BATCH)
        assert names(r / "checkpoints") == {f"step_{BATCH * i}.pt" for i in (2, 4, 5)} | {"abandoned"}
        aside = r / "checkpoints" / "abandoned"
        assert {p.name: p.read_bytes() for p in aside.iterdir()} == later
        # best.pt and the best return are those of the new branch
        best, last = load_checkpoint(r / "best.pt"), load_checkpoint(r / "last.pt")
        assert best["global_step"] == last["global_step"] == 5 * BATCH
        assert last["best_return"] == float(curve(r)[-1]["eval/return_mean"])

    def test_twice_keeps_both(self, finished: Path, tmp_path: Path) -> None:
        r = tmp_path / "r"
        shutil.copytree(finished, r)
        for _ in range(2):
            run(r, resume=r / "checkpoints" / f"step_{8 * BATCH}.pt")
        expected = {f"step_{10 * BATCH}.pt", f"step_{10 * BATCH}-2.pt", "progress.csv", "progress-2.csv"}
        assert expected <= names(r / "checkpoints" / "abandoned")

    def test_new_checkpoints_are_not_pruned_for_old_ones(self, finished: Path, tmp_path: Path) -> None:
        r = tmp_path / "r"
        shutil.copytree(finished, r)
        start = r / "checkpoints" / f"step_{2 * BATCH}.pt"
        run(r, resume=start, total_timesteps=5 * BATCH, keep_checkpoints=2)
        assert names(r / "checkpoints") == {f"step_{BATCH * i}.pt" for i in (4, 5)} | {"abandoned"}

    def test_a_crash_before_the_first_save_leaves_the_branch_that_was_chosen(
        self, finished: Path, tmp_path: Path
    ) -> None:
        class Fails(PointEnv):
            def step(self, actions: Any) -> Any:
                raise RuntimeError("power cut")

        r = tmp_path / "r"
        shutil.copytree(finished, r)
        start = r / "checkpoints" / f"step_{4 * BATCH}.pt"
        with pytest.raises(RuntimeError, match="power cut"):
            run(r, Fails, resume=start)
        assert (r / "last.pt").read_bytes() == start.read_bytes()

    def test_a_crash_repeats_one_update(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Fails(PointEnv):
            steps = 0

            def step(self, actions: Any) -> Any:
                Fails.steps += 1
                if Fails.steps == 5 * BATCH // self.num_envs:
                    raise RuntimeError("power cut")
                return super().step(actions)

        monkeypatch.setattr("ballbot.ppo.training.SAVING_SHARE", 1e9)
        rare: dict[str, Any] = {"checkpoint_interval": 3 * BATCH, "total_timesteps": 8 * BATCH, "eval_interval": 10**6}
        run(tmp_path / "whole", **rare)
        with pytest.raises(RuntimeError, match="power cut"):
            run(tmp_path / "r", Fails, **rare)
        assert load_checkpoint(tmp_path / "r" / "last.pt")["global_step"] == 4 * BATCH
        run(tmp_path / "r", resume=tmp_path / "r", **rare)
        assert_same_weights(tmp_path / "r" / "last.pt", tmp_path / "whole" / "last.pt")
        assert names(tmp_path / "r" / "checkpoints") == {f"step_{BATCH * i}.pt" for i in (3, 6, 8)}
        monkeypatch.setattr("ballbot.ppo.training.SAVING_SHARE", -1)
        Fails.steps = 0
        with pytest.raises(RuntimeError, match="power cut"):  # where it would cost too much
            run(tmp_path / "s", Fails, **rare)
        assert load_checkpoint(tmp_path / "s" / "last.pt")["global_step"] == 3 * BATCH

    def test_a_last_checkpoint_without_twin_is_kept(self, finished: Path, tmp_path: Path) -> None:
        r = tmp_path / "r"
        shutil.copytree(finished, r)
        before = (r / "last.pt").read_bytes()
        (r / "checkpoints" / f"step_{10 * BATCH}.pt").unlink()
        run(r, resume=r / "checkpoints" / f"step_{4 * BATCH}.pt")
        assert (r / "checkpoints" / "abandoned" / "last.pt").read_bytes() == before

    def test_going_on_from_the_end_moves_nothing(self, finished: Path, tmp_path: Path) -> None:
        r = tmp_path / "r"
        shutil.copytree(finished, r)
        run(r, resume=r, total_timesteps=11 * BATCH)
        assert not (r / "checkpoints" / "abandoned").exists()

    def test_what_was_given_up_is_not_mixed_with_what_came_of_it(self, finished: Path, tmp_path: Path) -> None:
        r = tmp_path / "r"
        shutil.copytree(finished, r)
        run(r, resume=r / "checkpoints" / f"step_{4 * BATCH}.pt", total_timesteps=9 * BATCH)
        before = {path: path.read_bytes() for path in r.rglob("*") if path.is_file()}
        aside = r / "checkpoints" / "abandoned" / f"step_{10 * BATCH}.pt"
        with pytest.raises(CheckpointError, match="is of a branch that the run"):
            run(r, resume=aside, total_timesteps=11 * BATCH)
        assert {path: path.read_bytes() for path in r.rglob("*") if path.is_file()} == before
        run(tmp_path / "own", resume=aside, total_timesteps=11 * BATCH)  # in a folder of its own
        assert [int(row["global_step"]) for row in curve(tmp_path / "own")] == [11 * BATCH]

    @pytest.mark.parametrize("change", [{"eval_seed": 77}, {"eval_episodes": 5}])
    def test_the_best_of_another_evaluation_is_no_measure(
        self, finished: Path, tmp_path: Path, change: dict[str, Any]
    ) -> None:
        r = tmp_path / "r"
        shutil.copytree(finished, r)
        before = (r / "best.pt").read_bytes()
        run(r, resume=r, total_timesteps=12 * BATCH, **change)
        assert (r / "checkpoints" / "abandoned" / "best.pt").read_bytes() == before
        new = [float(row["eval/return_mean"]) for row in curve(r)[10:] if row["eval/return_mean"]]
        assert load_checkpoint(r / "last.pt")["best_return"] == max(new)
        assert load_checkpoint(r / "best.pt")["global_step"] > 10 * BATCH

    @pytest.mark.parametrize("change", [{}, {"eval_episodes": 5}, {"learning_rate": 1e-5}])
    def test_nothing_changes_where_nothing_is_left_to_learn(
        self, finished: Path, tmp_path: Path, change: dict[str, Any]
    ) -> None:
        r = tmp_path / "r"
        shutil.copytree(finished, r)
        before = {path: path.read_bytes() for path in r.rglob("*") if path.is_file()}
        result = run(r, resume=r, **change)
        assert {path: path.read_bytes() for path in r.rglob("*") if path.is_file()} == before
        assert result.best_return == load_checkpoint(r / "last.pt")["best_return"]

    def test_checkpoints_that_a_kill_kept_from_being_deleted_go(self, finished: Path, tmp_path: Path) -> None:
        r = tmp_path / "r"
        shutil.copytree(finished, r)  # as killed in its last update: nothing is left to be learned, or saved
        run(r, resume=r, keep_checkpoints=2)
        assert names(r / "checkpoints") == {f"step_{BATCH * i}.pt" for i in (8, 10)}

    def test_a_total_that_is_behind_is_refused_and_one_that_is_reached_is_told(
        self, finished: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(CheckpointError, match="after 640 steps, but total_timesteps = 200; give more"):
            run(finished, resume=finished, total_timesteps=200)
        shutil.copytree(finished, tmp_path / "r")
        assert run(tmp_path / "r", resume=tmp_path / "r").global_step == 640

    def test_the_file_just_written_is_never_pruned(self, tmp_path: Path) -> None:
        for step in (1, 2, 3, 40, 50):
            (tmp_path / f"step_{step}.pt").touch()
        prune_checkpoints(tmp_path, 2, tmp_path / "step_3.pt")
        assert names(tmp_path) == {"step_3.pt", "step_50.pt"}
        prune_checkpoints(tmp_path, 1, tmp_path / "step_3.pt")
        assert names(tmp_path) == {"step_3.pt"}
