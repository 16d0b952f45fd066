# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Ranges that grow as robots succeed."""

from __future__ import annotations

import numpy as np
import pytest
from driving import actions, drive, small

from ballbot.envs import WorldConfig
from ballbot.envs.curriculum import NARROWEST, WIDEN
from ballbot.errors import SettingsError
from ballbot.ppo.episodes import episode_terms

RANGES = {"body_mass": (0.5, 1.1), "slope_x": (4.0, 8.0)}


def growing(num=4, **options):
    return small(num, **{"ranges": RANGES, "range_curriculum": True, "max_episode_steps": 3} | options)


def stand(env, steps):
    for _ in range(steps):
        *_, infos = env.step(np.zeros((env.num_envs, 3), np.float32))
    return infos


def test_ranges_begin_narrow_around_what_is_meant_and_widen_for_the_robots_that_succeed():
    env, whole = growing(64), small(64, ranges=RANGES)
    _, infos = env.reset(seed=0)
    _, others = whole.reset(seed=0)
    mass, slope = (infos["randomized"][name] for name in RANGES)
    np.testing.assert_allclose(mass, 1 + NARROWEST * (others["randomized"]["body_mass"] - 1))
    np.testing.assert_allclose(slope, NARROWEST * others["randomized"]["slope_x"])
    for _ in range(6):
        fallen = env.simulations.qvel[:32, env.simulations.addresses.base_qvel + 3]
        fallen[:] = 400.0  # half of them fall in each episode
        infos = stand(env, 3)
    shares = env.world.range_shares.levels
    np.testing.assert_allclose(shares[:32], NARROWEST)
    np.testing.assert_allclose(shares[32:], NARROWEST + 6 * WIDEN)
    values, told = episode_terms(infos)["charts/range_share"]
    assert told[32:].all() and values[32:] == pytest.approx(NARROWEST + 5 * WIDEN)  # as those episodes were
    stand(env, 12)
    assert shares[32:] == pytest.approx(1.0) and shares.max() <= 1.0
    mass = env.simulations.randomizer.by_name["body_mass"][32:]
    assert mass.min() < 0.65 and mass.min() >= 0.5 and mass.max() <= 1.1
    env.simulations.qvel[:, env.simulations.addresses.base_qvel + 3] = 400.0
    stand(env, 3)
    np.testing.assert_allclose(shares[32:], 1 - 2 * WIDEN)


def test_shares_go_on_where_a_state_was_saved():
    env, other = (growing(3, max_episode_steps=7) for _ in range(2))
    for each in (env, other):
        each.reset(seed=0)
    drive(env, actions(17, 3))
    state = env.get_state()
    assert (state["range_shares"] > NARROWEST).all()
    other.set_state(state)
    np.testing.assert_array_equal(drive(env, actions(30, 3)), drive(other, actions(30, 3)))
    np.testing.assert_array_equal(env.get_state()["range_shares"], other.get_state()["range_shares"])
    state["range_shares"] = np.array([0.5, 1.5, 0.5])
    with pytest.raises(ValueError, match="'range_shares' holds numbers other than"):
        other.set_state(state)


def test_only_whole_episodes_count_and_ranges_must_be_there():
    env = growing(8, max_episode_steps=50, shortest_episode_steps=2)
    env.reset(seed=0)
    assert (env.world.time_limit == 50).all()
    with pytest.raises(SettingsError, match="range_curriculum needs ranges"):
        WorldConfig(range_curriculum=True)
    config = WorldConfig(randomize="mild", range_curriculum=True)
    assert not config.task().range_curriculum and "range_curriculum" not in config.metadata()
    assert "range_share" not in small(1, ranges=RANGES).reset(seed=0)[1]
