"""Pictures and the interactive viewer.  The only part of the environment that needs OpenGL; imported lazily."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from ballbot.envs.family import Family
from ballbot.envs.marks import Marks
from ballbot.envs.model import build_model
from ballbot.envs.rig import CameraRig
from ballbot.envs.robots import Robot

WIDTH, HEIGHT = 640, 480
"""Pixels of a picture: the usual size of Gymnasium's MuJoCo tasks' big pictures, within the model's frame buffer."""

SHADOWS = 6.0
"""Times the model's extent, around the robot, that shadows are drawn in: at the rim of that the ground has specks."""
SHADOW_PIXELS = 2048
"""Along a side of the picture behind shadows; with the 4096 of the model and four samples a pixel, processors that draw
without a GPU took more than twice as long."""


def has_display() -> bool:
    """Whether a window could be opened here."""
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _display_answers() -> bool:
    """Whether the display that DISPLAY names is there: a shell may outlive the desktop or the connection it came by."""
    if not sys.platform.startswith("linux"):
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import glfw

            return bool(glfw.init())
    except (ImportError, OSError):
        return False


def choose_opengl() -> None:
    """Set MUJOCO_GL to EGL or OSMesa if nobody chose, there is no display, and such a library is installed.

    MuJoCo itself would take GLFW, which fails without a display.
    """
    if os.environ.get("MUJOCO_GL") or (has_display() and _display_answers()):
        return
    for kind, library in (("egl", "libEGL.so.1"), ("osmesa", "libOSMesa.so.8")):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        os.environ["MUJOCO_GL"] = kind
        importlib.reload(sys.modules[mujoco.Renderer.__module__].gl_context)  # it has read the variable already
        return


