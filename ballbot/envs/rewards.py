"""Rewards and endings, by name: small pure functions of a ``Step``.

The task pays the reference's three terms unless told otherwise.  Per step: 0.01 v.g + 0.02 [not fallen] - 0.0001 |a|^2
(Salehi 2025, arXiv:2505.18417, section IV).  An upright robot earns 80 in 4000 steps, plus 40 per m/s along the goal.

A term is a function of a step that returns (n,) numbers, or, if it has parameters, a frozen dataclass that is called
like one.  Whoever adds one gives it a name, by which it is then weighed, logged and recorded::

    REWARDS["calm"] = lambda step: -0.01 * (step.robots.gyro**2).sum(axis=0)

    BallbotVectorEnv(64, rewards={"progress": 1, "survival": 1, "calm": 0.5})
    python experiments/ppo_ballbot.py --plugin mine.py --rewards.calm 0.5

Parameters stand beside the weights, by the name of the term and their own: ``{"tracking": 6, "tracking_speed": 0.5}``.
The terms here are scaled so that weights near 1 are comparable with those of the task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import reduce
from typing import Annotated, Any, ClassVar

import numpy as np

from ballbot.envs.step import Array, Bools, Step
from ballbot.errors import SettingsError
from ballbot.settings import Range, check_settings, check_value, nearest

PROGRESS_WEIGHT = 0.01  # per m/s and step
SURVIVAL_WEIGHT = 0.02  # per step
ACTION_WEIGHT = 0.0001  # per step
MAX_REWARDED_SPEED = 2.0  # m/s, on each axis of the velocity
UNIT = 0.01  # per step: what makes a weight of 1 comparable with that of progress

Term = Callable[[Step], Array]
Ending = Callable[[Step, float], Bools]


def needs(*commands: str) -> Callable[[Term], Term]:
    """Say of a term that it is for these commands only."""

    def mark(term: Term) -> Term:
        term.commands = commands  # type: ignore[attr-defined]
        return term

    return mark


def _squared(rows: Array) -> Array:
    """(n,) squared lengths of (n, k) rows, added in one order: the same bits for one robot as for many."""
    columns = rows.T
    return reduce(np.add, (x * x for x in (columns[0], *columns[:0:-1])))


def progress(step: Step) -> Array:
    """Speed along the goal, m/s, each axis of the velocity clipped to +-2."""
    clipped = np.minimum(np.maximum(step.robots.velocity[:2], -MAX_REWARDED_SPEED), MAX_REWARDED_SPEED)
    goal = step.command.direction
    return PROGRESS_WEIGHT * (goal[0] * clipped[0] + goal[1] * clipped[1])


@dataclass(frozen=True)
class Tracking:
    """Stand-in for progress in training: most at ``speed`` along the goal, and less around it, across too.

    A paraboloid that, for a robot at rest, is 0 and rises along the goal as steeply as ``progress``; at most half of
    what ``progress`` pays at that speed.  A robot that only gets more for more speed goes to the motors' limit, where
    it falls.
    """

    speed: Annotated[float, Range(0.01, 2)] = 0.5
    """m/s along the goal at which it pays most."""
    lead: Annotated[float, Range(0, 5)] = 0.0
    """s.  With more than 0 it pays for the velocity there will be so much later, if it goes on changing as in this
    step.  Who is to go faster must lean first, and rolls back to lean: what the wheels do now shows in the velocity
    half a second later, and in this one at once.  Over an episode the sum of the changes is small."""

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, step: Step) -> Array:
        """(n,) rewards."""
        velocity = step.robots.velocity[:2]
        if self.lead:
            velocity = step.steady_velocity(step.robots)
            velocity = velocity + self.lead / step.dt * (velocity - step.steady_velocity(step.before))
        missing = np.minimum(np.maximum(velocity, -MAX_REWARDED_SPEED), MAX_REWARDED_SPEED)
        missing -= self.speed * self.direction(step)
        squared = missing[0] ** 2 + missing[1] ** 2
        return PROGRESS_WEIGHT / 2 * (self.speed - squared / self.speed)

    def direction(self, step: Step) -> Array:
        """(2, n) along which it pays."""
        return step.command.direction


class WayTracking(Tracking):
    """The same along the best way over the ground, ``Ways``, instead of straight to the goal.

    Who goes around a pit, or aside to a bridge, is paid for it at once, and who goes into a dead end is not.
    """

    def direction(self, step: Step) -> Array:
        """(2, n) along which it pays."""
        return step.way()


def survival(step: Step) -> Array:
    """A constant for every step that does not end in a failure."""
    return np.where(step.fallen, 0.0, SURVIVAL_WEIGHT)


def action_cost(step: Step) -> Array:
    """Penalty on the squared length of the actions, as applied."""
    return -ACTION_WEIGHT * _squared(step.actions)


@dataclass(frozen=True)
class VelocityTracking:
    """Most at the velocity asked for, and less around it: exp(-|v - asked|^2 / width^2)."""

    commands: ClassVar[tuple[str, ...]] = ("velocity",)
    width: Annotated[float, Range(0.01, 10)] = 0.25
    """m/s of error at which it pays 37 %."""

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, step: Step) -> Array:
        """(n,) rewards."""
        missing = step.robots.heading_velocity - step.command.values[:2]
        return np.asarray(2 * UNIT * np.exp(-(missing[0] ** 2 + missing[1] ** 2) / self.width**2))


@dataclass(frozen=True)
class YawRateTracking:
    """Most at the yaw rate asked for, and less around it: exp(-(w - asked)^2 / width^2)."""

    commands: ClassVar[tuple[str, ...]] = ("velocity",)
    width: Annotated[float, Range(0.01, 100)] = 0.5
    """rad/s of error at which it pays 37 %."""

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, step: Step) -> Array:
        """(n,) rewards."""
        missing = step.robots.yaw_rate - step.command.values[2]
        return np.asarray(UNIT * np.exp(-(missing**2) / self.width**2))


@needs("velocity")
def velocity_error(step: Step) -> Array:
    """Error of the velocity asked for, m/s, as a penalty."""
    missing = step.robots.heading_velocity - step.command.values[:2]
    return -UNIT * np.sqrt(missing[0] ** 2 + missing[1] ** 2)


@needs("point", "path")
def distance(step: Step) -> Array:
    """Distance to the target, m, as a penalty; what is beyond 2 m counts as that."""
    missing = step.command.target - step.robots.position[:2]
    return np.asarray(-UNIT * np.minimum(np.sqrt(missing[0] ** 2 + missing[1] ** 2), 2.0))


@needs("velocity")
def station(step: Step) -> Array:
    """Distance to the place to keep while told to stand, m, as a penalty; at most 1 m."""
    missing = step.command.station - step.robots.position[:2]
    return np.asarray(-UNIT * np.minimum(np.sqrt(missing[0] ** 2 + missing[1] ** 2), 1.0))


@needs("point", "path")
def arrival(step: Step) -> Array:
    """1 at the target."""
    return np.where(step.command.arrived, UNIT, 0.0)


def upright(step: Step) -> Array:
    """Cosine of the tilt."""
    return UNIT * step.level(step.robots).rotation[2, 2]


def tilt(step: Step) -> Array:
    """Square of the tilt, rad, as a penalty."""
    (x, y, _) = step.level(step.robots).rotation[2]
    return -UNIT * (x**2 + y**2)


def action_rate(step: Step) -> Array:
    """Squared change of the actions, as a penalty."""
    return -UNIT * _squared(step.actions - step.last_actions)


def torque(step: Step) -> Array:
    """Sum of the motors' squared torques, (N m)^2, as a penalty."""
    return -UNIT * _squared(step.torques)


