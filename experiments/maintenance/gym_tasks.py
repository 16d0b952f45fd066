"""Gymnasium's own tasks on which `compare_sb3.py` compares our PPO with another, and how both learn them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from ballbot.ppo import PPOConfig


@dataclass(frozen=True)
class Task:
    """What both learn, and how."""

    config: dict[str, Any]
    """Settings that differ from SHARED."""
    env_id: str = ""
    """Of Gymnasium; "" if the task has its name."""
    visible: tuple[int, ...] = ()
    """Numbers of an observation that are to be seen (empty: all)."""
    ortho_init: bool = True
    """Of stable-baselines3, as the zoo has it; our weights are always orthogonal."""


# Hyperparameters of rl-baselines3-zoo (hyperparams/ppo.yml and ppo_lstm.yml, read in November 2026), or what is
# stable-baselines3's own where it says nothing.  Clip ranges stay as they are at the start, vf_coef is twice the zoo's
# (see SHARED), and steps are fewer than its 1,000,000 so that all of it takes hours, not days.  The settings of
# Pendulum, InvertedDoublePendulum and those that run are simpler than the zoo's, which take seven times as long for
# the latter: 20 passes over 32 or 64 steps at a time.
RUNNERS: dict[str, Any] = {
    "total_timesteps": 500_000, "num_envs": 8, "num_steps": 256, "minibatch_size": 256, "update_epochs": 10,
    "gamma": 0.99, "gae_lambda": 0.95, "learning_rate": 3e-4, "normalize_rewards": True,
}  # fmt: skip
TASKS = {
    "CartPoleNoVel-v1": Task(
        {
            "total_timesteps": 100_000, "num_envs": 8, "num_steps": 32, "minibatch_size": 256, "update_epochs": 20,
            "gamma": 0.98, "gae_lambda": 0.8, "learning_rate": 1e-3, "normalize_rewards": True,
            "memory": "gru", "memory_size": 64, "num_layers": 1, "activation": "relu",
        },
        env_id="CartPole-v1", visible=(0, 2), ortho_init=False,
    ),
    "Acrobot-v1": Task(
        {
            "total_timesteps": 200_000, "num_envs": 16, "num_steps": 256, "minibatch_size": 64, "update_epochs": 4,
            "gamma": 0.99, "gae_lambda": 0.94, "learning_rate": 3e-4, "lr_schedule": "constant",
            "normalize_rewards": True,
        }
    ),
    "LunarLander-v3": Task(
        {
            "total_timesteps": 500_000, "num_envs": 16, "num_steps": 1024, "minibatch_size": 64, "update_epochs": 4,
            "gamma": 0.999, "gae_lambda": 0.98, "ent_coef": 0.01, "learning_rate": 3e-4, "lr_schedule": "constant",
            "normalize_observations": False, "normalize_observations_per_step": False,
        }
    ),
    "Swimmer-v5": Task(
        {
            "total_timesteps": 500_000, "num_envs": 4, "num_steps": 1024, "minibatch_size": 256, "update_epochs": 10,
            "gamma": 0.9999, "gae_lambda": 0.98, "learning_rate": 6e-4, "lr_schedule": "constant",
            "normalize_rewards": True,
        }
    ),
    "HalfCheetah-v5": Task(RUNNERS),
    "Walker2d-v5": Task(RUNNERS),
    "CartPole-v1": Task(
        {
            "total_timesteps": 100_000, "num_envs": 8, "num_steps": 32, "minibatch_size": 256, "update_epochs": 20,
            "gamma": 0.98, "gae_lambda": 0.8, "learning_rate": 1e-3, "normalize_observations": False,
            "normalize_observations_per_step": False,
        }
    ),
    "Pendulum-v1": Task(
        {
            "total_timesteps": 200_000, "num_envs": 4, "num_steps": 1024, "minibatch_size": 256, "update_epochs": 10,
            "gamma": 0.9, "gae_lambda": 0.95, "learning_rate": 1e-3, "normalize_rewards": True,
        }
    ),
    "InvertedDoublePendulum-v5": Task(
        {
            "total_timesteps": 400_000, "num_envs": 8, "num_steps": 256, "minibatch_size": 256, "update_epochs": 10,
            "gamma": 0.98, "gae_lambda": 0.95, "learning_rate": 3e-4, "normalize_rewards": True,
        }
    ),
    "Hopper-v5": Task(RUNNERS),
}  # fmt: skip
SEEDS = range(5)
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


def config_of(task: str, seed: int) -> PPOConfig:
    """Our settings for a task; stable-baselines3's are derived from them."""
    return PPOConfig(seed=seed, eval_interval=10**9, checkpoint_interval=10**9, **(SHARED | TASKS[task].config))


class Visible(gym.ObservationWrapper[Any, Any, Any]):
    """An environment of which only some numbers are seen."""

    def __init__(self, env: gym.Env[Any, Any], visible: tuple[int, ...]) -> None:
        super().__init__(env)
        space, self._visible = env.observation_space, list(visible)
        assert isinstance(space, gym.spaces.Box)
        self.observation_space = gym.spaces.Box(space.low[self._visible], space.high[self._visible])

    def observation(self, observation: Any) -> Any:
        """What is seen of an observation."""
        return observation[self._visible]


def wrapper_of(task: Task) -> Any:
    """What goes around each environment, or None."""
    return partial(Visible, visible=task.visible) if task.visible else None


def make_envs(name: str, num_envs: int) -> gym.vector.VectorEnv:
    """Environments as `ballbot.ppo` takes them."""
    task = TASKS[name]
    wrapper = wrapper_of(task)
    return gym.make_vec(
        task.env_id or name,
        num_envs=num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        wrappers=[wrapper] if wrapper else None,
    )
