"""Drive a robot with an exported policy.  Needs NumPy and onnxruntime alone: copy this one file to the robot.

    controller = Controller("policy.onnx")
    every 2 ms:       torques = controller.act(Sensors(...))
    with each image:  controller.see(depth)                    # policies that see; at the rate of their training

``experiments/export_policy.py`` writes the graphs; docs/deployment.md is the contract: units, axes, rates, limits.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

WHEEL_SPEED_SCALE = 10.0
"""rad/s per unit of observation."""
WORLD_FRAME_CLIP = 2.0
"""Largest angular velocity, velocity and scaled wheel speed in observations along the world's axes."""
NEEDED = {
    "control": (
        "camera",
        "frame",
        "goal",
        "input",
        "longest_hold",
        "lost_after",
        "period",
        "tilt_limit_deg",
        "torque_per_action",
    ),
    "camera": ("encoder", "input", "output"),
}
"""What a graph must say of itself."""
PLAUSIBLE = {
    "orientation": (4, 1.1),
    "angular_velocity": (3, 100.0),
    "velocity": (3, 20.0),
    "wheel_speeds": (3, 1000.0),
    "goal": (2, 1.1),
}
"""Size of each sensor's value, and the largest number, in its unit, that is no fault."""


@dataclass
class Sensors:
    """What the robot measures at one time."""

    orientation: Floats
    """(4,) unit quaternion, w first: base to world, whose z is up."""
    angular_velocity: Floats
    """(3,) rad/s, of the base, along its own axes (a gyroscope's)."""
    velocity: Floats
    """(3,) m/s, of the base's origin, along the world's axes."""
    wheel_speeds: Floats
    """(3,) rad/s, about the wheels' axles, in the order of the torques."""
    goal: Floats
    """(2,) unit vector of the direction of travel, along the world's x and y."""

    def facing(self, goal: Floats) -> Sensors:
        """The same, in a world turned about the vertical until the goal is this one."""
        (x, y), (gx, gy) = self.goal, goal
        turn = np.arctan2(x * gy - y * gx, x * gx + y * gy)
        half, (c, s) = turn / 2, (np.cos(turn), np.sin(turn))
        w, i, j, k = self.orientation
        a, b = np.cos(half), np.sin(half)
        vx, vy, vz = self.velocity
        return replace(
            self,
            orientation=np.array([a * w - b * k, a * i - b * j, a * j + b * i, a * k + b * w]),
            velocity=np.array([c * vx - s * vy, s * vx + c * vy, vz]),
            goal=np.asarray(goal, np.float64),
        )


