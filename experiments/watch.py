"""Watch a trained policy: in MuJoCo's viewer, or in a video.

    python experiments/watch.py runs/NAME                                      # needs a display
    python experiments/watch.py runs/NAME --record robot.mp4                   # needs none
    python experiments/watch.py linear --terrain stairs:0.2 --record robot.gif --speed 0.5
    python experiments/watch.py --web                                          # drive it, in a browser
    python experiments/watch.py lqr --drive --command velocity                 # drive it, in MuJoCo's viewer

In the viewer, push the robot: double-click on it, then drag with Ctrl and the right mouse button.  Tell it what to do:
the arrow keys set the direction of a goal, the velocity (Home and End: the yaw rate) or the place, Enter tells it to
stand.  Until a key is pressed, it is told what is drawn at random.  Episodes follow each other until the window is
closed.  A video shows one episode, with what the depth cameras see above, near in yellow and far in blue, and what a
policy estimates of the ground beside what is true.  Ground that it must not drop to is tinted.

With --drive the robot stands until it is told something, and an episode lasts until it falls or leaves its ground.
Space pushes it, Backspace begins anew, Insert on the next ground, Delete is slow motion.  --web needs no display here:
the page that it serves draws by itself, for keys, touch and gamepads.
"""

from __future__ import annotations

import sys
import time
import webbrowser
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Annotated, Literal

import numpy as np
import tyro

from ballbot.cli import check_output, program
from ballbot.driving import Drive
from ballbot.driving.server import Server
from ballbot.driving.steering import BACKSPACE, DELETE, INSERT, SPACE, Steering
from ballbot.envs import FIELDS, BallbotVectorEnv
from ballbot.envs.rendering import has_display
from ballbot.evaluation import Actor, find_candidate, in_task, task_of
from ballbot.evaluation.video import ENDINGS, Estimates, film, playable_fps, shrunk, write_video
from ballbot.options import PluginFiles, kind_options, randomize_options, read_options
from ballbot.progress import reported
from ballbot.settings import Range

PAUSES_PER_SECOND = 60
"""How often the viewer waits for the clock."""
LIMIT, NO_LIMIT = 4000, 10**9
"""Steps of an episode, watched and driven."""
LATE = 0.1
"""s that a driven robot may be behind and catch up."""
DRIVING_KEYS = ", Space pushes, Backspace is the start, Insert the next ground, Delete slow motion"
"""Of --drive, besides those that steer."""


@dataclass
class Args:
    """Watch a trained policy."""

    checkpoint: Annotated[str, tyro.conf.Positional] = "default"
    """Checkpoint, run folder (for its best.pt), the name of a policy that comes with ballbot ("default"), or a
    classical controller: "pid", "linear", "lqr", "observer", "foresight", "informed", "guided",
    "guided_observer"; all but pid with a speed of choice, m/s, or yours, "linear:0.2"."""
    record: Path | None = None
    """Video to write, .mp4, .gif or .webp, instead of opening a window."""
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
    seed: Annotated[int, Range(0, 2**62 - 1)] = 0
    """Of the first episode: terrain, heading and tilt."""
    sensors: str | None = None
    """How well the robot senses, and how soon its motors obey, "perfect" or "cheap" (default: as the policy was trained
    for).  --sensors.delay-ms 0 20 and so on are single values."""
    randomize: str | None = None
    """What differs from episode to episode, "mild", "strong", or a .json file of ranges by name (default: nothing).
    --randomize.push-x 1 1 and so on are ranges of single numbers."""
    horizon: int | None = None
    """Time limit of an episode, steps of 2 ms (default: 4000; driven, none)."""
    initial_speed: float = 0.0
    """Largest speed at the start, m/s."""
    stochastic: bool = False
    """Sample actions as training does, instead of the most likely ones."""
    encoder: Path | None = None
    """Encoder of policies that see (default: the copy that its run keeps, or the one that comes with ballbot)."""
    speed: Annotated[float, Range(0.01, 100)] = 1.0
    """Seconds of simulation in a second of film or of your life."""
    fps: Annotated[int, Range(1, 100)] = 25
    """Frames of the video in a second; a .gif has the nearest of 50, 33.3, 25, 20, ..., a .webp at most 50."""
    shrink: Literal[1, 2, 4] = 1
    """What each side of the video, 640 x 480 pixels, is divided by."""
    drive: bool = False
    """Drive the robot by the keys of MuJoCo's viewer; it stands until it is told something."""
    web: bool = False
    """Drive it in a browser instead, which needs no display here."""
    port: Annotated[int, Range(0, 65535)] = 8800
    """Where its page is; 0: any that is free."""
    host: str = "127.0.0.1"
    """Address of this machine that its page is reached at; by default from this machine alone, 0.0.0.0: from others
    too, and whoever reaches it can drive."""
    plugin: PluginFiles = ()
    """Python file that adds grounds, commands or rewards by name; several files, each after its own --plugin."""


