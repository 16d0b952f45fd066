"""``WorldConfig``: everything that decides what happens in a world, as plain values.

What a saved state or a trained policy means is decided by ``fingerprint``: names and values as dotted keys, those that
are the default left out.  An option that is added later, and changes nothing by default, needs no entry anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from ballbot.envs.checks import check_direction
from ballbot.envs.commands import COMMANDS, ONE_OF_TWO
from ballbot.envs.family import check_vary, drawn
from ballbot.envs.mjcf import MJCF
from ballbot.envs.observations import CAMERA_INTERVAL, FIELDS, STEP_MS, Layout, layout_of
from ballbot.envs.randomize import check_ranges, ranges_of
from ballbot.envs.rewards import REWARDS, check_endings, check_weights, needed, paid_terms, refuse_idle
from ballbot.envs.rig import rig_of
from ballbot.envs.robot import RobotConfig
from ballbot.envs.robots import ROBOTS, Robot, changes_of, naming, robot_of
from ballbot.envs.sensors import DELAYS, check_sensing, parted
from ballbot.envs.standing import check_standing
from ballbot.envs.terrain import MAX_TERRAIN_LENGTH, TERRAIN_LENGTH, TERRAINS, parse_terrain
from ballbot.envs.terrain.spec import build_terrain
from ballbot.errors import SettingsError
from ballbot.settings import Range, check_settings, check_value, default_of, nearest, steps_ago

Meaning = Literal["task", "training", "run"]


def option(default: Any, meaning: Meaning) -> Any:
    """A field of a ``WorldConfig``.

    Args:
        default: its value; a mapping is copied.
        meaning: "task": a policy was trained for it, and is judged in it; "training": training alone differs by it;
            "run": it says where and how long, for training and evaluation.  All must be the same when a run goes on.
    """
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"meaning": meaning})
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class WorldConfig:
    """The world that robots live in: ground, command, rewards, endings, and what they sense.

    Raises:
        SettingsError: (a ValueError) an unknown name, a value of another type or out of range, or values that do not
            fit each other; the message says which and what to do.
    """

    terrain: str = option("perlin", "task")
    """Kind of the ground, with its difficulty after a colon: "stairs", "stairs:0.4", "stairs:0-1" (spread evenly over
    the pool); or a height map, "field.png", "field.npy".  "perlin" is the reference's, "flat" an endless plane."""
    ground: Mapping[str, Any] = option({}, "task")
    """Options of that kind of ground, by name."""
    terrain_length: Annotated[float, Range(1, MAX_TERRAIN_LENGTH)] = option(TERRAIN_LENGTH, "run")
    """Side of the fields, m, for episodes that last longer; memory grows with its square."""
    terrain_cell: Annotated[float, Range(0.002, 0.5)] | None = option(None, "task")
    """m between the fields' vertices (None: what the kind needs)."""
    num_terrains: Annotated[int, Range(1, 4096)] = option(64, "run")
    """Height fields held in memory, one drawn for each episode."""
    terrain_split: Literal["train", "validation", "eval"] = option("train", "run")
    """Which of the disjoint sets of terrains."""
    terrain_seed: Annotated[int, Range(0, 2**63)] = option(0, "run")
    """Base seed of the terrains."""
    curriculum: bool = option(False, "training")
    """Begin on the easiest ground of the pool, and go on to what is harder as robots succeed; each kind by itself."""

    robot: str = option("reference", "task")
    """Which ballbot: one that comes along, by name, such as "reference" or "mini" (docs/kinds.md lists all); or a file,
    .json of its numbers by name, or .xml, MJCF with joints base_free, ball_free, wheel_0 and so on (see
    ballbot/envs/mjcf.py); in Python a ``RobotConfig``, too."""
    build: Mapping[str, Any] = option({}, "task")
    """Numbers of that robot that are others, by name: fields of ``RobotConfig``."""
    vary: Mapping[str, tuple[float, float]] = option({}, "task")
    """Numbers of it that differ from robot to robot, by name, from and to: each episode has a robot of this family."""
    num_robots: Annotated[int, Range(1, 1024)] = option(16, "run")
    """Robots of the family, drawn once, each number evenly from its range; those of validation and eval are others."""
    randomize: str = option("none", "training")
    """What differs from episode to episode, by name, "mild" or "strong", or a .json file of ranges by name."""
    ranges: Mapping[str, tuple[float, float]] = option({}, "training")
    """Ranges of it, by name, from and to, instead of the named ones or besides; see ``ballbot.envs.randomize``."""
    range_curriculum: bool = option(False, "training")
    """Begin near the nominal values, with a tenth of these ranges, and meet more of them as the robot succeeds, less as
    it fails; each of the robots by itself.  Values are drawn as far from nominal as that says."""
    command: str = option("goal", "task")
    """What the robots are told: "goal" (a direction to travel), "velocity", "point", "path"."""
    motion: Mapping[str, Any] = option({}, "task")
    """Options of that kind of command, by name."""

    rewards: Mapping[str, float] | None = option(None, "task")
    """What the task pays: weights (and parameters) of terms by name (None: what suits the command)."""
    training_rewards: Mapping[str, float] = option({}, "training")
    """Weights that differ in training; infos and evaluation tell the task's in any case."""
    final_rewards: Mapping[str, float] = option({}, "training")
    """Weights that change while training lasts: what they are at its end."""
    final_rewards_between: tuple[float, float] = option((0.6, 0.9), "training")
    """Shares of the training between which they change, in a straight line (in Python ``set_progress`` says how far it
    is)."""
    endings: Mapping[str, float] = option({}, "task")
    """What else ends an episode as a failure, beside a fall: limits by name."""

    sensors: str = option("perfect", "task")
    """How well robots sense and how soon their motors obey, by name: "perfect", or "cheap"."""
    sensing: Mapping[str, Any] = option({}, "task")
    """Values of it, by name, instead of the named ones; see ``ballbot.envs.sensors``."""
    observation: Literal["proprioception", "encoded", "depth", "scan"] = option("proprioception", "task")
    """What the robots sense: their own motion, and what the cameras see, encoded or as images; or, with "scan", the
    field of that name, the ground around."""
    frame: Literal["body", "world"] = option("body", "task")
    """Axes of what they sense: the robot's own, or the world's."""
    extra_fields: tuple[str, ...] = option((), "task")
    """Fields of the observation beside those of frame and command, by name."""
    history: tuple[int, ...] = option((0,), "task")
    """How long ago, in steps of 2 ms, fields are observed besides now: 0 10 20 30.  Steps are of 2 ms however long
    actions are held, so that a policy trained with held actions sees the same where it acts at 500 Hz."""
    history_fields: tuple[str, ...] = option((), "task")
    """Which fields these are, by name (none named: the robot's motion, gravity, gyro and velocity)."""
    history_changes: bool = option(False, "task")
    """Observe how much they have changed since, "gravity-10" instead of "gravity@10": the same knowledge, in numbers
    from which networks learn sooner."""
    privileged_fields: tuple[str, ...] = option((), "training")
    """Fields that only the value function gets, in training, such as "slope", "slope_ahead" and "time_left".
    Observations then are a dict of "policy" and "privileged"; policies are judged and deployed without.  What the
    policy observes as well is left out of it."""
    camera_interval: Annotated[int, Range(1, 10**6)] = option(CAMERA_INTERVAL, "task")
    """Steps from an image to the next; 6 are 83.3 Hz."""
    camera_resolution: tuple[int, int] | None = option(None, "task")
    """(height, width) of the images in pixels (None: the MJCF's, 64 x 64)."""
    rig: Mapping[str, Any] = option({}, "task")
    """Cameras at equal angles around the robot instead of the reference's two: options of ``CameraRig`` by name."""
    stagger_cameras: bool = option(False, "run")
    """Take the images of different robots at different steps instead of all at once."""

    max_episode_steps: Annotated[int, Range(1, 10**9)] = option(4000, "run")
    """Time limit of an episode, in steps of 2 ms."""
    tilt_limit_deg: Annotated[float, Range(0.1, 180)] = option(20.0, "task")
    """A larger tilt is a fall and ends the episode, degrees."""
    initial_tilt_deg: Annotated[float, Range(0, 90)] = option(1.0, "run")
    """Largest tilt at the start of an episode, degrees; drawn evenly from a cone."""
    initial_speed: Annotated[float, Range(0, 2)] = option(0.0, "training")
    """Largest speed at the start of an episode, m/s; drawn evenly from a disc, and the robot starts rolling.  A robot
    that slowly gains speed meets the consequences thousands of steps later, unless some episodes begin there."""
    random_yaw: bool = option(True, "task")
    """Draw the heading at the start of an episode; else the robot's x axis lies along the world's."""
    stagger_first_episodes: bool = option(False, "training")
    """Draw the time limit of each episode that a call of reset() begins from 1 to what it would be, so that time-outs
    do not all come at once; episodes that autoreset begins are not shortened so."""
    shortest_episode_steps: Annotated[int, Range(1, 10**9)] | None = option(None, "training")
    """Draw each episode's time limit from this up to max_episode_steps, evenly in its logarithm, so that more episodes
    begin in as many steps (None: all are whole).  Robots that no longer fall hardly see how an episode begins.  Without
    effect where it is not below max_episode_steps, and with --curriculum or --range-curriculum, which learn from whole
    episodes."""

    action: Literal["torque", "wheel_speed", "wheel_position"] = option("torque", "task")
    """What an action asks of a wheel: a torque, 1 for all that the motor has; a speed, 1 for that at which it runs
    free; or a position, 1 to be as much further in each step of 2 ms as it comes at that speed.  Motors' own
    controllers follow speeds and positions, 500 times a second (``Motors``)."""
    action_repeat: Annotated[int, Range(1, 500)] = option(1, "training")
    """Steps of 2 ms for which an action is held; a step of the environment is as much longer, and pays the sum."""
    action_limit: Annotated[float, Range(0.01, 1)] = option(1.0, "training")
    """Actions are clipped to +- this: motors weaker than they are leave a margin when all of the torque is there."""
    integrator: Literal["Euler", "implicitfast", "RK4"] = option("Euler", "task")
    """MuJoCo's integrator; RK4 is the reference's and four times slower."""
    contact_fix: bool = option(True, "task")
    """Off: stock MuJoCo's misaligned contacts, to show what happens."""

    def __post_init__(self) -> None:
        for name, options, registry in (("terrain", "ground", TERRAINS), ("command", "motion", COMMANDS)):
            if not isinstance(getattr(self, name), str):
                self._spell_out(name, options, registry)
        if isinstance(self.robot, (MJCF, Path)):
            self._keep("robot", str(getattr(self.robot, "path", self.robot)))
        for name, values in (("randomize", "ranges"), ("sensors", "sensing")):
            if isinstance(getattr(self, name), Mapping):
                self._keep(values, {**getattr(self, name), **getattr(self, values)})
                self._keep(name, getattr(WorldConfig, name))
        if isinstance(self.robot, RobotConfig):
            self._keep("build", changes_of(self.robot, RobotConfig()) | dict(self.build))
            self._keep("robot", "reference")
        for name in ("terrain_length", "tilt_limit_deg", "initial_tilt_deg", "initial_speed", "action_limit"):
            if isinstance(value := getattr(self, name), int) and not isinstance(value, bool):
                object.__setattr__(self, name, float(value))
        check_settings(self)
        if self.initial_tilt_deg >= self.tilt_limit_deg:
            raise SettingsError(
                f"initial_tilt_deg = {self.initial_tilt_deg} is not below tilt_limit_deg = {self.tilt_limit_deg}: "
                "episodes would begin with a fall"
            )
        if self.command not in COMMANDS:
            raise SettingsError(f"command={self.command!r} is unknown: {nearest(self.command, COMMANDS)}")
        names = ("extra_fields", "history_fields", "privileged_fields")
        for name, size in (*((name, None) for name in names), ("camera_resolution", 2)):
            value = getattr(self, name)
            if value is None and size is not None:
                continue
            if not isinstance(value, (tuple, list)) or size not in (None, len(value)):
                what = "(height, width) in pixels" if size else "a tuple of names"
                if isinstance(value, str):
                    what += f": ({value!r},)"
                raise SettingsError(f"{name}={value!r} must be {what}")
            object.__setattr__(self, name, tuple(value))
        for name in ("ground", "motion", "rig", "build", "vary", "ranges", "sensing"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                raise SettingsError(
                    f"{name}={value!r} must be a mapping of options by name, such as {{'height': 0.02}}"
                )
        if self.observation == "scan":
            self._keep("observation", "proprioception")
            self._keep("extra_fields", tuple(dict.fromkeys((*self.extra_fields, "scan"))))
        spec = parse_terrain(self.terrain)
        self._keep("ground", _given(build_terrain(spec.kind, self._file(spec) | dict(self.ground)), spec.path))
        told = make_command(self.command, self.motion)
        self._keep("motion", _given(told))
        robot = self.robot_config
        if isinstance(robot, RobotConfig):  # all that a file of numbers says is here then
            self._keep("robot", self.robot if self.robot in ROBOTS else "reference")
            self._keep("build", changes_of(robot, ROBOTS[self.robot]))
        if not robot.is_reference:
            with naming(self.robot, self.build):
                check_standing(robot)
        self._keep("vary", check_vary(self.vary, robot))
        self._keep("ranges", check_ranges({**ranges_of(self.randomize), **self.ranges}))
        self._keep("randomize", WorldConfig.randomize)  # all that the name says is here then
        if self.range_curriculum and not self.ranges:
            raise SettingsError(
                "range_curriculum needs ranges that it begins with little of: use --randomize strong, say, or leave "
                "--range-curriculum out"
            )
        self._keep("sensing", check_sensing(self.sensors, self.sensing))
        self._keep("sensors", WorldConfig.sensors)  # likewise
        motion, of_cameras = self.faults
        for name in DELAYS:
            latest, whole = {**motion, **of_cameras}.get(name, (0.0, 0.0))[1], STEP_MS * self.max_episode_steps
            if latest >= whole:
                raise SettingsError(
                    f"sensors: {name} reaches {latest:g} ms, and episodes last {whole} ms: use less, or a larger "
                    "max_episode_steps"
                )
        rig = rig_of(self.rig)
        if rig is None and (self.vary or not robot.cameras) and self.sees:
            rig = robot.eyes
        self._keep("rig", {} if rig is None else asdict(rig))  # all of it: one at its defaults is not none
        self._check_history()
        layout = self.layout()
        self._check_privileged(layout)
        for name, f in {**layout.fields, **{name: FIELDS[name] for name in self.privileged_fields}}.items():
            if max(f.radii, default=0.0) >= self.terrain_length / 2 and spec.kind != "flat":
                raise SettingsError(
                    f"the field {name!r} tells of ground {max(f.radii):g} m away, and the ground ends "
                    f"{self.terrain_length / 2:g} m from its middle: use a larger terrain_length, or another field"
                )
        if getattr(told, "any_direction", False) and "goal" not in layout.names:
            raise SettingsError(
                f"motion={{'any_direction': True}} draws goals that robots do not observe with frame={self.frame!r}: "
                "use frame='body'"
            )
        rewards = COMMANDS[self.command].rewards if self.rewards is None else self.rewards
        weights = check_weights("rewards", rewards)
        refuse_idle("rewards", weights, weights)
        self._keep("rewards", needed(weights))
        weights = check_weights("training_rewards", self.training_rewards)
        # a weight of 0 in training takes a term out, with whatever parameters a preset gave it
        refuse_idle("training_rewards", weights, {**rewards, **dict.fromkeys(weights, 1.0)})
        self._keep("training_rewards", weights)
        self._check_final_rewards()
        self._keep("endings", check_endings(self.endings))
        self._check_terms()
        if self.curriculum and self.has_one_difficulty:
            raise SettingsError(
                f"curriculum needs ground of several difficulties, terrain={self.terrain!r} has one: write "
                f"{self.terrain.partition(':')[0]}:0-1, and num_terrains above 1"
            )

    def _check_final_rewards(self) -> None:
        """Refuse what does not change, and shares of a training that there are not."""
        weights = check_weights("final_rewards", self.final_rewards)
        self._keep("final_rewards", weights)
        if others := [key for key in weights if key not in REWARDS]:
            raise SettingsError(
                f"final_rewards.{others[0]} is a parameter, and only weights change while training lasts: leave it out"
            )
        between = self.final_rewards_between
        number = Annotated[float, Range(0, 1)]
        if not isinstance(between, (tuple, list)) or len(between) != 2:
            raise SettingsError(f"final_rewards_between={between!r} must be two shares of the training, as (0.6, 0.9)")
        first, last = (float(check_value("final_rewards_between", share, number)) for share in between)
        if first > last:
            raise SettingsError(f"final_rewards_between={between} must rise: write {(last, first)}")
        self._keep("final_rewards_between", (first, last))

    def _check_history(self) -> None:
        """Refuse steps of the past that there are not."""
        if (steps := steps_ago(self.history)) is None:
            raise SettingsError(
                f"history={self.history!r} must be steps of 2 ms ago, whole numbers such as (0, 10, 20, 30)"
            )
        self._keep("history", steps)
        if (ordered := tuple(sorted({0, *steps}))) != steps:
            raise SettingsError(f"history={steps} must begin with 0, which is now, and rise: write {ordered}")
        if (longest := steps[-1]) >= self.max_episode_steps:
            raise SettingsError(
                f"history={steps} reaches back {longest} steps, and episodes have max_episode_steps="
                f"{self.max_episode_steps}: use {self.max_episode_steps - 1} or fewer, or longer episodes"
            )
        if longest == 0:  # so that whoever turns off the past of a preset need not turn off this as well
            self._keep("history_changes", False)
        if self.history_fields and longest == 0:
            raise SettingsError(
                f"history_fields={self.history_fields} change nothing with history=(0,), which is now: say how many "
                "steps ago, as in history=(0, 10, 20), or leave them out"
            )

    def _check_privileged(self, layout: Layout) -> None:
        """Refuse fields that do not exist, and leave out those that the policy observes."""
        for name in self.privileged_fields:
            if name not in FIELDS and name not in layout.names:
                raise SettingsError(
                    f"privileged_fields names {name!r}, which is no field: {nearest(str(name), FIELDS)}"
                )
            if self.privileged_fields.count(name) > 1:
                raise SettingsError(f"privileged_fields names {name!r} twice: leave one out")
        if not self.faults[0]:  # what the policy observes is true then
            self._keep("privileged_fields", tuple(name for name in self.privileged_fields if name not in layout.names))

    def _check_terms(self) -> None:
        """Refuse terms that know nothing of this command."""
        for name in paid_terms(self.rewards or {}) | paid_terms(self.training_rewards) | paid_terms(self.final_rewards):
            kinds = getattr(REWARDS[name], "commands", None)
            fitting = tuple(COMMANDS[kind] for kind in kinds or () if kind in COMMANDS)
            if kinds is not None and not issubclass(COMMANDS[self.command], fitting):
                raise SettingsError(
                    f"the reward {name!r} is for command {' or '.join(map(repr, kinds))}, this world's is "
                    f"{self.command!r}: leave it out, or change the command"
                )

    def _keep(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _spell_out(self, name: str, options: str, registry: dict[str, Any]) -> None:
        """Take ``terrain=Stairs(height=0.01)`` for what it says."""
        given = getattr(self, name)
        names = [key for key, kind in registry.items() if type(given) is kind]
        if not names or not is_dataclass(given) or isinstance(given, type):
            raise SettingsError(f"{name}={given!r} is unknown: {nearest(str(given)[:40], registry)}")
        self._keep(options, _given(given) | dict(getattr(self, options)))
        self._keep(name, names[0])

    @staticmethod
    def _file(spec: Any) -> dict[str, Any]:
        return {"path": spec.path} if spec.path else {}

    def layout(self, images: tuple[int, ...] = ()) -> Layout:
        """Which numbers of an observation are what.

        Args:
            images: sizes of the embeddings of each camera's image; empty without.
        """
        told = make_command(self.command, self.motion).fields
        past = self.history, self.history_fields, self.history_changes
        return layout_of(self.frame, told, self.extra_fields, images, *past, rig_of(self.rig), self.robot_config.wheels)

    @property
    def robot_config(self) -> Robot:
        """How the robot is made."""
        return robot_of(self.robot, self.build)

    @property
    def robots(self) -> tuple[Robot, ...]:
        """All of the family, or the one."""
        robot = self.robot_config
        if not self.vary or not isinstance(robot, RobotConfig):
            return (robot,)
        return drawn(robot, self.vary, self.num_robots, self.terrain_split, self.terrain_seed, self.contact_fix)

    @property
    def sees(self) -> bool:
        """Whether robots have images."""
        return self.observation in ("encoded", "depth")

    @property
    def faults(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is not perfect of sensors and motors, and of cameras, by name; nothing of cameras without images."""
        motion, of_cameras = parted(self.sensing)
        return motion, of_cameras if self.sees else {}

    @property
    def num_cameras(self) -> int:
        """Of each robot."""
        return int(self.rig.get("number", self.robot_config.cameras))

    def privileged_layout(self) -> Layout | None:
        """Which numbers of what only the value function sees are what; None if it sees what the policy does."""
        wheels = self.robot_config.wheels
        return Layout(self.privileged_fields, wheels=wheels) if self.privileged_fields else None

    @property
    def has_one_difficulty(self) -> bool:
        """Whether the ground is of one difficulty only."""
        spec = parse_terrain(self.terrain)
        return spec.low == spec.high or spec.kind == "flat" or self.num_terrains == 1

    @property
    def paid(self) -> dict[str, float]:
        """Weights and parameters of what is paid: the task's, but where training differs."""
        return check_weights("rewards", {**self.rewards, **self.training_rewards})  # type: ignore[dict-item]

    @property
    def paid_finally(self) -> dict[str, float]:
        """The same at the end of a training."""
        return check_weights("rewards", {**self.paid, **self.final_rewards})

    def fingerprint(self, *meanings: Meaning) -> dict[str, Any]:
        """What differs from the default, by dotted keys, as plain values that JSON can hold.

        Args:
            meanings: of the options; all, if empty.
        """
        found: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if meanings and f.metadata["meaning"] not in meanings:
                continue
            if isinstance(value, Mapping):
                differing = dict(value)
                if f.name == "sensing":
                    motion, of_cameras = self.faults
                    differing = motion | of_cameras
                if f.name == "rewards":
                    default = needed(COMMANDS[self.command].rewards)
                    differing = {k: value.get(k, 0.0) for k in {**value, **default}}
                    differing = {k: x for k, x in differing.items() if x != default.get(k)}
                found |= {f"{f.name}.{k}": list(x) if isinstance(x, tuple) else x for k, x in differing.items()}
            elif value != default_of(f):
                found[f.name] = list(value) if isinstance(value, tuple) else value
        return found

    def metadata(self) -> dict[str, Any]:
        """What a policy's checkpoint says of its task: ``fingerprint("task")``, and a few of its defaults too."""
        found = {name: getattr(self, name) for name in SAID} | self.fingerprint("task")
        if self.observation == "proprioception":  # cameras that are not there mean nothing
            found = {key: value for key, value in found.items() if not key.startswith("camera_")}
        return found

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> WorldConfig:
        """The task that a checkpoint's metadata tells of; keys that are not this class's are passed over.

        Raises:
            SettingsError: a value that this version does not know, such as a terrain of a plugin that is not loaded.
        """
        options: dict[str, Any] = {}
        known = {f.name for f in fields(cls)}
        for key, value in metadata.items():
            name, dot, part = key.partition(".")
            if name not in known:
                continue
            if dot:
                options.setdefault(name, {})[part] = value
            else:
                options[name] = value
        if "rewards" in options and (command := options.get("command", "goal")) in COMMANDS:
            options["rewards"] = COMMANDS[command].rewards | options["rewards"]
        try:
            return cls(**options)
        except TypeError as error:
            raise SettingsError(f"what the policy was trained for cannot be read ({error})") from error

    @classmethod
    def of(cls, **options: Any) -> WorldConfig:
        """A config of options by name; beside its fields, ``goal=(x, y)`` for the direction of command "goal".

        Raises:
            SettingsError: as the class.
            TypeError: there is no such option.
        """
        if "goal" in options:
            x, y = check_direction("goal", goal := options.pop("goal")).tolist()
            if options.get("command", "goal") != "goal":
                raise SettingsError(f"goal={goal!r} is for command='goal': leave it out")
            if dict(options.get("motion", {})).get("any_direction"):
                raise SettingsError(f"goal={goal!r} and motion={{'any_direction': True}} are conflicting: {ONE_OF_TWO}")
            options["motion"] = {"x": x, "y": y} | dict(options.get("motion", {}))
        known = [f.name for f in fields(cls)]
        for name in options:
            if name in GONE:
                raise SettingsError(f"{name} is now spelled otherwise: {GONE[name]}")
            if name not in known:
                raise TypeError(f"there is no option {name!r}: {nearest(name, known)}")
        return cls(**options)

    def task(self, **changes: Any) -> WorldConfig:
        """The same task without what training does to it, and with these changes.

        Options of the ground and the command go where those change, and so do the rewards, if they are the command's.
        """
        own = {f.name: default_of(f) for f in fields(self) if f.metadata["meaning"] == "training"}
        if changes.get("terrain", self.terrain) != self.terrain:
            own["ground"] = {}
        if changes.get("command", self.command) != self.command:
            own["motion"] = {}
            if self.rewards == needed(COMMANDS[self.command].rewards):
                own["rewards"] = None
        return replace(self, **(own | changes))


SAID = ("observation", "frame", "terrain", "tilt_limit_deg", "integrator")
"""Options that policies' metadata name even at their defaults: those of version 0.1 did."""
GONE = {
    "target_speed": "training_rewards={'progress': 0, 'tracking': 1, 'tracking_speed': ...}",
    "progress_weight": "training_rewards={'progress': ...}, or 'tracking' where that is paid instead",
}
"""Options of older versions, and how to say it now."""


def paid_in_older(target_speed: Any, progress_weight: Any) -> dict[str, Any]:
    """``training_rewards`` of what version 0.1 called target_speed (None: none) and progress_weight."""
    if target_speed is not None:
        return {"progress": 0.0, "tracking": progress_weight, "tracking_speed": target_speed}
    return {} if progress_weight == 1.0 else {"progress": progress_weight}


def make_command(name: str, options: Mapping[str, Any]) -> Any:
    """The command of this name with these options.

    Raises:
        SettingsError: an option that it does not have, or a value out of range.
    """
    made = COMMANDS[name]
    known = [f.name for f in fields(made)]
    for key in options:
        if key not in known:
            raise SettingsError(f"command {name!r} has no option {key!r}: {nearest(str(key), known)}")
    try:
        return made(**options)
    except SettingsError as error:
        raise SettingsError(f"command {name!r}: {error}") from error


def _given(settings: Any, path: str = "") -> dict[str, Any]:
    """The fields of a dataclass that are not at their default, but for a path that stands elsewhere."""
    values = {f.name: getattr(settings, f.name) for f in fields(settings) if f.init}
    defaults = {f.name: default_of(f) for f in fields(settings) if f.init}
    return {k: v for k, v in values.items() if v != defaults[k] and not (path and k == "path")}
