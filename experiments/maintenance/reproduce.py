"""Train and judge again what docs/results.md reports.

    python experiments/maintenance/reproduce.py --dry-run         # the runs, what is done, how long the others take
    python experiments/maintenance/reproduce.py                   # everything that is not done yet: hours
    python experiments/maintenance/reproduce.py --studies default --seeds 5 6
    python experiments/maintenance/reproduce.py --jobs 8          # runs at a time; one core each
    python experiments/maintenance/reproduce.py --results results # publish: only what results/ does not hold yet

A study is a preset or one change of it, trained with several seeds.  Its runs are runs/reproduce_<study>_<seed>.
Ctrl-C stops; the same command goes on where they stopped.  When a run ends, its curve goes to
runs/reproduced/<study>_<seed>.csv, and its best and its last policy, of the studies of the road the last alone, are
judged on terrains that neither training nor any choice has used: a row each in runs/reproduced/evaluations.csv, and a
line that says what this repository's results/evaluations.csv holds.  ``make_results.py --results runs/reproduced``
makes tables and figures.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

from shared import EXPERIMENTS, MACHINE, PUBLISHED, check_names, check_seeds, read_table, write_table
from studies import CLASSICAL, HORIZONS, STUDIES, UNTRAINED, Study, folder_of
from summarize_runs import save_small

from ballbot.cli import check_options, program
from ballbot.cpus import usable_cpus
from ballbot.jobs import Programs, begun, clear, say, share_done
from ballbot.parsing import parse
from ballbot.ppo.run_dir import git_commit, lock_run_dir
from ballbot.runs import differences, load_settings, read_config
from ballbot.settings import Range

LOGS = Path("runs") / "reproduce"
"""What the trainings and evaluations print, and the evaluations' files."""
OF_SOME_TASKS = ("ending_off_road_rate", "measure_travelled_mean")
"""What is kept of an evaluation where the task has it."""
JUDGED = (
    "return_mean", "return_ci95", "length_mean", "success_rate", "success_rate_ci95", "failure_rate",
    "out_of_bounds_rate", "speed_along_goal_mean", "speed_along_goal_ci95", "tilt_max_deg_mean",
    *OF_SOME_TASKS,
)  # fmt: skip
"""What is kept of an evaluation."""
COLUMNS = (
    "run", "policy", "terrain", "horizon", "terrain_length", "heading", "episodes", *JUDGED, "commit", "judged_by",
    "machine", "date",
)  # fmt: skip
"""Of evaluations.csv; "commit" has trained, "judged_by" judged (not recorded in older rows)."""


@dataclass
class Args:
    """Train and judge again what docs/results.md reports."""

    studies: tuple[str, ...] = tuple(STUDIES)
    """Which; all of them if not given."""
    seeds: tuple[int, ...] = ()
    """Only these (default: those of each study in docs/results.md)."""
    jobs: Annotated[int, Range(0, 1024)] = 0
    """Runs at a time (0: as many as CPUs)."""
    dry_run: bool = False
    """Say what would be done, and how long it takes."""
    results: Path = Path("runs") / "reproduced"
    """Folder of the curves and evaluations; what it holds already is not done again."""


def check(args: Args) -> Args:
    """The same options, if they are possible.

    Raises:
        ValueError: the message names the option.
    """
    check_names("--studies", args.studies, STUDIES)
    if not args.studies:
        raise ValueError(f"--studies needs at least one of {', '.join(STUDIES)}")
    check_seeds(args.seeds)
    check_options(args)
    for path in (args.results, *args.results.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"--results {args.results}: {path} is a file; give a folder, such as {Args.results}")
    return args


