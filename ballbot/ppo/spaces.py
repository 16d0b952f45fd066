"""Observations of any Gymnasium space as rows of numbers, and spaces as plain types for checkpoints.

Inside the learner an observation is one flat row of numbers for each environment: first what the policy sees, its keys
in the space's order, last what only the value function sees (`PPOConfig.value_only`).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces as gs
from torch import nn

from ballbot.errors import SettingsError

USUAL_DTYPES = {"box": "float32", "discrete": "int64", "multi_discrete": "int64", "multi_binary": "int8"}
"""Of actions, by the kind of their space."""
WHOLE = "observation"
"""The key of an observation that is no Dict."""


@dataclass(frozen=True, eq=False)
class Part:
    """What one key of an observation gives to the row."""

    path: tuple[str, ...]
    """Keys from the outer Dict to the inner; empty of an observation that is no Dict."""
    space: gym.Space[Any]
    """A Box, Discrete, MultiDiscrete or MultiBinary."""
    size: int
    """Numbers of the row."""
    value_only: bool = False
    """Whether the policy does without."""
    encoder: nn.Module | None = None
    """Makes the numbers of a batch of it (None: the numbers themselves, choices one-hot)."""
    image: bool = False
    """Whether a convolutional network reads it."""

    @property
    def key(self) -> str:
        """The path, as settings name it: "a/b"."""
        return "/".join(self.path) or WHOLE

    def find(self, obs: Any) -> Any:
        """What an observation says under this key.

        Raises:
            ValueError: it has no such key.
        """
        for key in self.path:
            if not isinstance(obs, Mapping) or key not in obs:
                has = f"only {', '.join(map(str, obs))}" if isinstance(obs, Mapping) else "no keys"
                raise ValueError(f"the observation lacks {self.key!r}, it has {has}")
            obs = obs[key]
        return obs

    def row(self, values: Any, device: torch.device) -> torch.Tensor:
        """Numbers (batch, size) of the values (batch, *shape).

        Raises:
            ValueError: they have another shape.
        """
        if isinstance(values, Mapping):
            raise ValueError(
                f"{self.key} has the keys {', '.join(map(str, values))}, here it is one array {self.space}"
            )
        x, shape = torch.as_tensor(values, device=device), tuple(self.space.shape or ())
        if tuple(x.shape) == shape:
            raise ValueError(
                f"{self.key} has shape {shape}, which is one without a batch axis: give (batch, ...), {self.key}[None]"
            )
        if tuple(x.shape[1:]) != shape:
            wanted = f"({', '.join(map(str, ('batch', *shape)))}{'' if shape else ','})"
            raise ValueError(f"{self.key} has shape {tuple(x.shape)}, it must be {wanted}")
        if self.encoder is not None:
            return self.encode(x)
        if isinstance(self.space, gs.Discrete):
            return one_hot(x - int(self.space.start), int(self.space.n))
        if isinstance(self.space, gs.MultiDiscrete):
            chosen = x.reshape(len(x), -1) - torch.as_tensor(self.space.start, device=device).flatten()
            counts = self.space.nvec.flatten().tolist()
            return torch.cat([one_hot(chosen[:, i], n) for i, n in enumerate(counts)], dim=1)
        return x.reshape(len(x), self.size)

    @torch.no_grad()
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """What the encoder makes of (batch, *shape)."""
        assert self.encoder is not None
        return self.encoder(x.float()).float()


def one_hot(chosen: torch.Tensor, count: int) -> torch.Tensor:
    """(batch, count): 1 at the index `chosen` (batch,), else 0."""
    return (chosen.unsqueeze(-1) == torch.arange(count, device=chosen.device)).float()


def observation_parts(
    space: gym.Space[Any],
    value_only: Collection[str] = (),
    encoders: Mapping[str, nn.Module] | None = None,
    images: bool = False,
) -> list[Part]:
    """Parts of the row in order: first what the policy sees.

    Args:
        space: of one environment.
        value_only: keys that only the value function gets; a key of a Dict within names all that is in it.
        encoders: by key, modules of (batch, *shape) -> (batch, numbers).
        images: whether a convolutional network reads each Box of three axes that has no encoder.

    Raises:
        TypeError: a space cannot be read, or holds no numbers.
        ValueError: a key does not exist, nothing is left for the policy, or an encoder does not give rows.
    """
    leaves, encoders = dict(_leaves(space, ())), dict(encoders or {})
    keys = {"/".join(path) or WHOLE for path in leaves}
    prefixes = {"/".join(path[:i]) for path in leaves for i in range(1, len(path) + 1)}
    for name, given, known in (("value_only", value_only, prefixes), ("encoders", encoders, keys)):
        if unknown := [key for key in given if key not in known]:
            what = f"its keys are {', '.join(sorted(known))}" if known else "it is no Dict and has no keys"
            raise SettingsError(f"{name} names {unknown[0]!r}, which the observation does not have: {what}")
    parts = []
    for path, leaf in leaves.items():
        key = "/".join(path) or WHOLE
        hidden = any("/".join(path[:i]) in value_only for i in range(1, len(path) + 1))
        encoder = encoders.get(key)
        size = _size(leaf) if encoder is None else _encoded_size(key, leaf, encoder)
        if size == 0:
            raise TypeError(f"observations must hold at least one number, got {leaf}")
        image = images and encoder is None and isinstance(leaf, gs.Box) and len(leaf.shape) == 3
        parts.append(Part(path, leaf, size, hidden, encoder, image))
    if images and not any(part.image for part in parts):
        raise SettingsError(f"cnn_channels are given, and no image (a Box of three axes) is observed: {space}")
    if not parts:
        raise SettingsError(f"the observation has no keys: {space}")
    if all(part.value_only for part in parts):
        raise SettingsError(f"value_only = {tuple(value_only)} leaves the policy nothing: name fewer keys")
    return sorted(parts, key=lambda part: part.value_only)


def flatten(parts: Sequence[Part], obs: Any, device: torch.device) -> torch.Tensor:
    """Row (batch, numbers) of an observation, as an environment gives it.

    What only one part is needed of may be given as its array.

    Raises:
        ValueError: a key is missing, or an array has another shape.
    """
    if isinstance(obs, Mapping):
        rows = [part.row(part.find(obs), device) for part in parts]
    elif len(parts) == 1:
        rows = [parts[0].row(obs, device)]
    else:
        raise ValueError(f"the observation is one array, it must be a dict of {', '.join(part.key for part in parts)}")
    return rows[0] if len(rows) == 1 else torch.cat([row.float() for row in rows], dim=1)


def arrays_of(obs: Any) -> Iterator[Any]:
    """The arrays or tensors in an observation."""
    if isinstance(obs, Mapping):
        for value in obs.values():
            yield from arrays_of(value)
    else:
        yield obs


def as_tensors(obs: Any) -> bool:
    """Whether the environment that gave this observation computes with tensors."""
    return any(isinstance(x, torch.Tensor) for x in arrays_of(obs))


def all_finite(obs: Any) -> bool:
    """Whether all numbers in an observation of arrays are."""
    return all(np.isfinite(x).all() for x in arrays_of(obs))


def with_batch_axis(obs: Any) -> Any:
    """One observation as a batch of one."""
    if isinstance(obs, Mapping):
        return {key: with_batch_axis(x) for key, x in obs.items()}
    return np.asarray(obs)[None]


def shape_of(obs: Any) -> Any:
    """Shape of an observation: a tuple, or a dict of them."""
    return {key: shape_of(x) for key, x in obs.items()} if isinstance(obs, Mapping) else tuple(obs.shape)


def to_device(obs: Any, device: torch.device) -> Any:
    """An observation with its tensors, if it has any, on a device."""
    if isinstance(obs, Mapping):
        return {key: to_device(x, device) for key, x in obs.items()}
    return obs.to(device) if isinstance(obs, torch.Tensor) else obs


def rows_of(obs: Any, ids: Iterable[int]) -> Any:
    """The observations of some environments, batched.

    Args:
        obs: batched, or, as Gymnasium gives final observations, an array of single ones.
        ids: which.
    """
    if isinstance(obs, Mapping):
        return {key: rows_of(value, ids) for key, value in obs.items()}
    rows = [obs[i] for i in ids]
    if isinstance(rows[0], Mapping):
        return {key: rows_of([row[key] for row in rows], range(len(rows))) for key in rows[0]}
    return torch.stack(rows) if isinstance(rows[0], torch.Tensor) else np.stack(rows)


def torch_dtype(space: gym.Space[Any]) -> torch.dtype:
    """Type of the numbers of a space."""
    return torch.from_numpy(np.zeros(0, space.dtype)).dtype


def describe_spaces(
    observation_space: gym.Space[Any], action_space: gym.Space[Any], encoders: Collection[str] = ()
) -> dict[str, Any]:
    """Spaces of one environment as plain types, for checkpoints, and the keys that have `encoders`."""
    if type(observation_space) is gs.Box:
        told: dict[str, Any] = {"observation_shape": list(observation_space.shape)}
    else:
        told = {"observation": _describe(observation_space)}
    if encoders:
        told["encoders"] = list(encoders)
    action = _describe(action_space)
    if isinstance(action_space, gs.Box):
        action |= {name: getattr(action_space, name).astype(float).flatten().tolist() for name in ("low", "high")}
    if action_space.dtype != USUAL_DTYPES[action["kind"]]:
        action["dtype"] = np.dtype(action_space.dtype).name
    return {**told, "action": action}


def without_dtype(spaces: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same on resume: early checkpoints do not tell the type of actions."""
    return {**spaces, "action": {key: value for key, value in spaces["action"].items() if key != "dtype"}}


