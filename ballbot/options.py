"""A world's options on the command line: made of ``WorldConfig`` and of what is registered, so nothing is listed twice.

``--terrain stairs --ground.height 0.01 --command velocity --motion.max-speed 0.2 --rewards.upright 0.5``: the kinds of
ground and command are looked up first, since their options depend on it.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Mapping
from dataclasses import asdict, field, fields, make_dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import tyro

from ballbot import plugins
from ballbot.cli import check_options
from ballbot.envs import COMMANDS, ENDINGS, REWARDS, TERRAINS, WorldConfig
from ballbot.envs.changes import outdated
from ballbot.envs.config import paid_in_older
from ballbot.envs.family import varying
from ballbot.envs.mjcf import is_mjcf
from ballbot.envs.randomize import AXES
from ballbot.envs.rewards import reward_settings
from ballbot.envs.rig import CameraRig
from ballbot.envs.robot import RobotConfig
from ballbot.envs.robots import robot_of
from ballbot.envs.sensors import SENSORS, Sensors, check_sensing
from ballbot.envs.terrain import parse_terrain
from ballbot.errors import SettingsError
from ballbot.parsing import Topics, explained, field_docs, parse
from ballbot.settings import check_value, default_of, nearest

HIDDEN = ("observation", "terrain_split", "stagger_first_episodes", "action_repeat", "stagger_cameras")
"""Fields of ``WorldConfig`` that the programs set themselves."""
SECTIONS = (
    *("ground", "build", "vary", "ranges", "sensing", "motion", "rig"),
    *("rewards", "training_rewards", "final_rewards", "endings"),
)
"""Fields of it that are several options each."""
KINDS = {"terrain": "ground", "robot": "build", "command": "motion", "randomize": "ranges", "sensors": "sensing"}
"""Options that name a kind -> the section of that kind's own options."""
UNNAMED = {name: getattr(WorldConfig, name) for name in ("robot", "randomize", "sensors")}
"""Kinds that those options need not name."""
SPELLED = {"build": "robot", "ranges": "randomize", "sensing": "sensors"}
"""Section -> what stands before the dot of its options, if not its name."""
PluginFiles = tyro.conf.UseAppendAction[tuple[Path, ...]]
"""Type of the option ``--plugin FILE``, which may be given several times."""
Args = TypeVar("Args")


def first_line(thing: Any) -> str:
    """Of a docstring; empty without one."""
    text = inspect.getdoc(thing) or ""
    return text.split("\n\n")[0].replace("\n", " ")


def world_options(config: WorldConfig) -> Any:
    """An instance of a dataclass, made for this config's kinds of ground and command, for tyro to fill in.

    Its fields are the options; ``world_config`` makes a config of it.
    """
    rows: list[tuple[str, Any, Any]] = []
    hints, docs = get_type_hints(WorldConfig, include_extras=True), field_docs(WorldConfig)
    for f in fields(WorldConfig):
        if f.name in HIDDEN:
            continue
        if f.name in SECTIONS:
            section = _section(f.name, config)
            if section is not None:
                rows.append(_spelled(f.name, section))
            continue
        rows.append((f.name, explained(hints[f.name], docs[f.name]), field(default=getattr(config, f.name))))
    return make_dataclass("World", rows, frozen=True)()


def _spelled(name: str, section: Any) -> tuple[str, Any, Any]:
    """A row of a section."""
    hint = type(section)
    return name, Annotated[hint, tyro.conf.arg(name=SPELLED[name])] if name in SPELLED else hint, field(default=section)


def _field_rows(cls: Any) -> list[tuple[str, Any, str, Any]]:
    """Name, annotation, explanation and default of each option of a dataclass, or of an instance of one."""
    kind = cls if isinstance(cls, type) else type(cls)
    hints, docs = get_type_hints(kind, include_extras=True), field_docs(kind)
    return [
        (f.name, hints[f.name], docs.get(f.name, ""), default_of(f) if kind is cls else getattr(cls, f.name))
        for f in fields(kind)
        if f.init
    ]


def _kind_rows(name: str, kind: str) -> list[tuple[str, Any, str, Any]]:
    """The same of a kind of ground or command, or of a robot, by its section's name."""
    if name == "build":
        robot = robot_of(kind, {})
        return _field_rows(robot) if isinstance(robot, RobotConfig) else []
    if name == "sensing":
        check_sensing(kind, {})
        return [(*row[:3], SENSORS[kind].get(row[0], row[3])) for row in _field_rows(Sensors)]
    if name == "ranges":
        return [(key, tuple[float, float], axis.what, (axis.nominal, axis.nominal)) for key, axis in AXES.items()]
    cls = TERRAINS[parse_terrain(kind).kind] if name == "ground" else COMMANDS[kind]
    return [row for row in _field_rows(cls) if not (name == "ground" and row[0] == "path")]


