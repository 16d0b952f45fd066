"""One random stream per simulation, whose exact state fits into an array of integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORD = 2**64
WORDS = 6
"""int64 words that hold one stream's state."""


def new_stream(seed: int | None) -> np.random.Generator:
    """A stream; the same as Gymnasium's ``np_random`` of that seed.  None draws a seed from the system."""
    return np.random.Generator(np.random.PCG64(seed))


def second_stream(seed: int | Sequence[int] | None) -> np.random.Generator:
    """Another stream of the same seed, or numbers, for what is drawn besides: the first one goes on as it would."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(1,))))


def chance_stream(seed: int | None) -> np.random.Generator:
    """A third one, for what differs from one real robot to the next: with or without that, the others go on alike."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(2,))))


def pack_streams(streams: list[np.random.Generator]) -> NDArray[np.int64]:
    """The whole state of PCG64 generators, (num_streams, 6) int64."""
    words = np.zeros((len(streams), WORDS), np.uint64)
    for row, stream in zip(words, streams, strict=True):
        state: Any = stream.bit_generator.state
        value, increment = state["state"]["state"], state["state"]["inc"]
        row[:] = (*divmod(value, _WORD), *divmod(increment, _WORD), state["has_uint32"], state["uinteger"])
    return words.view(np.int64)  # torch cannot save uint64 in every version


def unpack_streams(words: NDArray[np.int64]) -> list[np.random.Generator]:
    """The inverse of ``pack_streams``.

    Raises:
        ValueError: the words are not a state of PCG64.
    """
    streams = []
    for row in np.ascontiguousarray(words, np.int64).view(np.uint64):
        high, low, increment_high, increment_low, has_uint32, uinteger = (int(word) for word in row)
        if not increment_low % 2 or has_uint32 > 1 or uinteger >= 2**32:  # PCG64's increment is odd
            raise ValueError("state 'streams' holds words that are no state of PCG64: it is damaged")
        stream = new_stream(0)
        stream.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": high * _WORD + low, "inc": increment_high * _WORD + increment_low},
            "has_uint32": has_uint32,
            "uinteger": uinteger,
        }
        streams.append(stream)
    return streams
