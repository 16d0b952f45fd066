"""A network in front of the policy's own, that estimates from what the policy sees something that it does not.

Where a policy was trained on numbers that no sensor tells, such as the heights of the ground around, and a value
function still gets these in training, a student sees their estimates instead.  For `PPOConfig.imitation_timesteps` the
estimator learns what the true numbers are, where the student itself drives; then it stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ballbot.ppo.layers import hidden_layers, layer

UNSURE = 0.3
"""Length of an estimated direction below which it stays short."""


class Estimate(nn.Module):
    """What is estimated, and from what: the part of an `Estimator` that is given, not learned.

    Args:
        inputs: (k,) which numbers that the policy sees.
        scale: (k,) factors on them, and (m,) `unit` the size of what is estimated.
        truth: (m,) which numbers, of those that only the value function sees, are estimated; counted from 0.
        directions: (k, 2) which pairs of what is estimated are unit vectors, brought to that length; None: none.
    """

    inputs: torch.Tensor
    scale: torch.Tensor
    truth: torch.Tensor
    unit: torch.Tensor
    directions: torch.Tensor | None

    def __init__(
        self,
        inputs: torch.Tensor,
        scale: torch.Tensor,
        truth: torch.Tensor,
        unit: torch.Tensor,
        directions: torch.Tensor | None = None,
    ) -> None:
        """Keep what is given.

        Raises:
            ValueError: shapes do not fit, a number is named twice, or a factor is not above 0 and finite.
        """
        super().__init__()
        given = {"inputs": inputs, "scale": scale, "truth": truth, "unit": unit}
        for name, like in (("inputs", scale), ("truth", unit)):
            columns, factors = given[name], torch.as_tensor(like)
            if columns.ndim != 1 or not len(columns) or columns.shape != factors.shape:
                raise ValueError(f"an estimate needs as many factors as {name}, one or more, got {len(factors)}")
            if len(set(columns.tolist())) < len(columns) or columns.min() < 0:
                raise ValueError(f"{name} of an estimate must be different columns from 0 up, got {columns.tolist()}")
            if not ((factors > 0) & factors.isfinite()).all():
                raise ValueError(f"factors of an estimate must be above 0 and finite, got {factors.tolist()}")
        for name, tensor in given.items():
            whole = name in ("inputs", "truth")
            self.register_buffer(name, torch.as_tensor(tensor).to(torch.int64 if whole else torch.float32).clone())
        if directions is not None and (
            directions.ndim != 2 or directions.shape[1] != 2 or directions.max() >= len(truth)
        ):
            raise ValueError(f"directions must be pairs of the {len(truth)} estimates, got {directions.tolist()}")
        self.register_buffer("directions", None if directions is None else directions.to(torch.int64).clone())

    def __len__(self) -> int:
        """Numbers that are estimated."""
        return len(self.truth)

    @classmethod
    def from_state(cls, state: Mapping[str, torch.Tensor]) -> Estimate | None:
        """The one in the state dict of an Agent; None: it has none.

        Raises:
            KeyError, ValueError: what is there is incomplete or does not fit together.
        """
        if not any(name.startswith("estimate.") for name in state):
            return None
        inputs, scale, truth, unit = (state[f"estimate.{name}"] for name in ("inputs", "scale", "truth", "unit"))
        return cls(inputs, scale, truth, unit, state.get("estimate.directions"))


class Estimator(nn.Module):
    """(batch, seen) numbers that the policy sees, as they are, to (batch, m) estimates.

    Args:
        estimate: of what, from what; not kept, but for its shapes.
        hidden_size: of two layers.
        generator: source of the initial weights.
    """

    def __init__(self, estimate: Estimate, hidden_size: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.layers = hidden_layers([len(estimate.inputs), hidden_size, hidden_size], "elu", generator)
        self.head = layer(hidden_size, len(estimate), 0.1, generator)

    def forward(self, estimate: Estimate, rows: torch.Tensor) -> torch.Tensor:
        """Estimates of rows (batch, seen) and more."""
        found = self.raw(estimate, rows)
        if estimate.directions is None:
            return found
        first, second = estimate.directions[:, 0], estimate.directions[:, 1]
        x, y = found[:, first], found[:, second]
        length = (x * x + y * y).sqrt().clamp(min=UNSURE)
        return found.index_copy(1, first, x / length).index_copy(1, second, y / length)

    def raw(self, estimate: Estimate, rows: torch.Tensor) -> torch.Tensor:
        """The same before directions are brought to length 1: shorter where they are unsure."""
        seen = rows.index_select(1, estimate.inputs).float() * estimate.scale
        found: torch.Tensor = self.head(self.layers(seen)) * estimate.unit
        return found
