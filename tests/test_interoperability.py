# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Other people's programs work with Ballbot-v0 and with what a training leaves."""

import json
import os
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal

import ballbot  # noqa: F401  # registers Ballbot-v0

SCRIPT = Path(__file__).parents[1] / "experiments" / "ppo_ballbot.py"
OPTIONS: dict[str, Any] = {"num_terrains": 2, "num_threads": 1, "max_episode_steps": 100}


@pytest.mark.parametrize("observation", ["proprioception", "encoded"])
def test_stable_baselines3_trains_on_it(observation, tmp_path):
    sb3 = pytest.importorskip("stable_baselines3")
    env_util = pytest.importorskip("stable_baselines3.common.env_util")
    envs = env_util.make_vec_env("Ballbot-v0", n_envs=2, seed=0, env_kwargs=OPTIONS | {"observation": observation})
    model = sb3.PPO("MlpPolicy", envs, n_steps=64, batch_size=32, n_epochs=1, seed=0, device="cpu")
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(192)
    assert model.num_timesteps == 256 and len(model.ep_info_buffer) >= 2  # episodes of at most 100 steps have ended
    assert any(not torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
    assert all(p.isfinite().all() for p in model.policy.parameters())
    model.save(tmp_path / "model.zip")
    action, _ = sb3.PPO.load(tmp_path / "model.zip").predict(envs.reset(), deterministic=True)
    assert action.shape == (2, 3) and np.abs(action).max() <= 1


def test_stable_baselines3_takes_images():
    sb3 = pytest.importorskip("stable_baselines3")
    env = gym.make("Ballbot-v0", observation="depth", camera_resolution=(36, 36), **OPTIONS)
    model = sb3.PPO("MultiInputPolicy", env, n_steps=16, batch_size=16, n_epochs=1, device="cpu")
    model.learn(16)
    assert model.num_timesteps == 16


def test_torchrl_collects_from_it():
    torchrl = pytest.importorskip("torchrl.envs")
    envs = torchrl.GymWrapper(gym.make_vec("Ballbot-v0", 3, **OPTIONS, autoreset_mode="disabled"))
    found = envs.rollout(250, break_when_any_done=False)  # of 100 steps an episode
    assert found["observation"].shape == (3, 250, 17) and found["next", "done"].sum() == 6
    assert (found["next", "reward"] > 0).all()
    torchrl.check_env_specs(envs)


def test_a_script_of_cleanrls_shape_trains_on_it():
    """Wrappers of Gymnasium around single environments in a SyncVectorEnv, and rollouts over its five outputs."""

    def make_env():
        env = gym.make("Ballbot-v0", **OPTIONS)
        env = gym.wrappers.FlattenObservation(env)
        env = gym.wrappers.RecordEpisodeStatistics(env)
        env = gym.wrappers.ClipAction(env)
        env = gym.wrappers.NormalizeObservation(env)
        env = gym.wrappers.TransformObservation(env, lambda obs: np.clip(obs, -10, 10), env.observation_space)
        return gym.wrappers.NormalizeReward(env, gamma=0.99)

    torch.manual_seed(0)
    envs = gym.vector.SyncVectorEnv([make_env] * 2)
    size, actions = gym.spaces.flatdim(envs.single_observation_space), gym.spaces.flatdim(envs.single_action_space)
    actor, critic = nn.Linear(size, actions), nn.Linear(size, 1)
    log_std = nn.Parameter(torch.zeros(actions))
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters(), log_std], 1e-3)
    obs, _ = envs.reset(seed=1)
    returns, losses = [], []
    for _ in range(5):
        log_probs, values, rewards, masks = [], [], [], []
        for _ in range(64):
            x = torch.as_tensor(obs, dtype=torch.float32)
            policy = Normal(actor(x), log_std.exp())
            action = policy.sample()
            obs, reward, terminated, truncated, infos = envs.step(action.numpy())
            log_probs.append(policy.log_prob(action).sum(1))
            values.append(critic(x).squeeze(1))
            rewards.append(torch.as_tensor(reward, dtype=torch.float32))
            masks.append(1 - torch.as_tensor(terminated | truncated, dtype=torch.float32))
            if "episode" in infos:
                returns += list(infos["episode"]["r"][infos["_episode"]])
        target, total = torch.zeros(2), torch.zeros(())
        for log_prob, value, reward, mask in reversed(list(zip(log_probs, values, rewards, masks, strict=True))):
            target = reward + 0.99 * mask * target
            advantage = target - value
            total = total + (advantage.square() - log_prob * advantage.detach()).mean()
        optimizer.zero_grad()
        torch.autograd.backward(total)
        optimizer.step()
        losses.append(float(total.detach()))
    assert len(returns) >= 4 and np.isfinite(returns).all() and np.isfinite(losses).all()
    envs.close()


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """A short training with films, and the same without, where there is OpenGL."""
    folder = tmp_path_factory.mktemp("filmed")
    small = shlex.split(
        "--no-cameras --num-terrains 2 --num-envs 4 --num-steps 32 --minibatch-size 64 --hidden-size 16 "
        "--num-threads 1 --action-repeat 1 --max-episode-steps 60 --eval-episodes 2 --eval-interval 256 "
        "--total-timesteps 512"
    )
    for kind in dict.fromkeys((os.environ.get("MUJOCO_GL") or "egl", "egl", "osmesa")):
        command = [sys.executable, str(SCRIPT), *small, "--capture-video", "--run-name", "filmed"]
        done = subprocess.run(
            command, cwd=folder, env=os.environ | {"MUJOCO_GL": kind}, capture_output=True, text=True, timeout=200
        )
        if done.returncode == 0:
            break
        assert "--capture-video: " in done.stderr and "Traceback" not in done.stderr, done.stderr
    else:
        pytest.skip("no OpenGL on this machine")
    command = [sys.executable, str(SCRIPT), *small, "--run-name", "plain"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=200)
    return folder / "runs"


