# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Pictures: the robot is in them, and a machine that cannot draw says what to install."""

import os
import subprocess
import sys
from contextlib import contextmanager
from itertools import pairwise

import mujoco
import numpy as np
import pytest

from ballbot.envs import BallbotEnv, BallbotVectorEnv
from ballbot.envs.rendering import Renderer

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
def test_a_display_that_is_gone_is_done_without():
    if _opengl() is None:
        pytest.skip("no OpenGL here: install libegl1 or libosmesa6")
    code = """
from ballbot.envs import BallbotEnv
env = BallbotEnv(terrain="flat", render_mode="rgb_array")
env.reset(seed=0)
print(env.render().shape)
"""
    result = _run(code, MUJOCO_GL="", DISPLAY=":77", WAYLAND_DISPLAY="")
    assert "(480, 640, 3)" in result.stdout, result.stdout + result.stderr


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


class Viewer:
    """MuJoCo's viewer, as far as the renderer uses it: notes what happens, and what was written under the lock."""

    def __init__(self, model, data):
        self.model, self.data, self.locked, self.events = model, data, False, []
        self.perturb = mujoco.MjvPerturb()
        self._before = self._written()

    def _written(self):
        return self.model.hfield_data.tobytes() + self.data.qpos.tobytes() + self.data.geom_xpos.tobytes()

    @contextmanager
    def lock(self):
        assert self._written() == self._before, "written outside the lock"
        self.locked = True
        yield
        self.locked, self._before = False, self._written()

    def note(self, event):
        assert not self.locked, f"{event} waits for the viewer's thread, which waits for the lock"
        assert self._written() == self._before, "written outside the lock"
        self.events.append(event)

    def is_running(self):
        return True

    def sync(self):
        self.note("sync")

    def update_hfield(self, number):
        self.note("hfield")

    def close(self):
        pass


@pytest.fixture
def viewers(monkeypatch):
    opened = []

    def open_viewer(self, model, data):
        opened.append(Viewer(model, data))
        return opened[-1]

    monkeypatch.setattr(Renderer, "_open", open_viewer)
    return opened


@pytest.mark.parametrize("kind", [BallbotEnv, BallbotVectorEnv])
def test_human_mode_draws_once_at_every_reset_and_step(viewers, kind):
    env = kind(terrain="flat", render_mode="human")
    action = np.zeros(env.action_space.shape)
    env.reset(seed=0)
    for _ in range(3):
        env.step(action)
    (viewer,) = viewers
    assert viewer.events == ["sync"] * 4
    np.testing.assert_array_equal(viewer.data.qpos, getattr(env, "_envs", env).simulations.qpos[0])
    env.close()


def test_who_drags_the_robot_in_the_viewer_pushes_it(viewers):
    envs = BallbotVectorEnv(2, terrain="flat", render_mode="human", initial_tilt_deg=0.0)
    envs.reset(seed=0)
    (viewer,) = viewers
    base = envs.simulations.model.body("base").id
    viewer.perturb.select, viewer.perturb.active = base, int(mujoco.mjtPertBit.mjPERT_TRANSLATE)
    viewer.perturb.refselpos = viewer.data.xipos[base] + [0.3, 0.0, 0.0]
    viewer.perturb.localpos, viewer.perturb.scale, viewer.perturb.localmass = [0.0, 0.0, 0.0], 1.0, 3.0
    for _ in range(20):
        envs.step(np.zeros((2, 3)))
    pushed, other = envs.simulations.robot_state().velocity[0]
    assert pushed > 0.01 > 5 * abs(other)
    viewer.perturb.active = 0
    envs.step(np.zeros((2, 3)))
    assert not envs.simulations.batch.bind("xfrc_applied").any()
    envs.close()


def test_another_terrain_reaches_the_viewer_under_its_lock(viewers):
    envs = BallbotVectorEnv(terrain="perlin", num_terrains=3, render_mode="human")
    heights, terrains = envs.simulations.ground.relief, []
    assert heights is not None
    for seed in range(6):
        envs.reset(seed=seed)
        terrains.append(int(envs.simulations.terrain_ids[0]))
        np.testing.assert_array_equal(viewers[0].model.hfield_data, heights[terrains[-1]].ravel())
    changes = sum(a != b for a, b in pairwise(terrains))
    assert changes > 0 and viewers[0].events.count("hfield") == changes
    envs.close()


def test_render_without_a_mode_warns_and_returns_nothing():
    env = BallbotEnv(terrain="flat")
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None
    assert np.isfinite(env.step(np.zeros(3))[0]).all()
    env.close()
