"""A pool of fields: made once at start-up, held in memory, one of them under each robot in each episode."""

from __future__ import annotations

import hashlib
import zlib
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ballbot.envs.terrain.files import File
from ballbot.envs.terrain.grid import CELL, SPLITS, TERRAIN_LENGTH, Array, Grid, Ground, Terrain
from ballbot.envs.terrain.mixed import Member, Mixed
from ballbot.envs.terrain.spec import TerrainSpec, build_terrain, parse_terrain
from ballbot.envs.terrain.surface import heights_at, normals_at, sustained_slopes_deg
from ballbot.envs.terrain.ways import Ways
from ballbot.errors import SettingsError
from ballbot.settings import nearest

LEVEL_TOP = 1e-3
"""m: the height that MuJoCo is told of a field that is level; it refuses 0."""
STEEPEST_DEG = 9.5
"""The linear controller drives up and down long slopes of 9 degrees and falls on 10; see docs/terrain_cells.md."""
SUSTAINED = 0.5
"""m: a slope is long that rises on over so much; shorter ones are crossed with the speed that the robot has."""
STEEP_SHARE = 0.05
"""Of the field: as much must be steep to be worth a warning."""
SPREAD_FIELDS = 4
"""Of each kind: with fewer, a range of difficulties is hardly one, and nothing for a curriculum to climb."""


class TerrainPool:
    """Fields of one kind of ground, or of several.

    Args:
        spec: a kind and its difficulty, as a text ("stairs:0.4") or parsed.
        options: fields of the kind's dataclass by name.
        num: how many fields.
        split: "train", "validation" or "eval": their fields are disjoint.
        seed: base seed of the pool, >= 0.
        length: side of the fields, m.
        cell: m between vertices; None: what the kind needs, of several kinds the finest.

    Raises:
        SettingsError: there is no such kind, option or split; a value is out of range; or a kind made no ground.
    """

    relief: NDArray[np.float32] | None
    """(num, n, n) heights from 0 to 1, row along y and column along x; all 0 on level ground; None for a plane."""
    tops: Array
    """(num,) m, height of 1 in ``relief``."""
    kinds: tuple[str, ...]
    """Names of the kinds in the pool."""
    kind_ids: NDArray[np.int64]
    """(num,) index of each field's kind in ``kinds``."""
    difficulties: Array
    """(num,) from 0 to 1."""
    spawns: list[Array]
    """Of each field (k, 2) places in m at which an episode may begin."""
    floors: Array
    """(num,) m above each field's lowest vertex: lower ground is off the road; -inf where none is."""
    grid: Grid
    """Where the vertices are, the same for all."""

    def __init__(
        self,
        spec: TerrainSpec | str,
        options: dict[str, Any] | None = None,
        *,
        num: int = 64,
        split: str = "train",
        seed: int = 0,
        length: float = TERRAIN_LENGTH,
        cell: float | None = None,
    ) -> None:
        spec = parse_terrain(spec) if isinstance(spec, str) else spec
        if split not in SPLITS:
            raise SettingsError(f"terrain_split={split!r} is unknown: {nearest(str(split), SPLITS)}")
        if num < 1 or seed < 0:
            raise SettingsError(f"a pool of {num} terrains from seed {seed}: use at least 1, and a seed from 0 up")
        options = {"path": spec.path, **(options or {})} if spec.path else dict(options or {})
        terrain = build_terrain(spec.kind, options)
        if spec.kind == "flat":
            num = 1
        members = [Member(spec.kind, spec.kind, terrain, 1.0)]
        self.kind_ids = np.zeros(num, np.int64)
        if isinstance(terrain, Mixed):
            members, self.kind_ids = terrain.members(), terrain.share(num)
        self.kinds = tuple(member.label for member in members)
        self.difficulties = np.empty(num)
        for kind in range(len(members)):
            which = np.flatnonzero(self.kind_ids == kind)
            self.difficulties[which] = spread(spec.low, spec.high, len(which))
        finest = min(float(getattr(member.terrain, "cell", CELL)) for member in members)
        self.grid = Grid.covering(length, finest if cell is None else cell)
        self.tops, self.spawns = np.full(num, LEVEL_TOP), [np.zeros((1, 2))] * num
        self.floors = np.full(num, -np.inf)
        self.relief = None
        if spec.kind == "flat":
            return
        self.relief = np.empty((num, *self.grid.shape), np.float32)
        # a height map shows other parts of itself in each split
        parts = [(m.kind, m.terrain.for_split(split) if isinstance(m.terrain, File) else m.terrain) for m in members]
        for k in range(num):
            kind, member = parts[self.kind_ids[k]]
            ground = make_ground(kind, member, k, split, seed, self.grid, float(self.difficulties[k]))
            self.spawns[k] = ground.spawns
            self.tops[k] = _normalise(ground.heights, self.relief[k])
            self.floors[k] = ground.floor - float(ground.heights.min())
        if split == "train" and spec.low < spec.high:
            self._warn_of_few_fields([member.kind == "flat" for member in members])
        self._warn_of_slopes([bool(getattr(member.terrain, "rolled", True)) for member in members])

    @cached_property
    def ways(self) -> Ways:
        """Which way to go, where anybody asks."""
        return Ways(self)

    def __len__(self) -> int:
        return len(self.tops)

    def heights(self, terrain_ids: NDArray[np.integer[Any]], xy: Array) -> Array:
        """Heights of the ground above each field's lowest vertex, in m, exactly as MuJoCo collides with it.

        Args:
            terrain_ids: (m,) which field.
            xy: (m, ..., 2) places in m from the middle; beside the field, the nearest edge's height is told.

        Returns:
            (m, ...) m.
        """
        if self.relief is None:
            return np.zeros(np.shape(xy)[:-1])
        return heights_at(self.relief, self.tops, self.grid, np.asarray(terrain_ids), xy)

    def normals(self, terrain_ids: NDArray[np.integer[Any]], xy: Array) -> Array:
        """(m, ..., 3) unit normals of the ground, pointing up; arguments as of ``heights``."""
        if self.relief is None:
            return np.broadcast_to(np.array([0.0, 0.0, 1.0]), (*np.shape(xy)[:-1], 3)).copy()
        return normals_at(self.relief, self.tops, self.grid, np.asarray(terrain_ids), xy)

    def digest(self) -> str:
        """All heights as 16 hexadecimal digits, the same where a machine rounds the last bits otherwise.

        Of each field enters its top and a weighted sum of all its heights, to six digits.
        """
        digest = hashlib.sha256(f"{self.grid.size} {self.grid.cell:.10g}\n".encode())
        weights = np.random.default_rng(0).uniform(0.5, 1.5, self.grid.size)
        for k, top in enumerate(self.tops):
            total = 0.0 if self.relief is None else top * (weights @ self.relief[k] @ weights[::-1])
            digest.update(f"{top:.6g} {total:.6g}\n".encode())
        return digest.hexdigest()[:16]

    def _warn_of_few_fields(self, level: list[bool]) -> None:
        fields = np.bincount(self.kind_ids, minlength=len(self.kinds))
        few = [
            f"{name} {n}"
            for name, n, flat in zip(self.kinds, fields, level, strict=True)
            if n < SPREAD_FIELDS and not flat
        ]
        if few and len(self) > 1:
            enough = int(np.ceil(len(self) * SPREAD_FIELDS / max(1, fields[~np.array(level)].min())))
            gym.logger.warn(
                f"{len(self)} terrains are too few for a range of difficulties, of which each kind should have "
                f"{SPREAD_FIELDS} or more fields ({', '.join(few)}): use num_terrains={enough} (--num-terrains) or more"
            )

    def _warn_of_slopes(self, rolled: list[bool]) -> None:
        slopes = steepest_deg(self)
        for kind, name in enumerate(self.kinds):
            steep = slopes[self.kind_ids == kind]
            if rolled[kind] and len(steep) and steep.max() > STEEPEST_DEG:
                gym.logger.warn(
                    f"terrain {name!r}: a twentieth of the ground is steeper than {steep.max():.0f} degrees over "
                    f"{SUSTAINED:g} m, and the robot holds itself on at most {STEEPEST_DEG:g}: choose a lower "
                    "difficulty or height"
                )


