"""The running average of the networks: what is evaluated and deployed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import BATCH, TOY, PointEnv

from ballbot.ppo import Agent, PPOConfig, evaluate, load_agent, load_checkpoint, train
from ballbot.ppo.ppo import make_optimizer
from ballbot.ppo.state import TrainingState

SETTINGS = TOY | {"total_timesteps": 6 * BATCH, "eval_interval": 2 * BATCH, "learning_rate": 3e-3}


def fresh_state(policy_average: float | None) -> TrainingState:
    config, envs = PPOConfig(**(SETTINGS | {"policy_average": policy_average})), PointEnv(4)
    agent = Agent(envs.single_observation_space, envs.single_action_space, config, torch.Generator().manual_seed(0))
    return TrainingState(config, envs, agent, make_optimizer(agent, config), {}, seed=0)


def set_all(state: TrainingState, value: float) -> None:
    with torch.no_grad():
        for x in (*state.agent.parameters(), *state.agent.buffers()):
            x.fill_(value)


def test_average_by_hand() -> None:
    """After update n the past weighs min(decay, n / (n + 10)): 0, 1/11, then the decay of 0.1 (2/12 is more)."""
    state = fresh_state(0.1)
    expected = [7.0, 1 / 11 * 7 + 10 / 11 * 18, 0.0, 0.0]
    expected[2] = 0.1 * expected[1] + 0.9 * -3
    expected[3] = 0.1 * expected[2] + 0.9 * 5
    for value, mean in zip([7.0, 18.0, -3.0, 5.0], expected, strict=True):
        set_all(state, value)
        state.update_average()
        state.global_step += state.config.batch_size
        for x in state.policy.parameters():
            torch.testing.assert_close(x, torch.full_like(x, mean))
        for x in state.agent.parameters():
            assert torch.equal(x, torch.full_like(x, value)), "averaging must not move what learns"


def test_nothing_is_left_of_the_random_start() -> None:
    state = fresh_state(0.99)
    set_all(state, 1.0)
    state.update_average()
    assert all(torch.equal(a, b) for a, b in zip(state.policy.parameters(), state.agent.parameters(), strict=True))


def test_observation_statistics_are_the_newest() -> None:
    state = fresh_state(0.9)
    for value in (3.0, 8.0):
        set_all(state, value)
        state.update_average()
        state.global_step += 64
    buffers = dict(state.policy.named_buffers())
    assert {"normalizer.mean", "normalizer.var", "normalizer.count"} <= buffers.keys()
    newest = dict(state.agent.named_buffers())
    for name, x in buffers.items():
        assert torch.equal(x, newest[name]) and float(x.flatten()[0]) == 8, name
        assert x.data_ptr() != newest[name].data_ptr(), name


@pytest.mark.parametrize("policy_average", [None, 0.9])
def test_checkpoint_and_result_hold_the_average_if_there_is_one(tmp_path: Path, policy_average: float | None) -> None:
    config = PPOConfig(**(SETTINGS | {"policy_average": policy_average}))
    result = train(config, PointEnv, PointEnv, run_dir=tmp_path / "r", console=False)
    state = load_checkpoint(tmp_path / "r" / "last.pt")
    agent, policy = state["agent"], state["policy"]
    same = [torch.equal(agent[name], policy[name]) for name in agent if name.endswith("weight")]
    assert all(same) if policy_average is None else not any(same)
    deployed = load_agent(tmp_path / "r" / "last.pt").state_dict()
    for name, x in result.agent.state_dict().items():
        assert torch.equal(x, policy[name]) and torch.equal(x, deployed[name]), name


def test_what_is_evaluated_is_the_average(tmp_path: Path) -> None:
    """The last logged evaluation is reached by the average in last.pt, and not by the newest networks beside it."""
    config = PPOConfig(**(SETTINGS | {"policy_average": 0.99}))
    train(config, PointEnv, PointEnv, run_dir=tmp_path / "r", console=False)
    header, *_, last = (tmp_path / "r" / "progress.csv").read_text().splitlines()
    logged = float(dict(zip(header.split(","), last.split(","), strict=True))["eval/return_mean"])
    averaged = load_agent(tmp_path / "r" / "last.pt")
    assert evaluate(averaged, PointEnv(2), 2, config.eval_seed)["return_mean"] == logged
    newest = load_agent(tmp_path / "r" / "last.pt")
    newest.load_state_dict(load_checkpoint(tmp_path / "r" / "last.pt")["agent"])
    assert evaluate(newest, PointEnv(2), 2, config.eval_seed)["return_mean"] != logged
