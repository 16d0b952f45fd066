"""Distributions, actions and networks of the agent."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from toy import BOX1, OBS2, generator, small_config

from ballbot.ppo import Agent, PPOConfig
from ballbot.ppo.actions import categorical_entropy, categorical_logprob, gaussian_entropy, gaussian_logprob


class TestAgent:
    def test_gaussian_against_torch_distributions(self) -> None:
        x, mean, log_std = torch.randn(7, 3), torch.randn(7, 3), torch.randn(3)
        normal: Any = torch.distributions.Normal(mean, log_std.exp())
        torch.testing.assert_close(gaussian_logprob(x, mean, log_std), normal.log_prob(x).sum(-1))
        torch.testing.assert_close(gaussian_entropy(log_std).expand(7), normal.entropy().sum(-1))

    def test_categorical_against_torch_distributions(self) -> None:
        logits, action = torch.randn(7, 5), torch.randint(5, (7,))
        categorical: Any = torch.distributions.Categorical(logits=logits)
        torch.testing.assert_close(categorical_logprob(action, logits), categorical.log_prob(action))
        torch.testing.assert_close(categorical_entropy(logits), categorical.entropy())

    def test_samples_have_the_probabilities_of_the_policy(self) -> None:
        n = 200_000
        agent = Agent(OBS2, gym.spaces.Discrete(3), small_config(), generator())
        with torch.no_grad():
            agent.policy_head.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
            action, _ = agent.sample(torch.zeros(n, 2), agent.draw_noise((n,), generator(1)))
        expected = torch.tensor([0.0, 1.0, -1.0]).softmax(0)
        torch.testing.assert_close(torch.bincount(action) / n, expected, rtol=0, atol=4 * 0.5 / math.sqrt(n))

    def test_discrete_start_is_added_on_the_way_out(self) -> None:
        agent = Agent(OBS2, gym.spaces.Discrete(2, start=5), small_config(), generator())
        assert set(agent.act(torch.randn(50, 2), False, generator()).tolist()) == {5, 6}

    def test_act_clips_to_the_box_and_keeps_its_shape(self) -> None:
        space = gym.spaces.Box(-0.1, 0.2, (2, 2), np.float32)
        agent = Agent(OBS2, space, small_config(initial_std=5.0), generator())
        action = agent.act(np.zeros((30, 2), np.float32), deterministic=False, generator=generator())
        assert action.shape == (30, 2, 2)
        assert action.min() == pytest.approx(-0.1)
        assert action.max() == pytest.approx(0.2)

    @pytest.mark.parametrize("shared", [False, True])
    def test_trunks_are_shared_or_not(self, shared: bool) -> None:
        agent = Agent(OBS2, BOX1, small_config(shared_trunk=shared), generator())
        torch.autograd.backward(agent.get_value(torch.ones(1, 2)).sum())
        assert (agent.policy_trunk[0].weight.grad is not None) == shared

    def test_linear_skip_adds_a_linear_map_that_begins_at_zero(self) -> None:
        plain, agent = (Agent(OBS2, BOX1, small_config(linear_skip=x), generator()) for x in (False, True))
        x = torch.randn(5, 2)
        assert torch.equal(agent.policy_output(x), plain.policy_output(x))
        with torch.no_grad():
            agent.policy_skip.weight.copy_(torch.tensor([[0.3, -0.2]]))  # type: ignore[union-attr]
        linear = x @ torch.tensor([[0.3], [-0.2]])
        torch.testing.assert_close(agent.policy_output(x), plain.policy_output(x) + linear)
        torch.testing.assert_close(agent.act(x), plain.env_action(plain.policy_output(x) + linear, x))
        noise = torch.randn(5, 1)
        drawn, logprob = agent.sample(x, noise)
        torch.testing.assert_close(drawn, plain.sample(x, noise)[0] + linear)
        torch.testing.assert_close(logprob, agent.get_action_and_value(x, drawn)[1])

    def test_initial_policy_is_nearly_the_same_everywhere(self) -> None:
        agent = Agent(OBS2, BOX1, PPOConfig(), generator())
        assert agent.act(torch.randn(100, 2)).abs().max() < 0.1
