"""What embeddings know of the ground: probes by lines, and by small networks.

A line is fitted from the numbers to the height and the slope of the ground a few distances from the ball, on some
terrains, and its R² is measured on others: 1 where the numbers tell all, 0 where they tell no more than the mean.  What
is probed is what a policy sees, the embeddings of all cameras at one time.  A robot knows its tilt as well, so they are
probed with it and without, and principal components, as many, are probed beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ballbot.encoders.dataset import DepthDataset
from ballbot.encoders.frozen import FrozenEncoder
from ballbot.encoders.pretrain import principal_components
from ballbot.encoders.surroundings import heights, leans, rotations, scans, views
from ballbot.envs.observations import SCAN_RADII

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

DISTANCES = (0.2, 0.3, 0.4, 0.5, 0.6)
"""m from the ball's centre, along the horizontal."""
DIRECTIONS = {"ahead": (0.0, 1.0), "beside": (1.0, 0.0)}
"""In the base: ahead is up in the images, beside is where an arm with a camera points."""
SPAN = 0.1
"""m, over which a slope is measured: three cells of the height field."""
MOST_VIEWS = 20_000
"""Views to fit on, and to test on: plenty for a few dozen coefficients."""
MOST_FITTED = 2 * MOST_VIEWS
"""Images that principal components are fitted to."""
HIDDEN_SIZE = 128
"""Of a probing network's two layers."""
EPOCHS, BATCH = 40, 256
"""How long it learns, by Adam."""
UNIT = 0.1
"""m, of the heights that it is told."""


@dataclass(frozen=True)
class Probe:
    """R² of linear probes on terrains they were not fitted on, one for each of ``DISTANCES``."""

    inputs: str
    """What the line is fitted from."""
    direction: str
    """Of ``DIRECTIONS``."""
    height: tuple[float, ...]
    """Of the ground, above that under the ball."""
    slope: tuple[float, ...]
    """Of the ground, in that direction."""


@dataclass(frozen=True)
class AroundProbe:
    """R² of what is told of the heights all around, the field ``scan``, one for each of ``SCAN_RADII``."""

    inputs: str
    """What it is told from."""
    by: str
    """"line" or "network"."""
    height: tuple[float, ...]
    """On terrains that it was not fitted on, of all places of a ring together."""


def probe(
    data: DepthDataset, encoder: FrozenEncoder, validation: float = 0.15, seed: int = 0
) -> tuple[list[Probe], list[AroundProbe]]:
    """Probe an encoder, and principal components: ahead and beside by lines, all around by small networks too.

    Args:
        data: images, with the terrains they show.
        encoder: what makes numbers of them.
        validation: share of the terrains to test on; an encoder's card says which it was validated on.
        seed: of their draw.

    Raises:
        DatasetError: fewer than two terrains, unknown ones, or images of several cameras do not follow each other.
    """
    parts, values = _look(data, encoder, validation, seed)
    return _probe_ahead(data, parts, values), probe_around(data, parts, values, seed)


def _probe_ahead(data: DepthDataset, parts: list[Indices], values: dict[str, list[Floats]]) -> list[Probe]:
    """What lines tell of height and slope in two directions."""
    probes = []
    for direction, in_base in DIRECTIONS.items():
        before, after = (ground_ahead(data, part, in_base) for part in parts)
        for name, (fitted_on, tested_on) in sorted(values.items()):
            height, slope = (_r_squared(fitted_on, tested_on, before[k], after[k]) for k in range(2))
            probes.append(Probe(name, direction, height, slope))
    return probes


def probe_around(
    data: DepthDataset, parts: list[Indices], values: dict[str, list[Floats]], seed: int = 0
) -> list[AroundProbe]:
    """What lines and small networks tell of the ground all around.

    Args:
        data: images, with the terrains they show.
        parts: first images of views to fit on, and to test on.
        values: of both parts, (views, numbers) "tilt", "embeddings and tilt", "principal components and tilt".
        seed: of the networks.
    """
    before, after = (scans(data, part).astype(np.float64) for part in parts)
    probes = []
    for name in ("tilt", "embeddings and tilt", "principal components and tilt"):
        fitted_on, tested_on = values[name]
        for by, fit in (("line", _line), ("network", partial(_network, seed=seed))):
            left, whole = after - fit(fitted_on, before, tested_on), after - before.mean(0)
            rings = [(x**2).reshape(len(x), len(SCAN_RADII), -1).sum((0, 2)) for x in (left, whole)]
            probes.append(AroundProbe(name, by, tuple((1 - rings[0] / np.maximum(rings[1], 1e-12)).tolist())))
    return probes


