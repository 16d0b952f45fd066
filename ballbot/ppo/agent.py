"""Policy and value networks."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import torch
from torch import nn

from ballbot.cpus import usable_cpus
from ballbot.ppo import distributed
from ballbot.ppo.actions import choices_of, gaussian_entropy, gaussian_logprob
from ballbot.ppo.config import PPOConfig
from ballbot.ppo.estimator import Estimator
from ballbot.ppo.images import ImageReader, number_columns
from ballbot.ppo.layers import hidden_layers, layer
from ballbot.ppo.memory import make_cell, unroll
from ballbot.ppo.normalizer import RunningNormalizer, ValueScale
from ballbot.ppo.spaces import Part, flatten, observation_parts, torch_dtype
from ballbot.ppo.structure import Structure
from ballbot.ppo.threads import Aside

ESTIMATOR_SIZE = 192
"""Of each of an estimator's two hidden layers."""
LEAST_WORK = 10**7
"""Weights times rows from which on a second thread pays: below, handing over takes as long as what it computes."""


def beside(features: torch.Tensor, memory: torch.Tensor | None) -> torch.Tensor:
    """What is seen and what is remembered, side by side."""
    return features if memory is None else torch.cat([features, memory], dim=-1)


class Agent(nn.Module):
    """Gaussian (Box actions) or categorical (actions of one or several choices) policy, and a value function.

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
    numbers: torch.Tensor

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
            observation_space: a Box, Discrete, MultiDiscrete, MultiBinary, or Dict of these, of one environment.
            action_space: a Box of floats, Discrete, MultiDiscrete or MultiBinary, of one environment.
            config: sizes, activation, initial standard deviation.
            generator: source of the initial weights (None: PyTorch's global one).
            structure: what is known of the task and built into the networks (None: nothing).

        Raises:
            TypeError: a space is of another kind.
            ValueError: the structure, or a setting, does not fit the spaces.
        """
        super().__init__()
        structure = structure or Structure()
        encoders = {key: copy.deepcopy(m).eval() for key, m in sorted((structure.encoders or {}).items())}
        self.encoders = nn.ModuleList(encoders.values()).requires_grad_(False)
        self.parts = observation_parts(observation_space, config.value_only, encoders, bool(config.cnn_channels))
        self.choices = choices_of(action_space)
        self.discrete = self.choices is not None
        self.action_shape: tuple[int, ...] = tuple(action_space.shape or ())
        self.action_dtype = torch_dtype(action_space)
        if self.choices is None:
            assert isinstance(action_space, gym.spaces.Box)
            out_size = math.prod(self.action_shape)
            # of a Box of float64, what float32 makes of its bounds may lie outside
            dtype = torch.float64 if self.action_dtype == torch.float64 else torch.float32
            self.register_buffer("action_low", torch.tensor(action_space.low.flatten(), dtype=dtype))
            self.register_buffer("action_high", torch.tensor(action_space.high.flatten(), dtype=dtype))
        else:
            out_size = self.choices.size
        self.estimate = structure.estimate
        estimated = 0 if self.estimate is None else len(self.estimate)
        self.told_size = sum(part.size for part in self.parts if not part.value_only)
        """Numbers that the policy is told by the environments, the first of a row."""
        self.obs_size = self.told_size + estimated
        """Numbers that the policy sees: those, and behind them what is estimated of them."""
        self.value_size = sum(part.size for part in self.parts) + estimated
        """Numbers of a row, all of which the value function gets."""
        self.noise_size = out_size
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
            return hidden_layers(sizes, config.activation, generator)

        def reader(parts: list[Part]) -> ImageReader | None:
            if not any(part.image for part in parts):
                return None
            return ImageReader(parts, config.cnn_channels, config.cnn_features, config.activation, generator)

        self.policy_reader = reader([part for part in self.parts if not part.value_only])
        self.value_reader = None if config.shared_trunk else reader(self.parts)
        if estimated and (self.policy_reader is not None or self.value_reader is not None):
            raise ValueError("an estimate is of numbers, and images are observed: use an encoder of them")
        policy_inputs = self.obs_size if self.policy_reader is None else self.policy_reader.size
        value_inputs = self.value_size if self.value_reader is None else self.value_reader.size
        columns = torch.arange(self.value_size) if estimated else number_columns(self.parts)
        self.register_buffer("numbers", columns, persistent=False)
        """Columns of a row that are no part of an image: those that are normalised."""
        normalized = config.normalize_observations and len(self.numbers) > 0
        self.normalizer = RunningNormalizer((len(self.numbers),)) if normalized else None
        self.memory_size = config.memory_size if config.memory == "gru" else 0
        self.memory_shape: tuple[int, ...] = (*sides, self.memory_size)
        """Of what the policy remembers of one environment."""
        self.policy_trunk = trunk(policy_inputs + self.memory_size)
        self.value_trunk = None if config.shared_trunk else trunk(value_inputs + self.memory_size)
        # Small: the first policy is nearly the same in every state (Andrychowicz et al. 2021, sec. 3.2).
        self.policy_head = layer(config.hidden_size, out_size, 0.01, generator)
        self.policy_skip = nn.Linear(policy_inputs, out_size, bias=False) if config.linear_skip else None
        if self.policy_skip is not None:
            nn.init.zeros_(self.policy_skip.weight)
        self.value_head = layer(config.hidden_size, 1, 1.0, generator)
        self.value_scale = ValueScale() if config.normalize_values else None
        sizes = [policy_inputs] if config.shared_trunk else [policy_inputs, value_inputs]
        cells = [make_cell(size, self.memory_size, generator) for size in sizes if self.memory_size]
        self.memories = nn.ModuleList(cells)
        """Of the policy, and of the value function if it has hidden layers of its own."""
        self.estimator: Estimator | None = None
        if self.estimate is not None:
            self.estimator = Estimator(self.estimate, ESTIMATOR_SIZE, generator)
        self._aside: Aside | None = None
        if not self.discrete:
            self.log_std = nn.Parameter(torch.full((out_size,), math.log(config.initial_std)))

    def flatten(self, obs: Any, whole: bool = False) -> torch.Tensor:
        """Row of numbers (batch, obs_size) that the policy sees of a raw `obs`; (batch, value_size) if `whole`.

        Raises:
            ValueError: a key is missing, or an array is not (batch, ...) of its space's shape.
        """
        parts = [part for part in self.parts if whole or not part.value_only]
        return self.with_estimates(flatten(parts, obs, self.policy_head.weight.device))

    def with_estimates(self, told: torch.Tensor) -> torch.Tensor:
        """Rows of what the environments tell, (batch, told_size or more), and what is estimated of it in its place."""
        if self.estimator is None:
            return told
        with torch.no_grad():
            estimates = self.estimator(self.estimate, told)
        return torch.cat([told[:, : self.told_size].float(), estimates, told[:, self.told_size :].float()], dim=1)

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
            if len(self.numbers) == self.value_size:
                x = self.normalizer(x)
            else:
                x = x.index_copy(-1, self.numbers, self.normalizer(x.index_select(-1, self.numbers)))
        if self.symmetry is not None:
            x = x * self.symmetry.seen
        return x if self.input_scale is None else x * self.input_scale

    def measure(self, rows: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        """Let the statistics of observations, if there are any, take in `rows` (batch, value_size).

        Those where `mask` (batch,) is False do not count.
        """
        if self.normalizer is not None:
            images = len(self.numbers) < self.value_size
            self.normalizer.update(rows.index_select(-1, self.numbers) if images else rows, mask)

    def new_memory(self, batch: int) -> torch.Tensor | None:
        """What the policy remembers at the start of episodes, (batch, *memory_shape) zeros; None: it has no memory."""
        memories = self.new_memories(batch)
        return None if memories is None else memories[:, 0]

    def new_memories(self, batch: int) -> torch.Tensor | None:
        """The same of all networks with a memory: (batch, networks, *memory_shape)."""
        if not self.memory_size:
            return None
        return self.policy_head.weight.new_zeros(batch, len(self.memories), *self.memory_shape)

    def remember(self, x: torch.Tensor, memory: torch.Tensor, network: int = 0) -> torch.Tensor:
        """What is remembered after the normalised observations `x` (batch, *input_shape), (batch, *memory_shape).

        Args:
            x: what is seen.
            memory: what was remembered before, 0 where an episode begins.
            network: whose: 0 of the policy, -1 of the value function.
        """
        seen = self._policy_features(x) if network == 0 else self._features(x)[network]
        after: torch.Tensor = self.memories[network](seen.flatten(0, -2), memory.flatten(0, -2))
        return after.view(memory.shape)

    def recall(self, x: torch.Tensor, memories: torch.Tensor, began: torch.Tensor, first: int = 0) -> torch.Tensor:
        """What is remembered after each step of whole sequences: (steps, batch, networks, *memory_shape).

        Args:
            x: (steps, batch, *input_shape) normalised observations.
            memories: (batch, networks, *memory_shape) before the first.
            began: (steps, batch) bool, where an episode begins.
            first: the first network that is asked for.
        """
        steps, batch = began.shape
        features = self._features(x)[first:]
        rows = batch * math.prod(self.memory_shape[:-1])
        inputs = [seen.reshape(steps, rows, seen.shape[-1]) for seen in features]
        start = memories[:, first:].transpose(0, 1).reshape(len(inputs), rows, self.memory_size)
        began = began.repeat_interleave(math.prod(self.memory_shape[:-1]), dim=1)
        cells: list[Any] = list(self.memories[first:])
        after = unroll(cells, inputs, start, began)
        return after.view(steps, len(inputs), batch, *self.memory_shape).transpose(1, 2)

    def recall_rows(self, x: torch.Tensor, sequences: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor | None:
        """The same of a minibatch (batch, *input_shape), a row each: (batch, networks, *memory_shape).

        Args:
            x: steps * sequences rows, a step after the other.
            sequences: `memories` and `began` of `recall`; None: the agent does not remember, nor does this.
        """
        if sequences is None:
            return None
        memories, began = sequences
        return self.recall(x.view(*began.shape, *x.shape[1:]), memories, began).flatten(0, 1)

    def get_value(self, x: torch.Tensor, memory: torch.Tensor | None = None) -> torch.Tensor:
        """Value (batch,) of the normalised observations `x` (batch, *input_shape).

        Of an agent that remembers, with what its value function does then: `memory` (batch, *memory_shape).
        """
        if self.value_trunk is None:
            return self._value(self.policy_trunk(beside(self._policy_features(x), memory)))
        return self._value(self.value_trunk(beside(self._value_features(x), memory)))

    def _features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What each network sees of normalised observations."""
        seen = self._policy_features(x)
        return [seen] if self.value_trunk is None else [seen, self._value_features(x)]

    def _policy_features(self, x: torch.Tensor) -> torch.Tensor:
        x = x[..., : self.obs_size] if self.obs_size < self.value_size else x
        return x if self.policy_reader is None else self.policy_reader(x)

    def _value_features(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self.value_inputs is None else x * self.value_inputs
        return x if self.value_reader is None else self.value_reader(x)

    def _value(self, hidden: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.value_head(hidden).squeeze(-1)
        if self.symmetry is not None:
            value = value.mean(dim=-1)
        return value if self.value_scale is None else self.value_scale(value)

    def policy_output(self, x: torch.Tensor, memory: torch.Tensor | None = None) -> torch.Tensor:
        """Mean action or logits (batch, dim) in the normalised observations `x` (batch, *input_shape).

        Of an agent that remembers, with what its policy does then: `memory` (batch, *memory_shape).
        """
        features = self._policy_features(x)
        return self._policy_output(features, self.policy_trunk(beside(features, memory)))

    def _policy_output(self, features: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.policy_head(hidden)
        if self.policy_skip is not None:
            output = output + self.policy_skip(features)
        return output if self.symmetry is None else self.symmetry.mean_action(output)

    def get_action_and_value(
        self, x: torch.Tensor, action: torch.Tensor, memories: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Judge `action` (batch, ...) in the normalised observations `x` (batch, *input_shape).

        Of an agent that remembers, with what its networks do then: `memories` (batch, networks, *memory_shape).

        Returns:
            action, log-probability (batch,), entropy (batch,) and value (batch,).
        """
        output, value = self.outputs(x, memories)
        if self.choices is not None:
            return action, self.choices.logprob(action, output), self.choices.entropy(output), value
        entropy = gaussian_entropy(self.log_std).expand(len(x))
        return action, gaussian_logprob(action, output, self.log_std), entropy, value

    def outputs(self, x: torch.Tensor, memories: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """`policy_output` and `get_value` of the same observations; arguments as of `get_action_and_value`."""
        if self._aside is not None:
            value_of = self._aside.compute(self.get_value, x)
            output = self.policy_output(x)
            return output, value_of()
        of_policy, of_value = (None, None) if memories is None else (memories[:, 0], memories[:, -1])
        features = self._policy_features(x)
        hidden = self.policy_trunk(beside(features, of_policy))
        value = self._value(hidden) if self.value_trunk is None else self.get_value(x, of_value)
        return self._policy_output(features, hidden), value

    @contextmanager
    def two_threads(self, rows: int) -> Iterator[None]:
        """Within a `with` block, let a second thread care for the value function in `outputs` and `backward`.

        Nothing changes where `rows` of a minibatch are too few for that to gain time, no CPU is free, or policy and
        value function share parameters or a recurrent pass.
        """
        threads = torch.get_num_threads() * distributed.world_size()
        work = (
            0 if self.value_trunk is None or self.memory_size else sum(x.numel() for x in self.value_trunk.parameters())
        )
        work *= rows * math.prod(self.input_shape[:-1])
        if work < LEAST_WORK or self.policy_head.weight.device.type != "cpu" or usable_cpus() < 2 * threads:
            yield
            return
        with ThreadPoolExecutor(1) as pool:
            self._aside = Aside(pool)
            try:
                yield
            finally:
                self._aside = None

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss to those of the parameters."""
        torch.autograd.backward(loss)
        if self._aside is not None:
            self._aside.finish()

    def sample(
        self, x: torch.Tensor, noise: torch.Tensor, memory: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw actions.

        Args:
            x: (batch, *input_shape) normalised observations.
            noise: (batch, noise_size) from `draw_noise`.
            memory: see `policy_output`.

        Returns:
            unclipped action (batch, dim) or indices (batch, *choices.shape), and its log-probability (batch,).
        """
        output = self.policy_output(x, memory)
        if self.choices is not None:
            action = self.choices.draw(output, noise)
            return action, self.choices.logprob(action, output)
        action = output + noise * torch.exp(self.log_std)
        return action, gaussian_logprob(action, output, self.log_std)

    def most_likely(self, output: torch.Tensor) -> torch.Tensor:
        """The likeliest action, as `sample` would draw it, by what `policy_output` says."""
        return output if self.choices is None else self.choices.draw(output)

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
            (batch, *action_shape) in the space, and of its dtype.
        """
        if self.choices is not None:
            return (action + self.choices.start).reshape(-1, *self.action_shape).to(self.action_dtype)
        if self.prior is not None:
            action = action + self.prior(obs[:, : self.obs_size].float())
        action = action.clamp(self.action_low, self.action_high).reshape(-1, *self.action_shape)
        return action.to(self.action_dtype)

    def stored_action(self, action: torch.Tensor, obs: torch.Tensor) -> torch.Tensor:
        """Inverse of `env_action`, of what somebody else would do: the policy's action that comes to the same.

        Raises:
            ValueError: actions have another shape than (batch, *action_shape).
        """
        if tuple(action.shape) != (len(obs), *self.action_shape):
            raise ValueError(f"actions have shape {tuple(action.shape)}, expected {(len(obs), *self.action_shape)}")
        if self.choices is not None:
            return action.reshape(-1, *self.choices.shape).long() - self.choices.start
        action = action.reshape(len(obs), -1).float()
        return action if self.prior is None else action - self.prior(obs[:, : self.obs_size].float())

    @torch.no_grad()
    def act(
        self,
        obs: Any,
        deterministic: bool = True,
        generator: torch.Generator | None = None,
        memory: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Action (batch, *action_shape) for the environments: the most likely one if `deterministic`, else a sample.

        Args:
            obs: raw, (batch, ...) of the observation space, or a dict of these, which may lack what only the value
                function sees; where the policy sees one key alone, also its array.
            deterministic: whether to act without noise.
            generator: source of the noise.
            memory: of an agent that remembers, from `new_memory`: what it remembered before, 0 where an episode
                begins; overwritten with what it does now.

        Raises:
            ValueError: an observation has another shape, or none for the batch; a sample is asked for without a
                `generator`; or the agent remembers and `memory` is missing or of another shape.
        """
        return self.act_on(self.flatten(obs), deterministic, generator, memory)

    @torch.no_grad()
    def act_on(
        self,
        rows: torch.Tensor,
        deterministic: bool = True,
        generator: torch.Generator | None = None,
        memory: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As `act`, from what `flatten` makes of observations."""
        if not deterministic and generator is None:
            raise ValueError("act(deterministic=False) needs a torch.Generator on the agent's device, got None")
        if rows.ndim != 2 or rows.shape[1] not in (self.obs_size, self.value_size):
            raise ValueError(f"rows have shape {tuple(rows.shape)}, expected (batch, {self.obs_size})")
        x = self.normalize(rows)
        if self.memory_size:
            shape = (len(x), *self.memory_shape)
            if memory is None or tuple(memory.shape) != shape:
                got = None if memory is None else tuple(memory.shape)
                raise ValueError(
                    f"this agent remembers: act(obs, memory=...) needs {shape}, got {got}. Begin with "
                    f"memory = agent.new_memory({len(x)}), keep it from step to step, and set the rows of environments "
                    "that begin an episode to 0"
                )
            memory.copy_(self.remember(x, memory))
        else:
            memory = None
        if generator is None or deterministic:
            return self.env_action(self.most_likely(self.policy_output(x, memory)), rows)
        return self.env_action(self.sample(x, self.draw_noise((len(x),), generator), memory)[0], rows)

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
