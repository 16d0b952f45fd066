# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""The search for gains of a controller: what it starts from, drives with, and keeps."""

import json

import numpy as np
import pytest
from inprocess import call

from ballbot.controllers import CONTROLLERS, controlled_fields
from ballbot.envs import BallbotVectorEnv

fit_gains = pytest.importorskip("fit_gains")  # needs the extra "dev"
SMALL = ("--population", "4", "--episodes", "2", "--horizon", "50", "--generations", "2", "--num-threads", "1")


@pytest.mark.parametrize("name", ["linear", "observer", "foresight"])
def test_gains_given_robot_by_robot_drive_as_those_of_a_controller(name):
    kind = CONTROLLERS[name]
    gains = fit_gains.gains_of(kind)
    other = {key: 0.9 * value for key, value in gains.items()}
    envs = BallbotVectorEnv(4, extra_fields=controlled_fields(name), action_repeat=5, num_terrains=2, num_threads=1)
    both = {key: np.array([gains[key], gains[key], other[key], other[key]]) for key in gains}
    drivers = kind(envs.dt), fit_gains.with_gains(kind, envs.dt, other), fit_gains.with_gains(kind, envs.dt, both)
    observations, _ = envs.reset(seed=[3, 4, 3, 4])
    began = np.ones(4, bool)
    for _ in range(60):
        first, second, mixed = (driver(observations, began) for driver in drivers)
        np.testing.assert_array_equal(mixed, np.concatenate([first[:2], second[2:]]))
        observations, *_ = envs.step(mixed)
        began[:] = False
    assert np.abs(first - second).max() > 0.01
    envs.close()


def test_the_search_goes_on_from_what_it_kept(tmp_path):
    done = call("maintenance/fit_gains.py", "linear", *SMALL, "--json", "gains.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    kept = json.loads((tmp_path / "gains.json").read_text())
    assert len(lines) == 2 and lines[1].endswith(f"now {kept}") and kept != fit_gains.gains_of(CONTROLLERS["linear"])
    again = call("maintenance/fit_gains.py", "linear", *SMALL, "--json", "gains.json", folder=tmp_path)
    assert again.returncode == 0 and json.loads((tmp_path / "gains.json").read_text()) != kept
    other = call("maintenance/fit_gains.py", "observer", *SMALL, "--json", "gains.json", folder=tmp_path)
    assert other.returncode == 2 and "holds other gains than observer has: kp, kd, kv, target_speed" in other.stderr


@pytest.mark.parametrize("content", ["", "[1]", '{"kp": "a"}', '{"kp": NaN, "kd": 1, "kv": 1, "target_speed": 1}'])
def test_a_file_of_something_else_is_refused(content, tmp_path):
    (tmp_path / "gains.json").write_text(content)
    done = call("maintenance/fit_gains.py", "linear", *SMALL, "--json", "gains.json", folder=tmp_path)
    assert done.returncode == 2 and "--json gains.json" in done.stderr, done.stderr
    assert (tmp_path / "gains.json").read_text() == content
