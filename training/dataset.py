"""Demonstrations on disk in the LeRobot v3 layout, safe against a kill at any moment.

    data/chunk-000/file-000.parquet      one episode a file, pictures as PNG bytes in the rows
    meta/info.json  stats.json  tasks.parquet  subtasks.parquet  episodes/chunk-000/file-000.parquet

An episode is written under a temporary name and renamed, and its file carries in its own footer all that the
tables under meta/ say about it. So meta/ can always be made again from the files that are there: a dataset
cut off midway is one that has not been finalised yet, never a broken one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from backbone.errors import UserError
from training.episodes import TABLETOP, Episode, Layout, episode_key, features
from training.statistics import describe, pool

VERSION = "v3.0"  # LeRobot's CODEBASE_VERSION in 0.4.x and later
CHUNK = 1000  # files in one chunk directory
FOOTER = b"steersman.episode"


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


def _replace(path: Path, write) -> None:
    """Call `write(temporary)` and rename: readers see the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write(temporary)
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
        """Rows ordered by index (LeRobot looks up by row position), with texts as the pandas index."""
        texts = sorted(self.index, key=self.index.__getitem__)
        table = pa.table({column: pa.array(range(len(texts)), pa.int64()), index_name: texts})
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


def read_footers(root: Path) -> list[dict[str, Any]]:
    """The footers of the whole episodes under `root`, in order. By design there are no gaps."""
    footers = []
    while (path := data_path(root, len(footers))).exists():
        metadata = pq.read_schema(path).metadata or {}
        if FOOTER not in metadata:
            raise UserError(f"dataset: expected an episode written by this program, got {path}")
        footers.append(json.loads(metadata[FOOTER]))
    return footers


class DatasetWriter:
    """Adds episodes to `root`, from scratch or after what is there. One writer a dataset; `close` when done.

    A kill leaves whole episodes and perhaps an old meta/; opening a writer (or `repair`) renews it.
    layout: of its frames, by default that of the episodes that are there, or the tabletop's.
    """

    def __init__(self, root: str | Path, layout: Layout | None = None):
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        for leftover in self.root.glob("**/.*.tmp"):
            leftover.unlink()
        self.episodes = read_footers(self.root)
        there = layout or TABLETOP
        if self.episodes:
            said = self.episodes[0].get("layout")
            there = TABLETOP if said is None else Layout.from_dict(said)
        self.layout = layout or there
        if self.layout != there:
            got = f"{self.layout.robot} with state {len(self.layout.state)}, action {len(self.layout.action)}"
            raise UserError(f"dataset: expected frames of {there.robot} as in {self.root}, got {got}")
        self.features = features(self.layout)
        self.tasks, self.subtasks = _Texts(), _Texts()
        for footer in self.episodes:
            self.tasks.merge(footer["tasks"])
            self.subtasks.merge(footer["subtasks"])
        if self.episodes:
            self.write_meta()

    @property
    def keys(self) -> set[str]:
        return {episode_key(e["suite"], e["family"], e["seed"]) for e in self.episodes}

    @property
    def frames(self) -> int:
        return self.episodes[-1]["to"] if self.episodes else 0

    def add(self, episode: Episode) -> None:
        """Write one episode: there whole after this call, absent before."""
        length, number, start = len(episode), len(self.episodes), self.frames
        if length == 0:
            raise UserError("dataset: expected at least one frame in an episode, got 0")
        values: dict[str, Any] = {
            f"observation.images.{name}": pictures for name, pictures in episode.images.items()
        } | {
            "observation.state": episode.state,
            "action": episode.action,
            "action_executed": episode.action_executed,
            "target": episode.target,
            "driver": episode.driver,
            "subtask_index": [self.subtasks(s) for s in episode.subtask],
            "memory": episode.memory,
            "next.success": episode.success,
            "timestamp": np.arange(length) / self.layout.fps,
            "frame_index": np.arange(length),
            "episode_index": np.full(length, number),
            "index": np.arange(start, start + length),
            "task_index": [self.tasks(t) for t in episode.instruction],
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
        stats |= {f"observation.images.{name}": s for name, s in episode.image_stats.items()}
        footer = {
            "seed": episode.seed,
            "suite": episode.suite,
            "family": episode.family,
            "length": length,
            "from": start,
            "to": start + length,
            "success": bool(episode.success[-1]),
            "tasks": {t: self.tasks(t) for t in episode.instruction},
            "subtasks": {s: self.subtasks(s) for s in episode.subtask},
            "layout": self.layout.to_dict(),
            "stats": stats,
        }
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
        episodes = pa.Table.from_pylist([self._episode_row(n, e) for n, e in enumerate(self.episodes)])
        _replace(meta / "episodes/chunk-000/file-000.parquet", lambda path: pq.write_table(episodes, path))
        _replace(meta / "info.json", lambda path: path.write_text(json.dumps(info, indent=2)))

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
        numbers = [n for n, f in self.features.items() if f["dtype"] not in ("image", "string")]
        tables = (pq.read_table(data_path(self.root, n), columns=numbers) for n in range(len(self.episodes)))
        columns: dict[str, list[np.ndarray]] = {name: [] for name in numbers}
        for table in tables:
            for name in numbers:
                columns[name].append(_numbers(table[name]))
        stats = {name: describe(np.concatenate(parts)) for name, parts in columns.items()}
        for name, feature in self.features.items():
            if feature["dtype"] == "image":
                parts = [e["stats"][name] for e in self.episodes if name in e["stats"]]
                stats |= {name: pool(parts)} if parts else {}
        _replace(self.root / "meta/stats.json", lambda path: path.write_text(json.dumps(stats, indent=1)))

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def repair(root: str | Path) -> None:
    """Make meta/ fit the episodes that are there (after a kill)."""
    DatasetWriter(root).close()


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A numeric column as (T, D)."""
    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)
    return array.to_numpy(zero_copy_only=False).reshape(len(array), 1)


class DatasetReader:
    """Episodes of a dataset written here, whether or not it was finalised."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.episodes = read_footers(self.root)
        if not self.episodes:
            raise UserError(f"dataset: expected data/chunk-000/file-000.parquet under {self.root}, got none")

    def __len__(self) -> int:
        return len(self.episodes)

    def read(self, number: int, images: bool = True, rows: np.ndarray | None = None) -> Episode:
        """Episode `number`, without its pictures if not `images`, or with the pictures of `rows` only."""
        footer, path = self.episodes[number], data_path(self.root, number)
        names = [n for n in pq.read_schema(path).names if images or not n.startswith("observation.images.")]
        table = pq.read_table(path, columns=names)
        tasks = {index: text for text, index in footer["tasks"].items()}
        subtasks = {index: text for text, index in footer["subtasks"].items()}
        pictures = {
            n.removeprefix("observation.images."): [
                row["bytes"] for row in (table[n] if rows is None else table[n].take(rows)).to_pylist()
            ]
            for n in names
            if n.startswith("observation.images.")
        }
        return Episode(
            seed=footer["seed"],
            suite=footer["suite"],
            family=footer["family"],
            images=pictures,
            state=_numbers(table["observation.state"]),
            action=_numbers(table["action"]),
            action_executed=_numbers(table["action_executed"]),
            target=_numbers(table["target"]),
            driver=_numbers(table["driver"])[:, 0],
            success=_numbers(table["next.success"])[:, 0].astype(bool),
            instruction=[tasks[i] for i in table["task_index"].to_pylist()],
            subtask=[subtasks[i] for i in table["subtask_index"].to_pylist()],
            memory=table["memory"].to_pylist(),
        )
