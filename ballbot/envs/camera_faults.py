"""What is wrong with the images of depth cameras, and when they come: ``camera_noise`` and so on of ``Sensors``.

Depth of stereo cameras and of structured light comes from disparity d = f B / z, so that an error of d grows with the
square of z: sigma = floor + noise z^2 (Khoshelham and Elberink 2012, Sensors 12(2): 1.4 mm at 1 m, Kinect; Ahn et al.
2019, Ubiquitous Robots: 3.9 mm, RealSense D435), and steps of d make steps of 1 / z.  Where depth jumps, one of two
cameras sees what is hidden from the other, and there is no depth; nor is there where nothing can be matched.

A pixel without depth reads ``max_depth``, as does what is farther away; so the sky does here, and NaN in
``ballbot.deployment.runtime``.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ballbot.envs.checks import check_state_array
from ballbot.envs.depth_camera import DepthCamera
from ballbot.envs.random_streams import WORDS, new_stream, pack_streams, unpack_streams
from ballbot.envs.sensors import Sensors

Tensor = torch.Tensor
Array = NDArray[np.float64]

JUMP = 0.03
"""m between the depths of two neighbouring pixels: there is an edge."""
PIECES = 2**20
"""Places in a list of random numbers at which those of an image may begin: drawing this alone costs little."""
BLOB = 1.0
"""Pixels, standard deviation of the blur that lets pixels be lost beside each other."""


class CameraFaults:
    """Of the cameras of n robots; each robot's go their own way, whatever the others do.

    Args:
        sensors: how well they see.
        num: robots.
        camera: theirs.
        shape: of what is kept of one robot's images.
        interval: steps from an image to the next.
        dt: s of a step.
    """

    def __init__(
        self, sensors: Sensors, num: int, camera: DepthCamera, shape: tuple[int, ...], interval: int, dt: float
    ) -> None:
        self.sensors, self._camera = sensors, camera
        self._streams = [new_stream(0) for _ in range(num)]
        low, high = (round(ms / 1000 / dt) for ms in sensors.camera_delay_ms)
        self._range, under_way = (low, high), high // interval + 1
        self.delays = np.full(num, low)
        """(n,) steps by which images come late."""
        self._kept: dict[str, NDArray[Any]] = {
            "delays": self.delays,
            "turns": np.zeros((num, camera.num_cameras, 3)),
            "waits": np.full((under_way, num), -1, np.int64),
            "images": np.zeros((under_way, num, *shape), np.float32),
        }
        """Rotation vectors of the cameras, rad; and of images under way what is kept of them, and the steps until they
        come, -1: there is none."""
        self._turned: tuple[Tensor, Tensor] | None = None
        if sensors.camera_tilt:
            self._turned = camera.turned(self._kept["turns"])
        count, width = camera.num_cameras * camera.height * camera.width, camera.width
        self._rough = self._smooth = torch.empty(0)
        if sensors.camera_noise or sensors.camera_noise_floor or sensors.camera_edges:
            self._rough = _normal(PIECES + count).to(camera.device)
        if sensors.camera_holes:
            rows = PIECES // width + 1 + camera.num_cameras * camera.height
            self._smooth = _blurred(rows, width).flatten().to(camera.device)

    def begin(self, ids: NDArray[Any], streams: list[np.random.Generator]) -> None:
        """Robots ``ids`` begin an episode; what is drawn for it, and in it, follows from their streams."""
        kept, (low, high) = self._kept, self._range
        for i in ids:
            self._streams[i] = stream = new_stream(int(streams[i].integers(2**63)))
            self.delays[i] = stream.integers(low, high, endpoint=True)
            most = np.radians(self.sensors.camera_tilt)
            kept["turns"][i] = most * stream.uniform(-1, 1, kept["turns"].shape[1:])
        kept["waits"][:, ids] = -1
        self._turn(ids)

    def _turn(self, ids: NDArray[Any]) -> None:
        if self._turned is not None:
            for mine, new in zip(self._turned, self._camera.turned(self._kept["turns"][ids]), strict=True):
                mine[ids] = new

    def turned(self, ids: NDArray[Any]) -> tuple[Tensor, Tensor] | None:
        """How the cameras of robots ``ids`` look, as ``DepthCamera.render`` takes it."""
        return None if self._turned is None else (self._turned[0][ids], self._turned[1][ids])

    def sent(self, ids: NDArray[Any]) -> NDArray[Any]:
        """Of robots ``ids``, whose images are due, those whose images are not lost."""
        if not self.sensors.camera_lost:
            return ids
        return ids[self._draw(ids, 1)[:, 0] >= self.sensors.camera_lost]

    def pass_on(self, ids: NDArray[Any], images: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """A step later, in which robots ``ids`` have taken images: whose images come now, and what is kept of these."""
        waits, kept = self._kept["waits"], self._kept["images"]
        np.maximum(waits - 1, -1, out=waits)
        free = waits[:, ids].argmin(axis=0)
        waits[free, ids], kept[free, ids] = self.delays[ids], images
        rows, come = np.nonzero(waits == 0)
        return come, kept[rows, come]

    def pieces(self, ids: NDArray[Any]) -> Array:
        """(k, 3) numbers from 0 to 1 that decide what is wrong with the next images of robots ``ids``."""
        return self._draw(ids, 3)

    def _draw(self, ids: NDArray[Any], count: int) -> Array:
        return np.array([self._streams[i].random(count) for i in ids]).reshape(-1, count)

    def spoil(self, images: Tensor, pieces: Array) -> Tensor:
        """(k, cameras, height, width) images as cameras deliver them, by the true ones and ``pieces``."""
        s, far = self.sensors, self._camera.max_depth
        found, lost = images, images >= far
        if s.camera_noise or s.camera_noise_floor:
            sigma = images.square().mul_(s.camera_noise).add_(s.camera_noise_floor)
            found = sigma.mul_(self._piece(self._rough, pieces[:, 0], images)).add_(images).clamp_(min=0)
        if s.camera_step:
            found = 1 / ((1 / (s.camera_step * found)).round_().mul_(s.camera_step))
        if s.camera_holes:
            lost |= self._piece(self._smooth, pieces[:, 1], images) < _below(s.camera_holes)
        if s.camera_edges:
            lost |= (self._piece(self._rough, pieces[:, 2], images) < _below(s.camera_edges)) & _edges(images)
        return found.clamp(max=far).masked_fill_(lost, far)

    @staticmethod
    def _piece(table: Tensor, starts: Array, images: Tensor) -> Tensor:
        """As many numbers of a table as images have pixels, from whole rows on."""
        count, width = images[0].numel(), images.shape[-1]
        rows = (starts * (PIECES // width)).astype(np.int64) * width
        return torch.stack([table[at : at + count] for at in rows.tolist()]).view_as(images)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """What decides what is wrong from here on."""
        return {name: array.copy() for name, array in self._kept.items()} | {"streams": pack_streams(self._streams)}

    def check_state(self, state: Any) -> dict[str, NDArray[Any]]:
        """The arrays of ``get_state``; ValueError if one is damaged."""
        state = state if isinstance(state, Mapping) else {}
        found = {name: check_state_array(state, name, array) for name, array in self._kept.items()}
        found["delays"] = check_state_array(state, "delays", self.delays, *self._range)
        found["waits"] = check_state_array(state, "waits", self._kept["waits"], -1, self._range[1])
        found["streams"] = check_state_array(state, "streams", np.empty((len(self._streams), WORDS), np.int64))
        unpack_streams(found["streams"])
        return found

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what ``check_state`` returned."""
        for name, array in self._kept.items():
            array[:] = state[name]
        self._streams = unpack_streams(state["streams"])
        self._turn(np.arange(len(self._streams)))


