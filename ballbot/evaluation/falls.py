"""The mildest circumstances under which a robot falls, found within given ranges.

What may differ, masses, friction, pushes, is told as one number an axis: 0 as it is meant, 1 at the range's upper end
and -1 at its lower one.  How mild circumstances are, is how far all numbers are from 0 by Euclid: axes that do not
matter then stay at 0, and what is left says what a fall needs.  (By the largest number, all axes would go along for
nothing.  In reliability analysis the nearest failure is the design point: Hasofer and Lind 1974, J. Eng. Mech. 100.)

A quarter of all circumstances are drawn at random, and more until there is a fall.  Then, again and again, eight are
made of the mildest falls so far that differ, nearer to what is meant in some numbers and changed a little in others, or
of the nearest misses, further away: an evolution strategy with elitism and niches.  On made-up problems of 14 axes and
five ways to fall, its mildest of about a hundred circumstances was 1.3 times as far as the mildest there is, in the
mean; CMA-ES and the cross-entropy method, which have their spread to learn first and settle in one place, came to 1.7
and 1.5 with a third more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.randomize import AXES
from ballbot.errors import SettingsError

Floats = NDArray[np.float64]
Trial = Callable[[Floats], tuple[Floats, Floats]]
"""(k, axes) circumstances -> (k,) shares of starts with a fall, and (k,) how near the robot is to that, 0 to 1."""

AT_A_TIME = 8
"""Circumstances that are tried at once."""
PARENTS = 10
"""Of which others are made, at most."""
SMALL = 0.2
"""A number that is nearer to 0 is 0: what hardly differs needs not be told."""
APART = 0.5
"""Distance from which on circumstances are others."""
RANDOM_SHARE = 0.25
"""Of all circumstances, how many are drawn at random at first."""


@dataclass(frozen=True)
class Space:
    """Circumstances within ranges.

    Args:
        ranges: name -> from, to, of ``ballbot.envs.randomize.check_ranges``.

    Raises:
        SettingsError: all ranges are of one value, or there are none.
    """

    ranges: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        if not np.count_nonzero(self.lowest) and not np.count_nonzero(self.highest):
            raise SettingsError("nothing can differ: give a range, such as --randomize.com-x -0.02 0.02")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the axes."""
        return tuple(self.ranges)

    @property
    def _ends(self) -> Floats:
        """(2, axes) values at the lower and upper end."""
        return np.array([*self.ranges.values()], float).reshape(-1, 2).T

    @property
    def meant(self) -> Floats:
        """(axes,) values at 0: as it is meant, or of what a range has the nearest to that."""
        return np.clip([AXES[name].nominal for name in self.names], *self._ends)

    @property
    def lowest(self) -> Floats:
        """(axes,) -1, or 0 where nothing lies below what is meant."""
        return np.where(self._ends[0] < self.meant, -1.0, 0.0)

    @property
    def highest(self) -> Floats:
        """(axes,) 1, or 0 where nothing lies above what is meant."""
        return np.where(self._ends[1] > self.meant, 1.0, 0.0)

    def snapped(self, numbers: Floats) -> Floats:
        """(k, axes) numbers of two places within the ranges, 0 where they are small."""
        found = np.round(np.clip(numbers, self.lowest, self.highest), 2)
        return np.where(np.abs(found) < SMALL, 0.0, found)

    def values(self, numbers: Floats) -> dict[str, Floats]:
        """Name -> (k,) values of (k, axes) numbers."""
        low, high = self._ends
        found = self.meant + np.where(numbers > 0, numbers * (high - self.meant), numbers * (self.meant - low))
        return dict(zip(self.names, np.clip(found, low, high).T, strict=True))


@dataclass(frozen=True)
class Tried:
    """Circumstances, in the order in which they were tried; the first is what is meant."""

    numbers: Floats
    """(k, axes)"""
    shares: Floats
    """(k,) of starts in which the robot fell."""
    nearness: Floats
    """(k,) how near it was to that, 0 to 1."""
    needed: float
    """The share from which on they count as a fall."""

    @property
    def fell(self) -> NDArray[np.bool_]:
        """(k,) which count as a fall."""
        return self.shares >= self.needed

    @property
    def distances(self) -> Floats:
        """(k,) from what is meant."""
        return np.linalg.norm(self.numbers, axis=1)

    def mildest(self, most: int, falls_only: bool = True) -> NDArray[np.intp]:
        """Indices of falls that differ, the mildest first; then of what came nearest to one, if not of falls only."""
        rank = np.where(self.fell, self.distances, np.inf)
        order = np.lexsort((-self.nearness, rank))
        chosen: list[int] = []
        for i in order:
            if len(chosen) == most or (falls_only and not self.fell[i]):
                break
            if all(np.linalg.norm(self.numbers[i] - self.numbers[j]) >= APART for j in chosen):
                chosen.append(int(i))
        return np.array(chosen, np.intp)

    def and_also(self, others: Tried) -> Tried:
        """These, and then the others."""
        return Tried(
            np.concatenate([self.numbers, others.numbers]),
            np.concatenate([self.shares, others.shares]),
            np.concatenate([self.nearness, others.nearness]),
            self.needed,
        )


def search(space: Space, trial: Trial, count: int, needed: float, rng: np.random.Generator) -> Tried:
    """Try ``count`` circumstances, or only the first ones if the robot falls as it is meant.

    Args:
        space: of what differs.
        trial: what becomes of circumstances.
        count: how many to try.
        needed: share of starts from which on they count as a fall.
        rng: what is random.
    """

    def all_of(numbers: Floats) -> Tried:
        return Tried(numbers, *trial(numbers), needed)

    first = drawn(space, min(count, AT_A_TIME), rng)
    first[0] = 0.0
    found = all_of(first)
    while (left := count - len(found.shares)) > 0 and not found.fell[0]:
        size = min(left, AT_A_TIME)
        by_chance = size if len(found.shares) < RANDOM_SHARE * count else 0 if found.fell.any() else size // 2
        numbers = [drawn(space, by_chance, rng), children(space, found, size - by_chance, rng)]
        found = found.and_also(all_of(np.concatenate(numbers)))
    return found


def drawn(space: Space, count: int, rng: np.random.Generator) -> Floats:
    """(count, axes) circumstances by chance: few of the axes differ, or many."""
    shape = count, len(space.names)
    differs = rng.random(shape) < rng.random((count, 1))
    return space.snapped(np.where(differs, rng.uniform(space.lowest, space.highest, shape), 0.0))


def children(space: Space, found: Tried, count: int, rng: np.random.Generator) -> Floats:
    """(count, axes) circumstances like the mildest falls: milder, and changed a little."""
    parents = found.mildest(PARENTS, falls_only=False)
    weights = 1 / np.arange(1, len(parents) + 1)
    chosen = rng.choice(parents, count, p=weights / weights.sum())
    shape = count, len(space.names)
    nearer = np.where(rng.random(shape) < 0.5, rng.random(shape), 0.0)
    milder = np.where(rng.random(shape) < 0.4, nearer, 1.0)
    further = rng.uniform(1.0, 1.6, (count, 1))
    numbers = found.numbers[chosen] * np.where(found.fell[chosen, None], milder, further)
    return space.snapped(numbers + np.where(rng.random(shape) < 0.3, rng.normal(0.0, 0.15, shape), 0.0))
