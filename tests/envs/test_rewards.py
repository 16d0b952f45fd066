# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Rewards and endings: each term by hand, what is paid in training and in the task, and those of others."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import pytest

from ballbot.controllers import LinearController
from ballbot.envs import COMMANDS, ENDINGS, FIELDS, REWARDS, BallbotEnv, BallbotVectorEnv, Field, WorldConfig
from ballbot.envs.mechanics import reference
from ballbot.envs.model import build_model
from ballbot.envs.randomize import TOLD
from ballbot.envs.rewards import ENDINGS as BUILT_IN_ENDINGS
from ballbot.envs.rewards import make_term
from ballbot.envs.shell import shell_of
from ballbot.envs.step import RobotState, Step, rotation_matrix
from ballbot.errors import SettingsError

SHELL = shell_of(build_model())
FLAT: dict[str, Any] = {"terrain": "flat", "num_threads": 1}


def quaternion(yaw, pitch):
    """Of a base that faces ``yaw`` and leans forward by ``pitch``, rad."""
    a, b = yaw / 2, pitch / 2
    return np.array([np.cos(a) * np.cos(b), -np.sin(a) * np.sin(b), np.cos(a) * np.sin(b), np.sin(a) * np.cos(b)])


def step(yaw=0.0, pitch=0.0, velocity=(0, 0, 0), gyro=(0, 0, 0), wheels=(0, 0, 0), position=(0, 0, 0.2), **more):
    """A record of one robot on level ground."""
    q = quaternion(yaw, pitch)[:, None]
    columns = [np.array(x, float)[:, None] for x in (position, velocity, gyro, wheels)]
    robots = RobotState(columns[0], q, rotation_matrix(q), *columns[1:])
    told: Any = SimpleNamespace(
        direction=np.array([[0.0], [1.0]]),
        values=np.array([[0.2], [0.1], [0.5]]),
        target=np.array([[0.3], [0.4]]),
        station=np.array([[0.0], [0.6]]),
        arrived=np.array([more.pop("arrived", False)]),
    )
    actions = np.array([more.pop("actions", (0, 0, 0))], float)
    last = np.array([more.pop("last_actions", (0, 0, 0))], float)
    fallen = np.array([more.pop("fallen", False)])
    level, floor = more.pop("level", 0.0), more.pop("floor", -np.inf)
    times = np.array([100]), np.array([4000])
    assert not more
    ground = lambda xy: np.full(xy.shape[:-1], level)  # noqa: E731
    return Step(
        robots,
        robots,
        told,
        actions,
        last,
        fallen,
        0.002,
        ground,
        reference(),
        SHELL,
        *times,
        lambda: np.array([floor]),
        lambda goals, places: np.array([[0.6], [0.8]]),
        lambda: np.zeros((len(TOLD), 1)),
        lambda: np.zeros((2, 1)),
        lambda robots: robots,
        lambda: -reference().torque * actions,
    )


NORTHWARD = {"yaw": np.pi / 2, "velocity": (-0.1, 0.2, 0)}  # 0.2 m/s along the heading, 0.1 to its left
ONE = 0.01


