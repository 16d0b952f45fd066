"""Refuse what cannot be written before the work begins, not after it, and print what a terminal cannot show."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path


def check_output(path: Path, option: str, endings: tuple[str, ...] = (), keep: Iterable[Path | None] = ()) -> None:
    """Whether a file can be written.

    Args:
        path: the file; one that exists will be replaced.
        option: of the command line, that it was given by.
        endings: that its name may have; all, if empty.
        keep: files that must not be replaced.

    Raises:
        ValueError: it cannot; the message names option, file and remedy.
    """
    folder = path.parent
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder: give a file in it")
    if endings and path.suffix not in endings:
        raise ValueError(f"{option} {path} must end in {' or '.join(endings)}")
    if path.exists() and not path.is_file():
        raise ValueError(f"{option} {path} is no ordinary file: give another one")
    if path.exists():
        for other in keep:
            if other is not None and other.exists() and os.path.samefile(path, other):
                raise ValueError(f"{option} {path} would overwrite what is read from it: give another file")
    if not folder.is_dir():
        raise ValueError(f"{option} {path}: there is no folder {folder}; make it first")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{option} {path} cannot be written ({error.strerror}): choose another folder") from error


def print_anywhere() -> None:
    """Let what is printed hold characters that standard output cannot encode: they come as escapes, not as an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
