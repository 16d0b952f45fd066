"""What rewards, endings, fields and commands return is checked here: anybody may have written them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.step import Array, Bools
from ballbot.errors import SettingsError


def call(what: str, part: Callable[..., Any], *arguments: Any) -> Any:
    """What a part returns; SettingsError, with its name, if it raises."""
    try:
        return part(*arguments)
    except SettingsError:
        raise
    except Exception as error:  # whatever a user's function may raise
        raise SettingsError(f"{what} raised {type(error).__name__}: {error}") from error


def numbers(what: str, part: Callable[..., Any], num: int, *arguments: Any) -> Array:
    """The (num,) numbers that a part returns; whether they are finite is left to ``refuse_nan``."""
    found = call(what, part, *arguments)
    try:
        value = np.asarray(found, np.float64)
    except (TypeError, ValueError) as error:
        got = type(found).__name__
        raise SettingsError(f"{what} returned {got}, expected ({num},) numbers, one a robot") from error
    if value.shape != (num,):
        raise SettingsError(f"{what} returned an array of shape {value.shape}, expected ({num},): one number a robot")
    return value


def flags(what: str, part: Callable[..., Any], num: int, *arguments: Any) -> Bools:
    """The (num,) bools that a part returns."""
    value = np.asarray(call(what, part, *arguments))
    if value.shape != (num,) or value.dtype != np.bool_:
        raise SettingsError(
            f"{what} returned {value.dtype} of shape {value.shape}, expected ({num},) bools: one a robot, such as a "
            "comparison gives"
        )
    return value


def refuse_nan(what: str, value: NDArray[Any]) -> None:
    """SettingsError if a number is not finite."""
    if not np.isfinite(value).all():
        bad = np.flatnonzero(~np.isfinite(value).reshape(-1, value.shape[-1]).all(axis=0))
        raise SettingsError(
            f"{what} returned numbers that are not finite for robots {bad[:5].tolist()}: it divides by zero, or takes "
            "the root or logarithm of what may be negative"
        )
