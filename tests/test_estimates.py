# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""A policy that was told the ground around goes on with what its cameras let it estimate: commands, files, errors."""

import shlex
import shutil
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from inprocess import call

from ballbot import presets
from ballbot.controllers import GuidedController
from ballbot.deployment import runtime
from ballbot.deployment.export import export_policy
from ballbot.envs import BallbotVectorEnv
from ballbot.errors import SettingsError
from ballbot.evaluation import env_options
from ballbot.ppo import Agent, load_agent, load_checkpoint, load_policy
from ballbot.ppo.estimator import UNSURE, Estimate, Estimator
from ballbot.ppo.imitation import Lessons, estimation_loss, imitation_loss
from ballbot.ppo.storage import Rollout

SMALL = shlex.split(
    "--terrain road --num-terrains 4 --num-envs 4 --num-steps 16 --minibatch-size 32 --hidden-size 16 --num-threads 1 "
    "--max-episode-steps 60 --eval-episodes 2 --eval-interval 512 --checkpoint-interval 64 --keep-checkpoints 30 "
    "--action-repeat 1"
)
STUDENT = shlex.split("--privileged-fields slope scan --estimates scan --imitation-timesteps 384 --total-timesteps 640")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A policy that is told the scan, and a student that estimates it."""
    folder = tmp_path_factory.mktemp("runs")
    teacher = ["--no-cameras", "--extra-fields", "scan", "--total-timesteps", 256, "--run-name", "teacher"]
    done = call("ppo_ballbot.py", *SMALL, *teacher, folder=folder)
    assert done.returncode == 0, done.stderr
    student = [*STUDENT, "--init-from", "runs/teacher", "--run-name", "student"]
    done = call("ppo_ballbot.py", *SMALL, *student, folder=folder)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("init-from")]
    assert any("last_action" in line and "estimated scan taken over" in line for line in lines), lines
    assert "init-from: image_0, image_1, image_age new, start at 0" in lines
    assert "init-from: of the value function alone scan new, starts at 0" in lines
    return folder / "runs"


def test_the_student_has_its_teachers_networks_and_learns_to_estimate(runs):
    student, teacher = (load_checkpoint(runs / name / "last.pt")["agent"] for name in ("student", "teacher"))
    assert not any(name.startswith("estimat") for name in teacher)
    assert student["policy_head.weight"].shape == teacher["policy_head.weight"].shape
    first = load_checkpoint(runs / "student" / "checkpoints" / "step_64.pt")["agent"]
    taught, ended = (load_checkpoint(runs / "student" / "checkpoints" / f"step_{n}.pt")["agent"] for n in (384, 640))
    name = "estimator.head.weight"
    assert not torch.equal(first[name], taught[name]) and torch.equal(taught[name], ended[name])
    assert torch.equal(first["policy_head.weight"], taught["policy_head.weight"])
    assert not torch.equal(taught["policy_head.weight"], ended["policy_head.weight"])


@pytest.mark.parametrize("step", [256, 512])
def test_a_student_goes_on_bit_for_bit(runs, tmp_path, step):
    wanted = load_checkpoint(runs / "student" / "last.pt")["agent"]
    shutil.copytree(runs / "student", tmp_path / "runs" / "again")
    again = tmp_path / "runs" / "again"
    done = call("ppo_ballbot.py", "--resume", again / "checkpoints" / f"step_{step}.pt", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = load_checkpoint(again / "last.pt")["agent"]
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)


def check_export(policy, path, num_steps):
    """Its graph acts as the policy does, step by step."""
    options = env_options(policy)
    export_policy(policy, path, options.get("encoder"))
    graph = runtime.Controller(path).control
    envs = BallbotVectorEnv(4, **options, num_terrains=4, num_threads=1)
    obs, _ = envs.reset(seed=0)
    for _ in range(num_steps):
        actions = policy.predict(obs)
        np.testing.assert_allclose(graph.run(None, {"observation": obs})[0], actions, atol=1e-5)
        obs, *_ = envs.step(actions)
    envs.close()


def test_it_is_judged_exported_and_started_from_as_any_other(runs, tmp_path):
    done = call("evaluate.py", runs / "student", "--episodes", 2, "--horizon", 60, folder=tmp_path)
    assert done.returncode in (0, 1) and "off_road" not in done.stderr, done.stderr
    policy = load_policy(runs / "student" / "last.pt")
    check_export(policy, tmp_path / "student.onnx", num_steps=40)
    more = ["--privileged-fields", "scan", "--estimates", "scan", "--init-from", runs / "student"]
    done = call("ppo_ballbot.py", *SMALL, *more, "--total-timesteps", 128, "--run-name", "more", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "image_0, image_1, image_age, estimated scan taken over" in done.stdout
    then, now = (load_agent(path) for path in (runs / "student", tmp_path / "runs" / "more"))
    assert then.estimator is not None and now.estimator is not None
    torch.testing.assert_close(then.estimator.head.weight, now.estimator.head.weight)


def test_without_cameras_what_is_estimated_is_made_of_how_the_robot_moves():
    world = {"observation": "proprioception", "privileged_fields": ("slope",), "history": (0, 10), "command": "goal"}
    settings = replace(presets.plain(**world), estimates=("slope",))
    layout, estimate = settings.layout(), settings.structure().estimate
    assert estimate is not None
    used = {name for name, at in layout.slices.items() if set(range(layout.size)[at]) <= set(estimate.inputs.tolist())}
    assert used == {"gravity", "gyro", "velocity", "gravity@10", "gyro@10", "velocity@10"}


def test_presets_of_who_is_told_and_who_sees_have_the_same_networks():
    told, sees = presets.told(terrain="road"), presets.sees(terrain="road")
    assert told.world.observation == "proprioception" and "scan" in told.layout().names
    assert sees.world.observation == "encoded" and sees.estimates == ("scan",)
    for name in ("hidden_size", "num_layers", "activation", "linear_skip", "normalize_observations", "action_repeat"):
        assert getattr(told.ppo, name) == getattr(sees.ppo, name)
    for name in ("goal_scale", "velocity_scale", "camera_scale", "symmetry", "mirror", "value_sees_action"):
        assert getattr(told, name) == getattr(sees, name)
    assert told.world.training_rewards == sees.world.training_rewards


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--estimates scan", "--estimates scan is not among the --privileged-fields"),
        (
            "--estimates scan --privileged-fields scan --no-cameras --frame world --no-symmetry",
            "are made of images, or with --frame body of how the robot moves",
        ),
        (
            "--estimates scan --privileged-fields scan --imitation-timesteps 384 --total-timesteps 384",
            "would learn nothing but estimates: add --init-from RUN",
        ),
        ("--estimates scan scan --privileged-fields scan", "must be a tuple of names, each once"),
        ("--estimates scan --privileged-fields scan --teacher observer", "belong together"),
        ("--imitation-timesteps 384", "belong together"),
    ],
)
def test_what_cannot_be_estimated_is_refused(tmp_path, options, message):
    done = call("ppo_ballbot.py", *SMALL, *options.split(), folder=tmp_path)
    assert done.returncode == 2 and message in done.stderr and not (tmp_path / "runs").exists(), done.stderr


def test_python_says_the_same():
    settings = presets.default(terrain="road", privileged_fields=("scan",))
    wrong: Any = "scan"
    with pytest.raises(SettingsError, match="must be a tuple"):
        replace(settings, estimates=wrong)


def test_who_finds_its_way_follows_what_it_estimates_and_knows_where_to_go():
    settings = presets.finds(terrain="stagger")
    layout, structure = settings.layout(), settings.structure()
    prior, estimate = structure.prior, structure.estimate
    assert prior is not None and estimate is not None
    goal, way = layout["goal"], slice(layout.size, layout.size + 2)
    assert prior.direct.shape[1] == way.stop and (prior.inner[:, way] != 0).any() and (prior.direct[:, way] != 0).any()
    assert not prior.inner[:, goal].any() and not prior.direct[:, goal].any()
    assert set(range(layout.size)[goal]) <= set(estimate.inputs.tolist())
    seen = presets.sees(terrain="stagger").structure().estimate
    assert seen is not None and not set(range(layout.size)[goal]) & set(seen.inputs.tolist())


def test_who_finds_its_way_drives_as_who_is_led():
    """With the truth in the place of the estimate, its actions are those of the controller that is told it."""
    settings = presets.finds(terrain="stagger")
    layout, prior = settings.layout(), settings.structure().prior
    assert prior is not None
    rng, began = np.random.default_rng(0), np.zeros(8, bool)
    rows = rng.normal(0, 0.02, (8, layout.size + 2)).astype(np.float32)
    rows[:, -2:] = 0.1
    led = GuidedController(0.01, settings.prior_speed or 0.0)
    for _ in range(150):  # past its slow start
        wanted = led(np.hstack([rows[:, :17], rows[:, -2:]]), began)
    actions = prior(torch.from_numpy(rows)).clamp(-1, 1).numpy()
    assert np.abs(wanted).max() > 0.2
    np.testing.assert_allclose(actions, wanted, atol=1e-4)


def test_an_estimated_way_has_length_1_unless_it_is_unsure():
    settings = presets.finds(terrain="stagger")
    estimate = settings.structure().estimate
    assert estimate is not None and estimate.directions is not None and estimate.directions.tolist() == [[0, 1]]
    estimator = Estimator(estimate, 8, torch.Generator().manual_seed(0))
    rows = torch.randn(6, settings.layout().size + 2)
    with torch.no_grad():
        estimator.head.weight.mul_(1000)
        found, raw = estimator(estimate, rows), estimator.raw(estimate, rows)
        assert (raw.norm(dim=1) > UNSURE).all()
        torch.testing.assert_close(found, raw / raw.norm(dim=1, keepdim=True))
        estimator.head.weight.mul_(1e-6)
        found, raw = estimator(estimate, rows), estimator.raw(estimate, rows)
        torch.testing.assert_close(found, raw / UNSURE)
    scan = presets.sees(terrain="road").structure().estimate
    assert scan is not None and scan.directions is None
    with pytest.raises(ValueError, match="directions must be pairs of the 2 estimates"):
        Estimate(estimate.inputs, estimate.scale, estimate.truth, estimate.unit, torch.tensor([[0, 2]]))


def test_a_policy_that_finds_its_way_needs_no_teacher_and_is_exported(tmp_path):
    options = ["--preset", "finds", "--terrain", "stagger", *SMALL[2:], "--total-timesteps", 256]
    done = call("ppo_ballbot.py", *options, "--imitation-timesteps", 256, "--run-name", "finds", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    policy = load_policy(tmp_path / "runs" / "finds" / "last.pt")
    check_export(policy, tmp_path / "finds.onnx", num_steps=20)


def test_a_policy_learns_at_once_to_see_its_way_and_to_drive_along_it(tmp_path):
    options = ["--preset", "crosses", "--terrain", "stagger", *SMALL[2:], "--total-timesteps", 512]
    done = call("ppo_ballbot.py", *options, "--imitation-timesteps", 384, "--run-name", "both", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "both"
    first, taught, last = (load_checkpoint(run / "checkpoints" / f"step_{n}.pt")["agent"] for n in (64, 384, 512))
    for name in ("estimator.head.weight", "policy_head.weight"):
        assert not torch.equal(first[name], taught[name])
    assert torch.equal(taught["estimator.head.weight"], last["estimator.head.weight"])
    assert not torch.equal(taught["policy_head.weight"], last["policy_head.weight"])
    shutil.copytree(run, tmp_path / "again" / "runs" / "both")
    again = tmp_path / "again" / "runs" / "both"
    done = call("ppo_ballbot.py", "--resume", again / "checkpoints" / "step_256.pt", folder=tmp_path / "again")
    assert done.returncode == 0, done.stderr
    found = load_checkpoint(again / "last.pt")["agent"]
    assert all(torch.equal(last[key], found[key]) for key in last)
    check_export(load_policy(run / "last.pt"), tmp_path / "both.onnx", num_steps=20)


def agent_that_crosses():
    settings = presets.crosses(terrain="road")
    layout, privileged = settings.layout(), settings.world.privileged_layout()
    assert privileged is not None
    spaces = {"policy": (layout.size,), "privileged": (privileged.size,)}
    space = gym.spaces.Dict({key: gym.spaces.Box(-9, 9, shape) for key, shape in spaces.items()})
    config = replace(settings.ppo, hidden_size=8, normalize_observations=False)
    agent = Agent(space, gym.spaces.Box(-1, 1, (3,)), config, torch.Generator().manual_seed(0), settings.structure())
    return agent, torch.randn(16, agent.value_size, generator=torch.Generator().manual_seed(1)), config


def test_gradients_of_what_is_learned_at_once_are_those_of_what_is_learned_apart():
    agent, rows, config = agent_that_crosses()
    answers, numbers = torch.randn(16, 3, generator=torch.Generator().manual_seed(2)), rows[:, 0]
    rest = answers, numbers, numbers, numbers, numbers, None, config

    def gradients(loss):
        agent.zero_grad()
        torch.autograd.backward(loss)
        return {name: p.grad.clone() for name, p in agent.named_parameters() if p.grad is not None and p.grad.any()}

    both = gradients(estimation_loss(agent, rows, *rest, imitates=True)[0])
    true = rows.clone()
    at = agent.told_size
    true[:, at : at + 2] = rows[:, agent.obs_size : agent.obs_size + 2]
    acting = gradients(imitation_loss(agent, agent.normalize(true), *rest)[0])
    seeing = gradients(estimation_loss(agent, rows, *rest)[0])  # and what the value function learns meanwhile
    acting = {name: gradient for name, gradient in acting.items() if not name.startswith("value_")}
    assert not acting.keys() & seeing.keys() and any(name.startswith("estimator.") for name in seeing)
    assert both.keys() == acting.keys() | seeing.keys()
    for name, gradient in (acting | seeing).items():
        torch.testing.assert_close(both[name], gradient)


def test_a_teacher_drives_where_it_drives_and_is_imitated_where_what_is_estimated_is_true():
    agent, rows, _ = agent_that_crosses()
    wanted = torch.linspace(-0.9, 0.9, 48).view(16, 3)
    lessons = Lessons(lambda obs, began: wanted.numpy(), agent, 16)
    storage = Rollout.allocate(agent, 1, 16, False, torch.device("cpu"))
    lessons.begin(storage, 0.0)
    driven = lessons.ask(0, None, rows, torch.zeros(16, 3), torch.zeros(16, 3))
    assert agent.prior is not None
    torch.testing.assert_close(driven + agent.prior(rows[:, : agent.obs_size]), wanted)
    true = rows.clone()
    true[:, agent.told_size : agent.told_size + 2] = rows[:, agent.obs_size : agent.obs_size + 2]
    torch.testing.assert_close(lessons.answers[0] + agent.prior(true[:, : agent.obs_size]), wanted)
    assert (lessons.answers[0] - driven).abs().max() > 0.1
