"""How learners race: what each gets of the environments, what is kept of it, how that is judged and written down."""

from __future__ import annotations

import csv
import importlib
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from ballbot import presets
from ballbot.envs import BallbotVectorEnv

MAINTENANCE = Path(__file__).parents[1] / "experiments" / "maintenance"

SHAPE_OF_CLEANRL = """
from dataclasses import dataclass
import gymnasium as gym
import torch
import tyro
from torch import nn
from torch.utils.tensorboard import SummaryWriter

@dataclass
class Args:
    seed: int = 1
    num_envs: int = 1
    cuda: bool = True

class Agent(nn.Module):
    def __init__(self, envs):
        super().__init__()
        size, torques = envs.single_observation_space.shape[0], envs.single_action_space.shape[0]
        self.actor_mean = nn.Sequential(nn.Linear(size, 8), nn.Tanh(), nn.Linear(8, torques))

if __name__ == "__main__":
    args = tyro.cli(Args)
    torch.manual_seed(args.seed)
    writer = SummaryWriter("runs")
    envs = gym.vector.SyncVectorEnv([None for _ in range(args.num_envs)])
    agent = Agent(envs)
    obs, _ = envs.reset(seed=args.seed)
    for step in range(20):
        with torch.no_grad():
            actions = agent.actor_mean(torch.Tensor(obs))
        obs, reward, terminated, truncated, infos = envs.step(actions.numpy())
        writer.add_scalar("charts/SPS", step, step)
    envs.close()
    writer.close()
"""
"""What of its file matters here: it acts in environments, and learns nothing."""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset of short episodes on few terrains, which small networks learn for a moment."""
    monkeypatch.syspath_prepend(str(MAINTENANCE))
    default = presets.default

    def tiny(**world: Any) -> presets.Settings:
        settings = default(**world, num_terrains=2, max_episode_steps=100)
        changes: dict[str, Any] = {"num_envs": 4, "num_steps": 16, "minibatch_size": 32, "total_timesteps": 1280}
        changes |= {"hidden_size": 8, "num_layers": 2}
        return replace(settings, ppo=replace(settings.ppo, **changes))

    monkeypatch.setattr(presets, "default", tiny)


@pytest.fixture
def race(short: None) -> ModuleType:
    return importlib.import_module("race")


def racer(name: str) -> ModuleType:
    return importlib.import_module(f"racers.{name}")


def job(**changes: Any) -> Any:
    options = {"learner": "ballbot", "hyperparameters": "ours", "seed": 3, "cameras": False, "num_envs": 4}
    return racer("snapshots").Job(
        **(options | {"minutes": 1.0, "every": 5.0, "torch_threads": 1, "cleanrl": None} | changes)
    )


def twin(num_envs: int = 4) -> tuple[BallbotVectorEnv, Any]:
    """The environments that everybody is to see, made otherwise; and their first observations."""
    world = presets.default(observation="proprioception", privileged_fields=()).training_world
    envs = BallbotVectorEnv(num_envs, config=world)
    assert envs.action_repeat == 5 and envs.config.training_rewards and envs.config.max_episode_steps == 100
    return envs, envs.reset(seed=racer("snapshots").env_seed(job()))[0]


# -- Environments ------------------------------------------------------------------------------------------------------


def actions() -> Any:
    """Pushes for longer than an episode is; two of the robots fall."""
    pushes = np.random.default_rng(0).uniform(-0.3, 0.3, (70, 4, 3)).astype(np.float32)
    pushes[:, :2] = (1.0, -0.5, -0.5)
    return pushes


def test_stable_baselines3_sees_the_environments_own_numbers() -> None:
    pytest.importorskip("stable_baselines3")
    own, expected = twin()
    with closing(own), closing(racer("sb3").Envs(racer("snapshots").training_envs(job()), 0)) as envs:
        envs._seed = racer("snapshots").env_seed(job())
        np.testing.assert_array_equal(envs.reset(), expected)
        ended = 0
        for push in actions():
            obs, reward, done, told = envs.step(push)
            expected, paid, terminated, truncated, infos = own.step(push)
            np.testing.assert_array_equal(obs, expected)
            np.testing.assert_array_equal(reward, paid.astype(np.float32))
            np.testing.assert_array_equal(done, terminated | truncated)
            for i in np.flatnonzero(done):
                np.testing.assert_array_equal(told[i]["terminal_observation"], infos["final_obs"][i])
                assert told[i]["TimeLimit.truncated"] == (truncated[i] and not terminated[i])
            ended += done.sum()
        assert ended >= 8


def test_rsl_rl_sees_the_environments_own_numbers() -> None:
    pytest.importorskip("rsl_rl")
    own, expected = twin()
    snapshots = racer("snapshots")
    with closing(own), closing(snapshots.training_envs(job())) as inner:
        envs, fell, late = racer("rsl").Envs(inner, snapshots.env_seed(job())), 0, 0
        np.testing.assert_array_equal(envs.get_observations()["policy"], expected)
        for push in actions():
            obs, reward, done, told = envs.step(torch.from_numpy(push))
            expected, paid, terminated, truncated, _ = own.step(push)
            np.testing.assert_array_equal(obs["policy"], expected)
            np.testing.assert_array_equal(reward, paid.astype(np.float32))
            np.testing.assert_array_equal(done, terminated | truncated)
            np.testing.assert_array_equal(told["time_outs"], truncated & ~terminated)
            fell, late = fell + terminated.sum(), late + truncated.sum()
        assert fell and late


def test_cleanrl_sees_the_environments_own_numbers_normalised_by_all_it_has_seen() -> None:
    own, expected = twin()
    snapshots = racer("snapshots")
    with closing(own), closing(snapshots.training_envs(job())) as inner:
        envs = racer("cleanrl").Envs(inner, snapshots.env_seed(job()))
        obs, seen = envs.reset(seed=99)[0], [expected]
        for push in actions():
            obs, reward, *ends, _ = envs.step(push)
            expected, paid, *own_ends, _ = own.step(push)
            np.testing.assert_array_equal(reward, paid)
            np.testing.assert_array_equal(ends, own_ends)
            seen.append(expected)
            rows = np.concatenate(seen).astype(np.float64)
        count, total = 1e-4, 1e-4 + len(rows)  # it begins with so much of a row, of mean 0 and variance 1
        mean = rows.sum(0) / total
        var = (((rows - mean) ** 2).sum(0) + count * (1 + mean**2)) / total
        normal = (expected - mean) / np.sqrt(var + 1e-8)
        np.testing.assert_allclose(obs, normal.clip(-10, 10), rtol=1e-4, atol=1e-4)


# -- What is kept ------------------------------------------------------------------------------------------------------


SIZE = presets.default(observation="proprioception").layout().size
"""Numbers that a robot observes."""


def observations() -> Any:
    return np.random.default_rng(1).normal(size=(50, SIZE)).astype(np.float32)


def check_kept(name: str, act: Any, settings: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it learn for a moment, and compare what each snapshot does with what `act` did when it was taken."""
    module, expected = racer(name), []
    write = module.__dict__["write_policy"]

    def remember(path: Path, model: Any) -> None:
        write(path, model)
        expected.append(act(model))

    monkeypatch.setattr(module, "write_policy", remember)
    found = module.train(job(hyperparameters=settings, minutes=0.03, every=0.4), folder, time.time())
    for snapshot, actions in zip(found, expected, strict=True):
        acted = racer("snapshots").read_network(folder / snapshot.file)(observations())
        np.testing.assert_allclose(acted.clip(-1, 1), actions.clip(-1, 1), atol=1e-4)
    assert found[-1].steps > 0 and found[-1].steps % 20 == 0


