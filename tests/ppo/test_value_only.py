"""A value function that sees more than the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from toy import BOX1, OBS2, PointEnv, SplitEnv, collect, curve, generator, run, small_config

from ballbot.ppo import Agent, Hooks, Structure, Symmetry, evaluate, load_agent
from ballbot.ppo.training import train

BOTH = SplitEnv(1).single_observation_space


def test_the_policy_sees_its_own_first_and_the_value_function_all() -> None:
    """Of keys in whatever order: here what only the value function gets comes first in the space."""
    agent = Agent(BOTH, BOX1, small_config(value_only=("age",)), generator())
    obs = {"age": np.full((3, 1), 7.0), "policy": np.arange(6.0).reshape(3, 2)}
    row = agent.flatten(obs, whole=True)
    assert torch.equal(row.double(), torch.tensor([[0.0, 1, 7], [2, 3, 7], [4, 5, 7]]).double())
    assert (agent.obs_size, agent.value_size) == (2, 3)
    x, other = agent.normalize(row), agent.normalize(row + torch.tensor([0.0, 0.0, 1.0]))
    assert torch.equal(agent.policy_output(x), agent.policy_output(other))
    assert (agent.get_value(x) - agent.get_value(other)).abs().min() > 1e-4
    # acting needs none of it, and takes the array of the one key that is left
    whole = agent.act(obs)
    for less in ({"policy": obs["policy"]}, obs["policy"], torch.tensor(obs["policy"])):
        assert torch.equal(agent.act(less), whole)


@pytest.mark.parametrize("as_tensors", [False, True])
def test_values_of_a_rollout_are_those_of_all_that_is_seen(as_tensors: bool) -> None:
    config = small_config(value_only=("age",), num_steps=64, normalize_observations=False)
    agent, batch = collect(SplitEnv(4, as_tensors), config)
    age = batch.raw_obs[..., 2]
    ended = (batch.terminated | batch.truncated)[:-1]
    torch.testing.assert_close(age[1:], torch.where(ended, 0.0, age[:-1] + 0.05))
    with torch.no_grad():
        torch.testing.assert_close(batch.values.flatten(), agent.get_value(batch.raw_obs.flatten(0, 1)))
    assert batch.truncated.any()
    # final observations come with the whole age: another one gives other values
    step, env = (batch.truncated & ~batch.terminated).nonzero()[0].tolist()
    with torch.no_grad():
        next(agent.value_trunk.parameters())[:, :2] = 0.0  # type: ignore[union-attr]
    again = SplitEnv(4, as_tensors)
    _, batch = collect(again, config, agent)
    with torch.no_grad():
        expected = agent.get_value(torch.tensor([[0.0, 0.0, 1.0]]))
    torch.testing.assert_close(batch.final_values[step, env], expected[0])


def test_a_policy_is_judged_where_only_its_own_is_observed(tmp_path: Path) -> None:
    result = run(tmp_path / "r", SplitEnv, value_only=("age",))
    plain = evaluate(load_agent(tmp_path / "r" / "last.pt"), PointEnv(4), 4, seed=3)
    assert plain == evaluate(result.agent, SplitEnv(4), 4, seed=3)


def test_a_run_goes_on_exactly(tmp_path: Path) -> None:
    run(tmp_path / "whole", SplitEnv, value_only=("age",))
    middle = sorted((tmp_path / "whole" / "checkpoints").glob("step_*.pt"))[0]
    again = run(tmp_path / "b", SplitEnv, resume=middle, value_only=("age",))
    for name, tensor in load_agent(tmp_path / "whole" / "last.pt").state_dict().items():
        assert torch.equal(tensor, again.agent.state_dict()[name]), name
    assert curve(tmp_path / "b") == curve(tmp_path / "whole")[-len(curve(tmp_path / "b")) :]


class Guess(gym.Env[Any, Any]):
    """A coin is tossed, each of four steps pays its side, and the policy does not see it."""

    observation_space = gym.spaces.Dict({"policy": gym.spaces.Box(-1, 1, (1,)), "coin": gym.spaces.Box(-1, 1, (1,))})
    action_space = gym.spaces.Discrete(2)

    def _obs(self) -> dict[str, np.ndarray]:
        return {"policy": np.array([self.t / 4], np.float32), "coin": np.array([self.coin], np.float32)}

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t, self.coin = 0, float(self.np_random.choice([-1, 1]))
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self._obs(), self.coin, self.t == 4, False, {}


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_it_explains_returns_that_the_policy_cannot_foresee(tmp_path: Path, mode: AutoresetMode) -> None:
    explained = {}
    for value_only in ((), ("coin",)):
        keys = ["policy"] if not value_only else ["policy", "coin"]

        def make(n: int, keys: list[str] = keys) -> SyncVectorEnv:
            one = lambda: gym.wrappers.FilterObservation(Guess(), keys)  # noqa: E731
            return SyncVectorEnv([one] * n, autoreset_mode=mode)

        config = small_config(
            total_timesteps=4096, num_envs=8, value_only=value_only, learning_rate=5e-3, target_kl=None
        )
        rows: list[dict[str, float]] = []
        train(config, make, run_dir=tmp_path / str(len(value_only)), console=False, hooks=Hooks(on_log=rows.append))
        explained[value_only] = rows[-1]["losses/explained_variance"]
    assert explained[()] < 0.5 < 0.9 < explained[("coin",)]


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"value_only names 'agee', .* not have: its keys are age, policy"):
        Agent(BOTH, BOX1, small_config(value_only=("agee",)))
    with pytest.raises(ValueError, match="it is no Dict and has no keys"):
        Agent(OBS2, BOX1, small_config(value_only=("age",)))
    with pytest.raises(ValueError, match="leaves the policy nothing"):
        Agent(BOTH, BOX1, small_config(value_only=("age", "policy")))
    with pytest.raises(ValueError, match=r"value_only = \('age',\) needs a value function .* shared_trunk=False"):
        small_config(value_only=("age",), shared_trunk=True)
    with pytest.raises(ValueError, match="value_only must be a list of texts, got 'age'"):
        small_config(value_only="age")
    assert small_config(value_only=["age"]).value_only == ("age",)  # as files have it
    mixed = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    symmetry = Symmetry(torch.stack([torch.eye(3), mixed]), torch.tensor([[[1.0]], [[-1.0]]]))
    with pytest.raises(ValueError, match="symmetry makes some of the 2 numbers that the policy sees from the other 1"):
        Agent(BOTH, BOX1, small_config(value_only=("age",)), structure=Structure(symmetry=symmetry))
    agent = Agent(BOTH, BOX1, small_config(value_only=("age",)))
    with pytest.raises(ValueError, match="the observation lacks 'policy', it has only age"):
        agent.act({"age": np.zeros((3, 1))})


def test_shapes_of_observations_are_checked() -> None:
    """Whatever could be read as other rows."""
    agent = Agent(gym.spaces.Box(-1, 1, (17,)), BOX1, small_config())
    with pytest.raises(ValueError, match=r"observation has shape \(2, 34\), it must be \(batch, 17\)"):
        agent.act(np.zeros((2, 34), np.float32))
    with pytest.raises(ValueError, match=r"shape \(17, 2\), it must be \(batch, 17\)"):
        agent.act(np.zeros((17, 2), np.float32))
    with pytest.raises(ValueError, match=r"\(17,\), which is one without a batch axis: .* observation\[None\]"):
        agent.act(np.zeros(17, np.float32))
    assert agent.act(np.zeros((0, 17), np.float32)).shape == (0, 1)
