"""The MuJoCo model: the robot's MJCF, its ground, and where things are in the state vector."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from ballbot.envs.rig import CameraRig, mount
from ballbot.envs.terrain import MAX_HEIGHT, field_length
from mujoco_patch import ContactFixError
from mujoco_patch.self_check import AXLE_FRICTION, DRIVE_FRICTION

if TYPE_CHECKING:
    from ballbot.envs.robots import Robot

INTEGRATORS = {
    "Euler": mujoco.mjtIntegrator.mjINT_EULER,
    "implicitfast": mujoco.mjtIntegrator.mjINT_IMPLICITFAST,
    "RK4": mujoco.mjtIntegrator.mjINT_RK4,
}
_PHYSICAL = ("actuator_", "body_", "dof_", "geom_", "jnt_", "pair_", "qpos0", "qpos_spring")
"""Beginnings of the names of the model's arrays that decide the motion; geom_ has colours too, which does no harm."""
_RARE = ("eq_", "mesh_", "tendon_")
"""The same, of what this robot does not have."""
MIN_WHEEL_ALIGNMENT = 0.999
"""Smallest accepted cosine between a contact's first tangent and the wheel's axle: in the reference's MJCF, which this
robot repeats, axle and capsule are parallel to 1 part in 10,000."""
SPUN, LEAST_PULL_ACROSS, MOST_PULL_ALONG = 1000.0, 0.99, 0.002
"""rad/s at which wheels are spun, fast enough to slip whatever they drive, to see how they grip; and bounds of their
pull as shares of the contact's force, by Coulomb 1 across the axle and 0.001 along it.  MuJoCo 4.0.0 gives 0.9998 to
1.0000 and 0.0014."""
HEAVY = 1e4
"""kg m² of what keeps its speed."""
_SUBSOIL = 0.1  # m of solid ground below a height field's lowest vertex: the ball, pressed in by 5 mm, stays within it


@dataclass(frozen=True)
class Addresses:
    """Addresses in qpos and qvel, by name, so that nothing depends on the order of bodies in the MJCF."""

    base_qpos: int  # 7 numbers: position, quaternion
    base_qvel: int  # 6: linear velocity in the world, angular velocity in the body
    ball_qpos: int
    ball_qvel: int
    wheel_qvel: tuple[int, ...]
    ground_geom: int

    @classmethod
    def of(cls, model: mujoco.MjModel) -> Addresses:
        """Look up the addresses in a compiled model."""
        base, ball = model.joint("base_free").id, model.joint("ball_free").id
        wheels = [int(model.jnt_dofadr[model.joint(f"wheel_{i}").id]) for i in range(num_wheels(model))]
        return cls(
            base_qpos=int(model.jnt_qposadr[base]),
            base_qvel=int(model.jnt_dofadr[base]),
            ball_qpos=int(model.jnt_qposadr[ball]),
            ball_qvel=int(model.jnt_dofadr[ball]),
            wheel_qvel=tuple(wheels),
            ground_geom=model.geom("ground").id,
        )


def num_wheels(model: mujoco.MjModel) -> int:
    """How many there are: joints named wheel_0, wheel_1 and so on.

    Raises:
        ValueError: there are more motors, or fewer.
    """
    names = {model.joint(i).name for i in range(model.njnt)}
    found = next(i for i in range(model.njnt + 1) if f"wheel_{i}" not in names)
    if found != model.nu:
        raise ValueError(
            f"the model has {model.nu} motors and joints wheel_0 to wheel_{model.nu - 1} are expected, of which "
            f"wheel_{min(found, model.nu)} is the first that does not fit: name them so"
        )
    return found


HeightFields = Mapping[str, str]
"""Name -> element of MJCF."""


def reference_spec(fields: HeightFields = MappingProxyType({})) -> mujoco.MjSpec:
    """The reference's robot, on a plane, in a world that has these height fields, too."""
    text = (files("ballbot.assets") / "ballbot.xml").read_text(encoding="utf-8")
    return mujoco.MjSpec.from_string(text.replace("</asset>", f"{''.join(fields.values())}</asset>"))


