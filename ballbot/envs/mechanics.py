"""What follows from a robot's model, near upright: how its wheels turn as it rolls, and how it moves.

Everything here is computed from MuJoCo's model of the robot on a plane, in its keyframe "settled"; nothing is of one
robot alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Self

import mujoco
import numpy as np
from numpy.typing import NDArray

from ballbot.envs.model import Addresses, at_rest, has_rollers, num_wheels, tread_middle, wheel_contacts
from ballbot.envs.robot import RobotConfig

if TYPE_CHECKING:
    from ballbot.envs.robots import Robot

Array = NDArray[np.float64]

LEAN, LEANING, TRAVEL = slice(0, 2), slice(2, 4), slice(4, 6)
"""Where things are in the state of a ``RollingModel``, each along the base's x and y."""


@dataclass(frozen=True)
class RollingModel:
    """How a ballbot moves near upright: d state / dt = a state + b asked.

    The state is (6,): lean of the body in rad, its change in rad/s, and travel of the ball in m/s, each along the
    base's x and y.  What motors are asked for are torques on the wheels' axles, N m, or speeds of the wheels, rad/s.
    """

    a: Array
    """(6, 6), in SI units."""
    b: Array
    """(6, wheels), in SI units."""
    full: float
    """What an action of -1 asks for: all the torque that a motor has, or the speed at which it runs free."""

    @property
    def fall_rate(self) -> float:
        """1/s at which it falls by itself: a lean grows by e in so many parts of a second."""
        return float(np.linalg.eigvals(self.a).real.max())


def rolling_model(model: mujoco.MjModel, rolling: Array | None = None) -> RollingModel:
    """What the masses, shapes and joints of a robot make of it.

    Args:
        model: the robot, on a plane, upright in its keyframe "settled".
        rolling: its ``rolling_wheel_speeds``; None: not known yet.

    Raises:
        ValueError: a wheel does not touch the ball.
    """
    at, data = Addresses.of(model), at_rest(model)
    wheels = rolling_wheel_speeds(model) if rolling is None else rolling
    radius, ball, base = float(model.geom("ball").size[0]), data.geom("ball").xpos, model.body("base").id
    free = np.zeros((model.nv, 4))  # MuJoCo's velocities, of leaning and travelling along x and y
    for axis, way in enumerate(np.eye(3)[:2]):
        turn, travel = np.cross([0.0, 0.0, 1.0], way), 2 + axis  # what leans or rolls along a way turns about the next
        free[at.base_qvel : at.base_qvel + 3, axis] = np.cross(turn, data.xpos[base] - ball)
        free[at.base_qvel + 3 : at.base_qvel + 6, axis] = turn
        free[at.base_qvel : at.base_qvel + 3, travel] = free[at.ball_qvel : at.ball_qvel + 3, travel] = way
        free[at.ball_qvel + 3 : at.ball_qvel + 6, travel] = turn / radius
    driven = list(at.wheel_qvel)
    free[driven] = np.hstack([-radius * wheels, wheels])  # a body that leans is to its wheels a ball that rolls back
    mass = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, data, mass)
    inverse = np.linalg.inv(free.T @ mass @ free)
    above = float(data.subtree_com[base, 2] - ball[2])
    falls = np.zeros((4, 2))
    falls[:2] = np.eye(2) * model.body_subtreemass[base] * -model.opt.gravity[2] * above
    a, b = np.zeros((6, 6)), np.zeros((6, len(driven)))
    a[LEAN, LEANING] = np.eye(2)
    a[2:, LEAN] = inverse @ falls
    a[2:, 2:] = -inverse @ free.T @ (model.dof_damping[:, None] * free)
    b[2:] = inverse @ free[driven].T
    return RollingModel(a, b, float(model.actuator_ctrlrange[0, 1]))


def _settled_touches(model: mujoco.MjModel) -> tuple[mujoco.MjData, list[Array]]:
    """The robot in the keyframe "settled", and where each wheel touches the ball, (3,) m.

    Of a wheel that touches it with several rollers, or beside its middle, the middle of its tread.

    Raises:
        ValueError: a wheel does not touch the ball.
    """
    data, touches = at_rest(model), []
    ball = data.geom("ball").xpos
    for wheel in range(num_wheels(model)):
        contacts = wheel_contacts(model, data, wheel)
        if not contacts:
            raise ValueError(
                f"wheel_{wheel} has 0 contacts with the ball in the keyframe 'settled', expected 1 or more: mend the "
                "keyframe or the geometry"
            )
        touch = np.mean([data.contact[i].pos for i in contacts], axis=0)
        if has_rollers(model, wheel):
            middle = tread_middle(data.joint(f"wheel_{wheel}"), ball) - ball
            touch = ball + np.linalg.norm(touch - ball) / np.linalg.norm(middle) * middle
        touches.append(touch)
    return data, touches


