"""Checks of what users hand in: errors name the argument, the value, what was expected and what to do."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ballbot.errors import SettingsError


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise ValueError unless value is one of the choices."""
    if not isinstance(value, (str, type(None))) or value not in choices:  # an array would not compare as a whole
        raise ValueError(f"{name}={value!r} is unknown: use one of {', '.join(map(repr, choices))}")


def check_count(name: str, value: Any, low: int, high: int) -> int:
    """The value as an int; TypeError if it is not whole, ValueError if it is not within [low, high]."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}={value!r} must be an integer, got {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name}={value} is out of range: use {low} to {high}")
    return int(value)


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """The value as a float; TypeError if it is no number, ValueError if it is NaN or not within [low, high]."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name}={value!r} must be a number, got {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name}={value} is out of range: use {low} to {high}")
    return float(value)


def check_direction(name: str, value: Any) -> NDArray[np.float64]:
    """The value as a (2,) unit vector; ValueError unless it is two finite numbers that are not both zero."""
    try:
        vector = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        vector = np.empty(0)
    length = float(np.linalg.norm(vector)) if vector.shape == (2,) else 0.0
    if not (np.isfinite(length) and length > 0):
        raise ValueError(f"{name}={value!r} must be two finite numbers, not both zero: the direction (x, y)")
    return np.asarray(vector / length)


def check_actions(actions: Any, shape: tuple[int, int], limit: float) -> NDArray[np.float64]:
    """(num_envs, motors) actions, clipped to +-limit; TypeError unless floats, ValueError of other shapes or NaN."""
    actions = np.asarray(actions)
    if actions.shape != shape:
        raise ValueError(
            f"actions have shape {actions.shape}, expected {shape}: one row a simulation, one column a motor"
        )
    if actions.dtype.kind != "f":
        raise TypeError(f"actions have dtype {actions.dtype}, expected floats in [-1, 1]: use .astype(np.float32)")
    if not np.isfinite(actions).all():
        bad = np.flatnonzero(~np.isfinite(actions).all(axis=1))
        raise ValueError(
            f"actions of simulations {bad[:5].tolist()} are not finite, the first is {actions[bad[0]].tolist()}: the "
            "policy has probably diverged; nothing was stepped"
        )
    return np.minimum(np.maximum(actions, -limit, dtype=np.float64), limit)


def check_places(xy: Any, robots: int | None) -> NDArray[np.float64]:
    """Places as (robots, ..., 2) floats, or (..., 2) if robots is None; ValueError for other shapes, NaN and inf."""
    try:
        places = np.asarray(xy, np.float64)
    except (TypeError, ValueError):
        places = np.empty(0)
    if robots is None and places.shape[-1:] != (2,):
        raise SettingsError(f"xy must be (..., 2) places in m, got {np.shape(xy)}")
    if robots is not None and (places.ndim < 2 or places.shape[0] != robots or places.shape[-1] != 2):
        raise SettingsError(f"xy must be ({robots}, ..., 2) places in m beside {robots} ids, got {np.shape(xy)}")
    if not np.isfinite(places).all():
        raise SettingsError("xy must be finite places in m, got NaN or infinity")
    return places


def check_ids(ids: Any, num_envs: int) -> NDArray[np.intp]:
    """Numbers of robots, of a list of them or a (num_envs,) bool mask; ValueError for others."""
    which = np.atleast_1d(np.asarray(ids))
    if which.dtype == np.bool_ and which.shape == (num_envs,):
        return np.flatnonzero(which)
    if which.shape == (0,):
        return np.empty(0, np.intp)
    if which.ndim != 1 or which.dtype.kind not in "iu" or not ((which >= 0) & (which < num_envs)).all():
        raise SettingsError(f"ids={ids!r} must be whole numbers from 0 to {num_envs - 1}, or a ({num_envs},) bool mask")
    return which.astype(np.intp)


class ResetOptions(NamedTuple):
    """What reset's options ask for."""

    mask: NDArray[np.bool_]
    """(num_envs,) which simulations, all True if nothing is said."""
    terrains: NDArray[np.int64] | None
    """(num_envs,) which terrain."""
    difficulties: NDArray[np.float64] | None
    """(num_envs,) how difficult."""
    command: Any
    """What to do; not checked."""
    randomized: Any
    """What differs from episode to episode, by name; not checked."""


