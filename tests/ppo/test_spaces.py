"""Observations and actions of other people's spaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces as gs
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from torch import nn
from toy import BOX1, OBS2, collect, curve, generator, run, small_config

from ballbot.ppo import Agent, CheckpointError, PPOConfig, Structure, evaluate, load_agent, load_policy, train
from ballbot.ppo.images import num_weights
from ballbot.ppo.spaces import describe_spaces, flatten, observation_parts, rebuild_spaces

NESTED = gs.Dict(
    {
        "touch": gs.MultiBinary(3),
        "body": gs.Dict({"speed": gs.Box(-1, 1, (2, 2), np.float64), "gear": gs.Discrete(4, start=-1)}),
        "dials": gs.MultiDiscrete([2, 3], start=[0, 5]),
    }
)
OBSERVATIONS = [
    NESTED,
    gs.Discrete(5, start=2),
    gs.MultiDiscrete(np.array([[2, 3], [4, 2]])),
    gs.MultiBinary((2, 3)),
    gs.Box(-1, 1, ()),
    gs.Box(0, 255, (2, 3, 4), np.uint8),
]
ACTIONS = [
    gs.Box(-0.1, 0.3, (2,), np.float64),
    gs.Box(-2, 2, (2, 2), np.float32),
    gs.Discrete(3, start=-1),
    gs.Discrete(4, dtype=np.int32),
    gs.MultiDiscrete([2, 5, 3], start=[1, 0, -2]),
    gs.MultiDiscrete(np.array([[2, 2], [2, 2]]), dtype=np.int32),
    gs.MultiBinary(4),
    gs.MultiBinary((2, 2)),
]


@pytest.mark.parametrize("space", OBSERVATIONS, ids=str)
def test_rows_are_what_gymnasium_flattens(space: gs.Space[Any]) -> None:
    space.seed(0)
    samples = [space.sample() for _ in range(6)]
    empty: Any = gym.vector.utils.create_empty_array(space, 6)
    batch = gym.vector.utils.concatenate(space, samples, empty)
    rows = flatten(observation_parts(space), batch, torch.device("cpu"))
    expected = np.stack([np.asarray(gs.flatten(space, sample)) for sample in samples])
    np.testing.assert_array_equal(rows.numpy(), expected.astype(rows.numpy().dtype))


@pytest.mark.parametrize("space", ACTIONS, ids=str)
def test_actions_are_in_their_space_and_spaces_survive_checkpoints(space: gs.Space[Any]) -> None:
    for observation_space in OBSERVATIONS:
        told = describe_spaces(observation_space, space)
        observations, actions = rebuild_spaces(told)
        assert describe_spaces(observations, actions) == told
        assert actions == space and actions.dtype == space.dtype
        agent = Agent(observations, actions, small_config(initial_std=5.0), generator())
        observation_space.seed(0)
        batch = gym.vector.utils.create_empty_array(observation_space, 40)
        sent = agent.act(batch, deterministic=False, generator=generator(1)).numpy()
        assert sent.dtype == space.dtype and sent.shape == (40, *(space.shape or ()))
        # numbers of a Discrete are NumPy's: one of them is no array
        assert all(space.contains(action if action.shape else action[()]) for action in sent)
        assert len(np.unique(sent, axis=0)) > 2
        likeliest = agent.act(batch).numpy()[0]
        assert space.contains(likeliest if likeliest.shape else likeliest[()])


@pytest.mark.parametrize("counts", [[2, 5, 3], [4, 4]])
def test_several_choices_against_torch_distributions(counts: list[int]) -> None:
    agent = Agent(OBS2, gs.MultiDiscrete(counts), small_config(), generator())
    with torch.no_grad():
        agent.policy_head.weight.mul_(100)
    x, n = torch.randn(6, 2, generator=generator(1)), len(counts)
    actions = torch.stack([torch.randint(k, (6,), generator=generator(2)) for k in counts], dim=1)
    _, logprob, entropy, _ = agent.get_action_and_value(x, actions)
    logits = torch.split(agent.policy_output(x), counts, dim=1)
    each: list[Any] = [torch.distributions.Categorical(logits=y) for y in logits]
    torch.testing.assert_close(logprob, sum(d.log_prob(actions[:, i]) for i, d in enumerate(each)))
    torch.testing.assert_close(entropy, sum(d.entropy() for d in each))
    assert torch.equal(agent.act(x), torch.stack([d.probs.argmax(-1) for d in each], dim=1))
    # samples have the probabilities of the policy, each choice by itself
    many = 100_000
    drawn, logprobs = agent.sample(x[:1].expand(many, 2), agent.draw_noise((many,), generator(3)))
    assert drawn.shape == (many, n)
    for i, d in enumerate(each):
        share = torch.bincount(drawn[:, i], minlength=counts[i]) / many
        torch.testing.assert_close(share, d.probs[0], rtol=0, atol=2 / many**0.5)
    torch.testing.assert_close(logprobs[:3], agent.get_action_and_value(x[:1].expand(3, 2), drawn[:3])[1])
    gradient = torch.autograd.grad((logprob + entropy).sum(), agent.policy_head.weight)[0]
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


class Levers(gym.Env[Any, Any]):
    """Two levers and a switch are to be set as the observation says; whatever is sent must be in the space."""

    def __init__(self, binary: bool) -> None:
        self.observation_space = gs.Dict({"levers": gs.MultiDiscrete([3, 2]), "switch": gs.Discrete(2, start=4)})
        self.action_space = gs.MultiBinary(3) if binary else gs.MultiDiscrete([3, 2, 2], start=[1, 0, 0])
        self.binary = binary

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self._draw(), {}

    def _draw(self) -> Any:
        self.levers = self.np_random.integers([3, 2])
        self.switch = self.np_random.integers(2)
        return {"levers": self.levers, "switch": self.switch + 4}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        first = self.levers[0] > 0 if self.binary else self.levers[0] + 1
        reward = float((action == np.array([first, self.levers[1], self.switch])).mean())
        self.t += 1
        return self._draw(), reward, False, self.t == 8, {}


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_choices_are_learned_from_choices(tmp_path: Path, mode: AutoresetMode) -> None:
    binary = mode == AutoresetMode.NEXT_STEP

    def make(n: int) -> SyncVectorEnv:
        return SyncVectorEnv([lambda: Levers(binary)] * n, autoreset_mode=mode)

    config = small_config(
        total_timesteps=16_000, num_envs=8, num_steps=64, minibatch_size=128, learning_rate=1e-2, target_kl=None
    )
    result = train(config, make, make, run_dir=tmp_path / "r", console=False)
    assert evaluate(load_agent(tmp_path / "r" / "last.pt"), make(20), 20, seed=7)["return_mean"] > 7.5  # by chance 3.6
    assert np.isfinite([x.item() for x in result.agent.state_dict()["normalizer.mean"]]).all()
    obs = {"levers": np.array([2, 1]), "switch": np.array(5)}
    assert load_policy(tmp_path / "r" / "last.pt").predict(obs).tolist() == ([1, 1, 1] if binary else [3, 1, 1])


class Sides(VectorEnv):
    """An image is bright on one side, which is the action that pays; a number beside it means nothing."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - Gymnasium's convention

    def __init__(self, num_envs: int, last: bool = True, alone: bool = False) -> None:
        self.shape = (8, 9, 1) if last else (1, 8, 9)
        image = gs.Box(0, 255, self.shape, np.uint8)
        space = gs.Dict({"image": image, "noise": gs.Box(-np.inf, np.inf, (1,))})
        self.single_observation_space = image if alone else space
        self.single_action_space = gs.Discrete(2)
        self.num_envs, self.alone, self.t = num_envs, alone, 0
        self.rng = np.random.default_rng(0)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.t = 0
        return self._draw(), {}

    def _draw(self) -> Any:
        n = self.num_envs
        self.side = self.rng.integers(2, size=n)
        images = self.rng.integers(0, 60, (n, 8, 9), np.uint8)
        for image, side in zip(images, self.side, strict=True):
            image[:, 5 * side : 5 * side + 4] += 150
        images = images.reshape(n, *self.shape)
        return images if self.alone else {"image": images, "noise": self.rng.normal(5, 2, (n, 1)).astype(np.float32)}

    def step(self, actions: Any) -> Any:
        self.t += 1
        reward, ended = (actions == self.side).astype(float), np.full(self.num_envs, self.t == 8)
        obs = self._draw()
        infos = {"final_obs": obs, "_final_obs": ended} if self.t == 8 else {}
        self.t %= 8
        return obs, reward, np.zeros(self.num_envs, bool), ended, infos

    def get_state(self) -> dict[str, Any]:
        return {"rng": self.rng.bit_generator.state, "side": self.side, "t": self.t}

    def set_state(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state, self.side, self.t = state["rng"], state["side"], state["t"]


CNN: dict[str, Any] = {"cnn_channels": (4, 8), "cnn_features": 6}


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_an_image_is_read_by_a_convolutional_network(last: bool, alone: bool) -> None:
    """As PyTorch computes it from the image itself; it is scaled, and not normalised by statistics."""
    envs = Sides(3, last=last, alone=alone)
    agent = Agent(envs.single_observation_space, BOX1, small_config(**CNN), generator())
    obs, _ = envs.reset(seed=0)
    row = agent.flatten(obs, whole=True)
    if alone:
        assert agent.normalizer is None
    else:
        agent.measure(row.float())
        assert agent.normalizer is not None and agent.normalizer.mean.shape == (1,)
        torch.testing.assert_close(agent.normalizer.mean[0], torch.tensor(obs["noise"].mean()).double())
    picture = torch.tensor(obs if alone else obs["image"]).float().view(3, 1, 8, 9) / 255
    state = {name.removeprefix("policy_reader.networks.0."): x for name, x in agent.state_dict().items()}
    conv = nn.functional.conv2d
    hidden = nn.functional.leaky_relu(conv(picture, state["0.weight"], state["0.bias"], 2, 1))
    hidden = nn.functional.leaky_relu(conv(hidden, state["2.weight"], state["2.bias"], 2, 1))
    assert hidden.shape == (3, 8, 2, 3)
    hidden = nn.functional.leaky_relu(hidden.flatten(1) @ state["5.weight"].T + state["5.bias"])
    if not alone:
        hidden = torch.cat([(row[:, -1:] - row[:, -1:].mean()) / row[:, -1:].std(correction=0), hidden], dim=1)
    torch.testing.assert_close(agent.policy_output(agent.normalize(row)), agent.policy_head(agent.policy_trunk(hidden)))
    weights = sum(x.numel() for name, x in state.items() if name[0].isdigit() and "weight" in name)
    assert weights == num_weights(envs.shape, (4, 8), 6)
    own = {name for name in agent.state_dict() if "reader" in name}
    assert {name.split(".")[0] for name in own} == {"policy_reader", "value_reader"}


@pytest.mark.parametrize("options", [{}, {"memory": "gru"}, {"value_only": ("noise",)}], ids=["plain", "gru", "split"])
def test_images_are_learned_from_and_runs_go_on_exactly(tmp_path: Path, options: dict[str, Any]) -> None:
    settings = CNN | options | {
        "total_timesteps": 4096, "num_envs": 8, "num_steps": 32, "minibatch_size": 128, "learning_rate": 1e-2,
        "target_kl": None, "checkpoint_interval": 1024, "eval_interval": 1024,
    }  # fmt: skip
    whole = run(tmp_path / "whole", Sides, **settings)
    assert evaluate(whole.agent, Sides(20), 20, seed=7)["return_mean"] > 7.5  # by chance 4
    middle = sorted((tmp_path / "whole" / "checkpoints").glob("step_*.pt"))[0]
    again = run(tmp_path / "b", Sides, resume=middle, **settings)
    for name, tensor in whole.agent.state_dict().items():
        assert torch.equal(tensor, again.agent.state_dict()[name]), name
    assert curve(tmp_path / "b") == curve(tmp_path / "whole")[-len(curve(tmp_path / "b")) :]
    obs, _ = Sides(5).reset(seed=1)
    a, b = (
        agent.act(obs, memory=agent.new_memory(5)) for agent in (whole.agent, load_agent(tmp_path / "b" / "last.pt"))
    )
    assert torch.equal(a, b)


def test_images_of_floats_do_not_go_on_as_bytes(tmp_path: Path) -> None:
    class Floats(Sides):
        def __init__(self, num_envs: int) -> None:
            super().__init__(num_envs)
            image = gs.Box(0.0, 255.0, self.shape, np.float32)
            self.single_observation_space = gs.Dict({"image": image, "noise": gs.Box(-np.inf, np.inf, (1,))})

    run(tmp_path / "run", Sides, **CNN, total_timesteps=640)
    with pytest.raises(CheckpointError, match="images of bytes are now floats, or floats bytes"):
        run(tmp_path / "run", Floats, resume=tmp_path / "run", **CNN, total_timesteps=640)


def brightness(scale: float) -> nn.Module:
    """Two numbers of an image: how bright each half of it is."""
    layer = nn.Linear(72, 2)
    with torch.no_grad():
        halves = torch.arange(72) % 9 < 4
        layer.weight.copy_(scale * torch.stack([halves, ~halves]) / 36 / 255)
    return nn.Sequential(nn.Flatten(), layer)


def test_networks_of_ones_own_encode_and_must_be_given_again(tmp_path: Path) -> None:
    mine = brightness(1.0)
    before = [p.clone() for p in mine.parameters()]
    settings: dict[str, Any] = {"total_timesteps": 640}
    whole = run(tmp_path / "whole", Sides, structure=Structure(encoders={"image": mine}), **settings)
    agent = whole.agent
    assert agent.obs_size == 3  # of 72 + 1 numbers
    assert all(torch.equal(a, b) for a, b in zip(before, agent.encoders.parameters(), strict=True))
    assert all(p.requires_grad for p in mine.parameters())  # it was copied
    obs, _ = Sides(5).reset(seed=1)
    expected = mine(torch.tensor(obs["image"]).float())
    torch.testing.assert_close(agent.flatten(obs)[:, :2], expected.detach())

    path = tmp_path / "whole" / "last.pt"
    loaded = load_agent(path, encoders={"image": brightness(7.0)})  # its weights are those of the file
    assert torch.equal(loaded.act(obs), agent.act(obs))
    np.testing.assert_array_equal(load_policy(path, encoders={"image": mine}).predict(obs), agent.act(obs).numpy())
    with pytest.raises(CheckpointError, match=r"trained with encoders of your own for 'image', given are none: give"):
        load_policy(path)
    with pytest.raises(CheckpointError, match=r"for 'image', given are 'picture'"):
        load_agent(path, encoders={"picture": mine})
    with pytest.raises(CheckpointError, match="does not hold the networks"):
        load_agent(path, encoders={"image": nn.Sequential(nn.Flatten(), nn.Linear(72, 5))})

    middle = sorted((tmp_path / "whole" / "checkpoints").glob("step_*.pt"))[0]
    again = run(tmp_path / "b", Sides, resume=middle, structure=Structure(encoders={"image": mine}), **settings)
    assert torch.equal(again.agent.policy_head.weight, agent.policy_head.weight)
    with pytest.raises(CheckpointError, match=r"another encoders \(0.1.weight"):
        run(tmp_path / "c", Sides, resume=middle, structure=Structure(encoders={"image": brightness(2.0)}), **settings)
    for encoder, message in (
        ({"picture": mine}, "encoders names 'picture', which the observation does not have: its keys are image, noise"),
        ({"image": nn.Identity()}, r"encoder 'image' must make rows \(2, numbers\) .* it made \(2, 8, 9, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            Agent(Sides(1).single_observation_space, BOX1, small_config(), structure=Structure(encoders=encoder))


def test_what_cannot_be_handled_is_named() -> None:
    graph = gs.Graph(gs.Box(0, 1, (1,)), None)
    for space in (gs.Text(3), graph, gs.Sequence(gs.Discrete(2)), gs.Tuple([gs.Discrete(2)])):
        with pytest.raises(TypeError, match=r"observations must be .* wrap the environments") as error:
            Agent(space, BOX1, small_config())
        assert str(space) in str(error.value)
        with pytest.raises(TypeError, match="under 'a/b'; wrap the environments"):
            Agent(gs.Dict({"a": gs.Dict({"b": space})}), BOX1, small_config())
        with pytest.raises(TypeError, match=r"actions must be .* wrap the environments") as error:
            Agent(OBS2, space, small_config())
        assert str(space) in str(error.value)
    with pytest.raises(TypeError, match=r"actions must be a Box of floats, .* got Box\(0, 9, \(2,\), int64\)"):
        Agent(OBS2, gs.Box(0, 9, (2,), np.int64), small_config())
    with pytest.raises(TypeError, match="must be strings, got 0"):
        Agent(gs.Dict({0: OBS2}), BOX1, small_config())  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="at least one number"):
        Agent(gs.Box(-1, 1, (0,)), BOX1, small_config())
    with pytest.raises(ValueError, match="cnn_channels are given, and no image"):
        Agent(OBS2, BOX1, small_config(**CNN))
    for channels in ((0,), (4,) * 17):
        with pytest.raises(ValueError, match=r"cnn_channels = .* must be at most 16 whole numbers from 1 to 4096"):
            small_config(cnn_channels=channels)
    with pytest.raises(ValueError, match="cnn_channels must be a list of whole numbers, got 4"):
        small_config(cnn_channels=4)
    agent = Agent(NESTED, BOX1, small_config())
    with pytest.raises(ValueError, match="the observation is one array, it must be a dict of body/gear, body/speed"):
        agent.act(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="the observation lacks 'body/gear', it has only touch"):
        agent.act({"touch": np.zeros((2, 3))})
    with pytest.raises(ValueError, match=r"touch has shape \(2, 4\), it must be \(batch, 3\)"):
        batch: Any = gym.vector.utils.create_empty_array(NESTED, 2)
        agent.act(batch | {"touch": np.zeros((2, 4))})
    plain = Agent(OBS2, BOX1, small_config())
    with pytest.raises(ValueError, match="observation has the keys a, b, here it is one array"):
        plain.act({"a": 1, "b": 2})


def test_an_early_checkpoint_does_not_tell_the_type_of_actions(tmp_path: Path) -> None:
    """Nor does it have to: of a Box of float64, the bounds were float32 there."""
    space = gs.Box(-0.1, 0.3, (2,), np.float64)
    agent = Agent(OBS2, space, small_config(), generator())
    early = agent.state_dict() | {name: agent.state_dict()[name].float() for name in ("action_low", "action_high")}
    agent.load_state_dict(early)
    told = describe_spaces(OBS2, space)
    del told["action"]["dtype"]
    assert rebuild_spaces(told)[1].dtype == np.float32
    _, batch = collect(Sides(4), small_config(**CNN))
    assert batch.raw_obs.max() > 100  # images are stored as they are
    assert PPOConfig(cnn_channels=[4]).cnn_channels == (4,)  # type: ignore[arg-type]  # as files have it


def test_encoders_keep_their_weights_in_whatever_order_they_are_given() -> None:
    space = gym.spaces.Dict({"left": OBS2, "right": OBS2})
    ones, twos = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    nn.init.ones_(ones.weight)
    nn.init.constant_(twos.weight, 2.0)
    given = {"right": twos, "left": ones}
    agents = [
        Agent(space, BOX1, small_config(), structure=Structure(encoders=dict(order)))
        for order in (given.items(), reversed(given.items()))
    ]
    agents[1].load_state_dict(agents[0].state_dict())
    obs = {"left": np.ones((1, 2), np.float32), "right": np.ones((1, 2), np.float32)}
    for agent in agents:
        assert agent.flatten(obs).tolist() == [[2.0, 4.0]]
