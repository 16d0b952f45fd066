"""Images among observations, read by a small convolutional network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ballbot.ppo.layers import ACTIVATIONS, hidden_layers
from ballbot.ppo.spaces import Part


class ImageReader(nn.Module):
    """Rows of numbers in which each image is replaced by features; the other numbers stay, before them.

    Layers of 3 x 3 weights with stride 2, an activation after each, and one linear layer.  Numbers of uint8 images are
    divided by 255.
    """

    scales: torch.Tensor
    numbers: torch.Tensor

    def __init__(
        self,
        parts: Sequence[Part],
        channels: Sequence[int],
        num_features: int,
        activation: str,
        generator: torch.Generator | None,
    ) -> None:
        """Build a network for each image.

        Args:
            parts: of the row, in order.
            channels: after each layer.
            num_features: of each image.
            activation: its name in ACTIVATIONS.
            generator: source of the initial weights.
        """
        super().__init__()
        starts = np.cumsum([0, *(part.size for part in parts)]).tolist()
        images = [(part, start) for part, start in zip(parts, starts, strict=False) if part.image]
        self.places = [(start, tuple(part.space.shape or ())) for part, start in images]
        self.networks = nn.ModuleList()
        for part, _ in images:
            depth, *size = channels_first(torch.empty(1, *(part.space.shape or ()))).shape[1:]
            layers: list[nn.Module] = []
            for out in channels:
                conv = nn.Conv2d(depth, out, 3, stride=2, padding=1)
                nn.init.orthogonal_(conv.weight, math.sqrt(2), generator=generator)
                assert conv.bias is not None
                nn.init.zeros_(conv.bias)
                layers += [conv, ACTIVATIONS[activation]()]
                depth, size = out, [(n + 1) // 2 for n in size]
            last = hidden_layers([depth * math.prod(size), num_features], activation, generator)
            layers += [nn.Flatten(), *last]
            self.networks.append(nn.Sequential(*layers))
        scales = [1 / 255 if part.space.dtype == np.uint8 else 1.0 for part, _ in images]
        self.register_buffer("scales", torch.tensor(scales))  # checkpoints hold them: they do not tell dtypes
        self.register_buffer("numbers", number_columns(parts), persistent=False)
        self.size = len(self.numbers) + num_features * len(images)
        """Numbers of what is read."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., size) of rows (..., numbers)."""
        read = [x.index_select(-1, self.numbers)]
        for (start, shape), network, scale in zip(self.places, self.networks, self.scales, strict=True):
            image = x[..., start : start + math.prod(shape)].reshape(-1, *shape)
            features: torch.Tensor = network(channels_first(image) * scale)
            read.append(features.view(*x.shape[:-1], features.shape[1]))
        return torch.cat(read, dim=-1)


def channels_first(images: torch.Tensor) -> torch.Tensor:
    """Images (batch, ...) as (batch, channels, height, width): the smaller of first and last axis are the channels."""
    return images.permute(0, 3, 1, 2) if images.shape[3] < images.shape[1] else images


def num_weights(shape: Sequence[int], channels: Sequence[int], num_features: int) -> int:
    """Weights, without biases, of the network that reads an image of this shape."""
    first, height, last = shape
    depth, *size = (last, first, height) if last < first else (first, height, last)
    count = 0
    for out in channels:
        count, depth, size = count + 9 * depth * out, out, [(n + 1) // 2 for n in size]
    return count + depth * math.prod(size) * num_features


def number_columns(parts: Sequence[Part]) -> torch.Tensor:
    """Which columns of a row are no part of an image."""
    return torch.cat([torch.full((part.size,), not part.image) for part in parts]).nonzero().flatten()
