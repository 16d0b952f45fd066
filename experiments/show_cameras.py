"""Show what the depth cameras see: a picture for people.

    python experiments/show_cameras.py --out cameras.png
    python experiments/show_cameras.py --tilt-deg 8 --encoder encoder.pt
    python experiments/show_cameras.py --terrain road --rig.number 3 --rig.tilt-deg 30
    python experiments/show_cameras.py --sensors cheap --sensors.camera-holes 0.1

The robot from outside, both depth images as the environment casts them, MuJoCo's own beside them, the difference, what
cameras with faults make of them, and what an encoder's numbers still know of that.  Needs OpenGL and matplotlib (pip
install matplotlib).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray

from ballbot.cli import check_output, program
from ballbot.encoders import encoder_file, load_encoder
from ballbot.envs import BallbotVectorEnv, WorldConfig
from ballbot.envs.model import build_model
from ballbot.envs.rendering import choose_opengl
from ballbot.envs.rig import camera_names
from ballbot.options import PluginFiles, kind_options, read_options, rig_options
from ballbot.settings import Range

BALL_SLICES = 128
"""MuJoCo draws a ball as a polyhedron, of 28 slices unless told otherwise: too coarse to compare depths at its edge."""


@dataclass
class Args:
    """Show what the depth cameras see."""

    out: Path = Path("cameras.png")
    """Picture to write."""
    encoder: Path | None = None
    """Encoder whose reconstructions are shown (default: the one that comes along for these cameras)."""
    seed: int = 0
    """Of the terrain, the heading and the direction of the tilt."""
    tilt_deg: Annotated[float, Range(-180, 180)] = 3.0
    """Tilt of the robot, degrees."""
    terrain: str = "perlin"
    """Kind of the ground, with its difficulty after a colon, "stairs:0.4", or a height map.  The kind's own options are
    --ground.height and so on: --terrain stairs --help lists them."""
    sensors: str | None = None
    """What is wrong with the images: "cheap", and single values, --sensors.camera-noise 0.01 and so on."""
    terrain_split: Literal["train", "validation", "eval"] = "eval"
    """Terrains to choose from."""
    size: int = 64
    """Pixels along a side of the depth images; other than 64, reconstructions need an --encoder of that size."""
    plugin: PluginFiles = ()
    """Python file that adds kinds of ground; several files, each after its own --plugin."""


def mujocos_depth(model: mujoco.MjModel, data: mujoco.MjData, size: int) -> NDArray[np.float32]:
    """MuJoCo's (cameras, size, size) depth images, clipped to 1 m."""
    choose_opengl()
    images = []
    with mujoco.Renderer(model, size, size) as renderer:
        renderer.enable_depth_rendering()
        for camera in camera_names(model):
            renderer.update_scene(data, camera=camera)
            images.append(renderer.render().copy())
    return np.clip(np.stack(images), 0.0, 1.0)


def seen(world: WorldConfig, args: Args) -> tuple[BallbotVectorEnv, NDArray[np.float32]]:
    """One robot in a world, tilted, and the (cameras, size, size) depth images that it gets."""
    envs = BallbotVectorEnv(1, config=world, num_threads=1, render_mode="rgb_array")
    envs.reset(seed=args.seed)
    sims, rng = envs.simulations, np.random.default_rng(args.seed)
    terrain = int(sims.terrain_ids[0])
    sims.place(0, terrain, yaw=rng.uniform(0, 6.28), tilt=np.radians(args.tilt_deg), tilt_axis=rng.uniform(0, 6.28))
    assert envs.cameras is not None
    envs.cameras.take(np.array([0]), sims.robot_state())
    return envs, envs.cameras.latest[0]


