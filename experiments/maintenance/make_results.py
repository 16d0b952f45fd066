"""Make the tables and figures of docs/results.md from the curves and evaluations in results/.

    python experiments/maintenance/make_results.py              # rewrites what lies between the marks of the page
    python experiments/maintenance/make_results.py --check      # exits with 1 if the page says something else

``reproduce.py`` makes the curves and evaluations.  Studies without any are left out.  The table of docs/reliability.md
comes from results/reliability.csv, which ``make torture`` writes.
"""

from __future__ import annotations

import csv
import io
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compare_sb3
import measure_fits
import measure_robots
import race
from gym_tasks import SEEDS, TASKS
from reproduce import first_run, read_rows
from shared import EXPERIMENTS, PUBLISHED, TARGET_LENGTH, TARGET_RETURN, CheckoutPath, read_table
from studies import GROUNDS, HORIZONS, STUDIES, TO_CROSS
from summarize_runs import Evaluation, read

from ballbot.cli import program
from ballbot.identification import AXES_BY_DEFAULT, LATENCY
from ballbot.parsing import parse
from ballbot.ppo.checkpoint import write_atomic

sys.path.append(str(EXPERIMENTS))
import plot_training

DOCS = EXPERIMENTS.parent / "docs"
FIGURES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "learning_curves.png": (("default", "blind", "plain", "paper"), ("--bottom", "0")),
    "contact_fix.png": (("plain_blind", "unfixed"), ("--bottom", "0")),
    "ablations.png": (("plain", "plain_blind", "untrained_encoder", "rk4"), ("--bottom", "70")),
}
"""Learning curves: file in docs/images -> studies to compare, options of plot_training.py."""
EACH_SEED = ("shipped", "shipped_blind", "default", "blind", "gru", "distill", "plain", "paper")
"""Studies of whose seeds each has its lines in a table of the page."""

Row = dict[str, str]


@dataclass
class Args:
    """Make the tables and figures of docs/results.md."""

    results: CheckoutPath = PUBLISHED
    """Folder of the curves and evaluations."""
    page: CheckoutPath = DOCS / "results.md"
    """Page to rewrite."""
    check: bool = False
    """Write nothing, only compare the tables."""


class Results:
    """The curves and evaluations in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = read_rows(folder / "evaluations.csv")

    def curves(self, study: str) -> dict[int, Path]:
        """Seed -> file, of the runs that were kept."""
        ends = {path.stem.removeprefix(f"{study}_"): path for path in self.folder.glob(f"{study}_*.csv")}
        return {int(end): ends[end] for end in sorted(filter(str.isdecimal, ends), key=int)}

    def row(self, run: str, policy: str, horizon: int = 4000) -> Row | None:
        """One evaluation, if it took place; with the headings that the run was trained with."""
        heading = "world" if run.startswith("paper_") else "any"
        wanted = {"run": run, "policy": policy, "horizon": str(horizon), "heading": heading}
        return next((row for row in self.rows if wanted.items() <= row.items()), None)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(row: Row, name: str) -> str:
    """A rate with its interval."""
    low, high = (100 * float(x) for x in row[f"{name}_ci95"].split())
    return f"{100 * float(row[name]):.0f} % [{low:.0f}, {high:.0f}]"


def mean(row: Row, name: str, digits: int) -> str:
    """A mean with its interval."""
    low, high = (f"{float(x):.{digits}f}" for x in row[f"{name}_ci95"].split())
    return f"{float(row[f'{name}_mean']):.{digits}f} [{low}, {high}]"


def judged(row: Row | None) -> list[str]:
    """Cells of an evaluation: return, length, success, speed."""
    if row is None:
        return ["not judged", "", "", ""]
    length = f"{float(row['length_mean']):.0f}"
    return [mean(row, "return", 1), length, percent(row, "success_rate"), mean(row, "speed_along_goal", 2)]


JUDGED_HEAD = ["return", "length", "success", "m/s along the goal"]
MEDIANS = {
    "return_mean": "{:.1f}", "length_mean": "{:.0f}", "success_rate": "{:.0%}", "speed_along_goal_mean": "{:.2f}",
}  # fmt: skip


def median_cells(rows: list[Row]) -> list[str]:
    """Cells of several evaluations: medians of return, length, success, speed."""
    if not rows:
        return ["not judged", "", "", ""]
    middle = {name: statistics.median(float(row[name]) for row in rows) for name in MEDIANS}
    return [form.format(middle[name]).replace("%", " %") for name, form in MEDIANS.items()]


ROAD_COLUMNS = {
    "success_rate": ("arrives", "{:.1%}"),
    "ending_off_road_rate": ("leaves the road", "{:.1%}"),
    "failure_rate": ("falls or leaves it", "{:.1%}"),
    "measure_travelled_mean": ("m along the goal", "{:.2f}"),
    "speed_along_goal_mean": ("m/s along the goal", "{:.2f}"),
}
"""Columns of evaluations, what the page calls them, and how they are written."""


def crossing_table(results: Results, task: str) -> str:
    """Who crosses a task's ground: controllers, and of what is learned the last policies, the median and all seeds."""
    driven = [row for row in results.rows if row["run"] == f"{task}_controllers"]
    found = {re.sub(":(.*)", r", \1 m/s", row["policy"]): [row] for row in driven}
    for study in (name for name in STUDIES if name.startswith(f"{task}_")):
        for what, name in (
            (STUDIES[study].what, study),
            (f"{STUDIES[study].what}, by the images of another robot", f"{study}_shuffled"),
        ):
            runs = [results.row(f"{name}_{seed}", "last") for seed in STUDIES[study].seeds]
            if rows := [row for row in runs if row is not None]:
                found[what.removeprefix(f"{task}, ")] = rows
    lines = [[what, str(len(rows)), *spread_cells(rows, ROAD_COLUMNS)] for what, rows in found.items()]
    return table(["who", "seeds", *(title for title, _ in ROAD_COLUMNS.values())], lines)


