"""Checkpoints survive everything, say what is wrong with them, and continue a run to the last bit."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from toy import PointEnv, ScriptedEnv, cartpole

from ballbot.ppo import (
    CheckpointError,
    PPOConfig,
    RunDirectoryError,
    TrainResult,
    evaluate,
    load_agent,
    load_checkpoint,
    train,
)
from ballbot.ppo.checkpoint import (
    find_checkpoint,
    from_plain,
    prune_checkpoints,
    save_checkpoint,
    to_plain,
    write_atomic,
)
from ballbot.ppo.interrupt import StopSignal
from ballbot.ppo.logger import git_commit, lock_run_dir

BATCH = 4 * 16
SETTINGS: dict[str, Any] = {
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
    metadata = changes.pop("env_metadata", {"layout": "v1"})
    config = PPOConfig(**(SETTINGS | changes))
    return train(config, make, make, run_dir=run_dir, resume=resume, env_metadata=metadata, console=False)


def curve(run_dir: Path) -> list[dict[str, str]]:
    """All of progress.csv but the columns that depend on the clock."""
    with open(run_dir / "progress.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.startswith("time/") and k != "charts/SPS"} for row in rows]


def assert_same_weights(one: Path, two: Path) -> None:
    a, b = load_checkpoint(one), load_checkpoint(two)
    for networks in ("agent", "policy"):
        assert a[networks].keys() == b[networks].keys()
        for key in a[networks]:
            assert torch.equal(a[networks][key], b[networks][key]), (networks, key)
    for i in a["optimizer"]["state"]:
        for key, value in a["optimizer"]["state"][i].items():
            assert torch.equal(value, b["optimizer"]["state"][i][key]), (i, key)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    run(run_dir)
    return run_dir


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

    def test_continues_with_scaled_rewards_and_adaptive_rate(self, tmp_path: Path) -> None:
        changes: dict[str, Any] = {"normalize_rewards": True, "lr_schedule": "adaptive", "activation": "tanh"}
        run(tmp_path / "a", **changes)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        run(tmp_path / "b", resume=tmp_path / "b" / "checkpoints" / f"step_{4 * BATCH}.pt", **changes)
        assert curve(tmp_path / "a") == curve(tmp_path / "b")
        assert_same_weights(tmp_path / "a" / "last.pt", tmp_path / "b" / "last.pt")

    def test_continues_where_a_filler_row_is_due(self, tmp_path: Path) -> None:
        """Each rollout ends with an episode, so the first row of the next is a filler, and must stay one."""

        def make(num_envs: int) -> VectorEnv:
            return ScriptedEnv("." * 15 + "L", AutoresetMode.NEXT_STEP)

        config = PPOConfig(**(SETTINGS | {"num_envs": 1, "minibatch_size": 8, "total_timesteps": 6 * 16}))
        config.checkpoint_interval = 2 * 16
        train(config, make, run_dir=tmp_path / "a", console=False)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        resume = tmp_path / "b" / "checkpoints" / "step_32.pt"
        train(config, make, run_dir=tmp_path / "b", resume=resume, console=False)
        assert curve(tmp_path / "a") == curve(tmp_path / "b")
        assert_same_weights(tmp_path / "a" / "last.pt", tmp_path / "b" / "last.pt")

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

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"hidden_size": 16}, r"hidden_size \(then 8, now 16\)"),
            ({"gamma": 0.9}, "gamma"),
            ({"env_metadata": {"layout": "v2"}}, "env_metadata"),
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

    def test_the_file_just_written_is_never_pruned(self, tmp_path: Path) -> None:
        for step in (1, 2, 3, 40, 50):
            (tmp_path / f"step_{step}.pt").touch()
        prune_checkpoints(tmp_path, 2, tmp_path / "step_3.pt")
        assert names(tmp_path) == {"step_3.pt", "step_50.pt"}
        prune_checkpoints(tmp_path, 1, tmp_path / "step_3.pt")
        assert names(tmp_path) == {"step_3.pt"}


class TestBadFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="does not exist"):
            load_checkpoint(tmp_path / "no.pt")
        with pytest.raises(CheckpointError, match="holds no checkpoint"):
            run(tmp_path / "r", resume=tmp_path)
        assert not (tmp_path / "r").exists()

    @pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
    def test_truncated(self, finished: Path, tmp_path: Path, keep: float) -> None:
        data = (finished / "last.pt").read_bytes()
        size = int(keep * len(data)) if isinstance(keep, float) else keep
        (tmp_path / "cut.pt").write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=r"cut\.pt is damaged"):
            load_checkpoint(tmp_path / "cut.pt")

    def test_a_flipped_bit_never_changes_what_is_read(self, finished: Path, tmp_path: Path) -> None:
        data = (finished / "last.pt").read_bytes()
        whole = repr(load_checkpoint(finished / "last.pt"))
        refused = 0
        for position in np.random.default_rng(0).integers(len(data), size=60):
            damaged = bytearray(data)
            damaged[position] ^= 16
            (tmp_path / "flipped.pt").write_bytes(damaged)
            try:
                assert repr(load_checkpoint(tmp_path / "flipped.pt")) == whole  # between the parts of the file
            except CheckpointError:
                refused += 1
        assert refused > 30

    def test_code_in_a_file_is_not_run(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return os.system, (f"touch {tmp_path}/ran",)

        torch.save({"format_version": 1, "x": Evil()}, tmp_path / "evil.pt")
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path / "evil.pt")
        assert not (tmp_path / "ran").exists()

    def test_foreign_and_future_files(self, tmp_path: Path) -> None:
        torch.save({"weights": torch.zeros(1)}, tmp_path / "foreign.pt")
        with pytest.raises(CheckpointError, match="format_version"):
            load_checkpoint(tmp_path / "foreign.pt")
        torch.save({"format_version": 99}, tmp_path / "future.pt")
        with pytest.raises(CheckpointError, match="version 99"):
            load_checkpoint(tmp_path / "future.pt")

    def test_other_weights_than_the_settings_describe(self, finished: Path, tmp_path: Path) -> None:
        state = load_checkpoint(finished / "best.pt")
        state["config"]["num_layers"] = 2
        save_checkpoint([tmp_path / "wrong.pt"], state)
        with pytest.raises(CheckpointError, match=r"wrong\.pt does not hold the networks"):
            load_agent(tmp_path / "wrong.pt")

    def test_a_policy_is_no_training_state(self, finished: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="policy only"):
            run(tmp_path / "r", resume=finished / "best.pt")

    @pytest.mark.parametrize("write", [3, 4])  # the two files of the second checkpoint
    def test_the_newest_state_is_found_wherever_the_writing_stops(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int
    ) -> None:
        writes = 0

        def fail_once(path: Path, data: bytes) -> None:
            nonlocal writes
            writes += path.suffix == ".pt"
            if writes == write:
                raise OSError(28, "No space left on device")
            write_atomic(path, data)

        monkeypatch.setattr("ballbot.ppo.checkpoint.write_atomic", fail_once)
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path / "r", eval_interval=10**6)
        readable = [load_checkpoint(path)["global_step"] for path in (tmp_path / "r").rglob("*.pt")]
        assert find_checkpoint(tmp_path / "r")[1]["global_step"] == max(readable)

    def test_a_failed_write_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_atomic(tmp_path / "x", b"old")

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_atomic(tmp_path / "x", b"new")
        assert (tmp_path / "x").read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["x"]

    def test_directories_are_only_synced_where_they_can_be_opened(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> None:
            raise PermissionError(13, "Permission denied")  # what Windows says to os.open(directory)

        monkeypatch.setattr("ballbot.ppo.checkpoint.POSIX", False)
        monkeypatch.setattr(os, "open", refuse)
        write_atomic(tmp_path / "x", b"new")
        assert (tmp_path / "x").read_bytes() == b"new"


class TestRunDirectory:
    def test_holds_what_it_should(self, finished: Path) -> None:
        names = {p.name for p in finished.iterdir()}
        assert {"config.json", "progress.csv", "checkpoints", "last.pt", "best.pt"} <= names
        assert any(name.startswith("events.out.tfevents") for name in names)
        content = json.loads((finished / "config.json").read_text())
        assert content["ppo"]["hidden_size"] == 8
        assert content["env_metadata"] == {"layout": "v1"}
        assert {"torch", "numpy", "gymnasium", "python"} <= content["versions"].keys()
        first, *_, last = curve(finished)
        assert float(first["losses/value_loss"]) > 0
        assert float(last["reward/position"]) < 0
        assert last["eval/return_mean"] != ""
        assert float(last["charts/diverged"]) == 0

    def test_tensorboard_has_the_usual_tags(self, finished: Path) -> None:
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        events = accumulator.EventAccumulator(str(finished)).Reload()
        tags = set(events.Tags()["scalars"])
        assert {
            "charts/episodic_return",
            "charts/SPS",
            "losses/approx_kl",
            "losses/explained_variance",
        } <= tags
        assert [e.step for e in events.Scalars("charts/learning_rate")] == [BATCH * i for i in range(1, 11)]

    def test_best_is_the_best_evaluation(self, finished: Path) -> None:
        returns = {
            int(r["global_step"]): float(r["eval/return_mean"]) for r in curve(finished) if r["eval/return_mean"]
        }
        best = load_checkpoint(finished / "best.pt")
        assert returns[best["global_step"]] == max(returns.values())
        assert PPOConfig().policy_average is not None, "else the next lines say nothing about the average"
        again = evaluate(load_agent(finished / "best.pt"), PointEnv(2), 2, PPOConfig().eval_seed)
        assert again["return_mean"] == max(returns.values())
        assert (finished / "best.pt").stat().st_size < (finished / "last.pt").stat().st_size

    def test_two_runs_do_not_mix(self, finished: Path, tmp_path: Path) -> None:
        with pytest.raises(RunDirectoryError, match="already holds a run"):
            run(finished)
        run(tmp_path / "other", total_timesteps=2 * BATCH, seed=3)
        with pytest.raises(RunDirectoryError, match="already holds a run"):
            run(tmp_path / "other", resume=finished)

    @pytest.mark.parametrize("name", ["config.json", "progress.csv", "last.pt", "best.pt", "checkpoints/step_64.pt"])
    def test_any_trace_of_a_run_keeps_another_one_out(self, tmp_path: Path, name: str) -> None:
        trace = tmp_path / "r" / name
        trace.parent.mkdir(parents=True)
        trace.write_text("precious")
        with pytest.raises(RunDirectoryError, match="already holds a run"):
            run(tmp_path / "r")
        assert trace.read_text() == "precious"

    def test_empty_folders_and_foreign_files_do_no_harm(self, tmp_path: Path) -> None:
        (tmp_path / "r" / "checkpoints").mkdir(parents=True)
        (tmp_path / "r" / "notes.txt").touch()
        run(tmp_path / "r", total_timesteps=2 * BATCH)

    def test_the_commit_is_that_of_the_code(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def git(*arguments: str) -> str:
            identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
            command = ["git", *identity, *arguments]
            return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

        code, installed = tmp_path / "code.py", tmp_path / "venv" / "code.py"
        installed.parent.mkdir()
        for file in (code, installed):
            file.write_text("1")
        assert git_commit(code) is None
        git("init", "-q")
        git("add", "code.py")
        git("commit", "-q", "-m", "x")
        assert git_commit(code) == git("rev-parse", "HEAD")
        assert git_commit(installed) is None  # lies in the checkout, but is no part of it
        code.write_text("2")
        assert git_commit(code) == git("rev-parse", "HEAD") + "-dirty"

    @pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")
    def test_two_processes_do_not_write_to_one_run(self, finished: Path, tmp_path: Path) -> None:
        shutil.copytree(finished, tmp_path / "r")
        before = {p: p.read_bytes() for p in (tmp_path / "r").rglob("*") if p.is_file()}
        lock = lock_run_dir(tmp_path / "r")
        assert lock is not None
        with pytest.raises(RunDirectoryError, match="another process is training in"):
            run(tmp_path / "r", resume=tmp_path / "r", total_timesteps=12 * BATCH)
        assert {p: p.read_bytes() for p in (tmp_path / "r").rglob("*") if p.is_file()} == before
        os.close(lock)
        run(tmp_path / "r", resume=tmp_path / "r", total_timesteps=12 * BATCH)

    @pytest.mark.parametrize(
        "content",
        [b"\xff\xfe", b"a,b\n1,2\n", b"global_step,a\nx,1\n", b"global_step,a\n64,1,2\n", b"global_step,a\n,1\n"],
    )
    def test_a_damaged_progress_file_is_named_and_kept(self, finished: Path, tmp_path: Path, content: bytes) -> None:
        shutil.copytree(finished, tmp_path / "r")
        (tmp_path / "r" / "progress.csv").write_bytes(content)
        with pytest.raises(RunDirectoryError, match=r"progress\.csv is damaged .* rename it"):
            run(tmp_path / "r", resume=tmp_path / "r", total_timesteps=12 * BATCH)
        assert (tmp_path / "r" / "progress.csv").read_bytes() == content

    def test_a_run_outlives_its_console(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        read, write = os.pipe()
        os.close(read)  # as by `| head -1`
        with os.fdopen(write, "w") as console:
            monkeypatch.setattr(sys, "stdout", console)
            result = train(PPOConfig(**SETTINGS), PointEnv, run_dir=tmp_path / "r")
        assert result.global_step == 10 * BATCH

    def test_unwritable(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(RunDirectoryError, match="cannot write"):
            run(tmp_path / "file" / "run")

    def test_old_checkpoints_are_pruned(self, tmp_path: Path) -> None:
        run(tmp_path / "r", keep_checkpoints=2, eval_interval=10**6)
        names = sorted(p.name for p in (tmp_path / "r" / "checkpoints").iterdir())
        assert names == sorted(f"step_{BATCH * i}.pt" for i in (8, 10))

    def test_evaluation_does_not_touch_training(self, finished: Path, tmp_path: Path) -> None:
        run(tmp_path / "r", eval_interval=BATCH, eval_episodes=5)
        for one, two in zip(curve(tmp_path / "r"), curve(finished), strict=True):
            for key in two:
                assert key.startswith("eval/") or one[key] == two[key], key

    def test_diverged_run_keeps_its_last_checkpoint(self, tmp_path: Path) -> None:
        class Fails(PointEnv):
            def step(self, actions: Any) -> Any:
                obs, reward, *rest = super().step(actions)
                return obs, reward * (np.nan if len(self.received) > 5 * 16 else 1), *rest

        with pytest.raises(RuntimeError, match="environment 0 returned a reward"):
            run(tmp_path / "r", Fails)
        assert load_checkpoint(tmp_path / "r" / "last.pt")["global_step"] == 4 * BATCH


SLOW_SCRIPT = """
import signal, sys, time
# whoever runs the tests may ignore these (nohup, background jobs), and children inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.path.insert(0, {toy!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from toy import PointEnv
from test_checkpoint import run
class Slow(PointEnv):
    def step(self, actions):
        time.sleep(float(sys.argv[2]))
        return super().step(actions)
