"""Where MuJoCo keeps what the contact fix reads and writes: found out at run time, never assumed.

MuJoCo promises no binary layout across versions. So the shipped headers are read first, before anything is
called, and the two offsets inside the large structs are measured on throw-away objects with reads that cannot
crash.
"""

import ctypes
import os
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mujoco
import numpy as np

NEEDED = "mujoco>=3.17 (3.9 brought mjPreContact, 3.17 mujoco.batch)"
_REMEDY = f"Install the official wheel: pip install --upgrade '{NEEDED.split()[0]}'"

# mjfCollision without blanks and parameter names.
_COLLIDER_SIGNATURE = "int(*mjfCollision)(constmjModel*,mjData*,mjPreContact*,int,int,mjtNum)"
_SIZEOF_MJTNUM = 8  # a double: parse_headers refuses anything else
_SCAN_LIMIT = 1 << 20  # bytes; mjData took 161 kB in MuJoCo 4.0
_OPTION_LIMIT = 1 << 12  # bytes; mjModel starts with its sizes and mjOption, about 1.3 kB in MuJoCo 4.0

# One of each, so that no pointer into the data buffer equals geom_xmat because an array before it is empty.
_PROBE = """<mujoco><worldbody>
  <body pos="0 0 1"><freejoint/><geom type="capsule" size=".1 .1"/><site/><camera/><light/></body>
  <geom type="sphere" size=".1"/></worldbody></mujoco>"""


class ContactFixError(RuntimeError):
    """The contact fix cannot be installed or does not work. The message says why and what to do."""


@dataclass(frozen=True)
class Layout:
    """Offsets and sizes in bytes."""

    geom_xmat_offset: int
    """of the pointer geom_xmat in mjData"""
    cone_offset: int
    """of the int opt.cone in mjModel"""
    contact_size: int
    """sizeof(mjPreContact)"""
    normal_offset: int
    """of normal[3] in mjPreContact"""
    tangent_offset: int
    """of tangent[3] in mjPreContact"""


def _refuse(what: str) -> ContactFixError:
    return ContactFixError(f"contact fix: {what}. Found MuJoCo {mujoco.__version__}; needed: {NEEDED}. {_REMEDY}")


@cache
def discover_layout() -> Layout:
    """Layout of the running MuJoCo, measured once per process.

    Raises:
      ContactFixError: this MuJoCo is too old, or laid out in a way not understood.
    """
    size, normal, tangent = parse_headers(read_headers())
    return Layout(_measure_geom_xmat(), _measure_cone(), size, normal, tangent)


def read_headers() -> str:
    """The text of MuJoCo's public headers, comments removed and blanks normalised."""
    for folder in mujoco.__path__:
        include = Path(folder, "include", "mujoco")
        if (include / "mujoco.h").is_file():
            text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in sorted(include.glob("*.h")))
            text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)
            return re.sub(r"\s+", " ", text)
    raise _refuse(f"no headers (include/mujoco/mujoco.h) in {list(mujoco.__path__)}")


def parse_headers(text: str) -> tuple[int, int, int]:
    """Size of mjPreContact and the offsets of its normal and tangent, in bytes, from `read_headers()`.

    Raises:
      ContactFixError: the collider interface differs from the one the fix was written for.
    """
    mjtnum = getattr(mujoco, "MJTNUM_DTYPE", np.float64)  # older versions know only double
    if mjtnum is not np.float64:
        raise _refuse(f"mjtNum is {mjtnum.__name__}, expected float64")

    version = re.search(r"#define mjVERSION_HEADER (\d+)", text)
    if version is None or int(version[1]) != mujoco.mj_version():
        found = version[1] if version else "none"
        raise _refuse(f"headers are of version {found}, the library of {mujoco.mj_version()}")

    signature = re.search(r"typedef (int ?\(\* ?mjfCollision\) ?\([^)]*\))", text)
    types_only = re.sub(r"\b\w+ ?(?=[,)])", _drop_name, signature[1]).replace(" ", "") if signature else "none"
    if types_only != _COLLIDER_SIGNATURE:
        raise _refuse(f"collider signature is {types_only!r}, expected {_COLLIDER_SIGNATURE!r}")
    if "mjfCollision mjCOLLISIONFUNC[mjNGEOMTYPES][mjNGEOMTYPES];" not in text:
        raise _refuse("mujoco.h does not declare the table mjCOLLISIONFUNC[mjNGEOMTYPES][mjNGEOMTYPES]")

    struct = re.search(r"typedef struct mjPreContact_ ?\{([^}]*)\} ?mjPreContact;", text)
    offsets: dict[str, tuple[int, int]] = {}
    size = 0
    for member in struct[1].split(";")[:-1] if struct else []:
        parts = re.fullmatch(r" ?mjtNum (\w+) ?(?:\[(\d+)\])? ?", member)
        if parts is None:
            raise _refuse(f"mjPreContact has a member {member.strip()!r} that is not made of mjtNum")
        length = int(parts[2] or 1)
        offsets[parts[1]] = (size, length)
        size += _SIZEOF_MJTNUM * length
    for name in ("normal", "tangent"):
        if offsets.get(name, (0, 0))[1] != 3:
            raise _refuse(f"mjPreContact has no member {name}[3]; it has {sorted(offsets) or 'no members'}")
    return size, offsets["normal"][0], offsets["tangent"][0]


