# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""What differs from episode to episode: masses, friction, motors."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import mujoco
import numpy as np
import pytest
import torch
from driving import actions, drive, small
from mujoco.batch import Batch

from ballbot import presets
from ballbot.controllers import make_controller
from ballbot.envs import ROBOTS, BallbotEnv, RobotConfig, WorldConfig
from ballbot.envs.randomize import AXES, RANDOMIZED, SLOPES, TOLD, Axis, Parts, Randomizer
from ballbot.envs.terrain import TERRAINS, Ground
from ballbot.errors import SettingsError
from ballbot.lqr import LQRController
from ballbot.settings import Range

WITH_ROLLERS = ROBOTS["rollers"]


def fields_of(batch, names, sim):
    return {name: np.array(batch.expanded(name)[sim]) for name in names}


@pytest.mark.parametrize(
    ("name", "robot"),
    [
        (name, robot)
        for name, axis in AXES.items()
        for robot in ("reference", "rollers")
        if axis.fields and name not in SLOPES and not (robot == "reference" and "roller_dofs" in axis.needs)
    ],
)
def test_an_axis_changes_its_fields_and_gives_them_back(name, robot):
    model = ROBOTS[robot].spec().compile()
    batch, axis = Batch(model, 2, 1), AXES[name]
    high = axis.nominal + axis.typical * (1 if axis.limits.holds(axis.nominal + axis.typical) else -1)
    randomizer = Randomizer({name: (min(axis.nominal, high), max(axis.nominal, high))}, [model], batch)
    nominal = fields_of(batch, axis.fields, 0)
    randomizer.put(0, 0, np.array([high]))
    changed = fields_of(batch, axis.fields, 0)
    assert any(not np.array_equal(changed[field], nominal[field]) for field in axis.fields)
    assert all(np.array_equal(x, nominal[field]) for field, x in fields_of(batch, axis.fields, 1).items())
    randomizer.put(0, 0, np.array([axis.nominal]))
    for field, x in fields_of(batch, axis.fields, 0).items():
        np.testing.assert_allclose(x, nominal[field], rtol=1e-15, atol=0)


def test_a_heavier_body_moves_as_one_that_was_built_so():
    light = ROBOTS["mini"]
    x, y, z = (1.3 * each for each in light.body_inertia)
    built = replace(light, body_mass=1.3 * light.body_mass, body_inertia=(x, y, z))
    changed = small(1, robot="mini", ranges={"body_mass": (1.3, 1.3)}, initial_tilt_deg=3.0)
    made = small(1, robot=built, initial_tilt_deg=3.0)
    unchanged = small(1, robot="mini", initial_tilt_deg=3.0)
    courses = []
    for env in (changed, made, unchanged):
        env.reset(seed=3)
        courses.append(drive(env, actions(100, 1))[:, 0, :8])  # vertically contacts give way a little more
    assert np.abs(courses[0] - courses[1]).max() < 0.003 < 0.03 < np.abs(courses[2] - courses[1]).max()


def test_the_centre_of_mass_of_all_that_is_the_body_moves_by_what_is_said():
    model = RobotConfig().spec().compile()
    batch = Batch(model, 1, 1)
    Randomizer({"com_x": (0.01, 0.01)}, [model], batch).put(0, 0, np.array([0.01]))
    moved = batch.get_model(0)

    def centre(of):
        data = mujoco.MjData(of)
        mujoco.mj_resetDataKeyframe(of, data, of.key("settled").id)
        mujoco.mj_forward(of, data)
        wheels = {int(of.joint(f"wheel_{i}").bodyid[0]) for i in range(3)}
        body = [b for b in range(1, of.nbody) if b not in wheels and of.body(b).rootid[0] == of.body("base").id]
        return np.average(data.xipos[body], axis=0, weights=of.body_mass[body])

    np.testing.assert_allclose(centre(moved) - centre(model), [0.01, 0, 0], atol=1e-9)


