"""Train a ballbot by PPO: the main job.

    python experiments/ppo_ballbot.py                         # uneven ground, the default settings
    python experiments/ppo_ballbot.py --terrain flat --total-timesteps 1500000
    python experiments/ppo_ballbot.py --clip-range 0.015
    python experiments/ppo_ballbot.py --resume runs/NAME      # go on where it stopped, bit for bit
    python experiments/ppo_ballbot.py --config runs/NAME/config.json --seed 1
    torchrun --nproc-per-node 2 experiments/ppo_ballbot.py    # data-parallel

Everything is written to runs/<run-name> under the current folder: config.json, progress.csv, TensorBoard events,
checkpoints, best.pt (the best evaluation on terrains never trained on) and last.pt.  Watch it with
``tensorboard --logdir runs``.

Ctrl-C finishes the update under way, saves and exits.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import mujoco
import torch
import tyro

from ballbot.envs import BallbotVectorEnv
from ballbot.ppo import CheckpointError, DivergedError, PPOConfig, RunDirectoryError, train
from mujoco_patch import ContactFixError


@dataclass
class EnvConfig:
    """The world the robot learns in."""

    terrain: Literal["perlin", "flat"] = "perlin"
    """Uneven ground (simplex noise, 0.1 m high, a new field each episode) or an endless plane."""
    frame: Literal["body", "world"] = "body"
    """Axes of the observation: the robot's own (learns fast) or the world's (the reference's)."""
    cameras: bool = False
    """Depth cameras: not available in this version, so only --no-cameras."""
    max_episode_steps: int = 4000
    """Time limit of an episode, in steps of 2 ms."""
    integrator: Literal["Euler", "implicitfast", "RK4"] = "Euler"
    """MuJoCo's integrator; RK4 is the reference's and four times slower."""
    num_terrains: int = 64
    """Height fields to train on, one drawn per episode."""
    terrain_seed: int = 0
    """Base seed of the terrains; training and evaluation terrains differ whatever it is."""
    random_yaw: bool = True
    """Draw the heading at the start of an episode."""
    initial_tilt_deg: float = 1.0
    """Largest tilt at the start of an episode, degrees."""
    initial_speed: float = 0.4
    """Largest speed at the start of a training episode, m/s; evaluation episodes start at rest."""
    tilt_limit_deg: float = 20.0
    """A larger tilt is a fall and ends the episode, degrees."""
    num_threads: int = 0
    """Threads that step the simulations (0: every CPU); results do not depend on it."""


@dataclass
class Args:
    """Train a ballbot by PPO.  Run with the defaults, it learns to cross uneven ground."""

    ppo: Annotated[PPOConfig, tyro.conf.arg(name="")] = field(default_factory=PPOConfig)
    env: Annotated[EnvConfig, tyro.conf.arg(name="")] = field(default_factory=EnvConfig)
    run_name: str | None = None
    """Folder under runs/ (default: terrain, seed and time)."""
    resume: Path | None = None
    """Run folder or checkpoint to continue, with its own settings; only a longer --total-timesteps and how often to
    evaluate and save may be changed."""
    config: Path | None = None
    """config.json of another run: its settings become the defaults that the other options change."""
    torch_threads: int = 1
    """Threads of PyTorch (0: PyTorch's choice).  Networks this small gain little from more and lose much on a busy
    machine; another count rounds differently, hence gives another run."""


def run_dir_of(resume: Path) -> Path:
    """The run folder of a folder or of a checkpoint in it."""
    if resume.is_dir():
        return resume
    return resume.parent.parent if resume.parent.name == "checkpoints" else resume.parent


def load_settings(path: Path) -> tuple[PPOConfig, EnvConfig]:
    """The settings in a run's config.json.

    Raises:
        ValueError: the file is missing, no JSON, or has a key this version does not know.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: settings are read from the config.json of a run") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}): give the config.json of a run") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, not a JSON object: give the config.json of a run")
    sections: list[Any] = []
    for name, cls in (("ppo", PPOConfig), ("env", EnvConfig)):
        section = content.get(name, {})
        known = {f.name for f in fields(cls)}
        if not isinstance(section, dict):
            raise ValueError(f'{path}: "{name}" must be a JSON object')
        unknown = sorted(set(section) - known)
        if unknown:
            raise ValueError(
                f'{path}: "{name}" has the unknown key {unknown[0]!r}; known are {", ".join(sorted(known))}'
            )
        try:
            sections.append(cls(**section))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
    unknown = sorted(set(content) - {"ppo", "env", "env_metadata", "mujoco", "world_size", "versions", "git_commit"})
    if unknown:
        raise ValueError(f'{path} has the unknown key {unknown[0]!r}: settings belong under "ppo" or "env"')
    return sections[0], sections[1]


def parse(argv: list[str] | None = None) -> Args:
    """Command line to Args, with the settings of --config or --resume as defaults."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--resume", type=Path)
    given, _ = first.parse_known_args(argv)
    default = Args()
    if given.config and given.resume:
        raise ValueError("--config starts a new run and --resume continues an old one: give one of them")
    if given.config:
        ppo, env = load_settings(given.config)
        default = replace(default, ppo=ppo, env=env)
    elif given.resume:
        if not given.resume.exists():
            raise ValueError(f"--resume {given.resume} does not exist: give a run folder or a checkpoint in one")
        ppo, env = load_settings(run_dir_of(given.resume) / "config.json")
        default = replace(default, ppo=ppo, env=env)
    return tyro.cli(
        tyro.conf.OmitArgPrefixes[Args],
        args=argv,
        default=default,
        description=__doc__,
        prog="ppo_ballbot.py",
    )


