"""What lies beneath Gymnasium's wrappers: how long an action is held, who holds the state, who follows progress."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gymnasium import Env, Wrapper
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import create_empty_array

from ballbot.errors import SettingsError
from ballbot.ppo.agent import Agent
from ballbot.ppo.config import PPOConfig
from ballbot.ppo.storage import autoreset_mode

STATELESS = (
    "ArrayConversion",
    "ClipAction",
    "ClipReward",
    "DtypeObservation",
    "FilterObservation",
    "FlattenObservation",
    "GrayscaleObservation",
    "JaxToNumpy",
    "JaxToTorch",
    "NumpyToTorch",
    "RecordEpisodeStatistics",  # what it counts is told in infos that training does not read
    "RescaleAction",
    "RescaleObservation",
    "ReshapeObservation",
    "ResizeObservation",
)
"""Of gymnasium.wrappers.vector, what remembers nothing that training depends on.  Names, as some need other packages to
be imported.  Those that take a function are not among them: it may remember something."""


def check_envs(envs: VectorEnv, num_envs: int, config: PPOConfig) -> None:
    """Raise unless training environments are as they were asked for: ValueError, or TypeError if they are none."""
    if not isinstance(envs, VectorEnv):
        raise TypeError(
            f"make_envs({num_envs}) returned {type(envs).__name__}, which is no vector environment: return "
            "gym.make_vec(id, num_envs), or another gymnasium.vector.VectorEnv"
        )
    if envs.num_envs != num_envs:
        raise ValueError(
            f"make_envs({num_envs}) returned {envs.num_envs} environments; it must return as many as it is asked for"
        )
    autoreset_mode(envs)
    if (held := action_repeat(envs)) != config.action_repeat:
        raise SettingsError(
            f"action_repeat = {config.action_repeat}, but the training environments hold an action for {held} "
            "steps: make both equal"
        )


def check_eval_envs(envs: VectorEnv, training: VectorEnv, agent: Agent) -> None:
    """Raise ValueError unless a policy learned in `training` environments can be judged in these."""
    autoreset_mode(envs)
    own, theirs = envs.single_action_space, training.single_action_space
    alike = own.shape == theirs.shape if isinstance(own, Box) and isinstance(theirs, Box) else own == theirs
    if not alike:  # wrappers may bound actions otherwise
        raise SettingsError(f"make_eval_envs returned environments with actions {own}, training's have {theirs}")
    try:
        agent.flatten(create_empty_array(envs.single_observation_space, 1, np.zeros))
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"make_eval_envs returned environments whose observations the policy cannot take: {error}"
        ) from error


def action_repeat(envs: Env[Any, Any] | VectorEnv) -> int:
    """Steps for which environments hold an action: what the one layer says that says something, else 1.

    Looks beneath wrappers, and into the single environments of Gymnasium's SyncVectorEnv and AsyncVectorEnv; of the
    latter's, which are elsewhere, only the outermost layer tells.

    Raises:
        SettingsError: single environments differ in it, or several layers hold actions, of which who counts how many
            steps there are in all is not known.
    """
    layers: list[Any] = [envs]
    while isinstance(layers[-1], (Wrapper, VectorWrapper)):
        layers.append(layers[-1].env)
    repeats = [int(x.action_repeat) if hasattr(x, "action_repeat") else _held_within(x) for x in layers]
    held = [(type(x).__name__, steps) for x, steps in zip(layers, repeats, strict=True) if steps != 1]
    if len(held) > 1:
        told = " and ".join(f"{name} for {steps} steps" for name, steps in held)
        raise SettingsError(f"{told} hold actions, one within the other, and steps cannot be counted: let one do it")
    return held[0][1] if held else 1


def _held_within(layer: Any) -> int:
    """What the single environments of a vector environment say, which has them; else 1."""
    if isinstance(layer, SyncVectorEnv):
        found = {action_repeat(env) for env in layer.envs}
    elif isinstance(layer, AsyncVectorEnv) and any(known := layer.call("has_wrapper_attr", "action_repeat")):
        found = {int(held) for held in layer.get_attr("action_repeat")} if all(known) else set()
    else:
        return 1
    if len(found) != 1:
        raise SettingsError("the training environments hold an action for different numbers of steps: make them equal")
    return found.pop()


def progress_listener(envs: VectorEnv) -> Callable[[float], Any] | None:
    """What to tell, from 0 to 1, how far training is, before each rollout: `set_progress` of environments that have it.

    Curricula can follow it. Looks where `action_repeat` does.
    """
    layer: Any = envs
    while not hasattr(layer, "set_progress"):
        if isinstance(layer, VectorWrapper):
            layer = layer.env
        elif isinstance(layer, (SyncVectorEnv, AsyncVectorEnv)) and all(layer.call("has_wrapper_attr", "set_progress")):
            return partial(layer.call, "set_progress")
        else:
            return None
    found: Callable[[float], Any] = layer.set_progress
    return found


def state_holder(envs: VectorEnv) -> Any:
    """The layer whose `get_state()` and `set_state(state)` are the state of all of it, or None.

    That is the outermost one that has both, if those around it are `STATELESS`. A wrapper whose state holds that of
    what lies beneath says so by `holds_state_beneath = True`, and counts only if there is such a layer beneath it.
    """
    layer: Any = envs
    while not (hasattr(layer, "get_state") and hasattr(layer, "set_state")):
        if not _stateless(layer):
            return None
        layer = layer.env
    return None if _holds_beneath(layer) and state_holder(layer.env) is None else layer


def _stateless(layer: Any) -> bool:
    kind = type(layer)  # itself: one that derives from it may remember more
    return kind.__module__.startswith("gymnasium.wrappers.vector.") and kind.__name__ in STATELESS


def _holds_beneath(layer: Any) -> bool:
    return isinstance(layer, VectorWrapper) and getattr(layer, "holds_state_beneath", False)


def why_not_exact(envs: VectorEnv) -> str | None:
    """Why resuming will start new episodes, in words; None: it will not."""
    if state_holder(envs) is not None:
        return None
    layer: Any = envs
    while _stateless(layer) or _holds_beneath(layer):
        layer = layer.env
    if isinstance(layer, VectorWrapper):
        return f"the wrapper {type(layer).__name__} may remember something, and has no get_state and set_state"
    if isinstance(layer, (SyncVectorEnv, AsyncVectorEnv)):
        return f"{type(layer).__name__} has no get_state and set_state, whatever its environments have"
    return "these environments have no get_state and set_state"
