"""Videos that a person starts and ends while the world goes on."""

from __future__ import annotations

import threading
from pathlib import Path

from agent.evaluation.store import make_folder
from agent.recorder import Recorder
from agent.step import Step
from envs.contract import EvaluationEnv


class Film:
    """Numbered videos in a folder. state: "" while there is none, "rec", or "saving" while what was filmed
    is still being drawn. saved: those that are whole. news: what to tell of them, and whether it is good.
    """

    def __init__(self, suite: str, out: Path):
        self.suite, self.out, self.state = suite, out, ""
        self.saved: list[Path] = []
        self.news: list[tuple[str, bool]] = []
        self._recorder: Recorder | None = None
        self._ending: threading.Thread | None = None

    def begin(self) -> Path:
        """Start the next one. UserError where no file can be."""
        make_folder(self.out)
        number = 1
        while (path := self.out / f"demo-{number}.mp4").exists():
            number += 1
        self._recorder = self._recorder or Recorder(self.suite)
        self._recorder.begin(path)
        self._path, self.state = path, "rec"
        return path

    def add(self, env: EvaluationEnv, step: Step, moment: dict) -> None:
        if self.state != "rec":
            return
        try:
            self._recorder.add(env, step, moment)
        except RuntimeError as error:
            self._failed(error)

    def end(self) -> None:
        """Draw what is left in a thread."""
        self.state = "saving"
        self._ending = threading.Thread(target=self._end, daemon=True)
        self._ending.start()

    def close(self) -> None:
        """Wait until all is drawn."""
        try:
            if self.state == "rec":
                self.end()
            if self._ending is not None:
                self._ending.join()
        finally:
            if self._recorder is not None:
                self._recorder.close()

    def _end(self) -> None:
        try:
            self._recorder.end()
        except RuntimeError as error:
            self._failed(error)
        else:
            self.saved.append(self._path)
            self.news.append((f"saved {self._path}", True))
            self.state = ""

    def _failed(self, error: RuntimeError) -> None:
        """A full disk, or no picture in it. The next one has a process of its own."""
        self.news.append((str(error).splitlines()[0], False))
        recorder, self._recorder, self.state = self._recorder, None, ""
        recorder.close()
