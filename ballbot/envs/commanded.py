"""What robots were told, and what became of it: the part of the world that commands write in, and users through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.checks import check_state_array
from ballbot.envs.parts import call, flags, numbers
from ballbot.envs.step import Array, Bools, RobotState
from ballbot.errors import SettingsError

NEVER = 2**62
"""Step at which nothing happens."""
MARGIN = 0.5
"""m between the edge of the ground and a place that robots are sent to."""


@dataclass(frozen=True)
class Limits:
    """What may be asked for."""

    speed: float
    """m/s that the motors reach in every direction."""
    yaw_rate: float
    """rad/s that they reach against the ball."""
    reach: float
    """m along x and y from the centre to where robots may be sent; infinite on a plane."""


class Commanded:
    """What n robots were told, and what became of it.

    Args:
        command: of which kind.
        num: robots.
        dt: s a step.
        limits: of what may be asked for.
    """

    direction: Array
    """(2, n) unit vectors of the world, the way to go; 0 for who is to stay."""
    target: Array
    next_target: Array
    origin: Array
    station: Array
    errors: Array
    arrival: Array
    """(2, n): whether the robot is there; s from the command until it was there first, -1 while it was not."""
    index: Array
    off: Array
    travelled: Array

    def __init__(self, command: Any, num: int, dt: float, limits: Limits) -> None:
        self.command, self.dt, self.limits = command, dt, limits
        self.values = np.zeros((command.size, num))
        """(size, n) what they were told; see the kind of command."""
        self.age = np.zeros(num, np.int64)
        """(n,) steps of the episode."""
        self.since = np.zeros(num, np.int64)
        """(n,) when they were told it."""
        self.until = np.full(num, NEVER)
        """(n,) when they will be told something else."""
        self.streams: list[np.random.Generator] = []
        for name, rows in command.memory.items():
            setattr(self, name, np.zeros((rows, num)))

    @property
    def arrived(self) -> Bools:
        """(n,) whether the robot is where it was told to go."""
        return self.arrival[0] > 0

    @property
    def what(self) -> str:
        """The command in errors."""
        return f"command {type(self.command).__name__}"

    def try_out(self, robots: RobotState) -> None:
        """Try the command, of which somebody else may be the author, without any trace.

        Raises:
            SettingsError: it raises, returns something of another shape, or draws what motors or ground do not allow.
        """
        trial, n = Commanded(self.command, len(self.age), self.dt, self.limits), len(self.age)
        trial.streams = [np.random.default_rng(0)] * n
        if (fit := getattr(self.command, "fit", None)) is not None:
            call(f"{self.what}: fit()", fit, self.limits)
        if (most := getattr(self.command, "most", None)) is not None:
            call(f"{self.what}: the most that is drawn", self.command.check, np.asarray(most)[None], self.limits)
        trial.start(np.arange(1), robots)
        call(f"{self.what}: follow()", trial.step, robots)
        trial.success()
        for name, value in call(f"{self.what}: measures()", self.command.measures, trial, robots).items():
            numbers(f"{self.what}: measure {name!r}", np.asarray, n, value)

    def success(self) -> Bools | None:
        """(n,) whether an episode that ends now without a failure is a success; None: all are."""
        found = call(f"{self.what}: success()", self.command.success, self)
        return None if found is None else flags(f"{self.what}: success()", lambda: found, len(self.age))

    def start(self, ids: NDArray[np.intp], robots: RobotState, given: Array | None = None) -> None:
        """New episodes of robots ``ids``, which get commands drawn at random, or ``given`` (k, size) for good."""
        self.age[ids] = 0
        for name in self.command.memory:
            getattr(self, name)[:, ids] = 0.0
        self.tell(ids, robots, given)

    def tell(self, ids: NDArray[np.intp], robots: RobotState, given: Array | None = None) -> None:
        """Tell robots ``ids`` something new, drawn at random, or ``given`` (k, size) until their episodes end."""
        if given is None:
            for i in ids:
                place, heading = robots.position[:2, i], robots.heading[:, i]
                drawn = np.asarray(call(f"{self.what}: draw()", self.command.draw, self.streams[i], place, heading))
                if drawn.shape != (self.command.size,) or not np.isfinite(drawn).all():
                    raise SettingsError(f"{self.what}: draw() returned {drawn}, expected {self.command.size} numbers")
                self.values[:, i] = drawn if self.limits.reach == np.inf else self._within(drawn)
        else:
            self.values[:, ids] = given.T
        self.since[ids], self.until[ids] = self.age[ids], NEVER
        call(f"{self.what}: begin()", self.command.begin, self, ids, robots)
        if given is not None:
            self.until[ids] = NEVER

    def _within(self, drawn: Array) -> Array:
        """Places drawn on the field: nearer to its middle if they lie beyond."""
        if "target" not in self.command.memory:
            return drawn
        return np.clip(drawn, -self.limits.reach, self.limits.reach)

    def step(self, robots: RobotState) -> None:
        """One step later."""
        self.age += 1
        self.command.follow(self, robots)

    def arrivals(self) -> dict[str, Array]:
        """The measures "arrived" (0 or 1: there now) and "arrival_time" (s, NaN before)."""
        there, first = self.arrival
        return {"arrived": there.copy(), "arrival_time": np.where(first >= 0, first, np.nan)}

    def note_arrivals(self) -> None:
        """Note when robots are where they were told to go for the first time."""
        there, first = self.arrival
        new = (there > 0) & (first < 0)
        first[new] = ((self.age - self.since) * self.dt)[new]

    def renew(self, robots: RobotState) -> None:
        """Tell those whose time has come something new."""
        due = self.age >= self.until
        if np.count_nonzero(due):
            self.tell(np.flatnonzero(due), robots)

    def check(self, values: Any, count: int) -> Array:
        """Commands for ``count`` robots as (count, size): one for all, or a row each.

        Raises:
            SettingsError: another shape, not finite, or beyond motors or ground.
        """
        size = self.command.size
        try:
            array = np.asarray(values, np.float64)
        except (TypeError, ValueError):
            array = np.empty((0, 0, 0, 0))
        if (padded := getattr(self.command, "rows", None)) is not None and array.shape != (count, size):
            array = padded(array)
        if array.shape not in ((size,), (count, size)) or _has_bools(values):
            rows = f", or ({count}, {size}) of them, a row a robot" if count > 1 else ""
            means = getattr(self.command, "numbers", "") or f"see {type(self.command).__name__}"
            raise SettingsError(f"the command must be {size} numbers{rows}, got {values!r}: {means}")
        if not np.isfinite(array).all():
            raise SettingsError(f"the command must be finite numbers, got {values!r}")
        return np.asarray(self.command.check(np.broadcast_to(array, (count, size)).copy(), self.limits))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything that changes."""
        return {name: getattr(self, name) for name in ("values", "age", "since", "until", *self.command.memory)}

    def get_state(self) -> dict[str, Any]:
        """Copies of everything that changes."""
        return {name: array.copy() for name, array in self.arrays().items()}

    def check_state(self, state: Any) -> dict[str, NDArray[Any]]:
        """The arrays of ``get_state``; ValueError if one is damaged."""
        highest = {"index": getattr(self.command, "num_points", np.inf) - 1}
        return {
            name: check_state_array(state, name, array, *((0, highest[name]) if name in highest else ()))
            for name, array in self.arrays().items()
        }

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Restore what ``check_state`` returned."""
        for name, array in self.arrays().items():
            array[:] = state[name]


def _has_bools(values: Any) -> bool:
    """Whether there is a bool among numbers, which NumPy would take for 0 or 1."""
    if isinstance(values, (list, tuple)):
        return any(map(_has_bools, values))
    return np.asarray(values).dtype == np.bool_


def unit(vectors: Array) -> Array:
    """(2, n) vectors of length 1; 0 where they are 0."""
    length = np.sqrt(vectors[0] ** 2 + vectors[1] ** 2)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 1e-12)


def rms(squares: Array, counts: Array) -> Array:
    """Root mean squares; NaN of nothing."""
    return np.sqrt(np.divide(squares, counts, out=np.full_like(squares, np.nan), where=counts > 0))


def far_enough(name: str, distance: float, limits: Limits) -> None:
    """SettingsError if a place at this distance from the middle is off the ground."""
    if distance > limits.reach:
        raise SettingsError(
            f"impossible ranges: {name} = {distance:g} m, and on this ground robots can be sent "
            f"{max(limits.reach, 0.0):.3g} m from its middle: lower {name}, or choose a larger terrain_length"
        )


def on_ground(values: Array, limits: Limits) -> Array:
    """Places x, y, m, as they are; SettingsError if one is beyond the ground."""
    if (far := float(np.abs(values).max())) > limits.reach:
        raise SettingsError(
            f"a place {far:.3g} m from the centre along x or y is off the ground, where robots can be sent "
            f"{limits.reach:.3g} m: choose a nearer one, or a larger terrain_length"
        )
    return values
