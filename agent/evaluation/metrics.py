"""From episode records to a summary: every number is computed from the records and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.evaluation.statistics import quantile, rate

Record = dict[str, Any]


def summarize(records: Sequence[Record], errors: Sequence[Record] = ()) -> dict[str, Any]:
    """`overall` and `families`, each {n, successes, rate, low, high}; the planner against the teacher;
    timings.

    errors: episodes that the software could not finish. They are neither successes nor failures: counted
    apart.
    """
    judged = [r for r in records if r["success"] is not None]
    families = sorted({r["family"] for r in judged})
    return {
        "overall": _successes(judged),
        "families": {name: _successes([r for r in judged if r["family"] == name]) for name in families},
        "progress": _mean([r["progress"] for r in judged]),
        "planner": planner_metrics(judged),
        "timings": timings(records),
        "errors": len(errors),
        "error_seeds": sorted(e["seed"] for e in errors),
    }


def planner_metrics(records: Sequence[Record]) -> dict[str, Any] | None:
    """The planner's looks against the teacher's answer to the same states; None where nobody planned.

    agreement: same words, over all looks. agreement_away: over looks not within half a second of a switch
    of the teacher's subtask. done_early: episodes that believed "done" before the goal was reached.
    done_late: solved episodes without a believed "done" 1.5 s after. grounding: distance of the points in
    pixels of 128, where the words agree.
    """
    looks = [look for r in records for look in r["looks"] if "truth" in look]
    looks = [look for look in looks if look["origin"] not in ("instruction",)]
    if not looks:
        return None
    away = [look for look in looks if not look["near_switch"]]
    solved = [r for r in records if r["success"]]
    pixels = [look["pixels"] for look in looks if "pixels" in look]
    return {
        "looks": len(looks),
        "agreement": _share([look["agree"] for look in looks]),
        "looks_away_from_switches": len(away),
        "agreement_away_from_switches": _share([look["agree"] for look in away]),
        "memory_agreement": _share([look["memory_agree"] for look in looks]),
        "scene_agreement": _share([look["scene_agree"] for look in looks if "scene_agree" in look]),
        "done_early": rate(sum(r["done_early"] for r in records), len(records)),
        "done_late": rate(sum(r["done_late"] for r in solved), len(solved)),
        "grounding_pixels_median": quantile(pixels, 0.5),
        "grounding_pixels_p90": quantile(pixels, 0.9),
    }


def timings(records: Sequence[Record]) -> dict[str, float | None]:
    """Milliseconds of a look (plan and chunk) and how much faster than the world's clock the episodes ran."""
    looks = [look["ms"] for r in records for look in r["looks"]]
    return {
        "look_ms_p50": quantile(looks, 0.5),
        "look_ms_p95": quantile(looks, 0.95),
        "real_time_factor": quantile([r["timings"]["real_time_factor"] for r in records], 0.5),
    }


def _successes(records: Sequence[Record]) -> dict[str, Any]:
    return rate(sum(bool(r["success"]) for r in records), len(records))


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
