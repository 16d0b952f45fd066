"""A training run: update after update, with logs, evaluation, checkpoints and a clean stop in between."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from ballbot.errors import SettingsError
from ballbot.ppo import distributed
from ballbot.ppo.agent import Agent
from ballbot.ppo.checkpoint import (
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
    set_aside_newer,
    tidy,
    write_atomic,
)
from ballbot.ppo.config import PPOConfig
from ballbot.ppo.diagnosis import Diagnosis
from ballbot.ppo.episodes import evaluate
from ballbot.ppo.interrupt import StopSignal, ending_children_ourselves
from ballbot.ppo.logger import Logger
from ballbot.ppo.ppo import learn, make_optimizer
from ballbot.ppo.record import Film, Hooks, Record
from ballbot.ppo.run_dir import Keeper, create_run_dir, lock_run_dir, say, write_config
from ballbot.ppo.state import TrainingState, training_seed
from ballbot.ppo.stopwatch import Stopwatch
from ballbot.ppo.structure import Structure
from ballbot.ppo.threads import torch_threads
from ballbot.ppo.transfer import InitFrom, read_start, take_over
from ballbot.ppo.wrapped import check_envs, check_eval_envs, why_not_exact

SAVING_SHARE = 0.05
"""Of the time, that may go into writing last.pt between numbered checkpoints: a killed run then repeats one update."""
RETRY_SECONDS = 5.0
"""Between attempts to save the end of a run on a disk that is full."""
FIRST_EVALUATION = 100_000
"""Steps after which a run is evaluated for the first time, however rarely later."""


@dataclass
class TrainResult:
    """What `train` leaves behind: the agent to deploy, its steps, and the best mean evaluation return (or None).

    With `config.policy_average` the agent is the running average of the networks, else the newest ones.
    """

    agent: Agent
    global_step: int
    best_return: float | None


def train(
    config: PPOConfig,
    make_envs: Callable[[int], VectorEnv],
    make_eval_envs: Callable[[int], VectorEnv] | None = None,
    *,
    run_dir: str | Path,
    resume: str | Path | None = None,
    init_from: InitFrom | str | Path | None = None,
    structure: Structure | None = None,
    record: Record | None = None,
    hooks: Hooks | None = None,
    console: bool = True,
) -> TrainResult:
    """Train until `config.total_timesteps`, leaving logs and checkpoints in `run_dir`.

    Started by torchrun, every process simulates and learns from its share of the environments, and the first
    one alone writes files and evaluates. Ctrl-C, SIGTERM or SIGHUP lets the update under way finish, saves, and
    raises SystemExit with the usual code (130, 143, 129); a second one stops at once and leaves the last
    checkpoint as it is. Python's, NumPy's and PyTorch's global random states are seeded, since environments
    may use them. PyTorch computes with `config.torch_threads` threads meanwhile, and as before afterwards.

    A resumed run repeats bit for bit what it would have done without the interruption if the environments
    have `get_state()` and `set_state(state)`, with nested dicts and lists of arrays and plain values, also beneath
    those of Gymnasium's wrappers that remember nothing; others start new episodes.

    Args:
        config: PPO settings. On resume all must be equal but those whose fields say otherwise, total_timesteps
            among them.
        make_envs: called with the number of environments; they are seeded through `reset(seed=...)`.
        make_eval_envs: same, for evaluation (None: no evaluation and no best.pt).
        run_dir: directory of this run, usually runs/<name>.
        resume: checkpoint, or run directory for its newest readable one (None: new run).
        init_from: checkpoint, or run directory for its best policy, whose networks and observation statistics a new
            run starts with (None: from nothing); see `take_over`.  All else is new, steps are counted from 0.
        structure: what is known of the task and built into the agent (None: nothing); must be equal on resume.
        record: what to keep of the task, and what its observations mean (None: nothing).
        hooks: whom to call at the start, after every row and after every evaluation (None: nobody).
        console: print a line per update.

    Environments with `action_repeat` hold each action for so many steps, which must be config.action_repeat.

    Raises:
        ValueError, TypeError: settings or environments do not fit together.
        RunDirectoryError: `run_dir` holds another run, is in use, is damaged or cannot be written.
        CheckpointError: `resume` or `init_from` cannot be read, or belongs to another task.
        DivergedError: numbers stopped being finite; checkpoints are untouched.
    """
    rank, world_size, device = distributed.distributed_setup(config.device)
    for name in ("num_envs", "minibatch_size"):
        if getattr(config, name) % world_size:
            raise SettingsError(
                f"{name} = {getattr(config, name)} does not divide among {world_size} processes; "
                "choose a multiple of their number"
            )
    run_dir, console = Path(run_dir), console and rank == 0
    record, hooks = record or Record(), hooks or Hooks()
    env_metadata = dict(record.env_metadata)
    if hooks.teacher is not None and config.imitation_timesteps == 0:
        raise SettingsError("Hooks.teacher is given, and imitation_timesteps = 0: say how long the policy imitates it")
    if not callable(make_envs):
        raise TypeError(
            f"make_envs is a {type(make_envs).__name__}, and must be a function that makes environments: "
            "lambda num_envs: gym.make_vec(id, num_envs)"
        )
    if resume is not None and init_from is not None:
        raise SettingsError("resume goes on with a run and init_from starts a new one: give one of them")
    start = None if init_from is None else distributed.on_rank_zero(lambda: read_start(init_from))
    loaded = None if resume is None else distributed.on_rank_zero(lambda: find_checkpoint(resume))
    if loaded is not None and loaded[0].parent.resolve() == (run_dir / "checkpoints" / "abandoned").resolve():
        raise CheckpointError(
            f"{loaded[0]} is of a branch that the run {run_dir} went back from; its curve has gone another way. To "
            "take it up again, copy it and the run's config.json and encoder into a folder of its own, and resume "
            "from there"
        )

    seed = training_seed(config, 0)
    with ExitStack() as stack:
        stack.enter_context(torch_threads(config.torch_threads))
        config = replace(config, torch_threads=torch.get_num_threads())
        seed_everything(seed + rank, config.torch_deterministic and device.type == "cuda")
        eval_envs = None
        with ending_children_ourselves():
            envs = stack.enter_context(closing(make_envs(config.num_envs // world_size)))
            check_envs(envs, config.num_envs // world_size, config)
            if rank == 0 and make_eval_envs is not None:
                eval_envs = stack.enter_context(closing(make_eval_envs(config.eval_episodes)))
        # Again: however many numbers the constructors drew, learning starts from the same random states.
        seed_everything(seed + rank, config.torch_deterministic and device.type == "cuda")
        weights = torch.Generator().manual_seed(config.seed)
        spaces = envs.single_observation_space, envs.single_action_space
        agent = Agent(*spaces, config, weights, structure)
        if eval_envs is not None:
            check_eval_envs(eval_envs, envs, agent)
        if start is not None:
            for line in take_over(agent, config, start):
                say(console, line)
        agent.to(device)
        distributed.broadcast_module(agent)
        state = TrainingState(config, envs, agent, make_optimizer(agent, config), env_metadata, seed, hooks.teacher)
        state.origin = None if start is None else start.origin
        if (reason := why_not_exact(envs)) is not None:
            say(console, f"note: {reason}: resuming will start new episodes")
        if loaded is not None:
            state.restore(*loaded, record.free_metadata)
            say(console, f"resuming from {loaded[0]} at step {state.global_step:,}")
            if state.finished:
                say(console, f"note: total_timesteps = {config.total_timesteps:,} are done already; raise it to go on")

        # Resuming inside the directory continues its run; a checkpoint from elsewhere starts a new one.
        inside = loaded is not None and loaded[0].resolve().is_relative_to(run_dir.resolve())
        idle = inside and state.finished
        if state.imitating and state.lessons is None:
            raise SettingsError(
                f"imitation_timesteps = {config.imitation_timesteps} needs a teacher whom the policy imitates: "
                "Hooks(teacher=...), --teacher on the command line"
            )

        def prepare() -> None:
            create_run_dir(run_dir, resuming=inside)
            if (lock := lock_run_dir(run_dir)) is not None:
                stack.callback(os.close, lock)
            if hooks.on_start is not None:
                hooks.on_start()
            if loaded is not None and inside:
                if not idle:
                    for path in set_aside_newer(run_dir, loaded[0], state.global_step, best_too=state.new_best):
                        say(console, f"note: no longer of this run, moved aside: {path}")
                if lock is not None:
                    numbered = due(state, config.checkpoint_interval) or state.finished
                    tidy(run_dir, loaded[0], state.global_step, config.keep_checkpoints, numbered)
            if not usable(run_dir / "best.pt", console):
                state.best_return = None
            if idle:  # nothing will be learned: what is there stays as it is
                return
            for name, content in record.files.items():
                (run_dir / name).parent.mkdir(exist_ok=True)
                write_atomic(run_dir / name, content)
            origin = {} if state.origin is None else {"init_from": state.origin}
            write_config(run_dir, config, {"env_metadata": env_metadata, **origin, **record.settings}, world_size)

        distributed.on_rank_zero(prepare)
        logger = None
        if rank == 0 and not idle:
            resume_step = None if loaded is None else state.global_step
            logger = Logger(run_dir, resume_step, console)
            logger.log_settings({**asdict(config), **record.settings})
            say(console, f"writing to {run_dir}")
        stopped = run(state, envs, eval_envs, logger, run_dir, hooks, record.shaped_rewards)
    if stopped:
        name = signal.Signals(stopped).name
        say(console, f"stopped by {name} at step {state.global_step:,}; to go on: {as_typed(f'--resume {run_dir}')}")
        raise SystemExit(128 + stopped)
    return TrainResult(state.policy, state.global_step, state.best_return)


def as_typed(options: str) -> str:
    """Options of a training, as who started it types them: `make train` sets BALLBOT_MAKE."""
    return f'make train ARGS="{options}"' if os.environ.get("BALLBOT_MAKE") else options


def usable(best: Path, console: bool) -> bool:
    """Whether there is a best policy; one that cannot be read is moved out of the way."""
    try:
        if best.exists():
            load_checkpoint(best)
    except CheckpointError as error:
        aside = best.rename(best.with_name(f"best.damaged_{time.time_ns()}.pt"))
        say(console, f"warning: {error}; it is {aside.name} now, and the next evaluation makes a new one")
    return best.exists()


def run(
    state: TrainingState,
    envs: VectorEnv,
    eval_envs: VectorEnv | None,
    logger: Logger | None,
    run_dir: Path,
    hooks: Hooks,
    shaped_rewards: bool,
) -> int:
    """`learn` until the run is finished, with evaluation, logs and checkpoints after the updates.

    Args:
        state: where the run stands; moves on.
        envs: environments of this process.
        eval_envs: for evaluation (None: none, or another process does it).
        logger: None if another process logs.
        run_dir: existing run directory.
        hooks: whom to call.
        shaped_rewards: see `Record`.

    Returns:
        number of the signal that ended the run early, or 0 (also if the signal came in the last update).
    """
    config = state.config
    diagnosis = Diagnosis(config, () if logger is None else logger.earlier, shaped_rewards)
    best = BestPolicy(state, run_dir / "best.pt")
    start_time, start_step, stopped = time.perf_counter(), state.global_step, 0
    saved, saving = start_time, 0.0
    with StopSignal() as signal, state.agent.two_threads(0 if config.compile else config.minibatch_size):
        for row, stopwatch in learn(state, envs):
            first = state.global_step - config.rollout_size < FIRST_EVALUATION <= state.global_step
            if (
                eval_envs is not None
                and logger is not None
                and (first or due(state, config.eval_interval) or state.finished)
            ):
                row |= judge(state, eval_envs, best, logger, hooks.film, stopwatch)
            # Read the signal once: saving and leaving the loop must follow the same answer, in all processes.
            stopped = distributed.any_rank(signal.number, state.device)
            rate = (state.global_step - start_step) / (time.perf_counter() - start_time)
            row["charts/SPS"] = rate
            row |= {f"time/{name}": seconds for name, seconds in stopwatch.seconds.items()}
            row["time/eta"] = max(config.total_timesteps - state.global_step, 0) / rate
            if logger is not None:
                logger.log(row, state.episodes.moved)
                for hint in diagnosis.examine(row):
                    say(logger.console, hint)
            numbered = due(state, config.checkpoint_interval) or state.finished or bool(stopped)
            affordable = logger is not None and saving <= SAVING_SHARE * (time.perf_counter() - saved)
            if numbered or distributed.any_rank(affordable, state.device):
                began = time.perf_counter()
                content = state.content()
                if logger is not None and content is not None:
                    save(state, content, numbered, best, logger, signal, stopped)
                saved = time.perf_counter()
                saving = saved - began
            if logger is not None and hooks.on_log is not None:
                hooks.on_log(row)
            if stopped:
                break
    return 0 if state.finished else stopped


def judge(
    state: TrainingState, envs: VectorEnv, best: BestPolicy, logger: Logger, film: Film | None, stopwatch: Stopwatch
) -> dict[str, float]:
    """Evaluate the policy, keep it if it is the best so far, and film it; the numbers to log."""
    config = state.config
    result = evaluate(state.policy, envs, config.eval_episodes, config.eval_seed, torch_threads=config.torch_threads)
    # A NaN compares false with everything: as the best return it could never be beaten.
    best.offer(result["return_mean"] if math.isfinite(result["return_mean"]) else -math.inf)
    best.save(logger.keep)
    stopwatch.lap("evaluate")
    if film is not None:
        try:
            logger.log_film("eval/film", state.global_step, *film(state.policy))
        except (RuntimeError, OSError) as error:
            say(logger.console, f"note: no film at step {state.global_step:,}: {error}")
        stopwatch.lap("film")
    return {f"eval/{name}": value for name, value in result.items()}


class BestPolicy:
    """best.pt: the policy of the best evaluation, which waits if the disk has no room for it."""

    def __init__(self, state: TrainingState, path: Path) -> None:
        self._state, self._path = state, path
        self._waiting: tuple[float, dict[str, Any]] | None = None

    def offer(self, score: float) -> None:
        """Keep the policy as it is now if no other scored as high."""
        highest = self._state.best_return if self._waiting is None else self._waiting[0]
        if highest is None or score > highest:
            self._waiting = score, self._state.policy_content()

    def save(self, keep: Keeper) -> bool:
        """Write the file, if it is not as it should be, and return whether it is now."""
        if self._waiting is not None:
            score, content = self._waiting
            if not keep("best.pt", partial(save_checkpoint, [self._path], content)):
                return False
            self._state.best_return, self._waiting = score, None
        return True


def save(
    state: TrainingState,
    content: dict[str, Any],
    numbered: bool,
    best: BestPolicy,
    logger: Logger,
    signal: StopSignal,
    stopped: int,
) -> None:
    """Save everything; if the disk refuses, a later time will do, but the end of a run is tried until it is there.

    Raises:
        OSError: it is the end, and somebody asked to stop, or waiting for room does not help.
    """
    keep = logger.keep
    while True:
        done = [logger.flush(), best.save(keep)]
        content["best_return"] = state.best_return
        done.append(keep("checkpoint", partial(state.save, keep.run_dir, content, numbered)))
        if all(done) or not (state.finished or stopped):
            return
        if stopped or signal.number or keep.hopeless:
            raise next(iter(keep.failing.values()))
        time.sleep(RETRY_SECONDS)


def seed_everything(seed: int, deterministic_cuda: bool) -> None:
    """Seed the global random states and, on request, restrict CUDA to kernels that repeat exactly."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(deterministic_cuda, warn_only=True)  # also back, after another run
    if deterministic_cuda:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
        torch.backends.cudnn.benchmark = False


def due(state: TrainingState, interval: int) -> bool:
    """Whether the last update passed a multiple of `interval` steps."""
    return state.global_step // interval > (state.global_step - state.config.rollout_size) // interval
