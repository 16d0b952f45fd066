"""Robots from files in runs: what decides their motion is recorded, and a copy of the file kept."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ballbot.envs import WorldConfig
from ballbot.envs.mechanics import no_load_speed
from ballbot.envs.mjcf import MJCF, is_mjcf, read_mjcf
from ballbot.envs.model import at_rest, is_part, physics_digest, view_digest
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


def as_recorded(metadata: dict[str, Any], source: str, run_dir: Path, then: Any = None) -> dict[str, Any]:
    """What a policy's metadata says of its world, with the robot as it was: from its file, or else from the copy.

    Args:
        metadata: with the name of the file as "robot", and the ``digest`` of then as "robot_digest".
        source: of it, for error messages.
        run_dir: folder of the run, which has a copy.
        then: the digest, if that stands elsewhere.

    Raises:
        SettingsError: the file was changed or is gone, and so is the copy.
    """
    path, then = str(metadata.get("robot")), metadata.get("robot_digest", then)
    if not is_mjcf(path) or then is None:
        return metadata
    copy, wrong = run_dir / _copy(path), ""
    for file in (path, str(copy)):
        try:
            if _digest(read_mjcf(file)) == then:
                return metadata | {"robot": file}
            wrong = "it is another one"
        except SettingsError as error:
            wrong = str(error)  # at last, of the copy
    if not copy.exists():
        what, remedy = f"there is no copy {copy}", "put the file as it was in its place"
    else:
        what = f"its copy cannot stand in for it ({wrong})"
        remedy = "put the file as it was in its place, or meshes and what else it includes beside the copy"
    raise SettingsError(
        f"robot {path!r}, which {source} was made with, was changed since or is gone, and {what}: {remedy}"
    )


def numbers(robot: MJCF) -> dict[str, Any]:
    """What a ``RobotConfig`` would say of a robot from MJCF, by the same names, as far as its model tells that."""
    model = robot.spec().compile()
    data = at_rest(model)
    base, ball, ball_body = model.body("base").id, data.geom("ball").xpos, model.body("ball").id
    radius, mass = float(model.geom("ball").size[0]), float(model.body_mass[ball_body])
    joints = [model.joint(f"wheel_{wheel}") for wheel in range(robot.wheels)]
    wheels = [int(model.jnt_bodyid[joint.id]) for joint in joints]
    parts = [
        body for body in range(model.nbody)
        if model.body_rootid[body] == base and not any(is_part(model, body, wheel) for wheel in wheels)
    ]  # fmt: skip
    masses = model.body_mass[parts]
    centre = masses @ data.xipos[parts] / masses.sum()
    inertia = np.zeros(3)
    for body, weighs in zip(parts, masses, strict=True):
        turn, away = data.ximat[body].reshape(3, 3), data.xipos[body] - centre
        inertia += np.diag(turn * model.body_inertia[body] @ turn.T) + weighs * (away @ away - away**2)
    speed = no_load_speed(model)
    found = {
        "ball_radius": radius,
        "ball_mass": mass,
        "ball_inertia_factor": float(model.body_inertia[ball_body].mean()) / (mass * radius**2),
        "body_mass": float(masses.sum()),
        "body_height": float(centre[2] - ball[2]),
        "body_inertia": [round(float(x), 6) for x in inertia],
        "imu_height": robot.imu_height,
        "wheels": robot.wheels,
        "wheel_mass": float(model.body_subtreemass[wheels[0]]),
        "wheel_armature": float(joints[0].armature[0]),
        "wheel_damping": float(joints[0].damping[0]),
        "wheel_friction": float(joints[0].frictionloss[0]),
        "torque_limit": robot.torque_limit,
        "no_load_speed": speed if np.isfinite(speed) else None,
        "wheel_model": robot.wheel_model,
    }
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in found.items()}


def _copy(path: str) -> str:
    return COPY + Path(path).suffix
