"""The formulas: advantages, losses, early stop, distributions, normalisation, schedules."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.buffers import RolloutBuffer
from toy import PointEnv, ScriptedEnv, cartpole

from ballbot.ppo import (
    Agent,
    PPOConfig,
    RewardScaler,
    Rollout,
    RunningNormalizer,
    gae,
    ppo_loss,
    rollout,
    update,
)
from ballbot.ppo.agent import (
    categorical_entropy,
    categorical_logprob,
    gaussian_entropy,
    gaussian_logprob,
)
from ballbot.ppo.logger import Stopwatch
from ballbot.ppo.ppo import make_optimizer
from ballbot.ppo.schedules import adapt_lr, scheduled_lr
from ballbot.ppo.storage import DivergedError, EnvState, autoreset_mode

BOX1 = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
OBS2 = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)


def small_config(**changes: Any) -> PPOConfig:
    settings: dict[str, Any] = {
        "num_envs": 4,
        "num_steps": 32,
        "minibatch_size": 32,
        "update_epochs": 2,
        "hidden_size": 16,
        "num_layers": 2,
    }
    return PPOConfig(**(settings | changes))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def collect(envs: Any, config: PPOConfig, agent: Agent | None = None, seed: int = 0) -> tuple[Agent, Rollout]:
    agent = agent or Agent(envs.single_observation_space, envs.single_action_space, config, generator(seed))
    next_step = autoreset_mode(envs) == AutoresetMode.NEXT_STEP
    storage = Rollout.allocate(agent, config.num_steps, envs.num_envs, next_step, torch.device("cpu"))
    obs, _ = envs.reset(seed=seed)
    state = EnvState(obs, torch.zeros(envs.num_envs, dtype=torch.bool))
    rollout(agent, envs, state, storage, generator(seed), Stopwatch())
    return agent, storage


def advantages_of(batch: Rollout, config: PPOConfig) -> tuple[torch.Tensor, torch.Tensor]:
    return gae(
        batch.rewards,
        batch.values,
        batch.terminated,
        batch.truncated,
        batch.final_values,
        batch.next_value,
        config.gamma,
        config.gae_lambda,
    )


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
        config = small_config(num_envs=1, num_steps=32, minibatch_size=16)
        results = []
        for garbage in (0.0, 1e4):
            agent, batch = collect(ScriptedEnv("..L..T..", AutoresetMode.NEXT_STEP), config)
            assert batch.valid is not None
            advantages, returns = advantages_of(batch, config)
            for x in (advantages, returns, batch.actions, batch.values):
                x[~batch.valid] += garbage
            update(agent, make_optimizer(agent, config), batch, advantages, returns, config, generator())
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

    @pytest.mark.parametrize("what", ["observation", "reward"])
    def test_nan_names_the_environment(self, what: str) -> None:
        class Broken(PointEnv):
            def step(self, actions: Any) -> Any:
                obs, reward, *rest = super().step(actions)
                (obs if what == "observation" else reward)[2] = np.nan
                return obs, reward, *rest

        with pytest.raises(DivergedError, match=f"environment 2 returned a {what}"):
            collect(Broken(4), small_config())


class TestLoss:
    def loss(self, config: PPOConfig, old_shift: list[float], advantages: list[float]) -> dict[str, float]:
        """Loss on two steps of log ratio -old_shift, with values 1, old values 0 and returns 3."""
        agent = Agent(OBS2, BOX1, config, generator())
        obs, actions = torch.zeros(2, 2), torch.zeros(2, 1)
        with torch.no_grad():
            agent.value_head.weight.zero_()
            agent.value_head.bias.fill_(1.0)
            _, logprobs, _, _ = agent.get_action_and_value(obs, actions)
        _, metrics = ppo_loss(
            agent,
            obs,
            actions,
            logprobs + torch.tensor(old_shift),
            torch.tensor(advantages),
            torch.tensor([3.0, 3.0]),
            torch.zeros(2),
            None,
            config,
        )
        names = ("loss", "policy_loss", "value_loss", "entropy", "clipfrac", "old_approx_kl", "approx_kl")
        return dict(zip(names, metrics.tolist(), strict=True))

    def test_clipping_by_hand(self) -> None:
        # ratio 1.5 with advantage +2 is clipped to 1.2; ratio 0.5 with advantage -1 is clipped to 0.8
        shift = [-math.log(1.5), -math.log(0.5)]
        out = self.loss(small_config(clip_range=0.2), shift, [2.0, -1.0])
        assert out["policy_loss"] == pytest.approx((-2 * 1.2 + 1 * 0.8) / 2)
        # the other way round the worse, unclipped term counts
        out = self.loss(small_config(clip_range=0.2), shift, [-2.0, 1.0])
        assert out["policy_loss"] == pytest.approx((2 * 1.5 - 1 * 0.5) / 2)
        assert out["clipfrac"] == 1.0
        assert out["approx_kl"] == pytest.approx((0.5 - math.log(1.5) - 0.5 - math.log(0.5)) / 2)
        assert out["old_approx_kl"] == pytest.approx(-(math.log(1.5) + math.log(0.5)) / 2)

    def test_value_loss_and_its_clipping_by_hand(self) -> None:
        assert self.loss(small_config(), [0, 0], [0, 0])["value_loss"] == pytest.approx(0.5 * (1 - 3) ** 2)
        clipped = self.loss(small_config(value_clip_range=0.4), [0, 0], [0, 0])
        assert clipped["value_loss"] == pytest.approx(0.5 * (0.4 - 3) ** 2)

    def test_total(self) -> None:
        out = self.loss(small_config(vf_coef=2.0, ent_coef=0.1, initial_std=1.0), [0, 0], [1.0, 2.0])
        entropy = 0.5 * math.log(2 * math.pi * math.e)
        assert out["entropy"] == pytest.approx(entropy)
        assert out["loss"] == pytest.approx(-1.5 + 2.0 * 2.0 - 0.1 * entropy)

    def test_agrees_with_the_formula_of_stable_baselines3(self) -> None:
        """Its loss, by PyTorch's distributions; it does not halve the squared error, so vf_coef differs."""
        config = small_config(ent_coef=0.02, vf_coef=0.7, clip_range=0.1)
        agent, batch = collect(PointEnv(4), config)
        g = generator(5)
        old = batch.logprobs.flatten() + 0.2 * torch.randn(128, generator=g)
        advantages, returns = torch.randn(128, generator=g), torch.randn(128, generator=g)
        obs, actions = batch.obs.flatten(0, 1), batch.actions.flatten(0, 1)
        loss, _ = ppo_loss(agent, obs, actions, old, advantages, returns, torch.zeros(128), None, config)

        dist: Any = torch.distributions.Normal(agent.policy_head(agent.policy_trunk(obs)), agent.log_std.exp())
        ratio = torch.exp(dist.log_prob(actions).sum(-1) - old)
        policy = -torch.min(advantages * ratio, advantages * torch.clamp(ratio, 0.9, 1.1)).mean()
        value = torch.nn.functional.mse_loss(returns, agent.get_value(obs))
        expected = policy - 0.02 * dist.entropy().sum(-1).mean() + 0.7 / 2 * value
        torch.testing.assert_close(loss, expected)
        ours = torch.autograd.grad(loss, list(agent.parameters()))
        theirs = torch.autograd.grad(expected, list(agent.parameters()))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)

    def test_masked_rows_do_not_count(self) -> None:
        config = small_config()
        agent, batch = collect(PointEnv(4), config)
        g = generator(5)
        args: Any = [agent, batch.obs.flatten(0, 1), batch.actions.flatten(0, 1), batch.logprobs.flatten()]
        args += [torch.randn(128, generator=g) for _ in range(3)]
        keep = torch.rand(128, generator=g) < 0.7
        loss_fn: Any = ppo_loss
        weighted, _ = loss_fn(*args, keep.float() / keep.sum(), config)
        kept: Any = [agent, *(x[keep] for x in args[1:])]
        plain, _ = loss_fn(*kept, None, config)
        torch.testing.assert_close(weighted, plain)


