"""Read what torch.save wrote, from files that may be anybody's, without a way to run code.

torch.save writes the bytes of the numbers, and a pickle: a program that puts them together, and that may call anything
when pickle runs it.  ``torch.load(weights_only=True)`` runs no code of a file's choice, but it builds what the file
asks for before anybody can look: tensors of any size that repeat one number, buffers of zeros, keys that take a year to
hash.  And older versions of PyTorch read beyond the numbers that are there.  So ``read_archive`` uses neither:
``pickletools`` tells the program's operations apart, and the few that plain data and dense tensors need are carried
out here.  They know no names but those in `GLOBALS`, and build nothing larger than the file.

The files are PyTorch's, and no format of ballbot's own: one reader does for all that were ever written, and torch.load
opens them too.
"""

from __future__ import annotations

import io
import math
import pickletools
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import torch

MOST_PROGRAM_BYTES = 2**22
"""Of the pickle; that of a checkpoint of a thousand robots has 31 thousand, as numbers lie beside it.  Each process of
torchrun adds some thousand."""
MOST_DIMENSIONS = 64
"""Of a tensor: PyTorch's own limit."""
LARGEST = 2**63
"""No size, stride or offset is as large."""
KINDS = {
    "BoolStorage": torch.bool, "ByteStorage": torch.uint8, "CharStorage": torch.int8, "ShortStorage": torch.int16,
    "IntStorage": torch.int32, "LongStorage": torch.int64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "FloatStorage": torch.float32, "DoubleStorage": torch.float64,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128,
    "uint16": torch.uint16, "uint32": torch.uint32, "uint64": torch.uint64,
}  # fmt: skip
"""Name within ``torch`` -> kind of the numbers.  Those below have no storage of their own."""


@dataclass(frozen=True)
class _Stored:
    """Bytes of the file, to be read as numbers of a kind."""

    storage: torch.UntypedStorage
    kind: torch.dtype


class _Hooks:
    """The empty OrderedDict that torch.save tells of each tensor."""


def read_archive(file: IO[bytes], device: str = "cpu") -> Any:
    """What torch.save wrote of plain data and dense tensors, in as much memory as the file and its longest part take.

    Args:
        file: the archive.
        device: of the tensors: "cpu", or "meta" to learn whether a file can be read without reading its numbers.

    Raises:
        Exception: whatever the damaged byte, or what is none of these, happens to break.
    """
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        parts = _Parts(archive, size, device)
        content = _carry_out(parts.program, parts.stored)
    if (total := _bytes_told(content, set())) > size:
        raise ValueError(f"tensors of {total} bytes in a file of {size}")
    return content


class _Parts:
    """What an archive of `size` bytes holds; zipfile compares the checksum of each part that is read.

    Raises:
        ValueError: torch.save did not write it.
    """

    def __init__(self, archive: zipfile.ZipFile, size: int, device: str) -> None:
        infos = archive.infolist()
        if any(x.compress_type != zipfile.ZIP_STORED for x in infos) or sum(x.file_size for x in infos) > size:
            raise ValueError("parts that are compressed or overlap, which torch.save does not write")
        folder = infos[0].filename.partition("/")[0]
        if archive.getinfo(f"{folder}/data.pkl").file_size > MOST_PROGRAM_BYTES:
            raise ValueError(f"a data.pkl of more than {MOST_PROGRAM_BYTES} bytes")
        self.program = archive.read(f"{folder}/data.pkl")
        order = f"{folder}/byteorder"  # since PyTorch 2.1
        self._swapped = order in archive.namelist() and archive.read(order) != sys.byteorder.encode()
        self._archive, self._folder, self._device = archive, folder, device
        self._storages: dict[str, torch.UntypedStorage] = {}

    def stored(self, told: Any) -> _Stored:
        """The numbers that an operation of the program tells of."""
        what, kind, key, device, count = told
        if what != "storage" or not isinstance(kind, torch.dtype) or not type(key) is type(device) is str:
            raise ValueError("a storage that is told in another way")
        if key not in self._storages:
            self._storages[key] = self._read(f"{self._folder}/data/{key}", kind)
        num_bytes = self._storages[key].nbytes()
        if type(count) is not int or num_bytes != count * kind.itemsize:
            raise ValueError(f"{count} numbers of {kind.itemsize} bytes in {num_bytes} bytes")
        return _Stored(self._storages[key], kind)

    def _read(self, name: str, kind: torch.dtype) -> torch.UntypedStorage:
        if self._device == "meta":
            size = self._archive.getinfo(name).file_size
            return torch.empty(size, dtype=torch.uint8, device="meta").untyped_storage()
        content = np.frombuffer(self._archive.read(name), np.uint8)
        copy = torch.empty(len(content), dtype=torch.uint8)  # in PyTorch's own memory: aligned, and to be written to
        copy.numpy()[:] = content
        storage = copy.untyped_storage()
        if self._swapped:
            storage.byteswap(kind)  # type: ignore[no-untyped-call]
        return storage


