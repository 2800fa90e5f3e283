"""Datasets without labels, to be labelled in tests."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

LABELS = ("subtask_index", "memory", "target")


def stripped(source: Path, out: Path, together: int = 2) -> Path:
    """A copy without subtasks, memories and where they point, `together` episodes in a file as LeRobot writes
    them.
    """
    files = sorted(source.glob("data/*/*.parquet"))
    for name in ("data/chunk-000", "meta/episodes/chunk-000"):
        (out / name).mkdir(parents=True)
    for k in range(0, len(files), together):
        tables = [pq.ParquetFile(file).read().drop_columns(LABELS) for file in files[k : k + together]]
        path = out / f"data/chunk-000/file-{k // together:03d}.parquet"
        schema = tables[0].schema.remove_metadata()
        with pq.ParquetWriter(path, schema, compression="snappy") as writer:
            for table in tables:
                writer.write_table(table.cast(schema))
    info = json.loads((source / "meta/info.json").read_text())
    info["features"] = {name: f for name, f in info["features"].items() if name not in LABELS}
    (out / "meta/info.json").write_text(json.dumps(info))
    stats = json.loads((source / "meta/stats.json").read_text())
    (out / "meta/stats.json").write_text(json.dumps({n: s for n, s in stats.items() if n not in LABELS}))
    (out / "meta/tasks.parquet").write_bytes((source / "meta/tasks.parquet").read_bytes())
    episodes = pq.read_table(source / "meta/episodes/chunk-000/file-000.parquet")
    told = tuple(f"stats/{name}/" for name in LABELS)
    episodes = episodes.drop_columns([name for name in episodes.column_names if name.startswith(told)])
    places = pa.array([number // together for number in range(len(files))])
    at = episodes.schema.get_field_index("data/file_index")
    episodes = episodes.set_column(at, "data/file_index", places)
    pq.write_table(episodes, out / "meta/episodes/chunk-000/file-000.parquet")
    return out
