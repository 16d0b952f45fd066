from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # lets tests and their subprocesses import toy.py
sys.path.append(str(Path(__file__).parents[2] / "experiments"))  # and compare_sb3.py
# One thread: the networks are too small to gain from more, and equal bits are promised per thread count.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `toy.run` that was never interrupted; to be read or copied, not changed."""
    from toy import run

    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    run(run_dir)
    return run_dir
