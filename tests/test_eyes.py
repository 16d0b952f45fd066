# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Collecting depth images and pretraining on them, as a user does it."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from inprocess import call
from policies import save_policy

from ballbot.encoders import Architecture, Autoencoder, DepthDataset, FrozenEncoder, load_encoder, save_encoder

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
COLLECT = ["--num-envs", "2", "--num-terrains", "4", "--interval", "3", "--num-threads", "1"]
BLOCK = 40 * 2 * 2  # takes, robots, cameras


def run(folder, script, *options, env=None):
    if env is None:
        return call(script, *options, folder=folder)
    done = subprocess.run(
        [sys.executable, str(EXPERIMENTS / script), *map(str, options)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a data set of four blocks, collected at once."""
    folder = tmp_path_factory.mktemp("eyes")
    done = run(folder, "collect_depth.py", *COLLECT, "--num-images", 4 * BLOCK, "--out", "whole")
    assert done.returncode == 0, done.stderr
    return folder


def test_collecting_goes_on_with_the_same_images(folder):
    for count in (1, 2 * BLOCK + 1, 4 * BLOCK):
        done = run(folder, "collect_depth.py", *COLLECT, "--num-images", count, "--out", "parts")
        assert done.returncode == 0, done.stderr
    whole, parts = DepthDataset(folder / "whole"), DepthDataset(folder / "parts")
    assert len(whole) == len(parts) == 4 * BLOCK
    np.testing.assert_array_equal(whole.stored, parts.stored)
    np.testing.assert_array_equal(whole.records, parts.records)
    done = run(folder, "collect_depth.py", *COLLECT, "--num-images", 5 * BLOCK, "--out", "parts", "--seed", 1)
    assert done.returncode == 2 and "seed was 0, is 1" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_two_programs_do_not_write_to_one_data_set(folder):
    import fcntl

    held = os.open(folder / "whole", os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = run(folder, "collect_depth.py", *COLLECT, "--num-images", 5 * BLOCK, "--out", "whole")
    finally:
        os.close(held)
    assert done.returncode == 2 and "another process is collecting in whole" in done.stderr
    assert len(DepthDataset(folder / "whole")) == 4 * BLOCK


def test_images_of_another_camera_are_not_mixed_in(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    import collect_depth

    options = [str(x) for x in (*COLLECT, "--num-images", 5 * BLOCK, "--out", folder / "whole")]
    monkeypatch.setattr(collect_depth, "view_digest", lambda model: "another")
    assert collect_depth.main(options) == 2
    assert len(DepthDataset(folder / "whole")) == 4 * BLOCK


def test_a_run_folder_drives_as_its_policy_does(tmp_path):
    (tmp_path / "run").mkdir()
    save_policy(tmp_path / "run" / "best.pt")
    for name, policy in (("folder", "run"), ("file", "run/best.pt")):
        options = [*COLLECT, "--num-images", BLOCK, "--policy", policy, "--out", name]
        done = run(tmp_path, "collect_depth.py", *options)
        assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(DepthDataset(tmp_path / "folder").stored, DepthDataset(tmp_path / "file").stored)


def test_who_is_told_the_ground_drives_beside_who_is_not_and_other_cameras_look_on(tmp_path):
    options = [*COLLECT, "--terrain", "road", "--rig.number", 3, "--policy", "informed:0.25", "random"]
    done = run(tmp_path, "collect_depth.py", *options, "--num-images", 2 * 40 * 2 * 3, "--out", "road")
    assert done.returncode == 0, done.stderr
    data = DepthDataset(tmp_path / "road")
    assert len(data) == 2 * 40 * 2 * 3 and set(data.records["camera"]) == {0, 1, 2}
    assert (
        data.card["provenance"]["rig"]["number"] == data.card["provenance"]["cameras"] == 3
        and data.card["provenance"]["terrain"]["kind"] == "road"
    )
    done = run(tmp_path, "collect_depth.py", *COLLECT, "--policy", "nobody", "--out", "other")
    assert done.returncode == 2 and "a classical controller such as informed:0.25" in done.stderr


def test_records_say_where_each_image_was_taken(folder):
    data = DepthDataset(folder / "whole")
    assert set(data.records["terrain"]) <= set(range(4)) and len(set(data.records["terrain"])) > 1
    assert set(data.records["camera"]) == {0, 1} and set(data.records["block"]) == {0, 1, 2, 3}
    np.testing.assert_allclose(np.linalg.norm(data.records["base"][:, 3:], axis=1), 1, atol=1e-5)
    assert data.card["provenance"]["policies"] == ["random", "pid"]
    assert 0.02 < data.images(np.arange(len(data))).std() < 0.5


def test_pretraining_writes_an_encoder_that_loads_and_goes_on(folder):
    options = ["--data", "whole", "--batch-size", 32, "--channels", 4, 4, "--validation", 0.25, "--torch-threads", 1]
    done = run(folder, "pretrain_encoder.py", *options, "--out", "eyes.pt", "--epochs", 2)
    assert done.returncode == 0, done.stderr
    encoder = load_encoder(folder / "eyes.pt")
    assert encoder(torch.full((1, 1, 64, 64), 0.2)).shape == (1, 20)
    assert encoder.card["data"]["provenance"]["seed"] == 0
    assert list((folder / "runs" / "eyes").glob("events.out.tfevents*"))
    done = run(folder, "pretrain_encoder.py", *options, "--out", "eyes.pt", "--epochs", 2)
    assert done.returncode == 2 and "--resume" in done.stderr
    done = run(folder, "pretrain_encoder.py", *options, "--out", "eyes.pt", "--epochs", 3, "--resume")
    assert done.returncode == 0 and "epoch   3 of 3" in done.stdout, done.stderr


def test_an_encoder_is_probed_on_a_data_set(folder):
    done = run(folder, "probe_encoder.py", "--data", "whole")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 + 2 * 2 * 5 + 1 + 2 + 3 * 2 and {line.count("|") for line in lines} == {7, 0}
    assert sum(line.startswith("| from embeddings and tilt, by a network") for line in lines) == 1
    assert sum("slope ahead from embeddings and tilt" in line for line in lines) == 1


def test_bad_input_is_refused_by_name(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    truncated = tmp_path / "cut"
    truncated.mkdir()
    for name in ("card.json", "images.u16", "records.bin"):
        (truncated / name).write_bytes((folder / "whole" / name).read_bytes())
    (truncated / "images.u16").write_bytes(b"1234")
    few = tmp_path / "few"
    few.mkdir()
    for name in ("card.json", "images.u16", "records.bin"):
        (few / name).write_bytes((folder / "whole" / name).read_bytes())
    card = json.loads((few / "card.json").read_text()) | {"format_version": 1}  # which had no checksums
    (few / "card.json").write_text(json.dumps(card | {"num_images": 10, "crc32": {}}))
    (tmp_path / "policy.pt").write_bytes(b"no policy")
    unexplained, endless = tmp_path / "unexplained", tmp_path / "endless"
    for place, changed in ((unexplained, {"provenance": "x"}), (endless, {"max_depth": math.inf})):
        place.mkdir()
        (place / "card.json").write_text(json.dumps(card | {"num_images": 0} | changed))
    for script, options, message in (
        ("collect_depth.py", ["--num-images", 0], "--num-images must be a"),
        ("collect_depth.py", ["--num-envs", 0], "num_envs=0 is out of range"),
        ("collect_depth.py", ["--interval", 0], "--interval must be a"),
        ("collect_depth.py", ["--seed", -1], "--seed must be a"),
        ("collect_depth.py", ["--policy", "none.pt"], "--policy none.pt: use random, pid, a classical controller"),
        ("collect_depth.py", ["--policy", tmp_path / "policy.pt"], "damaged or no checkpoint"),
        ("pretrain_encoder.py", ["--data", "nowhere"], "no card.json"),
        ("pretrain_encoder.py", ["--data", "empty"], "no card.json"),
        ("pretrain_encoder.py", ["--data", truncated], "it was truncated"),
        ("pretrain_encoder.py", ["--data", few], "collect more"),
        ("pretrain_encoder.py", ["--data", folder / "whole", "--epochs", 0], "epochs must be a whole number"),
        ("pretrain_encoder.py", ["--data", folder / "whole", "--lr", -1], "lr must be a number above 0"),
        (
            "pretrain_encoder.py",
            ["--data", folder / "whole", "--run-name", "../x"],
            "must be a plain folder name",
        ),
        (
            "collect_depth.py",
            [*COLLECT, "--num-images", 1, "--out", unexplained],
            "does not say how the images",
        ),
        ("pretrain_encoder.py", ["--data", endless], "max_depth inf"),
        ("probe_encoder.py", ["--data", "nowhere"], "no card.json"),
        ("probe_encoder.py", ["--data", folder / "whole", "--encoder", "none.pt"], "none.pt does not exist"),
        (
            "pretrain_encoder.py",
            ["--data", folder / "whole", "--batch-size", 32, "--resume"],
            "training.pt does not exist",
        ),
    ):
        done = call(script, *options, folder=tmp_path)
        assert done.returncode == 2 and message in done.stderr, (options, done.stderr)


def test_a_picture_shows_both_renderers_and_what_an_encoder_keeps(folder):
    eyes = folder / "random_eyes.pt"
    save_encoder(eyes, FrozenEncoder(Autoencoder(Architecture())))
    for kind in dict.fromkeys((os.environ.get("MUJOCO_GL") or "egl", "egl", "osmesa")):
        variables = os.environ | {"MUJOCO_GL": kind}
        done = run(folder, "show_cameras.py", "--encoder", eyes, "--out", "seen.png", env=variables)
        if done.returncode == 0:
            assert (folder / "seen.png").read_bytes()[:4] == b"\x89PNG"
            assert float(done.stdout.split("median difference ")[1].split()[0]) < 1e-4
            cheap = run(folder, "show_cameras.py", "--sensors.camera-holes", 0.2, "--out", "cheap.png", env=variables)
            lost = [float(out.split("loses: ")[1].split()[0]) for out in (done.stdout, cheap.stdout)]
            assert cheap.returncode == 0 and lost[0] != lost[1]
            assert (folder / "cheap.png").read_bytes() != (folder / "seen.png").read_bytes()
            break
    else:
        assert "error: " in done.stderr
    variables = os.environ | {"MUJOCO_GL": "glfw", "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    done = run(folder, "show_cameras.py", "--out", "none.png", env=variables)
    assert done.returncode == 2 and "MUJOCO_GL=egl" in done.stderr and not (folder / "none.png").exists()
    done = call("show_cameras.py", "--tilt-deg", "nan", folder=folder)
    assert done.returncode == 2 and "--tilt-deg must be a finite number, got nan" in done.stderr
    done = call("show_cameras.py", "--encoder", "none.pt", folder=folder)
    assert done.returncode == 2 and "none.pt does not exist" in done.stderr
