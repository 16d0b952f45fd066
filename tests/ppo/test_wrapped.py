"""Wrapped environments are counted, saved and restored as what lies beneath them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorWrapper
from gymnasium.wrappers import vector
from toy import PointEnv, assert_resumes_exactly, run

from ballbot.ppo import SettingsError
from ballbot.ppo.wrapped import STATELESS, action_repeat, state_holder, why_not_exact


class Holds(PointEnv):
    action_repeat = 3


class HoldsItself(VectorWrapper):
    action_repeat = 2


class Forgets(VectorWrapper):
    """Could remember anything."""


class Single(gym.Wrapper[Any, Any, Any, Any]):
    """Says that it holds actions."""

    def __init__(self, env: gym.Env[Any, Any], action_repeat: int) -> None:
        super().__init__(env)
        self.action_repeat = action_repeat


def pendulum(*repeats: int | None) -> list[Any]:
    def make(repeat: int | None) -> Any:
        env = gym.make("Pendulum-v1")
        return gym.wrappers.ClipAction(env if repeat is None else Single(env, repeat))

    return [lambda repeat=repeat: make(repeat) for repeat in repeats]


class TestActionRepeat:
    def test_is_found_beneath_wrappers(self) -> None:
        assert action_repeat(PointEnv(2)) == action_repeat(vector.ClipReward(PointEnv(2), 0, 1)) == 1
        assert action_repeat(vector.ClipAction(Forgets(Holds(2)))) == 3
        assert action_repeat(HoldsItself(PointEnv(2))) == action_repeat(Forgets(HoldsItself(PointEnv(2)))) == 2

    def test_several_that_hold_actions_are_refused_as_nobody_can_count_steps(self) -> None:
        with pytest.raises(SettingsError, match="HoldsItself for 2 steps and Holds for 3 steps hold actions"):
            action_repeat(Forgets(HoldsItself(Holds(2))))

    def test_so_are_several_of_single_environments(self) -> None:
        def make(outer: int) -> Any:
            return Single(gym.wrappers.ClipAction(Single(gym.make("Pendulum-v1"), 5)), outer)

        with pytest.raises(SettingsError, match="Single for 4 steps and Single for 5 steps hold actions"):
            action_repeat(SyncVectorEnv([lambda: make(4)]))
        assert action_repeat(SyncVectorEnv([lambda: make(1)])) == 5

    @pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
    def test_is_found_in_single_environments(self, kind: Any) -> None:
        for repeats, expected in (((None, None), 1), ((4, 4), 4)):
            envs = vector.RecordEpisodeStatistics(kind(pendulum(*repeats)))
            assert action_repeat(envs) == expected
            envs.close()

    @pytest.mark.parametrize("repeats", [(4, 3), (4, None)])
    def test_that_differs_among_them_is_refused(self, repeats: tuple[int | None, ...]) -> None:
        with pytest.raises(SettingsError, match="different numbers of steps"):
            action_repeat(SyncVectorEnv(pendulum(*repeats)))

    def test_of_the_robot_is_found(self) -> None:
        envs = gym.make_vec("Ballbot-v0", 2, vectorization_mode="sync", action_repeat=5, terrain="flat")
        assert action_repeat(envs) == 5
        envs.close()

    def test_of_wrapped_environments_is_compared(self, tmp_path: Path) -> None:
        with pytest.raises(
            SettingsError, match="action_repeat = 1, but the training environments hold an action for 3"
        ):
            run(tmp_path / "r", lambda n: vector.ClipAction(Holds(n)))


class TestState:
    def test_wrappers_that_remember_nothing_resume_to_the_last_bit(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def make(num_envs: int) -> Any:
            envs = vector.RescaleAction(PointEnv(num_envs), np.full(1, -2, np.float32), np.full(1, 2, np.float32))
            return vector.RecordEpisodeStatistics(vector.ClipReward(envs, -0.5, 0.5))

        assert_resumes_exactly(tmp_path, make, capsys)

    @pytest.mark.parametrize(
        "wrap",
        [Forgets, vector.NormalizeReward, lambda envs: vector.TransformReward(envs, lambda r: r)],
        ids=["of somebody", "that counts", "with a function"],
    )
    def test_others_start_new_episodes_and_say_so(self, wrap: Any) -> None:
        envs = wrap(PointEnv(2))
        assert state_holder(envs) is None
        assert (why_not_exact(vector.ClipAction(envs)) or "").startswith(
            f"the wrapper {type(envs).__name__} may remember"
        )

    def test_one_that_derives_from_those_may_remember_more(self) -> None:
        class Remembers(vector.ClipReward):
            pass

        assert state_holder(Remembers(PointEnv(2), 0, 1)) is None

    def test_one_that_saves_itself_is_asked(self) -> None:
        class Saves(Forgets):
            def get_state(self) -> Any: ...

            def set_state(self, state: Any) -> None: ...

        envs = Saves(PointEnv(2))
        assert state_holder(vector.ClipAction(envs)) is envs and why_not_exact(envs) is None
        assert why_not_exact(gym.vector.VectorEnv()) == "these environments have no get_state and set_state"
        assert (why_not_exact(SyncVectorEnv(pendulum(None))) or "").startswith("SyncVectorEnv has no get_state")

    def test_those_that_are_known_exist(self) -> None:
        assert set(STATELESS) <= set(vector.__all__)


def test_a_wrapper_of_another_number_of_environments_is_refused(tmp_path: Path) -> None:
    class Half(VectorWrapper):
        @property
        def num_envs(self) -> int:  # type: ignore[override]
            return super().num_envs // 2

    with pytest.raises(ValueError, match=r"make_envs\(4\) returned 2 environments; it must return as many"):
        run(tmp_path / "r", lambda n: Half(PointEnv(n)))
