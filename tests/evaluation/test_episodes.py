# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""What run_episodes counts is what happened, and summarize says it right."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from policies import save_policy

from ballbot.controllers import PIDController
from ballbot.encoders import EncoderError
from ballbot.envs import BallbotVectorEnv, WorldConfig
from ballbot.errors import SettingsError
from ballbot.evaluation import (
    Episodes,
    env_options,
    in_task,
    mean_interval,
    run_episodes,
    summarize,
    task_of,
    wilson_interval,
)
from ballbot.ppo import evaluate, load_agent, load_policy


def make(num_envs, **options):
    defaults = {"terrain": "flat", "num_terrains": 3, "num_threads": 1, "max_episode_steps": 120}
    return BallbotVectorEnv(num_envs, **(defaults | options))  # type: ignore[arg-type]


def push(envs, size=0.3):
    """Falls within the time limit, sooner or later, by where the robot happens to look."""
    return lambda obs, began: size * np.sin(np.arange(3) + 10 * obs[:, :1])


def test_episodes_are_those_of_the_environment_step_by_step():
    envs = make(3)
    episodes = run_episodes(envs, push(envs, 0.9), 7, seed=5, history_interval=10)
    assert {"success", "failure"} >= set(episodes.outcomes)
    assert episodes.seeds.tolist() == list(range(5, 12))
    for k in range(7):
        single = make(1)
        obs, infos = single.reset(seed=5 + k)
        assert infos["terrain_id"][0] == episodes.terrain_ids[k]
        rewards, tilts, velocities, torques, energy, positions = [], [], [], [], 0.0, [infos["position"][0]]
        poses = [single.simulations.qpos[0].copy()]
        act = push(single, 0.9)
        done = False
        while not done:
            action = act(obs, None)
            obs, reward, terminated, truncated, infos = single.advance(action)
            robot = single.simulations.robot_state()
            rewards.append(reward[0])
            tilts.append(infos["tilt_deg"][0])
            velocities.append(robot.velocity[:2, 0])
            torques.append(-10 * np.clip(action[0].astype(np.float64), -1, 1))
            energy += np.abs(torques[-1] * robot.wheel_speeds[:, 0]).sum() * 0.002
            positions.append(infos["position"][0])
            poses.append(single.simulations.qpos[0].copy())
            done = terminated[0] or truncated[0]
        assert episodes.outcomes[k] == ("failure" if terminated[0] else "success")
        assert episodes.lengths[k] == len(rewards)
        assert episodes.returns[k] == pytest.approx(sum(rewards))
        assert sum(terms[k] for terms in episodes.reward_terms.values()) == pytest.approx(sum(rewards))
        assert episodes.tilt_max_deg[k] == pytest.approx(max(tilts))
        assert episodes.tilt_mean_deg[k] == pytest.approx(np.mean(tilts))
        # the goal is the world's y, to its left is -x
        assert episodes.speed_along_goal[k] == pytest.approx(np.mean(velocities, axis=0)[1])
        assert episodes.speed_across_goal[k] == pytest.approx(-np.mean(velocities, axis=0)[0])
        assert episodes.torque_rms[k] == pytest.approx(np.sqrt(np.square(torques).mean()))
        assert episodes.torque_max[k] == pytest.approx(np.abs(torques).max())
        assert episodes.energy[k] == pytest.approx(energy)
        log = episodes.history[k]
        steps = log["step"].astype(int)
        assert steps[:-1].tolist() == list(range(0, len(rewards), 10)) and steps[-1] == len(rewards)
        np.testing.assert_allclose(log["position"], np.array(positions)[steps])
        np.testing.assert_allclose(log["qpos"], np.array(poses)[steps])
        np.testing.assert_allclose(log["return"], np.concatenate([[0.0], np.cumsum(rewards)])[steps])
        np.testing.assert_allclose(log["tilt_deg"][1:], np.array(tilts)[steps[1:] - 1])


def test_numbers_do_not_depend_on_how_many_run_at_a_time():
    one, many = (run_episodes(e := make(n), push(e), 6, seed=0) for n in (1, 8))
    assert one.outcomes == many.outcomes
    np.testing.assert_array_equal(one.returns, many.returns)


@pytest.mark.parametrize("num_envs", [2, 5])
def test_terrains_are_taken_in_turn(num_envs):
    envs = make(num_envs, terrain="perlin", max_episode_steps=5)
    episodes = run_episodes(envs, push(envs), 7, seed=0)
    assert episodes.terrain_ids.tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("num_envs", [2, 4, 7])
