"""Layers of networks, and how their weights begin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "leaky_relu": nn.LeakyReLU, "silu": nn.SiLU}


def layer(in_size: int, out_size: int, gain: float, generator: torch.Generator | None) -> nn.Linear:
    """Linear layer with orthogonal weights of the given gain and zero bias."""
    linear = nn.Linear(in_size, out_size)
    nn.init.orthogonal_(linear.weight, gain, generator=generator)
    nn.init.zeros_(linear.bias)
    return linear


def hidden_layers(sizes: Sequence[int], activation: str, generator: torch.Generator | None) -> nn.Sequential:
    """Linear layers from the first of `sizes` to the last, an activation after each."""
    layers: list[nn.Module] = []
    for in_size, size in pairwise(sizes):
        layers += [layer(in_size, size, math.sqrt(2), generator), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)
