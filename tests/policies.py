"""Checkpoints of policies that have learned nothing, for tests of what uses them."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from ballbot.envs import BallbotVectorEnv
from ballbot.ppo import Agent, PPOConfig, Structure
from ballbot.ppo.checkpoint import save_checkpoint
from ballbot.ppo.spaces import describe_spaces

BOX3 = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)


def save_policy(
    path: Path,
    size: int = 17,
    action_space: gym.Space[Any] = BOX3,
    gain: float = 10.0,
    structure: Structure | None = None,
    settings: dict[str, Any] | None = None,
    privileged: int = 0,
    **metadata: Any,
) -> Path:
    """A policy-only file with random networks, whose actions are ``gain`` times as large as those of a new agent.

    If ``privileged``, its value function saw so many numbers more.
    """
    config = PPOConfig(hidden_size=16, num_layers=2, linear_skip=True, **(settings or {}))
    observation_space: gym.Space[Any] = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
    if privileged:
        more = gym.spaces.Box(-np.inf, np.inf, (privileged,), np.float32)
        observation_space = gym.spaces.Dict({"policy": observation_space, "privileged": more})
        config = replace(config, value_only=("privileged",))
    generator = torch.Generator().manual_seed(0)
    agent = Agent(observation_space, action_space, config, generator, structure)
    with torch.no_grad():
        agent.policy_head.weight.mul_(gain)
        assert agent.policy_skip is not None
        agent.policy_skip.weight.normal_(0.0, 0.003, generator=torch.Generator().manual_seed(1)).mul_(gain)
    metadata = {"observation": "proprioception", "frame": "body", "terrain": "flat"} | metadata
    state = {
        "kind": "policy",
        "config": asdict(config),
        "spaces": describe_spaces(observation_space, action_space),
        "env_metadata": metadata,
        "policy": agent.state_dict(),
        "global_step": 1234,
    }
    save_checkpoint([path], state)
    return path


def roll() -> Any:
    """Observations of a few steps, the same in every process."""
    envs = BallbotVectorEnv(3, num_terrains=2, num_threads=1, observation="encoded")
    envs.reset(seed=7)
    rng = np.random.default_rng(1)
    return np.stack([envs.step(rng.uniform(-1, 1, (3, 3)).astype(np.float32))[0] for _ in range(30)])
