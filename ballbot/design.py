"""What a robot can do before anybody trains: the largest lean, slope and push that computed gains recover from.

All of it is tried in the simulation, by the linear-quadratic regulator (``ballbot.lqr``), in as many directions at once
as asked for; what its model says stands beside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ballbot.envs import BallbotVectorEnv
from ballbot.envs.drive import Drive, measure_drive
from ballbot.envs.mechanics import free_wheel_speed
from ballbot.envs.robots import Robot
from ballbot.envs.standing import recoverable_lean
from ballbot.lqr import LQRController

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

DIRECTIONS = 6
"""In which each is tried."""
LEVELS, ROUNDS = 6, 2
"""How many sizes are tried at a time, and how often between the last that went well and the first that did not."""
SECONDS = 3.0
"""Of each try."""
FALLEN = 45.0
"""degrees of tilt that count as a fall."""
ROLLS = 0.5
"""m/s in the end that count as one who does not stand."""
PUSHED = 0.1
"""s that a push lasts."""
SLIP = 3.0
"""rad/s by which a wheel may turn otherwise than it rolls before it counts as one that slips."""
MOST_LEAN, MOST_SLOPE, MOST_SPEED = 0.7, 0.6, 2.0
"""rad, rad, and m/s by which a push changes the robot's speed, beyond which nothing is tried."""
CAUSES = ("torque", "grip", "speed")
"""What ends it: all of the motors' torque is not enough, wheels slip, or turn as fast as the motors can."""


@dataclass(frozen=True)
class Limit:
    """How far something can go, in each direction, (directions,), and what ended it there, indices of ``CAUSES``."""

    most: Array
    cause: NDArray[np.int64]

    @property
    def worst(self) -> float:
        """In the direction in which it is least."""
        return float(self.most.min())

    @property
    def why(self) -> str:
        """What most often ends it."""
        return CAUSES[int(np.bincount(self.cause, minlength=len(CAUSES)).argmax())]


@dataclass(frozen=True)
class Design:
    """What a robot can do, in SI units; directions are along the base, counterclockwise from its x axis."""

    mass: float
    """kg, of all of it."""
    fall_rate: float
    """1/s at which it falls by itself: a lean grows by e in so many parts of a second."""
    lean_by_torque: float
    """rad from which the torque of the motors can bring it back if the wheels grip, by its model."""
    directions: Array
    """(directions,) rad."""
    top_speeds: Array
    """(directions,) m/s at which the motors have nothing left."""
    lean: Limit
    """rad, standing still, from which it comes back."""
    slope: Limit
    """rad, on which it stands, or rolls down slowly; downhill is the direction."""
    push: Limit
    """N s at the body's centre of mass, within 0.1 s."""
    drive: Drive
    """How the wheels turn the ball."""


def design_of(robot: Robot) -> Design:
    """Try a robot.

    Raises:
        SettingsError: it does not come to rest upright, or is otherwise none.
        ValueError: its motors cannot bring it to rest.
    """
    envs = BallbotVectorEnv(DIRECTIONS * LEVELS, terrain="flat", robot=robot, tilt_limit_deg=FALLEN)
    try:
        model, mechanics = envs.simulations.plane, envs.simulations.mechanics
        ways = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
        along = np.stack([np.cos(ways), np.sin(ways)])
        mass, rolling = float(model.body_subtreemass[0]), mechanics.near_upright
        return Design(
            mass=mass,
            fall_rate=rolling.fall_rate,
            lean_by_torque=recoverable_lean(rolling),
            directions=ways,
            top_speeds=free_wheel_speed(model) / np.abs(mechanics.rolling @ along).max(axis=0),
            lean=_limit(envs, MOST_LEAN, _leaning),
            slope=_limit(envs, MOST_SLOPE, _sloping),
            push=_limit(envs, MOST_SPEED * mass, _pushed),
            drive=measure_drive(model),
        )
    finally:
        envs.close()


Setting = Callable[[BallbotVectorEnv, Array, Array, int], None]
"""What is done before each step to robots of an environment, sizes and directions (n,) and the step's number given."""


def _leaning(envs: BallbotVectorEnv, size: Array, way: Array, step: int) -> None:
    if step == 0:
        for sim, (lean, turn) in enumerate(zip(size, way, strict=True)):
            envs.simulations.place(sim, 0, tilt=float(lean), tilt_axis=float(turn + np.pi / 2))


def _sloping(envs: BallbotVectorEnv, size: Array, way: Array, step: int) -> None:
    if step == 0:  # gravity leans, and the robot with it, instead of the ground
        for sim, (slope, turn) in enumerate(zip(size, way, strict=True)):
            envs.simulations.place(sim, 0, tilt=float(slope), tilt_axis=float(turn - np.pi / 2))
        _gravity(envs)[:] = -envs.simulations.model.opt.gravity[2] * _downhill(size, way)