def build_spec(
    heights: NDArray[np.float32] | None = None,
    *,
    integrator: str = "Euler",
    tops: NDArray[np.float64] | None = None,
    length: float | None = None,
    rig: CameraRig | None = None,
    robot: Robot | None = None,
) -> mujoco.MjSpec:
    """What ``build_model`` compiles, of the same arguments; its height fields have no heights yet.

    Raises:
        ValueError: for an unknown integrator.
    """
    if integrator not in INTEGRATORS:
        raise ValueError(f"integrator={integrator!r} is unknown: use one of {', '.join(map(repr, INTEGRATORS))}")
    fields: dict[str, str] = {}
    if heights is not None:
        nrow, ncol = heights.shape[1:]
        half = float(field_length(nrow) if length is None else length) / 2
        tops = np.full(len(heights), MAX_HEIGHT) if tops is None else tops
        sizes = [f"{half!r} {half!r} {float(top)!r} {_SUBSOIL}" for top in tops]
        for k, size in enumerate(sizes):
            name = f"terrain_{k}"
            fields[name] = f'<hfield name="{name}" nrow="{nrow}" ncol="{ncol}" size="{size}"/>'
    spec = reference_spec(fields) if robot is None else robot.spec(fields)
    spec.option.integrator = INTEGRATORS[integrator]
    if heights is not None and tops is not None:
        ground = spec.geom("ground")
        ground.type = mujoco.mjtGeom.mjGEOM_HFIELD
        # the highest, because MuJoCo takes the bounds of the ground from the one that it is compiled with
        ground.hfieldname = spec.hfields[int(np.argmax(tops))].name
    if rig is not None:
        mount(spec, rig)
    return spec


def build_model(
    heights: NDArray[np.float32] | None = None,
    *,
    integrator: str = "Euler",
    tops: NDArray[np.float64] | None = None,
    length: float | None = None,
    rig: CameraRig | None = None,
    robot: Robot | None = None,
) -> mujoco.MjModel:
    """Compile a robot with its ground.

    Args:
        heights: (num_terrains, n, n) float32 in [0, 1], one height field each (see ballbot.envs.terrain), of which the
            ground shows one; None for an infinite plane.
        integrator: "Euler", "implicitfast" or "RK4".
        tops: (num_terrains,) m, what a height of 1 stands for; None: the reference's 0.1 m.
        length: side of the fields, m; None: 10 m with 293 vertices a side and longer with more.
        rig: its cameras; None: those of the reference.
        robot: which; None: the reference's.

    Returns:
        The model.  Height field k is shown by ``geom_dataid[ground] = k``.

    Raises:
        ValueError: for an unknown integrator.
    """
    model = build_spec(heights, integrator=integrator, tops=tops, length=length, rig=rig, robot=robot).compile()
    if heights is not None:  # afterwards: as userdata, they would be copied number by number
        model.hfield_data[:] = heights.ravel()
    return model


def physics_digest(model: mujoco.MjModel) -> str:
    """What decides the motion, as 16 hexadecimal digits: masses, shapes, joints, friction, motors, solver options.

    ``mjModel.signature`` would not do: it tells the names and the tree of bodies, but no number in them.
    """
    fields = [(model, name) for name in dir(model) if name.startswith(_PHYSICAL)]
    # only of models that have any, so that the digest of the others is what it was before these counted
    fields += [(model, name) for name in dir(model) if name.startswith(_RARE) and np.size(getattr(model, name))]
    return _digest(fields + [(model.opt, name) for name in dir(model.opt)])


def view_digest(model: mujoco.MjModel) -> str:
    """What decides where the cameras look, as 16 hexadecimal digits."""
    return _digest([(model, name) for name in ("cam_fovy", "cam_pos", "cam_quat")])


def _digest(fields: list[tuple[Any, str]]) -> str:
    """Of the numbers in (owner, attribute), to 10 significant digits: other machines round the last ones otherwise."""
    digest = hashlib.sha256()
    for owner, name in fields:
        value = getattr(owner, name)
        if isinstance(value, (int, float, np.ndarray)):
            numbers = np.asarray(value, np.float64).ravel() + 0.0  # + 0.0: no negative zeros
            digest.update(f"{name} {' '.join(f'{number:.10g}' for number in numbers)}\n".encode())
    return digest.hexdigest()[:16]


def at_rest(model: mujoco.MjModel, wheel_speeds: NDArray[np.float64] | None = None) -> mujoco.MjData:
    """A robot in its keyframe "settled", with all that MuJoCo derives from that, contacts too.

    Args:
        model: the robot.
        wheel_speeds: (wheels,) rad/s at which its wheels turn there; None: they do not.
    """
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, model.key("settled").id)
    if wheel_speeds is not None:
        data.qvel[list(Addresses.of(model).wheel_qvel)] = wheel_speeds
    mujoco.mj_forward(model, data)
    return data


