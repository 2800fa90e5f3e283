"""The columns that labels are kept in: what a data file says, and what it says with other labels.

subtask_index  with meta/subtasks.parquet, as LeRobot 0.4 reads it; a text "" stands for none
memory         a text
language_persistent, language_events    LeRobot's later form: the list of all that is said in an episode, the
               same in each of its rows, and what is said at one frame only
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from agent.recording.columns import scalar
from agent.recording.dataset import FOOTER
from backbone.errors import UserError
from training.annotate.segments import Segment, texts

PERSISTENT, EVENTS = "language_persistent", "language_events"
PLAIN = {"subtask_index": scalar("int64"), "memory": scalar("string")}
LANGUAGE = {name: scalar("language") for name in (PERSISTENT, EVENTS)}
Columns = Callable[[int, int], dict[str, "pa.Array | pa.ChunkedArray"]]
OURS = ("subtask", "memory")  # styles of rows that are labels; all others belong to somebody else

_FIRST = [
    pa.field("role", pa.string(), nullable=False),
    pa.field("content", pa.string()),
    pa.field("style", pa.string()),
]
_LAST = [pa.field("camera", pa.string()), pa.field("tool_calls", pa.list_(pa.string()))]
PERSISTENT_TYPE = pa.list_(pa.struct([*_FIRST, pa.field("timestamp", pa.float32(), nullable=False), *_LAST]))
EVENTS_TYPE = pa.list_(pa.struct([*_FIRST, *_LAST]))


class Labels:
    """What the rows of one data file say: `subtask`, `memory` (N,) texts of objects, "" for none."""

    def __init__(self, table: pa.Table, known: Mapping[int, str]):
        """table: the file's columns but pictures and numbers. known: subtasks by index."""
        self.table, count = table, len(table)
        self.episode = np.asarray(table["episode_index"].to_pylist(), np.int64)
        self.time = np.asarray(table["timestamp"].to_pylist(), np.float64).reshape(count)
        self.rows = {int(n): self._rows(int(n)) for n in np.unique(self.episode)}
        self.subtask, self.memory = (np.full(count, "", object) for _ in range(2))
        self._said = table[PERSISTENT] if PERSISTENT in table.column_names else None
        self.changed: set[int] = set()
        if "subtask_index" in table.column_names:
            self.subtask[:] = [known.get(i, "") for i in table["subtask_index"].to_pylist()]
        if "memory" in table.column_names:
            self.memory[:] = [text or "" for text in table["memory"].to_pylist()]
        for number, rows in self.rows.items():  # what only the later form says
            for style, column, values in (
                ("subtask", "subtask_index", self.subtask),
                ("memory", "memory", self.memory),
            ):
                if column not in table.column_names:
                    values[rows] = self._spoken(number, style)

    def _rows(self, number: int) -> np.ndarray:
        rows = np.flatnonzero(self.episode == number)
        return rows[np.argsort(self.time[rows], kind="stable")]

    def spoken(self, number: int) -> list[dict[str, Any]]:
        return [] if self._said is None else self._said[int(self.rows[number][0])].as_py() or []

    def _spoken(self, number: int, style: str) -> list[str]:
        """What was said last at each row of an episode."""
        said = [x for x in self.spoken(number) if x["style"] == style]
        said.sort(key=lambda x: x["timestamp"])
        last = (
            np.searchsorted([x["timestamp"] for x in said], self.time[self.rows[number]] + 1e-4, "right") - 1
        )
        return [(said[k]["content"] or "") if k >= 0 else "" for k in last]

    def put(self, number: int, segments: Sequence[Segment]) -> None:
        """Other labels for an episode. UserError where it has another number of frames."""
        rows, given = self.rows[number], texts(segments)
        if len(rows) != len(given[0]):
            raise UserError(f"annotate: expected {len(rows)} frames in episode {number}, got {len(given[0])}")
        for values, said in zip((self.subtask, self.memory), given, strict=True):
            if values[rows].tolist() != said:
                values[rows] = said
                self.changed.add(number)

    def written(self, language: bool) -> bool:
        """Whether the file says it already."""
        wanted = {*PLAIN, *(LANGUAGE if language else ())}
        return not self.changed and wanted <= set(self.table.column_names)

    def columns(self, index: Mapping[str, int], language: bool) -> Columns:
        """Columns by name, for rows from .. to. index: of the subtasks."""
        numbers = list(self.rows)
        place = {number: k for k, number in enumerate(numbers)}
        lists = [self._language(number) for number in numbers] if language else []
        lists = pa.array(lists, PERSISTENT_TYPE)
        no_events = EVENTS not in self.table.column_names

        def of(start: int, stop: int) -> dict[str, pa.Array]:
            rows = slice(start, stop)
            found = {
                "subtask_index": pa.array([index[text] for text in self.subtask[rows]], pa.int64()),
                "memory": pa.array(self.memory[rows].tolist(), pa.string()),
            }
            if language:
                found[PERSISTENT] = lists.take(pa.array([place[int(n)] for n in self.episode[rows]]))
                events = (
                    pa.array([[]] * (stop - start), EVENTS_TYPE) if no_events else self.table[EVENTS][rows]
                )
                found[EVENTS] = events
            return found

        return of

    def _language(self, number: int) -> list[dict[str, Any]]:
        """What is said in an episode: others' rows, and a row at each change of a label."""
        there = [_json(row) for row in self.spoken(number)]
        if there and number not in self.changed:
            return there
        rows = self.rows[number]
        said = [row for row in there if row["style"] not in OURS]
        for style, values in zip(OURS, (self.subtask[rows], self.memory[rows]), strict=True):
            for k, row in enumerate(rows):
                if values[k] != (values[k - 1] if k else ""):
                    at = {"role": "assistant", "content": values[k], "style": style}
                    said.append(at | {"timestamp": float(self.time[row]), "camera": None, "tool_calls": None})
        return sorted(said, key=lambda x: (x["timestamp"], x["style"] or "", x["role"]))


def _json(row: dict[str, Any]) -> dict[str, Any]:
    """With calls of tools as text, however they were written."""
    calls = row.get("tool_calls")
    return row | {"tool_calls": calls and [c if isinstance(c, str) else json.dumps(c) for c in calls]}


def merged(table: pa.Table, columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Table:
    """A table with these columns: in their old places, or behind the others."""
    for name, column in columns.items():
        there = table.schema.get_field_index(name)
        field = pa.field(name, column.type)
        table = table.append_column(field, column) if there < 0 else table.set_column(there, field, column)
    return table


def described(
    metadata: Mapping[bytes, bytes] | None, language: bool, known: Sequence[str]
) -> dict[bytes, bytes]:
    """A file's own notes about its columns, brought up to date: those of Hugging Face's datasets, and ours,
    which hold the table of subtasks too (agent/recording/dataset.py).
    """
    metadata = dict(metadata or {})
    if b"huggingface" in metadata:
        text = {"dtype": "string", "_type": "Value"}
        try:
            about = json.loads(metadata[b"huggingface"])
            features = about["info"]["features"]
            features |= {"subtask_index": {"dtype": "int64", "_type": "Value"}, "memory": text}
            if language:  # its type is told by the data
                features = {name: f for name, f in features.items() if name not in LANGUAGE}
            about["info"]["features"] = features
            metadata[b"huggingface"] = json.dumps(about).encode()
        except (ValueError, KeyError, TypeError):
            del metadata[b"huggingface"]
    if FOOTER in metadata:
        footer = json.loads(metadata[FOOTER])
        footer["subtasks"] = {text: k for k, text in enumerate(known)}
        metadata[FOOTER] = json.dumps(footer).encode()
    return metadata
