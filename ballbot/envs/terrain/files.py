"""Ground from a height map of one's own: a greyscale PNG of 8 or 16 bits, or a NumPy array."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.terrain.grid import CELL, SPLITS, Array, Grid, Ground
from ballbot.envs.terrain.perlin import MAX_HEIGHT
from ballbot.envs.terrain.shapes import level_places
from ballbot.errors import SettingsError
from ballbot.settings import Range, check_settings

MAX_PIXELS = 32_000_000
"""Of a map; decoded they take 128 MB."""
MIN_PIXELS = 4
"""Of a map's shorter side."""
ORIENTATIONS = {
    "train": ((0, False), (1, False), (2, False), (3, False)),
    "validation": ((0, True), (2, True)),
    "eval": ((1, True), (3, True)),
}
"""Quarter turns, and whether the map is mirrored before."""
_COLOURS = {0: "greyscale", 2: "RGB", 3: "a palette", 4: "greyscale with transparency", 6: "RGB with transparency"}


@dataclass(frozen=True)
class File:
    """A height map of your own.

    Each field shows a window of it as large as the field, at a place, turned and mirrored as the seed says.

    One map cannot give three sets of ground that have nothing in common.  What differs for certain is the orientation:
    to train on, the map is turned by any quarter; to choose and to judge by, it is mirrored, and turned by an even or
    an odd number of quarters.  A map at least three fields long is cut into three bands besides, of which each split
    has one: then ground to judge on was never seen.  Otherwise keep back a second map for that.
    """

    cell: ClassVar[float] = CELL
    rolled: ClassVar[bool] = True

    path: str = ""
    """Of the map: a greyscale .png of 8 or 16 bits, or an .npy of floats or whole numbers, row along y."""
    side: Annotated[float, Range(0.1, 10_000)] | None = None
    """Length of the map's shorter side, m; None: as long as the field."""
    max_height: Annotated[float, Range(0, 100)] | None = None
    """Of the map's highest place above its lowest, m; None: floats are metres as they are, whole numbers span 0.1 m."""

    def __post_init__(self) -> None:
        check_settings(self)

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """Lower in proportion to the difficulty; of no split, so in any orientation and anywhere on the map."""
        every = tuple(orientation for part in ORIENTATIONS.values() for orientation in part)
        return self._window(rng, grid, difficulty, every, None)

    def for_split(self, split: str) -> FilePart:
        """What makes the fields of one split."""
        return FilePart(self, split)

    def _window(
        self,
        rng: np.random.Generator,
        grid: Grid,
        difficulty: float,
        orientations: tuple[tuple[int, bool], ...],
        band: int | None,
    ) -> Ground:
        heights, metres = read_map(self.path)
        height = self.max_height if self.max_height is not None or metres else MAX_HEIGHT
        side = grid.length if self.side is None else self.side
        pixel = side / (min(heights.shape) - 1)
        spans = [(number - 1) * pixel for number in heights.shape]  # m along rows and columns
        if grid.length > side * (1 + 1e-9):
            raise SettingsError(
                f"path={self.path!r} shows {side:g} m along its shorter side and the field is {grid.length:g} m long: "
                "use a side at least as long"
            )
        turns, mirrored = orientations[rng.integers(len(orientations))]
        free = [span - grid.length for span in spans]
        first = [share * max(room, 0.0) for share, room in zip(rng.random(2), free, strict=True)]
        longer = int(np.argmax(spans))
        if band is not None and spans[longer] >= 3 * grid.length:
            third = spans[longer] / 3
            first[longer] = band * third + first[longer] / free[longer] * (third - grid.length)
        window = _sample(heights, pixel, grid, first[0], first[1]).astype(np.float64)
        if height is not None:
            low, high = float(heights.min()), float(heights.max())
            window *= height / max(high - low, 1e-30)
        window = np.rot90(window[:, ::-1] if mirrored else window, turns) * difficulty
        return Ground(window, level_places(window, grid, 4))


@dataclass(frozen=True)
class FilePart:
    """The part of a height map that is for one split."""

    file: File
    split: str

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        """As ``File.make``, in this split's orientations and band."""
        return self.file._window(rng, grid, difficulty, ORIENTATIONS[self.split], SPLITS[self.split])


def read_map(path: str) -> tuple[NDArray[np.float32], bool]:
    """A height map, and whether its numbers are floats; what it claims to be is checked before it is decoded.

    Raises:
        SettingsError: there is no such file, it is of another kind, too large or too small, or holds NaN.
    """
    file, size = find_map(path)
    return _read(str(file), file.stat().st_mtime_ns, size)


