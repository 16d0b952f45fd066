"""Plot learning curves of runs: each one as a thin line; the median of each group, and its spread, over them.

    python experiments/plot_training.py runs/a runs/b --out curves.png
    python experiments/plot_training.py runs/* --against time --out curves.svg
    python experiments/plot_training.py runs/a --columns losses/approx_kl policy/std
    python experiments/plot_training.py results/default_*.csv results/blind_*.csv --out curves.png

Reads progress.csv, or TensorBoard's event files where there is none (stable-baselines3 and CleanRL write such).  Runs
whose config.json differs in nothing but the seed are one group, named after what sets it apart; files without a
config.json are grouped by name: flat_0, flat_seed1 and flat_2_20250101-120000 are "flat".  The median is drawn as far
as all runs of the group go.  Needs the extra "plots".
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from ballbot.cli import check_output, program
from ballbot.errors import SettingsError
from ballbot.evaluation.report import COLOURS
from ballbot.parsing import parse
from ballbot.ppo.checkpoint import write_atomic
from ballbot.runs import read_config

Floats = NDArray[np.float64]

PANELS = (
    ("eval/return_mean", "charts/episodic_return", "return of an episode"),
    ("eval/length_mean", "charts/episodic_length", "length of an episode (steps of 2 ms)"),
)
OTHERS = {
    "eval/return_mean": ("eval/mean_reward",),
    "eval/length_mean": ("eval/mean_ep_length",),
    "charts/episodic_return": ("rollout/ep_rew_mean",),
    "charts/episodic_length": ("rollout/ep_len_mean",),
}
"""What stable-baselines3 calls the same; CleanRL calls them as we do."""
NO_DIFFERENCE = ("ppo.seed", "env.num_threads", "ppo.torch_threads", "torch_threads")
"""Settings that may differ within a group."""
MOST_NAMES = 3
"""Of a group that are listed."""
LONGEST = 48
"""Characters of a group's name."""
BESIDE = 4
"""Groups whose names fit into the plot; those of more are below it."""
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)))
"""Of the medians: those drawn first show through the gaps of later ones."""


@dataclass
class Args:
    """Plot learning curves."""

    runs: Annotated[list[Path], tyro.conf.Positional]
    """Run folders, or progress.csv files under any name."""
    out: Path = Path("training.png")
    """Picture to write: .png, .svg or .pdf."""
    curve: Literal["evaluation", "training"] = "evaluation"
    """Evaluations on unseen terrains, or the training's own episodes (with exploration noise)."""
    columns: tuple[str, ...] = ()
    """Columns of progress.csv to plot instead of return and length."""
    against: Literal["steps", "time"] = "steps"
    """Environment steps, or minutes of simulating, inferring, learning and evaluating."""
    log: bool = False
    """Logarithmic values."""
    bottom: float = 0.0
    """Where the axis of the return begins, if nothing lies below 0."""
    titles: tuple[str, ...] = ()
    """What to call groups instead of their names: "flat=on flat ground"."""


def read(path: Path) -> dict[str, Floats]:
    """Columns of a progress.csv, or scalars of event files; missing values are NaN.

    Raises:
        ValueError: there is neither, or the file is not a progress.csv.
    """
    if path.is_dir() and not (path / "progress.csv").is_file():
        return read_events(path)
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


def read_events(folder: Path) -> dict[str, Floats]:
    """Scalars of TensorBoard's event files in a folder, one row a step, and the wall-clock.

    Raises:
        ValueError: there are none.
    """
    if not list(folder.glob("events.out.tfevents.*")):
        raise ValueError(f"{folder} holds neither progress.csv nor event files: give run folders")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    names = events.Tags()["scalars"]
    found = {name: events.Scalars(name) for name in names}
    steps = np.unique([e.step for scalars in found.values() for e in scalars])
    if not len(steps):
        raise ValueError(f"{folder} holds no scalars in its event files: give run folders")
    table = {name: np.full(len(steps), np.nan) for name in names}
    clock = np.full(len(steps), np.nan)
    for name, scalars in found.items():
        rows = np.searchsorted(steps, [e.step for e in scalars])
        table[name][rows] = [e.value for e in scalars]
        clock[rows] = [e.wall_time for e in scalars]
    for ours, theirs in OTHERS.items():
        for other in theirs:
            if ours not in table and other in table:
                table[ours] = table[other]
    return {**table, "global_step": steps.astype(np.float64), "wall_time": clock - np.nanmin(clock)}


