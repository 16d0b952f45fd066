"""What can this robot do, before anybody trains?

    python experiments/design_robot.py mini                       # one by name
    python experiments/design_robot.py my_robot.json              # by its numbers
    python experiments/design_robot.py my_robot.xml --out my_robot.html

Gains that are computed from the model hold it upright in the simulation, which finds the largest lean and the hardest
push after which it comes to rest, the steepest slope on which it stands still, and how fast it goes, in six directions,
and what ends it there.  Takes a minute or two of a core that is free.
"""

from __future__ import annotations

import html
import importlib.util
import json
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from ballbot.cli import check_output, program
from ballbot.design import CAUSES, NOTHING, REST_SPEED, Design, Limit, design_of
from ballbot.envs.robots import Robot, robot_of
from ballbot.evaluation.drawing import drawing
from ballbot.evaluation.report import COLOURS, new_figure, page, polar, vector_graphic
from ballbot.parsing import parse
from ballbot.ppo.checkpoint import write_atomic
from ballbot.progress import Progress


@dataclass
class Args:
    """Say what a robot can do."""

    robot: Annotated[str, tyro.conf.Positional]
    """Name of a robot, a .json file of numbers, or MJCF (.xml)."""
    out: Path | None = None
    """Page to write, .html, with the robot, its limits and its margins drawn."""
    json: Path | None = None
    """File to write the numbers to."""


def told(limit: Limit, scale: float, unit: str) -> str:
    """How far something can go, how finely that was looked for, and what ends it."""

    def number(at: int) -> str:
        return f"{'' if limit.cause[at] != NOTHING else 'at least '}{scale * limit.most[at]:.{digits}f}"

    digits = 2 if scale * limit.most.max() < 10 else 1
    low, high = number(int(limit.most.argmin())), number(int(limit.most.argmax()))
    most = f"{low} {unit}" + (f" to {high} {unit}" if high != low else "")
    steps = f", looked for in steps of {scale * limit.resolution:.2g} {unit}" if limit.resolution else ""
    return f"{most}{steps}; " + (f"what ends it: {limit.why}" if limit.why else "nothing that was tried ends it")


def rows(design: Design) -> list[tuple[str, str]]:
    """What the table says: quantity and value."""
    degrees = 180 / np.pi
    slowest = design.regulated[np.abs(design.regulated).argmin()]
    return [
        ("weighs", f"{design.mass:.2f} kg"),
        ("falls by itself", f"e-fold in {1000 / design.fall_rate:.0f} ms ({design.fall_rate:.2f} 1/s)"),
        (
            "held by computed gains, by its model",
            f"natural frequency {np.abs(slowest) / (2 * np.pi):.2f} Hz, e-fold in {-1000 / slowest.real:.0f} ms",
        ),
        ("lean that its torque can bring back, by its model", f"{degrees * design.lean_by_torque:.1f} deg"),
        ("lean in which its grip can hold it, by its model", f"{degrees * design.lean_by_grip:.1f} deg"),
        ("lean from which it comes to rest", told(design.lean, degrees, "deg")),
        (f"slope on which it stands still, below {REST_SPEED:g} m/s", told(design.slope, degrees, "deg")),
        ("push after which it comes to rest", told(design.push, 1.0, "N s")),
        ("speed that it reaches, speeding up slowly", told(design.course.limit, 1.0, "m/s")),
        ("top speed of its motors", f"{design.top_speeds.min():.2f} to {design.top_speeds.max():.2f} m/s"),
        ("its ball turns, against wheels without slip", f"{100 * (design.drive.worst_gear - 1):+.1f} %"),
        ("its body rises and sinks as wheels turn", f"{1000 * design.drive.ripple:.2f} mm"),
    ]


