"""Tables of the programs for maintainers: what is written is read again, and what is damaged is named."""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

MAINTENANCE = Path(__file__).parents[1] / "experiments" / "maintenance"
COLUMNS = ("task", "seed", "machine")
FIRST = {"task": "a", "seed": 0, "machine": "x86_64, 2 CPUs"}
SECOND = {"task": "b", "seed": 1, "machine": 'one "core"\nof two'}


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(MAINTENANCE))
    return importlib.import_module("shared")


def test_rows_that_are_appended_are_read_again(shared: ModuleType, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    assert shared.read_table(table, COLUMNS) == []
    table.touch()
    assert shared.read_table(table, COLUMNS) == []
    for row in (FIRST, SECOND):
        shared.append_row(table, row, COLUMNS)
    assert table.read_text().startswith('task,seed,machine\na,0,"x86_64, 2 CPUs"\nb,1,')
    assert shared.read_table(table, COLUMNS, {"seed": int}) == [FIRST, SECOND]
    assert shared.read_table(table, COLUMNS)[0] == FIRST | {"seed": "0"}


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_a_row_begins_a_line_however_the_last_one_ended(shared: ModuleType, tmp_path: Path, end: str) -> None:
    table = tmp_path / "table.csv"
    table.write_bytes(b'task,seed,machine\na,0,"x86_64, 2 CPUs"' + end.encode())
    shared.append_row(table, SECOND, COLUMNS)
    assert shared.read_table(table, COLUMNS, {"seed": int}) == [FIRST, SECOND]


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ('b,1,"two\nlines"\nc,2', "line 5: it has 2 values, not 3; mend or delete that line"),
        ('b,1,"x86_64, 2 C', "line 3: unexpected end of data"),
        ("b,1,x,y\nc,2,z\n", "line 3: it has 4 values, not 3"),
        ("\nb,one,x\n", "line 4: invalid literal for int"),
    ],
)
def test_a_damaged_line_is_named(shared: ModuleType, tmp_path: Path, rest: str, message: str) -> None:
    table = tmp_path / "table.csv"
    table.write_text(f"task,seed,machine\na,0,x\n{rest}")
    with pytest.raises(ValueError, match="table.csv, " + message):
        shared.read_table(table, COLUMNS, {"seed": int})


@pytest.mark.parametrize("content", [b"\n", b"seed,task,machine\n0,a,x\n", b"\xff\xfe\x00", b"task,seed\n"])
def test_another_table_is_refused(shared: ModuleType, tmp_path: Path, content: bytes) -> None:
    table = tmp_path / "table.csv"
    table.write_bytes(content)
    with pytest.raises(ValueError, match=r"table.csv is not a table of this script \(.*: give another file"):
        shared.read_table(table, COLUMNS)


def test_rows_that_are_written_at_the_same_time_all_stay(shared: ModuleType, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    shared.append_row(table, FIRST, COLUMNS)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: shared.append_row(table, SECOND | {"seed": seed}, COLUMNS), range(400)))
    rows = shared.read_table(table, COLUMNS, {"seed": int})
    assert sorted(row["seed"] for row in rows[1:]) == list(range(400))
