"""Evaluate trained policies on terrains that training never used.

    python experiments/evaluate.py                                   # the policy that comes with ballbot, 100 episodes
    python experiments/evaluate.py runs/NAME                         # a run's best.pt
    python experiments/evaluate.py runs/NAME/last.pt --terrain flat --episodes 20
    python experiments/evaluate.py runs/NAME --compare runs/OTHER pid --json results.json
    python experiments/evaluate.py linear --terrain stairs:0.3       # a classical controller, on any kind of ground
    python experiments/evaluate.py runs/NAME --terrain stairs --ground.height 0.02
    python experiments/evaluate.py runs/NAME --report report         # a page with plots and films

All are judged on the same terrains, starts and commands; the same call gives the same numbers to the last bit.

Exit status: 0 done, 1 the policy fell, left the terrain, diverged or missed what it was told in more than
--max-failures of the episodes, 2 bad input.
"""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from ballbot import __version__
from ballbot.cli import check_output, make_folder, program
from ballbot.controllers import CONTROLLERS, find_controller
from ballbot.deployment.shipped import find_policy
from ballbot.envs import BallbotVectorEnv, WorldConfig
from ballbot.envs.physics import Physics
from ballbot.evaluation import Actor, Candidate, Episodes, find_candidate, in_task, run_episodes, summarize, task_of
from ballbot.evaluation.table import counted, table, table_rows
from ballbot.evaluation.trained import OF_THE_ROBOT
from ballbot.options import SPELLED, PluginFiles, kind_options, randomize_options, read_options
from ballbot.ppo import load_policy
from ballbot.ppo.checkpoint import write_atomic
from ballbot.progress import Progress
from ballbot.robot_logs import Recorder
from ballbot.settings import Range
from ballbot.tasks import find_task

HISTORY_INTERVAL = 20
"""Steps between two points of a plot, and two frames of a film: 40 ms, 25 frames a second."""
MOST_AT_A_TIME = 128
"""Robots; more gain little speed."""


