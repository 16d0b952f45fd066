"""How long fields take to make, and a pool of all kinds with its model.

    python experiments/maintenance/time_terrains.py

A field should take at most 20 ms, and 256 of them with everything else at most 5 s, on one core.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from ballbot.cli import check_options, program
from ballbot.envs.terrain import CELL, TERRAINS, Grid, TerrainPool
from ballbot.parsing import parse
from ballbot.settings import Range


@dataclass
class Args:
    """Time the making of terrains."""

    length: Annotated[float, Range(1, 100)] = 10.0
    """Side of the fields, m."""
    repeats: Annotated[int, Range(1, 1000)] = 10
    """Fields of each kind."""
    num_terrains: Annotated[int, Range(1, 4096)] = 256
    """Fields of the mixed pool."""


@program
def main(argv: list[str] | None = None) -> int:
    """Print ms of CPU time a field, at each kind's own cell and at that of the mixture, and seconds for the pool."""
    args = parse(Args, argv, __doc__)
    check_options(args)
    mixed = TerrainPool("mixed", num=1, length=args.length).grid
    print("kind                own cell   ms   mixture's   ms")
    for kind, made in TERRAINS.items():
        if kind in ("file", "mixed"):
            continue
        terrain, times = made(), []
        own = Grid.covering(args.length, getattr(made, "cell", CELL))
        for grid in (own, mixed):
            terrain.make(np.random.default_rng(0), grid, 1.0)  # what is computed once
            begun = time.process_time()
            for k in range(args.repeats):
                terrain.make(np.random.default_rng(k), grid, 1.0)
            times.append((time.process_time() - begun) / args.repeats * 1e3)
        print(f"{kind:18} {own.cell * 100:6.2f} cm {times[0]:5.1f} {mixed.cell * 100:8.2f} cm {times[1]:5.1f}")
    begun = time.process_time()
    pool = TerrainPool("mixed", num=args.num_terrains, length=args.length)
    spent = time.process_time() - begun
    print(f"{len(pool)} fields of {pool.grid.size} x {pool.grid.size} vertices: {spent:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
