# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""What stands between a robot and what it senses: noise, bias and delays; and the velocity that wheels tell."""

from __future__ import annotations

import numpy as np
import pytest
from driving import actions, drive, small

from ballbot.controllers import make_controller
from ballbot.envs import RobotConfig, WorldConfig
from ballbot.envs.mechanics import mechanics_of
from ballbot.envs.random_streams import chance_stream
from ballbot.envs.sensors import BLOCK, SENSORS, Noise, Sensors, VelocityEstimate
from ballbot.errors import SettingsError
from ballbot.lqr import LQRController


def columns(env, name):
    return env.layout.slices[name]


def both(sensing, steps=200, num=4, seed=0, **options):
    """What robots sense so, and truly, for actions that do not depend on it."""
    sensed, true = small(num, sensing=sensing, **options), small(num, **options)
    first = sensed.reset(seed=seed)[0], true.reset(seed=seed)[0]
    asked = actions(steps, num)
    return sensed, np.array([first[0], *drive(sensed, asked)]), np.array([first[1], *drive(true, asked)])


def test_noise_is_what_is_said_and_of_nothing_else():
    env, sensed, true = both({"gyro_noise": 0.02}, steps=400)
    error = sensed - true
    gyro = columns(env, "gyro")
    assert np.std(error[1:, :, gyro], axis=(0, 1)) == pytest.approx(0.02, rel=0.1)
    error[:, :, gyro] = 0
    assert not error.any()


def test_a_bias_lasts_for_an_episode_and_another_one_has_another():
    env, sensed, true = both({"gyro_bias": 0.05}, steps=50, num=64)
    bias = (sensed - true)[1:, :, columns(env, "gyro")]
    assert np.ptp(bias, axis=0).max() < 1e-6 < np.ptp(bias[0], axis=0).min()
    assert 0.045 < np.abs(bias).max() <= 0.0501
    before = env.world.senses.get_state()["gyro_bias"]
    env.reset(seed=99)
    assert (env.world.senses.get_state()["gyro_bias"] != before).all()


def test_a_bias_that_drifts_wanders_as_far_as_is_said():
    env, sensed, true = both({"gyro_drift": 0.1}, steps=250, num=64)  # half a second
    gyro = columns(env, "gyro")
    assert np.std((sensed - true)[-1, :, gyro]) == pytest.approx(0.1 * np.sqrt(0.5), rel=0.2)


def test_an_orientation_that_is_wrong_tells_another_tilt_and_the_same_speed_of_the_body():
    env, sensed, true = both({"tilt_bias": 2.0}, steps=3, num=64, initial_tilt_deg=0.1)
    gravity, gyro = columns(env, "gravity"), columns(env, "gyro")
    angle = np.degrees(np.arccos(np.clip((sensed[0, :, gravity] * true[0, :, gravity]).sum(1), -1, 1)))
    assert angle.max() <= 2 * np.sqrt(2) + 1e-3 and angle.max() > 1.5 and angle.min() < 1
    assert np.array_equal(sensed[:, :, gyro], true[:, :, gyro])
    velocity = columns(env, "velocity")
    np.testing.assert_allclose(sensed[:, :, velocity], true[:, :, velocity], atol=1e-6)


def test_a_filter_passes_what_lasts_and_takes_noise_away():
    env, sensed, true = both({"gyro_noise": 0.05, "imu_filter_ms": 10.0}, steps=400)
    gyro = columns(env, "gyro")
    error = (sensed - true)[100:, :, gyro]
    share = 2 / 12
    assert np.std(error) < 0.05 * np.sqrt(share / (2 - share)) + 0.02


def test_an_encoder_counts_and_loses_nothing():
    env, unit = small(4, sensing={"wheel_counts": 1024}), 2 * np.pi / 1024
    env.reset(seed=0)
    angles = np.zeros((2, 3, 4))  # rad that wheels have turned, as they tell it and truly
    for a in actions(300, 4):
        env.step(a)
        told, true = env.world.senses.robots.wheel_speeds, env.world.robots.wheel_speeds
        angles += 0.002 * np.stack([told, true])
        counts = told * 0.002 / unit
        np.testing.assert_allclose(counts, np.round(counts), atol=1e-6)
        assert np.abs(told - true).max() <= unit / 0.002 and np.abs(angles[0] - angles[1]).max() <= unit
    assert (told != true).any()


@pytest.mark.parametrize("steps", [1, 7])
def test_what_is_known_late_is_what_was(steps):
    env, sensed, true = both({"delay_ms": (2.0 * steps, 2.0 * steps)}, steps=60)
    fields = slice(0, columns(env, "velocity").stop)
    assert np.array_equal(sensed[steps:, :, fields], true[:-steps, :, fields])
    assert (sensed[: steps + 1, :, fields] == true[0, :, fields]).all(), "before, all is as at the start"