@dataclass
class Args:
    """Evaluate trained policies."""

    checkpoint: Annotated[str, tyro.conf.Positional] = "default"
    """Checkpoint, run folder (for its best.pt), the name of a policy that comes with ballbot ("default"), or a
    classical controller: "pid", "linear", "lqr", "observer", "foresight", "informed", "guided",
    "guided_observer"; all but pid with a speed of choice, m/s, or yours, "linear:0.2"."""
    compare: tuple[str, ...] = ()
    """Others to judge on the same terrains and starts."""
    episodes: Annotated[int, Range(1, 10**6)] = 100
    """How many."""
    horizon: Annotated[int, Range(1, 10**9)] = 4000
    """Time limit of an episode, steps of 2 ms."""
    terrain: str | None = None
    """Kind of the ground, with its difficulty after a colon, "stairs:0.4", "mixed:0-1", or a height map (default: what
    the policy was trained on; perlin for classical controllers).  The kind's own options are --ground.height and so on:
    --terrain stairs --help lists them."""
    task: str | None = None
    """Task of a name of its own to judge by, "road", "stagger", "trench" or "mixed": ground, what is a fall, and how
    far to come (default: what the policy was trained for)."""
    robot: str | None = None
    """Which ballbot drives (default: the one that the policy was trained for).  --robot.ball-radius and so on change
    its numbers: --robot rollers --help lists them."""
    randomize: str | None = None
    """What differs from episode to episode, masses, friction and motors: "mild", "strong", or a .json file of ranges by
    name (default: nothing).  --randomize.body-mass 0.8 1.2 and so on are ranges of single numbers."""
    sensors: str | None = None
    """How well robots sense, and how soon motors obey, "perfect" or "cheap" (default: as the policy was trained for).
    --sensors.delay-ms 0 20 and so on are single values."""
    command: str | None = None
    """What the robots are told, if it can be told by what the policy observes (default: what it was trained for).  Its
    own options are --motion.max-speed and so on: --command velocity --help lists them."""
    seed: Annotated[int, Range(0, 2**62 - 1)] = 0
    """Of the first episode's start; the others count up."""
    split: Literal["eval", "validation"] = "eval"
    """Terrains to judge on.  Choose settings by "validation", so that "eval" judges what was chosen; training chose
    best.pt by those of "validation" with --terrain-seed 0."""
    terrain_seed: int = 1
    """Base seed of the terrains; whatever it is, those of "eval" are none that training learned on or chose best.pt
    by."""
    num_terrains: Annotated[int, Range(1, 4096)] = 100
    """Height fields, which the episodes take in turn."""
    terrain_length: float = 10.0
    """Side of the fields, m; robots start in the middle.  Longer horizons need longer ones."""
    deterministic: bool = True
    """The most likely action; --no-deterministic samples as training does."""
    stochastic: bool = False
    """The same as --no-deterministic, which is how it is read."""
    initial_tilt_deg: float = 1.0
    """Largest tilt at the start of an episode, degrees."""
    initial_speed: float = 0.0
    """Largest speed at the start of an episode, m/s."""
    action: Literal["torque", "wheel_speed", "wheel_position"] | None = None
    """What classical controllers ask motors for (default: torques); policies ask for what they were trained to."""
    heading: Literal["trained", "any", "world"] = "trained"
    """Of robots at the start: as in training; any; or along the world's x axis, as in the reference."""
    tilt_limit_deg: float = 20.0
    """A larger tilt is a fall, degrees; the same for all, whatever they were trained with."""
    integrator: Literal["Euler", "implicitfast", "RK4"] = "Euler"
    """MuJoCo's integrator; likewise."""
    encoder: Path | None = None
    """Encoder of policies that see (default: the copy that their run keeps, or the one that comes with
    ballbot)."""
    shuffle_images: bool = False
    """Show each robot what the cameras of another one see at that moment; what a policy loses, its eyes are worth."""
    max_failures: Annotated[float, Range(0, 1)] = 1.0
    """Share of episodes without success up to which the exit status is 0."""
    report: Path | None = None
    """Folder for report.html, a page with plots and, where OpenGL and the extra "video" are, films."""
    paths: Path | None = None
    """File for a picture of where they went, over the ground, .png or .svg."""
    json: Path | None = None
    """File for all numbers, each episode's too."""
    log: Path | None = None
    """File, .csv, of what the first policy's robot was told and sensed, as a robot would log it: docs/your_robot.md.
    Its episodes are then run one after the other."""
    action_noise: Annotated[float, Range(0, 1)] = 0.0
    """Standard deviation of noise on the actions of the robot that is logged, which makes its log tell more."""
    num_threads: int = 0
    """Threads that simulate and cast rays (0: every CPU); results do not depend on it."""
    torch_threads: Annotated[int, Range(0, 1024)] = 1
    """Threads of PyTorch's networks (0: its choice); other numbers round differently."""
    plugin: PluginFiles = ()
    """Python file that adds grounds, commands or rewards by name; several files, each after its own --plugin."""

    def __post_init__(self) -> None:
        self.deterministic = self.deterministic and not self.stochastic


TOPICS = {
    "most used": (
        *("compare", "episodes", "terrain", "task", "robot", "sensors", "randomize", "report", "json", "split"),
    ),
    "world": ("command", "terrain_seed", "num_terrains", "terrain_length", "tilt_limit_deg", "integrator", "action"),
    "episode": (*("horizon", "seed", "initial_tilt_deg", "initial_speed", "heading", "deterministic", "stochastic"),),
    "logs": ("log", "action_noise"),
    "other": ("encoder", "shuffle_images", "max_failures", "paths", "num_threads", "torch_threads", "plugin"),
}
"""Title in ``--help`` -> options below it; those of a kind follow."""


