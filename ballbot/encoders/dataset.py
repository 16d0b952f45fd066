"""Depth images on disk: millions of them, memory-mapped, with where each one comes from.

A data set is a folder:

- ``images.u16``: one image after the other, little-endian uint16; 65535 stands for ``max_depth``, so a step is 15
  micrometres and an image of 64 x 64 takes 8 KiB;
- ``records.bin``: for each image, the terrain it shows, the camera, and the robot's pose (``RECORD``);
- ``card.json``: the images' shape and range, how many there are, CRC-32 of the other files so far and of what the card
  itself says, and how the images were made.

Images are appended.  The card is replaced last, as a whole: what it counts is complete, and whatever a crash or a full
disk left behind it is overwritten when collecting goes on.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.errors import BallbotError
from ballbot.ppo.checkpoint import not_through_links, read_small, remove_parts, write_atomic

FORMAT_VERSION = 2
"""Of what is written; the first had no checksum of the card, and at first none of images and records."""
FULL_SCALE = 65535
MAX_DEPTH = 1e4
"""m; more is no depth camera's."""
MAX_IMAGES = 10**12
MAX_TERRAINS = 10**6
MAX_CARD_BYTES = 2**24
"""Of a card.json; a data set's has two thousand."""
CHUNK_BYTES = 2**24
"""Read at a time."""
RECORD = np.dtype(
    [
        ("terrain", "<i4"),  # terrain_id in the card's split and seed
        ("camera", "<i4"),
        ("block", "<i4"),  # which block of the collection, hence which policy: see the card
        ("base", "<f4", (7,)),  # position in m, quaternion w first
        ("ball", "<f4", (3,)),  # position in m
    ]
)


class DatasetError(BallbotError, RuntimeError):
    """A data set is missing, damaged, or of other cameras; the message names the folder and the remedy."""