@dataclass(frozen=True)
class Run:
    """One training, and the evaluation of what it learned."""

    study: str
    seed: int

    @property
    def name(self) -> str:
        """Of its curve and its evaluations."""
        return f"{self.study}_{self.seed}"

    @property
    def folder(self) -> Path:
        """Where it is trained."""
        return folder_of(self.study, self.seed)

    def done(self) -> float:
        """Share of its steps that are trained and saved."""
        return share_done(self.folder)

    def begun(self) -> bool:
        """Whether it left a checkpoint to go on from."""
        return begun(self.folder)

    def train_command(self) -> list[str]:
        """Starts the training, or goes on with it."""
        command = [sys.executable, str(EXPERIMENTS / "ppo_ballbot.py")]
        if self.begun():
            return [*command, "--resume", str(self.folder)]
        return [*command, *STUDIES[self.study].command(self.seed), "--run-name", self.folder.name]

    def changed_setting(self) -> str | None:
        """A setting in which what was begun differs from what the study says now; None if there is none.

        Raises:
            ValueError: the config.json cannot be read.
        """
        if not self.begun():
            return None
        sys.path.append(str(EXPERIMENTS))
        import ppo_ballbot

        wanted = ppo_ballbot.parse(STUDIES[self.study].command(self.seed)).settings
        found = load_settings(self.folder / "config.json").settings
        for name, (then, now) in differences(found, wanted).items():
            return f"{name} is {then} there and {now} here"
        config = read_config(self.folder / "config.json")
        began = (config.get("init_from") or {}).get("sha256") or config.get("teacher_sha256")
        for other in before(self)[-1:]:
            path = other.folder / "last.pt"
            now = hashlib.sha256(path.read_bytes()).hexdigest() if other.done() >= 1 else None
            if began is not None and now not in (None, began):
                return f"it began from another {path} than there is now"
        return None


@dataclass(frozen=True)
class Judgement:
    """Policies judged side by side."""

    name: str
    policies: tuple[str, ...]
    """What evaluate.py takes."""
    horizon: int = 4000
    terrain_length: int = 10
    random_yaw: bool = True
    """Robots start with any heading, else with the world's."""
    options: tuple[str, ...] = ()
    """Of evaluate.py, besides."""
    trained: str = ""
    """Name of the run that made the policies; empty: nothing was trained."""

    @property
    def file(self) -> Path:
        """What evaluate.py writes."""
        return LOGS / f"{self.name}_{self.horizon}.json"

    def command(self) -> list[str]:
        """Judges them."""
        first, *others = self.policies
        ground = ["--horizon", str(self.horizon), "--terrain-length", str(self.terrain_length)]
        command = [sys.executable, str(EXPERIMENTS / "evaluate.py"), first, *ground, "--num-threads", "1"]
        command += [] if self.random_yaw else ["--heading", "world"]
        command += self.options
        return [*command, "--json", str(self.file), *(["--compare", *others] if others else [])]

    def left(self, rows: list[dict[str, str]]) -> tuple[str, ...]:
        """Policies whose rows are not there."""
        there = {row["policy"] for row in rows if row["run"] == self.name and row["horizon"] == str(self.horizon)}
        return tuple(policy for policy in self.policies if row_name(policy) not in there)

    def done(self, rows: list[dict[str, str]]) -> bool:
        """Whether its rows are there."""
        return not self.left(rows)


def row_name(policy: str) -> str:
    """What rows call a policy: the stem of a file's name, or the name of a controller."""
    return Path(policy).stem if policy.endswith(".pt") else policy


def first_run(study: str) -> Run:
    """The run of a study that stands for it where one is enough."""
    return Run(study, STUDIES[study].seeds[0])


def judgements(run: Run) -> list[Judgement]:
    """How a run is judged: its best policy, if its study wants it, and its last, and what comes along for longer too.

    The reference's robots start with one heading, in training and in evaluation.
    """
    best, last = (str(run.folder / name) for name in ("best.pt", "last.pt"))
    study: Study = STUDIES[run.study]
    judged = partial(Judgement, options=study.judged, trained=run.name)
    both = (best, last) if study.best else (last,)
    found = [judged(run.name, both, random_yaw=run.study != "paper")]
    if run == first_run("shipped"):
        found += [judged(run.name, (best,), horizon, length) for horizon, length in HORIZONS.items()]
    for name, options in study.also:
        found.append(judged(f"{run.study}_{name}_{run.seed}", (last,), options=(*study.judged, *options)))
    return found


def planned(args: Args) -> list[Run]:
    """First seeds first, so that every study has one early; each once, after those that it starts from."""
    found = [Run(name, seed) for name in args.studies for seed in (args.seeds or STUDIES[name].seeds)]
    whole = [each for run in found for each in (*before(run), run)]
    return sorted(dict.fromkeys(whole), key=lambda run: (run.seed + len(before(run)), len(before(run))))


