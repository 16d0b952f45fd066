"""Is our PPO right?  Train it and stable-baselines3's on Gymnasium's own tasks, same hyperparameters, same seeds.

    pip install -e ".[dev]"
    python experiments/maintenance/compare_sb3.py                  # four tasks, three seeds, half an hour
    python experiments/maintenance/compare_sb3.py --tasks CartPole-v1 --seeds 0

Prints a table of deterministic evaluation returns and writes one row a run to --csv.  Exit status 1 if on some task our
mean return is lower than stable-baselines3's by more than two standard errors of the difference.

Both see observations normalised by running statistics and scaled rewards where the task asks for it, both bootstrap
time limits, and both use the same networks, optimiser and schedule; ours is judged without policy averaging.  The
networks that stable-baselines3 trained are put into our `Agent`, so that one and the same code judges both on the
same episodes.  What still differs is small: the learning rate of an update is that of its rollout's beginning here and
of its end there, and advantages are divided by a standard deviation over n here and over n - 1 there.
"""

from __future__ import annotations

import csv
import io
import math
import multiprocessing
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode

from ballbot.cli import check_options, check_output, program
from ballbot.ppo import Agent, PPOConfig, evaluate, train
from ballbot.ppo.checkpoint import write_atomic
from ballbot.ppo.layers import ACTIVATIONS
from ballbot.ppo.schedules import scheduled_lr
from ballbot.settings import Range, nearest

if TYPE_CHECKING:
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecEnv

EVAL_EPISODES = 100
"""Episodes a return is averaged over: their spread is then small against the spread over seeds."""

# Shapes after rl-baselines3-zoo's tuned settings, made equal for both sides.
TASKS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "total_timesteps": 100_000, "num_envs": 8, "num_steps": 32, "minibatch_size": 256, "update_epochs": 20,
        "gamma": 0.98, "gae_lambda": 0.8, "learning_rate": 1e-3, "normalize_observations": False,
        "normalize_observations_per_step": False,
    },
    "Pendulum-v1": {
        "total_timesteps": 200_000, "num_envs": 4, "num_steps": 1024, "minibatch_size": 256, "update_epochs": 10,
        "gamma": 0.9, "gae_lambda": 0.95, "learning_rate": 1e-3, "normalize_rewards": True,
    },
    "InvertedDoublePendulum-v5": {
        "total_timesteps": 400_000, "num_envs": 8, "num_steps": 256, "minibatch_size": 256, "update_epochs": 10,
        "gamma": 0.98, "gae_lambda": 0.95, "learning_rate": 3e-4, "normalize_rewards": True,
    },
    "Hopper-v5": {
        "total_timesteps": 500_000, "num_envs": 8, "num_steps": 256, "minibatch_size": 256, "update_epochs": 10,
        "gamma": 0.99, "gae_lambda": 0.95, "learning_rate": 3e-4, "normalize_rewards": True,
    },
}  # fmt: skip
SHARED: dict[str, Any] = {
    "hidden_size": 64,
    "num_layers": 2,
    "activation": "tanh",
    "initial_std": 1.0,
    "weight_decay": 0.0,
    "policy_average": None,
    "target_kl": None,
    "normalize_advantage_per_minibatch": True,
    "normalize_observations_per_step": True,
    "clip_range": 0.2,
    "ent_coef": 0.0,
    "vf_coef": 1.0,  # half the mean squared error here, the whole of it in stable-baselines3: 0.5 there
    "max_grad_norm": 0.5,
    "lr_schedule": "linear",
}


@dataclass
class Args:
    """Compare our PPO with stable-baselines3's."""

    tasks: list[str] = field(default_factory=lambda: list(TASKS))
    """Which of the tasks to run."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Seeds of both."""
    jobs: Annotated[int, Range(1, 1024)] = 2
    """Runs at the same time, one thread each."""
    csv: Path = Path("compare_sb3.csv")
    """Where to write one row a run; rows already there are not run again."""


