# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""evaluate.py --report: a page that needs nothing but itself."""

import base64
import errno
import html
import importlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inprocess import call
from policies import save_policy
from webclient import find_browser

from ballbot.evaluation import Episodes, report

pytest.importorskip("matplotlib")
SCRIPT = Path(__file__).parents[2] / "experiments" / "evaluate.py"
COLOURS = {
    "light": ("rgb(26, 26, 26)", "rgb(255, 255, 255)"),
    "dark": ("rgb(232, 232, 232)", "rgb(22, 24, 28)"),
}
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


@pytest.fixture(scope="module")
def filmed_report(tmp_path_factory):
    """A report, with films where there is OpenGL."""
    folder = tmp_path_factory.mktemp("filmed")
    save_policy(folder / "p.pt", terrain="perlin")
    options = ["p.pt", "--episodes", "4", "--horizon", "60", "--num-terrains", "2", "--num-threads", "1"]
    return report_with_films(folder, options)


def report_with_films(folder, options):
    text = ""
    for kind in dict.fromkeys((os.environ.get("MUJOCO_GL") or "egl", "egl", "osmesa")):
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *options, "--report", "report"],
            cwd=folder, env=os.environ | {"MUJOCO_GL": kind}, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        text = (folder / "report" / "report.html").read_text()
        if "Without films" not in text:
            break
    return text


