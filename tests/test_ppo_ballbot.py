# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""The main job as a user runs it: files, exact resumption, clear errors."""

import ast
import csv
import dataclasses
import importlib
import io
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from inprocess import call

from ballbot import presets
from ballbot.controllers import feedback_prior
from ballbot.deployment.shipped import read_card
from ballbot.encoders import Architecture, Autoencoder, FrozenEncoder, load_encoder, save_encoder
from ballbot.envs import BallbotVectorEnv, WorldConfig
from ballbot.envs.observations import layout_of
from ballbot.envs.randomize import RANDOMIZED
from ballbot.envs.sensors import SENSORS
from ballbot.evaluation import env_options, trained_world
from ballbot.options import HIDDEN, SECTIONS, from_plain
from ballbot.ppo import (
    CheckpointError,
    DivergedError,
    PPOConfig,
    RunDirectoryError,
    SettingsError,
    load_policy,
)
from ballbot.runs import differences, load_settings
from ballbot.tasks import TASKS
from mujoco_patch import ContactFixError

LIBRARY = Path(__file__).parents[1] / "ballbot"
PPO_CONFIG, WORLD_CONFIG = LIBRARY / "ppo" / "config.py", LIBRARY / "envs" / "config.py"
PRESETS = LIBRARY / "presets.py"
SCRIPT = Path(__file__).parents[1] / "experiments" / "ppo_ballbot.py"
SMALL = shlex.split(
    "--terrain perlin --no-cameras --num-terrains 2 --num-envs 4 --num-steps 32 --minibatch-size 64 --hidden-size 16 "
    "--num-threads 1 --torch-threads 1 --max-episode-steps 60 --eval-episodes 2 --eval-interval 512 "
    "--checkpoint-interval 256 --action-repeat 1"
)


def launch(folder, *options, **kwargs):
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def run_alone(folder, *options):
    """Exit status and output of a process of its own."""
    process = launch(folder, *options)
    out, err = process.communicate(timeout=280)
    return process.returncode, out, err


def run(folder, *options):
    """The same, sooner, in this process."""
    done = call("ppo_ballbot.py", *options, folder=folder)
    return done.returncode, done.stdout, done.stderr


def curve(run_dir):
    """progress.csv without the columns that depend on the clock."""
    with open(run_dir / "progress.csv", newline="") as file:
        return [
            {k: v for k, v in row.items() if not k.startswith("time/") and k != "charts/SPS"}
            for row in csv.DictReader(file)
        ]


