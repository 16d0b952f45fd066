"""What torch.save writes is read as torch.load reads it, by a reader that can do nothing else."""

from __future__ import annotations

import io
import pickle
import pickletools
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ballbot.ppo.archive import read_archive

OLD_FILES = sorted((Path(__file__).parents[1] / "golden" / "runs").glob("*/*.pt"))
KINDS = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64,
]  # fmt: skip
DATA_NEEDS = {
    "PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "BINUNICODE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE", "EMPTY_LIST", "APPEND", "APPENDS",
    "EMPTY_DICT", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL", "REDUCE",
    "BINPERSID",
}  # fmt: skip
"""Operations of a pickle.  The others make objects, look names up and set attributes, or are of other protocols."""
REBUILD: Any = torch._utils._rebuild_tensor_v2
REBUILD_OF_KIND: Any = torch._utils._rebuild_tensor_v3


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def changed(archive: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    """An archive whose parts are what `change` makes of their name in its folder and their content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
    return buffer.getvalue()


def carry_out(program: bytes) -> Any:
    """What is read from this pickle, beside a part 0 of four numbers."""
    whole = saved(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    return read_archive(io.BytesIO(changed(whole, lambda name, part: program if name == "data.pkl" else part)))


class Stored:
    """Numbers, as a pickle of torch.save tells of them."""

    def __init__(self, *told: Any) -> None:
        self.told = told


class Call:
    """Unpickled, it calls a function."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


class Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.told if isinstance(value, Stored) else None


def pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def four(*, kind: Any = torch.FloatStorage, key: Any = "0", count: Any = 4, device: Any = "cpu") -> Stored:
    return Stored("storage", kind, key, device, count)


def tensor(
    shape: Any = (4,), strides: Any = (1,), offset: Any = 0, stored: Any = None, hooks: Any = None, more: Any = ()
) -> Call:
    hooks = OrderedDict() if hooks is None else hooks
    rebuild = REBUILD_OF_KIND if more and isinstance(more[0], torch.dtype) else REBUILD
    return Call(rebuild, four() if stored is None else stored, offset, shape, strides, False, hooks, *more)


def bits(x: torch.Tensor) -> list[int]:
    """Of all that is stored, whatever of it the tensor shows."""
    storage: Any = x.untyped_storage()
    return list(storage.tolist())


def assert_same(one: Any, two: Any) -> None:
    """To the last bit, with types and order."""
    assert type(one) is type(two)
    if isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape, one.stride()) == (two.dtype, two.shape, two.stride())
        assert bits(one) == bits(two)
        assert one.storage_offset() == two.storage_offset()
    elif isinstance(one, dict):
        assert list(one) == list(two)
        assert_same(list(one.values()), list(two.values()))
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert_same(a, b)
    else:
        assert repr(one) == repr(two)


def assert_read_as_by_torch(archive: bytes) -> Any:
    read = read_archive(io.BytesIO(archive))
    assert_same(read, torch.load(io.BytesIO(archive), weights_only=True))
    return read


@pytest.mark.parametrize("path", OLD_FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_files_of_older_versions_are_read_as_by_torch(path: Path) -> None:
    assert_read_as_by_torch(path.read_bytes())


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_numbers_of_every_kind_keep_their_bits(kind: torch.dtype) -> None:
    largest = 1 if kind == torch.bool else 255
    numbers = np.random.default_rng(0).integers(largest, size=24 * kind.itemsize, dtype=np.uint8, endpoint=True)
    table = torch.from_numpy(numbers).view(kind).reshape(4, 6)
    state: dict[str, Any] = {"table": table, "turned": table.t(), "every second": table.clone()[::2, 1:]}
    flat = table.clone().flatten()
    state |= {"one": table[1, 2].clone(), "none": table[:0].clone(), "halves": [flat[:12], flat[12:]]}
    read = assert_read_as_by_torch(saved(state))
    assert read["turned"].untyped_storage().data_ptr() == read["table"].untyped_storage().data_ptr()


def test_plain_values_come_back_as_they_were() -> None:
    numbers = [0, 255, 256, 2**16, -1, 2**31, -(2**31) - 1, 2**127 + 1, -(2**1000), True, False, None]
    floats = [0.1, -0.0, 5e-324, float("inf"), float("-inf"), float("nan")]
    nested: dict[Any, Any] = {"": (), "ü\ud800": [[], {}, (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ([()],)], 3: {"b": 1}}
    state = {**nested, "numbers": numbers, "floats": floats, "many": list(range(3000)), "b": 1, "a": 1}
    assert_same(assert_read_as_by_torch(saved(state)), state)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not str(kind).startswith("torch.uint")], ids=str)
def test_numbers_of_another_byte_order_are_turned(kind: torch.dtype) -> None:
    numbers = torch.arange(1, 7).to(kind)
    width = kind.itemsize // (2 if kind.is_complex else 1)

    def turn(name: str, part: bytes) -> bytes:
        if name == "byteorder":
            return b"big" if sys.byteorder == "little" else b"little"
        return np.frombuffer(part, np.uint8).reshape(-1, width)[:, ::-1].tobytes() if "data/" in name else part

    archive = changed(saved([numbers, numbers[2:4]]), turn)
    assert_same(assert_read_as_by_torch(archive), [numbers, numbers[2:4]])


def test_without_the_numbers_nothing_of_them_is_read() -> None:
    archive = saved({"x": torch.full((3, 2), 7.0).t(), "y": 1})
    place = archive.index(torch.full((6,), 7.0).numpy().tobytes())
    damaged = io.BytesIO(archive[:place] + b"?" + archive[place + 1 :])
    with pytest.raises(zipfile.BadZipFile, match="CRC"):
        read_archive(damaged)
    read = read_archive(damaged, device="meta")
    assert (read["x"].shape, read["x"].stride(), read["x"].device.type, read["y"]) == ((2, 3), (1, 2), "meta", 1)


