"""Measure the robots that ballbot knows by name: what their wheels do, and what computed gains make of them.

    python experiments/maintenance/measure_robots.py                          # all, into results/robots.csv
    python experiments/maintenance/measure_robots.py --robots mini kugle
    python experiments/maintenance/measure_robots.py --drawn 30               # robots drawn at random, into another
    python experiments/maintenance/measure_robots.py --wheels                 # what wheels of both models cost, printed

Each is let fall (by its model), rolled along, and driven by the linear-quadratic regulator over grounds of the eval
split.  docs/robots.md shows the table.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import mujoco
import numpy as np
from shared import PUBLISHED, check_names, read_table, write_table

from ballbot.cli import check_options, program
from ballbot.controllers import make_controller
from ballbot.envs import ROBOTS, BallbotVectorEnv, RobotConfig
from ballbot.envs.drive import measure_drive
from ballbot.envs.mechanics import motor_limits, rolling_model
from ballbot.envs.standing import recoverable_lean
from ballbot.errors import SettingsError
from ballbot.evaluation import run_episodes, summarize
from ballbot.lqr import LQRController, gains_of
from ballbot.parsing import parse
from ballbot.settings import Range

HEIGHTS = (0.0, 0.05, 0.07, 0.1)
"""m of uneven ground from its lowest to its highest place; 0.1 is the reference's, 0 is level."""
JUDGED = [f"{what}_{round(100 * height)}" for height in HEIGHTS for what in ("success", "return", "speed")]
TOLD = ("velocity_error", "yaw_rate_error", "arrived", "distance")
COLUMNS = ("robot", "seconds", "fall_rate", "lean_deg", "top_speed", "gear", "ripple_mm", "episodes", *JUDGED, *TOLD)
"""Of the table: s to compile a robot and compute its gains, 1/s at which it falls by itself, degrees from which it can
be brought back, m/s that its motors reach, by how much its ball is turned faster than its wheels would without slip,
mm by which its body rises and sinks meanwhile; how it is driven, by the ground's height in cm; on level ground, m/s and
rad/s rms by which it misses velocities that it is told, the share of places that it is at in the end, and m from it."""

DRAWN = ("robot", "ball_radius", "body_mass", "body_height", "wheels", "zenith_deg", "episodes", "level", "uneven")
"""Columns of the table of robots drawn at random: some of their numbers, and the share of episodes without a fall, on
level ground and on ground that is uneven by ``UNEVEN``."""
UNEVEN = 0.05
"""m."""


@dataclass
class Args:
    """Measure robots."""

    robots: tuple[str, ...] = tuple(ROBOTS)
    """Which; all of them if not given."""
    episodes: Annotated[int, Range(1, 10_000)] = 100
    """On each ground, of 8 s."""
    drawn: Annotated[int, Range(0, 1000)] = 0
    """So many robots drawn at random, instead of those with names."""
    wheels: bool = False
    """What the reference's wheels, and rollers in their place, make MuJoCo do, instead."""
    num_threads: Annotated[int, Range(0, 1024)] = 0
    """Threads that step the simulations; 0: every CPU."""
    out: Path | None = None
    """Table to write (default: results/robots.csv, whose rows of other robots stay, or results/drawn_robots.csv)."""


def measured(robot: RobotConfig) -> dict[str, Any]:
    """What its model and its wheels are like."""
    start = time.perf_counter()
    model = robot.compile()
    rolling = rolling_model(model)
    gains_of(rolling, float(model.opt.timestep))
    seconds = time.perf_counter() - start
    drive = measure_drive(model)
    return {
        "seconds": f"{seconds:.2f}",
        "fall_rate": f"{rolling.fall_rate:.2f}",
        "lean_deg": f"{np.degrees(recoverable_lean(rolling)):.1f}",
        "top_speed": f"{motor_limits(model)[0]:.2f}",
        "gear": f"{drive.worst_gear - 1:.4f}",
        "ripple_mm": f"{1000 * drive.ripple:.2f}",
    }