MIXED_COLUMNS = {
    "success_rate": ("arrives", "{:.1%}"),
    "failure_rate": ("falls or leaves the road", "{:.1%}"),
    "speed_along_goal_mean": ("m/s along the goal", "{:.2f}"),
    "return_mean": ("return", "{:.1f}"),
}


def mixed_table(results: Results) -> str:
    """Who crosses grounds of all kinds, on each of them, beside who learned that ground alone."""
    lines = []
    for ground in GROUNDS:
        special = "default" if ground == "perlin" else f"{ground}_finds"
        for study, name in (("mixed_crosses", f"mixed_crosses_on_{ground}"), (special, special)):
            runs = [results.row(f"{name}_{seed}", "last") for seed in STUDIES[study].seeds]
            if rows := [row for row in runs if row is not None]:
                who = "that ground alone" if study == special else "all grounds"
                lines.append([ground, who, str(len(rows)), *spread_cells(rows, MIXED_COLUMNS)])
    return table(["judged on", "learned on", "seeds", *(title for title, _ in MIXED_COLUMNS.values())], lines)


def perlin_table(results: Results) -> str:
    """What eyes are worth on gentle ground: who foresees slopes, with cameras, others' images, and without."""
    blind = "perlin_foresees_blind"
    names = {
        "perlin_foresees": STUDIES["perlin_foresees"].what,
        "perlin_foresees_shuffled": f"{STUDIES['perlin_foresees'].what}, by the images of another robot",
        blind: STUDIES[blind].what,
        **{name: STUDIES[name].what for name in ("distill", "default", "blind")},
    }
    lines = []
    for name, what in names.items():
        seeds = STUDIES[name.removesuffix("_shuffled")].seeds
        rows = [row for seed in seeds if (row := results.row(f"{name}_{seed}", "last")) is not None]
        if rows:
            lines.append([what.removeprefix("perlin, "), str(len(rows)), *spread_cells(rows, MIXED_COLUMNS)])
    titles = [title for title, _ in MIXED_COLUMNS.values()]
    return table(["who", "seeds", "stands", "falls", *titles[2:]], lines)


def spread_cells(rows: list[Row], columns: dict[str, tuple[str, str]]) -> list[str]:
    """Cells of several evaluations, the median and all of them; of one, what it says."""
    cells = []
    for column, (_, form) in columns.items():
        values = sorted(float(row[column]) for row in rows if row[column])
        if not values:
            cells.append("")
            continue
        low, middle, high = (form.format(x) for x in (values[0], statistics.median(values), values[-1]))
        cells.append((middle if len(rows) == 1 else f"{middle} ({low} to {high})").replace("%", " %"))
    return cells


def reached(evaluations: list[Evaluation]) -> str:
    """When an evaluation first met both targets."""
    for e in evaluations:
        if e.mean_return >= TARGET_RETURN and e.length >= TARGET_LENGTH:
            return f"{e.step / 1e6:.2f}M, {e.minutes:.1f} min"
    return "never"


