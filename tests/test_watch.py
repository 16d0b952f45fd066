# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""watch.py: videos without a display, and clear words where there is nothing to draw with."""

import importlib
import io
import itertools
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import mujoco
import numpy as np
import pytest
from inprocess import call
from PIL import Image, ImageSequence
from policies import save_policy

from ballbot.driving.steering import DOWN, END, ENTER, HOME, LEFT, RIGHT, UP, Steering
from ballbot.envs import BallbotVectorEnv
from ballbot.envs.marks import LEASH, MOVES, TOLD, Marks
from ballbot.envs.observations import Layout, ring_places
from ballbot.errors import SettingsError
from ballbot.evaluation import run_episodes
from ballbot.evaluation.plan import ESTIMATED, REACH, TRUE, plan
from ballbot.evaluation.video import (
    COLOURS,
    INSET,
    MARGIN,
    PLAN,
    film,
    playable_fps,
    replay,
    shrunk,
    with_insets,
    write_video,
)
from ballbot.progress import Progress

SCRIPT = Path(__file__).parents[1] / "experiments" / "watch.py"
iio = pytest.importorskip("imageio.v2")


def run(folder, *options, **env):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, options)],
        cwd=folder, env=os.environ | env, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def milliseconds(gif):
    durations = []
    with Image.open(gif) as picture:
        for frame in ImageSequence.Iterator(picture):
            frame.load()  # of a .webp, its duration too
            durations.append(frame.info["duration"])
    return sum(durations)


def frames_of(steps, fps, speed=1.0, **options):
    """A film of so many steps, without OpenGL: the picture's first pixel counts."""
    envs = BallbotVectorEnv(
        1, terrain="flat", num_threads=1, max_episode_steps=steps, render_mode="rgb_array", **options
    )
    numbers = itertools.count()
    envs.render = lambda: (np.full((480, 640, 3), next(numbers), np.uint8),)  # type: ignore[method-assign]
    return film(envs, lambda obs, began: np.zeros((1, 3)), 0, fps, speed)


def test_a_robot_without_cameras_is_filmed_without_what_they_see():
    envs = BallbotVectorEnv(
        1, robot="mini", terrain="flat", num_threads=1, max_episode_steps=5, render_mode="rgb_array"
    )
    envs.render = lambda: (np.full((480, 640, 3), 7, np.uint8),)  # type: ignore[method-assign]
    frames = list(film(envs, lambda obs, began: np.zeros((1, 3)), 0, 100))
    assert frames and all((frame[:400] == 7).all() for frame in frames)  # below that are time and speed
    assert all((frame[440:] == 255).any() for frame in frames)
    blind = next(frames_of(1, 100))
    assert (blind[:400] == 0).all()  # of a robot that has cameras and does not look through them
    seeing = next(frames_of(1, 100, observation="depth"))
    assert (seeing[:400] == 255).any()  # a frame around the pictures


def test_a_film_has_a_trail_an_arrow_and_a_camera_that_lets_the_robot_move():
    marks, looks = Marks(), []
    for k in range(100):
        marks.move(np.array([0.01 * k, 0.0, 0.0]), np.array([1.0, 0.0]))
        looks.append(marks.camera().lookat.copy())
    assert (looks[20] == looks[0]).all()
    assert looks[-1] - looks[0] == pytest.approx([0.99 - LEASH, 0, 0])
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    scene = mujoco.MjvScene(model, 1000)
    marks.add_to(scene)
    shown = scene.geoms[: scene.ngeom]
    arrow = shown[-1]
    assert arrow.type == mujoco.mjtGeom.mjGEOM_ARROW and arrow.mat[0, 2] == pytest.approx(1.0)  # along x
    ends = sorted(float(geom.pos[0]) for geom in shown[:-1])
    assert ends[0] < 0.03 and ends[-1] > 0.95 and len(ends) > 30
    marks.move(np.array([0.99, 0.0, 0.0]), np.zeros(2), np.array([2.0, 1.0]))
    full = mujoco.MjvScene(model, 5)
    marks.add_to(full)
    assert full.ngeom == 5


