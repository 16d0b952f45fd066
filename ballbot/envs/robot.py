"""Ballbots by their numbers: from the radius of the ball to the torque of the motors, a MuJoCo model.

    from ballbot.envs import ROBOTS, RobotConfig
    from ballbot.lqr import LQRController

    ROBOTS["mine"] = RobotConfig(ball_radius=0.115, ball_mass=3.0, body_mass=13.4, wheels=4, wheel_model="rollers")
    model = ROBOTS["mine"].compile()
    control = LQRController(model.opt.timestep, target_speed=0.2, robot=model)

``gym.make_vec("Ballbot-v0", 64, robot="mine")`` is the world with that robot, and so is ``--robot mine`` of a plugin.

The wheels stand around the ball's top at equal angles, each in a vertical plane through the ball's centre in which its
axle lies too.  Two models of an omniwheel are there.  "capsule" is the reference's: one solid that slips along its axle
by its coefficients of friction, for which MuJoCo's contacts must be aligned: ``compile`` sees to it for this process
(``mujoco_patch.ensure``).  "rollers" are two rows of freely turning barrels, as real ones have, which need nothing of
the kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from types import MappingProxyType
from typing import Annotated, Literal

import mujoco
import numpy as np
from numpy.typing import NDArray

from ballbot.envs.model import HeightFields, reference_spec, tread_middle
from ballbot.envs.rig import REFERENCE, CameraRig, eyes_for
from ballbot.errors import SettingsError
from ballbot.settings import Range, check_settings, check_value
from mujoco_patch import ensure
from mujoco_patch.self_check import AXLE_FRICTION, DRIVE_FRICTION

Array = NDArray[np.float64]

BARREL = 0.24
"""Half the thickness of a roller in the middle, as a share of the wheel's radius; it bulges as the wheel's rim does."""
ROW = 0.16
"""How far the two rows of rollers are from the wheel's middle, likewise."""
HUB = 0.6
"""Share of a wheel's mass that does not turn with the rollers."""
BALANCED = 1e-6
"""m/s² by which base and ball may rise or fall at rest."""
SEARCHED, HALVINGS = 0.01, 45
"""m by which a robot may be drawn with its body too near to the ball or too far, beside a tenth of the ball's radius;
and how often that is halved."""
MOST_SUNK = 0.1
"""Share of the ball's radius by which it may sink into the ground.  MuJoCo's contacts are as stiff as what they hold is
heavy, and a light ball below a heavy body sinks deep."""
BROAD = 2.0
"""Times as far from the ball's centre as the body reaches, that its mass may be by its inertia: it may have arms."""
CLEAR = 0.05
"""Share of the ball's radius that the body stays above what is below it, as wheels give way under its weight."""


OF_WHEELS = ("wheel_model", "rollers", "roller_damping")
"""Numbers that make no other robot, but put the same on other wheels."""


