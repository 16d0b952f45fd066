"""C++ that is compiled for tests, against onnxruntime."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CPP = Path(__file__).parents[1] / "ballbot" / "deployment" / "cpp"
INCLUDES = ("/usr/include", "/usr/include/onnxruntime", "/usr/local/include", "/usr/local/include/onnxruntime")
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wsign-conversion", "-Werror")


def compiler() -> str:
    """Of C++; skips the test where there is none."""
    found = shutil.which(os.environ.get("CXX", "c++"))
    if found is None:
        pytest.skip("no C++ compiler: apt install g++")
    return found


def onnxruntime_include() -> str:
    """The folder of onnxruntime's C++ headers; skips the test where there are none."""
    for folder in (os.environ.get("ORT_INCLUDE", ""), *INCLUDES):
        if folder and (Path(folder) / "onnxruntime_cxx_api.h").is_file():
            return folder
    pytest.skip(
        "no C++ headers of onnxruntime, which its wheel has not: apt install libonnxruntime-dev, or set ORT_INCLUDE to "
        "the folder include of a release"
    )


def onnxruntime_lib(folder: Path) -> Path:
    """A folder with the library that the wheel brings, under the names that linkers look for."""
    wheel = Path(pytest.importorskip("onnxruntime").__file__).parent / "capi"
    found = sorted(wheel.glob("libonnxruntime.so.1.*"))
    if not found:
        pytest.skip(f"onnxruntime's wheel brings no shared library for this system: {wheel}")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(found[-1])
    return folder


def build(source: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Compile a program with the runtime, warnings are errors; the caller looks at the result."""
    command = [compiler(), "-std=c++17", "-O1", *WARNINGS, f"-I{CPP}", str(source), "-o", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def build_with_onnxruntime(source: Path, out: Path, *options: str) -> Path:
    """The same linked with onnxruntime; it must compile."""
    include = onnxruntime_include()
    lib = onnxruntime_lib(out.parent)
    linked = (f"-L{lib}", "-lonnxruntime", f"-Wl,-rpath,{lib}", "-pthread")
    done = build(source, out, "-isystem", include, *options, *linked)
    assert done.returncode == 0, done.stderr[:4000]
    return out
