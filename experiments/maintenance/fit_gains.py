"""Find the gains of a classical controller by CMA-ES (Hansen 2016, arXiv:1604.00772), on training terrains.

    pip install -e ".[dev]"
    python experiments/maintenance/fit_gains.py linear                       # a line a generation, and the gains
    python experiments/maintenance/fit_gains.py foresight --generations 40 --json gains.json

Every generation draws gains around the best ones so far, and each of them drives whole episodes, all on the same
terrains from the same starts: other ones in every generation.  Actions are held for 10 ms, which changes little and
is faster.  Defaults of the controllers in ``ballbot.controllers`` and ``ballbot.observer`` came of it;
``experiments/evaluate.py`` judges them on terrains that were not used here.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import cma
import numpy as np
import tyro
from numpy.typing import NDArray

from ballbot.cli import check_options, check_output, program
from ballbot.controllers import CONTROLLERS, controlled_fields
from ballbot.envs import BallbotVectorEnv
from ballbot.errors import SettingsError
from ballbot.parsing import parse
from ballbot.ppo.checkpoint import write_atomic
from ballbot.settings import Range, check_value

Array = NDArray[np.float64]

HOLD = 5
"""Steps for which an action is held."""
SPREAD = (0.06, 0.04)
"""Standard deviation of the first generation: as a share of a gain, and at least."""


@dataclass
class Args:
    """Find the gains of a classical controller."""

    controller: tyro.conf.Positional[Literal["linear", "observer", "foresight"]]
    """Whose."""
    generations: Annotated[int, Range(1, 10_000)] = 30
    """How often to draw anew."""
    population: Annotated[int, Range(4, 4096)] = 12
    """Gains a generation."""
    episodes: Annotated[int, Range(1, 4096)] = 16
    """Episodes that each is judged by."""
    horizon: Annotated[int, Range(HOLD, 10**6)] = 4000
    """Steps of an episode."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """Of the draws and of the starts."""
    num_threads: Annotated[int, Range(0, 1024)] = 0
    """Threads that simulate (0: every CPU); results do not depend on it."""
    json: Path | None = None
    """File to keep the mean of the gains in, after every generation; if it is there, the search starts from it."""


def gains_of(kind: type[Any]) -> dict[str, float]:
    """The default gains of a controller by name; those of a gain that is several as NAME.0, NAME.1."""
    found: dict[str, float] = {}
    for f in fields(kind):
        if f.name != "dt":
            default: Any = f.default
            several = isinstance(default, tuple)
            found |= {f"{f.name}.{i}": x for i, x in enumerate(default)} if several else {f.name: default}
    return found


def read_gains(path: Path, controller: str, gains: dict[str, float]) -> dict[str, float]:
    """Those that a search kept.

    Raises:
        SettingsError: the file holds something else than numbers by the names of ``gains``.
    """
    try:
        kept = json.loads(path.read_text())
    except ValueError as error:
        raise SettingsError(f"--json {path} is no JSON ({error}): remove it, or name another file") from error
    if not isinstance(kept, dict) or set(kept) != set(gains):
        names = f": {', '.join(kept)}" if isinstance(kept, dict) else ""
        raise SettingsError(f"--json {path} holds other gains than {controller} has{names}: name another file")
    number = Annotated[float, Range(-1e6, 1e6)]
    return {name: float(check_value(f"--json {path}: {name}", kept[name], number)) for name in gains}


def with_gains(kind: type[Any], dt: float, gains: dict[str, Any]) -> Any:
    """A controller with these gains, which may be arrays with a number for each robot."""
    given: dict[str, Any] = {}
    for name, value in gains.items():
        base, dot, _ = name.partition(".")
        given[base] = (*given.get(base, ()), value) if dot else value
    return kind(dt, **given)


def returns(envs: BallbotVectorEnv, controller: Any, episodes: int, seed: int) -> tuple[Array, Array]:
    """Return and length of the episodes, each (population, episodes)."""
    starts: list[int | None] = [seed + i for i in range(episodes)]
    observations, _ = envs.reset(seed=starts * (envs.num_envs // episodes))
    total, length = np.zeros(envs.num_envs), np.zeros(envs.num_envs)
    running, began = np.ones(envs.num_envs, bool), np.ones(envs.num_envs, bool)
    while running.any():
        observations, rewards, terminated, truncated, _ = envs.step(controller(observations, began))
        total += rewards * running
        length += HOLD * running
        running &= ~(terminated | truncated)
        began[:] = False
    return total.reshape(-1, episodes), length.reshape(-1, episodes)


@program
def main(argv: list[str] | None = None) -> int:
    """Search, print a line a generation, and return the exit status."""
    args = parse(Args, argv, __doc__)
    check_options(args)
    kind: Any = CONTROLLERS[args.controller]
    gains = gains_of(kind)
    if args.json is not None:
        check_output(args.json, "--json", (".json",))
        if args.json.exists():
            gains = read_gains(args.json, args.controller, gains)
    names, first = list(gains), np.array(list(gains.values()))
    spread = np.maximum(SPREAD[0] * np.abs(first), SPREAD[1])
    search = cma.CMAEvolutionStrategy(
        np.zeros(len(first)), 0.25, {"popsize": args.population, "seed": args.seed + 1, "verbose": -9}
    )
    envs = BallbotVectorEnv(
        args.population * args.episodes,
        extra_fields=controlled_fields(args.controller),
        max_episode_steps=args.horizon,
        action_repeat=HOLD,
        num_threads=args.num_threads,
    )
    for generation in range(args.generations):
        drawn = search.ask()
        columns = np.repeat(first + np.array(drawn) * spread, args.episodes, axis=0).T
        controller = with_gains(kind, envs.dt, dict(zip(names, columns, strict=True)))
        value, length = returns(envs, controller, args.episodes, args.seed + 10_000 * generation)
        search.tell(drawn, (-value.mean(axis=1)).tolist())
        mean = dict(zip(names, (first + search.mean * spread).round(5).tolist(), strict=True))
        best = np.sort(value.mean(axis=1))[args.population // 2 :].mean()
        print(
            f"{generation}: they returned {value.mean():.2f}, the better half {best:.2f}; "
            f"{(length >= args.horizon).mean():.1%} did not fall; now {mean}",
            flush=True,
        )
        if args.json is not None:
            write_atomic(args.json, json.dumps(mean, indent=1).encode())
    envs.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