@pytest.mark.parametrize(
    ("name", "parameters", "record", "value"),
    [
        ("progress", {}, step(velocity=(0.3, 0.5, 0.1)), ONE * 0.5),
        ("progress", {}, step(velocity=(9, -9, 0)), ONE * -2),
        ("tracking", {}, step(), 0.0),
        ("tracking", {}, step(velocity=(0, 0.5, 0)), ONE / 2 * 0.5),
        ("way", {}, step(velocity=(0.3, 0.4, 0)), ONE / 2 * 0.5),
        ("way", {"way_speed": 0.2}, step(velocity=(0.12, 0.16, 0)), ONE / 2 * 0.2),
        ("tracking", {"tracking_speed": 0.2}, step(velocity=(0.1, 0.2, 0)), ONE / 2 * (0.2 - 0.01 / 0.2)),
        ("survival", {}, step(), 0.02),
        ("survival", {}, step(fallen=True), 0.0),
        ("action_cost", {}, step(actions=(1, -1, 0.5)), -0.0001 * 2.25),
        ("velocity", {}, step(**NORTHWARD), 2 * ONE),
        ("velocity", {}, step(yaw=np.pi / 2), 2 * ONE * np.exp(-0.05 / 0.0625)),
        ("velocity", {"velocity_width": 0.5}, step(), 2 * ONE * np.exp(-0.05 / 0.25)),
        ("velocity_error", {}, step(), -ONE * np.hypot(0.2, 0.1)),
        ("velocity_error", {}, step(**NORTHWARD), 0.0),
        ("yaw_rate", {}, step(gyro=(0, 0, 0.5)), ONE),
        ("yaw_rate", {"yaw_rate_width": 1.0}, step(gyro=(0, 0, -0.5)), ONE * np.exp(-1)),
        ("station", {}, step(), -ONE * 0.6),
        ("station", {}, step(position=(0, 9, 0.2)), -ONE),
        ("distance", {}, step(), -ONE * 0.5),
        ("distance", {}, step(position=(9, 9, 0.2)), -ONE * 2),
        ("arrival", {}, step(), 0.0),
        ("arrival", {}, step(arrived=True), ONE),
        ("upright", {}, step(yaw=1.0, pitch=0.3), ONE * np.cos(0.3)),
        ("tilt", {}, step(yaw=1.0, pitch=0.3), -ONE * np.sin(0.3) ** 2),
        ("action_rate", {}, step(actions=(1, 0, -0.5), last_actions=(0.5, 0, 0.5)), -ONE * 1.25),
        ("torque", {}, step(actions=(0.1, -0.2, 0)), -ONE * 5),
        ("power", {}, step(actions=(0.1, -0.2, 0), wheels=(3, 4, 5)), -ONE * (3 + 8)),
        ("yaw_spin", {}, step(gyro=(0, 0, -2)), -ONE * 4),
        ("yaw_spin", {}, step(pitch=np.pi / 2, gyro=(-2, 0, 0)), -ONE * 4),  # about the vertical, however it lies
        ("collision", {}, step(), 0.0),
        ("collision", {}, step(level=0.3), -ONE),
        ("collision", {}, step(pitch=np.pi / 2, position=(0, 0, 0.1)), -ONE),  # lies on its side
    ],
)
def test_a_term_is_what_it_says(name, parameters, record, value):
    assert make_term(name, parameters)(record) == pytest.approx(np.array([value]), abs=1e-12)


def test_every_term_and_every_ending_was_tried():
    tried = {mark[0] for mark in test_a_term_is_what_it_says.pytestmark[0].args[1]}
    assert tried == set(REWARDS)
    assert {case[0] for case in test_an_ending_is_what_it_says.pytestmark[0].args[1]} == set(BUILT_IN_ENDINGS)


@pytest.mark.parametrize(
    ("name", "limit", "record", "ends"),
    [
        ("collision", 0.12, step(position=(0, 0, 0.2168)), False),  # as it stands: the wheels are 12.3 cm high
        ("collision", 0.13, step(position=(0, 0, 0.2168)), True),
        ("yaw_rate", 1.0, step(gyro=(0, 0, -1.1)), True),
        ("yaw_rate", 1.0, step(gyro=(0, 3, 0.9)), False),
        ("speed", 0.5, step(velocity=(0.3, 0.39, 9)), False),
        ("speed", 0.5, step(velocity=(0.3, 0.41, 0)), True),
        ("off_road", 0.0, step(level=0.1, floor=0.08), False),
        ("off_road", 0.0, step(level=0.1, floor=0.12), True),
        ("off_road", 0.03, step(level=0.1, floor=0.12), False),
        ("off_road", 0.0, step(level=-9.0), False),  # ground without a floor
    ],
)
def test_an_ending_is_what_it_says(name, limit, record, ends):
    assert ENDINGS[name](record, limit).tolist() == [ends]


def touching(envs, i):
    """Whether MuJoCo finds contacts of a robot, its ball left out, with the ground."""
    sims, model = envs.simulations, envs.simulations.model
    ground, ball = sims.addresses.ground_geom, model.geom("ball").id
    if model.nhfield:
        model.geom_dataid[ground] = sims.terrain_ids[i]
    data = mujoco.MjData(model)
    data.qpos[:] = sims.qpos[i]
    mujoco.mj_forward(model, data)
    return any(ground in pair and ball not in pair for pair in data.contact.geom)