def make_ground(
    name: str, terrain: Terrain, number: int, split: str, seed: int, grid: Grid, difficulty: float
) -> Ground:
    """Field ``number`` of a kind, checked.

    Raises:
        SettingsError: the kind's ``make`` raised, or returned something that is no ground on this grid.
    """
    which = f"terrain {name!r}, field {number} of split {split!r}"
    # the reference's stream has no name in it
    stream = (SPLITS[split], seed, number, *([] if name == "perlin" else [zlib.crc32(name.encode())]))
    try:
        ground = terrain.make(np.random.default_rng(stream), grid, difficulty)
    except SettingsError as error:
        raise SettingsError(f"{which}: {error}") from error
    except Exception as error:  # a plugin's may raise anything
        raise SettingsError(f"{which}: make() raised {type(error).__name__}: {error}") from error
    if not isinstance(ground, Ground):
        raise SettingsError(f"{which}: make() must return a Ground, got {type(ground).__name__}")
    if ground.heights.shape != grid.shape:
        raise SettingsError(
            f"{which}: heights must have the shape {grid.shape} of the grid, got {ground.heights.shape}"
        )
    if np.abs(ground.spawns).max() >= grid.half:
        raise SettingsError(
            f"{which}: spawns must lie within {grid.half:g} m of the middle, got {ground.spawns.tolist()}"
        )
    return ground


def spread(low: float, high: float, num: int) -> Array:
    """(num,) numbers from low to high, evenly, both ends included; low, if it is one."""
    return np.linspace(low, high, num)


def steepest_deg(pool: TerrainPool) -> Array:
    """(num,) degrees: the slope over half a metre that a twentieth of each field exceeds."""
    if pool.relief is None:
        return np.zeros(len(pool))
    return sustained_slopes_deg(pool.relief, pool.tops, pool.grid, SUSTAINED, STEEP_SHARE)


def _normalise(heights: NDArray[np.floating[Any]], relief: NDArray[np.float32]) -> float:
    """Write heights, scaled to [0, 1], to ``relief``; how many m 1 stands for."""
    low, high = float(heights.min()), float(heights.max())
    if high - low < 1e-6:  # a thousandth of a millimetre is level
        relief[:] = 0.0
        return LEVEL_TOP
    np.divide(heights - low, high - low, out=relief, casting="same_kind")
    return high - low
