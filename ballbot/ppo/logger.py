"""The run directory: settings, progress.csv, TensorBoard events, and one console line per update."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from ballbot.errors import BallbotError
from ballbot.ppo.checkpoint import read_small, write_atomic
from ballbot.ppo.config import PPOConfig
from ballbot.ppo.events import EventFile, append

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Errors that pass when somebody makes room, or a disk comes back."""
HEADER_EVERY = 25
"""Console lines between two header lines: one is always in sight on a usual terminal."""
STEP = "global_step"
COLUMNS: tuple[tuple[str, int, Callable[[dict[str, float]], str]], ...] = (
    ("step", 11, lambda row: f"{row[STEP]:,}"),
    ("steps/s", 8, lambda row: f"{row['charts/SPS']:,.0f}"),
    ("return", 9, lambda row: f"{row['charts/episodic_return']:.2f}"),
    ("length", 8, lambda row: f"{row['charts/episodic_length']:.0f}"),
    ("KL", 8, lambda row: f"{row['losses/approx_kl']:.4f}"),
    ("expl.var", 9, lambda row: f"{row['losses/explained_variance']:.3f}"),
    ("std", 6, lambda row: f"{row['policy/std']:.3f}"),
    ("lr", 9, lambda row: f"{row['charts/learning_rate']:.1e}"),
    ("ETA", 9, lambda row: _duration(row["time/eta"])),
)


MAX_LOG_BYTES = 2**28
"""Of a progress.csv; a billion steps leave a tenth of it."""


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
        traces = [name for name in ("config.json", "progress.csv", "last.pt", "best.pt") if (run_dir / name).exists()]
        checkpoints = run_dir / "checkpoints"
        if checkpoints.is_dir() and any(checkpoints.iterdir()):
            traces.append("checkpoints")
        if traces and not resuming:
            raise RunDirectoryError(
                f"{run_dir} already holds a run ({', '.join(traces)}); choose another name, "
                f"or continue it: --resume {run_dir} (in Python resume={str(run_dir)!r})"
            )
        (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe = run_dir / f".write_test_{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)  # whoever trains there may have tidied up
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write to {run_dir} ({error.strerror}); choose a directory you may write to"
        ) from error


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


