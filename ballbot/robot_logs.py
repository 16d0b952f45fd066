"""What a robot has done, as a table: one line a control step, of what it was told and what it sensed.

A log is a CSV file, whose first line names its columns::

    time_s                           s, rising evenly
    action_0, action_1, ...          as commanded, from -1 to 1, one a wheel
    quat_w, quat_x, quat_y, quat_z   orientation, base to world, whose z is up; of length 1
    gyro_x_rad_s, ..., gyro_z_rad_s  angular velocity along the base's axes
    wheel_0_rad_s, ...               about the wheels' axles, one a wheel

A line holds what the robot knew as it chose that line's action.  Where the time goes back, as after a fall, a part
begins that has nothing to do with the one before.  Columns may stand in any order, beside others, which are not read.
``ballbot/deployment/runtime.py`` writes the same on a robot, ``Recorder`` in the simulation.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.envs import BallbotVectorEnv
from ballbot.envs.step import rotation_matrix
from ballbot.errors import SettingsError
from ballbot.settings import nearest

Array = NDArray[np.float64]

MOST_BYTES = 500_000_000
"""Of a log: half an hour at 500 Hz, with much beside."""
SHORTEST = 2.0
"""s that a log must last."""
NOISE_HOLD = 0.02
"""s that noise on actions holds: for shorter ones wheels are too slow, for longer ones the robot sways."""
UNEVEN = 0.5
"""Of the step between two lines, by which one may be longer or shorter."""
LONGEST_STEP = 0.02
"""s between two lines: what is longer is ms, or tells too little."""
MOST_GYRO, MOST_WHEEL = 100.0, 1000.0
"""rad/s."""
TURNING = 0.1
"""s over which orientation and gyroscope are compared."""
LEAST_TURNING = 0.03
"""rad/s rms of an axis, below which that is left out: the orientation's noise is as large."""
LEAST_MOTION = 0.02
"""rad/s rms of all axes, below which the robot stands still."""
AGREES = (0.5, 1.6)
"""By how much orientation may turn faster than the gyroscope says: by filters and noise, but no other unit or axis."""


@dataclass(frozen=True)
class RobotLog:
    """A log that can be used, of n steps."""

    name: str
    """Of its file."""
    dt: float
    """s between two lines."""
    actions: Array
    """(n, wheels) from -1 to 1."""
    quaternion: Array
    """(n, 4), w first."""
    gyro: Array
    """(n, 3) rad/s."""
    wheel_speeds: Array
    """(n, wheels) rad/s."""

    @property
    def up(self) -> Array:
        """(n, 3) the vertical, along the base's axes."""
        return np.asarray(rotation_matrix(self.quaternion.T)[2].T)


def columns(wheels: int) -> dict[str, tuple[str, ...]]:
    """What a log has -> names of its columns, in the order in which they are written."""
    return {
        "time": ("time_s",),
        "actions": tuple(f"action_{i}" for i in range(wheels)),
        "quaternion": tuple(f"quat_{axis}" for axis in "wxyz"),
        "gyro": tuple(f"gyro_{axis}_rad_s" for axis in "xyz"),
        "wheel_speeds": tuple(f"wheel_{i}_rad_s" for i in range(wheels)),
    }


class Recorder:
    """Keeps what the first robot of an environment does, each episode from time 0.

    Args:
        envs: the environment.
        noise: standard deviation of what is added to its actions, which makes a log tell more.
        seed: of that noise.
    """

    def __init__(self, envs: BallbotVectorEnv, noise: float = 0.0, seed: int = 0) -> None:
        self._envs, self._noise, self._rng = envs, noise, np.random.default_rng(seed)
        self._hold = max(round(NOISE_HOLD / envs.dt), 1)
        self._added: Any = 0.0
        self._lines: list[Array] = []
        self._steps = 0

    def watch(self, actor: Callable[[Any, NDArray[np.bool_]], NDArray[Any]]) -> Any:
        """The same actor, of whom all is kept."""

        def act(obs: Any, began: NDArray[np.bool_]) -> NDArray[Any]:
            actions = np.array(actor(obs, began), np.float64)
            self._steps = 0 if began[0] else self._steps + 1
            if self._noise:
                if self._steps % self._hold == 0:
                    self._added = self._noise * self._rng.standard_normal(actions.shape[1])
                actions[0] += self._added
            actions[0] = np.clip(actions[0], -1.0, 1.0)
            world = self._envs.world
            robots = world.robots if world.senses is None else world.senses.measured
            told = robots.quaternion, robots.gyro, robots.wheel_speeds
            self._lines.append(np.concatenate([[self._steps * self._envs.dt], actions[0], *(x[:, 0] for x in told)]))
            return actions

        return act

    def text(self) -> str:
        """The log."""
        names = [name for group in columns(self._envs.simulations.mechanics.wheels).values() for name in group]
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([f"{x:.9g}" for x in line] for line in self._lines)
        return buffer.getvalue()


