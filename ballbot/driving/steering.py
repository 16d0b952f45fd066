"""What keys and sticks tell a robot.

In MuJoCo's viewer, which tells when keys are pressed and not when they are let go, each press changes what is told.
Velocity: the arrows make it faster ahead, back, to its left and right, Home and End turn it.  Goal: the arrows are
directions of the world, up is y.  Point: they move the place.  Enter tells it to stand, or to come to where it is.

A stick is held, along directions of the world, and says a velocity or a goal as long as it is, or moves the place.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.envs import BallbotVectorEnv
from ballbot.envs.commanded import Limits
from ballbot.envs.commands import Goal, Point, Velocity
from ballbot.envs.step import RobotState
from ballbot.errors import SettingsError

Array = NDArray[np.float64]

RIGHT, LEFT, DOWN, UP, HOME, END, ENTER = 262, 263, 264, 265, 268, 269, 257
SPACE, BACKSPACE, INSERT, DELETE = 32, 259, 260, 261
"""GLFW's codes of the keys.  MuJoCo's viewer takes nearly all letters for itself."""
ARROWS = {RIGHT: (1.0, 0.0), LEFT: (-1.0, 0.0), DOWN: (0.0, -1.0), UP: (0.0, 1.0)}
"""To the right and up."""
SPEED_STEP, TURN_STEP, PLACE_STEP = 0.05, 0.2, 0.1
"""m/s, rad/s and m a key press."""
PLACE_SPEED = 0.5
"""m/s at which a stick moves a place, a little faster than robots are."""
DEAD = 0.05
"""How far a stick may be off its middle and still say nothing."""


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


def by_stick(
    command: Any, values: Array, stick: Array, turn: float, robots: RobotState, limits: Limits, seconds: float
) -> Array:
    """What a robot is told while a stick is held.

    Args:
        command: of which kind.
        values: (size,) what it is told now.
        stick: (2,) along the world's x and y, at most 1 long; a goal is told by its direction alone.
        turn: from -1 to 1, to the left.
        robots: a single one, as it is now.
        limits: of what may be asked for.
        seconds: since the last call; a place moves so long.

    Returns:
        (size,) what it is told, within the limits.
    """
    if isinstance(command, Velocity):
        ahead, left = robots.to_heading(stick[:, None])[:, 0] * min(command.max_speed, 0.999 * limits.speed)
        return np.array([ahead, left, turn * command.max_yaw_rate])
    if isinstance(command, Point):
        return np.clip(values + PLACE_SPEED * seconds * stick, -limits.reach, limits.reach)
    length = float(np.hypot(*stick))
    return stick / length if length > DEAD else np.zeros(2)


def standing(command: Any, position: Array) -> Array:
    """What a robot is told that is to stay where it is, (2,) m.

    Raises:
        SettingsError: keys and sticks do not say anything for this kind of command.
    """
    if isinstance(command, Point):
        return position.copy()
    if isinstance(command, (Velocity, Goal)):
        return np.zeros(command.size)
    raise SettingsError(f"keys say no {type(command).__name__.lower()}: take --command goal, velocity or point")


class Steering:
    """Takes keys in the viewer's thread, and tells the robot in the thread that steps it.

    Args:
        envs: a single robot.
    """

    def __init__(self, envs: BallbotVectorEnv) -> None:
        self._envs = envs
        self._keys: SimpleQueue[int] = SimpleQueue()
        self._kept: Array | None = None
        self.others: dict[int, Callable[[], None]] = {}
        """What other keys do."""
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
            if key in self.others:
                self.others[key]()
                continue
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
