"""Settings and learning-rate schedules."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pytest
from toy import small_config

from ballbot.ppo import PPOConfig
from ballbot.ppo.schedules import adapt_lr, scheduled_lr, scheduled_std
from ballbot.settings import rules_on_resume


class TestSchedules:
    def test_learning_rates(self) -> None:
        assert [scheduled_lr("linear", 2.0, x) for x in (1, 0.5, 0)] == [2.0, 1.0, 0.0]
        assert [scheduled_lr("cosine", 2.0, x) for x in (1, 0.5, 0)] == pytest.approx([2.0, 1.0, 0.0])
        assert [scheduled_lr("constant", 2.0, x) for x in (1, 0.5, 0)] == [2.0] * 3

    def test_noise_is_bounded_exponentially(self) -> None:
        assert [scheduled_std(1.0, 0.01, x) for x in (1, 0.5, 0)] == pytest.approx([1.0, 0.1, 0.01])
        assert scheduled_std(1.0, None, 0.5) == math.inf

    def test_the_bound_of_the_noise_falls_in_a_share_of_the_schedule_and_stays(self) -> None:
        found = [scheduled_std(1.0, 0.01, x, share=0.5) for x in (1, 0.75, 0.5, 0.25, 0)]
        assert found == pytest.approx([1.0, 0.1, 0.01, 0.01, 0.01])

    def test_piecewise_is_the_published_schedule(self) -> None:
        rates = [scheduled_lr("piecewise", 1e-4, x) for x in (1, 0.71, 0.7, 0.51, 0.5, 0)]
        assert rates == pytest.approx([1e-4, 1e-4, 5e-5, 5e-5, 1e-5, 1e-5])

    def test_adaptive_follows_the_kl_within_bounds(self) -> None:
        assert adapt_lr(1e-3, 0.0151, 0.01, 1e-5, 1e-2) == pytest.approx(1e-3 / 1.5)  # such an update was stopped
        assert adapt_lr(1e-3, 0.0149, 0.01, 1e-5, 1e-2) == 1e-3
        assert adapt_lr(1e-3, 0.004, 0.01, 1e-5, 1e-2) == pytest.approx(1.5e-3)
        assert adapt_lr(1e-3, 0.010, 0.01, 1e-5, 1e-2) == 1e-3
        assert adapt_lr(1e-5, 1.0, 0.01, 1e-5, 1e-2) == 1e-5
        assert adapt_lr(1e-2, 0.0, 0.01, 1e-5, 1e-2) == 1e-2


class TestConfig:
    def test_fields_say_what_may_become_of_them_on_resume(self) -> None:
        rules = rules_on_resume(PPOConfig)
        assert rules.keys() == asdict(PPOConfig()).keys()
        asked = [rules[name] for name in ("gamma", "compile", "learning_rate", "eval_seed")]
        assert asked == ["same", "free", "noted", "new best"]

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"gamma": 0.0}, "gamma"),
            ({"gamma": 1.1}, "gamma"),
            ({"gamma": math.nan}, "gamma must be a finite"),
            ({"learning_rate": -1e-3}, "learning_rate"),
            ({"learning_rate": None}, "learning_rate must be given"),
            ({"learning_rate": "fast"}, "learning_rate must be a number"),
            ({"num_envs": 0}, "num_envs"),
            ({"num_steps": 2.5}, "num_steps"),
            ({"total_timesteps": 10**13}, "total_timesteps"),
            ({"num_envs": 64, "num_steps": 256, "minibatch_size": 1000}, r"64 \* 256 = 16384 .* minibatch_size = 1000"),
            ({"activation": "sigmoid"}, "leaky_relu"),
            ({"lr_schedule": "adaptive", "target_kl": None}, "target_kl"),
            ({"seed": -1}, "seed"),
            ({"seed": 1.0}, "seed must be a whole number, got 1.0"),
            ({"seed": True}, "seed must be a whole number, got True"),
            ({"eval_seed": "7"}, "eval_seed must be a whole number, got '7'"),
            ({"compile": "no"}, "compile must be true or false, got 'no'"),
            ({"normalize_rewards": 1}, "normalize_rewards must be true or false, got 1"),
            ({"ent_coef": False}, "ent_coef must be a number, got False"),
            ({"target_kl": "0.1"}, r"target_kl must be a number or null \(None\), got '0.1'"),
            ({"device": 0}, "device must be a text, got 0"),
            ({"activation": ["relu"]}, "activation must be one of 'tanh', .*, got \\['relu'\\]"),
            ({"device": "tpu"}, "device"),
            ({"device": "cpu:foo"}, 'device must be "cpu", "cuda" or "cuda:<index>", got \'cpu:foo\''),
            ({"device": "cpu:1"}, "device"),
            ({"device": "cuda:x"}, "device"),
            ({"device": ""}, "device"),
            ({"device": "meta"}, "device"),
            ({"lr_schedule": "adaptive", "target_kl": 0.01, "learning_rate": 0.1}, "learning_rate = 0.1, which is not"),
            (
                {"num_envs": 2**15, "num_steps": 2**16, "minibatch_size": 2**15, "total_timesteps": 10**12},
                r"32768 \* 65536 is above 1e\+09",
            ),
            ({"hidden_size": 16384, "num_layers": 64}, "weights are above 1e"),
            (
                {"num_envs": 4, "num_steps": 32, "minibatch_size": 32, "total_timesteps": 128},
                "nothing would be learned",
            ),
            ({"normalize_advantage": False, "normalize_advantage_per_minibatch": True}, "set both or none"),
            ({"normalize_observations": False, "normalize_observations_per_step": True}, "set both or none"),
            ({"minibatch_size": 1, "normalize_advantage_per_minibatch": True}, "raise minibatch_size"),
            ({"num_envs": 1, "num_steps": 1, "minibatch_size": 1}, "raise num_steps"),
            ({"initial_std": 0.0}, "initial_std"),
            ({"min_std": 1.0}, "min_std"),
            ({"final_std": 1.0}, "final_std = 1.0 must be from"),
            ({"final_std": 0.1, "min_std": 0.2}, "final_std = 0.1 must be from min_std = 0.2"),
        ],
    )
    def test_bad_values_are_named(self, changes: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            PPOConfig(**changes)

    def test_whole_numbers_do_for_numbers_and_one_rollout_does_without_statistics(self) -> None:
        small_config(learning_rate=1, target_kl=None, total_timesteps=128, normalize_observations=False)
        small_config(total_timesteps=128, normalize_observations_per_step=True)
        small_config(total_timesteps=129)

    def test_published_settings_are_accepted(self) -> None:
        PPOConfig(
            num_envs=10,
            num_steps=2048,
            minibatch_size=256,
            clip_range=0.015,
            target_kl=0.3,
            vf_coef=2.0,
            num_layers=4,
            normalize_advantage=False,
            learning_rate=1e-4,
            lr_schedule="piecewise",
        )