def power(step: Step) -> Array:
    """What the motors put in or take out, W, as a penalty."""
    each = np.abs(step.torques.T) * np.abs(step.robots.wheel_speeds)
    return np.asarray(-UNIT * reduce(np.add, each))


def yaw_spin(step: Step) -> Array:
    """Squared yaw rate, (rad/s)^2, as a penalty."""
    return -UNIT * step.robots.yaw_rate**2


def clearance(step: Step) -> Array:
    """(n,) m between the body, not the ball, and the ground below, where they are nearest; negative inside it."""
    (turn, place), (px, py, pz) = (step.robots.rotation[..., None], step.robots.position[..., None]), step.shell
    x, y, z = (turn[i, 0] * px + turn[i, 1] * py + turn[i, 2] * pz + place[i] for i in range(3))
    return np.asarray((z - step.heights(np.stack([x, y], axis=-1))).min(axis=1))


def collision(step: Step) -> Array:
    """1 while the body, not the ball, touches the ground, as a penalty."""
    return np.where(clearance(step) < 0, -UNIT, 0.0)


REWARDS: dict[str, Any] = {
    "progress": progress,
    "tracking": Tracking,
    "way": WayTracking,
    "survival": survival,
    "action_cost": action_cost,
    "velocity": VelocityTracking,
    "velocity_error": velocity_error,
    "yaw_rate": YawRateTracking,
    "station": station,
    "distance": distance,
    "arrival": arrival,
    "upright": upright,
    "tilt": tilt,
    "action_rate": action_rate,
    "torque": torque,
    "power": power,
    "yaw_spin": yaw_spin,
    "collision": collision,
}
"""Name -> term: a function of a step, or a frozen dataclass of parameters that is one.  Yours may be added."""

