from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

from ballbot.envs import BallbotVectorEnv
from ballbot.envs.drive import check_drive, measure_drive, ripple_torque
from ballbot.envs.mechanics import Mechanics, reference, rolling_model, rolling_wheel_speeds
from ballbot.envs.model import Addresses, at_rest, build_model, check_wheel_contacts, num_wheels
from ballbot.envs.robot import RobotConfig, settled
from ballbot.envs.robots import ROBOTS
from ballbot.envs.standing import check_standing, gripped_lean, recoverable_lean, torque_lean
from ballbot.errors import SettingsError
from ballbot.lqr import LQRController

MODELS = ("capsule", "rollers")


def drawn(seed: int, **options: Any) -> RobotConfig:
    """A robot at random: a ball of 5 to 15 cm, 1 to 26 kg, three or four wheels 38 to 52 degrees from its top."""
    rng = np.random.default_rng(seed)
    ball, mass = rng.uniform(0.05, 0.15), np.exp(rng.uniform(0, np.log(26)))
    height, wheel = ball * rng.uniform(1.5, 4), ball * rng.uniform(0.25, 0.5)
    inertia = mass * (height * rng.uniform(0.3, 0.7)) ** 2
    return RobotConfig(
        ball_radius=ball, ball_mass=mass * rng.uniform(0.05, 0.3), body_mass=mass, body_height=height,
        body_inertia=(inertia, inertia, inertia / 4), body_radius=1.1 * ball, body_top=2.5 * height + wheel,
        wheels=4 if rng.integers(2) else 3, zenith_deg=rng.uniform(38, 52), azimuth_deg=rng.uniform(0, 360),
        wheel_radius=wheel, wheel_width=1.6 * wheel, wheel_mass=0.02 * mass, wheel_armature=0.2 * mass * wheel**2,
        wheel_damping=0.02 * mass * wheel, torque_limit=0.35 * 9.81 * mass * height * wheel / ball, **options,
    )  # fmt: skip


def driven(model: mujoco.MjModel, target: float, lean: float, seconds: float) -> tuple[float, NDArray[np.float64]]:
    """Let the computed controller drive a robot that leans at first; returns how far it leaned in the last second, and
    its velocity along its own x and y then, in the mean."""
    at, data = Addresses.of(model), mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, model.key("settled").id)
    middle = data.qpos[at.ball_qpos : at.ball_qpos + 3].copy()
    turn = np.array([np.cos(lean / 2), -np.sin(lean / 2) * np.sin(0.7), np.sin(lean / 2) * np.cos(0.7), 0.0])
    moved = np.empty(3)
    mujoco.mju_rotVecQuat(moved, data.qpos[at.base_qpos : at.base_qpos + 3] - middle, turn)
    data.qpos[at.base_qpos : at.base_qpos + 3] = middle + moved
    data.qpos[at.base_qpos + 3 : at.base_qpos + 7] = turn
    dt = float(model.opt.timestep)
    control = LQRController(dt, target, model)
    steps, leans, speeds = int(seconds / dt), [], []
    for step in range(steps):
        matrix = np.empty(9)
        mujoco.mju_quat2Mat(matrix, data.qpos[at.base_qpos + 3 : at.base_qpos + 7])
        turned = matrix.reshape(3, 3)
        c, s = turned[:2, 0] / np.linalg.norm(turned[:2, 0])
        x, y, z = data.qvel[at.base_qvel : at.base_qvel + 3]
        seen = np.zeros((1, 17), np.float32)
        seen[0, :6] = *-turned[2], *data.qvel[at.base_qvel + 3 : at.base_qvel + 6]
        seen[0, 6:11] = c * x + s * y, c * y - s * x, z, 1.0, 0.0
        data.ctrl[:] = -model.actuator_ctrlrange[:, 1] * control(seen, np.array([step == 0]))[0]
        mujoco.mj_step(model, data)
        leans.append(np.degrees(np.arccos(np.clip(turned[2, 2], -1, 1))))
        speeds.append(seen[0, 6:8].astype(float))
        if leans[-1] > 30:
            return 90.0, np.zeros(2)
    late = round(1 / dt)
    return float(np.max(leans[-late:])), np.asarray(np.mean(speeds[-late:], axis=0))


@pytest.mark.parametrize("wheel_model", MODELS)
@pytest.mark.parametrize("seed", range(5))
def test_robots_drawn_at_random_stand_and_travel_by_gains_that_are_computed(seed: int, wheel_model: Any) -> None:
    robot = drawn(seed, wheel_model=wheel_model)
    model = robot.compile()
    lean, velocity = driven(model, 0.15, np.radians(2.0), 3.0)
    assert lean < 1.0
    np.testing.assert_allclose(velocity, [0.15, 0.0], atol=0.06)


