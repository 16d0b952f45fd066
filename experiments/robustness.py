"""How much a policy bears: success along one axis after another, of robot, ground, sensors and motors, and under all.

    python experiments/robustness.py default lqr linear --quick               # a first look, some minutes each
    python experiments/robustness.py runs/mine lqr --out mine.png --json mine.json
    python experiments/robustness.py lqr --axes push action_delay

On each axis everything else is as it is meant.  The first value of each is that.  Axes of cameras are for policies that
see, others are passed over.  ``all`` is ``--randomize strong --sensors cheap``.  Needs matplotlib for the picture (pip
install matplotlib).
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import Positional

from ballbot.cli import check_options, check_output, program
from ballbot.envs import ROBOTS, BallbotVectorEnv, WorldConfig
from ballbot.envs.robots import robot_of
from ballbot.errors import SettingsError
from ballbot.evaluation import Candidate, find_candidate, run_episodes, summarize, wilson_interval
from ballbot.options import PluginFiles, read_options
from ballbot.ppo.checkpoint import write_atomic
from ballbot.progress import Progress
from ballbot.settings import Range, nearest

Options = dict[str, Any]
FEW, SHORT = 10, 1500
"""Episodes and steps of --quick."""


@dataclass(frozen=True)
class Axis:
    """One thing that is not as it is meant.

    Args:
        what: it is, with its unit.
        values: on the axis; the first is as it is meant, the last is the worst.
        options: of ``WorldConfig`` at a value.
        concerns: whether it is anything to those who act in a world of these options.
    """

    what: str
    values: tuple[Any, ...]
    options: Callable[[Any], Options]
    concerns: Callable[[Options], bool] = lambda told: True


def ranged(*names: str, sign: float = 1.0) -> Callable[[float], Options]:
    """Options that make these numbers of ``ballbot.envs.randomize`` a value."""
    return lambda x: {"ranges": dict.fromkeys(names, (sign * x, sign * x))}


def sensed(**what: Callable[[float], Any]) -> Callable[[float], Options]:
    """Options that make these values of ``ballbot.envs.sensors`` what is said of a value."""
    return lambda x: {"sensing": {name: of(x) for name, of in what.items()}}


def pair(x: float) -> tuple[float, float]:
    """A range of one value."""
    return x, x


def itself(x: float) -> float:
    """A value as it is."""
    return x


def sees(told: Options) -> bool:
    """Whether they see."""
    return told["observation"] != "proprioception"


def on_capsules(told: Options) -> bool:
    """Whether their wheels are those of the reference."""
    return robot_of(told.get("robot", "reference"), told.get("build", {})) == ROBOTS["reference"]


AXES: dict[str, Axis] = {
    "push": Axis("push every 2 s, N s", (0.0, 0.5, 1.0, 1.5, 2.0, 3.0), ranged("push_x")),
    "wind": Axis("wind, N", (0.0, 1.0, 2.0, 3.0, 4.0, 6.0), ranged("wind_x")),
    "slope": Axis("all the ground falls, degrees", (0.0, 2.0, 4.0, 6.0, 8.0, 10.0), ranged("gravity_y", sign=-1.0)),
    "uneven": Axis(
        "height of uneven ground, m", (0.1, 0.13, 0.16, 0.2, 0.25, 0.3), lambda x: {"ground": {"height": x}}
    ),
    "friction": Axis("friction of the ground", (1.0, 0.8, 0.6, 0.4, 0.3, 0.2), ranged("ground_friction")),
    "heavier": Axis("mass of the body, times", (1.0, 1.2, 1.4, 1.6, 2.0, 2.5), ranged("body_mass")),
    "lighter": Axis("mass of the body, times", (1.0, 0.8, 0.6, 0.5, 0.4, 0.3), ranged("body_mass")),
    "payload": Axis("put on top, kg", (0.0, 0.25, 0.5, 1.0, 1.5, 2.0), ranged("payload")),
    "centre": Axis("centre of mass beside the axis, m", (0.0, 0.005, 0.01, 0.02, 0.03, 0.05), ranged("com_x")),
    "weak_motors": Axis("strength of the motors, times", (1.0, 0.8, 0.6, 0.4, 0.3, 0.2), ranged("motor_strength")),
    "weak_wheel": Axis("strength of one motor, times", (1.0, 0.8, 0.6, 0.4, 0.2, 0.0), ranged("weak_wheel")),
    "motor_lag": Axis("motors follow slowly, ms", (0.0, 5.0, 10.0, 20.0, 40.0, 80.0), ranged("motor_lag")),
    "dead_zone": Axis("torque that is lost, of all", (0.0, 0.02, 0.05, 0.1, 0.2, 0.3), ranged("dead_zone")),
    "torque_noise": Axis("noise of torque, of all", (0.0, 0.02, 0.05, 0.1, 0.2, 0.4), ranged("torque_noise")),
    "action_delay": Axis(
        "motors are late, ms", (0.0, 10.0, 20.0, 40.0, 80.0, 150.0), sensed(action_delay_ms=pair)
    ),
    "sensor_delay": Axis("sensors are late, ms", (0.0, 10.0, 20.0, 40.0, 80.0, 150.0), sensed(delay_ms=pair)),
    "lost": Axis("messages that are lost", (0.0, 0.1, 0.3, 0.5, 0.7, 0.9), sensed(lost=itself)),
    "gyro_noise": Axis("noise of the gyroscope, rad/s", (0.0, 0.02, 0.05, 0.1, 0.2, 0.5), sensed(gyro_noise=itself)),
    "gyro_bias": Axis("bias of the gyroscope, rad/s", (0.0, 0.02, 0.05, 0.1, 0.2, 0.5), sensed(gyro_bias=itself)),
    "crooked": Axis("orientation is wrong, degrees", (0.0, 0.5, 1.0, 2.0, 4.0, 6.0), sensed(tilt_bias=itself)),
    "encoders": Axis(
        "counts of a wheel's turn, velocity estimated", (16384.0, 4096.0, 1024.0, 512.0, 256.0, 128.0),
        sensed(wheel_counts=int, velocity=lambda x: "estimated"),
    ),
    "wheels": Axis(
        "wheels of capsules, or of two rows of so many rollers", ("capsules", "8", "6", "4"),
        lambda x: {} if x == "capsules" else {"build": {"wheel_model": "rollers", "rollers": int(x)}}, on_capsules,
    ),
    "integrator": Axis(
        "integrator", ("Euler", "implicitfast", "RK4"), lambda x: {"integrator": x},
    ),
    "camera_noise": Axis(
        "noise of depth at 1 m, m", (0.0, 0.01, 0.02, 0.05, 0.1, 0.2), sensed(camera_noise=itself), sees
    ),
    "camera_holes": Axis("pixels that are lost", (0.0, 0.02, 0.05, 0.1, 0.2, 0.4), sensed(camera_holes=itself), sees),
    "camera_edges": Axis(
        "pixels at edges that are lost", (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), sensed(camera_edges=itself), sees
    ),
    "camera_lost": Axis("images that are lost", (0.0, 0.1, 0.3, 0.5, 0.7, 0.9), sensed(camera_lost=itself), sees),
    "camera_delay": Axis(
        "images are late, ms", (0.0, 25.0, 50.0, 100.0, 150.0, 200.0), sensed(camera_delay_ms=pair), sees
    ),
    "camera_tilt": Axis(
        "cameras are crooked, degrees", (0.0, 1.0, 2.0, 4.0, 6.0, 8.0), sensed(camera_tilt=itself), sees
    ),
}  # fmt: skip
"""Name -> axis."""
ALL: Options = {"randomize": "strong", "sensors": "cheap"}


@dataclass
class Args:
    """Find out how much policies bear."""

    policies: Positional[tuple[str, ...]]
    """Run folders, checkpoints, policies that come along, or classical controllers."""
    axes: tuple[str, ...] = ()
    """Which axes; all that apply, and all at once, if none is given."""
    episodes: Annotated[int, Range(1, 10_000)] = 25
    """At each value."""
    horizon: Annotated[int, Range(100, 10**6)] = 4000
    """Time limit of an episode, steps of 2 ms."""
    quick: bool = False
    """Ten episodes of 3 s each."""
    seed: Annotated[int, Range(0, 2**62 - 1)] = 0
    """Of the first episode's start; the others count up."""
    num_threads: Annotated[int, Range(0, 1024)] = 0
    """Threads that step the simulations; 0: every CPU."""
    out: Path | None = None
    """Picture of all curves, .png or .svg."""
    json: Path | None = None
    """File for all numbers."""
    plugin: PluginFiles = ()
    """Python file that adds grounds, commands or rewards by name; several files, each after its own --plugin."""


