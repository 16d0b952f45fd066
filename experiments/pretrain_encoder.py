"""Pretrain the encoder of depth images on a data set that collect_depth.py made.

    python experiments/pretrain_encoder.py --data data/depth --out encoder.pt
    python experiments/pretrain_encoder.py --data data/depth --out encoder.pt --resume
    tensorboard --logdir runs
    python experiments/ppo_ballbot.py --encoder encoder.pt

Ctrl-C loses at most the epoch under way; --resume goes on with the same numbers as if it had never stopped.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from ballbot.cli import check_options, check_output, program
from ballbot.encoders.dataset import DepthDataset
from ballbot.encoders.pretrain import PretrainConfig, pretrain
from ballbot.parsing import parse
from ballbot.settings import Range


@dataclass
class Args:
    """Pretrain the encoder."""

    data: Path = Path("data/depth")
    """Folder of the data set."""
    out: Path = Path("encoder.pt")
    """File of the encoder; it holds the best one so far."""
    settings: Annotated[PretrainConfig, tyro.conf.arg(name="")] = field(default_factory=PretrainConfig)
    run_name: str | None = None
    """Folder under runs/ for TensorBoard and what --resume goes on from (default: the name of --out)."""
    resume: bool = False
    """Go on with a training that was stopped."""
    torch_threads: Annotated[int, Range(0, 1024)] = 1
    """Threads of PyTorch (0: its choice).  With more than one, any other program on the machine makes it several times
    slower, as they wait for each other in busy loops."""


@program
def main(argv: list[str] | None = None) -> int:
    """Train, and return the exit status."""
    args = parse(Args, argv, __doc__)
    check_options(args)
    if args.torch_threads:
        torch.set_num_threads(args.torch_threads)
    name = args.out.stem if args.run_name is None else args.run_name
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise ValueError(f"--run-name {name!r} must be a plain folder name: it is created under runs/")
    log_dir = Path("runs") / name
    if not args.resume and (log_dir / "training.pt").exists():
        raise ValueError(f"{log_dir} holds a training already: use --resume to go on, or another --run-name")
    if not args.resume and args.out.exists():
        raise ValueError(f"--out {args.out} exists already: choose another file")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    check_output(args.out, "--out")
    try:
        encoder = pretrain(
            DepthDataset(args.data), args.settings, args.out, log_dir, args.resume, lambda line: print(line, flush=True)
        )
    except KeyboardInterrupt:
        begun = (log_dir / "training.pt").exists()
        print("stopped; --resume goes on" if begun else "stopped before the first epoch: start again")
        return 130
    rms = 1e3 * encoder.card["validation_mse_m2"] ** 0.5
    print(f"{args.out}: root mean square error {rms:.2f} mm on terrains never trained on, {encoder.content_hash[:16]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
