"""What a robot can do before anybody trains: the largest lean, slope, push and speed that computed gains manage.

All of it is tried in the simulation, by the linear-quadratic regulator (``ballbot.lqr``), in several directions; what
its model says stands beside.  A robot manages something if it comes to rest and stays so, with nothing but its ball on
the ground.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ballbot.envs import BallbotVectorEnv
from ballbot.envs.drive import Drive, measure_drive
from ballbot.envs.mechanics import RollingModel, free_wheel_speed
from ballbot.envs.robots import Robot
from ballbot.envs.standing import gripped_lean, torque_lean
from ballbot.envs.step import RobotState
from ballbot.lqr import LQRController, gains_of, held_for

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

DIRECTIONS = 6
"""In which each is tried."""
LEVELS, ROUNDS, AGAIN = 8, 3, 2
"""How many sizes are tried at a time, and how often: up to the first that does not go well, and again from so many
sizes below the last that did, as where wheels slip smaller ones may fail as well."""
MOST_SECONDS = 6.0
"""Of each try.  Who has not come to rest by then goes to and fro with slipping wheels, and falls as often as not."""
REST_RATE, REST_SPEED, REST_SECONDS = 0.1, 0.05, 0.5
"""rad/s, m/s, and how long a robot must lean and travel no faster to have come to rest."""
FALLEN = 45.0
"""degrees of tilt that count as a fall, too."""
PUSHED = 0.1
"""s that a push lasts."""
FALLING = 1.0
"""s before a fall from which on it is one."""
APPROACH = 0.8
"""1/s: on slopes robots go back to their place at so much of the distance."""
COURSE_SECONDS, BEYOND = 12.0, 1.5
"""In which robots speed up slowly, to so many times the speed at which their motors have nothing left."""
SLIP = 3.0
"""rad/s by which a wheel may turn otherwise than it rolls before it counts as one that slips."""
MOST_LEAN, MOST_SLOPE, MOST_PUSH, MOST_SPEED = 0.7, 0.6, 2.0, 6.0
"""rad, rad, m/s by which a push changes the robot's speed, and m/s, beyond which nothing is tried."""
CAUSES = ("torque", "grip", "speed", "gains")
"""What ends it: all of the motors' torque is not enough, wheels slip, or turn as fast as the motors can, or none of
these, and the computed gains do not bring it to rest."""
NOTHING = -1
"""In the place of a cause: nothing ended it."""


@dataclass(frozen=True)
class Limit:
    """How far something can go, in each direction, (directions,), and what ended it there."""

    most: Array
    """The largest that went well."""
    cause: NDArray[np.int64]
    """Indices of ``CAUSES``, or ``NOTHING``: what is larger was not tried."""
    resolution: float
    """By how much the next that was tried is larger, at most."""
    torques: Array
    """(k, 2) of those that went well, how large, and which share of its torque a motor gave at rest."""

    @property
    def worst(self) -> float:
        """In the direction in which it is least."""
        return float(self.most.min())

    @property
    def why(self) -> str | None:
        """What most often ends it; None if nothing that was tried does."""
        causes = self.cause[self.cause != NOTHING]
        return CAUSES[int(np.bincount(causes).argmax())] if len(causes) else None


@dataclass(frozen=True)
class Course:
    """How a robot went that sped up slowly until it fell, in each direction."""

    limit: Limit
    """m/s."""
    speeds: Array
    """(k,) m/s."""
    torques: Array
    """(k,) share of its torque that a motor gave at such a speed, at most."""
    turning: Array
    """(k,) wheels' speed by that at which motors have nothing left, at most."""


@dataclass(frozen=True)
class Design:
    """What a robot can do, in SI units; directions are along the base, counterclockwise from its x axis."""

    mass: float
    """kg, of all of it."""
    fall_rate: float
    """1/s at which it falls by itself: a lean grows by e in so many parts of a second."""
    regulated: NDArray[np.complex128]
    """(6,) 1/s, poles of the robot with computed gains, by its model."""
    lean_by_torque: float
    """rad from which the torque of the motors can bring it back if the wheels grip, by its model."""
    lean_by_grip: float
    """rad in which the wheels' grip can hold it, by its model."""
    directions: Array
    """(directions,) rad."""
    top_speeds: Array
    """(directions,) m/s at which the motors have nothing left."""
    lean: Limit
    """rad, standing still, from which it comes to rest."""
    slope: Limit
    """rad, on which it stands still in one place; downhill is the direction."""
    push: Limit
    """N s at the body's centre of mass, within 0.1 s, after which it comes to rest."""
    course: Course
    """How fast it goes on level ground."""
    drive: Drive
    """How the wheels turn the ball."""