@pytest.mark.parametrize(
    ("terrain", "ground"),
    [("slalom", {}), ("pillars", {}), ("slalom", {"height": 0.4}), ("pillars", {"height": 0.4}), ("flat", {})],
)
def test_a_collision_is_what_mujoco_finds(terrain, ground):
    """Wheels, camera arms and the tower's side meet walls before its lower rim does."""
    envs = BallbotVectorEnv(8, **FLAT | {"terrain": terrain, "ground": ground, "num_terrains": 2})
    envs.reset(seed=0)
    sims, rng, found = envs.simulations, np.random.default_rng(0), []
    at = sims.addresses
    for _ in range(30):
        for i in range(8):
            yaw, tilt, axis = rng.uniform(0, (2 * np.pi, 0.3, 2 * np.pi))
            sims.place(i, sims.terrain_ids[i], yaw=yaw, tilt=tilt, tilt_axis=axis)
            place = rng.uniform(-3, 3, 2)
            for start in (at.base_qpos, at.ball_qpos):
                sims.qpos[i, start : start + 2] += place
        robots, world = sims.robot_state(), envs.world
        near = ENDINGS["collision"](world._record(robots, robots, world.actions, world._none), 0.0)
        found += [(near[i], touching(envs, i)) for i in range(8)]
    envs.close()
    ours, mujocos = np.array(found).T
    if terrain == "flat":
        assert not ours.any() and not mujocos.any()
    else:
        assert mujocos.sum() > 20 and (ours & ~mujocos).sum() <= 2  # none that is not there
        assert (ours & mujocos).sum() > 0.85 * mujocos.sum()


# -- What is paid -----------------------------------------------------------------------------------------------------


def paid(**options):
    """Rewards and infos of a step of three robots that roll."""
    envs = BallbotVectorEnv(3, **FLAT, initial_speed=0.3, initial_tilt_deg=3, **options)
    envs.reset(seed=0)
    _, rewards, *_, infos = envs.step(np.array([[0.1, 0.2, 0.3]] * 3))
    envs.close()
    return rewards, infos


def test_terms_are_weighed_summed_and_logged():
    weights = {"progress": 2.0, "upright": 0.5, "action_rate": 3.0}
    rewards, infos = paid(rewards=weights)
    plain = {name: paid(rewards={name: 1.0})[0] for name in weights}
    assert list(infos["reward_terms"]) == [
        "progress",
        "_progress",
        "upright",
        "_upright",
        "action_rate",
        "_action_rate",
    ]
    for name, weight in weights.items():
        np.testing.assert_allclose(infos["reward_terms"][name], weight * plain[name])
    np.testing.assert_allclose(rewards, sum(weights[name] * plain[name] for name in weights))
    assert (np.abs(rewards) > 1e-5).all()


