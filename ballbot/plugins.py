"""Plugins: Python files that add grounds, robots, commands, rewards, endings or fields of the observation, by name.

    python experiments/ppo_ballbot.py --plugin mine.py --terrain bumps --rewards.calm 0.5

A plugin writes into the registries (``TERRAINS``, ``ROBOTS``, ``COMMANDS``, ``REWARDS``, ``ENDINGS``, ``FIELDS`` of
``ballbot.envs``), and everything it adds is an option at once.  Installed packages do the same by an entry point of the
group "ballbot.plugins", which the programs load by themselves.  Runs record their plugins with a hash of their content
and keep a copy of the files; whoever goes on with such a run, or judges its policy, names the file again: no program
runs code because a folder holds it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import keyword
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from ballbot.envs import COMMANDS, ENDINGS, FIELDS, REWARDS, ROBOTS, TERRAINS, Field, RobotConfig
from ballbot.envs.randomize import AXES, LACKS, RANDOMIZED, Axis, check_ranges
from ballbot.envs.rewards import INFOS, reward_settings
from ballbot.envs.sensors import SENSORS, check_sensing
from ballbot.errors import BallbotError, SettingsError

GROUP = "ballbot.plugins"
"""Of entry points."""
MAX_BYTES = 2**20
"""Of a plugin's file."""
REGISTRIES: dict[str, dict[str, Any]] = {
    "TERRAINS": TERRAINS,
    "ROBOTS": ROBOTS,
    "COMMANDS": COMMANDS,
    "REWARDS": REWARDS,
    "ENDINGS": ENDINGS,
    "FIELDS": FIELDS,
    "AXES": AXES,
    "RANDOMIZED": RANDOMIZED,
    "SENSORS": SENSORS,
}


class PluginError(BallbotError, RuntimeError):
    """A plugin cannot be used; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Plugin:
    """What was loaded."""

    name: str
    """Of the file, without its folder; or of the entry point."""
    digest: str
    """SHA-256 of its content, 64 hexadecimal digits."""
    added: tuple[str, ...]
    """What it registered, such as "REWARDS['calm']"."""
    content: bytes = b""
    """Of the file."""


_loaded: dict[str, Plugin] = {}


def loaded() -> dict[str, str]:
    """Name -> digest of every plugin that was loaded in this process, in order."""
    return {plugin.name: plugin.digest for plugin in _loaded.values()}


def load_plugin(path: str | Path) -> Plugin:
    """Run a plugin's file and take in what it registers; a file that was loaded already is not run again.

    Raises:
        PluginError: it is missing or no Python file, raises, registers nothing, or what is none of its kind or has the
            name of something else; nothing is registered then.
    """
    path = Path(path)
    if not path.is_file():
        raise PluginError(f"plugin {path} does not exist: give a Python file")
    if path.suffix != ".py":
        raise PluginError(f"plugin {path} is no Python file (.py)")
    if path.stat().st_size > MAX_BYTES:
        raise PluginError(f"plugin {path} is larger than {MAX_BYTES} bytes: give the Python file alone")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if (known := _loaded.get(path.name)) is not None:
        if known.digest == digest:
            return known
        raise PluginError(f"another plugin {path.name} was loaded already: give one of them another name")
    module_name = f"ballbot_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)

    def run() -> None:
        sys.modules[module_name] = module  # dataclasses look their module up
        # the bytes that were hashed, whatever has become of the file since or lies in __pycache__
        exec(compile(content, str(path), "exec", dont_inherit=True), module.__dict__)

    return _take_in(path.name, digest, content, run, str(path), module_name)


def load_installed() -> list[Plugin]:
    """Load the plugins of installed packages, those of the group "ballbot.plugins".

    Raises:
        PluginError: as ``load_plugin``.
    """
    plugins = []
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        known = _loaded.get(point.name)
        plugins.append(known if known is not None else _load_entry_point(point))
    return plugins


def _load_entry_point(point: EntryPoint) -> Plugin:
    package = point.module.partition(".")[0]
    return _take_in(point.name, _source_digest(package), b"", point.load, f"entry point {point.value}", package)


def _source_digest(module: str) -> str:
    """SHA-256 of all Python files of a top-level package or module."""
    found, digest = importlib.util.find_spec(module), hashlib.sha256()
    sources: dict[str, Path] = {}
    if found is not None and found.submodule_search_locations is not None:
        for folder in map(Path, found.submodule_search_locations):
            sources |= {file.relative_to(folder).as_posix(): file for file in folder.rglob("*.py")}
    elif found is not None and found.origin:
        sources[Path(found.origin).name] = Path(found.origin)
    for name, file in sorted(sources.items()):
        content = file.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _take_in(name: str, digest: str, content: bytes, run: Any, origin: str, module: str) -> Plugin:
    before = {registry: dict(entries) for registry, entries in REGISTRIES.items()}
    modules = set(sys.modules)
    try:
        run()
        added = _check_added(before, origin)
    except BaseException as error:
        for registry, entries in REGISTRIES.items():
            entries.clear()
            entries.update(before[registry])
        for imported in set(sys.modules) - modules:
            if imported == module or imported.startswith(f"{module}."):
                del sys.modules[imported]  # to be run again at the next try
        if isinstance(error, (PluginError, KeyboardInterrupt)):
            raise
        raise PluginError(f"plugin {origin} raised {type(error).__name__}: {error}{_where(error, origin)}") from error
    plugin = Plugin(name, digest, added, content)
    _loaded[name] = plugin
    return plugin


def _where(error: BaseException, origin: str) -> str:
    """The line of the plugin's file that raised."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == origin]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    return f" (line {lines[-1]})" if lines and lines[-1] else ""


