"""Under which circumstances does it fall?  The mildest that there are within stated ranges, found by search.

    python experiments/find_falls.py default                              # masses, friction, motors, and pushes
    python experiments/find_falls.py lqr --out falls --films 3            # a page, a picture, films of falls
    python experiments/find_falls.py runs/mine --sensors cheap --json falls.json
    python experiments/find_falls.py lqr --randomize none --randomize.com-x -0.03 0.03 --randomize.payload 0 2

Distance says how far circumstances are from what is meant: of each number, 0 as it is meant and 1 at the end of its
range, and of all of them by Euclid.  What is not named is as it is meant.  Circumstances count once the robot falls in
half of its starts, on ground that training never used; those that are told were then tried on other starts and ground,
and of these the falls are told.  Takes some minutes.
"""

from __future__ import annotations

import html
import importlib.util
import io
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from ballbot.cli import check_output, make_folder, program
from ballbot.envs import BallbotVectorEnv
from ballbot.envs.randomize import AXES, check_ranges, ranges_of
from ballbot.errors import SettingsError
from ballbot.evaluation import Actor, Episodes, find_candidate, in_task, run_episodes, task_of
from ballbot.evaluation.falls import AT_A_TIME, Floats, Space, Tried, search
from ballbot.evaluation.report import film_figure, page
from ballbot.options import PluginFiles, kind_options, randomize_options, read_options
from ballbot.ppo.checkpoint import write_atomic
from ballbot.progress import Progress
from ballbot.settings import Range

MOST_AT_A_TIME = 64
"""Robots."""
CHECK_SHARE = 0.25
"""Of the episodes, for trying again what was found."""
HISTORY_INTERVAL = 20
"""Steps between two frames of a film: 40 ms, 25 frames a second."""
FILM_SECONDS = 3.0
"""The last ones before a fall."""
QUICK = {"budget": 192, "starts": 4, "horizon": 1500}
"""What --quick sets."""


@dataclass
class Args:
    """Find the mildest circumstances under which a policy falls."""

    policy: Annotated[str, tyro.conf.Positional]
    """Checkpoint, run folder (for its best.pt), the name of a policy that comes with ballbot ("default"), or a
    classical controller such as "lqr" or "linear:0.3"."""
    randomize: str = "strong"
    """Ranges within which to search, masses, friction and motors: "none", "mild", "strong", or a .json file of ranges
    by name.  --randomize.com-x -0.02 0.02 and so on are ranges of single numbers; of equal ends, what holds always."""
    sensors: str | None = None
    """How well robots sense, and how soon motors obey, "perfect" or "cheap" (default: as the policy was trained for).
    --sensors.delay-ms 0 20 and so on are single values."""
    terrain: str | None = None
    """Kind of the ground, with its difficulty after a colon, "stairs:0.4", or a height map (default: what the policy
    was trained on; perlin for classical controllers).  The kind's own options are --ground.height and so on: --terrain
    stairs --help lists them."""
    robot: str | None = None
    """Which ballbot (default: the one that the policy was trained for).  --robot.ball-radius and so on change its
    numbers: --robot rollers --help lists them."""
    command: str | None = None
    """What the robot is told, if it can be told by what the policy observes (default: what it was trained for).  Its
    own options are --motion.max-speed and so on: --command velocity --help lists them."""
    budget: Annotated[int, Range(1, 10**6)] = 1536
    """Episodes, a quarter of them for trying again what was found."""
    starts: Annotated[int, Range(1, 1000)] = 8
    """Starts, each on its own ground, that circumstances are tried on; those that are told, on twice as many others."""
    share: Annotated[float, Range(0, 1, open=True)] = 0.5
    """Of the starts, from which on circumstances count."""
    horizon: Annotated[int, Range(100, 10**6)] = 2000
    """Time limit of an episode, steps of 2 ms."""
    shown: Annotated[int, Range(1, 100)] = 10
    """Circumstances to tell, which differ by a distance of 0.5 at least."""
    quick: bool = False
    """A first look, of 192 episodes of 3 s, 4 starts each."""
    seed: Annotated[int, Range(0, 2**62 - 1)] = 0
    """Of the search, and of the first start; the others count up."""
    out: Path | None = None
    """Folder for index.html, falls.png (with matplotlib), films, and each of the circumstances as a file for
    --randomize of this and other programs, fall_1.json and so on."""
    films: Annotated[int, Range(0, 100)] = 0
    """Films, of the last seconds of a fall each, as fall_1.mp4 and so on; needs OpenGL and --out."""
    json: Path | None = None
    """File for all numbers."""
    encoder: Path | None = None
    """Encoder of policies that see (default: the copy that their run keeps, or the one that comes with ballbot)."""
    num_threads: Annotated[int, Range(0, 1024)] = 0
    """Threads that step the simulations; 0: every CPU."""
    plugin: PluginFiles = ()
    """Python file that adds grounds, commands or rewards by name; several files, each after its own --plugin."""


