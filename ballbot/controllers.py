"""Classical controllers, for which nothing is learned: what a policy that is worth its training beats.

``PIDController`` holds the robot upright.  ``LinearController`` travels: the speed that is missing asks for a lean
towards the goal, the lean that is missing for a torque:

    lean   = kv (target - velocity)          rad, horizontal, at most 0.15
    torque = -(kp (tilt - lean) + kd rate)   shared among the wheels as rolling would turn them

``ObserverController`` of ``ballbot.observer`` travels too, and remembers: it feels the slope of the ground, and leans
against it.  ``ForesightController`` is told the slopes ahead as well, which no sensor of the robot tells, and
``InformedController``, which steers around drops, the heights all around; ``GuidedController`` and
``GuidedObserverController`` are led over ground of any kind.
``LQRController`` of ``ballbot.lqr`` has gains that are computed from the robot's masses and shape.

All of them travel along a goal.  Those that ask for a velocity, linear and LQR, follow other commands too:
``Following`` says which velocity.

All others read the observation of ``frame="body"`` and nothing else, as a policy does.
``experiments/maintenance/fit_gains.py`` found the gains of the second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ballbot.envs.config import WorldConfig, make_command
from ballbot.envs.mechanics import LEAN, LEANING, TRAVEL, mechanics_of, reference
from ballbot.envs.observations import SCAN_ANGLES, SCAN_RADII, Layout, layout_of, ring_directions
from ballbot.envs.sensors import Sensors
from ballbot.errors import SettingsError
from ballbot.lqr import (
    FIRM_SPEED_WEIGHT,
    MOST_MISSING,
    SPEED_WEIGHT,
    START_TIME,
    DryFriction,
    Gains,
    LQRController,
    firm_speed_weight,
)
from ballbot.observer import ForesightController, ObserverController
from ballbot.ppo import FeedbackPrior, Symmetry

Array = NDArray[np.float64]

WHEEL_ANGLES = np.radians([0.0, 120.0, 240.0])
"""Where the wheels sit around the vertical axis of the base (ballbot/assets/ballbot.xml)."""
MAX_LEAN = 0.15
"""rad.  What the robot leans on purpose; it lies at 0.35."""
PRIOR_LEAN = 0.1
"""rad.  The same without the slow start."""
COMPUTED_LEAN = 0.3
"""rad.  Of computed gains, which also push as fast travel takes: held back, they would push and not lean."""
APPROACH = 0.8
"""1/s: who is told a place goes there at so much of its distance, and no faster than otherwise."""
TOLD_VELOCITY = {"velocity_command": 1.0, "station": APPROACH}
"""Field -> m/s of the velocity that is wanted per unit of it."""
ALIKE = 1e-3
"""How far shares of wheels that stand alike may differ."""


@dataclass
class PID:
    """A PID controller for each number of the error."""

    kp: float
    ki: float
    kd: float
    dt: float
    """Seconds between two calls."""
    integral: Array | float = 0.0
    previous: Array | None = None
    """Error of the last call; the first one has no derivative, lest the start be a kick."""

    def __call__(self, error: Array, began: NDArray[np.bool_] | bool = False) -> Array:
        """The command for this error; ``began`` says where the past is of another episode."""
        previous = error if self.previous is None else np.where(began, error, self.previous)
        self.integral = np.where(began, 0.0, self.integral) + error * self.dt
        self.previous = error
        return self.kp * error + self.ki * self.integral + self.kd * (error - previous) / self.dt


@dataclass
class PIDController:
    """Two PID controllers, one of pitch and one of roll: the tilt becomes a push that the three wheels share.

    Args:
        dt: seconds between two calls.
        kp: action per rad.
        ki: action per rad s.
        kd: action per rad/s.
        setpoint: pitch and roll to hold, rad: (2, 1), or (2, num_envs) for each robot's own.
    """

    dt: float
    kp: float = 20.0
    ki: float = 15.0
    kd: float = 2.0
    setpoint: Array | float = 0.0

    def __post_init__(self) -> None:
        self._pid = PID(self.kp, self.ki, self.kd, self.dt)

    def __call__(self, observations: NDArray[np.float32], began: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Actions (n, 3) for observations (n, 17) of ``frame="body"``; ``began`` (n,) marks first steps of episodes."""
        tilt = pitch_and_roll(observations[:, :3].astype(np.float64))
        return wheel_actions(self._pid(self.setpoint - tilt, began))


