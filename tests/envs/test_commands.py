# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Commands: each robot has its own, drawn or given, and what is said of how it went is what the positions say."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from ballbot.controllers import LinearController
from ballbot.envs import COMMANDS, BallbotEnv, BallbotVectorEnv, WorldConfig, commands
from ballbot.envs.commands import Velocity
from ballbot.errors import SettingsError
from ballbot.tasks import TASKS

STILL = np.zeros((8, 3), np.float32)


@pytest.fixture
def make():
    opened = []

    def make(num_envs=8, cls=BallbotVectorEnv, **options):
        sizes = {"num_envs": num_envs} if cls is BallbotVectorEnv else {}
        opened.append(cls(**sizes, **({"terrain": "flat", "num_threads": 1} | options)))
        return opened[-1]

    yield make
    for envs in opened:
        envs.close()


def turned(vector, yaw):
    """A vector of the world, seen along a heading."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([c * vector[0] + s * vector[1], c * vector[1] - s * vector[0]])


def move(envs, i, xy):
    """Put a robot elsewhere on a plane."""
    at = envs.simulations.addresses
    here = envs.simulations.qpos[i, at.base_qpos : at.base_qpos + 2].copy()
    for start in (at.base_qpos, at.ball_qpos):
        envs.simulations.qpos[i, start : start + 2] += np.asarray(xy) - here


# -- What is drawn ----------------------------------------------------------------------------------------------------


def test_velocities_are_drawn_within_their_ranges_and_some_robots_are_to_stand(make):
    motion = {"max_speed": 0.2, "max_yaw_rate": 1.5, "stand_probability": 0.3}
    envs = make(400, command="velocity", motion=motion)
    envs.reset(seed=0)
    told = envs.command
    speeds = np.hypot(told[:, 0], told[:, 1])
    stand = ~told.any(axis=1)
    assert 0.2 < stand.mean() < 0.4
    assert speeds.max() <= 0.2 and (speeds[~stand] > 0.1).mean() == pytest.approx(0.75, abs=0.08)  # evenly over a disc
    assert 1.3 < np.abs(told[:, 2]).max() <= 1.5
    assert len(np.unique(told[~stand], axis=0)) == (~stand).sum()  # each its own


def test_velocities_are_drawn_anew_within_an_episode_and_others_are_not(make, monkeypatch):
    monkeypatch.setattr(commands, "SETTLING", 0.0)  # so that they may be told something new that soon
    envs, still = (make(40, command="velocity", motion={"resample_time": t}) for t in (0.2, 0.0))
    changes = np.zeros(40, int)
    for env in (envs, still):
        env.reset(seed=1)
    before, first, wait = envs.command, still.command, []
    since = np.zeros(40, int)
    for step in range(1, 301):
        envs.advance(np.zeros((40, 3))), still.advance(np.zeros((40, 3)))
        now = envs.command
        new = (now != before).any(axis=1)
        wait += (step - since[new]).tolist()
        since[new], changes[new], before = step, changes[new] + 1, now
    assert (still.command == first).all()
    # every 0.1 to 0.3 s, 50 to 150 steps; who is told to stand twice is not seen to change
    assert min(wait) >= 50 and changes.max() <= 6 and np.median(changes) >= 2
    assert 80 < np.median(wait) < 130


def test_points_lie_at_their_distance_and_paths_turn_within_their_limit(make):
    envs = make(200, command="point", motion={"min_distance": 0.4, "max_distance": 0.9})
    _, infos = envs.reset(seed=0)
    away = np.linalg.norm(envs.command - infos["position"], axis=1)
    assert 0.4 <= away.min() < 0.42 and 0.88 < away.max() <= 0.9
    envs = make(200, command="path", motion={"num_points": 5, "spacing": 0.3, "max_turn_deg": 20})
    _, infos = envs.reset(seed=0)
    points = np.concatenate([infos["position"][:, None], envs.command.reshape(200, 5, 2)], axis=1)
    legs = np.diff(points, axis=1)
    np.testing.assert_allclose(np.linalg.norm(legs, axis=2), 0.3)
    cosines = (legs[:, 1:] * legs[:, :-1]).sum(axis=2) / 0.09
    assert np.cos(np.radians(20.001)) <= cosines.min() < np.cos(np.radians(19))


def test_places_drawn_lie_on_the_ground(make):
    envs = make(100, terrain="perlin", num_terrains=2, command="path", motion={"spacing": 3})
    envs.reset(seed=0)
    assert np.abs(envs.command).max() == pytest.approx(5 - 0.15 - 0.5)


def test_goals_may_be_drawn_in_any_direction(make):
    envs = make(100, motion={"any_direction": True})
    envs.reset(seed=0)
    np.testing.assert_allclose(np.linalg.norm(envs.goal, axis=1), 1)
    assert (np.abs(envs.goal.mean(axis=0)) < 0.2).all()
    fixed = make(2, goal=(3, 4))
    fixed.reset()
    np.testing.assert_allclose(fixed.goal, [[0.6, 0.8]] * 2)


# -- What is told from outside ----------------------------------------------------------------------------------------


def test_the_next_observation_shows_what_was_told_and_the_next_episode_draws_again(make, monkeypatch):
    monkeypatch.setattr(commands, "SETTLING", -0.05)
    envs = make(command="velocity", motion={"resample_time": 0.05}, max_episode_steps=60)
    envs.reset(seed=0)
    drawn = envs.command
    envs.set_command([[0.1, -0.2, 0.3], [0.2, 0.0, 0.0]], ids=[2, 5])
    others = [0, 1, 3, 4, 6, 7]
    np.testing.assert_array_equal(envs.command[others], drawn[others])
    for _ in range(59):  # longer than until the others are told something new
        obs = envs.step(STILL)[0]
        np.testing.assert_allclose(obs[2, envs.layout["velocity_command"]], [0.1, -0.2, 0.3], rtol=1e-6)
        np.testing.assert_allclose(obs[5, envs.layout["velocity_command"]], [0.2, 0.0, 0.0], rtol=1e-6)
    assert (envs.command[others] != drawn[others]).any(axis=1).all()
    *_, truncated, _ = envs.step(STILL)
    assert truncated.all() and (envs.command[2] != [0.1, -0.2, 0.3]).any()


def test_one_command_for_all_and_one_at_reset(make):
    envs = make(command="point")
    envs.reset(seed=0, options={"command": [0.5, -0.5]})
    np.testing.assert_array_equal(envs.command, [[0.5, -0.5]] * 8)
    rows = np.linspace(-1, 1, 16).reshape(8, 2)
    mask = np.arange(8) == 3
    envs.reset(options={"command": rows, "reset_mask": mask})
    np.testing.assert_array_equal(envs.command[3], rows[3])
    np.testing.assert_array_equal(envs.command[~mask], [[0.5, -0.5]] * 7)
    envs.set_command([1, 1])
    assert (envs.command == 1).all()


def test_a_command_given_at_reset_leaves_the_robots_draws_as_they_are(make):
    plain, given = make(command="velocity", terrain="perlin"), make(command="velocity", terrain="perlin")
    a = plain.reset(seed=4)[1]
    b = given.reset(seed=4, options={"command": [0.1, 0, 0]})[1]
    np.testing.assert_array_equal(a["terrain_id"], b["terrain_id"])
    np.testing.assert_array_equal(plain.simulations.qpos, given.simulations.qpos)


def test_a_single_robot_is_told_likewise(make):
    env = make(cls=BallbotEnv, command="velocity")
    obs, _ = env.reset(seed=0, options={"command": [0.1, 0.2, 0.3]})
    np.testing.assert_allclose(obs[env.layout["velocity_command"]], [0.1, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_array_equal(env.command, [0.1, 0.2, 0.3])
    env.set_command([0.0, 0.0, 0.0])
    assert not env.step(np.zeros(3))[0][env.layout["velocity_command"]].any()
    assert env.config.command == "velocity" and not env.goal.any()
    with pytest.raises(ValueError, match="3 numbers"):
        env.set_command([0.1])


def test_a_goal_of_zero_means_stop(make):
    envs = make(initial_speed=0.3)
    envs.reset(seed=0)
    envs.set_command([0, 0])
    obs, rewards, *_ = envs.step(STILL)
    assert not obs[:, envs.layout["goal"]].any()
    np.testing.assert_array_equal(rewards, 0.02)  # survival alone: no speed is progress
    envs.set_command([0, -7], ids=0)
    np.testing.assert_array_equal(envs.goal[0], [0, -1])


def test_a_goal_that_robots_do_not_observe_is_not_changed(make):
    envs = make(frame="world", goal=(3, 4))
    envs.reset(seed=0)
    for values in ([0, 0], [1, 0], [[3, 4]] * 7 + [[0, 1]]):
        with pytest.raises(SettingsError, match="do not observe it; make the world with frame='body'"):
            envs.set_command(values)
        with pytest.raises(SettingsError, match="do not observe it"):
            envs.reset(options={"command": values})
    envs.set_command([3, 4])  # as it is anyway
    make(frame="world", command="velocity").reset(seed=0, options={"command": [0.1, 0, 0]})


@pytest.mark.parametrize("cls", [BallbotEnv, BallbotVectorEnv])
def test_a_goal_is_not_assigned(make, cls):
    env = make(cls=cls)
    env.reset(seed=0)
    with pytest.raises(AttributeError, match=r"goal=\(0, 0\) cannot be assigned.*set_command"):
        env.goal = (0, 0)


@pytest.mark.parametrize(
    ("command", "values", "message"),
    [
        ("goal", [1, 2, 3], r"must be 2 numbers, or \(8, 2\)"),
        ("goal", "north", "must be 2 numbers"),
        ("goal", [np.nan, 0], "finite numbers"),
        ("velocity", [0.1, 0], "must be 3 numbers"),
        ("velocity", np.zeros((3, 3)), r"\(8, 3\)"),
        ("velocity", [0.1, np.inf, 0], "finite numbers"),
        ("velocity", [0.5, 0, 0], r"0.5 m/s is beyond the motors, which reach 0.43 m/s"),
        ("velocity", [0, 0, 6], r"6 rad/s is beyond the motors, which reach 4.9"),
        ("point", [4.5, 0], "off the ground, where robots can be sent 4.35 m"),
        ("point", None, "must be 2 numbers"),
        ("path", np.zeros((5, 2)), "path of 5 points was given, this world's have 1 to 4"),
        ("path", [[0, 0], [0, 9]], "off the ground"),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(make, command, values, message):
    envs = make(terrain="perlin", num_terrains=2, command=command)
    envs.reset(seed=0)
    before = envs.command
    with pytest.raises(SettingsError, match=message):
        envs.set_command(values)
    if values is not None:
        with pytest.raises(SettingsError, match=message):
            envs.reset(options={"command": values})
    np.testing.assert_array_equal(envs.command, before)


def test_ids_that_are_none_are_refused(make):
    envs = make()
    envs.reset(seed=0)
    for ids in ([8], [-1], 0.5, [True], "all", [[0]], [0, True, 1.5]):
        with pytest.raises(SettingsError, match=r"whole numbers from 0 to 7, or a \(8,\) bool mask"):
            envs.set_command([1, 0], ids=ids)
    for nobody in (np.zeros(0, int), np.zeros(8, bool), ()):
        with pytest.raises(SettingsError, match="names no robot"):
            envs.set_command([1, 0], ids=nobody)
    with pytest.raises(SettingsError, match="names a robot twice"):
        envs.set_command([1, 0], ids=[3, 1, 3])


def test_robots_may_be_named_by_a_mask(make):
    envs = make()
    envs.reset(seed=0)
    mask = np.arange(8) % 3 == 0
    envs.set_command([[1, 0], [0, -1], [-1, 0]], ids=mask)
    np.testing.assert_array_equal(envs.command[mask], [[1, 0], [0, -1], [-1, 0]])
    np.testing.assert_array_equal(envs.command[~mask], [[0, 1]] * 5)
    np.testing.assert_array_equal(envs.heights(mask, np.zeros((3, 2))), np.zeros(3))


@pytest.mark.parametrize(
    ("command", "words"), [("goal", "direction"), ("velocity", "rad/s"), ("point", "x, y of a pl")]
)
def test_a_command_of_another_shape_is_told_what_its_numbers_are(make, command, words):
    for cls in (BallbotEnv, BallbotVectorEnv):
        envs = make(cls=cls, command=command)
        envs.reset(seed=0)
        for values in ([0.1] * 4, [True, False, False][: envs.command.shape[-1]], [0.1, True], [[0.1, 0.1]] * 5):
            with pytest.raises(SettingsError, match=f"must be . numbers.*{words}") as error:
                envs.set_command(values)
            assert ("a row a robot" in str(error.value)) == (cls is BallbotVectorEnv)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"command": "velocty"}, "did you mean 'velocity'"),
        ({"command": "velocity", "motion": {"max_sped": 0.1}}, "no option 'max_sped': did you mean 'max_speed'"),
        ({"command": "velocity", "motion": {"max_speed": -1}}, "max_speed must be a number from 0 to 1"),
        ({"command": "velocity", "motion": {"max_speed": 0.9}}, "0.9 m/s is beyond the motors"),
        ({"command": "velocity", "motion": {"resample_time": 3.0}}, "resample_time = 3 s .* use 3.1 or more, or 0"),
        ({"command": "point", "motion": {"min_distance": 2, "max_distance": 1}}, "min_distance = 2.* is above"),
        (
            {"command": "point", "terrain": "hills", "motion": {"max_distance": 5}},
            "impossible ranges: max_distance = 5",
        ),
        (
            {"command": "point", "terrain": "hills", "terrain_length": 2.0},
            "max_distance = 1.5 m.* 0.36 m from .*larg",
        ),
        ({"command": "path", "terrain": "hills", "terrain_length": 2.0}, "spacing = 0.5 m, .* 0.36 m from its middle"),
        ({"command": "point", "goal": (1, 0)}, "is for command='goal'"),
        ({"motion": {"x": 0, "y": 0}}, "must be a direction"),
        ({"terrain": "hills", "motion": {"distance": 5.0}}, "distance = 5 m, .* 4.35 m from its middle"),
        ({"motion": {"distance": -1.0}}, "distance must be a number from 0 to 100"),
        ({"motion": 3}, "motion"),
    ],
)
def test_impossible_commands_are_refused_by_name(options, message):
    with pytest.raises(SettingsError, match=message):
        BallbotVectorEnv(2, **{"terrain": "flat", "num_terrains": 2, **options})


# -- How it went ------------------------------------------------------------------------------------------------------


def test_velocity_errors_are_what_positions_and_headings_say(make):
    """After the first 1.5 s, root mean squares, against MuJoCo's own state."""
    envs = make(4, command="velocity", initial_speed=0.2, motion={"resample_time": 0}, tilt_limit_deg=170)
    envs.reset(seed=0, options={"command": [0.1, -0.05, 0.2]})
    at, squares = envs.simulations.addresses, []
    for step in range(1, 901):
        infos = envs.advance(np.zeros((4, 3)))[4]
        w, x, y, z = envs.simulations.qpos[:, at.base_qpos + 3 : at.base_qpos + 7].T
        yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        vx, vy = envs.simulations.qvel[:, at.base_qvel : at.base_qvel + 2].T
        error = turned((vx, vy), yaw) - [[0.1], [-0.05]]
        if step * 0.002 > 1.5:
            squares.append((error**2).sum(axis=0))
        else:
            assert np.isnan(infos["measures"]["velocity_error"]).all()
    np.testing.assert_allclose(infos["measures"]["velocity_error"], np.sqrt(np.mean(squares, axis=0)), rtol=1e-6)
    assert np.isfinite(infos["measures"]["yaw_rate_error"]).all()


