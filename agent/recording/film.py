"""The video of a run (agent/recorder.py) as a writer."""

from __future__ import annotations

from pathlib import Path

from agent.recorder import Recorder
from agent.recording.recording import Frame, Run


class FilmWriter:
    """FOLDER/episode-SEED.mp4, drawn in a second process, which this starts: early, it takes a while.

    suite: of the worlds to come. note: a line in every picture. speed: how much faster than it happened.
    """

    name, pictures = "video", False

    def __init__(self, folder: Path | str, suite: str = "core", note: str = "", speed: int = 1):
        self.folder, self._note, self._recorder = Path(folder), note, Recorder(suite, speed)

    def begin(self, run: Run) -> None:
        self._rate = run.layout.fps
        self._recorder.begin(self.folder / f"episode-{run.seed}.mp4")

    def add(self, frame: Frame) -> None:
        tick = frame.tick + 1
        moment = {"tick": tick, "seconds": tick / self._rate, "progress": frame.progress}
        moment |= {"success": frame.success, "instruction": frame.instruction}
        self._recorder.add(frame.env, frame.step, moment, self._note)

    def told(self, what: str, text: str) -> None:
        """It is seen in the pictures."""

    def end(self) -> None:
        self._recorder.end()

    def drop(self) -> None:
        self._recorder.drop()

    def close(self) -> None:
        self._recorder.close()
