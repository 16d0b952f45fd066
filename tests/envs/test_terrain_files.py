# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# mypy: disable-error-code="index,union-attr,arg-type"
"""Ground from a height map: what is in the file lies under the robot, and what cannot be used is refused by name."""

import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from ballbot.envs.terrain import TERRAINS, Ground, TerrainPool
from ballbot.errors import SettingsError

ROWS, COLUMNS = np.mgrid[0:101, 0:101].astype(float)
MAP = np.sin(ROWS / 17) + 0.5 * np.cos(COLUMNS / 9) + ROWS * COLUMNS / 9000  # unlike itself however it is turned
MAP -= MAP.min()
MAP *= 0.4 / MAP.max()


def save(path, values):
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)
    return str(path)


def turned(values):
    """All eight orientations."""
    return [np.rot90(part, k) for part in (values, values[:, ::-1]) for k in range(4)]


def orientation(pool, k, values):
    """Which of the eight a field shows."""
    axis = np.linspace(-4.999, 4.999, 101)
    xy = np.stack(np.meshgrid(axis, axis), axis=-1)[None]
    seen = pool.heights(np.array([k]), xy)[0]
    errors = [np.abs(seen - other).max() for other in turned(values)]
    assert min(errors) < 0.006  # bilinear, and some micrometres in from the edge
    return int(np.argmin(errors))


@pytest.mark.parametrize(("name", "values", "options"), [
    ("metres.npy", MAP, {}),
    ("metres.npy", MAP.astype(np.float32) + 100, {}),
    ("whole.npy", np.rint(MAP * 1e4).astype(np.int32) - 700, {"max_height": 0.4}),
    ("deep.png", np.rint(MAP / 0.4 * 65535).astype(np.uint16), {"max_height": 0.4}),
    ("shallow.png", np.rint(MAP / 0.4 * 255).astype(np.uint8), {"max_height": 0.4}),
    ("fortran.npy", np.asfortranarray(MAP), {}),
])  # fmt: skip
def test_the_map_is_the_ground(tmp_path, name, values, options):
    pool = TerrainPool(save(tmp_path / name, values), options, num=4)
    assert pool.kinds == ("file",)
    assert pool.tops == pytest.approx([0.4] * 4, rel=1e-3)  # the field's vertices miss the very top
    for k in range(4):
        orientation(pool, k, MAP)


def test_sixteen_bits_are_not_cut_to_eight(tmp_path):
    values = np.full((50, 50), 30000, np.uint16)
    values[10:20, 10:20] = 30001
    values[0, 0], values[49, 49] = 0, 65535
    pool = TerrainPool(save(tmp_path / "fine.png", values), {"max_height": 65.535}, num=1)
    between = pool.relief[0] * 65535
    assert np.abs(between - 30001).min() < 0.01 and np.abs(between - 30000).min() < 0.01


def test_whole_numbers_span_ten_centimetres_where_nothing_is_said(tmp_path):
    pool = TerrainPool(save(tmp_path / "map.png", (MAP * 600).astype(np.uint8)), num=1)
    assert pool.tops[0] == pytest.approx(0.1, rel=3e-3)


def test_difficulty_scales_a_map(tmp_path):
    pool = TerrainPool(save(tmp_path / "map.npy", MAP) + ":0.25", num=1)
    assert pool.tops[0] == pytest.approx(0.1, rel=3e-3)


def test_splits_never_share_an_orientation(tmp_path):
    path = save(tmp_path / "map.npy", MAP)
    shown = {}
    for split in ("train", "validation", "eval"):
        pool = TerrainPool(path, num=24, split=split)
        shown[split] = {orientation(pool, k, MAP) for k in range(24)}
    assert shown == {"train": {0, 1, 2, 3}, "validation": {4, 6}, "eval": {5, 7}}


def test_splits_of_a_map_three_fields_long_never_share_a_place(tmp_path):
    values = np.tile(np.linspace(0.0, 0.9, 901)[:, None], (1, 301))  # its height says which row it is: 0.03 m a metre
    path = save(tmp_path / "long.npy", values)
    rows = {}
    for split in ("train", "validation", "eval"):
        pool = TerrainPool(path, {"side": 10.5}, num=20, split=split)
        assert pool.tops == pytest.approx([0.9 / 31.5 * 10] * 20, rel=1e-3)
        rows[split] = pool
    # relief alone forgets how high a window lies: look at the windows themselves
    from ballbot.envs.terrain.files import File
    from ballbot.envs.terrain.grid import Grid

    low, high = {}, {}
    for split in rows:
        part = File(path, side=10.5).for_split(split)
        fields = [part.make(np.random.default_rng(k), Grid.covering(10.0), 1.0).heights for k in range(40)]
        low[split], high[split] = min(f.min() for f in fields), max(f.max() for f in fields)
    ends = sorted(zip(low.values(), high.values(), strict=True))
    assert ends[0][1] <= ends[1][0] + 1e-9 and ends[1][1] <= ends[2][0] + 1e-9
    assert ends[0][0] < 0.02 and ends[2][1] > 0.88


