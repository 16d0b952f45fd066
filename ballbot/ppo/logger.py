"""What a run tells while it learns: progress.csv, TensorBoard events, and one console line per update."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.ppo.checkpoint import read_small, write_atomic
from ballbot.ppo.episodes import WINDOW
from ballbot.ppo.events import EventFile, append
from ballbot.ppo.run_dir import Keeper, RunDirectoryError, say

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
OF_EPISODES = ("return", "length")
LEGEND = (
    f"return, length: means of the last {WINDOW} episodes of training, which explores; -: none ended in this update\n"
    "eval: mean return of whole episodes without exploration, in environments that training never uses"
)

MAX_LOG_BYTES = 2**28
"""Of a progress.csv; a billion steps leave a tenth of it."""


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
        self._waiting_events: list[Callable[[], None]] = []
        self._best = -math.inf
        for row in self.earlier:
            self._note_best(row)

    def log(self, row: dict[str, float], moved: bool = True) -> None:
        """Write one row; it must hold "global_step".

        Args:
            row: its numbers.
            moved: whether an episode ended in this update; if not, the console shows no averages of episodes.

        Raises:
            RunDirectoryError: the run directory is gone.
        """
        self._waiting_rows.append({key: repr(value) for key, value in row.items()})
        points = {name: value for name, value in row.items() if name != STEP} | self._note_best(row)
        self._waiting_events.append(partial(self.events.scalars, points, int(row[STEP])))
        self.flush()
        if self.console:
            self._print(row, moved)

    def log_settings(self, values: Mapping[str, Any]) -> None:
        """Show nested settings of the run in TensorBoard, beside its last and best values."""
        self._waiting_events.append(partial(self.events.settings, values, self.path.parent.resolve().name))
        self.flush()

    def flush(self) -> bool:
        """Write what waits for room, and return whether nothing does any more."""
        rows = self.keep(self.path.name, self._write_rows)
        return self.keep("TensorBoard's events", self._write_events) and rows

    def _note_best(self, row: Mapping[str, float]) -> dict[str, float]:
        """The highest mean return of an evaluation so far, after one, for TensorBoard's table of runs."""
        value = row.get("eval/return_mean", math.nan)
        if not math.isfinite(value):
            return {}
        self._best = max(self._best, value)
        return {"best/return_mean": self._best}

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

    def _write_events(self) -> None:
        while self._waiting_events:
            self._waiting_events[0]()
            del self._waiting_events[0]

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

    def _print(self, row: dict[str, float], moved: bool) -> None:
        if self.lines == 0:
            say(True, LEGEND)
        if self.lines % HEADER_EVERY == 0:
            say(True, "".join(name.rjust(width) for name, width, _ in COLUMNS))
        self.lines += 1
        cells = []
        for name, width, text in COLUMNS:
            try:
                cells.append((text(row) if moved or name not in OF_EPISODES else "-").rjust(width))
            except KeyError:  # no episode has ended yet, or nothing was learned in the first update
                cells.append("-".rjust(width))
        evaluation = f"   eval {row['eval/return_mean']:.2f}" if "eval/return_mean" in row else ""
        say(True, "".join(cells) + evaluation)


def _is_step(text: str) -> bool:
    return text.isdecimal() and text.isascii() and len(text) < 20


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes else f"{int(seconds)}s"
