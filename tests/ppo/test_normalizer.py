"""Running statistics of observations and rewards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy import PointEnv, collect, generator, small_config

from ballbot.ppo import RewardScaler, RunningNormalizer, update
from ballbot.ppo.normalizer import VALUE_DECAY, ValueScale
from ballbot.ppo.ppo import make_optimizer


class TestNormalizer:
    def test_running_statistics_equal_those_of_all_data(self) -> None:
        rng = np.random.default_rng(0)
        data = rng.normal(1e4, 0.1, (1000, 3))  # a large mean is where careless formulas fail
        normalizer = RunningNormalizer((3,))
        for part in np.split(data, [10, 300, 301]):
            normalizer.update(torch.from_numpy(part))
        assert normalizer.count == 1000
        np.testing.assert_allclose(normalizer.mean.numpy(), data.mean(0), rtol=1e-12)
        np.testing.assert_allclose(normalizer.var.numpy(), data.var(0), rtol=1e-6)

    def test_masked_rows_do_not_count(self) -> None:
        data, mask = torch.randn(50, 2), torch.rand(50) < 0.5
        one, two = RunningNormalizer((2,)), RunningNormalizer((2,))
        two.update(data[mask])
        data[~mask] = torch.nan
        one.update(data, mask)
        torch.testing.assert_close(one.var, two.var)
        torch.testing.assert_close(one.mean, two.mean)

    def test_output_is_standard_and_clipped(self) -> None:
        normalizer = RunningNormalizer((1,))
        x = 5 + 3 * torch.randn(10_000, 1)
        assert torch.equal(normalizer(x), x.clamp(-10, 10))
        normalizer.update(x)
        assert normalizer(x).std().item() == pytest.approx(1, abs=1e-3)
        assert normalizer(torch.tensor([[1e6]])).item() == 10.0

    def test_reward_scale_is_the_std_of_the_discounted_returns_so_far(self) -> None:
        gamma, rng = 0.9, np.random.default_rng(0)
        rewards = rng.normal(2.0, 1.0, (50, 3)).astype(np.float32)
        ended = rng.random((50, 3)) < 0.1
        total, seen, expected = np.zeros(3), [], np.zeros((50, 3))
        for t in range(50):
            total = gamma * total + rewards[t]
            seen.append(total.copy())
            total[ended[t]] = 0
            expected[t] = np.clip(rewards[t] / np.sqrt(np.var(seen) + 1e-8), -10, 10)
        scaler = RewardScaler(3, gamma)
        out = [
            scaler.update_and_scale(torch.from_numpy(r), torch.from_numpy(e), None)
            for r, e in ((rewards[:20], ended[:20]), (rewards[20:], ended[20:]))
        ]
        np.testing.assert_allclose(torch.cat(out).numpy(), expected, rtol=1e-5)

    def test_observations_are_normalised_by_all_that_was_seen_until_then(self) -> None:
        envs = PointEnv(4)
        config = small_config(normalize_observations_per_step=True)
        agent, batch = collect(envs, config)
        again, more = collect(envs, config, agent)  # statistics go on from one rollout to the next
        seen: list[np.ndarray] = []
        for stored, raw in ((batch.obs, envs.returned[:32]), (more.obs, envs.returned[33:65])):
            for t in range(32):
                seen.append(raw[t])
                data = np.concatenate(seen).astype(np.float64)
                expected = (raw[t] - data.mean(0)) / np.sqrt(data.var(0) + 1e-8)
                np.testing.assert_allclose(stored[t].numpy(), expected.clip(-10, 10), rtol=1e-3, atol=1e-4)
        assert again.normalizer is not None
        assert again.normalizer.count == 2 * 32 * 4  # the observation after the last step waits for the next rollout


class TestValueScale:
    def test_values_stay_what_they_are_when_their_units_move(self) -> None:
        scale, head = ValueScale(), torch.nn.Linear(8, 1)
        hidden = torch.randn(100, 8)
        for returns in (50 + 3 * torch.randn(1000), -2 + 0.1 * torch.randn(1000), torch.full((10,), 7.0)):
            before = scale(head(hidden))
            scale.update(returns, None, head)
            torch.testing.assert_close(scale(head(hidden)), before, rtol=1e-4, atol=1e-4)

    def test_units_are_a_running_mean_of_those_of_the_returns(self) -> None:
        scale, head = ValueScale(), torch.nn.Linear(2, 1)
        first, second = torch.tensor([0.0, 2.0, 99.0]), torch.tensor([10.0, 14.0])
        scale.update(first, torch.tensor([True, True, False]), head)
        assert scale.mean.item() == scale.std.item() == 1.0
        scale.update(second, None, head)
        assert scale.mean.item() == pytest.approx(VALUE_DECAY * 1 + (1 - VALUE_DECAY) * 12)
        assert scale.std.item() == pytest.approx(VALUE_DECAY * 1 + (1 - VALUE_DECAY) * 2)

    def test_errors_count_in_units_of_the_returns_spread(self) -> None:
        losses = {}
        for normalize in (True, False):
            config = small_config(normalize_values=normalize, update_epochs=1)
            agent, batch = collect(PointEnv(4), config)
            returns = 1000 * torch.randn(batch.values.shape, generator=generator())
            metrics = update(agent, make_optimizer(agent, config), batch, 0 * returns, returns, config, generator())
            losses[normalize] = metrics["value_loss"]
        assert losses[False] == pytest.approx(0.5e6, rel=0.2)
        assert losses[True] == pytest.approx(0.5, rel=0.2)
