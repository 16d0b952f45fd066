"""How well a policy or controller follows velocity commands: errors by speed in all directions, plot of a drive.

    python experiments/ppo_ballbot.py --terrain flat --command velocity --no-cameras --run-name follower
    python experiments/follow_commands.py runs/follower --out follower.png
    python experiments/follow_commands.py lqr --robot asroballet --speeds 0.5 0.25 0

Each robot is told one velocity for 4 s, from standing; the last 2 s count, and how far who is told to stand was in
these from where it was at their start.  Needs matplotlib for the plot (pip install matplotlib).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from ballbot.cli import check_options, check_output, program
from ballbot.envs import BallbotVectorEnv
from ballbot.errors import SettingsError
from ballbot.evaluation import Candidate, find_candidate, in_task, task_of
from ballbot.parsing import parse
from ballbot.ppo.checkpoint import write_atomic
from ballbot.settings import Range

Array = NDArray[np.float64]

SECONDS, COUNTED = 4.0, 2.0
"""Of a command, and of its end that counts."""
DRIVE = ((0.3, 0.0), (0.0, 0.0), (0.0, 0.3), (-0.2, -0.2), (0.1, 0.0), (0.0, 0.0))
"""m/s ahead and to the left, told one after the other, 3 s each."""
LEG = 3.0
"""s of each."""


@dataclass
class Args:
    """Judge how well a policy follows velocity commands."""

    policy: Annotated[str, tyro.conf.Positional]
    """Run folder or checkpoint of a policy that was trained with --command velocity, or "lqr" or "linear"."""
    speeds: tuple[float, ...] = (0.3, 0.2, 0.1, 0.0)
    """m/s."""
    headings: Annotated[int, Range(1, 10_000)] = 32
    """Directions at each speed, all around."""
    terrain: str | None = None
    """Ground (default: what a policy was trained on; flat)."""
    robot: str | None = None
    """Which (default: what a policy was trained on; the reference's)."""
    sensors: str | None = None
    """How well it senses (default: as a policy was trained; perfectly)."""
    randomize: str = "none"
    """What differs from robot to robot: "mild", "strong" or a .json file of ranges."""
    seed: Annotated[int, Range(0, 2**62)] = 0
    """Of the starts."""
    out: Path | None = None
    """Plot to write, .png or .svg."""
    json: Path | None = None
    """File for the numbers."""
    num_threads: Annotated[int, Range(0, 1024)] = 1
    """Threads that step the simulations (0: every CPU)."""


def make(candidate: Candidate, args: Args, num: int) -> BallbotVectorEnv:
    """``num`` robots that are told nothing but by us.

    Raises:
        SettingsError: the policy follows no velocity commands.
    """
    options, learned = candidate.options, candidate.policy is not None
    if learned and options.get("command") != "velocity":
        raise SettingsError(f"{args.policy} was not trained with --command velocity: give a policy that was")
    terrain = args.terrain if learned or args.terrain else "flat"
    task = task_of(options, terrain, "velocity", robot=args.robot, sensors=args.sensors, motion={"resample_time": 0.0})
    options = in_task(options, task, adapts=not learned) | {"randomize": args.randomize}
    options |= {"terrain_split": "eval", "num_threads": args.num_threads, "max_episode_steps": 10**6}
    return BallbotVectorEnv(num, **options)


def steady(candidate: Candidate, args: Args, speed: float) -> dict[str, float]:
    """Errors at one speed in all directions, root mean squares over time and the robots that did not fall."""
    n = args.headings
    envs = make(candidate, args, n)
    act = candidate.make_actor(envs)
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False)
    told = np.stack([speed * np.cos(angles), speed * np.sin(angles), 0 * angles])
    obs, _ = envs.reset(seed=args.seed, options={"command": told.T})
    steps, fallen, began = round(SECONDS / envs.dt), np.zeros(n, bool), np.ones(n, bool)
    off, turned, places = [], [], []
    for step in range(steps):
        obs, _, terminated, _, _ = envs.advance(act(obs, began))
        began = np.zeros(n, bool)
        fallen |= terminated
        if step >= steps - round(COUNTED / envs.dt):
            robots = envs.world.robots
            off.append(robots.heading_velocity - told[:2])
            turned.append(robots.yaw_rate)
            places.append(robots.position[:2])
    envs.close()
    found = errors(speed, np.array(off), np.array(turned), fallen)
    if speed == 0 and not fallen.all():
        away = np.linalg.norm(np.array(places) - places[0], axis=1)
        found["moved"] = float(away[:, ~fallen].max())
    return found


