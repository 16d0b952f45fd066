"""Take a picture of the robot at the start of an episode.  Needs OpenGL (see check_setup.py) and the extra "plots".

python experiments/take_picture.py --out ballbot.png
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ballbot.envs import BallbotEnv

NUM_TERRAINS = 16
"""Grounds that the seed chooses from: some choice, made in a moment."""


@dataclass
class Args:
    """Take a picture of the robot."""

    out: Path = Path("ballbot.png")
    """File to write."""
    terrain: Literal["perlin", "flat"] = "perlin"
    """Ground."""
    seed: int = 0
    """Seed of the episode: terrain, heading and tilt."""


def main() -> None:
    """Reset, draw, save."""
    args = tyro.cli(Args, description=__doc__)
    if args.seed < 0:
        print(f"error: --seed {args.seed} is negative: use 0 or more", file=sys.stderr)
        raise SystemExit(2)
    env = BallbotEnv(terrain=args.terrain, num_terrains=NUM_TERRAINS, render_mode="rgb_array")
    env.reset(seed=args.seed)
    try:
        picture = env.render()
        from matplotlib.image import imsave
    except ImportError:
        raise SystemExit("error: pictures need matplotlib: pip install matplotlib") from None
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        env.close()
    assert picture is not None  # since render_mode is "rgb_array"
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        imsave(args.out, picture)
    except (OSError, ValueError, KeyError) as error:  # a KeyError from Pillow: a kind of picture it does not know
        print(f"error: cannot write --out {args.out} ({error}): give a .png in a folder you may write", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
