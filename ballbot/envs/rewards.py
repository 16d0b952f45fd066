"""The reward, one small pure function a term.

Per step: 0.01 v.g + 0.02 [not fallen] - 0.0001 |a|^2 (Salehi 2025, arXiv:2505.18417, section IV).  An upright robot
earns 80 in 4000 steps, plus 40 per m/s along the goal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PROGRESS_WEIGHT = 0.01  # per m/s and step
SURVIVAL_WEIGHT = 0.02  # per step
ACTION_WEIGHT = 0.0001  # per step
MAX_REWARDED_SPEED = 2.0  # m/s, on each axis of the velocity


def progress(velocity_xy: Array, goal: Array) -> Array:
    """Speed along the goal.

    Args:
        velocity_xy: (2, n) horizontal velocity of the base in the world, m/s; clipped to +-2.
        goal: (2,) unit vector of the direction of travel, world frame.

    Returns:
        (n,) reward.
    """
    clipped = np.minimum(np.maximum(velocity_xy, -MAX_REWARDED_SPEED), MAX_REWARDED_SPEED)
    return PROGRESS_WEIGHT * (goal[0] * clipped[0] + goal[1] * clipped[1])


def tracking(velocity_xy: Array, goal: Array, target_speed: float) -> Array:
    """Stand-in for ``progress`` in training: most at ``target_speed`` along the goal, and less around it.

    A paraboloid that, for a robot at rest, is 0 and rises along the goal as steeply as ``progress``.

    Args:
        velocity_xy: as for ``progress``.
        goal: as for ``progress``.
        target_speed: m/s, above 0.

    Returns:
        (n,) reward, at most half of what ``progress`` pays at the target.
    """
    missing = np.minimum(np.maximum(velocity_xy, -MAX_REWARDED_SPEED), MAX_REWARDED_SPEED)
    missing -= target_speed * goal[:, None]
    squared = missing[0] ** 2 + missing[1] ** 2
    return PROGRESS_WEIGHT / 2 * (target_speed - squared / target_speed)


def survival(fallen: NDArray[np.bool_]) -> Array:
    """A constant for every step that does not end in a fall; fallen is (n,)."""
    return np.where(fallen, 0.0, SURVIVAL_WEIGHT)


def action_cost(actions: Array) -> Array:
    """Penalty on the squared length of the (n, 3) actions, as applied (clipped to [-1, 1])."""
    return -ACTION_WEIGHT * np.einsum("nk,nk->n", actions, actions)
