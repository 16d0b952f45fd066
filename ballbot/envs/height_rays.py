"""Where rays meet the ground: many rays against many height fields, compiled or in PyTorch, on CPU or GPU.

The ground is the surface that MuJoCo collides with, casts rays at and draws: each cell of the grid is two triangles,
split along the diagonal from its corner of least x and y to that of greatest.  ``mj_rayHfield`` and contacts of MuJoCo
4.0.0 agree on that, and tests compare with both.

Along a ray that falls more steeply than the ground does anywhere, the height above ground decreases all the way.  So
there is one hit, and going to where the ray meets the plane of the triangle below, again and again, finds it in two or
three steps from a good guess.  The few rays that graze the ground, where hills may hide what is behind them, walk from
triangle to triangle instead, with longer steps where the ground is far below.

Where there are cliffs, nearly no ray falls more steeply than the ground does somewhere.  There the quick search finds a
hit, and ``height_rays.c`` goes from tile to tile, knowing how high and how steep each is, to see whether there is one
before it.

On the CPU ``height_rays.c`` does this, one ray after the other.  Where it was not compiled, and on GPUs, PyTorch does
the same for all rays at once, several times slower on a CPU; the two agree to a few micrometres.

Lengths along a ray are given in its own parameter t: a point is origin + t * direction.  Horizontally everything is
measured in cells of the grid from its first vertex, vertically in metres.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

import torch

from mujoco_patch.compiled import library_candidates

Tensor = torch.Tensor

_ABI = 2  # HEIGHT_RAYS_ABI in height_rays.c

QUICK_STEPS = 3
"""Steps of the quick search that all rays take."""
MORE_STEPS = 6
"""Steps of those that have not found their triangle by then."""
TOLERANCE = 5e-5
"""m: the quick search has found the triangle when it moves by less."""
ROUNDING = 1e-3
"""Cells, 0.03 mm: more than float32 rounds a place on the field by."""
AROUND = 5
"""Cells, 0.17 m: how far apart heights are compared for the first guess."""
FREE_STEPS = 4
"""Steps through free air before a grazing ray is followed from edge to edge."""
WINDOW = 8
"""Edges of each of the three directions that are looked at together."""
CLIFF = 0.03
"""m per cell: a field with steeper places is searched tile by tile, where rays are compiled."""
TILE = 4
"""Cells along the side of a tile, of those in which the compiled rays search ground with cliffs."""


class HeightFields:
    """A pool of square height fields to cast rays at.

    Args:
        heights: (num_terrains, n, n) float32 heights in m above the field's z = 0, row along y, column along x.
        device: where rays are cast.
        compiled: cast them by ``height_rays.c``; None: if it is there and the device is a CPU.

    Raises:
        ValueError: the shape is another, or what is to be compiled is not.
    """

    def __init__(self, heights: Tensor, device: torch.device, compiled: bool | None = None) -> None:
        if heights.ndim != 3 or heights.shape[1] != heights.shape[2] or heights.shape[1] < 2:
            raise ValueError(f"heights have shape {tuple(heights.shape)}, expected (num_terrains, n, n) with n >= 2")
        heights = heights.to(device, torch.float32)
        library = load_library() if device.type == "cpu" and compiled is not False else None
        if compiled and library is None:
            raise ValueError("height_rays.c was not compiled, or rays are not cast on a CPU: leave compiled out")
        self._library = library
        self.vertices = heights.shape[1]
        """Along each side."""
        self._heights = heights.flatten()
        along_x, along_y = heights.diff(dim=2), heights.diff(dim=1)
        # a triangle has one edge along x and one along y: (below the diagonal, above it)
        below = along_x[:, :-1].square() + along_y[:, :, 1:].square()
        above = along_x[:, 1:].square() + along_y[:, :, :-1].square()
        steepness = below.maximum(above).sqrt()
        self._steepest = steepness.amax(dim=(1, 2))
        """(num_terrains,) slope of the steepest triangle, m per cell."""
        self._tiles: list[Tensor | None] = [None, None]
        """(num_terrains, tiles, tiles) highest vertex in m, slope of the steepest triangle in m per cell; None where no
        field has cliffs, or nothing is compiled."""
        if library is not None and bool((self._steepest > CLIFF).any()):
            # the vertices along their edges belong to both tiles
            self._tiles = [_highest(heights, TILE + 1).contiguous(), _highest(steepness, TILE).contiguous()]

    def meet(self, origin: Tensor, direction: Tensor, terrain_ids: Tensor, limit: Tensor, reach: float) -> Tensor:
        """The smallest t in [0, limit] at which each ray is on or below the ground; ``limit`` where there is none.

        Beside the field there is no ground.

        Args:
            origin: (groups, 3) where the rays of a group (an image) start: x, y in cells, z in m.
            direction: (groups, 3, rays) in cells, cells and m per unit of t.
            terrain_ids: (groups,) int64.
            limit: (groups, rays) where to stop.
            reach: cells, that no ray goes sideways before its limit.
        """
        if self._library is not None:
            return self._meet_compiled(self._library, origin, direction, terrain_ids, limit)
        rays = direction.shape[2]
        first = terrain_ids * self.vertices**2
        clearance = self._above(origin.T, direction[:, :, 0].T, first)[0]
        dx, dy, dz = direction.unbind(1)
        slope = (dx * dx).addcmul_(dy, dy).sqrt_().mul_(self._steepest[terrain_ids][:, None])
        # before clearance / (slope - dz) even the steepest ground does not reach the ray
        index = (clearance[:, None] <= limit * (slope - dz)).flatten().nonzero()[:, 0]
        group = index.div(rays, rounding_mode="floor")
        place = index + group * (2 * rays)
        d = torch.stack([torch.take(direction, place + k * rays) for k in range(3)])
        o, f, s, end = origin.T[:, group], first[group], torch.take(slope, index), torch.take(limit, index)

        # a first guess: where the ray meets a plane like the ground around
        tilt = self._tilt(origin.T[:2], first)[:, group]
        t = clearance[group] / torch.addcmul(torch.addcmul(-d[2], d[0], tilt[0]), d[1], tilt[1])
        t, moved = self._approach(t.clamp_(min=0).minimum(end), o, d, f, QUICK_STEPS)
        falls = s < -d[2]  # whatever the ground does, it comes nearer
        seeking = (falls & (moved.abs() > TOLERANCE)).nonzero()[:, 0]
        t[seeking], moved = self._approach(t[seeking], o[:, seeking], d[:, seeking], f[seeking], MORE_STEPS)
        t = t.clamp_(min=0).minimum(end)
        last = self.vertices - 1
        if origin[:, :2].min() < reach or origin[:, :2].max() > last - reach:  # some may look beyond the edge
            t = torch.where(self._beside(o + t * d), end, t)
        rest = torch.cat([(~falls).nonzero()[:, 0], seeking[moved.abs() > TOLERANCE]])
        if len(rest):
            t[rest] = self._walk(o[:, rest], d[:, rest], f[rest], s[rest], end[rest])
        met = limit.clone()
        met.view(-1)[index] = t
        return met.masked_fill_(((clearance <= 0) & ~self._beside(origin.T))[:, None], 0.0)

    def _meet_compiled(
        self, library: ctypes.CDLL, origin: Tensor, direction: Tensor, terrain_ids: Tensor, limit: Tensor
    ) -> Tensor:
        groups, rays = limit.shape
        shapes = {"origin": origin, "direction": direction, "terrain_ids": terrain_ids}
        wanted = {"origin": (groups, 3), "direction": (groups, 3, rays), "terrain_ids": (groups,)}
        for name, x in shapes.items():
            if tuple(x.shape) != wanted[name]:
                raise ValueError(f"{name} must have the shape {wanted[name]} beside these limits, got {tuple(x.shape)}")
        met = torch.empty((groups, rays))
        if met.numel() == 0:
            return met
        terrain_ids = terrain_ids.to("cpu", torch.int64).contiguous()
        if not 0 <= int(terrain_ids.min()) <= int(terrain_ids.max()) < len(self._steepest):
            raise IndexError(f"terrain_ids must be from 0 to {len(self._steepest) - 1}, got {terrain_ids.tolist()}")
        origin, direction, limit = (x.to("cpu", torch.float32).contiguous() for x in (origin, direction, limit))
        tilt = self._tilt(origin.T[:2], terrain_ids * self.vertices**2)
        arrays = (self._heights, self._steepest, *self._tiles, *tilt, terrain_ids, origin, direction, limit, met)
        addresses = [ctypes.c_void_p(None if x is None else x.data_ptr()) for x in arrays]
        library.height_rays_meet(self.vertices, *addresses, groups, rays)
        return met

    def _approach(
        self, t: Tensor, origin: Tensor, direction: Tensor, first: Tensor, steps: int
    ) -> tuple[Tensor, Tensor]:
        """Where rays meet the plane of the triangle below, so many times over; and how far the last step went."""
        moved = t
        for _ in range(steps):
            height, rate = self._above(torch.addcmul(origin, t, direction), direction, first)
            moved = height.div_(rate.clamp_(max=-1e-6))  # of rays that graze nothing comes of this, but it stays finite
            t = t - moved
        return t, moved

    def _walk(self, origin: Tensor, direction: Tensor, first: Tensor, slope: Tensor, limit: Tensor) -> Tensor:
        """As ``meet``, for (rays,) single rays.

        Between two edges of triangles a ray's height above ground is linear, so its values at the edges tell the first
        hit exactly.
        """
        found = limit.clone()
        t = torch.zeros_like(limit)
        # Nowhere does the ground come nearer faster than slope - dz: a few long steps through free air.
        approach = slope - direction[2]
        for _ in range(FREE_STEPS):
            height, _ = self._above(origin + t * direction, direction, first)
            t = t + (height / approach).clamp_(min=0)
        index = (t < limit).nonzero()[:, 0]
        while len(index):
            o, d, start, end, base = (w[..., index] for w in (origin, direction, t, limit, first))
            edges = _edges(o + start * d, d)  # times from start
            reach = edges.view(3, WINDOW, -1)[:, -1].amin(0)  # beyond it some edges are missing
            times = torch.cat([torch.zeros_like(start)[None], edges.minimum(reach)])
            point = o[:, None] + (start + times) * d[:, None]
            under = (self._above(point, d[:, None], base)[0] <= 0) & ~self._beside(point)
            late = torch.where(under, times, torch.inf).amin(0)
            hit = late < torch.inf
            # the triangle in which that happens lies between this edge and the one before
            early = torch.where(times < late, times, 0.0).amax(0)
            middle = start + (early + late.minimum(reach)) / 2
            height, rate = self._above(o + middle * d, d, base)
            root = middle - height / rate
            # from beside the field into its flank there is no triangle
            inside = (rate < 0) & ~self._beside(o + middle * d)
            depth = torch.where(inside, root, start + late).maximum(start + early).minimum(start + late)
            found[index[hit]] = depth.minimum(end)[hit]
            t[index] = start + reach
            index = index[~hit & (start + reach < end)]
        return found

    def _above(self, point: Tensor, direction: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """Height over the ground in m and its rate of change along the ray.

        Beside the field, the planes of its outermost triangles go on.
        """
        n = self.vertices
        cell = point[:2].floor().clamp_(0, n - 2)
        u, v = (point[:2] - cell).unbind(0)
        lower = (u - v).ceil_().clamp_(0, 1)  # 1 below the diagonal, else 0: faster than a mask
        corner = torch.add(cell[0], cell[1], alpha=n)  # whole numbers below 2**24, exact in float32
        beside = torch.add(corner + n, lower, alpha=1 - n).long() + first
        corner = corner.long() + first
        near, side = torch.take(self._heights, corner), torch.take(self._heights, beside)
        far = torch.take(self._heights[n + 1 :], corner)
        rise, run = side - near, far - side
        slope_x, slope_y = torch.lerp(run, rise, lower), torch.lerp(rise, run, lower)
        height = torch.addcmul(torch.addcmul(point[2] - near, u, slope_x, value=-1), v, slope_y, value=-1)
        rate = torch.addcmul(
            torch.addcmul(direction[2], direction[0], slope_x, value=-1), direction[1], slope_y, value=-1
        )
        return height, rate

    def _tilt(self, place: Tensor, first: Tensor) -> Tensor:
        """(2, groups) slope of the ground around a place, m per cell along x and y."""
        n = self.vertices
        around = min(AROUND, (n - 1) // 2)
        if around == 0:
            return torch.zeros_like(place)
        cell = place.round().clamp_(around, n - 1 - around)
        corner = torch.add(cell[0], cell[1], alpha=n).long() + first
        ends = torch.stack([torch.take(self._heights, corner + k) for k in (around, -around, around * n, -around * n)])
        return (ends[0::2] - ends[1::2]) / (2 * around)

    def _beside(self, point: Tensor) -> Tensor:
        """Mask of the (3, ...) points beside the field; its edge belongs to it, also after rounding."""
        return ((point[:2] < -ROUNDING) | (point[:2] > self.vertices - 1 + ROUNDING)).any(0)


@cache
def load_library() -> ctypes.CDLL | None:
    """The compiled ``height_rays.c`` next to this file; None, and a notice, without one that fits."""
    problem = "not built"
    for path in library_candidates(Path(__file__).parent, "_height_rays"):
        try:
            library = ctypes.CDLL(str(path))
            if library.height_rays_abi() != _ABI:
                raise OSError(f"interface {library.height_rays_abi()}, expected {_ABI}")
            library.height_rays_meet.argtypes = [
                ctypes.c_int32, *[ctypes.c_void_p] * 11, *[ctypes.c_int64] * 2
            ]  # fmt: skip
            library.height_rays_meet.restype = None
            return library
        except (OSError, AttributeError) as error:
            problem = f"{path.name}: {error}"
    print(
        f"ballbot: depth images are cast in PyTorch ({problem}): the same, several times slower. For the compiled "
        "rays, reinstall this package where a C compiler is available.",
        file=sys.stderr,
    )
    return None


def _highest(values: Tensor, window: int) -> Tensor:
    """(k, tiles, tiles) highest of (k, m, m) values in square windows ``TILE`` apart, cut off at the end."""
    for dim in (1, 2):
        parts = [
            values.narrow(dim, at, min(window, values.shape[dim] - at)) for at in range(0, values.shape[dim], TILE)
        ]
        # a last window of the edge's vertices alone is no tile
        values = torch.stack([part.amax(dim) for part in parts if part.shape[dim] > window - TILE], dim)
    return values


def _edges(place: Tensor, speed: Tensor) -> Tensor:
    """(3 * WINDOW, rays) times at which points cross the next edges: along y, along x, and the diagonals.

    Infinite for edges that a ray is parallel to.
    """
    x, y = place[0], place[1]
    across = torch.stack([x, y, x - y])[:, None]
    speed = torch.stack([speed[0], speed[1], speed[0] - speed[1]])[:, None]
    ahead = torch.arange(1, WINDOW + 1, device=place.device, dtype=place.dtype)[:, None]
    edge = torch.where(speed > 0, across.floor() + ahead, across.ceil() - ahead)
    times = (edge - across) / speed
    return torch.where(speed == 0, torch.inf, times).flatten(0, 1)