def test_episodes_may_begin_alike_and_differ_in_what_is_given(num_envs):
    envs = make(num_envs, ranges={"wind_x": (-0.001, 0.001), "body_mass": (0.9, 1.1)})
    starts, winds = np.array([4, 0, 4, 4, 0]), np.array([0.0, 0.0, 90.0, 0.0, -90.0])
    episodes = run_episodes(
        envs, lambda obs, began: np.zeros((num_envs, 3)), 5, 10, 10, starts=starts, randomized={"wind_x": winds}
    )
    assert episodes.seeds.tolist() == [14, 10, 14, 14, 10] and episodes.terrain_ids.tolist() == [0] * 5
    assert np.array_equal(episodes.history[0]["qpos"], episodes.history[3]["qpos"])
    first = [h["qpos"][0] for h in episodes.history]
    assert np.array_equal(first[0], first[2]) and not np.array_equal(first[0], first[1])
    lean = np.array([h["tilt_deg"][-1] for h in episodes.history])
    assert lean[[2, 4]].min() > 2 * lean[[0, 1, 3]].max()
    uneven = make(num_envs, terrain="perlin")
    found = run_episodes(uneven, lambda obs, began: np.zeros((num_envs, 3)), 5, 10, starts=starts)
    assert found.terrain_ids.tolist() == [1, 0, 1, 1, 0]


def test_a_policy_is_worth_what_training_says(tmp_path):
    path = save_policy(tmp_path / "p.pt")
    policy = load_policy(path)
    episodes = run_episodes(make(4), lambda obs, began: policy.predict(obs), 4, seed=3)
    expected = evaluate(load_agent(path), make(4), 4, seed=3)
    assert episodes.returns.mean() == pytest.approx(expected["return_mean"])
    assert episodes.lengths.mean() == expected["length_mean"]
    assert episodes.reward_terms["progress"].mean() == pytest.approx(expected["reward/progress"])


def test_robots_that_leave_the_terrain_are_counted_apart():
    envs = make(2, terrain="perlin", max_episode_steps=50)
    sims = envs.simulations

    class AtTheEdge:
        def __call__(self, obs, began):
            if began.any():
                sims.qpos[0, sims.addresses.base_qpos] = sims.qpos[0, sims.addresses.ball_qpos] = 4.9
            return np.zeros((2, 3))

    assert run_episodes(envs, AtTheEdge(), 2, seed=0).outcomes == ["out_of_bounds", "success"]


def test_what_diverged_is_recorded_where_it_was():
    envs = make(1)
    sims = envs.simulations
    steps = iter(range(100))

    def actor(obs, began):
        if next(steps) == 25:
            sims.qvel[0] = 1e6
        return np.zeros((1, 3))

    episodes = run_episodes(envs, actor, 1, seed=3, history_interval=10)
    assert episodes.outcomes == ["diverged"]
    poses = episodes.history[0]["qpos"]
    assert len(poses) == 4 and (poses[3] == poses[2]).all() and (poses[2] != poses[1]).any()


def episodes_of(outcomes, returns):
    n = len(outcomes)
    ones = np.ones(n)
    return Episodes(
        np.arange(n), np.arange(n), np.zeros(n, int), outcomes, np.array(returns), np.full(n, 9),
        {"progress": 2 * ones}, ones, ones, ones, ones, ones, ones, ones,
    )  # fmt: skip


def test_a_summary_has_rates_means_and_intervals():
    summary = summarize(episodes_of(["success", "failure", "success", "diverged"], [1.0, 2.0, 3.0, 6.0]))
    assert summary["episodes"] == 4
    assert (summary["success_rate"], summary["failure_rate"], summary["out_of_bounds_rate"]) == (0.5, 0.25, 0.0)
    assert summary["return_mean"] == 3.0 and summary["return_std"] == pytest.approx(np.std([1, 2, 3, 6], ddof=1))
    low, high = summary["return_ci95"]
    assert 1.0 <= low < 2.0 and 4.0 < high <= 6.0
    assert summary["reward_progress_mean"] == 2.0
    assert [e["outcome"] for e in summary["per_episode"]] == ["success", "failure", "success", "diverged"]
    assert summary["per_episode"][3]["return"] == 6.0


def test_one_episode_has_no_spread():
    summary = summarize(episodes_of(["success"], [1.0]))
    assert summary["return_mean"] == 1.0 and summary["return_std"] is None and summary["return_ci95"] is None
    low, high = summary["success_rate_ci95"]
    assert low < 0.3 and high == 1.0