def test_gravity_that_leans_is_as_strong_and_rolls_a_ball_down():
    env = small(1, ranges={"gravity_x": (3, 3)}, initial_tilt_deg=0.0)
    env.reset(seed=0)
    gravity = env.simulations.batch.expanded("opt.gravity")[0]
    assert np.linalg.norm(gravity) == pytest.approx(9.81)
    assert np.degrees(np.arctan2(gravity[0], -gravity[2])) == pytest.approx(3)
    for _ in range(150):
        env.step(np.zeros((1, 3), np.float32))
    assert env.world.robots.velocity[0, 0] > 0.02 > abs(env.world.robots.velocity[1, 0])


def test_what_is_put_on_top_is_carried_there():
    model = ROBOTS["mini"].spec().compile()
    batch = Batch(model, 1, 1)
    Randomizer({"payload": (0.4, 0.4)}, [model], batch).put(0, 0, np.array([0.4]))
    base, carried = model.body("base").id, batch.get_model(0)
    mass, top = model.body_mass[base], ROBOTS["mini"].body_top - ROBOTS["mini"].imu_height
    assert carried.body_mass[base] == pytest.approx(mass + 0.4)
    middle = (mass * model.body_ipos[base] + 0.4 * np.array([0, 0, top])) / (mass + 0.4)
    np.testing.assert_allclose(carried.body_ipos[base], middle, atol=1e-9)
    reduced = mass * 0.4 / (mass + 0.4) * (top - model.body_ipos[base, 2]) ** 2
    np.testing.assert_allclose(carried.body_inertia[base] - model.body_inertia[base], [reduced, reduced, 0], atol=1e-9)


def test_a_wheel_may_be_weak_and_the_others_are_not():
    env = small(2, ranges={"weak_wheel": (0.0, 0.0)})
    env.reset(seed=0)
    for _ in range(10):
        env.step(np.full((2, 3), 0.1, np.float32))
    first, second, third = np.abs(env.world.robots.wheel_speeds[:, 0])
    assert first < 0.3 * min(second, third)


def test_wind_leans_a_robot_its_way():
    env = small(1, ranges={"wind_y": (1.5, 1.5)}, initial_tilt_deg=0.0)
    env.reset(seed=0)
    for _ in range(100):
        env.step(np.zeros((1, 3), np.float32))
    lean = env.world.robots.rotation[:2, 2, 0]
    assert lean[1] > 0.005 > abs(lean[0])


def test_wind_blows_all_the_time_and_pushes_come_again():
    env = small(1, ranges={"wind_y": (0.5, 0.5), "push_x": (0.4, 0.4), "push_every": (0.5, 0.5)})
    controller, began = make_controller(LQRController, env.dt, env.config), np.ones(1, bool)
    obs, _ = env.reset(seed=0)
    base, felt = env.simulations.model.body("base").id, []
    for _ in range(600):
        obs, _, fallen, _, _ = env.step(controller(obs, began))
        assert not fallen.any()
        began = np.zeros(1, bool)
        felt.append(env.simulations.batch.bind("xfrc_applied")[0, base, :3].copy())
    along, aside, up = np.array(felt).T
    assert (aside == 0.5).all() and not up.any()
    assert np.array_equal(np.flatnonzero(along), [*range(250, 300), *range(500, 550)])
    assert along[260] * 0.1 == pytest.approx(0.4)


def test_each_episode_draws_anew_evenly_and_tells_it():
    env = small(64, ranges={"body_mass": (0.8, 1.2), "com_z": (-0.02, 0.0)}, max_episode_steps=2)
    _, info = env.reset(seed=0)
    seen = [info["randomized"]["body_mass"]]
    for _ in range(60):
        _, _, _, truncated, info = env.step(np.zeros((64, 3), np.float32))
        if truncated.any():
            continue
        seen.append(info["randomized"]["body_mass"])
    masses = np.unique(np.concatenate(seen))
    assert len(masses) > 1000 and masses.min() >= 0.8 and masses.max() <= 1.2
    assert abs(masses.mean() - 1) < 0.01 and abs(masses.std() - 0.4 / np.sqrt(12)) < 0.01
    tilts = info["randomized"]["com_z"]
    assert (tilts >= -0.02).all() and (tilts <= 0).all() and len(set(tilts.tolist())) == 64


