# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""What is wrong with images: noise, steps, pixels and images that are lost, images that are late, crooked cameras."""

from __future__ import annotations

import copy
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from driving import actions, drive, small

from ballbot.envs import BallbotEnv, WorldConfig
from ballbot.envs.camera_faults import JUMP, CameraFaults
from ballbot.envs.depth_camera import DepthCamera
from ballbot.envs.model import at_rest, build_model
from ballbot.envs.sensors import SENSORS, Sensors, parted
from ballbot.errors import SettingsError

MODEL = build_model()
MOTION, CHEAP = parted(SENSORS["cheap"])
UNEVEN = {"terrain": "perlin", "num_terrains": 2, "observation": "depth", "camera_resolution": (16, 16)}


def spoiled(images, **sensors):
    """Images as cameras with these faults deliver them."""
    camera = DepthCamera(MODEL, None, resolution=images.shape[2:])
    faults = CameraFaults(Sensors(**sensors), len(images), camera, camera.shape, 6, 0.002)
    return faults.spoil(images, np.random.default_rng(0).random((len(images), 3))).numpy()


def flat(depth, count=20):
    return torch.full((count, 2, 64, 64), depth)


def course(env, asked, seed=0):
    """Images and their ages in steps, at the start and after each action."""
    seen = [env.reset(seed=seed)[0], *(env.step(a)[0] for a in asked)]
    return np.array([o["depth"] for o in seen]), np.rint([o["image_age"][:, 0] / 0.002 for o in seen]).astype(int)


@pytest.mark.parametrize("depth", [0.2, 0.8])
def test_noise_grows_with_the_square_of_the_distance(depth):
    error = spoiled(flat(depth), camera_noise=0.01, camera_noise_floor=0.002) - depth
    assert np.std(error) == pytest.approx(0.002 + 0.01 * depth**2, rel=0.02) and abs(error.mean()) < 1e-4
    assert abs(np.corrcoef(error[:, 0].ravel(), error[:, 1].ravel())[0, 1]) < 0.02, "each camera has its own"


def test_disparity_comes_in_steps():
    images = torch.linspace(0.1, 0.99, 2 * 64 * 64).view(1, 2, 64, 64)
    found = spoiled(images, camera_step=0.02)
    steps = 1 / found / 0.02
    np.testing.assert_allclose(steps, np.round(steps), atol=2e-4)
    assert (np.abs(1 / found - 1 / images.numpy()) <= 0.0101).all()


def test_holes_are_as_many_as_is_said_and_lie_beside_each_other():
    lost = spoiled(flat(0.3), camera_holes=0.05) == 1
    assert lost.mean() == pytest.approx(0.05, abs=0.005)
    assert (lost[..., 1:] & lost[..., :-1]).mean() > 8 * 0.05**2
    assert not (lost[0] == lost[1]).all(), "others in each image"
    assert (spoiled(flat(0.3), camera_holes=0.05)[~lost] == np.float32(0.3)).all()


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_pixels_are_lost_at_edges_only(share):
    images = flat(0.3)
    images[:, :, 20:40, 10:30] = 0.3 + 1.1 * JUMP
    images[:, :, 50:] = 0.3 - 0.9 * JUMP
    lost = spoiled(images, camera_edges=share) == 1
    edge = np.zeros((64, 64), bool)
    edge[19:41, 10:30], edge[20:40, 9:31], edge[21:39, 11:29] = True, True, False
    assert not lost[:, :, ~edge].any()
    assert lost[:, :, edge].mean() == pytest.approx(share, abs=0.02)


def test_nothing_is_where_nothing_was_and_depths_stay_in_range():
    assert (spoiled(flat(1.0), camera_noise=0.5) == 1).all()
    near = spoiled(flat(0.0), camera_noise_floor=0.1, camera_step=0.01)
    assert (near >= 0).all() and np.isfinite(near).all()


