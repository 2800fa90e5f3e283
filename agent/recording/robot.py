"""A robot that is recorded while a real-time loop drives it (agent/live.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from agent.recording.recording import Frame, Recording
from agent.step import Step
from envs.contract import EvaluationEnv

if TYPE_CHECKING:
    from agent.live import Robot
    from agent.loop import Agent


class RecordedRobot:
    """Stands in the robot's place; the loop's `watch` has to be, or call, `watch` here.

    recording: one that was begun. It is told every tick, also of warming up. Where the loop sends an action
    without having looked, this looks just before: pictures and states are never older than their tick.
    """

    def __init__(self, robot: Robot, agent: Agent, recording: Recording):
        self.robot, self.agent, self.recording = robot, agent, recording
        self.ticks, self._success = 0, False
        self._seen: dict[str, Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.robot, name)

    def look(self) -> dict[str, Any]:
        self._seen = self.robot.look()
        return self._seen

    def step(self, action: np.ndarray) -> Any:
        self._before = self._seen or self.robot.look()
        self._seen, self._action = None, np.array(action)
        self._instruction = self.agent.instruction
        self._led = self.robot.step(action)
        return self._led

    def watch(self, step: Step, tick: int | None = None) -> None:
        """After each `step`: what the agent did in it."""
        info = self._led[-1] if isinstance(self._led, tuple) else {}
        self._success = self._success or bool(info.get("is_success"))
        env = self.robot if isinstance(self.robot, EvaluationEnv) else None
        gone = {"progress": float(info.get("progress", 0.0)), "success": self._success}
        gone |= {"after": None if env is None else env.state(), "env": env}
        seen = self._before["pixels"], self._before["agent_pos"]
        self.recording.add(Frame(self.ticks, *seen, self._action, step, self._instruction, **gone))
        self.ticks += 1
