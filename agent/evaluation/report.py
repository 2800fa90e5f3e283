"""The report of one run: how often it succeeds, why it fails, how the planner and the clock did, episode by
episode. Every number is computed from the records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.evaluation import figures
from agent.evaluation.analysis import attempts, hertz
from agent.evaluation.page import Block, Figure, Fold, Heading, Notes, Numbers, Page, Table, Text
from agent.evaluation.results import Results
from agent.evaluation.statistics import quantile, rate
from agent.evaluation.stories import (
    episode,
    episode_table,
    failures,
    interval,
    number,
    percent,
    published_states,
    reason_table,
)

Record = dict[str, Any]
AGE = "age of a plan when it comes"
NO_PLOTS = "matplotlib is not installed: tables only (the extra `plots` brings the figures)"


def run_page(
    results: Results, videos: Mapping[int, tuple[bytes, str]] | None = None, notes: Sequence[str] = ()
) -> Page:
    """The page of one run. videos: by seed, an mp4 and what to say below it; notes: added to the warnings."""
    summary = results.summary
    page = Page(f"Evaluation of {results.name}", subtitle(results))
    plots = [] if figures.available() else [NO_PLOTS]
    warnings = [*results.warnings, *notes, *plots]
    page.add(Notes(warnings) if warnings else None)
    page.add(_numbers(summary))
    page.add(*_success(results, summary))
    page.add(Heading("Why it fails"), reason_table([results]))
    page.add(*_subtasks(results))
    page.add(*_planner(results, summary))
    page.add(Heading("Latency"), *latency([results]))
    page.add(Heading("Failures"), *failures(results, videos or {}))
    page.add(Heading("Every episode"), Fold(f"{_count(results)} episodes", [episode_table(results)]))
    solved = next((r for r in results.judged if r["success"] and len(r["subtasks"]) > 1), None)
    if solved is not None:
        page.add(Fold("a solved one in full", episode(solved)))
    page.add(Heading("Where this comes from"), provenance_table(results))
    return page


def subtitle(results: Results) -> str:
    run = results.run
    known = [f"suite {run['suite']}"] if "suite" in run else []
    known += [f"family {run['family']}"] if run.get("family") else []
    known += [f"{run[key]} {key}" for key in ("planner", "controller") if key in run]
    known += [f"checkpoint {run['checkpoint']}"] if run.get("checkpoint_sha256") else []
    return ", ".join([*known, f"{_count(results)} episodes"])


def _count(results: Results) -> int:
    return len(results.records) + len(results.errors)


def _numbers(summary: dict[str, Any]) -> Numbers:
    row, planner = summary["overall"], summary["planner"]
    pairs = [
        (percent(row["rate"]) or "-", f"solved, {row['successes']} of {row['n']}; 95% {interval(row)}"),
        (percent(summary["progress"]) or "-", "of the goal reached in the mean"),
    ]
    if planner is not None and planner["decision_points"]["n"]:
        points = planner["decision_points"]
        told = f"of {points['n']} decisions right at the first look"
        pairs.append((percent(points["rate"]), told))
    if summary["timings"]["look_ms_p50"] is not None:
        times = summary["timings"]
        pairs.append(
            (
                f"{times['look_ms_p50']:.0f} ms",
                f"for plan and chunk in the median, {times['look_ms_p95']:.0f} ms at 95%",
            )
        )
    if summary["errors"]:
        pairs.append((str(summary["errors"]), "episodes in which the software failed, counted apart"))
    return Numbers(pairs)


# -- success and progress


def _success(results: Results, summary: dict[str, Any]) -> list[Block]:
    rows = [("overall", summary["overall"], results.judged)]
    for name, row in summary["families"].items():
        rows.append((name, row, [r for r in results.judged if r["family"] == name]))
    told = []
    for name, row, records in rows:
        times = [r["success_time"] for r in records if r["success"]]
        means = [r["progress"] for r in records]
        short = [r["progress"] for r in records if not r["success"]]
        told.append(
            (
                name, f"{row['successes']}/{row['n']}", percent(row["rate"]), interval(row),
                percent(sum(means) / len(means) if means else None, 0),
                percent(sum(short) / len(short) if short else None, 0), number(quantile(times, 0.5), " s"),
            )
        )  # fmt: skip
    columns = (
        "", "solved", "rate", "95% interval", "progress", "progress of the failed", "median time to solve",
    )  # fmt: skip
    families = [(name, records) for name, _, records in rows[1:]] or [(rows[0][0], rows[0][2])]
    return [
        Heading("Success"),
        Figure(
            figures.rates([(n, [row]) for n, row, _ in rows], [results.name]), "Success, Wilson's intervals"
        ),
        Table(columns, told, about="Intervals are Wilson's, 95%"),
        Figure(figures.solved_by(families), "Share of the episodes solved within a time"),
    ]


def _subtasks(results: Results) -> list[Block]:
    """Success and time by kind of subtask."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for record in results.judged:
        for one in attempts(record):
            kinds.setdefault(one["kind"], []).append(one)
    if not kinds:
        return []
    rows, spans = [], []
    for name in sorted(kinds, key=lambda k: -len(kinds[k])):
        known = [one["done"] for one in kinds[name] if one["done"] is not None]
        row = rate(sum(known), len(known))
        times = [one["seconds"] for one in kinds[name] if one["done"] is not False]
        low, middle, high = (quantile(times, q) for q in (0.1, 0.5, 0.9))
        if middle is not None:
            spans.append((name, low, middle, high))
        done = f"{row['successes']}/{row['n']}" if known else "not known"
        seconds = f"{number(middle, ' s')}", (f"{low:.1f} to {high:.1f} s" if middle is not None else "")
        rows.append((name, str(len(kinds[name])), done, percent(row["rate"]), *seconds))
    columns = ("subtask", "tried", "done", "rate", "median time", "10% to 90%")
    return [
        Heading("Subtasks"),
        Text(
            "As the teacher sees the state: a subtask is tried while the state asks for it, and done when "
            "the state then asks for what comes after it. What is taken from the robot counts as not done. "
            "No intervals: tries in one episode depend on each other.",
            "dim",
        ),
        Table(columns, rows),
        Figure(figures.spans(spans, "seconds"), "Time of a subtask that was done: 10%, median, 90%"),
    ]


