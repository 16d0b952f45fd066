"""A controller that is computed from what the robot is, not tuned: the linear-quadratic regulator (Kalman 1960).

The model is that of rigid bodies that roll without slip, near upright: of the robot's velocities only those count that
rolling leaves free, how fast the body leans and how fast the ball travels, and the wheels turn as both make them. What
they weigh together, and what the wheels' damping takes, MuJoCo's own matrices tell:

    J velocities = all of MuJoCo's    (J' M J) d velocities / dt = J' (torques - damping J velocities) + gravity

Gravity acts on the lean alone.  Left out is that contacts are soft and take some of the speed; what the gains are worth
is therefore tried in the simulation (tests/test_lqr.py).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Self

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray

from ballbot.envs.model import Addresses, at_rest, build_model, rolling_wheel_speeds
from ballbot.envs.step import BALL_DEPTH

Array = NDArray[np.float64]

LEAN, LEANING, TRAVEL = slice(0, 2), slice(2, 4), slice(4, 6)
"""Where things are in the model's state, each along the base's x and y."""
START_TIME = 1.0
"""s, in which the target rises from 0."""
SPEED_WEIGHT = 10.0
"""What a missing m/s costs, squared, where a wheel's full torque costs 1: a third of a m/s as much as that torque.  At
100 robots of other shapes begin to tremble, as contacts are soft, and this one drives no better."""


@dataclass(frozen=True)
class RollingModel:
    """How a ballbot moves near upright: d state / dt = a state + b torques.

    The state is (6,): lean of the body in rad, its change in rad/s, and travel of the ball in m/s, each along the
    base's x and y.  Torques are those on the wheels' axles, N m.
    """

    a: Array
    """(6, 6), in SI units."""
    b: Array
    """(6, wheels), in SI units."""
    torque: float
    """N m that each motor has."""

    def held_for(self, dt: float) -> tuple[Array, Array]:
        """The same from one call to the next, dt in s later, torques held between (Van Loan 1978)."""
        states, wheels = self.b.shape
        whole = np.zeros((states + wheels,) * 2)
        whole[:states] = np.hstack([self.a, self.b]) * dt
        grown = torch.matrix_exp(torch.from_numpy(whole)).numpy()
        return grown[:states, :states], grown[:states, states:]


def rolling_model(model: mujoco.MjModel) -> RollingModel:
    """What the masses, shapes and joints of a robot make of it.

    Args:
        model: the robot, on a plane, upright in its keyframe "settled".

    Raises:
        ValueError: a wheel does not touch the ball.
    """
    at, wheels, data = Addresses.of(model), rolling_wheel_speeds(model), at_rest(model)
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


def recoverable_lean(model: RollingModel) -> float:
    """Lean in rad from which a robot that stands still can be brought back, in the direction in which that is least.

    Beyond it the motors' whole torque does not stop the fall.  What grows of the state, z, follows z' = growth z + push
    torque, and what can be brought to 0 is all that -push torque, weakened by the growth until then, adds up to (Sontag
    1984).  Of the small leans that the model is meant for, the sine is the angle; what it says beyond counts as 90
    degrees.

    Returns:
        from 0 to pi / 2; pi / 2 of a robot that does not fall by itself.
    """
    growths, modes = np.linalg.eig(model.a.T)
    grows = growths.real > 1e-6 * np.abs(growths).max()
    if not grows.any():
        return np.pi / 2
    # a real basis of what grows: modes that grow as fast as each other may come as complex pairs
    basis = np.linalg.svd(np.hstack([modes[:, grows].real, modes[:, grows].imag]))[0][:, : grows.sum()].T
    growth, push, leans = basis @ model.a @ basis.T, basis @ model.b * model.torque, basis[:, LEAN]
    sides = np.eye(1)
    if len(basis) > 1:
        turns = np.linspace(0, np.pi, 1440, endpoint=False)
        kinks = np.arctan2(push[0], -push[1])  # where a wheel pushes along, and the reach of all has its corners
        sides = np.stack([f(np.concatenate([turns, kinks])) for f in (np.cos, np.sin)])
    step = 0.01 / np.abs(growths[grows]).max()
    later, reach = torch.matrix_exp(torch.from_numpy(-growth * step)).numpy(), np.zeros(sides.shape[1])
    weaker = np.eye(len(basis)) - growth * step / 2  # the middle of each step
    for _ in range(round(20 / (step * growths.real[grows].min()))):
        reach += np.abs(sides.T @ weaker @ push).sum(axis=1) * step
        weaker = weaker @ later
    least = (reach / np.maximum(np.linalg.norm(leans.T @ sides, axis=0), 1e-300)).min()
    return float(min(least, np.pi / 2))


def regulator(a: Array, b: Array, q: Array, r: Array) -> Array:
    """(wheels, states) K: -K state is what costs least, x' q x + u' r u summed over all steps of x = a x + b u.

    The Riccati equation is solved by doubling (Anderson 1978).

    Raises:
        ValueError: it has no solution: what q counts cannot be brought to rest.
    """
    way, gain, cost, unit = a, b @ np.linalg.solve(r, b.T), q, np.eye(len(a))
    with suppress(np.linalg.LinAlgError), np.errstate(all="ignore"):  # numbers beyond what floats tell apart
        for _ in range(100):
            shared = np.linalg.inv(unit + gain @ cost)
            more = way.T @ cost @ shared @ way
            gain, cost, way = gain + way @ shared @ gain @ way.T, cost + more, way @ shared @ way
            if not np.abs(cost).max() < 1e100:
                break
            if np.abs(more).max() <= 1e-12 * np.abs(cost).max():
                found = np.asarray(np.linalg.solve(r + b.T @ cost @ b, b.T @ cost @ a))
                if np.abs(np.linalg.eigvals(a - b @ found)).max() < 1:
                    return found
    raise ValueError("the robot cannot be brought to rest: do its motors reach the ball, and with enough torque?")


@dataclass(frozen=True)
class Gains:
    """What a regulator does: action = travel @ target - state @ deviation."""

    state: Array
    """(wheels, 6) action per rad, rad/s and m/s."""
    travel: Array
    """(wheels, 2) action that holds a m/s along x and y, against the wheels' damping."""


