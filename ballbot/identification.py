"""What a robot's numbers are, by what it did: parameters are fitted until the simulation does the same.

A log is cut into windows of some tenths of a second.  In each, the simulation starts as the sensors say, gets the
actions that the robot got, late by the latency, and is compared with what the sensors say from there on: direction of
the vertical, gyroscope and wheels, each weighed by what is left of it at the end.  Gauss-Newton finds the values (Bock
1983, multiple shooting): every simulation of one batch has one number changed a little, of those sought, or of a
window's start, which is fitted too, as sensors are noisy.

No simulation does just the same: wheels have phases that no log tells, messages come late by chance.  A controller
answers what that does to the robot, and so its actions would seem to do less, or more, than they do.  Robots are
therefore thought to be kicked all the time, by small changes of their velocities whose size is estimated, and which
move it as a change of its start does.  A window's start, kicks and bias of the gyroscope are eliminated, so that what
remains is as small as the list of axes.

Standard errors are those of windows that err each in its own way (White 1980), and so hold where noise is not white;
see ``BEYOND_CHANCE`` for what is added.  What they exceed, the log does not tell: an axis that moved nothing, or
several that only together matter, such as masses, torque and damping all at once.  The ground is taken for level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.envs import BallbotVectorEnv
from ballbot.envs.mechanics import spun_wheel_speeds
from ballbot.envs.model import at_rest
from ballbot.envs.physics import Physics
from ballbot.envs.randomize import AXES
from ballbot.envs.sensors import Sensors, low_pass
from ballbot.envs.step import rotation_matrix
from ballbot.errors import SettingsError
from ballbot.robot_logs import RobotLog
from ballbot.settings import nearest

Array = NDArray[np.float64]

LATENCY = "latency_ms"
"""Name of what is fitted always: ms from an action in the log to what the log shows of it, the filters apart."""
LATENCIES = np.arange(0.0, 61.0, 5.0)
"""ms at which the search may begin."""
MOST_LATENCY = 100.0
"""ms."""
EVENLY = (np.arange(8) + 0.5) / 8 - 0.5
"""Of jitter, about its mean."""
AXES_BY_DEFAULT = ("com_x", "com_y", "com_z", "body_inertia", "wheel_damping", "wheel_armature")
"""Not masses, which are weighed, nor torque: with them, what differs is hardly told apart."""
START = 8
"""Numbers of a window's start: the vertical along the base's x and y, gyroscope, the ball's spin seen from the base."""
SMOOTHED = 5
"""Lines before and after a window's first, whose mean it starts from."""
FEWEST = 5
"""Windows."""
SAME_RATE = 0.02
"""Share by which a line's time may differ from the simulation's."""
KINDS = {"vertical": slice(0, 2), "gyro": slice(2, 5), "wheels": slice(5, None)}
"""Of sensors -> their numbers among those that are compared."""
SETTLE = 0.1
"""s at the start of a window that are not compared: contacts, which give way a little, and filters settle.  After 0.04
what they still do was most of what the fit left of the gyroscope, 0.018 rad/s of 0.005, and put com_z 7 mm too high."""
START_PRIOR = np.array([0.02] * 2 + [0.2] * 3 + [1.5] * 3)
"""How far it may well be from what sensors say, which keeps starts from explaining what they cannot."""
RATES = slice(2, START)
"""Of these, what kicks change."""
KICK_EVERY = 0.02
"""s between two kicks."""
FIRST_KICKS = np.diag([0.01] * 3 + [0.05] * 3) ** 2
"""(rad/s)^2, covariance of a kick, as far as it is known at first."""
START_STEPS = np.array([5e-3] * 2 + [0.05] * 3 + [0.3] * 3)
"""By how much a window's start is changed: 1, rad/s."""
OF_FACTORS, OF_OTHERS, OF_LATENCY = (0.15, 0.4, 0.2), (0.4, 3.0, 1.0), (1.5, 30.0, 10.0)
"""By how much values are changed to and fro to see what that does; how far they may well be from where they begin,
which keeps what a log does not tell near there; and how far they go in a round.  Of the logarithm of a factor, of what
is typical for another axis, ms."""
SHARES = (1.0, 0.7)
"""Of these changes, at which that is seen: twice, as contacts stick and slip, and the simulation's gyroscope answers
any change by 5e-4 rad/s of noise besides, which would pass for knowledge."""
BIAS_PRIOR = 0.1
"""rad/s of the gyroscope."""
MOST_LEAN = 0.35
"""rad: windows in which the robot leans further are left out."""
ROUNDS, AT_REST = 12, 1.0
"""How often values are improved at most, and by how many standard errors they still change in the end."""
AT_FIRST, FIRST = 3, 0.22
"""Rounds in which no more than so many s of each window are compared: a robot that falls magnifies what is still wrong,
until no small change mends it."""
ODD = 5.0
"""Windows are left out that fit so many times worse than the median: somebody has touched the robot."""
WEIGHINGS = 3
"""How often sensors are weighed by what is left of them, which depends on that."""
LEVEL = ("com_x", "com_y")
"""Axes that the robot shows by how it leans, and a crooked orientation no less."""
BEYOND_CHANCE, AT_LEAST = 2.0, 0.1
"""What errors of chance are multiplied by, and what is added to them, by squares, of what is typical for an axis:
contacts that stick and slip are no noise of a window's own.  docs/your_robot.md tells how often that is enough."""
TOLD = 0.25
"""Of what is typical for an axis (``Axis.typical``): a larger standard error tells nothing."""
TYPICAL_LATENCY = 4.0
"""ms, likewise."""
TOGETHER = 0.5
"""Correlation from which two numbers are said to be told apart badly."""


