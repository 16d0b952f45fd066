"""The loss and the update: clipping, early stop, masks, optimiser."""

from __future__ import annotations

import copy
import math
from threading import current_thread
from typing import Any

import pytest
import torch
from toy import BOX1, OBS2, PointEnv, advantages_of, collect, generator, small_config

from ballbot.ppo import Agent, PPOConfig, ppo_loss, update
from ballbot.ppo.imitation import imitation_loss
from ballbot.ppo.ppo import make_optimizer
from ballbot.ppo.storage import DivergedError


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
    @pytest.mark.parametrize("loss", [ppo_loss, imitation_loss])
    def test_two_threads_learn_the_same_to_the_bit(self, loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ballbot.ppo.agent.usable_cpus", lambda: 2 * torch.get_num_threads())
        config = small_config(normalize_values=True, target_kl=None)
        agent, batch = collect(PointEnv(4), config)
        advantages, returns = advantages_of(batch, config)
        used: list[str] = []
        found: list[tuple[dict[str, float], dict[str, torch.Tensor], set[str]]] = []
        for least in (math.inf, 1):
            monkeypatch.setattr("ballbot.ppo.agent.LEAST_WORK", least)
            one = copy.deepcopy(agent)
            assert one.value_trunk is not None
            one.value_trunk.register_forward_hook(lambda *_: used.append(current_thread().name))
            with one.two_threads(config.minibatch_size):
                metrics = update(
                    one, make_optimizer(one, config), batch, advantages, returns, config, generator(), loss
                )
            found.append((metrics, one.state_dict(), set(used)))
            used.clear()
        (metrics, weights, _), (other_metrics, other_weights, _) = found
        assert metrics == other_metrics
        assert all(torch.equal(x, other_weights[name]) for name, x in weights.items())
        assert found[0][2] == {current_thread().name} != found[1][2]
        assert not torch.equal(weights["value_head.weight"], agent.value_head.weight)

    @pytest.mark.parametrize("changes", [{"shared_trunk": True}, {"memory": "gru"}])
    def test_networks_that_share_a_pass_stay_in_one_thread(
        self, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ballbot.ppo.agent.usable_cpus", lambda: 2 * torch.get_num_threads())
        agent = Agent(OBS2, BOX1, small_config(**changes), generator())
        with agent.two_threads(10**9):
            assert agent._aside is None

    @pytest.mark.parametrize("per_step", [False, True])
    def test_first_ratio_is_one(self, per_step: bool) -> None:
        """The policy judged is the one that acted, however the observation statistics moved."""
        config = small_config(normalize_observations_per_step=per_step)
        envs = PointEnv(4)
        agent, batch = collect(envs, config)
        for _ in range(2):
            assert agent.normalizer is not None
            agent.normalizer.update(batch.raw_obs.flatten(0, 1))
            _, batch = collect(envs, config, agent)
            agent.normalizer.update(100 + batch.raw_obs.flatten(0, 1))  # after the rollout: no longer matters
            kls: list[float] = []

            def spy(*args: Any, kls: list[float] = kls) -> Any:
                loss, metrics = ppo_loss(*args)
                kls.append(float(metrics[-1]))
                return loss, metrics

            copied = copy.deepcopy(agent)
            advantages, returns = advantages_of(batch, config)
            update(copied, make_optimizer(copied, config), batch, advantages, returns, config, generator(), spy)
            assert kls[0] < 1e-9 < kls[1]

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
            whole = {"rollout": advantages, "minibatch": raw, "no": torch.tensor([-1.0, 1.0])}[normalize]
            expected = (raw - whole.mean()) / whole.std(correction=0)
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
