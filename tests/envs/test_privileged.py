# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""What only the value function sees: where it stands, and that it is true."""

import copy
from dataclasses import replace
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from ballbot import presets
from ballbot.controllers import robot_symmetry
from ballbot.envs import BallbotEnv, BallbotVectorEnv, WorldConfig, observations
from ballbot.envs.mechanics import reference
from ballbot.envs.model import build_model
from ballbot.envs.observations import layout_of, scan
from ballbot.errors import SettingsError
from ballbot.evaluation import env_options
from ballbot.ppo import Record, load_policy, train

FIELDS = ("slope", "slope_ahead", "time_left")
SMALL: dict[str, Any] = {"num_threads": 1, "num_terrains": 4, "max_episode_steps": 40}


def actions_of(rng, n):
    return rng.uniform(-1, 1, (n, 3)).astype(np.float32)


def test_it_is_a_group_of_its_own_and_changes_nothing_else():
    envs, plain = BallbotVectorEnv(3, **SMALL, privileged_fields=FIELDS), BallbotVectorEnv(3, **SMALL)
    assert isinstance(envs.single_observation_space, gym.spaces.Dict)
    assert {k: s.shape for k, s in envs.single_observation_space.items()} == {"policy": (17,), "privileged": (9,)}
    assert envs.layout == plain.layout and plain.privileged_layout is None
    assert envs.privileged_layout is not None and envs.privileged_layout.names == FIELDS
    rng, ended = np.random.default_rng(0), 0
    obs, _ = envs.reset(seed=0)
    expected, _ = plain.reset(seed=0)
    for _ in range(90):
        assert obs in envs.observation_space
        np.testing.assert_array_equal(obs["policy"], expected)
        actions = actions_of(rng, 3)
        obs, reward, *_, infos = envs.step(actions)
        expected, paid, *_, theirs = plain.step(actions)
        np.testing.assert_array_equal(reward, paid)
        if "final_obs" in infos:
            ended += 1
            for ours, other in zip(infos["final_obs"], theirs["final_obs"], strict=True):
                np.testing.assert_array_equal(ours["policy"], other)
                assert ours["privileged"].shape == (9,) and ours["privileged"][8] == 0  # no time is left
    assert ended == 2


def test_images_have_it_beside_them():
    seeing = BallbotVectorEnv(2, **SMALL, privileged_fields=FIELDS, observation="encoded", history=(0, 5))
    obs, _ = seeing.reset(seed=0)
    assert obs in seeing.observation_space and obs["policy"].shape == (2, 17 + 9 + 41)
    images = BallbotVectorEnv(2, **SMALL, privileged_fields=FIELDS, observation="depth")
    seen, _ = images.reset(seed=0)
    assert seen in images.observation_space and sorted(seen) == ["depth", "image_age", "privileged", "proprioception"]
    np.testing.assert_array_equal(seen["privileged"], obs["privileged"])


def test_slopes_are_those_of_mujocos_ground_seen_from_the_robot():
    """Rays of MuJoCo's own down to the ground, on ground of one slope along x and another along y."""
    envs = BallbotVectorEnv(2, **SMALL, terrain="rough", privileged_fields=FIELDS, goal=(0.6, 0.8), initial_tilt_deg=18)
    obs, _ = envs.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(3):
        obs, *_ = envs.step(actions_of(rng, 2))
    sims, robots = envs.simulations, envs.simulations.robot_state()
    for i in range(2):
        model, data = sims.model, mujoco.MjData(sims.model)
        model.geom_dataid[sims.addresses.ground_geom] = sims.terrain_ids[i]
        data.qpos[:] = sims.qpos[i]
        mujoco.mj_kinematics(model, data)
        heading = np.arctan2(*robots.heading[::-1, i])
        ball = data.geom("ball").xpos[:2].copy()

        def height(place, model=model, data=data):
            group = np.zeros(6, np.uint8)
            group[model.geom_group[sims.addresses.ground_geom]] = 1
            base = model.body("base").id
            hit = np.zeros(1, np.int32)
            start = np.array([*place, 5.0])
            far = 0.0
            while True:  # through the robot
                start[2] -= far
                far = mujoco.mj_ray(model, data, start, [0, 0, -1], group, 1, base, hit)
                if hit[0] == sims.addresses.ground_geom:
                    return start[2] - far
                far += 1e-4

        found = obs["privileged"][i]
        for k, distance in enumerate((0.0, 0.05, 0.1, 0.2)):
            at = ball + distance * np.array([0.6, 0.8])
            for axis, angle in enumerate((heading, heading + np.pi / 2)):
                e = 0.01 * np.array([np.cos(angle), np.sin(angle)])
                slope = (height(at + e) - height(at - e)) / 0.02
                assert found[2 * k + axis] == pytest.approx(slope, abs=0.01), (i, distance, axis)
    assert np.abs(obs["privileged"][:, :8]).max() > 0.03


