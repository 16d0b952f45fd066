# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Training from Python by a preset is the same as training from the command line."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from inprocess import call

from ballbot import presets, runs
from ballbot.controllers import make_controller
from ballbot.envs import COMMANDS, WorldConfig
from ballbot.envs.commands import Velocity
from ballbot.lqr import LQRController
from ballbot.ppo import Record, load_checkpoint, train

SMALL: dict[str, Any] = {
    "num_envs": 4, "num_steps": 16, "minibatch_size": 32, "hidden_size": 16, "action_repeat": 2, "eval_episodes": 2,
    "total_timesteps": 256,
}  # fmt: skip
"""Two updates."""


@pytest.mark.parametrize(
    ("world", "options"),
    [
        ({}, []),
        (
            {"terrain": "hills:0-1", "command": "velocity", "curriculum": True, "motion": {"max_speed": 0.2}},
            ["--terrain", "hills:0-1", "--command", "velocity", "--curriculum", "--motion.max-speed", "0.2"],
        ),
    ],
    ids=["goal", "velocity"],
)
def test_python_trains_bit_for_bit_as_the_command_line(world, options, tmp_path):
    common = {"observation": "proprioception", "num_terrains": 2, "max_episode_steps": 60}
    settings = presets.default(**common, **world)
    settings = replace(settings, ppo=replace(settings.ppo, **SMALL))
    train(
        settings.ppo,
        lambda n: settings.training_envs(n, num_threads=1),
        lambda n: settings.evaluation_envs(n, num_threads=1),
        run_dir=tmp_path / "python",
        structure=settings.structure(),
        record=Record(
            env_metadata=settings.metadata(), settings=runs.record(settings), shaped_rewards=settings.shaped_rewards
        ),
    )
    numbers = [x for name, value in SMALL.items() for x in (f"--{name.replace('_', '-')}", value)]
    numbers += ["--no-cameras", "--num-terrains", 2, "--max-episode-steps", 60, "--num-threads", 1]
    done = call("ppo_ballbot.py", *numbers, *options, "--run-name", "shell", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    ours, theirs = (load_checkpoint(tmp_path / run / "last.pt") for run in ("python", "runs/shell"))
    assert ours["global_step"] == theirs["global_step"] == 256
    assert ours["env_metadata"] == theirs["env_metadata"]
    for networks in ("agent", "policy"):
        assert ours[networks].keys() == theirs[networks].keys()
        assert all(torch.equal(value, theirs[networks][name]) for name, value in ours[networks].items())
    for folder in ("python", "runs/shell"):
        assert runs.load_settings(tmp_path / folder).settings == settings


def test_commands_that_derive_from_another_are_trained_as_it_is(monkeypatch):
    @dataclass(frozen=True)
    class Sideways(Velocity):
        """To the left or to the right."""

    @dataclass(frozen=True)
    class Own(Velocity):
        """Pays something of its own."""

        rewards: ClassVar[dict[str, float]] = {"velocity": 3.0}

    for name, kind in (("sideways", Sideways), ("own", Own)):
        monkeypatch.setitem(COMMANDS, name, kind)
    tuned = presets.default(command="velocity").world.training_rewards
    assert tuned and presets.default(command="sideways").world.training_rewards == tuned
    assert presets.default(command=Sideways()).world.training_rewards == tuned
    assert not presets.default(command="own").world.training_rewards
    assert not presets.default(command="point").world.training_rewards


def test_robots_of_which_nothing_else_is_known_begin_with_computed_gains():
    assert presets.default(robot="mini").prior_speed == presets.PRIOR_SPEED
    assert presets.default(robot="mini").structure().prior is not None
    assert presets.default(action="wheel_speed").prior_speed == presets.PRIOR_SPEED  # nor of other motors
    for world in ({}, {"robot": "rollers"}, {"robot": "mini", "command": "point"}):
        assert presets.default(**world).prior_speed is None
    assert presets.default(robot="rollers").ppo == presets.default().ppo


@pytest.mark.parametrize(
    ("robot", "action"),  # the second's wheels have dry friction
    [("mini", "torque"), ("asroballet", "torque"), ("asroballet", "wheel_speed"), ("reference", "wheel_position")],
)
def test_a_policy_that_is_told_velocities_adds_to_the_regulator_that_follows_them(robot, action):
    told = {
        "robot": robot,
        "action": action,
        "command": "velocity",
        "motion": {"station_keeping": True},
        "history": (0,),
    }
    settings = presets.default(observation="proprioception", **told)
    prior, follows = settings.structure().prior, make_controller(LQRController, 0.01, settings.world)
    seen = np.random.default_rng(0).normal(0, 0.01, (6, settings.layout().size)).astype(np.float32)
    for _ in range(200):  # past its slow start
        wanted = follows(seen, np.zeros(6, bool))
    assert prior is not None and np.ptp(wanted) > 0.05
    np.testing.assert_allclose(prior(torch.from_numpy(seen)).numpy(), wanted, atol=2e-5)


def test_presets_take_options_of_the_world_and_refuse_others():
    settings = presets.default(command="velocity", rewards={"velocity": 2.0})
    assert settings.world.rewards == {"velocity": 2.0} and not settings.world.training_rewards
    assert presets.default().world.paid["tracking"] == 20.0 and presets.plain().world.paid["tracking"] == 6.0
    assert presets.paper().world.rewards == presets.paper().world.paid
    for preset in presets.PRESETS.values():
        with pytest.raises(TypeError, match="there is no option 'gravity'"):
            preset(gravity=0)


@pytest.mark.parametrize("frame", ["body", "world"])
def test_networks_get_as_much_of_the_goal_as_is_said(frame):
    for factor in (1.0, 20.0):
        settings = presets.default(observation="proprioception", frame=frame)
        settings = replace(settings, goal_scale=factor, velocity_scale=1.0)
        layout, scale = settings.layout(), settings.structure().input_scale
        assert ("goal" in layout.slices) == (frame == "body")
        if frame == "world" or factor == 1:
            assert scale is None
        else:
            assert scale is not None and (scale[layout["goal"]] == factor).all() and scale.sum() == len(scale) + 2 * 19


def test_short_episodes_are_for_the_command_that_they_were_found_with():
    assert presets.default().world.shortest_episode_steps == 100
    assert presets.default().evaluation_world.shortest_episode_steps is None
    for settings in (presets.default(command="velocity"), presets.distill(), presets.plain()):
        assert settings.world.shortest_episode_steps is None


def test_falls_cost_students_from_the_beginning_what_they_cost_others_in_the_end():
    settings, default = presets.distill(), presets.default()
    assert settings.world.training_rewards == {**default.world.training_rewards, **default.world.final_rewards}
    assert settings.world.final_rewards == {} and default.world.final_rewards["survival"] == 5
    assert presets.distill(training_rewards={"survival": 2}).world.training_rewards == {"survival": 2}
    assert presets.distill(final_rewards={"survival": 3}).world.final_rewards == {"survival": 3}
    assert presets.distill(rewards={"survival": 1}).world.training_rewards == {}
    between = default.world.final_rewards_between
    assert presets.distill(final_rewards={"survival": 3}).world.final_rewards_between == between == (0.3, 0.6)
    assert settings.world.final_rewards_between == WorldConfig().final_rewards_between  # as nothing changes then


def test_what_training_pays_otherwise_than_the_task_is_known():
    assert presets.default().shaped_rewards and presets.distill().shaped_rewards
    assert not presets.paper().shaped_rewards and not presets.paper(rewards={"upright": 1.0}).shaped_rewards
    for option in (
        {"training_rewards": {"survival": 2.0}},
        {"final_rewards": {"survival": 5.0}},
        {"action_limit": 0.5},
        {"shortest_episode_steps": 100},
    ):
        assert presets.paper(**option).shaped_rewards, option