@pytest.mark.parametrize("wheel_model", MODELS)
@pytest.mark.parametrize(("wheels", "rollers"), [(3, 5), (4, 6)])
def test_a_robot_is_what_its_numbers_say(wheels: Any, rollers: int, wheel_model: Any) -> None:
    robot = RobotConfig(body_mass=3.6, wheels=wheels, wheel_model=wheel_model, rollers=rollers)
    model = robot.compile()
    data = at_rest(model)
    assert num_wheels(model) == model.nu == wheels
    assert np.abs(data.qacc[[0, 1, 2, 3, 4, 5]]).max() < 0.02 and np.abs(data.qacc).max() < 0.5
    whole = robot.ball_mass + robot.body_mass + wheels * robot.wheel_mass
    assert float(model.body_subtreemass[0]) == pytest.approx(whole)
    np.testing.assert_allclose(data.qfrc_constraint[[2, 8]].sum(), 9.81 * whole, rtol=1e-3)
    for number in range(wheels):
        normal, axle = robot.wheel_axes(number)
        joint = model.joint(f"wheel_{number}").id
        np.testing.assert_allclose(data.xaxis[joint], axle, atol=1e-6)
        place = data.xanchor[joint] - data.geom("ball").xpos
        np.testing.assert_allclose(place / np.linalg.norm(place), normal, atol=0.02)
        assert normal @ axle == pytest.approx(0) and normal[2] == pytest.approx(np.cos(np.radians(45)))
    speeds = rolling_wheel_speeds(model)
    # the ball's surface at the wheels goes by as fast as the ball travels, times the cosine of the zenith angle
    largest = np.cos(np.radians(45.0)) / robot.wheel_radius
    np.testing.assert_allclose(np.linalg.norm(speeds, axis=1), largest, rtol=0.1)
    if wheel_model == "capsule":
        check_wheel_contacts(model)


@pytest.mark.parametrize("seed", range(3))
def test_both_models_of_a_wheel_are_the_same_robot_to_the_controller(seed: int) -> None:
    one, other = (rolling_model(drawn(seed, wheel_model=wheel_model).compile()) for wheel_model in MODELS)
    np.testing.assert_allclose(one.a, other.a, atol=0.12 * np.abs(one.a).max())
    np.testing.assert_allclose(one.b, other.b, atol=0.12 * np.abs(one.b).max())


def test_rollers_turn_the_ball_as_geometry_says_and_hardly_shake_it() -> None:

    found = check_drive(ROBOTS["rollers"])
    assert np.abs(found.gear - 1).max() < 0.01 and found.across.max() < 0.01 and found.ripple < 2e-4
    solid = measure_drive(RobotConfig(wheels=4).compile())  # axles and solids agree, as the reference's do not quite
    assert np.abs(solid.gear - 1).max() < 1e-3 and solid.ripple < 1e-5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"roller_damping": 1e-4, "wheel_radius": 0.01, "wheel_width": 0.01}, r"turn the ball 0\.\d+ times as fast"),
        ({"rollers": 4, "wheel_radius": 0.04, "body_top": 0.5}, r"rises and sinks by \d\.\d mm"),
    ],
)
def test_wheels_that_slip_or_shake_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        check_drive(RobotConfig(wheel_model="rollers", **options))


def test_a_lean_can_be_recovered_from_as_far_as_the_torque_goes() -> None:
    leans = [recoverable_lean(rolling_model(RobotConfig(torque_limit=torque).compile())) for torque in (1.0, 2.0)]
    assert leans[1] == pytest.approx(2 * leans[0], rel=1e-6)
    model = RobotConfig(torque_limit=2.0).compile()
    assert driven(model, 0.0, 0.6 * leans[1], 3.0)[0] < 1.0
    assert driven(model, 0.0, 1.3 * leans[1], 3.0)[0] == 90.0


def test_wheels_hold_a_lean_as_far_as_they_grip() -> None:
    spec = ROBOTS["mini"].spec()
    for pair in spec.pairs:
        pair.friction = [0.08, 0.08, 0.0, 0.0, 0.0]
    model = spec.compile()
    lean = gripped_lean(model, rolling_model(model))
    assert np.radians(2) < lean < np.radians(4) < recoverable_lean(rolling_model(model))
    assert driven(model, 0.0, 0.7 * lean, 3.0)[0] < 1.0
    assert driven(model, 0.0, 1.3 * lean, 3.0)[0] == 90.0


