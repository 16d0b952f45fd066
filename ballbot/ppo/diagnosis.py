"""What goes wrong in a training, told while it does: the metric, the likely cause, and the setting to change.

The thresholds lie well outside of what sound runs show (results/*.csv); docs/troubleshooting.md has the plots to look
at. A line is a hint, not a verdict: nothing is changed or stopped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import numpy as np
import torch

from ballbot.ppo.config import PPOConfig
from ballbot.ppo.logger import STEP

Rows = list[dict[str, float]]

WINDOW = 10
"""Updates whose mean is judged: single ones jump."""
MEMORY = 60
"""Updates that are remembered."""
WARM_UP = 20
"""Updates at the start in which the value function and the policy may be as wrong as they like."""
SILENCE = 50
"""Updates before the same is said again."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: NumPy's, or one of PyTorch's on a CPU or a GPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = ("can't allocate memory", "not enough memory", "CUDA out of memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


class Diagnosis:
    """Looks at the row of each update.

    Args:
        config: settings of the run.
        earlier: rows of a resumed run so far: it is judged, and told, as if it had never stopped.
        shaped_rewards: training pays other rewards than evaluation, or for shorter: their returns are not compared.
    """

    def __init__(
        self, config: PPOConfig, earlier: Iterable[dict[str, float]] = (), shaped_rewards: bool = False
    ) -> None:
        self.config, self.shaped_rewards = config, shaped_rewards
        self.rows: deque[dict[str, float]] = deque(maxlen=MEMORY)
        self.updates = 0
        self.first_return: float | None = None
        self._said: dict[str, int] = {}
        self._from_start = False
        for row in earlier:
            self.examine(row)

    def examine(self, row: dict[str, float]) -> list[str]:
        """Lines to print after this update: usually none, at most one."""
        if not self.updates:  # a run that goes on in another folder has its start elsewhere
            self._from_start = row[STEP] <= self.config.rollout_size
        self.rows.append(row)
        self.updates += 1
        if self.updates <= WARM_UP:
            return []
        if self.first_return is None and self._from_start:
            self.first_return = _mean(list(self.rows), "charts/episodic_return")
        recent = list(self.rows)[-WINDOW:]
        for name, look in CHECKS.items():
            last = self._said.get(name)
            if last is not None and (self.updates - last < SILENCE or name in SAID_ONCE):
                continue
            if (text := look(self, recent)) is not None:
                self._said[name] = self.updates
                return [f"hint: {text}"]
        return []


def _mean(rows: Rows, name: str) -> float | None:
    values = [row[name] for row in rows if name in row and np.isfinite(row[name])]
    return float(np.mean(values)) if values else None


def _large_steps(d: Diagnosis, recent: Rows) -> str | None:
    kl, limit = _mean(recent, "losses/approx_kl"), max(0.05, 2 * (d.config.target_kl or 0.0))
    if kl is not None and kl > limit:
        return (
            f"the policy changes by a KL divergence of {kl:.3f} an update (sound: below {limit:g}), so it forgets: "
            "lower learning_rate or clip_range, or set target_kl"
        )
    clipped = _mean(recent, "losses/clipfrac")
    if clipped is not None and clipped > 0.5 and d.config.clip_range >= 0.1:
        return f"{clipped:.0%} of the samples are clipped (sound: below 30%): lower learning_rate or update_epochs"
    return None


def _little_exploration(d: Diagnosis, recent: Rows) -> str | None:
    std = _mean(recent, "policy/std")
    if std is not None and std < 0.05:
        return f"the policy hardly explores, its standard deviation is {std:.3f}: set min_std, or raise ent_coef"
    return None


def _poor_values(d: Diagnosis, recent: Rows) -> str | None:
    if recent[-1][STEP] <= d.config.imitation_timesteps:
        return None  # nobody goes by them yet, and among drivers who are all good there is little to explain
    explained = _mean(recent, "losses/explained_variance")
    if explained is not None and explained < 0:
        return (
            f"the value function predicts worse than a constant (explained variance {explained:.2f}): check the scale "
            "of the rewards (normalize_rewards), or raise vf_coef"
        )
    return None


def _exploding_values(d: Diagnosis, recent: Rows) -> str | None:
    losses = [row["losses/value_loss"] for row in d.rows if "losses/value_loss" in row]
    now = _mean(recent, "losses/value_loss")
    if now is None or len(losses) < 3 * WINDOW:
        return None
    before = float(np.median(losses[:-WINDOW]))
    if now > 20 * before > 0:
        return f"the value loss is {now / before:.0f} times what it was: lower learning_rate, or set value_clip_range"
    return None


def _no_generalization(d: Diagnosis, recent: Rows) -> str | None:
    if d.shaped_rewards:
        return None
    evaluated, trained = _mean(recent[-1:], "eval/return_mean"), _mean(recent, "charts/episodic_return")
    if evaluated is not None and trained is not None and trained > 0 and evaluated < 0.7 * trained:
        return (
            f"evaluation ({evaluated:.1f}) is far below training ({trained:.1f}): more varied episodes (num_terrains), "
            "more weight_decay, or take best.pt"
        )
    return None


def _no_improvement(d: Diagnosis, recent: Rows) -> str | None:
    now, total = _mean(recent, "charts/episodic_return"), d.config.total_timesteps
    if now is None or d.first_return is None or recent[-1][STEP] < 0.25 * total or d.updates < 2 * WARM_UP:
        return None
    if now - d.first_return <= 0.1 * abs(d.first_return):
        return (
            f"the return ({now:.2f}) is what it was at the start ({d.first_return:.2f}): check the environment first "
            "(experiments/check_setup.py for the ballbot), then raise learning_rate"
        )
    return None


def _time(d: Diagnosis, recent: Rows) -> str | None:
    parts = {name: _mean(recent, f"time/{name}") or 0.0 for name in ("simulate", "infer", "learn")}
    total = sum(parts.values())
    if not total:
        return None
    text = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in parts.items())
    if parts["learn"] > 0.6 * total:
        return f"time goes to: {text}; a larger minibatch_size or fewer update_epochs learn faster"
    if parts["simulate"] > 0.8 * total:
        return f"time goes to: {text}; more num_threads, more num_envs, or no cameras simulate faster"
    return None


CHECKS: dict[str, Callable[[Diagnosis, Rows], str | None]] = {
    "large steps": _large_steps,
    "exploding values": _exploding_values,
    "poor values": _poor_values,
    "little exploration": _little_exploration,
    "no generalization": _no_generalization,
    "no improvement": _no_improvement,
    "time": _time,
}
"""Worst first: one line an update is enough."""
SAID_ONCE = {"time"}