def drawn_robot(rng: np.random.Generator) -> RobotConfig:
    """Any robot that somebody might build: of 1 to 26 kg on a ball of 5 to 15 cm radius, as slim as may be.

    Motors hold 0.3 to 1 times its weight at a wheel's rim, and run freely at 1 to 3 m/s of it.
    """
    radius, mass = rng.uniform(0.05, 0.15), float(np.exp(rng.uniform(np.log(1), np.log(26))))
    height, across, wheel = (
        rng.uniform(1.5, 4) * radius,
        rng.uniform(0.8, 1.2) * radius,
        rng.uniform(0.25, 0.45) * radius,
    )
    top = height * rng.uniform(1.6, 2.2)
    about = mass * (across**2 / 4 + top**2 / 12)
    rim = 9.81 * mass * wheel
    return RobotConfig(
        ball_radius=radius,
        ball_mass=rng.uniform(0.05, 0.3) * mass,
        ball_inertia_factor=rng.uniform(0.4, 0.66),
        body_mass=mass,
        body_height=height,
        body_inertia=(about, about * rng.uniform(0.9, 1.1), mass * across**2 / 2),
        body_radius=across,
        body_top=top,
        imu_height=rng.uniform(0.8, 1.5) * radius,
        wheels=3 + int(rng.integers(2)),  # type: ignore[arg-type]
        zenith_deg=rng.uniform(38, 52),
        azimuth_deg=rng.uniform(0, 360),
        wheel_radius=wheel,
        wheel_width=rng.uniform(0.5, 1) * wheel,
        wheel_mass=rng.uniform(0.01, 0.03) * mass,
        wheel_armature=rng.uniform(0.01, 0.06) * mass * wheel**2,
        wheel_damping=rng.uniform(5e-4, 2e-3) * rim,
        torque_limit=rng.uniform(0.3, 1) * rim,
        no_load_speed=rng.uniform(1, 3) / wheel,
        wheel_model="rollers",
    )