def settings_of(path: Path) -> dict[str, Any] | None:
    """The settings in a run's config.json by dotted name, without those that make no group; None if there is none."""
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and path.name != "progress.csv":
        return None
    try:
        content = read_config(folder / "config.json")
    except SettingsError:
        return None
    sections = {k: v for k, v in content.items() if k in ("ppo", "env") and isinstance(v, dict)}
    flat = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
    flat["ppo.seed"] = flat.get("ppo.seed")
    return {key: value for key, value in flat.items() if key not in NO_DIFFERENCE}


def name_of(path: Path) -> str:
    """What runs of several seeds have in common: the name (of the folder, for its progress.csv) up to seed and time."""
    path = path.resolve()
    name = path.parent.name if path.name == "progress.csv" else path.name.removesuffix(".csv")
    return re.sub(r"([_-]seed[_=-]?\d+|_\d+)?(_\d{8}-\d{6})?$", "", name) or name  # as ppo_ballbot.py names its runs


def groups_of(paths: list[Path]) -> dict[str, list[Path]]:
    """Runs by the name of their group.

    Runs with settings go together if those are equal; groups of one name get what sets them apart behind it.
    """
    settings = {path: settings_of(path) for path in paths}
    members: dict[tuple[str, str], list[Path]] = {}
    for path in paths:
        known = settings[path]
        alike = next(
            (key for key, others in members.items() if known is not None and settings[others[0]] == known), None
        )
        key = alike or (name_of(path), "" if known is None else json.dumps(known, sort_keys=True, default=str))
        members.setdefault(key, []).append(path)
    groups: dict[str, list[Path]] = {}
    for (name, _), runs in members.items():
        rivals = [settings[others[0]] or {} for (other, _), others in members.items() if other == name]
        mine = settings[runs[0]] or {}
        apart = [key for key in mine if any(rival.get(key) != mine[key] for rival in rivals)]
        names = list(dict.fromkeys(map(name_of, runs)))
        told = ", ".join(names) if len(names) <= MOST_NAMES else f"{names[0]} and {len(names) - 1} more"
        label = capped(" ".join([told, *(f"{key.split('.')[-1]}={mine[key]}" for key in apart)]))
        while label in groups and groups[label] != runs:  # what was cut off set them apart
            label += "'"
        groups.setdefault(label, []).extend(runs)
    return groups


def capped(label: str) -> str:
    """The label, or what is left of it without its middle."""
    half = LONGEST // 2
    return label if len(label) <= LONGEST else f"{label[: half - 2]}...{label[1 - half :]}"


