"""The reference's uneven ground: seeded simplex noise, fast enough to make a pool of terrains at start-up.

The reference draws its ground with the ``noise`` package's tiled ``snoise2``, which is four-dimensional simplex noise
on a torus: smoother than the two-dimensional kind (median slope 5 degrees instead of 10), so the kind matters.  At a
fixed point that noise is linear in the random gradients at the five corners of the point's simplex.  Simplices, corners
and falloff do not depend on the seed: they are computed once per grid, and a terrain is then a few gathers and
multiply-adds.

Sources: Perlin 2001, "Noise hardware"; Gustavson 2005, "Simplex noise demystified".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.terrain.grid import CELL, GRID_SIZE, SPLITS, Grid, Ground, resample
from ballbot.settings import Range, check_settings

MAX_HEIGHT = 0.1
"""Height of the highest vertex above the lowest, m (the reference's)."""

# The reference's noise: 4 octaves, 25 vertices per unit of the first, each following one twice as fine and 0.2 as high.
_OCTAVES = 4
_SCALE = 25.0
_PERSISTENCE = 0.2
_LACUNARITY = 2.0

# The reference's torus (circumference 1024 units) is nearly a plane over the 11.7 units of the field.  The other two
# coordinates run from 1024 / 2 pi = 162.97 down to 162.55 there; at these values the plane's heights have the
# reference's spread (0.155 of the range) and slopes (5.0 degrees median, 13.2 at the 99th percentile).
_SLICE = (162.9, 162.7)

# Skew that maps the lattice of 4-simplices onto hypercubes, and back (Gustavson 2005).
_SKEW = (np.sqrt(5.0) - 1.0) / 4.0
_UNSKEW = (5.0 - np.sqrt(5.0)) / 20.0
# The 32 gradients: one zero and three of +-1, the midpoints of the hypercube's edges.
_GRADIENTS = np.array([g for g in product((-1, 0, 1), repeat=4) if g.count(0) == 1], np.float32)

Floats = NDArray[np.float32]
Corner = tuple[NDArray[np.intp], Floats]  # vertex index (size²,), falloff (size²,)


class _Octave(NamedTuple):
    vertices: Floats  # (num_vertices, 4) lattice points, relative to the plane in the last two
    corners: tuple[Corner, ...]  # of each grid point's simplex
    x: Floats  # (size,) the grid's coordinate along a row; along a column it is the same, and two more are constant


@dataclass(frozen=True)
class Perlin:
    """The reference's ground: simplex noise in four octaves, the first with bumps about 0.9 m apart."""

    cell: ClassVar[float] = CELL
    rolled: ClassVar[bool] = True

    height: Annotated[float, Range(0, 2)] = MAX_HEIGHT
    """Of the highest place above the lowest, m."""

    def __post_init__(self) -> None:
        check_settings(self)

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """At difficulty 1 and on the reference's grid, the reference's ground to the bit; lower in proportion."""
        own = grid if grid.cell == CELL else Grid.covering(grid.length)
        relief = noise(rng, own.size).astype(np.float64)
        return Ground(resample(relief, own, grid) * (self.height * difficulty))


def make_terrain(terrain_id: int, *, split: str = "train", seed: int = 0, size: int = GRID_SIZE) -> Floats:
    """Height field number ``terrain_id`` of a split.

    Args:
        terrain_id: which terrain of the (split, seed) stream, >= 0.
        split: "train", "validation" or "eval"; their terrains are disjoint whatever the seeds.
        seed: base seed of the stream, >= 0.
        size: vertices along each side.

    Returns:
        (size, size) float32 heights, min 0 and max 1; row along y, column along x.

    Raises:
        ValueError: for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"terrain_split={split!r} is unknown: use one of {', '.join(map(repr, SPLITS))}")
    return noise(np.random.default_rng((SPLITS[split], seed, terrain_id)), size)


def noise(rng: np.random.Generator, size: int) -> Floats:
    """(size, size) heights at the reference's distance of vertices, min 0 and max 1."""
    # A random window of a slightly larger field: slopes depend on where a point lies in its lattice cell, and without
    # it the robot would start at the same, rather steep, place of a cell on every terrain.
    margin = round(_SCALE)  # one cell of the first octave
    grid = size + margin
    octaves = _octaves(grid)
    draws = [rng.integers(len(_GRADIENTS), size=len(octave.vertices)) for octave in octaves]
    row, column = rng.integers(margin, size=2, endpoint=True)
    rows = slice(row, row + size)  # the others are not computed; columns are, for whole rows lie in one piece
    part = slice(row * grid, (row + size) * grid)
    height, value, gathered = np.zeros((3, size, grid), np.float32)
    amplitude = 1.0
    for octave, draw in zip(octaves, draws, strict=True):
        gradient = np.take(_GRADIENTS * np.float32(amplitude), draw, axis=0, mode="clip")
        # gradient . (point - vertex), split so that all but x and y is one number per vertex
        gradient_x, gradient_y = np.ascontiguousarray(gradient.T[:2])
        constant = -np.einsum("vk,vk->v", gradient, octave.vertices)
        for index, falloff in octave.corners:
            np.take(constant, index[part], out=value.reshape(-1), mode="clip")
            for slopes, coordinate in ((gradient_x, octave.x), (gradient_y, octave.x[rows, None])):
                np.take(slopes, index[part], out=gathered.reshape(-1), mode="clip")
                gathered *= coordinate
                value += gathered
            value *= falloff[part].reshape(size, grid)
            height += value
        amplitude *= _PERSISTENCE
    window = height[:, column : column + size].copy()
    window -= window.min()
    window /= window.max()
    return window


@lru_cache(maxsize=2)
def _octaves(size: int) -> tuple[_Octave, ...]:
    """The seed-independent part of the noise, one entry an octave."""
    x, y = np.meshgrid(np.arange(size) / _SCALE, np.arange(size) / _SCALE)
    plane = np.stack([x.ravel(), y.ravel(), *np.broadcast_to(np.array(_SLICE)[:, None], (2, size * size))])
    octaves = []
    for octave in range(_OCTAVES):
        points = plane * _LACUNARITY**octave
        cell = np.floor(points + points.sum(0) * _SKEW)
        inside = points - cell + cell.sum(0) * _UNSKEW
        # a corner steps along the axes in order of the point's coordinates, largest first
        rank = np.argsort(np.argsort(-inside, axis=0, kind="stable"), axis=0)
        corners = np.concatenate([cell + (rank < steps) for steps in range(5)], axis=1).astype(np.int64)
        # number the distinct lattice points: np.unique is many times faster on one packed key than on rows
        low = corners.min(axis=1, keepdims=True)
        shape = tuple(corners.max(axis=1) - low[:, 0] + 1)
        keys, index = np.unique(np.ravel_multi_index(tuple(corners - low), shape), return_inverse=True)
        lattice = np.stack(np.unravel_index(keys, shape)) + low
        vertices = lattice - lattice.sum(0) * _UNSKEW
        falloffs = []
        for corner in index.reshape(5, -1):
            offset = points - vertices[:, corner]
            falloffs.append((corner, (np.maximum(0.6 - (offset**2).sum(0), 0.0) ** 4).astype(np.float32)))
        vertices[2:] -= points[2:, :1]  # the constant coordinates, folded into the vertices
        octaves.append(_Octave(vertices.T.astype(np.float32), tuple(falloffs), points[0, :size].astype(np.float32)))
    return tuple(octaves)
