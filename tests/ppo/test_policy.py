# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""load_policy: the same actions as the agent that was trained, for one observation and for many."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from policies import save_policy

from ballbot.ppo import CheckpointError, load_agent, load_checkpoint, load_policy


def test_one_observation_and_many_give_the_agents_actions(tmp_path):
    path = save_policy(tmp_path / "p.pt")
    policy, agent = load_policy(path), load_agent(path)
    observations = np.random.default_rng(0).normal(size=(5, 17)).astype(np.float32)
    expected = agent.act(observations).numpy()
    actions = policy.predict(observations)
    np.testing.assert_array_equal(actions, expected)
    assert actions.shape == (5, 3) and actions.dtype == np.float32 and np.abs(actions).max() > 0.01
    np.testing.assert_allclose(policy.predict(observations[2]), expected[2], atol=1e-6)
    assert policy.predict(observations[2]).shape == (3,)
    assert policy.step == 1234 and policy.metadata["terrain"] == "flat"
    assert policy.predict(observations[:0]).shape == (0, 3)


def test_samples_differ_and_repeat_with_their_seed(tmp_path):
    policy = load_policy(save_policy(tmp_path / "p.pt"))
    observation = np.zeros(17)
    first = [policy.predict(observation, deterministic=False) for _ in range(3)]
    assert not np.array_equal(first[0], first[1])
    policy.seed(0)
    np.testing.assert_array_equal([policy.predict(observation, deterministic=False) for _ in range(3)], first)


def test_discrete_actions_are_indices(tmp_path):
    path = save_policy(tmp_path / "p.pt", size=4, action_space=gym.spaces.Discrete(3, start=5))
    policy = load_policy(path)
    assert int(policy.predict(np.zeros(4))) in (5, 6, 7)
    assert policy.predict(np.zeros((6, 4))).shape == (6,)


def test_full_and_policy_only_files_hold_policies(finished):
    full, only = load_policy(finished / "last.pt"), load_policy(finished)  # a folder's best.pt
    assert full.metadata == only.metadata == {"layout": "v1"}
    for policy, name in ((full, "last.pt"), (only, "best.pt")):
        state = torch.load(finished / name, weights_only=True)
        assert policy.step == state["global_step"]
        observation = np.ones((2, *policy.observation_shape), np.float32)
        np.testing.assert_array_equal(policy.predict(observation), load_agent(finished / name).act(observation).numpy())


def test_bad_input_is_named(tmp_path):
    policy = load_policy(save_policy(tmp_path / "p.pt"))
    for observation in (np.zeros(16), np.zeros((2, 3, 17)), np.array(1.0)):
        with pytest.raises(ValueError, match=r"this policy takes \(17,\) or \(n, 17\)"):
            policy.predict(observation)
    with pytest.raises(ValueError, match="not finite"):
        policy.predict(np.full(17, np.nan))
    with pytest.raises(CheckpointError, match="does not exist"):
        load_policy(tmp_path / "none.pt")
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        load_policy(tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=r"best\.pt does not exist"):
        load_policy(tmp_path)


def test_a_run_folder_stands_for_its_policy(finished):
    assert load_checkpoint(finished)["global_step"] == load_checkpoint(finished / "best.pt")["global_step"]
    agent, best = load_agent(finished), load_agent(finished / "best.pt")
    assert all(torch.equal(value, best.state_dict()[name]) for name, value in agent.state_dict().items())
    with pytest.raises(CheckpointError, match=r"best\.pt does not exist"):
        load_agent(finished / "checkpoints")


@pytest.mark.parametrize(("options", "used"), [({}, 1), ({"torch_threads": 2}, 2), ({"torch_threads": 0}, 3)])
def test_it_acts_with_one_thread_unless_told_and_puts_the_count_back(tmp_path, monkeypatch, options, used):
    policy, seen = load_policy(save_policy(tmp_path / "p.pt"), **options), []
    act = policy.agent.act_on

    def noting(*given):
        seen.append(torch.get_num_threads())
        return act(*given)

    monkeypatch.setattr(policy.agent, "act_on", noting)
    try:
        torch.set_num_threads(3)
        policy.predict(np.zeros(17))
        assert (seen, torch.get_num_threads()) == ([used], 3)
        with pytest.raises(ValueError, match="not finite"):
            policy.predict(np.full(17, np.nan))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