def check(args: Args) -> tuple[int, int]:
    """How many circumstances to try, and how many of those that were found, again.

    Raises:
        SettingsError: an option does not go with the others.
    """
    least = (2 * AT_A_TIME + 2) * args.starts
    if args.budget < least:
        raise SettingsError(
            f"--budget {args.budget} is too few episodes to search with --starts {args.starts}: use {least}, better "
            f"{192 * args.starts}, or fewer starts"
        )
    again = max(1, min(round(CHECK_SHARE * args.budget) // (2 * args.starts), 2 * args.shown))
    again = min(again, args.budget // (2 * args.starts) - AT_A_TIME)
    if args.films and args.out is None:
        raise SettingsError(f"--films {args.films} needs a folder for them: add --out FOLDER")
    if args.json is not None:
        check_output(args.json, "--json", (".json",), keep=[Path(args.policy), Path(args.randomize)])
    if args.out is not None:
        make_folder(args.out, "--out", "index.html")
    return args.budget // args.starts - 2 * again, again


def ranges(args: Args) -> dict[str, tuple[float, float]]:
    """Within which to search."""
    given = randomize_options(args)
    return check_ranges({**ranges_of(given["randomize"]), **given["ranges"]})


def make(args: Args, within: dict[str, tuple[float, float]]) -> tuple[BallbotVectorEnv, Actor]:
    """The world, and who acts in it."""
    candidate = find_candidate(args.policy, encoder=args.encoder, seed=args.seed)
    options = candidate.options
    if args.encoder is not None and options["observation"] != "encoded":
        raise ValueError(f"--encoder {args.encoder} is for policies that see, this one does not: leave it out")
    kinds = {"robot": args.robot, "sensors": args.sensors, **kind_options(args)}
    task = task_of(options, args.terrain, args.command, **kinds)
    envs = BallbotVectorEnv(
        min(MOST_AT_A_TIME, AT_A_TIME * args.starts),
        **in_task(options, task, adapts=candidate.policy is None),
        ranges=within,
        max_episode_steps=args.horizon,
        terrain_split="eval",
        terrain_seed=1,
        num_terrains=3 * args.starts,
        num_threads=args.num_threads,
    )
    return envs, candidate.make_actor(envs)


@dataclass
class Runner:
    """Tries circumstances."""

    envs: BallbotVectorEnv
    actor: Actor
    space: Space
    seed: int
    progress: Progress
    budget: int
    """Episodes, of all."""
    episodes: int = 0
    """So far."""

    def run(self, numbers: Floats, starts: NDArray[np.int64], interval: int = 0) -> Episodes:
        """The episodes of (k, axes) circumstances, those of each one after the other."""
        count = len(numbers) * len(starts)
        values = {name: np.repeat(x, len(starts)) for name, x in self.space.values(numbers).items()}
        before, self.episodes = self.episodes, self.episodes + count
        order = np.tile(starts, len(numbers))

        def tell(share: float) -> None:
            self.progress(min((before + share * count) / self.budget, 1.0))

        how: dict[str, Any] = {"starts": order, "randomized": values, "progress": tell}
        try:
            return run_episodes(self.envs, self.actor, count, self.seed, interval, **how)
        finally:
            self.progress.close()

    def trial(self, starts: NDArray[np.int64], numbers: Floats) -> tuple[Floats, Floats]:
        """Shares of falls, and how near the others came, as ``search`` asks for them."""
        episodes = self.run(numbers, starts)
        fell = np.array(episodes.outcomes) == "failure"
        near = np.where(fell, 1.0, np.minimum(episodes.tilt_max_deg / self.envs.config.tilt_limit_deg, 1.0))
        shares, nearness = (x.reshape(len(numbers), -1).mean(axis=1) for x in (fell, near))
        print(f"tried {len(numbers)} circumstances, it fell in {shares.mean():.0%} of the starts", flush=True)
        return shares, nearness


@dataclass
class Fall:
    """Circumstances that were tried again."""

    numbers: Floats
    """(axes,)"""
    values: dict[str, float]
    falls: int
    starts: int
    seconds: float
    """Until a fall, the median."""
    example: int
    """Of the episodes, the number of one with a fall."""

    @property
    def distance(self) -> float:
        """From what is meant."""
        return float(np.linalg.norm(self.numbers))

    @property
    def words(self) -> str:
        """What differs, that which does so most first."""
        order = [i for i in np.argsort(-np.abs(self.numbers), kind="stable") if self.numbers[i]]
        names = [list(self.values)[i] for i in order]
        told = [f"{name} {self.values[name]:{'.3g' if AXES[name].nominal else '+.3g'}}" for name in names]
        return ", ".join(told) or "as it is meant"


def tried_again(runner: Runner, found: Tried, most: int, args: Args) -> tuple[list[Fall], Episodes | None]:
    """The mildest falls, as they go on other starts; and these episodes, None if there are no falls.

    Those that do not fall often enough again are not among them.
    """
    numbers = found.numbers[found.mildest(most)]
    if not len(numbers):
        return [], None
    starts = np.arange(args.starts, 3 * args.starts)
    episodes = runner.run(numbers, starts, HISTORY_INTERVAL if args.films else 0)
    values, falls = runner.space.values(numbers), []
    fell = (np.array(episodes.outcomes) == "failure").reshape(len(numbers), -1)
    seconds = (episodes.lengths * runner.envs.dt).reshape(fell.shape)
    for i, hits in enumerate(fell):
        if hits.mean() >= args.share:
            middle, which = float(np.median(seconds[i, hits])), i * len(starts) + int(np.flatnonzero(hits)[0])
            of = {name: float(x[i]) for name, x in values.items()}
            falls.append(Fall(numbers[i], of, int(hits.sum()), len(starts), middle, which))
    print(f"{len(falls)} of the {len(numbers)} mildest falls fall on other starts too")
    return falls[: args.shown], episodes


HEAD = ("", "distance", "falls", "after", "with")


def rows(falls: list[Fall]) -> list[tuple[str, ...]]:
    """The table's."""
    return [
        (f"{i}", f"{fall.distance:.2f}", f"{fall.falls} of {fall.starts}", f"{fall.seconds:.1f} s", fall.words)
        for i, fall in enumerate(falls, 1)
    ]


def table(falls: list[Fall]) -> str:
    """All circumstances, a line each."""
    lines = [HEAD, *rows(falls)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([*(f"{cell:>{w}}" for cell, w in zip(line[:-1], widths, strict=False)), line[-1]]) for line in lines
    )


def draw(space: Space, found: Tried, falls: list[Fall]) -> bytes:
    """A picture, .png: a strip an axis, with its number in each of the circumstances."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    told = np.array([fall.numbers for fall in falls])
    moving = [i for i in range(len(space.names)) if space.lowest[i] or space.highest[i]]
    moving.sort(key=lambda i: -float(np.abs(told[:, i]).mean()))
    figure, axis = pyplot.subplots(figsize=(9, 1.2 + 0.42 * len(moving)), layout="constrained")
    ends = [space.values(end[None]) for end in (space.lowest, np.zeros(len(space.names)), space.highest)]
    others = found.numbers[found.fell]
    for row, i in enumerate(moving):
        name = space.names[i]
        axis.plot([space.lowest[i], space.highest[i]], [row, row], color="0.85", linewidth=9, solid_capstyle="butt")
        axis.plot(others[:, i], np.full(len(others), row), "|", color="0.6", markersize=7)
        dots = axis.scatter(
            told[:, i], np.full(len(told), row), c=np.arange(1, len(told) + 1), cmap="viridis", zorder=3
        )
        low, meant, high = (f"{values[name][0]:.3g}" for values in ends)
        for x, text in ((space.lowest[i], low), (0.0, meant), (space.highest[i], high)):
            axis.text(x, row + 0.42, text, ha="center", va="center", fontsize=6, color="0.4")
    axis.set(xlim=(-1.08, 1.08), ylim=(len(moving) - 0.4, -0.6), xticks=[-1, 0, 1])
    axis.set_xticklabels(["lower end", "as it is meant", "upper end"])
    axis.set_yticks(range(len(moving)), [space.names[i] for i in moving])
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    figure.colorbar(dots, label="circumstances, 1 the mildest; grey: all falls", ticks=[1, len(told)])
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    pyplot.close(figure)
    return content.getvalue()


def shoot(args: Args, falls: list[Fall], episodes: Episodes, envs: BallbotVectorEnv) -> list[tuple[Path, str]]:
    """Films in the folder, each with a caption."""
    from ballbot.evaluation.video import write_replay

    assert args.out is not None
    made, seconds = [], HISTORY_INTERVAL * envs.dt
    for number, fall in enumerate(falls[: args.films], 1):
        k = fall.example
        poses, ways = (episodes.history[k][name][-round(FILM_SECONDS / seconds) :] for name in ("qpos", "direction"))
        whose: dict[str, Any] = {"terrain_id": int(episodes.terrain_ids[k]), "robot_id": int(episodes.robot_ids[k])}
        whose |= {"directions": ways, "sees": envs.config.observation == "encoded"}
        path = write_replay(args.out / f"fall_{number}", envs.simulations, poses, seconds, **whose)
        after = episodes.lengths[k] * envs.dt
        made.append((path, f"{number}: {fall.words}; falls after {after:.2f} s, seed {episodes.seeds[k]}"))
        print(f"wrote {path}", flush=True)
    return made


def write_folder(
    args: Args, said: list[str], falls: list[Fall], found: Tried, episodes: Episodes | None, runner: Runner
) -> None:
    """The page, and what lies beside it."""
    assert args.out is not None
    parts, films = [], list[tuple[Path, str]]()
    for number, fall in enumerate(falls, 1):
        pairs = {name: [value, value] for name, value in fall.values.items() if value != AXES[name].nominal}
        write_atomic(args.out / f"fall_{number}.json", (json.dumps(pairs, indent=1) + "\n").encode())
    if falls and importlib.util.find_spec("matplotlib") is not None:
        write_atomic(args.out / "falls.png", draw(runner.space, found, falls))
        caption = "Each axis, in the circumstances of the table (dots) and in all that it fell in (lines)."
        parts.append(f'<figure><img alt="{caption}" src="falls.png"><figcaption>{caption}</figcaption></figure>')
    elif falls:
        said = [*said, "Without the picture: matplotlib is missing, pip install matplotlib."]
        print("note: without falls.png: matplotlib is missing: pip install matplotlib")
    if episodes is not None and args.films and falls:
        try:
            films = shoot(args, falls, episodes, runner.envs)
        except (ImportError, RuntimeError, OSError) as error:  # the numbers are worth more
            said = [*said, f"Without films: {error}"]
            print(f"note: without films: {error}")
    kinds = {".mp4": "video/mp4", ".gif": "image/gif"}
    parts += [film_figure(caption, path.name, kinds[path.suffix]) for path, caption in films]
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in HEAD)
    lines = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in rows(falls))
    body = "".join(f"<p>{html.escape(text)}</p>" for text in said)
    body += f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>{''.join(parts)}"
    write_atomic(args.out / "index.html", page(f"What makes {args.policy} fall", body).encode())
    print(f"wrote {args.out / 'index.html'}")


def numbers_of(args: Args, space: Space, found: Tried, falls: list[Fall], episodes: int) -> dict[str, Any]:
    """All of it for programs."""
    options = {k: v for k, v in asdict(args).items() if k not in ("json", "out", "films", "num_threads")}
    return {
        "policy": args.policy,
        "options": options,
        "ranges": {name: list(span) for name, span in space.ranges.items()},
        "episodes": episodes,
        "tried": len(found.shares),
        "falls_as_meant": float(found.shares[0]),
        "circumstances": [
            {
                "distance": fall.distance,
                "falls": fall.falls,
                "starts": fall.starts,
                "seconds": fall.seconds,
                "values": fall.values,
                "numbers": dict(zip(space.names, fall.numbers.tolist(), strict=True)),
            }
            for fall in falls
        ],
    }


@program
def main(argv: list[str] | None = None) -> int:
    """Search, and return the exit status."""
    args = read_options(Args, argv, __doc__)
    if args.quick:
        for name, value in QUICK.items():
            setattr(args, name, value)
    count, again = check(args)
    began = time.perf_counter()
    space = Space(ranges(args))
    print(f"trying {args.policy} on {3 * args.starts} grounds", flush=True)
    envs, actor = make(args, dict(space.ranges))
    try:
        runner = Runner(envs, actor, space, args.seed, Progress(f"{args.budget} episodes"), args.budget)
        starts = np.arange(args.starts)
        found = search(
            space, lambda numbers: runner.trial(starts, numbers), count, args.share, np.random.default_rng(args.seed)
        )
        falls, episodes = tried_again(runner, found, again, args)
        said = [
            f"{args.policy}, {runner.episodes} episodes of at most {args.horizon * envs.dt:.1f} s on "
            f"{envs.config.terrain} ground, {len(found.shares)} circumstances, "
            f"{np.count_nonzero(found.fell)} of them with falls in {args.share:.0%} of the starts or more; as it is "
            f"meant, it falls in {found.shares[0]:.0%}."
        ]
        if always := [f"{name} {low:g}" for name, (low, high) in space.ranges.items() if low == high]:
            said.append(f"Always: {', '.join(always)}.")
        if not falls:
            closest = found.mildest(1, falls_only=False)[0]
            said.append(
                f"No circumstances were found in which it falls in {args.share:.0%} of the starts.  The nearest came "
                f"to {found.shares[closest]:.0%}."
            )
        print(f"\n{table(falls)}\n" if falls else "", *said, f"{time.perf_counter() - began:.0f} s", sep="\n")
        if args.json is not None:
            content = numbers_of(args, space, found, falls, runner.episodes)
            write_atomic(args.json, (json.dumps(content, indent=1, default=str) + "\n").encode())
            print(f"wrote {args.json}")
        if args.out is not None:
            write_folder(args, said, falls, found, episodes, runner)
    finally:
        envs.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
