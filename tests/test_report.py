# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""evaluate.py --report: a page that needs nothing but itself."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from policies import save_policy

pytest.importorskip("matplotlib")
SCRIPT = Path(__file__).parents[1] / "experiments" / "evaluate.py"
VOID = {"meta", "img", "link", "br"}


class Page(HTMLParser):
    """Notes tags, ids and what is pointed to, and checks that all tags are closed."""

    def __init__(self, text):
        super().__init__()
        self.open: list[str] = []
        self.tags, self.ids, self.targets = [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href"):
                self.targets.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("terrain", ["perlin", "flat"])
def test_a_report_is_one_page_that_needs_no_network(tmp_path, terrain):
    save_policy(tmp_path / "a<b.pt", terrain=terrain)
    options = ["a<b.pt", "--compare", "pid", "--episodes", "4", "--horizon", "60", "--num-terrains", "2"]
    texts = []
    for folder in ("one", "two"):
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *options, "--num-threads", "1", "--report", folder],
            cwd=tmp_path, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        texts.append((tmp_path / folder / "report.html").read_text())
        assert [p.name for p in (tmp_path / folder).iterdir()] == ["report.html"]
    text = texts[0]
    page = Page(text)
    assert page.tags.count("svg") == 4 and page.tags.count("table") == 1
    assert len(page.ids) == len(set(page.ids))
    assert all(target.startswith(("#", "data:")) for target in page.targets)
    assert {t[1:] for t in page.targets if t[0] == "#"} <= set(page.ids)
    assert not re.search(r"url\((?!#)", text) and "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert "a&lt;b.pt" in text and "speed along the goal" in text
    assert "currentColor" in text and "prefers-color-scheme" in text and "#010203" not in text
    plots = [re.findall(r"<svg.*?</svg>", t, re.DOTALL) for t in texts]
    assert plots[0] == plots[1]