def unslowed(model: mujoco.MjModel) -> mujoco.MjModel:
    """The same robot with wheels that nothing slows, so that what they do to the ball can be measured."""
    found, wheels = copy.copy(model), list(Addresses.of(model).wheel_qvel)
    found.dof_armature[wheels] = HEAVY
    found.dof_damping[wheels] = found.dof_frictionloss[wheels] = 0.0
    return found


def settled_poses(
    model: mujoco.MjModel,
    spawns: Sequence[NDArray[np.float64]] | None = None,
    ground: NDArray[np.float64] | None = None,
    num_threads: int = 1,
) -> list[NDArray[np.float64]]:
    """Upright poses on each terrain, in which the ground carries exactly the robot's weight.

    The base rests on the ball as in the MJCF's keyframe "settled"; the height of both is found by bisection on the
    ground's force on the ball, so that an episode does not begin with a drop or a push.

    Args:
        model: the robot with its ground.
        spawns: of each terrain, (k, 2) places in m from its centre; None: the centre alone.
        ground: heights there, m, one after the other; None: unknown, 0 to 0.1 m.
        num_threads: that look for them.

    Returns:
        of each terrain (k, nq) qpos; one terrain for a plane.
    """
    addresses = Addresses.of(model)
    spawns = [np.zeros((1, 2))] * max(model.nhfield, 1) if spawns is None else spawns
    places = np.concatenate(spawns)
    terrains = np.repeat(np.arange(len(spawns)), [len(s) for s in spawns])
    poses = np.tile(model.key("settled").qpos, (len(places), 1))
    base, ball = addresses.base_qpos, addresses.ball_qpos
    for at in (base, ball):
        poses[:, at : at + 2] += places
    ball_radius = float(model.geom("ball").size[0])
    weight = float(model.body_subtreemass[0] * -model.opt.gravity[2])
    # Where the answer must lie, above the plane's settled height: the keyframe is exact on a plane to far less than
    # 1 cm; on terrain the ground below the ball rises by up to its height, and a slope meets the ball's side.
    low, high = np.full(len(places), -0.01), np.full(len(places), 0.01)
    if model.nhfield:
        around = np.zeros(len(places)) if ground is None else ground
        low = np.maximum(low, around - MAX_HEIGHT - 0.01)
        high = np.minimum(model.hfield_size[terrains, 2] + ball_radius, around + MAX_HEIGHT + ball_radius)
    batch = Batch(model, len(places), min(num_threads, len(places)))
    if model.nhfield:
        batch.expand("geom_dataid")[:, addresses.ground_geom] = terrains
    qpos, warmstart = batch.bind("qpos"), batch.bind("qacc_warmstart")
    force = batch.bind("qfrc_constraint")
    heights = [base + 2, ball + 2]
    for _ in range(30):  # 0.2 m / 2^30: far below the solver's tolerance
        middle = (low + high) / 2
        qpos[:] = poses
        qpos[:, heights] += middle[:, None]
        warmstart[:] = 0
        batch.forward()
        # wheel forces cancel between base and ball: what is left is the ground's
        carried = force[:, [addresses.base_qvel + 2, addresses.ball_qvel + 2]].sum(axis=1)
        low, high = np.where(carried > weight, middle, low), np.where(carried > weight, high, middle)
    poses[:, heights] += high[:, None]
    return np.split(poses, np.cumsum([len(s) for s in spawns])[:-1])


def _settled_wheel_contacts(
    model: mujoco.MjModel, wheel_speeds: NDArray[np.float64] | None = None
) -> tuple[mujoco.MjData, list[int]]:
    """The robot in the keyframe "settled", and the number of each wheel's contact with the ball.

    Args:
        model: the robot, with wheels of one solid each.
        wheel_speeds: (wheels,) rad/s at which the wheels turn there; None: they do not.

    Raises:
        ValueError: a wheel does not touch the ball in exactly one contact.
    """
    data, found = at_rest(model, wheel_speeds), []
    for wheel in range(num_wheels(model)):
        contacts = wheel_contacts(model, data, wheel)
        if len(contacts) != 1:
            raise ValueError(
                f"wheel_{wheel} has {len(contacts)} contacts with the ball in the keyframe 'settled', expected 1: mend "
                "the keyframe or the geometry"
            )
        found += contacts
    return data, found


def has_rollers(model: mujoco.MjModel, wheel: int) -> bool:
    """Whether a wheel carries bodies that turn on it, instead of being one solid."""
    own = int(model.jnt_bodyid[model.joint(f"wheel_{wheel}").id])
    return any(body != own and is_part(model, int(body), own) for body in model.jnt_bodyid)