@dataclass(frozen=True)
class RobotConfig:
    """A ballbot, in m, kg, s, N and degrees; with the numbers as they are, that of Salehi 2025 (arXiv:2505.18417).

    That one is ballbot/assets/ballbot.xml itself, with its two camera arms.  With another wheel model it is the same
    but for its wheels; with another number of the others, a robot built of these numbers, without the arms.

    Raises:
        SettingsError: (a ValueError) a value is of another kind or out of range, or parts are within each other.
    """

    ball_radius: Annotated[float, Range(0.02, 0.5)] = 0.09
    """Of the ball, m."""
    ball_mass: Annotated[float, Range(0.01, 100)] = 0.168
    """Of the ball, kg."""
    ball_inertia_factor: Annotated[float, Range(0.2, 0.7)] = 0.4
    """Moment of inertia of the ball by its mass and radius squared: 0.4 is solid, 0.67 a thin shell."""
    body_mass: Annotated[float, Range(0.1, 500)] = 3.585
    """Of all but ball and wheels, kg."""
    body_height: Annotated[float, Range(0.01, 3)] = 0.1469
    """Of the body's centre of mass above the ball's centre, m."""
    body_inertia: tuple[float, float, float] = (0.0331, 0.0344, 0.0242)
    """Moments of inertia of the body about its centre of mass, along x, y and z, kg m²."""
    body_radius: Annotated[float, Range(0.01, 1)] = 0.11
    """Of the cylinder that collides with the ground, m."""
    imu_height: Annotated[float, Range(0, 3)] = 0.1315
    """Of the body's origin above the ball's centre, m: there its velocity is sensed."""
    body_top: Annotated[float, Range(0.05, 4)] = 0.47
    """Of that cylinder above the ball's centre, m; it begins above the wheels."""
    wheels: Literal[3, 4] = 3
    """How many drive the ball."""
    zenith_deg: Annotated[float, Range(20, 80)] = 45.0
    """Where wheels touch the ball, degrees from its top."""
    azimuth_deg: Annotated[float, Range(-360, 360)] = 257.5
    """Direction of the first wheel from the body's x axis, degrees counterclockwise; the others follow that way."""
    wheel_radius: Annotated[float, Range(0.002, 0.2)] = 0.025
    """Of the wheels, m."""
    wheel_width: Annotated[float, Range(0.002, 0.3)] = 0.04
    """Of the wheels along their axles, m: of a capsule between its round ends, or of a hub with rollers, nearly."""
    wheel_mass: Annotated[float, Range(0.001, 20)] = 0.0893
    """Of each wheel, kg."""
    wheel_armature: Annotated[float, Range(0, 1)] = 0.005
    """Moment of inertia of a motor as its wheel feels it, behind the gear, kg m²."""
    wheel_damping: Annotated[float, Range(0, 100)] = 0.8
    """Torque that a wheel and its motor lose by each rad/s, N m s."""
    wheel_friction: Annotated[float, Range(0, 100)] = 0.0
    """Torque that a wheel and its motor need to turn at all, N m."""
    torque_limit: Annotated[float, Range(0.001, 1000)] = 10.0
    """Of a motor on its wheel's axle, N m."""
    no_load_speed: Annotated[float, Range(0.1, 1e5)] | None = None
    """rad/s of the axle at which a motor has no torque left, of which it has the less the faster it turns that way, in
    a straight line (None: all of it at any speed)."""
    wheel_model: Literal["capsule", "rollers"] = "capsule"
    """One solid with friction of its own along the axle and across it, or two rows of rollers that turn freely."""
    rollers: Annotated[int, Range(4, 24)] = 6
    """In each row of a wheel of rollers."""
    roller_damping: Annotated[float, Range(0, 1e-4)] = 1e-6
    """Torque that a roller loses by each rad/s, N m s; much of it takes some of the wheel's drive."""

    def __post_init__(self) -> None:
        check_settings(self)
        inertia = self.body_inertia
        if not isinstance(inertia, (tuple, list)) or len(inertia) != 3:
            raise SettingsError(f"body_inertia={inertia!r} must be three moments of inertia, about x, y and z, kg m²")
        x, y, z = (float(check_value("body_inertia", value, Annotated[float, Range(1e-9, 1e5)])) for value in inertia)
        object.__setattr__(self, "body_inertia", (x, y, z))
        if not (x + y >= z and y + z >= x and z + x >= y):
            raise SettingsError(
                f"body_inertia={(x, y, z)} belongs to no body: each is at most the sum of the two others"
            )
        reach = BROAD * np.hypot(self.body_radius, self.body_top)
        if max(x, y, z) > self.body_mass * reach**2:
            raise SettingsError(
                f"body_inertia={(x, y, z)} is more than body_mass={self.body_mass:g} kg has {reach:.2g} m away, "
                f"{BROAD:g} times as far as body_radius and body_top reach: is it in kg m²?"
            )
        for name in ("body_height", "imu_height"):
            if getattr(self, name) > self.body_top:
                raise SettingsError(
                    f"{name}={getattr(self, name):g} is above the body, which ends at body_top={self.body_top:g}: use "
                    "less, or a higher body"
                )
        if self.wheel_friction >= self.torque_limit:
            raise SettingsError(
                f"wheel_friction={self.wheel_friction:g} takes all of torque_limit={self.torque_limit:g}: use less"
            )
        if self.body_top <= self.body_bottom:
            raise SettingsError(
                f"body_top={self.body_top:g} is within the wheels, which reach {self.body_bottom:g} m above the ball's "
                "centre: use more"
            )
        zenith, middle = np.radians(self.zenith_deg), self.ball_radius + self.wheel_radius
        inner = middle * np.sin(zenith) - self.wheel_width / 2 * np.cos(zenith)  # of the axles' ends, from the vertical
        if (apart := 2 * np.sin(np.pi / self.wheels) * inner) < 2 * self.wheel_radius:
            raise SettingsError(
                f"wheel_radius={self.wheel_radius:g} and wheel_width={self.wheel_width:g}: the inner ends of the axles "
                f"of {self.wheels} such wheels at zenith_deg={self.zenith_deg:g} are {max(apart, 0.0):.3f} m apart, so "
                "wheels are within each other: use smaller ones, or a larger zenith_deg"
            )

    @property
    def body_bottom(self) -> float:
        """Of the body's cylinder above the ball's centre, m: just above ball and wheels."""
        zenith = np.radians(self.zenith_deg)
        middle = (self.ball_radius + self.wheel_radius) * np.cos(zenith)
        top = middle + self.wheel_width / 2 * np.sin(zenith) + self.wheel_radius
        return float(max(self.ball_radius, top)) + CLEAR * self.ball_radius

    def wheel_axes(self, wheel: int) -> tuple[Array, Array]:
        """(3,) unit vectors from the ball's centre to where a wheel touches it, and along the wheel's axle."""
        turn, zenith = np.radians(self.azimuth_deg) + 2 * np.pi * wheel / self.wheels, np.radians(self.zenith_deg)
        outward, up = np.array([np.cos(turn), np.sin(turn), 0.0]), np.array([0.0, 0.0, 1.0])
        return np.sin(zenith) * outward + np.cos(zenith) * up, np.cos(zenith) * outward - np.sin(zenith) * up

    @property
    def eyes(self) -> CameraRig:
        """Cameras for a robot of this size that has none."""
        return eyes_for(self.ball_radius, self.imu_height, self.body_radius + 0.04)

    @property
    def cameras(self) -> int:
        """Depth cameras that it has without a rig."""
        return REFERENCE if self.is_reference else 0

    @property
    def is_reference(self) -> bool:
        """Whether it is the reference's robot but, at most, for its wheels."""
        return all(getattr(self, f.name) == f.default for f in fields(self) if f.name not in OF_WHEELS)

    def spec(self, ground: HeightFields = MappingProxyType({})) -> mujoco.MjSpec:
        """The robot on a plane, in the world of the reference's MJCF, named as it is there, with these height fields.

        It has the keyframe "settled": upright, at heights at which its soft contacts carry its weight.

        Raises:
            SettingsError: there is no such pose, the ball sinks deep into the ground, or the body touches something.
        """
        if self.is_reference and self.wheel_model == "capsule":
            return reference_spec(ground)
        spec = self._unsettled(ground)
        spec.add_key(name="settled", qpos=_settled_pose(self))
        return spec

    def compile(self) -> mujoco.MjModel:
        """The model of that.

        Raises:
            SettingsError: as ``spec``.
            ContactFixError: the contacts of capsules cannot be aligned here.
        """
        if self.wheel_model == "capsule":
            ensure()
        return self.spec().compile()

    def _unsettled(self, ground: HeightFields = MappingProxyType({})) -> mujoco.MjSpec:
        """The same without the keyframe."""
        spec = reference_spec(ground)
        spec.delete(spec.keys[0])
        if self.wheel_model == "rollers":  # most of them touch nothing: a tenth faster so
            spec.option.jacobian = mujoco.mjtJacobian.mjJAC_SPARSE
            spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_ISLAND
        if self.is_reference:
            self._put_on_rollers(spec)
            return spec
        for part in (*spec.pairs, *spec.actuators, *spec.sensors, spec.body("base"), spec.body("ball")):
            spec.delete(part)
        self._add_ball(spec)
        base = self._add_body(spec)
        for wheel in range(self.wheels):
            self._add_wheel(spec, base, wheel)
        if self.no_load_speed is not None:
            spec.nuser_actuator = 1
        return spec

    def _add_ball(self, spec: mujoco.MjSpec) -> None:
        inertia = self.ball_inertia_factor * self.ball_mass * self.ball_radius**2
        ball = spec.worldbody.add_body(
            name="ball", pos=[0, 0, self.ball_radius], mass=self.ball_mass, inertia=[inertia] * 3, ipos=[0, 0, 0],
            iquat=[1, 0, 0, 0], explicitinertial=True,
        )  # fmt: skip
        ball.add_freejoint(name="ball_free")
        ball.add_geom(
            name="ball", type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[self.ball_radius, 0, 0], mass=0, material="ball"
        )

    def _add_body(self, spec: mujoco.MjSpec) -> mujoco.MjsBody:
        base = spec.worldbody.add_body(
            name="base", pos=[0, 0, self.ball_radius + self.imu_height], mass=self.body_mass,
            inertia=list(self.body_inertia), ipos=[0, 0, self.body_height - self.imu_height], iquat=[1, 0, 0, 0],
            explicitinertial=True,
        )  # fmt: skip
        base.add_freejoint(name="base_free")
        base.add_light(
            name="sun", mode=mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM, type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            pos=[-2, -3, 6], dir=[0.35, 0.5, -1], diffuse=[0.7, 0.69, 0.66], specular=[0.25] * 3, castshadow=True,
        )  # fmt: skip
        follow(base, (self.body_top + self.ball_radius) / 0.56)
        half = (self.body_top - self.body_bottom) / 2
        middle = (self.body_top + self.body_bottom) / 2 - self.imu_height
        base.add_geom(
            name="tower", type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[self.body_radius, half, 0], pos=[0, 0, middle],
            mass=0, material="tower",
        )  # fmt: skip
        base.add_site(name="imu")
        sensor, site = mujoco.mjtSensor.mjSENS_GYRO, mujoco.mjtObj.mjOBJ_SITE
        spec.add_sensor(name="imu_gyro", type=sensor, objtype=site, objname="imu")
        return base

    def _add_wheel(self, spec: mujoco.MjSpec, base: mujoco.MjsBody, wheel: int) -> None:
        normal, axle = self.wheel_axes(wheel)
        name = f"wheel_{wheel}"
        middle = (self.ball_radius + self.wheel_radius) * normal - [0, 0, self.imu_height]
        body = base.add_body(name=name, pos=list(middle), quat=turned(-normal, axle))
        body.add_joint(
            name=name, type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1], armature=self.wheel_armature,
            damping=self.wheel_damping, frictionloss=self.wheel_friction,
        )  # fmt: skip
        if self.wheel_model == "capsule":
            body.add_geom(
                name=name, type=mujoco.mjtGeom.mjGEOM_CAPSULE, size=[self.wheel_radius, self.wheel_width / 2, 0],
                mass=self.wheel_mass, contype=0, conaffinity=0, material="tyre",
            )  # fmt: skip
            _let_touch(spec, name, (AXLE_FRICTION, DRIVE_FRICTION))
        else:
            self._add_rollers(spec, body, name, self.wheel_radius, self.wheel_width, self.wheel_mass)
        motor = spec.add_actuator(name=f"motor_{wheel}", target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        motor.set_to_motor()
        motor.ctrlrange, motor.ctrllimited = [-self.torque_limit, self.torque_limit], True
        if self.no_load_speed is not None:
            motor.userdata = [self.no_load_speed]

    def _put_on_rollers(self, spec: mujoco.MjSpec) -> None:
        """Put rollers in the place of the reference's capsules, about the axles of its joints."""
        model = spec.compile()
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        ball = data.body("base").xpos - [0, 0, self.imu_height]
        for wheel in range(self.wheels):
            name = f"wheel_{wheel}"
            joint, body, geom = data.joint(name), spec.body(name), model.geom(name)
            middle = tread_middle(joint, ball)
            turn = data.body(name).xmat.reshape(3, 3).T
            radius, half, _ = geom.size
            mass = float(model.body_mass[geom.bodyid[0]])
            for part in (spec.geom(name), spec.geom(f"rim_{wheel}_look"), spec.pair(name)):
                spec.delete(part)
            rim = body.add_body(
                name=f"{name}_rim", pos=list(turn @ (middle - data.body(name).xpos)),
                quat=turned(turn @ (ball - middle) / np.linalg.norm(ball - middle), turn @ joint.xaxis),
            )  # fmt: skip
            self._add_rollers(spec, rim, name, float(radius), 2 * float(half), mass)
        spec.body("ball").pos[2] = self.ball_radius
        spec.body("base").pos[2] = self.ball_radius + self.imu_height

    def _add_rollers(
        self, spec: mujoco.MjSpec, body: mujoco.MjsBody, wheel: str, radius: float, width: float, weighs: float
    ) -> None:
        """A hub and its rollers, about a body's z axis."""
        thick = BARREL * radius
        body.add_geom(
            name=f"{wheel}_hub", type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[0.6 * radius, 0.4 * width, 0],
            mass=HUB * weighs, contype=0, conaffinity=0, material="tyre",
        )  # fmt: skip
        for row in range(2):
            for number in range(self.rollers):
                turn, name = 2 * np.pi * (number + row / 2) / self.rollers, f"{wheel}_roller_{row}_{number}"
                outward = np.array([np.cos(turn), np.sin(turn), 0.0])
                place = (radius - thick) * outward + [0.0, 0.0, (2 * row - 1) * ROW * radius]
                along = np.array([-outward[1], outward[0], 0.0])
                roller = body.add_body(name=name, pos=list(place), quat=turned(outward, along))
                roller.add_joint(
                    name=name, type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1], damping=self.roller_damping
                )
                roller.add_geom(
                    name=name, type=mujoco.mjtGeom.mjGEOM_ELLIPSOID,
                    size=[thick, thick, np.sqrt(radius * thick)],  # so that it bulges in the middle as the rim does
                    mass=(1 - HUB) * weighs / (2 * self.rollers), contype=0, conaffinity=0, material="rim",
                )  # fmt: skip
                _let_touch(spec, name, (DRIVE_FRICTION, DRIVE_FRICTION))