@pytest.mark.parametrize(("asked", "success"), [(0.0, True), (0.4, False)])
def test_a_robot_that_keeps_its_velocity_succeeds_and_another_misses(make, asked, success):
    """A robot that lies still, since a tilt counts for nothing here, keeps a velocity of 0."""
    envs = make(2, command="velocity", motion={"resample_time": 0}, tilt_limit_deg=180, max_episode_steps=3000)
    envs.reset(seed=0, options={"command": [asked, 0, 0]})
    for _ in range(3000):
        *_, infos = envs.advance(np.zeros((2, 3)))
        told = envs.world.told
        told.errors[:2, :] *= told.age > 2000  # what it did until it lay still
    assert (infos["success"] == success).all() and (infos["missed"] == (not success)).all()
    assert not infos["failure"].any()


def test_who_never_had_the_time_to_settle_is_no_success(make):
    envs = make(2, command="velocity", max_episode_steps=600)
    envs.reset(seed=0, options={"command": [0, 0, 0]})
    for _ in range(600):
        envs.simulations.qvel[:] = 0.0  # however still it is
        *_, infos = envs.advance(np.zeros((2, 3)))
    assert not infos["failure"].any() and not infos["success"].any() and infos["missed"].all()


@pytest.mark.parametrize(("turn", "success"), [(0.1, True), (0.3, False)])
def test_a_success_keeps_the_yaw_rate_too(make, turn, success):
    envs = make(2, command="velocity", motion={"resample_time": 0}, max_episode_steps=900)
    envs.reset(seed=0, options={"command": [0, 0, turn]})
    for _ in range(900):  # it does not turn
        for i in range(2):
            envs.simulations.place(i, 0)
        *_, infos = envs.advance(np.zeros((2, 3)))
    assert (infos["success"] == success).all()