def rolling_wheel_speeds(model: mujoco.MjModel) -> NDArray[np.float64]:
    """Wheel speeds at which the upright robot rolls along without the wheels slipping across their axles.

    Returns:
        (wheels, 2) matrix: rad/s of each wheel per m/s of travel along the base's x and y.

    Raises:
        ValueError: a wheel does not touch the ball.
    """
    # The ball's centre moves with the base, so the base sees it spin in place, at travel / radius.
    return _wheel_speeds(model, np.cross([0.0, 0.0, 1.0], np.eye(3)[:2]) / float(model.geom("ball").size[0]))


def spun_wheel_speeds(model: mujoco.MjModel) -> NDArray[np.float64]:
    """Wheel speeds at which the wheels do not slip across their axles on a ball that spins, seen from the upright base.

    Returns:
        (wheels, 3) matrix: rad/s of each wheel per rad/s of the ball about the base's x, y and z.

    Raises:
        ValueError: a wheel does not touch the ball.
    """
    return _wheel_speeds(model, np.eye(3))


def _wheel_speeds(model: mujoco.MjModel, spins: Array) -> NDArray[np.float64]:
    """(wheels, k) rad/s of wheels that do not slip on a ball with each of (k, 3) spins, rad/s, seen from the base."""
    data, touches = _settled_touches(model)
    ball, speeds = data.geom("ball").xpos, np.empty((len(touches), len(spins)))
    for wheel, touch in enumerate(touches):
        joint = model.joint(f"wheel_{wheel}").id
        axle, arm = data.xaxis[joint], touch - data.xanchor[joint]
        rim = np.cross(axle, arm)  # velocity of the rim at the contact per rad/s, seen from the base
        for column, spin in enumerate(spins):
            speeds[wheel, column] = np.cross(spin, touch - ball) @ rim / (rim @ rim)
    return speeds


def no_load_speed(model: mujoco.MjModel) -> float:
    """rad/s of an axle at which a motor has no torque left: the first of its user's numbers; infinite without."""
    return float(model.actuator_user[0, 0]) if model.nuser_actuator and model.actuator_user[0, 0] else np.inf


def free_wheel_speed(model: mujoco.MjModel) -> float:
    """rad/s at which a wheel's damping and friction take all of the torque that its motor has then."""
    torque, joint = float(model.actuator_ctrlrange[0, 1]), model.joint("wheel_0")
    falls = float(joint.damping[0]) + torque / no_load_speed(model)
    return (torque - float(joint.frictionloss[0])) / falls if falls else np.inf


def motor_limits(model: mujoco.MjModel) -> tuple[float, float]:
    """What the motors reach, where a wheel's damping takes all of their torque.

    Returns:
        m/s of travel in every direction, and rad/s about the vertical against a ball that stands still.
    """
    fastest = free_wheel_speed(model)
    headings = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    wheels = rolling_wheel_speeds(model) @ np.stack([np.cos(headings), np.sin(headings)])
    return fastest / float(np.abs(wheels).max()), fastest / abs(float(spun_wheel_speeds(model)[0, 2]))


OF_MOTORS = ("torque", "no_load_speed", "free_speed", "wheel_damping", "wheel_friction", "speed_gain")
NUMBERS = (*OF_MOTORS, "ball_radius", "ball_depth", "percussion", "rolling")
"""Of ``Mechanics``, what differs from robot to robot of a family."""
SPEED_SHARE = 0.5
"""Of the speed that a wheel off the ball lacks, what a motor that is asked for speeds makes up in a step: at 1 it would
be there at once, from 2 on it would swing.  On the ball wheels are slower, as that is heavy."""


