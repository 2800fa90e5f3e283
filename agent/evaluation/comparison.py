"""Result folders side by side: outcomes paired by suite, family and seed, and what they say.

Reads what `evaluate` writes (OUT/episodes.jsonl, run.json, summary.json). Every number comes from the episode
records. All are compared with the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.evaluation.paired import holm, mcnemar, paired_interval, stratified_difference
from agent.evaluation.results import episodes, lacks, read_object, read_records
from agent.evaluation.sequential import ALPHA, more_pairs, sequential_difference
from agent.evaluation.settings import Settings
from agent.evaluation.statistics import rate, stratified_rate
from backbone.errors import UserError

Key = tuple[str, str, int]  # suite, family, seed
PROTOCOL = ("suite", "execute", "world", "drawing")  # settings that make a seed the same question to both
NEEDED = {"suite": str, "family": str, "success": (bool, type(None))}  # of a record that is compared
WEIGHTS = ("pairs", "equal")


@dataclass
class Results:
    """A folder's episodes. solved: by (suite, family, seed), those that ran and were judged."""

    name: str
    folder: Path
    settings: dict[str, Any]
    finished: bool
    stopped: bool  # early, because of what the outcomes were
    solved: dict[Key, bool] = field(default_factory=dict)
    instructions: dict[Key, str] = field(default_factory=dict)
    errors: set[int] = field(default_factory=set)  # seeds that the software could not finish
    unjudged: int = 0


