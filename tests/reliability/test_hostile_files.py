"""Files from strangers, and broken ones: no code runs, nothing crashes, memory stays bounded, one clear error.

Every file is read in a process of its own kind, with little memory to spare, so that a crash or a bomb is seen.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy import run

from ballbot.deployment.shipped import SHIPPED
from ballbot.encoders import EncoderError, load_encoder
from ballbot.encoders.dataset import RECORD, DatasetError, DepthDataset
from ballbot.encoders.frozen import DEFAULT_ENCODER
from ballbot.encoders.pretrain import PretrainConfig, pretrain
from ballbot.envs import WorldConfig
from ballbot.ppo import CheckpointError, PPOConfig, RunDirectoryError, load_checkpoint, load_policy
from ballbot.ppo.checkpoint import save_checkpoint
from ballbot.ppo.logger import Logger
from ballbot.runs import load_settings

resource: Any = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory by Linux's /proc")

Tally = Callable[[str, int], None]
SPARE_BYTES = 2**29
"""Memory that reading may take."""
SECONDS = 20
"""That reading one file may take."""
REFUSED = (CheckpointError, EncoderError, DatasetError, RunDirectoryError, ValueError)


def read_log(path: Path) -> None:
    Logger(path.parent, 10**9, console=False)


def resume(path: Path) -> None:
    run(path.parent / "resumed", resume=path, total_timesteps=64)


def survive(files: Iterator[bytes], path: Path, read: Callable[[Path], Any]) -> tuple[int, int]:
    """Read one content after the other as `path`; returns how many were tried, and how many were refused."""
    watched, watching = os.pipe()
    if (reader := os.fork()) == 0:
        code = 1
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (in_use + SPARE_BYTES, resource.RLIM_INFINITY))
            for content in files:
                path.write_bytes(content)
                signal.alarm(SECONDS)
                try:
                    read(path)
                    os.write(watching, b".")
                except REFUSED as error:
                    assert str(error), "no message"
                    cause: BaseException | None = error
                    while cause is not None:  # refused in time, not for want of memory
                        assert not isinstance(cause, MemoryError) and "alloc" not in str(cause), repr(cause)
                        cause = cause.__cause__
                    os.write(watching, b"x")
                signal.alarm(0)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(watching)
    told = b""
    while part := os.read(watched, 65536):
        told += part
    os.close(watched)
    status = os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1])
    assert status == 0, f"file {len(told)} ended the process with {status}; it is kept as {path}"
    return len(told), told.count(b"x")


@pytest.fixture(scope="module")
def contents(
    tmp_path_factory: pytest.TempPathFactory, finished: Path
) -> dict[str, tuple[bytes, Callable[[Path], Any]]]:
    """Sound files of each kind, and what reads them."""
    log = (finished / "progress.csv").read_bytes()
    config = {"ppo": {"seed": 1}, "env": {"terrain": "flat"}}
    folder = tmp_path_factory.mktemp("data")
    data = DepthDataset.create(folder, (16, 16), 1.0, {"seed": 1})
    for seed in (0, 1):
        images = np.random.default_rng(seed).random((20, 16, 16), np.float32)
        data.append(images, np.full(20, seed, RECORD))
    sound = {path.name: path.read_bytes() for path in folder.iterdir()}

    def read_data(path: Path) -> None:
        for name in sound.keys() - {path.name}:
            path.with_name(name).write_bytes(sound[name])
        read = DepthDataset(path.parent)
        assert read.card == data.card
        read.split_by_terrain(0.5, 0)

    return {
        **{name: (content, read_data) for name, content in sound.items()},
        "last.pt": ((finished / "last.pt").read_bytes(), resume),
        "policy.pt": (SHIPPED["default"].read_bytes(), load_policy),
        "encoder.pt": (DEFAULT_ENCODER.read_bytes(), load_encoder),
        "progress.csv": (log, read_log),
        "config.json": (json.dumps(config).encode(), load_settings),
    }


CHECKED = ["last.pt", "policy.pt", "encoder.pt", "images.u16", "records.bin"]
KINDS = [*CHECKED, "progress.csv", "config.json", "card.json"]


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_are_refused(contents: Any, tmp_path: Path, torture: bool, tally: Tally, kind: str) -> None:
    whole, read = contents[kind]
    step = 1000 if torture else max(1000, len(whole) // 20)
    cuts = range(0, len(whole), step if kind.endswith(".pt") else max(1, len(whole) // (1000 if torture else 50)))
    tried, refused = survive((whole[:cut] for cut in cuts), tmp_path / kind, read)
    if kind in CHECKED:
        assert refused == tried == len(cuts)
    tally(f"{kind} truncated", tried)


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits_are_survived(contents: Any, tmp_path: Path, torture: bool, tally: Tally, kind: str) -> None:
    whole, read = contents[kind]
    rng = np.random.default_rng(0)

    def flipped() -> Iterator[bytes]:
        for position, bit in zip(rng.integers(len(whole), size=amount), rng.integers(8, size=amount), strict=True):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            yield bytes(damaged)

    amount = 2000 if torture else 20
    tried, refused = survive(flipped(), tmp_path / kind, read)
    if kind in ("images.u16", "records.bin"):  # archives have bytes that mean nothing
        assert refused == tried
    tally(f"{kind} with a flipped bit", tried)


def parts_of(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {name: file.read(name) for name in file.namelist()}


def archive_of(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["last.pt", "policy.pt", "encoder.pt"])
def test_sound_archives_of_damaged_parts_are_survived(
    contents: Any, tmp_path: Path, torture: bool, tally: Tally, kind: str
) -> None:
    """The checksums are right, so that what is damaged is read: what tells what to build."""
    whole, read = contents[kind]
    parts = parts_of(whole)
    program = next(name for name in parts if name.endswith("data.pkl"))
    rng = np.random.default_rng(1)

    def damaged() -> Iterator[bytes]:
        for _ in range(2000 if torture else 30):
            changed = bytearray(parts[program])
            for _ in range(rng.integers(1, 4)):
                what, place = rng.integers(4), int(rng.integers(len(changed)))
                if what == 0:
                    changed[place] = int(rng.integers(256))
                elif what == 1:
                    del changed[place : place + int(rng.integers(1, 20))]
                elif what == 2:
                    start = int(rng.integers(len(changed)))
                    changed[place:place] = changed[start : start + int(rng.integers(1, 200))]
                else:  # a number becomes a large one
                    changed[place : place + 5] = b"J" + struct.pack("<i", int(rng.integers(2**31)))
            yield archive_of(parts | {program: bytes(changed)})

    tally(f"{kind}, its pickle damaged under a right checksum", survive(damaged(), tmp_path / kind, read)[0])


class Call:
    """Unpickled, it calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def laughing(depth: int) -> list[Any]:
    """A small file of 2**depth lists."""
    value: list[Any] = [0]
    for _ in range(depth):
        value = [value, value]
    return value