def test_starts_and_commands_are_those_without():
    options = {"terrain": "perlin", "command": "velocity", "num_terrains": 4, "initial_speed": 0.2}
    plain, random = small(8, **options), small(8, **options, randomize="strong")
    sensed, others = plain.reset(seed=5)[0], random.reset(seed=5)[0]
    assert np.array_equal(sensed[:, 9:], others[:, 9:]) and np.abs(sensed - others).max() > 0.01  # but how they balance
    assert np.array_equal(plain.simulations.terrain_ids, random.simulations.terrain_ids)
    other = small(8, **options, randomize="strong")
    other.reset(seed=5)
    assert np.array_equal(other.simulations.randomizer.values, random.simulations.randomizer.values)
    other.reset(seed=6)
    assert not np.array_equal(other.simulations.randomizer.values, random.simulations.randomizer.values)


@pytest.mark.parametrize("family", [False, True])
def test_a_saved_state_goes_on_bit_for_bit(family):
    options = {"randomize": "strong", "terrain": "perlin", "num_terrains": 4, "max_episode_steps": 30}
    if family:
        options |= {"vary": {"ball_radius": (0.085, 0.095)}, "num_robots": 3}
    env, other = small(4, **options), small(4, **options)
    env.reset(seed=1)
    drive(env, actions(20, 4))
    state = env.get_state()
    asked = actions(60, 4, seed=1)
    first = drive(env, asked)
    other.set_state(state)
    assert np.array_equal(first, drive(other, asked))
    env.set_state(state)
    assert np.array_equal(first, drive(env, asked))
    state["simulations"]["randomized"] = state["simulations"]["randomized"][:2]
    with pytest.raises(ValueError, match="randomized"):
        other.set_state(state)


def test_robots_get_the_values_that_are_given_and_the_others_are_drawn_as_ever():
    given = {"com_x": np.array([-0.05, 0.0, 0.011, 0.03]), "ground_friction": np.full(4, 0.6)}  # beyond "strong"
    env, drawn = small(4, randomize="strong"), small(4, randomize="strong")
    obs, info = env.reset(seed=3, options={"randomized": given})
    others, ball = drawn.reset(seed=3)[0], env.simulations.addresses.ball_qpos
    assert np.array_equal(env.simulations.qpos[:, ball:], drawn.simulations.qpos[:, ball:])
    assert np.abs(obs - others)[:3].max(axis=1).min() > 0.01  # they lean in balance
    told, by_chance = info["randomized"], drawn.simulations.randomizer.by_name
    for name, values in by_chance.items():
        assert np.array_equal(told[name], given.get(name, values)), name
    for e in (env, drawn):
        e.reset()
    assert np.array_equal(env.simulations.randomizer.values, drawn.simulations.randomizer.values)


def test_robots_with_given_values_move_as_those_of_a_world_in_which_all_have_them():
    given = {"com_x": 0.011, "ground_friction": 0.6, "push_x": 0.3, "push_every": 0.2}
    env = small(
        2, ranges={"com_x": (-0.02, 0.02), "ground_friction": (0.4, 1.2), "push_x": (0, 1), "push_every": (1, 2)}
    )
    alike = small(2, ranges={name: (value, value) for name, value in given.items()})
    env.reset(seed=3, options={"randomized": given})
    alike.reset(seed=3)
    assert np.array_equal(drive(env, actions(150, 2)), drive(alike, actions(150, 2)))