def judged(candidate: Candidate, world: Options, args: Args, tell: Callable[[float], None]) -> dict[str, float]:
    """What one makes of a world: of its episodes, how many were a success, and their mean return.

    ``tell`` is told now and then which share of them is done.
    """
    told = {k: v for k, v in candidate.options.items() if k not in ("encoder", "ranges", "sensing")}
    config = WorldConfig.of(
        **{**told, **world},
        terrain_split="eval",
        terrain_seed=1,
        num_terrains=args.episodes,
        max_episode_steps=args.horizon,
    )
    envs = BallbotVectorEnv(
        min(args.episodes, 64), config=config, encoder=candidate.options.get("encoder"), num_threads=args.num_threads
    )
    try:
        actor = candidate.make_actor(envs)
        found = summarize(run_episodes(envs, actor, args.episodes, args.seed, progress=tell))
    finally:
        envs.close()
    low, high = wilson_interval(round(found["success_rate"] * args.episodes), args.episodes)
    return {"success": found["success_rate"], "low": low, "high": high, "return": found["return_mean"]}


def named(value: float | str) -> str:
    """A value of an axis, to be read."""
    return value if isinstance(value, str) else f"{value:g}"


def area(curve: list[dict[str, float]]) -> float:
    """Under a curve of success, from 0 to 1: values count as evenly far from each other."""
    return float(np.trapezoid([point["success"] for point in curve]) / (len(curve) - 1))


