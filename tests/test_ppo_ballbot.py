# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""The main job as a user runs it: files, exact resumption, clear errors."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "experiments" / "ppo_ballbot.py"
SMALL = shlex.split(
    "--terrain perlin --num-terrains 2 --num-envs 4 --num-steps 32 --minibatch-size 64 --hidden-size 16 "
    "--num-threads 1 --torch-threads 1 --max-episode-steps 60 --eval-episodes 2 --eval-interval 512 "
    "--checkpoint-interval 256"
)


def launch(folder, *options, **kwargs):
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def run(folder, *options, timeout=120):
    process = launch(folder, *options)
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def curve(run_dir):
    """progress.csv without the columns that depend on the clock."""
    with open(run_dir / "progress.csv", newline="") as file:
        return [
            {k: v for k, v in row.items() if not k.startswith("time/") and k != "charts/SPS"}
            for row in csv.DictReader(file)
        ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run, never stopped."""
    folder = tmp_path_factory.mktemp("finished")
    code, out, err = run(folder, *SMALL, "--run-name", "whole", "--total-timesteps", "1024")
    assert code == 0, err
    return folder / "runs" / "whole", out


def test_a_run_leaves_everything_a_user_looks_for(finished):
    run_dir, out = finished
    for name in ("config.json", "progress.csv", "best.pt", "last.pt", "checkpoints"):
        assert (run_dir / name).exists(), name
    assert list(run_dir.glob("events.out.tfevents*"))
    settings = json.loads((run_dir / "config.json").read_text())
    assert settings["ppo"]["num_envs"] == 4 and settings["env"]["num_terrains"] == 2
    last = curve(run_dir)[-1]
    assert float(last["global_step"]) == 1024
    for column in (
        "charts/episodic_return",
        "losses/approx_kl",
        "eval/return_mean",
        "reward/survival",
        "reward/progress",
    ):
        assert last[column] != "", column
    assert "finished at step 1,024" in out


def test_checkpoints_load_without_running_code(finished):
    for file in finished[0].rglob("*.pt"):
        torch.load(file, weights_only=True)


def test_a_stopped_and_resumed_run_equals_one_never_stopped(finished, tmp_path):
    whole, _ = finished
    code, _, err = run(tmp_path, *SMALL, "--run-name", "parts", "--total-timesteps", "1024", "--lr-schedule", "linear")
    assert code == 0, err
    # stop at an update boundary in the middle: take the checkpoint written there and forget the rest
    parts = tmp_path / "runs" / "parts"
    middle = parts / "checkpoints" / "step_768.pt"
    assert middle.exists()
    (parts / "last.pt").unlink()
    code, out, err = run(tmp_path, "--resume", str(middle), "--torch-threads", "1")
    assert code == 0, err
    assert "resuming" in out
    assert curve(parts) == curve(whole)
    a, b = (torch.load(d / "last.pt", weights_only=True)["agent"] for d in (whole, parts))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
def test_sigterm_saves_and_the_run_goes_on(tmp_path):
    process = launch(tmp_path, *SMALL, "--run-name", "long", "--total-timesteps", "10000000")
    run_dir = tmp_path / "runs" / "long"
    deadline = time.monotonic() + 60
    while not (run_dir / "checkpoints").is_dir() or not list((run_dir / "checkpoints").iterdir()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    step = torch.load(run_dir / "last.pt", weights_only=True)["global_step"]
    assert step == int(curve(run_dir)[-1]["global_step"]), "an update was logged but not saved"
    code, _, err = run(tmp_path, "--resume", str(run_dir), "--total-timesteps", str(step + 256), "--torch-threads", "1")
    assert code == 0, err
    assert [int(r["global_step"]) for r in curve(run_dir)] == list(range(128, step + 257, 128))


def test_a_saved_config_runs_again(finished, tmp_path):
    whole, _ = finished
    code, _, err = run(tmp_path, "--config", str(whole / "config.json"), "--run-name", "again", "--torch-threads", "1")
    assert code == 0, err
    assert curve(tmp_path / "runs" / "again") == curve(whole)


def bad_config(folder, change):
    content: dict[str, dict[str, object]] = {"ppo": {}, "env": {}}
    change(content)
    path = folder / "config.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_bad_input_is_named_and_exits_with_2(finished, tmp_path):
    whole, _ = finished
    before = {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    truncated = tmp_path / "runs" / "cut" / "last.pt"
    truncated.parent.mkdir(parents=True)
    (truncated.parent / "config.json").write_bytes((whole / "config.json").read_bytes())
    truncated.write_bytes((whole / "last.pt").read_bytes()[:5000])
    not_json = tmp_path / "broken.json"
    not_json.write_text("{")
    cases = [
        (["--resume", str(truncated)], "last.pt"),
        (["--resume", str(tmp_path / "nowhere")], "nowhere does not exist"),
        (["--resume", str(whole), "--hidden-size", "32"], "hidden_size"),
        (["--resume", str(whole), "--frame", "world"], "frame"),
        (["--resume", str(whole), "--terrain", "flat"], "terrain"),
        (["--config", str(not_json)], "broken.json"),
        (["--config", str(tmp_path / "none.json")], "none.json does not exist"),
        (["--config", bad_config(tmp_path, lambda c: c["ppo"].update(clip_rnage=1))], "clip_rnage"),
        ([*SMALL, "--minibatch-size", "100"], "minibatch_size"),
        ([*SMALL, "--num-envs", "0"], "num_envs"),
        ([*SMALL, "--learning-rate", "nan"], "learning_rate"),
        ([*SMALL, "--run-name", "../escape"], "--run-name"),
        ([*SMALL, "--cameras"], "--no-cameras"),
        ([*SMALL, "--terrain", "moon"], "moon"),
        ([*SMALL, "--device", "cuda:99"], "cuda"),
    ]
    processes = [(launch(tmp_path, *options), options, words) for options, words in cases]
    for process, options, words in processes:
        out, err = process.communicate(timeout=180)
        assert process.returncode == 2, (options, process.returncode, out, err)
        assert words in err + out and "Traceback" not in err, (options, err)
    assert {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()} == before, "a refused resume changed the run"


def test_a_run_is_never_overwritten(finished):
    whole, _ = finished
    before = (whole / "last.pt").read_bytes()
    code, _, err = run(whole.parent.parent, *SMALL, "--run-name", "whole")
    assert code == 2 and "already holds a run" in err
    assert (whole / "last.pt").read_bytes() == before


def test_two_processes_train_one_policy(tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(SCRIPT),
    ]
    result = subprocess.run(
        [*command, *SMALL, "--run-name", "two", "--total-timesteps", "512"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows = curve(tmp_path / "runs" / "two")
    assert [int(r["global_step"]) for r in rows] == [128, 256, 384, 512]


def test_help_explains_every_option(tmp_path):
    code, out, _ = run(tmp_path, "--help")
    assert code == 0
    options = "--clip-range --num-envs --total-timesteps --terrain --seed --run-name --resume --config --no-cameras"
    for option in options.split():
        assert option in out, option