def spread(curves: list[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Steps, and (lowest, median, highest) of curves (steps, values), where one of them knows and all of them reach."""
    steps = np.unique(np.concatenate([steps for steps, _ in curves]))
    common = (steps >= max(c[0][0] for c in curves)) & (steps <= min(c[0][-1] for c in curves))
    values = [np.interp(steps[common], *c) for c in curves]
    return steps[common], np.quantile(values, [0, 0.5, 1], axis=0)


def minutes(table: dict[str, Floats]) -> Floats:
    """Wall-clock at each row: the sum of the logged parts of every update; it survives stops and resumptions."""
    names = ("simulate", "infer", "learn", "evaluate", "film")
    parts = [table[f"time/{name}"] for name in names if f"time/{name}" in table]
    if parts:
        return np.cumsum(np.sum(np.nan_to_num(parts), axis=0)) / 60
    if "wall_time" in table:
        return table["wall_time"] / 60
    raise ValueError("no columns time/...: use --against steps")


def draw(runs: dict[Path, dict[str, Floats]], args: Args) -> Any:
    """The figure: return and length, or other columns, against steps or minutes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    titles = {name: title for name, _, title in (text.partition("=") for text in args.titles)}
    chosen = [(column, column) for column in args.columns]
    if not chosen:
        chosen = [(panel[0] if args.curve == "evaluation" else panel[1], panel[2]) for panel in PANELS]
    across = min(len(chosen), 3 if len(chosen) > 2 else 2)
    down = -(-len(chosen) // across)
    figure, axes = plt.subplots(down, across, figsize=(5 * across, 3.8 * down), layout="constrained", squeeze=False)
    groups = groups_of(list(runs))
    for axis in axes.flat[len(chosen) :]:
        axis.remove()
    for axis, (column, label) in zip(axes.flat, chosen, strict=False):
        lowest = 0.0
        for k, (group, paths) in enumerate(groups.items()):
            colour = COLOURS[k % len(COLOURS)]
            curves = [curve_of(path, runs[path], column, args) for path in paths]
            for curve in curves:
                axis.plot(*curve, color=colour, alpha=0.35, linewidth=1, zorder=2)
                lowest = min(lowest, float(curve[1].min()))
            count = f"{len(curves)} run{'s' * (len(curves) > 1)}"
            steps, (low, median, high) = spread(curves)
            axis.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0, zorder=1)
            named, dashes = f"{titles.get(group, group)} ({count})", DASHES[k % len(DASHES)]
            axis.plot(steps, median, color=colour, linewidth=2.2, linestyle=dashes, label=named, zorder=3)
        xlabel = "environment steps (millions)" if args.against == "steps" else "minutes"
        what = f"evaluation: {label}" if args.curve == "evaluation" and not args.columns else label
        axis.set(xlabel=xlabel, ylabel=what, xlim=(0, None))
        if args.log:
            axis.set_yscale("log")
        elif not args.columns and lowest >= 0:
            bottom = args.bottom if label == PANELS[0][2] else 0
            axis.set_ylim(bottom, bottom + 1.05 * (axis.dataLim.y1 - bottom) if axis.dataLim.y1 > bottom else None)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    if len(groups) <= BESIDE:
        axes[0, 0].legend(frameon=False)
    else:
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=across, frameon=False)
    return figure


def curve_of(path: Path, table: dict[str, Floats], column: str, args: Args) -> tuple[Floats, Floats]:
    """Steps in millions, or minutes, and values of one run.

    Raises:
        ValueError: the run has no such values.
    """
    early = "no evaluation has come yet? " if args.curve == "evaluation" else ""
    remedy = f"{early}try --curve {other(args.curve)}" if not args.columns else f"it has {', '.join(table)}"
    if column not in table:
        raise ValueError(f"{path} has no column {column}: {remedy}")
    known = np.isfinite(table[column])
    if not known.any():
        raise ValueError(f"{path} has nothing in column {column} yet: {remedy}")
    place = table["global_step"] / 1e6 if args.against == "steps" else minutes(table)
    return place[known], table[column][known]


def other(curve: str) -> str:
    """The other kind of curve."""
    return "training" if curve == "evaluation" else "evaluation"


@program
def main(argv: list[str] | None = None) -> int:
    """Read, draw, save."""
    args = parse(Args, argv, __doc__)
    if not args.runs:
        raise ValueError("name what is to be plotted: run folders, such as runs/NAME, or their progress.csv")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    check_output(args.out, "--out", (".png", ".svg", ".pdf"), keep=args.runs)
    unique = {path.resolve().parent if path.name == "progress.csv" else path.resolve(): path for path in args.runs}
    figure = draw({path: read(path) for path in unique.values()}, args)
    content = io.BytesIO()
    figure.savefig(content, format=args.out.suffix[1:], dpi=130)
    write_atomic(args.out, content.getvalue())
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
