"""What MuJoCo's height fields make of a step: how fine must the ground be, and what can the robot cross and hold?

    python experiments/maintenance/measure_steps.py          # some minutes; the tables in docs/terrain_cells.md

A height field shows a step as a steep slope, one cell long.  A ball, and the robot under the linear controller, roll
at steps on fields of several cells, and at a box, which has a true edge.  Then the robot drives up and down slopes.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from importlib.resources import files

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

import mujoco_patch
from ballbot.cli import program
from ballbot.controllers import LinearController
from ballbot.envs.terrain import CELL, Grid
from ballbot.parsing import parse

Array = NDArray[np.float64]
BALL_RADIUS = 0.09
LENGTH = 2.4
"""Side of the fields, m."""
START, BALL_START = -0.5, -0.2
"""y at which robots, which have to gain speed, and balls start, m; the step is at 0."""
SECONDS = 5.0
"""Time to cross it."""


@dataclass
class Args:
    """Measure steps and slopes."""

    cells: tuple[float, ...] = (CELL, 0.025, 0.02, 0.01, 0.005)
    """m between vertices."""
    heights: tuple[float, ...] = (0.005, 0.0075, 0.01, 0.0125, 0.015, 0.02)
    """m of the step; down as well as up."""
    ball_speeds: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    """m/s of the ball."""
    robot_speeds: tuple[float, ...] = (0.2, 0.32)
    """m/s that the controller aims at."""
    slopes: tuple[float, ...] = (6, 8, 9, 10, 11, 12, 15)
    """Degrees."""
    robots: int = 8
    """Of each kind of step, each with a heading of its own."""


def step_field(grid: Grid, height: float) -> Array:
    """Level, and from y = 0 on, level and higher."""
    return np.where(grid.y > 1e-9, height, 0.0)


def slope_field(grid: Grid, angle_deg: float) -> Array:
    """Level up to y = -0.4, steeper and steeper up to y = 0, and straight from there."""
    steep = np.tan(np.radians(angle_deg)) * np.clip((grid.axis + 0.4) / 0.4, 0, 1)
    rise = np.concatenate([[0.0], np.cumsum((steep[1:] + steep[:-1]) / 2 * grid.cell)])
    return np.broadcast_to(rise[:, None], grid.shape)


def compile_ground(spec: mujoco.MjSpec, fields: list[Array], grid: Grid) -> mujoco.MjModel:
    """A model with these fields, of which the geom "ground" shows the first."""
    for k, heights in enumerate(fields):
        span = max(float(np.ptp(heights)), 1e-3)
        relief = ((heights - heights.min()) / span).astype(np.float32)
        spec.add_hfield(
            name=f"field_{k}", nrow=grid.size, ncol=grid.size, size=[grid.half, grid.half, span, 0.1],
            userdata=relief.ravel(),
        )  # fmt: skip
    spec.geom("ground").type, spec.geom("ground").hfieldname = mujoco.mjtGeom.mjGEOM_HFIELD, "field_0"
    return spec.compile()


def add_true_step(spec: mujoco.MjSpec, height: float) -> mujoco.MjModel:
    """The plane "ground" with a box on it, whose edge is at y = 0."""
    box = spec.worldbody.add_geom(name="box", type=mujoco.mjtGeom.mjGEOM_BOX, size=[1.2, 0.6, height / 2])
    box.pos = [0, 0.6, height / 2]
    return spec.compile()


def ball_spec() -> mujoco.MjSpec:
    """A free ball on a plane, with the ground's friction and the robot's options."""
    return mujoco.MjSpec.from_string(
        f'<mujoco><option timestep="0.002" cone="elliptic"/><worldbody><geom name="ground" type="plane" size="5 5 1"/>'
        f'<body name="ball"><freejoint name="ball_free"/><geom name="ball" size="{BALL_RADIUS}" mass="4"/></body>'
        "</worldbody></mujoco>"
    )


def robot_spec() -> mujoco.MjSpec:
    """The ballbot on a plane."""
    return mujoco.MjSpec.from_file(str(files("ballbot.assets") / "ballbot.xml"))


class Rollers:
    """Balls or robots that roll along +y, and what is recorded of them."""

    def __init__(self, model: mujoco.MjModel, starts: Array, speeds: Array, yaws: Array, robot: bool) -> None:
        self.model, self.num, self.robot, self.speeds = model, len(starts), robot, speeds
        self.batch = Batch(model, self.num, 2)
        self.qpos, self.qvel, self.ctrl = (self.batch.bind(name) for name in ("qpos", "qvel", "ctrl"))
        joint = model.joint("ball_free")
        self.ball, self.roll = int(joint.qposadr[0]), int(joint.dofadr[0])
        if robot:
            self.base, self.spin = int(model.joint("base_free").qposadr[0]), int(model.joint("base_free").dofadr[0])
            self.qpos[:] = model.key("settled").qpos
            self.qpos[:, self.base + 3], self.qpos[:, self.base + 6] = np.cos(yaws / 2), np.sin(yaws / 2)
            for address in (self.ball, self.base):
                self.qpos[:, address + 1] += starts
            self.controller = LinearController(dt=0.002, target_speed=speeds)
        else:
            self.qpos[:, self.ball + 1], self.qpos[:, self.ball + 2], self.qpos[:, self.ball + 3] = starts, 0.09, 1
            self.qvel[:, self.roll + 1], self.qvel[:, self.roll + 3] = speeds, -speeds / BALL_RADIUS
        self.fallen = np.zeros(self.num, bool)

    def show(self, fields: NDArray[np.int64]) -> None:
        """Put each on a field of its own."""
        self.batch.expand("geom_dataid")[:, self.model.geom("ground").id] = fields

    def lift(self, heights: Array) -> None:
        """Raise each by so many m."""
        self.qpos[:, self.ball + 2] += heights
        if self.robot:
            self.qpos[:, self.base + 2] += heights

    def act(self, first: bool) -> None:
        """Motors follow the linear controller; those who fell are left to lie."""
        w, x, y, z = self.qpos[:, self.base + 3 : self.base + 7].T
        rows = np.array([
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ])  # fmt: skip
        velocity = np.einsum("ijn,in->jn", rows, self.qvel[:, self.spin : self.spin + 3].T)
        seen = [-rows[2], self.qvel[:, self.spin + 3 : self.spin + 6].T, velocity, rows[1, :2], np.zeros((6, self.num))]
        actions = self.controller(np.concatenate(seen).T.astype(np.float32), np.full(self.num, first))
        self.fallen |= rows[2, 2] < np.cos(np.radians(20))
        self.ctrl[:] = np.where(self.fallen[:, None], 0.0, -10.0 * actions)

    def run(self, seconds: float) -> tuple[Array, Array, float]:
        """Roll on; (num,) y in m up to which each came upright, (num,) y where it is, and steps per CPU second."""
        furthest, spent, steps = np.full(self.num, -np.inf), 0.0, round(seconds / 0.002)
        for step in range(steps):
            if self.robot:
                self.act(step == 0)
            begun = time.process_time()
            self.batch.step()
            spent += time.process_time() - begun
            y = self.qpos[:, self.ball + 1]
            np.maximum(furthest, np.where(self.fallen, -np.inf, y), out=furthest)
        return furthest, y.copy(), self.num * steps / spent


def cross_steps(args: Args, cell: float | None, robot: bool) -> tuple[Array, float]:
    """(heights up, then down; speeds): share that crosses, on a field of that cell or, with None, at a true edge."""
    make, speeds = (robot_spec, args.robot_speeds) if robot else (ball_spec, args.ball_speeds)
    each = args.robots if robot else 1
    heights = np.array([*args.heights, *(-h for h in args.heights)])
    rng, crossed, pace = np.random.default_rng(0), np.zeros((len(heights), len(speeds))), []
    aims, yaws = np.repeat(speeds, each), rng.uniform(0, 2 * np.pi, each * len(speeds))
    starts = START + rng.uniform(-0.05, 0.05, len(aims)) if robot else np.full(len(aims), BALL_START)
    if cell is None:
        for row, height in enumerate(heights[: len(args.heights)]):
            rollers = Rollers(add_true_step(make(), height), starts, aims, yaws, robot)
            furthest, _, speed = rollers.run(SECONDS)
            crossed[row] = (furthest > 0.15).reshape(-1, each).mean(1)
            pace.append(speed)
        crossed[len(args.heights) :] = np.nan  # the plane has no hole to roll into
    else:
        grid = Grid.covering(LENGTH, cell)
        model = compile_ground(make(), [step_field(grid, h) for h in heights], grid)
        n = len(aims)
        rollers = Rollers(model, np.tile(starts, len(heights)), np.tile(aims, len(heights)),
                          np.tile(yaws, len(heights)), robot)  # fmt: skip
        rollers.show(np.repeat(np.arange(len(heights)), n))
        rollers.lift(np.repeat(np.maximum(-heights, 0), n))  # what goes down begins above
        furthest, _, speed = rollers.run(SECONDS)
        crossed = (furthest > 0.15).reshape(len(heights), len(speeds), each).mean(2)
        pace.append(speed)
    return crossed, float(np.mean(pace))


def touch(cell: float | None, height: float, speed: float) -> dict[str, float]:
    """A ball that rolls at a step (0: level ground): its contacts, penetration and the ground's force on the way."""
    if cell is None:
        model = add_true_step(ball_spec(), height) if height else ball_spec().compile()
    else:
        grid = Grid.covering(LENGTH, cell)
        model = compile_ground(ball_spec(), [step_field(grid, height)], grid)
    data = mujoco.MjData(model)
    data.qpos[:] = [0.003, -0.4, 0.09, 1, 0, 0, 0]
    data.qvel[:] = [0, speed, 0, -speed / BALL_RADIUS, 0, 0]
    counts, depths, forces = [], [], []
    for _ in range(round(0.6 / speed / 0.002)):
        mujoco.mj_step(model, data)
        counts.append(data.ncon)
        depths.append(-min((c.dist for c in data.contact), default=0.0))
        forces.append(data.qfrc_constraint[2] / (4 * 9.81))
    settled = slice(50, None)
    return {"contacts": float(np.mean(counts[settled])), "deepest_mm": float(np.max(depths[settled]) * 1e3),
            "force_jitter": float(np.std(forces[settled])), "speed_left": float(data.qvel[1] / speed)}  # fmt: skip


