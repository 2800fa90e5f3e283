"""What an episode's record tells when it is read afterwards: decisions, switches, setbacks, why it failed.

Everything here reads a record and nothing else, so that a report can compute it anew. The yardstick is the
teacher: what it would have said at every tick of this very episode. Its changes of mind that last less than a
quarter of a second (a block that leaves the floor and touches it again) are not counted as changes.

A record of before schema 1 has no timeline of the teacher: it is put together from the looks, as coarse as
they are. It has no course of progress either: what needs it is None.
"""

from __future__ import annotations

from typing import Any

from envs.tabletop.language import COLORS
from highlevel.plan import DONE

Record = dict[str, Any]
Part = dict[str, Any]  # of a timeline: text, start, end (seconds)

RATE = 20  # control ticks a second, of records that do not say
BRIEF = 0.25  # seconds: a shorter subtask of the teacher's is passed over
TAIL = 1.0  # seconds: a switch this close to the end that the planner did not follow is not held against it
STUCK = 5.0  # seconds without a switch of the teacher's or any gain
LATELY = 3.0  # seconds before the end over which a planner's disagreement is judged
EPS = 1e-6

REASONS = {
    "software_error": "the software failed; neither a success nor a failure of the agent",
    "premature_done": "the planner says done at the end, the teacher would go on",
    "spoiled": "the teacher has nothing left to do and the goal is not reached: it cannot be mended any more",
    "wrong_subtask": f"at most looks of the last {LATELY:.0f} s the planner's subtask is not the teacher's",
    "controller_stuck": f"the planner is right, and nothing has come of it for {STUCK:.0f} s",
    "dropped": "what had been achieved was lost (a block dropped, a tower fallen) and not made good in time",
    "timeout": "still at work when the time was over",
}  # the first that holds


def derive(record: Record) -> dict[str, Any]:
    """Everything below, as an episode's record holds it."""
    back = setbacks(record)
    return {
        "decisions": decisions(record),
        "switches": switches(record),
        "replans": max(0, len(record["subtasks"]) - 1),
        "corrections": len(record["instructions"]) - 1,
        "setbacks": back,
        "recoveries": None if back is None else sum(b["recovered"] for b in back),
        "reason": reason(record),
    }


def hertz(record: Record) -> float:
    """Control ticks a second."""
    return record.get("control_hz", RATE)


def duration(record: Record) -> float:
    """Seconds of the world's time."""
    return record["steps"] / hertz(record)


def planned(record: Record) -> bool:
    """Whether anybody wrote subtasks; without a planner the instruction stands in their place."""
    return any(look["origin"] != "instruction" for look in record["looks"])


def teacher_timeline(record: Record) -> list[Part]:
    """What the teacher would have said, brief changes of mind left out; empty where it was not asked."""
    if "teacher" in record:
        return _steady(record["teacher"])
    parts: list[Part] = []
    for look in record["looks"]:
        if "truth" not in look:
            continue
        if not parts or parts[-1]["text"] != look["truth"]:
            parts.append({"text": look["truth"], "start": look["tick"] / hertz(record)})
    return _steady([p | {"end": e} for p, e in zip(parts, _ends(parts, duration(record)), strict=True)])


def _ends(parts: list[Part], last: float) -> list[float]:
    return [part["start"] for part in parts[1:]] + [last] if parts else []


def _steady(parts: list[Part]) -> list[Part]:
    kept: list[Part] = []
    for part in parts:
        if part["end"] - part["start"] < BRIEF - EPS and part is not parts[-1]:
            continue
        if not kept or kept[-1]["text"] != part["text"]:
            kept.append(dict(part))
    if kept:
        kept[0]["start"] = parts[0]["start"]
        for part, end in zip(kept, _ends(kept, parts[-1]["end"]), strict=True):
            part["end"] = end
    return kept


def decisions(record: Record) -> dict[str, int] | None:
    """The planner at the points where a decision is due: the teacher's switches, its first subtask included.

    points: how many; seen: those that the planner looked at before the next one; right: where it wrote the
    teacher's subtask at the first look. None without a planner or a teacher.
    """
    parts = teacher_timeline(record)
    if not planned(record) or not parts:
        return None
    seen = right = 0
    for part in parts:
        first = next((x for x in record["looks"] if _within(x["tick"] / hertz(record), part)), None)
        seen += first is not None
        right += first is not None and first["text"] == part["text"]
    return {"points": len(parts), "seen": seen, "right": right}


def _within(time: float, part: Part) -> bool:
    return part["start"] - EPS <= time < part["end"] - EPS


