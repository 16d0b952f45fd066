# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""What is observed of the past is what was observed then."""

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch

from ballbot import presets
from ballbot.controllers import robot_symmetry
from ballbot.envs import BallbotEnv, BallbotVectorEnv, WorldConfig
from ballbot.envs.observations import of_now
from ballbot.errors import SettingsError

LAGS = (0, 1, 7, 30)
SHORT: dict[str, Any] = {"terrain": "flat", "num_threads": 1, "max_episode_steps": 58}
WORLDS: dict[str, dict[str, Any]] = {
    "motion": {},
    "world": {"frame": "world", "history_fields": ("world_velocity", "clipped_wheel_speeds")},
    "told": {"command": "velocity", "motion": {"resample_time": 3.1}, "history_fields": ("velocity_command", "gyro")},
    "own": {"extra_fields": ("yaw_rate",), "history_fields": ("last_action", "yaw_rate")},
}


def actions_of(rng, n):
    return rng.uniform(-1, 1, (n, 3)).astype(np.float32)


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_the_past_is_what_was_observed_then_or_how_the_episode_began(world):
    envs = BallbotVectorEnv(4, **SHORT, **world, history=LAGS)
    plain = BallbotVectorEnv(4, **SHORT, **{k: v for k, v in world.items() if k != "history_fields"})
    assert plain.layout.names == envs.layout.names[: len(plain.layout.names)]
    kept = world.get("history_fields", ("gravity", "gyro", "velocity"))
    assert envs.layout.names[len(plain.layout.names) :] == tuple(f"{f}@{lag}" for lag in LAGS[1:] for f in kept)
    rng, size = np.random.default_rng(0), plain.layout.size
    observed, ended = plain.reset(seed=3)[0], 0
    episodes = [[row] for row in observed]  # of each robot, what it observed since its episode began
    seen, _ = envs.reset(seed=3)
    np.testing.assert_array_equal(seen[:, :size], observed)

    def expect(row, episode):
        for lag in LAGS[1:]:
            for name in kept:
                then = episode[max(len(episode) - 1 - lag, 0)][plain.layout[name]]
                np.testing.assert_array_equal(row[envs.layout[f"{name}@{lag}"]], then, err_msg=f"{name}@{lag}")

    for _ in range(150):
        actions = actions_of(rng, 4)
        observed, _, _, _, infos = plain.step(actions)
        seen, _, _, _, theirs = envs.step(actions)
        for i in range(4):
            if "final_obs" in infos and infos["_final_obs"][i]:
                ended += 1
                expect(theirs["final_obs"][i], [*episodes[i], infos["final_obs"][i]])
                episodes[i] = []
            episodes[i].append(observed[i])
            expect(seen[i], episodes[i])
    assert ended > 4


@pytest.mark.parametrize("world", [{}, {"action_repeat": 5}, {"frame": "world", "extra_fields": ("slope",)}])
def test_changes_are_what_is_now_less_what_was_then(world):
    then, since = (BallbotVectorEnv(4, **SHORT, **world, history=LAGS, history_changes=c) for c in (False, True))
    assert since.layout.names == tuple(name.replace("@", "-") for name in then.layout.names)
    rng, now = np.random.default_rng(0), then.layout.now
    of = [then.layout[of_now(name)[0]] for name in then.layout.past]
    current = np.concatenate([np.arange(at.start, at.stop) for at in of])

    def expect(seen, observed):
        np.testing.assert_array_equal(seen[:, :now], observed[:, :now])
        np.testing.assert_array_equal(seen[:, now:], observed[:, current] - observed[:, now:])

    observed, seen = then.reset(seed=3)[0], since.reset(seed=3)[0]
    assert not seen[:, now:].any()
    for _ in range(70):
        actions = actions_of(rng, 4)
        observed, _, _, _, infos = then.step(actions)
        seen, _, _, _, theirs = since.step(actions)
        expect(seen, observed)
        if "final_obs" in infos:
            ids = np.flatnonzero(infos["_final_obs"])
            expect(np.stack(theirs["final_obs"][ids]), np.stack(infos["final_obs"][ids]))
    assert seen[:, now:].any()