def drive_slopes(args: Args) -> list[str]:
    """Lines of a table: robots that drive up and down each slope for 8 s at 0.32 m/s."""
    grid = Grid.covering(8.0)
    lines = ["slope   up: upright  m/s   down: upright  m/s"]
    fields = [slope_field(grid, sign * angle) for angle in args.slopes for sign in (1, -1)]
    n, yaws = args.robots, np.random.default_rng(0).uniform(0, 2 * np.pi, args.robots)
    rollers = Rollers(compile_ground(robot_spec(), fields, grid), np.full(n * len(fields), START),
                      np.full(n * len(fields), 0.32), np.tile(yaws, len(fields)), True)  # fmt: skip
    rollers.show(np.repeat(np.arange(len(fields)), n))
    rollers.lift(np.repeat([-float(f.min()) for f in fields], n))
    _, before, _ = rollers.run(4.0)
    _, after, _ = rollers.run(4.0)
    upright = (~rollers.fallen).reshape(-1, 2, n).mean(2)
    pace = ((after - before) / 4.0).reshape(-1, 2, n).mean(2)
    for angle, stands, speed in zip(args.slopes, upright, pace, strict=True):
        lines.append(f"{angle:4.0f}°   {stands[0]:10.0%} {speed[0]:6.2f}   {stands[1]:12.0%} {speed[1]:6.2f}")
    return lines


