"""Hours of work leave nothing behind: memory, threads and open files stay as they were after the first minute."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killable import start

from ballbot.envs import BallbotVectorEnv

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")

Tally = Callable[[str, int], None]


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_things() -> tuple[int, int, int]:
    """Files, threads of Python, threads of the process."""
    return len(os.listdir("/proc/self/fd")), threading.active_count(), len(os.listdir("/proc/self/task"))


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("num_envs", "steps", "short"), [(64, 5 * 10**7, 64 * 400), (4096, 10**7, 4096 * 4)])
def test_steps_without_end(num_envs: int, steps: int, short: int, torture: bool, tally: Tally) -> None:
    envs = BallbotVectorEnv(num_envs, num_terrains=8)
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (97, num_envs, 3)).astype(np.float32)
    total = (steps if torture else short) // num_envs
    pieces = 20 if torture else 2
    sizes, speeds, things = [], [], []
    for _ in range(pieces + 1):  # the first warms up
        start = time.process_time()
        for step in range(total // pieces):
            envs.step(actions[step % len(actions)])
        speeds.append(total // pieces * num_envs / (time.process_time() - start))
        sizes.append(resident_bytes())
        things.append(open_things())
    envs.close()
    print(f"steps/s of CPU time {[round(x) for x in speeds]}, MiB {[round(x / 2**20, 1) for x in sizes]}")
    assert len(set(things)) == 1, things
    assert max(sizes[1:]) < 1.01 * sizes[0] + (0 if torture else 2**23), sizes
    if torture:
        assert np.median(speeds[-5:]) > 0.95 * np.median(speeds[1:6]), speeds
    tally(f"steps of {num_envs} environments: memory, threads, files and speed as at the start", total * num_envs)


@pytest.mark.timeout(3600)
def test_a_training_grows_no_more(tmp_path: Path, torture: bool, tally: Tally) -> None:
    """With cameras, evaluations, checkpoints and logs: memory after a quarter of it is what it is in the end."""
    steps, sizes, things = 4_000_000 if torture else 100_000, [], []
    options = ["--total-timesteps", str(steps), "--run-name", "run", "--num-terrains", "8", "--torch-threads", "1"]
    often = str(steps // (16 if torture else 4))
    options += ["--eval-interval", often, "--checkpoint-interval", often, "--eval-episodes", "4"]
    shorter = () if torture else ("--num-steps", "8", "--max-episode-steps", "400")
    program = start("ppo_ballbot", [*options, *shorter], tmp_path)
    assert program.stdout is not None
    for line in program.stdout:
        if line.split() and (told := line.split()[0].replace(",", "")).isdecimal() and int(told) >= steps / 4:
            sizes.append(int(Path(f"/proc/{program.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
            things.append(tuple(len(os.listdir(f"/proc/{program.pid}/{name}")) for name in ("fd", "task")))
    assert program.wait() == 0 and len(sizes) > 8
    print(f"MiB {[round(x / 2**20, 1) for x in sizes[:: max(len(sizes) // 20, 1)]]}, files and threads {set(things)}")
    quarter = len(sizes) // 4 + 1
    assert max(sizes[-quarter:]) < 1.01 * max(sizes[:quarter]) + (0 if torture else 2**23), sizes
    assert len(set(things)) == 1, things
    tally("steps of a training with cameras: memory, threads and files as at a quarter of it", steps)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("options", [{}, {"observation": "encoded"}])
def test_environments_come_and_go(options: dict[str, Any], torture: bool, tally: Tally) -> None:
    def one(number: int) -> None:
        envs = BallbotVectorEnv(4, num_terrains=2, num_threads=2, **options)
        envs.reset(seed=number)
        for _ in range(7):
            envs.step(np.zeros((4, 3), np.float32))
        envs.close()

    times = 1000 if torture else 12
    for number in range(times // 4):
        one(number)
    size, things = resident_bytes(), open_things()
    for number in range(times):
        one(number)
    assert open_things() == things
    assert resident_bytes() < 1.01 * size + (0 if torture else 2**23), (size, resident_bytes())
    tally(f"environments {'with cameras ' if options else ''}made and closed", times)
