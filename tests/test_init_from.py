"""A new run of the robot starts from another one's networks: fields of the observation are matched by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inprocess import call
from policies import save_policy

from ballbot import presets
from ballbot.deployment.shipped import SHIPPED
from ballbot.encoders import load_encoder
from ballbot.errors import SettingsError
from ballbot.options import plain
from ballbot.ppo import Agent, CheckpointError, PPOConfig, load_agent, load_checkpoint, load_policy
from ballbot.ppo.checkpoint import save_checkpoint
from ballbot.ppo.transfer import read_start, take_over
from ballbot.runs import init_from, load_settings

NETWORKS = PPOConfig(hidden_size=16, num_layers=2, linear_skip=True)


def settings(**world: Any) -> presets.Settings:
    """Of a run whose networks are those of `save_policy`."""
    found = presets.plain(**({"observation": "proprioception", "num_terrains": 1} | world))
    return replace(found, ppo=NETWORKS, symmetry=False)


def _spaces(run: presets.Settings, encoder: Any) -> tuple[Any, Any]:
    envs = run.training_envs(1, num_threads=1, **({} if encoder is None else {"encoder": encoder}))
    envs.close()
    return envs.single_observation_space, envs.single_action_space


def started(path: Path, run: presets.Settings, encoder: Any = None) -> tuple[Agent, str]:
    start = init_from(path, run, encoder)
    agent = Agent(*_spaces(run, encoder), run.ppo, structure=run.structure(encoder))
    take_over(agent, run.ppo, read_start(start))
    return agent, start.told


def test_a_field_more_weighs_nothing_and_one_less_is_dropped(tmp_path: Path) -> None:
    path = save_policy(tmp_path / "p.pt", 18, extra_fields=["yaw_rate"])
    agent, told = started(path, settings(extra_fields=("station",), command="velocity", terrain="stairs:0.3"))
    assert told == (
        "gravity, gyro, velocity, wheel_speeds, last_action taken over\nvelocity_command, station new, start at 0\n"
        "goal, yaw_rate dropped"
    )
    # the same robot as both see it, by the slices of facts: what comes before and after the command
    rng = np.random.default_rng(0)
    old = rng.normal(size=(50, 18)).astype(np.float32)
    old[:, 9:11], old[:, 17] = 0, 0  # what is dropped is as if it were 0
    new = np.concatenate([old[:, :9], rng.normal(size=(50, 3)), old[:, 11:17], rng.normal(size=(50, 2))], axis=1)
    expected = load_policy(path).predict(old)
    np.testing.assert_allclose(agent.act(new.astype(np.float32)).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_eyes_are_new_or_taken_over_or_dropped(tmp_path: Path) -> None:
    encoder = load_encoder()
    seeing = settings(observation="encoded")
    blind = save_policy(tmp_path / "blind.pt")
    agent, told = started(blind, seeing, encoder)
    assert told.endswith("last_action taken over\nimage_0, image_1, image_age new, start at 0")
    obs = np.random.default_rng(0).normal(size=(20, 58)).astype(np.float32)
    expected = load_policy(blind).predict(obs[:, :17])
    np.testing.assert_allclose(agent.act(obs).numpy(), expected, rtol=1e-5, atol=1e-5)
    eyes = save_policy(tmp_path / "eyes.pt", 58, observation="encoded", encoder=encoder.content_hash)
    assert started(eyes, settings())[1].endswith("image_0, image_1, image_age dropped")
    agent, told = started(eyes, seeing, encoder)
    assert told.endswith("image_0, image_1, image_age taken over")
    np.testing.assert_allclose(agent.act(obs).numpy(), load_policy(eyes).predict(obs), rtol=1e-5, atol=1e-5)
    other = load_encoder()
    other.content_hash = "0" * 64
    images = "image_0, image_1, image_age"
    assert started(eyes, seeing, other)[1].endswith(f"\n{images} new, start at 0\n{images} dropped")


def test_what_was_learned_with_the_robots_symmetry_is_taken_over_with_it(tmp_path: Path) -> None:
    blind, encoder = replace(settings(), symmetry=True), load_encoder()
    path = save_policy(tmp_path / "p.pt", structure=blind.structure())
    told = replace(settings(command="point", extra_fields=("yaw_rate",)), symmetry=True)
    for run, eyes in ((replace(settings(observation="encoded"), symmetry=True), encoder), (told, None)):
        agent, _ = started(path, run, eyes)
        layout = run.layout(eyes)
        old = np.random.default_rng(0).normal(size=(20, 17)).astype(np.float32)
        if "goal" not in layout.slices:
            old[:, 9:11] = 0
        new = np.ones((20, layout.size), np.float32)  # whatever is new
        for name, at in blind.layout().slices.items():
            if name in layout.slices:
                new[:, layout[name]] = old[:, at]
        np.testing.assert_allclose(agent.act(new).numpy(), load_policy(path).predict(old), rtol=1e-5, atol=1e-5)
        with pytest.raises(CheckpointError, match=r"symmetry \(then one, now none\)"):
            started(path, replace(run, symmetry=False), eyes)


def test_who_learned_without_the_mirror_image_starts_as_the_mean_over_both(tmp_path: Path) -> None:
    run = replace(settings(), symmetry=True)
    path = save_policy(tmp_path / "p.pt", structure=run.structure())
    both = replace(run, mirror=True)
    agent = Agent(*_spaces(both, None), both.ppo, structure=both.structure())
    lines = take_over(agent, both.ppo, read_start(init_from(path, both, None)))
    assert any("6 sides of the symmetry instead of 3" in line for line in lines) and agent.symmetry is not None
    image, wheels = (x[3].numpy() for x in (agent.symmetry.observations, agent.symmetry.actions))
    old, obs = load_policy(path), np.random.default_rng(0).normal(0, 0.1, (20, 17)).astype(np.float32)
    mean = (old.predict(obs) + old.predict((obs @ image.T).astype(np.float32)) @ wheels) / 2
    np.testing.assert_allclose(agent.act(obs).numpy(), mean, atol=1e-5)
    fewer = save_policy(tmp_path / "q.pt", structure=replace(run, mirror=True).structure())
    with pytest.raises(CheckpointError, match=r"another symmetry .* then \(6, 17, 17\), now \(3, 17, 17\)"):
        started(fewer, run)


def as_seen(run: presets.Settings, facts: dict[str, np.ndarray]) -> np.ndarray:
    """What a value function sees, of facts by the name of their field."""
    layouts = [run.layout(), run.world.privileged_layout()]
    return np.concatenate([facts[name] for layout in layouts if layout for name in layout.slices], axis=1)


def facts_of(*runs: presets.Settings) -> dict[str, np.ndarray]:
    """Random numbers for all fields that these runs observe."""
    rng = np.random.default_rng(0)
    facts: dict[str, np.ndarray] = {}
    for run in runs:
        for layout in (run.layout(), run.world.privileged_layout()):
            for name, field in {} if layout is None else layout.fields.items():
                facts.setdefault(name, rng.normal(size=(30, field.size)).astype(np.float32))
    return facts


def recorded(folder: Path, run: presets.Settings) -> Path:
    """A run folder with random networks for these settings, after a training in which fields had statistics."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"env": plain(run.world)}))
    beside = run.world.privileged_layout()
    sizes = run.layout().size, 0 if beside is None else beside.size
    save_policy(folder / "best.pt", sizes[0], privileged=sizes[1], structure=run.structure(), **run.metadata())
    state = load_checkpoint(folder / "best.pt")
    generator = torch.Generator().manual_seed(3)
    state["policy"]["normalizer.mean"] = torch.randn(sum(sizes), generator=generator, dtype=torch.float64)
    state["policy"]["normalizer.var"] = 1 + torch.rand(sum(sizes), generator=generator, dtype=torch.float64)
    state["policy"]["normalizer.count"] += 100
    save_checkpoint([folder / "best.pt"], state)
    return folder / "best.pt"


