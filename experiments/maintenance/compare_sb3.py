"""Is our PPO right?  Train it and stable-baselines3's on Gymnasium's own tasks, same hyperparameters, same seeds.

    pip install -e ".[dev]" "gymnasium[box2d]"
    python experiments/maintenance/compare_sb3.py                  # all tasks, five seeds: four hours on one core
    python experiments/maintenance/compare_sb3.py --tasks Acrobot-v1 --seeds 0

One run at a time; each appends a row to --csv when it ends, and runs whose rows are there are left out, so that the
whole can be stopped at any time and gone on with.  Prints medians of deterministic evaluation returns.  Exit status 1
if on some task our median is lower than the other's beyond doubt: the interval of the difference lies below 0.

Both see observations normalised by running statistics and scaled rewards where the task asks for it, both bootstrap
time limits, and both use the same networks, optimiser and schedule; ours is judged without policy averaging.  One and
the same code judges both on the same episodes: the networks that stable-baselines3 trained are put into our `Agent`.
What still differs is small: the learning rate of an update is that of its rollout's beginning here and of its end
there, and advantages are divided by a standard deviation over n here and over n - 1 there.

Where a policy needs a memory, ours has a GRU beside the observation, and RecurrentPPO of sb3-contrib an LSTM of the
same size in its place.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gym_tasks import SEEDS, TASKS, config_of, make_envs, wrapper_of
from shared import MACHINE, PUBLISHED, CheckoutPath, append_row, check_each_once, check_names, check_seeds, read_table

from ballbot.cli import check_options, check_output, program
from ballbot.parsing import parse
from ballbot.ppo import Agent, PPOConfig, evaluate, train
from ballbot.ppo.layers import ACTIVATIONS
from ballbot.ppo.run_dir import git_commit
from ballbot.ppo.schedules import scheduled_lr

if TYPE_CHECKING:
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

EVAL_EPISODES = 100
"""Episodes a return is averaged over: their spread is then small against the spread over seeds."""


@dataclass
class Args:
    """Compare our PPO with stable-baselines3's."""

    tasks: list[str] = field(default_factory=lambda: list(TASKS))
    """Which of the tasks to run, in this order."""
    seeds: list[int] = field(default_factory=lambda: list(SEEDS))
    """Seeds of both."""
    csv: CheckoutPath = PUBLISHED / "compare_sb3.csv"
    """Where to append one row a run; runs whose rows are there are left out."""


def make_sb3(config: PPOConfig, envs: VecEnv, ortho_init: bool = True) -> OnPolicyAlgorithm:
    """PPO of stable-baselines3, or RecurrentPPO of sb3-contrib, with our settings.

    On environments that already normalise.
    """
    width = [config.hidden_size] * config.num_layers

    def learning_rate(remaining: float) -> float:
        return scheduled_lr(config.lr_schedule, config.learning_rate, max(remaining, 0.0))

    settings: dict[str, Any] = {
        "learning_rate": learning_rate,
        "n_steps": config.num_steps,
        "batch_size": config.minibatch_size,
        "n_epochs": config.update_epochs,
        "gamma": config.gamma,
        "gae_lambda": config.gae_lambda,
        "clip_range": config.clip_range,
        "ent_coef": config.ent_coef,
        "vf_coef": config.vf_coef / 2,  # half the mean squared error here, the whole of it there
        "max_grad_norm": config.max_grad_norm,
        "target_kl": config.target_kl,
        "seed": config.seed,
        "device": "cpu",
    }
    policy = {
        "net_arch": {"pi": width, "vf": width},
        "activation_fn": ACTIVATIONS[config.activation],
        "ortho_init": ortho_init,
        "log_std_init": math.log(config.initial_std),
        "optimizer_class": torch.optim.AdamW,
        # eps as ours: stable-baselines3 sets it for Adam only
        "optimizer_kwargs": {"weight_decay": config.weight_decay, "eps": config.adam_eps},
    }
    if config.memory == "gru":
        from sb3_contrib import RecurrentPPO

        return RecurrentPPO(
            "MlpLstmPolicy", envs, policy_kwargs=policy | {"lstm_hidden_size": config.memory_size}, **settings
        )
    from stable_baselines3 import PPO

    return PPO("MlpPolicy", envs, policy_kwargs=policy, **settings)


def agent_of(model: OnPolicyAlgorithm, config: PPOConfig) -> Agent:
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


class Remembering(Agent):
    """A policy of sb3-contrib that `evaluate` can judge: it keeps its memory to itself, and starts it anew when asked.

    Its own networks, as those of an `Agent`, are not used.
    """

    def __init__(self, model: OnPolicyAlgorithm, config: PPOConfig) -> None:
        super().__init__(model.observation_space, model.action_space, config)
        self._model = model
        self._state: tuple[Any, ...] | None = None

    def new_memory(self, batch: int) -> None:
        """Forget the past: all episodes begin anew."""
        self._state = None

    def act(self, obs: Any, deterministic: bool = True, *_: Any) -> torch.Tensor:
        """Actions (batch, ...) in raw observations (batch, ...)."""
        if (normalizing := self._model.get_vec_normalize_env()) is not None:
            obs = normalizing.normalize_obs(obs)
        actions, self._state = self._model.predict(obs, self._state, deterministic=deterministic)
        return torch.from_numpy(actions)