def show(args: Args) -> str:
    """Write the picture; returns a line that says how well the images agree."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rig, options = rig_options(args), kind_options(args)
    sensors = {"sensors": args.sensors or "perfect", "sensing": options.pop("sensing")}
    encoder = load_encoder(args.encoder or encoder_file(rig)) if args.encoder or args.size == 64 else None
    world = WorldConfig.of(
        observation="depth",
        terrain=args.terrain,
        **options,
        rig=rig,
        num_terrains=16,
        terrain_split=args.terrain_split,
        camera_resolution=(args.size, args.size),
    )
    envs, cast = seen(world, args)
    sensed = replace(world, **sensors)
    delivered = seen(sensed, args)[1] if sensed.faults[1] else None
    sims = envs.simulations
    terrain, relief = int(sims.terrain_ids[0]), sims.ground.relief
    pictures = envs.render()
    assert pictures is not None
    picture = pictures[0][:, 80:560]  # the middle of 640 columns, a square

    if relief is None:
        model = build_model(rig=sims.rig, robot=sims.robot)
    else:
        ground = sims.ground
        model = build_model(
            relief[terrain][None],
            tops=ground.tops[[terrain]],
            length=ground.grid.length,
            rig=sims.rig,
            robot=sims.robot,
        )
    model.vis.global_.offwidth = model.vis.global_.offheight = max(args.size, 64)  # MuJoCo draws nothing larger
    model.vis.quality.numslices = model.vis.quality.numstacks = BALL_SLICES
    data = mujoco.MjData(model)
    data.qpos[:] = sims.qpos[0]
    mujoco.mj_forward(model, data)
    drawn = mujocos_depth(model, data, args.size)
    gap = np.abs(cast - drawn)

    columns = ["depth, m", "MuJoCo's renderer, m", "difference, mm"]
    rows: list[list[NDArray[Any]]] = [[cast[i], drawn[i], 1e3 * gap[i]] for i in range(len(cast))]
    if delivered is not None:
        columns.append("with its faults, m")
        for row, image in zip(rows, delivered, strict=True):
            row.append(image)
    if encoder is not None:
        told = cast if delivered is None else delivered
        decoded = encoder.decode(encoder(torch.from_numpy(told)[:, None]))[:, 0].numpy()
        columns.append(f"from {encoder.architecture.embedding_size} numbers, m")
        for row, image in zip(rows, decoded, strict=True):
            row.append(image)
    figure, axes = plt.subplots(
        len(cast),
        len(columns) + 2,
        figsize=(2.6 * (len(columns) + 2), 2.6 * len(cast)),
        layout="constrained",
        squeeze=False,
    )
    for axis in axes[:, :2].flat:
        axis.remove()
    outside = figure.add_subplot(axes[0, 0].get_gridspec()[:, :2])
    outside.imshow(picture)
    outside.set_axis_off()
    farthest = max(float(np.percentile(cast, 98)), 0.1)  # a few pixels past the edge of the terrain tell nothing
    for i, row in enumerate(rows):
        for k, image in enumerate(row):
            axis = axes[i, k + 2]
            top = 2.0 if columns[k].startswith("difference") else farthest
            shown = axis.imshow(image, cmap="magma" if top == 2.0 else "viridis", vmin=0, vmax=top)
            axis.set_xticks([])
            axis.set_yticks([])
            if k == 0:
                axis.set_ylabel(f"camera {i}")
            if i == 0:
                axis.set_title(columns[k], fontsize=10)
            if i == len(rows) - 1:
                figure.colorbar(shown, ax=axis, orientation="horizontal", fraction=0.05)
    figure.savefig(args.out, dpi=110)
    within = 100 * (gap < 2e-3).mean()
    lines = [
        f"{args.out}: against MuJoCo, median difference {np.median(gap):.1e} m, {within:.2f} % of pixels within 2 mm"
    ]
    if encoder is not None:
        lines.append(f"what the encoder loses: {1e3 * np.sqrt(np.square(decoded - cast).mean()):.1f} mm rms")
    lines += [
        f"note: camera {i} is below the ground, where it sees 0 m" for i, image in enumerate(cast) if not image.any()
    ]
    return "\n".join(lines)


@program
def main(argv: list[str] | None = None) -> int:
    """Draw, and return the exit status."""
    args = read_options(Args, argv, __doc__, rig=True)
    check_output(args.out, "--out", (".png", ".svg", ".pdf"))
    print(show(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
