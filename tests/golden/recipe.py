"""What the golden files hold, and how they are made: trajectories of the reference task, and runs that go on.

    python tests/golden/recipe.py            # writes them anew: only if the reference task is meant to change

Bits depend on the processor (its mathematical functions and vector instructions) and on the versions of MuJoCo, NumPy
and PyTorch.  A canary that uses no code of ballbot tells whether this machine computes as the one that wrote the files
did: there every bit must be the same; elsewhere the first steps must agree within rounding.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray

FOLDER = Path(__file__).parent
STEPS = 2000
SHOWN = 40
"""Steps whose numbers are kept: longer, and differences of rounding grow."""
WORLDS: dict[str, dict[str, Any]] = {
    "flat_body": {"terrain": "flat"},
    "perlin_body": {"terrain": "perlin", "initial_speed": 0.2, "stagger_first_episodes": True},
    "perlin_world": {"terrain": "perlin", "frame": "world", "random_yaw": False, "goal": (1.0, 2.0)},
    "training": {
        "terrain": "perlin", "initial_speed": 0.2, "action_repeat": 5,
        "training_rewards": {"progress": 0, "tracking": 6.0, "tracking_speed": 0.5},
        "action_limit": 0.9, "max_episode_steps": 700,
    },
    "encoded": {"observation": "encoded", "camera_interval": 16, "stagger_cameras": True},
    "depth": {"observation": "depth", "terrain": "flat", "camera_resolution": (16, 24)},
    "long_rk4": {"terrain": "perlin", "terrain_length": 12.0, "integrator": "RK4", "terrain_split": "eval"},
}  # fmt: skip
RUN_OPTIONS = {
    "blind": ["--no-cameras"],
    "seeing": ["--camera-interval", "16"],
    "paper": ["--preset", "paper", "--no-cameras", "--policy-average", "None"],
}
SMALL: dict[str, int] = {
    "total-timesteps": 1280, "schedule-timesteps": 5120, "num-envs": 4, "num-steps": 16, "minibatch-size": 32,
    "hidden-size": 8, "num-layers": 2, "num-terrains": 4, "eval-episodes": 2, "eval-interval": 640,
    "max-episode-steps": 300, "num-threads": 1,
}  # fmt: skip
LONGER = "2560"


def canary() -> str:
    """A hash of numbers that no code of ballbot takes part in."""
    digest = hashlib.sha256()
    spec = mujoco.MjSpec.from_string(
        '<mujoco><option cone="elliptic"/><worldbody><geom name="ground" type="plane" size="1 1 1"/><body pos="0 0 .3">'
        '<freejoint/><geom type="box" size=".1 .07 .05"/><body pos=".1 0 0"><joint type="hinge" axis="0 1 0"/>'
        '<geom type="capsule" size=".03 .1"/></body></body></worldbody></mujoco>'
    )
    heights = np.sin(np.arange(40.0) ** 1.5)[:, None] * np.cos(np.arange(40.0))
    spec.add_hfield(name="h", nrow=40, ncol=40, size=[1, 1, 0.1, 0.1], userdata=heights.astype(np.float32).ravel())
    spec.geom("ground").type, spec.geom("ground").hfieldname = mujoco.mjtGeom.mjGEOM_HFIELD, "h"
    model = spec.compile()
    data = mujoco.MjData(model)
    data.qpos[3:7] = np.array([0.8, 0.36, 0.48, 0.0])
    data.qvel[:] = np.linspace(-2, 2, model.nv)
    for _ in range(1000):
        mujoco.mj_step(model, data)
    digest.update(data.qpos.tobytes() + data.qvel.tobytes())
    x = np.random.default_rng(0).random((64, 7)) * 9 - 4
    numbers = [np.sin(x), np.cos(x), np.arctan2(x, x[::-1]), np.exp(x), np.sqrt(np.abs(x)), np.einsum("ij,ij->i", x, x)]
    digest.update(b"".join(number.tobytes() for number in numbers))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    image, kernel = torch.rand(4, 1, 64, 64, generator=generator), torch.rand(32, 1, 3, 3, generator=generator)
    weights = torch.rand(20, 32 * 31 * 31, generator=generator)
    hidden = torch.nn.functional.conv2d(image, kernel, stride=2)
    digest.update((hidden.flatten(1) @ weights.T).numpy().tobytes())
    torch.set_num_threads(threads)
    return digest.hexdigest()


def parts(observations: Any) -> list[NDArray[Any]]:
    return list(observations.values()) if isinstance(observations, dict) else [observations]


def trajectory(options: dict[str, Any]) -> dict[str, Any]:
    """2,000 steps of two robots that act at random, with resets: a hash of all, and the first numbers."""
    from ballbot.envs import BallbotVectorEnv

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    envs = BallbotVectorEnv(2, num_terrains=3, num_threads=1, **options)
    digest, rng = hashlib.sha256(), np.random.default_rng(1)
    obs, infos = envs.reset(seed=5)
    shown: list[list[float]] = []
    episodes, drive = 0, np.zeros((2, 3))
    for step in range(STEPS // options.get("action_repeat", 1)):
        if step % 25 == 0:
            drive = rng.uniform(-0.4, 0.4, (2, 3))
        obs, rewards, terminated, truncated, infos = envs.step((drive * rng.random()).astype(np.float32))
        episodes += int((terminated | truncated).sum())
        numbers = [*parts(obs), rewards, infos["position"], infos["tilt_deg"]]
        for number in (*numbers, terminated, truncated, infos["terrain_id"], *terms(infos)):
            digest.update(np.ascontiguousarray(number).tobytes())
        if "final_obs" in infos:
            for i in np.flatnonzero(infos["_final_obs"]):
                for number in parts(infos["final_obs"][i]):
                    digest.update(np.ascontiguousarray(number).tobytes())
            for number in (infos["final_info"]["success"], infos["final_info"]["failure"], *terms(infos["final_info"])):
                digest.update(np.ascontiguousarray(number).tobytes())
        if step < SHOWN:
            shown.append([float(np.asarray(n, np.float64).sum()) for n in numbers])
    digest.update(envs.simulations.qpos.tobytes() + envs.simulations.qvel.tobytes())
    envs.close()
    torch.set_num_threads(threads)
    return {"sha256": digest.hexdigest(), "episodes": episodes, "shown": shown}


def terms(infos: dict[str, Any]) -> list[NDArray[Any]]:
    return [infos["reward_terms"][name] for name in ("progress", "survival", "action_cost")]


def curve(path: Path) -> list[dict[str, str]]:
    """The rows of a progress.csv without what is measured by a clock."""
    header, *lines = path.read_text().splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    return [{k: v for k, v in row.items() if not k.startswith("time/") and k != "charts/SPS"} for row in rows]


def main() -> None:
    """Write everything."""
    sys.path.insert(0, str(FOLDER.parents[1] / "experiments"))
    from ppo_ballbot import main as train

    worlds = {name: trajectory(options) for name, options in WORLDS.items()}
    (FOLDER / "worlds.json").write_text(json.dumps({"canary": canary(), "worlds": worlds}, indent=1) + "\n")
    for name, options in RUN_OPTIONS.items():
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            train([*(f"--{option}={value}" for option, value in SMALL.items()), *options, "--run-name", name])
            run = Path("runs", name)
            target = FOLDER / "runs" / name
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            for file in ("config.json", "last.pt", "best.pt", "progress.csv"):
                shutil.copyfile(run / file, target / file)
            train(["--resume", str(run), "--total-timesteps", LONGER])
            (target / "later.json").write_text(json.dumps(curve(run / "progress.csv"), indent=1) + "\n")


if __name__ == "__main__":
    main()
