"""Policies and value functions that remember."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from torch import nn
from toy import (
    BOX1,
    OBS2,
    PointEnv,
    ScriptedEnv,
    SplitEnv,
    advantages_of,
    cartpole,
    collect,
    curve,
    generator,
    learned_beside,
    run,
    small_config,
)

from ballbot.ppo import (
    Agent,
    CheckpointError,
    FeedbackPrior,
    PPOConfig,
    Rollout,
    Structure,
    Symmetry,
    evaluate,
    load_agent,
    load_checkpoint,
    load_policy,
    ppo_loss,
    rollout,
    train,
    update,
)
from ballbot.ppo.checkpoint import save_checkpoint
from ballbot.ppo.memory import make_cell, unroll
from ballbot.ppo.ppo import make_optimizer, minibatches
from ballbot.ppo.stopwatch import Stopwatch
from ballbot.ppo.storage import EnvState

GRU: dict[str, Any] = {"memory": "gru", "memory_size": 8}
FLIP = torch.diag(torch.tensor([-1.0, -1.0]))
MIRRORED = Symmetry(torch.stack([torch.eye(2), FLIP]), torch.tensor([[[1.0]], [[-1.0]]]))
PRIOR = FeedbackPrior(torch.tensor([[-0.5, -0.1]]), torch.zeros(1, 1), torch.zeros(1, 2), torch.zeros(1))


def test_whole_sequences_are_what_pytorchs_cell_makes_of_them_step_by_step() -> None:
    """Memories and gradients, with episodes that begin within."""
    g = generator()
    steps, rows, size = 7, 5, 4
    cells = [make_cell(n, size, g) for n in (3, 6)]
    for cell in cells:
        for parameter in cell.parameters():
            parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=g))
    inputs = [torch.randn(steps, rows, n, generator=g).requires_grad_() for n in (3, 6)]
    start, began = torch.randn(2, rows, size, generator=g), torch.rand(steps, rows, generator=g) < 0.2
    found = unroll(cells, inputs, start, began)
    expected = []
    for cell, x, first in zip(cells, inputs, start, strict=True):
        h, column = first, []
        for t in range(steps):
            h = cell(x[t], torch.where(began[t].unsqueeze(1), 0.0, h))
            column.append(h)
        expected.append(torch.stack(column))
    torch.testing.assert_close(found, torch.stack(expected, dim=1))
    parameters = [*inputs, *nn.ModuleList(cells).parameters()]
    weights = torch.randn(found.shape, generator=g)
    ours = torch.autograd.grad((found * weights).sum(), parameters)
    theirs = torch.autograd.grad((torch.stack(expected, dim=1) * weights).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


class TestRollout:
    @pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
    @pytest.mark.parametrize("shared", [False, True])
    def test_values_by_hand(self, mode: AutoresetMode, shared: bool) -> None:
        """Of an environment whose every observation is known: what was seen in the episode so far, and no more."""
        ends = "..L..T...B....L"
        config = small_config(
            num_envs=1, num_steps=15, minibatch_size=15, normalize_observations=False, shared_trunk=shared, **GRU
        )
        agent, batch = collect(ScriptedEnv(ends, mode), config)
        episodes: list[tuple[list[float], list[int]]] = [([], [])]  # what is observed, and the rows where
        if mode == AutoresetMode.SAME_STEP:
            for t, end in enumerate(ends):
                episodes[-1][0].append(float(t))
                episodes[-1][1].append(t)
                if end != ".":
                    episodes[-1][0].append(101.0 + t)
                    episodes.append(([], []))
            episodes[-1][0].append(15.0)
        else:
            done = False
            for t in range(15):
                episodes[-1][0].append(t + 100.0 * done)
                episodes[-1][1].append(t)
                if done:  # this row is a filler, whose observation was the last
                    episodes.append(([], []))
                done = ends[t] != "." and not done
            episodes[-1][0].append(15 + 100.0 * done)
        values: dict[int, torch.Tensor] = {}
        with torch.no_grad():
            for seen, rows in episodes:
                memory = torch.zeros(1, 8)
                for i, x in enumerate(seen):
                    obs = torch.tensor([[x]])
                    memory = agent.memories[-1](obs, memory)
                    value = agent.get_value(obs, memory)
                    if i < len(rows):
                        values[rows[i]] = value
                    elif rows and mode == AutoresetMode.SAME_STEP and ends[rows[-1]] == "L":
                        torch.testing.assert_close(batch.final_values[rows[-1]], value)
                last = value
        for t in range(15):
            torch.testing.assert_close(batch.values[t], values[t])
        torch.testing.assert_close(batch.next_value, last)
        if mode == AutoresetMode.NEXT_STEP:
            for t in batch.truncated.flatten().nonzero().flatten().tolist():
                torch.testing.assert_close(batch.final_values[t], values.get(t + 1, last))

    def test_two_rollouts_are_one_that_is_twice_as_long(self) -> None:
        config = small_config(normalize_observations=False, **GRU)
        agent, whole = collect(PointEnv(4), config)
        assert (whole.terminated | whole.truncated).any()
        envs = PointEnv(4)
        state = EnvState(envs.reset(seed=0)[0], torch.zeros(4, dtype=torch.bool))
        storage = Rollout.allocate(agent, 16, 4, False, torch.device("cpu"))
        g = generator()
        for half in (whole.values[:16], whole.values[16:]):
            rollout(agent, envs, state, storage, g, Stopwatch())
            torch.testing.assert_close(storage.values, half)

    @pytest.mark.parametrize("kind", ["box", "discrete", "symmetry", "value only", "shared", "prior", "next step"])
    def test_first_ratio_is_one(self, kind: str) -> None:
        """The policy that is judged is the one that acted, and remembers what it did."""
        envs: VectorEnv = PointEnv(4)
        if kind == "value only":
            envs = SplitEnv(4)
        elif kind in ("discrete", "next step"):
            envs = cartpole(4, AutoresetMode.NEXT_STEP if kind == "next step" else AutoresetMode.SAME_STEP)
        config = small_config(
            num_steps=64,
            minibatch_size=128,
            linear_skip=True,
            shared_trunk=kind == "shared",
            value_only=("age",) if kind == "value only" else (),
            **GRU,
        )
        structure = Structure(
            symmetry=MIRRORED if kind == "symmetry" else None, prior=PRIOR if kind == "prior" else None
        )
        spaces = envs.single_observation_space, envs.single_action_space
        agent = Agent(*spaces, config, generator(), structure)
        with torch.no_grad():
            agent.policy_head.weight.mul_(30)
        _, batch = collect(envs, config, agent)
        assert agent.normalizer is not None
        agent.normalizer.update(batch.raw_obs.flatten(0, 1))
        _, batch = collect(envs, config, agent)
        assert batch.began is not None and batch.began.any()
        kls: list[float] = []

        def spy(*args: Any) -> Any:
            loss, metrics = ppo_loss(*args)
            kls.append(float(metrics[-1]))
            return loss, metrics

        copied = copy.deepcopy(agent)
        update(copied, make_optimizer(copied, config), batch, *advantages_of(batch, config), config, generator(), spy)
        assert kls[0] < 1e-8 < kls[1]
        batch.began.zero_()  # or the test could not fail
        kls.clear()
        update(agent, make_optimizer(agent, config), batch, *advantages_of(batch, config), config, generator(), spy)
        assert kls[0] > 1e-7

    def test_minibatches_are_whole_sequences(self) -> None:
        config = small_config(minibatch_size=64, **GRU)
        _, batch = collect(PointEnv(4), config)
        seen = []
        for rows in minibatches(batch, config, generator()):
            steps, envs = rows.view(32, 2) // 4, rows.view(32, 2) % 4
            assert torch.equal(steps, torch.arange(32).unsqueeze(1).expand(32, 2))
            assert (envs == envs[0]).all()
            seen += envs[0].tolist()
        assert sorted(seen) == [0, 1, 2, 3]

    def test_filler_rows_change_nothing(self) -> None:
        config = small_config(num_envs=1, num_steps=32, minibatch_size=32, normalize_observations=False, **GRU)
        results = [learned_beside(garbage, config)[0].state_dict() for garbage in (0.0, 1e4)]
        assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_who_sees_the_task_from_the_other_side_does_the_same_there_however_long() -> None:
    config = small_config(linear_skip=True, **GRU)
    for symmetry in (MIRRORED, None):
        agent = Agent(OBS2, BOX1, config, generator(), Structure(symmetry=symmetry))
        with torch.no_grad():
            for parameter in agent.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator(2)))
        obs = torch.randn(12, 5, 2, generator=generator(3))
        memories = [agent.new_memory(5), agent.new_memory(5)]
        for x in obs:
            here, there = (agent.act(sign * x, memory=memory) for sign, memory in zip((1, -1), memories, strict=True))
        if symmetry is None:  # or this test could not fail
            assert (here + there).abs().max() > 0.1
        else:
            assert here.abs().max() > 0.1 and torch.equal(there, -here)
            start, began = agent.new_memories(5), torch.zeros(12, 5, dtype=torch.bool)
            assert start is not None
            values = []
            for sign in (1, -1):
                x = agent.normalize(sign * obs.flatten(0, 1))
                after = agent.recall(x.view(12, 5, 2, 2), start, began)[:, :, -1].flatten(0, 1)
                values.append(agent.get_value(x, after))
            torch.testing.assert_close(*values)


class TestRuns:
    @pytest.mark.parametrize("make", [PointEnv, SplitEnv])
    def test_a_run_goes_on_exactly(self, tmp_path: Path, make: Any) -> None:
        options: dict[str, Any] = GRU | ({"value_only": ("age",)} if make is SplitEnv else {})
        whole = run(tmp_path / "whole", make, **options)
        middle = sorted((tmp_path / "whole" / "checkpoints").glob("step_*.pt"))[0]
        (rank,) = load_checkpoint(middle)["ranks"]
        assert rank["memory"].shape == (4, 2, 8) and rank["memory"].abs().max() > 0
        again = run(tmp_path / "b", make, resume=middle, **options)
        for name, tensor in whole.agent.state_dict().items():
            assert torch.equal(tensor, again.agent.state_dict()[name]), name
        state = load_checkpoint(middle)
        state["ranks"][0]["memory"] = torch.zeros(4, 2, 9)
        save_checkpoint([tmp_path / "other.pt"], state)
        with pytest.raises(CheckpointError, match=r"memory is \(4, 2, 9\) .* expected finite \(4, 2, 8\)"):
            run(tmp_path / "c", make, resume=tmp_path / "other.pt", **options)
        assert curve(tmp_path / "b") == curve(tmp_path / "whole")[-len(curve(tmp_path / "b")) :]

    def test_policies_keep_their_memory_by_row(self, tmp_path: Path) -> None:
        result = run(tmp_path / "r", **GRU)
        policy, agent = load_policy(tmp_path / "r" / "last.pt"), load_agent(tmp_path / "r" / "last.pt")
        obs = torch.randn(6, 3, 2, generator=generator(1)).numpy()
        memory = agent.new_memory(3)
        assert memory is not None
        for t in range(6):
            began = np.array([t == 3, False, t == 4])
            memory[torch.from_numpy(began)] = 0.0
            expected = agent.act(obs[t], memory=memory)
            np.testing.assert_array_equal(policy.predict(obs[t], began=began), expected.numpy())
        new = result.agent.act(obs[0], memory=agent.new_memory(3)).numpy()
        assert np.abs(policy.predict(obs[0]) - new).max() > 1e-6  # it goes on
        policy.reset()
        np.testing.assert_array_equal(policy.predict(obs[0]), new)
        np.testing.assert_allclose(policy.predict(obs[0][0]), new[0], atol=1e-6)  # of another size: all begin anew
        with pytest.raises(ValueError, match="began says of 2 episodes whether they begin, there are 3"):
            policy.predict(obs[0], began=np.zeros(2, bool))

    def test_evaluation_remembers(self, tmp_path: Path) -> None:
        """Episodes run one by one, by hand, return the same."""
        agent = Agent(OBS2, BOX1, small_config(**GRU), generator())
        with torch.no_grad():
            agent.policy_head.weight.mul_(30)
        returns = []
        for seed in range(3):
            envs, total, done = PointEnv(1), 0.0, False
            obs, _ = envs.reset(seed=seed)
            memory = agent.new_memory(1)
            while not done:
                obs, reward, terminated, truncated, _ = envs.step(agent.act(obs, memory=memory).numpy())
                total, done = total + float(reward[0]), bool(terminated[0] | truncated[0])
            returns.append(total)
        assert evaluate(agent, PointEnv(1), 3, seed=0)["return_mean"] == pytest.approx(np.mean(returns))

    def test_settings_and_calls_that_do_not_fit_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"minibatch_size = 16 is not a multiple of num_steps = 32.* choose 32"):
            small_config(minibatch_size=16, **GRU)
        with pytest.raises(ValueError, match="memory must be one of 'none', 'gru', got 'lstm'"):
            small_config(memory="lstm")
        agent = Agent(OBS2, BOX1, small_config(**GRU))
        for memory in (None, torch.zeros(3, 9)):
            with pytest.raises(ValueError, match=r"this agent remembers: .* \(3, 8\), got .*new_memory\(3\)"):
                agent.act(np.zeros((3, 2)), memory=memory)
        plain = Agent(OBS2, BOX1, small_config())
        assert plain.new_memory(3) is None
        plain.act(np.zeros((3, 2)), memory=plain.new_memory(3))


class Recall(VectorEnv):
    """The first observation is 1 or -1, the others 0; the tenth action is right if it has its sign."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - Gymnasium's convention
    STEPS = 10

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.single_observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.single_action_space = gym.spaces.Discrete(2)

    def _draw(self) -> np.ndarray:
        self.sign = self.rng.choice([-1.0, 1.0], self.num_envs)
        return self.sign[:, None].astype(np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.t = 0
        return self._draw(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.t += 1
        ended = np.full(self.num_envs, self.t == self.STEPS)
        reward = np.where(ended, (2 * np.asarray(actions) - 1) * self.sign, 0.0)
        obs = np.zeros((self.num_envs, 1), np.float32)
        if self.t == self.STEPS:
            self.t, obs = 0, self._draw()
        return obs, reward, ended, np.zeros(self.num_envs, bool), {}


@pytest.mark.parametrize(("memory", "lowest", "highest"), [("gru", 0.95, 1.0), ("none", -0.4, 0.4)])
def test_what_was_seen_ten_steps_ago_is_only_known_to_who_remembers(
    tmp_path: Path, memory: Any, lowest: float, highest: float
) -> None:
    config = PPOConfig(
        total_timesteps=40_000,
        num_envs=32,
        num_steps=20,
        minibatch_size=320,
        hidden_size=16,
        num_layers=1,
        memory=memory,
        memory_size=16,
        learning_rate=1e-2,
        gamma=0.99,
        target_kl=None,
        policy_average=None,
    )
    result = train(config, Recall, run_dir=tmp_path / "r", console=False)
    score = evaluate(result.agent, Recall(200), 200, seed=5)["return_mean"]
    assert lowest <= score <= highest


class Positions(gym.ObservationWrapper[Any, Any, Any]):
    """CartPole that shows where cart and pole are, and not how fast they move."""

    def __init__(self) -> None:
        env = gym.make("CartPole-v1")
        super().__init__(env)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def observation(self, observation: Any) -> Any:
        return observation[[0, 2]]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cartpole_without_speeds_is_solved(tmp_path: Path) -> None:
    def make(n: int) -> SyncVectorEnv:
        return SyncVectorEnv([Positions] * n, autoreset_mode=AutoresetMode.SAME_STEP)

    config = PPOConfig(
        total_timesteps=150_000,
        num_envs=16,
        num_steps=64,
        minibatch_size=512,
        update_epochs=10,
        hidden_size=64,
        num_layers=1,
        activation="tanh",
        learning_rate=3e-3,
        gamma=0.98,
        target_kl=None,
        memory="gru",
        memory_size=32,
        eval_interval=50_000,
    )
    train(config, make, make, run_dir=tmp_path / "r", console=False)
    result = evaluate(load_agent(tmp_path / "r" / "best.pt"), make(20), 20, seed=77)
    assert result["return_mean"] >= 475