REFERENCE = {"progress": 1.0, "survival": 1.0, "action_cost": 1.0}
"""The task's weights."""


def touches(step: Step, limit: float) -> Bools:
    """The body, not the ball, is nearer to the ground than ``limit``, m."""
    return np.asarray(clearance(step) < limit)


def spins(step: Step, limit: float) -> Bools:
    """The robot turns about the vertical faster than ``limit``, rad/s."""
    return np.asarray(np.abs(step.robots.yaw_rate) > limit)


def races(step: Step, limit: float) -> Bools:
    """The robot goes faster than ``limit``, m/s."""
    velocity = step.robots.velocity[:2]
    return np.asarray(velocity[0] ** 2 + velocity[1] ** 2 > limit**2)


def leaves_the_road(step: Step, limit: float) -> Bools:
    """The ground below the ball lies more than ``limit``, m, below what its kind calls its floor (road, pits, ...)."""
    return np.asarray(step.heights(step.ball_place.T) < step.floor() - limit)


INFOS = ("success", "failure", "out_of_bounds", "diverged", "missed", "over", "position", "tilt_deg", "terrain_id",
         "reward_terms", "measures", "range_share", "final_obs", "final_info")  # fmt: skip
"""Names that stand in the infos, where endings stand by theirs."""
ENDINGS: dict[str, Ending] = {"collision": touches, "yaw_rate": spins, "speed": races, "off_road": leaves_the_road}
"""Name -> function of a step and a limit that says which episodes fail, besides by a fall.  Yours may be added."""


def reward_settings() -> dict[str, tuple[str, float]]:
    """Every weight and every parameter by name: the term that it belongs to, and its default (0 of a weight).

    Raises:
        SettingsError: a term that cannot be called, a parameter without a number as its default, or two of one name.
    """
    settings: dict[str, tuple[str, float]] = {name: (name, 0.0) for name in REWARDS}
    for name, term in REWARDS.items():
        if not callable(term):
            raise SettingsError(f"the reward {name!r} must be a function of a step, got {term!r}")
        for f in fields(term) if _has_parameters(term) else ():
            key = f"{name}_{f.name}"
            if isinstance(f.default, bool) or not isinstance(f.default, (int, float)):
                raise SettingsError(f"the reward {name!r} needs a number as the default of its parameter {f.name!r}")
            if key in settings:
                raise SettingsError(f"the parameter {f.name!r} of the reward {name!r} is named as {key!r}: rename one")
            settings[key] = name, float(f.default)
    return settings