def main(argv: list[str] | None = None) -> None:
    """Train, and exit with 2 on bad input."""
    try:
        args = parse(argv)
        if args.env.cameras:
            raise ValueError("--cameras: depth cameras are not available in this version, use --no-cameras")
        if args.torch_threads < 0:
            raise ValueError(f"--torch-threads {args.torch_threads} is negative: use 0 for PyTorch's choice")
        if args.torch_threads:
            torch.set_num_threads(args.torch_threads)
        name = args.run_name or f"{args.env.terrain}_{args.ppo.seed}_{time.strftime('%Y%m%d-%H%M%S')}"
        if args.run_name and ("/" in name or "\\" in name or name in (".", "..")):
            raise ValueError(f"--run-name {name!r} must be a plain folder name: it is created under runs/")
        run_dir = run_dir_of(args.resume) if args.resume else Path("runs") / name
        options = {k: v for k, v in asdict(args.env).items() if k != "cameras"}

        def make_envs(num_envs: int) -> BallbotVectorEnv:
            return BallbotVectorEnv(num_envs, stagger_first_episodes=True, **options)

        def make_eval_envs(num_envs: int) -> BallbotVectorEnv:
            return BallbotVectorEnv(num_envs, terrain_split="eval", **{**options, "initial_speed": 0.0})

        result = train(
            args.ppo,
            make_envs,
            make_eval_envs,
            run_dir=run_dir,
            resume=args.resume,
            # what a policy's inputs mean: a checkpoint refuses to go on with others
            env_metadata={
                "observation": "proprioception",
                "frame": args.env.frame,
                "terrain": args.env.terrain,
            },
            settings={"env": asdict(args.env), "mujoco": mujoco.__version__},
        )
    except (
        ValueError,
        TypeError,
        CheckpointError,
        RunDirectoryError,
        ContactFixError,
        DivergedError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    best = "" if result.best_return is None else f"; best evaluation return {result.best_return:.1f}"
    print(f"finished at step {result.global_step:,}{best}. Files: {run_dir}, curves: tensorboard --logdir runs")


if __name__ == "__main__":
    main()
