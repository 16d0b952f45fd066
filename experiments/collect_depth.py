"""Collect depth images to pretrain an encoder with.

    python experiments/collect_depth.py --out data/depth --num-images 200000
    python experiments/collect_depth.py --out data/depth --policy random pid runs/perlin_0/best.pt
    python experiments/collect_depth.py --out data/depth --num-images 400000     # goes on where it stopped
    python experiments/collect_depth.py --out data/wide --terrain mixed --rig.number 3 --rig.tilt-deg 30
    python experiments/collect_depth.py --out data/road --terrain road --policy random informed:0.25

Robots act at random, by PID control, or as a trained policy does, in blocks that take turns.  Ctrl-C loses at most the
block under way; the same command goes on, and ends with the same images as a run never stopped.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

import ballbot
from ballbot.cli import program
from ballbot.controllers import PIDController, controlled_fields, find_controller, make_controller
from ballbot.encoders.dataset import RECORD, DatasetError, DepthDataset
from ballbot.envs import BallbotVectorEnv, WorldConfig
from ballbot.envs.model import view_digest
from ballbot.evaluation import trained_layout, trained_world
from ballbot.options import PluginFiles, kind_options, read_options, rig_options
from ballbot.ppo import CheckpointError, RunDirectoryError, load_policy
from ballbot.ppo.checkpoint import policy_file
from ballbot.ppo.run_dir import lock_run_dir
from ballbot.settings import Range

Policy = Callable[[dict[str, NDArray[np.float32]], NDArray[np.bool_]], NDArray[np.float32]]
"""(observations, which episodes have just begun) -> actions."""
Driver = Callable[[BallbotVectorEnv, int], Policy]
"""(environment, seed) -> a policy in it."""

TAKES = 40
"""Times in a block that images are taken: long enough to leave the start, short enough to lose little."""


@dataclass
class Args:
    """Collect depth images."""

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("data/depth")
    """Folder of the data set; goes on with what is there."""
    num_images: Annotated[int, Range(1, 10**9)] = 200_000
    """Images to have in the end, of all cameras together; rounded up to whole blocks of 80 for each of --num-envs.
    An image takes 8 kB."""
    policy: tuple[str, ...] = ("random", "pid")
    """Who drives, taking turns: "random", "pid", a classical controller such as "informed:0.25", or checkpoints or run
    folders of policies trained without cameras."""
    num_envs: int = 64
    """Robots at a time."""
    num_terrains: Annotated[int, Range(1, 4096)] = 256
    """Height fields; an encoder is validated on some that it was not trained on."""
    terrain: str = "perlin"
    """Kind of the ground, with its difficulty after a colon, "stairs:0-1", or a height map.  The kind's own options are
    --ground.height and so on: --terrain stairs --help lists them."""
    terrain_seed: int = 1_000
    """Base seed of the terrains."""
    seed: Annotated[int, Range(0, 2**62 - 1)] = 0
    """Of starts and random actions."""
    interval: Annotated[int, Range(1, 10**6)] = 30
    """Steps of 2 ms between two images of a robot: images that follow each other closely teach little."""
    initial_tilt_deg: float = 10.0
    """Largest tilt at the start of an episode, degrees."""
    initial_speed: float = 0.4
    """Largest speed at the start of an episode, m/s."""
    num_threads: int = 0
    """Threads that simulate and cast rays; 0 takes every CPU."""
    plugin: PluginFiles = ()
    """Python file that adds kinds of ground; several files, each after its own --plugin."""


def check(args: Args) -> Args:
    """The same options, if they are possible.

    Raises:
        ValueError: an option is out of range; the message names it.
    """
    if not args.policy:
        raise ValueError("--policy needs at least one of random, pid, or a checkpoint")
    return args


def random_policy(envs: BallbotVectorEnv, seed: int) -> Policy:
    """Actions drawn anew at every step, around a push that lasts for a block."""
    rng = np.random.default_rng(seed)
    push = rng.normal(0, 0.1, envs.world.actions.shape)
    return lambda obs, began: np.clip(push + rng.normal(0, 0.3, push.shape), -1, 1).astype(np.float32)


def pid_policy(envs: BallbotVectorEnv, seed: int) -> Policy:
    """PID control towards a small tilt that lasts for a block: the robots travel, each its own way."""
    setpoint = np.radians(np.random.default_rng(seed).normal(0, 1.0, (2, envs.num_envs)))
    controller = PIDController(envs.dt, setpoint=setpoint)
    return lambda obs, began: controller(obs["proprioception"], began)


KNOWN: dict[str, Driver] = {"random": random_policy, "pid": pid_policy}
"""Who drives by no policy."""


def controlled(name: str, made: Callable[[float], Any]) -> tuple[dict[str, Any], Driver]:
    """What a classical controller observes, and what makes it drive."""

    def drive(envs: BallbotVectorEnv, seed: int) -> Policy:
        controller = make_controller(made, envs.dt, envs.config)
        return lambda obs, began: np.asarray(controller(obs["proprioception"], began), np.float32)

    return {"extra_fields": controlled_fields(name)}, drive


OBSERVED = ("frame", "extra_fields", "history", "history_fields", "history_changes")
"""Options of the world that decide what a policy of command goal observes."""


def trained_policy(path: Path) -> tuple[dict[str, Any], Driver]:
    """What a checkpoint's policy observes, as options of the environment, and what makes it drive.

    Raises:
        CheckpointError: no such checkpoint, or its policy observes something else than collecting offers.
        SettingsError, PluginError: it is not one of Ballbot-v0's, or a plugin of its is missing.
    """
    policy = load_policy(path)
    if estimated := policy.metadata.get("estimates"):
        raise CheckpointError(f"{path} estimates {', '.join(estimated)}: use the policy that was told it")
    if policy.metadata.get("observation") != "proprioception":
        raise CheckpointError(
            f"{path} was trained with observation {policy.metadata.get('observation')!r}: use a policy without cameras"
        )
    world = trained_world(policy)
    options = {name: getattr(world, name) for name in OBSERVED}
    names = trained_layout(policy, world).names
    if names != (offered := WorldConfig(**options).layout().names):
        raise CheckpointError(
            f"{path} observes {', '.join(names)}, and what collects images offers {', '.join(offered)}: use a policy "
            "of command goal"
        )

    def drive(envs: BallbotVectorEnv, seed: int) -> Policy:
        return lambda obs, began: policy.predict(obs["proprioception"], began=began)

    return options, drive


def is_file(name: str) -> bool:
    """Whether somebody who drives is a policy from a file."""
    return name not in KNOWN and find_controller(name) is None


def driver_of(name: str) -> tuple[dict[str, Any], Driver]:
    """Options of the environment in which somebody drives, and what makes it drive.

    Raises:
        ValueError, CheckpointError: there is nobody of this name, or no policy without cameras.
    """
    if name in KNOWN:
        return {}, KNOWN[name]
    if (made := find_controller(name)) is not None:
        return controlled(name, made)
    if not Path(name).exists():
        raise ValueError(
            f"--policy {name}: use random, pid, a classical controller such as informed:0.25, or a checkpoint that "
            "exists"
        )
    return trained_policy(Path(name))


def file_hash(path: Path) -> str:
    """SHA-256 of a policy's file: one of the same name may have learned more since."""
    return hashlib.sha256(policy_file(path).read_bytes()).hexdigest()