def test_the_ball_is_where_the_robot_rests_on_it():
    model = build_model()
    pose = model.key("settled").qpos
    base, ball = (model.joint(name).qposadr[0] for name in ("base_free", "ball_free"))
    assert pose[base + 2] - pose[ball + 2] == pytest.approx(reference().ball_depth, abs=1e-4)
    envs = BallbotVectorEnv(1, terrain="flat", num_threads=1, privileged_fields=FIELDS)
    assert not envs.reset(seed=0)[0]["privileged"][:, :8].any()


def test_time_left_is_that_of_the_robots_own_limit():
    envs = BallbotVectorEnv(5, **SMALL, privileged_fields=("time_left",), stagger_first_episodes=True, action_repeat=3)
    obs, _ = envs.reset(seed=0)
    left, when, step = obs["privileged"][:, 0], np.full(5, -1), 0
    while (when < 0).any():
        step += 1
        obs, _, _, truncated, _ = envs.step(np.zeros((5, 3)))
        new = truncated & (when < 0)
        when[new] = step
    np.testing.assert_array_equal(when, np.ceil(left / 0.006 - 1e-6))
    assert len(set(when)) > 2


def test_one_robot_a_resumed_one_and_a_diverged_one():
    options: dict[str, Any] = {**SMALL, "privileged_fields": FIELDS, "history": (0, 3)}
    envs, env, other = BallbotVectorEnv(3, **options), BallbotEnv(**options), BallbotVectorEnv(3, **options)
    assert env.privileged_layout == envs.privileged_layout and env.observation_space == envs.single_observation_space
    rng = np.random.default_rng(0)
    obs, _ = envs.reset(seed=0)
    one, _ = env.reset(seed=2)
    other.reset(seed=5)
    for step in range(30):
        for name in obs:
            np.testing.assert_array_equal(one[name], obs[name][2])
        actions = actions_of(rng, 3)
        if step == 20:
            other.set_state(copy.deepcopy(envs.get_state()))
            resumed: Any = other.world.observation()
            for name, value in resumed.items():
                np.testing.assert_array_equal(value, obs[name])
        obs, *_ = envs.step(actions)
        one, *_ = env.step(actions[2])
        theirs, *_ = other.step(actions)
        if step >= 20:
            np.testing.assert_array_equal(theirs["privileged"], obs["privileged"])
    envs.simulations.qvel[1, 0] = np.nan
    after, *_, infos = envs.step(actions)
    for name in obs:
        np.testing.assert_array_equal(infos["final_obs"][1][name], obs[name][1])
    assert after["privileged"][1, -1] == pytest.approx(0.08)
    with pytest.raises(ValueError, match="privileged_fields was"):
        BallbotVectorEnv(3, **SMALL, history=(0, 3)).set_state(envs.get_state())


