"""Videos of a policy at work: the robot from outside, what it sees above, and what it takes the ground for below."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Callable, Iterator
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.envs import BallbotVectorEnv
from ballbot.envs.depth_camera import DepthCamera
from ballbot.envs.marks import Marks
from ballbot.envs.physics import Physics
from ballbot.envs.rendering import Renderer
from ballbot.envs.rig import camera_names
from ballbot.envs.step import rotation_matrix
from ballbot.errors import SettingsError
from ballbot.evaluation.episodes import Actor
from ballbot.evaluation.plan import ESTIMATED, TRUE, Frame, plan
from ballbot.ppo import Agent
from ballbot.progress import reported

ENDINGS = (".mp4", ".gif", ".webp")
TICKS = {".gif": 100, ".webp": 1000}
"""A second, of those in which a frame is shown for a whole number of them."""
SHORTEST = 0.02
"""s of such a frame, as browsers slow down what is faster."""
WEBP = {"quality": 80, "method": 4}
"""Of 100, and of 6: half the size of a .gif, in all colours."""
INSET = 96
"""Pixels along a side of a depth view, in a row at the top."""
PLAN = 180
"""Likewise of the ground from above."""
TEXT, SMALL = 18, 13
"""Height of letters: of time and speed, and beside insets."""
INK, PAPER = (255, 255, 255), (40, 44, 50)
"""Of letters and behind them."""
SEEING = ("encoded", "depth")
"""Observations of those whose views are shown."""
MARGIN = 8
"""Pixels around it."""
MOST_INSETS = 6
"""Of cameras: more do not fit in a row."""
NEAREST, FARTHEST = 0.07, 0.9
"""m, the two ends of the colours of depth views: in between, most of what cameras see of the ground and of drops."""
COLOURS = np.array([(253, 231, 37), (94, 201, 98), (33, 145, 140), (59, 82, 139), (68, 1, 84)])
"""Of depths, near to far: viridis, which grows darker evenly, and differs to people who do not tell red from green."""
SPEED_OVER = 0.5
"""s of simulation that the speed in a film is the mean over."""
Colour = tuple[int, int, int]
Estimates = Callable[[Any], NDArray[np.floating]]
"""Observations of n robots -> (n, m) what a policy estimates."""
POSTER = 50
"""Frames of a film, or less if it has less, until the one that stands for it."""
TRAINING_FPS = 10
"""Frames a second of films made while training."""
TRAINING_SECONDS = 10
"""Longest of them."""


def film(
    envs: BallbotVectorEnv,
    actor: Actor,
    seed: int,
    fps: float,
    speed: float = 1.0,
    estimates: Estimates | None = None,
) -> Iterator[Frame]:
    """Frames (480, 640, 3) of one episode.

    Args:
        envs: a single robot, with render_mode "rgb_array".
        actor: the policy.
        seed: of the episode.
        fps: frames a second.
        speed: seconds of simulation in a second of film; if there are more frames than steps, some repeat.
        estimates: what the policy estimates, of the environment's privileged fields, and no others.

    Raises:
        RuntimeError: no OpenGL.
        SettingsError: other numbers are estimated than the environment tells the truth of.
    """
    sims, told = envs.simulations, envs.world.told
    cameras = _eyes(sims) if envs.config.observation in SEEING else None
    obs, _ = envs.reset(seed=seed)
    said = _Said(sims, int(sims.robot_ids[0]), int(sims.terrain_ids[0]))
    envs.marks = said.marks
    began, ended, step, shown = np.ones(1, bool), False, 0, 0
    while True:
        due = math.floor(step * envs.dt * fps / speed + 1e-6) + 1 - shown
        if due > 0:
            way = told.direction[:, 0] if "direction" in told.command.memory else np.zeros(2)
            place = told.target[:, 0].copy() if "target" in told.command.fields else None
            said.at(step * envs.dt, sims.qpos[0], way, place)
            pictures = envs.render()
            assert pictures is not None
            depths = what_is_seen(cameras, sims, sims.qpos[0], int(sims.terrain_ids[0]))
            picture = with_insets(pictures[0], depths)
            if estimates is not None:
                _put_estimates(picture, envs, obs, estimates)
            said.write_on(picture)
            yield from repeat(picture, due)
            shown += due
        if ended:
            envs.marks = None
            return
        obs, _, terminated, truncated, _ = envs.advance(actor(obs, began))
        began, step, ended = np.zeros(1, bool), step + 1, bool(terminated[0] | truncated[0])


def _put_estimates(picture: Frame, envs: BallbotVectorEnv, obs: Any, estimates: Estimates) -> None:
    """Put the ground around, and what the policy takes it for, into a corner."""
    layout, found = envs.privileged_layout, estimates(obs)[0]
    if layout is None or layout.size != len(found):
        told = 0 if layout is None else layout.size
        raise SettingsError(f"{len(found)} numbers are estimated, and the truth has {told}: not the same")
    top = picture.shape[0] - PLAN - MARGIN
    put(picture, plan(envs.simulations, layout, obs["privileged"][0], found, PLAN), top, MARGIN)
    leads = any(field.leads for field in layout.fields.values())
    put_text(
        picture,
        [(f"{', '.join(layout.fields)}:", INK), *([("true", TRUE)] if leads else []), ("estimated", ESTIMATED)],
        top - SMALL - 10,
        MARGIN - 2,
        SMALL,
    )


def film_maker(envs: BallbotVectorEnv, seed: int) -> Callable[[Agent], tuple[NDArray[np.uint8], int]]:
    """Films an agent's first seconds while it trains, half as large as ``watch.py`` does, for ``ballbot.ppo.train``.

    Args:
        envs: a single robot, with render_mode "rgb_array".
        seed: of the episode.

    Raises:
        SettingsError: nothing can be drawn here.
    """
    try:
        envs.reset(seed=seed)
        envs.render()
    except RuntimeError as error:
        raise SettingsError(f"--capture-video: {error}") from error

    def shoot(agent: Agent) -> tuple[NDArray[np.uint8], int]:
        memory = agent.new_memory(1)  # a film is one episode
        frames = film(envs, lambda obs, began: agent.act(obs, memory=memory).cpu().numpy(), seed, TRAINING_FPS)
        return np.stack([shrunk(frame, 2) for frame in islice(frames, TRAINING_FPS * TRAINING_SECONDS)]), TRAINING_FPS

    return shoot


class _Said:
    """What a film tells of a robot beside how it looks: marks on the ground, the time, and how fast it goes."""

    def __init__(self, sims: Physics, robot_id: int, terrain_id: int) -> None:
        self.marks = Marks(float(sims.ground.floors[terrain_id]) / 2, sims.ground.grid.length)  # half way to the floor
        self._ball, self._radius = sims.addresses.ball_qpos, float(sims.planes[robot_id].geom("ball").size[0])
        self._way: list[tuple[float, NDArray[np.float64]]] = []

    def at(self, seconds: float, qpos: NDArray[np.float64], direction: NDArray[np.float64], place: Any = None) -> None:
        """The robot is in this pose at this time, and told to go there."""
        ball = qpos[self._ball : self._ball + 3].copy()
        self.marks.move(ball - [0.0, 0.0, self._radius], direction, place)
        self._way = [*(was for was in self._way if was[0] >= seconds - SPEED_OVER - 1e-9), (seconds, ball[:2])]

    def write_on(self, picture: Frame) -> None:
        """Write below, in the middle."""
        (then, there), (now, here) = self._way[0], self._way[-1]
        speed = float(np.hypot(*(here - there))) / (now - then) if now > then else 0.0
        put_text(picture, [(f"{now:5.2f} s    {speed:.2f} m/s", INK)], picture.shape[0] - TEXT - 10 - MARGIN)


def put_text(
    picture: Frame, words: list[tuple[str, Colour]], top: int, left: int | None = None, height: int = TEXT
) -> None:
    """Write a line of words, each in its colour, on grey, if there is Pillow, which the extra "video" brings.

    Args:
        picture: to write into.
        words: and their colours.
        top: row of the pixels where it begins.
        left: column; None: in the middle.
        height: of letters; the line has 8 pixels more.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        return
    font, space = ImageFont.load_default(height), height // 2
    ends = np.cumsum([0, *(round(font.getlength(word)) + space for word, _ in words)])
    label = Image.new("RGB", (int(ends[-1]) + space, height + 8), PAPER)
    for (word, colour), start in zip(words, ends[:-1], strict=True):
        ImageDraw.Draw(label).text((space + start, 2), word, fill=colour, font=font)
    column = (picture.shape[1] - label.width) // 2 if left is None else left
    picture[top : top + label.height, column : column + label.width] = np.asarray(label)


