# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""A world's config: what is said of it, and that it says the same when it is read back."""

import json
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest

from ballbot.envs import BallbotVectorEnv, WorldConfig
from ballbot.envs import config as config_module
from ballbot.envs.commands import Velocity
from ballbot.envs.config import GONE, SAID
from ballbot.envs.terrain import TERRAINS
from ballbot.errors import SettingsError

WORLDS = {
    "reference": WorldConfig(),
    "flat": WorldConfig(terrain="flat"),
    "graded": WorldConfig(terrain="stairs:0-1", ground={"height": 0.02}, curriculum=True),
    "told": WorldConfig(command="velocity", motion={"max_speed": 0.2, "station_keeping": True}),
    "paid": WorldConfig(rewards={"progress": 2.0, "upright": 0.5}, training_rewards={"progress": 0, "tracking": 6}),
    "unpaid": WorldConfig(rewards={"progress": 1.0}, endings={"speed": 1.0}),
    "nothing paid": WorldConfig(command="point", rewards={}),
    "seen": WorldConfig(observation="encoded", frame="world", camera_resolution=(32, 48), extra_fields=("yaw_rate",)),
}


def test_the_reference_world_differs_from_the_default_in_nothing():
    assert WorldConfig().fingerprint() == {}
    assert WorldConfig(rewards={"progress": 1, "survival": 1, "action_cost": 1}).fingerprint() == {}
    assert WorldConfig(rewards={"progress": 1, "survival": 1, "action_cost": 1, "tilt": 0}).fingerprint() == {}
    assert WorldConfig(motion={"x": 0, "y": 1}).fingerprint() == {}
    assert WorldConfig(terrain_length=10, tilt_limit_deg=20).fingerprint() == {}


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_a_fingerprint_is_plain_and_says_which_world_it_is(world):
    said = world.fingerprint()
    assert json.loads(json.dumps(said)) == said
    others = [other.fingerprint() for other in WORLDS.values() if other != world]
    assert said not in others
    assert world.fingerprint("task", "training") == said == world.fingerprint("task") | world.fingerprint("training")


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_metadata_say_what_task_a_policy_was_trained_for(world):
    metadata = json.loads(json.dumps(world.metadata()))
    assert set(SAID) <= set(metadata)
    read = WorldConfig.from_metadata(metadata | {"encoder": "0123", "something_new": 1})
    assert read == world.task()
    assert read.fingerprint("training") == {}
    assert read.metadata() == world.metadata()


def test_metadata_of_version_0_1_are_read():
    older = {"observation": "proprioception", "frame": "world", "terrain": "perlin", "tilt_limit_deg": 20.0}
    assert WorldConfig.from_metadata(older | {"integrator": "Euler", "random_yaw": False}) == WorldConfig(
        frame="world", random_yaw=False
    )
    with pytest.raises(SettingsError, match="terrain='lava' is unknown"):
        WorldConfig.from_metadata(older | {"terrain": "lava"})
    damaged: list[dict[str, Any]] = [
        {"tilt_limit_deg": "steep"},
        {"rewards.progress": None},
        {"ground": 3},
        {"motion.x": []},
    ]
    for damage in damaged:
        with pytest.raises(SettingsError):
            WorldConfig.from_metadata(older | damage)


def test_an_option_that_comes_later_adds_nothing_by_its_default():
    @dataclass(frozen=True)
    class Later(WorldConfig):
        colour: str = config_module.option("grey", "task")

    for world in WORLDS.values():
        options = {f.name: getattr(world, f.name) for f in fields(world)}
        assert Later(**options).fingerprint() == world.fingerprint()
        assert Later(**options, colour="red").fingerprint() == {**world.fingerprint(), "colour": "red"}


def test_a_goal_may_be_given_as_a_pair():
    assert WorldConfig.of(goal=(3, 4)).motion == {"x": 0.6, "y": 0.8}
    assert WorldConfig.of(goal=np.array([0.0, 2.0])) == WorldConfig()
    envs = BallbotVectorEnv(1, terrain="flat", goal=(1, 0))
    envs.reset()
    np.testing.assert_array_equal(envs.goal, [[1.0, 0.0]])
    with pytest.raises(SettingsError, match=r"goal=\(1, 0\) and .*any_direction.* are conflicting"):
        WorldConfig.of(goal=(1, 0), motion={"any_direction": True})
    for goal in ((0, 0), (np.nan, 1), "north", 3, None):
        with pytest.raises(ValueError, match="goal="):
            WorldConfig.of(goal=goal)


