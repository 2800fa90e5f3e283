"""The report's figures, by matplotlib, as SVG whose colours are the page's: they turn dark with it.

Without matplotlib (the extra `plots`) every function answers None, and the page has its tables.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from agent.evaluation.analysis import duration, hertz, teacher_timeline
from agent.evaluation.statistics import quantile

Record = dict[str, Any]
# stand-ins that matplotlib writes and the page's style replaces
INK, DIM, LINE, PAPER = "#010203", "#040506", "#070809", "#0a0b0c"
GOOD, BAD, ACCENT = "#0d0e0f", "#101112", "#131415"
NAMES = {INK: "ink", DIM: "dim", LINE: "line", PAPER: "paper", GOOD: "good", BAD: "bad", ACCENT: "accent"}
SERIES = ("#4c8bd9", "#e08a2e", "#3aa57a", "#b96bc6", "#c9a227", "#d9607a", "#5bb3c4", "#8a8f98")
PASTEL = (
    "#a9c8f0", "#f6c795", "#a6dcc0", "#dfb8e6", "#efe0a0",
    "#f3b4bf", "#b3dfe6", "#cfc6f5", "#d9dba9", "#e6c9b0",
)  # fmt: skip
ON_PASTEL, AT_REST = "#20242b", "#c5c9cf"  # the words on a bar; the bar of "done"
WIDTH = 9.2  # inches
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "steersman", "font.size": 9, "font.family": "DejaVu Sans",
    "text.color": INK, "axes.labelcolor": DIM, "axes.edgecolor": LINE, "xtick.color": DIM,
    "ytick.color": DIM, "ytick.labelcolor": INK, "grid.color": LINE, "grid.linewidth": 0.6,
    "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
    "axes.spines.left": False, "ytick.left": False, "figure.constrained_layout.use": True,
    "legend.frameon": False, "legend.labelcolor": INK,
}  # fmt: skip


def available() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def drawn(make: Callable[..., Any]) -> Callable[..., str | None]:
    """A function that makes a matplotlib figure -> one that answers its SVG, None without matplotlib."""

    @functools.wraps(make)
    def draw(*arguments, **options) -> str | None:
        if not available():
            return None
        import matplotlib

        with matplotlib.rc_context(STYLE):
            figure = make(*arguments, **options)
            return None if figure is None else to_svg(figure)

    return draw


def to_svg(figure) -> str:
    """The <svg> element, its colours those of the page, its ids unlike those of another figure there."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    own = "f" + hashlib.sha256(text.encode()).hexdigest()[:8]
    for color, name in NAMES.items():
        text = text.replace(color, f"var(--{name})")
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{own}-", text)
    return re.sub(r' id="([^"]*)"', lambda m: f' id="{own}-{m[1]}"' if m[1] in used else "", text)


def _axes(height: float, rows: int = 1, **options):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.subplots(rows, **options)


@drawn
def rates(rows: Sequence[tuple[str, Sequence[dict[str, Any] | None]]], names: Sequence[str]):
    """Success with its interval: rows of (label, a rate for each run); names: of the runs, in the legend if
    there are several."""
    many, runs = len(names) > 1, len(names)
    figure, axes = _axes(0.75 + len(rows) * (0.32 if not many else 0.14 + 0.2 * runs))
    for r, (_, values) in enumerate(rows):
        for i, value in enumerate(values):
            if value is None or not value["n"]:
                continue
            y = r + (0 if not many else (i - (runs - 1) / 2) * 0.8 / runs)
            color = SERIES[i % len(SERIES)] if many else ACCENT
            axes.barh(y, value["rate"], height=0.5 if not many else 0.66 / runs, color=color, alpha=0.45)
            axes.plot([value["low"], value["high"]], [y, y], color=INK, linewidth=1.4, solid_capstyle="butt")
            axes.plot([value["rate"]], [y], "o", color=INK, markersize=4)
            if not many:
                axes.annotate(
                    f"{value['successes']}/{value['n']}", (1.015, y), va="center", color=DIM, fontsize=8
                )
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1.0 if many else 1.06))
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0], ["0%", "20%", "40%", "60%", "80%", "100%"])
    axes.grid(False, axis="y")
    if many:
        _legend(figure, [(name, SERIES[i % len(SERIES)]) for i, name in enumerate(names)])
    return figure


