"""A new run that starts from trained networks acts at first as they did, whatever else it observes."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from toy import BATCH, TOY, PointEnv, assert_same_weights, curve, run

from ballbot.ppo import Agent, CheckpointError, InitFrom, PPOConfig, Structure, Symmetry, load_agent, load_checkpoint
from ballbot.ppo.checkpoint import save_checkpoint
from ballbot.ppo.spaces import describe_spaces
from ballbot.ppo.transfer import read_start, take_over

NETWORKS: dict[str, Any] = {"hidden_size": 16, "num_layers": 2, "linear_skip": True, "normalize_values": True}
BOX3 = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)


def box(size: int) -> gym.spaces.Box:
    return gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)


def trained(path: Path, size: int, structure: Structure | None = None, **changes: Any) -> Agent:
    """A policy with weights, statistics and noise as after a training, and its file."""
    config = PPOConfig(**(NETWORKS | changes))
    agent = Agent(box(size), BOX3, config, torch.Generator().manual_seed(1), structure)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in agent.parameters():
            p.add_(torch.empty_like(p).normal_(0.0, 0.3, generator=generator))
        if agent.normalizer is not None:
            agent.normalizer.update(torch.randn(500, size, generator=generator) * 3 + 1)
        if agent.value_scale is not None:
            agent.value_scale.mean.fill_(5.0)
            agent.value_scale.std.fill_(2.0)
    spaces = describe_spaces(box(size), BOX3)
    state = {"kind": "policy", "config": asdict(config), "spaces": spaces, "env_metadata": {}, "global_step": 77}
    save_checkpoint([path], {**state, "policy": agent.state_dict()})
    return agent.eval()


def started(
    path: Path, size: int, columns: Any = None, structure: Structure | None = None, **changes: Any
) -> tuple[Agent, list[str]]:
    config = PPOConfig(**(NETWORKS | changes))
    agent = Agent(box(size), BOX3, config, torch.Generator().manual_seed(9), structure)
    return agent, take_over(agent, config, read_start(InitFrom(path, columns)))


def values(agent: Agent, obs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return agent.get_value(agent.normalize(obs))


COLUMNS = (3, None, 0, None, 2)
"""Of an observation of four numbers, whose second one is gone."""


class TestActsAsTheOldOne:
    def test_bit_for_bit_when_it_observes_the_same(self, tmp_path: Path) -> None:
        old = trained(tmp_path / "p.pt", 4)
        new, lines = started(tmp_path / "p.pt", 4, initial_std=0.5)
        obs = torch.randn(50, 4) * 4
        assert torch.equal(old.act(obs), new.act(obs)) and torch.equal(values(old, obs), values(new, obs))
        assert new.normalizer is not None and old.normalizer is not None
        assert new.normalizer.count == old.normalizer.count == 500 and new.normalizer.measured
        assert torch.allclose(new.log_std.exp(), torch.tensor(0.5))
        assert lines[0] == f"init-from: {tmp_path / 'p.pt'}, step 77" and "initial_std = 0.5" in lines[-1]

    @pytest.mark.parametrize("scales", [(None, None), (0.1, None), (None, 0.1), (0.5, 4.0)])
    def test_new_numbers_weigh_nothing_and_others_what_they_did(
        self, tmp_path: Path, scales: tuple[float | None, float | None]
    ) -> None:
        then, now = (
            None if scale is None else Structure(input_scale=torch.linspace(scale, 1, size))
            for scale, size in zip(scales, (4, 5), strict=True)
        )
        old = trained(tmp_path / "p.pt", 4, then)
        with torch.no_grad():  # the number that is gone was of no use
            for layer in (old.policy_trunk[0], old.policy_skip, old.value_trunk[0]):  # type: ignore[index]
                layer.weight[:, 1] = 0  # type: ignore[union-attr, operator]
        state = load_checkpoint(tmp_path / "p.pt") | {"policy": old.state_dict()}
        save_checkpoint([tmp_path / "p.pt"], state)
        new, _ = started(tmp_path / "p.pt", 5, COLUMNS, now)
        obs = torch.randn(200, 5) * 4
        before = torch.randn(200, 4)
        for i, column in enumerate(COLUMNS):
            if column is not None:
                before[:, column] = obs[:, i]
        torch.testing.assert_close(new.act(obs), old.act(before), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(values(new, obs), values(old, before), rtol=1e-5, atol=1e-4)
        obs[:, [1, 3]] = 1e3  # whatever the new ones say
        torch.testing.assert_close(new.act(obs), old.act(before), rtol=1e-5, atol=1e-5)

    def test_without_a_scale_of_values_they_are_the_same(self, tmp_path: Path) -> None:
        old = trained(tmp_path / "p.pt", 4)
        new, _ = started(tmp_path / "p.pt", 4, normalize_values=False)
        obs = torch.randn(50, 4)
        torch.testing.assert_close(values(new, obs), values(old, obs))
        other = trained(tmp_path / "q.pt", 4, normalize_values=False)
        new, _ = started(tmp_path / "q.pt", 4, normalize_values=True)
        assert torch.equal(values(new, obs), values(other, obs))

    def test_what_a_value_function_never_saw_counts_nothing(self, tmp_path: Path) -> None:
        old = trained(tmp_path / "p.pt", 4, Structure(value_inputs=torch.tensor([True, True, False, True])))
        new, _ = started(tmp_path / "p.pt", 4)  # which sees all
        obs = torch.randn(50, 4)
        torch.testing.assert_close(values(new, obs), values(old, obs))

    def test_a_symmetry_of_what_both_have_is_the_same(self, tmp_path: Path) -> None:
        turn = torch.eye(3)[[1, 2, 0]]
        actions = torch.stack([torch.eye(3), turn, turn @ turn])
        wide = torch.eye(4).repeat(3, 1, 1)
        wide[:, :3, :3] = actions
        old = trained(tmp_path / "p.pt", 3, Structure(symmetry=Symmetry(actions, actions)))
        new, _ = started(tmp_path / "p.pt", 4, (0, 1, 2, None), Structure(symmetry=Symmetry(wide, actions)))
        obs = torch.randn(50, 4)
        torch.testing.assert_close(new.act(obs), old.act(obs[:, :3]), rtol=1e-5, atol=1e-5)
        with pytest.raises(CheckpointError, match=r"symmetry \(then one, now none\)"):
            started(tmp_path / "p.pt", 4, (0, 1, 2, None))


class TestStatistics:
    def test_of_each_number_go_on_from_where_they_are(self, tmp_path: Path) -> None:
        old = trained(tmp_path / "p.pt", 4)
        new, _ = started(tmp_path / "p.pt", 5, COLUMNS)
        theirs, mine = old.normalizer, new.normalizer
        assert theirs is not None and mine is not None
        measured = [mine.measured]
        assert mine.count.tolist() == [500, 0, 500, 0, 500]
        more = torch.randn(100, 5, generator=torch.Generator().manual_seed(5)).double() + 7
        before = torch.zeros(100, 4).double()
        before[:, [3, 0, 2]] = more[:, [0, 2, 4]]
        mine.update(more)
        theirs.update(before)
        torch.testing.assert_close(mine.mean[[0, 2, 4]], theirs.mean[[3, 0, 2]])
        torch.testing.assert_close(mine.var[[0, 2, 4]], theirs.var[[3, 0, 2]])
        torch.testing.assert_close(mine.mean[[1, 3]], more.mean(0)[[1, 3]])
        torch.testing.assert_close(mine.var[[1, 3]], more.var(0, correction=0)[[1, 3]])
        assert [*measured, mine.measured] == [False, True]


class Wider(PointEnv):
    """Says three times the position, too, before the rest."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.single_observation_space = box(3)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, num_envs)

    def _wide(self, obs: Any) -> Any:
        return np.concatenate([3 * obs[:, :1], obs], 1).astype(np.float32)

    def reset(self, **kwargs: Any) -> Any:
        obs, infos = super().reset(**kwargs)
        return self._wide(obs), infos

    def step(self, actions: Any) -> Any:
        obs, reward, terminated, truncated, infos = super().step(actions)
        if "final_obs" in infos:
            infos = infos | {"final_obs": self._wide(infos["final_obs"])}
        return self._wide(obs), reward, terminated, truncated, infos


