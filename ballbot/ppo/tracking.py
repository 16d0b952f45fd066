"""Weights & Biases, for those who want it: the same numbers as in progress.csv."""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ballbot.errors import BallbotError
from ballbot.ppo.checkpoint import write_atomic
from ballbot.ppo.logger import STEP
from ballbot.ppo.run_dir import say

PROJECT = "ballbot"
"""Unless WANDB_PROJECT names another."""


class TrackingError(BallbotError, RuntimeError):
    """Weights & Biases cannot be used; the message says why and what to do."""


def check_installed() -> None:
    """Whether there is wandb.

    Raises:
        TrackingError: there is not.
    """
    if importlib.util.find_spec("wandb") is None:
        raise TrackingError("wandb is missing: pip install wandb, or leave --track out")


class Tracker:
    """A run of Weights & Biases that logs what it is called with.

    It has the name of the run directory, where its own files and its identity are kept: a training that is resumed
    goes on in the same run.  Once started it costs no training: a row that cannot be logged ends it with one line.

    Args:
        run_dir: run directory; need not exist before `start`.
        settings: shown beside the curves.

    Raises:
        TrackingError: wandb is not installed.
    """

    def __init__(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        check_installed()
        self._run_dir, self._settings = run_dir, dict(settings)
        self._run: Any = None
        self._failed = False

    def start(self) -> None:
        """Begin the session; the run directory must exist.

        Raises:
            TrackingError: it cannot start, for want of a login, say.
        """
        identity = self._run_dir / "wandb_id"
        try:
            import wandb

            if not identity.exists():
                write_atomic(identity, secrets.token_hex(4).encode())
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=self._run_dir.name,
                id=identity.read_text().strip(),
                resume="allow",
                dir=self._run_dir,
                config=self._settings,
            )
        except Exception as error:  # whatever its many parts raise
            raise TrackingError(
                f"wandb does not start ({error}): run 'wandb login', or set WANDB_MODE=offline and upload later by "
                "'wandb sync', or leave --track out"
            ) from error

    def __call__(self, row: dict[str, float]) -> None:
        """Log one row, at its global_step; only after `start`."""
        if self._failed:
            return
        try:
            self._run.log({key: value for key, value in row.items() if key != STEP}, step=int(row[STEP]))
        except Exception as error:
            self._fail(error)

    def close(self) -> None:
        """Upload what is left."""
        if self._run is None or self._failed:
            return
        try:
            self._run.finish()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failed = True
        say(
            True,
            f"error: wandb failed ({error}) and is left out from here on; progress.csv has all rows of the training",
        )
