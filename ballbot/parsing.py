"""A program's options, read from its command line by tyro: grouped by topic in ``--help``, errors in one line."""

from __future__ import annotations

import ast
import difflib
import inspect
import io
import os
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from copy import copy
from dataclasses import MISSING, field, fields, make_dataclass
from functools import cache, partial
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from ballbot.commands import as_called
from ballbot.errors import SettingsError
from ballbot.settings import default_of, nearest

Args = TypeVar("Args")
_PAINT = re.compile(r"\x1b\[[\d;]*m")
"""Colours of a terminal."""
Topics = Mapping[str, Sequence[str]]
"""Title -> names of the options below it."""


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


METAVARS: dict[Any, str] = {
    **{str: "STR", int: "INT", float: "FLOAT", Path: "PATH", bool: "[True|False]", tuple[int, int]: "INT INT"},
    **{tuple[float, float]: "FLOAT FLOAT", tuple[float, float, float]: "FLOAT FLOAT FLOAT"},
}
"""Type -> what ``--help`` shows instead of a value that may be None; that it may, the default says."""


def explained(hint: Any, text: str | None, **more: Any) -> Any:
    """An annotation with what ``--help`` says of it.

    Args:
        hint: the annotation.
        text: of the help, without the marks of code, two backquotes; None: as it is.
        more: options of ``tyro.conf.arg``.
    """
    meant = [_bare(part) for part in get_args(_bare(hint))]
    metavar = METAVARS.get(meant[0]) if len(meant) == 2 and meant[1] is type(None) else None
    said = None if text is None else text.replace("``", "")
    return Annotated[hint, tyro.conf.arg(help=said, metavar=metavar, **more)]


def _bare(hint: Any) -> Any:
    """An annotation without what is said of it."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def parse(
    cls: type[Args], argv: list[str] | None, description: str | None, topics: Topics | None = None, console: bool = True
) -> Args:
    """A program's options; ``--help`` prints what they are, and exits.

    Args:
        cls: dataclass of the options.
        argv: None for the command line.
        description: what ``--help`` begins with.
        topics: groups of options, in the order of ``--help``; those of none come first.
        console: print help; another process does, if not.

    Raises:
        SettingsError: an option is unknown, or has no such value; in one line.
    """
    argv = sys.argv[1:] if argv is None else argv
    topics = topics or {}
    shown: Any = _grouped(cls, topics)
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            read = tyro.cli(shown, args=argv, description=as_called(description or ""), console_outputs=console)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise SettingsError(_in_one_line(said.getvalue(), argv, cls, shown)) from None
    sys.stderr.write(said.getvalue())
    return cls(**_flat(read, topics))


def _field(topic: str) -> str:
    """Name of the field that holds a topic's options."""
    return f"topic_{topic.replace(' ', '_')}"


def option_rows(options: Any) -> list[tuple[str, Any, Any]]:
    """What ``make_dataclass`` takes, for each option of a dataclass, or of an instance with its values as defaults."""
    cls = options if isinstance(options, type) else type(options)
    hints, docs = get_type_hints(cls, include_extras=True), field_docs(cls)
    rows: list[tuple[str, Any, Any]] = []
    for f in fields(cls):
        hint = hints[f.name]
        if tyro.conf.Positional in get_args(hint):
            hint = Annotated[hint, tyro.conf.arg(metavar=f.name.upper())]
        hint = explained(hint, docs.get(f.name))
        value = default_of(f) if options is cls else getattr(options, f.name)
        if f.init:
            rows.append((f.name, hint, field() if value is MISSING else field(default_factory=partial(copy, value))))
    return rows


def _grouped(cls: Any, topics: Topics) -> Any:
    """A dataclass in which the options of a topic are one field, whose name they do not bear."""
    rows = {row[0]: row for row in option_rows(cls)}
    groups: list[tuple[str, Any, Any]] = []
    for topic, names in topics.items():
        group: Any = make_dataclass(_field(topic), [rows.pop(name) for name in names if name in rows])
        hint = Annotated[group, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name=topic)]
        groups.append((_field(topic), hint, field(default_factory=group)))
    return make_dataclass("Options", [*groups, *rows.values()], kw_only=True)


def _flat(read: Any, topics: Topics) -> dict[str, Any]:
    """Values by name, those of the topics too."""
    values = {f.name: getattr(read, f.name) for f in fields(read)}
    for topic in topics:
        group = values.pop(_field(topic))
        values |= {f.name: getattr(group, f.name) for f in fields(group)}
    return values


