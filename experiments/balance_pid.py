"""Balance the robot by three lines of classical control: the sanity check before any learning.

Two PID controllers, one for pitch and one for roll, turn the tilt of the base into a horizontal push, and
the three wheels share it out. With aligned wheel contacts that is enough to stand on flat ground. On stock
MuJoCo, whose contact frames ignore the wheels' axles, the same controller falls within a second: so if this
script fails, nothing that is learned afterwards can be trusted.

    python experiments/balance_pid.py                      # headless; says "balanced" and exits with 0
    python experiments/balance_pid.py --no-contact-fix     # stock MuJoCo: says "fell" and exits with 1
    python experiments/balance_pid.py --render             # watch it, in real time (needs a display)
    python experiments/balance_pid.py --integrator RK4 --num-envs 20

Exit status: 0 every robot stood for all steps, 1 a robot fell or left the terrain, 2 bad input.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from ballbot.cli import check_options, program
from ballbot.controllers import PIDController
from ballbot.envs import BallbotVectorEnv
from ballbot.parsing import parse
from ballbot.settings import Range

Array = NDArray[np.float64]

MAX_SETPOINT_DEG = 20.0
"""The environment calls a larger tilt a fall."""
PAUSES_PER_SECOND = 60
"""How often the viewer waits for the clock: as often as screens show a new picture."""


@dataclass
class Args:
    """Balance the robot by PID control and say whether it stood."""

    steps: Annotated[int, Range(1, 10**9)] = 3000
    """How long to balance, in steps of 2 ms."""
    num_envs: Annotated[int, Range(1, 10**5)] = 1
    """Robots, each with its own start; all have to stand."""
    seed: Annotated[int, Range(0, 2**30)] = 0
    """Seed of the starts; robot i has seed + i."""
    terrain: Literal["flat", "perlin"] = "flat"
    """Endless plane or uneven ground. The gains are for the plane; uneven ground is beyond them."""
    integrator: Literal["Euler", "implicitfast", "RK4"] = "Euler"
    """MuJoCo's integrator."""
    contact_fix: bool = True
    """Align contact frames with the wheels' axles; --no-contact-fix shows stock MuJoCo."""
    setpoint_pitch_deg: Annotated[float, Range(-MAX_SETPOINT_DEG, MAX_SETPOINT_DEG)] = 0.0
    """Pitch to hold, degrees; the robot speeds up along its x axis until the motors can no more."""
    setpoint_roll_deg: Annotated[float, Range(-MAX_SETPOINT_DEG, MAX_SETPOINT_DEG)] = 0.0
    """Roll to hold, degrees; the robot speeds up along its y axis until the motors can no more."""
    kp: float = 20.0
    """Proportional gain, action per rad."""
    ki: float = 15.0
    """Integral gain, action per rad s."""
    kd: float = 2.0
    """Derivative gain, action per rad/s."""
    render: bool = False
    """Show the first robot in MuJoCo's viewer, in real time."""


def balance(args: Args) -> tuple[NDArray[np.int64], NDArray[np.bool_], Array]:
    """Run the controller.

    Returns:
        for each robot: steps it stood, whether it fell (else it reached the end or left the terrain), and
        its largest tilt in degrees.
    """
    envs = BallbotVectorEnv(
        args.num_envs,
        terrain=args.terrain,
        integrator=args.integrator,
        contact_fix=args.contact_fix,
        max_episode_steps=args.steps + 1,
        render_mode="human" if args.render else None,
    )
    try:
        setpoint = np.radians([[args.setpoint_pitch_deg], [args.setpoint_roll_deg]])
        controller = PIDController(envs.dt, args.kp, args.ki, args.kd, setpoint)
        observations, _ = envs.reset(seed=args.seed)
        stood = np.full(args.num_envs, args.steps)
        fell = np.zeros(args.num_envs, bool)
        standing, began = ~fell, ~fell
        max_tilt = np.zeros(args.num_envs)
        pause = max(round(1 / PAUSES_PER_SECOND / envs.dt), 1)
        start = time.perf_counter()
        for step in range(1, args.steps + 1):
            observations, _, terminated, truncated, infos = envs.step(controller(observations, began))
            began = terminated | truncated
            ended = standing & began
            tilt_deg = infos["final_info"]["tilt_deg"] if ended.any() else infos["tilt_deg"]
            max_tilt = np.where(standing, np.maximum(max_tilt, tilt_deg), max_tilt)
            stood[ended] = step
            fell |= ended & terminated
            standing &= ~ended
            if not standing.any():
                break
            if args.render and step % pause == 0:  # the environment draws by itself
                time.sleep(max(start + step * envs.dt - time.perf_counter(), 0.0))
    finally:
        envs.close()
    return stood, fell, max_tilt


@program
def main(argv: list[str] | None = None) -> int:
    """Balance, print one line, and return the exit status."""
    args = parse(Args, argv, __doc__)
    check_options(args)
    stood, fell, max_tilt = balance(args)
    balanced = (stood == args.steps) & ~fell
    setting = f"{args.terrain} ground, {args.integrator}, contact fix {'on' if args.contact_fix else 'OFF'}"
    if balanced.all():
        robots = "" if args.num_envs == 1 else f" by all {args.num_envs} robots"
        print(f"balanced for {args.steps} steps{robots}, largest tilt {max_tilt.max():.2f} deg ({setting})")
        return 0
    if args.num_envs == 1:
        print(f"{'fell' if fell[0] else 'left the terrain'} after {stood[0]} of {args.steps} steps ({setting})")
    else:
        left = (~balanced & ~fell).sum()
        print(
            f"{fell.sum()} of {args.num_envs} robots fell, {left} left the terrain, the first after "
            f"{stood.min()}, the median after {np.median(stood):.0f} of {args.steps} steps ({setting})"
        )
    return 1


if __name__ == "__main__":
    sys.exit(main())