def switches(record: Record) -> list[dict[str, Any]] | None:
    """The planner's switches against the teacher's: text, time (s, the teacher's) and error (s, negative:
    early).

    A switch belongs to the first subtask of the planner's with the same words that is in force while the
    teacher wants it. error is None where there is none: the planner never said it then, though it looked.
    "done" is in force once it is believed (the loop asks for two looks), so it is late by design.
    """
    parts = teacher_timeline(record)
    if not planned(record) or not parts:
        return None
    found, taken = [], set()
    for number, part in enumerate(parts):
        same = [
            i
            for i, s in enumerate(record["subtasks"])
            if s["text"] == part["text"] and s["start"] < part["end"] - EPS and s["end"] > part["start"] + EPS
        ]
        fresh = bool(same) and same[0] not in taken
        taken.update(same[:1])
        if number == 0 or (same and not fresh):
            continue  # nothing to switch from, or the planner had not left it
        unseen = not any(_within(look["tick"] / hertz(record), part) for look in record["looks"])
        if not same and (unseen or number == len(parts) - 1 and part["end"] - part["start"] < TAIL):
            continue
        error = round(record["subtasks"][same[0]]["start"] - part["start"], 3) if same else None
        found.append({"text": part["text"], "time": part["start"], "error": error})
    return found


def setbacks(record: Record) -> list[dict[str, Any]] | None:
    """The moments at which something has to be done again: text, time (s) and recovered.

    The teacher goes back to a subtask that came before the one it leaves (under the same instruction), and
    what that was for has not lasted: progress is no higher than when the subtask was begun before, or it has
    fallen since. (Pressing a button twice or moving a block twice is no setback where the task asks for it:
    progress has grown.) recovered: the teacher moved on from it again. None where the course of progress is
    not known.
    """
    course = record.get("progress_steps")
    if not course:
        return None
    parts, found = teacher_timeline(record), []
    corrected = [said["time"] for said in record["instructions"][1:]]
    begun: dict[str, list[float]] = {}  # starts of a subtask, in the order of the first ones
    for number, part in enumerate(parts):
        start, text = part["start"], part["text"]
        if number and any(parts[number - 1]["start"] < t <= start + EPS for t in corrected):
            begun = {}
        order, left = list(begun), parts[number - 1]["text"] if number else ""
        if text != DONE and text in begun and left in begun and order.index(text) < order.index(left):
            before = begun[text][-1]
            now, then = progress_at(course, start), progress_at(course, before)
            peak = max([v for t, v in course if before <= t <= start + EPS], default=then)
            if now <= then + EPS or now < peak - EPS:
                found.append({"text": text, "time": start, "recovered": number < len(parts) - 1})
        begun.setdefault(text, []).append(start)
    return found


def progress_at(course: list[list[float]], time: float) -> float:
    """Progress at a time, of its changes [[time, value], ...]."""
    return next((value for t, value in reversed(course) if t <= time + EPS), course[0][1])


def attempts(record: Record) -> list[dict[str, Any]]:
    """The subtasks that the state asked for, one after another: kind, text, start, seconds and done.

    done: the teacher moved on from it, and not because something was lost; None where setbacks are not known.
    It is said of the agent as a whole, whoever is to blame, and also of one that writes no subtasks.
    """
    parts, back = teacher_timeline(record), setbacks(record)
    lost = {round(b["time"], 3) for b in back or ()}
    found = []
    for number, part in enumerate(parts):
        if part["text"] == DONE:
            continue
        after = parts[number + 1] if number + 1 < len(parts) else None
        done = bool(record["success"]) if after is None else round(after["start"], 3) not in lost
        seconds = part["end"] - part["start"]
        one = {"kind": kind(part["text"]), "text": part["text"], "start": part["start"], "seconds": seconds}
        found.append(one | {"done": None if back is None else done})
    return found


def kind(subtask: str) -> str:
    """A subtask without its colours: "put the red block in the blue bin" -> "put the block in the bin"."""
    return " ".join(word for word in subtask.split() if word not in COLORS)


def reason(record: Record) -> str | None:
    """Why it failed: one of REASONS by these rules, the first that holds; None if it did not, or is not
    judged."""
    if record.get("error") or record.get("failures"):
        return "software_error"
    if record["success"] is not False:
        return None
    parts = teacher_timeline(record)
    if not parts:
        return "timeout"
    end, wanted = duration(record), parts[-1]["text"]
    if planned(record):
        in_force = record["subtasks"][-1]["text"] if record["subtasks"] else ""
        if in_force == DONE and wanted != DONE:
            return "premature_done"
    if wanted == DONE:
        return "spoiled"
    if planned(record):
        looks = [x for x in record["looks"] if x["tick"] / hertz(record) >= end - LATELY and "agree" in x]
        if sum(not x["agree"] for x in looks) * 2 > len(looks):
            return "wrong_subtask"
    course = record.get("progress_steps") or [[0.0, 0.0]]
    gains = [b[0] for a, b in zip(course, course[1:], strict=False) if b[1] > a[1] + EPS]
    if end - max(parts[-1]["start"], *gains[-1:], 0.0) >= STUCK:
        return "controller_stuck"
    if any(b["time"] >= (gains[-1] if gains else 0.0) - EPS for b in setbacks(record) or ()):
        return "dropped"
    return "timeout"