def check(args: Args) -> Args:
    """The same options, if they are possible.

    Raises:
        ValueError: an option is out of range; the message names it.
    """
    for name in (args.checkpoint, *args.compare):
        if not name:
            raise ValueError(f'a checkpoint is "": give a file, a run folder, or one of {", ".join(CONTROLLERS)}')
    read = [Path(name) for name in (args.checkpoint, *args.compare)]
    if args.json is not None:
        kept = [*read, *(path / name for path in read for name in ("best.pt", "config.json")), args.encoder]
        check_output(args.json, "--json", (".json",), keep=kept)
    for option in ("report", "paths"):
        if getattr(args, option) is not None and importlib.util.find_spec("matplotlib") is None:
            raise ImportError(f"--{option} needs matplotlib: pip install matplotlib")
    if args.report is not None:
        make_folder(args.report, "--report", "report.html")
    if args.paths is not None:
        maps = [args.terrain, kind_options(args).get("ground", {}).get("path")]
        check_output(args.paths, "--paths", (".png", ".svg"), keep=[Path(path) for path in maps if path])
    if args.log is not None:
        check_output(args.log, "--log", (".csv",))
    elif args.action_noise:
        raise ValueError(f"--action-noise {args.action_noise:g} is for a robot that is logged: add --log FILE.csv")
    if args.encoder is not None or args.shuffle_images:
        option = "--shuffle-images" if args.encoder is None else f"--encoder {args.encoder}"
        if not any(sees(name) for name in (args.checkpoint, *args.compare)):
            raise ValueError(f"{option} is for policies that see, none of these does: leave it out")
    if args.shuffle_images and args.episodes < 2:
        raise ValueError(f"--shuffle-images needs more robots than --episodes {args.episodes}: use 2 or more")
    return args


def sees(name: str) -> bool:
    """Whether it is a policy with cameras.

    Raises:
        CheckpointError, ValueError: no such policy.
    """
    if find_controller(name) is not None:
        return False
    return load_policy(find_policy(name, CONTROLLERS)).metadata.get("observation") == "encoded"


@dataclass(frozen=True)
class Entry:
    """Who is judged, and in which world."""

    candidate: Candidate
    config: WorldConfig


def world_of(options: dict[str, Any], args: Args) -> WorldConfig:
    """The world that a policy with these options is judged in."""
    return WorldConfig.of(
        **{name: value for name, value in options.items() if name != "encoder"},
        max_episode_steps=args.horizon,
        tilt_limit_deg=args.tilt_limit_deg,
        integrator=args.integrator,
        terrain_split=args.split,
        terrain_seed=args.terrain_seed,
        num_terrains=args.num_terrains,
        terrain_length=args.terrain_length,
        initial_tilt_deg=args.initial_tilt_deg,
        initial_speed=args.initial_speed,
        **randomize_options(args),
    )


def find_entries(args: Args) -> tuple[dict[str, Entry], dict[str, Any]]:
    """All who are judged, by name, and their task: what the first one was trained for, but for what ``args`` change.

    Raises:
        BallbotError, ValueError: one of them cannot be loaded, or cannot be told the first one's task.
    """
    entries, task = dict[str, Entry](), dict[str, Any]()
    named = None if args.task is None else find_task(args.task)
    for name in dict.fromkeys([args.checkpoint, *args.compare]):
        candidate = find_candidate(name, encoder=args.encoder, deterministic=args.deterministic, seed=args.seed)
        policy, options = candidate.policy, candidate.options
        if policy is not None and policy.path is not None and policy.path.name == "last.pt" and Path(name).is_dir():
            print(f"note: {name} has had no evaluation yet: its last.pt is judged")
        for difference in candidate.differences(tilt_limit_deg=args.tilt_limit_deg, integrator=args.integrator):
            print(f"note: {name} {difference}")
        own = task_of(options)
        kinds = {"robot": args.robot, "sensors": args.sensors, **kind_options(args)}
        if named is not None:  # it says what there is to do, and not with which robot and sensors
            named = {name: options[name] for name in OF_THE_ROBOT if name in options} | dict(named)
        task = task or task_of(named or options, args.terrain, args.command, **kinds)
        options = in_task(options, task, adapts=policy is None)
        if args.action is not None and policy is None:
            options["action"] = args.action
        if args.heading != "trained":
            options["random_yaw"] = args.heading == "any"
        elif options.get("random_yaw") is False:
            print(f"note: {name} was trained with one heading at the start, it is judged with that")
        if policy is not None:
            for difference in differences(own, task):
                print(f"note: {name} {difference}")
        entries[name] = Entry(candidate, world_of(options, args))
    return entries, task


