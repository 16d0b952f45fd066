"""What the learners of `race.py` share: a job, its environments, and the policies that are kept while they learn."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import nn

from ballbot import presets
from ballbot.envs import BallbotVectorEnv
from ballbot.errors import SettingsError
from ballbot.ppo.layers import ACTIVATIONS
from ballbot.ppo.state import training_seed

MODULES = {"ballbot": "ours", "stable-baselines3": "sb3", "cleanrl": "cleanrl", "rsl_rl": "rsl"}
"""Learner -> where in this folder it is told how it learns."""
INDEX = "snapshots.json"
"""What the snapshots of a job's folder are."""


@dataclass(frozen=True)
class Job:
    """One learner's part of a race."""

    learner: str
    """Of `MODULES`."""
    hyperparameters: str
    """"ours" or "own"."""
    seed: int
    cameras: bool
    num_envs: int
    minutes: float
    every: float
    """Seconds from a snapshot to the next."""
    torch_threads: int
    cleanrl: str | None
    """Path of its file."""


def settings_of(job: Job) -> presets.Settings:
    """Our settings, of which the environments are those of every learner.

    Raises:
        SettingsError: num_envs does not fit the preset's minibatches, or its observation is not one row of numbers.
    """
    settings = presets.default(observation="encoded" if job.cameras else "proprioception")
    return replace(settings, ppo=replace(settings.ppo, seed=job.seed, num_envs=job.num_envs))


def training_envs(job: Job) -> BallbotVectorEnv:
    """The environments that all learn in; the first reset is to be seeded by `env_seed`.

    What only a value function may see is not among what they tell: the others give theirs what their policies get.
    """
    world = replace(settings_of(job).training_world, privileged_fields=())
    envs = BallbotVectorEnv(job.num_envs, config=world)
    if not isinstance(envs.single_observation_space, Box):
        raise SettingsError(
            f"the preset observes {envs.single_observation_space}, and other learners take one row of numbers: race "
            "--learners ballbot alone"
        )
    return envs


def env_seed(job: Job) -> int:
    """Of the environments: all learners begin with the same episodes."""
    return training_seed(settings_of(job).ppo, 0)


class TimeUp(Exception):
    """The time of a learner is over; what it has learned has been kept."""


@dataclass(frozen=True)
class Snapshot:
    """A policy that a learner had."""

    seconds: float
    """Since its process was started."""
    steps: int
    """Of the environments, 2 ms each, until then."""
    file: str


class Snapshots:
    """Keeps policies, until the time is up.

    Args:
        job: whose.
        folder: where to.
        began: when its process was started, as `time.time` has it.
        write: writes the policy as it is now into a file; False if there is none yet.
    """

    def __init__(self, job: Job, folder: Path, began: float, write: Callable[[Path], bool | None]) -> None:
        self.kept: list[Snapshot] = []
        self._folder, self._began, self._write = folder, began, write
        self._every, self._limit, self._next = job.every, 60 * job.minutes, job.every

    def tick(self, steps: int) -> None:
        """To be called often: keep the policy if it is time to.

        Raises:
            TimeUp: it was the last one.
        """
        seconds = time.time() - self._began
        if seconds < min(self._next, self._limit):
            return
        self.keep(steps)
        if seconds >= self._limit:
            raise TimeUp
        self._next = time.time() - self._began + self._every

    def keep(self, steps: int) -> None:
        """Keep the policy as it is now."""
        snapshot = Snapshot(round(time.time() - self._began, 2), steps, f"{len(self.kept)}.pt")
        if self._write(self._folder / snapshot.file) is not False:
            self.kept.append(snapshot)


class Steps:
    """Counts the steps of vector environments, and lets snapshots be taken between them.

    Args:
        envs: of which an action is `action_repeat` steps.
        snapshots: told before every step.
    """

    def __init__(self, envs: BallbotVectorEnv, snapshots: Snapshots) -> None:
        self.taken = 0
        self._envs, self._snapshots = envs, snapshots

    def step(self, actions: Any) -> tuple[Any, ...]:
        """`envs.step`."""
        self._snapshots.tick(self.taken)
        self.taken += self._envs.num_envs * self._envs.action_repeat
        return self._envs.step(actions)


def write_network(path: Path, mean: Any, variance_root: Any, clip: float | None, modules: Iterable[nn.Module]) -> None:
    """Write what other learners' policies are: linear layers with one activation, on normalised observations.

    Args:
        path: of the file.
        mean: of the observations, (size,).
        variance_root: what they are divided by, likewise.
        clip: bound of what comes out (None: none).
        modules: the layers in order; the last one is linear.

    Raises:
        ValueError: other modules.
    """
    names = {kind: name for name, kind in ACTIVATIONS.items()}
    layers, between = [], set()
    for module in modules:
        if isinstance(module, nn.Linear):
            layers.append([module.weight.detach().double(), module.bias.detach().double()])
        elif type(module) in names:
            between.add(names[type(module)])
        else:
            raise ValueError(f"a policy has the layer {module}, and can have linear ones and {', '.join(ACTIVATIONS)}")
    shift, scale = (torch.as_tensor(np.asarray(x), dtype=torch.float64) for x in (mean, variance_root))
    (activation,) = between
    torch.save({"mean": shift, "scale": scale, "clip": clip, "layers": layers, "activation": activation}, path)


def read_network(path: Path) -> Callable[[Any], NDArray[np.float64]]:
    """The most likely actions (n, ...) in observations (n, size), of a file of `write_network`."""
    found = torch.load(path, weights_only=True)
    activation, layers = ACTIVATIONS[found["activation"]](), found["layers"]

    @torch.no_grad()
    def act(obs: Any) -> NDArray[np.float64]:
        x = (torch.as_tensor(np.asarray(obs), dtype=torch.float64) - found["mean"]) / found["scale"]
        if found["clip"] is not None:
            x = x.clamp(-found["clip"], found["clip"])
        for i, (weight, bias) in enumerate(layers):
            x = nn.functional.linear(activation(x) if i else x, weight, bias)
        return x.numpy()

    return act


def start_file(job: Job, folder: Path, began: float) -> Path:
    """Write down what `run` is to do."""
    path = folder / "job.json"
    path.write_text(json.dumps({"job": asdict(job), "began": began}))
    return path


def run(path: str | Path) -> None:
    """Let a learner learn, and leave snapshots beside the file that names it."""
    found = json.loads(Path(path).read_text())
    job, folder = Job(**found["job"]), Path(path).parent
    if job.torch_threads:
        torch.set_num_threads(job.torch_threads)
    kept: list[Snapshot] = importlib.import_module(f"racers.{MODULES[job.learner]}").train(job, folder, found["began"])
    (folder / INDEX).write_text(json.dumps([asdict(snapshot) for snapshot in kept]))


def read_snapshots(folder: Path) -> list[Snapshot]:
    """What `run` left, in order of time."""
    return [Snapshot(**found) for found in json.loads((folder / INDEX).read_text())]
