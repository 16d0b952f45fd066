"""How wheels drive the ball, measured: whether it turns as the robot's geometry says, and how smoothly."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import cache

import mujoco
import numpy as np
from numpy.typing import NDArray

from ballbot.envs.mechanics import rolling_wheel_speeds
from ballbot.envs.model import Addresses, at_rest
from ballbot.envs.robots import Robot
from ballbot.errors import SettingsError

Array = NDArray[np.float64]

SPEED = 0.2
"""m/s at which it is measured."""
SETTLING = 0.1
"""s until it turns evenly."""
HEAVY = 1e4
"""kg m² of what keeps its speed."""
MOST_ERROR = 0.05
"""Share by which the ball may turn slower or faster than the wheels would roll it."""
MOST_RIPPLE = 0.012
"""Share of the ball's radius by which the body may rise and sink as the wheels turn."""


@dataclass(frozen=True)
class Drive:
    """How a robot's wheels drive its ball."""

    gear: Array
    """(2,) how fast the ball turns, for travel along the base's x and y, by how fast it would if no wheel slipped."""
    across: Array
    """(2,) how fast it turns about the other horizontal axis and the vertical one, likewise; 0 at best."""
    ripple: float
    """m by which the body rises and sinks above the ball while the fastest wheel turns once."""

    @property
    def worst_gear(self) -> float:
        """That which is further from 1."""
        return float(self.gear[np.abs(self.gear - 1).argmax()])


def measure_drive(model: mujoco.MjModel) -> Drive:
    """Let a robot roll along, whose body cannot lean or turn and whose wheels cannot be slowed, and see its ball turn.

    Args:
        model: the robot, on a plane.

    Raises:
        ValueError: a wheel does not touch the ball.
    """
    rolling, at = rolling_wheel_speeds(model), Addresses.of(model)
    held, dt, radius = copy(model), float(model.opt.timestep), float(model.geom("ball").size[0])
    start, wheels = at_rest(model).qpos, list(at.wheel_qvel)
    held.dof_armature[[*range(at.base_qvel + 3, at.base_qvel + 6), *wheels]] = HEAVY
    held.dof_damping[wheels] = held.dof_frictionloss[wheels] = 0.0
    gear, across, ripple = np.zeros(2), np.zeros(2), 0.0
    for axis, way in enumerate(SPEED * np.eye(2)):
        data, wished = mujoco.MjData(held), np.cross([0.0, 0.0, 1.0], [*way, 0.0]) / radius  # rad/s of the ball
        data.qpos[:] = start
        data.qvel[at.base_qvel : at.base_qvel + 2] = data.qvel[at.ball_qvel : at.ball_qvel + 2] = way
        data.qvel[at.ball_qvel + 3 : at.ball_qvel + 6] = wished
        data.qvel[wheels] = rolling @ way
        turn, heights = np.zeros(3), []
        turning = 2 * np.pi / np.abs(data.qvel[wheels]).max()  # s in which the fastest wheel turns once
        steps = round(turning / dt)
        for step in range(-round(SETTLING / dt), steps):
            mujoco.mj_step(held, data)
            if step >= 0:
                spin, pose = data.qvel[at.ball_qvel + 3 : at.ball_qvel + 6], data.qpos[at.ball_qpos + 3 :][:4]
                world = np.empty(3)
                mujoco.mju_rotVecQuat(world, spin, pose)
                turn += world / steps
                heights.append(data.qpos[at.base_qpos + 2] - data.qpos[at.ball_qpos + 2])
        gear[axis] = turn @ wished / (wished @ wished)
        across[axis] = np.linalg.norm(turn - gear[axis] * wished) / np.linalg.norm(wished)
        ripple = max(ripple, float(np.ptp(heights)))
    return Drive(gear, across, ripple)


@cache
def check_drive(robot: Robot) -> Drive:
    """Refuse wheels that do not drive the ball as the geometry says, or that shake it; returns what was measured.

    Raises:
        SettingsError: that; the message says what was measured.
    """
    found, radius = measure_drive(robot.compile()), robot.ball_radius
    if not abs(found.worst_gear - 1) <= MOST_ERROR or not found.across.max() <= MOST_ERROR:
        raise SettingsError(
            f"the wheels turn the ball {found.worst_gear:.3f} times as fast as they would without slip, and "
            f"{found.across.max():.3f} times as fast about other axes, expected {1 - MOST_ERROR:g} to "
            f"{1 + MOST_ERROR:g} and at most {MOST_ERROR:g}: use rollers that turn more freely (roller_damping), or "
            "more of them"
        )
    if not found.ripple <= MOST_RIPPLE * radius:
        raise SettingsError(
            f"the body rises and sinks by {1000 * found.ripple:.1f} mm as the wheels turn, expected at most "
            f"{1000 * MOST_RIPPLE * radius:.1f} mm: use more rollers"
        )
    return found