def _in_one_line(said: str, argv: list[str], cls: Any, shown: Any) -> str:
    """What tyro's box says of a bad command line, with the value and the remedy.

    Args:
        said: the box.
        argv: the command line.
        cls: dataclass of the options.
        shown: the one that tyro had instead.
    """
    text = _text_of(said)
    if text.startswith("Unrecognized"):
        known = list(_options(shown))
        for argument in argv:
            name = argument.split("=")[0].replace("_", "-")
            if name.startswith("--") and name not in known:
                return f"{argument.split('=')[0]} is no option: {_close(name, known)}--help tells all"
        return f"{text[0].lower()}{text[1:]}: --help tells what there is"
    option = next(iter(re.findall(r"--[\w.-]*\w", text)), "")
    if (found := re.search(r"invalid choice '(.*)' for argument .* one of \((.*)\)", text)) is not None:
        choices = ast.literal_eval(f"[{found[2]}]")
        return f"{option} {found[1]} is unknown: {nearest(found[1], map(str, choices))}"
    for python, kind in ((r"for int\(\)[^:]*", "a whole number"), (r"could not convert string to float", "a number")):
        if (found := re.search(rf"{python}: ('.*')", text)) is not None:
            return f"{option} must be {kind}, got {found[1]}"
    if re.search(r"^Missing value|no type matching|Could not (find valid parse|parse arguments)", text):
        return _misread(option, argv, _options(shown).get(option, ""))
    if count := text.count("(required)"):
        return f"{' and '.join(_missing(cls, argv, count))} must be given: --help tells what"
    return re.sub(r"^Error parsing \w+: ", "", text) or "an option cannot be used: --help tells what there is"


def _misread(option: str, argv: list[str], metavar: str) -> str:
    """What is wrong with an option's values, of which ``--help`` shows a metavar such as "FLOAT FLOAT"."""
    kinds, values = re.findall(r"\b(?:INT|FLOAT)\b", metavar), _values(option, argv)
    got = f", got {' '.join(map(repr, values))}" if values else ""
    kind = "whole number" if "INT" in kinds else "number"
    span = ", from and to" if metavar == "FLOAT FLOAT" else ""
    if kinds and "..." in metavar and values:
        return f"{option} must be {kind}s{got}"
    if len(kinds) > 1 and "..." not in metavar:
        return f"{option} {'must be' if len(values) == len(kinds) else 'needs'} {len(kinds)} {kind}s{span}{got}"
    if kinds and values:
        return f"{option} must be a {kind}{got}"
    return f"{option} needs {metavar}{got}" if values else f"{option} needs a value"


def _values(option: str, argv: list[str]) -> list[str]:
    """What a command line gives to an option."""
    for at, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == option:
            return [value] * bool(equals) + list(takewhile(lambda word: not word.startswith("--"), argv[at + 1 :]))
    return []


def _missing(cls: Any, argv: list[str], count: int) -> list[str]:
    """Names of the arguments that must be given and are not, of which there are so many."""
    required = [f.name for f in fields(cls) if f.init and default_of(f) is MISSING]
    hints = get_type_hints(cls, include_extras=True)
    places = [name for name in required if tyro.conf.Positional in get_args(hints[name])]
    options = [f"--{name.replace('_', '-')}" for name in required if name not in places]
    named = {argument.split("=")[0].replace("_", "-") for argument in argv}
    options = [option for option in options if option not in named]
    places = places[len(places) - (count - len(options)) :]  # they are given in order
    return [*(place.upper() for place in places), *options] or ["something"]


def _close(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 3, 0.7)
    close += [other for other in known if name.strip("-") in other and other not in close]
    return f"did you mean {' or '.join(close[:3])}? " if close else ""


def _text_of(said: str) -> str:
    """The text of a box, without its frame, title, and what follows a rule: help that ``--help`` gives."""
    lines = [_inner(line) for line in _PAINT.sub("", said).splitlines()]
    lines = [line for line in lines if line and not line.startswith("╭")]
    if not said.lstrip().startswith("╭") and len(lines) > 1:  # drawn without a frame: the title, and a rule
        lines = lines[2:]
    return " ".join(takewhile(lambda line: line.strip("─-╰╯"), lines))


def _inner(line: str) -> str:
    return re.sub(r"^│|│$", "", line.strip()).strip()


def _options(shown: Any) -> dict[str, str]:
    """Every option that ``--help`` lists, and what it shows instead of its values."""
    said, width = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"  # one box above the other
    try:
        with redirect_stdout(said), suppress(SystemExit):
            tyro.cli(shown, args=["--help"], description="")
    finally:
        os.environ.pop("COLUMNS") if width is None else os.environ.update(COLUMNS=width)
    lines = re.findall(r"^[│ ] ?(--?\w[^ ,]*(?:, -[^ ,]*)*)(.*)", _PAINT.sub("", said.getvalue()), re.MULTILINE)
    found = [(line.split(", "), re.split(r"\s{2,}|\(default", _inner(rest))[0].strip()) for line, rest in lines]
    return {option: metavar for names, metavar in found for option in names if option.startswith("--")}