def errors(speed: float, off: Array, turned: Array, fallen: NDArray[np.bool_]) -> dict[str, float]:
    """What ``steady`` returns: robots that fell count as "fallen" alone; NaN if all did.

    Args:
        speed: m/s that was told.
        off: (steps, 2, n) m/s, errors of the velocity.
        turned: (steps, n) rad/s.
        fallen: (n,) who fell at any time.
    """
    if fallen.all():
        names = ("velocity_error", "worst_direction", "mean_error", "yaw_rate_error")
        return {"speed": speed, **dict.fromkeys(names, np.nan), "fallen": 1.0}
    off, turned = off[:, :, ~fallen], turned[:, ~fallen]
    error = np.sqrt((off**2).sum(axis=1).mean(axis=0))  # of each robot
    mean = off.mean(axis=0)
    return {
        "speed": speed,
        "velocity_error": float(np.sqrt((error**2).mean())),
        "worst_direction": float(error.max()),
        "mean_error": float(np.sqrt((mean**2).sum(axis=0).mean())),
        "yaw_rate_error": float(np.sqrt((turned**2).mean())),
        "fallen": float(fallen.mean()),
    }


def drive(candidate: Candidate, args: Args) -> dict[str, Array]:
    """One robot that is told one thing after the other: (steps,) "time", "ahead", "left", "turn", and what was told."""
    envs = make(candidate, args, 1)
    act = candidate.make_actor(envs)
    obs, _ = envs.reset(seed=args.seed, options={"command": (0.0, 0.0, 0.0)})
    rows, began = [], np.ones(1, bool)
    for leg, (ahead, left) in enumerate(DRIVE):
        envs.set_command((ahead, left, 0.0))
        for step in range(round(LEG / envs.dt)):
            obs, _, _, _, _ = envs.advance(act(obs, began))
            began = np.zeros(1, bool)
            robots = envs.world.robots
            rows.append((leg * LEG + step * envs.dt, *robots.heading_velocity[:, 0], robots.yaw_rate[0], ahead, left))
    envs.close()
    names = ("time", "ahead", "left", "turn", "told_ahead", "told_left")
    return dict(zip(names, np.array(rows).T, strict=True))


def plot(found: list[dict[str, float]], driven: dict[str, Array], out: Path) -> None:
    """Write the plot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(9, 5.5), sharex=True, layout="constrained", height_ratios=(3, 1)
    )
    for name, colour, label in (("ahead", "#0072B2", "ahead"), ("left", "#D55E00", "to the left")):
        above.plot(driven["time"], driven[f"told_{name}"], color=colour, linestyle="--", linewidth=1.2)
        above.plot(driven["time"], driven[name], color=colour, linewidth=1.4, label=f"{label} (told: dashed)")
    above.set(ylabel="velocity, m/s")
    above.legend(frameon=False, loc="upper right")
    worst = max(found, key=lambda row: row["fallen"] < 1 and row["velocity_error"])
    above.set_title(
        f"steady state, up to {max(row['speed'] for row in found):g} m/s in all directions: within "
        f"{worst['velocity_error']:.3f} m/s rms",
        fontsize=10,
    )
    below.plot(driven["time"], driven["turn"], color="#009E73", linewidth=1.0)
    below.set(xlabel="time, s", ylabel="yaw rate, rad/s", ylim=(-0.2, 0.2))
    for axis in (above, below):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.savefig(out, dpi=110)
    plt.close(figure)


@program
def main(argv: list[str] | None = None) -> int:
    """Judge, print a table, and return the exit status."""
    args = parse(Args, argv, __doc__)
    check_options(args)
    for path, option, endings in ((args.out, "--out", (".png", ".svg")), (args.json, "--json", (".json",))):
        if path is not None:
            check_output(path, option, endings)
    torch.set_num_threads(1)  # networks this small lose by more
    candidate = find_candidate(args.policy)
    found = [steady(candidate, args, speed) for speed in args.speeds]
    print("| told, m/s | error, m/s rms | worst direction | of the mean | yaw rate, rad/s rms | moved, cm | fell |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in found:
        values = [row[name] for name in ("velocity_error", "worst_direction", "mean_error", "yaw_rate_error")]
        cells = [f"{row['speed']:g}", *(f"{value:.3f}" for value in values)]
        cells += [f"{100 * row['moved']:.1f}" if "moved" in row else "", f"{100 * row['fallen']:.0f} %"]
        print(f"| {' | '.join(cells)} |")
    if args.json is not None:
        rows = [{k: None if np.isnan(v) else v for k, v in row.items()} for row in found]
        steps = None if candidate.policy is None else candidate.policy.step
        content: dict[str, Any] = {"policy": args.policy, "steps": steps, "speeds": rows}
        write_atomic(args.json, (json.dumps(content, indent=2) + "\n").encode())
    if args.out is not None:
        plot(found, drive(candidate, args), args.out)
        print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
