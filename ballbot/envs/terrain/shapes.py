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
LEVEL = 0.012
"""m that the ground may rise over a footprint, 3 degrees; where it rises more all over, one place is found."""


def smooth_step(x: NDArray[Any]) -> Array:
    """From 0 at x <= 0 to 1 at x >= 1, level at both ends: 3 x² - 2 x³."""
    x = np.clip(x, 0.0, 1.0)
    return np.asarray(x * x * (3 - 2 * x))


def ahead(grid: Grid, heading: float) -> Array:
    """(size, size) m of each vertex along a direction; 0 is +y, and positive turns from there to +x."""
    return np.asarray(grid.axis[:, None] * np.cos(heading) + grid.axis * np.sin(heading))


def scaled(relief: Array, height: float) -> Array:
    """The same shape from 0 to ``height``."""
    low, high = relief.min(), relief.max()
    return np.asarray((relief - low) * (height / (high - low)))


def plane_waves(rng: np.random.Generator, grid: Grid, wavelength: float, count: int) -> Array:
    """(size, size) sum of cosines of random directions and phases, each 0.8 to 1.3 wavelengths (m) long."""
    turns = 2 * np.pi / (wavelength * rng.uniform(0.8, 1.3, count))
    angles, phases = rng.uniform(0, 2 * np.pi, (2, count))
    # cos(a + b) is the real part of a product: of one factor a row and one a column
    along_x = np.exp(1j * np.outer(turns * np.cos(angles), grid.axis))
    along_y = np.exp(1j * (np.outer(turns * np.sin(angles), grid.axis) + phases[:, None]))
    return np.asarray(along_y.real.T @ along_x.real - along_y.imag.T @ along_x.imag)


def spline(values: Array, coarse: Grid, grid: Grid) -> Array:
    """Values at a coarse grid's vertices, smoothed over one two coarse cells shorter at each end by cubic B-splines."""
    place = (grid.axis + coarse.half) / coarse.cell
    first = place.astype(np.intp)
    assert first[0] >= 1 and first[-1] + 2 < coarse.size, (grid, coarse)
    t = place - first
    pieces = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    weights = np.zeros((grid.size, coarse.size))
    for k, piece in enumerate(pieces):
        weights[np.arange(grid.size), first - 1 + k] = piece / 6
    return np.asarray(weights @ values @ weights.T)


def level_places(heights: Array, grid: Grid, count: int, apart: float = 0.5) -> Array:
    """(k, 2) places near the middle where the ground is most level, at least ``apart`` m from each other, k <= count.

    Looked for on squares of ``FOOTPRINT``, by the difference between their highest and lowest vertex; of equal ones the
    nearest to the middle counts.
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
    distance = np.hypot(x, y)
    spread += 1e-7 * distance
    spread[distance > reach] = np.inf
    found: list[tuple[float, float]] = []
    for _ in range(count):
        best = np.unravel_index(np.argmin(spread), spread.shape)
        if not np.isfinite(spread[best]) or (found and spread[best] > LEVEL):
            break
        found.append((float(x[best]), float(y[best])))
        spread[np.hypot(x - x[best], y - y[best]) < apart] = np.inf
    return np.array(found or [(0.0, 0.0)])


def discs(grid: Grid, places: Array, radii: Array) -> NDArray[np.bool_]:
    """(size, size) whether a vertex lies within one of the discs at (k, 2) places with (k,) radii, m."""
    inside = np.zeros(grid.shape, bool)
    for (x, y), radius in zip(places, radii, strict=True):
        if radius <= 0:
            continue
        rows, columns = (_between(grid, centre - radius, centre + radius) for centre in (y, x))
        dx, dy = grid.axis[columns] - x, grid.axis[rows] - y
        inside[rows, columns] |= dx * dx + (dy * dy)[:, None] < radius * radius
    return inside


def _between(grid: Grid, low: float, high: float) -> slice:
    """The vertices of an axis from low to high, m, and perhaps one more on either side."""
    first, last = (np.array([low, high]) + grid.half) / grid.cell
    return slice(max(0, int(np.floor(first))), max(0, int(np.ceil(last)) + 1))