def _tensor(
    stored: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, kind: Any = None
) -> torch.Tensor:
    """A tensor none of whose numbers lies outside its storage, or is told twice."""
    if not isinstance(stored, _Stored) or not isinstance(hooks, _Hooks):
        raise TypeError("a tensor of something else than numbers")
    kind = stored.kind if kind is None else kind
    if not isinstance(kind, torch.dtype):
        raise TypeError("a tensor of a kind that is none")
    if not (type(shape) is type(strides) is tuple and len(shape) == len(strides) <= MOST_DIMENSIONS):
        raise TypeError("a tensor whose shape and strides are no tuples of a length")
    if not all(type(x) is int and 0 <= x < LARGEST for x in (offset, *shape, *strides)):
        raise ValueError("a tensor of impossible sizes, strides or offset")
    count = math.prod(shape)
    end = offset + (1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if count else 0)
    if max(end, count) * kind.itemsize > stored.storage.nbytes():
        raise ValueError(f"{max(end, count)} numbers of {kind.itemsize} bytes in {stored.storage.nbytes()} bytes")
    return torch.empty(0, dtype=kind, device=stored.storage.device).set_(stored.storage, offset, shape, strides)


GLOBALS: dict[str, Any] = {
    **{f"torch {name}": kind for name, kind in KINDS.items()},
    "torch.storage UntypedStorage": torch.uint8,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _tensor,
    "collections OrderedDict": _Hooks,
}
"""All that a file can name, as module and name within it; the last three are all that it can call."""
OPERATIONS = {x.code.encode("latin-1"): (x.name, x.arg.reader if x.arg else None) for x in pickletools.opcodes}
"""Code -> name and what reads the argument, of all that a pickle may hold."""
VALUES = {"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
"""Operations that put their argument on the stack."""
TAKES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "REDUCE": 2, "SETITEM": 2, "APPEND": 1}
"""Values that operations take from the stack.  Others take all above the last mark."""


def _carry_out(program: bytes, stored: Callable[[Any], _Stored]) -> Any:
    """The value that a pickle builds, by the operations that torch.save writes and no others, frequent ones first."""
    stack: list[Any] = []
    outer: list[list[Any]] = []  # stacks below the marks
    memo: dict[int, Any] = {}
    file = io.BytesIO(program)
    while True:
        name, read = OPERATIONS[file.read(1)]
        told: Any = read and read(file)
        if name in VALUES:
            stack.append(told)
            continue
        items = []  # that the operation takes
        if name in TAKES:
            items = [stack.pop() for _ in range(TAKES[name])][::-1]
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            items, stack = stack, outer.pop()
        match name:
            case "BINPUT" | "LONG_BINPUT":
                memo[told] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[told])
            case "MARK":
                outer.append(stack)
                stack = []
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3" | "EMPTY_TUPLE":
                stack.append(tuple(items))
            case "REDUCE":
                function, arguments = items
                if function is not _tensor and function is not _Hooks:
                    raise TypeError("a call of something that is no function")
                stack.append(function(*arguments))
            case "BINPERSID":
                stack.append(stored(stack.pop()))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM" | "SETITEMS":
                # of large numbers, thousands can have the same hash
                if not all(type(key) is str or (type(key) is int and 0 <= key < 2**31) for key in items[::2]):
                    raise ValueError("keys other than names and numbers of 31 bits")
                _same(dict, stack[-1]).update(zip(items[::2], items[1::2], strict=True))
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND" | "APPENDS":
                _same(list, stack[-1]).extend(items)
            case "GLOBAL":
                stack.append(GLOBALS[told])
            case "PROTO" if told == 2:
                pass
            case "STOP" if len(stack) == 1 and not outer:
                return stack[0]
            case _:
                raise ValueError(f"{name}, which torch.save does not write here")


def _same(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} in place of a {kind.__name__}")
    return value


def _bytes_told(value: Any, seen: set[int]) -> int:
    """Of all tensors in nested plain data, none of whose containers may be one of those `seen`.

    Raises:
        ValueError: a container is in several places: thirty lists, each twice in the next, hold a billion.
        TypeError: a value is neither a tensor nor plain.
    """
    if isinstance(value, torch.Tensor):
        return value.numel() * value.itemsize
    if value is None or type(value) in (str, int, float, bool):
        return 0
    if type(value) not in (dict, list, tuple):
        raise TypeError(f"{type(value).__name__} is no plain data")
    if not value:
        return 0
    if id(value) in seen:
        raise ValueError("the same list or dict in several places")
    seen.add(id(value))
    return sum(_bytes_told(item, seen) for item in (value.values() if isinstance(value, dict) else value))
