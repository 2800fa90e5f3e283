"""Labels into the files of a dataset, which stays whole whatever happens: everything is written under
temporary names, then a list of the renamings, then they are done. A kill before the list changes nothing;
after it the next `finish` does the rest. Other columns, row groups, videos and statistics stay as they were.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agent.recording.dataset import text_table
from backbone.errors import UserError
from training.annotate.columns import EVENTS, LANGUAGE, PERSISTENT, PLAIN, Columns, Labels, described, merged
from training.annotate.segments import Segment
from training.lerobot import UNDER_WAY

ENDING = ".annotate.tmp"
LIGHT = ("episode_index", "timestamp", "subtask_index", "memory", PERSISTENT, EVENTS)


def apply(root: Path, labels: Mapping[int, Sequence[Segment]], language: bool = False) -> int:
    """Write an episode's segments for each number that is given; the others keep what they have. language: in
    LeRobot's later form besides (wherever it is already, it is kept up). Returns how many files are new; none
    where all is said already. UserError where something cannot be read or written: nothing has changed then.
    """
    finish(root)
    info_path, known_path = root / "meta/info.json", root / "meta/subtasks.parquet"
    info = json.loads(info_path.read_text())
    paths = sorted(path for path in root.glob("data/*/*.parquet"))
    known = _known(known_path)
    language = language or any(name in info["features"] for name in LANGUAGE)
    features = info["features"] | PLAIN | (LANGUAGE if language else {})
    texts: dict[str, int] = {text: k for k, text in reversed(sorted(known.items()))}
    found: list[tuple[Path, Labels]] = []
    for path in paths:
        file = Labels(_light(path), known)
        for number in set(labels) & set(file.rows):
            file.put(number, labels[number])
        for text in dict.fromkeys(file.subtask):
            if text not in texts:
                texts[text] = max((*known, *texts.values()), default=-1) + 1
        found.append((path, file))
    if lost := set(labels) - {number for _, file in found for number in file.rows}:
        raise UserError(f"annotate: expected episode {min(lost)} in data/*/*.parquet of {root}, found none")
    place = known | {k: text for text, k in texts.items()}
    table = [place.get(k, "") for k in range(max(place, default=-1) + 1)]
    new: list[tuple[Path, Path]] = []
    try:
        for path, file in found:
            if not file.written(language):
                new.append((_beside(path), path))
                notes = described(pq.read_schema(path).metadata, language, table)
                _rewrite(path, new[-1][0], file.columns(texts, language), notes)
        if known != dict(enumerate(table)):
            new.append((_beside(known_path), known_path))
            pq.write_table(text_table(table, "subtask_index", "subtask"), new[-1][0])
        if features != info["features"]:
            new.append((_beside(info_path), info_path))
            new[-1][0].write_text(json.dumps(info | {"features": features}, indent=4, ensure_ascii=False))
        _commit(root, new)
    except (OSError, pa.ArrowException) as error:
        for temporary, _ in new:
            temporary.unlink(missing_ok=True)
        reason = str(getattr(error, "strerror", None) or error).splitlines()[0]
        raise UserError(f"annotate: the labels cannot be written into {root} ({reason})") from error
    finish(root)
    return sum(path.suffix == ".parquet" and path != known_path for _, path in new)


def finish(root: Path) -> None:
    """Do the renamings that a kill has left undone, and take away what belongs to none."""
    marker = root / UNDER_WAY
    try:
        if marker.is_file():
            for name in json.loads(marker.read_text()):
                path = root / name
                if not path.resolve().is_relative_to(root.resolve()):
                    raise UserError(f"annotate: expected files of {root} in {marker}, got {name}")
                if _beside(path).is_file():
                    os.replace(_beside(path), path)
            for folder in {root / "meta", *root.glob("data/*")}:
                _sync(folder)
            marker.unlink()
        for leftover in (*root.glob(f"data/*/.*{ENDING}"), *root.glob(f"meta/.*{ENDING}")):
            leftover.unlink()
    except (OSError, ValueError) as error:
        raise error if isinstance(error, UserError) else _unwritten(root, error) from error


def copied(source: Path, out: Path) -> Path:
    """A copy of a dataset: whole, or not there. One that is there from before is gone on with; UserError
    where something else is.
    """
    if not out.exists():
        making = out.with_name(f".{out.name}{ENDING}")
        try:
            shutil.rmtree(making, ignore_errors=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, making, ignore=shutil.ignore_patterns(f"*{ENDING}"))
            os.rename(making, out)
        except (OSError, shutil.Error) as error:
            shutil.rmtree(making, ignore_errors=True)
            raise _unwritten(out, error) from error
        return out
    try:
        one, other = (json.loads((root / "meta/info.json").read_text()) for root in (source, out))
    except (OSError, ValueError):
        raise UserError(f"out: expected a new folder or a copy of {source}, got {out}") from None
    for part in ("fps", "total_frames", "total_episodes", "robot_type"):
        if one.get(part) != other.get(part):
            got = f"one with {part} {other.get(part)}, not {one.get(part)}"
            raise UserError(f"out: expected a new folder or a copy of {source}, got {got}")
    return out


def changeable(root: Path) -> None:
    """UserError where files belong to a cache that others share."""
    if any(path.is_symlink() for path in (root / "meta/info.json", *root.glob("data/*/*.parquet"))):
        raise UserError(f"out: expected one, for {root} is a download's cache that should stay as it is")


def known_labels(root: Path) -> dict[int, tuple[list[str], list[str]]]:
    """Subtask and memory of each frame, by episode, as the files have them now."""
    known, found = _known(root / "meta/subtasks.parquet"), {}
    for path in sorted(root.glob("data/*/*.parquet")):
        file = Labels(_light(path), known)
        for number, rows in file.rows.items():
            found[number] = file.subtask[rows].tolist(), file.memory[rows].tolist()
    return found


def _light(path: Path) -> pa.Table:
    """The columns that labels are made from."""
    try:
        there = pq.read_schema(path).names
        return pq.ParquetFile(path).read([name for name in LIGHT if name in there])
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"dataset: {path} cannot be read ({str(error).splitlines()[0]})") from error


def _known(path: Path) -> dict[int, str]:
    """Subtasks by index, of a dataset that `LeRobotDataset` could read."""
    if not path.is_file():
        return {}
    table = pq.ParquetFile(path).read()
    texts = next(name for name in table.column_names if name != "subtask_index")
    return dict(zip(table["subtask_index"].to_pylist(), table[texts].to_pylist(), strict=True))


def _rewrite(path: Path, new: Path, columns: Columns, notes: dict[bytes, bytes]) -> None:
    """The file once more, row group by row group, with these columns."""
    source, at, writer = pq.ParquetFile(path), 0, None
    meta = source.metadata
    codec = meta.row_group(0).column(0).compression.lower() if meta.num_row_groups else "snappy"
    try:
        for group in range(meta.num_row_groups):
            rows = source.read_row_group(group)
            table = merged(rows, columns(at, at + len(rows))).replace_schema_metadata(notes or None)
            codec = "none" if codec == "uncompressed" else codec
            writer = writer or pq.ParquetWriter(new, table.schema, compression=codec)
            writer.write_table(table, row_group_size=max(1, len(table)))
            at += len(rows)
    finally:
        if writer is not None:
            writer.close()
        source.close()


def _commit(root: Path, new: Sequence[tuple[Path, Path]]) -> None:
    """From here on it will happen."""
    if not new:
        return
    for temporary, path in new:
        if path.exists():
            shutil.copymode(path, temporary)
        _sync(temporary)
    marker = root / UNDER_WAY
    temporary = _beside(marker)
    temporary.write_text(json.dumps([str(path.relative_to(root)) for _, path in new]))
    _sync(temporary)
    os.replace(temporary, marker)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}{ENDING}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritten(root: Path, error: Any) -> UserError:
    reason = str(getattr(error, "strerror", None) or error).splitlines()[0]
    return UserError(f"annotate: {root} cannot be written ({reason})")
