"""The ground: kinds by name, seeded and graded, and pools of fields with their heights and normals.

    pool = TerrainPool("stairs:0-1", {"height": 0.02}, num=64)
    pool.heights(terrain_ids, xy)      # m, the surface that MuJoCo collides with

A field is what MuJoCo calls an ``hfield``: an (n, n) float32 array of heights in [0, 1], row along y and column along
x, which MuJoCo scales to metres.  A kind is a frozen dataclass in ``TERRAINS``; see ``Terrain`` for what it must have.
"""

from ballbot.envs.terrain.grid import (
    CELL,
    GRID_SIZE,
    MAX_TERRAIN_LENGTH,
    SPLITS,
    TERRAIN_LENGTH,
    Grid,
    Ground,
    Terrain,
    field_length,
    grid_size,
)
from ballbot.envs.terrain.kinds import TERRAINS
from ballbot.envs.terrain.mixed import Mixed
from ballbot.envs.terrain.perlin import MAX_HEIGHT, make_terrain
from ballbot.envs.terrain.pool import TerrainPool, steepest_deg
from ballbot.envs.terrain.spec import TerrainSpec, parse_terrain

__all__ = [
    "CELL",
    "GRID_SIZE",
    "MAX_HEIGHT",
    "MAX_TERRAIN_LENGTH",
    "SPLITS",
    "TERRAINS",
    "TERRAIN_LENGTH",
    "Grid",
    "Ground",
    "Mixed",
    "Terrain",
    "TerrainPool",
    "TerrainSpec",
    "field_length",
    "grid_size",
    "make_terrain",
    "parse_terrain",
    "steepest_deg",
]
