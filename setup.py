"""Build what is compiled, contact fix and ray casting, and put experiments/ into the package as ballbot/experiments.

Everything else about the package stands in pyproject.toml.

The libraries include no header of Python, MuJoCo or PyTorch and are loaded by ctypes, so one file each serves every
Python. They are built as extension modules only because installers can build those. Without a C compiler the package
installs all the same; the contact fix falls back to Python, the cameras to PyTorch.
"""

import gzip
import os
import sys
import sysconfig
import tarfile
from pathlib import Path

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.sdist import sdist

EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "1577836800"))
"""The date of every file in a source distribution, s since 1970; 2020 unless it is said."""


class ReproducibleSdist(sdist):  # type: ignore[misc]
    """A source distribution that is the same, byte for byte, whoever makes it and when."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, **options):  # type: ignore[no-untyped-def]
        """Pack base_dir in order, without dates and owners."""
        if format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, **options)

        def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = EPOCH, 0, 0, "", ""
            entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
            return entry

        name = f"{base_name}.tar.gz"
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        with (
            open(name, "wb") as file,
            gzip.GzipFile("", "wb", mtime=EPOCH, fileobj=file) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            top = Path(root_dir or ".", base_dir)
            for path in sorted(p for p in top.rglob("*") if p.is_file()):
                inside = path.relative_to(root_dir or ".").as_posix()
                archive.add(path, inside, recursive=False, filter=anonymous)
        return name


# setuptools refuses the stable ABI on free-threaded Pythons
stable_abi = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    packages=[*find_namespace_packages(include=["ballbot*", "mujoco_patch*"]), "ballbot.experiments"],
    package_dir={"ballbot.experiments": "experiments"},
    cmdclass={"sdist": ReproducibleSdist},
    ext_modules=[
        Extension(
            "mujoco_patch._contact_fix",
            sources=["mujoco_patch/contact_fix.c"],
            py_limited_api=stable_abi,
            optional=True,
        ),
        Extension(
            "ballbot.envs._height_rays",
            sources=["ballbot/envs/height_rays.c"],
            # without contraction compilers round alike; the other two let them use vector instructions
            extra_compile_args=[]
            if sys.platform == "win32"
            else ["-O3", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno"],
            py_limited_api=stable_abi,
            optional=True,
        ),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if stable_abi else {},
)
