"""stable-baselines3's PPO on environments of Gymnasium's kind."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from compare_sb3 import make_sb3
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from ballbot.envs import BallbotVectorEnv
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

FOREVER = 10**12


class Envs(VecEnv):
    """Ballbots as its VecEnv, which resets itself as "same_step" does.

    Args:
        envs: the ballbots.
        seed: of the first reset, whatever seed others ask for.
        step: instead of `envs.step`.
    """

    def __init__(self, envs: BallbotVectorEnv, seed: int, step: Any = None) -> None:
        self.envs, self._seed, self._step = envs, seed, step or envs.step
        self._actions: Any = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> Any:
        """First observations."""
        return self.envs.reset(seed=self._seed)[0]

    def step_async(self, actions: Any) -> None:
        """Remember what to do."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, Any, Any, list[dict[str, Any]]]:
        """Do it: observations, rewards, whose episodes ended, and of those the last observation."""
        obs, rewards, terminated, truncated, infos = self._step(self._actions)
        done = terminated | truncated
        told: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(done):
            cut = bool(truncated[i] and not terminated[i])
            told[i] = {"terminal_observation": infos["final_obs"][i], "TimeLimit.truncated": cut}
        return obs, rewards.astype(np.float32), done, told

    def close(self) -> None:
        """Close the ballbots."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same for all."""
        return [getattr(self.envs, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Nothing can be set."""
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """No environment can be called alone."""
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """None is."""
        return [False] * len(list(self._get_indices(indices)))


def train(job: Job, folder: Path, began: float) -> list[Snapshot]:
    """Snapshots.  Its own settings are those of its MlpPolicy, with VecNormalize around the environments."""
    own, config = job.hyperparameters == "own", replace(settings_of(job).ppo, memory="none")
    inner = training_envs(job)

    def write(path: Path) -> None:
        write_policy(path, model)

    snapshots = Snapshots(job, folder, began, write)
    steps = Steps(inner, snapshots)
    gamma = 0.99 if own else config.gamma
    envs = VecNormalize(Envs(inner, env_seed(job), steps.step), norm_reward=own, gamma=gamma)
    if own:
        model: Any = PPO("MlpPolicy", envs, seed=job.seed, device="cpu")
    else:
        model = make_sb3(config, envs)
    with suppress(TimeUp):
        model.learn(FOREVER if own else config.total_timesteps // config.action_repeat)
        snapshots.keep(steps.taken)
    return snapshots.kept


def write_policy(path: Path, model: Any) -> None:
    """Write its policy as it is now."""
    envs, policy = model.get_env(), model.policy
    root = np.sqrt(envs.obs_rms.var + envs.epsilon)
    write_network(path, envs.obs_rms.mean, root, envs.clip_obs, [*policy.mlp_extractor.policy_net, policy.action_net])
