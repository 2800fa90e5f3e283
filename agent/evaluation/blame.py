"""The blame matrix: planners x controllers on the same seeds. Which level loses how much, and do the words
matter at all?

Every cell is an evaluation of its own in OUT/PLANNER-CONTROLLER, so a killed run goes on where it was; the
report is computed from the records there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.evaluation import counterfactual
from agent.evaluation.metrics import summarize
from agent.evaluation.paired import paired_interval
from agent.evaluation.provenance import provenance
from agent.evaluation.runner import Watcher, evaluate, gather
from agent.evaluation.settings import Settings
from agent.evaluation.store import Record, Store, fingerprint, make_folder, write_json
from envs.registry import Benchmark, benchmark

ROWS = ("learned", "oracle", "frozen", "shuffled", "empty", "words-only", "point-only")
COLUMNS = ("learned", "obedient")  # the network's own hand, and the teacher's doing as it is told
COUNTERFACTUALS = "counterfactuals"
BLAME = "blame.json"
NOT_RUN = "not run"
TINY = 0.05  # a loss below this is none
_NOTHING_TOLD = "the teacher's hand does what it is told, and this tells it nothing to do"
NO_SENSE = {("empty", "obedient"): _NOTHING_TOLD, ("point-only", "obedient"): _NOTHING_TOLD}

# what loses, or is worth, that much; the better cell, the worse one, and what makes the difference
LOSSES = (
    ("planner", "{oracle}-{own}", "{learned}-{own}", "true plans for the learned ones"),
    ("controller", "{learned}-obedient", "{learned}-{own}", "a hand that does as it is told"),
    ("both", "{oracle}-obedient", "{learned}-{own}", "both of these"),
    ("planning again", "{learned}-{own}", "frozen-{own}", "the first plan kept for ever"),
    ("language", "{learned}-{own}", "shuffled-{own}", "another subtask, with its point"),
    ("any plan", "{learned}-{own}", "empty-{own}", "a neutral word, no point"),
    ("point", "{learned}-{own}", "words-only-{own}", "words without the point"),
    ("words", "{learned}-{own}", "point-only-{own}", "the point behind a neutral word"),
)

Begin = Callable[[str, int], Watcher | None]  # what is about to run, how many seeds


@dataclass(frozen=True)
class Cell:
    """A planner and a controller; `absent` says why there is nothing to measure."""

    planner: str
    controller: str
    absent: str = ""

    @property
    def name(self) -> str:
        return f"{self.planner}-{self.controller}"


def cells(rows: Sequence[str] = ROWS, columns: Sequence[str] = COLUMNS, suite: str = "core") -> list[Cell]:
    return [Cell(row, column, _absent(row, column, benchmark(suite))) for column in columns for row in rows]


def _absent(row: str, column: str, where: Benchmark) -> str:
    if where.package is not None and (row in ("shuffled", "typed") or column == "obedient"):
        return "the tabletop's alone: what can be done elsewhere, and whether it has been, nobody here knows"
    if row == "oracle" and not where.teacher:
        return f"{where.name} has no scripted teacher"
    return NO_SENSE.get((row, column), "")


def blame(
    settings: Settings,
    seeds: Iterable[int],
    out: Path,
    workers: int | None = None,
    policy=None,
    begin: Begin = lambda title, total: None,
    rows: Sequence[str] = ROWS,
    columns: Sequence[str] = COLUMNS,
    told: bool = True,
) -> dict[str, Any]:
    """Run every cell and return the report, also written to OUT/blame.json.

    settings: suite, checkpoint and so on; planner and controller are set here, and a plan adds the row
    "typed". The first row and column are what all is compared with. told: counterfactuals too (of the
    tabletop).
    """
    seeds = list(seeds)
    make_folder(out)
    rows = (*rows, "typed") if settings.plan is not None and "typed" not in rows else tuple(rows)
    records: dict[str, list[Record]] = {}
    for cell in cells(rows, columns, settings.suite):
        if not cell.absent:
            plan = settings.plan if cell.planner == "typed" else None
            here = replace(settings, planner=cell.planner, controller=cell.controller, plan=plan)
            records[cell.name] = _records(here, seeds, out / cell.name, workers, policy, begin)
    report = {
        "settings": dataclasses.asdict(settings) | {"seed": seeds[0], "episodes": len(seeds)},
        **tell(records, rows, columns, settings.suite),
        "checkpoint_sha256": None if policy is not None else fingerprint(settings),
        **provenance(),
    }
    if told and benchmark(settings.suite).package is None:
        here = replace(settings, planner="learned", controller=columns[0], plan=None)
        begun = begin(COUNTERFACTUALS, len(seeds))
        store = Store(out / COUNTERFACTUALS, here, policy)
        trials = gather(here, seeds, store, workers, policy, begun, counterfactual.measure)
        report |= tell_counterfactuals(trials)
    write_json(out / BLAME, report)
    return report


def tell(
    records: dict[str, list[Record]], rows: Sequence[str], columns: Sequence[str], suite: str = "core"
) -> dict[str, Any]:
    """What the cells' records say: {base, rows, columns, cells, losses, warnings}. A cell without records is
    `absent`, for a reason or because it was not run."""
    base, found = f"{rows[0]}-{columns[0]}", {}
    for cell in cells(rows, columns, suite):
        row = found[cell.name] = {"planner": cell.planner, "controller": cell.controller}
        if cell.name not in records:
            row["absent"] = cell.absent or NOT_RUN
            continue
        summary = summarize(*_split(records[cell.name]))
        row |= {key: summary[key] for key in ("overall", "families", "progress", "errors")}
        if cell.name != base and base in records:
            row["difference"] = difference(records[cell.name], records[base])
    return {
        "base": base,
        "rows": list(rows),
        "columns": list(columns),
        "cells": found,
        "losses": losses(records, columns[0]),
        "warnings": warnings(records, columns[0]),
    }


def tell_counterfactuals(records: Sequence[Record]) -> dict[str, Any]:
    """What the counterfactuals' records say."""
    errors = sum(bool(r.get("error")) for r in records)
    return {"counterfactuals": counterfactual.rows(records), "counterfactual_errors": errors}


