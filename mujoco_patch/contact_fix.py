"""Replaces MuJoCo's sphere-capsule collider, in this process, by one that aligns contact frames.

libmujoco looks every collider up in its exported, writable table `mjCOLLISIONFUNC`
(https://mujoco.readthedocs.io/en/stable/APIreference/APIglobals.html#mjcollisionfunc), also from the
threads of mujoco.batch. One entry is exchanged: for the compiled `contact_fix.c` or, where there is no
compiler, for a Python function with the same effect. A forked process inherits the exchange; a spawned one
has to install it again.
"""

import contextlib
import ctypes
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import mujoco

from mujoco_patch import python_collider
from mujoco_patch.compiled import library_candidates
from mujoco_patch.layout import ContactFixError, Layout, discover_layout

Choice = Literal["auto", "c", "python"]
ENVIRONMENT_VARIABLE = "BALLBOT_CONTACT_FIX"

_ABI = 1  # CONTACT_FIX_ABI in contact_fix.c
_ELLIPTIC = int(mujoco.mjtCone.mjCONE_ELLIPTIC)
_TYPES = int(mujoco.mjtGeom.mjNGEOMTYPES)
_ENTRY = int(mujoco.mjtGeom.mjGEOM_SPHERE) * _TYPES + int(mujoco.mjtGeom.mjGEOM_CAPSULE)


@dataclass(frozen=True)
class _Exchange:
    """One exchange of the table entry."""

    implementation: Literal["c", "python"]
    ours: int
    """address of our collider"""
    theirs: int
    """address of the collider it replaced and calls"""


_lock = threading.RLock()
_table: "ctypes.Array[ctypes.c_void_p] | None" = None
_exchange: _Exchange | None = None
_generation = 0
_told_fallback = False


def _after_fork() -> None:
    """Another thread may have held the lock when the process forked; it does not exist in the child."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def lock() -> "threading.RLock":
    """Held, again and again by the same thread if need be, while the entry is exchanged or checked."""
    return _lock


def install(implementation: Choice = "auto") -> None:
    """Installs the fix in this process; does nothing if it is installed already. Safe from several threads.

    Over the other implementation it is installed by one exchange: simulations never see MuJoCo's own collider
    in between, and an error leaves things as they were.

    Args:
      implementation: "c" for the compiled collider, "python" for the slower fallback, "auto" for the one
        named by the environment variable BALLBOT_CONTACT_FIX or else the compiled one if it is there.

    Raises:
      ContactFixError: MuJoCo is not as expected, the choice is not available, or somebody else exchanged
        the entry.
      ValueError: `implementation` is none of the three.
    """
    global _exchange, _generation
    if implementation not in ("auto", "c", "python"):
        raise ValueError(f"implementation={implementation!r}: expected 'auto', 'c' or 'python'")
    with _lock:
        if is_installed() and implementation in ("auto", cast(_Exchange, _exchange).implementation):
            return
        choice = _choice_from_environment() if implementation == "auto" else implementation
        layout = discover_layout()
        table = _find_table()
        theirs = cast(_Exchange, _exchange).theirs if is_installed() else table[_ENTRY]
        if not theirs:
            raise ContactFixError(f"contact fix: MuJoCo {mujoco.__version__} has no sphere-capsule collider to extend")
        if _exchange is not None and theirs != _exchange.theirs:
            raise _replaced("install the contact fix again")

        library = None if choice == "python" else _load_library(must=choice == "c")
        if library is not None:
            ours = cast(int, ctypes.cast(library.contact_fix_collide, ctypes.c_void_p).value)
            if theirs == ours:  # exchanged before this module was reloaded
                theirs = cast(int, library.contact_fix_original())
            else:
                _configure(library, theirs, layout)
        else:
            ours = python_collider.make_collider(theirs, layout, undo=_uninstall_quietly)
        _generation += 1
        _exchange = _Exchange("c" if library is not None else "python", ours, theirs)
        table[_ENTRY] = ours  # one aligned 8-byte store: other threads see the old collider or the new one


def uninstall() -> None:
    """Puts back the collider the fix replaced; does nothing if the fix is not installed.

    Raises:
      ContactFixError: somebody else exchanged the entry since, so putting ours back would undo theirs.
    """
    global _exchange
    with _lock:
        if _exchange is None or _table is None:
            return
        if _table[_ENTRY] not in (_exchange.ours, _exchange.theirs):
            raise _replaced("uninstall the contact fix")
        _table[_ENTRY] = _exchange.theirs
        _exchange = None


def _uninstall_quietly() -> None:
    with contextlib.suppress(ContactFixError):  # at exit nobody could act on the message
        uninstall()


def is_installed() -> bool:
    """Whether MuJoCo's table holds our collider now."""
    return _exchange is not None and _table is not None and _table[_ENTRY] == _exchange.ours


