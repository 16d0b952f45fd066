"""Train with several seeds and settings, some at a time, and compare: one table, one plot.

    python experiments/sweep.py --seeds 0 1 2 -- --no-cameras --total-timesteps 200000
    python experiments/sweep.py --grid learning-rate=3e-4,1e-3 gamma=0.99,0.995 --jobs 2 -- --no-cameras
    python experiments/sweep.py --name memory --grid memory=none,gru "history=0,0 10 20" -- --no-cameras --terrain flat
    python experiments/sweep.py --name eyes --grid cameras=false,true --dry-run

Every combination of the grid is trained with every seed; what stands after -- are options of ppo_ballbot.py for all of
them.  A value may be several words, "history=0,0 10 20"; of switches it is true or false.  Runs are
runs/<name>_<setting>_<value>_<seed>; runs/<name> holds what they print, the table, table.csv, and the plot, curves.png.

Ctrl-C lets trainings save and stops; the same command goes on where they stopped, and repeats nothing that is done.  A
run that fails does not stop the others.

Exit status: 0 all are done, 1 some failed, 2 bad input, 130 stopped.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import plot_training
import ppo_ballbot

from ballbot.cli import check_options, program
from ballbot.cpus import usable_cpus
from ballbot.errors import SettingsError
from ballbot.jobs import Programs, begun, clear, in_use, say, share_done
from ballbot.parsing import parse
from ballbot.ppo.checkpoint import write_atomic
from ballbot.ppo.run_dir import lock_run_dir
from ballbot.progress import Progress
from ballbot.runs import differences, load_settings
from ballbot.settings import Range

TRAINING = Path(ppo_ballbot.__file__)
OWN = ("seed", "run-name", "resume")
"""Options of training that are chosen here."""
SWITCH = {"true": "", "false": "no-"}
"""Value of a switch -> what stands before its name."""
RETURNS = "eval/return_mean", "charts/episodic_return"
LENGTHS = "eval/length_mean", "charts/episodic_length"
"""Columns of a run's progress.csv, of evaluations and of training."""


@dataclass
class Args:
    """Train with several seeds and settings."""

    name: str = "sweep"
    """What the runs' names begin with, and folder under runs/ for the table, the plot and the logs."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds that each setting is trained with."""
    grid: tuple[str, ...] = ()
    """Options of training with their values, "learning-rate=3e-4,1e-3", of which every combination is trained."""
    jobs: Annotated[int, Range(0, 1024)] = 0
    """Runs at a time (0: as many as CPUs)."""
    dry_run: bool = False
    """Say which runs there are and how much of them is done, and train nothing."""


@dataclass(frozen=True)
class Setting:
    """One combination of the grid."""

    values: tuple[tuple[str, str], ...]
    """Options and what they are, as written in the grid."""

    @property
    def name(self) -> str:
        """Fit for a folder."""
        parts = [re.sub(r"[^\w.+-]+", "-", part) for pair in self.values for part in pair]
        return "_".join(parts)

    @property
    def title(self) -> str:
        """For people."""
        return ", ".join(f"{name} {value}" for name, value in self.values)

    def options(self) -> list[str]:
        """Of the command line of training."""
        found: list[str] = []
        for name, value in self.values:
            words = value.split()
            if value in SWITCH:
                found.append(f"--{SWITCH[value]}{name}")
            else:
                found += [f"--{name}={words[0]}"] if len(words) == 1 else [f"--{name}", *words]
        return found


@dataclass(frozen=True)
class Run:
    """One training."""

    setting: Setting
    seed: int
    sweep: str

    @property
    def folder(self) -> Path:
        """Where it is trained."""
        return Path("runs") / "_".join(filter(None, (self.sweep, self.setting.name, str(self.seed))))

    @property
    def log(self) -> Path:
        """What it prints."""
        return Path("runs") / self.sweep / f"{self.folder.name}.log"


