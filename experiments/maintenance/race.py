"""How long do learners take, from the start of their process, until a policy of theirs can do the task?

    pip install -e ".[dev]" rsl-rl-lib
    python experiments/maintenance/race.py --cleanrl ppo_continuous_action.py       # hours: 4 learners, 5 seeds, 10 min
    python experiments/maintenance/race.py --learners ballbot cleanrl --seeds 0 --cameras

Can do means a mean return of 85.5 and a mean length of 3950 steps, of 4000, on 50 terrains of the validation split,
which nobody trains on.  The learners are ballbot.ppo, stable-baselines3, CleanRL (the file ppo_continuous_action.py of
https://github.com/vwxyzjn/cleanrl) and rsl_rl; those that are not there are left out.  Each learns in a process of its
own, nothing else beside it, on the same environments: those of our default settings, training rewards and held actions
included, but for the slopes that our value function is told.  With --hyperparameters ours they have our rates,
rollouts, networks and so on as far as they have such settings, and end with our number of steps; with "own" they have
their own defaults, with normalised observations and rewards where their users have them.

Every few seconds the policy is kept, observation statistics included; of ours it is the average that is deployed.  They
are judged afterwards, so that judging takes no time of the learners: in order of time, each by the first ten terrains
and, if its return there is at most 10 below what is asked for, by all fifty, until the first that can do it; and the
last one.

Each part of the race appends a row to --csv when it ends, and parts whose rows are there are left out, so that the
whole can be stopped at any time and gone on with.  Exit status 1 if a learner failed.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from racers.cleanrl import check_file, version_of
from racers.snapshots import MODULES, Job, Snapshot, read_network, read_snapshots, settings_of, start_file
from shared import (
    MACHINE,
    PUBLISHED,
    TARGET_LENGTH,
    TARGET_RETURN,
    CheckoutPath,
    append_row,
    check_each_once,
    check_names,
    check_seeds,
    read_table,
)

from ballbot.cli import check_options, check_output, program
from ballbot.envs import BallbotVectorEnv
from ballbot.evaluation.episodes import Actor, run_episodes
from ballbot.jobs import on_signals
from ballbot.parsing import parse
from ballbot.ppo import load_policy
from ballbot.ppo.run_dir import git_commit
from ballbot.settings import Range

TERRAINS, FIRST_TERRAINS = 50, 10
"""Which judge a policy, and which judge it first."""
MARGIN = 10.0
"""A return on the first terrains that is so far below the target is not looked at twice: means of ten episodes of
policies that stay up differ from those of fifty by one or two."""
JUDGED = ("seconds_to_target", "steps_to_target", "best_return", "return", "length", "seconds", "steps")
"""What `judged` says."""
COLUMNS = (
    "learner", "version", "hyperparameters", "seed", "cameras", "num_envs", "minutes", *JUDGED,
    "torch", "machine", "commit",
)  # fmt: skip
"""The two to the target are empty if it was never reached; best_return is the highest of those judged by all terrains,
return and length are those of the last policy; steps are of 2 ms, of all robots together."""
KEY = ("learner", "hyperparameters", "seed", "cameras", "num_envs", "minutes")
"""What tells parts of a race apart."""
PACKAGES = {"ballbot": "ballbot", "stable-baselines3": "stable_baselines3", "rsl_rl": "rsl_rl"}
"""Learner -> module."""
DISTRIBUTIONS = {"rsl_rl": "rsl-rl-lib"}
"""Of learners that pip calls otherwise."""


@dataclass
class Args:
    """Race learners to a policy that can do the task."""

    learners: list[str] = field(default_factory=lambda: list(MODULES))
    """Who races: ballbot, stable-baselines3, cleanrl, rsl_rl."""
    seeds: list[int] = field(default_factory=lambda: list(range(5)))
    """Seeds of each, one after the other."""
    hyperparameters: Literal["ours", "own"] = "ours"
    """Whose settings the others have: ours as far as they have such settings, or their own defaults."""
    cleanrl: Path | None = None
    """The file ppo_continuous_action.py of CleanRL (None: CleanRL is left out)."""
    cameras: bool = False
    """See the ground by two depth cameras, through a frozen encoder."""
    num_envs: Annotated[int, Range(1, 2**16)] = 64
    """Robots that learn at a time."""
    minutes: Annotated[float, Range(0, 10_000, open=True)] = 10.0
    """For which each learns, imports and the making of environments included; an update under way is finished."""
    every: Annotated[float, Range(0, 10_000, open=True)] = 5.0
    """Seconds from one policy that is kept to the next."""
    torch_threads: Annotated[int, Range(0, 1024)] = 1
    """Threads of PyTorch, of the others (0: PyTorch's choice); ours has a setting of its own."""
    csv: CheckoutPath = PUBLISHED / "race.csv"
    """Where to append one row a learner and seed; those whose rows are there are left out."""


def missing(learner: str, args: Args) -> str | None:
    """Why a learner cannot race; None if it can."""
    if learner == "cleanrl":
        return None if args.cleanrl is not None else "give its file: --cleanrl ppo_continuous_action.py"
    if find_spec(PACKAGES[learner]) is None:
        return f"it is not installed: pip install {DISTRIBUTIONS.get(learner, learner)}"
    return None


def check(args: Args) -> Args:
    """The same options, if they are possible.

    Raises:
        ValueError: the message names the option.
    """
    check_names("--learners", args.learners, MODULES)
    check_each_once("--learners", args.learners)
    check_each_once("--seeds", args.seeds)
    check_options(args)
    check_seeds(args.seeds)
    if args.cleanrl is not None:
        check_file(args.cleanrl)
    check_output(args.csv, "--csv", (".csv",))
    return args


def jobs_of(args: Args, learners: list[str]) -> list[Job]:
    """Parts of the race: all learners with the first seed, then with the next."""
    cleanrl = None if args.cleanrl is None else str(args.cleanrl.resolve())
    others = (args.cameras, args.num_envs, args.minutes, args.every, args.torch_threads, cleanrl)
    return [
        Job(learner, "ours" if learner == "ballbot" else args.hyperparameters, seed, *others)
        for seed in args.seeds
        for learner in learners
    ]


def key_of(part: Mapping[str, Any]) -> tuple[str, ...]:
    """What tells a part apart, by a row or by its job's attributes, as the file has it."""
    return tuple(str(part[name]) for name in KEY)


def start(job: Job, folder: Path) -> None:
    """Let a learner learn in a process of its own.

    Raises:
        RuntimeError: it failed; the end of what it printed.
    """
    paths = [str(Path(__file__).resolve().parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    # absolute, as it starts in the folder: what learners leave behind goes with it
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, paths))}
    with open(folder / "log.txt", "w+") as log:
        path = start_file(job, folder, time.time())
        command = [sys.executable, "-m", "racers", str(path)]
        code = subprocess.run(command, cwd=folder, env=variables, stdout=log, stderr=subprocess.STDOUT).returncode
        log.seek(0)
        if code:
            lines = log.read().splitlines() or [f"exit status {code}"]
            raise RuntimeError(f"{job.learner}, seed {job.seed}: {lines[-1]}")


