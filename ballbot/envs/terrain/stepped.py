"""Level ground at several heights, with sharp steps between: what a ball climbs little of, and drops from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from ballbot.envs.terrain.grid import Grid, Ground
from ballbot.envs.terrain.shapes import ahead, level_places, plane_waves, scaled
from ballbot.settings import Range, check_settings

STEP_CELL = 0.025
"""m between vertices where steps are to be met; docs/terrain_cells.md says why."""


@dataclass(frozen=True)
class Stairs:
    """Straight flights: up ahead and down behind, down ahead and up behind, or all around a square landing."""

    cell: ClassVar[float] = STEP_CELL
    rolled: ClassVar[bool] = False

    height: Annotated[float, Range(0, 0.3)] = 0.01
    """Of a step, m."""
    run: Annotated[float, Range(0.05, 5)] = 0.4
    """Of a tread, from edge to edge, m; a tenth more or less by the seed."""
    landing: Annotated[float, Range(0.4, 10)] = 1.2
    """Side of the level place in the middle, m; a fifth more or less by the seed."""
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
        edges = self.landing * rng.uniform(0.4, 0.6) + np.cumsum(
            [0.0, *self.run * rng.uniform(0.9, 1.1, self.steps - 1)]
        )
        if self.form != "any":
            form = self.form
        along = np.searchsorted(edges, np.abs(grid.axis)).astype(np.float64)  # steps passed on the way from the middle
        if form in ("up", "down"):
            level = np.broadcast_to((along * np.sign(grid.axis))[:, None], grid.shape)
        else:
            level = np.maximum(along[:, None], along)
        return Ground((self.height if form in ("up", "pit") else -self.height) * difficulty * level)


@dataclass(frozen=True)
class Steps:
    """Paving that has sunk unevenly: square slabs, each at a height of its own."""

    cell: ClassVar[float] = STEP_CELL
    rolled: ClassVar[bool] = False

    height: Annotated[float, Range(0, 0.3)] = 0.015
    """Of the highest slab above the lowest, m."""
    side: Annotated[float, Range(0.1, 5)] = 0.6
    """Of a slab, m."""

    def __post_init__(self) -> None:
        check_settings(self)

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Lower in proportion to the difficulty."""
        number = int(np.ceil(grid.length / self.side)) + 1
        slabs = rng.random((number, number))
        first = rng.random(2) * self.side
        row, column = (((grid.axis + grid.half + shift) / self.side).astype(np.intp) for shift in first)
        relief = self.height * difficulty * slabs[np.ix_(row, column)]
        return Ground(relief, level_places(relief, grid, 4))


@dataclass(frozen=True)
class Terraces:
    """Hills cut into level terraces, as paddy fields are."""

    cell: ClassVar[float] = STEP_CELL
    rolled: ClassVar[bool] = False

    height: Annotated[float, Range(0, 0.3)] = 0.01
    """From one terrace to the next, m."""
    levels: Annotated[int, Range(2, 200)] = 10
    """Terraces from the lowest to the highest."""
    width: Annotated[float, Range(0.5, 20)] = 4.0
    """From one hilltop to the next, about, m."""

    def __post_init__(self) -> None:
        check_settings(self)

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Lower steps in proportion to the difficulty."""
        hills = scaled(plane_waves(rng, grid, self.width, 12), self.levels)
        relief = np.minimum(np.floor(hills), self.levels - 1) * (self.height * difficulty)
        return Ground(relief, level_places(relief, grid, 4))


@dataclass(frozen=True)
class Curbs:
    """Raised strips across the way, like kerbs around traffic islands: a step up, some level ground, a step down."""

    cell: ClassVar[float] = STEP_CELL
    rolled: ClassVar[bool] = False

    height: Annotated[float, Range(0, 0.3)] = 0.01
    """Of a strip, m."""
    width: Annotated[float, Range(0.04, 10)] = 0.4
    """Of a strip, m."""
    spacing: Annotated[float, Range(0.1, 10)] = 1.2
    """From the beginning of a strip to that of the next, m."""

    def __post_init__(self) -> None:
        check_settings(self)

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Lower in proportion to the difficulty."""
        distance = ahead(grid, rng.uniform(-0.3, 0.3)) + rng.uniform(0, self.spacing)
        distance /= self.spacing
        distance -= np.floor(distance)
        relief = np.where(distance < self.width / self.spacing, self.height * difficulty, 0.0)
        return Ground(relief, level_places(relief, grid, 4))
