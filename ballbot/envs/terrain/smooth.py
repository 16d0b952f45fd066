"""Ground without edges, which the robot rolls over everywhere: its slopes are what is hard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from ballbot.envs.terrain.grid import CELL, Grid, Ground
from ballbot.envs.terrain.shapes import level_places
from ballbot.settings import Range, check_settings


@dataclass(frozen=True)
class Hills:
    """Rounded hills and hollows in all directions: a dozen waves of random direction, length and phase."""

    cell: ClassVar[float] = CELL
    rolled: ClassVar[bool] = True

    height: Annotated[float, Range(0, 5)] = 0.3
    """Of the highest place above the lowest, m."""
    width: Annotated[float, Range(0.3, 20)] = 2.5
    """From one hilltop to the next, about, m."""

    def __post_init__(self) -> None:
        check_settings(self)

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Lower in proportion to the difficulty."""
        turns = 2 * np.pi / (self.width * rng.uniform(0.8, 1.3, 12))
        angles, phases = rng.uniform(0, 2 * np.pi, (2, 12))
        # cos(a + b) of a plane wave is the real part of a product of one factor a row and one a column
        along_x = np.exp(1j * np.outer(turns * np.cos(angles), grid.axis))
        along_y = np.exp(1j * (np.outer(turns * np.sin(angles), grid.axis) + phases[:, None]))
        relief = along_y.real.T @ along_x.real - along_y.imag.T @ along_x.imag
        relief -= relief.min()
        relief *= self.height * difficulty / relief.max()
        return Ground(relief, level_places(relief, grid, 4))


@dataclass(frozen=True)
class Ramp:
    """A ramp across the whole field, up or down as the seed has it, between two level plains."""

    cell: ClassVar[float] = CELL
    rolled: ClassVar[bool] = True

    angle_deg: Annotated[float, Range(0, 45)] = 10.0
    """Of the slope, degrees."""
    run: Annotated[float, Range(0.2, 20)] = 1.5
    """Of the slope, seen from above, m."""
    approach: Annotated[float, Range(0.2, 10)] = 0.8
    """Level ground between the start and the foot, m; a fifth more or less by the seed."""

    def __post_init__(self) -> None:
        check_settings(self)

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """A smaller angle in proportion to the difficulty."""
        approach = self.approach * rng.uniform(0.8, 1.2)
        heading = rng.uniform(-0.4, 0.4)  # rad: the ramp lies ahead of a robot that drives along +y
        rise = np.tan(np.radians(self.angle_deg * difficulty)) * rng.choice((1.0, -1.0))
        ahead = grid.y * np.cos(heading) + grid.x * np.sin(heading)
        return Ground(rise * np.clip(ahead - approach, 0.0, self.run))
