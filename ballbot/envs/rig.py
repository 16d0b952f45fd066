"""Where a robot's depth cameras are and how they look: the reference's two arms, or as many as one likes, all alike.

``WorldConfig(rig={"number": 3, "tilt_deg": 30})`` and ``--rig.number 3 --rig.tilt-deg 30`` put three arms around the
robot whose cameras look outward, which the robot's symmetry takes into account.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from ballbot.errors import SettingsError
from ballbot.settings import Range, check_settings, nearest

Array = NDArray[np.float64]
RISE = 0.1
"""m by which an arm is higher where it meets the robot's axis than at its camera, as the reference's are."""
LENS = 0.015
"""m around a camera in which there is nothing but its own arm."""
RESOLUTION = (64, 64)
"""Pixels of their images."""
REFERENCE = 2
"""Cameras of the reference, and of a robot that names no rig."""


@dataclass(frozen=True)
class CameraRig:
    """Depth cameras at equal angles around the robot, each at the end of an arm, images' tops away from the robot.

    The reference's two, which are there where nothing else is said, are no such rig: they look inward, where the ball
    meets the ground, and the tops of their images lie ahead.

    Raises:
        SettingsError: (a ValueError) a value is of another kind or out of range.
    """

    number: Annotated[int, Range(1, 12)] = 3
    """Of arms, with a camera each.  Robots with a multiple of three look the same turned by a third."""
    start_deg: Annotated[float, Range(-360, 360)] = 90.0
    """Direction of the first from the base's x axis, degrees counterclockwise; 90 is ahead of the face."""
    reach: Annotated[float, Range(0.05, 1)] = 0.17
    """Of the cameras from the robot's axis, m."""
    height: Annotated[float, Range(-0.5, 1)] = -0.06
    """Of the cameras above the base's origin, m, which is 0.217 m above level ground at rest."""
    tilt_deg: Annotated[float, Range(-90, 90)] = 30.0
    """Of the optical axes outward from straight down, degrees; the reference's are tilted 30 degrees inward."""
    fov_deg: Annotated[float, Range(10, 150)] = 90.0
    """Field of view, top to bottom, degrees; the reference's is 90."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def directions(self) -> Array:
        """(2, number) unit vectors to the cameras, along the base's x and y."""
        turns = np.radians(self.start_deg) + 2 * np.pi * np.arange(self.number) / self.number
        return np.stack([np.cos(turns), np.sin(turns)])


def eyes_for(ball_radius: float, imu_height: float, least_reach: float = 0.05) -> CameraRig:
    """Cameras for a robot that has none: three, where the reference's outward ones are on a robot of its size.

    Args:
        ball_radius: of the robot, m.
        imu_height: of its base's origin above the ball's centre, m.
        least_reach: m from its axis to where nothing of it is.
    """
    scale = ball_radius / 0.09
    reach, height = np.clip((max(0.17 * scale, least_reach), 0.0715 * scale - imu_height), (0.05, -0.5), 1)
    return CameraRig(number=3, reach=round(float(reach), 3), height=round(float(height), 4))


def rig_of(options: Mapping[str, Any]) -> CameraRig | None:
    """The rig of these options by name; None, the reference's two arms, if there are none.

    Raises:
        SettingsError: an option that there is not, or a value out of range.
    """
    known = [f.name for f in fields(CameraRig)]
    for key in options:
        if key not in known:
            raise SettingsError(f"rig has no option {key!r}: {nearest(str(key), known)}")
    try:
        return CameraRig(**options) if options else None
    except SettingsError as error:
        raise SettingsError(f"rig: {error}") from error


def alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a camera of one rig sees what one of the other would in its place, however many there are.

    Raises:
        SettingsError: as ``rig_of``, whose options both are.
    """
    rig, other_rig = rig_of(one), rig_of(other)
    if rig is None or other_rig is None:
        return rig is other_rig
    return replace(rig, number=other_rig.number, start_deg=other_rig.start_deg) == other_rig


def mount(spec: mujoco.MjSpec, rig: CameraRig) -> None:
    """Put a rig's arms and cameras in the place of those that the robot has.

    Every arm weighs in proportion to its length, 0.067 kg at the reference's.
    """
    base, arms = spec.body("base"), list[mujoco.MjsBody]()
    while (arm := spec.body(f"camera_arm_{len(arms)}")) is not None:
        arms.append(arm)
    width, height = arms[0].cameras[0].resolution if arms else RESOLUTION
    for arm in arms:
        spec.delete(arm)
    for camera in [each for each in spec.cameras if each.name.startswith("cam_")]:
        spec.delete(camera)
    tilt = np.radians(rig.tilt_deg)
    paint: dict[str, Any] = {"material": "accent"} if spec.material("accent") else {"rgba": [0.05, 0.45, 0.65, 1]}
    for number, (x, y) in enumerate(rig.directions.T):
        outward = np.array([x, y, 0.0])
        body = base.add_body(name=f"camera_arm_{number}", pos=[*(rig.reach * outward[:2]), rig.height])
        body.add_geom(
            *_default(spec, "arm"), name=f"camera_arm_{number}", type=mujoco.mjtGeom.mjGEOM_CAPSULE, size=[0.01, 0, 0],
            fromto=[0, 0, 0, *(-rig.reach * outward[:2]), RISE],
        )  # fmt: skip
        look = np.sin(tilt) * outward + [0.0, 0.0, -np.cos(tilt)]
        up = np.cos(tilt) * outward + [0.0, 0.0, np.sin(tilt)]
        right = np.cross(look, up)
        body.add_geom(
            *_default(spec, "look"), name=f"camera_{number}_look", type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[0.014, 0.006, 0], fromto=[*(-0.012 * look), *(0.002 * look)], mass=0, contype=0, conaffinity=0,
            group=1, **paint,
        )  # fmt: skip
        quat = np.empty(4)
        mujoco.mju_mat2Quat(quat, np.stack([right, up, -look], axis=1).ravel())
        body.add_camera(name=f"cam_{number}", quat=quat, fovy=rig.fov_deg, resolution=[width, height])


def _default(spec: mujoco.MjSpec, name: str) -> list[mujoco.MjsDefault]:
    """The class of defaults of this name, which files of others lack."""
    found = spec.find_default(name)
    return [] if found is None else [found]


def check_cameras(model: mujoco.MjModel) -> None:
    """Refuse cameras that see nothing, within the robot, the ball or the ground, and arms that touch these.

    Args:
        model: a robot with a rig, on a plane.

    Raises:
        SettingsError: one does; the message says which, and what is in the way.
    """
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, model.key("settled").id)
    mujoco.mj_forward(model, data)
    for number, camera in enumerate(camera_names(model)):
        eye = data.camera(camera).xpos
        if (within := _around(model, data, eye, number)) is not None:
            place = ", ".join(f"{x:.3f}" for x in eye - data.body("base").xpos)
            raise SettingsError(
                f"camera {number} of the rig is within {within}, at ({place}) m from the base's origin: choose another "
                "rig reach or height"
            )
    for contact in data.contact:
        names = [model.geom(geom).name for geom in (contact.geom1, contact.geom2)]
        if arms := [name for name in names if name.startswith("camera_arm_")]:
            other = next((name for name in names if name not in arms), names[0])
            raise SettingsError(
                f"arm {arms[0].removeprefix('camera_arm_')} of the rig touches the {other.replace('_', ' ')}: choose "
                "another rig reach or height"
            )


def _around(model: mujoco.MjModel, data: mujoco.MjData, eye: Array, number: int) -> str | None:
    """What a camera is within, or nearer to than ``LENS``; None if nothing."""
    if eye[2] < LENS:
        return "the ground"
    for geom in range(model.ngeom):
        name, kind = model.geom(geom).name, int(model.geom_type[geom])
        if name in ("ground", f"camera_arm_{number}", f"camera_{number}_look"):
            continue
        centre, turn = data.geom_xpos[geom], data.geom_xmat[geom]
        if np.linalg.norm(eye - centre) > model.geom_rbound[geom] + LENS:
            continue
        if is_inside(eye, centre, turn, model.geom_size[geom] + LENS, kind):
            return f"the {name.removesuffix('_look').replace('_', ' ')}"
    return None


def is_inside(eye: Array, centre: Array, turn: Array, size: Array, kind: int) -> bool:
    """Whether a point is within a convex part: both ways along a line lead to its surface.

    Args:
        eye: (3,) the point, m.
        centre: (3,) of the part, m.
        turn: (9,) its rotation.
        size: (3,) as MuJoCo's ``geom_size``.
        kind: its ``mjtGeom``.
    """
    return all(mujoco.mju_rayGeom(centre, turn, size, eye, np.array([way, 0.0, 0.0]), kind) >= 0 for way in (1.0, -1.0))


def camera_names(model: mujoco.MjModel, prefix: str = "cam_") -> list[str]:
    """Of the robot's depth cameras, in order."""
    return [name for i in range(model.ncam) if (name := model.camera(i).name).startswith(prefix)]


def described(options: Mapping[str, Any]) -> str:
    """A rig by its options, in words."""
    return ", ".join(f"{name} {value}" for name, value in options.items()) or "the two cameras of the reference"
