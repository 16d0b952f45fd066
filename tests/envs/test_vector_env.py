# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""The batched environment: Gymnasium's contract, exact state, and endings that mean what they say."""

import multiprocessing
import os
import subprocess
import sys
from itertools import pairwise

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from mujoco.batch import SimulationError

import ballbot  # registers Ballbot-v0
import mujoco_patch
from ballbot.envs import BallbotEnv, BallbotVectorEnv

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


def test_episodes_take_place_where_they_are_told(make):
    drawn, told = make(4, terrain="perlin", num_terrains=3), make(4, terrain="perlin", num_terrains=3)
    _, infos = drawn.reset(seed=0)
    _, chosen = told.reset(seed=0, options={"terrain_id": [2, 0, 1, 2]})
    assert chosen["terrain_id"].tolist() == [2, 0, 1, 2] != infos["terrain_id"].tolist()
    # headings are what they would have been, and so is the next episode's terrain
    np.testing.assert_allclose(told.simulations.qpos[:, 3], drawn.simulations.qpos[:, 3], atol=0.05)
    np.testing.assert_array_equal(told.reset()[1]["terrain_id"], drawn.reset()[1]["terrain_id"])
    mask = np.array([False, True, False, False])
    before = drawn.simulations.terrain_ids.copy()
    _, infos = drawn.reset(options={"reset_mask": mask, "terrain_id": (before[1] + 1) % 3})
    assert (infos["terrain_id"] != before).tolist() == mask.tolist()


def test_infos_are_the_callers_to_change(make):
    """Whatever a wrapper writes into them, later infos are as if it had not."""

    def spoil(infos):
        for value in infos.values():
            if isinstance(value, dict):
                spoil(value)
            elif value.dtype == bool:
                value[:] = ~value
            elif value.dtype != object:
                value[:] = -7

    def same(a, b):
        assert a.keys() == b.keys()
        for key, value in a.items():
            if isinstance(value, dict):
                same(value, b[key])
            elif value.dtype != object:
                np.testing.assert_array_equal(value, b[key], err_msg=key)

    spoiled, kept = make(3, max_episode_steps=20), make(3, max_episode_steps=20)
    spoil(spoiled.reset(seed=0)[1])
    kept.reset(seed=0)
    for action in random_actions(45, 3):
        infos = spoiled.step(action)[4]
        same(infos, kept.step(action)[4])
        masks = [value for key, value in infos.items() if key.startswith("_")]
        assert not any(np.shares_memory(a, b) for a, b in pairwise(masks))
        spoil(infos)


@pytest.mark.parametrize("limit", [7, 12])
@pytest.mark.parametrize("number", [1, 3])
def test_episodes_end_after_max_episode_steps_however_they_are_made(make, limit, number):
    """gym.make eats the option for its TimeLimit wrapper, which knows nothing of success."""
    if number == 1:
        env = gym.make("Ballbot-v0", terrain="flat", max_episode_steps=limit)
        own = BallbotEnv(terrain="flat", max_episode_steps=limit)
        env.reset(seed=0), own.reset(seed=0)
        for step in range(1, limit + 1):
            (*_, terminated, truncated, info), mine = env.step(np.zeros(3, np.float32)), own.step(np.zeros(3))
            assert truncated == mine[3] == (step == limit) and not terminated and not mine[2]
        assert not info["success"] and mine[4]["success"]
        env.close()
        own.close()
    else:
        envs = gym.make_vec("Ballbot-v0", num_envs=number, terrain="flat", max_episode_steps=limit)
        envs.reset(seed=0)
        for step in range(1, limit + 1):
            *_, truncated, infos = envs.step(np.zeros((number, 3), np.float32))
            assert truncated.all() == truncated.any() == (step == limit)
        assert infos["final_info"]["success"].all()
        envs.close()


def test_a_single_environment_names_what_to_use_for_several():
    with pytest.raises(TypeError, match=r"takes no num_envs.*make_vec\('Ballbot-v0', num_envs=3\)"):
        BallbotEnv(num_envs=3, terrain="flat")


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


