"""A policy adds its actions to those of its prior, everywhere it acts, and takes it along in its checkpoints."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from toy import BOX1, OBS2, PointEnv, collect, generator, run, small_config

from ballbot.ppo import Agent, CheckpointError, FeedbackPrior, Structure, load_agent


def pull(gain: float = 1.0) -> FeedbackPrior:
    """-gain (position + 2 speed), the first part at most 0.5."""
    return FeedbackPrior(
        gain * torch.tensor([[0.0, -2.0]]), torch.tensor([[gain]]), torch.tensor([[-1.0, 0.0]]), torch.tensor([0.5])
    )


def test_it_is_a_bounded_outer_loop_in_an_inner_one() -> None:
    obs = torch.tensor([[0.25, 0.125], [9.0, 0.0], [-9.0, -1.0]])
    torch.testing.assert_close(pull()(obs), torch.tensor([[-0.25 - 0.25], [-0.5], [0.5 + 2.0]]))


def test_a_new_agent_acts_nearly_as_its_prior_within_the_box() -> None:
    agent = Agent(OBS2, BOX1, small_config(), generator(), Structure(pull()))
    obs = torch.randn(50, 2)
    expected = pull()(obs).clamp(-1, 1)
    assert (agent.act(obs) - expected).abs().max() < 0.1
    assert expected.abs().max() == 1.0


def test_what_is_stored_and_judged_is_what_the_policy_adds() -> None:
    config = small_config()
    envs, plain_envs = PointEnv(4), PointEnv(4)
    agent = Agent(OBS2, BOX1, config, generator(), Structure(pull()))
    _, batch = collect(envs, config, agent)
    sent = torch.from_numpy(np.stack(envs.received)).reshape(batch.actions.shape)
    prior = pull()(batch.raw_obs.flatten(0, 1)).view_as(batch.actions)
    torch.testing.assert_close(sent, (batch.actions + prior).clamp(-1, 1))
    _, logprobs, _, _ = agent.get_action_and_value(batch.obs.flatten(0, 1), batch.actions.flatten(0, 1))
    torch.testing.assert_close(logprobs, batch.logprobs.flatten())
    _, plain = collect(plain_envs, config, Agent(OBS2, BOX1, config, generator()))
    torch.testing.assert_close(plain.actions[0], batch.actions[0])  # the same draws from the same state


def test_checkpoints_hold_it_and_a_run_goes_on_with_it_exactly(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", structure=Structure(prior=pull()))
    loaded = load_agent(tmp_path / "whole" / "best.pt")
    assert loaded.prior is not None and torch.equal(loaded.prior.direct, pull().direct)
    obs = torch.randn(20, 2)
    assert torch.equal(load_agent(tmp_path / "whole" / "last.pt").act(obs), whole.agent.act(obs))
    middle = sorted((tmp_path / "whole" / "checkpoints").glob("step_*.pt"))[0]
    again = run(tmp_path / "b", resume=middle, structure=Structure(prior=pull()))
    for name, tensor in whole.agent.state_dict().items():
        assert torch.equal(tensor, again.agent.state_dict()[name]), name
    for other, message in (
        (None, r"prior \(then one, now none\)"),
        (pull(2.0), r"another prior \(direct\[0, 1\] then -2, now -4\)"),
    ):
        with pytest.raises(CheckpointError, match=message):
            run(tmp_path / "c", resume=middle, structure=Structure(prior=other))


def test_what_does_not_fit_is_an_error() -> None:
    three = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    with pytest.raises(ValueError, match="the prior makes 1 actions of 2 numbers observed, but the task has 3"):
        Agent(three, BOX1, small_config(), structure=Structure(prior=pull()))
    with pytest.raises(ValueError, match="but the task has 2 numbers observed and discrete actions"):
        Agent(OBS2, gym.spaces.Discrete(1), small_config(), structure=Structure(prior=pull()))
    with pytest.raises(ValueError, match=r"needs direct \(dim, obs_size\)"):
        FeedbackPrior(torch.zeros(1, 2), torch.zeros(1, 1), torch.zeros(1, 3), torch.zeros(1))
    with pytest.raises(ValueError, match="inner has others"):
        FeedbackPrior(torch.zeros(1, 2), torch.zeros(1, 1), torch.full((1, 2), torch.nan), torch.zeros(1))
    with pytest.raises(ValueError, match="limits of at least 0"):
        FeedbackPrior(torch.zeros(1, 2), torch.zeros(1, 1), torch.zeros(1, 2), torch.tensor([-1.0]))
    agent = Agent(OBS2, BOX1, small_config(), structure=Structure(prior=pull()))
    state = agent.state_dict()
    del state["prior.outer"]
    with pytest.raises(KeyError, match="outer"):
        FeedbackPrior.from_state(state)
