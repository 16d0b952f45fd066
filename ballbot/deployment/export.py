"""Write trained policies as ONNX graphs, for robots and programs without PyTorch.

A policy becomes one graph at the control rate, ``observation`` (batch, size) -> ``action`` (batch, 3), with the
normalisation of observations and the clipping of actions baked in.  One that remembers has ``memory`` besides, and
gives ``next_memory``.  A policy that sees has a second one at the rate of
its cameras, ``depth`` (batch, 1, height, width) -> ``embedding`` (batch, size).  Each carries its contract, a JSON
object under the key "ballbot" of its metadata: order, units and rates of what goes in and out, and what it was made
from.  ``ballbot.deployment.runtime`` drives a robot with them; docs/deployment.md explains the contract.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import logging
import warnings
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import ballbot
from ballbot import robot_files
from ballbot.encoders import FrozenEncoder
from ballbot.envs import commands
from ballbot.envs.config import WorldConfig, make_command
from ballbot.envs.mechanics import mechanics_of
from ballbot.envs.model import build_model, num_wheels, tread_middle
from ballbot.envs.motors import stiffness_of
from ballbot.envs.observations import wheel_names
from ballbot.envs.rig import CameraRig, camera_names, rig_of
from ballbot.envs.robot import RobotConfig
from ballbot.envs.robots import Robot
from ballbot.envs.sensors import Sensors, VelocityEstimate
from ballbot.evaluation.trained import trained_layout, trained_world
from ballbot.ppo import Agent, Policy
from ballbot.ppo.checkpoint import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator

PERIOD = 0.002
"""s between two actions."""
STALE_AFTER = 0.1
"""s: an older image is told as stale.  At 31 Hz, three images have been missed then."""
LONGEST_HOLD = 5
"""Steps that a robot goes on with its last good sensor values: 10 ms, in which it tilts by a degree or two."""
LOST_AFTER = 0.1
"""s without good sensor values: a robot that drove may have fallen since, or be in somebody's hands."""
MAX_DIFFERENCE = 1e-5
"""Of an action between PyTorch and onnxruntime."""
NO_CHECKSUM = 64 * "0"
"""Stands in a file for the SHA-256 of the file with this in its place."""


CPP = Path(__file__).with_name("cpp")
"""Sources for robots that are driven in C++."""


class ControlGraph(nn.Module):
    """Raw observations to actions, for the exporter."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent

    def forward(
        self, observation: torch.Tensor, memory: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Most likely actions, and of a policy that remembers what it does now."""
        agent = self.agent
        observation = agent.with_estimates(observation)
        x = agent.normalize(observation)
        if memory is None:
            return agent.env_action(agent.policy_output(x), observation)
        memory = agent.remember(x, memory)
        return agent.env_action(agent.policy_output(x, memory), observation), memory


class CameraGraph(nn.Module):
    """Depth images to embeddings, for the exporter."""

    def __init__(self, encoder: FrozenEncoder) -> None:
        super().__init__()
        self.layers, self.max_depth = encoder.layers, encoder.max_depth

    def forward(self, depth: torch.Tensor) -> torch.Tensor:
        """Embeddings of images whose depths are clipped first."""
        embeddings: torch.Tensor = self.layers(depth.clamp(0.0, self.max_depth))
        return embeddings


def robot_contract(world: WorldConfig, name: str) -> dict[str, Any]:
    """Which robot it is, for the contract: its name and numbers, and of one from MJCF the digest of what that holds.

    Args:
        world: of the robot.
        name: of it when the policy was trained; of a file the folder is left out.
    """
    robot = world.robot_config
    if isinstance(robot, RobotConfig):
        return {"name": world.robot, **asdict(robot)}
    return {"name": Path(name).name, "digest": robot_files.digest(world), **robot_files.numbers(robot)}


def velocity_contract(world: WorldConfig) -> dict[str, Any] | None:
    """How a policy knows the base's velocity, by wheels and gyroscope; None: it has to be told."""
    sensors = Sensors(**world.sensing)
    if sensors.velocity == "true":
        return None
    found = VelocityEstimate.of(mechanics_of(world.robot_config), sensors, PERIOD)
    return {name: np.asarray(value).tolist() for name, value in asdict(found).items()}


