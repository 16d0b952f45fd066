"""The README is true: its links lead somewhere, its commands exist, its Python runs."""

import importlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from inprocess import call

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "mujoco_patch" / "README.md",
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    for link in links:
        if not link.startswith("http"):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


@cache
def help_text(script: str) -> str:
    return call(script, "--help").stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_name_scripts_options_and_targets_that_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.split("#")[0]
            for target in re.findall(r"^make ([a-z-]+)", command):
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
            for script in re.findall(r"experiments/((?:maintenance/)?\w+\.py)", command):
                assert (ROOT / "experiments" / script).exists(), script
                options = re.findall(r"--[a-z-]+", command.split(script)[1])
                if options:
                    for option in options:
                        assert option in help_text(script), f"{script} {option}"


def test_the_page_of_kinds_is_what_the_code_has() -> None:
    page = importlib.import_module("make_kinds").page()
    assert page == (ROOT / "docs" / "kinds.md").read_text(), "run experiments/maintenance/make_kinds.py"


@pytest.mark.parametrize("page", ["README.md", "docs/teachers.md"])
def test_python_examples_run(tmp_path: Path, page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert len(blocks) >= 1
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
