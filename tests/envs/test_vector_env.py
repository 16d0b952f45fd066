# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""The batched environment: Gymnasium's contract, exact state, and endings that mean what they say."""

import subprocess
import sys

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import ballbot  # registers Ballbot-v0
from ballbot.envs import BallbotEnv, BallbotVectorEnv
from ballbot.envs.simulation import EDGE_MARGIN
from ballbot.envs.terrain import TERRAIN_LENGTH

assert ballbot


@pytest.fixture
def make():
    """Builds environments and closes them after the test."""
    opened = []

    def make(num_envs=4, **options):
        defaults = {"terrain": "flat", "num_threads": 1, "num_terrains": 4}
        opened.append(BallbotVectorEnv(num_envs, **(defaults | options)))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for envs in opened:
        envs.close()


def random_actions(num_steps, num_envs, scale=0.3, seed=0):
    return np.random.default_rng(seed).uniform(-scale, scale, (num_steps, num_envs, 3)).astype(np.float32)


def run(envs, actions):
    """Trajectory (observations, rewards, terminated, truncated) as arrays."""
    steps = [envs.step(a)[:4] for a in actions]
    return [np.stack(column) for column in zip(*steps, strict=True)]


# -- Registration and Gymnasium's rules ------------------------------------------------------------------------------


def test_gym_make_make_vec_and_module_prefix_work():
    for make, kind in (
        (lambda: gym.make("Ballbot-v0", terrain="flat"), BallbotEnv),
        (lambda: gym.make("ballbot:Ballbot-v0", terrain="flat"), BallbotEnv),
        (lambda: gym.make_vec("Ballbot-v0", num_envs=3, terrain="flat"), BallbotVectorEnv),
    ):
        env = make()
        assert isinstance(env.unwrapped, kind)
        env.close()


@pytest.mark.parametrize("frame", ["body", "world"])
def test_single_environment_passes_gymnasiums_checker(frame):
    env = gym.make("Ballbot-v0", terrain="flat", frame=frame)
    check_env(env.unwrapped, skip_render_check=True)
    env.close()


@pytest.mark.parametrize("terrain", ["flat", "perlin"])
def test_batched_numbers_equal_single_environments_under_gymnasiums_own_vectoriser(make, terrain):
    """SyncVectorEnv of BallbotEnvs, SAME_STEP: every returned array, and the final observations, to the bit."""
    options = {"terrain": terrain, "num_terrains": 4, "max_episode_steps": 150}
    envs = make(3, **options)
    sync = SyncVectorEnv([lambda: BallbotEnv(**options) for _ in range(3)], autoreset_mode=AutoresetMode.SAME_STEP)
    ours, infos = envs.reset(seed=5)
    theirs, sync_infos = sync.reset(seed=5)
    np.testing.assert_array_equal(ours, theirs)
    assert infos.keys() == sync_infos.keys()
    ends = 0
    for action in random_actions(400, 3):
        mine, other = envs.step(action), sync.step(action)
        for a, b in zip(mine[:4], other[:4], strict=True):
            np.testing.assert_array_equal(a, b)
        infos, sync_infos = mine[4], other[4]
        assert infos.keys() == sync_infos.keys()
        np.testing.assert_array_equal(infos["position"], sync_infos["position"])
        if "final_obs" in infos:
            ended = infos["_final_obs"]
            np.testing.assert_array_equal(ended, sync_infos["_final_obs"])
            for i in np.flatnonzero(ended):
                ends += 1
                np.testing.assert_array_equal(infos["final_obs"][i], sync_infos["final_obs"][i])
                for name in ("success", "failure", "tilt_deg"):
                    assert infos["final_info"][name][i] == sync_infos["final_info"][name][i]
                for name, sums in sync_infos["final_info"]["reward_terms"].items():
                    assert infos["final_info"]["reward_terms"][name][i] == sums[i]
    assert ends > 3
    sync.close()


def test_returned_observations_are_not_overwritten_by_later_steps(make):
    envs = make(2)
    first, _ = envs.reset(seed=0)
    kept = first.copy()
    second = envs.step(random_actions(1, 2)[0])[0]
    kept_second = second.copy()
    envs.step(random_actions(1, 2, seed=1)[0])
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(second, kept_second)


