"""Returns, lengths and what else is told of finished episodes, in training and in evaluation."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from ballbot.ppo import distributed, threads
from ballbot.ppo.agent import Agent
from ballbot.ppo.spaces import as_tensors
from ballbot.ppo.storage import Rollout, autoreset_mode

WINDOW = 100
"""Finished episodes that the logged averages look back on, as is usual for learning curves."""
MAX_EPISODE_STEPS = 1_000_000
"""An episode longer than this has no end: evaluation would hang for ever instead of failing."""


CHARTS = ("diverged", "range_share")
"""What infos tell by themselves that is logged under "charts": failures of the simulation, and how much of the ranges
an episode met."""


def to_numpy(x: Any) -> np.ndarray:
    """Array or tensor, on any device, as an array."""
    return x.cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def episode_terms(infos: dict[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What an environment tells about episodes that ended in this step, beyond return and length.

    Reads `infos["final_info"]`, and there

    - "reward_terms", a dict of the episode's sum of each part of the reward, as "reward/<name>";
    - "measures", a dict of whatever else tells how an episode went, such as a tracking error, as "episode/<name>";
    - those of `CHARTS`, such as "diverged", 1 where the simulation itself failed, as "charts/<name>".

    Values are arrays (num_envs,) of numbers or booleans; anything else is passed over. Who reports a value is told by
    Gymnasium's masks: "_<name>" beside the value, or else "_reward_terms" or "_measures" beside the dict; without any,
    all do. NaN is a value not reported.

    Returns:
        name -> (values (num_envs,), mask (num_envs,) bool, True where an episode reported the value).
    """
    final_info = infos.get("final_info")
    if not isinstance(final_info, dict):
        return {}
    found = {}
    charts = {key: final_info[key] for name in CHARTS for key in (name, f"_{name}") if key in final_info}
    for prefix, source, mask_of_all in (
        ("reward", final_info.get("reward_terms"), final_info.get("_reward_terms")),
        ("episode", final_info.get("measures"), final_info.get("_measures")),
        ("charts", charts, None),
    ):
        if not isinstance(source, dict):
            continue
        for key in (key for key in source if not key.startswith("_")):
            values = to_numpy(source[key])
            if values.ndim != 1 or values.dtype.kind not in "biuf":
                continue
            values = values.astype(np.float64)
            reported = ~np.isnan(values)
            if (mask := source.get(f"_{key}", mask_of_all)) is not None:
                reported &= to_numpy(mask).astype(bool)
            found[f"{prefix}/{key}"] = (values, reported)
    return found


