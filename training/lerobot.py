"""LeRobot v3 datasets, whoever recorded them: numbers and texts in memory, pictures when they are asked for.

    meta/info.json  tasks.parquet  [subtasks.parquet]  episodes/**.parquet
    data/**.parquet       rows of all episodes, several in a file; pictures as PNG or JPEG bytes in them
    videos/KEY/**.mp4     or as videos, several episodes in a file

Besides what LeRobot knows (observation.images.*, observation.state, action, task_index) these columns are
read where they are: subtask_index, memory (a text), target (y and x in [0, 1), -1: none), driver (who acted;
see training/labels.py), acted_by and intervention (training/taught.py), and speed, quality, mistake, robot,
control. LeRobot's later `language_persistent`
gives subtasks and memories too.
"""

from __future__ import annotations

import io
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from agent.recording.runs import INTERVENTION
from backbone.errors import UserError
from backbone.prompts import METADATA
from training.taught import BY_PERSON, moving, stretches
from training.video import Videos

IMAGES = "observation.images."
VIDEOS = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
UNDER_WAY = "meta/annotations.renaming.json"  # is there while labels are put in place (training/annotate/)
KEPT = 512 * 2**20  # bytes of pictures' columns kept, still encoded
FIELDS = tuple(name.lower() for name in METADATA)


@dataclass(frozen=True)
class Texts:
    """A text for every row: ids (N,) into `table`, -1 for none."""

    table: tuple[str, ...]
    ids: np.ndarray

    def __getitem__(self, row: int) -> str:
        return self.table[self.ids[row]] if self.ids[row] >= 0 else ""

    @classmethod
    def of(cls, values: Iterable[str | None]) -> Texts:
        index: dict[str, int] = {}
        ids = [-1 if not v else index.setdefault(v, len(index)) for v in values]
        return cls(tuple(index), np.array(ids, np.int32))