class Controller:
    """An exported policy and what it must remember from step to step.

    Args:
        path: the control graph; a policy that sees has its camera graph beside it.
        num_threads: of onnxruntime; networks this small need one.

    Raises:
        ValueError: the file is no exported policy or damaged, or its camera graph is missing or another one.
    """

    def __init__(self, path: str | Path, num_threads: int = 1) -> None:
        path = Path(path)
        self.contract: dict[str, Any]
        """What the graph says of itself: units, order, rates, limits."""
        self.control, self.contract = _load(path, "control", num_threads)
        camera = self.contract["camera"]
        self.camera: onnxruntime.InferenceSession | None = None
        if camera is not None:
            self.camera, theirs = _load(path.with_name(camera["graph"]), "camera", num_threads)
            if theirs["encoder"] != camera["encoder"]:
                raise ValueError(
                    f"{path.with_name(camera['graph'])} holds the encoder {theirs['encoder'][:16]}, {path} was trained "
                    f"with {camera['encoder'][:16]}: export both together"
                )
        self._warm_up()
        self.reset()

    def reset(self) -> None:
        """Forget the past, a fall too: before the robot drives again."""
        self.status = "ok"
        """"ok", "no image", "stale image", "sensors held", "sensors lost", "fallen" or "policy failed"; see
        docs/deployment.md."""
        self._last_action = np.zeros(3, np.float32)
        self._last_good: Sensors | None = None
        self._held = 0
        self._off = ""  # the status in which the robot stays until reset()
        self._embeddings: NDArray[np.float32] | None = None
        self._age = 0.0

    def _warm_up(self) -> None:
        """Run the graphs once: the first run takes longer, and a damaged policy shows before the robot moves."""
        size = sum(int(field["size"]) for field in self.contract["input"]["fields"])
        outputs = self.control.run(None, {"observation": np.zeros((1, size), np.float32)})
        if self.camera is not None:
            shape = tuple(self.contract["camera"]["shape"])
            outputs += self.camera.run(None, {"depth": np.zeros((shape[0], 1, *shape[1:]), np.float32)})
        if not all(np.isfinite(x).all() for x in outputs):
            raise ValueError("this policy gives numbers that are not finite: export another checkpoint")

    def see(self, depth: Floats) -> None:
        """Take new images, (cameras, height, width) depth along the optical axis in m.

        What is too far, or NaN (no echo), counts as the largest depth.

        Raises:
            ValueError: another shape, or the policy does not see.
        """
        if self.camera is None:
            raise ValueError("this policy was trained without cameras: do not call see()")
        camera = self.contract["camera"]
        images = np.asarray(depth, np.float32)
        if images.shape != tuple(camera["shape"]):
            raise ValueError(f"images have shape {images.shape}, this policy takes {tuple(camera['shape'])}")
        images = np.clip(np.nan_to_num(images, nan=camera["max_depth"]), 0.0, camera["max_depth"])
        self._embeddings = self.camera.run(None, {"depth": images[:, None]})[0].reshape(-1)
        self._age = 0.0

    def act(self, sensors: Sensors) -> NDArray[np.float64]:
        """Torques, (3,) N m, for the next 2 ms; zeros when it is not safe to drive, see ``status``."""
        good = self._check(sensors)
        action = np.zeros(3, np.float32)
        if good is not None:
            action = self.control.run(None, {"observation": self.observe(good)[None]})[0][0]
            if not np.isfinite(action).all():
                self.status, action = "policy failed", np.zeros(3, np.float32)
        self._last_action = action
        self._age += self.contract["period"]  # of the images, whether the robot drives or not
        return self.contract["torque_per_action"] * action.astype(np.float64)

    def observe(self, sensors: Sensors) -> NDArray[np.float32]:
        """The policy's observation: these sensors, the last action, and the latest images."""
        if self.contract["frame"] == "world":  # such a policy knows one goal only
            sensors = sensors.facing(self.contract["goal"])
        w, x, y, z = np.asarray(sensors.orientation, np.float64)
        rotation = np.array(  # base to world
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
        wheels = np.asarray(sensors.wheel_speeds, np.float64) / WHEEL_SPEED_SCALE
        if self.contract["frame"] == "body":
            goal = np.array([*sensors.goal, 0.0])
            parts = [
                -rotation[2],
                sensors.angular_velocity,
                rotation.T @ sensors.velocity,
                (rotation.T @ goal)[:2],
                wheels,
                self._last_action,
            ]
        else:
            sine = np.linalg.norm([x, y, z])
            angle = 2 * np.arctan2(sine, abs(w))
            axis = np.array([x, y, z]) * (-1.0 if w < 0 else 1.0)
            parts = [
                axis * (angle / sine if sine > 1e-12 else 2.0),
                np.clip(sensors.angular_velocity, -WORLD_FRAME_CLIP, WORLD_FRAME_CLIP),
                np.clip(sensors.velocity, -WORLD_FRAME_CLIP, WORLD_FRAME_CLIP),
                np.clip(wheels, -WORLD_FRAME_CLIP, WORLD_FRAME_CLIP),
                self._last_action,
            ]
        camera = self.contract["camera"]
        if camera is not None:
            assert self._embeddings is not None  # _check has seen to it
            parts += [self._embeddings, [min(self._age, camera["longest_age"])]]
        return np.concatenate(parts).astype(np.float32)

    def _check(self, sensors: Sensors) -> Sensors | None:
        """Sensors to act on, or None; sets ``status``."""
        read = {name: _numbers(getattr(sensors, name, None), *limits) for name, limits in PLAUSIBLE.items()}
        for name in ("orientation", "goal"):
            if (value := read[name]) is not None and abs(np.linalg.norm(value) - 1.0) > 1e-2:
                read[name] = None
        values = [value for value in read.values() if value is not None]
        sound = len(values) == len(read)
        if sound:
            self._last_good, self._held = Sensors(*values), 0  # copies: the caller may use his buffers again
        else:
            self._held += 1
        # Until reset(): who picks the robot up does not want it to drive.  It may fall without being seen to, too.
        if (orientation := read["orientation"]) is not None and self._tilts_too_far(orientation):
            self._off = "fallen"
        elif self._last_good is not None and self._held * self.contract["period"] > self.contract["lost_after"]:
            self._off = self._off or "sensors lost"
        lost = self._last_good is None or self._held > self.contract["longest_hold"]
        if self._off or lost:
            self.status = self._off or "sensors lost"
            return None
        camera = self.contract["camera"]
        if camera is not None and self._embeddings is None:
            self.status = "no image"
            return None
        if not sound:
            self.status = "sensors held"
        elif camera is not None and self._age > camera["stale_after"]:
            self.status = "stale image"
        else:
            self.status = "ok"
        return self._last_good

    def _tilts_too_far(self, orientation: Floats) -> bool:
        _, x, y, _ = orientation
        return bool(1 - 2 * (x * x + y * y) < np.cos(np.radians(self.contract["tilt_limit_deg"])))


def _numbers(value: Any, size: int, most: float) -> Floats | None:
    """A copy as (size,) float64, or None where it is no such array of finite numbers up to ``most``."""
    try:
        if np.ma.is_masked(value):  # what lies under a mask is no measurement
            return None
        array = np.array(value, np.float64)
    except Exception:  # whatever a foreign type raises on conversion
        return None
    sound = array.shape == (size,) and bool(np.isfinite(array).all() and np.abs(array).max() <= most)
    return array if sound else None


def _load(path: Path, kind: str, num_threads: int) -> tuple[onnxruntime.InferenceSession, dict[str, Any]]:
    """A graph and its contract."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist: export the policy with export_policy.py and keep its files together")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = num_threads
    try:
        content = path.read_bytes()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        contract = json.loads(session.get_modelmeta().custom_metadata_map["ballbot"])
    except Exception as error:
        raise ValueError(
            f"{path} is no policy that export_policy.py wrote ({type(error).__name__}: {error})"
        ) from error
    found = contract.get("kind") if isinstance(contract, dict) else None
    if found != kind:
        raise ValueError(f"{path} holds a {found} graph, a {kind} graph is needed here")
    checksum = str(contract.get("checksum"))
    blank = content.replace(checksum.encode(), b"0" * len(checksum))
    if hashlib.sha256(blank).hexdigest() != checksum:
        raise ValueError(f"{path} does not match its checksum: it was changed or damaged, copy or export it again")
    if missing := [name for name in NEEDED[kind] if name not in contract]:
        raise ValueError(f"{path} does not say its {missing[0]!r}: export the policy again")
    return session, contract
