"""Ground with places to keep away from: pits and edges to fall from, pillars and walls that stop the robot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from ballbot.envs.terrain.grid import Array, Grid, Ground
from ballbot.envs.terrain.shapes import discs, scaled, spline
from ballbot.envs.terrain.stepped import STEP_CELL
from ballbot.errors import SettingsError
from ballbot.settings import Range, check_settings

JITTER = 0.06
"""m that each pit or pillar lies off its place in the pattern, at most, either way."""


@dataclass(frozen=True)
class Pits:
    """Round pits with sheer sides in staggered rows, on slightly uneven ground: straight on leads into one."""

    cell: ClassVar[float] = STEP_CELL
    rolled: ClassVar[bool] = False

    depth: Annotated[float, Range(0, 1)] = 0.08
    """Of every pit, m."""
    radius: Annotated[float, Range(0.05, 2)] = 0.2
    """Of the largest, m; the smallest are three quarters as wide."""
    spacing: Annotated[float, Range(0.3, 10)] = 0.9
    """Between pits of a row, m; rows are 0.7 of it apart."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.spacing < 2 * self.radius + 0.2:
            raise SettingsError(
                f"spacing must be above 2 radius + 0.2 m = {2 * self.radius + 0.2:g} m, for a robot to pass, "
                f"got {self.spacing:g}"
            )

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Shallower in proportion to the difficulty, which also is the share of the pits that are there."""
        places = staggered(rng, grid, self.spacing, 0.7 * self.spacing)
        radii = self.radius * rng.uniform(0.75, 1.0, len(places))
        dug = (rng.random(len(places)) < difficulty) & (np.hypot(*places.T) > radii + 0.3)
        pits = discs(grid, places, np.where(dug, radii, 0.0))
        coarse = Grid.covering(grid.length + 1.0, 0.2)
        uneven = scaled(spline(rng.random(coarse.shape), coarse, grid), 0.01 * difficulty)
        return Ground(uneven - self.depth * difficulty * pits, floor=-self.depth * difficulty / 2)


@dataclass(frozen=True)
class Pillars:
    """Round pillars, too high to roll over, in staggered rows on level ground."""

    cell: ClassVar[float] = STEP_CELL
    rolled: ClassVar[bool] = False

    height: Annotated[float, Range(0, 1)] = 0.15
    """Of every pillar, m."""
    radius: Annotated[float, Range(0.03, 2)] = 0.12
    """Of the thickest, m; the thinnest are three quarters as thick."""
    spacing: Annotated[float, Range(0.3, 10)] = 0.9
    """Between pillars of a row, m; rows are 0.7 of it apart."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.spacing < 2 * self.radius + 0.4:
            raise SettingsError(
                f"spacing must be above 2 radius + 0.4 m = {2 * self.radius + 0.4:g} m, for a robot to pass, "
                f"got {self.spacing:g}"
            )

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """A share of the pillars that is the difficulty; those that stand do so at higher ones too."""
        places = staggered(rng, grid, self.spacing, 0.7 * self.spacing)
        radii = self.radius * rng.uniform(0.75, 1.0, len(places))
        stands = (rng.random(len(places)) < difficulty) & (np.hypot(*places.T) > radii + 0.4)
        return Ground(self.height * discs(grid, places, np.where(stands, radii, 0.0)))


@dataclass(frozen=True)
class Slalom:
    """Walls across the way, each with one gate, to the left or the right of the one before."""

    cell: ClassVar[float] = STEP_CELL
    rolled: ClassVar[bool] = False

    height: Annotated[float, Range(0, 1)] = 0.15
    """Of the walls, m."""
    gate: Annotated[float, Range(0.3, 10)] = 0.6
    """Width of a gate, m."""
    offset: Annotated[float, Range(0, 5)] = 0.5
    """How far the gates lie from the straight line, at most and alternately left and right, m; half of it at least."""
    spacing: Annotated[float, Range(0.4, 10)] = 1.2
    """From wall to wall, m."""
    thickness: Annotated[float, Range(0.05, 1)] = 0.1
    """Of a wall, m."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.spacing < self.thickness + 0.3:
            raise SettingsError(
                f"spacing must be above thickness + 0.3 m = {self.thickness + 0.3:g} m, for a robot to turn between "
                f"walls, got {self.spacing:g}"
            )

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Gates are wider the lower the difficulty, gate / difficulty, and less far to the side; none at 0.

        Raises:
            SettingsError: a gate would lie beside the field.
        """
        if self.offset * difficulty + self.gate / 2 >= grid.half:
            raise SettingsError(
                f"gates up to {self.offset * difficulty:g} m to the side and {self.gate:g} m wide end beside the "
                f"field, which ends {grid.half:g} m from the middle: use a smaller offset or gate, or a longer field"
            )
        away, gates = gaps_in_rows(rng, grid, self.spacing, self.offset)
        in_wall = away < self.thickness / 2
        beside = np.abs(grid.axis - (gates * difficulty)[:, None]) * difficulty > self.gate / 2
        return Ground(np.where(in_wall[:, None] & beside, self.height, 0.0))


