"""Collecting steps and estimating advantages: episode ends, bootstrapping, normalisation, bad numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.buffers import RolloutBuffer
from toy import (
    BOX1,
    OBS2,
    PointEnv,
    ScriptedEnv,
    advantages_of,
    cartpole,
    collect,
    generator,
    learned_beside,
    small_config,
)

from ballbot.ppo import Agent, gae
from ballbot.ppo.storage import DivergedError, autoreset_mode


class TestGae:
    def test_hand_computed(self) -> None:
        # gamma 0.5, lambda 0.5; step 1 terminates, step 3 is truncated with V(final) = 8
        column = [[1.0], [2.0], [3.0], [4.0], [5.0]]
        values = torch.tensor([[10.0], [20.0], [30.0], [40.0], [50.0]])
        terminated = torch.tensor([[False], [True], [False], [False], [False]])
        truncated = torch.tensor([[False], [False], [False], [True], [False]])
        final_values = torch.tensor([[0.0], [999.0], [0.0], [8.0], [0.0]])
        advantages, returns = gae(
            torch.tensor(column), values, terminated, truncated, final_values, torch.tensor([60.0]), 0.5, 0.5
        )
        d4 = 5 + 0.5 * 60 - 50  # -15
        d3 = 4 + 0.5 * 8 - 40  # -32, nothing of d4
        d2 = 3 + 0.5 * 40 - 30 + 0.25 * d3  # -15
        d1 = 2 - 20  # -18, no future at all
        d0 = 1 + 0.5 * 20 - 10 + 0.25 * d1  # -3.5
        torch.testing.assert_close(advantages, torch.tensor([[d0], [d1], [d2], [d3], [d4]]))
        torch.testing.assert_close(returns, advantages + values)

    def test_terminated_and_truncated_at_once_has_no_future(self) -> None:
        yes = torch.ones(1, 1, dtype=torch.bool)
        advantages, _ = gae(
            torch.ones(1, 1), torch.zeros(1, 1), yes, yes, torch.full((1, 1), 7.0), torch.zeros(1), 0.9, 0.9
        )
        assert advantages.item() == 1.0

    def test_equals_the_sum_over_all_later_steps(self) -> None:
        """The definition, eq. 14 of the paper, as a plain double loop."""
        rng = np.random.default_rng(0)
        steps, envs, gamma, lam = 40, 3, 0.97, 0.9
        r, v, fv = (rng.normal(size=(steps, envs)) for _ in range(3))
        nv = rng.normal(size=envs)
        term, trunc = (rng.random((steps, envs)) < 0.1 for _ in range(2))
        expected = np.zeros((steps, envs))
        for i in range(envs):
            for t in range(steps):
                for k in range(t, steps):
                    future = v[k + 1, i] if k + 1 < steps else nv[i]
                    if trunc[k, i]:
                        future = fv[k, i]
                    if term[k, i]:
                        future = 0.0
                    expected[t, i] += (gamma * lam) ** (k - t) * (r[k, i] + gamma * future - v[k, i])
                    if term[k, i] or trunc[k, i]:
                        break
        a, b, c, d, e, f = (torch.from_numpy(x) for x in (r, v, term, trunc, fv, nv))
        advantages, _ = gae(a, b, c, d, e, f, gamma, lam)
        np.testing.assert_allclose(advantages.numpy(), expected, rtol=1e-12)

    def test_agrees_with_stable_baselines3_without_truncation(self) -> None:
        rng = np.random.default_rng(1)
        steps, envs = 25, 4
        buffer = RolloutBuffer(steps, OBS2, BOX1, device="cpu", gae_lambda=0.9, gamma=0.98, n_envs=envs)
        r, v = rng.normal(size=(2, steps, envs)).astype(np.float32)
        done = rng.random((steps, envs)) < 0.15
        nv = torch.from_numpy(rng.normal(size=envs).astype(np.float32))
        start = np.vstack([np.zeros((1, envs)), done[:-1]])
        for t in range(steps):
            action = np.zeros((envs, 1))
            buffer.add(np.zeros((envs, 2)), action, r[t], start[t], torch.from_numpy(v[t]), torch.zeros(envs))
        buffer.compute_returns_and_advantage(nv, done[-1])
        no = torch.zeros(steps, envs, dtype=torch.bool)
        advantages, returns = gae(
            torch.from_numpy(r),
            torch.from_numpy(v),
            torch.from_numpy(done),
            no,
            torch.zeros(steps, envs),
            nv,
            0.98,
            0.9,
        )
        np.testing.assert_allclose(advantages.numpy(), buffer.advantages, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(returns.numpy(), buffer.returns, rtol=1e-4, atol=1e-5)


class TestRollout:
    @pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
    def test_final_value_is_that_of_the_final_observation_where_truncated(self, mode: AutoresetMode) -> None:
        envs = ScriptedEnv("..L..T...B...", mode)
        config = small_config(num_envs=1, num_steps=13, minibatch_size=13, normalize_observations=False)
        agent, batch = collect(envs, config)
        assert batch.truncated.flatten().nonzero().flatten().tolist() == [2, 9]
        assert batch.terminated.flatten().nonzero().flatten().tolist() == [5, 9]
        with torch.no_grad():
            expected = agent.get_value(torch.tensor([[103.0]]))
        torch.testing.assert_close(batch.final_values[2], expected)
        advantages, _ = advantages_of(batch, config)
        torch.testing.assert_close(advantages[2], batch.rewards[2] + config.gamma * expected - batch.values[2])
        torch.testing.assert_close(advantages[5], batch.rewards[5] - batch.values[5])
        torch.testing.assert_close(advantages[9], batch.rewards[9] - batch.values[9])

    def test_the_last_step_of_a_rollout_may_be_truncated(self) -> None:
        for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
            config = small_config(num_envs=1, num_steps=3, minibatch_size=3, normalize_observations=False)
            agent, batch = collect(ScriptedEnv("..L", mode), config)
            with torch.no_grad():
                torch.testing.assert_close(batch.final_values[2], agent.get_value(torch.tensor([[103.0]])))

    def test_next_step_marks_the_row_after_an_end_as_filler(self) -> None:
        config = small_config(num_envs=1, num_steps=8, minibatch_size=8)
        _, batch = collect(ScriptedEnv("..L..T..", AutoresetMode.NEXT_STEP), config)
        assert batch.valid is not None
        assert (~batch.valid).flatten().nonzero().flatten().tolist() == [3, 6]

    def test_filler_rows_change_neither_loss_nor_normaliser_nor_gradient(self) -> None:
        """Whatever stands in a filler row, the agent that comes out is the same to the last bit."""
        config = small_config(
            num_envs=1,
            num_steps=32,
            minibatch_size=16,
            normalize_observations_per_step=True,
            normalize_advantage_per_minibatch=True,
        )
        results = []
        for garbage in (0.0, 1e4):
            agent, batch = learned_beside(garbage, config)
            assert batch.valid is not None
            results.append(agent.state_dict())
            real = batch.valid.flatten().nonzero().double()  # observation t of this environment is t
            assert agent.normalizer is not None
            assert agent.normalizer.count == len(real) < 32
            torch.testing.assert_close(agent.normalizer.mean, real.mean(0))
            torch.testing.assert_close(agent.normalizer.var, real.var(0, correction=0))
        for key in results[0]:
            assert torch.equal(results[0][key], results[1][key]), key

    def test_same_step_without_final_obs_is_an_error(self) -> None:
        class Forgetful(ScriptedEnv):
            def step(self, actions: Any) -> Any:
                return *super().step(actions)[:4], {}

        with pytest.raises(ValueError, match="final_obs"):
            collect(Forgetful("..L"), small_config(num_envs=1, num_steps=32))

    def test_disabled_autoreset_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="autoreset_mode"):
            autoreset_mode(ScriptedEnv(".", AutoresetMode.DISABLED))

    def test_stored_actions_are_unclipped_and_sent_ones_within_bounds(self) -> None:
        envs = PointEnv(4)
        _, batch = collect(envs, small_config(initial_std=3.0))
        assert batch.actions.abs().max() > 1
        sent = np.stack(envs.received)
        assert np.abs(sent).max() == 1
        np.testing.assert_array_equal(sent, batch.actions.clamp(-1, 1).numpy())

    def test_stored_logprobs_are_those_of_torch_distributions(self) -> None:
        agent, batch = collect(PointEnv(4), small_config())
        with torch.no_grad():
            mean = agent.policy_head(agent.policy_trunk(batch.obs.flatten(0, 1)))
            normal: Any = torch.distributions.Normal(mean, agent.log_std.exp())
            expected = normal.log_prob(batch.actions.flatten(0, 1)).sum(-1)
        torch.testing.assert_close(batch.logprobs.flatten(), expected, rtol=1e-4, atol=1e-5)

    def test_environments_of_tensors_get_tensors_and_give_the_same_rollout(self) -> None:
        as_arrays, as_tensors = PointEnv(4), PointEnv(4, as_tensors=True)
        _, one = collect(as_arrays, small_config())
        _, two = collect(as_tensors, small_config())
        assert all(isinstance(action, torch.Tensor) for action in as_tensors.received)
        for name in ("obs", "actions", "rewards", "values", "final_values"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name

    def test_tensors_on_the_device_are_not_converted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        envs = PointEnv(4, as_tensors=True)
        given: list[torch.Tensor] = []
        as_tensor = torch.as_tensor

        def spy(x: Any, **kwargs: Any) -> torch.Tensor:
            out = as_tensor(x, **kwargs)
            if isinstance(x, torch.Tensor):
                assert out.data_ptr() == x.data_ptr()
                given.append(x)
            return out

        monkeypatch.setattr(torch, "as_tensor", spy)
        monkeypatch.setattr(PointEnv, "LIMIT", 10**6)
        collect(envs, small_config(num_steps=8))
        assert any(x is envs.returned[1] for x in given)

    @pytest.mark.parametrize("per_step", [False, True])
    @pytest.mark.parametrize("what", ["observation", "reward"])
    def test_nan_names_the_environment(self, what: str, per_step: bool) -> None:
        class Broken(PointEnv):
            def step(self, actions: Any) -> Any:
                if not np.isfinite(actions).all():
                    raise ValueError("actions are not finite")  # many environments refuse them
                obs, reward, *rest = super().step(actions)
                (obs if what == "observation" else reward)[2] = np.nan
                return obs, reward, *rest

        with pytest.raises(DivergedError, match=f"environment 2 returned an? {what}"):
            collect(Broken(4), small_config(normalize_observations_per_step=per_step))


def test_cartpole_episodes_have_the_same_length_in_both_modes() -> None:
    """A policy that ignores the state meets the same episodes; only filler rows differ."""
    config = small_config(num_steps=200, minibatch_size=200, normalize_observations=False)
    lengths = {}
    for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
        envs = cartpole(1, mode)
        agent = Agent(envs.single_observation_space, envs.single_action_space, config, generator())
        with torch.no_grad():
            agent.policy_head.weight.zero_()
            agent.policy_head.bias.copy_(torch.tensor([9.0, -9.0]))  # always left
        _, batch = collect(envs, config, agent)
        ended = (batch.terminated | batch.truncated).flatten()
        real = torch.ones_like(ended) if batch.valid is None else batch.valid.flatten()
        ends = real.cumsum(0)[ended]
        lengths[mode] = torch.diff(ends, prepend=torch.zeros(1, dtype=ends.dtype)).tolist()
    shortest = min(map(len, lengths.values()))
    assert shortest > 15
    assert lengths[AutoresetMode.SAME_STEP][:shortest] == lengths[AutoresetMode.NEXT_STEP][:shortest]
