"""What the networks get of some inputs can be made small, and the value function can do without some."""

from pathlib import Path

import pytest
import torch
from toy import BOX1, OBS2, PointEnv, collect, generator, run, small_config

from ballbot.ppo import Agent, CheckpointError, Structure, load_agent

SCALE = torch.tensor([1.0, 0.125])


def test_the_networks_get_less_of_an_input_after_normalisation() -> None:
    obs = torch.randn(64, 2) * 3
    for normalize in (True, False):
        config = small_config(normalize_observations=normalize)
        plain = Agent(OBS2, BOX1, config, generator())
        agent = Agent(OBS2, BOX1, config, generator(), structure=Structure(input_scale=SCALE))
        for a in (plain, agent):
            if a.normalizer is not None:
                a.normalizer.update(obs)
        assert torch.equal(agent.normalize(obs), plain.normalize(obs) * SCALE)
        assert not torch.equal(agent.act(obs), plain.act(obs))


def test_learning_sees_what_acting_saw() -> None:
    for normalize in (True, False):
        config = small_config(normalize_observations=normalize)
        agent = Agent(OBS2, BOX1, config, generator(), structure=Structure(input_scale=SCALE))
        _, batch = collect(PointEnv(4), config, agent)
        flat = batch.raw_obs.flatten(0, 1)
        assert torch.equal(batch.obs.flatten(0, 1), agent.normalize(flat))
        assert normalize or torch.equal(batch.obs.flatten(0, 1), flat * SCALE)
        _, logprobs, _, _ = agent.get_action_and_value(batch.obs.flatten(0, 1), batch.actions.flatten(0, 1))
        torch.testing.assert_close(logprobs, batch.logprobs.flatten())


def test_checkpoints_hold_it_and_a_run_goes_on_with_it_exactly(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", structure=Structure(input_scale=SCALE))
    obs = torch.randn(20, 2)
    loaded = load_agent(tmp_path / "whole" / "last.pt")
    assert loaded.input_scale is not None and torch.equal(loaded.input_scale, SCALE)
    assert torch.equal(loaded.act(obs), whole.agent.act(obs))
    middle = sorted((tmp_path / "whole" / "checkpoints").glob("step_*.pt"))[0]
    again = run(tmp_path / "b", resume=middle, structure=Structure(input_scale=SCALE))
    for name, tensor in whole.agent.state_dict().items():
        assert torch.equal(tensor, again.agent.state_dict()[name]), name
    for other in (None, 2 * SCALE):
        with pytest.raises(CheckpointError, match="input_scale"):
            run(tmp_path / "c", resume=middle, structure=Structure(input_scale=other))


@pytest.mark.parametrize("scale", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [[1.0, 1.0]]])
def test_what_does_not_fit_is_an_error(scale: list[float]) -> None:
    with pytest.raises(ValueError, match="input_scale needs 2 positive finite numbers"):
        Agent(OBS2, BOX1, small_config(), structure=Structure(input_scale=torch.tensor(scale)))


def test_the_value_function_alone_does_without_an_input(tmp_path: Path) -> None:
    first = torch.tensor([True, False])
    whole = run(tmp_path / "whole", structure=Structure(value_inputs=first))
    obs, other = torch.zeros(8, 2), torch.stack([torch.zeros(8), torch.linspace(-1, 1, 8)], dim=1)
    loaded = load_agent(tmp_path / "whole" / "last.pt")
    for agent in (whole.agent, loaded):
        assert torch.equal(agent.get_value(agent.normalize(obs)), agent.get_value(agent.normalize(other)))
        assert not torch.equal(agent.act(obs), agent.act(other))
        x = agent.normalize(other)
        _, _, _, values = agent.get_action_and_value(x, torch.zeros(8, 1))
        assert torch.equal(values, agent.get_value(x))
    middle = sorted((tmp_path / "whole" / "checkpoints").glob("step_*.pt"))[0]
    again = run(tmp_path / "b", resume=middle, structure=Structure(value_inputs=first))
    for name, tensor in whole.agent.state_dict().items():
        assert torch.equal(tensor, again.agent.state_dict()[name]), name
    for changed in (None, ~first):
        with pytest.raises(CheckpointError, match="value_inputs"):
            run(tmp_path / "c", resume=middle, structure=Structure(value_inputs=changed))


def test_value_inputs_that_do_not_fit_are_an_error() -> None:
    for wrong in (torch.ones(3, dtype=torch.bool), torch.ones(2)):
        with pytest.raises(ValueError, match="value_inputs needs 2 booleans"):
            Agent(OBS2, BOX1, small_config(), structure=Structure(value_inputs=wrong))
    with pytest.raises(ValueError, match="shared_trunk=False"):
        whole = Structure(value_inputs=torch.ones(2, dtype=torch.bool))
        Agent(OBS2, BOX1, small_config(shared_trunk=True), structure=whole)
