"""Export a trained policy to ONNX, and prove that it is the same policy.

    python experiments/export_policy.py runs/NAME --out policy.onnx

Writes the control graph (500 Hz) and, for a policy that sees, the camera graph (at the rate of its training) beside it.
Then it drives simulated robots, compares the actions of both for every observation, and measures how long the graphs
take.  ``ballbot/deployment/runtime.py`` drives a robot with them, with ``--cpp`` a header does in C++;
docs/deployment.md is the contract.  Needs the extra "export".

Exit status: 0 the actions are the same, 1 they are not, 2 bad input.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from ballbot.cli import check_output, program
from ballbot.controllers import find_controller
from ballbot.deployment.export import MAX_DIFFERENCE, export_policy, write_cpp
from ballbot.deployment.shipped import find_policy
from ballbot.envs import BallbotVectorEnv
from ballbot.envs.sensors import ESTIMATED
from ballbot.evaluation import Actor, Episodes, env_options, run_episodes, trained_layout, trained_world
from ballbot.options import PluginFiles, read_options
from ballbot.ppo import Policy, load_policy
from ballbot.progress import Progress, reported
from ballbot.settings import Range

ROBOTS = 20
"""That the observations come from."""
DRIVEN_STEPS = 1000
"""That the controller drives a robot, to compare what it does with what the policy would."""
MAX_DRIVEN_DIFFERENCE = 1e-3
"""Of an action then: 0.01 N m.  The controller makes observations and embeddings itself, which round differently."""
WORLD: dict[str, Any] = {"terrain_split": "eval", "num_terrains": 1, "initial_speed": 0.4}
"""Where the robots are that the observations come from."""
WARM_UP = 200
"""Calls before time is measured."""


@dataclass
class Args:
    """Export a trained policy to ONNX."""

    checkpoint: Annotated[str, tyro.conf.Positional] = "default"
    """Checkpoint, run folder (for its best.pt), or the name of a policy that comes with ballbot ("default")."""
    out: Path = Path("policy.onnx")
    """File of the control graph; the camera graph is policy.camera.onnx then."""
    cpp: bool = False
    """Put the C++ runtime beside them, and a loop to fill in (main.cpp) unless there is one."""
    encoder: Path | None = None
    """Encoder of a policy that sees (default: the copy that its run keeps, or the one that comes with ballbot)."""
    observations: Annotated[int, Range(1, 10**7)] = 10_000
    """Real observations to compare on."""
    episodes: Annotated[int, Range(0, 10**4)] = 0
    """Whole episodes that the policy and the graph each drive from the same starts, to compare their returns."""
    seed: Annotated[int, Range(0, 2**62 - 1)] = 0
    """Of the robots that they come from."""
    plugin: PluginFiles = ()
    """Python file that adds grounds, commands or rewards by name; several files, each after its own --plugin."""


@dataclass(frozen=True)
class Driven:
    """What a policy did while it drove robots: (steps, robots, ...)."""

    observations: NDArray[np.float32]
    began: NDArray[np.bool_]
    """Whose episode began with the observation."""
    actions: NDArray[np.float32]


def collect(policy: Policy, options: dict[str, Any], args: Args) -> Driven:
    """As many observations as asked for, and the policy's actions."""
    envs = BallbotVectorEnv(ROBOTS, **options, **WORLD | {"num_terrains": ROBOTS})
    try:
        obs, _ = envs.reset(seed=args.seed)
        began, rows = np.ones(ROBOTS, bool), []
        steps = -(-args.observations // ROBOTS)
        for _ in reported(range(steps), steps, "driving robots"):
            actions = policy.predict(obs, began=began)
            rows.append((obs, began, actions))
            obs, _, terminated, truncated, _ = envs.step(actions)
            began = terminated | truncated
        return Driven(*(np.stack(column) for column in zip(*rows, strict=True)))
    finally:
        envs.close()


def graph_actor(controller: Any) -> Actor:
    """A control graph that acts by itself, without the controller's own observation."""
    memory: NDArray[np.float32] | None = None

    def act(obs: Any, began: NDArray[np.bool_]) -> NDArray[np.float32]:
        nonlocal memory
        if memory is not None:
            memory[began] = 0.0
        actions, memory = controller.decide(obs, memory)
        return np.asarray(actions)

    return act


class Beside:
    """A controller, and the simulated robot whose sensors it reads.

    Fields that are the user's own, which the controller cannot make, are taken from the environment's observation.

    Args:
        path: of the control graph.
        policy: that it is of.
        options: of the world that the policy was trained for.
    """

    def __init__(self, path: Path, policy: Policy, options: dict[str, Any]) -> None:
        from ballbot.deployment.runtime import READERS, Controller  # needs onnxruntime

        world = trained_world(policy)
        layout = trained_layout(policy, world, options.get("encoder"))
        self.observation = np.zeros(layout.sensed, np.float32)
        own = [name for name in layout.names if name not in (*READERS, *layout.past)]
        readers = {name: self._reader(layout[name]) for name in own}
        self.controller = Controller(path, readers=readers, action=world.action)
        self.options = options
        if own:
            what = "is your own: hand its reader" if len(own) == 1 else "are your own: hand their readers"
            print(f"note: {', '.join(own)} {what} to Controller on the robot")

    def _reader(self, where: slice) -> Callable[[Any, Any], NDArray[np.float32]]:
        return lambda sensors, controller: self.observation[where]

    def act(self, envs: BallbotVectorEnv, seen: Any) -> NDArray[np.float64]:
        """(1, 3) actions of the controller, by its sensors.

        Raises:
            RuntimeError: it refuses to drive a robot that stands.
        """
        from ballbot.deployment.runtime import Sensors  # needs onnxruntime

        controller, robot = self.controller, envs.simulations.robot_state()
        if "encoder" in self.options and seen["image_age"][0, 0] == 0:
            controller.see(seen["depth"][0])
        self.observation[:] = (seen["proprioception"] if isinstance(seen, dict) else seen)[0]
        sensors = Sensors(
            robot.quaternion[:, 0],
            robot.gyro[:, 0],
            robot.velocity[:, 0],
            robot.wheel_speeds[:, 0],
            goal=envs.goal[0] if controller.kind == "goal" else None,
            command=envs.command[0],
            position=robot.position[:2, 0],
        )
        torques = controller.act(sensors)
        if controller.status != "ok":
            raise RuntimeError(f"the controller does not drive a robot that stands: {controller.status}")
        return np.asarray(torques[None] / controller.per_action)


def drive_beside(policy: Policy, options: dict[str, Any], beside: Beside, args: Args) -> float:
    """Largest difference of an action while the controller drives one robot by its sensors and images.

    The policy in PyTorch is asked what it would have done, from the observation that the environment makes.  Ends early
    with a policy that falls.  Half way, the robot is told what another one would be.

    Raises:
        RuntimeError: the controller refuses to drive a robot that stands.
    """
    limit = beside.controller.contract["tilt_limit_deg"]  # where the controller gives up, and the episode ends
    world = WORLD | {"tilt_limit_deg": limit, "initial_tilt_deg": min(1.0, limit / 2), "num_threads": 1}
    alike = {k: v for k, v in options.get("sensing", {}).items() if k in ESTIMATED}
    options = {**options, "sensing": alike}  # noise and delays are the robot's own
    raw = {k: v for k, v in options.items() if k != "encoder"}
    theirs = BallbotVectorEnv(1, **options, **world)
    ours = BallbotVectorEnv(1, **raw | ({"observation": "depth"} if "encoder" in options else {}), **world)
    try:
        theirs.reset(seed=args.seed + 1)
        another = theirs.command
        observation, _ = theirs.reset(seed=args.seed)
        seen, _ = ours.reset(seed=args.seed)
        beside.controller.reset()
        worst, began = 0.0, np.ones(1, bool)
        for step in range(DRIVEN_STEPS):
            actions = beside.act(ours, seen)
            worst = max(worst, float(np.abs(actions - policy.predict(observation, began=began)).max()))
            began = np.zeros(1, bool)
            if step == DRIVEN_STEPS // 2:
                for envs in (theirs, ours):
                    envs.set_command(another)
            observation, *_ = theirs.step(actions)
            seen, _, terminated, truncated, _ = ours.step(actions)
            if terminated[0] or truncated[0]:
                break
        return worst
    finally:
        theirs.close()
        ours.close()


def microseconds(call: Callable[[], Any], calls: int) -> tuple[float, float]:
    """Median and 99.9th percentile of the time of a call."""
    times = np.zeros(calls + WARM_UP)
    for i in range(len(times)):
        start = time.perf_counter()
        call()
        times[i] = 1e6 * (time.perf_counter() - start)
    median, slow = np.percentile(times[WARM_UP:], [50, 99.9])
    return float(median), float(slow)


def check(args: Args) -> int:
    """Export, compare, and return the exit status."""
    check_output(args.out, "--out", (".onnx",))
    if find_controller(args.checkpoint) is not None:
        raise ValueError(f"{args.checkpoint} is no network: give a checkpoint, or a run folder for its best.pt")
    policy = load_policy(find_policy(args.checkpoint))
    options = env_options(policy, args.encoder)
    with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=".export_") as folder:
        files = export_policy(policy, Path(folder) / args.out.name, options.get("encoder"))
        if difference := compare(policy, options, Beside(files[0], policy, options), args):
            print(f"error: a difference of {difference:.1e} is too much: nothing was written", file=sys.stderr)
            return 1
        for path in reversed(files):  # what was there before is replaced by what has been proved alone
            path.replace(args.out.with_name(path.name))
    for path in files:
        written = args.out.with_name(path.name)
        print(f"wrote {written}, {written.stat().st_size / 1024:.0f} KiB")
    if args.cpp:
        print("wrote", *write_cpp(args.out.parent))
    return 0


