# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""When images are taken, and what observations make of them."""

import math
import threading

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from ballbot.encoders import Architecture, Autoencoder, EncoderError, FrozenEncoder, load_encoder
from ballbot.encoders.frozen import DEFAULT_ENCODER
from ballbot.envs import BallbotEnv, BallbotVectorEnv, height_rays
from ballbot.envs.cameras import side_by_side


def mean_and_nearest(images):
    """A small encoder: two numbers an image."""
    return torch.stack([images.mean((1, 2, 3)), images.amin((1, 2, 3))], dim=1)


def make(num_envs=3, **options):
    defaults = {"num_threads": 1, "num_terrains": 2, "observation": "encoded", "encoder": mean_and_nearest}
    if options.get("observation", "encoded") != "encoded":
        del defaults["encoder"]
    return BallbotVectorEnv(num_envs, **(defaults | options))  # type: ignore[arg-type]


def ages(envs, steps, seed=0):
    """(steps + 1, num_envs) age of the images in steps, while nothing is done."""
    obs, _ = envs.reset(seed=seed)
    seen = [obs[:, -1]]
    for _ in range(steps):
        seen.append(envs.step(np.zeros((envs.num_envs, 3), np.float32))[0][:, -1])
    return np.rint(np.array(seen) / envs.dt).astype(int)


def test_every_sixth_step_brings_an_image():
    expected = np.arange(20)[:, None] % 6 * np.ones((1, 3))
    np.testing.assert_array_equal(ages(make(), 19), expected)
    np.testing.assert_array_equal(ages(make(camera_interval=1), 5), 0)


def test_staggered_cameras_spread_over_the_steps():
    seen = ages(make(40, stagger_cameras=True), 30)
    np.testing.assert_array_equal(seen[0], 0)
    assert set(seen[20]) == set(range(6))
    assert seen.max() == 5
    assert all(len(set(np.diff(np.flatnonzero(column[6:] == 0)))) == 1 for column in seen.T)


def test_an_episode_begins_with_a_fresh_image_and_the_clock_runs_on():
    envs = make(2, max_episode_steps=10)
    np.testing.assert_array_equal(ages(envs, 13)[:, 0], [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 0, 1, 0, 1])


def test_observations_hold_what_the_encoder_says_of_the_latest_image():
    for frame, size in (("body", 17), ("world", 15)):
        encoded, pictures = make(frame=frame), make(frame=frame, observation="depth")
        first, _ = encoded.reset(seed=3)
        second, _ = pictures.reset(seed=3)
        assert encoded.single_observation_space.shape == (size + 2 * 2 + 1,)
        for step in range(9):
            if step:
                actions = np.full((3, 3), 0.1, np.float32)
                first, second = encoded.step(actions)[0], pictures.step(actions)[0]
            assert encoded.observation_space.contains(first)
            assert pictures.observation_space.contains(second)
            np.testing.assert_array_equal(first[:, :size], second["proprioception"])
            np.testing.assert_array_equal(first[:, -1:], second["image_age"])
            images = torch.from_numpy(second["depth"])
            expected = torch.cat([mean_and_nearest(images[:, i : i + 1]) for i in range(2)], dim=1)
            np.testing.assert_allclose(first[:, size:-1], expected, rtol=1e-6)
        assert second["depth"].shape == (3, 2, 64, 64)
        assert 0.05 < second["depth"].mean() < 0.5


def test_one_robot_sees_what_it_sees_among_many():
    for options in ({"stagger_cameras": True}, {"observation": "depth"}):
        envs = make(5, **options)
        encoder = {} if "observation" in options else {"encoder": mean_and_nearest, "observation": "encoded"}
        env = BallbotEnv(num_terrains=2, **(options | encoder))  # type: ignore[arg-type]
        many, _ = envs.reset(seed=10)
        one, _ = env.reset(seed=13)
        rng = np.random.default_rng(0)
        for _ in range(150):  # falls on the way
            actions = rng.uniform(-1, 1, (5, 3)).astype(np.float32)
            many, _, terminated, *_ = envs.step(actions)
            one, _, over, *_ = env.step(actions[3])
            assert over == terminated[3]
            if over:
                one, _ = env.reset()
            for a, b in zip(
                many.values() if isinstance(many, dict) else [many],
                one.values() if isinstance(one, dict) else [one],
                strict=True,
            ):
                np.testing.assert_array_equal(a[3], b)


