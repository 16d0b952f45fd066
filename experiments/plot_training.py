"""Plot learning curves from runs' progress.csv: every run as a thin line, the median of each group as a thick one.

    python experiments/plot_training.py runs/a runs/b --out curves.png
    python experiments/plot_training.py runs/a runs/b --against time --out curves.svg
    python experiments/plot_training.py results/flat_*.csv results/perlin_*.csv --out docs/images/learning_curves.png

Runs that differ only in seed and time of start are one group: flat_0, flat_1 and flat_2_20250101-120000 are "flat".
The median is drawn as far as all runs of the group go.  Needs the extra "plots".
"""

from __future__ import annotations

import csv
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Okabe and Ito's palette: told apart by colour-blind readers too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
PANELS = (
    ("eval/return_mean", "charts/episodic_return", "return of an episode"),
    ("eval/length_mean", "charts/episodic_length", "length of an episode (steps of 2 ms)"),
)


@dataclass
class Args:
    """Plot learning curves."""

    runs: Annotated[list[Path], tyro.conf.Positional]
    """Run folders, or progress.csv files under any name."""
    out: Path = Path("training.png")
    """Picture to write: .png or .svg."""
    curve: Literal["evaluation", "training"] = "evaluation"
    """Deterministic policy on unseen episodes, or the exploring policy's last 100 episodes."""
    against: Literal["steps", "time"] = "steps"
    """Environment steps, or minutes of simulating, inferring, learning and evaluating."""


def read(path: Path) -> dict[str, Floats]:
    """Columns of a progress.csv; missing values are NaN.

    Raises:
        ValueError: the file is missing or is not a progress.csv.
    """
    file = path / "progress.csv" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{file} does not exist: give run folders or progress.csv files")
    try:
        with open(file, newline="") as handle:
            rows = list(csv.DictReader(handle))
        if not rows or "global_step" not in rows[0]:
            raise ValueError("no column global_step")
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{file} is not a progress.csv ({error})") from error


def group_of(path: Path) -> str:
    """What runs of several seeds have in common: the name (of the folder, for its progress.csv) up to seed and time."""
    path = path.resolve()
    name = path.parent.name if path.name == "progress.csv" else path.name.removesuffix(".csv")
    return re.sub(r"(_\d+)?(_\d{8}-\d{6})?$", "", name) or name  # as ppo_ballbot.py names its runs


def median(curves: list[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Steps and median of curves (steps, values), at every step that one of them knows and all of them reach."""
    steps = np.unique(np.concatenate([steps for steps, _ in curves]))
    common = (steps >= max(c[0][0] for c in curves)) & (steps <= min(c[0][-1] for c in curves))
    return steps[common], np.median([np.interp(steps[common], *c) for c in curves], axis=0)


def minutes(table: dict[str, Floats]) -> Floats:
    """Wall-clock at each row: the sum of the logged parts of every update; it survives stops and resumptions."""
    parts = [table[f"time/{name}"] for name in ("simulate", "infer", "learn", "evaluate") if f"time/{name}" in table]
    if not parts:
        raise ValueError("no columns time/...: use --against steps")
    return np.cumsum(np.sum(np.nan_to_num(parts), axis=0)) / 60


def draw(runs: dict[Path, dict[str, Floats]], curve: str, against: str = "steps") -> Any:
    """The figure: return and length against steps or minutes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(10, 3.8), constrained_layout=True)
    groups = list(dict.fromkeys(map(group_of, runs)))
    for axis, (evaluation, training, label) in zip(axes, PANELS, strict=True):
        column = evaluation if curve == "evaluation" else training
        for group, colour in zip(groups, COLOURS * (len(groups) // len(COLOURS) + 1), strict=False):
            curves = []
            for path, table in runs.items():
                if group_of(path) == group:
                    if column not in table:
                        raise ValueError(f"{path} has no column {column}: try --curve training")
                    known = np.isfinite(table[column])
                    if not known.any():
                        raise ValueError(f"{path} has nothing in column {column} yet: try --curve training")
                    place = table["global_step"] / 1e6 if against == "steps" else minutes(table)
                    curves.append((place[known], table[column][known]))
                    axis.plot(*curves[-1], color=colour, alpha=0.35, linewidth=1)
            runs_of_it = f"{len(curves)} run{'s' * (len(curves) > 1)}"
            axis.plot(*median(curves), color=colour, linewidth=2.2, label=f"{group} ({runs_of_it})")
        xlabel = "environment steps (millions)" if against == "steps" else "minutes"
        axis.set(xlabel=xlabel, ylabel=label, xlim=(0, None), ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, loc="lower right")
    return figure


def main() -> None:
    """Read, draw, save."""
    args = tyro.cli(Args, description=__doc__)
    try:
        figure = draw({path: read(path) for path in args.runs}, args.curve, args.against)
    except ImportError:
        raise SystemExit("error: plots need matplotlib: pip install 'ballbot[plots]'") from None
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(args.out, dpi=130)
    except (OSError, ValueError) as error:
        print(
            f"error: cannot write --out {args.out} ({error}): give a .png or .svg in a folder you may write",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