def seeds_table(results: Results, study: str) -> str:
    """Every seed of a study: its evaluations in training, and what its best and its last policy are worth."""
    head = ["seed", f"{TARGET_RETURN:g} reached", "best in training", "minutes", "policy", *JUDGED_HEAD]
    lines: list[list[str]] = []
    returns, durations, rows = [], [], []
    for seed, path in results.curves(study).items():
        evaluations = read(path)
        best = max(evaluations, key=lambda e: e.mean_return)
        minutes = evaluations[-1].minutes
        first = [str(seed), reached(evaluations), f"{best.mean_return:.1f} at {best.step / 1e6:.2f}M", f"{minutes:.0f}"]
        for policy in ("best", "last"):
            row = results.row(f"{study}_{seed}", policy)
            lines.append([*first, policy, *judged(row)])
            first = [""] * len(first)
            if policy == "best" and row is not None:
                rows.append(row)
        returns.append(best.mean_return)
        durations.append(minutes)
    if len(returns) > 1:
        median = ["median", "", f"{statistics.median(returns):.1f}", f"{statistics.median(durations):.0f}", "best"]
        lines.append([*median, *median_cells(rows)])
    return table(head, lines)


ABLATION_SEEDS = range(3)
"""Those that every study without memory has."""


def studies_table(results: Results, studies: list[str]) -> str:
    """Several studies, the median over the same seeds each: in training, and the last policy judged."""
    head = ["training", "seeds", "best in training", "last in training", "its length", *JUDGED_HEAD]
    lines = []
    for study in studies:
        seeds = [seed for seed in results.curves(study) if seed in ABLATION_SEEDS]
        curves = [read(results.curves(study)[seed]) for seed in seeds]
        if not curves:
            continue
        best = statistics.median(max(e.mean_return for e in curve) for curve in curves)
        last = statistics.median(curve[-1].mean_return for curve in curves)
        length = statistics.median(curve[-1].length for curve in curves)
        rows = [row for seed in seeds if (row := results.row(f"{study}_{seed}", "last")) is not None]
        cells = median_cells(rows)
        count = str(len(curves))
        lines.append([STUDIES[study].what, count, f"{best:.1f}", f"{last:.1f}", f"{length:.0f}", *cells])
    return table(head, lines)


def frontier_rows(results: Results) -> list[tuple[str, Row]]:
    """What was judged, at several speeds."""
    found = []
    for study in ("shipped", "shipped_blind", "default", "blind", "plain"):
        first = first_run(study)
        if (row := results.row(first.name, "best")) is not None:
            found.append((f"{STUDIES[study].what}, seed {first.seed}", row))
    for row in results.rows:
        if row["run"] == "controllers":
            name, _, speed = row["policy"].partition(":")
            found.append((f"{name} controller, {speed} m/s" if speed else f"{name} controller", row))
    return found


def frontier_table(results: Results) -> str:
    """How fast, and how safe."""
    return table(["policy", *JUDGED_HEAD], [[name, *judged(row)] for name, row in frontier_rows(results)])


def horizons_table(results: Results) -> str:
    """The policy that comes along, for longer."""
    lines = []
    first = first_run("shipped").name
    for horizon in (4000, *HORIZONS):
        if (row := results.row(first, "best", horizon)) is not None:
            share = float(row["return_mean"]) * 4000 / horizon
            ground = f"{float(row['terrain_length']):g} m"
            lines.append([f"{horizon:,}", ground, f"{share:.1f}", *judged(row)])
    return table(["steps", "ground", "return per 4000 steps", *JUDGED_HEAD], lines)


def comparison_table(path: Path) -> str:
    """What compare_sb3.py found: medians over seeds; and beneath, of which tasks there is nothing yet."""
    rows = compare_sb3.read_rows(path)
    seeds = {row["seed"] for row in rows}
    lines, missing = [], []
    for name, task in TASKS.items():
        ours, theirs = compare_sb3.returns_of(rows, name, seeds)
        if not ours and not theirs:
            missing.append(name)
            continue
        cells = []
        for side in (ours, theirs):
            of = "" if len(side) > len(SEEDS) else f" of {len(SEEDS)}"
            note = f" ({len(side)}{of} seeds)" if len(side) not in (0, len(SEEDS)) else ""
            cells.append(compare_sb3.in_words(compare_sb3.median_interval(side)) + note)
        cells.append(compare_sb3.in_words(compare_sb3.median_interval(ours, theirs)) if ours and theirs else "")
        recurrent = ", sb3-contrib" if "memory" in task.config else ""
        lines.append([f"{name}{recurrent} ({task.config['total_timesteps']:,})", *cells])
    found = table(["task (steps)", "ballbot", "stable-baselines3", "difference"], lines)
    return f"{found}\n\nNot run yet: {', '.join(missing)}." if missing else found


