"""What a policy is worth: whole episodes, their numbers (``episodes``), a page (``report``) and films (``video``)."""

from ballbot.evaluation.actors import Candidate, find_candidate
from ballbot.evaluation.episodes import (
    HISTORY,
    OUTCOMES,
    Actor,
    Episodes,
    env_options,
    mean_interval,
    run_episodes,
    summarize,
    wilson_interval,
)

__all__ = [
    "HISTORY",
    "OUTCOMES",
    "Actor",
    "Candidate",
    "Episodes",
    "env_options",
    "find_candidate",
    "mean_interval",
    "run_episodes",
    "summarize",
    "wilson_interval",
]
