"""The robot's symmetry: three equal wheels, 120° apart, so that turned by as much it is the same robot.

It has no mirror symmetry: its wheels sit askew, see ``rolling_wheel_speeds``.  The two camera arms, 4 % of the mass,
break the symmetry a little, and what the cameras see has no counterpart on the other sides.
"""

from __future__ import annotations

import numpy as np
import torch

from ballbot.controllers import wheel_shares
from ballbot.envs.observations import OBSERVATION_SIZES
from ballbot.ppo import Symmetry


def robot_symmetry(observation_size: int) -> Symmetry:
    """Turns by 0, 120 and 240 degrees.

    Args:
        observation_size: of ``frame="body"``, 17; the numbers of the cameras may follow.

    Raises:
        ValueError: the wheels are not alike, so there is no such symmetry.
    """
    body = OBSERVATION_SIZES["body"]
    turn = np.array([[-0.5, -np.sqrt(0.75)], [np.sqrt(0.75), -0.5]])
    shares = wheel_shares()
    # what wheel i does when the robot rolls along a turned way, wheel j does along the way itself
    swap = np.isclose((shares @ turn)[:, None], shares[None], atol=1e-6).all(axis=2).astype(float)
    if not (swap.sum(axis=0) == 1).all():
        raise ValueError(f"turned by 120°, the wheels do not take each other's places: their shares are {shares}")
    observation, at = np.zeros((observation_size, observation_size)), 0
    # gravity, angular velocity and velocity; goal; wheel speeds; last action
    around = np.block([[turn, np.zeros((2, 1))], [np.zeros((1, 2)), np.ones((1, 1))]])
    for block in (around, around, around, turn, swap, swap):
        observation[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    assert at == body
    observations = np.stack([np.eye(observation_size), observation, observation @ observation])
    return Symmetry(torch.from_numpy(observations), torch.from_numpy(np.stack([np.eye(3), swap, swap @ swap])))
