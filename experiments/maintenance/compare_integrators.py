"""Which integrator?  Accuracy, energy and balance of Euler, implicitfast and RK4 on the ballbot, side by side.

    python experiments/maintenance/compare_integrators.py        # about a minute; the table in docs/integrators.md

Three measures, the same starts and motor torques for all:

    error      distance of the base from where RK4 with a 32 times smaller step takes it, after 0.1 s of random torques
               that change every 20 ms, median and worst over 64 starts (micrometres)
    energy     the most that kinetic plus potential energy rises above its start in 0.6 s of toppling without motors,
               worst over 64 starts (mJ, of about 10 J); physics allows none
    balance    robots out of 64 that PID control holds up for 3000 steps on the plane, and their tilt (root mean square)

Their cost: ``python experiments/maintenance/benchmark.py --only integrators``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import mujoco
import numpy as np
from numpy.typing import NDArray

import mujoco_patch
from ballbot.cli import check_options, program
from ballbot.controllers import PIDController
from ballbot.envs import BallbotVectorEnv
from ballbot.envs.model import INTEGRATORS, build_model
from ballbot.envs.physics import Physics
from ballbot.envs.terrain import TerrainPool
from ballbot.parsing import parse
from ballbot.settings import Range

Array = NDArray[np.float64]
REFINEMENT = 32
"""Smaller steps of the trajectory that errors are measured against: RK4's own error there is negligible."""


@dataclass
class Args:
    """Compare MuJoCo's integrators on the ballbot."""

    starts: Annotated[int, Range(1, 10**6)] = 64
    """Random starts of every measure."""
    balance_steps: Annotated[int, Range(1, 10**9)] = 3000
    """Steps to balance."""
    seed: Annotated[int, Range(0, 2**30)] = 0
    """Seed of starts and torques."""


def simulations(integrator: str, num: int, seed: int) -> Physics:
    """Robots at rest on the plane, each with its own heading and a lean of up to 3 degrees."""
    sims = Physics(num, TerrainPool("flat"), integrator=integrator, num_threads=1)
    rng = np.random.default_rng(seed)
    for i in range(num):
        yaw, axis = rng.uniform(0, 2 * np.pi, 2)
        sims.place(i, 0, yaw=yaw, tilt=np.radians(3) * rng.random(), tilt_axis=axis)
    return sims


def positions(integrator: str, args: Args, refinement: int = 1) -> Array:
    """(starts, 3) base positions after 0.1 s of the same random torques."""
    sims = simulations(integrator, args.starts, args.seed)
    sims.model.opt.timestep /= refinement
    sims.batch.expand("opt.timestep")[:] = sims.model.opt.timestep
    rng = np.random.default_rng(args.seed + 1)
    for _ in range(5):
        torques = rng.uniform(-2, 2, (args.starts, 3))
        for _ in range(10 * refinement):
            if sims.step(torques) is not None:
                raise RuntimeError(f"a simulation diverged with {integrator}: the errors would mean nothing")
    return sims.robot_state().position.T.copy()


def energy_rise(integrator: str, args: Args) -> float:
    """Most energy, J, that a toppling robot without motors gains."""
    model = build_model(integrator=integrator)
    model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_ENERGY
    sims = simulations(integrator, args.starts, args.seed)
    data, worst = mujoco.MjData(model), 0.0
    for qpos in sims.qpos:
        mujoco.mj_resetData(model, data)
        data.qpos[:] = qpos
        mujoco.mj_forward(model, data)
        start = data.energy.sum()
        for _ in range(300):
            mujoco.mj_step(model, data)
            mujoco.mj_energyPos(model, data)
            mujoco.mj_energyVel(model, data)
            worst = max(worst, data.energy.sum() - start)
    return worst


def balance(integrator: str, args: Args) -> tuple[int, float]:
    """Robots that PID control holds up, and the root mean square of their tilt in degrees."""
    envs = BallbotVectorEnv(
        args.starts,
        terrain="flat",
        integrator=integrator,
        initial_tilt_deg=3.0,
        max_episode_steps=args.balance_steps + 1,
    )
    observations, _ = envs.reset(seed=args.seed)
    control = PIDController(envs.dt)
    stands, began, squares = np.ones(args.starts, bool), np.ones(args.starts, bool), []
    for _ in range(args.balance_steps):
        observations, _, terminated, truncated, infos = envs.step(control(observations, began))
        began = terminated | truncated
        stands &= ~terminated
        squares.append(infos["tilt_deg"][stands] ** 2)
    envs.close()
    return int(stands.sum()), float(np.sqrt(np.concatenate(squares).mean()))


@program
def main(argv: list[str] | None = None) -> int:
    """Measure and print the table."""
    args = parse(Args, argv, __doc__)
    check_options(args)
    mujoco_patch.ensure()
    exact = positions("RK4", args, REFINEMENT)
    print("| integrator | error, median | error, worst | energy rise | balanced | tilt |")
    print("|---|---|---|---|---|---|")
    for name in INTEGRATORS:
        error = np.linalg.norm(positions(name, args) - exact, axis=1) * 1e6
        stood, tilt = balance(name, args)
        rise = energy_rise(name, args) * 1e3
        print(
            f"| {name} | {np.median(error):.2f} µm | {error.max():.2f} µm | {rise:.2f} mJ | {stood} of {args.starts} "
            f"| {tilt:.3f}° |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
