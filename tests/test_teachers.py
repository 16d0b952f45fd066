"""Controllers and policies as teachers of the robot."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from policies import save_policy

from ballbot.controllers import CONTROLLERS, find_controller
from ballbot.envs import BallbotVectorEnv, WorldConfig
from ballbot.errors import SettingsError
from ballbot.ppo import CheckpointError, load_policy
from ballbot.ppo.checkpoint import to_plain
from ballbot.teachers import find_teacher


def world(**options: Any) -> WorldConfig:
    return WorldConfig.of(terrain="flat", **options)


def save(path: Path, config: WorldConfig) -> Path:
    return save_policy(path, config.layout().size, gain=1.0, **config.metadata())


def drive(envs: BallbotVectorEnv, teacher: Any, alone: Any, steps: int = 40) -> None:
    """Compare a teacher with the same actor that sees nothing else, over the ends of episodes."""
    obs, _ = envs.reset(seed=3)
    began = np.ones(envs.num_envs, bool)
    for _ in range(steps):
        both = np.concatenate([obs["policy"], obs["privileged"]], axis=1) if isinstance(obs, dict) else obs
        actions = teacher(obs, began)
        np.testing.assert_array_equal(actions, alone(both, began))
        obs, _, terminated, truncated, _ = envs.step(actions)
        began = terminated | truncated


@pytest.mark.parametrize(
    "options",
    [{}, {"history": (0, 5)}, {"extra_fields": ("yaw_rate",), "privileged_fields": ("slope",)}],
)
def test_a_controller_teaches_whatever_else_is_observed(options: dict[str, Any]) -> None:
    config = world(max_episode_steps=30, **options)
    envs = BallbotVectorEnv(3, config=config)
    alone = find_controller("observer")(0.002)  # type: ignore[misc]
    drive(envs, find_teacher("observer", config, envs.layout, 0.002), lambda rows, began: alone(rows[:, :17], began))


def test_a_policy_teaches_by_what_only_training_observes(tmp_path: Path) -> None:
    """Its student lacks the yaw rate."""
    path = save(tmp_path / "p.pt", world(extra_fields=("yaw_rate",)))
    config = world(privileged_fields=("slope", "yaw_rate"))
    envs = BallbotVectorEnv(3, config=config)
    policy = load_policy(path)
    columns = [*range(17), 19]  # of the slope's two numbers none
    drive(envs, find_teacher(path, config, envs.layout, 0.002), lambda rows, began: policy.predict(rows[:, columns]))


@pytest.mark.parametrize("name", [*sorted(set(CONTROLLERS) - {"pid"}), "remembers.pt"])
def test_what_a_teacher_remembers_can_be_restored(tmp_path: Path, name: str) -> None:
    config = world(privileged_fields=("slope_ahead", "scan", "way"))
    gru = {"memory": "gru", "memory_size": 8}
    save_policy(tmp_path / "remembers.pt", settings=gru, **world().metadata())
    envs = BallbotVectorEnv(3, config=config)
    given: Any = tmp_path / name if name.endswith(".pt") else name
    one, two = (find_teacher(given, config, envs.layout, 0.01) for _ in range(2))
    obs, _ = envs.reset(seed=0)
    for k in range(30):
        obs = envs.step(one(obs, np.full(3, k == 0)))[0]
    two.set_state(copy.deepcopy(one.get_state()))
    to_plain(one.get_state())  # a checkpoint can hold it
    for _ in range(5):
        actions = one(obs, np.zeros(3, bool))
        np.testing.assert_array_equal(actions, two(obs, np.zeros(3, bool)))
        obs = envs.step(actions)[0]


def test_of_the_regulator_time_alone_is_remembered() -> None:
    """Checkpoints hold it by name: one more, and those of before could not be resumed."""
    config = world()
    teacher = find_teacher("lqr", config, config.layout(), 0.01)
    teacher(np.zeros((3, 17), np.float32), np.ones(3, bool))
    assert set(teacher.get_state()) == {"_elapsed"}


def test_what_another_teacher_remembers_is_refused(tmp_path: Path) -> None:
    config, teachers = world(), {}
    for size in (4, 8):
        path = tmp_path / f"{size}.pt"
        save_policy(path, settings={"memory": "gru", "memory_size": size}, **config.metadata())
        teachers[size] = find_teacher(path, config, config.layout(), 0.01)
        teachers[size](np.zeros((3, 17), np.float32), np.ones(3, bool))
    with pytest.raises(ValueError, match=r"remembers .*\(3, 8\).*, not .*\(3, 4\)"):
        teachers[8].set_state(teachers[4].get_state())
    observer = find_teacher("observer", config, config.layout(), 0.01)
    observer(np.zeros((3, 17), np.float32), np.ones(3, bool))
    state = observer.get_state()
    others: list[Any] = [{**state, "_z": np.zeros((1, 3))}, {**state, "_elapsed": np.zeros(4)}, 3]
    for other in (*others, teachers[8].get_state()):
        with pytest.raises(ValueError, match="teacher remembers"):
            find_teacher("observer", config, config.layout(), 0.01).set_state(other)


def test_a_controller_is_asked_as_often_as_it_needs_to_be() -> None:
    config = world(privileged_fields=("slope_ahead",))
    for name in ("observer", "foresight:0.3"):
        find_teacher(name, config, config.layout(), 0.066)
        with pytest.raises(SettingsError, match=r"every 68 ms \(--action-repeat 34\).*use --action-repeat 33 or less"):
            find_teacher(name, config, config.layout(), 0.068)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("observer", {"command": "velocity"}, "does not follow command 'velocity'"),
        ("observer", {"frame": "world"}, "observes gravity, gyro, velocity, goal"),
        ("linear:9", {}, "from 0 to 1 m/s"),
        ("velocity.pt", {}, "both must be told the same"),
        ("yaw.pt", {}, "--privileged-fields yaw_rate"),
        ("default", {}, "observes no images"),
    ],
)
def test_who_cannot_teach_is_refused(tmp_path: Path, name: str, options: dict[str, Any], message: str) -> None:
    save(tmp_path / "velocity.pt", world(command="velocity"))
    save(tmp_path / "yaw.pt", world(extra_fields=("yaw_rate",)))
    config = world(**options)
    given: Any = tmp_path / name if name.endswith(".pt") else name
    with pytest.raises(SettingsError, match=message):
        find_teacher(given, config, config.layout(), 0.002)


def test_a_teacher_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        find_teacher(tmp_path / "nowhere", world(), world().layout(), 0.002)
