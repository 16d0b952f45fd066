"""Policy and value networks."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from ballbot.ppo.config import PPOConfig
from ballbot.ppo.normalizer import RunningNormalizer, ValueScale
from ballbot.ppo.spaces import flatten, observation_parts
from ballbot.ppo.structure import Structure

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "leaky_relu": nn.LeakyReLU, "silu": nn.SiLU}
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def gaussian_logprob(x: torch.Tensor, mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """Log density of a diagonal Gaussian at `x` (..., dim), summed over the last axis."""
    return (-0.5 * ((x - mean) * torch.exp(-log_std)) ** 2 - log_std - HALF_LOG_2PI).sum(-1)


def gaussian_entropy(log_std: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of a diagonal Gaussian with `log_std` (..., dim), summed over the last axis."""
    return (log_std + 0.5 + HALF_LOG_2PI).sum(-1)


def categorical_logprob(action: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Log probability of the indices `action` (...) under `logits` (..., n)."""
    return logits.log_softmax(-1).gather(-1, action.long().unsqueeze(-1)).squeeze(-1)


def categorical_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of the categorical distribution with `logits` (..., n)."""
    logp = logits.log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


def layer(in_size: int, out_size: int, gain: float, generator: torch.Generator | None) -> nn.Linear:
    """Linear layer with orthogonal weights of the given gain and zero bias."""
    linear = nn.Linear(in_size, out_size)
    nn.init.orthogonal_(linear.weight, gain, generator=generator)
    nn.init.zeros_(linear.bias)
    return linear


class Agent(nn.Module):
    """Gaussian (Box actions) or categorical (Discrete actions) policy, and a value function.

    `act` takes raw observations; the networks themselves (`get_value`, `sample`, ...) take what `normalize` makes
    of them. The standard deviation of the Gaussian does not depend on the state. Actions are stored unbounded;
    `env_action` clips them to the Box on their way out, so that their log-probability stays that of the
    distribution they were drawn from. A Structure's `prior` is added there too: what is drawn, stored and judged is
    what the policy adds to it. With a `symmetry`, the networks answer for every side of the task, and the mean of these
    answers counts.
    """

    input_scale: torch.Tensor | None
    value_inputs: torch.Tensor | None
    log_std: torch.Tensor
    action_low: torch.Tensor
    action_high: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: PPOConfig,
        generator: torch.Generator | None = None,
        structure: Structure | None = None,
    ) -> None:
        """Build the networks.

        Args:
            observation_space: a Box, of one environment.
            action_space: a Box of floats or a Discrete space, of one environment.
            config: sizes, activation, initial standard deviation.
            generator: source of the initial weights (None: PyTorch's global one).
            structure: what is known of the task and built into the networks (None: nothing).

        Raises:
            TypeError: a space is of another kind.
            ValueError: the structure does not fit the rest.
        """
        super().__init__()
        self.parts = observation_parts(observation_space, config.value_only)
        if isinstance(action_space, gym.spaces.Discrete):
            self.discrete = True
            self.action_shape: tuple[int, ...] = ()
            self.action_start = int(action_space.start)
            out_size = int(action_space.n)
        elif isinstance(action_space, gym.spaces.Box) and np.issubdtype(action_space.dtype, np.floating):
            self.discrete = False
            self.action_shape = action_space.shape
            out_size = math.prod(action_space.shape)
            self.register_buffer("action_low", torch.tensor(action_space.low.flatten(), dtype=torch.float32))
            self.register_buffer("action_high", torch.tensor(action_space.high.flatten(), dtype=torch.float32))
        else:
            raise TypeError(f"actions must be a Box of floats or Discrete, got {action_space}")
        self.obs_size = sum(part.size for part in self.parts if not part.value_only)
        """Numbers that the policy sees, the first of an observation."""
        self.value_size = sum(part.size for part in self.parts)
        """Numbers of an observation, all of which the value function gets."""
        self.noise_size = out_size
        structure = structure or Structure()
        structure.check(self.value_size, self.obs_size, None if self.discrete else out_size, config.shared_trunk)
        self.prior = structure.prior
        self.symmetry = structure.symmetry
        for name in ("input_scale", "value_inputs"):
            given = getattr(structure, name)
            self.register_buffer(name, None if given is None else given.clone())
        sides = () if self.symmetry is None else (len(self.symmetry),)
        self.input_shape: tuple[int, ...] = (*sides, self.value_size)
        """Of what the networks get for one observation."""
        self.min_log_std = -math.inf if config.min_std is None else math.log(config.min_std)
        self.max_log_std = math.inf
        """Where training has the noise now: see PPOConfig.final_std."""

        def trunk(num_inputs: int) -> nn.Sequential:
            sizes = [num_inputs] + [config.hidden_size] * config.num_layers
            layers: list[nn.Module] = []
            for in_size, size in pairwise(sizes):
                layers += [layer(in_size, size, math.sqrt(2), generator), ACTIVATIONS[config.activation]()]
            return nn.Sequential(*layers)

        self.normalizer = RunningNormalizer((self.value_size,)) if config.normalize_observations else None
        self.policy_trunk = trunk(self.obs_size)
        self.value_trunk = None if config.shared_trunk else trunk(self.value_size)
        # A small policy head makes the first policy nearly the same in every state (Andrychowicz et al. 2021,
        # sec. 3.2).
        self.policy_head = layer(config.hidden_size, out_size, 0.01, generator)
        self.policy_skip = nn.Linear(self.obs_size, out_size, bias=False) if config.linear_skip else None
        if self.policy_skip is not None:
            nn.init.zeros_(self.policy_skip.weight)
        self.value_head = layer(config.hidden_size, 1, 1.0, generator)
        self.value_scale = ValueScale() if config.normalize_values else None
        if not self.discrete:
            self.log_std = nn.Parameter(torch.full((out_size,), math.log(config.initial_std)))

    def flatten(self, obs: Any, whole: bool = False) -> torch.Tensor:
        """Row of numbers (batch, obs_size) that the policy sees of a raw `obs`; (batch, value_size) if `whole`.

        Raises:
            ValueError: a key is missing, or an array is not (batch, ...) of its space's shape.
        """
        parts = [part for part in self.parts if whole or not part.value_only]
        return flatten(parts, obs, self.policy_head.weight.device)

    @property
    def takes_raw(self) -> bool:
        """Whether the networks get observations as they are."""
        return self.normalizer is None and self.input_scale is None and self.symmetry is None

    def normalize(self, obs: torch.Tensor) -> torch.Tensor:
        """Input of the networks (batch, *input_shape) in the rows `obs`, normalised, scaled, float32.

        Args:
            obs: (batch, value_size), or (batch, obs_size) where no value is asked for.

        With a symmetry, one row for each side.
        """
        x = obs.flatten(1).float()
        if x.shape[1] < self.value_size:  # what is missing, the policy does not see
            x = nn.functional.pad(x, (0, self.value_size - x.shape[1]))
        if self.symmetry is not None:
            x = self.symmetry.views(x)
        if self.normalizer is not None:
            x = self.normalizer(x)
        if self.symmetry is not None:
            x = x * self.symmetry.seen
        return x if self.input_scale is None else x * self.input_scale

    def get_value(self, x: torch.Tensor) -> torch.Tensor:
        """Value (batch,) of the normalised observations `x` (batch, *input_shape)."""
        if self.value_trunk is None:
            return self._value(self.policy_trunk(self._policy_features(x)))
        return self._value(self.value_trunk(self._value_features(x)))

    def _policy_features(self, x: torch.Tensor) -> torch.Tensor:
        """What the policy sees of normalised observations."""
        return x[..., : self.obs_size] if self.obs_size < self.value_size else x

    def _value_features(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.value_inputs is None else x * self.value_inputs

    def _value(self, hidden: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.value_head(hidden).squeeze(-1)
        if self.symmetry is not None:
            value = value.mean(dim=-1)
        return value if self.value_scale is None else self.value_scale(value)

    def policy_output(self, x: torch.Tensor) -> torch.Tensor:
        """Mean action or logits (batch, dim) in the normalised observations `x` (batch, *input_shape)."""
        features = self._policy_features(x)
        return self._policy_output(features, self.policy_trunk(features))

    def _policy_output(self, features: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.policy_head(hidden)
        if self.policy_skip is not None:
            output = output + self.policy_skip(features)
        return output if self.symmetry is None else self.symmetry.mean_action(output)

    def get_action_and_value(
        self, x: torch.Tensor, action: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Judge `action` (batch, dim) or (batch,) in the normalised observations `x` (batch, *input_shape).

        Returns:
            action, log-probability (batch,), entropy (batch,) and value (batch,).
        """
        features = self._policy_features(x)
        hidden = self.policy_trunk(features)
        value = self._value(hidden if self.value_trunk is None else self.value_trunk(self._value_features(x)))
        output = self._policy_output(features, hidden)
        if self.discrete:
            return action, categorical_logprob(action, output), categorical_entropy(output), value
        entropy = gaussian_entropy(self.log_std).expand(len(x))
        return action, gaussian_logprob(action, output, self.log_std), entropy, value

    def sample(self, x: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw actions.

        Args:
            x: (batch, *input_shape) normalised observations.
            noise: (batch, noise_size) from `draw_noise`.

        Returns:
            unclipped action (batch, dim) or index (batch,), and its log-probability (batch,).
        """
        output = self.policy_output(x)
        if self.discrete:
            action = (output + noise).argmax(-1)  # Gumbel-max trick: exact samples of the softmax
            return action, categorical_logprob(action, output)
        action = output + noise * torch.exp(self.log_std)
        return action, gaussian_logprob(action, output, self.log_std)

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """Noise (*shape, noise_size) for `sample`: standard normal (Box) or standard Gumbel (Discrete)."""
        size = (*shape, self.noise_size)
        if not self.discrete:
            return torch.randn(size, generator=generator, device=generator.device)
        uniform = torch.rand(size, generator=generator, device=generator.device)
        tiny = torch.finfo(uniform.dtype).tiny  # rand can return 0, whose logarithm is not finite
        exponential = (-torch.log(uniform.clamp(min=tiny))).clamp(min=tiny)
        return -torch.log(exponential)

    def env_action(self, action: torch.Tensor, obs: torch.Tensor) -> torch.Tensor:
        """What the environments get for the policy's `action` in the rows `obs` (batch, obs_size or more).

        Returns:
            (batch, *action_shape) within the Box, or Discrete indices.
        """
        if self.discrete:
            return action + self.action_start
        if self.prior is not None:
            action = action + self.prior(obs[:, : self.obs_size].float())
        return action.clamp(self.action_low, self.action_high).reshape(-1, *self.action_shape)

    @torch.no_grad()
    def act(
        self,
        obs: Any,
        deterministic: bool = True,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Action (batch, *action_shape) for the environments: the most likely one if `deterministic`, else a sample.

        Args:
            obs: raw, (batch, ...) of the observation space, or a dict of these, which may lack what only the value
                function sees; where the policy sees one key alone, also its array.
            deterministic: whether to act without noise.
            generator: source of the noise.

        Raises:
            ValueError: an observation has another shape, or none for the batch; or a sample is asked for without a
                `generator`.
        """
        return self.act_on(self.flatten(obs), deterministic, generator)

    @torch.no_grad()
    def act_on(
        self, rows: torch.Tensor, deterministic: bool = True, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """As `act`, from what `flatten` makes of observations."""
        x = self.normalize(rows)
        if deterministic:
            output = self.policy_output(x)
            return self.env_action(output.argmax(-1) if self.discrete else output, rows)
        if generator is None:
            raise ValueError("act(deterministic=False) needs a torch.Generator on the agent's device, got None")
        return self.env_action(self.sample(x, self.draw_noise((len(x),), generator))[0], rows)

    @torch.no_grad()
    def limit_std(self) -> None:
        """Raise the standard deviation to `min_std` where it has fallen below, and lower it to the bound of now.

        With a symmetry, actions that a side exchanges share theirs.

        The parameter itself is moved: clamping it in the forward pass would give it zero gradient and never
        let it rise again.
        """
        if self.discrete:
            return
        if self.symmetry is not None:
            self.log_std.copy_(self.symmetry.mean_over_sides(self.log_std))
        if self.min_log_std > -math.inf or self.max_log_std < math.inf:
            self.log_std.clamp_(self.min_log_std, self.max_log_std)