def actor_of(learner: str, path: Path) -> Actor:
    """What acts as a snapshot does."""
    if learner == "ballbot":
        policy = load_policy(path, torch_threads=0)
        return lambda obs, began: policy.predict(obs, True, began)
    act = read_network(path)
    return lambda obs, began: act(obs)


@dataclass(frozen=True)
class Score:
    """Means over episodes."""

    value: float
    """Return."""
    length: float
    """Steps of 2 ms."""

    @property
    def enough(self) -> bool:
        """Whether it can do the task."""
        return self.value >= TARGET_RETURN and self.length >= TARGET_LENGTH


def judged(
    snapshots: list[Snapshot], first: Callable[[Snapshot], Score], whole: Callable[[Snapshot], Score]
) -> dict[str, Any]:
    """Columns that say how good the policies are.

    Args:
        snapshots: in order of time.
        first: judges one by the first terrains.
        whole: by all of them.
    """
    if not snapshots:
        return dict.fromkeys(JUDGED, "")
    scores: dict[str, Score] = {}
    looks: dict[str, float] = {}
    reached = None
    for snapshot in snapshots:
        looks[snapshot.file] = first(snapshot).value
        if looks[snapshot.file] < TARGET_RETURN - MARGIN:
            continue
        scores[snapshot.file] = whole(snapshot)
        if scores[snapshot.file].enough:
            reached = snapshot
            break
    for snapshot in (snapshots[-1], *([] if scores else [max(snapshots, key=lambda s: looks[s.file])])):
        if snapshot.file not in scores:
            scores[snapshot.file] = whole(snapshot)
    last = scores[snapshots[-1].file]
    return {
        "seconds_to_target": "" if reached is None else reached.seconds,
        "steps_to_target": "" if reached is None else reached.steps,
        "best_return": round(max(score.value for score in scores.values()), 3),
        "return": round(last.value, 3),
        "length": round(last.length, 1),
        "seconds": snapshots[-1].seconds,
        "steps": snapshots[-1].steps,
    }


