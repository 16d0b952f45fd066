# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""The search for the mildest circumstances under which a robot falls."""

from __future__ import annotations

import numpy as np
import pytest

from ballbot.envs.randomize import RANDOMIZED
from ballbot.errors import SettingsError
from ballbot.evaluation.falls import APART, SMALL, Space, Tried, children, search

STRONG = Space({**RANDOMIZED["strong"], "push_x": (-1.0, 1.0), "push_y": (-1.0, 1.0)})


def planted(space, weaknesses, starts=8, noise=0.05):
    """Falls wherever a weakness, numbers by name of what is too much, is exceeded; not alike in all starts."""
    rows = np.array([[1 / at[name] if name in at else 0.0 for name in space.names] for at in weaknesses])
    rows /= np.array([[len(at)] for at in weaknesses])
    by_start = noise * np.random.default_rng(0).normal(size=starts)

    def trial(numbers):
        margin = (numbers @ rows.T).max(axis=1)[:, None] - 1 + by_start
        return (margin > 0).mean(axis=1), np.clip(1 + margin, 0, 1).mean(axis=1)

    return trial


def found(trial, space=STRONG, count=96, seed=0):
    return search(space, trial, count, 0.5, np.random.default_rng(seed))


def test_numbers_are_shares_of_the_way_to_an_end_on_either_side():
    space = Space({"ground_friction": (0.4, 1.2), "com_x": (-0.02, 0.01), "weak_wheel": (0.5, 1.0), "payload": (1, 2)})
    values = space.values(np.array([[-1.0, -0.5, -1.0, 0.0], [0.5, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]))
    assert values["ground_friction"] == pytest.approx([0.4, 1.1, 1.0])
    assert values["com_x"] == pytest.approx([-0.01, 0.01, 0.0])
    assert values["weak_wheel"] == pytest.approx([0.5, 1.0, 1.0])
    assert values["payload"] == pytest.approx([1.0, 2.0, 1.0]), "nearest to what is meant, 0"
    assert space.lowest.tolist() == [-1, -1, -1, 0] and space.highest.tolist() == [1, 1, 0, 1]
    assert space.snapped(np.array([[-2.0, SMALL - 0.01, 0.7, 0.333]])).tolist() == [[-1.0, 0.0, 0.0, 0.33]]


def test_what_is_always_the_same_is_not_searched():
    space = Space({"com_x": (-0.02, 0.02), "push_every": (0.5, 0.5), "body_mass": (1.5, 1.5)})
    tried = found(planted(space, [{"com_x": 0.5}]), space, 40)
    assert not tried.numbers[:, 1:].any() and tried.fell.any()
    values = space.values(tried.numbers)
    assert (values["push_every"] == 0.5).all() and (values["body_mass"] == 1.5).all()
    for ranges in ({}, {"push_every": (0.5, 0.5)}):
        with pytest.raises(SettingsError, match="nothing can differ"):
            Space(ranges)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["com_x", "ground_friction"])
def test_a_weakness_along_one_axis_is_found_as_that(name, seed):
    at = {"com_x": 0.55, "ground_friction": -0.55}[name]
    tried = found(planted(STRONG, [{name: at}]), seed=seed)
    mildest = tried.numbers[tried.mildest(1)[0]]
    assert STRONG.names[np.argmax(np.abs(mildest))] == name
    assert mildest[STRONG.names.index(name)] == pytest.approx(at, rel=0.25)
    assert np.linalg.norm(mildest) < 0.8 and np.count_nonzero(mildest) <= 4


def test_of_several_weaknesses_the_mildest_comes_near_to_the_mildest_there_is():
    far, by_chance = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        weaknesses, least = [], []
        for _ in range(4):
            names = rng.choice(STRONG.names, 2, replace=False)
            at = rng.uniform(0.6, 1.2, 2) * rng.choice([-1, 1], 2)
            weaknesses.append(dict(zip(names, at, strict=True)))
            least.append(2 / np.linalg.norm(1 / at))
        trial = planted(STRONG, weaknesses, noise=0.0)
        tried = found(trial, seed=seed)
        far.append(tried.distances[tried.mildest(1)[0]] / min(least))
        drawn = rng.uniform(-1, 1, (96, len(STRONG.names))) * rng.random((96, 1))
        by_chance.append(np.linalg.norm(drawn[trial(drawn)[0] > 0], axis=1).min(initial=4.0) / min(least))
    assert min(far) > 0.98 and np.mean(far) < 1.4 < 1.8 < np.mean(by_chance), (far, by_chance)


def test_falls_that_are_told_differ_and_the_mildest_come_first():
    tried = found(planted(STRONG, [{"com_x": 0.5}, {"com_y": -0.6}, {"push_x": 0.7}]))
    chosen = tried.mildest(10)
    numbers, distances = tried.numbers[chosen], tried.distances[chosen]
    assert len(chosen) > 3 and tried.fell[chosen].all() and (np.diff(distances) >= 0).all()
    assert distances[0] == tried.distances[tried.fell].min()
    apart = np.linalg.norm(numbers[:, None] - numbers[None], axis=2)[~np.eye(len(chosen), dtype=bool)]
    assert apart.min() >= APART


def test_who_falls_as_it_is_meant_needs_no_search():
    calls = []

    def trial(numbers):
        calls.append(len(numbers))
        return np.ones(len(numbers)), np.ones(len(numbers))

    tried = found(trial)
    assert calls == [8] and not tried.numbers[tried.mildest(1)[0]].any()


def test_who_does_not_fall_is_pressed_further_where_it_came_nearest():
    index = STRONG.names.index("com_y")
    tried = found(lambda x: (np.zeros(len(x)), np.clip(np.abs(x[:, index]), 0, 1) / 2))
    assert not tried.fell.any() and len(tried.mildest(5)) == 0 and len(tried.shares) == 96
    assert np.abs(tried.numbers[tried.mildest(1, falls_only=False)[0], index]) == 1.0


def test_a_weakness_that_gives_no_warning_is_sought_by_chance_until_it_is_found():
    index = STRONG.names.index("com_x")

    def trial(numbers):
        falls = (numbers[:, index] > 0.8).astype(float)
        return falls, falls

    assert sum(found(trial, count=64, seed=seed).fell.any() for seed in range(100)) > 85


def test_children_stay_within_the_ranges_and_the_same_seed_gives_the_same():
    space = Space({"com_x": (0.0, 0.02), "com_y": (-0.02, 0.02)})
    tried = Tried(np.array([[0.0, 0.0], [1.0, -1.0]]), np.array([0.0, 1.0]), np.array([0.1, 1.0]), 0.5)
    numbers = children(space, tried, 200, np.random.default_rng(0))
    assert (numbers >= space.lowest).all() and (numbers <= space.highest).all()
    assert np.array_equal(numbers, children(space, tried, 200, np.random.default_rng(0)))
    assert not np.any((np.abs(numbers) > 0) & (np.abs(numbers) < SMALL))
