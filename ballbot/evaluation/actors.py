"""What acts in an evaluation: a trained policy or a classical controller, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ballbot.controllers import CONTROLLERS, controlled_fields, find_controller, make_controller
from ballbot.deployment.shipped import find_policy
from ballbot.envs import BallbotVectorEnv
from ballbot.evaluation.episodes import Actor
from ballbot.evaluation.trained import env_options
from ballbot.ppo import Policy, load_policy


@dataclass(frozen=True)
class Candidate:
    """What is judged or watched."""

    options: dict[str, Any]
    """Of ``BallbotVectorEnv``: the world that it knows."""
    make_actor: Callable[[BallbotVectorEnv], Actor]
    """Environment -> what acts there."""
    policy: Policy | None = None
    """None for a classical controller."""

    def differences(self, **settings: Any) -> list[str]:
        """What it was trained with otherwise than it is judged with, in words."""
        trained = {} if self.policy is None else self.policy.metadata
        found = [
            f"was trained with --{name.replace('_', '-')} {trained[name]}, it is judged with {value}"
            for name, value in settings.items()
            if trained.get(name, value) != value
        ]
        if trained.get("contact_fix") is False:
            found.append("was trained without the contact fix, and is judged without")
        return found


def find_candidate(name: str, *, encoder: Path | None = None, deterministic: bool = True, seed: int = 0) -> Candidate:
    """The classical controller of this name, or the policy of this name or in this file or run folder.

    Args:
        name: one of ``CONTROLLERS``, "linear:0.2", "default", or a path.
        encoder: file of the encoder of a policy that sees; None for the one it was trained with.
        deterministic: a policy takes the most likely action, else it draws as training does.
        seed: of these draws.

    Raises:
        CheckpointError, EncoderError, ValueError: no such policy, or not one of this robot's.
    """
    if (found := find_controller(name)) is not None:
        options: dict[str, Any] = {"observation": "proprioception", "frame": "body", "terrain": "perlin"}
        if fields := controlled_fields(name):
            options["extra_fields"] = fields
        return Candidate(options, lambda envs: make_controller(found, envs.dt, envs.config))
    policy = load_policy(find_policy(name, CONTROLLERS), torch_threads=0)  # programs choose for all they judge
    policy.seed(seed)
    options = env_options(policy, encoder if policy.metadata.get("observation") == "encoded" else None)
    return Candidate(options, lambda envs: lambda obs, began: policy.predict(obs, deterministic, began), policy)
