# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""The robot: the reference's physical parameters, and a start at rest."""

import re
from importlib.resources import files

import mujoco
import numpy as np
import pytest

import mujoco_patch
from ballbot.envs.mechanics import rolling_wheel_speeds
from ballbot.envs.model import Addresses, build_model, physics_digest, settled_poses
from ballbot.envs.physics import Physics
from ballbot.envs.terrain import TerrainPool, make_terrain


@pytest.fixture(scope="module")
def model():
    return build_model()


@pytest.fixture(scope="module")
def reference_pose(model):
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return data


def test_masses_are_the_references(model, reference_pose):
    base = model.body("base").id
    assert model.body_mass[base] == pytest.approx(3.451, abs=1e-3)
    assert model.body_subtreemass[base] == pytest.approx(3.853, abs=1e-3)
    assert reference_pose.subtree_com[base][2] == pytest.approx(0.2506, abs=1e-4)
    assert model.body("ball").mass[0] == pytest.approx(0.168, abs=1e-3)
    for i in range(2):
        assert model.body(f"camera_arm_{i}").mass[0] == pytest.approx(0.067, abs=1e-3)
    for i in range(3):
        assert model.body(f"wheel_{i}").mass[0] == pytest.approx(0.0893, abs=1e-4)


def test_wheels_turn_about_their_capsules_axis(model, reference_pose):
    for i in range(3):
        capsule = reference_pose.geom_xmat[model.geom(f"wheel_{i}").id].reshape(3, 3)[:, 2]
        hinge = reference_pose.xaxis[model.joint(f"wheel_{i}").id]
        assert abs(capsule @ hinge) > 1 - 1e-4


def test_decoration_weighs_nothing_and_touches_nothing(model):
    looks = [g for g in range(model.ngeom) if model.geom(g).name.endswith("_look")]
    assert looks
    assert not model.geom_contype[looks].any() and not model.geom_conaffinity[looks].any()
    stripped = mujoco.MjSpec.from_string(_without_looks())
    bare = stripped.compile()
    np.testing.assert_array_equal(bare.body_mass, model.body_mass)
    np.testing.assert_array_equal(bare.body_inertia, model.body_inertia)


def _without_looks():
    xml = (files("ballbot.assets") / "ballbot.xml").read_text()
    return re.sub(r'<geom name="\w+_look"[^>]*/>', "", xml)


def test_cameras_look_at_the_ball_30_degrees_from_straight_down(model, reference_pose):
    for i, side in ((0, 1.0), (1, -1.0)):
        axis = -reference_pose.cam_xmat[model.camera(f"cam_{i}").id].reshape(3, 3)[:, 2]
        assert np.degrees(np.arccos(-axis[2])) == pytest.approx(30.0, abs=0.01)
        assert np.sign(axis[0]) == -side  # inward
        assert model.cam_fovy[model.camera(f"cam_{i}").id] == 90


def test_only_wheels_and_ground_touch_the_ball_at_rest(model):
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, model.key("settled").id)
    mujoco.mj_forward(model, data)
    pairs = {frozenset((model.geom(c.geom1).name, model.geom(c.geom2).name)) for c in data.contact}
    expected = {frozenset(("ball", other)) for other in ("ground", "wheel_0", "wheel_1", "wheel_2")}
    assert pairs == expected


@pytest.mark.parametrize("terrain", ["flat", "perlin"])
def test_an_episode_begins_without_a_jolt(terrain):
    """Weight carried from the first step on: nothing moves up or down faster than 2 cm/s for 50 ms (on a slope the ball
    begins to roll), while the reference's drop from 3 cm reaches half a metre per second."""
    mujoco_patch.ensure()
    heights = None if terrain == "flat" else np.stack([make_terrain(k) for k in range(4)])
    model = build_model(heights)
    layout, data = Addresses.of(model), mujoco.MjData(model)
    for k, (pose,) in enumerate(settled_poses(model)):
        if heights is not None:
            model.geom_dataid[layout.ground_geom] = k
        mujoco.mj_resetData(model, data)
        data.qpos[:] = pose
        for _ in range(25):
            mujoco.mj_step(model, data)
            assert abs(data.qvel[layout.base_qvel + 2]) < 0.02
            assert abs(data.qvel[layout.ball_qvel + 2]) < 0.02


