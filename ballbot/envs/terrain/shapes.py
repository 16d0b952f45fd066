"""Pieces that several kinds of ground are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.terrain.grid import Array, Grid

SPAWN_REACH = 1.0
"""m from the middle: an episode of 8 s at 0.5 m/s that begins within it ends on the field of 10 m."""
FOOTPRINT = 0.12
"""m: half the width of ground that should be level under a robot at its start; the ball's radius and a little."""


def smooth_step(x: NDArray[Any]) -> Array:
    """From 0 at x <= 0 to 1 at x >= 1, level at both ends: 3 x² - 2 x³."""
    x = np.clip(x, 0.0, 1.0)
    return np.asarray(x * x * (3 - 2 * x))


def level_places(heights: Array, grid: Grid, count: int, apart: float = 0.5) -> Array:
    """(count or fewer, 2) places near the middle where the ground is most level, at least ``apart`` m from each other.

    Looked for on squares of ``FOOTPRINT``, by the difference between their highest and lowest vertex.
    """
    side = max(2, round(2 * FOOTPRINT / grid.cell) + 1)
    reach = min(SPAWN_REACH, grid.half / 2)
    centre, around = (grid.size - 1) / 2, int(reach / grid.cell) + side
    low = max(0, int(centre) - around)
    part = heights[low : int(centre) + around + 2, low : int(centre) + around + 2]
    squares = np.lib.stride_tricks.sliding_window_view(part, (side, side))[:: side // 2, :: side // 2]
    spread = squares.max(axis=(2, 3)) - squares.min(axis=(2, 3))
    corners = np.arange(len(spread)) * (side // 2) + low + (side - 1) / 2
    places = (corners - centre) * grid.cell
    y, x = np.meshgrid(places, places, indexing="ij")
    spread[np.hypot(x, y) > reach] = np.inf
    found: list[tuple[float, float]] = []
    for _ in range(count):
        best = np.unravel_index(np.argmin(spread), spread.shape)
        if not np.isfinite(spread[best]):
            break
        found.append((float(x[best]), float(y[best])))
        spread[np.hypot(x - x[best], y - y[best]) < apart] = np.inf
    return np.array(found or [(0.0, 0.0)])
