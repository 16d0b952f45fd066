from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import is_hypothesis_test, settings
from killable import Programs

sys.path.insert(0, str(Path(__file__).parent / "ppo"))  # lets tests and their subprocesses import toy.py
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path += [str(EXPERIMENTS), str(EXPERIMENTS / "maintenance")]  # and scripts
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
def tally(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """Note what was tried, when nothing was lost: tally(fault, number).

    With --torture it goes into results/reliability.csv, a row a test and fault; what the test noted there before goes
    as it begins.  ``@pytest.mark.fault("a full disk")`` notes one try, or as many as hypothesis made up.  A test that
    was skipped or failed leaves a row of 0 tries.
    """
    return lambda fault, tried: note(request.node, fault, tried)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--torture"):
        for item in items:
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(7200))


def pytest_runtest_setup(item: pytest.Item) -> None:
    mark = item.get_closest_marker("fault")
    if item.config.getoption("--torture") and (mark is not None or "tally" in getattr(item, "fixturenames", ())):
        with rows() as found:  # 0: skipped or failed, if nothing follows
            found[:] = [row for row in found if row[2] != item.nodeid]
            found.append([mark.args[0] if mark is not None else "", "0", item.nodeid, ""])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    mark = item.get_closest_marker("fault")
    if mark is not None and report.when == "call" and report.passed:
        note(item, mark.args[0], settings().max_examples if is_hypothesis_test(item.obj) else 1)
    return report


def note(item: pytest.Item, fault: str, tried: int) -> None:
    if item.config.getoption("--torture"):
        from ballbot.ppo.run_dir import git_commit

        with rows() as found:
            found[:] = [row for row in found if row[1:3] != ["0", item.nodeid]]
            found.append([fault, str(tried), item.nodeid, (git_commit() or "")[:7]])


@contextmanager
def rows() -> Iterator[list[list[str]]]:
    """Those of the file, to be changed; other processes wait."""
    import fcntl  # not on Windows

    from ballbot.ppo.checkpoint import write_atomic

    lock = os.open(Path(__file__).parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        old = RELIABILITY.read_text() if RELIABILITY.exists() else "fault,tried,test,commit\n"
        heading, *found = csv.reader(old.splitlines())
        yield found
        buffer = io.StringIO(newline="")
        csv.writer(buffer, lineterminator="\n").writerows([heading, *sorted(found, key=lambda row: row[2])])
        if buffer.getvalue() != old:
            write_atomic(RELIABILITY, buffer.getvalue().encode())
    finally:
        os.close(lock)
