"""Gymnasium's infos and observations of many environments, and of one of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ballbot.envs.step import Bools
from ballbot.envs.world import Observation


def one_of(observations: Observation, i: int) -> Observation:
    """The observation of simulation i."""
    if isinstance(observations, dict):
        return {name: array[i] for name, array in observations.items()}
    return observations[i]


def masked(infos: dict[str, Any], mask: Bools) -> dict[str, Any]:
    """Gymnasium's vector infos: beside every key, "_key" tells which simulations it holds for (each a copy)."""
    found: dict[str, Any] = {}
    for (key, value), copy in zip(infos.items(), mask[None].repeat(len(infos), axis=0), strict=True):
        found[key] = masked(value, mask) if isinstance(value, dict) else value
        found[f"_{key}"] = copy
    return found


def first_of(infos: dict[str, Any]) -> dict[str, Any]:
    """The info of the only simulation: Gymnasium's vector infos without their masks and leading axis."""
    info: dict[str, Any] = {}
    for key, value in infos.items():
        if not key.startswith("_"):
            first = first_of(value) if isinstance(value, dict) else value[0]
            info[key] = first.item() if isinstance(first, np.generic) else first
    return info
