"""How our PPO is compared with stable-baselines3's: what both get, what is kept, and what is made of it."""

from __future__ import annotations

import csv
import importlib
import itertools
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

MAINTENANCE = Path(__file__).parents[1] / "experiments" / "maintenance"


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(MAINTENANCE))
    return importlib.import_module("compare_sb3")


def shorten(compare: ModuleType, monkeypatch: pytest.MonkeyPatch, task: str, episodes: int = 3) -> None:
    """One update of `task`."""
    config = compare.TASKS[task].config
    batch = config["num_envs"] * config["num_steps"]
    monkeypatch.setitem(config, "total_timesteps", batch)
    monkeypatch.setattr(compare, "EVAL_EPISODES", episodes)


def test_velocities_of_the_cart_are_hidden_and_nothing_else(compare: ModuleType) -> None:
    ours, whole = compare.make_envs("CartPoleNoVel-v1", 2), gym.make("CartPole-v1")
    position, angle = 4.8, math.radians(24)  # twice where an episode ends, as Gymnasium has it
    np.testing.assert_allclose(ours.single_observation_space.high, [position, angle], rtol=1e-6)
    (seen, _), every = ours.reset(seed=3), np.stack([whole.reset(seed=seed)[0] for seed in (3, 4)])
    np.testing.assert_array_equal(seen, every[:, [0, 2]])
    seen, reward, *_ = ours.step(np.array([0, 1]))
    np.testing.assert_allclose(seen, every[:, [0, 2]] + 0.02 * every[:, [1, 3]], rtol=1e-6)  # Euler, steps of 20 ms
    assert reward.tolist() == [1, 1]


@pytest.mark.parametrize("side", [[3.0, 1.0], [5.0, 1.0, 2.0], [4.0, 8.0, 1.0, 9.0, 2.5]])
def test_the_interval_of_a_median_is_that_of_all_samples_there_are(compare: ModuleType, side: list[float]) -> None:
    medians = np.array([np.median(drawn) for drawn in itertools.product(side, repeat=len(side))])
    expected = np.median(side), *np.quantile(medians, [0.025, 0.975], method="inverted_cdf")
    assert compare.median_interval(side) == pytest.approx(expected)


def test_the_interval_of_a_difference_comes_from_independent_samples(compare: ModuleType) -> None:
    ours, theirs = [5.0, 1.0, 2.0], [4.0, 40.0, 400.0]
    medians = [np.array([np.median(x) for x in itertools.product(side, repeat=3)]) for side in (ours, theirs)]
    differences = (medians[0][:, None] - medians[1][None]).ravel()
    expected = 2.0 - 40.0, *np.quantile(differences, [0.025, 0.975], method="inverted_cdf")
    assert compare.median_interval(ours, theirs) == pytest.approx(expected)
    assert compare.in_words(compare.median_interval(ours, theirs)).startswith("-38.0 [")


def test_a_single_run_has_no_interval_and_none_is_missing(compare: ModuleType) -> None:
    assert compare.in_words(compare.median_interval([2.5])) == "2.5"
    assert compare.in_words(compare.median_interval([])) == "missing"
    assert compare.in_words(compare.median_interval([2.5], [])) == "missing"