def read_log(path: Path, wheels: int) -> list[RobotLog]:
    """The parts of a log of a robot with so many wheels, if it can be used.

    Raises:
        SettingsError: it cannot; the message names the line or column, and what to do.
    """
    header, rows = _table(path)
    names = columns(wheels)
    _check_header(path, header, names)
    wanted = [name for group in names.values() for name in group]
    table = _numbers(path, [header.index(name) for name in wanted], wanted, rows)
    starts = np.cumsum([len(group) for group in names.values()])[:-1]
    time, actions, quaternion, gyro, wheel_speeds = np.split(table, starts, axis=1)
    lines = np.array([line for line, _ in rows])
    dt = _step(path, lines, time[:, 0])
    _check_size(path, lines, names["actions"], actions, 1.0 + 1e-6, "write the share of the motors' limit, -1 to 1")
    _check_size(path, lines, names["gyro"], gyro, MOST_GYRO, "write rad/s")
    _check_size(path, lines, names["wheel_speeds"], wheel_speeds, MOST_WHEEL, "write rad/s")
    length = np.linalg.norm(quaternion, axis=1)
    if (bad := np.abs(length - 1.0) > 0.02).any():
        raise SettingsError(
            f"{path}, line {lines[bad][0]}: quat_w to quat_z have the length {length[bad][0]:.3g}, expected 1: write a "
            "unit quaternion, w first, no angles"
        )
    begins = np.flatnonzero(np.diff(time[:, 0]) < 0) + 1
    parts = [np.split(x, begins) for x in (actions, quaternion / length[:, None], gyro, wheel_speeds)]
    found = [RobotLog(path.name, dt, *part) for part in zip(*parts, strict=True)]
    _check_motion(path, found)
    return found


