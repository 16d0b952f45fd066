from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ballbot.controllers import APPROACH, find_controller, make_controller
from ballbot.envs import BallbotVectorEnv, WorldConfig
from ballbot.envs.mechanics import LEAN, LEANING, TRAVEL, RollingModel, mechanics_of, rolling_model
from ballbot.envs.model import build_model
from ballbot.envs.motors import Motors
from ballbot.envs.robots import robot_of
from ballbot.envs.standing import recoverable_lean
from ballbot.errors import SettingsError
from ballbot.evaluation import find_candidate, run_episodes
from ballbot.lqr import (
    FIRM_SPEED_WEIGHT,
    SPEED_WEIGHT,
    LQRController,
    firm_speed_weight,
    gains_of,
    held_for,
    regulator,
)
from ballbot.observer import ROLLING

MODEL = rolling_model(build_model())


def test_wheels_cannot_change_what_gravity_alone_changes() -> None:
    """z = rate + ROLLING speed, of ballbot.observer, which a rigid robot of these masses changes by 33 / s² and rad."""
    for axis in range(2):
        change, pull = (x[2 + axis] + ROLLING * x[4 + axis] for x in (MODEL.a, MODEL.b))
        assert change[axis] == pytest.approx(33.0, rel=0.02)
        assert np.abs(change[2:]).max() < 0.01 * np.abs(MODEL.a[2:, 2:]).max()
        assert np.abs(pull).max() < 0.01 * np.abs(MODEL.b).max()


def test_the_other_sides_are_as_the_first() -> None:
    turn = np.kron(np.eye(3), [[-0.5, -np.sqrt(0.75)], [np.sqrt(0.75), -0.5]])
    turned = turn @ MODEL.a @ turn.T
    for row in (LEAN, LEANING, TRAVEL):
        for column in (LEAN, LEANING, TRAVEL):
            block = MODEL.a[row, column]
            np.testing.assert_allclose(turned[row, column], block, atol=0.02 * np.abs(block).max())  # two arms differ


def test_what_is_held_is_what_many_short_steps_do() -> None:
    a, b = held_for(MODEL, 0.01)
    state, torques = np.array([0.02, -0.01, 0.1, 0.0, 0.05, -0.1]), np.array([0.3, -0.1, 0.2])
    expected = state.copy()
    for _ in range(100_000):
        expected = expected + 1e-7 * (MODEL.a @ expected + MODEL.b @ torques)
    np.testing.assert_allclose(a @ state + b @ torques, expected, atol=1e-6)


@pytest.mark.parametrize("robot", ["reference", "asroballet"])
def test_asked_speeds_are_torques_that_depend_on_how_the_wheels_turn(robot: str) -> None:
    mechanics = mechanics_of(robot_of(robot, {}))
    state, actions = np.array([0.02, -0.01, 0.1, 0.0, 0.05, -0.1]), np.array([[0.03, -0.01, 0.02]])
    leaning, travel = state[LEANING], state[TRAVEL]
    turns = mechanics.rolling @ (travel - mechanics.ball_radius * leaning)
    torques = Motors("wheel_speed", 1, mechanics, 0.002).torques(actions, turns[None])[0]
    assert np.abs(torques).max() < mechanics.torque
    by_torques, by_speeds = (mechanics.near_upright_by(action) for action in ("torque", "wheel_speed"))
    expected = by_torques.a @ state + by_torques.b @ torques
    np.testing.assert_allclose(by_speeds.a @ state - by_speeds.b @ (by_speeds.full * actions[0]), expected, atol=1e-9)


@pytest.mark.parametrize("robot", ["reference", "mini", "asroballet"])
@pytest.mark.parametrize("action", ["wheel_speed", "wheel_position"])
def test_it_drives_by_motors_that_follow_speeds_and_positions(robot: str, action: str) -> None:
    told: dict[str, Any] = {"terrain": "flat", "max_episode_steps": 1500}
    lateness = {}
    for each in ("torque", action):
        with closing(BallbotVectorEnv(8, robot=robot, action=each, **told)) as env:
            controller = make_controller(partial(LQRController, target_speed=0.15), env.dt, env.config)
            observations, began = env.reset(seed=0)[0], np.ones(8, bool)
            for step in range(1500):
                observations, _, fell, _, _ = env.step(controller(observations, began))
                began[:] = False
                assert not fell.any()
                if step == 1400:
                    speed = (observations[:, 6:8] * observations[:, 9:11]).sum(axis=1)
            lateness[each] = np.abs(speed - 0.15).mean()
    assert lateness[action] < 0.02
    assert robot == "reference" or lateness[action] < lateness["torque"]  # they make up for friction


