"""One HTML page about an evaluation, that opens without a network: a table and plots, in the reader's colours.

Plots are vector graphics inside the page.  Text and lines take the page's own colour, so that they can be read in a
light and a dark theme; the colours of policies are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.envs.terrain import TerrainPool
from ballbot.evaluation.episodes import Episodes
from ballbot.ppo.checkpoint import write_atomic

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
PERIOD = 0.002
"""s a step."""
MOST_TRACES = 30
"""Episodes drawn over time: more would be a blot."""
HALF = 5.0
"""Inches of a figure that shares a row with another one."""
GROUNDS = 4
"""Terrains that trajectories are drawn over."""
INK = "#010203"
"""Stands for the page's own colour of text."""
STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --faint: #d8d8d8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #16181c; --faint: #3a3d44; } }
body { color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; max-width: 70rem;
       margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: 0.25rem 0.75rem; border-bottom: 1px solid var(--faint); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
table.told td { text-align: left; white-space: normal; }
svg { width: 100%; height: auto; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; } .row svg { flex: 1 1 20rem; min-width: 0; max-width: 36rem; }
figure { margin: 2rem 0; overflow-x: auto; } figure > svg { min-width: 48rem; } figcaption { font-size: 0.9rem; }
video { width: 100%; max-width: 40rem; }
"""


def write_report(
    path: Path,
    title: str,
    rows: list[tuple[str, list[str]]],
    episodes: dict[str, Episodes],
    ground: TerrainPool,
    videos: list[tuple[str, bytes, bytes]],
    notes: list[str],
) -> None:
    """Write the page.

    Args:
        path: file to write.
        title: of the page.
        rows: the table: a quantity's name and its value for each policy.
        episodes: of each policy, with their history.
        ground: that they took place on.
        videos: caption, .mp4 or .gif content, and a .jpg shown until that is played.
        notes: sentences on how it was made.

    Raises:
        ImportError: the extra "plots" is not installed.
        OSError: the file cannot be written.
    """
    figures = [
        ("Return and length of the episodes.", _distributions(episodes)),
        (
            f"Where the robots went, from above; {_whither(episodes)} A dot is the start, a cross a fall. "
            + ("" if ground.relief is None else f"The {GROUNDS} grounds of the most episodes; light is high."),
            _row([_trajectories(episodes, ground)])
            if ground.relief is None
            else vector_graphic(_trajectories(episodes, ground)),
        ),
        (
            "Tilt and torque of a wheel over time; each line is an episode, the thick one their median while at "
            "least half of them run.",
            _over_time(episodes),
        ),
        (f"{_worth(episodes)} up to a time, mean and middle 90 %: what is earned by going.", _horizon(episodes)),
    ]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in episodes)
    lines = "".join(
        f"<tr><td>{html.escape(name)}</td>{''.join(f'<td>{html.escape(v)}</td>' for v in values)}</tr>"
        for name, values in rows
    )
    films = "".join(_video(*video) for video in videos)
    body = (
        f"{''.join(f'<p>{html.escape(n)}</p>' for n in notes)}"
        f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{lines}</tbody></table>"
        + "".join(f"<figure>{svg}<figcaption>{html.escape(text)}</figcaption></figure>" for text, svg in figures)
        + films
    )
    write_atomic(path, page(title, body).encode())


def page(title: str, body: str) -> str:
    """A whole page: its title, which is text, and below that HTML."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
        f"<h1>{html.escape(title)}</h1>{body}</body></html>\n"
    )


def write_paths(path: Path, episodes: dict[str, Episodes], ground: TerrainPool) -> None:
    """Draw where robots went, over the ground, into a .png or .svg file; as the page does, but on white.

    Args:
        path: file to write.
        episodes: of each policy, with their history.
        ground: that they took place on.

    Raises:
        ImportError: the extra "plots" is not installed.
        OSError: the file cannot be written.
    """
    figure = _trajectories(episodes, ground)
    figure.patch.set(facecolor="white", alpha=1.0)
    write_atomic(path, _saved(figure, path.suffix[1:], dpi=110))


