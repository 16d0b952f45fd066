"""Measures, on a wheel and a ball of its own, that contacts behave as the contact fix promises.

The check does not trust the fix's own bookkeeping: it compares contact frames with axles computed from the
poses it set, and contact forces, in world axes, with Coulomb's law.
"""

import time
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from mujoco_patch import contact_fix, python_collider
from mujoco_patch.layout import NEEDED, ContactFixError

Array = NDArray[np.float64]

AXLE_FRICTION = 0.001
"""friction coefficient along the axle: the wheel's rollers turn freely (ballbot/assets/ballbot.xml)"""
DRIVE_FRICTION = 1.0
"""friction coefficient across the axle"""
MIN_ALIGNMENT = 1 - 1e-6
"""smallest accepted |tangent . axle|; rounding costs 1e-15, stock MuJoCo is anywhere in 0..1"""
FRICTION_TOLERANCE = 0.02
"""accepted relative error of a measured friction coefficient; the solver's own is 1e-4"""

_RADIUS, _HALF_LENGTH, _BALL_RADIUS = 0.025, 0.02, 0.09  # m, the robot's wheel and ball
_OVERLAP = 1e-4  # m, how deep the wheel is pressed into the ball
_SLIP = 1.0  # m/s, far beyond the speed below which the soft contact would creep
_POSES = 48  # random directions of axle and contact: a mistake that only some show is met many times
_ON_CAP = 16  # of the poses touch a rounded end of the capsule, where the normal is not across the axle

# The geoms come in another order than the collider's, lest g1 and g2 be confused unnoticed.
_MODEL = """
<mujoco>
  <option cone="elliptic" gravity="0 0 0" timestep="0.002"/>
  <worldbody>
    <body name="mount" mocap="true">
      <body name="wheel">
        <joint name="axle" type="hinge" axis="0 0 1" armature="0.005"/>
        <geom name="wheel" type="capsule" size="{radius} {half_length}" mass="0.09"/>
      </body>
    </body>
    <body name="ball"><freejoint/><geom name="ball" type="sphere" size="{ball_radius}" mass="0.2"/></body>
  </worldbody>
  <contact>
    <pair geom1="wheel" geom2="ball" condim="3" friction="{along} {across} 0 0 0"/>
  </contact>
  <sensor>
    <contact name="contact" geom1="wheel" geom2="ball" num="1" data="found tangent"/>
  </sensor>
</mujoco>
"""


@dataclass(frozen=True)
class SelfCheckReport:
    """What `verify` measured."""

    mujoco_version: str
    implementation: str | None
    """"c", "python", or None if the contact fix is not installed (a MuJoCo built with contact_frame.diff)"""
    contacts: int
    """number of contacts measured"""
    worst_alignment: float
    """smallest |tangent . axle|, the axle projected on the contact plane: 1 is aligned"""
    drive_ratio: float
    """friction over normal force of a spinning wheel, across its axle; the one furthest from 1.0"""
    slip_ratio: float
    """friction over normal force of a wheel that slides along its axle; the one furthest from 0.001"""
    stray_ratio: float
    """largest force over normal force in the direction in which the wheel does not slip: 0 is none"""
    seconds: float
    """duration of the measurement"""


_checked: tuple[tuple[int, bool], SelfCheckReport] | None = None


def ensure() -> SelfCheckReport:
    """Installs and checks the contact fix unless that was done: cheap to call before every use.

    Raises:
      ContactFixError: the fix cannot be installed or does not work, or the fallback in Python failed since the last
        call.
    """
    _raise_if_failed()
    if _checked is not None and contact_fix.is_installed() and _checked[0] == contact_fix.table_state():
        return _checked[1]
    with contact_fix.lock():  # nobody exchanges the collider while it is measured
        contact_fix.install()
        return verify()


def verify(force: bool = False) -> SelfCheckReport:
    """Measures contact frames and friction, once per process unless the fix was installed or undone since.

    Args:
      force: measure again in any case.

    Raises:
      ContactFixError: a measured figure is off, and the message lists them all; or the fallback in Python failed
        since the last call.
    """
    global _checked
    _raise_if_failed()
    with contact_fix.lock():
        state = contact_fix.table_state()
        if force or _checked is None or _checked[0] != state:
            report = measure()
            _raise_if_failed()
            _judge(report)
            _checked = (state, report)
        return _checked[1]


