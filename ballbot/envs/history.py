"""What robots sensed before now: the fields of the past, such as "gravity@10" and "gravity-10"."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.checks import check_state_array
from ballbot.envs.observations import Layout, is_change, of_now
from ballbot.envs.step import Step


class History:
    """The last steps of 2 ms of what a layout observes of the past; before an episode, all was as at its start.

    Args:
        layout: with fields of the past.
        num: robots.
    """

    def __init__(self, layout: Layout, num: int) -> None:
        origins = [of_now(name) for name in layout.past]
        self._kept = Layout(tuple(dict.fromkeys(origin for origin, _ in origins)))
        rows = [(lag, row) for origin, lag in origins for row in range(*self._kept[origin].indices(self._kept.size))]
        self._lags, self._rows = np.array(rows).T
        sizes = [layout.fields[name].size for name in layout.past]
        self._changes = np.flatnonzero(np.repeat([is_change(name) for name in layout.past], sizes))
        self._ring = np.zeros((1 + int(self._lags.max()), self._kept.size, num), np.float32)
        self._now = 0  # its row in the ring; older ones lie before it

    def begin(self, ids: NDArray[np.intp], step: Step) -> None:
        """Robots ``ids`` begin an episode as they are in this step."""
        self._ring[:, :, ids] = self._kept.columns(step)[:, ids]

    def add(self, step: Step) -> None:
        """One step later."""
        self._now = (self._now + 1) % len(self._ring)
        self._ring[self._now] = self._kept.columns(step)

    def past(self) -> NDArray[np.float32]:
        """(numbers, n) those of the layout's fields of the past, now."""
        found: NDArray[np.float32] = self._ring[self._now - self._lags, self._rows]  # negative rows count from the end
        if len(self._changes):
            found[self._changes] = self._ring[self._now, self._rows[self._changes]] - found[self._changes]
        return found

    def get_state(self) -> NDArray[np.float32]:
        """(steps, numbers, n) a copy of what is kept, the oldest first."""
        return np.roll(self._ring, -1 - self._now, axis=0)

    def check_state(self, state: Any) -> NDArray[np.float32]:
        """What ``get_state`` returned; ValueError if a world's state lacks it, or it is damaged."""
        return check_state_array(state, "history", self._ring)

    def set_state(self, kept: NDArray[np.float32]) -> None:
        """Restore what ``check_state`` returned."""
        self._ring[:], self._now = kept, len(self._ring) - 1