def race_table(path: Path) -> str:
    """What race.py found: a line for each learner, with cameras and without."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in sorted(read_table(path, race.COLUMNS), key=lambda row: row["cameras"] == "True"):
        groups.setdefault((row["cameras"], row["learner"], row["hyperparameters"]), []).append(row)
    lines = []
    for (cameras, learner, settings), rows in groups.items():
        times = [race.seconds_of(row) for row in rows]
        last = [f"{statistics.median(float(row[name]) for row in rows):{form}}" for name, form in LAST]
        named = learner + ("" if settings == "ours" else ", its own settings")
        seen = "with" if cameras == "True" else "without"
        lines.append(
            [
                named,
                seen,
                str(len(rows)),
                race.shown(statistics.median_high(times)),
                ", ".join(map(race.shown, times)),
                *last,
            ]
        )
    head = ["learner", "cameras", "seeds", "s to 85.5, median", "each", "after s", "return", "length"]
    return table(head, lines)


LAST = (("seconds", ".0f"), ("return", ".1f"), ("length", ".0f"))
"""Of a race's last policy: name in its file, and how it is shown."""


def sections(results: Results) -> dict[str, str]:
    """Name of a mark in the page -> what goes behind it."""
    found = {}
    for study in EACH_SEED:
        if results.curves(study):
            found[study] = seeds_table(results, study)
    ablations = ["plain", "untrained_encoder", "plain_blind", "rk4", "unfixed"]
    if any(results.curves(study) for study in ablations):
        found["ablations"] = studies_table(results, ablations)
    if frontier_rows(results):
        found["frontier"] = frontier_table(results)
    if (compared := results.folder / "compare_sb3.csv").is_file():
        found["compare_sb3"] = comparison_table(compared)
    if (raced := results.folder / "race.csv").is_file():
        found["race"] = race_table(raced)
    if any(row["horizon"] in map(str, HORIZONS) for row in results.rows):
        found["horizons"] = horizons_table(results)
    return found


FAULTS = {
    "test_kills": "training, collecting and pretraining killed (SIGKILL) at any moment, and gone on with",
    "test_disks": "disks that are full, read-only or slow; folders and files that vanish or are damaged meanwhile",
    "test_hostile_files": "files cut off, with flipped bits, that run code or take memory, or made up by a fuzzer",
    "test_physics": "random and absurd states and actions; other wheels, contacts and colliders",
    "test_contact_fix": "the contact fix undone, replaced, wrong, or missing",
    "test_soak": "steps without end: memory, threads, open files and speed stay",
    "test_determinism": "the same training and the same robots in other threads and processes: the same bits",
    "test_distributed": "two ranks of torchrun: resumed to the same bits, and equal to one up to rounding",
    "test_processes": "several trainings, builds and contact fixes at once; ranks that are killed",
    "test_supply_chain": "the oldest and newest packages allowed; distributions that repeat; known vulnerabilities",
}
"""What the tests of a file try."""


def reliability_table(path: Path) -> str:
    """What ``make torture`` tried, a line for each file of tests.

    A test that finds a loss fails, and then, as when it is skipped, its row in the file says 0 tries.
    """
    tried: dict[str, dict[str, int]] = {}
    with open(path, newline="") as handle:
        for row in csv.DictReader(handle):
            tests = tried.setdefault(row["test"].split("::")[0], {})
            tests[row["test"]] = tests.get(row["test"], 0) + int(row["tried"])
    lines = []
    for file in sorted(tried, key=lambda file: list(FAULTS).index(Path(file).stem)):
        counts = tried[file].values()
        cells = [FAULTS[Path(file).stem], str(len(counts)), f"{sum(counts):,}", str(list(counts).count(0))]
        lines.append([*cells, f"`pytest --torture {file}`"])
    return table(["what is done", "tests", "tries", "skipped or failed", "what repeats it"], lines)


