"""Put a trained policy among those that come with ballbot, with a card.

    python experiments/maintenance/ship_policy.py runs/NAME --name default

Copies the run's best.pt, or its last.pt, to ballbot/assets/policy_<name>.pt and judges it as ``evaluate.py`` does, on
100 terrains that neither training nor the choice of best.pt has used.  The card, policy_<name>.json, says what came out
and how the policy was trained.  Then ``evaluate.py``, ``watch.py`` and ``export_policy.py`` use it by its name.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from reproduce import JUDGED, OF_SOME_TASKS
from shared import EXPERIMENTS, MACHINE

from ballbot.cli import program
from ballbot.controllers import CONTROLLERS
from ballbot.deployment.shipped import ASSETS
from ballbot.encoders import find_encoder
from ballbot.options import plain
from ballbot.parsing import parse
from ballbot.ppo import load_policy
from ballbot.ppo.checkpoint import load_checkpoint, save_checkpoint, write_atomic
from ballbot.presets import OWN
from ballbot.runs import load_settings, read_config

sys.path.append(str(EXPERIMENTS))
import evaluate

LARGEST = 2_000_000
"""Bytes of a policy that everybody downloads."""
KEPT = ("format_version", "config", "spaces", "env_metadata", "policy", "global_step")
"""Of a checkpoint, without what only training needs."""


@dataclass
class Args:
    """Put a trained policy among those that come with ballbot."""

    run: Annotated[Path, tyro.conf.Positional]
    """Its run folder."""
    name: str = "default"
    """How evaluate.py and the others will call it."""
    policy: Literal["best", "last"] = "best"
    """Which of the run's: the one that did best in a world as it is meant, or the last."""


def where_from(origin: dict[str, Any]) -> dict[str, Any]:
    """What a run's config.json says of the policy that it began from, without folders of this machine."""
    return {"run": Path(origin["path"]).resolve().parent.name, "step": origin["step"], "sha256": origin["sha256"]}


def ship(args: Args) -> None:
    """Judge, then write both files.

    Raises:
        ValueError, CheckpointError, EncoderError, OSError: it cannot be shipped.
    """
    if not re.fullmatch(r"[a-z0-9_]+", args.name) or args.name in CONTROLLERS:
        raise ValueError(f"--name {args.name!r} must be of small letters, digits and _, and no classical controller's")
    policy = load_policy(args.run / f"{args.policy}.pt")
    assert policy.path is not None
    state = load_checkpoint(policy.path)
    if (encoder := policy.metadata.get("encoder")) is not None:
        find_encoder(encoder)  # one that comes with ballbot, or an error
    config = read_config(args.run / "config.json")
    loaded = load_settings(args.run / "config.json")
    settings = loaded.settings
    with tempfile.TemporaryDirectory() as folder:
        found, alone = Path(folder) / "found.json", Path(folder) / "policy.pt"
        if state["kind"] == "policy":
            alone = policy.path
        else:
            save_checkpoint([alone], {name: state[name] for name in KEPT} | {"kind": "policy"})
        content = alone.read_bytes()
        if len(content) > LARGEST:
            raise ValueError(
                f"{policy.path} has a policy of {len(content)} bytes, more than {LARGEST}: train a smaller one"
            )
        if evaluate.main([str(alone), "--json", str(found), "--num-threads", "1"]) == 2:
            raise ValueError("it cannot be judged")
        summary = json.loads(found.read_text())
    card = {
        "name": args.name,
        "run": args.run.resolve().name,
        "steps": policy.step,
        "seed": settings.ppo.seed,
        "commit": config.get("git_commit"),
        **({"init_from": where_from(config["init_from"])} if config.get("init_from") else {}),
        "versions": {**(config.get("versions") or {}), "mujoco": config.get("mujoco")},
        "sha256": hashlib.sha256(content).hexdigest(),
        "evaluation": {
            "command": f"python experiments/evaluate.py {args.name}",
            "terrain": summary["terrain"],
            "episodes": summary["options"]["episodes"],
            "machine": MACHINE,
            **{key: summary[key] for key in JUDGED if key in summary or key not in OF_SOME_TASKS},
        },
        "config": {
            "ppo": asdict(settings.ppo),
            "env": plain(settings.world),
            **{name: getattr(settings, name) for name in OWN},
        },
    }
    write_atomic(ASSETS / f"policy_{args.name}.pt", content)  # the test of cards finds an older card beside it
    write_atomic(ASSETS / f"policy_{args.name}.json", (json.dumps(card, indent=2) + "\n").encode())
    print(f"wrote {ASSETS / f'policy_{args.name}.pt'}, {len(content) / 1024:.0f} KiB, and its card")


@program
def main(argv: list[str] | None = None) -> int:
    """Ship, and return the exit status."""
    ship(parse(Args, argv, __doc__))
    return 0


if __name__ == "__main__":
    sys.exit(main())