def before(run: Run) -> list[Run]:
    """Those that must have been trained before, first ones first."""
    after = STUDIES[run.study].after
    return [] if after is None else [*before(Run(after, run.seed)), Run(after, run.seed)]


def read_rows(path: Path) -> list[dict[str, str]]:
    """The evaluations in a file; none if it does not exist.

    Raises:
        ValueError: it is another table, or damaged.
    """
    return read_table(path, COLUMNS)


def rows_of(judgement: Judgement, commit: str) -> list[dict[str, str]]:
    """Rows of results/evaluations.csv from what evaluate.py --json wrote."""
    content = json.loads(judgement.file.read_text())
    options, rows = content["options"], []
    for summary in (content, *content["compared"]):
        row = {"run": judgement.name, "policy": row_name(summary["policy"]), "commit": commit}
        row |= {"terrain": summary["terrain"], "machine": MACHINE, "date": time.strftime("%Y-%m-%d")}
        row |= {"heading": "any" if judgement.random_yaw else "world", "judged_by": short(git_commit())}
        row |= {key: str(options[key]) for key in ("horizon", "terrain_length", "episodes")}
        for key in JUDGED:
            if key not in summary and key in OF_SOME_TASKS:
                row[key] = ""
                continue
            numbers = summary[key] if isinstance(summary[key], list) else [summary[key]]
            row[key] = " ".join(f"{number:.5g}" for number in numbers)
        rows.append(row)
    return rows


def key_of(row: dict[str, str]) -> tuple[str, ...]:
    """What tells evaluations apart."""
    return tuple(row[key] for key in ("run", "policy", "terrain", "horizon", "heading"))


def keyed(rows: list[dict[str, str]]) -> dict[tuple[str, ...], dict[str, str]]:
    """Rows by their keys; of equal ones the last."""
    return {key_of(row): row for row in rows}


