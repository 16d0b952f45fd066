"""Tell a robot what to do from the keyboard of MuJoCo's viewer.

Velocity: the arrows make it faster ahead, back, to its left and right, Home and End turn it.  Goal: the arrows are
directions of the world, up is y.  Point: they move the place.  Enter tells it to stand, or to come to where it is.
"""

from __future__ import annotations

from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.envs import BallbotVectorEnv
from ballbot.envs.commands import Goal, Point, Velocity
from ballbot.errors import SettingsError

Array = NDArray[np.float64]

RIGHT, LEFT, DOWN, UP, HOME, END, ENTER = 262, 263, 264, 265, 268, 269, 257
"""GLFW's codes of the keys."""
ARROWS = {RIGHT: (1.0, 0.0), LEFT: (-1.0, 0.0), DOWN: (0.0, -1.0), UP: (0.0, 1.0)}
"""To the right and up."""
SPEED_STEP, TURN_STEP, PLACE_STEP = 0.05, 0.2, 0.1
"""m/s, rad/s and m a key press."""


def steered(command: Any, values: Array, key: int, position: Array) -> Array | None:
    """What the robot is told after a key was pressed; None if the key says nothing for this kind of command.

    Args:
        command: of which kind.
        values: (size,) what it is told now.
        key: GLFW's code.
        position: (2,) where the robot is, m.
    """
    x, y = ARROWS.get(key, (0.0, 0.0))
    if isinstance(command, Velocity):
        turn = {HOME: TURN_STEP, END: -TURN_STEP}.get(key, 0.0)
        if key == ENTER:
            return np.zeros(3)
        changed = values + np.array([SPEED_STEP * y, -SPEED_STEP * x, turn])
        return None if (changed == values).all() else np.round(changed, 9)  # 0 is 0 again, there and back
    if isinstance(command, Goal):
        return np.array([x, y]) if key in ARROWS or key == ENTER else None
    if isinstance(command, Point):
        if key == ENTER:
            return position.copy()
        return values + PLACE_STEP * np.array([x, y]) if key in ARROWS else None
    return None


class Steering:
    """Takes keys in the viewer's thread, and tells the robot in the thread that steps it.

    Args:
        envs: a single robot.
    """

    def __init__(self, envs: BallbotVectorEnv) -> None:
        self._envs = envs
        self._keys: SimpleQueue[int] = SimpleQueue()
        self._kept: Array | None = None
        envs.on_key = self.press

    def press(self, key: int) -> None:
        """A key was pressed."""
        self._keys.put(key)

    def apply(self, began: bool = False) -> str:
        """Tell the robot what the keys say since the last call, in a new episode what they said before.

        Returns:
            what it is told now, or why that is refused, in words; "" if nothing changed.
        """
        envs, command, said = self._envs, self._envs.world.told.command, ""
        if began and self._kept is not None:
            envs.set_command(self._kept)
        while True:
            try:
                key = self._keys.get_nowait()
            except Empty:
                return said
            values = steered(command, envs.command[0], key, envs.world.robots.position[:2, 0])
            if values is None:
                continue
            try:
                envs.set_command(values)
            except SettingsError as error:
                said = str(error)
                continue
            self._kept = envs.command[0]
            said = f"told: {', '.join(f'{x + 0.0:.2f}' for x in self._kept)}"
