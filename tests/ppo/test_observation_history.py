"""Observations of some steps ago stand beside those of now, whatever ends in between, is saved or copied."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers import vector
from toy import BATCH, PointEnv, ScriptedEnv, SplitEnv, assert_resumes_exactly, cartpole, run

from ballbot.ppo import ObservationHistory, SettingsError, evaluate
from ballbot.ppo.wrapped import state_holder, why_not_exact

MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP]
IMAGE = gym.spaces.Box(0, 255, (4, 4, 3), np.uint8)


class Looking(gym.Env[Any, Any]):
    """Counts its steps, in a picture too; an episode takes 5 or more."""

    observation_space = gym.spaces.Dict(
        {
            "image": IMAGE,
            "place": gym.spaces.Box(-1e6, 1e6, (2, 2), np.float64),
            "speed": gym.spaces.Box(-1.0, 1.0, (1,), np.float32),
        }
    )
    action_space = gym.spaces.Discrete(2)

    def observe(self) -> dict[str, Any]:
        return {
            "image": np.full(IMAGE.shape, self.count, np.uint8),
            "place": self.np_random.normal(size=(2, 2)),
            "speed": self.np_random.uniform(-1, 1, 1).astype(np.float32),
        }

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count, self.last = 0, int(self.np_random.integers(5, 9))
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return self.observe(), 1.0, self.count == self.last and bool(action), self.count >= self.last, {}


def looking(num_envs: int, mode: AutoresetMode = MODES[0]) -> SyncVectorEnv:
    return SyncVectorEnv([Looking] * num_envs, autoreset_mode=mode)


def naive(episode: list[Any], steps: tuple[int, ...]) -> Any:
    """The observation at the end of this episode so far, and those before."""
    return np.concatenate([episode[max(len(episode) - 1 - k, 0)].ravel() for k in steps])


def compare(make: Callable[[], VectorEnv], steps: tuple[int, ...], key: str | None, num_steps: int) -> int:
    """Play the same with a past and without, and build the past from what is seen without; episodes that ended."""
    plain, envs = make(), ObservationHistory(make(), steps, None if key is None else (key,))
    next_step = plain.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    plain.action_space.seed(3)

    def of(obs: Any) -> Any:
        return obs if key is None else obs[key]

    seen, shown = plain.reset(seed=5)[0], envs.reset(seed=5)[0]
    episodes, ended, count = [[x] for x in of(seen)], np.zeros(plain.num_envs, bool), 0
    for _ in range(num_steps):
        assert envs.observation_space.contains(shown)
        assert of(shown).dtype == of(seen).dtype
        np.testing.assert_array_equal(of(shown), [naive(episode, steps) for episode in episodes])
        if key is not None:
            assert shown.keys() == seen.keys()
            for other in seen.keys() - {key}:
                np.testing.assert_array_equal(shown[other], seen[other])
        action = plain.action_space.sample()
        seen, _, terminated, truncated, infos = plain.step(action)
        shown, _, _, _, others = envs.step(action)
        done = terminated | truncated
        for i, x in enumerate(of(seen)):
            if next_step:
                episodes[i] = [x] if ended[i] else [*episodes[i], x]
            elif done[i]:
                last = infos["final_obs"][i]
                np.testing.assert_array_equal(of(others["final_obs"][i]), naive([*episodes[i], of(last)], steps))
                assert key is None or others["final_obs"][i]["image"] is not None
                episodes[i] = [x]
            else:
                episodes[i].append(x)
                assert next_step or "final_obs" not in others or others["final_obs"][i] is None
        ended, count = done, count + int(done.sum())
    plain.close()
    envs.close()
    return count


class TestPast:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("steps", [(0,), (0, 1), (0, 2, 4), (0, 30)])
    def test_is_what_was_seen_in_the_same_episode(self, mode: AutoresetMode, steps: tuple[int, ...]) -> None:
        assert compare(lambda: cartpole(3, mode), steps, None, 200) > 10

    def test_of_environments_that_are_vectors_themselves(self) -> None:
        make = lambda: gym.make_vec("CartPole-v1", 3, vectorization_mode="vector_entry_point")  # noqa: E731
        assert compare(make, (0, 1, 5), None, 200) > 10

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("key", ["place", "speed"])
    def test_of_a_dict_is_that_of_the_named_key(self, mode: AutoresetMode, key: str) -> None:
        assert compare(lambda: looking(3, mode), (0, 1, 3), key, 100) > 10

    def test_of_images_is_none_and_they_are_not_copied(self) -> None:
        plain = looking(2)
        envs = ObservationHistory(plain, keys=("speed", "place"))
        space: Any = envs.single_observation_space
        assert space["image"] is IMAGE and space["speed"].shape == (3,) and space["place"].shape == (12,)
        given: list[Any] = []
        step = plain.step
        plain.step = lambda actions: (given.append(step(actions)), given[-1])[1]  # type: ignore[method-assign, func-returns-value]
        envs.reset(seed=0)
        assert envs.step(np.zeros(2, int))[0]["image"] is given[0][0]["image"]

    def test_does_not_change_when_environments_write_into_one_buffer(self) -> None:
        envs = ObservationHistory(SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2, copy=False), (0, 1))
        first = envs.reset(seed=0)[0].copy()
        np.testing.assert_array_equal(envs.step(np.zeros(2, int))[0][:, 4:], first[:, :4])

    def test_bounds_are_those_of_now(self) -> None:
        plain = cartpole(2)
        box, whole = ObservationHistory(plain, (0, 1)).single_observation_space, plain.single_observation_space
        assert isinstance(box, gym.spaces.Box) and isinstance(whole, gym.spaces.Box)
        np.testing.assert_array_equal(box.high, np.concatenate([whole.high, whole.high]))
        np.testing.assert_array_equal(box.low, np.concatenate([whole.low, whole.low]))

    def test_begins_anew_with_a_reset_of_some(self) -> None:
        envs = ObservationHistory(looking(2, AutoresetMode.NEXT_STEP), (0, 1), ("place",))
        first = envs.reset(seed=0)[0]["place"]
        second = envs.step(np.zeros(2, int))[0]["place"]
        shown = envs.reset(options={"reset_mask": np.array([False, True])})[0]["place"]
        np.testing.assert_array_equal(shown[0], second[0])
        np.testing.assert_array_equal(shown[1, :4], shown[1, 4:])
        assert (shown[1, :4] != second[1, :4]).all() and (first[0, :4] == shown[0, 4:]).all()

    def test_of_the_past_again(self) -> None:
        """One around the other is one of the sums."""
        envs = ObservationHistory(ObservationHistory(PointEnv(2), (0, 1)), (0, 2))
        at_once = ObservationHistory(PointEnv(2), (0, 1, 2, 3))
        envs.reset(seed=1), at_once.reset(seed=1)
        for _ in range(60):
            action = np.ones((2, 1), np.float32)
            np.testing.assert_array_equal(envs.step(action)[0], at_once.step(action)[0])


def past_of(envs: VectorEnv) -> ObservationHistory:
    return ObservationHistory(envs, (0, 1, 3))


class TestState:
    @pytest.mark.parametrize(
        "make",
        [
            lambda n: past_of(PointEnv(n)),
            lambda n: vector.ClipReward(past_of(vector.RecordEpisodeStatistics(PointEnv(n))), -0.5, 0.5),
            lambda n: ObservationHistory(SplitEnv(n), (0, 2), ("policy",)),
        ],
        ids=["alone", "between wrappers", "of a key"],
    )
    def test_a_training_goes_on_to_the_last_bit(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any
    ) -> None:
        assert_resumes_exactly(tmp_path, make, capsys)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("way", ["state", "deepcopy", "pickle"])
    def test_saved_or_copied_at_any_step_it_shows_the_same(self, mode: AutoresetMode, way: str) -> None:
        def fresh() -> Any:
            envs = past_of(ScriptedEnv("...T..L", mode))
            envs.reset()
            return envs

        action = np.zeros((1, 1), np.float32)
        whole, one = fresh(), fresh()
        shown = [whole.step(action) for _ in range(40)]
        for step in range(30):
            if way == "state":
                two = fresh()
                two.step(action)
                two.set_state(one.get_state())
            else:
                two = copy.deepcopy(one) if way == "deepcopy" else pickle.loads(pickle.dumps(one))
            for then in shown[step : step + 9]:  # each step of the script, and a filler
                now = two.step(action)
                np.testing.assert_array_equal(now[0], then[0])
                assert ("final_obs" in now[4]) == ("final_obs" in then[4])
                if "final_obs" in then[4]:
                    np.testing.assert_array_equal(now[4]["final_obs"][0], then[4]["final_obs"][0])
            one.step(action)

    def test_what_was_saved_stays(self) -> None:
        envs = past_of(PointEnv(2))
        envs.reset(seed=0)
        state = envs.get_state()
        before = copy.deepcopy(state["past"])
        envs.step(np.ones((2, 1), np.float32))
        np.testing.assert_array_equal(state["past"]["observation"], before["observation"])

    def test_is_none_where_there_is_none_beneath(self) -> None:
        envs = past_of(cartpole(2))
        assert state_holder(envs) is None
        assert why_not_exact(envs) == "SyncVectorEnv has no get_state and set_state, whatever its environments have"
        with pytest.raises(TypeError, match=r"cannot be saved: it, or a wrapper within, has no get_state\(\)"):
            envs.get_state()

        class Forgets(VectorWrapper):
            pass

        for around in (past_of(Forgets(PointEnv(2))), vector.ClipAction(past_of(Forgets(PointEnv(2))))):
            assert state_holder(around) is None
            assert (why_not_exact(around) or "").startswith("the wrapper Forgets may remember")

    def test_is_found_beneath_wrappers_that_remember_nothing(self) -> None:
        envs = past_of(vector.ClipAction(PointEnv(2)))
        assert state_holder(vector.ClipAction(envs)) is envs and why_not_exact(envs) is None

    @pytest.mark.parametrize(
        "change",
        [
            lambda s: s["past"].update(observation=s["past"]["observation"][:2]),
            lambda s: s["past"].update(observation=s["past"]["observation"].astype(np.float64)),
            lambda s: s["past"].update(more=np.zeros(3)),
            lambda s: s.update(past={}),
            lambda s: s.update(ended=np.zeros(3, bool)),
        ],
    )
    def test_of_something_else_is_refused_and_changes_nothing(self, change: Any) -> None:
        envs = past_of(PointEnv(2))
        envs.reset(seed=0)
        state = copy.deepcopy(envs.get_state())
        change(state)
        state["beneath"]["x"] = np.full((2, 2), 7.0, np.float32)
        with pytest.raises(ValueError, match="it is of other environments, steps or keys"):
            envs.set_state(state)
        assert (envs.env.x != 7).all()  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", MODES)
def test_ppo_trains_and_evaluates_with_it(tmp_path: Path, mode: AutoresetMode) -> None:
    def make(num_envs: int) -> VectorEnv:
        return ObservationHistory(cartpole(num_envs, mode), (0, 1))

    agent = run(tmp_path / "r", make, total_timesteps=2 * BATCH).agent
    assert evaluate(agent, make(2), 2, seed=0)["length_mean"] > 5


@pytest.mark.parametrize(
    ("make", "steps", "keys", "message"),
    [
        (cartpole, (0, -1), None, r"steps=\(0, -1\) must be whole numbers of steps ago"),
        (cartpole, (), None, r"steps=\(\) must be whole"),
        (cartpole, (0, 1.5), None, "must be whole"),
        (cartpole, (0, True), None, "must be whole"),
        (cartpole, 4, None, "steps=4 must be whole"),
        (cartpole, (0, 2, 2), None, r"must begin with 0, which is now, and rise, each once: write \(0, 2\)"),
        (cartpole, (0, 4, 2), None, r"write \(0, 2, 4\)"),
        (cartpole, (2, 4), None, r"write \(0, 2, 4\)"),
        (
            lambda n: gym.make_vec("CartPole-v1", n),
            (0, 500),
            None,
            "reach back 500 steps, and episodes have 500: use 499 or fewer",
        ),
        (
            lambda n: SyncVectorEnv([lambda: gym.make("CartPole-v1")] * n),
            (0, 600),
            None,
            "reach back 600 steps, and episodes have 500: use 499 or fewer",
        ),
        (looking, (0, 1), 5, "keys=5 must be a tuple"),
        (cartpole, (0, 1), ("place",), r"keys=\('place',\) are for a Dict, and the observation is Box"),
        (looking, (0, 1), None, "keys=None must be a tuple of what gets a past.*'image', 'place', 'speed'"),
        (looking, (0, 1), (), r"keys=\(\) must be a tuple"),
        (looking, (0, 1), "speed", "keys='speed' must be a tuple"),
        (looking, (0, 1), ("speed", "sped"), r"keys=\('speed', 'sped'\) must be .*'image', 'place', 'speed'"),
        (looking, (0, 1), ("image",), "'image' is Box.*only a Box of one or two axes.*FrameStackObservation"),
        (
            lambda n: SyncVectorEnv([lambda: gym.make("FrozenLake-v1")] * n, autoreset_mode=MODES[0]),
            (0, 1),
            None,
            r"'observation' is Discrete\(16\), and only a Box .*FlattenObservation",
        ),
        (
            lambda n: SyncVectorEnv([lambda: gym.wrappers.FilterObservation(Looking(), ["image"])] * n),
            (0, 1),
            ("image",),
            "'image' is Box",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: Any, steps: Any, keys: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ObservationHistory(make(2), steps, keys)


def test_the_longest_past_that_an_episode_has_is_taken() -> None:
    assert ObservationHistory(gym.make_vec("CartPole-v1", 1), (0, 499)).single_observation_space.shape == (8,)


def test_environments_that_do_not_reset_themselves_or_give_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"it must be AutoresetMode\.SAME_STEP or NEXT_STEP"):
        ObservationHistory(cartpole(2, AutoresetMode.DISABLED))
    with pytest.raises(TypeError, match="an observation is a Tensor, and ObservationHistory works on NumPy arrays"):
        ObservationHistory(PointEnv(2, as_tensors=True)).reset()
    assert isinstance(PointEnv(2, as_tensors=True).reset()[0], torch.Tensor)
