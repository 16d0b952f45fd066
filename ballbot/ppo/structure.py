"""What is known of a task before learning, and built into the networks instead of being learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from ballbot.ppo.estimator import Estimate
from ballbot.ppo.prior import FeedbackPrior
from ballbot.ppo.symmetry import Symmetry


@dataclass(frozen=True, eq=False)
class Structure:
    """Parts of an agent that are given, not trained; checkpoints hold them, and a resumed run needs the same ones."""

    prior: FeedbackPrior | None = None
    """Feedback law on what the policy sees, that it adds its actions to (None: it starts from nothing); for Box
    actions."""
    input_scale: torch.Tensor | None = None
    """(value_size,) positive factors on what the networks get, after normalisation (None: all 1).  An Adam step changes
    what the policy makes of an input in proportion to the input's size, whatever the gradient; of many inputs that
    hardly matter, each such step is noise.  A small factor quiets them."""
    symmetry: Symmetry | None = None
    """Sides from which the task looks the same (None: no symmetry); for Box actions."""
    value_inputs: torch.Tensor | None = None
    """(value_size,) bool, what the value function gets of the observation (None: all).  It does better without the last
    action: what the policy does on average tells of the state, of a hill for instance, so the value of an action that
    noise made alike is that of the hill, and the policy learns to avoid it."""

    estimate: Estimate | None = None
    """What the policy estimates of what the value function alone is told, and sees behind what it is told itself (None:
    nothing); the sizes above count it.  The network that does so is trained."""
    encoders: Mapping[str, nn.Module] | None = None
    """Key of the observation ("observation" if it is no Dict) -> network of your own, (batch, *shape) -> (batch,
    numbers), that makes the numbers of it, float32; it is copied and not trained.  Checkpoints hold its weights alone:
    it must be given again to load them."""

    def __post_init__(self) -> None:
        for name, dtype in (("input_scale", torch.float32), ("value_inputs", None)):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, torch.as_tensor(given).to(dtype).clone())

    def check(self, value_size: int, obs_size: int, action_size: int | None, shared_trunk: bool) -> None:
        """Check that the parts fit observations and actions of these sizes.

        Args:
            value_size: numbers of the observation.
            obs_size: the first of them, which the policy sees.
            action_size: numbers of an action (None: discrete).
            shared_trunk: of the PPOConfig.

        Raises:
            ValueError: one does not; the message names it.
        """
        if (estimate := self.estimate) is not None:
            told, beside = obs_size - len(estimate), value_size - obs_size
            if int(estimate.inputs.max()) >= told or int(estimate.truth.max()) >= beside:
                raise ValueError(
                    f"the estimate is of column {int(estimate.truth.max())} from column {int(estimate.inputs.max())}, "
                    f"and the value function alone is told {beside} numbers, the policy {told}"
                )
        actions = "discrete" if action_size is None else action_size
        task = f"the task has {value_size} numbers observed and {actions} actions"
        if self.prior is not None and tuple(self.prior.direct.shape) != (action_size, obs_size):
            given, taken = self.prior.direct.shape
            seen = "" if obs_size == value_size else f", and the policy sees {obs_size} of them"
            raise ValueError(f"the prior makes {given} actions of {taken} numbers observed, but {task}{seen}")
        if self.symmetry is not None:
            sizes = self.symmetry.observations.shape[1], self.symmetry.actions.shape[1]
            if sizes != (value_size, action_size):
                raise ValueError(
                    f"the symmetry is one of {sizes[0]} numbers observed and {sizes[1]} actions, but {task}"
                )
            if self.symmetry.observations[:, :obs_size, obs_size:].any():
                raise ValueError(
                    f"the symmetry makes some of the {obs_size} numbers that the policy sees from the other "
                    f"{value_size - obs_size}, which only the value function gets: turn each group by itself"
                )
        if (scale := self.input_scale) is not None:
            shape = tuple(scale.shape)
            if shape != (value_size,) or not ((scale > 0) & scale.isfinite()).all():
                raise ValueError(
                    f"input_scale needs {value_size} positive finite numbers, one for each of the observation, got "
                    f"{scale.tolist() if len(shape) == 1 else shape}"
                )
        if (taken_in := self.value_inputs) is not None:
            if taken_in.dtype != torch.bool or tuple(taken_in.shape) != (value_size,):
                raise ValueError(
                    f"value_inputs needs {value_size} booleans, one for each number of the observation, got "
                    f"{taken_in.dtype} {tuple(taken_in.shape)}"
                )
            if shared_trunk:
                raise ValueError(
                    "value_inputs needs a value function with hidden layers of its own: shared_trunk=False"
                )

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Structure:
        """The structure in the state dict of an Agent, without `encoders`, of which it holds the weights alone.

        Raises:
            KeyError, TypeError, ValueError: what is there is incomplete or does not fit together.
        """
        return cls(
            FeedbackPrior.from_state(state),
            state.get("input_scale"),
            Symmetry.from_state(state),
            state.get("value_inputs"),
            Estimate.from_state(state),
        )


def structure_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the structures in the state dicts of two Agents: a text for each part."""
    found = []
    for part in fields(Structure):
        parts = [_part(state, part.name) for state in (then, now)]
        if bool(parts[0]) != bool(parts[1]):
            words = ["one" if one else "none" for one in parts]
            found.append(f"{part.name} (then {words[0]}, now {words[1]})")
        elif where := _first_difference(*parts):
            found.append(f"another {part.name} ({where})")
    return found


def _part(state: Mapping[str, Any], name: str) -> dict[str, torch.Tensor]:
    """The tensors of one part, by their names in it."""
    return {
        key.removeprefix(name).removeprefix("."): x
        for key, x in state.items()
        if key == name or key.startswith(f"{name}.")
    }


def _first_difference(then: dict[str, torch.Tensor], now: dict[str, torch.Tensor]) -> str:
    """Where two parts differ first, and by what; empty: they are equal."""
    if then.keys() != now.keys():
        return f"then {', '.join(then)}, now {', '.join(now)}"
    for name in then:
        a, b = then[name].cpu(), now[name].cpu()
        if a.shape != b.shape:
            return f"{name or 'its'} shape then {tuple(a.shape)}, now {tuple(b.shape)}"
        if not torch.equal(a, b):
            place = (a != b).nonzero()[0].tolist()
            return f"{name}{place} then {a[*place].item():g}, now {b[*place].item():g}"
    return ""
