"""A feedback law that a policy adds its actions to, so that learning starts from something that works.

Residual policy learning: Silver et al. 2018 (arXiv:1812.06298), Johannink et al. 2019 (arXiv:1812.03201). The law is
part of the policy: checkpoints hold it, and `Agent.act` and exported graphs contain it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class FeedbackPrior(nn.Module):
    """action = direct @ obs + outer @ clip(inner @ obs, -limit, limit); never trained.

    A cascade, as control engineers have it: an outer loop (`inner`) asks for something that is bounded by `limit`, such
    as a lean in proportion to the speed that is missing, and an inner one brings it about.
    """

    direct: torch.Tensor
    outer: torch.Tensor
    inner: torch.Tensor
    limit: torch.Tensor

    def __init__(self, direct: torch.Tensor, outer: torch.Tensor, inner: torch.Tensor, limit: torch.Tensor) -> None:
        """Keep the matrices, as float32.

        Args:
            direct: (dim, obs_size), of raw observations.
            outer: (dim, n).
            inner: (n, obs_size).
            limit: (n,), at least 0.

        Raises:
            ValueError: shapes do not fit, a number is not finite, or a limit is below 0.
        """
        super().__init__()
        given = {"direct": direct, "outer": outer, "inner": inner, "limit": limit}
        tensors = {name: torch.as_tensor(tensor).to(torch.float32) for name, tensor in given.items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if (
            direct.ndim != 2
            or inner.ndim != 2
            or shapes
            != {
                "direct": shapes["direct"],
                "outer": (len(direct), len(inner)),
                "inner": (len(inner), direct.shape[1]),
                "limit": (len(inner),),
            }
        ):
            wanted = "direct (dim, obs_size), outer (dim, n), inner (n, obs_size) and limit (n,)"
            raise ValueError(f"a prior needs {wanted}, got {shapes}")
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise ValueError(f"a prior needs finite numbers, {name} has others")
            self.register_buffer(name, tensor.clone())
        if (self.limit < 0).any():
            raise ValueError(f"a prior needs limits of at least 0, got {self.limit.tolist()}")

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Actions (batch, dim) for raw, flat observations (batch, obs_size)."""
        asked = torch.minimum(torch.maximum(obs @ self.inner.T, -self.limit), self.limit)
        return obs @ self.direct.T + asked @ self.outer.T

    @classmethod
    def from_state(cls, state: Mapping[str, torch.Tensor], prefix: str = "prior.") -> FeedbackPrior | None:
        """The prior in the state dict of an Agent; None: it has none.

        Raises:
            KeyError, ValueError: what is there is incomplete or does not fit together.
        """
        if not any(name.startswith(prefix) for name in state):
            return None
        return cls(*(state[prefix + name] for name in ("direct", "outer", "inner", "limit")))
