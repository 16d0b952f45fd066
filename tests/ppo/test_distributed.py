"""Several processes started by torchrun learn as one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import SETTINGS, forked, torchrun
from toy import BATCH, PointEnv, curve

from ballbot.ppo import PPOConfig, load_checkpoint, train
from ballbot.ppo.distributed import distributed_setup
from ballbot.ppo.state import training_seed

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform != "linux", reason="needs gloo and torchrun"
)


@pytest.mark.fault("torchrun with two ranks, stopped and resumed: the same bits")
@pytest.mark.parametrize("per_step", [pytest.param(False, marks=pytest.mark.slow), True])
def test_ranks_end_alike_and_resume_to_the_last_bit(tmp_path: Path, per_step: bool) -> None:
    whole = tmp_path / "whole"
    options: dict[str, Any] = {
        "normalize_observations_per_step": per_step,
        "normalize_advantage_per_minibatch": per_step,
    }
    done = torchrun(whole, **options)
    assert done.returncode == 0, done.stderr
    # gloo's threads are gone before the interpreter shuts down, where they could abort the process
    assert done.stderr.count("threads at exit: 1\n") == 2, done.stderr
    one, two = (torch.load(tmp_path / f"rank{i}.pt", weights_only=True) for i in range(2))
    assert one["step"] == two["step"] == 6 * BATCH
    for key in one["agent"]:
        assert torch.equal(one["agent"][key], two["agent"][key]), key
    # the steps of both processes; the observations after the last step wait for the next rollout
    assert one["agent"]["normalizer.count"] == 6 * BATCH
    observations = torch.stack([*one["seen"][:-1], *two["seen"][:-1]]).double().flatten(0, 1)
    torch.testing.assert_close(one["agent"]["normalizer.mean"], observations.mean(0))
    torch.testing.assert_close(one["agent"]["normalizer.var"], observations.var(0, correction=0))
    state = load_checkpoint(whole / "last.pt")
    assert len(state["ranks"]) == 2
    assert not np.array_equal(state["ranks"][0]["obs"], state["ranks"][1]["obs"])

    expected = curve(whole)
    assert len(expected) == 6
    again = torchrun(whole, resume=str(whole / "checkpoints" / f"step_{2 * BATCH}.pt"), **options)
    assert again.returncode == 0, again.stderr
    assert curve(whole) == expected
    resumed = torch.load(tmp_path / "rank1.pt", weights_only=True)
    for key in one["agent"]:
        assert torch.equal(one["agent"][key], resumed["agent"][key]), key

    with pytest.raises(Exception, match=r"number of processes \(then 2, now 1\)"):
        train(PPOConfig(**(SETTINGS | options)), PointEnv, run_dir=whole, resume=whole, console=False)


@pytest.mark.fault("torchrun with two ranks against one: the same networks, up to rounding")
@pytest.mark.parametrize(
    "options",
    [
        {"cartpole_mode": "SAME_STEP"},
        {
            "cartpole_mode": "NEXT_STEP",
            "normalize_observations_per_step": True,
            "normalize_advantage_per_minibatch": True,
        },
        {"cartpole_mode": "NEXT_STEP", "memory": "gru", "minibatch_size": 16},
    ],
    ids=["same step", "next step", "memory"],
)
def test_two_processes_learn_what_one_does(tmp_path: Path, options: dict[str, Any]) -> None:
    """Up to the order in which sums over steps are rounded."""
    agents = []
    for processes in (1, 2):
        forked(tmp_path / f"run{processes}", processes=processes, **options)
        agents.append(torch.load(tmp_path / "rank0.pt", weights_only=True)["agent"])
    begun = load_checkpoint(tmp_path / "run1" / "checkpoints" / f"step_{2 * BATCH}.pt")["agent"]
    for key, learned in agents[0].items():
        torch.testing.assert_close(agents[1][key], learned, rtol=1e-4, atol=1e-5)
    assert max(float((agents[0][key] - begun[key]).abs().max()) for key in begun) > 1e-2, "nothing was learned"


@pytest.mark.parametrize(
    "options",
    [pytest.param({"value_only": ["age"]}, marks=pytest.mark.slow), {"value_only": ["age"], "memory": "gru"}],
    ids=["value only", "memory"],
)
def test_ranks_of_other_agents_end_alike_and_resume_to_the_last_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    whole = tmp_path / "whole"
    forked(whole, **options)
    agents = [torch.load(tmp_path / f"rank{i}.pt", weights_only=True)["agent"] for i in range(2)]
    forked(whole, resume=str(whole / "checkpoints" / f"step_{2 * BATCH}.pt"), **options)
    agents += [torch.load(tmp_path / f"rank{i}.pt", weights_only=True)["agent"] for i in range(2)]
    for key, expected in agents[0].items():
        assert all(torch.equal(agent[key], expected) for agent in agents[1:]), key


def test_a_failing_process_takes_the_others_with_it(tmp_path: Path) -> None:
    done = torchrun(tmp_path / "r", fail_rank=1)
    assert done.returncode != 0
    assert "the simulator of one process broke" in done.stderr


def test_what_does_not_divide_is_an_error(tmp_path: Path) -> None:
    done = torchrun(tmp_path / "r", num_envs=5, minibatch_size=16)
    assert "num_envs = 5 does not divide among 2 processes" in done.stderr


def test_the_run_directory_is_checked_for_all(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.json").touch()
    done = torchrun(tmp_path / "r")
    assert done.returncode != 0
    assert done.stderr.count("already holds a run") >= 2


def test_seeds_lie_far_apart() -> None:
    seeds = sorted(training_seed(PPOConfig(seed=seed), index) for seed in range(10) for index in range(64))
    assert min(np.diff(seeds)) > 64
    assert seeds[-1] < 2**30


def test_training_seeds_keep_clear_of_evaluation_seeds() -> None:
    num_envs = 16
    plain = training_seed(PPOConfig(seed=0), 1)
    for shift in range(-30, 30):
        config = PPOConfig(seed=0, num_envs=num_envs, eval_seed=plain + shift, eval_episodes=5)
        start = training_seed(config, 1)
        training = set(range(start, start + num_envs))
        evaluation = set(range(config.eval_seed, config.eval_seed + config.eval_episodes))
        assert not training & evaluation
        untouched = not set(range(plain, plain + num_envs)) & evaluation
        assert (start == plain) == untouched  # the seeds of other runs stay what they are


def test_a_cuda_device_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert distributed_setup("cuda:1") == (0, 1, torch.device("cuda:1"))
    with pytest.raises(ValueError, match=r'"cuda:2", but there are 2 CUDA devices.*"cuda:0" to "cuda:1"'):
        distributed_setup("cuda:2")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two' is no whole number"),
        ({"WORLD_SIZE": "2", "RANK": "abc"}, "RANK='abc' is no whole number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2 is not below WORLD_SIZE=2"),
    ],
)
def test_what_torchrun_would_not_say_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=words):
        distributed_setup("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_missing_cuda_is_an_error() -> None:
    with pytest.raises(ValueError, match='use device = "cpu"'):
        distributed_setup("cuda")