def find_map(path: str) -> tuple[Path, int]:
    """The file of a height map, and its bytes.

    Raises:
        SettingsError: there is no such file.
    """
    if not path:
        raise SettingsError("path must name a height map, a .png or .npy file, got ''")
    try:
        file = Path(path).expanduser()
        return file, file.stat().st_size
    except (OSError, ValueError, RuntimeError) as error:
        raise SettingsError(
            f"height map {path!r} cannot be opened: {getattr(error, 'strerror', error)}; paths start at the folder "
            f"{Path.cwd()}, and runs keep copies in their folder height_maps"
        ) from error


@lru_cache(maxsize=2)
def _read(path: str, modified: int, size: int) -> tuple[NDArray[np.float32], bool]:
    readers = {".png": _read_png, ".npy": _read_npy}
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        raise SettingsError(f"height map {path!r} must be a .png or an .npy file")
    try:
        values = reader(path)
    except SettingsError:
        raise
    except ImportError as error:
        raise SettingsError(f"height map {path!r} needs Pillow to be read: pip install pillow") from error
    except Exception as error:  # decoders raise all kinds on damaged files
        raise SettingsError(f"height map {path!r} cannot be read, it is damaged: {error}") from error
    metres = bool(np.issubdtype(values.dtype, np.floating))
    with np.errstate(over="ignore"):  # to infinity, which is told below
        heights = values.astype(np.float32)
    if not np.isfinite(heights).all():
        wrong = int((~np.isfinite(heights)).sum())
        raise SettingsError(f"height map {path!r} has {wrong} values that are NaN or infinite: fill them in")
    return heights, metres


def _read_png(path: str) -> NDArray[Any]:
    with open(path, "rb") as file:
        header = file.read(33)
    if len(header) < 33 or header[:8] != b"\x89PNG\r\n\x1a\n" or header[12:16] != b"IHDR":
        raise SettingsError(f"height map {path!r} is no PNG file, whatever its name says")
    width, height, depth, colour = struct.unpack(">IIBB", header[16:26])
    _check_size(path, (height, width))
    if colour != 0 or depth not in (8, 16):
        kind = _COLOURS.get(colour, f"colour type {colour}")
        raise SettingsError(f"height map {path!r} is {kind} of {depth} bits: save it as greyscale of 8 or 16 bits")
    from PIL import Image  # comes with TensorBoard; nothing else needs it

    with Image.open(path) as image:
        return np.array(image)


def _read_npy(path: str) -> NDArray[Any]:
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise SettingsError(f"height map {path!r} is an .npy file of version {version}: save plain numbers")
        shape, _, dtype = read(file)
    if dtype.kind not in "iuf":
        raise SettingsError(f"height map {path!r} holds {dtype}: save floats (m) or whole numbers")
    if len(shape) != 2:
        raise SettingsError(
            f"height map {path!r} has the shape {shape}, expected two axes: rows along y, columns along x"
        )
    _check_size(path, shape)
    return np.asarray(np.load(path, allow_pickle=False))


def _check_size(path: str, shape: tuple[int, ...]) -> None:
    rows, columns = shape
    if rows * columns > MAX_PIXELS:
        raise SettingsError(
            f"height map {path!r} has {columns:,} x {rows:,} pixels, more than {MAX_PIXELS:,}: crop or shrink it"
        )
    if min(shape) < MIN_PIXELS:
        raise SettingsError(f"height map {path!r} has {columns} x {rows} pixels, expected {MIN_PIXELS} or more a side")


def _sample(heights: NDArray[np.float32], pixel: float, grid: Grid, row: float, column: float) -> Array:
    """Heights on a grid whose corner of least x and y lies ``row`` and ``column`` m inside the map; bilinear."""
    along = []
    for start, number in ((row, heights.shape[0]), (column, heights.shape[1])):
        place = np.clip((start + grid.axis + grid.half) / pixel, 0, number - 1)
        first = np.minimum(place.astype(np.intp), number - 2)
        along.append((first, place - first))
    (rows, v), (columns, u) = along
    lower, upper = heights[rows][:, columns[0] : columns[-1] + 2], heights[rows + 1][:, columns[0] : columns[-1] + 2]
    lines = lower * (1 - v)[:, None] + upper * v[:, None]
    columns = columns - columns[0]
    return np.asarray(lines[:, columns] * (1 - u) + lines[:, columns + 1] * u)
