# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""experiments/robustness.py: success along one axis after another."""

from __future__ import annotations

import importlib
import json
from itertools import pairwise

import pytest
from inprocess import call

from ballbot.envs import RobotConfig, WorldConfig
from ballbot.envs.robots import robot_of


def test_curves_of_two_controllers_end_where_they_fall(tmp_path):
    short = ("--episodes", 2, "--horizon", 400, "--num-threads", 1)
    done = call(
        "robustness.py", "lqr", "linear", "--axes", "push", "action_delay", *short,
        "--json", "all.json", "--out", "all.png", folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "all.json").read_text())["policies"]
    assert list(found) == ["lqr", "linear"]
    late = {name: [p["success"] for p in of["curves"]["action_delay"]] for name, of in found.items()}
    assert late["lqr"][:4] == [1, 1, 1, 1] and late["linear"][0] == 1 and late["linear"][-1] == 0
    for of in found.values():
        rates = [p["success"] for p in of["curves"]["action_delay"]]
        area = sum((a + b) / 2 for a, b in pairwise(rates)) / (len(rates) - 1)
        assert of["areas"]["action_delay"] == pytest.approx(area)
        assert all(p["low"] <= p["success"] <= p["high"] for p in of["curves"]["push"])
    assert f"| motors are late | {found['lqr']['areas']['action_delay']:.2f} |" in done.stdout
    assert (tmp_path / "all.png").stat().st_size > 10_000


def test_every_axis_is_a_world_and_its_first_value_is_as_it_is_meant():
    robustness = importlib.import_module("robustness")
    for axis in robustness.AXES.values():
        assert len(axis.values) >= 3
        for value in axis.values:
            WorldConfig(terrain="perlin", observation="encoded", **axis.options(value))
        meant = WorldConfig(terrain="perlin", **axis.options(axis.values[0]))
        assert all(low == high for low, high in meant.ranges.values())
        assert set(meant.sensing) <= {"velocity", "wheel_counts"} and not meant.ground
    WorldConfig(**robustness.ALL)


def test_axes_of_cameras_are_for_those_who_see(tmp_path):
    short = ("--episodes", 2, "--horizon", 100, "--num-threads", 1, "--axes", "camera_tilt", "lost", "--out", "all.png")
    done = call("robustness.py", "default", "lqr", *short, "--json", "all.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "all.json").read_text())["policies"]
    assert list(found["default"]["curves"]) == ["camera_tilt", "lost"] and list(found["lqr"]["curves"]) == ["lost"]
    returns = [point["return"] for point in found["default"]["curves"]["camera_tilt"]]
    assert len(set(returns)) == len(returns), "it acts on what it sees"
    assert f"| cameras are crooked | {found['default']['areas']['camera_tilt']:.2f} | - |" in done.stdout


def test_what_cannot_be_judged_is_said(tmp_path):
    for options, message in (
        (("lqr", "--axes", "camera_tilt"), "concern cameras, or wheels of capsules, which lqr has not"),
        (("lqr", "--axes", "pushes"), "did you mean 'push'"),
        (("lqr", "--json", "x.txt"), "--json"),
        (("nobody",), "nobody"),
        ((), "name who is to be judged"),
    ):
        done = call("robustness.py", *options, folder=tmp_path)
        assert done.returncode == 2 and message in done.stderr + done.stdout, (options, done.stderr)


def test_wheels_are_exchanged_where_they_are_the_reference_s():
    robustness = importlib.import_module("robustness")
    wheels = robustness.AXES["wheels"]
    assert wheels.concerns({"observation": "proprioception"})
    assert not wheels.concerns({"observation": "proprioception", "robot": "mini"})
    made = [robot_of("reference", wheels.options(value).get("build", {})) for value in wheels.values]
    assert [(m.wheel_model, m.rollers) for m in made if isinstance(m, RobotConfig)] == [
        ("capsule", 6),
        *(("rollers", n) for n in (8, 6, 4)),
    ]


def test_how_much_is_done_is_told_meanwhile(monkeypatch):
    robustness = importlib.import_module("robustness")

    class Told:
        what, said = "", list[tuple[str, float]]()

        def __call__(self, share):
            self.said.append((self.what, share))

        def close(self):
            pass

    def judged(candidate, world, args, tell):
        tell(0.5)
        return {"success": 1.0, "low": 0.5, "high": 1.0, "return": 1.0}

    monkeypatch.setattr(robustness, "judged", judged)
    robustness.measure(robustness.Args(("lqr", "pid"), axes=("push", "integrator")), told := Told())
    shares = [share for _, share in told.said]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 17.5 / 18
    assert told.said[-1][0] == "pid: integrator, axis 2 of 2"
