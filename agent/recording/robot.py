"""A robot that is recorded while a real-time loop drives it (agent/live.py)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.recording.columns import Layout
from agent.recording.recording import Frame, Recording, Run
from agent.step import Step
from envs.contract import EvaluationEnv
from envs.hardware import Hardware

if TYPE_CHECKING:
    from agent.live import Robot
    from agent.loop import Agent


def run_on(hardware: Hardware, number: int, instruction: str) -> Run:
    """Episode `number` on a robot: suite "robot", and the robot's name as its family. It is judged only where
    the robot itself can tell (a simulated one).
    """
    name, judged = hardware.config.name, hardware.solved is not None
    return Run("robot", name, number, instruction, Layout(**hardware.layout), judged=judged)


class RecordedRobot:
    """Stands in the robot's place; the loop's `watch` has to be, or call, `watch` here.

    recording: one that was begun. It is told every tick, also of warming up. Where the loop sends an action
    without having looked, this looks just before: pictures and states are never older than their tick, unless
    the look failed, which is no reason to keep an action back.
    """

    def __init__(self, robot: Robot, agent: Agent, recording: Recording):
        self.robot, self.agent, self.recording = robot, agent, recording
        self.ticks, self._success = 0, False
        self._seen: dict[str, Any] | None = None  # in this tick
        self._looked = False  # in this tick, or tried to
        self._state: np.ndarray | None = None  # the last one that was seen
        self._sent: tuple[Any, ...] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.robot, name)

    def look(self) -> dict[str, Any]:
        self._looked = True
        self._seen = self.robot.look()
        self._state = self._seen["agent_pos"]
        return self._seen

    def step(self, action: np.ndarray) -> Any:
        if not self._looked:
            with contextlib.suppress(Exception):
                self.look()
        pictures, self._seen, self._looked = self._seen and self._seen["pixels"], None, False
        self._sent = pictures, self._state, np.array(action), self.agent.instruction
        self._info: dict[str, Any] = {}
        led = self.robot.step(action)
        if isinstance(led, tuple):
            self._info = led[-1]
        return led

    def watch(self, step: Step, tick: int | None = None) -> None:
        """After each `step`: what the agent did in it."""
        if self._sent is None or self._sent[1] is None:  # nothing was seen yet
            return
        solved = self._info.get("is_success") or getattr(self.robot, "solved", None)
        self._success = self._success or bool(solved)
        env = self.robot if isinstance(self.robot, EvaluationEnv) else None
        gone = {"progress": float(self._info.get("progress", 0.0)), "success": self._success}
        gone |= {"after": None if env is None else env.state(), "env": env}
        pictures, state, action, instruction = self._sent
        self.recording.add(Frame(self.ticks, pictures, state, action, step, instruction, **gone))
        self.ticks, self._sent = self.ticks + 1, None
