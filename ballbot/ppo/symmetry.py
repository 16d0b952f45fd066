"""Symmetries that policy and value function share with the task.

If the world looks the same after a turn of the robot, a policy should act the same in it. Here it does by construction:
networks see the observation from every side, and what they answer is turned back and averaged (group averaging; Puny et
al. 2022, arXiv:2110.03336; symmetries in locomotion: Mittal et al. 2024, arXiv:2403.04359). Each step then teaches as
much as one for every side, and no policy can favour a direction.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class Symmetry(nn.Module):
    """The sides from which a task looks the same, and how observations and actions look from each; never trained.

    Element k is `observations[k]`, which maps what is observed to what would be observed on side k, and `actions[k]`,
    likewise for actions. Element 0 is the identity. Some inputs have no counterpart on other sides, such as the image
    of a camera: their rows there are 0, and the networks get 0, their mean, in place of them. What such inputs say is
    not averaged away: the side that sees them keeps its own answer.
    """

    observations: torch.Tensor
    actions: torch.Tensor
    seen: torch.Tensor

    def __init__(self, observations: torch.Tensor, actions: torch.Tensor) -> None:
        """Keep the matrices, as float32.

        Args:
            observations: (sides, obs_size, obs_size), of raw observations.
            actions: (sides, dim, dim), each a permutation of the actions, signs may change.

        Raises:
            ValueError: shapes do not fit, the first element is not the identity, actions are not permuted, or the
                elements are not closed: one after another is not always one of them.
        """
        super().__init__()
        observations, actions = (torch.as_tensor(x).to(torch.float32).clone() for x in (observations, actions))
        for name, x in (("observations", observations), ("actions", actions)):
            if x.ndim != 3 or not len(x) or x.shape[1] != x.shape[2] or len(x) != len(observations):
                raise ValueError(
                    f"a symmetry needs observations (sides, obs_size, obs_size) and actions (sides, dim, dim), got "
                    f"{name} {tuple(x.shape)}"
                )
            if not x.isfinite().all() or not torch.equal(x[0], torch.eye(x.shape[1])):
                raise ValueError(f"the first element of a symmetry must be the identity and all finite, {name} are not")
        ones = torch.ones(actions.shape[:2])
        if not all(torch.equal(actions.abs().sum(axis), ones) for axis in (1, 2)) or not (actions.abs() <= 1).all():
            raise ValueError("a symmetry needs permutations of the actions: one 1 or -1 in each row and column")
        seen = (observations != 0).any(dim=-1)
        shared = observations[:, seen.all(dim=0)][:, :, seen.all(dim=0)]
        whole = torch.cat([shared.flatten(1), actions.flatten(1)], dim=1)
        for turn, permutation in zip(shared, actions, strict=True):
            after = torch.cat([(shared @ turn).flatten(1), (actions @ permutation).flatten(1)], dim=1)
            if not all((after[i] - whole).abs().amax(dim=1).amin() < 1e-4 for i in range(len(after))):
                raise ValueError("the elements of a symmetry must be closed: one after another must be one of them")
        self.register_buffer("observations", observations)
        self.register_buffer("actions", actions)
        self.register_buffer("seen", seen.float(), persistent=False)

    def __len__(self) -> int:
        return len(self.observations)

    def views(self, obs: torch.Tensor) -> torch.Tensor:
        """Raw, flat observations (batch, obs_size) from every side: (batch, sides, obs_size)."""
        return torch.einsum("kij,bj->bki", self.observations, obs)

    def mean_action(self, answers: torch.Tensor) -> torch.Tensor:
        """Answers (batch, sides, dim) turned back and averaged: (batch, dim)."""
        return torch.einsum("kij,bki->bj", self.actions, answers) / len(self)  # the inverse is the transpose

    def mean_over_sides(self, size: torch.Tensor) -> torch.Tensor:
        """What is nearest to `size` (dim,), which has no sign, and the same for actions that a side exchanges."""
        return (self.actions.abs() @ size).mean(dim=0)

    @classmethod
    def from_state(cls, state: Mapping[str, torch.Tensor], prefix: str = "symmetry.") -> Symmetry | None:
        """The symmetry in the state dict of an Agent; None: it has none.

        Raises:
            KeyError, ValueError: what is there is incomplete or no symmetry.
        """
        if not any(name.startswith(prefix) for name in state):
            return None
        return cls(state[prefix + "observations"], state[prefix + "actions"])
