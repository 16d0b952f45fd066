"""Say what an encoder's numbers know of the ground: height and slope ahead by linear probes, heights all around too.

    python experiments/probe_encoder.py --data data/depth --encoder encoder.pt
    python experiments/probe_encoder.py --data data/depth                          # the one that comes with ballbot

R² on terrains the probes were not fitted on.  For what an encoder was never trained on either, take the data set that
it was trained on, whose terrains are parted here as they were in training, or one of other terrains altogether.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from ballbot.cli import program
from ballbot.encoders import encoder_file, load_encoder
from ballbot.encoders.dataset import DepthDataset
from ballbot.encoders.probe import DISTANCES, probe
from ballbot.envs.observations import SCAN_RADII
from ballbot.parsing import parse

FEW_IMAGES = 20_000


@dataclass
class Args:
    """Probe an encoder."""

    data: Path = Path("data/depth")
    """Folder of a data set."""
    encoder: Path | None = None
    """File of the encoder (default: the one that comes with ballbot for the cameras of the data)."""


@program
def main(argv: list[str] | None = None) -> int:
    """Probe, and return the exit status."""
    args = parse(Args, argv, __doc__)
    data = DepthDataset(args.data)
    encoder = load_encoder(args.encoder or encoder_file(data.card["provenance"].get("rig") or {}))
    config = encoder.card.get("config")
    config = config if isinstance(config, dict) else {}
    validation, seed = config.get("validation", 0.15), config.get("seed", 0)
    if not (isinstance(validation, float) and 0 < validation < 1 and type(seed) is int and seed >= 0):
        raise ValueError(f"the encoder's card is damaged (validation {validation!r}, seed {seed!r}): copy it again")
    if len(data) < FEW_IMAGES:
        print(f"note: {len(data):,} images are too few to say much: collect {FEW_IMAGES:,}", file=sys.stderr)
    probes, around = probe(data, encoder, validation, seed)
    print(f"| R² at | {' | '.join(f'{d} m' for d in DISTANCES)} |")
    print("|---|" + "---|" * len(DISTANCES))
    for result in probes:
        for name, values in (("height", result.height), ("slope", result.slope)):
            print(f"| {name} {result.direction} from {result.inputs} | {' | '.join(f'{x:.2f}' for x in values)} |")
    print(f"\n| R² of heights all around at | {' | '.join(f'{r} m' for r in SCAN_RADII)} |")
    print("|---|" + "---|" * len(SCAN_RADII))
    for found in around:
        print(f"| from {found.inputs}, by a {found.by} | {' | '.join(f'{x:.2f}' for x in found.height)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
