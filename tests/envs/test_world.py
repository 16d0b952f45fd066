# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""The world: ground of several kinds and difficulties, its heights, and states that mean what they say."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch

from ballbot.envs import COMMANDS, TERRAINS, BallbotEnv, BallbotVectorEnv, Ground, commands
from ballbot.envs.commands import Goal
from ballbot.envs.curriculum import ABOVE, BELOW, RAISE, Curriculum
from ballbot.envs.terrain import TerrainPool
from ballbot.errors import SettingsError
from ballbot.ppo.checkpoint import from_plain

RUNS = Path(__file__).parents[1] / "golden" / "runs"
TWO: dict[str, Any] = {"terrain": "mixed:0-1", "ground": {"kinds": "hills stairs"}, "num_terrains": 22}


@pytest.fixture
def make():
    opened = []

    def make(num_envs=8, cls=BallbotVectorEnv, **options):
        sizes = {"num_envs": num_envs} if cls is BallbotVectorEnv else {}
        opened.append(cls(**sizes, **({"terrain": "flat", "num_threads": 1, "num_terrains": 4} | options)))
        return opened[-1]

    yield make
    for envs in opened:
        envs.close()


# -- Difficulty and curriculum ----------------------------------------------------------------------------------------


def test_a_pool_of_several_kinds_holds_each_at_all_difficulties(make):
    ground = make(**TWO).world.ground
    assert ground.kinds == ("hills", "stairs")
    for kind in range(2):
        np.testing.assert_allclose(np.sort(ground.difficulties[ground.kind_ids == kind]), np.linspace(0, 1, 11))


def test_the_difficulty_of_an_episode_may_be_asked_for_and_its_kind_is_what_it_would_have_been(make):
    envs, plain = make(64, **TWO), make(64, **TWO)
    ground = envs.world.ground
    _, infos = envs.reset(seed=0, options={"difficulty": 0.33})
    _, drawn = plain.reset(seed=0)
    np.testing.assert_allclose(ground.difficulties[infos["terrain_id"]], 0.3)
    np.testing.assert_array_equal(ground.kind_ids[infos["terrain_id"]], ground.kind_ids[drawn["terrain_id"]])
    asked = np.linspace(0, 1, 64)
    _, infos = envs.reset(options={"difficulty": asked})
    assert np.abs(ground.difficulties[infos["terrain_id"]] - asked).max() <= 0.05 + 1e-9
    # other draws go on as they would have
    plain.reset()
    np.testing.assert_array_equal(envs.reset()[1]["terrain_id"], plain.reset()[1]["terrain_id"])


def test_fields_as_difficult_as_each_other_are_all_used(make):
    envs = make(64, terrain="hills:0-1", num_terrains=2)
    assert len(set(envs.reset(seed=0, options={"difficulty": 0.5})[1]["terrain_id"])) == 2


@pytest.mark.parametrize(
    "options", [{}, {"terrain": "hills"}, {"terrain": "hills:0.5"}, {"terrain": "hills:0-1", "num_terrains": 1}]
)
def test_a_difficulty_is_refused_where_there_is_only_one(make, options):
    envs = make(**options)
    with pytest.raises(SettingsError, match=r"'difficulty'.* is of one difficulty: .*stairs:0-1"):
        envs.reset(seed=0, options={"difficulty": 0.2})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.5, "'difficulty'.*out of range"),
        (np.nan, "out of range"),
        ("hard", "must be a number"),
        ([0.1, 0.2], r"\(8,\) numbers"),
    ],
)
def test_difficulties_that_are_none_are_refused(make, value, message):
    envs = make(**TWO)
    with pytest.raises(ValueError, match=message):
        envs.reset(seed=0, options={"difficulty": value})
    with pytest.raises(ValueError, match="a terrain has one"):
        envs.reset(seed=0, options={"difficulty": 0.5, "terrain_id": 0})


