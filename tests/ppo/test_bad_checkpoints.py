"""Checkpoints that cannot be used say what is wrong with them, and nothing is lost."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy import run

from ballbot.ppo import CheckpointError, RunDirectoryError, load_agent, load_checkpoint, load_policy
from ballbot.ppo.checkpoint import find_checkpoint, save_checkpoint, write_atomic

PARTS = ["config", "ranks", "agent", "optimizer", "policy", "spaces", "global_step", "best_return", "learning_rate"]
JUNK: list[Any] = [None, 3, "text", [], {}]
POSSIBLE = [("best_return", None), ("best_return", 3), ("global_step", 3), ("learning_rate", 3)]


def str_of(value: Any) -> str:
    return str(value)[:20].replace("\n", " ")


class PowerCutError(BaseException):
    """Nothing handles it."""


class TestBadFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="does not exist"):
            load_checkpoint(tmp_path / "no.pt")
        with pytest.raises(CheckpointError, match=r"holds no checkpoint .* under another name, or delete this one"):
            run(tmp_path / "r", resume=tmp_path)
        assert not (tmp_path / "r").exists()

    def test_what_to_pass_instead_is_named(self, finished: Path, tmp_path: Path) -> None:
        for name in ("last.pt", "best.pt"):
            shutil.copy(finished / name, tmp_path)
        (tmp_path / "best.pt").write_bytes(b"cut")
        for given in (tmp_path, tmp_path / "best.pt"):
            with pytest.raises(CheckpointError, match=r"best\.pt is damaged .*; pass .*/last\.pt \("):
                load_policy(given)
        (tmp_path / "policy.onnx").touch()
        with pytest.raises(CheckpointError, match=f"is an exported graph, .*; pass the run {tmp_path}$"):
            load_policy(tmp_path / "policy.onnx")
        (tmp_path / "last.pt").unlink()
        with pytest.raises(CheckpointError, match=r"best\.pt is damaged .*; pass another one of the same run \("):
            load_policy(tmp_path)
        (tmp_path / "best.pt").unlink()
        with pytest.raises(CheckpointError, match=r"is an exported graph, .* that it was made from"):
            load_policy(tmp_path / "policy.onnx")

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

    @pytest.mark.parametrize(
        ("part", "junk"), [(part, junk) for part in PARTS for junk in JUNK if (part, junk) not in POSSIBLE]
    )
    def test_a_part_that_is_something_else(self, finished: Path, tmp_path: Path, part: str, junk: Any) -> None:
        save_checkpoint([tmp_path / "odd.pt"], load_checkpoint(finished / "last.pt") | {part: junk})
        with pytest.raises(CheckpointError, match=r"odd\.pt"):
            run(tmp_path / "r", resume=tmp_path / "odd.pt")
        assert not (tmp_path / "r").exists()

    @pytest.mark.parametrize("shape", [(1,), (400,), (0,)])
    def test_moments_of_another_shape_are_refused_before_the_optimizer_reads_beyond_them(
        self, finished: Path, tmp_path: Path, shape: tuple[int, ...]
    ) -> None:
        state = load_checkpoint(finished / "last.pt")
        state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(shape)
        save_checkpoint([tmp_path / "odd.pt"], state)
        with pytest.raises(CheckpointError, match=r"odd\.pt does not fit .*moments have the shapes"):
            run(tmp_path / "r", resume=tmp_path / "odd.pt", total_timesteps=1000)

    def test_a_setting_younger_than_the_file_had_its_default(self, finished: Path, tmp_path: Path) -> None:
        state = load_checkpoint(finished / "last.pt")
        del state["config"]["normalize_observations_per_step"]
        save_checkpoint([tmp_path / "old.pt"], state)
        run(tmp_path / "r", resume=tmp_path / "old.pt", total_timesteps=12 * 64)
        with pytest.raises(CheckpointError, match=r"normalize_observations_per_step \(then False, now True\)"):
            run(tmp_path / "s", resume=tmp_path / "old.pt", normalize_observations_per_step=True)

    @pytest.mark.parametrize(("part", "words"), [("obs", r"\(2, 2\) instead of \(4, 2\)"), ("done", r"\(2,\) instead")])
    def test_arrays_of_other_environments(self, finished: Path, tmp_path: Path, part: str, words: str) -> None:
        state = load_checkpoint(finished / "last.pt")
        state["ranks"][0][part] = state["ranks"][0][part][:2]
        save_checkpoint([tmp_path / "odd.pt"], state)
        with pytest.raises(CheckpointError, match=rf"odd\.pt does not fit .*{part} is {words}"):
            run(tmp_path / "r", resume=tmp_path / "odd.pt")

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
                raise PowerCutError
            write_atomic(path, data)

        monkeypatch.setattr("ballbot.ppo.checkpoint.write_atomic", fail_once)
        with pytest.raises(PowerCutError):
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

    @pytest.mark.parametrize(
        "value",
        [
            torch.zeros(3, dtype=torch.float8_e4m3fn),
            torch.zeros(3).to_sparse(),
            {True: 1},
            {(1, 2): 3},
            {-1: 0},
            2**3000,
            "x" * 2**23,
        ],
        ids=str_of,
    )
    def test_what_could_not_be_read_again_is_not_written(self, tmp_path: Path, value: Any) -> None:
        save_checkpoint([tmp_path / "x.pt"], {"kind": "training", "x": 1})
        before = (tmp_path / "x.pt").read_bytes()
        with pytest.raises(TypeError, match="cannot store this in a checkpoint, as it could not be read again"):
            save_checkpoint([tmp_path / "x.pt"], {"kind": "training", "x": value})
        assert (tmp_path / "x.pt").read_bytes() == before

    def test_names_as_long_as_can_be_are_written(self, tmp_path: Path) -> None:
        write_atomic(tmp_path / ("x" * 255), b"content")
        write_atomic(tmp_path / ("ü" * 127), b"content")
        assert all(path.read_bytes() == b"content" for path in tmp_path.iterdir())

    def test_of_several_writers_none_shows_a_part(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        contents = [bytes([65 + i]) * 300_000 for i in range(3)]
        write_atomic(path, contents[0])

        def write(content: bytes) -> None:
            for _ in range(40):
                write_atomic(path, content)

        with ThreadPoolExecutor(3) as pool:
            writers = [pool.submit(write, content) for content in contents]
            while not all(writer.done() for writer in writers):
                assert path.read_bytes() in contents
            for writer in writers:
                writer.result()
        assert [p.name for p in tmp_path.iterdir()] == ["x"]

    @pytest.mark.skipif(os.name != "posix", reason="links as on POSIX")
    def test_nothing_is_written_through_links(self, finished: Path, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.write_text("mine")
        for name in ("checkpoints", "videos", "progress.csv"):
            r = tmp_path / name
            shutil.copytree(finished, r)
            if (r / name).exists():
                (r / name).rename(tmp_path / f"away_{name}")
            (r / name).symlink_to(tmp_path)
            with pytest.raises(RunDirectoryError, match=f"{name} is a link"):
                run(r, resume=r, total_timesteps=700)
        r = tmp_path / "r"
        shutil.copytree(finished, r)
        for name in (".last.pt.tmp", ".config.json.tmp", "checkpoints/.step_704.pt.tmp"):
            (r / name).symlink_to(victim)
        (r / "best.pt").unlink()
        (r / "best.pt").symlink_to(victim)
        run(r, resume=r, total_timesteps=700)
        assert victim.read_text() == "mine" and not (r / ".last.pt.tmp").is_symlink()

    def test_directories_are_only_synced_where_they_can_be_opened(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> None:
            raise PermissionError(13, "Permission denied")  # what Windows says to os.open(directory)

        monkeypatch.setattr("ballbot.ppo.checkpoint.POSIX", False)
        monkeypatch.setattr(os, "open", refuse)
        write_atomic(tmp_path / "x", b"new")
        assert (tmp_path / "x").read_bytes() == b"new"
