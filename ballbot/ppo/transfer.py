"""A new run that starts from trained networks: what of them is taken over, and what starts anew."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ballbot.ppo.agent import Agent
from ballbot.ppo.changes import differing
from ballbot.ppo.checkpoint import CheckpointError, load_checkpoint, policy_file
from ballbot.ppo.config import PPOConfig
from ballbot.ppo.policy import agent_from_state
from ballbot.ppo.structure import structure_differences

ALIKE = ("hidden_size", "num_layers", "activation", "normalize_observations")
"""Settings without which weights mean something else."""
INPUT_LAYERS = ("policy_trunk.0.weight", "policy_skip.weight", "value_trunk.0.weight")
"""Weights with a column for each number observed."""
POLICY, VALUE, SCALE = "policy_", ("value_trunk.", "value_head."), "value_scale."
"""What names of weights begin with."""


@dataclass(frozen=True)
class InitFrom:
    """Where a new run takes its weights and observation statistics from."""

    path: str | Path
    """Checkpoint; or run directory, for its best.pt, or last.pt if there is none yet."""
    columns: Sequence[int | None] | None = None
    """For each number of the new observation, which number of the old one it is; None for one that is new.  None: both
    are laid out alike."""
    told: str = ""
    """What that means, in words, printed when the run starts."""


@dataclass(frozen=True)
class Start:
    """A checkpoint to start from, as read."""

    init: InitFrom
    path: Path
    state: dict[str, Any]
    digest: str
    """SHA-256 of the file."""

    @property
    def origin(self) -> dict[str, Any]:
        """What the new run keeps of where it came from: "path", "step" and "sha256"."""
        return {"path": str(self.path), "step": self.state.get("global_step", 0), "sha256": self.digest}


def read_start(init: InitFrom | str | Path) -> Start:
    """Read what a run is to start from.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    init = init if isinstance(init, InitFrom) else InitFrom(init)
    path = policy_file(init.path)
    state = load_checkpoint(path)
    return Start(init, path, state, hashlib.sha256(path.read_bytes()).hexdigest())


@torch.no_grad()
def take_over(agent: Agent, config: PPOConfig, start: Start) -> list[str]:
    """Give a new agent the networks of a checkpoint, those that act in evaluations; lines that say what was done.

    The policy acts as the old one did: new numbers of the observation weigh 0, and other factors on its inputs are made
    up for.  Statistics of the observations go on from the old ones, number by number; the first rollout of a run that
    observes something new only measures, as that of any new run.  The noise is that of `config.initial_std`.  A value
    function of another shape starts anew.

    Args:
        agent: just built, on the CPU.
        config: its settings.
        start: from `read_start`.

    Raises:
        CheckpointError: the old policy cannot act as this agent.
        ValueError: the columns do not fit observations.
    """
    old = agent_from_state(start.state, start.path)
    then = PPOConfig(**start.state["config"])
    columns = _columns(agent, old, start)
    was, now = old.state_dict(), agent.state_dict()
    if old.value_inputs is not None and "value_trunk.0.weight" in was:  # what it never saw was never learned
        was["value_trunk.0.weight"] = was["value_trunk.0.weight"] * old.value_inputs
    for name in INPUT_LAYERS:
        if name in was and was[name].shape[1] == old.obs_size:
            was[name] = _rescaled(_mapped(was[name], columns), agent, old, columns)
    if old.value_scale is not None and agent.value_scale is None:
        was["value_head.weight"] = was["value_head.weight"] * old.value_scale.std
        was["value_head.bias"] = was["value_head.bias"] * old.value_scale.std + old.value_scale.mean
    _check_fits(agent, config, old, then, columns, start)
    shapes = [{name: x.shape for name, x in state.items()} for state in (was, now)]
    policy, values = ([{n: x for n, x in s.items() if n.startswith(part)} for s in shapes] for part in (POLICY, VALUE))
    if (policy[0] | {"policy_skip.weight": None}) != (policy[1] | {"policy_skip.weight": None}):
        raise CheckpointError(f"{start.path} has a policy of another shape: start from it with its own settings")
    same_values = values[0] == values[1]
    taken = [*policy[0], *(values[0] if same_values else ())]
    if same_values and agent.value_scale is not None:
        taken += [name for name in was if name.startswith(SCALE)]
    agent.load_state_dict(now | {name: was[name] for name in taken} | _statistics(old, columns))
    return _lines(agent, config, old, same_values, columns, start)


