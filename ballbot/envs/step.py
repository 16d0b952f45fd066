"""One record of a step, that observations, rewards and endings are functions of.

Arrays have one column a robot (their last axis), actions one row.  All of it is computed from the simulations' state,
so it is current after every step (MuJoCo's derived fields lag one step behind).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ballbot.envs.commanded import Commanded
    from ballbot.envs.mechanics import Mechanics

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class RobotState:
    """The part of the simulations' state that observations, rewards and endings need; one column a robot."""

    position: Array
    """(3, n) of the base's origin, world frame, m."""
    quaternion: Array
    """(4, n) base orientation, w first."""
    rotation: Array
    """(3, 3, n) its matrix: body to world."""
    velocity: Array
    """(3, n) of the base's origin, world frame, m/s."""
    gyro: Array
    """(3, n) angular velocity of the base, body frame, rad/s."""
    wheel_speeds: Array
    """(wheels, n) rad/s."""

    @cached_property
    def heading(self) -> Array:
        """(2, n) unit vectors of the body's x axis in the horizontal plane of the world."""
        ahead = self.rotation[:2, 0]
        return np.asarray(ahead / np.sqrt(ahead[0] ** 2 + ahead[1] ** 2 + 1e-12))

    @cached_property
    def heading_velocity(self) -> Array:
        """(2, n) horizontal velocity along the heading and to its left, m/s."""
        (c, s), (vx, vy) = self.heading, self.velocity[:2]
        return np.stack([c * vx + s * vy, c * vy - s * vx])

    @cached_property
    def yaw_rate(self) -> Array:
        """(n,) angular velocity about the vertical, rad/s."""
        (a, b, c), (x, y, z) = self.rotation[2], self.gyro
        return np.asarray(a * x + b * y + c * z + 0.0)  # in one order: einsum adds otherwise for a single robot

    @cached_property
    def leaning(self) -> Array:
        """(2, n) rad/s at which the base leans along the world's x and y."""
        (a, b, c), (d, e, f) = self.rotation[:2]
        x, y, z = self.gyro
        return np.stack([d * x + e * y + f * z, -(a * x + b * y + c * z)])

    def ball_place(self, depth: Array | float) -> Array:
        """(2, n) m, x and y of the world below the centre of a ball that lies so deep, m, below the base's origin."""
        return np.asarray(self.position[:2] - depth * self.rotation[:2, 2])

    def to_heading(self, offset: Array) -> Array:
        """A horizontal (2, n) vector of the world along the heading and to its left."""
        (c, s), (x, y) = self.heading, offset
        return np.stack([c * x + s * y, c * y - s * x])

    def take(self, ids: NDArray[np.intp]) -> RobotState:
        """The columns ``ids``."""
        return RobotState(*(getattr(self, f.name)[..., ids] for f in fields(self)))

    def put(self, ids: NDArray[np.intp], other: RobotState) -> None:
        """Replace the columns ``ids`` by those of ``other``."""
        own = [f.name for f in fields(self)]
        for name in own:
            getattr(self, name)[..., ids] = getattr(other, name)
        for name in self.__dict__.keys() - own:
            del self.__dict__[name]  # computed from what was there before


