"""Which way to go: the cheapest path along a goal over ground that a robot can roll on, as one who knows it all.

Privileged information: a teacher or a reward may know it, no sensor tells it.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.terrain.grid import Array

if TYPE_CHECKING:
    from ballbot.envs.terrain.pool import TerrainPool

CELL = 0.05
"""m between the places of a map of costs."""
FINER = 3
"""Heights are read so many times as densely, lest a thin wall be missed."""
STEP = 0.03
"""m.  Where the ground differs by more from one place to the next, nobody goes."""
MARGIN = 0.15
"""m from such places, within which going costs more,"""
COST = 8.0
"""... up to so many times as much as elsewhere, besides,"""
CLOSED = 400.0
"""... and on them; whoever is there is led off them."""
REACH = 0.12
"""m to the places around a robot that are compared."""
PLACES = 24
"""So many of them."""
FOCUS = 0.02
"""m by which a place that is worse counts 1 / e as much."""
MOST_MAPS = 1024
"""Kept in memory, 0.1 to 0.2 MB each."""

_TURNS = 2 * np.pi * np.arange(PLACES) / PLACES
_AROUND = np.stack([np.cos(_TURNS), np.sin(_TURNS)])


class Ways:
    """Ways over the fields of a pool, each worked out when it is first asked for.

    Of each field and goal there is a map of what it costs to come to the field's far edge: m, of which those near
    ground that cannot be crossed count more.  One goes where that falls most steeply.

    Args:
        ground: the fields.
    """

    def __init__(self, ground: TerrainPool) -> None:
        self.ground = ground
        half = ground.grid.half
        self.size = 2 * int(np.ceil(half / CELL)) + 1
        self.axis = CELL * (np.arange(self.size) - self.size // 2)
        """(size,) m along the goal, and to its right."""
        self._maps = np.empty((0, self.size, self.size), np.float32)
        self._slots: dict[tuple[int, float, float], int] = {}

    def __call__(self, terrain_ids: NDArray[np.integer[Any]], goals: Array, places: Array) -> Array:
        """(2, n) unit vectors of the world: the way to go; the goal itself where that is 0, or on a plane.

        Args:
            terrain_ids: (n,) which field.
            goals: (2, n) unit vectors, or 0.
            places: (2, n) m.
        """
        if self.ground.relief is None:
            return goals
        slots = self._find(terrain_ids, goals)
        gx, gy = goals
        x, y = places[:, None] + REACH * _AROUND[..., None]  # (PLACES, n) each
        rows, columns = (
            np.clip(np.rint(axis / CELL).astype(np.intp) + self.size // 2, 0, self.size - 1)
            for axis in (gx * x + gy * y, gy * x - gx * y)
        )
        costs = self._maps[slots, rows, columns].astype(np.float64)
        weights = np.exp((costs.min(axis=0) - costs) / FOCUS)
        # in one order: numpy adds otherwise for a single robot
        way = reduce(np.add, (side[:, None] * weight for side, weight in zip(_AROUND.T, weights, strict=True)))
        length = np.sqrt(way[0] ** 2 + way[1] ** 2)
        return np.where((length > 1e-6) & (goals != 0).any(axis=0), way / np.maximum(length, 1e-6), goals)

    def _find(self, terrain_ids: NDArray[np.integer[Any]], goals: Array) -> NDArray[np.intp]:
        """(n,) which map each robot goes by; those that are missing are made."""
        keys = list(zip(terrain_ids.tolist(), goals[0].tolist(), goals[1].tolist(), strict=True))
        missing = [key for key in dict.fromkeys(keys) if key not in self._slots]
        if missing:
            if len(self._slots) + len(missing) > MOST_MAPS:
                missing = list(dict.fromkeys(keys))
                self._slots, self._maps = {}, self._maps[:0]
            self._slots |= {key: len(self._maps) + i for i, key in enumerate(missing)}
            self._maps = np.concatenate([self._maps, self._cost_maps(missing)])
        return np.array([self._slots[key] for key in keys], np.intp)

    def _cost_maps(self, keys: list[tuple[int, float, float]]) -> NDArray[np.float32]:
        """(k, size, size) m to the far edge, row along the goal and column to its right."""
        return cheapest(np.stack([costs(self._closed(key)) for key in keys]))

    def _closed(self, key: tuple[int, float, float]) -> NDArray[np.bool_]:
        """(size, size) where nobody can go."""
        terrain, x, y = key
        fine = CELL / FINER * (np.arange(FINER * (self.size - 1) + 1) - FINER * (self.size // 2))
        along, right = fine[:, None, None] * np.array([x, y]), fine[:, None] * np.array([y, -x])
        heights = self.ground.heights(np.array([terrain]), (along + right)[None])[0]
        highest, lowest = heights, heights
        for axis in (0, 1):
            highest, lowest = _around(highest, axis, np.maximum), _around(lowest, axis, np.minimum)
        return np.asarray((highest - lowest > STEP) | (lowest < self.ground.floors[terrain]))


def _around(values: Array, axis: int, most: np.ufunc) -> Array:
    """The most within half a cell of every ``FINER``th place along an axis."""
    values = np.moveaxis(values, axis, 0)
    padded = np.pad(values, [(FINER // 2 + 1, FINER // 2 + 1), (0, 0)], mode="edge")
    every = [padded[k : k + len(values) : FINER] for k in range(2 * (FINER // 2 + 1) + 1)]
    return np.asarray(np.moveaxis(most.reduce(every), 0, axis))


def costs(closed: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(rows, columns) what a metre costs: 1 far from what is closed."""
    reach = int(np.ceil(MARGIN / CELL))
    padded = np.pad(closed, reach)
    found = np.ones(closed.shape, np.float32)
    for row in range(-reach, reach + 1):
        for column in range(-reach, reach + 1):
            near = 1.0 - CELL * np.hypot(row, column) / MARGIN
            if near > 0:
                shifted = padded[
                    reach + row : reach + row + closed.shape[0], reach + column : reach + column + closed.shape[1]
                ]
                np.maximum(found, np.where(shifted, np.float32(1 + COST * near), np.float32(1)), out=found)
    found[closed] = CLOSED
    return found


