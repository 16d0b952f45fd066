"""Physics that cannot lie: whatever is wrong with the wheels' contacts is noticed, and laws of nature hold."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import mujoco
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import mujoco_patch
from ballbot.envs import BallbotVectorEnv
from ballbot.envs import physics as physics_module
from ballbot.envs.model import INTEGRATORS, Addresses, build_model, check_wheel_contacts, settled_poses
from ballbot.envs.terrain import make_terrain
from mujoco_patch import ContactFixError, contact_fix

Array = NDArray[np.float64]
Tally = Callable[[str, int], None]
FLAT: dict[str, Any] = {"terrain": "flat", "num_threads": 1}


@pytest.fixture(autouse=True)
def fixed() -> Iterator[None]:
    mujoco_patch.ensure()
    yield
    mujoco_patch.ensure()


# -- What is wrong is noticed -----------------------------------------------------------------------------------------


def swap_friction(model: mujoco.MjModel) -> None:
    model.pair_friction[:, :2] = model.pair_friction[:, 1::-1]


def one_friction(model: mujoco.MjModel) -> None:
    model.pair_friction[1, 0] = 1.0


def turn_a_capsule(model: mujoco.MjModel) -> None:
    turn = np.array([np.cos(0.3), np.sin(0.3), 0.0, 0.0])
    geom = model.geom("wheel_2").id
    model.geom_sameframe[geom] = 0  # else MuJoCo takes it for the body's frame
    mujoco.mju_mulQuat(model.geom_quat[geom], model.geom_quat[geom].copy(), turn)


def turn_a_hinge(model: mujoco.MjModel) -> None:
    model.jnt_axis[model.joint("wheel_0").id] = (1.0, 0.0, 0.0)


def other_geom(model: mujoco.MjModel) -> None:
    wheel = model.geom("wheel_1").id
    pair = int(np.flatnonzero((model.pair_geom1 == wheel) | (model.pair_geom2 == wheel))[0])
    for side in (model.pair_geom1, model.pair_geom2):
        if side[pair] == wheel:
            side[pair] = model.geom("wheel_0").id


def pyramidal_cone(model: mujoco.MjModel) -> None:
    model.opt.cone = mujoco.mjtCone.mjCONE_PYRAMIDAL


def no_friction(model: mujoco.MjModel) -> None:
    model.pair_dim[:] = 1


def torsional_friction(model: mujoco.MjModel) -> None:
    model.pair_dim[0] = 4


def soft_friction(model: mujoco.MjModel) -> None:
    model.opt.impratio = 0.01


@pytest.mark.fault("a robot with a wheel, friction, pair or cone changed")
@pytest.mark.parametrize(
    "change",
    [
        swap_friction,
        one_friction,
        turn_a_capsule,
        turn_a_hinge,
        other_geom,
        pyramidal_cone,
        no_friction,
        torsional_friction,
        soft_friction,
    ],
)
def test_a_robot_with_other_wheels_is_refused(
    change: Callable[[mujoco.MjModel], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(*args: Any, **options: Any) -> mujoco.MjModel:
        model = build_model(*args, **options)
        check_wheel_contacts(model)
        change(model)
        return model

    monkeypatch.setattr(physics_module, "build_model", changed)
    with pytest.raises((ContactFixError, ValueError), match=r"wheel_\d|cone"):
        BallbotVectorEnv(1, **FLAT)


@pytest.mark.fault("the contact fix missing")
def test_without_the_fix_the_robots_own_contacts_are_refused() -> None:
    model = build_model()
    check_wheel_contacts(model)
    mujoco_patch.uninstall()
    with pytest.raises(ContactFixError, match=r"wheel_\d grips the ball .* expected \[0\.001, 1\.0\] and 1"):
        check_wheel_contacts(model)


@pytest.mark.fault("the contact fix undone, or installed, while robots move")
def test_a_fix_that_is_undone_while_robots_move_stops_them() -> None:
    envs = BallbotVectorEnv(2, **FLAT)
    envs.reset(seed=0)
    envs.step(np.zeros((2, 3), np.float32))
    mujoco_patch.uninstall()
    with pytest.raises(ContactFixError, match="contact fix was undone since"):
        envs.step(np.zeros((2, 3), np.float32))
    envs.close()
    free = BallbotVectorEnv(2, contact_fix=False, **FLAT)
    free.reset(seed=0)
    free.step(np.zeros((2, 3), np.float32))
    mujoco_patch.install()
    with pytest.raises(ContactFixError, match="contact fix was installed since"):
        free.step(np.zeros((2, 3), np.float32))
    free.close()


@pytest.mark.fault("MuJoCo's collider replaced by another library while robots move")
def test_a_collider_of_somebody_else_stops_them() -> None:
    envs = BallbotVectorEnv(2, **FLAT)
    envs.reset(seed=0)
    table, entry = contact_fix._find_table(), contact_fix._ENTRY
    ours = table[entry]
    table[entry] = table[entry - 1]  # MuJoCo's own for other shapes
    try:
        with pytest.raises(ContactFixError, match="contact fix was undone since"):
            envs.step(np.zeros((2, 3), np.float32))
        with pytest.raises(ContactFixError, match="other code has replaced"):
            BallbotVectorEnv(1, **FLAT)
    finally:
        table[entry] = ours
    envs.step(np.zeros((2, 3), np.float32))
    envs.close()


# -- Laws of nature ---------------------------------------------------------------------------------------------------

small = st.floats(-1.0, 1.0)
triples = st.tuples(small, small, small)


def exact_model() -> mujoco.MjModel:
    """The robot, whose contact forces are solved for until nothing moves: as usual, errors of 0.1 rad/s come and go."""
    model = build_model()
    model.opt.tolerance, model.opt.iterations = 1e-14, 500
    return model


@functools.cache
def ground(uneven: bool, integrator: str) -> tuple[mujoco.MjModel, Array]:
    """The robot on a plane or on uneven ground, and how it stands there."""
    model = build_model(make_terrain(0)[None] if uneven else None, integrator=integrator)
    return model, settled_poses(model)[0][0]


def start(model: mujoco.MjModel, numbers: list[float], height: float = 0.0, pose: Array | None = None) -> mujoco.MjData:
    """The settled robot (or one in another pose), tilted by up to 11 degrees, moving, and lifted by a height in m."""
    data, layout = mujoco.MjData(model), Addresses.of(model)
    data.qpos[:] = model.key("settled").qpos if pose is None else pose
    base, ball = layout.base_qpos, layout.ball_qpos
    tilt, towards, lean = 0.2 * numbers[0], np.pi * numbers[1], np.zeros(4)
    mujoco.mju_axisAngle2Quat(lean, np.array([np.cos(towards), np.sin(towards), 0.0]), tilt)
    centre = data.qpos[ball : ball + 3].copy()
    mujoco.mju_rotVecQuat(data.qpos[base : base + 3], data.qpos[base : base + 3] - centre, lean)
    data.qpos[base : base + 3] += centre
    mujoco.mju_mulQuat(data.qpos[base + 3 : base + 7], lean, data.qpos[base + 3 : base + 7].copy())
    data.qvel[:] = 0.5 * np.resize(numbers[2:], model.nv)
    for place in (base, ball):
        data.qpos[place + 2] += height
    return data


many = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.fault("random states in free fall")
@given(st.lists(small, min_size=5, max_size=15))
@many
def test_free_fall_is_exact(numbers: list[float]) -> None:
    model, steps = build_model(), 100
    data, dt, g = start(model, numbers, height=5.0), model.opt.timestep, model.opt.gravity[2]
    for _ in range(200):  # the parts separate, and turn within each other
        mujoco.mj_step(model, data)
    mujoco.mj_forward(model, data)
    assume(not data.ncon)
    before, momentum = data.subtree_com[0].copy(), centre_velocity(model, data)
    for _ in range(steps):
        mujoco.mj_step(model, data)
    mujoco.mj_forward(model, data)
    assume(not data.ncon)
    fallen = before + momentum * steps * dt
    fallen[2] += g * dt**2 * steps * (steps + 1) / 2  # semi-implicit Euler
    np.testing.assert_allclose(data.subtree_com[0], fallen, atol=2e-4)  # turning bodies: first order in dt
    np.testing.assert_allclose(centre_velocity(model, data), momentum + np.array([0, 0, g * steps * dt]), atol=2e-3)


def centre_velocity(model: mujoco.MjModel, data: mujoco.MjData) -> Array:
    """Of the centre of mass, m/s."""
    mujoco.mj_subtreeVel(model, data)
    return data.subtree_linvel[0].copy()


@pytest.mark.fault(
    "random states without motors, on a plane and uneven ground, by each integrator: energy, unit quaternions"
)
@given(st.lists(small, min_size=5, max_size=15), st.booleans(), st.sampled_from(sorted(INTEGRATORS)))
@many
def test_energy_never_grows_without_motors(numbers: list[float], uneven: bool, integrator: str) -> None:
    model, pose = ground(uneven, integrator)
    layout = Addresses.of(model)
    model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_ENERGY
    data = start(model, numbers, pose=pose)
    energies: list[float] = []
    lowest = np.inf
    for _ in range(1500):
        mujoco.mj_step(model, data)
        mujoco.mj_forward(model, data)
        if uneven and data.body("base").xmat[8] < 0.5:
            break  # 60 degrees, long after the episode: MuJoCo's height fields throw up what lies on them, by joules
        energies.append(float(data.energy.sum()))
        lowest = min(lowest, energies[-1])
        # J: what contacts that were pressed in give back; a fall is 6 J
        assert energies[-1] <= min(lowest + 0.6, energies[0] + 0.5)
        norms = [np.linalg.norm(data.qpos[place + 3 : place + 7]) for place in (layout.base_qpos, layout.ball_qpos)]
        np.testing.assert_allclose(norms, 1.0, atol=1e-9)


@pytest.mark.fault("random worlds turned about the vertical")
@given(st.lists(small, min_size=5, max_size=15), triples, st.floats(0.0, 6.28))
@many
def test_a_world_turned_about_the_vertical_turns_the_motion(
    numbers: list[float], torques: tuple[float, float, float], angle: float
) -> None:
    model, layout = exact_model(), Addresses.of(build_model())
    one = start(model, numbers)
    two = copy.copy(one)
    turn = np.array([np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)])
    turn_state(two, layout, turn)
    for data in (one, two):
        data.ctrl[:] = 3 * np.array(torques)
        for _ in range(50):
            mujoco.mj_step(model, data)
    turn_state(one, layout, turn)
    np.testing.assert_allclose(two.qpos, same_sign(one.qpos, two.qpos), atol=1e-4)
    np.testing.assert_allclose(two.qvel, one.qvel, atol=0.02)


def turn_state(data: mujoco.MjData, layout: Addresses, turn: Array) -> None:
    """Turn positions, orientations and velocities about the world's z axis; spins are the body's own."""
    for place, speed in ((layout.base_qpos, layout.base_qvel), (layout.ball_qpos, layout.ball_qvel)):
        for part in (data.qpos[place : place + 3], data.qvel[speed : speed + 3]):
            mujoco.mju_rotVecQuat(part, part.copy(), turn)
        mujoco.mju_mulQuat(data.qpos[place + 3 : place + 7], turn, data.qpos[place + 3 : place + 7].copy())


def same_sign(qpos: Array, like: Array) -> Array:
    """A quaternion and its negative are the same orientation."""
    qpos = qpos.copy()
    for place in (3, 10):
        part = slice(place, place + 4)
        qpos[part] *= np.sign(qpos[part] @ like[part])
    return qpos


def mirrored(model: mujoco.MjModel) -> mujoco.MjModel:
    """The robot in a mirror that swaps x and -x: places and velocities mirror, axes and spins the other way."""
    twin = copy.copy(model)
    for place in ("body_pos", "body_ipos", "geom_pos", "jnt_pos", "site_pos", "cam_pos"):
        getattr(twin, place)[:, 0] *= -1
    for orientation in ("body_quat", "body_iquat", "geom_quat", "site_quat", "cam_quat"):
        getattr(twin, orientation)[:, 2:] *= -1
    twin.jnt_axis[:, 1:] *= -1
    mirror_state(model, twin.qpos0)
    mirror_state(model, twin.qpos_spring)
    mujoco.mj_setConst(twin, mujoco.MjData(twin))
    return twin


def mirror_state(model: mujoco.MjModel, qpos: Array, qvel: Array | None = None) -> None:
    layout = Addresses.of(model)
    for place, speed in ((layout.base_qpos, layout.base_qvel), (layout.ball_qpos, layout.ball_qvel)):
        qpos[place] *= -1
        qpos[place + 5 : place + 7] *= -1
        if qvel is not None:
            qvel[speed] *= -1
            qvel[speed + 4 : speed + 6] *= -1


@pytest.mark.fault("random worlds mirrored")
@given(st.lists(small, min_size=5, max_size=15), triples)
@many
def test_a_mirrored_world_mirrors_the_motion(numbers: list[float], torques: tuple[float, float, float]) -> None:
    model = exact_model()
    twin = mirrored(model)
    one = start(model, numbers)
    two = mujoco.MjData(twin)
    two.qpos[:], two.qvel[:] = one.qpos, one.qvel
    mirror_state(model, two.qpos, two.qvel)
    for data, its in ((one, model), (two, twin)):
        data.ctrl[:] = 3 * np.array(torques)
        for _ in range(50):
            mujoco.mj_step(its, data)
    mirror_state(model, one.qpos, one.qvel)
    np.testing.assert_allclose(two.qpos, same_sign(one.qpos, two.qpos), atol=1e-4)
    np.testing.assert_allclose(two.qvel, one.qvel, atol=0.02)


@pytest.mark.fault("random states and torques: slip along the axle, Coulomb's bound across")
@given(st.lists(small, min_size=5, max_size=15), triples, st.booleans(), st.sampled_from(sorted(INTEGRATORS)))
@many
def test_wheels_slip_freely_along_their_axles_and_grip_across_within_coulombs_bound(
    numbers: list[float], torques: tuple[float, float, float], uneven: bool, integrator: str
) -> None:
    model, pose = ground(uneven, integrator)
    data = start(model, numbers, pose=pose)
    data.ctrl[:] = 10 * np.array(torques)
    ball, force, gripping = model.geom("ball").id, np.zeros(6), 0
    wheels = [model.geom(f"wheel_{i}").id for i in range(3)]
    for _ in range(60):
        mujoco.mj_step(model, data)
        mujoco.mj_forward(model, data)
        for number, contact in enumerate(data.contact):
            wheel = next((i for i in range(3) if {contact.geom1, contact.geom2} == {wheels[i], ball}), None)
            if wheel is None:
                continue
            mujoco.mj_contactForce(model, data, number, force)
            normal = contact.frame[:3]
            axle = data.geom(f"wheel_{wheel}").xmat.reshape(3, 3)[:, 2]
            axle = axle - normal * (axle @ normal)
            axle /= np.linalg.norm(axle)
            world = contact.frame.reshape(3, 3).T @ force[:3]
            along, across = abs(world @ axle), abs(world @ np.cross(normal, axle))
            assert along <= 0.001 * force[0] * 1.001 + 1e-6
            assert across <= force[0] * 1.001 + 1e-6
            gripping += across > 0.01 * force[0]
    assert gripping or not any(numbers) or data.ncon == 0 or max(map(abs, (*numbers, *torques))) < 0.05


@pytest.mark.parametrize("action_repeat", [1, 5])
def test_whatever_the_actions_no_bad_number_comes_out_and_every_divergence_is_counted(
    torture: bool, tally: Tally, action_repeat: int
) -> None:
    envs = BallbotVectorEnv(64, num_terrains=4, action_repeat=action_repeat)
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    steps, diverged = (10**7 if torture else 6400) // 64 // action_repeat, 0
    styles: list[Callable[[], Array]] = [
        lambda: rng.choice([-1.0, 1.0], (64, 3)),
        lambda: rng.uniform(-1, 1, (64, 3)),
        lambda: np.full((64, 3), rng.choice([-1.0, 1.0])),
        lambda: rng.choice([-1e30, 1e30, 0.0], (64, 3)),
    ]
    broken = 0
    for step in range(steps):
        style = styles[step // 50 % len(styles)]
        if step % 10 == 9:  # actions alone, which are clipped, break nothing
            wheels = list(envs.simulations.addresses.wheel_qvel)
            envs.simulations.qvel[rng.integers(64), wheels] = rng.choice([np.nan, np.inf, -np.inf, 1e9, 1e30])
            broken += 1
        obs, reward, terminated, truncated, infos = envs.step(style().astype(np.float32))
        assert np.isfinite(obs).all() and np.isfinite(reward).all()
        if "final_info" in infos:
            diverged += int(infos["final_info"]["diverged"].sum())
            assert np.isfinite(np.stack([x for x in infos["final_obs"] if x is not None])).all()
        assert not (terminated & truncated).any()
    assert envs.num_diverged == diverged == broken > 0
    envs.close()
    tally("steps under extreme actions", steps * 64 * action_repeat)
    tally("states made infinite, NaN or absurd meanwhile", broken)