def train_ours(task: str, seed: int) -> Agent:
    """Our policy after training."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        return train(config_of(task, seed), partial(make_envs, task), run_dir=run_dir, console=False).agent


def train_sb3(name: str, seed: int) -> Agent:
    """The policy of stable-baselines3 or sb3-contrib after training."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    config, task = config_of(name, seed), TASKS[name]
    envs = VecNormalize(
        make_vec_env(task.env_id or name, n_envs=config.num_envs, seed=seed, wrapper_class=wrapper_of(task)),
        norm_obs=config.normalize_observations,
        norm_reward=config.normalize_rewards,
        gamma=config.gamma,
    )
    model = make_sb3(config, envs, task.ortho_init).learn(config.total_timesteps)
    return agent_of(model, config) if config.memory == "none" else Remembering(model, config)


OURS = "ballbot"


def libraries(task: str) -> tuple[str, str]:
    """Ours, and the one that it is compared with."""
    return OURS, "sb3-contrib" if "memory" in TASKS[task].config else "stable-baselines3"


def run_one(library: str, task: str, seed: int) -> dict[str, Any]:
    """One row of the CSV."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    agent = (train_ours if library == OURS else train_sb3)(task, seed)
    seconds = time.perf_counter() - start
    envs = make_envs(task, EVAL_EPISODES)
    result = evaluate(agent, envs, EVAL_EPISODES, seed=10_000)["return_mean"]
    envs.close()
    packages = [library, "gymnasium", "mujoco", "numpy", "torch"]
    return {
        "task": task,
        "library": library,
        "seed": seed,
        "steps": TASKS[task].config["total_timesteps"],
        "episodes": EVAL_EPISODES,
        "return": round(result, 3),
        "seconds": round(seconds, 1),
        "versions": "; ".join(f"{package} {version(package)}" for package in packages),
        "machine": MACHINE,
        "commit": git_commit(Path(__file__)),
    }


COLUMNS = ["task", "library", "seed", "steps", "episodes", "return", "seconds", "versions", "machine", "commit"]
"""The last three were not written down in older rows."""
NUMBERS = {"seed": int, "steps": int, "episodes": int, "return": float, "seconds": float}
"""Which of them are numbers."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of earlier runs, none if there is no such file.

    Raises:
        ValueError: it is another table, or damaged.
    """
    return read_table(path, COLUMNS, NUMBERS)


def is_current(row: dict[str, Any]) -> bool:
    """Whether a run was as long, and judged on as many episodes, as one would be now."""
    task = TASKS.get(row["task"])
    return task is not None and (row["steps"], row["episodes"]) == (task.config["total_timesteps"], EVAL_EPISODES)


RESAMPLES = 10_000


def median_interval(values: list[float], others: list[float] | None = None) -> tuple[float, float, float]:
    """Median, or its difference from that of `others`, and the ends of its 95 % interval.

    By a percentile bootstrap over seeds whose draws are always the same.  NaN without a value; without two, the
    interval is NaN.
    """
    rng = np.random.default_rng(0)
    medians, spread = [], np.zeros(RESAMPLES)
    for sign, side in ((1, np.array(values)), (-1, np.array([0.0, 0.0] if others is None else others))):
        medians.append(sign * float(np.median(side)) if len(side) else math.nan)
        drawn = (
            side[rng.integers(len(side), size=(RESAMPLES, len(side)))] if len(side) > 1 else np.full((1, 1), math.nan)
        )
        spread = spread + sign * np.median(drawn, axis=1)
    low, high = np.quantile(spread, [0.025, 0.975])
    return sum(medians), float(low), float(high)


def in_words(found: tuple[float, float, float]) -> str:
    """A median with its interval; of a single value, there is none."""
    median, low, high = found
    if math.isnan(median):
        return "missing"
    return f"{median:.1f}" if math.isnan(low) else f"{median:.1f} [{low:.1f}, {high:.1f}]"


def returns_of(rows: list[dict[str, Any]], task: str, seeds: Collection[int]) -> tuple[list[float], list[float]]:
    """Returns of our runs of a task, and of the others'."""
    mine = [row for row in filter(is_current, rows) if row["task"] == task and row["seed"] in seeds]
    ours, other = libraries(task)
    return [r["return"] for r in mine if r["library"] == ours], [r["return"] for r in mine if r["library"] == other]


@program
def main(argv: list[str] | None = None) -> int:
    """Run, print, compare."""
    args = parse(Args, argv, __doc__)
    check_names("--tasks", args.tasks, TASKS)
    check_each_once("--tasks", args.tasks)
    check_each_once("--seeds", args.seeds)
    check_options(args)
    check_seeds(args.seeds)
    check_output(args.csv, "--csv", (".csv",))
    rows = read_rows(args.csv)
    for task in args.tasks:
        try:
            make_envs(task, 1).close()
        except gym.error.DependencyNotInstalled as error:
            raise ValueError(f'{task} needs more: pip install "gymnasium[box2d]" ({error})') from error
    done = {(row["library"], row["task"], row["seed"]) for row in filter(is_current, rows)}
    jobs = [(library, task, seed) for task in args.tasks for seed in args.seeds for library in libraries(task)]
    for job in jobs:
        if job not in done:
            row = run_one(*job)
            append_row(args.csv, row, COLUMNS)
            rows.append(row)
            print(f"{row['task']:27} {row['library']:18} seed {row['seed']}: {row['return']:9.1f}", flush=True)

    worse = False
    print(f"\n{'median (95 % interval)':27} {'ballbot':>30} {'stable-baselines3':>30} {'difference':>30}")
    for task in args.tasks:
        ours, theirs = returns_of(rows, task, args.seeds)
        found = [median_interval(ours), median_interval(theirs), median_interval(ours, theirs)]
        worse |= found[2][2] < 0
        print(f"{task:27} {' '.join(f'{in_words(cell):>30}' for cell in found)}")
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
