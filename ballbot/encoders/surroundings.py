"""What the ground around is like that images of a data set show: truth to probe encoders with, and to train them by.

All cameras of a robot together see the ground around it, so what is told is of a view: the images of one robot at one
time.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ballbot.encoders.dataset import DatasetError, DepthDataset
from ballbot.envs.observations import SCAN_ANGLES, SCAN_MOST, SCAN_RADII, places_around, ring_places
from ballbot.envs.step import rotation_matrix
from ballbot.envs.terrain import MAX_HEIGHT, TERRAIN_LENGTH, TerrainPool, make_terrain

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

HIDDEN_SIZE = 128
"""Of the layer between embeddings and heights."""


def views(data: DepthDataset, part: Indices) -> Indices:
    """(views, cameras) images of one robot at one time, which follow each other.

    Raises:
        DatasetError: they do not.
    """
    camera, base = data.records["camera"][part], data.records["base"][part]
    count = int(camera.max()) + 1
    found = part[: len(part) // count * count].reshape(-1, count)
    same = (base[: found.size].reshape(-1, count, 7) == base[: found.size : count, None]).all()
    if len(part) != found.size or not same or (camera.reshape(-1, count) != np.arange(count)).any():
        raise DatasetError(
            f"{data.folder}: the images of the {count} cameras of a robot do not follow each other, as those of "
            "collect_depth.py do; collect again"
        )
    return found


def rotations(data: DepthDataset, indices: Indices) -> Floats:
    """(k, 3, 3) base to world."""
    quaternion = data.records["base"][indices, 3:].T.astype(np.float64)
    return rotation_matrix(quaternion / np.linalg.norm(quaternion, axis=0)).transpose(2, 0, 1)


def heights(data: DepthDataset, indices: Indices, points: Floats) -> Floats:
    """(k, points) heights, m, of the ground that images show, at (k, points, 2) places x and y of its world.

    Args:
        data: images.
        indices: (k,) which.
        points: m.

    Raises:
        DatasetError: the data set does not say which terrains it shows.
        SettingsError: they are of a kind that is not known here.
    """
    try:
        terrain = data.card["provenance"]["terrain"]
        split, terrain_seed = terrain["split"], int(terrain["seed"])
        kind, options, count = terrain.get("kind"), terrain.get("ground", {}), int(terrain.get("count", 1))
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{data.folder} does not say which terrains it shows ({error}): collect again") from error
    records = data.records[indices]
    if kind is not None or options:
        pool = TerrainPool(str(kind or "perlin"), options, num=count, split=split, seed=terrain_seed)
        return np.asarray(pool.heights(records["terrain"], points))
    found = np.empty(points.shape[:2])
    for i in np.unique(records["terrain"]):
        field = MAX_HEIGHT * make_terrain(int(i), split=split, seed=terrain_seed).astype(np.float64)
        rows = records["terrain"] == i
        found[rows] = interpolate(field, points[rows])
    return found


def interpolate(field: Floats, points: Floats) -> Floats:
    """Bilinear heights of (..., 2) points x, y in m; beyond the edge, as at the edge."""
    last = len(field) - 1
    place = np.clip((points / TERRAIN_LENGTH + 0.5) * last, 0, last - 1e-9)
    cell = place.astype(np.int64)
    (column, row), (u, v) = np.moveaxis(cell, -1, 0), np.moveaxis(place - cell, -1, 0)
    near = (1 - u) * field[row, column] + u * field[row, column + 1]
    far = (1 - u) * field[row + 1, column] + u * field[row + 1, column + 1]
    found: Floats = (1 - v) * near + v * far
    return found


def scans(data: DepthDataset, indices: Indices) -> NDArray[np.float32]:
    """(k, rings * angles) the field ``scan`` of the robots that took these images, m.

    Raises:
        DatasetError, SettingsError: as ``heights``.
    """
    ahead = rotations(data, indices)[:, :2, 0].T
    ball = data.records["ball"][indices, :2].T.astype(np.float64)
    found = heights(data, indices, places_around(ring_places(), ahead / np.linalg.norm(ahead, axis=0), ball))
    return np.clip(found[:, 1:] - found[:, :1], -SCAN_MOST, SCAN_MOST).astype(np.float32)


def leans(data: DepthDataset, indices: Indices) -> Floats:
    """(k, 2) how the robots lean that took these images: the world's upward direction along the base's x and y."""
    return rotations(data, indices)[:, 2, :2]


class Surroundings(nn.Module):
    """Heights of the ground around, of what an encoder makes of a view and how the robot leans; for training alone.

    Args:
        size: numbers of a view's embeddings.
    """

    LEAN = 10.0
    """Factor on what is known of the lean, so that it is of about one size."""
    UNIT = 0.1
    """m, of heights, likewise."""

    def __init__(self, size: int) -> None:
        super().__init__()
        places = len(SCAN_RADII) * SCAN_ANGLES
        self.layers = nn.Sequential(nn.Linear(size + 2, HIDDEN_SIZE), nn.ELU(), nn.Linear(HIDDEN_SIZE, places))

    def forward(self, embeddings: torch.Tensor, lean: torch.Tensor) -> torch.Tensor:
        """(views, rings * angles) heights, m, of (views, numbers) embeddings and (views, 2) leans."""
        told: torch.Tensor = self.layers(torch.cat([embeddings.float(), self.LEAN * lean], dim=1)) * self.UNIT
        return told
