# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# mypy: disable-error-code="index,union-attr,arg-type"
"""What users write: names, difficulties, options and mixtures are read, and mistakes are named with the remedy."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import pytest

from ballbot.envs.terrain import TERRAINS, Ground, TerrainPool, TerrainSpec, parse_terrain, steepest_deg
from ballbot.errors import SettingsError
from ballbot.settings import Range, check_value
from ballbot.tasks import TASKS


@pytest.mark.parametrize(("text", "spec"), [
    ("stairs", TerrainSpec("stairs", 1.0, 1.0)),
    (" stairs:0.4 ", TerrainSpec("stairs", 0.4, 0.4)),
    ("stairs:0-1", TerrainSpec("stairs", 0.0, 1.0)),
    ("stairs:.25-.5", TerrainSpec("stairs", 0.25, 0.5)),
    ("a/b c.png", TerrainSpec("file", 1.0, 1.0, "a/b c.png")),
    ("field.NPY:0.5", TerrainSpec("file", 0.5, 0.5, "field.NPY")),
    (r"C:\maps\field.png", TerrainSpec("file", 1.0, 1.0, r"C:\maps\field.png")),
    (r"C:\maps\field.png:0-0.5", TerrainSpec("file", 0.0, 0.5, r"C:\maps\field.png")),
])  # fmt: skip
def test_texts_are_read(text, spec):
    assert parse_terrain(text) == spec


@pytest.mark.parametrize(("text", "message"), [
    ("stears", "'stears' is unknown: did you mean 'stairs'.*known are bowl, .*terraces"),
    ("moon", "'moon' is unknown: known are"),
    ("maps/field.tif", "height maps end in .png or .npy"),
    ("", "must be a kind of ground"),
    ("stairs:x", r"stairs:0.4 or stairs:0-1, got 'x'"),
    ("stairs:", "got ''"),
    ("stairs:nan", "got 'nan'"),
    ("stairs:-0.5", "got '-0.5'"),
    ("stairs:0.5-", "got '0.5-'"),
    ("stairs:1.5", "from 0 to 1, the lower first, got '1.5'"),
    ("stairs:0-2", "from 0 to 1, the lower first, got '0-2'"),
    ("stairs:0.8-0.2", "the lower first, got '0.8-0.2'"),
    (None, "got None"),
])  # fmt: skip
def test_texts_that_mean_nothing_are_refused(text, message):
    with pytest.raises(SettingsError, match=message):
        parse_terrain(text)


@pytest.mark.parametrize(("low", "high", "message"), [
    (0.0, 1.5, "high must be a number from 0 to 1, got 1.5"),
    (float("nan"), 1.0, "low must be a finite number"),
    (0.9, 0.1, "low to high, got 0.9 to 0.1: swap them"),
])  # fmt: skip
def test_difficulties_said_in_python_are_checked_too(low, high, message):
    with pytest.raises(SettingsError, match=message):
        TerrainSpec("stairs", low, high)


@pytest.mark.parametrize(("kind", "options", "message"), [
    ("stairs", {"hight": 0.1}, "'stairs' has no option 'hight': did you mean 'height'"),
    ("stairs", {"height": -0.1}, "'stairs': height must be a number from 0 to 0.3, got -0.1"),
    ("stairs", {"height": float("nan")}, "height must be a finite number"),
    ("stairs", {"steps": 2.5}, "steps must be a whole number"),
    ("stairs", {"form": "sideways"}, "form must be one of 'any', 'up'"),
    ("flat", {"height": 1.0}, "'flat' has no option 'height': known are none"),
    ("pits", {"radius": 0.5, "spacing": 0.9}, r"spacing must be above 2 radius \+ 0.2 m = 1.2 m.*got 0.9"),
    ("pillars", {"radius": 0.5, "spacing": 0.9}, "spacing must be above"),
    ("slalom", {"thickness": 1.0, "spacing": 1.2}, "spacing must be above"),
    ("stepping_lanes", {"width": 2.0}, "width must be below the spacing of the lanes, 1.2 m, got 2"),
    ("moon", {}, "'moon' is unknown"),
])  # fmt: skip
def test_options_that_make_no_ground_are_refused(kind, options, message):
    with pytest.raises(SettingsError, match=message):
        TerrainPool(TerrainSpec(kind), options, num=1)


@pytest.mark.parametrize(("wanted", "message"), [
    ({"split": "test"}, "terrain_split='test' is unknown: known are eval, train, validation"),
    ({"num": 0}, "a pool of 0 terrains"),
    ({"seed": -1}, "from seed -1"),
    ({"cell": 0.0005}, "20001 x 20001 vertices.*coarser cell"),
    ({"cell": -1.0}, "cell must be above 0 m, got -1"),
    ({"cell": float("nan")}, "cell must be above 0 m, got nan"),
])  # fmt: skip
def test_pools_that_cannot_be_are_refused(wanted, message):
    with pytest.raises(SettingsError, match=message):
        TerrainPool("stairs", **{"num": 1, **wanted})


@pytest.mark.parametrize(("kinds", "message"), [
    ("perlin stears:2", "'stears' is unknown: did you mean 'stairs'"),
    ("perlin:0", "weight of 'perlin' must be a number above 0, got '0'"),
    ("perlin:-1", "weight of 'perlin' must be a number above 0, got '-1'"),
    ("perlin:lots", "got 'lots'"),
    ("perlin:nan", "got 'nan'"),
    ("perlin stairs perlin:2", "has 'perlin' twice"),
    ("stairs(hight=1)", "no option 'hight': did you mean 'height'"),
    ("stairs(height)", r"written as stairs\(name=value,name=value\), got 'height'"),
    ("stairs(height=9)", "height must be a number from 0 to 0.3, got 9"),
    ("stairs(height=0.1", "cannot be read at"),
    ("perlin mixed", "cannot contain 'mixed'"),
    ("", "cannot be read"),
    (" , ", "cannot be read"),
])  # fmt: skip
def test_mixtures_that_mean_nothing_are_refused(kinds, message):
    with pytest.raises(SettingsError, match=message):
        TerrainPool("mixed", {"kinds": kinds}, num=1)


def test_a_mixture_has_as_many_fields_of_each_kind_as_its_weight_says():
    pool = TerrainPool("mixed", {"kinds": "perlin:2, stairs(height=0.02, form=up):1  curbs:.5 flat"}, num=18)
    assert pool.kinds == ("perlin", "stairs(height=0.02,form=up)", "curbs", "flat")
    assert np.bincount(pool.kind_ids).tolist() == [8, 4, 2, 4]
    stairs = np.flatnonzero(pool.kind_ids == 1)
    alone = TerrainPool("stairs", {"height": 0.02, "form": "up"}, num=18)
    assert all(np.array_equal(pool.relief[k], alone.relief[k]) for k in stairs)
    assert pool.grid.cell == TERRAINS["stairs"].cell  # the finest of its members
    assert TerrainPool("mixed", {"kinds": "perlin hills"}, num=1).grid.size == 293


def test_the_default_mixture_holds_every_kind_but_files_and_tasks():
    pool = TerrainPool("mixed:0.1", num=24, cell=0.1)
    assert set(pool.kinds) == set(TERRAINS) - {"file", "mixed"} - {task["terrain"] for task in TASKS.values()}
    assert set(pool.kind_ids) == set(range(len(pool.kinds)))


# Plugins: what somebody else writes


@dataclass(frozen=True)
class Bumps:
    height: Annotated[float, Range(0, 1)] = 0.05
    wrong: str = ""
    cell: ClassVar[float] = 0.05

    def make(self, rng, grid, difficulty):
        heights = self.height * difficulty * rng.random(grid.shape)
        if self.wrong == "raise":
            raise KeyError("no such bump")
        if self.wrong == "nan":
            heights[3, 5] = np.nan
        if self.wrong == "array":
            return heights
        if self.wrong == "bool":
            heights = np.zeros(grid.shape, bool)
        if self.wrong == "shape":
            heights = heights[:-1]
        if self.wrong == "size":
            heights = heights[:-1, :-1]
        spawns = {"outside": [[9.0, 0.0]], "flat": [0.0, 0.0], "none": np.zeros((0, 2)), "words": ["here"]}
        return Ground(heights, spawns.get(self.wrong, [[0.5, 0.0], [-1.0, 1.0]]))


def plugin(monkeypatch, made):
    monkeypatch.setitem(TERRAINS, "bumps", made)


def test_a_plugins_kind_is_a_kind_like_any_other(monkeypatch):
    plugin(monkeypatch, Bumps)
    pool = TerrainPool("bumps:0.5", {"height": 0.2}, num=3)
    assert pool.grid.cell == 0.05 and pool.relief.shape == (3, 201, 201)
    assert pool.tops == pytest.approx([0.1] * 3, rel=1e-3)
    assert pool.spawns[2].tolist() == [[0.5, 0.0], [-1.0, 1.0]]
    assert "bumps" in TerrainPool("mixed", {"kinds": "bumps hills"}, num=2).kinds


@pytest.mark.parametrize(("wrong", "message"), [
    ("raise", r"make\(\) raised KeyError: 'no such bump'"),
    ("nan", "heights must be finite, but 1 of them are not"),
    ("array", r"make\(\) must return a Ground, got ndarray"),
    ("bool", "heights must be floating-point numbers in m, got bool"),
    ("shape", r"shape \(size, size\), got \(200, 201\)"),
    ("size", r"heights must have the shape \(201, 201\) of the grid, got \(200, 200\)"),
    ("outside", r"spawns must lie within 5 m of the middle, got \[\[9.0, 0.0\]\]"),
    ("flat", "spawns must be one or more places"),
    ("none", "spawns must be one or more places"),
    ("words", "spawns must be one or more places"),
])  # fmt: skip
def test_a_plugin_that_makes_no_ground_is_named(monkeypatch, wrong, message):
    plugin(monkeypatch, Bumps)
    with pytest.raises(SettingsError, match=message) as error:
        TerrainPool("bumps", {"wrong": wrong}, num=2)
    assert "terrain 'bumps', field 0 of split 'train'" in str(error.value)


def test_a_plugin_that_is_no_terrain_is_named(monkeypatch):
    plugin(monkeypatch, dict)
    with pytest.raises(SettingsError, match=r"'bumps' has no make\(rng, grid, difficulty\)"):
        TerrainPool("bumps", num=1)
    plugin(monkeypatch, lambda: 1 / 0)
    with pytest.raises(SettingsError, match=r"'bumps' cannot be made of.*ZeroDivisionError"):
        TerrainPool("bumps", num=1)


# Slopes


def test_the_steepest_slope_is_told_in_degrees():
    assert steepest_deg(TerrainPool("gradient", {"angle_deg": 9.0}, num=2)) == pytest.approx([9.0, 9.0], abs=0.01)
    assert steepest_deg(TerrainPool("flat", num=2)).tolist() == [0.0]


def test_ground_too_steep_to_stand_on_is_warned_of_with_the_slope_and_the_limit():
    with pytest.warns(
        UserWarning, match=r"'gradient'.*steeper than 25 degrees over 0.5 m.*at most 9.5: choose a lower difficulty"
    ):
        TerrainPool("gradient", {"angle_deg": 25.0}, num=1)


def test_defaults_and_walls_are_not_warned_of(recwarn):
    for kind in sorted(set(TERRAINS) - {"file"}):
        TerrainPool(kind, num=8)
    TerrainPool("slalom", {"gate": 0.3, "height": 1.0, "spacing": 0.5}, num=1)
    assert not [str(w.message) for w in recwarn]


# Numbers, cells and lengths


def test_whole_numbers_do_for_lengths(monkeypatch):
    for text, whole, floats in (
        ("pillars", {"height": 1}, {"height": 1.0}),
        ("mixed", {"kinds": "pillars(height=1)"}, {"kinds": "pillars(height=1.0)"}),
    ):
        made, like = TerrainPool(text, whole, num=1), TerrainPool(text, floats, num=1)
        assert np.array_equal(made.relief, like.relief) and made.tops.tolist() == like.tops.tolist() == [1.0]
    height = TERRAINS["pillars"](height=1).height
    assert height == 1 and isinstance(height, float)
    assert isinstance(TERRAINS["stairs"](steps=3).steps, int)
    with pytest.raises(SettingsError, match="must be a finite number"):
        check_value("x", 10**400, float)
    assert Ground(np.eye(3, dtype=np.int64)).heights.dtype == np.float64


@pytest.mark.parametrize(
    ("cell", "length"), [(0.01, 2.0), (0.03, 20.0), (0.1, 6.0), (0.25, 2.0), (0.5, 3.0), (0.5, 20.0)]
)
def test_every_kind_shows_itself_at_every_cell_and_length(cell, length):
    for kind in sorted(set(TERRAINS) - {"file", "mixed"}):
        grains = ({"grain": 0.02}, {"grain": 1}) if kind == "rough" else ({},)
        for options in grains:
            pool = TerrainPool(kind, options, num=1, cell=cell, length=length)
            assert pool.relief is None or np.isfinite(pool.relief).all()


def test_gates_beside_the_field_are_refused():
    with pytest.raises(
        SettingsError, match=r"'slalom'.*to 5 m to the side and 0\.6 m wide end beside .* ends 5 m from"
    ):
        TerrainPool("slalom", {"offset": 5.0}, num=1)
    TerrainPool("slalom:0.5", {"offset": 5.0}, num=1)
    TerrainPool("slalom", {"offset": 5.0}, num=1, length=12.0)
