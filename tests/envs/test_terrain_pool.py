# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# mypy: disable-error-code="index,union-attr,arg-type"
"""Pools of fields: heights and normals are MuJoCo's own, each field says what it is, and mistakes are named."""

import warnings
import zlib

import mujoco
import numpy as np
import pytest
import torch

from ballbot.envs.height_rays import HeightFields
from ballbot.envs.terrain import SPLITS, TERRAINS, Ground, TerrainPool, field_length, grid_size, make_terrain


def ground_model(pool, k):
    """A field of a pool as MuJoCo's ground."""
    spec = mujoco.MjSpec()
    half = pool.grid.half
    spec.add_hfield(
        name="field", nrow=pool.grid.size, ncol=pool.grid.size, size=[half, half, pool.tops[k], 0.1],
        userdata=pool.relief[k].ravel(),
    )  # fmt: skip
    geom = spec.worldbody.add_geom()
    geom.type, geom.hfieldname = mujoco.mjtGeom.mjGEOM_HFIELD, "field"
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


@pytest.fixture(scope="module")
def pool():
    return TerrainPool("mixed", {"kinds": "perlin stairs(height=0.05) hills"}, num=3, seed=4)


def test_heights_and_normals_are_those_of_mujocos_rays(pool):
    rng, start = np.random.default_rng(0), 5.0
    for k in range(len(pool)):
        model, data = ground_model(pool, k)
        xy = rng.uniform(-0.999, 0.999, (400, 2)) * pool.grid.half
        xy[:50] = (
            rng.integers(1, 400, (50, 2)) + np.array([0.002, 0.001])
        ) * pool.grid.cell - pool.grid.half  # at vertices
        heights, normals = pool.heights(np.full(400, k), xy), pool.normals(np.full(400, k), xy)
        hit, normal = np.zeros(1, np.int32), np.zeros(3)
        for place, height, up in zip(xy, heights, normals, strict=True):
            distance = mujoco.mj_ray(model, data, [*place, start], [0, 0, -1.0], None, 1, -1, hit, normal)
            assert start - distance == pytest.approx(height, rel=0, abs=1e-12)
            assert up == pytest.approx(normal, abs=1e-6)


def test_heights_are_those_the_depth_cameras_see(pool):
    rng = np.random.default_rng(1)
    fields = HeightFields(
        torch.from_numpy(pool.relief * pool.tops[:, None, None].astype(np.float32)), torch.device("cpu")
    )
    ids = np.repeat(np.arange(len(pool)), 50)
    xy = rng.uniform(-4.9, 4.9, (len(ids), 2))
    cells = (xy + pool.grid.half) / pool.grid.cell
    start = torch.tensor(np.column_stack([cells, np.full(len(ids), 1.0)]), dtype=torch.float32)
    down = torch.tensor([[0.0], [0.0], [-1.0]]).repeat(len(ids), 1, 1)
    met = fields.meet(start, down, torch.from_numpy(ids), torch.full((len(ids), 1), 2.0), 1.0)
    np.testing.assert_allclose(1.0 - met[:, 0].numpy(), pool.heights(ids, xy), atol=2e-4)  # float32 places, 5 cm steps


def test_queries_take_any_number_of_places_a_field(pool):
    xy = np.random.default_rng(2).uniform(-4, 4, (2, 3, 5, 2))
    heights, normals = pool.heights(np.array([2, 1]), xy), pool.normals(np.array([2, 1]), xy)
    assert heights.shape == (2, 3, 5) and normals.shape == (2, 3, 5, 3)
    for i, k in enumerate((2, 1)):
        alone = pool.heights(np.full(15, k), xy[i].reshape(15, 2))
        assert np.array_equal(heights[i].ravel(), alone)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1.0)


def test_beside_the_field_the_ground_is_as_high_as_at_the_edge(pool):
    inside, outside = np.array([[5.0, 1.0], [-2.0, -5.0]]), np.array([[9.0, 1.0], [-2.0, -70.0]])
    assert pool.heights(np.array([0, 0]), outside) == pytest.approx(pool.heights(np.array([0, 0]), inside))


def test_a_plane_is_level_everywhere_and_has_no_relief():
    pool = TerrainPool("flat", num=7)
    xy = np.random.default_rng(0).uniform(-1e3, 1e3, (4, 2))
    assert pool.relief is None and len(pool) == 1
    assert not pool.heights(np.zeros(4, int), xy).any()
    assert np.array_equal(pool.normals(np.zeros(4, int), xy), [[0, 0, 1]] * 4)


def test_each_field_is_scaled_to_the_unit_range_and_its_height_is_kept():
    pool = TerrainPool("stairs:0-1", {"height": 0.05, "form": "up", "steps": 4}, num=3)
    assert pool.relief.dtype == np.float32
    assert pool.tops == pytest.approx([1e-3, 8 * 0.025, 8 * 0.05])
    assert not pool.relief[0].any()
    assert [(field.min(), field.max()) for field in pool.relief[1:]] == [(0, 1), (0, 1)]


