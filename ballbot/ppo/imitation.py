"""Learning from a teacher before learning from rewards: DAgger (Ross et al. 2011, arXiv:1011.0686).

For `PPOConfig.imitation_timesteps` the policy drives, the teacher says what it would have done there, and the policy
learns that; the value function learns as ever, so that PPO can take over. As what a new policy does leads nowhere, the
teacher drives some environments itself at first.

A policy with an estimator learns meanwhile what is true of what it estimates: beside its teacher, or by itself, if it
knows already what to do (`Estimating`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ballbot.ppo import distributed
from ballbot.ppo.agent import Agent
from ballbot.ppo.config import PPOConfig
from ballbot.ppo.storage import Rollout

DRIVES_UNTIL = 0.3
"""Share of the imitation after which no environment is driven by the teacher: its number falls in a straight line."""


class Teacher(Protocol):
    """Says what to do in a situation; what it remembers, it keeps itself, a row for each environment.

    A run with a teacher whose memory counts repeats bit for bit when it is resumed if the teacher has `get_state()` and
    `set_state(state)`, of nested dicts and lists of arrays and plain values.
    """

    def __call__(self, obs: Any, began: NDArray[np.bool_]) -> Any:
        """Actions (n, *action_shape) for what n environments observe; `began` (n,) says where an episode begins."""


def squared_error(agent: Agent, values: torch.Tensor, returns: torch.Tensor) -> torch.Tensor:
    """Of values (batch,), in the units in which the value function learns; not clipped."""
    error = (values - returns) ** 2
    return error if agent.value_scale is None else error / agent.value_scale.std**2


def mean_of(weights: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """Of samples (batch,), by these weights, which add up to 1; None: all alike."""
    return x.mean() if weights is None else (x * weights).sum()


def lesson_metrics(loss: torch.Tensor, difference: torch.Tensor, value_loss: torch.Tensor) -> torch.Tensor:
    """What `ppo_loss` tells beside its loss, where what PPO alone has is 0."""
    return torch.stack([loss, difference, value_loss, *[torch.zeros_like(loss)] * 4]).detach()


def imitation_loss(
    agent: Agent,
    obs: torch.Tensor,
    answers: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    returns: torch.Tensor,
    old_values: torch.Tensor,
    weights: torch.Tensor | None,
    config: PPOConfig,
    sequences: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Stand-in of `ppo_loss` that makes the teacher's answers likelier; same arguments, same kind of metrics.

    Of Gaussian policies only the mean learns: their noise stays what exploration needs. "policy_loss", which is logged
    as "imitation/difference", is the mean squared difference from the teacher, or, of choices, minus the
    log-probability of its answers.  The value error is not clipped: `value_clip_range` is PPO's.
    """
    output, value = agent.outputs(obs, agent.recall_rows(obs, sequences))
    policy_loss, difference = difference_from(agent, output, answers, weights)
    value_loss = 0.5 * mean_of(weights, squared_error(agent, value, returns))
    loss = policy_loss + config.vf_coef * value_loss
    return loss, lesson_metrics(loss, difference, value_loss)