def test_ground_that_a_robot_must_not_drop_to_is_tinted_in_films():
    scene = mujoco.MjvScene(mujoco.MjModel.from_xml_string("<mujoco/>"), 9)
    marks = Marks(0.04, 10.0)
    marks.move(np.zeros(3), np.zeros(2))
    marks.add_to(scene)
    tint = scene.geoms[0]
    assert scene.ngeom == 1 and tint.type == mujoco.mjtGeom.mjGEOM_BOX and 0 < tint.rgba[3] < 1
    assert tint.pos[2] + tint.size[2] == pytest.approx(0.04) and tint.size[0] == 5.0
    for terrain, tinted in (("road", True), ("perlin", False)):
        envs = BallbotVectorEnv(1, terrain=terrain, num_threads=1, num_terrains=1, render_mode="rgb_array")
        envs.render = lambda: (np.zeros((480, 640, 3), np.uint8),)  # type: ignore[method-assign]
        next(film(envs, lambda obs, began: np.zeros((1, 3)), 0, 100))
        assert envs.marks is not None
        scene = mujoco.MjvScene(mujoco.MjModel.from_xml_string("<mujoco/>"), 9)
        envs.marks.add_to(scene)
        assert (scene.geoms[0].type == mujoco.mjtGeom.mjGEOM_BOX) == tinted


def test_the_page_and_films_have_the_same_colours():
    script = files("ballbot.assets").joinpath("drive.js").read_text()
    for name, colour in (("BLUE", TOLD), ("ORANGE", MOVES)):
        found = re.search(rf"\b{name} = \[([\d., ]+)\]", script)
        assert found and tuple(map(float, found[1].split(","))) == colour


def test_progress_is_said_on_a_terminal_alone(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("ballbot.progress.time.monotonic", lambda: 10.0 * next(clock))
    for terminal in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda: terminal)  # noqa: B023
        progress = Progress("film", stream)
        progress(0.25)
        progress.close()
        said = stream.getvalue()
        assert ("film: 25 %, 0:30 left" in said) if terminal else said == ""


def test_an_episode_becomes_a_film(tmp_path):
    save_policy(tmp_path / "p.pt", terrain="perlin")
    for kind in dict.fromkeys((os.environ.get("MUJOCO_GL") or "egl", "egl", "osmesa")):
        options = ["p.pt", "--record", "a.gif", "--horizon", 40, "--fps", 20]
        done = run(tmp_path, *options, MUJOCO_GL=kind)
        if done.returncode == 0:
            break
    else:
        assert "needs OpenGL" in done.stderr
        pytest.skip("no OpenGL on this machine")
    frames = iio.mimread(tmp_path / "a.gif")
    assert len(frames) == 2 and frames[0].shape[:2] == (480, 640)  # 0.08 s at 20 frames a second, the first at 0
    assert not list(tmp_path.glob(".*tmp*"))
    slow = run(tmp_path, *options, "--speed", 0.5, MUJOCO_GL=kind)
    assert slow.returncode == 0 and len(iio.mimread(tmp_path / "a.gif")) == 4
    nearest = run(tmp_path, *options, "--fps", 30, MUJOCO_GL=kind)
    assert "note: 33.33 frames a second, not 30" in nearest.stdout and milliseconds(tmp_path / "a.gif") == 90


def test_a_smaller_film_shows_the_means_of_squares():
    frame = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    half = shrunk(frame, 2)
    assert half.shape == (2, 3, 3) and half.dtype == np.uint8
    np.testing.assert_array_equal(half[0, 0], frame[:2, :2].mean(axis=(0, 1)).astype(np.uint8))
    np.testing.assert_array_equal(shrunk(frame, 1), frame)


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
@pytest.mark.parametrize("fps", [12, 30, 40, 100])
def test_a_film_lasts_as_long_as_what_it_shows(tmp_path, fps, name):
    fps = playable_fps(tmp_path / name, fps)
    count = write_video(tmp_path / name, frames_of(250, fps), fps)  # 0.5 s
    assert milliseconds(tmp_path / name) == round(1000 * count / fps)
    assert 500 - 1e-6 < 1000 * count / fps <= 500 + 1000 / fps + 1e-6  # the first frame is at 0 s


def test_a_gif_refuses_what_it_cannot_play(tmp_path):
    with pytest.raises(ValueError, match="cannot play 40 frames a second: use 50"):
        write_video(tmp_path / "a.gif", iter([]), 40)
    assert playable_fps(tmp_path / "a.mp4", 40) == 40


