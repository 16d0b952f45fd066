from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from killable import Programs

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


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    """Runs experiments' scripts, and kills them on request; to ask for where there is fork."""
    with Programs() as running:
        yield running


@pytest.fixture
def torture(request: pytest.FixtureRequest) -> bool:
    """Whether to try much, not a little."""
    return bool(request.config.getoption("--torture"))


@pytest.fixture
def tally(torture: bool, request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """Note what was tried, when nothing was lost: tally(fault, number).

    With --torture it goes into results/reliability.csv; what the test noted there before goes as it begins.
    """
    test = request.node.nodeid

    def write(more: list[list[str]]) -> None:
        from ballbot.ppo.checkpoint import write_atomic

        old = list(csv.reader(RELIABILITY.read_text().splitlines()))[1:] if RELIABILITY.exists() else []
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["fault", "tried", "test"])
        writer.writerows(sorted([*(row for row in old if row[2] != test), *more]))
        write_atomic(RELIABILITY, buffer.getvalue().encode())

    noted: list[list[str]] = []

    def note(fault: str, tried: int) -> None:
        print(f"{fault}: tried {tried}")
        noted.append([fault, str(tried), test])
        if torture:
            write(noted)

    if torture:
        write([])
    return note
