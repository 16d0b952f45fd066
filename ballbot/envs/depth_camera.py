"""Depth images of the robot's cameras, cast as rays: no OpenGL, many robots at once, on CPU or GPU.

A pixel is the nearest of three things along its ray, clipped to [0, ``max_depth``]:

- **the robot itself.**  Seen from its own cameras it never changes, since the wheels turn about their own axles; so its
  depth is found once, by MuJoCo's own rays, from whatever the MJCF draws (geom groups 0 to 2);
- **the ball**, a sphere;
- **the ground**: a plane, or a height field (``ballbot.envs.height_rays``).

Depth is measured along the optical axis, not along the ray: pixel directions have length 1 along that axis, so the
ray's parameter is the depth.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray

from ballbot.envs.checks import check_count, check_number
from ballbot.envs.height_rays import HeightFields
from ballbot.envs.model import at_rest
from ballbot.envs.rig import is_inside
from ballbot.envs.step import rotation_matrix

Tensor = torch.Tensor
Array = NDArray[np.float64]

MAX_RESOLUTION = 4096
"""Pixels along a side: more is a slipped digit."""
CHUNK_RAYS = 262_144
"""Rays cast together, 32 robots at 64 x 64: best of 65,536 to 524,288 on two cores."""
MOST_AROUND = 512
"""Directions along a side in which the robot itself is looked for beforehand: 0.3 s a camera."""
DRAWN_GROUPS = 3
"""Geom groups 0 to 2 are what MuJoCo draws by default."""


class DepthCamera:
    """All cameras of the robot whose names begin with ``prefix``.

    Args:
        model: the compiled robot (``ballbot.envs.model.build_model``); resolution and field of view are the MJCF's.
        heights: (num_terrains, n, n) float32 in [0, 1] as in ``build_model``, or None for a plane.
        resolution: (height, width) in pixels instead of the MJCF's.
        max_depth: m; what is farther away, or nothing at all, is this far.
        device: where the images are cast and returned, "cpu" or "cuda".
        prefix: beginning of the cameras' names.
        tops: (num_terrains,) m, what a height of 1 stands for; None: as in the model's first field.
        most_turned: rad, most by which cameras of single robots may be turned; see ``turned``.

    Raises:
        ValueError, TypeError: no such camera, or an impossible resolution or depth.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        heights: NDArray[np.float32] | None,
        *,
        resolution: tuple[int, int] | None = None,
        max_depth: float = 1.0,
        device: str | torch.device = "cpu",
        prefix: str = "cam_",
        tops: Array | None = None,
        most_turned: float = 0.0,
    ) -> None:
        names = [model.camera(i).name for i in range(model.ncam)]
        cameras = [i for i, name in enumerate(names) if name.startswith(prefix)]
        if not cameras:
            raise ValueError(f"prefix={prefix!r}: no camera's name begins with it, the model has {names}")
        if resolution is not None and (not isinstance(resolution, (tuple, list)) or len(resolution) != 2):
            raise ValueError(f"resolution={resolution!r} must be (height, width) in pixels")
        width, height = model.cam_resolution[cameras[0]].tolist() if resolution is None else resolution[::-1]
        self.height = check_count("camera height", height, 1, MAX_RESOLUTION)
        self.width = check_count("camera width", width, 1, MAX_RESOLUTION)
        self.max_depth = check_number("max_depth", max_depth, 0.01, 100.0)
        self.num_cameras = len(cameras)
        try:
            self.device = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device={device!r} cannot be used ({error}): use 'cpu', or 'cuda' with a GPU") from error

        data = at_rest(model)
        base = data.body("base")
        base_to_world = base.xmat.reshape(3, 3)
        positions, axes, pixels, own = [], [], [], []
        for camera in cameras:
            camera_to_world = data.cam_xmat[camera].reshape(3, 3)
            directions = pixel_directions(float(model.cam_fovy[camera]), self.height, self.width)
            positions.append(base_to_world.T @ (data.cam_xpos[camera] - base.xpos))
            axes.append(base_to_world.T @ camera_to_world)
            pixels.append(directions.T)
            own.append(robot_depth(model, data, data.cam_xpos[camera], directions @ camera_to_world.T))
        self.positions = self._tensor(positions, torch.float64)
        """(cameras, 3) in the base, m."""
        self.axes = self._tensor(axes, torch.float64)
        """(cameras, 3, 3) from camera to base."""
        self._pixels = self._tensor(pixels)  # (cameras, 3, rays)
        self._squared = (self._pixels**2).sum(1)  # (cameras, rays)
        self.robot_depth = self._tensor(own).clamp(max=self.max_depth)
        """(cameras, height * width) depth of the robot itself, m; ``max_depth`` where it is not in view."""
        self._seen = [self._pixels, self._squared, self.robot_depth]  # repeated for as many robots as are cast together
        self._lengths = self._squared.sqrt()  # (cameras, rays) of the directions
        self._widest = float(np.tan((most_turned + np.arccos(1 / float(self._lengths.max()))) / 2))
        around = []
        side = min(4 * max(self.height, self.width), MOST_AROUND)
        for camera in cameras if most_turned else ():
            rays = directions_around(side, self._widest) @ data.cam_xmat[camera].reshape(3, 3).T
            around.append(robot_depth(model, data, data.cam_xpos[camera], rays).reshape(side, side))
        self._around = self._tensor(around)  # (cameras, side, side) m from the eye to the robot itself
        self._ball_radius = float(model.geom("ball").size[0])

        self._fields: HeightFields | None = None
        if heights is not None:
            half, _, top, _ = model.hfield_size[0].tolist()
            scale = np.full(len(heights), top) if tops is None else tops
            self._fields = HeightFields(
                torch.from_numpy(heights * scale.astype(np.float32)[:, None, None]), self.device
            )
            self._half_length = half
            self._cells_per_metre = (self._fields.vertices - 1) / (2 * half)
            self._reach = self.max_depth * float(self._squared.max()) ** 0.5 * self._cells_per_metre

    @property
    def shape(self) -> tuple[int, int, int]:
        """(cameras, height, width) of the images of one robot."""
        return self.num_cameras, self.height, self.width

    def turned(self, turns: Array) -> tuple[Tensor, Tensor]:
        """How cameras look that are turned a little about their own axes, and what they see of the robot itself.

        The robot is looked up among rays that were cast beforehand, about a quarter of a pixel apart.

        Args:
            turns: (n, cameras, 3) rotation vectors along the cameras' axes, rad, no longer than ``most_turned``.

        Returns:
            (n, cameras, 3, 3) float64 axes from camera to base, and (n, cameras, height * width) depth in m.
        """
        quaternions = np.concatenate([np.ones((turns.size // 3, 1)), turns.reshape(-1, 3) / 2], axis=1)
        quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
        turn = self._tensor(rotation_matrix(quaternions.T).transpose(2, 0, 1), torch.float64).view(*turns.shape, 3)
        depth = torch.empty((*turn.shape[:2], self.height * self.width), device=self.device)
        last = self._around.shape[1] - 1
        for seen, of_robot in zip(depth, turn.float(), strict=True):
            x, y, z = (of_robot @ self._pixels).unbind(1)
            scale = last / (2 * self._widest) / (self._lengths - z)
            column, row = ((place * scale + last / 2).round_().clamp_(0, last).long() for place in (x, y))
            seen[:] = self._around.flatten(1).gather(1, row * (last + 1) + column) / self._lengths
        return self.axes @ turn, depth.clamp_(max=self.max_depth)

    def render(
        self,
        base_position: Array,
        base_rotation: Array,
        ball_position: Array,
        terrain_ids: Any,
        turned: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Images of n robots.

        Args:
            base_position: (n, 3) m, world frame.
            base_rotation: (n, 3, 3) base to world.
            ball_position: (n, 3) m.
            terrain_ids: (n,) which height field each stands on; not read on a plane.
            turned: what ``turned`` says of their cameras, if these are.

        Returns:
            (n, cameras, height, width) float32 depth in m, in [0, max_depth], on the cameras' device.  Rays that leave
            the terrain without a hit give max_depth, as the sky does; a camera in the ground sees 0 everywhere.
        """
        base, rotation, ball = (self._tensor(x, torch.float64) for x in (base_position, base_rotation, ball_position))
        terrains = self._tensor(terrain_ids, torch.int64)
        n = len(base)
        images = torch.empty((n, *self.shape), device=self.device)
        size = max(1, CHUNK_RAYS // (self.num_cameras * self.height * self.width))
        with torch.no_grad():
            for start in range(0, n, size):
                rows = slice(start, start + size)
                how = None if turned is None else (turned[0][rows], turned[1][rows])
                images[rows] = self._cast(base[rows], rotation[rows], ball[rows], terrains[rows], how)
        return images

    def _cast(
        self, base: Tensor, rotation: Tensor, ball: Tensor, terrains: Tensor, turned: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        n, cameras = len(base), self.num_cameras
        # in float64 while lengths are those of the terrain, in float32 within an image
        eyes = (base[:, None] + (rotation[:, None] @ self.positions[..., None])[..., 0]).flatten(0, 1)
        to_base = self.axes if turned is None else turned[0]
        axes = (rotation[:, None] @ to_base).flatten(0, 1)  # (n * cameras, 3, 3) camera to world
        ball = ball.repeat_interleave(cameras, 0)
        seen = self._seen
        if n * cameras > len(seen[0]):
            seen = [x.repeat(n, *[1] * (x.ndim - 1)) for x in (self._pixels, self._squared, self.robot_depth)]
            self._seen = seen
        pixels, squared, near = (x[: n * cameras] for x in seen)
        if turned is not None:
            near = turned[1].flatten(0, 1)

        # The ball: in the camera's frame a ray's product with itself is known beforehand.
        centre = ((ball - eyes)[:, None] @ axes)[:, 0]
        along = (centre.float()[:, None] @ pixels)[:, 0]
        power = (centre.square().sum(1, keepdim=True) - self._ball_radius**2).float()
        inside = along * along - squared * power
        depth = (along - inside.clamp(min=0).sqrt_()) / squared
        near = torch.where((inside > 0) & (depth > 0), depth.minimum(near), near)

        directions = axes.float() @ pixels
        if self._fields is None:
            height, fall = eyes[:, 2:].float(), directions[:, 2]
            depth = torch.where(fall < 0, (height.clamp(min=0) / -fall).minimum(near), near)
            depth = torch.where(height > 0, depth, 0.0)
        else:
            scale = self._cells_per_metre
            eyes[:, :2] = (eyes[:, :2] + self._half_length) * scale
            directions[:, :2] *= scale
            depth = self._fields.meet(eyes.float(), directions, terrains.repeat_interleave(cameras), near, self._reach)
        return depth.view(n, *self.shape)

    def _tensor(self, value: Any, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.as_tensor(np.asarray(value), dtype=dtype, device=self.device)


def pixel_directions(fovy_deg: float, height: int, width: int) -> Array:
    """(height * width, 3) directions through the pixels' centres in the camera's frame, -1 along z.

    Row by row from the top; x is right, y up and the optical axis -z, as in MuJoCo and OpenGL.  ``fovy_deg`` is the
    vertical field of view; pixels are square.
    """
    half = np.tan(np.radians(fovy_deg) / 2)
    y = (1 - (2 * np.arange(height) + 1) / height) * half
    x = ((2 * np.arange(width) + 1) / width - 1) * half * width / height
    return np.stack(np.broadcast_arrays(x[None, :], y[:, None], -1.0), axis=-1).reshape(-1, 3)


def directions_around(side: int, widest: float) -> Array:
    """(side * side, 3) unit vectors around -z, whose stereographic projections are a square grid, row by row along y.

    Args:
        side: of the grid, points.
        widest: tangent of half the angle from -z to the middles of the square's sides.
    """
    y, x = np.meshgrid(*[np.linspace(-widest, widest, side)] * 2, indexing="ij")
    share = 2 / (1 + x**2 + y**2)
    return np.stack([x * share, y * share, 1 - share], axis=-1).reshape(-1, 3)


def robot_depth(model: mujoco.MjModel, data: mujoco.MjData, eye: Array, directions: Array) -> Array:
    """How far the robot's own parts are along rays from one of its cameras, by MuJoCo's rays.

    The ball is no part of it, and neither is what the camera is inside of (its own arm): surfaces are seen from
    outside only, as OpenGL draws them.

    Args:
        model: the robot.
        data: its pose, with derived fields current.
        eye: (3,) the rays' origin, m.
        directions: (rays, 3).

    Returns:
        (rays,) multiples of the directions; infinite where the robot is not in view.
    """
    depth = np.full(len(directions), np.inf)
    base = model.body("base").id
    for geom in range(model.ngeom):
        if model.body_rootid[model.geom_bodyid[geom]] != base or model.geom_group[geom] >= DRAWN_GROUPS:
            continue
        shape = data.geom_xpos[geom], data.geom_xmat[geom], model.geom_size[geom]
        kind = int(model.geom_type[geom])
        if is_inside(eye, *shape, kind):
            continue
        # few rays come near a part
        centre, reach = data.geom_xpos[geom] - eye, model.geom_rbound[geom]
        beside = np.linalg.norm(np.cross(directions, centre), axis=1) / np.linalg.norm(directions, axis=1)
        for ray in np.flatnonzero(beside <= reach):
            distance = mujoco.mju_rayGeom(*shape, eye, directions[ray], kind)
            if 0 <= distance < depth[ray]:
                depth[ray] = distance
    return depth