def is_part(model: mujoco.MjModel, body: int, whole: int) -> bool:
    """Whether a body is another one, or mounted on it."""
    while body not in (0, whole):
        body = int(model.body_parentid[body])
    return body == whole


def tread_middle(joint: Any, ball: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3,) m, of a wheel, by MuJoCo's data of its joint: the place on its axle that is nearest to the ball's centre."""
    return np.asarray(joint.xanchor + (ball - joint.xanchor) @ joint.xaxis * joint.xaxis)


def wheel_contacts(model: mujoco.MjModel, data: mujoco.MjData, wheel: int) -> list[int]:
    """The numbers of the contacts of the ball with a wheel, or with the rollers on it."""
    ball, body = model.geom("ball").id, int(model.jnt_bodyid[model.joint(f"wheel_{wheel}").id])

    found = []
    for i, contact in enumerate(data.contact):
        pair = int(contact.geom1), int(contact.geom2)
        if ball in pair and any(is_part(model, int(model.geom_bodyid[geom]), body) for geom in pair if geom != ball):
            found.append(i)
    return found


def check_wheel_contacts(model: mujoco.MjModel) -> None:
    """Measure on the robot itself what ``mujoco_patch.ensure`` measures on a wheel and a ball of its own.

    In the keyframe "settled", each wheel touches the ball once, in a frame that follows its axle.  Spun there either
    way, it pulls the ball across its axle, and not along it.

    Raises:
        ContactFixError: a wheel grips otherwise; the message says which, and what was measured.
        ValueError: a wheel does not touch the ball in exactly one contact, or friction is of another kind.
    """
    if model.opt.cone != mujoco.mjtCone.mjCONE_ELLIPTIC or model.opt.impratio != 1:
        raise ValueError(
            f"opt.cone is {model.opt.cone} and opt.impratio {model.opt.impratio:g}, the wheels need an elliptic "
            f"friction cone ({int(mujoco.mjtCone.mjCONE_ELLIPTIC)}) and 1: mend the robot"
        )
    remedy = "with such wheels no policy can learn; mend the robot, or leave the model as it was compiled"
    wanted, force = np.array([AXLE_FRICTION, DRIVE_FRICTION]), np.zeros(6)
    data, contacts = _settled_wheel_contacts(model)
    for wheel, number in enumerate(contacts):
        tangent, friction = data.contact[number].frame[3:6], data.contact[number].friction[:2]
        alignment = float(abs(tangent @ _tangential_axle(model, data, wheel, number)))
        if not (alignment >= MIN_WHEEL_ALIGNMENT and np.allclose(friction, wanted, rtol=1e-6, atol=0)):
            raise ContactFixError(
                f"wheel_{wheel} grips the ball with friction {friction.tolist()} along and across a direction whose "
                f"cosine to its axle is {alignment:.4f}, expected {wanted.tolist()} and 1: {remedy}"
            )
    wheels, model = len(contacts), unslowed(model)
    for wheel, speed in product(range(wheels), (-SPUN, SPUN)):
        data, contacts = _settled_wheel_contacts(model, np.eye(wheels)[wheel] * speed)
        contact, axle = data.contact[contacts[wheel]], _tangential_axle(model, data, wheel, contacts[wheel])
        mujoco.mj_contactForce(model, data, contacts[wheel], force)
        pull = contact.frame.reshape(3, 3).T @ force[:3] / force[0]
        along, across = abs(float(pull @ axle)), abs(float(pull @ np.cross(contact.frame[:3], axle)))
        if not (contact.dim == 3 and along <= MOST_PULL_ALONG and across >= LEAST_PULL_ACROSS):
            raise ContactFixError(
                f"wheel_{wheel}, spun, pulls the ball by {across:.3f} of its contact force across its axle and "
                f"{along:.4f} along it (condim {contact.dim}), expected at least {LEAST_PULL_ACROSS}, at most "
                f"{MOST_PULL_ALONG} and condim 3: {remedy}"
            )


def _tangential_axle(model: mujoco.MjModel, data: mujoco.MjData, wheel: int, contact: int) -> NDArray[np.float64]:
    """(3,) unit vector along a wheel's axle in the plane in which it touches the ball."""
    normal, axle = data.contact[contact].frame[:3], data.xaxis[model.joint(f"wheel_{wheel}").id]
    along = axle - normal * (axle @ normal)
    return np.asarray(along / np.linalg.norm(along))