def test_without_a_past_nothing_changes():
    assert WorldConfig(history_changes=True) == WorldConfig()


def test_steps_of_the_past_are_of_2_ms_however_long_actions_are_held():
    rng = np.random.default_rng(0)
    held = BallbotVectorEnv(3, **SHORT, history=(0, 3, 12), action_repeat=5)
    fine = BallbotVectorEnv(3, **SHORT, history=(0, 3, 12))
    np.testing.assert_array_equal(held.reset(seed=1)[0], fine.reset(seed=1)[0])
    for _ in range(12):  # the episodes end within the last of them
        actions = actions_of(rng, 3)
        seen, _, _, truncated, infos = held.step(actions)
        steps = [fine.advance(actions) for _ in range(5)]
        if truncated.all():
            at = [bool(step[3].all()) for step in steps].index(True)
            assert at == 2
            np.testing.assert_array_equal(np.stack(infos["final_obs"]), steps[at][0])
        else:
            np.testing.assert_array_equal(seen, steps[-1][0])
    assert truncated.all()


def test_a_single_robot_has_the_same_past():
    envs, env = BallbotVectorEnv(3, **SHORT, history=LAGS), BallbotEnv(**SHORT, history=LAGS)
    obs, _ = envs.reset(seed=4)
    one, _ = env.reset(seed=6)
    rng = np.random.default_rng(0)
    for _ in range(70):
        np.testing.assert_array_equal(one, obs[2])
        actions = actions_of(rng, 3)
        obs, _, _, truncated, _ = envs.step(actions)
        one, _, _, over, _ = env.step(actions[2])
        if over:
            one, _ = env.reset()
        assert over == truncated[2]


def test_resuming_goes_on_bit_for_bit_and_damage_is_refused():
    envs, other = (BallbotVectorEnv(3, **SHORT, history=LAGS) for _ in range(2))
    rng = np.random.default_rng(0)
    envs.reset(seed=0)
    for _ in range(45):
        envs.step(actions_of(rng, 3))
    state = copy.deepcopy(envs.get_state())
    other.reset(seed=9)
    for _ in range(17):
        other.step(actions_of(rng, 3))
    other.set_state(state)
    for _ in range(60):
        actions = actions_of(rng, 3)
        ours, theirs = envs.step(actions), other.step(actions)
        np.testing.assert_array_equal(ours[0], theirs[0])
    for damage in ({}, {"history": state["history"][1:]}, {"history": state["history"] * np.float32(np.nan)}):
        with pytest.raises(ValueError, match=r"'history'.*damaged"):
            other.set_state({k: v for k, v in state.items() if k != "history"} | damage)
    plain = BallbotVectorEnv(3, **SHORT)
    assert "history" not in plain.get_state()
    with pytest.raises(ValueError, match="history was"):
        plain.set_state(state)


def test_a_robot_whose_simulation_diverged_ends_with_its_last_sound_past():
    envs, sound = (BallbotVectorEnv(3, **SHORT, history=(0, 1, 7)) for _ in range(2))
    rng = np.random.default_rng(0)
    envs.reset(seed=0)
    sound.reset(seed=0)
    for _ in range(10):
        actions = actions_of(rng, 3) * np.float32(0.1)
        seen, *_ = envs.step(actions)
        sound.step(actions)
    envs.simulations.qvel[1, 0] = np.nan
    after, _, _, truncated, infos = envs.step(actions)
    expected, *_ = sound.step(actions)
    assert truncated.tolist() == [False, True, False]
    np.testing.assert_array_equal(infos["final_obs"][1], seen[1])
    np.testing.assert_array_equal(after[[0, 2]], expected[[0, 2]])
    np.testing.assert_array_equal(after[1, 17:].reshape(2, 9), np.tile(after[1, :9], (2, 1)))


