"""Programs that start in a moment and die at a chosen one.

A server has imported everything and forks a process for each program, so that two hundred kills take minutes.  What
the program does with files below its working folder is watched by an audit hook; the server kills it (SIGKILL) just
before such an operation, or some time after it, or some time after the start.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SCRIPTS = ("ppo_ballbot", "distill", "collect_depth", "pretrain_encoder")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.copyfile")


@dataclass(frozen=True)
class Kill:
    """When to kill a program."""

    operation: int = 0
    """At this operation on files, counted from 1; 0: regardless of them."""
    delay: float = 0.0
    """s after it, or after the start; with an operation, 0 is just before it."""
    on: str = ""
    """Of ``KINDS``: operations on other files are not counted."""


KINDS = (
    ("encoder", "an encoder"),
    (".pt", "a checkpoint"),
    ("progress.csv", "progress.csv"),
    ("tfevents", "TensorBoard's events"),
    ("images.u16", "images"),
    ("records.bin", "records"),
    ("card.json", "a card"),
    ("", "another file or folder"),
)
"""Part of a name -> what that is."""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    """Exit status, or minus the signal that killed it."""
    operations: int
    """On files, as far as it came."""
    last: str
    """What the last one was on; "" without any."""
    output: str

    @property
    def killed(self) -> bool:
        """Whether the kill came before the end."""
        return self.code == -signal.SIGKILL


class Programs:
    """The server, for a ``with`` block."""

    def __enter__(self) -> Self:
        path = os.pathsep.join([str(EXPERIMENTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def run(self, script: str, arguments: list[str], folder: Path, kill: Kill | None = None) -> Ended:
        """Run experiments/<script>.py with these arguments in a folder, to its end or its death."""
        assert self._server.stdin is not None and self._server.stdout is not None
        request = {"script": script, "arguments": arguments, "folder": str(folder.resolve())}
        self._server.stdin.write(json.dumps(request | {"kill": None if kill is None else asdict(kill)}) + "\n")
        self._server.stdin.flush()
        return Ended(**json.loads(self._server.stdout.readline()))


def start(
    script: str, arguments: list[str], folder: Path, launcher: Sequence[str] = (), **variables: str
) -> subprocess.Popen[str]:
    """Run experiments/<script>.py beside the caller, in a process that nothing watches."""
    command = [sys.executable, *launcher, str(EXPERIMENTS / f"{script}.py"), *arguments]
    pipe, environment = subprocess.PIPE, os.environ | variables
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def assert_equal(a: Any, b: Any, where: str = "checkpoint") -> None:
    """Nested tensors, arrays and plain values are of the same types and hold the same bits."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, where
        np.testing.assert_array_equal(a, b, where)
    else:
        assert a == b, where


def serve() -> None:
    """Run what is asked for on standard input, a line each."""
    mains = {name: importlib.import_module(name).main for name in SCRIPTS}
    for line in sys.stdin:
        request = json.loads(line)
        kill = None if request["kill"] is None else Kill(**request["kill"])
        log = Path(request["folder"]) / ".output"
        watched, watching = os.pipe()
        if (program := os.fork()) == 0:
            os.close(watched)
            _become(mains[request["script"]], request["arguments"], request["folder"], log, kill, watching)
        os.close(watching)
        operations, last = _watch(program, watched, kill)
        os.close(watched)
        code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
        told = {"code": code, "operations": operations, "last": last, "output": log.read_text()}
        print(json.dumps(told), flush=True)


def _watch(program: int, watched: int, kill: Kill | None) -> tuple[int, str]:
    """Kill the program when it is time; returns the operations it began, and what the last one was on."""
    operations, counted, last, due = 0, 0, "", None if kill is None or kill.operation else time.monotonic() + kill.delay
    while True:
        left = None if due is None else max(due - time.monotonic(), 0.0)
        if not select.select([watched], [], [], left)[0]:
            os.kill(program, signal.SIGKILL)
            return operations, last
        kinds = os.read(watched, 65536)
        if not kinds:
            return operations, last
        names = [KINDS[kind][1] for kind in kinds]
        operations, last = operations + len(names), names[-1]
        if kill is not None and kill.operation:
            counted += sum(kill.on in ("", name) for name in names)
            if due is None and counted >= kill.operation:
                due = time.monotonic() + kill.delay


def _become(main: Any, arguments: list[str], folder: str, log: Path, kill: Kill | None, watching: int) -> None:
    """Be the program, in the forked process; does not return."""
    code = 70
    try:
        os.chdir(folder)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        count = 0

        def hook(event: str, details: tuple[Any, ...]) -> None:
            nonlocal count
            if event == "open":
                path, mode, flags = details
                relevant = bool(flags & WRITING) or (mode is None and isinstance(path, str) and os.path.isdir(path))
            else:
                relevant = event in CHANGES
                path = details[0] if relevant else None
            if not relevant or not isinstance(path, (str, os.PathLike)):
                return
            if not os.path.abspath(path).startswith(folder):
                return
            kind = next(i for i, (part, _) in enumerate(KINDS) if part in os.path.basename(path))
            os.write(watching, bytes([kind]))
            count += kill is not None and kill.on in ("", KINDS[kind][1])
            if kill is not None and kill.operation == count and kill.delay == 0:
                time.sleep(60)  # until killed

        sys.addaudithook(hook)
        try:
            code = main(arguments) or 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