def _legend(figure, entries: Sequence[tuple[str, str]]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=color, label=name) for name, color in entries]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize=8, handlelength=1.2)


@drawn
def solved_by(groups: Sequence[tuple[str, Sequence[Record]]]):
    """The share solved within a time, one line a group of judged records."""
    groups = [(name, records) for name, records in groups if records]
    end = max((duration(r) for _, records in groups for r in records), default=0.0)
    if not end:
        return None
    figure, axes = _axes(2.4)
    for i, (_, records) in enumerate(groups):
        times = sorted(r["success_time"] for r in records if r["success"])
        xs, ys = [0.0], [0.0]
        for k, time in enumerate(times, 1):
            xs, ys = [*xs, time, time], [*ys, ys[-1], k / len(records)]
        axes.plot([*xs, end], [*ys, ys[-1]], color=SERIES[i % len(SERIES)], linewidth=1.6)
    axes.set(xlim=(0, end), ylim=(0, 1.03), xlabel="seconds")
    axes.set_yticks([0, 0.5, 1.0], ["0%", "50%", "100%"])
    _legend(figure, [(name, SERIES[i % len(SERIES)]) for i, (name, _) in enumerate(groups)])
    return figure


@drawn
def histogram(groups: Sequence[tuple[str, Sequence[float]]], label: str, bins: int = 40, zero: bool = False):
    """One histogram a group, in shares of the group; what lies beyond the 99.5% quantile is in the last bar.
    zero: mark it."""
    groups = [(name, values) for name, values in groups if values]
    every = [v for _, values in groups for v in values]
    if not every:
        return None
    low, high = quantile(every, 0.005), quantile(every, 0.995)
    high = high if high > low else low + 1.0
    figure, axes = _axes(2.0)
    for i, (_, values) in enumerate(groups):
        color = SERIES[i % len(SERIES)] if len(groups) > 1 else ACCENT
        inside = [min(max(v, low), high) for v in values]
        weights = [1 / len(values)] * len(values)
        style = {"histtype": "stepfilled", "alpha": 0.45} if len(groups) == 1 else {"histtype": "step"}
        axes.hist(inside, bins=bins, range=(low, high), weights=weights, color=color, linewidth=1.5, **style)
    if zero:
        axes.axvline(0.0, color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
    axes.set_xlabel(label)
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    if len(groups) > 1:
        _legend(figure, [(name, SERIES[i % len(SERIES)]) for i, (name, _) in enumerate(groups)])
    return figure


@drawn
def timeline(record: Record):
    """An episode: subtasks in force, the teacher's below them, looks (a cross: they differ), margin,
    progress."""
    end = duration(record)
    colors = _Colors()
    rows = [("planner", record["subtasks"])]
    truth = teacher_timeline(record)
    if truth:
        rows.append(("teacher", truth))
    looks = [look for look in record["looks"] if "agree" in look]
    margins = [(x["tick"] / hertz(record), x["margin"]) for x in record["looks"]]
    if not any(m for _, m in margins):  # a planner that gives none
        margins = []
    course = record.get("progress_steps")
    below = bool(margins or course)
    heights = [0.36 * len(rows) + 0.24, 0.62] if below else [1]
    figure, both = _axes(
        0.62 + 0.36 * len(rows) + 0.24 + (0.72 if below else 0), rows=1 + below, sharex=True, squeeze=False,
        gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    top = both[0, 0]
    for y, (_, parts) in enumerate(rows):
        for part in parts:
            _bar(top, y, part, colors(part["text"]), end)
    for agree, mark, color in ((True, "|", GOOD), (False, "x", BAD)):
        at = [look["tick"] / hertz(record) for look in looks if look["agree"] is agree]
        top.plot(
            at, [len(rows)] * len(at), mark, color=color, markersize=5.5, markeredgewidth=1.3, linestyle=""
        )
    labels = [name for name, _ in rows] + (["looks"] if looks else [])
    top.set_yticks(range(len(labels)), labels)
    top.set(ylim=(len(labels) - 0.45, -0.5), xlim=(0, end))
    top.grid(False, axis="y")
    for said in record["instructions"][1:]:
        top.axvline(said["time"], color=INK, linewidth=1.0, linestyle=(0, (2, 2)))
    if record.get("success_time") is not None:
        for axes in both[:, 0]:
            axes.axvline(record["success_time"], color=GOOD, linewidth=1.4, zorder=1.5)
    if below:
        _course(both[1, 0], margins, course, end)
    both[-1, 0].set_xlabel("seconds")
    return figure


class _Colors:
    """A colour for each subtask of an episode, in the order of appearance."""

    def __init__(self):
        self.known: dict[str, str] = {"done": AT_REST}

    def __call__(self, text: str) -> str:
        return self.known.setdefault(text, PASTEL[(len(self.known) - 1) % len(PASTEL)])


def _bar(axes, y: int, part: dict[str, Any], color: str, end: float) -> None:
    width = part["end"] - part["start"]
    axes.barh(y, width, left=part["start"], height=0.78, color=color, edgecolor=PAPER, linewidth=1.0)
    room = int(width / end * (WIDTH - 0.9) / 0.058)  # letters that fit
    words = " ".join(w for w in part["text"].split() if w not in ("the", "block"))
    if len(words) > room:
        words = words[: room - 1].rstrip() + "…" if room >= 5 else ""
    at = part["start"] + 0.05 / (WIDTH - 0.9) * end
    axes.text(at, y, words, va="center", fontsize=7, color=ON_PASTEL, clip_on=True)


def _course(axes, margins, course, end: float) -> None:
    """Progress as a filled step, margins as points on an axis of their own."""
    axes.grid(False, axis="y")
    if course:
        xs, ys = [t for t, _ in course] + [end], [v for _, v in course] + [course[-1][1]]
        axes.fill_between(xs, ys, step="post", color=ACCENT, alpha=0.25, linewidth=0)
        axes.step(xs, ys, where="post", color=ACCENT, linewidth=1.2)
        axes.set_ylim(0, 1.05)
        axes.set_yticks([0.5], ["progress"])
    else:
        axes.set_yticks([])
    if not margins:
        return
    second = axes.twinx() if course else axes
    second.grid(False)
    second.plot(*zip(*margins, strict=True), ".-", color=INK, linewidth=0.7, markersize=3, alpha=0.8)
    second.set_ylim(0, max(m for _, m in margins) * 1.1 or 1.0)
    second.tick_params(axis="y", labelsize=7, length=0)
    second.set_ylabel("margin", fontsize=8)


@drawn
def spans(rows: Sequence[tuple[str, float, float, float]], label: str, zero: bool = False):
    """Rows of (label, low, middle, high) as lines with a dot. zero: mark it, and show what is below it."""
    if not rows:
        return None
    figure, axes = _axes(0.7 + 0.26 * len(rows))
    for y, (_, low, middle, high) in enumerate(rows):
        axes.plot([low, high], [y, y], color=ACCENT, linewidth=5, alpha=0.4, solid_capstyle="round")
        axes.plot([middle], [y], "o", color=INK, markersize=4.5)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=label)
    if zero:
        axes.axvline(0.0, color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
    else:
        axes.set_xlim(left=0)
    axes.grid(False, axis="y")
    return figure


@drawn
def heat(rows: Sequence[str], columns: Sequence[str], shares: Sequence[Sequence[float | None]]):
    """A square for each share, the fuller the higher, with its number; None of nothing."""
    if not rows or not columns:
        return None
    from matplotlib.patches import Rectangle

    figure, axes = _axes(0.4 + 0.3 * len(rows))
    for y, line in enumerate(shares):
        for x, value in enumerate(line):
            if value is not None:
                axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=ACCENT, alpha=0.55 * value))
                axes.text(x, y, f"{value:.0%}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    return figure
