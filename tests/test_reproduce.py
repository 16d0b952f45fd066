# mypy: allow-untyped-defs, allow-untyped-calls
"""Results are trained, judged, tabulated and shipped by commands, which go on where they stopped."""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from policies import save_policy

from ballbot.ppo import load_checkpoint
from ballbot.ppo.checkpoint import save_checkpoint
from ballbot.runs import record

MAINTENANCE = Path(__file__).parents[1] / "experiments" / "maintenance"
TINY = shlex.split(
    "--terrain flat --no-cameras --num-envs 4 --num-steps 16 --action-repeat 1 --minibatch-size 32 --hidden-size 8 "
    "--max-episode-steps 60 --eval-episodes 2 --eval-interval 256 --checkpoint-interval 128 --total-timesteps 512"
)


@pytest.fixture
def scripts(monkeypatch, tmp_path):
    """Imports scripts; runs and results go to a folder of the test's."""
    monkeypatch.syspath_prepend(str(MAINTENANCE))
    monkeypatch.chdir(tmp_path)
    return importlib.import_module


@pytest.fixture
def reproduce(scripts, monkeypatch):
    module = scripts("reproduce")
    monkeypatch.setitem(module.STUDIES, "tiny", module.Study("a robot on flat ground", tuple(TINY), range(2), 1))
    return module


def judge_little(monkeypatch, reproduce):
    """Evaluations of three short episodes."""
    whole = reproduce.Judgement.command
    monkeypatch.setattr(reproduce.Judgement, "command", lambda self: [*whole(self), "--episodes", "3"])


def test_the_estimate_names_every_run_and_counts_what_is_done(reproduce, capsys, tmp_path):
    assert reproduce.main(["--dry-run"]) == 0
    out = capsys.readouterr().out
    for study in ("default", "paper", "unfixed"):
        assert study in out
    assert "100%" not in out, "what the repository publishes is to be trained again"
    assert "hours with" in out and not (tmp_path / "runs").exists() and not (tmp_path / "results").exists()
    run = reproduce.Run("tiny", 0)
    run.folder.mkdir(parents=True)
    (run.folder / "config.json").write_text(json.dumps({"ppo": {"total_timesteps": 400}}))
    (run.folder / "progress.csv").write_text("global_step\n100\n")
    assert reproduce.main(["--dry-run", "--studies", "tiny", "--jobs", "1", "--results", "results"]) == 0
    out = capsys.readouterr().out
    assert "0:25% 1:0%" in out and "12 min left" in out  # 0.75 and 1 of training, 5 each of judging
    assert "about 0.2 hours with one run" in out
    options = ["--studies", "default", "--seeds", "1", "--jobs", "16", "--results", "results"]
    assert reproduce.main(["--dry-run", *options]) == 0
    hours = (reproduce.STUDIES["default"].minutes + reproduce.JUDGING_MINUTES) / 60
    assert f"about {hours:.1f} hours with 16 runs" in capsys.readouterr().out  # a run is not divided


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--studies", "moon"], "--studies moon is unknown: known are blind, "),
        (["--studies", "default", "--seeds", "-1"], "--seeds -1 is out of range"),
        (["--jobs", "-1"], "--jobs must be a"),
        (["--results", "a.txt"], "--results a.txt: a.txt is a file; give a folder, such as runs/reproduced"),
        (["--results", "a.txt/b"], "--results a.txt/b: a.txt is a file; give a folder"),
    ],
)
def test_what_cannot_be_done_is_named(reproduce, capsys, options, message):
    Path("a.txt").touch()
    assert reproduce.main([*options, "--dry-run"]) == 2
    assert message in capsys.readouterr().err