@dataclass(frozen=True)
class Fitted:
    """What a log tells of one number."""

    value: float
    error: float
    """Standard error, in its unit."""
    told: bool
    """Whether that is small enough to be of use."""
    like: tuple[str, ...]
    """Names of others that would explain the same."""


@dataclass(frozen=True)
class Fit:
    """What logs tell of a robot."""

    axes: dict[str, Fitted]
    """Of those that were asked for."""
    latency: Fitted
    """ms."""
    windows: int
    """That were compared."""
    odd: int
    """That were left out, as nothing fits them."""
    left: dict[str, tuple[float, float]]
    """Of each kind of sensor what the fit leaves without kicks, rms, and how much that changes in a window."""
    settled: bool = True
    """Whether values no longer changed by more than their errors in the end."""

    @property
    def explains(self) -> float:
        """The share of what wheels do, which answer actions at once, that the fit explains; 1 is all."""
        rest, change = self.left["wheels"]
        return 1.0 - (rest / change) ** 2

    def ranges(self) -> dict[str, list[float]]:
        """Name -> from and to, as ``randomize`` takes them: two standard errors to either side of what is told."""
        found = {}
        for name, fitted in self.axes.items():
            limits = AXES[name].limits
            span = (fitted.value - 2 * fitted.error, fitted.value + 2 * fitted.error)
            if fitted.told:
                found[name] = [float(np.clip(x, limits.low, limits.high)) for x in span]
        return found


def fittable() -> list[str]:
    """Names of axes that say how a robot is made; not those of the ground's slope, wind or pushes."""
    return [name for name, axis in AXES.items() if axis.fields and "opt.gravity" not in axis.fields]


def check_axes(names: Sequence[str]) -> None:
    """SettingsError if one cannot be fitted."""
    for name in names:
        if name not in fittable():
            why = "says nothing of how the robot is made" if name in AXES else "is unknown"
            raise SettingsError(f"--axes {name} {why}: {nearest(name, fittable())}")
        if names.count(name) > 1:
            raise SettingsError(f"--axes names {name} twice: leave one out")


