"""Running statistics of observations and rewards, as module buffers that travel in checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ballbot.ppo.distributed import all_reduce_sum

VALUE_DECAY = 0.9
"""Weight of the past in the running mean and standard deviation of returns, from a rollout to the next."""
MIN_VALUE_STD = 1e-3
"""Smallest standard deviation that values are learned in: of equal returns, rounding errors would be all."""


def masked_moments(
    x: torch.Tensor, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Count, mean and population variance of `x` over its first axis, over all processes, in float64.

    Args:
        x: (batch, ...) values.
        mask: (batch,) bool, True where a row counts (None: all do); what stands in the others does not matter.
    """
    x = x.double()
    weight = torch.ones(len(x), dtype=x.dtype, device=x.device)
    if mask is not None:
        weight = mask.double()
        x = x.masked_fill(~mask.view(-1, *(1,) * (x.ndim - 1)), 0.0)  # 0 * NaN would be NaN
    count = all_reduce_sum(weight.sum())
    weight = weight.view(-1, *(1,) * (x.ndim - 1))
    # Two passes: the textbook one-pass formula loses all digits when the mean is large against the spread.
    mean = all_reduce_sum((weight * x).sum(0)) / count.clamp(min=1)
    var = all_reduce_sum((weight * (x - mean) ** 2).sum(0)) / count.clamp(min=1)
    return count, mean, var


class RunningNormalizer(nn.Module):
    """Shift and scale values by their running mean and standard deviation.

    Statistics are float64, those of all processes, and change only in `update`; `forward` reads them. Before the first
    `update` it clips and does nothing else.
    """

    count: torch.Tensor
    """() of all values alike; (*shape) where some were taken over from another run and others were not."""
    mean: torch.Tensor
    var: torch.Tensor

    def __init__(self, shape: tuple[int, ...], clip: float | None = 10.0, eps: float = 1e-8) -> None:
        """Start with no data.

        Args:
            shape: shape of one value, without the batch axis.
            clip: bound of the normalised values; 10 standard deviations are an outlier, not a signal (None:
                no bound).
            eps: added to the variance, so that a constant feature does not divide by zero.
        """
        super().__init__()
        self.clip = clip
        self.eps = eps
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))

    @property
    def measured(self) -> bool:
        """Whether there are statistics of every value."""
        return bool((self.count > 0).all())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        count = state_dict.get(f"{prefix}count")
        if isinstance(count, torch.Tensor) and count.shape in ((), self.mean.shape):
            self.count = self.count.new_zeros(count.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise `x` (..., *shape)."""
        scale = torch.rsqrt(self.var + self.eps).to(x.dtype)
        # Subtract before scaling: mean * scale may be large, and the difference of two large float32 numbers
        # is noise.
        y = (x - self.mean.to(x.dtype)) * scale
        return y if self.clip is None else y.clamp(-self.clip, self.clip)

    @torch.no_grad()
    def update(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        """Merge a batch (batch, *shape), over all processes, into the statistics; `mask` (batch,) tells what counts.

        Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
        variances", eq. 2.1.
        """
        count, mean, var = masked_moments(x, mask)
        total = self.count + count
        fraction = count / total.clamp(min=1)
        delta = mean - self.mean
        self.var.copy_(self.var + fraction * (var - self.var) + fraction * (1 - fraction) * delta**2)
        self.mean.copy_(self.mean + fraction * delta)
        self.count.copy_(total)


class RewardScaler(nn.Module):
    """Divide rewards by the running standard deviation of the discounted return.

    Engstrom et al. 2020, "Implementation matters in deep RL", arXiv:2005.12729, sec. 3. The mean is left
    alone: shifting rewards would change which behaviour is best. Each step is scaled by what was known when it was
    taken, so the very first rewards may be clipped.
    """

    discounted: torch.Tensor

    def __init__(self, num_envs: int, gamma: float, clip: float = 10.0) -> None:
        """Start with no data.

        Args:
            num_envs: environments of this process.
            gamma: discount factor.
            clip: bound of the scaled rewards.
        """
        super().__init__()
        self.gamma = gamma
        self.clip = clip
        self.statistics = RunningNormalizer((), clip=None)
        self.register_buffer("discounted", torch.zeros(num_envs, dtype=torch.float64))

    @torch.no_grad()
    def update_and_scale(self, rewards: torch.Tensor, ended: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """Learn from one rollout and scale it.

        Args:
            rewards: (num_steps, num_envs).
            ended: (num_steps, num_envs) bool, True where the step ended an episode.
            valid: (num_steps, num_envs) bool, False in rows that are no real step (None: all are real).

        Returns:
            (num_steps, num_envs) scaled rewards.
        """
        scaled = torch.empty_like(rewards)
        for t in range(len(rewards)):
            self.discounted.mul_(self.gamma).add_(rewards[t] if valid is None else rewards[t] * valid[t])
            self.statistics.update(self.discounted, None if valid is None else valid[t])
            self.discounted.masked_fill_(ended[t], 0.0)
            scaled[t] = rewards[t] * torch.rsqrt(self.statistics.var + self.statistics.eps)
        return scaled.clamp(-self.clip, self.clip)


class ValueScale(nn.Module):
    """Mean and standard deviation of recent returns, in whose units a value network learns.

    When they move, the network's last layer is changed so that its values stay what they are (PopArt; van Hasselt et
    al. 2016, arXiv:1602.07714).
    """

    mean: torch.Tensor
    std: torch.Tensor
    updates: torch.Tensor

    def __init__(self) -> None:
        """Start at mean 0 and standard deviation 1, which the first `update` replaces."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Values of outputs of the last layer."""
        return x * self.std + self.mean

    @torch.no_grad()
    def update(self, returns: torch.Tensor, mask: torch.Tensor | None, head: nn.Linear) -> None:
        """Take in the returns (batch,) of a rollout, those where `mask` (batch,) is set, and mend the last layer."""
        _, mean, var = masked_moments(returns, mask)
        past = VALUE_DECAY if self.updates else 0.0
        new_mean = past * self.mean + (1 - past) * mean.float()
        new_std = (past * self.std + (1 - past) * var.sqrt().float()).clamp(min=MIN_VALUE_STD)
        head.weight.mul_(self.std / new_std)
        head.bias.mul_(self.std).add_(self.mean - new_mean).div_(new_std)
        self.mean.copy_(new_mean)
        self.std.copy_(new_std)
        self.updates += 1
