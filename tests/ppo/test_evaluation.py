"""Evaluation counts whole first episodes and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from toy import PointEnv, ScriptedEnv, cartpole, curve, run

from ballbot.ppo import Agent, PPOConfig, evaluate
from ballbot.ppo.episodes import episode_terms


def agent_for(envs: gym.vector.VectorEnv) -> Agent:
    config = PPOConfig(hidden_size=8, num_layers=1)
    generator = torch.Generator().manual_seed(0)
    return Agent(envs.single_observation_space, envs.single_action_space, config, generator)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_return_and_length_by_hand(mode: AutoresetMode) -> None:
    envs = ScriptedEnv("...T..", mode)
    result = evaluate(agent_for(envs), envs, num_episodes=3, seed=0)
    assert result["return_mean"] == 1 + 2 + 3 + 4
    assert result["return_std"] == 0
    assert result["length_mean"] == 4


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_equals_single_environments_run_one_after_the_other(mode: AutoresetMode) -> None:
    envs = cartpole(4, mode)
    agent = agent_for(envs)
    returns = []
    for seed in range(50, 58):
        env = gym.make("CartPole-v1")
        obs, _ = env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            action = int(agent.act(obs[None])[0])
            obs, reward, terminated, truncated, _ = env.step(action)
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    result = evaluate(agent, envs, num_episodes=8, seed=50)
    assert result["return_mean"] == np.mean(returns)
    assert result["return_min"] == min(returns)


def test_repeats_and_leaves_the_global_random_states_alone() -> None:
    agent = agent_for(PointEnv(3))
    before = torch.get_rng_state()
    results = [evaluate(agent, PointEnv(3), 3, seed=1, deterministic=False) for _ in range(2)]
    assert results[0] == results[1] != evaluate(agent, PointEnv(3), 3, seed=2, deterministic=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert results[0]["reward/position"] == pytest.approx(results[0]["return_mean"], rel=1e-5)


def test_number_of_episodes_must_fill_the_environments() -> None:
    with pytest.raises(ValueError, match=r"num_episodes = 4 .*num_envs = 3"):
        evaluate(agent_for(PointEnv(3)), PointEnv(3), 4, seed=0)


def test_environments_must_reset_themselves() -> None:
    envs = ScriptedEnv("..T")
    agent = agent_for(envs)
    envs.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
    with pytest.raises(ValueError, match="autoreset_mode"):
        evaluate(agent, envs, 1, seed=0)


@pytest.mark.filterwarnings("error")
def test_a_reward_term_no_episode_reports_is_left_out() -> None:
    class Silent(PointEnv):
        def step(self, actions: Any) -> Any:
            *rest, infos = super().step(actions)
            if infos:
                infos["final_info"]["_reward_terms"] = np.zeros(self.num_envs, bool)
            return *rest, infos

    result = evaluate(agent_for(Silent(2)), Silent(2), 2, seed=0)
    assert "reward/position" not in result
    assert np.isfinite(list(result.values())).all()


class Measured(PointEnv):
    """Tells of each episode how long it was, where it ended if that is on the right, and what is no number."""

    def step(self, actions: Any) -> Any:
        age = self.age + 1
        obs, reward, terminated, truncated, infos = super().step(actions)
        if infos:
            x = infos["final_obs"][:, 0]
            infos["final_info"] |= {
                "measures": {
                    "age": age,
                    "place": np.where(x > 0, x, np.nan),
                    "never": x,
                    "_never": np.zeros(self.num_envs, bool),
                    "text": np.full(self.num_envs, "?"),
                },
                "_measures": terminated | truncated,
            }
        return obs, reward, terminated, truncated, infos


@pytest.mark.filterwarnings("error")
def test_measures_are_averaged_over_the_episodes_that_report_them(tmp_path: Path) -> None:
    found = episode_terms(
        {
            "final_info": {
                "measures": {"a": np.array([1.0, np.nan, 3.0]), "b": [True, False, True], "_b": [True, True, False]},
                "_measures": np.array([True, True, False]),
                "reward_terms": {"a": torch.tensor([4, 5, 6])},
            }
        }
    )
    assert {name: values[mask].tolist() for name, (values, mask) in found.items()} == {
        "reward/a": [4.0, 5.0, 6.0],
        "episode/a": [1.0],
        "episode/b": [1.0, 0.0],
    }
    result = evaluate(agent_for(Measured(6)), Measured(6), 6, seed=0)
    assert result["episode/age"] == result["length_mean"]
    assert result["episode/place"] > 0
    assert result.keys().isdisjoint({"episode/never", "episode/text"})
    run(tmp_path / "run", Measured)
    last = curve(tmp_path / "run")[-1]
    assert last["episode/age"] == last["charts/episodic_length"]
    assert float(last["episode/place"]) > 0 and float(last["eval/episode/place"]) > 0
    assert last.keys().isdisjoint({"episode/never", "episode/text"})


def test_an_endless_episode_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ballbot.ppo.episodes.MAX_EPISODE_STEPS", 50)
    envs = ScriptedEnv("." * 1000)
    with pytest.raises(RuntimeError, match="TimeLimit"):
        evaluate(agent_for(envs), envs, 1, seed=0)


def test_as_many_threads_of_pytorch_compute_as_are_asked_for() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    class Counts(PointEnv):
        def __init__(self, num_envs: int) -> None:
            super().__init__(num_envs)
            self.agent = agent_for(self)
            self.agent.policy_head.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))

    try:
        torch.set_num_threads(2)
        for threads in (1, 0):
            envs = Counts(1)
            evaluate(envs.agent, envs, 1, seed=0, torch_threads=threads)
            assert torch.get_num_threads() == 2
        assert set(seen) == {1, 2} and seen == sorted(seen)
    finally:
        torch.set_num_threads(before)
