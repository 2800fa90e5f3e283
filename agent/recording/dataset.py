"""Episodes on disk in the LeRobot v3 layout, safe against a kill at any moment.

    data/chunk-000/file-000.parquet      one episode a file, pictures as PNG bytes in the rows
    meta/info.json  stats.json  tasks.parquet  subtasks.parquet  episodes/chunk-000/file-000.parquet

An episode is written under a temporary name and renamed, and its file carries in its own footer all that the
tables under meta/ say about it. So meta/ can always be made again from the files that are there: a dataset
cut off midway is one that has not been finalised yet, never a broken one.

What the columns are is said by who writes: demonstrations in training/dataset.py, runs in runs.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from agent.recording.columns import IMAGES, TABLETOP, Layout
from agent.recording.statistics import describe, pool
from backbone.errors import UserError

VERSION = "v3.0"  # LeRobot's CODEBASE_VERSION in 0.4.x and later
CHUNK = 1000  # files in one chunk directory
FOOTER = b"steersman.episode"
DEMONSTRATIONS, RUNS = "demonstrations", "runs"  # what the episodes of a dataset are


def _column(feature: Mapping[str, Any], values: Any) -> pa.Array:
    dtype, shape = feature["dtype"], feature["shape"]
    if dtype == "image":
        rows = [{"bytes": data, "path": None} for data in values]
        return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    if dtype == "string":
        return pa.array(list(values), pa.string())
    array = np.ascontiguousarray(values, dtype=dtype)
    if shape == [1]:
        return pa.array(
            array.reshape(-1), pa.bool_() if dtype == "bool" else pa.from_numpy_dtype(array.dtype)
        )
    if array.shape[1:] != tuple(shape):
        raise UserError(f"dataset: expected frames of shape {tuple(shape)}, got {array.shape[1:]}")
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), shape[0])


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write(temporary)` and rename: readers see the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
    except OSError:  # a full disk: leave it no fuller
        temporary.unlink(missing_ok=True)
        raise
    os.replace(temporary, path)


def _place(number: int) -> tuple[int, int]:
    return number // CHUNK, number % CHUNK


def data_path(root: Path, number: int) -> Path:
    chunk, file = _place(number)
    return root / f"data/chunk-{chunk:03d}/file-{file:03d}.parquet"


class _Texts:
    """Text <-> index, in order of first appearance."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.index.setdefault(text, len(self.index))

    def merge(self, table: Mapping[str, int]) -> None:
        for text, index in table.items():
            if self.index.setdefault(text, index) != index:
                known = self.index[text]
                raise UserError(f"dataset: expected one index for {text!r}, got {known} and {index}")

    def table(self, column: str, index_name: str) -> pa.Table:
        return text_table(sorted(self.index, key=self.index.__getitem__), column, index_name)


def text_table(texts: Sequence[str], column: str, index_name: str) -> pa.Table:
    """Texts ordered by their index (LeRobot looks up by row position), as pandas' index."""
    table = pa.table({column: pa.array(range(len(texts)), pa.int64()), index_name: list(texts)})
    kinds = {column: ("int64", "int64"), index_name: ("unicode", "object")}
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
        for name, (kind, numpy) in kinds.items()
    ]
    columns[1]["name"] = None if index_name == "__index_level_0__" else index_name
    pandas = {
        "index_columns": [index_name],
        "column_indexes": [],
        "columns": columns,
        "pandas_version": "2.0.0",
    }
    return table.replace_schema_metadata({b"pandas": json.dumps(pandas).encode()})


def read_footers(root: Path, kind: str) -> list[dict[str, Any]]:
    """The footers of the whole episodes under `root`, in order. By design there are no gaps. kind: what the
    episodes have to be."""
    footers = []
    while (path := data_path(root, len(footers))).exists():
        metadata = pq.read_schema(path).metadata or {}
        if FOOTER not in metadata:
            raise UserError(f"dataset: expected an episode written by this program, got {path}")
        footers.append(json.loads(metadata[FOOTER]))
    if footers and (got := footers[0].get("kind", DEMONSTRATIONS)) != kind:
        raise UserError(f"dataset: expected {kind} in {root}, got {got}")
    return footers


