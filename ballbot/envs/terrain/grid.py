"""What every kind of ground is made of: the vertices it is sampled at, and what comes out.

Lengths are in metres, x along columns and y along rows, with (0, 0) in the middle of the field.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ballbot.errors import SettingsError

GRID_SIZE = 293
"""Vertices along each side (the reference's grid)."""
TERRAIN_LENGTH = 10.0
"""Side of the square field, m (the reference's); larger ones have more vertices, as far apart."""
CELL = TERRAIN_LENGTH / (GRID_SIZE - 1)
"""m between neighbouring vertices of the reference's grid: 3.4 cm."""
MAX_TERRAIN_LENGTH = 100.0
"""m.  Such a field has 8.5 million vertices."""
MAX_VERTICES = 40_000_000
"""Of one field: 160 MB.  More is a slipped digit in the length or the cell."""

SPLITS = {"train": 0, "validation": 2, "eval": 1}
"""Terrain splits: to train on, to choose by (best.pt, settings), and to judge what was chosen.  The split enters the
seed sequence, so that the three never share a terrain."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """The vertices of a square field, centred at (0, 0)."""

    size: int
    """Vertices along each side."""
    cell: float = CELL
    """m from one vertex to the next."""

    def __post_init__(self) -> None:
        if self.size < 3:
            raise SettingsError(f"a field of {self.size} x {self.size} vertices has no middle: use a finer cell")
        if self.size**2 > MAX_VERTICES:
            raise SettingsError(
                f"a field of {self.size} x {self.size} vertices, {self.cell:g} m apart, is more than memory is for: "
                f"use a shorter length or a coarser cell, for at most {MAX_VERTICES:,} vertices"
            )

    @classmethod
    def covering(cls, length: float, cell: float = CELL) -> Grid:
        """The smallest grid at least ``length`` m long."""
        for name, value in (("length", length), ("cell", cell)):
            if not 0 < value < np.inf:
                raise SettingsError(f"{name} must be above 0 m, got {value}")
        return cls(int(np.ceil(length / TERRAIN_LENGTH * (TERRAIN_LENGTH / cell) - 1e-9)) + 1, cell)

    @property
    def shape(self) -> tuple[int, int]:
        """Of an array of heights: rows along y, columns along x."""
        return self.size, self.size

    @property
    def length(self) -> float:
        """Side, m."""
        # for the reference's cell the second factor is 292 / 10 to the last bit, as it was before there were others
        return TERRAIN_LENGTH * ((self.size - 1) / (TERRAIN_LENGTH / self.cell))

    @property
    def half(self) -> float:
        """From the middle to the nearest edge, m."""
        return self.length / 2

    @property
    def axis(self) -> Array:
        """(size,) coordinates along one side, m."""
        return _axis(self)

    @property
    def x(self) -> Array:
        """(size, size) coordinates of the vertices along columns, m; not to be written to."""
        return np.broadcast_to(_axis(self), self.shape)

    @property
    def y(self) -> Array:
        """(size, size) coordinates of the vertices along rows, m; not to be written to."""
        return np.broadcast_to(_axis(self)[:, None], self.shape)


@lru_cache(maxsize=8)
def _axis(grid: Grid) -> Array:
    axis = np.linspace(-grid.half, grid.half, grid.size)
    axis.setflags(write=False)
    return axis


@dataclass(frozen=True, eq=False)
class Ground:
    """One field: its heights, and places at which an episode may begin."""

    heights: NDArray[np.floating[Any]]
    """(size, size) in m (whole numbers become floats), row along y and column along x; only differences count."""
    spawns: Any = field(default=((0.0, 0.0),))
    """(k, 2) places in m from the middle, k >= 1."""
    floor: float = -np.inf
    """m, as ``heights`` are: lower ground is off the road, which the ending "off_road" ends episodes for."""

    def __post_init__(self) -> None:
        heights = np.asarray(self.heights)
        if heights.ndim != 2 or heights.shape[0] != heights.shape[1]:
            raise SettingsError(f"heights must have the grid's shape (size, size), got {heights.shape}")
        if np.issubdtype(heights.dtype, np.integer):
            heights = heights.astype(np.float64)
        if not np.issubdtype(heights.dtype, np.floating):
            raise SettingsError(f"heights must be floating-point numbers in m, got {heights.dtype}")
        if not np.isfinite(heights).all():
            raise SettingsError(f"heights must be finite, but {int((~np.isfinite(heights)).sum())} of them are not")
        try:
            spawns = np.asarray(self.spawns, np.float64)
        except (TypeError, ValueError):
            spawns = np.empty(0)
        if spawns.ndim != 2 or spawns.shape[1] != 2 or not len(spawns) or not np.isfinite(spawns).all():
            raise SettingsError(f"spawns must be one or more places (x, y) in m, got {self.spawns!r}")
        if not isinstance(self.floor, (int, float, np.floating)) or np.isnan(self.floor):
            raise SettingsError(f"floor must be a height in m, got {self.floor!r}")
        object.__setattr__(self, "heights", heights)
        object.__setattr__(self, "spawns", spawns)


class Terrain(Protocol):
    """A kind of ground: a frozen dataclass whose annotated fields are options, in metres and degrees.

    It may say ``cell: ClassVar[float]``, the distance of vertices in m that shows this kind well, and ``rolled:
    ClassVar[bool]``, whether the robot is meant to roll over all of it, so that slopes too steep to stand on are worth
    a warning (a kind that does not say is).
    """

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """A field: as the options say at difficulty 1, nearly level at 0; the same for the same stream of numbers."""
        ...


def grid_size(length: float) -> int:
    """Vertices along each side of a field at least ``length`` m long, at the reference's distance."""
    return Grid.covering(length).size


def field_length(size: int) -> float:
    """Side in m of a field with ``size`` vertices along it, at the reference's distance."""
    return Grid(size).length


def resample(heights: Array, old: Grid, new: Grid) -> Array:
    """Heights on another grid, bilinear between vertices; beyond the old field as at its edge."""
    if old == new:
        return heights
    place = np.clip((new.axis + old.half) / old.cell, 0, old.size - 1)
    first = np.minimum(place.astype(np.intp), old.size - 2)
    part = place - first
    rows = heights[first] * (1 - part)[:, None] + heights[first + 1] * part[:, None]
    return np.asarray(rows[:, first] * (1 - part) + rows[:, first + 1] * part)