@pytest.mark.parametrize("compiled", [True, False])
def test_images_do_not_depend_on_threads(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(height_rays, "load_library", lambda: None)
    threads = torch.get_num_threads()
    for options in ({"encoder": None}, {"observation": "depth"}):
        seen = []
        for num_threads in (1, 2, 3):
            envs = make(13, num_threads=num_threads, **options)
            first, _ = envs.reset(seed=4)
            for _ in range(6):
                last = envs.step(np.zeros((13, 3), np.float32))[0]
            seen += [[o["depth"] if isinstance(o, dict) else o for o in (first, last)]]
        np.testing.assert_array_equal(seen[0], seen[1])
        np.testing.assert_array_equal(seen[0], seen[2])
    assert torch.get_num_threads() == threads


def test_threads_share_the_robots_fairly_and_few_robots_get_one():
    envs = make(40, num_threads=3)
    assert envs.cameras is not None
    sizes = {n: [len(share) for share in envs.cameras._shares(np.arange(n))] for n in (1, 7, 8, 10, 12, 40)}
    assert sizes == {1: [1], 7: [7], 8: [4, 4], 10: [4, 6], 12: [4, 4, 4], 40: [12, 16, 12]}
    np.testing.assert_array_equal(np.concatenate(envs.cameras._shares(np.arange(3, 40))), np.arange(3, 40))


def test_what_a_thread_raises_reaches_the_caller(monkeypatch):
    done = []

    def refuse():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        side_by_side([lambda: done.append(0), refuse, lambda: done.append(2)])
    assert sorted(done) == [0, 2]
    side_by_side([])

    def no_more(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    side_by_side([lambda: done.append(3), lambda: done.append(4)])
    assert sorted(done) == [0, 2, 3, 4]


def test_the_last_observation_of_an_episode_has_its_own_image():
    envs = make(2, observation="depth", max_episode_steps=7)
    envs.reset(seed=0)
    for _ in range(7):
        obs, _, _, truncated, infos = envs.step(np.zeros((2, 3), np.float32))
    assert truncated.all()
    final = infos["final_obs"][1]
    assert set(final) == {"proprioception", "depth", "image_age"}
    assert final["image_age"] == pytest.approx(0.002)
    assert obs["image_age"][1] == 0
    assert (final["depth"] != obs["depth"][1]).any()


def test_states_restore_images_ages_and_clocks():
    envs, other = make(stagger_cameras=True), make(stagger_cameras=True)
    envs.reset(seed=0)
    rng = np.random.default_rng(1)
    moves = rng.uniform(-1, 1, (40, 3, 3)).astype(np.float32)
    for actions in moves[:15]:
        envs.step(actions)
    state = envs.get_state()
    expected = [envs.step(actions)[0] for actions in moves[15:]]
    other.reset(seed=99)
    other.set_state(state)
    for actions, obs in zip(moves[15:], expected, strict=True):
        np.testing.assert_array_equal(other.step(actions)[0], obs)
    with pytest.raises(ValueError, match="cameras was"):
        make(camera_interval=5, stagger_cameras=True).set_state(state)
    state["cameras"]["age"][0] = -1
    with pytest.raises(ValueError, match="'age'"):
        other.set_state(state)


def test_observations_are_the_callers_to_change():
    envs = make(observation="depth")
    first, _ = envs.reset(seed=0)
    first["depth"][:] = 7
    again = envs.step(np.zeros((3, 3), np.float32))[0]
    assert again["depth"].max() <= 1


@pytest.mark.parametrize("options", [{"observation": "depth"}, {"observation": "encoded", "encoder": mean_and_nearest}])
def test_gymnasiums_checker_passes(options):
    check_env(gym.make("ballbot:Ballbot-v0", num_terrains=2, **options).unwrapped, skip_render_check=True)


def test_an_encoder_that_fails_later_is_named():
    given = iter([0.0, 0.0, math.nan])  # the options' check, the first images, then
    envs = BallbotVectorEnv(
        2, observation="encoded", num_terrains=2, num_threads=1,
        encoder=lambda images: images.new_full((len(images), 3), next(given)),
    )  # fmt: skip
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"encoder returned \(4, 3\) for 4 images, expected finite"):
        for _ in range(6):
            envs.step(np.zeros((2, 3), np.float32))


def test_an_encoder_may_be_given_by_its_file():
    file = DEFAULT_ENCODER
    a, b = (BallbotVectorEnv(1, observation="encoded", num_terrains=2, encoder=e) for e in (str(file), None))
    np.testing.assert_array_equal(a.reset(seed=0)[0], b.reset(seed=0)[0])
    with pytest.raises(EncoderError, match=r"nowhere\.pt does not exist"):
        BallbotVectorEnv(1, observation="encoded", num_terrains=2, encoder="nowhere.pt")


def test_an_encoder_comes_with_ballbot():
    envs = make(encoder=None)
    observations, _ = envs.reset(seed=0)
    assert observations.shape[1:] == (envs.single_observation_space.shape[0],) == (17 + 2 * 20 + 1,)
    embeddings = observations[:, 17:57]
    assert np.abs(embeddings).max() <= 1 and embeddings.std(0).min() > 1e-4
    assert envs.get_state()["options"]["cameras"]["encoder"] == load_encoder().content_hash
    card = load_encoder().card
    assert card["validation_mse_m2"] < card["baselines_mse_m2"]["principal_components"]
    depth = make(64, observation="depth", terrain_split="eval", num_terrains=8, initial_tilt_deg=5)
    images = torch.from_numpy(depth.reset(seed=0)[0]["depth"]).flatten(0, 1)[:, None]
    error = (load_encoder().decode(load_encoder()(images)) - images).square().mean().sqrt()
    assert error < 0.006  # m; the mean of these images is off by ten times as much
    assert (images.mean(0) - images).square().mean().sqrt() > 0.03
    assert not any(policy.startswith("/") for policy in card["data"]["provenance"]["policies"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"observation": "depth", "encoder": mean_and_nearest}, ValueError, "takes no encoder"),
        ({"encoder": None, "camera_resolution": (32, 32)}, ValueError, "this encoder takes"),
        ({"encoder": 3}, TypeError, "must be callable"),
        ({"encoder": FrozenEncoder(Autoencoder(Architecture()), 2.0)}, ValueError, "trained on depths to 2 m"),
        ({"encoder": lambda images: images}, ValueError, r"returned torch.float32 \(2, 1, 64, 64\)"),
        ({"encoder": lambda images: None}, ValueError, "returned NoneType"),
        (
            {"encoder": lambda images: images.flatten(1) / 0 - images.flatten(1) / 0},
            ValueError,
            "expected finite floats",
        ),
        ({"camera_interval": 0}, ValueError, "camera_interval must be a whole number from 1 to 1e"),
        ({"camera_interval": 2.5}, ValueError, "camera_interval must be a whole number, got 2.5"),
        ({"camera_resolution": (0, 64)}, ValueError, "camera height=0 is out of range"),
        ({"camera_resolution": 64}, ValueError, "must be .height, width."),
        ({"camera_device": "banana", "encoder": None}, ValueError, "device='banana' cannot be used"),
        ({"camera_device": "banana"}, ValueError, "device='banana' cannot be used"),
        ({"stagger_cameras": "no"}, ValueError, "stagger_cameras must be true or false, got 'no'"),
    ],
)
def test_impossible_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        make(**options)
