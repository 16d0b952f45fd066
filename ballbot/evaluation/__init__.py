"""What a policy is worth: whole episodes and their numbers (``episodes``), a page (``report``) and films (``video``).

``trained`` tells the world that a policy was trained for, in which it is judged.
"""

from ballbot.evaluation.actors import Candidate, find_candidate
from ballbot.evaluation.episodes import (
    HISTORY,
    OUTCOMES,
    Actor,
    Episodes,
    mean_interval,
    run_episodes,
    summarize,
    wilson_interval,
)
from ballbot.evaluation.trained import env_options, in_task, task_of, trained_layout, trained_world

__all__ = [
    "HISTORY",
    "OUTCOMES",
    "Actor",
    "Candidate",
    "Episodes",
    "env_options",
    "find_candidate",
    "in_task",
    "mean_interval",
    "run_episodes",
    "summarize",
    "task_of",
    "trained_layout",
    "trained_world",
    "wilson_interval",
]
