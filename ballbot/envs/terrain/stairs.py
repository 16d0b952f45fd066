"""Straight flights of stairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from ballbot.envs.terrain.grid import Grid, Ground
from ballbot.settings import Range, check_settings

STEP_CELL = 0.02
"""m between vertices where steps are to be met; docs/terrain_cells.md says why."""


@dataclass(frozen=True)
class Stairs:
    """Straight flights: up ahead and down behind, down ahead and up behind, or all around a square landing."""

    cell: ClassVar[float] = STEP_CELL
    rolled: ClassVar[bool] = False

    height: Annotated[float, Range(0, 0.3)] = 0.01
    """Of a step, m."""
    run: Annotated[float, Range(0.05, 5)] = 0.4
    """Of a tread, from edge to edge, m."""
    landing: Annotated[float, Range(0.4, 10)] = 1.2
    """Side of the level place in the middle, m."""
    steps: Annotated[int, Range(1, 100)] = 8
    """In each flight; level beyond."""
    form: Literal["any", "up", "down", "pyramid", "pit"] = "any"
    """Which way: up or down along +y (the other way along -y), down on all four sides of a pyramid's top, or up on all
    sides of a pit; any: the seed says."""

    def __post_init__(self) -> None:
        check_settings(self)

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Lower steps in proportion to the difficulty."""
        form = ("up", "down", "pyramid", "pit")[rng.integers(4)]
        landing = self.landing * rng.uniform(0.8, 1.2)
        if self.form != "any":
            form = self.form
        straight = form in ("up", "down")
        distance = np.abs(grid.y) if straight else np.maximum(np.abs(grid.x), np.abs(grid.y))
        # the first riser stands at the landing's edge
        level = np.clip(np.ceil((distance - landing / 2) / self.run), 0, self.steps)
        if straight:
            level = level * np.sign(grid.y)
        sign = 1.0 if form in ("up", "pit") else -1.0
        return Ground(sign * self.height * difficulty * level)
