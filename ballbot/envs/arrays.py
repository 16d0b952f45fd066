"""Sums and choices of arrays with a column or a row a robot."""

from __future__ import annotations

from typing import Any

import numpy as np

from ballbot.envs.step import Array, Bools


def weighed(names: tuple[str, ...], weights: dict[str, float]) -> tuple[Any, Array]:
    """Which of the named terms weigh something, to index them, and (terms, 1) how much."""
    rows: Any = [names.index(name) for name in weights]
    if rows == list(range(len(names))):
        rows = slice(None)  # all of them, without a copy
    return rows, np.array(list(weights.values()), np.float64)[:, None]


def summed(rows: Array) -> Array:
    """(n,) sums of (terms, n), one after the other: NumPy's own sum adds in another order for a single robot."""
    total = np.zeros(rows.shape[1]) if len(rows) == 0 else rows[0]
    for row in rows[1:]:
        total = total + row
    return total


def rows(mask: Bools, these: Any, others: Any) -> Any:
    """Rows of arrays, or of all arrays in a dict: these where the mask is set, the others, if any, elsewhere."""
    if isinstance(these, dict):
        return {name: rows(mask, these[name], others.get(name, these[name])) for name in these}
    return np.where(mask.reshape(-1, *(1,) * (these.ndim - 1)), these, others)