def _check_added(before: Mapping[str, dict[str, Any]], origin: str) -> tuple[str, ...]:
    added = []
    for registry, entries in REGISTRIES.items():
        for name, old in before[registry].items():
            if entries.get(name) is not old:
                raise PluginError(f"plugin {origin} replaces {registry}[{name!r}]: register it by another name")
        for name, entry in entries.items():
            if name in before[registry]:
                continue
            if not (isinstance(name, str) and name.isidentifier()) or keyword.iskeyword(name):
                raise PluginError(
                    f"plugin {origin} registers {registry}[{name!r}]: a name is of letters, digits and underscores, "
                    "and no word of Python's own"
                )
            if wrong := _what_is_wrong(registry, name, entry):
                raise PluginError(f"plugin {origin} registers {registry}[{name!r}], which {wrong}")
            added.append(f"{registry}[{name!r}]")
    if not added:
        raise PluginError(f"plugin {origin} registers nothing: write into {', '.join(REGISTRIES)} of ballbot.envs")
    try:
        reward_settings()
    except SettingsError as error:
        raise PluginError(f"plugin {origin}: {error}") from error
    return tuple(added)


def _what_is_wrong(registry: str, name: str, entry: Any) -> str:
    kind = isinstance(entry, type) and is_dataclass(entry)
    if registry == "TERRAINS" and not (kind and callable(getattr(entry, "make", None))):
        return "is no dataclass with a method make(rng, grid, difficulty)"
    parts = ("draw", "check", "begin", "follow", "measures", "success", "memory", "rewards", "fields", "size")
    if registry == "COMMANDS" and not (kind and all(hasattr(entry, part) for part in parts)):
        return f"is no dataclass with {', '.join(parts)}: derive it from one of ballbot.envs.commands"
    if registry == "ROBOTS" and not isinstance(entry, RobotConfig):
        return "is no RobotConfig"
    if registry == "FIELDS" and not isinstance(entry, Field):
        return "is no ballbot.envs.Field"
    if registry == "AXES" and not (isinstance(entry, Axis) and set(entry.needs) <= set(LACKS)):
        return f"is no ballbot.envs.randomize.Axis that needs some of {', '.join(LACKS)}, or nothing"
    if registry in ("RANDOMIZED", "SENSORS"):
        if not isinstance(entry, dict):
            return "is no dict of values by name"
        try:
            check_ranges(entry) if registry == "RANDOMIZED" else check_sensing("perfect", entry)
        except SettingsError as error:
            return f"cannot be used: {error}"
    if registry == "FIELDS" and name.startswith("image_"):
        return "is named as the cameras' fields are: use a name that does not begin with image_"
    if registry in ("REWARDS", "ENDINGS") and not callable(entry):
        return "is no function"
    if registry == "ENDINGS" and name in INFOS:
        return f"is named as something in the infos: use none of {', '.join(sorted(INFOS))}"
    return ""


def require(plugins: Any, source: str) -> None:
    """Check that the plugins that a run or a policy was made with are loaded, and are the same.

    Args:
        plugins: name -> digest, as ``loaded`` returned it then; anything else counts as damaged.
        source: of it, for error messages.

    Raises:
        PluginError: one is missing or was changed since.
    """
    if not isinstance(plugins, dict) or not all(isinstance(x, str) for pair in plugins.items() for x in pair):
        raise PluginError(f"{source} is damaged: its plugins are {plugins!r}")
    here = loaded()
    for name, digest in plugins.items():
        if name not in here:
            remedy = (
                f"add --plugin {name}, or in Python call ballbot.plugins.load_plugin({name!r})"
                if name.endswith(".py")
                else "install the package that brings it, or in Python call ballbot.plugins.load_installed()"
            )
            raise PluginError(f"{source} was made with the plugin {name}, which is not loaded: {remedy}")
        if here[name] != digest:
            raise PluginError(
                f"the plugin {name} is not what {source} was made with (then {digest[:16]}, now {here[name][:16]}): "
                "give the file as it was; a run folder keeps a copy in its folder plugins"
            )


def load_all(paths: Iterable[str | Path]) -> list[Plugin]:
    """Those of installed packages, then these files."""
    return [*load_installed(), *(load_plugin(path) for path in paths)]


def files() -> dict[str, bytes]:
    """Where a run folder keeps copies of the plugins' files, and their contents."""
    return {f"plugins/{plugin.name}": plugin.content for plugin in _loaded.values() if plugin.content}