def implementation() -> Literal["c", "python"] | None:
    """Which implementation is installed: "c", "python", or None if the fix is not installed."""
    return _exchange.implementation if _exchange is not None and is_installed() else None


def table_state() -> tuple[int, bool]:
    """Number of exchanges so far and whether the last is in force: what a finished check was made under."""
    return _generation, is_installed()


def _replaced(action: str) -> ContactFixError:
    return ContactFixError(
        f"cannot {action}: other code has replaced MuJoCo's sphere-capsule collider (mjCOLLISIONFUNC) since "
        "the fix was installed. Undo that first, or do it before so that the contact fix extends it."
    )


def _choice_from_environment() -> Choice:
    value = os.environ.get(ENVIRONMENT_VARIABLE, "auto").strip().lower() or "auto"
    if value not in ("auto", "c", "python"):
        raise ContactFixError(f"{ENVIRONMENT_VARIABLE}={value!r}: expected 'c', 'python' or 'auto', or leave it unset")
    return cast(Choice, value)


def _find_table() -> "ctypes.Array[ctypes.c_void_p]":
    """mjCOLLISIONFUNC, row after row, of the very libmujoco that the Python bindings use."""
    global _table
    if _table is not None:
        return _table
    # A symbol looked up in the bindings' own module is also searched in what it is linked to (not on Windows,
    # where the path finds the loaded library), so a second libmujoco cannot be patched by mistake.
    bindings = cast(str, sys.modules["mujoco._functions"].__file__)
    folder = Path(bindings).parent
    problem = ""
    for path in [folder / "mujoco.dll"] if sys.platform == "win32" else [Path(bindings), *folder.glob("libmujoco*")]:
        try:
            _table = (ctypes.c_void_p * _TYPES**2).in_dll(ctypes.CDLL(str(path)), "mjCOLLISIONFUNC")
            return _table
        except (OSError, ValueError) as error:
            problem = str(error)
    raise ContactFixError(
        f"contact fix: MuJoCo {mujoco.__version__} does not export mjCOLLISIONFUNC ({problem}). "
        "Install the official wheel: pip install --upgrade 'mujoco>=3.17'"
    )


def _load_library(must: bool) -> ctypes.CDLL | None:
    """The compiled collider; without one that fits, None and a notice, or an error if it `must` be there."""
    global _told_fallback
    problem = "not built"
    for path in library_candidates(Path(__file__).parent, "_contact_fix"):
        try:
            library = ctypes.CDLL(str(path))
            if library.contact_fix_abi() != _ABI:
                raise OSError(f"interface {library.contact_fix_abi()}, expected {_ABI}")
            library.contact_fix_configure.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 2, ctypes.c_int]
            library.contact_fix_configure.argtypes += [ctypes.c_size_t] * 3
            library.contact_fix_configure.restype = None
            library.contact_fix_original.restype = ctypes.c_void_p
            _ = library.contact_fix_collide
            return library
        except (OSError, AttributeError) as error:
            problem = f"{path.name}: {error}"
    remedy = "For the compiled one, reinstall this package where a C compiler is available"
    if must:
        raise ContactFixError(f"contact fix: no compiled collider ({problem}). {remedy}, or choose 'python'.")
    if not _told_fallback:
        _told_fallback = True
        print(
            f"ballbot: contact fix runs in Python ({problem}): same results, slower on many cores because "
            f"every wheel contact takes the GIL. {remedy}.",
            file=sys.stderr,
        )
    return None


def _configure(library: ctypes.CDLL, original: int, layout: Layout) -> None:
    library.contact_fix_configure(
        original,
        layout.geom_xmat_offset,
        layout.cone_offset,
        _ELLIPTIC,
        layout.contact_size,
        layout.normal_offset,
        layout.tangent_offset,
    )
