"""What programs for maintainers share: places, targets, tables in files, checks of options."""

from __future__ import annotations

import csv
import io
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from ballbot.cpus import usable_cpus
from ballbot.ppo.checkpoint import write_atomic
from ballbot.settings import nearest

EXPERIMENTS = Path(__file__).resolve().parents[1]
PUBLISHED = EXPERIMENTS.parent / "results"
"""The curves, evaluations and tables that docs/results.md is made of."""
MACHINE = f"{platform.machine()}, {usable_cpus()} CPUs"
CheckoutPath = Annotated[
    Path, tyro.conf.arg(help_behavior_hint=lambda path: f"(default: {_in_checkout(path)} of this checkout)")
]
"""Type of an option whose default lies in this checkout, wherever that is."""
TARGET_RETURN, TARGET_LENGTH = 85.5, 3950.0
"""Of a policy that can do the task: what Salehi 2025 reports as the median of the best evaluations, and a length that
leaves no room for falls."""


def _in_checkout(path: str) -> str:
    return Path(path).relative_to(EXPERIMENTS.parent).as_posix()


def read_table(
    path: Path, columns: Sequence[str], numbers: Mapping[str, Callable[[str], float]] | None = None
) -> list[dict[str, Any]]:
    """The rows of a CSV file; none if it does not exist, or is empty.

    Args:
        path: the file.
        columns: that it must have, in this order.
        numbers: column -> int or float; the others stay text.

    Raises:
        ValueError: it is another table, or has a line that cannot be read; the message names file and line.
    """
    if not path.is_file() or not path.stat().st_size:
        return []
    try:  # strict: a line that was cut off within quotes is no whole one
        lines = csv.reader(io.StringIO(path.read_bytes().decode(), newline=""), strict=True)
        if next(lines, []) != list(columns):
            raise ValueError(f"its columns must be {', '.join(columns)}")
    except (csv.Error, ValueError) as error:
        raise ValueError(
            f"{path} is not a table of this script ({error}): give another file, or move it away"
        ) from error
    rows: list[dict[str, Any]] = []
    number = lines.line_num + 1
    try:
        for values in lines:
            if values:  # an empty line is no row
                rows.append(_row(values, columns, numbers or {}))
            number = lines.line_num + 1
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{path}, line {number}: {error}; mend or delete that line") from error
    return rows


def _row(values: list[str], columns: Sequence[str], numbers: Mapping[str, Callable[[str], float]]) -> dict[str, Any]:
    if len(values) != len(columns):
        raise ValueError(f"it has {len(values)} values, not {len(columns)}")
    row = dict(zip(columns, values, strict=True))
    return row | {name: kind(row[name]) for name, kind in numbers.items()}


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a CSV file by these rows; a crash leaves the old one."""
    write_atomic(path, _as_csv(columns, rows, head=True).encode())


def append_row(path: Path, row: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Write a row beneath those that are there; what others write at the same time stays, too."""
    with open(path, "a+b") as file:  # whatever was read, writing is at the end
        empty = file.seek(0, os.SEEK_END) == 0
        if not empty:
            file.seek(-1, os.SEEK_END)
        ended = empty or file.read(1) == b"\n"  # editors may leave out the last line's end
        file.write(("" if ended else "\n").encode() + _as_csv(columns, [row], head=empty).encode())


def _as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], head: bool) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    if head:
        writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def check_names(option: str, names: Iterable[str], known: Iterable[str]) -> None:
    """ValueError for a name that is not known."""
    known = tuple(known)
    for name in names:
        if name not in known:
            raise ValueError(f"{option} {name} is unknown: {nearest(name, known)}")


def check_seeds(seeds: Iterable[int]) -> None:
    """ValueError for a seed that is none."""
    for seed in seeds:
        if not 0 <= seed < 2**31:
            raise ValueError(f"--seeds {seed} is out of range: use 0 to {2**31 - 1}")


def check_each_once(option: str, values: Sequence[object]) -> None:
    """ValueError if there is no value, or one twice."""
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{option} needs at least one value, and each once")