@cache
def _settled_pose(robot: RobotConfig) -> Array:
    """(nq,) the pose of the keyframe "settled", see ``RobotConfig.spec``."""
    model = robot._unsettled().compile()
    data = mujoco.MjData(model)
    data.qpos[:] = settled(model)
    mujoco.mj_forward(model, data)
    ball, ground = model.geom("ball").id, model.geom("ground").id
    for contact in data.contact:
        geoms = {int(contact.geom1), int(contact.geom2)}
        if geoms == {ball, ground} and -contact.dist > MOST_SUNK * robot.ball_radius:
            raise SettingsError(
                f"the ball sinks {-1000 * contact.dist:.0f} mm into the ground: MuJoCo's contacts are as stiff as "
                f"the ball is heavy, and body_mass={robot.body_mass:g} is {robot.body_mass / robot.ball_mass:.0f} "
                f"times ball_mass={robot.ball_mass:g}; use a heavier ball, or a lighter body"
            )
        if ball not in geoms or model.geom("tower").id in geoms:
            names = " and ".join(model.geom(geom).name for geom in geoms)
            raise SettingsError(
                f"at rest {names} touch, as wheels at zenith_deg={robot.zenith_deg:g} give way under the body: use a "
                "smaller zenith_deg, or a lighter body"
            )
    return data.qpos.copy()


