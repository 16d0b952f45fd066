"""Checkpoints: tensors and plain types only, written so that a crash leaves a complete file behind."""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ballbot.errors import BallbotError
from ballbot.ppo.archive import read_archive

FORMAT_VERSION = 1
"""Raised whenever the contents change in a way that older or newer code would misread."""
POSIX = os.name == "posix"
ARRAY, SCALAR, UNSIGNED = "__numpy_array__", "__numpy_scalar__", "unsigned"


class CheckpointError(BallbotError, RuntimeError):
    """A checkpoint is missing, damaged or belongs to something else; the message names file and remedy."""


def to_plain(value: Any) -> Any:
    """Turn nested state with NumPy arrays into tensors and plain types; `from_plain` restores it exactly.

    Raises:
        TypeError: a value is neither a tensor, a numeric array, a plain Python type, nor a list, tuple or
            dict of these.
    """
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(to_plain(item) for item in value)
    if isinstance(value, (np.ndarray, np.generic)):
        try:
            # copy: the file must not follow later changes; "C" and native order are what tensors can hold
            array = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
            kind = ARRAY if isinstance(value, np.ndarray) else SCALAR
            if array.dtype.kind == "u" and array.itemsize > 1:  # PyTorch 2.4 cannot save such tensors
                return {kind: torch.from_numpy(array.view(f"i{array.itemsize}")), UNSIGNED: True}
            return {kind: torch.from_numpy(array)}
        except TypeError as error:
            raise TypeError(f"cannot store an array of dtype {value.dtype} in a checkpoint; use numbers") from error
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"cannot store {type(value).__name__} in a checkpoint; use arrays, tensors, numbers, strings or lists"
    )


def from_plain(value: Any) -> Any:
    """Inverse of `to_plain`."""
    if isinstance(value, dict):
        if ARRAY in value or SCALAR in value:
            array = value[ARRAY if ARRAY in value else SCALAR].numpy().copy()
            if value.get(UNSIGNED):
                array = array.view(f"u{array.itemsize}")
            return array if ARRAY in value else array[()]
        return {key: from_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(from_plain(item) for item in value)
    return value


def read_small(path: Path, most_bytes: int) -> str:
    """The text, in UTF-8, of a file as `read_small_bytes` reads it; ValueError if it is none."""
    return read_small_bytes(path, most_bytes).decode()


def read_small_bytes(path: Path, most_bytes: int) -> bytes:
    """An ordinary file of a size that its kind may have: whatever else stands there is not read.

    Raises:
        ValueError: it is a device, a pipe, a folder, or longer.
        OSError: it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no ordinary file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes or len(content := file.read(most_bytes + 1)) > most_bytes:
            raise ValueError(f"{size} bytes")
    return content


def not_through_links(path: str, flags: int) -> int:
    """An opener for `open`: a file of a folder that somebody else made may be a link to any other."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: a reader, or a crash, finds the old file or the new one, never a part.

    Nor do writers of the same file, of whom the last one wins.
    """
    temporary = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.tmp")  # no name is too long for it
    if path.exists() and not path.is_file():  # a device would be replaced by a file
        raise OSError(errno.EINVAL, f"cannot write {path} (it is no ordinary file)")
    try:
        with open(temporary, "xb") as file:  # x: it is no link to another file
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(
            error.errno, f"cannot write {path} ({error.strerror}); what it held before is untouched"
        ) from error
    if POSIX:  # elsewhere a directory cannot be opened
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # the new name itself must survive a power cut
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # some network file systems have no such
                raise
        finally:
            os.close(directory)


def save_checkpoint(paths: list[Path], state: dict[str, Any]) -> None:
    """Write one state to each of `paths`, atomically.

    Raises:
        TypeError: there is something in it that could not be read again.
        OSError: they cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(to_plain({"format_version": FORMAT_VERSION, **state}), buffer)
    try:
        read_archive(buffer, device="meta")
    except Exception as error:
        raise TypeError(
            f"cannot store this in a checkpoint, as it could not be read again ({error}): use arrays and tensors for "
            "numbers that are many, and names for keys"
        ) from error
    for path in paths:
        write_atomic(path, buffer.getvalue())


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, of a run directory best.pt or last.pt as `policy_file`, without running any code from it.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint, or of another format version.
    """
    return _load(policy_file(path))[0]


def load_with_content(path: Path) -> tuple[dict[str, Any], bytes]:
    """A checkpoint, and the content of its file at the same moment: its run may replace it at any time.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    return _load(path, whole=True)


def _load(path: Path, whole: bool = False) -> tuple[dict[str, Any], bytes]:
    """What `path` holds; and if the `whole` file is wanted, its bytes."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is no file; pass a checkpoint (.pt)")
    if path.suffix == ".onnx":
        run_dir = run_dir_of(path)
        here = policy_file(run_dir).exists()
        raise CheckpointError(
            f"{path} is an exported graph, which can neither be trained from nor evaluated here; pass the "
            + (f"run {run_dir}" if here else "run or checkpoint that it was made from")
        )
    content = b""
    try:
        with open(path, "rb") as file:
            state = read_archive(file)
            if whole:
                file.seek(0)
                content = file.read()
    except Exception as error:
        last = path.with_name("last.pt")
        other = f"pass {last}" if path.name == "best.pt" and last.exists() else "pass another one of the same run"
        raise CheckpointError(
            f"{path} is damaged or no checkpoint ({type(error).__name__}); {other} (--resume takes of a run directory "
            "the newest that can be read)"
        ) from error
    if not isinstance(state, dict) or "format_version" not in state:
        raise CheckpointError(f"{path} was not written by ballbot.ppo (no format_version); pass a checkpoint of a run")
    if state["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {state['format_version']}, this program reads {FORMAT_VERSION}; "
            "use the version of the program that wrote it"
        )
    try:
        return from_plain(state), content
    except Exception as error:
        raise CheckpointError(f"{path} is damaged ({error}); pass another checkpoint of the same run") from error


def run_dir_of(path: str | Path) -> Path:
    """The run directory that `path` is, or that the checkpoint `path` lies in."""
    path = Path(path)
    if path.is_dir():
        return path
    folder = path.parent
    if folder.name == "abandoned":
        folder = folder.parent
    return folder.parent if folder.name == "checkpoints" else folder


def policy_file(path: str | Path) -> Path:
    """The file of a policy: `path` itself, or of a run directory best.pt, or last.pt if it was not evaluated yet."""
    path = Path(path)
    if not path.is_dir():
        return path
    names = ("best.pt", "last.pt")
    return next((path / name for name in names if (path / name).exists()), path / names[0])


def find_checkpoint(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """Read the training checkpoint `path`, or the newest one that can be read in the run directory `path`.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path)
    candidates = [path]
    if path.is_dir():
        steps = sorted(path.glob("checkpoints/step_*.pt"), key=_step_of, reverse=True)
        candidates = [p for p in [path / "last.pt", *steps] if p.is_file()]
        if not candidates:
            raise CheckpointError(
                f"{path} holds no checkpoint (last.pt or checkpoints/step_<N>.pt); start a new run under another name, "
                "or delete this one first"
            )
    for i, candidate in enumerate(candidates):
        try:
            state = load_checkpoint(candidate)
        except CheckpointError as error:
            if i + 1 == len(candidates):
                raise
            print(f"warning: {error}\nwarning: trying {candidates[i + 1]} instead")
            continue
        if state.get("kind") != "training":
            raise CheckpointError(f"{candidate} holds a policy only; resume from last.pt or checkpoints/step_<N>.pt")
        return candidate, state
    raise AssertionError("unreachable")