def test_only_robots_that_are_reset_get_what_is_given_and_until_their_episodes_end():
    env = small(3, ranges={"payload": (0.0, 0.1)}, max_episode_steps=3)
    env.reset(seed=0)
    before = env.simulations.randomizer.values[0].copy()
    mask = np.array([False, True, False])
    _, info = env.reset(options={"reset_mask": mask, "randomized": {"payload": [1.0, 2.0, 3.0]}})
    assert info["randomized"]["payload"].tolist() == [before[0], 2.0, before[2]]
    for _ in range(3):
        _, _, _, _, info = env.step(np.zeros((3, 3), np.float32))
    assert (info["randomized"]["payload"] <= 0.1).all()


def test_given_values_of_a_single_robot():
    env = BallbotEnv(terrain="flat", ranges={"payload": (0.0, 0.1)})
    assert env.reset(seed=0, options={"randomized": {"payload": 2}})[1]["randomized"] == {"payload": 2.0}


def test_a_state_with_given_values_goes_on_bit_for_bit():
    env, other = (small(4, randomize="strong", max_episode_steps=30) for _ in range(2))
    env.reset(seed=1, options={"randomized": {"body_mass": [0.5, 1, 2, 3], "com_y": 0.04}})
    drive(env, actions(10, 4))
    state = env.get_state()
    asked = actions(60, 4, seed=1)
    first = drive(env, asked)
    other.set_state(state)
    assert other.simulations.randomizer.by_name["com_y"].tolist() == [0.04] * 4
    assert np.array_equal(first, drive(other, asked))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bodymass": 1}, "randomized has no axis 'bodymass': did you mean 'body_mass'"),
        ({"payload": 1}, r"randomized\['payload'\] was given, and in this world it is always 0: give it a range"),
        ({"body_mass": 0}, r"randomized\['body_mass'\] must lie from 0.1 to 10, got 0"),
        ({"body_mass": [1, 1, np.nan, 1]}, r"randomized\['body_mass'\] must lie from 0.1 to 10, got nan"),
        ({"body_mass": [1, 1]}, r"must be a number or \(4,\) numbers, got int64 \(2,\)"),
        ({"body_mass": "1"}, r"must be a number or \(4,\) numbers"),
        ({"body_mass": None}, r"must be a number or \(4,\) numbers"),
        ({"body_mass": True}, r"must be a number or \(4,\) numbers"),
        ([1.0], "must be values by name"),
    ],
)
def test_impossible_values_are_refused_and_nothing_begins(given, message):
    env = small(4, ranges={"body_mass": (0.8, 1.2)})
    env.reset(seed=0)
    state = env.get_state()
    with pytest.raises(SettingsError, match=message):
        env.reset(options={"randomized": given})
    assert all(np.array_equal(state["simulations"][k], v) for k, v in env.get_state()["simulations"].items())
    assert np.array_equal(state["chance_streams"], env.get_state()["chance_streams"])


def test_values_are_refused_where_nothing_differs():
    with pytest.raises(SettingsError, match="nothing differs from episode to episode: leave it out, or make the world"):
        small(4).reset(seed=0, options={"randomized": {"body_mass": 1}})


def test_a_robot_of_a_family_is_changed_from_what_it_is():
    env = small(8, vary={"body_mass": (2.0, 5.0)}, num_robots=4, ranges={"body_mass": (2.0, 2.0)})
    env.reset(seed=0)
    base = env.simulations.model.body("base").id
    masses = env.simulations.batch.expanded("body_mass")[:, base]
    nominal = [env.simulations.model_of(robot).body_mass[base] for robot in env.simulations.robot_ids]
    np.testing.assert_allclose(masses, 2 * np.array(nominal))
    assert len(set(masses.tolist())) > 1


def test_the_value_function_may_be_told():
    env = small(4, ranges={"body_mass": (1.2, 1.2), "com_x": (-0.01, -0.01)}, privileged_fields=("randomized",))
    told = env.reset(seed=0)[0]["privileged"]
    expected = np.zeros(len(TOLD), np.float32)
    expected[TOLD.index("body_mass")], expected[TOLD.index("com_x")] = 1, -1
    np.testing.assert_allclose(told, np.tile(expected, (4, 1)), rtol=1e-6)
    assert not small(4, privileged_fields=("randomized",)).reset(seed=0)[0]["privileged"].any()