def test_windows_of_a_large_map_lie_at_many_places(tmp_path):
    pool = TerrainPool(save(tmp_path / "map.npy", MAP), {"side": 20.0}, num=12)
    assert len({round(float(top), 4) for top in pool.tops}) > 8


def png(width, height, depth, colour, rest=b""):
    """A PNG that begins like one of these."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + rest


def npy_header(shape, descr="<f4"):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


NAN = MAP.copy()
NAN[3, 4] = np.nan


@pytest.mark.parametrize(("name", "content", "message"), [
    ("missing.png", None, "No such file"),
    ("huge.png", png(40_000, 25_000, 16, 0), "40,000 x 25,000 pixels.*crop or shrink"),
    ("huge.npy", npy_header((31623, 31623)), "31,623 x 31,623 pixels.*crop or shrink"),
    ("colour.png", np.zeros((20, 20, 3), np.uint8), "RGB of 8 bits: save it as greyscale of 8 or 16"),
    ("alpha.png", np.zeros((20, 20, 4), np.uint8), "transparency of 8 bits: save it as greyscale"),
    ("ink.png", np.zeros((20, 20), bool), "greyscale of 1 bits: save it as greyscale of 8 or 16"),
    ("tiny.png", np.zeros((20, 2), np.uint8), "2 x 20 pixels, expected 4 or more"),
    ("damaged.png", png(20, 20, 8, 0, b"nothing more"), "cannot be read, it is damaged"),
    ("text.png", b"height map, honestly", "is no PNG file, whatever its name"),
    ("empty.png", b"", "is no PNG file"),
    ("cube.npy", np.zeros((5, 5, 5)), r"shape \(5, 5, 5\), expected two axes"),
    ("line.npy", np.zeros(50), r"shape \(50,\), expected two axes"),
    ("tiny.npy", np.zeros((1, 1)), "1 x 1 pixels, expected 4 or more"),
    ("nan.npy", NAN, "has 1 values that are NaN or infinite"),
    ("inf.npy", np.where(MAP > 0.3, np.inf, MAP), "NaN or infinite"),
    ("overflow.npy", MAP * 1e300, "NaN or infinite"),
    ("complex.npy", MAP.astype(complex), "holds complex128: save floats"),
    ("bool.npy", MAP > 0, "holds bool: save floats"),
    ("objects.npy", npy_header((9, 9), "|O"), "holds object: save floats"),
    ("short.npy", npy_header((90, 90)), "cannot be read, it is damaged"),
    ("text.npy", b"height map, honestly", "cannot be read, it is damaged"),
])  # fmt: skip
def test_a_map_that_cannot_be_used_is_refused_by_name(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save(path, content)
    with pytest.raises(SettingsError, match=message) as error:
        TerrainPool(str(path), num=1)
    assert name in str(error.value)


@pytest.mark.parametrize(("options", "message"), [
    ({"side": 5.0}, "shows 5 m along its shorter side and the field is 10 m long: use a side at least as long"),
    ({"side": -1.0}, "side must be a number from 0.1"),
    ({"max_height": float("nan")}, "max_height must be a finite number"),
    ({"max_height": "high"}, "max_height must be a number"),
    ({"height": 1.0}, "no option 'height': did you mean 'max_height'"),
])  # fmt: skip
def test_options_of_a_map_are_checked(tmp_path, options, message):
    with pytest.raises(SettingsError, match=message):
        TerrainPool(save(tmp_path / "map.npy", MAP), options, num=1)


def test_the_kind_file_asks_for_a_path():
    with pytest.raises(SettingsError, match="path must name a height map"):
        TerrainPool("file", num=1)


def test_without_pillow_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = save(tmp_path / "map.png", (MAP * 600).astype(np.uint8))
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(SettingsError, match="pip install pillow"):
        TerrainPool(path, num=1)


def test_a_changed_map_is_read_again(tmp_path):
    path = save(tmp_path / "map.npy", MAP)
    before = TerrainPool(path, num=1).digest()
    save(tmp_path / "map.npy", MAP[:90, :90] ** 2)
    assert TerrainPool(path, num=1).digest() != before


def test_a_map_and_a_kind_that_do_not_say_are_warned_of_where_too_steep(tmp_path, monkeypatch):
    axis = np.linspace(-5, 5, 201)
    ramp = np.tile(np.tan(np.radians(31)) * np.clip(axis, -1, 1), (201, 1))
    warning = r"steeper than 31 degrees over 0\.5 m, and the robot holds itself on at most 9\.5"
    with pytest.warns(UserWarning, match=warning):
        TerrainPool(save(tmp_path / "ramp.npy", ramp), num=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TerrainPool(save(tmp_path / "low.npy", ramp / 10), num=1)

    @dataclass(frozen=True)
    class Slope:
        def make(self, rng, grid, difficulty):
            return Ground(np.tan(np.radians(31)) * np.clip(grid.x, -1, 1))

    monkeypatch.setitem(TERRAINS, "slope", Slope)
    with pytest.warns(UserWarning, match=warning):
        TerrainPool("slope", num=1)
