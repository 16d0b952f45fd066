# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Exported policies of many kinds, for runtimes in other languages to be compared with Python's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from policies import save_policy

from ballbot.deployment.export import export_policy
from ballbot.deployment.shipped import SHIPPED
from ballbot.evaluation import env_options
from ballbot.ppo import load_policy

GRU = {"memory": "gru", "memory_size": 8}
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "cheap": (
        21,
        {
            "robot": "mini", "command": "velocity", "motion.station_keeping": True, "motion.resample_time": 3.1,
            "sensing.velocity": "estimated", "sensing.balance_s": 0.5, "extra_fields": ["yaw_rate"],
        },
    ),
    "path on four wheels": (
        21 + 12,
        {
            "command": "path", "build.wheels": 4, "build.azimuth_deg": 47.5,
            "history": [0, 1, 30], "history_fields": ["gravity", "gyro"],
        },
    ),
    "remembers": (17 + 9, {"history": [0, 10], "history_changes": True, "settings": GRU}),
    "world": (15, {"frame": "world", "terrain": "perlin"}),
    "wheel speeds": (17, {"action": "wheel_speed"}),
}  # fmt: skip
"""Size of the observation and task of policies that have learned nothing."""


class Exported(dict[str, Any]):
    """Name -> options and file of a policy, made when asked for: one that comes with ballbot, or of ``CASES``."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def __missing__(self, name: str) -> Any:
        if name in SHIPPED:
            policy = load_policy(SHIPPED[name])
        else:
            size, task = CASES[name]
            box = gym.spaces.Box(-1.0, 1.0, (task.get("build.wheels", 3),), np.float32)
            policy = load_policy(save_policy(self._folder / f"{name}.pt", size, box, 30.0, **task))
        options = env_options(policy)
        export_policy(policy, self._folder / f"{name}.onnx", options.get("encoder"))
        self[name] = options, self._folder / f"{name}.onnx"
        return self[name]
