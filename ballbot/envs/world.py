"""The world of n robots: what happens in a step, at a reset, and what has to be saved.

A step is, in this order: physics, commands, endings, rewards, images, new commands, what is kept of the past.  At a
reset a robot's own stream draws terrain, five numbers (heading, tilt, its axis, speed, its direction) and the time
limit; everything else that is drawn (commands, places on the ground, difficulty) comes from a second stream, so that it
changes nothing in the first.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.arrays import rows, summed, weighed
from ballbot.envs.commanded import MARGIN, Commanded, Limits
from ballbot.envs.config import WorldConfig, make_command
from ballbot.envs.curriculum import Curriculum, range_curriculum
from ballbot.envs.drive import check_wheels
from ballbot.envs.history import History
from ballbot.envs.mechanics import mechanics_of, motor_limits
from ballbot.envs.motors import Motors
from ballbot.envs.observations import Layout
from ballbot.envs.parts import flags as flags_of
from ballbot.envs.parts import numbers, refuse_nan
from ballbot.envs.physics import Physics
from ballbot.envs.random_streams import chance_stream, new_stream, second_stream
from ballbot.envs.rewards import ENDINGS, make_term, paid_terms
from ballbot.envs.rig import check_cameras, rig_of
from ballbot.envs.robots import naming
from ballbot.envs.sensors import Noise, Senses, Sensors
from ballbot.envs.step import Array, Bools, RobotState, Step
from ballbot.envs.terrain import TerrainPool, parse_terrain
from ballbot.errors import SettingsError

if TYPE_CHECKING:
    from ballbot.envs.cameras import Cameras, Encoder

Observation = NDArray[np.float32] | dict[str, NDArray[np.float32]]


class World:
    """``num`` robots in the world of a config.

    Args:
        num: how many.
        config: what world.
        num_threads: threads that step them; 0 takes every CPU this process may use.
        encoder: of the images, for observation="encoded"; or the file of one; None: what comes with ballbot for
            these cameras.
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
        robots = config.robots
        self.physics = Physics(
            num,
            self.ground,
            integrator=config.integrator,
            num_threads=num_threads,
            rig=rig_of(config.rig),
            robot=robots,
            ranges=config.ranges,
        )
        for robot, plane in zip(robots, self.physics.planes, strict=True):
            if config.rig:
                check_cameras(plane)
            with naming(config.robot, config.build):
                check_wheels(robot, plane, config.contact_fix)
        if config.action != "torque" and not np.all(np.isfinite([one.free_speed for one in self.physics.each])):
            raise SettingsError(
                f"action={config.action!r} needs wheels that do not turn ever faster, 1 asks for their fastest: "
                "give the robot a no_load_speed or wheel_damping, or use action='torque'"
            )
        self.step_seconds = float(self.physics.model.opt.timestep)
        self.motors = Motors(config.action, num, self.physics.mechanics, self.step_seconds)
        speed, turn = np.min([motor_limits(plane) for plane in self.physics.planes], axis=0).tolist()
        limits = Limits(speed, turn, self.physics.reach - MARGIN)
        self.told = Commanded(make_command(config.command, config.motion), num, self.step_seconds, limits)
        self.curriculum = Curriculum(self.ground.kinds, spec.low, spec.high) if config.curriculum else None
        self.range_shares = range_curriculum(num) if config.range_curriculum else None
        """Of each robot, how much of the ranges it meets."""
        self.senses: Senses | None = None
        """Between the robots and what they sense, where that is not perfect."""
        motion, of_cameras = config.faults
        if motion:
            known, maker = Sensors(**motion), mechanics_of(config.robot_config)
            self.senses = Senses(known, num, self.step_seconds, maker, self.physics.robot_state())
        self.torque_noise: Noise | None = None
        """Of the motors, where it is among what differs."""
        if "torque_noise" in config.ranges:
            self.torque_noise = Noise(num, self.physics.mechanics.wheels, 0)
        seeing = Sensors(**of_cameras) if of_cameras else None
        self.cameras = self._make_cameras(encoder, num_threads, camera_device, seeing)
        images: tuple[int, ...] = ()
        if self.cameras is not None and config.observation == "encoded":
            images = (self.cameras.shape[0] // self.cameras.num,) * self.cameras.num
        self.layout: Layout = config.layout(images)
        self.privileged_layout: Layout | None = config.privileged_layout()
        self.history = History(self.layout, num) if self.layout.past else None
        weights, at_first, finally_ = map(paid_terms, (config.rewards or {}, config.paid, config.paid_finally))
        paid = {name: at_first.get(name, 0.0) for name in paid_terms(dict.fromkeys((*at_first, *finally_), 1.0))}
        self.terms = tuple(weights)
        """Names of what the task pays, in the order of ``term_sums``."""
        names = tuple(paid_terms(dict.fromkeys((*weights, *paid), 1.0)))
        self._rewards = [(f"reward {name!r}", make_term(name, config.paid)) for name in names]
        self._values = np.zeros((len(names), num))
        """(terms, n) what each term is worth in this step, before it is weighed."""
        self._logged, self._weights = weighed(names, weights)
        self._paid, self._payment = weighed(names, paid)
        self._paid_first = self._payment
        self._paid_finally = weighed(names, {name: finally_.get(name, 0.0) for name in paid})[1]
        self.progress = 0.0
        """How far the training is, from 0 to 1; see ``set_progress``."""
        self.measured = self.told.success() is not None
        """Whether reaching the time limit is not yet a success."""
        self._endings = [(name, ENDINGS[name], limit) for name, limit in config.endings.items()]
        self._upright_limit = np.cos(np.radians(config.tilt_limit_deg))
        self.streams: list[np.random.Generator] = []  # filled by the first reset
        self.chances: list[np.random.Generator] = []
        """Of what differs from episode to episode, where something does."""
        self.num_diverged = 0
        self.elapsed = np.zeros(num, np.int64)
        self.time_limit = np.full(num, config.max_episode_steps)
        self.learned = np.zeros(num, bool)
        """(n,) whether the curricula know how the episode ended: who goes on past its end tells nothing more."""
        self.actions = np.zeros((num, self.physics.mechanics.wheels))
        self.term_sums = np.zeros((len(self.terms), num))
        beside = 0 if self.privileged_layout is None else self.privileged_layout.size
        self.obs = np.zeros((num, self.layout.sensed + beside), np.float32)
        """What robots sense but for images, and what only the value function sees, side by side."""
        self.robots = self.physics.robot_state()
        self._none = np.zeros(num, bool)
        self._none.setflags(write=False)
        self._try_parts()

    def set_progress(self, share: float) -> None:
        """Pay what is paid when a training is this far, from 0 to 1."""
        first, last = self.config.final_rewards_between
        done = float(share >= last) if first == last else min(max((share - first) / (last - first), 0.0), 1.0)
        self.progress = share
        self._payment = self._paid_first + done * (self._paid_finally - self._paid_first)

    def _try_parts(self) -> None:
        """Refuse parts that do not work here before anything is simulated: somebody else may be their author."""
        self.told.try_out(self.robots)
        step = self._record(self.robots, self.robots, self.actions, self._none)
        self._observe(step)
        self._evaluate(step)
        for name, ends, limit in self._endings:
            flags_of(f"ending {name!r}", ends, self.num, step, limit)

    def _make_cameras(self, encoder: Any, num_threads: int, device: str, sensors: Sensors | None) -> Cameras | None:
        if self.config.observation == "proprioception":
            return None
        if self.physics.family is not None and not self.physics.family.look_alike:
            raise SettingsError(
                f"vary {', '.join(self.config.vary)}: robots whose ball, body or wheels differ in size see other "
                'images, and all are rendered as one: use observation="proprioception" (--no-cameras), or vary masses '
                "and motors"
            )
        from ballbot.envs.cameras import Cameras  # needs PyTorch, which the world alone does without

        if isinstance(encoder, (str, Path)) or (self.config.observation == "encoded" and encoder is None):
            from ballbot.encoders import encoder_file, load_encoder

            encoder = load_encoder(encoder_file(self.config.rig) if encoder is None else encoder, device)
        return Cameras(
            self.physics,
            encoder=encoder,
            interval=self.config.camera_interval,
            stagger=self.config.stagger_cameras,
            resolution=self.config.camera_resolution,
            num_threads=num_threads,
            device=device,
            sensors=sensors,
        )

    def check_command(self, values: Any, count: int) -> Array:
        """Commands for ``count`` robots as (count, size): one for all, or a row each.

        Raises:
            SettingsError: another shape, not finite, beyond motors or ground, or one that robots would not observe.
        """
        checked, command = self.told.check(values, count), self.told.command
        if "goal" in command.fields and "goal" not in self.layout.names:
            fixed = np.array([getattr(command, "x", np.nan), getattr(command, "y", np.nan)])
            if not np.allclose(checked, fixed, rtol=0, atol=1e-9):
                raise SettingsError(
                    f"the goal cannot become {values!r}: with frame='world' it is fixed and robots do not observe it; "
                    "make the world with frame='body'"
                )
        return checked

    def check_randomized(self, values: Any) -> Array:
        """(axes, num) of what differs from episode to episode, NaN where nothing is given.

        Raises:
            SettingsError: nothing differs here, or as of ``Randomizer.check_given``.
        """
        if self.physics.randomizer is None:
            raise SettingsError(
                "options['randomized'] was given, and in this world nothing differs from episode to episode: leave it "
                "out, or make the world with ranges={'body_mass': (0.8, 1.2)} of what is given"
            )
        return self.physics.randomizer.check_given(values)

    # -- Episodes -----------------------------------------------------------------------------------------------------

    def seed(self, ids: NDArray[np.intp], seeds: list[int | None]) -> None:
        """Give robots ``ids`` new random streams, where seeds[i] is not None or there are none yet."""
        begun = bool(self.streams)
        if not begun:
            self.streams = [new_stream(s) for s in seeds]
            self.told.streams = [second_stream(s) for s in seeds]
            self.chances = [chance_stream(s) for s in seeds] if self.takes_chances else []
            if self.senses is not None:
                self.senses.noise.begin(self.chances)
            if self.torque_noise is not None:
                self.torque_noise.begin(self.chances)
        for i in ids:
            if (s := seeds[i]) is not None and begun:
                self.streams[i], self.told.streams[i] = new_stream(s), second_stream(s)
                if self.chances:
                    self.chances[i] = chance_stream(s)
            if self.cameras is not None and (s is not None or not begun):
                self.cameras.start_clock(int(i), self.streams[i].integers)

    def start(
        self,
        ids: NDArray[np.intp],
        *,
        stagger: Bools | None = None,
        terrains: NDArray[np.int64] | None = None,
        difficulties: Array | None = None,
        commands: Array | None = None,
        randomized: Array | None = None,
    ) -> None:
        """New episodes of robots ``ids``, each drawn from its own streams; what is given, is given for all robots.

        ``stagger`` says whose time limit is drawn.
        """
        randomizer = self.physics.randomizer
        for i in ids:
            stream, other = self.streams[i], self.told.streams[i]
            terrain = int(stream.integers(self.physics.num_terrains))  # drawn anyway: the stream goes on alike
            if terrains is not None:
                terrain = int(terrains[i])
            elif difficulties is not None:
                terrain = self._nearest(terrain, float(difficulties[i]))
            elif self.curriculum is not None:
                terrain = self._nearest(terrain, self.curriculum.draw(int(self.ground.kind_ids[terrain]), other))
            places = len(self.ground.spawns[terrain])
            family = self.physics.num_robots
            values = None if randomizer is None else randomizer.draw(self.chances[i], self._range_share(i))
            if values is not None and randomized is not None:
                values = np.where(np.isnan(randomized[:, i]), values, randomized[:, i])
            if self.torque_noise is not None:
                self.torque_noise.forget(int(i))
            yaw, radius, axis, speed, heading = stream.random(5).tolist()
            speed, heading = self.config.initial_speed * np.sqrt(speed), 2 * np.pi * heading
            self.physics.place(
                int(i),
                terrain,
                robot=int(other.integers(family)) if family > 1 else 0,
                spawn=int(other.integers(places)) if places > 1 else 0,
                yaw=2 * np.pi * yaw if self.config.random_yaw else 0.0,
                tilt=np.radians(self.config.initial_tilt_deg) * np.sqrt(radius),  # evenly over the cone's disc
                tilt_axis=2 * np.pi * axis,
                velocity=(speed * np.cos(heading), speed * np.sin(heading)),
                values=values,
            )
            limit = self.config.max_episode_steps
            shortest = self.config.shortest_episode_steps
            if shortest is not None and shortest < limit and not self.learns:
                limit = round(shortest * (limit / shortest) ** stream.random())
            self.time_limit[i] = (
                stream.integers(1, limit, endpoint=True) if stagger is not None and stagger[i] else limit
            )
        self.elapsed[ids] = 0
        self.learned[ids] = False
        self.actions[ids] = 0.0
        self.motors.begin(ids)
        self.term_sums[:, ids] = 0.0
        self.robots.put(ids, self.physics.robot_state(ids))
        if self.senses is not None:
            self.senses.begin(ids, self.physics.level(self.robots))
        self.told.start(ids, self.robots, None if commands is None else commands[ids])
        step = self._record(self.robots, self.robots, self.actions, self._none)
        if self.history is not None:
            self.history.begin(ids, self._sensed(step))
        self.obs[ids] = self._observe(step)[ids]
        if self.cameras is not None:
            self.cameras.begin(ids, self.robots, self.chances)

    @property
    def learns(self) -> bool:
        """Whether ground or ranges grow as robots succeed."""
        return self.curriculum is not None or self.range_shares is not None

    def _range_share(self, robot: int) -> float:
        """Of the ranges, what the next episode of a robot meets."""
        return 1.0 if self.range_shares is None else float(self.range_shares.levels[robot])

    def _nearest(self, terrain: int, difficulty: float) -> int:
        """The field of the same kind whose difficulty is nearest."""
        same = np.flatnonzero(self.ground.kind_ids == self.ground.kind_ids[terrain])
        away = np.abs(self.ground.difficulties[same] - difficulty)
        nearest = same[away == away.min()]
        return int(nearest[terrain % len(nearest)])

    # -- Steps --------------------------------------------------------------------------------------------------------

    def step(self, actions: Array) -> dict[str, Any]:
        """``action_repeat`` steps of 2 ms with (n, wheels) checked actions.

        An episode that ends within them ends there: what comes later does not count for it.

        Returns:
            "rewards" (n,), and as of each episode's end, or now: "terminated", "truncated", "observation" and "infos".
        """
        ended, report, rewards = self._none, None, np.zeros(0)
        for k in range(self.config.action_repeat):
            paid, flags, step = self._substep(actions)
            rewards = np.where(ended, 0.0, paid) + rewards if k else paid
            over = flags["over"]
            if k == self.config.action_repeat - 1 or np.count_nonzero(over):
                now = self._report(step, flags)
                report = rows(ended, report, now) if report is not None and ended.any() else now
                ended = ended | over
        assert report is not None
        if self.learns and ended.any():
            infos = report["infos"]
            told_nothing = infos["out_of_bounds"] | infos["diverged"]
            ids = np.flatnonzero(
                ended & ~self.learned & ~told_nothing & (self.time_limit == self.config.max_episode_steps)
            )
            terrains, success = self.physics.terrain_ids[ids], infos["success"][ids]
            if self.curriculum is not None:
                self.curriculum.learn(self.ground.kind_ids[terrains], self.ground.difficulties[terrains], success)
            if self.range_shares is not None:
                self.range_shares.learn(ids, self.range_shares.levels[ids], success)
            self.learned |= ended
        return {"rewards": rewards, **report}

    def _substep(self, actions: Array) -> tuple[Array, dict[str, Bools], Step]:
        """One step of 2 ms: what is paid, what ended, and its record."""
        before, last_actions = self.robots, self.actions
        self.physics.disturb(self.elapsed, before)
        done = actions if self.senses is None else self.senses.ask(actions)
        noise = None if self.torque_noise is None else self.torque_noise.next()[0].T
        diverged = self.physics.step(self.motors.torques(done, before.wheel_speeds.T), noise)
        self.robots = robots = self.physics.robot_state()
        if diverged is not None:
            self._put_back(diverged, before, last_actions)
        level = self.physics.level(robots)
        if self.senses is not None:
            self.senses.step(level)
        self.elapsed += 1
        self.actions = actions
        self.told.step(robots)
        fallen = level.rotation[2, 2] < self._upright_limit
        step = self._record(robots, before, last_actions, fallen)
        flags: dict[str, Bools] = {}
        for name, ends, limit in self._endings:
            flags[name] = flags_of(f"ending {name!r}", ends, self.num, step, limit) & ~fallen
        if flags:
            fallen = fallen | np.logical_or.reduce(list(flags.values()))
            step = replace(step, fallen=fallen)
        late = (self.elapsed >= self.time_limit) & ~fallen
        achieved = self.told.success()
        success = late if achieved is None else late & achieved
        off = self.physics.off_terrain(robots.position) & ~fallen
        values = self._evaluate(step)
        if diverged is not None:
            self.num_diverged += int(diverged.sum())
            for mask in (fallen, late, success, off, *flags.values()):
                mask[diverged] = False
            values[:, diverged] = 0.0
        self.term_sums += self._weights * values[self._logged]
        paid = summed(self._payment * values[self._paid])
        if self.cameras is not None:
            self.cameras.step(robots, None if diverged is None else ~diverged)
        self.told.renew(robots)
        if self.history is not None:
            self.history.add(self._sensed(step))
        flags |= {"failure": fallen, "success": success, "out_of_bounds": off}
        flags["diverged"] = self._none if diverged is None else diverged
        if achieved is not None:
            flags["missed"] = late & ~success
        flags["over"] = fallen | late | off if diverged is None else fallen | late | off | diverged
        return paid, flags, step

    def _evaluate(self, step: Step) -> Array:
        """(terms, n) what each term is worth in this step, before it is weighed."""
        for row, (what, term) in enumerate(self._rewards):
            self._values[row] = numbers(what, term, self.num, step)
        if not np.isfinite(np.add.reduce(self._values, axis=None)):
            for row, (what, _) in enumerate(self._rewards):
                refuse_nan(what, self._values[row])
        return self._values

    def _put_back(self, diverged: Bools, before: RobotState, last_actions: Array) -> None:
        """What is left of robots whose simulation diverged: their last sound observation and state."""
        sound = self._observe(self._record(before, before, last_actions, self._none, last_actions))
        self.obs[diverged] = sound[diverged]
        ids = np.flatnonzero(diverged)
        self.robots.put(ids, before.take(ids))

    def _report(self, step: Step, flags: dict[str, Bools]) -> dict[str, Any]:
        """Observation, endings and infos after a step."""
        sensed = self._observe(step)
        diverged = flags["diverged"]
        if diverged is not self._none:
            sensed[diverged] = self.obs[diverged]
        self.obs = sensed
        terminated = flags["failure"]
        return {
            "terminated": terminated,
            "truncated": flags["over"] & ~terminated,
            "observation": self.observation(),
            "infos": self.infos(flags),
        }

    def _sensed(self, step: Step) -> Step:
        """The same as the policy knows it."""
        robots = step.level(step.robots) if self.senses is None else self.senses.robots
        return step if robots is step.robots else replace(step, robots=robots)

    @property
    def takes_chances(self) -> bool:
        """Whether robots, ground or sensors differ from one episode to the next."""
        return self.physics.randomizer is not None or any(self.config.faults)

    def _observe(self, step: Step) -> NDArray[np.float32]:
        """What ``obs`` holds, in this step."""
        sensed = self.layout.observe(self._sensed(step), None if self.history is None else self.history.past())
        if self.privileged_layout is None:
            return sensed
        true = replace(step, robots=step.level(step.robots))
        return np.concatenate([sensed, self.privileged_layout.observe(true)], axis=1)

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
            mechanics=self.physics.mechanics,
            shell=self.physics.shell,
            elapsed=self.elapsed,
            time_limit=self.time_limit,
            floor=self.physics.floor,
            ways=self.physics.ways,
            randomized=self.physics.randomized,
            balance=self._balance,
            level=self.physics.level,
            motors=lambda: self.physics.torques,
        )

    def _balance(self) -> Array:
        """(2, n) of ``Step.balance``."""
        return self.physics.balance + (0.0 if self.senses is None else self.senses.tilted)

    def observation(self) -> Observation:
        """What the robots sense now: arrays that are the caller's to change."""
        sensed = self.obs[:, : self.layout.sensed]
        beside = {} if self.privileged_layout is None else {"privileged": self.obs[:, self.layout.sensed :].copy()}
        if self.cameras is None:
            seen = sensed.copy()
        elif self.config.observation == "encoded":
            seen = np.concatenate([sensed, self.cameras.latest, self.cameras.age[:, None]], axis=1)
        else:
            images = {"depth": self.cameras.latest.copy(), "image_age": self.cameras.age[:, None]}
            return {"proprioception": sensed.copy(), **images, **beside}
        return {"policy": seen, **beside} if beside else seen

    def infos(self, flags: dict[str, Bools] | None = None) -> dict[str, Any]:
        """Of each robot, arrays that are the caller's to change; ``flags`` say which episodes ended and how."""
        names = ["success", "failure", "out_of_bounds", "diverged", *(name for name, _, _ in self._endings)]
        if self.measured:
            names.append("missed")
        upright = self.physics.level(self.robots).rotation[2, 2]
        found: dict[str, Any] = {
            "position": self.robots.position[:2].T.copy(),
            "tilt_deg": np.degrees(np.arccos(np.minimum(np.maximum(upright, -1.0), 1.0))),
            "terrain_id": self.physics.terrain_ids.copy(),
            **({} if self.physics.family is None else {"robot_id": self.physics.robot_ids.copy()}),
            **({} if self.physics.randomizer is None else {"randomized": self.physics.randomizer.by_name}),
            **({} if self.range_shares is None else {"range_share": self.range_shares.levels.copy()}),
            **{name: (self._none if flags is None else flags[name]).copy() for name in names},
            "reward_terms": dict(zip(self.terms, self.term_sums.copy(), strict=True)),
        }
        measures = self.told.command.measures(self.told, self.robots)
        if self.curriculum is not None and (flags is None or np.count_nonzero(flags["over"])):  # who starts, or ends
            measures |= self.curriculum.measures(self.ground.kind_ids[self.physics.terrain_ids])
        if measures:
            found["measures"] = measures
        return found
