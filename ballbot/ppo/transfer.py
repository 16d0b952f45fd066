"""A new run that starts from trained networks: what of them is taken over, and what starts anew."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ballbot.ppo.agent import Agent
from ballbot.ppo.changes import differing
from ballbot.ppo.checkpoint import CheckpointError, load_with_content, policy_file
from ballbot.ppo.config import PPOConfig
from ballbot.ppo.policy import agent_from_state
from ballbot.ppo.structure import structure_differences

ALIKE = ("hidden_size", "num_layers", "activation", "normalize_observations", "cnn_channels")
"""Settings without which weights mean something else."""
INPUT_LAYERS = {
    "policy_trunk.0.weight": False,
    "policy_skip.weight": False,
    "memories.0.weight_ih": False,
    "value_trunk.0.weight": True,
    "memories.1.weight_ih": True,
}
"""Weights with a column for each number observed, then those of images and memory -> whether the value function's."""
SIDES = ("symmetry.observations", "symmetry.actions")
"""What a symmetry is made of, a row for each side."""
SAME_SIDE = 1e-3
"""By how much a number of a side may differ and be the same side: axles are known to so many digits."""
POLICY = ("policy_", "memories.0.", "estimator.")
VALUE = ("value_trunk.", "value_head.", "value_reader.", "value_scale.", "memories.1.")
"""What names of weights begin with."""


@dataclass(frozen=True)
class InitFrom:
    """Where a new run takes its weights and observation statistics from."""

    path: str | Path
    """Checkpoint; or run directory, for its best.pt, or last.pt if there is none yet."""
    columns: Sequence[int | None] | None = None
    """For each number of the new observation, first those that the policy sees, then those of the value function alone,
    which number of the old one it is, counted likewise; None for one that is new.  None: both are laid out alike."""
    told: str = ""
    """What that means, in words, printed line by line when the run starts."""


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
    state, content = load_with_content(path)
    return Start(init, path, state, hashlib.sha256(content).hexdigest())


@torch.no_grad()
def take_over(agent: Agent, config: PPOConfig, start: Start) -> list[str]:
    """Give a new agent the networks of a checkpoint, those that act in evaluations; lines that say what was done.

    The policy acts as the old one did, and the values are the same: numbers of the observation that a network did not
    get weigh 0, so does a memory that is new, and other factors on inputs are made up for.  With more sides of a
    symmetry than it had, the mean over all acts.  Statistics of the observations go on from the old ones, number
    by number; the first rollout of a run that observes something new only measures, as that of any new run.  The noise
    is that of `config.initial_std`.  A value function of another shape starts anew.

    Args:
        agent: just built, on the CPU.
        config: its settings.
        start: from `read_start`.

    Raises:
        CheckpointError: the old policy cannot act as this agent.
        ValueError: the columns do not fit observations.
    """
    now = agent.state_dict()
    encoders = {part.key: module for module in agent.encoders for part in agent.parts if part.encoder is module}
    if encoders:
        known = (_named(state, "encoders.") for state in (start.state.get("policy", {}), now))
        _refuse(start, structure_differences(*known))
    old, then = agent_from_state(start.state, start.path, encoders), PPOConfig(**start.state["config"])
    _refuse(start, _other_networks(agent, config, old, then))
    columns = _columns(agent, old, start)
    _refuse(start, _other_inputs(agent, old, columns))
    was = old.state_dict()
    for name, of_values in INPUT_LAYERS.items():
        if name in was and name in now:
            moved = _moved(was[name], agent, old, columns, of_values)
            was[name] = nn.functional.pad(moved, (0, now[name].shape[1] - moved.shape[1]))  # 0 for a new memory
    if old.value_scale is not None and agent.value_scale is None:
        was["value_head.weight"] = was["value_head.weight"] * old.value_scale.std
        was["value_head.bias"] = was["value_head.bias"] * old.value_scale.std + old.value_scale.mean
    same_values = then.shared_trunk == config.shared_trunk
    taken = _named(was, *POLICY, *(VALUE if same_values else ()))
    taken = {name: weights for name, weights in taken.items() if name in now}
    agent.load_state_dict(now | taken | _statistics(agent, old, columns))
    return _lines(agent, config, old, same_values, columns, start)


def _refuse(start: Start, found: list[str]) -> None:
    if found:
        raise CheckpointError(
            f"{start.path} was trained with other networks: {'; '.join(found)}. Start with its settings (--config "
            "takes those of its run), or from nothing"
        )


