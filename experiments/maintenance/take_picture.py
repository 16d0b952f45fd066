"""Take a picture of the robot at the start of an episode.  Needs OpenGL (see check_setup.py) and the extra "plots".

python experiments/maintenance/take_picture.py --out ballbot.png
"""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ballbot.cli import check_options, check_output, program
from ballbot.envs import BallbotEnv
from ballbot.parsing import parse
from ballbot.settings import Range

NUM_TERRAINS = 16
"""Grounds that the seed chooses from: some choice, made in a moment."""


@dataclass
class Args:
    """Take a picture of the robot."""

    out: Path = Path("ballbot.png")
    """File to write."""
    terrain: Literal["perlin", "flat"] = "perlin"
    """Ground."""
    seed: Annotated[int, Range(0, 2**62 - 1)] = 0
    """Seed of the episode: terrain, heading and tilt."""


@program
def main(argv: list[str] | None = None) -> int:
    """Reset, draw, save."""
    args = parse(Args, argv, __doc__)
    check_options(args)
    from matplotlib.image import imsave

    args.out.parent.mkdir(parents=True, exist_ok=True)
    check_output(args.out, "--out", (".png", ".jpg"))
    env = BallbotEnv(terrain=args.terrain, num_terrains=NUM_TERRAINS, render_mode="rgb_array")
    with closing(env):
        env.reset(seed=args.seed)
        picture = env.render()
    assert picture is not None  # since render_mode is "rgb_array"
    imsave(args.out, picture)
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
