"""Train a ballbot by PPO: the main job.

    python experiments/ppo_ballbot.py                         # uneven ground, the default settings
    python experiments/ppo_ballbot.py --terrain flat --total-timesteps 1500000
    python experiments/ppo_ballbot.py --clip-range 0.015
    python experiments/ppo_ballbot.py --terrain stairs:0-1 --curriculum --command velocity --rewards.upright 0.5
    python experiments/ppo_ballbot.py --plugin mine.py --terrain bumps
    python experiments/ppo_ballbot.py --preset paper          # the settings of Salehi 2025, for comparison
    python experiments/ppo_ballbot.py --resume runs/NAME      # go on where it stopped, bit for bit
    python experiments/ppo_ballbot.py --init-from runs/NAME --terrain stairs:0.4        # a new run, from its networks
    python experiments/ppo_ballbot.py --config runs/NAME/config.json --seed 1
    torchrun --nproc-per-node 2 experiments/ppo_ballbot.py    # data-parallel

Everything is written to runs/<run-name> under the current folder: config.json, progress.csv, TensorBoard events,
checkpoints, best.pt (the best evaluation on validation terrains, never trained on) and last.pt.  Watch it with
``tensorboard --logdir runs``.

Ctrl-C, SIGTERM or closing the terminal finishes the update under way, saves and exits.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_type_hints

from ballbot import height_maps, plugins, robot_files
from ballbot.cli import program
from ballbot.cpus import usable_cpus
from ballbot.deployment.shipped import find_policy
from ballbot.encoders import EncoderError, FrozenEncoder, encoder_file, find_encoder, load_encoder
from ballbot.encoders.frozen import LEARNED, encoder_bytes, kept_encoder
from ballbot.envs import BallbotVectorEnv
from ballbot.envs.observations import STEP_MS
from ballbot.envs.rig import alike, described, rig_of
from ballbot.envs.terrain import parse_terrain
from ballbot.errors import BallbotError, SettingsError
from ballbot.evaluation.video import film_maker
from ballbot.options import (
    KINDS,
    SPELLED,
    PluginFiles,
    peek,
    plain,
    refuse_numbers,
    with_kinds,
    world_config,
    world_options,
)
from ballbot.parsing import explained, field_docs, option_rows
from ballbot.parsing import parse as parse_options
from ballbot.ppo import DivergedError, Hooks, LostContactError, Record, distributed_setup, train
from ballbot.ppo.checkpoint import find_checkpoint, run_dir_of
from ballbot.ppo.diagnosis import out_of_memory
from ballbot.ppo.distributed import launched, on_rank_zero
from ballbot.ppo.run_dir import refuse_used
from ballbot.ppo.tracking import Tracker, check_installed
from ballbot.presets import OWN, PRESETS, Settings, told_no_privilege
from ballbot.runs import (
    config_file,
    differences,
    init_from,
    load_settings,
    record,
    recorded_encoder,
    recorded_metadata,
    recorded_teacher,
    resumed_metadata,
)
from ballbot.settings import Range, check_settings, nearest
from ballbot.tasks import find_task
from ballbot.teachers import COPY, RobotTeacher, teacher_of, with_kept_teacher
from mujoco_patch import ContactFixError

SEVERAL = os.environ.get("WORLD_SIZE", "1") not in ("", "1")
RANK = int(rank) if SEVERAL and (rank := os.environ.get("RANK", "0")).isdecimal() else 0
"""Index of this process among those torchrun started: the first one speaks for all."""


@dataclass
class Job:
    """What to do with the settings: the options that are not recorded as part of them."""

    cameras: bool = True
    """See the ground by depth cameras, through a frozen encoder.  Without, training takes half the time."""
    encoder: str | None = None
    """File of the encoder (pretrain_encoder.py writes one; default: the one that comes with ballbot for these
    cameras).  The run keeps a copy."""
    num_threads: Annotated[int, Range(0, 1024)] = 0
    """Threads that step the simulations (0: every CPU, shared among the processes of torchrun); results do not depend
    on it."""
    task: str | None = None
    """Task of a name of its own, "road", "stagger", "trench" or "mixed": ground, what is a fall, and how far to
    come.  Options of the world change it."""
    run_name: str | None = None
    """Folder under runs/ (default: terrain, seed and time)."""
    preset: str = "default"
    """Settings to start from, which the other options change: ours, "default"; those from before memory, "plain";
    those of Salehi 2025 (arXiv:2505.18417), "paper"; those of distill.py, "distill"; of a policy that sees the slopes
    ahead, "foresees"; of one for a robot that is not as it is meant, "robust"; of one that is told the ground around,
    "told", and of the one that, with --init-from it, sees it, "sees"; or of those that find their way by sight, and
    drive by a computed law, "finds", or as one does that feels slopes, "crosses"."""
    resume: Path | None = None
    """Run folder or checkpoint to continue, with its own settings.  May be changed: --total-timesteps, how often to
    evaluate and save, the learning rate and its schedule, --num-envs, --num-steps, --minibatch-size, --device, and by
    --change-encoder the eyes; it says where the run is then no longer exact.  A longer run stretches the schedules:
    learning rate and noise jump up again, and --final-rewards back; what the run saved after the given checkpoint is
    moved to checkpoints/abandoned."""
    init_from: str | None = None
    """Run folder, checkpoint, or name of a policy that comes along, such as "default": a new run starts with its
    networks and observation statistics, and has all else of its own: --terrain, --command, rewards, num_envs, schedule.
    Fields of the observation are matched by name; those that are new weigh 0 at first, and the noise is that of
    --initial-std.  Size and kind of the networks must be those of the policy: --config takes over a run's settings."""
    config: Path | None = None
    """Folder or config.json of another run: its settings become the defaults that the other options change."""
    plugin: PluginFiles = ()
    """Python file that adds grounds, commands, rewards, endings or fields by name, which are options then; several
    files, each after its own --plugin."""
    capture_video: bool = False
    """Film an episode after each evaluation: TensorBoard shows it among the images, runs/NAME/videos keeps it."""
    track: bool = False
    """Log to Weights & Biases as well (the extra "wandb"); its own variables, such as WANDB_PROJECT, WANDB_ENTITY and
    WANDB_MODE=offline, say where."""
    change_encoder: bool = False
    """With --resume: go on with another encoder than the policy was trained with.  New episodes start, and best.pt,
    which later policies cannot be compared with, is moved to checkpoints/abandoned."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass
class Args:
    """Settings of a run, and what to do with them."""

    settings: Settings = field(default_factory=PRESETS["default"])
    job: Job = field(default_factory=Job)


DECISIVE = "action", "frame"
"""Options on which it depends what controller a preset adds to, besides those that name kinds."""
MEMORY = ("num_envs", "num_steps", "minibatch_size", "num_terrains")
"""Settings that decide how much of it is needed."""


def parse(argv: list[str] | None = None) -> Args:
    """Command line to Args, with the settings of --config or --resume as defaults.

    Raises:
        SettingsError: an option cannot be used.
        PluginError: a plugin cannot.
    """
    argv = sys.argv[1:] if argv is None else argv
    given = peek(argv, "config", "resume", "preset", "task", *KINDS, *DECISIVE)
    if given.preset and (given.config or given.resume):
        raise SettingsError("--preset starts from its settings, --config and --resume from a run's: give one of them")
    if given.task and (given.config or given.resume):
        raise SettingsError("--task starts from its world, --config and --resume from a run's: give one of them")
    if given.config and given.resume:
        raise SettingsError("--config starts a new run and --resume continues an old one: give one of them")
    for name, instead in MOVED.items():
        if any(argument.split("=")[0] == name for argument in argv):
            raise SettingsError(f"{name} is now one of the rewards of training: {instead}")
    kinds = {name: getattr(given, name) for name in KINDS if getattr(given, name) is not None}
    if given.config or given.resume:
        if given.resume and not Path(given.resume).exists():
            raise SettingsError(f"--resume {given.resume} does not exist: give a run folder or a checkpoint in one")
        path = config_file(Path(given.config) if given.config else run_dir_of(Path(given.resume)))
        default = recorded(path)
        settings = with_kept_teacher(default.settings, path.parent) if given.config else default.settings
        default = Args(replace(settings, world=with_kinds(settings.world, **kinds)), default.job)
    else:
        kinds = {**(find_task(given.task) if given.task else {}), **kinds}
        kinds |= {name: getattr(given, name) for name in DECISIVE if getattr(given, name) is not None}
        settings = find_preset(given.preset or "default")(**kinds)
        default = Args(settings, Job(cameras=settings.world.observation == "encoded"))
    refuse_numbers(argv, default.settings.world.robot)
    parts = _parts(default)
    options = make_dataclass("Options", [row for part in parts for row in option_rows(part)], kw_only=True)
    read: Any = parse_options(options, argv, __doc__, TOPICS, console=RANK == 0)
    ppo, world, own, job = (type(part)(**{f.name: getattr(read, f.name) for f in fields(part)}) for part in parts)
    world = world_config(world, default.settings.world)
    world = replace(world, observation="encoded" if job.cameras else "proprioception")
    settings = Settings(ppo=ppo, world=world, **asdict(own))
    if "--mirror" in argv and settings.mirror and not (settings.symmetry and world.frame == "body"):
        raise SettingsError(
            f"--mirror needs --symmetry and --frame body, got {'--symmetry' if settings.symmetry else '--no-symmetry'} "
            f"and --frame {world.frame}: leave --mirror out, or change these"
        )
    return Args(settings, job)


def find_preset(name: str) -> Callable[..., Settings]:
    """What makes the settings of this name.

    Raises:
        SettingsError: there are none.
    """
    if name not in PRESETS:
        raise SettingsError(f"--preset {name} is unknown: {nearest(name, PRESETS)}")
    return PRESETS[name]


def recorded(path: Path) -> Args:
    """The settings in a run's config.json, as defaults of the command line.

    Raises:
        SettingsError, PluginError: as ``load_settings``.
    """
    found = load_settings(path)
    job = Job(
        cameras=found.settings.world.observation == "encoded",
        encoder=found.encoder,
        num_threads=found.num_threads,
    )
    return Args(found.settings, job)


MOVED = {
    "--target-speed": "--training-rewards.tracking 6 --training-rewards.tracking-speed SPEED",
    "--progress-weight": "--training-rewards.tracking WEIGHT, or --training-rewards.progress WEIGHT without a speed",
}
"""Options of version 0.1, and how to say it now."""


MOST_USED = (
    *("terrain", "robot", "command", "cameras", "total_timesteps", "seed", "run_name", "preset", "resume", "init_from"),
)
TOPICS = {
    "most used": MOST_USED,
    "run": (
        *("config", "task", "plugin", "track", "capture_video", "encoder", "change_encoder", "eval_interval"),
        *("eval_episodes", "eval_seed", "checkpoint_interval", "keep_checkpoints"),
    ),
    "speed": ("num_threads", "torch_threads", "torch_deterministic", "device", "compile"),
    "rollout": ("num_envs", "num_steps", "action_repeat", "gamma", "gae_lambda"),
    "update": (
        *("learning_rate", "lr_schedule", "min_learning_rate", "max_learning_rate", "schedule_timesteps", "adam_eps"),
        *("weight_decay", "update_epochs", "minibatch_size", "clip_range", "value_clip_range", "target_kl", "vf_coef"),
        *("max_grad_norm", "normalize_advantage", "normalize_advantage_per_minibatch", "policy_average"),
    ),
    "exploration": ("initial_std", "final_std", "final_std_share", "min_std", "ent_coef"),
    "networks": (
        *("hidden_size", "num_layers", "activation", "linear_skip", "shared_trunk", "memory", "memory_size"),
        *("cnn_channels", "cnn_features", "value_only", "value_sees_action", "symmetry", "mirror", "prior_speed"),
        *("normalize_observations", "normalize_observations_per_step", "normalize_rewards", "normalize_values"),
        *("camera_scale", "velocity_scale", "goal_scale"),
    ),
    "teacher": ("teacher", "imitation_timesteps", "imitation_learning_rate", "estimates"),
    "observation": (
        *("frame", "extra_fields", "history", "history_fields", "history_changes", "privileged_fields", "sensors"),
        *("camera_interval", "camera_resolution"),
    ),
    "ground": ("terrain_length", "terrain_cell", "num_terrains", "terrain_seed", "curriculum"),
    "episode": (
        *("max_episode_steps", "shortest_episode_steps", "tilt_limit_deg", "initial_tilt_deg", "initial_speed"),
        *("random_yaw", "final_rewards_between"),
    ),
    "robot": ("num_robots", "randomize", "range_curriculum", "action", "action_limit", "integrator", "contact_fix"),
}
"""Title in ``--help`` -> options below it; those that have a dot follow by themselves."""


def _parts(default: Args) -> tuple[Any, Any, Any, Any]:
    """Settings of PPO, the world, the others of a run, and the job: dataclasses whose fields are options."""
    settings, docs, hints = default.settings, field_docs(Settings), get_type_hints(Settings, include_extras=True)
    own = make_dataclass(
        "Own", [(name, explained(hints[name], docs[name]), field(default=getattr(settings, name))) for name in OWN]
    )
    ppo = told_no_privilege(settings.ppo)  # an option may change whether there is any
    return ppo, world_options(settings.world), own(), default.job


NO_RUNS = ("", ".", "..", "checkpoints", "abandoned")
"""Names that no run can have: the last two are folders within runs."""


def fail(error: Exception) -> NoReturn:
    """Say what is wrong and exit with 2, in one line instead of a traceback.

    Raises:
        BrokenPipeError: that is the error: nobody reads what is printed any more.
    """
    if isinstance(error, BrokenPipeError):
        raise error
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
    settings, job = args.settings, args.job
    if job.init_from == "":
        raise SettingsError('--init-from "" names nobody: leave it out, or give a run folder, a checkpoint or a name')
    if job.resume and job.init_from:
        raise SettingsError("--resume goes on with a run and --init-from starts a new one: give one of them")
    if job.resume:
        old = recorded(run_dir_of(job.resume) / "config.json")
        if job.cameras != old.job.cameras:
            trained, flag = ("without", "--cameras") if job.cameras else ("with", "--no-cameras")
            raise SettingsError(f"{job.resume} was trained {trained} cameras: leave {flag} out, or start a new run")
        folder = run_dir_of(job.resume)
        recorded_then = recorded_metadata(folder / "config.json")
        height_maps.as_recorded(old.settings.world, recorded_then.get("height_maps", {}), str(job.resume), folder)
        for option, (then, now) in differences(old.settings, replace(settings, ppo=old.settings.ppo)).items():
            raise SettingsError(
                f"--{SPELLED.get(option, option).replace('_', '-')} is {now}, but {job.resume} was trained with "
                f"{then}: leave it out, or start a new run from its networks: --init-from {job.resume}"
            )
    only = settings.estimates and settings.ppo.imitation_timesteps >= settings.ppo.total_timesteps
    told = settings.estimated_layout
    driven = settings.prior_speed is not None and told is not None and told.leading is not None  # by a law
    if only and not (job.resume or job.init_from or driven or settings.teacher):
        raise SettingsError(
            f"--estimates {' '.join(settings.estimates)} go before a policy that knows what to do with them, and this "
            "one would learn nothing but estimates: add --init-from RUN, of one that was told (--preset told), or "
            "a --teacher"
        )
    if job.encoder is not None and not job.cameras:
        raise SettingsError(
            f"--encoder {job.encoder} is for policies that see, and this one does not (--no-cameras, or the "
            "settings that it goes on with): leave --encoder out, or train a new one with cameras"
        )
    if job.change_encoder and (job.resume is None or not job.cameras):
        raise SettingsError("--change-encoder is for --resume of a policy that sees: leave it out")
    given = job.run_name
    if given is not None and job.resume is not None:
        raise SettingsError("--run-name names a new run, but --resume goes on in the old one's folder: leave one out")
    if given is not None and (given in NO_RUNS or "/" in given or "\\" in given):
        raise SettingsError(f"--run-name {given!r} must be a plain folder name: it is created under runs/")
    distributed_setup(settings.ppo.device)
    kind = Path(settings.world.terrain).name.replace(":", "-")
    name = given or on_rank_zero(lambda: f"{kind}_{settings.ppo.seed}_{time.strftime('%Y%m%d-%H%M%S')}")
    return args, run_dir_of(job.resume) if job.resume else Path("runs") / name


def load_eyes(args: Args) -> FrozenEncoder:
    """The encoder of the cameras, where the policy is.

    Raises:
        EncoderError: it cannot be loaded.
        CheckpointError: there is nothing to go on from.
        ValueError: what to go on from was trained with another one.
    """
    source = args.job.config or (run_dir_of(args.job.resume) / "config.json" if args.job.resume else None)
    old = None if source is None else recorded_encoder(source)
    rig = args.settings.world.rig
    device = "cuda" if args.settings.ppo.device.startswith("cuda") else "cpu"
    try:
        if args.job.resume and args.job.encoder is None and old is not None and not args.job.change_encoder:
            encoder = find_encoder(old, args.job.resume, device)
        else:
            encoder = load_encoder(encoder_file(rig) if args.job.encoder is None else args.job.encoder, device)
    except EncoderError as error:
        if old is None:
            raise
        raise EncoderError(f"{error}; {source} asks for the encoder {old[:16]}, --encoder takes its file") from error
    if RANK == 0 and (seen := rig_seen(encoder)) is not None and not alike(seen, rig):
        own = any(alike(learned, rig) for learned in LEARNED.values())
        remedy = ": --encoder None takes the one that comes along for these" if own else ""
        print(f"note: the encoder has learned what {described(seen)} see, and looks through {described(rig)}{remedy}")
    if args.job.resume and not args.job.change_encoder:
        path, state = find_checkpoint(args.job.resume)
        old = (state.get("env_metadata") or {}).get("encoder", old)
        if old != encoder.content_hash:
            raise ValueError(
                f"{path} was trained with the encoder {str(old)[:16]}, this one is {encoder.content_hash[:16]}: give "
                "the old file by --encoder, or add --change-encoder to go on with this one"
            )
    elif args.job.config and old not in (None, encoder.content_hash) and RANK == 0:
        print(f"note: {source} is of the encoder {str(old)[:16]}, this run sees by {encoder.content_hash[:16]}")
    return encoder


def rig_seen(encoder: FrozenEncoder) -> dict[str, Any] | None:
    """Options of the cameras that an encoder was trained by; None: it does not say."""
    data = encoder.card.get("data")
    provenance = data.get("provenance") if isinstance(data, dict) else None
    rig = provenance.get("rig", {}) if isinstance(provenance, dict) and "policies" in provenance else None
    if not isinstance(rig, dict):
        return None
    try:
        rig_of(rig)
    except SettingsError:  # of another version
        return None
    return rig


def taught(args: Args) -> bool:
    """Whether what is to go on needs no teacher any more.

    Raises:
        CheckpointError: there is nothing to go on from.
    """
    if args.job.resume is None or args.settings.teacher is None:
        return False
    done = find_checkpoint(args.job.resume)[1].get("global_step")
    return isinstance(done, int) and done >= args.settings.ppo.imitation_timesteps


def load_teacher(
    args: Args, encoder: FrozenEncoder | None, run_dir: Path
) -> tuple[RobotTeacher | None, dict[str, bytes], str | None]:
    """Whom the policy imitates, as far as it still does; what of it the run keeps, and the SHA-256 of that.

    Raises:
        BallbotError: there is no such teacher, or nothing to go on from.
    """
    if taught(args):  # who goes back to an earlier checkpoint needs it again
        return None, {}, recorded_teacher(run_dir / "config.json")
    teacher, copies = teacher_of(args.settings, encoder, run_dir if args.job.resume else None)
    repeat = args.settings.ppo.action_repeat
    if teacher is not None and teacher.action_repeat not in (None, repeat) and RANK == 0:
        told = f"note: teacher {args.settings.teacher} was trained with --action-repeat {teacher.action_repeat}"
        print(f"{told}, and is asked every {repeat} steps here")
    return teacher, copies, hashlib.sha256(copies[COPY]).hexdigest() if copies else None


def curves() -> str:
    """What shows them, as who started this types it: `make train` sets BALLBOT_MAKE."""
    return "make curves" if os.environ.get("BALLBOT_MAKE") else "tensorboard --logdir runs"


def opening(args: Args) -> str:
    """What is about to be trained, and what the lines below count: it takes a while until the first one."""
    world, ppo, job = args.settings.world, args.settings.ppo, args.job
    eyes = described(world.rig) if job.cameras else "no cameras"
    threads = simulation_threads(job.num_threads) or usable_cpus()
    repeat = f"every {ppo.action_repeat} of them" if ppo.action_repeat > 1 else "at each"
    took = "some seconds" if parse_terrain(world.terrain).kind == "flat" else "a quarter of a minute"
    return (
        f"training {ppo.num_envs} robots ({world.robot}) with {eyes}, command {world.command}, on {world.terrain} "
        f"ground; device {ppo.device}, threads: {threads} to simulate, {ppo.torch_threads or 'any'} of PyTorch\n"
        f"a step is {STEP_MS:g} ms of one robot, which decides {repeat}; {ppo.total_timesteps:,} steps in all\n"
        f"curves: {curves()}\nsetting up: grounds and robots take {took} ..."
    )


@partial(program, expected=())
def main(argv: list[str] | None = None, taught_only: bool = False) -> int:
    """Train, and return the exit status; exit with 2 on bad input, such as no teacher where ``taught_only``."""
    encoder: FrozenEncoder | None = None
    try:
        args, run_dir = prepare(argv)
        settings, job = args.settings, args.job
        if taught_only and settings.teacher is None:
            raise SettingsError(
                "these settings are of a run that had no teacher: give --teacher NAME and --imitation-timesteps, or "
                "use ppo_ballbot.py"
            )
        if job.resume is None:
            on_rank_zero(lambda: refuse_used(run_dir))
        if job.track:
            check_installed()
        if job.cameras:
            encoder = load_eyes(args)
        files = plugins.files() | height_maps.files(settings.world) | robot_files.files(settings.world)
        metadata = resumed_metadata(settings, encoder, run_dir) if job.resume else settings.metadata(encoder)
        start = None if job.init_from is None else init_from(find_policy(job.init_from), settings, encoder)
        teacher, copies, digest = load_teacher(args, encoder, run_dir)
        files |= copies
        if RANK == 0:
            print(opening(args), flush=True)
    except (BallbotError, ValueError, OSError) as error:
        fail(error)
    options: dict[str, Any] = {"num_threads": simulation_threads(job.num_threads)}
    if encoder is not None:
        device = "cuda" if settings.ppo.device.startswith("cuda") else "cpu"  # of this process: distributed_setup()
        options |= {"encoder": encoder, "camera_device": device}
        files[kept_encoder(run_dir, encoder.content_hash).name] = encoder_bytes(encoder)
    world = settings.world
    kept = record(settings, job.encoder, job.num_threads, digest)
    with ExitStack() as stack:
        try:
            tracker = camera = None
            if job.track and RANK == 0:
                tracker = stack.enter_context(closing(Tracker(run_dir, {"ppo": asdict(settings.ppo), **kept})))
            if job.capture_video and RANK == 0:
                one = replace(settings.evaluation_world, num_terrains=1, curriculum=False)
                filmed = {**options, "num_threads": 1, "render_mode": "rgb_array", "config": one}
                camera = film_maker(stack.enter_context(closing(BallbotVectorEnv(1, **filmed))), settings.ppo.eval_seed)
            result = train(
                settings.ppo,
                lambda num_envs: settings.training_envs(num_envs, **options),
                lambda num_envs: settings.evaluation_envs(num_envs, **options),
                run_dir=run_dir,
                resume=job.resume,
                init_from=start,
                structure=settings.structure(encoder),
                record=Record(
                    env_metadata=metadata,
                    free_metadata=("encoder",) if job.change_encoder else (),
                    settings=kept,
                    files=files,
                    shaped_rewards=settings.shaped_rewards,
                ),
                hooks=Hooks(teacher, None if tracker is None else tracker.start, tracker, camera),
            )
        except (BallbotError, ContactFixError, OSError) as error:
            fail(error)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            needs = {**asdict(settings.ppo), **plain(world)}
            sizes = ", ".join(f"--{name.replace('_', '-')} {needs[name]}" for name in MEMORY)
            remedy = f"{sizes} decide how much is needed: use less, in a new run"
            fail(MemoryError(f"out of memory ({str(error).strip().splitlines()[0]}); {remedy}"))
    if RANK == 0:
        best = "" if result.best_return is None else f"; best evaluation return {result.best_return:.1f}"
        print(f"finished at step {result.global_step:,}{best}. Files: {run_dir}, curves: {curves()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
