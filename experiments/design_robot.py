"""What can this robot do, before anybody trains?

    python experiments/design_robot.py mini                       # one by name
    python experiments/design_robot.py my_robot.json              # by its numbers
    python experiments/design_robot.py my_robot.xml --out my_robot.html

Gains that are computed from the model hold it upright in the simulation, which finds the largest lean, the steepest
slope and the hardest push that it survives, in six directions, and what ends it there.  Takes a minute or two.
"""

from __future__ import annotations

import html
import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from ballbot.cli import check_output, program
from ballbot.design import Design, Limit, design_of
from ballbot.envs.robots import robot_of
from ballbot.evaluation.report import page, polar
from ballbot.parsing import parse
from ballbot.ppo.checkpoint import write_atomic


@dataclass
class Args:
    """Say what a robot can do."""

    robot: Annotated[str, tyro.conf.Positional]
    """Name of a robot, a .json file of numbers, or MJCF (.xml)."""
    out: Path | None = None
    """Page to write, .html, with the limits drawn."""
    json: Path | None = None
    """File to write the numbers to."""


def rows(design: Design) -> list[tuple[str, str]]:
    """What the table says: quantity and value."""

    def told(limit: Limit, scale: float, unit: str) -> str:
        low, high = (f"{scale * x:.1f}" for x in (limit.most.min(), limit.most.max()))
        return f"{low} {unit}" + (f" to {high} {unit}" if high != low else "") + f"; what ends it: {limit.why}"

    degrees = 180 / np.pi
    return [
        ("weighs", f"{design.mass:.2f} kg"),
        ("falls by itself", f"e-fold in {1000 / design.fall_rate:.0f} ms ({design.fall_rate:.2f} 1/s)"),
        ("lean that its torque can bring back, by its model", f"{degrees * design.lean_by_torque:.1f} deg"),
        ("lean that it comes back from", told(design.lean, degrees, "deg")),
        ("slope that it stands on", told(design.slope, degrees, "deg")),
        ("push that it survives", told(design.push, 1.0, "N s")),
        ("top speed of its motors", f"{design.top_speeds.min():.2f} to {design.top_speeds.max():.2f} m/s"),
        ("its ball turns, against wheels without slip", f"{100 * (design.drive.worst_gear - 1):+.1f} %"),
        ("its body rises and sinks as wheels turn", f"{1000 * design.drive.ripple:.2f} mm"),
    ]


def numbers(design: Design) -> dict[str, Any]:
    """The same for programs, in SI units."""

    def listed(limit: Limit) -> dict[str, Any]:
        return {"most": limit.most.tolist(), "limited_by": limit.why}

    return {
        "mass": design.mass,
        "fall_rate": design.fall_rate,
        "lean_by_torque": design.lean_by_torque,
        "directions": design.directions.tolist(),
        "top_speeds": design.top_speeds.tolist(),
        **{name: listed(getattr(design, name)) for name in ("lean", "slope", "push")},
        "gear": design.drive.gear.tolist(),
        "ripple": design.drive.ripple,
    }


def body(design: Design) -> str:
    """Of the page."""
    parts = {
        "lean, degrees": np.degrees(design.lean.most),
        "slope, degrees": np.degrees(design.slope.most),
        "push, N s": design.push.most,
        "top speed, m/s": design.top_speeds,
    }
    lines = "".join(f"<tr><td>{html.escape(a)}</td><td>{html.escape(b)}</td></tr>" for a, b in rows(design))
    return (
        f"<table><tbody>{lines}</tbody></table>"
        f"<figure>{polar(design.directions, parts)}<figcaption>How far it can go, by direction from the base's x axis."
        "</figcaption></figure>"
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
    design = design_of(robot)
    for name, value in rows(design):
        print(f"{name:52} {value}")
    if args.json is not None:
        write_atomic(args.json, (json.dumps(numbers(design), indent=2) + "\n").encode())
        print(f"wrote {args.json}")
    if args.out is not None:
        write_atomic(args.out, page(f"What {Path(args.robot).name} can do", body(design)).encode())
        print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