def _video(caption: str, content: bytes, poster: bytes) -> str:
    kind = "image/gif" if content[:3] == b"GIF" else "video/mp4"
    return film_figure(caption, _data(kind, content), kind, _data("image/jpeg", poster))


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def film_figure(caption: str, source: str, kind: str, poster: str = "") -> str:
    """A film on a page.

    Args:
        caption: below it, text.
        source: its address.
        kind: "video/mp4" or "image/gif".
        poster: address of a picture that is shown until an .mp4 is played.
    """
    caption, source = html.escape(caption), html.escape(source)
    if kind == "image/gif":
        shown = f'<img alt="{caption}" src="{source}">'
    else:
        first = f' poster="{html.escape(poster)}"' if poster else ""
        shown = f'<video controls muted loop{first} src="{source}"></video>'
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def new_figure(columns: int, height: float = 3.4, width: float = 10) -> tuple[Any, Any]:
    """A figure for a page, and its axes side by side.

    Raises:
        ImportError: the extra "plots" is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise ImportError("matplotlib is missing: pip install matplotlib") from error
    colours: dict[Any, Any] = dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    )
    with plt.rc_context({**colours, "svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "ballbot"}):
        figure, axes = plt.subplots(1, columns, figsize=(width, height), layout="constrained", squeeze=False)
    figure.patch.set_alpha(0)
    for axis in axes.flat:
        axis.patch.set_alpha(0)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[0]


def _saved(figure: Any, kind: str, **options: Any) -> bytes:
    """Content of a file of this kind, "svg" or "png", the same each time; the figure is closed."""
    from matplotlib import pyplot as plt

    content = io.BytesIO()
    told = {"Date": None, "Creator": None} if kind == "svg" else {}
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ballbot"}):
        figure.savefig(content, format=kind, metadata=told, **options)
    plt.close(figure)
    return content.getvalue()


def vector_graphic(figure: Any) -> str:
    """A figure as part of a page."""
    text = _saved(figure, "svg", transparent=True).decode().replace(INK, "currentColor")
    text = text[text.index("<svg") :]
    # several figures share a page: their ids must differ, and nothing may point outside
    prefix = f"f{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", text)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)


def polar(directions: NDArray[np.float64], parts: dict[str, NDArray[np.float64]]) -> str:
    """Quantities by direction, each round the clock, as a vector graphic for a page.

    Args:
        directions: (n,) rad.
        parts: title -> (n,) values.

    Raises:
        ImportError: the extra "plots" is not installed.
    """
    figure, axes = new_figure(max(len(parts), 1), 3.0)
    from matplotlib.ticker import MaxNLocator

    for number, (axis, (title, values)) in enumerate(zip(axes, parts.items(), strict=False)):
        place = axis.get_subplotspec()
        axis.remove()
        round_ = figure.add_subplot(place, projection="polar")
        round_.patch.set_alpha(0)
        closed = np.append(np.arange(len(values)), 0)
        round_.plot(directions[closed], values[closed], "o-", color=COLOURS[number % len(COLOURS)])
        round_.set(ylim=(0, 1.15 * max(float(values.max()), 1e-9)), xticks=np.linspace(0, 2 * np.pi, 6, endpoint=False))
        round_.set_title(title, color=INK, fontsize=11)
        round_.tick_params(colors=INK, labelsize=8)
        round_.spines["polar"].set_color(INK)
        round_.grid(alpha=0.4)
        round_.yaxis.set_major_locator(MaxNLocator(3))
    return vector_graphic(figure)


def _named(episodes: dict[str, Episodes]) -> list[tuple[str, str, Episodes]]:
    return [(name, COLOURS[i % len(COLOURS)], e) for i, (name, e) in enumerate(episodes.items())]


def _distributions(episodes: dict[str, Episodes]) -> str:
    figures = []
    for label, field in (("return", "returns"), ("length, steps of 2 ms", "lengths")):
        figure, (axis,) = new_figure(1, width=HALF)
        values = [getattr(e, field).astype(float) for e in episodes.values()]
        low, high = min(v.min() for v in values), max(v.max() for v in values)
        pad = max(0.05 * abs(high), 0.5) if high - low < 1e-9 else 0.0  # all alike: one bar
        bins = np.linspace(low - pad, high + pad, 30)
        for (name, colour, _), v in zip(_named(episodes), values, strict=True):
            axis.hist(v, bins=bins, histtype="step", color=colour, linewidth=1.8, label=name)
        axis.set(xlabel=label, ylabel="episodes")
        axis.ticklabel_format(useOffset=False)
        figures.append(figure)
    figures[0].axes[0].legend(frameon=False, loc="best", labelcolor=INK)
    return _row(figures)


def _row(figures: list[Any]) -> str:
    """Side by side where there is room, else one below the other, so that their text can be read on a phone."""
    return f'<div class="row">{"".join(map(vector_graphic, figures))}</div>'


def _whither(episodes: dict[str, Episodes]) -> str:
    if any(e.targets for e in episodes.values()):
        return "rings are the places that they were told to drive to, in the order of the dotted lines."
    return "the goal is upward." if all(np.isfinite(e.speed_along_goal).all() for e in episodes.values()) else ""


def _trajectories(episodes: dict[str, Episodes], ground: TerrainPool) -> Any:
    first = next(iter(episodes.values()))
    counts = np.bincount(first.terrain_ids[: len(first.history)])
    fields = [int(i) for i in np.argsort(-counts, kind="stable")[:GROUNDS] if counts[i]]
    if ground.relief is None:
        fields = fields[:1]  # all the same
    traces = []  # panel, colour, x and y, whether it ends in a fall
    places = []  # panel, x and y from the start on
    for panel, k in enumerate(fields):
        for _, colour, e in _named(episodes):
            chosen = [i for i in range(len(e.history)) if ground.relief is None or e.terrain_ids[i] == k]
            for i in chosen[:MOST_TRACES]:
                positions = e.history[i]["position"]
                traces.append((panel, colour, positions.T, e.outcomes[i] == "failure"))
                if e.targets:
                    places.append((panel, np.concatenate([positions[:1], e.targets[i]]).T))
    xlim, ylim = _limits(np.concatenate([*(t[2] for t in traces), *(p[1] for p in places)], axis=1))
    reach = float(np.abs([*xlim, *ylim]).max())
    width = 10 / len(fields) if len(fields) > 1 else HALF
    height = min(width * (ylim[1] - ylim[0]) / (xlim[1] - xlim[0]), 6.0)
    figure, axes = new_figure(len(fields), height + 0.9, width * len(fields))
    for axis, k in zip(axes, fields, strict=True):
        if ground.relief is not None:
            half = ground.grid.half
            axis.imshow(
                ground.tops[k] * _part(ground.relief[k], reach, ground.grid.length), origin="lower", cmap="gray",
                alpha=0.5, extent=(-min(reach, half), min(reach, half)) * 2, interpolation="bilinear",
            )  # fmt: skip
            height = ground.tops[k] * ground.relief[k].max()  # 0 where it is level
            axis.set_title(f"{ground.kinds[ground.kind_ids[k]]}, {100 * height:.3g} cm high", fontsize=9)
        axis.plot(*ground.spawns[k].T, "o", color=INK, markersize=4)
        axis.set(xlabel="x, m", xlim=xlim, ylim=ylim, aspect="equal")
    for panel, (x, y) in places:
        axis = axes[panel]
        axis.plot(x, y, ":", color=INK, linewidth=0.7)
        axis.plot(x[1:], y[1:], "o", color=INK, markersize=6, markerfacecolor="none")
    for panel, colour, (x, y), fell in traces:
        axis = axes[panel]
        axis.plot(x, y, color=colour, linewidth=1.4)
        if fell:
            axis.plot(x[-1], y[-1], "x", color=colour)
    axes[0].set(ylabel="y, m")
    for name, colour, _ in _named(episodes):
        axes[0].plot([], [], color=colour, label=name if len(name) <= 40 else f"...{name[-37:]}")
    figure.legend(frameon=False, loc="outside lower center", labelcolor=INK, fontsize=8, ncols=min(len(episodes), 3))
    return figure


def _limits(xy: NDArray[np.float64]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ends of the x and y axes around (2, n) places and the start; neither is shorter than half of the other."""
    low, high = np.minimum(xy.min(axis=1), 0.0), np.maximum(xy.max(axis=1), 0.0)
    spans = np.maximum(1.1 * (high - low), 0.6)
    spans = np.maximum(spans, spans.max() / 2)
    ends = np.stack([(low + high - spans) / 2, (low + high + spans) / 2])
    return (float(ends[0, 0]), float(ends[1, 0])), (float(ends[0, 1]), float(ends[1, 1]))


