"""What the robot senses: a list of named fields.  This is the only place that knows how an observation is laid out.

Slices, the robot's symmetry, factors on the networks' inputs, the contract of exported policies and the tables of the
docs derive from ``FIELDS``.  Whoever adds one writes a function of a ``Step`` and says how it turns with the robot::

    FIELDS["height"] = Field(1, lambda step: step.robots.position[2:], "m", "world axes", "scalar")

and observes it by ``extra_fields=("height",)``, on the command line ``--extra-fields height``.

``frame="body"`` (the default): gravity, gyro, velocity, those of the command, wheel_speeds, last_action.  Nothing in it
changes when the robot and its goal are turned together about the vertical, which is what makes learning fast.

``frame="world"``: orientation, clipped_gyro, world_velocity, those of the command unless it is a goal, which is fixed
in the world, clipped_wheel_speeds, last_action: the reference's.

Fields of ``extra_fields`` follow, then those of the past: with ``history=(0, 10)``, "gravity@10" is what "gravity" was
10 steps of 2 ms ago; with ``history_changes`` there is "gravity-10" instead, what it is now less what it was then.
``observation="encoded"`` appends, to all that, the embedding of each camera's latest image (20 numbers each with the
encoder that comes with ballbot), and the age of the images in s.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.parts import call, refuse_nan
from ballbot.envs.randomize import TOLD
from ballbot.envs.rig import CameraRig
from ballbot.envs.step import Array, Step, rotation_vector
from ballbot.errors import SettingsError
from ballbot.settings import nearest

CAMERA_INTERVAL = 6  # steps from an image to the next, if nothing else is said: the reference's 83.3 Hz
WHEEL_SPEED_SCALE = 10.0  # rad/s per unit of observation (the reference's)
CLIP = 2.0  # the reference's bound on velocities and scaled wheel speeds
POINT_RANGE = 2.0
"""m.  What is farther away is observed as far away as this."""

SLOPE_REACH = 0.01
"""m to either side of a place at which the ground's height is taken for its slope: within the ball's imprint."""

Turns = Literal["vector", "axial", "motion", "planar", "wheels", "scalar", "spin", "ring", "none"]
"""How numbers change when the robot, seen from above, turns by a third or is mirrored: as a vector (x, y turn, z
stays), as an axis to turn about (likewise, and a mirror changes its sign), as a velocity x, y and a yaw rate, as planar
vectors x, y, one after the other, as numbers of the wheels, of which ``FIELDS`` has three, which take each other's
places, not at all, as a yaw rate (only a mirror changes its sign), as numbers of places all around, or in no way that
can be told."""


@dataclass(frozen=True)
class Field:
    """Some numbers of an observation.

    Args:
        size: how many.
        read: (size, n) of a step.
        unit: of each, for the docs and the contract.
        axes: along which they are given, likewise.
        turns: see ``Turns``.
        ring: of "ring", how many places there are all around, as those of ``scan``; one ring after the other.
        title: what they are; the name of the field if it says that itself.
        radii: of its rings, m from the ball's centre.
        typical: about how large the numbers are, for a network that estimates them.
        leads: whether it is a unit vector along which to go, and to be followed instead of the goal by a policy's
            prior; an estimate of it is brought to length 1.
        ahead: whether it depends on where the robot is to go, as what leads does; estimates are made from the goal too.
    """

    size: int
    read: Callable[[Step], Array]
    unit: str = "1"
    axes: str = ""
    turns: Turns = "none"
    title: str = ""
    ring: int = 0
    radii: tuple[float, ...] = ()
    typical: float = 0.1
    leads: bool = False
    ahead: bool = False

    def __post_init__(self) -> None:
        if self.leads and self.size != 2:
            raise SettingsError(f"a field that leads is a unit vector of 2 numbers, got size={self.size}")


def _velocity(step: Step) -> Array:
    (a, b, c), (x, y, z) = step.robots.rotation, step.robots.velocity
    return np.asarray(a * x + b * y + c * z + 0.0)  # 0, not -0, at rest


def _goal(step: Step) -> Array:
    rotation, goal = step.robots.rotation, step.command.direction
    return np.asarray(goal[0] * rotation[0, :2] + goal[1] * rotation[1, :2])


def near(offset: Array) -> Array:
    """(2, n) offsets, shortened to ``POINT_RANGE``."""
    length = np.sqrt(offset[0] ** 2 + offset[1] ** 2)
    return offset * (POINT_RANGE / np.maximum(length, POINT_RANGE))


def _slopes(step: Step, *ahead: float) -> Array:
    """(2 k, n) slopes of the ground along the heading and to its left, so far, m, from the ball along the way to go."""
    robots = step.robots
    (c, s), way = robots.heading, step.command.direction
    below = step.ball_place
    places = np.stack([below + distance * way for distance in ahead], axis=1)  # (2, k, n)
    axes = np.array([[c, -s], [s, c]])  # (2, axes, n)
    around = SLOPE_REACH * np.stack([axes, -axes])[:, :, None]  # (sides, 2, 1, axes, n)
    heights = step.heights((places[:, :, None] + around).transpose(4, 0, 2, 3, 1))  # (n, sides, k, axes)
    slopes = (heights[:, 0] - heights[:, 1]) / (2 * SLOPE_REACH)
    return np.asarray(slopes.reshape(len(slopes), -1).T)


RING_START_DEG = 2.5
"""Of the first place of a ring from the heading, counterclockwise.  So the places of mirrored robots fall on each
other, too: the planes in which the wheels are mirrored lie 77.5 degrees and sixths of a turn from the heading."""


WAY_AHEAD = 0.3
"""s: the field "way" is that from where the robot will be so much later, as it turns no sooner."""
SCAN_ANGLES = 12
"""Places of each ring of the field "scan"."""
SCAN_RADII = (0.12, 0.2, 0.3, 0.42, 0.56)
"""m from the ball's centre, of its rings."""
SCAN_MOST = 0.2
"""m, the greatest height and depth that it tells."""