def test_training_pays_its_own_and_infos_tell_the_tasks():
    task, infos = paid(rewards={"progress": 1.0, "upright": 1.0})
    plain = {name: paid(rewards={name: 1.0})[0] for name in ("progress", "upright", "tilt")}
    training, theirs = paid(
        rewards={"progress": 1.0, "upright": 1.0}, training_rewards={"progress": 0, "upright": 2, "tilt": 7}
    )
    np.testing.assert_allclose(training, 2 * plain["upright"] + 7 * plain["tilt"])
    np.testing.assert_allclose(task, plain["progress"] + plain["upright"])
    for name in ("progress", "upright"):
        np.testing.assert_array_equal(infos["reward_terms"][name], theirs["reward_terms"][name])
    assert "tilt" not in theirs["reward_terms"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("frame", ["body", "world"])
def test_a_single_robot_gets_the_bits_that_it_gets_among_others(command, frame):
    """Of all terms, each and their sum, and of all that is observed."""
    rng = np.random.default_rng(0)
    terms = [name for name, term in REWARDS.items() if command in getattr(term, "commands", (command,))]
    options = {
        "terrain": "slalom", "num_terrains": 2, "num_threads": 1, "command": command, "frame": frame,
        "rewards": {name: float(rng.uniform(0.5, 2)) for name in terms}, "endings": {"yaw_rate": 900.0},
        "tilt_limit_deg": 60,
        "extra_fields": ("yaw_rate",), "initial_speed": 0.3, "initial_tilt_deg": 5,
    }  # fmt: skip
    envs, singles = BallbotVectorEnv(3, **options), [BallbotEnv(**options) for _ in range(3)]
    envs.reset(seed=0)
    for i, single in enumerate(singles):
        single.reset(seed=i)
    for step in range(60):
        actions = rng.uniform(-1, 1, (3, 3))
        obs, rewards, _, _, infos = envs.advance(np.asfortranarray(actions) if step % 2 else actions)
        for i, single in enumerate(singles):
            mine, reward, _, _, info = single.step(actions[i])
            np.testing.assert_array_equal(mine, obs[i])
            assert reward == rewards[i]
            for name in terms:
                assert info["reward_terms"][name] == infos["reward_terms"][name][i], name
            for name, value in info.get("measures", {}).items():
                np.testing.assert_array_equal(value, infos["measures"][name][i])
    envs.close()
    for single in singles:
        single.close()


def test_parameters_at_their_default_or_of_a_term_that_is_paid_are_taken():
    assert WorldConfig(rewards={"progress": 1.0, "tracking": 0.0, "tracking_speed": 0.5}).rewards == {"progress": 1.0}
    world = WorldConfig(rewards={"tracking": 1.0}, training_rewards={"tracking_speed": 0.3})
    assert world.paid == {"tracking": 1.0, "tracking_speed": 0.3}
    WorldConfig(training_rewards={"tracking": 0.0, "tracking_speed": 0.3})  # taken out of what a preset pays


def test_nothing_may_be_paid():
    rewards, infos = paid(rewards={})
    assert not rewards.any() and infos["reward_terms"] == {}
    assert not paid(rewards={"progress": 0.0, "survival": 0.0})[0].any()


def test_weights_as_large_as_they_may_be_stay_numbers():
    rewards, _ = paid(rewards={"progress": 1e6, "yaw_spin": -1e6})
    assert np.isfinite(rewards).all() and np.abs(rewards).max() > 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rewards": {"progres": 1}}, "rewards has the unknown term 'progres': did you mean 'progress'"),
        ({"training_rewards": {"uprigth": 1}}, "training_rewards has the unknown term 'uprigth': did you .*'upright'"),
        ({"rewards": {"tracking_sped": 1}}, "did you mean 'tracking_speed'"),
        (
            {"rewards": {"tracking_speed": 0.3}},
            "rewards.tracking_speed = 0.3 changes nothing, as .*tracking has no",
        ),
        ({"training_rewards": {"tracking_speed": 0.3}}, "training_rewards.tracking_speed = 0.3 changes nothing"),
        ({"rewards": {"progress": "much"}}, "rewards.progress must be a number, got 'much'"),
        ({"rewards": {"progress": None}}, "rewards.progress must be given"),
        ({"rewards": {"progress": np.inf}}, "rewards.progress must be a finite number"),
        ({"rewards": {"progress": 1e7}}, "rewards.progress must be a number from -1e"),
        ({"rewards": {"tracking": 1, "tracking_speed": 3}}, "rewards.tracking_speed must be a number from 0.01 to 2"),
        ({"rewards": ["progress"]}, "rewards=.* must be a mapping"),
        ({"rewards": {"velocity": 1}}, "the reward 'velocity' is for command 'velocity', this world's is 'goal'"),
        ({"training_rewards": {"distance": 1}}, "'distance' is for command 'point' or 'path'"),
        ({"endings": {"colision": 0}}, "endings has the unknown name 'colision': did you mean 'collision'"),
        ({"endings": {"speed": "fast"}}, "endings.speed must be a number"),
        ({"endings": 3}, "endings=3 must be a mapping"),
    ],
)
def test_what_cannot_be_paid_is_refused_by_name(options, message):
    with pytest.raises(SettingsError, match=message):
        WorldConfig(**options)


def test_an_ending_ends_the_episode_as_a_failure_by_its_name():
    envs = BallbotVectorEnv(2, **FLAT, endings={"speed": 0.2}, tilt_limit_deg=90)
    envs.reset(seed=0)
    envs.simulations.place(0, 0, velocity=(0.0, 0.3))
    _, rewards, terminated, truncated, infos = envs.step(np.zeros((2, 3)))
    assert terminated.tolist() == [True, False] and not truncated.any()
    final = infos["final_info"]
    assert final["speed"].tolist() == final["failure"].tolist() == [True, False]
    assert not infos["speed"].any()
    assert rewards[0] < 0.02 < rewards[1] + 1e-3  # a failure earns no survival
    assert final["reward_terms"]["survival"].tolist() == [0.0, 0.02]


# -- Those of others --------------------------------------------------------------------------------------------------


def wrong(when, value):
    """A part that is right at first."""
    calls = []

    def part(step, *limit):
        calls.append(0)
        return value(step) if len(calls) > when else (np.zeros(4) if not limit else np.zeros(4, bool))

    return part