def test_reset_mask_resets_only_those(make):
    envs = make(3)
    envs.reset(seed=0)
    for action in random_actions(20, 3):
        before = envs.step(action)[0]
    after, _ = envs.reset(options={"reset_mask": np.array([False, True, False])})
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert not np.array_equal(after[1], before[1])
    assert (after[1, 14:17] == 0).all()  # no last action


# -- Seeds and determinism ------------------------------------------------------------------------------------------


def test_equal_seeds_repeat_and_different_simulations_differ(make):
    envs = make(4, terrain="perlin")
    first = envs.reset(seed=3)[0]
    trajectory = run(envs, random_actions(30, 4))
    np.testing.assert_array_equal(envs.reset(seed=3)[0], first)
    for a, b in zip(run(envs, random_actions(30, 4)), trajectory, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(np.unique(first, axis=0)) == 4


def test_reset_without_a_seed_goes_on_with_the_streams(make):
    envs = make(2)
    a, b = envs.reset(seed=0)[0], envs.reset()[0]
    assert not np.array_equal(a, b)
    envs.reset(seed=0)
    np.testing.assert_array_equal(envs.reset()[0], b)


@pytest.mark.parametrize("terrain", ["flat", "perlin"])
def test_trajectories_are_bit_identical_at_one_and_two_threads(make, terrain):
    results = []
    for threads in (1, 2):
        envs = make(8, terrain=terrain, num_threads=threads)
        envs.reset(seed=1)
        results.append(run(envs, random_actions(500, 8, scale=0.5)))
    assert results[0][2].any(), "no episode ended: the test is too short to cover resets"
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("terrain", ["flat", "perlin"])
def test_state_restores_every_simulation_generator_and_counter(make, terrain):
    options = {"terrain": terrain, "max_episode_steps": 120, "stagger_first_episodes": True}
    envs = make(4, **options)
    envs.reset(seed=9)
    run(envs, random_actions(57, 4))
    state = envs.get_state()
    expected = run(envs, random_actions(300, 4, seed=1))
    other = make(4, **options)
    other.set_state(state)
    for a, b in zip(run(other, random_actions(300, 4, seed=1)), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert expected[2].any() or expected[3].any()


def test_state_of_another_layout_is_refused_and_changes_nothing(make):
    state = make(4, max_episode_steps=100).get_state()
    envs = make(4, max_episode_steps=200)
    envs.reset(seed=0)
    before = envs.get_state()
    with pytest.raises(ValueError, match="max_episode_steps was 100, is 200"):
        envs.set_state(state)
    np.testing.assert_array_equal(envs.get_state()["simulations"]["rows"], before["simulations"]["rows"])
    damaged = envs.get_state()
    damaged["elapsed"] = damaged["elapsed"][:2]
    with pytest.raises(ValueError, match=r"'elapsed' has shape \(2,\), expected \(4,\)"):
        envs.set_state(damaged)
    with pytest.raises(ValueError, match="set_state needs what get_state"):
        envs.set_state([1, 2])


# -- Endings ----------------------------------------------------------------------------------------------------------


def test_a_fall_terminates_beyond_the_tilt_limit(make):
    envs = make(1)
    envs.reset(seed=0)
    tilts = []
    for _ in range(2000):
        _, _, terminated, truncated, infos = envs.step(np.zeros((1, 3)))
        if terminated[0]:
            break
        tilts.append(infos["tilt_deg"][0])
    assert terminated[0] and not truncated[0]
    final = infos["final_info"]
    assert final["failure"][0] and not final["success"][0]
    assert final["tilt_deg"][0] > 20 >= max(tilts)
    # the survival bonus was paid for every step but the last
    assert final["reward_terms"]["survival"][0] == pytest.approx(0.02 * len(tilts))


def test_a_time_out_truncates_and_does_not_terminate(make):
    envs = make(2, max_episode_steps=10)
    envs.reset(seed=0)
    for step in range(1, 11):
        _, _, terminated, truncated, infos = envs.step(np.zeros((2, 3)))
        assert truncated.all() == (step == 10) and not terminated.any()
    assert infos["final_info"]["success"].all()


def test_leaving_the_terrain_truncates(make):
    envs = make(2, terrain="perlin")
    envs.reset(seed=0)
    layout = envs.simulations.layout
    for start in (layout.base_qpos, layout.ball_qpos):
        envs.simulations.qpos[0, start] += TERRAIN_LENGTH / 2 - EDGE_MARGIN + 0.01
        envs.simulations.qpos[0, start + 2] += 0.2  # clear of whatever hill is there
    _, _, terminated, truncated, infos = envs.step(np.zeros((2, 3)))
    assert truncated.tolist() == [True, False] and not terminated.any()
    assert infos["final_info"]["out_of_bounds"].tolist() == [True, False]


def test_first_episodes_can_be_staggered_and_later_ones_are_whole(make):
    envs = make(16, max_episode_steps=50, stagger_first_episodes=True)
    envs.reset(seed=0)
    lengths: list[list[int]] = [[] for _ in range(16)]
    age = np.zeros(16, int)
    for _ in range(101):
        done = np.logical_or(*envs.step(np.zeros((16, 3)))[2:4])
        age += 1
        for i in np.flatnonzero(done):
            lengths[i].append(age[i])
            age[i] = 0
    assert len({ages[0] for ages in lengths}) > 8
    assert all(ages[1] == 50 for ages in lengths)


@pytest.mark.parametrize("damage", ["nan_velocity", "huge_velocity", "nan_position", "fast_but_finite"])
def test_a_diverged_simulation_ends_only_its_own_episode(make, damage):
    envs = make(3)
    envs.reset(seed=0)
    before = envs.step(np.zeros((3, 3)))[0]
    sims = envs.simulations
    if damage == "nan_position":
        sims.qpos[1, 2] = np.nan
    else:
        value = {"nan_velocity": np.nan, "huge_velocity": 1e12, "fast_but_finite": 5e3}[damage]
        sims.qvel[1, 3] = value
    obs, reward, terminated, truncated, infos = envs.step(np.zeros((3, 3)))
    assert truncated.tolist() == [False, True, False] and not terminated.any()
    assert infos["final_info"]["diverged"].tolist() == [False, True, False]
    assert reward[1] == 0 and np.isfinite(obs).all()
    np.testing.assert_array_equal(infos["final_obs"][1], before[1])  # the last sound one
    assert envs.num_diverged == 1
    for _ in range(50):
        obs, reward, *_ = envs.step(np.zeros((3, 3)))
        assert np.isfinite(obs).all() and np.isfinite(reward).all()
    assert envs.num_diverged == 1


def test_reward_is_the_sum_of_its_logged_terms(make):
    envs = make(3)
    envs.reset(seed=0)
    total = np.zeros(3)
    for action in random_actions(40, 3, scale=0.05):
        _, reward, terminated, _, infos = envs.step(action)
        assert not terminated.any()
        total += reward
    terms = infos["reward_terms"]
    np.testing.assert_allclose(sum(terms[name] for name in ("progress", "survival", "action_cost")), total)


def test_speed_and_wheels_are_mujocos(make):
    """The observation against MuJoCo's own derived fields, computed from the same state."""
    envs = make(1, random_yaw=True)
    envs.reset(seed=2)
    for action in random_actions(60, 1, scale=0.2):
        obs = envs.step(action)[0][0]
    sims = envs.simulations
    data = mujoco.MjData(sims.model)
    data.qpos[:], data.qvel[:] = sims.qpos[0], sims.qvel[0]
    mujoco.mj_forward(sims.model, data)
    velocity = np.empty(6)
    base = sims.model.body("base").id
    mujoco.mj_objectVelocity(sims.model, data, mujoco.mjtObj.mjOBJ_XBODY, base, velocity, 1)
    np.testing.assert_allclose(obs[3:6], velocity[:3], atol=1e-5)
    np.testing.assert_allclose(obs[6:9], velocity[3:], atol=1e-5)
    np.testing.assert_allclose(obs[3:6], data.sensor("imu_gyro").data, atol=1e-5)
    wheels = [data.joint(f"wheel_{i}").qvel[0] / 10 for i in range(3)]
    np.testing.assert_allclose(obs[11:14], wheels, atol=1e-5)
    up = data.xmat[base].reshape(3, 3)[2]
    np.testing.assert_allclose(obs[:3], -up, atol=1e-6)


# -- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actions", "error", "message"),
    [
        (np.zeros((3, 3)), ValueError, r"shape \(3, 3\), expected \(4, 3\)"),
        (np.zeros((4, 2)), ValueError, r"shape \(4, 2\), expected \(4, 3\)"),
        (np.zeros(3), ValueError, r"shape \(3,\)"),
        (np.zeros((4, 3), int), TypeError, "dtype int64"),
        (np.full((4, 3), "a"), TypeError, "dtype <U1"),
        (np.array([[0, 0, 0]] * 3 + [[0, np.nan, 0]]), ValueError, r"simulations \[3\] are not finite"),
        (np.array([[np.inf, 0, 0]] + [[0.0, 0, 0]] * 3), ValueError, r"simulations \[0\] are not finite"),
    ],
)
def test_bad_actions_are_refused_before_anything_is_stepped(make, actions, error, message):
    envs = make(4)
    envs.reset(seed=0)
    rows = envs.simulations.batch.state.copy()
    with pytest.raises(error, match=message):
        envs.step(actions)
    np.testing.assert_array_equal(envs.simulations.batch.state, rows)


def test_actions_outside_the_range_are_clipped(make):
    trajectories = []
    for scale in (1.0, 7.0):
        envs = make(2)
        envs.reset(seed=0)
        trajectories.append(run(envs, np.full((20, 2, 3), scale)))
    for a, b in zip(*trajectories, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"terrain": "moon"}, ValueError, "terrain='moon' is unknown: use one of 'perlin', 'flat'"),
        ({"observation": "smell"}, ValueError, "observation='smell'"),
        ({"frame": "wheel"}, ValueError, "frame='wheel'"),
        ({"integrator": "rk4"}, ValueError, "integrator='rk4'.*'RK4'"),
        ({"terrain_split": "test"}, ValueError, "terrain_split='test'"),
        ({"render_mode": "ascii"}, ValueError, "render_mode='ascii'"),
        ({"num_envs": 0}, ValueError, "num_envs=0 is out of range"),
        ({"num_envs": -3}, ValueError, "num_envs=-3"),
        ({"num_envs": 10**12}, ValueError, "num_envs=1000000000000"),
        ({"num_envs": 2.0}, TypeError, "num_envs=2.0 must be an integer"),
        ({"num_envs": True}, TypeError, "num_envs=True"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps=0"),
        ({"num_terrains": 0}, ValueError, "num_terrains=0"),
        ({"num_threads": -1}, ValueError, "num_threads=-1"),
        ({"tilt_limit_deg": float("nan")}, ValueError, "tilt_limit_deg=nan"),
        ({"initial_tilt_deg": -1}, ValueError, "initial_tilt_deg=-1"),
        ({"goal": (0, 0)}, ValueError, "goal="),
        ({"goal": "north"}, ValueError, "goal='north'"),
        ({"colour": "red"}, TypeError, "colour"),
    ],
)
def test_bad_options_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        BallbotVectorEnv(**({"num_envs": 2, "terrain": "flat"} | options))


