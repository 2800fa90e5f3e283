"""Result folders side by side: outcomes paired by suite, family and seed, and what they say.

Reads what `evaluate` writes (OUT/episodes.jsonl, run.json, summary.json). Every number comes from the episode
records. All are compared with the first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.evaluation.paired import holm, mcnemar, paired_interval, stratified_difference
from agent.evaluation.sequential import ALPHA, more_pairs, sequential_difference
from agent.evaluation.statistics import rate, stratified_rate
from backbone.errors import UserError

Key = tuple[str, str, int]  # suite, family, seed
PROTOCOL = ("suite", "execute", "world", "drawing")  # settings that make a seed the same question to both
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
        "notes": [note for r in results for note in _notes(r)],
    }


# -- reading


def read(folder: Path, name: str | None = None) -> Results:
    """A folder's results; UserError with the file and the line of what is wrong with it."""
    path = folder / "episodes.jsonl"
    if not path.is_file():
        raise UserError(f"{folder}: expected a result folder of `steersman evaluate`, found no {path.name}")
    run, summary = (_settings(folder / file) for file in ("run.json", "summary.json"))
    settings = summary.get("settings", {}) | run
    if not settings:
        raise UserError(f"{folder}: expected run.json or summary.json beside {path.name}, found neither")
    settings["mujoco"] = summary.get("versions", {}).get("mujoco")
    stopped = (summary.get("until_sure") or {}).get("verdict") is not None
    results = Results(name or folder.name, folder, settings, bool(summary), stopped)
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            _take(results, json.loads(line))
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        except (ValueError, KeyError, TypeError, IndexError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else "no whole JSON object"
            raise UserError(f"{path}, line {number}: expected an episode's record, got {what}") from None
    results.errors -= {seed for _, _, seed in results.solved}  # tried again, and it went well
    if not results.solved:
        raise UserError(f"{path}: expected finished episodes, got none ({len(results.errors)} with errors)")
    return results


def _take(results: Results, record: dict[str, Any]) -> None:
    seed = record["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise UserError(f"expected a whole number as seed, got {seed!r}")
    if record.get("error"):
        results.errors.add(seed)
        return
    key, success = (record["suite"], record["family"], seed), record["success"]
    if success is not None and not isinstance(success, bool):
        raise UserError(f"expected success to be true, false or null, got {success!r}")
    if key in results.instructions:
        raise UserError(f"expected every seed once, got seed {seed} of {key[1]} again")
    said = record.get("instructions") or [{"text": record["instruction"]}]
    results.instructions[key] = said[0]["text"]
    if success is None:
        results.unjudged += 1
    else:
        results.solved[key] = success


def _settings(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected JSON, got {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


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
