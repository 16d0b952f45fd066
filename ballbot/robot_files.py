"""Robots from files in runs: what decides their motion is recorded, and a copy of the file kept."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ballbot.envs import WorldConfig
from ballbot.envs.mjcf import MJCF, is_mjcf, read_mjcf
from ballbot.envs.model import physics_digest, view_digest
from ballbot.errors import SettingsError

COPY = "robot"
"""Name of the copy in a run's folder, before the ending.  Meshes, and what else the file includes, are not in it."""


def digest(world: WorldConfig) -> str | None:
    """What decides the motion of a world's robot, if that is from MJCF; motion, cameras and pose.

    Raises:
        SettingsError: the file cannot be read.
    """
    robot = world.robot_config
    return _digest(robot) if isinstance(robot, MJCF) else None


def _digest(robot: MJCF) -> str:
    """Of motion, cameras and pose."""
    model = robot.spec().compile()
    pose = hashlib.sha256(model.key("settled").qpos.round(9).tobytes()).hexdigest()[:16]
    return f"{physics_digest(model)}{view_digest(model)}{pose}"


def files(world: WorldConfig) -> dict[str, bytes]:
    """Where a run folder keeps a copy of a world's robot, and its content; empty where that is from no file."""
    if not is_mjcf(world.robot):
        return {}
    return {_copy(world.robot): Path(world.robot).read_bytes()}


def as_recorded(metadata: dict[str, Any], source: str, run_dir: Path) -> dict[str, Any]:
    """What a policy's metadata says of its world, with the robot as it was: from its file, or else from the copy.

    Args:
        metadata: with the ``digest`` of then as "robot_digest".
        source: of it, for error messages.
        run_dir: folder of the run, which has a copy.

    Raises:
        SettingsError: the file was changed or is gone, and so is the copy.
    """
    path, then = str(metadata.get("robot")), metadata.get("robot_digest")
    if not is_mjcf(path) or then is None:
        return metadata
    copy = run_dir / _copy(path)
    for file in (path, str(copy)):
        try:
            if _digest(read_mjcf(file)) == then:
                return metadata | {"robot": file}
        except SettingsError:
            continue
    raise SettingsError(
        f"robot {path!r}, which {source} was made with, was changed since or is gone, and there is no copy {copy}: put "
        "the file as it was in its place"
    )


def check(world: WorldConfig, recorded: Any, source: str) -> None:
    """Refuse to go on with a robot whose file was changed.

    Args:
        world: that a run was made in.
        recorded: ``digest`` of it then.
        source: the run, for error messages.

    Raises:
        SettingsError: it was, or is gone.
    """
    if is_mjcf(world.robot) and recorded is not None and digest(world) != recorded:
        raise SettingsError(
            f"robot {world.robot!r}, which {source} was made with, was changed since: put the file as it was in its "
            f"place, of which the run's folder keeps a copy, {_copy(world.robot)}"
        )


def _copy(path: str) -> str:
    return COPY + Path(path).suffix
