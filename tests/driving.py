# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Few robots, and actions that do not depend on what they sense."""

from __future__ import annotations

import numpy as np

from ballbot.envs import BallbotVectorEnv


def small(num=4, **options):
    return BallbotVectorEnv(num, num_threads=1, terrain=options.pop("terrain", "flat"), **options)


def actions(steps, num, seed=0, most=0.2):
    return np.random.default_rng(seed).uniform(-most, most, (steps, num, 3)).astype(np.float32)


def drive(env, asked):
    return np.array([env.step(a)[0] for a in asked])