@dataclass(frozen=True)
class SteppingLanes:
    """Winding lanes with a drop on either side, of slabs with small steps between; bridges lead to the next lane."""

    cell: ClassVar[float] = STEP_CELL
    rolled: ClassVar[bool] = False

    width: Annotated[float, Range(0.2, 5)] = 0.5
    """Of a lane, m."""
    spacing: Annotated[float, Range(0.3, 10)] = 1.2
    """From the middle of a lane to that of the next, m."""
    drop: Annotated[float, Range(0, 1)] = 0.08
    """From the lanes to the ground beside them, m."""
    step: Annotated[float, Range(0, 0.1)] = 0.005
    """From one slab to the next, at most, m."""
    slab: Annotated[float, Range(0.2, 10)] = 0.8
    """Length of a slab along its lane, m."""
    bend: Annotated[float, Range(0, 2)] = 0.3
    """How far the lanes swing to either side, m."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.width >= self.spacing:
            raise SettingsError(f"width must be below the spacing of the lanes, {self.spacing:g} m, got {self.width:g}")

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Wider lanes, a smaller drop, lower steps and straighter lanes the lower the difficulty."""
        wave, phase = 2 * np.pi / rng.uniform(1.8, 2.6), rng.uniform(0, 2 * np.pi)
        bend = self.bend * difficulty * rng.uniform(0.7, 1.0)
        middle = bend * (np.sin(wave * grid.axis + phase) - np.sin(phase))
        slant = np.hypot(1.0, bend * wave * np.cos(wave * grid.axis + phase))  # a lane is as wide where it runs askew
        lane_place = (grid.x - middle[:, None]) / self.spacing
        lane = np.round(lane_place)
        width = self.spacing - (self.spacing - self.width) * difficulty
        on_lane = np.abs(lane_place - lane) * self.spacing / slant[:, None] < width / 2
        lanes = int(np.abs(lane).max())
        slabs = int(grid.length / self.slab) + 2
        row = ((grid.axis + grid.half + rng.uniform(0, self.slab)) / self.slab).astype(np.intp)
        heights = self.step * difficulty * rng.random((slabs, 2 * lanes + 1))
        bridges = rng.random((slabs, 2 * lanes + 1)) < 0.25
        relief = heights[row[:, None], lane.astype(np.intp) + lanes]
        gap = np.floor(lane_place).astype(np.intp) + lanes
        bridged = bridges[row[:, None], np.clip(gap, 0, 2 * lanes)]
        return Ground(np.where(on_lane | bridged, relief, -self.drop * difficulty), floor=-self.drop * difficulty / 2)


def gaps_in_rows(rng: np.random.Generator, grid: Grid, spacing: float, offset: float) -> tuple[Array, Array]:
    """Rows across the way, ``spacing`` m apart, the start halfway between two, each with one gap.

    Gaps lie alternately left and right of the straight line, up to ``offset`` m, at least half of it.

    Returns:
        (size,) m of each vertex along y from the nearest row, and (size,) m along x of that row's gap.
    """
    number = int(grid.half / spacing) + 1
    rows = np.arange(-number, number) + 0.5
    side = np.where(np.arange(2 * number) % 2, 1.0, -1.0) * rng.choice((1.0, -1.0))
    gaps = side * rng.uniform(0.5, 1.0, 2 * number) * offset
    row = np.clip((grid.axis / spacing + number).astype(np.intp), 0, 2 * number - 1)
    return np.abs(grid.axis - rows[row] * spacing), gaps[row]


def staggered(rng: np.random.Generator, grid: Grid, across: float, along: float) -> Array:
    """(k, 2) places in rows ``along`` m apart, ``across`` m from each other, every second row shifted by half."""
    rows = np.arange(-int(grid.half / along) - 1, int(grid.half / along) + 1)
    columns = np.arange(-int(grid.half / across) - 2, int(grid.half / across) + 2)
    row, column = (index.ravel() for index in np.meshgrid(rows, columns))
    places = np.stack([(column + 0.5 + 0.5 * (row % 2)) * across, (row + 0.5) * along], axis=1)
    places[:, 0] += rng.uniform(-across / 2, across / 2)
    return places + rng.uniform(-JITTER, JITTER, places.shape)