def difference(first: Sequence[Record], second: Sequence[Record]) -> dict[str, float | int]:
    """Success of `first` less that of `second` on the seeds that both finished: n, difference, low, high."""
    one, other = ({r["seed"]: bool(r["success"]) for r in _split(some)[0]} for some in (first, second))
    both = [seed for seed in one if seed in other]
    wins = sum(one[s] and not other[s] for s in both)
    losses, n = sum(other[s] and not one[s] for s in both), len(both)
    low, high = paired_interval(wins, losses, n) if n else (-1.0, 1.0)
    apart = (wins - losses) / n if n else 0.0
    return {"n": n, "difference": apart, "low": float(low), "high": float(high)}


def losses(records: dict[str, list[Record]], own: str = "learned") -> list[dict[str, Any]]:
    """What each part of the agent loses, or is worth: rows of LOSSES whose cells there are."""
    out = []
    for what, better, worse, instead in LOSSES:
        better, worse = (name.format(oracle="oracle", learned="learned", own=own) for name in (better, worse))
        if better in records and worse in records and better != worse:
            row = {"what": what, "better": better, "worse": worse, "instead": instead}
            out.append(row | difference(records[better], records[worse]))
    return out


def warnings(records: dict[str, list[Record]], own: str = "learned") -> list[str]:
    """A line for each way of taking the language away that does not change what happens."""
    out = []
    for name, what in (("shuffled", "shuffling"), ("empty", "emptying")):
        if {f"learned-{own}", f"{name}-{own}"} <= records.keys():
            lost = difference(records[f"learned-{own}"], records[f"{name}-{own}"])
            if lost["low"] <= 0 or lost["difference"] < TINY:
                out.append(
                    f"WARNING: {what} the language changes nothing that {lost['n']} seeds can show: it costs "
                    f"{points(lost)}; the controller may not be reading its subtask"
                )
    return out


def points(row: dict[str, Any]) -> str:
    """ "+12 points (+3 to +21)"."""
    return f"{row['difference'] * 100:+.0f} points ({row['low'] * 100:+.0f} to {row['high'] * 100:+.0f})"


# -- inside


def _records(
    settings: Settings, seeds: list[int], out: Path, workers: int | None, policy, begin: Begin
) -> list[Record]:
    """A cell's records; its folder holds what `evaluate` writes."""
    kept: dict[int, Record] = {}
    watch = begin(f"{settings.planner} planner, {settings.controller} controller", len(seeds))

    def keep(record: Record, finished: int, total: int) -> None:
        kept[record["seed"]] = record
        if watch is not None:
            watch(record, finished, total)

    evaluate(settings, seeds, out, workers, policy, keep)
    return [kept[seed] for seed in seeds]


def _split(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Finished ones, and those that the software could not finish."""
    return [r for r in records if not r.get("error")], [r for r in records if r.get("error")]