@dataclass(frozen=True)
class Step:
    """What happened to n robots in one step, or, at the start of an episode, how they stand there."""

    robots: RobotState
    """As they are now."""
    before: RobotState
    """As they were before the step; at the start of an episode the same as ``robots``."""
    command: Commanded
    """What they were told."""
    actions: Array
    """(n, wheels) that were asked for, in [-1, 1]."""
    last_actions: Array
    """(n, wheels) those of the step before, 0 at the start."""
    fallen: Bools
    """(n,) whether the episode ends by a failure: a fall, or what else the world counts as one."""
    dt: float
    """s of this step."""
    heights: Callable[[Array], Array]
    """Height of the ground in m at (n, ..., 2) places x, y of the world, m: (n, ...)."""
    mechanics: Mechanics
    """What follows from how the robot is made."""
    shell: Array
    """(3, k) points on the robot's surface but the ball's, in the base, m: where it can touch the ground."""
    elapsed: NDArray[np.int64]
    """(n,) steps of the episode so far."""
    time_limit: NDArray[np.int64]
    """(n,) steps after which the episode ends."""
    floor: Callable[[], Array]
    """(n,) m, as ``heights`` are: lower ground is off the road; -inf where none is."""
    ways: Callable[[Array, Array], Array]
    """The best way along (2, n) goals, unit vectors, from (2, n) places, m: (2, n) unit vectors; see ``Ways``."""
    randomized: Callable[[], Array]
    """(numbers, n) how far each number that may differ from episode to episode is from what it is otherwise."""
    balance: Callable[[], Array]
    """(2, n) where the robots' sensors say that gravity points, along the base's x and y, when the robots balance."""
    level: Callable[[RobotState], RobotState]
    """How robots stand to gravity, which leans where slopes are made by that; see ``Physics.level``."""
    motors: Callable[[], Array]
    """(n, wheels) N m that the motors gave in this step on the wheels' axles."""

    @property
    def ball_place(self) -> Array:
        """(2, n) m, x and y of the world below the ball's centre."""
        return self.robots.ball_place(self.mechanics.ball_depth)

    @property
    def time_left(self) -> Array:
        """(n,) s until the episode ends at its time limit."""
        return np.maximum(self.time_limit - self.elapsed, 0) * self.dt

    @property
    def torques(self) -> Array:
        """(n, wheels) N m on the wheels' axles."""
        return self.motors()

    def way(self, ahead: float = 0.0) -> Array:
        """(2, n) unit vectors of the world: where to go from here, as one who knows all the ground; 0 for who stays.

        Args:
            ahead: s; from where the robot will be so much later, rather.
        """
        place = self.ball_place
        if ahead:
            place = place + ahead * self.steady_velocity(self.robots)
        return np.asarray(self.ways(self.command.direction, place))

    def steady_velocity(self, robots: RobotState) -> Array:
        """(2, n) m/s: that of the centre of percussion, which lean and slope change, but no jerk of a wheel.

        The robot's angular momentum about the ball's contact with the ground, in units of a velocity.

        Args:
            robots: now, or before.
        """
        return np.asarray(robots.velocity[:2] + self.mechanics.percussion * robots.leaning)


def rotation_matrix(quaternion: Array) -> Array:
    """(3, 3, n) rotation matrices of (4, n) unit quaternions, w first."""
    ww, wx, wy, wz = (2 * quaternion[0]) * quaternion
    xx, xy, xz = (2 * quaternion[1]) * quaternion[1:]
    yy, yz = (2 * quaternion[2]) * quaternion[2:]
    rotation = np.empty((3, 3, quaternion.shape[1]))
    ww -= 1  # for unit quaternions 1 - yy - zz = ww - 1 + xx
    np.add(ww, xx, out=rotation[0, 0])
    np.subtract(xy, wz, out=rotation[0, 1])
    np.add(xz, wy, out=rotation[0, 2])
    np.add(xy, wz, out=rotation[1, 0])
    np.add(ww, yy, out=rotation[1, 1])
    np.subtract(yz, wx, out=rotation[1, 2])
    np.subtract(xz, wy, out=rotation[2, 0])
    np.add(yz, wx, out=rotation[2, 1])
    zz = (2 * quaternion[3]) * quaternion[3]
    np.add(ww, zz, out=rotation[2, 2])
    return rotation


def turned(first: Array, then: Array) -> Array:
    """(4, n) quaternions, w first, of (4, n) rotations ``then`` along axes that (4, n) ``first`` have turned."""
    (w, x, y, z), (d, a, b, c) = first, then
    return np.stack([
        w * d - x * a - y * b - z * c,
        w * a + x * d + y * c - z * b,
        w * b + y * d + z * a - x * c,
        w * c + z * d + x * b - y * a,
    ])  # fmt: skip


def rotation_vector(quaternion: Array) -> Array:
    """(3, n) rotation vectors, rad, of (4, n) unit quaternions: axis times angle, angle in [0, pi]."""
    w, xyz = quaternion[0], quaternion[1:]
    sign = np.where(w < 0, -1.0, 1.0)  # q and -q are the same rotation: take the shorter one
    x, y, z = xyz
    sine = np.sqrt(x * x + y * y + z * z)
    angle = 2 * np.arctan2(sine, np.abs(w))
    # angle / sin(angle / 2) tends to 2 as the angle vanishes
    scale = np.divide(angle, sine, out=np.full_like(sine, 2.0), where=sine > 1e-12)
    return xyz * (sign * scale)