def test_a_name_is_spelled_out_and_single_ranges_replace_its():
    config = WorldConfig(randomize="strong", ranges={"body_mass": (1.0, 1.0)})
    assert config.randomize == "none"
    assert config.ranges == {name: span for name, span in RANDOMIZED["strong"].items() if name != "body_mass"}
    assert WorldConfig.of(randomize={"body_mass": (0.9, 1.1)}).ranges == {"body_mass": (0.9, 1.1)}
    assert not config.task().ranges, "whoever is judged is judged in the world as it is meant"


def test_ranges_are_in_one_order_however_they_are_given():
    one = WorldConfig(ranges={"com_x": (0.0, 0.01), "body_mass": (0.8, 1.2)})
    other = WorldConfig(ranges={"body_mass": (0.8, 1.2), "com_x": (0.0, 0.01)})
    assert list(one.ranges) == list(other.ranges) == ["body_mass", "com_x"]
    env = small(2, ranges=one.ranges)
    env.reset(seed=0)
    state = env.get_state()
    state["simulations"]["randomized"][0] = 0.001
    with pytest.raises(ValueError, match=r"'randomized' has values of body_mass that lie not from 0\.1 to 10"):
        env.set_state(state)


def test_a_file_of_ranges(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"body_mass": [0.9, 1.3]}))
    assert WorldConfig(randomize=str(path)).ranges == {"body_mass": (0.9, 1.3)}
    for text, message in (
        ("[1, 2]", "must be ranges by name"),
        ("{", "is no JSON"),
        ('{"bodymass": [1, 1]}', "did you mean 'body_mass'"),
    ):
        path.write_text(text)
        with pytest.raises(SettingsError, match=message):
            WorldConfig(randomize=str(path))
    with pytest.raises(SettingsError, match="cannot be read"):
        WorldConfig(randomize=str(tmp_path / "none.json"))
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(SettingsError, match="is no ordinary file"):
        WorldConfig(randomize=str(tmp_path / "pipe.json"))
    path.write_text(" " * 200_000)
    with pytest.raises(SettingsError, match="is larger than"):
        WorldConfig(randomize=str(path))


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"bodymass": (1, 1)}, "did you mean 'body_mass'"),
        ({"body_mass": (1.2, 0.8)}, "must rise: write 0.8 1.2"),
        ({"body_mass": (0, 1)}, "must lie from 0.1 to 10, got 0"),
        ({"body_mass": (float("nan"), 1)}, "must be a finite number"),
        ({"body_mass": ("a", 1)}, "must be a number"),
        ({"body_mass": 1.2}, "must be a range, from and to"),
        ({"body_mass": (1, 2, 3)}, "must be a range, from and to"),
        ({"com_x": (-1, 1)}, "must lie from -0.1 to 0.1"),
        ([1], "must be a mapping"),
    ],
)
def test_impossible_ranges_are_refused(ranges, message):
    with pytest.raises(SettingsError, match=message):
        WorldConfig(ranges=ranges)


def test_what_a_robot_does_not_have_is_refused_and_other_names_are_offered():
    with pytest.raises(SettingsError, match=r"randomize\.roller_damping: this robot has no rollers, leave it out"):
        small(2, ranges={"roller_damping": (0.5, 2)})
    model = ROBOTS["rollers"].spec().compile()
    bare = dataclasses.replace(Parts.of(model), wheel_pairs=[])
    for name in ("wheel_friction", "ground_friction", "contact_time"):
        with mock.patch.object(Parts, "of", return_value=bare), pytest.raises(SettingsError, match="no <pair>"):
            Randomizer({name: (0.9, 1.1)}, [model], Batch(model, 1, 1))
    with pytest.raises(SettingsError, match="did you mean 'strong'"):
        WorldConfig(randomize="stong")


