"""A linear controller that travels: what a learned policy that is worth its training beats.

The speed that is missing asks for a lean towards the goal, the lean that is missing for a torque:

    lean   = kv (target - velocity)          rad, horizontal, at most 0.15
    torque = -(kp (tilt - lean) + kd rate)   shared among the wheels as rolling would turn them

It reads the observation of ``frame="body"`` and nothing else, as a policy does.  ``experiments/fit_linear.py`` found
the gains.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from ballbot.envs.model import build_model, rolling_wheel_speeds
from ballbot.ppo import FeedbackPrior

MAX_LEAN = 0.15
"""rad.  What the robot leans on purpose; it lies at 0.35."""
PRIOR_LEAN = 0.1
"""rad.  The same without the slow start."""
START_TIME = 1.0
"""s, in which the target rises from 0."""


@dataclass
class LinearController:
    """Tilt, rate and velocity feedback towards a speed along the goal.

    Args:
        dt: seconds between two calls.
        kp: action per rad of tilt.
        kd: action per rad/s of tilt.
        kv: rad of lean per m/s of missing speed.
        target_speed: m/s along the goal.

    The gains may be arrays, one number a robot.
    """

    dt: float
    kp: NDArray[np.float64] | float = 36.9
    kd: NDArray[np.float64] | float = 1.7
    kv: NDArray[np.float64] | float = 0.766
    target_speed: NDArray[np.float64] | float = 0.319

    def __post_init__(self) -> None:
        self._elapsed: NDArray[np.float64] | float = 0.0

    def __call__(self, observations: NDArray[np.float32], began: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Actions (n, 3) for observations (n, 17) of ``frame="body"``; ``began`` (n,) marks first steps of episodes."""
        self._elapsed = np.where(began, 0.0, self._elapsed + self.dt)
        x = observations.T.astype(np.float64)
        down, rate, velocity, goal = x[0:3], x[3:6], x[6:8], x[9:11]
        target = self.target_speed * np.minimum(self._elapsed / START_TIME, 1.0) * goal
        lean = np.clip(self.kv * (target - velocity), -MAX_LEAN, MAX_LEAN)
        # small angles: the body's axes x and y lean forward where gravity, seen from the body, has a part along them
        ahead = self.kp * (down[0] - lean[0]) + self.kd * rate[1]
        left = self.kp * (down[1] - lean[1]) - self.kd * rate[0]
        actions = -np.stack([ahead, left]).T @ wheel_shares().T
        return np.clip(actions, -1.0, 1.0).astype(np.float32)


def feedback_prior(
    observation_size: int, target_speed: float, kp: float = 36.9, kd: float = 1.7, kv: float = 0.766
) -> FeedbackPrior:
    """The same law for a policy to start from.

    It leans less, because it does without the slow start, which a law without memory cannot have.

    Args:
        observation_size: of ``frame="body"``, 17, and as many as follow.
        target_speed: m/s along the goal.
        kp: gain, see ``LinearController``.
        kd: the same.
        kv: the same.
    """
    shares = torch.from_numpy(wheel_shares())  # (3, 2)
    tilt = torch.zeros(2, observation_size, dtype=torch.float64)
    tilt[0, 0], tilt[0, 4] = kp, kd
    tilt[1, 1], tilt[1, 3] = kp, -kd
    lean = torch.zeros(2, observation_size, dtype=torch.float64)
    lean[0, 9] = lean[1, 10] = kv * target_speed
    lean[0, 6] = lean[1, 7] = -kv
    return FeedbackPrior(-shares @ tilt, kp * shares, lean, torch.full((2,), PRIOR_LEAN))


@cache
def wheel_shares() -> NDArray[np.float64]:
    """(3, 2): how fast each wheel turns when the robot rolls along its x and its y axis, 1 for the fastest."""
    speeds = rolling_wheel_speeds(build_model())
    return speeds / np.abs(speeds).max()