def test_runs_that_are_written_down_are_not_run_again(
    compare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[tuple[str, str, int]] = []

    def run_one(library: str, task: str, seed: int) -> dict[str, Any]:
        if seed == 2:
            raise KeyboardInterrupt
        started.append((library, task, seed))
        row = dict.fromkeys(compare.COLUMNS, "x") | {"task": task, "library": library, "seed": seed, "steps": 200_000}
        return row | {"episodes": 100, "return": 10.0 + seed - len(library), "seconds": 1.0}

    monkeypatch.setattr(compare, "run_one", run_one)
    table = tmp_path / "rows.csv"
    options = ["--csv", str(table), "--tasks", "Acrobot-v1", "--seeds"]
    assert compare.main([*options, "0", "2"]) == 130
    both = [("ballbot", "Acrobot-v1", 0), ("stable-baselines3", "Acrobot-v1", 0)]
    assert started == both
    first = table.read_text()
    assert compare.main([*options, "0", "1"]) == 0
    assert started[2:] == [(library, task, 1) for library, task, _ in both]
    assert table.read_text().startswith(first) and len(compare.read_rows(table)) == 4
    assert "3.5 [3.0, 4.0]" in capsys.readouterr().out
    table.write_text(table.read_text().replace(",3.0,", ",-33.0,").replace(",4.0,", ",-34.0,"))
    assert compare.main([*options, "0", "1"]) == 1  # ours is worse, and nothing was run
    assert len(started) == 4


def test_tables_of_other_columns_are_refused(compare: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("task,library,seed,steps,episodes,return,seconds\n")
    with pytest.raises(ValueError, match="its columns must be task, library, seed"):
        compare.read_rows(tmp_path / "rows.csv")


def test_a_line_that_was_cut_off_is_named(
    compare: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "rows.csv"
    table.write_text(",".join(compare.COLUMNS) + "\nAcrobot-v1,ball")
    assert compare.main(["--csv", str(table), "--tasks", "Acrobot-v1"]) == 2
    assert f"{table}, line 2: it has 2 values, not 10; mend or delete that line" in capsys.readouterr().err


def test_a_task_that_needs_another_package_names_it(
    compare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make_envs(task: str, num_envs: int) -> None:
        raise gym.error.DependencyNotInstalled("Box2D is not installed")

    monkeypatch.setattr(compare, "make_envs", make_envs)
    assert compare.main(["--csv", str(tmp_path / "rows.csv"), "--tasks", "LunarLander-v3"]) == 2
    assert 'LunarLander-v3 needs more: pip install "gymnasium[box2d]"' in capsys.readouterr().err


@pytest.mark.parametrize("task", ["CartPole-v1", "CartPoleNoVel-v1"])
def test_a_row_says_what_ran(compare: ModuleType, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("stable_baselines3" if task == "CartPole-v1" else "sb3_contrib")
    shorten(compare, monkeypatch, task)
    table = tmp_path / "rows.csv"
    compare.main(["--csv", str(table), "--tasks", task, "--seeds", "7"])
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["library"] for row in rows] == list(compare.libraries(task))
    for row in rows:
        assert (row["task"], row["seed"], row["steps"], row["episodes"]) == (task, "7", "256", "3")
        assert 8 <= float(row["return"]) <= 500 and float(row["seconds"]) > 0
        assert row["versions"].startswith(f"{row['library']} ") and torch.__version__ in row["versions"]


def test_a_recurrent_policy_is_judged_as_its_library_acts(compare: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three sequences at once, as `evaluate` has them, against one after the other by the library's own means."""
    pytest.importorskip("sb3_contrib")
    shorten(compare, monkeypatch, "CartPoleNoVel-v1")
    agent = compare.train_sb3("CartPoleNoVel-v1", 0)
    model, normalizing = agent._model, agent._model.get_vec_normalize_env()
    assert normalizing.obs_rms.count > 200
    with torch.no_grad():  # so much that what it remembers decides
        model.policy.lstm_actor.weight_hh_l0.mul_(10)
        model.policy.action_net.bias.zero_()
    observations = np.random.default_rng(0).uniform(-0.2, 0.2, (30, 3, 2)).astype(np.float32)

    def alone(i: int, remembers: bool) -> list[int]:
        state, actions = None, []
        for obs in normalizing.normalize_obs(observations[:, i]):
            action, state = model.predict(obs, state if remembers else None, deterministic=True)
            actions.append(int(action))
        return actions

    expected = np.transpose([alone(i, True) for i in range(3)])
    assert (expected != np.transpose([alone(i, False) for i in range(3)])).any()
    for _ in range(2):  # the second time it remembers nothing of the first
        agent.new_memory(3)
        np.testing.assert_array_equal([agent.act(obs).numpy() for obs in observations], expected)
    assert any((agent.act(obs).numpy() != row).any() for obs, row in zip(observations, expected, strict=True))
