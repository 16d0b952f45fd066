"""Run whole episodes, and say how they went: what a trained policy is worth, in numbers.

    episodes = run_episodes(envs, actor, num_episodes=100, seed=0)
    summary = summarize(episodes)

Each episode has a seed of its own, seed + its number, so the same episode begins alike for every policy and however
many robots run at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.envs import BallbotVectorEnv
from ballbot.envs.commanded import Commanded
from ballbot.envs.commands import Path, Point

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Actor = Callable[[Any, Bools], NDArray[Any]]
"""(observations, which robots have just begun an episode) -> actions."""

OUTCOMES = ("success", "failure", "out_of_bounds", "diverged", "missed")
HISTORY = ("step", "position", "tilt_deg", "torque", "return", "qpos", "direction")
TOLD_EVERY = 50
"""Steps between two reports of how far it is."""
RESAMPLES = 10_000
"""Of the bootstrap behind an interval of a mean."""
Z = 1.959963984540054
"""95 % of a normal distribution lie within as many standard deviations."""


@dataclass(frozen=True)
class Episodes:
    """What happened in n episodes."""

    seeds: NDArray[np.int64]
    terrain_ids: NDArray[np.int64]
    robot_ids: NDArray[np.int64]
    """Which of a family; 0 of a single robot."""
    outcomes: list[str]
    """Of ``OUTCOMES``: reached the time limit and did what it was told, fell, left the terrain, its simulation
    diverged, or reached the time limit and did not do what it was told."""
    returns: Floats
    lengths: NDArray[np.int64]
    """Steps of 2 ms."""
    reward_terms: dict[str, Floats]
    """Each term of the reward, summed over the episode."""
    speed_along_goal: Floats
    """m/s, mean over the steps in which the command had a direction; NaN if it never had."""
    speed_across_goal: Floats
    """m/s, likewise; positive is to the left of the goal."""
    tilt_mean_deg: Floats
    tilt_max_deg: Floats
    torque_rms: Floats
    """N m, of the wheels over the episode."""
    torque_max: Floats
    """N m, of any wheel."""
    energy: Floats
    """J, that the motors put in or took out: the integral of |torque x wheel speed|."""
    endings: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Of failures other than falls, by name, whether that is how each episode ended."""
    measures: dict[str, Floats] = field(default_factory=dict)
    """What the command says of itself at the end of each episode; NaN where it has nothing to say."""
    targets: list[Floats] = field(default_factory=list)
    """An entry an episode, if it is told places: (k, 2) x and y in m of where it was to drive, in order."""
    history: list[dict[str, Floats]] = field(default_factory=list)
    """An entry an episode, if asked for: "step" (k,), "position" (k, 2) in m, "tilt_deg" (k,), "torque" (k,) rms of the
    wheels in N m, "return" (k,) so far, "qpos" (k, nq), MuJoCo's coordinates of the whole robot, and
    "direction" (k, 2), a unit vector of the world, where it was told to go; 0: nowhere."""


