"""How many processors there are to compute with."""

from __future__ import annotations

import os


def usable_cpus() -> int:
    """CPUs this process may use, which containers and batch systems often limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