def versioned(version: int) -> bytes:
    buffer = io.BytesIO()
    torch.save({"format_version": version, "kind": "encoder"}, buffer)
    return buffer.getvalue()


def legacy() -> bytes:
    """What PyTorch wrote before there were archives."""
    buffer = io.BytesIO()
    torch.save({"format_version": 1}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def nested(depth: int) -> bytes:
    return b"]" * depth + b"a" * (depth - 1)


def bombs(mark: Path) -> dict[str, bytes]:
    """Archives that run code, or take memory without end, if they are read carelessly."""
    whole = parts_of(SHIPPED["default"].read_bytes())
    program = next(name for name in whole if name.endswith("data.pkl"))
    folder = program.removesuffix("data.pkl")

    def pickled(value: Any) -> bytes:
        return archive_of(whole | {program: pickle.dumps(value, protocol=2)})

    def program_of(operations: bytes) -> bytes:
        return archive_of(whole | {program: b"\x80\x02" + operations + b"."})

    def stored(kind: bytes, count: int) -> bytes:
        """Puts storage 1 on the stack."""
        numbers = b"J" + struct.pack("<i", count)
        return b"(X\7\0\0\0storagectorch\n" + kind + b"Storage\nX\1\0\0\0" + b"1X\3\0\0\0cpu" + numbers + b"tQ"

    def shaped(shape: bytes) -> bytes:
        """Puts a tensor of this shape there."""
        hooks = b"ccollections\nOrderedDict\n)R"
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored(b"Float", 3) + b"K\0" + shape + b")\x89" + hooks + b"tR"

    sizes = {name.removeprefix(f"{folder}data/"): len(x) for name, x in whole.items() if f"{folder}data/" in name}
    longest = max(sizes, key=sizes.__getitem__)

    def saved(value: Any) -> bytes:
        buffer = io.BytesIO()
        torch.save({"format_version": 1, "kind": "encoder", "x": value}, buffer)
        return buffer.getvalue()

    found = {
        "runs a shell": pickled(Call(os.system, f"touch {mark}")),
        "evaluates": pickled(Call(eval, f"open({str(mark)!r}, 'w')")),
        "opens": pickled(Call(open, str(mark), "w")),
        "a pickle without archive": pickle.dumps(Call(os.system, f"touch {mark}")),
        "a large buffer": pickled(Call(bytearray, 2**40)),
        "a large tensor": pickled(Call(torch.Tensor, 2**20, 2**20)),
        "one number repeated": saved(torch.zeros(1).expand(2**20, 2**20)),
        "one number, as an array": saved({"__numpy_array__": torch.zeros(1).expand(2**20, 2**20)}),
        "a sparse tensor": saved(
            torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (10**9, 10**9))
        ),
        "no memory at all": saved(torch.zeros(2**20, 2**20, device="meta")),
        "deep lists": program_of(nested(5 * 10**5)),
        "deeper lists": program_of(nested(10**6)),
        "a long number": program_of(b"\x8b" + struct.pack("<i", 2**31 - 1)),
        "zeros, compressed": archive_of(whole | {f"{folder}data/0": bytes(2**28)}, zipfile.ZIP_DEFLATED),
        "a compressed program": archive_of(
            whole | {program: b"\x80\x02" + b"N0" * 2**26 + b"N."}, zipfile.ZIP_DEFLATED
        ),
        "an empty archive": archive_of({}),
        "another version": versioned(99),
        "an older format before the archive": legacy() + archive_of({"x": b""}),
        "a program by another case": archive_of(
            {n: c for n, c in whole.items() if n != program}
            | {program.upper(): pickle.dumps(Call(bytearray, 2**20), protocol=2)}
        ),
        "lists in lists, each twice": pickled(laughing(40)),
        "tuples in tuples, each twice, as a key": program_of(b"})" + b"q\0h\0\x86" * 40 + b"K\0s"),
        "tuples in tuples, each twice, as a shape": program_of(shaped(b")" + b"q\0h\0\x86" * 60)),
        "tuples in tuples, each twice, as a storage": program_of(b")" + b"q\0h\0\x86" * 60 + b"Q"),
        "sizes whose product has a million digits": program_of(
            shaped(b"(\x8a\xfe" + b"\x7f" * 254 + b"q\0" + b"h\0" * 400_000 + b"t")
        ),
        "keys of the same hash": program_of(
            b"}("
            + b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(70_000))
            + b"u"
        ),
        "a storage of two kinds": program_of(b"](" + stored(b"Float", 3) + stored(b"Int", 3) + b"e"),
        "a buffer of zeros": program_of(
            b"}X\1\0\0\0xctorch.storage\nUntypedStorage\nJ" + struct.pack("<i", 2**28) + b"\x85Rs"
        ),
        "a million dicts": program_of(b"}" * (2**20 - 3)),
        "dicts without end": program_of(b"}" * 2**24),
        "a tensor longer than its numbers": archive_of(
            whole | {f"{folder}data/0": whole[f"{folder}data/0"][:4], f"{folder}data/999": bytes(2**20)}
        ),
        "tensors with each other's numbers": archive_of(
            whole | {f"{folder}data/{i}": whole[f"{folder}data/{k}"] for i, k in ((longest, 0), (0, longest))}
        ),
        "a part that is there twice": archive_of(whole).replace(f"{folder}data/1".encode(), f"{folder}data/0".encode()),
    }
    overlapping = bytearray(archive_of(whole))
    entry = overlapping.find(b"PK\x01\x02")
    overlapping[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)  # sizes in the directory
    return found | {"sizes that are not there": bytes(overlapping)}


