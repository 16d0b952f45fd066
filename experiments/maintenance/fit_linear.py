"""Find the gains of the linear controller by the cross-entropy method, on training terrains.

    python experiments/maintenance/fit_linear.py                     # ten minutes; prints a line a generation

Each generation draws gains around the best ones so far, lets each drive whole episodes on the same terrains and starts,
and keeps the quarter that returned most.  What it ends with is what ``ballbot.controllers.LinearController`` has as
defaults; ``experiments/evaluate.py linear`` judges them on terrains that were not used here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray

from ballbot.cli import check_options, program
from ballbot.controllers import LinearController
from ballbot.envs import BallbotVectorEnv
from ballbot.settings import Range

Array = NDArray[np.float64]

NAMES = ("kp", "kd", "kv", "target_speed")
FIRST = (20.0, 1.5, 0.4, 0.3)
"""Where the search begins."""
SPREAD = 0.4
"""Standard deviation of the first generation's logarithms."""
LEAST_SPREAD = 0.05


@dataclass
class Args:
    """Find the gains of the linear controller."""

    generations: Annotated[int, Range(1, 1000)] = 6
    """How often to draw anew."""
    population: Annotated[int, Range(4, 4096)] = 24
    """Gains a generation."""
    episodes: Annotated[int, Range(1, 4096)] = 16
    """Episodes that each is judged by."""
    horizon: Annotated[int, Range(1, 10**6)] = 4000
    """Steps of an episode."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """Of the draws and of the starts."""
    num_threads: int = 0
    """Threads that simulate (0: every CPU); results do not depend on it."""


def returns(envs: BallbotVectorEnv, gains: Array, episodes: int, seed: int) -> tuple[Array, Array]:
    """Mean return and mean length of an episode, each (population,), of gains (population, 4)."""
    controller = LinearController(envs.dt, *np.repeat(gains, episodes, axis=0).T)
    # the same starts for all
    starts: list[int | None] = [seed + i for i in range(episodes)]
    observations, _ = envs.reset(seed=starts * len(gains))
    total, length = np.zeros(envs.num_envs), np.zeros(envs.num_envs)
    running, began = np.ones(envs.num_envs, bool), np.ones(envs.num_envs, bool)
    while running.any():
        observations, rewards, terminated, truncated, _ = envs.advance(controller(observations, began))
        total += rewards * running
        length += running
        running &= ~(terminated | truncated)
        began[:] = False
    return total.reshape(-1, episodes).mean(axis=1), length.reshape(-1, episodes).mean(axis=1)


@program
def main(argv: list[str] | None = None) -> int:
    """Search, print a line a generation, and return the exit status."""
    args = tyro.cli(Args, args=argv, description=__doc__)
    check_options(args)
    rng = np.random.default_rng(args.seed)
    envs = BallbotVectorEnv(
        args.population * args.episodes, max_episode_steps=args.horizon, num_threads=args.num_threads
    )
    mean, spread = np.log(FIRST), np.full(len(NAMES), SPREAD)
    for generation in range(args.generations):
        drawn = mean + spread * rng.standard_normal((args.population, len(NAMES)))
        drawn[0] = mean
        value, length = returns(envs, np.exp(drawn), args.episodes, args.seed + 10_000 * generation)
        best = np.argsort(-value)[: max(args.population // 4, 2)]
        print(
            f"{generation}: the mean returned {value[0]:.1f}, length {length[0]:.0f}; the best quarter "
            f"{value[best].mean():.1f}, length {length[best].mean():.0f}; now "
            + ", ".join(f"{n} {x:.3g}" for n, x in zip(NAMES, np.exp(drawn[best].mean(axis=0)), strict=True)),
            flush=True,
        )
        mean, spread = drawn[best].mean(axis=0), np.maximum(drawn[best].std(axis=0), LEAST_SPREAD)
    envs.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
