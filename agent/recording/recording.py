"""What a recording is told, and who is told it.

`begin` a run, `add` each tick, `end` it; `close` when done. A run that is not ended (a kill, Ctrl-C, an error
of the world) is not kept. `begin` tells mistakes; after that nothing that goes wrong in a writer reaches the
run: the writer is left out from then on, and a line says why.

Pictures are wanted at every tick, also where the agent does not look: a dataset whose pictures are older than
its states teaches a network the wrong thing. Looking changes nothing in the world or the agent.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from agent.recording.columns import Layout, layout_of
from agent.step import Step
from backbone.observation import Observation
from envs.contract import EvaluationEnv

ENDED = "ended"  # told of a run that a person ended, at whatever tick


@dataclass(frozen=True)
class Run:
    """Which episode of which world. `instruction`: what the agent is told first; `asked`: what it is told
    instead of the scene's own words, if anything. initial_state, state_id: see `EvaluationEnv`; None of a
    robot. judged: whether the world can tell success. after: see `episode`. progress: at the start.
    """

    suite: str
    family: str
    seed: int
    instruction: str
    layout: Layout
    asked: str | None = None
    initial_state: str | None = None
    state_id: int | None = None
    judged: bool = True
    after: int | None = None
    progress: float = 0.0

    @classmethod
    def of(cls, env: EvaluationEnv, seed: int, asked: str | None = None, **more: Any) -> Run:
        """Of a world in which episode `seed` has just begun."""
        said = asked or env.task_description
        start = {"initial_state": env.initial_state(), "state_id": env.state_id}
        return cls(env.suite, env.stratum, seed, said, layout_of(env), asked, **start, **more)


@dataclass(frozen=True)
class Frame:
    """A tick, counted from 0. images, state (D,): when it began; images None where nobody looked. action:
    (A,) as it was sent, after safety. instruction: which the agent had. progress, success (by now), after
    (D,) the state: what it led to. env: the world, for who draws it.
    """

    tick: int
    images: Mapping[str, np.ndarray] | None
    state: np.ndarray
    action: np.ndarray
    step: Step
    instruction: str
    progress: float = 0.0
    success: bool = False
    after: np.ndarray | None = None
    env: EvaluationEnv | None = None


class Writer(Protocol):
    """name: in what is said about it. pictures: whether it wants them."""

    name: str
    pictures: bool

    def begin(self, run: Run) -> None: ...
    def add(self, frame: Frame) -> None: ...
    def told(self, what: str, text: str) -> None: ...
    def end(self) -> None: ...
    def drop(self) -> None:
        """Forget a run that has begun and is not whole."""

    def close(self) -> None: ...


class Recording:
    """Hands all to its writers. tell: what to do with a line about a writer that stopped. A context manager.

    stopped: those lines.
    """

    def __init__(self, *writers: Writer, tell: Callable[[str], None] | None = None):
        self.writers, self._tell = list(writers), tell
        self.stopped: list[str] = []
        self._before, self._under_way = 0, False

    @property
    def pictures(self) -> bool:
        """Whether some writer wants pictures at every tick."""
        return any(writer.pictures for writer in self.writers)

    def look(self, env: EvaluationEnv, observation: Observation | None) -> Mapping[str, np.ndarray] | None:
        """The pictures of a tick: those that the agent sees, or a look of its own."""
        if not self.pictures:
            return None
        return observation.images if observation is not None and observation.images else env.look()["pixels"]

    def begin(self, run: Run) -> None:
        """UserError for what cannot be recorded, before anything has happened."""
        self.drop()
        self._before, self._under_way = len(self.stopped), True
        for writer in list(self.writers):
            try:
                writer.begin(run)
            except OSError as error:
                self._stop(writer, error)

    def add(self, frame: Frame) -> None:
        self._each("add", frame)

    def told(self, what: str, text: str = "") -> None:
        """Before the next tick a person did something: "say", "order", "stop", "go_on" (what they told the
        agent), or anything else, as "push".
        """
        self._each("told", what, text)

    def end(self) -> list[str]:
        """Keep the run. The lines of what stopped in it."""
        if self._under_way:
            self._each("end")
        self._under_way = False
        return self.stopped[self._before :]

    def drop(self) -> None:
        """Forget the run under way, if any."""
        if self._under_way:
            self._each("drop")
        self._under_way = False

    def close(self) -> None:
        self.drop()
        self._each("close")
        self.writers.clear()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _each(self, what: str, *given: Any) -> None:
        for writer in list(self.writers):
            try:
                getattr(writer, what)(*given)
            except Exception as error:  # a full disk, a broken package: never the run's concern
                self._stop(writer, error)

    def _stop(self, writer: Writer, error: Exception) -> None:
        self.writers.remove(writer)
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        first = (reason.strip() or type(error).__name__).splitlines()[0]
        self.stopped.append(f"recording stopped: {writer.name}: {first}")
        for leave in (writer.drop, writer.close):
            with contextlib.suppress(Exception):
                leave()
        if self._tell is not None:
            self._tell(self.stopped[-1])
