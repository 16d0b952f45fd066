"""Robots from MuJoCo's own format: ``--robot my_robot.xml``.

The file holds the whole robot, in m, kg and s, z up, upright, and what is needed is found by the names of its joints:

- ``base_free`` and ``ball_free``, the free joints of the body and of the ball, which is a sphere,
- ``wheel_0``, ``wheel_1`` and so on, three or four hinges, in the order of their motors, one each, in N m on the axle.

Wheels are solids whose contact pairs with the ball have the friction "0.001 1", along the axle and across it, as those
of ballbot/assets/ballbot.xml, or carry rollers, bodies that turn on them by joints of their own.  The ground is the
world's: a plane of the file is its place.  So are the time step, 2 ms, and the friction cones, which are elliptic.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Literal
from zipfile import ZipFile, is_zipfile

import mujoco
import numpy as np
from numpy.typing import NDArray

from ballbot.envs.mechanics import Mechanics
from ballbot.envs.model import Addresses, HeightFields, at_rest, has_rollers
from ballbot.envs.rig import RESOLUTION, CameraRig, camera_names, eyes_for
from ballbot.envs.robot import follow, settled, settled_from_afar
from ballbot.envs.shell import shell_of
from ballbot.errors import SettingsError
from ballbot.settings import nearest, ordinary
from mujoco_patch import ensure
from mujoco_patch.self_check import AXLE_FRICTION, DRIVE_FRICTION

Array = NDArray[np.float64]

ENDINGS = (".xml", ".mjcf", ".zip")
"""Of such files; a .zip is what ``MjSpec.to_zip`` writes, with the meshes."""
RADIUS, MASS = (0.02, 0.5), (0.1, 600.0)
"""m of balls and kg of robots: others are in other units."""
RESTLESS = 2.0
"""m/s² by which base and ball may rise or fall in a file's own keyframe: soft contacts do that for 1 mm."""
OF_MUJOCO = (
    *("density", "viscosity", "enableflags", "disableactuator", "solver", "iterations", "tolerance", "ls_iterations"),
    *("ls_tolerance", "noslip_iterations", "ccd_iterations", "ccd_tolerance"),
)
"""Options of the solver, and of what is around robots, which are the world's."""

FIELDS, PREFIX = "height_fields", "ground_"
"""Names of what brings height fields into a file's world."""


@dataclass(frozen=True)
class MJCF:
    """A robot from a file, see ``read_mjcf``.  Another file of the same name is another robot."""

    path: str
    stamp: tuple[int, int]
    """When the file was written, ns, and its size."""
    template: mujoco.MjSpec = field(repr=False, compare=False)
    """What is in it, under the names that the others know; not to be changed."""
    wheels: int = field(compare=False)
    """How many."""
    wheel_model: Literal["capsule", "rollers"] = field(compare=False)
    """What they are."""
    ball_radius: float = field(compare=False)
    """Of the ball, m."""
    imu_height: float = field(compare=False)
    """Of the body's origin above the ball's centre, m."""
    torque_limit: float = field(compare=False)
    """Of a motor on its wheel's axle, N m."""
    cameras: int = field(compare=False)
    """Depth cameras that it has: those named cam_0, cam_1 and so on."""

    is_reference = False

    def spec(self, ground: HeightFields = MappingProxyType({})) -> mujoco.MjSpec:
        """The robot, in its world, with these height fields."""
        spec = self.template.copy()
        if ground:  # these come along only with what needs them
            geoms = "".join(f'<geom type="hfield" hfield="{name}"/>' for name in ground)
            assets = f"<asset>{''.join(ground.values())}</asset>"
            fields = mujoco.MjSpec.from_string(
                f'<mujoco>{assets}<worldbody><body name="{FIELDS}">{geoms}</body></worldbody></mujoco>'
            )
            spec.worldbody.add_frame().attach_body(fields.body(FIELDS), PREFIX, "")
            spec.delete(spec.body(PREFIX + FIELDS))
        return spec

    def compile(self) -> mujoco.MjModel:
        """The model of that.

        Raises:
            ContactFixError: the contacts of capsules cannot be aligned here.
        """
        if self.wheel_model == "capsule":
            ensure()
        return self.spec().compile()

    @property
    def eyes(self) -> CameraRig:
        """Cameras for a robot of this size that has none."""
        return eyes_for(self.ball_radius, self.imu_height)