def _part(heights: NDArray[np.float32], reach: float, length: float) -> NDArray[np.float32]:
    """The middle of a height field of this side in m, up to ``reach`` m from its centre along x and y."""
    middle = (len(heights) - 1) / 2
    span = min(int(np.ceil(reach / length * (len(heights) - 1))), int(middle))
    low, high = int(np.floor(middle)) - span, int(np.ceil(middle)) + span + 1
    return heights[max(low, 0) : high, max(low, 0) : high]


def _stack(e: Episodes, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times in s and (episodes, times) values, NaN after an episode's end."""
    longest = max(e.history, key=lambda h: len(h["step"]))
    table = np.full((len(e.history), len(longest["step"])), np.nan)
    for row, log in zip(table, e.history, strict=True):
        row[: len(log[name])] = log[name]
    return longest["step"] * PERIOD, table


def _over_time(episodes: dict[str, Episodes]) -> str:
    figures = []
    for name, label in (("tilt_deg", "tilt, degrees"), ("torque", "torque, rms, N m")):
        figure, (axis,) = new_figure(1, width=HALF)
        for policy, colour, e in _named(episodes):
            times, table = _stack(e, name)
            for row in table[:MOST_TRACES]:
                axis.plot(times, row, color=colour, alpha=0.12, linewidth=0.7)
            half = np.isfinite(table).mean(axis=0) >= 0.5  # of few that are left, a median says little
            axis.plot(times[half], np.nanmedian(table[:, half], axis=0), color=colour, linewidth=1.8, label=policy)
        axis.set(xlabel="time, s", ylabel=label, ylim=(0, None))
        figures.append(figure)
    figures[0].axes[0].legend(frameon=False, loc="upper left", labelcolor=INK)
    return _row(figures)


def _worth(episodes: dict[str, Episodes]) -> str:
    paid = all("survival" in e.reward_terms for e in episodes.values())
    return "Return without what is paid for not falling," if paid else "Return"


def _without_survival(e: Episodes, table: NDArray[np.float64]) -> NDArray[np.float64]:
    """(episodes, times) returns so far, less what each step is paid for not falling: that is the same for all."""
    if "survival" not in e.reward_terms:
        return table
    steps = max(e.history, key=lambda h: len(h["step"]))["step"]
    return table - (e.reward_terms["survival"] / e.lengths)[:, None] * steps


def _horizon(episodes: dict[str, Episodes]) -> str:
    figure, axes = new_figure(1, width=HALF)
    for name, colour, e in _named(episodes):
        times, table = _stack(e, "return")
        filled = _without_survival(e, table)
        for row in filled:  # what has ended earns nothing more
            last = int(np.flatnonzero(np.isfinite(row))[-1])
            row[last:] = row[last]
        low, high = np.quantile(filled, [0.05, 0.95], axis=0)
        axes[0].fill_between(times, low, high, color=colour, alpha=0.2, linewidth=0)
        axes[0].plot(times, filled.mean(axis=0), color=colour, linewidth=1.8, label=name)
    axes[0].set(
        xlabel="horizon, s", ylabel="return so far" + (", without survival" if "without" in _worth(episodes) else "")
    )
    axes[0].legend(frameon=False, loc="upper left", labelcolor=INK)
    return _row([figure])