@pytest.mark.parametrize("settings", ["ours", "own"])
def test_a_policy_of_stable_baselines3_acts_as_it_does_there(
    settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("stable_baselines3")

    def act(model: Any) -> Any:
        return model.predict(model.get_env().normalize_obs(observations()), deterministic=True)[0]

    check_kept("sb3", act, settings, tmp_path, monkeypatch)


@pytest.mark.parametrize("settings", ["ours", "own"])
def test_a_policy_of_rsl_rl_acts_as_it_does_there(
    settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rsl_rl")
    tensordict = importlib.import_module("tensordict")

    def act(runner: Any) -> Any:
        rows = tensordict.TensorDict({"policy": torch.from_numpy(observations())}, batch_size=[50])
        return runner.alg.get_policy()(rows).detach().numpy()

    check_kept("rsl", act, settings, tmp_path, monkeypatch)


@pytest.mark.parametrize("scaled", [False, True])
def test_cleanrls_file_runs_as_it_is_and_its_policy_is_kept(
    scaled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleanrl, snapshots = racer("cleanrl"), racer("snapshots")
    file = tmp_path / "ppo.py"
    file.write_text(SHAPE_OF_CLEANRL)
    cleanrl.check_file(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cleanrl, "options", lambda config: [])
    asked = job(learner="cleanrl", cleanrl=str(file), hyperparameters="own" if scaled else "ours")
    (found,) = cleanrl.train(asked, tmp_path, time.time())
    assert found.steps == 20 * 4 * 5 and not (tmp_path / "runs").exists()
    torch.manual_seed(3)
    first = torch.nn.Linear(SIZE, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)  # nothing else has drawn
    written = torch.load(tmp_path / found.file, weights_only=True)
    obs = torch.from_numpy(observations()).double()
    normal = ((obs - written["mean"]) / written["scale"]).clamp(-10, 10)
    expected = torch.nn.Sequential(*first).double()(normal).detach()
    np.testing.assert_allclose(snapshots.read_network(tmp_path / found.file)(obs), expected, atol=1e-9)


def test_snapshots_come_every_few_seconds_and_a_last_one_when_the_time_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, clock = racer("snapshots"), [100.0]
    monkeypatch.setattr(module.time, "time", lambda: clock[0])
    kept = module.Snapshots(job(minutes=0.2), tmp_path, 100.0, lambda path: None)
    with pytest.raises(module.TimeUp):
        for second in range(100):
            clock[0] = 100.0 + second
            kept.tick(10 * second)
    assert [(s.seconds, s.steps) for s in kept.kept] == [(5.0, 50), (10.0, 100), (12.0, 120)]


# -- Judging -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quick", "whole", "reached", "best", "asked"),
    [
        ([3, 80, 84, 90, 91], {1: 70, 2: 86, 4: 60}, 2, 86, [1, 2, 4]),  # the first that can, and the last
        ([3, 70, 5, 1, 2], {1: 69, 4: 2}, None, 69, [4, 1]),  # nothing was near: the best of what was seen
        ([3, 80, 80, 3, 99], {1: 85.4, 2: 85.3, 4: 95}, 4, 95, [1, 2, 4]),
    ],
)
def test_the_first_policy_that_reaches_the_target_counts(
    race: ModuleType, quick: list[float], whole: dict[int, float], reached: int | None, best: float, asked: list[int]
) -> None:
    snapshots = [racer("snapshots").Snapshot(5.0 * i, 1000 * i, f"{i}.pt") for i in range(5)]
    judged: list[int] = []

    def all_of_them(snapshot: Any) -> Any:
        judged.append(int(snapshot.file[0]))
        return race.Score(whole[judged[-1]], 4000.0)

    found = race.judged(snapshots, lambda s: race.Score(quick[int(s.file[0])], 4000.0), all_of_them)
    assert judged == asked
    assert found["seconds_to_target"] == ("" if reached is None else 5.0 * reached)
    assert found["steps_to_target"] == ("" if reached is None else 1000 * reached)
    assert (found["best_return"], found["return"], found["steps"]) == (best, whole[4], 4000)


def test_who_falls_has_not_reached_the_target(race: ModuleType) -> None:
    assert race.Score(85.5, 3950.0).enough
    assert not race.Score(99.0, 3949.0).enough and not race.Score(85.4, 4000.0).enough


# -- The whole ---------------------------------------------------------------------------------------------------------


def in_this_process(race: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing everything anew takes seconds."""
    snapshots = racer("snapshots")
    monkeypatch.setattr(race, "start", lambda j, folder: snapshots.run(snapshots.start_file(j, folder, time.time())))
    monkeypatch.setattr(race, "on_signals", lambda handler: None)


def test_a_race_writes_a_row_each_and_goes_on_where_it_stopped(
    race: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("stable_baselines3")
    in_this_process(race, monkeypatch)
    monkeypatch.setattr(race, "TARGET_RETURN", 0.0)
    monkeypatch.setattr(race, "TARGET_LENGTH", 100.0)  # of 100: nobody falls so soon
    table = tmp_path / "race.csv"
    options = ["--csv", str(table), "--num-envs", "4", "--every", "0.1", "--minutes", "0.2", "--seeds", "0"]
    assert race.main([*options, "--learners", "ballbot", "stable-baselines3", "cleanrl"]) == 0
    out = capsys.readouterr().out
    assert "cleanrl is left out: give its file: --cleanrl" in out
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["learner"] for row in rows] == ["ballbot", "stable-baselines3"]
    for row in rows:
        assert 0 < float(row["seconds_to_target"]) <= float(row["seconds"])
        assert 0 <= int(row["steps_to_target"]) <= int(row["steps"]) <= 1280
        assert float(row["length"]) == 100 and row["version"] and row["hyperparameters"] == "ours"
        assert float(row["best_return"]) >= float(row["return"])
    assert int(rows[0]["steps"]) == 1280

    monkeypatch.setattr(race, "race", None)
    before = table.read_text()
    assert race.main([*options, "--learners", "ballbot", "stable-baselines3"]) == 0
    assert table.read_text() == before and "1 of 1" in capsys.readouterr().out


def test_one_that_fails_is_said_and_the_others_go_on(
    race: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(race, "on_signals", lambda handler: None)
    monkeypatch.setattr(race, "missing", lambda learner, args: None)

    def half(job: Any) -> dict[str, Any]:
        if job.learner == "rsl_rl":
            raise RuntimeError("rsl_rl, seed 0: NameError")
        numbers = dict.fromkeys(race.COLUMNS, "") | {name: getattr(job, name) for name in race.KEY}
        return numbers | {"seconds_to_target": 60.5 + job.seed if job.seed < 2 else ""}

    monkeypatch.setattr(race, "race", half)
    options = ["--csv", str(tmp_path / "race.csv"), "--num-envs", "4", "--seeds", "0", "1", "2"]
    assert race.main([*options, "--learners", "rsl_rl", "ballbot"]) == 1
    told = capsys.readouterr()
    assert told.err.count("error: rsl_rl, seed 0: NameError") == 3
    lines = [line.split() for line in told.out.splitlines()]
    assert ["ballbot", "61.5", "2", "of", "3"] in lines and ["rsl_rl", "never", "0", "of", "0"] in lines


def test_a_process_that_fails_says_why(race: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ballbot, seed 3: ballbot\.errors\.SettingsError: num_envs"):
        race.start(job(num_envs=3), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cleanrl", "gone.py"], "--cleanrl gone.py cannot be read"),
        (
            ["--cleanrl", str(MAINTENANCE / "race.py")],
            "give the path of ppo_continuous_action.py of https://github.com/vwxyzjn/cleanrl",
        ),
        (["--learners", "sb3"], "--learners sb3 is unknown"),
        (["--learners", "ballbot", "ballbot"], "--learners needs at least one value, and each once"),
        (["--seeds", "-1"], "--seeds -1 is out of range"),
        (["--minutes", "0"], "--minutes"),
        (["--every", "nan"], "--every"),
        (["--num-envs", "3"], "choose one that divides it"),
        (["--csv", "race.txt"], "--csv race.txt must end in .csv"),
    ],
)
def test_bad_options_are_named(
    race: ModuleType,
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert race.main(["--csv", str(tmp_path / "race.csv"), *options]) == 2
    assert message in capsys.readouterr().err


def test_another_table_is_refused(race: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "race.csv").write_text("task,library\n")
    assert race.main(["--csv", str(tmp_path / "race.csv")]) == 2
    assert "is not a table of this script" in capsys.readouterr().err


def test_learners_that_are_not_installed_are_left_out(race: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    found = partial(race.missing, args=race.Args())
    monkeypatch.setattr(race, "find_spec", lambda module: None)
    assert found("rsl_rl") == "it is not installed: pip install rsl-rl-lib"
    assert found("stable-baselines3") == "it is not installed: pip install stable-baselines3"
