# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""stable-baselines3 as an independent answer: from its rollouts our update makes its weights, to float32 rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compare_sb3 import agent_of, make_sb3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from ballbot.ppo import PPOConfig, Rollout, RunningNormalizer, ppo_loss, update
from ballbot.ppo.ppo import make_optimizer

CONFIG = PPOConfig(
    num_envs=4,
    num_steps=64,
    total_timesteps=5 * 256,
    lr_schedule="constant",
    minibatch_size=64,
    update_epochs=4,
    target_kl=None,
    ent_coef=0.01,
    weight_decay=0.02,
    hidden_size=32,
    num_layers=2,
    activation="tanh",
    initial_std=1.0,
    normalize_advantage=False,  # its own formula instead, which divides by n - 1
)


def loss_with_its_advantages(agent, obs, actions, logprobs, advantages, *rest):
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    return ppo_loss(agent, obs, actions, logprobs, advantages, *rest)


@pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1"])
def test_update_makes_the_same_weights(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rollouts of four epochs of four minibatches each, the optimisers' moments carried along."""
    envs = VecNormalize(make_vec_env(task, n_envs=4, seed=0), gamma=CONFIG.gamma)
    model = make_sb3(CONFIG, envs)
    # It decays all parameters, we spare biases and log_std.
    groups = model.policy.optimizer.param_groups
    decay = [p for p in groups[0]["params"] if p.ndim >= 2]
    rest = [p for p in groups[0]["params"] if p.ndim < 2]
    model.policy.optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": CONFIG.weight_decay}, {"params": rest, "weight_decay": 0.0}], eps=1e-5
    )
    ours = agent_of(model, CONFIG)
    before = {name: p.clone() for name, p in ours.state_dict().items()}
    optimizer = make_optimizer(ours, CONFIG)
    their_train, permutation, seed = model.train, np.random.permutation, iter(range(100))

    def train_both() -> None:
        buffer, n = model.rollout_buffer, next(seed)
        storage = Rollout.allocate(ours, 64, 4, False, torch.device("cpu"))
        storage.obs.copy_(torch.from_numpy(buffer.observations))
        actions = torch.from_numpy(buffer.actions)
        storage.actions.copy_(actions.squeeze(-1) if ours.discrete else actions)
        storage.logprobs.copy_(torch.from_numpy(buffer.log_probs))
        storage.values.copy_(torch.from_numpy(buffer.values))
        advantages, returns = torch.from_numpy(buffer.advantages.copy()), torch.from_numpy(buffer.returns.copy())
        # the same minibatches: our flat index is step-major, theirs environment-major
        generator = torch.Generator().manual_seed(n)
        orders = [torch.randperm(256, generator=generator) for _ in range(CONFIG.update_epochs)]
        theirs = iter([((order % 4) * 64 + order // 4).numpy() for order in orders])
        monkeypatch.setattr(np.random, "permutation", lambda _: next(theirs))
        their_train()
        monkeypatch.setattr(np.random, "permutation", permutation)
        for group in optimizer.param_groups:
            group["lr"] = model.policy.optimizer.param_groups[0]["lr"]
        generator = torch.Generator().manual_seed(n)
        update(ours, optimizer, storage, advantages, returns, CONFIG, generator, loss_with_its_advantages)

    monkeypatch.setattr(model, "train", train_both)
    model.learn(CONFIG.total_timesteps)
    theirs = agent_of(model, CONFIG).state_dict()
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p, theirs[name], rtol=0, atol=1e-6)
        assert (p - before[name]).abs().max() > 1e-3, name


def test_observation_statistics_are_the_same() -> None:
    data = torch.randn(20, 8, 3, generator=torch.Generator().manual_seed(0)) * 3 + 1
    ours, theirs = RunningNormalizer((3,)), RunningMeanStd(shape=(3,))
    theirs.count = 0.0  # it starts with the weight of 1e-4 samples
    for batch in data:
        ours.update(batch)
        theirs.update(batch.numpy())
        np.testing.assert_allclose(ours.mean.numpy(), theirs.mean, rtol=1e-6)
        np.testing.assert_allclose(ours.var.numpy(), theirs.var, rtol=1e-5)
    assert ours.count == theirs.count