def test_np_random_is_an_entry_a_simulation_as_in_gymnasiums_vectorisers(make):
    envs = make(3)
    assert envs.np_random == () and envs.np_random_seed == ()
    envs.reset(seed=5)
    sync = SyncVectorEnv([lambda: BallbotEnv(terrain="flat") for _ in range(3)])
    sync.reset(seed=5)
    assert envs.np_random_seed == sync.np_random_seed == (5, 6, 7)
    state = envs.get_state()
    expected = envs.reset()[0]
    envs.set_state(state)
    assert envs.np_random_seed == (-1, -1, -1)
    np.testing.assert_array_equal(envs.reset()[0], expected)
    envs.reset(seed=[1, None, 3])
    assert envs.np_random_seed == (1, -1, 3)
    sync.close()


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


def test_state_of_other_physics_is_refused(make):
    envs = make(2)
    envs.reset(seed=0)
    envs.set_state(envs.get_state())
    state = envs.get_state()
    envs.simulations.model.pair_friction[0, 1] = 0.9
    with pytest.raises(ValueError, match=r"physics was '[0-9a-f]{16}', is"):
        envs.set_state(state)
    envs.simulations.model.pair_friction[0, 1] = 1.0
    envs.set_state(state)
    envs.close()
    with pytest.raises(ValueError, match="contact_fix was True, is False"):
        make(2, contact_fix=False).set_state(state)


def _without(key):
    return lambda state: state.pop(key)


def _with(key, change, part=None):
    def damage(state):
        holder = state if part is None else state[part]
        holder[key] = change(holder[key])

    return damage


def _write(index, value):
    def change(array):
        array = array.copy()
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *(
            (_without(key), f"no '{key}'")
            for key in ("streams", "elapsed", "time_limit", "actions", "term_sums", "obs")
        ),
        (_without("simulations"), "no 'rows'"),
        (_without("num_diverged"), "'num_diverged' is None"),
        (_with("num_diverged", float), "'num_diverged' is 0.0"),
        (_with("num_diverged", lambda n: -1), "'num_diverged' is -1"),
        (_with("simulations", lambda s: s["rows"]), "no 'rows'"),
        (_with("rows", _write((1, 5), np.nan), "simulations"), "'rows' holds numbers other than finite"),
        (_with("rows", lambda a: a[:, :-1], "simulations"), "'rows' has shape"),
        (_with("rows", lambda a: a.astype(np.float32), "simulations"), "'rows' has dtype float32, expected float64"),
        (_with("terrain_ids", _write(2, 4), "simulations"), "'terrain_ids' holds numbers other than 0 to 3"),
        (_with("terrain_ids", _write(2, -1), "simulations"), "'terrain_ids' holds numbers other than 0 to 3"),
        (_with("streams", lambda a: a[:2]), "'streams' has shape"),
        (_with("streams", lambda a: a.astype(float)), "'streams' has dtype float64"),
        (_with("streams", _write((3, 4), 2)), "'streams' holds words that are no state"),
        (_with("elapsed", lambda a: a.astype(float)), "'elapsed' has dtype float64"),
        (_with("obs", _write((0, 0), np.inf)), "'obs' holds numbers other than finite"),
        (_with("term_sums", _write((2, 3), np.nan)), "'term_sums' holds numbers other than finite"),
    ],
)
def test_a_damaged_state_is_refused_by_name_and_changes_nothing(make, damage, message):
    options = {"terrain": "perlin", "num_terrains": 4}
    envs, twin, donor = make(4, **options), make(4, **options), make(4, **options)
    for env, seed in ((envs, 1), (twin, 1), (donor, 2)):
        env.reset(seed=seed)
    for action in random_actions(5, 4):
        envs.step(action), twin.step(action), donor.step(action)
    state = donor.get_state()
    damage(state)
    with pytest.raises(ValueError, match=message):
        envs.set_state(state)
    assert envs.np_random_seed == (1, 2, 3, 4)
    for a, b in zip(run(envs, random_actions(20, 4)), run(twin, random_actions(20, 4)), strict=True):
        np.testing.assert_array_equal(a, b)


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
    layout = envs.simulations.addresses
    for start in (layout.base_qpos, layout.ball_qpos):
        envs.simulations.qpos[0, start] += envs.simulations.reach + 0.01
        envs.simulations.qpos[0, start + 2] += 0.2  # clear of whatever hill is there
    _, _, terminated, truncated, infos = envs.step(np.zeros((2, 3)))
    assert truncated.tolist() == [True, False] and not terminated.any()
    assert infos["final_info"]["out_of_bounds"].tolist() == [True, False]


