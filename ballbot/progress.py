"""How far something is that takes a while, and how long it will take yet: one line on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

Item = TypeVar("Item")

PAUSE = 0.5
"""s between two lines."""
SETTLED = 2.0
"""s until a guess of the rest is worth saying."""


class Progress:
    """Says it on standard error, where that is a terminal; the line vanishes in the end.

    Args:
        what: is being done; an attribute of this name says what else is later.
        stream: to write to; None: standard error.
    """

    def __init__(self, what: str, stream: TextIO | None = None) -> None:
        self.what, self._stream = what, sys.stderr if stream is None else stream
        self._seen = self._stream.isatty()
        self._start = self._last = time.monotonic()

    def __call__(self, share: float) -> None:
        """This share of all is done, 0 to 1."""
        now = time.monotonic()
        if not self._seen or now - self._last < PAUSE:
            return
        self._last = now
        left = ""
        if now - self._start >= SETTLED and share > 0:
            seconds = round((now - self._start) * (1 - share) / share)
            left = f", {seconds // 60}:{seconds % 60:02d} left"
        self._stream.write(f"\r\033[K{self.what}: {100 * share:.0f} %{left}")
        self._stream.flush()

    def close(self) -> None:
        """It is done, or something else is to be printed: the line vanishes until the next call."""
        if self._seen:
            self._stream.write("\r\033[K")
            self._stream.flush()


def reported(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """The same items, of which there are at most ``total``, while a ``Progress`` says how many have been taken."""
    progress = Progress(what)
    try:
        for number, item in enumerate(items):
            progress(min(number / max(total, 1), 1.0))
            yield item
    finally:
        progress.close()