def pitch_and_roll(gravity: Array) -> Array:
    """Tilt of the base, independent of its heading.

    Args:
        gravity: (num_envs, 3) unit vector of gravity in the body frame, minus the last row of the rotation matrix R.

    Returns:
        (2, num_envs) pitch and roll, rad: the Z-Y-X Euler angles pitch = atan2(-R31, sqrt(R32² + R33²)) and
        roll = atan2(R32, R33).
    """
    r31, r32, r33 = -gravity.T
    return np.stack([np.arctan2(-r31, np.hypot(r32, r33)), np.arctan2(r32, r33)])


def wheel_actions(command: Array) -> NDArray[np.float32]:
    """Share a (2, num_envs) pitch and roll command among the wheels: (num_envs, 3) actions in [-1, 1]."""
    pitch, roll = command
    actions = np.outer(roll, np.cos(WHEEL_ANGLES)) + np.outer(pitch, np.sin(WHEEL_ANGLES))
    return np.clip(actions, -1.0, 1.0).astype(np.float32)


@dataclass
class LinearController:
    """Tilt, rate and velocity feedback towards a speed along the goal.

    Args:
        dt: seconds between two calls.
        kp: action per rad of tilt.
        kd: action per rad/s of tilt.
        kv: rad of lean per m/s of missing speed.
        target_speed: m/s along the goal.

    The gains may be arrays, one number a robot.
    """

    dt: float
    kp: NDArray[np.float64] | float = 36.9
    kd: NDArray[np.float64] | float = 1.7
    kv: NDArray[np.float64] | float = 0.766
    target_speed: NDArray[np.float64] | float = 0.319

    def __post_init__(self) -> None:
        self._elapsed: NDArray[np.float64] | float = 0.0

    def __call__(self, observations: NDArray[np.float32], began: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Actions (n, 3) for observations (n, 17) of ``frame="body"``; ``began`` (n,) marks first steps of episodes."""
        self._elapsed = np.where(began, 0.0, self._elapsed + self.dt)
        x = observations.T.astype(np.float64)
        down, rate, velocity, goal = x[0:3], x[3:6], x[6:8], x[9:11]
        target = self.target_speed * np.minimum(self._elapsed / START_TIME, 1.0) * goal
        lean = np.clip(self.kv * (target - velocity), -MAX_LEAN, MAX_LEAN)
        # small angles: the body's axes x and y lean forward where gravity, seen from the body, has a part along them
        ahead = self.kp * (down[0] - lean[0]) + self.kd * rate[1]
        left = self.kp * (down[1] - lean[1]) - self.kd * rate[0]
        actions = -np.stack([ahead, left]).T @ reference().shares.T
        return np.clip(actions, -1.0, 1.0).astype(np.float32)


@dataclass
class InformedController(LinearController):
    """The same law for who is told the ground around, and goes where that is level, along the goal as far as may be.

    It plans nothing: of the places on the inner rings of ``scan``, those with a drop or a wall close their direction.
    It takes the open one that is nearest to the goal, and goes to the mean of it and of the two next on either side as
    far as they are open, which count the more the nearer they are to the goal.

    Args:
        step: m by which ground may differ from that under the ball.
        reach: m to which a direction must be open.
        focus: how much more directions count that are nearer to the goal: exp(focus cos) of the angle between.
    """

    extra_fields: ClassVar[tuple[str, ...]] = ("scan",)
    """What it reads besides, behind the 17 numbers of ``frame="body"``."""

    target_speed: NDArray[np.float64] | float = 0.25
    step: float = 0.04
    reach: float = 0.5
    focus: float = 4.0

    def __call__(self, observations: NDArray[np.float32], began: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Actions (n, 3) for observations (n, 77): those of ``frame="body"`` and ``scan``."""
        places = ring_directions(SCAN_ANGLES)
        goal, heights = observations[:, 9:11], observations[:, 17:].reshape(len(observations), -1, SCAN_ANGLES)
        near = np.array(SCAN_RADII) <= self.reach
        is_open = np.logical_and.reduce(np.abs(heights[:, near]) <= self.step, axis=1)
        robots, steps = np.arange(len(goal)), np.arange(1, 3)
        best = np.where(is_open, goal @ places, -np.inf).argmax(axis=1)
        beside = np.zeros_like(is_open)
        beside[robots, best] = is_open[robots, best]
        for side in (1, -1):
            order = (best[:, None] + side * steps) % SCAN_ANGLES
            beside[robots[:, None], order] |= np.logical_and.accumulate(is_open[robots[:, None], order], axis=1)
        way = (beside * np.exp(self.focus * (goal @ places))) @ places.T
        length = np.linalg.norm(way, axis=1, keepdims=True)
        told = observations[:, :17].copy()
        told[:, 9:11] = np.where(length > 0, way / np.maximum(length, 1e-9), 0.0)  # closed all around: stay
        return super().__call__(told, began)


@dataclass
class GuidedController(LQRController):
    """The regulator for who is led, the field ``way``, over ground of any kind: how well one can do who knows it all.

    The tuned law of ``LinearController`` falls over the jerks with which a way turns, unless they are smoothed.
    """

    extra_fields: ClassVar[tuple[str, ...]] = ("way",)
    """What it reads besides, behind those of ``frame="body"``."""

    target_speed: float = 0.4

    def __call__(self, observations: NDArray[np.float32], began: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Actions (n, wheels) for observations of ``frame="body"`` and ``way``."""
        return super().__call__(np.hstack([observations[:, :9], observations[:, -2:]]), began)


@dataclass
class GuidedObserverController(ObserverController):
    """The law that feels slopes, for who is led likewise: slower near drops and walls, and on gentle ground as fast.

    Args:
        careful: share of ``target_speed`` near a drop or wall.
        deep: m by which ground must differ from that under the ball to be one.
        near: m, up to where one is near, and from where on none is.
    """

    extra_fields: ClassVar[tuple[str, ...]] = ("way", "scan")
    """What it reads besides, behind the 17 numbers of ``frame="body"``."""

    careful: float = 0.72
    deep: float = 0.08
    near: tuple[float, float] = (0.3, 0.6)

    def __call__(self, observations: NDArray[np.float32], began: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Actions (n, 3) for observations (n, 79): those of ``frame="body"``, ``way`` and ``scan``."""
        edges = np.abs(observations[:, 19:].reshape(len(observations), -1, SCAN_ANGLES)) > self.deep
        distance = np.where(edges.any(axis=2), np.array(SCAN_RADII), np.inf).min(axis=1)
        free = (distance - self.near[0]) / (self.near[1] - self.near[0])
        self.wished_share: Array = self.careful + (1 - self.careful) * np.clip(free, 0.0, 1.0)
        return super().__call__(np.hstack([observations[:, :9], observations[:, 17:19]]), began)

    def _wish(self, speed: Array, along: Array) -> Array:
        return speed * self.wished_share


@dataclass
class Following:
    """A controller that asks for a velocity along the goal, told what to do by another command.

    Told a velocity, it asks for that, and back to its station for ``APPROACH`` of the way; the yaw rate it leaves
    alone, as a ball on a point gives no hold to turn against.  Told places, it goes to them, slower towards the last.

    Args:
        controller: whose every target is ``target_speed`` times the goal.
        layout: of what it observes with this command.
    """

    controller: LinearController | LQRController
    layout: Layout

    def __post_init__(self) -> None:
        self.fastest = self.controller.target_speed
        """m/s to a place."""
        self.controller.target_speed = 1.0  # the goal is a velocity

    def __call__(self, observations: NDArray[np.float32], began: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Actions (n, wheels) for observations of ``frame="body"``; ``began`` (n,) marks first steps of episodes."""
        of = {name: observations[:, at].astype(np.float64) for name, at in self.layout.slices.items()}
        if "velocity_command" in of:
            wanted = np.sum([factor * of[name][:, :2] for name, factor in TOLD_VELOCITY.items() if name in of], axis=0)
        else:
            way = of["target"]
            length = np.linalg.norm(way, axis=1, keepdims=True)
            left = length + np.linalg.norm(of.get("next_target", way) - way, axis=1, keepdims=True)
            wanted = way / np.maximum(length, 1e-9) * np.minimum(APPROACH * left, self.fastest)
        known = self.layout["velocity"].stop
        return self.controller(np.hstack([observations[:, :known], wanted]), began)


Controller = PIDController | LinearController | ObserverController | LQRController

CONTROLLERS: dict[str, Callable[..., Controller]] = {
    "pid": PIDController,
    "linear": LinearController,
    "lqr": LQRController,
    "observer": ObserverController,
    "foresight": ForesightController,
    "informed": InformedController,
    "guided": GuidedController,
    "guided_observer": GuidedObserverController,
}
"""Name -> controller."""


def find_controller(name: str) -> Callable[[float], Controller] | None:
    """What makes a controller (of dt in s) by its name.

    Args:
        name: one of ``CONTROLLERS``, all but "pid" also with a target speed in m/s, "observer:0.35".

    Returns:
        None for another name.

    Raises:
        SettingsError: the speed is none.
    """
    kind, colon, given = name.partition(":")
    made = CONTROLLERS.get(kind)
    if made is None or (colon and made is PIDController):
        return None
    if not colon:
        return made
    try:
        speed = float(given)
    except ValueError:
        speed = -1.0
    if not 0 <= speed <= 1:
        raise SettingsError(f'{name}: behind "{kind}:" comes a speed from 0 to 1 m/s, as in {kind}:0.25')
    return partial(made, target_speed=speed)


def make_controller(make: Callable[..., Controller], dt: float, world: WorldConfig) -> Controller | Following:
    """What ``find_controller`` found, for the robot of a world.

    Args:
        make: of it.
        dt: seconds between two calls.
        world: of the robot, and what it is told.

    Raises:
        SettingsError: its gains are those of another robot, or for torques where motors take others, or it does not
            follow this command.
    """
    robot = world.robot_config
    kind = getattr(make, "func", make)
    name = next(name for name, made in CONTROLLERS.items() if made is kind)
    if isinstance(kind, type) and issubclass(kind, LQRController):
        model = None if robot.is_reference else robot.spec().compile()
        options = {"keeps_velocity": keeps_velocity(world), "action": world.action}
        controller = make(dt, robot=model, speed_weight=speed_weight(world), **options)
    elif world.action != "torque":
        raise SettingsError(
            f'controller "{name}" asks for torques, and motors here take action={world.action!r}: take "lqr", whose '
            "gains are computed for that, or --action torque"
        )
    elif robot.is_reference:
        controller = make(dt)
    else:
        raise SettingsError(
            f'controller "{name}" has gains for the robot "reference": take "lqr", whose gains are computed for each, '
            "or that robot"
        )
    asked = make_command(world.command, world.motion).fields
    if "goal" in asked:
        return controller
    told_one = bool({"velocity_command", "target"} & set(asked))  # that this module knows
    if told_one and isinstance(controller, (LinearController, LQRController)) and not controlled_fields(name):
        return Following(controller, layout_of("body", asked, ()))
    raise SettingsError(
        f'controller "{name}" does not follow command {world.command!r}: take "lqr" or "linear", which follow '
        "velocities and places, or what was trained for it"
    )


def keeps_velocity(world: WorldConfig) -> bool:
    """Whether robots are told how fast to go, and so have to be as exact as they can."""
    return world.command == "velocity"


def speed_weight(world: WorldConfig) -> float:
    """With which gains are computed for the robot of a world, see ``ballbot.lqr.gains_of``."""
    sensors = Sensors(**world.faults[0])
    if not (keeps_velocity(world) or sensors.velocity == "estimated"):
        return SPEED_WEIGHT if world.action == "torque" else FIRM_SPEED_WEIGHT
    return firm_speed_weight(mechanics_of(world.robot_config).near_upright_by(world.action), sensors.latest)


def controlled_fields(name: str) -> tuple[str, ...]:
    """Fields that the controller of this name reads besides those of ``frame="body"`` and command "goal"."""
    fields: tuple[str, ...] = getattr(CONTROLLERS[name.partition(":")[0]], "extra_fields", ())
    return fields


def feedback_prior(
    layout: Layout,
    target_speed: float,
    kp: float = float(LinearController.kp),
    kd: float = float(LinearController.kd),
    kv: float = float(LinearController.kv),
) -> FeedbackPrior:
    """The same law for a policy to start from.

    It leans less, because it does without the slow start, which a law without memory cannot have.

    Args:
        layout: of the observation, with the fields of ``frame="body"`` and command "goal".
        target_speed: m/s along the goal.
        kp: gain, see ``LinearController``.
        kd: the same.
        kv: the same.
    """
    shares = torch.from_numpy(reference().shares)  # (3, 2)
    down, rate, velocity, goal = (layout[name].start for name in ("gravity", "gyro", "velocity", "goal"))
    tilt = torch.zeros(2, layout.size, dtype=torch.float64)
    tilt[0, down], tilt[0, rate + 1] = kp, kd
    tilt[1, down + 1], tilt[1, rate] = kp, -kd
    lean = torch.zeros(2, layout.size, dtype=torch.float64)
    lean[0, goal] = lean[1, goal + 1] = kv * target_speed
    lean[0, velocity] = lean[1, velocity + 1] = -kv
    return FeedbackPrior(-shares @ tilt, kp * shares, lean, torch.full((2,), PRIOR_LEAN))


def computed_prior(
    layout: Layout,
    estimated: Layout | None,
    target_speed: float,
    gains: Gains,
    ball_depth: float,
    friction: DryFriction | None = None,
) -> FeedbackPrior:
    """The same of a robot whose gains are computed; along a field that leads, where one is observed or estimated.

    Told a velocity it drives at that, and back to the station that it is told to keep.  Where ``balance`` is, lean
    counts from there.

    Args:
        layout: of the observation, with the fields of ``frame="body"`` and command "goal" or "velocity".
        estimated: of what follows in a row, estimated of it.
        target_speed: m/s along the goal, or way.
        gains: of ``ballbot.lqr``.
        ball_depth: m from the base's origin down to the ball's centre.
        friction: of the wheels, that is made up for; not None if it is to keep velocities, see ``LQRController``.
    """
    size = layout.size + (0 if estimated is None else estimated.size)
    down, rate, velocity = (layout[name].start for name in ("gravity", "gyro", "velocity"))
    if estimated is not None and estimated.leading is not None:
        wanted = {layout.size + estimated.leading.start: target_speed}
    elif layout.leading is None and "velocity_command" in layout.names:
        wanted = {layout[name].start: of for name, of in TOLD_VELOCITY.items() if name in layout.names}
    else:
        wanted = {(layout.leading or layout["goal"]).start: target_speed}
    tilt, leaning, missing, hold = (np.zeros((2, size)) for _ in range(4))
    tilt[0, down] = tilt[1, down + 1] = 1.0
    for part, start in ((layout, 0), (estimated, layout.size)):
        if part is not None and "balance" in part.names:
            at = start + part["balance"].start
            tilt[0, at] = tilt[1, at + 1] = -1.0
    leaning[0, rate + 1], leaning[1, rate] = 1.0, -1.0
    for at, speed in wanted.items():
        hold[0, at] = hold[1, at + 1] = speed
    missing[0, velocity] = missing[1, velocity + 1] = -1.0
    by_tilt, by_leaning, by_travel = gains.state[:, LEAN], gains.state[:, LEANING], gains.state[:, TRAVEL]
    if friction is None:
        direct = gains.travel @ hold - by_tilt @ tilt - (by_leaning - ball_depth * by_travel) @ leaning
        outer, inner = by_tilt, np.linalg.pinv(by_tilt) @ by_travel @ (missing + hold)
        limit = np.full(2, COMPUTED_LEAN)
    else:
        direct = gains.travel @ hold - by_tilt @ tilt - by_leaning @ leaning
        travel, wheels = -missing - ball_depth * leaning, len(friction.turning)
        outer = -np.hstack([by_travel, friction.most * np.eye(wheels)])
        inner = np.vstack([travel - hold, friction.turning @ travel])
        limit = np.append(np.full(2, MOST_MISSING), np.ones(wheels))
    return FeedbackPrior(*map(torch.from_numpy, (direct, outer, inner, limit)))


TURNS = {3: np.array([[-0.5, -np.sqrt(0.75)], [np.sqrt(0.75), -0.5]]), 4: np.array([[0.0, -1.0], [1.0, 0.0]])}
"""Wheels -> the turn after which they stand as before."""


def robot_symmetry(
    layout: Layout, *behind: Layout | None, mirror: bool = False, shares: Array | None = None
) -> Symmetry:
    """The robot's symmetry: three equal wheels, so that turned by 0, 120 or 240 degrees it is the same robot.

    With four it is the same turned by 0, 90, 180 or 270 degrees.

    And, as long as wheels do not slip, in a mirror: they sit askew, so that it looks different there, but what they do
    depends on the ways that they push, which lie as their own images.  Mirrored is the way that wheel 0 pushes; the
    wheels turn backwards, and the two others take each other's places.  What the reference's two cameras see has no
    counterpart on the other sides, and their arms, 4 % of the mass, break the symmetry a little; cameras of a rig take
    each other's places where its angles allow, but not in a mirror.

    Args:
        layout: of the observation, in ``frame="body"``.
        behind: of what follows in a row: what the policy estimates, and what only the value function sees.
        mirror: see the mirror images of these sides too.
        shares: (wheels, 2) how the wheels turn, see ``Mechanics.shares``; None: those of the reference's robot.

    Raises:
        SettingsError: (a ValueError) the wheels are not alike, so there is no such symmetry.
    """
    shares = reference().shares if shares is None else shares

    def seen(plane: Array) -> tuple[Array, Array]:
        """Matrices of observations and actions, of a turn or a mirror."""
        sign = np.sign(np.linalg.det(plane))  # in a mirror wheels turn backwards
        # what wheel i does when the robot rolls along a turned way, wheel j does along the way itself
        swap = np.isclose((sign * shares @ plane)[:, None], shares[None], atol=ALIKE).all(axis=2).astype(float)
        if not (swap.sum(axis=0) == 1).all():
            what = f"turned by {360 // len(shares)}°" if sign > 0 else "mirrored"
            raise SettingsError(
                f"{what}, the wheels do not take each other's places, their shares are {shares.round(4).tolist()}: use "
                "--no-symmetry"
            )
        wheels = sign * swap
        parts = [part.turned(plane, wheels) for part in (layout, *behind) if part is not None]
        whole = np.zeros((sum(map(len, parts)),) * 2)
        for part, end in zip(parts, np.cumsum([len(part) for part in parts]), strict=True):
            whole[end - len(part) : end, end - len(part) : end] = part
        return whole, wheels

    turned, swap = seen(TURNS[len(shares)])
    observations, actions = [np.eye(len(turned))], [np.eye(len(shares))]
    for _ in range(len(shares) - 1):
        observations.append(observations[-1] @ turned)
        actions.append(actions[-1] @ swap)
    if mirror:
        way = shares[0] / np.linalg.norm(shares[0])
        image, wheels = seen(np.eye(2) - 2 * np.outer(way, way))
        observations += [image @ each for each in observations]
        actions += [wheels @ each for each in actions]
    return Symmetry(torch.from_numpy(np.stack(observations)), torch.from_numpy(np.stack(actions)))