def test_longer_fields_are_as_rough_and_end_later(make):
    """The cameras see the same ground that the ball rolls on, far out too."""
    envs = make(2, terrain="perlin", terrain_length=20.0, num_terrains=2, observation="depth")
    assert envs.simulations.ground.relief.shape == (2, 585, 585)
    np.testing.assert_allclose(envs.simulations.model.hfield_size[:, :2], 10.0)
    envs.reset(seed=0)
    layout = envs.simulations.addresses
    for start in (layout.base_qpos, layout.ball_qpos):
        envs.simulations.qpos[:, start] += [8.0, 10.0]
        envs.simulations.qpos[:, start + 2] += 0.2
    _, _, _, truncated, infos = envs.step(np.zeros((2, 3)))
    assert truncated.tolist() == [False, True]
    assert infos["final_info"]["out_of_bounds"].tolist() == [False, True]


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


def test_a_staggered_episode_that_reaches_its_limit_is_a_success_and_every_reset_staggers_anew(make):
    envs = make(8, max_episode_steps=40, stagger_first_episodes=True)
    limits: list[np.ndarray] = []
    for _ in range(2):
        envs.reset(seed=None if limits else 3)
        first = np.zeros(8, int)
        for step in range(1, 41):
            _, _, terminated, truncated, infos = envs.step(np.zeros((8, 3)))
            assert not terminated.any()
            for i in np.flatnonzero(truncated):
                first[i] = first[i] or step
                assert infos["final_info"]["success"][i]
        limits.append(first)
    assert (limits[0] != limits[1]).any() and all(1 <= f <= 40 for f in np.ravel(limits))


def test_time_limits_may_be_drawn_evenly_in_their_logarithm_and_each_episode_keeps_its_own(make):
    envs = make(300, max_episode_steps=100, shortest_episode_steps=4)
    envs.reset(seed=0)
    limits = envs.world.time_limit.copy()
    assert limits.min() >= 4 and limits.max() <= 100
    assert 0.4 < (limits < 20).mean() < 0.6  # the geometric mean of 4 and 100
    ended = np.zeros(300, int)
    for step in range(1, 101):
        truncated = envs.step(np.zeros((300, 3)))[3]
        ended[truncated & (ended == 0)] = step
    assert ended.tolist() == limits.tolist()
    assert (envs.world.time_limit != limits).mean() > 0.5  # autoreset has drawn others
    assert envs.config.task().shortest_episode_steps is None
    again = make(300, max_episode_steps=100, shortest_episode_steps=4)
    again.reset(seed=0)
    assert again.world.time_limit.tolist() == limits.tolist()
    for options in ({"shortest_episode_steps": 100}, {"terrain": "hills:0-1", "num_terrains": 2, "curriculum": True}):
        whole = make(3, **({"max_episode_steps": 100, "shortest_episode_steps": 4} | options))
        whole.reset(seed=0)
        assert whole.world.time_limit.tolist() == [100] * 3


@pytest.mark.parametrize("damage", ["nan_velocity", "huge_velocity", "nan_position", "fast_but_finite"])
def test_a_diverged_simulation_ends_only_its_own_episode(make, damage):
    envs = make(3)
    envs.reset(seed=0)
    for action in random_actions(20, 3):
        before, *_, sound = envs.step(action)
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
    for name in ("position", "tilt_deg"):
        np.testing.assert_array_equal(infos["final_info"][name][1], sound[name][1])
    assert envs.num_diverged == 1
    for _ in range(50):
        obs, reward, *_ = envs.step(np.zeros((3, 3)))
        assert np.isfinite(obs).all() and np.isfinite(reward).all()
    assert envs.num_diverged == 1


@pytest.mark.parametrize("cause", ["warning", "error"])
def test_a_warning_or_an_error_of_mujoco_alone_ends_the_episode(make, cause, monkeypatch):
    """MuJoCo resets a simulation whose state went bad, so its state may look sound."""
    envs, twin = make(3), make(3)
    envs.reset(seed=0), twin.reset(seed=0)
    batch = envs.simulations.batch
    step = batch.step

    def step_and_report(*args, **kwargs):
        step(*args, **kwargs)
        if cause == "error":
            raise SimulationError(np.array([1]), "stack overflow")
        batch.warning.reshape(3, -1)[1, int(mujoco.mjtWarning.mjWARN_BADQACC)] = 1

    monkeypatch.setattr(batch, "step", step_and_report)
    _, reward, terminated, truncated, infos = envs.step(np.zeros((3, 3)))
    expected = twin.step(np.zeros((3, 3)))
    monkeypatch.undo()
    assert truncated.tolist() == infos["final_info"]["diverged"].tolist() == [False, True, False]
    assert not terminated.any() and envs.num_diverged == 1
    np.testing.assert_array_equal(reward, expected[1] * [1, 0, 1])
    for action in random_actions(20, 3):
        obs, reward, _, truncated, _ = envs.step(action)
        theirs = twin.step(action)
        assert not truncated.any() and np.isfinite(obs).all()
        np.testing.assert_array_equal(obs[[0, 2]], theirs[0][[0, 2]])
        np.testing.assert_array_equal(reward[[0, 2]], theirs[1][[0, 2]])
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