class TestRuns:
    def test_a_run_starts_from_another_and_says_where_from(self, finished: Path, tmp_path: Path) -> None:
        result = run(tmp_path / "r", init_from=finished, total_timesteps=4 * BATCH, learning_rate=1e-9)
        best = load_agent(finished)
        obs = torch.randn(20, 2)
        torch.testing.assert_close(result.agent.act(obs), best.act(obs), rtol=1e-3, atol=1e-3)
        origin = {
            "path": str(finished / "best.pt"),
            "step": load_checkpoint(finished / "best.pt")["global_step"],
            "sha256": hashlib.sha256((finished / "best.pt").read_bytes()).hexdigest(),
        }
        assert json.loads((tmp_path / "r" / "config.json").read_text())["init_from"] == origin
        assert load_checkpoint(tmp_path / "r" / "best.pt")["init_from"] == origin
        rows = curve(tmp_path / "r")
        assert [int(row["global_step"]) for row in rows] == [BATCH * i for i in range(1, 5)]
        assert rows[0]["losses/value_loss"] != ""  # there are statistics: it learns at once
        run(tmp_path / "r", resume=tmp_path / "r", total_timesteps=6 * BATCH, learning_rate=1e-9)
        assert json.loads((tmp_path / "r" / "config.json").read_text())["init_from"] == origin
        assert load_checkpoint(tmp_path / "r" / "last.pt")["init_from"] == origin
        assert "init_from" not in load_checkpoint(finished / "last.pt")

    def test_new_numbers_are_measured_first_and_it_resumes_to_the_last_bit(
        self, finished: Path, tmp_path: Path
    ) -> None:
        start = InitFrom(finished / "last.pt", (None, 0, 1))
        run(tmp_path / "a", Wider, init_from=start, total_timesteps=6 * BATCH)
        assert [row["losses/value_loss"] != "" for row in curve(tmp_path / "a")] == [False, *[True] * 5]
        old = load_checkpoint(finished / "last.pt")["policy"]["normalizer.count"]
        counts = load_checkpoint(tmp_path / "a" / "last.pt")["agent"]["normalizer.count"]
        assert counts.tolist() == [6 * BATCH, old + 6 * BATCH, old + 6 * BATCH]
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        middle = tmp_path / "b" / "checkpoints" / f"step_{2 * BATCH}.pt"
        run(tmp_path / "b", Wider, resume=middle, total_timesteps=6 * BATCH)
        assert curve(tmp_path / "b") == curve(tmp_path / "a")
        assert_same_weights(tmp_path / "b" / "last.pt", tmp_path / "a" / "last.pt")
        assert load_agent(tmp_path / "b").obs_size == 3

    def test_it_says_what_is_new(self, finished: Path, tmp_path: Path) -> None:
        config = PPOConfig(**TOY)
        agent = Agent(box(3), gym.spaces.Box(-1.0, 1.0, (1,), np.float32), config)
        lines = take_over(agent, config, read_start(InitFrom(finished, (None, 1, None))))
        assert "init-from: of 3 numbers observed 2 are new, start at 0; 1 dropped" in lines
        told = take_over(agent, config, read_start(InitFrom(finished, (None, 1, None), "x new")))
        assert "init-from: x new" in told