def test_an_axis_of_ones_own(monkeypatch):
    def load(row, parts, kg):
        row["body_mass"][parts.base] += kg

    monkeypatch.setitem(
        AXES, "load", Axis("Mass in the middle of the body, kg.", 0.0, Range(0, 5), ("body_mass",), load)
    )
    env = small(3, ranges={"load": (2.0, 2.0)}, privileged_fields=("randomized",))
    obs, info = env.reset(seed=0)
    base = env.simulations.model.body("base").id
    masses = env.simulations.batch.expanded("body_mass")[:, base]
    np.testing.assert_allclose(masses, env.simulations.model.body_mass[base] + 2)
    assert info["randomized"]["load"].tolist() == [2.0] * 3 and not obs["privileged"].any()


def test_late_motors_follow_what_is_asked_by_a_low_pass_and_those_with_play_lose_some_of_it():
    env = small(2, ranges={"motor_lag": (20, 20), "dead_zone": (0.05, 0.05)})
    env.reset(seed=0)
    asked, given = np.full((2, 3), 0.2, np.float32), []
    for _ in range(30):
        env.step(asked)
        given.append(env.simulations.torques[0, 0])
    full = -env.simulations.mechanics.torque * (0.2 - 0.05)
    np.testing.assert_allclose(given, full * (1 - (1 + 2 / 20) ** -np.arange(1.0, 31)), rtol=1e-6)
    env.reset(seed=0)
    env.step(np.full((2, 3), -0.04, np.float32))
    assert (env.simulations.torques == 0).all()  # nor does an episode begin with the torque of the one before


def test_noise_of_torques_is_as_large_as_said_another_each_step_and_no_other_robots():
    env = small(3, ranges={"torque_noise": (0.1, 0.1)})
    env.reset(seed=0)
    torques = []
    for _ in range(400):
        env.step(np.zeros((3, 3), np.float32))
        torques.append(env.simulations.torques)
    noise = np.array(torques).reshape(400, -1) / env.simulations.mechanics.torque
    assert noise.std(axis=0) == pytest.approx(0.1, rel=0.15) and np.abs(noise.mean(axis=0)).max() < 0.02
    assert np.abs(np.corrcoef(noise.T) - np.eye(9)).max() < 0.2 > np.abs(np.corrcoef(noise[1:, 0], noise[:-1, 0])[0, 1])
    alone = small(1, ranges={"torque_noise": (0.1, 0.1)})
    alone.reset(seed=0)
    alone.step(np.zeros((1, 3), np.float32))
    np.testing.assert_array_equal(alone.simulations.torques[0], torques[0][0])
    alone.step(np.ones((1, 3), np.float32))
    assert np.abs(alone.simulations.torques).max() <= alone.simulations.mechanics.torque


@pytest.mark.parametrize("sensors", ["perfect", "cheap"])
def test_motors_that_are_late_go_on_bit_for_bit_where_they_were_saved(sensors):
    ranges = {
        "torque_noise": (0, 0.1),
        "motor_lag": (5, 30),
        "dead_zone": (0.0, 0.05),
        "held": (0.02, 0.1),
        "slope_x": (-3, 3),
        "slope_after": (0, 0.1),
    }
    env, other = (small(3, ranges=ranges, sensors=sensors) for _ in range(2))
    for each in (env, other):
        each.reset(seed=0)
    drive(env, actions(20, 3))
    other.set_state(env.get_state())
    steps = 130 if sensors == "cheap" else 60  # beyond the noise that was drawn before
    np.testing.assert_array_equal(drive(env, actions(steps, 3)), drive(other, actions(steps, 3)))


def test_hands_hold_a_robot_that_would_fall_and_let_go():
    env = small(1, ranges={"held": (1.0, 1.0)}, initial_tilt_deg=8.0)
    env.reset(seed=0)
    for _ in range(500):
        env.step(np.zeros((1, 3), np.float32))
    assert np.degrees(np.arccos(env.world.robots.rotation[2, 2, 0])) < 1
    assert not env.simulations.batch.bind("xfrc_applied")[0].any() or env.world.elapsed[0] == 500
    env.step(np.zeros((1, 3), np.float32))
    assert not env.simulations.batch.bind("xfrc_applied")[0].any()