def scan(angles: int = SCAN_ANGLES, radii: tuple[float, ...] = SCAN_RADII, most: float = SCAN_MOST) -> Field:
    """Heights of the ground all around, as a perfect eye would tell them: what teachers of those who see are given.

    Another grid is another field::

        FIELDS["far_scan"] = scan(24, (0.15, 0.3, 0.6, 0.9))

    Args:
        angles: places of each ring, evenly and counterclockwise, the first ``RING_START_DEG`` from the heading; a
            multiple of 6, so that robots turned by a third and mirrored ones see the same in another order.
        radii: of the rings, m from the ball's centre.
        most: m, the greatest height and depth that is told.

    Returns:
        a field of (rings * angles) heights, m, above the ground under the ball, one ring after the other.

    Raises:
        SettingsError: impossible angles, radii or most.
    """
    if not isinstance(angles, int) or angles < 6 or angles % 6:
        raise SettingsError(f"angles must be a multiple of 6, such as 12, got {angles!r}")
    if not radii or not all(0 < radius <= 10 for radius in radii) or not 0 < most < np.inf:
        raise SettingsError(f"radii must lie between 0 and 10 m, and most above 0, got {radii!r} and {most!r}")
    places = ring_places(angles, radii)

    def read(step: Step) -> Array:
        heights = step.heights(places_around(places, step.robots.heading, step.ball_place)).T
        return np.clip(heights[1:] - heights[0], -most, most)

    rings = ", ".join(f"{radius:g}" for radius in radii)
    axes = f"{angles} places counterclockwise, the first {RING_START_DEG:g} degrees from the heading, at {rings} m"
    title = "height of the ground around above that under the ball, which no sensor tells"
    return Field(places.shape[1], read, "m", axes, "ring", title, angles, tuple(radii))


def ring_places(angles: int = SCAN_ANGLES, radii: tuple[float, ...] = SCAN_RADII) -> Array:
    """(2, rings * angles) places of a scan, m along the heading and to its left of the ball, a ring after the other."""
    return np.multiply.outer(np.array(radii), ring_directions(angles)).transpose(1, 0, 2).reshape(2, -1)


