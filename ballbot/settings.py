"""Settings are dataclasses whose annotations say all that can be said of one value: its type, and its range.

    @dataclass(frozen=True)
    class Bumps:
        height: Annotated[float, Range(0, 1)] = 0.05
        '''Of the highest, m.'''

        def __post_init__(self):
            check_settings(self)

Values may come from a JSON file, where ``"seed": 1.0`` or ``"compile": "no"`` would otherwise go far before anything
breaks.  What concerns several settings at once is checked by the dataclass itself.
"""

from __future__ import annotations

import difflib
import json
import math
import types
from collections.abc import Iterable
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from ballbot.errors import SettingsError

T = TypeVar("T")
TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
MOST_BYTES = 100_000
"""Of a file of values by name."""
OnResume = Literal["same", "free", "noted", "new best"]
"""What may become of a setting when a run is resumed: it stays the same, or may differ; with "noted", the run is then
another one from there on, which is said; with "new best", results before and after cannot be compared, so that the best
policy is chosen anew."""


@dataclass(frozen=True)
class Range:
    """An annotation: the number lies in [low, high], or, with ``open``, in (low, high]."""

    low: float
    high: float
    open: bool = False

    def holds(self, value: float) -> bool:
        """Whether the value lies there; NaN does not."""
        return (self.low < value if self.open else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        return f"{'above ' if self.open else 'from '}{self.low:g} {'up ' if self.open else ''}to {self.high:g}"


def setting(default: T, on_resume: OnResume) -> T:
    """The default of a dataclass's field, and what may become of it on resume (what does not say stays the same)."""
    return field(default=default, metadata={"on_resume": on_resume})


def default_of(f: Field[Any]) -> Any:
    """The default of a dataclass's field; ``MISSING`` if it has none."""
    return f.default if f.default_factory is MISSING else f.default_factory()


def rules_on_resume(cls: Any) -> dict[str, OnResume]:
    """What may become of each field of a dataclass when a run is resumed."""
    return {f.name: f.metadata.get("on_resume", "same") for f in fields(cls)}


def check_settings(settings: Any) -> None:
    """Check the values of a dataclass against its annotations.

    Understands bool, int, float, str, Literal, each of these or None, and ``Annotated[..., Range(...)]``; what is
    annotated otherwise is not checked.  NumPy's numbers become Python's, and whole numbers floats where those are asked
    for.

    Raises:
        SettingsError: a value is of another kind, not finite, or out of range.
    """
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        checked = check_value(name, value, hint)
        if checked is not value:
            object.__setattr__(settings, name, checked)


def steps_ago(steps: Any) -> tuple[int, ...] | None:
    """Several whole numbers of steps ago, none negative, as numbers of Python itself; None if it is something else."""
    whole = isinstance(steps, (tuple, list)) and all(type(k) is int or isinstance(k, np.integer) for k in steps)
    return tuple(map(int, steps)) if whole and steps and min(steps) >= 0 else None


def check_value(name: str, value: Any, hint: Any) -> Any:
    """The value, as a type of Python itself; SettingsError if it is not what an annotation asks for."""
    hint, ranges = _unwrap(hint)
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    kinds = tuple(inner for kind in kinds for inner in [_unwrap(kind)[0]])
    ranges = ranges + tuple(r for kind in get_args(hint) for r in _unwrap(kind)[1])
    if any(not _known(kind) for kind in kinds):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if not any(_is_a(value, kind) for kind in kinds):
        if value is None:
            raise SettingsError(f"{name} must be given, got None")
        raise SettingsError(f"{name} must be {' or '.join(_describe(kind) for kind in kinds)}, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{name} must be a finite number, got {value}")
    if value is not None and not isinstance(value, (bool, str)):
        for limits in ranges:
            if not limits.holds(value):
                kind = "whole number" if int in kinds and float not in kinds else "number"
                raise SettingsError(f"{name} must be a {kind} {limits}, got {value!r}")
    if type(value) is int and float in kinds and int not in kinds:
        try:
            return float(value)
        except OverflowError:
            raise SettingsError(f"{name} must be a finite number, got a far larger whole one") from None
    return value


def check_span(name: str, given: Any, hint: Any, example: str) -> tuple[float, float]:
    """A range, from and to, whose ends are what an annotation asks for.

    Args:
        name: of it, for errors.
        given: what somebody gave for it.
        hint: the annotation of an end.
        example: of such a range, for errors.

    Raises:
        SettingsError: it is none, or does not rise.
    """
    if not isinstance(given, (tuple, list)) or len(given) != 2 or None in given:
        raise SettingsError(f"{name} = {given!r} must be a range, from and to: {example}")
    low, high = (float(check_value(name, value, hint)) for value in given)
    if low > high:
        raise SettingsError(f"{name} = {low:g} {high:g} must rise: write {high:g} {low:g}")
    return low, high


def ordinary(what: str, path: str, example: str) -> Path:
    """A path, unless there is something else than a file.

    Args:
        what: it is of, for errors.
        path: of a file, or of none.
        example: of what should be there, for errors: "a file of numbers".

    Raises:
        SettingsError: it is a folder or a pipe, or no name of a file.
    """
    file = Path(path)
    try:
        other = file.exists() and not file.is_file()
    except OSError as error:
        raise SettingsError(f"{what} {path[:40]!r}... cannot be read: {error.strerror}") from error
    if "\0" in path:
        raise SettingsError(f"{what} {path!r} is no name of a file: give {example}")
    if other:
        raise SettingsError(f"{what} {path!r} is no ordinary file: give {example}")
    return file


def values_in(what: str, path: str, example: str) -> dict[str, Any]:
    """What a .json file holds, values by name.

    Args:
        what: they are of, for errors.
        path: of the file.
        example: of what it should hold, for errors: "numbers by name, such as ...".

    Raises:
        SettingsError: it cannot be read, is large, or holds something else.
    """
    try:
        with ordinary(what, path, f"one of {example}").open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{what} {path!r} cannot be read: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise SettingsError(f"{what} {path!r} is larger than {MOST_BYTES:,} bytes: give a file of {example}")
    try:
        found = json.loads(content, object_pairs_hook=_once)  # in the UTF of its first bytes
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{what} {path!r} is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{what} {path!r} must be {example}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, whose names are there once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice: leave one out")
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """What to add to an error about an unknown name: the ones it may have meant, and all there are."""
    names = sorted(known)
    close = " or ".join(map(repr, difflib.get_close_matches(name, names, 3, 0.5)))
    return (f"did you mean {close}? " if close else "") + f"known are {', '.join(names) or 'none'}"


def _unwrap(hint: Any) -> tuple[Any, tuple[Range, ...]]:
    if get_origin(hint) is not Annotated:
        return hint, ()
    inner, *notes = get_args(hint)
    return inner, tuple(note for note in notes if isinstance(note, Range))


def _known(kind: Any) -> bool:
    return kind in (bool, int, float, str, type(None)) or get_origin(kind) is Literal


def _is_a(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return type(value) in (str, int) and value in get_args(kind)
    if kind is type(None):
        return value is None
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    return TYPE_NAMES.get(kind, "null (None)")