def test_hands_hold_a_robot_upright_on_a_slope():
    env = small(1, ranges={"held": (1.0, 1.0), "gravity_x": (6.0, 6.0)}, initial_tilt_deg=4.0)
    env.reset(seed=0)
    for _ in range(500):
        *_, infos = env.step(np.zeros((1, 3), np.float32))
    assert infos["tilt_deg"][0] < 1


def test_a_slope_comes_when_it_is_said_and_is_gone_in_the_next_episode():
    env = small(1, ranges={"slope_y": (4, 4), "slope_after": (0.1, 0.1), "gravity_x": (2, 2)}, initial_tilt_deg=0.0)
    env.reset(seed=0)

    def degrees():
        x, y, z = env.simulations.batch.expanded("opt.gravity")[0]
        assert np.linalg.norm([x, y, z]) == pytest.approx(9.81)
        return np.degrees(np.arctan2([x, y], -z))

    for step in range(60):
        env.step(np.zeros((1, 3), np.float32))
        np.testing.assert_allclose(degrees(), [2, 4 if step >= 50 else 0], atol=0.02)
    env.reset(seed=1)
    env.step(np.zeros((1, 3), np.float32))
    np.testing.assert_allclose(degrees(), [2, 0], atol=1e-6)


class Incline:
    """Ground that falls by 5 degrees along the world's x, all of it; level at difficulty 0."""

    def make(self, rng, grid, difficulty):
        return Ground(np.tan(np.radians(-5.0 * difficulty)) * np.broadcast_to(grid.axis, (grid.size, grid.size)))


def test_a_robot_on_a_slope_by_gravity_is_told_gravity_and_stands_as_on_ground_that_is_inclined(monkeypatch):
    monkeypatch.setitem(TERRAINS, "incline", dataclass(frozen=True)(Incline))
    worlds: dict[str, dict[str, Any]] = {
        "inclined": {"terrain": "incline"},
        "always": {"terrain": "incline:0", "ranges": {"gravity_x": (5, 5)}},
        "comes": {"terrain": "incline:0", "ranges": {"slope_x": (5, 5), "slope_after": (0.5, 0.5)}},
    }
    tilts, pace = {}, {}
    for name, world in worlds.items():
        env = small(1, num_terrains=1, **world, initial_tilt_deg=0.0, random_yaw=False)
        control = LQRController(env.dt, 0.0, env.simulations.plane)
        obs, infos = env.reset(seed=0)
        speeds, began = [], np.ones(1, bool)
        assert infos["tilt_deg"].max() < 1e-5
        for _ in range(1500):
            obs, _, fallen, _, infos = env.step(control(obs, began))
            began[:] = False
            assert not fallen.any()
            speeds.append(np.linalg.norm(env.world.robots.velocity))
            if name != "inclined":
                gravity = env.simulations.batch.expanded("opt.gravity") / 9.81
                told = np.einsum("ijn,ni->nj", env.world.robots.rotation, gravity)
                np.testing.assert_allclose(obs[:, :3], told, atol=1e-6)
        tilts[name], pace[name] = infos["tilt_deg"][0], speeds[-1]
    for name in ("always", "comes"):
        assert pace[name] == pytest.approx(pace["inclined"], rel=0.1)
        assert tilts[name] == pytest.approx(tilts["inclined"], abs=0.2)


