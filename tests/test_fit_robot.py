# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""A robot's numbers are found by its log; a log that cannot be used is refused, and it is said why."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from inprocess import call

from ballbot import identification
from ballbot.envs import BallbotVectorEnv
from ballbot.envs.mechanics import mechanics_of, spun_wheel_speeds
from ballbot.envs.randomize import ranges_of
from ballbot.envs.robot import RobotConfig
from ballbot.envs.sensors import Sensors
from ballbot.errors import SettingsError
from ballbot.identification import Fit, Fitted, Fitting, fittable
from ballbot.robot_logs import columns, read_log

HIDDEN = ("--randomize.com-x", 0.006, 0.006, "--randomize.wheel-damping", 1.15, 1.15)
LATE = ("--sensors.action-delay-ms", 8, 8)


def drive(folder, name="drive.csv", *options, horizon=1100, noise=0.15):
    done = call(
        "evaluate.py", "lqr", "--terrain", "flat", "--command", "velocity", "--motion.max-speed", 0.1,
        "--motion.resample-time", 3.2, "--episodes", 1, "--horizon", horizon, "--num-threads", 1,
        "--log", name, "--action-noise", noise, *options, folder=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / name


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Of a robot whose centre of mass and damping differ, and whose motors are 8 ms late."""
    return drive(tmp_path_factory.mktemp("log"), "drive.csv", *HIDDEN, *LATE)


@pytest.fixture
def changed(log, tmp_path):
    """The log with something else in it: change(rows) -> its file; the first row is the header."""

    def make(change):
        rows = list(csv.reader(log.open()))
        rows = change(rows) or rows
        with (tmp_path / "bad.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        return tmp_path / "bad.csv"

    return make


def scale(name, factor):
    def change(rows):
        column = rows[0].index(name)
        for row in rows[1:]:
            row[column] = f"{float(row[column]) * factor:.9g}"

    return change


def put(line, name, value):
    def change(rows):
        rows[line - 1][rows[0].index(name)] = value

    return change


def test_hidden_numbers_and_latency_are_found(log, tmp_path):
    done = call(
        "fit_robot.py", log, "--axes", "wheel_damping", "com_x", "--window", 0.3, "--windows", 6, "--num-threads", 1,
        "--out", "ranges.json", "--json", "all.json", folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "all.json").read_text())
    assert found["axes"]["com_x"]["value"] == pytest.approx(0.006, abs=0.001)
    assert found["axes"]["wheel_damping"]["value"] == pytest.approx(1.15, rel=0.03)
    assert found["latency"]["value"] == pytest.approx(8.0, abs=0.5)
    assert all(fitted["told"] for fitted in found["axes"].values()) and found["settled"]
    assert "note:" not in done.stdout
    ranges = ranges_of(str(tmp_path / "ranges.json"))
    for name, (low, high) in ranges.items():
        middle, error = found["axes"][name]["value"], found["axes"][name]["error"]
        assert (low, high) == pytest.approx((middle - 2 * error, middle + 2 * error))
    low, high = map(float, done.stdout.split("--sensors.action-delay-ms ")[1].split()[:2])
    assert (low + high) / 2 == pytest.approx(8.0, abs=0.5) and 0.5 < high - low < 3.0


def test_windows_start_as_sensors_say_wherever_the_centre_of_mass_is(log):
    fitting = Fitting([read_log(log, 3)], ("com_x",), sensors=Sensors(), window=0.3, most=6, num_threads=1)
    fitting._place(np.array([0.05]), fitting.start)
    robots = fitting._physics.robot_state()
    np.testing.assert_allclose(robots.rotation[2, :2].T, fitting.start[:, :2], atol=1e-12)
    np.testing.assert_allclose(robots.gyro.T, fitting.start[:, 2:5], atol=1e-12)
    fitting.close()


def test_actions_are_late_by_the_mean_of_all_delays_that_jitter_makes(log):
    fitting = Fitting([read_log(log, 3)], ("com_x",), sensors=Sensors(jitter_ms=6.0), window=0.3, most=6, num_threads=1)
    rising = np.arange(fitting._actions.shape[1], dtype=float)
    fitting._actions = np.tile(rising[:, None], (6, 1, 3))
    now = fitting._actions.shape[1] - 150
    assert fitting._asked(7.3)[0, :, 0] == pytest.approx(np.arange(now, now + 150) - 7.3)
    fitting._actions = np.zeros_like(fitting._actions)
    fitting._actions[:, now + 50 :] = 1.0
    done = fitting._asked(7.3)[0, :, 0]
    assert done[50 + 3] == 0.0 and 0.0 < done[50 + 5] < done[50 + 7] < 1.0 and done[50 + 12] == pytest.approx(1.0)
    fitting.close()


def test_what_a_log_cannot_tell_apart_is_said(log):
    fitting = Fitting(
        [read_log(log, 3)], ("motor_strength", "wheel_damping"), sensors=Sensors(), window=0.3, most=6, num_threads=1
    )
    linear = fitting._linear(np.array([0.0, 0.0, 8.0]))
    correlation = linear.covariance[0, 1] / linear.errors[0] / linear.errors[1]
    fitting.close()
    assert correlation > 0.8  # a motor with twice the torque on twice the damping turns as fast


def test_ranges_hold_what_is_told_alone_and_stay_within_limits():
    told, untold = Fitted(1.0, 0.01, True, ()), Fitted(1.0, 0.5, False, ("ball_mass",))
    small = Fitted(0.11, 0.01, True, ())
    fit = Fit({"body_mass": untold, "wheel_damping": told, "motor_strength": small}, told, 9, 0, {})
    assert fit.ranges() == {"wheel_damping": pytest.approx([0.98, 1.02]), "motor_strength": pytest.approx([0.1, 0.13])}


def test_a_log_of_another_robot_is_found_out(changed, monkeypatch, tmp_path):
    def swap(rows):
        for row in rows[1:]:
            row[1], row[2] = row[2], row[1]

    monkeypatch.setattr(identification, "ROUNDS", 1)  # too few to settle
    options = ("--axes", "com_x", "--window", 0.25, "--windows", 5, "--num-threads", 1)
    done = call("fit_robot.py", changed(swap), *options, folder=tmp_path)
    assert done.returncode == 0 and "note: the fit explains little" in done.stdout
    assert "note: values were still changing" in done.stdout


def test_axes_that_say_nothing_of_the_robot_cannot_be_fitted(log, tmp_path):
    assert "gravity_x" not in fittable() and "wind_x" not in fittable() and "com_z" in fittable()
    for axes, message in ((["wind_x"], "says nothing"), (["com"], "did you mean"), (["com_x", "com_x"], "twice")):
        done = call("fit_robot.py", log, "--axes", *axes, folder=tmp_path)
        assert done.returncode == 2 and message in done.stderr


def test_a_spinning_ball_turns_wheels_as_one_that_rolls():
    robot = RobotConfig()
    mechanics, spun = mechanics_of(robot), spun_wheel_speeds(robot.compile())
    rolling = np.stack([spun[:, 1], -spun[:, 0]], axis=1) / mechanics.ball_radius
    np.testing.assert_allclose(rolling, mechanics.rolling, rtol=1e-9, atol=1e-9)
    assert np.ptp(spun[:, 2]) < 1e-6 and abs(spun[0, 2]) > 0.1  # all alike about the vertical


def test_a_log_holds_what_the_robot_was_told_and_sensed(log):
    names = [name for group in columns(3).values() for name in group]
    rows = list(csv.reader(log.open()))
    assert rows[0] == names and len(rows) == 1101
    (part,) = read_log(log, 3)
    assert part.dt == pytest.approx(0.002) and len(part.actions) == 1100
    np.testing.assert_allclose(np.linalg.norm(part.up, axis=1), 1.0)
    held = part.actions[10:20] - part.actions[10]  # noise holds, and feedback is small
    assert np.abs(held).max() < np.abs(np.diff(part.actions[::10], axis=0)).max()


def test_a_log_tells_orientation_as_it_was_measured_not_from_where_the_robot_balances():
    hidden = {"com_x": (0.02, 0.02)}
    sensing = {"velocity": "estimated", "balance_s": 2.0}
    envs = BallbotVectorEnv(1, terrain="flat", num_threads=1, ranges=hidden, sensing=sensing)
    envs.reset(seed=0)
    for _ in range(50):
        envs.step(np.full((1, 3), 0.02, np.float32))
    world = envs.world
    assert world.senses is not None
    leans, told = (np.degrees(np.arccos(x.rotation[2, 2, 0])) for x in (world.robots, world.senses.robots))
    assert leans > told + 2.0
    np.testing.assert_allclose(world.senses.measured.quaternion, world.robots.quaternion, atol=1e-9)
    envs.close()


def test_time_that_goes_back_begins_a_part(tmp_path):
    path = drive(tmp_path, "falls.csv", "--episodes", 3, horizon=340)
    parts = read_log(path, 3)
    assert [len(part.actions) for part in parts] == [340] * 3


def test_runtime_writes_the_same_columns(tmp_path):
    runtime = pytest.importorskip("ballbot.deployment.runtime")
    sensors = runtime.Sensors(np.array([1.0, 0, 0, 0]), np.array([0.1, 0.2, 0.3]), None, np.array([4.0, 5, 6, 7]))
    with runtime.Log(tmp_path / "a.csv", wheels=4) as written:
        written.write(0.5, np.array([0.1, -0.2, 0.3, 0.4]), sensors)
        with pytest.raises(ValueError, match="wheels"):
            written.write(0.5, np.zeros(3), sensors)
    header, row = csv.reader((tmp_path / "a.csv").open())
    assert header == [name for group in columns(4).values() for name in group]
    assert [float(x) for x in row] == [0.5, 0.1, -0.2, 0.3, 0.4, 1, 0, 0, 0, 0.1, 0.2, 0.3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(700, "time_s", "9"), "line 700: time_s rises by"),
        (scale("time_s", 1000), "write s, not ms"),
        (put(300, "gyro_y_rad_s", "nan"), "line 300: gyro_y_rad_s is nan"),
        (put(300, "gyro_y_rad_s", "fast"), "line 300: gyro_y_rad_s is 'fast'"),
        (put(300, "quat_w", "0.2"), "line 300: quat_w to quat_z have the length"),
        (put(300, "action_1", "1.5"), "line 300: action_1 is 1.5"),
        (put(1, "gyro_y_rad_s", "gyro_y"), "no column 'gyro_y_rad_s'; did you mean"),
        (put(1, "wheel_2_rad_s", "wheel_left"), "wheel_0_rad_s to wheel_1_rad_s, and the robot has 3 wheels"),
        (lambda rows: rows[:400], "lasts 0.80 s"),
        (lambda rows: rows[:1], "time_s does not rise"),
        (lambda rows: [], "is empty"),
        (scale("gyro_y_rad_s", -1), "gyro_y_rad_s says, expected 1: check axes, signs"),
        (scale("gyro_y_rad_s", 180 / np.pi), "write rad/s, not degrees/s"),
    ],
)  # fmt: skip
def test_a_log_that_cannot_be_used_is_refused(changed, change, message):
    def made(rows):
        kept = change(rows)
        return kept if kept is not None else rows

    path = changed(lambda rows: made(rows) or [[]])
    with pytest.raises(SettingsError) as error:
        read_log(path, 3)
    assert message in str(error.value) and "bad.csv" in str(error.value)


def test_a_robot_that_stands_still_or_another_one_is_refused(log, changed, tmp_path):
    def still(rows):
        for row in rows[2:]:
            row[1:] = rows[1][1:]

    with pytest.raises(SettingsError, match="does not move"):
        read_log(changed(still), 3)
    with pytest.raises(SettingsError, match="has columns action_0 to action_2, and the robot has 4 wheels"):
        read_log(log, 4)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_log(Path("nowhere.csv"), 3)
    done = call("fit_robot.py", "nowhere.csv", folder=tmp_path)
    assert done.returncode == 2 and "nowhere.csv" in done.stderr and "Traceback" not in done.stderr
    done = call("evaluate.py", "lqr", "--action-noise", 0.1, folder=tmp_path)
    assert done.returncode == 2 and "--log" in done.stderr


def test_hidden_robots_are_measured_once_and_make_a_table(monkeypatch, tmp_path):
    measure_fits, make_results = map(importlib.import_module, ("measure_fits", "make_results"))
    asked = []

    def measured(args, robot, seed):
        asked.append((robot, seed))
        numbers, sensing = measure_fits.hide(args, seed)
        assert numbers["latency_ms"] == sensing["delay_ms"][0] + sensing["action_delay_ms"][0] + 2.0
        what = {"robot": robot, "axes": " ".join(args.axes), "seed": seed, "seconds": 30}
        off = {"com_x": 0.004, "latency_ms": 0.2}
        return [
            {**what, "number": name, "true": true, "fitted": true + off[name], "error": 0.001, "told": 1}
            for name, true in numbers.items() if name in off
        ]  # fmt: skip

    monkeypatch.setattr(measure_fits, "measure", measured)
    command = ["--robots", "mini", "--seeds", "3", "4", "--out", str(tmp_path / "fits.csv")]
    assert measure_fits.main(command) == measure_fits.main(command) == 0
    assert asked == [("mini", 3), ("mini", 4)]
    table = make_results.fits_table(tmp_path / "fits.csv")
    assert "| mini | `com_x` | 4 mm | 4 mm | 1 mm | 0 of 2 | 2 of 2 |" in table
    assert "| mini | `latency_ms` | 0.2 ms | 0.2 ms | 0.001 ms | 0 of 2 | 2 of 2 |" in table
    assert measure_fits.main([*command, "--axes", "wind_x"]) == 2
