# mypy: allow-untyped-defs, allow-untyped-calls
"""The linear controller travels, in every heading, and turns its wheels the way the robot leans."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch

from ballbot import controllers
from ballbot.controllers import (
    CONTROLLERS,
    PID,
    InformedController,
    LinearController,
    PIDController,
    controlled_fields,
    feedback_prior,
    find_controller,
    pitch_and_roll,
)
from ballbot.envs import BallbotVectorEnv
from ballbot.envs.mechanics import reference
from ballbot.envs.observations import layout_of
from ballbot.evaluation import run_episodes
from ballbot.parsing import field_docs
from ballbot.presets import Settings
from ballbot.tasks import find_task


@pytest.mark.parametrize("goal", [(0.0, 1.0), (0.6, -0.8)])
def test_linear_controller_travels_along_the_goal(goal):
    envs = BallbotVectorEnv(8, terrain="flat", goal=goal, max_episode_steps=2000, num_threads=1)
    found = run_episodes(envs, LinearController(envs.dt, target_speed=0.25), 8, seed=0)
    envs.close()
    assert found.outcomes == ["success"] * 8
    assert found.speed_along_goal.min() > 0.12  # 1 s to start and a standing error included
    assert np.abs(found.speed_across_goal).max() < 0.05


def test_linear_controller_starts_anew_with_an_episode():
    controller = LinearController(0.5, kp=0.0, kd=0.0)
    upright = np.zeros((2, 17), np.float32)
    upright[:, 2], upright[:, 10] = -1.0, 1.0
    controller.kp = 10.0
    first = controller(upright, np.array([True, True]))
    np.testing.assert_allclose(first, 0.0)  # the target rises from 0
    moving = controller(upright, np.array([False, True]))
    assert np.abs(moving[0]).max() > 0.1
    np.testing.assert_allclose(moving[1], 0.0)
    later = controller(upright, np.array([False, False]))
    np.testing.assert_array_equal(later[1], moving[0])


def test_a_prior_is_the_same_law_without_the_slow_start(monkeypatch):
    monkeypatch.setattr(controllers, "MAX_LEAN", controllers.PRIOR_LEAN)
    controller = LinearController(10.0, target_speed=0.3)
    observations = np.random.default_rng(0).normal(0.0, 0.02, (200, 58)).astype(np.float32)
    controller(observations[:, :17], np.ones(200, bool))
    expected = controller(observations[:, :17], np.zeros(200, bool))  # after 10 s
    found = feedback_prior(layout_of("body", ("goal",), (), images=(20, 20)), 0.3)(
        torch.from_numpy(observations)
    ).clamp(-1, 1)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert 0.2 < np.mean(np.abs(expected) < 1) < 0.98


def test_every_controller_is_offered_where_one_can_be_named():
    scripts = [importlib.import_module(name) for name in ("evaluate", "watch")]
    for docs in (*(field_docs(script.Args)["checkpoint"] for script in scripts), field_docs(Settings)["teacher"]):
        named = {name for name in CONTROLLERS if f'"{name}"' in docs}
        assert named == set(CONTROLLERS) - ({"pid"} if "imitates" in docs else set())


def test_wheels_share_a_push_as_rolling_turns_them():
    shares = reference().shares
    assert shares.shape == (3, 2)
    assert np.abs(shares).max() == 1.0
    np.testing.assert_allclose(shares.sum(axis=0), 0.0, atol=1e-6)  # three wheels a third of a turn apart


@pytest.mark.parametrize(("pitch", "roll", "yaw"), [(0.2, 0.0, 0.0), (0.0, -0.3, 1.0), (0.1, 0.2, -2.5)])
def test_tilt_is_measured_as_pitch_and_roll_whatever_the_heading(pitch: float, roll: float, yaw: float) -> None:
    (sy, sp, sr), (cy, cp, cr) = np.sin([yaw, pitch, roll]), np.cos([yaw, pitch, roll])
    rotation = (
        np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
        @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
        @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    )
    gravity = rotation.T @ [0, 0, -1]
    np.testing.assert_allclose(pitch_and_roll(gravity[None])[:, 0], [pitch, roll], atol=1e-12)


def test_pid_terms_are_the_textbooks_without_a_kick_at_the_start() -> None:
    controller = PID(kp=2.0, ki=3.0, kd=5.0, dt=0.1)
    assert controller(np.array([1.0])) == pytest.approx(2.0 * 1.0 + 3.0 * 0.1)
    assert controller(np.array([1.5])) == pytest.approx(2.0 * 1.5 + 3.0 * 0.25 + 5.0 * 5.0)


def test_pid_forgets_the_past_of_robots_whose_episode_begins():
    observations = np.random.default_rng(0).normal(0.0, 0.001, (3, 2, 17)).astype(np.float32)
    observations[..., 2] = -1.0
    controller, fresh = PIDController(0.002), PIDController(0.002)
    for k, began in enumerate(([True, True], [False, False], [False, True])):
        found = controller(observations[k], np.array(began))
    np.testing.assert_array_equal(found[1], fresh(observations[2], np.array([True, True]))[1])
    assert (found[0] != fresh(observations[2], np.array([False, False]))[0]).any()


def test_who_is_told_the_ground_steers_around_a_drop_and_stops_when_there_is_no_way():
    controller, blind = InformedController(0.002), LinearController(0.002, target_speed=0.25)
    seen = np.zeros((3, 77), np.float32)
    seen[:, 2], seen[:, 9], seen[:2, 6] = -1, 1, 0.25  # upright, the goal ahead, whither the first two roll
    scan = seen[:, 17:].reshape(3, 5, 12)
    scan[1, :4, [11, 0, 1]] = -0.15  # a drop ahead, and to the right beyond the heading
    scan[2] = -0.15
    began = np.ones(3, bool)
    for _ in range(600):
        actions, straight = controller(seen, began), blind(seen[:, :17], began)
        began = np.zeros(3, bool)
    np.testing.assert_allclose(actions[0], straight[0], atol=0.025)  # the law itself; places lie 2.5 degrees off
    assert np.abs(actions[1] - straight[1]).max() > 0.05
    np.testing.assert_allclose(actions[2], 0, atol=1e-6)


def bearing(controller, seen):
    """rad, from the body's x axis: where it is bound for, by the lean that it asks for."""
    still = np.array([seen])
    still[:, 6:9] = 0
    lean = np.linalg.lstsq(reference().shares, -controller(still, np.zeros(1, bool))[0], rcond=None)[0]
    return float(np.arctan2(-lean[1], -lean[0]))


