# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Depth images: what MuJoCo's rays and MuJoCo's renderer see, and something defined wherever a robot may lie."""

import os
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

from ballbot.envs.depth_camera import DepthCamera, pixel_directions
from ballbot.envs.height_rays import HeightFields, load_library
from ballbot.envs.model import Addresses, build_model
from ballbot.envs.physics import Physics
from ballbot.envs.step import rotation_matrix
from ballbot.envs.terrain import TerrainPool

SPHERE = int(mujoco.mjtGeom.mjGEOM_SPHERE)
CASTERS = [
    pytest.param(True, marks=pytest.mark.skipif(load_library() is None, reason="nothing was compiled"), id="compiled"),
    pytest.param(False, id="pytorch"),
]


@pytest.fixture(scope="module")
def sims():
    return Physics(1, TerrainPool("perlin", num=8), integrator="Euler", num_threads=1)


@pytest.fixture(params=CASTERS)
def camera(sims, request):
    camera = DepthCamera(sims.model, sims.ground.relief)
    camera._fields = HeightFields(torch.from_numpy(sims.ground.relief * np.float32(0.1)), camera.device, request.param)
    return camera


def pose(sims, rng, terrain, tilt_deg, shift):
    """The qpos of a robot somewhere on a terrain."""
    sims.place(0, terrain, yaw=rng.uniform(0, 7), tilt=np.radians(tilt_deg), tilt_axis=rng.uniform(0, 7))
    qpos, layout = sims.qpos[0].copy(), sims.addresses
    for address in (layout.base_qpos, layout.ball_qpos):
        qpos[address : address + 2] += shift
    return qpos


def see(camera, layout, qpos, terrains):
    """Images of robots in (n, nq) poses."""
    base, ball = layout.base_qpos, layout.ball_qpos
    rotation = rotation_matrix(qpos[:, base + 3 : base + 7].T).transpose(2, 0, 1)
    return camera.render(qpos[:, base : base + 3], rotation, qpos[:, ball : ball + 3], np.asarray(terrains))


def pixel_errors(sims, camera, cases, tilts_deg):
    """How far pixels are from what MuJoCo's rays say, m, some of each of so many images of robots somewhere."""
    rng = np.random.default_rng(0)
    model, fields = sims.model, len(sims.ground.relief)
    data, directions = mujoco.MjData(model), pixel_directions(90.0, 64, 64)
    eyes = [model.camera(f"cam_{i}").id for i in range(2)]
    ball = model.geom("ball")
    field = model.hfield_data[: sims.ground.relief[0].size]  # that of the ground the model begins with
    before = field.copy()
    errors = []
    for case in range(cases):
        terrain = case % fields
        qpos = pose(sims, rng, terrain, tilts_deg[case % len(tilts_deg)], rng.uniform(-4.8, 4.8, 2))
        image = see(camera, sims.addresses, qpos[None], [terrain])[0].numpy().reshape(2, -1)
        assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1
        field[:] = sims.ground.relief[terrain].ravel()
        data.qpos[:] = qpos
        mujoco.mj_forward(model, data)
        for i, eye in enumerate(eyes):
            start, axes = data.cam_xpos[eye], data.cam_xmat[eye].reshape(3, 3)
            if np.linalg.norm(start - data.geom("ball").xpos) < ball.size[0] or not image[i].any():
                continue  # in the ball or in the ground
            for pixel in rng.choice(4096, 40, replace=False):
                ray = axes @ directions[pixel]
                sphere = mujoco.mju_rayGeom(
                    data.geom("ball").xpos, data.geom("ball").xmat, ball.size, start, ray, SPHERE
                )
                ground = mujoco.mj_rayHfield(model, data, sims.addresses.ground_geom, start, ray)
                hits = [float(camera.robot_depth[i, pixel]), 1.0, *(x for x in (sphere, ground) if x >= 0)]
                errors.append(abs(min(hits) - image[i, pixel]))
    field[:] = before
    return np.array(errors)


def test_pixels_agree_with_mujocos_rays_however_the_robot_lies(sims, camera):
    errors = pixel_errors(sims, camera, 60, [2, 20, 60, 90, 150])
    assert len(errors) > 3000
    assert errors.max() < 1e-4


