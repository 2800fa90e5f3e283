"""What there is to see of a run. Who runs it tells of each step; views draw this and know nothing else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from agent.evaluation.statistics import quantile
from agent.step import Step
from highlevel.plan import Plan, Target

QUIET = ("planned", "replanned", "held", "corrected", "ordered", "given back", "stopped")  # told otherwise
WARNINGS = ("failed", "garbled: ", "gave up", "stalled", "oscillates", "backs off")
RETREAT = "back off"  # what is shown of a recovery
BY_HAND = "by hand"  # of a person who says nothing of it
PLAINER = {"done": "the agent says: done"}
PLAINER |= {"taken over": "you drive", "handed back": "the agent drives again"}
PLAINER |= {f"late {lane} dropped": "a late answer is dropped" for lane in ("both", "plan", "chunk")}
LATEST = 50  # looks, of which the median time is shown


@dataclass
class Note:
    """Something that happened. kind: "start", "subtask", "event", "warn", "good" or "you" (a person did
    it).
    """

    seconds: float
    text: str
    kind: str = "event"


@dataclass
class Part:
    """A subtask of the history. end: "" while it is in force, then "done" where the planner went on to
    another, or "cut" where it went back to the one before or a person's word ended it. where: it points
    there, in words. by: the plan's origin, or "writing" while it is being written.
    """

    text: str
    since: float
    by: str = ""
    where: str = ""
    memory: str = ""
    end: str = ""


@dataclass
class Shown:
    """told: called with each Note as it happens. pixels: {camera: (H, W, 3) uint8}. progress: None where
    nobody can judge it. solved: seconds of the world's time, as all others but look_ms and age_ms.
    """

    title: str = ""
    instruction: str = ""
    told: Callable[[Note], None] = lambda note: None
    memory: str = ""
    scene: str = ""
    target: Target | None = None
    history: list[Part] = field(default_factory=list)
    notes: deque[Note] = field(default_factory=lambda: deque(maxlen=200))
    seconds: float = 0.0
    progress: float | None = 0.0
    solved: float | None = None
    margin: float | None = None
    look_ms: float | None = None
    age_ms: float | None = None
    hertz: float | None = None
    clock: str = "sync"
    speed: float = 1.0
    paused: bool = False
    waits: bool = False  # it was told to stop
    stopped: bool = False  # the emergency stop
    driving: bool = False  # a person moves the arm
    over: bool = False  # the episode
    recording: str = ""
    pixels: dict[str, np.ndarray] = field(default_factory=dict)
    message: str = ""
    writing: Plan | None = None  # as far as it is to be seen

    def __post_init__(self):
        self._looks: deque[float] = deque(maxlen=LATEST)
        self._heard: deque[Plan | None] = deque()
        self._holding, self._before = False, 0

    def note(self, text: str, kind: str = "event") -> None:
        found = Note(self.seconds, text, kind)
        self.notes.append(found)
        self.told(found)

    def refuse(self, why: str) -> None:
        """What a person asked for cannot be."""
        self.message = why
        self.note(why, "warn")

    def happened(self, step: Step, rate: float) -> None:
        """A control tick of a world with so many a second."""
        if step.said is not None:
            self._looks.append(step.seconds * 1000)
            self.look_ms, self.margin = quantile(list(self._looks), 0.5), step.said.margin
            self.age_ms = step.age / rate * 1000
            self._heard.append(None)
        if "taken over" in step.events and self.history and not self.history[-1].end:
            self.history[-1].end = "cut"
        for event in step.events:
            if any(word in event for word in WARNINGS):
                self.note(event, "warn")
            elif event not in QUIET:
                self.note(PLAINER.get(event, event))
        if "held" in step.events and not self._holding and not self.waits:
            self.note("holds still, with nothing to do yet")
        self._holding = "held" in step.events
        if step.plan is not None:
            self._planned(step.plan)

    def progressed(self, progress: float, success: bool) -> None:
        if self.progress is None:
            return
        self.progress = progress
        if success and self.solved is None:
            self.solved = self.seconds
            self.note(f"solved after {self.seconds:.1f} s", "good")

    def told_anew(self, instruction: str) -> None:
        """A person's word ends what was being done."""
        self.instruction = instruction
        if self.history and not self.history[-1].end:
            self.history[-1].end = "cut"

    # -- words while they are written

    def hear(self, plan: Plan) -> None:
        """A plan as far as it is written; from any thread."""
        if self.writing is None and not self._heard:
            self._before = len(self.history)
        self._heard.append(plan)

    def write_on(self) -> None:
        """Let the next word be seen, at every picture that is drawn: a small planner writes faster than eyes
        can follow, so what was heard is seen a little later.
        """
        for _ in range(1 + len(self._heard) // 8):
            if self._heard:
                self.writing = self._heard.popleft()

    def parts(self) -> list[Part]:
        """The history, its last part as far as it is written."""
        if self.writing is None:
            return self.history
        parts, words = self.history[: self._before], self.writing.subtask
        if parts and parts[-1].text.startswith(words) and not parts[-1].end:
            return parts
        since = self.history[self._before].since if len(self.history) > self._before else self.seconds
        return [*parts, Part(words, since, "writing")]

    def _planned(self, plan: Plan) -> None:
        self.memory, self.scene, self.target = plan.memory, plan.scene, plan.target
        where = "" if plan.target is None else f"at {plan.target.x * 100:.0f}% {plan.target.y * 100:.0f}%"
        retreats = plan.origin == "recovery"
        words = RETREAT if retreats else plan.subtask or BY_HAND
        last = self.history[-1] if self.history else None
        if last is not None and not last.end and last.text == words:
            last.where = where
            return
        if last is not None and not last.end:
            before = self.history[-2] if len(self.history) > 1 else last
            back = before.text == words and before.end == "done" and last.memory == plan.memory
            last.end = "cut" if back or retreats else "done"
        self.history.append(Part(words, self.seconds, plan.origin, where, plan.memory))
        self.note(words, "subtask")
