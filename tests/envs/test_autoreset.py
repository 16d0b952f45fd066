# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Gymnasium's three ways to go on after an episode, its wrappers, and copies of environments."""

import copy
import pickle
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as wrappers

import ballbot  # noqa: F401  (registers Ballbot-v0)
from ballbot.envs import COMMANDS, BallbotEnv, BallbotVectorEnv
from ballbot.envs.commands import Velocity
from ballbot.errors import SettingsError

MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED]
SMALL: dict[str, Any] = {"terrain": "perlin", "num_terrains": 4, "num_threads": 1, "max_episode_steps": 31}
WORLDS: dict[str, dict[str, Any]] = {
    "told": {"command": "velocity", "motion": {"resample_time": 3.1}},
    "restless": {"command": "restless"},
    "held": {"action_repeat": 4, "history": (0, 5), "privileged_fields": ("time_left",)},
    "falling": {"tilt_limit_deg": 1.0, "initial_tilt_deg": 0.9, "max_episode_steps": 500},
    "seeing": {"observation": "encoded", "stagger_cameras": True, "camera_interval": 7},
}


@dataclass(frozen=True)
class Restless(Velocity):
    """Another velocity every few steps, so that something is drawn in the step in which an ended episode waits."""

    def begin(self, told, ids, robots):
        for i in ids:
            told.until[i] = told.age[i] + told.streams[i].integers(1, 3)


@pytest.fixture(autouse=True)
def restless(monkeypatch):
    monkeypatch.setitem(COMMANDS, "restless", Restless)


def actions_of(rng, n):
    return rng.uniform(-1, 1, (n, 3)).astype(np.float32)


def assert_same(ours, theirs, what=""):
    if isinstance(theirs, dict):
        for name in theirs:
            assert_same(ours[name], theirs[name], f"{what} {name}")
    else:
        np.testing.assert_array_equal(ours, theirs, err_msg=what)


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_it_is_what_gymnasiums_own_vectoriser_makes_of_single_robots(mode, world):
    options = SMALL | world
    ours = BallbotVectorEnv(3, **options, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: BallbotEnv(**options)] * 3, autoreset_mode=mode)
    rng, ends = np.random.default_rng(0), 0
    assert_same(ours.reset(seed=5)[0], theirs.reset(seed=5)[0])
    for step in range(120):
        actions = actions_of(rng, 3)
        one, other = ours.step(actions), theirs.step(actions)
        for k, what in enumerate(("observation", "reward", "terminated", "truncated")):
            assert_same(one[k], other[k], f"{what} in step {step}")
        done = one[2] | one[3]
        ends += int(done.sum())
        for name in ("position", "success", "failure"):
            assert_same(one[4][name], other[4][name], name)
        if mode is AutoresetMode.SAME_STEP and done.any():
            for i in np.flatnonzero(done):
                assert_same(one[4]["final_obs"][i], other[4]["final_obs"][i])
        if mode is AutoresetMode.DISABLED and done.any():
            assert_same(*(envs.reset(options={"reset_mask": done.copy()})[0] for envs in (ours, theirs)))
    assert ends >= 3


def test_an_episode_that_ended_pays_nothing_until_the_next_and_counts_no_divergence():
    envs = BallbotVectorEnv(2, **SMALL, autoreset_mode="next_step")
    envs.reset(seed=0)
    for _ in range(30):
        _, reward, _, _, _ = envs.step(np.zeros((2, 3)))
        assert (reward > 0).all()
    last, _, _, truncated, infos = envs.step(np.zeros((2, 3)))
    assert truncated.all() and infos["success"].all() and "final_obs" not in infos
    envs.simulations.qvel[0, 0] = np.nan  # of a robot that is about to be placed anew
    first, reward, terminated, truncated, infos = envs.step(np.zeros((2, 3)))
    assert not reward.any() and not terminated.any() and not truncated.any() and not infos["success"].any()
    assert envs.num_diverged == 0 and np.isfinite(first).all() and (first != last).any()
    assert set(infos) >= {"position", "_position", "reward_terms"}


def test_the_curriculum_learns_of_an_episode_once():
    terrain: dict[str, Any] = {"terrain": "hills:0-1", "num_terrains": 8, "curriculum": True}
    envs = BallbotVectorEnv(4, **SMALL | terrain, autoreset_mode="next_step")
    envs.reset(seed=0)
    assert envs.world.curriculum is not None
    start = envs.world.curriculum.levels.copy()
    for _ in range(31):
        envs.step(np.zeros((4, 3)))
    learned = envs.world.curriculum.levels.copy()
    assert (learned > start).all()
    envs.step(np.zeros((4, 3)))
    np.testing.assert_array_equal(envs.world.curriculum.levels, learned)


def test_without_autoreset_whoever_ended_must_be_reset_first():
    envs = BallbotVectorEnv(3, **SMALL, autoreset_mode="disabled", stagger_first_episodes=True)
    envs.reset(seed=0)
    done = np.zeros(3, bool)
    while not done.any():
        _, _, terminated, truncated, _ = envs.step(np.zeros((3, 3)))
        done = terminated | truncated
    state = envs.get_state()
    with pytest.raises(
        gym.error.ResetNeeded, match=rf"simulations \[{np.flatnonzero(done)[0]}.*have ended: call reset"
    ):
        envs.step(np.zeros((3, 3)))
    before = envs.world.elapsed.copy()
    envs.reset(options={"reset_mask": done})
    np.testing.assert_array_equal(envs.world.elapsed, np.where(done, 0, before))
    assert (envs.world.time_limit[done] == 31).all()  # the first episodes alone are staggered
    envs.step(np.zeros((3, 3)))
    envs.set_state(state)
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="episodes have ended and no others have begun: make the environment with"):
        BallbotVectorEnv(3, **SMALL, stagger_first_episodes=True).set_state(state)
    with pytest.raises(ValueError, match=r"state 'ended' has shape.*damaged"):
        envs.set_state(state | {"ended": np.zeros(2, bool)})


