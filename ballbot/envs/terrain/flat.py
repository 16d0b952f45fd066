"""Level ground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ballbot.envs.terrain.grid import CELL, Grid, Ground


@dataclass(frozen=True)
class Flat:
    """Level ground: an endless plane where it is the only kind, a level field in a mixture."""

    cell: ClassVar[float] = CELL
    rolled: ClassVar[bool] = True

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Level at any difficulty."""
        return Ground(np.zeros(grid.shape))