class DepthDataset:
    """A data set to read, or to append to.

    Args:
        folder: where it is.

    Raises:
        DatasetError: there is none, it is damaged, or shorter than its card says.  All of it is read to find out, a
            gigabyte a second.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.card = self._read_card()
        self.height, self.width = (int(x) for x in self.card["shape"])
        for name, size in (("images.u16", 2 * self.height * self.width), ("records.bin", RECORD.itemsize)):
            path = self.folder / name
            found = path.stat().st_size // size if path.is_file() else 0
            if found < len(self):
                raise DatasetError(
                    f"{path} holds {found} images, the card says {len(self)}: it was truncated; collect it again"
                )
            wanted = self.card.get("crc32", {}).get(name)
            if wanted is None and self.card["format_version"] == 1:
                continue
            if checksum(path, len(self) * size) != wanted:
                raise DatasetError(f"{path} does not match its checksum: it was changed or damaged; copy it again")

    @classmethod
    def create(
        cls, folder: str | Path, shape: tuple[int, int], max_depth: float, provenance: dict[str, Any]
    ) -> DepthDataset:
        """An empty data set.

        Args:
            folder: made if need be; must hold no images.
            shape: (height, width) of the images.
            max_depth: m, that the largest number stands for.
            provenance: plain data: how the images are made.

        Raises:
            DatasetError: there is one already.
            OSError: the folder cannot be written.
        """
        folder = Path(folder)
        if (folder / "card.json").exists() and len(cls(folder)):
            raise DatasetError(f"{folder} already holds a data set: choose another folder")
        images = folder / "images.u16"
        if images.exists() and images.stat().st_size and not (folder / "card.json").exists():
            raise DatasetError(
                f"{images} holds images whose card.json is missing: put it back, or choose another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("images.u16", "records.bin"):
            open(folder / name, "wb", opener=not_through_links).close()
        card = {
            "format_version": FORMAT_VERSION,
            "shape": list(shape),
            "max_depth": max_depth,
            "num_images": 0,
            "crc32": {"images.u16": 0, "records.bin": 0},
            "provenance": provenance,
        }
        _write_card(folder, card)
        return cls(folder)

    def __len__(self) -> int:
        return int(self.card["num_images"])

    @property
    def max_depth(self) -> float:
        """m, the largest depth."""
        return float(self.card["max_depth"])

    @property
    def stored(self) -> NDArray[np.uint16]:
        """(images, height, width) uint16, memory-mapped."""
        if not len(self):
            return np.zeros((0, self.height, self.width), np.uint16)
        return np.memmap(self.folder / "images.u16", "<u2", "r", shape=(len(self), self.height, self.width))

    @property
    def records(self) -> NDArray[Any]:
        """(images,) of ``RECORD``."""
        return np.fromfile(self.folder / "records.bin", RECORD, len(self))

    def images(self, indices: NDArray[Any]) -> NDArray[np.float32]:
        """(k, height, width) float32 depth in m of the images with these indices."""
        images = self.stored[indices] * np.float32(self.max_depth / FULL_SCALE)
        return np.minimum(images, np.float32(self.max_depth), out=images)  # the product may be rounded up

    def append(self, images: NDArray[np.float32], records: NDArray[Any]) -> None:
        """Add images, (k, height, width) depth in m, and their (k,) ``RECORD``; all of them or, on an error, none.

        Raises:
            ValueError: another shape or range.
            DatasetError: another program has written to the folder since it was opened.
            OSError: they cannot be written; what was there before stays readable.
        """
        if images.shape != (len(records), self.height, self.width) or records.dtype != RECORD:
            raise ValueError(
                f"images {images.shape} and records {records.dtype} {records.shape} do not fit a data set of "
                f"{self.height} x {self.width} images"
            )
        if not (images.min(initial=0) >= 0 and images.max(initial=0) <= self.max_depth):
            raise ValueError(f"images hold depths outside 0 to {self.max_depth:g} m")
        if not len(records):
            return
        if self._read_card() != self.card:
            raise DatasetError(f"{self.folder} was changed by another program: stop it, then go on")
        steps = np.rint(images * np.float32(FULL_SCALE / self.max_depth)).astype("<u2")
        start, crcs = len(self), dict(self.card.get("crc32", {}))
        for name, array in (("images.u16", steps), ("records.bin", records)):
            data = np.ascontiguousarray(array).tobytes()
            if name not in crcs:  # as in data sets of the first version
                crcs[name] = checksum(self.folder / name, start * array[0].nbytes)
            crcs[name] = zlib.crc32(data, crcs[name])
            try:
                with open(self.folder / name, "r+b", opener=not_through_links) as file:
                    file.truncate(start * array[0].nbytes)
                    file.seek(0, os.SEEK_END)
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"cannot write to {self.folder / name} ({error.strerror}); its {start} images are safe: make room, "
                    "then go on",
                ) from error
        card = self.card | {"format_version": FORMAT_VERSION, "num_images": start + len(records), "crc32": crcs}
        _write_card(self.folder, card)
        self.card = card

    def split_by_terrain(self, validation: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices for training and for validation; no terrain is in both.

        Args:
            validation: share of the terrains to validate with.
            seed: of the draw.

        Raises:
            DatasetError: fewer than two terrains.
        """
        terrain = self.records["terrain"]
        terrains = np.unique(terrain)
        in_all = int(terrains.max(initial=0)) + 1
        if terrains.min(initial=0) < 0 or in_all > MAX_TERRAINS:
            raise DatasetError(f"{self.folder / 'records.bin'} is damaged (terrains {terrains[0]} to {terrains[-1]})")
        said = self.card["provenance"].get("terrain")
        count = said.get("count") if isinstance(said, dict) else None
        if type(count) is int and count <= MAX_TERRAINS:
            in_all = max(in_all, count)  # all there may be, so that a data set that grows keeps its parts
        if len(terrains) < 2:
            raise DatasetError(
                f"{self.folder} shows {len(terrains)} terrains: at least two are needed to validate on terrains never "
                "trained on; collect more"
            )
        rng = np.random.default_rng(seed)
        count = min(max(1, round(validation * in_all)), in_all - 1)
        mask = np.isin(terrain, rng.choice(in_all, count, replace=False))
        if mask.all() or not mask.any():  # of few terrains, those that are there may all be in one part
            mask = terrain == rng.choice(terrains)
        return np.flatnonzero(~mask), np.flatnonzero(mask)

    def _read_card(self) -> dict[str, Any]:
        path = self.folder / "card.json"
        try:
            card = json.loads(read_small(path, MAX_CARD_BYTES))
        except FileNotFoundError:
            raise DatasetError(
                f"{self.folder} holds no data set (no card.json): make one with collect_depth.py"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise DatasetError(f"{path} cannot be read ({error}): copy or collect the data set again") from error
        if not isinstance(card, dict) or card.get("format_version") not in (1, FORMAT_VERSION):
            raise DatasetError(f"{path} is no card of format version 1 or {FORMAT_VERSION}: collect the data set again")
        told = card.pop("checksum", None)
        if card["format_version"] == FORMAT_VERSION and told != card_checksum(card):
            raise DatasetError(f"{path} does not match its checksum: it was changed or damaged; copy it again")
        shape, count, depth = card.get("shape"), card.get("num_images"), card.get("max_depth")
        sound = (
            isinstance(shape, list)
            and len(shape) == 2
            and all(type(x) is int and 1 <= x <= 4096 for x in shape)
            and type(count) is int
            and 0 <= count <= MAX_IMAGES
            and isinstance(depth, (int, float))
            and not isinstance(depth, bool)
            and 0 < depth <= MAX_DEPTH
        )
        if not sound:
            raise DatasetError(
                f"{path} is damaged (shape {shape}, {count} images, max_depth {depth}): copy or collect it again"
            )
        crcs = card.get("crc32", {})
        if not (isinstance(crcs, dict) and all(type(x) is int and 0 <= x < 2**32 for x in crcs.values())):
            raise DatasetError(f"{path} is damaged (checksums {crcs}): copy or collect the data set again")
        if not isinstance(card.get("provenance"), dict):
            raise DatasetError(f"{path} does not say how the images were made: copy or collect the data set again")
        return card


def checksum(path: Path, size: int) -> int:
    """CRC-32 of the first bytes of a file."""
    crc = 0
    with open(path, "rb") as file:
        while size > 0 and (data := file.read(min(size, CHUNK_BYTES))):
            crc = zlib.crc32(data, crc)
            size -= len(data)
    return crc


def card_checksum(card: dict[str, Any]) -> int:
    """CRC-32 of what a card says besides."""
    return zlib.crc32(json.dumps(card, sort_keys=True).encode())


def _write_card(folder: Path, card: dict[str, Any]) -> None:
    remove_parts(folder, "card.json")  # as append() is for one program at a time
    card = json.loads(json.dumps(card))  # as it will be read
    card["checksum"] = card_checksum(card)
    write_atomic(folder / "card.json", json.dumps(card, indent=2).encode())