def test_a_curriculum_rises_by_success_and_falls_by_failure_each_kind_by_itself():
    levels = Curriculum(("a", "b"), 0.2, 0.7)
    kinds, wins = np.array([0, 0, 1]), np.array([True, True, False])
    levels.learn(kinds, np.full(3, 0.2), wins)
    np.testing.assert_allclose(levels.levels, [0.2 + 2 * RAISE * 0.5, 0.2])  # not below the lowest
    levels.levels[:] = 0.69, 0.5
    levels.learn(kinds, np.array([0.69, 0.69, 0.5]), wins)
    np.testing.assert_allclose(levels.levels, [0.7, 0.5 - 2 * RAISE * 0.5])  # not above the highest
    levels.levels[0] = 0.6
    levels.learn(np.array([0]), np.array([0.6 - BELOW * 0.5 - 0.01]), np.array([True]))
    assert levels.levels[0] == 0.6  # what was much too easy tells nothing
    rng = np.random.default_rng(0)
    drawn = np.array([levels.draw(0, rng) for _ in range(2000)])
    assert 0.6 - BELOW * 0.5 <= drawn.min() < 0.49 and 0.61 < drawn.max() <= 0.6 + ABOVE * 0.5
    shown = levels.measures(np.array([1, 0, 1]))
    np.testing.assert_array_equal(shown["level_a"], [np.nan, 0.6, np.nan])


def test_robots_begin_on_the_easiest_ground_and_levels_follow_what_becomes_of_them(make):
    envs = make(32, **TWO, curriculum=True, max_episode_steps=3)
    ground, levels = envs.world.ground, envs.world.curriculum.levels
    _, infos = envs.reset(seed=0)
    assert ground.difficulties[infos["terrain_id"]].max() <= ABOVE + 0.05
    assert infos["measures"].keys() == {"level_hills", "_level_hills", "level_stairs", "_level_stairs"}
    for _ in range(60):  # nobody falls within 3 steps
        *_, infos = envs.step(np.zeros((32, 3)))
    assert (levels > 0.9).all()
    where = infos["terrain_id"]
    assert ground.difficulties[where].min() >= 1 - BELOW - 0.1
    shown = np.where(ground.kind_ids[where] == 1, levels[1], np.nan)
    np.testing.assert_array_equal(infos["measures"]["level_stairs"], shown)
    for _ in range(10):  # all fall
        envs.simulations.qvel[:, envs.simulations.addresses.base_qvel + 3] = 400.0
        *_, infos = envs.step(np.zeros((32, 3)))
    assert infos["final_info"]["failure"].any() and (levels < 0.9).all()


def test_an_episode_that_goes_on_past_its_end_is_learned_from_once(make):
    envs = make(4, **TWO, curriculum=True, max_episode_steps=3)
    envs.reset(seed=0, options={"terrain_id": 0})
    levels = envs.world.curriculum.levels
    for _ in range(3):
        envs.advance(np.zeros((4, 3)))
    once = levels.copy()
    state = envs.get_state()
    assert once.max() == pytest.approx(4 * RAISE)
    for _ in range(3):
        envs.advance(np.zeros((4, 3)))
    np.testing.assert_array_equal(levels, once)
    envs.set_state(state)
    envs.advance(np.zeros((4, 3)))
    np.testing.assert_array_equal(levels, once)
    envs.reset(options={"terrain_id": 0})
    for _ in range(3):
        envs.advance(np.zeros((4, 3)))
    assert levels.max() == pytest.approx(8 * RAISE)


def test_who_leaves_the_ground_says_nothing_of_its_difficulty(make):
    envs = make(4, **TWO, curriculum=True)
    envs.reset(seed=0)
    at = envs.simulations.addresses
    for start in (at.base_qpos, at.ball_qpos):
        envs.simulations.qpos[:, start] += 6.0
        envs.simulations.qpos[:, start + 2] += 1.0
    envs.world.curriculum.levels[:] = 0.5
    *_, truncated, infos = envs.step(np.zeros((4, 3)))
    assert truncated.all() and infos["final_info"]["out_of_bounds"].all()
    assert (envs.world.curriculum.levels == 0.5).all()