def measure(args: Args, progress: Progress) -> dict[str, Any]:
    """Policy -> axis -> curve; and what each is worth under all at once."""
    found: dict[str, Any] = {}
    done = 0
    who = {name: find_candidate(name, seed=args.seed) for name in dict.fromkeys(args.policies)}
    keys = {n: [key for key in args.axes or AXES if AXES[key].concerns(c.options)] for n, c in who.items()}
    total = sum(sum(len(AXES[key].values) for key in of) + (not args.axes) for of in keys.values())

    def judge(candidate: Candidate, world: Options) -> dict[str, float]:
        nonlocal done
        progress(done / total)
        told = judged(candidate, world, args, lambda share: progress((done + share) / total))
        done += 1
        return told

    def say(text: str) -> None:
        progress.close()
        print(text, flush=True)

    for name, candidate in who.items():
        of = dict[str, Any](curves={}, areas={})
        for number, key in enumerate(keys[name], 1):
            axis, progress.what = AXES[key], f"{name}: {key}, axis {number} of {len(keys[name])}"
            curve = [{"value": value, **judge(candidate, axis.options(value))} for value in axis.values]
            of["curves"][key], of["areas"][key] = curve, area(curve)
            rates = " ".join(f"{100 * point['success']:4.0f}" for point in curve)
            values = " ".join(f"{named(value):>4}" for value in axis.values)
            say(f"{name}: {key} ({axis.what} {values}): {rates} %, area {of['areas'][key]:.2f}")
        if not args.axes:
            progress.what = f"{name}: all at once"
            of["all"] = judge(candidate, ALL)
            say(f"{name}: all at once: {100 * of['all']['success']:.0f} %, return {of['all']['return']:.1f}")
        found[name] = of
    return found


