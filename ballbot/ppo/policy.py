"""A trained policy to act with, apart from everything that training needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ballbot.ppo import threads
from ballbot.ppo.agent import Agent
from ballbot.ppo.checkpoint import CheckpointError, load_checkpoint, policy_file
from ballbot.ppo.config import PPOConfig
from ballbot.ppo.images import num_weights
from ballbot.ppo.memory import forget
from ballbot.ppo.spaces import (
    described_observation,
    described_parts,
    described_size,
    rebuild_spaces,
    with_batch_axis,
)
from ballbot.ppo.structure import Structure

MOST_PIXELS = 10**8
"""Numbers of all images of an observation: a file that asks for more is wrong."""


class Policy:
    """What a checkpoint does in a situation, and what it remembers, if it does.

    Args:
        agent: trained networks.
        metadata: what its observations mean, as given to `train` by `Record.env_metadata`.
        step: environment steps it was trained for.
        path: checkpoint it comes from.
        torch_threads: of PyTorch, while it acts (0: as many as PyTorch has); more make networks this small slower.
    """

    def __init__(
        self,
        agent: Agent,
        metadata: dict[str, Any],
        step: int,
        path: Path | None = None,
        torch_threads: int = 1,
    ) -> None:
        self.path = path
        self.agent = agent.eval().requires_grad_(False)
        self.metadata = metadata
        self.step = step
        seen = [part for part in agent.parts if not part.value_only]
        self._first = seen[0]
        self.observation_shape: tuple[int, ...] = tuple(seen[0].space.shape or ()) if len(seen) == 1 else ()
        """Of one observation; () if it has several keys."""
        self.torch_threads = torch_threads
        self._generator = torch.Generator(agent.policy_head.weight.device)
        self._memory: torch.Tensor | None = None
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Start the random numbers of stochastic actions anew."""
        self._generator.manual_seed(seed)

    def reset(self) -> None:
        """Forget the past: all episodes begin anew."""
        self._memory = None

    def estimates(self, observation: Any) -> NDArray[np.float32]:
        """What the policy estimates of what it is not told, (n, m), in (n, ...) observations; m is 0 if nothing."""
        with threads.torch_threads(self.torch_threads):
            rows = self.agent.flatten(observation)[:, self.agent.told_size :]
        found: NDArray[np.float32] = rows.float().cpu().numpy()
        return found

    def predict(
        self, observation: Any, deterministic: bool = True, began: NDArray[np.bool_] | None = None
    ) -> NDArray[Any]:
        """The action in an observation, or the actions in many.

        Args:
            observation: `observation_shape`, or (n, *observation_shape) for n of them; or a dict of such arrays, which
                may lack what only the value function sees.
            deterministic: the most likely action, else a sample.
            began: (n,) bool, whose episode begins with this observation, for policies that remember.  None: nobody's,
                but everybody's in the first call, after `reset`, and when n is another than in the call before.

        Returns:
            action (*action_shape) or actions (n, *action_shape), as the environment takes them.

        Raises:
            ValueError: another shape, or numbers that are not finite.
        """
        values = np.asarray(self._first.find(observation) if isinstance(observation, Mapping) else observation)
        shape = tuple(self._first.space.shape or ())
        single = values.shape == shape
        if not single and (not values.ndim or values.shape[1:] != shape):
            many = f"(n, {', '.join(map(str, shape))})"
            raise ValueError(f"{self._first.key} has shape {values.shape}, this policy takes {shape} or {many}")
        rows = self.agent.flatten(with_batch_axis(observation) if single else observation).float()
        if not rows.isfinite().all():
            raise ValueError("observation holds numbers that are not finite: check the sensors")
        if self._memory is None or len(self._memory) != len(rows):
            self._memory = self.agent.new_memory(len(rows))
        if self._memory is not None and began is not None:
            began = np.asarray(began, bool).reshape(-1)
            if len(began) != len(rows):
                raise ValueError(f"began says of {len(began)} episodes whether they begin, there are {len(rows)}")
            self._memory = forget(self._memory, torch.from_numpy(began).to(self._memory.device))
        with threads.torch_threads(self.torch_threads):
            actions = self.agent.act_on(rows, deterministic, self._generator, self._memory)
        array: NDArray[Any] = actions.cpu().numpy()
        return array[0] if single else array