def test_parts_may_be_given_as_what_they_are():
    spelled = WorldConfig(terrain=TERRAINS["stairs"](height=0.02), command=Velocity(max_speed=0.2))  # type: ignore[arg-type]
    assert spelled == WorldConfig(
        terrain="stairs", ground={"height": 0.02}, command="velocity", motion={"max_speed": 0.2}
    )
    for options in ({"terrain": 3}, {"command": object()}, {"terrain": TERRAINS["stairs"]}, {"command": None}):
        with pytest.raises(SettingsError, match="is unknown"):
            WorldConfig(**options)


@pytest.mark.parametrize("name", GONE)
def test_options_that_are_gone_say_how_to_say_it_now(name):
    with pytest.raises(SettingsError, match=f"{name} is now spelled otherwise: training_rewards="):
        WorldConfig.of(**{name: 0.5})
    with pytest.raises(SettingsError, match="spelled otherwise"):
        BallbotVectorEnv(1, **dict[str, Any]({name: 0.5}))


def test_unknown_options_offer_the_nearest():
    with pytest.raises(TypeError, match="no option 'terain': did you mean 'terrain'"):
        WorldConfig.of(terain="flat")
    with pytest.raises(TypeError, match="config was given, and 'terrain' besides"):
        BallbotVectorEnv(1, config=WorldConfig(), terrain="flat")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"terrain": "stares"}, "terrain='stares' is unknown: did you mean 'stairs'"),
        ({"terrain": "stairs", "ground": {"hight": 1}}, "'stairs' has no option 'hight': did you mean 'height'"),
        ({"terrain": "stairs:2"}, "from 0 to 1"),
        ({"ground": 3}, "ground=3 must be a mapping of options by name"),
        ({"ground": {3: 1}}, "ground=.* must be a mapping of options by name"),
        ({"extra_fields": ("yaw",)}, "no field 'yaw': did you mean 'yaw_rate'"),
        ({"extra_fields": ("yawrate",)}, "no field 'yawrate': did you mean 'yaw_rate'"),
        ({"extra_fields": "yaw_rate"}, r"extra_fields='yaw_rate' must be a tuple of names: \('yaw_rate',\)"),
        ({"extra_fields": (3,)}, "no field"),
        ({"frame": "world", "motion": {"any_direction": True}}, "do not observe with frame='world': use frame='body'"),
        ({"motion": {"any_direction": True, "x": 1}}, "any_direction are conflicting"),
        ({"extra_fields": ("gyro",)}, "'gyro' is observed twice"),
        ({"camera_resolution": (1, 2, 3)}, r"camera_resolution=.* must be \(height, width\)"),
        ({"curriculum": True}, "curriculum needs ground of several difficulties, terrain='perlin' has one"),
        ({"curriculum": True, "terrain": "stairs:0-1", "num_terrains": 1}, "num_terrains above 1"),
        ({"curriculum": 1}, "curriculum must be true or false"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options, message):
    with pytest.raises(SettingsError, match=message):
        WorldConfig(**options)


def test_a_task_is_changed_without_what_belonged_to_the_old_one():
    told = WorldConfig(command="velocity", motion={"max_speed": 0.2}, terrain="stairs", ground={"height": 0.02})
    assert told.task(command="goal").fingerprint() == {"terrain": "stairs", "ground.height": 0.02}
    assert told.task(terrain="flat").fingerprint() == {
        "terrain": "flat", "command": "velocity", "motion.max_speed": 0.2
    }  # fmt: skip
    assert told.task(terrain="flat", command="goal") == WorldConfig(terrain="flat")
    assert replace(told, initial_speed=0.2).task(num_terrains=3).initial_speed == 0.0
    own = WorldConfig(rewards={"survival": 3.0})
    assert own.task(command="point").rewards == {"survival": 3.0}
