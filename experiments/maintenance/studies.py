"""Which trainings docs/results.md reports, and who is judged beside what they learned: lists for ``reproduce.py``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ballbot.envs import ROBOTS

UNTRAINED = Path("runs") / "reproduce" / "untrained_encoder.pt"
"""An encoder that has learned nothing; made when a study needs it."""
SHUFFLED = (("shuffled", ("--shuffle-images",)),)
"""With the images of other robots."""
ON_THE_ROAD = ("--task", "road")
MANY = ("--episodes", "200", "--num-terrains", "200")


@dataclass(frozen=True)
class Study:
    """Runs that differ in nothing but their seed."""

    what: str
    options: tuple[str, ...]
    """Of experiments/ppo_ballbot.py."""
    seeds: range
    minutes: float
    """A run takes on one core of the machine that docs/results.md names, with another run beside it."""
    after: str | None = None
    """Study whose last policy of the same seed a run needs."""
    start: str = "--init-from"
    """Option that takes that policy."""
    best: bool = True
    """Whether its best policies are judged beside the last ones."""
    judged: tuple[str, ...] = ()
    """Options of experiments/evaluate.py with which its policies are judged."""
    also: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """How else its last policy is judged: what rows call that, as in road_sees_shuffled_1, and options."""

    def command(self, seed: int) -> list[str]:
        """Options of experiments/ppo_ballbot.py for a new run."""
        start = [] if self.after is None else [self.start, str(folder_of(self.after, seed) / "last.pt")]
        return [*self.options, *start, "--seed", str(seed), "--num-threads", "1", "--torch-threads", "1"]


def folder_of(study: str, seed: int) -> Path:
    """Where a run is trained."""
    return Path("runs") / f"reproduce_{study}_{seed}"


HORIZONS = {8000: 20, 20_000: 40}
"""Steps for which the policy that comes along is judged too -> side of the ground then, m."""
BLIND = ("--no-cameras",)
PLAIN = ("--preset", "plain")
BY_RANDOM = ("--encoder", str(UNTRAINED))
FORESIGHT = (
    *("--preset", "distill", "--teacher", "foresight", "--imitation-timesteps", "3000000"),
    *("--total-timesteps", "5000000", "--eval-interval", "500000", "--eval-episodes", "200"),
)
FORESEES = ("--preset", "foresees")
SEES = (*ON_THE_ROAD, "--preset", "sees")
UNSEEN = range(1, 6)
"""Seeds that had no part in finding the settings of tasks to cross, as 0, 10 and 11 had."""
CROSSING: dict[str, Any] = {"judged": MANY, "best": False}
"""Of studies of the road, of whose policies the last ones are judged, on twice as many terrains."""
FRESH = range(5, 10)
"""Seeds that had no part in finding the default settings, as 0, 1 and 10 to 15 had."""
TO_CROSS = "road", "stagger", "trench"
"""Tasks whose ground is to be crossed."""
FINDING: dict[str, tuple[str, tuple[str, ...]]] = {
    "": ("finds its way", ()),
    "_by_random": ("finds its way by a random encoder", BY_RANDOM),
    "_by_two": ("finds its way by the reference's two cameras", ("--rig.number", "None")),
    "_blind": ("finds its way without cameras", BLIND),
}
"""What a study's name ends with -> what it is, and its options."""
GROUNDS: dict[str, tuple[str, ...]] = {
    "perlin": ("--terrain", "perlin", "--command", "goal", "--motion.distance", "0"),
    **{task: ("--task", task) for task in TO_CROSS},
}
"""On which who crosses them all is judged -> options of experiments/evaluate.py."""
AS_MEANT = (("as_meant", ("--randomize", "none", "--sensors", "perfect")),)
"""In the world in which nothing differs and sensors are perfect."""
ROBUST: dict[str, Any] = {
    "options": ("--preset", "robust", *BLIND),
    "minutes": 20,
    "best": False,
    "judged": (*MANY, "--randomize", "strong"),
    "also": AS_MEANT,
}
STUDIES: dict[str, Study] = {
    "shipped": Study("the policy that comes along", FORESIGHT, range(10, 11), 40),
    "shipped_blind": Study("the same without cameras", (*FORESIGHT, *BLIND), range(10, 11), 25),
    "default": Study("the default settings", (), FRESH, 25),
    "blind": Study("the default settings without cameras", BLIND, FRESH, 14),
    "gru": Study("the same with a GRU for a memory", (*BLIND, "--history", "0", "--memory", "gru"), range(5, 8), 35),
    "distill": Study("learned from the controller that remembers", ("--preset", "distill", *BLIND), FRESH, 10),
    "paper": Study("the settings of Salehi 2025", ("--preset", "paper"), range(5), 60),
    "plain": Study("without memory", PLAIN, range(5), 20),
    "plain_blind": Study("without memory and cameras", (*PLAIN, *BLIND), range(3), 11),
    "unfixed": Study("without these and the contact fix", (*PLAIN, *BLIND, "--no-contact-fix"), range(3), 10),
    "untrained_encoder": Study("without memory, by a random encoder", (*PLAIN, *BY_RANDOM), range(3), 20),
    "rk4": Study("without memory and cameras, by RK4", (*PLAIN, *BLIND, "--integrator", "RK4"), range(3), 30),
    "robust": Study("unequal robots, imperfect sensors, pushes", seeds=UNSEEN, **ROBUST),
    "robust_shipped": Study("the same, which comes along", seeds=range(10, 11), **ROBUST),
    "perlin_foresees": Study("perlin, foresees slopes", FORESEES, UNSEEN, 25, also=SHUFFLED, **CROSSING),
    "perlin_foresees_blind": Study(
        "perlin, foresees slopes without cameras", (*FORESEES, *BLIND), UNSEEN, 15, **CROSSING,
    ),
    "road_told": Study("road, told the ground around", (*ON_THE_ROAD, "--preset", "told"), UNSEEN, 20, **CROSSING),
    "road_sees": Study("road, sees it", SEES, UNSEEN, 8, after="road_told", also=SHUFFLED, **CROSSING),
    "road_tuned": Study(
        "road, sees it, and goes on by PPO", (*SEES, "--total-timesteps", "1600000"), UNSEEN, 20,
        after="road_told", **CROSSING,
    ),
    "road_imitates": Study(
        "road, sees it, and learned to act as who is told",
        (*ON_THE_ROAD, "--preset", "distill", "--privileged-fields", "scan", "--rig.number", "3"), UNSEEN, 20,
        after="road_told", start="--teacher", **CROSSING,
    ),
    "road_by_two": Study(
        "road, sees it by the reference's two cameras", (*SEES, "--rig.number", "None"), UNSEEN, 7,
        after="road_told", **CROSSING,
    ),
    "road_by_random": Study(
        "road, sees it by a random encoder", (*SEES, *BY_RANDOM), UNSEEN, 8, after="road_told", **CROSSING,
    ),
    "road_guesses": Study(
        "road, guesses it without cameras", (*SEES, *BLIND), UNSEEN, 6, after="road_told", **CROSSING,
    ),
    "road_blind": Study(
        "road, the default settings without cameras", (*ON_THE_ROAD, *BLIND), UNSEEN, 20, **CROSSING,
    ),
    **{
        f"{task}_finds{name}": Study(
            f"{task}, {what}", ("--task", task, "--preset", "finds", *options), UNSEEN, 12,
            also=() if name else SHUFFLED, **CROSSING,
        )
        for task in TO_CROSS
        for name, (what, options) in FINDING.items()
    },
    "mixed_crosses": Study(
        "all of these grounds, finds its way and feels slopes", ("--task", "mixed", "--preset", "crosses"), UNSEEN, 25,
        also=tuple((f"on_{ground}", options) for ground, options in GROUNDS.items()), **CROSSING,
    ),
    **{
        f"robot_{name}": Study(
            f"{name}, the default settings without cameras", (*BLIND, "--robot", name), range(5, 8), 8, best=False,
            also=(("on_capsules", ("--robot", "reference")),) if name == "rollers" else (),
        )
        for name in ROBOTS if name != "reference"
    },
}  # fmt: skip


@dataclass(frozen=True)
class Classical:
    """Controllers that are judged side by side, if one of some studies is asked for."""

    name: str
    controllers: tuple[str, ...]
    beside: frozenset[str]
    judged: tuple[str, ...] = ()
    """Options of experiments/evaluate.py."""


CLASSICAL = (
    Classical(
        "controllers",
        (
            "pid",
            *(f"linear:{speed}" for speed in ("0.2", "0.25", "0.3", "0.35", "0.4")),
            "lqr",
            *("observer:0.3", "observer:0.35", "observer", "observer:0.41"),
            "foresight",
        ),
        frozenset(("default", "blind")),
    ),
    *(
        Classical(
            f"{task}_controllers",
            ("linear:0.25", "observer:0.25", "informed:0.25", "guided:0.44", "guided_observer"),
            frozenset(name for name in STUDIES if name.startswith(f"{task}_")),
            ("--task", task, *MANY),
        )
        for task in TO_CROSS
    ),
)
