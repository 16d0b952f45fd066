"""``BallbotVectorEnv``: many ballbots at once, close to the speed of MuJoCo itself.

The simulations live in one ``mujoco.batch.Batch``: a row of state each, stepped by a thread pool with the GIL released.
Everything around the physics (observations, rewards, endings, resets) is NumPy on whole arrays, computed from the state
rows, so nothing lags and no derived field has to be copied out.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, Literal

import gymnasium as gym
import mujoco
import mujoco_patch
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from mujoco.batch import Batch, SimulationError
from numpy.typing import ArrayLike, NDArray

from ballbot.envs import rewards
from ballbot.envs.model import INTEGRATORS, Layout, build_model, settled_poses
from ballbot.envs.observations import OBSERVATION_SIZES, OBSERVE, RobotState, rotation_matrix
from ballbot.envs.rendering import Renderer
from ballbot.envs.terrain import SPLITS, TERRAIN_LENGTH, make_terrain

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

MOTOR_TORQUE = -10.0
"""N m on a wheel's axle per unit of action (the reference's sign)."""
EDGE_MARGIN = 0.15
"""m: the ball's radius and the lean of the base at the tilt limit; nearer to the edge the robot counts as off it."""
MAX_PLAUSIBLE_SPEED = 1e3
"""m/s and rad/s.  Full torque spins a free wheel at 12.5 rad/s: a thousand is a broken simulation, not a fast robot."""
REWARD_TERMS = ("progress", "survival", "action_cost")
TERRAINS = ("perlin", "flat")
MAX_NUM_ENVS = 1_000_000

_without_fix: weakref.WeakSet[BallbotVectorEnv] = weakref.WeakSet()
_with_fix: weakref.WeakSet[BallbotVectorEnv] = weakref.WeakSet()