def test_arrival_is_where_the_robot_is(make):
    envs = make(3, command="point", motion={"radius": 0.1}, max_episode_steps=20)
    _, infos = envs.reset(seed=0, options={"command": [[1, 0], [0, 0], [-1, 2]]})
    move(envs, 0, [0.95, 0.0])
    for step in range(1, 21):
        if step == 11:
            move(envs, 2, [-1, 1.95])
        *_, infos = envs.advance(np.zeros((3, 3)))
    measures = infos["measures"]
    away = np.linalg.norm(infos["position"] - [[1, 0], [0, 0], [-1, 2]], axis=1)
    np.testing.assert_allclose(measures["distance"], away)
    assert (away < 0.1).all() and measures["arrived"].tolist() == [1, 1, 1]
    np.testing.assert_allclose(measures["arrival_time"], [0.002, 0.002, 0.022])
    assert infos["success"].all()
    assert not envs.goal.any()  # who is there is to stay


def test_who_is_to_come_a_distance_along_the_goal_succeeds_by_where_the_end_finds_it(make):
    options = {"motion": {"any_direction": True, "distance": 0.5}, "max_episode_steps": 10}
    envs = make(4, **options)
    _, infos = envs.reset(seed=0)
    goal = envs.goal.copy()
    assert not infos["measures"]["travelled"].any() and np.isnan(infos["measures"]["arrival_time"]).all()
    left = np.stack([-goal[:, 1], goal[:, 0]], axis=1)
    places = [0.6 * goal[0] + left[0], 0.4 * goal[1] + left[1], 0.6 * goal[2], -0.6 * goal[3]]
    for i, place in enumerate(places):
        move(envs, i, place)
    for step in range(10):
        if step == 5:
            move(envs, 2, 0.3 * goal[2])  # goes back again
        *_, infos = envs.advance(np.zeros((4, 3)))
    np.testing.assert_allclose(infos["measures"]["travelled"], [0.6, 0.4, 0.3, -0.6], atol=5e-3)
    assert infos["success"].tolist() == [True, False, False, False] and infos["missed"].tolist() == [False, *[True] * 3]
    np.testing.assert_allclose(infos["measures"]["arrival_time"], [0.002, np.nan, 0.002, np.nan])
    assert "measures" not in make(1).reset(seed=0)[1] and "missed" not in make(1).reset(seed=0)[1]