class Renderer:
    """Draws one simulation at a time, on its own terrain.

    A second model with a single height field is drawn, because OpenGL would upload the whole pool of terrains.

    Args:
        mode: "rgb_array" or "human".
        on_key: called by the viewer, in a thread of its own, with the code (GLFW's) of each key that is pressed.
        rig: cameras of the robot; None: the reference's.
        robot: which; None: the reference's.
        family: of which that is the first; None: there are no others.
    """

    def __init__(
        self,
        mode: str,
        on_key: Callable[[int], None] | None = None,
        rig: CameraRig | None = None,
        robot: Robot | None = None,
        family: Family | None = None,
    ) -> None:
        self._mode, self._on_key, self._rig, self._robot, self._family = mode, on_key, rig, robot, family
        self._model: mujoco.MjModel | None = None
        self._data: mujoco.MjData | None = None
        self._window: Any = None  # mujoco.Renderer, or the viewer's handle
        self._shown: NDArray[np.float32] | None = None
        self._written = ("", "")

    def draw(
        self,
        ground: tuple[NDArray[np.float32], float, float] | None,
        qpos: NDArray[np.float64],
        qvel: NDArray[np.float64],
        robot: int = 0,
        marks: Marks | None = None,
    ) -> NDArray[np.uint8] | None:
        """The (480, 640, 3) uint8 picture of this state, or None in "human" mode.

        Args:
            ground: what ``Physics.terrain_of`` says of the terrain it stands on.
            qpos: MuJoCo's coordinates.
            qvel: and their rates.
            robot: index in the family.
            marks: what else to draw, and by which camera; None: the robot's own "follow".  Not in the viewer.

        Raises:
            RuntimeError: no OpenGL or no display, with what to install or set.
        """
        heights, top, length = (None, 0.0, None) if ground is None else ground
        if self._model is None or self._data is None:
            tops = np.array([top])
            self._model = build_model(
                None if heights is None else heights[None], tops=tops, length=length, rig=self._rig, robot=self._robot
            )
            self._model.vis.map.shadowclip = SHADOWS
            if self._mode != "human":
                self._model.vis.quality.shadowsize, self._model.vis.quality.offsamples = SHADOW_PIXELS, 0
            self._data = mujoco.MjData(self._model)
            self._window = self._open(self._model, self._data)
            self._shown = heights
        model, data = self._model, self._data
        changed = heights is not None and self._shown is not None and not np.array_equal(heights, self._shown)
        # the viewer draws from model and data in a thread of its own
        with self._window.lock() if self._mode == "human" else nullcontext():
            if changed and heights is not None:
                model.hfield_data[:] = heights.ravel()
                model.hfield_size[0, 2] = top
            if self._family is not None:
                self._family.write(model, robot)
            data.qpos[:], data.qvel[:] = qpos, qvel
            mujoco.mj_forward(model, data)
        if changed:
            self._upload(model)  # not under the lock: it waits for that thread
        self._shown = heights
        if self._mode == "human":
            if self._window.is_running():
                self._window.sync()
            return None
        self._window.update_scene(data, camera="follow" if marks is None else marks.camera())
        if marks is not None:
            marks.add_to(self._window.scene)
        return np.array(self._window.render(), np.uint8)

    def write(self, left: str, right: str) -> None:
        """Write over the viewer's picture, in a corner: text, and to the right of it."""
        if self._mode == "human" and self._window is not None and (left, right) != self._written:
            self._written = left, right
            font, corner = mujoco.mjtFontScale.mjFONTSCALE_150, mujoco.mjtGridPos.mjGRID_TOPLEFT
            self._window.set_texts((font, corner, left, right))

    @property
    def is_open(self) -> bool:
        """Whether there is still somebody to draw for: False once the viewer's window was closed."""
        return self._mode != "human" or self._window is None or bool(self._window.is_running())

    def pushes(self) -> NDArray[np.float64] | None:
        """(bodies, 6) forces in N and torques in N m that the viewer's user drags with; None if there is no viewer."""
        if self._mode != "human" or self._window is None or self._model is None or self._data is None:
            return None
        with self._window.lock():
            self._data.xfrc_applied[:] = 0.0
            mujoco.mjv_applyPerturbForce(self._model, self._data, self._window.perturb)
            return np.array(self._data.xfrc_applied)

    def close(self) -> None:
        """Free the OpenGL context or close the window."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def _open(self, model: mujoco.MjModel, data: mujoco.MjData) -> Any:
        if self._mode == "human":
            if not has_display():
                raise RuntimeError(
                    "render_mode='human' opens a window, but this machine has no display (DISPLAY is not set): use "
                    "render_mode='rgb_array', or run on a desktop"
                )
            from mujoco import viewer as mujoco_viewer  # loads GLFW, which headless machines lack

            try:
                viewer = mujoco_viewer.launch_passive(
                    model, data, key_callback=self._on_key, show_left_ui=False, show_right_ui=False
                )
            except Exception as error:
                raise RuntimeError(f"MuJoCo's viewer did not start: {error}") from error
            viewer.cam.type = mujoco.mjtCamera.mjCAMERA_TRACKING
            viewer.cam.trackbodyid = model.body("base").id
            viewer.cam.distance = 2.0
            return viewer
        choose_opengl()
        try:
            return mujoco.Renderer(model, HEIGHT, WIDTH)
        except Exception as error:
            raise RuntimeError(
                f"render_mode='rgb_array' needs OpenGL, and none could be started (MUJOCO_GL="
                f"{os.environ.get('MUJOCO_GL', '')!r}: {error}). On a machine without a display install EGL or OSMesa "
                "(Debian: apt-get install libegl1 or libosmesa6) and set MUJOCO_GL=egl or MUJOCO_GL=osmesa before "
                "Python starts. Training needs no OpenGL"
            ) from error

    def _upload(self, model: mujoco.MjModel) -> None:
        if self._mode == "human":
            self._window.update_hfield(0)
        else:
            mujoco.mjr_uploadHField(model, self._window._mjr_context, 0)
