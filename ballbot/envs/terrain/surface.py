"""The height and the normal of the ground at any place: the surface that MuJoCo collides with.

Each cell of the grid is two triangles, split along the diagonal from its corner of least x and y to that of greatest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.terrain.grid import Array, Grid

_Ids = NDArray[np.integer[Any]]


def heights_at(relief: NDArray[np.float32], tops: Array, grid: Grid, terrain_ids: _Ids, xy: Array) -> Array:
    """(m, ...) heights in m of fields ``terrain_ids`` (m,) at (m, ..., 2) places; beside a field, of its nearest edge.

    Args:
        relief: (num, n, n) heights in [0, 1].
        tops: (num,) m, height of 1.
        grid: where the vertices are.
        terrain_ids: (m,) which field.
        xy: (m, ..., 2) m from the middle.
    """
    corner, along_x, along_y, u, v = _triangle(relief, grid, terrain_ids, xy)
    return np.asarray((corner + u * along_x + v * along_y) * _spread(tops[terrain_ids], u))


def normals_at(relief: NDArray[np.float32], tops: Array, grid: Grid, terrain_ids: _Ids, xy: Array) -> Array:
    """(m, ..., 3) unit normals that point up; arguments as of ``heights_at``."""
    _, along_x, along_y, u, _ = _triangle(relief, grid, terrain_ids, xy)
    scale = _spread(tops[terrain_ids], u) / grid.cell
    normal = np.stack([-along_x * scale, -along_y * scale, np.ones_like(u)], axis=-1)
    return np.asarray(normal / np.linalg.norm(normal, axis=-1, keepdims=True))


def sustained_slopes_deg(relief: NDArray[np.float32], tops: Array, grid: Grid, over: float, share: float) -> Array:
    """(num,) degrees that a share of a field exceeds: slopes from places to those ``over`` m further along x and y."""
    apart = min(max(1, round(over / grid.cell)), grid.size - 1)
    every = max(1, apart // 4)
    here, right, up = (
        relief[:, :-apart:every, :-apart:every],
        relief[:, :-apart:every, apart::every],
        relief[:, apart::every, :-apart:every],
    )
    rise = np.hypot(right - here, up - here).reshape(len(relief), -1)
    keep = int(rise.shape[1] * (1 - share))
    slope = np.partition(rise, keep, axis=1)[:, keep] * (tops / (apart * grid.cell))
    return np.asarray(np.degrees(np.arctan(slope)))


def _triangle(
    relief: NDArray[np.float32], grid: Grid, terrain_ids: _Ids, xy: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """Of the triangle below each place: height at the cell's low corner, rise along x and y; the place in the cell."""
    xy = np.asarray(xy, np.float64)
    terrain_ids = np.asarray(terrain_ids)
    if xy.shape[-1:] != (2,) or xy.shape[:1] != terrain_ids.shape:
        raise ValueError(
            f"xy has shape {xy.shape} and terrain_ids {terrain_ids.shape}, expected (m, ..., 2) beside (m,)"
        )
    place = np.clip((xy + grid.half) / grid.cell, 0.0, grid.size - 1.0)
    cell = np.minimum(place.astype(np.intp), grid.size - 2)
    u, v = np.moveaxis(place - cell, -1, 0)
    column, row = np.moveaxis(cell, -1, 0)
    first = (_spread(terrain_ids, row) * grid.size + row) * grid.size + column
    flat = relief.reshape(-1)
    low, high = flat[first].astype(np.float64), flat[first + grid.size + 1].astype(np.float64)
    below = u >= v  # of the diagonal: x first, then y
    middle = flat[np.where(below, first + 1, first + grid.size)].astype(np.float64)
    along_x = np.where(below, middle - low, high - middle)
    along_y = np.where(below, high - middle, middle - low)
    return low, along_x, along_y, u, v


def _spread(per_field: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    """(m,) numbers, with as many axes as another array."""
    return per_field.reshape(per_field.shape + (1,) * (like.ndim - 1))
