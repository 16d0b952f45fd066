"""A disk that is full, or gone: a clear message, the last good checkpoint intact, and training goes on if it can."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import toy
from killable import start

from ballbot.encoders import load_encoder
from ballbot.encoders.dataset import RECORD, DatasetError, DepthDataset
from ballbot.encoders.pretrain import PretrainConfig, pretrain
from ballbot.ppo import RunDirectoryError, load_checkpoint, training
from ballbot.ppo import run_dir as run_dir_module
from ballbot.ppo.checkpoint import write_atomic
from ballbot.ppo.events import EventFile, append
from ballbot.ppo.logger import Logger
from ballbot.ppo.state import TrainingState

SIZE = 4 * 8 * 5
TRAINING = [
    *("--num-envs", "4", "--num-steps", "8", "--minibatch-size", "16", "--update-epochs", "1", "--hidden-size", "64"),
    *("--terrain", "flat", "--no-cameras", "--num-threads", "1", "--run-name", "run", "--tilt-limit-deg", "4"),
    *("--checkpoint-interval", str(SIZE), "--eval-interval", str(60 * SIZE), "--eval-episodes", "2"),
]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this user may not mount a small disk")
    except FileNotFoundError:
        pytest.skip("no mount here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Leave no room on a disk."""
    ballast = disk / "ballast"
    with open(ballast, "ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


def wait_for(what: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.mark.fault("a training on a disk that fills up, twice")
def test_a_training_goes_on_beside_a_full_disk_and_saves_when_there_is_room(small_disk: Path) -> None:
    program = start("ppo_ballbot", [*TRAINING, "--total-timesteps", "1000000"], small_disk)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(iter(program.stdout.readline, "")))  # type: ignore[union-attr]
    reader.start()
    run = small_disk / "runs" / "run"

    def said(text: str) -> bool:
        return any(text in line for line in list(lines))

    try:
        wait_for(lambda: len(list(run.glob("checkpoints/step_*.pt"))) == 3)
        ballast = fill(small_disk)
        # filled again and again: what was being written when it was filled leaves room
        wait_for(lambda: bool(fill(small_disk)) and said("warning: checkpoint not written (No space left on device)"))
        wait_for(
            lambda: said("warning: progress.csv not written") and said("warning: TensorBoard's events not written")
        )
        full = load_checkpoint(run / "last.pt")["global_step"]
        count = len(lines)
        wait_for(lambda: len(lines) > count + 20)  # it trains
        assert load_checkpoint(run / "last.pt")["global_step"] == full
        ballast.unlink()
        wait_for(
            lambda: all(
                said(f"note: {x} written again") for x in ("checkpoint", "progress.csv", "TensorBoard's events")
            )
        )
        count = sum("warning: checkpoint" in line for line in lines)
        wait_for(lambda: bool(fill(small_disk)) and sum("warning: checkpoint" in line for line in list(lines)) > count)
        program.terminate()
        assert program.wait(60) == 2
    finally:
        program.kill()
        reader.join()
    assert sum("warning: checkpoint" in line for line in lines) <= 2, "said again and again"
    assert "error: " in lines[-1] and "cannot write" in lines[-1] and "No space left on device" in lines[-1], lines[-1]
    assert load_checkpoint(run / "last.pt")["global_step"] > full
    (small_disk / "ballast").unlink()
    steps = [int(line.split(",")[0]) for line in (run / "progress.csv").read_text().splitlines()[1:]]
    assert steps == [SIZE * i for i in range(1, len(steps) + 1)], "rows are missing"
    ended = start("ppo_ballbot", ["--resume", "runs/run", "--total-timesteps", str(SIZE)], small_disk)
    assert "total_timesteps" in ended.communicate()[0]  # it can be read, and is further than that


@pytest.mark.fault("a training that ends on a full disk")
def test_the_end_of_a_run_waits_for_room(small_disk: Path) -> None:
    updates = 60
    options = [*TRAINING, "--total-timesteps", str(updates * SIZE)]
    program = start("ppo_ballbot", options, small_disk)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(iter(program.stdout.readline, "")))  # type: ignore[union-attr]
    reader.start()
    run = small_disk / "runs" / "run"
    wait_for(lambda: (run / "checkpoints" / f"step_{SIZE}.pt").exists())
    last = f"{updates * SIZE:,}"
    wait_for(lambda: bool(fill(small_disk)) and any(line.split()[:1] == [last] for line in list(lines)))
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(6)
    assert not (run / "best.pt").exists()
    (small_disk / "ballast").unlink()
    assert program.wait(60) == 0
    reader.join()
    assert load_checkpoint(run / "last.pt")["global_step"] == updates * SIZE
    best = load_checkpoint(run / "best.pt")
    assert best["global_step"] == updates * SIZE
    assert load_checkpoint(run / "last.pt")["best_return"] is not None
    assert len((run / "progress.csv").read_text().splitlines()) == updates + 1


