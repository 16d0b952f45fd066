# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Actions that ask for wheel speeds or positions instead of torques."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from driving import actions, drive, small
from policies import save_policy

from ballbot import presets
from ballbot.controllers import LinearController, make_controller
from ballbot.deployment import runtime
from ballbot.deployment.export import export_policy
from ballbot.envs import WorldConfig
from ballbot.envs.mechanics import Mechanics, mechanics_of
from ballbot.envs.motors import Motors, stiffness_of
from ballbot.envs.robots import robot_of
from ballbot.errors import SettingsError
from ballbot.ppo import load_policy
from ballbot.runs import init_from
from ballbot.teachers import find_teacher

by_speed = partial(small, action="wheel_speed")
by_position = partial(small, action="wheel_position")


@pytest.mark.parametrize("robot", ["reference", "mini"])
def test_wheels_turn_as_fast_as_is_asked_and_motors_give_no_more_than_they_have(robot):
    env = by_speed(1, robot=robot, ranges={"held": (10, 10)}, initial_tilt_deg=0.0)
    env.reset(seed=0)
    mechanics, largest = env.simulations.mechanics, []
    asked = np.full((1, env.action_space.shape[1]), 0.1, np.float32)  # all alike: it turns about the vertical
    for _ in range(250):
        env.step(asked)
        largest.append(np.abs(env.simulations.torques).max())
    wanted = -0.1 * mechanics.free_speed
    np.testing.assert_allclose(env.world.robots.wheel_speeds[:, 0], wanted, rtol=0.1)
    env.step(-10 * asked)
    assert max(largest) < np.abs(env.simulations.torques).max() <= mechanics.torque * (1 + 1e-12)


def test_wheels_come_to_where_they_are_asked_to_be_and_stay_there():
    env = by_position(1, robot="mini", ranges={"held": (10, 10)}, initial_tilt_deg=0.0)
    env.reset(seed=0)
    model, mechanics = env.simulations.model, env.simulations.mechanics
    angles = [model.joint(f"wheel_{wheel}").qposadr[0] for wheel in range(3)]
    before = env.simulations.qpos[:, angles].copy()
    asked = np.full((1, 3), 0.05, np.float32)
    for k in range(1000):
        env.step(asked if k < 500 else 0 * asked)
    turned = env.simulations.qpos[:, angles] - before
    wanted = -0.05 * mechanics.free_speed  # for a second
    np.testing.assert_allclose(turned, wanted, rtol=0.01)
    env.step(asked)
    np.testing.assert_allclose(env.world.motors.behind, wanted * 0.002, atol=0.02)


def test_a_wheel_that_is_held_does_not_go_back_for_what_it_missed():
    for robots in (
        mechanics_of(robot_of("mini", {})),
        Mechanics.side_by_side([mechanics_of(robot_of("mini", {}))] * 2),
    ):
        motors = Motors("wheel_position", 2, robots, 0.002)
        for _ in range(1000):
            torques = motors.torques(np.ones((2, 3)), np.zeros((2, 3)))
        np.testing.assert_allclose(torques, -np.broadcast_to(robots.torque, (2, 3)))
        slack = np.broadcast_to(robots.torque / stiffness_of(robots), (2, 3))
        np.testing.assert_allclose(motors.behind, -slack)
        motors.begin([1])
        assert motors.behind[0].all() and not motors.behind[1].any()


def test_a_wheel_off_the_ball_makes_up_half_of_what_is_missing_in_a_step():
    reference = mechanics_of(robot_of("reference", {}))
    model = robot_of("reference", {}).spec().compile()
    inertia, dt = model.dof_M0[model.joint("wheel_0").dofadr[0]], model.opt.timestep
    speeds = np.array([[0.4, 0.0, -0.4]])
    torques = reference.tracking(speeds, np.zeros((1, 3))) - reference.wheel_damping * speeds
    np.testing.assert_allclose(dt * torques / inertia, speeds / 2)
    side = Mechanics.side_by_side([reference, reference])
    both = side.tracking(np.repeat(speeds, 2, axis=0), np.zeros((2, 3)))
    np.testing.assert_allclose(both, np.repeat(reference.tracking(speeds, 0 * speeds), 2, axis=0))


