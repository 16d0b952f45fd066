"""What the robots are told to do: a direction to travel, a velocity to keep, a place or a path to drive to.

A kind of command is a frozen dataclass, whose fields are options (``--motion.max-speed 0.2``); it draws commands at
random, follows what becomes of them, and says by what an episode is a success.  Every robot has its own command, which
may change within an episode, and which whoever drives the robots may set at any time (``envs.set_command``)::

    @dataclass(frozen=True)
    class Circle(Velocity):
        def draw(self, rng, position, heading):
            return np.array([self.max_speed, 0.0, 0.0])
    COMMANDS["circle"] = Circle
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.commanded import Commanded, Limits, far_enough, on_ground, rms, unit
from ballbot.envs.rewards import REFERENCE
from ballbot.envs.step import Array, Bools, RobotState
from ballbot.errors import SettingsError
from ballbot.settings import Range, check_settings

SETTLING = 1.5
"""s after a new velocity is asked for, that do not count as errors: the robot cannot jump to it."""
MARGIN = 0.1
"""s that the shortest wait between two commands is longer than twice that, so that some of each counts."""
STILL = 1e-9
"""m/s.  Who is told less is told to stand."""

ONE_OF_TWO = "any direction is drawn, or one is given; leave one out"


@dataclass(frozen=True)
class Goal:
    """Travel along a direction of the world, as fast as possible: the reference's task.

    With a ``distance`` there are measures: ``travelled`` m along the goal, ``arrived`` (0 or 1: that far now), and
    ``arrival_time`` s, when it was that far first.
    """

    fields: ClassVar[tuple[str, ...]] = ("goal",)
    rewards: ClassVar[dict[str, float]] = REFERENCE
    size: ClassVar[int] = 2
    numbers: ClassVar[str] = "x, y of a direction of the world; 0, 0 to stand still"

    x: Annotated[float, Range(-1e6, 1e6)] = 0.0
    """Of the direction, in the world; its length does not count."""
    y: Annotated[float, Range(-1e6, 1e6)] = 1.0
    """Likewise."""
    any_direction: bool = False
    """Draw the direction at the start of each episode instead."""
    distance: Annotated[float, Range(0, 100)] = 0.0
    """Along the goal, m, that is to be behind the robot when the episode ends; 0: it is enough not to fall."""

    def __post_init__(self) -> None:
        check_settings(self)
        length = float(np.linalg.norm([self.x, self.y]))
        if length == 0.0:
            raise SettingsError("the goal must be a direction, got x = y = 0: give another one")
        if self.any_direction and (self.x, self.y) != (0.0, 1.0):
            raise SettingsError(f"x = {self.x:g}, y = {self.y:g} and any_direction are conflicting: {ONE_OF_TWO}")
        if abs(length - 1.0) > 1e-12:  # a unit vector stays as it is, to the bit
            object.__setattr__(self, "x", self.x / length)
            object.__setattr__(self, "y", self.y / length)

    @property
    def memory(self) -> dict[str, int]:
        """Rows of what ``Commanded`` keeps for it."""
        return {"direction": 2} | ({"origin": 2, "travelled": 1, "arrival": 2} if self.distance else {})

    def fit(self, limits: Limits) -> None:
        """SettingsError if the distance does not fit on the ground."""
        far_enough("distance", self.distance, limits)

    def draw(self, rng: np.random.Generator, position: Array, heading: Array) -> Array:
        """(2,) a unit vector, of the world."""
        if self.any_direction:
            angle = 2 * np.pi * rng.random()
            return np.array([np.cos(angle), np.sin(angle)])
        return np.array([self.x, self.y])

    def check(self, values: Array, limits: Limits) -> Array:
        """(k, 2) directions as unit vectors; 0, 0 means to stand still."""
        return np.asarray(unit(values.T).T)

    def begin(self, told: Commanded, ids: NDArray[np.intp], robots: RobotState) -> None:
        """Robots ``ids`` were told something new."""
        told.direction[:, ids] = told.values[:, ids]
        if self.distance:
            told.origin[:, ids] = robots.position[:2, ids]
            told.travelled[:, ids], told.arrival[:, ids] = 0.0, ((0.0,), (-1.0,))

    def follow(self, told: Commanded, robots: RobotState) -> None:
        """One step later."""
        if self.distance:
            told.travelled[0] = (told.direction * (robots.position[:2] - told.origin)).sum(axis=0)
            told.arrival[0] = told.travelled[0] >= self.distance
            told.note_arrivals()

    def measures(self, told: Commanded, robots: RobotState) -> dict[str, Array]:
        """Name -> (n,) how well it went so far; NaN where that cannot be told."""
        if not self.distance:
            return {}
        return {"travelled": told.travelled[0].copy(), **told.arrivals()}

    def success(self, told: Commanded) -> Bools | None:
        """(n,) whether an episode that ends now without a failure is a success; None: all are."""
        return told.arrived if self.distance else None


@dataclass(frozen=True)
class Velocity:
    """Keep a velocity along the heading and to its left, and a yaw rate; or stand.

    The measures leave out the first 1.5 s after a change: ``velocity_error`` m/s and ``yaw_rate_error`` rad/s, root
    mean squares over the episode, and ``drift`` m, how far a robot that is told to stand is from where it came to rest.
    """

    rewards: ClassVar[dict[str, float]] = {"velocity": 1.0, "yaw_rate": 1.0, "survival": 1.0, "action_cost": 1.0}
    memory: ClassVar[dict[str, int]] = {"direction": 2, "station": 2, "errors": 3}
    size: ClassVar[int] = 3
    numbers: ClassVar[str] = "m/s ahead, m/s to the left, rad/s about the vertical"

    max_speed: Annotated[float, Range(0, 1)] = 0.3
    """Of the velocities drawn, m/s; the motors reach 0.43 in every direction."""
    max_yaw_rate: Annotated[float, Range(0, 10)] = 0.0
    """Of the yaw rates drawn, rad/s.  A ball on a point of contact gives no hold to turn against: docs/commands.md."""
    resample_time: Annotated[float, Range(0, 1e6)] = 4.0
    """s from a command to the next in the mean, drawn from half to one and a half of it; 0: one for each episode."""
    stand_probability: Annotated[float, Range(0, 1)] = 0.2
    """Of being told to stand still."""
    station_keeping: bool = False
    """Observe the way back to the place where the robot came to rest when it was told to stand."""
    tolerance: Annotated[float, Range(0, 10, open=True)] = 0.1
    """Largest velocity_error of a successful episode, m/s."""
    yaw_tolerance: Annotated[float, Range(0, 100, open=True)] = 0.2
    """Largest yaw_rate_error of a successful episode, rad/s."""

    def __post_init__(self) -> None:
        check_settings(self)
        if 0 < self.resample_time < (least := 2 * SETTLING + MARGIN):
            raise SettingsError(
                f"resample_time = {self.resample_time:g} s leaves waits of half of it, and the first {SETTLING:g} s "
                f"after a change do not count: use {least:g} or more, or 0 for one command an episode"
            )

    @property
    def most(self) -> tuple[float, float, float]:
        """The most that is drawn."""
        return self.max_speed, 0.0, self.max_yaw_rate

    @property
    def fields(self) -> tuple[str, ...]:
        """Of the observation."""
        return ("velocity_command", "station") if self.station_keeping else ("velocity_command",)

    def draw(self, rng: np.random.Generator, position: Array, heading: Array) -> Array:
        """(3,) velocity along the heading and to its left, m/s, evenly over a disc; yaw rate, rad/s."""
        stand, speed, angle, turn = rng.random(4)
        if stand < self.stand_probability:
            return np.zeros(3)
        speed, angle = self.max_speed * np.sqrt(speed), 2 * np.pi * angle
        return np.array([speed * np.cos(angle), speed * np.sin(angle), self.max_yaw_rate * (2 * turn - 1)])

    def check(self, values: Array, limits: Limits) -> Array:
        """(k, 3) velocities and yaw rates; SettingsError beyond what the motors reach."""
        fastest, turn = np.hypot(values[:, 0], values[:, 1]).max(), np.abs(values[:, 2]).max()
        if fastest > limits.speed:
            raise SettingsError(
                f"a velocity of {fastest:.3g} m/s is beyond the motors, which reach {limits.speed:.2f} m/s in every "
                "direction: ask for less"
            )
        if turn > limits.yaw_rate:
            raise SettingsError(
                f"a yaw rate of {turn:.3g} rad/s is beyond the motors, which reach {limits.yaw_rate:.2g}: ask for less"
            )
        return values

    def begin(self, told: Commanded, ids: NDArray[np.intp], robots: RobotState) -> None:
        """Robots ``ids`` were told something new."""
        told.station[:, ids] = robots.position[:2, ids]
        if self.resample_time:
            for i in ids:
                wait = self.resample_time * (0.5 + told.streams[i].random())
                told.until[i] = told.age[i] + max(round(wait / told.dt), 1)

    def follow(self, told: Commanded, robots: RobotState) -> None:
        """One step later."""
        (vx, vy, turn), (c, s) = told.values, robots.heading
        speed = np.sqrt(vx * vx + vy * vy)
        scale = 1.0 / np.maximum(speed, STILL)
        scale[speed <= STILL] = 0.0
        np.multiply((c * vx - s * vy, s * vx + c * vy), scale, out=told.direction)
        settled = (told.age - told.since) * told.dt > SETTLING
        moves = (speed > STILL) | ~settled
        np.copyto(told.station, robots.position[:2], where=moves)
        missing = robots.heading_velocity - told.values[:2]
        missing *= missing
        told.errors[0] += settled * (missing[0] + missing[1])
        told.errors[1] += settled * (robots.yaw_rate - turn) ** 2
        told.errors[2] += settled

    def measures(self, told: Commanded, robots: RobotState) -> dict[str, Array]:
        """Name -> (n,) how well it went so far; NaN where that cannot be told."""
        velocity, turn = rms(told.errors[:2], told.errors[2])
        vx, vy = told.values[:2]
        stands = (vx * vx + vy * vy <= STILL**2) & ((told.age - told.since) * told.dt > SETTLING)
        x, y = robots.position[:2] - told.station
        drift = np.where(stands, np.sqrt(x * x + y * y), np.nan)
        return {"velocity_error": velocity, "yaw_rate_error": turn, "drift": drift}

    def success(self, told: Commanded) -> Bools | None:
        """(n,) whether an episode that ends now without a failure is a success."""
        velocity, turn, count = told.errors
        kept = (velocity <= count * self.tolerance**2) & (turn <= count * self.yaw_tolerance**2)
        return np.asarray(kept & (count > 0))  # who was never given the time to settle has shown nothing


@dataclass(frozen=True)
class Point:
    """Drive to a place of the world and stay there.

    Measures: ``distance`` m, ``arrived`` (0 or 1: there now) and ``arrival_time`` s, when it was there first.
    """

    fields: ClassVar[tuple[str, ...]] = ("target",)
    rewards: ClassVar[dict[str, float]] = {"distance": 1.0, "arrival": 1.0, "survival": 1.0, "action_cost": 1.0}
    memory: ClassVar[dict[str, int]] = {"direction": 2, "target": 2, "arrival": 2}
    size: ClassVar[int] = 2
    numbers: ClassVar[str] = "x, y of a place of the world, m"

    min_distance: Annotated[float, Range(0, 100)] = 0.5
    """Of the places drawn, from the robot, m."""
    max_distance: Annotated[float, Range(0, 100)] = 1.5
    """Likewise.  In 8 s, robots make some 2 m."""
    radius: Annotated[float, Range(0.001, 100)] = 0.1
    """Within it the robot is there, m."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.min_distance > self.max_distance:
            raise SettingsError(f"min_distance = {self.min_distance} is above max_distance = {self.max_distance}")

    def fit(self, limits: Limits) -> None:
        """SettingsError if the places drawn do not fit on the ground."""
        far_enough("max_distance", self.max_distance, limits)

    def draw(self, rng: np.random.Generator, position: Array, heading: Array) -> Array:
        """(2,) m, of the world."""
        far, angle = rng.random(2)
        distance, angle = self.min_distance + far * (self.max_distance - self.min_distance), 2 * np.pi * angle
        return np.asarray(position + distance * np.array([np.cos(angle), np.sin(angle)]))

    def check(self, values: Array, limits: Limits) -> Array:
        """(k, 2) places; SettingsError beyond the ground."""
        return on_ground(values, limits)

    def begin(self, told: Commanded, ids: NDArray[np.intp], robots: RobotState) -> None:
        """Robots ``ids`` were told something new."""
        told.target[:, ids] = told.values[:, ids]
        told.arrival[:, ids] = ((0.0,), (-1.0,))
        self._approach(told, robots)

    def follow(self, told: Commanded, robots: RobotState) -> None:
        """One step later."""
        self._approach(told, robots)
        told.note_arrivals()

    def _approach(self, told: Commanded, robots: RobotState) -> None:
        away = told.target - robots.position[:2]
        there = np.hypot(*away) <= self.radius
        told.arrival[0] = there
        told.direction[:] = unit(away) * ~there

    def measures(self, told: Commanded, robots: RobotState) -> dict[str, Array]:
        """Name -> (n,) how well it went so far; NaN where that cannot be told."""
        return {
            "distance": np.hypot(*(told.target - robots.position[:2])),
            **told.arrivals(),
        }

    def success(self, told: Commanded) -> Bools | None:
        """(n,) whether an episode that ends now without a failure is a success."""
        return told.arrived


