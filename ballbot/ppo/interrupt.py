"""Ctrl-C, SIGTERM and a closed terminal as a request to stop at the next good moment."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

REPEAT_SECONDS = 1.0
"""Signals closer than this are one request: under torchrun, terminal and launcher both pass Ctrl-C on."""


class StopSignal:
    """Within its `with` block, the first SIGINT, SIGTERM or SIGHUP only sets `number`; a later one stops at once.

    It says so in a line: Ctrl-C then ends in SystemExit(130), without the traceback of KeyboardInterrupt.
    SIGHUP, which a closing terminal sends, stays ignored if it was: that is what nohup asks for.
    Python delivers signals to the main thread alone; in any other thread this does nothing.
    """

    def __init__(self) -> None:
        self.number = 0
        self._first = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT, signal.SIGTERM]
            if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
                numbers.append(signal.SIGHUP)
            for number in numbers:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        if kind is KeyboardInterrupt and self.number:
            raise SystemExit(128 + signal.SIGINT) from None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.number:
            self.number, self._first = number, time.monotonic()
            _say(
                f"\n{signal.Signals(number).name}: finishing this update (and its evaluation, if one is due), then "
                "saving; send it again to stop at once\n"
            )
        elif time.monotonic() - self._first > REPEAT_SECONDS:
            self._restore()
            _say(f"\n{signal.Signals(number).name}: stopping at once; the last checkpoint is as it was\n")
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


@contextlib.contextmanager
def ending_children_ourselves() -> Iterator[None]:
    """Processes that begin within this `with` block get no SIGINT or SIGHUP, which a terminal sends to all of its own.

    Else environments in processes of their own, as of Gymnasium's AsyncVectorEnv, would die amid the update that
    `StopSignal` lets come to its end.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody may be listening, or the terminal may be gone
        os.write(2, text.encode())  # print() is not safe here: it may be what the signal interrupted
