"""Several runs on one page: rates side by side with their intervals, and who solved which seed.

It shows; whether a difference is more than chance is for a paired test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from agent.evaluation import figures
from agent.evaluation.page import Block, Cell, Figure, Fold, Heading, Notes, Page, Squares, Table, Text
from agent.evaluation.report import NO_PLOTS, latency, planner_rows, provenance_table, subtitle
from agent.evaluation.results import Results
from agent.evaluation.stories import interval, percent, reason_table
from backbone.errors import UserError

Record = dict[str, Any]
LINE = 50  # seeds in a line of the grid
SQUARES = (("solved", "good"), ("failed", "bad"), ("software failed", "warn"), ("not run", ""))


def comparison_page(runs: Sequence[Results]) -> Page:
    """The page of two or more runs. UserError for runs of different suites: their rates do not compare."""
    suites = {run.name: _suite(run) for run in runs}
    first = runs[0].name
    for name, suite in suites.items():
        if suite != suites[first]:
            raise UserError(
                f"report: expected results of one suite, got {suites[first]} in {first} and {suite} in {name}"
            )
    page = Page("Runs side by side", f"suite {suites[first]}: " + ", ".join(suites))
    warnings = [f"{run.name}: {line}" for run in runs for line in run.warnings] + _pairing(runs)
    warnings += [] if figures.available() else [NO_PLOTS]
    page.add(Notes(warnings) if warnings else None)
    summaries = [run.summary for run in runs]
    page.add(_overview(runs, summaries))
    page.add(*_families(runs, summaries))
    page.add(*_grid(runs))
    page.add(Heading("Why they fail"), reason_table(runs))
    page.add(*_planners(runs, summaries))
    page.add(Heading("Latency"), *latency(runs))
    page.add(Heading("Where this comes from"))
    page.add(*(Fold(f"{run.name}: {subtitle(run)}", [provenance_table(run)]) for run in runs))
    return page


def _suite(run: Results) -> str:
    return run.run.get("suite") or next((r["suite"] for r in run.records if "suite" in r), "unknown")


def _pairing(runs: Sequence[Results]) -> list[str]:
    """What keeps the runs from being of the same episodes."""
    found, seeds = [], [{r["seed"] for r in run.judged} for run in runs]
    common = set.intersection(*seeds)
    if any(s != common for s in seeds):
        found.append(f"the runs have {len(common)} seeds in common; their rates are of all their own")
    states: dict[int, set[str]] = {}
    for run in runs:
        for record in run.records:
            if "initial_state" in record:
                states.setdefault(record["seed"], set()).add(record["initial_state"])
    other = sorted(seed for seed, ids in states.items() if len(ids) > 1)
    if other:
        found.append(f"{len(other)} seeds began differently in different runs, the first of them {other[0]}")
    return found


def _overview(runs: Sequence[Results], summaries: Sequence[dict[str, Any]]) -> Table:
    rows = []
    for run, summary in zip(runs, summaries, strict=True):
        row, times = summary["overall"], summary["timings"]["look_ms_p50"]
        rows.append(
            (
                run.name, run.run.get("planner", ""), run.run.get("controller", ""),
                (run.run.get("checkpoint_sha256") or "")[:8], f"{row['successes']}/{row['n']}",
                percent(row["rate"]), interval(row), percent(summary["progress"]),
                "" if times is None else f"{times:.0f} ms", str(summary["errors"]),
            )
        )  # fmt: skip
    columns = (
        "", "planner", "controller", "weights", "solved", "rate", "95% interval", "progress", "look",
        "errors",
    )  # fmt: skip
    return Table(columns, rows, (0, 1, 2, 3))


def _families(runs: Sequence[Results], summaries: Sequence[dict[str, Any]]) -> list[Block]:
    names = [run.name for run in runs]
    families = sorted({family for s in summaries for family in s["families"]})
    lines = [("overall", [s["overall"] for s in summaries])]
    lines += [(family, [s["families"].get(family) for s in summaries]) for family in families]
    told = [
        (label, *("" if r is None or not r["n"] else f"{percent(r['rate'])} ({interval(r)})" for r in rates))
        for label, rates in lines
    ]
    curves = [(run.name, run.judged) for run in runs]
    return [
        Heading("Success"),
        Figure(figures.rates(lines, names), "Share solved by family, with Wilson's 95% intervals"),
        Table(["", *names], told, about="Share solved, with Wilson's 95% interval"),
        Figure(figures.solved_by(curves), "Share of the episodes solved within a time"),
    ]


# -- who solved what


def _grid(runs: Sequence[Results]) -> list[Block]:
    """Every seed of every run as a square, and what the common seeds add up to."""
    marks = [_marks(run) for run in runs]
    seeds = sorted(set().union(*marks))
    blocks: list[Block] = [
        Heading("Who solved which seed"),
        Squares([(name, [(mark, name)]) for name, mark in SQUARES]),
    ]
    for start in range(0, len(seeds), LINE):
        part = seeds[start : start + LINE]
        rows = [
            (run.name, [mark.get(seed, ("", f"seed {seed}: not run")) for seed in part])
            for run, mark in zip(runs, marks, strict=True)
        ]
        blocks += [Text(f"Seeds {part[0]} to {part[-1]}", "dim"), Squares(rows)]
    return [*blocks, *_patterns(runs)]


def _marks(run: Results) -> dict[int, tuple[str, str]]:
    marks = {}
    for record in run.judged:
        how = "solved" if record["success"] else (record["reason"] or "failed").replace("_", " ")
        about = f"seed {record['seed']}, {record['family']}: {how}"
        marks[record["seed"]] = ("good" if record["success"] else "bad", about)
    for record in run.errors:
        marks[record["seed"]] = ("warn", f"seed {record['seed']}: {record['error']}")
    return marks


def _patterns(runs: Sequence[Results]) -> list[Block]:
    """On the seeds that all have: solved by whom, how often; and the seeds where they differ."""
    by_seed = [{r["seed"]: r for r in run.judged} for run in runs]
    common = sorted(set.intersection(*map(set, by_seed)))
    if not common:
        return []
    solved = {seed: tuple(bool(records[seed]["success"]) for records in by_seed) for seed in common}
    counts = Counter(solved.values())
    rows = [(_who(runs, pattern), str(n)) for pattern, n in sorted(counts.items(), reverse=True)]
    apart = [seed for seed in common if len(set(solved[seed])) > 1]
    told = [
        [str(seed), by_seed[0][seed]["instruction"], *(_how(records[seed]) for records in by_seed)]
        for seed in apart
    ]
    columns = ["seed", "instruction", *(run.name for run in runs)]
    left = range(1, len(columns))
    return [
        Table(("solved by", "seeds"), rows, about=f"On the {len(common)} seeds that all have"),
        Fold(f"Where they differ: {len(apart)}", [Table(columns, told, left)]),
    ]


def _who(runs: Sequence[Results], pattern: tuple[bool, ...]) -> str:
    names = [run.name for run, solved in zip(runs, pattern, strict=True) if solved]
    return "all" if all(pattern) else "only " + " and ".join(names) if names else "none"


def _how(record: Record) -> Cell:
    if record["success"]:
        return Cell(f"solved, {record['success_time']:.1f} s", "good")
    return Cell((record["reason"] or "failed").replace("_", " "), "bad")


def _planners(runs: Sequence[Results], summaries: Sequence[dict[str, Any]]) -> list[Block]:
    told = [planner_rows(summary) for summary in summaries]
    if not any(told):
        return []
    rows = [dict(rows or ()) for rows in told]
    longest = max(rows, key=len)
    lines = [(what, *(have.get(what, "") for have in rows)) for what in longest]
    return [Heading("Planner"), Table(["against the teacher", *(run.name for run in runs)], lines)]
