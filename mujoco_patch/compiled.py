"""Where the compiled forms of this project's C sources lie; every source falls back to Python without one."""

import sys
from pathlib import Path


def library_candidates(folder: Path, name: str) -> list[Path]:
    """Compiled forms of a source in a folder, this Python's own before any other's.

    Args:
      folder: where the extension module was installed.
      name: of the extension module, such as "_contact_fix".
    """
    return sorted(
        (p for p in folder.glob(f"{name}*") if p.suffix in (".so", ".pyd", ".dylib", ".dll")),
        key=lambda p: (sys.implementation.cache_tag or "").replace("-", "") not in p.name.replace("-", ""),
    )
