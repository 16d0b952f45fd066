from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent / "ppo"))  # lets tests and their subprocesses import toy.py
sys.path.append(str(Path(__file__).parents[1] / "experiments"))  # and compare_sb3.py
# One thread: the networks are too small to gain from more, processes that test side by side would wait for each other,
# and equal bits are promised per thread count.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

RELIABILITY = Path(__file__).parents[1] / "results" / "reliability.csv"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--torture", action="store_true", help="tests of reliability try as much as docs/reliability.md says"
    )


def pytest_configure(config: pytest.Config) -> None:
    settings.register_profile("torture", max_examples=1000)
    settings.register_profile("short", max_examples=25)
    settings.load_profile("torture" if config.getoption("--torture") else "short")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `toy.run` that was never interrupted; to be read or copied, not changed."""
    from toy import run

    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    run(run_dir)
    return run_dir


@pytest.fixture
def torture(request: pytest.FixtureRequest) -> bool:
    """Whether to try much, not a little."""
    return bool(request.config.getoption("--torture"))


@pytest.fixture
def tally(torture: bool, request: pytest.FixtureRequest) -> Callable[[str, int, int], None]:
    """Note what was tried: tally(fault, tried, lost); with --torture it goes into results/reliability.csv."""

    def note(fault: str, tried: int, lost: int) -> None:
        print(f"{fault}: tried {tried}, lost {lost}")
        if torture:
            from ballbot.ppo.checkpoint import write_atomic

            rows = []
            if RELIABILITY.exists():
                rows = [row for row in csv.reader(RELIABILITY.read_text().splitlines()) if row and row[0] != fault]
            header, rows = ["fault", "tried", "lost", "test"], [row for row in rows if row[0] != "fault"]
            test = request.node.nodeid.partition("[")[0]
            buffer = io.StringIO(newline="")
            csv.writer(buffer, lineterminator="\n").writerows(
                [header, *sorted([*rows, [fault, str(tried), str(lost), test]])]
            )
            write_atomic(RELIABILITY, buffer.getvalue().encode())

    return note
