"""Learning rate over a run: by the fraction of training that remains, or by the KL divergence."""

from __future__ import annotations

import math

from ballbot.ppo.config import Schedule


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


def adapt_lr(lr: float, approx_kl: float, target_kl: float, low: float, high: float) -> float:
    """Learning rate for the next update, given the KL divergence the last one reached.

    Factor and thresholds follow rsl_rl: 1.5 times slower above twice the target, 1.5 times faster below half
        of it.
    """
    if approx_kl > 2 * target_kl:
        lr /= 1.5
    elif approx_kl < 0.5 * target_kl:
        lr *= 1.5
    return min(max(lr, low), high)
