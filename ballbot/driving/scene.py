"""What a page needs to draw a robot by itself: its solids once, its ground once, and then where its parts are.

No OpenGL: the browser draws.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from ballbot.driving.drive import Now
from ballbot.envs.physics import Physics

Array = NDArray[np.float64]

SHAPES = {
    int(mujoco.mjtGeom.mjGEOM_SPHERE): "sphere",
    int(mujoco.mjtGeom.mjGEOM_CAPSULE): "capsule",
    int(mujoco.mjtGeom.mjGEOM_ELLIPSOID): "ellipsoid",
    int(mujoco.mjtGeom.mjGEOM_CYLINDER): "cylinder",
    int(mujoco.mjtGeom.mjGEOM_BOX): "box",
    int(mujoco.mjtGeom.mjGEOM_MESH): "mesh",
}
"""Of solids that the page can draw."""
LAST_SHOWN_GROUP = 2
"""MuJoCo's viewer shows no solids of later ones unless told to."""
POSES, GROUND = 1.0, 2.0
"""What a message of float32 begins with."""
DARKER = 0.55
"""Of the ball's other colour, where it has but one: a ball without a pattern does not seem to roll."""


class Scene:
    """One robot of ``Physics``, simulation 0.

    Args:
        sims: the physics.
    """

    def __init__(self, sims: Physics) -> None:
        self._sims, self.robot = sims, int(sims.robot_ids[0])
        model = sims.planes[self.robot]
        self._model, self._data = model, mujoco.MjData(model)
        shown = [
            geom for geom in range(model.ngeom)
            if int(model.geom_type[geom]) in SHAPES and model.geom_group[geom] <= LAST_SHOWN_GROUP
        ]  # fmt: skip
        self.bodies = sorted({int(model.geom_bodyid[geom]) for geom in shown})
        """Of the model, those whose poses are told."""
        self.solids = [self._solid(geom) for geom in shown]
        """Of each a dict: body (index among those of ``poses``), shape, size, pos and quat in the body, colours."""

    def _solid(self, geom: int) -> dict[str, Any]:
        model = self._model
        shape = SHAPES[int(model.geom_type[geom])]
        one, other, repeat = _colours(model, geom)
        if geom == model.geom("ball").id and one == other:
            other = [DARKER * part for part in one]
        solid = {
            "body": self.bodies.index(int(model.geom_bodyid[geom])),
            "shape": shape,
            "size": _short(model.geom_size[geom]),
            "pos": _short(model.geom_pos[geom]),
            "quat": _short(model.geom_quat[geom]),
            "colours": [_short(one), _short(other)],
            "repeat": repeat,
        }
        if shape == "mesh":
            mesh = int(model.geom_dataid[geom])
            start, count = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
            first, faces = int(model.mesh_faceadr[mesh]), int(model.mesh_facenum[mesh])
            solid["vertices"] = _short(model.mesh_vert[start : start + count].ravel())
            solid["faces"] = model.mesh_face[first : first + faces].ravel().tolist()
        return solid

    def poses(self, now: Now, at: float) -> bytes:
        """Where the parts are, little-endian float32.

        ``POSES``; s; direction and velocity x, y; rad/s told; tilt in degrees; place x, y, NaN if there is none; number
        of wheels; N m of each; and of each body x, y, z and quaternion, w first.

        Args:
            now: what there is to tell.
            at: s, the time at which it was so, on the server's clock.
        """
        self._data.qpos[:] = self._sims.qpos[0]
        mujoco.mj_kinematics(self._model, self._data)
        place = (np.nan, np.nan) if now.place is None else now.place
        parts = np.hstack([self._data.xpos[self.bodies], self._data.xquat[self.bodies]])
        head = (
            POSES,
            at,
            *now.direction,
            *now.velocity,
            now.turn,
            now.tilt_deg,
            *place,
            len(now.torques),
            *now.torques,
        )
        return np.concatenate([head, parts.ravel()]).astype("<f4").tobytes()

    def ground(self) -> bytes:
        """The ground that the robot stands on.

        Little-endian: float32 ``GROUND``, vertices along a side (0: a plane), side in m, height of the highest in m;
        then uint16 of each vertex, row along y and column along x from the least, 65535 at the highest.
        """
        ground = self._sims.terrain_of(0)
        if ground is None:
            return np.array([GROUND, 0.0, 0.0, 0.0], "<f4").tobytes()
        relief, top, length = ground
        head = np.array([GROUND, len(relief), length, top], "<f4").tobytes()
        return head + np.round(relief * 65535.0).astype("<u2").tobytes()


def _colours(model: mujoco.MjModel, geom: int) -> tuple[list[float], list[float], float]:
    """Two colours, red, green and blue from 0 to 1, of a checkered solid, and how often the pattern repeats.

    The same twice of one without a pattern.
    """
    material = int(model.geom_matid[geom])
    if material < 0:
        colour = model.geom_rgba[geom, :3].tolist()
        return colour, colour, 1.0
    colour = model.mat_rgba[material, :3]
    texture = int(model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB])
    if texture < 0:
        return colour.tolist(), colour.tolist(), 1.0
    first, channels = int(model.tex_adr[texture]), int(model.tex_nchannel[texture])
    count = int(model.tex_width[texture]) * int(model.tex_height[texture])
    pixels = model.tex_data[first : first + count * channels].reshape(count, channels)[:, :3]
    found, often = np.unique(pixels, axis=0, return_counts=True)
    most = found[np.argsort(-often, kind="stable")[:2]] / 255.0 * colour
    return most[0].tolist(), most[-1].tolist(), float(model.mat_texrepeat[material, 0])


def _short(numbers: Any) -> list[float]:
    """Numbers for JSON, to a hundredth of a millimetre."""
    return [round(float(number), 5) for number in numbers]
