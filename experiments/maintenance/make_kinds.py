"""Write docs/kinds.md: every ground, robot, command, reward, ending and field of the observation, as the code has them.

python experiments/maintenance/make_kinds.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from shared import EXPERIMENTS, CheckoutPath

from ballbot.cli import check_output, program
from ballbot.envs import COMMANDS, ENDINGS, FIELDS, REWARDS, ROBOTS, TERRAINS, RobotConfig
from ballbot.envs.observations import FRAMES, layout_of
from ballbot.envs.randomize import AXES, RANDOMIZED
from ballbot.envs.rewards import reward_settings
from ballbot.envs.sensors import SENSORS, Sensors
from ballbot.options import first_line
from ballbot.parsing import field_docs, parse
from ballbot.ppo.checkpoint import write_atomic
from ballbot.settings import default_of

PAGE = EXPERIMENTS.parent / "docs" / "kinds.md"
HEAD = """# Kinds of ground, robots, commands, rewards, endings and observations

Made by `python experiments/maintenance/make_kinds.py` from the code, which is what counts. How to add one:
[extending.md](extending.md).
"""


@dataclass
class Args:
    """Write the page of all kinds."""

    out: CheckoutPath = PAGE
    """File to write."""


def options(cls: Any, section: str) -> list[str]:
    """A line an option of a dataclass."""
    docs = field_docs(cls)
    lines = []
    for f in fields(cls):
        if not f.init:
            continue
        lines.append(f"- `--{section}.{f.name.replace('_', '-')}` ({default_of(f)!r}): {docs.get(f.name, '')}")
    return lines


def kinds(registry: dict[str, Any], section: str) -> list[str]:
    """A heading a kind, what it is, and its options."""
    lines: list[str] = []
    for name, cls in registry.items():
        lines += ["", f"### {name}", "", first_line(cls), *([""] if fields(cls) else []), *options(cls, section)]
    return lines


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A Markdown table."""
    return [
        "",
        *(
            f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
            for row in (header, tuple("-" * 3 for _ in header), *rows)
        ),
    ]


def robots() -> list[str]:
    """A table of the robots' numbers."""
    rows = []
    for f in fields(RobotConfig):
        values = [getattr(robot, f.name) for robot in ROBOTS.values()]
        rows.append((f"`{f.name}`", *(f"{x:g}" if isinstance(x, float) else str(x) for x in values)))
    return table(("number", *ROBOTS), rows)


def axis_rows() -> list[tuple[str, ...]]:
    """A row an axis of what differs from episode to episode."""
    named = [name for name, ranges in RANDOMIZED.items() if ranges]
    rows = []
    for key, axis in AXES.items():
        ranges = [RANDOMIZED[name].get(key) for name in named]
        rows.append((f"`{key}`", axis.what, *("" if span is None else "{:g} to {:g}".format(*span) for span in ranges)))
    return rows


def sensor_rows() -> list[tuple[str, ...]]:
    """A row a value of the sensors."""
    docs = field_docs(Sensors)
    rows = []
    for f in fields(Sensors):
        values = [sensing.get(f.name, f.default) for sensing in SENSORS.values()]
        rows.append((f"`{f.name}`", docs[f.name], *(str(value) for value in values)))
    return rows


def reward_rows() -> list[tuple[str, ...]]:
    """A row a term and parameter."""
    rows: list[tuple[str, ...]] = []
    for key, (term, default) in reward_settings().items():
        what = first_line(REWARDS[term]) if key == term else field_docs(REWARDS[term]).get(key[len(term) + 1 :], "")
        commands = ", ".join(getattr(REWARDS[term], "commands", ())) or "any"
        rows.append((f"`{key}`", what, commands if key == term else "", "" if key == term else f"{default:g}"))
    return rows


def page() -> str:
    """The whole page."""
    lines = [HEAD, "## Grounds", "", "`--terrain NAME`, `NAME:0.4` (difficulty), `NAME:0-1` (spread over the pool)."]
    lines += kinds(TERRAINS, "ground")
    lines += ["", "## Robots", "", "`--robot NAME`, or a file; [robots.md](robots.md) tells what they are."]
    lines += ["", *options(RobotConfig, "robot"), *robots()]
    lines += ["", "## What differs from episode to episode", "", "`--randomize NAME`, `--randomize.AXIS LOW HIGH`."]
    lines += table(("axis", "what", *(f"`{name}`" for name, ranges in RANDOMIZED.items() if ranges)), axis_rows())
    lines += ["", "## Sensors", "", "`--sensors NAME`, `--sensors.VALUE X`."]
    lines += table(("value", "what", *(f"`{name}`" for name in SENSORS)), sensor_rows())
    lines += ["", "## Commands", "", "`--command NAME`."]
    lines += kinds(COMMANDS, "motion")
    lines += [
        "",
        "## Rewards",
        "",
        "`--rewards.NAME WEIGHT`, `--training-rewards.NAME WEIGHT`; weights are 0 unless the command's own.",
    ]
    lines += table(("name", "what", "command", "default"), reward_rows())
    for name, cls in COMMANDS.items():
        lines += ["", f"Command `{name}` pays " + ", ".join(f"`{k}` {v:g}" for k, v in cls.rewards.items()) + "."]
    lines += [
        "",
        "## Endings",
        "",
        "`--endings.NAME LIMIT`; a fall, the time limit and the edge of the ground always end an episode.",
    ]
    lines += table(
        ("name", "an episode fails when"), [(f"`{name}`", first_line(ending)) for name, ending in ENDINGS.items()]
    )
    lines += ["", "## Fields of the observation"]
    for frame, (before, after) in FRAMES.items():
        goal = "goal" in layout_of(frame, ("goal",), ()).names
        told = "those of the command" if goal else "those of the command but `goal`, which is fixed in the world"
        parts = ", ".join((*(f"`{n}`" for n in before), told, *(f"`{n}`" for n in after)))
        lines += ["", f'`frame="{frame}"`: {parts}.']
    lines += [
        "",
        "`--extra-fields NAME ...` adds others. `--history 0 10 20 --history-fields NAME ...` observes some",
        "as they were 10 and 20 steps of 2 ms ago too, as `NAME@10` and `NAME@20`, and with `--history-changes` how",
        "much they have changed since, as `NAME-10` and `NAME-20`. Images follow, as embeddings, and their age.",
        "`--privileged-fields NAME ...` gives others to the value function alone.",
    ]
    rows = [(f"`{name}`", f.title or name, str(f.size), f.unit, f.axes) for name, f in FIELDS.items()]
    lines += table(("name", "what", "numbers", "unit", "axes"), rows)
    return "\n".join(lines) + "\n"


@program
def main(argv: list[str] | None = None) -> int:
    """Write the page, and return the exit status."""
    args = parse(Args, argv, __doc__)
    check_output(args.out, "--out", (".md",))
    write_atomic(args.out, page().encode())
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