def replay(
    sims: Physics,
    poses: NDArray[np.float64],
    terrain_id: int,
    robot_id: int = 0,
    *,
    seconds: float = 0.04,
    directions: NDArray[np.float64] | None = None,
    sees: bool = False,
) -> Iterator[Frame]:
    """Frames (480, 640, 3) of an episode that was recorded.

    Args:
        sims: the world it was recorded in, which stays as it is.
        poses: (frames, nq) MuJoCo's qpos.
        terrain_id: that it was recorded on.
        robot_id: of which robot of a family.
        seconds: from one pose to the next.
        directions: (frames, 2) unit vectors of the world, where it was told to go; None: nowhere.
        sees: whether who drove it sees by its cameras.

    Raises:
        RuntimeError: no OpenGL.
    """
    pool, said = sims.ground, _Said(sims, robot_id, terrain_id)
    cameras = _eyes(sims) if sees else None
    renderer = Renderer("rgb_array", rig=sims.rig, robot=sims.robot, family=sims.family)
    ground = None
    if pool.relief is not None:
        ground = pool.relief[terrain_id], float(pool.tops[terrain_id]), pool.grid.length
    try:
        for k, qpos in enumerate(poses):
            said.at(k * seconds, qpos, np.zeros(2) if directions is None else directions[k])
            picture = renderer.draw(ground, qpos, np.zeros(sims.model.nv), robot_id, said.marks)
            assert picture is not None
            picture = with_insets(picture, what_is_seen(cameras, sims, qpos, terrain_id))
            said.write_on(picture)
            yield picture
    finally:
        renderer.close()


