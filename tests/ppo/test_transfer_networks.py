"""Networks that remember, read images or see unequal things are a start: the new agent does what the old one did."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces as gs
from torch import nn
from toy import BATCH, BOX1, TOY, PointEnv, SplitEnv, assert_same_weights, curve, generator, run, small_config

from ballbot.ppo import (
    Agent,
    CheckpointError,
    FeedbackPrior,
    Hooks,
    InitFrom,
    PPOConfig,
    Structure,
    Symmetry,
    load_agent,
    train,
)
from ballbot.ppo.checkpoint import save_checkpoint
from ballbot.ppo.spaces import describe_spaces
from ballbot.ppo.transfer import read_start, take_over

GRU: dict[str, Any] = {"memory": "gru", "memory_size": 8}
CNN: dict[str, Any] = {"cnn_channels": (4, 6), "cnn_features": 5}
NETWORKS: dict[str, Any] = {"linear_skip": True, "normalize_values": True}


def box(*shape: int, dtype: Any = np.float32) -> gs.Box:
    low, high = (0, 255) if dtype == np.uint8 else (-np.inf, np.inf)
    return gs.Box(low, high, shape, dtype)


def trained(path: Path, space: gym.Space[Any], structure: Structure | None = None, **changes: Any) -> Agent:
    """An agent with weights and statistics as after a training, and its file."""
    config = small_config(**(NETWORKS | changes))
    agent = Agent(space, BOX1, config, generator(1), structure)
    with torch.no_grad():
        for p in [p for p in agent.parameters() if p.requires_grad]:
            p.add_(torch.empty_like(p).normal_(0.0, 0.2, generator=generator(2)))
        if agent.normalizer is not None:
            agent.normalizer.update(2 * torch.randn(300, len(agent.numbers), generator=generator(3)) + 1)
    encoders = [part.key for part in agent.parts if part.encoder is not None]
    state = {"kind": "policy", "config": asdict(config), "spaces": describe_spaces(space, BOX1, encoders)}
    save_checkpoint([path], {**state, "env_metadata": {}, "global_step": 7, "policy": agent.state_dict()})
    return agent.eval()


def started(
    path: Path, space: gym.Space[Any], structure: Structure | None = None, columns: Any = None, **changes: Any
) -> Agent:
    config = small_config(**(NETWORKS | changes))
    agent = Agent(space, BOX1, config, generator(9), structure)
    started.lines = take_over(agent, config, read_start(InitFrom(path, columns)))  # type: ignore[attr-defined]
    return agent


def answers(agent: Agent, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Actions and values of an episode for each column of `rows` (steps, batch, value_size)."""
    steps, batch = rows.shape[:2]
    memory = agent.new_memory(batch)
    actions = torch.stack([agent.act_on(row[:, : agent.obs_size], memory=memory) for row in rows])
    x, after = agent.normalize(rows.flatten(0, 1)), None
    with torch.no_grad():
        if (start := agent.new_memories(batch)) is not None:
            began = torch.zeros(steps, batch, dtype=torch.bool)
            after = agent.recall(x.view(steps, batch, *agent.input_shape), start, began)[:, :, -1].flatten(0, 1)
        return actions, agent.get_value(x, after)


def looked_at(size: int, seed: int = 5) -> torch.Tensor:
    return 2 * torch.randn(6, 20, size, generator=generator(seed))


def assert_the_same(new: Agent, rows: torch.Tensor, old: Agent, before: torch.Tensor, values: bool = True) -> None:
    actions, expected = answers(new, rows), answers(old, before)
    assert expected[0].abs().mean() > 0.05 and expected[0].std() > 0.02
    torch.testing.assert_close(actions[0], expected[0], rtol=1e-5, atol=1e-5)
    if values:
        torch.testing.assert_close(actions[1], expected[1], rtol=1e-5, atol=1e-4)


def moved(rows: torch.Tensor, columns: Any, agent: Agent) -> torch.Tensor:
    """What the old `agent` would have seen: what is gone is as on average."""
    assert agent.normalizer is not None
    before = agent.normalizer.mean.float().expand(*rows.shape[:2], agent.value_size).clone()
    for i, column in enumerate(columns):
        if column is not None:
            before[..., column] = rows[..., i]
    return before