def is_mjcf(name: str) -> bool:
    """Whether the name of a robot is that of such a file."""
    return name.lower().endswith(ENDINGS)


def read_mjcf(path: str) -> MJCF:
    """The robot in a file.

    Raises:
        SettingsError: it cannot be read, lacks a part, or has one of another kind; the message says which.
    """
    try:
        status = ordinary("robot", path, "a file of MJCF").stat()
    except OSError as error:
        raise SettingsError(
            f"robot {path!r} cannot be read: {error.strerror}; the folder of a run keeps a copy of its robot's file"
        ) from error
    return _read(path, (status.st_mtime_ns, status.st_size))


@cache
def _read(path: str, stamp: tuple[int, int]) -> MJCF:
    """The robot in a file that was written then."""

    def refuse(what: str) -> SettingsError:
        return SettingsError(f"robot {path!r}: {what}")

    zipped = path.lower().endswith(".zip")
    if zipped and is_zipfile(path):
        with ZipFile(path) as archive:
            inside = [name for name in archive.namelist() if name.lower().endswith(ENDINGS)]
        if len(inside) != 1:
            raise refuse(f"it holds {len(inside)} files of MJCF ({', '.join(inside) or 'none'}), expected one")
    try:
        spec = mujoco.MjSpec.from_zip(path) if zipped else mujoco.MjSpec.from_file(path)
    except Exception as error:  # whatever MuJoCo raises of a file that is none
        raise refuse(f"MuJoCo cannot read it ({_in_short(error)})") from error
    wheels = _check_joints(spec, refuse)
    radius = _check_ball(spec, refuse)
    torque = _check_motors(spec, wheels, refuse)
    _rename(spec, "bodies", spec.joint("base_free").parent, "base", refuse)
    _rename(spec, "bodies", spec.joint("ball_free").parent, "ball", refuse)
    if spec.hfields:
        raise refuse("it has height fields, and the ground is the world's: take them out")
    grounds = [geom for geom in spec.worldbody.geoms if geom.type == mujoco.mjtGeom.mjGEOM_PLANE]
    named = [geom for geom in spec.worldbody.geoms if geom.name == "ground"]
    if not named and len(grounds) != 1:
        raise refuse(f"its world has {len(grounds)} planes, expected one: its ground")
    _rename(spec, "geoms", (named or grounds)[0], "ground", refuse)
    _take_ours(spec, refuse)
    if spec.camera("follow") is None:
        follow(spec.body("base"), radius / 0.09)
    try:
        model = spec.compile()
    except Exception as error:  # of what is in it
        raise refuse(f"MuJoCo cannot compile it ({_in_short(error)})") from error
    mass = float(model.body_subtreemass[0])
    if not MASS[0] <= mass <= MASS[1]:
        raise refuse(f"it weighs {mass:g}, expected {MASS[0]:g} to {MASS[1]:g} kg: is it in kilograms?")
    if not any(key.name == "settled" for key in spec.keys):
        try:
            pose = settled(model)
        except SettingsError:
            try:
                pose = settled_from_afar(model)
            except SettingsError as error:
                raise refuse(str(error)) from error
        spec.add_key(name="settled", qpos=pose)
        model = spec.compile()
    pose, at = model.key("settled").qpos, Addresses.of(model)
    _check_pose(pose, at, refuse)
    try:
        kind = _wheel_model(model, wheels, refuse)
        Mechanics.of(model)
        if not shell_of(model).size:
            raise refuse("nothing of it but the ball collides with the ground: let a part of its body")
        data = at_rest(model)
        moves = data.qacc[[at.base_qvel + 2, at.ball_qvel + 2]]
        if not np.abs(moves).max() <= RESTLESS:
            raise refuse(
                f"in its keyframe 'settled' base and ball rise by {moves[0]:.2g} and {moves[1]:.2g} m/s², expected at "
                f"most {RESTLESS:g} either way: take the keyframe out, and the pose is computed"
            )
    except SettingsError:
        raise
    except ValueError as error:
        raise refuse(str(error)) from error
    return MJCF(
        path=path,
        stamp=stamp,
        template=spec,
        wheels=wheels,
        wheel_model=kind,
        ball_radius=radius,
        imu_height=float(pose[at.base_qpos + 2] - pose[at.ball_qpos + 2]),
        torque_limit=torque,
        cameras=len(camera_names(model)),
    )


