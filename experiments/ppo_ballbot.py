"""Train a ballbot by PPO: the main job.

    python experiments/ppo_ballbot.py                         # uneven ground, the default settings
    python experiments/ppo_ballbot.py --terrain flat --total-timesteps 1500000
    python experiments/ppo_ballbot.py --clip-range 0.015
    python experiments/ppo_ballbot.py --preset paper          # the settings of Salehi 2025, for comparison
    python experiments/ppo_ballbot.py --resume runs/NAME      # go on where it stopped, bit for bit
    python experiments/ppo_ballbot.py --config runs/NAME/config.json --seed 1
    torchrun --nproc-per-node 2 experiments/ppo_ballbot.py    # data-parallel

Everything is written to runs/<run-name> under the current folder: config.json, progress.csv, TensorBoard events,
checkpoints, best.pt (the best evaluation on validation terrains, never trained on) and last.pt.  Watch it with
``tensorboard --logdir runs``.

Ctrl-C, SIGTERM or closing the terminal finishes the update under way, saves and exits.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
import torch
import tyro
from ballbot.envs.simulation import usable_cpus
from numpy.typing import NDArray

from ballbot.controllers import feedback_prior
from ballbot.encoders import EncoderError, FrozenEncoder, load_encoder
from ballbot.encoders.frozen import encoder_bytes, kept_encoder
from ballbot.envs import BallbotVectorEnv
from ballbot.envs.observations import CAMERA_INTERVAL, OBSERVATION_SIZES
from ballbot.evaluation.video import film, shrunk
from ballbot.ppo import (
    Agent,
    CheckpointError,
    DivergedError,
    LostContactError,
    PPOConfig,
    RunDirectoryError,
    SettingsError,
    Structure,
    distributed_setup,
    train,
)
from ballbot.ppo.checkpoint import find_checkpoint, read_small, run_dir_of
from ballbot.ppo.diagnosis import out_of_memory
from ballbot.ppo.distributed import launched, on_rank_zero
from ballbot.ppo.tracking import Tracker, TrackingError
from ballbot.settings import check_settings
from ballbot.symmetry import robot_symmetry
from mujoco_patch import ContactFixError

TRAINING_ONLY = ("initial_speed", "target_speed", "progress_weight", "action_limit")
"""Options of the environment in which training differs from the task, which is their defaults."""
FREE_TO_CHANGE = ("encoder", "num_threads")
"""Options of the environment that may differ on --resume; another encoder is compared by what it holds."""
SEVERAL = os.environ.get("WORLD_SIZE", "1") not in ("", "1")
RANK = int(rank) if SEVERAL and (rank := os.environ.get("RANK", "0")).isdecimal() else 0
"""Index of this process among those torchrun started: the first one speaks for all."""


@dataclass
class EnvConfig:
    """The world the robot learns in."""

    terrain: Literal["perlin", "flat"] = "perlin"
    """Uneven ground (simplex noise, 0.1 m high, a new field each episode) or an endless plane."""
    frame: Literal["body", "world"] = "body"
    """Axes of the observation: the robot's own (learns fast) or the world's (the reference's)."""
    cameras: bool = True
    """See the ground by two depth cameras, through a frozen encoder.  Without, training takes a quarter less time."""
    encoder: str | None = None
    """File of the encoder (pretrain_encoder.py writes one; default: the one that comes with ballbot).  The run keeps a
    copy."""
    camera_interval: int = CAMERA_INTERVAL
    """Steps of 2 ms from an image to the next: 6 are the reference's 83 Hz, 16 are 31 Hz, as common depth cameras have,
    and cost less."""
    max_episode_steps: int = 4000
    """Time limit of an episode, in steps of 2 ms."""
    integrator: Literal["Euler", "implicitfast", "RK4"] = "Euler"
    """MuJoCo's integrator; RK4 is the reference's and four times slower."""
    contact_fix: bool = True
    """Off: what becomes of training on MuJoCo as it is, whose wheels grip along arbitrary directions."""
    num_terrains: int = 64
    """Height fields to train on, one drawn per episode."""
    terrain_seed: int = 0
    """Base seed of the terrains; those to train on, to choose best.pt by and to judge on (evaluate.py) all differ."""
    random_yaw: bool = True
    """Draw the heading at the start of an episode."""
    initial_tilt_deg: float = 1.0
    """Largest tilt at the start of an episode, degrees."""
    initial_speed: float = 0.4
    """Largest speed at the start of a training episode, m/s; evaluation episodes start at rest."""
    tilt_limit_deg: float = 20.0
    """A larger tilt is a fall and ends the episode, degrees."""
    target_speed: float | None = None
    """Velocity along the goal for which training pays most, m/s; evaluation pays the faster the more (None: training
    too)."""
    progress_weight: float = 1.0
    """Factor on the reward for progress in training; evaluation pays 1."""
    action_limit: float = 1.0
    """Largest action in training: below 1, motors are weaker there than they are, which leaves a margin of safety."""
    num_threads: int = 0
    """Threads that step the simulations (0: every CPU, shared among the processes of torchrun); results do not depend
    on it."""

    def __post_init__(self) -> None:
        check_settings(self)


def our_ppo() -> PPOConfig:
    """The settings of PPO found for the robot on uneven ground; docs/tuning.md says how, and what each is for."""
    return PPOConfig(
        total_timesteps=4_000_000,
        num_envs=64,
        num_steps=64,
        action_repeat=5,
        gamma=0.995,
        gae_lambda=0.98,
        learning_rate=1e-3,
        update_epochs=5,
        minibatch_size=512,
        clip_range=0.2,
        target_kl=0.02,
        normalize_values=True,
        linear_skip=True,
        initial_std=1.0,
        eval_interval=500_000,
        eval_episodes=50,
    )


def our_env() -> EnvConfig:
    """Those of the world."""
    return EnvConfig(camera_interval=16, num_terrains=256, initial_speed=0.2, target_speed=0.5, progress_weight=6.0)


@dataclass
class Args:
    """Train a ballbot by PPO.  Run with the defaults, it learns to balance on uneven ground."""

    ppo: Annotated[PPOConfig, tyro.conf.arg(name="")] = field(default_factory=our_ppo)
    env: Annotated[EnvConfig, tyro.conf.arg(name="")] = field(default_factory=our_env)
    run_name: str | None = None
    """Folder under runs/ (default: terrain, seed and time)."""
    preset: Literal["default", "paper"] = "default"
    """Settings to start from, which the other options change: ours, or those of Salehi 2025 (arXiv:2505.18417)."""
    resume: Path | None = None
    """Run folder or checkpoint to continue, with its own settings; only a longer --total-timesteps, how often to
    evaluate and save, and by --change-encoder the eyes may be changed.  A longer run stretches the schedule of the
    learning rate, which jumps up again; what the run saved after the given checkpoint is moved to
    checkpoints/abandoned."""
    config: Path | None = None
    """config.json of another run: its settings become the defaults that the other options change."""
    capture_video: bool = False
    """Film an episode after each evaluation: TensorBoard shows it among the images, runs/NAME/videos keeps it."""
    track: bool = False
    """Log to Weights & Biases as well (the extra "wandb"); its own variables, such as WANDB_PROJECT, WANDB_ENTITY and
    WANDB_MODE=offline, say where."""
    change_encoder: bool = False
    """With --resume: go on with another encoder than the policy was trained with.  New episodes start, and best.pt,
    which later policies cannot be compared with, is moved to checkpoints/abandoned."""
    prior_speed: float | None = None
    """m/s along the goal at which a linear controller drives to whose actions the policy adds its own (None: no
    controller, learn from nothing).  It is part of the policy; for --frame body."""
    camera_scale: float = 0.1
    """Factor on what the networks get of the images, where 1 is as much as of everything else.  With little, robots
    learn to balance as fast as without cameras."""
    velocity_scale: float = 4.0
    """Factor on what the networks get of the robot's horizontal velocity, likewise.  With much, robots learn sooner to
    hold a speed, uphill too.  With --frame body only."""
    symmetry: bool = True
    """Act the same whichever of the three wheels is ahead, as far as nothing that the cameras see speaks against it.
    With --frame body only: the numbers of the other do not turn with the robot."""
    value_sees_action: bool = False
    """Let the value function see the last action.  It then takes noise that pushes as one does uphill for a hill, and
    robots learn to travel slowly.  The policy sees it anyway."""
    torch_threads: int = 1
    """Threads of PyTorch (0: PyTorch's choice).  Networks this small gain little from more and lose much on a busy
    machine; another count rounds differently, hence gives another run.  --resume and --config bring the count of the
    old run with them."""

    def __post_init__(self) -> None:
        if not 0 <= self.torch_threads <= 1024:
            raise SettingsError(
                f"--torch-threads {self.torch_threads} is out of range: use 1 to 1024, or 0 for PyTorch's choice"
            )
        if self.prior_speed is not None and not 0 <= self.prior_speed <= 2:
            raise SettingsError(f"--prior-speed {self.prior_speed} is out of range: use 0 to 2 m/s, or None")
        for name in ("camera_scale", "velocity_scale"):
            if not 1e-6 <= (scale := getattr(self, name)) <= 100:
                option = f"--{name.replace('_', '-')}"
                raise SettingsError(f"{option} {scale} is out of range: use 0.000001 to 100")
        if self.ppo.shared_trunk and not self.value_sees_action:
            raise SettingsError(
                "--shared-trunk needs --value-sees-action, as policy and value then see the same: add it, or leave "
                "--shared-trunk out"
            )
        if self.symmetry and self.env.frame == "body" and not self.env.random_yaw:
            raise SettingsError(
                "--no-random-yaw needs --no-symmetry: sides that no robot ever shows the goal cannot be learned from"
            )
        if self.prior_speed is not None and self.env.frame != "body":
            raise SettingsError(
                f"--prior-speed {self.prior_speed} needs --frame body, which its controller reads: use it, or "
                "--prior-speed None"
            )


def paper() -> Args:
    """The settings of Salehi 2025 as far as they are known; docs/results.md says what is not.

    Its value loss is the whole mean squared error, ours is half of it, hence the 4.  Its networks have an initial
    standard deviation of 1, as all of stable-baselines3's.
    """
    ppo = PPOConfig(
        total_timesteps=8_000_000,
        schedule_timesteps=10_000_000,
        num_envs=10,
        num_steps=2048,
        gamma=0.99,
        gae_lambda=0.95,
        learning_rate=1e-4,
        lr_schedule="piecewise",
        adam_eps=1e-8,
        update_epochs=5,
        minibatch_size=256,
        clip_range=0.015,
        target_kl=0.3,
        ent_coef=0.001,
        vf_coef=4.0,
        max_grad_norm=0.5,
        weight_decay=0.01,
        normalize_advantage=False,
        normalize_observations=False,
        policy_average=None,
        hidden_size=128,
        num_layers=4,
        activation="leaky_relu",
        initial_std=1.0,
        eval_episodes=10,
    )
    env = EnvConfig(terrain="perlin", frame="world", cameras=True, initial_speed=0.0, random_yaw=False)
    return Args(
        ppo=ppo,
        env=env,
        camera_scale=1.0,
        velocity_scale=1.0,
        symmetry=False,
        value_sees_action=True,
        preset="paper",
    )


OWN_SETTINGS = ("prior_speed", "camera_scale", "velocity_scale", "symmetry", "value_sees_action")
"""What decides how a policy is built besides the settings of PPO and of the world."""
CONFIG_KEYS = {
    "ppo",
    "env",
    *OWN_SETTINGS,
    "torch_threads",
    "env_metadata",
    "mujoco",
    "world_size",
    "versions",
    "git_commit",
}
"""What a run's config.json holds; that from "env_metadata" on only tells where the numbers came from."""


MEMORY = ("num_envs", "num_steps", "minibatch_size", "num_terrains")
"""Settings that decide how much of it is needed."""
MAX_CONFIG_BYTES = 2**24
"""Of a config.json; a run's has two thousand."""
GONE = {"paid_speed": 2.0, "final_progress_weight": None}
"""Settings of older versions -> the values that changed nothing, which are all that this version can go on with."""


def recorded_metadata(path: Path) -> dict[str, Any]:
    """What a run's config.json says of its policy's inputs; empty if it cannot be read."""
    try:
        metadata = json.loads(read_small(path, MAX_CONFIG_BYTES))["env_metadata"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def recorded_encoder(path: Path) -> str | None:
    """Content hash of the encoder in a run's config.json; None: without cameras, or not readable."""
    encoder = recorded_metadata(path).get("encoder")
    return encoder if isinstance(encoder, str) else None


def load_settings(path: Path) -> Args:
    """The settings in a run's config.json, as defaults of the command line.

    Raises:
        ValueError: the file is missing, no JSON, has a key this version does not know or a value of the wrong kind.
    """
    try:
        content = json.loads(read_small(path, MAX_CONFIG_BYTES))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: settings are read from the config.json of a run") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}): give the config.json of a run") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, not a JSON object: give the config.json of a run")
    sections: list[Any] = []
    for name, cls in (("ppo", PPOConfig), ("env", EnvConfig)):
        section = content.get(name, {})
        known = {f.name for f in fields(cls)}
        if not isinstance(section, dict):
            raise ValueError(f'{path}: "{name}" must be a JSON object')
        section = {k: v for k, v in section.items() if k not in GONE or v != GONE[k]}
        unknown = sorted(set(section) - known)
        if unknown:
            raise ValueError(
                f'{path}: "{name}" has the unknown key {unknown[0]!r}; known are {", ".join(sorted(known))}'
            )
        metadata = content.get("env_metadata")
        if name == "env" and isinstance(metadata, dict) and metadata.get("observation") == "proprioception":
            section = {"cameras": False, **section}  # from before there were cameras
        try:
            sections.append(cls(**section))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
    old = recorded_encoder(path)
    if old is not None and (kept := kept_encoder(path.parent, old)).is_file():
        sections[1].encoder = str(kept)
    unknown = sorted(set(content) - CONFIG_KEYS)
    if unknown:
        raise ValueError(f'{path} has the unknown key {unknown[0]!r}: settings belong under "ppo" or "env"')
    threads = content.get("torch_threads", 1)  # absent from the files of older versions, whose default was 1
    if type(threads) is not int or threads < 1:
        raise ValueError(f'{path}: "torch_threads" must be a whole number of at least 1, got {threads!r}')
    prior_speed = content.get("prior_speed")  # absent from the files of older versions, which had no prior
    if type(prior_speed) not in (float, int, type(None)):
        raise ValueError(f'{path}: "prior_speed" must be a number or null, got {prior_speed!r}')
    scales = {name: content.get(name, 1.0) for name in ("camera_scale", "velocity_scale")}
    for name, scale in scales.items():
        if type(scale) not in (float, int):
            raise ValueError(f'{path}: "{name}" must be a number, got {scale!r}')
    switches = {"symmetry": False, "value_sees_action": True}  # as in versions whose files do not say
    for name in switches:
        if type(switch := content.get(name, switches[name])) is not bool:
            raise ValueError(f'{path}: "{name}" must be true or false, got {switch!r}')
        switches[name] = switch
    own = {
        "prior_speed": prior_speed,
        **scales,
        **switches,
        "torch_threads": threads,
    }
    try:
        return Args(ppo=sections[0], env=sections[1], **own)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse(argv: list[str] | None = None) -> Args:
    """Command line to Args, with the settings of --config or --resume as defaults."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--resume", type=Path)
    first.add_argument("--preset")
    given, _ = first.parse_known_args(argv)
    default = paper() if given.preset == "paper" else Args()
    if given.preset and (given.config or given.resume):
        raise ValueError("--preset starts from its settings, --config and --resume from a run's: give one of them")
    if given.config and given.resume:
        raise ValueError("--config starts a new run and --resume continues an old one: give one of them")
    if given.config:
        default = load_settings(given.config)
    elif given.resume:
        if not given.resume.exists():
            raise ValueError(f"--resume {given.resume} does not exist: give a run folder or a checkpoint in one")
        default = load_settings(run_dir_of(given.resume) / "config.json")
    return tyro.cli(
        tyro.conf.OmitArgPrefixes[Args],
        args=argv,
        default=default,
        description=__doc__,
        prog="ppo_ballbot.py",
        console_outputs=RANK == 0,
    )


NO_RUNS = ("", ".", "..", "checkpoints", "abandoned")
"""Names that no run can have: the last two are folders within runs."""


def fail(error: Exception) -> NoReturn:
    """Say what is wrong and exit with 2, in one line instead of a traceback."""
    # Bad input is the same in all processes of torchrun and said once; only these can happen in one process alone.
    if (
        RANK == 0
        or "TORCHELASTIC_RUN_ID" not in os.environ
        or isinstance(error, (DivergedError, LostContactError, MemoryError, OSError))
    ):
        print(f"error: {error}" if RANK == 0 else f"error in process {RANK}: {error}", file=sys.stderr)
    raise SystemExit(2) from None


def simulation_threads(num_threads: int) -> int:
    """Threads of this process's simulations: 0 stands for every CPU, which torchrun's processes on a host share."""
    processes = launched("LOCAL_WORLD_SIZE", 1)
    if num_threads or processes == 1:
        return num_threads
    return max(usable_cpus() // processes, 1)


def prepare(argv: list[str] | None) -> tuple[Args, Path]:
    """Settings and run folder; all processes of torchrun agree on both.

    Raises:
        ValueError, TypeError: an option cannot be used.
    """
    args = parse(argv)
    if args.resume:
        old = load_settings(run_dir_of(args.resume) / "config.json")
        if args.env.cameras != old.env.cameras:
            trained, given = ("without", "--cameras") if args.env.cameras else ("with", "--no-cameras")
            raise ValueError(f"{args.resume} was trained {trained} cameras: leave {given} out, or start a new run")
        theirs, ours = ({**asdict(a.env), **{name: getattr(a, name) for name in OWN_SETTINGS}} for a in (old, args))
        for setting, then in theirs.items():
            if setting not in FREE_TO_CHANGE and (now := ours[setting]) != then:
                raise ValueError(
                    f"--{setting.replace('_', '-')} is {now}, but {args.resume} was trained with {then}: leave it out, "
                    "or start a new run"
                )
    if args.env.encoder is not None and not args.env.cameras:
        raise ValueError(
            f"--encoder {args.env.encoder} is for policies that see, and this one does not (--no-cameras, or the "
            "settings that it goes on with): leave --encoder out, or train a new one with cameras"
        )
    if args.change_encoder and (args.resume is None or not args.env.cameras):
        raise ValueError("--change-encoder is for --resume of a policy that sees: leave it out")
    name = args.run_name
    if name is not None and args.resume is not None:
        raise ValueError("--run-name names a new run, but --resume goes on in the old one's folder: leave one out")
    if name is not None and (name in NO_RUNS or "/" in name or "\\" in name):
        raise ValueError(f"--run-name {name!r} must be a plain folder name: it is created under runs/")
    if args.torch_threads:
        torch.set_num_threads(args.torch_threads)
    distributed_setup(args.ppo.device)
    if name is None:
        name = on_rank_zero(lambda: f"{args.env.terrain}_{args.ppo.seed}_{time.strftime('%Y%m%d-%H%M%S')}")
    return args, run_dir_of(args.resume) if args.resume else Path("runs") / name


def load_eyes(args: Args) -> FrozenEncoder:
    """The encoder of the cameras, where the policy is.

    Raises:
        EncoderError: it cannot be loaded.
        CheckpointError: there is nothing to go on from.
        ValueError: what to go on from was trained with another one.
    """
    source = args.config or (run_dir_of(args.resume) / "config.json" if args.resume else None)
    old = None if source is None else recorded_encoder(source)
    try:
        encoder = load_encoder(args.env.encoder, "cuda" if args.ppo.device.startswith("cuda") else "cpu")
    except EncoderError as error:
        if old is None:
            raise
        raise EncoderError(f"{error}; {source} asks for the encoder {old[:16]}, --encoder takes its file") from error
    if args.resume and not args.change_encoder:
        path, state = find_checkpoint(args.resume)
        old = (state.get("env_metadata") or {}).get("encoder", old)
        if old != encoder.content_hash:
            raise ValueError(
                f"{path} was trained with the encoder {str(old)[:16]}, this one is {encoder.content_hash[:16]}: give "
                "the old file by --encoder, or add --change-encoder to go on with this one"
            )
    elif args.config and old not in (None, encoder.content_hash) and RANK == 0:
        print(f"note: {source} is of the encoder {str(old)[:16]}, this run sees by {encoder.content_hash[:16]}")
    return encoder


FILM_FPS = 10
"""Frames a second of the films of --capture-video."""
FILM_SECONDS = 10
"""Longest of them."""


def film_maker(envs: BallbotVectorEnv, seed: int) -> Callable[[Agent], tuple[NDArray[np.uint8], int]]:
    """Films an agent's first seconds with a single robot, half as large as ``watch.py`` does.

    Raises:
        SettingsError: nothing can be drawn here.
    """
    try:
        envs.reset(seed=seed)
        envs.render()
    except RuntimeError as error:
        raise SettingsError(f"--capture-video: {error}") from error

    def shoot(agent: Agent) -> tuple[NDArray[np.uint8], int]:
        frames = film(envs, lambda obs, began: agent.act(obs).cpu().numpy(), seed, FILM_FPS)
        return np.stack([shrunk(frame, 2) for frame in islice(frames, FILM_FPS * FILM_SECONDS)]), FILM_FPS

    return shoot


def main(argv: list[str] | None = None) -> None:
    """Train, and exit with 2 on bad input."""
    try:
        args, run_dir = prepare(argv)
        options = {k: v for k, v in asdict(args.env).items() if k not in ("cameras", "encoder")}
        options["num_threads"] = simulation_threads(args.env.num_threads)
    except (ValueError, TypeError, OSError) as error:
        fail(error)
    # what a policy's inputs mean: a checkpoint refuses to go on with others
    inputs: dict[str, Any] = {
        "observation": "proprioception",
        "frame": args.env.frame,
        "terrain": args.env.terrain,
        "tilt_limit_deg": args.env.tilt_limit_deg,
        "integrator": args.env.integrator,
    }
    if not args.env.contact_fix:
        inputs["contact_fix"] = False
    if not args.env.random_yaw:
        inputs["random_yaw"] = False
    if args.prior_speed is not None:
        inputs["prior_speed"] = args.prior_speed
    if args.env.cameras:
        inputs["camera_interval"] = args.env.camera_interval
    if args.resume:  # runs of older versions recorded less, and go on so
        recorded = recorded_metadata(run_dir / "config.json")
        meant = {"camera_interval": CAMERA_INTERVAL, "contact_fix": True}  # by not saying anything
        inputs = {k: v for k, v in inputs.items() if not recorded or k in recorded or v != meant.get(k, v)}
    files: dict[str, bytes] = {}
    if args.env.cameras:
        try:
            encoder = load_eyes(args)
        except (EncoderError, CheckpointError, ValueError, OSError) as error:
            fail(error)
        device = "cuda" if args.ppo.device.startswith("cuda") else "cpu"  # of this process, see distributed_setup()
        options |= {"observation": "encoded", "encoder": encoder, "camera_device": device}
        inputs |= {"observation": "encoded", "encoder": encoder.content_hash}
        files[kept_encoder(run_dir, encoder.content_hash).name] = encoder_bytes(encoder)

    shaped = args.env.progress_weight != 1.0 or args.env.target_speed is not None or args.env.action_limit != 1.0
    training = {name: options.pop(name) for name in TRAINING_ONLY}

    def build(num_envs: int, **changes: Any) -> BallbotVectorEnv:
        try:
            return BallbotVectorEnv(num_envs, **{**options, **changes})
        except (ValueError, TypeError) as error:  # an option out of range; later, the same error would be a bug
            raise SettingsError(str(error)) from error

    body = size = OBSERVATION_SIZES[args.env.frame]
    if args.env.cameras:
        size += 2 * encoder.architecture.embedding_size + 1
    prior = None if args.prior_speed is None else feedback_prior(size, args.prior_speed)
    symmetry = robot_symmetry(size) if args.symmetry and args.env.frame == "body" else None
    value_inputs = None
    if not args.value_sees_action:
        value_inputs = torch.ones(size, dtype=torch.bool)
        value_inputs[body - 3 : body] = False
    input_scale = torch.ones(size)
    input_scale[body:] = args.camera_scale
    if args.env.frame == "body":
        input_scale[6:8] = args.velocity_scale

    settings = {
        "env": asdict(args.env),
        **{name: getattr(args, name) for name in OWN_SETTINGS},
        "torch_threads": torch.get_num_threads(),
        "mujoco": version("mujoco"),
    }
    with ExitStack() as stack:
        try:
            tracker = camera = None
            if args.track and RANK == 0:
                tracker = stack.enter_context(closing(Tracker(run_dir, {"ppo": asdict(args.ppo), **settings})))
            if args.capture_video and RANK == 0:
                filmed = {"terrain_split": "validation", "num_threads": 1, "num_terrains": 1}
                envs = stack.enter_context(closing(build(1, **filmed, render_mode="rgb_array")))
                camera = film_maker(envs, args.ppo.eval_seed)
            result = train(
                args.ppo,
                lambda num_envs: build(
                    num_envs, **training, stagger_first_episodes=True, action_repeat=args.ppo.action_repeat
                ),
                lambda num_envs: build(num_envs, terrain_split="validation"),
                run_dir=run_dir,
                resume=args.resume,
                env_metadata=inputs,
                free_metadata=("encoder",) if args.change_encoder else (),
                settings=settings,
                files=files,
                on_start=None if tracker is None else tracker.start,
                on_log=tracker,
                film=camera,
                shaped_rewards=shaped,
                structure=Structure(prior, None if (input_scale == 1).all() else input_scale, symmetry, value_inputs),
            )
        except (
            SettingsError,
            CheckpointError,
            RunDirectoryError,
            ContactFixError,
            DivergedError,
            LostContactError,
            TrackingError,
            OSError,
        ) as error:
            fail(error)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            needs = {**asdict(args.ppo), **asdict(args.env)}
            sizes = ", ".join(f"--{name.replace('_', '-')} {needs[name]}" for name in MEMORY)
            remedy = f"{sizes} decide how much is needed: use less, in a new run"
            fail(MemoryError(f"out of memory ({str(error).strip().splitlines()[0]}); {remedy}"))
    if RANK == 0:
        best = "" if result.best_return is None else f"; best evaluation return {result.best_return:.1f}"
        print(f"finished at step {result.global_step:,}{best}. Files: {run_dir}, curves: tensorboard --logdir runs")


if __name__ == "__main__":
    main()
