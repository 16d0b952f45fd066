# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# mypy: disable-error-code="index,union-attr,arg-type"
"""Each kind of ground is what its options say, measured on the heights alone."""

from collections import deque
from itertools import pairwise

import numpy as np
import pytest

from ballbot.envs.terrain import TERRAINS, Grid, TerrainPool

KINDS = sorted(set(TERRAINS) - {"flat", "file", "mixed"})
ROBOT = 0.11
"""m: half the width of the way a robot needs."""


def field(kind, options=None, seed=0, split="train"):
    """Heights of one field in m above its lowest, its grid and its spawns."""
    pool = TerrainPool(kind, options, num=1, seed=seed, split=split)
    return pool.relief[0].astype(float) * pool.tops[0], pool.grid, pool.spawns[0]


def roughness(heights, grid):
    """Mean slope."""
    return np.mean([np.abs(np.diff(heights, axis=axis)).mean() / grid.cell for axis in (0, 1)])


def slopes_deg(heights, grid):
    return np.degrees(np.arctan(np.hypot(*np.gradient(heights, grid.cell))))


def reached(free, grid, start, beside=ROBOT):
    """Which vertices a robot gets to from the start, through vertices that have only free ones around them."""
    blocked = ~free
    for _ in range(int(beside / grid.cell)):
        grown = blocked.copy()
        grown[1:] |= blocked[:-1]
        grown[:-1] |= blocked[1:]
        grown[:, 1:] |= blocked[:, :-1]
        grown[:, :-1] |= blocked[:, 1:]
        blocked = grown
    column, row = np.rint((np.asarray(start) + grid.half) / grid.cell).astype(int)
    seen, queue = blocked.copy(), deque([(row, column)])
    assert not blocked[row, column]
    while queue:
        row, column = queue.popleft()
        for r, c in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if 0 <= r < grid.size and 0 <= c < grid.size and not seen[r, c]:
                seen[r, c] = True
                queue.append((r, c))
    return seen & ~blocked


@pytest.mark.parametrize("kind", KINDS)
def test_the_higher_the_difficulty_the_rougher_the_ground(kind):
    for seed in range(3):
        levels = [roughness(*field(f"{kind}:{d}", seed=seed)[:2]) for d in (0, 0.25, 0.5, 0.75, 1)]
        assert levels[0] == 0
        assert all(b > 1.01 * a for a, b in pairwise(levels)), levels


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"perlin"}))  # the reference's start is any place
def test_episodes_begin_on_level_ground_near_the_middle(kind):
    for seed in range(12):
        heights, grid, spawns = field(kind, seed=seed)
        assert np.hypot(*spawns.T).max() <= 1.0
        assert len({tuple(spawn) for spawn in spawns}) == len(spawns)
        for x, y in spawns:
            under = heights[np.hypot(grid.x - x, grid.y - y) < 0.1]
            assert np.ptp(under) < 0.018  # over 20 cm: 5 degrees


def test_hills_have_the_height_and_about_the_width_they_are_told():
    for width in (1.5, 3.0):
        heights, grid, _ = field("hills", {"height": 0.4, "width": width})
        assert np.ptp(heights) == pytest.approx(0.4)
        # of waves in all directions, the mean square slope is (2 pi / length)^2 / 2 of the mean square along one axis
        along_x = np.gradient(heights, grid.cell)[1]
        length = 2 * np.pi * heights.std() / (np.sqrt(2) * along_x.std())
        assert length == pytest.approx(width, rel=0.25)