def test_no_other_gains_cost_less() -> None:
    a, b = held_for(MODEL, 0.002)
    q, r = np.diag([1.0, 1, 0.1, 0.1, 10, 10]), np.eye(3)
    best = regulator(a, b, q, r)
    starts = np.random.default_rng(0).normal(size=(6, 8))

    def cost(gains: NDArray[np.float64]) -> float:
        x, total = starts, 0.0
        for _ in range(4000):
            u = -gains @ x
            total += float(np.einsum("in,ij,jn", x, q, x) + (u**2).sum())
            x = a @ x + b @ u
        return total

    least = cost(best)
    for seed in range(5):
        other = best * (1 + 0.05 * np.random.default_rng(seed).normal(size=best.shape))
        assert least < cost(other) < np.inf


def test_who_cannot_be_brought_to_rest_is_refused() -> None:
    a, b = held_for(MODEL, 0.002)
    with pytest.raises(ValueError, match="do its motors reach the ball"):
        regulator(a, np.zeros_like(b), np.eye(6), np.eye(3))
    with pytest.raises(ValueError, match="do its motors reach the ball"):
        regulator(a, b, np.zeros((6, 6)), np.eye(3))  # for nothing, nothing is done


def test_what_hardly_counts_is_brought_to_rest_too() -> None:
    a, b = np.array([[1.001, 0.0], [1e-7, 0.001]]), np.array([[1.0], [0.0]])
    gains = regulator(a, b, np.diag([0.0, 10.0]), np.eye(1))
    assert np.abs(np.linalg.eigvals(a - b @ gains)).max() < 1


def test_a_lean_that_can_be_recovered_is_where_a_pendulum_says() -> None:
    """Of lean'' = growth² lean - push u along each axis, |u| <= 1: push / growth², but for who falls along one only."""

    def pendulum(growths: tuple[float, float], push: float = 0.5, twist: float = 0.0) -> float:
        a, b = np.zeros((6, 6)), np.zeros((6, 2))
        a[LEAN, LEANING], a[LEANING, LEAN] = np.eye(2), np.diag(np.sign(growths) * np.square(growths))
        a[2, 1], a[3, 0] = twist, -twist  # makes the modes a complex pair
        a[TRAVEL, TRAVEL] = -np.eye(2)
        b[LEANING] = push * np.eye(2)
        return recoverable_lean(RollingModel(a, b, 1.0))

    assert pendulum((4.0, 4.0)) == pytest.approx(0.5 / 16, rel=0.01)
    assert pendulum((4.0, 4.0), twist=1e-9) == pytest.approx(0.5 / 16, rel=0.01)
    assert pendulum((2.0, 4.0)) == pytest.approx(0.5 / 16, rel=0.01)
    assert pendulum((2.0, -4.0)) == pytest.approx(0.5 / 4, rel=0.01)
    assert pendulum((-2.0, -4.0)) == np.pi / 2 == pendulum((4.0, 4.0), 50.0)


def test_a_speed_is_held_against_the_wheels_damping() -> None:
    gains = gains_of(MODEL, 0.002)
    a, b = held_for(MODEL, 0.002)
    moving = np.array([0, 0, 0, 0, 0.2, -0.1])
    after = a @ moving + b @ (-10.0 * gains.travel @ moving[TRAVEL])
    np.testing.assert_allclose(after, moving, atol=1e-9)


def settles(weight: float, late: int) -> bool:
    """Whether a lean of 0.01 rad dies out, by actions on what was so many steps of 2 ms ago."""
    a, b = held_for(MODEL, 0.002)
    gains = gains_of(MODEL, 0.002, weight).state
    states = [np.zeros(6)] * late + [np.array([0.01, -0.01, 0, 0, 0, 0])]
    for _ in range(4000):
        states.append(a @ states[-1] + b @ (10.0 * gains @ states[-1 - late]))
        if not np.abs(states[-1]).max() < 1e3:
            return False
    return bool(np.abs(states[-1]).max() < 1e-2)


def test_the_firmest_regulator_is_one_that_bears_the_delay() -> None:
    assert firm_speed_weight(MODEL, 0.0) == FIRM_SPEED_WEIGHT and settles(FIRM_SPEED_WEIGHT, 14)
    weight = firm_speed_weight(MODEL, 0.06)
    assert SPEED_WEIGHT < weight < FIRM_SPEED_WEIGHT
    assert settles(0.9 * weight, 30) and not settles(1.1 * weight, 30)
    assert firm_speed_weight(MODEL, 0.08) < weight


def test_it_is_firm_where_the_velocity_is_an_estimate() -> None:
    true, late = (make_controller(LQRController, 0.002, WorldConfig(sensors=s)) for s in ("perfect", "cheap"))
    assert isinstance(true, LQRController) and isinstance(late, LQRController)
    assert true.speed_weight == SPEED_WEIGHT < late.speed_weight <= FIRM_SPEED_WEIGHT