@dataclass
class _Windows:
    """What is compared: n windows of k lines."""

    up: Array
    """(n, k, 3) the vertical, along the base's axes."""
    gyro: Array
    """(n, k, 3) rad/s."""
    wheels: Array
    """(n, k, wheels) rad/s."""
    actions: Array
    """(n, lines before and within, wheels)."""
    start: Array
    """(n, 6 + wheels) means around the first line: of the three above."""

    def __len__(self) -> int:
        return len(self.start)

    @property
    def measured(self) -> Array:
        """(n, k - 1, numbers) what is compared with what the simulation says."""
        return np.concatenate([self.up[:, 1:, :2], self.gyro[:, 1:], self.wheels[:, 1:]], axis=2)


def _cut(logs: Sequence[Sequence[RobotLog]], window: float, most: int, before: float) -> _Windows:
    """Windows of so many s of all logs, at most so many, spread over them, with actions of so many s before them.

    Raises:
        SettingsError: there are too few.
    """
    dt = logs[0][0].dt
    length, ahead = round(window / dt), int(np.ceil(before / dt)) + 2
    found: list[tuple[Any, ...]] = []
    for part in (part for log in logs for part in log):
        up, actions = part.up, np.pad(part.actions, ((ahead, 0), (0, 0)))
        for at in range(SMOOTHED, len(up) - length, length):
            whole, around = slice(at, at + length + 1), slice(at - SMOOTHED, at + SMOOTHED + 1)
            if up[whole, 2].min() > np.cos(MOST_LEAN):
                sensed = up, part.gyro, part.wheel_speeds
                start = np.concatenate([x[around].mean(axis=0) for x in sensed])
                asked = actions[at : at + ahead + length]
                found.append((*(x[whole] for x in sensed), asked, start))
    if len(found) < FEWEST:
        raise SettingsError(
            f"the logs have {len(found)} windows of {window:g} s in which the robot stands, expected {FEWEST} or more: "
            "log for longer, or use a shorter --window"
        )
    some = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int))
    return _Windows(*(np.array([found[i][k] for i in some]) for k in range(5)))