def test_training_can_pay_otherwise_and_the_terms_stay_the_tasks(make):
    options = {"terrain": "perlin", "initial_speed": 0.4, "max_episode_steps": 40}
    plain, other = (
        make(**options),
        make(**options, training_rewards={"progress": 0, "tracking": 6, "tracking_speed": 0.3}),
    )
    for envs in (plain, other):
        envs.reset(seed=0)
    _, rewards, _, _, infos = plain.step(np.zeros((4, 3)))
    _, theirs, _, _, their_infos = other.step(np.zeros((4, 3)))
    velocity = plain.simulations.robot_state().velocity[:2]
    off = ((velocity - [[0.0], [0.3]]) ** 2).sum(axis=0)
    tracking = 0.01 * 0.15 * (1 - off / 0.3**2)
    np.testing.assert_allclose(theirs, rewards - infos["reward_terms"]["progress"] + 6 * tracking, atol=1e-12)
    for name, sums in infos["reward_terms"].items():
        np.testing.assert_array_equal(their_infos["reward_terms"][name], sums)
    with pytest.raises(
        ValueError,
        match=r"training_rewards.tracking was None, is 6.0; training_rewards.tracking_speed was None, is 0.3",
    ):
        other.set_state(plain.get_state())


def test_weaker_motors_turn_more_slowly_and_what_was_applied_is_seen(make):
    weak, strong = make(action_limit=0.5), make()
    for envs, action in ((weak, [1.0, -1.0, 0.25]), (strong, [0.5, -0.5, 0.25])):
        envs.reset(seed=0)
        for _ in range(20):
            envs.step(np.tile(action, (4, 1)))
    np.testing.assert_array_equal(weak.world.obs, strong.world.obs)
    np.testing.assert_allclose(weak.world.obs[:, 14:17], np.tile([0.5, -0.5, 0.25], (4, 1)))
    strong.step(np.ones((4, 3)))
    np.testing.assert_array_equal(strong.world.obs[:, 14:17], 1.0)
    with pytest.raises(ValueError, match=r"action_limit was 1.0, is 0.5"):
        weak.set_state(strong.get_state())


@pytest.mark.parametrize("observation", ["proprioception", "encoded"])
def test_an_action_that_is_held_is_the_same_action_at_every_step(make, observation):
    """To the bit, and an episode ends where it ends, within a hold too."""
    options = {"terrain": "perlin", "max_episode_steps": 33, "tilt_limit_deg": 2.0, "observation": observation}
    held, single = make(6, **options, action_repeat=5), make(6, **options)
    assert held.dt == pytest.approx(0.01) and held.metadata["render_fps"] == 100
    assert BallbotEnv(terrain="flat", action_repeat=2).metadata["render_fps"] == 250
    held.reset(seed=0)
    single.reset(seed=0)
    ended = np.zeros(6, bool)
    causes = {"success": 0, "failure": 0}
    for actions in random_actions(7, 6, scale=1.0):
        obs, rewards, terminated, truncated, infos = held.advance(actions)
        total, running = np.zeros(6), ~ended
        for _ in range(5):
            step = single.advance(actions)
            now = (step[2] | step[3]) & ~ended
            total += np.where(ended, 0.0, step[1])
            for i in np.flatnonzero(now):
                np.testing.assert_array_equal(obs[i], step[0][i])
                assert (terminated[i], truncated[i]) == (step[2][i], step[3][i])
                for key in ("position", "tilt_deg", "success", "failure"):
                    np.testing.assert_array_equal(infos[key][i], step[4][key][i])
                assert infos["reward_terms"]["survival"][i] == step[4]["reward_terms"]["survival"][i]
                causes["success" if step[4]["success"][i] else "failure"] += 1
            ended |= now
        np.testing.assert_allclose(rewards[running], total[running], atol=1e-12)
        assert not (terminated | truncated)[~ended].any()
        np.testing.assert_array_equal(obs[~ended], step[0][~ended])
        if ended.all():
            break
    assert causes["success"] and causes["failure"], causes