class TestUpdate:
    def test_first_ratio_is_one(self) -> None:
        """The policy judged is the one that acted, although the observation statistics moved at every step."""
        config = small_config()
        envs = PointEnv(4)
        agent, batch = collect(envs, config)
        for _ in range(2):
            _, logprobs, _, _ = agent.get_action_and_value(batch.obs.flatten(0, 1), batch.actions.flatten(0, 1))
            ratio = (logprobs - batch.logprobs.flatten()).exp()
            torch.testing.assert_close(ratio, torch.ones(128), rtol=0, atol=1e-5)
            agent, batch = collect(envs, config, agent)

    @pytest.mark.parametrize("normalize", ["rollout", "minibatch", "no"])
    def test_advantages_are_normalised_on_request(self, normalize: str) -> None:
        config = small_config(
            normalize_advantage=normalize != "no",
            normalize_advantage_per_minibatch=normalize == "minibatch",
            target_kl=None,
            update_epochs=1,
        )
        agent, batch = collect(PointEnv(4), config)
        advantages, returns = advantages_of(batch, config)
        seen: list[torch.Tensor] = []

        def spy(agent: Agent, obs: Any, actions: Any, logprobs: Any, used: torch.Tensor, *rest: Any) -> Any:
            seen.append(used)
            return ppo_loss(agent, obs, actions, logprobs, used, *rest)

        update(agent, make_optimizer(agent, config), batch, advantages, returns, config, generator(), spy)
        parts = torch.split(advantages.flatten()[torch.randperm(128, generator=generator())], 32)
        for used, raw in zip(seen, parts, strict=True):
            whole = {"rollout": advantages, "minibatch": raw, "no": torch.tensor([-1.0, 0.0, 1.0])}[normalize]
            expected = (raw - whole.mean()) / whole.std()
            torch.testing.assert_close(used, expected, rtol=1e-4, atol=1e-5)

    def test_kl_stop_comes_before_the_step(self) -> None:
        config = small_config(target_kl=0.01)
        agent, batch = collect(PointEnv(4), config)
        batch.logprobs += 1.0  # as if the policy had moved far: KL = e^-1 - 1 + 1 = 0.37
        before = [p.clone() for p in agent.parameters()]
        metrics = update(
            agent, make_optimizer(agent, config), batch, *advantages_of(batch, config), config, generator()
        )
        assert metrics["minibatches"] == 0
        assert metrics["approx_kl"] == pytest.approx(math.exp(-1), abs=1e-4)
        assert all(torch.equal(p, q) for p, q in zip(agent.parameters(), before, strict=True))

    def test_an_infinite_kl_stops_the_update_and_not_the_run(self) -> None:
        config = small_config(target_kl=0.01)
        agent, batch = collect(PointEnv(4), config)
        batch.logprobs -= 200.0  # ratio e^200, beyond float32
        advantages, returns = advantages_of(batch, config)
        metrics = update(agent, make_optimizer(agent, config), batch, advantages, returns, config, generator())
        assert metrics["minibatches"] == 0

    def test_without_target_kl_every_minibatch_is_used(self) -> None:
        config = small_config(target_kl=None, update_epochs=3)
        agent, batch = collect(PointEnv(4), config)
        metrics = update(
            agent, make_optimizer(agent, config), batch, *advantages_of(batch, config), config, generator()
        )
        assert metrics["minibatches"] == 3 * 4

    def test_kl_stop_ends_all_remaining_epochs(self) -> None:
        config = small_config(target_kl=1e-4, update_epochs=50, learning_rate=1e-2)
        agent, batch = collect(PointEnv(4), config)
        metrics = update(
            agent, make_optimizer(agent, config), batch, *advantages_of(batch, config), config, generator()
        )
        assert 1 <= metrics["minibatches"] < 20
        assert metrics["approx_kl"] > 1.5e-4

    def test_non_finite_loss_raises_and_leaves_the_parameters(self) -> None:
        config = small_config()
        agent, batch = collect(PointEnv(4), config)
        advantages, returns = advantages_of(batch, config)
        returns[3, 1] = math.inf
        before = [p.clone() for p in agent.parameters()]
        with pytest.raises(DivergedError, match="learning_rate"):
            update(
                agent,
                make_optimizer(agent, small_config()),
                batch,
                advantages,
                returns,
                small_config(minibatch_size=128),
                generator(),
            )
        assert all(torch.equal(p, q) for p, q in zip(agent.parameters(), before, strict=True))

    def test_gradients_are_clipped(self) -> None:
        config = small_config(max_grad_norm=1e-3, target_kl=None, update_epochs=1)
        agent, batch = collect(PointEnv(4), config)
        advantages, returns = advantages_of(batch, config)
        metrics = update(agent, make_optimizer(agent, config), batch, advantages, returns + 100, config, generator())
        norm = math.sqrt(sum(float((p.grad**2).sum()) for p in agent.parameters() if p.grad is not None))
        assert metrics["grad_norm"] > 1
        assert norm == pytest.approx(1e-3, rel=1e-3)

    def test_weight_decay_spares_biases_and_log_std(self) -> None:
        agent = Agent(OBS2, BOX1, small_config(), generator())
        decay, no_decay = make_optimizer(agent, small_config(weight_decay=0.3)).param_groups
        names = {id(p): name for name, p in agent.named_parameters()}
        assert decay["weight_decay"] == 0.3
        assert no_decay["weight_decay"] == 0.0
        assert all(names[id(p)].endswith("weight") for p in decay["params"])
        spared = [names[id(p)] for p in no_decay["params"]]
        assert "log_std" in spared
        assert all(name == "log_std" or name.endswith("bias") for name in spared)
        assert len(decay["params"]) + len(spared) == len(names)

    def test_min_std_is_kept_and_can_be_left_again(self) -> None:
        config = small_config(initial_std=0.5, min_std=0.4)
        agent = Agent(OBS2, BOX1, config, generator())
        with torch.no_grad():
            agent.log_std.fill_(-5.0)
        agent.limit_std()
        assert agent.log_std.exp().item() == pytest.approx(0.4)
        _, logprob, _, _ = agent.get_action_and_value(torch.zeros(1, 2), torch.full((1, 1), 3.0))
        assert torch.autograd.grad(logprob.sum(), agent.log_std)[0].item() > 0


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

    def test_initial_policy_is_nearly_the_same_everywhere(self) -> None:
        agent = Agent(OBS2, BOX1, PPOConfig(), generator())
        assert agent.act(torch.randn(100, 2)).abs().max() < 0.1

    def test_other_spaces_are_errors(self) -> None:
        with pytest.raises(TypeError, match="Discrete"):
            Agent(OBS2, gym.spaces.MultiDiscrete([2, 2]), small_config())
        with pytest.raises(TypeError, match="Box"):
            Agent(gym.spaces.Discrete(3), BOX1, small_config())


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
        one.update(data, mask)
        two.update(data[mask])
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
        agent, batch = collect(envs, small_config())
        again, more = collect(envs, small_config(), agent)  # statistics go on from one rollout to the next
        seen: list[np.ndarray] = []
        for stored, raw in ((batch.obs, envs.returned[:32]), (more.obs, envs.returned[33:65])):
            for t in range(32):
                seen.append(raw[t])
                data = np.concatenate(seen).astype(np.float64)
                expected = (raw[t] - data.mean(0)) / np.sqrt(data.var(0) + 1e-8)
                np.testing.assert_allclose(stored[t].numpy(), expected.clip(-10, 10), rtol=1e-3, atol=1e-4)
        assert again.normalizer is not None
        assert again.normalizer.count == 2 * 32 * 4  # the observation after the last step waits for the next rollout


