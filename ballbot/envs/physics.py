"""The physics: many ballbots in one ``mujoco.batch.Batch``, each on a terrain of its own.

Simulation i is a row of state.  Reading the rows costs nothing and is always current, whereas MuJoCo's derived fields
lag one step behind; so everything above this file is computed from ``RobotState``, never from derived fields.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
from mujoco.batch import Batch, SimulationError
from numpy.typing import NDArray

from ballbot.cpus import usable_cpus
from ballbot.envs.checks import check_state_array
from ballbot.envs.family import Family
from ballbot.envs.mechanics import Mechanics
from ballbot.envs.model import Addresses, build_model, settled_poses
from ballbot.envs.randomize import TOLD, Parts, Randomizer
from ballbot.envs.rig import CameraRig
from ballbot.envs.shell import shell_of
from ballbot.envs.step import RobotState, rotation_matrix, turned
from ballbot.envs.terrain import TerrainPool

if TYPE_CHECKING:
    from ballbot.envs.robots import Robot

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

MOST_LEAN = np.radians(20.0)
"""rad, of the robot at the edge of its ground."""
MAX_PLAUSIBLE_SPEED = 1e3
"""m/s and rad/s.  Full torque spins the reference's free wheels at 12.5 rad/s: a thousand is a broken simulation, not a
fast robot."""


class Physics:
    """``num`` robots, stepped together.

    Args:
        num: how many simulations.
        ground: what they stand on, a field each.
        integrator: see ``ballbot.envs.model.INTEGRATORS``.
        num_threads: threads that step them; 0 takes every CPU this process may use.
        rig: their cameras; None: those of the reference.
        robot: how they are made, or of a family how each is, one of which each episode has; None: as the reference.
        ranges: what differs from episode to episode, see ``ballbot.envs.randomize``.
    """

    def __init__(
        self,
        num: int,
        ground: TerrainPool,
        *,
        integrator: str,
        num_threads: int,
        rig: CameraRig | None = None,
        robot: Robot | Sequence[Robot] | None = None,
        ranges: Mapping[str, tuple[float, float]] = MappingProxyType({}),
    ) -> None:
        robots = tuple(robot) if isinstance(robot, Sequence) else (robot,)
        self.ground, self.rig, self.robot = ground, rig, robots[0]
        self.num = num
        self.model = build_model(
            ground.relief, integrator=integrator, tops=ground.tops, length=ground.grid.length, rig=rig, robot=robots[0]
        )
        """The first robot's."""
        self.planes = [build_model(integrator=integrator, rig=rig, robot=one) for one in robots[1:]]
        """The same robots on a plane, where their wheels can be measured whatever the ground is like."""
        first = self.model if ground.relief is None else build_model(integrator=integrator, rig=rig, robot=robots[0])
        self.planes.insert(0, first)
        self.family = Family(self.planes) if len(robots) > 1 else None
        threads = num_threads or usable_cpus()
        counts = [len(spawns) for spawns in ground.spawns]
        ids = np.repeat(np.arange(len(counts)), counts)
        heights = ground.heights(ids, np.concatenate(ground.spawns))
        self._poses = [
            settled_poses(self.model_of(robot), ground.spawns, heights, threads) for robot in range(len(robots))
        ]
        """Of each robot and terrain (spawns, nq) upright poses at rest."""
        self.each = [Mechanics.of(plane) for plane in self.planes]
        """What follows from each robot."""
        self.mechanics = self.each[0] if self.family is None else Mechanics.side_by_side([self.each[0]] * num)
        """The same of each simulation's."""
        self.shells = [shell_of(plane) for plane in self.planes]
        self.shell = self.shells[0]
        """(3, k) points in the base where robots can touch the ground, beside the ball; of a family (3, num, k)."""
        if self.family is not None:
            most = max(shell.shape[1] for shell in self.shells)
            self.shells = [np.pad(shell, [(0, 0), (0, most - shell.shape[1])], mode="edge") for shell in self.shells]
            self.shell = np.repeat(self.shells[0][:, None], num, axis=1)
        self._half_length = np.inf if ground.relief is None else ground.grid.half
        self.addresses = Addresses.of(self.model)
        threads = min(threads, num)
        self.batch = Batch(self.model, num, threads)
        self._process = os.getpid() if threads > 1 else None
        self.terrain_ids = np.zeros(num, np.int64)
        """(num,) index of each simulation's terrain in the pool."""
        self.robot_ids = np.zeros(num, np.int64)
        """(num,) index of each simulation's robot in the family."""
        if self.family is not None:
            self.family.expand(self.batch)
        self.randomizer: Randomizer | None = None
        """Of what differs from episode to episode; None: nothing does."""
        if ranges:
            self.randomizer = Randomizer(ranges, [self.model_of(robot) for robot in range(len(robots))], self.batch)
        self.qpos, self.qvel = self.batch.bind("qpos"), self.batch.bind("qvel")  # live views of the state rows
        self._ctrl = self.batch.bind("ctrl")
        self._blown: NDArray[Any] | None = None
        """(num, 6) N and N m along the world's axes on the bodies, where wind blows, pushes come or hands hold."""
        if self.randomizer is not None and self.randomizer.pushes:
            self._blown = self.batch.bind("xfrc_applied")[:, self.model.body("base").id]
        self._warnings = self.batch.warning.reshape(num, -1)
        self._shown: NDArray[Any] | None = None
        if ground.relief is not None:
            self._shown = self.batch.expand("geom_dataid")[:, self.addresses.ground_geom]
        self._parts = [Parts.of(plane) for plane in self.planes]
        self._as_meant = [
            parts.balance(plane.body_mass, plane.body_ipos)
            for parts, plane in zip(self._parts, self.planes, strict=True)
        ]
        """Of each robot (2,) where it balances, if nothing differs."""
        self.balance = np.repeat(self._as_meant[0][:, None], num, axis=1)
        """(2, num) where gravity points, along the base's x and y, when all that is on the ball is right above it."""
        self._slackens = any(np.isfinite(one.no_load_speed) for one in self.each)
        # time, velocities, controls and solver warm start of a new simulation
        self._fresh_row = self.batch.state[0].copy()

    @property
    def plane(self) -> mujoco.MjModel:
        """The first robot on a plane."""
        return self.planes[0]

    @property
    def num_terrains(self) -> int:
        """Size of the pool; 1 for a plane."""
        return len(self.ground)

    @property
    def num_robots(self) -> int:
        """Size of the family."""
        return len(self.planes)

    def model_of(self, robot: int) -> mujoco.MjModel:
        """A robot of the family on its grounds."""
        return self.model if self.family is None else self.family.model(self.model, robot)

    @property
    def reach(self) -> float:
        """How far along x and y from the centre, in m, a robot is off the ground; infinite on a plane."""
        return self._half_length - self.mechanics.margin(MOST_LEAN)

    def step(self, torques: Array, noise: Array | None = None, ids: NDArray[np.intp] | None = None) -> Bools | None:
        """Apply (num, wheels) torques, N m about the wheels' axles, for one time step.

        Args:
            torques: that are asked for.
            noise: (num, wheels) numbers of a normal distribution, for motors whose noise is among what differs.
            ids: of the simulations that go on; None: all.

        Returns:
            (num,) mask of simulations that diverged, or None if all are sound.  A diverged one is put back to a finite
            state, to be placed anew by the caller.

        Raises:
            RuntimeError: the process was forked since; a single thread may go on.
        """
        # a fork leaves threads behind, and the batch would wait for them for ever
        if self._process is not None and self._process != os.getpid():
            raise RuntimeError(
                "this environment was made before the process forked, and its threads are not in the new process: make "
                "the environment there, or with num_threads=1"
            )
        if self.randomizer is not None and self.randomizer.drags:
            full = self.mechanics.torque
            torques = self.randomizer.driven(torques, self._ctrl, full, float(self.model.opt.timestep), noise)
        if self._slackens:
            torques = self.mechanics.applied(torques, self.qvel[:, list(self.addresses.wheel_qvel)])
        self._ctrl[:] = torques
        failed: NDArray[Any] | None = None
        try:
            self.batch.step(ids)
        except SimulationError as error:  # these kept the state they had; the others ran to completion
            failed = error.ids
        # A NaN compares false, so it counts as too fast.  MuJoCo itself resets a simulation whose state went bad, so
        # its state may look sound: its warning tells.  All at once first, since nearly always all are sound.
        slow_enough = np.maximum.reduce(np.abs(self.qvel), axis=None) <= MAX_PLAUSIBLE_SPEED
        finite = np.isfinite(np.add.reduce(self.qpos, axis=None))
        if failed is None and slow_enough and finite and not np.count_nonzero(self._warnings):
            return None
        sound = (np.abs(self.qvel).max(axis=1) <= MAX_PLAUSIBLE_SPEED) & np.isfinite(self.qpos).all(axis=1)
        diverged = ~sound | self._warnings.any(axis=1)
        if failed is not None:
            diverged[failed] = True
        self._warnings[:] = 0
        self.batch.state[diverged] = self._fresh_row
        return diverged

    def place(
        self,
        sim: int,
        terrain_id: int,
        *,
        robot: int = 0,
        spawn: int = 0,
        yaw: float = 0.0,
        tilt: float = 0.0,
        tilt_axis: float = 0.0,
        velocity: tuple[float, float] = (0.0, 0.0),
        values: Array | None = None,
    ) -> None:
        """Put a simulation's robot on a terrain, at rest or rolling without slip.

        One whose centre of mass is not where it was meant to be leans as far as it must to balance, and from there.

        Args:
            sim: which simulation.
            terrain_id: index in the pool.
            robot: index in the family.
            spawn: at which of the places of that terrain where episodes may begin.
            yaw: heading about the vertical, rad.
            tilt: lean from the vertical, or from balance, rad.
            tilt_axis: direction of the horizontal axis it leans about, rad from the world's x axis.
            velocity: along the world's x and y, m/s.
            values: of what differs from episode to episode; None: as it was.
        """
        self._make(sim, robot)
        if self.randomizer is not None and values is not None:
            self.randomizer.put(sim, robot, values)
            self._weigh(sim)
        pose, mechanics = self._poses[robot][terrain_id][spawn].copy(), self.each[robot]
        base, ball = self.addresses.base_qpos, self.addresses.ball_qpos
        turn = np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])
        sine = np.sin(tilt / 2)
        lean = np.array([np.cos(tilt / 2), sine * np.cos(tilt_axis), sine * np.sin(tilt_axis), 0.0])
        # The base leans about the ball's centre, so that the wheels press on the ball as they do upright.
        centre = pose[ball : ball + 3]
        mujoco.mju_rotVecQuat(pose[base : base + 3], pose[base : base + 3] - centre, lean)
        pose[base : base + 3] += centre
        mujoco.mju_mulQuat(pose[base + 3 : base + 7], lean, turn)
        self._lean_into_balance(sim, pose, centre)
        self._stand_on_slope(sim, pose, centre)
        self.batch.state[sim] = self._fresh_row
        self.qpos[sim] = pose
        vx, vy = velocity
        spin, roll = self.addresses.base_qvel, self.addresses.ball_qvel
        self.qvel[sim, spin : spin + 2] = self.qvel[sim, roll : roll + 2] = vx, vy
        self.qvel[sim, roll + 3 : roll + 5] = -vy / mechanics.ball_radius, vx / mechanics.ball_radius
        ahead, left = np.cos(yaw) * vx + np.sin(yaw) * vy, np.cos(yaw) * vy - np.sin(yaw) * vx
        self.qvel[sim, list(self.addresses.wheel_qvel)] = mechanics.rolling @ (ahead, left)
        self._show(np.array([sim]), np.array([terrain_id]))

    def _lean_into_balance(self, sim: int, pose: Array, centre: Array) -> None:
        """Turn the base of (nq,) a pose, about the ball's (3,) centre, by what another centre of mass asks for."""
        x, y = self.balance[:, sim] - self._as_meant[self.robot_ids[sim]]
        if not (x or y):
            return
        base, from_centre, turn, whole = self.addresses.base_qpos, np.zeros(3), np.zeros(4), np.zeros(4)
        sine, axis = np.hypot(x, y), np.array([-y, x, 0.0]) / np.hypot(x, y)  # along the base's axes
        mujoco.mju_rotVecQuat(axis, axis, pose[base + 3 : base + 7])
        mujoco.mju_axisAngle2Quat(turn, axis, np.arcsin(sine))
        mujoco.mju_rotVecQuat(from_centre, pose[base : base + 3] - centre, turn)
        mujoco.mju_mulQuat(whole, turn, pose[base + 3 : base + 7])
        pose[base : base + 3], pose[base + 3 : base + 7] = centre + from_centre, whole

    def _stand_on_slope(self, sim: int, pose: Array, centre: Array) -> None:
        """Turn the base of (nq,) a pose, about the ball's (3,) centre, as far as gravity leans in this simulation."""
        if self.randomizer is None or not self.randomizer.leans:
            return
        base, from_centre, whole = self.addresses.base_qpos, np.zeros(3), np.zeros(4)
        back = self.randomizer.level[:, sim] * [1.0, -1.0, -1.0, -1.0]
        mujoco.mju_rotVecQuat(from_centre, pose[base : base + 3] - centre, back)
        mujoco.mju_mulQuat(whole, back, pose[base + 3 : base + 7])
        pose[base : base + 3], pose[base + 3 : base + 7] = centre + from_centre, whole

    def level(self, robots: RobotState) -> RobotState:
        """How robots stand to gravity: the same if that points down, else turned with it about their balls' centres.

        Args:
            robots: all, along the axes of the ground.

        Returns:
            all, along axes of which the third is the vertical.
        """
        if self.randomizer is None or not self.randomizer.leans:
            return robots
        turn = self.randomizer.level
        quaternion = turned(turn, robots.quaternion)
        rotation, depth = rotation_matrix(quaternion), self.mechanics.ball_depth
        return replace(
            robots,
            position=robots.position + depth * (rotation[:, 2] - robots.rotation[:, 2]),
            quaternion=quaternion,
            rotation=rotation,
            velocity=np.einsum("ijn,jn->in", rotation_matrix(turn), robots.velocity),
        )

    def _make(self, sim: int, robot: int) -> None:
        """Make a simulation's robot another one."""
        if self.family is None or robot == self.robot_ids[sim]:
            return
        self.robot_ids[sim] = robot
        self.family.put(sim, robot)
        self.mechanics.put(sim, self.each[robot])
        self.shell[:, sim] = self.shells[robot]
        self._weigh(sim)

    def _weigh(self, sim: int) -> None:
        """Find out anew where a simulation's robot balances."""
        robot = self.robot_ids[sim]
        if self.randomizer is None:
            self.balance[:, sim] = self._as_meant[robot]
            return
        model, fields = self.planes[robot], self.randomizer.fields(sim)
        mass, centres = fields.get("body_mass", model.body_mass), fields.get("body_ipos", model.body_ipos)
        self.balance[:, sim] = self._parts[robot].balance(mass, centres)

    def push(self, sim: int, forces: Array) -> None:
        """Forces in N and torques in N m, (bodies, 6), world axes, that act on a robot's bodies until the next call."""
        self.batch.bind("xfrc_applied")[sim] = forces

    def disturb(self, steps: NDArray[np.int64], robots: RobotState) -> None:
        """Let come what acts on robots as they are, where it is among what differs, so many (num,) steps later."""
        if self.randomizer is None:
            return
        dt = float(self.model.opt.timestep)
        if self._blown is not None:
            level = self.level(robots)  # hands hold who stands on a slope upright; the axes' difference is small
            self._blown[:] = self.randomizer.forces(steps, dt, level.rotation, level.velocity, level.gyro).T
        self.come_upon(steps)

    def come_upon(self, steps: NDArray[np.int64]) -> None:
        """Let slopes come, where they are among what differs, so many (num,) steps after the episodes began."""
        if self.randomizer is not None and self.randomizer.slides:
            self.randomizer.slopes(steps, float(self.model.opt.timestep))

    @property
    def torques(self) -> Array:
        """(num, wheels) N m about the wheels' axles in the last step."""
        return np.array(self._ctrl if self.randomizer is None else self._ctrl * self.randomizer.strength)

    def robot_state(self, ids: NDArray[np.intp] | None = None) -> RobotState:
        """The robots' state now, one column a simulation; of all, or of these."""
        # contiguous rows: fast to compute with
        qpos, qvel = ((x if ids is None else x[ids]).T.copy() for x in (self.qpos, self.qvel))
        base, spin = self.addresses.base_qpos, self.addresses.base_qvel
        quaternion = qpos[base + 3 : base + 7]
        return RobotState(
            position=qpos[base : base + 3],
            quaternion=quaternion,
            rotation=rotation_matrix(quaternion),
            velocity=qvel[spin : spin + 3],
            gyro=qvel[spin + 3 : spin + 6],
            wheel_speeds=qvel[list(self.addresses.wheel_qvel)],
        )

    def off_terrain(self, position: Array) -> Bools:
        """(num,) whether the base at (3, num) positions is at the edge of the height field; a plane has no edge."""
        x, y = np.abs(position[:2]) > self.reach
        return np.asarray(x | y)

    def heights(self, xy: Array) -> Array:
        """(num, ...) m of the ground below (num, ..., 2) places, on the terrain that each simulation shows."""
        return self.ground.heights(self.terrain_ids, xy)

    def randomized(self) -> Array:
        """(numbers, num) how far from what it is otherwise each number is that may differ; see ``Randomizer.told``."""
        return np.zeros((len(TOLD), self.num)) if self.randomizer is None else self.randomizer.told()

    def floor(self) -> Array:
        """(num,) m: ground below it is off the road, on the terrain that each simulation shows; -inf where none is."""
        return np.asarray(self.ground.floors[self.terrain_ids])

    def ways(self, goals: Array, places: Array) -> Array:
        """(2, num) unit vectors, the best way along (2, num) goals from (2, num) places; see ``Ways``."""
        return self.ground.ways(self.terrain_ids, goals, places)

    def terrain_of(self, sim: int) -> tuple[NDArray[np.float32], float, float] | None:
        """Relief, height of 1 in it and side in m of a simulation's terrain, or None on a plane."""
        if self.ground.relief is None:
            return None
        terrain = self.terrain_ids[sim]
        return self.ground.relief[terrain], float(self.ground.tops[terrain]), self.ground.grid.length

    def get_state(self) -> dict[str, Any]:
        """Everything that decides the future of the physics."""
        own = {} if self.family is None else {"robot_ids": self.robot_ids.copy()}
        if self.randomizer is not None:
            own["randomized"] = self.randomizer.values.copy()
        return {"rows": self.batch.state.copy(), "terrain_ids": self.terrain_ids.copy(), **own}

    def check_state(self, state: Any) -> dict[str, NDArray[Any]]:
        """The arrays of ``get_state``; ValueError if one is damaged."""
        found = {
            "rows": check_state_array(state, "rows", self.batch.state),
            "terrain_ids": check_state_array(state, "terrain_ids", self.terrain_ids, 0, self.num_terrains - 1),
        }
        if self.family is not None:
            found["robot_ids"] = check_state_array(state, "robot_ids", self.robot_ids, 0, self.num_robots - 1)
        if self.randomizer is not None:
            found["randomized"] = self.randomizer.check_state(state)
        return found

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what ``get_state`` returned and the caller has checked."""
        if self.family is not None:
            for sim, robot in enumerate(state["robot_ids"].tolist()):
                self._make(sim, robot)
        if self.randomizer is not None:
            for sim, values in enumerate(state["randomized"].T):
                self.randomizer.put(sim, int(self.robot_ids[sim]), values)
                self._weigh(sim)
        self.batch.state[:] = state["rows"]
        self._show(np.arange(self.num), np.asarray(state["terrain_ids"]))

    def _show(self, sims: NDArray[Any], terrain_ids: NDArray[Any]) -> None:
        self.terrain_ids[sims] = terrain_ids
        if self._shown is not None:
            self._shown[sims] = terrain_ids