def test_a_run_is_trained_judged_and_kept_and_not_done_twice(reproduce, monkeypatch, capsys, tmp_path):
    judge_little(monkeypatch, reproduce)
    assert reproduce.main(["--studies", "tiny", "--seeds", "1", "--jobs", "1", "--results", "results"]) == 0
    curve = (tmp_path / "results" / "tiny_1.csv").read_text()
    assert curve.startswith("global_step,")
    rows = reproduce.read_rows(tmp_path / "results" / "evaluations.csv")
    assert [(row["run"], row["policy"], row["episodes"]) for row in rows] == [
        ("tiny_1", p, "3") for p in ("best", "last")
    ]
    assert all(0 < float(row["length_mean"]) < 4000 and row["commit"] for row in rows)
    last = tmp_path / "runs" / "reproduce_tiny_1" / "last.pt"
    before = last.stat().st_mtime_ns
    capsys.readouterr()
    assert reproduce.main(["--studies", "tiny", "--seeds", "1", "--jobs", "1", "--results", "results"]) == 0
    assert "training" not in capsys.readouterr().out and last.stat().st_mtime_ns == before
    (tmp_path / "results" / "evaluations.csv").unlink()  # judged again, not trained again
    assert reproduce.main(["--studies", "tiny", "--seeds", "1", "--jobs", "1", "--results", "results"]) == 0
    assert reproduce.read_rows(tmp_path / "results" / "evaluations.csv") == rows
    assert last.stat().st_mtime_ns == before


def test_a_run_that_was_stopped_goes_on_and_one_that_saved_nothing_begins_again(reproduce):
    run = reproduce.Run("tiny", 0)
    assert "--seed" in run.train_command()
    (run.folder / "checkpoints").mkdir(parents=True)
    (run.folder / "encoder_0123456789abcdef.pt").touch()
    assert "--seed" in run.train_command()
    (run.folder / "checkpoints" / "step_128.pt").touch()
    assert run.train_command()[-2:] == ["--resume", str(run.folder)]


def test_a_row_without_its_checkpoint_is_not_done(reproduce):
    run = reproduce.Run("tiny", 0)
    run.folder.mkdir(parents=True)
    (run.folder / "config.json").write_text(json.dumps({"ppo": {"total_timesteps": 2000}}), encoding="utf-16")
    (run.folder / "progress.csv").write_text("global_step\n2048\n")
    assert run.done() == 0
    save_policy(run.folder / "last.pt")  # after 1234 steps
    assert run.done() == pytest.approx(1234 / 2000)


def test_a_run_of_other_settings_is_not_taken_for_this_study(reproduce, monkeypatch, capsys):
    assert reproduce.main(["--studies", "tiny", "--seeds", "0", "--jobs", "1", "--dry-run"]) == 0
    folder = reproduce.Run("tiny", 0).folder
    folder.mkdir(parents=True)
    save_policy(folder / "last.pt")
    ppo_ballbot = importlib.import_module("ppo_ballbot")
    args = ppo_ballbot.parse([*reproduce.STUDIES["tiny"].command(0), "--gamma", "0.9"])

    def write(**changes):
        settings = {"ppo": asdict(args.settings.ppo), **record(args.settings, None, 1), **changes}
        (folder / "config.json").write_text(json.dumps(settings))

    write()
    assert reproduce.main(["--studies", "tiny", "--seeds", "0", "--jobs", "1", "--results", "results"]) == 2
    assert "is of other settings (gamma is 0.9 there and 0.995 here)" in capsys.readouterr().err
    args.settings.ppo.gamma = 0.995
    write()
    assert reproduce.Run("tiny", 0).changed_setting() is None
    write(symmetry=False)
    assert reproduce.Run("tiny", 0).changed_setting() == "symmetry is False there and True here"
    write(value_sees_action=True)
    assert reproduce.Run("tiny", 0).changed_setting() == "value_sees_action is True there and False here"


def test_runs_are_planned_once_and_first_seeds_first(reproduce):
    args = reproduce.Args(studies=("tiny", "default", "tiny"), seeds=(3, 0, 3))
    runs = reproduce.planned(reproduce.check(args))
    assert [run.name for run in runs] == ["tiny_0", "default_0", "tiny_3", "default_3"]


def test_a_study_that_starts_from_another_waits_for_it(reproduce, monkeypatch, capsys, tmp_path):
    judge_little(monkeypatch, reproduce)
    study = reproduce.Study("goes on", tuple(TINY), range(2), 1, after="tiny", judged=("--tilt-limit-deg", "19"))
    monkeypatch.setitem(reproduce.STUDIES, "after", study)
    planned = reproduce.planned(reproduce.check(reproduce.Args(studies=("after",), seeds=(0, 1))))
    assert [run.name for run in planned] == ["tiny_0", "tiny_1", "after_0", "after_1"]
    options = ["--studies", "after", "--seeds", "1", "--jobs", "2", "--results", "results"]
    assert reproduce.main(options) == 0
    assert "init-from: runs/reproduce_tiny_1/last.pt" in (tmp_path / "runs/reproduce/after_1.log").read_text()
    rows = reproduce.read_rows(tmp_path / "results" / "evaluations.csv")
    assert [row["run"] for row in rows] == ["after_1", "after_1", "tiny_1", "tiny_1"]
    command = (tmp_path / "runs/reproduce/after_1_4000.json").read_text()
    assert json.loads(command)["options"]["tilt_limit_deg"] == 19


