"""Evaluations of several policies side by side, as text."""

from __future__ import annotations

from typing import Any

from ballbot.evaluation.episodes import OUTCOMES

RATES = tuple(f"{outcome}_rate" for outcome in OUTCOMES)
"""Shares of episodes; a reward's or a measure's name may end alike."""
ROWS = (
    ("success_rate", "success", "{:.0%}"),
    ("failure_rate", "fell", "{:.0%}"),
    ("ending_", "  of these by ", "{:.0%}"),
    ("missed_rate", "missed what it was told", "{:.0%}"),
    ("out_of_bounds_rate", "left the terrain", "{:.0%}"),
    ("return", "return", "{:.1f}"),
    ("length", "length, steps of 2 ms", "{:.0f}"),
    ("reward_", "  of the return: ", "{:.2f}"),
    ("measure_", "", "{:.3f}"),
    ("speed_along_goal", "speed along the goal, m/s", "{:.3f}"),
    ("speed_across_goal", "speed to its left, m/s", "{:.3f}"),
    ("tilt_mean_deg", "mean tilt, degrees", "{:.2f}"),
    ("tilt_max_deg", "largest tilt, degrees", "{:.2f}"),
    ("torque_rms", "torque of a wheel, rms, N m", "{:.2f}"),
    ("energy", "energy of the motors, J", "{:.0f}"),
)
"""Quantity, title and form; those whose names end in _ are all that begin so."""
MEASURES = {
    "velocity_error": "error of the velocity, rms, m/s",
    "yaw_rate_error": "error of the yaw rate, rms, rad/s",
    "drift": "drift while told to stand, m",
    "distance": "distance to the place, m",
    "arrived": "there at the end",
    "arrival_time": "time of arrival, s",
    "reached": "share of the points reached",
    "travelled": "way along the goal, m",
    "off_path": "distance from the path, rms, m",
}
"""Titles of what ballbot's commands measure; others have their names."""


def rows_of(summaries: dict[str, dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Quantity, title and form of what there is to say of any policy."""
    told = [key for s in summaries.values() for key, value in s.items() if value is not None]
    quantities = list(dict.fromkeys(key.removesuffix("_mean") for key in told if key.endswith("_mean")))
    to_a_goal = all(s["command"] == "goal" for s in summaries.values())
    rows = []
    for key, title, form in ROWS:
        if key == "missed_rate" and to_a_goal and "measure_arrived" not in quantities:
            continue
        if key == "ending_":
            names = dict.fromkeys(k for k in told if k.startswith(key) and k.endswith("_rate"))
            rows += [(name, title + name[len(key) : -len("_rate")].replace("_", " "), form) for name in names]
            continue
        if key in RATES or key in quantities:
            rows.append((key, title if to_a_goal else title.replace("the goal", "the way told"), form))
        elif key.endswith("_"):
            for i, name in enumerate(q for q in quantities if q.startswith(key)):
                part = name.removeprefix(key)
                words = MEASURES.get(part, part) if key == "measure_" else part
                rows.append((name, (title if i == 0 else title and "  ") + words.replace("_", " "), form))
    return rows


def counted(episodes: int) -> str:
    """So many episodes, in words."""
    return f"{episodes} episode{'s' * (episodes != 1)}"


def table_rows(summaries: dict[str, dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Each quantity's name, and its value for each policy; a dash is what cannot be told."""
    rows = []
    for key, title, form in rows_of(summaries):
        row = []
        for summary in summaries.values():
            share = key in RATES or key.startswith("ending_")
            numbers = [summary.get(key)] if share else [summary.get(f"{key}_{x}") for x in ("mean", "std")]
            numbers += summary.get(f"{key}_ci95") or (None, None)
            *value, low, high = ("-" if x is None else form.format(x) for x in numbers)
            alone = not share and numbers[1] is None  # a single value has no spread
            few = summary.get(f"{key}_count", summary["episodes"])
            of = f", {counted(few)}" if few < summary["episodes"] else ""
            row.append(value[0] + of if alone else f"{' ± '.join(value)} [{low}, {high}]{of}")
        rows.append((title, row))
    return rows


def table(summaries: dict[str, dict[str, Any]]) -> str:
    """All policies side by side, with 95 % intervals."""
    rows = table_rows(summaries)
    width, cells = max(len(title) for title, _ in rows), [row for _, row in rows]
    names = [name if len(name) <= 30 else f"...{name[-27:]}" for name in summaries]
    widths = [max(len(x) for x in column) for column in zip(names, *cells, strict=True)]
    lines = [" " * width + "".join(f"  {n:>{w}}" for n, w in zip(names, widths, strict=True))]
    for (title, _), row in zip(rows, cells, strict=True):
        lines.append(f"{title:<{width}}" + "".join(f"  {x:>{w}}" for x, w in zip(row, widths, strict=True)))
    return "\n".join(lines)
