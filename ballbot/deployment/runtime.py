"""Drive a robot with an exported policy.  Needs NumPy and onnxruntime alone: copy this one file to the robot.

    controller = Controller("policy.onnx")
    every 2 ms:       torques = controller.act(Sensors(...))
    with each image:  controller.see(depth)                    # policies that see; at the rate of their training

What the policy is told (a goal, a velocity, a place, a path) is part of ``Sensors``.  ``READERS`` make the fields of
its observation; those of your own fields are handed in: ``Controller("policy.onnx", readers={"height": height})``.

``experiments/export_policy.py`` writes the graphs; docs/deployment.md is the contract: units, axes, rates, limits.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

WHEEL_SPEED_SCALE = 10.0
"""rad/s per unit of observation."""
CLIP = 2.0
"""Largest angular velocity, velocity and scaled wheel speed in observations along the world's axes."""
POINT_RANGE = 2.0
"""m.  What is farther away is observed as far away as this."""
NEEDED = {
    "control": (
        "camera",
        "frame",
        "goal",
        "input",
        "longest_hold",
        "lost_after",
        "period",
        "tilt_limit_deg",
    ),
    "camera": ("encoder", "input", "output"),
}
"""What a graph must say of itself."""
PLAUSIBLE = {
    "orientation": (4, 1.1),
    "angular_velocity": (3, 100.0),
    "velocity": (3, 20.0),
    "wheel_speeds": (0, 1000.0),
    "goal": (2, 1.1),
    "position": (2, 1e5),
}
"""Size of each sensor's value, 0: as many as the robot has wheels, and the largest number, in its unit, that is no
fault."""
LARGEST_COMMAND = 1e5
"""In its unit: a larger number is a fault.  Velocities beyond those of the training are shortened to them."""
NEEDS_POSITION = ("station", "target", "next_target")
"""Fields that cannot be told without knowing where the robot is."""
FIRST_CONTRACTS = {
    "body": ("gravity", "gyro", "velocity", "goal", "wheel_speeds", "last_action"),
    "world": ("orientation", "clipped_gyro", "world_velocity", "clipped_wheel_speeds", "last_action"),
}
"""Frame -> fields of the observation, where a graph of version 0.1 does not name them."""


@dataclass
class Sensors:
    """What the robot measures at one time."""

    orientation: Floats
    """(4,) unit quaternion, w first: base to world, whose z is up."""
    angular_velocity: Floats
    """(3,) rad/s, of the base, along its own axes (a gyroscope's)."""
    velocity: Floats | None
    """(3,) m/s, of the base's origin, along the world's axes; None for policies that know it by wheels and gyroscope,
    ``velocity`` in the contract."""
    wheel_speeds: Floats
    """(wheels,) rad/s, about the wheels' axles, in the order of the torques."""
    goal: Floats | None = None
    """(2,) unit vector of the direction of travel, along the world's x and y; for policies that are told a goal."""
    command: Floats | None = None
    """What to do, for the others: (3,) m/s along the heading, m/s to its left and rad/s about the vertical; (2,) a
    place x, y or (k, 2) the points of a path, m, in the world."""
    position: Floats | None = None
    """(2,) x, y of the base's origin in the world, m; for policies that drive to places or keep their place."""

    def facing(self, goal: Floats) -> Sensors:
        """The same, in a world turned about the vertical until the goal is this one."""
        assert self.goal is not None
        (x, y), (gx, gy) = self.goal, goal
        turn = np.arctan2(x * gy - y * gx, x * gx + y * gy)
        half, (c, s) = turn / 2, (np.cos(turn), np.sin(turn))
        w, i, j, k = self.orientation
        a, b = np.cos(half), np.sin(half)
        velocity = self.velocity
        if velocity is not None:
            vx, vy, vz = velocity
            velocity = np.array([c * vx - s * vy, s * vx + c * vy, vz])
        return replace(
            self,
            orientation=np.array([a * w - b * k, a * i - b * j, a * j + b * i, a * k + b * w]),
            velocity=velocity,
            goal=np.asarray(goal, np.float64),
        )


