"""What stands between a robot and what it senses, and between what it asks for and what its motors do.

    BallbotVectorEnv(64, sensors="cheap")
    BallbotVectorEnv(64, sensing={"gyro_noise": 0.02, "delay_ms": (0, 20), "velocity": "estimated"})

Rewards, endings and a value function's ``privileged_fields`` know the truth, and only what a policy observes goes
through here.  Sensors are part of the task that a policy is trained for, and judged in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.checks import check_state_array
from ballbot.envs.mechanics import LEAN, LEANING, TRAVEL, Mechanics
from ballbot.envs.random_streams import WORDS, pack_streams, unpack_streams
from ballbot.envs.step import RobotState, rotation_matrix, turned
from ballbot.errors import SettingsError
from ballbot.settings import Range, check_settings, check_span, default_of, nearest

Array = NDArray[np.float64]

BLOCK = 128
"""Steps whose noise is drawn at once."""
LONGEST_DELAY = 200.0
"""ms."""
LOST_IN_A_ROW = 16
"""Messages after which the oldest that is known counts as the one before."""
DELAYS = ("delay_ms", "action_delay_ms", "camera_delay_ms")
"""Which of the values are ranges."""
ESTIMATED = ("velocity", "velocity_filter_ms", "balance_s")
"""Which of the values say what is made of measurements, and no fault."""
OF_CAMERAS = "camera_"
"""What the names of those begin with that only robots with cameras have."""


@dataclass(frozen=True)
class Sensors:
    """How well a robot senses, and how late; with nothing said, perfectly and at once.

    What is drawn for each episode is drawn evenly; noise is Gaussian, anew every 2 ms or with each image, by its
    standard deviation.  What begins with camera_ is nothing to robots without images.

    Raises:
        SettingsError: (a ValueError) a value is of another kind or out of range.
    """

    velocity: Literal["true", "estimated"] = "true"
    """Of the base: as the simulation knows it, or as wheels and gyroscope say, as a robot has it."""
    velocity_filter_ms: Annotated[float, Range(0, 1000)] = 100.0
    """Time constant, ms, in which wheels correct that estimate; below 60 they shake robots until they fall."""
    balance_s: Annotated[float, Range(0, 1000)] = 0.0
    """Time constant, s, in which that estimate finds out where the robot balances, and lean is told from there; it
    begins with how the robot was set on its ball.  0: lean is told from the vertical."""
    gyro_noise: Annotated[float, Range(0, 5)] = 0.0
    """Of each axis, rad/s."""
    gyro_bias: Annotated[float, Range(0, 2)] = 0.0
    """Most of what each axis tells at rest, rad/s, drawn for each episode."""
    gyro_drift: Annotated[float, Range(0, 1)] = 0.0
    """How far that wanders in a second, rad/s."""
    tilt_noise: Annotated[float, Range(0, 10)] = 0.0
    """Of the orientation, about each axis, degrees."""
    tilt_bias: Annotated[float, Range(0, 10)] = 0.0
    """Most by which the orientation is told wrong, about x and y, degrees, drawn for each episode."""
    imu_filter_ms: Annotated[float, Range(0, 100)] = 0.0
    """Time constant of the low pass behind the gyroscope, ms; one step is 2."""
    wheel_counts: Annotated[int, Range(0, 10**7)] = 0
    """Counts of a wheel's encoder in a turn, from whose differences in 2 ms its speed is known; 0: exactly."""
    wheel_filter_ms: Annotated[float, Range(0, 100)] = 0.0
    """Time constant of the low pass behind that, ms."""
    wheel_dropout: Annotated[float, Range(0, 0.99)] = 0.0
    """Share of a wheel's readings that are those before."""
    delay_ms: tuple[float, float] = (0.0, 0.0)
    """By which a policy knows all of this late, ms, from and to, drawn for each episode."""
    action_delay_ms: tuple[float, float] = (0.0, 0.0)
    """By which motors do late what it asks for, likewise."""
    jitter_ms: Annotated[float, Range(0, LONGEST_DELAY)] = 0.0
    """Most by which each message, either way, comes later than that; one that is overtaken counts for nothing."""
    lost: Annotated[float, Range(0, 0.99)] = 0.0
    """Share of the messages, either way, that never come."""

    camera_noise: Annotated[float, Range(0, 0.5)] = 0.0
    """Of a pixel's depth at 1 m, m; it grows with the square of the distance, as of stereo and structured light."""
    camera_noise_floor: Annotated[float, Range(0, 0.1)] = 0.0
    """And however near, m."""
    camera_step: Annotated[float, Range(0, 1)] = 0.0
    """Of disparity: 1 / depth is a multiple of it, 1/m; 0: any number."""
    camera_edges: Annotated[float, Range(0, 1)] = 0.0
    """Share of the pixels beside which depth jumps by more than 3 cm that are lost: as if nothing were there."""
    camera_holes: Annotated[float, Range(0, 0.99)] = 0.0
    """Share of all pixels that are lost likewise, a few beside each other, others in each image."""
    camera_lost: Annotated[float, Range(0, 0.99)] = 0.0
    """Share of the images that never come: those before stay, and age."""
    camera_delay_ms: tuple[float, float] = (0.0, 0.0)
    """By which images come late, ms, from and to, drawn for each episode; their age counts from their taking."""
    camera_tilt: Annotated[float, Range(0, 10)] = 0.0
    """Most by which each camera is turned about each of its axes, degrees, drawn for each episode."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.balance_s and self.velocity != "estimated":
            raise SettingsError(
                f"balance_s={self.balance_s:g} belongs to velocity='estimated': give that, or leave it out"
            )
        for name in DELAYS:
            span = check_span(name, getattr(self, name), Annotated[float, Range(0, LONGEST_DELAY)], "(0, 20)")
            object.__setattr__(self, name, span)

    @property
    def latest(self) -> float:
        """How late, s, all that a robot senses has had its effect, but for what is lost."""
        late = self.delay_ms[1] + self.action_delay_ms[1] + 2 * self.jitter_ms + self.imu_filter_ms
        return late / 1000

    @property
    def given(self) -> dict[str, Any]:
        """What is not perfect, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != default_of(f)}