@pytest.mark.fault("a training that ends on a disk that became read-only")
def test_the_end_of_a_run_does_not_wait_for_what_room_cannot_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(training, "save_checkpoint", refuse)
    with (
        pytest.warns(RuntimeWarning, match=r"best\.pt not written .*check "),
        pytest.raises(OSError, match="Read-only"),
    ):
        toy.run(tmp_path / "run")


@pytest.mark.fault("a run's folder renamed and made anew")
def test_a_folder_that_became_another_is_not_written_to(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    logger = Logger(run, console=False)
    logger.log({"global_step": 1.0})
    run.rename(tmp_path / "old")
    run.mkdir()
    with pytest.raises(RunDirectoryError, match="was removed or renamed"):
        logger.log({"global_step": 2.0})
    assert not list(run.iterdir())


@pytest.mark.fault("a run's folder taken away")
@pytest.mark.parametrize("deleted", [False, True])
def test_a_folder_that_is_removed_ends_the_training(tmp_path: Path, deleted: bool) -> None:
    program = start("ppo_ballbot", [*TRAINING, "--total-timesteps", "1000000"], tmp_path)
    run = tmp_path / "runs" / "run"
    wait_for(lambda: (run / "checkpoints" / f"step_{SIZE}.pt").exists())
    run.rename(tmp_path / "away")
    if deleted:
        shutil.rmtree(tmp_path / "away")
    output = program.communicate(timeout=60)[0]
    assert program.returncode == 2
    assert f"error: {Path('runs') / 'run'} was removed or renamed" in output and "Traceback" not in output
    if not deleted:
        assert load_checkpoint(tmp_path / "away" / "last.pt")["global_step"] >= SIZE


@pytest.mark.fault("collecting images on a disk that fills up")
def test_a_collection_on_a_full_disk_keeps_what_it_had(small_disk: Path) -> None:
    options = ["--out", "data", "--num-images", "800", "--num-envs", "1", "--num-terrains", "2", "--num-threads", "1"]
    output = (program := start("collect_depth", options, small_disk)).communicate()[0]
    assert program.returncode == 2
    assert "No space left on device" in output and "images are safe" in output and "Traceback" not in output
    data = DepthDataset(small_disk / "data")
    assert 80 <= len(data) < 800
    data.images(data.records["camera"])


def some_images(folder: Path) -> DepthDataset:
    data = DepthDataset.create(folder, (8, 8), 1.0, {})
    records = np.zeros(60, RECORD)
    records["terrain"] = np.arange(60) % 4
    data.append(np.random.default_rng(0).random((60, 8, 8), np.float32), records)
    return data


EYES = PretrainConfig(epochs=4, batch_size=8, channels=(2,), embedding_size=2)


@pytest.mark.fault("pretraining on a disk that fills up")
def test_a_pretraining_on_a_full_disk_keeps_what_it_had_and_goes_on(small_disk: Path, tmp_path: Path) -> None:
    data = some_images(tmp_path / "data")
    whole = pretrain(data, EYES, tmp_path / "encoder.pt", tmp_path / "log", say=lambda line: None)

    def fill_after_the_first(line: str) -> None:
        if line.startswith("epoch   1"):
            fill(small_disk)

    out, log = small_disk / "encoder.pt", small_disk / "log"
    with pytest.raises(OSError, match="No space left on device"):
        pretrain(data, EYES, out, log, say=fill_after_the_first)
    assert load_checkpoint(log / "training.pt")["epoch"] == 1
    load_encoder(out)
    (small_disk / "ballast").unlink()
    assert pretrain(data, EYES, out, log, resume=True, say=lambda line: None).content_hash == whole.content_hash


@pytest.mark.fault("curves of a pretraining that cannot be written")
def test_a_curve_is_no_reason_to_lose_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    said: list[str] = []
    monkeypatch.setattr(EventFile, "scalars", full)
    pretrain(some_images(tmp_path / "data"), EYES, tmp_path / "encoder.pt", tmp_path / "log", say=said.append)
    assert load_checkpoint(tmp_path / "log" / "training.pt")["epoch"] == 4
    assert "warning: curves of epoch 1 not written (No space left on device)" in said


@pytest.mark.fault("the folder of a collection, or of a pretraining, removed meanwhile")
def test_folders_that_are_removed_end_collecting_and_pretraining(tmp_path: Path) -> None:
    data = some_images(tmp_path / "data")

    def remove(line: str) -> None:
        if line.startswith("epoch   1"):
            shutil.rmtree(tmp_path / "log")

    with pytest.raises(OSError, match=r"cannot write .*training\.pt"):
        pretrain(data, EYES, tmp_path / "encoder.pt", tmp_path / "log", say=remove)
    load_encoder(tmp_path / "encoder.pt")
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(DatasetError, match="holds no data set"):
        data.append(np.zeros((1, 8, 8), np.float32), np.zeros(1, RECORD))


@pytest.mark.fault("a limit on the size of files")
def test_a_limit_on_the_size_of_files_ends_a_run_with_an_error(tmp_path: Path) -> None:
    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000)); sys.argv.pop(0); "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    program = start("ppo_ballbot", [*TRAINING, "--total-timesteps", str(3 * SIZE)], tmp_path, ["-c", limited])
    output = program.communicate(timeout=120)[0]
    assert program.returncode == 2, output
    assert "File too large" in output.splitlines()[-1] and "Traceback" not in output, output