class TestSchedules:
    def test_learning_rates(self) -> None:
        assert [scheduled_lr("linear", 2.0, x) for x in (1, 0.5, 0)] == [2.0, 1.0, 0.0]
        assert [scheduled_lr("cosine", 2.0, x) for x in (1, 0.5, 0)] == pytest.approx([2.0, 1.0, 0.0])
        assert [scheduled_lr("constant", 2.0, x) for x in (1, 0.5, 0)] == [2.0] * 3

    def test_piecewise_is_the_published_schedule(self) -> None:
        rates = [scheduled_lr("piecewise", 1e-4, x) for x in (1, 0.71, 0.7, 0.51, 0.5, 0)]
        assert rates == pytest.approx([1e-4, 1e-4, 5e-5, 5e-5, 1e-5, 1e-5])

    def test_adaptive_follows_the_kl_within_bounds(self) -> None:
        assert adapt_lr(1e-3, 0.0151, 0.01, 1e-5, 1e-2) == pytest.approx(1e-3 / 1.5)  # such an update was stopped
        assert adapt_lr(1e-3, 0.0149, 0.01, 1e-5, 1e-2) == 1e-3
        assert adapt_lr(1e-3, 0.004, 0.01, 1e-5, 1e-2) == pytest.approx(1.5e-3)
        assert adapt_lr(1e-3, 0.010, 0.01, 1e-5, 1e-2) == 1e-3
        assert adapt_lr(1e-5, 1.0, 0.01, 1e-5, 1e-2) == 1e-5
        assert adapt_lr(1e-2, 0.0, 0.01, 1e-5, 1e-2) == 1e-2


