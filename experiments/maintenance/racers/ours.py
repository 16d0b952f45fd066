"""`ballbot.ppo`, as its users run it: `train`, with its logs and checkpoints, without evaluations."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from ballbot.ppo import Hooks, Record, load_policy
from ballbot.ppo import train as learn
from ballbot.ppo.logger import STEP
from racers.snapshots import Job, Snapshot, Snapshots, TimeUp, settings_of


def train(job: Job, folder: Path, began: float) -> list[Snapshot]:
    """Snapshots, which are checkpoints: last.pt, which each update replaces, holds the average that is deployed."""
    settings, run_dir = settings_of(job), folder / "run"

    def write(path: Path) -> bool:
        if (run_dir / "last.pt").exists():
            shutil.copyfile(run_dir / "last.pt", path)
        return path.exists()

    snapshots = Snapshots(job, folder, began, write)
    with suppress(TimeUp):
        learn(
            settings.ppo,
            settings.training_envs,
            run_dir=run_dir,
            structure=settings.structure(),
            record=Record(env_metadata=settings.metadata(), shaped_rewards=settings.shaped_rewards),
            hooks=Hooks(on_log=lambda row: snapshots.tick(int(row[STEP]))),
            console=False,
        )
        snapshots.keep(settings.ppo.total_timesteps)
    # a checkpoint may be some updates older than the row it was copied at
    step_of = partial(load_policy, torch_threads=0)
    return [replace(kept, steps=step_of(folder / kept.file).step) for kept in snapshots.kept]