@pytest.mark.parametrize(
    "options", [{"torque_limit": 0.1}, {"wheel_damping": 100.0}, {"torque_limit": 0.5, "wheel_friction": 0.3}]
)
def test_who_cannot_stand_is_refused_with_the_torque_that_would_do(options: dict[str, float]) -> None:
    robot, told = RobotConfig(**options), "it cannot stand: motors of torque_limit=[\\d.]+ N m .* or more"  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=f"robot 'reference' with .*=.*: {told}"):
        BallbotVectorEnv(1, terrain="flat", robot=robot)
    with pytest.raises(SettingsError, match=told) as refused:
        check_standing(robot)
    enough = float(str(refused.value).partition("use ")[2].partition(" N m")[0])
    check_standing(replace(robot, torque_limit=enough))
    with pytest.raises(SettingsError, match="cannot stand"):
        check_standing(replace(robot, torque_limit=0.8 * enough))  # what friction takes is not known better


@pytest.mark.parametrize(("name", "weak"), [("mini", 0.002), ("kugle", 0.03)])
def test_the_torque_that_is_told_lets_who_stands_on_rollers_stand(name: str, weak: float) -> None:
    with pytest.raises(SettingsError, match="cannot stand") as refused:
        check_standing(replace(ROBOTS[name], torque_limit=weak))
    enough = float(str(refused.value).partition("use ")[2].partition(" N m")[0])
    assert driven(replace(ROBOTS[name], torque_limit=enough).compile(), 0.0, np.radians(1.0), 3.0)[0] < 1.0
    without = rolling_model(replace(ROBOTS[name], torque_limit=0.3 * enough).compile())
    assert recoverable_lean(without) > np.radians(1.0)  # by torque alone
    assert driven(replace(ROBOTS[name], torque_limit=0.3 * enough).compile(), 0.0, np.radians(1.0), 3.0)[0] == 90.0


def test_rollers_take_torque_as_the_body_is_heavy() -> None:
    mini = ROBOTS["mini"]
    light, heavy = (ripple_torque(replace(mini, body_mass=mass).compile()) for mass in (0.7, 1.4))
    assert 1.4 < heavy / light < 3 and ripple_torque(RobotConfig(wheels=4).compile()) == 0.0


def test_motors_that_lose_their_torque_at_a_crawl_cannot_hold_a_robot() -> None:
    mini = ROBOTS["mini"]
    check_standing(replace(mini, no_load_speed=1.0))  # who stands by it
    with pytest.raises(SettingsError, match=r"cannot stand: .* use a no_load_speed above 0.5 rad/s, or a lighter"):
        check_standing(replace(mini, no_load_speed=0.5))
    braked = torque_lean(replace(mini, no_load_speed=8.0, wheel_damping=0.0).compile())
    damped = torque_lean(replace(mini, no_load_speed=None, wheel_damping=0.3 / 8).compile())
    assert braked == pytest.approx(damped, rel=1e-3)


def test_dry_friction_takes_more_than_itself() -> None:
    mini = ROBOTS["mini"]
    check_standing(replace(mini, wheel_friction=0.15))
    with pytest.raises(SettingsError, match="cannot stand"):
        check_standing(replace(mini, wheel_friction=0.25))
    assert driven(replace(mini, wheel_friction=0.15).compile(), 0.0, np.radians(1.0), 3.0)[0] < 1.0


def test_wheels_without_grip_are_told_the_friction(tmp_path: Path) -> None:
    spec = ROBOTS["mini"].spec()
    for pair in spec.pairs:
        pair.friction = [0.0] * 5
    spec.compile()
    (tmp_path / "own.xml").write_text(spec.to_xml())
    with pytest.raises(SettingsError, match=r"a friction of 0\.0\d+ or more instead of 0$"):
        BallbotVectorEnv(1, terrain="flat", robot=str(tmp_path / "own.xml"))


@pytest.mark.parametrize("height", [0.1, 0.5, 1.0])
def test_wheels_that_grip_are_not_refused_for_who_rides_on_them(height: float) -> None:
    BallbotVectorEnv(1, terrain="flat", build={"body_height": height, "body_top": 2 * height + 0.3}).close()