def test_mixed_is_a_world_by_name():
    single: Any = gym.make("BallbotMixed-v0").unwrapped
    assert single.config == WorldConfig(**TASKS["mixed"])


@pytest.mark.parametrize("task", [task for task in TASKS if task != "mixed"])
def test_a_task_is_a_world_by_name_in_which_straight_on_leads_off(task):
    name = f"Ballbot{task.title()}-v0"
    single: Any = gym.make(name).unwrapped
    assert single.config == WorldConfig(**TASKS[task])
    envs = gym.make_vec(name, 8, num_terrains=8, num_threads=1)
    obs, _ = envs.reset(seed=0)
    straight, began, ended = LinearController(0.002, target_speed=0.25), np.ones(8, bool), np.zeros(8, bool)
    for _ in range(4000):
        obs, _, terminated, truncated, infos = envs.step(straight(obs, began))
        began = terminated | truncated
        if "final_info" in infos:
            ended |= infos["final_info"]["off_road"] & infos["_final_info"]
            assert (infos["final_info"]["off_road"] <= infos["final_info"]["failure"]).all()
        if ended.sum() >= 4:
            break
    envs.close()
    assert ended.sum() >= 4


def test_who_does_not_arrive_has_no_time_of_arrival_and_misses(make):
    envs = make(2, command="point", max_episode_steps=5)
    envs.reset(seed=0, options={"command": [1, 1]})
    for _ in range(5):
        *_, infos = envs.step(np.zeros((2, 3)))
    final = infos["final_info"]
    assert np.isnan(final["measures"]["arrival_time"]).all() and not final["measures"]["arrived"].any()
    assert final["missed"].all() and not final["success"].any() and not final["failure"].any()


