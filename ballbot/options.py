"""A world's options on the command line: made of ``WorldConfig`` and of what is registered, so nothing is listed twice.

``--terrain stairs --ground.height 0.01 --command velocity --motion.max-speed 0.2 --rewards.upright 0.5``: the kinds of
ground and command are looked up first, since their options depend on it.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, make_dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, get_type_hints

import tyro

from ballbot.envs import COMMANDS, ENDINGS, REWARDS, TERRAINS, WorldConfig
from ballbot.envs.rewards import check_weights, reward_settings
from ballbot.envs.terrain import parse_terrain
from ballbot.errors import SettingsError
from ballbot.settings import nearest

HIDDEN = ("observation", "terrain_split", "stagger_first_episodes", "action_repeat", "stagger_cameras")
"""Fields of ``WorldConfig`` that the programs set themselves."""
SECTIONS = ("ground", "motion", "rewards", "training_rewards", "endings")
"""Fields of it that are several options each."""


@cache
def field_docs(cls: Any) -> dict[str, str]:
    """What stands under each field of a dataclass, in its source and in those it derives from."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError, SyntaxError):  # no source, as of a class made at run time
            continue
        statements = body.body if isinstance(body, ast.ClassDef) else []
        for before, after in pairwise(statements):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                docs[before.target.id] = " ".join(after.value.value.split())
    return docs


def first_line(thing: Any) -> str:
    """Of a docstring; empty without one."""
    text = inspect.getdoc(thing) or ""
    return text.split("\n\n")[0].replace("\n", " ")


def explained(hint: Any, text: str) -> Any:
    """An annotation with what ``--help`` says of it."""
    return Annotated[hint, tyro.conf.arg(help=text)]


def default_of(f: Field[Any]) -> Any:
    """The default of a dataclass's field."""
    return f.default if f.default_factory is MISSING else f.default_factory()


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
                rows.append((f.name, type(section), field(default=section)))
            continue
        rows.append((f.name, explained(hints[f.name], docs[f.name]), field(default=getattr(config, f.name))))
    return make_dataclass("World", rows, frozen=True)()


def _section(name: str, config: WorldConfig) -> Any:
    """The options of one section with their defaults, or None if there are none."""
    rows: list[tuple[str, Any, Any]] = []
    given: Mapping[str, Any] = getattr(config, name)
    if name in ("ground", "motion"):
        registry: dict[str, Any] = TERRAINS if name == "ground" else COMMANDS
        kind = registry[parse_terrain(config.terrain).kind if name == "ground" else config.command]
        hints, docs = get_type_hints(kind, include_extras=True), field_docs(kind)
        for f in fields(kind):
            if f.init and not (name == "ground" and f.name == "path"):
                hint = explained(hints[f.name], docs.get(f.name, ""))
                rows.append((f.name, hint, field(default=given.get(f.name, default_of(f)))))
    elif name == "endings":
        for key, ending in ENDINGS.items():
            rows.append((key, explained(float | None, first_line(ending)), field(default=given.get(key))))
    else:
        for key, (term, default) in reward_settings().items():
            entry: Any = REWARDS[term]
            what = first_line(entry) if key == term else field_docs(entry).get(key[len(term) + 1 :], "")
            optional = name == "training_rewards"
            what = f"Instead of --rewards.{key.replace('_', '-')}, in training." if optional else what
            hint = explained(float | None if optional else float, what)
            rows.append((key, hint, field(default=given.get(key, None if optional else default))))
    return make_dataclass(name.title().replace("_", ""), rows, frozen=True)() if rows else None


def world_config(options: Any, config: WorldConfig) -> WorldConfig:
    """The config that options say, where what they do not say is that of ``config``.

    Raises:
        SettingsError: a value cannot be used.
    """
    changes: dict[str, Any] = {}
    for f in fields(options):
        value = getattr(options, f.name)
        if f.name in SECTIONS:
            value = {g.name: x for g in fields(value) if (x := getattr(value, g.name)) is not None}
        changes[f.name] = value
    return replace(config, **changes)


def with_kinds(config: WorldConfig, terrain: str | None = None, command: str | None = None) -> WorldConfig:
    """A config with another kind of ground or command, whose options, and rewards, are then that kind's own.

    Raises:
        SettingsError: there is none of this name.
    """
    changes: dict[str, Any] = {}
    if terrain is not None:
        changes["terrain"] = terrain
        if parse_terrain(terrain).kind != parse_terrain(config.terrain).kind:
            changes["ground"] = {}
    if command is not None and command != config.command:
        changes |= {"command": command, "motion": {}, "rewards": None, "training_rewards": {}}
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
        given["observation"] = "encoded" if _flag("cameras", given.pop("cameras")) else "proprioception"
        target, weight = given.pop("target_speed", None), given.pop("progress_weight", 1.0)
        if target is not None:
            number = check_weights("env", {"tracking": weight, "tracking_speed": target})
            given["training_rewards"] = {"progress": 0.0, **number}
        elif weight != 1.0:
            given["training_rewards"] = {"progress": weight}
    for name in given:
        if name not in known:
            raise SettingsError(f'"env" has the unknown key {name!r}; {nearest(name, known)}')
    return WorldConfig(**given)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SettingsError(f"{name} must be true or false, got {value!r}")
    return value