@pytest.mark.parametrize("compiled", CASTERS)
@pytest.mark.parametrize("kind", ["pits", "pillars", "stepping_lanes"])
def test_pixels_agree_with_mujocos_rays_where_there_are_cliffs(kind, compiled):
    sims = Physics(1, TerrainPool(kind, num=1), integrator="Euler", num_threads=1)
    camera, ground = DepthCamera(sims.model, sims.ground.relief, tops=sims.ground.tops), sims.ground
    assert ground.relief is not None
    camera._fields = HeightFields(torch.from_numpy(ground.relief * np.float32(ground.tops[0])), camera.device, compiled)
    errors = pixel_errors(sims, camera, 40, [2, 20, 60])
    assert len(errors) > 1500
    assert (errors > 1e-4).mean() < 1e-3  # rays that just touch an edge


COMPARE = """
import sys
sys.path.insert(0, sys.argv[1])
import mujoco, numpy as np
from ballbot.envs.depth_camera import DepthCamera
from ballbot.envs.model import build_model
from ballbot.envs.physics import Physics
from ballbot.envs.terrain import TerrainPool
from test_depth_camera import pose, see
sims = Physics(1, TerrainPool("perlin", num=20), integrator="Euler", num_threads=1)
camera, rng = DepthCamera(sims.model, sims.ground.relief), np.random.default_rng(0)
model = build_model(sims.ground.relief[:1])
model.vis.quality.numslices = model.vis.quality.numstacks = int(sys.argv[2])
data = mujoco.MjData(model)
renderer = mujoco.Renderer(model, 64, 64)
renderer.enable_depth_rendering()
errors = []
for case in range(80):
    terrain = case % 20
    qpos = pose(sims, rng, terrain, 20 * np.sqrt(rng.uniform()), rng.uniform(-3, 3, 2))
    # stand on the ground there
    row, column = ((qpos[1::-1] + 5) / 10 * 292).astype(int)
    rise = 0.1 * (sims.ground.relief[terrain][row, column] - sims.ground.relief[terrain][146, 146])
    qpos[[sims.addresses.base_qpos + 2, sims.addresses.ball_qpos + 2]] += rise
    model.hfield_data[:] = sims.ground.relief[terrain].ravel()
    mujoco.mjr_uploadHField(model, renderer._mjr_context, 0)
    data.qpos[:] = qpos
    mujoco.mj_forward(model, data)
    image = see(camera, sims.addresses, qpos[None], [terrain])[0].numpy()
    for i in range(2):
        renderer.update_scene(data, camera=f"cam_{i}")
        errors.append(np.abs(np.clip(renderer.render(), 0, 1) - image[i]))
errors = np.stack(errors)
print("median", np.median(errors), "within", (errors < 2e-3).mean())
"""


@pytest.mark.parametrize(("slices", "least"), [pytest.param(28, 0.98, marks=pytest.mark.slow), (128, 0.999)])
def test_images_agree_with_mujocos_renderer(slices, least):
    """MuJoCo draws the ball as a polyhedron, by default of 28 slices, too coarse for the ball's edge in the images."""
    said = []
    for kind in dict.fromkeys((os.environ.get("MUJOCO_GL") or "egl", "egl", "osmesa")):
        done = subprocess.run(
            [sys.executable, "-c", COMPARE, str(Path(__file__).parent), str(slices)],
            env=os.environ | {"MUJOCO_GL": kind},
            capture_output=True,
            text=True,
            timeout=280,
        )
        if done.returncode == 0:
            print(done.stdout)
            _, median, _, within = done.stdout.split()
            assert float(median) <= 1e-4
            assert float(within) >= least
            return
        said.append(done.stderr[-2000:])
        assert "AssertionError" not in done.stderr and "test_depth_camera" not in done.stderr, done.stderr
    pytest.skip(f"no OpenGL: {said}")