def write_replay(path: Path, sims: Physics, poses: NDArray[np.float64], seconds: float, **whose: Any) -> Path:
    """Film an episode that was recorded: as .mp4, or as .gif, with every other pose, where nothing writes .mp4.

    Args:
        path: of the film, without an ending.
        sims: the world it was recorded in, which stays as it is.
        poses: (frames, nq) MuJoCo's qpos.
        seconds: from one pose to the next.
        **whose: terrain_id, robot_id, directions and sees, as of ``replay``.

    Returns:
        the path, with its ending.

    Raises:
        RuntimeError, ImportError, OSError: no OpenGL, nothing to write films with, or no room for them.
    """
    every, ending = 1, ".mp4"
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        every, ending = 2, ".gif"  # which is large
    path = path.with_name(path.name + ending)
    if whose.get("directions") is not None:
        whose["directions"] = whose["directions"][::every]
    frames = replay(sims, poses[::every], seconds=every * seconds, **whose)
    write_video(path, reported(frames, len(poses[::every]), path.name), 1 / (every * seconds))
    return path


def _eyes(sims: Physics) -> DepthCamera | None:
    """The robot's cameras; None if it has none."""
    return DepthCamera(sims.model, sims.ground.relief, tops=sims.ground.tops) if camera_names(sims.model) else None


def what_is_seen(
    cameras: DepthCamera | None, sims: Physics, qpos: NDArray[np.float64], terrain_id: int
) -> NDArray[np.float32]:
    """(cameras, height, width) depths in m, of a robot in this pose."""
    if cameras is None:
        return np.zeros((0, 1, 1), np.float32)
    base, ball = (qpos[start : start + 7] for start in (sims.addresses.base_qpos, sims.addresses.ball_qpos))
    rotation = rotation_matrix(base[3:, None]).transpose(2, 0, 1)
    images = cameras.render(base[None, :3], rotation, ball[None, :3], np.array([terrain_id]))
    depths: NDArray[np.float32] = images[0].cpu().numpy()
    return depths


