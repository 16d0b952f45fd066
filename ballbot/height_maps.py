"""Height maps of runs: their hash is recorded and a copy kept, since ground is the same only if its map is."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from ballbot.envs import WorldConfig
from ballbot.envs.terrain.files import File, find_map
from ballbot.envs.terrain.mixed import Mixed
from ballbot.envs.terrain.spec import build_terrain, parse_terrain
from ballbot.errors import SettingsError

MAX_BYTES = 2**28 + 2**16
"""Of a map's file: the largest that is read, of 8 bytes a pixel, and its header."""
FOLDER = "height_maps"
"""Of a run's folder, with the copies."""


def paths(world: WorldConfig) -> list[str]:
    """The height maps of a world's ground, as they are spelled there."""
    spec = parse_terrain(world.terrain)
    terrain: Any = build_terrain(spec.kind, {**({"path": spec.path} if spec.path else {}), **world.ground})
    grounds = [member.terrain for member in terrain.members()] if isinstance(terrain, Mixed) else [terrain]
    return [ground.path for ground in grounds if isinstance(ground, File)]


def read(path: str) -> bytes:
    """The content of a height map's file.

    Raises:
        SettingsError: there is none, or it is too large.
    """
    file, size = find_map(path)
    if not file.is_file() or size > MAX_BYTES:
        raise SettingsError(f"height map {path!r} is no file of at most {MAX_BYTES:,} bytes: crop or shrink it")
    try:
        return file.read_bytes()
    except OSError as error:
        raise SettingsError(f"height map {path!r} cannot be read: {error.strerror}") from error


def digests(world: WorldConfig) -> dict[str, str]:
    """Path -> SHA-256 of the content of each height map of a world.

    Raises:
        SettingsError: one cannot be read.
    """
    return {path: hashlib.sha256(read(path)).hexdigest() for path in paths(world)}


def files(world: WorldConfig) -> dict[str, bytes]:
    """Where a run folder keeps copies of a world's height maps, and their contents.

    Raises:
        SettingsError: one cannot be read.
    """
    contents = {path: read(path) for path in paths(world)}
    return {_kept(path, hashlib.sha256(content).hexdigest()): content for path, content in contents.items()}


def as_recorded(world: WorldConfig, recorded: Any, source: str, run_dir: Path, *, copies: bool = False) -> WorldConfig:
    """The world, if its height maps are what they were.

    Args:
        world: that a run or a policy was made in.
        recorded: ``digests`` of it then; anything else counts as damaged.
        source: of it, for error messages.
        run_dir: folder of the run, which has copies.
        copies: take the copy of a map that was changed or is gone, and leave it to others to say if there is none.

    Raises:
        SettingsError: a map was changed or is gone.
    """
    if not isinstance(recorded, dict) or not all(isinstance(x, str) for pair in recorded.items() for x in pair):
        raise SettingsError(f"{source} is damaged: its height maps are {recorded!r}")
    for path in paths(world):
        if path not in recorded or (now := _digest(path)) == recorded[path]:
            continue
        digest = recorded[path]
        copy = run_dir / _kept(path, digest)
        there = _digest(str(copy)) == digest
        spec = parse_terrain(world.terrain)
        if copies and there and spec.path == path:
            world = replace(world, terrain=world.terrain.replace(path, str(copy), 1))
        elif now is not None or not copies:
            state = "is gone" if now is None else f"was changed since (then {digest[:16]}, now {now[:16]})"
            remedy = f"put the copy {copy} in its place" if there else "put the file as it was in its place"
            raise SettingsError(f"height map {path!r}, which {source} was made with, {state}: {remedy}")
    return world


def _digest(path: str) -> str | None:
    """None of a file that cannot be read."""
    try:
        return hashlib.sha256(read(path)).hexdigest()
    except SettingsError:
        return None


def _kept(path: str, digest: str) -> str:
    """A copy's place in a run's folder; of the hash, as two maps may have one name."""
    return f"{FOLDER}/{digest[:16]}{Path(path).suffix.lower()}"