def test_the_curriculum_goes_on_where_a_state_was_saved(make):
    envs, other = (make(8, **TWO, curriculum=True, max_episode_steps=4) for _ in range(2))
    envs.reset(seed=0)
    for _ in range(21):
        envs.step(np.zeros((8, 3)))
    state = envs.get_state()
    assert (state["curriculum"] > 0).any()
    other.set_state(state)
    for _ in range(21):
        mine, theirs = envs.step(np.zeros((8, 3))), other.step(np.zeros((8, 3)))
        np.testing.assert_array_equal(mine[0], theirs[0])
        np.testing.assert_array_equal(mine[4]["terrain_id"], theirs[4]["terrain_id"])
    np.testing.assert_array_equal(envs.world.curriculum.levels, other.world.curriculum.levels)
    state["curriculum"] = np.array([0.5, 1.5])
    with pytest.raises(ValueError, match="'curriculum' holds numbers other than 0 to 1"):
        other.set_state(state)


# -- Where the ground is ----------------------------------------------------------------------------------------------


def mujocos(envs, i, xy):
    """Height and normal by MuJoCo's ray from above, on the terrain that a robot stands on."""
    model = copy.copy(envs.simulations.model)
    ground = envs.simulations.addresses.ground_geom
    model.geom_dataid[ground] = envs.simulations.terrain_ids[i]
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    normal = np.zeros(3)
    start = np.array([*xy, 50.0])
    away = mujoco.mj_rayHfield(model, data, ground, start, np.array([0.0, 0.0, -1.0]), normal)
    return 50.0 - away, normal


@pytest.mark.parametrize("options", [{"terrain": "perlin"}, TWO | {"num_terrains": 4}])
def test_heights_and_normals_are_those_of_the_ground_that_each_robot_stands_on(make, options):
    envs = make(6, **options, max_episode_steps=5)
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(3):
        xy = rng.uniform(-4.9, 4.9, (6, 20, 2))
        heights, normals = envs.heights(np.arange(6), xy), envs.normals(np.arange(6), xy)
        assert heights.shape == (6, 20) and normals.shape == (6, 20, 3)
        for i in range(6):
            for k in range(20):
                height, normal = mujocos(envs, i, xy[i, k])
                assert heights[i, k] == pytest.approx(height, abs=1e-5)
                np.testing.assert_allclose(normals[i, k], normal, atol=1e-3)
        for _ in range(5):  # new episodes, elsewhere
            envs.step(np.zeros((6, 3)))


def test_a_single_robot_asks_for_the_ground_likewise(make):
    env = make(cls=BallbotEnv, terrain="perlin")
    env.reset(seed=3)
    xy = np.random.default_rng(0).uniform(-4, 4, (5, 2))
    vector = env._envs
    np.testing.assert_array_equal(env.heights(xy), vector.heights([0], xy[None])[0])
    np.testing.assert_array_equal(env.normals(xy[0]), vector.normals([0], xy[None, 0])[0])
    assert np.shape(env.heights([0.0, 0.0])) == ()
    assert env.heights([0.0, 0.0]) == pytest.approx(mujocos(vector, 0, (1e-6, 0.0))[0], abs=1e-5)


@pytest.mark.parametrize(
    ("ids", "xy", "message"),
    [
        ([0, 1], np.zeros((3, 2)), r"xy must be \(2, ..., 2\) places in m beside 2 ids, got \(3, 2\)"),
        ([0], np.zeros((1, 3)), "xy must be"),
        ([0], [0.0, 0.0], "xy must be"),
        ([0], "here", "xy must be"),
        ([0], [[np.nan, 0]], "finite"),
        ([9], [[0, 0]], "ids=.* from 0 to 7"),
    ],
)
def test_places_that_are_none_are_refused(make, ids, xy, message):
    envs = make(terrain="perlin")
    for ask in (envs.heights, envs.normals):
        with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\) before"):
            ask([0], [[0, 0]])
    envs.reset(seed=0)
    for ask in (envs.heights, envs.normals):
        with pytest.raises(SettingsError, match=message):
            ask(ids, xy)


