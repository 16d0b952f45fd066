"""Ground that grows harder as robots succeed: a level from 0 to 1 for each kind of ground."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.checks import check_state_array
from ballbot.envs.step import Bools

RAISE, LOWER = 0.02, 0.04
"""Of the level, after an episode that was a success, and after one that was not: it settles where two of three are."""
BELOW, ABOVE = 0.25, 0.05
"""Episodes draw their difficulty evenly from so much below the level to so much above it: what was learned is not
forgotten, and what comes next is met."""


class Curriculum:
    """Levels of kinds of ground.

    Args:
        kinds: their names.
        low: the easiest difficulty there is.
        high: the hardest.
    """

    def __init__(self, kinds: tuple[str, ...], low: float, high: float) -> None:
        self.kinds, self.low, self.high = kinds, low, high
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
            change = RAISE if won else -LOWER
            self.levels[kind] = np.clip(self.levels[kind] + change * reach, self.low, self.high)

    def measures(self, kind_ids: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Name -> (n,) level of each kind; NaN for robots on another kind."""
        levels = np.full((len(self.kinds), len(kind_ids)), np.nan)
        levels[kind_ids, np.arange(len(kind_ids))] = self.levels[kind_ids]
        return dict(zip(self._names, levels, strict=True))

    def check_state(self, state: Any) -> NDArray[np.float64]:
        """The levels; ValueError if they are damaged."""
        return check_state_array({"curriculum": state}, "curriculum", self.levels, self.low, self.high)
