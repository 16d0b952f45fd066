"""Draw every robot by name, upright on its ball, side by side and to one scale.  Needs OpenGL and the extra "plots".

python experiments/maintenance/show_robots.py --out docs/images/robots.png
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import mujoco
import numpy as np
from numpy.typing import NDArray

from ballbot.cli import check_options, check_output, program
from ballbot.envs import ROBOTS
from ballbot.envs.model import build_model
from ballbot.envs.rendering import SHADOWS, choose_opengl
from ballbot.envs.robot import RobotConfig
from ballbot.parsing import parse
from ballbot.settings import Range

WIDTH, HEIGHT = 240, 480
"""Pixels of one picture."""
COLOURS = 128
"""Of the whole picture."""


@dataclass
class Args:
    """Draw every robot."""

    out: Path = Path("robots.png")
    """Picture to write."""
    distance: Annotated[float, Range(0.5, 50)] = 2.9
    """From the camera to the robots, m."""


def picture(robot: RobotConfig, distance: float) -> NDArray[np.uint8]:
    """The robot in its MJCF's own pose, its ball's lowest point always at the same place: (height, width, 3)."""
    model = build_model(robot=robot)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = mujoco.MjvCamera()
    camera.lookat = data.geom("ball").xpos + np.array([0.0, 0.0, 0.72 - robot.ball_radius])
    camera.distance, camera.azimuth, camera.elevation = distance, 150.0, -8.0
    model.vis.global_.fovy, model.vis.map.shadowclip = 34.0, SHADOWS
    with mujoco.Renderer(model, HEIGHT, WIDTH) as renderer:
        renderer.update_scene(data, camera)
        return np.array(renderer.render(), np.uint8)


@program
def main(argv: list[str] | None = None) -> int:
    """Draw, save, and return the exit status."""
    args = parse(Args, argv, __doc__)
    check_options(args)
    check_output(args.out, "--out", (".png",))
    from PIL import Image, ImageDraw

    choose_opengl()
    image = Image.fromarray(np.hstack([picture(robot, args.distance) for robot in ROBOTS.values()]))
    write = ImageDraw.Draw(image)
    for place, name in enumerate(ROBOTS):
        write.text(((place + 0.5) * WIDTH, HEIGHT - 14), name, "white", anchor="ms", font_size=32)
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(args.out, optimize=True)
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