@pytest.mark.parametrize("compiled", CASTERS)
@pytest.mark.parametrize("vertices", [2, 5, 40])
def test_rays_meet_rough_ground_where_mujocos_rays_do(vertices, compiled):
    """Hundredfold the slopes of the terrains, from all sides: hills hide others, and rays graze."""
    rng = np.random.default_rng(vertices)
    heights = rng.random((2, vertices, vertices)).astype(np.float32)
    heights[:, 0, 0], heights[:, 1, 0] = 0.0, 1.0  # MuJoCo stretches heights to [0, 1]
    spec = mujoco.MjSpec()
    for k in range(2):
        spec.add_hfield(name=f"h{k}", nrow=vertices, ncol=vertices, size=[1, 1, 0.3, 0.1], userdata=heights[k].ravel())
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_HFIELD, hfieldname=f"h{k}")
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    scale = (vertices - 1) / 2
    fields = HeightFields(torch.from_numpy(heights * 0.3), torch.device("cpu"), compiled)
    eyes = np.concatenate([rng.uniform(-0.9, 0.9, (20, 2)), rng.uniform(0.301, 0.6, (20, 1))], axis=1)
    rays = rng.normal(size=(20, 3, 100))
    rays[:, 2] *= 0.3
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    terrains = np.arange(20) % 2
    cells = np.array([scale, scale, 1.0])
    met = fields.meet(
        torch.from_numpy((eyes + np.array([1, 1, 0])) * cells).float(),
        torch.from_numpy(rays * cells[:, None]).float(),
        torch.from_numpy(terrains),
        torch.full((20, 100), 2.0),
        2 * scale,
    ).numpy()
    expected = np.array(
        [
            [mujoco.mj_rayHfield(model, data, int(k), eye, np.ascontiguousarray(ray)) for ray in bundle.T]
            for k, eye, bundle in zip(terrains, eyes, rays, strict=True)
        ]
    )
    # MuJoCo's field is a solid block: rays from outside, or through the side, may meet its walls
    expected = np.where((expected < 0) | (expected > 2), 2.0, expected)
    assert 0.1 < (met < 2).mean() < 0.9
    assert (np.abs(met - expected) > 1e-4).mean() <= 5e-4  # one in 2000, that touches an edge


def test_cells_are_split_along_the_diagonal_that_contacts_see():
    for heights, solid in (([[0, 1], [1, 0]], False), ([[1, 0], [0, 1]], True)):
        field = np.array(heights, np.float32)
        spec = mujoco.MjSpec()
        spec.add_hfield(name="h", nrow=2, ncol=2, size=[1, 1, 1, 0.1], userdata=field.ravel())
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_HFIELD, hfieldname="h")
        body = spec.worldbody.add_body(pos=[0, 0, 0.5])
        body.add_freejoint()
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.05, 0, 0])
        model = spec.compile()
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        assert (data.ncon > 0) == solid
        down = torch.tensor([[[0.0], [0.0], [-1.0]]])
        eye = torch.tensor([[0.5, 0.5, 3.0]])
        for compiled in (load_library() is not None, False):
            fields = HeightFields(torch.from_numpy(field)[None], torch.device("cpu"), compiled)
            depth = fields.meet(eye, down, torch.tensor([0]), torch.tensor([[9.0]]), 0.0)
            assert depth.item() == pytest.approx(2.0 if solid else 3.0)


def test_flat_ground_is_as_far_as_geometry_says():
    model = build_model(None)
    camera, layout = DepthCamera(model, None), Addresses.of(model)
    qpos = model.key("settled").qpos.copy()
    image = see(camera, layout, qpos[None], [0])[0].numpy()
    # Camera 0 hangs 0.06 m below the base and looks 30 degrees inward from straight down (+y is up in its image).
    eye = qpos[layout.base_qpos + 2] - 0.06
    x = (2 * np.arange(64) + 1) / 64 - 1
    down = np.cos(np.radians(30)) + np.sin(np.radians(30)) * x  # of the pixels' directions, whose length ahead is 1
    outer = slice(40, 64)  # there is nothing but ground
    np.testing.assert_allclose(image[0, 32, outer], (eye / down)[outer], rtol=1e-5)
    # and the two cameras see the ground as in a mirror
    np.testing.assert_allclose(image[1, 40, ::-1][outer], image[0, 40, outer], rtol=1e-4)