def config_of(task: str, seed: int) -> PPOConfig:
    """Our settings for a task; stable-baselines3's are derived from them."""
    return PPOConfig(seed=seed, eval_interval=10**9, checkpoint_interval=10**9, **(SHARED | TASKS[task]))


def make_envs(task: str, num_envs: int) -> gym.vector.VectorEnv:
    """Environments as `ballbot.ppo` takes them."""
    mode = {"autoreset_mode": AutoresetMode.SAME_STEP}
    return gym.make_vec(task, num_envs=num_envs, vectorization_mode="sync", vector_kwargs=mode)


def make_sb3(config: PPOConfig, envs: VecEnv) -> PPO:
    """stable-baselines3's PPO with our settings, on environments that already normalise."""
    from stable_baselines3 import PPO

    width = [config.hidden_size] * config.num_layers

    def learning_rate(remaining: float) -> float:
        return scheduled_lr(config.lr_schedule, config.learning_rate, max(remaining, 0.0))

    return PPO(
        "MlpPolicy",
        envs,
        learning_rate=learning_rate,
        n_steps=config.num_steps,
        batch_size=config.minibatch_size,
        n_epochs=config.update_epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=config.ent_coef,
        vf_coef=config.vf_coef / 2,  # half the mean squared error here, the whole of it there
        max_grad_norm=config.max_grad_norm,  # type: ignore[arg-type]
        policy_kwargs={
            "net_arch": {"pi": width, "vf": width},
            "activation_fn": ACTIVATIONS[config.activation],
            "log_std_init": math.log(config.initial_std),
            "optimizer_class": torch.optim.AdamW,
            # eps as in ballbot.ppo.ppo.make_optimizer: stable-baselines3 sets it for Adam only
            "optimizer_kwargs": {"weight_decay": config.weight_decay, "eps": 1e-5},
        },
        seed=config.seed,
        device="cpu",
    )


def agent_of(model: PPO, config: PPOConfig) -> Agent:
    """Our `Agent` with the networks of stable-baselines3, and its observation statistics if it normalises."""
    agent = Agent(model.observation_space, model.action_space, config)
    parts = {"policy_trunk": "mlp_extractor.policy_net", "value_trunk": "mlp_extractor.value_net"}
    parts |= {"policy_head": "action_net", "value_head": "value_net", "log_std": "log_std"}
    theirs = model.policy.state_dict()
    state = {}
    for ours, value in agent.state_dict().items():
        part, _, rest = ours.partition(".")
        state[ours] = theirs[f"{parts[part]}.{rest}" if rest else part] if part in parts else value
    agent.load_state_dict(state)
    statistics = getattr(model.get_env(), "obs_rms", None)
    if agent.normalizer is not None and statistics is not None:
        agent.normalizer.count.fill_(statistics.count)
        agent.normalizer.mean.copy_(torch.from_numpy(statistics.mean))
        agent.normalizer.var.copy_(torch.from_numpy(statistics.var))
    return agent


def train_ours(task: str, seed: int) -> Agent:
    """Our policy after training."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        return train(config_of(task, seed), partial(make_envs, task), run_dir=run_dir, console=False).agent


def train_sb3(task: str, seed: int) -> Agent:
    """The policy of stable-baselines3 after training."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    config = config_of(task, seed)
    envs = VecNormalize(
        make_vec_env(task, n_envs=config.num_envs, seed=seed),
        norm_obs=config.normalize_observations,
        norm_reward=config.normalize_rewards,
        gamma=config.gamma,
    )
    return agent_of(make_sb3(config, envs).learn(config.total_timesteps), config)


LIBRARIES = {"ballbot": train_ours, "stable-baselines3": train_sb3}