# -- the planner and the clock


def planner_rows(summary: dict[str, Any]) -> list[tuple[str, str]] | None:
    """(what, how much) of the planner against the teacher; None without a planner."""
    planner = summary["planner"]
    if planner is None:
        return None
    points, switches = planner["decision_points"], planner["switches"]
    early, late = planner["done_early"], planner["done_late"]
    rows = [
        ("right at decision points (first look after a switch of the teacher's)", _share(points)),
        ("same subtask, all looks", f"{percent(planner['agreement'])} of {planner['looks']}"),
        (
            "same subtask, looks away from switches",
            f"{percent(planner['agreement_away_from_switches'])} of {planner['looks_away_from_switches']}",
        ),
        ("same memory", percent(planner["memory_agreement"])),
        ("same scene", percent(planner["scene_agreement"])),
        ("switches after the teacher's by (median)", number(switches["seconds_median"], " s", 2)),
        (
            "the same, 10% to 90%",
            ""
            if switches["seconds_p10"] is None
            else f"{switches['seconds_p10']:.2f} to {switches['seconds_p90']:.2f} s",
        ),
        ("switches that it never made", f"{switches['missed']} of {switches['n']}"),
        ("believed done too early", _share(early)),
        ("done late, of the solved", _share(late)),
        ("point off by (median)", number(planner["grounding_pixels_median"], " pixels of 128", 2)),
    ]
    counts = [(name, summary["counts"][name]) for name in ("replans", "corrections", "recoveries")]
    rows += [(f"{name} an episode", number(value, digits=2)) for name, value in counts]
    return [row for row in rows if row[1]]