def test_compressed_parts_and_long_programs_are_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
    with pytest.raises(ValueError, match="compressed or overlap"):
        read_archive(buffer)
    with pytest.raises(ValueError, match="more than 4194304 bytes"):
        carry_out(b"\x80\x02" + b"N" * 2**22 + b".")


@pytest.mark.parametrize(
    "operation", [x for x in pickletools.opcodes if x.name not in DATA_NEEDS], ids=lambda x: str(x.name)
)
def test_operations_that_data_do_not_need_are_refused(operation: pickletools.OpcodeInfo) -> None:
    argument = b""
    if operation.arg is not None:  # n: bytes of it, or -1 where it ends with the line; lengths that come first are 0
        lines = {"stringnl": b"''\n", "stringnl_noescape_pair": b"a\nb\n"}
        argument = bytes(8) if operation.arg.n < 0 else bytes(operation.arg.n)
        argument = lines.get(operation.arg.name, b"1\n") if operation.arg.n == -1 else argument
    with pytest.raises(ValueError, match=f"^{operation.name}, which torch.save does not write"):
        carry_out(b"\x80\x02NN(N" + operation.code.encode("latin-1") + argument + b".")


@pytest.mark.parametrize(
    "name",
    [
        "builtins\neval", "os\nsystem", "torch\nload", "torch\nTensor", "torch\nfloat8_e4m3fn", "torch\nnn",
        "torch._utils\n_rebuild_parameter", "torch._utils\n_rebuild_sparse_tensor", "collections\nCounter",
        "ballbot.ppo.archive\nread_archive", "numpy\nndarray", "\n",
    ],
)  # fmt: skip
def test_other_names_are_not_known(name: str) -> None:
    with pytest.raises(KeyError):
        carry_out(b"\x80\x02c" + name.encode() + b"\n.")


def test_programs_like_those_that_are_refused_below_are_read() -> None:
    turned, wide = carry_out(pickled([tensor((2, 2), (1, 2)), tensor((2,), (1,), 0, None, None, (torch.uint64,))]))
    assert turned.tolist() == [[1.0, 3.0], [2.0, 4.0]]
    assert wide.tolist() == np.array([1, 2, 3, 4], np.float32).view(np.uint64).tolist()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (tensor((-1,)), "impossible sizes"),
        (tensor(strides=(-1,)), "impossible sizes"),
        (tensor(offset=-1), "impossible sizes"),
        (tensor((2**63,), (0,)), "impossible sizes"),
        (tensor((True,)), "impossible sizes"),
        (tensor((4.0,)), "impossible sizes"),
        (tensor(offset=1), "5 numbers of 4 bytes in 16"),
        (tensor(strides=(2,)), "7 numbers of 4 bytes in 16"),
        (tensor((5,), (0,)), "5 numbers of 4 bytes in 16"),
        (tensor((2**32, 2**32), (0, 0)), "numbers of 4 bytes in 16"),
        (tensor((0,), offset=5), "5 numbers of 4 bytes in 16"),
        (tensor(more=(torch.uint64,)), "4 numbers of 8 bytes in 16"),
        (tensor(more=({"conj": True},)), "a kind that is none"),
        (tensor((1,) * 65, (1,) * 65), "shape and strides"),
        (tensor([4], [1]), "shape and strides"),
        (tensor((2, 2)), "shape and strides"),
        (tensor(hooks={}), "something else than numbers"),
        (tensor(stored=torch.FloatStorage), "something else than numbers"),
        (tensor(stored=four(count=5)), "5 numbers of 4 bytes in 16"),
        (tensor(stored=four(kind=torch.DoubleStorage)), "4 numbers of 8 bytes in 16"),
        (tensor(stored=four(count=4.0)), "4.0 numbers"),
        (tensor(stored=four(key="1")), "no item named"),
        (tensor(stored=four(key=0)), "told in another way"),
        (tensor(stored=four(device=0)), "told in another way"),
        (tensor(stored=four(kind="FloatStorage")), "told in another way"),
        (tensor(stored=Stored("module", torch.FloatStorage, "0", "cpu", 4)), "told in another way"),
        (tensor(stored=Stored("storage")), "not enough values"),
        ([four()], "no plain data"),
        ([torch.float32, torch.FloatStorage], "no item named|'torch float32'"),
        ([torch.FloatStorage], "no plain data"),
        ([REBUILD], "no plain data"),
        (OrderedDict(), "no plain data"),
        (OrderedDict(a=1), "no function|in place of a dict|argument"),
        (Call(torch.FloatStorage, 4), "no function"),
        ([tensor()] * 500, "tensors of 8000 bytes in a file of"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_programs_that_lie_are_refused(value: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError, KeyError), match=words):
        carry_out(pickled(value))


@pytest.mark.parametrize(
    "program",
    [b"", b".", b"N", b"(N.", b"NN.", b"\x85.", b"]\x86.", b"t.", b"](NNu.", b"}(Ke.", b"}(K\1u.", b"}NNs.", b"]K\1a",
     b")K\1a.", b"h\0.", b"q\0.", b"NR.", b"Nccollections\nOrderedDict\n)R.", b"ccollections\nOrderedDict\n]R.",
     b"X\xff\0\0\0a.", b"\x8a\xff\1.", b"J\0.", b"Q.", b")(NNu.", b"\x80\3N."],
)  # fmt: skip
def test_programs_that_make_no_sense_are_refused(program: bytes) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, IndexError)):
        carry_out(program)
