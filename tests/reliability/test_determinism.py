"""The same seed gives the same bits, whatever the machine does in between.

What is not promised: the same bits with another number of PyTorch's threads, of processes under torchrun, or on another
kind of CPU, since sums are rounded in another order there.  (``tests/ppo/test_distributed.py`` compares two processes
with one, up to that.)
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killable import EXPERIMENTS, Programs, assert_equal
from policies import roll

from ballbot.envs import BallbotVectorEnv
from ballbot.ppo import load_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its programs")

UPDATES, SIZE = 4, 12 * 8 * 5
TRAINING = [
    *("--num-envs", "12", "--num-steps", "8", "--minibatch-size", "32", "--hidden-size", "16", "--num-terrains", "2"),
    *("--total-timesteps", str(UPDATES * SIZE), "--run-name", "run", "--tilt-limit-deg", "4", "--seed", "5"),
    *("--checkpoint-interval", str(SIZE), "--eval-interval", str(2 * SIZE), "--eval-episodes", "2"),
]


def train(programs: Programs, folder: Path, *options: str) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    ended = programs.run("ppo_ballbot", [*TRAINING, *options], folder)
    assert ended.code == 0, ended.output
    return load_checkpoint(folder / "runs" / "run" / "last.pt")


@pytest.fixture(scope="module")
def once(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run with one thread ends with."""
    return train(programs, tmp_path_factory.mktemp("once"), "--num-threads", "1")


@pytest.mark.fault("the same training with 1, 2 and 3 threads")
@pytest.mark.parametrize("threads", ["1", "2", "3"])
def test_any_number_of_simulation_threads(
    programs: Programs, tmp_path: Path, once: dict[str, Any], threads: str
) -> None:
    assert_equal(train(programs, tmp_path, "--num-threads", threads), once)


@pytest.mark.fault("another seed, which is to differ")
def test_another_seed_is_another_run(programs: Programs, tmp_path: Path, once: dict[str, Any]) -> None:
    other = train(programs, tmp_path, "--num-threads", "1", "--seed", "6")
    with pytest.raises(AssertionError):
        assert_equal(other["policy"], once["policy"])


@pytest.mark.fault("the same training stopped and resumed with other threads")
def test_stopped_and_resumed_with_other_threads(programs: Programs, tmp_path: Path, once: dict[str, Any]) -> None:
    length = ("--schedule-timesteps", str(UPDATES * SIZE))  # else a longer run stretches rates, noise and rewards
    train(programs, tmp_path, "--num-threads", "1", "--total-timesteps", str(2 * SIZE), *length)
    whole = train(programs, tmp_path / "whole", "--num-threads", "1", *length)
    resume = ["--resume", "runs/run", "--total-timesteps", str(UPDATES * SIZE), "--num-threads", "2"]
    ended = programs.run("ppo_ballbot", resume, tmp_path)
    assert ended.code == 0, ended.output
    assert_equal(load_checkpoint(tmp_path / "runs" / "run" / "last.pt"), whole)


@pytest.mark.fault("the same training in a new process, and as the one rank of torchrun")
@pytest.mark.parametrize("launcher", [[], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]])
def test_a_process_of_its_own_and_one_rank_of_torchrun(
    tmp_path: Path, once: dict[str, Any], launcher: list[str]
) -> None:
    command = [sys.executable, *launcher, str(EXPERIMENTS / "ppo_ballbot.py"), *TRAINING, "--num-threads", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_equal(load_checkpoint(tmp_path / "runs" / "run" / "last.pt"), once)


@pytest.mark.fault("the same robots in one environment and in two")
@pytest.mark.parametrize("observation", ["proprioception", "encoded"])
def test_environments_together_or_apart(observation: str) -> None:
    options: dict[str, Any] = {"num_terrains": 3, "observation": observation, "tilt_limit_deg": 4.0}
    together = BallbotVectorEnv(9, num_threads=2, **options)
    apart = [BallbotVectorEnv(n, num_threads=1, **options) for n in (4, 5)]
    actions = np.random.default_rng(0).uniform(-1, 1, (250, 9, 3)).astype(np.float32)
    seen, _ = together.reset(seed=20)
    parts = [envs.reset(seed=seed)[0] for envs, seed in zip(apart, (20, 24), strict=True)]
    np.testing.assert_array_equal(seen, np.concatenate(parts))
    ends = 0
    for action in actions:
        step = together.step(action)
        halves = [envs.step(part) for envs, part in zip(apart, (action[:4], action[4:]), strict=True)]
        for whole, *both in zip(step[:4], *(half[:4] for half in halves), strict=True):
            np.testing.assert_array_equal(whole, np.concatenate(both))
        ends += int(step[2].sum())
    assert ends, "nothing ended"


@pytest.mark.fault("the same robots in a forked and in a spawned process")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_started_by_fork_or_spawn(method: str) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        np.testing.assert_array_equal(pool.submit(roll).result(timeout=100), roll())