class EpisodeWriter:
    """Adds episodes to `root`, from scratch or after what is there. One writer a dataset; `close` when done.

    A kill leaves whole episodes and perhaps an old meta/; opening a writer renews it.
    layout: of its frames, by default that of the episodes that are there, or the tabletop's.
    """

    kind: str  # of episodes

    def __init__(self, root: str | Path, layout: Layout | None = None):
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        for leftover in self.root.glob("**/.*.tmp"):
            leftover.unlink()
        self.episodes = read_footers(self.root, self.kind)
        there = layout or TABLETOP
        if self.episodes:
            said = self.episodes[0].get("layout")
            there = TABLETOP if said is None else Layout.from_dict(said)
        self.layout = layout or there
        if self.layout != there:
            got = f"{self.layout.robot} with state {len(self.layout.state)}, action {len(self.layout.action)}"
            raise UserError(f"dataset: expected frames of {there.robot} as in {self.root}, got {got}")
        self.features = self.columns(self.layout)
        self.tasks, self.subtasks = _Texts(), _Texts()
        for footer in self.episodes:
            self.tasks.merge(footer["tasks"])
            self.subtasks.merge(footer["subtasks"])
        if self.episodes:
            self.write_meta()

    @staticmethod
    def columns(layout: Layout) -> dict[str, dict[str, Any]]:
        """The features of its frames."""
        raise NotImplementedError

    @property
    def frames(self) -> int:
        return self.episodes[-1]["to"] if self.episodes else 0

    def write(
        self,
        values: Mapping[str, Any],
        instruction: Sequence[str],
        subtask: Sequence[str],
        about: Mapping[str, Any],
        image_stats: Mapping[str, Any],
    ) -> None:
        """Write one episode: there whole after this call, absent before.

        values: the columns but those that are counted here. instruction, subtask: of each frame. about: what
        its footer says besides. image_stats: by camera.
        """
        length, number, start = len(instruction), len(self.episodes), self.frames
        if length == 0:
            raise UserError("dataset: expected at least one frame in an episode, got 0")
        values = dict(values) | {
            "subtask_index": [self.subtasks(s) for s in subtask],
            "timestamp": np.arange(length) / self.layout.fps,
            "frame_index": np.arange(length),
            "episode_index": np.full(length, number),
            "index": np.arange(start, start + length),
            "task_index": [self.tasks(t) for t in instruction],
        }
        if set(values) != set(self.features):
            raise UserError(f"dataset: expected columns {sorted(self.features)}, got {sorted(values)}")
        if any(len(v) != length for v in values.values()):
            got = {name: len(v) for name, v in values.items()}
            raise UserError(f"dataset: expected {length} rows in every column, got {got}")
        stats = {
            name: describe(np.asarray(values[name], np.float64).reshape(length, -1))
            for name, feature in self.features.items()
            if feature["dtype"] not in ("image", "string")
        }
        stats |= {f"{IMAGES}{name}": s for name, s in image_stats.items()}
        footer = dict(about) | {
            "length": length,
            "from": start,
            "to": start + length,
            "tasks": {t: self.tasks(t) for t in instruction},
            "subtasks": {s: self.subtasks(s) for s in subtask},
            "layout": self.layout.to_dict(),
            "stats": stats,
        }
        footer |= {} if self.kind == DEMONSTRATIONS else {"kind": self.kind}
        table = pa.table({name: _column(feature, values[name]) for name, feature in self.features.items()})
        table = table.replace_schema_metadata({FOOTER: json.dumps(footer).encode()})
        # One row group an episode; pictures are compressed already, so only the cheap codec.
        _replace(data_path(self.root, number), lambda path: pq.write_table(table, path, compression="snappy"))
        self.episodes.append(footer)

    def write_meta(self) -> None:
        """Everything under meta/ but stats.json, from the footers."""
        meta = self.root / "meta"
        info = {
            "codebase_version": VERSION,
            "robot_type": self.layout.robot,
            "total_episodes": len(self.episodes),
            "total_frames": self.frames,
            "total_tasks": len(self.tasks.index),
            "chunks_size": CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self.layout.fps,
            "splits": {"train": f"0:{len(self.episodes)}"},
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": None,
            "features": self.features,
        }
        tasks = self.tasks.table("task_index", "__index_level_0__")
        subtasks = self.subtasks.table("subtask_index", "subtask")
        _replace(meta / "tasks.parquet", lambda path: pq.write_table(tasks, path))
        _replace(meta / "subtasks.parquet", lambda path: pq.write_table(subtasks, path))
        rows = [self._episode_row(n, e) | self.row(e) for n, e in enumerate(self.episodes)]
        episodes = pa.Table.from_pylist(rows)
        _replace(meta / "episodes/chunk-000/file-000.parquet", lambda path: pq.write_table(episodes, path))
        _replace(meta / "info.json", lambda path: path.write_text(json.dumps(info, indent=2)))

    def row(self, footer: Mapping[str, Any]) -> dict[str, Any]:
        """What meta/episodes says of an episode besides."""
        return {}

    @staticmethod
    def _episode_row(number: int, footer: Mapping[str, Any]) -> dict[str, Any]:
        chunk, file = _place(number)
        row = {
            "episode_index": number,
            "tasks": list(footer["tasks"]),
            "length": footer["length"],
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": footer["from"],
            "dataset_to_index": footer["to"],
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        } | {name: footer[name] for name in ("seed", "suite", "family", "success")}
        stats = footer["stats"].items()
        return row | {f"stats/{name}/{stat}": v for name, values in stats for stat, v in values.items()}

    def close(self) -> None:
        """Bring meta/ up to date with statistics over all frames, exact but for the pictures' quantiles."""
        if not self.episodes:
            return
        self.write_meta()
        plain = [n for n, f in self.features.items() if f["dtype"] not in ("image", "string")]
        tables = (pq.read_table(data_path(self.root, n), columns=plain) for n in range(len(self.episodes)))
        columns: dict[str, list[np.ndarray]] = {name: [] for name in plain}
        for table in tables:
            for name in plain:
                columns[name].append(numbers(table[name]))
        stats = {name: describe(np.concatenate(parts)) for name, parts in columns.items()}
        for name, feature in self.features.items():
            if feature["dtype"] == "image":
                parts = [e["stats"][name] for e in self.episodes if name in e["stats"]]
                stats |= {name: pool(parts)} if parts else {}
        _replace(self.root / "meta/stats.json", lambda path: path.write_text(json.dumps(stats, indent=1)))

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A numeric column as (T, D)."""
    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)
    return array.to_numpy(zero_copy_only=False).reshape(len(array), 1)
