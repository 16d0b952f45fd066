"""A robot drawn by its outlines, from the side and from above, without OpenGL."""

from __future__ import annotations

from itertools import product

import mujoco
import numpy as np
from numpy.typing import NDArray

from ballbot.envs.model import at_rest
from ballbot.evaluation.report import INK, new_figure, vector_graphic

Array = NDArray[np.float64]

SEEN = 3
"""Groups of geoms that are drawn, the first ones, as MuJoCo does."""
SHADE = 0.65
"""Of colours, so that white stands out from a white page."""
AROUND = 48
"""Points around what is round."""


def drawing(model: mujoco.MjModel) -> str:
    """A robot at rest, as a vector graphic for a page.

    Raises:
        ImportError: the extra "plots" is not installed.
    """
    data, ground = at_rest(model), model.geom("ground").id
    figure, axes = new_figure(2, 4.0)
    from matplotlib.ticker import MaxNLocator

    shown = [geom for geom in range(model.ngeom) if geom != ground and model.geom_group[geom] < SEEN]
    solids = {
        geom: _surface(model, geom) @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom] for geom in shown
    }
    for axis, (across, up, towards) in zip(axes, ((0, 2, -1), (0, 1, 2)), strict=True):
        depth = 1 if towards < 0 else towards
        order = sorted(shown, key=lambda geom: float(data.geom_xpos[geom][depth]) * np.sign(towards))
        for geom in order:
            material = int(model.geom_matid[geom])
            colour = model.geom_rgba[geom] if material < 0 else model.mat_rgba[material]
            outline = hull(solids[geom][:, [across, up]])
            axis.fill(*outline.T, facecolor=(*(SHADE * colour[:3]), 0.5), edgecolor=INK, linewidth=0.6)
        axis.set(aspect="equal", xlabel="x, m", ylabel="z, m" if up == 2 else "y, m")
        axis.xaxis.set_major_locator(MaxNLocator(3))
    axes[0].axhline(0.0, color=INK, linewidth=1)
    return vector_graphic(figure)


def _surface(model: mujoco.MjModel, geom: int) -> Array:
    """(k, 3) points on a geom, in its own axes, whose hull is its own, nearly."""
    kind, size = mujoco.mjtGeom(int(model.geom_type[geom])), model.geom_size[geom]
    turns = np.linspace(0, 2 * np.pi, AROUND, endpoint=False)
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        mesh = int(model.geom_dataid[geom])
        first = int(model.mesh_vertadr[mesh])
        return np.asarray(model.mesh_vert[first : first + int(model.mesh_vertnum[mesh])], float)
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        return np.array(list(product((-1.0, 1.0), repeat=3))) * size
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        circle = np.stack([size[0] * np.cos(turns), size[0] * np.sin(turns), np.full(AROUND, size[1])], axis=1)
        return np.concatenate([circle, circle * [1, 1, -1]])
    up = np.linspace(0, np.pi, AROUND // 2)[:, None]
    ball = np.stack([np.sin(up) * np.cos(turns), np.sin(up) * np.sin(turns), np.cos(up) * np.ones(AROUND)], axis=2)
    ball = ball.reshape(-1, 3)
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return np.concatenate([size[0] * ball + [0, 0, end * size[1]] for end in (-1, 1)])
    return ball * (size if kind == mujoco.mjtGeom.mjGEOM_ELLIPSOID else size[0])


def hull(points: Array) -> Array:
    """(k, 2) corners, counterclockwise, of the convex hull of (n, 2) points (Andrew 1979)."""
    ordered = sorted(set(map(tuple, points.round(9).tolist())))
    found: list[tuple[float, ...]] = []
    for side in (ordered, ordered[::-1]):
        half: list[tuple[float, ...]] = []
        for x, y in side:
            while len(half) > 1:
                (a, b), (c, d) = half[-2:]
                if (c - a) * (y - b) > (d - b) * (x - a):
                    break
                half.pop()
            half.append((x, y))
        found += half[:-1]
    return np.array(found or ordered)
