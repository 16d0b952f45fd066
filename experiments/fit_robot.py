"""Fit a robot's numbers to what it did: logs in, values and ranges for training out.

    python experiments/fit_robot.py drive.csv --robot my_robot.json --sensors cheap --out ranges.json
    python experiments/fit_robot.py first.csv second.csv --axes com_x com_y com_z body_inertia wheel_damping

Level ground.  What was weighed or measured is left out of --axes and stands in the robot's file.  Beside each value
stands its standard error; what the logs do not tell is said so, and left out of the ranges.  docs/your_robot.md has the
format of a log, how to drive for it, and what to do with what comes out.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from ballbot.cli import check_output, program
from ballbot.envs import WorldConfig
from ballbot.envs.randomize import AXES
from ballbot.envs.sensors import Sensors, check_sensing
from ballbot.errors import SettingsError
from ballbot.identification import AXES_BY_DEFAULT, LATENCY, Fitted, Fitting, check_axes
from ballbot.options import kind_options, read_options
from ballbot.ppo.checkpoint import write_atomic
from ballbot.robot_logs import read_log
from ballbot.settings import Range

POOR = 0.5
"""Of the changes: where the fit explains less, the robot or the log is another one."""
MOST_SPREAD = 2.0
"""Standard errors to either side of a latency."""


@dataclass
class Args:
    """Fit a robot's numbers to its logs."""

    logs: Positional[tuple[Path, ...]]
    """Logs, .csv, as docs/your_robot.md describes them."""
    robot: str = "reference"
    """Which robot drove: by name, or its file.  --robot.body-mass 6.2 and so on change its numbers."""
    axes: tuple[str, ...] = AXES_BY_DEFAULT
    """What is sought, names of docs/kinds.md, "What differs from episode to episode"; the latency is, always."""
    sensors: str | None = None
    """Whose filters and jitter the logs have passed, and how crooked the orientation may be, "perfect" or "cheap".
    --sensors.imu-filter-ms 3 and so on are single values."""
    window: Annotated[float, Range(0.25, 2)] = 0.4
    """s that are simulated at a time."""
    windows: Annotated[int, Range(5, 2000)] = 40
    """How many at most, spread over all logs.  Time grows with it, and errors with its root fall."""
    num_threads: Annotated[int, Range(0, 1024)] = 0
    """Threads that simulate; 0: every CPU."""
    out: Path | None = None
    """File, .json, of ranges for --randomize: two standard errors to either side."""
    json: Path | None = None
    """File, .json, of all numbers."""


def row(name: str, fitted: Fitted) -> str:
    """A line of the table."""
    meaning = "" if name not in AXES else AXES[name].what.split(",")[0].rstrip(".")
    if fitted.told:
        return f"{name:16s} {fitted.value:9.4g} ± {fitted.error:<8.2g} {meaning}"
    like = f"; {' and '.join(fitted.like)} would do the same: measure one of these and leave it out" * bool(fitted.like)
    return f"{name:16s}  not told ± {fitted.error:<8.2g} {meaning}{like}"


@program
def main(argv: list[str] | None = None) -> int:
    """Fit, print a table, and return the exit status."""
    args = read_options(Args, argv, __doc__)
    if not args.logs:
        raise SettingsError("name a log, .csv: docs/your_robot.md says what it holds")
    for option, path in (("--out", args.out), ("--json", args.json)):
        if path is not None:
            check_output(path, option, (".json",))
    check_axes(args.axes)
    options = kind_options(args)
    sensors = Sensors(**check_sensing(args.sensors or "perfect", options.pop("sensing", {})))
    robot = {"robot": args.robot, **options}
    wheels = WorldConfig.of(terrain="flat", **robot).robot_config.wheels
    logs = [read_log(path, wheels) for path in args.logs]
    fitting = Fitting(
        logs, args.axes, sensors=sensors, window=args.window, most=args.windows, num_threads=args.num_threads, **robot
    )
    try:
        fit = fitting.run(lambda line: print(line, flush=True))
    finally:
        fitting.close()
    print()
    for name, fitted in {**fit.axes, LATENCY: fit.latency}.items():
        print(row(name, fitted))
    print()
    for kind, (rest, moved) in fit.left.items():
        unit = "" if kind == "vertical" else " rad/s"
        print(f"{kind}: within a window it changes by {moved:.2g}{unit} rms, and the fit leaves {rest:.2g} of it")
    print(f"{fit.windows} windows of {args.window:g} s; {fit.odd} more fit nothing and were left out")
    if fit.explains < POOR:
        print(
            "note: the fit explains little of what the robot did: check the robot's file, the order and signs of "
            "wheels and actions, and that the ground was level"
        )
    if not fit.settled:
        print("note: values were still changing in the end: more --windows, or fewer --axes")
    if fit.latency.told:
        late = fit.latency.value - sensors.jitter_ms  # which comes on top, half of it each way
        low, high = (max(late + sign * MOST_SPREAD * fit.latency.error, 0.0) for sign in (-1, 1))
        print(f"the latency for training: --sensors.delay-ms 0 0 --sensors.action-delay-ms {low:.1f} {high:.1f}")
    if args.json is not None:
        write_atomic(args.json, (json.dumps(asdict(fit), indent=2) + "\n").encode())
        print(f"wrote {args.json}")
    if args.out is not None:
        write_atomic(args.out, (json.dumps(fit.ranges(), indent=2) + "\n").encode())
        print(f"wrote {args.out}, for --randomize {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