def robots_table(path: Path) -> str:
    """What measure_robots.py found, a line a robot."""
    lines = []
    for row in read_table(path, measure_robots.COLUMNS):
        driven = [
            f"{100 * float(row[f'success_{end}']):.0f} %, {float(row[f'speed_{end}']):.2f}"
            for end in (round(100 * height) for height in measure_robots.HEIGHTS)
        ]
        gear = f"{100 * float(row['gear']):+.1f} %"
        told = f"{100 * float(row['velocity_error']):.1f}", f"{100 * float(row['distance']):.1f}"
        lines.append(
            [row["robot"], row["fall_rate"], row["lean_deg"], row["top_speed"], gear, row["ripple_mm"], *driven, *told]
        )
    heights = [f"{height:g} m" if height else "level" for height in measure_robots.HEIGHTS]
    return table(["robot", "falling", "recovered", "top speed", "gear", "ripple", *heights, "velocity", "place"], lines)


def drawn_robots_table(path: Path) -> str:
    """Of robots drawn at random, how many computed gains hold upright in every episode."""
    rows = read_table(path, measure_robots.DRAWN)

    def span(column: str) -> str:
        values = [float(row[column]) for row in rows]
        return f"{min(values):.2g} to {max(values):.2g}"

    stood = [f"{sum(float(row[ground]) == 1 for row in rows)} of {len(rows)}" for ground in ("level", "uneven")]
    head = ["ball's radius, m", "body, kg", "its height, m", "wheels", "zenith, degrees", "stand, level", "uneven"]
    spans = [span(name) for name in ("ball_radius", "body_mass", "body_height", "wheels", "zenith_deg")]
    return table(head, [[*spans, *stood]])


def fits_table(path: Path) -> str:
    """How far off fits of hidden robots were, a line a robot and number."""
    usual = " ".join(AXES_BY_DEFAULT)
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in read_table(path, measure_fits.COLUMNS, {"true": float, "fitted": float, "error": float, "told": int}):
        besides = row["axes"] != usual
        if not besides or row["number"] not in (*AXES_BY_DEFAULT, LATENCY):
            found.setdefault((row["robot"], f"`{row['number']}`" + ", besides" * besides), []).append(row)
    lines = []
    for (robot, name), rows in found.items():
        unit, scale = ("mm", 1000) if "com_" in name else ("ms", 1) if LATENCY in name else ("%", 100)
        by = [abs(row["true"]) if unit == "%" else 1.0 for row in rows]
        off = [scale * abs(row["fitted"] - row["true"]) / true for row, true in zip(rows, by, strict=True)]
        errors = [scale * row["error"] / true for row, true in zip(rows, by, strict=True)]
        shown = [f"{x:.2g} {unit}" for x in (statistics.median(off), max(off), statistics.median(errors))]
        within = sum(miss <= 2 * error for miss, error in zip(off, errors, strict=True))
        counts = [f"{count} of {len(rows)}" for count in (within, sum(row["told"] for row in rows))]
        lines.append([robot, name, *shown, *counts])
    head = ["robot", "number", "off, median", "at most", "error that is printed", "within two errors", "told"]
    return table(head, lines)


def learned_robots_table(results: Results, path: Path) -> str:
    """What was learned on each robot beside what computed gains do: medians over seeds, of the last policies."""
    lines = []
    for row in read_table(path, measure_robots.COLUMNS):
        study = "blind" if row["robot"] == "reference" else f"robot_{row['robot']}"
        seeds = list(results.curves(study))[:3]
        judged = [found for seed in seeds if (found := results.row(f"{study}_{seed}", "last")) is not None]
        if not judged:
            continue
        minutes = statistics.median(read(results.curves(study)[seed])[-1].minutes for seed in seeds)
        regulated = [
            f"{float(row['return_10']):.1f}",
            f"{100 * float(row['success_10']):.0f} %",
            f"{float(row['speed_10']):.2f}",
        ]
        returns = ", ".join(f"{float(found['return_mean']):.1f}" for found in judged)
        success = statistics.median(float(found["success_rate"]) for found in judged)
        speed = statistics.median(float(found["speed_along_goal_mean"]) for found in judged)
        learned = [returns, f"{100 * success:.0f} %", f"{speed:.2f}", f"{minutes:.0f}"]
        lines.append([row["robot"], *regulated, *learned])
    head = ["robot", "LQR", "success", "m/s", "learned, each seed", "success", "m/s", "minutes"]
    return table(head, lines)


