"""Whatever is killed, whenever: nothing saved is lost, and what comes out in the end is the same, bit for bit."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killable import Kill, Programs, assert_equal
from toy import curve

from ballbot.encoders import load_encoder
from ballbot.encoders.dataset import DepthDataset
from ballbot.ppo import load_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

Tally = Callable[[str, int], None]
UPDATES, SIZE = 12, 4 * 8 * 5  # environments x steps x action repeat
IMITATED = 3 * SIZE  # steps of a distillation before PPO
TRAINING = [
    *("--num-envs", "4", "--num-steps", "8", "--minibatch-size", "16", "--update-epochs", "1", "--hidden-size", "16"),
    *("--total-timesteps", str(UPDATES * SIZE), "--num-terrains", "2", "--num-threads", "1", "--run-name", "run"),
    *("--checkpoint-interval", str(SIZE), "--eval-interval", str(2 * SIZE), "--eval-episodes", "2"),
    *("--tilt-limit-deg", "4"),  # short episodes
]


def moments(seed: int, operations: int, seconds: float, kinds: tuple[str, ...]) -> Iterator[Kill]:
    """Random ones: just before an operation on a file, within it, or at any time; some on a file of these kinds."""
    rng = np.random.default_rng(seed)
    while True:
        way, operation = rng.integers(4), int(rng.integers(1, operations + 1))
        within = float(rng.choice([0.0, rng.uniform(0, 0.005)]))  # 0: just before it
        if way < 2:
            yield Kill(operation, within)
        elif way == 2:
            yield Kill(int(rng.integers(1, 7)), within, kinds[rng.integers(len(kinds))])
        else:
            yield Kill(delay=float(rng.uniform(0, seconds)))


def tell(tally: Tally, program: str, hit: Counter[str], expected: tuple[str, ...]) -> None:
    """Note what programs were at when they were killed; each of what they write must have been hit."""
    if hit.total() > 50:
        assert {kind for kind, count in hit.items() if count > 1} >= set(expected), hit
    for kind, count in hit.items():
        tally(f"{program} killed (SIGKILL) {f'at {kind}' if kind else 'before it wrote anything'}", count)


def checkpoint_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.pt") if not path.name.startswith(".")]


def newest_step(run: Path) -> int:
    """Of what can be resumed; every file under its final name can be read."""
    steps = [0]
    for path in checkpoint_files(run):
        if path.name.startswith("encoder_"):
            load_encoder(path)
        elif (state := load_checkpoint(path))["kind"] == "training":
            steps.append(state["global_step"])
    return max(steps)


def logged_step(run: Path) -> int:
    """Of the last whole row of progress.csv."""
    if not (run / "progress.csv").exists():
        return 0
    with open(run / "progress.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    return int(rows[-1]["global_step"]) if rows else 0


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows, without the clock's curves."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time/") and tag != "charts/SPS"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def names(folder: Path) -> set[str]:
    """Of all files; those of TensorBoard carry the time."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {name for name in found if "tfevents" not in name and name != ".output"}


def stage_of(step: int) -> str:
    """Of a distillation that goes on from this step."""
    return "imitation" if step < IMITATED else "the change" if step == IMITATED else "PPO"


