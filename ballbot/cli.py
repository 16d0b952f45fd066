"""What the programs in experiments/ have in common: how they end, and what they may write.

@program
def main(argv: list[str] | None = None) -> int:
...

if __name__ == "__main__":
sys.exit(main())
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, get_type_hints

from ballbot.errors import BallbotError, SettingsError
from ballbot.settings import check_value
from mujoco_patch import ContactFixError

EXPECTED = (
    BallbotError, ContactFixError, ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError
)  # fmt: skip
"""What has its message printed instead of a traceback."""
PACKAGES = {"imageio_ffmpeg": "imageio[ffmpeg]", "onnx": "onnx onnxruntime onnxscript", "onnxruntime": "onnxruntime"}
"""Module -> what to install, where that is called otherwise."""


def program(main: Callable[..., int], expected: tuple[type[BaseException], ...] = EXPECTED) -> Callable[..., int]:
    """A ``main`` that ends as programs should.

    Its exit status is what ``main`` returns; 2 after "error: ..." in one line for bad input and faults of the machine;
    130 if it was interrupted; 141, as in a shell, if nobody reads what it prints any more.  Characters that standard
    output cannot encode are printed as escapes.

    Args:
        main: takes a list of options, or None for those of the command line, and perhaps more by name; returns an
            exit status.
        expected: errors whose message is printed; others keep their traceback.
    """

    @wraps(main)
    def run(argv: list[str] | None = None, **others: Any) -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            try:
                return main(argv, **others)
            finally:
                sys.stdout.flush()  # here, where a closed pipe is still caught
        except BrokenPipeError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
            return 141
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 130
        except expected as error:
            print(f"error: {explain(error)}", file=sys.stderr)
            return 2

    return run


def explain(error: BaseException) -> str:
    """The error's message in one line, with a remedy where Python gives none."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        return f"out of memory ({text})"
    if isinstance(error, ModuleNotFoundError) and error.name and "pip install" not in text:
        package = error.name.split(".")[0]
        return f"{package} is missing: pip install {PACKAGES.get(package, package)}"
    return text


def check_options(args: Any) -> None:
    """Check a program's options against the types and ranges in their annotations.

    Raises:
        SettingsError: an option is out of range; the message names it as the command line does.
    """
    for name, hint in get_type_hints(type(args), include_extras=True).items():
        check_value(f"--{name.replace('_', '-')}", getattr(args, name), hint)


def check_output(path: Path, option: str, endings: tuple[str, ...] = (), keep: Iterable[Path | None] = ()) -> None:
    """Whether a file can be written.

    Args:
        path: the file; one that exists will be replaced.
        option: of the command line, that it was given by.
        endings: that its name may have; all, if empty.
        keep: files that must not be replaced.

    Raises:
        SettingsError: (a ValueError) it cannot; the message names option, file and remedy.
    """
    folder = path.parent
    if path.is_dir():
        raise SettingsError(f"{option} {path} is a folder: give a file in it")
    if endings and path.suffix not in endings:
        raise SettingsError(f"{option} {path} must end in {' or '.join(endings)}")
    if path.exists() and not path.is_file():
        raise SettingsError(f"{option} {path} is no ordinary file: give another one")
    if path.exists():
        for other in keep:
            if other is not None and other.exists() and os.path.samefile(path, other):
                raise SettingsError(f"{option} {path} would overwrite what is read from it: give another file")
    if not folder.is_dir():
        raise SettingsError(f"{option} {path}: there is no folder {folder}; make it first")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SettingsError(f"{option} {path} cannot be written ({error.strerror}): choose another folder") from error


def make_folder(folder: Path, option: str, name: str) -> None:
    """Make a folder, if there is none yet, in which a file of this name can be written.

    Args:
        folder: to be made, with those that it lies in.
        option: of the command line, that it was given by.
        name: of the file, which will be replaced.

    Raises:
        SettingsError: (a ValueError) it cannot; the message names option, folder and remedy.
    """
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{option} {folder} is a file: give a folder, for {name}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{option} {folder} cannot be made ({error.strerror}): give another one") from error
    check_output(folder / name, option)