def evaluate(name: str, entry: Entry, args: Args) -> tuple[Episodes, Physics]:
    """Run the episodes of one policy, and log them if asked to; they, and the physics they took place in."""
    encoder, logged = entry.candidate.options.get("encoder"), args.log is not None and name == args.checkpoint
    num = 1 if logged else min(args.episodes, MOST_AT_A_TIME)
    envs = BallbotVectorEnv(num, config=entry.config, encoder=encoder, num_threads=args.num_threads)
    progress = Progress(f"{counted(args.episodes)} of {name}")
    try:
        interval = 0 if args.report is None and args.paths is None else HISTORY_INTERVAL
        actor = entry.candidate.make_actor(envs)
        if args.shuffle_images and encoder is not None:
            actor = with_images_of_others(actor, envs.layout.sensed)
        recorder = Recorder(envs, args.action_noise, args.seed)
        if logged:
            actor = recorder.watch(actor)
        found = run_episodes(envs, actor, args.episodes, args.seed, interval, progress=progress)
        if args.log is not None and logged:
            write_atomic(args.log, recorder.text().encode())
            print(f"wrote {args.log}")
        return found, envs.simulations
    finally:
        progress.close()
        envs.close()


def with_images_of_others(actor: Actor, first: int) -> Actor:
    """The same actor, to whom each robot's numbers from ``first`` on are those of the robot before it."""

    def act(obs: Any, began: NDArray[np.bool_]) -> Any:
        return actor(np.concatenate([obs[:, :first], np.roll(obs[:, first:], 1, axis=0)], axis=1), began)

    return act


def differences(trained: dict[str, Any], judged: dict[str, Any]) -> list[str]:
    """What there was to do in training and not here, in words."""
    found = []
    if (was := trained["terrain"]) != (now := judged["terrain"]):
        found.append(f"was trained on {was} ground, it is judged on {now} ground")
    for name in sorted((trained.keys() | judged.keys()) - {"terrain"}):
        if (then := trained.get(name, "the default")) != (here := judged.get(name, "the default")):
            found.append(f"was trained with {SPELLED.get(name, name)} {then}, it is judged with {here}")
    return found


