# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Sweeps train every setting with every seed once, go on where they stopped, and compare settings, not seeds."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
import shlex
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from policies import save_policy

from ballbot import jobs
from ballbot.errors import SettingsError
from ballbot.jobs import Programs
from ballbot.ppo.run_dir import lock_run_dir

TINY = shlex.split(
    "--terrain flat --no-cameras --num-envs 4 --num-steps 16 --action-repeat 1 --minibatch-size 32 --hidden-size 8 "
    "--max-episode-steps 60 --eval-episodes 2 --eval-interval 256 --checkpoint-interval 128 --total-timesteps 256"
)


@pytest.fixture
def sweep(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("sweep")


@pytest.fixture(autouse=True)
def signals():
    """As they were before a sweep took them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def planned(sweep, **options):
    return sweep.planned(sweep.Args(**options), TINY)


def pretend(run, returns, total=512):
    """What a training leaves that was evaluated so."""
    run.folder.mkdir(parents=True)
    (run.folder / "config.json").write_text(
        json.dumps({"ppo": {"total_timesteps": total}, "env": {"setting": run.setting.name}})
    )
    rows = [f"{256 * (k + 1)},{value},60,30" for k, value in enumerate(returns)]
    head = "global_step,eval/return_mean,eval/length_mean,time/simulate"
    (run.folder / "progress.csv").write_text("\n".join([head, *rows]) + "\n")
    save_policy(run.folder / "last.pt")  # after 1234 steps


def test_every_setting_is_trained_with_every_seed_and_first_seeds_first(sweep):
    runs = planned(sweep, name="a", seeds=(3, 0), grid=("gamma=0.9,0.99", "symmetry=false", "history=0,0 10"))
    assert [run.folder.name for run in runs][:3] == [
        "a_gamma_0.9_symmetry_false_history_0_3",
        "a_gamma_0.9_symmetry_false_history_0-10_3",
        "a_gamma_0.99_symmetry_false_history_0_3",
    ]
    assert len(runs) == 8 and [run.seed for run in runs] == [3] * 4 + [0] * 4
    assert runs[1].setting.options() == ["--gamma=0.9", "--no-symmetry", "--history", "0", "10"]
    assert [run.folder.name for run in planned(sweep, seeds=(1,))] == ["sweep_1"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--grid", "gamma"], "--grid 'gamma' is no option with values: write learning-rate=3e-4,1e-3"),
        (["--grid", "gamma=0.9,"], "is no option with values"),
        (["--grid", "gamma=0.9,0.9"], "has a value twice"),
        (["--grid", "gamma=0.9", "gamma=0.99"], "--gamma is given twice"),
        (["--grid", "hidden_size=8,16"], "--hidden-size is given twice"),
        (["--grid", "seed=1,2"], "--seed is chosen for each run"),
        (["--grid", "gamma=2"], "gamma must be a number above 0 up to 1, got 2.0"),
        (["--grid", "gama=0.9"], "--gama is no option: did you mean --gamma"),
        (["--grid", "history=0 1,0-1"], "would both be called history_0-1"),
        (["--seeds", "0", "0"], "--seeds needs at least one value, and each once"),
        (["--seeds", "-1"], "seed must be"),
        (["--name", "a/b"], "must be a plain folder name"),
        (["--jobs", "-1"], "--jobs must be"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is(sweep, options, said, capsys):
    assert sweep.main([*options, "--", *TINY]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not Path("runs").exists()


def test_options_of_training_stand_after_two_dashes(sweep, capsys):
    assert sweep.main(["--total-timesteps", "3"]) == 2
    assert "is no option: --help tells all; options of training stand after --" in capsys.readouterr().err
    assert sweep.main(["--", "--seed", "3"]) == 2
    assert "--seed is chosen for each run: leave it out; --seeds and --name say which" in capsys.readouterr().err


def test_a_run_begins_goes_on_or_is_left_alone(sweep, monkeypatch):
    called = []
    monkeypatch.setattr(Programs, "call", lambda self, command, log: called.append(command[2:]))
    Path("runs/sweep").mkdir(parents=True)
    new, stopped, done, dead = planned(sweep, seeds=(0, 1, 2, 3))
    for run in (new, stopped, done, dead):
        run.log.write_text("it says\n")
    pretend(stopped, [1.0], 5000)
    pretend(done, [1.0, 2.0])
    (dead.folder / "checkpoints").mkdir(parents=True)  # nothing was saved
    for run in (new, stopped, done, dead):
        sweep.train(run, TINY, Programs(1))
    assert called == [
        [*TINY, "--seed=0", "--run-name", "sweep_0"],
        ["--resume", "runs/sweep_1"],
        [*TINY, "--seed=3", "--run-name", "sweep_3"],
    ]
    assert not dead.folder.exists()


def test_a_run_that_another_process_trains_is_waited_for(sweep, monkeypatch, capsys):
    """As after a sweep that was killed, whose trainings are still there."""
    monkeypatch.setattr(Programs, "call", lambda self, command, log: pytest.fail("it is done"))
    (run,) = planned(sweep, seeds=(0,))
    pretend(run, [1.0], 5000)
    lock = lock_run_dir(run.folder)
    if lock is None:
        pytest.skip("no locks here")
    waiting = threading.Thread(target=sweep.train, args=(run, TINY, Programs(1)))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    (run.folder / "config.json").write_text(json.dumps({"ppo": {"total_timesteps": 256}}))
    os.close(lock)
    waiting.join(10)
    assert not waiting.is_alive() and "waits for the process that trains it" in capsys.readouterr().out


def test_what_was_begun_with_other_settings_is_not_gone_on_with(sweep, monkeypatch):
    (run,) = planned(sweep, seeds=(0,))
    run.folder.mkdir(parents=True)
    save_policy(run.folder / "last.pt")
    settings = {"ppo": {"gamma": 0.9}, "env": {"terrain": "flat"}}
    (run.folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(SettingsError, match=r"runs/sweep_0 was begun with --\S+ .*, not .*: give another --name"):
        sweep.check(run, TINY)


def test_seeds_are_one_row_and_one_colour(sweep, monkeypatch, capsys):
    runs = planned(sweep, seeds=(0, 1, 2), grid=("gamma=0.9,0.99",))
    for k, run in enumerate(runs[:5]):  # the last one has not begun
        pretend(run, [10.0 * k, 10.0 * k + 5, 1.0])
    Path("runs/sweep").mkdir()
    drawn = []

    def draw(tables, args):
        drawn.append((tables, args))
        return FakeFigure()

    monkeypatch.setattr(sweep.plot_training, "draw", draw)
    sweep.report(runs, Path("runs/sweep"))
    with open("runs/sweep/table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["gamma"] for row in rows] == ["0.9", "0.99"]
    assert [row["runs done"] for row in rows] == ["3 of 3", "2 of 3"]
    assert [row["best return"] for row in rows] == ["25.0 (5.0 to 45.0)", "25.0 (15.0 to 35.0)"]
    assert rows[0]["last return"] == "1.0 (1.0 to 1.0)" and rows[0]["minutes"] == "1.5 (1.5 to 1.5)"
    ((tables, args),) = drawn
    assert len(tables) == 5 and args.titles == ("sweep_gamma_0.9=gamma 0.9", "sweep_gamma_0.99=gamma 0.99")
    assert sweep.plot_training.groups_of(list(tables)).keys() == {"sweep_gamma_0.9", "sweep_gamma_0.99"}
    assert "| 0.9   | 3 of 3" in capsys.readouterr().out


class FakeFigure:
    def savefig(self, content, **options):
        content.write(b"a picture")


def test_a_run_that_fails_is_named_with_its_log_and_the_others_go_on(sweep, capsys, monkeypatch):
    options = ["--seeds", "0", "--grid", "device=cuda:63,cpu", "--jobs", "1", "--", *TINY]
    assert sweep.main(options) == 1
    out, err = capsys.readouterr()
    assert re.search(r"sweep_device_cuda-63_0: failed: .*cuda.*; see runs/sweep/sweep_device_cuda-63_0.log", out), out
    assert "sweep_device_cpu_0: done" in out and "runs/sweep/sweep_device_cuda-63_0.log" in err
    assert "| cpu     | 1 of 1" in out and "| cuda:63 | 0 of 1" in out
    assert Path("runs/sweep/curves.png").stat().st_size > 1000
    called = []

    def call(self, command, log):
        called.append(log.stem)
        return True

    monkeypatch.setattr(Programs, "call", call)
    assert sweep.main(options) == 0  # what is done is not repeated
    assert called == ["sweep_device_cuda-63_0"]


def test_a_signal_lets_programs_save_and_starts_no_more(tmp_path, capsys):
    script = "trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 0.02; done"
    programs, logs = Programs(1), [tmp_path / "a.log", tmp_path / "b.log"]

    def interrupt():
        while not (logs[0].exists() and "up" in logs[0].read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    assert programs.all([partial(programs.call, ["sh", "-c", script], log) for log in logs]) == 130
    assert logs[0].read_text() == "up\nsaved\n" and not (logs[1].exists() and logs[1].read_text())
    assert "stopping; the same command goes on" in capsys.readouterr().out


def test_while_runs_train_it_is_told_how_much_of_them_is_done(sweep, monkeypatch):
    monkeypatch.setattr(jobs, "WATCHED", 0.01)
    done, new = planned(sweep, seeds=(0, 1))
    pretend(done, [1.0, 2.0])
    shares: list[float] = []
    watch = sweep.watching([done, new], shares.append)

    def training():
        pretend(new, [1.0], total=1024)
        while len(shares) < 2:
            time.sleep(0.01)

    assert Programs(1).all([training], watch) == 0
    assert shares[-1] == 0.25