SENSORS: dict[str, dict[str, Any]] = {
    "perfect": {},
    # InvenSense MPU-6050 (PS-MPU-6000A-00): 0.05 degrees/s rms noise behind its 98 Hz filter of 2.8 ms; levelled and
    # zeroed at rest, as its offsets of 20 degrees/s must be; what is left of these, and the rest, is a guess
    "cheap": {
        "velocity": "estimated", "velocity_filter_ms": 200.0, "balance_s": 6.0, "gyro_noise": 0.0017,
        "gyro_bias": 0.02, "gyro_drift": 0.002, "tilt_noise": 0.1, "tilt_bias": 0.5, "imu_filter_ms": 3.0,
        "wheel_counts": 4096, "wheel_filter_ms": 2.0, "wheel_dropout": 0.001, "delay_ms": (0.0, 10.0),
        "action_delay_ms": (0.0, 10.0), "jitter_ms": 2.0, "lost": 0.002,
        # Intel RealSense D435, 848 x 480: noise of z^2 0.08 px / (f B), as Intel says (Grunnet-Jepsen et al., Tuning
        # depth cameras for best performance), steps of 1/32 px, with f = 424 px, B = 50 mm; 0.0039 was measured by Ahn
        # et al. (2019, Ubiquitous Robots).  What is lost, late and crooked is a guess
        "camera_noise": 0.004, "camera_noise_floor": 0.001, "camera_step": 0.0015, "camera_edges": 0.5,
        "camera_holes": 0.02, "camera_lost": 0.01, "camera_delay_ms": (20.0, 50.0), "camera_tilt": 1.0,
    },
}  # fmt: skip
"""Name -> sensors.  Yours may be added."""


def check_sensing(name: str, sensing: Mapping[str, Any]) -> dict[str, Any]:
    """What is not perfect of sensors, by name.

    Args:
        name: one of ``SENSORS``.
        sensing: other values of ``Sensors``, by name.

    Raises:
        SettingsError: there is no such name, or a value cannot be used.
    """
    if name not in SENSORS:
        raise SettingsError(f"sensors={name!r} is unknown: {nearest(str(name), SENSORS)}")
    known = [f.name for f in fields(Sensors)]
    for key in sensing:
        if key not in known:
            raise SettingsError(f"sensors has no {key!r}: {nearest(str(key), known)}")
    try:
        return Sensors(**{**SENSORS[name], **sensing}).given
    except SettingsError as error:
        raise SettingsError(f"sensors: {error}") from error


