"""When robots whose episodes ended begin new ones: Gymnasium's three ways.

"same_step": in the step that ends the episode.  "next_step": in the next one, whatever their actions; it pays 0 and
returns the first observation.  "disabled": when ``reset`` is called, with ``reset_mask``.

Gymnasium's vector wrappers of observations, such as ``NormalizeObservation``, need "next_step"; TorchRL's
``GymWrapper`` needs "disabled".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from ballbot.envs.arrays import rows
from ballbot.envs.infos import masked, one_of
from ballbot.envs.random_streams import second_stream
from ballbot.envs.step import Array, Bools
from ballbot.envs.world import Observation, World
from ballbot.errors import SettingsError


def check_autoreset_mode(value: Any) -> AutoresetMode:
    """The mode of this name: one of Gymnasium's own, or as it is written here; SettingsError for others."""
    if isinstance(value, AutoresetMode):
        return value
    for mode in AutoresetMode:
        if isinstance(value, str) and value.lower() in (mode.name.lower(), mode.value.lower()):
            return mode
    names = " or ".join(repr(mode.name.lower()) for mode in AutoresetMode)
    raise SettingsError(f"autoreset_mode={value!r} is unknown: use {names}")


def begin_at_once(
    world: World, observations: Observation, infos: dict[str, Any], done: Bools
) -> tuple[Observation, dict[str, Any]]:
    """Begin new episodes where they are done: what is observed then, and infos with what the others ended with."""
    final_obs = np.full(world.num, None, dtype=object)
    ids = np.flatnonzero(done)
    for i in ids:
        final_obs[i] = one_of(observations, int(i))
    final_info = masked(infos, done)
    world.start(ids)
    return world.observation(), masked(world.infos(), np.ones(world.num, bool)) | {
        "final_obs": final_obs,
        "_final_obs": done,
        "final_info": final_info,
        "_final_info": done.copy(),
    }


def step_and_begin(world: World, actions: Array, ids: NDArray[np.intp]) -> dict[str, Any]:
    """``world.step``, in which robots ``ids``, whose episodes have ended, begin new ones instead.

    All robots are stepped at once, these too, but nothing of that stays: what they draw comes from other streams, and
    their cameras' clocks stand still.
    """
    streams, cameras, diverged = world.told.streams, world.cameras, world.num_diverged
    world.told.streams = [second_stream(0) if i in ids else stream for i, stream in enumerate(streams)]
    clocks = 0 if cameras is None else cameras.countdown[ids]
    told = world.step(actions)
    world.told.streams = streams
    if cameras is not None:
        cameras.countdown[ids] = clocks
    begins = np.zeros(world.num, bool)
    begins[ids] = True
    world.num_diverged = diverged + int((told["infos"]["diverged"] & ~begins).sum())
    world.start(ids)
    told["rewards"][ids] = 0.0
    told["terminated"][ids] = told["truncated"][ids] = False
    told["observation"] = rows(begins, world.observation(), told["observation"])
    told["infos"] = rows(begins, world.infos(), told["infos"])
    return told
