"""What the robot senses: two frames of the same proprioception.

Both are computed from the simulation's state alone, so they are current after every step (MuJoCo's derived fields lag
one step behind).  All functions take and return arrays with one column per simulation.

``frame="body"`` (17 numbers, the default).  Nothing in it changes when the robot and its goal are turned together
about the vertical, which is what makes learning fast.

===== =========================================== ======= ============= ==============
index name                                        unit    range         frame
===== =========================================== ======= ============= ==============
0-2   gravity direction                           1       [-1, 1]       body
3-5   angular velocity (gyro)                     rad/s   unbounded     body
6-8   velocity of the base                        m/s     unbounded     body
9-10  goal direction, x and y                     1       [-1, 1]       body
11-13 wheel speeds / 10                           rad/s   about +-1.25  wheel axle
14-16 last action, as applied                     1       [-1, 1]       motor
===== =========================================== ======= ============= ==============

``frame="world"`` (15 numbers): the reference's.

===== =========================================== ======= ============= ==============
index name                                        unit    range         frame
===== =========================================== ======= ============= ==============
0-2   orientation as a rotation vector            rad     [-pi, pi]     world
3-5   angular velocity                            rad/s   clipped to 2  body
6-8   velocity of the base                        m/s     clipped to 2  world
9-11  wheel speeds / 10                           rad/s   clipped to 2  wheel axle
12-14 last action, as applied                     1       [-1, 1]       motor
===== =========================================== ======= ============= ==============

``observation="encoded"`` appends, to either: the embedding of camera 0's latest image, that of camera 1's (20 numbers
each with the encoder that comes with ballbot), and the age of the two images in s, 0 to 0.01 at 83.3 Hz.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

OBSERVATION_SIZES = {"body": 17, "world": 15}
CAMERA_INTERVAL = 6  # steps from an image to the next, if nothing else is said: the reference's 83.3 Hz
WHEEL_SPEED_SCALE = 10.0  # rad/s per unit of observation (the reference's)
CLIP = 2.0  # the reference's bound on velocities and scaled wheel speeds


@dataclass(frozen=True)
class RobotState:
    """The part of the simulations' state that observations, rewards and endings need; one column per simulation."""

    position: Array  # (3, n) of the base's origin, world frame, m
    quaternion: Array  # (4, n) base orientation, w first
    rotation: Array  # (3, 3, n) its matrix: body to world
    velocity: Array  # (3, n) of the base's origin, world frame, m/s
    gyro: Array  # (3, n) angular velocity of the base, body frame, rad/s
    wheel_speeds: Array  # (3, n) rad/s


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


def rotation_vector(quaternion: Array) -> Array:
    """(3, n) rotation vectors, rad, of (4, n) unit quaternions: axis times angle, angle in [0, pi]."""
    w, xyz = quaternion[0], quaternion[1:]
    sign = np.where(w < 0, -1.0, 1.0)  # q and -q are the same rotation: take the shorter one
    sine = np.sqrt(np.einsum("kn,kn->n", xyz, xyz))
    angle = 2 * np.arctan2(sine, np.abs(w))
    # angle / sin(angle / 2) tends to 2 as the angle vanishes
    scale = np.divide(angle, sine, out=np.full_like(sine, 2.0), where=sine > 1e-12)
    return xyz * (sign * scale)


def body_frame(state: RobotState, goal: Array, last_actions: Array) -> NDArray[np.float32]:
    """The (n, 17) observation of the first table; goal is (2,), last_actions (n, 3)."""
    rotation = state.rotation
    columns = np.empty((17, rotation.shape[2]))
    np.negative(rotation[2], out=columns[0:3])
    columns[3:6] = state.gyro
    np.einsum("ijn,in->jn", rotation, state.velocity, out=columns[6:9])
    columns[9:11] = goal[0] * rotation[0, :2] + goal[1] * rotation[1, :2]
    np.divide(state.wheel_speeds, WHEEL_SPEED_SCALE, out=columns[11:14])
    columns[14:17] = last_actions.T
    return columns.T.astype(np.float32, order="C")


def world_frame(state: RobotState, goal: Array, last_actions: Array) -> NDArray[np.float32]:
    """The (n, 15) observation of the second table; the goal is fixed in the world, so it is not observed."""
    columns = np.empty((15, state.rotation.shape[2]))
    columns[0:3] = rotation_vector(state.quaternion)
    np.clip(state.gyro, -CLIP, CLIP, out=columns[3:6])
    np.clip(state.velocity, -CLIP, CLIP, out=columns[6:9])
    np.clip(state.wheel_speeds / WHEEL_SPEED_SCALE, -CLIP, CLIP, out=columns[9:12])
    columns[12:15] = last_actions.T
    return columns.T.astype(np.float32, order="C")


OBSERVE = {"body": body_frame, "world": world_frame}