class LeRobotDataset:
    """A dataset opened for training.

    state (N, D), action (N, A) float32 and None where there are none; timestamp (N,) seconds in the episode;
    episode (N,) counts from 0 and begins at row `first[episode]`; `numbers` are the episodes' own. task,
    subtask and memory are `Texts`, or None; target (N, 2), driver (N,) or None; metadata {field: N values}.
    own: it is of an agent's own runs; then it has those that were solved and those in which a person drove.
    shown: (N,) bool, the frames that a person drove, of runs in which an agent did too; None in other
    datasets. teaches: (N,) bool, which frames are to be learnt from; None is all.
    UserError tells in a line what cannot be read. root: a directory or a hub id (owner/name).
    """

    def __init__(self, root: str | Path):
        self.root = find(root)
        self.name = Path(root).name or self.root.resolve().name
        self.info = self._info()
        self.features: dict[str, dict[str, Any]] = self.info["features"]
        self.fps = float(self.info["fps"])
        pictures = {n: f["dtype"] for n, f in self.features.items() if f["dtype"] in ("image", "video")}
        self._keys = {name.removeprefix(IMAGES): name for name in pictures}
        self._films = {name for name, dtype in pictures.items() if dtype == "video"}
        self.cameras = tuple(self._keys)
        self.own = "planned_by" in self.features
        self._episodes = self._table_of_episodes()
        self._read_rows()
        self._videos, self._lock = Videos(), threading.Lock()
        self._columns: OrderedDict[tuple, pa.ChunkedArray] = OrderedDict()
        self._starts: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.episode)

    def rows(self, row: int) -> tuple[int, int]:
        """First row of the episode that a row is in, and the one after its last."""
        episode = self.episode[row]
        return int(self.first[episode]), int(self.first[episode + 1])

    def end(self, row: int) -> int:
        """The row behind the last that goes on from this one: of its episode, or of what a person showed."""
        return self.rows(row)[1] if self._until is None else int(self._until[row])

    # --- meta -----------------------------------------------------------------------------------------------

    def _info(self) -> dict[str, Any]:
        path = self.root / "meta/info.json"
        try:
            info = json.loads(path.read_text())
            version = str(info["codebase_version"])
            if not all(key in info for key in ("fps", "features", "data_path")):
                raise KeyError("fps, features, data_path")
        except OSError as error:
            raise UserError(
                f"dataset: expected a LeRobot v3 dataset in {self.root}, found no {path}"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"dataset: {path} does not describe a dataset ({error})") from error
        if (self.root / UNDER_WAY).exists():
            raise UserError(f"dataset: labels of {self.root} are half in place; steersman annotate ends that")
        if not version.startswith("v3."):
            known = "; LeRobot converts v2.1" if version.startswith("v2") else ""
            raise UserError(f"dataset: expected LeRobot v3.0 in {self.root}, got {version}{known}")
        return info

    def _table_of_episodes(self) -> list[dict[str, Any]]:
        files = sorted((self.root / "meta/episodes").glob("**/*.parquet"))
        if not files:
            raise UserError(f"dataset: expected meta/episodes/**.parquet in {self.root}, found none")
        rows: list[dict[str, Any]] = []
        for file in files:
            names = [n for n in _schema(file).names if not n.startswith("stats/")]
            rows += _read(file, names).to_pylist()
        rows.sort(key=lambda row: row["episode_index"])
        if self.own:
            rows = [row for row in rows if row.get("success") or row.get("interventions")]
            if not rows:
                kind = "solved runs, or some in which a person drove,"
                raise UserError(f"dataset: expected {kind} in {self.root}, found none")
        return rows

    def _names(self, file: str, index: str) -> dict[int, str]:
        """A table of texts under meta/: pandas wrote it, with the texts as its index."""
        path = self.root / "meta" / file
        if not path.is_file():
            return {}
        table = _read(path)
        texts = next((n for n in table.column_names if n != index), None)
        if texts is None or index not in table.column_names:
            raise UserError(f"dataset: expected a text and '{index}' in {path}, got {table.column_names}")
        return dict(zip(table[index].to_pylist(), table[texts].to_pylist(), strict=True))

    # --- rows -----------------------------------------------------------------------------------------------

    def _read_rows(self) -> None:
        table = self._table()
        number, frame = (_numbers(table[name], name)[:, 0] for name in ("episode_index", "timestamp"))
        table = table.take(np.lexsort((frame, number)))

        def column(name: str, dtype: type = np.float32) -> np.ndarray | None:
            return _numbers(table[name], name).astype(dtype) if name in table.column_names else None

        self._origin = np.concatenate([column("file", int), column("place", int)], 1)
        places = np.unique(column("episode_index", int), return_index=True, return_inverse=True)
        self.numbers, first, episode = places
        self.first, self.episode = np.append(first, len(table)), episode.ravel()
        by_number = {e["episode_index"]: e for e in self._episodes}
        self._episodes = [by_number[n] for n in self.numbers]
        self.timestamp = column("timestamp", np.float64)[:, 0]
        self.state, self.action = column("observation.state"), column("action")
        for name, values in (("observation.state", self.state), ("action", self.action)):
            if values is not None and not np.isfinite(values).all():
                raise UserError(f"dataset: expected finite numbers in '{name}' of {self.root}, got others")
        self.task = self._said("task_index", column("task_index", np.int64), "tasks.parquet")
        self.subtask = self._said("subtask_index", column("subtask_index", np.int64), "subtasks.parquet")
        self.memory = Texts.of(table["memory"].to_pylist()) if "memory" in table.column_names else None
        self.target, driver = column("target"), column("driver", np.int64)
        self.driver = None if driver is None else driver[:, 0]
        self.shown = self.teaches = self._until = None
        if self.own:
            self._tell_apart(np.array(table["acted_by"].to_pylist()) == BY_PERSON)
        elif (flags := column(INTERVENTION, bool)) is not None and flags.any():
            self._tell_apart(flags[:, 0])
        self.metadata = {name: table[name].to_pylist() for name in FIELDS if name in table.column_names}
        if "language_persistent" in table.column_names:  # the same in every row of an episode
            spoken = table["language_persistent"].take(first).to_pylist()
            self.subtask = self.subtask or self._spoken(spoken, "subtask")
            self.memory = self.memory or self._spoken(spoken, "memory")

    def _tell_apart(self, person: np.ndarray) -> None:
        """What a person showed, what else may be learnt from (of our runs what the agent solved by itself),
        and how far each goes on.
        """
        self.shown, self.teaches = np.zeros(len(person), bool), np.zeros(len(person), bool)
        self._until = np.zeros(len(person), np.int64)
        for n, episode in enumerate(self._episodes):
            first, last = int(self.first[n]), int(self.first[n + 1])
            alone = episode.get("success") and not episode.get("interventions")
            for mine in (True, False):
                for a, b in stretches(person[first:last] == mine):
                    here = slice(first + a, first + b)
                    self._until[here] = here.stop
                    self.teaches[here] = bool(alone) or not self.own
                    if mine:
                        moves = moving(self.action[here], self.state[here], self.fps)
                        self.shown[here] = self.teaches[here] = moves

    def _table(self) -> pa.Table:
        """The columns that are read now, of the episodes that meta/ knows, and where each row lies."""
        wanted = {"episode_index", "timestamp", "task_index", "subtask_index", "memory", "target", "driver"}
        wanted |= {"acted_by", INTERVENTION, "observation.state", "action", "language_persistent", *FIELDS}
        places = [(e["data/chunk_index"], e["data/file_index"]) for e in self._episodes]
        self._files: list[Path] = []
        tables = []
        for chunk, file in dict.fromkeys(places):
            path = self.root / self.info["data_path"].format(chunk_index=chunk, file_index=file)
            there = _schema(path).names
            for name in ("episode_index", "timestamp"):
                if name not in there:
                    raise UserError(f"dataset: expected a column '{name}' in {path}, found none")
            table = _read(path, [name for name in there if name in wanted])
            table = table.append_column("file", pa.array(np.full(len(table), len(self._files))))
            tables.append(table.append_column("place", pa.array(np.arange(len(table)))))
            self._files.append(path)
        try:
            table = pa.concat_tables(tables, promote_options="default")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise UserError(f"dataset: the files of {self.root} do not have the same columns") from error
        known = pa.array([e["episode_index"] for e in self._episodes], pa.int64())
        table = table.filter(pc.is_in(table["episode_index"].cast(pa.int64()), known))
        if not len(table):
            raise UserError(f"dataset: expected some frames in {self.root}, got none")
        return table

    def _said(self, name: str, ids: np.ndarray | None, file: str) -> Texts | None:
        known = self._names(file, name)
        if ids is None or (not known and name != "task_index"):
            return None
        ids = ids[:, 0]
        unknown = sorted(set(np.unique(ids[ids >= 0]).tolist()) - set(known))
        if unknown:
            raise UserError(f"dataset: expected a text for {name} {unknown[0]} in meta/{file}, found none")
        # "" is said of frames without a subtask
        table = sorted(index for index, text in known.items() if text or name == "task_index")
        place = np.full(max(known, default=0) + 1, -1, np.int32)
        place[table] = np.arange(len(table))
        return Texts(tuple(known[i] for i in table), np.where(ids >= 0, place[ids], -1).astype(np.int32))

    def _spoken(self, spoken: list, style: str) -> Texts | None:
        """Of a style of LeRobot's language column, what was said last at each frame. spoken: by episode."""
        said: list[str | None] = []
        for episode, rows in enumerate(spoken):
            heard = sorted((x["timestamp"], x["content"]) for x in rows or () if x.get("style") == style)
            now = self.timestamp[self.first[episode] : self.first[episode + 1]]
            last = np.searchsorted([time for time, _ in heard], now + 1e-4, side="right") - 1
            said += [heard[k][1] if k >= 0 else None for k in last]
        return Texts.of(said) if any(said) else None

    # --- pictures -------------------------------------------------------------------------------------------

    def images(self, camera: str, rows: Iterable[int]) -> list[np.ndarray]:
        """What a camera saw at some rows of one episode: (H, W, 3) uint8 each."""
        rows = [int(row) for row in rows]
        key = self._keys[camera]
        if key not in self._films:
            return [self._picture(key, row) for row in rows]
        episode = self._episodes[self.episode[rows[0]]]
        try:
            place = {f"{part}_index": episode[f"videos/{key}/{part}_index"] for part in ("chunk", "file")}
            start = float(episode[f"videos/{key}/from_timestamp"])
        except KeyError as error:
            raise UserError(
                f"dataset: expected {error} in meta/episodes of {self.root}, found none"
            ) from error
        path = self.root / self.info["video_path"].format(video_key=key, **place)
        return self._videos.frames(path, [start + float(self.timestamp[row]) for row in rows], self.fps)

    def _picture(self, key: str, row: int) -> np.ndarray:
        file, place = (int(n) for n in self._origin[row])
        column, begin = self._column(file, key, place)
        value = column[place - begin].as_py()
        data = value if isinstance(value, bytes) else value.get("bytes")
        if data is None:
            path = self.root / str(value.get("path"))
            if not path.is_file():
                raise UserError(f"dataset: expected a picture of '{key}' at {path}, found none")
            data = path.read_bytes()
        return np.array(Image.open(io.BytesIO(data)).convert("RGB"))

    def _column(self, file: int, key: str, place: int) -> tuple[pa.ChunkedArray, int]:
        """The row group's pictures that hold a row of a file, and its first row. The last ones are kept."""
        with self._lock:
            starts = self._groups(file)
            group = int(np.searchsorted(starts, place, side="right")) - 1
            found = self._columns.get((file, group, key))
            if found is None:
                if key not in pq.read_schema(self._files[file]).names:
                    raise UserError(f"dataset: expected a column '{key}' in {self._files[file]}, found none")
                found = pq.ParquetFile(self._files[file]).read_row_group(group, [key])[key]
                self._columns[file, group, key] = found
                while sum(c.nbytes for c in self._columns.values()) > KEPT and len(self._columns) > 1:
                    self._columns.popitem(last=False)
            self._columns.move_to_end((file, group, key))
            return found, int(starts[group])

    def _groups(self, file: int) -> np.ndarray:
        """First rows of a file's row groups."""
        if file not in self._starts:
            meta = pq.ParquetFile(self._files[file]).metadata
            sizes = [meta.row_group(k).num_rows for k in range(meta.num_row_groups)]
            self._starts[file] = np.cumsum([0, *sizes[:-1]])
        return self._starts[file]


