"""Several kinds of ground in one pool, each with a weight."""

from __future__ import annotations

import re
from ast import literal_eval
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.terrain.grid import Grid, Ground, Terrain
from ballbot.envs.terrain.kinds import TERRAINS
from ballbot.envs.terrain.spec import build_terrain
from ballbot.errors import SettingsError
from ballbot.settings import check_settings

_MEMBER = re.compile(r"(?P<kind>[^\s,:()]+)(?:\((?P<options>[^()]*)\))?(?::(?P<weight>[^\s,:()]*))?")
_OPTION = re.compile(r"\s*(\w+)\s*=\s*([^=]+?)\s*")


class Member(NamedTuple):
    """One kind of a mixture."""

    label: str
    """Its name, with its options if it has any."""
    kind: str
    terrain: Terrain
    weight: float


@dataclass(frozen=True)
class Mixed:
    """Several kinds side by side in one pool, as many fields of each as its weight says."""

    kinds: str = (
        "perlin:3 flat hills ramp gradient sinusoid ridges bowl spiral rough steps terraces stairs curbs pits pillars "
        "slalom stepping_lanes"
    )
    """Names with weights (1 where none is said) and options: "perlin:2 stairs(height=0.005,form=up) pits:0.5".  By
    default all but those that are tasks of their own, such as road."""

    def __post_init__(self) -> None:
        check_settings(self)
        self.members()

    def members(self) -> list[Member]:
        """The kinds that ``kinds`` names.

        Raises:
            SettingsError: it names an unknown kind or option, the same twice, or a weight that is no number above 0.
        """
        members, end = [], 0
        for match in _MEMBER.finditer(self.kinds):
            between, end = self.kinds[end : match.start()], match.end()
            if between.strip(" \t\n,"):
                raise SettingsError(_misread(self.kinds, between))
            members.append(_member(match))
        if self.kinds[end:].strip(" \t\n,") or not members:
            raise SettingsError(_misread(self.kinds, self.kinds[end:]))
        labels = [member.label for member in members]
        for label in labels:
            if labels.count(label) > 1:
                raise SettingsError(f"kinds={self.kinds!r} has {label!r} twice: give it one weight")
        return members

    def share(self, num: int) -> NDArray[np.int64]:
        """(num,) which member each field of a pool is of: always the one that is furthest behind its weight."""
        weights = np.array([member.weight for member in self.members()])
        weights /= weights.sum()
        counts, chosen = np.zeros(len(weights)), np.empty(num, np.int64)
        for k in range(num):
            chosen[k] = np.argmax(np.round(weights * (k + 1) - counts, 9))
            counts[chosen[k]] += 1
        return chosen

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """A field of a kind drawn by weight; a pool does not draw, it counts (see ``share``)."""
        members = self.members()
        weights = np.array([member.weight for member in members])
        return members[rng.choice(len(members), p=weights / weights.sum())].terrain.make(rng, grid, difficulty)


def _member(match: re.Match[str]) -> Member:
    kind, text, weight = match["kind"], match["options"], match["weight"]
    if kind == "mixed":
        raise SettingsError("a mixture cannot contain 'mixed': name the kinds themselves")
    options: dict[str, Any] = {}
    for part in text.split(",") if text and text.strip() else []:
        pair = _OPTION.fullmatch(part)
        if not pair:
            raise SettingsError(f"options of {kind!r} are written as {kind}(name=value,name=value), got {part!r}")
        options[pair[1]] = _value(pair[2])
    try:
        number = 1.0 if weight is None else float(weight)
    except ValueError:
        number = np.nan
    if not 0 < number < np.inf:
        raise SettingsError(f"the weight of {kind!r} must be a number above 0, got {weight!r}")
    label = f"{kind}({text.replace(' ', '')})" if options else kind
    return Member(label, kind, build_terrain(kind, options), number)


def _value(text: str) -> Any:
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # a word: form=up


def _misread(kinds: str, part: str) -> str:
    return f"kinds={kinds!r} cannot be read at {part!r}: write names with weights, such as 'perlin:2 stairs:1'"


TERRAINS["mixed"] = Mixed
