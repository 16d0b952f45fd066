"""What a robot is said to be able to do is what it does in a simulation of its own."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
from inprocess import call
from numpy.typing import NDArray

from ballbot import design
from ballbot.design import CAUSES, NOTHING, ROUNDS, WAYS, Tries, _leaning, _pushed, _sloping
from ballbot.envs import ROBOTS, BallbotVectorEnv, RobotConfig
from ballbot.envs.mechanics import Mechanics, free_wheel_speed, rolling_model
from ballbot.envs.model import Addresses
from ballbot.envs.standing import recoverable_lean
from ballbot.evaluation.drawing import hull
from ballbot.lqr import LQRController

MINI = ROBOTS["mini"]


def tilt_after(
    lean: float = 0.0,
    way: float = 0.0,
    push: float = 0.0,
    slope: float = 0.0,
    wish: Callable[[float, NDArray[np.float64]], float] = lambda time, place: 0.0,
    seconds: float = 8.0,
) -> float:
    """Degrees by which the mini leans in the last second, at most, in MuJoCo alone: no environment, no batch.

    Args:
        lean: rad along the way at first; gravity leans by ``slope`` along it instead of the ground.
        way: rad.
        push: N s along it at first.
        slope: rad.
        wish: of the time and how far it has come (2,), the speed along the way.
        seconds: to go on for.
    """
    model = MINI.compile()
    at, data, dt = Addresses.of(model), mujoco.MjData(model), float(model.opt.timestep)
    mujoco.mj_resetDataKeyframe(model, data, model.key("settled").id)
    along = np.array([np.cos(way), np.sin(way)])
    down = np.array([*np.sin(slope) * along, -np.cos(slope)])
    model.opt.gravity[:] = 9.81 * down
    middle, turn, moved = data.qpos[at.ball_qpos : at.ball_qpos + 3].copy(), np.empty(4), np.empty(3)
    mujoco.mju_axisAngle2Quat(turn, np.array([-along[1], along[0], 0.0]), lean - slope)
    mujoco.mju_rotVecQuat(moved, data.qpos[at.base_qpos : at.base_qpos + 3] - middle, turn)
    data.qpos[at.base_qpos : at.base_qpos + 3] = middle + moved
    data.qpos[at.base_qpos + 3 : at.base_qpos + 7] = turn
    control, matrix, leans = LQRController(dt, 1.0, model), np.empty(9), list[float]()
    start, fastest = data.qpos[at.base_qpos : at.base_qpos + 2].copy(), MINI.no_load_speed or np.inf
    for step in range(round(seconds / dt)):
        mujoco.mju_quat2Mat(matrix, data.qpos[at.base_qpos + 3 : at.base_qpos + 7])
        turned, seen = matrix.reshape(3, 3), np.zeros((1, 11), np.float32)
        seen[0, :3] = down @ turned
        seen[0, 3:6] = data.qvel[at.base_qvel + 3 : at.base_qvel + 6]
        seen[0, 6:9] = data.qvel[at.base_qvel : at.base_qvel + 3] @ turned
        come = data.qpos[at.base_qpos : at.base_qpos + 2] - start
        seen[0, 9:] = wish(step * dt, come) * along @ turned[:2, :2]
        asked, wheels = -MINI.torque_limit * control(seen, np.array([step == 0]))[0], data.qvel[list(at.wheel_qvel)]
        left = MINI.torque_limit * (1 - wheels * np.sign(asked) / fastest)
        data.ctrl[:] = np.sign(asked) * np.minimum(np.abs(asked), np.clip(left, 0, None))
        data.xfrc_applied[model.body("base").id, :2] = along * push / 0.1 if step * dt < 0.1 else 0.0
        mujoco.mj_step(model, data)
        leans.append(float(np.degrees(np.arccos(np.clip(turned[2, 2], -1, 1)))))
        if leans[-1] > 60:
            return 90.0
    return max(leans[-round(1 / dt) :])


def test_what_is_said_of_a_robot_is_what_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(design, "ROUNDS", 1)  # coarse, to be quick
    monkeypatch.setattr(design, "COURSE_SECONDS", 6.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        done = call(
            "design_robot.py", "reference", "--json", tmp_path / "found.json", "--out", tmp_path / "page.html",
            folder=tmp_path,
        )  # fmt: skip
    assert done.returncode == 0 and "what ends it" in done.stdout and "natural frequency" in done.stdout, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["mass"] == pytest.approx(4.02, abs=0.01) and found["fall_rate"] == pytest.approx(4.72, abs=0.05)
    limits = [found[name] for name in ("lean", "slope", "push", "speed")]
    assert {limit["limited_by"] for limit in limits} <= {*CAUSES}
    assert 0.9 * 0.43 < min(found["speed"]["most"]) < 1.02 * min(found["top_speeds"])
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 3 and "degrees of slope" in page and "z, m" in page
    # The robot holds itself on slopes of 9.5 degrees (docs of ground's warning).
    assert 9.5 < np.degrees(min(found["slope"]["most"])) < 20
    # by another way: the environment's own starts and endings
    worst = min(found["lean"]["most"])
    assert worst < found["lean_by_torque"] < found["lean_by_grip"]
    for share, stands in ((0.97, True), (1.25, False)):
        envs = BallbotVectorEnv(6, terrain="flat", tilt_limit_deg=60.0, autoreset_mode="disabled")
        control, began = LQRController(envs.dt, 0.0), np.ones(6, bool)
        envs.reset(seed=0)
        for sim in range(6):
            envs.simulations.place(sim, 0, tilt=share * worst, tilt_axis=np.pi / 3 * sim + np.pi / 2)
        obs, up = np.zeros((6, 17), np.float32), True
        obs[:, 2] = -1
        for _ in range(3000):
            obs, _, terminated, _, infos = envs.step(control(obs, began))
            began[:] = False
            up = up and not terminated.any()
            if not up:
                break
        assert bool(up and infos["tilt_deg"].max() < 1) is stands, share
        envs.close()


def test_what_is_said_of_another_robot_is_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(design, "ROUNDS", 2)  # lest a size between those that fall be taken for what it manages
    tries = Tries(MINI, 48)
    lean = tries.limit(0.4, _leaning)
    monkeypatch.setattr(design, "ROUNDS", 1)
    push = tries.limit(2.0, _pushed)
    slope, course = tries.limit(0.5, _sloping), tries.course(np.full(6, 2.0))
    tries.envs.close()
    weak = WAYS[lean.most.argmin()]
    assert tilt_after(lean=0.95 * lean.worst, way=weak) < 1
    assert tilt_after(lean=2.2 * lean.worst, way=weak, seconds=4.0) == 90
    weak = WAYS[push.most.argmin()]
    assert tilt_after(push=0.95 * push.worst, way=weak) < 1
    assert tilt_after(push=1.8 * push.worst, way=weak, seconds=4.0) == 90
    weak = WAYS[slope.most.argmin()]
    along = np.array([np.cos(weak), np.sin(weak)])
    for share, stands in ((0.95, True), (1.5, False)):
        tilt = tilt_after(slope=share * slope.worst, way=weak, wish=lambda _, come: -0.8 * float(come @ along))
        assert (tilt < 60) is stands, share
    weak, top = WAYS[course.limit.most.argmin()], course.limit.worst
    rolls = np.abs(Mechanics.of(MINI.compile()).rolling).max()
    assert 0.85 < top * rolls / free_wheel_speed(MINI.compile()) < 1.02 and course.limit.why is not None
    assert course.speeds.max() < 1.05 * course.limit.most.max() and course.turning.max() > 0.85
    assert tilt_after(way=weak, wish=lambda time, _: 0.95 * top * min(time / 6, 1.0)) < 6
    assert tilt_after(way=weak, wish=lambda time, _: 1.3 * top * min(time / 6, 1.0)) == 90


def test_who_lies_does_not_come_back() -> None:
    """Its body lies on the ground at 35 degrees or less, at rest."""
    tries = Tries(RobotConfig(), 6)
    stood, _ = tries._stands(np.full((1, 6), 0.55), _leaning)
    assert not stood.any()
    tries.envs.close()


def test_what_nothing_ends_is_said_to_be_at_least_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "experiments"))
    from design_robot import told

    monkeypatch.setattr(design, "LEVELS", 2)
    shares: list[float] = []
    tries = Tries(RobotConfig(), 12, shares.append)
    limit = tries.limit(0.1, _leaning)
    tries.tell(0.0)
    tries.envs.close()
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == ROUNDS / (3 * ROUNDS + 1)
    assert (limit.most == 0.1).all() and (limit.cause == NOTHING).all() and limit.why is None
    assert told(limit, 180 / np.pi, "deg") == "at least 5.73 deg; nothing that was tried ends it"
    mixed = replace(limit, most=np.array([0.05, 0.1]), cause=np.array([0, NOTHING]), resolution=0.01)
    assert told(mixed, 100.0, "cm") == "5.0 cm to at least 10.0 cm, looked for in steps of 1 cm; what ends it: torque"


def test_weaker_motors_bring_back_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torque alone, which the model knows too."""
    monkeypatch.setattr(design, "ROUNDS", 1)
    found = {}
    for torque in (4.0, 1.0):
        robot = RobotConfig(torque_limit=torque)
        tries = Tries(robot, 48)
        found[torque] = tries.limit(0.4, _leaning)
        tries.envs.close()
        assert found[torque].worst <= recoverable_lean(rolling_model(robot.compile()))
    assert found[1.0].worst < found[4.0].worst and found[1.0].why == "torque"


def test_outlines_are_what_surrounds_all_points() -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    corners = np.array([[-2.0, -2], [2, -2], [2, 2], [-2, 2]])
    np.testing.assert_allclose(hull(np.concatenate([points, corners, [[0, -2.0]]])), corners)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("moon",), "robot='moon' is unknown"),
        (("gone.xml",), "robot 'gone.xml' cannot be read"),
        (("mini", "--out", "page.txt"), "--out"),
        (("mini", "--json", "page.txt"), "--json"),
    ],
)
def test_what_cannot_be_tried_is_refused(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    refused = call("design_robot.py", *options, folder=tmp_path)
    assert refused.returncode == 2 and words in refused.stderr
