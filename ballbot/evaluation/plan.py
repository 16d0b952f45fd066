"""The ground around a robot from above, and what its policy takes it for: what it estimates, beside the truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.observations import Layout, places_around, ring_places
from ballbot.envs.physics import Physics

Frame = NDArray[np.uint8]
Floats = NDArray[np.floating]

REACH = 0.7
"""m from the ball to the sides of the plan."""
HIGHEST = 0.15
"""m above the ground under the ball, or below it, that is drawn in the brightest and darkest grey."""
DOT = 0.038
"""m, radius of an estimated height."""
LINE = 0.014
"""m, half the width of a line; that of what is true is twice as wide and shows beside one that covers it."""
BALL = 0.05
"""m, radius of the ring in the middle."""
TRUE, ESTIMATED = (70, 150, 255), (255, 140, 0)
"""Colours, red, green and blue of 255."""


def plan(sims: Physics, layout: Layout, truth: Floats, estimates: Floats, size: int) -> Frame:
    """(size, size, 3) the ground around simulation 0, the robot's heading up.

    Of a unit vector that says where to go, two lines from the middle, what is true and what is estimated.  Of heights
    around, dots of their grey; where they are estimated well they hardly differ from the ground about them.

    Args:
        sims: the world.
        layout: of what is estimated.
        truth: (layout.size,) what it is.
        estimates: (layout.size,) what the policy takes it for.
        size: pixels along a side.
    """
    ahead, left = _pixels(size)
    robots = sims.robot_state(np.zeros(1, np.intp))
    ball = robots.ball_place(sims.mechanics.ball_depth)
    around = places_around(np.stack([ahead.ravel(), left.ravel()]), robots.heading, ball)
    heights = sims.ground.heights(sims.terrain_ids[:1], around)[0]
    picture = np.repeat(_grey(heights[1:] - heights[0]).reshape(size, size, 1), 3, axis=2)
    for name, at in layout.slices.items():
        field = layout.fields[name]
        if field.radii and field.unit == "m":
            for place, height in zip(ring_places(field.ring, field.radii).T, estimates[at], strict=True):
                away = np.hypot(ahead - place[0], left - place[1])
                picture[away < DOT] = ESTIMATED
                picture[away < 0.7 * DOT] = _grey(height)
    for name, at in layout.slices.items():  # over the dots
        if layout.fields[name].leads:
            for colour, width, (x, y) in ((TRUE, 2 * LINE, truth[at]), (ESTIMATED, LINE, estimates[at])):
                along, aside = x * ahead + y * left, x * left - y * ahead
                picture[(along > BALL) & (along < 0.7 * REACH) & (np.abs(aside) < width)] = colour
    away = np.hypot(ahead, left)
    picture[np.abs(away - BALL) < LINE] = (255, 255, 255)
    return picture


def _pixels(size: int) -> tuple[Floats, Floats]:
    """(size, size) m ahead of the ball and to its left, of the middle of each pixel; farthest ahead in row 0."""
    across = REACH * (2 * np.arange(size) + 1 - size) / size
    left, ahead = np.meshgrid(-across, -across)
    return ahead, left


def _grey(height: Floats) -> Frame:
    """Of heights above the ground under the ball."""
    return np.asarray(127.5 + 110 * np.clip(height / HIGHEST, -1, 1)).astype(np.uint8)
