"""The site is made of pages that exist; `make docs` checks the rest."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def page_of(link: str) -> bool:
    """Whether a page of the site has its source."""
    return any((DOCS / link).with_suffix(kind).is_file() for kind in (".md", ".rst"))


def test_llms_txt_names_pages_that_exist() -> None:
    links = re.findall(r"\]\(([^)]+)\)", (DOCS / "llms.txt").read_text())
    assert len(links) > 10
    for link in links:
        assert link.endswith(".html") and page_of(link), link


@pytest.mark.parametrize("package", ["envs", "ppo", "encoders", "evaluation", "deployment"])
def test_every_package_has_its_reference(package: str) -> None:
    assert f".. automodule:: ballbot.{package}\n" in (DOCS / "api" / f"{package}.rst").read_text()
