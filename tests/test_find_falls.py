# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""experiments/find_falls.py: the mildest circumstances under which a policy falls."""

from __future__ import annotations

import importlib
import json
from unittest import mock

import numpy as np
import pytest
from inprocess import call

from ballbot.envs.randomize import RANDOMIZED, ranges_of
from ballbot.evaluation import Candidate, find_candidate

SHORT = ("--budget", 160, "--starts", 2, "--horizon", 120, "--num-threads", 1, "--terrain", "flat")
WITHIN = (
    *("--randomize", "none", "--randomize.com-x", -0.02, 0.02),
    *("--randomize.body-mass", 0.8, 1.2, "--randomize.motor-strength", 0.8, 1.2),
)


@pytest.fixture
def planted(monkeypatch):
    """LQR that lets go where the centre of mass is more than 1 cm ahead."""
    candidate = find_candidate("lqr")

    def make_actor(envs):
        lqr = candidate.make_actor(envs)

        def act(obs, began):
            gone = envs.simulations.randomizer.by_name["com_x"] > 0.01
            return np.where(gone[:, None], [1.0, -1.0, 0.0], lqr(obs, began))

        return act

    find_falls = importlib.import_module("find_falls")
    monkeypatch.setattr(find_falls, "find_candidate", lambda *_, **__: Candidate(candidate.options, make_actor))


def test_a_planted_weakness_is_found_told_and_can_be_used(planted, tmp_path):
    pytest.importorskip("matplotlib")
    done = call("find_falls.py", "lqr", *SHORT, *WITHIN, "--json", "all.json", "--out", "falls", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "all.json").read_text())
    first = told["circumstances"][0]
    assert 0.01 < first["values"]["com_x"] < 0.013 and first["falls"] == first["starts"] == 4
    assert max(first["numbers"], key=lambda name: abs(first["numbers"][name])) == "com_x"
    assert all(of["values"]["com_x"] > 0.01 for of in told["circumstances"]), "and nothing else makes it fall"
    assert [of["distance"] for of in told["circumstances"]] == sorted(of["distance"] for of in told["circumstances"])
    assert told["falls_as_meant"] == 0 and told["episodes"] <= 160 and told["ranges"]["com_x"] == [-0.02, 0.02]
    assert f"4 of 4  {first['seconds']:.1f} s  com_x {first['values']['com_x']:+.3g}" in done.stdout
    page = (tmp_path / "falls" / "index.html").read_text()
    assert f"com_x {first['values']['com_x']:+.3g}" in page and 'src="falls.png"' in page and "<video" not in page
    assert (tmp_path / "falls" / "falls.png").stat().st_size > 10_000
    held = ranges_of(str(tmp_path / "falls" / "fall_1.json"))
    assert held["com_x"] == (first["values"]["com_x"],) * 2
    again = call("find_falls.py", "lqr", *SHORT, *WITHIN, "--json", "again.json", folder=tmp_path)
    assert json.loads((tmp_path / "again.json").read_text()) == told, again.stderr


def test_films_lie_beside_the_page_and_where_there_are_none_it_is_said(planted, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    lengths = []

    def drawn(sims, poses, *_, **whose):
        lengths.append(len(poses))
        return iter(np.full((len(poses), 48, 64, 3), 200, np.uint8))

    options, find_falls = ("lqr", *SHORT, *WITHIN, "--films", 2, "--shown", 2), importlib.import_module("find_falls")
    runs = mock.patch.object(find_falls, "run_episodes", wraps=find_falls.run_episodes)
    with mock.patch("ballbot.evaluation.video.replay", drawn), runs as run:
        done = call("find_falls.py", *options, "--out", "with", folder=tmp_path)
    *searching, last = (set(one.kwargs["starts"].tolist()) for one in run.call_args_list)
    assert all(starts == {0, 1} for starts in searching) and last == {2, 3, 4, 5}, "what was found is tried on others"
    page = (tmp_path / "with" / "index.html").read_text()
    assert done.returncode == 0 and len(lengths) == 2 and 1 < min(lengths) <= max(lengths) <= 8
    for name in ("fall_1.mp4", "fall_2.mp4"):
        assert f'src="{name}"' in page and (tmp_path / "with" / name).stat().st_size > 500
    with mock.patch("ballbot.evaluation.video.replay", side_effect=RuntimeError("none could be started")):
        done = call("find_falls.py", *options, "--out", "without", folder=tmp_path)
    assert done.returncode == 0 and "note: without films: none could be started" in done.stdout
    page = (tmp_path / "without" / "index.html").read_text()
    assert "Without films: none could be started" in page and "<video" not in page


def test_who_does_not_fall_is_told_so_and_what_was_always_so(tmp_path):
    still = ("--randomize", "none", "--randomize.com-x", -0.0001, 0.0001, "--randomize.push-every", 0.3, 0.3)
    few = ("--budget", 36, "--starts", 2, "--horizon", 200, "--num-threads", 1, "--terrain", "flat")
    done = call("find_falls.py", "lqr", *few, *still, "--out", "x", "--json", "x.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "No circumstances were found" in done.stdout and "Always: push_every 0.3." in done.stdout
    told = json.loads((tmp_path / "x.json").read_text())
    assert told["circumstances"] == [] and list(told["ranges"]) == ["com_x", "push_every"]
    assert "No circumstances were found" in (tmp_path / "x" / "index.html").read_text()


def test_ranges_are_those_that_were_given():
    find_falls = importlib.import_module("find_falls")
    assert find_falls.ranges(find_falls.Args("lqr")) == RANDOMIZED["strong"]
    assert find_falls.ranges(find_falls.Args("lqr", randomize="mild")) == RANDOMIZED["mild"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("nobody",), "nobody"),
        (("lqr", "--films", 1), "--films 1 needs a folder for them: add --out FOLDER"),
        (("lqr", "--budget", 20), "--budget 20 is too few episodes to search with --starts 8: use 144"),
        (("lqr", "--randomize", "none"), "nothing can differ: give a range"),
        (("lqr", "--randomize", "strnog"), "did you mean 'strong'"),
        (("lqr", "--randomize.com-x", 0.5, 0.6), "randomize.com_x must lie from -0.1 to 0.1"),
        (("lqr", "--json", "x.txt"), "--json x.txt must end in .json"),
        (("lqr", "--out", "file"), "--out file is a file: give a folder, for index.html"),
        (("lqr", "--share", 0), "--share must be a number above 0 up to 1"),
        (("lqr", "--encoder", "x.pt"), "--encoder x.pt is for policies that see"),
    ],
)
def test_what_cannot_be_searched_is_said(options, message, tmp_path):
    (tmp_path / "file").write_text("")
    done = call("find_falls.py", *options, folder=tmp_path)
    assert done.returncode == 2 and message in done.stderr, done.stderr + done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"file"}
