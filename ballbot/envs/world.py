"""The world of n robots: what happens in a step, at a reset, and what has to be saved.

A step is, in this order: physics, commands, endings, rewards, new commands, images.  At a reset a robot's own stream
draws terrain, five numbers (heading, tilt, its axis, speed, its direction) and the time limit; everything else that is
drawn (commands, places on the ground, difficulty) comes from a second stream, so that it changes nothing in the first.
"""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.checks import check_state_array
from ballbot.envs.commands import MARGIN, Commanded, Limits
from ballbot.envs.config import WorldConfig, make_command
from ballbot.envs.curriculum import Curriculum
from ballbot.envs.model import check_wheel_contacts, motor_limits, physics_digest
from ballbot.envs.observations import Layout, layout_of
from ballbot.envs.physics import MOTOR_TORQUE, Physics
from ballbot.envs.random_streams import WORDS, new_stream, pack_streams, second_stream, unpack_streams
from ballbot.envs.rewards import ENDINGS, make_term, paid_terms
from ballbot.envs.step import Array, Bools, RobotState, Step
from ballbot.envs.terrain import TerrainPool, parse_terrain

if TYPE_CHECKING:
    from ballbot.envs.cameras import Cameras, Encoder

Observation = NDArray[np.float32] | dict[str, NDArray[np.float32]]
STATE_ARRAYS = ("elapsed", "time_limit", "actions", "term_sums", "obs")
UNSAID = ("camera_interval", "camera_resolution", "stagger_cameras", "stagger_first_episodes")
"""Options of which states of version 0.1 said nothing, or said it with the cameras' own."""