def test_it_keeps_velocities_and_stands_on_wheels_with_dry_friction() -> None:
    """Without what makes up for it 0.016 m/s and 15 mm; with the gains of who is told a direction 0.031 and 28."""
    options: dict[str, Any] = {"robot": "asroballet", "terrain": "flat", "command": "velocity", "num_threads": 1}
    envs = BallbotVectorEnv(8, **options, motion={"resample_time": 0.0})
    try:
        act = find_candidate("lqr").make_actor(envs)
        obs, _ = envs.reset(seed=0, options={"command": (0.0, 0.0, 0.0)})
        envs.set_command((0.3, 0.0, 0.0), ids=[0, 1, 2, 3])
        began, off, places = np.ones(8, bool), [], []
        for step in range(2000):
            obs, *_ = envs.advance(act(obs, began))
            began[:] = False
            if step >= 1000:
                off.append(np.array(envs.world.robots.heading_velocity[:, :4]) - [[0.3], [0.0]])
                places.append(np.array(envs.world.robots.position[:2, 4:]))
    finally:
        envs.close()
    assert np.sqrt((np.array(off) ** 2).sum(axis=1).mean()) < 0.012
    assert np.linalg.norm(np.array(places) - places[0], axis=1).max() < 0.012


def test_it_bears_velocities_that_change_at_once() -> None:
    """Without a bound on what it acts on, half of these robots fall."""
    options: dict[str, Any] = {"robot": "rezero", "terrain": "flat", "command": "velocity", "num_threads": 1}
    envs = BallbotVectorEnv(8, **options, motion={"resample_time": 0.0})
    try:
        act, began = find_candidate("lqr").make_actor(envs), np.ones(8, bool)
        obs, _ = envs.reset(seed=0, options={"command": (0.5, 0.0, 0.0)})
        for step in range(2500):
            if step == 1500:
                envs.set_command((-0.5, 0.0, 0.0))
            obs, _, fell, *_ = envs.advance(act(obs, began))
            began[:] = False
            assert not fell.any()
    finally:
        envs.close()


@pytest.mark.parametrize("action_repeat", [1, 5])
def test_it_travels_over_uneven_ground_without_having_been_tuned(action_repeat: int) -> None:
    options: dict[str, Any] = {
        "num_terrains": 12,
        "terrain_split": "validation",
        "num_threads": 1,
        "max_episode_steps": 2000,
    }
    envs = BallbotVectorEnv(12, terrain="perlin", action_repeat=action_repeat, **options)
    make = find_controller("lqr:0.3")
    assert make is not None and isinstance(make(0.002), LQRController)
    episodes = run_episodes(envs, make(envs.dt), 12, 0)
    assert episodes.outcomes == ["success"] * 12
    assert episodes.speed_along_goal.mean() > 0.12


@pytest.mark.parametrize(
    ("robot", "command", "motion"),
    [
        ("reference", "velocity", {"resample_time": 3.2}),
        ("kugle", "velocity", {"resample_time": 3.2}),
        ("kugle", "point", {"max_distance": 0.6}),
        ("kugle", "path", {"num_points": 2}),
    ],
)
def test_it_follows_every_command(robot: str, command: str, motion: dict[str, Any]) -> None:
    envs = BallbotVectorEnv(6, terrain="flat", command=command, motion=motion, robot=robot, max_episode_steps=2500)
    make = find_controller("lqr")
    assert make is not None
    found = run_episodes(envs, make_controller(make, envs.dt, envs.config), 6, seed=0)
    assert found.outcomes == ["success"] * 6
    if command == "velocity":
        assert np.nanmax(found.measures["velocity_error"]) < 0.04


def test_who_keeps_a_station_goes_back_to_it() -> None:
    config = WorldConfig(command="velocity", motion={"station_keeping": True})
    follows = make_controller(LQRController, 0.01, config)
    at = config.layout().slices
    away = np.zeros((2, config.layout().size), np.float32)
    away[:, at["gravity"]] = 0, 0, -1
    away[0, at["station"]] = 0.1, 0.0  # it is ahead
    away[1, at["velocity_command"]] = APPROACH * 0.1, 0.0, 0.0
    began = np.zeros(2, bool)
    for _ in range(200):  # past the slow start
        actions = follows(away, began)
    np.testing.assert_allclose(actions[0], actions[1], rtol=1e-6)
    assert np.abs(actions).max() > 0.05


@pytest.mark.parametrize("name", ["observer", "pid", "informed"])
def test_others_say_which_command_they_do_not_follow(name: str) -> None:
    make = find_controller(name)
    assert make is not None
    with pytest.raises(SettingsError, match=f'"{name}" does not follow command \'point\': take "lqr" or "linear"'):
        make_controller(make, 0.01, WorldConfig(command="point"))
