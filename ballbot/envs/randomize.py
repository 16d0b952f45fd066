"""What differs from one real robot, and one real floor, to the next: masses, friction, motors, drawn for each episode.

    BallbotVectorEnv(64, randomize="mild")
    BallbotVectorEnv(64, ranges={"body_mass": (0.8, 1.2), "ground_friction": (0.4, 1.2)})

Each number is drawn evenly from its range, by itself, whenever an episode begins, or is given by who begins it::

    envs.reset(options={"randomized": {"body_mass": 1.2}})     # a number, or one a robot

``AXES`` says which there are; yours may be added::

    def load(row, parts, kg):
        row["body_mass"][parts.base] += kg

    AXES["load"] = Axis("Mass in the middle of the body, kg.", 0.0, Range(0, 5), ("body_mass",), load)

Sizes, which images and starts depend on, differ from robot to robot instead: ``vary``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ballbot.envs.checks import check_state_array
from ballbot.envs.model import Addresses, at_rest, num_wheels
from ballbot.envs.shell import shell_of
from ballbot.errors import SettingsError
from ballbot.settings import Range, check_span, nearest, values_in

Array = NDArray[np.float64]
Row = Mapping[str, NDArray[Any]]
"""Fields of one simulation's model, by MuJoCo's names, to be changed in place."""


@dataclass(frozen=True)
class Parts:
    """Where the parts of a robot are in its model."""

    base: int
    """The body with the joint base_free."""
    body: list[int]
    """Bodies that move as one with the base: itself, and the cameras' arms."""
    ball: int
    wheel_dofs: list[int]
    roller_dofs: list[int]
    wheel_geoms: list[int]
    """Of the wheels, and of rollers on them."""
    wheel_pairs: list[int]
    """Contacts that are spelled out, of a wheel and the ball."""
    soil: list[int]
    """The ball's geom and the ground's."""
    heavy: bool
    """Whether the base itself has most of the body's mass."""
    top: float
    """m above the base's origin, of the highest place of the body."""
    above: list[int]
    """Bodies that are not the ball, and how they stand to the base at rest:"""
    turns: Array
    """(above, 3, 3) from their axes to the base's."""
    places: Array
    """(above, 3) m, their origins from the ball's centre, along the base's axes."""

    @classmethod
    def of(cls, model: mujoco.MjModel) -> Parts:
        """Find them."""
        at = Addresses.of(model)
        base, ball = (int(model.joint(name).bodyid[0]) for name in ("base_free", "ball_free"))
        hubs = {int(model.joint(f"wheel_{i}").bodyid[0]) for i in range(num_wheels(model))}
        on = {body: _above(model, body) for body in range(1, model.nbody)}
        turning = {body for body, above in on.items() if hubs & above}
        body = [b for b, above in on.items() if base in above and b not in turning]
        rollers = [int(d) for d in range(model.nv) if model.dof_bodyid[d] in turning and d not in at.wheel_qvel]
        geoms = [g for g in range(model.ngeom) if model.geom_bodyid[g] in turning]
        pairs = [p for p in range(model.npair) if {int(model.pair_geom1[p]), int(model.pair_geom2[p])} & set(geoms)]
        soil = [int(model.geom("ball").id), at.ground_geom]
        heavy = bool(2 * model.body_mass[base] > model.body_mass[body].sum())
        top = float(shell_of(model)[2].max(initial=0.0))
        above = [b for b, on_what in on.items() if base in on_what]
        data = at_rest(model)
        turn = data.xmat[base].reshape(3, 3)
        turns = turn.T @ data.xmat[above].reshape(-1, 3, 3)
        places = (data.xpos[above] - data.xpos[ball]) @ turn
        return cls(
            base, body, ball, list(at.wheel_qvel), rollers, geoms, pairs, soil, heavy, top, above, turns, places
        )  # fmt: skip

    def balance(self, mass: Array, centres: Array) -> Array:
        """(2,) where gravity points, along the base's x and y, when all that is on the ball is right above it.

        Args:
            mass: (bodies,) kg.
            centres: (bodies, 3) m of the bodies' centres of mass, along their axes.
        """
        middle = mass[self.above] @ (self.places + np.einsum("bij,bj->bi", self.turns, centres[self.above]))
        return np.asarray(-middle[:2] / np.linalg.norm(middle))