def test_motors_do_late_what_they_are_asked_for():
    late, prompt = small(2, sensing={"action_delay_ms": (6, 6)}), small(2)
    late.reset(seed=0)
    prompt.reset(seed=0)
    asked = actions(40, 2)
    course = drive(late, np.concatenate([asked, np.zeros((3, 2, 3), np.float32)]))
    other = drive(prompt, np.concatenate([np.zeros((3, 2, 3), np.float32), asked]))
    known = slice(0, columns(late, "velocity").stop)
    assert np.array_equal(course[:, :, known], other[:, :, known])
    assert np.array_equal(course[0, :, columns(late, "last_action")], asked[0]), "the policy knows what it asked for"


def test_torques_are_those_that_motors_gave():
    env = small(1, sensing={"action_delay_ms": (6, 6)}, ranges={"motor_strength": (0.5, 0.5)}, rewards={"torque": 1.0})
    env.reset(seed=0)
    paid = [float(env.step(np.full((1, 3), 0.2, np.float32))[1][0]) for _ in range(6)]
    assert paid[:3] == [0, 0, 0] and paid[3] == paid[4] < 0
    np.testing.assert_allclose(env.simulations.torques, -0.5 * 10 * 0.2, rtol=1e-6)
    other = small(1, ranges={"motor_strength": (0.5, 0.5)}, rewards={"torque": 1.0})
    other.reset(seed=0)
    assert float(other.step(np.full((1, 3), 0.2, np.float32))[1][0]) == pytest.approx(paid[3])
    full = small(1, rewards={"torque": 1.0})
    full.reset(seed=0)
    assert float(full.step(np.full((1, 3), 0.2, np.float32))[1][0]) == pytest.approx(4 * paid[3])


def test_a_wheel_that_is_not_read_is_what_it_was_and_a_filter_follows_slowly():
    env = small(64, sensing={"wheel_dropout": 0.3})
    env.reset(seed=0)
    told = []
    for a in actions(200, 64):
        env.step(a)
        told.append(env.world.senses.robots.wheel_speeds.copy())
        assert (told[-1] == env.world.robots.wheel_speeds).mean() > 0.5
    assert np.mean(np.diff(told, axis=0) == 0) == pytest.approx(0.3, abs=0.02)
    slow = small(1, sensing={"wheel_filter_ms": 8.0})
    slow.reset(seed=0)
    followed = slow.world.robots.wheel_speeds.copy()
    for a in actions(20, 1):
        slow.step(a)
        followed += 0.2 * (slow.world.robots.wheel_speeds - followed)
    np.testing.assert_allclose(slow.world.senses.robots.wheel_speeds, followed, rtol=1e-12)


def test_noise_of_the_orientation_is_what_is_said():
    env, sensed, true = both({"tilt_noise": 0.5}, steps=300, num=16)
    gravity = columns(env, "gravity")
    error = np.degrees((sensed - true)[:, :, gravity][:, :, :2])
    assert np.std(error) == pytest.approx(0.5, rel=0.05) and np.std(error[0]) > 0.2, "from the first observation on"


def test_as_many_messages_are_lost_as_is_said():
    env = small(64, sensing={"lost": 0.25})
    env.reset(seed=0)
    old = []
    for a in actions(200, 64):
        env.step(a)
        old.append(env.world.senses.get_state()["ages"] > 0)
    assert np.mean(old, axis=(0, 2)) == pytest.approx([0.25, 0.25], abs=0.02)


def test_a_velocity_that_is_estimated_stays_true_while_the_robot_turns():
    robots, dt = np.zeros((3, 1)), 0.002
    estimate = VelocityEstimate.of(mechanics_of(RobotConfig()), Sensors(), dt)
    level, rate, speed = np.zeros((2, 1)), 6.0, 0.5  # rad/s about the vertical, m/s along the world's x
    steady = np.zeros((2, 0))
    for step in range(500):
        along = speed * np.array([[np.cos(rate * step * dt)], [-np.sin(rate * step * dt)]])
        gyro = robots + np.array([[0.0], [0.0], [rate]])
        wheels = mechanics_of(RobotConfig()).rolling @ along
        if step == 0:
            steady = estimate.measured(wheels, gyro)
        else:
            steady, level = estimate.step(steady, level, wheels, gyro, level, dt)
    assert np.abs(estimate.velocity(steady, gyro) - along).max() < 0.002