def _named(state: Mapping[str, Any], *beginnings: str) -> dict[str, Any]:
    return {name: x for name, x in state.items() if name.startswith(beginnings)}


def _other_networks(agent: Agent, config: PPOConfig, old: Agent, then: PPOConfig) -> list[str]:
    """What stands in the way, whichever numbers are observed."""
    keys = [*ALIKE, *(["cnn_features"] if then.cnn_channels else [])]
    if old.memory_size:  # without one, a new one changes nothing at first
        keys += ["memory", "memory_size"] if agent.memory_size else ["memory"]
    found = differing(asdict(then), asdict(config), keys)
    if then.linear_skip and not config.linear_skip:
        found.append("linear_skip (then True, now False)")
    if (old.discrete, old.action_shape, old.noise_size) != (agent.discrete, agent.action_shape, agent.noise_size):
        found.append(f"actions (then {_actions(old)}, now {_actions(agent)})")
    images, ours = _images(old), _images(agent)
    return found if images == ours else [*found, f"images (then {images or 'none'}, now {ours or 'none'})"]


def _actions(agent: Agent) -> str:
    return f"one of {agent.noise_size}" if agent.discrete else f"{agent.noise_size} numbers"


def _images(agent: Agent) -> str:
    """What convolutional networks read."""
    reader = agent.value_reader or agent.policy_reader
    scales = [] if reader is None else reader.scales.tolist()
    told = []
    for part, scale in zip([part for part in agent.parts if part.image], scales, strict=True):
        kind = " of bytes" if scale < 1 else ""
        told.append(f"{part.space.shape}{kind}{' for the value function alone' if part.value_only else ''}")
    return ", ".join(told)


def _columns(agent: Agent, old: Agent, start: Start) -> list[int | None]:
    given = start.init.columns
    if given is None:
        then, now = ([(part.key, part.size, part.value_only) for part in each.parts] for each in (old, agent))
        if then != now:
            raise CheckpointError(
                f"{start.path} observes {_observed(old)}, these environments give {_observed(agent)}: say which is "
                "which by InitFrom(path, columns=...)"
            )
        return list(range(old.value_size))
    known = [column for column in given if column is not None]
    if len(given) != agent.value_size or len(set(known)) < len(known) or not set(known) <= set(range(old.value_size)):
        raise ValueError(
            f"InitFrom.columns must have {agent.value_size} entries, each None or another one of 0 to "
            f"{old.value_size - 1}, got {list(given)}"
        )
    if [given[i] for i in _pixels(agent)] != _pixels(old):
        raise ValueError("InitFrom.columns must say of each image that its numbers are those of the old one, in order")
    return list(given)


def _observed(agent: Agent) -> str:
    if len(agent.parts) == 1:
        return f"{agent.value_size} numbers"
    parts = (f"{part.key} ({part.size}{', value_only' if part.value_only else ''})" for part in agent.parts)
    return ", ".join(parts)


def _pixels(agent: Agent) -> list[int]:
    return sorted(set(range(agent.value_size)) - set(agent.numbers.tolist()))


def _other_inputs(agent: Agent, old: Agent, columns: list[int | None]) -> list[str]:
    """What stands in the way of what is built into how both act, by the new numbers."""
    was, now = (_named(each.state_dict(), "prior.", "symmetry.") for each in (old, agent))
    policys = columns[: agent.obs_size]
    for name in ("prior.direct", "prior.inner"):
        if name in was:
            was[name] = _mapped(was[name], [i if i is not None and i < old.obs_size else None for i in policys])
    if (views := was.get("symmetry.observations")) is not None:
        was["symmetry.observations"] = _mapped(_mapped(views, columns).mT, columns).mT
    if (views := now.get("symmetry.observations")) is not None:  # whatever it makes of new numbers weighs 0
        known = torch.tensor([column is not None for column in columns])
        now["symmetry.observations"] = views * known[:, None]
    for name in SIDES:  # the mean over more sides is as good a policy to start from
        if name in was and name in now and len(was[name]) < len(now[name]):
            now[name] = now[name][: len(was[name])]
    for name in SIDES:  # those of another robot, or of axles that are known to so many digits, are the same
        if name in was and name in now and was[name].shape == now[name].shape:
            was[name] = torch.where((was[name] - now[name]).abs() < SAME_SIDE, now[name], was[name])
    for name in ("inputs", "scale", "unit"):  # from something else, an estimator estimates nothing
        if old.estimate is not None and agent.estimate is not None:
            was[f"estimate.{name}"], now[f"estimate.{name}"] = (getattr(each.estimate, name) for each in (old, agent))
    found = structure_differences(was, now)
    then, ours = (_factors(each)[:, _pixels(each)] for each in (old, agent))
    return found if torch.equal(then, ours) else [*found, "another input_scale or other value_inputs of images"]


