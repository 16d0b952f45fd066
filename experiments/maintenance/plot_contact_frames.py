"""Print and draw what the contact fix changes: every figure of mujoco_patch/README.md.

python experiments/maintenance/plot_contact_frames.py            # needs the extra "plots"
python experiments/maintenance/plot_contact_frames.py --cost     # also times the colliders
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from shared import EXPERIMENTS, CheckoutPath

import mujoco_patch
from ballbot.cli import check_output, program
from ballbot.parsing import parse
from mujoco_patch import contact_fix

Array = NDArray[np.float64]

ROOT = EXPERIMENTS.parent
ROBOT = ROOT / "ballbot" / "assets" / "ballbot.xml"
SLIP = 10.0  # m/s, more than the grip can stop within the contact's time constant, so the wheel does slip
COLOURS = ("#0072B2", "#E69F00", "#CC79A7")  # wheels; Okabe and Ito's colour-blind-safe palette
INK = "#333333"  # text: softer than black beside the colours


class Robot:
    """The ballbot in its settled pose, turned about the vertical, with the contacts of its three wheels."""

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_path(str(ROBOT))
        self.data = mujoco.MjData(self.model)
        self.wheels = [self.model.geom(f"wheel_{i}").id for i in range(3)]
        self.spins = [int(self.model.joint(f"wheel_{i}").dofadr[0]) for i in range(3)]
        self.ball = int(self.model.joint("ball_free").dofadr[0])

    def pose(self, yaw: float) -> None:
        """Puts the robot upright and at rest, turned by `yaw` rad."""
        mujoco.mj_resetDataKeyframe(self.model, self.data, self.model.key("settled").id)
        base = int(self.model.joint("base_free").qposadr[0])
        self.data.qpos[base + 3 : base + 7] = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]

    def contact(self, wheel: int) -> tuple[Array, Array, Array, Array]:
        """Place (3,), frame (3, 3), axle (3,) and force on the wheel (3,), in world axes, m and N."""
        mujoco.mj_forward(self.model, self.data)
        for i, contact in enumerate(self.data.contact):
            if self.wheels[wheel] in contact.geom:
                force = np.zeros(6)
                mujoco.mj_contactForce(self.model, self.data, i, force)
                frame = contact.frame.reshape(3, 3).copy()
                axle = self.data.geom_xmat[self.wheels[wheel]].reshape(3, 3)[:, 2].copy()
                return contact.pos.copy(), frame, axle, frame.T @ force[:3]
        raise RuntimeError(f"wheel {wheel} does not touch the ball: has {ROBOT.name} changed?")

    def alignment(self, wheel: int) -> float:
        """Cosine between first tangent and axle of the wheel's contact; its sign has no effect."""
        _, frame, axle, _ = self.contact(wheel)
        return abs(float(frame[1] @ axle))

    def drive(self, wheel: int, yaw: float) -> float:
        """Friction across the axle over normal force while the wheel spins against a ball at rest."""
        self.pose(yaw)
        self.data.qvel[self.spins[wheel]] = SLIP / 0.025  # wheel radius, m
        _, frame, axle, force = self.contact(wheel)
        return abs(float(force @ np.cross(axle, frame[0]) / (force @ frame[0])))

    def keep_only(self, wheel: int) -> None:
        """Leaves no contact but that of one wheel, lest the others push the ball off it."""
        self.model.geom_contype[:] = self.model.geom_conaffinity[:] = 0  # the wheels' explicit pairs remain
        for other in self.wheels:
            if other != self.wheels[wheel]:
                self.model.geom_size[other] *= 1e-3

    def slip_force(self, wheel: int, direction: float) -> Array:
        """Friction over normal force, (along the axle, across it), as the ball slides under the wheel.

        Args:
          wheel: 0, 1 or 2.
          direction: in which the ball slides, rad from the axle in the contact plane.
        """
        self.pose(0.0)
        _, frame, axle, _ = self.contact(wheel)
        along = axle - frame[0] * (axle @ frame[0])
        along /= np.linalg.norm(along)
        across = np.cross(along, frame[0])
        self.data.qvel[self.ball : self.ball + 3] = SLIP * (np.cos(direction) * along + np.sin(direction) * across)
        _, frame, _, force = self.contact(wheel)
        return np.array([force @ along, force @ across]) / float(force @ frame[0])