def settings_of(grid: tuple[str, ...], common: list[str]) -> list[Setting]:
    """Every combination, the last option changing fastest.

    Raises:
        SettingsError: an entry is no option with values, or one is given twice.
    """
    values: dict[str, list[str]] = {}
    given = {word.split("=")[0].removeprefix("--").replace("_", "-") for word in common if word.startswith("--")}
    for entry in grid:
        name, equals, text = entry.partition("=")
        name = name.removeprefix("--").replace("_", "-")
        found = [value.strip() for value in text.split(",")]
        if not name or not equals or "" in found:
            raise SettingsError(f"--grid {entry!r} is no option with values: write learning-rate=3e-4,1e-3")
        if len(set(found)) < len(found):
            raise SettingsError(f"--grid {entry} has a value twice: leave one out")
        if name in OWN:
            raise SettingsError(f"--grid {entry}: --{name} is chosen for each run; --seeds are those of all")
        if name in values or name in given or f"no-{name}" in given:
            raise SettingsError(f"--{name} is given twice: let it stand in the grid alone")
        values[name] = found
    if chosen := given.intersection(OWN):
        raise SettingsError(f"--{min(chosen)} is chosen for each run: leave it out; --seeds and --name say which")
    return [Setting(tuple(zip(values, choice, strict=True))) for choice in product(*values.values())]


def planned(args: Args, common: list[str]) -> list[Run]:
    """First seeds first, so that every setting has a run early.

    Raises:
        SettingsError: an option cannot be used.
    """
    check_options(args)
    if args.name in ppo_ballbot.NO_RUNS or re.search(r"[^\w.+-]", args.name):
        raise SettingsError(f"--name {args.name!r} must be a plain folder name: letters, digits, and any of ._+-")
    if not args.seeds or len(set(args.seeds)) < len(args.seeds):
        raise SettingsError("--seeds needs at least one value, and each once")
    settings = settings_of(args.grid, common)
    names: dict[str, Setting] = {}
    for setting in settings:
        if (other := names.setdefault(setting.name, setting)) is not setting:
            raise SettingsError(f"--grid: {other.title} and {setting.title} would both be called {setting.name}")
    return [Run(setting, seed, args.name) for seed in args.seeds for setting in settings]


def check(run: Run, common: list[str]) -> None:
    """Whether training takes the options of a run, and what was begun has them.

    Raises:
        BallbotError: it does not; the message says why.
    """
    wanted = ppo_ballbot.parse([*common, *run.setting.options(), f"--seed={run.seed}"])
    if begun(run.folder):
        for name, (then, now) in differences(load_settings(run.folder).settings, wanted.settings).items():
            option = name.replace("_", "-")
            raise SettingsError(
                f"{run.folder} was begun with --{option} {then}, not {now}: give another --name, or move it away"
            )


def train(run: Run, common: list[str], programs: Programs) -> None:
    """Train, or go on; what is done is left out."""
    if in_use(run.folder):  # as by a sweep that was killed
        say(f"{run.folder.name}: waits for the process that trains it")
        while in_use(run.folder) and not programs.stopping:
            time.sleep(1)
    if share_done(run.folder) >= 1 or programs.stopping:
        return
    command = [sys.executable, str(TRAINING), "--resume", str(run.folder)]
    if not begun(run.folder):
        clear(run.folder)
        command[2:] = [*common, *run.setting.options(), f"--seed={run.seed}", "--run-name", run.folder.name]
    say(f"{run.folder.name}: {'goes on' if begun(run.folder) else 'training'}, as {run.log} tells")
    if programs.call(command, run.log):
        say(f"{run.folder.name}: done")
    elif not programs.stopping:
        say(f"{run.folder.name}: failed: {last_line(run.log)}; see {run.log}")


def watching(runs: list[Run], progress: Progress) -> Callable[[], None]:
    """What tells how much of all steps is trained, of those that are not trained yet."""
    before = {run: share for run in runs if (share := share_done(run.folder)) < 1}

    def watch() -> None:
        new = sum(share_done(run.folder) - share for run, share in before.items())
        progress(min(max(new / max(len(before) - sum(before.values()), 1e-9), 0.0), 1.0))

    return watch


def last_line(log: Path) -> str:
    """Of what a program printed."""
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it printed nothing")


# -- What came out -------------------------------------------------------------------------------------------