def places_around(places: Array, heading: Array, ball: Array) -> Array:
    """(n, 1 + k, 2) the world's x and y, m, under the balls of n robots, and of k places around each.

    Args:
        places: (2, k) of ``ring_places``.
        heading: (2, n) unit vectors.
        ball: (2, n) m.
    """
    (c, s), (ahead, left) = heading, places[..., None]
    around = np.stack([c * ahead - s * left, s * ahead + c * left])
    xy = np.concatenate([np.zeros_like(around[:, :1]), around], axis=1) + ball[:, None]
    return xy.transpose(2, 1, 0)


def ring_directions(angles: int) -> Array:
    """(2, angles) unit vectors to the places of a ring."""
    turns = np.radians(RING_START_DEG) + 2 * np.pi * np.arange(angles) / angles
    return np.stack([np.cos(turns), np.sin(turns)])


def _reordered(angles: int, plane: Array) -> Array:
    """(angles, angles) what takes the place of what in a ring if its places are turned or mirrored.

    Raises:
        SettingsError: they do not fall on each other.
    """
    matrix = _moved(ring_directions(angles), plane)
    if not (matrix.sum(axis=0) == 1).all():
        raise SettingsError(f"a ring of {angles} places does not look the same to a turned or mirrored robot: use 12")
    return matrix


def _moved(directions: Array, plane: Array) -> Array:
    """(k, k) which of (2, k) unit vectors, turned or mirrored, takes which one's place; rows of nobody's are 0."""
    return np.asarray((directions.T @ (plane @ directions) > 1 - 1e-6).astype(float))  # 0.08 degrees


FIELDS: dict[str, Field] = {
    "gravity": Field(
        3, lambda s: -s.robots.rotation[2], "1", "base axes, unit vector pointing down", "vector", "gravity direction"
    ),
    "gyro": Field(3, lambda s: s.robots.gyro, "rad/s", "base axes", "axial", "angular velocity"),
    "velocity": Field(3, _velocity, "m/s", "base axes", "vector", "velocity of the base"),
    "goal": Field(2, _goal, "1", "base axes, x and y of the unit vector", "planar", "goal direction"),
    "wheel_speeds": Field(
        3, lambda s: s.robots.wheel_speeds / WHEEL_SPEED_SCALE, "10 rad/s", "wheels 0, 1, 2", "wheels", "wheel speeds"
    ),
    "last_action": Field(3, lambda s: s.actions.T, "1", "wheels 0, 1, 2", "wheels", "last action"),
    "orientation": Field(
        3, lambda s: rotation_vector(s.robots.quaternion), "rad", "rotation vector, base to world, angle in [0, pi]"
    ),
    "clipped_gyro": Field(
        3, lambda s: np.clip(s.robots.gyro, -CLIP, CLIP), "rad/s", "base axes, clipped to [-2, 2]", "axial",
        "angular velocity",
    ),
    "world_velocity": Field(
        3, lambda s: np.clip(s.robots.velocity, -CLIP, CLIP), "m/s", "world axes, clipped to [-2, 2]",
        title="velocity of the base",
    ),
    "clipped_wheel_speeds": Field(
        3, lambda s: np.clip(s.robots.wheel_speeds / WHEEL_SPEED_SCALE, -CLIP, CLIP), "10 rad/s",
        "wheels 0, 1, 2, clipped to [-2, 2]", "wheels", "wheel speeds",
    ),
    "velocity_command": Field(
        3, lambda s: s.command.values[:3], "m/s, m/s, rad/s", "along the heading, to its left, about the vertical",
        "motion", "velocity asked for",
    ),
    "station": Field(
        2, lambda s: s.robots.to_heading(near(s.command.station - s.robots.position[:2])), "m",
        "along the heading, to its left; 0 unless told to stand", "planar", "way back to the place to keep",
    ),
    "target": Field(
        2, lambda s: s.robots.to_heading(near(s.command.target - s.robots.position[:2])), "m",
        f"along the heading, to its left, at most {POINT_RANGE:g} long", "planar", "way to the target",
    ),
    "next_target": Field(
        2, lambda s: s.robots.to_heading(near(s.command.next_target - s.robots.position[:2])), "m",
        f"along the heading, to its left, at most {POINT_RANGE:g} long", "planar", "way to the target after it",
    ),
    "yaw_rate": Field(1, lambda s: s.robots.yaw_rate[None], "rad/s", "about the vertical", "spin", "yaw rate"),
    "slope": Field(
        2, lambda s: _slopes(s, 0.0), "1", "along the heading, to its left", "planar",
        "slope of the ground under the ball, which no sensor tells",
    ),
    "slope_ahead": Field(
        6, lambda s: _slopes(s, 0.05, 0.1, 0.2), "1", "along the heading, to its left; at each of the three places",
        "planar", "slope of the ground 5, 10 and 20 cm ahead on the way to go, which no sensor tells",
        ahead=True,
    ),
    "scan": scan(),
    "way": Field(
        2, lambda s: s.robots.to_heading(s.way(WAY_AHEAD)), "1", "along the heading, to its left", "planar",
        "unit vector to where one goes who knows all the ground, which no sensor tells", typical=0.5, leads=True,
    ),
    "balance": Field(
        2, lambda s: s.balance(), "1", "base axes, x and y", "planar",
        "where gravity points, as its sensors have it, when the robot balances, which no sensor tells", typical=0.05,
    ),
    "randomized": Field(
        len(TOLD), lambda s: s.randomized(), turns="scalar",
        title="how far this robot and ground are from what they are otherwise, which no sensor tells",
    ),
    "time_left": Field(
        1, lambda s: s.time_left[None], "s", turns="scalar", title="time until the time limit, which no sensor tells"
    ),
}  # fmt: skip
"""Name -> field.  Yours may be added."""

FRAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "body": (("gravity", "gyro", "velocity"), ("wheel_speeds", "last_action")),
    "world": (("orientation", "clipped_gyro", "world_velocity"), ("clipped_wheel_speeds", "last_action")),
}
"""Frame -> the fields before and after those of the command."""


STEP_MS = 2
"""ms of a step of the past."""


THEN, SINCE = "@", "-"
"""Between a field and how many steps ago: what it was then, and what it is now less that."""


def of_now(name: str) -> tuple[str, int]:
    """The field of now that another is of, and how many steps ago: "gravity" and 10 of "gravity@10" and "gravity-10".

    Of fields of now their own name and 0.
    """
    found = None if name in FIELDS else re.fullmatch(f"(.+)[{THEN}{SINCE}]([0-9]+)", name)
    return (name, 0) if found is None or int(found[2]) == 0 else (found[1], int(found[2]))


def is_change(name: str) -> bool:
    """Whether a field is one such as "gravity-10"."""
    origin, steps = of_now(name)
    return steps > 0 and name[len(origin)] == SINCE


@dataclass(frozen=True)
class Layout:
    """Which numbers of an observation are what.

    Args:
        names: of the fields, in order; "gravity@10" is "gravity" of 10 steps ago, "gravity-10" its change since.
        images: sizes of the embeddings of each camera's image, which follow, with the images' age as the last number;
            empty without.
        rig: of these cameras; None: the reference's, which are not all alike.
        wheels: of the robot.
    """

    names: tuple[str, ...]
    images: tuple[int, ...] = ()
    rig: CameraRig | None = None
    wheels: int = 3
    fields: dict[str, Field] = field(init=False, repr=False, compare=False)
    """Name -> field, of the images too; what ``FIELDS`` held when this was made."""
    slices: dict[str, slice] = field(init=False, repr=False, compare=False)
    """Name -> which numbers."""
    sensed: int = field(init=False, repr=False, compare=False)
    """Numbers before those of the images."""
    size: int = field(init=False, repr=False, compare=False)
    """Numbers in all."""
    past: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Names of the fields of the past, the last that are sensed."""
    now: int = field(init=False, repr=False, compare=False)
    """Numbers before those of the past."""
    _reads: list[tuple[str, Callable[[Step], Array], int, slice]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in self.names:
            if of_now(str(name))[0] not in FIELDS:
                raise SettingsError(f"the observation has no field {name!r}: {nearest(str(name), FIELDS)}")
            if self.names.count(name) > 1:
                raise SettingsError(f"the field {name!r} is observed twice: leave one out of extra_fields")
        if self.images and self.rig is not None and len(self.images) != self.rig.number:
            raise SettingsError(f"images are of {len(self.images)} cameras, and the rig has {self.rig.number}")
        fields = {name: _field(name, self.wheels) for name in self.names}
        object.__setattr__(self, "sensed", sum(f.size for f in fields.values()))
        for camera, size in enumerate(self.images):
            fields[f"image_{camera}"] = Field(size, _not_sensed, title=f"embedding of camera {camera}")
        if self.images:
            fields["image_age"] = Field(1, _not_sensed, "s", title="age of the images")
        slices, at = {}, 0
        for name, f in fields.items():
            slices[name], at = slice(at, at + f.size), at + f.size
        now = [name for name in self.names if not of_now(name)[1]]
        past = self.names[len(now) :]
        if now != list(self.names[: len(now)]):
            raise SettingsError(f"fields of the past come last, got {', '.join(self.names)}")
        reads = [(f"field {name!r}", fields[name].read, fields[name].size, slices[name]) for name in now]
        found = {"fields": fields, "slices": slices, "size": at, "past": past, "_reads": reads}
        for name, value in (*found.items(), ("now", sum(size for _, _, size, _ in reads))):
            object.__setattr__(self, name, value)

    def __getitem__(self, name: str) -> slice:
        """Which numbers of an observation a field is."""
        return self.slices[name]

    @property
    def leading(self) -> slice | None:
        """Which numbers say where to go, of the first field that leads; None: there is none."""
        return next((self.slices[name] for name, f in self.fields.items() if f.leads), None)

    def observe(self, step: Step, past: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """(n, sensed) what robots sense.

        Args:
            step: what they are in.
            past: (numbers, n) those of the fields of the past, if there are any.
        """
        now = self.columns(step)
        if past is None:
            return now.T.astype(np.float32, order="C")
        observed = np.empty((now.shape[1], self.sensed), np.float32)
        observed[:, : self.now], observed[:, self.now :] = now.T, past.T
        return observed

    def columns(self, step: Step) -> Array:
        """(now, n) what robots sense but for the past, a column a robot."""
        n = step.robots.rotation.shape[2]
        columns = np.empty((self.now, n))
        for what, read, size, rows in self._reads:
            value = call(what, read, step)
            if getattr(value, "shape", None) != (size, n):
                raise SettingsError(
                    f"{what} returned {np.shape(value) or type(value).__name__}, expected an array of shape "
                    f"({size}, {n}): one row a number, one column a robot"
                )
            columns[rows] = value
        if not np.isfinite(np.add.reduce(columns, axis=None)):
            for what, _, _, rows in self._reads:
                refuse_nan(what, columns[rows])
        return columns

    def turned(self, plane: Array, wheels: Array) -> Array:
        """(size, size) the matrix that makes of an observation that of robot, goal and ground turned or mirrored.

        Args:
            plane: (2, 2) what becomes of x and y: a rotation, or a reflection.
            wheels: (wheels, wheels) what becomes of the wheels' numbers.

        Numbers that have no counterpart there, such as images that no other camera would see, become 0.

        Raises:
            SettingsError: the frame is not the robot's own.
        """
        sign = np.sign(np.linalg.det(plane)).reshape(1, 1)  # -1: a mirror
        one, zero = np.ones((1, 1)), np.zeros((2, 1))

        def upright(z: Array) -> Array:
            return np.block([[plane, zero], [zero.T, z]])

        blocks = {
            "vector": upright(one),
            "axial": sign * upright(one),
            "motion": upright(sign),
            "planar": plane,
            "wheels": wheels,
            "scalar": one,
            "spin": sign,
        }
        matrix = np.zeros((self.size, self.size))
        for name, f in self.fields.items():
            if f.turns == "none":
                continue
            block = _reordered(f.ring, plane) if f.turns == "ring" else blocks[f.turns]
            at = self.slices[name]
            matrix[at, at] = np.kron(np.eye(f.size // len(block)), block)
        if self.rig is not None and self.images and sign > 0:  # a mirror's images are none of a camera's
            moved, seen = _moved(self.rig.directions, plane), slice(self.sensed, self.size - 1)
            if moved.any():
                matrix[seen, seen] = np.kron(moved, np.eye(self.images[0]))
                matrix[-1, -1] = 1.0  # their age
        return matrix

    def table(self) -> list[dict[str, Any]]:
        """A row a field: "field", "name", "size", "unit" and "axes"."""
        return [
            {"field": name, "name": f.title or name.replace("_", " "), "size": f.size, "unit": f.unit, "axes": f.axes}
            for name, f in self.fields.items()
        ]


def layout_of(
    frame: str,
    command_fields: Iterable[str],
    extra: Iterable[str],
    images: tuple[int, ...] = (),
    history: Iterable[int] = (0,),
    history_fields: Iterable[str] = (),
    changes: bool = False,
    rig: CameraRig | None = None,
    wheels: int = 3,
) -> Layout:
    """The layout of an observation.

    Args:
        frame: of ``FRAMES``.
        command_fields: what the command adds.
        extra: what the user adds.
        images: see ``Layout``.
        history: steps ago, rising from 0, of which fields are observed.
        history_fields: which ones; empty: those of ``frame`` before the command's.
        changes: observe how much they have changed since.
        rig: see ``Layout``.
        wheels: likewise.

    Raises:
        SettingsError: a field that does not exist, or twice the same, or one of the past alone.
    """
    before, after = FRAMES[frame]
    told = [name for name in command_fields if frame == "body" or name != "goal"]
    now, kept = (*before, *told, *after, *extra), tuple(history_fields) or before
    for name in now:
        if of_now(str(name))[1]:
            raise SettingsError(f"extra_fields names {name!r}: what is past is observed by history and history_fields")
    for name in kept:
        if not isinstance(name, str) or name not in now:
            hint = "images are of now alone" if str(name).startswith("image_") else "add it to extra_fields"
            hint = hint if str(name) in FIELDS or "image" in hint else nearest(str(name), now)
            raise SettingsError(f"history_fields names {name!r}, which is not observed: {hint}")
        if kept.count(name) > 1:
            raise SettingsError(f"history_fields names {name!r} twice: leave one out")
    sign = SINCE if changes else THEN
    return Layout((*now, *(f"{name}{sign}{steps}" for steps in history if steps for name in kept)), images, rig, wheels)


def wheel_names(wheels: int) -> str:
    """The axes of a number a wheel."""
    return f"wheels {', '.join(map(str, range(wheels)))}"


def _field(name: str, wheels: int) -> Field:
    """The field of this name, of now or the past, of a robot with so many wheels."""
    origin, steps = of_now(name)
    found = FIELDS[origin]
    if found.turns == "wheels" and wheels != 3:
        axes = found.axes.replace(wheel_names(3), wheel_names(wheels))
        found = replace(found, size=found.size // 3 * wheels, axes=axes)
    when = f"{STEP_MS * steps} ms"
    title = f"{found.title or origin.replace('_', ' ')}, {f'change in {when}' if is_change(name) else f'{when} ago'}"
    return replace(found, read=_not_sensed, title=title, leads=False) if steps else found


ESTIMATED = "estimated "
"""Before the name of a field that is an estimate in a row."""


def whole_row(layout: Layout, beside: Layout | None, estimates: Layout | None = None) -> dict[str, range]:
    """Field -> its numbers, of what the policy observes and, behind it in a row, what it estimates of what follows.

    That is what only the value function observes.
    """
    found: dict[str, range] = {}
    end = 0
    for prefix, part in (("", layout), (ESTIMATED, estimates), ("", beside)):
        if part is not None:
            found |= {f"{prefix}{name}": range(end + at.start, end + at.stop) for name, at in part.slices.items()}
            end += part.size
    return found


def _not_sensed(step: Step) -> Array:
    raise RuntimeError("images and what is past are kept elsewhere, not read from a step")
