"""A kind of ground and how difficult, in one short text: what --terrain takes."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, is_dataclass
from pathlib import PurePath
from typing import Annotated, Any

from ballbot.envs.terrain.grid import Terrain
from ballbot.envs.terrain.kinds import TERRAINS
from ballbot.errors import SettingsError
from ballbot.settings import Range, check_settings, nearest

FILES = (".png", ".npy")
"""Endings of names that are height maps."""
_DIFFICULTY = re.compile(r"(\d*\.?\d+|\d+\.)(?:-(\d*\.?\d+|\d+\.))?")


@dataclass(frozen=True)
class TerrainSpec:
    """A kind of ground, and the difficulties of a pool of it: spread evenly from ``low`` to ``high``."""

    kind: str
    low: Annotated[float, Range(0, 1)] = 1.0
    high: Annotated[float, Range(0, 1)] = 1.0
    path: str = ""
    """Of the height map; kind "file" alone."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.low > self.high:
            raise SettingsError(f"difficulties go from low to high, got {self.low:g} to {self.high:g}: swap them")


def parse_terrain(text: str) -> TerrainSpec:
    """What a text like "stairs", "stairs:0.4", "stairs:0-1" or "field.png:0.5" says.

    Raises:
        SettingsError: the kind is unknown, or the difficulty is no number or range within [0, 1].
    """
    if not isinstance(text, str) or not text.strip():
        raise SettingsError(f"terrain must be a kind of ground such as 'perlin' or 'stairs:0.4', got {text!r}")
    name, colon, ending = text.strip().rpartition(":")
    if not colon or ending.lower().endswith(FILES):  # C:\field.png has a colon of its own
        name, colon, ending = text.strip(), "", ""
    low = high = 1.0
    if colon:
        match = _DIFFICULTY.fullmatch(ending)
        if not match:
            raise SettingsError(
                f"terrain={text!r}: after the colon stands a difficulty from 0 to 1 or a range of them, such as "
                f"{name}:0.4 or {name}:0-1, got {ending!r}"
            )
        low = float(match[1])
        high = low if match[2] is None else float(match[2])
        if not 0 <= low <= high <= 1:
            raise SettingsError(f"terrain={text!r}: difficulties lie from 0 to 1, the lower first, got {ending!r}")
    if name.lower().endswith(FILES):
        return TerrainSpec("file", low, high, name)
    if name not in TERRAINS:
        ending = PurePath(name).suffix
        maps = f" (height maps end in {' or '.join(FILES)})" if ending or "/" in name else ""
        raise SettingsError(f"terrain={name!r} is unknown: {nearest(name, TERRAINS)}{maps}")
    return TerrainSpec(name, low, high)


def build_terrain(kind: str, options: dict[str, Any]) -> Terrain:
    """The dataclass of that name, with these fields.

    Raises:
        SettingsError: there is no such kind or field, or a value that the field does not take.
    """
    if kind not in TERRAINS:
        raise SettingsError(f"terrain={kind!r} is unknown: {nearest(kind, TERRAINS)}")
    made = TERRAINS[kind]
    known = [field.name for field in fields(made) if field.init] if is_dataclass(made) else []
    for name in options:
        if name not in known:
            raise SettingsError(f"terrain {kind!r} has no option {name!r}: {nearest(name, known)}")
    try:
        terrain: Terrain = made(**options)
    except SettingsError as error:
        raise SettingsError(f"terrain {kind!r}: {error}") from error
    except Exception as error:  # a plugin's own checks raise what they like
        raise SettingsError(f"terrain {kind!r} cannot be made of {options}: {type(error).__name__}: {error}") from error
    if not callable(getattr(terrain, "make", None)):
        raise SettingsError(f"terrain {kind!r} has no make(rng, grid, difficulty): see ballbot.envs.terrain.Terrain")
    return terrain
