"""Train a policy to do what a teacher does, and then, if asked, to do better.

    python experiments/distill.py                                     # from the classical controller "observer"
    python experiments/distill.py --teacher runs/NAME --no-cameras    # from a policy
    python experiments/distill.py --teacher runs/NAME --privileged-fields slope     # it senses more
    python experiments/distill.py --total-timesteps 3000000           # 1.5 million steps of PPO after the imitation
    python experiments/distill.py --resume runs/NAME                  # in whatever stage it was, bit for bit

It is ppo_ballbot.py with other settings to start from (--preset distill): for the first --imitation-timesteps the
student drives, the teacher says what it would have done, and the student learns that (DAgger; Ross et al. 2011,
arXiv:1011.0686); from then on it learns from rewards.
"""

from __future__ import annotations

import sys
from functools import partial

import ppo_ballbot

from ballbot.cli import program
from ballbot.commands import as_called


@partial(program, expected=())
def main(argv: list[str] | None = None) -> int:
    """Train, and return the exit status; exit with 2 on bad input."""
    argv = sys.argv[1:] if argv is None else argv
    given = {argument.split("=")[0] for argument in argv}
    if "--preset" in given:
        print("error: distill.py has settings of its own: leave --preset out, or use ppo_ballbot.py", file=sys.stderr)
        return 2
    own = bool({"--resume", "--config"} & given)
    if {"-h", "--help"} & set(argv):
        print(as_called(__doc__ or ""))
    status: int = ppo_ballbot.main(argv if own else ["--preset", "distill", *argv], taught_only=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
