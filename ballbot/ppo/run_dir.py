"""The run directory: who may write to it, its settings, and how writing outlives a full disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from ballbot.errors import BallbotError
from ballbot.ppo.checkpoint import write_atomic
from ballbot.ppo.config import PPOConfig

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Errors that pass when somebody makes room, or a disk comes back."""


class RunDirectoryError(BallbotError, RuntimeError):
    """The run directory cannot be used; the message says why and what to do."""


def create_run_dir(run_dir: Path, resuming: bool) -> None:
    """Make `run_dir` and its `checkpoints`, refusing to mix two runs.

    Raises:
        RunDirectoryError: it already holds a run that is not being resumed, or cannot be written.
    """
    try:
        for name in ("checkpoints", "checkpoints/abandoned", "videos", "progress.csv", "last.pt"):
            if (run_dir / name).is_symlink():  # in a run of somebody else's it may lead anywhere
                raise RunDirectoryError(
                    f"{run_dir / name} is a link, and would be written through: put what it leads to in its place"
                )
        if not resuming:
            refuse_used(run_dir)
        (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe = run_dir / f".write_test_{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)  # whoever trains there may have tidied up
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write to {run_dir} ({error.strerror}); choose a directory you may write to"
        ) from error


def refuse_used(run_dir: Path) -> None:
    """Refuse a directory for a new run that holds one.

    Raises:
        RunDirectoryError: it does.
    """
    traces = [name for name in ("config.json", "progress.csv", "last.pt", "best.pt") if (run_dir / name).exists()]
    checkpoints = run_dir / "checkpoints"
    if checkpoints.is_dir() and any(checkpoints.iterdir()):
        traces.append("checkpoints")
    if traces:
        remedy = "delete it, unless it is still training: it holds no checkpoint to continue from"
        if (run_dir / "last.pt").exists() or any(checkpoints.glob("step_*.pt")):
            remedy = f"continue it: --resume {run_dir} (in Python resume={str(run_dir)!r})"
        raise RunDirectoryError(
            f"{run_dir} already holds a run ({', '.join(traces)}); choose another name, or {remedy}"
        )


def lock_run_dir(run_dir: Path, doing: str = "training") -> int | None:
    """Keep other processes from writing to `run_dir` as long as the returned file descriptor is open.

    The lock ends with the process, however that ends. None: this system or file system has no such locks.

    Raises:
        RunDirectoryError: another process holds it.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    directory = os.open(run_dir, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(directory)
        raise RunDirectoryError(
            f"another process is {doing} in {run_dir}; wait for its end, or choose another name"
        ) from None
    except OSError:  # some network file systems
        os.close(directory)
        return None
    return directory


def say(console: bool, text: str) -> None:
    """Print `text` at once, if there is a console to print to.

    A run outlives its console: once a line cannot be printed (`| head`, a full disk behind `>`), nothing is any more.
    """
    if not console:
        return
    try:
        print(text, flush=True)
    except UnicodeEncodeError:
        print(text.encode("ascii", "backslashreplace").decode(), flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the text would fail again at exit


def write_config(run_dir: Path, config: PPOConfig, settings: Mapping[str, Any], world_size: int) -> None:
    """Dump what it takes to repeat the run to `config.json`.

    Args:
        run_dir: existing run directory.
        config: settings of PPO.
        settings: settings of the environments, from the script; anything JSON cannot hold is written as its
            text.
        world_size: number of processes.
    """
    content = {
        "ppo": asdict(config),
        **settings,
        "world_size": world_size,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "gymnasium": gymnasium.__version__,
        },
        "git_commit": git_commit(),
    }
    write_atomic(run_dir / "config.json", (json.dumps(content, indent=2, default=str) + "\n").encode())


class Keeper:
    """Writes into a run directory, and outlives a disk that is full or fails for a while."""

    def __init__(self, run_dir: Path, console: bool) -> None:
        self.run_dir, self.console = run_dir, console
        self._directory = _identity(run_dir)
        self.failing: dict[str, OSError] = {}
        """What could not be written when it was last tried -> why."""

    @property
    def hopeless(self) -> bool:
        """Whether something failed that waiting for room does not mend."""
        return any(error.errno not in NO_ROOM for error in self.failing.values())

    def __call__(self, what: str, write: Callable[[], None]) -> bool:
        """Write, and return whether that succeeded; a failure, and the end of it, are said once.

        Raises:
            RunDirectoryError: the directory is gone, or another: nothing of this run belongs there.
        """
        try:
            self._check_directory()
            write()
        except OSError as error:
            with contextlib.suppress(OSError):  # whether it is there cannot be told now
                self._check_directory()
            if what not in self.failing:
                reason = error if error.errno is None else os.strerror(error.errno)
                remedy = "make room" if error.errno in NO_ROOM else f"check {self.run_dir}"
                text = f"{what} not written ({reason}): {remedy}; training goes on, and tries again"
                if self.console:
                    say(True, f"warning: {text}")
                else:
                    warnings.warn(text, RuntimeWarning, stacklevel=3)
            self.failing[what] = error
            return False
        if self.failing.pop(what, None) is not None:
            say(self.console, f"note: {what} written again")
        return True

    def _check_directory(self) -> None:
        if _identity(self.run_dir) != self._directory:
            raise RunDirectoryError(
                f"{self.run_dir} was removed or renamed while its training ran; what it held last is there, or gone "
                "with it: put it back and resume, or start a new run"
            )


def _identity(directory: Path) -> tuple[int, int] | None:
    """What a directory keeps when it is renamed; None without one.

    Raises:
        OSError: it cannot be told.
    """
    try:
        found = os.stat(directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def git_commit(file: Path = Path(__file__)) -> str | None:
    """Commit of the checkout that tracks `file`, with "-dirty" if code was edited since; None if none does."""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", *arguments]
        run = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=True, timeout=5)
        return run.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # an installed copy may lie within somebody else's checkout
        edited = git("diff", "--name-only", "HEAD", "--", *(f":/*.{ending}" for ending in ("py", "c", "xml", "pt")))
        return git("rev-parse", "HEAD") + ("-dirty" if edited else "")
    except (OSError, subprocess.SubprocessError):
        return None