def check_reset_options(options: dict[str, Any] | None, num_envs: int, num_terrains: int) -> ResetOptions:
    """What reset's options ask for; TypeError or ValueError for other forms."""
    if options is not None and not isinstance(options, dict):
        raise TypeError(f"options={options!r} must be a dict or None, got {type(options).__name__}")
    given = dict(options or {})
    names = ("reset_mask", "terrain_id", "difficulty", "command", "randomized")
    mask, terrains, difficulties, command, randomized = (given.pop(name, None) for name in names)
    if given:
        raise ValueError(f"unknown reset option {next(iter(given))!r}: use {', '.join(map(repr, names))}")
    if terrains is not None and difficulties is not None:
        raise ValueError("options name both 'terrain_id' and 'difficulty': a terrain has one, leave it out")
    mask = np.ones(num_envs, bool) if mask is None else np.asarray(mask)
    if mask.shape != (num_envs,) or mask.dtype != np.bool_ or not mask.any():
        raise ValueError(
            f"options['reset_mask'] must be a ({num_envs},) bool array with at least one True, got {mask.dtype} "
            f"{mask.shape}"
        )
    if difficulties is not None:
        difficulties = np.asarray(difficulties)
        if difficulties.shape not in ((), (num_envs,)) or difficulties.dtype.kind not in "iuf":
            raise ValueError(
                f"options['difficulty'] must be a number or ({num_envs},) numbers, got {difficulties.dtype} "
                f"{difficulties.shape}"
            )
        if not ((difficulties >= 0) & (difficulties <= 1)).all():
            raise ValueError(f"options['difficulty']={difficulties.tolist()} is out of range: use 0 to 1")
        difficulties = np.broadcast_to(difficulties.astype(np.float64), num_envs)
    if terrains is None:
        return ResetOptions(mask, None, difficulties, command, randomized)
    terrains = np.asarray(terrains)
    if terrains.shape not in ((), (num_envs,)) or terrains.dtype.kind not in "iu":
        raise ValueError(
            f"options['terrain_id'] must be an integer or ({num_envs},) integers, got {terrains.dtype} {terrains.shape}"
        )
    if not ((terrains >= 0) & (terrains < num_terrains)).all():
        raise ValueError(f"options['terrain_id']={terrains.tolist()} is out of range: use 0 to {num_terrains - 1}")
    return ResetOptions(mask, np.broadcast_to(terrains.astype(np.int64), num_envs), None, command, randomized)


def check_state_array(
    state: Any, name: str, like: NDArray[Any], low: float = -np.inf, high: float = np.inf
) -> NDArray[Any]:
    """The array ``state[name]``; ValueError unless it has the shape and dtype of ``like`` and lies in [low, high]."""
    if not isinstance(state, dict) or name not in state:
        raise ValueError(f"the state has no {name!r}: it is damaged")
    value = np.asarray(state[name])
    if value.shape != like.shape:
        raise ValueError(f"state {name!r} has shape {value.shape}, expected {like.shape}: it is damaged")
    if value.dtype != like.dtype:
        raise ValueError(f"state {name!r} has dtype {value.dtype}, expected {like.dtype}: it is damaged")
    if not (np.isfinite(value) & (low <= value) & (value <= high)).all():
        limits = "finite numbers" if np.isinf(low) else f"{low:g} to {high:g}"
        raise ValueError(f"state {name!r} holds numbers other than {limits}: it is damaged")
    return value


def check_seeds(seed: Any, num_envs: int) -> list[int | None]:
    """One seed a simulation: seed + i of an int, the entries of a list, or None; TypeError or ValueError otherwise."""
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
        first = check_count("seed", seed, 0, 2**63)
        return [first + i for i in range(num_envs)]
    if not isinstance(seed, (list, tuple)) and not (isinstance(seed, np.ndarray) and seed.ndim == 1):
        raise TypeError(f"seed={seed!r} must be an int, a list of ints or None")
    if len(seed) != num_envs:
        raise ValueError(f"seed has {len(seed)} entries, expected one for each of the {num_envs} simulations")
    return [None if s is None else check_count("seed", s, 0, 2**63) for s in seed]
