# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""evaluate.py, as a user calls it."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from inprocess import call
from policies import save_policy

from ballbot.encoders import load_encoder

SCRIPT = Path(__file__).parents[1] / "experiments" / "evaluate.py"
SHORT = ["--episodes", 5, "--horizon", 80, "--num-terrains", 2, "--num-threads", 1]


def load(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("evaluate")


def launch(folder, *options, **variables):
    command = [sys.executable, str(SCRIPT), *map(str, options)]
    variables = os.environ | variables
    return subprocess.Popen(
        command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(folder, *options, **variables):
    process = launch(folder, *options, **variables)
    out, err = process.communicate(timeout=200)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def test_policies_are_compared_on_the_same_episodes(tmp_path):
    save_policy(tmp_path / "blind.pt", terrain="perlin", tilt_limit_deg=10.0, integrator="Euler")
    save_policy(tmp_path / "seeing.pt", 58, terrain="flat", observation="encoded", encoder=load_encoder().content_hash)
    options = ["blind.pt", "--compare", "seeing.pt", "pid", *SHORT, "--seed", 7]
    code, out, err = run(tmp_path, *options, "--json", "a.json")
    assert code == 0, err
    assert "seeing.pt was trained on flat ground, it is judged on perlin" in out
    assert "blind.pt was trained with --tilt-limit-deg 10.0, it is judged with 20.0" in out and "RK4" not in out
    assert "success" in out and "speed along the goal" in out
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["policy"] == "blind.pt" and content["episodes"] == 5 and content["terrain"] == "perlin"
    for key in ("success_rate", "failure_rate", "out_of_bounds_rate", "return_mean", "return_std", "return_ci95"):
        assert key in content
    for key in ("length_mean", "speed_along_goal_mean", "speed_across_goal_mean", "energy_mean"):
        assert key in content
    episodes = content["per_episode"]
    assert [e["seed"] for e in episodes] == [7, 8, 9, 10, 11]
    assert {"terrain_id", "return", "length", "outcome"} <= episodes[0].keys()
    others = content["compared"]
    assert [o["policy"] for o in others] == ["seeing.pt", "pid"]
    for other in others:
        assert [e["terrain_id"] for e in other["per_episode"]] == [e["terrain_id"] for e in episodes]
    assert others[1]["success_rate"] == 1.0  # the PID stands for 80 steps

    assert call("evaluate.py", *options, "--json", "b.json", folder=tmp_path).returncode == 0
    again = json.loads((tmp_path / "b.json").read_text())
    assert again["per_episode"] == episodes and again["compared"] == others


def test_actions_are_sampled_if_told_and_failures_are_an_exit_status(tmp_path):
    save_policy(tmp_path / "p.pt", gain=300.0)  # drives at full power, somewhere
    options = ["p.pt", *SHORT, "--horizon", 600, "--json", "a.json"]
    assert call("evaluate.py", *options, "--max-failures", 0.2, folder=tmp_path).returncode == 1
    sure = json.loads((tmp_path / "a.json").read_text())
    assert sure["failure_rate"] > 0.2
    for flag in ("--stochastic", "--no-deterministic"):
        done = call("evaluate.py", *options, flag, folder=tmp_path)
        assert done.returncode == 0 and "with sampled actions" in done.stdout, done
        content = json.loads((tmp_path / "a.json").read_text())
        assert content["return_mean"] != sure["return_mean"] and not content["options"]["deterministic"]


def test_as_many_failures_as_allowed_are_not_too_many(monkeypatch):
    too_many = load(monkeypatch).too_many_failures
    for count in (1, 3, 20, 100, 1000):
        for failures in range(count + 1):
            outcomes = ["failure"] * failures + ["success"] * (count - failures)
            assert not too_many(outcomes, failures / count)
            assert failures == 0 or too_many(outcomes, (failures - 0.5) / count)
    assert not too_many(["out_of_bounds"] + ["success"] * 19, 0.05)


def test_commands_are_judged_by_what_they_measure(tmp_path):
    metadata: dict[str, Any] = {"command": "velocity", "motion.max_speed": 0.2, "terrain": "perlin"}
    save_policy(tmp_path / "v.pt", 18, gain=0.0, **metadata)
    save_policy(tmp_path / "other.pt", 18, gain=0.0, **metadata | {"motion.max_speed": 0.1, "terrain": "flat"})
    upright = ["--initial-tilt-deg", 0.01, "--tilt-limit-deg", 45]  # who does nothing stands for 1.5 s, as errors count
    options = ["v.pt", "--compare", "other.pt", *SHORT, "--horizon", 900, "--json", "a.json", "--terrain", "hills:0.1"]
    options += upright
    done = call("evaluate.py", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    out = done.stdout
    assert "note: other.pt was trained on flat ground, it is judged on hills:0.1 ground" in out
    assert "note: other.pt was trained with motion {'max_speed': 0.1}, it is judged with {'max_speed': 0.2}" in out
    assert re.search(r"^error of the velocity, rms, m/s +", out, re.MULTILINE), out
    assert re.search(r"^missed what it was told +", out, re.MULTILINE)
    assert "  of the return: survival" in out and "\n  velocity  " in out
    content = json.loads((tmp_path / "a.json").read_text())
    assert (content["terrain"], content["command"]) == ("hills:0.1", "velocity")
    told = [e["measure_velocity_error"] for e in content["per_episode"]]
    assert content["measure_velocity_error_count"] == sum(x is not None for x in told)
    assert content["success_rate"] + content["missed_rate"] + content["failure_rate"] == 1.0
    assert "NaN" not in (tmp_path / "a.json").read_text()


def test_a_task_is_judged_by_its_name(tmp_path):
    out = tmp_path / "x.json"
    options = ["linear:0.3", "--task", "road", "--episodes", 4, "--num-terrains", 4, "--json", out]
    done = call("evaluate.py", *options, folder=tmp_path)
    assert done.returncode == 0 and "of these by off road" in done.stdout, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["terrain"] == "road" and found["success_rate"] < 1 and found["measure_travelled_mean"] > 0
    assert found["ending_off_road_rate"] == sum(e["ending"] == "off_road" for e in found["per_episode"]) / 4 > 0
    assert set(importlib.import_module("reproduce").JUDGED) <= found.keys()


def test_one_episode_has_no_spread(tmp_path):
    done = call("evaluate.py", "pid", *SHORT, "--episodes", 1, "--json", "a.json", folder=tmp_path)
    out = done.stdout
    assert done.returncode == 0 and re.search(r"^return +\d+\.\d$", out, re.MULTILINE), done
    assert re.search(r"^1 episode each", out, re.MULTILINE), out
    assert re.search(r"^success +100% \[21%, 100%\]$", out, re.MULTILINE), out
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["return_std"] is None and content["return_ci95"] is None


def test_bad_input_is_named_and_exits_with_2(tmp_path):
    save_policy(tmp_path / "p.pt")
    save_policy(tmp_path / "foreign.pt", observation=None)
    save_policy(tmp_path / "bumpy.pt", terrain="bumps:0.5")
    save_policy(tmp_path / "eyes.pt", 58, observation="encoded", encoder="0" * 64)
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    (tmp_path / "run").mkdir()
    save_policy(tmp_path / "run" / "best.pt")
    (tmp_path / "run" / "config.json").write_text("{}")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    cases: list[tuple[list[Any], str]] = [
        (["none.pt"], "none.pt does not exist"),
        (["bad.pt"], "damaged or no checkpoint"),
        (["foreign.pt"], "was not trained on Ballbot-v0"),
        (["eyes.pt"], "give its file by --encoder"),
        (["eyes.pt", "--encoder", "none.pt"], "none.pt does not exist"),
        (["p.pt", "--compare", "none.pt", *SHORT], "none.pt does not exist"),
        (["p.pt", "--episodes", 0], "--episodes must be a"),
        (["p.pt", "--horizon", 0], "--horizon must be a"),
        (["p.pt", "--seed", -1], "--seed must be a"),
        (["p.pt", "--terrain", "moon"], "terrain='moon' is unknown"),
        (["p.pt", "--terrain", "stairs:2"], "difficulties lie from 0 to 1"),
        (["p.pt", "--command", "velocity"], "observed as 'velocity_command', and what is judged observes 'goal'"),
        (["p.pt", "--command", "veloctiy"], "did you mean 'velocity'"),
        (["bumpy.pt"], "terrain 'bumps:0.5', which this ballbot does not know: load the plugin"),
        (["p.pt", "--max-failures", 2], "--max-failures must be a"),
        (["p.pt", "--initial-tilt-deg", 30], "initial_tilt_deg = 30.0 is not below"),
        (["p.pt", "--json", "nowhere/a.json"], "there is no folder nowhere"),
        (["p.pt", "--json", "."], "--json . is a folder"),
        (["p.pt", "--json", "p.pt"], "--json p.pt must end in .json"),
        (["p.pt", "--compare", "run", "--json", "run/config.json"], "would overwrite what is read"),
        (["pid", "--json", "/dev/null"], "--json /dev/null must end in .json"),
        (["p.pt", "--encoder", "e.pt"], "--encoder e.pt is for policies that see"),
        (["p.pt", "--shuffle-images"], "--shuffle-images is for policies that see"),
        (["default", "--shuffle-images", "--episodes", 1], "needs more robots than --episodes 1"),
        (["p.pt", "--report", "p.pt"], "--report p.pt is a file"),
        (["p.pt", "--paths", "a.pdf"], "--paths a.pdf must end in .png"),
        (["p.pt", "--report", "p.pt/x"], "--report p.pt/x cannot be made"),
        ([""], "or one of pid, linear, lqr, observer, foresight"),
    ]
    for options, words in cases:
        done = call("evaluate.py", *options, folder=tmp_path)
        assert done.returncode == 2, (options, done)
        assert words in done.stderr, (options, done.stderr)
    code, _, err = run(tmp_path, "none.pt")  # in a process of its own
    assert code == 2 and "none.pt does not exist" in err
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_all_are_loaded_and_checked_before_the_first_one_is_judged(tmp_path, monkeypatch):
    """Who is judged first may take minutes, which a slip in the name of the second must not cost."""
    metadata: dict[str, Any] = {"command": "velocity", "terrain": "perlin"}
    save_policy(tmp_path / "velocity.pt", 18, **metadata)
    save_policy(tmp_path / "remembers.pt", 26, history=[0, 70])
    monkeypatch.setattr(load(monkeypatch), "run_episodes", None)
    for other, words in (
        ("nope", "'nope' is no file"),
        ("velocity.pt", "what is judged observes 'velocity_command'"),
        ("remembers.pt", "reaches back 70 steps"),
    ):
        options = ["--horizon", 60, "--compare", "pid", other, "--json", "a.json"]
        done = call("evaluate.py", "observer", *options, folder=tmp_path)
        assert done.returncode == 2 and words in done.stderr, done
    assert not (tmp_path / "a.json").exists()


def test_images_of_others_change_nothing_else():
    shown = importlib.import_module("evaluate").with_images_of_others(lambda obs, began: obs, 2)
    seen = shown(np.arange(12.0).reshape(3, 4), np.zeros(3, bool))
    assert seen.tolist() == [[0, 1, 10, 11], [4, 5, 2, 3], [8, 9, 6, 7]]


def test_who_sees_drives_otherwise_by_the_images_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr(load(monkeypatch), "films", lambda *_: [])  # which take a minute
    for name, options in {
        "own": (),
        "others": ("--shuffle-images", "--report", "report"),
        "blind": ("--compare", "pid", "--paths", "paths.svg"),
    }.items():
        done = call("evaluate.py", "default", *SHORT, *options, "--json", f"{name}.json", folder=tmp_path)
        assert done.returncode == 0 and ("with shuffled images" in done.stdout) == (name == "others"), done
    assert ", with shuffled images." in (tmp_path / "report" / "report.html").read_text()
    drawn = (tmp_path / "paths.svg").read_text()
    assert ">default<" in drawn and ">pid<" in drawn and "perlin" in drawn
    own, others, blind = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("own", "others", "blind"))
    assert own["return_mean"] == blind["return_mean"] != others["return_mean"]


def test_a_terminal_that_knows_few_letters_gets_the_table(tmp_path):
    code, out, err = run(tmp_path, "pid", *SHORT, PYTHONIOENCODING="ascii")
    assert code == 0 and "\\xb1" in out, err  # the plus-minus sign


def test_films_show_the_cameras_of_the_one_who_is_filmed(monkeypatch, tmp_path):
    evaluate, filmed = importlib.import_module("evaluate"), []
    monkeypatch.setattr(evaluate, "report", lambda *given: filmed.append(given[4].rig.number))
    few = ["--episodes", "1", "--horizon", "5", "--num-terrains", "1", "--num-threads", "1"]
    evaluate.main(["road", "--compare", "observer", "--report", str(tmp_path / "report"), *few])
    assert filmed == [3]  # the controller's robot has the reference's two