def _raise_if_failed() -> None:
    """Tells, once, that the collider in Python raised: what was simulated since the last check is not to be trusted."""
    global _checked
    failures = python_collider.take_failures()
    if failures is not None:
        _checked = None
        raise ContactFixError(
            f"the contact fix in Python failed in {failures.count} collisions, first with {failures.first}: those "
            "contacts were not aligned, so discard what was simulated. Report this message; the compiled contact fix "
            "does without Python: reinstall this package where a C compiler is available"
        )


def _judge(report: SelfCheckReport) -> None:
    faults = []
    # `not <=` so that NaN counts as a fault
    if not report.worst_alignment >= MIN_ALIGNMENT:
        faults.append(f"a contact's first tangent . axle is {report.worst_alignment:.6f} (expected 1)")
    if not abs(report.drive_ratio / DRIVE_FRICTION - 1) <= FRICTION_TOLERANCE:
        faults.append(
            f"friction across the axle is {report.drive_ratio:.4f} of the normal force (expected {DRIVE_FRICTION})"
        )
    if not abs(report.slip_ratio / AXLE_FRICTION - 1) <= FRICTION_TOLERANCE:
        faults.append(
            f"friction along the axle is {report.slip_ratio:.5f} of the normal force (expected {AXLE_FRICTION})"
        )
    if not report.stray_ratio <= FRICTION_TOLERANCE * AXLE_FRICTION:
        faults.append(f"{report.stray_ratio:.5f} of the normal force acts at right angles to the slip (expected 0)")
    if faults:
        installed = report.implementation is not None
        remedy = (
            "MuJoCo has changed in a way the fix does not know: use a version this package was tested with "
            "and report this message"
            if installed
            else "The contact fix is not installed: call mujoco_patch.install() before simulating"
        )
        raise ContactFixError(
            f"contact self-check failed with MuJoCo {report.mujoco_version}, contact fix "
            f"{report.implementation or 'not installed'}, {report.contacts} contacts: {'; '.join(faults)}. "
            f"Wheels would not push the ball as they should. {remedy}."
        )


def measure() -> SelfCheckReport:
    """The measurement of `verify`, neither judged nor remembered: also tells what stock MuJoCo does."""
    try:
        from mujoco.batch import Batch
    except ImportError as error:
        raise ContactFixError(f"no mujoco.batch in MuJoCo {mujoco.__version__}; needed: {NEEDED}") from error

    start = time.perf_counter()
    model = mujoco.MjModel.from_xml_string(
        _MODEL.format(
            radius=_RADIUS,
            half_length=_HALF_LENGTH,
            ball_radius=_BALL_RADIUS,
            along=AXLE_FRICTION,
            across=DRIVE_FRICTION,
        )
    )
    qpos, mount, axle, normal = _poses()
    side = slice(_ON_CAP, None)  # poses with the ball on the cylindrical part
    drive = np.cross(axle, normal)

    alignment: list[float] = []
    ratios: dict[str, list[Array]] = {"drive": [], "slip": [], "stray": []}
    batch = Batch(model, nsim=_POSES, nthread=2)
    # The wheel spins under a ball at rest, then the ball slides along the axle of a wheel at rest.
    for spin, slide in ((_SLIP / _RADIUS, 0.0), (0.0, _SLIP)):
        qvel = np.zeros((_POSES, model.nv))
        qvel[:, 0] = spin
        qvel[:, 1:4] = slide * axle
        for forces, tangents in (
            _run_batch(batch, qpos, qvel, mount),
            _run_loop(model, qpos, qvel, mount),
        ):
            projected = axle - normal * np.sum(axle * normal, axis=1, keepdims=True)
            projected /= np.linalg.norm(projected, axis=1, keepdims=True)
            alignment.extend(np.abs(np.sum(tangents * projected, axis=1)))
            press = np.abs(np.sum(forces * normal, axis=1))[side]
            with np.errstate(divide="ignore", invalid="ignore"):  # no normal force: judged as a fault
                across = np.abs(np.sum(forces * drive, axis=1))[side] / press
                along = np.abs(np.sum(forces * axle, axis=1))[side] / press
            ratios["drive" if spin else "slip"].append(across if spin else along)
            ratios["stray"].append(along if spin else across)
    return SelfCheckReport(
        mujoco_version=mujoco.__version__,
        implementation=contact_fix.implementation(),
        contacts=len(alignment),
        worst_alignment=float(np.min(alignment)),
        drive_ratio=_furthest(ratios["drive"], DRIVE_FRICTION),
        slip_ratio=_furthest(ratios["slip"], AXLE_FRICTION),
        stray_ratio=float(np.max(ratios["stray"])),
        seconds=time.perf_counter() - start,
    )


