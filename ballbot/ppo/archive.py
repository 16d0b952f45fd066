"""Read what torch.save wrote, from files that may be anybody's.

``torch.load(weights_only=True)`` runs no code of a file's choice, but it builds what the file asks for before anybody
can look: tensors of any size that repeat one number, buffers of zeros, keys that take a year to hash.  And older
versions of PyTorch believe a file that brings fewer numbers than its tensors hold, and read beyond them.  So
``read_archive`` walks through the file's program first with a reader that builds nothing but plain data, and compares
every tensor with the bytes that are there.  Only then is it PyTorch's turn, which gets what was walked through in an
archive made anew: of one that was made to confuse, two readers may find different parts.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import torch

MOST_PROGRAM_BYTES = 2**22
"""Of the pickle; that of a checkpoint of a thousand robots has 31 thousand, as numbers lie beside it.  Each process of
torchrun adds some thousand."""
MOST_DIMENSIONS = 64
"""Of a tensor: PyTorch's own limit."""
LARGEST = 2**63
"""No size, stride or offset is as large."""
PARTS = re.compile(r"data\.pkl|data/\d+|byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id")
"""Of the archive, within its folder."""
STORAGES = {
    "BoolStorage": 1, "ByteStorage": 1, "CharStorage": 1, "ShortStorage": 2, "HalfStorage": 2, "BFloat16Storage": 2,
    "IntStorage": 4, "FloatStorage": 4, "LongStorage": 8, "DoubleStorage": 8, "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}  # fmt: skip
"""Name within ``torch`` -> bytes of a number."""
DTYPES = {"uint16": 2, "uint32": 4, "uint64": 8}
"""Those that have no storage of their own."""


def read_archive(path: Path) -> Any:
    """What torch.save wrote of plain data and dense tensors, in some times as much memory as the file is long.

    Raises:
        Exception: whatever the damaged byte, or what is none of these, happens to break.
    """
    with open(path, "rb") as file:
        parts = check_archive(file)
    anew = io.BytesIO()
    with zipfile.ZipFile(anew, "w") as archive:
        while parts:
            name, content = parts.popitem()
            archive.writestr(f"archive/{name}", content)
    anew.seek(0)
    return torch.load(anew, map_location="cpu", weights_only=True)


def check_archive(file: IO[bytes]) -> dict[str, bytes]:
    """The parts of an archive that holds plain data and dense tensors, by their names in its folder.

    Raises:
        Exception: it is no such archive.
    """
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        parts = _read_parts(archive, size)
    sizes = {name.removeprefix("data/"): len(part) for name, part in parts.items() if name.startswith("data/")}
    if (total := _bytes_told(_Walk(parts["data.pkl"], sizes).load(), set())) > size:
        raise ValueError(f"tensors of {total} bytes in a file of {size}")
    return parts


def _read_parts(archive: zipfile.ZipFile, size: int) -> dict[str, bytes]:
    """Those of the archive, by their names in its folder; BadZipFile if torch.save did not write it."""
    parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or sum(p.file_size for p in parts) > size:
        raise zipfile.BadZipFile("parts that are compressed or overlap, which torch.save does not write")
    folder = parts[0].filename.partition("/")[0] + "/"
    names = [part.filename.removeprefix(folder) for part in parts]
    if wrong := [name for name in names if PARTS.fullmatch(name) is None]:
        raise zipfile.BadZipFile(f"a part named {wrong[0]!r}")
    if len(set(names)) < len(names) or "data.pkl" not in names:
        raise zipfile.BadZipFile("parts that are there twice, or no data.pkl")
    if archive.getinfo(f"{folder}data.pkl").file_size > MOST_PROGRAM_BYTES:
        raise zipfile.BadZipFile(f"a data.pkl of more than {MOST_PROGRAM_BYTES} bytes")
    # which compares checksums, as torch.load does not
    return {name: archive.read(part) for name, part in zip(names, parts, strict=True)}


@dataclass(frozen=True)
class _Kind:
    """Numbers of so many bytes each."""

    name: str
    item_bytes: int


@dataclass(frozen=True)
class _Stored:
    """Bytes that are in the file, read as numbers of a kind."""

    num_bytes: int
    kind: _Kind


@dataclass(frozen=True)
class _Tensor:
    """A dense tensor of so many bytes, all of which are in the file."""

    num_bytes: int


class _Walk(pickle._Unpickler):
    """Carries out what torch.save writes of plain data and dense tensors, and refuses anything else.

    Args:
        program: the pickle.
        sizes: storage's key -> its bytes in the file.
    """

    stack: list[Any]
    metastack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, program: bytes, sizes: dict[str, int]) -> None:
        super().__init__(io.BytesIO(program))
        self._sizes = sizes
        self._kinds: dict[str, _Kind] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _Hooks
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_tensor_v3"):
            return _tensor_of_kind
        if module == "torch" and (item_bytes := STORAGES.get(name) or DTYPES.get(name)) is not None:
            return _Kind(name, item_bytes)
        if (module, name) == ("torch.storage", "UntypedStorage"):
            return _Kind(name, 1)
        raise pickle.UnpicklingError(f"{module}.{name} is nothing that a checkpoint is made of")

    def persistent_load(self, told: Any) -> _Stored:
        what, kind, key, device, count = told
        if what != "storage" or not isinstance(kind, _Kind) or not type(key) is type(device) is str:
            raise pickle.UnpicklingError("a storage that is told in another way")
        if type(count) is not int or self._sizes[key] != count * kind.item_bytes:
            raise pickle.UnpicklingError(f"{count} numbers of {kind.item_bytes} bytes in {self._sizes[key]} bytes")
        if self._kinds.setdefault(key, kind) != kind:
            raise pickle.UnpicklingError(f"storage {key} is told as numbers of two kinds")
        return _Stored(self._sizes[key], kind)

    def _set(self, target: Any, items: list[Any]) -> None:
        # of large numbers, thousands can have the same hash
        if type(target) is not dict or not all(
            type(key) is str or (type(key) is int and 0 <= key < 2**31) for key in items[::2]
        ):
            raise pickle.UnpicklingError("keys other than names and numbers of 31 bits")
        target.update(zip(items[::2], items[1::2], strict=True))

    def _set_one(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [key, value])

    def _set_several(self) -> None:
        items = self.pop_mark()
        self._set(self.stack[-1], items)

    def _stop(self) -> None:
        if len(self.stack) != 1 or self.metastack:
            raise pickle.UnpicklingError("something besides the content")
        pickle._Unpickler.dispatch[pickle.STOP[0]](self)  # type: ignore[arg-type]

    _like_pickle = (
        pickle.PROTO, pickle.MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1,
        pickle.BININT2, pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE, pickle.EMPTY_TUPLE, pickle.TUPLE1,
        pickle.TUPLE2, pickle.TUPLE3, pickle.TUPLE, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT,
        pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET, pickle.GLOBAL, pickle.REDUCE,
        pickle.BINPERSID,
    )  # fmt: skip
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{code[0]: pickle._Unpickler.dispatch[code[0]] for code in _like_pickle},
        pickle.SETITEM[0]: _set_one,
        pickle.SETITEMS[0]: _set_several,
        pickle.STOP[0]: _stop,
    }