def test_who_starts_from_what_failed_fails_and_nobody_waits_for_ever(reproduce, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(reproduce.STUDIES, "tiny", reproduce.Study("impossible", (*TINY, "--gamma", "2"), range(1), 1))
    monkeypatch.setitem(reproduce.STUDIES, "after", reproduce.Study("goes on", tuple(TINY), range(1), 1, after="tiny"))
    assert reproduce.main(["--studies", "after", "--jobs", "2", "--results", "results"]) == 1
    assert "tiny_0.log" in (err := capsys.readouterr().err) and "after_0, which starts from tiny_0" in err


def test_nobody_starts_from_what_is_half_trained(reproduce, monkeypatch, capsys):
    monkeypatch.setitem(reproduce.STUDIES, "after", reproduce.Study("goes on", tuple(TINY), range(1), 1, after="tiny"))
    run = reproduce.Run("tiny", 0)
    run.folder.mkdir(parents=True)
    (run.folder / "config.json").write_text(json.dumps({"ppo": {"total_timesteps": 4000}}))
    (run.folder / "progress.csv").write_text("global_step\n1234\n")
    save_policy(run.folder / "last.pt")  # after 1234 steps
    called = []
    monkeypatch.setattr(reproduce.Run, "changed_setting", lambda self: None)
    monkeypatch.setattr(reproduce.Reproduction, "_call", lambda self, command, log: called.append(log.stem))
    assert reproduce.main(["--studies", "after", "--jobs", "2", "--results", "results"]) == 1
    assert called == ["tiny_0"]
    assert "after_0, which starts from tiny_0, whose training did not end" in capsys.readouterr().err


def test_who_is_judged_elsewhere_is_trained_for_those_that_start_from_it(reproduce, monkeypatch, tmp_path):
    monkeypatch.setitem(reproduce.STUDIES, "after", reproduce.Study("goes on", tuple(TINY), range(1), 1, after="tiny"))
    (tmp_path / "results").mkdir()
    reproduce.add_rows(
        tmp_path / "results" / "evaluations.csv",
        [evaluation(reproduce, "tiny_0", policy) for policy in ("best", "last")],
    )
    called = []
    monkeypatch.setattr(reproduce.Reproduction, "_call", lambda self, command, log: called.append(log.stem))
    assert reproduce.main(["--studies", "after", "--jobs", "1", "--results", "results"]) == 1
    assert called == ["tiny_0"]
    called.clear()
    assert reproduce.main(["--studies", "tiny", "--seeds", "0", "--jobs", "1", "--results", "results"]) == 0
    assert called == []


def test_the_table_of_the_road_goes_to_its_own_page(scripts, reproduce, tmp_path):
    make_results = scripts("make_results")
    (tmp_path / "results").mkdir()
    numbers = {"ending_off_road_rate": "0.02", "failure_rate": "0.02", "measure_travelled_mean": "1.7"}
    rows = [evaluation(reproduce, f"road_sees_{seed}", "last", **numbers) for seed in (1, 2)]
    rows += [evaluation(reproduce, "road_sees_shuffled_1", "last", success_rate="0.05", **numbers)]
    rows += [evaluation(reproduce, "road_controllers", "informed:0.25", **numbers)]
    reproduce.add_rows(tmp_path / "results" / "evaluations.csv", rows)
    page, seeing = tmp_path / "results.md", tmp_path / "seeing.md"
    page.write_text("nothing")
    seeing.write_text("<!-- table: road -->\n<!-- end -->\n")
    assert make_results.main(["--results", str(tmp_path / "results"), "--page", str(page)]) == 0
    found = seeing.read_text()
    assert "| sees it | 2 | 99.0 % (99.0 % to 99.0 %) | 2.0 % (2.0 % to 2.0 %) |" in found
    assert "| sees it, by the images of another robot | 1 | 5.0 % |" in found
    assert "| informed, 0.25 m/s | 1 | 99.0 % |" in found


def test_who_crosses_all_grounds_is_judged_on_each_beside_who_learned_that_alone(scripts, reproduce):
    make_results = scripts("make_results")
    numbers = {"failure_rate": "0.02", "ending_off_road_rate": "0", "measure_travelled_mean": "1.7"}
    rows = [evaluation(reproduce, f"mixed_crosses_on_stagger_{seed}", "last", **numbers) for seed in (1, 2)]
    rows += [evaluation(reproduce, "stagger_finds_1", "last", success_rate="0.97", **numbers)]
    rows += [evaluation(reproduce, "default_5", "last", **numbers | {"ending_off_road_rate": ""})]
    results = make_results.Results.__new__(make_results.Results)
    results.rows = rows
    lines = make_results.mixed_table(results).splitlines()
    assert [line.split(" | ")[:3] for line in lines[2:]] == [
        ["| perlin", "that ground alone", "1"],
        ["| stagger", "all grounds", "2"],
        ["| stagger", "that ground alone", "1"],
    ]
    assert "97.0 %" in lines[-1]
    judged = reproduce.judgements(reproduce.Run("mixed_crosses", 3))
    names = ["mixed_crosses_3", *(f"mixed_crosses_on_{g}_3" for g in ("perlin", "road", "stagger", "trench"))]
    assert [each.name for each in judged] == names and all(each.trained == "mixed_crosses_3" for each in judged)
    command = judged[2].command()
    assert command[command.index("--task") + 1] == "road"


def test_seeing_policies_are_judged_by_images_of_others_too(reproduce):
    whole, shuffled = reproduce.judgements(reproduce.Run("road_sees", 3))
    assert shuffled.name == "road_sees_shuffled_3" and shuffled.trained == whole.trained == "road_sees_3"
    assert "--shuffle-images" in shuffled.command() and "--shuffle-images" not in whole.command()
    assert shuffled.policies == whole.policies == (str(reproduce.Run("road_sees", 3).folder / "last.pt"),)


def test_a_student_needs_its_teacher_by_the_option_that_takes_it(scripts):
    studies = scripts("studies").STUDIES
    teacher = str(Path("runs/reproduce_road_told_2/last.pt"))
    for study, option in (("road_sees", "--init-from"), ("road_imitates", "--teacher")):
        command = studies[study].command(2)
        assert command[command.index(option) + 1] == teacher
    assert "--init-from" not in studies["road_imitates"].command(2) + studies["road_told"].command(2)


def test_longer_evaluations_that_are_missing_are_made_up_for(reproduce, monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr(reproduce.Run, "done", lambda self: 1.0)
    monkeypatch.setattr(reproduce, "save_small", lambda *args: None)
    monkeypatch.setattr(reproduce.Reproduction, "_call", lambda self, command, log: done.append(log.stem))
    rows = [evaluation(reproduce, "shipped_10", policy) for policy in ("best", "last")]
    reproduce.add_rows(tmp_path / "evaluations.csv", rows)
    reproduce.Reproduction(tmp_path, 1).carry_out(reproduce.first_run("shipped"))
    assert done == ["shipped_10_8000", "shipped_10_20000"]


def test_two_reproductions_do_not_meet(reproduce, capsys):
    reproduce.LOGS.mkdir(parents=True)
    lock = reproduce.lock_run_dir(reproduce.LOGS)
    assert reproduce.main(["--studies", "tiny", "--jobs", "1", "--results", "results"]) == 2
    os.close(lock)
    assert "another process is reproducing in runs/reproduce" in capsys.readouterr().err
    Path("results").mkdir()
    lock = reproduce.lock_run_dir(Path("results"))  # by one that was started in another folder
    assert reproduce.main(["--studies", "tiny", "--jobs", "1", "--results", "results"]) == 2
    os.close(lock)
    assert "another process is reproducing in results" in capsys.readouterr().err


def test_damaged_files_are_named_and_nothing_is_lost(reproduce, capsys):
    path = Path("results") / "evaluations.csv"
    path.parent.mkdir()
    reproduce.add_rows(path, [evaluation(reproduce, "default_0", "best")])
    path.write_text(whole := path.read_text()[:-20])
    assert reproduce.main(["--studies", "tiny", "--dry-run", "--results", "results"]) == 2
    assert "results/evaluations.csv, line 2: " in capsys.readouterr().err
    assert path.read_text() == whole
    run = reproduce.Run("tiny", 0)
    run.folder.mkdir(parents=True)
    (run.folder / "config.json").write_text(json.dumps({"ppo": {"total_timesteps": 0}}))
    (run.folder / "progress.csv").write_text("global_step\n2048\n")
    assert run.done() == 0


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
def test_a_signal_lets_trainings_save_and_the_same_command_goes_on(reproduce, monkeypatch, tmp_path):
    long = [*TINY, "--total-timesteps", "100000000"]
    program = (
        f"import sys; sys.path.insert(0, {str(MAINTENANCE)!r}); import reproduce as r\n"
        f"r.STUDIES['tiny'] = r.Study('long', {tuple(long)!r}, range(2), 1)\n"
        "sys.exit(r.main(['--studies', 'tiny', '--jobs', '2', '--results', 'results']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    runs = [reproduce.Run("tiny", seed) for seed in (0, 1)]
    deadline = time.monotonic() + 100
    while not all(list(run.folder.glob("checkpoints/*.pt")) for run in runs):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)  # of somebody who does not want to wait
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err, err
    assert process.returncode == 130 and "the same command goes on" in out and "trained" not in out
    for run in runs:
        assert "stopped by SIGTERM" in (tmp_path / "runs" / "reproduce" / f"{run.name}.log").read_text()
        assert run.train_command()[-2] == "--resume"


def test_a_run_that_fails_is_named_with_its_log(reproduce, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(reproduce.STUDIES, "tiny", reproduce.Study("impossible", (*TINY, "--gamma", "2"), range(1), 1))
    assert reproduce.main(["--studies", "tiny", "--jobs", "1", "--results", "results"]) == 1
    err = capsys.readouterr().err
    assert "runs/reproduce/tiny_0.log" in err
    assert "gamma must be" in (tmp_path / "runs" / "reproduce" / "tiny_0.log").read_text()
    assert not (tmp_path / "results" / "evaluations.csv").exists()


def evaluation(reproduce, run, policy, horizon="4000", **values):
    numbers = {"return_mean": "88.5", "return_ci95": "88 89", "length_mean": "4000", "success_rate": "0.99"}
    numbers |= {"success_rate_ci95": "0.95 1", "speed_along_goal_mean": "0.21", "speed_along_goal_ci95": "0.2 0.22"}
    row = dict.fromkeys(reproduce.COLUMNS, "") | {"terrain": "perlin", "terrain_length": "10"} | numbers
    return row | {"run": run, "policy": policy, "horizon": horizon, "heading": "any"} | values


def test_what_was_tortured_is_still_a_test():
    root = Path(__file__).parents[1]
    with open(root / "results" / "reliability.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        path, _, name = row["test"].partition("::")
        assert re.search(rf"^def {name.split('[')[0]}\(", (root / path).read_text(), re.MULTILINE), row["test"]
        assert row["fault"], row["test"]


def test_tables_say_what_the_files_say(scripts, reproduce, tmp_path):
    make_results = scripts("make_results")
    folder = tmp_path / "results"
    folder.mkdir()
    rows = [evaluation(reproduce, "default_5", policy) for policy in ("best", "last")]
    rows += [evaluation(reproduce, "default_6", "best", return_mean="90.5", success_rate="1")]
    rows += [evaluation(reproduce, "shipped_10", "best", "8000", return_mean="178", terrain_length="20")]
    rows += [evaluation(reproduce, "controllers", name) for name in ("pid", "linear:0.25")]
    reproduce.add_rows(folder / "evaluations.csv", rows)
    for seed, returns in enumerate(([80, 86, 88], [70, 89, 85])):
        with open(folder / f"default_{5 + seed}.csv", "w") as file:
            file.write("global_step,eval/return_mean,eval/length_mean,time/simulate\n")
            file.writelines(f"{1000000 * i},{value},4000,120\n" for i, value in enumerate(returns, 1))
    for study in ("untrained_encoder", "plain_blind"):
        (folder / f"{study}_0.csv").write_text((folder / "default_5.csv").read_text())
    page = tmp_path / "page.md"
    marks = "\n".join(f"<!-- table: {name} -->\nold\n<!-- end -->" for name in ("default", "ablations", "frontier"))
    page.write_text(f"before\n{marks}\nafter\n")
    assert make_results.main(["--results", str(folder), "--page", str(page)]) == 2  # no place for the horizons
    page.write_text(f"before\n{marks}\n<!-- table: horizons -->\n<!-- end -->\nafter\n")
    assert make_results.main(["--results", str(folder), "--page", str(page), "--check"]) == 1
    assert make_results.main(["--results", str(folder), "--page", str(page)]) == 0
    assert make_results.main(["--results", str(folder), "--page", str(page), "--check"]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| 5 | 2.00M, 4.0 min | 88.0 at 3.00M | 6 | best | 88.5 [88.0, 89.0] | 4000 | 99 % [95, 100] |" in text
    assert "| median |  | 88.5 | 6 | best | 89.5 | 4000 | 100 % | 0.21 |" in text
    assert "| 8,000 | 20 m | 89.0 | 178.0 [88.0, 89.0] | 4000 | 99 % [95, 100] | 0.21 [0.20, 0.22] |" in text
    assert "| linear controller, 0.25 m/s |" in text and "| pid controller |" in text
    images = {path.name for path in (tmp_path / "images").iterdir()}
    assert images == {"ablations.png", "frontier.png"}  # a figure compares studies


def test_the_page_has_a_place_for_every_table_and_figure(scripts, reproduce, tmp_path):
    make_results = scripts("make_results")
    rows = [evaluation(reproduce, "shipped_10", "best", h) for h in ("4000", "20000")]
    reproduce.add_rows(tmp_path / "evaluations.csv", [*rows, evaluation(reproduce, "controllers", "linear:0.25")])
    for study in make_results.EACH_SEED:
        text = "global_step,eval/return_mean,eval/length_mean,time/simulate\n1000000,80,4000,120\n"
        (tmp_path / f"{study}_0.csv").write_text(text)
    pairs = [(name, seed) for name in ("ballbot", "stable-baselines3") for seed in (1, 3)]
    (tmp_path / "compare_sb3.csv").write_text(
        "task,library,seed,steps,episodes,return,seconds,versions,machine,commit\n"
        + "".join(f"CartPole-v1,{name},{seed},100000,100,{len(name) + seed}.0,1,,,\n" for name, seed in pairs)
        + "Acrobot-v1,ballbot,0,200000,100,-80.0,1,,,\nAcrobot-v1,ballbot,1,7,100,-80.0,1,,,\n"  # 7 steps: another
    )
    race = scripts("race")
    common = dict.fromkeys(race.COLUMNS, "") | {"hyperparameters": "ours", "length": "4000", "cameras": "False"}
    times = {"ballbot": ("60.4", "50", "71.6"), "rsl_rl": ("", "", "400")}
    for learner, reached in times.items():
        for seconds in reached:
            row = {"learner": learner, "seconds_to_target": seconds, "seconds": "600", "return": "86.25"}
            race.append_row(tmp_path / "race.csv", common | row, race.COLUMNS)
    seeing = {"learner": "cleanrl", "hyperparameters": "own", "cameras": "True", "seconds": "601", "return": "70"}
    race.append_row(tmp_path / "race.csv", common | seeing, race.COLUMNS)
    found = make_results.sections(make_results.Results(tmp_path))
    assert found["race"].splitlines()[2:] == [
        "| ballbot | without | 3 | 60 | 60, 50, 72 | 600 | 86.2 | 4000 |",
        "| rsl_rl | without | 3 | never | never, never, 400 | 600 | 86.2 | 4000 |",
        "| cleanrl, its own settings | with | 1 | never | never | 601 | 70.0 | 4000 |",
    ]
    compared = "9.0 [8.0, 10.0] (2 of 5 seeds) | 19.0 [18.0, 20.0] (2 of 5 seeds) | -10.0 [-12.0, -8.0] |"
    assert f"| CartPole-v1 (100,000) | {compared}" in found["compare_sb3"]
    assert (
        "| Acrobot-v1 (200,000) | -80.0 (1 of 5 seeds) | missing |  |" in found["compare_sb3"]
    )  # 7 steps: another run
    *_, last = found["compare_sb3"].splitlines()
    assert last.startswith("Not run yet: CartPoleNoVel-v1, LunarLander-v3, ") and "CartPole-v1" not in last
    assert found["compare_sb3"].count("\n| ") == 3 and "missing | missing" not in found["compare_sb3"]
    page = (make_results.DOCS / "results.md").read_text()
    assert set(found) == set(re.findall(r"<!-- table: (\w+) -->", page))
    assert all(content in make_results.fill(page, found) for content in found.values())
    for name in (*make_results.FIGURES, "frontier.png"):
        assert (f"images/{name}" in page) == (make_results.DOCS / "images" / name).exists()


def test_the_page_of_results_is_what_results_make(scripts):
    assert scripts("make_results").main(["--check"]) == 0


def test_rows_replace_those_of_the_same_evaluation_alone(reproduce, tmp_path):
    path = tmp_path / "evaluations.csv"
    first = [evaluation(reproduce, "default_0", p) for p in ("best", "last")]
    reproduce.add_rows(path, first)
    changed = evaluation(reproduce, "default_0", "best", return_mean="91")
    reproduce.add_rows(path, [changed, evaluation(reproduce, "default_0", "best", "8000")])
    found = reproduce.read_rows(path)
    assert len(found) == 3 and changed in found and first[1] in found
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="its columns must be run, policy"):
        reproduce.read_rows(path)


def test_a_shipped_policy_is_the_runs_best_with_its_evaluation(scripts, monkeypatch, capsys, tmp_path):
    ship = scripts("ship_policy")
    monkeypatch.setattr(ship, "ASSETS", tmp_path)
    judge = ship.evaluate.main
    monkeypatch.setattr(ship.evaluate, "main", lambda argv: judge([*argv, "--episodes", "2", "--horizon", "50"]))
    run = tmp_path / "runs" / "r"
    run.mkdir(parents=True)
    content = save_policy(run / "best.pt").read_bytes()
    settings = json.dumps({"ppo": {"seed": 7}, "env": {}, "git_commit": "abc"})
    (run / "config.json").write_text(settings, encoding="utf-8-sig")
    assert ship.main([str(run), "--name", "mine"]) == 0
    assert (tmp_path / "policy_mine.pt").read_bytes() == content
    card = json.loads((tmp_path / "policy_mine.json").read_text())
    assert (card["seed"], card["commit"], card["steps"], card["run"]) == (7, "abc", 1234, "r")
    assert card["sha256"] == hashlib.sha256(content).hexdigest()
    assert card["evaluation"]["episodes"] == 2 and card["evaluation"]["length_mean"] <= 50
    last = save_policy(run / "last.pt", gain=5.0).read_bytes()
    assert last != content
    assert ship.main([str(run), "--name", "mine", "--policy", "last"]) == 0
    assert (tmp_path / "policy_mine.pt").read_bytes() == last
    whole = load_checkpoint(run / "best.pt") | {"kind": "training", "optimizer": {"moments": torch.ones(1000)}}
    save_checkpoint([run / "last.pt"], whole)
    assert ship.main([str(run), "--name", "mine", "--policy", "last"]) == 0
    alone = load_checkpoint(tmp_path / "policy_mine.pt")
    assert alone["kind"] == "policy" and "optimizer" not in alone
    assert ship.main([str(run), "--name", "../mine"]) == 2
    assert "--name" in capsys.readouterr().err
    assert ship.main([str(tmp_path / "nowhere")]) == 2


def test_of_controllers_only_those_are_judged_that_were_not(reproduce):
    asked = reproduce.Judgement("controllers", ("pid", "linear:0.3", "lqr"))
    rows = [{"run": "controllers", "policy": policy, "horizon": "4000"} for policy in ("linear:0.3", "pid")]
    rows += [{"run": "another", "policy": "lqr", "horizon": "4000"}]
    assert asked.left(rows) == ("lqr",) and not asked.done(rows)
    assert asked.done([*rows, {"run": "controllers", "policy": "lqr", "horizon": "4000"}])


def test_the_table_of_robots_goes_to_its_own_page(scripts, tmp_path):
    make_results, measure = scripts("make_results"), scripts("measure_robots")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "evaluations.csv").touch()
    small = ("--robots", "mini", "--episodes", "2", "--num-threads", "1")
    assert measure.main([*small, "--out", str(tmp_path / "results" / "robots.csv")]) == 0
    page, robots = tmp_path / "results.md", tmp_path / "robots.md"
    page.write_text("nothing")
    robots.write_text("<!-- table: robots -->\n<!-- end -->\n")
    assert make_results.main(["--results", str(tmp_path / "results"), "--page", str(page)]) == 0
    (line,) = (line for line in robots.read_text().splitlines() if line.startswith("| mini |"))
    assert "| 9.31 | 68.8 |" in line and line.count("100 %, 0.") == 4
