"""How many threads PyTorch computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let PyTorch compute with `number` threads (0: as many as it does anyway) within a `with` block.

    The count from before is put back, whatever happens; both take a fraction of a microsecond.
    """
    before = torch.get_num_threads()
    if number and number != before:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