def test_difficulties_are_spread_over_each_kind_of_a_mixture():
    pool = TerrainPool("mixed:0.2-0.8", {"kinds": "perlin:2 stairs"}, num=9)
    assert pool.kinds == ("perlin", "stairs")
    assert np.bincount(pool.kind_ids).tolist() == [6, 3]
    assert pool.difficulties[pool.kind_ids == 1] == pytest.approx([0.2, 0.5, 0.8])
    assert pool.difficulties[pool.kind_ids == 0] == pytest.approx(np.linspace(0.2, 0.8, 6))


def test_a_field_of_a_mixture_is_the_field_of_that_number_of_its_kind():
    mixed = TerrainPool("mixed", {"kinds": "hills stairs"}, num=4, seed=5)
    hills = TerrainPool("hills", num=4, seed=5, cell=mixed.grid.cell)
    for k in np.flatnonzero(mixed.kind_ids == 0):
        assert np.array_equal(mixed.relief[k], hills.relief[k])


def test_perlin_fields_are_the_references_to_the_bit():
    pool = TerrainPool("perlin", num=3, split="eval", seed=7, length=12.0)
    assert pool.tops.tolist() == [0.1] * 3
    assert pool.grid.length == field_length(grid_size(12.0))
    for k in range(3):
        assert np.array_equal(pool.relief[k], make_terrain(k, split="eval", seed=7, size=grid_size(12.0)))
    higher = TerrainPool("perlin:0.5", {"height": 0.3}, num=3, split="eval", seed=7, length=12.0)
    np.testing.assert_allclose(higher.relief, pool.relief, atol=1e-7)
    assert higher.tops == pytest.approx([0.15] * 3)


def test_each_kind_has_random_numbers_of_its_own(monkeypatch):
    drawn: dict[str, list[float]] = {}

    class Drawing:
        def __init__(self, name):
            self.name = name

        def make(self, rng, grid, difficulty):
            drawn.setdefault(self.name, []).append(float(rng.random()))
            return Ground(np.zeros(grid.shape))

    for name in ("one", "two"):
        monkeypatch.setitem(TERRAINS, name, lambda name=name: Drawing(name))
        for split in SPLITS:
            TerrainPool(name, num=3, split=split, cell=1.0)
    assert len({*drawn["one"], *drawn["two"]}) == 18
    assert drawn["one"][:3] == [np.random.default_rng((0, 0, k, zlib.crc32(b"one"))).random() for k in range(3)]


def test_the_digest_tells_grounds_apart_and_not_the_last_bits():
    pool = TerrainPool("hills", num=2)
    digest = pool.digest()
    assert digest == TerrainPool("hills", num=2).digest()
    others = [TerrainPool("hills", num=2, seed=1), TerrainPool("hills", {"height": 0.301}, num=2),
              TerrainPool("hills", num=2, split="eval"), TerrainPool("hills", num=3)]  # fmt: skip
    assert len({digest, *(other.digest() for other in others)}) == 5
    pool.relief[1] = np.nextafter(pool.relief[1], np.float32(1))
    assert pool.digest() == digest
    pool.relief[1, 140:150, 140:150] += np.float32(0.05)  # 1.5 cm
    assert pool.digest() != digest


@pytest.mark.parametrize("kind", sorted(set(TERRAINS) - {"flat", "file"}))
def test_fields_repeat_and_splits_are_disjoint(kind):
    fields = [TerrainPool(kind, num=2, split=split, seed=3).relief for split in SPLITS]
    assert np.array_equal(fields[0], TerrainPool(kind, num=2, split=next(iter(SPLITS)), seed=3).relief)
    uneven = [field for pool in fields for field in pool if field.any()]  # a mixture has level ones
    assert len(uneven) >= 3
    for i, field in enumerate(uneven):
        for other in uneven[:i]:
            assert np.abs(field - other).max() > 0.02


def test_few_fields_of_a_kind_begin_easy_and_are_warned_of():
    kinds = {"kinds": "hills:3 stairs"}
    with pytest.warns(UserWarning, match=r"\(hills 3, stairs 1\): use num_terrains=16 \(--num-terrains\) or more"):
        pool = TerrainPool("mixed:0.2-1", kinds, num=4, length=4)
    assert pool.difficulties[pool.kind_ids == 1].tolist() == [0.2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enough = TerrainPool("mixed:0.2-1", kinds, num=16, length=4)
        TerrainPool("mixed:0.2-1", kinds, num=4, length=4, split="eval")
        TerrainPool("stairs:0-1", num=1, length=4)
    assert enough.difficulties[enough.kind_ids == 1] == pytest.approx(np.linspace(0.2, 1, 4))