def settled(model: mujoco.MjModel) -> Array:
    """(nq,) the upright pose on a plane in which neither base nor ball rises or falls, by Newton's method.

    Raises:
        SettingsError: there is none near the one that it was compiled in.
    """
    robot = _Standing(model)
    lower, small = np.array([0.004, 0.003]), 1e-6 * np.eye(2)
    for _ in range(100):
        wrong = robot.rises(robot.drawn - lower)
        if np.abs(wrong).max() <= BALANCED:
            return robot.pose
        if not np.isfinite(wrong).all():
            break
        more, less = (np.array([robot.rises(robot.drawn - (lower + way)) for way in ways]) for ways in (small, -small))
        slopes = (more - less).T / (2 * small[0, 0])
        if abs(np.linalg.det(slopes)) < 1e-9:  # in the air
            lower = lower + 5e-4
            continue
        lower = lower - np.clip(np.linalg.solve(slopes, wrong), -5e-4, 5e-4)
    raise _restless(wrong)


def settled_from_afar(model: mujoco.MjModel) -> Array:
    """The same by bisection, which is slower, of a robot that was drawn anywhere above the plane.

    Its wheels may be up to a centimetre off the ball, or within it.

    Raises:
        SettingsError: there is none.
    """
    robot, radius = _Standing(model), float(model.geom("ball").size[0])
    masses = model.body_subtreemass[[model.body(name).id for name in ("base", "ball")]]

    def rises(gap: float, height: float) -> Array:
        """m/s² of base and ball, so far above each other."""
        return robot.rises(np.array([height + gap, height]))

    def carried(gap: float) -> float:
        """The height at which the ground bears the weight of both."""
        low, high = 0.4 * radius, 1.05 * radius
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if masses @ rises(gap, middle) > 0 else (low, middle)
        return low  # where they touch: the ground's force sets in with a jump

    drawn, wide = robot.drawn[0] - robot.drawn[1], SEARCHED + 0.1 * radius
    near, far = drawn - wide, drawn + wide
    for _ in range(HALVINGS):
        middle = (near + far) / 2
        near, far = (middle, far) if rises(middle, carried(middle))[0] > 0 else (near, middle)
    wrong = rises(far, carried(far))
    if not np.abs(wrong).max() <= 10 * BALANCED:
        raise _restless(wrong)
    return robot.pose