def add_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Put rows into the file, instead of older ones of the same run, policy, ground, horizon and heading."""
    table = keyed([*read_rows(path), *rows])
    write_table(path, COLUMNS, (table[key] for key in sorted(table)))


def short(commit: str | None) -> str:
    """Seven letters of a commit, with "+" if code was edited since; empty without git."""
    return f"{commit[:7]}{'+' * commit.endswith('-dirty')}" if commit else ""


def commit_of(name: str) -> str:
    """The commit that a run was trained with; without a name, for what was not trained, the one that judges it."""
    config = Path("runs") / f"reproduce_{name}" / "config.json"
    return short(read_config(config).get("git_commit") if config.is_file() else git_commit())


JUDGING_MINUTES = 5.0
"""Two policies, 4000 steps; about."""


def estimate(runs: list[Run], others: list[Judgement], results: Path, jobs: int) -> str:
    """What is done, and how long the rest takes."""
    rows = read_rows(results / "evaluations.csv")
    lines: list[str] = []
    left = [JUDGING_MINUTES * len(other.policies) / 2 for other in others]
    for name in dict.fromkeys(run.study for run in runs):
        mine = [run for run in runs if run.study == name]
        shares, times = [], []
        for run in mine:
            judging = [judgement for judgement in judgements(run) if not judgement.done(rows)]
            shares.append(run.done() if judgements(run)[0] in judging else 1.0)
            times.append((1 - shares[-1]) * STUDIES[name].minutes)
            times[-1] += sum(JUDGING_MINUTES * judgement.horizon / 4000 for judgement in judging)
        left += times
        seeds = " ".join(f"{run.seed}:{share:.0%}" for run, share in zip(mine, shares, strict=True))
        lines.append(f"{name:18} {STUDIES[name].what:52} {sum(times):5.0f} min left   {seeds}")
    several = f"{jobs} runs at a time" if jobs > 1 else "one run at a time"
    hours = max(sum(left) / jobs, max(left, default=0.0)) / 60
    lines.append(f"about {hours:.1f} hours with {several}, on a machine like that of docs/results.md")
    return "\n".join(lines)


class Reproduction:
    """Carries out runs, several at a time."""

    def __init__(self, results: Path, jobs: int) -> None:
        self.results = results
        self.evaluations = results / "evaluations.csv"
        self._programs = Programs(jobs)
        self._writing = threading.Lock()
        self._trained: dict[Run, threading.Event] = {}

    def carry_out(self, run: Run) -> None:
        """Train, keep the curve, judge; what is done already is left out."""
        if all(self._judged(judgement) for judgement in judgements(run)) and (run.done() >= 1 or not self._needed(run)):
            return  # perhaps elsewhere: the curve is there too
        for other in before(run):  # planned earlier, so that it runs already
            if other in self._trained:
                self._trained[other].wait()
            if other.done() < 1:
                self._programs.fail(f"{run.name}, which starts from {other.name}, whose training did not end")
                return
        if run.done() < 1:
            clear(run.folder)
            say(f"{run.name}: training")
            if not self._call(run.train_command(), LOGS / f"{run.name}.log"):
                return
        if run in self._trained:
            self._trained[run].set()
        save_small(run.folder, self.results, run.name)
        say(f"{run.name}: trained; judging")
        for judgement in judgements(run):
            self.judge(judgement)

    def _needed(self, run: Run) -> bool:
        """Whether another that is planned, and neither trained nor judged, starts from it."""
        others = [other for other in self._trained if run in before(other) and other.done() < 1]
        return any(not self._judged(judgement) for other in others for judgement in judgements(other))

    def judge(self, judgement: Judgement) -> None:
        """Judge policies and keep the rows, if that was not done."""
        if self._judged(judgement) or not self._call(judgement.command(), judgement.file.with_suffix(".log")):
            return
        rows = rows_of(judgement, commit_of(judgement.trained))
        with self._writing:
            add_rows(self.evaluations, rows)
        published = {} if self.results.resolve() == PUBLISHED else keyed(read_rows(PUBLISHED / "evaluations.csv"))
        for row in rows:
            what = f"{judgement.name}, {row['policy']}, {row['horizon']} steps"
            there = published.get(key_of(row))
            behind = f" (published: {there['return_mean']}, {there['success_rate']})" if there else ""
            say(f"{what}: return {row['return_mean']}, success {row['success_rate']}{behind}")

    def all(self, runs: list[Run], others: list[Judgement]) -> int:
        """Carry out runs and other judgements, and return the exit status."""
        self._trained = {run: threading.Event() for run in runs}

        def carry_out(run: Run) -> None:
            try:
                self.carry_out(run)
            finally:
                self._trained[run].set()  # who waits for it fails by itself if it did not come about

        tasks = [partial(carry_out, run) for run in runs] + [partial(self.judge, judgement) for judgement in others]
        return self._programs.all(tasks)

    def _judged(self, judgement: Judgement) -> bool:
        with self._writing:
            return judgement.done(read_rows(self.evaluations))

    def _call(self, command: list[str], log: Path) -> bool:
        return self._programs.call(command, log)


def make_untrained_encoder() -> None:
    """Write the encoder of the study "untrained_encoder"."""
    import torch

    from ballbot.encoders import Architecture, Autoencoder, FrozenEncoder, save_encoder

    torch.manual_seed(0)
    save_encoder(UNTRAINED, FrozenEncoder(Autoencoder(Architecture()).eval()))


@program
def main(argv: list[str] | None = None) -> int:
    """Estimate, train, judge, and return the exit status."""
    args = check(parse(Args, argv, __doc__))
    jobs, runs = args.jobs or usable_cpus(), planned(args)
    rows, asked = read_rows(args.results / "evaluations.csv"), set(args.studies)
    others = [Judgement(each.name, each.controllers, options=each.judged) for each in CLASSICAL if each.beside & asked]
    others = [replace(each, policies=each.left(rows)) for each in others if not each.done(rows)]
    print(estimate(runs, others, args.results, jobs), flush=True)
    if args.dry_run:
        return 0
    with ExitStack() as locks:
        for folder in (LOGS, args.results):
            folder.mkdir(parents=True, exist_ok=True)
            lock = lock_run_dir(folder, "reproducing")
            if lock is not None:
                locks.callback(os.close, lock)
        for run in runs:
            if (difference := run.changed_setting()) is not None:
                raise ValueError(f"{run.folder} is of other settings ({difference}): move it away to train anew")
        if any("--encoder" in STUDIES[run.study].options for run in runs) and not UNTRAINED.is_file():
            make_untrained_encoder()
        return Reproduction(args.results, jobs).all(runs, others)


if __name__ == "__main__":
    sys.exit(main())
