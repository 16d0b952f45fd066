# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""An exported policy is the same policy, and its runtime builds the same observations and keeps to what is safe."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from policies import save_policy

from ballbot import encoders
from ballbot.encoders import Architecture, Autoencoder, FrozenEncoder, load_encoder
from ballbot.envs import BallbotVectorEnv
from ballbot.evaluation import env_options, run_episodes
from ballbot.export import export_policy
from ballbot.ppo import load_policy

pytest.importorskip("onnxscript")
onnx: Any = pytest.importorskip("onnx")
runtime = pytest.importorskip("ballbot.runtime")

ROOT = Path(__file__).parents[1]
WORLD: dict[str, Any] = {"terrain_split": "eval", "num_terrains": 2, "num_threads": 1, "max_episode_steps": 150}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Policies that have learned nothing, and their graphs: name -> (policy, options, file)."""
    folder = tmp_path_factory.mktemp("exported")
    found: dict[str, Any] = {}
    seeing: dict[str, Any] = {"observation": "encoded", "encoder": load_encoder().content_hash, "terrain": "perlin"}
    cases: list[tuple[str, int, dict[str, Any]]] = [
        ("body", 17, {}),
        ("world", 15, {"frame": "world", "terrain": "perlin"}),
        ("seeing", 17 + 41, seeing),
    ]
    for name, size, metadata in cases:
        policy = load_policy(save_policy(folder / f"{name}.pt", size, **metadata))
        options = env_options(policy)
        export_policy(policy, folder / f"{name}.onnx", options.get("encoder"))
        found[name] = (policy, options, folder / f"{name}.onnx")
    return found


@pytest.mark.parametrize("name", ["body", "world", "seeing"])
def test_a_graph_acts_as_its_policy(exported, name):
    policy, options, path = exported[name]
    graph = runtime.Controller(path).control
    envs = BallbotVectorEnv(4, **options, **WORLD)
    obs, _ = envs.reset(seed=0)
    for _ in range(60):
        actions = policy.predict(obs)
        np.testing.assert_allclose(graph.run(None, {"observation": obs})[0], actions, atol=1e-5)
        obs, *_ = envs.step(actions)
    assert 0.02 < np.abs(actions).mean() < 0.98  # not all at the limits, where any policy is like another
    assert graph.run(None, {"observation": obs[:1]})[0].shape == (1, 3)
    theirs = run_episodes(
        BallbotVectorEnv(4, **options, **WORLD), lambda o, _: graph.run(None, {"observation": o})[0], 4, 0
    )
    ours = run_episodes(BallbotVectorEnv(4, **options, **WORLD), lambda o, _: policy.predict(o), 4, 0)
    np.testing.assert_allclose(theirs.returns, ours.returns, atol=1e-3)


@pytest.mark.parametrize("name", ["body", "world", "seeing"])
def test_the_runtime_builds_the_environments_observation(exported, name):
    policy, options, path = exported[name]
    options = {k: v for k, v in options.items() if k != "encoder"}
    sees = options["observation"] == "encoded"
    encoded = BallbotVectorEnv(1, **options, **WORLD)
    envs = BallbotVectorEnv(1, **(options | {"observation": "depth"} if sees else options), **WORLD)
    obs, _ = envs.reset(seed=3)
    expected, _ = encoded.reset(seed=3)
    controller = runtime.Controller(path)
    for step in range(40):
        robot = envs.simulations.robot_state()
        sensors = runtime.Sensors(
            robot.quaternion[:, 0] * (-1 if step % 2 else 1),  # the same orientation
            robot.gyro[:, 0], robot.velocity[:, 0], robot.wheel_speeds[:, 0], envs.goal,
        )  # fmt: skip
        if sees and obs["image_age"][0, 0] == 0:
            controller.see(obs["depth"][0])
        np.testing.assert_allclose(controller.observe(sensors), expected[0], atol=2e-6)
        torques = controller.act(sensors)
        assert controller.status == "ok"
        np.testing.assert_allclose(torques, -10 * policy.predict(expected[0]).astype(float), atol=1e-3)
        actions = (torques / -10)[None]
        obs, *_ = envs.step(actions)
        expected, *_ = encoded.step(actions)


def save_encoder(path):
    """An encoder that has learned nothing."""
    torch.manual_seed(0)
    encoder = FrozenEncoder(Autoencoder(Architecture()))
    encoders.save_encoder(path, encoder)
    return encoder


def upright(**changes):
    values = {
        "orientation": np.array([1.0, 0, 0, 0]),
        "angular_velocity": np.array([0.1, 0.2, 0.3]),
        "velocity": np.array([0.1, 0, 0]),
        "wheel_speeds": np.ones(3),
        "goal": np.array([0.0, 1.0]),
    }
    return runtime.Sensors(**(values | changes))


def test_missing_and_impossible_sensors_are_held_briefly_and_then_torques_are_zero(exported):
    controller = runtime.Controller(exported["body"][2])
    broken = (
        upright(angular_velocity=np.full(3, np.nan)),
        upright(wheel_speeds=np.zeros(2)),
        upright(velocity=None),
        upright(orientation=np.zeros(4)),
        upright(velocity=np.array([np.inf, 0, 0])),
    )
    for wrong in (
        {"velocity": np.array([np.inf, 0, 0])},
        {"velocity": np.array([1e3, 0, 0])},
        {"velocity": [None] * 3},
        {"velocity": ["a", "b", "c"]},
        {"velocity": [[1], [1, 2], 3]},
        {"goal": np.array([1, None], object)},
        {"goal": np.zeros(2)},
    ):
        controller.reset()
        assert not controller.act(upright(**wrong)).any() and controller.status == "sensors lost", wrong
    controller.reset()
    assert not controller.act(broken[0]).any() and controller.status == "sensors lost"
    controller.reset()
    assert controller.act(upright()).any() and controller.status == "ok"
    for sensors in broken:
        assert controller.act(sensors).any() and controller.status == "sensors held"
    assert not controller.act(broken[0]).any() and controller.status == "sensors lost"
    assert controller.act(upright()).any() and controller.status == "ok"
    tilted = np.array([np.cos(np.radians(21) / 2), np.sin(np.radians(21) / 2), 0, 0])
    assert not controller.act(upright(orientation=tilted)).any() and controller.status == "fallen"
    assert not controller.act(upright()).any() and controller.status == "fallen"  # picked up, but not switched on
    controller.reset()
    tilted = np.array([np.cos(np.radians(19) / 2), 0, np.sin(np.radians(19) / 2), 0])
    assert controller.act(upright(orientation=tilted)).any() and controller.status == "ok"


def test_what_is_held_is_a_copy_of_the_last_good_values(exported):
    controller, buffer = runtime.Controller(exported["body"][2]), np.zeros(3)
    sensors = upright(velocity=buffer)
    controller.act(sensors)
    buffer[:] = np.nan
    assert np.isfinite(controller.act(sensors)).all() and controller.status == "sensors held"
    buffer[:] = 0
    assert np.isfinite(controller.act(sensors)).all() and controller.status == "ok"


def test_numbers_that_are_not_finite_do_not_reach_the_motors(exported, monkeypatch):
    controller = runtime.Controller(exported["body"][2])

    class Broken:
        def run(self, names, inputs):
            return [np.full((1, 3), np.nan, np.float32)]

    monkeypatch.setattr(controller, "control", Broken())
    assert (controller.act(upright()) == 0).all() and controller.status == "policy failed"
    assert (controller._last_action == 0).all()


def test_images_age_while_the_robot_does_not_drive(exported):
    controller = runtime.Controller(exported["seeing"][2])
    controller.see(np.full((2, 64, 64), 0.3))
    for _ in range(60):
        controller.act(upright(velocity=None))
    assert controller.status == "sensors lost"
    controller.act(upright())
    assert controller.status == "stale image"


def test_images_are_needed_age_and_grow_stale(exported):
    controller = runtime.Controller(exported["seeing"][2])
    assert not controller.act(upright()).any() and controller.status == "no image"
    image = np.full((2, 64, 64), 0.3)
    image[0, 0, 0], image[1, 1, 1] = np.nan, 7.0
    controller.see(image)
    clean = np.where(np.isnan(image) | (image > 1), 1.0, image)
    theirs = controller.observe(upright())
    controller.see(clean)
    np.testing.assert_array_equal(controller.observe(upright()), theirs)
    ages = []
    for _ in range(60):
        ages.append(controller.observe(upright())[-1])
        assert controller.act(upright()).any()
    np.testing.assert_allclose(ages[:8], [0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.01, 0.01], atol=1e-6)
    assert controller.status == "stale image"
    controller.see(clean)
    controller.act(upright())
    assert controller.status == "ok"
    with pytest.raises(ValueError, match=r"this policy takes \(2, 64, 64\)"):
        controller.see(clean[:1])
    with pytest.raises(ValueError, match="trained without cameras"):
        runtime.Controller(exported["body"][2]).see(clean)


def test_graphs_that_do_not_belong_together_are_refused(exported, tmp_path):
    path = exported["seeing"][2]
    (tmp_path / "p.onnx").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"seeing\.camera\.onnx does not exist"):
        runtime.Controller(tmp_path / "p.onnx")
    with pytest.raises(ValueError, match="holds a camera graph"):
        runtime.Controller(path.with_name("seeing.camera.onnx"))
    with pytest.raises(ValueError, match="does not exist"):
        runtime.Controller(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match="is no policy that export_policy"):
        runtime.Controller(tmp_path / "bad.onnx")
    other = save_encoder(tmp_path / "other.pt")
    seeing = {"observation": "encoded", "encoder": other.content_hash, "terrain": "perlin"}
    policy = load_policy(save_policy(tmp_path / "o.pt", 58, **seeing))
    _, camera = export_policy(policy, tmp_path / "o.onnx", other)
    camera.rename(tmp_path / "seeing.camera.onnx")
    with pytest.raises(ValueError, match=f"holds the encoder {other.content_hash[:16]}"):
        runtime.Controller(tmp_path / "p.onnx")


def test_damaged_graphs_are_refused(exported, tmp_path):
    content = exported["body"][2].read_bytes()
    file = tmp_path / "p.onnx"
    for place in (len(content) // 3, len(content) // 2, len(content) - 200):
        file.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"does not match its checksum|is no policy that export_policy"):
            runtime.Controller(file)
    model = onnx.load_from_string(content)
    for contract in ("[]", "{}", '{"kind": "control"}'):
        onnx.helper.set_model_props(model, {"ballbot": contract})
        file.write_bytes(model.SerializeToString())
        with pytest.raises(ValueError, match=r"p\.onnx (holds a None graph|does not match its checksum)"):
            runtime.Controller(file)


def test_a_policy_that_cannot_be_proved_replaces_nothing(tmp_path):
    save_policy(tmp_path / "nan.pt", gain=np.nan)
    (tmp_path / "policy.onnx").write_bytes(b"good")
    done = run(tmp_path, "nan.pt", "--observations", 20)
    assert done.returncode == 2 and "not finite" in done.stderr
    assert (tmp_path / "policy.onnx").read_bytes() == b"good"
    assert {p.name for p in tmp_path.iterdir()} == {"nan.pt", "policy.onnx"}


def test_a_graph_tells_its_contract_and_nothing_of_the_machine_that_made_it(exported):
    for name, size in (("body", 17), ("world", 15), ("seeing", 58)):
        path = exported[name][2]
        contract = runtime.Controller(path).contract
        assert sum(field["size"] for field in contract["input"]["fields"]) == size
        assert contract["torque_per_action"] == -10 and contract["period"] == 0.002
        assert contract["trained_steps"] == 1234
        content = path.read_bytes()
        assert str(ROOT).encode() not in content and sys.prefix.encode() not in content
    assert json.dumps(contract["camera"])


def test_the_runtime_needs_numpy_and_onnxruntime_alone():
    tree = ast.parse((ROOT / "ballbot" / "runtime.py").read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}


def run(folder, *options):
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "export_policy.py"), *map(str, options)],
        cwd=folder, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_export_policy_proves_what_it_wrote(tmp_path):
    save_policy(tmp_path / "p.pt", 58, observation="encoded", encoder=load_encoder().content_hash, terrain="perlin")
    done = run(tmp_path, "p.pt", "--observations", 100, "--episodes", 2)
    assert done.returncode == 0, done.stderr
    returns = re.findall(r"2 episodes by (?:PyTorch|the graph): return (\d+\.\d+)", done.stdout)
    assert len(returns) == 2 and float(returns[0]) == pytest.approx(float(returns[1]), abs=0.05)
    assert "policy.camera.onnx" in done.stdout and "on 100 observations" in done.stdout
    assert {p.name for p in tmp_path.iterdir()} == {"p.pt", "policy.onnx", "policy.camera.onnx"}


def test_bad_input_is_named_and_exits_with_2(tmp_path):
    save_policy(tmp_path / "p.pt")
    save_policy(tmp_path / "foreign.pt", observation=None)
    for options, words in (
        (["none.pt"], "none.pt does not exist"),
        (["foreign.pt"], "was not trained on Ballbot-v0"),
        (["p.pt", "--out", "policy.pt"], "must end in .onnx"),
        (["p.pt", "--out", "nowhere/policy.onnx"], "there is no folder nowhere"),
        (["pid"], "pid is no network"),
        (["p.pt", "--observations", 0], "--observations 0 is out of range"),
        (["p.pt", "--encoder", "e.pt"], "trained without cameras"),
    ):
        done = run(tmp_path, *options)
        assert done.returncode == 2 and words in done.stderr, (options, done.stderr)
    assert not list(tmp_path.glob("*.onnx"))