def test_intervals_are_the_textbooks():
    # Newcombe 1998, table I, method 3
    np.testing.assert_allclose(wilson_interval(81, 263), [0.2553, 0.3662], atol=5e-5)
    np.testing.assert_allclose(wilson_interval(15, 148), [0.0624, 0.1605], atol=5e-5)
    np.testing.assert_allclose(wilson_interval(0, 20), [0.0, 0.1611], atol=5e-5)
    assert wilson_interval(20, 20)[1] == 1.0
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = mean_interval(values) or (0.0, 0.0)
    half = 1.96 * values.std(ddof=1) / 20
    np.testing.assert_allclose([low, high], [values.mean() - half, values.mean() + half], atol=0.02)
    assert mean_interval(values) == [low, high]


def test_options_follow_from_what_a_policy_was_trained_with(tmp_path):
    blind = load_policy(save_policy(tmp_path / "p.pt", 15, frame="world"))
    assert env_options(blind) == {"observation": "proprioception", "frame": "world", "terrain": "flat"}
    with pytest.raises(ValueError, match="trained without cameras"):
        env_options(blind, "encoder.pt")
    blind.metadata["random_yaw"] = False
    assert env_options(blind)["random_yaw"] is False
    with pytest.raises(ValueError, match=r"w\.pt observes \(17,\), which is not frame 'world'"):
        env_options(load_policy(save_policy(tmp_path / "w.pt", 17, frame="world")))
    foreign = load_policy(save_policy(tmp_path / "f.pt", observation=None))
    with pytest.raises(ValueError, match="was not trained on Ballbot-v0"):
        env_options(foreign)
    seeing = load_policy(save_policy(tmp_path / "s.pt", 58, observation="encoded", encoder="0" * 64))
    with pytest.raises(EncoderError, match=r"trained with the encoder 0000000000000000, which .* does not keep"):
        env_options(seeing)
    for missing in ("frame", "terrain", "encoder"):
        metadata: dict[str, Any] = {"observation": "encoded", "terrain": "flat", "encoder": "0" * 64, missing: None}
        damaged = load_policy(save_policy(tmp_path / "d.pt", 58, **metadata))
        with pytest.raises(ValueError, match=rf"d.pt does not say what .* \({missing} is None\)"):
            env_options(damaged)


def test_options_tell_the_whole_task_and_the_same_for_all_is_left_out(tmp_path):
    task: dict[str, Any] = {
        "command": "velocity", "motion": {"max_speed": 0.2, "station_keeping": True}, "terrain": "stairs:0.5",
        "ground": {"height": 0.02}, "extra_fields": ("yaw_rate",), "endings": {"speed": 1.5},
        "rewards": {"velocity": 2.0, "tilt": 1.0},
    }  # fmt: skip
    config = WorldConfig.of(**task, tilt_limit_deg=15.0, integrator="RK4", initial_speed=0.2, action_limit=0.5)
    metadata = config.metadata()
    policy = load_policy(save_policy(tmp_path / "p.pt", 21, **metadata))
    options = env_options(policy)
    assert options == {"observation": "proprioception", "frame": "body", **task}
    envs = make(2, **options)
    assert envs.config == replace(config.task(), tilt_limit_deg=20.0, integrator="Euler", num_terrains=3,
                                  max_episode_steps=120)  # fmt: skip
    assert envs.observation_space.shape == (2, 21) and envs.world.terms == ("velocity", "tilt")
    with pytest.raises(ValueError, match=r"observes \(17,\), which is not frame 'body' .*velocity_command, station"):
        env_options(load_policy(save_policy(tmp_path / "w.pt", 17, **metadata)))


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"terrain": "bumps:0.3"}, "terrain 'bumps:0.3'"),
        ({"command": "circle"}, "command 'circle'"),
        ({"extra_fields": ["sonar"]}, "field 'sonar'"),
        ({"rewards.calm": 0.5, "endings.sunset": 1.0}, "reward 'calm', ending 'sunset'"),
    ],
)
def test_parts_that_nobody_registered_may_be_of_a_plugin(tmp_path, metadata, named):
    policy = load_policy(save_policy(tmp_path / "p.pt", **metadata))
    with pytest.raises(SettingsError, match=rf"p\.pt was trained with {named}, which .* load the plugin"):
        env_options(policy)