def find(name: str | Path) -> Path:
    """A dataset's directory: the one named, LeRobot's own copy of a hub id, or a download of it."""
    text, path = str(name), Path(name)
    if path.exists() or text.count("/") != 1 or text.startswith((".", "/", "~")):
        return path  # what is in it, or that there is none, is told when it is read
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HOME

    home = Path(os.environ.get("HF_LEROBOT_HOME") or Path(HF_HOME) / "lerobot")
    if (home / text / "meta/info.json").is_file():
        return home / text
    try:
        return Path(snapshot_download(text, repo_type="dataset"))
    except Exception as error:  # offline, missing, private: many types, one meaning
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"dataset '{text}' not found here, in {home} or on the hub ({reason})") from error


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"dataset: {path} cannot be read ({str(error).splitlines()[0]})") from error


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    _schema(path)
    return pq.ParquetFile(path).read(columns)


def _numbers(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """A numeric column as (T, D). UserError where rows differ in length or lack it."""
    array = column.combine_chunks()
    length = len(array)
    try:
        while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
            array = array.flatten()
        return array.to_numpy(zero_copy_only=False).reshape(length, -1).astype(np.float64)
    except (ValueError, TypeError, pa.ArrowInvalid) as error:
        raise UserError(f"dataset: column '{name}' is no table of numbers ({error})") from error