LACKS = {
    "roller_dofs": "no rollers",
    "wheel_pairs": "wheels whose contacts with the ball are no <pair> in its file",
    "heavy": "most of its body's mass in bodies mounted on the one with base_free",
}
"""Parts -> what a robot without them has."""


def _above(model: mujoco.MjModel, body: int) -> set[int]:
    """A body, and all that it is mounted on."""
    found = set()
    while body:
        found.add(body)
        body = int(model.body_parentid[body])
    return found


@dataclass(frozen=True)
class Axis:
    """A number that may differ from episode to episode.

    Args:
        what: it is, for ``--help``.
        nominal: what it is otherwise, where nothing changes.
        limits: that it may have.
        fields: of the model, by MuJoCo's names, that it changes; none of what happens while the robot moves.
        change: makes it so: of one simulation's fields, of the parts of the robot, by the value.
        typical: how far it may well differ, for a network that is told it.
        needs: names of ``LACKS``, parts that must be there.
    """

    what: str
    nominal: float
    limits: Range
    fields: tuple[str, ...]
    change: Callable[[Row, Parts, float], None]
    typical: float = 0.2
    needs: tuple[str, ...] = ()


def _times(column: int | None = None, **parts: str) -> Callable[[Row, Parts, float], None]:
    """A change by a factor: of fields by name, those of these parts; of one column alone, or of all."""

    def change(row: Row, of: Parts, factor: float) -> None:
        for name, part in parts.items():
            row[name][getattr(of, part) if column is None else (getattr(of, part), column)] *= factor

    return change


def _shift(axis: int) -> Callable[[Row, Parts, float], None]:
    """The centre of mass of the body goes so far along an axis of the base."""

    def change(row: Row, of: Parts, metres: float) -> None:
        mass = row["body_mass"]
        row["body_ipos"][of.base, axis] += metres * mass[of.body].sum() / mass[of.base]

    return change


def _tip(axis: int) -> Callable[[Row, Parts, float], None]:
    """Gravity turns towards an axis of the world."""

    def change(row: Row, of: Parts, degrees: float) -> None:
        gravity = row["opt.gravity"]
        across = -gravity[2] * np.tan(np.radians(degrees))
        length = np.linalg.norm(gravity)
        gravity[axis] += across
        gravity *= length / np.linalg.norm(gravity)

    return change


def _put_on_top(row: Row, of: Parts, kg: float) -> None:
    """A point of this mass on the highest place of the body."""
    mass, place = row["body_mass"], row["body_ipos"]
    whole = mass[of.base] + kg
    arm = np.array([0.0, 0.0, of.top]) - place[of.base]
    row["body_inertia"][of.base] += mass[of.base] * kg / whole * (arm @ arm - arm**2)
    place[of.base] += kg / whole * arm
    mass[of.base] = whole


def _weaken(row: Row, of: Parts, factor: float) -> None:
    row["actuator_gear"][0, 0] *= factor


def _nothing(row: Row, of: Parts, value: float) -> None:
    """What acts while the robot moves: see ``Randomizer.forces``, ``slopes`` and ``driven``."""


def _motors(row: Row, of: Parts, factor: float) -> None:
    row["actuator_gear"][:, 0] *= factor