def difference_from(
    agent: Agent, output: torch.Tensor, answers: torch.Tensor, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of a policy's output (batch, ...) for a teacher's answers, and how much they differ, as it is logged."""
    mean = partial(mean_of, weights)
    if agent.choices is not None:
        loss = -mean(agent.choices.logprob(answers, output))
        return loss, loss
    squared = (output - answers) ** 2
    # in units of the noise: what it hides matters as little as it does to PPO's likelihoods
    return mean((0.5 * squared * torch.exp(-2 * agent.log_std.detach())).sum(-1)), mean(squared.mean(-1))


@dataclass
class Lessons:
    """A teacher beside the policy in all environments of this process, for one rollout after the other.

    Args:
        teacher: says what it would do.
        agent: who learns.
        num_envs: environments of this process.
    """

    teacher: Teacher
    agent: Agent
    num_envs: int
    answers: torch.Tensor = field(init=False)
    """(num_steps, num_envs, ...) what the policy should have said, as its actions are stored."""
    share: float = 0.0
    """Of all environments, how many the teacher drives."""
    began: NDArray[np.bool_] = field(init=False)
    """(num_envs,) where an episode begins with the next observation."""

    def __post_init__(self) -> None:
        self.began = np.ones(self.num_envs, bool)

    @property
    def loss(self) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
        """Of minibatches of `lesson`."""
        return imitation_loss if self.agent.estimate is None else partial(estimation_loss, imitates=True)

    def begin(self, storage: Rollout, progress: float) -> None:
        """Prepare for a rollout after this share of the imitation."""
        self.answers = torch.zeros_like(storage.actions)
        self.share = max(1.0 - progress / DRIVES_UNTIL, 0.0)

    def ask(self, step: int, obs: Any, rows: torch.Tensor, action: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Keep the teacher's answer to the observation of this step, and return who of both drives where.

        Args:
            step: of the rollout.
            obs: as the environments gave it.
            rows: the same, (num_envs, value_size).
            action: (num_envs, ...) of the policy.
            noise: (num_envs, noise_size) that it was drawn with.

        Raises:
            ValueError: the teacher's actions are not finite, or of another shape.
        """
        told = torch.as_tensor(np.asarray(self.teacher(obs, self.began), np.float64), device=action.device)
        answer = self.agent.stored_action(told, rows)
        if not answer.isfinite().all():
            raise ValueError(f"the teacher's actions are not finite at step {step} of the rollout")
        if (choices := self.agent.choices) is not None:
            most = torch.tensor(choices.counts, device=action.device).reshape(choices.shape) - 1
            if ((answer < 0) | (answer > most)).any() or (told != told.round()).any():
                raise ValueError(f"the teacher chose what there is not at step {step} of the rollout: {told.tolist()}")
        self.answers[step] = answer
        if self.agent.estimate is not None:  # for what is true another action comes to the same
            self.answers[step] = self.agent.stored_action(told, with_truth(self.agent, rows))
        own = distributed.own_envs(self.num_envs)
        driven = torch.arange(own.start, own.stop, device=action.device) < self.share * (
            self.num_envs * distributed.world_size()
        )
        if not self.agent.discrete:
            answer = answer + noise * torch.exp(self.agent.log_std.detach())
        return torch.where(driven.view(-1, *(1,) * (action.ndim - 1)), answer, action)

    def lesson(self, batch: Rollout) -> Rollout:
        """The rollout, with the teacher's answers for what was done; with whole observations, if some is estimated."""
        return replace(batch, actions=self.answers, obs=batch.obs if self.agent.estimate is None else batch.raw_obs)

    def get_state(self) -> dict[str, Any]:
        """What the next rollout depends on, for checkpoints."""
        kept = getattr(self.teacher, "get_state", None)
        return {"began": self.began, "teacher": None if kept is None else kept()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Inverse of `get_state`.

        Raises:
            ValueError: it is of another number of environments.
        """
        if np.shape(state["began"]) != self.began.shape:
            raise ValueError(f"lessons are of {np.shape(state['began'])} environments, expected {self.began.shape}")
        if (restore := getattr(self.teacher, "set_state", None)) is not None:
            restore(state["teacher"])
        self.began = np.asarray(state["began"], bool)


def truth_of(agent: Agent, rows: torch.Tensor) -> torch.Tensor:
    """(batch, m) what is true of what the agent estimates, of rows (batch, value_size)."""
    assert agent.estimate is not None
    return rows.index_select(1, agent.estimate.truth + agent.obs_size)


def with_truth(agent: Agent, rows: torch.Tensor) -> torch.Tensor:
    """(batch, value_size) rows, with what is true where what is estimated of it stands."""
    return torch.cat([rows[:, : agent.told_size], truth_of(agent, rows), rows[:, agent.obs_size :]], dim=1)


def estimation_loss(
    agent: Agent,
    rows: torch.Tensor,
    answers: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    returns: torch.Tensor,
    old_values: torch.Tensor,
    weights: torch.Tensor | None,
    config: PPOConfig,
    sequences: tuple[torch.Tensor, torch.Tensor] | None = None,
    imitates: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Stand-in of `ppo_loss` that makes estimates truer; same arguments, but whole observations as they are.

    The value function learns as ever.  "policy_loss", which is logged as "imitation/difference", is the mean
    squared error in units of the truth's variance: 1 for who always says the mean, 0 for who knows.

    Who `imitates` a teacher learns its answers at once, to what is true, where it drives by what it takes for true:
    estimates that are bad at first would teach it to mistrust them.  "policy_loss" is then that of `imitation_loss`.
    """
    mean, estimate = partial(mean_of, weights), agent.estimate
    assert estimate is not None and agent.estimator is not None
    truth = truth_of(agent, rows).float() / estimate.unit
    error = (agent.estimator.raw(estimate, rows) / estimate.unit - truth) ** 2
    estimation = mean(error.mean(1))
    x = agent.normalize(rows)
    memories = agent.recall_rows(x, sequences)
    values = agent.get_value(x, None if memories is None else memories[:, -1])
    value_loss = 0.5 * mean(squared_error(agent, values, returns))
    loss = estimation + config.vf_coef * value_loss
    if not imitates:
        difference = estimation / truth.var(0, correction=0).mean().clamp(min=1e-12)
        return loss, lesson_metrics(loss, difference, value_loss)
    seen = agent.normalize(with_truth(agent, rows))
    memories = agent.recall_rows(seen, sequences)
    output = agent.policy_output(seen, None if memories is None else memories[:, 0])
    policy_loss, difference = difference_from(agent, output, answers, weights)
    loss = policy_loss + loss
    return loss, lesson_metrics(loss, difference, value_loss)


@dataclass
class Estimating:
    """Stands where the lessons of a teacher do, for an agent whose estimator learns: the agent drives by itself.

    Args:
        began: (num_envs,) where an episode begins with the next observation.
    """

    began: NDArray[np.bool_]

    def begin(self, storage: Rollout, progress: float) -> None:
        """Prepare for a rollout."""

    def ask(self, step: int, obs: Any, rows: torch.Tensor, action: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The agent's own action."""
        return action

    def lesson(self, batch: Rollout) -> Rollout:
        """What `estimation_loss` learns from."""
        return replace(batch, obs=batch.raw_obs)

    loss: ClassVar[Any] = staticmethod(estimation_loss)

    def get_state(self) -> dict[str, Any]:
        """Nothing that a checkpoint would have to hold."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Inverse of `get_state`."""
