"""Which kinds of ground there are, by name."""

from __future__ import annotations

from typing import Any

from ballbot.envs.terrain.flat import Flat
from ballbot.envs.terrain.perlin import Perlin
from ballbot.envs.terrain.smooth import Hills, Ramp
from ballbot.envs.terrain.stairs import Stairs

TERRAINS: dict[str, type[Any]] = {
    "flat": Flat,
    "perlin": Perlin,
    "hills": Hills,
    "ramp": Ramp,
    "stairs": Stairs,
}
"""Name to frozen dataclass (see ``ballbot.envs.terrain.grid.Terrain``); a plugin adds its own."""