def films(name: str, episodes: Episodes, sims: Physics, seeing: bool) -> list[tuple[str, bytes, bytes]]:
    """Caption, video and a picture out of it of the median and of the worst episode, as they were recorded.

    Args:
        name: of the policy.
        episodes: with their history.
        sims: the world they were recorded in.
        seeing: whether it sees by cameras.

    Raises:
        RuntimeError, ImportError, OSError: no OpenGL, nothing to write videos with, or no room for them.
    """
    from ballbot.evaluation.video import poster, write_replay

    order = np.argsort(episodes.returns, kind="stable")
    dt = float(sims.model.opt.timestep)
    found = []
    for which, k in (("median", int(order[len(order) // 2])), ("worst", int(order[0]))):
        with tempfile.TemporaryDirectory() as folder:
            log, seconds = episodes.history[k], HISTORY_INTERVAL * dt
            whose = {
                "terrain_id": int(episodes.terrain_ids[k]),
                "robot_id": int(episodes.robot_ids[k]),
                "directions": log["direction"],
                "sees": seeing,
            }
            path = write_replay(Path(folder) / "film", sims, log["qpos"], seconds, **whose)
            caption = (
                f"{name}: the {which} episode, seed {episodes.seeds[k]}, return {episodes.returns[k]:.1f}, "
                f"{episodes.outcomes[k].replace('_', ' ')} after {episodes.lengths[k] * dt:.2f} s"
            )
            found.append((caption, path.read_bytes(), poster(path)))
    return found


def report(
    args: Args,
    ground: str,
    summaries: dict[str, dict[str, Any]],
    found: dict[str, Episodes],
    sims: Physics,
    made: list[str],
) -> None:
    """Write report.html into its folder; ``made`` are notes of how."""
    from ballbot.evaluation.report import write_report

    videos: list[tuple[str, bytes, bytes]] = []
    notes = [
        f"{counted(args.episodes)} each on {ground} ground, seeds from {args.seed}, "
        f"{'' if ground == 'flat' else 'terrains never trained on, '}"
        f"{'most likely' if args.deterministic else 'sampled'} actions"
        f"{', with shuffled images' if args.shuffle_images else ''}.  Mean ± standard deviation [95 % interval of the "
        "rate or mean].",
        *made,
    ]
    try:
        videos = films(args.checkpoint, found[args.checkpoint], sims, sees(args.checkpoint))
    except (ImportError, RuntimeError, OSError) as error:  # the numbers are worth more
        notes.append(f"Without films: {error}")
        print(f"note: report without films: {error}")
    path = args.report / "report.html"  # type: ignore[operator]
    rows = [(title.strip(), cells) for title, cells in table_rows(summaries)]
    write_report(path, f"Evaluation of {args.checkpoint}", rows, found, sims.ground, videos, notes)
    print(f"wrote {path}")


def origins(entries: dict[str, Entry]) -> list[str]:
    """Which file each policy is from, and how long it was trained."""
    policies = {name: entry.candidate.policy for name, entry in entries.items()}
    return [
        f"{name}: {policy.path or 'comes with ballbot'}, after {policy.step:,} steps of training."
        for name, policy in policies.items()
        if policy is not None
    ]


def how_made(argv: list[str] | None) -> str:
    """When, by which version and command."""
    command = shlex.join(["evaluate.py", *(sys.argv[1:] if argv is None else argv)])
    return f"Made {time.strftime('%Y-%m-%d %H:%M %Z')} by ballbot {__version__}: {command}"


def write_json(args: Args, summaries: dict[str, dict[str, Any]]) -> None:
    """Write all numbers, and the options they follow from."""
    assert args.json is not None
    first, *others = summaries.values()
    options = {k: v for k, v in asdict(args).items() if k not in ("json", "report", "paths", "num_threads")}
    content = {**first, "options": options, "compared": others}
    write_atomic(args.json, (json.dumps(content, indent=2, default=str) + "\n").encode())


def said(value: Any) -> str:
    """A value or a range, in words."""
    return f"{value[0]:g} to {value[1]:g}" if isinstance(value, tuple) else str(value)


def too_many_failures(outcomes: list[str], share: float) -> bool:
    """Whether more than this share of the episodes ended otherwise than at their time limit."""
    failures = len(outcomes) - outcomes.count("success")
    return failures > share * len(outcomes) + 1e-9  # a share such as 0.05 is not exact


@program
def main(argv: list[str] | None = None) -> int:
    """Evaluate, print a table, and return the exit status."""
    written: Path | None = None
    args = check(read_options(Args, argv, __doc__, topics=TOPICS))
    try:
        if args.torch_threads:
            torch.set_num_threads(args.torch_threads)
        start = time.perf_counter()
        entries, task = find_entries(args)  # all of them, before the first one's episodes take minutes
        ways = [] if args.deterministic else ["sampled actions"]
        ways += ["shuffled images"] if args.shuffle_images else []
        how = f"with {' and '.join(ways)} " if ways else ""
        summaries: dict[str, dict[str, Any]] = {}
        found: dict[str, Episodes] = {}
        physics: list[Physics] = []
        world = {"terrain": task["terrain"], "command": task.get("command", "goal")}
        for name, entry in entries.items():
            found[name], own = evaluate(name, entry, args)
            physics = physics or [own]  # of the first one, who is filmed: others may have other cameras
            summaries[name] = {"policy": name, **world, **summarize(found[name])}
        try:
            if args.json is not None:
                write_json(args, summaries)
                written = args.json
        finally:  # neither a full disk nor a closed pipe takes both
            print(table(summaries))
        first = next(iter(entries.values())).config
        motion, of_cameras = first.faults
        for what, values in (("sensors", motion | of_cameras), ("randomized", first.ranges)):
            if values:
                print(f"{what}: {', '.join(f'{name} {said(value)}' for name, value in values.items())}")
        print(
            f"{counted(args.episodes)} each on {task['terrain']} ground {how}in {time.perf_counter() - start:.1f} s; "
            "mean ± standard deviation [95 % interval of the rate or mean]"
        )
        if written:
            print(f"wrote {written}")
        if args.report is not None:
            made = [*origins(entries), how_made(argv)]
            report(args, str(task["terrain"]), summaries, found, physics[0], made)
        if args.paths is not None:
            from ballbot.evaluation.report import write_paths

            write_paths(args.paths, found, physics[0].ground)
            print(f"wrote {args.paths}")
    except KeyboardInterrupt:
        print(f"stopped; {f'only {written}' if written else 'nothing'} was written", file=sys.stderr)
        return 130
    return 1 if too_many_failures(found[args.checkpoint].outcomes, args.max_failures) else 0


if __name__ == "__main__":
    sys.exit(main())