def design_of(robot: Robot, progress: Callable[[float], None] | None = None) -> Design:
    """Try a robot.

    Args:
        robot: to try.
        progress: told now and then about which share is done.

    Raises:
        SettingsError: it cannot stand, or is otherwise none.
        ValueError: its motors cannot bring it to rest.
    """
    tries = Tries(robot, DIRECTIONS * LEVELS, progress)
    try:
        model, mechanics = tries.sims.plane, tries.sims.mechanics
        along = np.stack([np.cos(WAYS), np.sin(WAYS)])
        mass, rolling = float(model.body_subtreemass[0]), mechanics.near_upright
        lean = min(torque_lean(model), np.pi / 2)
        top_speeds = free_wheel_speed(model) / np.abs(mechanics.rolling @ along).max(axis=0)
        return Design(
            mass=mass,
            fall_rate=rolling.fall_rate,
            regulated=_poles(rolling, tries.envs.dt),
            lean_by_torque=lean,
            lean_by_grip=gripped_lean(model, rolling),
            directions=WAYS,
            top_speeds=top_speeds,
            lean=tries.limit(min(MOST_LEAN, 1.3 * lean), _leaning),
            slope=tries.limit(MOST_SLOPE, _sloping),
            push=tries.limit(MOST_PUSH * mass, _pushed),
            course=tries.course(np.minimum(BEYOND * top_speeds, MOST_SPEED)),
            drive=measure_drive(model),
        )
    finally:
        tries.envs.close()


WAYS = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
"""(directions,) rad."""


def _poles(model: RollingModel, dt: float) -> NDArray[np.complex128]:
    """(6,) 1/s, of the robot with computed gains."""
    a, b = held_for(model, dt)
    loop = a + model.full * b @ gains_of(model, dt).state
    return np.log(np.linalg.eigvals(loop).astype(complex)) / dt


Setting = Callable[["Tries", Array, Array, int], Array]
"""What is done before each step to robots, sizes and directions (n,) and the step's number given; returns the velocity
(2, n) that they shall have, m/s along the base's axes."""


def _leaning(tries: Tries, size: Array, way: Array, step: int) -> Array:
    if step == 0:
        for sim, (lean, turn) in enumerate(zip(size, way, strict=True)):
            tries.sims.place(sim, 0, tilt=float(lean), tilt_axis=float(turn + np.pi / 2))
    return np.zeros((2, len(size)))


def _sloping(tries: Tries, size: Array, way: Array, step: int) -> Array:
    if step == 0:  # gravity leans, and the robot with it, instead of the ground
        for sim, (slope, turn) in enumerate(zip(size, way, strict=True)):
            tries.sims.place(sim, 0, tilt=float(slope), tilt_axis=float(turn - np.pi / 2))
        downhill = np.stack([np.sin(size) * np.cos(way), np.sin(size) * np.sin(way), -np.cos(size)], axis=1)
        tries.gravity[:] = -tries.sims.model.opt.gravity[2] * downhill
        tries.places[:] = tries.robots.position[:2]
    away = tries.robots.position[:2] - tries.places
    return np.asarray(-APPROACH * np.einsum("ijn,in->jn", tries.robots.rotation[:2, :2], away))


def _pushed(tries: Tries, size: Array, way: Array, step: int) -> Array:
    if step in (0, round(PUSHED / tries.envs.dt)):
        forces = np.zeros((len(size), tries.sims.model.nbody, 6))
        if step == 0:
            forces[:, tries.base, :2] = (size / PUSHED * np.stack([np.cos(way), np.sin(way)])).T
        for sim in range(len(size)):
            tries.sims.push(sim, forces[sim])
    return np.zeros((2, len(size)))