def test_a_resumed_environment_begins_the_episodes_that_wait():
    envs, other = (BallbotVectorEnv(3, **SMALL, autoreset_mode="next_step") for _ in range(2))
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(31):
        _, _, _, truncated, _ = envs.step(actions_of(rng, 3))
    assert truncated.all()
    other.set_state(copy.deepcopy(envs.get_state()))
    for _ in range(40):
        actions = actions_of(rng, 3)
        for one, two in zip(envs.step(actions)[:4], other.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(one, two)
    plain = BallbotVectorEnv(3, **SMALL)
    plain.set_state({k: v for k, v in envs.get_state().items() if k != "ended"})
    assert "ended" not in plain.get_state()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_gymnasiums_wrappers_work_and_count_rightly(mode):
    def make(*wraps):
        envs: Any = gym.make_vec("Ballbot-v0", 3, **SMALL, autoreset_mode=mode)
        assert envs.metadata["autoreset_mode"] is envs.unwrapped.autoreset_mode is mode
        for wrap in wraps:
            envs = wrap(envs)
        return envs

    clip = lambda envs: wrappers.ClipReward(envs, 0.0, 0.01)  # noqa: E731
    stacks: list[Any] = [make(wrappers.RecordEpisodeStatistics, clip, wrappers.NormalizeReward)]
    stacks.append(make(wrappers.RecordEpisodeStatistics, wrappers.DictInfoToList))
    if mode is AutoresetMode.NEXT_STEP:
        stacks.append(make(wrappers.NormalizeObservation, wrappers.RecordEpisodeStatistics))
    else:
        with pytest.raises(ValueError, match="NEXT_STEP"):  # Gymnasium's own condition
            make(wrappers.NormalizeObservation)
    if mode is not AutoresetMode.SAME_STEP:
        stacks.append(make(wrappers.FlattenObservation, wrappers.RecordEpisodeStatistics))
    for envs in stacks:
        obs, _ = envs.reset(seed=0)
        assert obs.shape == (3, 17)
        lengths: list[float] = []
        for _ in range(100):
            obs, reward, terminated, truncated, infos = envs.step(np.zeros((3, 3), np.float32))
            assert np.isfinite(obs).all() and np.isfinite(reward).all()
            done = terminated | truncated
            if done.any():
                told = infos if isinstance(infos, list) else [{"episode": {"l": n}} for n in infos["episode"]["l"]]
                lengths += [told[i]["episode"]["l"] for i in np.flatnonzero(done)]
                if mode is AutoresetMode.DISABLED:
                    envs.reset(options={"reset_mask": done})
        assert lengths == [31] * 9
        envs.close()


def test_modes_are_named_as_gymnasium_does_or_refused():
    for name in ("next_step", "NEXT_STEP", "NextStep", AutoresetMode.NEXT_STEP):
        assert BallbotVectorEnv(1, terrain="flat", autoreset_mode=name).autoreset_mode is AutoresetMode.NEXT_STEP
    assert BallbotVectorEnv(1, terrain="flat").metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    for wrong in ("later", None, 1, ["next_step"]):
        with pytest.raises(SettingsError, match=r"autoreset_mode=.* is unknown: use 'next_step' or 'same_step' or"):
            BallbotVectorEnv(1, terrain="flat", autoreset_mode=wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="BallbotEnv never resets itself: leave autoreset_mode out"):
        BallbotEnv(terrain="flat", autoreset_mode="disabled")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
@pytest.mark.parametrize("steps", [None, 0, 20, 31])
def test_copies_go_on_as_the_original(duplicate, steps):
    options = {**SMALL, "history": (0, 3), "autoreset_mode": "next_step"}
    envs: Any = gym.make_vec("Ballbot-v0", 2, **options)
    rng = np.random.default_rng(0)
    if steps is not None:
        envs.reset(seed=3)
        for _ in range(steps):
            envs.step(actions_of(rng, 2))
    envs.action_space.seed(7)
    other = duplicate(envs)
    assert other is not envs and other.config == envs.config and other.spec.kwargs == envs.spec.kwargs
    assert other.np_random_seed == envs.np_random_seed
    if steps is None:
        envs.reset(seed=3), other.reset(seed=3)
    for _ in range(40):
        actions = envs.action_space.sample()
        np.testing.assert_array_equal(other.action_space.sample(), actions)
        for one, two in zip(envs.step(actions)[:4], other.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(one, two)
    other.step(actions)  # which is of no consequence to the original
    before = envs.get_state()["simulations"]["rows"]
    other.step(actions)
    np.testing.assert_array_equal(envs.get_state()["simulations"]["rows"], before)


def test_copies_of_a_single_robot_and_of_one_that_sees():
    env = gym.make("Ballbot-v0", **(SMALL | {"observation": "encoded"}))
    env.reset(seed=0)
    env.step(np.zeros(3, np.float32))
    other = copy.deepcopy(env)
    for _ in range(8):
        np.testing.assert_array_equal(
            env.step(np.full(3, 0.1, np.float32))[0], other.step(np.full(3, 0.1, np.float32))[0]
        )
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])
    assert env.unwrapped.np_random.random() == other.unwrapped.np_random.random()
    env.close()
    with pytest.raises(gym.error.ClosedEnvironmentError):
        copy.deepcopy(env)
