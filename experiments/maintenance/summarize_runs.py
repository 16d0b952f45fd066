"""Tabulate evaluations of finished runs: when each reached a return and a length, and whether it stayed there.

    python experiments/maintenance/summarize_runs.py results/default_*.csv --return-target 85.5 --length-target 3950
    python experiments/maintenance/summarize_runs.py runs/flat_0 --save results   # keeps a small copy

Prints a Markdown table, one row a run; exits with 1 if a run never reached both targets in one evaluation.  Wall-clock
is the sum of the logged parts of every update (simulate, infer, learn, evaluate); it survives stops and resumptions.
"""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from shared import TARGET_LENGTH

from ballbot.cli import check_output, program
from ballbot.parsing import parse
from ballbot.ppo.checkpoint import write_atomic


@dataclass
class Args:
    """Tabulate evaluations of finished runs."""

    runs: Annotated[list[Path], tyro.conf.Positional]
    """Run folders, or progress.csv files under any name."""
    return_target: float = 88.0
    """Mean return of an evaluation that counts as reached."""
    length_target: float = TARGET_LENGTH
    """Mean length, steps, that counts as reached in the same evaluation."""
    save: Path | None = None
    """Folder for small copies of the curves: the columns that figures and tables need, five significant digits."""


KEPT = ("global_step", "charts/", "eval/", "time/", "policy/std", "losses/approx_kl", "losses/explained_variance")


@dataclass
class Evaluation:
    """One evaluation in a run."""

    step: int
    minutes: float
    mean_return: float
    length: float


def read(path: Path) -> list[Evaluation]:
    """The evaluations in a progress.csv.

    Raises:
        ValueError: the file is missing or holds no evaluation.
    """
    file = path / "progress.csv" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{file} does not exist: give run folders or progress.csv files")
    evaluations, seconds = [], 0.0
    try:
        with open(file, newline="") as handle:
            for row in csv.DictReader(handle):
                parts = ("simulate", "infer", "learn", "evaluate", "film")
                seconds += sum(float(row.get(f"time/{part}") or 0) for part in parts)
                if row.get("eval/return_mean"):
                    mean_return, length = float(row["eval/return_mean"]), float(row["eval/length_mean"])
                    evaluations.append(Evaluation(int(row["global_step"]), seconds / 60, mean_return, length))
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{file} is not a progress.csv ({type(error).__name__}: {error})") from error
    if not evaluations:
        raise ValueError(f"{file} holds no evaluation (column eval/return_mean)")
    return evaluations


def source(path: Path) -> tuple[Path, str]:
    """The progress.csv of a run, and the run's name."""
    path = path.resolve()
    if path.is_dir():
        return path / "progress.csv", path.name
    return path, path.parent.name if path.name == "progress.csv" else path.stem


def save_small(path: Path, folder: Path, name: str = "") -> None:
    """Write folder/<name>.csv with the KEPT columns of a run's progress.csv; its own name if none is given."""
    file, own = source(path)
    with open(file, newline="") as handle:
        rows = list(csv.DictReader(handle))
    columns = [column for column in rows[0] if column.startswith(KEPT)]
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([row["global_step"], *(row[c] and f"{float(row[c]):.5g}" for c in columns[1:])])
    write_atomic(folder / f"{name or own}.csv", buffer.getvalue().encode())


def check_save(paths: list[Path], folder: Path) -> None:
    """Make the folder; ValueError if that fails, or if copies would overwrite runs or each other."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--save {folder} cannot be made ({error.strerror}): give another folder") from error
    names: dict[str, Path] = {}
    for path in paths:
        file, name = source(path)
        check_output(folder / f"{name}.csv", "--save", keep=[file])
        if name in names:
            raise ValueError(f"--save: {names[name]} and {path} are both called {name}: save them apart")
        names[name] = path


@program
def main(argv: list[str] | None = None) -> int:
    """Read, print, save."""
    args = parse(Args, argv, __doc__)
    runs = {path: read(path) for path in args.runs}
    if args.save is not None:
        check_save(list(runs), args.save)
        for path in runs:
            save_small(path, args.save)
    goal = f"return ≥ {args.return_target:g} and length ≥ {args.length_target:g}"
    after = "from there on: lowest, median, highest return; lowest length"
    print(f"| run | first evaluation with {goal} | {after} | best | last |")
    print("|---|---|---|---|---|")
    missed = False
    for path, evaluations in runs.items():
        best = max(evaluations, key=lambda e: e.mean_return)
        reached = [
            i
            for i, e in enumerate(evaluations)
            if e.mean_return >= args.return_target and e.length >= args.length_target
        ]
        missed |= not reached
        first, stayed = "never", "-"
        if reached:
            start = evaluations[reached[0]]
            first = (
                f"{start.step / 1e6:.2f}M steps, {start.minutes:.1f} min: {start.mean_return:.1f}, {start.length:.0f}"
            )
            returns = sorted(e.mean_return for e in evaluations[reached[0] :])
            shortest = min(e.length for e in evaluations[reached[0] :])
            stayed = f"{returns[0]:.1f}, {returns[len(returns) // 2]:.1f}, {returns[-1]:.1f}; {shortest:.0f}"
        last = evaluations[-1]
        print(
            f"| {source(path)[1]} | {first} | {stayed} "
            f"| {best.mean_return:.1f} at {best.step / 1e6:.2f}M "
            f"| {last.mean_return:.1f}, {last.length:.0f} at {last.step / 1e6:.2f}M, {last.minutes:.1f} min |"
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
