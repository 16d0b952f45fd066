"""A trained policy to act with, apart from everything that training needs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ballbot.ppo import threads
from ballbot.ppo.agent import Agent, rebuild_spaces
from ballbot.ppo.checkpoint import CheckpointError, load_checkpoint, policy_file
from ballbot.ppo.config import PPOConfig
from ballbot.ppo.structure import Structure


class Policy:
    """What a checkpoint does in a situation.

    Args:
        agent: trained networks.
        observation_shape: of one observation.
        metadata: what its observations mean, as given to `train` by `Record.env_metadata`.
        step: environment steps it was trained for.
        path: checkpoint it comes from.
        torch_threads: of PyTorch, while it acts (0: as many as PyTorch has); more make networks this small slower.
    """

    def __init__(
        self,
        agent: Agent,
        observation_shape: tuple[int, ...],
        metadata: dict[str, Any],
        step: int,
        path: Path | None = None,
        torch_threads: int = 1,
    ) -> None:
        self.path = path
        self.agent = agent.eval().requires_grad_(False)
        self.metadata = metadata
        self.step = step
        self.observation_shape = observation_shape
        self.torch_threads = torch_threads
        self._generator = torch.Generator(agent.policy_head.weight.device)
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Start the random numbers of stochastic actions anew."""
        self._generator.manual_seed(seed)

    def predict(self, observation: NDArray[Any], deterministic: bool = True) -> NDArray[Any]:
        """The action in an observation, or the actions in many.

        Args:
            observation: `observation_shape`, or (n, *observation_shape) for n of them.
            deterministic: the most likely action, else a sample.

        Returns:
            action (*action_shape) or actions (n, *action_shape), as the environment takes them.

        Raises:
            ValueError: another shape, or numbers that are not finite.
        """
        observations = np.asarray(observation, np.float32)
        single = observations.shape == self.observation_shape
        if not single and (not observations.ndim or observations.shape[1:] != self.observation_shape):
            many = f"(n, {', '.join(map(str, self.observation_shape))})"
            raise ValueError(
                f"observation has shape {observations.shape}, this policy takes {self.observation_shape} or {many}"
            )
        if not np.isfinite(observations).all():
            raise ValueError("observation holds numbers that are not finite: check the sensors")
        with threads.torch_threads(self.torch_threads):
            actions = self.agent.act(observations[None] if single else observations, deterministic, self._generator)
        array: NDArray[Any] = actions.cpu().numpy()
        return array[0] if single else array


def load_policy(path: str | Path, device: str = "cpu", torch_threads: int = 1) -> Policy:
    """The policy in a checkpoint: best.pt, last.pt or step_<N>.pt, or a run folder's best.pt.

    Of a run that was not evaluated yet, it is that in last.pt.  It acts with so many threads of PyTorch (0: as many as
    PyTorch has).

    Raises:
        CheckpointError: the file is missing, damaged or of another format.
    """
    path = policy_file(path)
    state = load_checkpoint(path)
    agent = agent_from_state(state, path).to(device)
    shape = tuple(state["spaces"]["observation_shape"])
    metadata, step = state.get("env_metadata") or {}, state.get("global_step", 0)
    if not isinstance(metadata, dict) or type(step) is not int:
        raise CheckpointError(f"{path} is damaged (env_metadata or global_step); use another one")
    return Policy(agent, shape, metadata, step, path, torch_threads)


def load_agent(path: str | Path, device: str = "cpu") -> Agent:
    """Policy and value networks, ready to `act`, of a checkpoint or a run folder, as `load_policy` takes them.

    With `config.policy_average` these are the running average of the networks, which is what training evaluates
    ("eval/return_mean"); the newest ones, which explore ("charts/episodic_return"), are only there to go on learning.

    Raises:
        CheckpointError: the file is missing, damaged or of another format.
    """
    path = policy_file(path)
    return agent_from_state(load_checkpoint(path), path).to(device).eval()


def agent_from_state(state: dict[str, Any], path: Path) -> Agent:
    """Agent held by a loaded checkpoint; `path` is for the error message."""
    try:
        structure, config = Structure.from_state(state["policy"]), PPOConfig(**state["config"])
        _check_size(state["policy"], state["spaces"], config)
        agent = Agent(*rebuild_spaces(state["spaces"]), config, structure=structure)
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