class TestRefusals:
    def test_resume_and_init_from_together(self, finished: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="give one of them"):
            run(tmp_path / "r", resume=finished, init_from=finished)
        assert not (tmp_path / "r").exists()

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"hidden_size": 32}, r"hidden_size \(then 16, now 32\)"),
            ({"num_layers": 3}, r"num_layers \(then 2, now 3\)"),
            ({"activation": "tanh"}, "activation"),
            ({"normalize_observations": False}, r"normalize_observations \(then True, now False\)"),
            ({"linear_skip": False}, r"linear_skip \(then True, now False\)"),
        ],
    )
    def test_of_other_networks(self, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
        trained(tmp_path / "p.pt", 4)
        with pytest.raises(CheckpointError, match=words):
            started(tmp_path / "p.pt", 4, **changes)

    def test_of_other_actions_and_observations(self, tmp_path: Path) -> None:
        trained(tmp_path / "p.pt", 4)
        config = PPOConfig(**NETWORKS)
        for space, words in (
            (gym.spaces.Box(-1.0, 1.0, (2,)), "now 2 numbers"),
            (gym.spaces.Discrete(3), "now one of 3"),
        ):
            with pytest.raises(CheckpointError, match=rf"actions \(then 3 numbers, {words}\)"):
                take_over(Agent(box(4), space, config), config, read_start(tmp_path / "p.pt"))
        with pytest.raises(CheckpointError, match="observes 4 numbers, these environments give 5"):
            started(tmp_path / "p.pt", 5)

    @pytest.mark.parametrize("columns", [(0, 1), (0, 1, 2, 4), (0, 0, 1, 2), (-1, 0, 1, 2)])
    def test_of_columns_that_do_not_fit(self, tmp_path: Path, columns: Any) -> None:
        trained(tmp_path / "p.pt", 4)
        with pytest.raises(ValueError, match=r"InitFrom\.columns must have 4 entries"):
            started(tmp_path / "p.pt", 4, columns)

    def test_of_files_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="does not exist"):
            run(tmp_path / "r", init_from=tmp_path / "none.pt")
        (tmp_path / "bad.pt").write_bytes(b"no")
        with pytest.raises(CheckpointError, match="damaged"):
            run(tmp_path / "r", init_from=tmp_path / "bad.pt")


def test_a_value_function_of_another_shape_starts_anew(tmp_path: Path) -> None:
    old = trained(tmp_path / "p.pt", 4, shared_trunk=True)
    new, lines = started(tmp_path / "p.pt", 4)
    obs = torch.randn(20, 4)
    assert torch.equal(old.act(obs), new.act(obs))
    assert "init-from: the value function has another shape, starts anew" in lines
    config = PPOConfig(**NETWORKS)
    fresh = Agent(box(4), BOX3, config, torch.Generator().manual_seed(9))
    assert torch.equal(new.value_head.weight, fresh.value_head.weight)
    assert new.value_scale is not None and new.value_scale.std == 1.0
