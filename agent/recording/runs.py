"""Runs on disk: a LeRobot v3 dataset in which every frame also says which subtask and memory were in force,
how sure the planner was, who planned, who acted and what happened; and every episode, how to run it again.

An episode is kept in memory, its pictures as PNG, until it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from agent.recording.columns import COUNTED, IMAGES, Layout, encode_png, named, pictures, scalar
from agent.recording.dataset import RUNS, EpisodeWriter, data_path, numbers, read_footers
from agent.recording.recording import Frame, Run
from agent.recording.statistics import describe_pixels
from agent.step import Step
from backbone.errors import UserError
from highlevel.plan import Target, parse_plan_text

STATISTICS_EVERY = 8  # frames; of every fourth pixel each way
NOWHERE = (-1.0, -1.0)
INTERVENTION = "intervention"


class Busy(UserError):
    """Another process writes there."""


class Runs(EpisodeWriter):
    """The runs in a folder. Busy where another process writes there, UserError where something else is."""

    kind = RUNS

    def __init__(self, root: str | Path, layout: Layout | None = None):
        self._lock = None
        root = Path(root)
        try:
            root.mkdir(parents=True, exist_ok=True)
            lock = os.open(root, os.O_RDONLY)
        except OSError as error:
            raise UserError(
                f"record: expected a folder to write in, got '{root}' ({error.strerror})"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back by the system when we end
        except OSError:
            os.close(lock)
            raise Busy(f"record: another run is writing in '{root}'; choose another folder") from None
        self._lock = lock
        try:
            there = pq.read_schema(first).names if (first := data_path(root, 0)).exists() else []
            if "planned_by" in there and INTERVENTION not in there:
                raise UserError(
                    f"record: expected runs with a column '{INTERVENTION}' (who had the arm), got older ones "
                    f"in '{root}'; choose another folder"
                )
            super().__init__(root, layout)
        except BaseException:
            self.unlock()
            raise

    @staticmethod
    def columns(layout: Layout) -> dict[str, dict[str, Any]]:
        return pictures(layout) | {
            "observation.state": named(layout.state),
            "action": named(layout.action),  # as it was sent, after safety
            "target": named(("y", "x")),  # of the subtask, in the front camera, or -1
            "subtask_index": scalar("int64"),
            "memory": scalar("string"),
            "margin": scalar("float32"),
            "planned_by": scalar("string"),  # the plan's origin: decoded, confirmed, person, oracle, ...
            "acted_by": scalar("string"),  # the controller, "person" or "held"
            INTERVENTION: scalar("bool"),  # a person had the arm
            "looked": scalar("bool"),
            "events": scalar("string"),  # a JSON list
            "why": scalar("string"),  # a JSON list: what called for this tick's plan
            "next.reward": scalar("float32"),  # gain of progress
            "next.success": scalar("bool"),
            "next.done": scalar("bool"),
            **COUNTED,
        }

    def settle(self, layout: Layout) -> None:
        """The frames to come are like this. UserError where those that are there are not."""
        if not self.episodes:
            self.layout, self.features = layout, self.columns(layout)
        if self.layout != layout:
            had = self.layout.robot
            raise UserError(f"record: expected frames of {had} as in {self.root}, got {layout.robot}")

    def row(self, footer: Mapping[str, Any]) -> dict[str, Any]:
        return {"run": json.dumps(footer["run"]), "interventions": footer.get("interventions", 0)}

    def write(self, *given: Any) -> None:
        if self._lock is None:
            raise UserError(f"dataset: {self.root} is closed")
        super().write(*given)
        self.write_meta()  # so that it can be read whatever happens next

    def close(self) -> None:
        if self._lock is not None:
            try:
                super().close()
            finally:
                self.unlock()

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def row_of(frame: Frame, actor: str) -> dict[str, Any]:
    """What a frame says of itself, by column; `subtask` and `instruction` are texts here."""
    step, plan = frame.step, frame.step.plan
    words, place = _told(step)
    return {
        "observation.state": np.asarray(frame.state, np.float32),
        "action": np.asarray(frame.action, np.float32),
        "target": np.array(NOWHERE if place is None else (place.y, place.x), np.float32),
        "subtask": words,
        "instruction": frame.instruction,
        "memory": "" if plan is None else plan.memory,
        "margin": np.float32(0.0 if plan is None else plan.margin),
        "planned_by": "" if plan is None else plan.origin,
        "acted_by": "held" if "held" in step.events else "person" if step.person else actor,
        INTERVENTION: bool(step.person),
        "looked": bool(step.looked),
        "events": json.dumps(list(step.events)),
        "why": json.dumps(list(step.why)),
        "next.success": bool(frame.success),
    }


def _told(step: Step) -> tuple[str, Target | None]:
    """Words and place of the subtask that the action was made for: a late chunk's is not the plan's."""
    if step.plan is not None and step.subtask == step.plan.text:
        return step.plan.subtask, step.plan.target
    try:
        return parse_plan_text(step.subtask)
    except UserError:
        return step.subtask, None


class RunWriter:
    """A `Writer` of one run after another. runs: a folder, or one that several of a process write in. who:
    what is the same for all its runs, JSON-ready: `settings` and `checkpoint_sha256` are what it takes to run
    the agent again (`agent.evaluation.recorded.who`).
    """

    name, pictures = "dataset", True

    def __init__(self, runs: str | Path | Runs, who: Mapping[str, Any] | None = None):
        self._who = dict(who or {})
        self._runs = runs if isinstance(runs, Runs) else Runs(runs)  # a mistake is told before anything runs
        self._actor = self._who.get("settings", {}).get("controller", "")
        self._pool: ThreadPoolExecutor | None = None
        self.drop()

    def begin(self, run: Run) -> None:
        self._runs.settle(run.layout)
        self.drop()
        self._run = run

    def add(self, frame: Frame) -> None:
        images = frame.images
        if images is None and not self._rows:
            raise UserError("expected pictures with the first frame, got none")
        for name in self._run.layout.cameras:
            kept = self._images.setdefault(name, [])
            if images is None:  # what was seen last
                kept.append(kept[-1])
                continue
            picture = np.array(images[name])  # a copy: who gave it may use it again
            if len(self._rows) % STATISTICS_EVERY == 0:
                self._some.setdefault(name, []).append(picture[::4, ::4])
            self._pool = self._pool or ThreadPoolExecutor(1, "png")
            kept.append(self._pool.submit(encode_png, picture))
        self._rows.append(row_of(frame, self._actor))
        self._progress.append(float(frame.progress))
        self._after = frame.after

    def told(self, what: str, text: str) -> None:
        self._inputs.append({"tick": len(self._rows), "what": what, "text": text})

    def end(self) -> None:
        run, rows, count = self._run, self._rows, len(self._rows)
        if run is None or not count:
            return self.drop()
        values: dict[str, Any] = {f"{IMAGES}{n}": [f.result() for f in fs] for n, fs in self._images.items()}
        for name in rows[0]:
            if name not in ("subtask", "instruction"):
                values[name] = [row[name] for row in rows]
        values["next.reward"] = np.diff([run.progress, *self._progress])
        values["next.done"] = np.arange(count) == count - 1
        instruction, subtask = ([row[name] for row in rows] for name in ("instruction", "subtask"))
        success = bool(rows[-1]["next.success"])
        about = {"seed": run.seed, "suite": run.suite, "family": run.family, "success": success}
        about["interventions"] = sum(row[INTERVENTION] for row in rows)  # frames
        about["run"] = self._who | {
            "instruction": run.instruction,
            "asked": run.asked,
            "after": run.after,
            "initial_state": run.initial_state,
            "state_id": run.state_id,
            "judged": run.judged,
            "progress": self._progress[-1],
            "end_state": None if self._after is None else np.asarray(self._after, float).tolist(),
            "instructions": [
                {"tick": t, "text": instruction[t]}
                for t in range(count)
                if t == 0 or instruction[t] != instruction[t - 1]
            ],
            "inputs": self._inputs,
        }
        stats = {name: describe_pixels(np.stack(some)) for name, some in self._some.items()}
        self._runs.write(values, instruction, subtask, about, stats)
        self.drop()

    def drop(self) -> None:
        self._run: Run | None = None
        self._rows: list[dict[str, Any]] = []
        self._images: dict[str, list[Future[bytes]]] = {}
        self._some: dict[str, list[np.ndarray]] = {}
        self._progress: list[float] = []
        self._inputs: list[dict[str, Any]] = []
        self._after: np.ndarray | None = None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        self._runs.close()


class RunReader:
    """Recorded runs, whether or not the dataset was finalised. UserError where there are none."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.episodes = read_footers(self.root, RUNS)
        if not self.episodes:
            raise UserError(f"dataset: expected recorded runs in {self.root}, found none")

    def __len__(self) -> int:
        return len(self.episodes)

    def rows(self, number: int) -> list[dict[str, Any]]:
        """The frames of an episode as `row_of` made them."""
        footer, path = self.episodes[number], data_path(self.root, number)
        names = [n for n in pq.read_schema(path).names if not n.startswith(IMAGES)]
        table = pq.read_table(path, columns=names)
        tasks, subtasks = ({i: text for text, i in footer[name].items()} for name in ("tasks", "subtasks"))
        columns: dict[str, Any] = {
            name: numbers(table[name]).astype(np.float32)
            for name in ("observation.state", "action", "target")
        }
        columns["margin"] = numbers(table["margin"])[:, 0].astype(np.float32)
        for name in ("memory", "planned_by", "acted_by", "looked", "events", "why", "next.success"):
            columns[name] = table[name].to_pylist()
        columns[INTERVENTION] = [False] * footer["length"]  # runs of before it was told
        if INTERVENTION in names:
            columns[INTERVENTION] = table[INTERVENTION].to_pylist()
        columns["subtask"] = [subtasks[i] for i in table["subtask_index"].to_pylist()]
        columns["instruction"] = [tasks[i] for i in table["task_index"].to_pylist()]
        return [{name: values[t] for name, values in columns.items()} for t in range(footer["length"])]