@pytest.mark.parametrize(
    ("seed", "options", "error", "message"),
    [
        (-1, None, ValueError, "seed=-1"),
        ("a", None, TypeError, "seed='a'"),
        ([1, 2], None, ValueError, "seed has 2 entries, expected one for each of the 4"),
        (0, {"reset_mask": np.zeros(4, bool)}, ValueError, "at least one True"),
        (0, {"reset_mask": np.ones(3, bool)}, ValueError, r"\(4,\) bool array"),
        (0, {"mask": 1}, ValueError, "unknown reset option 'mask'"),
    ],
)
def test_bad_reset_arguments_are_refused_by_name(make, seed, options, error, message):
    envs = make(4)
    envs.reset(seed=0)
    with pytest.raises(error, match=message):
        envs.reset(seed=seed, options=options)


def test_step_before_reset_is_refused(make):
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        make(1).step(np.zeros((1, 3)))


def test_environments_with_and_without_the_contact_fix_cannot_be_mixed(make):
    make(1)
    with pytest.raises(ValueError, match=r"contact_fix=False.*close that one first"):
        make(1, contact_fix=False)


def test_the_robot_falls_without_the_contact_fix_and_the_fix_comes_back(make):
    import mujoco_patch

    envs = make(1, contact_fix=False)
    assert not mujoco_patch.is_installed()
    envs.close()
    make(1)
    assert mujoco_patch.is_installed()


def test_an_old_mujoco_is_named_with_the_remedy():
    code = """
import sys, mujoco
sys.modules["mujoco.batch"] = None  # what an older MuJoCo lacks
mujoco.__version__ = "3.9.0"
try:
    import ballbot.envs
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "this is 3.9.0" in result.stdout and "mujoco>=3.17" in result.stdout, result.stdout + result.stderr