def test_a_held_action_of_an_ended_episode_does_not_reach_the_next_one(make):
    """Autoreset comes after the hold: new episodes start where those of an environment without holds start."""
    envs, fresh = (make(3, terrain="perlin", max_episode_steps=7, action_repeat=k) for k in (5, 1))
    envs.reset(seed=4)
    envs.step(np.ones((3, 3)))
    obs, _, _, truncated, infos = envs.step(np.ones((3, 3)))
    assert truncated.all() and infos["final_info"]["success"].all()
    fresh.reset(seed=4)
    for _ in range(7):
        expected = fresh.step(np.zeros((3, 3)))[0]
    np.testing.assert_array_equal(obs, expected)
    assert infos["reward_terms"]["survival"].sum() == 0


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
        ({"terrain": "moon"}, ValueError, "terrain='moon' is unknown: .*known are .*flat.*perlin"),
        (
            {"observation": "smell"},
            ValueError,
            "observation must be one of 'proprioception', 'encoded', 'depth', 'scan', got 'smell'",
        ),
        ({"frame": "wheel"}, ValueError, "frame must be one of 'body', 'world', got 'wheel'"),
        ({"integrator": "rk4"}, ValueError, "integrator must be one of .*'RK4', got 'rk4'"),
        (
            {"terrain_split": "test"},
            ValueError,
            "terrain_split must be one of 'train', 'validation', 'eval', got 'test'",
        ),
        ({"action_repeat": 0}, ValueError, "action_repeat must be a whole number from 1 to 500, got 0"),
        (
            {"progress_weight": 6.0},
            ValueError,
            r"progress_weight is now spelled otherwise: training_rewards={'progress'",
        ),
        ({"rewards": {"progress": np.nan}}, ValueError, "rewards.progress must be a finite number, got nan"),
        ({"action_limit": 0.0}, ValueError, "action_limit must be a number from 0.01 to 1, got 0.0"),
        ({"action_limit": 1.01}, ValueError, "action_limit must be a number from 0.01 to 1, got 1.01"),
        ({"target_speed": 0.5}, ValueError, "target_speed is now spelled otherwise: training_rewards="),
        ({"training_rewards": {"tracking_speed": 0.0}}, ValueError, "training_rewards.tracking_speed must be a number"),
        (
            {"training_rewards": {"tracking_speed": np.nan}},
            ValueError,
            "training_rewards.tracking_speed must be a fini",
        ),
        ({"terrain_length": 0.5}, ValueError, "terrain_length must be a number from 1 to 100, got 0.5"),
        ({"render_mode": "ascii"}, ValueError, "render_mode='ascii'"),
        ({"num_envs": 0}, ValueError, "num_envs=0 is out of range"),
        ({"num_envs": -3}, ValueError, "num_envs=-3"),
        ({"num_envs": 10**12}, ValueError, "num_envs=1000000000000"),
        ({"num_envs": 2.0}, TypeError, "num_envs=2.0 must be an integer"),
        ({"num_envs": True}, TypeError, "num_envs=True"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps must be a whole number .*, got 0"),
        ({"num_terrains": 0}, ValueError, "num_terrains must be a whole number .*, got 0"),
        ({"num_threads": -1}, ValueError, "num_threads=-1"),
        ({"tilt_limit_deg": float("nan")}, ValueError, "tilt_limit_deg must be a finite number, got nan"),
        ({"initial_tilt_deg": -1}, ValueError, "initial_tilt_deg must be a number from 0 to 90, got -1"),
        ({"initial_tilt_deg": 20}, ValueError, "initial_tilt_deg = 20.0 is not below tilt_limit_deg = 20.0"),
        (
            {"initial_tilt_deg": 5, "tilt_limit_deg": 3},
            ValueError,
            "initial_tilt_deg = 5.0 is not below tilt_limit_deg = 3.0",
        ),
        ({"goal": (0, 0)}, ValueError, "goal="),
        ({"goal": "north"}, ValueError, "goal='north'"),
        ({"terrain": np.zeros(2)}, ValueError, "terrain=array"),
        ({"random_yaw": "no"}, ValueError, "random_yaw must be true or false, got 'no'"),
        ({"shortest_episode_steps": 0}, ValueError, "shortest_episode_steps must be a whole number .*, got 0"),
        ({"stagger_first_episodes": 2}, ValueError, "stagger_first_episodes must be true or false, got 2"),
        ({"contact_fix": "no"}, ValueError, "contact_fix must be true or false, got 'no'"),
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
        (np.array(3), None, TypeError, r"seed=array\(3\) must be an int"),
        (0, {"terrain_id": 1}, ValueError, r"options\['terrain_id'\]=1 is out of range: use 0 to 0"),
        (0, {"terrain_id": [0, 0]}, ValueError, r"must be an integer or \(4,\) integers, got int64 \(2,\)"),
        (0, {"terrain_id": 0.0}, ValueError, "must be an integer"),
        (0, {"mask": 1}, ValueError, "unknown reset option 'mask'"),
        (0, {"mask": 1, 2: 3}, ValueError, "unknown reset option"),
        (0, ["reset_mask"], TypeError, "must be a dict or None, got list"),
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


@pytest.mark.parametrize("call", ["reset", "step", "render"])
def test_a_closed_environment_is_refused_since_others_may_have_exchanged_the_contacts(make, call):
    envs = make(1)
    envs.reset(seed=0)
    envs.close()
    envs.close()  # closing twice is harmless
    with pytest.raises(gym.error.ClosedEnvironmentError, match="make a new one"):
        getattr(envs, call)(*([np.zeros((1, 3))] if call == "step" else []))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.parametrize(("num_threads", "outcome"), [(1, "stepped"), (2, "made before the process forked")])
def test_an_environment_of_several_threads_does_not_hang_after_a_fork(make, num_threads, outcome):
    envs = make(4, num_threads=num_threads)
    envs.reset(seed=0)
    envs.step(np.zeros((4, 3)))
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def child():
        try:
            envs.step(np.zeros((4, 3)))
            send.send("stepped")
        except RuntimeError as error:
            send.send(str(error))

    process = context.Process(target=child)
    process.start()
    assert receive.poll(60), "the child hangs"
    assert outcome in receive.recv()
    process.join()


def test_environments_with_and_without_the_contact_fix_cannot_be_mixed(make):
    make(1)
    with pytest.raises(ValueError, match=r"contact_fix=False.*close that one first"):
        make(1, contact_fix=False)


def test_an_environment_that_nobody_holds_is_not_in_the_way():
    envs = BallbotVectorEnv(1, terrain="flat")
    vars(envs)["itself"] = envs  # gone only when Python collects its garbage
    del envs
    BallbotVectorEnv(1, terrain="flat", contact_fix=False).close()


def stand(envs, steps=1000):
    """(num_envs,) steps that tilt control holds the robots up: a push by each wheel against lean and its rate."""
    envs.reset(seed=0)
    obs = envs.step(np.zeros((envs.num_envs, 3)))[0]
    stood = np.full(envs.num_envs, steps)
    angles = np.radians([0.0, 120.0, 240.0])  # of the wheels about the base's axis (ballbot.xml)
    for step in range(steps):
        roll, pitch = np.arctan2(-obs[:, 1], -obs[:, 2]), np.arcsin(obs[:, 0])  # from gravity, seen by the base
        push_roll, push_pitch = -(20 * roll + 2 * obs[:, 3]), -(20 * pitch + 2 * obs[:, 4])
        actions = np.outer(push_roll, np.cos(angles)) + np.outer(push_pitch, np.sin(angles))
        obs, _, terminated, _, _ = envs.step(np.clip(actions, -1, 1))
        stood = np.where(terminated & (stood == steps), step, stood)
    return stood


def test_tilt_control_stands_with_the_contact_fix_and_falls_at_once_without_it(make):
    stock = make(8, contact_fix=False)
    assert not mujoco_patch.is_installed()
    stood = stand(stock)
    assert stood.max() < 1000 and np.median(stood) < 500  # a second
    stock.close()
    fixed = make(8)
    assert mujoco_patch.is_installed()
    assert (stand(fixed) == 1000).all()


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


def test_an_unknown_kind_of_opengl_is_named_with_the_remedy():
    environment = {**os.environ, "MUJOCO_GL": "bogus"}
    command = [sys.executable, "-c", "import ballbot.envs"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert "ImportError: MuJoCo cannot be imported with MUJOCO_GL='bogus'" in result.stderr
    assert "unset MUJOCO_GL" in result.stderr
