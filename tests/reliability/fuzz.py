"""Feed loaders with what atheris makes up, guided by the branches that it reaches.

    python tests/reliability/fuzz.py checkpoint -runs=100000  # or training, encoder, config, log, card

Every input must be understood or refused by the loader's own error; anything else ends the run and keeps the input.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

sys.path.append(str(Path(__file__).parents[2] / "experiments"))
sys.path.append(str(Path(__file__).parents[1] / "ppo"))

INSTRUMENTED = ["archive", "checkpoint", "state", "logger"]
with atheris.instrument_imports(
    include=[*(f"ballbot.ppo.{name}" for name in INSTRUMENTED), "ballbot.encoders", "ballbot.runs"]
):
    from toy import BATCH, run

    from ballbot.deployment.shipped import SHIPPED
    from ballbot.encoders import EncoderError, load_encoder
    from ballbot.encoders.dataset import DatasetError, DepthDataset
    from ballbot.encoders.frozen import DEFAULT_ENCODER
    from ballbot.ppo import CheckpointError, RunDirectoryError, load_policy
    from ballbot.ppo.logger import Logger
    from ballbot.runs import load_settings

FOLDER = Path(tempfile.mkdtemp())


def program_in(archive: Path) -> Callable[[bytes], bytes]:
    """A file like this one, but for the pickle, which is the input: under a right checksum it is always read."""
    with zipfile.ZipFile(archive) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    program = next(name for name in parts if name.endswith("data.pkl"))

    def build(data: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for name, content in parts.items():
                file.writestr(name, data if name == program else content)
        return buffer.getvalue()

    build.seed = parts[program]  # type: ignore[attr-defined]
    return build


def same(data: bytes) -> bytes:
    return data


def read_log(path: Path) -> None:
    Logger(FOLDER, 10**9, console=False)
    for events in FOLDER.glob("events*"):
        events.unlink()


def finished() -> Path:
    """A training's last checkpoint."""
    run(FOLDER / "whole", total_timesteps=2 * BATCH)
    return FOLDER / "whole" / "last.pt"


def resume(path: Path) -> None:
    run(FOLDER / "resumed", resume=path, total_timesteps=2 * BATCH)


TARGETS: dict[str, tuple[str, Callable[[bytes], bytes], Callable[[Path], Any]]] = {
    "checkpoint": ("p.pt", program_in(SHIPPED["default"]), load_policy),
    "training": ("t.pt", program_in(finished()), resume),
    "encoder": ("e.pt", program_in(DEFAULT_ENCODER), load_encoder),
    "config": ("config.json", same, load_settings),
    "log": ("progress.csv", same, read_log),
    "card": ("card.json", same, lambda path: DepthDataset(path.parent)),
}


SOUND = {
    "config.json": b'{"ppo": {"seed": 1}, "env": {"terrain": "flat"}}',
    "progress.csv": b"global_step,charts/SPS\n64,1.0\n128,2.0\n",
    "card.json": b'{"format_version": 1, "shape": [4, 4], "max_depth": 1.0, "num_images": 0, "provenance": {}}',
}
"""What to begin with."""


def main() -> None:
    """Fuzz the target that the first argument names."""
    name, build, read = TARGETS[sys.argv.pop(1)]
    path = FOLDER / name
    seeds = FOLDER / "seeds"
    seeds.mkdir()
    (seeds / "sound").write_bytes(getattr(build, "seed", SOUND.get(name, b"")))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # notes about what is read

    def one(data: bytes) -> None:
        path.write_bytes(build(data))
        try:
            read(path)
        except (CheckpointError, EncoderError, DatasetError, RunDirectoryError, ValueError) as error:
            assert str(error)

    atheris.Setup([*sys.argv, "-rss_limit_mb=4096", "-timeout=20", str(seeds)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