@pytest.mark.parametrize(("closed", "low", "high"), [([0], -60, -20), ([11, 0, 1], -90, -50), ([0, 10, 11], 20, 60)])
def test_who_is_told_the_ground_goes_to_open_ground(closed, low, high):
    controller = InformedController(0.002, target_speed=1e-3)  # so slow that no motor is at its limit
    seen = np.zeros(77, np.float32)
    seen[2], seen[9] = -1, 1
    seen[17:].reshape(5, 12)[:4, closed] = -0.15
    for began in (True, *[False] * 600):
        controller(seen[None], np.array([began]))
    assert low < np.degrees(bearing(controller, seen)) < high  # the goal is ahead, at 0; place 0 at 2.5 degrees


def test_who_is_told_the_ground_stays_on_a_road_that_who_is_not_leaves():
    options: dict[str, Any] = find_task("road")
    options |= {"num_terrains": 8, "terrain_split": "validation", "num_threads": 1, "max_episode_steps": 2500}
    left = {}
    for name in ("linear:0.25", "informed:0.25"):
        envs = BallbotVectorEnv(8, extra_fields=controlled_fields(name), **options)
        made = find_controller(name)
        assert made is not None
        episodes = run_episodes(envs, made(envs.dt), 8, 0)
        left[name] = int(episodes.endings["off_road"].sum())
    assert left["informed:0.25"] <= 1 and left["linear:0.25"] >= 5