def table_rows(runs: list[Run], tables: dict[Path, dict[str, Any]]) -> list[dict[str, str]]:
    """A row for each setting: medians over its seeds, with the lowest and highest."""
    evaluated = all(known(table, RETURNS[0]) for table in tables.values())
    returns, lengths = (RETURNS[0], LENGTHS[0]) if evaluated else (RETURNS[1], LENGTHS[1])
    rows = []
    for setting in dict.fromkeys(run.setting for run in runs):
        mine = [run for run in runs if run.setting == setting]
        found = [tables[run.folder] for run in mine if run.folder in tables]
        curves = [table[returns][np.isfinite(table[returns])] for table in found if known(table, returns)]
        ends = [table[lengths][np.isfinite(table[lengths])][-1] for table in found if known(table, lengths)]
        rows.append(
            dict(setting.values)
            | {
                "runs done": f"{sum(share_done(run.folder) >= 1 for run in mine)} of {len(mine)}",
                "best return": spread([curve.max() for curve in curves]),
                "last return": spread([curve[-1] for curve in curves]),
                "last length": spread(ends, 0),
                "minutes": spread([plot_training.minutes(table)[-1] for table in found]),
            }
        )
    return rows


def known(table: dict[str, Any], column: str) -> bool:
    """Whether a run has a value there yet."""
    return column in table and bool(np.isfinite(table[column]).any())


def spread(values: list[float], digits: int = 1) -> str:
    """Median, and the lowest and highest where there are several; empty for no values."""
    if not values:
        return ""
    low, median, high = (f"{x:.{digits}f}" for x in np.quantile(values, [0, 0.5, 1]))
    return median if len(values) == 1 else f"{median} ({low} to {high})"


def markdown(rows: list[dict[str, str]]) -> str:
    """A table for people."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    shown = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([shown[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *shown[1:]])


def report(runs: list[Run], folder: Path) -> None:
    """Print the table, and write it and the plot."""
    tables: dict[Path, dict[str, Any]] = {}
    for run in runs:
        try:
            tables[run.folder] = plot_training.read(run.folder)
        except ValueError:  # nothing of it is there
            continue
    if not tables:
        return
    rows = table_rows(runs, tables)
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(folder / "table.csv", buffer.getvalue().encode())
    print(markdown(rows))
    written = [folder / "table.csv"]
    if importlib.util.find_spec("matplotlib") is None:
        print("no plot without matplotlib: pip install matplotlib, and repeat the command")
    elif (picture := plot(runs, tables)) is not None:
        write_atomic(folder / "curves.png", picture)
        written.append(folder / "curves.png")
    print(f"wrote {' and '.join(map(str, written))}; settings side by side: tensorboard --logdir runs, tab HParams")


def plot(runs: list[Run], tables: dict[Path, dict[str, Any]]) -> bytes | None:
    """The learning curves, a colour a setting, as PNG; None if there are none yet."""
    column = next((name for name in RETURNS if any(known(table, name) for table in tables.values())), None)
    shown = {folder: table for folder, table in tables.items() if column is not None and known(table, column)}
    if not shown:
        return None
    titles = {plot_training.name_of(run.folder): run.setting.title or run.sweep for run in runs}
    figure = plot_training.draw(
        shown,
        plot_training.Args(
            list(shown),
            curve="evaluation" if column == RETURNS[0] else "training",
            titles=tuple(f"{name}={title}" for name, title in titles.items()),
        ),
    )
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    return content.getvalue()


@program
def main(argv: list[str] | None = None) -> int:
    """Train, tabulate, plot, and return the exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    at = argv.index("--") if "--" in argv else len(argv)
    own, common = argv[:at], argv[at + 1 :]
    try:
        args = parse(Args, own, __doc__)
    except SettingsError as error:
        hint = "" if at < len(argv) else "; options of training stand after --"
        raise SettingsError(f"{error}{hint}") from None
    runs = planned(args, common)
    for run in runs:
        check(run, common)
    jobs = min(args.jobs or usable_cpus(), len(runs))
    shares = {run: share_done(run.folder) for run in runs} if args.dry_run else {}
    for run, share in shares.items():
        print(f"{run.folder}  {share:.0%}")
    if args.dry_run:
        return 0
    if not any(word.startswith("--num-threads") for word in common):
        common = [*common, f"--num-threads={max(usable_cpus() // jobs, 1)}"]
    folder = Path("runs") / args.name
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_run_dir(folder, "sweeping")
    try:
        programs = Programs(jobs)
        say(f"{len(runs)} runs, {jobs} at a time")
        with closing(Progress(f"{len(runs)} runs")) as progress:
            status = programs.all([partial(train, run, common, programs) for run in runs], watching(runs, progress))
        if status != 130:
            report(runs, folder)
    finally:
        if lock is not None:
            os.close(lock)
    return status


if __name__ == "__main__":
    sys.exit(main())