def test_every_robot_of_a_family_knows_its_velocity_as_the_one_that_is_named_would():
    world = {"vary": {"ball_radius": (0.08, 0.1)}, "num_robots": 3, "sensing": {"velocity": "estimated"}}
    arms = [small(2, terrain_split=split, **world).world.senses._estimate.arm for split in ("train", "eval")]
    assert arms == [VelocityEstimate.of(mechanics_of(RobotConfig()), Sensors(), 0.002).arm] * 2


def test_delays_are_drawn_within_their_range_and_jitter_only_adds():
    env = small(64, sensing={"delay_ms": (4, 12), "jitter_ms": 8.0, "lost": 0.1})
    env.reset(seed=0)
    ages = []
    for a in actions(100, 64):
        env.step(a)
        ages.append(env.world.senses.get_state()["ages"][0])
    known, base = np.array(ages), env.world.senses.get_state()["delays"][0]
    assert base.min() >= 2 and base.max() <= 6 and np.ptp(base) > 3
    assert (known >= np.floor(base)).all() and np.ptp(known, axis=0).min() >= 2
    assert (np.diff(known, axis=0) <= 1).all(), "what is known does not become older than by the time that passes"


@pytest.mark.parametrize("robot", ["reference", "rollers", "mini"])
def test_velocity_is_known_by_wheels_and_gyroscope_to_a_few_centimetres_a_second(robot):
    world = {"robot": robot, "terrain": "perlin", "ground": {"height": 0.05}, "num_terrains": 4}
    env = small(8, sensing={"velocity": "estimated"}, **world)
    controller = make_controller(LQRController, env.dt, env.config)
    obs, _ = env.reset(seed=0)
    began, errors, at = np.ones(8, bool), [], columns(env, "velocity")
    for step in range(1000):
        obs, _, terminated, truncated, _ = env.step(controller(obs, began))
        began = terminated | truncated
        assert not terminated.any()
        robots = env.world.robots
        if step > 100:
            errors.append(obs[:, at].T[:2] - np.einsum("ijn,in->jn", robots.rotation, robots.velocity)[:2])
    assert np.sqrt(np.mean(np.square(errors))) < 0.02


def test_noise_of_a_robot_is_its_own():
    alone, many = Noise(1, 3, 2), Noise(3, 3, 2)
    alone.begin([chance_stream(7)])
    many.begin([chance_stream(1), chance_stream(7), chance_stream(2)])
    for step in range(2 * BLOCK + 5):
        if step == 30:
            many.forget(0)
        a, b = alone.next(), many.next()
        assert np.array_equal(a[0][:, 0], b[0][:, 1]) and np.array_equal(a[1][:, 0], b[1][:, 1])


@pytest.mark.parametrize("options", [{"sensors": "cheap"}, {"sensors": "cheap", "randomize": "strong"}])
@pytest.mark.parametrize("before", [0, 1, 90, 128, 150, 180])  # 90: all begin anew; 128: noise is drawn anew
def test_a_saved_state_goes_on_bit_for_bit(options, before):
    options = options | {"terrain": "perlin", "num_terrains": 4, "max_episode_steps": 90, "history": (0, 10)}
    env, other = small(4, **options), small(4, **options)
    env.reset(seed=1)
    drive(env, actions(before, 4))
    state = env.get_state()
    asked = actions(200, 4, seed=1)
    first = drive(env, asked)
    other.set_state(state)
    assert np.array_equal(first, drive(other, asked))
    env.set_state(state)
    assert np.array_equal(first, drive(env, asked))
    for name, damage in (
        ("messages", lambda x: x[:1]),
        ("ages", lambda x: x + 10**6),
        ("noise_streams", lambda x: x[:1]),
    ):
        broken = {**state, "senses": {**state["senses"], name: damage(state["senses"][name])}}
        with pytest.raises(ValueError, match=name):
            other.set_state(broken)
    with pytest.raises(ValueError, match="gyro_bias"):
        other.set_state({k: v for k, v in state.items() if k != "senses"})


def test_rewards_endings_and_privileged_fields_know_the_truth():
    options = {"privileged_fields": ("slope", "time_left"), "history": (0, 10)}
    noisy = dict(SENSORS["cheap"], action_delay_ms=(0, 0), jitter_ms=0.0, lost=0.0)
    env, true = small(4, sensing=noisy, **options), small(4, **options)
    env.reset(seed=0)
    true.reset(seed=0)
    for a in actions(100, 4):
        mine, theirs = env.step(a), true.step(a)
        assert np.array_equal(mine[1], theirs[1]) and np.array_equal(mine[2], theirs[2])
        assert np.array_equal(mine[0]["privileged"], theirs[0]["privileged"])
        assert not np.array_equal(mine[0]["policy"], theirs[0]["policy"])


