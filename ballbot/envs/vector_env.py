"""``BallbotVectorEnv``: many ballbots at once, close to the speed of MuJoCo itself.

Gymnasium's contract and nothing else: what happens in the world stands in ``ballbot.envs.world``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from ballbot.envs.autoreset import begin_at_once, check_autoreset_mode, step_and_begin
from ballbot.envs.checks import (
    check_actions,
    check_choice,
    check_count,
    check_ids,
    check_places,
    check_reset_options,
    check_seeds,
    check_state_array,
)
from ballbot.envs.config import WorldConfig
from ballbot.envs.contacts import check_contact_physics, note_open, use_contact_physics
from ballbot.envs.infos import masked, observation_space
from ballbot.envs.marks import Marks
from ballbot.envs.rendering import Renderer
from ballbot.envs.step import Array, Bools
from ballbot.envs.world import World
from ballbot.envs.world_state import get_state, set_state
from ballbot.errors import SettingsError
from ballbot.settings import Range, check_value

if TYPE_CHECKING:
    from ballbot.envs.cameras import Cameras, Encoder
    from ballbot.envs.observations import Layout
    from ballbot.envs.physics import Physics

StepResult = tuple[Any, NDArray[np.float64], Bools, Bools, dict[str, Any]]

MAX_NUM_ENVS = 1_000_000
"""A state row takes a few hundred bytes: more is a slipped exponent, not a plan."""

NOBODY = np.zeros(0, np.intp)

COPIED = ("spec", "single_observation_space", "observation_space", "single_action_space", "action_space", "_seeds")
"""What copies have besides."""

SET_GOAL = "goal={!r} cannot be assigned, as what robots are told is checked: call set_command(...)"


class BallbotVectorEnv(VectorEnv[Any, NDArray[Any], NDArray[Any]]):
    """``num_envs`` ballbots that do what they are told without falling.

    **Actions**, (num_envs, wheels) floats in [-1, 1]: action a applies a torque of -a times the motors' limit, 10 N m
    of the reference's three, to each wheel's axle for one step of 2 ms (500 Hz).  Finite actions outside the range are
    clipped.

    **Observations**, float32: see ``ballbot.envs.observations``. "proprioception" is (num_envs, 17) unless told
    otherwise; ``layout`` says which numbers are what. "scan" adds the field of that name, "encoded" an embedding of
    each camera's latest image and the images' age in s. "depth" is a dict of "proprioception", "depth" (num_envs, 2,
    64, 64) in m and "image_age" (num_envs, 1) in s. With ``privileged_fields`` it is a dict of "policy", the same as
    without, and "privileged", those fields; that of "depth" has the key "privileged" more.

    **Rewards**, float64: see ``ballbot.envs.rewards``.

    **Endings.**  Terminated: the base tilts more than ``tilt_limit_deg``, or one of ``endings``.  Truncated:
    ``max_episode_steps`` steps, the robot leaves the terrain, or its simulation diverged.  A simulation that diverged
    (MuJoCo warning, non-finite or implausible state) ends only its own episode; its final observation, position and
    tilt are the last sound ones, its last reward is 0, and ``num_diverged`` counts it.  MuJoCo itself notes each
    warning in a file MUJOCO_LOG.TXT in the working directory.

    **Autoreset** follows Gymnasium's rules.  With "same_step" the step that ends an episode returns the next one's
    first observation, and ``infos["final_obs"]``, ``infos["final_info"]`` hold the ended one's last.  With "next_step",
    which some of Gymnasium's wrappers need, the step after it begins the next one.  With "disabled", which TorchRL
    needs, ``reset(options={"reset_mask": ...})`` does.

    **Infos**, arrays over simulations: ``position`` (x, y of the base, m), ``tilt_deg``, ``terrain_id``, ``success``
    (reached the time limit, be it a staggered one, and did what it was told), ``failure`` (fell, or one of
    ``endings``, which are there by their names too), ``out_of_bounds``, ``diverged``, and ``reward_terms``: a dict of
    each of the task's terms, weighted and summed over the episode so far.  Commands other than a goal, and a goal with
    a ``distance``, add ``missed`` (reached the time limit and did not do what it was told), and they and the curriculum
    ``measures``: a dict of what
    they say of themselves, NaN where there is nothing to say; the curriculum as episodes begin and end.  All are yours.

    **Seeds.**  Every simulation has its own random stream; ``reset(seed=s)`` seeds simulation i with s + i, so that
    simulation i equals ``BallbotEnv`` after ``reset(seed=s + i)``.  ``np_random`` and ``np_random_seed`` are tuples, an
    entry a simulation, as in Gymnasium's own vectorisers.

    Args:
        num_envs: how many simulations.
        num_threads: threads that step the simulations; 0 takes every CPU this process may use.  Results do not depend
            on it.
        encoder: for observation="encoded": any function of (k, 1, height, width) float32 images, depth in m from 0 to
            1, that returns (k, size) embeddings, or the file of a trained encoder; None takes what comes with ballbot
            for these cameras, ``ballbot.encoders.encoder_file``.
        camera_device: "cpu" or "cuda", where images are cast and encoded.
        render_mode: "rgb_array", "human" (MuJoCo's viewer, simulation 0) or None.
        autoreset_mode: "same_step", "next_step" or "disabled", or one of ``gymnasium.vector.AutoresetMode``.
        config: what world; or its options by name:
        **options: the fields of ``WorldConfig``, and ``goal=(x, y)``, short for motion={"x": x, "y": y}.  gym.make
            gives max_episode_steps to a wrapper: see ``ballbot``.

    Raises:
        ValueError: an unknown option value or an impossible number.
        TypeError: an option that does not exist.
        mujoco_patch.ContactFixError: the contact physics cannot be proved right here; the message says what to do.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (as Gymnasium declares it)
        "render_modes": ["rgb_array", "human"],
        "render_fps": 500,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        num_threads: int = 0,
        encoder: Encoder | str | Path | None = None,
        camera_device: str = "cpu",
        render_mode: Literal["rgb_array", "human"] | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        config: WorldConfig | None = None,
        **options: Any,
    ) -> None:
        check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        check_count("num_threads", num_threads, 0, 1024)
        self.num_envs = n = check_count("num_envs", num_envs, 1, MAX_NUM_ENVS)
        if config is not None and options:
            raise TypeError(
                f"config was given, and {next(iter(options))!r} besides: use dataclasses.replace(config, ...)"
            )
        self.config = WorldConfig.of(**options) if config is None else config
        """What world this is."""
        if self.config.observation != "encoded" and encoder is not None:
            raise SettingsError(
                f"observation={self.config.observation!r} takes no encoder: leave it out, or use observation='encoded'"
            )
        self.autoreset_mode = check_autoreset_mode(autoreset_mode)
        """When robots whose episodes ended begin new ones."""
        self._made = {
            "num_envs": n, "num_threads": num_threads, "encoder": encoder, "camera_device": camera_device,
            "render_mode": render_mode, "autoreset_mode": self.autoreset_mode, "config": self.config,
        }  # fmt: skip
        self.contact_fix = self.config.contact_fix
        self.action_repeat = self.config.action_repeat
        self.render_mode = render_mode
        use_contact_physics(self)
        self.world = World(n, self.config, num_threads=num_threads, encoder=encoder, camera_device=camera_device)
        """What happens."""
        self.dt = self.world.step_seconds * self.action_repeat
        """Seconds from an action to the next."""
        self.metadata = {
            **self.metadata, "render_fps": round(1 / self.dt), "autoreset_mode": self.autoreset_mode
        }  # fmt: skip
        self._all = np.ones(n, bool)
        self._ended = np.zeros(n, bool)  # whose episode did, and no other has begun; with "same_step" nobody's
        self._seeds: list[int] = []  # of the streams; -1 where unknown, as in Gymnasium
        self._renderer: Renderer | None = None
        self.on_key: Callable[[int], None] | None = None
        """Called by the viewer, in a thread of its own, with the code (GLFW's) of each key that is pressed; to be set
        before the first reset()."""
        self.caption = ("", "")
        self.marks: Marks | None = None
        """What is drawn beside the first robot in "rgb_array" mode, by a camera of its own."""
        """Text over the viewer's picture, and to the right of it."""

        self.single_observation_space = observation_space(self.world)
        self.single_action_space = gym.spaces.Box(-1.0, 1.0, self.world.actions.shape[1:], np.float32)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, n)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, n)
        note_open(self)

    @property
    def simulations(self) -> Physics:
        """The physics: a row of state each."""
        return self.world.physics

    @property
    def cameras(self) -> Cameras | None:
        """None without images."""
        return self.world.cameras

    @property
    def layout(self) -> Layout:
        """Which numbers of an observation, or of its part "policy", are what."""
        return self.world.layout

    @property
    def privileged_layout(self) -> Layout | None:
        """Which numbers of the part "privileged" are what; None without ``privileged_fields``."""
        return self.world.privileged_layout

    @property
    def num_diverged(self) -> int:
        """Simulations that diverged since construction."""
        return self.world.num_diverged

    # -- Commands and ground ------------------------------------------------------------------------------------------

    @property
    def command(self) -> Array:
        """(num_envs, size) what each robot is told now; see ``ballbot.envs.commands``.  ``set_command`` changes it."""
        return self.world.told.values.T.copy()

    @property
    def goal(self) -> Array:
        """(num_envs, 2) unit vectors of the direction each robot is to go now, in the world; 0 for who is to stay."""
        return self.world.told.direction.T.copy()

    @goal.setter
    def goal(self, value: Any) -> None:
        raise AttributeError(SET_GOAL.format(value))

    def set_command(self, values: Any, ids: Any = None) -> None:
        """Tell robots something else, until their episodes end; the next observation shows it.

        Args:
            values: a command, or a row a robot: for command "goal" a direction x, y (0, 0: stand still); "velocity" m/s
                along the heading, m/s to its left and rad/s; "point" x, y in m; "path" (k, 2) points in m.
            ids: which robots, their numbers or a (num_envs,) bool mask; None: all.

        Raises:
            ValueError: another shape, not finite, or beyond what motors or ground allow; nothing was changed.
        """
        self._check_started("set_command()")
        which = np.arange(self.num_envs) if ids is None else check_ids(ids, self.num_envs)
        if len(which) == 0:
            raise SettingsError(f"ids={ids!r} names no robot: leave the call out, or ids, for all of them")
        if len(np.unique(which)) < len(which):
            raise SettingsError(f"ids={ids!r} names a robot twice: name each once")
        self.world.told.tell(which, self.world.robots, self.world.check_command(values, len(which)))

    def set_progress(self, share: float) -> None:
        """Say how far the training is, from 0 to 1: ``final_rewards`` follow it.  The learner does.

        Raises:
            SettingsError: it is no such number.
        """
        self.world.set_progress(float(check_value("share", share, Annotated[float, Range(0, 1)])))

    def heights(self, ids: Any, xy: Any) -> Array:
        """Height of the ground that robots stand on, m above its lowest point.

        Args:
            ids: (k,) which robots, or a (num_envs,) bool mask of k.
            xy: (k, ..., 2) places x, y in the world, m; beside the field, the nearest edge's height is told.

        Returns:
            (k, ...) m.
        """
        return self.world.ground.heights(*self._check_places(ids, xy))

    def normals(self, ids: Any, xy: Any) -> Array:
        """(k, ..., 3) unit normals of the ground, pointing up; arguments as of ``heights``."""
        return self.world.ground.normals(*self._check_places(ids, xy))

    def _check_places(self, ids: Any, xy: Any) -> tuple[NDArray[np.int64], Array]:
        """Which terrain, and where."""
        self._check_started("asking for the ground")
        which = check_ids(ids, self.num_envs)
        return self.simulations.terrain_ids[which], check_places(xy, len(which))

    def _check_started(self, what: str) -> None:
        self._check_open()
        if not self.world.streams:
            raise gym.error.ResetNeeded(f"call reset() before {what}")

    # -- Gymnasium's interface ----------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start new episodes.

        Args:
            seed: simulation i is seeded with seed + i, or with seed[i]; None keeps the streams as they are.
            options: a dict, or None.  "reset_mask", (num_envs,) bool: reset those simulations only.  "terrain_id", an
                integer below num_terrains or (num_envs,) of them: where the episodes take place; nothing else that is
                drawn at reset depends on it.  "difficulty", a number from 0 to 1 or (num_envs,) of them: the field of
                the kind that is drawn whose difficulty is nearest.  "command": as of ``set_command``.  "randomized", a
                dict of what differs from episode to episode, name -> a number or (num_envs,) of them, within the
                limits of ``AXES`` and not bound to the world's ranges: what is given is not drawn in these episodes.

        Returns:
            observations and infos.
        """
        self._check_open()
        world = self.world
        asked = check_reset_options(options, self.num_envs, self.simulations.num_terrains)
        if asked.difficulties is not None and self.config.has_one_difficulty:
            raise SettingsError(
                f"options['difficulty'] was given, and the ground, terrain={self.config.terrain!r} with num_terrains="
                f"{self.config.num_terrains}, is of one difficulty: leave it out, or make a world with several, "
                'terrain="stairs:0-1"'
            )
        seeds = check_seeds(seed, self.num_envs)
        commands = None if asked.command is None else world.check_command(asked.command, self.num_envs)
        if not world.streams and not asked.mask.all():
            raise gym.error.ResetNeeded("the first reset() must reset every simulation: leave reset_mask out")
        randomized = None if asked.randomized is None else world.check_randomized(asked.randomized)
        ids = np.flatnonzero(asked.mask)
        if not self._seeds:
            self._seeds = [-1] * self.num_envs
        for i in ids:
            if (seed_i := seeds[i]) is not None:
                self._seeds[i] = seed_i
        world.seed(ids, seeds)
        world.start(
            ids,
            stagger=~self._ended if self.config.stagger_first_episodes else None,
            terrains=asked.terrains,
            difficulties=asked.difficulties,
            commands=commands,
            randomized=randomized,
        )
        self._ended[ids] = False
        if self.render_mode == "human":
            self.render()
        return world.observation(), masked(world.infos(), self._all)

    def step(self, actions: NDArray[Any]) -> StepResult:
        """Advance every simulation by one step of ``dt`` seconds.

        Args:
            actions: (num_envs, wheels) finite floats; clipped to [-1, 1], or to action_limit.

        Returns:
            observations, rewards (num_envs,) float64, terminated and truncated (num_envs,)
            bool, and infos.

        Raises:
            ValueError, TypeError: actions of another shape or dtype, or not finite; nothing was stepped.
            gymnasium.error.ResetNeeded: with autoreset_mode="disabled", somebody's episode has ended.
        """
        mode, begin = self.autoreset_mode, NOBODY
        if mode is not AutoresetMode.SAME_STEP and self._ended.any():
            begin = np.flatnonzero(self._ended)
            if mode is AutoresetMode.DISABLED:
                raise gym.error.ResetNeeded(
                    f"the episodes of simulations {begin[:5].tolist()} have ended: call reset(options={{'reset_mask': "
                    "terminated | truncated}) before the next step()"
                )
        observations, reward, terminated, truncated, infos = self._advance(actions, begin)
        done = terminated | truncated
        if mode is AutoresetMode.SAME_STEP and np.count_nonzero(done):
            observations, infos = begin_at_once(self.world, observations, infos, done)
        else:
            infos = masked(infos, self._all)
        if mode is not AutoresetMode.SAME_STEP:
            self._ended = done
        if self.render_mode == "human":
            self.render()
        return observations, reward, terminated, truncated, infos

    def advance(self, actions: NDArray[Any]) -> StepResult:
        """``step`` without autoreset and drawing: an ended episode goes on until its simulation is reset."""
        observations, reward, terminated, truncated, infos = self._advance(actions)
        return observations, reward, terminated, truncated, masked(infos, self._all)

    def _advance(self, actions: NDArray[Any], begin: NDArray[np.intp] = NOBODY) -> StepResult:
        """``advance``, without the masks of infos, in which some begin an episode instead."""
        self._check_started("step()")
        check_contact_physics(self)
        checked = check_actions(actions, self.world.actions.shape, self.config.action_limit)
        told = step_and_begin(self.world, checked, begin) if len(begin) else self.world.step(checked)
        return told["observation"], told["rewards"], told["terminated"], told["truncated"], told["infos"]

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """One (480, 640, 3) uint8 picture a simulation in "rgb_array" mode.

        In "human" mode it updates the viewer; reset and step do that themselves.  Whoever drags simulation 0 with the
        mouse pushes it.

        Raises:
            RuntimeError: no OpenGL or no display, with what to install or set.
        """
        self._check_open()
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode: pass render_mode='rgb_array' or 'human'.")
            return None
        if self._renderer is None:
            sims = self.simulations
            self._renderer = Renderer(self.render_mode, self.on_key, sims.rig, sims.robot, sims.family)
        sims, draw = self.simulations, self._renderer.draw
        shown = range(self.num_envs) if self.render_mode == "rgb_array" else range(1)
        frames = [
            draw(sims.terrain_of(i), sims.qpos[i], sims.qvel[i], int(sims.robot_ids[i]), None if i else self.marks)
            for i in shown
        ]
        self._renderer.write(*self.caption)
        if (forces := self._renderer.pushes()) is not None:
            sims.push(0, forces)
        return tuple(f for f in frames if f is not None) if self.render_mode == "rgb_array" else None

    @property
    def watched(self) -> bool:
        """False once the viewer of "human" mode was closed."""
        return self._renderer is None or self._renderer.is_open

    def close_extras(self, **kwargs: Any) -> None:
        """Close the viewer, if any."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    @property  # type: ignore[misc]  # to be set by reset() only
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each simulation's random stream, which its resets draw from; empty before the first reset."""
        return tuple(self.world.streams)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """Each stream's seed, -1 where it is not known; empty before the first reset."""
        return tuple(self._seeds)

    # -- Exact state --------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Everything that decides the future: arrays and plain types only, so that it can go into a checkpoint."""
        state = get_state(self.world)
        return state if self.autoreset_mode is AutoresetMode.SAME_STEP else state | {"ended": self._ended.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what ``get_state`` returned, in an environment made with the same options.

        Raises:
            ValueError: the state is damaged, or of an environment with other options; nothing was changed.
        """
        ended = np.zeros(self.num_envs, bool)
        if isinstance(state, dict) and "ended" in state:
            ended = check_state_array(state, "ended", ended)
        if ended.any() and self.autoreset_mode is AutoresetMode.SAME_STEP:
            raise ValueError(
                "in this state, episodes have ended and no others have begun: make the environment with the "
                "autoreset_mode it was saved with"
            )
        set_state(self.world, state)
        self._ended = ended.copy()
        self._seeds = [-1] * len(self.world.streams)

    def __getstate__(self) -> dict[str, Any]:
        """What copies are made of, by ``copy.deepcopy`` and ``pickle``: arguments and state, not the simulations."""
        self._check_open()
        return {"made": self._made, "state": self.get_state(), "kept": {name: getattr(self, name) for name in COPIED}}

    def __setstate__(self, copied: dict[str, Any]) -> None:
        """Make the environment anew and restore its state; viewer and ``on_key`` are left behind."""
        self.__init__(**copied["made"])  # type: ignore[misc]
        self.set_state(copied["state"])
        self.__dict__ |= copied["kept"]

    def _check_open(self) -> None:
        """Refuse a closed environment: the contact physics may have been exchanged since, and a window would return."""
        if self.closed:
            raise gym.error.ClosedEnvironmentError("this environment is closed: make a new one")