class _Standing:
    """A robot that is held upright, its base and its ball at heights of choice."""

    def __init__(self, model: mujoco.MjModel) -> None:
        joints = [model.joint(name) for name in ("base_free", "ball_free")]
        self._heights = [int(joint.qposadr[0]) + 2 for joint in joints]
        self._falling = [int(joint.dofadr[0]) + 2 for joint in joints]
        self._model, self._data = model, mujoco.MjData(model)
        self.drawn = self._data.qpos[self._heights].copy()
        """(2,) m, the heights of base and ball in the file."""

    def rises(self, heights: Array) -> Array:
        """(2,) m/s² at which base and ball rise at (2,) heights, m."""
        mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[self._heights] = heights
        mujoco.mj_forward(self._model, self._data)
        return self._data.qacc[self._falling].copy()

    @property
    def pose(self) -> Array:
        """(nq,) that of the last heights."""
        return self._data.qpos.copy()


def _restless(wrong: Array) -> SettingsError:
    return SettingsError(
        f"the robot does not come to rest upright: base and ball still rise or fall by {np.abs(wrong).max():.2g} m/s²; "
        "do its wheels touch the ball, and does that weigh enough beside what it carries?"
    )


def follow(base: mujoco.MjsBody, scale: float) -> None:
    """Mount the camera of films, so much further away than the reference's."""
    base.add_camera(
        name="follow", mode=mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM, fovy=42,
        pos=list(scale * np.array([0.85, -0.85, 0.38])), quat=turned([0.707, 0.707, 0], [0.72, -0.72, 0.27]),
    )  # fmt: skip


def _let_touch(spec: mujoco.MjSpec, geom: str, friction: tuple[float, float]) -> None:
    """Let a part of a wheel touch the ball, and nothing else."""
    pair = spec.add_pair(name=geom, geomname1="ball", geomname2=geom, condim=3)
    pair.friction = [*friction, 0.0, 0.0, 0.0]


def turned(x: Array | Sequence[float], z: Array | Sequence[float]) -> list[float]:
    """The quaternion of a frame whose x and z axes point there."""
    quat, (x, z) = np.empty(4), (np.array(axis) / np.linalg.norm(axis) for axis in (x, z))
    mujoco.mju_mat2Quat(quat, np.stack([x, np.cross(z, x), z], axis=1).ravel())
    return list(quat)