def test_solids_beside_their_axles_are_refused(tmp_path: Path) -> None:
    spec = RobotConfig(wheels=4).spec()
    for wheel in range(4):
        spec.geom(f"wheel_{wheel}").pos = [0.002, 0.0, 0.0]
    spec.delete(spec.keys[0])  # the pose is another one
    spec.compile()
    (tmp_path / "own.xml").write_text(spec.to_xml())
    with pytest.raises(SettingsError, match=r"own.xml': the .* put each capsule's axis on its wheel's axle"):
        BallbotVectorEnv(1, terrain="flat", robot=str(tmp_path / "own.xml"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ball_radius": -0.1}, "ball_radius must be a number from 0.02 to 0.5, got -0.1"),
        ({"body_mass": float("nan")}, "body_mass must be a finite number"),
        ({"wheels": 5}, "wheels must be one of 3, 4"),
        ({"body_inertia": (0.1, 0.1)}, "must be three moments of inertia"),
        ({"body_inertia": (0.1, 0.1, 0.3)}, "belongs to no body"),
        ({"body_inertia": ("a", 1, 1)}, "body_inertia must be a number, got 'a'"),
        ({"body_inertia": (0.0, 1, 1)}, "body_inertia must be a number from 1e-09"),
        ({"wheel_radius": 0.2}, "within each other: use smaller ones"),
        ({"wheel_width": 0.3}, "within each other: use smaller ones"),
        ({"body_top": 0.13}, "body_top=0.13 is within the wheels|above the body"),
        ({"body_inertia": (331, 344, 242)}, "body_inertia=.331.* is more than body_mass=3.585 kg has .*kg m²"),
        ({"body_height": 0.5}, "body_height=0.5 is above the body, which ends at body_top=0.47"),
        ({"imu_height": 0.5}, "imu_height=0.5 is above the body, which ends at body_top=0.47"),
        ({"wheel_model": "mecanum"}, "wheel_model must be one of 'capsule', 'rollers'"),
    ],
)
def test_impossible_robots_are_refused_by_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        RobotConfig(**options)


def test_what_sinks_or_touches_at_rest_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"sinks 2\d mm into the ground.* 119 times ball_mass"):
        RobotConfig(body_mass=20.0).compile()
    with pytest.raises(
        SettingsError,
        match=r"at rest ball and tower touch, as .* zenith_deg=70 .* use a smaller zenith_deg, or a lighter body",
    ):
        RobotConfig(zenith_deg=70.0, wheel_radius=0.01, wheel_width=0.01).compile()
    assert driven(RobotConfig(zenith_deg=60.0, wheel_radius=0.02).compile(), 0.15, 0.03, 3.0)[0] < 1.0


def test_a_robot_whose_ball_floats_does_not_settle() -> None:
    robot = RobotConfig()
    spec = robot.spec()
    for pair in spec.pairs:
        spec.delete(pair)
    with pytest.raises(SettingsError, match="does not come to rest upright"):
        settled(spec.compile())


def test_a_robot_built_of_the_reference_s_numbers_is_like_it() -> None:
    """Its arms, and that its wheels' axles lie beside the solids, are what the numbers do not say."""
    built = RobotConfig(body_mass=3.5852).compile()  # another than the number that stands for the MJCF
    one, other = rolling_model(build_model()), rolling_model(built)
    np.testing.assert_allclose(one.a, other.a, atol=0.05 * np.abs(one.a).max())
    np.testing.assert_allclose(one.b, other.b, atol=0.05 * np.abs(one.b).max())
    mine, its = Mechanics.of(built), reference()
    assert abs(mine.ball_depth - its.ball_depth) < 4e-3
    np.testing.assert_allclose(mine.shares, its.shares, atol=2e-3)


@pytest.mark.parametrize(("name", "rate"), [("asroballet", 5.42), ("kugle", 5.92), ("cmu", 4.94), ("rezero", 6.21)])
def test_robots_fall_as_fast_as_their_sources_say(name: str, rate: float) -> None:
    """Of the textbook's planar model with the published numbers, 1/s; that of cmu is without the inertia of a drive."""
    falls = np.linalg.eigvals(rolling_model(ROBOTS[name].compile()).a).real.max()
    assert falls == pytest.approx(rate, rel=0.06 if name == "cmu" else 0.02)


@pytest.mark.parametrize("name", ROBOTS)
def test_robots_by_name_stand_and_travel(name: str) -> None:
    model = ROBOTS[name].compile()
    lean, velocity = driven(model, 0.2, np.radians(1.0), 4.0)
    assert lean < 2.0
    np.testing.assert_allclose(velocity, [0.2, 0.0], atol=0.05)


def test_motors_have_less_torque_the_faster_they_turn() -> None:
    envs = BallbotVectorEnv(1, terrain="flat", build={"no_load_speed": 10.0, "wheel_model": "rollers"})
    sims = envs.simulations
    envs.reset(seed=0)
    wheels = list(sims.addresses.wheel_qvel)
    for speed, asked, given in (
        (0, 1, 1),
        (5, 1, 0.5),
        (5, -1, -1),
        (5, 0.2, 0.2),
        (10, 1, 0),
        (15, 1, -0.5),
        (25, 1, -1),
        (-25, -1, 1),
        (-5, 1, 1),
    ):
        sims.qvel[0, wheels] = speed
        sims.step(np.full((1, 3), asked * 10.0))
        np.testing.assert_allclose(sims.batch.bind("ctrl")[0], given * 10.0, atol=1e-9)
        envs.reset(seed=0)
    assert sims.mechanics.no_load_speed == 10.0 and reference().no_load_speed == np.inf
    envs.close()
