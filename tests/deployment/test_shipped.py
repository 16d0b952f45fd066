# mypy: allow-untyped-defs, allow-untyped-calls
"""The policies that come with ballbot travel, say what they are worth, and are what scripts use without an argument."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from pathlib import Path

import pytest

from ballbot.deployment.shipped import SHIPPED, find_policy, read_card
from ballbot.envs import BallbotVectorEnv
from ballbot.evaluation import env_options, find_candidate, run_episodes
from ballbot.ppo import PPOConfig, load_policy

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.chdir(tmp_path)
    return importlib.import_module


def test_there_is_a_default():
    assert "default" in SHIPPED
    assert find_policy("default") == SHIPPED["default"]
    assert find_policy("./default") == find_policy(Path("default")) == Path("default")
    assert find_policy("runs/first") == Path("runs/first")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_card_says_what_the_file_holds(name):
    card, policy = read_card(name), load_policy(SHIPPED[name])
    assert card["name"] == name and card["steps"] == policy.step
    assert card["commit"] and set(card["commit"]) <= set("0123456789abcdef")
    assert card["sha256"] == hashlib.sha256(SHIPPED[name].read_bytes()).hexdigest()
    PPOConfig(**card["config"]["ppo"])
    assert card["config"]["env"]["frame"] == policy.metadata["frame"]
    assert card["evaluation"]["episodes"] == 100
    assert card["evaluation"]["terrain"] == card["config"]["env"].get("terrain", "perlin")
    assert all(math.isfinite(x) for x in card["evaluation"]["return_ci95"])
    # what is estimated is turned and mirrored too, by matrices of a megabyte
    assert SHIPPED[name].stat().st_size < (1_000_000 if policy.agent.estimate is None else 2_000_000)


def test_the_default_policy_travels():
    policy = load_policy(find_policy("default"))
    envs = BallbotVectorEnv(
        4, **env_options(policy), terrain_split="eval", terrain_seed=1, num_terrains=4, max_episode_steps=1500
    )
    found = run_episodes(envs, lambda obs, began: policy.predict(obs), 4, seed=0)
    envs.close()
    assert found.outcomes == ["success"] * 4
    assert found.speed_along_goal.mean() > 0.1  # 3 s, the start included


def test_the_robust_policy_stands_where_the_default_one_falls():
    world = {"randomize": "strong", "sensors": "cheap", "terrain_split": "eval", "terrain_seed": 1, "num_terrains": 12}
    fallen = {}
    for name in ("robust", "default"):
        candidate = find_candidate(name)
        options = {name: value for name, value in candidate.options.items() if name != "sensing"}
        envs = BallbotVectorEnv(12, **options | world, max_episode_steps=1500)
        found = run_episodes(envs, candidate.make_actor(envs), 12, 0)
        envs.close()
        fallen[name] = 12 - found.outcomes.count("success")
    assert fallen["robust"] <= 1 and fallen["default"] >= 10, fallen


def test_the_policy_of_the_road_follows_it():
    policy = load_policy(find_policy("road"))
    options = {**env_options(policy), "terrain_split": "eval", "terrain_seed": 1, "num_terrains": 6}
    envs = BallbotVectorEnv(6, **options)

    def act(obs, began):
        return policy.predict(obs)

    mistaken = importlib.import_module("evaluate").with_images_of_others(act, envs.layout.sensed)
    own, others = (run_episodes(envs, actor, 6, seed=0) for actor in (act, mistaken))
    envs.close()
    assert own.outcomes.count("success") >= 5, own.outcomes
    assert others.outcomes.count("success") <= 3, others.outcomes


def test_scripts_without_an_argument_use_it(script, capsys, tmp_path):
    evaluate = script("evaluate")
    assert evaluate.main(["--episodes", "2", "--horizon", "60", "--num-terrains", "2", "--json", "a.json"]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["policy"] == "default"
    assert evaluate.main(["linear:0.2", "--episodes", "2", "--horizon", "60", "--num-terrains", "2"]) == 0
    for wrong in ("linear:x", "linear:2", "linear:nan"):
        assert evaluate.main([wrong, "--episodes", "2"]) == 2
        assert "a speed from 0 to 1 m/s" in capsys.readouterr().err
    assert script("watch").Args().checkpoint == "default"
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert script("export_policy").main(["--observations", "40"]) == 0
    assert {path.name for path in tmp_path.glob("*.onnx")} == {"policy.onnx", "policy.camera.onnx"}