def described_observation(spaces: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `describe_spaces` says of the observation; of a plain Box, it has always been its shape."""
    told: Mapping[str, Any] = spaces.get("observation") or {"kind": "box", "shape": spaces["observation_shape"]}
    return told


def described_parts(told: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Key and description of each part of an observation that `describe_spaces` has told."""
    if told["kind"] == "dict":
        for key, inner in told["spaces"].items():
            yield from described_parts(inner, (*path, key))
    else:
        yield "/".join(path) or WHOLE, told


def described_size(told: Mapping[str, Any]) -> int:
    """Numbers that describe what is in a space, choices one-hot."""
    if told["kind"] == "discrete":
        return int(told["n"])
    return int(np.sum(told["counts"])) if told["kind"] == "multi_discrete" else math.prod(told["shape"])


def rebuild_spaces(spaces: Mapping[str, Any]) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """Inverse of `describe_spaces`; observation bounds, which the networks do not use, become infinite."""
    action = spaces["action"]
    kind, dtype = action["kind"], np.dtype(action.get("dtype", USUAL_DTYPES[action["kind"]]))
    observation_space = _rebuild(described_observation(spaces))
    if kind == "box":
        low, high = (np.array(action[key], dtype).reshape(action["shape"]) for key in ("low", "high"))
        return observation_space, gs.Box(low, high, dtype=dtype.type)
    space = _rebuild(action)
    space.dtype = dtype  # older Gymnasium takes none for Discrete
    return observation_space, space


def _leaves(space: gym.Space[Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], gym.Space[Any]]]:
    """Path and space of each part of an observation."""
    if isinstance(space, gs.Dict):
        for key, inner in space.spaces.items():
            if not isinstance(key, str):
                raise TypeError(f"keys of a Dict observation must be strings, got {key!r} in {space}: rename it")
            yield from _leaves(inner, (*path, key))
    elif isinstance(space, (gs.Box, gs.Discrete, gs.MultiDiscrete, gs.MultiBinary)):
        yield path, space
    else:
        where = f" under {'/'.join(path)!r}" if path else ""
        raise TypeError(
            "observations must be a Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these, got "
            f"{space}{where}; wrap the environments, e.g. with TransformObservation, or leave the key out with "
            "FilterObservation"
        )


