"""How well fit_robot.py finds what is hidden: robots whose numbers nobody told it, logged with cheap sensors.

    python experiments/maintenance/measure_fits.py                              # into results/fits.csv
    python experiments/maintenance/measure_fits.py --robots mini --seeds 0 1 --axes com_x com_y ground_friction

Each robot's numbers are drawn from the ranges of --randomize strong, its latencies from those of --sensors cheap.  It
is told velocities, which a regulator follows that knows only the robot's file, with noise on its actions.  Rows that
are in the table already stay, and are not measured again.  docs/your_robot.md shows it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from shared import PUBLISHED, CheckoutPath, append_row, check_each_once, check_names, check_seeds, read_table

from ballbot.cli import check_options, check_output, program
from ballbot.envs import ROBOTS, BallbotVectorEnv
from ballbot.envs.randomize import AXES, RANDOMIZED
from ballbot.envs.sensors import SENSORS, Sensors
from ballbot.evaluation import find_candidate, run_episodes
from ballbot.identification import AXES_BY_DEFAULT, LATENCY, Fitting, check_axes
from ballbot.parsing import parse
from ballbot.robot_logs import Recorder, RobotLog, read_log
from ballbot.settings import Range

COLUMNS = ("robot", "axes", "seed", "seconds", "number", "true", "fitted", "error", "told")
"""Of the table: names of what is sought together, s of the log, and of each number what it is, what is found, its
standard error, and whether that is told (1) or not (0)."""
HIDDEN = RANDOMIZED["strong"]
MOTION = {"max_speed": 0.2, "resample_time": 3.2}
"""m/s, and s between two velocities that are told."""
LONG_ENOUGH, TRIES = 15.0, 5
"""s that a robot must stand in all to be fitted, and how often it is set upright for that."""


@dataclass
class Args:
    """Fit hidden robots."""

    robots: tuple[str, ...] = ("reference", "rollers")
    """Which, by name."""
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14, 15)
    """A robot of each kind for each."""
    axes: tuple[str, ...] = AXES_BY_DEFAULT
    """What differs from the robot's file, and is sought."""
    policy: str = "lqr:0.2"
    """Who drives."""
    seconds: Annotated[float, Range(LONG_ENOUGH, 600)] = 30.0
    """Of a log at least, unless the robot falls all the time."""
    action_noise: Annotated[float, Range(0, 1)] = 0.15
    """Standard deviation of what is added to actions."""
    windows: Annotated[int, Range(5, 2000)] = 40
    """That are fitted, as of fit_robot.py."""
    num_threads: Annotated[int, Range(0, 1024)] = 0
    """Threads that simulate; 0: every CPU."""
    out: CheckoutPath = PUBLISHED / "fits.csv"
    """Table."""


def hide(args: Args, seed: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Numbers by name, the latency too, and sensors as that has it."""
    rng = np.random.default_rng(seed)
    drawn = {name: float(rng.uniform(*HIDDEN[name])) for name in HIDDEN}
    cheap = SENSORS["cheap"]
    delays = {name: float(rng.uniform(*cheap[name])) for name in ("delay_ms", "action_delay_ms")}
    # jitter delays messages of either kind by half of it on average
    latency = sum(delays.values()) + cheap["jitter_ms"]
    numbers = {name: drawn[name] for name in AXES if name in args.axes} | {LATENCY: latency}
    return numbers, {name: (delay, delay) for name, delay in delays.items()}


def log(args: Args, robot: str, seed: int) -> list[RobotLog]:
    """What the hidden robot does, set upright again where it falls; nothing if it hardly stands."""
    numbers, sensing = hide(args, seed)
    ranges = {name: (value, value) for name, value in numbers.items() if name != LATENCY}
    envs = BallbotVectorEnv(
        1, robot=robot, terrain="flat", command="velocity", motion=MOTION, ranges=ranges, sensors="cheap",
        sensing=sensing, max_episode_steps=round(args.seconds * 500), num_threads=args.num_threads,
    )  # fmt: skip
    recorder, stood = Recorder(envs, args.action_noise, seed), 0.0
    try:
        actor = recorder.watch(find_candidate(args.policy).make_actor(envs))
        for attempt in range(TRIES):
            stood += envs.dt * int(run_episodes(envs, actor, 1, TRIES * seed + attempt).lengths[0])
            if stood >= args.seconds:
                break
        if stood < LONG_ENOUGH:
            return []
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{robot}_{seed}.csv"
            path.write_text(recorder.text())
            return read_log(path, envs.simulations.mechanics.wheels)
    finally:
        envs.close()


def measure(args: Args, robot: str, seed: int) -> list[dict[str, Any]]:
    """Rows of the table."""
    begun, numbers, logs = time.perf_counter(), hide(args, seed)[0], log(args, robot, seed)
    if not logs:
        print(f"{robot} {seed}: stands for less than {LONG_ENOUGH:g} s in {TRIES} tries", flush=True)
        return []
    sensors = Sensors(**SENSORS["cheap"])
    fitting = Fitting([logs], args.axes, sensors=sensors, most=args.windows, num_threads=args.num_threads, robot=robot)
    try:
        fit = fitting.run()
    finally:
        fitting.close()
    rows, seconds = [], sum(len(part.actions) * part.dt for part in logs)
    for name, fitted in {**fit.axes, LATENCY: fit.latency}.items():
        values = {"true": numbers[name], "fitted": fitted.value, "error": fitted.error}
        shown = {key: f"{value:.4g}" for key, value in values.items()}
        what = {"robot": robot, "axes": " ".join(args.axes), "seed": seed, "seconds": f"{seconds:.0f}", "number": name}
        rows.append({**what, **shown, "told": int(fitted.told)})
        far = (fitted.value - numbers[name]) / fitted.error
        print(f"{robot} {seed}: {name} {shown['true']}, fitted {shown['fitted']}, {far:+.1f} errors", flush=True)
    print(f"{robot} {seed}: {seconds:.0f} s logged, in {time.perf_counter() - begun:.0f} s", flush=True)
    return rows


@program
def main(argv: list[str] | None = None) -> int:
    """Measure what is not in the table yet, and return the exit status."""
    args = parse(Args, argv, __doc__)
    check_options(args)
    check_names("--robots", args.robots, ROBOTS)
    check_seeds(args.seeds)
    check_each_once("--seeds", args.seeds)
    check_axes(args.axes)
    check_names("--axes", args.axes, HIDDEN)
    check_output(args.out, "--out", (".csv",))
    known = {(row["robot"], row["axes"], int(row["seed"])) for row in read_table(args.out, COLUMNS)}
    for seed in args.seeds:
        for robot in args.robots:
            if (robot, " ".join(args.axes), seed) not in known:
                for row in measure(args, robot, seed):
                    append_row(args.out, row, COLUMNS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
