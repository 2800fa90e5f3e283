"""What an evaluation leaves on disk: who, record by record as episodes finish, and the summary."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from agent.evaluation.provenance import SCHEMA, provenance
from agent.evaluation.settings import Settings
from agent.planners import is_foreign_planner, planner_identity
from agent.policies import identity
from backbone.errors import UserError

Record = dict[str, Any]


class Store:
    """OUT/run.json (what is being evaluated), OUT/episodes.jsonl (a record a line) and OUT/summary.json."""

    def __init__(self, out: Path | None, settings: Settings, policy):
        self.out, self.finished, self._file = out, {}, None
        self.fingerprint = None if policy is not None else fingerprint(settings)
        if out is None:
            return
        identity = dataclasses.asdict(settings) | {"checkpoint_sha256": self.fingerprint}
        make_folder(out)
        run, lines = out / "run.json", out / "episodes.jsonl"
        now, runs = provenance(), []
        if lines.exists():
            before = _read_json(run)
            runs = before.get("runs", [{}])
            usual = dataclasses.asdict(Settings())  # what a setting was before there was one
            different = [key for key, value in identity.items() if before.get(key, usual.get(key)) != value]
            if different:
                key = different[0]
                raise UserError(
                    f"out: '{out}' holds episodes with {key} {before.get(key)!r}, not {identity[key]!r}; "
                    "choose another folder"
                )
            self.finished = _read_records(lines)
        self._run = identity | {"schema": SCHEMA, "runs": runs}
        self.add_run(now)
        self._file = lines.open("a")

    def add_run(self, who: dict[str, Any]) -> None:
        """Who writes episodes here: versions and machine. A resumed run may have several."""
        if self.out is None or (who in self._run["runs"] and (self.out / "run.json").exists()):
            return
        self._run["runs"] += [who] * (who not in self._run["runs"])
        write_json(self.out / "run.json", self._run)

    def append(self, record: Record) -> None:
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def summary(self, summary: dict[str, Any]) -> None:
        if self.out is not None:
            self._file.close()
            write_json(self.out / "summary.json", summary)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _read_records(path: Path) -> dict[int, Record]:
    """Finished episodes by seed. A line that a kill cut off is removed, so that appending is safe."""
    finished, whole = {}, []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        whole.append(line)
        if not record.get("error"):
            finished[record["seed"]] = record
    part = path.with_name(path.name + ".part")
    part.write_text("".join(line + "\n" for line in whole))
    os.replace(part, path)
    return finished


def make_folder(path: Path) -> None:
    """Create it, with its parents; UserError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out: expected a folder to write in, got '{path}' ({error.strerror})") from None


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(value, indent=2) + "\n")
    except OSError:  # a full disk: leave it no fuller
        part.unlink(missing_ok=True)
        raise
    os.replace(part, path)


def fingerprint(settings: Settings) -> str | None:
    """sha256 of the weights that are evaluated, and what tells somebody else's policy or planner from others;
    None where none takes part.
    """
    found = [_weights(settings)] if settings.networked else []
    served = [settings.checkpoint] if settings.served else []
    foreign = [settings.foreign] if settings.foreign is not None else []
    found += [identity(name) for name in dict.fromkeys(served + foreign)]
    found += [planner_identity(settings.planner)] if is_foreign_planner(settings.planner) else []
    return " + ".join(found) or None


def _weights(settings: Settings) -> str:
    from backbone import checkpoint

    directory, found = checkpoint.find(settings.checkpoint), hashlib.sha256()
    weights = sorted(directory.glob("*.safetensors"))  # several where a network is large
    if not weights:
        expected = directory / checkpoint.WEIGHTS
        raise UserError(f"checkpoint {settings.checkpoint}: expected a file {expected}, found none")
    for file in weights:
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                found.update(block)
    return found.hexdigest()
