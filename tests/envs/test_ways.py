"""The best way over the ground, as one knows who sees it all."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from ballbot.controllers import GuidedController, GuidedObserverController, LinearController
from ballbot.envs import BallbotVectorEnv
from ballbot.envs.terrain import TERRAINS, Grid, Ground, TerrainPool, ways
from ballbot.envs.terrain.ways import CELL, Ways, cheapest, costs
from ballbot.evaluation import run_episodes
from ballbot.observer import ObserverController

UP = np.array([[0.0], [1.0]])


def shortest(price: NDArray[Any]) -> NDArray[np.float64]:
    """The same by Dijkstra's algorithm, for one map."""
    found = np.full(price.shape, np.inf)
    found[-1] = 0.0
    queue = [(0.0, price.shape[0] - 1, column) for column in range(price.shape[1])]
    moves = [(0, 1), (0, -1)] + [(rise, aside) for rise in (1, -1) for aside in (-2, -1, 0, 1, 2)]
    while queue:
        cost, row, column = heapq.heappop(queue)
        if cost > found[row, column]:
            continue
        for rise, aside in moves:
            r, c = row + rise, column + aside
            if 0 <= r < price.shape[0] and 0 <= c < price.shape[1]:
                more = cost + CELL / 2 * np.hypot(rise, aside) * (price[row, column] + price[r, c])
                if more < found[r, c]:
                    found[r, c] = more
                    heapq.heappush(queue, (more, r, c))
    return found


def test_costs_are_the_shortest_ways() -> None:
    rng = np.random.default_rng(0)
    maps = np.stack([costs(rng.random((30, 25)) < share) for share in (0.05, 0.2, 0.3)])
    for price, found in zip(maps, cheapest(maps, rounds=20), strict=True):
        np.testing.assert_allclose(found, shortest(price), rtol=1e-5)


def test_two_rounds_lead_out_of_a_dead_end() -> None:
    closed = np.zeros((40, 41), bool)
    closed[25, 10:31] = closed[12:25, 10] = closed[12:25, 30] = True  # a pocket, open towards the start
    price = costs(closed)
    np.testing.assert_allclose(cheapest(price[None])[0][20, 20], shortest(price)[20, 20], rtol=1e-5)
    assert cheapest(price[None])[0][20, 20] > cheapest(np.ones_like(price)[None])[0][20, 20] + 1


@dataclass(frozen=True)
class Wall:
    """A wall 1 m ahead across the field, with a gap 0.6 m wide to its left, at x = -1."""

    cell: ClassVar[float] = 0.02

    def make(self, rng: np.random.Generator, grid: Grid, difficulty: float) -> Ground:
        wall = (np.abs(grid.y - 1.0) < 0.05) & (np.abs(grid.x + 1.0) > 0.3)
        return Ground(np.where(wall, 0.1, 0.0))


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Ways:
    monkeypatch.setitem(TERRAINS, "wall", Wall)
    return Ways(TerrainPool("wall", num=1))


def way(found: Ways, goal: Sequence[float] | NDArray[Any], place: Sequence[float]) -> NDArray[Any]:
    return found(np.array([0]), np.array(goal, float)[:, None], np.array(place, float)[:, None])[:, 0]


def test_it_goes_to_the_gap_and_through(wall: Ways) -> None:
    left, ahead = way(wall, (0, 1), (0.0, 0.5))
    assert left < -0.5 and ahead > 0
    np.testing.assert_allclose(way(wall, (0, 1), (-1.0, 0.9)), (0, 1), atol=0.1)
    np.testing.assert_allclose(way(wall, (0, 1), (0.0, 2.0)), (0, 1), atol=0.02)
    np.testing.assert_allclose(way(wall, (0, -1), (0.0, 0.5)), (0, -1), atol=0.02)  # away from it
    assert way(wall, (0, -1), (0.5, 1.5))[0] < -0.5  # back through the same gap
    np.testing.assert_allclose(way(wall, (0, 0), (0.0, 0.5)), (0, 0))  # told to stay


def test_any_goal_will_do(wall: Ways) -> None:
    goal = np.array([0.6, 0.8])
    found = way(wall, goal, (0.0, 0.5))
    assert found @ goal < 0.8 and found[0] < -0.3
    np.testing.assert_allclose(way(wall, (0.6, 0.8), (0.0, 2.0)), goal, atol=0.03)


def test_a_plane_leads_nowhere_else() -> None:
    np.testing.assert_array_equal(way(Ways(TerrainPool("flat")), (0.6, 0.8), (0, 0)), (0.6, 0.8))


def test_beside_the_field_it_is_the_goal(wall: Ways) -> None:
    np.testing.assert_allclose(way(wall, (0, 1), (0.0, 50.0)), (0, 1), atol=1e-6)


def test_maps_are_made_once_and_forgotten_when_there_are_too_many(wall: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, float, float]] = []

    def make(self: Ways, keys: list[tuple[int, float, float]]) -> NDArray[np.float32]:
        made.extend(keys)
        return np.zeros((len(keys), self.size, self.size), np.float32)

    monkeypatch.setattr(Ways, "_cost_maps", make)
    monkeypatch.setattr(ways, "MOST_MAPS", 3)
    for angle in (0, 1, 0, 2, 0, 3, 3, 0):
        way(wall, (np.cos(angle), np.sin(angle)), (0, 0))
    assert [round(np.arctan2(y, x)) for _, x, y in made] == [0, 1, 2, 3, 0]


def test_who_is_led_crosses_what_few_cross_straight_on() -> None:
    kind: dict[str, Any] = {
        "terrain": "stagger",
        "motion": {"distance": 0.6},
        "endings": {"off_road": 0.0},
        "max_episode_steps": 2200,
    }
    for controller, least, most in (
        (GuidedController(0.01), 15, 16),
        (GuidedObserverController(0.01), 15, 16),
        (LinearController(0.01, target_speed=0.3), 0, 12),
    ):
        fields = getattr(controller, "extra_fields", ())
        envs = BallbotVectorEnv(16, **kind, extra_fields=fields, action_repeat=5, num_terrains=16)
        assert least <= run_episodes(envs, controller, 16, seed=0).outcomes.count("success") <= most


def test_who_is_led_goes_more_slowly_near_drops_and_walls() -> None:
    controller = GuidedObserverController(0.01)
    rows = np.zeros((4, 79), np.float32)
    rows[:, 2], rows[:, 10], rows[:, 17] = -1.0, 1.0, 1.0  # upright; the goal is to the left, the way ahead
    for robot, ring in ((1, 4), (2, 3), (3, 2)):  # a drop, 0.56, 0.42 and 0.3 m away
        rows[robot, 19 + 12 * ring] = -0.1
    actions = controller(rows, np.ones(4, bool))
    for _ in range(100):  # past its slow start
        actions = controller(rows, np.zeros(4, bool))
    share = controller.wished_share
    assert share[0] == 1 and share[3] == controller.careful
    assert share[3] < share[2] < share[1] < 1
    ahead = ObserverController(0.01)
    told = rows[:1, :17].copy()
    told[:, 9:11] = 1.0, 0.0
    wanted = ahead(told, np.ones(1, bool))
    for _ in range(100):
        wanted = ahead(told, np.zeros(1, bool))
    np.testing.assert_allclose(actions[:1], wanted, atol=1e-6)
