"""Which kinds of ground there are, by name."""

from __future__ import annotations

from typing import Any

from ballbot.envs.terrain.files import File
from ballbot.envs.terrain.flat import Flat
from ballbot.envs.terrain.obstacles import Pillars, Pits, Slalom, SteppingLanes
from ballbot.envs.terrain.perlin import Perlin
from ballbot.envs.terrain.roads import Road, Stagger, Trench
from ballbot.envs.terrain.smooth import Bowl, Gradient, Hills, Ramp, Ridges, Rough, Sinusoid, Spiral
from ballbot.envs.terrain.stepped import Curbs, Stairs, Steps, Terraces

TERRAINS: dict[str, type[Any]] = {
    "flat": Flat,
    "perlin": Perlin,
    "hills": Hills,
    "ramp": Ramp,
    "gradient": Gradient,
    "sinusoid": Sinusoid,
    "ridges": Ridges,
    "bowl": Bowl,
    "spiral": Spiral,
    "rough": Rough,
    "steps": Steps,
    "terraces": Terraces,
    "stairs": Stairs,
    "curbs": Curbs,
    "pits": Pits,
    "pillars": Pillars,
    "slalom": Slalom,
    "stepping_lanes": SteppingLanes,
    "road": Road,
    "stagger": Stagger,
    "trench": Trench,
    "file": File,
}
"""Name to frozen dataclass (see ``ballbot.envs.terrain.grid.Terrain``); a plugin adds its own, and mixed.py "mixed"."""
