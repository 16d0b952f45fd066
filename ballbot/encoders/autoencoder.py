"""The networks: depth images to a few numbers and back.

The encoder is the reference's (Salehi 2025, arXiv:2505.18417): convolutions of stride 2 with batch normalisation, then
a linear layer, batch normalisation and tanh.  Convolutions and sizes are open to change, see ``Architecture``.

The decoder, which only training needs, adds to the reference's convolutions a linear layer from the embedding straight
to the pixels, which draws what principal components would; the convolutions alone are slow to learn that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn


@dataclass(frozen=True)
class Architecture:
    """What decides the shapes of an autoencoder's weights.

    Raises:
        ValueError: a size is not positive, or the image cannot be halved once a convolution.
    """

    height: int = 64
    """Of the images, pixels."""
    width: int = 64
    """Of the images, pixels."""
    embedding_size: int = 20
    """Numbers that stand for an image."""
    channels: tuple[int, ...] = (32, 32)
    """Of each convolution; each halves the image's sides."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        sizes = (self.height, self.width, self.embedding_size, *self.channels)
        if not all(type(size) is int and 1 <= size <= 4096 for size in sizes) or not self.channels:
            raise ValueError(f"{self}: sizes must be whole numbers from 1 to 4096")
        if self.height % self.shrink or self.width % self.shrink:
            raise ValueError(
                f"{self}: {len(self.channels)} convolutions halve an image as often, so its sides must be multiples of "
                f"{self.shrink}"
            )

    @property
    def shrink(self) -> int:
        """How many times smaller the last convolution's output is than the image, along each side."""
        return int(2 ** len(self.channels))

    @property
    def bottom(self) -> tuple[int, int, int]:
        """(channels, height, width) between the convolutions and the linear layer."""
        return self.channels[-1], self.height // self.shrink, self.width // self.shrink


class Decoder(nn.Module):
    """Images from embeddings: a linear picture, and what convolutions make of it in addition; both start at zero.

    Args:
        architecture: sizes.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        up: list[nn.Module] = []
        channels = architecture.channels[::-1]
        for inputs, outputs in pairwise(channels):
            up += [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU()]
        last = nn.ConvTranspose2d(channels[-1], 1, 4, stride=2, padding=1)
        self.convolutions = nn.Sequential(
            nn.Linear(architecture.embedding_size, math.prod(architecture.bottom)),
            nn.LeakyReLU(),
            nn.Unflatten(1, architecture.bottom),
            *up,
            last,
        )
        self.picture = nn.Linear(architecture.embedding_size, architecture.height * architecture.width)
        self.size = (1, architecture.height, architecture.width)
        for parameter in (*self.picture.parameters(), *last.parameters()):
            nn.init.zeros_(parameter)

    @torch.no_grad()
    def start_from(self, mean_image: torch.Tensor) -> None:
        """Draw this (height, width) image, until training finds better."""
        self.picture.bias.copy_(mean_image.flatten())

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(k, 1, height, width) images of (k, embedding_size) embeddings."""
        convolved: torch.Tensor = self.convolutions(embeddings)
        return convolved.float() + self.picture(embeddings).float().unflatten(1, self.size)


class Autoencoder(nn.Module):
    """Encoder and decoder of depth images in [0, 1].

    Args:
        architecture: sizes.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        bottom = math.prod(architecture.bottom)
        down: list[nn.Module] = []
        for inputs, outputs in pairwise((1, *architecture.channels)):
            down += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU()]
        self.encoder = nn.Sequential(
            *down,
            nn.Flatten(),
            nn.Linear(bottom, architecture.embedding_size),
            nn.BatchNorm1d(architecture.embedding_size),
            nn.Tanh(),
        )
        self.decoder = Decoder(architecture)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(k, 1, height, width) reconstructions of as many images."""
        decoded: torch.Tensor = self.decoder(self.encoder(images))
        return decoded