def test_points_of_a_path_count_one_after_the_other(make):
    envs = make(1, command="path", motion={"num_points": 3, "radius": 0.1}, max_episode_steps=100)
    envs.reset(seed=0, options={"command": [[[0.5, 0], [0.5, 0.5]]]})  # the last of two stands for the third
    offs, reached = [], []
    for place in ([0.25, 0.05], [0.5, 0.5], [0.45, 0.0], [0.45, 0.3], [0.5, 0.45], [0.5, 0.45], [3.0, 3.0]):
        move(envs, 0, place)
        *_, infos = envs.advance(np.zeros((1, 3)))
        offs.append(infos["measures"]["off_path"][0])
        reached.append(infos["measures"]["reached"][0])
    # the second point does not count before the first
    np.testing.assert_allclose(reached, [0, 0, 1 / 2, 1 / 2, 1, 1, 1])  # the last two are one place
    assert offs[0] == pytest.approx(0.05, abs=2e-3)
    assert offs[1] == pytest.approx(np.sqrt((0.05**2 + 0.5**2) / 2), abs=2e-3)
    assert offs[-1] == offs[-2]  # what comes after the arrival does not count
    assert infos["measures"]["arrived"][0] == 0 and np.isfinite(infos["measures"]["arrival_time"][0])
    assert infos["measures"]["arrival_time"][0] == pytest.approx(5 * 0.002)
    for _ in range(93):
        *_, infos = envs.advance(np.zeros((1, 3)))
    assert infos["missed"].all()  # it was there, and did not stay
    envs.reset(seed=0, options={"command": [[[0.5, 0]]]})
    for _ in range(100):
        move(envs, 0, [0.45, 0.0])
        *_, infos = envs.advance(np.zeros((1, 3)))
    assert infos["success"].all() and infos["measures"]["reached"][0] == 1