def kill_training(
    programs: Programs,
    folder: Path,
    script: str,
    options: list[str],
    seed: int,
    kills: int,
    written: tuple[str, ...],
    stages: Collection[str] = (),
) -> Counter[str]:
    """Kill trainings at random moments, at least so often and in each of these stages, and go on with them.

    Every checkpoint that they leave is to equal that of a run never killed; returns what they were at when killed.
    """
    whole = folder / "whole"
    whole.mkdir()
    done = programs.run(script, options, whole)
    assert done.code == 0, done.output
    kill, hit, missing, rounds = moments(seed, done.operations // 3, 3.0, written), Counter[str](), set(stages), 0
    while hit.total() < kills or missing:
        rounds += 1
        (folder / f"round{rounds}").mkdir()
        run, before = folder / f"round{rounds}" / "runs" / "run", 0
        while True:
            command = ["--resume", "runs/run"] if before > 0 else options
            ended = programs.run(script, command, folder / f"round{rounds}", next(kill))
            if not ended.killed:
                assert ended.code == 0, ended.output
                break
            hit[ended.last] += 1
            if not run.is_dir():
                continue
            now = newest_step(run)
            assert now >= before, "a checkpoint was lost"
            assert logged_step(run) - now <= SIZE, "more than one update is repeated"
            if (run / "config.json").exists():
                json.loads((run / "config.json").read_text())
            if now == 0:  # nothing was saved yet: the same command is refused, and says what to do
                shutil.rmtree(run)
            else:
                missing.discard(stage_of(now))
            before = now
        other = whole / "runs" / "run"
        assert {n for n in names(run) if "abandoned" not in n} == names(other)
        for path in checkpoint_files(run):
            name = path.relative_to(run)
            if "abandoned" not in name.parts and not path.name.startswith("encoder_"):
                assert_equal(load_checkpoint(path), load_checkpoint(other / name))
        assert curve(run) == curve(other)
        assert scalars(run) == scalars(other)
    return hit


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("cameras", [False, True])
def test_a_training_killed_again_and_again_ends_as_one_never_killed(
    programs: Programs, tmp_path: Path, torture: bool, tally: Tally, cameras: bool
) -> None:
    options = [*TRAINING, *([] if cameras else ["--no-cameras"])]
    written = ("a checkpoint", "progress.csv", "TensorBoard's events", *(["an encoder"] if cameras else []))
    hit = kill_training(programs, tmp_path, "ppo_ballbot", options, int(cameras), 120 if torture else 6, written)
    tell(tally, f"training {'with' if cameras else 'without'} cameras", hit, written)


REMEMBERING: dict[str, tuple[str, list[str], Callable[[Any], Any]]] = {
    "with a past, and a value function that sees more": (
        "ppo_ballbot",
        ["--history", "0", "5", "15", "--privileged-fields", "slope"],
        lambda mine: mine["env_state"]["history"],
    ),
    "with a GRU": ("ppo_ballbot", ["--memory", "gru", "--memory-size", "8"], lambda mine: mine["memory"]),
    "from a teacher, then from rewards": (
        "distill",
        ["--teacher", "observer", "--imitation-timesteps", str(IMITATED), "--total-timesteps", str(2 * IMITATED)],
        lambda mine: mine["lessons"]["teacher"],
    ),
}
"""What a training remembers besides networks and robots: its program, its options, where it lies in a checkpoint."""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", REMEMBERING)
def test_a_training_that_remembers_more_ends_as_one_never_killed(
    programs: Programs, tmp_path: Path, torture: bool, tally: Tally, what: str
) -> None:
    script, more, remembered = REMEMBERING[what]
    if script != "distill" and not torture:
        pytest.skip("takes half a minute: with --torture")
    options = [*TRAINING, "--no-cameras", "--keep-checkpoints", "100", *more]
    stages = {"imitation", "the change", "PPO"} if script == "distill" and torture else set()
    written = ("a checkpoint", "progress.csv", "TensorBoard's events")
    hit = kill_training(
        programs, tmp_path, script, options, 4 + list(REMEMBERING).index(what), 17 if torture else 2, written, stages
    )
    early = load_checkpoint(tmp_path / "whole" / "runs" / "run" / "checkpoints" / f"step_{SIZE}.pt")
    assert remembered(early["ranks"][0]) is not None
    tell(tally, f"training {what}", hit, written)


COLLECTING = ["--out", "data", "--num-images", "640", "--num-envs", "1", "--num-terrains", "4", "--num-threads", "1"]


def collected(folder: Path) -> int:
    """Images that the data set in a folder counts, all of which can be read."""
    if not (folder / "data" / "card.json").exists():
        return 0
    data = DepthDataset(folder / "data")
    assert len(data.images(np.arange(len(data)))) == len(data.records) == len(data)
    return len(data)


@pytest.mark.timeout(3600)
def test_a_collection_killed_again_and_again_ends_as_one_never_killed(
    programs: Programs, tmp_path: Path, torture: bool, tally: Tally
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    done = programs.run("collect_depth", COLLECTING, whole)
    assert done.code == 0, done.output
    written = ("images", "records", "a card")
    kill, hit, rounds = moments(2, done.operations // 2, 3.0, written), Counter[str](), 0
    while hit.total() < (60 if torture else 3):
        rounds += 1
        folder = tmp_path / f"round{rounds}"
        folder.mkdir()
        before = 0
        while (ended := programs.run("collect_depth", COLLECTING, folder, next(kill))).killed:
            hit[ended.last] += 1
            now = collected(folder)
            assert now >= before, "images were lost"
            before = now
        assert ended.code == 0, ended.output
        assert names(folder) == names(whole)
        for name in names(whole):
            assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    tell(tally, "collecting images", hit, written)


@pytest.mark.timeout(3600)
def test_a_pretraining_killed_again_and_again_ends_as_one_never_killed(
    programs: Programs, tmp_path: Path, torture: bool, tally: Tally
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    assert programs.run("collect_depth", COLLECTING, whole).code == 0
    options = ["--data", "../whole/data", "--epochs", "6", "--batch-size", "64", "--channels", "2", "2"]
    options += ["--torch-threads", "1", "--run-name", "eyes"]
    done = programs.run("pretrain_encoder", options, whole)
    assert done.code == 0, done.output
    written = ("a checkpoint", "an encoder", "TensorBoard's events")
    kill, hit, rounds = moments(3, done.operations // 2, 3.0, written), Counter[str](), 0
    while hit.total() < (60 if torture else 3):
        rounds += 1
        folder = tmp_path / f"round{rounds}"
        folder.mkdir()
        state, before = folder / "runs" / "eyes" / "training.pt", 0
        while True:
            begun = state.exists()
            ended = programs.run("pretrain_encoder", [*options, *(["--resume"] if begun else [])], folder, next(kill))
            if not ended.killed:
                assert ended.code == 0, ended.output
                break
            hit[ended.last] += 1
            now = load_checkpoint(state)["epoch"] if state.exists() else 0
            assert now >= before, "an epoch was lost"
            if now:
                load_encoder(folder / "encoder.pt")
            before = now
        assert_equal(load_checkpoint(state), load_checkpoint(whole / "runs" / "eyes" / "training.pt"))
        assert load_encoder(folder / "encoder.pt").content_hash == load_encoder(whole / "encoder.pt").content_hash
        assert scalars(folder / "runs" / "eyes") == scalars(whole / "runs" / "eyes")
        assert names(folder) == {name for name in names(whole) if not name.startswith("data")}
    tell(tally, "pretraining", hit, written)