@pytest.mark.parametrize("interval", [1, 4])
def test_what_is_seen_late_is_what_was(interval):
    asked = actions(30, 2)
    true, _ = course(small(2, **UNEVEN, camera_interval=1), asked)
    seen, ages = course(small(2, **UNEVEN, camera_interval=interval, sensing={"camera_delay_ms": (14, 14)}), asked)
    for step in range(31):
        taken = 0 if step < interval + 7 else (step - 7) // interval * interval
        assert (ages[step] == step - taken).all()
        assert np.array_equal(seen[step], true[taken])


def test_images_under_way_do_not_reach_the_next_episode():
    env = small(1, **UNEVEN, camera_interval=4, max_episode_steps=10, sensing={"camera_delay_ms": (14, 14)})
    seen, ages = course(env, actions(20, 1))
    assert ages[:, 0].tolist() == [*range(10), *range(9), 7, 0]
    assert np.array_equal(seen[10], seen[18]) and not np.array_equal(seen[9], seen[10])


def test_delays_are_drawn_for_each_episode_within_their_range():
    env = small(64, observation="depth", camera_resolution=(4, 4), sensing={"camera_delay_ms": (10, 30)})
    env.reset(seed=0)
    first = env.cameras._faults.delays.copy()
    assert first.min() == 5 and first.max() == 15
    env.reset()
    assert (env.cameras._faults.delays != first).any()


def test_as_many_images_are_lost_as_is_said_and_age_meanwhile():
    asked = actions(90, 16)
    true, _ = course(small(16, **UNEVEN, camera_interval=1), asked)
    seen, ages = course(small(16, **UNEVEN, camera_interval=2, sensing={"camera_lost": 0.4}), asked)
    assert (ages[0] == 0).all() and ages.max() > 5
    assert np.mean(ages[2::2] > 0) == pytest.approx(0.4, abs=0.05)
    for step in range(91):
        assert np.array_equal(seen[step], true[step - ages[step], np.arange(16)])


def test_cameras_that_are_turned_see_what_cameras_see_that_are_mounted_so():
    turns, data = np.random.default_rng(1).uniform(-0.15, 0.15, (3, 2, 3)), at_rest(MODEL)
    base, ball = data.body("base"), data.body("ball")
    pose = base.xpos[None], base.xmat.reshape(1, 3, 3), ball.xpos[None], [0]
    camera = DepthCamera(MODEL, None, most_turned=0.3)
    axes, own = camera.turned(turns)
    for robot, turn in enumerate(turns):
        model = copy.copy(MODEL)
        for number, vector in enumerate(turn):
            quaternion, quat = np.array([1.0, *vector / 2]), model.camera(f"cam_{number}").quat
            mujoco.mju_normalize4(quaternion)
            mujoco.mju_mulQuat(quat, quat.copy(), quaternion)
        mounted = DepthCamera(model, None)
        apart = (own[robot] - mounted.robot_depth).abs()
        assert (apart > 0.005).float().mean() < 0.004, "but along outlines"
        assert (mounted.robot_depth < 1).float().mean() > 0.01
        turned = axes[robot : robot + 1], own[robot : robot + 1]
        gap = (camera.render(*pose, turned) - mounted.render(*pose)).abs()
        assert (gap > 0.005).float().mean() < 0.004


def test_cameras_are_turned_by_as_much_as_is_said_and_by_nothing_see_as_they_are_meant_to():
    env, true = small(2, observation="depth", sensing={"camera_tilt": 5.0}), small(2, observation="depth")
    assert not np.array_equal(env.reset(seed=0)[0]["depth"], true.reset(seed=0)[0]["depth"])
    state = env.get_state()
    turns = state["cameras"]["faults"]["turns"]
    assert np.abs(turns).max() <= np.radians(5) and np.ptp(turns) > np.radians(5)
    turns[:] = 0
    env.set_state(state)
    env.cameras.take(np.arange(2), env.world.robots)
    assert (np.abs(env.cameras.latest - true.cameras.latest) > 0.005).mean() < 0.004