def _take_ours(spec: mujoco.MjSpec, refuse: Any) -> None:
    """Make the file's world the one that robots are in, but for its robot."""
    option, usual = spec.option, mujoco.MjSpec().option
    for name in OF_MUJOCO:
        if (given := getattr(option, name)) != (expected := getattr(usual, name)):
            raise refuse(f"its option {name} is {given:g}, and the world's is {expected:g}: take it out")
    option.timestep, option.cone, option.impratio = 0.002, mujoco.mjtCone.mjCONE_ELLIPTIC, 1.0
    option.gravity, option.wind, option.disableflags = [0.0, 0.0, -9.81], [0.0, 0.0, 0.0], 0
    ground = spec.geom("ground")
    ground.pos, ground.quat = [0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]
    if others := [geom.name or "one without a name" for geom in spec.worldbody.geoms if geom.name != ground.name]:
        raise refuse(f"its world holds more than the ground ({', '.join(others)}): take that out")
    if others := [body.name or "one without" for body in spec.worldbody.bodies if body.name not in ("base", "ball")]:
        raise refuse(
            f"its world holds more bodies than those of base_free and ball_free ({', '.join(others)}): take them out"
        )
    if spec.equalities or spec.tendons:
        raise refuse("it has equality constraints or tendons, of which nothing here knows: take them out")
    if held := [body.name or "one without a name" for body in spec.bodies if body.gravcomp]:
        raise refuse(f"gravity does not pull at its body {held[0]} (gravcomp): take that out")
    for camera in spec.cameras:
        if not camera.name.startswith("cam_"):
            continue
        if _root(camera.parent) != "base":
            raise refuse(f"its camera {camera.name} is not on its body: mount it there, or name it otherwise")
        if list(camera.resolution) == [1, 1]:
            camera.resolution = list(RESOLUTION)


def _root(body: mujoco.MjsBody) -> str:
    """Name of the body of the world that another one is a part of, or that of the world."""
    while body.parent is not None and body.parent.name != "world":
        body = body.parent
    return str(body.name)


def _check_pose(pose: Array, at: Addresses, refuse: Any) -> None:
    """Refuse a robot that does not stand upright in the middle, its body's axes along the world's."""
    base, ball = pose[at.base_qpos : at.base_qpos + 7], pose[at.ball_qpos : at.ball_qpos + 7]
    for name, part in (("base", base), ("ball", ball)):
        if not np.allclose(np.abs(part[3:]), (1, 0, 0, 0), atol=1e-6):
            raise refuse(
                f"its {name} is turned, quaternion {part[3:].round(4).tolist()}: draw it along the world's axes"
            )
        if not np.allclose(part[:2], 0.0, atol=1e-6):
            raise refuse(f"its {name} is at x, y = {part[:2].round(4).tolist()}: draw it above the middle, at 0, 0")


def _in_short(error: Exception) -> str:
    return " ".join(str(error).split("\n")[:2]).strip() or type(error).__name__


