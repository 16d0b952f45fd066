"""Learning rate over a run: by the fraction of training that remains, or by the KL divergence."""

from __future__ import annotations

import math

from ballbot.ppo.config import Schedule

KL_STOP_FACTOR = 1.5
"""An update ends at this multiple of target_kl, as in Spinning Up: the target is an aim, not a limit."""


def scheduled_lr(schedule: Schedule, learning_rate: float, remaining: float) -> float:
    """Learning rate with a fraction `remaining` (1 at the start, 0 at the end) of training still to come.

    "piecewise" is the published ball-balancing schedule (Salehi 2025, arXiv:2505.18417): 1, 0.5, 0.1 times
    the initial rate while more than 70 %, more than 50 %, and less of training remains. "adaptive" starts at
    `learning_rate` and is then driven by `adapt_lr`.
    """
    if schedule == "linear":
        return learning_rate * remaining
    if schedule == "cosine":
        return learning_rate * 0.5 * (1 - math.cos(math.pi * remaining))
    if schedule == "piecewise":
        return learning_rate * (1.0 if remaining > 0.7 else 0.5 if remaining > 0.5 else 0.1)
    return learning_rate


def scheduled_std(initial: float, final: float | None, remaining: float, share: float = 1.0) -> float:
    """Highest standard deviation of the noise with a fraction `remaining` of training still to come.

    It falls over the first `share` of training.
    """
    if final is None:
        return math.inf
    remaining = max(1 - (1 - remaining) / share, 0.0) if share < 1 else remaining  # the same bits as ever with 1
    return initial**remaining * final ** (1 - remaining)


def adapt_lr(lr: float, approx_kl: float, target_kl: float, low: float, high: float) -> float:
    """Learning rate for the next update, given the KL divergence the last one reached.

    1.5 times slower above KL_STOP_FACTOR times the target, 1.5 times faster below half of it. The factor and the lower
    threshold are those of rsl_rl; its upper one, twice the target, would hardly ever be reached here, where an update
    stops earlier.
    """
    if approx_kl > KL_STOP_FACTOR * target_kl:
        lr /= 1.5
    elif approx_kl < 0.5 * target_kl:
        lr *= 1.5
    return min(max(lr, low), high)
