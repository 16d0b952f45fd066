"""docs/kinds.md says what the code says, and everything registered explains itself."""

from __future__ import annotations

import importlib
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ballbot.envs import COMMANDS, ENDINGS, REWARDS, TERRAINS
from ballbot.options import first_line
from ballbot.parsing import field_docs

ROOT = Path(__file__).parents[1]


def test_the_page_of_kinds_is_what_the_code_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "experiments" / "maintenance"))
    monkeypatch.delitem(sys.modules, "make_kinds", raising=False)
    page = importlib.import_module("make_kinds").page()
    made = (ROOT / "docs" / "kinds.md").read_text()
    assert page == made, "run python experiments/maintenance/make_kinds.py"


@pytest.mark.parametrize(("registry", "name"), [(r, n) for r in (TERRAINS, COMMANDS) for n in r])
def test_every_kind_and_each_of_its_options_is_explained(registry: dict[str, Any], name: str) -> None:
    cls = registry[name]
    assert len(first_line(cls)) > 20
    docs = field_docs(cls)
    for f in fields(cls):
        assert not f.init or len(docs.get(f.name, "")) > 5, f"{name}.{f.name}"


@pytest.mark.parametrize("name", [*REWARDS, *ENDINGS])
def test_every_term_and_ending_is_explained(name: str) -> None:
    term = REWARDS[name] if name in REWARDS else ENDINGS[name]
    assert len(first_line(term)) > 10