def cheapest(price: NDArray[np.float32], rounds: int = 2) -> NDArray[np.float32]:
    """(k, rows, columns) m, weighted, from each place to the last row; found row by row, forth and back.

    Args:
        price: (k, rows, columns) of a metre.
        rounds: so often; with 1 no way leads back.
    """
    found = np.full_like(price, np.inf)
    found[:, -1] = 0.0
    rows = price.shape[1]
    order = range(rows - 2, -1, -1)
    for turn in range(rounds):
        for row in order:
            _from_row(found, price, row, row + 1)
            _along_row(found[:, row], price[:, row])
        if turn < rounds - 1:
            for row in range(1, rows):
                _from_row(found, price, row, row - 1)
                _along_row(found[:, row], price[:, row])
    return found


def _from_row(found: NDArray[np.float32], price: NDArray[np.float32], row: int, other: int) -> None:
    """Ways from one row to the next one, straight on and askew."""
    here, there = price[:, row], price[:, other]
    columns = here.shape[1]
    for aside in (-2, -1, 0, 1, 2):
        length = np.float32(CELL / 2 * np.hypot(1, aside))
        to = slice(max(0, aside), columns + min(0, aside))
        of = slice(max(0, -aside), columns + min(0, -aside))
        way = found[:, other, to] + length * (here[:, of] + there[:, to])
        np.minimum(found[:, row, of], way, out=found[:, row, of])


def _along_row(found: NDArray[np.float32], price: NDArray[np.float32]) -> None:
    """Ways to the side, in place."""
    between = CELL / 2 * (price[:, 1:] + price[:, :-1]).astype(np.float64)
    sums = np.concatenate([np.zeros((len(price), 1)), np.cumsum(between, axis=1)], axis=1)
    left = np.minimum.accumulate(found - sums, axis=1) + sums
    right = np.minimum.accumulate((found + sums)[:, ::-1], axis=1)[:, ::-1] - sums
    np.minimum(found, np.minimum(left, right), out=found)