class World:
    """``num`` robots in the world of a config.

    Args:
        num: how many.
        config: what world.
        num_threads: threads that step them; 0 takes every CPU this process may use.
        encoder: of the images, for observation="encoded"; or the file of one; None: the one that comes with ballbot.
        camera_device: "cpu" or "cuda", where images are cast and encoded.
    """

    def __init__(
        self,
        num: int,
        config: WorldConfig,
        *,
        num_threads: int,
        encoder: Encoder | str | Path | None = None,
        camera_device: str = "cpu",
    ) -> None:
        self.num, self.config = num, config
        spec = parse_terrain(config.terrain)
        self.ground = TerrainPool(
            spec,
            dict(config.ground),
            num=config.num_terrains,
            split=config.terrain_split,
            seed=config.terrain_seed,
            length=config.terrain_length,
            cell=config.terrain_cell,
        )
        self.physics = Physics(num, self.ground, integrator=config.integrator, num_threads=num_threads)
        if config.contact_fix:
            check_wheel_contacts(self.physics.plane)
        self.step_seconds = float(self.physics.model.opt.timestep)
        speed, turn = motor_limits(self.physics.plane)
        limits = Limits(speed, turn, self.physics.reach - MARGIN)
        self.told = Commanded(make_command(config.command, config.motion), num, self.step_seconds, limits)
        self.curriculum = Curriculum(self.ground.kinds, spec.low, spec.high) if config.curriculum else None
        self.cameras = self._make_cameras(encoder, num_threads, camera_device)
        images: tuple[int, ...] = ()
        if self.cameras is not None and config.observation == "encoded":
            images = (self.cameras.shape[0] // self.cameras.num,) * self.cameras.num
        self.layout: Layout = layout_of(config.frame, self.told.command.fields, config.extra_fields, images)
        weights, paid = paid_terms(config.rewards or {}), paid_terms(config.paid)
        self.terms = tuple(weights)
        """Names of what the task pays, in the order of ``term_sums``."""
        self._rewards = [
            (make_term(name, config.paid), weights.get(name, 0.0), paid.get(name, 0.0))
            for name in paid_terms({**weights, **paid} | dict.fromkeys((*weights, *paid), 1.0))
        ]
        self._endings = [(name, ENDINGS[name], limit) for name, limit in config.endings.items()]
        self._upright_limit = np.cos(np.radians(config.tilt_limit_deg))
        self.streams: list[np.random.Generator] = []  # filled by the first reset
        self.num_diverged = 0
        self.elapsed = np.zeros(num, np.int64)
        self.time_limit = np.full(num, config.max_episode_steps)
        self.actions = np.zeros((num, 3))
        self.term_sums = np.zeros((len(self.terms), num))
        self.obs = np.zeros((num, self.layout.sensed), np.float32)
        self.robots = self.physics.robot_state()
        self._none = np.zeros(num, bool)
        self._none.setflags(write=False)

    def _make_cameras(self, encoder: Any, num_threads: int, device: str) -> Cameras | None:
        if self.config.observation == "proprioception":
            return None
        from ballbot.envs.cameras import Cameras  # needs PyTorch, which the world alone does without

        if isinstance(encoder, (str, Path)) or (self.config.observation == "encoded" and encoder is None):
            from ballbot.encoders import load_encoder

            encoder = load_encoder(encoder, device)
        return Cameras(
            self.physics,
            encoder=encoder,
            interval=self.config.camera_interval,
            stagger=self.config.stagger_cameras,
            resolution=self.config.camera_resolution,
            num_threads=num_threads,
            device=device,
        )

    # -- Episodes -----------------------------------------------------------------------------------------------------

    def seed(self, ids: NDArray[np.intp], seeds: list[int | None]) -> None:
        """Give robots ``ids`` new random streams, where seeds[i] is not None or there are none yet."""
        begun = bool(self.streams)
        if not begun:
            self.streams = [new_stream(s) for s in seeds]
            self.told.streams = [second_stream(s) for s in seeds]
        for i in ids:
            if (s := seeds[i]) is not None and begun:
                self.streams[i], self.told.streams[i] = new_stream(s), second_stream(s)
            if self.cameras is not None and (s is not None or not begun):
                self.cameras.start_clock(int(i), self.streams[i].integers)

    def start(
        self,
        ids: NDArray[np.intp],
        *,
        stagger: bool = False,
        terrains: NDArray[np.int64] | None = None,
        difficulties: Array | None = None,
        commands: Array | None = None,
    ) -> None:
        """New episodes of robots ``ids``, each drawn from its own streams; what is given, is given for all robots."""
        for i in ids:
            stream, other = self.streams[i], self.told.streams[i]
            terrain = int(stream.integers(self.physics.num_terrains))  # drawn anyway: the stream goes on alike
            if terrains is not None:
                terrain = int(terrains[i])
            elif difficulties is not None:
                terrain = self._nearest(terrain, float(difficulties[i]))
            elif self.curriculum is not None:
                terrain = self._nearest(terrain, self.curriculum.draw(int(self.ground.kind_ids[terrain]), other))
            places = len(self.physics.poses[terrain])
            yaw, radius, axis, speed, heading = stream.random(5).tolist()
            speed, heading = self.config.initial_speed * np.sqrt(speed), 2 * np.pi * heading
            self.physics.place(
                int(i),
                terrain,
                spawn=int(other.integers(places)) if places > 1 else 0,
                yaw=2 * np.pi * yaw if self.config.random_yaw else 0.0,
                tilt=np.radians(self.config.initial_tilt_deg) * np.sqrt(radius),  # evenly over the cone's disc
                tilt_axis=2 * np.pi * axis,
                velocity=(speed * np.cos(heading), speed * np.sin(heading)),
            )
            limit = self.config.max_episode_steps
            self.time_limit[i] = stream.integers(1, limit, endpoint=True) if stagger else limit
        self.elapsed[ids] = 0
        self.actions[ids] = 0.0
        self.term_sums[:, ids] = 0.0
        self.robots.put(ids, self.physics.robot_state(ids))
        self.told.start(ids, self.robots, None if commands is None else commands[ids])
        self.obs[ids] = self.layout.observe(self._record(self.robots, self.robots, self.actions, self._none))[ids]
        if self.cameras is not None:
            self.cameras.take(ids, self.robots)

    def _nearest(self, terrain: int, difficulty: float) -> int:
        """The field of the same kind whose difficulty is nearest."""
        same = np.flatnonzero(self.ground.kind_ids == self.ground.kind_ids[terrain])
        return int(same[np.abs(self.ground.difficulties[same] - difficulty).argmin()])

    # -- Steps --------------------------------------------------------------------------------------------------------

    def step(self, actions: Array) -> dict[str, Any]:
        """``action_repeat`` steps of 2 ms with (n, 3) checked actions.

        An episode that ends within them ends there: what comes later does not count for it.

        Returns:
            "rewards" (n,), and as of each episode's end, or now: "terminated", "truncated", "observation" and "infos".
        """
        ended, report, rewards = self._none, None, np.zeros(0)
        for k in range(self.config.action_repeat):
            paid, flags = self._substep(actions)
            rewards = np.where(ended, 0.0, paid) + rewards if k else paid
            over = flags["over"]
            if k == self.config.action_repeat - 1 or over.any():
                now = self._report(flags)
                report = _rows(ended, report, now) if report is not None and ended.any() else now
                ended = ended | over
        assert report is not None
        if self.curriculum is not None and ended.any():
            whole = np.flatnonzero(ended & (self.time_limit == self.config.max_episode_steps))
            terrains = self.physics.terrain_ids[whole]
            kinds, difficulties = self.ground.kind_ids[terrains], self.ground.difficulties[terrains]
            self.curriculum.learn(kinds, difficulties, report["infos"]["success"][whole])
        return {"rewards": rewards, **report}

    def _substep(self, actions: Array) -> tuple[Array, dict[str, Bools]]:
        """One step of 2 ms: what is paid, and what ended."""
        before, last_actions = self.robots, self.actions
        diverged = self.physics.step(MOTOR_TORQUE * actions)
        self.elapsed += 1
        self.robots = robots = self.physics.robot_state()
        self.actions = actions
        self.told.step(robots)
        fallen = robots.rotation[2, 2] < self._upright_limit
        step = self._record(robots, before, last_actions, fallen)
        flags: dict[str, Bools] = {}
        for name, ends, limit in self._endings:
            flags[name] = ends(step, limit) & ~fallen
        if flags:
            fallen = fallen | np.logical_or.reduce(list(flags.values()))
            step = replace(step, fallen=fallen)
        late = (self.elapsed >= self.time_limit) & ~fallen
        achieved = self.told.command.success(self.told)
        success = late if achieved is None else late & achieved
        off = self.physics.off_terrain(robots.position) & ~fallen
        values = [(term(step), weight, paid) for term, weight, paid in self._rewards]
        if diverged is not None:
            self.num_diverged += int(diverged.sum())
            self._put_back(diverged, before, last_actions)
            for mask in (fallen, late, success, off, *flags.values()):
                mask[diverged] = False
            values = [(np.where(diverged, 0.0, value), weight, paid) for value, weight, paid in values]
        row, total = 0, None
        for value, weight, paid in values:
            if weight:
                self.term_sums[row] += value if weight == 1.0 else weight * value
                row += 1
            if paid:
                part = value if paid == 1.0 else value * paid
                total = part if total is None else total + part
        if self.cameras is not None:
            self.cameras.step(robots, None if diverged is None else ~diverged)
        self.told.renew(robots)
        flags |= {"failure": fallen, "success": success, "out_of_bounds": off}
        flags["diverged"] = self._none if diverged is None else diverged
        if achieved is not None:
            flags["missed"] = late & ~success
        flags["over"] = fallen | late | off if diverged is None else fallen | late | off | diverged
        return np.zeros(self.num) if total is None else total, flags

    def _put_back(self, diverged: Bools, before: RobotState, last_actions: Array) -> None:
        """What is left of robots whose simulation diverged: their last sound observation and place."""
        sound = self.layout.observe(self._record(before, before, last_actions, self._none, last_actions))
        self.obs[diverged] = sound[diverged]
        self.robots.position[:, diverged] = before.position[:, diverged]
        self.robots.rotation[:, :, diverged] = before.rotation[:, :, diverged]

    def _report(self, flags: dict[str, Bools]) -> dict[str, Any]:
        """Observation, endings and infos now."""
        sensed = self.layout.observe(self._record(self.robots, self.robots, self.actions, flags["failure"]))
        diverged = flags["diverged"]
        if diverged.any():
            sensed[diverged] = self.obs[diverged]
        self.obs = sensed
        terminated = flags["failure"]
        return {
            "terminated": terminated,
            "truncated": flags["over"] & ~terminated,
            "observation": self.observation(),
            "infos": self.infos(flags),
        }

    def _record(
        self,
        robots: RobotState,
        before: RobotState,
        last_actions: Array,
        fallen: Bools,
        actions: Array | None = None,
    ) -> Step:
        return Step(
            robots=robots,
            before=before,
            command=self.told,
            actions=self.actions if actions is None else actions,
            last_actions=last_actions,
            fallen=fallen,
            dt=self.step_seconds,
            heights=self.physics.heights,
            torque_per_action=MOTOR_TORQUE,
        )

    def observation(self) -> Observation:
        """What the robots sense now: arrays that are the caller's to change."""
        if self.cameras is None:
            return self.obs.copy()
        age = self.cameras.age[:, None]
        if self.config.observation == "encoded":
            return np.concatenate([self.obs, self.cameras.latest, age], axis=1)
        return {"proprioception": self.obs.copy(), "depth": self.cameras.latest.copy(), "image_age": age}

    def infos(self, flags: dict[str, Bools] | None = None) -> dict[str, Any]:
        """Of each robot, arrays that are the caller's to change; ``flags`` say which episodes ended and how."""
        names = ["success", "failure", "out_of_bounds", "diverged", *(name for name, _, _ in self._endings)]
        if self.told.command.success(self.told) is not None:
            names.append("missed")
        found: dict[str, Any] = {
            "position": self.robots.position[:2].T.copy(),
            "tilt_deg": np.degrees(np.arccos(np.clip(self.robots.rotation[2, 2], -1.0, 1.0))),
            "terrain_id": self.physics.terrain_ids.copy(),
            **{name: (self._none if flags is None else flags[name]).copy() for name in names},
            "reward_terms": dict(zip(self.terms, self.term_sums.copy(), strict=True)),
        }
        measures = self.told.command.measures(self.told, self.robots)
        if self.curriculum is not None:
            measures |= self.curriculum.measures(self.ground.kind_ids[self.physics.terrain_ids])
        if measures:
            found["measures"] = measures
        return found

    # -- Exact state --------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Everything that decides the future: arrays and plain types only, so that it can go into a checkpoint."""
        return {
            "options": self.state_options(),
            "simulations": self.physics.get_state(),
            "streams": pack_streams(self.streams),
            "second_streams": pack_streams(self.told.streams),
            "command": self.told.get_state(),
            "num_diverged": self.num_diverged,
            **({} if self.curriculum is None else {"curriculum": self.curriculum.levels.copy()}),
            **({} if self.cameras is None else {"cameras": self.cameras.get_state()}),
            **{name: getattr(self, name).copy() for name in STATE_ARRAYS},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what ``get_state`` returned, in a world of the same config.

        Raises:
            ValueError: the state is damaged, or of another world; nothing was changed.
        """
        if not isinstance(state, dict) or not isinstance(state.get("options"), dict):
            raise ValueError(f"set_state needs what get_state() returned, got {type(state).__name__}")
        self._check_options(state["options"])
        # Everything is checked before anything is changed.
        physics = self.physics.check_state(state.get("simulations"))
        streams = self._check_streams(state, "streams")
        older = "second_streams" not in state and "command" not in state  # from before there were these
        others = self.told.streams if older else self._check_streams(state, "second_streams")
        told = None if older else self.told.check_state(state.get("command"))
        arrays = {name: check_state_array(state, name, getattr(self, name)) for name in STATE_ARRAYS}
        images = None if self.cameras is None else self.cameras.check_state(state.get("cameras"))
        levels = None if self.curriculum is None else self.curriculum.check_state(state.get("curriculum"))
        num_diverged = state.get("num_diverged")
        if isinstance(num_diverged, bool) or not isinstance(num_diverged, int) or num_diverged < 0:
            raise ValueError(f"state 'num_diverged' is {num_diverged!r}, expected a count: it is damaged")

        self.physics.set_state(physics)
        self.streams, self.told.streams, self.num_diverged = streams, others, num_diverged
        for name, array in arrays.items():
            getattr(self, name)[:] = array
        if told is not None:
            self.told.set_state(told)
        if self.cameras is not None and images is not None:
            self.cameras.set_state(images)
        if self.curriculum is not None and levels is not None:
            self.curriculum.levels[:] = levels
        self.robots = self.physics.robot_state()

    def _check_streams(self, state: dict[str, Any], name: str) -> list[np.random.Generator]:
        not_started = name in state and np.shape(state[name])[:1] == (0,)
        words = np.empty((0 if not_started else self.num, WORDS), np.int64)
        return unpack_streams(check_state_array(state, name, words))

    def state_options(self) -> dict[str, Any]:
        """What must be equal for a state to mean the same."""
        return {
            "num_envs": self.num,
            "row": int(self.physics.batch.state.shape[1]),
            "physics": physics_digest(self.physics.model),
            "ground": self.ground.digest(),
            "world": self.config.fingerprint(),
            **({} if self.cameras is None else {"cameras": self.cameras.state_options()}),
        }

    def _check_options(self, theirs: dict[str, Any]) -> None:
        mine = self.state_options()
        if "world" not in theirs:
            theirs = self._options_of_older(theirs, mine)
        was, now = theirs["world"], mine["world"]
        defaults = {f.name: f.default for f in fields(WorldConfig) if f.default is not MISSING}
        pairs = [(k, theirs.get(k), mine.get(k)) for k in (theirs.keys() | mine.keys()) - {"world"}]
        pairs += [(k, was.get(k, defaults.get(k)), now.get(k, defaults.get(k))) for k in was.keys() | now.keys()]
        differing = [f"{key} was {then!r}, is {here!r}" for key, then, here in sorted(pairs) if then != here]
        if differing:
            raise ValueError(
                f"this state is of an environment with other options ({'; '.join(differing)}): make the environment "
                "with the options it was saved with"
            )

    def _options_of_older(self, theirs: dict[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
        """What a state of version 0.1 says, as this version says it."""
        said = dict(theirs)
        options = {f.name: said.pop(f.name) for f in fields(WorldConfig) if f.name in said}
        if options.get("terrain") == "flat":  # its pool had one entry whatever was asked for
            options["num_terrains"] = self.config.num_terrains
        target, weight = said.pop("target_speed", None), said.pop("progress_weight", 1.0)
        paid = (
            {"progress": weight} if target is None else {"progress": 0.0, "tracking": weight, "tracking_speed": target}
        )
        if "goal" in said:
            options["motion"] = dict(zip("xy", said.pop("goal"), strict=True))
        options |= {name: getattr(self.config, name) for name in UNSAID}
        world = WorldConfig(training_rewards={} if paid == {"progress": 1.0} else paid, **options)
        return {**said, "ground": mine["ground"], "world": world.fingerprint()}


def _rows(mask: Bools, these: Any, others: Any) -> Any:
    """Rows of arrays, or of all arrays in a dict: these where the mask is set, the others elsewhere."""
    if isinstance(these, dict):
        return {name: _rows(mask, these[name], others[name]) for name in these}
    return np.where(mask.reshape(-1, *(1,) * (these.ndim - 1)), these, others)