def with_insets(picture: Frame, depths: NDArray[np.float32]) -> Frame:
    """The picture with (cameras, height, width) depths, 0 to 1 m, of six at most, in a row; near is bright."""
    framed = picture.copy()
    for i, depth in enumerate(depths[:MOST_INSETS]):
        rows, columns = (np.arange(INSET) * size // INSET for size in depth.shape)
        share = np.log(np.clip(depth[rows][:, columns], NEAREST, FARTHEST) / NEAREST) / np.log(FARTHEST / NEAREST)
        stops = share * (len(COLOURS) - 1)
        colours = [np.interp(stops, np.arange(len(COLOURS)), channel) for channel in COLOURS.T]
        left = MARGIN + i * (INSET + MARGIN)
        put(framed, np.stack(colours, axis=2).astype(np.uint8), MARGIN, left)
        put_text(framed, [(f"camera {i}", INK)], MARGIN + INSET - 2, left - 2, SMALL)
    return framed


def put(picture: Frame, inset: Frame, top: int, left: int) -> None:
    """Put a square inset into the picture, in a white frame."""
    size = len(inset)
    picture[top - 2 : top + size + 2, left - 2 : left + size + 2] = 255
    picture[top : top + size, left : left + size] = inset


def shrunk(frame: Frame, times: int) -> Frame:
    """The frame with each side divided by ``times``, which divides both: every pixel is the mean of a square."""
    height, width, channels = frame.shape
    squares = frame.reshape(height // times, times, width // times, times, channels)
    return squares.mean(axis=(1, 3)).astype(np.uint8)


def playable_fps(path: Path, fps: float) -> float:
    """The frames a second nearest to ``fps`` that a file can play: some show each for a whole number of ``TICKS``."""
    ticks = TICKS.get(path.suffix)
    return fps if ticks is None else ticks / max(round(ticks / fps), round(ticks * SHORTEST))


def poster(path: Path) -> bytes:
    """A .jpg out of a film, when the robot is on its way.

    Raises:
        ImportError: the extra "video" is not installed.
        OSError: the film cannot be read.
    """
    import imageio.v2 as imageio
    from PIL import Image

    reader: Any
    with imageio.get_reader(path) as reader:
        *_, picture = islice(reader.iter_data(), POSTER)
    content = io.BytesIO()
    Image.fromarray(np.asarray(picture)[..., :3]).save(content, "JPEG", quality=80)
    return content.getvalue()


def write_video(path: Path, frames: Iterator[Frame], fps: float) -> int:
    """Write frames as .mp4, .gif or .webp; returns how many.  Until the last one is written, the old file stays.

    A .webp keeps all of them in memory until then, 0.9 MB each.

    Raises:
        ValueError: another ending, or other than a ``playable_fps``.
        ImportError: the extra "video" is not installed.
        OSError: the file cannot be written.
    """
    if path.suffix not in ENDINGS:
        raise ValueError(f"{path} must end in {' or '.join(ENDINGS)}")
    if not math.isclose(playable := playable_fps(path, fps), fps):
        raise ValueError(f"{path} cannot play {fps:g} frames a second: use {playable:g}, or .mp4")
    try:
        import imageio.v2 as imageio

        if path.suffix == ".mp4":
            import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise ImportError(f'{error.name} is missing: pip install "imageio[ffmpeg]"') from error
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    options: dict[str, Any] = {"duration": round(1000 / fps), "loop": 0}  # ms
    if path.suffix == ".webp":
        options |= WEBP
    elif path.suffix == ".mp4":
        options = {"fps": fps, "macro_block_size": 1}
    count = 0
    try:
        writer: Any = imageio.get_writer(temporary, **options)
        with writer:
            for frame in frames:
                try:
                    writer.append_data(frame)
                except Exception as error:  # of many kinds if ffmpeg is broken
                    raise OSError(f"{path.name} cannot be written ({type(error).__name__}: {error})") from error
                count += 1
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count
