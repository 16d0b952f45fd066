"""What `train` is told beside its settings: what to keep of the task, and whom to call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.ppo.agent import Agent
from ballbot.ppo.imitation import Teacher

Film = Callable[[Agent], tuple[NDArray[np.uint8], int]]
"""Makes frames (time, height, width, 3) of an agent at work; and how many to show a second."""


@dataclass(frozen=True)
class Record:
    """What a run keeps of its task."""

    env_metadata: Mapping[str, Any] = field(default_factory=dict)
    """Plain values that describe what the observations mean; must be equal on resume."""
    free_metadata: Collection[str] = ()
    """Keys of it that may differ all the same; if one does, new episodes start."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else belongs in config.json, such as the environment's settings."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Name and content of what else the run directory is to keep."""
    shaped_rewards: bool = False
    """Training pays other rewards than evaluation does, or for shorter, so that their returns cannot be compared."""


@dataclass(frozen=True)
class Hooks:
    """Whom `train` calls: the teacher in every process, the others in the first."""

    teacher: Teacher | None = None
    """Whom the policy imitates for the first config.imitation_timesteps, in every step; the same on resume."""
    on_start: Callable[[], None] | None = None
    """When all settings have been found to fit and the run directory exists, locked and without a trace of this run:
    what it raises ends the run, whose directory can be used again."""
    on_log: Callable[[dict[str, float]], None] | None = None
    """With every row that is logged, its global_step among the numbers, after the checkpoint that is due if one is:
    what it raises ends the run."""
    film: Film | None = None
    """With the agent, after every evaluation: its frames are shown in TensorBoard and kept in videos/.  It must draw
    from no global random state.  A film that fails is said, and training goes on."""
