# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Options derive from what is registered, say all that a config says, and read what older versions recorded."""

import dataclasses
import json
import re
from typing import Any

import pytest
from inprocess import call, own_registries

from ballbot.envs import COMMANDS, ENDINGS, TERRAINS, WorldConfig
from ballbot.envs.rewards import reward_settings
from ballbot.errors import SettingsError
from ballbot.options import (
    HIDDEN,
    SECTIONS,
    from_plain,
    kind_options,
    plain,
    read_options,
    with_kinds,
    world_config,
    world_options,
)
from ballbot.parsing import field_docs

CONFIGS = [
    WorldConfig(),
    WorldConfig(terrain="flat", frame="world", random_yaw=False, integrator="RK4"),
    WorldConfig(terrain="stairs:0-1", ground={"height": 0.02}, curriculum=True, num_terrains=8, terrain_cell=0.05),
    WorldConfig(command="velocity", motion={"max_speed": 0.2}, rewards={"velocity": 2.0, "upright": 0.5}),
    WorldConfig(command="path", extra_fields=("yaw_rate",), endings={"yaw_rate": 3.0}),
    WorldConfig(history=(0, 10, 20), history_fields=("gravity", "gyro")),
    WorldConfig(training_rewards={"progress": 0.0, "tracking": 6.0, "tracking_speed": 0.5}, observation="encoded"),
]


def section(options, name):
    """Its options, by name."""
    found = getattr(options, name, None)
    return {} if found is None else {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}


def test_every_option_of_a_world_is_there_but_those_that_programs_set():
    options = world_options(WorldConfig())
    names = {f.name for f in dataclasses.fields(options)} | {"ground", "motion"}  # which not every kind has
    assert names == {f.name for f in dataclasses.fields(WorldConfig)} - set(HIDDEN)


@pytest.mark.parametrize("kind", [kind for kind in TERRAINS if kind != "file"])
def test_a_grounds_fields_are_its_options(kind):
    options = section(world_options(with_kinds(WorldConfig(), terrain=kind)), "ground")
    assert options == {
        f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        for f in dataclasses.fields(TERRAINS[kind])
        if f.init
    }


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_commands_fields_are_its_options(kind):
    options = section(world_options(with_kinds(WorldConfig(), command=kind)), "motion")
    assert list(options) == [f.name for f in dataclasses.fields(COMMANDS[kind]) if f.init]


def test_rewards_and_endings_are_options_with_the_weights_of_the_command():
    options = world_options(WorldConfig(command="velocity"))
    rewards = section(options, "rewards")
    assert list(rewards) == list(reward_settings()) == list(section(options, "training_rewards"))
    assert {name: rewards[name] for name in COMMANDS["velocity"].rewards} == COMMANDS["velocity"].rewards
    assert set(section(options, "training_rewards").values()) == {None}
    assert section(options, "endings") == dict.fromkeys(ENDINGS)