BAD = [
    (lambda step: 1 / 0, "raised ZeroDivisionError: division by zero"),
    (lambda step: step.robots.colour, "raised AttributeError"),
    (lambda step: 1.0, r"returned an array of shape \(\), expected \(4,\): one number a robot"),
    (lambda step: step.robots.position, r"returned an array of shape \(3, 4\), expected \(4,\)"),
    (lambda step: None, r"returned an array of shape \(\)"),
    (lambda step: ["a"] * 4, "returned list, expected"),
    (lambda step: np.full(4, np.nan), r"not finite for robots \[0, 1, 2, 3\]"),
    (lambda step: np.array([0, 0, np.inf, 0]), r"not finite for robots \[2\]"),
]


@pytest.mark.parametrize("paid_in", ["rewards", "training_rewards"])
@pytest.mark.parametrize(("value", "message"), BAD)
def test_a_reward_that_is_wrong_is_named_at_once_or_when_it_turns_wrong(monkeypatch, value, message, paid_in):
    monkeypatch.setitem(REWARDS, "mine", value)
    with pytest.raises(SettingsError, match=f"reward 'mine' {'' if 'finite' not in message else '.*'}{message}"):
        BallbotVectorEnv(4, **FLAT | {paid_in: {"mine": 1.0}})
    monkeypatch.setitem(REWARDS, "mine", wrong(3, value))
    envs = BallbotVectorEnv(4, **FLAT | {paid_in: {"mine": 1.0}})
    envs.reset(seed=0)
    with pytest.raises(SettingsError, match="reward 'mine'"):
        for _ in range(5):
            envs.step(np.zeros((4, 3)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda step, limit: 1 / 0, "raised ZeroDivisionError"),
        (lambda step: np.zeros(4, bool), "raised TypeError"),
        (lambda step, limit: step.robots.position[2], r"returned float64 of shape \(4,\), expected \(4,\) bools"),
        (lambda step, limit: True, r"returned bool of shape \(\)"),
    ],
)
def test_an_ending_that_is_wrong_is_named(monkeypatch, value, message):
    monkeypatch.setitem(ENDINGS, "mine", value)
    with pytest.raises(SettingsError, match=f"ending 'mine' {message}"):
        BallbotVectorEnv(4, **FLAT, endings={"mine": 1.0})


def test_an_ending_named_as_another_info_is_refused(monkeypatch):
    monkeypatch.setitem(ENDINGS, "success", lambda step, limit: np.zeros(4, bool))
    with pytest.raises(SettingsError, match="an ending cannot be named 'success'"):
        WorldConfig(endings={"success": 1.0})


def field(size: int, read: Any) -> Field:
    return Field(size, read)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (field(2, lambda step: step.robots.position), r"returned \(3, 4\), expected an array of shape \(2, 4\)"),
        (field(1, lambda step: step.robots.position[2]), r"returned \(4,\), expected an array of shape \(1, 4\)"),
        (field(1, lambda step: 3.0), "returned float, expected"),
        (field(1, lambda step: 1 / 0), "raised ZeroDivisionError"),
        (field(1, lambda step: np.full((1, 4), np.nan)), r"returned numbers that are not finite for robots \[0, 1"),
    ],
)
def test_a_field_that_is_wrong_is_named(monkeypatch, field, message):
    monkeypatch.setitem(FIELDS, "mine", field)
    with pytest.raises(SettingsError, match=f"field 'mine' {message}"):
        BallbotVectorEnv(4, **FLAT, extra_fields=("mine",))