def _gravity(envs: BallbotVectorEnv) -> Array:
    """(n, 3) m/s², of each simulation."""
    return np.asarray(envs.simulations.batch.expand("opt.gravity"))


def _downhill(size: Array, way: Array) -> Array:
    """(n, 3) unit vectors along gravity on slopes of so many rad."""
    return np.stack([np.sin(size) * np.cos(way), np.sin(size) * np.sin(way), -np.cos(size)], axis=1)


def _pushed(envs: BallbotVectorEnv, size: Array, way: Array, step: int) -> None:
    sims = envs.simulations
    if step in (0, round(PUSHED / envs.dt)):
        forces = np.zeros((len(size), sims.model.nbody, 6))
        if step == 0:
            forces[:, sims.model.body("base").id, :2] = (size / PUSHED * np.stack([np.cos(way), np.sin(way)])).T
        for sim in range(len(size)):
            sims.push(sim, forces[sim])


def _limit(envs: BallbotVectorEnv, most: float, setting: Setting) -> Limit:
    """The largest size at which nobody falls, in each direction."""
    ways = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    low, high = np.zeros(DIRECTIONS), np.full(DIRECTIONS, most)
    cause = np.zeros(DIRECTIONS, np.int64)
    for _ in range(ROUNDS):
        sizes = low + (high - low) * np.arange(1, LEVELS + 1)[:, None] / LEVELS  # (levels, directions)
        fell, causes = _try(envs, sizes.ravel(), np.tile(ways, LEVELS), setting)
        fell, causes = fell.reshape(sizes.shape), causes.reshape(sizes.shape)
        first = np.where(fell.any(axis=0), fell.argmax(axis=0), LEVELS)  # the lowest level that does not go well
        which = np.arange(DIRECTIONS)
        cause = np.where(first < LEVELS, causes[np.minimum(first, LEVELS - 1), which], cause)
        tried = np.concatenate([low[None], sizes])
        high = np.where(first < LEVELS, tried[np.minimum(first + 1, LEVELS), which], high)
        low = tried[first, which]
    return Limit(low, cause)


def _try(envs: BallbotVectorEnv, size: Array, way: Array, setting: Setting) -> tuple[Bools, NDArray[np.int64]]:
    """(n,) who falls, and of what."""
    sims, mechanics = envs.simulations, envs.simulations.mechanics
    control = LQRController(envs.dt, 0.0, sims.plane)
    envs.reset(seed=0)
    for sim in range(envs.num_envs):
        sims.place(sim, 0)
        sims.push(sim, np.zeros((sims.model.nbody, 6)))
    _gravity(envs)[:] = sims.model.opt.gravity
    setting(envs, size, way, 0)
    down = _gravity(envs) / np.linalg.norm(_gravity(envs), axis=1, keepdims=True)
    fell, began = np.zeros(envs.num_envs, bool), np.ones(envs.num_envs, bool)
    signs, cause = np.zeros((len(CAUSES), envs.num_envs)), np.zeros(envs.num_envs, np.int64)
    robots, seen, fastest = sims.robot_state(), np.zeros((envs.num_envs, 17), np.float32), free_wheel_speed(sims.plane)
    velocity = np.einsum("ijn,in->jn", robots.rotation, robots.velocity)  # along the base's axes
    for step in range(round(SECONDS / envs.dt)):
        if step:
            setting(envs, size, way, step)
        seen[:, :3] = np.einsum("ijn,ni->nj", robots.rotation, down)
        seen[:, 3:6], seen[:, 6:9] = robots.gyro.T, velocity.T
        actions = control(seen, began)
        began[:] = False
        sims.step(-mechanics.torque * actions.astype(np.float64))
        robots = sims.robot_state()
        velocity = np.einsum("ijn,in->jn", robots.rotation, robots.velocity)
        tilted = -np.einsum("in,ni->n", robots.rotation[:, 2], down) < np.cos(np.radians(FALLEN))
        # a wheel turns as the ball rolls below a body that leans
        lean = np.stack([robots.gyro[1], -robots.gyro[0]])
        rolls = mechanics.rolling @ (velocity[:2] - (mechanics.ball_depth + mechanics.ball_radius) * lean)
        off = robots.wheel_speeds - rolls
        slips = np.abs(off - off.mean(axis=0)).max(axis=0) > SLIP  # what all share is a turn about the vertical
        fast = np.abs(robots.wheel_speeds).max(axis=0) > 0.9 * fastest
        full = np.abs(actions).max(axis=1) >= 1
        new = np.where(fell, 0.0, np.stack([full & ~slips & ~fast, slips, fast & ~slips]))
        signs = 0.99 * signs + new  # of late
        ends = tilted & ~fell
        cause[ends] = signs[:, ends].argmax(axis=0)
        fell |= tilted
        if fell.all():
            break
    rolls_away = ~fell & (np.linalg.norm(robots.velocity, axis=0) > ROLLS)
    cause[rolls_away] = signs[:, rolls_away].argmax(axis=0)
    return fell | rolls_away, cause