def _look(
    data: DepthDataset, encoder: FrozenEncoder, validation: float, seed: int
) -> tuple[list[Indices], dict[str, list[Floats]]]:
    """First images of the views to fit on and to test on, and the numbers of both that something is told from."""
    rng = np.random.default_rng(seed)
    parts = []
    for part in data.split_by_terrain(validation, seed):
        found = views(data, part)
        parts.append(np.sort(rng.choice(found, min(MOST_VIEWS, len(found)), replace=False, axis=0), axis=0))
    size = encoder.architecture.embedding_size
    some = parts[0].ravel()
    if len(some) > MOST_FITTED:
        some = np.sort(rng.choice(some, MOST_FITTED, replace=False))
    fitted = torch.from_numpy(data.images(some)).flatten(1)
    mean, axes = principal_components(fitted, size)
    values: dict[str, list[Floats]] = {"tilt": [], "embeddings": [], "principal components": []}
    for part in parts:
        images = torch.from_numpy(data.images(part.ravel()))
        values["tilt"].append(leans(data, part[:, 0]))
        values["embeddings"].append(encoder(images[:, None]).reshape(len(part), -1).double().numpy())
        components = (images.flatten(1) - mean) @ axes
        values["principal components"].append(components.reshape(len(part), -1).double().numpy())
    for name in ("embeddings", "principal components"):
        values[f"{name} and tilt"] = [np.hstack(x) for x in zip(values[name], values["tilt"], strict=True)]
    return [part[:, 0] for part in parts], values


def ground_ahead(data: DepthDataset, indices: Indices, in_base: tuple[float, float]) -> tuple[Floats, Floats]:
    """Height and slope of the ground at ``DISTANCES`` from the ball, each (k, distances).

    Args:
        data: images.
        indices: (k,) which.
        in_base: direction in the base, x and y.

    Raises:
        DatasetError: the data set does not say which terrains it shows.
        SettingsError: they are of a kind that is not known here.
    """
    direction = (rotations(data, indices) @ np.array([*in_base, 0.0]))[:, :2]
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    ball = data.records["ball"][indices, :2].astype(np.float64)
    places = np.concatenate([[0.0], *([d - SPAN / 2, d, d + SPAN / 2] for d in DISTANCES)])
    found = heights(data, indices, ball[:, None] + places[:, None] * direction[:, None])
    under, ahead = found[:, :1], found[:, 1:].reshape(len(found), len(DISTANCES), 3)
    return ahead[..., 1] - under, (ahead[..., 2] - ahead[..., 0]) / SPAN


def _r_squared(fitted_on: Floats, tested_on: Floats, fitted: Floats, tested: Floats) -> tuple[float, ...]:
    """R² of each column of ``tested`` as a line in ``tested_on``, which is fitted to others."""
    left, whole = tested - _line(fitted_on, fitted, tested_on), tested - fitted.mean(0)
    return tuple((1 - (left**2).sum(0) / (whole**2).sum(0)).tolist())


def _line(inputs: Floats, targets: Floats, others: Floats) -> Floats:
    """What a line fitted to targets says of others."""
    before, after = (np.hstack([x, np.ones((len(x), 1))]) for x in (inputs, others))
    return np.asarray(after @ np.linalg.lstsq(before, targets, rcond=None)[0])


def _network(inputs: Floats, targets: Floats, others: Floats, seed: int) -> Floats:
    """What a small network fitted to targets says of others."""
    middle, width = inputs.mean(0), inputs.std(0) + 1e-6
    x, z = (torch.from_numpy((values - middle) / width).float() for values in (inputs, others))
    y = torch.from_numpy(targets / UNIT).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = (x.shape[1], HIDDEN_SIZE, HIDDEN_SIZE, y.shape[1])
        layers = [layer for k in range(3) for layer in (nn.Linear(sizes[k], sizes[k + 1]), nn.ELU())]
        network = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    rng = np.random.default_rng(seed)
    for _ in range(EPOCHS):
        for rows in np.array_split(rng.permutation(len(x)), max(len(x) // BATCH, 1)):
            loss = (network(x[rows]) - y[rows]).square().mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        return np.asarray(network(z).double().numpy() * UNIT)
