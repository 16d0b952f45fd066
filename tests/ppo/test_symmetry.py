"""Networks that answer the same from every side of a task."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from toy import PointEnv, collect, generator, run, small_config

from ballbot.ppo import Agent, CheckpointError, Structure, Symmetry, load_agent

FLIP = torch.diag(torch.tensor([-1.0, -1.0]))
MIRRORED = Symmetry(torch.stack([torch.eye(2), FLIP]), torch.tensor([[[1.0]], [[-1.0]]]))
"""Of PointEnv: push a point left or right."""
C, S = -0.5, 0.75**0.5
TURN = torch.tensor([[C, -S, 0.0, 0], [S, C, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
"""A plane turned by 120 degrees, a number that stays, and one that only the first side sees."""
SWAP = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
SIDES = Symmetry(torch.stack([torch.eye(4), TURN, TURN @ TURN]), torch.stack([torch.eye(3), SWAP, SWAP @ SWAP]))
OBS4, BOX3 = Box(-np.inf, np.inf, (4,)), Box(-1.0, 1.0, (3,))


def random_agent(symmetry: Symmetry | None, **settings: object) -> Agent:
    config = small_config(linear_skip=True, normalize_observations=True, **settings)
    agent = Agent(OBS4, BOX3, config, generator(), structure=Structure(symmetry=symmetry))
    assert agent.normalizer is not None
    agent.normalizer.update(torch.randn(50, 4, generator=generator(1)) * 3 + 1)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator(2)))
    return agent


@pytest.mark.parametrize("shared", [False, True])
def test_who_sees_the_task_from_another_side_does_the_same_there(shared: bool) -> None:
    obs = torch.randn(30, 4, generator=generator(3))
    obs[:, 3] = 1.0  # the mean of what only the first side sees
    turned = torch.cat([obs[:, :3] @ TURN[:3, :3].T, obs[:, 3:]], dim=1)
    for symmetry in (SIDES, None):
        agent = random_agent(symmetry, shared_trunk=shared)
        assert agent.normalizer is not None
        agent.normalizer.mean[3] = 1.0
        x, y = agent.normalize(obs), agent.normalize(turned)
        means = agent.policy_output(x) @ SWAP.T, agent.policy_output(y)
        values = agent.get_value(x), agent.get_value(y)
        if symmetry is None:  # or this test could not fail
            assert (means[0] - means[1]).abs().max() > 0.1 and (values[0] - values[1]).abs().max() > 0.1
        else:
            assert means[1].abs().max() > 0.1
            torch.testing.assert_close(*means, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(*values, atol=1e-5, rtol=1e-5)


def test_what_only_one_side_sees_tells_it_a_direction() -> None:
    agent = random_agent(SIDES)
    obs = torch.randn(30, 4, generator=generator(3))
    turned = torch.cat([obs[:, :3] @ TURN[:3, :3].T, obs[:, 3:]], dim=1)
    there, here = (agent.policy_output(agent.normalize(x)) for x in (turned, obs))
    assert (there - here @ SWAP.T).abs().max() > 0.1


def test_learning_judges_what_acting_did_and_actions_that_change_places_share_their_noise() -> None:
    config = small_config()
    space = Box(-np.inf, np.inf, (2,))
    agent = Agent(space, Box(-1.0, 1.0, (1,)), config, generator(), structure=Structure(symmetry=MIRRORED))
    _, batch = collect(PointEnv(4), config, agent)
    obs = batch.obs.flatten(0, 1)
    assert torch.equal(obs, agent.normalize(batch.raw_obs.flatten(0, 1))) and obs.shape[1:] == (2, 2)
    _, logprobs, _, values = agent.get_action_and_value(obs, batch.actions.flatten(0, 1))
    torch.testing.assert_close(logprobs, batch.logprobs.flatten())
    torch.testing.assert_close(values, batch.values.flatten())

    agent = random_agent(SIDES)
    with torch.no_grad():
        agent.log_std.copy_(torch.tensor([-1.0, 0.0, 0.25]))
    agent.limit_std()
    torch.testing.assert_close(agent.log_std.data, torch.full((3,), -0.25))


def test_checkpoints_hold_it_and_a_run_goes_on_with_it_exactly(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", structure=Structure(symmetry=MIRRORED))
    obs = torch.randn(20, 2)
    loaded = load_agent(tmp_path / "whole" / "last.pt")
    assert torch.equal(loaded.act(obs), whole.agent.act(obs))
    torch.testing.assert_close(loaded.act(-obs), -loaded.act(obs))
    middle = sorted((tmp_path / "whole" / "checkpoints").glob("step_*.pt"))[0]
    again = run(tmp_path / "b", resume=middle, structure=Structure(symmetry=MIRRORED))
    for name, tensor in whole.agent.state_dict().items():
        assert torch.equal(tensor, again.agent.state_dict()[name]), name
    other = Symmetry(torch.stack([torch.eye(2), torch.eye(2)]), torch.tensor([[[1.0]], [[1.0]]]))
    for symmetry, message in ((None, r"symmetry \(then one, now none\)"), (other, "another symmetry")):
        with pytest.raises(CheckpointError, match=message):
            run(tmp_path / "c", resume=middle, structure=Structure(symmetry=symmetry))


def test_what_is_no_symmetry_is_an_error() -> None:
    eye, one = torch.eye(2), torch.tensor([[[1.0]], [[-1.0]]])
    for observations, actions, message in (
        (eye, one, "sides, obs_size, obs_size"),
        (torch.stack([eye, FLIP, eye]), one, "sides, obs_size, obs_size"),
        (torch.stack([FLIP, eye]), one, "first element"),
        (torch.stack([eye, eye * torch.nan]), one, "first element"),
        (torch.stack([eye, FLIP]), torch.tensor([[[1.0]], [[0.5]]]), "permutations"),
        (torch.stack([eye, 2 * eye]), one, "closed"),
    ):
        with pytest.raises(ValueError, match=message):
            Symmetry(observations, actions)
    with pytest.raises(ValueError, match="the symmetry is one of 2 numbers observed and 1 actions"):
        Agent(OBS4, BOX3, small_config(), structure=Structure(symmetry=MIRRORED))
    with pytest.raises(ValueError, match="the symmetry is one of 2 numbers observed and 1 actions"):
        Agent(Box(-1, 1, (2,)), Discrete(1), small_config(), structure=Structure(symmetry=MIRRORED))