@pytest.mark.parametrize("xy", ["here", 3, [1.0, 2.0, 3.0], [[np.nan, 0.0]]])
def test_a_single_robot_is_told_what_places_are_without_a_word_of_others(make, xy):
    env = make(cls=BallbotEnv, terrain="perlin")
    with pytest.raises(gym.error.ResetNeeded):
        env.heights([0, 0])
    env.reset(seed=0)
    for ask in (env.heights, env.normals):
        with pytest.raises(SettingsError, match=r"xy must be (\(..., 2\)|finite) places in m") as error:
            ask(xy)
        assert "ids" not in str(error.value)
    assert env.num_diverged == 0


class Table:
    """Level ground, far above its lowest point, with places to begin."""

    def make(self, rng, grid, difficulty):
        heights = np.full(grid.shape, 0.4)
        heights[0] = 0.0
        return Ground(heights, spawns=[(1.0, 2.0), (-3.0, 0.5), (0.0, 0.0)])


def test_robots_begin_at_the_places_that_the_ground_names_and_stand_there(make, monkeypatch):
    monkeypatch.setitem(TERRAINS, "table", dataclass(frozen=True)(Table))
    envs = make(60, terrain="table", num_terrains=2)  # the check of its wheels does not refuse the robot
    _, infos = envs.reset(seed=0)
    places = {tuple(np.round(p, 1) + 0.0) for p in infos["position"]}
    assert places == {(1.0, 2.0), (-3.0, 0.5), (0.0, 0.0)}
    for _ in range(25):
        *_, infos = envs.step(np.zeros((60, 3)))
    velocity = envs.simulations.robot_state().velocity
    assert np.abs(velocity[2]).max() < 0.02  # neither drop nor push
    assert not infos["failure"].any()


# -- Random streams ---------------------------------------------------------------------------------------------------


def test_what_commands_draw_leaves_the_reference_draws_as_they_are(make, monkeypatch):
    """Terrain, heading, tilt, speed and time limit of each episode, whatever else is drawn."""
    monkeypatch.setattr(commands, "SETTLING", -1.0)
    options = {"terrain": "perlin", "max_episode_steps": 30, "stagger_first_episodes": True, "initial_speed": 0.3}
    plain = make(4, **options)
    others = [
        make(4, **options, command="velocity", motion={"resample_time": 0.01}),  # drawn anew all the time
        make(4, **options, command="path"),
        make(4, **options, motion={"any_direction": True}),
    ]
    for envs in (plain, *others):
        envs.reset(seed=0)
    for _ in range(100):
        plain.step(np.zeros((4, 3)))
        for envs in others:
            envs.step(np.zeros((4, 3)))
            np.testing.assert_array_equal(envs.simulations.qpos, plain.simulations.qpos)
            np.testing.assert_array_equal(envs.world.time_limit, plain.world.time_limit)


def test_a_robots_second_stream_is_its_own_and_follows_from_its_seed(make):
    a, b = make(3, command="velocity"), make(3, command="velocity")
    a.reset(seed=[5, 6, 7]), b.reset(seed=[9, 5, 6])
    np.testing.assert_array_equal(a.command[:2], b.command[1:])
    assert len(np.unique(a.command, axis=0)) == 3


# -- Saved states -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def older():
    """The state of environments, in a checkpoint of version 0.1."""
    content = torch.load(RUNS / "blind" / "last.pt", weights_only=True)
    return from_plain(content["ranks"][0]["env_state"])


BLIND: dict[str, Any] = {
    "terrain": "perlin", "max_episode_steps": 300, "initial_speed": 0.2, "action_repeat": 5,
    "training_rewards": {"progress": 0, "tracking": 6, "tracking_speed": 0.5},
}  # fmt: skip


