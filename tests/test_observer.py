# mypy: allow-untyped-defs, allow-untyped-calls
"""The controller with memory feels what the ground does, drives on it, and forgets it with the episode."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from ballbot.controllers import LinearController, PIDController, controlled_fields, find_controller
from ballbot.envs import BallbotVectorEnv
from ballbot.envs.mechanics import free_wheel_speed, motor_limits, rolling_wheel_speeds
from ballbot.envs.model import build_model
from ballbot.errors import SettingsError
from ballbot.evaluation import run_episodes
from ballbot.observer import GROWTH, ForesightController, ObserverController, actions_per_speed


def observed(tilt, turn=0.0, goal=(0.0, 1.0)):
    """(1, 17) of a robot at rest that leans by (2,) rad and turns about the vertical."""
    row = np.zeros((1, 17), np.float32)
    row[0, :2], row[0, 2], row[0, 5], row[0, 9:11] = tilt, -np.sqrt(1 - np.sum(np.square(tilt))), turn, goal
    return row


@pytest.mark.parametrize("dt", [0.002, 0.01, 0.03])
def test_a_robot_that_leans_and_stays_has_a_slope_under_it(dt):
    controller, tilt = ObserverController(dt), np.array([0.06, -0.03])
    controller(observed(tilt), np.array([True]))
    np.testing.assert_array_equal(controller.disturbance, np.zeros((2, 1)))
    for _ in range(round(1.0 / dt)):
        controller(observed(tilt), np.array([False]))
    np.testing.assert_allclose(np.asarray(controller.disturbance)[:, 0], -GROWTH * tilt, rtol=1e-4)


def test_what_is_felt_stays_with_the_ground_while_the_robot_turns_about_the_vertical():
    controller, lean, turn = ObserverController(0.002), np.array([0.05, 0.02]), 0.8
    for step in range(1500):
        yaw = turn * 0.002 * step
        c, s = np.cos(yaw), np.sin(yaw)
        tilt = np.array([c * lean[0] + s * lean[1], c * lean[1] - s * lean[0]])  # of the world, in the base's axes
        controller(observed(tilt, turn), np.array([step == 0]))
    np.testing.assert_allclose(np.asarray(controller.disturbance)[:, 0], -GROWTH * tilt, atol=0.01)


def test_wheels_limits_are_the_robots():
    model = build_model()
    fastest = np.abs(rolling_wheel_speeds(model)).max()
    assert actions_per_speed() == pytest.approx(fastest * 0.8 / 10.0)  # damping and torque of the MJCF
    assert free_wheel_speed(model) == pytest.approx(12.5)
    controller, limits = ObserverController(0.002, target_speed=0.0, use_of_limit=1.0), []
    for angle in np.linspace(0, 2 * np.pi, 360):
        goal = np.array([[np.cos(angle)], [np.sin(angle)]])
        controller._aim(goal, np.array([True]))
        controller._elapsed = 10.0
        limits.append(controller._aim(goal, np.array([False]))[1][0] + 0.51)
    # spun about the vertical the ball lets it go faster than without, in every direction
    assert min(limits) > 0.49 and max(limits) < 0.57 and min(limits) > motor_limits(model)[0]


@pytest.mark.parametrize("action_repeat", [1, 5])
def test_it_outruns_the_controller_without_memory_on_uneven_ground(action_repeat):
    options = {"num_terrains": 8, "max_episode_steps": 2500, "num_threads": 1, "action_repeat": action_repeat}
    speeds = []
    for kind in (ObserverController, LinearController):
        envs = BallbotVectorEnv(8, terrain_split="validation", **options)
        found = run_episodes(envs, kind(envs.dt), 8, seed=0)
        assert found.outcomes == ["success"] * 8
        speeds.append(found.speed_along_goal.mean())
    assert speeds[0] > 0.3 > speeds[1]


def test_it_stands_where_it_is_told_to():
    envs = BallbotVectorEnv(4, terrain="perlin", num_terrains=4, num_threads=1)
    envs.reset(seed=0)
    envs.set_command([0.0, 0.0])
    controller, began = ObserverController(envs.dt), np.ones(4, bool)
    actions, places = np.zeros((4, 3), np.float32), []
    for _ in range(1500):
        obs, _, terminated, _, infos = envs.step(actions)
        actions, began = controller(obs, began), np.zeros(4, bool)
        assert np.isfinite(actions).all() and not terminated.any()
        places.append(infos["position"])
    assert np.linalg.norm(places[-1] - places[750], axis=1).max() < 0.15  # in 1.5 s, on slopes


def test_it_starts_anew_with_an_episode():
    rng = np.random.default_rng(0)
    rows = [observed(rng.normal(0, 0.03, 2), rng.normal()).repeat(2, axis=0) for _ in range(20)]
    controller, fresh = ObserverController(0.002), ObserverController(0.002)
    for step, row in enumerate(rows):
        both = controller(row, np.array([step == 0, step in (0, 10)]))
        if step >= 10:
            alone = fresh(row[1:], np.array([step == 10]))
            np.testing.assert_array_equal(both[1], alone[0])
    assert (both[0] != both[1]).any()


def test_controllers_are_found_by_name():
    assert find_controller("pid") is PIDController and find_controller("observer") is ObserverController
    for name, kind in (("linear:0.2", LinearController), ("observer:0.2", ObserverController)):
        made = find_controller(name)
        assert made is not None
        found = made(0.01)
        assert isinstance(found, kind) and found.target_speed == 0.2 and found.dt == 0.01
    assert find_controller("observers") is None and find_controller("pid:1") is None
    for wrong in ("observer:", "observer:fast", "observer:2", "linear:-1", "linear:nan"):
        with pytest.raises(SettingsError, match=r'behind "(linear|observer):" comes a speed from 0 to 1 m/s'):
            find_controller(wrong)


def test_who_knows_the_slopes_ahead_outruns_who_feels_them():
    found = {}
    for name in ("observer", "foresight"):
        read = controlled_fields(name)
        envs = BallbotVectorEnv(
            16, terrain_split="validation", num_terrains=16, extra_fields=read, action_repeat=5, num_threads=1
        )
        made = find_controller(name)
        assert made is not None
        found[name] = run_episodes(envs, made(envs.dt), 16, seed=1)
    assert found["foresight"].returns.mean() > found["observer"].returns.mean() + 0.5


def test_foresight_without_its_gains_is_the_observer():
    blind = ObserverController(0.01)
    same: dict[str, Any] = {f.name: getattr(blind, f.name) for f in fields(ObserverController)}
    nothing: dict[str, Any] = {
        "lean_ahead": (0, 0, 0),
        "lean_aside": (0, 0),
        "speed_ahead": (0, 0, 0),
        "speed_felt": (0, 0, 0),
    }
    seeing = ForesightController(**same, **nothing, speed_bend=0.0)
    rng = np.random.default_rng(0)
    for step in range(20):
        rows = np.concatenate([observed((0.02, 0.01)), rng.normal(0, 0.1, (1, 6)).astype(np.float32)], axis=1)
        began = np.array([step == 0])
        np.testing.assert_allclose(seeing(rows, began), blind(rows[:, :17], began), atol=1e-7)