@pytest.fixture
def script(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    threads = torch.get_num_threads()
    yield importlib.import_module("ppo_ballbot")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run, never stopped."""
    folder = tmp_path_factory.mktemp("finished")
    code, out, err = run_alone(folder, *SMALL, "--run-name", "whole", "--total-timesteps", "1024")
    assert code == 0, err
    return folder / "runs" / "whole", out


def test_a_run_leaves_everything_a_user_looks_for(finished):
    run_dir, out = finished
    for name in ("config.json", "progress.csv", "best.pt", "last.pt", "checkpoints"):
        assert (run_dir / name).exists(), name
    assert list(run_dir.glob("events.out.tfevents*"))
    settings = json.loads((run_dir / "config.json").read_text())
    assert settings["ppo"]["num_envs"] == 4 and settings["env"]["num_terrains"] == 2
    assert settings["ppo"]["torch_threads"] == 1
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
    said = out.splitlines()
    assert said[0].startswith("training 4 robots (reference) with ") and "a step is 2 ms of one robot" in said[1]
    assert "tensorboard --logdir" in said[2]  # before what takes a while


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
    one, two = (torch.load(d / "last.pt", weights_only=True) for d in (whole, parts))
    for networks in ("agent", "policy"):
        a, b = one[networks], two[networks]
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_that_holds_actions_and_pays_progress_more_goes_on_exactly(tmp_path):
    shaping = shlex.split(
        "--training-rewards.tracking 5 --training-rewards.tracking-speed 0.4 --action-limit 0.8 --initial-std 1 "
        "--final-std 0.3"
    )
    control = shlex.split("--action-repeat 5 --normalize-values --linear-skip --prior-speed 0.3")
    intervals = shlex.split("--total-timesteps 3840 --eval-interval 1280 --checkpoint-interval 640")
    options = [*SMALL, "--preset", "plain", *shaping, *control, *intervals]
    code, _, err = run(tmp_path, *options, "--run-name", "whole")
    assert code == 0, err
    whole = tmp_path / "runs" / "whole"
    rows = curve(whole)
    assert [int(row["global_step"]) for row in rows] == list(
        range(640, 3841, 640)
    )  # 4 robots, 32 actions, 5 steps each
    lengths = [float(row["charts/episodic_length"]) for row in rows if row["charts/episodic_length"]]
    assert lengths and max(lengths) <= 60  # steps, not actions
    assert sum(row["eval/length_mean"] != "" for row in rows) == 3
    before = (whole / "last.pt").read_bytes()
    code, _, err = run(tmp_path, "--resume", str(whole / "checkpoints" / "step_2560.pt"))
    assert code == 0, err
    assert curve(whole) == rows
    one, two = (torch.load(io.BytesIO(b), weights_only=True) for b in (before, (whole / "last.pt").read_bytes()))
    assert all(torch.equal(one["agent"][name], two["agent"][name]) for name in one["agent"])
    assert json.loads((whole / "config.json").read_text())["prior_speed"] == 0.3
    assert torch.equal(one["policy"]["prior.direct"], feedback_prior(layout_of("body", ("goal",), ()), 0.3).direct)


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


def test_settings_from_before_there_were_cameras_mean_none(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"env": {}, "env_metadata": {"observation": "proprioception"}}))
    assert load_settings(tmp_path / "config.json").settings.world.observation == "proprioception"
    (tmp_path / "config.json").write_text(json.dumps({"env": {}}))
    assert load_settings(tmp_path / "config.json").settings.world.observation == "encoded"


def test_settings_that_are_gone_are_read_where_they_did_nothing(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"env": {"paid_speed": 2.0, "final_progress_weight": None}}))
    world = load_settings(tmp_path / "config.json").settings.world
    assert world == WorldConfig(observation="encoded", initial_speed=0.4)  # the defaults of then
    (tmp_path / "config.json").write_text(json.dumps({"env": {"paid_speed": 0.3}}))
    with pytest.raises(ValueError, match="unknown key 'paid_speed'"):
        load_settings(tmp_path / "config.json")


def test_an_old_run_keeps_its_frame_rate_and_sees_as_much_as_it_did(tmp_path):
    options = [option for option in SMALL if option != "--no-cameras"]
    options += [
        "--preset",
        "plain",
        "--camera-interval",
        "6",
        "--camera-scale",
        "1",
        "--velocity-scale",
        "1",
        "--no-symmetry",
        "--value-sees-action",
        "--run-name",
        "r",
        "--total-timesteps",
        "256",
    ]
    code, _, err = run(tmp_path, *options)
    assert code == 0, err
    folder = tmp_path / "runs" / "r"
    content = json.loads((folder / "config.json").read_text())
    del content["env"]["camera_interval"]
    assert "camera_interval" not in content["env_metadata"]  # as it is the default
    del content["camera_scale"], content["velocity_scale"], content["symmetry"], content["value_sees_action"]
    (folder / "config.json").write_text(json.dumps(content))
    code, _, err = run(tmp_path, "--resume", str(folder), "--total-timesteps", "384")
    assert code == 0, err
    assert trained_world(load_policy(folder / "best.pt")).camera_interval == 6
    agent = load_policy(folder / "best.pt").agent
    assert agent.input_scale is None and agent.symmetry is None and agent.value_inputs is None
    new_eyes = ("--change-encoder", "--camera-interval", "16")
    code, _, err = run(tmp_path, "--resume", str(folder), "--total-timesteps", "512", *new_eyes)
    assert code == 2 and "--camera-interval is 16, but" in err


def test_the_paper_preset_is_the_published_training(script):
    args = script.parse(["--preset", "paper", "--seed", "3"]).settings
    published = {
        "gamma": 0.99, "gae_lambda": 0.95, "clip_range": 0.015, "target_kl": 0.3, "ent_coef": 0.001,
        "minibatch_size": 256, "update_epochs": 5, "num_steps": 2048, "num_envs": 10,
        "weight_decay": 0.01, "normalize_advantage": False,
        "normalize_observations": False, "total_timesteps": 8_000_000, "learning_rate": 1e-4,
        "lr_schedule": "piecewise", "schedule_timesteps": 10_000_000, "adam_eps": 1e-8,
        "num_layers": 4, "hidden_size": 128, "activation": "leaky_relu", "eval_episodes": 10, "eval_interval": 250_000,
        "vf_coef": 2 * 2.0,  # of half the squared error
    }  # fmt: skip
    assert {name: getattr(args.ppo, name) for name in published} == published
    world = args.world
    assert (world.frame, world.observation, world.max_episode_steps, world.tilt_limit_deg) == (
        "world",
        "encoded",
        4000,
        20,
    )
    assert world.paid == world.rewards == {"progress": 1, "survival": 1, "action_cost": 1}
    assert args.ppo.seed == 3


@pytest.mark.parametrize(
    ("name", "study"),
    [("default", "shipped"), ("mixed", "mixed_crosses"), ("road", "road_finds"), ("robust", "robust_shipped")],
)
def test_a_shipped_policy_was_trained_by_its_command(script, name, study):
    study = importlib.import_module("reproduce").STUDIES[study]
    card = read_card(name)
    settings = script.parse(study.command(card["config"]["ppo"]["seed"])).settings
    config = card["config"]
    assert set(config) | {"estimates"} == {"ppo", "env", *presets.OWN}  # its card is from before there were any
    theirs = presets.Settings(
        ppo=PPOConfig(**config["ppo"]),
        world=from_plain(config["env"]),
        **{name: config[name] for name in presets.OWN if name in config},
    )
    ppo = settings.ppo
    beyond = card["steps"] - ppo.total_timesteps  # a training ends with the update that comes to its last step
    assert differences(theirs, settings) == {} and beyond < ppo.num_envs * ppo.num_steps * ppo.action_repeat


def test_presets_by_name(script):
    assert script.parse(["--preset", "plain"]).settings == presets.plain() and script.parse([]) == script.Args()


def test_a_preset_that_is_not_there_is_refused_and_the_nearest_offered(script):
    with pytest.raises(SettingsError, match="--preset forsees is unknown: did you mean 'foresees'"):
        script.parse(["--preset", "forsees"])


def test_who_foresees_slopes_estimates_them_from_the_goal_too_and_learns_from_who_knows(script):
    settings = script.parse(["--preset", "foresees"]).settings
    assert settings.teacher == "foresight" and settings.estimates == ("slope_ahead",)
    layout = settings.layout()
    estimate = settings.structure().estimate
    assert set(range(layout.size)[layout["goal"]]) <= set(estimate.inputs.tolist())


def test_sensors_and_what_differs_are_named_and_changed_value_by_value(script):
    world = script.parse(["--randomize", "strong", "--randomize.body-mass", "1", "1"]).settings.world
    assert world.ranges == {name: span for name, span in RANDOMIZED["strong"].items() if name != "body_mass"}
    world = script.parse(["--randomize", "mild", "--randomize.body-mass", "0.5", "2"]).settings.world
    assert world.ranges == RANDOMIZED["mild"] | {"body_mass": (0.5, 2.0)}
    sensed = ["--sensors", "cheap", "--sensors.gyro-noise", "0", "--sensors.delay-ms", "0", "20"]
    world = script.parse(sensed).settings.world
    expected = SENSORS["cheap"] | {"delay_ms": (0.0, 20.0)}
    assert world.sensing == {k: v for k, v in expected.items() if k != "gyro_noise"}
    assert script.parse(["--sensors.lost", "0.1"]).settings.world.sensing == {"lost": 0.1}
    for options, message in (
        (["--randomize", "stong"], "did you mean 'strong'"),
        (["--sensors", "cheep"], "did you mean 'cheap'"),
        (["--randomize.body-mass", "2", "1"], "must rise"),
    ):
        with pytest.raises(SettingsError, match=message):
            script.parse(options)


def test_without_the_contact_fix_a_run_says_so_and_is_judged_without(tmp_path):
    code, _, err = run_alone(tmp_path, *SMALL, "--no-contact-fix", "--run-name", "bare", "--total-timesteps", "256")
    assert code == 0, err
    assert "no policy can learn" in err
    policy = load_policy(tmp_path / "runs" / "bare" / "best.pt")
    assert env_options(policy)["contact_fix"] is False
    envs = BallbotVectorEnv(1, **env_options(policy), num_threads=1, num_terrains=1)
    assert not envs.contact_fix
    envs.close()


def test_who_takes_the_symmetry_away_need_not_take_the_mirror(script):
    for options in (
        ["--no-symmetry"],
        ["--frame", "world"],
        ["--mirror", "--no-mirror", "--no-symmetry"],
        ["--mirror"],
    ):
        script.parse(options)


def test_options_change_a_preset(script):
    options: tuple[list[str], ...]
    options = (["--preset", "paper", "--clip-range", "0.2"], ["--preset=paper"], ["--preset", "default"], [])
    changed, paper, default, plain = (script.parse(option).settings for option in options)
    assert changed.ppo == dataclasses.replace(paper.ppo, clip_range=0.2) and changed.world == paper.world
    assert default.ppo == plain.ppo != paper.ppo


def test_presets_add_to_a_controller_where_one_can_drive(script):
    for options, adds in (
        ([], False),
        (["--robot", "mini"], True),
        (["--robot", "mini", "--frame", "world"], False),
        (["--action", "wheel_speed"], True),
        (["--robot", "mini", "--action=wheel_position"], True),
    ):
        assert (script.parse(options).settings.prior_speed is not None) == adds, options


def test_a_preset_trains(tmp_path):
    options = [option for option in SMALL if option != "--no-cameras"]
    code, _, err = run(tmp_path, "--preset", "paper", *options, "--run-name", "p", "--total-timesteps", "256")
    assert code == 0, err
    settings = json.loads((tmp_path / "runs" / "p" / "config.json").read_text())
    assert settings["ppo"]["clip_range"] == 0.015 and settings["env"]["frame"] == "world"


def test_a_trunk_is_shared_where_the_value_function_is_told_nothing_else(tmp_path):
    options = ["--shared-trunk", "--value-sees-action", "--privileged-fields", "--symmetry", "--run-name", "s"]
    code, _, err = run(tmp_path, *SMALL, *options, "--total-timesteps", "256")
    assert code == 0, err
    settings = json.loads((tmp_path / "runs" / "s" / "config.json").read_text())
    assert settings["ppo"]["value_only"] == [] and settings["ppo"]["shared_trunk"]


def test_the_main_job_sees_by_the_encoder_that_comes_with_it(tmp_path):
    options = [option for option in SMALL if option != "--no-cameras"]
    code, _, err = run(tmp_path, *options, "--run-name", "sees", "--total-timesteps", "256", "--clip-range", "0.015")
    assert code == 0, err
    state = torch.load(tmp_path / "runs" / "sees" / "last.pt", weights_only=True)
    assert state["env_metadata"]["encoder"] == load_encoder().content_hash


def test_threads_of_pytorch_come_with_the_settings(script, tmp_path):
    def threads(*options, **content):
        (tmp_path / "config.json").write_text(json.dumps({"ppo": {}, "env": {}, **content}))
        return script.parse(["--config", str(tmp_path / "config.json"), *options]).settings.ppo.torch_threads

    assert threads(torch_threads=3) == 3
    assert threads("--torch-threads", "2", torch_threads=3) == 2
    assert threads() == 1  # files of older versions
    assert threads(ppo={"torch_threads": 4}) == 4
    for bad in ("4", 1.0, True, -1):
        with pytest.raises(ValueError, match=r"config.json: torch_threads must be a whole number"):
            threads(torch_threads=bad)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "config.json").write_text(json.dumps({"torch_threads": 5}))
    assert script.parse(["--resume", str(run_dir)]).settings.ppo.torch_threads == 5


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("ppo", "seed", 1.5, "seed must be a whole number, got 1.5"),
        ("ppo", "eval_seed", True, "eval_seed must be a whole number, got True"),
        ("ppo", "torch_deterministic", "yes", "torch_deterministic must be true or false, got 'yes'"),
        ("ppo", "device", 3, "device must be a text, got 3"),
        ("env", "random_yaw", 1, "random_yaw must be true or false, got 1"),
        ("env", "num_terrains", 8.0, "num_terrains must be a whole number, got 8.0"),
        ("env", "tilt_limit_deg", "20", "tilt_limit_deg must be a number, got '20'"),
        ("env", "terrain", "moon", "terrain='moon' is unknown"),
        ("env", "frame", None, "frame must be given, got None"),
    ],
)
def test_values_of_the_wrong_kind_in_a_config_are_named(tmp_path, section, key, value, words):
    path = bad_config(tmp_path, lambda content: content[section].update({key: value}))
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        load_settings(Path(path))
    assert path in str(error.value)


def test_processes_of_a_host_share_its_cpus(script, monkeypatch):
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert script.simulation_threads(0) == 0  # the environments then take every CPU
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert script.simulation_threads(0) == max(cpus // 2, 1)
    assert script.simulation_threads(7) == 7
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "100000")
    assert script.simulation_threads(0) == 1


EXPECTED = [
    SettingsError("x"),
    CheckpointError("x"),
    RunDirectoryError("x"),
    DivergedError("x"),
    ContactFixError("x"),
    OSError(28, "cannot write x (No space left on device)"),
]


@pytest.mark.parametrize("error", EXPECTED, ids=lambda error: type(error).__name__)
def test_expected_errors_take_one_line(script, tmp_path, monkeypatch, capsys, error):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "train", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(SystemExit) as stop:
        script.main(["--run-name", "r"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {error}\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 30.5 GiB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_memory_that_runs_out_is_said_with_what_needs_less(script, tmp_path, monkeypatch, capsys, error):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "train", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(SystemExit) as stop:
        script.main(["--run-name", "r", "--num-envs", "4096"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory") and str(error) in said and "--num-envs 4096" in said


@pytest.mark.parametrize("error", [ValueError("x"), TypeError("x"), KeyError("x"), RuntimeError("x")])
def test_programming_errors_keep_their_traceback(script, tmp_path, monkeypatch, error):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "train", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(type(error)):
        script.main(["--run-name", "r"])


def test_the_first_process_speaks_for_all(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "RANK", 1)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "as torchrun does")
    monkeypatch.setattr(script, "train", lambda *_, **__: SimpleNamespace(global_step=1, best_return=None))
    script.main(["--run-name", "r"])
    with pytest.raises(SystemExit):
        script.main(["--run-name", "a/b"])
    out, err = capsys.readouterr()
    assert out == err == ""

    def diverge(*_, **__):
        raise DivergedError("environment 3")

    monkeypatch.setattr(script, "train", diverge)  # may concern this process alone: must not be swallowed
    with pytest.raises(SystemExit):
        script.main(["--run-name", "r"])
    assert capsys.readouterr().err == "error in process 1: environment 3\n"
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")  # and where nobody has started the others
    with pytest.raises(SystemExit):
        script.main(["--run-name", "a/b"])
    assert "must be a plain folder name" in capsys.readouterr().err


def test_bad_input_is_named_and_exits_with_2(finished, tmp_path):
    whole, _ = finished
    before = {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    truncated = tmp_path / "runs" / "cut" / "last.pt"
    truncated.parent.mkdir(parents=True)
    (truncated.parent / "config.json").write_bytes((whole / "config.json").read_bytes())
    truncated.write_bytes((whole / "last.pt").read_bytes()[:5000])
    not_json = tmp_path / "broken.json"
    not_json.write_text("{")
    nested = tmp_path / "nested.json"
    nested.write_text("[" * 100_000)
    cases = [
        (["--resume", str(truncated)], "last.pt"),
        (["--resume", str(tmp_path / "nowhere")], "nowhere does not exist"),
        (["--resume", str(whole), "--hidden-size", "32"], "hidden_size"),
        (["--resume", str(whole), "--frame", "world"], "frame"),
        (["--resume", str(whole), "--terrain", "flat"], "terrain"),
        (["--config", str(not_json)], "broken.json"),
        (["--config", str(nested)], "nested.json cannot be read as JSON"),
        (["--config", str(tmp_path / "none.json")], "none.json does not exist"),
        (["--config", bad_config(tmp_path, lambda c: c["ppo"].update(clip_rnage=1))], "clip_rnage"),
        ([*SMALL, "--minibatch-size", "100"], "minibatch_size"),
        ([*SMALL, "--num-envs", "0"], "num_envs"),
        ([*SMALL, "--learning-rate", "nan"], "learning_rate"),
        ([*SMALL, "--run-name", "../escape"], "--run-name"),
        ([*SMALL, "--run-name", "checkpoints"], "--run-name 'checkpoints' must be a plain folder name"),
        ([*SMALL, "--camera-interval", "-1"], "camera_interval must be a whole number from 1 to 1e+06, got -1"),
        ([*SMALL, "--encoder", "eyes.pt"], "is for policies that see, and this one does not"),
        ([*SMALL, "--cameras", "--encoder", "none.pt"], "none.pt does not exist"),
        ([*SMALL, "--cameras", "--encoder", str(truncated)], "damaged or no encoder"),
        (
            ["--resume", str(whole), "--cameras", "--encoder", str(encoder_file(tmp_path, 0))],
            "was trained without cameras",
        ),
        ([*SMALL, "--terrain", "moon"], "moon"),
        ([*SMALL, "--device", "cuda:99"], "cuda"),
        ([*SMALL, "--tilt-limit-deg", "-1"], "tilt_limit_deg"),
        ([*SMALL, "--torch-threads", "-1"], "torch_threads"),
        ([*SMALL, "--camera-scale", "0"], "camera_scale must be a number from 1e-06 to 100, got 0.0"),
        ([*SMALL, "--camera-scale", "nan"], "camera_scale must be a finite number, got nan"),
        ([*SMALL, "--no-random-yaw"], "--no-random-yaw needs --no-symmetry"),
        ([*SMALL, "--mirror", "--no-symmetry"], "--mirror needs --symmetry and --frame body, got --no-symmetry"),
        ([*SMALL, "--mirror", "--frame", "world"], "got --symmetry and --frame world: leave --mirror out"),
        ([*SMALL, "--velocity-scale", "101"], "velocity_scale must be a number from 1e-06 to 100, got 101.0"),
        ([*SMALL, "--action-limit", "2"], "action_limit must be a number from 0.01 to 1, got 2.0"),
        ([*SMALL, "--prior-speed", "3"], "prior_speed must be a number from 0 to 2, got 3.0"),
        ([*SMALL, "--prior-speed", "0.3", "--frame", "world"], "--prior-speed 0.3 needs --frame body"),
        (["--resume", str(whole), "--prior-speed", "0.3"], "prior"),
        ([*SMALL, "--shared-trunk"], "--shared-trunk needs --value-sees-action"),
        ([*SMALL, "--torch-threads", "1000000"], "torch_threads must be a whole number from 0 to 1024, got 1000000"),
        (["--resume", str(whole), "--run-name", "other"], "--run-name names a new run"),
        ([*SMALL, "--change-encoder"], "--change-encoder is for --resume"),
        (["--resume", str(whole), "--preset", "paper"], "--preset starts from its settings"),
        (["--preset", "papers"], "papers"),
        ([*SMALL, "--terrain", "stairz"], "did you mean 'stairs'"),
        ([*SMALL, "--terrain", "stairs:2"], "difficulties lie from 0 to 1"),
        ([*SMALL, "--terrain", "none.png"], "none.png"),
        ([*SMALL, "--ground.depth", "3"], "ground.depth"),
        ([*SMALL, "--command", "velocities"], "did you mean 'velocity'?"),
        ([*SMALL, "--command", "velocity", "--motion.max-speed", "-1"], "max_speed must be a number from 0 to 1"),
        (
            [*SMALL, "--rewards.velocity", "1"],
            "the reward 'velocity' is for command 'velocity', this world's is 'goal'",
        ),
        ([*SMALL, "--rewards.upright", "nan"], "rewards.upright must be a finite number"),
        ([*SMALL, "--rewards.upwards", "1"], "rewards.upwards"),
        ([*SMALL, "--extra-fields", "hight"], "the observation has no field 'hight'"),
        ([*SMALL, "--curriculum"], "curriculum needs ground of several difficulties"),
        ([*SMALL, "--target-speed", "0.4"], "--target-speed is now one of the rewards of training"),
        ([*SMALL, "--progress-weight=3"], "--progress-weight is now one of the rewards of training"),
        ([*SMALL, "--plugin", "none.py"], "plugin none.py does not exist"),
        (["--resume", str(whole), "--command", "velocity"], "--command is velocity, but"),
        (["--resume", str(whole), "--rewards.upright", "1"], "--rewards is {"),
    ]
    for options, words in cases:
        done = call("ppo_ballbot.py", *options, folder=tmp_path)
        assert done.returncode == 2, (options, done)
        assert words in done.stderr, (options, done.stderr)
    code, _, err = run_alone(tmp_path, *SMALL, "--num-envs", "0")
    assert code == 2 and "num_envs" in err and "Traceback" not in err
    assert {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()} == before, "a refused resume changed the run"


def encoder_file(folder, seed):
    """An encoder that has learned nothing."""
    torch.manual_seed(seed)
    save_encoder(folder / f"eyes{seed}.pt", FrozenEncoder(Autoencoder(Architecture())))
    return folder / f"eyes{seed}.pt"


def test_a_policy_that_sees_goes_on_exactly_and_only_with_its_own_eyes(tmp_path):
    eyes = ["--cameras", "--encoder", str(encoder_file(tmp_path, 0))]
    code, _, err = run(tmp_path, *SMALL, *eyes, "--run-name", "sees", "--total-timesteps", "768")
    assert code == 0, err
    run_dir = tmp_path / "runs" / "sees"
    whole = curve(run_dir)
    best = torch.load(run_dir / "best.pt", weights_only=True)
    torch.testing.assert_close(
        best["policy"]["input_scale"],
        torch.tensor(
            [1.0] * 6
            + [4.0] * 2
            + [1.0]
            + [10.0] * 2
            + [1.0] * 6
            + ([1.0] * 6 + [4.0] * 2 + [1.0]) * 3
            + [0.1] * 41
            + [1.0] * 8
        ),
    )
    metadata = best["env_metadata"]
    assert metadata["observation"] == "encoded" and len(metadata["encoder"]) == 64
    # the run keeps its eyes, whatever becomes of the file they came from
    assert env_options(load_policy(run_dir))["encoder"].content_hash == metadata["encoder"]
    Path(eyes[-1]).rename(tmp_path / "elsewhere.pt")
    eyes[-1] = str(tmp_path / "elsewhere.pt")
    code, _, err = run(tmp_path, "--resume", str(run_dir / "checkpoints" / "step_512.pt"))
    assert code == 0 and curve(run_dir) == whole, err
    other = str(encoder_file(tmp_path, 1))
    code, _, err = run(tmp_path, "--resume", str(run_dir), "--encoder", other, "--total-timesteps", "1024")
    assert code == 2 and "--change-encoder" in err and "Traceback" not in err
    more = ["--encoder", other, "--total-timesteps", "896", "--change-encoder"]
    code, out, err = run(tmp_path, "--resume", str(run_dir), *more)
    assert code == 0 and "observations have changed" in out, err
    aside = run_dir / "checkpoints" / "abandoned" / "best.pt"
    assert torch.load(aside, weights_only=True)["env_metadata"]["encoder"] == metadata["encoder"]
    code, _, err = run(tmp_path, "--resume", str(run_dir), "--total-timesteps", "1024")  # the new one is its own now
    assert code == 0 and [int(row["global_step"]) for row in curve(run_dir)] == list(range(128, 1025, 128)), err
    old = ["--encoder", eyes[-1], "--total-timesteps", "1024"]  # back, to before there was another
    code, _, err = run(tmp_path, "--resume", str(run_dir / "checkpoints" / "step_768.pt"), *old)
    assert code == 0, err
    for option, said in (
        ("--camera-scale=1", "--camera-scale is 1.0, but"),
        ("--velocity-scale=1", "--velocity-scale is 1.0, but"),
        ("--goal-scale=1", "--goal-scale is 1.0, but"),
        ("--no-symmetry", "--symmetry is False, but"),
        ("--value-sees-action", "--value-sees-action is True, but"),
        ("--num-terrains=3", "--num-terrains is 3, but"),
        ("--training-rewards.tracking=5", "--training-rewards is {"),
    ):
        code, _, err = run(tmp_path, "--resume", str(run_dir), option, "--total-timesteps", "2048")
        assert code == 2 and said in err and "Traceback" not in err, err
    changed = ["--encoder", other, "--change-encoder", "--action-limit", "0.5", "--total-timesteps", "2048"]
    code, _, err = run(tmp_path, "--resume", str(run_dir), *changed)
    assert code == 2 and "--action-limit is 0.5, but" in err, err
    code, _, err = run(tmp_path, "--resume", str(run_dir), "--no-cameras", "--total-timesteps", "2048")
    assert code == 2 and "was trained with cameras: leave --no-cameras out" in err, err
    again = ["--config", str(run_dir / "config.json"), "--encoder", other, "--total-timesteps", "256"]
    code, out, err = run(tmp_path, *again, "--run-name", "again")
    assert code == 0 and "note: " in out and metadata["encoder"][:16] in out, err


def test_a_run_is_never_overwritten(finished):
    whole, _ = finished
    before = (whole / "last.pt").read_bytes()
    code, out, err = run(whole.parent.parent, *SMALL, "--run-name", "whole")
    assert code == 2 and "already holds a run" in err and "setting up" not in out
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
    assert result.stdout.count("finished at step") == 1


NAMES = """
import sys
sys.path.insert(0, sys.argv[1])
import ppo_ballbot
ppo_ballbot.time.strftime = lambda *_: f"clock-of-{ppo_ballbot.RANK}"
print(f"[{ppo_ballbot.prepare([])[1]}]", flush=True)
ppo_ballbot.main(["--run-name", "a/b"])
"""


def test_processes_agree_on_the_run_name_and_complain_once(tmp_path):
    (tmp_path / "names.py").write_text(NAMES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(tmp_path / "names.py"), str(SCRIPT.parent)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.stdout.count("[runs/perlin_0_clock-of-0]") == 2, result.stdout + result.stderr
    assert result.stderr.count("must be a plain folder name") == 1, result.stderr


def documented_fields(path, name):
    """Name and docstring of each field of a dataclass, read from its source."""
    tree: Any = ast.parse(path.read_text())
    body: list[Any] = next(node.body for node in tree.body if getattr(node, "name", "") == name)
    found = {}
    for field, after in itertools.pairwise(body):
        if type(field) is ast.AnnAssign:
            documented = type(after) is ast.Expr and type(after.value) is ast.Constant
            found[ast.unparse(field.target)] = " ".join(after.value.value.split()) if documented else ""
    return found


def test_help_explains_every_option(tmp_path):
    code, out, _ = run(tmp_path, "--help")
    assert code == 0
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", out).split())
    options = documented_fields(SCRIPT, "Job") | documented_fields(PRESETS, "Settings")
    options |= documented_fields(PPO_CONFIG, "PPOConfig") | documented_fields(WORLD_CONFIG, "WorldConfig")
    options = {name: doc for name, doc in options.items() if name not in ("ppo", "world", *HIDDEN, *SECTIONS)}
    assert len(options) > 50
    for name, doc in options.items():
        option = "--" + name.replace("_", "-")
        assert len(doc) > 10, f"{name} has no docstring"
        assert re.search(rf"{option}[ ,|]", text), option
        assert doc[:40] in text, (option, doc)


def test_a_task_is_the_world_to_start_from(script):
    settings = script.parse(["--task", "road", "--no-cameras", "--terrain", "road:0.5"]).settings
    assert settings == presets.default(**TASKS["road"] | {"terrain": "road:0.5", "observation": "proprioception"})
    for options, message in (
        (["--task", "raod"], "--task raod is unknown: did you mean 'road'"),
        (["--task", "road", "--resume", "x"], "--task starts from its world"),
    ):
        with pytest.raises(SettingsError, match=message):
            script.parse(options)