def robot_geometry(rig: CameraRig | None = None, robot: Robot | None = None) -> dict[str, Any]:
    """Where wheels and cameras are on the upright robot, for the contract.

    Args:
        rig: of the cameras; None: the reference's.
        robot: None: the reference's.

    Returns:
        "wheels" and "cameras", lists in the order of torques and images.  All along the base's axes, from its origin,
        lengths in m: "center" of a wheel's rolling surface and "axle", the unit vector that its speed and torque turn
        about (right-handed); "center" of a camera, "optical_axis", and "up", the direction from the last row of the
        image to the first; and "fov_deg", its field of view from there to there.
    """
    model = build_model(rig=rig, robot=robot)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)  # in the MJCF's own pose, the base's axes are the world's
    origin = data.body("base").xpos
    ball, solids = data.geom("ball").xpos, {model.geom(geom).name for geom in range(model.ngeom)}

    def listed(vector: NDArray[np.float64]) -> list[float]:
        return [round(float(x), 6) + 0.0 for x in vector]

    def middle(wheel: int) -> NDArray[np.float64]:
        name = f"wheel_{wheel}"
        return np.asarray((data.geom(name).xpos if name in solids else tread_middle(data.joint(name), ball)) - origin)

    wheels = [
        {"center": listed(middle(i)), "axle": listed(data.joint(f"wheel_{i}").xaxis)} for i in range(num_wheels(model))
    ]
    cameras = []
    for name in camera_names(model):
        _right, up, back = data.camera(name).xmat.reshape(3, 3).T
        center = data.camera(name).xpos - origin
        fov = float(model.cam_fovy[model.camera(name).id])
        cameras.append({"center": listed(center), "optical_axis": listed(-back), "up": listed(up), "fov_deg": fov})
    return {"wheels": wheels, "cameras": cameras}


def action_contract(world: WorldConfig) -> dict[str, Any]:
    """What an action asks of a wheel, for the contract.

    Returns:
        "action", and "torque_per_action" in N m; or "wheel_speed_per_action" in rad/s, or "wheel_position_per_action",
        rad that a wheel shall go on in each step, and "motors": how those followed that in training.
    """
    robot = mechanics_of(world.robot_config)
    if world.action == "torque":
        return {"action": "torque", "torque_per_action": -world.robot_config.torque_limit}
    followed = {"gain": robot.speed_gain, "damping": robot.wheel_damping, "torque_limit": robot.torque}
    each = 1.0
    if world.action == "wheel_position":
        followed["stiffness"], each = stiffness_of(robot), PERIOD
    return {"action": world.action, f"{world.action}_per_action": -each * robot.free_speed, "motors": followed}


def command_contract(world: WorldConfig) -> dict[str, Any]:
    """How a robot is told what to do, for the contract.

    Returns:
        "kind"; "given_as", the sensors' field that tells it; "size", how many numbers; "units" and "axes" of them;
        "range", [lowest, highest] of each in training, None where there is none; and what the controller must know to
        follow it: of a goal "trained", the direction along the world's x and y.
    """
    command = make_command(world.command, world.motion)
    told: dict[str, Any] = {"kind": world.command, "given_as": "command", "size": command.size}
    places = {"units": ["m"] * command.size, "axes": "world, x and y", "range": None}
    if isinstance(command, commands.Goal):
        return told | {
            "given_as": "goal", "units": ["1", "1"], "axes": "world, x and y of a unit vector",
            "range": [[-1.0, 1.0]] * 2, "trained": [command.x, command.y],
        }  # fmt: skip
    if isinstance(command, commands.Velocity):
        most = (command.max_speed, command.max_speed, command.max_yaw_rate)
        told |= {
            "units": ["m/s", "m/s", "rad/s"], "axes": "along the heading, to its left, about the vertical",
            "range": [[-x, x] for x in most], "max_speed": command.max_speed, "settling": commands.SETTLING,
            "still": commands.STILL,
        }  # fmt: skip
    elif isinstance(command, commands.Point):
        told |= places
    elif isinstance(command, commands.Path):
        told |= places | {"points": command.num_points, "radius": command.radius}
    return told


