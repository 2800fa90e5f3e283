"""From episode records to a summary: every number is computed from the records and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from agent.evaluation.statistics import quantile, rate

Record = dict[str, Any]
COUNTS = ("replans", "corrections", "recoveries", "interventions")


def summarize(records: Sequence[Record], errors: Sequence[Record] = ()) -> dict[str, Any]:
    """`overall` and `families`, each {n, successes, rate, low, high}; the planner against the teacher;
    timings.

    reasons: of the failures (`analysis.REASONS`). counts: means per episode. errors: episodes that the
    software could not finish. They are neither successes nor failures: counted apart.
    """
    judged = [r for r in records if r["success"] is not None]
    reasons = Counter(r["reason"] for r in judged if r.get("reason"))
    families = sorted({r["family"] for r in judged})
    return {
        "overall": _successes(judged),
        "families": {name: _successes([r for r in judged if r["family"] == name]) for name in families},
        "progress": _mean([r["progress"] for r in judged]),
        "reasons": dict(sorted(reasons.items())),
        "counts": {
            name: _mean([_count(r[name]) for r in judged if r.get(name) is not None]) for name in COUNTS
        },
        "planner": planner_metrics(judged),
        "timings": timings(records),
        "errors": len(errors),
        "error_seeds": sorted(e["seed"] for e in errors),
    }


def planner_metrics(records: Sequence[Record]) -> dict[str, Any] | None:
    """The planner's looks against the teacher's answer to the same states; None where nobody planned.

    agreement: same words, over all looks. agreement_away: over looks not within half a second of a switch
    of the teacher's subtask. decision_points, switches: see `analysis`. done_early: episodes that believed
    "done" before the goal was reached. done_late: solved episodes without a believed "done" 1.5 s after.
    grounding: distance of the points in pixels of 128, where the words agree.
    """
    looks = [look for r in records for look in r["looks"] if "truth" in look]
    looks = [look for look in looks if look["origin"] not in ("instruction",)]
    if not looks:
        return None
    away = [look for look in looks if not look["near_switch"]]
    solved = [r for r in records if r["success"] and r["done_late"] is not None]
    pixels = [look["pixels"] for look in looks if "pixels" in look]
    return {
        "looks": len(looks),
        "agreement": _share([look["agree"] for look in looks]),
        "looks_away_from_switches": len(away),
        "agreement_away_from_switches": _share([look["agree"] for look in away]),
        "decision_points": decision_points(records),
        "switches": switch_errors(records),
        "memory_agreement": _share([look["memory_agree"] for look in looks]),
        "scene_agreement": _share([look["scene_agree"] for look in looks if "scene_agree" in look]),
        "done_early": rate(sum(r["done_early"] for r in records), len(records)),
        "done_late": rate(sum(r["done_late"] for r in solved), len(solved)),
        "grounding_pixels_median": quantile(pixels, 0.5),
        "grounding_pixels_p90": quantile(pixels, 0.9),
    }


def decision_points(records: Sequence[Record]) -> dict[str, Any]:
    """How often the planner writes the teacher's subtask at the first look after a switch of the
    teacher's."""
    parts = [r["decisions"] for r in records if r.get("decisions")]
    return rate(sum(p["right"] for p in parts), sum(p["seen"] for p in parts))


def switch_errors(records: Sequence[Record]) -> dict[str, Any]:
    """Seconds from the teacher's switches to the planner's; missed: those that it never made."""
    errors = [s["error"] for r in records for s in r.get("switches") or ()]
    timed = [e for e in errors if e is not None]
    return {
        "n": len(errors),
        "missed": len(errors) - len(timed),
        "seconds_p10": quantile(timed, 0.1),
        "seconds_median": quantile(timed, 0.5),
        "seconds_p90": quantile(timed, 0.9),
    }


def timings(records: Sequence[Record]) -> dict[str, Any]:
    """Milliseconds of a look (plan and chunk), how much faster than the world's clock the episodes ran, and
    the shares of the wall time (None of records that do not tell).
    """
    looks = [look["ms"] for r in records for look in r["looks"]]
    return {
        "look_ms_p50": quantile(looks, 0.5),
        "look_ms_p95": quantile(looks, 0.95),
        "real_time_factor": quantile([r["timings"]["real_time_factor"] for r in records], 0.5),
        "share": shares([r["timings"] for r in records if "seconds" in r["timings"]]),
    }


def shares(timings: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Of all wall time: what the world, rendering and the levels took; the rest is the harness's own."""
    wall = sum(t["wall_seconds"] for t in timings)
    if not wall:
        return None
    found = {name: sum(t["seconds"][name] for t in timings) / wall for name in timings[0]["seconds"]}
    return found | {"harness": 1.0 - sum(found.values())}


def _successes(records: Sequence[Record]) -> dict[str, Any]:
    return rate(sum(bool(r["success"]) for r in records), len(records))


def _count(value: int | list) -> int:
    return len(value) if isinstance(value, list) else value


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