FACTOR = Range(0.1, 10)
OFFSET = Range(-0.1, 0.1)
DEGREES = Range(-10, 10)
AXES: dict[str, Axis] = {
    "body_mass": Axis(
        "Mass of the body, times what it is; its inertia likewise.", 1.0, FACTOR, ("body_mass", "body_inertia"),
        _times(body_mass="body", body_inertia="body"),
    ),
    "ball_mass": Axis(
        "Mass of the ball, times what it is; its inertia likewise.", 1.0, FACTOR, ("body_mass", "body_inertia"),
        _times(body_mass="ball", body_inertia="ball"),
    ),
    "body_inertia": Axis(
        "Inertia of the body about its centre of mass, times what it is.", 1.0, FACTOR, ("body_inertia",),
        _times(body_inertia="body"),
    ),
    "com_x": Axis(
        "Centre of mass of the body, m further along the base's x.", 0.0, OFFSET,
        ("body_mass", "body_ipos"), _shift(0), 0.01, ("heavy",),
    ),
    "com_y": Axis(
        "Centre of mass of the body, m further along the base's y.", 0.0, OFFSET,
        ("body_mass", "body_ipos"), _shift(1), 0.01, ("heavy",),
    ),
    "com_z": Axis(
        "Centre of mass of the body, m higher.", 0.0, OFFSET, ("body_mass", "body_ipos"), _shift(2), 0.01, ("heavy",),
    ),
    "ground_friction": Axis(
        "Friction of ball and ground, times what it is.", 1.0, FACTOR, ("geom_friction",),
        _times(0, geom_friction="soil"), needs=("wheel_pairs",),
    ),
    "wheel_friction": Axis(
        "Friction of wheels and ball, times what it is.", 1.0, FACTOR, ("pair_friction", "geom_friction"),
        _times(pair_friction="wheel_pairs", geom_friction="wheel_geoms"), needs=("wheel_pairs",),
    ),
    "contact_time": Axis(
        "Time in which contacts come back, times what it is: more is softer.", 1.0, Range(0.25, 4),
        ("geom_solref", "pair_solref"), _times(0, geom_solref="soil", pair_solref="wheel_pairs"),
        needs=("wheel_pairs",),
    ),
    "motor_strength": Axis(
        "Torque that motors give of what is asked, and at most: times what it is.", 1.0, FACTOR, ("actuator_gear",),
        _motors,
    ),
    "wheel_damping": Axis(
        "Torque that a wheel loses by each rad/s, times what it is.", 1.0, FACTOR, ("dof_damping",),
        _times(dof_damping="wheel_dofs"),
    ),
    "wheel_armature": Axis(
        "Inertia of a motor's rotor, seen from its wheel, times what it is.", 1.0, FACTOR, ("dof_armature",),
        _times(dof_armature="wheel_dofs"),
    ),
    "roller_damping": Axis(
        "Torque that a roller loses by each rad/s, times what it is.", 1.0, Range(0.01, 100), ("dof_damping",),
        _times(dof_damping="roller_dofs"), 1.0, ("roller_dofs",),
    ),
    "weak_wheel": Axis(
        "Torque that the motor of the first wheel gives, times what it is.", 1.0, Range(0, 1), ("actuator_gear",),
        _weaken,
    ),
    "payload": Axis(
        "Mass put on top of the body, kg.", 0.0, Range(0, 100), ("body_mass", "body_ipos", "body_inertia"),
        _put_on_top, 0.5,
    ),
    "wind_x": Axis("Steady wind on the body, N along the world's x.", 0.0, Range(-100, 100), (), _nothing, 1.0),
    "wind_y": Axis("Steady wind on the body, N along the world's y.", 0.0, Range(-100, 100), (), _nothing, 1.0),
    "push_x": Axis("Pushes at the body's middle, N s along the world's x.", 0.0, Range(-100, 100), (), _nothing),
    "push_y": Axis("Pushes at the body's middle, N s along the world's y.", 0.0, Range(-100, 100), (), _nothing),
    "push_every": Axis("Time to the first push, and from each to the next, s.", 2.0, Range(0.2, 1000), (), _nothing),
    "gravity_x": Axis(
        "All the ground falls that way, degrees towards the world's x: gravity leans, and robots are told so.", 0.0,
        DEGREES, ("opt.gravity",), _tip(0), 1.0,
    ),
    "gravity_y": Axis(
        "The same towards the world's y.", 0.0, DEGREES, ("opt.gravity",), _tip(1), 1.0,
    ),
    "motor_lag": Axis(
        "Time constant in which a motor's torque follows what is asked, ms.", 0.0, Range(0, 200), (), _nothing, 10.0,
    ),
    "dead_zone": Axis(
        "Of a motor's full torque, what is lost of every torque that is asked: by play, or by friction at rest.", 0.0,
        Range(0, 0.9), (), _nothing, 0.02,
    ),
    "held": Axis("Time for which hands hold the robot up before they let go, s.", 0.0, Range(0, 100), (), _nothing),
    "slope_x": Axis(
        "A slope that the robot comes upon: how far the ground falls from then on, degrees towards the world's x.",
        0.0, DEGREES, ("opt.gravity",), _nothing, 1.0,
    ),
    "slope_y": Axis(
        "The same towards the world's y.", 0.0, DEGREES, ("opt.gravity",), _nothing, 1.0,
    ),
    "slope_after": Axis("Time until that, s.", 2.0, Range(0, 1000), (), _nothing),
    "torque_noise": Axis(
        "Of a motor's full torque, the standard deviation of noise on what is asked, before lag and dead zone.",
        0.0, Range(0, 1), (), _nothing, 0.05,
    ),
}  # fmt: skip
"""Name -> what may differ.  Yours may be added."""
PUSH_TIME = 0.1
"""s that a push lasts."""
GRIP, UPRIGHT, STILL = 20.0, 10.0, 1.0
"""Of hands that hold, per kg of the body: N per m/s, N m per rad of lean, N m per rad/s."""
FORCES = ("wind_x", "wind_y", "push_x", "push_y", "held")
"""Axes that are forces on the body."""
SLOPES = ("slope_x", "slope_y")
GRAVITY = "opt.gravity"
DRIVES = ("motor_lag", "dead_zone", "torque_noise")
TOLD = tuple(name for name in AXES if name != "torque_noise")
"""Those that the field "randomized" tells, in this order; with others, value functions of before would not fit."""

