"""Judge a policy on episodes it was not trained on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from ballbot.ppo.agent import Agent, rebuild_spaces
from ballbot.ppo.checkpoint import CheckpointError, load_checkpoint
from ballbot.ppo.config import PPOConfig
from ballbot.ppo.episodes import episode_terms, to_numpy
from ballbot.ppo.prior import FeedbackPrior
from ballbot.ppo.storage import autoreset_mode
from ballbot.ppo.symmetry import Symmetry

MAX_EPISODE_STEPS = 1_000_000
"""An episode longer than this has no end: evaluation would hang for ever instead of failing."""


def evaluate(
    agent: Agent, envs: VectorEnv, num_episodes: int, seed: int, deterministic: bool = True
) -> dict[str, float]:
    """Run `num_episodes` whole episodes: the first after a reset in each environment, as often as it takes.

    Only first episodes count, since short episodes would otherwise be over-represented. The result depends on
    the agent, the environments and `seed` alone, and no random state of the training is touched.

    Args:
        agent: policy to judge.
        envs: vector environment that resets itself (SAME_STEP or NEXT_STEP).
        num_episodes: a multiple of `envs.num_envs`.
        seed: of the first environment; the others, and further rounds, count up from it.
        deterministic: act by the mode of the policy, else by samples of it.

    Returns:
        return_mean, return_std, return_min, length_mean, and the mean of each reward term the environments
        report.

    Raises:
        ValueError: `num_episodes` is no multiple of `envs.num_envs`, or the environments do not reset themselves.
        RuntimeError: an episode does not end.
    """
    autoreset_mode(envs)
    n = envs.num_envs
    if num_episodes < 1 or num_episodes % n:
        raise ValueError(f"num_episodes = {num_episodes} must be a positive multiple of envs.num_envs = {n}")
    generator = torch.Generator(agent.policy_head.weight.device).manual_seed(seed)
    returns, lengths = np.zeros(num_episodes), np.zeros(num_episodes)
    terms: dict[str, list[float]] = {}
    for start in range(0, num_episodes, n):
        obs, _ = envs.reset(seed=seed + start)
        as_tensors = isinstance(obs, torch.Tensor)
        running = np.ones(n, bool)
        while running.any():
            action = agent.act(obs, deterministic, generator)
            obs, reward, terminated, truncated, infos = envs.step(action if as_tensors else action.cpu().numpy())
            returns[start : start + n] += to_numpy(reward) * running
            lengths[start : start + n] += running
            ended = running & (to_numpy(terminated) | to_numpy(truncated))
            if ended.any():
                for name, (values, mask) in episode_terms(infos).items():
                    terms.setdefault(name, []).extend(values[ended & mask])
                running &= ~ended
            if lengths.max() > MAX_EPISODE_STEPS:
                raise RuntimeError(
                    f"evaluation episode {int(lengths.argmax())} has not ended after {MAX_EPISODE_STEPS} "
                    "steps; limit the episodes, e.g. with gymnasium.wrappers.TimeLimit"
                )
    return {
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_min": float(returns.min()),
        "length_mean": float(lengths.mean()),
        **{name.removeprefix("charts/"): float(np.mean(values)) for name, values in terms.items() if values},
    }


def agent_from_state(state: dict[str, Any], path: Path) -> Agent:
    """Agent held by a loaded checkpoint; `path` is for the error message."""
    try:
        prior = FeedbackPrior.from_state(state["policy"])
        symmetry = Symmetry.from_state(state["policy"])
        scale, value_inputs = (state["policy"].get(name) for name in ("input_scale", "value_inputs"))
        config = PPOConfig(**state["config"])
        _check_size(state["policy"], state["spaces"], config)
        spaces = rebuild_spaces(state["spaces"])
        agent = Agent(*spaces, config, None, prior, scale, symmetry, value_inputs)
        agent.load_state_dict(state["policy"])
        if not all(x.isfinite().all() for x in agent.parameters()):
            raise ValueError("weights are not finite")
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} does not hold the networks its settings describe ({error}); use another one"
        ) from error
    return agent


def _check_size(weights: dict[str, torch.Tensor], spaces: dict[str, Any], config: PPOConfig) -> None:
    """Refuse to build networks that take more memory than the file which is said to hold them.

    Raises:
        ValueError: they cannot be in it.
    """
    action = spaces["action"]
    inputs = math.prod(spaces["observation_shape"])
    outputs = action["n"] if action["kind"] == "discrete" else math.prod(action["shape"])
    least = config.hidden_size * (inputs + (config.num_layers - 1) * config.hidden_size + outputs)
    if (held := sum(x.numel() for x in weights.values() if isinstance(x, torch.Tensor))) < least:
        raise ValueError(f"networks of {least} weights or more, of which it holds {held}")


def load_agent(path: str | Path, device: str = "cpu") -> Agent:
    """Policy and value networks of a checkpoint (best.pt, last.pt or step_<N>.pt), ready to `act`.

    With `config.policy_average` these are the running average of the networks, which is what training evaluates
    ("eval/return_mean"); the newest ones, which explore ("charts/episodic_return"), are only there to go on learning.

    Raises:
        CheckpointError: the file is missing, damaged or of another format.
    """
    return agent_from_state(load_checkpoint(path), Path(path)).to(device).eval()