def test_the_robots_own_parts_do_not_depend_on_the_wheels_angles():
    model = build_model(None)
    data = mujoco.MjData(model)
    seen = []
    from ballbot.envs.depth_camera import robot_depth

    for angle in (0.0, 0.7, 2.9):
        mujoco.mj_resetDataKeyframe(model, data, model.key("settled").id)
        for wheel in range(3):
            data.joint(f"wheel_{wheel}").qpos[:] = angle
        mujoco.mj_forward(model, data)
        eye = model.camera("cam_0").id
        rays = pixel_directions(90.0, 64, 64) @ data.cam_xmat[eye].reshape(3, 3).T
        seen.append(np.minimum(robot_depth(model, data, data.cam_xpos[eye], rays), 1.0))
    assert (seen[0] < 0.1).sum() > 50, "camera 0 sees a wheel"
    for other in seen[1:]:  # the wheels wobble by 0.3 mm: a pixel at the edge may change
        assert (np.abs(other - seen[0]) > 2e-3).mean() < 2e-3


@pytest.mark.skipif(load_library() is None, reason="nothing was compiled")
def test_compiled_and_pytorchs_images_are_the_same(sims):
    camera, rng = DepthCamera(sims.model, sims.ground.relief), np.random.default_rng(7)
    terrains = np.arange(200) % 8
    qpos = np.stack([pose(sims, rng, k, rng.uniform(0, 60), rng.uniform(-4.9, 4.9, 2)) for k in terrains])
    compiled = see(camera, sims.addresses, qpos, terrains)
    camera._fields = HeightFields(torch.from_numpy(sims.ground.relief * np.float32(0.1)), camera.device, compiled=False)
    difference = (see(camera, sims.addresses, qpos, terrains) - compiled).abs()
    assert difference.median() < 1e-6
    assert (difference > 1e-4).float().mean() < 1e-5  # rays that just touch the ground


@pytest.mark.parametrize("compiled", CASTERS)
def test_a_ray_from_beside_the_field_meets_its_flank_and_nothing_before(compiled):
    """The field, 0.5 m high but for a far corner, begins at y = 2 cells: 3.57 along this ray, which is lower there."""
    heights = torch.full((1, 3, 3), 0.5)
    heights[0, 0, 0] = 0.0  # steep enough for a search from edge to edge
    fields = HeightFields(heights, torch.device("cpu"), compiled)
    eye, ray = torch.tensor([[1.0, 3.0, 0.66]]), torch.tensor([[[0.0], [-0.28], [-0.09]]])
    for limit, expected in ((0.73, 0.73), (9.0, 1 / 0.28)):
        met = fields.meet(eye, ray, torch.tensor([0]), torch.tensor([[limit]]), 9.0)
        assert met.item() == pytest.approx(expected, abs=1e-2)


@pytest.mark.skipif(load_library() is None, reason="nothing was compiled")
def test_compiled_rays_read_nothing_outside_their_terrains(sims):
    fields = HeightFields(torch.zeros(2, 5, 5), torch.device("cpu"), compiled=True)
    rays = torch.tensor([[[0.0], [0.0], [-1.0]]])
    for terrain in (-1, 2):
        with pytest.raises(IndexError, match="terrain_ids must be from 0 to 1"):
            fields.meet(torch.zeros(1, 3), rays, torch.tensor([terrain]), torch.ones(1, 1), 1.0)
    for wrong in (
        (torch.zeros(3, 3), rays, torch.tensor([0]), torch.ones(1, 1)),
        (torch.zeros(1, 3), rays.repeat(3, 1, 1), torch.tensor([0]), torch.ones(3, 1)),
        (torch.zeros(1, 3), rays, torch.tensor([0]), torch.ones(1, 2)),
        (torch.zeros(1, 3), rays, torch.tensor([0, 0]), torch.ones(1, 1)),
    ):
        with pytest.raises(ValueError, match="must have the shape"):
            fields.meet(*wrong, 1.0)
    doubles = fields.meet(
        torch.tensor([[2.0, 2.0, 0.5]], dtype=torch.float64),
        rays.double(),
        torch.tensor([1], dtype=torch.int32),
        torch.ones(1, 1),
        1.0,
    )
    assert doubles.item() == pytest.approx(0.5)
    for place in (1e30, -1e30):
        met = fields.meet(torch.full((1, 3), place), rays, torch.tensor([0]), torch.ones(1, 1), 1.0)
        assert met.item() == 1.0


