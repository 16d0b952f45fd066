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
from dataclasses import dataclass, field
from typing import Self

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray

from ballbot.envs.mechanics import TRAVEL, Mechanics, RollingModel, reference

Array = NDArray[np.float64]

START_TIME = 1.0
"""s, in which the target rises from 0."""
SPEED_WEIGHT = 10.0
"""What a missing m/s costs, squared, where a wheel's full torque costs 1: a third of a m/s as much as that torque.  At
100 robots of other shapes begin to tremble, as contacts are soft, and this one drives no better."""
FIRM_SPEED_WEIGHT = 100.0
"""The most that it costs where the velocity is an estimate; and where motors follow speeds, which does not tremble."""
SHORTEST_DELAY = 0.02
"""s, that a firm regulator bears although nothing is late, as contacts are soft."""
MOST_MISSING = 0.3
"""m/s.  What a firm regulator acts on at most, along x and y: a new velocity far from the old one would ask for more
than wheels grip.  Three of seven robots fell in a third of their episodes, told up to 0.5 m/s in changing directions,
and none so."""
FRICTION_SHARE, TURNS = 0.9, 0.1
"""Of dry friction, what is made up for: more than all of it would drive by itself; and rad/s at which a wheel turns."""


def held_for(model: RollingModel, dt: float) -> tuple[Array, Array]:
    """(6, 6) and (6, wheels), from one call to the next, dt in s later, torques held between (Van Loan 1978)."""
    states, wheels = model.b.shape
    whole = np.zeros((states + wheels,) * 2)
    whole[:states] = np.hstack([model.a, model.b]) * dt
    grown = torch.matrix_exp(torch.from_numpy(whole)).numpy()
    return grown[:states, :states], grown[:states, states:]


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
    """The gains with which actions, given every dt in s, cost least together with what is missing of the speed.

    Args:
        model: of the robot.
        dt: s.
        speed_weight: what a missing m/s costs, squared, where an action of 1 costs 1.
    """
    a, b = held_for(model, dt)
    b = b * -model.full  # the reference's sign
    cost = np.zeros((6, 6))
    cost[TRAVEL, TRAVEL] = np.eye(2) * speed_weight
    hold = np.linalg.lstsq(b, (np.eye(6) - a)[:, TRAVEL], rcond=None)[0]
    return Gains(regulator(a, b, cost, np.eye(b.shape[1])), np.asarray(hold))


def closed_loop(a: Array, b: Array, gains: Array, late: int) -> Array:
    """State and actions on their way, from one step to the next, where actions -gains state come so many steps late."""
    states, wheels = b.shape
    loop = np.zeros((states + late * wheels,) * 2)
    loop[:states, :states] = a
    if not late:
        return loop - b @ gains
    loop[:states, states : states + wheels] = b
    loop[states:-wheels, states + wheels :] = np.eye((late - 1) * wheels)
    loop[-wheels:, :states] = -gains
    return loop


def firm_speed_weight(model: RollingModel, late: float) -> float:
    """The weight of the firmest regulator that still brings the robot to rest by what it senses ``late`` s ago.

    Pushes and slopes mislead who estimates a velocity, and who is firm falls less often; but the firmer, the less delay
    it bears.  What weighs more than ``FIRM_SPEED_WEIGHT`` is not looked for, nor less than a ten thousandth of it.
    """
    dt, late = 0.002, max(late, SHORTEST_DELAY)
    a, b = held_for(model, dt)
    b = b * -model.full

    def bears(weight: float) -> bool:
        loop = closed_loop(a, b, gains_of(model, dt, weight).state, round(late / dt))
        return bool(np.abs(np.linalg.eigvals(loop)).max() < 1)

    least, most = FIRM_SPEED_WEIGHT / 1e4, FIRM_SPEED_WEIGHT
    if bears(most):
        return most
    while most > 1.02 * least:
        middle = float(np.sqrt(least * most))
        least, most = (middle, most) if bears(middle) else (least, middle)
    return least


@dataclass(frozen=True)
class DryFriction:
    """What makes up for it: action = -most * clip(turning @ velocity, -1, 1), so that wheels follow small torques too.

    Without it the linear regulator, which knows of no friction, creeps to and fro where it is to stand, and is some
    hundredths of a m/s too fast where it drives, as it leans to push against what it misses.
    """

    most: float
    """Action."""
    turning: Array
    """(wheels, 2) of the velocity along x and y, m/s."""

    @classmethod
    def of(cls, mechanics: Mechanics, action: str = "torque") -> Self:
        """Of a robot with motors that take this; without friction it makes up for nothing."""
        lost = FRICTION_SHARE * mechanics.wheel_friction
        return cls(lost / mechanics.authority(action), mechanics.rolling / TURNS)


@dataclass
class LQRController:
    """Drives along the goal by gains that are computed.

    Args:
        dt: seconds between two calls.
        target_speed: m/s along the goal.  It is missed by what the ground takes, as the controller does not remember.
        robot: on a plane, upright in its keyframe "settled", as ``RobotConfig.compile`` makes it; None: the
            reference's.
        speed_weight: see ``gains_of``.
        keeps_velocity: whether it is told velocities, which it is to keep: it makes up for dry friction of the wheels,
            see ``DryFriction``, and acts on no more than ``MOST_MISSING`` at a time.
        action: what its motors take, as ``WorldConfig.action`` says.
    """

    dt: float
    target_speed: float = 0.32
    robot: mujoco.MjModel | None = field(default=None, repr=False)
    speed_weight: float = SPEED_WEIGHT
    keeps_velocity: bool = False
    action: str = "torque"
    gains: Gains = field(init=False, repr=False)
    ball_depth: float = field(init=False, repr=False)
    friction: DryFriction | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        mechanics = reference() if self.robot is None else Mechanics.of(self.robot)
        model, self.ball_depth = mechanics.near_upright_by(self.action), mechanics.ball_depth
        self.gains = gains_of(model, self.dt, self.speed_weight)
        self.friction = DryFriction.of(mechanics, self.action) if self.keeps_velocity else None
        self._elapsed: Array | float = 0.0

    def __call__(self, observations: NDArray[np.float32], began: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Actions (n, wheels) for observations of ``frame="body"``; ``began`` (n,) marks first steps of episodes.

        Of the observation it reads the first 11 numbers: gravity, gyro, velocity and goal.  An action of a is a torque
        of -a times the motor's limit, or what ``action`` says, as the environments apply it.
        """
        self._elapsed = np.where(began, 0.0, self._elapsed + self.dt)
        x = observations.T.astype(np.float64)
        down, rate, velocity, goal = x[0:3], x[3:6], x[6:8], x[9:11]
        target = self.target_speed * np.minimum(self._elapsed / START_TIME, 1.0) * goal
        # small angles: the body's axes x and y lean forward where gravity, seen from the body, has a part along them
        leaning = np.stack([rate[1], -rate[0]])
        travel = velocity - self.ball_depth * leaning
        off = travel - target
        if self.friction is not None:
            off = np.clip(off, -MOST_MISSING, MOST_MISSING)
        actions = self.gains.travel @ target - self.gains.state @ np.concatenate([down[:2], leaning, off])
        if self.friction is not None:
            actions -= self.friction.most * np.clip(self.friction.turning @ travel, -1.0, 1.0)
        return np.clip(actions, -1.0, 1.0).T.astype(np.float32)