def load_policy(
    path: str | Path,
    device: str = "cpu",
    torch_threads: int = 1,
    encoders: Mapping[str, nn.Module] | None = None,
) -> Policy:
    """The policy in a checkpoint: best.pt, last.pt or step_<N>.pt, or a run folder's best.pt.

    Of a run that was not evaluated yet, it is that in last.pt. One that was trained with `Structure.encoders` needs
    them again, with whatever weights: its own are in the file. It acts with `torch_threads` of PyTorch (0: as many as
    PyTorch has).

    Raises:
        CheckpointError: the file is missing, damaged or of another format.
    """
    path = policy_file(path)
    state = load_checkpoint(path)
    agent = agent_from_state(state, path, encoders).to(device)
    metadata, step = state.get("env_metadata") or {}, state.get("global_step", 0)
    if not isinstance(metadata, dict) or type(step) is not int:
        raise CheckpointError(f"{path} is damaged (env_metadata or global_step); use another one")
    return Policy(agent, metadata, step, path, torch_threads)


def load_agent(path: str | Path, device: str = "cpu", encoders: Mapping[str, nn.Module] | None = None) -> Agent:
    """Policy and value networks of a checkpoint (best.pt, last.pt or step_<N>.pt), ready to `act`.

    With `config.policy_average` these are the running average of the networks, which is what training evaluates
    ("eval/return_mean"); the newest ones, which explore ("charts/episodic_return"), are only there to go on learning.
    `encoders`: see `load_policy`.

    Raises:
        CheckpointError: the file is missing, damaged or of another format.
    """
    path = policy_file(path)
    return agent_from_state(load_checkpoint(path), path, encoders).to(device).eval()


def agent_from_state(state: dict[str, Any], path: Path, encoders: Mapping[str, nn.Module] | None = None) -> Agent:
    """Agent held by a loaded checkpoint; `path` is for the error message, `encoders` are those of its structure."""
    try:
        structure, config = Structure.from_state(state["policy"]), PPOConfig(**state["config"])
        trained_with, encoders = list(state["spaces"].get("encoders", ())), encoders or {}
        if sorted(trained_with) == sorted(encoders):
            _check_size(state["policy"], state["spaces"], config)
            agent = Agent(*rebuild_spaces(state["spaces"]), config, structure=replace(structure, encoders=encoders))
            agent.load_state_dict(state["policy"])
            if not all(x.isfinite().all() for x in agent.parameters()):
                raise ValueError("weights are not finite")
            return agent
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} does not hold the networks its settings describe ({error}); use another one"
        ) from error
    had, given = (", ".join(map(repr, keys)) or "none" for keys in (trained_with, encoders))
    raise CheckpointError(
        f"{path} was trained with encoders of your own for {had}, given are {given}: give the same, as in "
        "load_policy(path, encoders={...}) or load_agent"
    )


def _check_size(weights: dict[str, torch.Tensor], spaces: dict[str, Any], config: PPOConfig) -> None:
    """Refuse to build networks that take more memory than the file which is said to hold them.

    Raises:
        ValueError: they cannot be in it.
    """
    inputs, pixels, least = 0, 0, 0
    for key, told in described_parts(described_observation(spaces)):
        if key in spaces.get("encoders", ()):
            pixels += described_size(told)
        elif config.cnn_channels and told["kind"] == "box" and len(told["shape"]) == 3:
            pixels += described_size(told)
            least += num_weights(told["shape"], config.cnn_channels, config.cnn_features)
        else:
            inputs += described_size(told)
    if pixels > MOST_PIXELS:
        raise ValueError(f"images of {pixels} numbers, at most {MOST_PIXELS} can be")
    remembered = config.memory_size if config.memory == "gru" else 0
    outputs = described_size(spaces["action"])
    least += config.hidden_size * (inputs + (config.num_layers - 1) * config.hidden_size + outputs)
    least += 3 * remembered * (inputs + remembered)
    if (held := sum(x.numel() for x in weights.values() if isinstance(x, torch.Tensor))) < least:
        raise ValueError(f"networks of {least} weights or more, of which it holds {held}")
