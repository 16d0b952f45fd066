# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Height maps of runs: recorded, kept, and missed when they are no longer what they were."""

import hashlib
import json
import re

import numpy as np
import pytest
from inprocess import call

from ballbot import height_maps
from ballbot.envs import WorldConfig
from ballbot.errors import SettingsError
from ballbot.evaluation import env_options
from ballbot.ppo import load_policy

SMALL = [
    "--no-cameras", "--num-terrains=2", "--num-envs=2", "--num-steps=16", "--minibatch-size=32", "--hidden-size=8",
    "--num-threads=1", "--max-episode-steps=100", "--eval-episodes=2", "--action-repeat=1", "--total-timesteps=64",
]  # fmt: skip


def test_a_run_keeps_its_map_and_misses_it_when_it_is_another(tmp_path, monkeypatch):
    own = tmp_path / "field.npy"
    np.save(own, np.random.default_rng(0).random((50, 50)) * 0.01)
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    done = call("ppo_ballbot.py", *SMALL, "--terrain", "field.npy:0.5", "--run-name", "own", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    run, copy = tmp_path / "runs" / "own", f"height_maps/{digest[:16]}.npy"
    assert json.loads((run / "config.json").read_text())["env_metadata"]["height_maps"] == {"field.npy": digest}
    assert (run / copy).read_bytes() == own.read_bytes()

    resume = ["--resume", "runs/own", "--total-timesteps", "96"]
    judge = ["runs/own", "--episodes", "2", "--horizon", "40", "--num-terrains", "2", "--num-threads", "1"]
    done = call("ppo_ballbot.py", *resume, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    np.save(own, np.zeros((50, 50)))
    for word in ("was changed since", "is gone"):
        done = call("ppo_ballbot.py", *resume[:-1], "128", folder=tmp_path)
        remedy = f"{word}.*put the copy runs/own/{copy} in its place"
        assert done.returncode == 2 and re.search(remedy, done.stderr), done.stderr
        done = call("evaluate.py", *judge, folder=tmp_path)  # which takes the copy
        assert done.returncode == 0, done.stderr
        monkeypatch.chdir(tmp_path)
        assert env_options(load_policy(run))["terrain"] == f"{run / copy}:0.5"
        own.unlink(missing_ok=True)
    np.save(own, np.zeros((50, 50)))
    (run / copy).unlink()
    with pytest.raises(SettingsError, match=r"'field\.npy', which .* was made with, was changed since .* as it was"):
        env_options(load_policy(run))
    own.unlink()
    assert env_options(load_policy(run))["terrain"] == "field.npy:0.5"  # to be judged on other ground
    done = call("evaluate.py", *judge, folder=tmp_path)
    assert done.returncode == 2 and "cannot be opened: No such file" in done.stderr, done.stderr
    assert call("evaluate.py", *judge, "--terrain", "flat", folder=tmp_path).returncode == 0
    done = call("ppo_ballbot.py", *SMALL, "--terrain", "none.png", "--run-name", "other", folder=tmp_path)
    assert done.returncode == 2 and "height map 'none.png' cannot be opened" in done.stderr, done.stderr


def test_maps_of_a_mixture_are_maps_too(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(9))
    path = str(tmp_path / "a.npy")
    world = WorldConfig(terrain="mixed", ground={"kinds": f"hills file(path={path})"})
    assert height_maps.paths(world) == [path] and list(height_maps.digests(world)) == [path]
    assert len(height_maps.files(world)) == 1 and not height_maps.files(WorldConfig())


@pytest.mark.parametrize("recorded", [3, {"field.npy": 3}, ["field.npy"], None])
def test_a_damaged_record_is_named(tmp_path, recorded):
    with pytest.raises(SettingsError, match=r"runs/x is damaged: its height maps are"):
        height_maps.as_recorded(WorldConfig(), recorded, "runs/x", tmp_path)
