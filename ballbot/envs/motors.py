"""What actions ask of wheels, and the torques by which motors follow."""

from __future__ import annotations

from typing import Any

import numpy as np

from ballbot.envs.checks import check_state_array
from ballbot.envs.mechanics import Mechanics
from ballbot.envs.step import Array

FOLLOWED_WITHIN = 0.05
"""s in which a motor that is asked for an angle would make up for what it lacks, at the speed that it corrects by."""


class Motors:
    """Those of n robots.

    An action of 1 asks a wheel for the reverse of: "torque", all that its motor has; "wheel_speed", that at which it
    runs free; "wheel_position", to be as much further in each step as it comes at that speed, as pulses do that
    stepper motors and servo drives count.  Speeds and positions are followed by the motors' own controllers, which know
    nothing of the robot.

    Args:
        action: ``WorldConfig.action``: "torque", "wheel_speed" or "wheel_position".
        num: robots.
        mechanics: theirs.
        dt: s of a step.
    """

    def __init__(self, action: str, num: int, mechanics: Mechanics, dt: float) -> None:
        self.action, self._mechanics, self._dt = action, mechanics, dt
        self.behind = np.zeros((num, mechanics.wheels))
        """(n, wheels) rad that each wheel lacks of the position it was asked for, never more than all of the torque
        makes up for: a wheel that is held does not go back for what it missed."""

    def torques(self, actions: Array, wheel_speeds: Array) -> Array:
        """(n, wheels) N m in this step, for (n, wheels) actions, at (n, wheels) rad/s."""
        mechanics = self._mechanics
        if self.action == "torque":
            return np.asarray(-mechanics.torque * actions)
        speeds = -mechanics.free_speed * actions
        if self.action == "wheel_speed":
            return mechanics.tracking(speeds, wheel_speeds)
        stiffness = stiffness_of(mechanics)
        slack = mechanics.torque / stiffness
        self.behind = np.clip(self.behind + self._dt * (speeds - wheel_speeds), -slack, slack)
        return mechanics.tracking(speeds, wheel_speeds, stiffness * self.behind)

    def begin(self, ids: Any) -> None:
        """Where the wheels of robots ``ids`` are is where they shall be."""
        self.behind[ids] = 0.0

    def check_state(self, state: dict[str, Any]) -> Array | None:
        """``behind`` of a state, None where it says nothing here; ValueError if it is damaged."""
        return check_state_array(state, "behind", self.behind) if self.action == "wheel_position" else None

    def get_state(self) -> dict[str, Array]:
        """What decides the future."""
        return {"behind": self.behind.copy()} if self.action == "wheel_position" else {}


def stiffness_of(mechanics: Mechanics) -> Any:
    """N m per rad that a wheel lacks, of a motor that is asked for positions; a column of robots that differ."""
    return mechanics.speed_gain / FOLLOWED_WITHIN
