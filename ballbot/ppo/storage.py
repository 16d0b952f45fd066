"""What passes between environments and algorithm: the steps of one rollout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from ballbot.errors import BallbotError
from ballbot.ppo.agent import Agent


class DivergedError(BallbotError, RuntimeError):
    """Learning or the environment produced a number that is not finite."""


def all_rows(observations: torch.Tensor, num_envs: int) -> torch.Tensor:
    """The same (num_envs, ...) observations.

    Raises:
        ValueError: there are more, or fewer.
    """
    if len(observations) != num_envs:
        raise ValueError(f"step() returned observations of {len(observations)} environments, expected {num_envs}")
    return observations


def column(values: Any, what: str, num_envs: int, device: torch.device) -> torch.Tensor:
    """What `envs.step` returned a number a row for, (num_envs,).

    Raises:
        ValueError: it has another shape.
    """
    found = torch.as_tensor(values, device=device)
    if tuple(found.shape) != (num_envs,):
        raise ValueError(f"step() returned {what} of shape {tuple(found.shape)}, expected ({num_envs},): one a row")
    return found


@dataclass
class Rollout:
    """Steps of all environments; every tensor is (num_steps, num_envs, ...) and float32 unless noted.

    `raw_obs` is what the environments returned, flattened, `obs` what the networks saw. `final_values` holds V(final
    observation) where an episode was truncated, and is not used elsewhere. `valid` (bool, or None for all) is
    False in rows that are no real step. `next_value` is (num_envs,). Of agents that remember, `memory` is what
    `Agent.new_memories` makes, before the first step, and `began` (bool) tells where an episode begins after it.
    """

    raw_obs: torch.Tensor
    obs: torch.Tensor
    actions: torch.Tensor
    logprobs: torch.Tensor
    rewards: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    values: torch.Tensor
    final_values: torch.Tensor
    next_value: torch.Tensor
    valid: torch.Tensor | None
    memory: torch.Tensor | None = None
    began: torch.Tensor | None = None

    @classmethod
    def allocate(cls, agent: Agent, num_steps: int, num_envs: int, next_step: bool, device: torch.device) -> Rollout:
        """Storage to be filled again and again; `next_step` tells whether there are filler rows."""

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros(num_steps, num_envs, *shape, dtype=dtype, device=device)

        raw_obs, choices = zeros(agent.value_size), agent.choices
        return cls(
            raw_obs=raw_obs,
            obs=raw_obs if agent.takes_raw else zeros(*agent.input_shape),
            actions=zeros(agent.noise_size) if choices is None else zeros(*choices.shape, dtype=torch.int64),
            logprobs=zeros(),
            rewards=zeros(),
            terminated=zeros(dtype=torch.bool),
            truncated=zeros(dtype=torch.bool),
            values=zeros(),
            final_values=zeros(),
            next_value=torch.zeros(num_envs, device=device),
            valid=zeros(dtype=torch.bool) if next_step else None,
            memory=agent.new_memories(num_envs),
            began=zeros(dtype=torch.bool) if agent.memory_size else None,
        )


@dataclass
class EnvState:
    """Where the environments stand after a rollout: `obs` as they returned it, `done` (num_envs,) bool.

    `memory` is what an agent that remembers does before it sees `obs`; None where that is nothing.
    """

    obs: Any
    done: torch.Tensor
    memory: torch.Tensor | None = None


def autoreset_mode(envs: VectorEnv) -> AutoresetMode:
    """Autoreset mode the environments declare.

    Raises:
        ValueError: none is declared, or the environments do not reset themselves.
    """
    mode = envs.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode) or mode == AutoresetMode.DISABLED:
        raise ValueError(
            f'envs.metadata["autoreset_mode"] is {mode}; it must be AutoresetMode.SAME_STEP or NEXT_STEP, '
            "since the trainer relies on environments that reset themselves"
        )
    return mode


def check_finite(
    obs: torch.Tensor, next_obs: torch.Tensor, rewards: torch.Tensor, final_obs: list[torch.Tensor]
) -> None:
    """Raise DivergedError if the environments returned a NaN or an infinity."""
    for name, x in (
        ("an observation", obs),
        ("an observation", next_obs.unsqueeze(0)),
        ("a reward", rewards.unsqueeze(-1)),
    ):
        bad = ~x.isfinite().all(-1)
        if bad.any():
            step, env = bad.nonzero()[0].tolist()
            raise DivergedError(
                f"environment {env} returned {name} that is not finite ({int(bad.sum())} in all, the first "
                f"at step {step} of the rollout); it must end an episode whose simulation fails. The last "
                "checkpoint is untouched"
            )
    if final_obs and not torch.cat(final_obs).isfinite().all():
        raise DivergedError("an environment returned a final observation that is not finite; see infos['final_obs']")
