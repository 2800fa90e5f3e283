"""A folder of results as it lies on disk: read, checked, and its derived numbers computed anew.

`summary.json` is read for one purpose only: to say where it disagrees with the records beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.evaluation.analysis import derive
from agent.evaluation.metrics import summarize
from backbone.errors import UserError

Record = dict[str, Any]
EPISODES = "episodes.jsonl"
NEEDED = {
    "family": str,
    "instruction": str,
    "instructions": list,
    "success": (bool, type(None)),
    "progress": (int, float, type(None)),
    "steps": int,
    "subtasks": list,
    "looks": list,
    "timings": dict,
}  # without these an episode cannot be told
CUT = "{}: line {} is cut off, as a killed run leaves it; left out"
MOST = 6  # disagreements that are told


@dataclass
class Results:
    """One run: its finished episodes by seed, those the software failed in, and what is odd about it."""

    folder: Path
    name: str
    run: dict[str, Any]
    records: list[Record]
    errors: list[Record]
    warnings: list[str] = field(default_factory=list)

    @property
    def judged(self) -> list[Record]:
        return [r for r in self.records if r["success"] is not None]

    @property
    def summary(self) -> dict[str, Any]:
        """Computed from the records."""
        return summarize(self.records, self.errors)


def episodes(folder: Path) -> Path:
    """The file of records in a folder of results. UserError where there is none."""
    if not (folder / EPISODES).is_file():
        raise UserError(
            f"results: expected a folder that `steersman evaluate` wrote, found no {EPISODES} in '{folder}'"
        )
    return folder / EPISODES


def read_results(folder: Path | str, name: str | None = None) -> Results:
    """The results in a folder. UserError for an unknown folder, for one without records and for a corrupt
    record (with its line)."""
    folder = Path(folder)
    path = episodes(folder)
    by_seed, cut = read_records(path, _wrong)
    warnings = [] if cut is None else [CUT.format(path.name, cut)]
    if not by_seed:
        raise UserError(f"results: expected records of episodes in {path}, found none")
    every = [by_seed[seed] for seed in sorted(by_seed)]
    records = [r | derive(r) for r in every if not r.get("error")]
    errors = [r | {"reason": "software_error"} for r in every if r.get("error")]
    run = read_object(folder / "run.json")
    if not run:
        warnings.append("run.json is missing or unreadable: the settings of these episodes are not known")
    warnings += _odd(records, run)
    found = Results(folder, name or folder.resolve().name, run, records, errors, warnings)
    found.warnings += disagreements(found, by_seed)
    return found


def read_records(
    path: Path, wrong: Callable[[Record], str | None], whole: bool = False
) -> tuple[dict[int, Record], int | None]:
    """The records by seed, and the number of a last line that a killed run left cut off (an error like others
    with `whole`). An episode that failed once and was run again counts as run. UserError with file and line.

    wrong: what a finished record lacks, in the words of an error.
    """
    found: dict[int, Record] = {}
    lines = path.read_bytes().decode(errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        if not line and number == len(lines):
            break
        try:
            record = json.loads(line)
            problem = _no_record(record, found) or (None if record.get("error") else wrong(record))
        except ValueError:
            if number == len(lines) and not whole:  # no line end
                return found, number
            problem = "a whole JSON object, got no JSON"
        if problem:
            raise UserError(f"{path}, line {number}: expected {problem}")
        if not record.get("error") or found.get(record["seed"], record).get("error"):
            found[record["seed"]] = record
    return found, None


def _no_record(record: Any, found: Mapping[int, Record]) -> str | None:
    if not isinstance(record, dict):
        return f"a whole JSON object, got {type(record).__name__}"
    seed = record.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        return f"a whole number as seed, got {seed!r}"
    if not record.get("error") and not found.get(seed, {"error": True}).get("error"):
        return f"every seed once, got seed {seed} of {record.get('family')} again"
    return None


def lacks(record: Record, needed: Mapping[str, Any]) -> str | None:
    """Which of the needed keys, given with their types, is not there or of another type."""
    for key, kinds in needed.items():
        if key not in record:
            return f"a whole record of seed {record['seed']}, found no '{key}'"
        if not isinstance(record[key], kinds):
            return f"'{key}' of another kind in the record of seed {record['seed']}, got {record[key]!r:.60}"
    return None


def _wrong(record: Record) -> str | None:
    if problem := lacks(record, NEEDED):
        return problem
    try:
        derive(record)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        return f"a whole record of seed {record['seed']}, got one with a broken part ({error!r:.80})"
    return None


def _odd(records: Sequence[Record], run: dict[str, Any]) -> list[str]:
    """What a reader should know before believing these records."""
    found = []
    suites = sorted({r["suite"] for r in records if "suite" in r})
    if run and suites not in ([], [run.get("suite")]):
        found.append(f"run.json speaks of suite {run.get('suite')}, the records are of {', '.join(suites)}")
    old = sum("progress_steps" not in r for r in records if r["success"] is not None)
    if old:
        found.append(
            f"{old} of {len(records)} records were written before schema 1: the teacher's timeline is as "
            "coarse as the looks, and setbacks are not known, so what was dropped shows as timeout"
        )
    if len(run.get("runs", ())) > 1:
        found.append("these episodes were run in several goes, with other versions or on another machine")
    return found


# -- summary.json against its records


def disagreements(results: Results, by_seed: dict[int, Record]) -> list[str]:
    """One line for each number of summary.json that its records do not bear out."""
    path = results.folder / "summary.json"
    if not path.exists():
        return [
            "there is no summary.json: the run was not finished; what follows is of the episodes that were"
        ]
    written = read_object(path)
    if not written:
        return [f"{path.name} is unreadable (nothing here is taken from it)"]
    settings = written.get("settings", {})
    first, count = settings.get("seed"), settings.get("episodes")
    records, errors = results.records, results.errors
    missing = []
    if isinstance(first, int) and isinstance(count, int):
        seeds = range(first, first + count)
        records = [r for r in records if r["seed"] in seeds]
        errors = [r for r in errors if r["seed"] in seeds]
        lost = [seed for seed in seeds if seed not in by_seed]
        if lost:
            some = ", ".join(map(str, lost[:8])) + (", ..." if len(lost) > 8 else "")
            missing = [f"summary.json speaks of {count} episodes; without record: {len(lost)} (seeds {some})"]
    if (written.get("until_sure") or {}).get("verdict") is not None:
        missing.append(
            "the run stopped early because of its outcomes; Wilson's intervals are for a number of episodes "
            "fixed beforehand (the sequential test has its own, in summary.json)"
        )
    return missing + differing(summarize(records, errors), written, path.name)


def differing(computed: Any, written: Any, name: str) -> list[str]:
    """A line for each number of the file `name` that differs from the computed one; a few of many."""
    lines = list(_differences(computed, written, ""))
    if len(lines) > MOST:
        lines = lines[:MOST] + [f"and {len(lines) - MOST} more"]
    return [f"{name} disagrees with its records: {line}" for line in lines]


def _differences(computed: Any, written: Any, where: str):
    """Numbers that differ, where both have them (an older summary has fewer)."""
    if isinstance(computed, dict) and isinstance(written, dict):
        for key in computed:
            if key in written:
                yield from _differences(computed[key], written[key], f"{where}.{key}" if where else str(key))
    elif isinstance(computed, list) and isinstance(written, list) and len(computed) == len(written):
        for number, pair in enumerate(zip(computed, written, strict=True)):
            yield from _differences(*pair, f"{where}[{number}]")
    elif isinstance(computed, float) and isinstance(written, (int, float)):
        if not math.isclose(computed, written, rel_tol=1e-9, abs_tol=1e-9):
            yield f"{where} is {written:.6g} there, {computed:.6g} in the records"
    elif computed != written:
        yield f"{where} is {written!r:.40} there, {computed!r:.40} in the records"


def read_object(path: Path) -> dict[str, Any]:
    """A file's JSON object; {} where there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
