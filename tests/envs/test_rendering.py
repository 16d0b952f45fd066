# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Pictures: the robot is in them, and a machine that cannot draw says what to install."""

import os
import subprocess
import sys

import numpy as np
import pytest

DRAW = """
import numpy as np
from ballbot.envs import BallbotEnv, BallbotVectorEnv
env = BallbotEnv(terrain="perlin", num_terrains=2, render_mode="rgb_array")
env.reset(seed=0)
first = env.render()
env.reset(seed=1)
second = env.render()
assert first.shape == (480, 640, 3) and first.dtype == np.uint8
assert (first != second).mean() > 0.05, "another terrain looks the same"
orange = (first[..., 0] > 150) & (first[..., 2] < 90)  # the ball
assert 50 < orange.sum() < 20000, orange.sum()
env.close()
envs = BallbotVectorEnv(2, terrain="flat", render_mode="rgb_array")
envs.reset(seed=0)
assert len(envs.render()) == 2
envs.close()
print("drawn")
"""


def _run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def _opengl():
    """A MUJOCO_GL value that works on this machine, or None."""
    probe = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>')).close()"
    return next((gl for gl in ("egl", "osmesa") if _run(probe, MUJOCO_GL=gl).returncode == 0), None)


def test_rgb_array_shows_the_robot_on_its_terrain():
    gl = _opengl()
    if gl is None:
        pytest.skip("no OpenGL here: install libegl1 or libosmesa6")
    result = _run(DRAW, MUJOCO_GL=gl)
    assert "drawn" in result.stdout, result.stderr


def test_missing_opengl_says_what_to_install():
    code = """
from ballbot.envs import BallbotEnv
env = BallbotEnv(terrain="flat", render_mode="rgb_array")
env.reset(seed=0)
env.step(env.action_space.sample())  # training needs no OpenGL
try:
    env.render()
except RuntimeError as error:
    print(error)
"""
    result = _run(code, MUJOCO_GL="glfw", DISPLAY="", WAYLAND_DISPLAY="")
    assert "libegl1" in result.stdout and "MUJOCO_GL=egl" in result.stdout, result.stdout + result.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="DISPLAY is X11's")
def test_missing_display_is_named():
    code = """
from ballbot.envs import BallbotEnv
env = BallbotEnv(terrain="flat", render_mode="human")
try:
    env.reset(seed=0)
except RuntimeError as error:
    print(error)
"""
    result = _run(code, DISPLAY="", WAYLAND_DISPLAY="")
    assert "no display" in result.stdout and "rgb_array" in result.stdout, result.stdout + result.stderr


def test_render_without_a_mode_warns_and_returns_nothing():
    from ballbot.envs import BallbotEnv

    env = BallbotEnv(terrain="flat")
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None
    assert np.isfinite(env.step(np.zeros(3))[0]).all()
    env.close()