def test_targets_are_seen_along_the_heading_and_far_ones_as_far_as_2_m(make):
    envs = make(4, command="path", motion={"num_points": 2})
    obs, _ = envs.reset(seed=3, options={"command": [[0.3, 0.4], [30, 40]]})
    w, _, _, z = envs.simulations.qpos[:, 3:7].T
    for i in range(4):
        yaw = 2 * np.arctan2(z[i], w[i])
        np.testing.assert_allclose(obs[i, envs.layout["target"]], turned((0.3, 0.4), yaw), atol=0.02)
        np.testing.assert_allclose(obs[i, envs.layout["next_target"]], turned((1.2, 1.6), yaw), atol=0.05)


def test_who_is_told_to_stand_is_shown_the_way_back(make):
    envs = make(1, command="velocity", motion={"station_keeping": True, "resample_time": 0}, tilt_limit_deg=170)
    envs.reset(seed=0, options={"command": [0, 0, 0]})
    for _ in range(760):  # it settles for 1.5 s
        obs, *_ = envs.advance(np.zeros((1, 3)))
    place = envs.world.robots.position[:2, 0].copy()
    station = envs.world.told.station[:, 0].copy()
    move(envs, 0, station + np.array([0.3, 0.0]))
    obs, _, _, _, infos = envs.advance(np.zeros((1, 3)))
    assert np.linalg.norm(place - station) < 0.1
    assert np.linalg.norm(obs[0, envs.layout["station"]]) == pytest.approx(0.3, abs=0.01)
    assert infos["measures"]["drift"][0] == pytest.approx(0.3, abs=0.01)
    envs.set_command([0.1, 0, 0])
    obs, _, _, _, infos = envs.advance(np.zeros((1, 3)))
    assert not obs[0, envs.layout["station"]].any() and np.isnan(infos["measures"]["drift"][0])


