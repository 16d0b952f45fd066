"""``ballbot COMMAND``: the programs of experiments/ for who installed the package.

A wheel holds them as ballbot/experiments, a checkout beside the package.  Their ``main`` is called, as ``python
experiments/NAME.py`` does; nothing is imported before, so that the list of commands comes at once.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

COMMANDS = {
    "train": "ppo_ballbot",
    "evaluate": "evaluate",
    "watch": "watch",
    "plot": "plot_training",
    "export": "export_policy",
    "sweep": "sweep",
    "distill": "distill",
    "robustness": "robustness",
    "falls": "find_falls",
    "follow": "follow_commands",
    "collect": "collect_depth",
    "pretrain": "pretrain_encoder",
    "probe": "probe_encoder",
    "cameras": "show_cameras",
    "terrains": "show_terrains",
    "design": "design_robot",
    "fit": "fit_robot",
    "balance": "balance_pid",
    "check": "check_setup",
}
"""Command -> program of experiments/, in the order in which they are listed."""


def experiments() -> Path:
    """The folder of the programs."""
    package = Path(__file__).parent
    installed = package / "experiments"
    return installed if installed.is_dir() else package.parent / "experiments"


def overview() -> str:
    """The commands with a line each: what their programs say first of themselves."""
    lines = ["usage: ballbot COMMAND [OPTIONS]", ""]
    for command, name in COMMANDS.items():
        with open(experiments() / f"{name}.py", encoding="utf-8") as file:
            what = file.readline().strip().strip('"')
        lines.append(f"  {command:12}{what}")
    return "\n".join([*lines, "", "ballbot COMMAND --help explains every option."])


def as_called(text: str) -> str:
    """A text that tells how to run the programs of a checkout, for who has called them by ``ballbot``."""
    if not sys.argv[0].startswith("ballbot "):
        return text
    names = {name: command for command, name in COMMANDS.items()}

    def called(match: re.Match[str]) -> str:
        command = names.get(match[2])
        return match[0] if command is None else f"{'ballbot' if match[1] else '-m ballbot'} {command}"

    return re.sub(r"(python )?experiments/(\w+)\.py", called, text)


def main(argv: list[str] | None = None) -> int:
    """Run a command, and return the exit status: that of its program, 2 for an unknown one."""
    name, *options = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help", "--version"):
        return _say(f"ballbot {sys.modules['ballbot'].__version__}" if name == "--version" else overview())
    if name not in COMMANDS:
        from ballbot.settings import nearest

        print(f"error: ballbot {name} is unknown: {nearest(name, COMMANDS)}", file=sys.stderr)
        return 2
    sys.argv = [f"ballbot {name}", *options]
    sys.path.insert(0, str(experiments()))  # programs import each other
    status: int = importlib.import_module(COMMANDS[name]).main()
    return status


def _say(text: str) -> int:
    """Print, and return the exit status: 141, as in a shell, if nobody reads it any more."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 141
    return 0