def test_a_state_of_version_0_1_goes_on_in_an_environment_that_was_just_made(make, older):
    fresh, used = make(4, **BLIND), make(4, **BLIND)
    used.reset(seed=8)
    for envs in (fresh, used):
        envs.set_state(older)
        np.testing.assert_array_equal(envs.goal, [[0.0, 1.0]] * 4)
    for _ in range(80):  # new episodes on the way
        a, b = (envs.step(np.zeros((4, 3))) for envs in (fresh, used))
        for x, y in zip(a[:4], b[:4], strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"action_repeat": 4}, "action_repeat was 5, is 4"),
        ({"initial_speed": 0.3}, "initial_speed was 0.2, is 0.3"),
        ({"training_rewards": {}}, "training_rewards.tracking was 6.0, is None"),
        ({"rewards": {"progress": 2, "survival": 1, "action_cost": 1}}, r"rewards.progress was None, is 2.0"),
        ({"command": "velocity", "training_rewards": {}}, "command was 'goal', is 'velocity'"),
        ({"goal": (1, 0)}, r"motion.x was None, is 1.0"),
        ({"terrain": "flat"}, "terrain was 'perlin', is 'flat'"),
        ({"endings": {"speed": 1.0}}, "endings.speed was None, is 1.0"),
        ({"contact_fix": False}, "contact_fix was True, is False"),
    ],
)
def test_a_state_of_version_0_1_of_another_world_is_refused_by_name(make, older, change, name):
    with pytest.raises(ValueError, match=name):
        make(4, **BLIND | change).set_state(older)


def test_a_state_of_other_ground_is_refused(make, monkeypatch):
    """Though all options are the same: a file or a plugin changed."""
    envs = make(2, terrain="hills")
    envs.reset(seed=0)
    state = envs.get_state()
    make_hills = TERRAINS["hills"].make

    def higher(self, rng, grid, difficulty):
        ground = make_hills(self, rng, grid, difficulty)
        return Ground(1.01 * ground.heights, ground.spawns)

    make(2, terrain="hills").set_state(state)
    monkeypatch.setattr(TERRAINS["hills"], "make", higher)
    with pytest.raises(ValueError, match=r"ground was '[0-9a-f]{16}', is '[0-9a-f]{16}'"):
        make(2, terrain="hills").set_state(state)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("command"), "no 'values'"),
        (lambda s: s.pop("second_streams"), "no 'second_streams'"),
        (lambda s: s["command"].pop("since"), "no 'since'"),
        (lambda s: s["command"].update(values=np.zeros((3, 2))), r"'values' has shape \(3, 2\)"),
        (lambda s: s["command"]["index"].fill(7.0), "'index' holds numbers other than 0 to 3"),
        (lambda s: s["command"]["target"].fill(np.nan), "'target' holds numbers other than finite"),
        (lambda s: s["options"].update(world=3), "'world' is 3, expected options"),
        (lambda s: s["options"]["world"].update(command="point"), "command was 'point', is 'path'"),
    ],
)
def test_a_damaged_command_is_refused_and_changes_nothing(make, damage, message):
    envs, twin = make(2, command="path"), make(2, command="path")
    for env in (envs, twin):
        env.reset(seed=0)
    state = envs.get_state()
    damage(state)
    with pytest.raises(ValueError, match=message):
        envs.set_state(state)
    np.testing.assert_array_equal(envs.step(np.zeros((2, 3)))[0], twin.step(np.zeros((2, 3)))[0])


def test_kinds_of_command_that_are_derived_are_paid_like_what_they_are(monkeypatch, make):
    monkeypatch.setitem(COMMANDS, "northward", dataclass(frozen=True)(type("Northward", (Goal,), {})))
    envs = make(2, command="northward")
    assert list(envs.world.terms) == ["progress", "survival", "action_cost"]
    assert envs.single_observation_space.shape == (17,)


def test_pools_are_the_same_whoever_makes_them():
    assert TerrainPool("hills", num=2).digest() == TerrainPool("hills", num=2).digest()