class Logger:
    """Writes one row of numbers per update to progress.csv, TensorBoard and the console.

    A column enters progress.csv when its first value arrives (reward terms, say, with the first finished
    episode); the file is then rewritten with the longer header. Wall-clock columns are "time/..." and
    "charts/SPS"; all others repeat exactly when a run is repeated, or interrupted and resumed.  `earlier` holds
    the rows a resumed run goes on from.  Rows that a full disk refuses wait for the next ones.
    """

    def __init__(self, run_dir: Path, resume_step: int | None = None, console: bool = True) -> None:
        """Open the logs.

        Args:
            run_dir: existing run directory.
            resume_step: keep the rows up to this step and drop later ones, which will be learned again (None:
                new run).
            console: print a line per update.

        Raises:
            RunDirectoryError: progress.csv is damaged.
            OSError: the logs cannot be written.
        """
        self.path = run_dir / "progress.csv"
        self.console = console
        self.keep = Keeper(run_dir, console)
        rows: list[dict[str, str]] = []
        if resume_step is not None and self.path.exists():
            rows = [row for row in self._read() if int(row[STEP]) <= resume_step]
            if rows and int(rows[-1][STEP]) < resume_step:
                say(console, f"warning: {self.path} ends at step {rows[-1][STEP]}, before the checkpoint")
        try:
            self.earlier = [{key: float(value) for key, value in row.items()} for row in rows]
        except ValueError as error:
            raise self._damaged(error) from error
        self.columns: list[str] = []
        self._size = 0  # of progress.csv as written here: another size tells that somebody changed it
        self._rewrite(rows)
        self.events = EventFile(run_dir, None if resume_step is None else resume_step + 1)
        self.lines = 0
        self._waiting_rows: list[dict[str, str]] = []
        self._waiting_points: list[tuple[dict[str, float], int]] = []

    def log(self, row: dict[str, float]) -> None:
        """Write one row; it must hold "global_step".

        Raises:
            RunDirectoryError: the run directory is gone.
        """
        self._waiting_rows.append({key: repr(value) for key, value in row.items()})
        self._waiting_points.append(({k: v for k, v in row.items() if k != STEP}, int(row[STEP])))
        self.flush()
        if self.console:
            self._print(row)

    def flush(self) -> bool:
        """Write what waits for room, and return whether nothing does any more."""
        rows = self.keep(self.path.name, self._write_rows)
        return self.keep("TensorBoard's events", self._write_points) and rows

    def log_film(self, tag: str, step: int, frames: NDArray[np.uint8], fps: int) -> None:
        """Show (time, height, width, 3) frames in TensorBoard, among the images, and keep them in videos/.

        Raises:
            OSError: the file cannot be written.
            RuntimeError: there is no Pillow, which not all versions of TensorBoard bring.
        """
        try:
            from PIL import Image
        except ImportError as error:
            raise RuntimeError("films need Pillow: pip install pillow") from error
        pictures = [Image.fromarray(frame) for frame in frames]
        buffer = io.BytesIO()
        pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=1000 / fps, loop=0)
        path = self.path.parent / "videos" / f"step_{step}.gif"
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, buffer.getvalue())
        height, width, channels = frames.shape[1:]
        self.events.image(tag, buffer.getvalue(), (height, width, channels), step)  # a browser moves what is GIF

    def _write_rows(self) -> None:
        if not self._waiting_rows:
            return
        new = [key for row in self._waiting_rows for key in row if key not in self.columns]
        size = self.path.stat().st_size if self.path.exists() else None
        if new or size != self._size or self.path.name in self.keep.failing:
            rows = [*(self._read_or_move() if size else []), *self._waiting_rows]
            # each step once: some disks fail after they have written
            self._rewrite(list({row[STEP]: row for row in rows}.values()))
        else:
            text = self._text(self._waiting_rows, self.columns)
            append(self.path, text)
            self._size += len(text)
        self._waiting_rows.clear()

    def _read_or_move(self) -> list[dict[str, str]]:
        """The rows, or none and the file out of the way, if somebody damaged it: a log is no reason to end a training.

        Raises:
            OSError: it cannot be moved.
        """
        try:
            return self._read()
        except RunDirectoryError:
            aside = self.path.with_name(f"progress.damaged_{time.time_ns()}.csv")
            self.path.rename(aside)
            say(
                self.console,
                f"warning: {self.path} was damaged meanwhile; it is {aside.name} now, and a new one begins",
            )
            return []

    def _write_points(self) -> None:
        while self._waiting_points:
            self.events.scalars(*self._waiting_points[0])
            del self._waiting_points[0]

    def _read(self) -> list[dict[str, str]]:
        try:
            lines = read_small(self.path, MAX_LOG_BYTES).splitlines(keepends=True)
            if any('"' in line for line in lines[1:]):  # numbers have none, and the reader would join lines
                raise ValueError("quotation marks")
            rows = list(csv.DictReader(lines))
            # A row cut short by a crash lacks its last values (None); it is the last one, and past any checkpoint.
            if rows and None in rows[-1].values():
                rows.pop()
            if not all(None not in row.values() and None not in row and _is_step(row[STEP]) for row in rows):
                raise ValueError(f"a row without {STEP}, or with more or less values than there are columns")
        except (ValueError, KeyError, csv.Error) as error:
            raise self._damaged(error) from error
        return [{key: value for key, value in row.items() if value != ""} for row in rows]

    def _damaged(self, error: Exception) -> RunDirectoryError:
        return RunDirectoryError(
            f"{self.path} is damaged ({type(error).__name__}: {error}); rename it, and the run goes on with a new one"
        )

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        columns = list(dict.fromkeys([*self.columns, *(key for row in rows for key in row)]))
        header = [dict(zip(columns, columns, strict=True))] if columns else []
        text = self._text([*header, *rows], columns)
        write_atomic(self.path, text)
        self.columns, self._size = columns, len(text)

    @staticmethod
    def _text(rows: list[dict[str, str]], columns: list[str]) -> bytes:
        buffer = io.StringIO(newline="")
        csv.DictWriter(buffer, columns, lineterminator="\n").writerows(rows)
        return buffer.getvalue().encode()

    def _print(self, row: dict[str, float]) -> None:
        if self.lines % HEADER_EVERY == 0:
            say(True, "".join(name.rjust(width) for name, width, _ in COLUMNS))
        self.lines += 1
        cells = []
        for _, width, text in COLUMNS:
            try:
                cells.append(text(row).rjust(width))
            except KeyError:  # no episode has ended yet, or nothing was learned in the first update
                cells.append("-".rjust(width))
        evaluation = f"   eval {row['eval/return_mean']:.2f}" if "eval/return_mean" in row else ""
        say(True, "".join(cells) + evaluation)


def _is_step(text: str) -> bool:
    return text.isdecimal() and text.isascii() and len(text) < 20


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes else f"{int(seconds)}s"


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