# -- State ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["goal", "distance", "velocity", "point", "path"])
@pytest.mark.parametrize("action_repeat", [1, 3])
def test_states_in_mid_episode_go_on_to_the_bit(make, command, action_repeat, monkeypatch):
    monkeypatch.setattr(commands, "SETTLING", -0.05)
    options = {"max_episode_steps": 90, "action_repeat": action_repeat, "terrain": "perlin"}
    options |= {"motion": {"distance": 0.01}} if command == "distance" else {"command": command}
    if command == "velocity":
        options["motion"] = {"resample_time": 0.05}
    envs, other = make(4, num_terrains=3, **options), make(4, num_terrains=3, **options)
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.5, 0.5, (80, 4, 3))
    for a in actions[:25]:
        envs.step(a)
    envs.set_command(envs.command[0] * 0.5, ids=[1])
    state = envs.get_state()
    other.set_state(state)
    for a in actions[25:]:
        mine, theirs = envs.step(a), other.step(a)
        for x, y in zip(mine[:4], theirs[:4], strict=True):
            np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(envs.command, other.command)
        for name, value in mine[4].get("measures", {}).items():
            np.testing.assert_array_equal(value, theirs[4]["measures"][name])


# -- Those of others --------------------------------------------------------------------------------------------------


def registered(monkeypatch, **methods):
    kind: Any = dataclass(frozen=True)(type("Mine", (Velocity,), methods))
    monkeypatch.setitem(COMMANDS, "mine", kind)
    return {"command": "mine", "terrain": "flat", "num_threads": 1}


def test_a_command_of_ones_own_is_used_by_its_name(monkeypatch):
    def draw(self, rng, position, heading):
        return np.array([0.0, rng.uniform(0, self.max_speed), 0.0])

    envs = BallbotVectorEnv(5, **registered(monkeypatch, draw=draw), motion={"max_speed": 0.1})
    envs.reset(seed=0)
    assert not envs.command[:, [0, 2]].any() and 0 < envs.command[:, 1].max() <= 0.1


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        ("draw", lambda self, rng, position, heading: 0.1, "draw.. returned 0.1, expected 3 numbers"),
        ("draw", lambda self, rng, position, heading: np.full(3, np.nan), "draw.. returned .*nan"),
        ("draw", lambda self, rng, position, heading: 1 / 0, "draw.. raised ZeroDivisionError"),
        ("follow", lambda self, told, robots: told.nothing, "follow.. raised AttributeError"),
        ("measures", lambda self, told, robots: {"mine": np.zeros(2)}, "measure 'mine' returned an array of shape"),
        ("success", lambda self, told: np.zeros(5), "success.. returned float64 of shape .5,., expected .5,. bools"),
        ("success", lambda self, told: True, "success.. returned bool of shape"),
    ],
)
def test_a_command_that_is_wrong_is_named_before_anything_is_simulated(monkeypatch, name, method, message):
    with pytest.raises(SettingsError, match=f"command Mine: {message}"):
        BallbotVectorEnv(5, **registered(monkeypatch, **{name: method}))