def run_one(job: tuple[str, str, int]) -> dict[str, Any]:
    """One row of the CSV."""
    library, task, seed = job
    torch.set_num_threads(1)
    start = time.perf_counter()
    agent = LIBRARIES[library](task, seed)
    seconds = time.perf_counter() - start
    envs = make_envs(task, EVAL_EPISODES)
    result = evaluate(agent, envs, EVAL_EPISODES, seed=10_000)["return_mean"]
    envs.close()
    return {
        "task": task,
        "library": library,
        "seed": seed,
        "steps": TASKS[task]["total_timesteps"],
        "episodes": EVAL_EPISODES,
        "return": round(result, 3),
        "seconds": round(seconds, 1),
    }


COLUMNS = ["task", "library", "seed", "steps", "episodes", "return", "seconds"]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace the table, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of earlier runs, none if there is no such file."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        rows: list[dict[str, Any]] = list(reader)
    if reader.fieldnames != COLUMNS or any(None in row for row in rows):
        raise ValueError(f"columns must be {', '.join(COLUMNS)}")
    for row in rows:
        row |= {name: str(row[name]) for name in ("task", "library")}
        row |= {name: int(row[name]) for name in ("seed", "steps", "episodes")}
        row |= {name: float(row[name]) for name in ("return", "seconds")}
    return rows


def is_current(row: dict[str, Any]) -> bool:
    """Whether a run was as long, and judged on as many episodes, as one would be now."""
    task = TASKS.get(row["task"])
    return task is not None and (row["steps"], row["episodes"]) == (task["total_timesteps"], EVAL_EPISODES)


@program
def main(argv: list[str] | None = None) -> int:
    """Run, print, compare."""
    args = tyro.cli(Args, args=argv, description=__doc__)
    if unknown := [task for task in args.tasks if task not in TASKS]:
        raise ValueError(f"unknown task {unknown[0]!r}: {nearest(unknown[0], TASKS)}")
    if not args.tasks or not args.seeds or len(set(args.seeds)) < len(args.seeds):
        raise ValueError("--tasks and --seeds need at least one value each, and each seed once")
    check_options(args)
    if any(seed < 0 for seed in args.seeds):
        raise ValueError("--seeds must be at least 0")
    check_output(args.csv, "--csv", (".csv",))
    try:
        rows = read_rows(args.csv)
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{args.csv} is not a table of this script ({error}); give another --csv") from error
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the pool ends its processes
    done = {(row["library"], row["task"], row["seed"]) for row in filter(is_current, rows)}
    jobs = [(lib, task, seed) for task in args.tasks for seed in args.seeds for lib in LIBRARIES]
    jobs = [job for job in jobs if job not in done]
    # spawn: torch and MuJoCo hold threads, which do not survive a fork
    with multiprocessing.get_context("spawn").Pool(args.jobs, maxtasksperchild=1) as pool:
        for row in pool.imap_unordered(run_one, jobs):
            rows.append(row)
            print(f"{row['task']:27} {row['library']:18} seed {row['seed']}: {row['return']:9.1f}", flush=True)
            write_rows(args.csv, rows)

    worse = False
    print(f"\n{'task':27} {'seeds':>5} {'ballbot':>20} {'stable-baselines3':>20}")
    for task in args.tasks:
        mine = [row for row in filter(is_current, rows) if row["task"] == task and row["seed"] in args.seeds]
        sides = [[row["return"] for row in mine if row["library"] == library] for library in LIBRARIES]
        means = [float(np.mean(side)) for side in sides]
        spreads = [float(np.std(side, ddof=1)) if len(side) > 1 else 0.0 for side in sides]
        standard_error = math.sqrt(sum(spread**2 / len(side) for spread, side in zip(spreads, sides, strict=True)))
        worse |= not means[0] >= means[1] - 2 * standard_error  # NaN is worse
        cells = [f"{mean:11.1f} +- {spread:6.1f}" for mean, spread in zip(means, spreads, strict=True)]
        print(f"{task:27} {len(sides[0]):5} {' '.join(cells)}")
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
