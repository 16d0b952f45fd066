"""When the robots' images are taken, and what is kept of them: the images, or what an encoder makes of them.

Depth comes at 83.3 Hz, every sixth step of the 500 Hz control, unless ``interval`` says otherwise.  An episode begins
with a fresh image; between images the last one stays, and the observation tells its age.  Only simulations whose image
is due are cast, and each image is encoded once, when it is taken.

The cameras' clock of a simulation starts when it is seeded and runs on through the ends of episodes, so that
simulations stay in step: casting all images at once is faster than a few at every step.

What is wrong with them, and how late they are, stands in ``ballbot.envs.camera_faults``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ballbot.cpus import usable_cpus
from ballbot.envs.camera_faults import CameraFaults
from ballbot.envs.checks import check_count, check_state_array
from ballbot.envs.depth_camera import DepthCamera
from ballbot.envs.model import view_digest
from ballbot.envs.physics import Physics
from ballbot.envs.sensors import Sensors
from ballbot.envs.step import RobotState

Encoder = Callable[[torch.Tensor], torch.Tensor]
"""(k, 1, height, width) float32 depth in m -> (k, size) float32 embeddings, each of its own image alone.

If it says so by an attribute ``thread_safe``, several threads call it at once, each with images of its own.
"""
ROBOTS_PER_THREAD = 4
"""A thread takes images of so many robots or more: it takes 0.1 ms to start, a robot's images half a millisecond; and
the images of four robots are what ``FrozenEncoder`` encodes together."""


class Cameras:
    """The depth cameras of all simulations.

    Args:
        simulations: what they look at.
        encoder: keep its embeddings instead of the images; None keeps the images.
        interval: steps from an image to the next.
        stagger: start each simulation's clock at a random point, so that not all are due at the same steps.
        resolution: (height, width) in pixels instead of the MJCF's.
        num_threads: threads that cast and encode; 0 takes every CPU this process may use.
        device: where that happens, "cpu" or "cuda".
        sensors: what is wrong with images; None: nothing.

    Raises:
        ValueError, TypeError: an impossible option, or an encoder that does not return what ``Encoder`` says.
    """

    def __init__(
        self,
        simulations: Physics,
        *,
        encoder: Encoder | None,
        interval: int,
        stagger: bool,
        resolution: tuple[int, int] | None,
        num_threads: int,
        device: str,
        sensors: Sensors | None = None,
    ) -> None:
        self._sims, self._encoder = simulations, encoder
        self.interval = check_count("camera_interval", interval, 1, 10**6)
        self.stagger = stagger
        self._threads = num_threads or usable_cpus()
        self._camera = DepthCamera(
            simulations.model,
            simulations.ground.relief,
            resolution=resolution,
            device=device,
            tops=simulations.ground.tops,
            most_turned=0.0 if sensors is None else 3**0.5 * float(np.radians(sensors.camera_tilt)),
        )
        self.shape: tuple[int, ...] = self._camera.shape
        """Of what is kept of one robot's images: (cameras, height, width), or (numbers,)."""
        if encoder is not None:
            self.shape = (self._camera.num_cameras * self._encoded_size(encoder),)
        n = simulations.num
        self._faults: CameraFaults | None = None
        if sensors is not None:
            dt = float(simulations.model.opt.timestep)
            self._faults = CameraFaults(sensors, n, self._camera, self.shape, interval, dt)
        self.latest = np.zeros((n, *self.shape), np.float32)
        """(num_envs, *shape) what is kept of each robot's latest images."""
        self.countdown = np.zeros(n, np.int64)
        """(num_envs,) steps to each robot's next images."""
        self._age = np.zeros(n, np.int64)

    @property
    def num(self) -> int:
        """Of each robot."""
        return self._camera.num_cameras

    @property
    def age(self) -> NDArray[np.float32]:
        """(num_envs,) s since each robot's images were taken."""
        return (self._age * self._sims.model.opt.timestep).astype(np.float32)

    def step(self, robots: RobotState, sound: NDArray[np.bool_] | None = None) -> None:
        """One control step later: take the images that are due, except of simulations that are not ``sound``."""
        self._age += 1
        self.countdown -= 1
        due = self.countdown <= 0
        self.countdown[due] = self.interval
        if sound is not None:
            due &= sound
        ids = np.flatnonzero(due)
        if self._faults is None:
            if len(ids):
                self.take(ids, robots)
            return
        ids = self._faults.sent(ids)
        come, images = self._faults.pass_on(ids, self._look(ids, robots) if len(ids) else self.latest[ids])
        self.latest[come], self._age[come] = images, self._faults.delays[come]

    def begin(self, ids: NDArray[Any], robots: RobotState, streams: list[np.random.Generator]) -> None:
        """Robots ``ids`` begin an episode, with fresh images; what is wrong with these follows from their streams."""
        if self._faults is not None:
            self._faults.begin(ids, streams)
        self.take(ids, robots)

    def start_clock(self, i: int, draw: Callable[[int, int], Any]) -> None:
        """Let i's next image come after ``interval`` steps; with ``stagger``, after draw(1, interval + 1)."""
        self.countdown[i] = int(draw(1, self.interval + 1)) if self.stagger else self.interval

    def state_options(self) -> dict[str, Any]:
        """What must be equal for a state to mean the same; an encoder counts by its ``content_hash``, if it has one."""
        encoder = getattr(self._encoder, "content_hash", None)
        return {
            "interval": self.interval,
            "stagger": self.stagger,
            "images": list(self._camera.shape),
            "shape": list(self.shape),
            "view": view_digest(self._sims.model),
            "encoder": encoder,
        }

    def get_state(self) -> dict[str, Any]:
        """Copies of everything that changes."""
        faults = {} if self._faults is None else {"faults": self._faults.get_state()}
        return {"latest": self.latest.copy(), "age": self._age.copy(), "countdown": self.countdown.copy(), **faults}

    def check_state(self, state: Any) -> dict[str, Any]:
        """What ``get_state`` returned; ValueError if an array is damaged."""
        found: dict[str, Any] = {
            "latest": check_state_array(state, "latest", self.latest),
            "age": check_state_array(state, "age", self._age, 0, 2**53),
            "countdown": check_state_array(state, "countdown", self.countdown, 0, self.interval),
        }
        return found if self._faults is None else found | {"faults": self._faults.check_state(state.get("faults"))}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what ``check_state`` returned."""
        self.latest[:], self._age[:], self.countdown[:] = state["latest"], state["age"], state["countdown"]
        if self._faults is not None:
            self._faults.set_state(state["faults"])

    def take(self, ids: NDArray[Any], robots: RobotState) -> None:
        """Take images of these simulations now; their clocks run on."""
        self.latest[ids] = self._look(ids, robots)
        self._age[ids] = 0

    def _look(self, ids: NDArray[Any], robots: RobotState) -> NDArray[np.float32]:
        """(k, *shape) what is kept of these simulations' images, taken now."""
        shares, threads = self._shares(np.arange(len(ids))), torch.get_num_threads()
        pieces = None if self._faults is None else self._faults.pieces(ids)
        kept: list[torch.Tensor | None] = [None] * len(shares)
        together = self._encoder is not None and not getattr(self._encoder, "thread_safe", False)

        def see(number: int) -> None:
            rows = shares[number]
            images = self._see(ids[rows], robots)
            if self._faults is not None and pieces is not None:
                images = self._faults.spoil(images, pieces[rows])
            kept[number] = images if together else self._encode(images)

        if self._camera.device.type == "cpu":
            # Each share keeps one CPU busy from rays to embedding.  PyTorch's own threads wait for each other in busy
            # loops many times on that way, which takes many times as long when another process runs on one of the CPUs.
            torch.set_num_threads(1)
        try:
            side_by_side([partial(see, number) for number in range(len(shares))])
        finally:
            torch.set_num_threads(threads)  # whoever learns may want another number
        whole = torch.cat([part for part in kept if part is not None])
        found: NDArray[np.float32] = (self._encode(whole) if together else whole).cpu().numpy()
        return found

    def _shares(self, ids: NDArray[Any]) -> list[NDArray[Any]]:
        """The simulations that each thread takes images of; a GPU serves one."""
        most = self._threads if self._camera.device.type == "cpu" else 1
        number = max(1, min(most, len(ids) // ROBOTS_PER_THREAD))
        bounds = np.rint(np.arange(1, number) * (len(ids) / number / ROBOTS_PER_THREAD)).astype(int)
        return np.split(ids, bounds * ROBOTS_PER_THREAD)

    def _see(self, ids: NDArray[Any], robots: RobotState) -> torch.Tensor:
        """(k, cameras, height, width) true images of these simulations, by cameras that look as theirs do."""
        ball = self._sims.addresses.ball_qpos
        return self._camera.render(
            robots.position.T[ids],
            robots.rotation.transpose(2, 0, 1)[ids],
            self._sims.qpos[ids, ball : ball + 3],
            self._sims.terrain_ids[ids],
            None if self._faults is None else self._faults.turned(ids),
        )

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        """(k, numbers) what is kept of (k, cameras, height, width) images; the images themselves without an encoder."""
        if self._encoder is None:
            return images
        with torch.no_grad():
            embeddings = self._encoder(images.flatten(0, 1)[:, None])
        if embeddings.numel() != len(images) * self.shape[0] or not embeddings.isfinite().all():
            raise ValueError(
                f"encoder returned {tuple(embeddings.shape)} for {len(images) * self._camera.num_cameras} images, "
                f"expected finite numbers, {self.shape[0]} a robot"
            )
        return embeddings.reshape(len(images), -1)

    def _encoded_size(self, encoder: Encoder) -> int:
        if not callable(encoder):
            raise TypeError(
                f"encoder={encoder!r} must be callable: images (k, 1, height, width) to (k, size) embeddings"
            )
        camera = self._camera
        theirs = getattr(encoder, "max_depth", camera.max_depth)
        if theirs != camera.max_depth:
            raise ValueError(
                f"this encoder was trained on depths to {theirs:g} m, the cameras see to {camera.max_depth:g} m: take "
                "another one"
            )
        blank = torch.full((2, 1, camera.height, camera.width), camera.max_depth, device=camera.device)
        with torch.no_grad():
            embeddings = encoder(blank)
        if (
            not isinstance(embeddings, torch.Tensor)
            or embeddings.ndim != 2
            or len(embeddings) != 2
            or not embeddings.shape[1]
            or not embeddings.dtype.is_floating_point
            or not embeddings.isfinite().all()
        ):
            found = (
                f"{embeddings.dtype} {tuple(embeddings.shape)}"
                if isinstance(embeddings, torch.Tensor)
                else type(embeddings).__name__
            )
            raise ValueError(
                f"encoder returned {found} for images {tuple(blank.shape)}, expected finite floats (2, size): one row "
                "an image"
            )
        return embeddings.shape[1]


def side_by_side(calls: Sequence[Callable[[], None]]) -> None:
    """Carry out calls at once, each but the first in a new thread; none is left for a fork to lose.

    Raises:
        BaseException: what a call raised, once all have ended; of several, the first call's.
    """
    errors: dict[int, BaseException] = {}

    def carry_out(number: int) -> None:
        try:
            calls[number]()
        except BaseException as error:
            errors[number] = error

    others = [threading.Thread(target=carry_out, args=(number,), daemon=True) for number in range(1, len(calls))]
    for number, thread in enumerate(others, 1):
        try:
            thread.start()
        except RuntimeError:  # this process may have no more threads
            carry_out(number)
    if calls:
        carry_out(0)
    for thread in others:
        if thread.ident is not None:
            thread.join()
    if errors:
        raise errors[min(errors)]