@dataclass(frozen=True)
class Mechanics:
    """What those above the physics have to know of a robot.

    Of n robots that differ, ``side_by_side``, each number is an array that stands beside actions (n, wheels) or columns
    of state (k, n).
    """

    torque: float
    """N m on a wheel's axle at an action of -1, the reference's sign."""
    ball_radius: float
    """m."""
    ball_depth: float
    """m from the base's origin down its axis to the ball's centre, at rest."""
    percussion: float
    """m from the base's origin up its axis to the point that torques of the wheels leave as it is."""
    no_load_speed: float
    """rad/s of an axle at which a motor has no torque left; infinite where it always has all."""
    free_speed: float
    """rad/s at which the wheels' damping and friction take all of the torque; infinite without."""
    wheel_damping: float
    """N m that a wheel loses by each rad/s."""
    wheel_friction: float
    """N m that a wheel loses whenever it turns, and that have to be there before it does."""
    speed_gain: float
    """N m per rad/s that is missing, of a motor that is asked for a speed."""
    rolling: Array
    """(wheels, 2) rad/s of each wheel per m/s of travel along the base's x and y."""
    near_upright: RollingModel
    """How it moves."""

    @classmethod
    def of(cls, model: mujoco.MjModel) -> Self:
        """Of a robot, on a plane.

        Raises:
            ValueError: a wheel does not touch the ball.
        """
        pose, at, rolling = model.key("settled").qpos, Addresses.of(model), rolling_wheel_speeds(model)
        near_upright = rolling_model(model, rolling)
        depth = round(float(pose[at.base_qpos + 2] - pose[at.ball_qpos + 2]), 4)  # contacts give way by more
        # wheels that push the ball along x lean the base back, about this point above the ball's centre
        above = -near_upright.b[TRAVEL] @ np.linalg.pinv(near_upright.b[LEANING])
        return cls(
            torque=near_upright.full,
            ball_radius=float(model.geom("ball").size[0]),
            ball_depth=depth,
            percussion=round(float(above[0, 0]), 3) - depth,
            no_load_speed=no_load_speed(model),
            free_speed=free_wheel_speed(model),
            wheel_damping=float(model.joint("wheel_0").damping[0]),
            wheel_friction=float(model.joint("wheel_0").frictionloss[0]),
            speed_gain=SPEED_SHARE * float(model.dof_M0[at.wheel_qvel[0]]) / float(model.opt.timestep),
            rolling=rolling,
            near_upright=near_upright,
        )

    @classmethod
    def side_by_side(cls, robots: Sequence[Self]) -> Self:
        """Of n robots with as many wheels, whose numbers ``put`` changes; how they move is told of the first."""
        columns: dict[str, Any] = {name: np.array([getattr(m, name) for m in robots], float) for name in NUMBERS}
        columns |= {name: columns[name][:, None] for name in OF_MOTORS}
        return cls(**columns, near_upright=robots[0].near_upright)

    def put(self, which: int, other: Self) -> None:
        """Make one of robots that differ another one."""
        for name in NUMBERS:
            getattr(self, name)[which] = getattr(other, name)

    def authority(self, action: str) -> float:
        """N m that an action of -1 makes at a wheel that stands, of one robot; within what the motor has or not."""
        return self.torque if action == "torque" else (self.speed_gain + self.wheel_damping) * self.free_speed

    def near_upright_by(self, action: str) -> RollingModel:
        """How it moves by actions of this kind, see ``ballbot.envs.motors``, one robot.

        Motors that follow speeds push the harder the slower its wheels turn.  That those that follow positions make up
        for what is missing too is left out.
        """
        model = self.near_upright
        if action == "torque":
            return model
        turning = np.hstack([np.zeros((self.wheels, 2)), -self.ball_radius * self.rolling, self.rolling])
        a = model.a - self.speed_gain * model.b @ turning
        return RollingModel(a, (self.speed_gain + self.wheel_damping) * model.b, self.free_speed)

    @property
    def wheels(self) -> int:
        """How many."""
        return int(self.rolling.shape[-2])

    @cached_property
    def shares(self) -> Array:
        """(wheels, 2): how fast each wheel turns when the robot rolls along its x and its y, 1 for the fastest."""
        return np.asarray(self.rolling / np.abs(self.rolling).max())

    def applied(self, torques: Array, wheel_speeds: Array) -> Array:
        """(n, wheels) N m that motors give of what is asked of them, at (n, wheels) rad/s."""
        if not np.any(np.isfinite(self.no_load_speed)):
            return torques
        share = self.torque / self.no_load_speed * wheel_speeds
        most = self.torque
        low, high = (np.clip(side * most - share, -most, most) for side in (-1, 1))  # who is far too fast is braked so
        return np.asarray(np.clip(torques, low, high))

    def tracking(self, speeds: Array, wheel_speeds: Array, besides: Array | float = 0.0) -> Array:
        """(n, wheels) N m by which motors follow (n, wheels) rad/s, at (n, wheels) rad/s: within what they have.

        What the wheel's damping takes at the speed that is asked, in proportion to what is missing, and ``besides``,
        500 times a second: as a motor's own controller does that knows nothing of the robot.
        """
        torques = self.wheel_damping * speeds + self.speed_gain * (speeds - wheel_speeds) + besides
        return np.asarray(np.clip(torques, -self.torque, self.torque))

    def margin(self, lean: float) -> float:
        """How near to the edge of its ground, m, a robot that leans so far, rad, counts as off it."""
        beside = self.ball_radius + np.maximum(self.ball_depth, 0.0) * np.sin(lean)
        return round(1.1 * float(np.max(beside)), 2)


@cache
def mechanics_of(robot: Robot) -> Mechanics:
    """Of a robot, by its numbers or from a file.

    Raises:
        SettingsError: as ``RobotConfig.spec``.
    """
    return Mechanics.of(robot.spec().compile())


def reference() -> Mechanics:
    """Of the reference's robot."""
    return mechanics_of(RobotConfig())