@pytest.mark.fault("appending to a file on a full disk")
def test_what_is_appended_is_there_whole_or_not_at_all(small_disk: Path) -> None:
    file = small_disk / "file"
    append(file, b"first\n")
    ballast = fill(small_disk)
    with pytest.raises(OSError, match="No space"):
        append(file, bytes(100_000))
    assert file.read_bytes() == b"first\n"
    with pytest.raises(OSError, match="No space"):
        EventFile(small_disk)
    ballast.unlink()
    append(file, bytes(100_000))
    assert file.stat().st_size == 100_006


def refused_training(folder: Path) -> str:
    output = (program := start("ppo_ballbot", [*TRAINING, "--total-timesteps", "1000"], folder)).communicate()[0]
    assert program.returncode == 2
    assert "cannot write to" in output and "Traceback" not in output
    return str(output)


@pytest.mark.fault("a disk that is read-only")
def test_a_disk_that_may_not_be_written_is_named(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "Read-only file system" in refused_training(small_disk)


@pytest.mark.fault("a folder that is read-only")
@pytest.mark.skipif(hasattr(os, "getuid") and os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir(mode=0o500)
    assert "Permission denied" in refused_training(tmp_path)


@pytest.mark.fault("a run's folder that cannot be looked at for a while")
def test_a_disk_that_does_not_answer_for_a_while_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = Logger(tmp_path, console=False)

    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, pytest.warns(RuntimeWarning, match="not written"):
        patch.setattr(run_dir_module, "_identity", fail)
        logger.log({"global_step": 1})
    logger.log({"global_step": 2})
    assert logger.path.read_text() == "global_step\n1\n2\n"


@pytest.mark.fault("a log damaged while a run writes it")
@pytest.mark.parametrize("content", ["", "global_step,x\n1,2,3\n", 'global_step\n"1\n'])
def test_a_log_that_is_damaged_meanwhile_ends_nothing(tmp_path: Path, content: str) -> None:
    logger = Logger(tmp_path, console=False)
    logger.log({"global_step": 1})
    logger.path.write_text(content)
    logger.log({"global_step": 2})
    logger.log({"global_step": 3, "more": 4.0})
    assert logger.path.read_text() == "global_step,more\n2,\n3,4.0\n"
    assert [path.read_text() for path in tmp_path.glob("progress.damaged_*.csv")] == [content] * bool(content)


@pytest.mark.fault("a log with a quotation mark, or a row cut in the middle")
@pytest.mark.parametrize("row", ['"{}', "{:.20}"])
def test_a_log_that_lost_its_middle_is_not_gone_on_with(tmp_path: Path, finished: Path, row: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    lines = (run / "progress.csv").read_text().splitlines()
    lines[3] = row.format(lines[3])
    (run / "progress.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(RunDirectoryError, match="is damaged"):
        toy.run(run, resume=run, total_timesteps=12 * toy.BATCH)
    assert (run / "progress.csv").read_text().splitlines() == lines


@pytest.mark.fault("best.pt cut off when a run goes on")
def test_a_damaged_best_policy_is_made_again(tmp_path: Path, finished: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    os.truncate(run / "best.pt", 5000)
    toy.run(run, resume=run, total_timesteps=20 * toy.BATCH)
    assert load_checkpoint(run / "best.pt")["kind"] == "policy"
    assert len(list(run.glob("best.damaged_*.pt"))) == 1


@pytest.mark.fault("checkpoints/ replaced by a file")
def test_the_newest_checkpoint_needs_no_folder(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(OSError, match="exists"):
        TrainingState.save(cast(Any, SimpleNamespace(global_step=5)), tmp_path, {"kind": "training"}, numbered=True)
    assert load_checkpoint(tmp_path / "last.pt")["kind"] == "training"


@pytest.mark.fault("folders that cannot be synchronised")
def test_folders_need_not_be_synchronised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.fsync

    def fsync(number: int) -> None:
        if stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        whole(number)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


@pytest.mark.fault("a clock set back between two files of events")
def test_events_come_after_earlier_ones_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 2e9)
    first = EventFile(tmp_path)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert EventFile(tmp_path, 3).path.name > first.path.name


@pytest.mark.fault("a data set without its card")
def test_images_without_a_card_are_not_overwritten(tmp_path: Path) -> None:
    DepthDataset.create(tmp_path, (4, 4), 1.0, {})
    (tmp_path / "images.u16").write_bytes(bytes(32))
    (tmp_path / "card.json").unlink()
    with pytest.raises(DatasetError, match="put it back"):
        DepthDataset.create(tmp_path, (4, 4), 1.0, {})
    assert (tmp_path / "images.u16").read_bytes() == bytes(32)