def numbers(design: Design) -> dict[str, Any]:
    """The same for programs, in SI units; null where nothing ended it, and where motors have no top speed."""

    def listed(limit: Limit) -> dict[str, Any]:
        causes = [None if cause == NOTHING else CAUSES[cause] for cause in limit.cause]
        found = {"most": limit.most.tolist(), "resolution": limit.resolution}
        return found | {"limited_by": limit.why, "causes": causes}

    course = design.course
    return {
        "mass": design.mass,
        "fall_rate": design.fall_rate,
        "regulated": [[pole.real, pole.imag] for pole in design.regulated.tolist()],
        "lean_by_torque": design.lean_by_torque,
        "lean_by_grip": design.lean_by_grip,
        "directions": design.directions.tolist(),
        "top_speeds": [speed if np.isfinite(speed) else None for speed in design.top_speeds.tolist()],
        **{name: listed(getattr(design, name)) for name in ("lean", "slope", "push")},
        "speed": listed(course.limit),
        "margins": {
            "speed": {name: getattr(course, name).tolist() for name in ("speeds", "torques", "turning")},
            "slope": dict(zip(("slopes", "torques"), design.slope.torques.T.tolist(), strict=True)),
        },
        "gear": design.drive.gear.tolist(),
        "ripple": design.drive.ripple,
    }


def margins(design: Design) -> str:
    """How much of its motors a robot takes on its way to what ends it, as a vector graphic."""
    figure, (fast, steep) = new_figure(2)
    course, slopes = design.course, design.slope.torques
    fast.plot(course.speeds, 100 * course.torques, ".", color=COLOURS[0], label="torque, of all that motors have")
    fast.plot(course.speeds, 100 * course.turning, ".", color=COLOURS[1], label="wheels' speed, of the fastest")
    steep.plot(np.degrees(slopes[:, 0]), 100 * slopes[:, 1], ".", color=COLOURS[0])
    fast.set(xlabel="m/s on level ground", ylabel="%", ylim=(0, 105))
    steep.set(xlabel="degrees of slope, standing", ylabel="torque, %", ylim=(0, 105))
    fast.legend(frameon=False, fontsize=8)
    return vector_graphic(figure)


def body(design: Design, robot: Robot) -> str:
    """Of the page."""
    parts = {
        "lean, degrees": np.degrees(design.lean.most),
        "slope, degrees": np.degrees(design.slope.most),
        "push, N s": design.push.most,
        "speed, m/s": design.course.limit.most,
    }
    lines = "".join(f"<tr><td>{html.escape(a)}</td><td>{html.escape(b)}</td></tr>" for a, b in rows(design))
    figures = (
        (drawing(robot.spec().compile()), "The robot, from the side and from above."),
        (polar(design.directions, parts), "How far it can go, by direction from the base's x axis."),
        (margins(design), "What it takes of its motors, at the busiest wheel; what is left is its margin."),
    )
    return f'<table class="told"><tbody>{lines}</tbody></table>' + "".join(
        f"<figure>{svg}<figcaption>{text}</figcaption></figure>" for svg, text in figures
    )


@program
def main(argv: list[str] | None = None) -> int:
    """Try the robot, and return the exit status."""
    args = parse(Args, argv, __doc__)
    if args.out is not None:
        check_output(args.out, "--out", (".html",))
        if importlib.util.find_spec("matplotlib") is None:
            raise ImportError("--out needs matplotlib: pip install matplotlib")
    if args.json is not None:
        check_output(args.json, "--json", (".json",))
    robot = robot_of(args.robot, {})
    print(f"trying {args.robot} in the simulation", flush=True)
    with closing(Progress(args.robot)) as progress:
        design = design_of(robot, progress)
    for name, value in rows(design):
        print(f"{name:50} {value}")
    if args.json is not None:
        write_atomic(args.json, (json.dumps(numbers(design), indent=2) + "\n").encode())
        print(f"wrote {args.json}")
    if args.out is not None:
        write_atomic(args.out, page(f"What {Path(args.robot).name} can do", body(design, robot)).encode())
        print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