def prune_checkpoints(directory: Path, keep: int, written: Path) -> None:
    """Delete all but `keep` of the step_<N>.pt in `directory`: the one just `written` and the highest N."""
    others = sorted((path for path in directory.glob("step_*.pt") if path != written), key=_step_of, reverse=True)
    for path in others[keep - 1 :]:
        path.unlink()


def remove_parts(folder: Path, of: str = "*") -> None:
    """Delete what `write_atomic` leaves of a file (of all, if not told) when the program is killed.

    Only for the one process that writes there.
    """
    for path in folder.glob(f".{of}.*.tmp"):
        path.unlink(missing_ok=True)


def tidy(run_dir: Path, resumed: Path, step: int, keep: int, numbered: bool) -> None:
    """Make of what a killed program left what a stopped one leaves: no parts of files, no surplus checkpoints.

    If the checkpoint of this step is to be `numbered`, `resumed` becomes it.  Only for the process that holds the run's
    lock.
    """
    for folder in (run_dir, run_dir / "checkpoints", run_dir / "videos"):
        remove_parts(folder)
    for path in run_dir.glob(".write_test_*"):
        path.unlink(missing_ok=True)
    written = run_dir / "checkpoints" / f"step_{step}.pt"
    if numbered and not written.exists():  # killed after last.pt
        write_atomic(written, resumed.read_bytes())
    prune_checkpoints(written.parent, keep, written)  # killed before it deleted old ones


def set_aside_newer(run_dir: Path, resumed: Path, step: int, best_too: bool = False) -> list[Path]:
    """Make `resumed`, the checkpoint of `step`, the newest one of its run.

    Whatever the run saved later is moved to checkpoints/abandoned, so that the branch about to be learned neither
    mixes with it nor overwrites it; progress.csv is copied there, and a copy of `resumed` becomes last.pt. A last.pt
    or best.pt that cannot be read stays. `best_too` moves best.pt whenever it was saved: later ones will not be
    comparable.

    Returns:
        the new places of what was moved.
    """
    newer = [path for path in (run_dir / "checkpoints").glob("step_*.pt") if _step_of(path) > step]
    steps = {_step_of(path) for path in newer}
    for path in (run_dir / "last.pt", run_dir / "best.pt"):
        try:
            written_at = load_checkpoint(path).get("global_step", 0)
        except CheckpointError:
            continue
        # last.pt is a copy of the newest step_<N>.pt, unless somebody removed that one
        if path.name == "best.pt":
            if best_too or written_at > step:
                newer.append(path)
        elif written_at > step and written_at not in steps:
            newer.append(path)
    if not newer:
        return []
    folder = run_dir / "checkpoints" / "abandoned"
    folder.mkdir(exist_ok=True)

    def place(path: Path) -> Path:
        target, copies = folder / path.name, 1
        while os.path.lexists(target):
            copies += 1
            target = folder / f"{path.stem}-{copies}{path.suffix}"
        return target

    if (run_dir / "progress.csv").exists():
        shutil.copyfile(run_dir / "progress.csv", place(run_dir / "progress.csv"))
    moved = [path.rename(place(path)) for path in newer]
    write_atomic(run_dir / "last.pt", resumed.read_bytes())
    return moved


def _step_of(path: Path) -> int:
    digits = path.stem.removeprefix("step_")
    return int(digits) if digits.isdecimal() else -1
