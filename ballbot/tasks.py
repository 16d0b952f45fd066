"""Worlds that are tasks by a name of their own, with what counts as success there: each is also a Gymnasium id."""

from __future__ import annotations

from typing import Any

from ballbot.errors import SettingsError
from ballbot.settings import nearest

TASKS: dict[str, dict[str, Any]] = {
    "road": {"terrain": "road", "motion": {"distance": 1.2}, "endings": {"off_road": 0.0}},
    "stagger": {"terrain": "stagger", "motion": {"distance": 1.2}, "endings": {"off_road": 0.0}},
    "trench": {"terrain": "trench", "motion": {"distance": 1.2}, "endings": {"off_road": 0.0}},
    "mixed": {
        "terrain": "mixed",
        "ground": {"kinds": "perlin:3 road:2 stagger:5 trench:4 slalom pits stepping_lanes hills rough"},
        "motion": {"distance": 1.2},
        "endings": {"off_road": 0.0},
    },
}
"""Name -> options of ``WorldConfig``.  Who stays on the ground for 8 s and comes 1.2 m along the goal, has succeeded: a
robot that goes straight on leaves the ground within the first metre, but of "mixed" only where there are drops."""


def find_task(name: str) -> dict[str, Any]:
    """The options of a task.

    Raises:
        SettingsError: there is none of this name.
    """
    if name not in TASKS:
        raise SettingsError(f"--task {name} is unknown: {nearest(name, TASKS)}")
    return dict(TASKS[name])
