"""The page of a blame matrix: which level loses how much, whether the words matter, and whether what is said
is what happens. Every number is computed from the records in the cells' folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.evaluation import figures
from agent.evaluation.blame import (
    BLAME,
    COLUMNS,
    COUNTERFACTUALS,
    NOT_RUN,
    ROWS,
    cells,
    points,
    tell,
    tell_counterfactuals,
)
from agent.evaluation.counterfactual import HEADINGS
from agent.evaluation.page import Block, Cell, Figure, Fold, Heading, Notes, Numbers, Page, Table, Text
from agent.evaluation.report import NO_PLOTS, provenance_table
from agent.evaluation.results import (
    CUT,
    EPISODES,
    Record,
    Results,
    differing,
    lacks,
    read_object,
    read_records,
    read_results,
)
from agent.evaluation.stories import reason_table
from backbone.errors import UserError

TRIAL = {"what": str, "kind": str, "planned": str, "outcome": (str, type(None)), "followed": bool}
OWN = ("planner", "controller", "plan", "checkpoint_sha256", "schema", "runs")  # a cell's; all else is shared
NO_TRIALS = "the counterfactuals were not run"


@dataclass
class Blame:
    """report: as `blame` writes it, computed from the records. notes: what is odd about them."""

    name: str
    runs: dict[str, Results]  # by cell
    report: dict[str, Any]
    notes: list[str]


def is_blame(folder: Path) -> bool:
    """Whether `steersman blame` wrote this folder."""
    return not (folder / EPISODES).exists() and ((folder / BLAME).exists() or bool(_found(folder)))


def read_blame(folder: Path, name: str | None = None) -> Blame:
    """The cells that are there, and what they say. UserError for a corrupt record, and where no cell has
    any."""
    written = read_object(folder / BLAME)
    rows, columns = _layout(folder, written)
    runs: dict[str, Results] = {}
    suite = written.get("settings", {}).get("suite", "core")
    for cell in cells(rows, columns, suite):
        if not cell.absent and _begun(folder / cell.name):
            runs[cell.name] = read_results(folder / cell.name)
    if not runs:
        raise UserError(
            f"blame: expected a folder PLANNER-CONTROLLER with episodes in '{folder}', found none"
        )
    records = {name: run.records + run.errors for name, run in runs.items()}
    report = tell(records, rows, columns, suite)
    notes = _unfinished(runs, report) + _read_notes(runs) + _mixed(runs)
    trials, more = _trials(folder / COUNTERFACTUALS)
    if trials or "counterfactuals" in written:
        report |= tell_counterfactuals(trials)
        fewer = len(_seeds(runs)) - len({r["seed"] for r in trials})
        more += [f"{COUNTERFACTUALS}: not finished, {fewer} seeds are missing"] if fewer > 0 else []
        if report["counterfactual_errors"]:
            more.append(f"{COUNTERFACTUALS}: {report['counterfactual_errors']} seeds not finished, by errors")
    else:
        more.append(NO_TRIALS)
    notes += more
    notes += (
        differing(report, written, BLAME) if written else [f"there is no {BLAME}: the run was not finished"]
    )
    return Blame(name or folder.resolve().name, runs, report, notes)


def blame_page(blame: Blame) -> Page:
    report, base = blame.report, blame.runs.get(blame.report["base"])
    some = base or next(iter(blame.runs.values()))
    seeds = _seeds(blame.runs)
    known = [f"suite {some.run['suite']}"] if "suite" in some.run else []
    known += [f"family {some.run['family']}"] if some.run.get("family") else []
    known += [f"checkpoint {some.run['checkpoint']}"] if "checkpoint" in some.run else []
    page = Page(f"Blame: {blame.name}", ", ".join([*known, f"seeds {min(seeds)} to {max(seeds)}"]))
    notes = [*report["warnings"], *blame.notes, *([] if figures.available() else [NO_PLOTS])]
    page.add(Notes(notes) if notes else None)
    page.add(_numbers(report))
    page.add(Heading("Success"), *_success(report))
    page.add(Heading("Losses"), *_losses(report))
    if "counterfactuals" in report:
        page.add(Heading("Counterfactuals"), *_counterfactuals(report))
    page.add(Heading("In detail"), Fold("by family", _families(report)))
    page.add(Fold("why each fails", [reason_table(list(blame.runs.values()))]))
    page.add(Heading("Where this comes from"))
    page.add(*(Fold(name, [provenance_table(run)]) for name, run in blame.runs.items()))
    return page


# -- tables, for the page and for the terminal


def matrix_table(report: Mapping[str, Any]) -> Table:
    """Success per cell with its Wilson interval, and below it the paired difference to the agent itself."""
    rows = []
    for planner in report["rows"]:
        found = [report["cells"][f"{planner}-{column}"] for column in report["columns"]]
        mark = "strong" if planner == report["rows"][0] else ""
        rows.append([Cell(planner, mark), *(_cell(cell, mark) for cell in found)])
    columns = ["planner", *(f"{column} controller" for column in report["columns"])]
    return Table(columns, rows, about=f"Success, and the difference to {report['base']}")


def _cell(cell: Mapping[str, Any], mark: str) -> Cell:
    if "absent" in cell:
        return Cell("-", "warn" if cell["absent"] == NOT_RUN else "dim")
    found = cell["overall"]
    if not found["n"]:
        return Cell("no episode finished", "warn")
    errors = [f"{cell['errors']} not finished, by errors"] if cell["errors"] else []
    apart = cell.get("difference")
    below = [points(apart)] if apart and apart["n"] else []
    return Cell("\n".join([f"{share(found)} ({_interval(found)})", *below, *errors]), mark)


def losses_table(report: Mapping[str, Any]) -> Table:
    """Which level loses how much, and what each part of a plan is worth."""
    rows = [(row["what"], points(row), row["instead"], str(row["n"])) for row in report["losses"]]
    about = "Who loses how much, what is worth how much: paired differences, 95% intervals"
    return Table(("", "difference", "for", "pairs"), rows, (0, 2), about)


def counterfactuals_table(report: Mapping[str, Any]) -> Table:
    """The share in which the commanded thing is what happens."""
    rows, before = [], None
    for row in report["counterfactuals"]:
        if not row["n"]:
            continue
        mark = "strong" if row["kind"] == "all" else ""
        heading = HEADINGS[row["what"]] if row["what"] != before else ""
        told = (row["kind"], share(row), _interval(row), str(row["kept"]), str(row["nothing"]))
        rows.append([heading, *(Cell(text, mark) for text in told)])
        before = row["what"]
    columns = ("", "", "followed", "95% interval", "as planned", "nothing")
    return Table(columns, rows, (0, 1), "From the same states: is what is said what happens?")


def absences(report: Mapping[str, Any]) -> list[str]:
    """Why there are cells that have no sense, once each."""
    why = (cell["absent"] for cell in report["cells"].values() if cell.get("absent", NOT_RUN) != NOT_RUN)
    return [f"no such cell: {reason}" for reason in dict.fromkeys(why)]


def share(row: Mapping[str, Any]) -> str:
    """ "48/50 = 96%"."""
    return f"{row['successes']}/{row['n']} = {row['rate']:.0%}"


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['low']:.0%} to {row['high']:.0%}"


# -- the page's parts


def _numbers(report: Mapping[str, Any]) -> Numbers:
    base = report["cells"][report["base"]]
    pairs = []
    if "overall" in base and base["overall"]["n"]:
        row = base["overall"]
        pairs.append((f"{row['rate']:.0%}", f"solved by {report['base']}, {row['successes']} of {row['n']}"))
    told = {
        "planner": "the planner loses",
        "controller": "the controller loses",
        "language": "language is worth",
    }
    for row in report["losses"]:
        if row["what"] in told and row["n"]:
            what = f"points {told[row['what']]} ({row['low'] * 100:+.0f} to {row['high'] * 100:+.0f})"
            pairs.append((f"{row['difference'] * 100:+.0f}", what))
    for row in report.get("counterfactuals", ()):
        if row["kind"] == "all" and row["n"]:
            pairs.append((f"{row['rate']:.0%}", f"followed when {HEADINGS[row['what']]}, of {row['n']}"))
    return Numbers(pairs)


def _success(report: Mapping[str, Any]) -> list[Block]:
    rows = [
        (planner, [report["cells"][f"{planner}-{column}"].get("overall") for column in report["columns"]])
        for planner in report["rows"]
    ]
    names = [f"{column} controller" for column in report["columns"]]
    return [
        matrix_table(report),
        *(Text(line, "dim") for line in absences(report)),
        Figure(figures.rates(rows, names), "Success by planner and controller, with Wilson's intervals"),
    ]


def _losses(report: Mapping[str, Any]) -> list[Block]:
    if not report["losses"]:
        return [Text("No two cells to compare.", "dim")]
    rows = [(x["what"], x["low"] * 100, x["difference"] * 100, x["high"] * 100) for x in report["losses"]]
    about = "What is lost, or worth, that much: paired differences with 95% intervals"
    return [losses_table(report), Figure(figures.spans(rows, "points", zero=True), about)]


def _counterfactuals(report: Mapping[str, Any]) -> list[Block]:
    if not any(row["n"] for row in report["counterfactuals"]):
        return [Text("No trial was made.", "dim")]
    about = (
        "Followed: the commanded thing is what happened first; as planned: what the plan would have been is; "
        "nothing: neither, in time. The intervals take trials for independent; an episode gives up to two "
        "of a sort."
    )
    return [counterfactuals_table(report), Text(about, "dim")]


def _families(report: Mapping[str, Any]) -> list[Block]:
    found = {name: cell["families"] for name, cell in report["cells"].items() if "families" in cell}
    families = sorted(set().union(*found.values()))
    rows = []
    for name, by_family in found.items():
        told = (by_family.get(family) for family in families)
        rows.append([name, *(f"{share(row)}\n({_interval(row)})" if row else "" for row in told)])
    shares = [
        [by_family[family]["rate"] if family in by_family else None for family in families]
        for by_family in found.values()
    ]
    return [
        Figure(figures.heat(list(found), families, shares), "Share solved, cell by family"),
        Table(["", *families], rows, about="Share solved, with Wilson's 95% interval"),
    ]


# -- what is there


def _found(folder: Path) -> list[tuple[str, str]]:
    """(planner, controller) of the subfolders that say they are a cell."""
    found = []
    for path in sorted(folder.glob("*-*/run.json")):
        run = read_object(path)
        cell = str(run.get("planner")), str(run.get("controller"))
        if "-".join(cell) == path.parent.name:
            found.append(cell)
    return found


def _layout(folder: Path, written: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Rows and columns that were asked for, as far as it is known, and those that are there."""
    found, sides = _found(folder), []
    for side, (key, usual) in enumerate((("rows", ROWS), ("columns", COLUMNS))):
        asked = written.get(key)
        known = isinstance(asked, list) and asked and all(isinstance(name, str) for name in asked)
        sides.append(list(dict.fromkeys([*(asked if known else usual), *(cell[side] for cell in found)])))
    return sides[0], sides[1]