def _check_joints(spec: mujoco.MjSpec, refuse: Any) -> int:
    """How many wheels there are."""
    kinds = {joint.name: joint.type for joint in spec.joints}
    known = [joint.name for joint in spec.joints if joint.name and not _on_wheel(joint)]
    listed = ", ".join(known) or "none"
    for name in ("base_free", "ball_free"):
        if kinds.get(name) != mujoco.mjtJoint.mjJNT_FREE:
            raise refuse(f"it has no free joint {name!r}, of body or ball: {nearest(name, known)}")
    for joint in spec.joints:
        free = joint.type == mujoco.mjtJoint.mjJNT_FREE
        for kind in ("stiffness", "damping", "frictionloss", "armature") if free else ("stiffness",):
            if np.any(held := np.atleast_1d(getattr(joint, kind))) and (free or _on_wheel(joint)):
                raise refuse(
                    f"its joint {joint.name or 'without a name'} has {kind} {held[0]:g}, by which nothing holds a "
                    "robot's body, ball or rollers: take it out"
                )
    wheels = next(i for i in range(len(kinds) + 1) if f"wheel_{i}" not in kinds)
    if wheels not in (3, 4) or any(kinds[f"wheel_{i}"] != mujoco.mjtJoint.mjJNT_HINGE for i in range(wheels)):
        raise refuse(f"it has {wheels} hinges wheel_0, wheel_1 and so on, expected 3 or 4; its joints are {listed}")
    return wheels


def _on_wheel(joint: Any) -> bool:
    """Whether a joint turns on what a wheel's joint, or another one of the body's, turns."""
    body, hinges = joint.parent.parent, 0
    while body is not None:
        hinges += sum(other.type == mujoco.mjtJoint.mjJNT_HINGE for other in body.joints)
        body = body.parent
    return hinges > 0


def _check_ball(spec: mujoco.MjSpec, refuse: Any) -> float:
    """The radius of the ball."""
    spheres = [geom for geom in spec.joint("ball_free").parent.geoms if geom.type == mujoco.mjtGeom.mjGEOM_SPHERE]
    if len(spheres) != 1:
        raise refuse(f"the body of ball_free has {len(spheres)} spheres, expected one: the ball")
    radius = float(spheres[0].size[0])
    if not RADIUS[0] <= radius <= RADIUS[1]:
        raise refuse(
            f"its ball has a radius of {radius:g}, expected {RADIUS[0]:g} to {RADIUS[1]:g} m: is it in metres?"
        )
    _rename(spec, "geoms", spheres[0], "ball", refuse)
    return radius


def _check_motors(spec: mujoco.MjSpec, wheels: int, refuse: Any) -> float:
    """The torque of each motor, N m."""
    targets = [motor.target for motor in spec.actuators]
    if targets != [f"wheel_{i}" for i in range(wheels)]:
        raise refuse(
            f"its motors turn {', '.join(targets) or 'nothing'}, expected wheel_0, wheel_1 and so on, in order"
        )
    limits = {float(motor.ctrlrange[1]) for motor in spec.actuators}
    speeds = {float(motor.userdata[0]) if len(motor.userdata) else 0.0 for motor in spec.actuators}
    if len(speeds) > 1 or not all(np.isfinite(speed) and speed >= 0 for speed in speeds):
        raise refuse(f"its motors' no-load speeds are {sorted(speeds)}, expected one of all, in rad/s (0: none)")
    joints = [spec.joint(f"wheel_{i}") for i in range(wheels)]
    for joint in joints:
        _check_wheel(joint, min(limits), refuse)
    if len({(float(joint.damping[0]), float(joint.frictionloss), float(joint.armature)) for joint in joints}) > 1:
        raise refuse("its wheels have different damping, frictionloss or armature: give all the same")
    if any(any(joint.range) for joint in joints):
        raise refuse("its wheels have limits: take range and limited out")
    even = all(-motor.ctrlrange[0] == motor.ctrlrange[1] > 0 for motor in spec.actuators)
    faults = [f"ctrlrange is {[[float(x) for x in motor.ctrlrange] for motor in spec.actuators]}"]
    if even and len(limits) == 1:
        faults = [fault for motor in spec.actuators for fault in _of_motor(motor)]
    if faults:
        raise refuse(
            "its motors must be of one kind, <motor gear='1' ctrlrange='-T T'/>, T the torque on the wheel's axle in "
            f"N m; {faults[0]}"
        )
    return limits.pop()


