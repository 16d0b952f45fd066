"""Distributions that actions are drawn from: a Gaussian, or choices among options."""

from __future__ import annotations

import math
from collections.abc import Sequence

import gymnasium as gym
import numpy as np
import torch
from torch import nn

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
NEVER = -1e9
"""Logit of what cannot be chosen: finite, so that 0 times it is 0."""


def gaussian_logprob(x: torch.Tensor, mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """Log density of a diagonal Gaussian at `x` (..., dim), summed over the last axis."""
    return (-0.5 * ((x - mean) * torch.exp(-log_std)) ** 2 - log_std - HALF_LOG_2PI).sum(-1)


def gaussian_entropy(log_std: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of a diagonal Gaussian with `log_std` (..., dim), summed over the last axis."""
    return (log_std + 0.5 + HALF_LOG_2PI).sum(-1)


def categorical_logprob(action: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Log probability of the indices `action` (...) under `logits` (..., n)."""
    return logits.log_softmax(-1).gather(-1, action.long().unsqueeze(-1)).squeeze(-1)


def categorical_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of the categorical distribution with `logits` (..., n)."""
    logp = logits.log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


class Choices(nn.Module):
    """An action that is one choice, or several independent ones, by the logits of all their options in a row."""

    used: torch.Tensor
    start: torch.Tensor

    def __init__(self, counts: Sequence[int], starts: Sequence[int], single: bool) -> None:
        """Keep what there is to choose.

        Args:
            counts: options of each choice.
            starts: what the environments call the first option of each.
            single: whether the action is one index, without an axis of its own.
        """
        super().__init__()
        self.counts, self.size = tuple(counts), sum(counts)
        self.shape: tuple[int, ...] = () if single else (len(counts),)
        """Of the indices that are drawn."""
        used = torch.arange(max(counts)) < torch.tensor(counts).unsqueeze(1)
        self.register_buffer("used", used.flatten().nonzero().flatten(), persistent=False)
        self.register_buffer("start", torch.tensor(starts).reshape(self.shape), persistent=False)

    def draw(self, output: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Indices (batch, *shape): exact samples if `noise` is standard Gumbel (the Gumbel-max trick), else the mode.

        Args:
            output: (batch, size) logits.
            noise: same.
        """
        return self._logits(output if noise is None else output + noise).argmax(-1)

    def logprob(self, action: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Log probability (batch,) of the indices `action` (batch, *shape)."""
        return self._sum(categorical_logprob(action, self._logits(output)))

    def entropy(self, output: torch.Tensor) -> torch.Tensor:
        """Entropy (batch,) in nats."""
        return self._sum(categorical_entropy(self._logits(output)))

    def _logits(self, output: torch.Tensor) -> torch.Tensor:
        """(batch, *shape, most options)."""
        if not self.shape:
            return output
        rows, most = len(self.counts), max(self.counts)
        if self.size < rows * most:  # what some choices have no option for never happens
            whole = output.new_full((*output.shape[:-1], rows * most), NEVER)
            output = whole.index_copy(-1, self.used, output)
        return output.view(*output.shape[:-1], rows, most)

    def _sum(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(-1) if self.shape else x


def choices_of(space: gym.Space[object]) -> Choices | None:
    """The choices that actions of a space are; None: it is a Box of floats.

    Raises:
        TypeError: actions of this space cannot be drawn.
    """
    if isinstance(space, gym.spaces.Discrete):
        return Choices([int(space.n)], [int(space.start)], single=True)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return Choices(space.nvec.flatten().tolist(), space.start.flatten().tolist(), single=False)
    if isinstance(space, gym.spaces.MultiBinary):
        size = math.prod(space.shape)
        return Choices([2] * size, [0] * size, single=False)
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return None
    raise TypeError(
        f"actions must be a Box of floats, Discrete, MultiDiscrete or MultiBinary, got {space}; wrap the environments, "
        "e.g. with TransformAction"
    )
