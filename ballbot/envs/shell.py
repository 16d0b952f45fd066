"""Where the robot can touch the ground with anything but its ball: points on its surface, fixed in the base."""

from __future__ import annotations

from itertools import product

import mujoco
import numpy as np
from numpy.typing import NDArray

APART = 0.03
"""m between points, along and around; coarser along what is thick.  Walls are not thinner."""

BOX, SPHERE, CAPSULE, CYLINDER = (
    int(getattr(mujoco.mjtGeom, f"mjGEOM_{name}")) for name in ("BOX", "SPHERE", "CAPSULE", "CYLINDER")
)
Array = NDArray[np.float64]


def shell_of(model: mujoco.MjModel) -> Array:
    """(3, k) points, m, in the base, on every geom of the robot but the ball that collides with the ground.

    Wheels turn about the axles of their own capsules, so their points are fixed in the base as well.

    Raises:
        ValueError: a geom is no sphere, capsule, cylinder or box.
    """
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    base, ground = model.body("base").id, model.geom("ground").id
    turn, origin = data.xmat[base].reshape(3, 3), data.xpos[base]
    found = []
    for geom in range(model.ngeom):
        meets = (model.geom_contype[geom] & model.geom_conaffinity[ground]) | (
            model.geom_contype[ground] & model.geom_conaffinity[geom]
        )
        if not meets or model.body_rootid[model.geom_bodyid[geom]] != base:
            continue
        points = _surface(int(model.geom_type[geom]), model.geom_size[geom], model.geom(geom).name)
        world = points @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
        found.append((world - origin) @ turn)
    return np.ascontiguousarray(np.concatenate([np.zeros((0, 3)), *found]).T)


def _surface(kind: int, size: Array, name: str) -> Array:
    """(k, 3) points on a geom, in its own axes."""
    if kind == BOX:
        return np.array(list(product((-1.0, 0.0, 1.0), repeat=3))) * size
    if kind not in (SPHERE, CAPSULE, CYLINDER):
        raise ValueError(f"geom {name!r} touches the ground and is no sphere, capsule, cylinder or box: make it one")
    radius, half = float(size[0]), 0.0 if kind == SPHERE else float(size[1])
    rings = [(radius, z) for z in np.linspace(-half, half, 1 + int(np.ceil(2 * half / max(APART, radius))))]
    if kind != CYLINDER:  # round ends
        rings += [(radius * np.sqrt(0.5), side * (half + radius * np.sqrt(0.5))) for side in (-1, 1)]
    count = max(4, int(np.ceil(2 * np.pi * radius / APART)))
    around = np.linspace(0, 2 * np.pi, count, endpoint=False)
    points = [np.stack([r * np.cos(around), r * np.sin(around), np.full(count, z)], axis=1) for r, z in rings]
    ends = half if kind == CYLINDER else half + radius
    return np.concatenate([*points, [[0.0, 0.0, -ends], [0.0, 0.0, ends]]])