@program
def main(argv: list[str] | None = None) -> int:
    """Print all tables, and return the exit status."""
    args = parse(Args, argv, __doc__)
    mujoco_patch.ensure()
    for robot in (False, True):
        speeds = args.robot_speeds if robot else args.ball_speeds
        print(f"\n{'robot' if robot else 'ball'}: share that crosses, at {' '.join(f'{s:g}' for s in speeds)} m/s")
        for cell in (None, *args.cells):
            crossed, pace = cross_steps(args, cell, robot)
            print(f"{'true edge' if cell is None else f'cell {cell * 100:.2f} cm'}, {pace:,.0f} steps per CPU second")
            for height, row in zip((*args.heights, *(-h for h in args.heights)), crossed, strict=True):
                print(f"  {height * 1e3:+6.1f} mm  " + " ".join(f"{share:5.2f}" for share in row))
    print("\na ball at 0.5 m/s: contacts, deepest (mm), jitter of the force (of its weight), speed left")
    for cell in (None, *args.cells):
        for height in (0.0, 0.005, 0.01, 0.02):
            m = touch(cell, height, 0.5)
            print(
                f"  {'true' if cell is None else f'{cell * 100:.2f} cm':8} step {height * 1e3:4.1f} mm: "
                f"{m['contacts']:4.1f} {m['deepest_mm']:5.2f} {m['force_jitter']:5.2f} {m['speed_left']:5.2f}"
            )
    print("\n" + "\n".join(drive_slopes(args)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
