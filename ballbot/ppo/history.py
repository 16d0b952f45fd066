"""Observations of some steps ago beside those of now, for any Gymnasium vector environment."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces as gs
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ballbot.errors import SettingsError
from ballbot.ppo.spaces import WHOLE, rows_of
from ballbot.ppo.storage import autoreset_mode
from ballbot.ppo.wrapped import state_holder
from ballbot.settings import steps_ago


class ObservationHistory(VectorWrapper):
    """Environments that also show what they showed some steps ago.

        envs = ObservationHistory(gym.make_vec("CartPole-v1", 8), steps=(0, 2, 4))     # (8, 12): now, 2 and 4 steps ago

    What lies before the beginning of an episode is its first observation. A final observation (infos["final_obs"] of
    environments with SAME_STEP autoreset) has the past of its own episode. A resumed training goes on bit for bit if
    the environments beneath can save their state.

    Of a Box (n, ...) it makes a Box (n, len(steps) * numbers), flat, the first of `steps` first; the kind of number
    stays. Of a Dict, the named keys get a past, and what else is in it passes untouched.

    Gymnasium's FrameStackObservation wraps single environments, before they are made a vector of. Take it for images,
    for the last steps without gaps along a new axis, or for other algorithms; it keeps whole observations, and saves
    nothing. `memory="gru"` of PPOConfig instead learns what to keep. The robot's own environments have
    `history=(0, 10, 20)`, which counts steps of 2 ms however long an action is held.

    Args:
        envs: which reset themselves, SAME_STEP or NEXT_STEP, and give NumPy arrays.
        steps: how many steps ago; 0 is now, and is the first.
        keys: of a Dict, those that get a past; None for an observation that is no Dict.

    Raises:
        SettingsError: steps are negative, repeated, out of order or, where envs.spec says how long those are, longer
            than episodes; keys are unknown, missing, or of a space that can have no past.
        ValueError: the environments do not reset themselves.
    """

    holds_state_beneath = True
    """`get_state` is of all that lies beneath, if that can be saved; see `state_holder`."""

    def __init__(self, envs: VectorEnv, steps: Sequence[int] = (0, 2, 4), keys: Sequence[str] | None = None) -> None:
        super().__init__(envs)
        self.steps = _checked_steps(steps, longest_episode(envs))
        self._next_step = autoreset_mode(envs) == AutoresetMode.NEXT_STEP
        space = envs.single_observation_space
        boxes = _checked_boxes(space, keys)
        times = len(self.steps)
        longer = {
            key: gs.Box(np.tile(box.low.ravel(), times), np.tile(box.high.ravel(), times), dtype=box.dtype.type)
            for key, box in boxes.items()
        }
        whole = gs.Dict(OrderedDict({**space.spaces, **longer})) if isinstance(space, gs.Dict) else longer[WHOLE]
        self.single_observation_space = whole
        self.observation_space = batch_space(whole, envs.num_envs)
        depth, n = 1 + self.steps[-1], envs.num_envs
        self._past = {key: np.zeros((depth, n, math.prod(box.shape)), box.dtype) for key, box in boxes.items()}
        """(steps, n, numbers) of each key, the newest first."""
        self._ended = np.zeros(n, bool)  # by the last step

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in all environments, or in those of options["reset_mask"] where they know that."""
        begun = np.array((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        obs, infos = self.env.reset(seed=seed, options=options)
        self._begin(begun, obs)
        self._ended &= ~begun
        return self._shown(obs), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As of the environments; observations and infos["final_obs"] with their past."""
        obs, reward, terminated, truncated, infos = self.env.step(actions)
        before, self._ended = self._ended, np.asarray(terminated, bool) | np.asarray(truncated, bool)
        for past in self._past.values():
            past[1:] = past[:-1]
        if not self._next_step and "final_obs" in infos:
            final = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(infos["_final_obs"]).tolist():
                last = rows_of(infos["final_obs"], [i])
                for key, x in self._rows(last).items():
                    self._past[key][0, i] = x[0]  # the newest of the episode that ended
                shown = self._shown(last, [i])
                final[i] = {key: x[0] for key, x in shown.items()} if isinstance(shown, Mapping) else shown[0]
            infos = {**infos, "final_obs": final}
        for key, x in self._rows(obs).items():
            self._past[key][0] = x
        self._begin(before if self._next_step else self._ended, obs)
        return self._shown(obs), reward, terminated, truncated, infos

    def get_state(self) -> dict[str, Any]:
        """The past, and the state of what lies beneath.

        Raises:
            TypeError: the environments beneath have none.
        """
        past = {key: x.copy() for key, x in self._past.items()}
        return {"past": past, "ended": self._ended.copy(), "beneath": self._holder().get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Inverse of `get_state`.

        Raises:
            TypeError: the environments beneath have none.
            ValueError: it is of other environments, steps or keys.
        """
        own = {"ended": self._ended, **{f"past of {key}": x for key, x in self._past.items()}}
        given = {"ended": state["ended"], **{f"past of {key}": x for key, x in state["past"].items()}}
        told, wanted = ({key: (np.shape(x), str(np.asarray(x).dtype)) for key, x in y.items()} for y in (given, own))
        if told != wanted:
            raise ValueError(f"the state is {told}, expected {wanted}: it is of other environments, steps or keys")
        self._holder().set_state(state["beneath"])
        for key, x in own.items():
            x[:] = given[key]

    def _holder(self) -> Any:
        if (holder := state_holder(self.env)) is None:
            raise TypeError(f"{self.env} cannot be saved: it, or a wrapper within, has no get_state() and set_state()")
        return holder

    def _rows(self, obs: Any) -> dict[str, NDArray[Any]]:
        """(batch, numbers) of what gets a past."""
        found = {key: obs[key] if isinstance(obs, Mapping) else obs for key in self._past}
        if others := [type(x).__name__ for x in found.values() if not isinstance(x, np.ndarray)]:
            raise TypeError(f"an observation is a {others[0]}, and ObservationHistory works on NumPy arrays")
        return {key: x.reshape(len(x), self._past[key].shape[2]) for key, x in found.items()}

    def _begin(self, begun: NDArray[np.bool_], obs: Any) -> None:
        """All before the beginning of an episode is as then, in environments of this mask."""
        for key, x in self._rows(obs).items():
            self._past[key][:, begun] = x[begun]

    def _shown(self, obs: Any, rows: Any = slice(None)) -> Any:
        """Observations, of these rows, with their past."""
        found = {key: np.moveaxis(past[list(self.steps)][:, rows], 0, 1) for key, past in self._past.items()}
        flat = {key: x.reshape(len(x), x.shape[1] * x.shape[2]) for key, x in found.items()}
        return {**obs, **flat} if isinstance(obs, Mapping) else flat[WHOLE]


def longest_episode(envs: VectorEnv) -> int | None:
    """Steps of the longest episodes by the environments' spec, or that of single ones within; None: not known."""
    layer: Any = envs
    while isinstance(layer, VectorWrapper):
        layer = layer.env
    specs = layer.get_attr("spec") if isinstance(layer, (SyncVectorEnv, AsyncVectorEnv)) else [layer.spec]
    limits = [spec.max_episode_steps for spec in specs if spec is not None and spec.max_episode_steps is not None]
    return max(limits) if len(limits) == len(specs) else None


def _checked_steps(given: Any, longest: int | None) -> tuple[int, ...]:
    if (steps := steps_ago(given)) is None:
        raise SettingsError(f"steps={given!r} must be whole numbers of steps ago, such as (0, 2, 4)")
    if (ordered := tuple(sorted({0, *steps}))) != steps:
        raise SettingsError(f"steps={steps} must begin with 0, which is now, and rise, each once: write {ordered}")
    if longest is not None and steps[-1] >= longest:
        raise SettingsError(
            f"steps={steps} reach back {steps[-1]} steps, and episodes have {longest}: use {longest - 1} or fewer"
        )
    return steps


def _checked_boxes(space: Any, keys: Any) -> dict[str, gs.Box]:
    """Those that get a past, by their key."""
    named = isinstance(space, gs.Dict)
    several = isinstance(keys, Collection) and not isinstance(keys, str)
    if named and not (several and keys and set(keys) <= set(space.spaces)):
        known = ", ".join(map(repr, space.spaces))
        raise SettingsError(f"keys={keys!r} must be a tuple of what gets a past, and the observation has {known}")
    if not named and keys is not None:
        raise SettingsError(f"keys={keys!r} are for a Dict, and the observation is {space}: leave them out")
    boxes = {key: space[key] for key in keys} if named else {WHOLE: space}
    for key, box in boxes.items():
        if not isinstance(box, gs.Box) or len(box.shape) > 2:
            raise SettingsError(
                f"{key!r} is {box}, and only a Box of one or two axes can have a past: FlattenObservation "
                "makes one of choices, FrameStackObservation stacks images, both of single environments"
            )
    return boxes