COLUMNS = (3, None, 0, None, 2)
"""Of an observation of four numbers, whose second one is gone."""


class TestMemory:
    @pytest.mark.parametrize("shared", [False, True])
    def test_is_taken_over_bit_for_bit(self, tmp_path: Path, shared: bool) -> None:
        old = trained(tmp_path / "p.pt", box(4), shared_trunk=shared, **GRU)
        new = started(tmp_path / "p.pt", box(4), shared_trunk=shared, **GRU)
        for mine, theirs in zip(answers(new, looked_at(4)), answers(old, looked_at(4)), strict=True):
            assert torch.equal(mine, theirs)
        assert not any("memory" in line for line in started.lines)  # type: ignore[attr-defined]

    @pytest.mark.parametrize("scales", [(None, None), (0.1, None), (0.5, 4.0)])
    def test_of_other_numbers_is_taken_over_by_number(self, tmp_path: Path, scales: Any) -> None:
        then, now = (
            Structure(
                input_scale=None if scale is None else torch.linspace(scale, 1, size),
                value_inputs=torch.arange(size) != unseen,
            )
            for scale, size, unseen in zip(scales, (4, 5), (2, 9), strict=True)
        )
        old = trained(tmp_path / "p.pt", box(4), then, **GRU)
        new = started(tmp_path / "p.pt", box(5), now, COLUMNS, **GRU)
        assert_the_same(new, looked_at(5), old, moved(looked_at(5), COLUMNS, old))

    @pytest.mark.parametrize("shared", [False, True])
    def test_that_is_new_counts_nothing_at_first(self, tmp_path: Path, shared: bool) -> None:
        old = trained(tmp_path / "p.pt", box(4), shared_trunk=shared)
        new = started(tmp_path / "p.pt", box(4), shared_trunk=shared, **GRU)
        assert_the_same(new, looked_at(4), old, looked_at(4))
        assert "init-from: memory new, starts at 0" in started.lines  # type: ignore[attr-defined]
        memory = new.new_memory(20)
        new.act_on(looked_at(4)[0], memory=memory)
        assert memory is not None and memory.abs().max() > 0.1  # it is there to be learned from
        new = started(tmp_path / "p.pt", box(5), columns=COLUMNS, shared_trunk=shared, **GRU)
        assert_the_same(new, looked_at(5), old, moved(looked_at(5), COLUMNS, old))

    def test_seen_from_every_side(self, tmp_path: Path) -> None:
        turned, flip = torch.diag(torch.tensor([-1.0, -1.0, 1.0])), torch.tensor([[[1.0]], [[-1.0]]])
        narrow = Structure(symmetry=Symmetry(torch.stack([torch.eye(2), -torch.eye(2)]), flip))
        wide = Structure(symmetry=Symmetry(torch.stack([torch.eye(3), turned]), flip))
        both = gs.Dict({"policy": box(2), "told": box(1)})
        for then in (GRU, {}):
            old = trained(tmp_path / "p.pt", box(2), narrow, **then)
            new = started(tmp_path / "p.pt", both, wide, (0, 1, None), value_only=("told",), **GRU)
            assert_the_same(new, looked_at(3), old, looked_at(3)[..., :2])
        mixed = torch.tensor([[-1.0, 0.0, 1.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
        other = Structure(symmetry=Symmetry(torch.stack([torch.eye(3), mixed]), flip))
        with pytest.raises(CheckpointError, match=r"another symmetry \(observations\[1, 0, 2\] then 0, now 1\)"):
            started(tmp_path / "p.pt", box(3), other, (0, 1, None))  # what is known would be made of what is new

    def test_is_not_given_up_and_keeps_its_size(self, tmp_path: Path) -> None:
        trained(tmp_path / "p.pt", box(4), **GRU)
        with pytest.raises(CheckpointError, match=r"networks: memory \(then 'gru', now 'none'\)\. Start with"):
            started(tmp_path / "p.pt", box(4))
        with pytest.raises(CheckpointError, match=r"networks: memory_size \(then 8, now 16\)\. Start with"):
            started(tmp_path / "p.pt", box(4), **(GRU | {"memory_size": 16}))


BOTH = gs.Dict({"policy": box(2), "told": box(2)})
"""Of which the value function alone gets "told", unless it is said otherwise."""


class TestWhatTheValueFunctionAloneSees:
    @pytest.mark.parametrize("memory", [{}, GRU])
    def test_goes_from_group_to_group(self, tmp_path: Path, memory: Any) -> None:
        """Number 1 from the policy to the value function alone, number 2 the other way; 3 stays, another one is new."""
        columns = (0, 2, 1, 3, None)
        now = gs.Dict({"policy": box(2), "told": box(3)})
        old = trained(tmp_path / "p.pt", BOTH, value_only=("told",), **memory)
        new = started(tmp_path / "p.pt", now, columns=columns, value_only=("told",), **memory)
        rows = looked_at(5)
        before = moved(rows, columns, old)
        torch.testing.assert_close(answers(new, rows)[1], answers(old, before)[1], rtol=1e-5, atol=1e-4)
        assert old.normalizer is not None and new.normalizer is not None
        before[..., 1] = old.normalizer.mean[1]
        assert_the_same(new, rows, old, before, values=False)
        assert torch.equal(new.normalizer.mean[:4], old.normalizer.mean[[0, 2, 1, 3]])
        assert new.normalizer.count.tolist() == [300, 300, 300, 300, 0] and new.normalizer.var[4] == 1

    @pytest.mark.parametrize("memory", [{}, GRU])
    def test_is_new_or_dropped(self, tmp_path: Path, memory: Any) -> None:
        old = trained(tmp_path / "p.pt", box(2), **memory)
        new = started(tmp_path / "p.pt", BOTH, columns=(0, 1, None, None), value_only=("told",), **memory)
        assert_the_same(new, looked_at(4), old, looked_at(4)[..., :2])
        old = trained(tmp_path / "q.pt", BOTH, value_only=("told",), **memory)
        new = started(tmp_path / "q.pt", box(2), columns=(0, 1), **memory)
        assert_the_same(new, looked_at(2), old, moved(looked_at(2), (0, 1), old))

    def test_a_prior_is_of_what_the_policy_sees(self, tmp_path: Path) -> None:
        def prior(*gains: float) -> Structure:
            inner = -2 * torch.tensor([gains])
            return Structure(FeedbackPrior(torch.tensor([gains]), torch.ones(1, 1), inner, torch.ones(1)))

        old = trained(tmp_path / "p.pt", box(2), prior(0.3, -0.2))
        told = {"value_only": ("told",), "columns": (0, 1, None, None)}
        new = started(tmp_path / "p.pt", BOTH, prior(0.3, -0.2), **told)
        assert_the_same(new, looked_at(4), old, looked_at(4)[..., :2])
        old = trained(tmp_path / "q.pt", BOTH, prior(0.3, -0.2), value_only=("told",))
        new = started(tmp_path / "q.pt", box(3), prior(0.3, -0.2, 0.0), (0, 1, 2))  # of which it sees the third now
        assert_the_same(new, looked_at(3), old, moved(looked_at(3), (0, 1, 2), old))
        with pytest.raises(CheckpointError, match=r"another prior \(direct\[0, 1\] then -0.2, now -0.1\)"):
            started(tmp_path / "p.pt", BOTH, prior(0.3, -0.1), **told)
        with pytest.raises(CheckpointError, match=r"another prior \(direct\[0, 2\] then 0, now 0.5\)"):
            started(tmp_path / "p.pt", box(3), prior(0.3, -0.2, 0.5), (0, 1, None))

    def test_unlike_observations_are_named(self, tmp_path: Path) -> None:
        trained(tmp_path / "p.pt", BOTH, value_only=("told",))
        started(tmp_path / "p.pt", BOTH, value_only=("told",))
        for space, only, words in (
            (BOTH, (), r"these environments give policy \(2\), told \(2\)"),
            (gs.Dict({"policy": box(2), "said": box(2)}), ("said",), r"give policy \(2\), said \(2, value_only\)"),
            (box(4), (), "give 4 numbers"),
        ):
            told = rf"observes policy \(2\), told \(2, value_only\), .*{words}: .* InitFrom\(path, columns"
            with pytest.raises(CheckpointError, match=told):
                started(tmp_path / "p.pt", space, value_only=only)
        with pytest.raises(ValueError, match=r"InitFrom\.columns must have 4 entries"):
            started(tmp_path / "p.pt", BOTH, columns=(0, 1), value_only=("told",))


def seeing(image: gs.Box, numbers: int = 2, more: int = 0) -> gs.Dict:
    parts: dict[str, gym.Space[Any]] = {"image": image, "x": box(numbers)}
    return gs.Dict(parts | ({"told": box(more)} if more else {}))


BYTES = box(6, 6, 3, dtype=np.uint8)


class TestImages:
    @pytest.mark.parametrize("memory", [{}, GRU])
    def test_what_reads_them_is_taken_over(self, tmp_path: Path, memory: Any) -> None:
        old = trained(tmp_path / "p.pt", seeing(BYTES), **CNN, **memory)
        rows = looked_at(110)
        rows[..., :108] = rows[..., :108].mul(50).abs()
        for mine, theirs in zip(
            answers(started(tmp_path / "p.pt", seeing(BYTES), **CNN, **memory), rows), answers(old, rows), strict=True
        ):
            assert torch.equal(mine, theirs)
        # with another number for both, and one for the value function alone; of a policy without memory, with a new one
        wide = torch.cat([rows[..., :109], looked_at(1, 6), rows[..., 109:], looked_at(1, 7)], dim=-1)
        columns = (*range(109), None, 109, None)
        space = seeing(BYTES, 3, 1)
        new = started(tmp_path / "p.pt", space, columns=columns, value_only=("told",), **CNN, **GRU)
        assert_the_same(new, wide, old, rows)
        assert new.normalizer is not None and new.normalizer.count.tolist() == [300, 0, 300, 0]

    def test_of_the_value_function_alone(self, tmp_path: Path) -> None:
        old = trained(tmp_path / "p.pt", seeing(BYTES), value_only=("image",), **CNN)
        space = seeing(BYTES, 3)
        columns = (0, None, 1, *range(2, 110))
        new = started(tmp_path / "p.pt", space, columns=columns, value_only=("image",), **CNN)
        rows = looked_at(111)
        assert_the_same(new, rows, old, torch.cat([rows[..., :1], rows[..., 2:]], dim=-1))
        with pytest.raises(CheckpointError, match=r"images \(then .* for the value function alone, now \(6, 6, 3\) of"):
            started(tmp_path / "p.pt", seeing(BYTES), **CNN)

    @pytest.mark.parametrize(
        ("space", "changes", "words"),
        [
            (seeing(BYTES), {"cnn_channels": (4, 8)}, r"cnn_channels \(then \(4, 6\), now \(4, 8\)\)"),
            (seeing(BYTES), {"cnn_features": 6}, r"cnn_features \(then 5, now 6\)"),
            (seeing(BYTES), {"cnn_channels": ()}, r"cnn_channels \(then \(4, 6\), now \(\)\)"),
            (seeing(box(6, 6, 1, dtype=np.uint8)), {}, r"images \(then \(6, 6, 3\) of bytes, now \(6, 6, 1\) of bytes"),
            (seeing(box(6, 6, 3)), {}, r"images \(then \(6, 6, 3\) of bytes, now \(6, 6, 3\)\)"),
        ],
    )
    def test_of_another_kind_are_refused(self, tmp_path: Path, space: Any, changes: Any, words: str) -> None:
        trained(tmp_path / "p.pt", seeing(BYTES), **CNN)
        with pytest.raises(CheckpointError, match=words):
            started(tmp_path / "p.pt", space, **(CNN | changes))

    def test_are_taken_whole_and_at_the_same_scale(self, tmp_path: Path) -> None:
        trained(tmp_path / "p.pt", seeing(BYTES), **CNN)
        with pytest.raises(ValueError, match="say of each image that its numbers are those of the old one, in order"):
            started(tmp_path / "p.pt", seeing(BYTES), columns=(1, 0, *range(2, 110)), **CNN)
        for name, numbers in (("input_scale", torch.ones(110)), ("value_inputs", torch.ones(110, dtype=torch.bool))):
            numbers[3] = 0.5 if name == "input_scale" else False
            with pytest.raises(CheckpointError, match="another input_scale or other value_inputs of images"):
                started(tmp_path / "p.pt", seeing(BYTES), Structure(**{name: numbers}), **CNN)  # type: ignore[arg-type]
        trained(tmp_path / "blind.pt", box(2))
        with pytest.raises(CheckpointError, match=r"images \(then none, now \(6, 6, 3\) of bytes\)"):
            started(tmp_path / "blind.pt", seeing(BYTES), columns=(*[None] * 108, 0, 1), **CNN)


def eye(size: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, size), nn.Tanh())


class TestEncoders:
    SPACE = gs.Dict({"image": box(3, 4), "x": box(2)})

    def test_that_are_the_same(self, tmp_path: Path) -> None:
        eyes = Structure(encoders={"image": eye(3, 0)})
        old = trained(tmp_path / "p.pt", self.SPACE, eyes)
        new = started(tmp_path / "p.pt", self.SPACE, eyes)
        obs = {"image": torch.randn(20, 3, 4), "x": torch.randn(20, 2)}
        assert torch.equal(new.act(obs), old.act(obs)) and old.act(obs).std() > 0.05
        more = {**obs, "y": torch.randn(20, 1)}
        space = gs.Dict({**self.SPACE.spaces, "y": box(1)})
        new = started(tmp_path / "p.pt", space, eyes, (0, 1, 2, 3, 4, None), **GRU)
        actions = new.act(more, memory=new.new_memory(20))
        torch.testing.assert_close(actions, old.act(obs), rtol=1e-5, atol=1e-5)

    def test_that_are_others_are_refused(self, tmp_path: Path) -> None:
        trained(tmp_path / "p.pt", self.SPACE, Structure(encoders={"image": eye(3, 0)}))
        for other, words in (
            (eye(3, 1), r"another encoders \(0\.1\.weight\[0, 0\] then"),
            (eye(4, 0), r"another encoders \(0\.1\.weight shape then \(3, 12\), now \(4, 12\)\)"),
        ):
            with pytest.raises(CheckpointError, match=words):
                started(tmp_path / "p.pt", self.SPACE, Structure(encoders={"image": other}))
        with pytest.raises(CheckpointError, match="encoders of your own for 'image', given are none: give the same"):
            started(tmp_path / "p.pt", self.SPACE)
        trained(tmp_path / "q.pt", self.SPACE)
        with pytest.raises(CheckpointError, match=r"encoders \(then none, now one\)"):
            started(tmp_path / "q.pt", self.SPACE, Structure(encoders={"image": eye(3, 0)}))


@pytest.mark.parametrize("memory", ["none", "gru"])
def test_a_student_goes_on_with_a_memory_and_a_value_function_that_sees_more(tmp_path: Path, memory: str) -> None:
    """What was learned by imitation alone; the run that starts from it resumes to the last bit."""
    taught = TOY | {
        "memory": memory,
        "memory_size": 8,
        "imitation_timesteps": 40 * BATCH,
        "total_timesteps": 40 * BATCH,
    }
    teacher = Hooks(teacher=lambda obs, began: np.clip(-0.8 * obs[:, :1] - 0.5 * obs[:, 1:], -1, 1))
    train(PPOConfig(**taught), PointEnv, run_dir=tmp_path / "student", hooks=teacher, console=False)
    options: dict[str, Any] = {"value_only": ("age",), **GRU, "learning_rate": 1e-9}
    start = InitFrom(tmp_path / "student", (0, 1, None))
    result = run(tmp_path / "a", SplitEnv, init_from=start, total_timesteps=4 * BATCH, **options)
    student, rows = load_agent(tmp_path / "student"), looked_at(2) / 4
    expected = answers(student, rows)[0]
    assert expected.std() > 0.02
    new = result.agent
    assert new.normalizer is not None and student.normalizer is not None  # which has moved on since
    for name, buffer in student.normalizer.named_buffers():
        kept = getattr(new.normalizer, name)
        kept[:2] = buffer
    memory_of = new.new_memory(20)
    actions = torch.stack([new.act_on(row, memory=memory_of) for row in rows])
    torch.testing.assert_close(actions, expected, rtol=1e-4, atol=1e-4)
    middle = tmp_path / "a" / "checkpoints" / f"step_{2 * BATCH}.pt"
    run(tmp_path / "b", SplitEnv, resume=middle, total_timesteps=4 * BATCH, **options)
    assert_same_weights(tmp_path / "a" / "last.pt", tmp_path / "b" / "last.pt")
    assert curve(tmp_path / "a")[2:] == curve(tmp_path / "b")
