# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""An exported policy is the same policy, and its runtime builds the same observations and keeps to what is safe."""

import ast
import hashlib
import importlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from inprocess import call
from policies import save_policy

from ballbot import encoders
from ballbot.controllers import PIDController, feedback_prior, robot_symmetry
from ballbot.deployment.export import export_policy
from ballbot.encoders import Architecture, Autoencoder, FrozenEncoder, load_encoder
from ballbot.envs import FIELDS, BallbotVectorEnv, Field
from ballbot.envs.model import build_model
from ballbot.envs.observations import layout_of
from ballbot.evaluation import env_options, run_episodes
from ballbot.ppo import Structure, load_policy

pytest.importorskip("onnxscript")
onnx: Any = pytest.importorskip("onnx")
runtime = pytest.importorskip("ballbot.deployment.runtime")

ROOT = Path(__file__).parents[2]
WORLD: dict[str, Any] = {"terrain_split": "eval", "num_terrains": 2, "num_threads": 1, "max_episode_steps": 150}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Policies that have learned nothing, and their graphs: name -> (policy, options, file), made when asked for."""
    folder = tmp_path_factory.mktemp("exported")
    seeing: dict[str, Any] = {"observation": "encoded", "encoder": load_encoder().content_hash, "terrain": "perlin"}
    cases: list[tuple[str, int, dict[str, Any]]] = [
        ("body", 17, {}),
        ("world", 15, {"frame": "world", "terrain": "perlin"}),
        ("seeing", 17 + 41, seeing),
        ("seeing at 31 Hz", 17 + 41, seeing | {"camera_interval": 16}),
        ("with a prior", 17, {}),
        ("velocity", 18, {"command": "velocity", "motion.resample_time": 3.1, "motion.max_yaw_rate": 0.5}),
        ("station", 20, {"command": "velocity", "motion.station_keeping": True, "motion.resample_time": 0.0}),
        ("velocity in the world", 19, {"command": "velocity", "frame": "world", "extra_fields": ["yaw_rate"]}),
        ("point", 17, {"command": "point"}),
        ("path", 19, {"command": "path", "motion.spacing": 0.05, "motion.radius": 0.06}),
        ("seeing late", 17 + 41, seeing | {"sensing.camera_delay_ms": [20, 40], "sensing.camera_tilt": 1.0}),
        ("losing images", 17 + 41, seeing | {"sensing.camera_lost": 0.1, "camera_interval": 16}),
        ("seeing point", 17 + 41, seeing | {"command": "point", "camera_interval": 16}),
        ("remembering", 17 + 18, {"history": [0, 1, 30]}),
        (
            "remembering what it was told",
            20 + 10,
            {
                "command": "velocity",
                "motion.station_keeping": True,
                "history": [0, 7, 20],
                "history_fields": ["velocity_command", "station"],
                "motion.resample_time": 3.1,
            },
        ),
        ("seeing changes", 17 + 9 + 41, seeing | {"history": [0, 10], "history_changes": True}),
        ("seeing and remembering", 17 + 9 + 41, seeing | {"history": [0, 10]}),
        ("default", 17 + 41, seeing),
    ]
    scale, value_inputs = torch.ones(58), torch.ones(58, dtype=torch.bool)
    scale[6:8], scale[17:], value_inputs[14:17] = 4.0, 0.1, False
    layout = layout_of("body", ["goal"], (), (20, 20))
    symmetry = robot_symmetry(layout)  # of which the mean over three sides is smaller
    structure = Structure(input_scale=scale, symmetry=symmetry, value_inputs=value_inputs)
    ours = {"structure": structure, "gain": 30.0}
    wanted: dict[str, Any] = {name: of for name, *of in cases}

    class Exported(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            size, metadata = wanted[name]
            prior = feedback_prior(layout_of("body", ["goal"], ()), 0.3) if name == "with a prior" else None
            build = ours if name == "default" else {"structure": Structure(prior)}
            policy = load_policy(save_policy(folder / f"{name}.pt", size, **build, **metadata))
            options = env_options(policy)
            export_policy(policy, folder / f"{name}.onnx", options.get("encoder"))
            self[name] = (policy, options, folder / f"{name}.onnx")
            return self[name]

    return Exported()


COMMANDED = ["velocity", "station", "velocity in the world", "point", "path", "seeing point"]
REMEMBERING = ["remembering", "seeing changes", "remembering what it was told", "seeing and remembering"]


@pytest.mark.parametrize(
    "name", ["body", "world", "seeing", "seeing at 31 Hz", "with a prior", "default", "velocity", "path", "remembering"]
)
def test_a_graph_acts_as_its_policy(exported, name):
    policy, options, path = exported[name]
    graph = runtime.Controller(path).control
    envs = BallbotVectorEnv(4, **options, **WORLD)
    obs, _ = envs.reset(seed=0)
    for _ in range(60):
        actions = policy.predict(obs)
        np.testing.assert_allclose(graph.run(None, {"observation": obs})[0], actions, atol=1e-5)
        obs, *_ = envs.step(actions)
    assert 0.02 < np.abs(actions).mean() < 0.98  # not all at the limits, where any policy is like another
    assert graph.run(None, {"observation": obs[:1]})[0].shape == (1, 3)
    theirs = run_episodes(
        BallbotVectorEnv(4, **options, **WORLD), lambda o, _: graph.run(None, {"observation": o})[0], 4, 0
    )
    ours = run_episodes(BallbotVectorEnv(4, **options, **WORLD), lambda o, _: policy.predict(o), 4, 0)
    # what a machine rounds in each action grows until the robot falls
    np.testing.assert_allclose(theirs.returns, ours.returns, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def remembering(tmp_path_factory):
    """A policy that remembers, from every side of the robot, and its file."""
    folder = tmp_path_factory.mktemp("remembering")
    structure = Structure(symmetry=robot_symmetry(layout_of("body", ["goal"], ())))
    settings = {"memory": "gru", "memory_size": 8}
    policy = load_policy(save_policy(folder / "p.pt", gain=40.0, structure=structure, settings=settings))
    export_policy(policy, folder / "p.onnx")
    return policy, folder / "p.onnx"


def test_a_graph_remembers_as_its_policy(remembering):
    policy, path = remembering
    controller = runtime.Controller(path)
    memory = controller.contract["memory"]
    assert memory["shape"] == ["batch", 3, 8] and memory["at_start_of_episode"] == 0.0
    assert [x.name for x in controller.control.get_inputs()] == ["observation", memory["input"]]
    assert [x.name for x in controller.control.get_outputs()] == ["action", memory["output"]]
    envs = BallbotVectorEnv(4, **env_options(policy), **WORLD | {"max_episode_steps": 40})
    obs, _ = envs.reset(seed=0)
    began, kept, new = np.ones(4, bool), np.zeros((4, 3, 8), np.float32), []
    for _ in range(100):  # over the ends of episodes
        kept[began] = 0.0
        theirs, kept = controller.decide(obs, kept)
        actions = policy.predict(obs, began=began)
        np.testing.assert_allclose(theirs, actions, atol=1e-5)
        new.append(np.abs(controller.decide(obs)[0] - actions).max())
        obs, _, terminated, truncated, _ = envs.step(actions)
        began = terminated | truncated
    assert max(new) > 0.01  # what it remembers counts


def test_a_graph_takes_what_the_policy_sees_and_not_what_its_value_function_saw(tmp_path):
    policy = load_policy(save_policy(tmp_path / "p.pt", privileged=5))
    export_policy(policy, tmp_path / "p.onnx")
    controller = runtime.Controller(tmp_path / "p.onnx")
    assert controller.control.get_inputs()[0].shape[1:] == [17] == list(policy.observation_shape)
    envs = BallbotVectorEnv(4, **env_options(policy), **WORLD)
    obs, _ = envs.reset(seed=0)
    for _ in range(20):
        actions = policy.predict(obs)
        np.testing.assert_array_equal(policy.predict({"policy": obs, "privileged": np.ones((4, 5))}), actions)
        np.testing.assert_allclose(controller.decide(obs)[0], actions, atol=1e-5)
        obs, *_ = envs.step(actions)
    assert np.abs(actions).mean() > 0.01


def test_the_controller_keeps_the_memory_until_it_is_reset(remembering):
    policy, path = remembering
    controller = runtime.Controller(path)
    first = [controller.act(upright()) for _ in range(3)]
    assert np.abs(first[2] - first[0]).max() > 1e-3
    assert not controller.act(upright(velocity=None)).any() or controller.status == "sensors held"
    controller.reset()
    np.testing.assert_array_equal([controller.act(upright()) for _ in range(3)], first)
    policy.reset()
    controller.reset()
    for torques in first:
        expected = policy.predict(controller.observe(upright()))
        controller.act(upright())
        np.testing.assert_allclose(torques, -10 * expected.astype(float), atol=1e-3)


@pytest.mark.parametrize("name", ["body", "world", "seeing", "seeing at 31 Hz", *COMMANDED, *REMEMBERING])
def test_the_runtime_builds_the_environments_observation(exported, name):
    policy, options, path = exported[name]
    options = {k: v for k, v in options.items() if k != "encoder"}
    sees = options["observation"] == "encoded"
    encoded = BallbotVectorEnv(1, **options, **WORLD)
    envs = BallbotVectorEnv(1, **(options | {"observation": "depth"} if sees else options), **WORLD)
    obs, _ = envs.reset(seed=3)
    expected, _ = encoded.reset(seed=3)
    controller = runtime.Controller(path)
    for step in range(80):
        robot = envs.simulations.robot_state()
        sensors = runtime.Sensors(
            robot.quaternion[:, 0] * (-1 if step % 2 else 1),  # the same orientation
            robot.gyro[:, 0], robot.velocity[:, 0], robot.wheel_speeds[:, 0],
            envs.goal[0] if controller.kind == "goal" else None, envs.command[0], robot.position[:2, 0],
        )  # fmt: skip
        if sees and obs["image_age"][0, 0] == 0:
            controller.see(obs["depth"][0])
        np.testing.assert_allclose(controller.observe(sensors), expected[0], atol=2e-6)
        torques = controller.act(sensors)
        assert controller.status == "ok"
        np.testing.assert_allclose(torques, -10 * policy.predict(expected[0]).astype(float), atol=1e-3)
        actions = (torques / -10)[None]
        if step == 40:
            another = envs.world.told.command.draw(np.random.default_rng(2), np.ones(2), np.array([1.0, 0.0]))
            for both in (encoded, envs):
                both.set_command(another)
        obs, *_ = envs.step(actions)
        expected, *_ = encoded.step(actions)


def save_encoder(path):
    """An encoder that has learned nothing."""
    torch.manual_seed(0)
    encoder = FrozenEncoder(Autoencoder(Architecture()))
    encoders.save_encoder(path, encoder)
    return encoder


def upright(**changes):
    values = {
        "orientation": np.array([1.0, 0, 0, 0]),
        "angular_velocity": np.array([0.1, 0.2, 0.3]),
        "velocity": np.array([0.1, 0, 0]),
        "wheel_speeds": np.ones(3),
        "goal": np.array([0.0, 1.0]),
    }
    return runtime.Sensors(**(values | changes))


def test_what_cannot_be_read_as_numbers_counts_as_lost(exported):
    controller = runtime.Controller(exported["body"][2])
    huge, learning = [10**400, 0, 0], torch.ones(3, requires_grad=True)
    for wrong in (huge, learning, np.ma.masked_all(3), np.ma.array(np.ones(3), mask=[False, True, False])):
        controller.reset()
        assert not controller.act(upright(wheel_speeds=wrong)).any() and controller.status == "sensors lost", wrong
    controller.reset()
    assert controller.act(upright(wheel_speeds=np.ma.array(np.ones(3)))).any() and controller.status == "ok"


def test_missing_and_impossible_sensors_are_held_briefly_and_then_torques_are_zero(exported):
    controller = runtime.Controller(exported["body"][2])
    broken = (
        upright(angular_velocity=np.full(3, np.nan)),
        upright(wheel_speeds=np.zeros(2)),
        upright(velocity=None),
        upright(orientation=np.zeros(4)),
        upright(velocity=np.array([np.inf, 0, 0])),
    )
    for wrong in (
        {"velocity": np.array([np.inf, 0, 0])},
        {"velocity": np.array([1e3, 0, 0])},
        {"velocity": [None] * 3},
        {"velocity": ["a", "b", "c"]},
        {"velocity": [[1], [1, 2], 3]},
        {"goal": np.array([1, None], object)},
        {"goal": np.zeros(2)},
    ):
        controller.reset()
        assert not controller.act(upright(**wrong)).any() and controller.status == "sensors lost", wrong
    controller.reset()
    assert not controller.act(broken[0]).any() and controller.status == "sensors lost"
    controller.reset()
    assert controller.act(upright()).any() and controller.status == "ok"
    for sensors in broken:
        assert controller.act(sensors).any() and controller.status == "sensors held"
    assert not controller.act(broken[0]).any() and controller.status == "sensors lost"
    assert controller.act(upright()).any() and controller.status == "ok"
    for _ in range(51):  # more than 0.1 s: who knows where the robot is
        controller.act(broken[0])
    assert not controller.act(upright()).any() and controller.status == "sensors lost"
    controller.reset()
    assert controller.act(upright()).any() and controller.status == "ok"
    tilted = np.array([np.cos(np.radians(21) / 2), np.sin(np.radians(21) / 2), 0, 0])
    assert not controller.act(upright(orientation=tilted)).any() and controller.status == "fallen"
    assert not controller.act(upright()).any() and controller.status == "fallen"  # picked up, but not switched on
    controller.reset()
    tilted = np.array([np.cos(np.radians(19) / 2), 0, np.sin(np.radians(19) / 2), 0])
    assert controller.act(upright(orientation=tilted)).any() and controller.status == "ok"


def test_a_fall_is_seen_while_other_sensors_are_missing(exported):
    controller = runtime.Controller(exported["body"][2])
    controller.act(upright())
    lying = upright(orientation=np.array([np.sqrt(0.5), np.sqrt(0.5), 0, 0]), wheel_speeds=None)
    assert not controller.act(lying).any() and controller.status == "fallen"
    assert not controller.act(upright()).any() and controller.status == "fallen"


def test_policies_of_one_goal_take_any_by_turning_the_world(exported):
    """A robot, its velocity and its goal turned together about the vertical get the same torques."""
    controller = runtime.Controller(exported["world"][2])
    lean = upright(orientation=np.array([np.cos(0.05), np.sin(0.05), 0, 0]), velocity=np.array([0.1, 0.2, 0.0]))
    expected = controller.observe(lean)
    for turn in (0.3, 2.0, -3.0):
        c, s, a, b = np.cos(turn), np.sin(turn), np.cos(turn / 2), np.sin(turn / 2)
        turned = upright(
            orientation=np.array([a * np.cos(0.05), a * np.sin(0.05), b * np.sin(0.05), b * np.cos(0.05)]),
            velocity=np.array([0.1 * c - 0.2 * s, 0.1 * s + 0.2 * c, 0.0]),
            goal=np.array([-s, c]),
        )
        np.testing.assert_allclose(controller.observe(turned), expected, atol=1e-6)
        assert np.abs(controller.observe(upright(goal=np.array([-s, c]))) - controller.observe(upright())).max() > 0.1


def test_the_contract_and_the_docs_say_where_wheels_and_cameras_are(exported):
    model = build_model()
    data = mujoco.MjData(model)
    data.qpos[:7] = (
        1.0,
        2.0,
        3.0,
        np.sqrt(0.5),
        0,
        0,
        np.sqrt(0.5),
    )  # somewhere else, turned: geometry is the base's own
    mujoco.mj_forward(model, data)
    base = data.body("base")
    rotation = base.xmat.reshape(3, 3)
    contract = runtime.Controller(exported["seeing"][2]).contract
    page = (ROOT / "docs" / "deployment.md").read_text()
    for i, wheel in enumerate(contract["wheels"]):
        np.testing.assert_allclose(wheel["center"], rotation.T @ (data.geom(f"wheel_{i}").xpos - base.xpos), atol=1e-5)
        np.testing.assert_allclose(rotation @ np.array(wheel["axle"]), data.joint(f"wheel_{i}").xaxis, atol=1e-5)
        assert f"| wheel {i} | {shown(wheel['center'])} | {shown(wheel['axle'])} |" in page
    for i, camera in enumerate(contract["cameras"]):
        _right, up, back = (rotation.T @ data.camera(f"cam_{i}").xmat.reshape(3, 3)).T
        np.testing.assert_allclose(camera["center"], rotation.T @ (data.camera(f"cam_{i}").xpos - base.xpos), atol=1e-5)
        np.testing.assert_allclose([camera["optical_axis"], camera["up"]], [-back, up], atol=1e-5)
        assert camera.pop("fov_deg") == 90.0
        assert f"| camera {i} | {' | '.join(map(shown, camera.values()))} |" in page


def shown(vector):
    return "(" + ", ".join(f"{x:.3f}" for x in vector) + ")"


@pytest.mark.parametrize("wheel", range(3))
def test_a_positive_torque_speeds_a_wheel_up_about_its_axle(exported, wheel):
    """The sign that firmware must know: of the torque against the measured speed, and of both against the axle."""
    envs = BallbotVectorEnv(1, terrain="flat", num_threads=1)
    envs.reset(seed=0)
    sims = envs.simulations
    before = sims.robot_state().wheel_speeds[wheel, 0]
    rows = [sims.model.body(f"wheel_{wheel}").id]
    data = mujoco.MjData(sims.model)

    def turned():
        data.qpos[:] = sims.qpos[0]
        mujoco.mj_kinematics(sims.model, data)
        base = data.body("base").xmat.reshape(3, 3)
        return base.T @ data.xmat[rows[0]].reshape(3, 3)

    start = turned()
    torques = np.zeros((1, 3))
    torques[0, wheel] = 5.0
    for _ in range(3):
        sims.step(torques)
    assert sims.robot_state().wheel_speeds[wheel, 0] > before + 0.1
    change = turned() @ start.T
    axis = np.array([change[2, 1] - change[1, 2], change[0, 2] - change[2, 0], change[1, 0] - change[0, 1]])
    axle = runtime.Controller(exported["body"][2]).contract["wheels"][wheel]["axle"]
    np.testing.assert_allclose(axis / np.linalg.norm(axis), axle, atol=1e-3)


def test_a_robot_told_to_stand_is_told_the_way_back_as_the_environment_tells_it(exported):
    _, options, path = exported["station"]
    envs = BallbotVectorEnv(1, **options, initial_speed=0.1, num_threads=1)
    obs, _ = envs.reset(seed=0, options={"command": [0.0, 0.0, 0.0]})
    controller, actor, began = runtime.Controller(path), PIDController(envs.dt), np.ones(1, bool)
    ways = []
    for _ in range(1200):
        robot = envs.simulations.robot_state()
        controller.act(
            runtime.Sensors(
                robot.quaternion[:, 0], robot.gyro[:, 0], robot.velocity[:, 0], robot.wheel_speeds[:, 0],
                command=np.zeros(3), position=robot.position[:2, 0],
            )
        )  # fmt: skip
        ways.append((obs[0, envs.layout["station"]], runtime.READERS["station"](controller._last_good, controller)))
        obs, *_ = envs.step(actor(obs, began))
        began[:] = False
    theirs, ours = np.array(ways).transpose(1, 0, 2)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert not theirs[:750].any() and np.hypot(*theirs[-1]) > 0.005


def test_graphs_of_the_first_contract_still_drive(tmp_path):
    """Written by version 0.1, from the policy of the golden run, which is exported anew beside it."""
    golden = ROOT / "tests" / "golden"
    policy = load_policy(golden / "runs" / "blind")
    export_policy(policy, tmp_path / "new.onnx")
    old, new = runtime.Controller(golden / "version_0_1.onnx"), runtime.Controller(tmp_path / "new.onnx")
    assert "command" not in old.contract and new.contract["command"]["kind"] == "goal"
    described = [{k: v for k, v in f.items() if k != "field"} for f in new.contract["input"]["fields"]]
    assert json.dumps(described) == json.dumps(old.contract["input"]["fields"])
    assert [camera.pop("fov_deg") for camera in new.contract["cameras"]] == [90.0, 90.0]
    added = {"checksum", "ballbot", "input", "command", "robot", "sensors", "velocity", "action"}
    assert {k: v for k, v in new.contract.items() if k not in added} == {
        k: v for k, v in old.contract.items() if k not in added
    }
    rng = np.random.default_rng(0)
    for _ in range(10):
        sensors = upright(velocity=rng.normal(0, 0.1, 3), wheel_speeds=rng.normal(0, 1, 3), goal=np.array([0.6, 0.8]))
        np.testing.assert_array_equal(old.act(sensors), new.act(sensors))
        assert old.status == new.status == "ok"


def test_every_field_that_comes_with_ballbot_is_read_but_what_no_sensor_tells():
    unsensed = {name for name, field in FIELDS.items() if "no sensor tells" in field.title}
    assert unsensed == {"slope", "slope_ahead", "scan", "time_left", "way", "randomized", "balance"}
    assert set(FIELDS) - set(runtime.READERS) == unsensed


def test_policies_drive_only_once_they_are_told_what_to_do(exported):
    controller = runtime.Controller(exported["point"][2])
    assert controller.contract["command"] == {
        "kind": "point", "given_as": "command", "size": 2, "units": ["m", "m"], "axes": "world, x and y", "range": None
    }  # fmt: skip
    assert controller.needs[-2:] == ["command", "position"]
    place, here = np.array([1.0, 2.0]), np.zeros(2)
    for given, status in (
        ({}, "no command"),
        ({"command": place}, "no position"),
        ({"position": here}, "no command"),
        ({"command": [1.0], "position": here}, "sensors lost"),
        ({"command": place, "position": [np.nan, 0]}, "sensors lost"),
        ({"command": place, "position": here, "velocity": None}, "sensors lost"),
        ({"command": place, "position": here}, "ok"),
        ({"command": None, "position": here}, "sensors held"),
    ):
        torques = controller.act(upright(goal=None, **given))
        assert controller.status == status and torques.any() == (status in ("ok", "sensors held")), given


def test_velocities_beyond_those_of_the_training_are_shortened(exported):
    controller = runtime.Controller(exported["velocity"][2])
    assert controller.contract["command"]["range"] == [[-0.3, 0.3], [-0.3, 0.3], [-0.5, 0.5]]
    assert "position" not in controller.needs
    told = controller.observe(upright(command=np.array([3.0, -4.0, 2.0]), position="somewhere"))[9:12]
    np.testing.assert_allclose(told, [0.18, -0.24, 0.5], atol=1e-6)


def test_a_path_may_have_fewer_points_and_begins_anew_with_another(exported):
    controller = runtime.Controller(exported["path"][2])
    points = np.array([[0.0, 0.0], [1.0, 0.0]])

    def act(points, x):
        controller.act(upright(command=points, position=np.array([x, 0.0])))
        assert controller.status == "ok"
        return controller.told.index

    assert [act(points, x) for x in (0.01, 0.02, 0.5, 0.97, 0.97)] == [0, 1, 1, 1, 1]
    assert act(points + 0.1, 0.97) == 0 and controller.told.point(1).tolist() == [1.1, 0.1]
    assert controller.act(upright(command=np.zeros((5, 2)), position=np.zeros(2))).any()
    assert controller.status == "sensors held"  # one point more than it knows


def test_fields_of_a_users_own_are_handed_in(tmp_path, monkeypatch):
    monkeypatch.setitem(FIELDS, "height", Field(1, lambda step: step.robots.position[2:], "m", "world axes", "scalar"))
    policy = load_policy(save_policy(tmp_path / "p.pt", 18, extra_fields=["height"]))
    export_policy(policy, tmp_path / "p.onnx")
    with pytest.raises(ValueError, match=r"observes 'height', which this controller cannot read: .*readers={'height'"):
        runtime.Controller(tmp_path / "p.onnx")

    @dataclass
    class Mine(runtime.Sensors):  # type: ignore[name-defined, misc]
        altimeter: float = np.nan

    controller = runtime.Controller(tmp_path / "p.onnx", readers={"height": lambda s, c: [s.altimeter]})
    sensors = Mine(**vars(upright()), altimeter=0.25)
    assert controller.observe(sensors)[-1] == 0.25
    assert controller.act(sensors).any() and controller.status == "ok"
    assert not controller.act(replace(sensors, altimeter=np.nan)).any() and controller.status == "policy failed"
    save_policy(tmp_path / "r.pt", 19, extra_fields=["height"], history=[0, 2], history_fields=["height"])
    export_policy(load_policy(tmp_path / "r.pt"), tmp_path / "r.onnx")
    with pytest.raises(ValueError, match=r"observes 'height', which this controller cannot read"):
        runtime.Controller(tmp_path / "r.onnx")
    kept = np.zeros(1)  # which whoever hands it in may use again
    remembering = runtime.Controller(tmp_path / "r.onnx", readers={"height": lambda s, c: kept})
    for height in (0.25, 0.5, np.nan, 0.75):
        kept[:] = height
        remembering.act(upright())
    assert remembering.observe(upright())[-2:].tolist() == [0.75, 0.5]  # what is no number is not kept
    wrong = runtime.Controller(tmp_path / "p.onnx", readers={"height": lambda s, c: [1.0, 2.0]})
    with pytest.raises(ValueError, match="the reader of 'height' gave 2 numbers, the policy takes 1"):
        wrong.act(sensors)


def test_the_past_goes_on_while_sensors_are_held_and_ends_with_reset(exported):
    controller = runtime.Controller(exported["remembering"][2])
    fields = controller.contract["input"]["fields"]
    assert [f["field"] for f in fields][-3:] == ["gravity@30", "gyro@30", "velocity@30"]
    assert fields[-1]["name"] == "velocity of the base, 60 ms ago"
    gyro = lambda turn: upright(angular_velocity=np.array([turn, 0.0, 0.0]))  # noqa: E731

    def past(sensors):
        observed = controller.observe(sensors)
        return observed[[3, 20, 29]].tolist()  # x of the gyroscope now, 1 and 30 steps ago

    assert past(gyro(1.0)) == [1, 1, 1]  # to look on changes nothing
    assert past(gyro(2.0)) == [2, 2, 2]
    for k in range(31):
        controller.act(gyro(float(k)))
    assert past(gyro(99.0)) == [99, 30, 1]
    for _ in range(4):
        assert controller.act(gyro(np.nan)).any() and controller.status == "sensors held"
    assert past(gyro(99.0)) == [99, 30, 5]
    for _ in range(10):
        controller.act(gyro(np.nan))
    assert controller.status == "sensors lost"
    assert past(gyro(99.0)) == [99, 30, 15]  # time passes
    controller.reset()
    assert past(gyro(3.0)) == [3, 3, 3]


PLUGIN = """
from ballbot.envs import FIELDS, Field
FIELDS["height"] = Field(1, lambda step: step.robots.position[2:], "m", "world axes", "scalar")
"""


def test_policies_of_plugins_are_exported_with_them(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    known = {"mine.py": hashlib.sha256(PLUGIN.encode()).hexdigest()}
    past: Any = {"history": [0, 30], "history_fields": ["height", "gyro"]}
    save_policy(tmp_path / "p.pt", 24, command="path", extra_fields=["height"], plugins=known, **past)
    done = run(tmp_path, "p.pt")
    assert done.returncode == 2 and "plugin mine.py, which is not loaded: add --plugin mine.py" in done.stderr
    done = run(tmp_path, "p.pt", "--observations", 100, "--plugin", "mine.py")
    assert done.returncode == 0, done.stderr
    assert "note: height is your own" in done.stdout
    driven = re.search(r"controller that drives a robot: (\S+)", done.stdout)
    assert driven is not None and 0 <= float(driven[1]) < 1e-4


@pytest.mark.parametrize("command", ["velocity", "point"])
def test_export_policy_proves_policies_of_every_command(tmp_path, command):
    save_policy(tmp_path / "p.pt", {"velocity": 18, "point": 17}[command], command=command, terrain="hills:0.2")
    done = run(tmp_path, "p.pt", "--observations", 100, "--episodes", 1)
    assert done.returncode == 0, done.stderr
    driven = re.search(r"controller that drives a robot: (\S+)", done.stdout)
    assert driven is not None and 0 <= float(driven[1]) < 1e-4


def test_what_is_held_is_a_copy_of_the_last_good_values(exported):
    controller, buffer = runtime.Controller(exported["body"][2]), np.zeros(3)
    sensors = upright(velocity=buffer)
    controller.act(sensors)
    buffer[:] = np.nan
    assert np.isfinite(controller.act(sensors)).all() and controller.status == "sensors held"
    buffer[:] = 0
    assert np.isfinite(controller.act(sensors)).all() and controller.status == "ok"


def test_numbers_that_are_not_finite_do_not_reach_the_motors(exported, monkeypatch):
    controller = runtime.Controller(exported["body"][2])

    class Broken:
        def run(self, names, inputs):
            return [np.full((1, 3), np.nan, np.float32)]

    monkeypatch.setattr(controller, "control", Broken())
    assert (controller.act(upright()) == 0).all() and controller.status == "policy failed"
    assert (controller.last_action == 0).all()


def test_images_age_while_the_robot_does_not_drive(exported):
    controller = runtime.Controller(exported["seeing"][2])
    controller.see(np.full((2, 64, 64), 0.3))
    for _ in range(60):
        controller.act(upright(velocity=None))
    assert controller.status == "sensors lost"
    controller.act(upright())
    assert controller.status == "stale image"


def test_the_age_of_images_ends_where_training_did(exported):
    controller = runtime.Controller(exported["seeing at 31 Hz"][2])
    controller.see(np.full((2, 64, 64), 0.3))
    ages = []
    for _ in range(20):
        ages.append(controller.observe(upright())[-1])
        controller.act(upright())
    np.testing.assert_allclose(ages, np.minimum(np.arange(20), 15) * 0.002, atol=1e-6)
    assert controller.contract["camera"]["period"] == pytest.approx(0.032)


def test_images_that_come_late_are_as_old_as_they_were_in_training(exported):
    controller = runtime.Controller(exported["seeing late"][2])
    assert controller.contract["sensors"] == {"camera_delay_ms": [20.0, 40.0], "camera_tilt": 1.0}
    image, ages = np.full((2, 64, 64), 0.3), []
    for step in range(20):
        if step in (0, 6):
            controller.see(image, age=0.03)
        ages.append(controller.observe(upright())[-1])
        controller.act(upright())
    np.testing.assert_allclose(ages, 0.03 + 0.002 * np.array([*range(6), *range(11), 10, 10, 10]), atol=0.0101)
    np.testing.assert_allclose(ages[:12:6], 0.03, atol=1e-6)
    assert max(ages) == pytest.approx(0.05) and controller.contract["camera"]["stale_after"] == pytest.approx(0.14)
    often = runtime.Controller(exported["losing images"][2]).contract["camera"]
    assert often["longest_age"] == often["stale_after"] == 0.1
    for age in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="since the images were taken"):
            controller.see(image, age)


def test_images_are_needed_age_and_grow_stale(exported):
    controller = runtime.Controller(exported["seeing"][2])
    assert not controller.act(upright()).any() and controller.status == "no image"
    image = np.full((2, 64, 64), 0.3)
    image[0, 0, 0], image[1, 1, 1] = np.nan, 7.0
    controller.see(image)
    clean = np.where(np.isnan(image) | (image > 1), 1.0, image)
    theirs = controller.observe(upright())
    controller.see(clean)
    np.testing.assert_array_equal(controller.observe(upright()), theirs)
    ages = []
    for _ in range(60):
        ages.append(controller.observe(upright())[-1])
        assert controller.act(upright()).any()
    np.testing.assert_allclose(ages[:8], [0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.01, 0.01], atol=1e-6)
    assert controller.status == "stale image"
    controller.see(clean)
    controller.act(upright())
    assert controller.status == "ok"
    with pytest.raises(ValueError, match=r"this policy takes \(2, 64, 64\)"):
        controller.see(clean[:1])
    with pytest.raises(ValueError, match="trained without cameras"):
        runtime.Controller(exported["body"][2]).see(clean)


def test_graphs_that_do_not_belong_together_are_refused(exported, tmp_path):
    path = exported["seeing"][2]
    (tmp_path / "p.onnx").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"seeing\.camera\.onnx does not exist"):
        runtime.Controller(tmp_path / "p.onnx")
    with pytest.raises(ValueError, match="holds a camera graph"):
        runtime.Controller(path.with_name("seeing.camera.onnx"))
    with pytest.raises(ValueError, match="does not exist"):
        runtime.Controller(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match="is no policy that export_policy"):
        runtime.Controller(tmp_path / "bad.onnx")
    other = save_encoder(tmp_path / "other.pt")
    seeing = {"observation": "encoded", "encoder": other.content_hash, "terrain": "perlin"}
    policy = load_policy(save_policy(tmp_path / "o.pt", 58, **seeing))
    _, camera = export_policy(policy, tmp_path / "o.onnx", other)
    camera.rename(tmp_path / "seeing.camera.onnx")
    with pytest.raises(ValueError, match=f"holds the encoder {other.content_hash[:16]}"):
        runtime.Controller(tmp_path / "p.onnx")


def test_damaged_graphs_are_refused(exported, tmp_path):
    content = exported["body"][2].read_bytes()
    file = tmp_path / "p.onnx"
    for place in (len(content) // 3, len(content) // 2, len(content) - 200):
        file.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"does not match its checksum|is no policy that export_policy"):
            runtime.Controller(file)
    model = onnx.load_from_string(content)
    for contract in ("[]", "{}", '{"kind": "control"}'):
        onnx.helper.set_model_props(model, {"ballbot": contract})
        file.write_bytes(model.SerializeToString())
        with pytest.raises(ValueError, match=r"p\.onnx (holds a None graph|does not match its checksum)"):
            runtime.Controller(file)


def test_a_policy_that_cannot_be_proved_replaces_nothing(tmp_path):
    save_policy(tmp_path / "nan.pt", gain=np.nan)
    (tmp_path / "policy.onnx").write_bytes(b"good")
    done = run(tmp_path, "nan.pt", "--observations", 20)
    assert done.returncode == 2 and "not finite" in done.stderr
    assert (tmp_path / "policy.onnx").read_bytes() == b"good"
    assert {p.name for p in tmp_path.iterdir()} == {"nan.pt", "policy.onnx"}


def test_a_graph_tells_its_contract_and_nothing_of_the_machine_that_made_it(exported):
    for name, size in (("body", 17), ("world", 15), ("seeing", 58)):
        path = exported[name][2]
        contract = runtime.Controller(path).contract
        assert sum(field["size"] for field in contract["input"]["fields"]) == size
        assert contract["torque_per_action"] == -10 and contract["period"] == 0.002
        assert contract["trained_steps"] == 1234
        content = path.read_bytes()
        assert str(ROOT).encode() not in content and sys.prefix.encode() not in content
    assert json.dumps(contract["camera"])


def test_the_runtime_needs_numpy_and_onnxruntime_alone():
    tree = ast.parse((ROOT / "ballbot" / "deployment" / "runtime.py").read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}


def run(folder, *options):
    return call("export_policy.py", *options, folder=folder)


def run_alone(folder, *options):
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "export_policy.py"), *map(str, options)],
        cwd=folder, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_export_policy_proves_what_it_wrote(tmp_path):
    save_policy(tmp_path / "p.pt", 58, observation="encoded", encoder=load_encoder().content_hash, terrain="perlin")
    done = run_alone(tmp_path, "p.pt", "--observations", 100, "--episodes", 2)
    assert done.returncode == 0, done.stderr
    returns = re.findall(r"2 episodes by (?:PyTorch|the graph): return (\d+\.\d+)", done.stdout)
    driven = re.search(r"controller that drives a robot: (\S+)", done.stdout)
    assert driven is not None and 0 <= float(driven[1]) < 1e-4
    assert len(returns) == 2 and float(returns[0]) == pytest.approx(float(returns[1]), abs=0.05)
    assert "policy.camera.onnx" in done.stdout and "on 100 observations" in done.stdout
    assert {p.name for p in tmp_path.iterdir()} == {"p.pt", "policy.onnx", "policy.camera.onnx"}


@pytest.mark.parametrize(("off", "written"), [(0.0, True), (1e-7, True), (1e-3, False)])
def test_differences_are_rounding_where_the_last_bit_of_what_is_observed_makes_as_much(
    off, written, tmp_path, monkeypatch, capsys
):
    script = importlib.import_module("export_policy")
    true = script.graph_actor
    monkeypatch.setattr(script, "MAX_DIFFERENCE", 0.0)
    monkeypatch.setattr(script, "graph_actor", lambda c: lambda obs, began: true(c)(obs, began) + np.float32(off))
    policy = save_policy(tmp_path / "p.pt", 17, gain=100.0)
    assert script.main([str(policy), "--out", str(tmp_path / "p.onnx"), "--observations", "100"]) == (not written)
    assert (tmp_path / "p.onnx").exists() == written
    assert written or "a difference of 1.0e-03 is too much" in capsys.readouterr().err


def test_export_policy_proves_a_memory_over_whole_episodes(tmp_path):
    save_policy(tmp_path / "p.pt", settings={"memory": "gru", "memory_size": 8})
    done = run(tmp_path, "p.pt", "--observations", 2000, "--episodes", 2)
    assert done.returncode == 0, done.stderr
    assert "on 2,000 observations" in done.stdout


def test_a_policy_that_soon_tilts_beyond_its_limit_can_be_exported(tmp_path):
    save_policy(tmp_path / "p.pt", tilt_limit_deg=2.0)  # where the controller gives up, long before it lies on its side
    done = run(tmp_path, "p.pt", "--observations", 100)
    assert done.returncode == 0, done.stderr


def test_bad_input_is_named_and_exits_with_2(tmp_path):
    save_policy(tmp_path / "p.pt")
    save_policy(tmp_path / "foreign.pt", observation=None)
    for options, words in (
        (["none.pt"], "none.pt does not exist"),
        (["foreign.pt"], "was not trained on Ballbot-v0"),
        (["p.pt", "--out", "policy.pt"], "must end in .onnx"),
        (["p.pt", "--out", "nowhere/policy.onnx"], "there is no folder nowhere"),
        (["pid"], "pid is no network"),
        (["p.pt", "--observations", 0], "--observations must be a"),
        (["p.pt", "--encoder", "e.pt"], "trained without cameras"),
    ):
        done = run(tmp_path, *options)
        assert done.returncode == 2 and words in done.stderr, (options, done.stderr)
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_a_policy_that_knows_its_velocity_by_wheels_drives_as_the_environment_tells_it(balance, tmp_path):
    settles = {"sensing.balance_s": balance} if balance else {}
    task: dict[str, Any] = {"sensing.velocity": "estimated", "robot": "mini", **settles}
    save_policy(tmp_path / "p.pt", 17, **task)
    policy = load_policy(tmp_path / "p.pt")
    export_policy(policy, tmp_path / "p.onnx")
    controller, envs = runtime.Controller(tmp_path / "p.onnx"), BallbotVectorEnv(1, **env_options(policy), **WORLD)
    sensors = {"velocity": "estimated", **({"balance_s": balance} if balance else {})}
    assert "velocity" not in controller.needs and controller.contract["sensors"] == sensors
    (expected, _), fastest = envs.reset(seed=0), 0.0
    for _ in range(120):
        robot = envs.simulations.robot_state()
        torques = controller.act(
            runtime.Sensors(robot.quaternion[:, 0], robot.gyro[:, 0], None, robot.wheel_speeds[:, 0], envs.goal[0])
        )
        assert controller.status == "ok"
        np.testing.assert_allclose(np.concatenate(list(controller._now.values())), expected[0], atol=2e-6)
        expected, *_ = envs.step((torques / controller.contract["torque_per_action"])[None])
        fastest = max(fastest, float(np.abs(expected[0, envs.layout["velocity"]]).max()))
    assert fastest > 0.005
    assert (np.abs(controller._balance).max() > 1e-3) == bool(balance)
