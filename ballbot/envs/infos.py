"""Gymnasium's infos and observations of many environments, and of one of them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from ballbot.envs.step import Bools
from ballbot.envs.world import Observation, World


def observation_space(world: World) -> gym.spaces.Space[Any]:
    """Of one robot."""

    def box(*shape: int, low: float = -np.inf, high: float = np.inf) -> gym.spaces.Box:
        return gym.spaces.Box(low, high, shape, np.float32)

    cameras, size = world.cameras, world.layout.size
    beside = {} if world.privileged_layout is None else {"privileged": box(world.privileged_layout.size)}
    if cameras is None or world.config.observation == "encoded":
        return gym.spaces.Dict({"policy": box(size), **beside}) if beside else box(size)
    images = {"depth": box(*cameras.shape, low=0.0, high=1.0), "image_age": box(1, low=0.0)}
    return gym.spaces.Dict({"proprioception": box(size), **images, **beside})


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
