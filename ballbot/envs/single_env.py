"""``BallbotEnv``: one ballbot, the same numbers as one simulation of ``BallbotVectorEnv``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ballbot.envs.checks import check_places
from ballbot.envs.config import WorldConfig
from ballbot.envs.infos import first_of, one_of
from ballbot.envs.observations import Layout
from ballbot.envs.step import Array
from ballbot.envs.vector_env import SET_GOAL, BallbotVectorEnv


class BallbotEnv(gym.Env[Any, NDArray[Any]]):
    """One ballbot that does what it is told without falling.

    Actions, observations, rewards, endings, infos and keyword options are those of ``BallbotVectorEnv`` without the
    leading axis.  After ``reset(seed=s)`` and the same actions, every number equals that of simulation i of a
    ``BallbotVectorEnv`` after ``reset(seed=s - i)``.

    Args:
        render_mode: "rgb_array", "human" or None.
        **options: of ``BallbotVectorEnv``, except num_envs and autoreset_mode.  One thread by default: more do not
            help one simulation.

    Raises:
        TypeError: for num_envs or autoreset_mode, or an option that does not exist.
        ValueError, mujoco_patch.ContactFixError: as ``BallbotVectorEnv``.
    """

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 500}  # noqa: RUF012 (as Gymnasium declares it)

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        if "num_envs" in options:
            raise TypeError(
                "BallbotEnv is a single robot and takes no num_envs: use gymnasium.make_vec('Ballbot-v0', num_envs="
                f"{options['num_envs']!r}) or BallbotVectorEnv({options['num_envs']!r})"
            )
        if "autoreset_mode" in options:
            raise TypeError("BallbotEnv never resets itself: leave autoreset_mode out, or use BallbotVectorEnv")
        self._envs = BallbotVectorEnv(1, render_mode=render_mode, **{"num_threads": 1, **options})  # type: ignore[arg-type]
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": self._envs.metadata["render_fps"]}
        self.observation_space = self._envs.single_observation_space
        self.action_space = self._envs.single_action_space

    @property
    def dt(self) -> float:
        """Seconds a step."""
        return self._envs.dt

    @property
    def action_repeat(self) -> int:
        """Simulation steps for which an action is held."""
        return self._envs.action_repeat

    @property
    def config(self) -> WorldConfig:
        """What world this is."""
        return self._envs.config

    @property
    def layout(self) -> Layout:
        """Which numbers of an observation, or of its part "policy", are what."""
        return self._envs.layout

    @property
    def privileged_layout(self) -> Layout | None:
        """Which numbers of the part "privileged" are what; None without ``privileged_fields``."""
        return self._envs.privileged_layout

    @property
    def num_diverged(self) -> int:
        """How often the simulation diverged since construction."""
        return self._envs.num_diverged

    @property
    def command(self) -> Array:
        """(size,) what the robot is told now; see ``ballbot.envs.commands``.  ``set_command`` changes it."""
        return self._envs.command[0]

    @property
    def goal(self) -> Array:
        """(2,) unit vector of the direction it is to go now, in the world; 0 if it is to stay."""
        return self._envs.goal[0]

    @goal.setter
    def goal(self, value: Any) -> None:
        raise AttributeError(SET_GOAL.format(value))

    def set_command(self, values: Any) -> None:
        """Tell the robot something else, until its episode ends; as ``BallbotVectorEnv.set_command``."""
        self._envs.set_command(values)

    def heights(self, xy: Any) -> Array:
        """(...) m, height of the ground above its lowest point at (..., 2) places x, y in the world, m."""
        return self._envs.heights([0], check_places(xy, None)[None])[0]

    def normals(self, xy: Any) -> Array:
        """(..., 3) unit normals of the ground, pointing up; argument as of ``heights``."""
        return self._envs.normals([0], check_places(xy, None)[None])[0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a new episode; returns the observation and the info."""
        super().reset(seed=seed)
        observations, infos = self._envs.reset(seed=seed, options=options)  # draws in "human" mode
        return one_of(observations, 0), first_of(infos)

    def step(self, action: NDArray[Any]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by ``dt`` seconds with (wheels,) finite floats, clipped to [-1, 1].

        Raises:
            ValueError, TypeError: an action of another shape or dtype, or not finite.
        """
        action = np.asarray(action)
        if action.shape != self.action_space.shape:
            raise ValueError(f"action has shape {action.shape}, expected {self.action_space.shape}: one number a motor")
        observations, rewards, terminated, truncated, infos = self._envs.advance(action[None])
        if self.render_mode == "human":
            self.render()
        return one_of(observations, 0), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), first_of(infos)

    def render(self) -> NDArray[np.uint8] | None:
        """The (480, 640, 3) uint8 picture in "rgb_array" mode; None in "human" mode, after updating the viewer."""
        frames = self._envs.render()
        return frames[0] if frames else None

    def close(self) -> None:
        """Close the viewer, if any."""
        self._envs.close()

    def get_state(self) -> dict[str, Any]:
        """As ``BallbotVectorEnv.get_state``."""
        return self._envs.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """As ``BallbotVectorEnv.set_state``."""
        self._envs.set_state(state)