def test_bombs_and_code_are_refused(tmp_path: Path, tally: Tally) -> None:
    mark = tmp_path / "ran"
    files = bombs(mark)
    for kind, read in (("policy", load_policy), ("encoder", load_encoder), ("checkpoint", load_checkpoint)):
        for name, content in files.items():
            assert survive(iter([content]), tmp_path / f"{kind}.pt", read) == (1, 1), f"{name} as {kind}"
            assert not mark.exists(), f"{name} as {kind}"
        tally(f"{kind} files that run code or take memory", len(files))


def two_directories(seen: dict[str, bytes], told: dict[str, bytes]) -> bytes:
    """An archive of two directories: Python finds the first one by its size, PyTorch the other by its place."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as file:
        warnings.simplefilter("ignore")  # names are there twice
        for name, content in (*seen.items(), *told.items()):
            file.writestr(name, content)
    whole = buffer.getvalue()
    size, start = struct.unpack("<II", whole[-10:-2])
    directory, half = whole[start : start + size], size // 2
    first, second = bytearray(directory[:half]), directory[half:]
    count, other = len(seen), start + half + 22
    place = 0
    for name in seen:  # Python adds what is between where the directory is and where it is told to be
        (offset,) = struct.unpack_from("<I", first, place + 42)
        struct.pack_into("<I", first, place + 42, offset + other - start)
        place += 46 + len(name)
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, half, other, half)
    return whole[:start] + bytes(first) + end + second


@pytest.mark.fault("an archive with two directories, which readers disagree about")
def test_what_is_read_is_what_was_walked_through(tmp_path: Path) -> None:
    whole = parts_of(SHIPPED["default"].read_bytes())
    program = next(name for name in whole if name.endswith("data.pkl"))
    other = whole | {program: pickle.dumps({"format_version": 1, "kind": "another"}, protocol=2)}
    path = tmp_path / "p.pt"
    path.write_bytes(archive_of(other))
    assert load_checkpoint(path)["kind"] == "another"
    path.write_bytes(two_directories(whole, other))
    assert load_checkpoint(path)["kind"] == "policy"
    if torch.load(path, weights_only=True)["kind"] != "another":
        pytest.skip("this PyTorch would not have been misled")


@pytest.mark.fault("checkpoints whose numbers make no sense")
def test_states_that_lie_are_refused(tmp_path: Path, finished: Path) -> None:
    """Sound files of tensors and plain types, whose numbers make no sense."""
    state = load_checkpoint(finished / "last.pt")
    weights = {name: x for name, x in state["policy"].items() if x.is_floating_point() and "weight" in name}
    spaces: list[Any] = [
        {"kind": "box", "shape": [10**9]},
        {"kind": "discrete", "n": 10**12, "start": 0},
        {"kind": "multi_discrete", "counts": [10**9], "start": [0]},
        {"kind": "multi_binary", "shape": [10**9]},
        {"kind": "dict", "spaces": {"a": {"kind": "text"}}},
        {"kind": "dict", "spaces": {}},
        "wide",
    ]
    lies: list[dict[str, Any]] = [
        {"config": state["config"] | {"hidden_size": 10**9}},
        {"config": state["config"] | {"hidden_size": 8192}},
        {"config": state["config"] | {"num_envs": -1}},
        {"spaces": state["spaces"] | {"observation_shape": [10**9]}},
        {"spaces": state["spaces"] | {"observation_shape": "wide"}},
        *({"spaces": {"observation": told, "action": state["spaces"]["action"]}} for told in spaces),
        {"spaces": state["spaces"] | {"action": {"kind": "multi_discrete", "counts": [10**9] * 3, "start": [0] * 3}}},
        {"spaces": state["spaces"] | {"action": state["spaces"]["action"] | {"dtype": "O"}}},
        {"spaces": state["spaces"] | {"encoders": ["observation"]}},
        {"config": state["config"] | {"memory": "gru", "memory_size": 16384}},
        {
            "config": state["config"] | {"cnn_channels": (4096,) * 8},
            "spaces": state["spaces"] | {"observation_shape": [3, 64, 64]},
        },
        {"policy": {}},
        {"policy": state["policy"] | {name: torch.full_like(x, torch.nan) for name, x in weights.items()}},
        {"policy": state["policy"] | dict.fromkeys(weights, 3)},
        {"global_step": float("nan")},
    ]
    rank = state["ranks"][0]
    name, keys, _, *rest = rank["numpy"]
    of_training_only: list[dict[str, Any]] = [
        {"ranks": [rank | {"numpy": (name, keys, 2**30, *rest)}]},  # NumPy would read beyond its numbers
        {"ranks": [rank | {"numpy": (name, keys[:9], 3, *rest)}]},
        {"global_step": -1},
        {"ranks": []},
        {"ranks": [{}] * 1000},
        {"agent": {}},
        {"optimizer": {"state": {}, "param_groups": []}},
    ]

    def resume_anew(path: Path) -> None:
        run(Path(tempfile.mkdtemp(dir=tmp_path)) / "run", resume=path, total_timesteps=state["global_step"] + 64)

    def files(lies: list[dict[str, Any]]) -> Iterator[bytes]:
        for lie in lies:
            save_checkpoint([tmp_path / "lie.pt"], state | lie)
            yield (tmp_path / "lie.pt").read_bytes()

    path = tmp_path / "told.pt"
    assert survive(files([{}]), path, resume_anew) == survive(files([{}]), path, load_policy) == (1, 0)
    for number, lie in enumerate(lies):
        assert survive(files([lie]), path, load_policy) == (1, 1), number
    for number, lie in enumerate(of_training_only):
        assert survive(files([lie]), path, resume_anew) == (1, 1), number


@pytest.mark.fault("trainings of encoders whose numbers make no sense")
def test_trainings_of_encoders_that_lie_are_refused(tmp_path: Path) -> None:
    data = DepthDataset.create(tmp_path / "data", (8, 8), 1.0, {})
    terrains = np.zeros(40, RECORD)
    terrains["terrain"] = np.arange(40) % 4
    data.append(np.random.default_rng(0).random((40, 8, 8), np.float32), terrains)
    config = PretrainConfig(epochs=1, batch_size=8, channels=(2,), embedding_size=2)
    log_dir, out = tmp_path / "log", tmp_path / "encoder.pt"
    pretrain(data, config, out, log_dir)
    state = load_checkpoint(log_dir / "training.pt")
    moments = {0: state["optimizer"]["state"][0] | {"exp_avg": torch.zeros(1)}}
    lies: list[dict[str, Any]] = [
        {"networks": {}},
        {"epoch": "x"},
        {"epoch": -1},
        {"since": None},
        {"best": "low"},
        {"baselines": {"q": 1}},
        {"baselines": None},
        {"optimizer": {}},
        {"optimizer": state["optimizer"] | {"state": state["optimizer"]["state"] | moments}},
        {"config": 3},
    ]

    def files() -> Iterator[bytes]:
        for lie in lies:
            save_checkpoint([tmp_path / "lie.pt"], state | lie)
            yield (tmp_path / "lie.pt").read_bytes()

    def resume_pretraining(path: Path) -> None:
        pretrain(data, config, out, path.parent, resume=True)

    assert survive(files(), log_dir / "training.pt", resume_pretraining) == (len(lies), len(lies))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.fault("settings made up by hypothesis")
@given(st.lists(st.tuples(st.sampled_from(["ppo", "env"]), st.integers(0, 100), JSON), max_size=4))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_settings_of_any_kind_are_refused_or_understood(tmp_path: Path, changes: list[tuple[str, int, Any]]) -> None:
    kinds: dict[str, Any] = {"ppo": PPOConfig, "env": WorldConfig}
    content: dict[str, Any] = {"ppo": {}, "env": {}}
    for section, number, value in changes:
        names = [f.name for f in fields(kinds[section])]
        content[section][names[number % len(names)]] = value
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    try:
        load_settings(path)
    except ValueError as error:
        assert str(path) in str(error)


@pytest.mark.fault("JSON that is deep, long or none")
def test_json_that_is_deep_or_long_is_refused(tmp_path: Path) -> None:
    contents = [b"[" * 10**6, b'{"ppo":' * 10**5, b"1" * 10**6, b"[" + b" " * 2**25 + b"]", b"\xff\xfe", b"", b"nul"]
    assert survive(iter(contents), tmp_path / "config.json", load_settings) == (len(contents), len(contents))
    for name in ("images.u16", "records.bin"):
        (tmp_path / name).write_bytes(b"")
    assert survive(iter(contents), tmp_path / "card.json", lambda path: DepthDataset(path.parent)) == (7, 7)


@pytest.mark.fault("cards and logs of gigabytes")
@pytest.mark.parametrize("name", ["card.json", "progress.csv"])
def test_files_of_gigabytes_are_refused(tmp_path: Path, name: str) -> None:
    with open(tmp_path / name, "wb") as file:
        file.truncate(2**31)  # takes no room on the disk
    with pytest.raises((DatasetError, RunDirectoryError), match=f"{name} .*{2**31} bytes"):
        DepthDataset(tmp_path) if name == "card.json" else read_log(tmp_path / name)


@pytest.mark.fault("cards, logs and settings that are pipes, which would be waited for")
@pytest.mark.parametrize(("name", "read"), [("progress.csv", read_log), ("config.json", load_settings)])
def test_pipes_are_refused(tmp_path: Path, name: str, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises((RunDirectoryError, ValueError), match=f"{name} .*no ordinary file"):
        read(tmp_path / name)
    os.mkfifo(tmp_path / "card.json")
    with pytest.raises(DatasetError, match=r"card\.json .*no ordinary file"):
        DepthDataset(tmp_path)


@pytest.mark.fault("cards of data sets made up by hypothesis")
@given(JSON, st.sampled_from(["shape", "max_depth", "num_images", "provenance", "format_version"]))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cards_of_any_kind_are_refused_or_understood(tmp_path: Path, value: Any, name: str) -> None:
    (tmp_path / "images.u16").write_bytes(bytes(2 * 4 * 4 * 3))
    (tmp_path / "records.bin").write_bytes(bytes(3 * RECORD.itemsize))
    card = {"format_version": 1, "shape": [4, 4], "max_depth": 1.0, "num_images": 3, "provenance": {}} | {name: value}
    (tmp_path / "card.json").write_text(json.dumps(card))
    try:
        data = DepthDataset(tmp_path)
        data.images(np.arange(len(data)))
        data.split_by_terrain(0.1, 0)
    except DatasetError as error:
        assert str(tmp_path) in str(error)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("target", "runs"),
    [
        ("checkpoint", 50_000),
        ("training", 10_000),
        ("encoder", 20_000),
        ("config", 200_000),
        ("log", 50_000),
        ("card", 500_000),
    ],
)
def test_what_a_fuzzer_makes_up_is_understood_or_refused(
    tmp_path: Path, torture: bool, tally: Tally, target: str, runs: int
) -> None:
    if not torture:
        pytest.skip("takes minutes: pytest --torture")
    pytest.importorskip("atheris")
    command = [sys.executable, str(Path(__file__).with_name("fuzz.py")), target, f"-runs={runs}"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0 and f"Done {runs} runs" in ended.stderr, ended.stderr[-3000:]
    tally(f"{target}: inputs of a fuzzer", runs)