def _begun(folder: Path) -> bool:
    """Whether an episode was written to its end there."""
    path = folder / EPISODES
    return path.is_file() and b"\n" in path.read_bytes()


def _seeds(runs: Mapping[str, Results]) -> set[int]:
    return {record["seed"] for run in runs.values() for record in run.records + run.errors}


def _unfinished(runs: Mapping[str, Results], report: Mapping[str, Any]) -> list[str]:
    missing = [name for name, cell in report["cells"].items() if cell.get("absent") == NOT_RUN]
    notes = [f"not run: {', '.join(missing)}"] if missing else []
    every = len(_seeds(runs))
    for name, run in runs.items():
        if (have := len(run.records) + len(run.errors)) < every:
            notes.append(
                f"{name}: {have} of {every} seeds; differences are of those that both cells finished"
            )
        if run.errors:
            notes.append(f"{name}: {len(run.errors)} episodes in which the software failed, counted apart")
    return notes


def _read_notes(runs: Mapping[str, Results]) -> list[str]:
    """What is odd about the cells' folders, each oddity once."""
    said: dict[str, list[str]] = {}
    for name, run in runs.items():
        for line in run.warnings:
            said.setdefault(line, []).append(name)
    return [
        f"{'every cell' if len(who) == len(runs) else ', '.join(who)}: {line}" for line, who in said.items()
    ]