def test_films_show_the_episodes_that_they_name(tmp_path):
    imageio = pytest.importorskip("imageio.v2")
    save_policy(tmp_path / "p.pt", terrain="perlin", gain=100.0)  # falls, sooner or later
    options = ["p.pt", "--stochastic", "--episodes", "6", "--horizon", "1000", "--json", "a.json"]
    text = report_with_films(tmp_path, [*options, "--num-terrains", "2", "--num-threads", "1"])
    if "Without films" in text:
        pytest.skip("no OpenGL")
    episodes = {e["seed"]: e for e in json.loads((tmp_path / "a.json").read_text())["per_episode"]}
    films = re.findall(r'src="data:(?:video|image)/(\w+);base64,([^"]+)".*?<figcaption>([^<]*)', text)
    assert len(films) == 2
    for kind, content, caption in films:
        found = re.search(r"seed (\d+), return (-?[\d.]+)(?:, (\w+) after ([\d.]+) s)?", caption)
        assert found
        episode = episodes[int(found[1])]
        (tmp_path / f"film.{kind}").write_bytes(base64.b64decode(content))
        with imageio.get_reader(tmp_path / f"film.{kind}") as reader:
            frames = sum(1 for _ in reader)
        interval = 20 if kind == "mp4" else 40
        assert frames in (episode["length"] // interval + 1, episode["length"] // interval + 2), (caption, episode)
        assert float(found[2]) == pytest.approx(episode["return"], abs=0.051)
        assert found[3] == episode["outcome"] and float(found[4]) == pytest.approx(episode["length"] * 0.002, abs=0.006)


@pytest.mark.parametrize(
    ("broken", "error", "status", "said", "left"),
    [
        ("films", OSError(errno.ENOSPC, "the disk is full"), 0, "", {"a.json", "report.html"}),
        ("films", KeyboardInterrupt(), 130, "stopped; only a.json was written", {"a.json"}),
        ("table", BrokenPipeError(errno.EPIPE, "nobody reads"), 141, "", {"a.json"}),
        ("write_json", OSError(errno.ENOSPC, "the disk is full"), 2, "the disk is full", set()),
        ("evaluate", KeyboardInterrupt(), 130, "stopped; nothing was written", set()),
    ],
)
def test_what_was_found_is_kept_if_something_breaks(monkeypatch, tmp_path, capsys, broken, error, status, said, left):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    monkeypatch.chdir(tmp_path)
    script = importlib.import_module("evaluate")

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(script, broken, fail)
    options = ["pid", "--terrain", "flat", "--episodes", "2", "--horizon", "60", "--num-threads", "1"]
    assert script.main([*options, "--torch-threads", "0", "--json", "a.json", "--report", "report"]) == status
    out, err = capsys.readouterr()
    assert said in err
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == left
    assert broken in ("table", "evaluate") or "speed along the goal" in out
    if "report.html" in left:
        assert "Without films: [Errno 28] the disk is full" in (tmp_path / "report" / "report.html").read_text()


def test_what_is_paid_for_not_falling_is_left_out_and_paths_fill_their_plot():
    steps = np.array([0.0, 20.0, 40.0])
    history = [{"step": steps, "return": 0.02 * steps + [0.0, 0.1, 0.3]}]
    nothing = np.zeros(1)
    episodes = Episodes(
        *(np.zeros(1, np.int64),) * 3, ["success"], np.array([1.1]), np.array([40]),
        {"survival": np.array([0.8])}, *(nothing,) * 7, history=history,
    )  # fmt: skip
    told = report._without_survival(episodes, history[0]["return"][None])
    np.testing.assert_allclose(told, [[0.0, 0.1, 0.3]], atol=1e-12)
    x, y = report._limits(np.array([[0.0, 0.1], [0.0, 3.0]]))  # one that goes upward
    assert y[0] == pytest.approx(-0.15) and y[1] == pytest.approx(3.15) and x[1] - x[0] == pytest.approx(1.65)


def test_a_report_shows_the_places_and_the_ground(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("evaluate"), "films", lambda *_: [])
    metadata: dict[str, Any] = {"command": "path", "motion.num_points": 3, "terrain": "mixed:0.3"}
    save_policy(tmp_path / "p.pt", 19, gain=0.0, **metadata)
    options = ["p.pt", "--episodes", "5", "--horizon", "60", "--num-terrains", "5", "--num-threads", "1"]
    done = call("evaluate.py", *options, "--report", "r", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "r" / "report.html").read_text()
    assert "rings are the places" in text and text.count(" cm high") == 4 and "share of the points reached" in text
    assert "goal is upward" not in text


@pytest.mark.parametrize("terrain", ["perlin", "flat"])
def test_a_report_is_one_page_that_needs_no_network(tmp_path, monkeypatch, terrain):
    monkeypatch.setattr(importlib.import_module("evaluate"), "films", lambda *_: [])
    save_policy(tmp_path / "a<b.pt", terrain=terrain)
    options = ["a<b.pt", "--compare", "pid", "--episodes", "4", "--horizon", "60", "--num-terrains", "2"]
    texts = []
    for folder in ("one", "two"):
        done = call("evaluate.py", *options, "--num-threads", "1", "--report", folder, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        texts.append((tmp_path / folder / "report.html").read_text())
        assert [p.name for p in (tmp_path / folder).iterdir()] == ["report.html"]
    text = texts[0]
    page = Page(text)
    assert page.tags.count("svg") == 6 and page.tags.count("table") == 1
    assert len(page.ids) == len(set(page.ids))
    assert all(target.startswith(("#", "data:")) for target in page.targets)
    assert {t[1:] for t in page.targets if t[0] == "#"} <= set(page.ids)
    assert not re.search(r"url\((?!#)", text) and "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert re.search(r"after [\d,]+ steps of training", text) and re.search(
        r"Made \d{4}-\d\d-\d\d .*: evaluate.py &#x27;a&lt;b.pt", text
    )
    assert "a&lt;b.pt" in text and "speed along the goal" in text
    assert "currentColor" in text and "prefers-color-scheme" in text and "#010203" not in text
    plots = [re.findall(r"<svg.*?</svg>", t, re.DOTALL) for t in texts]
    assert plots[0] == plots[1]


PROBE = """
<script>
window.addEventListener("load", async () => {
  const wait = (video) => new Promise((done) => {
    if (video.readyState >= 2) done();
    video.addEventListener("loadeddata", done);
    setTimeout(done, 20000);
  });
  await Promise.all([...document.querySelectorAll("video")].map(wait));
  const shown = (element) => element.getBoundingClientRect().width > 100;
  document.body.dataset.found = JSON.stringify({
    svgs: [...document.querySelectorAll("svg")].filter(shown).length,
    videos: [...document.querySelectorAll("video")].map((v) => [v.videoWidth, v.videoHeight, v.duration]),
    images: [...document.querySelectorAll("img")].map((image) => image.naturalWidth),
    wider: document.documentElement.scrollWidth > document.documentElement.clientWidth,
    ink: getComputedStyle(document.body).color,
    paper: getComputedStyle(document.body).backgroundColor,
    fetched: performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith("data:")).length,
  });
});
</script>
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_without_a_network_shows_all_of_it(tmp_path_factory, filmed_report, theme):
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium on this machine")
    folder = tmp_path_factory.mktemp(theme)
    page = folder / "report.html"
    page.write_text(filmed_report.replace("</body>", f"{PROBE}</body>"))
    dark = ["--blink-settings=preferredColorScheme=0"] if theme == "dark" else []
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom",
            f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1200,900",
            "--disable-background-networking", "--virtual-time-budget=30000", *dark, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, done.stderr
    seen = json.loads(html.unescape(found[1]))
    assert seen["svgs"] == 6 and seen["fetched"] == 0 and not seen["wider"]
    assert (seen["ink"], seen["paper"]) == COLOURS[theme]
    if "Without films" in filmed_report:
        pytest.skip("no OpenGL: films not tried")
    films = seen["videos"] or seen["images"]
    assert len(films) == 2
    for width, height, duration in seen["videos"]:
        assert (width, height) == (640, 480) and duration > 0.1
    assert all(width == 640 for width in seen["images"])
