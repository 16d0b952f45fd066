"""The contact fix without a compiler: the Python twin of `contact_fix_collide` in contact_fix.c, bit for bit.

MuJoCo's threads call it through ctypes, one at a time because of the GIL.
"""

import atexit
import ctypes
import functools
import signal
import sys
import threading
import traceback
from _thread import interrupt_main
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, cast

import mujoco

from mujoco_patch.layout import Layout

_ELLIPTIC = int(mujoco.mjtCone.mjCONE_ELLIPTIC)
_MIN_SINE_SQUARED = 1e-10  # as in contact_fix.c
_SIGNATURE = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_double)
# MuJoCo's threads come without the GIL; the call back into MuJoCo is shorter than giving it up would take.
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, *_SIGNATURE)
_Original = ctypes.PYFUNCTYPE(ctypes.c_int, *_SIGNATURE)
_RETRY = 0.002  # s, between attempts to deliver Ctrl-C outside a collision


@dataclass
class Failures:
    """Collisions in which the collider raised an exception, since they were last taken."""

    first: str
    """type and text of the first one"""
    count: int = 1


_failures: Failures | None = None


def take_failures() -> Failures | None:
    """The failures since the last call; None, nearly always, if there were none."""
    global _failures
    failures, _failures = _failures, None
    return failures


def _note_failure(error: BaseException) -> None:
    """Says so at once, but not thousands of times a second."""
    global _failures
    if _failures is not None:
        _failures.count += 1
        return
    _failures = Failures(f"{type(error).__name__}: {error}")
    print(
        f"ballbot: the contact fix in Python failed: {_failures.first}. Contacts are not aligned; the next "
        "mujoco_patch.ensure() or verify() raises an error.",
        file=sys.stderr,
    )
    traceback.print_exception(error)


@functools.cache
def make_collider(original_address: int, layout: Layout, undo: Callable[[], None]) -> int:
    """Address of a collider that calls the one at `original_address` and aligns its contacts.

    Handlers of signals other than SIGINT must not raise while it is in use: see `_postpone_interrupts`.

    Args:
      original_address: of a function of MuJoCo's type mjfCollision.
      layout: of the running MuJoCo.
      undo: takes the collider out of use; called when the interpreter ends.
    """
    original = _Original(original_address)
    # Bound here because this runs thousands of times a second.
    elliptic, min_sine_squared = _ELLIPTIC, _MIN_SINE_SQUARED
    integer_at, pointer_at = ctypes.c_int.from_address, ctypes.c_void_p.from_address
    vector_at, matrix_at = (ctypes.c_double * 3).from_address, (ctypes.c_double * 9).from_address
    matrix_size, contact_size = ctypes.sizeof(ctypes.c_double * 9), layout.contact_size
    cone_offset, geom_xmat_offset = layout.cone_offset, layout.geom_xmat_offset
    normal_offset, tangent_offset = layout.normal_offset, layout.tangent_offset

    def collide(m: int, d: int, con: int, g1: int, g2: int, margin: float) -> int:
        ncon = 0
        try:
            ncon = original(m, d, con, g1, g2, margin)
            if ncon <= 0 or integer_at(m + cone_offset).value != elliptic:
                return ncon
            mat = matrix_at(pointer_at(d + geom_xmat_offset).value + matrix_size * g2)  # type: ignore[operator]
            ax, ay, az = mat[2], mat[5], mat[8]
            for contact in range(con, con + ncon * contact_size, contact_size):
                nx, ny, nz = vector_at(contact + normal_offset)
                x, y, z = ay * nz - az * ny, az * nx - ax * nz, ax * ny - ay * nx
                if x * x + y * y + z * z >= min_sine_squared:
                    vector_at(contact + tangent_offset)[:] = [ax, ay, az]
        except BaseException as error:  # left to ctypes, it would be printed, and the contacts forgotten
            _note_failure(error)
        return ncon

    callback = _Callback(cast(Callable[..., Any], collide))
    # A simulation thread may be inside the callback even after it was taken out of use: never free it.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(callback))
    _postpone_interrupts(collide.__code__)
    atexit.register(undo)  # a simulation stepped later, by a destructor, must not call into Python
    return cast(int, ctypes.cast(callback, ctypes.c_void_p).value)


def _postpone_interrupts(code: CodeType) -> None:
    """Has Ctrl-C wait until no collision is being computed in the main thread.

    KeyboardInterrupt inside a callback cannot reach the caller: ctypes would print and forget it, and MuJoCo
    would read an undefined number of contacts.
    """
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        return  # only the main thread may set handlers; SIG_DFL and SIG_IGN run no Python

    def handler(number: int, frame: FrameType | None) -> None:
        caller = frame
        while caller is not None and caller.f_code is not code:
            caller = caller.f_back
        if caller is None:
            previous(number, frame)
        else:
            timer = threading.Timer(_RETRY, interrupt_main)
            timer.daemon = True
            timer.start()

    signal.signal(signal.SIGINT, handler)
