"""Robots that differ in one batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ballbot.envs import ROBOTS, BallbotVectorEnv, WorldConfig
from ballbot.envs.family import _drawn, drawn, varying
from ballbot.envs.model import build_model
from ballbot.errors import SettingsError

VARY: dict[str, tuple[float, float]] = {
    "ball_radius": (0.1, 0.12),
    "body_mass": (2.0, 3.0),
    "torque_limit": (6.0, 10.0),
}


def family(num: int = 6, robot: str = "rollers", **more: Any) -> BallbotVectorEnv:
    options = {"vary": VARY, "num_robots": 3, "num_terrains": 2, **more}
    return BallbotVectorEnv(num, robot=robot, **options)


@pytest.mark.parametrize("robot", ["rollers", "reference"])
def test_each_moves_as_it_would_alone(robot: str) -> None:
    envs = family(robot=robot)
    _, infos = envs.reset(seed=1)
    rng, sims = np.random.default_rng(0), envs.simulations
    assert len(set(infos["robot_id"])) > 1
    alone = {}
    for sim, (which, terrain) in enumerate(zip(infos["robot_id"], infos["terrain_id"], strict=True)):
        one = BallbotVectorEnv(1, robot=envs.config.robots[which], num_terrains=2)
        one.reset(seed=0, options={"terrain_id": int(terrain)})
        one.simulations.batch.state[:] = sims.batch.state[sim]
        one.world.robots = one.simulations.robot_state()
        alone[sim] = one
    for _ in range(100):
        actions = rng.uniform(-0.1, 0.1, (6, 3)).astype(np.float32)
        _, rewards, *_, infos = envs.step(actions)
        for sim, one in alone.items():
            _, reward, *_ = one.step(actions[sim : sim + 1])
            np.testing.assert_array_equal(one.simulations.qpos[0], sims.qpos[sim])
            assert reward[0] == rewards[sim]
            np.testing.assert_array_equal(one.simulations.torques[0], sims.torques[sim])


def test_a_robot_of_the_family_is_the_robot_that_is_compiled() -> None:
    envs = family(12)
    envs.reset(seed=0)
    sims = envs.simulations
    ground = envs.world.ground
    for which, robot in enumerate(envs.config.robots):
        own = build_model(ground.relief, tops=ground.tops, length=ground.grid.length, robot=robot)
        for model in (sims.model_of(which), sims.batch.get_model(int(np.flatnonzero(sims.robot_ids == which)[0]))):
            for name in ("body_mass", "body_inertia", "geom_size", "geom_pos", "actuator_ctrlrange", "dof_invweight0"):
                np.testing.assert_array_equal(getattr(model, name), getattr(own, name), err_msg=name)


def test_they_start_at_rest_on_their_ball() -> None:
    envs = family(12, initial_tilt_deg=0.0)
    envs.reset(seed=3)
    before = envs.simulations.qpos[:, 2].copy()
    for _ in range(20):
        envs.step(np.zeros((12, 3), np.float32))
    np.testing.assert_allclose(envs.simulations.qpos[:, 2], before, atol=2e-4)


def test_splits_and_seeds_have_robots_of_their_own_within_the_ranges() -> None:
    robots = {key: drawn(ROBOTS["rollers"], VARY, 4, *key) for key in (("train", 0), ("eval", 0), ("train", 1))}
    _drawn.cache_clear()
    assert robots["train", 0] == drawn(ROBOTS["rollers"], VARY, 4, "train", 0)
    radii = [robot.ball_radius for several in robots.values() for robot in several]
    assert len(set(radii)) == len(radii) and min(radii) >= 0.1 and max(radii) <= 0.12
    back = {"ball_radius": 0.11, "body_mass": 2.5, "torque_limit": 8.0}
    assert {replace(robot, **back) for robot in robots["eval", 0]} == {replace(ROBOTS["rollers"], **back)}  # type: ignore[arg-type]


def test_an_episode_has_any_of_them_and_a_state_goes_on_with_the_same() -> None:
    envs = family(max_episode_steps=5)
    envs.reset(seed=0)
    met = set()
    for _ in range(60):
        *_, infos = envs.step(np.zeros((6, 3), np.float32))
        met |= set(infos["robot_id"].tolist())
    assert met == {0, 1, 2}
    state = envs.get_state()
    other = family(max_episode_steps=5)
    other.reset(seed=9)
    other.set_state(state)
    for _ in range(30):
        actions = np.random.default_rng(0).uniform(-0.1, 0.1, (6, 3)).astype(np.float32)
        one, two = envs.step(actions), other.step(actions)
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[-1]["robot_id"], two[-1]["robot_id"])


def test_a_state_of_another_family_is_refused() -> None:
    envs, other = family(), family(vary={**VARY, "body_mass": (2.0, 2.5)})
    envs.reset(seed=0)
    other.reset(seed=0)
    with pytest.raises(ValueError, match=r"vary\.body_mass was"):
        other.set_state(envs.get_state())


def test_what_a_policy_was_trained_for_says_the_ranges() -> None:
    config = WorldConfig(robot="rollers", vary=VARY)
    assert WorldConfig.from_metadata(config.metadata()).vary == VARY
    assert config.task(terrain_split="eval").robots != config.robots
    assert WorldConfig(robot="rollers").robots == (ROBOTS["rollers"],)


def test_masses_may_differ_before_cameras_and_sizes_may_not() -> None:
    seen: dict[str, Any] = {"observation": "depth", "num_robots": 2, "num_terrains": 1}
    envs = BallbotVectorEnv(2, vary={"body_mass": (2.0, 3.0)}, **seen)
    assert envs.reset(seed=0)[0]["depth"].shape[0] == 2
    with pytest.raises(SettingsError, match=r"vary ball_radius: robots whose ball, body or wheels differ in size"):
        BallbotVectorEnv(2, vary={"ball_radius": (0.1, 0.12)}, **seen)


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"ball_radios": (0.1, 0.2)}, "vary has no number 'ball_radios': did you mean 'ball_radius'"),
        ({"wheels": (3, 4)}, "vary has no number 'wheels'"),
        ({"ball_radius": 0.1}, "vary.ball_radius = 0.1 must be a range, from and to"),
        ({"ball_radius": (0.12, 0.1)}, "vary.ball_radius = 0.12 0.1 must rise: write 0.1 0.12"),
        ({"ball_radius": (-1.0, 0.1)}, "vary.ball_radius must be a number"),
        ({"ball_radius": (0.1, "x")}, "vary.ball_radius must be"),
        ({"no_load_speed": (10.0, np.inf)}, "vary.no_load_speed must be a finite number"),
        (3, "vary=3 must be a mapping"),
    ],
)
def test_ranges_that_are_none_are_refused(vary: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        WorldConfig(vary=vary)


def test_ranges_in_which_no_robot_can_be_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"vary: of 50 robots drawn in a row, none can be .*narrow the ranges"):
        BallbotVectorEnv(1, robot="rollers", vary={"wheel_radius": (0.15, 0.2)})


def test_robots_that_cannot_stand_are_not_drawn() -> None:
    torques = [one.torque_limit for one in drawn(ROBOTS["reference"], {"torque_limit": (0.1, 0.9)}, 8, "train", 0)]
    assert min(torques) > 0.4 and len(torques) == 8
    with pytest.raises(SettingsError, match=r"none can be \(it cannot stand"):
        drawn(ROBOTS["rollers"], {"torque_limit": (0.1, 0.2)}, 2, "train", 0)


def test_motors_that_slacken_differ_only_from_motors_that_do() -> None:
    assert "no_load_speed" in varying() and "wheels" not in varying() and "rollers" not in varying()
    envs = BallbotVectorEnv(4, robot="mini", vary={"no_load_speed": (30.0, 50.0)}, num_robots=2, terrain="flat")
    envs.reset(seed=0)
    envs.simulations.qvel[:, list(envs.simulations.addresses.wheel_qvel)] = 60.0
    envs.simulations.step(np.full((4, 3), 0.3))
    np.testing.assert_array_less(envs.simulations.torques, 0.0)
