"""Measure speed and memory: how much the environment adds to MuJoCo, and how training compares.

    python experiments/maintenance/benchmark.py                        # everything, about ten minutes
    python experiments/maintenance/benchmark.py --quick                # shorter runs, rougher figures
    python experiments/maintenance/benchmark.py --only env ppo --json bench.json

What is compared runs in turns in one process (or, for memory, in processes started in turns), because a
figure alone says as much about the machine and its other users as about the code: trust the ratios. Each is
the median over the repetitions; the spread is printed beside it.

    terrain     drawing one height field, on one core
    env         BallbotVectorEnv.step against bare mujoco.batch.Batch.step: same model, states and controls
    scale       4096 environments against 64: throughput over the same steps of an episode, and memory of the process
    integrators Euler, implicitfast and RK4
    wheels      the reference's capsules, the same robot on rollers, and rollers of sixteen robots that differ
    imperfect   robots that differ from episode to episode, and sensors and cameras that are noisy and late
    contact_fix the compiled contact fix against the Python fallback
    threads     1, 2, 4, ... threads
    cameras     a depth image against MuJoCo's renderer, of 16 and of 64 robots; environments with and without cameras
    ppo         ballbot.ppo against stable-baselines3's PPO on SubprocVecEnv: same networks and hyperparameters, wall
                time from the end of the first update to the end of the last, logging included
"""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import gymnasium as gym
import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

import mujoco_patch
from ballbot.cli import check_options, check_output, program
from ballbot.controllers import pitch_and_roll, wheel_actions
from ballbot.cpus import usable_cpus
from ballbot.encoders import Architecture, Autoencoder, FrozenEncoder
from ballbot.envs import BallbotVectorEnv
from ballbot.envs.model import build_model
from ballbot.envs.rendering import choose_opengl
from ballbot.envs.sensors import SENSORS, parted
from ballbot.envs.terrain import make_terrain
from ballbot.parsing import parse
from ballbot.ppo.checkpoint import write_atomic
from ballbot.settings import Range

Actions = NDArray[np.float32]
Policy = Callable[[NDArray[np.float32], np.random.Generator], Actions]
Section = Literal[
    "terrain", "env", "scale", "integrators", "wheels", "imperfect", "contact_fix", "threads", "cameras", "ppo"
]
SECTIONS: tuple[Section, ...] = get_args(Section)

BLOCK = 50
"""Steps before the next competitor's turn: short against what other users of the machine do to the speed."""
EXPLORATION = math.exp(-1)
"""Standard deviation of the noise on balancing actions: an untrained policy's (PPOConfig.initial_std)."""
WARM_UP = 20
"""Steps before the clock starts: memory is touched and threads are running by then."""
MOST_ROUNDS = 8
"""Times the smaller batch of "scale" goes through the same steps: enough to average, and soon done."""
PACKAGES = ("ballbot", "mujoco", "numpy", "gymnasium", "torch", "stable_baselines3")


@dataclass
class Args:
    """Measure the environment and the trainer; see the top of this file."""

    only: list[Section] = field(default_factory=lambda: list(SECTIONS))
    """Parts to run."""
    quick: bool = False
    """A quarter of the steps and at most three repetitions: for a first look."""
    repeat: Annotated[int, Range(1, 10**6)] = 5
    """Repetitions; the median is reported."""
    steps: Annotated[int, Range(1, 10**6)] = 800
    """Steps of every environment in one repetition."""
    num_envs: Annotated[int, Range(1, 10**6)] = 64
    """Environments, where nothing else is said."""
    many_envs: Annotated[int, Range(1, 10**6)] = 4096
    """Environments in the second half of "scale"."""
    num_threads: Annotated[int, Range(0, 1024)] = 0
    """Simulation threads (0: every CPU)."""
    ppo_updates: Annotated[int, Range(1, 10**6)] = 3
    """Updates a repetition of "ppo"."""
    json: Path | None = None
    """File for the figures."""