def _size(space: gym.Space[Any]) -> int:
    if isinstance(space, gs.Discrete):
        return int(space.n)
    if isinstance(space, gs.MultiDiscrete):
        return int(space.nvec.sum())
    return math.prod(space.shape or ())


def _encoded_size(key: str, space: gym.Space[Any], encoder: nn.Module) -> int:
    with torch.no_grad():
        out = encoder(torch.zeros(2, *(space.shape or ())))
    if not isinstance(out, torch.Tensor) or out.ndim != 2 or len(out) != 2:
        got = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise SettingsError(f"encoder {key!r} must make rows (2, numbers) of a batch of 2, it made {got}")
    return out.shape[1]


def _describe(space: gym.Space[Any]) -> dict[str, Any]:
    if isinstance(space, gs.Dict):
        return {"kind": "dict", "spaces": {str(key): _describe(inner) for key, inner in space.spaces.items()}}
    if isinstance(space, gs.Discrete):
        return {"kind": "discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, gs.MultiDiscrete):
        return {"kind": "multi_discrete", "counts": space.nvec.tolist(), "start": space.start.tolist()}
    kind = "multi_binary" if isinstance(space, gs.MultiBinary) else "box"
    return {"kind": kind, "shape": list(space.shape or ())}


def _rebuild(told: Mapping[str, Any]) -> gym.Space[Any]:
    kind = told["kind"]
    if kind == "dict":
        return gs.Dict(OrderedDict((key, _rebuild(inner)) for key, inner in told["spaces"].items()))
    if kind == "discrete":
        return gs.Discrete(told["n"], start=told["start"])
    if kind == "multi_discrete":
        return gs.MultiDiscrete(np.array(told["counts"]), start=np.array(told["start"]))
    if kind == "multi_binary":
        shape = told["shape"]
        return gs.MultiBinary(shape[0] if len(shape) == 1 else shape)
    if kind == "box":
        return gs.Box(-np.inf, np.inf, tuple(told["shape"]), np.float32)
    raise ValueError(f"a space of the kind {kind!r}")