def drive(actor: Actor, options: dict[str, Any], args: Args) -> Episodes:
    """Whole episodes on terrains never trained on."""
    envs = BallbotVectorEnv(
        min(args.episodes, ROBOTS), **options, terrain_split="eval", terrain_seed=1, num_terrains=100
    )
    progress = Progress(f"{args.episodes} episodes")
    try:
        return run_episodes(envs, actor, args.episodes, args.seed, progress=progress)
    finally:
        progress.close()
        envs.close()


def last_bit(policy: Policy, driven: Driven) -> float:
    """How much an action changes where each number that is observed changes by its last bit; 0 of who remembers.

    Differences below that are rounding, whoever is right.
    """
    if policy.agent.new_memory(1) is not None:
        return 0.0
    seen = np.nextafter(driven.observations, np.float32(np.inf))
    return largest_difference(lambda obs, began: policy.predict(obs, began=began), seen, driven)


def largest_difference(actor: Actor, seen: NDArray[np.float32], driven: Driven) -> float:
    """Between what an actor does, who sees this, step after step, and what was done."""
    steps = zip(seen, driven.began, driven.actions, strict=True)
    return max(float(np.abs(actor(obs, began) - actions).max()) for obs, began, actions in steps)


def compare(policy: Policy, options: dict[str, Any], beside: Beside, args: Args) -> float:
    """Print how far the graphs are off, and how long they take; returns the difference if it is too large, else 0."""
    encoder, controller = options.get("encoder"), beside.controller
    print(
        f"comparing with PyTorch on {args.observations:,} observations of robots that drive; half a minute", flush=True
    )
    driven, act = collect(policy, options, args), graph_actor(controller)
    difference = largest_difference(act, driven.observations, driven)
    print(f"largest difference of an action on {driven.began.size:,} observations: {difference:.1e}")
    median, slow = microseconds(lambda: controller.decide(driven.observations[0, :1]), 20_000)
    print(f"control graph, one robot, one core: median {median:.0f} us, 99.9th percentile {slow:.0f} us")
    if encoder is not None and controller.camera is not None:
        rng, a = np.random.default_rng(args.seed), encoder.architecture
        images = rng.uniform(
            0, encoder.max_depth, (controller.contract["camera"]["shape"][0], 1, a.height, a.width)
        ).astype(np.float32)
        embeddings = controller.camera.run(None, {"depth": images})[0]
        difference_of_images = float(np.abs(embeddings - encoder(torch.from_numpy(images)).numpy()).max())
        camera = controller.camera
        median, slow = microseconds(lambda: camera.run(None, {"depth": images}), 2_000)
        print(f"largest difference of an embedding: {difference_of_images:.1e}")
        print(f"camera graph, {len(images)} cameras, one core: median {median:.0f} us, 99.9th percentile {slow:.0f} us")
        difference = max(difference, difference_of_images)
    beside_it = drive_beside(policy, options, beside, args)
    print(f"largest difference of an action of the controller that drives a robot: {beside_it:.1e}")
    if args.episodes:
        for name, actor in (
            ("PyTorch", lambda obs, began: policy.predict(obs, began=began)),
            ("the graph", graph_actor(controller)),
        ):
            found = drive(actor, options, args)
            result = f"return {found.returns.mean():.4f}, length {found.lengths.mean():.1f}"
            print(f"{args.episodes} episodes by {name}: {result}")
    if beside_it > MAX_DRIVEN_DIFFERENCE:
        return beside_it
    if difference <= MAX_DIFFERENCE:
        return 0.0
    least = last_bit(policy, driven)
    print(f"largest change of an action by the last bit of what is observed: {least:.1e}")
    return 0.0 if difference <= least else difference


@program
def main(argv: list[str] | None = None) -> int:
    """Export, and return the exit status."""
    return check(read_options(Args, argv, __doc__))


if __name__ == "__main__":
    sys.exit(main())
