"""Episodes of an agent on a robot that somebody stands beside: told in lines, and obeyed line by line."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent import live
from agent.console.plain import Lines
from agent.console.shown import Note, Shown
from agent.loop import Agent
from agent.recording import Recording
from agent.recording.robot import RecordedRobot, run_on
from agent.safety import Limits, Safety
from agent.sound import line
from agent.step import Step
from backbone.errors import UserError
from envs.errors import WorldError
from envs.hardware import Hardware

HELP = (
    "type what the arm should do, or a correction; stop, go on, faster, slower; subtask: pick up the red "
    "block at 40% 62% (across, down), subtask: (the planner plans again); next (episode), quit"
)
GLANCE = 0.0005  # seconds of a tick, in which typed lines are looked for


@dataclass
class Outcome:
    """How an episode went. solved: None where nobody can tell; ended: why; rested: whether it is back at its
    rest pose, None where it has none; cadence: see `agent.live`.
    """

    solved: bool | None
    ended: str
    seconds: float
    cadence: live.Cadence
    rested: bool | None = None


class Operator:
    """hardware: connected. agent: with the clock of `agent.live.clock` at its rate. lines: what is typed
    meanwhile. linger: seconds that an episode runs on after it is solved. keeps: whether one that says "done"
    is waited with, as somebody may say what comes next.
    """

    def __init__(
        self,
        hardware: Hardware,
        agent: Agent,
        recording: Recording | None = None,
        lines: Lines | None = None,
        told: Callable[[Note], None] = lambda note: None,
        linger: float = 1.5,
        keeps: bool = False,
    ):
        self.hardware, self.agent, self.told = hardware, agent, told
        self.recording, self.lines = recording or Recording(), lines
        self.linger, self.keeps = linger, keeps
        self.safety = Safety(Limits(**hardware.limits), stale=hardware.config.stale)
        self.over = False  # somebody said "quit"
        self._ended, self._solved_at = "", None

    def episode(self, number: int, instruction: str, seconds: float, rest: bool = True) -> Outcome:
        """Until it is solved, said to be done, ended by a person or has had its time; then back to rest.
        UserError where the agent cannot act on this robot, WorldError where it is gone before it moved.
        """
        hardware, agent, config = self.hardware, self.agent, self.hardware.config
        hardware.ready()
        agent.reset(instruction, number)
        self.safety.reset(hardware.position())
        self.shown = Shown(f"{config.name} {number}", instruction, self.told, clock="realtime")
        self.shown.progress = None if hardware.solved is None else 0.0
        self.recording.begin(run_on(hardware, number, instruction))
        self.shown.note(f"{self.shown.title}: {instruction}", "start")
        self.robot = RecordedRobot(hardware, agent, self.recording)
        self._ended, self._solved_at, self._began = "out of time", None, time.perf_counter()
        frozen = config.frozen or None
        try:
            cadence = live.act_live(
                agent, self.robot, self.safety, seconds, self._watch, frozen=frozen, always=True,
                motion=config.motion,
            )  # fmt: skip
        except BaseException as error:
            self.recording.end()  # what there is of it is whole
            self._rest(rest)
            if isinstance(error, OSError):
                raise WorldError(f"robot '{config.name}': {line(error)}") from None
            raise
        for why in self.recording.end():
            self.shown.note(why, "warn")
        took = time.perf_counter() - self._began
        return Outcome(hardware.solved, self._ended, took, cadence, self._rest(rest))

    def _watch(self, step: Step, tick: int) -> bool:
        shown = self.shown
        shown.seconds = time.perf_counter() - self._began
        self.robot.watch(step, tick)
        shown.happened(step, self.hardware.rate)
        if self.hardware.solved is not None:
            shown.progressed(float(self.hardware.solved), self.hardware.solved)
        self._listen()
        if self._ended != "out of time":
            return True
        if shown.solved is not None and shown.seconds >= shown.solved + self.linger:
            self._ended = "solved"
        elif self.agent.gave_up:
            self._ended = f"gave up: {self.agent.gave_up}"
        elif self.agent.done and self.hardware.solved is None and not self.keeps:
            self._ended = "done"
        return self._ended != "out of time"

    def _listen(self) -> None:
        if self.lines is None:
            return
        for text in self.lines.read(time.perf_counter() + GLANCE):
            words = text.strip().lower()
            if words in ("quit", "next"):
                self.over, self._ended = self.over or words == "quit", f"ended by a person ({words})"
            elif words == "help":
                self.shown.note(HELP, "you")
            else:
                self.say(text)

    def say(self, text: str) -> None:
        """A person's words to the agent."""
        try:
            understood = self.agent.say(text)
        except UserError as error:
            return self.shown.note(str(error), "warn")
        self.recording.told("say", text)
        self.shown.told_anew(self.agent.instruction)
        self.shown.note(understood, "you")

    def _rest(self, wanted: bool) -> bool | None:
        """Back to the rest pose through the safety layer, at its own pace."""
        hardware = self.hardware
        if not wanted or not hardware.config.rest or hardware.down is not None:
            return None if not hardware.config.rest else False
        safety = Safety(self.safety.limits)
        if (at := hardware.position()) is not None:
            safety.reset(at)
        guard: Any = lambda action: safety(action, hardware.hand())
        return hardware.go_to_rest(guard)