def test_it_belongs_to_training_alone_and_turns_with_the_robot():
    world = WorldConfig(privileged_fields=FIELDS)
    assert world.task() == WorldConfig() and world.metadata() == WorldConfig().metadata()
    assert world.fingerprint("training") == {"privileged_fields": list(FIELDS)}
    layout, privileged = world.layout(), world.privileged_layout()
    assert privileged is not None
    both, alone = robot_symmetry(layout, privileged).observations, robot_symmetry(layout).observations
    np.testing.assert_array_equal(both[:, :17, :17], alone)
    assert not both[:, :17, 17:].any() and not both[:, 17:, :17].any()
    # the same ground, seen by a robot that was turned by 120 degrees to the right: its axes have turned
    envs = BallbotVectorEnv(2, **SMALL, privileged_fields=FIELDS)
    envs.reset(seed=0, options={"terrain_id": 0})
    for i, yaw in enumerate((0.3, 0.3 - 2 * np.pi / 3)):
        envs.simulations.place(i, 0, yaw=yaw, tilt=0.0, tilt_axis=0.0, velocity=(0.0, 0.0))
    step = envs.world._record(envs.simulations.robot_state(), envs.world.robots, np.zeros((2, 3)), np.zeros(2, bool))
    one, other = privileged.observe(step)
    np.testing.assert_allclose(both[1, 17:, 17:].numpy() @ one, other, atol=0.01)  # ground has edges
    assert np.abs(one - other).max() > 0.05


def test_presets_keep_it_from_the_policy():
    settings = presets.plain(privileged_fields=FIELDS)
    assert settings.ppo.value_only == ("privileged",)
    assert presets.Settings(ppo=settings.ppo, world=settings.world) == settings
    assert not presets.plain().ppo.value_only and not settings.evaluation_world.privileged_fields
    structure, seen = settings.structure(), settings.layout().size
    assert structure.input_scale is not None and structure.value_inputs is not None and structure.symmetry is not None
    assert structure.input_scale.shape == structure.value_inputs.shape == (seen + 9,)
    assert (structure.input_scale[17:seen] < 1).all() and (structure.input_scale[seen:] == 1).all()
    assert structure.value_inputs[17:].all() and structure.symmetry.observations.shape == (3, seen + 9, seen + 9)


def test_a_run_learns_with_it_and_its_policy_does_without(tmp_path):
    options = {"observation": "proprioception", "num_terrains": 2, "max_episode_steps": 60, "history": (0, 4)}
    settings = presets.default(**options, privileged_fields=FIELDS)
    small: dict[str, Any] = {
        "num_envs": 4,
        "num_steps": 16,
        "minibatch_size": 32,
        "hidden_size": 16,
        "eval_episodes": 2,
    }
    ppo = replace(settings.ppo, **small, total_timesteps=640, eval_interval=320)
    train(
        ppo,
        lambda n: settings.training_envs(n, num_threads=1),
        lambda n: settings.evaluation_envs(n, num_threads=1),
        run_dir=tmp_path,
        record=Record(env_metadata=settings.metadata()),
        structure=settings.structure(),
    )
    policy = load_policy(tmp_path)
    envs = BallbotVectorEnv(2, **env_options(policy), num_terrains=2, num_threads=1)
    obs, _ = envs.reset(seed=0)
    assert obs.shape == (2, 26) and policy.predict(obs).shape == (2, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"privileged_fields": ("sloop",)}, "names 'sloop', which is no field: did you mean 'slope'"),
        ({"privileged_fields": ("slope", "slope")}, "names 'slope' twice: leave one out"),
        ({"privileged_fields": ("gyro@10",)}, "'gyro@10', which is no field"),
        ({"privileged_fields": ("image_0",), "observation": "encoded"}, "'image_0', which is no field"),
        ({"privileged_fields": "slope"}, r"must be a tuple of names: \('slope',\)"),
        ({"extra_fields": ("gyro@10",)}, "names 'gyro@10': what is past is observed by history"),
    ],
)
def test_what_cannot_be_seen_is_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        WorldConfig(**options)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"privileged_fields": ("gyro",)}, ()),
        ({"privileged_fields": ("slope", "time_left"), "extra_fields": ("slope",)}, ("time_left",)),
        ({"privileged_fields": ("gyro@10", "slope"), "history": (0, 10)}, ("slope",)),
    ],
)
def test_what_the_policy_sees_anyway_is_no_privilege(options, left):
    assert WorldConfig(**options).privileged_fields == left
    settings = presets.plain(**options, observation="proprioception")
    assert settings.ppo.value_only == (("privileged",) if left else ())
    assert replace(settings, world=replace(settings.world, privileged_fields=())).ppo.value_only == ()