def collect_block(envs: BallbotVectorEnv, policy: Policy, seed: int, block: int) -> tuple[NDArray[np.float32], Any]:
    """Images (k, height, width) and records of one block."""
    obs, infos = envs.reset(seed=seed)
    began = np.ones(envs.num_envs, bool)
    images, records = [], []
    sims = envs.simulations
    base, ball = sims.addresses.base_qpos, sims.addresses.ball_qpos
    assert envs.cameras is not None
    for step in range(1, TAKES * envs.cameras.interval + 1):
        obs, _, terminated, truncated, infos = envs.step(policy(obs, began))
        began = terminated | truncated
        if step % envs.cameras.interval == 0:
            depth = obs["depth"]
            found = np.zeros(depth.shape[:2], RECORD)
            found["terrain"] = infos["terrain_id"][:, None]
            found["camera"] = np.arange(depth.shape[1])
            found["block"] = block
            found["base"] = sims.qpos[:, None, base : base + 7]
            found["ball"] = sims.qpos[:, None, ball : ball + 3]
            images.append(depth.reshape(-1, *depth.shape[2:]))
            records.append(found.ravel())
    return np.concatenate(images), np.concatenate(records)


def collect(args: Args) -> DepthDataset:
    """Collect until there are as many images as asked for.

    Raises:
        DatasetError: the folder holds a data set made in another way.
        ValueError, CheckpointError, ContactFixError, OSError: an option, a checkpoint, the physics or the disk.
    """
    drivers: list[tuple[BallbotVectorEnv, Driver]] = []
    envs: dict[str, BallbotVectorEnv] = {}
    for options, make in map(driver_of, args.policy):
        key = str(WorldConfig(**options).fingerprint())  # those who observe alike drive in the same
        if key not in envs:
            envs[key] = BallbotVectorEnv(
                args.num_envs,
                observation="depth",
                camera_interval=args.interval,
                terrain=args.terrain,
                **kind_options(args),
                rig=rig_options(args),
                num_terrains=args.num_terrains,
                terrain_seed=args.terrain_seed,
                initial_tilt_deg=args.initial_tilt_deg,
                initial_speed=args.initial_speed,
                num_threads=args.num_threads,
                **options,
            )
        drivers.append((envs[key], make))
    first = drivers[0][0]
    cameras = first.cameras
    assert cameras is not None
    count, height, width = cameras.shape
    ground = {"split": "train", "seed": args.terrain_seed, "count": args.num_terrains, **kind_options(args)}
    if args.terrain != "perlin":  # which older data sets do not name
        ground["kind"] = args.terrain
    provenance = {
        "terrain": ground,
        "policies": list(args.policy),
        "seed": args.seed,
        "num_envs": args.num_envs,
        "interval_steps": args.interval,
        "takes_per_block": TAKES,
        "initial_tilt_deg": args.initial_tilt_deg,
        "initial_speed": args.initial_speed,
        "checkpoints": {p: file_hash(Path(p)) for p in args.policy if is_file(p)},
        "cameras": count,
        "view": view_digest(first.simulations.model),
        **({"rig": dict(first.config.rig)} if first.config.rig else {}),
        "ballbot": ballbot.__version__,
        "mujoco": version("mujoco"),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        lock = lock_run_dir(args.out, "collecting")
    except RunDirectoryError as error:
        raise DatasetError(str(error)) from error
    try:
        return fill(args, drivers, provenance, (count, height, width))
    finally:
        if lock is not None:
            os.close(lock)


def fill(
    args: Args,
    drivers: list[tuple[BallbotVectorEnv, Driver]],
    provenance: dict[str, Any],
    shape: tuple[int, int, int],
) -> DepthDataset:
    """Collect block after block; each driver is a world, and what makes a policy in it."""
    count, height, width = shape
    if (args.out / "card.json").exists() and len(data := DepthDataset(args.out)):
        old = data.card["provenance"]
        differing = [f"{k} was {old.get(k)!r}, is {v!r}" for k, v in provenance.items() if old.get(k) != v]
        if differing:
            raise DatasetError(
                f"{args.out} was collected in another way ({'; '.join(differing)}): choose another --out, or the same "
                "options to go on with it"
            )
    else:
        data = DepthDataset.create(args.out, (height, width), 1.0, provenance)
    size = TAKES * args.num_envs * count
    first, blocks = len(data) // size, math.ceil(args.num_images / size)
    if first < blocks:
        print(f"{blocks - first} blocks of {size:,} images, by {', '.join(args.policy)} in turn", flush=True)
    if blocks < len(drivers):
        print(
            f"note: so few images are all by {', '.join(args.policy[:blocks])}: for {', '.join(args.policy[blocks:])} "
            f"too, ask for {size * len(drivers):,}, or for fewer --num-envs"
        )
    start = time.perf_counter()
    for block in range(first, blocks):
        envs, make = drivers[block % len(drivers)]
        seed = int(np.random.SeedSequence((args.seed, block)).generate_state(1)[0])
        data.append(*collect_block(envs, make(envs, seed), seed, block))
        speed = (block + 1 - first) * size / (time.perf_counter() - start)
        left = (blocks - block - 1) * size / speed
        print(
            f"{len(data):>10,} images {speed:>7,.0f}/s  {args.policy[block % len(drivers)]:<10} left {left:,.0f} s",
            flush=True,
        )
    return data


@program
def main(argv: list[str] | None = None) -> int:
    """Collect, and return the exit status."""
    try:
        data = collect(check(read_options(Args, argv, __doc__, rig=True)))
    except MemoryError as error:
        raise MemoryError(f"{error}; use fewer --num-envs") from error
    except KeyboardInterrupt:
        print("stopped; the same command goes on")
        return 130
    print(f"{data.folder} holds {len(data):,} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