def _of_motor(motor: Any) -> list[str]:
    """What makes it another actuator than a plain motor."""
    name, usual = motor.name or f"that of {motor.target}", motor.gainprm[0] == 1
    plain = usual and motor.biastype == mujoco.mjtBias.mjBIAS_NONE and motor.dyntype == mujoco.mjtDyn.mjDYN_NONE
    return [
        *([f"{name} has gear {motor.gear[0]:g}"] if motor.gear[0] != 1 else []),
        *([f"{name} has forcerange {motor.forcerange.tolist()}"] if any(motor.forcerange) else []),
        *([] if plain else [f"{name} is no motor: it has a gain, bias or dynamics of its own"]),
    ]


def _check_wheel(joint: Any, torque: float, refuse: Any) -> None:
    """Refuse a wheel that is held by more than damping and dry friction, or by more of that than its motor has."""
    for name in ("damping", "frictionloss", "armature"):
        value = float(np.atleast_1d(getattr(joint, name))[0])
        if not 0 <= value < np.inf:
            raise refuse(f"{joint.name} has {name} {value:g}, expected a number from 0")
    if joint.frictionloss >= torque > 0:
        raise refuse(
            f"{joint.name} has frictionloss {joint.frictionloss:g} N m, which takes all of its motor's {torque:g} N m: "
            "use less"
        )
    if np.any(joint.damping[1:]) or np.any(joint.stiffness):
        raise refuse(
            f"{joint.name} has damping {joint.damping.tolist()} and stiffness {joint.stiffness.tolist()}, expected one "
            "number of damping and no spring: take the others out"
        )


def _wheel_model(model: mujoco.MjModel, wheels: int, refuse: Any) -> Literal["capsule", "rollers"]:
    """What the wheels are."""
    if all(has_rollers(model, wheel) for wheel in range(wheels)):
        return "rollers"
    ball = model.geom("ball").id
    bodies = [int(model.jnt_bodyid[model.joint(f"wheel_{wheel}").id]) for wheel in range(wheels)]
    slips = np.isclose(model.pair_friction[:, :2], (AXLE_FRICTION, DRIVE_FRICTION)).all(axis=1)
    ends = np.stack([model.pair_geom1, model.pair_geom2], axis=1)[slips]
    slipping = {int(model.geom_bodyid[geom]) for pair in ends if ball in pair for geom in pair if geom != ball}
    if missing := [wheel for wheel, body in enumerate(bodies) if body not in slipping]:
        raise refuse(
            f"wheel_{missing[0]} is of no known kind: give it rollers that turn on it, or a contact pair with the ball "
            f"whose friction is '{AXLE_FRICTION:g} {DRIVE_FRICTION:g}', along its axle and across it"
        )
    return "capsule"


def _rename(spec: mujoco.MjSpec, kind: str, part: Any, name: str, refuse: Any) -> None:
    """Give a part its name, and to those that speak of it too."""
    old = part.name
    if old == name:
        return
    if any(other.name == name for other in getattr(spec, kind)):
        raise refuse(f"another of its {kind} is named {name!r}: name the one that is meant so")
    part.name = name
    for other in spec.pairs if kind == "geoms" else spec.excludes:
        for end in ("geomname1", "geomname2") if kind == "geoms" else ("bodyname1", "bodyname2"):
            if getattr(other, end) == old:
                setattr(other, end, name)
    wanted = mujoco.mjtObj.mjOBJ_GEOM if kind == "geoms" else mujoco.mjtObj.mjOBJ_BODY
    for sensor in spec.sensors:
        if sensor.objtype == wanted and sensor.objname == old:
            sensor.objname = name
