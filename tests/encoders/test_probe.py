# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""What probes call the ground ahead is the ground that the images show."""

import mujoco
import numpy as np
import pytest

from ballbot.encoders import Architecture, Autoencoder, DatasetError, DepthDataset, FrozenEncoder
from ballbot.encoders.dataset import RECORD
from ballbot.encoders.probe import DIRECTIONS, DISTANCES, _r_squared, ground_ahead, probe
from ballbot.encoders.surroundings import interpolate
from ballbot.envs import BallbotVectorEnv
from ballbot.envs.depth_camera import pixel_directions
from ballbot.envs.step import rotation_matrix
from ballbot.envs.terrain import MAX_HEIGHT, TerrainPool, make_terrain

CARD = {"terrain": {"split": "train", "seed": 5, "count": 4}}


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """A data set, and the environment whose robots took it, upright or tilted, wherever they had rolled to."""
    envs = BallbotVectorEnv(8, observation="depth", num_terrains=4, terrain_seed=5, num_threads=1, initial_tilt_deg=15)
    data = DepthDataset.create(tmp_path_factory.mktemp("probe") / "d", (64, 64), 1.0, CARD)
    sims = envs.simulations
    base, ball = sims.addresses.base_qpos, sims.addresses.ball_qpos
    for seed in range(6):
        obs, infos = envs.reset(seed=seed)
        records = np.zeros((8, 2), RECORD)
        records["terrain"] = infos["terrain_id"][:, None]
        records["camera"] = np.arange(2)
        records["base"] = sims.qpos[:, None, base : base + 7]
        records["ball"] = sims.qpos[:, None, ball : ball + 3]
        data.append(obs["depth"].reshape(-1, 64, 64), records.ravel())
    return data, envs


def test_the_ground_probed_is_the_ground_the_cameras_see(taken):
    data, envs = taken
    camera = envs.cameras._camera
    view = pixel_directions(90, 64, 64).astype(np.float64)
    model = envs.simulations.model
    mj_data = mujoco.MjData(model)
    checked = 0
    for i in range(0, len(data), 5):
        record = data.records[i]
        mj_data.qpos[:7] = record["base"]
        mujoco.mj_forward(model, mj_data)
        name = f"cam_{record['camera']}"
        depth, own = data.images(np.array([i]))[0].ravel(), camera.robot_depth[record["camera"]].numpy()
        points = mj_data.camera(name).xpos + depth[:, None] * view @ mj_data.camera(name).xmat.reshape(3, 3).T
        from_ball = np.linalg.norm(points - record["ball"], axis=1)
        ground = points[(depth < 0.9) & (depth < own - 0.01) & (from_ball > 0.1)]
        field = MAX_HEIGHT * make_terrain(int(record["terrain"]), seed=5).astype(np.float64)
        assert np.abs(ground[:, 2] - interpolate(field, ground[:, :2])).max() < 1e-3
        checked += len(ground)
        for k, in_base in enumerate(DIRECTIONS.values()):
            axis = mj_data.body("base").xmat.reshape(3, 3)[:2, 1 - k]
            places = record["ball"][:2] + np.outer(DISTANCES, axis / np.linalg.norm(axis))
            under = interpolate(field, record["ball"][:2].astype(np.float64))
            height, _ = ground_ahead(data, np.array([i]), in_base)
            np.testing.assert_allclose(height[0], interpolate(field, places) - under, atol=1e-5)
    assert checked > 1000


def test_ground_of_another_kind_is_probed_as_it_was_collected(taken, tmp_path):
    data, _ = taken
    card = {"terrain": {**CARD["terrain"], "kind": "hills:0.5", "ground": {"height": 0.1}}}
    other = DepthDataset.create(tmp_path / "d", (64, 64), 1.0, card)
    other.append(data.images(np.arange(len(data))), data.records[np.arange(len(data))])
    pool = TerrainPool("hills:0.5", {"height": 0.1}, num=4, seed=5)
    record = other.records[7]
    axis = rotation_matrix(record["base"][3:, None].astype(np.float64))[:2, 1, 0]
    ball = record["ball"][:2].astype(np.float64)
    places = np.vstack([ball, ball + np.outer(DISTANCES, axis / np.linalg.norm(axis))])
    expected = pool.heights(record["terrain"][None], places[None])[0]
    height, _ = ground_ahead(other, np.array([7]), DIRECTIONS["ahead"])
    np.testing.assert_allclose(height[0], expected[1:] - expected[0], atol=1e-6)


def test_slopes_are_those_of_heights(taken):
    data, _ = taken
    indices = np.arange(len(data))
    direction = (0.3, -0.4)
    height, slope = ground_ahead(data, indices, direction)
    assert height.shape == slope.shape == (len(data), len(DISTANCES))
    for i in indices[::7]:
        rotation = rotation_matrix(data.records["base"][i : i + 1, 3:].T.astype(np.float64))[..., 0]
        axis = (rotation @ [*direction, 0])[:2]
        axis /= np.linalg.norm(axis)
        field = MAX_HEIGHT * make_terrain(int(data.records["terrain"][i]), seed=5).astype(np.float64)
        ends = data.records["ball"][i, :2] + np.outer([0.4 - 0.05, 0.4 + 0.05], axis)
        low, high = interpolate(field, ends)
        assert slope[i, 2] == pytest.approx((high - low) / 0.1, abs=1e-5)
    np.testing.assert_allclose(ground_ahead(data, indices, (3.0, -4.0))[0], height)


def test_r_squared_is_of_ground_the_line_was_not_fitted_to():
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 500, 3))
    line = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    noise = rng.normal(size=(2, 500, 2))
    told, untold = _r_squared(before, after, before @ line + 3 + 0.01 * noise[0], after @ line + 3 + 0.01 * noise[1])
    assert told > 0.999 and untold < 0.1


def test_every_encoder_can_be_probed(taken):
    data, _ = taken
    probes, around = probe(data, FrozenEncoder(Autoencoder(Architecture())), validation=0.5)
    assert {len(found.height) for found in around} == {5} and len(around) == 6
    assert len(probes) == 2 * 5 and {p.direction for p in probes} == set(DIRECTIONS)
    assert all(len(p.height) == len(p.slope) == len(DISTANCES) for p in probes)


def test_images_of_a_robot_that_do_not_follow_each_other_are_refused(taken, tmp_path):
    data, _ = taken
    mixed = DepthDataset.create(tmp_path / "d", (64, 64), 1.0, CARD)
    order = np.arange(len(data)).reshape(-1, 2).T.ravel()
    mixed.append(data.images(order), data.records[order])
    with pytest.raises(DatasetError, match="do not follow each other"):
        probe(mixed, FrozenEncoder(Autoencoder(Architecture())), validation=0.5)


def test_a_data_set_that_does_not_say_what_it_shows_is_refused(taken, tmp_path):
    data, _ = taken
    unknown = DepthDataset.create(tmp_path / "d", (64, 64), 1.0, {})
    unknown.append(data.images(np.arange(len(data))), data.records)
    with pytest.raises(DatasetError, match="does not say which terrains"):
        probe(unknown, FrozenEncoder(Autoencoder(Architecture())), validation=0.5)