def make(args: Args) -> tuple[BallbotVectorEnv, Actor, Estimates | None]:
    """The world, the policy, and what that estimates, if it does."""
    candidate = find_candidate(args.checkpoint, encoder=args.encoder, deterministic=not args.stochastic, seed=args.seed)
    options = candidate.options
    if args.encoder is not None and options["observation"] != "encoded":
        raise ValueError(f"--encoder {args.encoder} is for policies that see, this one does not: leave it out")
    kinds = {"robot": args.robot, "sensors": args.sensors, **kind_options(args)}
    task = task_of(options, args.terrain, args.command, **kinds)
    options = in_task(options, task, adapts=candidate.policy is None)
    policy = candidate.policy
    estimated = () if policy is None or args.record is None else tuple(policy.metadata.get("estimates", ()))
    if set(estimated) <= set(FIELDS):
        options["privileged_fields"] = estimated  # the truth, for a film
    else:
        print(f"note: {', '.join(estimated)} are no fields here (--plugin FILE), so the film is without them")
        estimated = ()
    envs = BallbotVectorEnv(
        1,
        **options,
        **randomize_options(args),
        max_episode_steps=(NO_LIMIT if args.drive or args.web else LIMIT) if args.horizon is None else args.horizon,
        initial_speed=args.initial_speed,
        terrain_split="eval",
        terrain_seed=1,
        num_terrains=16,
        num_threads=1,
        render_mode="rgb_array" if args.record is not None else None if args.web else "human",
    )
    return envs, candidate.make_actor(envs), policy.estimates if policy is not None and estimated else None


def show(envs: BallbotVectorEnv, actor: Actor, args: Args) -> None:
    """Episode after episode in the viewer, in real time, until its window is closed; its keys drive the robot."""
    steering = Steering(envs)
    obs, _ = envs.reset(seed=args.seed)
    began, steps, start = np.ones(1, bool), 0, time.perf_counter()
    pause = max(round(args.speed / PAUSES_PER_SECOND / envs.dt), 1)
    while envs.watched:
        obs, _, terminated, truncated, _ = envs.step(actor(obs, began))
        began, steps = terminated | truncated, steps + 1
        if said := steering.apply(bool(began[0])):
            print(said, flush=True)
        if steps % pause == 0:
            time.sleep(max(start + steps * envs.dt / args.speed - time.perf_counter(), 0.0))


def drive_in_viewer(envs: BallbotVectorEnv, actor: Actor, args: Args) -> None:
    """Drive the robot by the viewer's keys, until its window is closed."""
    steering = Steering(envs)
    drive = Drive(envs, actor, args.seed, args.speed)
    steering.others |= {
        SPACE: lambda: drive.push(envs.world.robots.heading[:, 0]),
        BACKSPACE: drive.reset,
        INSERT: drive.next_ground,
        DELETE: drive.slower,
    }
    due, steps = time.perf_counter(), 0
    while envs.watched:
        episode, steps = drive.episode, steps + 1
        drive.step()
        if said := steering.apply(drive.episode != episode):
            drive.said = said
        due = max(due + envs.dt / drive.speed, time.perf_counter() - LATE)
        if steps % max(round(drive.speed / PAUSES_PER_SECOND / envs.dt), 1) == 0:
            envs.caption = captions(drive)
            time.sleep(max(due - time.perf_counter(), 0.0))
        envs.render()


def announce(address: str) -> None:
    """Say where the page is, and show it where there is a desktop."""
    print(f"drive at {address} until Ctrl-C here", flush=True)
    if has_display():
        Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def captions(drive: Drive) -> tuple[str, str]:
    """Names and values of what there is to tell, a line each."""
    now = drive.now()
    lines = {
        "told": ", ".join(f"{x + 0.0:.2f}" for x in drive.envs.command[0]),
        "speed": f"{np.hypot(*now.velocity):.2f} m/s",
        "tilt": f"{now.tilt_deg:.1f} deg",
        "torque": f"{np.abs(now.torques).max():.1f} N m",
        "ground": drive.ground,
        "": drive.said,
    }
    return "\n".join(lines), "\n".join(lines.values())


@program
def main(argv: list[str] | None = None) -> int:
    """Watch, and return the exit status."""
    args = read_options(Args, argv, __doc__)
    if args.record is not None:
        check_output(args.record, "--record", ENDINGS)
        if args.drive or args.web:
            raise ValueError(
                f"--record {args.record} films what nobody drives: leave out {'--web' if args.web else '--drive'}"
            )
    if args.checkpoint == "pid" and (args.drive or args.web):
        raise ValueError("pid stands and does not go anywhere: drive lqr, linear, observer or a policy")
    envs, actor, estimates = make(args)
    with closing(envs):
        if args.web:
            drive = Drive(envs, actor, args.seed, args.speed)
            Server(drive, args.checkpoint, args.host, args.port).run(announce)
            return 0
        if args.record is None:
            if not has_display():
                raise ValueError(
                    "this machine has no display (DISPLAY is not set) for a window: use --record FILE.mp4, or --web to "
                    "drive in a browser"
                )
            print("in the window: arrows change what it is told, Enter stands" + (DRIVING_KEYS if args.drive else ""))
            (drive_in_viewer if args.drive else show)(envs, actor, args)
            return 0
        fps = playable_fps(args.record, args.fps)
        if fps != args.fps:
            print(f"note: {fps:.4g} frames a second, not {args.fps}: what {args.record.suffix} can play")
        seconds = envs.config.max_episode_steps * envs.dt / args.speed
        print(f"drawing up to {seconds:.1f} s; without a GPU that may take a minute", flush=True)
        pictures = (shrunk(frame, args.shrink) for frame in film(envs, actor, args.seed, fps, args.speed, estimates))
        total = int(seconds * fps) + 1
        frames = write_video(args.record, reported(pictures, total, str(args.record)), fps)
        print(f"wrote {args.record}, {frames / fps:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
