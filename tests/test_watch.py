# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""watch.py: videos without a display, and clear words where there is nothing to draw with."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from policies import save_policy

from ballbot.envs import BallbotVectorEnv
from ballbot.video import INSET, MARGIN, with_insets, write_video

SCRIPT = Path(__file__).parents[1] / "experiments" / "watch.py"
iio = pytest.importorskip("imageio.v2")


def run(folder, *options, **env):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, options)],
        cwd=folder, env=os.environ | env, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_an_episode_becomes_a_film(tmp_path):
    save_policy(tmp_path / "p.pt", terrain="perlin")
    for kind in dict.fromkeys((os.environ.get("MUJOCO_GL") or "egl", "egl", "osmesa")):
        options = ["p.pt", "--record", "a.gif", "--horizon", 100, "--fps", 20]
        done = run(tmp_path, *options, MUJOCO_GL=kind)
        if done.returncode == 0:
            break
    else:
        assert "needs OpenGL" in done.stderr
        pytest.skip("no OpenGL on this machine")
    frames = iio.mimread(tmp_path / "a.gif")
    assert len(frames) == 5 and frames[0].shape[:2] == (480, 640)  # 0.2 s at 20 frames a second, the first at 0
    assert not list(tmp_path.glob(".*tmp*"))
    slow = run(tmp_path, *options, "--speed", 0.5, MUJOCO_GL=kind)
    assert slow.returncode == 0 and len(iio.mimread(tmp_path / "a.gif")) == 9


def test_insets_show_what_is_near_bright():
    depth = np.ones((2, 64, 64), np.float32)
    depth[0, :, :32] = 0.0
    picture = np.full((480, 640, 3), 100, np.uint8)
    framed = with_insets(picture, depth)
    assert (picture == 100).all() and (framed[300:] == 100).all()
    right = framed[MARGIN : MARGIN + INSET, 640 - INSET - MARGIN : 640 - MARGIN]
    assert (right[:, : INSET // 2] == 255).all() and (right[:, INSET // 2 :] == 0).all()
    assert (framed[MARGIN : MARGIN + INSET, MARGIN : MARGIN + INSET] == 0).all()


def test_a_film_that_fails_leaves_the_old_one(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"old")

    def frames():
        yield np.zeros((8, 8, 3), np.uint8)
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="full"):
        write_video(tmp_path / "a.gif", frames(), 20)
    assert (tmp_path / "a.gif").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_push_moves_the_robot_that_is_pushed():
    envs = BallbotVectorEnv(2, terrain="flat", num_threads=1, initial_tilt_deg=0.0)
    envs.reset(seed=0)
    forces = np.zeros((envs.simulations.model.nbody, 6))
    forces[envs.simulations.model.body("base").id, 0] = 5.0
    envs.simulations.push(0, forces)
    for _ in range(50):
        envs.step(np.zeros((2, 3)))
    pushed, other = envs.simulations.robot_state().velocity[0]
    assert pushed > 0.05 > 5 * abs(other)
    assert envs.watched


def test_bad_input_is_named_and_exits_with_2(tmp_path):
    save_policy(tmp_path / "p.pt")
    no_screen = {"DISPLAY": "", "WAYLAND_DISPLAY": ""}
    cases: list[tuple[list[object], str]] = [
        (["none.pt"], "none.pt does not exist"),
        (["p.pt"], "no display" if sys.platform.startswith("linux") else ""),
        (["p.pt", "--record", "a.avi"], "must end in .mp4 or .gif"),
        (["p.pt", "--record", "nowhere/a.gif"], "there is no folder nowhere"),
        (["p.pt", "--record", "a.gif", "--fps", 0], "fps = 0 is out of range"),
        (["p.pt", "--record", "a.gif", "--speed", "nan"], "speed = nan is out of range"),
        (["p.pt", "--seed", -1], "--seed -1 is out of range"),
    ]
    for options, words in cases:
        done = run(tmp_path, *options, **no_screen)
        assert done.returncode == 2 and words in done.stderr, (options, done.stderr)
    done = run(tmp_path, "p.pt", "--record", "a.gif", MUJOCO_GL="glfw", **no_screen)
    assert done.returncode == 2 and "MUJOCO_GL=egl" in done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"p.pt"}