def run_episodes(
    envs: BallbotVectorEnv,
    actor: Actor,
    num_episodes: int,
    seed: int,
    history_interval: int = 0,
    *,
    starts: NDArray[np.int64] | None = None,
    randomized: Mapping[str, Floats] = MappingProxyType({}),
    progress: Callable[[float], None] | None = None,
) -> Episodes:
    """Run ``num_episodes`` episodes, as many at a time as there are simulations.

    Args:
        envs: the world; its own ``reset`` draws each start from the episode's seed.  Terrains are taken in turn.
        actor: the policy.
        num_episodes: how many.
        seed: of the first episode; the others count up.
        history_interval: keep every so many steps of each episode in ``history``; 0 keeps none.
        starts: (num_episodes,) instead of 0, 1, 2 and so on, what is added to ``seed`` and says which terrain in turn:
            those alike begin alike.
        randomized: name -> (num_episodes,) of what differs from episode to episode, and is not to be drawn.

        progress: told now and then which share is done, if all that run last to their time limit.

    Raises:
        ValueError: no episodes.
    """
    if num_episodes < 1:
        raise ValueError(f"num_episodes = {num_episodes} must be at least 1")
    n, sims, dt, told = envs.num_envs, envs.simulations, envs.dt, envs.world.told
    outcomes = [""] * num_episodes
    returns, sums, highest = np.zeros(num_episodes), np.zeros((6, num_episodes)), np.zeros((2, num_episodes))
    terms = np.zeros((len(envs.world.terms), num_episodes))
    terrain_ids, robot_ids, lengths = np.zeros((3, num_episodes), np.int64)
    logs = [_Log() for _ in range(num_episodes if history_interval else 0)]

    episode = np.arange(n)  # of each simulation; those from num_episodes on only keep the batch full
    begun = n

    def start_of(episode: Any) -> Any:
        return episode if starts is None else starts[np.minimum(episode, num_episodes - 1)]

    def begin(seeds: list[int | None], mask: Bools) -> tuple[Any, dict[str, Any]]:
        options = {"reset_mask": mask, "terrain_id": start_of(episode) % sims.num_terrains}
        if randomized:
            which = np.minimum(episode, num_episodes - 1)
            options["randomized"] = {name: values[which] for name, values in randomized.items()}
        return envs.reset(seed=seeds, options=options)

    obs, infos = begin([seed + int(start) for start in start_of(episode)], np.ones(n, bool))
    names = [name for name in infos.get("measures", ()) if not name.startswith("_")]
    measures = np.full((len(names), num_episodes), np.nan)
    endings = {name: np.zeros(num_episodes, bool) for name in envs.config.endings}
    targets = [np.empty((0, 2))] * (num_episodes if isinstance(told.command, (Point, Path)) else 0)
    began, torques, longest = np.ones(n, bool), np.zeros(envs.world.actions.shape), envs.config.max_episode_steps
    while (running := episode < num_episodes).any():
        ids, which = np.flatnonzero(running), episode[running]
        terrain_ids[which] = infos["terrain_id"][ids]
        robot_ids[which] = sims.robot_ids[ids]
        if progress is not None and lengths[which[0]] % TOLD_EVERY == 0:
            left = (longest - lengths[which]).sum() + max(num_episodes - begun, 0) * longest
            progress(1 - float(left) / (num_episodes * longest))
        if history_interval:
            ways = _direction(told, n)
            for i, k in zip(ids, which, strict=True):
                if lengths[k] % history_interval == 0:
                    logs[k].add(lengths[k], infos, i, _rms(torques[i]), returns[k], sims.qpos[i], ways[:, i])
        actions = np.clip(np.asarray(actor(obs, began), np.float64), -1.0, 1.0)
        direction = _direction(told, n)
        obs, rewards, terminated, truncated, infos = envs.advance(actions)
        robots, torques = sims.robot_state(), sims.torques
        sound = ~infos["diverged"]
        step = np.stack(
            [
                *np.where(sound, _along_and_across(direction, robots.velocity), 0.0),
                direction.any(axis=0),
                infos["tilt_deg"],
                (torques**2).mean(axis=1),
                np.where(sound, np.abs(torques.T * robots.wheel_speeds).sum(axis=0) * dt, 0.0),
            ]
        )
        returns[which] += rewards[ids]
        lengths[which] += 1
        sums[:, which] += step[:, ids]
        highest[:, which] = np.maximum(highest[:, which], [infos["tilt_deg"][ids], np.abs(torques[ids]).max(axis=1)])
        began = terminated | truncated
        if began.any():
            for i in np.flatnonzero(began & running):
                k = episode[i]
                outcomes[k] = next(name for name in OUTCOMES if name in infos and infos[name][i])
                for name, ended in endings.items():
                    ended[k] = infos[name][i]
                terms[:, k] = [infos["reward_terms"][name][i] for name in envs.world.terms]
                measures[:, k] = [infos["measures"][name][i] for name in names]
                if targets:
                    targets[k] = told.values[:, i].reshape(-1, 2).copy()
                if history_interval:
                    # a simulation that diverged was put elsewhere: its last sound pose is the one before
                    qpos = logs[k].rows[-1][-2] if infos["diverged"][i] else sims.qpos[i]
                    logs[k].add(lengths[k], infos, i, _rms(torques[i]), returns[k], qpos, direction[:, i])
            seeds: list[int | None] = [None] * n
            for i in np.flatnonzero(began):
                if begun < num_episodes:
                    seeds[i] = seed + int(start_of(begun))
                episode[i], begun = begun, begun + 1
            torques[began] = 0.0
            obs, infos = begin(seeds, began)
    means = sums / lengths
    with_direction = np.where(sums[2] > 0, sums[2], np.nan)
    return Episodes(
        seeds=seed + start_of(np.arange(num_episodes)),
        terrain_ids=terrain_ids,
        robot_ids=robot_ids,
        outcomes=outcomes,
        returns=returns,
        lengths=lengths,
        reward_terms=dict(zip(envs.world.terms, terms, strict=True)),
        speed_along_goal=sums[0] / with_direction,
        speed_across_goal=sums[1] / with_direction,
        tilt_mean_deg=means[3],
        tilt_max_deg=highest[0],
        torque_rms=np.sqrt(means[4]),
        torque_max=highest[1],
        energy=sums[5],
        endings=endings,
        measures=dict(zip(names, measures, strict=True)),
        targets=targets,
        history=[log.arrays() for log in logs],
    )


def _direction(told: Commanded, num: int) -> Floats:
    """(2, num) unit vectors of the world, the way to go; 0 for who has none."""
    return told.direction.copy() if "direction" in told.command.memory else np.zeros((2, num))


