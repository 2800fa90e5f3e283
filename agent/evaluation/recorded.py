"""Recording what is evaluated: each process into its own part of a folder, a LeRobot dataset by itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from agent.asks import Asking
from agent.evaluation.provenance import provenance
from agent.evaluation.settings import Settings
from agent.evaluation.slots import Record, judged_episode
from agent.evaluation.store import fingerprint, make_folder
from agent.loop import Agent
from agent.recording.recording import Recording
from agent.recording.runs import Busy, Runs, RunWriter
from backbone.errors import UserError
from envs.contract import EvaluationEnv

MOST = 1000  # parts of a folder


def who(settings: Settings) -> dict[str, Any]:
    """What it takes to run a recorded episode again, and to know why it went otherwise."""
    return {
        "settings": dataclasses.asdict(settings),
        "checkpoint_sha256": fingerprint(settings),
        **provenance(),
    }


class Recorded:
    """A measure (see `Slots`): the episode's record, and the run in FOLDER/part-NNN. A record whose run could
    not be written says so; its process records no more.
    """

    def __init__(self, folder: Path | str, settings: Settings):
        self.folder, self.who = Path(folder), who(settings)
        self._runs: Runs | None = None
        self._stopped: list[str] = []

    def __call__(self, env: EvaluationEnv, agent: Agent, seed: int) -> Asking[Record]:
        if self._stopped:
            record = yield from judged_episode(env, agent, seed)
            return record | {"recording": self._stopped}
        if self._runs is None:
            self._runs = self._part()
        recording = Recording(RunWriter(self._runs, self.who))
        record = yield from judged_episode(env, agent, seed, recording)
        if stopped := recording.end():
            self._stopped = self._stopped or stopped
            record["recording"] = stopped
        return record

    def close(self) -> None:
        if self._runs is not None:
            self._runs.close()

    def check(self) -> None:
        """UserError now if it cannot be recorded there."""
        make_folder(self.folder)
        if (self.folder / "meta").exists():
            raise UserError(f"record: expected a folder for parts, '{self.folder}' is a dataset itself")
        self._part().close()

    def _part(self) -> Runs:
        """The first that no other process is writing."""
        for number in range(MOST):
            try:
                return Runs(self.folder / f"part-{number:03d}")
            except Busy:
                continue
        raise UserError(f"record: expected less than {MOST} parts in '{self.folder}'; choose another folder")