def test_a_field_sees_the_step_that_was_made(monkeypatch):
    """What was before differs from what is now, in observations as in rewards."""
    monkeypatch.setitem(FIELDS, "moved", Field(3, lambda step: step.robots.velocity - step.before.velocity))
    monkeypatch.setitem(FIELDS, "turned", Field(3, lambda step: (step.actions - step.last_actions).T))
    envs = BallbotVectorEnv(4, **FLAT, extra_fields=("moved", "turned"))
    obs, _ = envs.reset(seed=0)
    assert not obs[:, 17:].any()
    before = envs.simulations.robot_state().velocity
    obs = envs.step(np.full((4, 3), 0.5))[0]
    np.testing.assert_allclose(obs[:, 17:20].T, envs.simulations.robot_state().velocity - before, rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(obs[:, 20:], 0.5)
    assert not envs.step(np.full((4, 3), 0.5))[0][:, 20:].any()


def test_rewards_are_the_callers_even_where_a_term_hands_out_the_state(monkeypatch):
    monkeypatch.setitem(REWARDS, "height", lambda step: step.robots.position[2])
    envs = BallbotVectorEnv(4, **FLAT, rewards={"height": 1.0}, max_episode_steps=2)
    envs.reset(seed=0)
    for _ in range(2):
        rewards = envs.step(np.zeros((4, 3)))[1]
        kept = rewards.copy()
        envs.step(np.zeros((4, 3)))
        np.testing.assert_array_equal(rewards, kept)
    rewards[:] = 7
    assert (envs.simulations.qpos != 7).all()


def test_a_term_may_return_bools_and_whole_numbers(monkeypatch):
    monkeypatch.setitem(REWARDS, "a", lambda step: ~step.fallen)
    monkeypatch.setitem(REWARDS, "b", lambda step: np.ones(len(step.fallen), int))
    assert paid(rewards={"a": 1.0, "b": 1.0})[0].tolist() == [2.0, 2.0, 2.0]


@dataclass(frozen=True)
class Lean:
    """A term with parameters."""

    wanted: float = 0.1

    def __call__(self, step):
        return step.robots.rotation[2, 0] - self.wanted


def test_a_terms_parameters_stand_beside_its_weight(monkeypatch):
    monkeypatch.setitem(REWARDS, "lean", Lean)
    a, b = (paid(rewards={"lean": 1.0, "lean_wanted": w})[0] for w in (0.0, 0.25))
    np.testing.assert_allclose(a - b, 0.25)
    with pytest.raises(SettingsError, match="unknown term 'lean_wnted': did you mean 'lean_wanted'"):
        WorldConfig(rewards={"lean_wnted": 1.0})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"lean": Lean, "lean_wanted": lambda step: step.fallen}, "named as 'lean_wanted': rename one"),
        ({"mine": 3}, "reward 'mine' must be a function of a step, got 3"),
        ({"mine": dataclass(type("T", (), {"__annotations__": {"x": float}}))}, "needs a number as the default .* 'x'"),
    ],
)
def test_terms_that_cannot_be_weighed_are_refused(monkeypatch, names, message):
    for name, term in names.items():
        monkeypatch.setitem(REWARDS, name, term)
    with pytest.raises(SettingsError, match=message):
        WorldConfig(rewards={"progress": 1.0})


def test_tracking_can_pay_for_the_velocity_that_there_will_be():
    now, before = step(velocity=(0, 0.3, 0)), step(velocity=(0, 0.298, 0))
    pays = make_term("tracking", {"tracking_lead": 0.4, "tracking_speed": 0.5})
    np.testing.assert_allclose(pays(now), ONE / 2 * (0.5 - 0.2**2 / 0.5))  # nothing changes
    led = replace(now, before=before.robots)  # 1 m/s^2 on the way
    np.testing.assert_allclose(pays(led), ONE / 2 * (0.5 - (0.3 + 0.4 - 0.5) ** 2 / 0.5))
    turned = step(velocity=(0, 0.3, 0), yaw=np.pi / 2, gyro=(0, 1.0, 0))  # leans along its x axis, which points north
    np.testing.assert_allclose(
        turned.steady_velocity(turned.robots)[:, 0], [0, 0.3 + reference().percussion], atol=1e-12
    )


def test_a_jerk_of_the_wheels_shows_in_the_velocity_but_hardly_in_the_steady_one():
    envs = BallbotVectorEnv(1, terrain="flat", num_threads=1)
    envs.reset(seed=0)
    rng, controller, robots = np.random.default_rng(0), LinearController(envs.dt), []
    obs = np.zeros((1, 17), np.float32)
    for k in range(300):
        if k % 5 == 0:
            noise = rng.normal(0, 0.3, (1, 3))
        action = controller(obs, np.array([k == 0])) + noise
        obs, _, fallen, _, _ = envs.step(action.clip(-1, 1).astype(np.float32))
        assert not fallen.any()
        robots.append(envs.world.robots)
    envs.close()
    above = reference().percussion
    change = {
        name: np.std(np.diff([read(r)[:, 0] for r in robots[50:]], axis=0) / envs.dt)
        for name, read in (
            ("base", lambda r: r.velocity[:2]),
            ("steady", lambda r: r.velocity[:2] + above * r.leaning),
        )
    }
    assert change["steady"] < 0.3 * change["base"], change