def _optional_rows(
    rows: list[tuple[str, Any, str, Any]], otherwise: str, given: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Rows of a dataclass whose options may be left out, None by default.

    Args:
        rows: of ``_field_rows``.
        otherwise: what holds without, before the option's own default.
        given: values instead of None, by name.
    """
    return [
        (
            key,
            explained(hint | None, text, help_behavior_hint=f"(default: {otherwise} {default})"),
            field(default=given.get(key)),
        )
        for key, hint, text, default in rows
    ]


def _rig_rows(given: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Name, annotation and default of each option of a camera rig."""
    return _optional_rows(_field_rows(CameraRig), "two arms, with others", given)


def _section(name: str, config: WorldConfig) -> Any:
    """The options of one section with their defaults, or None if there are none."""
    rows: list[tuple[str, Any, Any]] = []
    given: Mapping[str, Any] = getattr(config, name)
    if (kind := next((option for option, its in KINDS.items() if its == name), None)) is not None:
        for key, hint, text, default in _kind_rows(name, getattr(config, kind)):
            rows.append((key, explained(hint, text), field(default=given.get(key, default))))
    elif name == "rig":
        rows = _rig_rows(given)
    elif name == "vary":
        docs = field_docs(RobotConfig)
        for key in varying():
            rows.append((key, explained(tuple[float, float] | None, docs[key]), field(default=given.get(key))))
    elif name == "endings":
        for key, ending in ENDINGS.items():
            rows.append((key, explained(float | None, first_line(ending)), field(default=given.get(key))))
    else:
        for key, (term, default) in reward_settings().items():
            if name == "final_rewards" and key != term:
                continue
            entry: Any = REWARDS[term]
            what = first_line(entry) if key == term else field_docs(entry).get(key[len(term) + 1 :], "")
            optional = name != "rewards"
            when = "in training" if name == "training_rewards" else "at the end of training"
            what = f"Instead of --rewards.{key.replace('_', '-')}, {when}." if optional else what
            hint = explained(float | None if optional else float, what)
            rows.append((key, hint, field(default=given.get(key, None if optional else default))))
    return make_dataclass(name.title().replace("_", ""), rows, frozen=True)() if rows else None


def peek(argv: list[str] | None, *options: str) -> argparse.Namespace:
    """Values of some options, which decide what other options there are; the plugins are loaded first.

    Raises:
        PluginError: a plugin cannot be used.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in options:
        first.add_argument(f"--{option}")
    first.add_argument("--plugin", action="append", default=[])
    try:
        given, _ = first.parse_known_args(sys.argv[1:] if argv is None else argv)
    except argparse.ArgumentError:  # tyro says it better
        given = argparse.Namespace(**dict.fromkeys(options), plugin=[])
    plugins.load_all(given.plugin)
    return given


def read_options(
    cls: type[Args], argv: list[str] | None, description: str | None, rig: bool = False, topics: Topics | None = None
) -> Args:
    """A program's options, from its command line, checked.

    Plugins are loaded first (those of installed packages, and of ``--plugin``).  A program with ``--terrain`` or
    ``--command`` gets the options of the kind that is named too: ``kind_options`` returns what was given.

    Args:
        cls: dataclass of the options.
        argv: None for the command line.
        description: what ``--help`` begins with.
        rig: take the options of the robot's cameras too: ``rig_options`` returns what was given.
        topics: as ``parse`` takes them.

    Raises:
        SettingsError: an option is unknown or out of range, or needs another one.
        PluginError: a plugin cannot be used.
    """
    kinds = [f.name for f in fields(cls) if f.name in KINDS]  # type: ignore[arg-type]
    given = peek(argv, *kinds)
    refuse_numbers(argv, getattr(given, "robot", None))
    rows: list[tuple[str, Any, Any]] = []
    for option in kinds:
        name, kind = KINDS[option], getattr(given, option) or UNNAMED.get(option)
        if kind is None:
            for argument in sys.argv[1:] if argv is None else argv:
                if argument.startswith(f"--{SPELLED.get(name, name)}."):
                    raise SettingsError(f"{argument} is an option of a kind: add --{option} with its name")
        elif (section := _optional_section(name, kind)) is not None:
            rows.append(_spelled(name, section))
    if rig:
        section = make_dataclass("Rig", _rig_rows({}), frozen=True)
        rows.append(("rig", section, field(default=section())))
    made = make_dataclass(cls.__name__, rows, bases=(cls,)) if rows else cls
    switches = {
        f"{SPELLED.get(name, name)}.{f.name}".replace("_", "-")
        for name, _, section in rows
        for f in fields(section.default)
        if get_args(get_type_hints(type(section.default))[f.name]) == (bool, type(None))
    }
    args: Args = parse(made, _switched(sys.argv[1:] if argv is None else argv, switches), description, topics)
    check_options(args)
    return args


def _switched(argv: list[str], switches: set[str]) -> list[str]:
    """A command line in which switches that may be left out have values: --motion.X True, --motion.no-X False."""
    said: list[str] = []
    for argument, after in zip_longest(argv, argv[1:]):
        name = argument[2:].replace("_", "-") if argument.startswith("--") else ""
        if name in switches and after not in ("True", "False", "None"):
            said += [argument, "True"]
        elif ".no-" in name and name.replace(".no-", ".") in switches:
            said += [f"--{name.replace('.no-', '.')}", "False"]
        else:
            said.append(argument)
    return said


def _optional_section(name: str, kind: str) -> Any:
    """The options of a kind of ground or command, None by default; None if it has none, or does not exist."""
    try:
        found = _kind_rows(name, kind)
    except (SettingsError, KeyError):  # said where the world is made
        return None
    rows = _optional_rows(found, "as it is," if name == "ranges" else "as trained, else", {})
    return make_dataclass(name.title(), rows, frozen=True)() if rows else None


def kind_options(args: Any) -> dict[str, Any]:
    """Options of the kinds of ground, command and robot that ``read_options`` was given, as ``task_of`` takes them."""
    return {name: _given(args, name) for name in KINDS.values() if name != "ranges" and hasattr(args, name)}


def rig_options(args: Any) -> dict[str, Any]:
    """Options of the cameras that ``read_options`` was given, as ``WorldConfig.rig`` takes them."""
    return _given(args, "rig")


def refuse_numbers(argv: list[str] | None, robot: str | None) -> None:
    """Refuse options that change the numbers of a robot whose file has them.

    Args:
        argv: None for the command line.
        robot: its name; None: another one.

    Raises:
        SettingsError: there is one.
    """
    if robot is not None and is_mjcf(robot):
        for argument in sys.argv[1:] if argv is None else argv:
            if argument.startswith("--robot."):
                raise SettingsError(
                    f"robot {robot!r} has its numbers in its file: change them there, not by {argument}"
                )


def randomize_options(args: Any) -> dict[str, Any]:
    """What differs from episode to episode, as ``read_options`` was given it, options of ``WorldConfig``."""
    name = UNNAMED["randomize"] if args.randomize is None else args.randomize
    return {"randomize": name, "ranges": _given(args, "ranges")}


def _given(args: Any, name: str) -> dict[str, Any]:
    """What was given of a section of options."""
    section = getattr(args, name, None)
    return {} if section is None else {key: value for key, value in asdict(section).items() if value is not None}


def world_config(options: Any, config: WorldConfig) -> WorldConfig:
    """The config that options say, where what they do not say is that of ``config``.

    Raises:
        SettingsError: a value cannot be used.
    """
    changes: dict[str, Any] = {}
    for f in fields(options):
        value = getattr(options, f.name)
        if f.name in SECTIONS:
            whole = f.name == "build"  # where None is a value too
            value = {g.name: x for g in fields(value) if (x := getattr(value, g.name)) is not None or whole}
            if f.name == "rig" and config.rig and "number" not in value:
                value = {}  # --rig.number None goes back to the two arms
        changes[f.name] = value
    return replace(config, **changes)


def with_kinds(
    config: WorldConfig,
    terrain: str | None = None,
    command: str | None = None,
    robot: str | None = None,
    randomize: str | None = None,
    sensors: str | None = None,
) -> WorldConfig:
    """A config with another kind of ground or command, or robot, whose options, and rewards, are then its own.

    Raises:
        SettingsError: there is none of this name.
    """
    before = config.terrain, config.command, config.robot
    old = outdated(*before, to_terrain=terrain, to_command=command, to_robot=robot)
    changes: dict[str, Any] = {f.name: default_of(f) for f in fields(WorldConfig) if f.name in old}
    kinds = {"terrain": terrain, "command": command, "robot": robot, "randomize": randomize, "sensors": sensors}
    for option in ("randomize", "sensors"):
        if kinds[option] is not None:
            changes[KINDS[option]] = {}
    changes |= {name: kind for name, kind in kinds.items() if kind is not None}
    return replace(config, **changes)


def plain(config: WorldConfig) -> dict[str, Any]:
    """Every option as values that JSON can hold, for a run's config.json."""
    values = {f.name: getattr(config, f.name) for f in fields(WorldConfig)}
    return {
        name: dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }


OF_OLDER = {"cameras": True, "initial_speed": 0.4}
"""Options of version 0.1 that were something else by default."""
NOTHING = {"paid_speed": 2.0, "final_progress_weight": None}
"""Options of still older versions -> the values that changed nothing, all that can be gone on with."""


def from_plain(values: Mapping[str, Any]) -> WorldConfig:
    """The config in a run's config.json, of this version or of an older one.

    Raises:
        SettingsError: a key that this version does not know, or a value that cannot be used.
    """
    known = {f.name for f in fields(WorldConfig)}
    given = {k: v for k, v in values.items() if k not in NOTHING or v != NOTHING[k]}
    if "observation" not in given:
        given = OF_OLDER | given
        given["observation"] = "encoded" if check_value("cameras", given.pop("cameras"), bool) else "proprioception"
        if paid := paid_in_older(given.pop("target_speed", None), given.pop("progress_weight", 1.0)):
            given["training_rewards"] = paid
    for name in given:
        if name not in known:
            raise SettingsError(f'"env" has the unknown key {name!r}; {nearest(name, known)}')
    return WorldConfig(**given)
