"""Trainings that run several at a time, and go on where they were stopped: what programs that start others share."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from ballbot.ppo import CheckpointError, load_checkpoint
from ballbot.ppo.run_dir import RunDirectoryError, lock_run_dir
from ballbot.progress import Progress
from ballbot.runs import read_config

WATCHED = 2.0
"""s from a look at what programs do to the next."""

# -- A run's folder ------------------------------------------------------------------------------------------


def share_done(folder: Path) -> float:
    """Share of a run's steps that are trained and saved."""
    try:
        total = read_config(folder / "config.json")["ppo"]["total_timesteps"]
        with open(folder / "progress.csv", newline="") as handle:
            share = max(int(row["global_step"]) for row in csv.DictReader(handle)) / int(total)
        if share >= 1:  # a row is logged before the checkpoint of its update is there
            share = load_checkpoint(folder / "last.pt")["global_step"] / total
        return min(share, 1.0)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, CheckpointError):
        return 0.0


def begun(folder: Path) -> bool:
    """Whether a run left a checkpoint to go on from."""
    return any(folder.glob("last.pt")) or any(folder.glob("checkpoints/step_*.pt"))


def clear(folder: Path) -> None:
    """Remove a run's folder if it stopped before anything was saved, so that it can begin again.

    Raises:
        RunDirectoryError: it is starting now.
    """
    if folder.is_dir() and not begun(folder):
        lock = lock_run_dir(folder)
        shutil.rmtree(folder)
        if lock is not None:
            os.close(lock)


def in_use(folder: Path) -> bool:
    """Whether another process is training in a run's folder."""
    if not folder.is_dir():
        return False
    try:
        lock = lock_run_dir(folder)
    except RunDirectoryError:
        return True
    if lock is not None:
        os.close(lock)
    return False


# -- Programs ------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Print a line with the time of day; a ``Progress`` that may stand there vanishes."""
    Progress("").close()
    print(f"{time.strftime('%H:%M')} {text}", flush=True)


class Programs:
    """Runs programs, several at a time, each with a log; a signal lets them save and end."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._children: set[subprocess.Popen[bytes]] = set()
        self._failed: list[str] = []

    @property
    def stopping(self) -> bool:
        """Whether nothing more is to be started."""
        return self._stopping.is_set()

    def call(self, command: list[str], log: Path) -> bool:
        """Whether the command, which writes to the end of the log, succeeded."""
        with open(log, "ab") as handle:
            with self._lock:
                if self.stopping:
                    return False
                # in a session of its own, where Ctrl-C does not reach it: a second signal would stop it before it saves
                child = subprocess.Popen(command, stdout=handle, stderr=subprocess.STDOUT, start_new_session=True)
                self._children.add(child)
            code = child.wait()
        with self._lock:
            self._children.discard(child)
        if code:
            self.fail(str(log))
        return code == 0

    def fail(self, what: str) -> None:
        """Note what did not end well, if that was not asked for."""
        if not self.stopping:
            self._failed.append(what)

    def all(self, tasks: Sequence[Callable[[], object]], watch: Callable[[], object] | None = None) -> int:
        """Carry out tasks, which call programs, and return the exit status: 1 if some failed, 130 after a signal.

        Args:
            tasks: to carry out, in this order.
            watch: called now and then meanwhile.
        """
        on_signals(interrupt)
        with ThreadPoolExecutor(self.jobs) as pool:
            futures: list[Future[object]] = []
            try:
                futures.extend(pool.submit(task) for task in tasks)
                for future in futures:
                    while watch is not None and wait([future], WATCHED).not_done:
                        watch()
                    future.result()
            except BaseException as error:
                self._stop()
                for future in futures:
                    future.cancel()
                if not isinstance(error, KeyboardInterrupt):
                    raise
                say("stopping; the same command goes on")
                return 130
        if self._failed:
            print(f"error: these did not end well, see the ends of {', '.join(self._failed)}", file=sys.stderr)
        return int(bool(self._failed))

    def _stop(self) -> None:
        """Let programs save and end, and start nothing more."""
        with self._lock:
            self._stopping.set()
            for child in self._children:
                child.terminate()


# -- Signals -------------------------------------------------------------------------------------------------


def on_signals(handler: Callable[[int, object], None]) -> None:
    """Let the signals that end a program, as far as this system has them, do something else."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is None or threading.current_thread() is not threading.main_thread():
            continue
        if name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN:
            continue  # which is what nohup asks for
        signal.signal(number, handler)


def interrupt(number: int, frame: object) -> None:
    """What Ctrl-C does, for other signals too, and where the shell has it ignored."""
    on_signals(wait_for_them)
    raise KeyboardInterrupt


def wait_for_them(number: int, frame: object) -> None:
    """What a second signal does: trainings that were cut short would lose an update."""
    print("stopping already: the trainings finish an update and save", file=sys.stderr, flush=True)