def _along_and_across(direction: Floats, velocity: Floats) -> Floats:
    """(2, n) speed along the direction and to its left."""
    (x, y), (vx, vy) = direction, velocity[:2]
    return np.stack([x * vx + y * vy, x * vy - y * vx])


class _Log:
    """The history of one episode while it grows."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []

    def add(
        self, step: int, infos: dict[str, Any], sim: int, torque: float, so_far: float, qpos: Floats, way: Floats
    ) -> None:
        state = infos["position"][sim], infos["tilt_deg"][sim], torque, so_far, qpos.copy(), way.copy()
        self.rows.append((step, *state))

    def arrays(self) -> dict[str, Floats]:
        columns = zip(*self.rows, strict=True)
        return {name: np.array(x, np.float64) for name, x in zip(HISTORY, columns, strict=True)}


def _rms(values: Floats) -> float:
    return float(np.sqrt((values**2).mean()))


def summarize(episodes: Episodes) -> dict[str, Any]:
    """Plain numbers for people and programs; every rate and mean with its 95 % interval.

    Returns:
        ``episodes``, then ``success_rate``, ``failure_rate``, ``out_of_bounds_rate``, ``diverged_rate``,
        ``missed_rate`` (shares, with Wilson intervals ``..._ci95``), likewise ``ending_..._rate`` of each failure that
        is no fall, and ``..._mean``, ``..._std`` (of the sample) and ``..._ci95`` (bootstrap) of return, length in
        steps, speeds in m/s, tilts in degrees, torques in N m, energy in J, each reward term (``reward_...``) and each
        of the command's measures (``measure_...``), and ``per_episode``, a dict each. Episodes of which there is
        nothing to say, None in ``per_episode``, do not enter a mean; ``measure_..._count`` says of how many it is. A
        single episode has no spread: its ``..._std`` and ``..._ci95`` of means are None, and of none the ``..._mean``
        is None too.
    """
    count = len(episodes.outcomes)
    summary: dict[str, Any] = {"episodes": count}
    shares = {outcome: episodes.outcomes.count(outcome) for outcome in OUTCOMES}
    shares |= {f"ending_{name}": int(ended.sum()) for name, ended in episodes.endings.items()}
    for name, hits in shares.items():
        summary[f"{name}_rate"] = hits / count
        summary[f"{name}_rate_ci95"] = wilson_interval(hits, count)
    quantities = {
        "return": episodes.returns,
        "length": episodes.lengths.astype(np.float64),
        "speed_along_goal": episodes.speed_along_goal,
        "speed_across_goal": episodes.speed_across_goal,
        "tilt_mean_deg": episodes.tilt_mean_deg,
        "tilt_max_deg": episodes.tilt_max_deg,
        "torque_rms": episodes.torque_rms,
        "torque_max": episodes.torque_max,
        "energy": episodes.energy,
        **{f"reward_{name}": values for name, values in episodes.reward_terms.items()},
        **{f"measure_{name}": values for name, values in episodes.measures.items()},
    }
    for name, values in quantities.items():
        told = values[np.isfinite(values)]
        summary[f"{name}_mean"] = float(told.mean()) if len(told) else None
        summary[f"{name}_std"] = float(told.std(ddof=1)) if len(told) > 1 else None
        summary[f"{name}_ci95"] = mean_interval(told)
        if name.startswith("measure_"):
            summary[f"{name}_count"] = len(told)
    summary["per_episode"] = [
        {
            "seed": int(episodes.seeds[k]),
            "terrain_id": int(episodes.terrain_ids[k]),
            "robot_id": int(episodes.robot_ids[k]),
            "outcome": episodes.outcomes[k],
            "ending": next((name for name, ended in episodes.endings.items() if ended[k]), None),
            **{name: values[k].item() if np.isfinite(values[k]) else None for name, values in quantities.items()},
        }
        for k in range(count)
    ]
    return summary


def wilson_interval(hits: int, count: int) -> list[float]:
    """95 % interval of a share, [low, high]; Wilson 1927, sound for shares near 0 and 1 and few episodes."""
    share, z2 = hits / count, Z * Z / count
    middle = (share + z2 / 2) / (1 + z2)
    half = Z / (1 + z2) * math.sqrt(share * (1 - share) / count + z2 / count / 4)
    low, high = middle - half, middle + half
    return [0.0 if hits == 0 else low, 1.0 if hits == count else high]  # exactly, whatever the rounding


def mean_interval(values: Floats) -> list[float] | None:
    """95 % interval of a mean, [low, high], by a percentile bootstrap whose draws are always the same.

    None of a single value, which says nothing about how far others lie apart.
    """
    if len(values) < 2:
        return None
    rng = np.random.default_rng(0)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return [float(low), float(high)]