@dataclass(frozen=True)
class Path:
    """Drive along way points and stay at the last.

    Measures: ``reached`` (share of the points), ``off_path`` m (root mean square of the distance from the line between
    points), ``arrived`` (0 or 1: at the last point now), and ``arrival_time`` s, when it was there first.
    """

    fields: ClassVar[tuple[str, ...]] = ("target", "next_target")
    rewards: ClassVar[dict[str, float]] = {"progress": 1.0, "arrival": 1.0, "survival": 1.0, "action_cost": 1.0}
    memory: ClassVar[dict[str, int]] = {
        "direction": 2, "target": 2, "next_target": 2, "origin": 2, "arrival": 2, "index": 1, "off": 2
    }  # fmt: skip
    numbers: ClassVar[str] = "x, y of each point of the world, m, one after the other or as (points, 2)"

    num_points: Annotated[int, Range(1, 32)] = 4
    """Way points; who sets a path may give fewer."""
    spacing: Annotated[float, Range(0.05, 100)] = 0.5
    """From one to the next of the paths drawn, m."""
    max_turn_deg: Annotated[float, Range(0, 180)] = 60.0
    """Largest change of direction at one, degrees; the first direction is any."""
    radius: Annotated[float, Range(0.001, 100)] = 0.15
    """Within it the robot is there, and the next point counts, m."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def size(self) -> int:
        """Numbers of a command: x, y of each point, m, of the world."""
        return 2 * self.num_points

    def fit(self, limits: Limits) -> None:
        """SettingsError if not even the first point fits on the ground."""
        far_enough("spacing", self.spacing, limits)

    def draw(self, rng: np.random.Generator, position: Array, heading: Array) -> Array:
        """(size,) x, y of each point, m, of the world."""
        draws = rng.random(self.num_points)
        turns = np.radians(self.max_turn_deg) * (2 * draws - 1)
        turns[0] = 2 * np.pi * draws[0]
        angles = np.cumsum(turns)
        points = position + self.spacing * np.cumsum(np.stack([np.cos(angles), np.sin(angles)], axis=1), axis=0)
        return np.asarray(points.ravel())

    def rows(self, points: Array) -> Array:
        """(..., size) of (..., k, 2) points, of which the last stands for those that are missing."""
        if points.ndim < 2 or points.shape[-1] != 2:
            return points
        if not 1 <= points.shape[-2] <= self.num_points:
            raise SettingsError(
                f"a path of {points.shape[-2]} points was given, this world's have 1 to {self.num_points}: make it "
                "with motion={'num_points': ...}"
            )
        missing = self.num_points - points.shape[-2]
        points = np.concatenate([points, np.repeat(points[..., -1:, :], missing, axis=-2)], axis=-2)
        return points.reshape(*points.shape[:-2], self.size)

    def check(self, values: Array, limits: Limits) -> Array:
        """(k, size) paths; SettingsError beyond the ground."""
        return on_ground(values, limits)

    def begin(self, told: Commanded, ids: NDArray[np.intp], robots: RobotState) -> None:
        """Robots ``ids`` were told something new."""
        told.index[:, ids] = 0.0
        told.off[:, ids] = 0.0
        told.arrival[:, ids] = ((0.0,), (-1.0,))
        told.origin[:, ids] = robots.position[:2, ids]
        self._aim(told, robots)

    def follow(self, told: Commanded, robots: RobotState) -> None:
        """One step later."""
        near = np.hypot(*(told.target - robots.position[:2])) <= self.radius
        onward = near & (told.index[0] < self.num_points - 1)
        told.origin[:, onward] = told.target[:, onward]
        told.index[0, onward] += 1
        self._aim(told, robots)
        along, offset = told.target - told.origin, robots.position[:2] - told.origin
        away = (along[0] * offset[1] - along[1] * offset[0]) / np.maximum(np.hypot(*along), 1e-9)
        running = told.arrival[1] < 0  # until it is there the first time
        told.off += running * np.stack([away**2, np.ones_like(away)])
        told.note_arrivals()

    def _aim(self, told: Commanded, robots: RobotState) -> None:
        index, n = told.index[0].astype(int), told.values.shape[1]
        points, last = told.values.reshape(self.num_points, 2, n), self.num_points - 1
        told.target[:] = points[index, :, np.arange(n)].T
        told.next_target[:] = points[np.minimum(index + 1, last), :, np.arange(n)].T
        away = told.target - robots.position[:2]
        told.arrival[0] = there = (np.hypot(*away) <= self.radius) & (index >= self._given(told) - 1)
        told.direction[:] = unit(away) * ~there

    def _given(self, told: Commanded) -> Array:
        """(n,) how many points there are without those that repeat the last."""
        points = told.values.reshape(self.num_points, 2, -1)
        others = (points != points[-1]).any(axis=1)
        return np.asarray(1 + (others * np.arange(1, self.num_points + 1)[:, None]).max(axis=0))

    def measures(self, told: Commanded, robots: RobotState) -> dict[str, Array]:
        """Name -> (n,) how well it went so far; NaN where that cannot be told."""
        given = self._given(told)
        return {
            "reached": np.minimum(told.index[0] + (told.arrival[1] >= 0), given) / given,
            "off_path": rms(*told.off),
            **told.arrivals(),
        }

    def success(self, told: Commanded) -> Bools | None:
        """(n,) whether an episode that ends now without a failure is a success."""
        return told.arrived


COMMANDS: dict[str, Any] = {"goal": Goal, "velocity": Velocity, "point": Point, "path": Path}
"""Name -> kind of command.  Yours may be added."""