def test_a_scan_is_the_ground_around_as_the_pool_has_it():
    envs = BallbotVectorEnv(3, **SMALL, terrain="pits", observation="scan", initial_tilt_deg=15)
    assert envs.config.extra_fields == ("scan",) and envs.config.observation == "proprioception"
    obs, _ = envs.reset(seed=2)
    rng = np.random.default_rng(0)
    for _ in range(3):
        obs, *_ = envs.step(actions_of(rng, 3))
    seen = obs[:, envs.layout["scan"]]
    sims, robots = envs.simulations, envs.simulations.robot_state()
    ball = sims.qpos[:, sims.addresses.ball_qpos :][:, :2]
    for i in range(3):
        heading = np.arctan2(*robots.heading[::-1, i])
        which = sims.terrain_ids[i : i + 1]
        below = envs.world.ground.heights(which, ball[i][None])[0]
        for k, radius in enumerate((0.12, 0.2, 0.3, 0.42, 0.56)):
            for a in range(12):
                angle = heading + np.radians(2.5 + 30 * a)
                place = ball[i] + radius * np.array([np.cos(angle), np.sin(angle)])
                height = envs.world.ground.heights(which, place[None])[0] - below
                # the ball is where it was in the step before
                assert seen[i, 12 * k + a] == pytest.approx(np.clip(height, -0.2, 0.2), abs=2e-3), (i, radius, a)
    assert np.ptp(seen) > 0.05


@pytest.mark.parametrize("side", range(1, 6))
def test_a_turned_or_mirrored_robot_sees_the_same_scan_in_another_order(side):
    layout = layout_of("body", ("goal",), ("scan",))
    matrix = robot_symmetry(layout, mirror=True).observations[side].numpy()
    block = matrix[layout["scan"], layout["scan"]]
    assert ((block == 0) | (block == 1)).all() and (block.sum(0) == 1).all() and (block.sum(1) == 1).all()
    plane = matrix[layout["goal"], layout["goal"]].astype(float)
    angles = np.radians(2.5 + 30 * np.arange(12))
    places = np.stack([[r * np.cos(a), r * np.sin(a)] for r in (0.1, 0.2, 0.3, 0.4, 0.5) for a in angles])
    ground = lambda xy: np.sin(3 * xy[..., 0]) + xy[..., 1] ** 3  # noqa: E731 - seen by the robot as it stands
    np.testing.assert_allclose(block @ ground(places), ground(places @ plane), atol=1e-3)  # plane.T of each place


def test_scans_of_other_grids_are_other_fields(monkeypatch):
    monkeypatch.setitem(observations.FIELDS, "far_scan", scan(24, (0.5, 1.5), 0.05))
    envs = BallbotVectorEnv(2, **SMALL, terrain="pillars", extra_fields=("far_scan",), privileged_fields=("scan",))
    obs, _ = envs.reset(seed=0)
    assert obs["policy"].shape == (2, 17 + 48) and obs["privileged"].shape == (2, 60)
    assert np.abs(obs["policy"][:, 17:]).max() == np.float32(0.05)
    robot_symmetry(envs.layout, mirror=True)
    wrong: Any = ((10, (0.1,)), (12, ()), (12, (0.0,)), (12.0, (0.1,)))
    for angles, radii in wrong:
        with pytest.raises(SettingsError, match=r"angles must be a multiple of 6|radii must lie between"):
            scan(angles, radii)
    with pytest.raises(SettingsError, match=r"'far_scan' tells of ground 1.5 m away, and the ground ends 1 m from its"):
        WorldConfig(extra_fields=("far_scan",), terrain_length=2.0)
