"""How wheels drive the ball, measured: whether it turns as the robot's geometry says, and how smoothly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import mujoco
import numpy as np
from numpy.typing import NDArray

from ballbot.envs.mechanics import rolling_wheel_speeds
from ballbot.envs.model import HEAVY, Addresses, check_wheel_contacts, has_rollers, unslowed
from ballbot.envs.robots import Robot
from ballbot.errors import SettingsError
from mujoco_patch import ContactFixError

Array = NDArray[np.float64]

SPEED = 0.2
"""m/s at which it is measured."""
SETTLING = 0.1
"""s until it turns evenly."""
SLOW, PITCH = 2.0, 1.1
"""rad/s of the fastest wheel at which ripple is felt as at rest, and rad in which each roller has its turn."""
MOST_ERROR = 0.05
"""Share by which the ball may turn slower or faster than the wheels would roll it."""
MOST_RIPPLE = 0.012
"""Share of the ball's radius by which the body may rise and sink as the wheels turn."""

REMEDIES = {
    "rollers": ("use rollers that turn more freely (roller_damping), or more of them", "use more rollers"),
    "capsule": ("put each capsule's axis on its wheel's axle",) * 2,
}
"""Model of a wheel -> what helps if it turns the ball otherwise than it should, or unevenly."""


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
    held, dt = _held(model), float(model.opt.timestep)
    wheels = list(at.wheel_qvel)
    gear, across, ripple = np.zeros(2), np.zeros(2), 0.0
    for axis, way in enumerate(SPEED * np.eye(2)):
        data = _set_rolling(held, rolling, way)
        wished = data.qvel[at.ball_qvel + 3 : at.ball_qvel + 6].copy()  # rad/s of the ball
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


def ripple_torque(model: mujoco.MjModel) -> float:
    """N m, at most, that a wheel takes to turn slowly under the weight, as its rollers lift the body one by one.

    It is what its motor must have before the robot goes where it is to go; 0 of solids, which lift it hardly.

    Args:
        model: the robot, on a plane.

    Raises:
        ValueError: a wheel does not touch the ball.
    """
    if not has_rollers(model, 0):
        return 0.0
    rolling, dt, most = rolling_wheel_speeds(model), float(model.opt.timestep), 0.0
    way, held, wheels = np.array([1.0, 0.0]), _held(model), list(Addresses.of(model).wheel_qvel)
    data = _set_rolling(held, rolling, SLOW / np.abs(rolling @ way).max() * way)
    for step in range(-round(SETTLING / dt), round(PITCH / SLOW / dt)):
        mujoco.mj_step(held, data)
        if step >= 0:
            most = max(most, float(np.abs(data.qfrc_constraint[wheels]).max()))
    return most


def _held(model: mujoco.MjModel) -> mujoco.MjModel:
    """The robot with wheels that nothing slows, and a body that does not turn."""
    held, at = unslowed(model), Addresses.of(model)
    held.dof_armature[at.base_qvel + 3 : at.base_qvel + 6] = HEAVY
    return held


def _set_rolling(model: mujoco.MjModel, rolling: Array, way: Array) -> mujoco.MjData:
    """A robot that travels at (2,) m/s, by its ``rolling_wheel_speeds``."""
    at, data = Addresses.of(model), mujoco.MjData(model)
    data.qpos[:] = model.key("settled").qpos
    data.qvel[at.base_qvel : at.base_qvel + 2] = data.qvel[at.ball_qvel : at.ball_qvel + 2] = way
    spin = np.cross([0.0, 0.0, 1.0], [*way, 0.0]) / float(model.geom("ball").size[0])
    data.qvel[at.ball_qvel + 3 : at.ball_qvel + 6] = spin
    data.qvel[list(at.wheel_qvel)] = rolling @ way
    return data


@cache
def check_drive(robot: Robot) -> Drive:
    """Refuse wheels that do not drive the ball as the geometry says, or that shake it; returns what was measured.

    Raises:
        SettingsError: that; the message says what was measured.
    """
    found, radius = measure_drive(robot.compile()), robot.ball_radius
    turn, evenly = REMEDIES[robot.wheel_model]
    if not abs(found.worst_gear - 1) <= MOST_ERROR or not found.across.max() <= MOST_ERROR:
        raise SettingsError(
            f"the wheels turn the ball {found.worst_gear:.3f} times as fast as they would without slip, and "
            f"{found.across.max():.3f} times as fast about other axes, expected {1 - MOST_ERROR:g} to "
            f"{1 + MOST_ERROR:g} and at most {MOST_ERROR:g}: {turn}"
        )
    if not found.ripple <= MOST_RIPPLE * radius:
        raise SettingsError(
            f"the body rises and sinks by {1000 * found.ripple:.1f} mm as the wheels turn, expected at most "
            f"{1000 * MOST_RIPPLE * radius:.1f} mm: {evenly}"
        )
    return found


def check_wheels(robot: Robot, model: mujoco.MjModel, aligned: bool) -> None:
    """Refuse wheels that do not do to the ball what such wheels should.

    Args:
        robot: whose.
        model: of it, on a plane.
        aligned: whether the contacts of capsules are; if they are not, there is nothing to be expected of them.

    Raises:
        SettingsError: that; the message says what was measured.
        ContactFixError: of the reference's robot, as then MuJoCo is another one.
    """
    if robot.wheel_model == "capsule":
        if not aligned:
            return
        try:
            check_wheel_contacts(model)
        except (ContactFixError, ValueError) as error:
            if robot.is_reference:
                raise
            raise SettingsError(str(error)) from error
    if robot.wheel_model == "rollers" or not robot.is_reference:
        check_drive(robot)
