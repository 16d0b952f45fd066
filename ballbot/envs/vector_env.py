"""``BallbotVectorEnv``: many ballbots at once, close to the speed of MuJoCo itself.

The simulations live in one ``mujoco.batch.Batch``: a row of state each, stepped by a thread pool with the GIL released.
Everything around the physics (observations, rewards, endings, resets) is NumPy on whole arrays, computed from the state
rows, so nothing lags and no derived field has to be copied out.
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

import mujoco_patch
from ballbot.envs import rewards
from ballbot.envs.checks import (
    check_actions,
    check_choice,
    check_count,
    check_direction,
    check_flag,
    check_number,
    check_reset_options,
    check_seeds,
    check_state_array,
)
from ballbot.envs.model import INTEGRATORS, check_wheel_contacts, physics_digest
from ballbot.envs.observations import CAMERA_INTERVAL, OBSERVATION_SIZES, OBSERVE, RobotState
from ballbot.envs.random_streams import WORDS, new_stream, pack_streams, unpack_streams
from ballbot.envs.rendering import Renderer
from ballbot.envs.simulation import TERRAINS, Simulations
from ballbot.envs.terrain import MAX_TERRAIN_LENGTH, SPLITS, TERRAIN_LENGTH
from mujoco_patch import ContactFixError

if TYPE_CHECKING:
    from ballbot.envs.cameras import Cameras, Encoder

Bools = NDArray[np.bool_]
Observation = NDArray[np.float32] | dict[str, NDArray[np.float32]]
StepResult = tuple[Any, NDArray[np.float64], Bools, Bools, dict[str, Any]]

MOTOR_TORQUE = -10.0
"""N m on a wheel's axle per unit of action (the reference's sign)."""
OBSERVATIONS = ("proprioception", "encoded", "depth")
REWARD_TERMS = ("progress", "survival", "action_cost")  # the order of the rows in advance()
MAX_NUM_ENVS = 1_000_000
"""A state row takes a few hundred bytes: more is a slipped exponent, not a plan."""

_open_envs: weakref.WeakSet[BallbotVectorEnv] = weakref.WeakSet()


class BallbotVectorEnv(VectorEnv[Any, NDArray[Any], NDArray[Any]]):
    """``num_envs`` ballbots that learn to travel along a goal direction without falling.

    **Actions**, (num_envs, 3) floats in [-1, 1]: action a applies a torque of -10 a N m to each wheel's axle for one
    step of 2 ms (500 Hz).  Finite actions outside the range are clipped.

    **Observations**, float32: see the tables in ``ballbot.envs.observations``.  "proprioception" is (num_envs, 17 or
    15).  "encoded" adds an embedding of each camera's latest image and the images' age in s.  "depth" is a dict of
    "proprioception", "depth" (num_envs, 2, 64, 64) in m and "image_age" (num_envs, 1) in s.

    **Rewards**, float64: see ``ballbot.envs.rewards``.

    **Endings.**  Terminated: the base tilts more than ``tilt_limit_deg``.  Truncated: ``max_episode_steps`` steps, the
    robot leaves the terrain, or its simulation diverged.  A simulation that diverged (MuJoCo warning, non-finite or
    implausible state) ends only its own episode; its final observation, position and tilt are the last sound ones, its
    last reward is 0, and ``num_diverged`` counts it.  MuJoCo itself notes each warning in a file MUJOCO_LOG.TXT in the
    working directory.

    **Autoreset** is SAME_STEP by Gymnasium's rules: the step that ends an episode returns the next one's first
    observation, and ``infos["final_obs"]``, ``infos["final_info"]`` hold the ended one's last.

    **Infos**, arrays over simulations: ``position`` (x, y of the base, m), ``tilt_deg``, ``terrain_id``, ``success``
    (reached the time limit, be it a staggered one), ``failure`` (fell), ``out_of_bounds``, ``diverged``, and
    ``reward_terms``: a dict of each reward term summed over the episode so far.  They are copies: yours to change.

    **Seeds.**  Every simulation has its own random stream; ``reset(seed=s)`` seeds simulation i with s + i, so that
    simulation i equals ``BallbotEnv`` after ``reset(seed=s + i)``.  ``np_random`` and ``np_random_seed`` are tuples, an
    entry a simulation, as in Gymnasium's own vectorisers.

    Args:
        num_envs: how many simulations.
        terrain: "perlin" (10 m x 10 m of simplex noise, 0.1 m high, one of num_terrains drawn for each episode) or
            "flat" (an endless plane).
        terrain_length: side of the fields, m, for episodes that last longer; memory grows with its square.
        observation: "proprioception", "encoded" or "depth".
        frame: "body" or "world", the axes of the observation.
        max_episode_steps: time limit, steps of 2 ms.  gym.make gives this option to a wrapper: see ``ballbot``.
        integrator: "Euler", "implicitfast" or "RK4" (the reference's, four times slower; docs/integrators.md).
        num_threads: threads that step the simulations; 0 takes every CPU this process may use.  Results do not depend
            on it.
        num_terrains: height fields held in memory (0.34 MB each), one drawn per episode.
        terrain_split: "train", "validation" or "eval": disjoint sets of terrains.
        terrain_seed: base seed of the terrains.
        random_yaw: draw the heading at reset; else the robot starts with its x axis along the world's.
        initial_tilt_deg: the tilt at reset is drawn evenly from a cone of this half-angle, degrees, which is below
            tilt_limit_deg.
        initial_speed: the velocity at reset is drawn evenly from a disc of this radius, m/s; the robot then starts
            rolling.  Worth it for training: a robot that slowly gains speed meets the consequences thousands of steps
            later, unless some episodes begin there.
        tilt_limit_deg: a larger tilt is a fall, degrees.
        goal: direction of travel in the world, (x, y); normalised.
        action_repeat: steps of 2 ms for which an action is held; ``step`` then returns the sum of their rewards, and
            ``dt`` is as much longer.  For training: consequences of an action that lasts are easier to tell from noise,
            and what was learned so drives at 500 Hz as well.
        target_speed: m/s along the goal, for training: progress then pays most at this velocity and less around it, to
            either side and across (``rewards.tracking``).  A robot that only gets more for more speed goes to the
            motors' limit, where it falls.  None is the task; ``reward_terms`` are the task's in any case.
        progress_weight: factor on the reward for progress, for training; 1 is the task.
        action_limit: actions are clipped to +- this, at most 1, for training: motors weaker than they are.  What can be
            done with them leaves a margin when all of the torque is there.
        stagger_first_episodes: draw the time limit of each episode that a call of reset() begins from 1 to
            max_episode_steps, so that time-outs do not all come at once; episodes that autoreset begins are whole.  A
            shortened episode that reaches its limit is truncated and a success like any other.
        encoder: for observation="encoded": any function of (k, 1, height, width) float32 images, depth in m from 0 to
            1, that returns (k, size) embeddings, or the file of a trained encoder; None takes the one that comes with
            ballbot, ``ballbot.encoders.load_encoder()``.
        camera_interval: steps from an image to the next; 6 are 83.3 Hz.
        camera_resolution: (height, width) of the images in pixels; None takes the MJCF's, 64 x 64.
        stagger_cameras: take the images of different simulations at different steps instead of all at once.
        camera_device: "cpu" or "cuda", where images are cast and encoded.
        contact_fix: False runs on stock MuJoCo's misaligned contacts, to show what happens (experiments only).
        render_mode: "rgb_array", "human" (MuJoCo's viewer, simulation 0) or None.

    Raises:
        ValueError: an unknown option value or an impossible number.
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
        terrain: str = "perlin",
        observation: str = "proprioception",
        frame: str = "body",
        max_episode_steps: int = 4000,
        integrator: str = "Euler",
        num_threads: int = 0,
        num_terrains: int = 64,
        terrain_split: str = "train",
        terrain_seed: int = 0,
        terrain_length: float = TERRAIN_LENGTH,
        random_yaw: bool = True,
        initial_tilt_deg: float = 1.0,
        initial_speed: float = 0.0,
        tilt_limit_deg: float = 20.0,
        goal: tuple[float, float] = (0.0, 1.0),
        action_repeat: int = 1,
        target_speed: float | None = None,
        progress_weight: float = 1.0,
        action_limit: float = 1.0,
        stagger_first_episodes: bool = False,
        encoder: Encoder | str | Path | None = None,
        camera_interval: int = CAMERA_INTERVAL,
        camera_resolution: tuple[int, int] | None = None,
        stagger_cameras: bool = False,
        camera_device: str = "cpu",
        contact_fix: bool = True,
        render_mode: Literal["rgb_array", "human"] | None = None,
    ) -> None:
        check_choice("terrain", terrain, TERRAINS)
        check_choice("observation", observation, OBSERVATIONS)
        if observation != "encoded" and encoder is not None:
            raise ValueError(
                f"observation={observation!r} takes no encoder: leave it out, or use observation='encoded'"
            )
        check_choice("frame", frame, tuple(OBSERVE))
        check_choice("integrator", integrator, tuple(INTEGRATORS))
        check_choice("terrain_split", terrain_split, tuple(SPLITS))
        check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        # Upper bounds catch a slipped digit: more threads than any machine has, 1.4 GB of terrains, 23 days, four times
        # the speed the motors reach.
        check_count("num_threads", num_threads, 0, 1024)
        check_count("num_terrains", num_terrains, 1, 4096)
        check_count("terrain_seed", terrain_seed, 0, 2**63)
        self.num_envs = n = check_count("num_envs", num_envs, 1, MAX_NUM_ENVS)
        self.max_episode_steps = check_count("max_episode_steps", max_episode_steps, 1, 10**9)
        self.initial_tilt_deg = check_number("initial_tilt_deg", initial_tilt_deg, 0.0, 90.0)
        self.initial_speed = check_number("initial_speed", initial_speed, 0.0, 2.0)
        self.tilt_limit_deg = check_number("tilt_limit_deg", tilt_limit_deg, 0.1, 180.0)
        if self.initial_tilt_deg >= self.tilt_limit_deg:
            raise ValueError(
                f"initial_tilt_deg={initial_tilt_deg} is not below tilt_limit_deg={tilt_limit_deg}: episodes would "
                "begin with a fall"
            )
        self.goal = check_direction("goal", goal)
        self.terrain_length = check_number("terrain_length", terrain_length, TERRAIN_LENGTH, MAX_TERRAIN_LENGTH)
        self.action_repeat = check_count("action_repeat", action_repeat, 1, 500)
        self.target_speed = None if target_speed is None else check_number("target_speed", target_speed, 0.01, 2.0)
        self.progress_weight = check_number("progress_weight", progress_weight, 0.0, 1e6)
        self.action_limit = check_number("action_limit", action_limit, 0.01, 1.0)
        check_count("camera_interval", camera_interval, 1, 10**6)  # even without cameras: runs record it
        self.terrain, self.observation, self.frame, self.terrain_split = (
            terrain,
            observation,
            frame,
            terrain_split,
        )
        self.terrain_seed, self.integrator, self.render_mode = terrain_seed, integrator, render_mode
        self.random_yaw = check_flag("random_yaw", random_yaw)
        self.stagger_first_episodes = check_flag("stagger_first_episodes", stagger_first_episodes)
        self.contact_fix = check_flag("contact_fix", contact_fix)
        self.num_diverged = 0
        """Simulations that diverged since construction."""

        _use_contact_physics(self.contact_fix)
        self.simulations = Simulations(
            n,
            terrain=terrain,
            integrator=integrator,
            num_threads=num_threads,
            num_terrains=num_terrains,
            terrain_split=terrain_split,
            terrain_seed=terrain_seed,
            terrain_length=self.terrain_length,
        )
        if self.contact_fix:
            check_wheel_contacts(self.simulations.model)
        self.dt = float(self.simulations.model.opt.timestep) * self.action_repeat
        """Seconds from an action to the next."""
        self.metadata = {**self.metadata, "render_fps": round(1 / self.dt)}
        self.cameras: Cameras | None = None
        """None without images."""
        stagger_cameras = check_flag("stagger_cameras", stagger_cameras)
        if observation != "proprioception":
            from ballbot.envs.cameras import Cameras  # needs PyTorch, which the world alone does without

            if isinstance(encoder, (str, Path)) or (observation == "encoded" and encoder is None):
                from ballbot.encoders import load_encoder

                eyes: Encoder | None = load_encoder(encoder, camera_device)
            else:
                eyes = encoder
            self.cameras = Cameras(
                self.simulations,
                encoder=eyes,
                interval=camera_interval,
                stagger=stagger_cameras,
                resolution=camera_resolution,
                num_threads=num_threads,
                device=camera_device,
            )

        self._streams: list[np.random.Generator] = []  # filled by the first reset
        self._seeds: list[int] = []  # of the streams; -1 where unknown, as in Gymnasium
        self._elapsed = np.zeros(n, np.int64)
        self._time_limit = np.full(n, self.max_episode_steps)
        self._actions = np.zeros((n, 3))
        self._term_sums = np.zeros((len(REWARD_TERMS), n))
        self._obs = np.zeros((n, OBSERVATION_SIZES[frame]), np.float32)
        self._none = np.zeros(n, bool)
        self._none.setflags(write=False)
        self._robots: RobotState  # as of the last reset or step
        self._observe = OBSERVE[frame]
        self._upright_limit = np.cos(np.radians(self.tilt_limit_deg))
        self._renderer: Renderer | None = None

        self.single_observation_space = self._make_observation_space()
        self.single_action_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, n)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, n)
        _open_envs.add(self)

    # -- Gymnasium's interface ----------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start new episodes.

        Args:
            seed: simulation i is seeded with seed + i, or with seed[i]; None keeps the streams as they are.
            options: a dict, or None.  "reset_mask", (num_envs,) bool: reset those simulations only.  "terrain_id", an
                integer below num_terrains or (num_envs,) of them: where the episodes take place; nothing else that is
                drawn at reset depends on it.

        Returns:
            observations and infos.
        """
        self._check_open()
        mask, terrains = check_reset_options(options, self.num_envs, self.simulations.num_terrains)
        seeds = check_seeds(seed, self.num_envs)
        ids = np.flatnonzero(mask)
        seeded = [int(i) for i in ids if seeds[i] is not None or not self._streams]
        if not self._streams:
            if not mask.all():
                raise gym.error.ResetNeeded("the first reset() must reset every simulation: leave reset_mask out")
            self._streams = [new_stream(s) for s in seeds]
            self._seeds = [-1 if s is None else s for s in seeds]
        for i in seeded:
            if (seed_i := seeds[i]) is not None:
                self._streams[i], self._seeds[i] = new_stream(seed_i), seed_i
            if self.cameras is not None:
                self.cameras.start_clock(i, self._streams[i].integers)
        self._start_episodes(ids, self.stagger_first_episodes, terrains)
        if self.render_mode == "human":
            self.render()
        return self._observation(), self._infos(self._robots)

    def step(self, actions: NDArray[Any]) -> StepResult:
        """Advance every simulation by one step of ``dt`` seconds.

        Args:
            actions: (num_envs, 3) finite floats; clipped to [-1, 1], or to action_limit.

        Returns:
            observations, rewards (num_envs,) float64, terminated and truncated (num_envs,)
            bool, and infos.

        Raises:
            ValueError, TypeError: actions of another shape or dtype, or not finite; nothing was stepped.
        """
        observations, reward, terminated, truncated, infos = self.advance(actions)
        done = terminated | truncated
        if done.any():
            final_obs = np.full(self.num_envs, None, dtype=object)
            ids = np.flatnonzero(done)
            for i in ids:
                final_obs[i] = one_of(observations, int(i))
            final_info = _masked(infos, done)
            self._start_episodes(ids)
            observations = self._observation()
            infos = self._infos(self._robots)
            infos |= {
                "final_obs": final_obs,
                "_final_obs": done,
                "final_info": final_info,
                "_final_info": done.copy(),
            }
        if self.render_mode == "human":
            self.render()
        return observations, reward, terminated, truncated, infos

    def advance(self, actions: NDArray[Any]) -> StepResult:
        """``step`` without autoreset and drawing: an ended episode goes on until its simulation is reset."""
        self._check_open()
        if not self._streams:
            raise gym.error.ResetNeeded("call reset() before step()")
        self._actions = check_actions(actions, self.num_envs, self.action_limit)
        result = self._advance()
        for _ in range(self.action_repeat - 1):
            result = _joined(result, self._advance())
        return result

    def _advance(self) -> StepResult:
        """One step of 2 ms with the actions that were given."""
        if mujoco_patch.is_installed() != self.contact_fix:
            raise ContactFixError(
                f"this environment was made with contact_fix={self.contact_fix}, but the contact fix was "
                f"{'undone' if self.contact_fix else 'installed'} since, perhaps by another library: what was "
                "simulated in between is not to be trusted. Find out by whom, and make the environment anew"
            )
        diverged = self.simulations.step(MOTOR_TORQUE * self._actions)
        self._elapsed += 1
        last, robots = self._robots, self.simulations.robot_state()
        self._robots = robots
        observations = self._observe(robots, self.goal, self._actions)
        fallen = robots.rotation[2, 2] < self._upright_limit
        terms = np.empty_like(self._term_sums)
        terms[0] = rewards.progress(robots.velocity[:2], self.goal)
        terms[1] = rewards.survival(fallen)
        terms[2] = rewards.action_cost(self._actions)
        success = (self._elapsed >= self._time_limit) & ~fallen
        out_of_bounds = self.simulations.off_terrain(robots.position) & ~fallen
        if diverged is None:
            diverged, truncated = self._none, success | out_of_bounds
        else:
            self.num_diverged += int(diverged.sum())
            terms[:, diverged] = 0.0
            observations[diverged] = self._obs[diverged]  # the last sound ones
            robots.position[:, diverged] = last.position[:, diverged]
            robots.rotation[:, :, diverged] = last.rotation[:, :, diverged]
            for flag in (fallen, success, out_of_bounds):
                flag[diverged] = False
            truncated = success | out_of_bounds | diverged
        self._term_sums += terms
        self._obs = observations
        if self.cameras is not None:
            self.cameras.step(robots, None if diverged is self._none else ~diverged)
        infos = self._infos(robots, success, fallen.copy(), out_of_bounds, diverged.copy())
        if self.target_speed is not None:
            sound = ~infos["diverged"]
            terms[0] = rewards.tracking(robots.velocity[:2], self.goal, self.target_speed) * sound
        if self.progress_weight != 1.0:
            terms[0] *= self.progress_weight
        return self._observation(), terms.sum(axis=0), fallen, truncated, infos

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
            self._renderer = Renderer(self.render_mode)
        sims, draw = self.simulations, self._renderer.draw
        shown = range(self.num_envs) if self.render_mode == "rgb_array" else range(1)
        frames = [draw(sims.terrain_of(i), sims.qpos[i], sims.qvel[i]) for i in shown]
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
        return tuple(self._streams)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """Each stream's seed, -1 where it is not known; empty before the first reset."""
        return tuple(self._seeds)

    # -- Exact state --------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Everything that decides the future: arrays and plain types only, so that it can go into a checkpoint."""
        return {
            "options": self._state_options(),
            "simulations": self.simulations.get_state(),
            "streams": pack_streams(self._streams),
            "num_diverged": self.num_diverged,
            **({} if self.cameras is None else {"cameras": self.cameras.get_state()}),
            **{name: getattr(self, f"_{name}").copy() for name in _STATE_ARRAYS},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what ``get_state`` returned, in an environment made with the same options.

        Raises:
            ValueError: the state is damaged, or of an environment with other options; nothing was changed.
        """
        if not isinstance(state, dict) or not isinstance(state.get("options"), dict):
            raise ValueError(f"set_state needs what get_state() returned, got {type(state).__name__}")
        mine, theirs = self._state_options(), _BEFORE | state["options"]
        differing = [f"{key} was {theirs.get(key)!r}, is {mine[key]!r}" for key in mine if theirs.get(key) != mine[key]]
        if differing:
            raise ValueError(
                f"this state is of an environment with other options ({'; '.join(differing)}): make the environment "
                "with the options it was saved with"
            )
        # Everything is checked before anything is changed.
        sims, physics = self.simulations, state.get("simulations")
        rows = check_state_array(physics, "rows", sims.batch.state)
        terrain_ids = check_state_array(physics, "terrain_ids", sims.terrain_ids, 0, sims.num_terrains - 1)
        not_started = "streams" in state and np.shape(state["streams"])[:1] == (0,)
        words = np.empty((0 if not_started else self.num_envs, WORDS), np.int64)
        streams = unpack_streams(check_state_array(state, "streams", words))
        arrays = {name: check_state_array(state, name, getattr(self, f"_{name}")) for name in _STATE_ARRAYS}
        images = None if self.cameras is None else self.cameras.check_state(state.get("cameras"))
        num_diverged = state.get("num_diverged")
        if isinstance(num_diverged, bool) or not isinstance(num_diverged, int) or num_diverged < 0:
            raise ValueError(f"state 'num_diverged' is {num_diverged!r}, expected a count: it is damaged")

        sims.set_state({"rows": rows, "terrain_ids": terrain_ids})
        self._streams, self._seeds = streams, [-1] * len(streams)
        self.num_diverged = num_diverged
        for name, array in arrays.items():
            getattr(self, f"_{name}")[:] = array
        if self.cameras is not None and images is not None:
            self.cameras.set_state(images)
        self._robots = sims.robot_state()

    def _state_options(self) -> dict[str, Any]:
        """What must be equal for a state to mean the same."""
        options = {name: getattr(self, name) for name in _STATE_OPTIONS}
        sizes = {"num_terrains": self.simulations.num_terrains, "row": int(self.simulations.batch.state.shape[1])}
        if self.cameras is not None:
            options["cameras"] = self.cameras.state_options()
        return options | sizes | {"goal": self.goal.tolist(), "physics": physics_digest(self.simulations.model)}

    def _check_open(self) -> None:
        """Refuse a closed environment: the contact physics may have been exchanged since, and a window would return."""
        if self.closed:
            raise gym.error.ClosedEnvironmentError("this environment is closed: make a new one")

    # -- Episodes and infos -------------------------------------------------------------------------------------------

    def _start_episodes(
        self, ids: NDArray[Any], stagger: bool = False, terrains: NDArray[np.int64] | None = None
    ) -> None:
        """New episodes for these simulations, each drawn from its own stream; terrains, if any, is for all of them."""
        for i in ids:
            stream = self._streams[i]
            terrain = int(stream.integers(self.simulations.num_terrains))  # drawn anyway: the stream goes on alike
            if terrains is not None:
                terrain = int(terrains[i])
            yaw, radius, axis, speed, heading = stream.random(5).tolist()
            speed, heading = self.initial_speed * np.sqrt(speed), 2 * np.pi * heading
            self.simulations.place(
                int(i),
                terrain,
                yaw=2 * np.pi * yaw if self.random_yaw else 0.0,
                tilt=np.radians(self.initial_tilt_deg) * np.sqrt(radius),  # evenly over the cone's disc
                tilt_axis=2 * np.pi * axis,
                velocity=(speed * np.cos(heading), speed * np.sin(heading)),
            )
            limit = self.max_episode_steps
            self._time_limit[i] = stream.integers(1, limit, endpoint=True) if stagger else limit
        self._elapsed[ids] = 0
        self._actions[ids] = 0.0
        self._term_sums[:, ids] = 0.0
        self._robots = self.simulations.robot_state()
        observations = self._observe(self._robots, self.goal, self._actions)
        self._obs[ids] = observations[ids]
        if self.cameras is not None:
            self.cameras.take(ids, self._robots)

    def _make_observation_space(self) -> gym.spaces.Space[Any]:
        def box(*shape: int, low: float = -np.inf, high: float = np.inf) -> gym.spaces.Box:
            return gym.spaces.Box(low, high, shape, np.float32)

        size = OBSERVATION_SIZES[self.frame]
        if self.cameras is None:
            return box(size)
        if self.observation == "encoded":
            return box(size + self.cameras.shape[0] + 1)
        depth = box(*self.cameras.shape, low=0.0, high=1.0)
        return gym.spaces.Dict({"proprioception": box(size), "depth": depth, "image_age": box(1, low=0.0)})

    def _observation(self) -> Observation:
        """What the robots sense now: arrays that are the caller's to change."""
        if self.cameras is None:
            return self._obs.copy()
        age = self.cameras.age[:, None]
        if self.observation == "encoded":
            return np.concatenate([self._obs, self.cameras.latest, age], axis=1)
        return {"proprioception": self._obs.copy(), "depth": self.cameras.latest.copy(), "image_age": age}

    def _infos(
        self,
        robots: RobotState,
        success: Bools | None = None,
        failure: Bools | None = None,
        out_of_bounds: Bools | None = None,
        diverged: Bools | None = None,
    ) -> dict[str, Any]:
        infos: dict[str, Any] = {
            "position": robots.position[:2].T.copy(),
            "tilt_deg": np.degrees(np.arccos(np.clip(robots.rotation[2, 2], -1.0, 1.0))),
            "terrain_id": self.simulations.terrain_ids.copy(),
            "success": self._none.copy() if success is None else success,
            "failure": self._none.copy() if failure is None else failure,
            "out_of_bounds": self._none.copy() if out_of_bounds is None else out_of_bounds,
            "diverged": self._none.copy() if diverged is None else diverged,
            "reward_terms": dict(zip(REWARD_TERMS, self._term_sums.copy(), strict=True)),
        }
        return _masked(infos, np.ones(self.num_envs, bool))


_BEFORE = {
    "action_repeat": 1,
    "target_speed": None,
    "progress_weight": 1.0,
    "action_limit": 1.0,
    "terrain_length": TERRAIN_LENGTH,
}
"""Options that states of older versions do not name, and what they were then."""
_STATE_OPTIONS = (
    "num_envs",
    "terrain",
    "terrain_split",
    "terrain_seed",
    "observation",
    "frame",
    "integrator",
    "max_episode_steps",
    "tilt_limit_deg",
    "initial_tilt_deg",
    "initial_speed",
    "random_yaw",
    "contact_fix",
    *_BEFORE,
)
_STATE_ARRAYS = ("elapsed", "time_limit", "actions", "term_sums", "obs")


def one_of(observations: Observation, i: int) -> Observation:
    """The observation of simulation i."""
    if isinstance(observations, dict):
        return {name: array[i] for name, array in observations.items()}
    return observations[i]


def _joined(earlier: StepResult, later: StepResult) -> StepResult:
    """Two steps as one: the second does not count for simulations whose episode the first one ended."""
    observations, rewards, terminated, truncated, infos = earlier
    ended = terminated | truncated
    new_observations, new_rewards, new_terminated, new_truncated, new_infos = later
    if ended.any():
        new_observations = _rows(ended, observations, new_observations)
        new_infos = _rows(ended, infos, new_infos)
    return (
        new_observations,
        rewards + np.where(ended, 0.0, new_rewards),
        np.where(ended, terminated, new_terminated),
        np.where(ended, truncated, new_truncated),
        new_infos,
    )


def _rows(mask: Bools, these: Any, others: Any) -> Any:
    """Rows of arrays, or of all arrays in a dict: these where the mask is set, the others elsewhere."""
    if isinstance(these, dict):
        return {name: _rows(mask, these[name], others[name]) for name in these}
    return np.where(mask.reshape(-1, *(1,) * (these.ndim - 1)), these, others)


def _masked(infos: dict[str, Any], mask: Bools) -> dict[str, Any]:
    """Gymnasium's vector infos: beside every key, "_key" tells which simulations it holds for (each a copy)."""
    masked: dict[str, Any] = {}
    for key, value in infos.items():
        if not key.startswith("_"):
            masked[key] = _masked(value, mask) if isinstance(value, dict) else value
            masked[f"_{key}"] = mask.copy()
    return masked


def _use_contact_physics(fix: bool) -> None:
    """Install and verify the contact fix, or remove it.

    MuJoCo's collision table is one per process, so environments with and without it cannot be open at the same time.
    """
    if any(env.contact_fix != fix and not env.closed for env in _open_envs):
        raise ValueError(
            f"contact_fix={fix}, but an environment with contact_fix={not fix} is open in this process, and MuJoCo's "
            "collision table is shared: close that one first"
        )
    if fix:
        mujoco_patch.ensure()
    else:
        mujoco_patch.uninstall()
        gym.logger.warn("contact_fix=False: the wheels' friction acts along arbitrary directions; no policy can learn")
