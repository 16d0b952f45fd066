"""rsl_rl's PPO, by its OnPolicyRunner."""

from __future__ import annotations

import io
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import torch
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict

from ballbot.envs import BallbotVectorEnv
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

FOREVER = 10**9
ACTIVATION = {"leaky_relu": "lrelu", "silu": "swish"}
"""What it calls otherwise."""


class Envs(VecEnv):  # type: ignore[misc, unused-ignore]  # it is Any where rsl_rl is not installed
    """Ballbots as its VecEnv.

    Args:
        envs: the ballbots.
        seed: of the first reset.
        step: instead of `envs.step`.
    """

    def __init__(self, envs: BallbotVectorEnv, seed: int, step: Any = None) -> None:
        self.num_envs, self.num_actions, self.device = envs.num_envs, 3, "cpu"
        self.cfg: dict[str, Any] = {}
        self.max_episode_length = envs.config.max_episode_steps // envs.action_repeat
        self.episode_length_buf = torch.zeros(envs.num_envs, dtype=torch.long)
        self._step = step or envs.step
        self._obs = self._group(envs.reset(seed=seed)[0])

    def get_observations(self) -> TensorDict:
        """Of now."""
        return self._obs

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Observations, rewards, whose episodes ended, and of whom because the time was over."""
        obs, rewards, terminated, truncated, _ = self._step(actions.numpy())
        done = torch.from_numpy(terminated | truncated)
        self.episode_length_buf = (self.episode_length_buf + 1).masked_fill(done, 0)
        self._obs = self._group(obs)
        cut = torch.from_numpy(truncated & ~terminated)
        return self._obs, torch.from_numpy(rewards).float(), done, {"time_outs": cut}

    def _group(self, obs: Any) -> TensorDict:
        return TensorDict({"policy": torch.as_tensor(obs)}, batch_size=[self.num_envs])


def options(config: PPOConfig | None) -> dict[str, Any]:
    """What its runner takes: ours as far as it has such settings, or its own (None).

    Of how the learning rate changes it knows one way, by the KL divergence, which it then holds near ours.  Its value
    loss is the whole mean squared error, ours half of it.
    """
    noise = {"class_name": "GaussianDistribution", "init_std": 1.0 if config is None else config.initial_std}
    network: dict[str, Any] = {"class_name": "MLPModel", "obs_normalization": True}
    algorithm: dict[str, Any] = {"class_name": "PPO"}
    if config is not None:
        network["hidden_dims"] = [config.hidden_size] * config.num_layers
        network["activation"] = ACTIVATION.get(config.activation, config.activation)
        algorithm |= {
            "num_learning_epochs": config.update_epochs,
            "num_mini_batches": config.batch_size // config.minibatch_size,
            "clip_param": config.clip_range,
            "gamma": config.gamma,
            "lam": config.gae_lambda,
            "value_loss_coef": config.vf_coef / 2,
            "entropy_coef": config.ent_coef,
            "learning_rate": config.learning_rate,
            "max_grad_norm": 1e9 if config.max_grad_norm is None else config.max_grad_norm,
            "use_clipped_value_loss": False,
            "schedule": "fixed" if config.target_kl is None else "adaptive",
            "desired_kl": config.target_kl,
            "normalize_advantage_per_mini_batch": config.normalize_advantage_per_minibatch,
            "optimizer": "adamw" if config.weight_decay else "adam",
        }
    return {
        "num_steps_per_env": 24 if config is None else config.num_steps,
        "save_interval": FOREVER,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": {**network, "distribution_cfg": noise},
        "critic": dict(network),
        "algorithm": algorithm,
    }


def train(job: Job, folder: Path, began: float) -> list[Snapshot]:
    """Snapshots.  Its own settings are the defaults of its classes, and rollouts as long as in its example."""
    own, config = job.hyperparameters == "own", settings_of(job).ppo
    torch.manual_seed(job.seed)
    inner = training_envs(job)

    def write(path: Path) -> None:
        write_policy(path, runner)

    snapshots = Snapshots(job, folder, began, write)
    steps = Steps(inner, snapshots)
    envs = Envs(inner, env_seed(job), steps.step)
    with suppress(TimeUp), redirect_stdout(io.StringIO()):
        runner = OnPolicyRunner(envs, options(None if own else config), device="cpu")
        runner.learn(FOREVER if own else -(-config.total_timesteps // config.rollout_size))
        snapshots.keep(steps.taken)
    return snapshots.kept


def write_policy(path: Path, runner: Any) -> None:
    """Write its policy as it is now."""
    actor = runner.alg.get_policy()
    normal = actor.obs_normalizer
    write_network(path, normal.mean, normal.std + normal.eps, None, actor.mlp)
