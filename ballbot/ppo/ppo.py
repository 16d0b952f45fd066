"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347), from top to bottom.

`rollout` collects num_steps from every environment, `gae` turns rewards and values into advantages, `update` improves
the networks on them by gradients of `ppo_loss`, and `learn` repeats this: the paper's Algorithm 1. Each part can be
imported and used alone; `ballbot.ppo.training` adds evaluation, logs and checkpoints.

Normalisation: the observation statistics are those of all earlier rollouts. They stay frozen while a rollout is
collected and learned from, and take it in only afterwards; the first rollout has nothing to be normalised by, so
it only measures, and no gradient step follows. With `normalize_observations_per_step` they take in every step before
the policy sees it instead. Either way the normalised observations are stored, so the policy that judges the
actions in `update` is the one that drew them, and the first probability ratio is 1.

Episode ends: `terminated` has no future, `truncated` (a time limit) has one, worth V(final observation); both
cut the advantage recursion. With Gymnasium's SAME_STEP autoreset the final observation comes in
`infos["final_obs"]`. With NEXT_STEP it is the returned observation, and the next row is a filler whose action
the environment ignores: it takes no part in losses, statistics and episode counts.

Memory: with `memory`, what the networks remember runs on from rollout to rollout and is 0 where an episode begins. The
rollout keeps what they remembered at its start, and `update` recalls the rest from there in whole sequences, with the
networks as they are then.

Averaging: with `policy_average`, what is evaluated, saved to best.pt and returned by `train` is a running average of
the networks over the updates (`TrainingState.policy`); the newest networks (`TrainingState.agent`) explore and learn.
So "eval/..." judges the average and "charts/..." the newest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import nn

from ballbot.ppo import distributed
from ballbot.ppo.agent import Agent
from ballbot.ppo.config import PPOConfig
from ballbot.ppo.episodes import episode_terms, to_numpy
from ballbot.ppo.imitation import Estimating, Lessons
from ballbot.ppo.logger import STEP
from ballbot.ppo.memory import forget
from ballbot.ppo.normalizer import masked_moments
from ballbot.ppo.schedules import KL_STOP_FACTOR, adapt_lr, scheduled_lr, scheduled_std
from ballbot.ppo.spaces import all_finite, as_tensors, rows_of
from ballbot.ppo.state import TrainingState
from ballbot.ppo.stopwatch import Stopwatch
from ballbot.ppo.storage import DivergedError, EnvState, Rollout, all_rows, autoreset_mode, check_finite, column
from ballbot.ppo.wrapped import progress_listener