def _furthest(ratios: list[Array], expected: float) -> float:
    values = np.concatenate(ratios)
    return float(values[np.argmax(np.abs(values - expected))])


def _poses() -> tuple[Array, Array, Array, Array]:
    """Random poses of a wheel pressed on the ball: qpos (n, 8), mount pose (n, 7), axle and normal (n, 3).

    All in world axes; the normal points from the ball to the wheel.
    """
    rng = np.random.default_rng(0)
    mount, ball = rng.normal(size=(2, _POSES, 4))
    mount /= np.linalg.norm(mount, axis=1, keepdims=True)
    ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    turn, azimuth = rng.uniform(-np.pi, np.pi, (2, _POSES))
    elevation = np.where(np.arange(_POSES) < _ON_CAP, rng.uniform(0.2, 1.2, _POSES), 0.0)
    place = np.where(elevation > 0, _HALF_LENGTH, rng.uniform(-0.75, 0.75, _POSES) * _HALF_LENGTH)

    w, x, y, z = mount.T
    across, sideways, axle = np.stack(  # columns of the rotation matrix of the mount's quaternion
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
            [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
            [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
        ]
    ).transpose(0, 2, 1)
    radial = np.cos(azimuth)[:, None] * across + np.sin(azimuth)[:, None] * sideways
    outward = np.cos(elevation)[:, None] * radial + np.sin(elevation)[:, None] * axle
    centre = rng.uniform(-1, 1, (_POSES, 3))
    ball_centre = centre + place[:, None] * axle + (_RADIUS + _BALL_RADIUS - _OVERLAP) * outward
    return np.hstack([turn[:, None], ball_centre, ball]), np.hstack([centre, mount]), axle, -outward


def _run_batch(batch: "mujoco.batch.Batch", qpos: Array, qvel: Array, mount: Array) -> tuple[Array, Array]:
    """Force on the ball and first tangent, both (n, 3) in world axes, computed by mujoco.batch."""
    batch.bind("mocap_pos")[:, 0] = mount[:, :3]
    batch.bind("mocap_quat")[:, 0] = mount[:, 3:]
    batch.bind("qpos")[:] = qpos
    batch.bind("qvel")[:] = qvel
    force, sensor = batch.bind("qfrc_constraint"), batch.bind("sensordata")
    batch.forward()
    return _checked_contacts(force.copy(), sensor.copy())


def _run_loop(model: mujoco.MjModel, qpos: Array, qvel: Array, mount: Array) -> tuple[Array, Array]:
    """The same by mj_forward, one pose after the other."""
    data = mujoco.MjData(model)
    force, sensor = np.empty((len(qpos), model.nv)), np.empty((len(qpos), model.nsensordata))
    for i in range(len(qpos)):
        mujoco.mj_resetData(model, data)
        data.mocap_pos[0], data.mocap_quat[0] = mount[i, :3], mount[i, 3:]
        data.qpos[:], data.qvel[:] = qpos[i], qvel[i]
        mujoco.mj_forward(model, data)
        force[i], sensor[i] = data.qfrc_constraint, data.sensordata
    return _checked_contacts(force, sensor)


def _checked_contacts(force: Array, sensor: Array) -> tuple[Array, Array]:
    if not np.all(sensor[:, 0] == 1):
        raise ContactFixError(
            f"contact self-check failed with MuJoCo {mujoco.__version__}: {np.sum(sensor[:, 0] != 1)} of "
            f"{len(sensor)} wheels do not touch the ball in one contact. Needed: {NEEDED}."
        )
    return force[:, 1:4], sensor[:, 1:4]  # a free joint's first three dofs are a force in world axes