def compare(folders: Sequence[Path | str], weights: str = "pairs", alpha: float = ALPHA) -> dict[str, Any]:
    """JSON-ready: {alpha, weights, results, comparisons, notes}; a comparison has `families`, `overall`,
    `differ` (the seeds that only one solved) and what could not be paired.

    weights: of the families in the overall rates and difference: as many as there are pairs, or all equal.
    UserError for folders that cannot be read or compared.
    """
    folders = [Path(folder) for folder in folders]
    if len(folders) < 2:
        raise UserError(f"compare: expected at least 2 result folders, got {len(folders)}")
    if weights not in WEIGHTS:
        raise UserError(f"weights: expected one of {', '.join(WEIGHTS)}, got '{weights}'")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("compare: expected different folders, got one of them twice")
    results = [read(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    first, others = results[0], results[1:]
    found = [_compare(first, other, weights, alpha) for other in others]
    adjusted, _ = holm([c["overall"]["mcnemar"] for c in found], alpha)
    anytime, levels = holm([c["overall"]["sequential"]["p"] for c in found], alpha)
    for i, comparison in enumerate(found):
        row = comparison["overall"]
        row["mcnemar_holm"] = adjusted[i]
        if levels[i] != alpha:
            row["sequential"] = _sequential(comparison["outcomes"], levels[i])
        row["sequential"]["p_holm"] = anytime[i]
        del comparison["outcomes"]
    return {
        "alpha": alpha,
        "weights": weights,
        "results": [_describe(r) for r in results],
        "comparisons": found,
        "notes": [note for r in results for note in _notes(r)] + _compared(first, others),
    }


# -- reading


def read(folder: Path, name: str | None = None) -> Results:
    """A folder's results; UserError with the file and the line of what is wrong with it."""
    path = episodes(folder)
    records, _ = read_records(path, _wrong, whole=True)
    run, summary = (_settings(folder / file) for file in ("run.json", "summary.json"))
    settings = summary.get("settings", {}) | run
    if not settings:
        raise UserError(f"{folder}: expected run.json or summary.json beside {path.name}, found neither")
    settings["mujoco"] = summary.get("versions", {}).get("mujoco")
    stopped = (summary.get("until_sure") or {}).get("verdict") is not None
    results = Results(name or folder.name, folder, settings, bool(summary), stopped)
    for seed, record in records.items():
        if record.get("error"):
            results.errors.add(seed)
            continue
        key = record["suite"], record["family"], seed
        results.instructions[key] = _said(record)
        if record["success"] is None:
            results.unjudged += 1
        else:
            results.solved[key] = record["success"]
    if not results.solved:
        raise UserError(f"{path}: expected finished episodes, got none ({len(results.errors)} with errors)")
    return results


def _wrong(record: dict[str, Any]) -> str | None:
    problem = lacks(record, NEEDED)
    try:
        return problem or (_said(record) and None)
    except (TypeError, KeyError, IndexError):
        return f"what was said in the record of seed {record['seed']}, found none"


def _said(record: dict[str, Any]) -> str:
    """What was said first."""
    return record["instructions"][0]["text"] if record.get("instructions") else record["instruction"]


def _settings(path: Path) -> dict[str, Any]:
    found = read_object(path)
    if not found and path.exists():
        raise UserError(f"{path}: expected a JSON object, found none")
    return found


def _names(folders: Sequence[Path]) -> list[str]:
    """As much of the end of each path as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            break
    return names


# -- comparing


def _compare(first: Results, second: Results, weights: str, alpha: float) -> dict[str, Any]:
    _same_protocol(first, second)
    keys = sorted(first.solved.keys() & second.solved.keys(), key=lambda key: (key[2], key))
    if not keys:
        raise UserError(
            f"{first.name} and {second.name}: expected seeds in common, got none "
            f"({len(first.solved)} and {len(second.solved)} episodes)"
        )
    for key in keys:
        said = first.instructions[key], second.instructions[key]
        if said[0] != said[1]:
            raise UserError(
                f"seed {key[2]}: expected the same instruction in {first.name} and {second.name}, "
                f"got '{said[0]}' and '{said[1]}': not the same protocol"
            )
    suites = {suite for suite, _, _ in keys}
    strata: dict[str, list[Key]] = {}
    for key in keys:
        strata.setdefault(key[1] if len(suites) == 1 else f"{key[0]}/{key[1]}", []).append(key)
    strata = dict(sorted(strata.items()))
    families = {name: _row(first, second, part, alpha) for name, part in strata.items()}
    overall = _row(first, second, keys, alpha)
    _stratify(overall, list(families.values()), None if weights == "pairs" else [1.0] * len(families))
    return {
        "first": first.name,
        "second": second.name,
        "families": families,
        "overall": overall,
        "differ": [
            {"seed": key[2], "suite": key[0], "family": key[1], "solved_by": winner.name}
            for key in keys
            for winner, loser in ((first, second), (second, first))
            if winner.solved[key] and not loser.solved[key]
        ],
        "unpaired": {r.name: len(r.solved) - len(keys) for r in (first, second)},
        "outcomes": _outcomes(first, second, keys),
    }


def _row(first: Results, second: Results, keys: Sequence[Key], alpha: float) -> dict[str, Any]:
    outcomes = _outcomes(first, second, keys)
    n, wins, losses = len(keys), outcomes.count(1), outcomes.count(-1)
    low, high = paired_interval(wins, losses, n)
    return {
        "pairs": n,
        "first": rate(sum(first.solved[key] for key in keys), n),
        "second": rate(sum(second.solved[key] for key in keys), n),
        "only_first": losses,
        "only_second": wins,
        "difference": {"value": (wins - losses) / n, "low": low, "high": high},
        "mcnemar": mcnemar(wins, losses),
        "sequential": _sequential(outcomes, alpha),
    }


def _stratify(overall: dict[str, Any], rows: Sequence[dict[str, Any]], weights) -> None:
    """Rates and difference of the whole, from the families in their shares."""
    n = [row["pairs"] for row in rows]
    for who in ("first", "second"):
        found = stratified_rate([row[who]["successes"] for row in rows], n, weights)
        overall[who] |= dict(zip(("rate", "low", "high"), found, strict=True))
    wins, losses = ([row[name] for row in rows] for name in ("only_second", "only_first"))
    found = stratified_difference(wins, losses, n, weights)
    overall["difference"] = dict(zip(("value", "low", "high"), found, strict=True))


def _outcomes(first: Results, second: Results, keys: Sequence[Key]) -> list[int]:
    return [int(second.solved[key]) - int(first.solved[key]) for key in keys]


def _sequential(outcomes: Sequence[int], alpha: float) -> dict[str, Any]:
    """The verdict of the anytime-valid test over the pairs in order of seeds."""
    found, wins, losses = sequential_difference(outcomes, alpha), outcomes.count(1), outcomes.count(-1)
    verdict = {1: "better", -1: "worse", 0: None}[found.sign]
    row = {"verdict": verdict, "settled_at": found.settled_at, "p": found.p, "level": alpha}
    more = more_pairs(wins, losses, len(outcomes), alpha) if verdict is None else 0
    return row | {"more_pairs": more, "low": found.low, "high": found.high}


def _same_protocol(first: Results, second: Results) -> None:
    for name in (*PROTOCOL, "mujoco"):
        mine, theirs = first.settings.get(name), second.settings.get(name)
        if mine is None or theirs is None:
            continue  # not every version writes all of them
        if name == "mujoco":  # its patches leave the physics alone
            mine, theirs = (".".join(v.split(".")[:2]) for v in (mine, theirs))
        if mine != theirs:
            raise UserError(
                f"{first.name} and {second.name}: expected results of one protocol, "
                f"got {name} {mine} and {theirs}"
            )


def _describe(results: Results) -> dict[str, Any]:
    return {
        "name": results.name,
        "folder": str(results.folder),
        "episodes": len(results.solved),
        "errors": len(results.errors),
        "error_seeds": sorted(results.errors),
        "unjudged": results.unjudged,
        "settings": results.settings,
    }


def _notes(results: Results) -> list[str]:
    """What a reader has to know before believing the numbers."""
    notes = []
    if results.errors:
        seeds = ", ".join(map(str, sorted(results.errors)))
        notes.append(f"{results.name}: {len(results.errors)} episodes with errors, not paired: seeds {seeds}")
    if results.unjudged:
        notes.append(f"{results.name}: {results.unjudged} episodes without a verdict, not paired")
    if results.stopped:
        notes.append(
            f"{results.name}: stopped early because of its outcomes; its rate, p and intervals, made for a "
            "number of episodes fixed beforehand, flatter it a little"
        )
    if not results.finished:
        notes.append(
            f"{results.name}: the evaluation has not ended (no summary.json); what is missing is rather the "
            "long episodes, which fail more often"
        )
    return notes


def _compared(first: Results, others: Sequence[Results]) -> list[str]:
    """In which settings each of the others differs from the first: what is compared. One that a run does not
    tell is the usual one: there was no other yet."""
    usual, notes = dataclasses.asdict(Settings()), []
    for other in others:
        values = {
            key: [r.settings.get(key, usual.get(key)) for r in (first, other)]
            for key in (*usual, "checkpoint_sha256")
            if key not in PROTOCOL
        }
        told = [f"{key} ({a!s:.30}, {b!s:.30})" for key, (a, b) in values.items() if a != b]
        if told:
            notes.append(f"{first.name} and {other.name} differ in {', '.join(told)}")
    return notes
