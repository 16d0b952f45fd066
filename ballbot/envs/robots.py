"""Which ballbots there are: by name, from a file of numbers, or from MJCF.

What is not said of a robot's source is a guess.  Sources give the body with its wheels, and heights from elsewhere than
the ball's centre: what stands here was computed from theirs (parallel axes).  All but the first roll on two rows of
rollers a wheel, whatever their wheels are like.  docs/robots.md tells where each number is from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

from ballbot.envs.mjcf import MJCF, is_mjcf, read_mjcf
from ballbot.envs.robot import RobotConfig
from ballbot.errors import SettingsError
from ballbot.settings import nearest, values_in

Robot = RobotConfig | MJCF
"""By its numbers, or from a file."""
ROBOTS: dict[str, RobotConfig] = {
    "reference": RobotConfig(),
    # the same on wheels that need no aligned contacts
    "rollers": RobotConfig(wheel_model="rollers"),
    # asRoBallet (arXiv:2604.24916), by the MJCF that its authors publish; its arms hang down
    "asroballet": RobotConfig(
        ball_radius=0.115, ball_mass=3.021, ball_inertia_factor=0.614,
        body_mass=12.613, body_height=0.554, body_inertia=(1.216, 1.043, 0.2064), body_radius=0.15, body_top=1.13,
        imu_height=0.269, wheel_radius=0.05, wheel_width=0.023, wheel_mass=0.2529, wheel_armature=0.0,
        wheel_damping=0.007, wheel_friction=0.1, torque_limit=4.0, no_load_speed=30.0, wheel_model="rollers",
    ),
    # Jespersen 2019, by the constants in Kugle-MATLAB
    "kugle": RobotConfig(
        ball_radius=0.129, ball_mass=1.478, ball_inertia_factor=0.626,
        body_mass=15.344, body_height=0.4368, body_inertia=(1.225, 1.213, 0.0865), body_radius=0.15, body_top=1.2516,
        imu_height=0.1, wheel_radius=0.05, wheel_width=0.023, wheel_mass=0.27, wheel_armature=0.00229,
        wheel_damping=0.001, torque_limit=1.98, no_load_speed=89.7, wheel_model="rollers",
    ),
    # Nagarajan et al. 2014, ball and body; its own drive is rollers at the ball's sides, these wheels stand in for it
    "cmu": RobotConfig(
        ball_radius=0.1058, ball_mass=2.437, ball_inertia_factor=0.637,
        body_mass=50.463, body_height=0.7038, body_inertia=(12.17, 12.17, 0.649), body_radius=0.184, body_top=1.405,
        imu_height=0.69, wheels=4, azimuth_deg=47.5, wheel_radius=0.05, wheel_width=0.04, wheel_mass=0.3,
        wheel_armature=0.002, wheel_damping=0.02, torque_limit=7.0, no_load_speed=30.0, wheel_model="rollers",
    ),
    # Fankhauser & Gwerder 2010 (ETH Zurich)
    "rezero": RobotConfig(
        ball_radius=0.125, ball_mass=2.29, ball_inertia_factor=0.667,
        body_mass=10.7, body_height=0.3682, body_inertia=(0.535, 0.534, 0.0643), body_radius=0.1, body_top=0.78,
        imu_height=0.339, wheel_radius=0.06, wheel_width=0.035, wheel_mass=0.5, wheel_armature=0.00225,
        wheel_damping=0.001, wheel_friction=0.042, torque_limit=5.0, no_load_speed=32.2, wheel_model="rollers",
    ),
    # for a desk: no robot that there is, but of parts that there are
    "mini": RobotConfig(
        ball_radius=0.06, ball_mass=0.25, ball_inertia_factor=0.6,
        body_mass=1.1, body_height=0.153, body_inertia=(0.0029, 0.0029, 0.002), body_radius=0.07, body_top=0.26,
        imu_height=0.1, wheel_radius=0.024, wheel_width=0.025, wheel_mass=0.045, wheel_armature=0.0002,
        wheel_damping=0.001, torque_limit=0.3, no_load_speed=48.2, wheel_model="rollers",
    ),
}  # fmt: skip
"""Name -> robot.  Yours may be added."""
_FROM: dict[Robot, str] = {}
"""Robots that were read from files of numbers -> the last of these files."""


def robot_of(name: str, numbers: Mapping[str, Any]) -> Robot:
    """The robot of this name, or in this file, with these numbers in the place of its own.

    Args:
        name: one of ``ROBOTS``, a .json file of numbers by name, or MJCF, see ``ballbot.envs.mjcf``.
        numbers: fields of ``RobotConfig`` by name; MJCF has none.

    Raises:
        SettingsError: there is no such robot, file or number, or a number cannot be used.
    """
    if is_mjcf(str(name)):
        if numbers:
            raise SettingsError(f"robot {name!r} has its numbers in its file: change {', '.join(numbers)} there")
        return read_mjcf(name)
    if str(name).endswith(".json"):
        try:
            found = robot_of("reference", {**_numbers_in(name), **numbers})
        except SettingsError as error:
            raise SettingsError(str(error).replace("robot 'reference'", f"robot {name!r}", 1)) from error
        _FROM[found] = name
        return found
    if name not in ROBOTS:
        raise SettingsError(f"robot={name!r} is unknown: {nearest(str(name), ROBOTS)}, or a file, .json or .xml")
    if not isinstance(ROBOTS[name], RobotConfig):
        raise SettingsError(f"ROBOTS[{name!r}] is {ROBOTS[name]!r}, which is no RobotConfig: make it one")
    if not numbers:
        return ROBOTS[name]
    known = [f.name for f in fields(RobotConfig)]
    for key in numbers:
        if key not in known:
            raise SettingsError(f"robot {name!r} has no number {key!r}: {nearest(str(key), known)}")
    try:
        return replace(ROBOTS[name], **numbers)
    except SettingsError as error:
        raise SettingsError(f"robot {name!r}: {error}") from error


@contextmanager
def naming(name: str, numbers: Mapping[str, Any]) -> Iterator[None]:
    """Let errors about a robot say which: the file that it was read from, or its name and what is other about it."""
    try:
        yield
    except SettingsError as error:
        which = _FROM.get(robot_of(name, numbers), name) if numbers else name
        others = ", ".join(f"{key}={value!r}" for key, value in numbers.items()) if which == name else ""
        raise SettingsError(f"robot {which!r}{' with ' if others else ''}{others}: {error}") from error


def _numbers_in(path: str) -> dict[str, Any]:
    """What a .json file holds."""
    found = values_in("robot", path, 'numbers by name, such as {"ball_radius": 0.1}')
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def changes_of(robot: RobotConfig, other: RobotConfig) -> dict[str, Any]:
    """The numbers of a robot that are not another's, by name."""
    return {f.name: x for f in fields(robot) if (x := getattr(robot, f.name)) != getattr(other, f.name)}