def _share(row: Mapping[str, Any]) -> str:
    return f"{percent(row['rate'])} ({row['successes']} of {row['n']})" if row["n"] else ""


def _planner(results: Results, summary: dict[str, Any]) -> list[Block]:
    rows = planner_rows(summary)
    if rows is None:
        return [
            Heading("Planner"),
            Text("Nobody planned: the instruction stood in the subtask's place.", "dim"),
        ]
    errors = [s["error"] for r in results.judged for s in r["switches"] or () if s["error"] is not None]
    return [
        Heading("Planner"),
        Table(("against the teacher", ""), rows),
        Figure(
            figures.histogram([(results.name, errors)], "seconds after the teacher's switch", zero=True),
            "When the planner switches, against the teacher (share of switches; it can only at a look)",
        ),
    ]


def latency(runs: Sequence[Results]) -> list[Block]:
    """Milliseconds of the looks, and under a realtime clock how old a plan is when it comes; where the wall
    time went. A row and a line for each run."""
    looks = [(run.name, [x["ms"] for r in run.records for x in r["looks"]]) for run in runs]
    rows = []
    for what, found in (("plan and chunk", _given("ms")), ("plan", _given("plan_ms")), (AGE, _ages)):
        for run in runs:
            if values := found(run):
                name = f"{run.name}: {what}" if len(runs) > 1 else what
                cells = (number(quantile(values, q)) for q in (0.5, 0.95, 0.99, 1.0))
                rows.append((name, str(len(values)), *cells))
    blocks = _wall_time(runs)
    if not rows:
        return [Text("Nobody looked.", "dim"), *blocks]
    return [
        Table(("milliseconds of a look", "looks", "median", "95%", "99%", "most"), rows),
        Figure(figures.histogram(looks, "milliseconds"), "Plan and chunk together, share of the looks"),
        *blocks,
    ]


def _given(key: str) -> Callable[[Results], list[float]]:
    return lambda run: [look[key] for r in run.records for look in r["looks"] if key in look]


def _ages(run: Results) -> list[float]:
    """Milliseconds of the world's time from an observation to the plan that it led to; where the world does
    not wait."""
    if run.run.get("clock") != "realtime":
        return []
    return [1000 * look.get("age", 0) / hertz(r) for r in run.records for look in r["looks"]]


def _wall_time(runs: Sequence[Results]) -> list[Block]:
    """What the wall time of the episodes went into, where the records tell."""
    shares = [(run.name, run.summary["timings"]["share"]) for run in runs]
    told = [(name, share) for name, share in shares if share is not None]
    parts = list(told[0][1]) if told else []
    rows = [(name, *(percent(share.get(part)) for part in parts)) for name, share in told]
    return [Table(["share of the wall time", *parts], rows)] if rows else []


# -- where it comes from


def provenance_table(results: Results) -> Table:
    """Settings, checkpoint, versions, commit and hardware."""
    run = results.run
    rows = [(k, str(v)) for k, v in run.items() if k not in ("runs", "schema") and v is not None]
    for number_, part in enumerate(run.get("runs", ()), 1):
        where = f" ({number_})" if len(run["runs"]) > 1 else ""
        versions = ", ".join(f"{k} {v}" for k, v in part.get("versions", {}).items())
        hardware = ", ".join(f"{k}: {v}" for k, v in part.get("hardware", {}).items())
        for key, value in (("versions", versions), ("hardware", hardware), ("commit", part.get("commit"))):
            rows += [(key + where, value or "not known")]
    seeds = [r["seed"] for r in results.records + results.errors]
    rows.append(("seeds", f"{min(seeds)} to {max(seeds)}, {len(seeds)} of them"))
    if states := published_states(results):
        told = f"{min(states)} to {max(states)}, {len(states)} of them"
        rows.append(("published initial states", told))
    return Table(("", ""), rows, (0, 1))