@pytest.mark.parametrize("kinds", [["--terrain", "stairs"], ["--terrain", "pits:0.5", "--command", "velocity"]])
def test_help_tells_the_options_of_the_kinds_that_are_named(kinds, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    named: dict[str, Any] = {"ground": TERRAINS[kinds[1].partition(":")[0]]}
    named |= {"motion": COMMANDS[kinds[3]]} if len(kinds) > 2 else {}
    for script in ("ppo_ballbot.py", "evaluate.py", "watch.py"):
        done = call(script, *kinds, "--help")
        text = " ".join(re.sub("[│╭╮╰╯─]", " ", done.stdout).split())
        for name, kind in named.items():
            for f in dataclasses.fields(kind):
                assert re.search(f"--{name}.{f.name.replace('_', '-')}[, ]", text), (script, f.name)
                assert field_docs(kind)[f.name][:40] in text, (script, f.name)


def test_another_kind_brings_its_own_options():
    config = WorldConfig(terrain="stairs", ground={"height": 0.02}, command="velocity", motion={"max_speed": 0.2})
    assert with_kinds(config, terrain="stairs:0.5").ground == {"height": 0.02}
    assert with_kinds(config, terrain="hills").ground == {} != config.ground
    fine = dataclasses.replace(config, terrain_cell=0.01)
    assert with_kinds(fine, terrain="stairs:0.5").terrain_cell == 0.01
    assert with_kinds(fine, terrain="hills").terrain_cell is None
    assert with_kinds(config, command="velocity") == config
    other = with_kinds(config, command="point")
    assert other.motion == {} and other.rewards == COMMANDS["point"].rewards and other.ground == config.ground
    with pytest.raises(SettingsError, match="did you mean 'velocity'"):
        with_kinds(config, command="velocty")


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_options_and_files_say_all_that_a_config_says(config):
    assert world_config(world_options(config), config) == config
    assert from_plain(json.loads(json.dumps(plain(config)))) == config
    assert all(name in plain(config) for name in SECTIONS)


OLD = {
    "terrain": "perlin", "frame": "body", "cameras": True, "camera_interval": 16, "max_episode_steps": 4000,
    "integrator": "Euler", "contact_fix": True, "num_terrains": 256, "terrain_seed": 0, "random_yaw": True,
    "initial_tilt_deg": 1.0, "initial_speed": 0.2, "tilt_limit_deg": 20.0, "target_speed": 0.5, "progress_weight": 6.0,
    "action_limit": 1.0,
}  # fmt: skip
"""What version 0.1 wrote for its default settings."""


@pytest.mark.parametrize(
    ("changes", "meant"),
    [
        ({}, {}),
        ({"cameras": False}, {"observation": "proprioception"}),
        ({"target_speed": 0.3}, {"training_rewards": {"progress": 0.0, "tracking": 6.0, "tracking_speed": 0.3}}),
        ({"target_speed": None}, {"training_rewards": {"progress": 6.0}}),
        ({"target_speed": None, "progress_weight": 1.0}, {"training_rewards": {}}),
        ({"frame": "world", "random_yaw": False}, {"frame": "world", "random_yaw": False}),
        ({"terrain": "flat", "action_limit": 0.8}, {"terrain": "flat", "action_limit": 0.8}),
    ],
)
def test_what_version_0_1_recorded_is_read_as_it_was_meant(changes, meant):
    then = WorldConfig(
        observation="encoded",
        camera_interval=16,
        num_terrains=256,
        initial_speed=0.2,
        training_rewards={"progress": 0.0, "tracking": 6.0, "tracking_speed": 0.5},
    )
    assert from_plain(OLD | changes) == dataclasses.replace(then, **meant)


def test_what_still_older_versions_left_out_had_other_defaults():
    assert from_plain({}) == WorldConfig(observation="encoded", initial_speed=0.4)
    with pytest.raises(SettingsError, match="cameras must be true or false, got 'yes'"):
        from_plain({"cameras": "yes"})
    with pytest.raises(SettingsError, match="unknown key 'terain'; did you mean 'terrain'"):
        from_plain(plain(WorldConfig()) | {"terain": "flat"})


@dataclasses.dataclass
class Program:
    """Options of some program."""

    terrain: str | None = None
    """Ground."""
    command: str | None = None
    """Command."""


def test_programs_get_the_options_of_the_kinds_they_are_told():
    def read(*argv):
        with own_registries():
            return read_options(Program, list(argv), "")

    assert kind_options(read()) == {} and read() == Program()
    args = read("--terrain", "stairs:0.5", "--ground.height", "0.02", "--command", "velocity")
    assert isinstance(args, Program) and args.terrain == "stairs:0.5"
    assert kind_options(args) == {"ground": {"height": 0.02}, "motion": {}}
    assert kind_options(read("--terrain", "flat")) == {}
    assert kind_options(read("--terrain", "moon")) == {}  # which is refused where the world is made
    for argv, words in (
        (["--ground.height", "1"], "--ground.height is an option of a kind: add --terrain"),
        (["--terrain", "stairs", "--motion.max-speed=1"], "--motion.max-speed=1 is an option of a kind: add --command"),
    ):
        with pytest.raises(SettingsError, match=re.escape(words)):
            read(*argv)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (["--motion.station-keeping"], True),
        (["--motion.station_keeping", "--motion.max-speed", "0.2"], True),
        (["--motion.no-station-keeping"], False),
        (["--motion.station-keeping", "False"], False),
        ([], None),
    ],
)
def test_switches_of_kinds_are_said_as_in_training(said, meant):
    args = read_options(Program, ["--command", "velocity", *said], "")
    assert kind_options(args)["motion"].get("station_keeping") is meant
