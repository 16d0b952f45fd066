"""A classical controller with memory, which feels the slope of the ground.

Of the robot's motion one number for each horizontal axis does not care what the wheels do, since they push base and
ball apart: z, the angular momentum about the point where the ball touches the ground, in units of that of tilting.
Only gravity changes it, and the ground:

    z = rate + rolling (speed of the ball)        dz/dt = growth tilt + d        rad/s, rad/s²

On a slope d is growth times the tilt at which the robot balances there, uphill.  An observer (Luenberger 1971) follows
z, and what it has to add to do so is d:

    e = z - ẑ        dẑ/dt = growth tilt + d + 2 b e        dd/dt = b² e        b: its bandwidth

Who is told to travel then leans by what the speed lacks, and by what the slope takes, instead of waiting until a slope
has taken the speed.  All constants but those of the robot's shape were found by search, on terrains of the training and
validation splits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.mechanics import free_wheel_speed, reference, rolling_wheel_speeds
from ballbot.envs.model import build_model

Array = NDArray[np.float64]

GROWTH = 31.1
"""1/s².  What a rad of tilt adds to z in a second; a rigid robot of these masses that rolls freely has 33."""
ROLLING = 5.59
"""rad/m.  What the speed of the ball counts in z; the same robot has 5.6."""
BANDWIDTH = 30.0
"""rad/s.  Of the observer, twice."""
FAST = 0.038
"""s.  Over which the change of d is averaged."""
SLOW = 0.3
"""s.  Over which d itself is averaged."""
START = (0.05, 0.45)
"""s.  How long the target is 0, and how long it rises then."""
USUAL_LIMIT = 0.51
"""m/s.  What the motors reach in a middling direction; ``target_speed`` is meant for such a one."""


@dataclass
class ObserverController:
    """Tilt, rate and velocity feedback towards a speed along the goal, which knows the slope that it is on.

    Its observer is stepped as Euler did, which is stable for a ``dt`` below 66 ms (both its poles lie at 1 - 30 dt).

    Args:
        dt: seconds between two calls; found for 2 ms, and holding actions for 10 ms changes little.
        target_speed: m/s along the goal in a middling direction.
        use_of_limit: share of what the motors reach more or less in other directions that the target has more or less.
        kp: action per rad of tilt.
        kd: action per rad/s of tilt.
        kv: rad of lean per m/s of missing speed along the goal, and across it.
        most_for_speed: rad that the speed may ask for, along and across.
        feedforward: share of the wheels' speed at the target that is asked for beforehand.
        slope: share of the slope that is leaned against, along the goal and across it.
        slope_change: s by which a slope along the goal is foreseen from its change.
        slope_before: share of the slope of late that is taken off again, along the goal.
        most_for_slope: rad that the slope may ask for, along and across.
        evening: share of what wheels push all alike, which only spins the ball about the vertical, that is taken off so
            that the fastest wheel has more to give.
    """

    dt: float
    target_speed: float = 0.385
    use_of_limit: float = 0.6064
    kp: float = 28.0
    kd: float = 1.8
    kv: tuple[float, float] = (0.7708, 0.7586)
    most_for_speed: float = 0.1775
    feedforward: float = 0.9848
    slope: tuple[float, float] = (0.6265, 0.6595)
    slope_change: float = 0.045
    slope_before: float = 0.1094
    most_for_slope: float = 0.25
    evening: float = 0.3369

    def __post_init__(self) -> None:
        self._elapsed: Array | float = 0.0
        self._z: Array | float = 0.0
        self.disturbance: Array | float = 0.0
        """(2, n) d along the base's x and y, rad/s²; 0 at the start of an episode."""
        self._change: Array | float = 0.0
        self._before: Array | float = 0.0

    def __call__(self, observations: NDArray[np.float32], began: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Actions (n, 3) for observations (n, 17) of ``frame="body"``; ``began`` (n,) marks first steps of episodes."""
        x = observations.T.astype(np.float64)
        down, rate, velocity, goal = x[0:3], x[3:6], x[6:9], x[9:11]
        # small angles: the body's axes x and y lean forward where gravity, seen from the body, has a part along them
        tilt, tilting = down[:2], np.stack([rate[1], -rate[0]])
        travel = velocity[:2] - (down * velocity).sum(axis=0) * tilt  # without what is vertical
        self._observe(tilt, tilting + ROLLING * (travel - reference().ball_depth * tilting), rate[2], began)
        along, target = self._aim(goal, began)
        across = np.stack([-along[1], along[0]])
        ahead, aside = self._slopes(along, across)
        lean = self._lean(self.kv[0] * (target - _dot(travel, along)), ahead) * along
        lean += self._lean(-self.kv[1] * _dot(travel, across), aside) * across
        push = self.kp * (tilt - lean) + self.kd * tilting + self.feedforward * actions_per_speed() * target * along
        actions = -reference().shares @ push
        actions -= self.evening * (actions.max(axis=0) + actions.min(axis=0)) / 2
        return np.clip(actions, -1.0, 1.0).T.astype(np.float32)

    def _observe(self, tilt: Array, z: Array, turn: Array, began: NDArray[np.bool_]) -> None:
        """Take (2, n) tilt and z into account, along axes that turn about the vertical, rad/s."""
        dt, ahead, before = self.dt, self._z + np.zeros_like(z), self.disturbance + np.zeros_like(z)
        error = z - ahead
        change = BANDWIDTH**2 * error
        ahead = ahead + dt * (GROWTH * tilt + before + 2 * BANDWIDTH * error + _turned(ahead, turn))
        self._z = np.where(began, z, ahead)
        self.disturbance = np.where(began, 0.0, before + dt * (change + _turned(before, turn)))
        self._change = np.where(began, 0.0, self._change + dt / (FAST + dt) * (change - self._change))
        self._before = np.where(began, 0.0, self._before + dt / (SLOW + dt) * (self.disturbance - self._before))

    def _aim(self, goal: Array, began: NDArray[np.bool_]) -> tuple[Array, Array]:
        """(2, n) unit vectors along the goal, and (n,) m/s to travel along them now; 0 for who is told to stand."""
        self._elapsed = np.where(began, 0.0, self._elapsed + self.dt)
        length = np.sqrt(_dot(goal, goal))
        along = np.where(length > 1e-6, goal / np.maximum(length, 1e-6), np.array([[1.0], [0.0]]))
        wheels = reference().shares @ along
        # Motors that spin the ball about the vertical as well, so that the fastest wheels ahead and back are alike.
        limit = 2 / (actions_per_speed() * (wheels.max(axis=0) - wheels.min(axis=0)))
        asked = self._wish(self.target_speed + self.use_of_limit * (limit - USUAL_LIMIT), along)
        return along, np.clip((self._elapsed - START[0]) / START[1], 0.0, 1.0) * asked * (length > 1e-6)

    def _wish(self, speed: Array, along: Array) -> Array:
        """(n,) m/s to travel along the goal on this ground, of what would be right on a plane."""
        return speed

    def _slopes(self, along: Array, across: Array) -> tuple[Array, Array]:
        """(n,) what the slope takes along the goal, and across it, rad/s²: what to lean against."""
        felt = self.slope[0] * self.disturbance + self.slope_change * self._change - self.slope_before * self._before
        return _dot(felt, along), self.slope[1] * _dot(self.disturbance, across)

    def _lean(self, for_speed: Array, slope: Array) -> Array:
        """(n,) rad to lean, by what the speed asks for and what the ground takes, rad/s²."""
        most = self.most_for_slope
        return np.clip(for_speed, -self.most_for_speed, self.most_for_speed) - np.clip(slope / GROWTH, -most, most)


@dataclass
class ForesightController(ObserverController):
    """The same law for who knows the ground ahead, which no sensor tells: it goes faster, and slows down in time.

    It shows what sight can be worth, and teaches policies that see (``experiments/distill.py``).

    Args:
        lean_ahead: rad to lean forward per rad that the ground rises 5, 10 and 20 cm ahead.
        lean_aside: the same across the goal, of 5 and 10 cm.
        speed_ahead: m/s less per rad that the ground rises there.
        speed_bend: m/s less per rad that slopes 5 and 20 cm ahead differ.
        speed_felt: m/s less per rad of slope that is felt now, that was felt of late, and that it changes by.
    """

    extra_fields: ClassVar[tuple[str, ...]] = ("slope_ahead",)
    """What it reads besides, behind the 17 numbers of ``frame="body"``."""

    target_speed: float = 0.402
    use_of_limit: float = 0.625
    kp: float = 27.17
    kd: float = 1.729
    kv: tuple[float, float] = (0.792, 0.7253)
    most_for_speed: float = 0.1826
    feedforward: float = 0.9609
    slope: tuple[float, float] = (0.5744, 0.6888)
    slope_change: float = 0.0704
    slope_before: float = 0.0778
    most_for_slope: float = 0.2602
    evening: float = 0.3043
    lean_ahead: tuple[float, float, float] = (0.0388, -0.0447, 0.0672)
    lean_aside: tuple[float, float] = (0.1424, 0.1366)
    speed_ahead: tuple[float, float, float] = (0.2998, -0.3934, -0.0832)
    speed_bend: float = -0.2615
    speed_felt: tuple[float, float, float] = (0.0829, -0.1402, 0.01)

    def __call__(self, observations: NDArray[np.float32], began: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Actions (n, 3) for observations (n, 23): those of ``frame="body"`` and ``slope_ahead``."""
        self._ahead = observations[:, 17:].T.astype(np.float64).reshape(3, 2, -1)
        return super().__call__(observations[:, :17], began)

    def _wish(self, speed: Array, along: Array) -> Array:
        near, middle, far = (_dot(slope, along) for slope in self._ahead)
        felt = (_dot(x / GROWTH, along) for x in (self.disturbance, self._before, self._change))
        slopes = zip((*self.speed_ahead, *self.speed_felt), (near, middle, far, *felt), strict=True)
        for gain, slope in slopes:
            speed = speed - gain * slope
        return speed - self.speed_bend * np.abs(far - near)

    def _slopes(self, along: Array, across: Array) -> tuple[Array, Array]:
        ahead, aside = super()._slopes(along, across)
        for gain, slope in zip(self.lean_ahead, self._ahead, strict=True):
            ahead = ahead - GROWTH * gain * _dot(slope, along)
        for gain, slope in zip(self.lean_aside, self._ahead[:2], strict=True):
            aside = aside - GROWTH * gain * _dot(slope, across)
        return ahead, aside


@cache
def actions_per_speed() -> float:
    """Action that holds the fastest wheel as the robot rolls along the base's x, per m/s."""
    model = build_model()
    return float(np.abs(rolling_wheel_speeds(model)).max()) / free_wheel_speed(model)


def _dot(a: Array | float, b: Array) -> Array:
    """(n,) products of (2, n) vectors."""
    return np.asarray((a * b).sum(axis=0))


def _turned(vectors: Array, turn: Array) -> Array:
    """What turning with the base, rad/s about the vertical, changes in a second of (2, n) vectors along its axes."""
    return turn * np.stack([vectors[1], -vectors[0]])
