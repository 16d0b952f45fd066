"""Robots that differ from one another in one batch: numbers drawn within ranges, for a policy that drives them all.

    BallbotVectorEnv(64, robot="rollers", vary={"ball_radius": (0.1, 0.12), "body_mass": (2, 4)})

Each episode has a robot of the family, as it has a terrain.  Those of training, validation and eval differ.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any, get_type_hints

import mujoco
import numpy as np
from mujoco.batch import MODEL_FIELDS, Batch
from numpy.typing import NDArray

from ballbot.envs.drive import check_wheels
from ballbot.envs.robot import RobotConfig
from ballbot.envs.robots import Robot
from ballbot.envs.standing import check_standing
from ballbot.envs.terrain.grid import SPLITS
from ballbot.errors import SettingsError
from ballbot.settings import check_span, nearest

Array = NDArray[np.float64]

TRIES = 50
"""Draws for each robot: some numbers do not fit each other."""


def varying() -> dict[str, Any]:
    """Name -> type of the numbers that may differ: those that leave how many parts there are as they are."""
    types = get_type_hints(RobotConfig, include_extras=True)
    return {f.name: types[f.name] for f in fields(RobotConfig) if f.default is None or isinstance(f.default, float)}


def check_vary(vary: Mapping[str, Any], robot: Robot) -> dict[str, tuple[float, float]]:
    """Ranges by name, as plain numbers.

    Raises:
        SettingsError: no such number, no range, or a robot that has no numbers.
    """
    if not vary:
        return {}
    if not isinstance(robot, RobotConfig):
        raise SettingsError("vary needs a robot by its numbers, and MJCF has none: use one of the robots, or .json")
    known, found = varying(), {}
    for name, given in vary.items():
        if name not in known:
            raise SettingsError(f"vary has no number {name!r}: {nearest(name, known)}")
        found[name] = check_span(f"vary.{name}", given, known[name], "(0.1, 0.12)")
    return found


def drawn(
    robot: RobotConfig,
    vary: Mapping[str, tuple[float, float]],
    num: int,
    split: str,
    seed: int,
    aligned: bool = True,
) -> tuple[RobotConfig, ...]:
    """Robots of a family, each number drawn evenly from its range, by itself.

    Args:
        robot: the other numbers.
        vary: name -> from, to.
        num: how many.
        split: "train", "validation" or "eval": their robots are not the same.
        seed: >= 0.
        aligned: whether the contacts of capsules are to be.

    Raises:
        SettingsError: hardly any such robot can be.
    """
    return _drawn(robot, tuple((name, tuple(ends)) for name, ends in vary.items()), num, split, seed, aligned)


@lru_cache(maxsize=8)
def _drawn(
    robot: RobotConfig,
    vary: tuple[tuple[str, tuple[float, ...]], ...],
    num: int,
    split: str,
    seed: int,
    aligned: bool,
) -> tuple[RobotConfig, ...]:
    """Kept, as each of them is compiled to see whether it can be."""
    rng = np.random.default_rng((SPLITS[split], seed, zlib.crc32(b"robots")))
    found: list[RobotConfig] = []
    while len(found) < num:
        reason: SettingsError | None = None
        for _ in range(TRIES):
            numbers: dict[str, Any] = {name: float(rng.uniform(low, high)) for name, (low, high) in vary}
            try:
                one = replace(robot, **numbers)
                model = one.compile() if aligned else one.spec().compile()
                check_standing(one)
                check_wheels(one, model, aligned)
            except SettingsError as error:
                reason = error
                continue
            found.append(one)
            break
        else:
            raise SettingsError(f"vary: of {TRIES} robots drawn in a row, none can be ({reason}): narrow the ranges")
    return tuple(found)


class Family:
    """What differs among robots that are made of the same parts.

    Args:
        models: of each, on a plane.

    Raises:
        SettingsError: they are made of other parts.
    """

    def __init__(self, models: Sequence[mujoco.MjModel]) -> None:
        first = models[0]
        for model in models:
            if (model.nq, model.nv, model.ngeom, model.nu) != (first.nq, first.nv, first.ngeom, first.nu):
                raise SettingsError("robots of other wheels or cameras cannot be in one batch: make each its own")
        self.differing: dict[str, tuple[NDArray[np.bool_], NDArray[Any]]] = {}
        """Field of the model -> which of its numbers differ, and (robots, ...) what they are."""
        for name in sorted(MODEL_FIELDS):
            if name.startswith("opt."):
                continue
            values = np.stack([np.array(getattr(model, name)) for model in models])
            if (differs := (values != values[:1]).any(axis=0)).any():
                self.differing[name] = differs, values[:, differs]
        self._rows: dict[str, NDArray[Any]] = {}

    @property
    def look_alike(self) -> bool:
        """Whether cameras of all see the same."""
        return not self.differing.keys() & {"geom_size", "geom_pos", "geom_quat", "cam_pos", "cam_quat", "cam_fovy"}

    def expand(self, batch: Batch) -> None:
        """Give the simulations of a batch, of the first robot, fields of their own."""
        self._rows = {name: batch.expand(name) for name in self.differing}

    def put(self, sim: int, robot: int) -> None:
        """Make a simulation's robot another one."""
        for name, (differs, values) in self.differing.items():
            self._rows[name][sim][differs] = values[robot]

    def model(self, base: mujoco.MjModel, robot: int) -> mujoco.MjModel:
        """One of the robots, where ``base`` is the first."""
        found = copy.copy(base)
        self.write(found, robot)
        return found

    def write(self, model: mujoco.MjModel, robot: int) -> None:
        """Make a model of one of the robots, on any ground, that of another."""
        for name, (differs, values) in self.differing.items():
            getattr(model, name)[differs] = values[robot]