def measured(found: dict[str, Any]) -> list[str]:
    """Axes that there are curves of."""
    return [key for key in AXES if any(key in of["areas"] for of in found.values())]


def table(found: dict[str, Any]) -> str:
    """Areas under the curves, a line an axis; "-" where it does not apply."""
    names = list(found)
    lines = [["axis", *names], ["---"] * (1 + len(names))]
    for key in measured(found):
        areas = [of["areas"].get(key) for of in found.values()]
        lines.append([AXES[key].what.split(",")[0], *("-" if area is None else f"{area:.2f}" for area in areas)])
    if all("all" in of for of in found.values()):
        lines.append(["all at once", *(f"{100 * found[name]['all']['success']:.0f} %" for name in names)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(found: dict[str, Any], path: Path) -> None:
    """All curves, each with its intervals, and the areas under them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    keys = measured(found)
    columns = min(4, len(keys) + 1)
    rows = -(-(len(keys) + 1) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(3.4 * columns, 2.6 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(keys) + 1 :]:
        axis.set_axis_off()
    for key, axis in zip(keys, axes.flat, strict=False):
        for number, (name, of) in enumerate(found.items()):
            if key not in of["curves"]:
                continue
            curve, at = of["curves"][key], np.arange(len(AXES[key].values))
            axis.plot(at, [p["success"] for p in curve], color=f"C{number}", marker="o", markersize=3, label=name)
            axis.fill_between(at, [p["low"] for p in curve], [p["high"] for p in curve], color=f"C{number}", alpha=0.15)
        axis.set(xticks=at, xticklabels=[named(value) for value in AXES[key].values], ylim=(-0.03, 1.03))
        axis.set_title(AXES[key].what, fontsize=9)
        axis.tick_params(labelsize=8)
    axes.flat[0].legend(fontsize=8)
    axes.flat[0].set_ylabel("success", fontsize=8)
    areas = np.array([[of["areas"].get(key, np.nan) for key in keys] for of in found.values()])
    last = axes.flat[len(keys)]
    last.imshow(areas, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    last.set_yticks(range(len(found)), [str(name)[-20:] for name in found], fontsize=7)
    last.set_xticks(range(len(keys)), keys, rotation=90, fontsize=7)
    last.set_title("area under each curve, 0 to 1", fontsize=9)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


@program
def main(argv: list[str] | None = None) -> int:
    """Judge, and return the exit status."""
    args = read_options(Args, argv, __doc__)
    check_options(args)
    if not args.policies:
        raise SettingsError("name who is to be judged: a run folder, a checkpoint, or a controller such as lqr")
    for key in args.axes:
        if key not in AXES:
            raise SettingsError(f"--axes {key} is unknown: {nearest(key, AXES)}")
    if args.json is not None:
        check_output(args.json, "--json", (".json",))
    if args.out is not None:
        if importlib.util.find_spec("matplotlib") is None:
            raise ImportError("--out needs matplotlib: pip install matplotlib")
        check_output(args.out, "--out", (".png", ".svg"))
    if args.quick:
        args.episodes, args.horizon = FEW, SHORT
    with closing(Progress("loading")) as progress:
        found = measure(args, progress)
    if not measured(found):
        raise SettingsError(
            f"--axes {' '.join(args.axes)} concern cameras, or wheels of capsules, which {' and '.join(found)} has not:"
            " name others"
        )
    print(f"\nArea under each curve of success, from 0 to 1, {args.episodes} episodes a value:\n\n{table(found)}")
    if args.json is not None:
        write_atomic(args.json, json.dumps({"episodes": args.episodes, "policies": found}, indent=1).encode())
        print(f"wrote {args.json}")
    if args.out is not None:
        draw(found, args.out)
        print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