class Tries:
    """Robots in the simulation, regulated by computed gains, as many as are tried at a time."""

    def __init__(self, robot: Robot, num: int, progress: Callable[[float], None] | None = None) -> None:
        self.envs = BallbotVectorEnv(num, terrain="flat", robot=robot, tilt_limit_deg=FALLEN)
        self.sims = self.envs.simulations
        self.base = self.sims.model.body("base").id
        self.gravity = np.asarray(self.sims.batch.expand("opt.gravity"))
        """(n, 3) m/s², of each simulation."""
        self.places = np.zeros((2, num))
        """m, where robots stood at the beginning."""
        self._progress, self._rounds = progress, 0
        self._seen = np.zeros((num, 11), np.float32)
        self._fastest = free_wheel_speed(self.sims.plane)

    def begin(self) -> None:
        """Put all upright, at rest, on level ground."""
        self.envs.reset(seed=0)
        self._control, self._began = LQRController(self.envs.dt, 1.0, self.sims.plane), np.ones(self.sims.num, bool)
        for sim in range(self.sims.num):
            self.sims.place(sim, 0)
            self.sims.push(sim, np.zeros((self.sims.model.nbody, 6)))
        self.gravity[:] = self.sims.model.opt.gravity
        self._signs = np.zeros((len(CAUSES), self.sims.num))
        self._signs[-1] = 1e-6
        self._lost = np.zeros(self.sims.num, bool)
        self.rested = np.zeros(self.sims.num)
        """s for which each has been at rest."""
        self.torques = np.zeros(self.sims.num)
        """Share of its torque that a motor has given of late, at most."""
        self.look()

    def look(self) -> None:
        """See where robots are."""
        self.robots: RobotState = self.sims.robot_state()
        self.velocity = np.einsum("ijn,in->jn", self.robots.rotation, self.robots.velocity)
        """(3, n) m/s along the base's axes."""

    @property
    def fell(self) -> Bools:
        """(n,) who lies, or is about to, or whose simulation diverged."""
        down = self.gravity / np.linalg.norm(self.gravity, axis=1, keepdims=True)
        tilted = -np.einsum("in,ni->n", self.robots.rotation[:, 2], down) < np.cos(np.radians(FALLEN))
        lowest = np.einsum("in,ik->nk", self.robots.rotation[2], self.sims.shell).min(axis=1)
        return np.asarray(tilted | (self.robots.position[2] + lowest < 0) | self._lost)

    @property
    def cause(self) -> NDArray[np.int64]:
        """(n,) what was the matter of late."""
        return np.asarray(self._signs.argmax(axis=0))

    @property
    def turning(self) -> Array:
        """(n,) speed of the fastest wheel by that at which motors have nothing left."""
        return np.asarray(np.abs(self.robots.wheel_speeds).max(axis=0) / self._fastest)

    def step(self, wished: Array, ids: NDArray[np.intp]) -> None:
        """Let some of them go on, who shall have a velocity (2, n), m/s along the base's axes."""
        mechanics, robots, dt = self.sims.mechanics, self.robots, self.envs.dt
        down = self.gravity / np.linalg.norm(self.gravity, axis=1, keepdims=True)
        self._seen[:, :3] = np.einsum("ijn,ni->nj", robots.rotation, down)
        self._seen[:, 3:6], self._seen[:, 6:9], self._seen[:, 9:] = robots.gyro.T, self.velocity.T, wished.T
        actions = self._control(self._seen, self._began)
        self._began[:] = False
        diverged = self.sims.step(-mechanics.torque * actions.astype(np.float64), ids=ids)
        self._lost |= False if diverged is None else diverged
        self.look()
        # a wheel turns as the ball rolls below a body that leans
        lean = np.stack([self.robots.gyro[1], -self.robots.gyro[0]])
        rolls = mechanics.rolling @ (self.velocity[:2] - (mechanics.ball_depth + mechanics.ball_radius) * lean)
        off = self.robots.wheel_speeds - rolls
        slips = np.abs(off - off.mean(axis=0)).max(axis=0) > SLIP  # what all share is a turn about the vertical
        fast, full = self.turning > 0.9, np.abs(actions).max(axis=1) >= 1
        self._signs[:-1] = 0.99 * self._signs[:-1] + np.stack([full & ~slips & ~fast, slips, fast & ~slips])
        self._signs[-1] = 1e-6
        calm = (np.linalg.norm(lean, axis=0) < REST_RATE) & (np.linalg.norm(self.velocity[:2], axis=0) < REST_SPEED)
        self.rested = np.where(calm, self.rested + dt, 0.0)
        given = np.abs(self.sims.torques).max(axis=1) / mechanics.torque
        self.torques = self.torques + dt / REST_SECONDS * (given - self.torques)

    def tell(self, share: float) -> None:
        """So much of a round of tries is done; how fast robots go counts as one."""
        if self._progress is not None:
            self._progress((self._rounds + share) / (3 * ROUNDS + 1))

    def limit(self, most: float, setting: Setting) -> Limit:
        """The largest size after which robots come to rest, in each direction."""
        low, high, step = np.zeros(DIRECTIONS), np.full(DIRECTIONS, most), np.zeros(DIRECTIONS)
        cause, which = np.full(DIRECTIONS, NOTHING), np.arange(DIRECTIONS)
        well: list[Array] = []
        begun = self._rounds
        for number in range(ROUNDS):
            self._rounds = begun + number
            start = np.maximum(low - AGAIN * step, 0.0)
            step = (high - start) / LEVELS
            sizes = start + step * np.arange(1, LEVELS + 1)[:, None]  # (levels, directions)
            stood, causes = self._stands(sizes, setting)
            well.append(np.stack([sizes[stood], self.torques.reshape(sizes.shape)[stood]], axis=1))
            first = np.where(stood.all(axis=0), LEVELS, (~stood).argmax(axis=0))  # the lowest that does not go well
            failed, last = first < LEVELS, np.minimum(first, LEVELS - 1)
            cause, high = np.where(failed, causes[last, which], cause), np.where(failed, sizes[last, which], high)
            low = start + step * first
            if (low == high).all():
                break
        self._rounds = begun + ROUNDS
        return Limit(low, cause, float((high - low).max()), np.concatenate(well))

    def _stands(self, sizes: Array, setting: Setting) -> tuple[Bools, NDArray[np.int64]]:
        """(levels, directions) who comes to rest, and what keeps the others from that.

        What is larger than what fails in the same direction is not tried to the end, and counts as one that fails.
        """
        size, way = sizes.ravel(), np.tile(WAYS, len(sizes))
        self.begin()
        stood, fell, cause = np.zeros(size.shape, bool), np.zeros(size.shape, bool), np.zeros(size.shape, np.int64)
        for step in range(round(MOST_SECONDS / self.envs.dt)):
            self.tell(step * self.envs.dt / MOST_SECONDS)
            above = np.logical_or.accumulate(fell.reshape(sizes.shape), axis=0).ravel()
            pending = ~(stood | above)
            if not pending.any():
                break
            wished = setting(self, size, way, step)
            if step == 0:
                self.look()
            self.step(wished, np.flatnonzero(pending))
            falls = pending & self.fell
            cause[falls] = self.cause[falls]
            fell |= falls
            stood |= pending & ~falls & (self.rested >= REST_SECONDS) & (step * self.envs.dt > PUSHED + REST_SECONDS)
        restless = ~(stood | fell)
        cause[restless] = self.cause[restless]
        return stood.reshape(sizes.shape), cause.reshape(sizes.shape)

    def course(self, most: Array) -> Course:
        """Let one robot a direction speed up slowly, up to (directions,) m/s or until it falls."""
        self.begin()
        num, dt = self.sims.num, self.envs.dt
        ids, up = np.arange(DIRECTIONS), np.ones(DIRECTIONS, bool)
        cause, way = np.full(DIRECTIONS, NOTHING), np.zeros((2, num))
        way[:, ids] = np.cos(WAYS), np.sin(WAYS)
        speed, past, steps = np.zeros(DIRECTIONS), list[tuple[Array, Array, Array, Bools]](), round(COURSE_SECONDS / dt)
        for step in range(steps):
            self.tell(step / steps)
            self.step(way * np.pad(most * step / steps, (0, num - DIRECTIONS)), ids[up])
            speed = speed + dt / REST_SECONDS * ((self.velocity[:2] * way).sum(axis=0)[ids] - speed)
            falls = up & self.fell[ids]
            cause[falls] = self.cause[ids][falls]
            up = up & ~falls
            past.append((speed, self.torques[ids], self.turning[ids], up))
            if not up.any():
                break
        speeds, torques, turning, upright = (np.stack(rows) for rows in zip(*past, strict=True))
        later = np.minimum(np.arange(len(past)) + round(FALLING / dt), len(past) - 1)
        sound = upright[later]  # who falls had begun to before
        told = slice(None, None, round(0.1 / dt))
        rows = [np.where(sound, each, 0.0).max(axis=1)[told] for each in (speeds, torques, turning)]
        return Course(Limit(np.where(sound, speeds, 0.0).max(axis=0), cause, 0.0, np.zeros((0, 2))), *rows)
