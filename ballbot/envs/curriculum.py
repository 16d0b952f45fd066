"""What grows harder as robots succeed: ground, a level for each kind; and ranges, how much of them each robot meets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.checks import check_state_array
from ballbot.envs.step import Bools

RAISE = 0.02
"""Of the level, by which it rises after a success; it falls by twice that after a failure: it settles where two of
three are successes."""
BELOW, ABOVE = 0.25, 0.05
"""Episodes draw their difficulty evenly from so much below the level to so much above it: what was learned is not
forgotten, and what comes next is met."""


NARROWEST = 0.1
"""Of the ranges of what differs from episode to episode, what robots meet at first, and at least."""
WIDEN = 0.1
"""Of the ranges, by how much more of them a robot meets after a success: it is alone with its successes, and has only
some tens of episodes."""


class Curriculum:
    """Levels of kinds of ground, or of robots.

    Args:
        kinds: their names.
        low: the easiest difficulty there is.
        high: the hardest.
        rise: by which share of what is between these a level rises after a success.
    """

    def __init__(self, kinds: tuple[str, ...], low: float, high: float, rise: float = RAISE) -> None:
        self.kinds, self.low, self.high, self.rise = kinds, low, high, rise
        self._names = [f"level_{name}" for name in kinds]
        self.levels = np.full(len(kinds), low)
        """(kinds,) difficulty at which each is now."""

    def draw(self, kind: int, rng: np.random.Generator) -> float:
        """A difficulty for an episode on this kind of ground."""
        reach = self.high - self.low
        level = self.levels[kind] + reach * (rng.random() * (BELOW + ABOVE) - BELOW)
        return float(np.clip(level, self.low, self.high))

    def learn(self, kind_ids: NDArray[np.int64], difficulties: NDArray[np.float64], success: Bools) -> None:
        """Take in episodes that ended: on which kind, how difficult, and whether it was a success.

        A success counts if it was no easier than the level, less what episodes are drawn below it.
        """
        reach = self.high - self.low
        for kind, difficulty, won in zip(kind_ids, difficulties, success, strict=True):
            if won and difficulty < self.levels[kind] - BELOW * reach:
                continue
            change = self.rise if won else -2 * self.rise
            self.levels[kind] = np.clip(self.levels[kind] + change * reach, self.low, self.high)

    def measures(self, kind_ids: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Name -> (n,) level of each kind; NaN for robots on another kind."""
        levels = np.full((len(self.kinds), len(kind_ids)), np.nan)
        levels[kind_ids, np.arange(len(kind_ids))] = self.levels[kind_ids]
        return dict(zip(self._names, levels, strict=True))

    def check_state(self, state: Any, name: str = "curriculum") -> NDArray[np.float64]:
        """The levels that a state has by this name; ValueError if they are damaged."""
        return check_state_array(state, name, self.levels, self.low, self.high)


def range_curriculum(num: int) -> Curriculum:
    """Of each of ``num`` robots, how much of the ranges it meets: its level."""
    return Curriculum(tuple(map(str, range(num))), NARROWEST, 1.0, WIDEN / (1 - NARROWEST))