def test_slow_motion_repeats_frames():
    numbers = [int(frame[0, 320, 0]) for frame in frames_of(10, 25, 0.01)]  # 0.02 s become 2 s
    assert len(numbers) == 51 and numbers == sorted(numbers) and set(numbers) == set(range(11))


@pytest.mark.parametrize("terrain", ["perlin", "flat"])
def test_a_recorded_episode_looks_like_one_watched(terrain):
    options = {"terrain": terrain, "num_terrains": 3, "num_threads": 1, "max_episode_steps": 100}
    single = BallbotVectorEnv(1, render_mode="rgb_array", **options)
    envs = BallbotVectorEnv(3, **options)
    act = lambda obs, began: 0.3 * np.sin(np.arange(3) + 10 * obs[:, :1])  # noqa: E731
    try:
        k = int(single.reset(seed=7)[1]["terrain_id"][0])  # terrains are taken in turn: that of the episode k
        watched = list(film(single, act, 7, 25))
    except RuntimeError as error:
        pytest.skip(f"no OpenGL: {error}")
    finally:
        single.close()
    episodes = run_episodes(envs, act, 4, 7 - k, history_interval=20)
    envs.close()
    poses = episodes.history[k]["qpos"]
    ways = episodes.history[k]["direction"]
    recorded = list(replay(envs.simulations, poses, int(episodes.terrain_ids[k]), directions=ways))
    assert len(watched) == len(recorded) == 6
    for one, other in zip(watched, recorded, strict=True):
        assert np.abs(one.astype(int) - other).mean() < 0.1
    assert np.abs(watched[0].astype(int) - recorded[5]).mean() > 0.1


