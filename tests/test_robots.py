"""Other robots than the reference's, in worlds, in training and on the way to a robot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from inprocess import call

from ballbot.controllers import find_controller, make_controller, robot_symmetry
from ballbot.deployment.runtime import Controller
from ballbot.envs import BallbotVectorEnv, RobotConfig, WorldConfig
from ballbot.envs.mechanics import Mechanics
from ballbot.errors import SettingsError
from ballbot.evaluation import run_episodes, summarize
from ballbot.presets import default

FOUR: dict[str, Any] = {"wheels": 4, "azimuth_deg": 47.5}


@pytest.mark.parametrize("wheel_model", ["capsule", "rollers"])
@pytest.mark.parametrize("build", [{}, FOUR], ids=["three", "four"])
def test_computed_gains_drive_any_robot_over_uneven_ground(build: dict[str, Any], wheel_model: str) -> None:
    envs = BallbotVectorEnv(12, build={**build, "wheel_model": wheel_model}, num_terrains=12, max_episode_steps=1000)
    wheels = build.get("wheels", 3)
    assert envs.single_action_space.shape == (wheels,)
    assert envs.layout.size == 11 + 2 * wheels
    assert envs.single_observation_space.shape == (envs.layout.size,)
    make = find_controller("lqr:0.3")
    assert make is not None
    found = summarize(run_episodes(envs, make_controller(make, envs.dt, envs.config), 12, 0))
    assert found["success_rate"] == 1 and found["speed_along_goal_mean"] > 0.08
    envs.close()


def test_a_robot_is_named_or_given_or_spelled_out() -> None:
    mine = RobotConfig(ball_radius=0.1)
    for options in ({"robot": mine}, {"build": {"ball_radius": 0.1}}, {"robot": mine, "build": {"ball_radius": 0.1}}):
        config = WorldConfig.of(**options)
        assert config.robot == "reference" and config.build == {"ball_radius": 0.1} and config.robot_config == mine
        assert config.metadata()["build.ball_radius"] == 0.1
        assert WorldConfig.from_metadata(config.metadata()) == config
    assert WorldConfig(robot="rollers", build={"wheel_model": "rollers"}) == WorldConfig(robot="rollers")
    assert "robot" not in WorldConfig().fingerprint()
    envs = gym.make_vec("Ballbot-v0", 2, robot="rollers")
    assert isinstance(envs, BallbotVectorEnv) and envs.simulations.model.njnt == 2 + 3 * (1 + 12)
    envs.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"robot": "roller"}, "robot='roller' is unknown"),
        ({"build": {"ball_radios": 0.1}}, "robot 'reference' has no number 'ball_radios'.*ball_radius"),
        ({"robot": "rollers", "build": {"ball_radius": -1}}, "robot 'rollers': ball_radius must be a number from 0.02"),
        ({"build": 3}, "build=3 must be a mapping of options by name"),
    ],
)
def test_impossible_robots_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        WorldConfig(**options)


def test_a_robot_without_arms_gets_cameras_of_its_size() -> None:
    small = WorldConfig(build={"ball_radius": 0.07, "wheel_radius": 0.018}, observation="depth")
    assert small.rig["number"] == 3 and small.rig["reach"] == 0.15
    assert WorldConfig(build={"ball_radius": 0.07, "wheel_radius": 0.018}).rig == {}
    assert WorldConfig(robot="rollers", observation="depth").rig == {}  # it has the reference's arms


def test_four_wheels_have_four_sides_and_their_mirror_images() -> None:
    settings = default(observation="proprioception", build=FOUR)
    symmetry = settings.structure().symmetry
    assert symmetry is not None and len(symmetry) == 8
    shares = Mechanics.of(settings.world.robot_config.compile()).shares
    with pytest.raises(ValueError, match="turned by 90°, the wheels do not take each other's places"):
        robot_symmetry(settings.layout(), shares=np.array([[1, 0], [0, 1], [-1, 0], [0.1, -1.0]]))
    assert shares.shape == (4, 2)


def test_gains_of_one_robot_do_not_drive_another() -> None:
    make = find_controller("observer")
    assert make is not None
    with pytest.raises(SettingsError, match='controller "observer" has gains for the robot "reference": take "lqr"'):
        make_controller(make, 0.002, WorldConfig(build=FOUR))
    make_controller(make, 0.002, WorldConfig(robot="rollers"))  # which is the same robot


def test_a_run_with_four_wheels_is_judged_exported_and_refused_three(tmp_path: Path) -> None:
    small = ("--num-envs", 4, "--num-steps", 8, "--minibatch-size", 16, "--num-terrains", 4, "--eval-episodes", 2)
    done = call(
        "ppo_ballbot.py", "--robot.wheels", 4, "--robot.azimuth-deg", 47.5, "--no-cameras", "--total-timesteps", 320,
        "--run-name", "four", *small, folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    refused = call("ppo_ballbot.py", "--resume", "runs/four", "--robot.wheels", 3, folder=tmp_path)
    assert refused.returncode == 2 and "--robot is {'azimuth_deg': 47.5}" in refused.stderr
    judge = ("evaluate.py", "runs/four", "--episodes", 2, "--num-terrains", 2, "--horizon", 50)
    judged = call(*judge, "--compare", "lqr", folder=tmp_path)
    assert judged.returncode == 0 and "lqr" in judged.stdout
    for other in (("--robot", "rollers"), ("--robot", "reference", "--robot.wheels", "3")):
        refused = call(*judge, *other, folder=tmp_path)
        assert refused.returncode == 2 and "what is judged drives one with 4" in refused.stderr
    exported = call("export_policy.py", "runs/four", "--out", "four.onnx", folder=tmp_path)
    assert exported.returncode == 0, exported.stderr
    controller = Controller(tmp_path / "four.onnx")
    assert controller.contract["robot"] == {"name": "reference", "wheels": 4, "azimuth_deg": 47.5}
    assert controller.wheels == len(controller.contract["wheels"]) == 4


def test_a_plugin_brings_a_robot(tmp_path: Path) -> None:
    plugin = "from ballbot.envs import ROBOTS, RobotConfig\nROBOTS['{}'] = {}\n"
    (tmp_path / "good.py").write_text(plugin.format("broad", "RobotConfig(wheels=4, azimuth_deg=47.5)"))
    (tmp_path / "bad.py").write_text(plugin.format("broad", "4"))
    judge = ("evaluate.py", "lqr", "--robot", "broad", "--episodes", 2, "--num-terrains", 2, "--horizon", 50)
    assert call(*judge, "--plugin", "good.py", folder=tmp_path).returncode == 0
    refused = call(*judge, "--plugin", "bad.py", folder=tmp_path)
    assert refused.returncode == 2 and "ROBOTS['broad'], which is no RobotConfig" in refused.stderr
