"""What is drawn beside a robot, so that a picture shows where it goes: its trail, what it is told, and drops.

The page that drives robots (ballbot/assets/drive.js) draws the first two in the same colours.
"""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TOLD = (0.03, 0.42, 0.66)
"""Red, green and blue, 0 to 1, of where a robot is told to go."""
MOVES = (0.88, 0.42, 0.11)
"""Likewise of where it has been."""
STRIDE = 0.02
"""m between two points of the trail."""
MOST = 500
"""Points of the trail; older ones vanish."""
LEASH = 0.3
"""m that the robot may move in the picture until the camera follows."""
LOOKS = {"azimuth": 122.0, "elevation": -27.0, "distance": 2.5}
"""Degrees and m: how far that is from what it looks at, and from where.  Roads wind, and goals lie, along +y (90)."""
AHEAD, ABOVE = 0.45, 0.1
"""m beyond the ball's foot and above it that the camera looks at: there is more to see of what is ahead."""
DEEP = (0.12, 0.20, 0.30, 0.6)
"""Red, green, blue and opacity of what lies over the ground that a robot must not drop to."""


class Marks:
    """The trail of one robot, what it is told, and a camera that lets it move within the picture.

    Args:
        depth: m above the lowest ground; what is lower is tinted.
        side: m, of the ground.
    """

    def __init__(self, depth: float = -np.inf, side: float = 0.0) -> None:
        self._depth, self._side = depth, side
        self.trail: list[Array] = []
        """(3,) m, where the ball touched the ground."""
        self.direction = np.zeros(2)
        self.place: Array | None = None
        self._foot, self._look = np.zeros(3), np.zeros(3)

    def move(self, foot: Array, direction: Array, place: Array | None = None) -> None:
        """The robot is elsewhere.

        Args:
            foot: (3,) m, where the ball touches the ground.
            direction: (2,) a unit vector of the world, where it is told to go; 0: nowhere.
            place: (2,) m, where it is told to stand; None: there is none.
        """
        self._foot, self.direction, self.place = np.array(foot), np.array(direction), place
        if not self.trail:
            self._look = self._foot.copy()
        if not self.trail or np.linalg.norm(self._foot - self.trail[-1]) > STRIDE:
            self.trail = [*self.trail[1 - MOST :], self._foot]
        behind = self._look - self._foot
        self._look = self._foot + behind * min(1.0, LEASH / max(float(np.linalg.norm(behind)), 1e-9))

    def camera(self) -> mujoco.MjvCamera:
        """That shows it."""
        camera = mujoco.MjvCamera()
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        heading = np.radians(LOOKS["azimuth"])
        camera.lookat[:] = self._look + np.array([AHEAD * np.cos(heading), AHEAD * np.sin(heading), ABOVE])
        for name, value in LOOKS.items():
            setattr(camera, name, value)
        return camera

    def add_to(self, scene: mujoco.MjvScene) -> None:
        """Draw it there, as far as there is room."""
        capsule, arrow = mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_ARROW
        if self._depth > 0 and scene.ngeom < scene.maxgeom:
            sizes = np.array([self._side, self._side, self._depth]) / 2
            rgba = np.array(DEEP, np.float32)
            geom = scene.geoms[scene.ngeom]
            mujoco.mjv_initGeom(geom, mujoco.mjtGeom.mjGEOM_BOX, sizes, sizes * [0, 0, 1], np.eye(3).ravel(), rgba)
            scene.ngeom += 1
        for one, other in zip(self.trail, [*self.trail[1:], self._foot], strict=True):
            self._add(scene, capsule, 0.007, MOVES, one, other)
        if self.place is not None:
            at = np.array([*self.place, self._foot[2]])
            self._add(
                scene,
                mujoco.mjtGeom.mjGEOM_CYLINDER,
                0.1,
                TOLD,
                at - np.array([0, 0, 0.003]),
                at + np.array([0, 0, 0.006]),
            )
        elif self.direction.any():
            way = np.array([*self.direction, 0.0]) / np.hypot(*self.direction)
            start = self._foot + np.array([0.0, 0.0, 0.03])
            self._add(scene, arrow, 0.016, TOLD, start + 0.2 * way, start + 0.65 * way)

    @staticmethod
    def _add(
        scene: mujoco.MjvScene, kind: int, width: float, colour: tuple[float, ...], start: Array, end: Array
    ) -> None:
        if scene.ngeom >= scene.maxgeom or np.array_equal(start, end):
            return
        geom = scene.geoms[scene.ngeom]
        rgba = np.array([*colour, 1.0], np.float32)
        mujoco.mjv_initGeom(geom, kind, np.zeros(3), np.zeros(3), np.eye(3).ravel(), rgba)
        mujoco.mjv_connector(geom, kind, width, start, end)
        geom.emission = 0.3  # seen in the robot's shadow, too
        scene.ngeom += 1