def test_it_stands_before_the_images_which_are_of_now_alone():
    envs = BallbotVectorEnv(1, **SHORT, history=(0, 5), observation="encoded")
    seen, _ = envs.reset(seed=0)
    assert envs.layout.names[-1] == "velocity@5" and envs.layout.sensed == 26 and seen.shape == (1, 26 + 41)
    assert envs.layout["image_0"] == slice(26, 46)
    depth = BallbotVectorEnv(1, **SHORT, history=(0, 5), observation="depth")
    np.testing.assert_array_equal(depth.reset(seed=0)[0]["proprioception"], seen[:, :26])


def test_it_turns_weighs_and_is_told_as_what_it_is_of():
    options = {"observation": "proprioception", "history": (0, 10), "history_fields": ("velocity", "last_action")}
    settings = presets.plain(**options)
    layout, structure = settings.layout(), settings.structure()
    assert structure.input_scale is not None and structure.value_inputs is not None
    assert structure.input_scale[layout["velocity@10"]].tolist() == [4.0, 4.0, 1.0]
    assert not structure.value_inputs[layout["last_action@10"]].any() and structure.value_inputs[:14].all()
    turns = robot_symmetry(layout).observations
    for name in ("velocity", "last_action"):
        now, past = layout[name], layout[f"{name}@10"]
        assert torch.equal(turns[:, now, now], turns[:, past, past])
        assert not turns[:, now, past].any()
    row = layout.table()[-1]
    assert row["field"] == "last_action@10" and row["name"] == "last action, 20 ms ago" and row["size"] == 3
    metadata = json.loads(json.dumps(settings.metadata()))
    assert WorldConfig.from_metadata(metadata).layout() == layout
    assert "history" not in WorldConfig().metadata()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"history": (0, 4000)}, r"\(0, 4000\) reaches back 4000 steps.*max_episode_steps=4000: use 3999 or fewer"),
        ({"history": (0, 50), "max_episode_steps": 50}, "use 49 or fewer, or longer episodes"),
        ({"history": (10, 20)}, r"must begin with 0, which is now, and rise: write \(0, 10, 20\)"),
        ({"history": (0, 20, 10)}, r"and rise: write \(0, 10, 20\)"),
        ({"history": (0, 10, 10)}, r"and rise: write \(0, 10\)"),
        ({"history": (0, -1)}, r"history=\(0, -1\) must be steps of 2 ms ago, whole numbers"),
        ({"history": ()}, r"history=\(\) must be steps"),
        ({"history": 10}, "history=10 must be steps"),
        ({"history": (0, 2.5)}, "must be steps"),
        ({"history": (0, True)}, "must be steps"),
        ({"history": "0 10"}, "must be steps"),
        ({"history": (0, 1), "history_fields": ("gravty",)}, "'gravty', which is not observed: did you mean 'gravity'"),
        ({"history": (0, 1), "history_fields": ("yaw_rate",)}, "which is not observed: add it to extra_fields"),
        ({"history": (0, 1), "history_fields": ("gyro", "gyro")}, "names 'gyro' twice: leave one out"),
        ({"history": (0, 1), "history_fields": "gyro"}, r"must be a tuple of names: \('gyro',\)"),
        (
            {"history": (0, 1), "history_fields": ("image_0",), "observation": "encoded"},
            "'image_0', which is not observed: images are of now alone",
        ),
        ({"history": (0, 1), "history_fields": ("image_age",), "observation": "encoded"}, "images are of now alone"),
        ({"history_fields": ("gyro",)}, r"change nothing with history=\(0,\), which is now: say how many steps ago"),
        ({"extra_fields": ("gyro@0",)}, "no field 'gyro@0'"),
        ({"extra_fields": ("gyro-10",)}, "names 'gyro-10': what is past is observed by history"),
    ],
)
def test_a_past_that_there_is_not_is_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        WorldConfig(**options)