def check(args: Args) -> Args:
    """The options, shortened if --quick asks for it.

    Raises:
        ValueError: an option is out of range; the message names it.
    """
    check_options(args)
    if args.json is not None:
        check_output(args.json, "--json")
    if not args.quick:
        return args
    return replace(args, repeat=min(args.repeat, 3), steps=max(args.steps // 4, BLOCK), ppo_updates=1)


@dataclass
class Figure:
    """One line of the table."""

    section: str
    name: str
    value: float
    """Median over the repetitions."""
    unit: str
    low: float
    high: float
    """Smallest and largest of the repetitions."""
    target: str = ""
    """What it should be, if that was set."""


def figure(section: str, name: str, values: list[float], unit: str, target: str = "") -> Figure:
    """The figure of these repetitions."""
    return Figure(section, name, statistics.median(values), unit, min(values), max(values), target)


def balancing(obs: NDArray[np.float32], rng: np.random.Generator) -> Actions:
    """Actions (n, 3) as in training: tilt control, which stands, plus the noise of an exploring policy."""
    gravity, gyro = obs[:, :3].astype(np.float64), obs[:, 3:6]
    command = -20.0 * pitch_and_roll(gravity) - 2.0 * gyro[:, [1, 0]].T  # gains of balance_pid.py
    noise = rng.normal(0.0, EXPLORATION, (len(obs), 3))
    return np.clip(wheel_actions(command) + noise, -1.0, 1.0).astype(np.float32)


def flailing(obs: NDArray[np.float32], rng: np.random.Generator) -> Actions:
    """Uniformly random actions (n, 3): the robot soon falls, so resets are frequent."""
    return rng.uniform(-1.0, 1.0, (len(obs), 3)).astype(np.float32)


POLICIES: dict[str, Policy] = {"balancing": balancing, "random": flailing}
WORLDS: dict[str, tuple[dict[str, Any], str]] = {
    "flat": ({"terrain": "flat"}, ">= 0.88"),
    "perlin": ({}, ">= 0.88"),
    "mixed, velocity": (
        {
            "terrain": "mixed:0-1",
            "command": "velocity",
            "curriculum": True,
            "rewards": {
                "velocity": 1, "yaw_rate": 1, "survival": 1, "action_cost": 1,
                "upright": 0.5, "action_rate": 0.1, "torque": 1e-4, "yaw_spin": 0.1,
            },
        },
        ">= 0.80",
    ),
}  # fmt: skip
"""What is measured against the engine: options, and the ratio to reach.  The last: eight terms and a curriculum."""


def run(envs: BallbotVectorEnv, policy: Policy, steps: int, rng: np.random.Generator) -> float:
    """Seconds spent inside `envs.step` over these steps, with the policy's noise drawn from `rng`."""
    obs = envs.step(np.zeros((envs.num_envs, 3), np.float32))[0]  # a dict if it holds images
    seconds = 0.0
    for _ in range(steps):
        actions = policy(obs, rng)
        start = time.perf_counter()
        obs = envs.step(actions)[0]
        seconds += time.perf_counter() - start
    return seconds


def in_turns(turns: dict[str, Callable[[], float]], steps: int) -> dict[str, float]:
    """Seconds each competitor took for these steps, taking turns of BLOCK steps in alternating order."""
    seconds = dict.fromkeys(turns, 0.0)
    names = list(turns)
    for _ in range(max(steps // BLOCK, 1)):
        for name in names:
            seconds[name] += turns[name]()
        names.reverse()
    return seconds


def terrain(args: Args) -> Iterator[Figure]:
    """Drawing terrains; the first one of a size also prepares what all share, so it is not counted."""
    make_terrain(0)
    milliseconds: list[float] = []
    for repetition in range(args.repeat):
        times = []
        for terrain_id in range(20 * repetition, 20 * repetition + 20):
            start = time.perf_counter()
            make_terrain(terrain_id)
            times.append(time.perf_counter() - start)
        milliseconds.append(1e3 * statistics.median(times))
    yield figure("terrain", "one height field", milliseconds, "ms", "<= 10")


def env_against_engine(args: Args) -> Iterator[Figure]:
    """The environment's step against the engine's, on the same states and controls, step by step."""
    for world, (options, target) in WORLDS.items():
        envs = BallbotVectorEnv(args.num_envs, num_threads=args.num_threads, **options)
        sims = envs.simulations
        bare = Batch(sims.model, args.num_envs, args.num_threads or usable_cpus())
        ctrl = bare.bind("ctrl")
        hilly = sims.ground.relief is not None
        shown = bare.expand("geom_dataid")[:, sims.addresses.ground_geom] if hilly else None
        for name, policy in POLICIES.items():
            rates: list[float] = []
            bare_rates: list[float] = []
            for repetition in range(args.repeat):
                obs, _ = envs.reset(seed=1000 * repetition)
                rng = np.random.default_rng(repetition)
                seconds = {"env": 0.0, "bare": 0.0}
                for step in range(args.steps):
                    actions = policy(obs, rng)
                    bare.state[:] = sims.batch.state
                    ctrl[:] = -sims.mechanics.torque * actions.astype(np.float64)
                    if shown is not None:
                        shown[:] = sims.terrain_ids
                    for who in ("env", "bare") if step % 2 else ("bare", "env"):
                        start = time.perf_counter()
                        if who == "env":
                            obs, _, terminated, truncated, _ = envs.step(actions)
                        else:
                            bare.step()
                        seconds[who] += time.perf_counter() - start
                going_on = ~(terminated | truncated)
                if not np.array_equal(bare.state[going_on], sims.batch.state[going_on]):
                    raise RuntimeError("the bare engine did not simulate what the environment did")
                rates.append(args.num_envs * args.steps / seconds["env"])
                bare_rates.append(args.num_envs * args.steps / seconds["bare"])
            label = f"{world}, {name} actions"
            ratios = [a / b for a, b in zip(rates, bare_rates, strict=True)]
            yield figure("env", f"{label}: bare Batch.step", bare_rates, "steps/s")
            yield figure("env", f"{label}: BallbotVectorEnv.step", rates, "steps/s")
            yield figure("env", f"{label}: environment / bare", ratios, "", target)
        envs.close()


def scale_child(num_envs: int, num_threads: int, steps: int, rounds: int) -> tuple[float, float, float]:
    """In a process of its own: (steps/s, peak resident MiB, seconds to construct and reset).

    Measured are the same steps of an episode, `rounds` times over, whatever the number of environments: robots that
    just began cost less than robots that topple and are reset.
    """
    import resource

    start = time.perf_counter()
    envs = BallbotVectorEnv(num_envs, num_threads=num_threads)
    envs.reset(seed=0)
    ready = time.perf_counter() - start
    seconds = 0.0
    for seed in range(rounds):
        envs.reset(seed=num_envs * seed)
        rng = np.random.default_rng(seed)
        run(envs, balancing, WARM_UP, rng)
        seconds += run(envs, balancing, steps, rng)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    return num_envs * steps * rounds / seconds, peak, ready


def scale(args: Args) -> Iterator[Figure]:
    """Many environments against few, on uneven ground, in fresh processes taken in turns."""
    context = multiprocessing.get_context("spawn")
    measured: dict[int, list[tuple[float, float, float]]] = {args.num_envs: [], args.many_envs: []}
    steps = max(args.steps // 8, 100)
    for _ in range(args.repeat):
        for num_envs, results in measured.items():
            rounds = min(max(measured) // num_envs, MOST_ROUNDS)
            with ProcessPoolExecutor(1, context) as child:
                try:
                    results.append(child.submit(scale_child, num_envs, args.num_threads, steps, rounds).result())
                except BrokenProcessPool:
                    sys.exit(
                        f"error: the process that measures {num_envs} environments was killed, most likely for lack of "
                        "memory; lower --many-envs"
                    )
    few, many = measured[args.num_envs], measured[args.many_envs]
    for num_envs, results in measured.items():
        yield figure("scale", f"{num_envs} environments", [r[0] for r in results], "steps/s")
        limit = "< 4096" if num_envs == args.many_envs else ""
        yield figure("scale", f"{num_envs} environments: memory of the process", [r[1] for r in results], "MiB", limit)
        yield figure("scale", f"{num_envs} environments: construct and reset", [r[2] for r in results], "s")
    ratios = [b[0] / a[0] for a, b in zip(few, many, strict=True)]
    yield figure("scale", f"throughput, {args.many_envs} / {args.num_envs} environments", ratios, "", ">= 1")


def compare(
    section: str, args: Args, turns: dict[str, Callable[[], float]], restart: Callable[[int], None]
) -> Iterator[Figure]:
    """Rates of competitors that run in turns, and the cost of each against the first."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for repetition in range(args.repeat):
        restart(repetition)
        for name, spent in in_turns(turns, args.steps).items():
            seconds[name].append(spent)
    steps = args.num_envs * max(args.steps // BLOCK, 1) * BLOCK
    first = next(iter(seconds.values()))
    for name, values in seconds.items():
        yield figure(section, name, [steps / value for value in values], "steps/s")
    for name, values in list(seconds.items())[1:]:
        costs = [value / base for base, value in zip(first, values, strict=True)]
        yield figure(section, f"{name}: time against {next(iter(seconds))}", costs, "x")


def compare_envs(section: str, args: Args, options: dict[str, dict[str, Any]]) -> Iterator[Figure]:
    """`compare` for environments made with different options, each balancing on its own robots."""
    envs = {
        name: BallbotVectorEnv(args.num_envs, **{"num_threads": args.num_threads, **kwargs})
        for name, kwargs in options.items()
    }
    noise = {name: np.random.default_rng(0) for name in envs}  # the same for all

    def restart(seed: int) -> None:
        for env in envs.values():
            env.reset(seed=1000 * seed)
            run(env, balancing, WARM_UP, np.random.default_rng(seed))

    turns: dict[str, Callable[[], float]] = {
        name: partial(run, env, balancing, BLOCK, noise[name]) for name, env in envs.items()
    }
    yield from compare(section, args, turns, restart)
    for env in envs.values():
        env.close()


def contact_fixes(args: Args) -> Iterator[Figure]:
    """The two implementations of the contact fix, exchanged under the same environment."""
    try:
        mujoco_patch.install("c")
    except mujoco_patch.ContactFixError as error:
        print(f"contact_fix: skipped, there is nothing to compare with: {error}", file=sys.stderr)
        return
    envs = BallbotVectorEnv(args.num_envs, num_threads=args.num_threads)
    rng = np.random.default_rng(0)

    def turn(implementation: Literal["c", "python"]) -> float:
        mujoco_patch.install(implementation)
        return run(envs, balancing, BLOCK, rng)

    try:
        turns = {"compiled": lambda: turn("c"), "Python fallback": lambda: turn("python")}
        yield from compare("contact_fix", args, turns, lambda seed: envs.reset(seed=1000 * seed) and None)
    finally:
        mujoco_patch.install("c")
        envs.close()


def integrators(args: Args) -> Iterator[Figure]:
    """What the integrators cost."""
    return compare_envs("integrators", args, {name: {"integrator": name} for name in ("Euler", "implicitfast", "RK4")})


def wheels(args: Args) -> Iterator[Figure]:
    """What wheels cost, and robots that differ."""
    rollers = {"robot": "rollers"}
    differing = rollers | {"vary": {"ball_radius": (0.09, 0.1), "body_mass": (3.0, 4.0)}}
    return compare_envs("wheels", args, {"capsules": {}, "rollers": rollers, "rollers, 16 robots": differing})


def imperfect(args: Args) -> Iterator[Figure]:
    """What robots and sensors cost that differ from episode to episode, and are noisy and late."""
    differ, sense = {"randomize": "strong"}, {"sensors": "cheap"}
    worlds = {"as it is meant": {}, "randomized": differ, "cheap sensors": sense, "both": differ | sense}
    yield from compare_envs("imperfect", args, worlds)
    seeing = {"observation": "encoded"}
    faults = seeing | {"sensing": parted(SENSORS["cheap"])[1]}
    yield from compare_envs("imperfect", args, {"two cameras": seeing, "two cheap cameras": faults})


def threads(args: Args) -> Iterator[Figure]:
    """How stepping scales with threads: powers of two up to the CPUs."""
    counts = [2**k for k in range(int(math.log2(usable_cpus())) + 1)]
    options = {f"{n} thread{'s' * (n > 1)}": {"num_threads": n} for n in counts}
    return compare_envs("threads", args, options)


def cameras(args: Args) -> Iterator[Figure]:
    """Depth images against MuJoCo's renderer, and what cameras cost an environment."""
    for robots in (16, 64):
        yield from images(args, robots)
    encoder = FrozenEncoder(Autoencoder(Architecture()))  # what its weights are makes no difference
    options: dict[str, dict[str, Any]] = {"blind": {}, "encoded": {"observation": "encoded", "encoder": encoder}}
    for num_envs in dict.fromkeys((10, args.num_envs)):
        named = {f"{num_envs} environments, {name}": kwargs for name, kwargs in options.items()}
        yield from compare_envs("cameras", replace(args, num_envs=num_envs), named)
    grounds = ("perlin", "road", "stagger", "pits", "stairs")
    seen = {f"{kind} ground, encoded": options["encoded"] | {"terrain": kind, "num_terrains": 16} for kind in grounds}
    yield from compare_envs("cameras", args, seen)


def images(args: Args, robots: int) -> Iterator[Figure]:
    """Time of one image among those of so many robots, against MuJoCo's renderer with the OpenGL of this machine."""
    envs = BallbotVectorEnv(robots, observation="depth", num_threads=args.num_threads)
    envs.reset(seed=0)
    run(envs, lambda obs, rng: np.zeros((robots, 3), np.float32), WARM_UP, np.random.default_rng(0))
    sims, eyes = envs.simulations, envs.cameras
    assert eyes is not None and sims.ground.relief is not None
    model = build_model(sims.ground.relief[:1])
    data = mujoco.MjData(model)
    choose_opengl()
    try:
        renderer = mujoco.Renderer(model, *eyes.shape[1:])
    except Exception as error:
        print(f"cameras: no OpenGL to compare with ({error}): install libegl1 or libosmesa6", file=sys.stderr)
        return
    renderer.enable_depth_rendering()
    ours, theirs, ratios = [], [], []
    for _ in range(args.repeat):
        start = time.perf_counter()
        for _ in range(10):
            eyes.take(np.arange(robots), sims.robot_state())
        ours.append(1e3 * (time.perf_counter() - start) / (10 * robots * eyes.shape[0]))
        seconds = 0.0
        for i in range(min(robots, 16)):  # uploading the terrain is not counted: it changes once an episode
            data.qpos[:] = sims.qpos[i]
            mujoco.mj_forward(model, data)
            start = time.perf_counter()
            for camera in ("cam_0", "cam_1"):
                renderer.update_scene(data, camera=camera)
                renderer.render()
            seconds += time.perf_counter() - start
        theirs.append(1e3 * seconds / (min(robots, 16) * 2))
        ratios.append(theirs[-1] / ours[-1])
    renderer.close()
    envs.close()
    yield figure("cameras", f"one of {2 * robots} depth images", ours, "ms")
    yield figure("cameras", "the same, MuJoCo's renderer", theirs, "ms")
    yield figure("cameras", f"MuJoCo's renderer / ours, {robots} robots", ratios, "x", ">= 10")


def train_ours(config: Any, folder: Path) -> float:
    """Environment steps a second of wall time, from the end of the first update to the end of the last."""
    from ballbot.ppo import train

    train(config, partial(BallbotVectorEnv, terrain="flat"), run_dir=folder, console=False)
    with (folder / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    # The first update only measures the observations.  charts/SPS is steps over wall time since the start.
    steps = [float(rows[i]["global_step"]) for i in (0, -1)]
    ended = [step / float(rows[i]["charts/SPS"]) for i, step in zip((0, -1), steps, strict=True)]
    return (steps[1] - steps[0]) / (ended[1] - ended[0])


def make_flat_env() -> gym.Env[Any, Any]:
    """One environment, for stable-baselines3's processes."""
    return gym.make("ballbot:Ballbot-v0", terrain="flat")


def ppo(args: Args) -> Iterator[Figure]:
    """Collecting and learning, ours against stable-baselines3's, in turns of a few updates."""
    try:
        from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize
    except ImportError:
        print("ppo: skipped, stable-baselines3 is not installed: pip install -e '.[dev]'", file=sys.stderr)
        return
    from compare_sb3 import make_sb3

    from ballbot.ppo import PPOConfig

    batch = 256 * args.num_envs
    never = 10**12
    # no early stop, so that both take the same number of gradient steps
    config = PPOConfig(
        num_envs=args.num_envs,
        num_steps=256,
        total_timesteps=(1 + args.ppo_updates) * batch,
        target_kl=None,
        lr_schedule="constant",
        policy_average=None,  # stable-baselines3 keeps none
        eval_interval=never,
        checkpoint_interval=never,
    )
    envs = SubprocVecEnv([make_flat_env] * config.num_envs)
    rates: list[float] = []
    sb3_rates: list[float] = []
    try:
        theirs = make_sb3(config, VecNormalize(envs, norm_reward=False))
        theirs.learn(batch)  # warm up, as ours does in its first update
        for repetition in range(args.repeat):
            with tempfile.TemporaryDirectory() as folder:
                rates.append(train_ours(config, Path(folder, f"run-{repetition}")))
            start = time.perf_counter()
            theirs.learn(args.ppo_updates * batch, reset_num_timesteps=False)
            sb3_rates.append(args.ppo_updates * batch / (time.perf_counter() - start))
    finally:
        envs.close()
    label = f"{args.num_envs} environments, flat ground"
    yield figure("ppo", f"stable-baselines3, {label}", sb3_rates, "steps/s")
    yield figure("ppo", f"ballbot.ppo, {label}", rates, "steps/s")
    ratios = [a / b for a, b in zip(rates, sb3_rates, strict=True)]
    yield figure("ppo", "ballbot.ppo / stable-baselines3", ratios, "", ">= 3")


def describe_machine() -> dict[str, Any]:
    """What the figures belong to."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": usable_cpus(),
        "contact_fix": mujoco_patch.implementation(),
        "versions": versions,
    }


RUN: dict[Section, Callable[[Args], Iterator[Figure]]] = {
    "terrain": terrain,
    "env": env_against_engine,
    "scale": scale,
    "integrators": integrators,
    "wheels": wheels,
    "imperfect": imperfect,
    "contact_fix": contact_fixes,
    "threads": threads,
    "cameras": cameras,
    "ppo": ppo,
}


@program
def main(argv: list[str] | None = None) -> int:
    """Run the chosen parts, print the table line by line, write the JSON file; return the exit status."""
    args = check(parse(Args, argv, __doc__))
    mujoco_patch.ensure()
    machine = describe_machine()
    print(f"{machine['cpus']} CPUs, Python {machine['python']}, contact fix: {machine['contact_fix']},", end=" ")
    print(", ".join(f"{name} {value}" for name, value in machine["versions"].items()))
    print(f"\n{'':60}{'median':>10} {'':8}{'lowest':>10}{'highest':>10}  target")
    figures: list[Figure] = []
    for section in args.only:
        for line in RUN[section](args):
            figures.append(line)
            digits = ",.0f" if line.value >= 100 else ".3f"
            numbers = f"{line.value:>10{digits}} {line.unit:8}{line.low:>10{digits}}{line.high:>10{digits}}"
            print(f"{line.name:60}{numbers}  {line.target}".rstrip(), flush=True)
        if args.json is not None:  # after every part: an interrupted run keeps what it measured
            options = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(args).items()}
            content = {"machine": machine, "options": options, "figures": [asdict(line) for line in figures]}
            write_atomic(args.json, (json.dumps(content, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
