"""How fast the robot can turn about the vertical: its three wheels pushed alike, while a linear controller stands.

    python experiments/maintenance/measure_turning.py

On a plane the ball touches the ground in a point, which gives no hold to turn against: the ball spins instead of the
robot.  On a height field MuJoCo makes several contacts a few millimetres apart, and the ball is held.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from ballbot.cli import check_options, program
from ballbot.controllers import LinearController
from ballbot.envs import BallbotVectorEnv
from ballbot.envs.step import rotation_matrix
from ballbot.parsing import parse
from ballbot.settings import Range

PUSHES = (0.02, 0.05, 0.1, 0.2)
"""Actions of each wheel, 10 N m, besides those that balance."""


@dataclass
class Args:
    """Measure how fast the robot turns."""

    terrains: tuple[str, ...] = ("flat", "perlin:0.01", "perlin")
    """Kinds of ground."""
    robots: Annotated[int, Range(1, 1000)] = 8
    """Side by side."""
    seconds: Annotated[float, Range(0.1, 60)] = 4.0
    """Of each push; the second half counts."""


def turning(terrain: str, push: float, args: Args) -> tuple[float, float, int]:
    """Mean yaw rate of the robot and of its ball, rad/s, and how many fell."""
    envs = BallbotVectorEnv(args.robots, terrain=terrain, num_terrains=args.robots, num_threads=1)
    controller, began = LinearController(envs.dt, target_speed=0.0), np.ones(args.robots, bool)
    sims, steps, fallen = envs.simulations, round(args.seconds / envs.dt), 0
    ball_qpos, ball_qvel = sims.addresses.ball_qpos, sims.addresses.ball_qvel
    rates = []
    obs, _ = envs.reset(seed=3)
    for step in range(steps):
        actions = np.clip(controller(obs, began) + push, -1.0, 1.0).astype(np.float32)
        obs, _, began, _, _ = envs.step(actions)
        fallen += int(began.sum())
        if step >= steps // 2:
            upward = rotation_matrix(sims.qpos[:, ball_qpos + 3 : ball_qpos + 7].T)[2]
            spin = np.einsum("in,in->n", upward, sims.qvel[:, ball_qvel + 3 : ball_qvel + 6].T)
            rates.append((envs.world.robots.yaw_rate.mean(), spin.mean()))
    envs.close()
    robot, ball = np.mean(rates, axis=0)
    return float(robot), float(ball), fallen


@program
def main(argv: list[str] | None = None) -> int:
    """Print a Markdown table, and return the exit status."""
    args = parse(Args, argv, __doc__)
    check_options(args)
    print("| ground | action of each wheel | robot, rad/s | ball, rad/s | fell |\n| --- | --- | --- | --- | --- |")
    for terrain in args.terrains:
        for push in PUSHES:
            robot, ball, fallen = turning(terrain, push, args)
            print(f"| {terrain} | {push:g} | {robot:.3f} | {ball:.2f} | {fallen} of {args.robots} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