def measure() -> dict[str, Any]:
    """Everything drawn, under the collider now in force."""
    robot = Robot()
    yaws = np.radians(np.arange(0, 361, 2))
    slips = np.radians(np.arange(5, 360, 10))
    frames, alignment, slip = [], [], []
    for wheel in range(3):
        robot.pose(0.0)
        frames.append(robot.contact(wheel)[:3])
        alignment.append(robot.alignment(wheel))
        alone = Robot()
        alone.keep_only(wheel)
        slip.append([alone.slip_force(wheel, direction) for direction in slips])
    return {
        "frames": frames,
        "alignment": alignment,
        "yaws": np.degrees(yaws),
        "drive": np.array([[robot.drive(wheel, yaw) for yaw in yaws] for wheel in range(3)]),
        "slip": np.array(slip),
    }


def table(stock: dict[str, Any], fixed: dict[str, Any]) -> str:
    """The table of README.md."""
    rows = [
        "| wheel | tangent·axle, stock | fixed | drive force / normal force over headings, stock | fixed |",
        "|---|---|---|---|---|",
    ]
    for wheel in range(3):
        before, after = stock["drive"][wheel], fixed["drive"][wheel]
        rows.append(
            f"| {wheel} | {stock['alignment'][wheel]:.4f} | {fixed['alignment'][wheel]:.4f} "
            f"| {before.min():.3f} to {before.max():.3f} | {after.min():.3f} to {after.max():.3f} |"
        )
    return "\n".join(rows)


def cost(nsim: int = 512) -> str:
    """Microseconds of mujoco.batch per simulation, by collider and threads: best of 7 interleaved rounds.

    Only the position stage, which has the collisions: the solver's work depends on the friction it is given.
    """
    from mujoco.batch import Batch

    model = mujoco.MjModel.from_xml_path(str(ROBOT))
    key = model.key("settled").qpos
    best: dict[tuple[str, int], float] = {}
    choices: dict[str, Callable[[], None]] = {
        "stock": contact_fix.uninstall,
        "c": lambda: contact_fix.install("c"),
        "python": lambda: contact_fix.install("python"),
    }
    for _ in range(7):
        for choice, switch in choices.items():
            switch()
            for nthread in (1, 2):
                batch = Batch(model, nsim=nsim, nthread=nthread)
                batch.bind("qpos")[:] = key
                start = time.perf_counter()
                for _ in range(5):
                    batch.forward(stage=mujoco.mjtStage.mjSTAGE_POS)
                seconds = (time.perf_counter() - start) / (5 * nsim)
                best[choice, nthread] = min(seconds, best.get((choice, nthread), np.inf))
    return "\n".join(f"{choice}, {n} threads: {1e6 * t:.1f} us" for (choice, n), t in best.items())