def test_faults_of_cameras_leave_all_else_true():
    env, true = small(2, **UNEVEN, sensing=CHEAP), small(2, **UNEVEN)
    first, second = env.reset(seed=0)[0], true.reset(seed=0)[0]
    for a in actions(30, 2):
        assert np.array_equal(first["proprioception"], second["proprioception"])
        assert not np.array_equal(first["depth"], second["depth"])
        first, second = env.step(a)[0], true.step(a)[0]


def test_without_cameras_their_faults_are_nothing():
    asked = actions(200, 2)
    cheap, motion, none = (small(2, sensing=sensing) for sensing in (SENSORS["cheap"], MOTION, CHEAP))
    for env in (cheap, motion, none):
        env.reset(seed=0)
    assert np.array_equal(drive(cheap, asked), drive(motion, asked))
    assert none.world.senses is None and not none.world.takes_chances
    assert cheap.config.fingerprint() == motion.config.fingerprint()
    cheap.set_state(motion.get_state())
    assert WorldConfig(sensing=CHEAP, observation="depth").fingerprint("task")["sensing.camera_tilt"] == 1.0
    assert WorldConfig(sensing={"camera_delay_ms": (0, 200)}, max_episode_steps=50).sensing
    with pytest.raises(SettingsError, match="camera_delay_ms reaches 200 ms, and episodes last 100 ms"):
        WorldConfig(sensing={"camera_delay_ms": (0, 200)}, max_episode_steps=50, observation="encoded")


@pytest.mark.parametrize("options", [{}, {"sensors": "cheap", "randomize": "mild"}])
@pytest.mark.parametrize("before", [0, 50])
def test_a_saved_state_goes_on_bit_for_bit(options, before):
    options = UNEVEN | {"sensing": CHEAP, "max_episode_steps": 60, "camera_interval": 5} | options
    env, other = small(3, **options), small(3, **options)

    def goes_on(which):
        seen = [which.step(a)[0] for a in actions(80, 3, seed=1)]
        return np.array(
            [np.concatenate([x.reshape(3, -1) for x in o.values()], 1) if isinstance(o, dict) else o for o in seen]
        )

    env.reset(seed=1)
    for a in actions(before, 3):
        env.step(a)
    state = env.get_state()
    first = goes_on(env)
    other.set_state(state)
    assert np.array_equal(first, goes_on(other))
    for name, damage in (
        ("images", lambda x: x[:0]),
        ("waits", lambda x: x + 10**6),
        ("delays", lambda x: x - 10**3),
        ("turns", lambda x: x * np.nan),
        ("streams", lambda x: x[:1]),
    ):
        faults = state["cameras"]["faults"]
        broken = {**state, "cameras": {**state["cameras"], "faults": {**faults, name: damage(faults[name])}}}
        with pytest.raises(ValueError, match=name):
            other.set_state(broken)
    with pytest.raises(ValueError, match="delays"):
        other.set_state({**state, "cameras": {k: v for k, v in state["cameras"].items() if k != "faults"}})


def test_one_robot_sees_what_it_sees_among_many():
    options: dict[str, Any] = {"terrain": "perlin", "num_terrains": 2, "sensing": CHEAP, "observation": "encoded"}
    envs, env = small(5, **options), BallbotEnv(**options)
    many, one = envs.reset(seed=10)[0], env.reset(seed=13)[0]
    for a in actions(120, 5, most=1.0):  # falls on the way
        np.testing.assert_array_equal(many[3], one)
        many = envs.step(a)[0]
        one, _, terminated, truncated, _ = env.step(a[3])
        if terminated or truncated:
            one = env.reset()[0]


def test_images_do_not_depend_on_threads():
    seen = []
    for threads in (1, 3):
        env = small(13, **UNEVEN, sensing=CHEAP)
        env.cameras._threads = threads
        env.reset(seed=4)
        seen.append([env.step(a)[0]["depth"] for a in actions(8, 13)])
    np.testing.assert_array_equal(seen[0], seen[1])