class Fitting:
    """Fits numbers of a robot to its logs.

    Args:
        logs: parts of logs, a list a file.
        axes: names of what is sought.
        sensors: whose filters the logs have passed, and how wrong orientation may be.
        window: s of each.
        most: windows that are used at most, spread over all there are.
        num_threads: that simulate.
        robot: options of the world's robot, such as robot="mini".

    Raises:
        SettingsError: an axis cannot be fitted, or logs are too short, or of another rate than the simulation's.
    """

    def __init__(
        self,
        logs: Sequence[Sequence[RobotLog]],
        axes: Sequence[str],
        *,
        sensors: Sensors,
        window: float = 0.4,
        most: int = 40,
        num_threads: int = 0,
        **robot: Any,
    ) -> None:
        check_axes(axes)
        self.names = tuple(name for name in AXES if name in axes)  # the randomizer's order
        self.sensors, self.dt = sensors, logs[0][0].dt
        self._axes = [AXES[name] for name in self.names]
        self.windows = _cut(logs, window, most, (MOST_LATENCY + sensors.jitter_ms) / 1000)
        limits = {name: (AXES[name].limits.low, AXES[name].limits.high) for name in axes}
        self._envs = BallbotVectorEnv(
            len(self.windows), terrain="flat", num_threads=num_threads, ranges=limits, **robot
        )
        self._physics: Physics = self._envs.simulations
        step = float(self._physics.model.opt.timestep)
        self._repeat = round(self.dt / step)
        for part in (part for log in logs for part in log):
            if self._repeat < 1 or abs(part.dt / (self._repeat * step) - 1) > SAME_RATE:
                raise SettingsError(
                    f"log {part.name} has a line every {1000 * part.dt:.3g} ms, expected {1000 * step:g} ms or a whole "
                    "multiple of it, the same in all logs: log every control step"
                )
        self._step, self._settle = step, round(SETTLE / self.dt)
        self._lines = self.windows.up.shape[1] - 1
        """Of each window that are compared now."""
        self._actions = np.repeat(self.windows.actions, self._repeat, axis=1)
        self._spun = spun_wheel_speeds(self._physics.plane)
        rest = at_rest(self._physics.plane)
        self._above_ball = rest.body("base").xpos - rest.geom("ball").xpos
        start = self.windows.start
        spin = start[:, 6:] @ np.linalg.pinv(self._spun).T
        self.start = np.concatenate([start[:, :2], start[:, 3:6], spin], axis=1)
        """(n, START) of the windows."""
        self._sensed = self.start
        self._factor = np.array([axis.nominal == 1.0 for axis in self._axes] + [False])
        self._origin = np.array([0.0 if axis.nominal == 1.0 else axis.nominal for axis in self._axes] + [0.0])
        of = [OF_FACTORS if axis.nominal == 1.0 else axis.typical * np.array(OF_OTHERS) for axis in self._axes]
        steps, self._prior, self._most = np.array([*of, OF_LATENCY]).T
        self._caps, self._directions, self._kicked = steps, np.diag(steps), FIRST_KICKS

    def close(self) -> None:
        """Close the simulations."""
        self._envs.close()

    def _measured(self) -> Array:
        """(n, lines, numbers) what is compared with what ``predict`` says."""
        return self.windows.measured[:, : self._lines]

    def values(self, x: Array) -> Array:
        """(axes,) values, of what is sought: (axes + 1,) logarithms of factors, m, and the latency in ms."""
        low, high = np.array([(axis.limits.low, axis.limits.high) for axis in self._axes]).T
        return np.asarray(np.clip(np.where(self._factor, np.exp(x), x)[:-1], low, high))

    def predict(self, x: Array, start: Array) -> Array:
        """(n, lines, numbers) what sensors say after the start, NaN where a simulation diverged.

        Args:
            x: (axes + 1,) what is sought.
            start: (n, START).
        """
        self._place(self.values(x), start)
        physics, lines = self._physics, self._lines
        asked = self._asked(np.clip(x[-1], 0.0, MOST_LATENCY) / 1000 / self._step)
        imu, wheel = (low_pass(ms, self.dt) for ms in (self.sensors.imu_filter_ms, self.sensors.wheel_filter_ms))
        gyro, speeds = start[:, 2:5].copy(), start[:, 5:] @ self._spun.T
        found, broken = np.empty((len(start), lines, 5 + speeds.shape[1])), np.zeros(len(start), bool)
        for line in range(lines):
            for k in range(line * self._repeat, (line + 1) * self._repeat):
                diverged = physics.step(-physics.mechanics.torque * asked[:, k])
                if diverged is not None:
                    broken |= diverged
            robots = physics.robot_state()
            gyro += imu * (robots.gyro.T - gyro)
            speeds += wheel * (robots.wheel_speeds.T - speeds)
            found[:, line] = np.concatenate([robots.rotation[2, :2].T, gyro, speeds], axis=1)
        found[broken] = np.nan
        return found

    def _asked(self, late: float) -> Array:
        """(n, steps, wheels) what motors do, by the mean of all delays that are likely, late by so many steps."""
        jitter = self.sensors.jitter_ms / 1000 / self._step * EVENLY
        delays = np.maximum(late + np.add.outer(jitter, jitter).ravel(), 0.0)  # of actions, and of what is sensed
        whole = np.floor(delays).astype(int)
        share, most = delays - whole, whole.max() + 2
        weights = np.bincount(whole, 1 - share, most) + np.bincount(whole + 1, share, most)
        steps = self._lines * self._repeat
        at = self._actions.shape[1] - (self.windows.up.shape[1] - 1) * self._repeat
        late_by = (self._actions[:, at - k : at - k + steps] for k in range(most))
        return np.asarray(sum(w * actions for w, actions in zip(weights / len(delays), late_by, strict=True)))

    def _place(self, values: Array, start: Array) -> None:
        """Put the simulations into their starts, heading along x, rolling without slip."""
        physics, at = self._physics, self._physics.addresses
        (ux, uy), gyro, spin = start[:, :2].T, start[:, 2:5], start[:, 5:]
        tilt, axis = np.arcsin(np.minimum(np.hypot(ux, uy), 1.0)), np.arctan2(-ux, uy)
        for sim in range(len(start)):
            physics.place(sim, 0, values=values)
        sine = np.sin(tilt / 2)
        quaternion = np.array([np.cos(tilt / 2), sine * np.cos(axis), sine * np.sin(axis), 0 * tilt])
        rotation, pose = rotation_matrix(quaternion), physics.qpos
        arm = np.einsum("ijn,j->ni", rotation, self._above_ball)
        body, ball = pose[:, at.base_qpos :], pose[:, at.ball_qpos : at.ball_qpos + 3]
        body[:, :3], body[:, 3:7] = ball + arm, quaternion.T
        turning, rolling = (np.einsum("ijn,nj->ni", rotation, rate) for rate in (gyro, gyro + spin))
        travel = physics.mechanics.ball_radius * np.stack([rolling[:, 1], -rolling[:, 0], 0 * rolling[:, 2]], axis=1)
        base, roll = physics.qvel[:, at.base_qvel :], physics.qvel[:, at.ball_qvel :]
        base[:, :3], base[:, 3:6] = travel + np.cross(turning, arm), gyro
        roll[:, :3], roll[:, 3:6] = travel, rolling
        physics.qvel[:, list(at.wheel_qvel)] = spin @ self._spun.T

    def run(self, say: Callable[[str], None] = lambda line: None) -> Fit:
        """Fit."""
        whole, settled = self._lines, False
        first = min(round(FIRST / self.dt), whole)
        x, self._lines = self._origin.copy(), first
        x[-1] = self._likely_latency(x)
        say(f"{len(self.windows)} windows, latency about {x[-1]:g} ms")
        for turn in range(ROUNDS):
            self._lines = first if turn < AT_FIRST else whole
            linear = self._linear(x, SHARES[:1] if turn < AT_FIRST else SHARES)
            self._directions = self._apart(linear.information)
            change = np.clip(linear.change, -self._most, self._most)
            x = x + change
            x[-1] = np.clip(x[-1], 0.0, MOST_LATENCY)
            self.start = self.start + linear.starts(change)
            told = zip((*self.names, LATENCY), (*self.values(x), x[-1]), strict=True)
            say(f"round {turn + 1}: {', '.join(f'{name} {value:.4g}' for name, value in told)}")
            settled = self._lines == whole and bool((np.abs(change) < AT_REST * linear.errors).all())
            if settled:
                break
        return self._fit(x, linear, settled)

    def _likely_latency(self, x: Array) -> float:
        """Ms at which wheels do what they did, as nearly as they may."""
        measured, found = self._measured()[..., KINDS["wheels"]], []
        for latency in LATENCIES:
            said = self.predict(np.array([*x[:-1], latency]), self.start)[..., KINDS["wheels"]]
            found.append(np.nanmedian(np.nanmean((measured - said) ** 2, axis=(1, 2))))
        return float(LATENCIES[int(np.argmin(found))])

    def _linear(self, x: Array, shares: Sequence[float] = SHARES) -> _Linear:
        """What the simulation says near here."""
        said = self.predict(x, self.start)
        by_value = []
        for share in shares:
            ways = share * self._directions
            said_so = [(self.predict(x + d, self.start) - self.predict(x - d, self.start)) / 2 for d in ways]
            by_value.append(np.stack(said_so, axis=3) @ np.linalg.inv(ways).T)
        by_start = np.stack([(self.predict(x, self.start + d) - said) / d.sum() for d in np.diag(START_STEPS)], axis=3)
        compared = np.s_[:, self._settle :]
        found = _Linear(
            (self._measured() - said)[compared],
            [by[compared] for by in by_value],
            np.concatenate([by_start, self._kicks(by_start)], axis=3)[compared],
            self._sensed - self.start,
            (self._origin - x) / self._prior**2,
            self._prior,
            self._kicked,
        )
        self._kicked = found.kicked
        return found

    def _kicks(self, by_start: Array) -> Array:
        """(n, lines, numbers, kicks) how what is said changes with each of the kicks: as with the start's, later."""
        found = []
        every = round(KICK_EVERY / self.dt)
        for at in range(every, self._lines, every):
            found.append(np.zeros_like(by_start[..., RATES]))
            found[-1][:, at:] = by_start[:, :-at, :, RATES]
        return np.concatenate(found, axis=3)

    def _apart(self, information: Array) -> Array:
        """(sought, sought) changes, a row each, that the log tells apart, as large as they may be: see ``SHARES``."""
        found = np.linalg.eigh(information * np.outer(self._prior, self._prior))[1].T * self._prior
        return np.asarray(found / np.abs(found / self._caps).max(axis=1, keepdims=True))

    def _fit(self, x: Array, linear: _Linear, settled: bool) -> Fit:
        """What is said in the end."""
        errors, covariance = linear.errors, linear.covariance
        data = at_rest(self._physics.plane)
        above = data.subtree_com[self._physics.plane.body("base").id, 2] - data.geom("ball").xpos[2]
        crooked = np.radians(self.sensors.tilt_bias) / np.sqrt(3)
        correlation = covariance / np.outer(errors, errors)
        names = (*self.names, LATENCY)
        typical = [axis.typical for axis in self._axes] + [TYPICAL_LATENCY]
        found = {}
        for i, (name, value) in enumerate(zip(names, (*self.values(x), x[-1]), strict=True)):
            chance = BEYOND_CHANCE * errors[i] * (value if self._factor[i] else 1.0)
            error = float(np.hypot(chance, AT_LEAST * typical[i]))
            if name in LEVEL:
                error = float(np.hypot(error, crooked * above))
            as_much = {other: abs(r) for other, r in zip(names, correlation[i], strict=True) if other != name}
            like = tuple(sorted((o for o in as_much if as_much[o] > TOGETHER), key=lambda o: -as_much[o]))
            found[name] = Fitted(float(value), error, error <= TOLD * typical[i], like)
        measured = self._measured()[linear.kept, self._settle :]
        moved = measured - measured.mean(axis=1, keepdims=True)
        left = {
            kind: (float(np.sqrt((linear.rest[..., at] ** 2).mean())), float(np.sqrt((moved[..., at] ** 2).mean())))
            for kind, at in KINDS.items()
        }
        latency = found.pop(LATENCY)
        return Fit(found, latency, int(linear.kept.sum()), int((~linear.kept).sum()), left, settled)