RANDOMIZED: dict[str, dict[str, tuple[float, float]]] = {
    "none": {},
    "mild": {
        "body_mass": (0.9, 1.1), "ball_mass": (0.9, 1.1), "body_inertia": (0.9, 1.1),
        "com_x": (-0.005, 0.005), "com_y": (-0.005, 0.005), "com_z": (-0.01, 0.01),
        "ground_friction": (0.7, 1.1), "wheel_friction": (0.8, 1.1), "contact_time": (0.8, 1.25),
        "motor_strength": (0.9, 1.1), "wheel_damping": (0.9, 1.1), "wheel_armature": (0.8, 1.2),
    },
    "strong": {
        "body_mass": (0.8, 1.2), "ball_mass": (0.8, 1.2), "body_inertia": (0.8, 1.2),
        "com_x": (-0.02, 0.02), "com_y": (-0.02, 0.02), "com_z": (-0.02, 0.02),
        "ground_friction": (0.4, 1.2), "wheel_friction": (0.6, 1.2), "contact_time": (0.6, 1.6),
        "motor_strength": (0.8, 1.2), "wheel_damping": (0.8, 1.2), "wheel_armature": (0.5, 1.5),
        "push_x": (-1.1, 1.1), "push_y": (-1.1, 1.1), "push_every": (1.0, 4.0),
    },
}  # fmt: skip
"""Name -> ranges.  Yours may be added."""