def rollout(
    agent: Agent,
    envs: VectorEnv,
    state: EnvState,
    storage: Rollout,
    generator: torch.Generator,
    stopwatch: Stopwatch,
    sample: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None = None,
    measure: bool = False,
    lessons: Lessons | Estimating | None = None,
) -> dict[int, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Fill `storage` with num_steps from every environment and move `state` on.

    Observations and rewards may be NumPy arrays or tensors; tensors on the agent's device are used as they are,
    and such environments get their actions as tensors. Values are computed in one batch at the end, since
    only the policy is needed to act.

    Args:
        agent: acts and values.
        envs: vector environment with SAME_STEP or NEXT_STEP autoreset.
        state: where the environments stand; updated.
        storage: overwritten.
        generator: source of the exploration noise; in the same state in all processes.
        stopwatch: gets laps "infer" and "simulate".
        sample: compiled stand-in of `agent.sample`.
        measure: let the observation statistics take in every step, before the agent sees it.
        lessons: of a teacher that is asked at every step, and drives some environments.

    Returns:
        step -> `episode_terms` of that step, where there are any.

    Raises:
        DivergedError: an observation or reward is not finite.
        ValueError: SAME_STEP environments truncate without giving the final observation.
    """
    device = storage.rewards.device
    num_steps, num_envs = storage.rewards.shape
    sample = sample or agent.sample
    same_step = storage.valid is None
    tensors = as_tensors(state.obs)
    terms: dict[int, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    final_obs: list[torch.Tensor] = []
    raw_final_obs: list[torch.Tensor] = []
    has_final = torch.zeros_like(storage.truncated)
    noise = agent.draw_noise((num_steps, num_envs * distributed.world_size()), generator)  # alike in all processes
    noise = noise[:, distributed.own_envs(num_envs)]
    memory = None
    if storage.memory is not None and storage.began is not None:
        storage.memory.copy_(torch.zeros_like(storage.memory) if state.memory is None else state.memory)
        storage.began.zero_()
        memory = storage.memory[:, 0]  # the policy's; the value function's is recalled at the end, in one go

    for t in range(num_steps):
        storage.raw_obs[t] = all_rows(agent.flatten(state.obs, whole=True), num_envs)
        if not tensors and not all_finite(state.obs):  # before it makes the actions NaN, which says less
            check_finite(storage.raw_obs[: t + 1], storage.raw_obs[t], storage.rewards[:t], [])
        if storage.valid is not None:
            storage.valid[t] = ~state.done
        with torch.no_grad():
            if measure:
                agent.measure(storage.raw_obs[t], None if storage.valid is None else storage.valid[t])
            storage.obs[t] = agent.normalize(storage.raw_obs[t])
            if memory is not None:
                memory = agent.remember(storage.obs[t], memory)
            action, logprob = sample(storage.obs[t], noise[t], memory)
            if lessons is not None:
                action = lessons.ask(t, state.obs, storage.raw_obs[t], action, noise[t])
            storage.actions[t] = action
            storage.logprobs[t] = logprob
            env_action = agent.env_action(action, storage.raw_obs[t])
        stopwatch.lap("infer")

        sent = env_action if tensors else env_action.cpu().numpy()
        state.obs, reward, terminated, truncated, infos = envs.step(sent)
        stopwatch.lap("simulate")

        storage.rewards[t] = column(reward, "rewards", num_envs, device)
        storage.terminated[t] = column(terminated, "terminated", num_envs, device)
        storage.truncated[t] = column(truncated, "truncated", num_envs, device)
        state.done = storage.terminated[t] | storage.truncated[t]
        if same_step and "final_obs" in infos:
            mask = to_numpy(infos["_final_obs"]) & to_numpy(truncated) & ~to_numpy(terminated)
            has_final[t] = torch.as_tensor(mask, device=device)
            if ids := np.flatnonzero(mask).tolist():
                raw_final_obs.append(agent.flatten(rows_of(infos["final_obs"], ids), whole=True).float())
                final_obs.append(agent.normalize(raw_final_obs[-1]))
        begins = state.done if storage.valid is None else ~storage.valid[t]
        if lessons is not None:
            lessons.began = begins.cpu().numpy()
        if memory is not None and storage.began is not None:
            memory = forget(memory, begins)
            if t + 1 < num_steps:
                storage.began[t + 1] = begins
        if "final_info" in infos and (found := episode_terms(infos)):
            terms[t] = found

    next_obs = agent.flatten(state.obs, whole=True).float()
    check_finite(storage.raw_obs, next_obs, storage.rewards, raw_final_obs)
    with torch.no_grad():
        recalled = now = None  # what the value function remembers after each step, and before `next_obs`
        if memory is not None and storage.memory is not None and storage.began is not None:
            recalled = agent.recall(storage.obs, storage.memory, storage.began, first=-1)[:, :, 0]
            now = forget(recalled[-1], begins)
            state.memory = torch.stack([memory, now], dim=1)[:, : len(agent.memories)]

        def value_after(x: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
            return agent.get_value(x, None if before is None else agent.remember(x, before, network=-1))

        values = agent.get_value(storage.obs.flatten(0, 1), None if recalled is None else recalled.flatten(0, 1))
        storage.values.copy_(values.view(num_steps, num_envs))
        storage.next_value.copy_(value_after(agent.normalize(next_obs), now))
        if not same_step:
            storage.final_values.copy_(torch.cat([storage.values[1:], storage.next_value.unsqueeze(0)]))
        elif missing := int((storage.truncated & ~storage.terminated & ~has_final).sum()):
            raise ValueError(
                f"{missing} truncated episodes came without their final observation; SAME_STEP environments "
                'must give infos["final_obs"] and its mask infos["_final_obs"]'
            )
        elif final_obs:
            before = None if recalled is None else recalled[has_final]
            storage.final_values[has_final] = value_after(torch.cat(final_obs), before)
    stopwatch.lap("infer")
    return terms


def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    final_values: torch.Tensor,
    next_value: torch.Tensor,
    gamma: float,
    gae_lambda: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438, eq. 11-16).

    Args:
        rewards: (num_steps, num_envs).
        values: V of the observation each step started from, same shape.
        terminated: bool, same shape; the future after such a step is worth 0, even if it is also truncated.
        truncated: bool, same shape; the future after such a step is worth `final_values`.
        final_values: V of the final observation, same shape, read only where truncated and not terminated.
        next_value: (num_envs,) V of the observation after the last step.
        gamma: discount factor.
        gae_lambda: decay of the estimate.

    Returns:
        advantages and returns (advantages + values), each (num_steps, num_envs).
    """
    ended = terminated | truncated
    future = torch.cat([values[1:], next_value.unsqueeze(0)])
    future = torch.where(ended, final_values.masked_fill(terminated, 0.0), future)
    delta = rewards + gamma * future - values
    decay = gamma * gae_lambda * (~ended).to(rewards.dtype)
    advantages = torch.empty_like(rewards)
    advantage = torch.zeros_like(next_value)
    for t in reversed(range(len(rewards))):
        advantage = delta[t] + decay[t] * advantage
        advantages[t] = advantage
    return advantages, advantages + values


def ppo_loss(
    agent: Agent,
    obs: torch.Tensor,
    actions: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    returns: torch.Tensor,
    old_values: torch.Tensor,
    weights: torch.Tensor | None,
    config: PPOConfig,
    sequences: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of one minibatch: clipped surrogate, value error and entropy (arXiv:1707.06347, eq. 7 and 9).

    Args:
        agent: networks being trained.
        obs: (batch, *input_shape), normalised.
        actions: (batch, dim) or (batch,).
        old_logprobs: (batch,), as are all that follow.
        advantages: already normalised, if they are to be.
        returns: targets of the value.
        old_values: values when the steps were collected.
        weights: None for the plain mean, else factors under which a sum is the mean over the real steps.
        config: clip ranges and coefficients.
        sequences: of an agent that remembers, whose batch is steps * sequences, a step after the other: what it did at
            their start (sequences, networks, *memory_shape), and where episodes begin (steps, sequences).

    Returns:
        loss, and the detached METRICS of the minibatch.
    """

    def mean(x: torch.Tensor) -> torch.Tensor:
        return x.mean() if weights is None else (x * weights).sum()

    _, logprobs, entropy, values = agent.get_action_and_value(obs, actions, agent.recall_rows(obs, sequences))
    logratio = logprobs - old_logprobs
    ratio = logratio.exp()
    clipped = ratio.clamp(1 - config.clip_range, 1 + config.clip_range)
    policy_loss = mean(torch.max(-advantages * ratio, -advantages * clipped))

    squared_error = (values - returns) ** 2
    if config.value_clip_range is not None:
        moved = (values - old_values).clamp(-config.value_clip_range, config.value_clip_range)
        squared_error = torch.max(squared_error, (old_values + moved - returns) ** 2)
    if agent.value_scale is not None:
        squared_error = squared_error / agent.value_scale.std**2
    value_loss = 0.5 * mean(squared_error)

    entropy_mean = mean(entropy)
    loss = policy_loss + config.vf_coef * value_loss - config.ent_coef * entropy_mean
    with torch.no_grad():
        # Schulman, "Approximating KL divergence" (joschu.net/blog/kl-approx.html): k1 and k3
        kls = [mean(-logratio), mean((ratio - 1) - logratio)]
        clipfrac = mean(((ratio - 1).abs() > config.clip_range).float())
        metrics = torch.stack([loss, policy_loss, value_loss, entropy_mean, clipfrac, *kls])
    return loss, metrics.detach()


METRICS = ("loss", "policy_loss", "value_loss", "entropy", "clipfrac", "old_approx_kl", "approx_kl")
"""What `ppo_loss` measures, in order."""


def minibatches(batch: Rollout, config: PPOConfig, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Rows of the (num_steps, all environments) batch of all processes, flattened, for each gradient step of an epoch.

    In random order; of an agent that remembers, all steps of some environments, a step after the other.
    """
    num_steps, num_envs = len(batch.rewards), batch.rewards.shape[1] * distributed.world_size()
    device = batch.rewards.device
    if batch.memory is None:
        order = torch.randperm(num_steps * num_envs, generator=generator, device=device)
        yield from torch.split(order, config.minibatch_size)
        return
    steps = torch.arange(num_steps, device=device).unsqueeze(1)
    order = torch.randperm(num_envs, generator=generator, device=device)
    for envs in torch.split(order, config.minibatch_size // num_steps):
        yield (steps * num_envs + envs).flatten()


def standardize(advantages: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Shift and scale `advantages` (batch,) to mean 0 and standard deviation 1 over all processes.

    Rows where `mask` (batch,) is False do not count.
    """
    _, mean, var = masked_moments(advantages, mask)
    return ((advantages - mean) / (var.sqrt() + 1e-8)).to(advantages.dtype)


def update(
    agent: Agent,
    optimizer: torch.optim.Optimizer,
    batch: Rollout,
    advantages: torch.Tensor,
    returns: torch.Tensor,
    config: PPOConfig,
    generator: torch.Generator,
    loss_fn: Callable[..., tuple[torch.Tensor, torch.Tensor]] = ppo_loss,
) -> dict[str, float]:
    """Improve the agent on one rollout.

    The KL divergence of each minibatch is tested before its gradient step; once it exceeds 1.5 * target_kl
    the step is not taken and the update ends. With several processes, gradients, KL divergence and advantage
    statistics are those of all of them.

    Args:
        agent: networks to train.
        optimizer: from `make_optimizer`.
        batch: what `rollout` collected.
        advantages: (num_steps, num_envs) from `gae`.
        returns: same.
        config: PPO settings.
        generator: source of the minibatch order; in the same state in all processes.
        loss_fn: compiled stand-in of `ppo_loss`.

    Returns:
        mean of each of METRICS over the minibatches, except approx_kl, which is the last one tested; also
        "explained_variance", "grad_norm" and "minibatches", the number of gradient steps.

    Raises:
        DivergedError: a loss or gradient is not finite; the parameters are those before that gradient step.
    """
    valid = None if batch.valid is None else batch.valid.flatten()
    advantages, returns, old_values = advantages.flatten(), returns.flatten(), batch.values.flatten()
    if agent.value_scale is not None:
        agent.value_scale.update(returns, valid, agent.value_head)
    if config.normalize_advantage and not config.normalize_advantage_per_minibatch:
        advantages = standardize(advantages, valid)
    obs, actions, logprobs = batch.obs.flatten(0, 1), batch.actions.flatten(0, 1), batch.logprobs.flatten()
    columns = (obs, actions, logprobs, advantages, returns, old_values)
    processes, num_envs = distributed.world_size(), batch.rewards.shape[1]

    taken, grad_norms = 0, 0.0
    measured: list[torch.Tensor] = []
    stop = False
    for _ in range(config.update_epochs):
        for rows in minibatches(batch, config, generator):
            indices = distributed.own_rows(rows, num_envs)
            real = None if valid is None else valid[indices]
            weights = None
            if real is not None:
                share = processes / distributed.all_reduce_sum(real.sum()).clamp(min=1)
                weights = real.float() * share
            elif processes > 1:  # whose gradients are averaged, however many steps each has
                weights = returns.new_full(indices.shape, processes / len(rows))
            minibatch = [x.index_select(0, indices) for x in columns]
            if config.normalize_advantage_per_minibatch:
                minibatch[3] = standardize(minibatch[3], real)
            sequences = None
            if batch.memory is not None and batch.began is not None:
                began = batch.began.flatten()[indices].view(len(batch.began), -1)
                sequences = batch.memory[indices[: began.shape[1]]], began
            loss, metrics = loss_fn(agent, *minibatch, weights, config, *([sequences] if sequences else []))
            # The decision to stop must be the same in all processes, or some would wait for a gradient that
            # never comes.
            measured.append(distributed.all_reduce_sum(metrics) / processes)
            now = dict(zip(METRICS, measured[-1].tolist(), strict=True))
            if config.target_kl is not None and now["approx_kl"] > KL_STOP_FACTOR * config.target_kl:
                stop = True
                break
            if not all(map(math.isfinite, now.values())):
                raise DivergedError(_diverged("loss", now["loss"], config))
            optimizer.zero_grad()
            agent.backward(loss)
            distributed.average_gradients(agent.parameters())
            max_norm = math.inf if config.max_grad_norm is None else config.max_grad_norm
            grad_norm = float(nn.utils.clip_grad_norm_(agent.parameters(), max_norm))
            if not math.isfinite(grad_norm):
                raise DivergedError(_diverged("gradient", grad_norm, config))
            optimizer.step()
            agent.limit_std()
            taken += 1
            grad_norms += grad_norm
        if stop:
            break

    result = dict(zip(METRICS, torch.stack(measured).mean(0).tolist(), strict=True))
    result["approx_kl"] = now["approx_kl"]
    result["grad_norm"] = grad_norms / max(taken, 1)
    result["minibatches"] = taken
    _, _, var_returns = masked_moments(returns, valid)
    _, _, var_errors = masked_moments(returns - old_values, valid)
    result["explained_variance"] = float(1 - var_errors / var_returns) if var_returns > 0 else math.nan
    return result


def _diverged(what: str, value: float, config: PPOConfig) -> str:
    return (
        f"the {what} became {value}; learning has diverged. The last checkpoint is untouched: start again "
        f"with a smaller learning_rate (now {config.learning_rate:g}) "
        f"or max_grad_norm (now {config.max_grad_norm})"
    )


def make_optimizer(agent: Agent, config: PPOConfig) -> torch.optim.AdamW:
    """AdamW that decays weight matrices only: to pull log_std to 0 would set the noise, not regularise."""
    trained = [p for p in agent.parameters() if p.requires_grad]
    decay = [p for p in trained if p.ndim >= 2]
    no_decay = [p for p in trained if p.ndim < 2]
    groups = [
        {"params": decay, "weight_decay": config.weight_decay},
        {"params": no_decay, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, eps=config.adam_eps, fused=True)


def learn(state: TrainingState, envs: VectorEnv) -> Iterator[tuple[dict[str, float], Stopwatch]]:
    """Repeat rollout and update until the run is finished; `state` moves on.

    Args:
        state: networks, optimiser, counters and where the environments stand.
        envs: environments of this process.

    Yields:
        after each update, the numbers to log, and a stopwatch with the laps "infer", "simulate" and "learn".
    """
    config, agent, optimizer = state.config, state.agent, state.optimizer
    next_step = autoreset_mode(envs) == AutoresetMode.NEXT_STEP
    batch = Rollout.allocate(agent, config.num_steps, envs.num_envs, next_step, state.device)
    sample = torch.compile(agent.sample) if config.compile else agent.sample
    loss_fn = torch.compile(ppo_loss) if config.compile else ppo_loss
    per_step = config.normalize_observations_per_step
    normalizer = None if per_step else agent.normalizer  # which else takes in whole rollouts
    follow = progress_listener(envs)

    while not state.finished:
        stopwatch = Stopwatch()
        done = anneal(state)
        if follow is not None:
            follow(done)
        row = {STEP: state.global_step + config.rollout_size, "charts/learning_rate": state.learning_rate}
        lessons = state.lessons if state.imitating else None
        if lessons is not None:
            lessons.begin(batch, state.global_step / config.imitation_timesteps)
        terms = rollout(agent, envs, state.env_state, batch, state.generator, stopwatch, sample, per_step, lessons)
        row |= state.episodes.take_in(batch, terms)
        if state.reward_scaler is not None:
            ended = batch.terminated | batch.truncated
            batch.rewards.copy_(state.reward_scaler.update_and_scale(batch.rewards, ended, batch.valid))

        # The first rollout is collected without statistics of the observations: learn those from it and nothing else.
        if normalizer is None or normalizer.measured:
            ends = batch.terminated, batch.truncated, batch.final_values, batch.next_value
            advantages, returns = gae(batch.rewards, batch.values, *ends, config.gamma, config.gae_lambda)
            lesson, loss = (batch, loss_fn) if lessons is None else (lessons.lesson(batch), lessons.loss)
            metrics = update(agent, optimizer, lesson, advantages, returns, config, state.generator, loss)
            if lessons is not None:
                row["imitation/difference"] = metrics.pop("policy_loss")
            row |= {f"losses/{name}": value for name, value in metrics.items()}
            if lessons is None and config.lr_schedule == "adaptive" and config.target_kl is not None:
                bounds = config.min_learning_rate, config.max_learning_rate
                state.learning_rate = adapt_lr(state.learning_rate, metrics["approx_kl"], config.target_kl, *bounds)
        if normalizer is not None:
            agent.measure(batch.raw_obs.flatten(0, 1), None if batch.valid is None else batch.valid.flatten())
        state.update_average()
        if not agent.discrete:
            row["policy/std"] = float(agent.log_std.detach().exp().mean())
        state.global_step += config.rollout_size
        if lessons is not None and not state.imitating:  # PPO begins with an optimiser that knows no other gradients
            optimizer.state.clear()
            state.learning_rate = config.learning_rate
        stopwatch.lap("learn")
        yield row, stopwatch


def anneal(state: TrainingState) -> float:
    """Set learning rate and largest exploration noise for the update that comes; the share of the schedules done."""
    config = state.config
    done, total = state.global_step - config.imitation_timesteps, config.schedule_timesteps or config.total_timesteps
    remaining = 1.0 if done < 0 else max(1 - done / max(total - config.imitation_timesteps, 1), 0.0)
    std = scheduled_std(config.initial_std, config.final_std, remaining, config.final_std_share)
    state.agent.max_log_std = math.log(std)
    if state.imitating:
        state.learning_rate = -done / config.imitation_timesteps * config.imitation_learning_rate
    elif config.lr_schedule != "adaptive":
        state.learning_rate = scheduled_lr(config.lr_schedule, config.learning_rate, remaining)
    for group in state.optimizer.param_groups:
        group["lr"] = state.learning_rate
    return 1 - remaining
