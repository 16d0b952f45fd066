"""Policies that come with ballbot, each with a card that says how it was trained and what it is worth.

    policy = ballbot.ppo.load_policy(find_policy("default"))
    print(read_card("default")["evaluation"])

``experiments/maintenance/ship_policy.py`` made the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from ballbot.ppo.checkpoint import CheckpointError

ASSETS = Path(str(files("ballbot.assets")))
SHIPPED = {path.name.removeprefix("policy_").removesuffix(".pt"): path for path in sorted(ASSETS.glob("policy_*.pt"))}
"""Name -> file."""


def find_policy(name: str | Path, others: Iterable[str] = ()) -> Path:
    """The file of the policy of this name that comes with ballbot, or else the path.

    A Path, and any name with a slash, as in "./default", is always a path.

    Args:
        name: of a policy, or a path.
        others: names that the caller understands as well, for the error message.

    Raises:
        CheckpointError: it is no path, and no policy of this name comes with ballbot.
    """
    if not isinstance(name, str):
        return name
    if name in SHIPPED:
        return SHIPPED[name]
    path = Path(name)
    if not path.exists() and not path.suffix and "/" not in name and "\\" not in name:
        raise CheckpointError(
            f"{name!r} is no file, and no policy that comes with ballbot: those are {', '.join([*SHIPPED, *others])}"
        )
    return path


def read_card(name: str) -> dict[str, Any]:
    """What is known of a policy that comes with ballbot: "seed", "steps", "commit", "config" and "evaluation".

    Raises:
        KeyError: there is none of this name.
    """
    card: dict[str, Any] = json.loads(SHIPPED[name].with_suffix(".json").read_text())
    return card