class EpisodeStatistics:
    """Running episodes of each environment, and the last finished ones."""

    def __init__(self, num_envs: int, action_repeat: int = 1) -> None:
        """Start with no episode under way in any of `num_envs` environments, which hold each action so many steps."""
        self.action_repeat = action_repeat
        self.returns = np.zeros(num_envs)
        self.lengths = np.zeros(num_envs, np.int64)
        self.recent: deque[dict[str, float]] = deque(maxlen=WINDOW)
        self.moved = False
        """Whether an episode ended in the last rollout: else the averages are those of the one before."""

    def add(
        self,
        rewards: np.ndarray,
        ended: np.ndarray,
        valid: np.ndarray | None,
        terms: dict[int, dict[str, tuple[np.ndarray, np.ndarray]]],
    ) -> list[dict[str, float]]:
        """Count the steps of one rollout.

        Args:
            rewards: (num_steps, num_envs).
            ended: (num_steps, num_envs) bool, True where the step ended an episode.
            valid: (num_steps, num_envs) bool, False in rows that are no real step (None: all are real).
            terms: step -> `episode_terms` of that step.

        Returns:
            the finished episodes, in order: "return", "length" and whatever `terms` hold.
        """
        finished = []
        for t in range(len(rewards)):
            real = True if valid is None else valid[t]
            self.returns += rewards[t] * real
            self.lengths += self.action_repeat * real  # the last hold of an episode counts in full
            for i in np.flatnonzero(ended[t]):
                episode = {"return": float(self.returns[i]), "length": float(self.lengths[i])}
                episode |= {name: float(v[i]) for name, (v, mask) in terms.get(t, {}).items() if mask[i]}
                finished.append(episode)
            self.returns[ended[t]] = 0
            self.lengths[ended[t]] = 0
        return finished

    def take_in(self, batch: Rollout, terms: dict[int, dict[str, tuple[np.ndarray, np.ndarray]]]) -> dict[str, float]:
        """Count the steps of one rollout, in all processes.

        Args:
            batch: the rollout of this process.
            terms: step -> `episode_terms` of that step.

        Returns:
            the mean of each value over the last finished episodes that report it, by the name it is logged under.
        """
        rewards, ended = to_numpy(batch.rewards), to_numpy(batch.terminated | batch.truncated)
        finished = self.add(rewards, ended, None if batch.valid is None else to_numpy(batch.valid), terms)
        everywhere = [episode for episodes in distributed.gather(finished) for episode in episodes]
        self.moved = bool(everywhere)
        self.recent.extend(everywhere)
        charts = {"return": "charts/episodic_return", "length": "charts/episodic_length"}
        names = dict.fromkeys(name for episode in self.recent for name in episode)
        return {charts.get(n, n): float(np.mean([e[n] for e in self.recent if n in e])) for n in names}

    def get_state(self) -> dict[str, Any]:
        """Running episodes and the last finished ones, for checkpoints."""
        return {"returns": self.returns, "lengths": self.lengths, "recent": list(self.recent)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Inverse of `get_state`."""
        for name, mine in (("returns", self.returns), ("lengths", self.lengths)):
            if np.shape(state[name]) != mine.shape:
                raise ValueError(f"episodes {name!r} have the shape {np.shape(state[name])}, expected {mine.shape}")
            mine[:] = state[name]
        episodes = [{str(name): float(value) for name, value in episode.items()} for episode in state["recent"]]
        self.recent = deque(episodes, maxlen=WINDOW)


def evaluate(
    agent: Agent, envs: VectorEnv, num_episodes: int, seed: int, deterministic: bool = True, torch_threads: int = 1
) -> dict[str, float]:
    """Run `num_episodes` whole episodes: the first after a reset in each environment, as often as it takes.

    Only first episodes count, since short episodes would otherwise be over-represented. The result depends on
    the agent, the environments and `seed` alone, and no random state of the training is touched.

    Args:
        agent: policy to judge.
        envs: vector environment that resets itself (SAME_STEP or NEXT_STEP).
        num_episodes: a multiple of `envs.num_envs`.
        seed: of the first environment; the others, and further rounds, count up from it.
        deterministic: act by the mode of the policy, else by samples of it.
        torch_threads: of PyTorch meanwhile (0: as many as PyTorch has); more make networks this small slower.

    Returns:
        return_mean, return_std, return_min, length_mean, and the mean of each of the `episode_terms` that the
        environments report.

    Raises:
        ValueError: `num_episodes` is no multiple of `envs.num_envs`, or the environments do not reset themselves.
        RuntimeError: an episode does not end.
    """
    if not isinstance(agent, Agent):
        raise TypeError(f"agent is a {type(agent).__name__}, and must be what load_agent returns")
    autoreset_mode(envs)
    n = envs.num_envs
    if num_episodes < 1 or num_episodes % n:
        raise ValueError(f"num_episodes = {num_episodes} must be a positive multiple of envs.num_envs = {n}")
    generator = torch.Generator(agent.policy_head.weight.device).manual_seed(seed)
    returns, lengths = np.zeros(num_episodes), np.zeros(num_episodes)
    terms: dict[str, list[float]] = {}
    for start in range(0, num_episodes, n):
        obs, _ = envs.reset(seed=seed + start)
        tensors = as_tensors(obs)
        running, memory = np.ones(n, bool), agent.new_memory(n)
        while running.any():
            with threads.torch_threads(torch_threads):
                action = agent.act(obs, deterministic, generator, memory)
            obs, reward, terminated, truncated, infos = envs.step(action if tensors else action.cpu().numpy())
            returns[start : start + n] += to_numpy(reward) * running
            lengths[start : start + n] += running
            ended = running & (to_numpy(terminated) | to_numpy(truncated))
            if ended.any():
                for name, (values, mask) in episode_terms(infos).items():
                    terms.setdefault(name, []).extend(values[ended & mask])
                running &= ~ended
            if lengths.max() > MAX_EPISODE_STEPS:
                raise RuntimeError(
                    f"evaluation episode {int(lengths.argmax())} has not ended after {MAX_EPISODE_STEPS} "
                    "steps; limit the episodes, e.g. with gymnasium.wrappers.TimeLimit"
                )
    return {
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_min": float(returns.min()),
        "length_mean": float(lengths.mean()),
        **{name.removeprefix("charts/"): float(np.mean(values)) for name, values in terms.items() if values},
    }