def _mixed(runs: Mapping[str, Results]) -> list[str]:
    """Settings that should be the same in all cells and are not."""
    keys = dict.fromkeys(key for run in runs.values() for key in run.run if key not in OWN)
    notes = []
    for key in keys:
        values = {str(run.run[key]): name for name, run in runs.items() if key in run.run}
        if len(values) > 1:
            told = ", ".join(f"{value} in {name}" for value, name in values.items())
            notes.append(f"the cells are not of one experiment: {key} is {told}")
    weights = {run.run.get("checkpoint_sha256") for run in runs.values()} - {None}
    return notes + (["the cells were run with different weights"] if len(weights) > 1 else [])


def _trials(folder: Path) -> tuple[list[Record], list[str]]:
    """The counterfactuals' records by seed, and what is odd about them."""
    if not _begun(folder):
        return [], []
    records, cut = read_records(folder / EPISODES, _wrong)
    notes = [] if cut is None else [f"{COUNTERFACTUALS}: " + CUT.format(EPISODES, cut)]
    return list(records.values()), notes


def _wrong(record: Record) -> str | None:
    if problem := lacks(record, {"trials": list}):
        return problem
    for trial in record["trials"]:
        if not isinstance(trial, dict):
            return f"trials of seed {record['seed']}, got {type(trial).__name__}"
        needed = TRIAL | ({"unswapped": bool} if trial.get("what") == "instruction" else {})
        if problem := lacks(trial | {"seed": record["seed"]}, needed):
            return problem
        if trial["what"] not in HEADINGS:
            return (
                f"one of {', '.join(HEADINGS)} in the trials of seed {record['seed']}, got {trial['what']!r}"
            )
    return None