@pytest.mark.parametrize("sensors", ["perfect", "cheap"])
def test_slopes_go_on_bit_for_bit_where_they_were_saved(sensors):
    ranges = {"slope_x": (3, 6), "slope_after": (0, 0.05), "gravity_y": (-3, 3)}
    env, other = (small(3, ranges=ranges, sensors=sensors) for _ in range(2))
    for each in (env, other):
        each.reset(seed=0)
    drive(env, actions(40, 3))
    other.set_state(env.get_state())
    mask = {"reset_mask": np.array([True, False, False])}
    told = [each.reset(options=mask)[1]["tilt_deg"] for each in (env, other)]
    np.testing.assert_array_equal(*told)
    np.testing.assert_array_equal(drive(env, actions(60, 3)), drive(other, actions(60, 3)))


def test_crooked_sensors_on_a_slope_are_wrong_by_no_more_than_they_are_crooked():
    env = small(8, ranges={"slope_y": (6, 6), "slope_after": (0, 0)}, initial_tilt_deg=0.0, sensing={"tilt_bias": 0.5})
    env.reset(seed=0)
    obs = drive(env, actions(30, 8))[-1]
    gravity = env.simulations.batch.expanded("opt.gravity") / 9.81
    told = np.einsum("ijn,ni->nj", env.world.robots.rotation, gravity)
    away = np.degrees(np.arccos(np.clip((obs[:, :3] * told).sum(axis=1), -1, 1)))
    assert 0.05 < away.max() < 0.75


def test_robots_begin_in_balance_wherever_their_centre_of_mass_is():
    ranges = {"com_x": (-0.02, 0.02), "com_y": (-0.02, 0.02), "body_mass": (0.8, 1.2)}
    env = small(8, ranges=ranges, initial_tilt_deg=0.0, initial_speed=0.0)
    env.reset(seed=0)
    balance = env.simulations.balance
    lean = -env.world.robots.rotation[2, :2]
    assert np.abs(lean - balance).max() < 0.005 < 0.05 < np.abs(balance).max()
    ball = env.world.robots.position - env.simulations.mechanics.ball_depth * env.world.robots.rotation[:, 2]
    place = env.simulations.addresses.ball_qpos
    np.testing.assert_allclose(ball.T, env.simulations.qpos[:, place : place + 3], atol=2e-4)
    for _ in range(50):  # from upright they would turn by 0.3 rad/s
        env.step(np.zeros((8, 3), np.float32))
    assert np.abs(env.world.robots.gyro[:2]).max() < 0.15


def test_balance_is_told_as_crooked_sensors_have_it():
    world = {"ranges": {"com_x": (0.01, 0.01)}, "extra_fields": ("balance",), "initial_tilt_deg": 0.0}
    for bias in (0.0, 2.0):
        env = small(16, **world, sensing={"tilt_bias": bias} if bias else {})
        obs, _ = env.reset(seed=0)
        down, balance = (obs[:, env.world.layout[name]][:, :2] for name in ("gravity", "balance"))
        assert np.abs(down - balance).max() < 0.004  # the arms of the cameras are not told apart
        assert (np.ptp(balance, axis=0).max() > np.radians(bias)) == bool(bias)
        assert balance[:, 0].mean() < -0.04


def test_a_regulator_that_is_told_the_balance_stands_still_there():
    # the estimated velocity does not know the balance: the longer it trusts lean, the more it errs
    speeds, sensors = {}, {"sensors": "cheap", "sensing": {"balance_s": 0.0, "velocity_filter_ms": 100.0}}
    for told in (False, True):
        fields = ("balance",) if told else ()
        settings = presets.default(observation="proprioception", extra_fields=fields, sensors="cheap", history=(0,))
        prior = replace(settings, prior_speed=1e-3).structure().prior
        env = small(4, ranges={"com_x": (0.01, 0.01)}, extra_fields=fields, **sensors)
        obs, _ = env.reset(seed=0)
        assert prior is not None
        for _ in range(1000):
            obs, _, fallen, _, _ = env.step(prior(torch.from_numpy(obs)).clamp(-1, 1).numpy())
            assert not fallen.any()
        speeds[told] = np.abs(env.world.robots.velocity[:2]).max()
    assert speeds[True] < 0.08 < 0.13 < speeds[False]
