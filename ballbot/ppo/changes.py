"""What differs between a checkpoint and the run that is to go on from it: what is refused, and what is said."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ballbot.ppo import distributed
from ballbot.ppo.agent import Agent
from ballbot.ppo.checkpoint import CheckpointError, to_plain
from ballbot.ppo.config import PPOConfig
from ballbot.ppo.spaces import without_dtype
from ballbot.ppo.structure import structure_differences
from ballbot.settings import rules_on_resume

CONSEQUENCES = {
    "num_envs": "new episodes start in all environments, and the run no longer repeats bit for bit",
    "device": "exploration draws other numbers, and the run no longer repeats bit for bit",
}
"""Setting -> what to say of it if it differs."""
ANOTHER_WAY = "from here on it is not what it would have been"
"""What to say of the others."""


@dataclass(frozen=True)
class Changes:
    """What differs, and does not stand in the way."""

    settings: dict[str, str]
    """Settings that are said -> what to say."""
    same_meaning: bool
    """Whether observations mean what they meant."""
    new_best: bool
    """Whether policies of before cannot be compared with those to come."""


def differing(then: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """A text for each of the `keys` whose value is another now."""
    return [f"{key} (then {then.get(key)!r}, now {now.get(key)!r})" for key in keys if then.get(key) != now.get(key)]


def changes_since(
    path: Path,
    state: dict[str, Any],
    config: PPOConfig,
    agent: Agent,
    spaces: dict[str, Any],
    env_metadata: dict[str, Any],
    free_metadata: Collection[str],
) -> Changes:
    """Compare a loaded training checkpoint with what is to go on from it.

    Args:
        path: of the checkpoint, for messages.
        state: what it holds.
        config: settings now.
        agent: built by them.
        spaces: of the environments, described.
        env_metadata: what the observations mean.
        free_metadata: keys of it that may differ.

    Raises:
        CheckpointError: it was written with other settings, spaces, environments or number of processes.
    """
    missing = {"config", "spaces", "env_metadata", "ranks", "agent", "policy", "optimizer"} - state.keys()
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(sorted(missing))}; use another checkpoint of the same run")
    # A setting that the version which wrote the file did not have yet: its default is what was done before.
    then = asdict(PPOConfig()) | state["config"]
    then |= {"spaces": without_dtype(state["spaces"]), "number of processes": len(state["ranks"])}
    now = asdict(config) | {"spaces": without_dtype(spaces), "number of processes": distributed.world_size()}
    if str(then["device"]).partition(":")[0] == config.device.partition(":")[0]:
        then["device"] = config.device  # which of several GPUs does not matter
    rules = rules_on_resume(PPOConfig)
    refused = differing(then, now, [key for key in {**now, **then} if rules.get(key, "same") == "same"])
    meant, means = state["env_metadata"], to_plain(env_metadata)
    fixed = [key for key in {**meant, **means} if key not in free_metadata]
    refused += [f"env_metadata {text}" for text in differing(meant, means, fixed)]
    built, build = state["agent"], to_plain(agent.state_dict())
    refused += structure_differences(built, build)
    scales = {name for name in built.keys() & build.keys() if name.endswith("_reader.scales")}  # 1 / 255 for bytes
    if any(built[name].tolist() != build[name].tolist() for name in scales):
        refused.append("images of bytes are now floats, or floats bytes")
    if refused:
        raise CheckpointError(
            f"{path} was written with other settings: {'; '.join(refused)}. Resume with the old ones, or start a new "
            "run from its networks (--init-from, in Python init_from=...)"
        )
    if now["total_timesteps"] < min(then["total_timesteps"], state["global_step"]):
        raise CheckpointError(
            f"{path} was written after {state['global_step']} steps, but total_timesteps = "
            f"{now['total_timesteps']}; give more, or resume an earlier checkpoint"
        )
    same_meaning = not differing(meant, means, free_metadata)
    judged_by = [key for key, rule in rules.items() if rule == "new best"]
    noted = [key for key, rule in rules.items() if rule == "noted" and then[key] != now[key]]
    said = {key: f"{key} is {now[key]}, was {then[key]}: {CONSEQUENCES.get(key, ANOTHER_WAY)}" for key in noted}
    return Changes(said, same_meaning, not same_meaning or bool(differing(then, now, judged_by)))
