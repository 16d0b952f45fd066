"""Ground without edges, which the robot rolls over everywhere: its slopes are what is hard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from ballbot.envs.terrain.grid import CELL, Grid, Ground
from ballbot.envs.terrain.shapes import ahead, level_places, plane_waves, scaled, smooth_step, spline
from ballbot.settings import Range, check_settings


@dataclass(frozen=True)
class Hills:
    """Rounded hills and hollows in all directions: a dozen waves of random direction, length and phase."""

    cell: ClassVar[float] = CELL
    rolled: ClassVar[bool] = True

    height: Annotated[float, Range(0, 5)] = 0.2
    """Of the highest place above the lowest, m."""
    width: Annotated[float, Range(0.3, 20)] = 2.5
    """From one hilltop to the next, about, m."""

    def __post_init__(self) -> None:
        check_settings(self)

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Lower in proportion to the difficulty."""
        relief = scaled(plane_waves(rng, grid, self.width, 12), self.height * difficulty)
        return Ground(relief, level_places(relief, grid, 4))


@dataclass(frozen=True)
class Ramp:
    """A ramp across the whole field, up or down as the seed has it, between two level plains."""

    cell: ClassVar[float] = CELL
    rolled: ClassVar[bool] = True

    angle_deg: Annotated[float, Range(0, 45)] = 9.0
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
        distance = ahead(grid, rng.uniform(-0.4, 0.4))
        rise = np.tan(np.radians(self.angle_deg * difficulty)) * rng.choice((1.0, -1.0))
        return Ground(rise * np.clip(distance - approach, 0.0, self.run))


@dataclass(frozen=True)
class Gradient:
    """One long slope, up on one side and down on the other, which begins level under the robot and steepens."""

    cell: ClassVar[float] = CELL
    rolled: ClassVar[bool] = True

    angle_deg: Annotated[float, Range(0, 45)] = 8.0
    """Of the slope from where it no longer steepens, degrees."""
    onset: Annotated[float, Range(0.2, 20)] = 1.0
    """Over which it steepens, after 0.3 m of level ground, m."""

    def __post_init__(self) -> None:
        check_settings(self)

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """A smaller angle in proportion to the difficulty."""
        distance = ahead(grid, rng.uniform(-np.pi, np.pi))
        t = np.maximum(np.abs(distance) - 0.3, 0.0) / self.onset
        # the integral of a slope that rises evenly to t = 1 and stays
        rise = np.where(t < 1, t * t / 2, t - 0.5) * self.onset
        return Ground(np.tan(np.radians(self.angle_deg * difficulty)) * rise * np.sign(distance))


@dataclass(frozen=True)
class Sinusoid:
    """Long waves across the way, each crest as high as the next; the seed chooses their direction and phase."""

    cell: ClassVar[float] = CELL
    rolled: ClassVar[bool] = True

    height: Annotated[float, Range(0, 2)] = 0.08
    """Of a crest above a trough, m."""
    wavelength: Annotated[float, Range(0.1, 20)] = 1.5
    """From crest to crest, m."""

    def __post_init__(self) -> None:
        check_settings(self)

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Lower in proportion to the difficulty."""
        distance = ahead(grid, rng.uniform(-np.pi, np.pi)) - rng.uniform(0, self.wavelength)
        relief = self.height * difficulty / 2 * np.cos(2 * np.pi / self.wavelength * distance)
        return Ground(relief, level_places(relief, grid, 4))


@dataclass(frozen=True)
class Ridges:
    """Rounded ridges with broad valleys between them, which meander across the field."""

    cell: ClassVar[float] = CELL
    rolled: ClassVar[bool] = True

    height: Annotated[float, Range(0, 2)] = 0.07
    """Of the ridges above the valleys, m."""
    spacing: Annotated[float, Range(0.3, 20)] = 1.6
    """From ridge to ridge, m."""
    width: Annotated[float, Range(0.1, 20)] = 1.2
    """Of a ridge at its foot, m; at most the spacing."""

    def __post_init__(self) -> None:
        check_settings(self)

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Lower in proportion to the difficulty."""
        heading, phase, offset = rng.uniform(-np.pi, np.pi, 3)
        length = rng.uniform(2.5, 4.0)
        along, beside = ahead(grid, heading), ahead(grid, heading + np.pi / 2)
        place = along + 0.25 * np.sin(2 * np.pi / length * beside + phase) + offset
        from_ridge = np.abs((place / self.spacing + 0.5) % 1 - 0.5) * self.spacing
        relief = self.height * difficulty * smooth_step(1 - 2 * from_ridge / min(self.width, self.spacing))
        return Ground(relief, level_places(relief, grid, 4))


@dataclass(frozen=True)
class Bowl:
    """A hollow around the start, longer one way than the other, with level ground beyond its rim."""

    cell: ClassVar[float] = CELL
    rolled: ClassVar[bool] = True

    depth: Annotated[float, Range(0, 5)] = 0.2
    """From the rim to the bottom, m."""
    radius: Annotated[float, Range(0.3, 20)] = 2.0
    """From the bottom to the rim where the hollow is narrowest, m; a fifth more or less by the seed."""

    def __post_init__(self) -> None:
        check_settings(self)

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Shallower in proportion to the difficulty."""
        heading, stretch = rng.uniform(-np.pi, np.pi), rng.uniform(1.0, 1.6)
        radius = self.radius * rng.uniform(0.8, 1.2)
        along, beside = ahead(grid, heading) / stretch, ahead(grid, heading + np.pi / 2)
        return Ground(self.depth * difficulty * smooth_step(np.hypot(along, beside) / radius))


@dataclass(frozen=True)
class Spiral:
    """A rounded wall that winds outwards from the start, a valley beside it; to the left or the right by the seed."""

    cell: ClassVar[float] = CELL
    rolled: ClassVar[bool] = True

    height: Annotated[float, Range(0, 2)] = 0.09
    """Of the crest above the valley, m."""
    pitch: Annotated[float, Range(0.3, 20)] = 1.6
    """From one turn to the next, m."""

    def __post_init__(self) -> None:
        check_settings(self)

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Lower in proportion to the difficulty."""
        turn, hand = rng.uniform(-np.pi, np.pi), rng.choice((1.0, -1.0))
        radius = np.hypot(grid.x, grid.y)
        crest = (1 - np.cos(2 * np.pi * radius / self.pitch - hand * np.arctan2(grid.y, grid.x) + turn)) / 2
        return Ground(self.height * difficulty * crest * smooth_step((radius - 0.2) / (self.pitch / 2)))


@dataclass(frozen=True)
class Rough:
    """Rough ground such as gravel or a worn road: bumps of all heights, close together."""

    cell: ClassVar[float] = CELL
    rolled: ClassVar[bool] = True

    height: Annotated[float, Range(0, 0.5)] = 0.02
    """Of the highest bump above the lowest hollow, m."""
    grain: Annotated[float, Range(0.02, 1)] = 0.12
    """From one bump to the next, m; at least a cell."""

    def __post_init__(self) -> None:
        check_settings(self)

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Lower in proportion to the difficulty."""
        grain = max(self.grain, grid.cell)
        coarse = Grid.covering(grid.length + 4 * grain, grain)
        bumps = rng.random(coarse.shape)
        relief = scaled(spline(bumps, coarse, grid), self.height * difficulty)
        return Ground(relief, level_places(relief, grid, 4))