@dataclass(frozen=True)
class Told:
    """What the robot is to do now, and since when."""

    command: Floats
    """As given; see ``Sensors``."""
    steps: int = 0
    """Since it was told."""
    station: Floats | None = None
    """(2,) m, where it came to rest when it was told to stand."""
    index: int = 0
    """Of the point of the path that it drives to."""

    def point(self, ahead: int = 0) -> Floats:
        """(2,) m: the place to drive to, or one so many points later."""
        points = self.command.reshape(-1, 2)
        return np.asarray(points[min(self.index + ahead, len(points) - 1)])


class Controller:
    """An exported policy and what it must remember from step to step.

    Args:
        path: the control graph; a policy that sees has its camera graph beside it.
        num_threads: of onnxruntime; networks this small need one.
        readers: by name, what makes the fields of an observation that are your own, or others than those of
            ``READERS``: functions of sensors (a subclass of ``Sensors`` may hold more) and controller.
        robot: name of the robot that is driven; policies of others are refused.  None: any.
        command: kind of command that is given, likewise: "goal", "velocity", "point" or "path".
        action: what the motors take, likewise: "torque", N m, "wheel_speed", rad/s, or "wheel_position", rad to go on.

    Raises:
        ValueError: the file is no exported policy or damaged, or of another robot, command or action, or its camera
            graph is missing or another one; or nothing reads one of its fields.
    """

    def __init__(
        self,
        path: str | Path,
        num_threads: int = 1,
        readers: Mapping[str, Reader] | None = None,
        *,
        robot: str | None = None,
        command: str | None = None,
        action: str = "torque",
    ) -> None:
        path = Path(path)
        self.contract: dict[str, Any]
        """What the graph says of itself: units, order, rates, limits."""
        self.control, self.contract = _load(path, "control", num_threads)
        camera = self.contract["camera"]
        self.camera: onnxruntime.InferenceSession | None = None
        if camera is not None:
            self.camera, theirs = _load(path.with_name(camera["graph"]), "camera", num_threads)
            if theirs["encoder"] != camera["encoder"]:
                raise ValueError(
                    f"{path.with_name(camera['graph'])} holds the encoder {theirs['encoder'][:16]}, {path} was trained "
                    f"with {camera['encoder'][:16]}: export both together"
                )
        memory = self.contract.get("memory")
        self.memory_shape: tuple[int, ...] | None = None if memory is None else tuple(memory["shape"][1:])
        """Of what the policy remembers; None if it remembers nothing."""
        self.kind = str(self.contract.get("command", {}).get("kind", "goal"))
        """Of command."""
        theirs = self.contract.get("robot", {}).get("name", "")
        if robot is not None and robot != theirs:
            raise ValueError(f"{path} was trained for the robot {theirs!r}, this program drives {robot!r}")
        if command is not None and command != self.kind:
            raise ValueError(
                f"{path} is told a {self.kind}, this program gives a {command}: export a policy that was trained with "
                f"--command {command}"
            )
        theirs = self.contract.get("action", "torque")
        if action != theirs:
            raise ValueError(
                f"{path} asks motors for {theirs}, this program gives them {action}: motors that take the other, and "
                f"Controller(..., action={theirs!r}), or a policy that was trained with --action {action}"
            )
        self.per_action = float(self.contract[f"{action}_per_action"])
        """N m, rad/s, or rad to go on, of an action of 1."""
        self.fields = _fields(self.contract)
        """Name -> size of the fields of an observation, in order."""
        known = {**READERS, **(readers or {})}
        self._past_of = {name: past for name in self.fields if name not in known and (past := _past_of(name))}
        """Field of the past -> field that it is of, how many steps ago, and whether it is what has changed since."""
        unread = [self._past_of[name][0] if name in self._past_of else name for name in self.fields]
        if missing := [name for name in unread if name not in known and not name.startswith("image_")]:
            raise ValueError(
                f"{path} observes {missing[0]!r}, which this controller cannot read: hand in a function of sensors and "
                f"controller, Controller(..., readers={{{missing[0]!r}: ...}})"
            )
        self._readers = known
        told = ["goal"] if self.kind == "goal" else ["command"]
        known_so = ("velocity",) if self.contract.get("velocity") else ()
        self.needs = [name for name in PLAUSIBLE if name not in ("goal", "position", *known_so)] + told
        """Sensors without which it does not drive."""
        if any(name in self.fields and name not in (readers or {}) for name in NEEDS_POSITION):
            self.needs.append("position")
        self.wheels = int(self.contract.get("output", {}).get("size", 3))
        """How many."""
        self._warm_up()
        self.reset()

    def reset(self) -> None:
        """Forget the past, a fall too: before the robot drives again."""
        self.status = "ok"
        """"ok", "no image", "stale image", "no command", "no position", "sensors held", "sensors lost", "fallen" or
        "policy failed"; see docs/deployment.md."""
        self.last_action = np.zeros(self.wheels, np.float32)
        """Of the step before."""
        self.rotation: Floats = np.eye(3)
        """Base to world, of what is observed."""
        self.told: Told | None = None
        """What the robot is to do, of what is observed; None for a goal."""
        self._told_before: Told | None = None
        self._past: deque[dict[str, Floats]] = deque(maxlen=max((k for _, k, _ in self._past_of.values()), default=0))
        self._now: dict[str, Floats] = {}  # what was observed, by field
        self._last_good: Sensors | None = None
        self._held = 0
        self._memory: NDArray[np.float32] | None = None  # of an episode that begins
        self._off = ""  # the status in which the robot stays until reset()
        self._embeddings: NDArray[np.float32] | None = None
        self._age = 0.0
        self._steady: Floats | None = None  # m/s of the centre of percussion
        self._balance: Floats = np.zeros(2)  # gravity along the base's x and y where it balances, of a unit vector

    @property
    def stopped(self) -> bool:
        """Whether torques stay zero until ``reset()``: after a fall, or without sensors for long."""
        return bool(self._off)

    def _warm_up(self) -> None:
        """Run the graphs once: the first run takes longer, and a damaged policy shows before the robot moves."""
        size = sum(self.fields.values())
        outputs = [self.decide(np.zeros((1, size), np.float32))[0]]
        if self.camera is not None:
            shape = tuple(self.contract["camera"]["shape"])
            outputs += self.camera.run(None, {"depth": np.zeros((shape[0], 1, *shape[1:]), np.float32)})
        if not all(np.isfinite(x).all() for x in outputs):
            raise ValueError("this policy gives numbers that are not finite: export another checkpoint")

    def decide(
        self, observation: NDArray[np.float32], memory: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """What the graph alone makes of observations (n, size): actions (n, wheels), and what it remembers then.

        Args:
            observation: of n robots.
            memory: what it remembered before, (n, *memory_shape), 0 where an episode begins; None: it begins for all.
        """
        feed = {"observation": observation}
        if self.memory_shape is not None:
            new = np.zeros((len(observation), *self.memory_shape), np.float32)
            feed["memory"] = new if memory is None else memory
        action, *after = self.control.run(None, feed)
        return action, after[0] if after else None

    def see(self, depth: Floats, age: float = 0.0) -> None:
        """Take new images, (cameras, height, width) depth along the optical axis in m.

        What is too far, or NaN (no echo), counts as the largest depth.

        Args:
            depth: the images.
            age: s since they were taken.

        Raises:
            ValueError: another shape, no such age, or the policy does not see.
        """
        if self.camera is None:
            raise ValueError("this policy was trained without cameras: do not call see()")
        camera = self.contract["camera"]
        images = np.asarray(depth, np.float32)
        if images.shape != tuple(camera["shape"]):
            raise ValueError(f"images have shape {images.shape}, this policy takes {tuple(camera['shape'])}")
        if not 0 <= age < np.inf:
            raise ValueError(f"age={age!r} must be the s since the images were taken, 0 or more")
        images = np.clip(np.nan_to_num(images, nan=camera["max_depth"]), 0.0, camera["max_depth"])
        self._embeddings = self.camera.run(None, {"depth": images[:, None]})[0].reshape(-1)
        self._age = float(age)

    def act(self, sensors: Sensors) -> NDArray[np.float64]:
        """Torques, (wheels,) N m, or wheel speeds, rad/s, for the next 2 ms; zeros when it is not safe to drive.

        See ``status`` for that.
        """
        good = self._check(sensors)
        action = np.zeros(self.wheels, np.float32)
        if good is not None:
            observation = self.observe(good)
            actions, memory = self.decide(observation[None], self._memory)
            action, self._told_before = actions[0], self.told
            sound = [observation, action] if memory is None else [observation, action, memory]
            if all(np.isfinite(x).all() for x in sound):
                self._memory = memory
                self._past.append(self._now)
            else:
                self.status, action, good = "policy failed", np.zeros(self.wheels, np.float32), None
        if good is None and self._past:  # time passes, and nothing better is known
            self._past.append(self._past[-1])
        self.last_action = action
        self._age += self.contract["period"]  # of the images, whether the robot drives or not
        return np.asarray(self.per_action * action.astype(np.float64))

    def observe(self, sensors: Sensors) -> NDArray[np.float32]:
        """The policy's observation: these sensors, what it is told, the last action, the past, and the latest images.

        Steps of the past are calls of ``act`` since the robot began to drive; before, all was as it was then.

        Raises:
            ValueError: one of the readers that were handed in does not give as many numbers as its field has.
        """
        if self.contract["frame"] == "world" and self.kind == "goal":  # such a policy knows one goal only
            sensors = sensors.facing(self.contract["goal"])
        self.rotation = rotation_matrix(sensors.orientation)
        if (how := self.contract.get("velocity")) is not None:
            along = self._velocity(how, sensors)
            if how["settle"]:
                level = levelled(sensors.orientation, self._balance)
                sensors, self.rotation = replace(sensors, orientation=level), rotation_matrix(level)
            sensors = replace(sensors, velocity=self.rotation @ along)
        self.told = None if self.kind == "goal" else self._follow(sensors)
        self._now, images = {}, 0
        for name, size in self.fields.items():
            if name in self._past_of:
                origin, steps, change = self._past_of[name]
                part = self._past[-min(steps, len(self._past))][origin] if self._past else self._now[origin]
                part = self._now[origin].astype(np.float32) - part.astype(np.float32) if change else part
            elif name in self._readers:
                part = np.array(self._readers[name](sensors, self)).reshape(-1)  # to keep
            else:
                assert self._embeddings is not None  # _check has seen to it
                part, images = self._embeddings[images : images + size], images + size
            if part.shape != (size,):
                raise ValueError(f"the reader of {name!r} gave {part.size} numbers, the policy takes {size}")
            self._now[name] = part
        return np.concatenate(list(self._now.values())).astype(np.float32)

    def _velocity(self, how: Mapping[str, Any], sensors: Sensors) -> Floats:
        """(3,) m/s of the base along its own axes, by wheels and gyroscope, as the contract says; a step later."""
        x, y, z = np.asarray(sensors.angular_velocity, np.float64)
        leaning = np.array([y, -x])
        found = np.asarray(how["turn"]) @ np.asarray(sensors.wheel_speeds, np.float64)
        found = found + (how["arm"] + how["percussion"]) * leaning
        down = -self.rotation[2, :2]
        if self._steady is None:
            self._steady = found
            self._balance = down if how["settle"] else np.zeros(2)
        else:
            turning = z * np.array([self._steady[1], -self._steady[0]])
            expected = self._steady + self.contract["period"] * (turning + how["pull"] * (down - self._balance))
            missing = found - expected
            self._steady = expected + how["share"] * missing
            self._balance = np.clip(self._balance - how["settle"] * missing, -how["most"], how["most"])
        return np.array([*(self._steady - how["percussion"] * leaning), 0.0])

    def image_age(self) -> float:
        """S since the latest images; at most as much as in training."""
        return float(min(self._age, self.contract["camera"]["longest_age"]))

    def _follow(self, sensors: Sensors) -> Told:
        """What the robot is told now, and how far it has come with it."""
        told, how = self._told_before, self.contract["command"]
        assert sensors.command is not None
        command = np.asarray(sensors.command, np.float64).reshape(-1)
        position = np.asarray(sensors.position, np.float64) if "position" in self.needs else None
        if told is None or not np.array_equal(told.command, command):
            return Told(command, station=position)
        steps, index, station = told.steps + 1, told.index, told.station
        if "radius" in how and position is not None and np.hypot(*(told.point() - position)) <= how["radius"]:
            index = min(index + 1, len(command) // 2 - 1)
        if "settling" in how:
            stands = np.hypot(*command[:2]) <= how["still"] and steps * self.contract["period"] > how["settling"]
            station = station if stands else position
        return Told(command, steps, station, index)

    def _check(self, sensors: Sensors) -> Sensors | None:
        """Sensors to act on, or None; sets ``status``."""
        read = {name: self._read(sensors, name) for name in self.needs}
        for name in ("orientation", "goal"):
            if (value := read.get(name)) is not None and abs(np.linalg.norm(value) - 1.0) > 1e-2:
                read[name] = None
        sound = all(value is not None for value in read.values())
        if sound:  # copies: the caller may use his buffers again
            values: dict[str, Any] = {"velocity": None, **read}
            self._last_good = replace(sensors, **values) if isinstance(sensors, Sensors) else Sensors(**values)
            self._held = 0
        else:
            self._held += 1
        # Until reset(): who picks the robot up does not want it to drive.  It may fall without being seen to, too.
        if (orientation := read["orientation"]) is not None and self._tilts_too_far(orientation):
            self._off = "fallen"
        elif self._last_good is not None and self._held * self.contract["period"] > self.contract["lost_after"]:
            self._off = self._off or "sensors lost"
        lost = self._last_good is None or self._held > self.contract["longest_hold"]
        if self._off or lost:
            never = [name for name in ("command", "position") if name in read and getattr(sensors, name, None) is None]
            alone = self._last_good is None and sum(value is None for value in read.values()) == len(never)
            self.status = self._off or (f"no {never[0]}" if never and alone else "sensors lost")
            return None
        camera = self.contract["camera"]
        if camera is not None and self._embeddings is None:
            self.status = "no image"
            return None
        if not sound:
            self.status = "sensors held"
        elif camera is not None and self._age > camera["stale_after"]:
            self.status = "stale image"
        else:
            self.status = "ok"
        return self._last_good

    def _read(self, sensors: Sensors, name: str) -> Floats | None:
        """A copy of a sensor's value, or None where it is none."""
        value: Any = getattr(sensors, name, None)
        if name != "command":
            size, most = PLAUSIBLE[name]
            return _numbers(value, size or self.wheels, most)
        how, limit = self.contract["command"], LARGEST_COMMAND
        if "points" in how:  # of a path; it may have fewer
            try:
                size = min(np.size(value), int(how["size"]))
                value = np.reshape(value, -1)
            except Exception:  # whatever a foreign type raises
                return None
            return _numbers(value, size, limit) if size >= 2 and size % 2 == 0 else None
        return _numbers(value, int(how["size"]), limit)

    def _tilts_too_far(self, orientation: Floats) -> bool:
        _, x, y, _ = orientation
        return bool(1 - 2 * (x * x + y * y) < np.cos(np.radians(self.contract["tilt_limit_deg"])))


class Log:
    """What the robot does, a line a control step, for experiments/fit_robot.py; docs/your_robot.md has the columns.

        with Log("drive.csv") as log:
            every 2 ms:  torques = controller.act(sensors); log.write(time, controller.last_action, sensors)

    Args:
        path: of the file, .csv; one that exists is replaced.
        wheels: how many.
    """

    def __init__(self, path: str | Path, wheels: int = 3) -> None:
        each = range(wheels)
        names = ["time_s", *(f"action_{i}" for i in each), *(f"quat_{axis}" for axis in "wxyz")]
        names += [*(f"gyro_{axis}_rad_s" for axis in "xyz"), *(f"wheel_{i}_rad_s" for i in each)]
        self._size = len(names)
        self._file = open(path, "w", encoding="ascii", buffering=1 << 20)  # noqa: SIM115 (closed by close)
        self._file.write(",".join(names) + "\n")

    def write(self, time: float, action: Floats, sensors: Sensors) -> None:
        """Add a line: s, the (wheels,) action from -1 to 1, and what the robot knew as it chose that.

        Raises:
            ValueError: another number of values; nothing was written.
        """
        told = (action, sensors.orientation, sensors.angular_velocity, sensors.wheel_speeds)
        values = [time, *(float(x) for part in told for x in part)]
        if len(values) != self._size:
            raise ValueError(f"a line has {len(values)} values, this log {self._size}: is it made for these wheels?")
        self._file.write(",".join(f"{x:.9g}" for x in values) + "\n")

    def close(self) -> None:
        """Write what is still in memory."""
        self._file.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fields(contract: dict[str, Any]) -> dict[str, int]:
    """Name -> size of the fields of an observation."""
    fields = contract["input"]["fields"]
    names = [field.get("field") for field in fields]
    if None in names:
        names = list(FIRST_CONTRACTS[contract["frame"]])
        if contract["camera"] is not None:
            names += [f"image_{i}" for i in range(int(contract["camera"]["shape"][0]))] + ["image_age"]
    return {str(name): int(field["size"]) for name, field in zip(names, fields, strict=True)}


def _past_of(name: str) -> tuple[str, int, bool] | None:
    """The field that another is of, how many steps ago, and whether it is what has changed since.

    "gravity", 10 and False of "gravity@10", "gravity", 10 and True of "gravity-10"; None of a field of now.
    """
    for sign in "@-":
        origin, _, steps = name.rpartition(sign)
        if origin and steps.isdecimal():
            return origin, int(steps), sign == "-"
    return None


def _numbers(value: Any, size: int, most: float) -> Floats | None:
    """A copy as (size,) float64, or None where it is no such array of finite numbers up to ``most``."""
    try:
        if np.ma.is_masked(value):  # what lies under a mask is no measurement
            return None
        array = np.array(value, np.float64)
    except Exception:  # whatever a foreign type raises on conversion
        return None
    sound = array.shape == (size,) and bool(np.isfinite(array).all() and np.abs(array).max() <= most)
    return array if sound else None


def _load(path: Path, kind: str, num_threads: int) -> tuple[onnxruntime.InferenceSession, dict[str, Any]]:
    """A graph and its contract."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist: export the policy with export_policy.py and keep its files together")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = num_threads
    try:
        content = path.read_bytes()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        contract = json.loads(session.get_modelmeta().custom_metadata_map["ballbot"])
    except Exception as error:
        raise ValueError(
            f"{path} is no policy that export_policy.py wrote ({type(error).__name__}: {error})"
        ) from error
    found = contract.get("kind") if isinstance(contract, dict) else None
    if found != kind:
        raise ValueError(f"{path} holds a {found} graph, a {kind} graph is needed here")
    checksum = str(contract.get("checksum"))
    blank = content.replace(checksum.encode(), b"0" * len(checksum))
    if hashlib.sha256(blank).hexdigest() != checksum:
        raise ValueError(f"{path} does not match its checksum: it was changed or damaged, copy or export it again")
    needed = [*NEEDED[kind], *([f"{contract.get('action', 'torque')}_per_action"] if kind == "control" else [])]
    if missing := [name for name in needed if name not in contract]:
        raise ValueError(f"{path} does not say its {missing[0]!r}: export the policy again")
    return session, contract


def to_heading(offset: Floats, controller: Controller) -> Floats:
    """A horizontal (2,) vector of the world along the heading and to its left; at most ``POINT_RANGE`` m long."""
    x, y = offset * (POINT_RANGE / max(float(np.hypot(*offset)), POINT_RANGE))
    c, s = controller.rotation[:2, 0] / np.sqrt(np.sum(controller.rotation[:2, 0] ** 2) + 1e-12)
    return np.array([c * x + s * y, c * y - s * x])


def _told(controller: Controller) -> Told:
    if controller.told is None:
        raise ValueError(f"this policy is told a {controller.kind}: it has no other command")
    return controller.told


def _way_to(place: Floats | None, sensors: Sensors, controller: Controller) -> Floats:
    return to_heading(np.asarray(place, np.float64) - np.asarray(sensors.position, np.float64), controller)


def _wheels(sensors: Sensors) -> Floats:
    return np.asarray(sensors.wheel_speeds, np.float64) / WHEEL_SPEED_SCALE


def _orientation(sensors: Sensors, controller: Controller) -> Floats:
    w, x, y, z = np.asarray(sensors.orientation, np.float64)
    sine = np.linalg.norm([x, y, z])
    angle = 2 * np.arctan2(sine, abs(w))
    return np.array([x, y, z]) * (-1.0 if w < 0 else 1.0) * (angle / sine if sine > 1e-12 else 2.0)


def _goal(sensors: Sensors, controller: Controller) -> Floats:
    assert sensors.goal is not None
    return np.asarray((controller.rotation.T @ np.array([*sensors.goal, 0.0]))[:2])


def rotation_matrix(orientation: Any) -> Floats:
    """(3, 3) from the base to the world, of a unit quaternion (w, x, y, z)."""
    w, x, y, z = np.asarray(orientation, np.float64)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def levelled(orientation: Any, balance: Floats) -> Floats:
    """The same orientation of a base that is level where gravity has (2,) these parts along its x and y."""
    w, x, y, z = np.asarray(orientation, np.float64)
    a, b = balance[1] / 2, -balance[0] / 2
    found = np.array([w - x * a - y * b, x + w * a - z * b, y + w * b + z * a, z + x * b - y * a])
    return np.asarray(found / np.sqrt((found**2).sum()))


def _velocity(sensors: Sensors) -> Floats:
    assert sensors.velocity is not None  # it is among what is needed, or estimated
    return sensors.velocity


def _velocity_command(sensors: Sensors, controller: Controller) -> Floats:
    velocity, how = _told(controller).command[:3].copy(), controller.contract["command"]
    if (most := how.get("max_speed")) is not None:  # it has never been asked for more
        velocity[:2] *= min(most / max(float(np.hypot(*velocity[:2])), 1e-9), 1.0)
        velocity[2] = np.clip(velocity[2], *how["range"][2])
    return velocity


Reader = Callable[[Sensors, Controller], Any]
READERS: dict[str, Reader] = {
    "gravity": lambda s, c: -c.rotation[2],
    "gyro": lambda s, c: s.angular_velocity,
    "velocity": lambda s, c: c.rotation.T @ _velocity(s),
    "goal": _goal,
    "wheel_speeds": lambda s, c: _wheels(s),
    "last_action": lambda s, c: c.last_action,
    "orientation": _orientation,
    "clipped_gyro": lambda s, c: np.clip(s.angular_velocity, -CLIP, CLIP),
    "world_velocity": lambda s, c: np.clip(_velocity(s), -CLIP, CLIP),
    "clipped_wheel_speeds": lambda s, c: np.clip(_wheels(s), -CLIP, CLIP),
    "velocity_command": _velocity_command,
    "station": lambda s, c: _way_to(_told(c).station, s, c),
    "target": lambda s, c: _way_to(_told(c).point(), s, c),
    "next_target": lambda s, c: _way_to(_told(c).point(1), s, c),
    "yaw_rate": lambda s, c: [c.rotation[2] @ np.asarray(s.angular_velocity, np.float64)],
    "image_age": lambda s, c: [c.image_age()],
}
"""Name of a field of the observation -> function of sensors and controller that gives its numbers."""