def _table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and the others with their numbers of lines."""
    if path.exists() and not path.is_file():
        raise SettingsError(f"log {path} is no ordinary file: give a CSV file")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SettingsError(f"log {path} is larger than {MOST_BYTES // 10**6} MB: cut it")
        reader = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader if row]
    except OSError as error:
        raise SettingsError(f"log {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"log {path} is no CSV file ({error}): see docs/your_robot.md") from error
    if not rows:
        raise SettingsError(f"log {path} is empty: its first line names the columns, see docs/your_robot.md")
    return [name.strip() for name in rows[0][1]], rows[1:]


def _check_header(path: Path, header: list[str], names: dict[str, tuple[str, ...]]) -> None:
    wheels = len(names["actions"])
    for what in ("action_{}", "wheel_{}_rad_s"):
        found = next(i for i in range(len(header) + 1) if what.format(i) not in header)
        if found and found != wheels:
            raise SettingsError(
                f"{path}, line 1: it has columns {what.format(0)} to {what.format(found - 1)}, and the robot has "
                f"{wheels} wheels: name the robot that drove, --robot"
            )
    for name in (name for group in names.values() for name in group):
        if header.count(name) != 1:
            number = "no column" if name not in header else "more than one column"
            raise SettingsError(f"{path}, line 1: {number} {name!r}; {nearest(name, header)}")


def _numbers(path: Path, places: list[int], names: list[str], rows: list[tuple[int, list[str]]]) -> Array:
    """(n, columns) of the lines."""
    table = np.empty((len(rows), len(places)))
    for at, (line, row) in enumerate(rows):
        for column, (place, name) in enumerate(zip(places, names, strict=True)):
            text = row[place] if place < len(row) else ""
            try:
                table[at, column] = float(text)
            except ValueError:
                raise SettingsError(
                    f"{path}, line {line}: {name} is {text!r}, no number: mend or cut the log there"
                ) from None
    if not (sound := np.isfinite(table)).all():
        at, column = np.argwhere(~sound)[0]
        raise SettingsError(
            f"{path}, line {rows[at][0]}: {names[column]} is {table[at, column]}: cut the log there, and give both"
        )
    return table


def _step(path: Path, lines: NDArray[np.int64], time: Array) -> float:
    """S between two lines."""
    steps = np.diff(time)
    on = steps >= 0
    dt = float(np.median(steps[on])) if on.any() else 0.0
    if dt <= 0:
        raise SettingsError(f"{path}: time_s does not rise: write s, one line a control step, two lines or more")
    if dt > LONGEST_STEP:
        raise SettingsError(
            f"{path}: time_s rises by {dt:g} a line, expected at most {LONGEST_STEP:g} s: write s, not ms, a line a "
            "control step"
        )
    if (bad := on & (np.abs(steps - dt) > UNEVEN * dt)).any():
        at = int(np.flatnonzero(bad)[0])
        raise SettingsError(
            f"{path}, line {lines[at + 1]}: time_s rises by {steps[at]:.4g} s there, and by {dt:.4g} s else: log every "
            "control step, or cut the log at the gap and give both parts"
        )
    if len(time) * dt < SHORTEST:
        raise SettingsError(f"{path} lasts {len(time) * dt:.2f} s, expected {SHORTEST:g} s or more: log for longer")
    return float(steps[on].mean())


def _check_size(
    path: Path, lines: NDArray[np.int64], names: tuple[str, ...], values: Array, most: float, remedy: str
) -> None:
    if (bad := np.abs(values) > most).any():
        at, column = np.argwhere(bad)[0]
        raise SettingsError(
            f"{path}, line {lines[at]}: {names[column]} is {values[at, column]:g}, expected {-most:.4g} to {most:.4g}: "
            f"{remedy}"
        )


def _check_motion(path: Path, parts: list[RobotLog]) -> None:
    """Whether it moves, and whether orientation and gyroscope tell of the same motion, each axis by itself."""
    steps = max(round(TURNING / parts[0].dt), 1)
    rates, turns = [np.zeros((0, 3))], [np.zeros((0, 3))]
    for part in parts:
        if len(part.gyro) > steps:
            summed = np.cumsum(np.pad(part.gyro, ((1, 0), (0, 0))), axis=0)
            rates.append((summed[steps:-1] - summed[: -1 - steps]) / steps)
            turns.append(_turns(part.quaternion, steps) / (steps * part.dt))
    rate, turned = (np.concatenate(x) for x in (rates, turns))
    if not len(rate):
        raise SettingsError(f"{path}: no part lasts {TURNING:g} s: log for longer")
    rate, turned = rate - rate.mean(axis=0), turned - turned.mean(axis=0)
    moves = np.sqrt((rate**2).mean(axis=0))
    if moves.max() < LEAST_MOTION or not any(np.ptp(part.actions, axis=0).any() for part in parts):
        raise SettingsError(
            f"{path}: the robot does not move (its gyroscope by {moves.max():.2g} rad/s rms): log while it drives to "
            "and fro, with noise on its actions"
        )
    for axis, name in enumerate(columns(3)["gyro"]):
        if moves[axis] < LEAST_TURNING:
            continue
        share = float((rate[:, axis] * turned[:, axis]).sum() / (rate[:, axis] ** 2).sum())
        if not AGREES[0] <= share <= AGREES[1]:
            degrees = AGREES[0] <= share * 180 / np.pi <= AGREES[1]
            remedy = "write rad/s, not degrees/s" if degrees else "check axes, signs and units of both"
            raise SettingsError(
                f"{path}: the orientation turns {share:.3g} times as fast as {name} says, expected 1: {remedy}"
            )


def _turns(quaternion: Array, steps: int) -> Array:
    """(n - steps, 3) rad about the base's axes, in so many steps."""
    w, v = quaternion[:, :1], quaternion[:, 1:]
    (w0, v0), (w1, v1) = (w[:-steps], v[:-steps]), (w[steps:], v[steps:])
    real = w0 * w1 + (v0 * v1).sum(axis=1, keepdims=True)
    return np.asarray(2 * np.sign(real) * (w0 * v1 - w1 * v0 - np.cross(v0, v1)))