@pytest.mark.parametrize("make", [by_speed, by_position])
def test_what_is_asked_is_observed_and_goes_on_bit_for_bit_where_it_was_saved(make):
    env, other = make(2, sensors="cheap"), make(2, sensors="cheap")
    for each in (env, other):
        each.reset(seed=0)
    asked = actions(20, 2)
    obs = drive(env, asked)
    np.testing.assert_array_equal(obs[-1][:, env.world.layout["last_action"]], asked[-1])
    other.set_state(env.get_state())
    np.testing.assert_array_equal(drive(env, asked), drive(other, asked))
    if make is by_position:
        with pytest.raises(ValueError, match="the state has no 'behind'"):
            other.set_state({key: value for key, value in env.get_state().items() if key != "behind"})
    with pytest.raises(ValueError, match=r"action was 'wheel_[a-z]+', is 'torque'"):
        small(2, sensors="cheap").set_state(env.get_state())
    assert "action" not in WorldConfig().fingerprint() and "action" not in WorldConfig().metadata()


def test_who_asks_for_torques_is_refused(tmp_path):
    world = WorldConfig(action="wheel_speed", terrain="flat")
    with pytest.raises(SettingsError, match="\"linear\" asks for torques, and motors here take action='wheel_speed'"):
        make_controller(LinearController, 0.002, world)
    path = save_policy(tmp_path / "p.pt", 17)
    with pytest.raises(SettingsError, match="was trained with --action torque"):
        find_teacher(path, world, world.layout(), 0.002)
    with pytest.raises(SettingsError, match="was trained with --action torque, this run is with --action wheel_speed"):
        init_from(path, presets.Settings(world=world), None)
    with pytest.raises(SettingsError, match="wheels that do not turn ever faster"):
        by_speed(1, build={"wheel_damping": 0.0})


def test_exported_policies_say_that_they_ask_for_speeds_and_which(tmp_path):
    policy = load_policy(save_policy(tmp_path / "p.pt", 17, action="wheel_speed"))
    (path,) = export_policy(policy, tmp_path / "p.onnx")
    with pytest.raises(ValueError, match="asks motors for wheel_speed, this program gives them torque"):
        runtime.Controller(path)
    controller, mechanics = runtime.Controller(path, action="wheel_speed"), mechanics_of(robot_of("reference", {}))
    assert "torque_per_action" not in controller.contract  # so that programs of before refuse it
    assert controller.contract["motors"]["gain"] == mechanics.speed_gain
    upright = np.array([1.0, 0, 0, 0]), np.array([0.1, 0.2, 0]), np.array([0.1, 0, 0]), np.zeros(3), np.array([0, 1.0])
    asked = controller.act(runtime.Sensors(*upright))
    assert asked.any() and controller.status == "ok"
    np.testing.assert_allclose(asked, -mechanics.free_speed * controller.last_action, rtol=1e-6)


def test_exported_policies_say_how_far_wheels_go_on(tmp_path):
    policy = load_policy(save_policy(tmp_path / "p.pt", 17, action="wheel_position"))
    (path,) = export_policy(policy, tmp_path / "p.onnx")
    with pytest.raises(ValueError, match="asks motors for wheel_position, this program gives them wheel_speed"):
        runtime.Controller(path, action="wheel_speed")
    controller, mechanics = runtime.Controller(path, action="wheel_position"), mechanics_of(robot_of("reference", {}))
    assert controller.contract["motors"]["stiffness"] == stiffness_of(mechanics)
    assert controller.per_action == pytest.approx(-0.002 * mechanics.free_speed)
