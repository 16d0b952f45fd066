# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""distill.py as a user runs it: one command, exact resumption in every stage, clear errors."""

import json
import shlex
import shutil

import pytest
import torch
from inprocess import call

from ballbot.ppo import load_checkpoint

SMALL = shlex.split(
    "--terrain flat --no-cameras --num-envs 4 --num-steps 32 --minibatch-size 64 --hidden-size 16 --num-threads 1 "
    "--max-episode-steps 60 --eval-episodes 2 --eval-interval 512 --checkpoint-interval 128 --keep-checkpoints 20 "
    "--action-repeat 1"
)
STAGES = ("--imitation-timesteps", 512, "--total-timesteps", 1024)


def distill(folder, *options):
    return call("distill.py", *SMALL, *options, folder=folder)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A policy of the default settings, and one that senses the yaw rate besides."""
    folder = tmp_path_factory.mktemp("teacher")
    for name, options in (("plain", []), ("feels", ["--extra-fields", "yaw_rate"])):
        done = call("ppo_ballbot.py", *SMALL, *options, "--total-timesteps", 256, "--run-name", name, folder=folder)
        assert done.returncode == 0, done.stderr
    return folder / "runs"


@pytest.mark.parametrize("who", ["observer", "feels"])
def test_one_command_goes_through_both_stages_and_can_be_stopped_in_each(tmp_path, teacher, who):
    options = ["--teacher", who if who == "observer" else teacher / who]
    if who == "feels":
        options += ["--privileged-fields", "yaw_rate", "--memory", "gru", "--memory-size", 8]
    for name in ("whole", "stopped"):
        done = distill(tmp_path, *STAGES, *options, "--run-name", name)
        assert done.returncode == 0, done.stderr
    whole, stopped = tmp_path / "runs" / "whole", tmp_path / "runs" / "stopped"
    assert (whole / "teacher.pt").exists() == (who == "feels")
    wanted = load_checkpoint(whole / "last.pt")["agent"]
    for step in (768, 512, 384):  # PPO has taken over; it is about to; the teacher still teaches
        if step == 768 and who == "feels":
            shutil.copy(stopped / "teacher.pt", tmp_path / "kept.pt")
            (stopped / "teacher.pt").unlink()  # who has learned all needs no teacher
        done = call("distill.py", "--resume", stopped / "checkpoints" / f"step_{step}.pt", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        if (tmp_path / "kept.pt").exists():
            shutil.move(tmp_path / "kept.pt", stopped / "teacher.pt")
        found = load_checkpoint(stopped / "last.pt")["agent"]
        assert all(torch.equal(wanted[key], found[key]) for key in wanted), step


def test_a_run_keeps_its_teacher_as_it_was(tmp_path, teacher):
    shutil.copytree(teacher / "plain", tmp_path / "mine")
    done = distill(tmp_path, *STAGES, "--teacher", tmp_path / "mine", "--run-name", "r")
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "mine")
    run = tmp_path / "runs" / "r"
    again = run / "checkpoints" / "step_256.pt"
    assert call("distill.py", "--resume", again, folder=tmp_path).returncode == 0
    (tmp_path / "elsewhere").mkdir()
    done = call("distill.py", "--config", run, "--run-name", "second", folder=tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr
    second = tmp_path / "elsewhere" / "runs" / "second"
    assert (second / "teacher.pt").read_bytes() == (run / "teacher.pt").read_bytes()
    mine, theirs = (load_checkpoint(folder / "last.pt")["agent"] for folder in (run, second))
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_a_run_goes_on_with_the_teacher_it_began_with(tmp_path, teacher):
    """With another one it would not end as without the stop."""
    assert distill(tmp_path, *STAGES, "--teacher", teacher / "plain", "--run-name", "r").returncode == 0
    run = tmp_path / "runs" / "r"
    kept, again = run / "teacher.pt", run / "checkpoints" / "step_256.pt"
    original = kept.read_bytes()
    for content, words in (
        ((teacher / "plain" / "last.pt").read_bytes(), "is not whom this run began to learn from"),
        (b"damaged", "is damaged"),
        (None, "is gone"),
    ):
        kept.unlink() if content is None else kept.write_bytes(content)
        done = call("distill.py", "--resume", again, folder=tmp_path)
        assert done.returncode == 2 and words in done.stderr, done
        assert done.stderr.endswith("put the original teacher.pt back\n")
    kept.write_bytes(original)
    config = json.loads((run / "config.json").read_text())
    assert len(config.pop("teacher_sha256")) == 64
    (run / "config.json").write_text(json.dumps(config))  # of an older version
    done = call("distill.py", "--resume", again, folder=tmp_path)
    assert done.returncode == 0 and "note: teacher" not in done.stdout, done.stderr
    assert json.loads((run / "config.json").read_text())["teacher_sha256"]


def test_a_teacher_that_held_its_actions_for_longer_is_said(tmp_path, teacher):
    options = ["--teacher", teacher / "plain", "--action-repeat", 2, "--run-name", "r"]
    done = distill(tmp_path, *STAGES, *options)
    assert done.returncode == 0, done.stderr
    assert "plain was trained with --action-repeat 1, and is asked every 2 steps here\n" in done.stdout


def test_a_student_is_judged_and_is_the_start_of_another_run(tmp_path):
    """It sees the past, which is part of what it observes."""
    assert distill(tmp_path, *STAGES, "--run-name", "r").returncode == 0
    judged = call("evaluate.py", "runs/r", "--episodes", 2, "--horizon", 100, "--num-threads", 1, folder=tmp_path)
    assert judged.returncode == 0 and "return" in judged.stdout, judged.stderr
    options = ["--init-from", "runs/r", "--total-timesteps", 256, "--terrain", "ramp:0.5"]
    done = call("ppo_ballbot.py", *SMALL[2:], *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "gravity-10" in done.stdout and "taken over" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--teacher", "nobody"], "nobody"),
        (["--teacher", "runs/none"], "runs/none"),
        (["--command", "velocity"], "does not follow command 'velocity'"),
        (["--teacher", "{feels}"], "--privileged-fields slope slope_ahead yaw_rate"),
        (["--teacher", "{plain}", "--command", "velocity"], "both must be told the same"),
        (["--teacher", "None"], "belong together"),
        (["--teacher", ""], "names nobody"),
        (["--teacher", "pid"], "goes nowhere"),
        (["--preset", "default"], "settings of its own"),
        (["--config", "{plain}/config.json"], "belong together"),  # for --imitation-timesteps is given here
        (["--config", "{plain}/config.json", "--imitation-timesteps", 0], "had no teacher"),
        (["--config", "{plain}/config.json", "--imitation-timesteps", 0, "--teacher", "None"], "had no teacher"),
        (["--value-only", "nothing"], "value_only names"),
        (["--imitation-timesteps", 0], "belong together"),
        (["--imitation-timesteps", 4096], "above total_timesteps"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused_at_once(tmp_path, teacher, options, message):
    options = [str(x).format(plain=teacher / "plain", feels=teacher / "feels") for x in options]
    done = distill(tmp_path, *STAGES, *options, "--run-name", "r")
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "r").exists()
