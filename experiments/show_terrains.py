"""Show the grounds: a picture of every kind at three difficulties, with the robot in it.

    python experiments/show_terrains.py --out terrains.png
    python experiments/show_terrains.py --kinds stairs pits --difficulties 0.3 1
    python experiments/show_terrains.py --plugin mine.py --kinds bumps my_field.png

Needs OpenGL and matplotlib (pip install matplotlib).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from ballbot.cli import check_output, program
from ballbot.envs import TERRAINS
from ballbot.envs.physics import Physics
from ballbot.envs.rendering import choose_opengl
from ballbot.envs.terrain import TerrainPool, parse_terrain
from ballbot.options import PluginFiles, read_options
from ballbot.progress import reported
from ballbot.settings import Range

WIDTH, HEIGHT = 384, 256
"""Pixels of one picture."""
LIGHT = np.array([0.8, 0.5, -0.45])
"""Where the sun shines to: low, so that slopes and edges show."""
MAPPED = 3.0
"""m around the middle that the map in the corner shows."""
COLOURS = 128
"""Of the whole picture: with more, the file is four times as large and looks the same."""


@dataclass
class Args:
    """Show the grounds."""

    out: Path = Path("terrains.png")
    """Picture to write."""
    kinds: tuple[str, ...] = ()
    """Which, by name or as files of height maps (default: all, but for mixtures and files)."""
    difficulties: tuple[Annotated[float, Range(0, 1)], ...] = field(default=(0.2, 0.6, 1.0))
    """From 0 to 1, a column each."""
    seed: Annotated[int, Range(0, 2**63)] = 0
    """Of the fields."""
    distance: Annotated[float, Range(0.5, 50)] = 3.6
    """From the camera to the robot, m."""
    plugin: PluginFiles = ()
    """Python file that adds kinds of ground; several files, each after its own --plugin."""


def picture(pool: TerrainPool, distance: float) -> NDArray[np.uint8]:
    """The robot at a place where episodes begin, seen from behind and above: (height, width, 3).

    Raises:
        RuntimeError: nothing can be drawn here.
    """
    physics = Physics(1, pool, integrator="Euler", num_threads=1)
    model, data = physics.model, mujoco.MjData(physics.model)
    physics.place(0, 0, yaw=np.pi / 2)
    data.qpos[:] = physics.qpos[0]
    ground = model.geom("ground")
    ground.matid, ground.rgba = -1, (0.78, 0.74, 0.66, 1.0)  # squares would hide what the light shows
    model.light("sun").dir, model.light("sun").castshadow = LIGHT / np.linalg.norm(LIGHT), 0
    model.vis.headlight.diffuse[:], model.vis.headlight.ambient[:] = 0.05, 0.2
    model.light("sun").diffuse = 0.95
    model.vis.global_.fovy = 38.0
    mujoco.mj_forward(model, data)
    camera = mujoco.MjvCamera()
    camera.lookat = physics.qpos[0, physics.addresses.base_qpos :][:3] + np.array([0.0, 0.45, -0.2])
    camera.distance, camera.azimuth, camera.elevation = distance, 65.0, -28.0
    choose_opengl()
    try:
        with mujoco.Renderer(model, HEIGHT, WIDTH) as renderer:
            renderer.update_scene(data, camera)
            return np.array(renderer.render(), np.uint8)
    except Exception as error:
        raise RuntimeError(
            f"nothing can be drawn here ({error}): install libegl1 or libosmesa6 and set MUJOCO_GL=egl or osmesa"
        ) from error


def gallery(args: Args) -> Any:
    """The whole picture, as Pillow's: each with a map of the middle in the corner, and how high that is."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from PIL import Image

    kinds = args.kinds or tuple(name for name in TERRAINS if name not in ("mixed", "file"))
    across = 2 if len(kinds) > 3 else 1  # kinds beside each other
    columns, rows = len(args.difficulties) * across, -(-len(kinds) // across)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * 2.4, rows * 1.8), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    shown: list[tuple[Any, str]] = []
    for number, kind in enumerate(kinds):
        names = [kind] if parse_terrain(kind).kind == "flat" else [f"{kind}:{x:g}" for x in args.difficulties]
        shown += zip(axes[number // across, number % across * len(args.difficulties) :], names, strict=False)
    for axis, name in reported(shown, len(shown), "drawing grounds"):
        pool = TerrainPool(name, num=1, split="eval", seed=args.seed)
        axis.imshow(picture(pool, args.distance))
        axis.set_title(Path(name).name, fontsize=9)
        if pool.relief is not None:
            half = round(MAPPED / pool.grid.cell)
            middle = pool.grid.size // 2
            part = slice(max(middle - half, 0), middle + half + 1)
            heights = 100 * pool.tops[0] * pool.relief[0][part, part]
            corner = axis.inset_axes((0.0, 0.0, 0.3, 0.45))
            corner.imshow(heights, origin="lower", cmap="cividis")
            corner.axis("off")
            axis.text(0.98, 0.03, f"{np.ptp(heights):.1f} cm", transform=axis.transAxes, fontsize=8, ha="right")
    figure.canvas.draw()
    image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])  # type: ignore[attr-defined]
    plt.close(figure)
    return image.quantize(COLOURS, dither=Image.Dither.NONE)


@program
def main(argv: list[str] | None = None) -> int:
    """Draw, and return the exit status."""
    args = read_options(Args, argv, __doc__)
    check_output(args.out, "--out", (".png",))
    gallery(args).save(args.out, optimize=True)
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
