"""Other robots than the reference's, in worlds, in training and on the way to a robot."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import gymnasium as gym
import numpy as np
import pytest
from inprocess import call

from ballbot import robot_files
from ballbot.controllers import find_controller, make_controller, robot_symmetry
from ballbot.deployment.runtime import Controller
from ballbot.envs import ROBOTS, BallbotVectorEnv, RobotConfig, WorldConfig
from ballbot.envs.mechanics import Mechanics
from ballbot.envs.mjcf import MJCF
from ballbot.envs.model import build_model, physics_digest
from ballbot.envs.robots import robot_of
from ballbot.errors import SettingsError
from ballbot.evaluation import run_episodes, summarize
from ballbot.options import world_config, world_options
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
    told = controller.contract["robot"]
    assert told["name"] == "reference" and told["azimuth_deg"] == 47.5 and told["body_mass"] == RobotConfig().body_mass
    assert controller.wheels == len(controller.contract["wheels"]) == 4


def test_a_plugin_brings_a_robot(tmp_path: Path) -> None:
    plugin = "from ballbot.envs import ROBOTS, RobotConfig\nROBOTS['{}'] = {}\n"
    (tmp_path / "good.py").write_text(plugin.format("broad", "RobotConfig(wheels=4, azimuth_deg=47.5)"))
    (tmp_path / "bad.py").write_text(plugin.format("broad", "4"))
    judge = ("evaluate.py", "lqr", "--robot", "broad", "--episodes", 2, "--num-terrains", 2, "--horizon", 50)
    assert call(*judge, "--plugin", "good.py", folder=tmp_path).returncode == 0
    refused = call(*judge, "--plugin", "bad.py", folder=tmp_path)
    assert refused.returncode == 2 and "ROBOTS['broad'], which is no RobotConfig" in refused.stderr


def own_mjcf(folder: Path, *changes: tuple[str, str]) -> Path:
    """A user's file: the reference's, with these changes."""
    text = (files("ballbot.assets") / "ballbot.xml").read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "own.xml"
    path.write_text(text)
    return path


def test_mjcf_of_the_reference_is_the_reference(tmp_path: Path) -> None:
    heights = np.random.default_rng(0).random((3, 65, 65)).astype(np.float32)
    renamed = own_mjcf(
        tmp_path,
        *((f'body name="{name}"', f'body name="my_{name}"') for name in ("base", "ball")),
        ('geom name="ball"', 'geom name="globe"'),
        ('geom1="ball"', 'geom1="globe"'),
        ('geom name="ground"', 'geom name="floor"'),
    )
    robot = robot_of(str(renamed), {})
    assert robot.wheels == 3 and robot.wheel_model == "capsule" and robot.cameras == 2
    one, other = (build_model(heights, tops=np.array([0.1, 0.3, 0.2]), robot=r) for r in (None, robot))
    assert physics_digest(one) == physics_digest(other)
    envs = [
        BallbotVectorEnv(2, robot=name, num_terrains=2, observation="depth") for name in (str(renamed), "reference")
    ]
    seen = [env.reset(seed=3)[0] for env in envs]
    for name, value in seen[0].items():
        np.testing.assert_array_equal(value, seen[1][name])
    for env in envs:
        env.close()


def test_mjcf_with_rollers_and_its_own_pose_drives(tmp_path: Path) -> None:
    spec = RobotConfig(**FOUR, wheel_model="rollers", ball_radius=0.11).spec()
    spec.delete(spec.keys[0])
    spec.compile()
    (tmp_path / "own.xml").write_text(spec.to_xml())
    envs = BallbotVectorEnv(6, robot=str(tmp_path / "own.xml"), num_terrains=6, max_episode_steps=500)
    make = find_controller("lqr:0.3")
    assert make is not None
    found = summarize(run_episodes(envs, make_controller(make, envs.dt, envs.config), 6, 0))
    assert found["success_rate"] == 1 and envs.config.robot_config.wheel_model == "rollers"
    envs.close()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("base_free", "free", "it has no free joint 'base_free', of body or ball: did you mean"),
        ('joint name="wheel_2" class', 'joint name="wheel_9" class', "it has 2 hinges wheel_0, wheel_1"),
        ('gear="1"', 'gear="5"', "its motors must be of one kind.* motor_0 has gear 5"),
        ('joint="wheel_2"', 'joint="wheel_1"', "its motors turn wheel_0, wheel_1, wheel_1, expected"),
        ('size="0.09"', 'size="90"', "its ball has a radius of 90, expected 0.02 to 0.5 m: is it in metres?"),
        ('density="400"', 'density="400000"', "it weighs 3200.*is it in kilograms?"),
        ('friction="0.001 1.0"', 'friction="1 1"', "wheel_0 is of no known kind: give it rollers"),
        ("<mujoco", "<mujo", "MuJoCo cannot read it .*MISMATCHED"),
        ('type="cylinder" size="0.11 0.14"', 'type="mesh" mesh="m"', "MuJoCo cannot compile it .*mesh 'm' not found"),
        ("<asset>", '<asset><mesh name="m" file="m.stl"/>', "MuJoCo cannot compile it .*m.stl"),
        (
            'name="ground" type="plane" size="0 0 0.05"',
            'name="floor" type="sphere" size="1"',
            "its world has 0 planes",
        ),
        ("<asset>", '<asset><hfield name="h" nrow="4" ncol="4" size="1 1 1 1"/>', "it has height fields"),
        ('<motor gear="1"', '<motor forcerange="-1 1" gear="1"', "its motors must be of one kind.* has forcerange"),
        ('<motor name="motor_1"', '<motor user="3" name="motor_1"', "its motors' no-load speeds are .0.0, 3.0."),
        ('<joint name="wheel_1"', '<joint damping="2" name="wheel_1"', "its wheels have different damping"),
        ('<joint name="wheel_1"', '<joint range="-90 90" name="wheel_1"', "its wheels have limits"),
        ('<body name="ball"', '<geom size="1"/><body name="ball"', "its world holds more than the ground .one without"),
        (
            "0 0 0.216790 1 0 0 0",
            "0 0 0.216790 0 0 0 1",
            "its base is turned, quaternion .0.0, 0.0, 0.0, 1.0.: draw it",
        ),
        (
            'damping="0.8"',
            'damping="0.8" frictionloss="12"',
            "wheel_0 has frictionloss 12 N m, which takes all of its motor's 10 N m",
        ),
        ('damping="0.8"', 'damping="-0.8"', "wheel_0 has damping -0.8, expected a number from 0"),
        ('armature="0.005"', 'armature="nan"', "wheel_0 has armature nan, expected a number from 0"),
        ('damping="0.8"', 'damping="0.8" stiffness="1"', "wheel_0 has .* and stiffness .1.0,.*, expected .* no spring"),
        ("<keyframe>", '<equality><weld body1="base" body2="ball"/></equality><keyframe>', "it has equality const"),
        ('<body name="wheel_1"', '<body gravcomp="1" name="wheel_1"', "gravity does not pull at its body wheel_1"),
        (
            '<body name="ball"',
            '<body name="more"><freejoint/><geom size="1"/></body><body name="ball"',
            "its world holds more bodies than those of base_free and ball_free .more.",
        ),
        ('integrator="Euler"', 'density="1000"', "its option density is 1000, and the world's is 0: take it out"),
        ('integrator="Euler"', 'iterations="1"', "its option iterations is 1, and the world's is 100"),
        ('<body name="ball"', '<camera name="cam_2"/><body name="ball"', "its camera cam_2 is not on its body"),
        ("0 0 0.216790 1 0 0 0", "0.05 0 0.216790 1 0 0 0", "its base is at x, y = .0.05, 0.0.: draw it above"),
        ("0 0 0.216790 1 0 0 0", "0 0 0.4 1 0 0 0", "wheel_0 has 0 contacts with the ball"),
        (
            "0 0 0.216790 1 0 0 0",
            "0 0 0.2128 1 0 0 0",
            "in its keyframe 'settled' base and ball rise by .* take the key",
        ),
        (
            '<freejoint name="base_free"/>',
            '<joint type="free" name="base_free" damping="3"/>',
            "its joint base_free has",
        ),
        ('<freejoint name="ball_free"/>', '<joint type="free" name="ball_free" stiffness="3"/>', "its joint ball_free"),
    ],
)
def test_mjcf_without_what_is_needed_is_refused_by_name(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = own_mjcf(tmp_path, (old, new))
    with pytest.raises(SettingsError, match=f"robot '{path}': {words}"):
        WorldConfig(robot=str(path))


def test_springs_of_rollers_are_refused_and_rollers_not_listed(tmp_path: Path) -> None:
    spec = ROBOTS["mini"].spec()
    spec.compile()
    text = spec.to_xml()
    for old, new, words in (
        ('joint name="wheel_0_roller_0_0"', 'stiffness="1"', "its joint wheel_0_roller_0_0 has stiffness 1"),
        (
            '"ball_free"',
            '"bale_free"',
            "did you mean 'bale_free' or .* known are bale_free, base_free, wheel_0, wheel_1, w",
        ),
    ):
        changed = text.replace(old, f"{old} {new}" if "=" in new else new)
        assert changed != text
        (tmp_path / "own.xml").write_text(changed)
        with pytest.raises(SettingsError, match=words):
            WorldConfig(robot=str(tmp_path / "own.xml"))


def test_a_copy_without_its_meshes_says_so(tmp_path: Path) -> None:
    (tmp_path / "robot.xml").write_text(
        own_mjcf(tmp_path, ("<asset>", '<asset><mesh name="m" file="m.stl"/>')).read_text()
    )
    recorded = {"robot": str(tmp_path / "gone.xml"), "robot_digest": "0"}
    with pytest.raises(SettingsError, match=r"its copy cannot .*m\.stl.*meshes and what else it includes beside"):
        robot_files.as_recorded(recorded, "a policy", tmp_path)
    (tmp_path / "robot.xml").write_text(own_mjcf(tmp_path).read_text())
    with pytest.raises(SettingsError, match=r"cannot stand in for it .it is another one.: put the file"):
        robot_files.as_recorded(recorded, "a policy", tmp_path)


def test_files_of_robots_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = own_mjcf(tmp_path)
    with pytest.raises(SettingsError, match="has its numbers in its file: change ball_mass there"):
        WorldConfig(robot=str(path), build={"ball_mass": 1.0})
    with pytest.raises(SettingsError, match=r"gone.xml' cannot be read: No such file"):
        WorldConfig(robot=str(tmp_path / "gone.xml"))
    (tmp_path / "a.json").write_text('{"ball_radios": 1}')
    (tmp_path / "b.json").write_text("[1]")
    (tmp_path / "c.json").write_text("{")
    for name, words in (("a", "no number 'ball_radios'"), ("b", "must be numbers by name"), ("c", "is no JSON")):
        with pytest.raises(SettingsError, match=words):
            WorldConfig(robot=str(tmp_path / f"{name}.json"))
    (tmp_path / "d.json").write_text('{"wheels": 4, "body_inertia": [0.03, 0.03, 0.02]}')
    config = WorldConfig(robot=str(tmp_path / "d.json"), build={"wheel_model": "rollers"})
    numbers = {"wheels": 4, "body_inertia": (0.03, 0.03, 0.02), "wheel_model": "rollers"}
    assert config == WorldConfig(build=numbers)  # which needs the file no more
    assert WorldConfig.from_metadata(json.loads(json.dumps(config.metadata()))) == config


def test_a_run_keeps_its_robot(tmp_path: Path) -> None:
    path = own_mjcf(tmp_path, ('density="55"', 'density="60"'))
    small = ("--num-envs", 4, "--num-steps", 8, "--minibatch-size", 16, "--num-terrains", 4, "--eval-episodes", 2)
    done = call(
        "ppo_ballbot.py", "--robot", path, "--no-cameras", "--total-timesteps", 320, "--run-name", "own", *small,
        folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    judge = ("evaluate.py", "runs/own", "--episodes", 2, "--num-terrains", 2, "--horizon", 50)
    assert call(*judge, folder=tmp_path).returncode == 0
    own_mjcf(tmp_path, ('density="55"', 'density="70"'))
    assert call(*judge, folder=tmp_path).returncode == 0  # by the copy
    resume = ("ppo_ballbot.py", "--resume", "runs/own", "--total-timesteps")
    assert call(*resume, 640, folder=tmp_path).returncode == 0
    path.unlink()
    resumed = call(*resume, 960, folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert call(*judge, folder=tmp_path).returncode == 0
    exported = call("export_policy.py", "runs/own", "--out", "own.onnx", folder=tmp_path)
    assert exported.returncode == 0, exported.stderr
    contract = Controller(tmp_path / "own.onnx").contract
    assert str(tmp_path) not in json.dumps(contract) and len(contract["robot"]["digest"]) == 48
    told = {name: contract["robot"][name] for name in ("name", "ball_mass", "torque_limit", "wheels")}
    assert told == {"name": "own.xml", "ball_mass": pytest.approx(0.183, abs=1e-3), "torque_limit": 10.0, "wheels": 3}
    (tmp_path / "runs" / "own" / "robot.xml").unlink()
    assert "there is no copy" in call(*resume, 1280, folder=tmp_path).stderr
    refused = call(*judge, folder=tmp_path)
    assert refused.returncode == 2 and "was changed since or is gone, and there is no copy" in refused.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("ppo_ballbot.py", "--no-cameras", "--run-name", "weak", "--robot.torque-limit", 0.1),
        ("evaluate.py", "lqr", "--robot.torque-limit", 0.1),
        ("design_robot.py", "weak.json"),
    ],
)
def test_programs_refuse_who_cannot_stand(tmp_path: Path, command: tuple[Any, ...]) -> None:
    (tmp_path / "weak.json").write_text('{"torque_limit": 0.1}')
    refused = call(*command, folder=tmp_path)
    assert refused.returncode == 2 and "it cannot stand" in refused.stderr and "use 0.55 N m or more" in refused.stderr
    assert ("robot 'weak.json': " in refused.stderr) == (command[-1] == "weak.json") and not (
        tmp_path / "runs"
    ).exists()


def test_numbers_are_changed_by_options_but_of_files(tmp_path: Path) -> None:
    judge = ("evaluate.py", "lqr", "--robot.ball-radius", 0.1, "--episodes", 2, "--num-terrains", 2, "--horizon", 50)
    for number, named in enumerate(((), ("--robot", "reference"))):
        judged = call(*judge, *named, "--json", f"{number}.json", folder=tmp_path)
        assert judged.returncode == 0, judged.stderr
    one, other = (json.loads((tmp_path / f"{number}.json").read_text()) for number in range(2))
    assert one["tilt_mean_deg_mean"] == other["tilt_mean_deg_mean"]
    own_mjcf(tmp_path)
    for program in (judge, ("ppo_ballbot.py", "--no-cameras", "--robot.ball-radius", 0.1)):
        refused = call(*program, "--robot", "own.xml", folder=tmp_path)
        assert (
            refused.returncode == 2
            and "robot 'own.xml' has its numbers in its file: change them there" in refused.stderr
        )


def test_what_is_registered_as_a_robot_must_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROBOTS, "mine", "x")
    with pytest.raises(SettingsError, match=r"ROBOTS\['mine'\] is 'x', which is no RobotConfig: make it one"):
        WorldConfig(robot="mine")


def test_what_is_read_from_a_file_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "heavy.json").write_text('{"body_mass": 21.0}')
    with pytest.raises(SettingsError, match=r"robot '.*heavy.json': the ball sinks 2\d mm"):
        BallbotVectorEnv(1, robot=str(tmp_path / "heavy.json"), terrain="flat")


@pytest.mark.parametrize("name", ["cmu", "asroballet", "reference"])
def test_numbers_of_a_file_are_those_it_was_made_of(tmp_path: Path, name: str) -> None:
    spec, made = ROBOTS[name].spec(), ROBOTS[name]
    spec.compile()
    (tmp_path / "own.xml").write_text(spec.to_xml())
    robot = robot_of(str(tmp_path / "own.xml"), {})
    assert isinstance(robot, MJCF)
    for key, value in robot_files.numbers(robot).items():
        sunk = 0.004 if key.endswith("height") else 0.0  # as contacts give way
        wanted = getattr(made, key)
        assert value == (wanted if isinstance(wanted, str) or wanted is None else pytest.approx(wanted, 2e-3, sunk)), (
            key
        )


def test_names_that_are_no_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.xml")
    (tmp_path / "folder.xml").mkdir()
    own = own_mjcf(tmp_path)
    for names in ((), ("a.xml", "b.xml")):
        with ZipFile(tmp_path / f"{len(names)}.zip", "w") as archive:
            archive.writestr("read.me", "")
            for name in names:
                archive.write(own, name)
    (tmp_path / "twice.json").write_text('{"ball_radius": 0.1, "ball_mass": 0.2, "ball_radius": 0.2}')
    for name, words in (
        ("pipe.xml", "is no ordinary file"),
        ("folder.xml", "is no ordinary file"),
        (f"{'x' * 5000}.xml", "cannot be read: File name too long"),
        (f"{'x' * 5000}.json", "cannot be read: File name too long"),
        ("null\0.xml", "is no name of a file"),
        ("0.zip", "it holds 0 files of MJCF"),
        ("2.zip", "it holds 2 files of MJCF .a.xml, b.xml., expected one"),
        ("twice.json", "'ball_radius' is there twice"),
    ):
        with pytest.raises(SettingsError, match=words) as refused:
            WorldConfig(robot=str(tmp_path / name))
        assert len(str(refused.value)) < 300


def test_what_a_robot_is_not_is_recorded_too() -> None:
    config = WorldConfig(robot="asroballet", build={"no_load_speed": None})
    assert config.robot_config != ROBOTS["asroballet"]
    assert WorldConfig.from_metadata(config.metadata()) == config
    options = world_options(WorldConfig(robot="asroballet"))
    kept = world_config(replace(options, build=replace(options.build, no_load_speed=None)), WorldConfig())
    assert kept.build == {"no_load_speed": None}


def test_torque_is_told_as_the_motors_gave_it() -> None:
    envs = BallbotVectorEnv(1, robot="asroballet", terrain="flat", rewards={"torque": 1.0})
    envs.reset(seed=0)
    sims = envs.simulations
    sims.qvel[0, list(sims.addresses.wheel_qvel)] = -26.0  # of 30 at most, the way that a positive action turns them
    envs.world.robots = sims.robot_state()
    _, reward, *_ = envs.step(np.ones((1, 3), np.float32))
    given = 4.0 * (1 - 26 / 30)
    np.testing.assert_allclose(sims.torques, -given, rtol=1e-6)
    np.testing.assert_allclose(reward, -0.01 * 3 * given**2, rtol=1e-6)
    envs.close()


def test_another_file_of_the_same_name_is_another_robot(tmp_path: Path) -> None:
    path = own_mjcf(tmp_path)
    first = robot_of(str(path), {})
    assert WorldConfig(robot=first) == WorldConfig(robot=path) == WorldConfig(robot=str(path))  # type: ignore[arg-type]
    then = robot_files.digest(WorldConfig(robot=str(path)))
    own_mjcf(tmp_path, ('fovy="90" resolution="64 64"', 'fovy="80" resolution="64 64"'))
    second = robot_of(str(path), {})
    assert second != first and robot_files.digest(WorldConfig(robot=str(path))) != then
    own_mjcf(tmp_path, (' resolution="64 64"', ""))
    assert robot_of(str(path), {}).compile().cam_resolution.tolist()[-1] == [64, 64]


def test_a_robot_drawn_above_the_ground_comes_to_rest(tmp_path: Path) -> None:
    text = (files("ballbot.assets") / "ballbot.xml").read_text(encoding="utf-8")
    before, _, after = text.partition("<keyframe>")
    (tmp_path / "own.xml").write_text(before + after.partition("</keyframe>")[2])
    pose = robot_of(str(tmp_path / "own.xml"), {}).compile().key("settled").qpos
    np.testing.assert_allclose(pose[[2, 12]], [0.21679, 0.085303], atol=1e-4)


def test_policies_go_from_robot_to_robot_with_as_many_wheels(tmp_path: Path) -> None:
    small = ("--num-envs", 4, "--num-steps", 8, "--minibatch-size", 16, "--num-terrains", 4, "--eval-episodes", 2)
    new = ("ppo_ballbot.py", "--no-cameras", "--total-timesteps", 320, *small)
    assert call(*new, "--run-name", "three", folder=tmp_path).returncode == 0
    on = call(*new, "--run-name", "mini", "--init-from", "runs/three", "--robot", "mini", folder=tmp_path)
    assert on.returncode == 2 and "prior (then none, now one)" in on.stderr  # other robots begin with computed gains
    alone = ("--init-from", "runs/three", "--robot", "mini", "--prior-speed", "None")
    on = call(*new, "--run-name", "mini", *alone, folder=tmp_path)
    assert on.returncode == 0, on.stderr
    four = ("--robot.wheels", 4, "--robot.azimuth-deg", 47.5)
    taught = ("--teacher", "runs/three", "--imitation-timesteps", 320)
    refused = call(*new, "--run-name", "four", *four, *taught, folder=tmp_path)
    assert refused.returncode == 2 and "drives a robot with 3 wheels, and its student's has 4" in refused.stderr
    judge = ("evaluate.py", "runs/mini", "--robot", "mini", "--episodes", 2, "--num-terrains", 2, "--horizon", 50)
    assert call(*judge, folder=tmp_path).returncode == 0