def _normal(count: int) -> Tensor:
    """Numbers of a normal distribution, the same always."""
    return torch.from_numpy(np.random.default_rng(0).standard_normal(count, np.float32))


def _blurred(rows: int, width: int) -> Tensor:
    """(rows, width) numbers of a normal distribution of which neighbours are alike."""
    reach = int(np.ceil(3 * BLOB))
    kernel = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * BLOB**2))
    kernel /= kernel.square().sum().sqrt()  # of one axis: their sum has a variance of 1
    field = _normal((rows + 2 * reach) * (width + 2 * reach)).view(1, 1, rows + 2 * reach, width + 2 * reach)
    along = torch.nn.functional.conv2d(field, kernel.view(1, 1, 1, -1))
    return torch.nn.functional.conv2d(along, kernel.view(1, 1, -1, 1))[0, 0]


def _below(share: float) -> float:
    """What so many of normally distributed numbers are below."""
    return float("inf") if share >= 1 else NormalDist().inv_cdf(share)


def _edges(images: Tensor) -> Tensor:
    """Pixels beside which, to the right or left, above or below, depth jumps."""
    found = torch.zeros_like(images, dtype=torch.bool)
    for dim in (2, 3):
        count = images.shape[dim] - 1
        jumps = images.diff(dim=dim).abs_() > JUMP
        found.narrow(dim, 0, count).logical_or_(jumps)
        found.narrow(dim, 1, count).logical_or_(jumps)
    return found