def gains_of(model: RollingModel, dt: float, speed_weight: float = SPEED_WEIGHT) -> Gains:
    """The gains with which actions, given every dt in s, cost least together with what is missing of the speed."""
    a, b = model.held_for(dt)
    b = b * -model.torque  # the reference's sign
    cost = np.zeros((6, 6))
    cost[TRAVEL, TRAVEL] = np.eye(2) * speed_weight
    hold = np.linalg.lstsq(b, (np.eye(6) - a)[:, TRAVEL], rcond=None)[0]
    return Gains(regulator(a, b, cost, np.eye(b.shape[1])), np.asarray(hold))


@cache
def own_gains(dt: float) -> Gains:
    """Those of the robot that comes along."""
    return gains_of(rolling_model(build_model()), dt)


@dataclass
class LQRController:
    """Drives along the goal by gains that are computed, of the robot that comes along or (``of``) of another.

    Args:
        dt: seconds between two calls.
        target_speed: m/s along the goal.  It is missed by what the ground takes, as the controller does not remember.
        gains: of the robot, for this dt; None: those of the robot that comes along.
        ball_depth: m from the base's origin down to the ball's centre.
    """

    dt: float
    target_speed: float = 0.32
    gains: Gains | None = None
    ball_depth: float = BALL_DEPTH

    @classmethod
    def of(cls, model: mujoco.MjModel, dt: float, target_speed: float = 0.32) -> Self:
        """The controller of another robot.

        Args:
            model: on a plane, upright in its keyframe "settled", as ``RobotConfig.compile`` makes it.
            dt: seconds between two calls.
            target_speed: m/s along the goal.
        """
        pose, at = model.key("settled").qpos, Addresses.of(model)
        depth = float(pose[at.base_qpos + 2] - pose[at.ball_qpos + 2])
        return cls(dt, target_speed, gains_of(rolling_model(model), dt), depth)

    def __post_init__(self) -> None:
        if self.gains is None:
            self.gains = own_gains(self.dt)
        self._elapsed: Array | float = 0.0

    def __call__(self, observations: NDArray[np.float32], began: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Actions (n, wheels) for observations of ``frame="body"``; ``began`` (n,) marks first steps of episodes.

        Of the observation it reads the first 11 numbers: gravity, gyro, velocity and goal.  An action of a is a torque
        of -a times the motor's limit, as the environments apply it.
        """
        assert self.gains is not None
        self._elapsed = np.where(began, 0.0, self._elapsed + self.dt)
        x = observations.T.astype(np.float64)
        down, rate, velocity, goal = x[0:3], x[3:6], x[6:8], x[9:11]
        target = self.target_speed * np.minimum(self._elapsed / START_TIME, 1.0) * goal
        # small angles: the body's axes x and y lean forward where gravity, seen from the body, has a part along them
        leaning = np.stack([rate[1], -rate[0]])
        deviation = np.concatenate([down[:2], leaning, velocity - self.ball_depth * leaning - target])
        actions = self.gains.travel @ target - self.gains.state @ deviation
        return np.clip(actions, -1.0, 1.0).T.astype(np.float32)