def check_ranges(ranges: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Ranges by name, as plain numbers, but those in which nothing changes.

    Raises:
        SettingsError: no such axis, no range, or values that it cannot have.
    """
    found = {}
    for name, given in ranges.items():
        if name not in AXES:
            raise SettingsError(f"randomize has no axis {name!r}: {nearest(str(name), AXES)}")
        found[name] = check_span(f"randomize.{name}", given, float, "(0.9, 1.1)")
        for value in given:
            if not (limits := AXES[name].limits).holds(value):
                raise SettingsError(f"randomize.{name} must lie {limits}, got {value!r}")
    changing = {name: span for name, span in found.items() if span != (AXES[name].nominal, AXES[name].nominal)}
    return {name: changing[name] for name in AXES if name in changing}  # the order in which values are drawn and kept


def ranges_of(name: str) -> dict[str, tuple[float, float]]:
    """The ranges of this name, or in this file.

    Args:
        name: one of ``RANDOMIZED``, or a .json file of ranges by name.

    Raises:
        SettingsError: there is none of this name, or the file cannot be used.
    """
    if not str(name).endswith(".json"):
        if name not in RANDOMIZED:
            raise SettingsError(f"randomize={name!r} is unknown: {nearest(str(name), RANDOMIZED)}, or a .json file")
        return dict(RANDOMIZED[name])
    return check_ranges(values_in("randomize", name, 'ranges by name, such as {"body_mass": [0.9, 1.1]}'))


class Randomizer:
    """Models of a batch's simulations that differ from episode to episode.

    Args:
        ranges: of ``check_ranges``.
        models: of each robot of the family, on the ground.
        batch: of the first, whose simulations get fields of their own.

    Raises:
        SettingsError: a robot has no such part.
    """

    def __init__(
        self, ranges: Mapping[str, tuple[float, float]], models: Sequence[mujoco.MjModel], batch: Batch
    ) -> None:
        self.names = tuple(ranges)
        self._axes = [AXES[name] for name in ranges]
        self._low, self._high = np.array(list(ranges.values())).T
        self._parts = Parts.of(models[0])
        for name, axis in zip(self.names, self._axes, strict=True):
            for part in axis.needs:
                if not getattr(self._parts, part):
                    raise SettingsError(f"randomize.{name}: this robot has {LACKS[part]}, leave it out")
        names = sorted({field for axis in self._axes for field in axis.fields})
        self.pushes, self.slides, self.drags = (bool(set(ranges) & set(some)) for some in (FORCES, SLOPES, DRIVES))
        """Whether forces act while the robots move; slopes come; motors give other torques than they are asked for."""
        self.leans = GRAVITY in names
        """Whether gravity may point elsewhere than down."""
        self._gravity = np.zeros((batch.nsim, 2, 3))
        """(num, 2, 3) m/s^2 at first, and on the slope that comes."""
        self._weight = np.zeros(batch.nsim)
        """(num,) kg of the bodies, as they are made."""
        self._weights = [float(model.body_mass[self._parts.body].sum()) for model in models]
        self._rows = {name: batch.expand(name) for name in names}
        self._nominal = [{name: _field(model, name) for name in names} for model in models]
        self._batch = batch
        self.strength = np.ones((batch.nsim, models[0].nu))
        """(num, wheels) of each motor, times what it is otherwise."""
        if names:
            batch.set_const()
        self.values = np.repeat([[axis.nominal] for axis in self._axes], batch.nsim, axis=1).astype(float)
        """(axes, num) what each simulation has."""

    def draw(self, stream: np.random.Generator, share: float = 1.0) -> Array:
        """(axes,) values for an episode, of ranges that reach from the nominal values so much less far, from 0 to 1."""
        drawn = stream.uniform(self._low, self._high)
        if share == 1:
            return drawn
        nominal = np.array([axis.nominal for axis in self._axes])
        return np.asarray(nominal + share * (drawn - nominal))

    def _of(self, name: str) -> Array:
        """(num,) what each simulation has on an axis, among the ranges or not."""
        if name in self.names:
            return self.values[self.names.index(name)]
        return np.full(self.values.shape[1], AXES[name].nominal)

    def check_given(self, given: Any) -> Array:
        """(axes, num) values that somebody gives by name, NaN of what is to be drawn.

        Args:
            given: name -> a number, or (num,) of them, for axes that differ here.

        Raises:
            SettingsError: another form, an axis that does not differ, or values that it cannot have.
        """
        if not isinstance(given, Mapping):
            raise SettingsError(f"randomized={given!r} must be values by name, such as {{'body_mass': 1.1}}")
        found = np.full(self.values.shape, np.nan)
        for name, value in given.items():
            if name not in AXES:
                raise SettingsError(f"randomized has no axis {name!r}: {nearest(str(name), AXES)}")
            if name not in self.names:
                raise SettingsError(
                    f"randomized[{name!r}] was given, and in this world it is always {AXES[name].nominal:g}: give it a "
                    f"range, {name} among ranges, when the world is made"
                )
            numbers = np.asarray(value)
            if numbers.shape not in ((), found.shape[1:]) or numbers.dtype.kind not in "iuf":
                raise SettingsError(
                    f"randomized[{name!r}] must be a number or {found.shape[1:]} numbers, got {numbers.dtype} "
                    f"{numbers.shape}"
                )
            for number in numbers.ravel().tolist():
                if not (limits := AXES[name].limits).holds(number):
                    raise SettingsError(f"randomized[{name!r}] must lie {limits}, got {number!r}")
            found[self.names.index(name)] = numbers
        return found

    def forces(self, steps: NDArray[np.int64], dt: float, rotation: Array, velocity: Array, gyro: Array) -> Array:
        """What acts on the bodies, so many (num,) steps of dt s into the episodes.

        Args:
            steps: since the episodes began.
            dt: s.
            rotation: (3, 3, num) from the base to the world.
            velocity: (3, num) m/s of the base.
            gyro: (3, num) rad/s about the base's axes.

        Returns:
            (6, num) force in N at the centre of mass and torque in N m, along the world's axes.
        """
        every = np.round(self._of("push_every") / dt)
        pushed = (steps >= every) & (steps % every < round(PUSH_TIME / dt))
        found = np.zeros((6, len(steps)))
        for row, axis in enumerate("xy"):
            found[row] = self._of(f"wind_{axis}") + pushed * self._of(f"push_{axis}") / PUSH_TIME
        hands = (steps < np.round(self._of("held") / dt)).astype(np.float64) * self._weight
        if hands.any():
            found[:2] -= GRIP * hands * velocity[:2]
            turning = np.einsum("ijn,jn->in", rotation, gyro)
            lean = np.stack([-rotation[1, 2], rotation[0, 2]])  # about the world's x and y
            found[3:5] -= hands * (UPRIGHT * lean + STILL * turning[:2])
        return found

    def slopes(self, steps: NDArray[np.int64], dt: float) -> None:
        """Let those come that robots come upon, so many (num,) steps of dt s into the episodes."""
        there = steps >= np.round(self._of("slope_after") / dt)
        self._rows[GRAVITY][:] = np.where(there[:, None], self._gravity[:, 1], self._gravity[:, 0])

    @property
    def level(self) -> Array:
        """(4, num) unit quaternions, w first, that turn the world until gravity points down."""
        x, y, z = np.asarray(self._rows[GRAVITY], np.float64).T
        found = np.stack([np.sqrt(x * x + y * y + z * z) - z, -y, x, np.zeros_like(z)])
        return np.asarray(found / np.sqrt((found**2).sum(axis=0)))

    def driven(self, asked: Array, last: Array, full: Any, dt: float, noise: Array | None = None) -> Array:
        """(num, wheels) N m that motors of ``full`` N m give, asked for ``asked``, dt s after they gave ``last``.

        Args:
            asked: (num, wheels) N m.
            last: likewise.
            full: N m, a number or (num, 1).
            dt: s.
            noise: (num, wheels) numbers of a normal distribution; None: none is among what differs.
        """
        if noise is not None:
            asked = np.clip(asked + full * self._of("torque_noise")[:, None] * noise, -full, full)
        lost = full * self._of("dead_zone")[:, None]
        share = dt / (dt + self._of("motor_lag")[:, None] / 1000)
        return np.asarray(last + share * (np.sign(asked) * np.maximum(np.abs(asked) - lost, 0.0) - last))

    def put(self, sim: int, robot: int, values: Array) -> None:
        """Give a simulation's robot these (axes,) values."""
        row = self.fields(sim)
        for name, numbers in self._nominal[robot].items():
            row[name][...] = numbers
        for axis, value in zip(self._axes, values, strict=True):
            axis.change(row, self._parts, float(value))
        if "actuator_gear" in row:
            self.strength[sim] = row["actuator_gear"][:, 0] / self._nominal[robot]["actuator_gear"][:, 0]
        if row:
            self._batch.set_const([sim])
        self.values[:, sim] = values
        self._weight[sim] = self._weights[robot]
        if self.slides:
            later = {GRAVITY: row[GRAVITY].copy()}
            for along, name in enumerate(SLOPES):
                _tip(along)(later, self._parts, float(self._of(name)[sim]))
            self._gravity[sim] = row[GRAVITY], later[GRAVITY]

    def fields(self, sim: int) -> dict[str, NDArray[Any]]:
        """Of a simulation's model, those that differ."""
        return {name: rows[sim] for name, rows in self._rows.items()}

    @property
    def by_name(self) -> dict[str, Array]:
        """(num,) what each simulation has."""
        return dict(zip(self.names, self.values.copy(), strict=True))

    def check_state(self, state: Any) -> Array:
        """(axes, num) values of a saved state; ValueError if they are damaged."""
        found: Array = check_state_array(state, "randomized", self.values)
        for name, axis, values in zip(self.names, self._axes, found, strict=True):
            if not all(map(axis.limits.holds, values.tolist())):
                raise ValueError(f"state 'randomized' has values of {name} that lie not {axis.limits}: it is damaged")
        return found

    def told(self) -> Array:
        """(len(TOLD), num) how far each value is from what it is otherwise, about 1 where that is much."""
        found = np.zeros((len(TOLD), self.values.shape[1]))
        for name, axis, values in zip(self.names, self._axes, self.values, strict=True):
            if name in TOLD:
                found[TOLD.index(name)] = (values - axis.nominal) / axis.typical
        return found


def _field(model: mujoco.MjModel, name: str) -> NDArray[Any]:
    """Of a model, by the name that a batch expands it by."""
    owner, attribute = (model.opt, name[4:]) if name.startswith("opt.") else (model, name)
    return np.array(getattr(owner, attribute))
