"""What a robot is said to be able to do is what it does in the world's simulation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from inprocess import call

from ballbot.design import CAUSES, DIRECTIONS, LEVELS, _leaning, _limit
from ballbot.envs import BallbotVectorEnv, RobotConfig
from ballbot.envs.mechanics import rolling_model
from ballbot.envs.standing import recoverable_lean
from ballbot.lqr import LQRController


def test_what_is_said_of_a_robot_is_what_it_does(tmp_path: Path) -> None:
    done = call(
        "design_robot.py", "reference", "--json", tmp_path / "found.json", "--out", tmp_path / "page.html",
        folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0 and "what ends it" in done.stdout, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["mass"] == pytest.approx(4.02, abs=0.01) and found["fall_rate"] == pytest.approx(4.72, abs=0.05)
    assert min(found["top_speeds"]) > 0.42 and {found[x]["limited_by"] for x in ("lean", "slope", "push")} <= {*CAUSES}
    assert "<svg" in (tmp_path / "page.html").read_text()
    # The robot holds itself on slopes of 9.5 degrees, and rolls slowly down steeper ones (docs of ground's warning).
    assert 9.5 < np.degrees(min(found["slope"]["most"])) < 20
    # by another way: the environment's own starts and endings
    worst = min(found["lean"]["most"])
    assert worst < found["lean_by_torque"]
    for share, stands in ((0.9, True), (1.25, False)):
        envs = BallbotVectorEnv(6, terrain="flat", tilt_limit_deg=60.0, autoreset_mode="disabled")
        control, began = LQRController(envs.dt, 0.0), np.ones(6, bool)
        envs.reset(seed=0)
        for sim in range(6):
            envs.simulations.place(sim, 0, tilt=share * worst, tilt_axis=np.pi / 3 * sim + np.pi / 2)
        obs, fell = np.zeros((6, 17), np.float32), False
        obs[:, 2] = -1
        for _ in range(1500):
            obs, _, terminated, _, _ = envs.step(control(obs, began))
            began[:] = False
            fell = fell or bool(terminated.any())
            if fell:
                break
        assert fell is not stands, share
        envs.close()


def test_weaker_motors_bring_back_less() -> None:
    """Of torque alone, which the model knows too."""
    found = {}
    for torque in (4.0, 1.0):
        robot = RobotConfig(torque_limit=torque)
        envs = BallbotVectorEnv(DIRECTIONS * LEVELS, terrain="flat", robot=robot, tilt_limit_deg=45.0)
        found[torque] = _limit(envs, 0.4, _leaning)
        envs.close()
        assert found[torque].worst <= recoverable_lean(rolling_model(robot.compile()))
    assert found[1.0].worst < found[4.0].worst and found[1.0].why == "torque"


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