def measure_drawn(args: Args, out: Path) -> None:
    """Draw robots that can be built, and let the regulator drive them."""
    rng, rows = np.random.default_rng(0), list[dict[str, Any]]()
    while len(rows) < args.drawn:
        try:
            robot = drawn_robot(rng)
            robot.spec().compile()
        except SettingsError:  # wheels within each other, a ball that sinks
            continue
        level = by_regulator(robot, args, terrain="flat")
        uneven = by_regulator(robot, args, terrain="perlin", ground={"height": UNEVEN})
        numbers = {name: f"{getattr(robot, name):.4g}" for name in DRAWN if hasattr(robot, name)}
        stood = {"level": f"{level['success_rate']:.3f}", "uneven": f"{uneven['success_rate']:.3f}"}
        rows.append({"robot": len(rows) + 1, "episodes": args.episodes, **numbers, **stood})
        print(" ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    write_table(out, DRAWN, rows)


def by_regulator(name: str | RobotConfig, args: Args, **world: Any) -> dict[str, Any]:
    """How the regulator drives it in a world."""
    envs = BallbotVectorEnv(
        min(args.episodes, 100), robot=name, terrain_split="eval", terrain_seed=1, num_terrains=args.episodes,
        num_threads=args.num_threads, **world,
    )  # fmt: skip
    try:
        actor = make_controller(LQRController, envs.dt, envs.config)
        return summarize(run_episodes(envs, actor, args.episodes, 10**6))
    finally:
        envs.close()


def told(name: str, args: Args) -> dict[str, Any]:
    """How it follows other commands than a goal."""
    velocity = by_regulator(name, args, terrain="flat", command="velocity")
    point = by_regulator(name, args, terrain="flat", command="point")
    return {
        "velocity_error": f"{velocity['measure_velocity_error_mean']:.4f}",
        "yaw_rate_error": f"{velocity['measure_yaw_rate_error_mean']:.3f}",
        "arrived": f"{point['measure_arrived_mean']:.3f}",
        "distance": f"{point['measure_distance_mean']:.4f}",
    }


def driven(name: str, height: float, args: Args) -> dict[str, Any]:
    """How it travels along the goal."""
    ground: dict[str, Any] = {"terrain": "perlin", "ground": {"height": height}} if height else {"terrain": "flat"}
    found = by_regulator(name, args, **ground)
    end = round(100 * height)
    return {
        f"success_{end}": f"{found['success_rate']:.3f}",
        f"return_{end}": f"{found['return_mean']:.2f}",
        f"speed_{end}": f"{found['speed_along_goal_mean']:.3f}",
    }


def worked(name: str, terrain: str, robots: int = 8, steps: int = 1000) -> str:
    """What MuJoCo has to do for a robot that the regulator drives, and how much that shakes it, in words.

    Every robot is stepped once more beside the batch, as that does not tell.
    """
    envs = BallbotVectorEnv(robots, robot=name, terrain=terrain, terrain_split="eval", num_terrains=robots)
    sims, actor = envs.simulations, make_controller(LQRController, envs.dt, envs.config)
    obs, _ = envs.reset(seed=0)
    at, began, beside = sims.addresses, np.ones(robots, bool), list[tuple[mujoco.MjModel, mujoco.MjData]]()
    for sim in range(robots):
        data = mujoco.MjData(model := sims.batch.get_model(sim))
        data.qpos[:], data.qvel[:] = sims.qpos[sim], sims.qvel[sim]
        beside.append((model, data))
    contacts, iterations, shaken, slips = (np.zeros((steps, robots)) for _ in range(4))
    rolling = sims.mechanics.rolling
    for step in range(steps):
        obs, *_ = envs.step(actor(obs, began))
        began[:] = False
        robot = sims.robot_state()
        lean = np.stack([robot.gyro[1], -robot.gyro[0]])
        velocity = np.einsum("ijn,in->jn", robot.rotation, robot.velocity)[:2]
        off = robot.wheel_speeds - rolling @ (
            velocity - (sims.mechanics.ball_depth + sims.mechanics.ball_radius) * lean
        )
        slips[step] = np.sqrt(((off - off.mean(axis=0)) ** 2).mean(axis=0))
        for sim, (model, data) in enumerate(beside):
            data.ctrl[:] = sims.torques[sim]
            mujoco.mj_step(model, data)
            contacts[step, sim], iterations[step, sim] = data.ncon, data.solver_niter.sum()
            shaken[step, sim] = data.qacc[at.base_qvel + 2]
    envs.close()
    late = slice(steps // 4, None)  # they have sped up by then
    fast = np.abs(rolling).max() * 0.3
    return (
        f"{name} on {terrain}: {contacts[late].mean():.1f} contacts, {iterations[late].mean():.1f} iterations a step; "
        f"wheels turn otherwise than they roll by {slips[late].mean():.2f} rad/s rms, of {fast:.1f} at 0.3 m/s; the "
        f"body is shaken by {shaken[late].std():.2f} m/s² rms, up and down"
    )


@program
def main(argv: list[str] | None = None) -> int:
    """Measure, and return the exit status."""
    args = parse(Args, argv, __doc__)
    check_options(args)
    check_names("--robots", args.robots, ROBOTS)
    if args.wheels:
        for terrain in ("flat", "perlin"):
            for name in ("reference", "rollers"):
                print(worked(name, terrain), flush=True)
        return 0
    out = args.out or PUBLISHED / ("drawn_robots.csv" if args.drawn else "robots.csv")
    if args.drawn:
        measure_drawn(args, out)
        return 0
    rows = {row["robot"]: row for row in read_table(out, COLUMNS)}
    for name in args.robots:
        rows[name] = {"robot": name, "episodes": args.episodes, **measured(ROBOTS[name])}
        for height in HEIGHTS:
            rows[name] |= driven(name, height, args)
        rows[name] |= told(name, args)
        print(" ".join(f"{key}={value}" for key, value in rows[name].items()), flush=True)
        write_table(out, COLUMNS, [rows[each] for each in ROBOTS if each in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