def parted(sensing: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values of sensors and motors, and those of cameras, by name."""
    motion = {name: value for name, value in sensing.items() if not name.startswith(OF_CAMERAS)}
    return motion, {name: value for name, value in sensing.items() if name not in motion}


@dataclass(frozen=True)
class VelocityEstimate:
    """The base's velocity by what its wheels and its gyroscope tell, for a ball that does not slip.

    Wheels tell at once how fast the ball rolls, and shake; what they shake leaves the body's centre of percussion where
    it is, and gravity alone moves that, as the body leans.  So a complementary filter follows that point by its lean
    and, slowly, by the wheels, and back at the base the gyroscope alone is quick::

        leaning = (gyro_y, -gyro_x)
        steady turns with the base by -gyro_z dt
        steady += pull (gravity - balance) dt
        missing = turn @ wheel_speeds + (arm + percussion) leaning - steady
        steady += share missing
        balance -= settle missing
        velocity along the base's x and y = steady - percussion leaning

    Where wheels tell all the time that it goes another way than it leans, it balances elsewhere.  It knows nothing of
    the slope's third dimension: the velocity along the base's z is 0.
    """

    turn: Array
    """(2, wheels) m/s of each axis per rad/s of each wheel."""
    arm: float
    """m, from the ground up to the base's origin."""
    percussion: float
    """m, from there up to the centre of percussion."""
    pull: float
    """m/s^2 of that point, where gravity points along an axis of the base."""
    share: float
    """Of what wheels tell otherwise, what counts in a step."""
    settle: float
    """Of gravity's unit vector, by how much balance is elsewhere after a step in which a m/s is missing."""
    most: float = 0.3
    """Of it, how far from upright a robot may balance."""

    @classmethod
    def of(cls, mechanics: Mechanics, sensors: Sensors, dt: float) -> VelocityEstimate:
        """Of a robot with these sensors, and a step in s."""
        turn = np.asarray(np.linalg.pinv(mechanics.rolling), np.float64)
        arm = float(mechanics.ball_radius + mechanics.ball_depth)
        percussion, a = float(mechanics.percussion), mechanics.near_upright.a
        along = a[TRAVEL, LEAN] + (mechanics.ball_depth + percussion) * a[LEANING, LEAN]
        pull, share = float(np.diag(along).mean()), low_pass(sensors.velocity_filter_ms, dt)
        settle = share / (sensors.balance_s * pull) if sensors.balance_s else 0.0
        return cls(turn, arm, percussion, pull, share, settle)

    def measured(self, wheel_speeds: Array, gyro: Array) -> Array:
        """(2, n) m/s of the centre of percussion by the wheels alone, of (wheels, n) and (3, n) rad/s."""
        return np.asarray(self.turn @ wheel_speeds + (self.arm + self.percussion) * _leaning(gyro))

    def step(
        self, steady: Array, balance: Array, wheel_speeds: Array, gyro: Array, down: Array, dt: float
    ) -> tuple[Array, Array]:
        """What both are a step of dt s later, along axes that have turned with the base meanwhile.

        Args:
            steady: (2, n) m/s of the centre of percussion.
            balance: (2, n) of the unit vector of gravity, along the base's x and y, in balance.
            wheel_speeds: (wheels, n) rad/s.
            gyro: (3, n) rad/s.
            down: (2, n) of the unit vector of gravity, now.
            dt: s.
        """
        steady = steady + dt * (gyro[2] * np.stack([steady[1], -steady[0]]) + self.pull * (down - balance))
        missing = self.measured(wheel_speeds, gyro) - steady
        return steady + self.share * missing, np.clip(balance - self.settle * missing, -self.most, self.most)

    def velocity(self, steady: Array, gyro: Array) -> Array:
        """(2, n) m/s of the base, of those of the centre of percussion behind it."""
        return np.asarray(steady - self.percussion * _leaning(gyro))


def _leaning(turn: Array) -> Array:
    """(2, n) rad/s at which a base leans along its x and y that turns by these; of rad, how far."""
    return np.stack([turn[1], -turn[0]])


class Noise:
    """Numbers for each step and robot, from each robot's own stream: one goes on alike whatever the others do.

    Args:
        num: robots.
        normal: how many numbers of a normal distribution each needs in a step.
        even: how many between 0 and 1.
    """

    def __init__(self, num: int, normal: int, even: int) -> None:
        self.streams: list[np.random.Generator] = []
        self._normal = normal
        self._block = np.zeros((num, BLOCK, normal + even))
        self._at = np.full(num, BLOCK)
        self._then = np.zeros((num, 0), np.int64)
        """(num, words) the streams' states before their blocks were drawn."""

    def begin(self, streams: list[np.random.Generator]) -> None:
        """Take the robots' streams."""
        self.streams = streams
        self._then = pack_streams(streams)
        self._at[:] = BLOCK

    def forget(self, robot: int) -> None:
        """Draw its next numbers anew."""
        self._at[robot] = BLOCK

    def _renew(self, robot: int) -> None:
        """Draw a block."""
        stream = self.streams[robot]
        self._then[robot] = pack_streams([stream])[0]
        self._block[robot, :, : self._normal] = stream.standard_normal((BLOCK, self._normal))
        self._block[robot, :, self._normal :] = stream.random((BLOCK, self._block.shape[2] - self._normal))
        self._at[robot] = 0

    def next(self) -> tuple[Array, Array]:
        """(normal, num) and (even, num) numbers for this step."""
        for robot in np.flatnonzero(self._at >= BLOCK):
            self._renew(int(robot))
        found = self._block[np.arange(len(self._at)), self._at].T
        self._at += 1
        return found[: self._normal], found[self._normal :]

    def get_state(self) -> dict[str, NDArray[Any]]:
        """What decides the numbers to come."""
        return {"noise_streams": self._then.copy(), "noise_at": self._at.copy()}

    def check_state(self, state: Any) -> dict[str, NDArray[Any]]:
        """The arrays of ``get_state``; ValueError if a state lacks them, or one is damaged."""
        state = state if isinstance(state, Mapping) else {}
        words = np.empty((len(self._at), WORDS), np.int64)
        found = {
            "noise_streams": check_state_array(state, "noise_streams", words),
            "noise_at": check_state_array(state, "noise_at", self._at, 0, BLOCK),
        }
        unpack_streams(found["noise_streams"])
        return found

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``check_state`` returned, of streams as they are now: who is in a block draws it again."""
        self._then[:], self._at[:] = state["noise_streams"], BLOCK
        for robot, then in enumerate(unpack_streams(state["noise_streams"])):
            if (at := int(state["noise_at"][robot])) < BLOCK:
                generator = self.streams[robot].bit_generator
                now, generator.state = generator.state, then.bit_generator.state
                self._renew(robot)
                self._at[robot], generator.state = at, now  # others may have drawn from the stream since


class Senses:
    """What n robots sense, of how they are: with noise and bias, and late; and what their motors are told, late.

    Args:
        sensors: how well.
        num: robots.
        dt: s of a step.
        mechanics: of the robot, as its maker knows it.
        robots: as they are before the first episode begins.
    """

    def __init__(self, sensors: Sensors, num: int, dt: float, mechanics: Mechanics, robots: RobotState) -> None:
        self.sensors, self._dt = sensors, dt
        self._estimate = None
        if sensors.velocity == "estimated":
            self._estimate = VelocityEstimate.of(mechanics, sensors, dt)
        wheels = mechanics.wheels
        self.noise = Noise(num, 9, wheels + 4)
        self._late = [_steps(sensors, sensors.delay_ms, dt), _steps(sensors, sensors.action_delay_ms, dt)]
        self._now = self._asked = 0
        self._kept: dict[str, NDArray[Any]] = {
            "gyro_bias": np.zeros((3, num)),
            "tilt_bias": np.zeros((2, num)),
            "gyro": np.zeros((3, num)),
            "wheel_angles": np.zeros((wheels, num)),
            "wheel_speeds": np.zeros((wheels, num)),
            "wheel_readings": np.zeros((wheels, num)),
            "steady": np.zeros((2, num)),
            "balance": np.zeros((2, num)),
            "delays": np.zeros((2, num)),
            "ages": np.zeros((2, num), np.int64),
            "messages": np.zeros((self._late[0], 13 + wheels, num)),
            "asked": np.zeros((self._late[1], wheels, num)),
        }
        self.robots = robots
        """As the policy knows them."""

    def begin(self, ids: NDArray[np.intp], robots: RobotState) -> None:
        """Robots ``ids`` begin an episode as they are; what is drawn for it comes from their streams."""
        s, kept = self.sensors, self._kept
        shaken = np.zeros((6, len(robots.gyro[0])))
        for i in ids:
            bias, tilt, delays = np.split(self.noise.streams[i].uniform(-1, 1, 7), [3, 5])
            kept["gyro_bias"][:, i] = s.gyro_bias * bias
            kept["tilt_bias"][:, i] = np.radians(s.tilt_bias) * tilt
            for row, ((low, high), share) in enumerate(zip((s.delay_ms, s.action_delay_ms), delays, strict=True)):
                kept["delays"][row, i] = (low + (high - low) * (share + 1) / 2) / 1000 / self._dt
            shaken[:, i] = self.noise.streams[i].standard_normal(6)
            self.noise.forget(int(i))
        kept["ages"][:, ids] = np.round(kept["delays"][:, ids])
        kept["gyro"][:, ids] = (robots.gyro + s.gyro_noise * shaken[:3])[:, ids]
        kept["wheel_angles"][:, ids] = 0.0
        for name in ("wheel_speeds", "wheel_readings"):
            kept[name][:, ids] = robots.wheel_speeds[:, ids]
        if self._estimate is not None:
            kept["steady"][:, ids] = self._estimate.measured(kept["wheel_speeds"], kept["gyro"])[:, ids]
        quaternion = self._orientation(robots, np.radians(s.tilt_noise) * shaken[3:])
        if s.balance_s:
            kept["balance"][:, ids] = -rotation_matrix(quaternion)[2, :2][:, ids]
        kept["messages"][:, :, ids] = self._message(robots, quaternion)[:, ids]
        kept["asked"][:, :, ids] = 0.0
        self._tell()

    @property
    def tilted(self) -> Array:
        """(2, n) how far beside the truth, along the base's x and y, gravity seems to point."""
        return _leaning(self._kept["tilt_bias"]) - self._kept["balance"]

    @property
    def measured(self) -> RobotState:
        """As the policy knows them, but for the orientation, which is told from the vertical, as it was measured.

        From where the robot balances now: that moves too slowly to have been elsewhere when it was measured.
        """
        back = _turned(self.robots.quaternion, np.pad(-_leaning(self._kept["balance"]), ((0, 1), (0, 0))))
        return replace(self.robots, quaternion=back, rotation=rotation_matrix(back))

    def step(self, robots: RobotState) -> None:
        """Measure once more, 2 ms later."""
        s, kept, dt = self.sensors, self._kept, self._dt
        normal, even = self.noise.next()
        kept["gyro_bias"] += s.gyro_drift * np.sqrt(dt) * normal[3:6]
        kept["gyro"] += low_pass(s.imu_filter_ms, dt) * (robots.gyro + s.gyro_noise * normal[:3] - kept["gyro"])
        read = robots.wheel_speeds
        if s.wheel_counts:
            count = 2 * np.pi / s.wheel_counts
            before = np.floor(kept["wheel_angles"] / count)
            kept["wheel_angles"] = kept["wheel_angles"] + read * dt
            read = (np.floor(kept["wheel_angles"] / count) - before) * count / dt
        read = np.where(even[4:] < s.wheel_dropout, kept["wheel_readings"], read)
        kept["wheel_readings"] = read
        kept["wheel_speeds"] = kept["wheel_speeds"] + low_pass(s.wheel_filter_ms, dt) * (read - kept["wheel_speeds"])
        quaternion = self._orientation(robots, np.radians(s.tilt_noise) * normal[6:9])
        if self._estimate is not None:
            gyro, down = kept["gyro"] + kept["gyro_bias"], -rotation_matrix(quaternion)[2, :2]
            kept["steady"], kept["balance"] = self._estimate.step(
                kept["steady"], kept["balance"], kept["wheel_speeds"], gyro, down, dt
            )
        self._now = (self._now + 1) % len(kept["messages"])
        kept["messages"][self._now] = self._message(robots, quaternion)
        self._age(0, even[0], even[1])
        self._age(1, even[2], even[3])
        self._tell()

    def ask(self, actions: Array) -> Array:
        """(n, wheels) what motors do now, who are asked for (n, wheels) actions, and were before."""
        asked = self._kept["asked"]
        self._asked = (self._asked + 1) % len(asked)
        asked[self._asked] = actions.T
        robots = np.arange(len(actions))
        return np.asarray(asked[self._asked - self._kept["ages"][1], :, robots])

    def _orientation(self, robots: RobotState, tilt: Array) -> Array:
        """(4, n) how it is read of robots, so much wrong, (3, n) rad about their axes, beside the bias."""
        if not (self.sensors.tilt_noise or self.sensors.tilt_bias):
            return robots.quaternion
        return _turned(robots.quaternion, tilt + np.pad(self._kept["tilt_bias"], ((0, 1), (0, 0))))

    def _message(self, robots: RobotState, quaternion: Array) -> Array:
        """(numbers, n) what is told of robots whose orientation is read so."""
        kept, velocity = self._kept, robots.velocity
        if self.sensors.balance_s:
            quaternion = _turned(quaternion, np.pad(_leaning(kept["balance"]), ((0, 1), (0, 0))))
        gyro = kept["gyro"] + kept["gyro_bias"]
        body = None if self._estimate is None else self._estimate.velocity(kept["steady"], gyro)
        if body is not None or quaternion is not robots.quaternion:
            if body is None:
                along = np.einsum("ijn,in->jn", robots.rotation, velocity)
            else:
                along = np.concatenate([body, np.zeros((1, body.shape[1]))])
            velocity = np.einsum("ijn,jn->in", rotation_matrix(quaternion), along)
        return np.concatenate([quaternion, velocity, gyro, kept["wheel_speeds"], robots.position])

    def _tell(self) -> None:
        """Let the policy know the newest message that has come."""
        messages = self._kept["messages"]
        rows = self._now - self._kept["ages"][0]
        came = messages[rows, :, np.arange(messages.shape[2])].T.copy()
        quaternion, velocity, gyro, wheel_speeds, position = np.split(came, [4, 7, 10, len(came) - 3])
        self.robots = RobotState(position, quaternion, rotation_matrix(quaternion), velocity, gyro, wheel_speeds)

    def _age(self, which: int, jitter: Array, lost: Array) -> None:
        """Of the newest message that has come."""
        s, age = self.sensors, self._kept["ages"][which] + 1
        delay = np.round(self._kept["delays"][which] + s.jitter_ms / 1000 / self._dt * jitter).astype(np.int64)
        age = np.where(lost < s.lost, age, np.minimum(age, delay))
        self._kept["ages"][which] = np.minimum(age, self._late[which] - 1)

    def get_state(self) -> dict[str, Any]:
        """What decides what is sensed from here on."""
        kept = {name: array.copy() for name, array in self._kept.items()}
        return {**kept, "rows": np.array([self._now, self._asked]), **self.noise.get_state()}

    def check_state(self, state: Any) -> dict[str, NDArray[Any]]:
        """The arrays of ``get_state``; ValueError if a world's state lacks them, or one is damaged."""
        state = state if isinstance(state, Mapping) else {}
        found = {name: check_state_array(state, name, array) for name, array in self._kept.items()}
        found["ages"] = check_state_array(state, "ages", self._kept["ages"], 0, max(self._late) - 1)
        found["rows"] = check_state_array(state, "rows", np.zeros(2, np.int64), 0, max(self._late) - 1)
        if (found["ages"].max(axis=1) >= self._late).any() or (found["rows"] >= self._late).any():
            raise ValueError("state 'ages' or 'rows' tells of messages that are not kept: it is damaged")
        return found | self.noise.check_state(state)

    def set_state(self, state: Mapping[str, NDArray[Any]], streams: list[np.random.Generator]) -> None:
        """Restore what ``check_state`` returned, of robots with these streams."""
        for name, array in self._kept.items():
            array[:] = state[name]
        self._now, self._asked = state["rows"].tolist()
        self.noise.begin(streams)
        self.noise.set_state(state)
        self._tell()


def _steps(sensors: Sensors, delays: tuple[float, float], dt: float) -> int:
    """Messages to keep: as long as one may be on its way, and a few that never come."""
    return int(np.ceil((delays[1] + sensors.jitter_ms) / 1000 / dt)) + (LOST_IN_A_ROW if sensors.lost else 0) + 1


def low_pass(milliseconds: float, dt: float) -> float:
    """Of a change, what a low pass lets through in a step."""
    return dt / (dt + milliseconds / 1000)


def _turned(quaternion: Array, turn: Array) -> Array:
    """(4, n) orientations, turned by small (3, n) rotation vectors about their own axes, rad."""
    found = turned(quaternion, np.concatenate([np.ones_like(turn[:1]), turn / 2]))
    return np.asarray(found / np.sqrt((found**2).sum(axis=0)))