class BallbotVectorEnv(VectorEnv[NDArray[np.float32], NDArray[Any], NDArray[Any]]):
    """``num_envs`` ballbots that learn to travel along a goal direction without falling.

    **Actions**, (num_envs, 3) floats in [-1, 1]: action a applies a torque of -10 a N m to each wheel's axle for one
    step of 2 ms (500 Hz).  Finite actions outside the range are clipped.

    **Observations**, (num_envs, 17 or 15) float32: see the tables in ``ballbot.envs.observations``.

    **Rewards**, float64: see ``ballbot.envs.rewards``.

    **Endings.**  Terminated: the base tilts more than ``tilt_limit_deg``.  Truncated: ``max_episode_steps`` steps, the
    robot leaves the terrain, or its simulation diverged.  A simulation that diverged (MuJoCo warning, non-finite or
    implausible state) ends only its own episode; its final observation is the last sound one, its last reward is 0,
    and ``num_diverged`` counts it.

    **Autoreset** is SAME_STEP by Gymnasium's rules: the step that ends an episode returns the next one's first
    observation, and ``infos["final_obs"]``, ``infos["final_info"]`` hold the ended one's last.

    **Infos**, arrays over simulations: ``position`` (x, y of the base, m), ``tilt_deg``, ``terrain_id``, ``success``
    (reached the time limit), ``failure`` (fell), ``out_of_bounds``, ``diverged``, and ``reward_terms``: a dict of each
    reward term summed over the episode so far.

    **Seeds.**  Every simulation has its own random stream; ``reset(seed=s)`` seeds simulation i with s + i, so that
    simulation i equals ``BallbotEnv`` after ``reset(seed=s + i)``.

    Args:
        num_envs: how many simulations.
        terrain: "perlin" (10 m x 10 m of simplex noise, 0.1 m high, a new one each episode) or "flat" (an endless
            plane).
        observation: "proprioception".
        frame: "body" or "world", the axes of the observation.
        max_episode_steps: time limit, steps of 2 ms.
        integrator: "Euler", "implicitfast" or "RK4" (the reference's, four times slower; docs/integrators.md).
        num_threads: threads that step the simulations; 0 takes every CPU this process may use.  Results do not depend
            on it.
        num_terrains: height fields held in memory (0.34 MB each), one drawn per episode.
        terrain_split: "train" or "eval": disjoint sets of terrains.
        terrain_seed: base seed of the terrains.
        random_yaw: draw the heading at reset; else the robot starts with its x axis along the world's.
        initial_tilt_deg: the tilt at reset is drawn evenly from a cone of this half-angle, degrees.
        tilt_limit_deg: a larger tilt is a fall, degrees.
        goal: direction of travel in the world, (x, y); normalised.
        stagger_first_episodes: shorten each simulation's first episode by a random amount, so that time-outs do not all
            come at once.
        contact_fix: False runs on stock MuJoCo's misaligned contacts, to show what happens (experiments only).
        render_mode: "rgb_array", "human" (MuJoCo's viewer, simulation 0) or None.

    Raises:
        ValueError: an unknown option value or an impossible number.
        mujoco_patch.ContactFixError: the contact physics cannot be proved right here; the message says what to do.
    """

    metadata: dict[str, Any] = {
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
        random_yaw: bool = True,
        initial_tilt_deg: float = 1.0,
        tilt_limit_deg: float = 20.0,
        goal: tuple[float, float] = (0.0, 1.0),
        stagger_first_episodes: bool = False,
        contact_fix: bool = True,
        render_mode: Literal["rgb_array", "human"] | None = None,
    ) -> None:
        _check_choice("terrain", terrain, TERRAINS)
        _check_choice("observation", observation, ("proprioception",))
        _check_choice("frame", frame, tuple(OBSERVE))
        _check_choice("integrator", integrator, tuple(INTEGRATORS))
        _check_choice("terrain_split", terrain_split, tuple(SPLITS))
        _check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        self.num_envs = _check_count("num_envs", num_envs, 1, MAX_NUM_ENVS)
        self.max_episode_steps = _check_count("max_episode_steps", max_episode_steps, 1, 10**9)
        _check_count("num_terrains", num_terrains, 1, 4096)
        _check_count("terrain_seed", terrain_seed, 0, 2**63)
        _check_count("num_threads", num_threads, 0, 1024)
        self.initial_tilt = np.radians(_check_range("initial_tilt_deg", initial_tilt_deg, 0.0, 90.0))
        self.tilt_limit_deg = _check_range("tilt_limit_deg", tilt_limit_deg, 0.1, 180.0)
        self.goal = _unit_vector("goal", goal)
        self.terrain, self.observation, self.frame, self.terrain_split = terrain, observation, frame, terrain_split
        self.integrator, self.random_yaw, self.render_mode = integrator, bool(random_yaw), render_mode
        self.stagger_first_episodes = bool(stagger_first_episodes)
        self.num_diverged = 0
        """Simulations that diverged since construction."""

        self._use_contact_physics(contact_fix)
        heights = None
        if terrain == "perlin":
            ids = range(num_terrains)
            heights = np.stack([make_terrain(k, split=terrain_split, seed=terrain_seed) for k in ids])
        self.heights = heights
        """(num_terrains, 293, 293) heights in [0, 1], or None for a plane."""
        self.model = build_model(heights, integrator=integrator)
        self._poses = settled_poses(self.model)
        self._layout = layout = Layout.of(self.model)
        self.dt = float(self.model.opt.timestep)
        """Seconds a step."""

        threads = num_threads or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [0])
        self.num_threads = min(threads, self.num_envs)
        self.batch = Batch(self.model, self.num_envs, self.num_threads)
        self._qpos, self._qvel, self._ctrl = (self.batch.bind(name) for name in ("qpos", "qvel", "ctrl"))
        self._terrain_of = self.batch.expand("geom_dataid")[:, layout.ground_geom] if heights is not None else None
        self._fresh_row = self.batch.state[0].copy()  # time, velocities, controls and warm start of a new simulation
        self._base, self._spin = layout.base_qpos, layout.base_qvel

        n = self.num_envs
        self._rngs: list[np.random.Generator] = []
        self._terrain_ids = np.zeros(n, np.int64)
        self._elapsed = np.zeros(n, np.int64)
        self._time_limit = np.full(n, self.max_episode_steps)
        self._actions = np.zeros((n, 3))
        self._term_sums = np.zeros((len(REWARD_TERMS), n))
        self._obs = np.zeros((n, OBSERVATION_SIZES[frame]), np.float32)
        self._all = np.ones(n, bool)
        self._observe = OBSERVE[frame]
        self._renderer: Renderer | None = None

        size = OBSERVATION_SIZES[frame]
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.single_action_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, n)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, n)

    # -- Gymnasium's interface ----------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start new episodes.

        Args:
            seed: simulation i is seeded with seed + i, or with seed[i]; None keeps the streams as they are.
            options: ``{"reset_mask": (num_envs,) bool array}`` resets those simulations only.

        Returns:
            (num_envs, size) float32 observations, and infos.
        """
        mask = self._reset_mask(options)
        self._seed(seed, mask)
        ids = np.flatnonzero(mask)
        if self.stagger_first_episodes:
            for i in ids:
                self._time_limit[i] = self._rngs[i].integers(1, self.max_episode_steps, endpoint=True)
        else:
            self._time_limit[ids] = self.max_episode_steps
        self._reset_simulations(ids)
        state = self._robot_state()
        self._obs = self._observe(state, self.goal, self._actions)
        none = np.zeros(self.num_envs, bool)
        return self._obs.copy(), self._infos(state, none, none, none, none)

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], Bools, Bools, dict[str, Any]]:
        """Advance every simulation by one step of ``dt`` seconds.

        Args:
            actions: (num_envs, 3) finite floats; clipped to [-1, 1].

        Returns:
            observations (num_envs, size) float32, rewards (num_envs,) float64, terminated and truncated (num_envs,)
            bool, and infos.

        Raises:
            ValueError, TypeError: actions of another shape or dtype, or not finite; nothing was stepped.
        """
        observations, reward, terminated, truncated, infos = self._advance(actions)
        done = terminated | truncated
        if done.any():
            final_obs = np.full(self.num_envs, None, dtype=object)
            ids = np.flatnonzero(done)
            for i in ids:
                final_obs[i] = observations[i].copy()
            final_info = infos
            self._time_limit[ids] = self.max_episode_steps
            self._reset_simulations(ids)
            state = self._robot_state()
            self._obs = observations = self._observe(state, self.goal, self._actions)
            none = np.zeros(self.num_envs, bool)
            infos = self._infos(state, none, none, none, none)
            infos |= {"final_obs": final_obs, "_final_obs": done, "final_info": final_info, "_final_info": done.copy()}
            for key, value in final_info.items():
                if key.startswith("_"):
                    final_info[key] = done.copy()
                elif isinstance(value, dict):
                    value.update({name: done.copy() for name in value if name.startswith("_")})
        return observations.copy(), reward, terminated, truncated, infos

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:  # type: ignore[override]
        """One (480, 640, 3) uint8 picture a simulation in "rgb_array" mode; the viewer is updated in "human" mode.

        Raises:
            RuntimeError: no OpenGL or no display, with what to install or set.
        """
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode: pass render_mode='rgb_array' or 'human'.")
            return None
        if self._renderer is None:
            self._renderer = Renderer(self.render_mode, self.integrator)
        sims = range(self.num_envs) if self.render_mode == "rgb_array" else range(1)
        frames = [self._renderer.draw(self._height_field(i), self._qpos[i], self._qvel[i]) for i in sims]
        return tuple(f for f in frames if f is not None) if self.render_mode == "rgb_array" else None

    def close_extras(self, **kwargs: Any) -> None:
        """Close the viewer, if any."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    # -- Exact state --------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Everything that decides the future: arrays and plain types only, so that it can go into a checkpoint."""
        generators = np.array([_pack_generator(rng) for rng in self._rngs], np.uint64)
        return {
            "layout": self._state_layout(),
            "simulations": self.batch.state.copy(),
            "terrain_ids": self._terrain_ids.copy(),
            "generators": generators.view(np.int64),  # torch stores int64 in every version
            "elapsed": self._elapsed.copy(),
            "time_limit": self._time_limit.copy(),
            "actions": self._actions.copy(),
            "reward_terms": self._term_sums.copy(),
            "observations": self._obs.copy(),
            "num_diverged": self.num_diverged,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what ``get_state`` returned, in an environment made with the same options.

        Raises:
            ValueError: the state is of another layout; nothing was changed.
        """
        if not isinstance(state, dict) or "layout" not in state:
            raise ValueError("set_state needs what get_state() returned, got " + type(state).__name__)
        mine, theirs = self._state_layout(), dict(state["layout"])
        differing = [f"{k}: {theirs.get(k)!r} here {mine[k]!r}" for k in mine if theirs.get(k) != mine[k]]
        if differing:
            raise ValueError(
                "this state is of another environment layout (" + "; ".join(differing) + "): make the environment with "
                "the options it was saved with"
            )
        expected = {name: value for name, value in self.get_state().items() if isinstance(value, np.ndarray)}
        arrays = {}
        for name, like in expected.items():
            arrays[name] = np.asarray(state.get(name))
            rows_of_generators = name == "generators" and arrays[name].shape in ((self.num_envs, 6), (0,))
            if arrays[name].shape != like.shape and not rows_of_generators:
                raise ValueError(f"state[{name!r}] has shape {arrays[name].shape}, expected {like.shape}")
        self.batch.state[:] = arrays["simulations"]
        self._terrain_ids[:] = arrays["terrain_ids"]
        if self._terrain_of is not None:
            self._terrain_of[:] = self._terrain_ids
        packed = np.ascontiguousarray(arrays["generators"], np.int64).view(np.uint64)
        self._rngs = [_unpack_generator(row) for row in packed]
        self._elapsed[:], self._time_limit[:] = arrays["elapsed"], arrays["time_limit"]
        self._actions[:], self._term_sums[:] = arrays["actions"], arrays["reward_terms"]
        self._obs = arrays["observations"].astype(np.float32)
        self.num_diverged = int(state["num_diverged"])

    def _state_layout(self) -> dict[str, Any]:
        return {
            "num_envs": self.num_envs,
            "terrain": self.terrain,
            "terrain_split": self.terrain_split,
            "num_terrains": len(self._poses),
            "observation": self.observation,
            "frame": self.frame,
            "state_size": int(self.batch.state.shape[1]),
        }

    # -- One step and one reset, shared with BallbotEnv -----------------------------------------------------------------

    def _advance(
        self, actions: ArrayLike
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], Bools, Bools, dict[str, Any]]:
        """``step`` without the autoreset."""
        if not self._rngs:
            raise gym.error.ResetNeeded("call reset() before step()")
        self._actions = self._checked_actions(actions)
        np.multiply(self._actions, MOTOR_TORQUE, out=self._ctrl)
        diverged = self._step_physics()
        self._elapsed += 1

        state = self._robot_state()
        observations = self._observe(state, self.goal, self._actions)
        terminated = state.rotation[2, 2] < self._upright_limit
        terms = (
            rewards.progress(state.velocity[:2], self.goal),
            rewards.survival(terminated),
            rewards.action_cost(self._actions),
        )
        reward = terms[0] + terms[1] + terms[2]
        success = (self._elapsed >= self._time_limit) & ~terminated
        out_of_bounds = self._off_terrain() & ~terminated
        if diverged is not None:
            reward[diverged] = 0.0
            for term in terms:
                term[diverged] = 0.0
            observations[diverged] = self._obs[diverged]  # the last sound ones
            for flag in (terminated, success, out_of_bounds):
                flag[diverged] = False
        self._term_sums += terms
        truncated = success | out_of_bounds
        if diverged is not None:
            truncated |= diverged
        self._obs = observations
        no = np.zeros(self.num_envs, bool)
        infos = self._infos(state, success, terminated.copy(), out_of_bounds, no if diverged is None else diverged)
        return observations, reward, terminated, truncated, infos

    def _step_physics(self) -> Bools | None:
        """Step the batch; the mask of simulations that diverged, or None."""
        failed: NDArray[Any] | None = None
        try:
            self.batch.step()
        except SimulationError as error:  # MuJoCo raised in these: they kept their state, the others ran
            failed = error.ids
        # Any MuJoCo warning counts.  MuJoCo resets a simulation whose state went bad, so its state may look sound.
        warned = self.batch.warning.any()
        # NaN compares false, so it counts as too fast
        sound = np.abs(self._qvel).max(axis=1) <= MAX_PLAUSIBLE_SPEED
        if failed is None and not warned and sound.all() and np.isfinite(self._qpos).all():
            return None
        diverged = ~sound | ~np.isfinite(self._qpos).all(axis=1) | self.batch.warning.reshape(self.num_envs, -1).any(1)
        if failed is not None:
            diverged[failed] = True
        self.batch.warning[:] = 0
        self.num_diverged += int(diverged.sum())
        # A sound state, so that nothing non-finite is computed from it before its reset
        self.batch.state[diverged] = self._fresh_row
        return diverged

    def _reset_simulations(self, ids: NDArray[Any]) -> None:
        """New episodes for these simulations, each drawn from its own stream."""
        layout, base, ball = self._layout, self._base, self._layout.ball_qpos
        self.batch.state[ids] = self._fresh_row
        for i in ids:
            rng = self._rngs[i]
            terrain = int(rng.integers(len(self._poses)))
            draw = rng.random(3)
            pose = self._poses[terrain].copy()
            yaw = 2 * np.pi * draw[0] if self.random_yaw else 0.0
            # evenly over the cone's disc, about a horizontal axis
            tilt, axis = self.initial_tilt * np.sqrt(draw[1]), 2 * np.pi * draw[2]
            sin, cos = np.sin(tilt / 2), np.cos(tilt / 2)
            lean = np.array([cos, sin * np.cos(axis), sin * np.sin(axis), 0.0])
            turn = np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])
            # The whole robot leans about the ball's centre, so that the wheels stay on the ball as settled
            arm = pose[base : base + 3] - pose[ball : ball + 3]
            mujoco.mju_mulQuat(pose[base + 3 : base + 7], lean, turn)
            mujoco.mju_rotVecQuat(pose[base : base + 3], arm, lean)
            pose[base : base + 3] += pose[ball : ball + 3]
            self._qpos[i] = pose
            self._terrain_ids[i] = terrain
        if self._terrain_of is not None:
            self._terrain_of[ids] = self._terrain_ids[ids]
        assert layout is self._layout
        self._elapsed[ids] = 0
        self._actions[ids] = 0.0
        self._term_sums[:, ids] = 0.0

    def _robot_state(self) -> RobotState:
        qpos, qvel = self._qpos.T.copy(), self._qvel.T.copy()  # one row a quantity: fast to compute with
        base, spin = self._base, self._spin
        quaternion = qpos[base + 3 : base + 7]
        return RobotState(
            quaternion=quaternion,
            rotation=rotation_matrix(quaternion),
            velocity=qvel[spin : spin + 3],
            gyro=qvel[spin + 3 : spin + 6],
            wheel_speeds=qvel[list(self._layout.wheel_qvel)],
        )

    def _off_terrain(self) -> Bools:
        if self.heights is None:
            return np.zeros(self.num_envs, bool)
        return np.abs(self._qpos[:, self._base : self._base + 2]).max(axis=1) > TERRAIN_LENGTH / 2 - EDGE_MARGIN

    def _infos(
        self, state: RobotState, success: Bools, failure: Bools, out_of_bounds: Bools, diverged: Bools
    ) -> dict[str, Any]:
        infos: dict[str, Any] = {
            "position": self._qpos[:, self._base : self._base + 2].copy(),
            "tilt_deg": np.degrees(np.arccos(np.clip(state.rotation[2, 2], -1.0, 1.0))),
            "terrain_id": self._terrain_ids.copy(),
            "success": success,
            "failure": failure,
            "out_of_bounds": out_of_bounds,
            "diverged": diverged,
        }
        terms = dict(zip(REWARD_TERMS, self._term_sums.copy(), strict=True))
        infos["reward_terms"] = terms | {f"_{name}": self._all for name in REWARD_TERMS}
        return infos | {f"_{key}": self._all for key in infos}

    def _height_field(self, sim: int) -> NDArray[np.float32] | None:
        return None if self.heights is None else self.heights[self._terrain_ids[sim]]

    # -- Checks ---------------------------------------------------------------------------------------------------------

    def _checked_actions(self, actions: ArrayLike) -> Array:
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs, 3):
            raise ValueError(
                f"actions have shape {actions.shape}, expected ({self.num_envs}, 3): one row a simulation, one column a "
                "motor"
            )
        if actions.dtype.kind != "f":
            raise TypeError(f"actions have dtype {actions.dtype}, expected floats in [-1, 1]: use .astype(np.float32)")
        if not np.isfinite(actions).all():
            bad = np.flatnonzero(~np.isfinite(actions).all(axis=1))
            raise ValueError(
                f"actions of simulations {bad[:5].tolist()} are not finite, the first is {actions[bad[0]].tolist()}: "
                "the policy has probably diverged; nothing was stepped"
            )
        return np.clip(actions, -1.0, 1.0, dtype=np.float64)

    def _reset_mask(self, options: dict[str, Any] | None) -> Bools:
        unknown = set(options or {}) - {"reset_mask"}
        if unknown:
            raise ValueError(f"unknown reset option {sorted(unknown)[0]!r}: the only one is 'reset_mask'")
        mask = (options or {}).get("reset_mask")
        if mask is None:
            return self._all
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(
                f"options['reset_mask'] must be a ({self.num_envs},) bool array with at least one True, got "
                f"{mask.dtype} {mask.shape}"
            )
        if not self._rngs and not mask.all():
            raise gym.error.ResetNeeded("the first reset() must reset every simulation: leave reset_mask out")
        return mask

    def _seed(self, seed: int | list[int | None] | None, mask: Bools) -> None:
        if isinstance(seed, (int, np.integer)):
            _check_count("seed", int(seed), 0, 2**63)
            self._np_random_seed = int(seed)
            seeds: list[int | None] = [int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = [None] * self.num_envs if seed is None else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed has {len(seeds)} entries, expected one for each of the {self.num_envs} simulations")
        if not self._rngs:
            self._rngs = [np.random.Generator(np.random.PCG64(s)) for s in seeds]
            return
        for i in np.flatnonzero(mask):
            if seeds[i] is not None:
                self._rngs[i] = np.random.Generator(np.random.PCG64(seeds[i]))

    def _use_contact_physics(self, contact_fix: bool) -> None:
        """The collision table is one per process: environments with and without the fix cannot be mixed."""
        others = [env for env in (_without_fix if contact_fix else _with_fix) if not env.closed]
        if others:
            raise ValueError(
                f"contact_fix={contact_fix} here, but an open environment of this process has contact_fix="
                f"{not contact_fix}, and MuJoCo's collision table is shared: close that one first"
            )
        if contact_fix:
            mujoco_patch.ensure()
        else:
            mujoco_patch.uninstall()
            gym.logger.warn("contact_fix=False: the wheels' friction acts along arbitrary directions; no policy learns.")
        (_with_fix if contact_fix else _without_fix).add(self)
        self._upright_limit = np.cos(np.radians(self.tilt_limit_deg))


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown: use one of {', '.join(map(repr, choices))}")


def _check_count(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}={value!r} must be an integer, got {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name}={value} is out of range: use {low} to {high}")
    return int(value)


def _check_range(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name}={value!r} must be a number, got {type(value).__name__}")
    if not low <= value <= high:  # NaN fails too
        raise ValueError(f"{name}={value} is out of range: use {low} to {high}")
    return float(value)


def _unit_vector(name: str, value: Any) -> Array:
    vector = np.asarray(value, np.float64)
    length = np.linalg.norm(vector) if vector.shape == (2,) else np.nan
    if not (np.isfinite(length) and length > 0):
        raise ValueError(f"{name}={value!r} must be two finite numbers, not both zero: the direction (x, y)")
    return np.asarray(vector / length)


_WORD = 2**64


def _pack_generator(rng: np.random.Generator) -> list[int]:
    """The whole state of a PCG64 generator in six 64-bit words."""
    state: Any = rng.bit_generator.state
    value, increment = state["state"]["state"], state["state"]["inc"]
    return [value // _WORD, value % _WORD, increment // _WORD, increment % _WORD, state["has_uint32"], state["uinteger"]]


def _unpack_generator(words: NDArray[np.uint64]) -> np.random.Generator:
    high, low, increment_high, increment_low, has_uint32, uinteger = (int(w) for w in words)
    generator = np.random.PCG64()
    generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": high * _WORD + low, "inc": increment_high * _WORD + increment_low},
        "has_uint32": has_uint32,
        "uinteger": uinteger,
    }
    return np.random.Generator(generator)