path = Path(sys.argv[1])
run(path, Slow, resume=path if len(sys.argv) > 3 else None, checkpoint_interval=10**6, eval_interval=10**6)
"""


class TestSignals:
    def start(self, run_dir: Path, delay: float = 0.01, rows: int = 3) -> subprocess.Popen[str]:
        script = SLOW_SCRIPT.format(toy=str(Path(__file__).parent))
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(run_dir), str(delay)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for _ in range(600):
            curve = run_dir / "progress.csv"
            if curve.exists() and len(curve.read_text().splitlines()) > rows:
                return process
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        process.kill()
        raise AssertionError("no progress in a minute")

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
    def test_saves_and_can_be_continued_to_the_last_bit(
        self, finished: Path, tmp_path: Path, number: signal.Signals, code: int
    ) -> None:
        process = self.start(tmp_path / "r")
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == code, output
        step = load_checkpoint(tmp_path / "r" / "last.pt")["global_step"]
        assert 0 < step < 10 * BATCH
        assert len(curve(tmp_path / "r")) == step // BATCH
        run(tmp_path / "r", resume=tmp_path / "r")
        drop = ("eval/",)
        strip = [{k: v for k, v in row.items() if not k.startswith(drop)} for row in curve(finished)]
        mine = [{k: v for k, v in row.items() if not k.startswith(drop)} for row in curve(tmp_path / "r")]
        assert mine == strip
        assert_same_weights(tmp_path / "r" / "last.pt", finished / "last.pt")

    def test_a_signal_counts_though_nobody_reads_the_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def closed(*_: Any) -> int:
            raise OSError(5, "Input/output error")  # a terminal that is gone

        monkeypatch.setattr(os, "write", closed)
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop.number == signal.SIGTERM

    def test_nohup_keeps_a_closing_terminal_from_stopping_the_run(self) -> None:
        previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with StopSignal() as stop:
                signal.raise_signal(signal.SIGHUP)
                assert not stop.number
        finally:
            signal.signal(signal.SIGHUP, previous)

    def test_a_second_signal_stops_at_once(self, tmp_path: Path) -> None:
        process = self.start(tmp_path / "r", delay=0.2, rows=1)  # an update takes 16 steps, so 3 s
        process.send_signal(signal.SIGTERM)
        time.sleep(1.2)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGTERM
        assert not (tmp_path / "r" / "last.pt").exists()