def _factors(agent: Agent) -> torch.Tensor:
    """(2, value_size) what networks get of each number, and whether the value function gets it."""
    ones = torch.ones(agent.value_size)
    return torch.stack([ones if x is None else x.float() for x in (agent.input_scale, agent.value_inputs)])


def _numbers(agent: Agent, whole: bool) -> list[int]:
    """Which of an observation are no part of an image; the policy's, or the `whole` observation's."""
    return [i for i in agent.numbers.tolist() if whole or i < agent.obs_size]


def _moves(agent: Agent, old: Agent, columns: list[int | None], whole: bool) -> list[int | None]:
    """For each of these numbers, which of the old ones it is; None: the old network did not get it."""
    places: dict[int | None, int] = {column: place for place, column in enumerate(_numbers(old, whole))}
    return [places.get(columns[i]) for i in _numbers(agent, whole)]


def _moved(weights: torch.Tensor, agent: Agent, old: Agent, columns: list[int | None], of_values: bool) -> torch.Tensor:
    """Old weights of inputs at their new places; other factors on them count as they did."""
    then, now = _numbers(old, of_values), _numbers(agent, of_values)
    moves = _moves(agent, old, columns, of_values)
    numbers, rest = weights[:, : len(then)], weights[:, len(then) :]
    factor, seen = _factors(old)[:, then]
    if of_values:  # what a value function never saw was never learned
        numbers = numbers * seen
    factor = _mapped(factor, moves) / _factors(agent)[0, now]
    return torch.cat([_mapped(numbers, moves) * factor, rest], dim=1)


def _mapped(x: torch.Tensor, columns: Sequence[int | None]) -> torch.Tensor:
    """The columns of `x` (..., old size) at their new places (..., size), 0 where there is none."""
    new = x.new_zeros(*x.shape[:-1], len(columns))
    at = [i for i, column in enumerate(columns) if column is not None]
    new[..., at] = x[..., [columns[i] for i in at]]
    return new


def _statistics(agent: Agent, old: Agent, columns: list[int | None]) -> dict[str, torch.Tensor]:
    """Those of the observations, number by number; a count of 0 where there are none."""
    if (known := old.normalizer) is None or agent.normalizer is None:
        return {}
    moves = _moves(agent, old, columns, True)
    new = torch.tensor([move is None for move in moves])
    count = known.count
    if new.any() or count.ndim:
        count = _mapped(count.expand(len(known.mean)), moves)
    mean, var = _mapped(known.mean, moves), _mapped(known.var, moves).masked_fill(new, 1.0)
    return {"normalizer.mean": mean, "normalizer.var": var, "normalizer.count": count}


def _lines(
    agent: Agent, config: PPOConfig, old: Agent, same_values: bool, columns: list[int | None], start: Start
) -> list[str]:
    lines = [f"init-from: {start.path}, step {start.origin['step']:,}"]
    fresh = columns.count(None)
    dropped = old.value_size - len(columns) + fresh
    if told := start.init.told:
        lines += [f"init-from: {line}" for line in told.splitlines()]
    elif fresh or dropped:
        lines.append(f"init-from: of {len(columns)} numbers observed {fresh} are new, start at 0; {dropped} dropped")
    if agent.symmetry is not None and old.symmetry is not None and len(old.symmetry) < len(agent.symmetry):
        sides = f"{len(agent.symmetry)} sides of the symmetry instead of {len(old.symmetry)}"
        lines.append(f"init-from: {sides}; the policy acts as the mean over them, which is another at first")
    if agent.policy_skip is not None and old.policy_skip is None:
        lines.append("init-from: linear_skip new, starts at 0")
    if agent.memory_size and not old.memory_size:
        lines.append("init-from: memory new, starts at 0")
    if not same_values:
        lines.append("init-from: the value function has another shape, starts anew")
    if not agent.discrete:
        std = float(old.log_std.exp().mean())
        lines.append(f"init-from: the noise starts at initial_std = {config.initial_std:g}; it was {std:.3g}")
    return lines
