"""Curves and pictures for TensorBoard, appended whole or not at all.

TensorBoard's own writer has a thread that dies with the first full disk, and takes the training along.  This one
writes the same format (TensorBoard's ``RecordWriter``) at once; what could not be written leaves no trace.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb  # ".api" needs TensorFlow
from tensorboard.summary.writer.record_writer import RecordWriter

from ballbot.ppo.checkpoint import not_through_links

_count = itertools.count()


def append(path: Path, data: bytes) -> None:
    """Append data to a file that exists or not; if that fails, the file is as before.

    Raises:
        OSError: it cannot be written, wholly.
    """
    with open(path, "ab", buffering=0, opener=not_through_links) as file:
        size = file.seek(0, os.SEEK_END)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[file.write(rest) :]  # a disk that becomes full takes a part first
        except OSError:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                file.truncate(size)
            raise


class EventFile:
    """One file of events, in a folder that TensorBoard is pointed at.

    Args:
        folder: where to make it; it must exist.
        purge_step: hide what older files there tell of this step and later ones (None: nothing).

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        # TensorBoard reads files by their names' order: one after the others, even if the clock was set back
        numbers = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")]
        others = [int(number) for number in numbers if number.isdecimal() and len(number) <= 10]
        now = max(int(time.time()), max(others, default=0) + 1)
        moment = f"{now:010d}.{platform.node()}.{os.getpid()}.{next(_count)}"
        self.path = folder / f"events.out.tfevents.{moment}"
        first = [Event(file_version="brain.Event:2", wall_time=time.time())]
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            first.append(Event(step=purge_step, session_log=start, wall_time=time.time()))
        append(self.path, b"".join(map(_record, first)))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve.

        Raises:
            OSError: they cannot be written, none of them.
        """
        self._add(Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]), step)

    def image(self, tag: str, encoded: bytes, size: tuple[int, int, int], step: int) -> None:
        """Add a picture, encoded as a browser shows it; its (height, width, channels).

        Raises:
            OSError: it cannot be written.
        """
        height, width, channels = size
        picture = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=encoded)
        self._add(Summary(value=[Summary.Value(tag=tag, image=picture)]), step)

    def settings(self, values: Mapping[str, Any], run: str) -> None:
        """Say what the curves come from, for the tab "HParams": a row there for each run.

        Of what is said again, as by a resumed run, TensorBoard keeps the first.

        Args:
            values: nested dicts of settings, told apart by dotted names.
            run: name of the run.

        Raises:
            OSError: they cannot be written.
        """
        self._add(hparams_pb(_flat(values), trial_id=_written(run)), 0)

    def _add(self, summary: Summary, step: int) -> None:
        append(self.path, _record(Event(summary=summary, step=step, wall_time=time.time())))


def _record(event: Event) -> bytes:
    buffer = io.BytesIO()
    RecordWriter(buffer).write(event.SerializeToString())
    return buffer.getvalue()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted name -> what TensorBoard shows of a setting: booleans, numbers and text."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value if isinstance(value, (bool, int, float)) else _written(str(value))
    return found


def _written(text: str) -> str:
    """Text in which what cannot be written in UTF-8, as names that the locale does not know, stands as escapes."""
    return text.encode(errors="backslashreplace").decode()
