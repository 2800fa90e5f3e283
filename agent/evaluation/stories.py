"""Episodes told one by one: failures first, with reason, timeline and video; and all of them in a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from agent.evaluation import figures
from agent.evaluation.analysis import REASONS, duration, planned, teacher_timeline
from agent.evaluation.page import Block, Cell, Figure, Fold, Heading, Table, Text, Video
from agent.evaluation.results import Results

Record = dict[str, Any]
TOLD = 24  # failures told in full


def percent(share: float | None, digits: int = 1) -> str:
    return "" if share is None else f"{share:.{digits}%}"


def number(value: float | None, unit: str = "", digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}{unit}"


def interval(row: Mapping[str, Any]) -> str:
    return f"{row['low']:.1%} to {row['high']:.1%}" if row["n"] else ""


def failures(results: Results, videos: Mapping[int, tuple[bytes, str]]) -> list[Block]:
    """Those with a video first, then by seed; after them what the software failed in."""
    failed = [r for r in results.judged if not r["success"]]
    if not failed and not results.errors:
        return [Text("None.", "good")]
    blocks: list[Block] = []
    for record in sorted(failed, key=lambda r: (r["seed"] not in videos, r["seed"]))[:TOLD]:
        blocks += _failure(record, videos.get(record["seed"]))
    if len(failed) > TOLD:
        blocks.append(Text(f"{len(failed) - TOLD} further failures are in the list of every episode.", "dim"))
    if results.errors:
        rows = [(str(r["seed"]), str(r["error"])) for r in results.errors]
        about = "Episodes in which the software failed: neither successes nor failures"
        blocks.append(Table(("seed", "error"), rows, (0, 1), about))
    return blocks


def reason_table(runs: Sequence[Results]) -> Block:
    """How often which reason, in which families if it is of one run, and what it means."""
    failed = [[r for r in run.judged + run.errors if r["reason"]] for run in runs]
    if not any(failed):
        return Text("Nothing failed.", "good")
    many, rows = len(runs) > 1, []
    for name, meaning in REASONS.items():
        of = [[r for r in records if r["reason"] == name] for records in failed]
        if any(of):
            families = Counter(r.get("family", "") for r in of[0] if "family" in r)
            where = [] if many else [", ".join(f"{f} {n}" for f, n in sorted(families.items()))]
            rows.append([name.replace("_", " "), *(str(len(found)) for found in of), *where, meaning])
    columns = ["reason", *([run.name for run in runs] if many else ["episodes", "in"]), "which means"]
    return Table(columns, rows, (0, len(columns) - 1) if many else (0, 2, 3))


def _failure(record: Record, video: tuple[bytes, str] | None) -> list[Block]:
    reason = record["reason"].replace("_", " ")
    told = f"{reason}, progress {record['progress']:.0%}"
    if record.get("setbacks"):
        told += f", setbacks {len(record['setbacks'])}, made good {record['recoveries']}"
    head = f"Seed {record['seed']}, {record['family']}: {record['instruction']}"
    blocks: list[Block] = [Heading(head, 3), Text(told, "bad")]
    if video is not None:
        blocks.append(Video(*video))
    return [*blocks, *episode(record)]


def episode(record: Record) -> list[Block]:
    """Its timeline and, folded, its subtasks in words."""
    about = f"Seed {record['seed']}: {record['instruction']}"
    if len(record["instructions"]) > 1:
        said = "; ".join(f"at {x['time']:.1f} s: {x['text']}" for x in record["instructions"])
        about = f"Seed {record['seed']}. Said {said}"
    drawn = Figure(figures.timeline(record), about)
    table = Table(
        ("from", "to", "subtask", "written by", "margin", "the teacher then"),
        [
            (
                number(part["start"], " s"),
                number(part["end"], " s"),
                part["text"],
                part["who"],
                number(part.get("margin"), digits=1),
                _mark(part["text"], _teacher_at(record, part["start"])),
            )
            for part in record["subtasks"]
        ],
        (2, 3, 5),
    )
    shown = [drawn, Fold(f"{len(record['subtasks'])} subtasks in words", [table])]
    return shown if drawn.svg else [table]


def _teacher_at(record: Record, time: float) -> str:
    parts = teacher_timeline(record)
    return next((p["text"] for p in parts if p["start"] <= time + 1e-6 < p["end"]), "")


def _mark(ours: str, teacher: str) -> Cell:
    return Cell(teacher, "" if teacher in ("", ours) else "warn")


def published_states(results: Results) -> set[int]:
    """The numbers of the published initial states that the episodes began in, where there are such."""
    return {r["state_id"] for r in results.records if r.get("state_id") is not None}


def episode_table(results: Results) -> Table:
    """A row for each; with the published initial state that it began in, where there are such."""
    columns = ["seed", "family", "instruction", "", "time", "progress", "replans", "recoveries", "reason"]
    rows = []
    for record in results.records:
        solved = record["success"]
        verdict = Cell("solved", "good") if solved else Cell("failed", "bad")
        verdict = verdict if solved is not None else Cell("not judged", "dim")
        rows.append(
            [
                str(record["seed"]), record["family"], record["instruction"], verdict,
                number(record["success_time"] if solved else duration(record), " s"),
                percent(record["progress"], 0), str(record["replans"]) if planned(record) else "",
                "" if record["recoveries"] is None else str(record["recoveries"]),
                (record["reason"] or "").replace("_", " "),
            ]
        )  # fmt: skip
    for record in results.errors:
        rows.append([str(record["seed"]), "", "", Cell("error", "warn"), "", "", "", "", "software error"])
    rows.sort(key=lambda row: int(row[0]))
    if published_states(results):
        states = {str(r["seed"]): r.get("state_id") for r in results.records}
        known = (states.get(row[0]) for row in rows)
        rows = [[*row, "" if state is None else str(state)] for row, state in zip(rows, known, strict=True)]
        columns.append("state")
    return Table(columns, rows, (1, 2, 3, 8))
