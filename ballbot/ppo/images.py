"""Images among observations, read by a small convolutional network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

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
        activation: type[nn.Module],
        generator: torch.Generator | None,
    ) -> None:
        """Build a network for each image.

        Args:
            parts: of the row, in order.
            channels: after each layer.
            num_features: of each image.
            activation: class of the activation.
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
                layers += [nn.Conv2d(depth, out, 3, stride=2, padding=1), activation()]
                depth, size = out, [(n + 1) // 2 for n in size]
            layers += [nn.Flatten(), nn.Linear(depth * math.prod(size), num_features), activation()]
            for layer in layers:
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    nn.init.orthogonal_(layer.weight, math.sqrt(2), generator=generator)
                    assert layer.bias is not None
                    nn.init.zeros_(layer.bias)
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


def number_columns(parts: Sequence[Part]) -> torch.Tensor:
    """Which columns of a row are no part of an image."""
    return torch.cat([torch.full((part.size,), not part.image) for part in parts]).nonzero().flatten()
