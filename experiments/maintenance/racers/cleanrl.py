"""CleanRL's PPO: its file ppo_continuous_action.py runs as it is, with other environments and without its log.

Gymnasium's wrappers for single environments, which the file uses, are done here for all at once: clipped observations
of running statistics, and rewards likewise with its own settings.  Episodes begin anew in the step that ends the old
one, as in the Gymnasium that the file was written for.
"""

from __future__ import annotations

import hashlib
import io
import runpy
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
from gymnasium.wrappers.utils import RunningMeanStd
from gymnasium.wrappers.vector import NormalizeReward

from ballbot.errors import SettingsError
from ballbot.ppo import PPOConfig
from racers.snapshots import (
    Job,
    Snapshot,
    Snapshots,
    Steps,
    TimeUp,
    env_seed,
    settings_of,
    training_envs,
    write_network,
)

CLIP, EPSILON = 10.0, 1e-8
"""Of normalised observations and rewards: the file's, and that of Gymnasium's wrappers."""
NEEDED = ("class Agent(", "actor_mean", "gym.vector.SyncVectorEnv(", "SummaryWriter(", "tyro.cli(Args)")
"""What is replaced or read in it."""


class Envs(gym.vector.VectorWrapper):
    """Environments that normalise observations, as CleanRL's users have it.

    Args:
        envs: ballbots.
        seed: of the reset, whatever seed others ask for.
        step: instead of `envs.step`.
    """

    def __init__(self, envs: gym.vector.VectorEnv, seed: int, step: Any = None) -> None:
        super().__init__(envs)
        shape = envs.single_observation_space.shape
        self.statistics: Any = RunningMeanStd(shape=shape)  # type: ignore[no-untyped-call]
        self._seed, self._step = seed, step or envs.step

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """First observations."""
        obs, infos = self.env.reset(seed=self._seed, options=options)
        return self._normalized(obs), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Of infos nothing: the file prints and logs the returns of episodes."""
        obs, rewards, terminated, truncated, _ = self._step(actions)
        return self._normalized(obs), rewards, terminated, truncated, {}

    def _normalized(self, obs: Any) -> Any:
        self.statistics.update(obs)
        return np.clip((obs - self.statistics.mean) / self.root, -CLIP, CLIP).astype(np.float32)

    @property
    def root(self) -> Any:
        """What observations are divided by."""
        return np.sqrt(self.statistics.var + EPSILON)


class NoLog:
    """Stands in for TensorBoard's SummaryWriter."""

    def __init__(self, *_: Any) -> None:
        """Keep nothing."""

    def add_text(self, *_: Any) -> None:
        """Nothing."""

    def add_scalar(self, *_: Any) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def check_file(path: Path) -> None:
    """Whether it is the file that is meant.

    Raises:
        SettingsError: it is not.
    """
    where = "ppo_continuous_action.py of https://github.com/vwxyzjn/cleanrl"
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--cleanrl {path} cannot be read ({error}): give the path of {where}") from error
    if missing := [part for part in NEEDED if part not in text]:
        raise SettingsError(f"--cleanrl {path} has no {missing[0]!r}: give the path of {where}")


def version_of(path: Path) -> str:
    """What tells versions of the file apart."""
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def options(config: PPOConfig) -> list[str]:
    """Ours as its command line: it knows no sizes of networks, weight decay or initial noise, which is 1."""
    anneal = "--anneal-lr" if config.lr_schedule == "linear" else "--no-anneal-lr"
    advantage = "--norm-adv" if config.normalize_advantage else "--no-norm-adv"
    given: dict[str, Any] = {
        "total-timesteps": config.total_timesteps // config.action_repeat,
        "learning-rate": config.learning_rate,
        "num-steps": config.num_steps,
        "gamma": config.gamma,
        "gae-lambda": config.gae_lambda,
        "num-minibatches": config.batch_size // config.minibatch_size,
        "update-epochs": config.update_epochs,
        "clip-coef": config.clip_range,
        "ent-coef": config.ent_coef,
        "vf-coef": config.vf_coef,
        "max-grad-norm": 1e9 if config.max_grad_norm is None else config.max_grad_norm,
    }
    if config.target_kl is not None:
        given["target-kl"] = 1.5 * config.target_kl  # ours, too, stops at 1.5 times it
    return ["--no-clip-vloss", anneal, advantage, *(f"--{name}={value}" for name, value in given.items())]


def train(job: Job, folder: Path, began: float) -> list[Snapshot]:
    """Snapshots.  With its own settings it ends after as many steps as it has by default."""
    own, path = job.hyperparameters == "own", str(job.cleanrl)
    inner = training_envs(job)

    def write(to: Path) -> None:
        # while the file runs, it is the main module
        write_network(to, envs.statistics.mean, envs.root, CLIP, vars(sys.modules["__main__"])["agent"].actor_mean)

    snapshots = Snapshots(job, folder, began, write)
    steps = Steps(inner, snapshots)
    envs = Envs(inner, env_seed(job), steps.step)

    def vector(*_: Any) -> gym.vector.VectorEnv:
        if not own:
            return envs
        scaled = NormalizeReward(envs)  # with gamma = 0.99, which is the file's, too
        return gym.wrappers.vector.TransformReward(scaled, lambda rewards: np.clip(rewards, -CLIP, CLIP))

    def last(*_: Any, **__: Any) -> None:  # the file closes its environments at the end
        snapshots.keep(steps.taken)
        raise TimeUp

    argv = [path, f"--seed={job.seed}", f"--num-envs={job.num_envs}", "--no-cuda"]
    argv += [] if own else options(settings_of(job).ppo)
    with (
        suppress(TimeUp),
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(gym.vector, "SyncVectorEnv", vector),
        mock.patch("torch.utils.tensorboard.SummaryWriter", NoLog),
        mock.patch.object(Envs, "close", last),
        redirect_stdout(io.StringIO()),
    ):
        runpy.run_path(path, run_name="__main__")
    return snapshots.kept