class _Hooks:
    """The empty OrderedDict that torch.save tells of each tensor."""


def _tensor(stored: _Stored, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any) -> _Tensor:
    return _tensor_of_kind(stored, offset, shape, strides, requires_grad, hooks, stored.kind)


def _tensor_of_kind(
    stored: _Stored, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, kind: _Kind
) -> _Tensor:
    """A tensor none of whose numbers lies outside its storage, or is told twice."""
    if not isinstance(stored, _Stored) or type(requires_grad) is not bool or not isinstance(hooks, _Hooks):
        raise pickle.UnpicklingError("a tensor of something else than numbers")
    if not (type(shape) is type(strides) is tuple and len(shape) == len(strides) <= MOST_DIMENSIONS):
        raise pickle.UnpicklingError("a tensor whose shape and strides are no tuples of a length")
    if not all(type(x) is int and 0 <= x < LARGEST for x in (offset, *shape, *strides)):
        raise pickle.UnpicklingError("a tensor of impossible sizes, strides or offset")
    count = math.prod(shape)
    end = offset + (1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if count else 0)
    if max(end, count) * kind.item_bytes > stored.num_bytes:
        raise pickle.UnpicklingError(
            f"{max(end, count)} numbers of {kind.item_bytes} bytes in {stored.num_bytes} bytes"
        )
    return _Tensor(count * kind.item_bytes)


def _bytes_told(value: Any, seen: set[int]) -> int:
    """Of all tensors in nested plain data, none of whose containers may be one of those `seen`.

    Raises:
        ValueError: a container is in several places: thirty lists, each twice in the next, hold a billion.
        TypeError: a value is neither a tensor nor plain.
    """
    if isinstance(value, _Tensor):
        return value.num_bytes
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
