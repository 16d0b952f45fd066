from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))  # lets tests and their subprocesses import toy.py
# One thread: the networks are too small to gain from more, and equal bits are promised per thread count.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
