"""Scripts of experiments called in this process: a new one takes seconds to import what they need."""

from __future__ import annotations

import contextlib
import importlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from ballbot import plugins


def call(script: str, *options: Any, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What a script prints, and its exit status.  A traceback is raised.

    Args:
        script: such as "evaluate.py" or "maintenance/reproduce.py".
        options: of its command line.
        folder: in which it runs; None for the present one.
    """
    module = importlib.import_module(Path(script).stem)  # conftest.py tells where from
    argv = [f"experiments/{script}", *map(str, options)]
    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    try:
        with (
            contextlib.chdir(folder or Path.cwd()),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.object(sys, "argv", argv),
            own_registries(),
        ):
            status = module.main()
    except SystemExit as stop:
        status = stop.code
    finally:
        torch.set_num_threads(threads)
    return subprocess.CompletedProcess(argv, status or 0, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def own_registries() -> Any:
    """No plugin is loaded at first, and what is loaded is forgotten at the end."""
    before = {name: dict(entries) for name, entries in plugins.REGISTRIES.items()}
    with mock.patch.dict(plugins._loaded, clear=True):
        try:
            yield
        finally:
            for name, entries in plugins.REGISTRIES.items():
                entries.clear()
                entries.update(before[name])