def test_layout_finds_the_wheels_among_the_dofs(model):
    layout = Addresses.of(model)
    data = mujoco.MjData(model)
    for i in range(3):
        data.qvel[:] = 0
        data.qvel[layout.wheel_qvel[i]] = 1.0
        assert data.joint(f"wheel_{i}").qvel[0] == 1.0
        # the reference reads at the joint's id, which is a speed of the base
        assert layout.wheel_qvel[i] != model.joint(f"wheel_{i}").id


def test_height_fields_reach_mujoco_unchanged():
    heights = np.stack([make_terrain(k) for k in range(2)])
    model = build_model(heights)
    np.testing.assert_array_equal(model.hfield_data.reshape(heights.shape), heights)


def test_unknown_integrator_is_refused_by_name():
    with pytest.raises(ValueError, match=r"integrator='rk4'.*'RK4'"):
        build_model(integrator="rk4")


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ('density="55"', 'density="55.01"'),
        ('timestep="0.002"', 'timestep="0.001"'),
        ('damping="0.8"', 'damping="0.81"'),
        ('friction="0.001 1.0"', 'friction="0.001 1.1"'),
        ('ctrlrange="-10 10"', 'ctrlrange="-9 9"'),
    ],
)
def test_digest_tells_physics_that_mujocos_signature_does_not(model, text, other):
    xml = (files("ballbot.assets") / "ballbot.xml").read_text()
    assert text in xml
    same, changed = (mujoco.MjSpec.from_string(x).compile() for x in (xml, xml.replace(text, other)))
    assert physics_digest(same) == physics_digest(model) != physics_digest(changed)
    assert same.signature == changed.signature == model.signature


def test_wheel_speeds_need_one_contact_of_each_wheel_with_the_ball(model):
    """Contacts with something else do not count, and a wheel in the air is named."""
    spec = mujoco.MjSpec.from_file(str(files("ballbot.assets") / "ballbot.xml"))
    spec.worldbody.add_geom(name="beam", type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.05, 0, 0], pos=[0, -0.13, 0.17])
    beside = spec.compile()
    data = mujoco.MjData(beside)
    mujoco.mj_resetDataKeyframe(beside, data, 0)
    mujoco.mj_forward(beside, data)
    wheels = [beside.geom(f"wheel_{i}").id for i in range(3)]
    beam = beside.geom("beam").id
    assert any(beam in (c.geom1, c.geom2) and {c.geom1, c.geom2} & set(wheels) for c in data.contact)
    np.testing.assert_allclose(rolling_wheel_speeds(beside), rolling_wheel_speeds(model), atol=1e-9)
    lifted = build_model()
    lifted.key("settled").qpos[2] += 0.02
    with pytest.raises(ValueError, match="wheel_0 has 0 contacts with the ball"):
        rolling_wheel_speeds(lifted)


@pytest.mark.parametrize("yaw", [0.0, 1.0, -2.5])
def test_a_rolling_start_rolls(yaw):
    """At 0.3 m/s, with the axles' damping (0.8 N m s/rad) made up for, everything goes on as it was set.  A robot whose
    wheels were not set turning is braked by them."""
    mujoco_patch.ensure()
    sims = Physics(2, TerrainPool("flat"), integrator="Euler", num_threads=1)
    layout, wheels = sims.addresses, list(sims.addresses.wheel_qvel)
    for sim in range(2):
        sims.place(sim, 0, yaw=yaw, velocity=(0.1, 0.28))
    right = sims.qvel[0].copy()
    sims.qvel[1, wheels] = 0.0
    for _ in range(25):
        assert sims.step(0.8 * sims.qvel[:, wheels]) is None
    kept, braked = np.abs(sims.qvel - right)[:, : layout.base_qvel + 2].max(axis=1)
    assert kept < 0.005 and braked > 10 * kept
    assert np.abs(sims.qvel[0, wheels] - right[wheels]).max() < 0.1
    base, ball = layout.base_qvel, layout.ball_qvel
    np.testing.assert_allclose(sims.qvel[0, base : base + 2], (0.1, 0.28), atol=0.005)
    spin = np.array([-0.28, 0.1]) / float(sims.model.geom("ball").size[0])
    np.testing.assert_allclose(sims.qvel[0, ball + 3 : ball + 5], spin, atol=0.1)
