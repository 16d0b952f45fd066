"""The contact fix without a compiler: the Python twin of `contact_fix_collide` in contact_fix.c, bit for bit.

MuJoCo's threads call it through ctypes, one at a time because of the GIL.
"""

import atexit
import ctypes
import signal
import threading
import time
from _thread import interrupt_main
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, cast

import mujoco

from mujoco_patch.layout import Layout

_ELLIPTIC = int(mujoco.mjtCone.mjCONE_ELLIPTIC)
_MIN_SINE_SQUARED = 1e-10  # as in contact_fix.c
_SIGNATURE = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_double)
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, *_SIGNATURE)  # takes the GIL: MuJoCo's threads call it without
_Original = ctypes.PYFUNCTYPE(
    ctypes.c_int, *_SIGNATURE
)  # keeps the GIL: the call is shorter than a hand-over
_RETRY = 0.002  # s, between attempts to deliver Ctrl-C outside a collision


def make_collider(original_address: int, layout: Layout, undo: Callable[[], None]) -> int:
    """Address of a collider that calls the one at `original_address` and aligns its contacts.

    Args:
      original_address: of a function of MuJoCo's type mjfCollision.
      layout: of the running MuJoCo.
      undo: takes the collider out of use; called before the interpreter ends.
    """
    original = _Original(original_address)
    vector = ctypes.c_double * 3
    matrix = ctypes.c_double * 9

    def collide(m: int, d: int, con: int, g1: int, g2: int, margin: float) -> int:
        ncon: int = original(m, d, con, g1, g2, margin)
        if ncon <= 0 or ctypes.c_int.from_address(m + layout.cone_offset).value != _ELLIPTIC:
            return ncon
        geom_xmat = cast(int, ctypes.c_void_p.from_address(d + layout.geom_xmat_offset).value)
        mat = matrix.from_address(geom_xmat + ctypes.sizeof(matrix) * g2)
        ax, ay, az = mat[2], mat[5], mat[8]
        for contact in range(con, con + ncon * layout.contact_size, layout.contact_size):
            nx, ny, nz = vector.from_address(contact + layout.normal_offset)
            x, y, z = ay * nz - az * ny, az * nx - ax * nz, ax * ny - ay * nx
            if x * x + y * y + z * z >= _MIN_SINE_SQUARED:
                vector.from_address(contact + layout.tangent_offset)[:] = [ax, ay, az]
        return ncon

    callback = _Callback(cast(Callable[..., Any], collide))
    # A simulation thread may be inside the callback even after it was taken out of use: never free it.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(callback))
    _postpone_interrupts(collide.__code__)
    atexit.register(_leave, undo)
    return cast(int, ctypes.cast(callback, ctypes.c_void_p).value)


def _leave(undo: Callable[[], None]) -> None:
    """Keeps simulation threads that outlive the interpreter from calling into it."""
    undo()
    time.sleep(0.01)  # lets calls that wait for the GIL at this moment through


def _postpone_interrupts(code: CodeType) -> None:
    """Has Ctrl-C wait until no collision is being computed in the main thread.

    KeyboardInterrupt inside a callback cannot reach the caller: ctypes would print and forget it, and MuJoCo
    would read an undefined number of contacts.
    """
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        return  # only the main thread may set handlers; SIG_DFL and SIG_IGN run no Python

    def handler(number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code is code:
            timer = threading.Timer(_RETRY, interrupt_main)
            timer.daemon = True
            timer.start()
        else:
            previous(number, frame)

    signal.signal(signal.SIGINT, handler)