def draw(stock: dict[str, Any], fixed: dict[str, Any], path: Path) -> None:
    """Writes the figure of README.md to `path`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    plt.rcParams.update({"font.size": 9, "axes.edgecolor": "#888888", "axes.titlesize": 10, "text.color": INK})
    figure, axes = plt.subplots(2, 3, figsize=(10, 6.6), width_ratios=(1, 1, 1.3), layout="constrained")
    for row, (name, data) in enumerate((("stock MuJoCo", stock), ("with the contact fix", fixed))):
        _draw_frames(axes[row, 0], data)
        _draw_slip(axes[row, 1], data)
        _draw_drive(axes[row, 2], data)
        axes[row, 0].set_ylabel(name, fontsize=12, fontweight="bold")
    titles = (
        "Contact frames, from above",
        "Friction while sliding in all directions",
        "Grip of a driven wheel",
    )
    for column, title in enumerate(titles):
        axes[0, column].set_title(title)
    handles = [Line2D([], [], color=c, lw=3, label=f"wheel {i}") for i, c in enumerate(COLOURS)]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _draw_frames(axes: Any, data: dict[str, Any]) -> None:
    """Seen from above: axles as grey bars, the contacts' first tangents as arrows."""
    axes.add_patch(_circle(0.09))
    for (place, frame, axle), colour in zip(data["frames"], COLOURS, strict=True):
        x, y = place[:2]
        bar = 0.055 * axle[:2]
        axes.plot([x - bar[0], x + bar[0]], [y - bar[1], y + bar[1]], color="#C4C4C4", lw=9, solid_capstyle="round")
        tangent = 0.055 * frame[1][:2] * np.sign(frame[1] @ axle)
        axes.annotate(
            "",
            xy=(x + tangent[0], y + tangent[1]),
            xytext=(x - tangent[0], y - tangent[1]),
            arrowprops={"arrowstyle": "<|-|>", "color": colour, "lw": 2, "shrinkA": 0, "shrinkB": 0},
        )
    axes.set(xlim=(-0.13, 0.13), ylim=(-0.13, 0.13), aspect="equal", xticks=[], yticks=[])
    axes.text(0, -0.122, "bar: axle    arrow: where friction is 0.001", ha="center", fontsize=7.5)


def _circle(radius: float) -> Any:
    from matplotlib.patches import Circle

    return Circle((0, 0), radius, facecolor="#F4F1EA", edgecolor="#BBBBBB")


def _draw_slip(axes: Any, data: dict[str, Any]) -> None:
    """Tips of the friction force for all directions of slip."""
    for order, (forces, colour) in enumerate(zip(data["slip"], COLOURS, strict=True)):
        size = (9, 5.5, 2.5)[order]  # what coincides stays visible
        axes.plot(*forces.T, color=colour, marker="o", markersize=size, lw=size / 3, zorder=3 + order)
    axes.axhline(0, color="#BBBBBB", lw=0.8, zorder=0)
    axes.axvline(0, color="#BBBBBB", lw=0.8, zorder=0)
    axes.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), aspect="equal", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    axes.set_xlabel("force along the axle / normal force")
    axes.set_ylabel("across the axle / normal force")


def _draw_drive(axes: Any, data: dict[str, Any]) -> None:
    """Drive friction against the heading of the robot."""
    for order, (values, colour) in enumerate(zip(data["drive"], COLOURS, strict=True)):
        axes.plot(data["yaws"], values, color=colour, lw=(5, 3, 1.4)[order] if values.min() > 0.99 else 1.8)
    axes.set(xlim=(0, 360), ylim=(0, 1.12), xticks=range(0, 361, 90), yticks=(0, 0.5, 1))
    axes.set_xlabel("heading of the robot (degrees)")
    axes.set_ylabel("drive force / normal force")
    if data["drive"].min() > 0.99:
        axes.text(180, 0.93, "all three wheels, every heading", ha="center", va="top")
    axes.spines[["top", "right"]].set_visible(False)


@dataclass
class Args:
    """Print and draw what the contact fix changes."""

    output: CheckoutPath = ROOT / "mujoco_patch" / "contact_frames.png"
    """Where the figure goes."""
    cost: bool = False
    """Also time the compiled and the Python collider."""


@program
def main(argv: list[str] | None = None) -> int:
    """Measures, prints the tables, draws the figure."""
    arguments = parse(Args, argv, __doc__)
    check_output(arguments.output, "--output", (".png", ".svg", ".pdf"))
    contact_fix.uninstall()
    stock = measure()
    report = mujoco_patch.ensure()
    fixed = measure()
    print(table(stock, fixed))
    print(report)
    if arguments.cost:
        print(cost())
    draw(stock, fixed, arguments.output)
    print(f"figure: {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