def test_a_ramp_has_its_angle_and_run_and_is_level_before_and_behind():
    for seed in range(6):
        heights, grid, _ = field("ramp:0.5", {"angle_deg": 20.0, "run": 1.0, "approach": 1.0}, seed=seed)
        slope = slopes_deg(heights, grid)
        assert np.ptp(heights) == pytest.approx(np.tan(np.radians(10.0)), rel=1e-6)
        steep, level = np.abs(slope - 10.0) < 0.01, slope < 1e-3
        assert (steep | level).mean() > 0.97  # the rest are the edges
        middle = heights[:, grid.size // 2]
        foot = grid.axis[np.flatnonzero(np.abs(np.diff(middle)) > 1e-6)]
        assert 0.75 < foot[0] < 1.35  # along +y, perhaps at an angle
        assert 0.95 < foot[-1] - foot[0] < 1.12


def test_some_ramps_lead_up_and_some_down():
    starts = [field("ramp", seed=seed)[0][146, 146] for seed in range(12)]
    assert {round(start, 2) for start in starts} == {0.0, 0.24}


def test_a_gradient_steepens_to_its_angle_and_stays_there_on_both_sides():
    heights, grid, _ = field("gradient", {"angle_deg": 7.0, "onset": 0.8})
    slope = slopes_deg(heights, grid)
    assert slope[146, 146] < 0.01
    assert slope.max() == pytest.approx(7.0, abs=0.01)
    assert (np.abs(slope - 7.0) < 0.01).mean() > 0.7
    assert heights[146, 146] == pytest.approx(heights.max() / 2, rel=1e-3)  # as far up as down


def test_a_sinusoid_has_its_wavelength_and_height():
    heights, grid, _ = field("sinusoid", {"height": 0.06, "wavelength": 1.25})
    assert np.ptp(heights) == pytest.approx(0.06, rel=1e-3)
    spectrum = np.abs(np.fft.fft2(heights - heights.mean()))
    row, column = np.unravel_index(spectrum.argmax(), spectrum.shape)
    waves = np.hypot(*(min(k, grid.size - k) for k in (row, column)))
    assert 10.0 / waves == pytest.approx(1.25, rel=0.06)


def test_ridges_stand_apart_on_level_valleys():
    heights, _, _ = field("ridges", {"height": 0.07, "spacing": 2.0, "width": 0.8})
    assert np.ptp(heights) == pytest.approx(0.07, rel=0.01)
    assert (heights < 1e-6).mean() == pytest.approx(1 - 0.8 / 2.0, abs=0.05)
    assert (heights > 0.035).mean() == pytest.approx(0.5 * 0.8 / 2.0, abs=0.03)


def test_a_bowl_is_lowest_at_the_start_and_level_beyond_its_rim():
    rims = []
    for seed in range(8):
        heights, grid, _ = field("bowl", {"depth": 0.3, "radius": 1.5}, seed=seed)
        distance = np.hypot(grid.x, grid.y)
        assert heights[146, 146] == 0 and np.ptp(heights) == pytest.approx(0.3)
        rims.append(distance[heights > 0.2999].min())
        assert (heights[distance > rims[-1] * 1.65] > 0.2999).all()
        assert heights[distance < 0.75 * rims[-1]].max() < 0.27
    assert 1.15 < min(rims) < 1.35 and 1.6 < max(rims) < 1.8


def test_a_spirals_crest_is_one_pitch_further_out_after_a_turn():
    pool = TerrainPool("spiral", {"height": 0.1, "pitch": 1.0}, num=1)
    angles = np.linspace(0, 2 * np.pi, 721)[:-1]
    circle = pool.heights(np.zeros(1, int), 2.3 * np.stack([np.cos(angles), np.sin(angles)], axis=1)[None])[0]
    above = circle > 0.05
    assert (above != np.roll(above, 1)).sum() == 2  # one crest all around
    radii = np.arange(0.0, 4.5, 0.005)
    along = pool.heights(np.zeros(1, int), np.stack([radii, 0 * radii], axis=1)[None])[0]
    rises = radii[1:][(along[:-1] < 0.05) & (along[1:] >= 0.05)]
    assert len(rises) >= 4 and np.diff(rises[1:]) == pytest.approx(1.0, abs=0.03)


def test_rough_ground_has_bumps_of_the_grain_and_no_longer_waves():
    for grain in (0.12, 0.3):
        heights, grid, _ = field("rough", {"height": 0.03, "grain": grain})
        assert np.ptp(heights) == pytest.approx(0.03)
        deviation = heights - heights.mean()
        like = [np.mean(deviation[:, k:] * deviation[:, : grid.size - k]) for k in range(grid.size // 4)]
        like = np.interp([0, grain / 3, 3 * grain, 6 * grain], np.arange(len(like)) * grid.cell, like) / like[0]
        assert like[1] > 0.7 and np.abs(like[2:]).max() < 0.1


@pytest.mark.parametrize("form", ["up", "down", "pyramid", "pit"])
def test_stairs_have_the_height_the_run_and_the_number_of_steps_they_are_told(form):
    options = {"height": 0.02, "run": 0.3, "steps": 5, "landing": 1.0, "form": form}
    heights, grid, _ = field("stairs", options, seed=3)
    centre = grid.size // 2
    ahead, behind = heights[centre:, centre], heights[centre::-1, centre]
    for flight, sign in ((ahead, 1 if form in ("up", "pit") else -1), (behind, 1 if form in ("down", "pit") else -1)):
        risers = np.flatnonzero(np.abs(np.diff(flight)) > 1e-6)
        assert np.diff(flight)[risers] == pytest.approx([sign * 0.02] * 5, abs=1e-6)
        assert 0.38 <= risers[0] * grid.cell <= 0.62  # half the landing, a fifth more or less
        treads = np.diff(risers) * grid.cell
        assert (np.abs(treads - 0.3) <= 0.03 + grid.cell).all() and treads.mean() == pytest.approx(0.3, abs=0.03)
    sideways = heights[centre, centre:]
    assert np.ptp(sideways) == pytest.approx(0.0 if form in ("up", "down") else 0.1, abs=1e-6)


def test_without_a_form_all_forms_of_stairs_occur():
    ends = set()
    for seed in range(24):
        heights, grid, _ = field("stairs", seed=seed)
        centre = grid.size // 2
        middle = heights[centre, centre]
        ends.add(tuple(np.sign(np.round(heights[at] - middle, 6)) for at in ((-1, centre), (0, centre), (centre, -1))))
    assert ends == {(1, -1, 0), (-1, 1, 0), (-1, -1, -1), (1, 1, 1)}


def test_steps_are_level_slabs_of_one_size():
    heights, grid, _ = field("steps", {"height": 0.04, "side": 0.5})
    assert np.ptp(heights) == pytest.approx(0.04, rel=0.03)
    edges = np.flatnonzero(np.abs(np.diff(heights, axis=1)).max(axis=0) > 1e-6)
    assert np.diff(edges) == pytest.approx(0.5 / grid.cell, abs=1)
    assert 19 <= len(edges) <= 20
    assert len(np.unique(heights.round(7))) == (len(edges) + 1) * (
        (np.abs(np.diff(heights, axis=0)).max(axis=1) > 1e-6).sum() + 1
    )


def test_terraces_lie_whole_steps_above_each_other():
    heights, _, _ = field("terraces:0.5", {"height": 0.02, "levels": 6})
    levels = heights / 0.01
    assert np.abs(levels - levels.round()).max() < 1e-4
    assert np.unique(levels.round()).tolist() == [0, 1, 2, 3, 4, 5]
    assert np.abs(np.diff(levels.round(), axis=0)).max() == 1  # one step at a time


def test_curbs_are_strips_of_one_height_and_width():
    heights, grid, _ = field("curbs", {"height": 0.015, "width": 0.3, "spacing": 1.0})
    assert np.unique(heights.round(6)).tolist() == [0, 0.015]
    assert (heights > 0).mean() == pytest.approx(0.3, abs=0.02)
    rises = np.flatnonzero(np.diff(heights[:, grid.size // 2]) > 0)
    assert np.diff(rises) * grid.cell == pytest.approx(1.0, abs=0.07)  # 17 degrees askew at most


def test_pits_are_as_deep_and_wide_as_told_and_leave_the_start_alone():
    for seed in range(4):
        heights, grid, _ = field("pits", {"depth": 0.1, "radius": 0.25, "spacing": 1.0}, seed=seed)
        deep = heights < 0.05
        assert 0.1 <= np.ptp(heights) <= 0.111
        assert not deep[np.hypot(grid.x, grid.y) < 0.3].any()
        share = np.pi * 0.25**2 * np.mean(np.linspace(0.75, 1, 99) ** 2) / 0.7  # one every 1.0 x 0.7 m
        assert deep.mean() == pytest.approx(share, rel=0.1)
        assert reached(~deep, grid, (0, 0))[grid.size - 60].any()  # there is a way around


def test_pillars_stand_on_level_ground_with_room_between():
    counts = []
    for difficulty in (0.3, 1):
        heights, grid, _ = field(f"pillars:{difficulty}", {"height": 0.2, "radius": 0.15})
        assert np.unique(heights.round(6)).tolist() == [0, 0.2]
        assert not heights[np.hypot(grid.x, grid.y) < 0.4].any()
        assert reached(heights == 0, grid, (0, 0))[grid.size - 40].mean() > 0.3
        counts.append((heights > 0).mean())
    share = np.pi * 0.15**2 * np.mean(np.linspace(0.75, 1, 99) ** 2) / (0.9 * 0.63)
    assert counts[1] == pytest.approx(share, rel=0.1)
    assert counts[0] == pytest.approx(0.3 * share, rel=0.35)


def test_pillars_of_a_lower_difficulty_are_among_those_of_a_higher():
    few, many = (field(f"pillars:{d}", seed=2)[0] > 0 for d in (0.3, 0.8))
    assert few.any() and many[few].all()


def test_walls_have_one_gate_each_left_and_right_in_turn():
    heights, grid, _ = field("slalom", {"gate": 0.5, "offset": 0.8, "spacing": 1.0, "thickness": 0.1})
    walls = np.flatnonzero(heights.max(axis=1) > 0)
    groups = np.split(walls, np.flatnonzero(np.diff(walls) > 1) + 1)
    assert len(groups) == 10
    middles = []
    for group in groups:
        assert len(group) * grid.cell == pytest.approx(0.1, abs=grid.cell)
        gap = np.flatnonzero(heights[group[0]] == 0)
        assert (np.diff(gap) == 1).all()  # one gate
        assert len(gap) * grid.cell == pytest.approx(0.5, abs=2 * grid.cell)
        middles.append(grid.axis[gap].mean())
    assert all(a * b < 0 for a, b in pairwise(middles))
    assert np.abs(middles).min() > 0.35 and np.abs(middles).max() < 0.85
    assert reached(heights == 0, grid, (0, 0))[grid.size - 10].any()


def test_lanes_are_as_wide_as_told_with_a_drop_beside_and_lead_on():
    options = {"width": 0.5, "spacing": 1.25, "drop": 0.1, "step": 0.004}
    for seed in range(3):
        heights, grid, _ = field("stepping_lanes", options, seed=seed)
        lane = heights > 0.05
        assert np.unique((~lane) * heights).tolist() == [0.0]
        assert heights[lane].min() >= 0.1 and heights.max() <= 0.1041
        assert reached(lane, grid, (0, 0))[grid.size - 10].any()
        # lanes take 0.5 of 1.25 m, and a quarter of what is between is bridged
        assert lane.mean() == pytest.approx(0.4 + 0.6 * 0.25, abs=0.1)
    heights, _, _ = field("stepping_lanes:0.5", options)
    assert 0.05 <= np.ptp(heights) <= 0.0521


def test_a_road_is_as_wide_as_told_wherever_it_bends_and_leads_to_both_ends():
    bends = []
    for seed in range(8):
        heights, grid, _ = field("road", {"width": 0.6, "drop": 0.12, "bend": 0.5, "wavelength": 2.0}, seed=seed)
        assert np.unique(heights.round(4)).tolist() == [0.0, 0.12]
        road = heights > 0.06
        at_both_ends = reached(road, grid, (0.0, 0.0))
        assert at_both_ends[5].any() and at_both_ends[-6].any()
        far = np.abs(grid.axis) > 0.5  # from the disc around the start
        # area over the length of its middle line is the width, however it bends
        middle = np.array([grid.axis[row].mean() for row in road])[far]
        length = np.hypot(np.diff(middle), grid.cell)[np.diff(np.flatnonzero(far)) == 1].sum()
        assert road[far].sum() * grid.cell**2 / length == pytest.approx(0.6, rel=0.08)
        bends.append(np.ptp(middle) / 2)
    assert 0.33 < min(bends) < 0.45 and 0.45 < max(bends) < 0.53
    straight_on = [(field("road", seed=seed)[0][170:220, 146] > 0.06).all() for seed in range(8)]
    assert not any(straight_on)  # from 0.8 to 2.5 m ahead


def test_a_stagger_has_pits_in_rows_each_before_a_gap():
    heights, grid, _ = field("stagger", {"roughness": 0.0})
    pit = heights < 0.06
    assert heights[~pit].min() > 0.11 and not pit[np.hypot(grid.x, grid.y) < 0.22].any()
    # of rows 0.55 m apart, each is shifted by half the distance of its pits
    rows = [pit[np.abs(grid.axis - 0.55 * (k + 0.5)) < 0.05].any(axis=0) for k in range(2, 6)]
    for near, behind in pairwise(rows):
        assert 0.35 < near.mean() < 0.7 and (near & behind).mean() < 0.6 * near.mean()
    assert np.ptp(field("stagger")[0][~pit]) == pytest.approx(0.02, abs=0.003)
    for seed in range(4):  # there is a way on, for the ball's point of contact
        heights, grid, _ = field("stagger", seed=seed)
        assert reached(heights > 0.07, grid, (0.0, 0.0), beside=0.05)[np.abs(grid.axis - 1.5) < 0.05].any()


def test_a_trench_is_crossed_by_its_bridge_alone():
    heights, grid, _ = field("trench", {"depth": 0.1, "length": 0.4, "bridge": 0.5, "offset": 0.7, "spacing": 1.5})
    free = heights > 0.05
    rows = np.flatnonzero(~free.all(axis=1))
    trenches = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    middles = [np.mean(grid.axis[free[trench[0]]]) for trench in trenches]
    assert 5 <= len(trenches) <= 8
    assert all(len(trench) * grid.cell == pytest.approx(0.4, abs=0.03) for trench in trenches)
    assert all(free[trench[0]].sum() * grid.cell == pytest.approx(0.5, abs=0.03) for trench in trenches)
    assert all(a * b < 0 and 0.34 < abs(a) < 0.71 for a, b in pairwise(middles))
    assert reached(free, grid, (0.0, 0.0))[-6].any()


@pytest.mark.parametrize("kind", ["pits", "stepping_lanes", "road", "stagger", "trench"])
@pytest.mark.parametrize("difficulty", [0.3, 1.0])
def test_the_floor_lies_between_the_ways_and_what_is_off_them(kind, difficulty):
    pool = TerrainPool(f"{kind}:{difficulty}", num=3)
    for relief, top, floor in zip(pool.relief, pool.tops, pool.floors, strict=True):
        heights = relief * top
        assert 0.02 < (heights < floor).mean() < 0.97
        assert (np.abs(heights - floor) > 0.2 * top).all()
    assert (TerrainPool("perlin", num=1).floors == -np.inf).all()


@pytest.mark.parametrize("kind", KINDS)
def test_longer_fields_of_other_cells_show_the_same_kind(kind):
    """The mean slope does not hang on the side of the field; on its cell only where there are edges."""
    rough = [roughness(pool.relief[0] * pool.tops[0], pool.grid) for pool in (
        TerrainPool(kind, num=1, seed=1), TerrainPool(kind, num=1, seed=1, length=16.0))]  # fmt: skip
    tolerance = 0.8 if kind in ("bowl", "ramp", "stairs", "road") else 0.35  # level ground around what there is once
    assert rough[1] == pytest.approx(rough[0], rel=tolerance)
    assert TerrainPool(kind, num=1, length=16.0, cell=0.05).grid == Grid.covering(16.0, 0.05)