def test_a_name_is_spelled_out_and_belongs_to_the_task():
    config = WorldConfig(sensors="cheap", sensing={"gyro_noise": 0.0, "lost": 0.5}, observation="encoded")
    assert config.sensors == "perfect" and "gyro_noise" not in config.sensing and config.sensing["lost"] == 0.5
    assert config.task().sensing == config.sensing
    assert WorldConfig.from_metadata(config.metadata()).sensing == config.sensing
    assert Sensors(**config.sensing).given == config.sensing
    assert not WorldConfig(sensing={"gyro_noise": 0}).sensing


@pytest.mark.parametrize(
    ("sensing", "message"),
    [
        ({"gyro_nose": 1}, "did you mean 'gyro_noise'"),
        ({"gyro_noise": -1}, "gyro_noise must be a number from 0 to 5"),
        ({"gyro_noise": float("nan")}, "gyro_noise must be a finite number"),
        ({"delay_ms": (20, 0)}, "must rise: write 0 20"),
        ({"delay_ms": (0, 10_000)}, "from 0 to 200"),
        ({"delay_ms": 5}, "must be a range, from and to"),
        ({"lost": 1.0}, "from 0 to 0.99"),
        ({"velocity": "guessed"}, "velocity"),
        ({"wheel_counts": -2}, "wheel_counts must be a whole number from 0"),
        ({"wheel_counts": None}, "wheel_counts must be given"),
        ({"camera_nose": 0.01}, "did you mean 'camera_noise'"),
        ({"camera_noise": -0.01}, "camera_noise must be a number from 0 to 0.5"),
        ({"camera_step": float("nan")}, "camera_step must be a finite number"),
        ({"camera_lost": 1.0}, "camera_lost must be a number from 0 to 0.99"),
        ({"camera_edges": True}, "camera_edges must be a number"),
        ({"camera_delay_ms": (0, 300)}, "camera_delay_ms must be a number from 0 to 200"),
        ({"camera_delay_ms": (30, 10)}, "camera_delay_ms = 30 10 must rise"),
        ({"camera_tilt": 45.0}, "camera_tilt must be a number from 0 to 10"),
    ],
)
def test_impossible_sensors_are_refused(sensing, message):
    with pytest.raises(SettingsError, match=message):
        WorldConfig(sensing=sensing)


def test_names_that_are_not_there_are_refused():
    with pytest.raises(SettingsError, match="did you mean 'cheap'"):
        WorldConfig(sensors="cheep")


def test_a_value_function_may_be_told_the_truth_of_what_the_policy_senses():
    env = small(4, sensing={"velocity": "estimated"}, privileged_fields=("velocity",))
    env.reset(seed=0)
    for a in actions(50, 4, most=0.5):
        obs, *_ = env.step(a)
    robots = env.world.robots
    true = np.einsum("ijn,in->nj", robots.rotation, robots.velocity)
    np.testing.assert_allclose(obs["privileged"], true, atol=1e-6)
    assert np.abs(obs["policy"][:, columns(env, "velocity")] - true).max() > 1e-4
    assert WorldConfig(privileged_fields=("velocity",)).privileged_fields == ()


def test_delays_beyond_an_episode_are_refused():
    with pytest.raises(SettingsError, match="delay_ms reaches 200 ms, and episodes last 100 ms"):
        WorldConfig(sensing={"delay_ms": (0, 200)}, max_episode_steps=50)


def test_lean_is_told_from_where_the_robot_balances_which_it_finds_out_while_it_drives():
    away = {}
    for seconds in (0.0, 1.0):
        sensing = {"velocity": "estimated", "balance_s": seconds}
        env = small(4, ranges={"com_x": (0.006, 0.006)}, sensing=sensing, initial_tilt_deg=0.0)
        controller = make_controller(LQRController, env.dt, env.config)
        obs, _ = env.reset(seed=0)
        assert (np.abs(obs[:, :2]).max() < 1e-4) == bool(seconds)  # it is set on its ball in balance
        env.simulations.randomizer.put(0, 0, np.array([-0.006]))  # and then its load shifts
        env.simulations._weigh(0)
        began = np.ones(4, bool)
        for _ in range(2500):
            obs, _, fallen, _, _ = env.step(controller(np.where(np.arange(len(obs[0])) == 9, 0, obs), began))
            assert not fallen.any()
            began = np.zeros(4, bool)
        away[seconds] = np.abs(env.world._balance())[:, 0].max()
    assert away[1.0] < 0.012 < 0.03 < away[0.0]


def test_where_it_balances_needs_the_estimated_velocity():
    with pytest.raises(SettingsError, match="balance_s=2 belongs to velocity='estimated'"):
        Sensors(balance_s=2.0)
