# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Observations and rewards against SciPy-free closed forms and MuJoCo's own functions."""

from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import pytest

from ballbot.envs import rewards
from ballbot.envs.mechanics import reference
from ballbot.envs.observations import layout_of
from ballbot.envs.randomize import TOLD
from ballbot.envs.step import RobotState, Step, rotation_matrix, rotation_vector


@pytest.fixture
def quaternions():
    rng = np.random.default_rng(0)
    q = rng.normal(size=(4, 50))
    q[:, 0] = (1, 0, 0, 0)
    q[:, 1] = (-1, 1e-9, 0, 0)
    q[:, 2] = (0, 1, 0, 0)
    return q / np.linalg.norm(q, axis=0)


def robot(quaternion, velocity=(0, 0, 0), gyro=(0, 0, 0), wheels=(0, 0, 0)):
    q = np.asarray(quaternion, float).reshape(4, -1)

    def column(values):
        return np.asarray(values, float).reshape(3, 1)

    return RobotState(np.zeros((3, 1)), q, rotation_matrix(q), column(velocity), column(gyro), column(wheels))


def yawed(angle):
    return np.array([np.cos(angle / 2), 0, 0, np.sin(angle / 2)])


TIMES = np.array([100]), np.array([4000])
NORTH, STILL = np.array([0.0, 1.0]), np.zeros((1, 3))


def step_of(state, goal=NORTH, actions=STILL, fallen=(False,)):
    """A record of robots that stand there and are to go along the goal."""
    told: Any = SimpleNamespace(direction=np.broadcast_to(goal[:, None], (2, state.position.shape[1])))
    level = lambda xy: np.zeros(xy.shape[:-1])  # noqa: E731
    shell = np.zeros((3, 1))
    return Step(
        state,
        state,
        told,
        actions,
        actions,
        np.array(fallen),
        0.002,
        level,
        reference(),
        shell,
        *TIMES,
        lambda: np.zeros(1),
        lambda goals, places: goals,
        lambda: np.zeros((len(TOLD), 1)),
        lambda: np.zeros((2, 1)),
        lambda robots: robots,
        lambda: -reference().torque * actions,
    )


def observed(frame, state, goal, actions):
    return layout_of(frame, ("goal",), ()).observe(step_of(state, goal, actions))


def body_frame(*of):
    return observed("body", *of)


def world_frame(*of):
    return observed("world", *of)


def moving(velocity):
    """Upright robots with these horizontal velocities, a column each."""
    velocity = np.asarray(velocity, float)
    n = velocity.shape[1]
    q = np.tile([[1.0], [0], [0], [0]], n)
    none = np.zeros((3, n))
    return RobotState(none, q, rotation_matrix(q), np.vstack([velocity, np.zeros(n)]), none, none)


def test_rotation_matrix_equals_mujocos(quaternions):
    ours = rotation_matrix(quaternions)
    for i in range(quaternions.shape[1]):
        theirs = np.empty(9)
        mujoco.mju_quat2Mat(theirs, quaternions[:, i])
        np.testing.assert_allclose(ours[..., i].ravel(), theirs, atol=1e-12)


def test_rotation_vector_equals_mujocos(quaternions):
    ours = rotation_vector(quaternions)
    for i in range(quaternions.shape[1]):
        theirs = np.empty(3)
        mujoco.mju_quat2Vel(theirs, quaternions[:, i], 1.0)
        if np.linalg.norm(ours[:, i]) < np.pi - 1e-6:  # at pi both directions of the axis are right
            np.testing.assert_allclose(ours[:, i], theirs, atol=1e-7)


def test_gravity_points_down_in_an_upright_body_and_forward_when_pitched():
    assert body_frame(robot((1, 0, 0, 0)), NORTH, STILL)[0, :3].tolist() == [0, 0, -1]
    pitched = (np.cos(0.1), 0, np.sin(0.1), 0)  # nose (x) down by 0.2 rad
    np.testing.assert_allclose(
        body_frame(robot(pitched), NORTH, STILL)[0, :3], [np.sin(0.2), 0, -np.cos(0.2)], atol=1e-6
    )


def test_body_frame_observation_does_not_change_when_robot_and_goal_turn_together():
    lean = np.array([np.cos(0.05), np.sin(0.05), 0, 0])
    velocity, gyro, wheels, action = (
        np.array([0.3, -0.2, 0.1]),
        (1, 2, 3),
        (4, 5, 6),
        np.array([[0.1, 0.2, 0.3]]),
    )
    before = body_frame(robot(lean, velocity, gyro, wheels), NORTH, action)
    for angle in (0.7, 2.5, -1.9):
        turn = rotation_matrix(yawed(angle)[:, None])[..., 0]
        turned = np.empty(4)
        mujoco.mju_mulQuat(turned, yawed(angle), lean)
        after = body_frame(robot(turned, turn @ velocity, gyro, wheels), turn[:2, :2] @ NORTH, action)
        np.testing.assert_allclose(after, before, atol=1e-6)


def test_body_frame_table():
    obs = body_frame(
        robot(yawed(np.pi / 2), (0.3, 0.7, 0.1), (1, 2, 3), (10, -20, 5)), NORTH, np.array([[0.1, 0.2, 0.3]])
    )
    # a robot that faces +y (yaw 90 degrees) and drives along +y moves along its own x, where its goal is
    expected = [0, 0, -1, 1, 2, 3, 0.7, -0.3, 0.1, 1, 0, 1, -2, 0.5, 0.1, 0.2, 0.3]
    np.testing.assert_allclose(obs[0], expected, atol=1e-6)


def test_world_frame_table_is_clipped_as_the_references():
    obs = world_frame(robot(yawed(0.5), (0.3, 3.0, 0.1), (1, -9, 3), (10, -50, 5)), NORTH, np.array([[0.1, 0.2, 0.3]]))
    expected = [0, 0, 0.5, 1, -2, 2, 0.3, 2.0, 0.1, 1, -2, 0.5, 0.1, 0.2, 0.3]
    np.testing.assert_allclose(obs[0], expected, atol=1e-6)


def test_standing_for_4000_steps_earns_80_and_half_a_metre_per_second_20_more():
    upright = rewards.survival(step_of(moving([[0.0], [0.0]]))) * 4000
    driving = rewards.progress(step_of(moving([[0.2], [0.5]]))) * 4000
    assert upright[0] == pytest.approx(80)
    assert driving[0] == pytest.approx(20)


def test_a_fall_earns_no_survival():
    step = step_of(moving(np.zeros((2, 2))), fallen=(True, False))
    assert rewards.survival(step).tolist() == [0, rewards.SURVIVAL_WEIGHT]


def test_rewarded_speed_is_capped_at_two_metres_per_second():
    assert rewards.progress(step_of(moving([[0.0, 0.0], [5.0, -5.0]]))).tolist() == [0.02, -0.02]


def test_action_cost_is_the_squared_length():
    step = step_of(moving([[0.0], [0.0]]), actions=np.array([[1.0, -1.0, 0.5]]))
    assert rewards.action_cost(step)[0] == pytest.approx(-0.0001 * 2.25)