def values(agent: Agent, rows: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return agent.get_value(agent.normalize(torch.from_numpy(rows)))


PLAIN, TOLD = settings(), settings(privileged_fields=("slope", "time_left"))
TURNED = replace(settings(), symmetry=True), replace(settings(privileged_fields=("slope", "time_left")), symmetry=True)


@pytest.mark.parametrize(("then", "now"), [(PLAIN, TOLD), (TOLD, PLAIN), (TOLD, TOLD), TURNED, TURNED[::-1]])
def test_what_only_the_value_function_sees_comes_and_goes(
    tmp_path: Path, then: presets.Settings, now: presets.Settings
) -> None:
    path = recorded(tmp_path / "old", then)
    agent, told = started(path, now)
    old, facts = load_agent(path), facts_of(then, now)
    rows = as_seen(now, facts)
    expected = old.act(as_seen(then, facts)[:, : old.obs_size])
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(agent.act(rows[:, : agent.obs_size]), expected, rtol=1e-5, atol=1e-5)
    everything = "gravity, gyro, velocity, goal, wheel_speeds, last_action taken over"
    change = "taken over" if then is now else "new, start at 0" if now.world.privileged_fields else "dropped"
    assert told == f"{everything}\nof the value function alone slope, time_left {change}"
    if not now.world.privileged_fields:  # they are as on average now
        for name, at in then.world.privileged_layout().slices.items():  # type: ignore[union-attr]
            facts[name] = np.broadcast_to(old.normalizer.mean[17:][at].float(), facts[name].shape)  # type: ignore[union-attr]
        if now.symmetry:
            return  # of an average that is seen from three sides there is none
    torch.testing.assert_close(values(agent, rows), values(old, as_seen(then, facts)), rtol=1e-5, atol=1e-5)


def test_a_field_goes_from_one_group_to_the_other(tmp_path: Path) -> None:
    """The policy acts as if it were not there, the value function sees it before and after."""
    inside = settings(extra_fields=("slope",), privileged_fields=("time_left",))
    outside = settings(privileged_fields=("time_left", "slope"))
    facts = facts_of(inside)
    for name, then, now in (("in", inside, outside), ("out", outside, inside)):
        path = recorded(tmp_path / name, then)
        agent, told = started(path, now)
        old = load_agent(path)
        assert old.normalizer is not None and agent.normalizer is not None
        torch.testing.assert_close(values(agent, as_seen(now, facts)), values(old, as_seen(then, facts)))
        average = dict(facts)
        if then is inside:
            average["slope"] = np.broadcast_to(old.normalizer.mean[17:19].float(), (30, 2))
            assert told.endswith(
                "last_action taken over\nslope dropped\nof the value function alone time_left, slope taken over"
            )
        else:
            assert told.endswith("slope new, starts at 0\nof the value function alone time_left taken over")
        expected = old.act(as_seen(then, average)[:, : old.obs_size])
        torch.testing.assert_close(agent.act(as_seen(now, facts)[:, : agent.obs_size]), expected, rtol=1e-5, atol=1e-5)
        assert agent.normalizer.measured and agent.normalizer.count == 100


def test_without_its_run_nobody_knows_what_the_value_function_saw(tmp_path: Path) -> None:
    path = recorded(tmp_path / "old", TOLD).rename(tmp_path / "moved.pt")
    facts = facts_of(TOLD)
    rows = as_seen(TOLD, facts)
    for content in (None, "no JSON", '{"env": {"privileged_fields": ["slope"]}}', '{"env": {"privileged_fields": 1}}'):
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        agent, told = started(path, TOLD)
        assert told.endswith(
            "of the value function alone slope, time_left new, start at 0\n3 numbers of the value function alone "
            "dropped, as no config.json beside it tells them"
        )
        torch.testing.assert_close(agent.act(rows[:, :17]), load_agent(path).act(rows[:, :17]), rtol=1e-5, atol=1e-5)


def test_the_past_is_fields_by_name(tmp_path: Path) -> None:
    now, past = settings(), settings(history=(0, 10))
    more = settings(history=(0, 5, 10), history_fields=("velocity", "gravity"), privileged_fields=("slope",))
    facts = facts_of(past, more)
    for then, after, words in (
        (now, past, "taken over\ngravity@10, gyro@10, velocity@10 new, start at 0"),
        (past, now, "taken over\ngravity@10, gyro@10, velocity@10 dropped"),
        (past, more, "velocity@10, gravity@10 taken over\nvelocity@5, gravity@5 new, start at 0\ngyro@10 dropped\nof "),
    ):
        path = recorded(tmp_path / f"{len(words)}", then)
        agent, told = started(path, after)
        assert words in told
        old, seen = load_agent(path), dict(facts)
        assert old.normalizer is not None
        for name, at in then.layout().slices.items():
            if name not in after.layout().slices:
                seen[name] = np.broadcast_to(old.normalizer.mean[at].float(), facts[name].shape)
        obs = as_seen(after, facts)[:, : agent.obs_size]
        torch.testing.assert_close(agent.act(obs), old.act(as_seen(then, seen)), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_a_start_is_refused(tmp_path: Path) -> None:
    path = save_policy(tmp_path / "w.pt", 15, frame="world")
    with pytest.raises(SettingsError, match="observes in --frame world, this run in --frame body"):
        init_from(path, settings(), None)
    with pytest.raises(SettingsError, match="not trained on Ballbot-v0"):
        init_from(save_policy(tmp_path / "f.pt", observation=None), settings(), None)
    path = save_policy(tmp_path / "p.pt")
    with pytest.raises(CheckpointError, match=r"symmetry \(then none, now one\)"):
        started(path, replace(settings(), symmetry=True))
    with pytest.raises(CheckpointError, match=r"prior \(then none, now one\)"):
        started(path, replace(settings(), prior_speed=0.3))


SMALL = [
    "--preset", "plain", "--no-cameras",
    "--num-envs", 4, "--num-steps", 16, "--minibatch-size", 32, "--hidden-size", 16, "--num-threads", 1,
    "--action-repeat", 2, "--eval-episodes", 2, "--num-terrains", 2, "--max-episode-steps", 60,
    "--eval-interval", 128,
]  # fmt: skip


def test_from_the_command_line(tmp_path: Path) -> None:
    done = call("ppo_ballbot.py", *SMALL, "--total-timesteps", 256, "--run-name", "first", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    more = ["--terrain", "stairs:0.2", "--extra-fields", "yaw_rate", "--num-envs", 8, "--run-name", "second"]
    more += ["--privileged-fields", "slope", "--memory", "gru", "--memory-size", 8]
    start = ["--init-from", "runs/first", "--total-timesteps", 512]
    done = call("ppo_ballbot.py", *SMALL, *start, *more, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    told = (
        "gravity, gyro, velocity, goal, wheel_speeds, last_action taken over",
        "yaw_rate new, starts at 0",
        "of the value function alone slope new, starts at 0",
        "memory new, starts at 0",
    )
    assert "".join(f"init-from: {line}\n" for line in told) in done.stdout
    run = tmp_path / "runs" / "second"
    origin = json.loads((run / "config.json").read_text())["init_from"]
    assert origin["path"] == "runs/first/best.pt"
    assert origin["step"] == load_checkpoint(tmp_path / origin["path"])["global_step"]
    assert load_agent(run).obs_size == 18
    more = ["--num-envs", 4, "--learning-rate", 1e-4, "--total-timesteps", 768]
    done = call("ppo_ballbot.py", "--resume", "runs/second", *more, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note: num_envs is 4, was 8" in done.stdout and "note: learning_rate is 0.0001, was 0.001" in done.stdout
    again = load_settings(run / "config.json").settings
    assert init_from(run, again, None).told.endswith(
        "yaw_rate taken over\nof the value function alone slope taken over"
    )
    assert "init_from" not in vars(again)
    for options, words in (
        (["--resume", "runs/first", "--init-from", "runs/first"], "give one of them"),
        ([*SMALL, "--init-from", "runs/first", "--num-layers", 2], "num_layers (then 3, now 2)"),
        ([*SMALL, "--init-from", "runs/nowhere"], "does not exist"),
        ([*SMALL, "--init-from", "nobody"], "no policy that comes with ballbot"),
        ([*SMALL, "--init-from", ""], '--init-from "" names nobody'),
    ):
        done = call("ppo_ballbot.py", *options, folder=tmp_path)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"first", "second"}


def test_the_policy_that_comes_along_is_a_start() -> None:
    encoder = load_encoder()
    agent, told = started(SHIPPED["default"], presets.distill(terrain="stairs:0.2", num_terrains=1), encoder)
    assert "velocity-30, image_0, image_1, image_age taken over" in told and "start at 0" not in told.splitlines()[0]
    obs = torch.randn(50, agent.obs_size)
    torch.testing.assert_close(agent.act(obs), load_agent(SHIPPED["default"]).act(obs), rtol=1e-5, atol=1e-5)
    _, told = started(SHIPPED["default"], presets.plain(terrain="stairs:0.2", num_terrains=1), encoder)
    assert "image_age taken over" in told and "gravity-10" in told.split("taken over")[1]
