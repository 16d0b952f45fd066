"""Ground with drops and a way around them, for robots that look ahead: who leaves it may be told so by its ending.

``Ground.floor`` says which ground is off the road, and the ending "off_road" ends the episode there, so that nobody
comes through by driving on the plain below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from ballbot.envs.terrain.grid import Grid, Ground
from ballbot.envs.terrain.obstacles import gaps_in_rows, staggered
from ballbot.envs.terrain.shapes import discs, scaled, spline
from ballbot.envs.terrain.stepped import STEP_CELL
from ballbot.errors import SettingsError
from ballbot.settings import Range, check_settings

START = 0.05
"""m by which the level place around the start is wider than half a road."""
CLEAR = 0.25
"""m of ground without a pit around the start, beside the pit's own radius."""
DIFFERENCE = 0.3
"""Of the largest pit's radius, by which the smallest is smaller, at most."""
ROUGH_CELL = 0.2
"""m between the random heights that rough ground is smoothed from."""


@dataclass(frozen=True)
class Road:
    """A level road that winds along +y, with a drop on both sides: straight on leads off it."""

    rolled: ClassVar[bool] = False

    width: Annotated[float, Range(0.25, 5)] = 0.5
    """Of the road, m; a metre more at difficulty 0."""
    drop: Annotated[float, Range(0, 1)] = 0.15
    """From the road to the plain beside it, m.  The robot survives 5 cm at 0.25 m/s, and rarely more than 8."""
    bend: Annotated[float, Range(0, 2)] = 0.4
    """How far it swings to either side, m; up to three tenths less by the seed."""
    wavelength: Annotated[float, Range(0.5, 20)] = 2.2
    """From one bend to the next of the same side, m; a fifth more or less by the seed."""

    def __post_init__(self) -> None:
        check_settings(self)

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Wider, straighter and less high the lower the difficulty."""
        bend = self.bend * difficulty * rng.uniform(0.7, 1.0) * rng.choice((-1.0, 1.0))
        wave = 2 * np.pi / (self.wavelength * rng.uniform(9 / 11, 13 / 11))
        phase = rng.uniform(0, 2 * np.pi)
        width, drop = self.width + 1.0 - difficulty, self.drop * difficulty
        middle = bend * (np.sin(wave * grid.axis + phase) - np.sin(phase))
        slant = np.hypot(1.0, bend * wave * np.cos(wave * grid.axis + phase))  # as wide where it runs askew
        on_road = np.abs(grid.x - middle[:, None]) / slant[:, None] < width / 2
        on_road |= np.hypot(grid.x, grid.y) < width / 2 + START
        return Ground(np.where(on_road, 0.0, -drop), floor=-drop / 2)


@dataclass(frozen=True)
class Stagger:
    """Round pits in rows, each before a gap of the row behind: the way around one leads to the next."""

    cell: ClassVar[float] = STEP_CELL
    rolled: ClassVar[bool] = False

    depth: Annotated[float, Range(0, 1)] = 0.12
    """Of every pit, m."""
    radius: Annotated[float, Range(0.05, 2)] = 0.22
    """Of the largest, m; the smallest are seven tenths as wide."""
    across: Annotated[float, Range(0.3, 10)] = 0.8
    """Between pits of a row, m."""
    along: Annotated[float, Range(0.2, 10)] = 0.55
    """From row to row, m."""
    roughness: Annotated[float, Range(0, 0.2)] = 0.02
    """Of the ground between, from its lowest to its highest, m."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.across < 2 * self.radius + 0.2:
            raise SettingsError(
                f"across must be at least 2 radius + 0.2 m = {2 * self.radius + 0.2:g} m, for a robot to pass, "
                f"got {self.across:g}"
            )

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Shallower in proportion to the difficulty, which also is the share of the pits that are there."""
        places = staggered(rng, grid, self.across, self.along)
        radii = self.radius * rng.uniform(1 - DIFFERENCE, 1.0, len(places))
        dug = (rng.random(len(places)) < difficulty) & (np.hypot(*places.T) > radii + CLEAR)
        pits = discs(grid, places, np.where(dug, radii, 0.0))
        coarse = Grid.covering(grid.length + 5 * ROUGH_CELL, ROUGH_CELL)
        uneven = scaled(spline(rng.random(coarse.shape), coarse, grid), self.roughness * difficulty)
        depth = self.depth * difficulty
        return Ground(uneven - depth * pits, floor=-depth / 2)


@dataclass(frozen=True)
class Trench:
    """Trenches across the way, each with one bridge, to the left or the right of the one before."""

    cell: ClassVar[float] = STEP_CELL
    rolled: ClassVar[bool] = False

    depth: Annotated[float, Range(0, 1)] = 0.15
    """Of the trenches, m."""
    length: Annotated[float, Range(0.1, 5)] = 0.3
    """Of a trench along the way, m."""
    bridge: Annotated[float, Range(0.25, 10)] = 0.5
    """Width of a bridge, m."""
    offset: Annotated[float, Range(0, 5)] = 0.5
    """How far the bridges lie from the straight line, at most and alternately left and right, m; half of it at
    least."""
    spacing: Annotated[float, Range(0.4, 10)] = 1.2
    """From trench to trench, m."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.spacing < self.length + 0.3:
            raise SettingsError(
                f"spacing must be at least length + 0.3 m = {self.length + 0.3:g} m, for a robot to turn between "
                f"trenches, got {self.spacing:g}"
            )

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Shallower, bridges wider (bridge / difficulty) and nearer to the straight line the lower the difficulty.

        Raises:
            SettingsError: a bridge would lie beside the field.
        """
        if self.offset * difficulty + self.bridge / 2 >= grid.half:
            raise SettingsError(
                f"bridges up to {self.offset * difficulty:g} m to the side and {self.bridge:g} m wide end beside the "
                f"field, which ends {grid.half:g} m from the middle: use a smaller offset or bridge, or a longer field"
            )
        away, bridges = gaps_in_rows(rng, grid, self.spacing, self.offset)
        in_trench = away < self.length / 2
        beside = np.abs(grid.axis - (bridges * difficulty)[:, None]) * difficulty > self.bridge / 2
        depth = self.depth * difficulty
        return Ground(np.where(in_trench[:, None] & beside, -depth, 0.0), floor=-depth / 2)
