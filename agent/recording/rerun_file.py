"""A rerun file of a run (https://rerun.io): pictures, state, action, margin, subtasks and events on one time
line.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from agent.recording.recording import Frame, Run
from backbone.errors import UserError

QUALITY = 90  # of the pictures, as JPEG


class RerunWriter:
    """FOLDER/episode-SEED.rrd, which has its name when it is whole. UserError without the package.

    A run is kept in memory until it ends: the package's own writing of files tells nobody of a full disk, and
    reading its stream in parts leaves a file with several ends.
    """

    name, pictures = "rerun file", True

    def __init__(self, folder: Path | str):
        try:
            import rerun
        except ImportError:
            line = "rerun: expected the package rerun-sdk, found none; pip install 'steersman[rerun]'"
            raise UserError(line) from None
        self._rerun, self.folder = rerun, Path(folder)
        self._stream: Any = None

    def begin(self, run: Run) -> None:
        self.drop()
        self._path, self._layout = self.folder / f"episode-{run.seed}.rrd", run.layout
        self._part = self._path.with_name(self._path.name + ".part")
        self._stream = self._rerun.RecordingStream("steersman")
        self._bytes = self._stream.binary_stream()
        self._said: dict[str, str] = {}
        self._frames = 0
        for part, names in (("state", run.layout.state), ("action", run.layout.action)):
            self._stream.log(part, self._rerun.SeriesLines(names=list(names)), static=True)

    def add(self, frame: Frame) -> None:
        rr, log = self._rerun, self._stream.log
        self._at(frame.tick)
        for name, picture in (frame.images or {}).items():
            log(f"camera/{name}", rr.Image(np.array(picture)).compress(jpeg_quality=QUALITY))
        log("state", rr.Scalars(np.asarray(frame.state, float)))
        log("action", rr.Scalars(np.asarray(frame.action, float)))
        log("progress", rr.Scalars([float(frame.progress)]))
        plan = frame.step.plan
        if plan is not None:
            log("margin", rr.Scalars([float(plan.margin)]))
            self._text("subtask", f"{plan.text} ({plan.origin})", plan.text)
            self._text("memory", plan.memory, plan.memory)
        self._text("instruction", frame.instruction, frame.instruction)
        for event in frame.step.events:
            log("events", rr.TextLog(event))
        self._frames = frame.tick + 1

    def told(self, what: str, text: str) -> None:
        self._at(self._frames)
        self._stream.log("events", self._rerun.TextLog(f"person: {what} {text}".strip()))

    def end(self) -> None:
        self._part.write_bytes(self._bytes.read() or b"")
        self._stream = self._bytes = None
        os.replace(self._part, self._path)

    def drop(self) -> None:
        if self._stream is not None:
            self._part.unlink(missing_ok=True)
        self._stream = self._bytes = None

    def close(self) -> None:
        self.drop()

    def _at(self, tick: int) -> None:
        self._stream.set_time("tick", sequence=tick)
        self._stream.set_time("seconds", duration=tick / self._layout.fps)

    def _text(self, entity: str, line: str, value: str) -> None:
        """Where it is another than before."""
        if self._said.get(entity) != value:
            self._said[entity] = value
            self._stream.log(entity, self._rerun.TextLog(line))