def _columns(agent: Agent, old: Agent, start: Start) -> list[int | None]:
    given = start.init.columns
    if given is None:
        if agent.obs_size != old.obs_size:
            raise CheckpointError(
                f"{start.path} observes {old.obs_size} numbers, these environments give {agent.obs_size}: say which is "
                "which by InitFrom(path, columns=...)"
            )
        return list(range(old.obs_size))
    known = [column for column in given if column is not None]
    if len(given) != agent.obs_size or len(set(known)) < len(known) or not set(known) <= set(range(old.obs_size)):
        raise ValueError(
            f"InitFrom.columns must have {agent.obs_size} entries, each None or another one of 0 to "
            f"{old.obs_size - 1}, got {list(given)}"
        )
    return list(given)


def _check_fits(
    agent: Agent, config: PPOConfig, old: Agent, then: PPOConfig, columns: list[int | None], start: Start
) -> None:
    found = differing(asdict(then), asdict(config), ALIKE)
    if then.linear_skip and not config.linear_skip:
        found.append("linear_skip (then True, now False)")
    if (old.discrete, old.action_shape, old.noise_size) != (agent.discrete, agent.action_shape, agent.noise_size):
        found.append(f"actions (then {_actions(old)}, now {_actions(agent)})")
    elif not found:
        found = structure_differences(_as_seen(old, columns), _as_seen(agent, _own(columns)))
    if found:
        raise CheckpointError(
            f"{start.path} was trained with other networks: {'; '.join(found)}. Start with its settings (--config "
            "takes those of its run), or from nothing"
        )


def _actions(agent: Agent) -> str:
    return f"one of {agent.noise_size}" if agent.discrete else f"{agent.noise_size} numbers"


def _own(columns: list[int | None]) -> list[int | None]:
    """The new numbers that are known of old, where they stand now."""
    return [None if column is None else i for i, column in enumerate(columns)]


def _as_seen(agent: Agent, columns: list[int | None]) -> dict[str, torch.Tensor]:
    """What is built into how an agent acts, by the new numbers (None: unknown to it)."""
    prior, symmetry = agent.prior, agent.symmetry
    if prior is not None:
        mapped = (_mapped(prior.direct, columns), prior.outer, _mapped(prior.inner, columns), prior.limit)
        prior = type(prior)(*mapped)
    if symmetry is not None:
        views = torch.stack([_mapped(_mapped(view, columns).T, columns).T for view in symmetry.observations])
        for i, column in enumerate(columns):
            if column is None:
                views[0, i, i] = 1.0  # element 0 is the identity
        symmetry = type(symmetry)(views, symmetry.actions)
    parts = {"prior": prior, "symmetry": symmetry}
    return {f"{name}.{key}": x for name, part in parts.items() if part for key, x in part.state_dict().items()}


def _mapped(weights: torch.Tensor, columns: list[int | None]) -> torch.Tensor:
    """The columns of old weights (rows, old size) at their new places (rows, size), 0 where there is none."""
    new = weights.new_zeros(len(weights), len(columns))
    at = [i for i, column in enumerate(columns) if column is not None]
    new[:, at] = weights[:, [columns[i] for i in at]]
    return new


def _rescaled(weights: torch.Tensor, agent: Agent, old: Agent, columns: list[int | None]) -> torch.Tensor:
    """Weights under which inputs of other factors count as they did."""
    if old.input_scale is not None:
        weights = weights * _mapped(old.input_scale[None], columns)
    return weights if agent.input_scale is None else weights / agent.input_scale


def _statistics(old: Agent, columns: list[int | None]) -> dict[str, torch.Tensor]:
    """Those of the observations, number by number; a count of 0 where there are none."""
    if (known := old.normalizer) is None:
        return {}
    new = torch.tensor([column is None for column in columns])
    mean, var = (_mapped(x[None], columns)[0] for x in (known.mean, known.var))
    count = known.count
    if new.any() or count.ndim:
        count = _mapped(count.expand(old.obs_size)[None], columns)[0]
    return {"normalizer.mean": mean, "normalizer.var": var.masked_fill(new, 1.0), "normalizer.count": count}


def _lines(
    agent: Agent, config: PPOConfig, old: Agent, same_values: bool, columns: list[int | None], start: Start
) -> list[str]:
    lines = [f"init-from: {start.path}, step {start.origin['step']:,}"]
    fresh = columns.count(None)
    dropped = old.obs_size - len(columns) + fresh
    if told := start.init.told:
        lines.append(f"init-from: {told}")
    elif fresh or dropped:
        lines.append(f"init-from: of {len(columns)} numbers observed {fresh} are new, start at 0; {dropped} dropped")
    if agent.policy_skip is not None and old.policy_skip is None:
        lines.append("init-from: linear_skip new, starts at 0")
    if not same_values:
        lines.append("init-from: the value function has another shape, starts anew")
    if not agent.discrete:
        std = float(old.log_std.exp().mean())
        lines.append(f"init-from: the noise starts at initial_std = {config.initial_std:g}; it was {std:.3g}")
    return lines