def test_values_that_this_version_does_not_take_are_damage(tmp_path):
    damaged: dict[str, Any] = {"motion.x": "north"}
    policy = load_policy(save_policy(tmp_path / "p.pt", **damaged))
    with pytest.raises(SettingsError, match=r"p\.pt is damaged or of another version \(.*x must be a number"):
        env_options(policy)


def test_another_task_keeps_what_fits_it():
    options = {
        "terrain": "stairs:0.5", "ground": {"height": 0.02}, "command": "velocity", "motion": {"max_speed": 0.2},
        "rewards": {"velocity": 2.0}, "frame": "body", "extra_fields": ("yaw_rate",),
    }  # fmt: skip
    assert task_of(options, "stairs:0-1")["ground"] == {"height": 0.02}
    assert "ground" not in task_of(options, "hills")
    assert task_of(options, command="velocity")["motion"] == {"max_speed": 0.2}
    assert task_of(options, command="point") == {
        "terrain": "stairs:0.5",
        "ground": {"height": 0.02},
        "command": "point",
    }
    task = task_of({"terrain": "flat", "command": "velocity", "motion": {"max_speed": 0.1}})
    assert in_task(options, task) == {"frame": "body", "extra_fields": ("yaw_rate",), **task}
    with pytest.raises(SettingsError, match="'target', and what is judged observes 'velocity_command', of"):
        in_task(options, task_of(options, command="point"))


def test_velocity_commands_are_measured_and_missed():
    envs = make(3, command="velocity", motion={"resample_time": 0.0}, max_episode_steps=1000)
    act = PIDController(envs.dt)
    episodes = run_episodes(envs, act, 6, seed=0)
    summary = summarize(episodes)
    assert {"missed", "success"} == set(episodes.outcomes)  # it stands, which is what some are told
    for k in range(6):
        single = make(1, command="velocity", motion={"resample_time": 0.0}, max_episode_steps=1000)
        obs, _ = single.reset(seed=k)
        vx, vy, _ = single.command[0]
        actor, errors, speeds, began = PIDController(single.dt), [], [], np.ones(1, bool)
        for step in range(1, 1001):
            direction = single.goal[0]
            obs, *_ = single.advance(actor(obs, began))
            began[:] = False
            robots = single.simulations.robot_state()
            speeds.append(direction @ robots.velocity[:2, 0])
            if step * 0.002 > 1.5:
                errors.append(np.sum((robots.heading_velocity[:, 0] - (vx, vy)) ** 2))
        assert episodes.measures["velocity_error"][k] == pytest.approx(np.sqrt(np.mean(errors)))
        assert episodes.outcomes[k] == ("success" if np.mean(errors) <= 0.01 else "missed")
        if vx or vy:
            assert episodes.speed_along_goal[k] == pytest.approx(
                np.sum(speeds) / 999
            )  # the first step has no direction
            assert np.isnan(episodes.measures["drift"][k])
        else:
            assert np.isnan(episodes.speed_along_goal[k]) and episodes.measures["drift"][k] < 0.5
    told = episodes.measures["drift"][np.isfinite(episodes.measures["drift"])]
    assert summary["measure_drift_count"] == len(told) and 0 < len(told) < 6
    assert summary["measure_drift_mean"] == pytest.approx(told.mean())
    assert summary["missed_rate"] == episodes.outcomes.count("missed") / 6
    assert not episodes.targets
    assert list(episodes.reward_terms) == ["survival", "action_cost", "velocity", "yaw_rate"]


@pytest.mark.parametrize(("command", "points"), [("point", 1), ("path", 4)])
def test_places_are_recorded(command, points):
    envs = make(2, command=command, max_episode_steps=30)
    episodes = run_episodes(envs, push(envs, 0.0), 5, seed=2)
    for k in range(5):
        envs.reset(seed=2 + k)
        np.testing.assert_array_equal(episodes.targets[k], envs.command[0].reshape(points, 2))
    assert episodes.measures["arrived"].tolist() == [0] * 5 and episodes.outcomes == ["missed"] * 5
    assert np.isnan(episodes.measures["arrival_time"]).all()
    summary = summarize(episodes)
    assert summary["measure_arrival_time_mean"] is None and summary["measure_arrival_time_count"] == 0
    assert summary["per_episode"][0]["measure_arrival_time"] is None


def test_no_episodes_are_refused():
    with pytest.raises(ValueError, match="num_episodes = 0"):
        run_episodes(make(1), push(None), 0, seed=0)
