# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Weights that change while training lasts: what is paid follows how far it is."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv, VectorWrapper
from gymnasium.wrappers.vector import ClipAction

from ballbot import presets
from ballbot.envs import BallbotVectorEnv, WorldConfig
from ballbot.errors import SettingsError
from ballbot.options import from_plain, plain
from ballbot.ppo import PPOConfig, train
from ballbot.ppo.wrapped import progress_listener

WORLD: dict[str, Any] = {"terrain": "flat", "num_threads": 1, "max_episode_steps": 90}
FINAL: dict[str, Any] = {
    "training_rewards": {"progress": 0.0, "tracking": 6.0},
    "final_rewards": {"survival": 3.0, "upright": 0.5, "tracking": 0.0},
    "final_rewards_between": (0.5, 0.75),
}
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (60, 3, 3)).astype(np.float32)


def paid(envs, share=None):
    envs.reset(seed=4)
    if share is not None:
        envs.set_progress(share)
    return np.array([envs.step(actions)[1] for actions in ACTIONS])


def test_they_move_in_a_straight_line_between_two_shares_of_the_training():
    first = paid(BallbotVectorEnv(3, **WORLD, training_rewards=FINAL["training_rewards"]))
    last = {"progress": 0.0, "survival": 3.0, "upright": 0.5}
    last = paid(BallbotVectorEnv(3, **WORLD, training_rewards=last))
    assert np.abs(last - first).min() > 0.01
    envs = BallbotVectorEnv(3, **WORLD, **FINAL)
    for share, done in ((None, 0), (0, 0), (0.5, 0), (0.55, 0.2), (0.7, 0.8), (0.75, 1), (1, 1), (0.6, 0.4)):
        np.testing.assert_allclose(paid(envs, share), (1 - done) * first + done * last, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(paid(envs, 0.2), first)  # bit for bit
    jump = BallbotVectorEnv(3, **WORLD, **(FINAL | {"final_rewards_between": (0.6, 0.6)}))
    np.testing.assert_array_equal(paid(jump, 0.59), first)
    np.testing.assert_allclose(paid(jump, 0.6), last, rtol=0, atol=1e-12)


def test_the_task_pays_what_it_paid_and_says_so():
    config = WorldConfig.of(**{k: v for k, v in WORLD.items() if k != "num_threads"}, **FINAL)
    assert config.task().final_rewards == {} and from_plain(plain(config)) == config
    envs, task = BallbotVectorEnv(3, **WORLD, **FINAL), BallbotVectorEnv(3, **WORLD)
    assert envs.config.metadata() == task.config.metadata()
    paid(envs, 1.0), paid(task)
    for _ in range(40):
        theirs, ours = (each.step(ACTIONS[0])[-1] for each in (task, envs))
        if "final_info" in theirs:
            assert theirs["final_info"]["reward_terms"].keys() == ours["final_info"]["reward_terms"].keys()
            for name, value in theirs["final_info"]["reward_terms"].items():
                np.testing.assert_array_equal(value, ours["final_info"]["reward_terms"][name])


def test_how_far_it_is_belongs_to_the_state():
    envs, other = BallbotVectorEnv(3, **WORLD, **FINAL), BallbotVectorEnv(3, **WORLD, **FINAL)
    envs.reset(seed=1)
    envs.set_progress(0.7)
    other.set_state(copy.deepcopy(envs.get_state()))
    for actions in ACTIONS[:20]:
        np.testing.assert_array_equal(envs.step(actions)[1], other.step(actions)[1])
    for damaged in (None, 2.0, np.nan, "0.5"):
        with pytest.raises(ValueError, match=r"state 'progress' is .* it is damaged"):
            other.set_state(envs.get_state() | {"progress": damaged})
    assert "progress" not in BallbotVectorEnv(1, **WORLD).get_state()


class Follower(BallbotVectorEnv):
    """Writes down what it is told."""

    def __init__(self, num_envs, **options):
        self.told: list[float] = []
        super().__init__(num_envs, **options)

    def set_progress(self, share):
        self.told.append(share)
        super().set_progress(share)


def test_the_learner_says_how_far_it_is(tmp_path):
    made: list[Follower] = []

    def make(num_envs):
        made.append(Follower(num_envs, **WORLD, **FINAL))
        return ClipAction(made[-1])

    sizes: dict[str, Any] = {"num_envs": 2, "num_steps": 8, "minibatch_size": 16, "hidden_size": 8}
    config = PPOConfig(total_timesteps=128, schedule_timesteps=96, eval_episodes=1, **sizes)
    train(config, make, lambda n: BallbotVectorEnv(n, **WORLD), run_dir=tmp_path / "r")
    assert made[0].told == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1])


class Curriculum(gym.Wrapper[Any, Any, Any, Any]):
    """A single environment that follows."""

    share = 0.0

    def set_progress(self, share):
        self.share = share


def test_single_environments_are_told_too():
    def make():
        return Curriculum(gym.make("CartPole-v1"))

    pair = SyncVectorEnv([make, make])
    envs = VectorWrapper(pair)
    follow = progress_listener(envs)
    assert follow is not None
    follow(0.25)
    assert pair.get_attr("share") == (0.25, 0.25)
    assert progress_listener(SyncVectorEnv([lambda: gym.make("CartPole-v1"), make])) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"final_rewards": {"speed": 1.0}}, "final_rewards has the unknown term 'speed'"),
        ({"final_rewards": {"survival": np.nan}}, "final_rewards.survival must be a finite number, got nan"),
        ({"final_rewards": {"tracking_speed": 0.4}}, "final_rewards.tracking_speed is a parameter, and only weights"),
        ({"final_rewards": {"velocity": 1.0}}, "the reward 'velocity' is for command 'velocity'"),
        ({"final_rewards_between": (0.5, 1.5)}, r"final_rewards_between must be a number from 0 to 1, got 1.5"),
        ({"final_rewards_between": (0.9, 0.5)}, r"final_rewards_between=\(0.9, 0.5\) must rise: write \(0.5, 0.9\)"),
        ({"final_rewards_between": (0.9,)}, "must be two shares of the training"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        WorldConfig.of(**options)


@pytest.mark.parametrize("share", [-0.1, 1.1, np.nan, "half", None])
def test_a_share_is_from_0_to_1(share):
    with pytest.raises(SettingsError, match="share must be"):
        BallbotVectorEnv(1, **WORLD).set_progress(share)


def test_another_command_has_none_of_the_goals():
    assert presets.default(command="velocity", observation="proprioception").world.final_rewards == {}
