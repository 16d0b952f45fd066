"""Whether a robot can stand at all: from how far a lean its motors bring it back, and its wheels' grip."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from math import ceil, floor, log10

import mujoco
import numpy as np
from numpy.typing import NDArray

from ballbot.envs.drive import ripple_torque
from ballbot.envs.mechanics import (
    LEAN,
    LEANING,
    TRAVEL,
    RollingModel,
    mechanics_of,
    no_load_speed,
    rolling_model,
    rolling_wheel_speeds,
)
from ballbot.envs.model import Addresses, at_rest, has_rollers, num_wheels, wheel_contacts
from ballbot.envs.robots import Robot
from ballbot.errors import SettingsError

Array = NDArray[np.float64]

LEAST_LEAN = np.radians(1.2)
"""rad from which a robot must come back: episodes begin with a degree, and no regulator gives all torque in time."""
STICKING, SURELY = 1.5, 2.0
"""Times by which dry friction takes of the torque, at least and at most: once itself, and again as a regulator that
does not know of it goes to and fro: a linear one holds the mini up to 1 / 1.5 of the torque, the reference to 1 / 2.
Who has not the least is refused, and told a torque for the most."""
MOST_TIMES = 100.0
"""The torque that would do if motors did not lose it as they turn, beyond which none is looked for."""
LONG, FINE = 20.0, 0.05
"""How far ahead torques count that bring a robot back, and in which steps, both times the growth of what falls."""


def torque_lean(model: mujoco.MjModel, torque: float | None = None, lost: float | None = None) -> float:
    """Lean in rad from which motors bring back a robot that stands still, ``recoverable_lean`` less what they lose.

    They lose torque as they turn, as by so much damping, and what dry friction and the ripple of rollers take.

    Args:
        model: the robot, on a plane.
        torque: of each motor, N m; None: what it has.
        lost: N m of it, to friction and ripple; None: to be found.

    Returns:
        from 0, by the model of small leans; infinite of a robot that does not fall by itself.
    """
    torque = float(model.actuator_ctrlrange[0, 1]) if torque is None else torque
    lost = taken(model) if lost is None else lost
    slowed = copy.copy(model)
    slowed.dof_damping[list(Addresses.of(model).wheel_qvel)] += torque / no_load_speed(model)
    return _model_lean(replace(rolling_model(slowed), full=torque)) * max(1 - lost / torque, 0.0)


def taken(model: mujoco.MjModel, sticking: float = STICKING) -> float:
    """N m of a motor's torque that dry friction and rollers' ripple take of a robot that is to stand."""
    return sticking * float(model.joint("wheel_0").frictionloss[0]) + ripple_torque(model)


def recoverable_lean(model: RollingModel) -> float:
    """Lean in rad from which a robot that stands still can be brought back, in the direction in which that is least.

    Beyond it the motors' whole torque does not stop the fall.  What grows of the state, z, follows z' = growth z + push
    torque, and what can be brought to 0 is all that -push torque, weakened by the growth until then, adds up to (Sontag
    1984).  Of the small leans that the model is meant for, the sine is the angle; what it says beyond counts as 90
    degrees.

    Returns:
        from 0 to pi / 2; pi / 2 of a robot that does not fall by itself.
    """
    return float(min(_model_lean(model), np.pi / 2))


def _model_lean(model: RollingModel) -> float:
    """The same, as large as the model says; infinite of a robot that does not fall by itself."""
    growths, modes = np.linalg.eig(model.a.T)
    grows = growths.real > 1e-6 * np.abs(growths).max()
    if not grows.any():
        return np.inf
    # a real basis of what grows: modes that grow as fast as each other may come as complex pairs
    basis = np.linalg.svd(np.hstack([modes[:, grows].real, modes[:, grows].imag]))[0][:, : grows.sum()].T
    growth, push, leans = basis @ model.a @ basis.T, basis @ model.b * model.full, basis[:, LEAN]
    sides = np.eye(1)
    if len(basis) > 1:
        turns = np.linspace(0, np.pi, 360, endpoint=False)
        kinks = np.arctan2(push[0], -push[1])  # where a wheel pushes along, and the reach of all has its corners
        sides = np.stack([f(np.concatenate([turns, kinks])) for f in (np.cos, np.sin)])
    step = FINE / np.abs(growths[grows]).max()
    later, reach = _shrunk(growth * step), np.zeros(sides.shape[1])
    weaker = np.linalg.solve(growth * step, np.eye(len(basis)) - later)  # on average over each step
    for _ in range(round(LONG / (step * growths.real[grows].min()))):
        reach += np.abs(sides.T @ weaker @ push).sum(axis=1) * step
        weaker = weaker @ later
    return float((reach / np.maximum(np.linalg.norm(leans.T @ sides, axis=0), 1e-300)).min())


def _shrunk(growth: Array) -> Array:
    """(k, k) exp(-growth) of what is small."""
    found, term = np.eye(len(growth)), np.eye(len(growth))
    for power in range(1, 12):
        term = term @ -growth / power
        found = found + term
    return found


def gripped_lean(model: mujoco.MjModel, rolling_model: RollingModel) -> float:
    """Lean in rad in which the wheels' grip can hold a robot, so that it falls no further, where that is least.

    A wheel grips by its friction times the force with which it presses on the ball at rest.  What its motor gives
    beyond that, for its own inertia, needs no grip.

    Args:
        model: the robot, on a plane.
        rolling_model: of it.

    Returns:
        above 0, by the model of small leans; infinite of a robot that needs no torque to lean.
    """
    data, at, force = at_rest(model), Addresses.of(model), np.zeros(6)
    grips, own = np.zeros(num_wheels(model)), np.zeros(num_wheels(model))
    mass = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, data, mass)
    for wheel, dof in enumerate(at.wheel_qvel):
        joint, own[wheel] = data.joint(f"wheel_{wheel}"), mass[dof, dof]
        for number in wheel_contacts(model, data, wheel):
            contact = data.contact[number]
            mujoco.mj_contactForce(model, data, number, force)
            # rollers grip alike along both tangents, the solid across its axle, which is the second
            friction = contact.friction[:2].min() if has_rollers(model, wheel) else contact.friction[1]
            grips[wheel] += friction * force[0] * np.linalg.norm(np.cross(joint.xaxis, contact.pos - joint.xanchor))
    hold = -np.linalg.pinv(rolling_model.b[LEANING]) @ rolling_model.a[LEANING, LEAN]  # N m per rad
    travels = rolling_model.a[TRAVEL, LEAN] + rolling_model.b[TRAVEL] @ hold  # m/s² per rad
    passed = hold - own[:, None] * (rolling_wheel_speeds(model) @ travels)
    ways = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    needed = np.abs(passed @ np.stack([np.cos(ways), np.sin(ways)]))
    with np.errstate(divide="ignore"):
        return float((grips[:, None] / needed).min())


@cache
def check_standing(robot: Robot) -> None:
    """Refuse a robot that cannot stand: motors too weak for its weight, or wheels without grip.

    Raises:
        SettingsError: that; the message says what would do.
    """
    model, moves = robot.spec().compile(), mechanics_of(robot).near_upright
    lean = torque_lean(model)
    least = f"expected at least {np.degrees(LEAST_LEAN):g}, as episodes begin with a degree"
    if not lean >= LEAST_LEAN:
        speed, enough = no_load_speed(model), _enough(model, moves, taken(model, SURELY))
        more = f"{_rounded_up(enough)} N m or more, or " if np.isfinite(enough) else ""
        faster = f"a no_load_speed above {speed:g} rad/s, or " if not more and np.isfinite(speed) else ""
        raise SettingsError(
            f"it cannot stand: motors of torque_limit={moves.full:g} N m on each wheel's axle bring it back from a "
            f"lean of {np.degrees(lean):.2g} degrees, {least}: use {more}{faster}a lighter or lower body, or wheels "
            "with less damping, friction and ripple"
        )
    lean, friction = gripped_lean(model, moves), float(model.pair_friction[:, 1].min())
    if not lean >= LEAST_LEAN:
        raise SettingsError(
            f"it cannot stand: its wheels' grip on the ball holds it in a lean of {np.degrees(lean):.2g} degrees, "
            f"{least}: give the contact pairs of wheels and ball a friction of "
            f"{_rounded_up(max(friction, mujoco.mjMINMU) * LEAST_LEAN / max(lean, 1e-12))} or more instead of "
            f"{friction:g}"
        )


def _enough(model: mujoco.MjModel, moves: RollingModel, lost: float) -> float:
    """N m of torque that bring a robot back whose own do not; infinite if none do."""
    low, high = 0.0, 1.001 * (lost + moves.full * LEAST_LEAN / _model_lean(moves))
    most = MOST_TIMES * high
    while torque_lean(model, high, lost) < LEAST_LEAN:
        low, high = high, 2 * high
        if high > most:
            return np.inf
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (low, middle) if torque_lean(model, middle, lost) >= LEAST_LEAN else (middle, high)
    return high


def _rounded_up(value: float) -> str:
    """To two digits."""
    digit = 10.0 ** (floor(log10(value)) - 1)
    return f"{ceil(value / digit - 1e-9) * digit:.6g}"