def export_policy(policy: Policy, out: str | Path, encoder: FrozenEncoder | None = None) -> list[Path]:
    """Write a policy's graphs.

    Args:
        policy: from ``load_policy``.
        out: file of the control graph; the camera graph's has ".camera" before the ending.
        encoder: of a policy that sees.

    Returns:
        the files, which belong together.

    Raises:
        ValueError: not a policy of this robot.
        ImportError: the extra "export" is not installed.
        OSError: a file cannot be written.
    """
    out, world = Path(out), trained_world(policy)
    layout = trained_layout(policy, world, encoder)
    camera: dict[str, Any] | None = None
    graphs: list[tuple[Path, bytes]] = []
    if encoder is not None:
        a, depths, interval = encoder.architecture, [0.0, encoder.max_depth], world.camera_interval
        path = out.with_suffix(f".camera{out.suffix}")
        sensors = Sensors(**world.sensing)
        late = sensors.camera_delay_ms[1] / 1000
        stale_after = max(STALE_AFTER, 3 * interval * PERIOD) + late
        camera = {
            "graph": path.name,
            "encoder": encoder.content_hash,
            "shape": [len(layout.images), a.height, a.width],
            "max_depth": encoder.max_depth,
            "period": interval * PERIOD,
            "longest_age": stale_after if sensors.camera_lost else (interval - 1) * PERIOD + late,
            "stale_after": stale_after,
        }
        contract = {
            "kind": "camera",
            "ballbot": ballbot.__version__,
            "encoder": encoder.content_hash,
            "input": {"name": "depth", "shape": ["batch", 1, a.height, a.width], "unit": "m", "range": depths},
            "output": {"name": "embedding", "size": a.embedding_size, "range": [-1.0, 1.0]},
            "period": interval * PERIOD,
        }
        image = torch.zeros(2, 1, a.height, a.width)
        graphs.append((path, _graph(CameraGraph(encoder), {"depth": image}, ["embedding"], contract)))
    told, robot = command_contract(world), world.robot_config
    geometry = robot_geometry(rig_of(world.rig), robot)
    wheels = len(geometry["wheels"])
    contract = {
        "kind": "control",
        "ballbot": ballbot.__version__,
        "robot": robot_contract(world, str(policy.metadata.get("robot", world.robot))),
        "frame": world.frame,
        "trained_on": world.terrain,
        "trained_steps": policy.step,
        "input": {"name": "observation", "fields": layout.table()},
        "output": {"name": "action", "size": wheels, "range": [-1.0, 1.0], "axes": wheel_names(wheels)},
        **action_contract(world),
        "period": PERIOD,
        "command": told,
        "goal": told.get("trained"),
        "tilt_limit_deg": world.tilt_limit_deg,
        "sensors": dict(world.sensing),
        "velocity": velocity_contract(world),
        "longest_hold": LONGEST_HOLD,
        "lost_after": LOST_AFTER,
        **geometry,
        "camera": camera,
    }
    inputs, outputs = {"observation": torch.zeros(2, policy.agent.told_size)}, ["action"]
    if (memory := policy.agent.new_memory(2)) is not None:
        inputs["memory"] = memory
        outputs.append("next_memory")
        contract["memory"] = {
            "input": "memory",
            "output": "next_memory",
            "shape": ["batch", *policy.agent.memory_shape],
            "at_start_of_episode": 0.0,
        }
    graphs.append((out, _graph(ControlGraph(policy.agent), inputs, outputs, contract)))
    for path, content in graphs:
        write_atomic(path, content)
    return [path for path, _ in reversed(graphs)]


def write_cpp(folder: Path) -> list[Path]:
    """Put the C++ runtime into a folder, and a loop to fill in with how to build it, unless they are there.

    Returns:
        the files that were written.

    Raises:
        OSError: one cannot be written.
    """
    files = [path for path in sorted(CPP.iterdir()) if path.suffix == ".hpp" or not (folder / path.name).exists()]
    for path in files:
        write_atomic(folder / path.name, path.read_bytes())
    return [folder / path.name for path in files]


def _graph(module: nn.Module, inputs: dict[str, torch.Tensor], outputs: list[str], contract: dict[str, Any]) -> bytes:
    """An ONNX file of a module, for any batch; `inputs` are examples by name."""
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch.onnx needs it
    except ImportError as error:
        raise ImportError(f"{error.name} is missing: pip install onnx onnxruntime onnxscript") from error
    if "dynamic_shapes" not in inspect.signature(torch.onnx.export).parameters:
        raise ImportError(f"PyTorch {torch.__version__} is too old to export: pip install 'torch>=2.7'")
    batch = torch.export.Dim("batch")
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        item.ClearField("metadata_props")  # the exporter's notes to itself, with paths of this machine
    for node in model.graph.node:
        node.ClearField("doc_string")
    onnx.helper.set_model_props(model, {"ballbot": json.dumps(contract | {"checksum": NO_CHECKSUM})})
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    checksum = hashlib.sha256(content).hexdigest()
    return content.replace(NO_CHECKSUM.encode(), checksum.encode())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on what it does and what else could be installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