def _has_parameters(term: Any) -> bool:
    return isinstance(term, type) and is_dataclass(term)


def check_weights(where: str, weights: Mapping[str, Any]) -> dict[str, float]:
    """Weights and parameters of terms, as floats, in the order of ``REWARDS``; ``where`` is for error messages.

    Raises:
        SettingsError: a term that does not exist, a weight that is no number, or a parameter out of its range.
    """
    known = reward_settings()
    if not isinstance(weights, Mapping):
        raise SettingsError(f"{where}={weights!r} must be a mapping of names to weights, such as {REFERENCE}")
    for key in weights:
        if key not in known:
            raise SettingsError(f"{where} has the unknown term {key!r}: {nearest(str(key), known)}")
    number = Annotated[float, Range(-1e6, 1e6)]
    checked = {key: float(check_value(f"{where}.{key}", weights[key], number)) for key in known if key in weights}
    for name in REWARDS:
        make_term(name, checked, where)
    return checked


def needed(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights without those that change nothing: of 0, parameters of terms that weigh nothing, or the default."""
    known = reward_settings()
    return {key: x for key, x in weights.items() if weights.get(known[key][0], 0.0) != 0.0 and x != known[key][1]}


def refuse_idle(where: str, weights: Mapping[str, float], paid: Mapping[str, float]) -> None:
    """SettingsError if a parameter, other than at its default, is of a term that weighs nothing in ``paid``."""
    for key, (term, default) in reward_settings().items():
        if key != term and weights.get(key, default) != default and not paid.get(term):
            raise SettingsError(
                f"{where}.{key} = {weights[key]:g} changes nothing, as {where}.{term} has no weight: give it one, such "
                f"as {{{term!r}: 1.0, {key!r}: {weights[key]:g}}}, leave it out, or take "
                f"the term out with {where}.{term} = 0"
            )


def paid_terms(weights: Mapping[str, float]) -> dict[str, float]:
    """The terms that weigh something, in the order of ``REWARDS``, with their weights."""
    return {name: weights[name] for name in REWARDS if weights.get(name, 0.0) != 0.0}


def make_term(name: str, weights: Mapping[str, float], where: str = "rewards") -> Term:
    """The term of this name with the parameters that stand beside the weights.

    Raises:
        SettingsError: a parameter is out of range.
    """
    term: Any = REWARDS[name]
    if not _has_parameters(term):
        made: Term = term
        return made
    given = {f.name: weights[f"{name}_{f.name}"] for f in fields(term) if f"{name}_{f.name}" in weights}
    try:
        made = term(**given)
        return made
    except SettingsError as error:
        raise SettingsError(f"{where}.{name}_{error}") from error
    except Exception as error:  # whatever a user's class may raise
        raise SettingsError(f"{where}.{name} cannot be made: {type(error).__name__}: {error}") from error


def check_endings(endings: Mapping[str, Any]) -> dict[str, float]:
    """Limits of endings by name.

    Raises:
        SettingsError: an ending that does not exist, or a limit that is no number.
    """
    if not isinstance(endings, Mapping):
        raise SettingsError(f"endings={endings!r} must be a mapping of names to limits, such as {{'collision': 0.0}}")
    for key in endings:
        if key not in ENDINGS:
            raise SettingsError(f"endings has the unknown name {key!r}: {nearest(str(key), ENDINGS)}")
    for key in endings:
        if key in INFOS:
            raise SettingsError(f"an ending cannot be named {key!r}, as something in the infos is: rename it")
    limits = Annotated[float, Range(-1e6, 1e6)]
    return {key: float(check_value(f"endings.{key}", endings[key], limits)) for key in ENDINGS if key in endings}