def judge(job: Job, folder: Path) -> dict[str, Any]:
    """Judge the snapshots in a folder; the columns of `judged`."""
    settings = settings_of(job)
    world = settings.world.task(terrain_split="validation", num_terrains=TERRAINS)

    with ExitStack() as stack:
        few, many = (
            stack.enter_context(closing(BallbotVectorEnv(n, config=world))) for n in (FIRST_TERRAINS, TERRAINS)
        )

        def score(envs: Any, snapshot: Snapshot) -> Score:
            actor = actor_of(job.learner, folder / snapshot.file)
            found = run_episodes(envs, actor, envs.num_envs, settings.ppo.eval_seed)
            return Score(float(found.returns.mean()), float(found.lengths.mean()))

        return judged(read_snapshots(folder), partial(score, few), partial(score, many))


def race(job: Job) -> dict[str, Any]:
    """Let one learner learn, and judge it: a row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start(job, folder)
        found = judge(job, folder)
    package = DISTRIBUTIONS.get(job.learner, job.learner)
    return {
        **{name: getattr(job, name) for name in KEY},
        "version": version_of(Path(str(job.cleanrl))) if job.learner == "cleanrl" else installed(package),
        **found,
        "torch": installed("torch"),
        "machine": MACHINE,
        "commit": git_commit(Path(__file__)),
    }


def stop(number: int, frame: object) -> None:
    """What Ctrl-C does, for other signals too: the learner at work ends with us."""
    raise KeyboardInterrupt


def installed(package: str) -> str:
    """Its version."""
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout on the path
        return ""


def seconds_of(row: dict[str, Any]) -> float:
    """From the start of the process until a policy could do the task; inf: none could."""
    return float(row["seconds_to_target"] or math.inf)


def shown(seconds: float, digits: int = 0) -> str:
    """Seconds, for people."""
    return "never" if math.isinf(seconds) else f"{seconds:.{digits}f}"


def in_words(row: dict[str, Any]) -> str:
    """A row, for people."""
    when = f"after {row['seconds_to_target']} s" if row["seconds_to_target"] != "" else "never"
    who = f"{row['learner']:18} seed {row['seed']} ({row['hyperparameters']} settings)"
    return f"{who}: {when}; {row['return']} after {row['seconds']} s and {row['steps']} steps"


@program
def main(argv: list[str] | None = None) -> int:
    """Race, and print medians."""
    args = check(parse(Args, argv, __doc__))
    rows = read_table(args.csv, COLUMNS)
    why = {learner: missing(learner, args) for learner in args.learners}
    for learner, reason in why.items():
        if reason is not None:
            print(f"{learner} is left out: {reason}", flush=True)
    jobs = jobs_of(args, [learner for learner, reason in why.items() if reason is None])
    for job in jobs:
        settings_of(job)  # what does not fit is said before anybody has learned
    torch.set_num_threads(1)
    on_signals(stop)
    done, failed = {key_of(row): row for row in rows}, False
    for job in jobs:
        key = key_of(vars(job))
        if key in done:
            continue
        try:
            row = race(job)
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            failed = True
            continue
        append_row(args.csv, row, COLUMNS)
        done[key] = row
        print(in_words(row), flush=True)

    print(f"\n{'':18} median s to {TARGET_RETURN}  runs that reached it")
    for learner in dict.fromkeys(job.learner for job in jobs):
        keys = [key_of(vars(job)) for job in jobs if job.learner == learner]
        times = [seconds_of(done[key]) for key in keys if key in done]
        median = shown(statistics.median_high(times) if times else math.inf, 1)
        print(f"{learner:18} {median:>16}  {sum(map(math.isfinite, times))} of {len(times)}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