class _Linear:
    """Gauss-Newton's step.

    What is each window's own, its start, the gyroscope's bias and kicks, is eliminated, by what is likely of it.  How
    large kicks are, and what sensors miss, is found by expectation and maximisation (Dempster, Laird, Rubin 1977).

    Args:
        residual: (n, lines, numbers).
        by_value: (n, lines, numbers, sought) how what is said changes with what is sought; twice, with noise of its
            own, or once, where noise may pass for knowledge.
        by_own: (n, lines, numbers, START + kicks) and with the start, and with kicks.
        off: (n, START) from there to what sensors say.
        pull: (sought,) towards where the search began.
        prior: (sought,) how far from there it may well be.
        kicked: (6, 6) (rad/s)^2, covariance of a kick, as far as it is known.
    """

    def __init__(
        self, residual: Array, by_value: Sequence[Array], by_own: Array, off: Array, pull: Array, prior: Array,
        kicked: Array,
    ) -> None:  # fmt: skip
        n, lines, numbers = residual.shape
        bias = np.zeros((n, lines, numbers, 3))
        bias[..., KINDS["gyro"], :] = np.eye(3)
        one, other = by_value[0], by_value[-1]
        shared, apart, own = (one + other) / 2, (one - other) / 2, np.concatenate([bias, by_own], axis=3)
        sound = np.isfinite(residual + one.sum(axis=3) + other.sum(axis=3) + own.sum(axis=3)).all(axis=(1, 2))
        if (num := int(sound.sum())) < FEWEST:
            raise SettingsError(
                f"{num} windows can be simulated, expected {FEWEST} or more: is --robot the robot that drove?"
            )
        kicks = (own.shape[3] - 3 - START) // len(kicked)
        meant = np.pad(off[sound], ((0, 0), (3, kicks * len(kicked))))
        priors = np.diag(prior**-2.0)
        noise = residual[sound].std(axis=(0, 1)) / 2
        for _ in range(WEIGHINGS):
            a, b, e = ((x[sound] / noise[:, None]).reshape(num, lines * numbers, -1) for x in (shared, apart, own))
            r = (residual[sound] / noise).reshape(num, -1, 1) - e @ meant[..., None]
            likely = np.zeros((e.shape[2],) * 2)
            likely[: 3 + START, : 3 + START] = np.diag(np.concatenate([np.full(3, BIAS_PRIOR), START_PRIOR]) ** -2.0)
            likely[3 + START :, 3 + START :] = np.kron(np.eye(kicks), np.linalg.inv(kicked))
            inner = np.linalg.inv(e.transpose(0, 2, 1) @ e + likely)
            back = inner @ e.transpose(0, 2, 1)
            a_free, b_free = (x - e @ (back @ x) for x in (a, b))
            fits = np.ones(num, bool)
            for _ in range(2):  # once more without the odd ones
                # a'a - b'b is the product of the two, whose noise is independent and so adds nothing
                told, noisy = (np.einsum("nkl,nkm->lm", x[fits], y[fits]) for x, y in ((a, a_free), (b, b_free)))
                self.information = _at_least(told - noisy, priors)
                score = np.einsum("nkl,nk->l", a_free[fits], r[fits, :, 0])
                self.change = np.linalg.solve(self.information, score + pull)
                left = r - a @ self.change[:, None]
                its = back @ left
                rest = left - e @ its
                cost = (left * rest).mean(axis=(1, 2))
                fits = cost <= ODD * np.median(cost)
            rests = rest.reshape(num, lines, numbers)[fits] * noise
            unkicked = left - e[..., : 3 + START] @ its[:, : 3 + START]
            self.rest = unkicked.reshape(num, lines, numbers)[fits] * noise
            unsure = ((e @ inner) * e).sum(axis=2).reshape(num, lines, numbers)[fits] * noise**2
            noise = np.sqrt((rests**2 + unsure).mean(axis=(0, 1)))
            square = (its @ its.transpose(0, 2, 1) + inner)[fits, 3 + START :, 3 + START :].mean(axis=0)
            kicked = np.einsum("kikj->ij", square.reshape(kicks, len(kicked), kicks, len(kicked))) / kicks
        score = np.einsum("nkl,nk->nl", a_free[fits], left[fits, :, 0])
        spread = score.T @ score * len(score) / max(len(score) - len(pull), 1)
        inverse = np.linalg.inv(self.information)
        self.covariance = inverse @ (spread + priors) @ inverse
        self.errors = np.sqrt(np.diag(self.covariance))
        self.kicked = kicked
        self.kept = sound.copy()
        self.kept[sound] = fits
        self._sound, self._back, self._meant, self._a, self._r = sound, back, meant, a, r

    def starts(self, change: Array) -> Array:
        """(n, START) how the windows' starts change with what is sought, when that changes so."""
        found = np.zeros((len(self._sound), START))
        its = (self._back @ (self._r - self._a @ change[:, None]))[..., 0] + self._meant
        found[self._sound] = its[:, 3 : 3 + START]
        return found


def _at_least(information: Array, prior: Array) -> Array:
    """Information with that of the prior, where noise has made it less than none set to none."""
    scale = 1 / np.sqrt(np.diag(prior))
    values, vectors = np.linalg.eigh(information * np.outer(scale, scale))
    found = (vectors * (np.maximum(values, 0.0) + 1.0)) @ vectors.T
    return np.asarray(found / np.outer(scale, scale))