def test_filming_changes_nothing_that_is_learned(filmed):
    weights = [torch.load(filmed / name / "last.pt", weights_only=True)["policy"] for name in ("filmed", "plain")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert sorted(p.name for p in (filmed / "filmed" / "videos").iterdir()) == ["step_256.gif", "step_512.gif"]
    assert not (filmed / "plain" / "videos").exists()


def test_tensorboard_serves_the_scalars_and_the_film(filmed):
    program = pytest.importorskip("tensorboard.program")
    board = program.TensorBoard()
    board.configure(argv=[None, "--logdir", str(filmed), "--port", "0", "--load_fast", "false"])
    url = board.launch()

    def get(path):
        with urllib.request.urlopen(f"{url}data/plugin/{path}", timeout=60) as answer:
            return answer.read()

    for _ in range(60):  # it reads in the background
        tags = json.loads(get("scalars/tags"))
        if {"filmed", "plain"} <= tags.keys():
            break
        subprocess.run(["sleep", "0.5"], check=True)
    assert {"eval/return_mean", "charts/episodic_return", "losses/approx_kl"} <= tags["filmed"].keys()
    points = json.loads(get(f"scalars/scalars?run=filmed&tag={quote('eval/return_mean', safe='')}"))
    assert [point[1] for point in points] == [256, 512] and np.isfinite([point[2] for point in points]).all()
    images = json.loads(get(f"images/images?run=filmed&tag={quote('eval/film', safe='')}&sample=0"))
    assert [image["step"] for image in images] == [256, 512]
    film = get(f"images/individualImage?{images[-1]['query']}")
    assert film == (filmed / "filmed" / "videos" / "step_512.gif").read_bytes() and film.startswith(b"GIF89a")


def test_a_film_shows_the_policy(filmed):
    image = pytest.importorskip("PIL.Image")
    film = image.open(filmed / "filmed" / "videos" / "step_512.gif")
    frames = []
    for k in range(film.n_frames):
        film.seek(k)
        frames.append(np.asarray(film.convert("RGB"), np.float64))
    assert film.n_frames >= 2 and film.size == (320, 240)
    assert np.std(frames[0]) > 20 and np.abs(frames[-1] - frames[0]).max() > 20  # not black, and it moves


def test_weights_and_biases_is_named_where_it_is_missing(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nf = u.find_spec\nu.find_spec = lambda n, *a: None if n == 'wandb' else f(n, *a)\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--track"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200
    )
    assert (
        done.returncode == 2
        and "pip install wandb" in done.stderr
        and "setting up" not in done.stdout
        and "Traceback" not in done.stderr
    )
    assert not (tmp_path / "runs").exists()


def test_weights_and_biases_gets_every_row(tmp_path, monkeypatch):
    """A stand-in for the service: what it is told, and that a resumed training goes on in the same run."""
    from ballbot.ppo import tracking

    class Run:
        def __init__(self, **options):
            self.options, self.rows, self.finished = options, [], False

        def log(self, row, step):
            self.rows.append((step, row))

        def finish(self):
            self.finished = True

    class Wandb:
        runs: list[Run] = []  # noqa: RUF012

        @classmethod
        def init(cls, **options):
            cls.runs.append(Run(**options))
            return cls.runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    for step in (1, 2):
        tracker = tracking.Tracker(tmp_path, {"ppo": {"seed": 3}})
        tracker.start()
        tracker({"global_step": step, "eval/return_mean": 2.0})
        tracker.close()
    first, second = Wandb.runs
    assert first.rows == [(1, {"eval/return_mean": 2.0})] and first.finished
    assert first.options["id"] == second.options["id"] and first.options["project"] == "ballbot"
    assert first.options["name"] == tmp_path.name and first.options["config"] == {"ppo": {"seed": 3}}

    def fail(**options):
        raise ValueError("no login")

    monkeypatch.setattr(Wandb, "init", fail)
    with pytest.raises(tracking.TrackingError, match=r"no login.*WANDB_MODE=offline"):
        tracking.Tracker(tmp_path, {}).start()


STAND_IN = """
import os
def init(**options):
    if "login" in os.environ["FAILS"]:
        raise ValueError("no login")
    return Run()
class Run:
    def log(self, row, step):
        if "log" in os.environ["FAILS"] and step > 256:
            raise OSError("connection lost")
    def finish(self):
        raise OSError("not uploaded")
"""


def tracked(folder, fails, *options):
    """A short training whose wandb is a stand-in that fails."""
    (folder / "lib").mkdir(exist_ok=True)
    (folder / "lib" / "wandb.py").write_text(STAND_IN)
    path = os.pathsep.join([str(folder / "lib"), os.environ.get("PYTHONPATH", "")])
    small = "--no-cameras --num-terrains 2 --num-envs 4 --num-steps 32 --minibatch-size 64 --action-repeat 1"
    small += " --total-timesteps 512"
    return subprocess.run(
        [sys.executable, str(SCRIPT), *small.split(), "--eval-interval", "100000000", "--run-name", "a", *options],
        cwd=folder, env=os.environ | {"PYTHONPATH": path, "FAILS": fails}, capture_output=True, text=True, timeout=250,
    )  # fmt: skip


def test_a_login_that_is_missing_is_told_before_the_run_begins(tmp_path):
    done = tracked(tmp_path, "login", "--track")
    assert done.returncode == 2 and "error: wandb does not start (no login)" in done.stderr
    assert "Traceback" not in done.stderr and "return" not in done.stdout
    done = tracked(tmp_path, "login")  # under the same name
    assert done.returncode == 0, done.stderr


def test_a_taken_name_is_told_before_tracking_starts(tmp_path):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "progress.csv").touch()
    done = tracked(tmp_path, "login", "--track")
    assert done.returncode == 2 and "already holds a run" in done.stderr and "wandb" not in done.stderr


@pytest.mark.parametrize(("fails", "error"), [("log", "connection lost"), ("finish", "not uploaded")])
def test_a_training_outlives_its_tracking(tmp_path, fails, error):
    done = tracked(tmp_path, fails, "--track")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("error: ") == 1 and f"wandb failed ({error})" in done.stdout
    assert (tmp_path / "runs" / "a" / "last.pt").exists()
    assert len((tmp_path / "runs" / "a" / "progress.csv").read_text().splitlines()) == 5


def test_the_real_weights_and_biases_runs_offline(tmp_path):
    pytest.importorskip("wandb")
    small = "--no-cameras --num-terrains 2 --num-envs 4 --num-steps 32 --minibatch-size 64 --total-timesteps 256"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *small.split(), "--eval-interval", "100000000", "--track", "--run-name", "a"],
        cwd=tmp_path, env=os.environ | {"WANDB_MODE": "offline"}, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "runs" / "a" / "wandb").glob("offline-run-*/run-*.wandb"))