def test_insets_show_what_is_near_bright():
    depth = np.ones((2, 64, 64), np.float32)
    depth[0, :, :32] = 0.0
    depth[1, :32] = 0.3
    picture = np.full((480, 640, 3), 100, np.uint8)
    framed = with_insets(picture, depth)
    assert (picture == 100).all() and (framed[300:] == 100).all()
    first, second = (framed[MARGIN : MARGIN + INSET - 3, left : left + INSET] for left in (MARGIN, 2 * MARGIN + INSET))
    assert (first[:, : INSET // 2] == COLOURS[0]).all() and (first[:, INSET // 2 :] == COLOURS[-1]).all()
    between, far = second[: INSET // 2].astype(int), second[INSET // 2 :]
    assert (far == COLOURS[-1]).all() and COLOURS[0].sum() > between[0, 0].sum() > COLOURS[-1].sum()
    six = with_insets(picture, np.ones((9, 8, 8), np.float32))
    assert (six[MARGIN, 639 - MARGIN] == 100).all() and (
        six[MARGIN, 5 * (INSET + MARGIN) + MARGIN] == COLOURS[-1]
    ).all()


def test_a_film_that_fails_leaves_the_old_one(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"old")

    def frames():
        yield np.zeros((8, 8, 3), np.uint8)
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="full"):
        write_video(tmp_path / "a.gif", frames(), 20)
    assert (tmp_path / "a.gif").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_broken_ffmpeg_is_an_error_in_words(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    code = (
        "from ballbot.evaluation.video import *; "
        "write_video(Path('a.mp4'), iter(np.zeros((3, 64, 64, 3), np.uint8)), 25)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"IMAGEIO_FFMPEG_EXE": sys.executable},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert "\nOSError: a.mp4 cannot be written" in done.stderr and not list(tmp_path.iterdir())


def told(steering, envs, *keys):
    for key in keys:
        steering.press(key)
    return steering.apply(), envs.command[0].tolist()


def test_keys_change_the_velocity_and_stay_within_what_the_motors_reach():
    envs = BallbotVectorEnv(1, terrain="flat", command="velocity", num_threads=1)
    envs.reset(seed=0, options={"command": [0.0, 0.0, 0.0]})
    steering = Steering(envs)
    assert told(steering, envs) == ("", [0, 0, 0]) and told(steering, envs, ord("X"))[0] == ""
    assert told(steering, envs, UP, UP, LEFT, HOME) == ("told: 0.10, 0.05, 0.20", [0.1, 0.05, 0.2])
    assert told(steering, envs, DOWN, DOWN, RIGHT, END)[1] == [0, 0, 0]
    told(steering, envs, UP)
    said, now = told(steering, envs, *[UP] * 40)
    assert "beyond the motors" in said and 0.3 < now[0] <= envs.world.told.limits.speed
    envs.reset(seed=1)
    assert envs.command[0].tolist() != now
    steering.apply(began=True)  # a new episode goes on as told
    assert envs.command[0].tolist() == now
    assert told(steering, envs, ENTER)[1] == [0, 0, 0]


def test_keys_set_goals_and_places_but_no_paths():
    envs = BallbotVectorEnv(1, terrain="flat", num_threads=1)
    envs.reset(seed=0)
    assert told(Steering(envs), envs, RIGHT)[1] == [1, 0] and told(Steering(envs), envs, ENTER)[1] == [0, 0]
    envs = BallbotVectorEnv(1, terrain="flat", command="point", num_threads=1)
    envs.reset(seed=0, options={"command": [1.0, 2.0]})
    assert told(Steering(envs), envs, RIGHT, UP)[1] == pytest.approx([1.1, 2.1])
    assert told(Steering(envs), envs, ENTER)[1] == pytest.approx([0, 0], abs=0.01)
    envs = BallbotVectorEnv(1, terrain="flat", command="path", num_threads=1)
    envs.reset(seed=0)
    before = envs.command.copy()
    assert told(Steering(envs), envs, RIGHT, ENTER)[0] == "" and (envs.command == before).all()


def test_the_viewers_keys_reach_the_robot(monkeypatch):
    from mujoco import viewer

    given = {}

    class Window:
        def __getattr__(self, name):
            raise RuntimeError("no window here")

    def launch(model, data, key_callback=None, **options):
        given["on_key"] = key_callback
        return Window()

    monkeypatch.setattr(viewer, "launch_passive", launch)
    monkeypatch.setenv("DISPLAY", ":0")
    envs = BallbotVectorEnv(1, terrain="flat", num_threads=1, render_mode="human")
    steering = Steering(envs)
    with pytest.raises(RuntimeError, match="no window here"):
        envs.reset(seed=0)
    given["on_key"](LEFT)
    assert steering.apply() == "told: -1.00, 0.00"


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


def test_bad_input_is_named_and_exits_with_2(tmp_path, monkeypatch):
    save_policy(tmp_path / "p.pt")
    no_screen = {"DISPLAY": "", "WAYLAND_DISPLAY": ""}
    for name, value in no_screen.items():
        monkeypatch.setenv(name, value)
    cases: list[tuple[list[object], str]] = [
        (["none.pt"], "none.pt does not exist"),
        (["p.pt"], "no display" if sys.platform.startswith("linux") else ""),
        (["p.pt", "--record", "a.gif", "--terrain", "moon"], "'moon' is unknown"),
        (["p.pt", "--record", "a.gif", "--command", "point"], "observed as 'target'"),
        (["p.pt", "--record", "a.avi"], "must end in .mp4 or .gif or .webp"),
        (["p.pt", "--record", "nowhere/a.gif"], "there is no folder nowhere"),
        (["p.pt", "--record", "a.gif", "--fps", 0], "--fps must be a whole number"),
        (["p.pt", "--record", "a.gif", "--speed", "nan"], "--speed must be a finite number"),
        (["p.pt", "--seed", -1], "--seed must be a"),
        (["p.pt", "--record", "a.gif", "--encoder", "eyes.pt"], "--encoder eyes.pt is for policies that see"),
        (["defualt"], "are default, mixed, paper, road, robust, pid, linear"),
    ]
    for options, words in cases:
        done = call("watch.py", *options, folder=tmp_path)
        assert done.returncode == 2 and words in done.stderr, (options, done.stderr)
    done = run(tmp_path, "p.pt", "--record", "a.gif", MUJOCO_GL="glfw", **no_screen)
    assert done.returncode == 2 and "MUJOCO_GL=egl" in done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"p.pt"}


def test_what_a_policy_estimates_is_drawn_beside_the_truth():
    envs = BallbotVectorEnv(
        1, terrain="road", privileged_fields=("way", "scan"), num_threads=1, random_yaw=False, num_terrains=1
    )
    truth = envs.reset(seed=0)[0]["privileged"][0]
    layout, wrong = envs.privileged_layout, truth.copy()
    assert layout is not None
    heights = truth[layout["scan"]]
    assert heights.min() < -0.1  # beside the road
    wrong[layout["way"]] = -truth[layout["way"]]
    wrong[layout["scan"]] = 0.2
    right, left = (plan(envs.simulations, layout, truth, estimates, 200) for estimates in (truth, wrong))
    assert right.shape == (200, 200, 3) and len(np.unique(right[..., 0])) > 3
    way = layout["way"]
    agree = plan(envs.simulations, Layout(("way",)), truth[way], truth[way], 200)
    above, beside = ((agree == colour).all(axis=2).sum() for colour in (ESTIMATED, TRUE))
    assert 0.5 * above < beside < 1.5 * above  # the truth shows at both sides of what covers it
    lines = plan(envs.simulations, Layout(("way",)), truth[way], wrong[way], 200)
    for colour, (x, y) in ((TRUE, truth[way]), (ESTIMATED, wrong[way])):
        rows, columns = np.nonzero((lines == colour).all(axis=2))
        drawn = np.array([99.5 - rows.mean(), 99.5 - columns.mean()])  # heading up, its left to the left
        assert np.allclose(drawn / np.hypot(*drawn), [x, y], atol=0.05)
    # well estimated, the dot of a place has the grey of its ground
    place = ring_places()[:, int(heights.argmin())]
    row, column = (int(99.5 - 100 * metres / REACH) for metres in place)
    assert right[row, column, 0] < 30 and left[row, column, 0] > 200
    assert right[row, column + 12, 0] == right[row, column, 0]


def test_a_film_holds_what_the_policy_estimates():
    envs = BallbotVectorEnv(
        1, terrain="road", privileged_fields=("way",), num_threads=1, num_terrains=1, max_episode_steps=5,
        render_mode="rgb_array",
    )  # fmt: skip
    envs.render = lambda: (np.full((480, 640, 3), 7, np.uint8),)  # type: ignore[method-assign]
    act = lambda obs, began: np.zeros((1, 3))  # noqa: E731
    with_it = next(film(envs, act, 0, 100, estimates=lambda obs: -obs["privileged"]))
    without = next(film(envs, act, 0, 100))
    inset = with_it[480 - PLAN - MARGIN : 480 - MARGIN, MARGIN : MARGIN + PLAN]
    assert (inset == TRUE).all(axis=2).any() and (inset == ESTIMATED).all(axis=2).any()
    differ = np.argwhere((with_it != without).any(axis=2))
    assert differ[:, 0].min() >= 480 - PLAN - MARGIN - 25 and differ[:, 1].max() <= MARGIN + PLAN + 2
    caption = with_it[480 - PLAN - MARGIN - 20 : 480 - PLAN - MARGIN - 3, : MARGIN + PLAN].astype(int)
    assert (caption[..., 2] > caption[..., 0] + 80).any() and (caption[..., 0] > caption[..., 2] + 80).any()  # legend


def test_the_estimates_of_a_policy_that_comes_along_are_near_the_truth():
    watch = importlib.import_module("watch")
    envs, actor, estimates = watch.make(watch.Args("road", record=Path("road.gif")))
    obs, began = envs.reset(seed=0)[0], np.ones(1, bool)
    cosines = []
    for _ in range(500):
        found, truth = estimates(obs), obs["privileged"]
        assert found.shape == truth.shape == (1, 2)
        cosines.append(float((found * truth).sum()))
        obs, *_ = envs.step(actor(obs, began))
        began = np.zeros(1, bool)
    envs.close()
    assert np.median(cosines) > 0.95
    envs, _, none = watch.make(watch.Args("road"))  # a window does not show them
    assert none is None and envs.privileged_layout is None
    envs.close()


def test_estimates_of_something_else_than_is_told_are_refused():
    envs = BallbotVectorEnv(1, terrain="flat", num_threads=1, max_episode_steps=5, render_mode="rgb_array")
    envs.render = lambda: (np.full((480, 640, 3), 7, np.uint8),)  # type: ignore[method-assign]
    with pytest.raises(SettingsError, match="2 numbers are estimated, and the truth has 0"):
        next(film(envs, lambda obs, began: np.zeros((1, 3)), 0, 100, estimates=lambda obs: np.zeros((1, 2))))