def fill(page: str, found: dict[str, str]) -> str:
    """The page with new tables between its marks.

    Raises:
        ValueError: a table has no mark.
    """
    for name, content in found.items():
        before, mark, rest = page.partition(f"<!-- table: {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not mark or not end:
            raise ValueError(f"the page has no mark <!-- table: {name} --> followed by <!-- end -->")
        page = f"{before}{mark}\n{content}\n\n{end}{after}"
    return page


def draw_frontier(results: Results, path: Path) -> None:
    """Success and return over speed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    ours, plain = (
        [row for seed in results.curves(study) if (row := results.row(f"{study}_{seed}", "last")) is not None]
        for study in ("blind", "plain")
    )
    linear, observer, foresight = (
        [row for name, row in frontier_rows(results) if name.startswith(kind)]
        for kind in ("linear", "observer", "foresight")
    )
    shipped = [row] if (row := results.row(first_run("shipped").name, "best")) is not None else []
    for colour, style, label, rows in (
        ("#0072B2", "o-", "linear controller", linear),
        ("#D55E00", "s-", "controller that remembers", observer),
        ("#E69F00", "D", "controller that is told the slopes", foresight),
        ("#009E73", "^", "from nothing, without cameras", ours),
        ("#CC79A7", "v", "from nothing, without memory", plain),
        ("#000000", "*", "taught, then PPO, by its cameras", shipped),
    ):
        if not rows:
            continue
        rows.sort(key=lambda row: float(row["speed_along_goal_mean"]))
        for axis, column, scale in zip(axes, ("success_rate", "return_mean"), (100, 1), strict=True):
            speed = [float(row["speed_along_goal_mean"]) for row in rows]
            gain = [scale * float(row[column]) for row in rows]
            axis.plot(speed, gain, style, color=colour, label=label)
    for axis, label in zip(axes, ("success, %", "return of an episode"), strict=True):
        axis.set(xlabel="speed along the goal, m/s", ylabel=label, xlim=(0, None))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, loc="lower left")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    write_atomic(path, content.getvalue())


def draw_figures(results: Results, folder: Path) -> list[Path]:
    """Write the figures whose curves are there."""
    folder.mkdir(exist_ok=True)
    made: list[Path] = []
    for name, (studies, options) in FIGURES.items():
        curves = [[str(path) for path in results.curves(study).values()] for study in studies]
        if sum(map(bool, curves)) > 1:
            files = [file for study in curves for file in study]
            titles = ["--titles", *(f"{study}={STUDIES[study].what}" for study in studies)]
            plot_training.main([*files, *options, *titles, "--out", str(folder / name)])
            made.append(folder / name)
    if frontier_rows(results):
        draw_frontier(results, folder / "frontier.png")
        made.append(folder / "frontier.png")
    return made


@program
def main(argv: list[str] | None = None) -> int:
    """Fill the page, draw, and return the exit status."""
    args = parse(Args, argv, __doc__)
    results = Results(args.results)
    pages = {args.page: sections(results)}
    crossed = [task for task in TO_CROSS if any(row["run"].startswith(f"{task}_") for row in results.rows)]
    if crossed:
        tables = {task: crossing_table(results, task) for task in crossed}
        for name, of in (("mixed", mixed_table), ("perlin", perlin_table)):
            if any(row["run"].startswith(f"{name}_") for row in results.rows):
                tables[name] = of(results)
        pages[args.page.with_name("seeing.md")] = tables
    if (robots := args.results / "robots.csv").is_file():
        learned = {"learned_robots": learned_robots_table(results, robots)} if results.rows else {}
        pages[args.page.with_name("robots.md")] = {"robots": robots_table(robots)} | learned
        if (drawn := args.results / "drawn_robots.csv").is_file():
            pages[args.page.with_name("robots.md")]["drawn_robots"] = drawn_robots_table(drawn)
    if (fits := args.results / "fits.csv").is_file():
        pages[args.page.with_name("your_robot.md")] = {"fits": fits_table(fits)}
    if (tried := args.results / "reliability.csv").is_file():
        pages[args.page.with_name("reliability.md")] = {"reliability": reliability_table(tried)}
    for page, found in pages.items():
        old = page.read_text()
        new = fill(old, found)
        if args.check and new != old:
            command = "experiments/maintenance/make_results.py"
            print(f"{page} is not what {args.results} says: run {command}", file=sys.stderr)
            return 1
        if not args.check:
            write_atomic(page, new.encode())
    if not args.check:
        made = [*pages, *draw_figures(results, args.page.parent / "images")]
        print(f"wrote {', '.join(map(str, made))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