def _drop_name(match: re.Match[str]) -> str:
    """Parameter names go; `mjfCollision` and a bare type before ')' stay."""
    return match[0] if match[0].strip() == "mjfCollision" else ""


def _measure_geom_xmat() -> int:
    """Offset in mjData of the pointer whose value `MjData.geom_xmat` shows, the same in two MjData."""
    model = mujoco.MjModel.from_xml_string(_PROBE)
    candidates: set[int] | None = None
    for _ in range(2):
        data = mujoco.MjData(model)
        words = np.frombuffer(read_memory(data._address, _SCAN_LIMIT), dtype=np.uintp)
        found = {int(i) * words.itemsize for i in np.flatnonzero(words == data.geom_xmat.ctypes.data)}
        candidates = found if candidates is None else candidates & found
    if candidates is None or len(candidates) != 1:
        raise _refuse(f"cannot tell where mjData keeps geom_xmat (candidates: {sorted(candidates or ())})")
    return candidates.pop()


def _measure_cone() -> int:
    """Offset in mjModel of the only int that follows `opt.cone` when it is switched to and fro."""
    model = mujoco.MjModel.from_xml_string(_PROBE)
    follows: np.ndarray | None = None
    for cone in (0, 1, 0, 1):
        model.opt.cone = cone
        words = np.frombuffer(read_memory(model._address, _OPTION_LIMIT), dtype=np.int32)
        follows = (words == cone) if follows is None else follows & (words == cone)
    offsets = np.flatnonzero(follows) * 4 if follows is not None else np.empty(0, int)
    if len(offsets) != 1:
        raise _refuse(f"cannot tell where mjModel keeps opt.cone (candidates: {offsets.tolist()})")
    return int(offsets[0])


def read_memory(address: int, size: int) -> bytes:
    """Up to `size` bytes of this process from `address`, fewer if they end at memory that is not there.

    The kernel copies, and answers an unmapped address with an error where a plain read would crash.
    """
    page = 4096  # a power of two that divides every platform's page, so a chunk never straddles two
    chunks: list[bytes] = []
    position, end = address, address + size
    copy = _copier()
    try:
        while position < end:
            want = min(end, (position // page + 1) * page) - position
            chunk = copy(position, want)
            chunks.append(chunk)
            position += len(chunk)
            if len(chunk) < want:
                break
    finally:
        copy.close()
    whole = b"".join(chunks)
    return whole[: len(whole) // 8 * 8]


class _PipeCopier:
    """Reads memory by letting write(2) copy it into a pipe: EFAULT instead of a segmentation fault."""

    def __init__(self) -> None:
        self._write = ctypes.CDLL(None, use_errno=True).write
        self._write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
        self._write.restype = ctypes.c_ssize_t
        self._out, self._in = os.pipe()

    def __call__(self, address: int, size: int) -> bytes:
        written = self._write(self._in, address, size)
        return os.read(self._out, written) if written > 0 else b""

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)


class _WindowsCopier:
    """Reads memory with ReadProcessMemory, which fails instead of crashing."""

    def __init__(self) -> None:
        kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined]
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        self._read = kernel.ReadProcessMemory
        self._read.argtypes = [
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_void_p,
        ]
        self._process = kernel.GetCurrentProcess()

    def __call__(self, address: int, size: int) -> bytes:
        buffer = ctypes.create_string_buffer(size)
        return buffer.raw if self._read(self._process, address, buffer, size, None) else b""

    def close(self) -> None:
        pass


def _copier() -> "_PipeCopier | _WindowsCopier":
    return _WindowsCopier() if sys.platform == "win32" else _PipeCopier()