class TestConfig:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"gamma": 0.0}, "gamma"),
            ({"gamma": 1.1}, "gamma"),
            ({"gamma": math.nan}, "gamma must be a finite"),
            ({"learning_rate": -1e-3}, "learning_rate"),
            ({"learning_rate": None}, "learning_rate must be given"),
            ({"learning_rate": "fast"}, "learning_rate must be a number"),
            ({"num_envs": 0}, "num_envs"),
            ({"num_steps": 2.5}, "num_steps"),
            ({"total_timesteps": 10**13}, "total_timesteps"),
            ({"num_envs": 64, "num_steps": 256, "minibatch_size": 1000}, r"64 \* 256 = 16384 .* minibatch_size = 1000"),
            ({"activation": "sigmoid"}, "leaky_relu"),
            ({"lr_schedule": "adaptive", "target_kl": None}, "target_kl"),
            ({"seed": -1}, "seed"),
            ({"seed": 1.0}, "seed must be a whole number, got 1.0"),
            ({"seed": True}, "seed must be a whole number, got True"),
            ({"eval_seed": "7"}, "eval_seed must be a whole number, got '7'"),
            ({"compile": "no"}, "compile must be true or false, got 'no'"),
            ({"normalize_rewards": 1}, "normalize_rewards must be true or false, got 1"),
            ({"ent_coef": False}, "ent_coef must be a number, got False"),
            ({"target_kl": "0.1"}, r"target_kl must be a number or null \(None\), got '0.1'"),
            ({"device": 0}, "device must be a text, got 0"),
            ({"activation": ["relu"]}, "activation must be one of 'tanh', .*, got \\['relu'\\]"),
            ({"device": "tpu"}, "device"),
            ({"device": "cpu:foo"}, 'device must be "cpu", "cuda" or "cuda:<index>", got \'cpu:foo\''),
            ({"device": "cpu:1"}, "device"),
            ({"device": "cuda:x"}, "device"),
            ({"device": ""}, "device"),
            ({"device": "meta"}, "device"),
            ({"lr_schedule": "adaptive", "target_kl": 0.01, "learning_rate": 0.1}, "learning_rate = 0.1, which is not"),
            (
                {"num_envs": 2**15, "num_steps": 2**16, "minibatch_size": 2**15, "total_timesteps": 10**12},
                r"32768 \* 65536 is above 1e\+09",
            ),
            ({"hidden_size": 16384, "num_layers": 64}, "weights are above 1e"),
            ({"normalize_advantage": False, "normalize_advantage_per_minibatch": True}, "set both or none"),
            ({"minibatch_size": 1, "normalize_advantage_per_minibatch": True}, "raise minibatch_size"),
            ({"num_envs": 1, "num_steps": 1, "minibatch_size": 1}, "raise num_steps"),
            ({"initial_std": 0.0}, "initial_std"),
            ({"min_std": 1.0}, "min_std"),
        ],
    )
    def test_bad_values_are_named(self, changes: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            PPOConfig(**changes)

    def test_whole_numbers_do_for_numbers(self) -> None:
        small_config(learning_rate=1, target_kl=None)

    def test_published_settings_are_accepted(self) -> None:
        PPOConfig(
            num_envs=10,
            num_steps=2048,
            minibatch_size=256,
            clip_range=0.015,
            target_kl=0.3,
            vf_coef=2.0,
            num_layers=4,
            normalize_advantage=False,
            learning_rate=1e-4,
            lr_schedule="piecewise",
        )


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