def test_an_image_does_not_depend_on_who_else_is_looked_at_or_on_pytorchs_threads(sims, camera):
    rng = np.random.default_rng(1)
    terrains = np.arange(70) % 8
    qpos = np.stack([pose(sims, rng, k, rng.uniform(0, 30), rng.uniform(-4.9, 4.9, 2)) for k in terrains])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        together = see(camera, sims.addresses, qpos, terrains)
        torch.set_num_threads(2)
        assert torch.equal(see(camera, sims.addresses, qpos, terrains), together)
    finally:
        torch.set_num_threads(threads)
    for i in range(0, 70, 7):
        assert torch.equal(see(camera, sims.addresses, qpos[i : i + 1], terrains[i : i + 1])[0], together[i])


def test_nothing_but_sky_beside_the_terrain_and_nothing_at_all_in_a_hill(sims, camera):
    rng = np.random.default_rng(2)
    away = pose(sims, rng, 0, 0.0, np.array([50.0, 0.0]))
    image = see(camera, sims.addresses, away[None], [0])[0].numpy()
    free = (camera.robot_depth.numpy().reshape(2, 64, 64) == 1.0) & (image > 0.2)
    assert free.mean() > 0.5 and (image[free] == 1.0).all()
    buried = pose(sims, rng, 0, 0.0, np.zeros(2))
    buried[[sims.addresses.base_qpos + 2, sims.addresses.ball_qpos + 2]] -= 0.3
    assert (see(camera, sims.addresses, buried[None], [0]) == 0).all()


def test_resolution_and_field_of_view_come_from_the_mjcf_or_the_caller(sims):
    assert DepthCamera(sims.model, sims.ground.relief).shape == (2, 64, 64)
    wide = DepthCamera(sims.model, sims.ground.relief, resolution=(48, 96))
    qpos = pose(sims, np.random.default_rng(3), 0, 5.0, np.zeros(2))
    fine = see(DepthCamera(sims.model, sims.ground.relief, resolution=(192, 384)), sims.addresses, qpos[None], [0])
    coarse = see(wide, sims.addresses, qpos[None], [0])
    assert coarse.shape == (1, 2, 48, 96)
    # a coarse pixel's centre lies between the fine ones
    assert (coarse - fine[:, :, 1::4, 1::4]).abs().median() < 2e-3
    model = build_model(sims.ground.relief[:1])
    for camera in range(model.ncam):
        model.cam_fovy[camera], model.cam_resolution[camera] = 40.0, (32, 16)
    assert DepthCamera(model, sims.ground.relief[:1]).shape == (2, 16, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": (0, 64)}, "camera height=0 is out of range"),
        ({"resolution": (64, 10**6)}, "camera width=1000000 is out of range"),
        ({"resolution": (6.5, 64)}, "camera height=6.5 must be an integer"),
        ({"max_depth": 0.0}, "max_depth=0.0 is out of range"),
        ({"max_depth": float("nan")}, "max_depth=nan is out of range"),
        ({"prefix": "eye"}, "no camera's name begins with it"),
    ],
)
def test_impossible_cameras_are_refused(sims, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        DepthCamera(sims.model, sims.ground.relief, **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_images_on_a_gpu_are_those_of_the_cpu(sims):
    rng = np.random.default_rng(4)
    qpos = np.stack([pose(sims, rng, i, 8.0, rng.uniform(-3, 3, 2)) for i in range(8)])
    cameras = (DepthCamera(sims.model, sims.ground.relief, device=device) for device in ("cpu", "cuda"))
    cpu, gpu = (see(camera, sims.addresses, qpos, range(8)) for camera in cameras)
    assert gpu.device.type == "cuda"
    assert ((gpu.cpu() - cpu).abs() < 1e-4).float().mean() > 0.999
