"""Who moves the arm while demonstrations are recorded: the teacher with bursts of disturbance, or agent and
teacher in turn. The teacher labels every frame whoever drives, so what matters here is to visit states
worth labelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from highlevel.plan import Plan
from training.episodes import AGENT, DISTURBED, TEACHER
from training.late import late_agent

if TYPE_CHECKING:
    from agent.loop import Agent
    from backbone.observation import Observation
    from envs.contract import Label
    from envs.tabletop.world import World

GRIPPER = 6  # index in an action


class Bursts:
    """The teacher drives; in most episodes something else does for 2 to 8 steps, every 15 to 40.

    Most bursts go through the arm (it drifts, shakes, turns, opens or closes the gripper), some push a block.
    """

    told: Plan | None = None

    def __init__(self, rng: np.random.Generator, clean: float = 0.2):
        self.rng = rng
        self.quiet = rng.random() < clean
        self.wait, self.left = int(rng.integers(3, 40)), 0
        self.kind, self.push, self.upward = "", np.zeros(7, np.float32), False

    def drive(
        self, world: World, label: Label, instruction: str, look: Callable[[], Observation]
    ) -> tuple[np.ndarray, int]:
        """(action, who drove)."""
        over = label.subtask == "done" and world.task.family == "press"  # nothing undoes one press too many
        if self.quiet or (over and self.left == 0):
            return label.action, TEACHER
        if self.left == 0:
            self.wait -= 1
            if self.wait > 0:
                return label.action, TEACHER
            self._begin(world)
        self.left -= 1
        if self.left == 0:
            self.wait = int(self.rng.integers(15, 41))
        return self._action(label.action), DISTURBED

    def _begin(self, world: World) -> None:
        rng = self.rng
        self.left = int(rng.integers(2, 9))
        self.kind = str(rng.choice(["drift", "drift", "shake", "turn", "gripper", "gripper", "block"]))
        direction = rng.standard_normal(3)
        direction *= rng.uniform(0.3, 1.0) / max(1e-6, float(np.abs(direction).max()))
        self.push = np.zeros(7, np.float32)
        self.push[:3] = direction
        self.upward = world.task.family == "press"
        if self.upward:
            self.push[2] = abs(self.push[2])  # an arm that sags presses what it should not
        self.push[5] = rng.uniform(-1, 1) if self.kind == "turn" else 0.0
        if self.kind == "block":
            self.left = 1
            colours = [c for c in world.scene.blocks if c != world.held()]
            if colours:
                angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.9)
                velocity = (speed * np.cos(angle), speed * np.sin(angle), 0.0)
                world.push_block(colours[int(rng.integers(len(colours)))], velocity)

    def _action(self, teacher: np.ndarray) -> np.ndarray:
        action = teacher.copy()
        if self.kind == "drift":
            action[:6] = self.push[:6]
        elif self.kind == "shake":
            noise = self.rng.normal(0, 0.5, 3)
            action[:3] += np.abs(noise) * (0, 0, 1) + noise * (1, 1, 0) if self.upward else noise
            action[5] += self.rng.normal(0, 0.5)
        elif self.kind == "turn":
            action[:6] = 0.3 * self.push[:6]
            action[5] = self.push[5]
        elif self.kind == "gripper":
            action[:3] *= 0.3
            action[GRIPPER] = -action[GRIPPER]
        return np.clip(action, -1, 1).astype(np.float32)


class Shakes:
    """A teacher of any world drives; in half of the episodes noise joins in for 2 to 8 steps, every 15 to
    40."""

    def __init__(self, rng: np.random.Generator, low: np.ndarray, high: np.ndarray, clean: float = 0.5):
        self.rng, self.low, self.high = rng, low, high
        self.quiet = rng.random() < clean
        self.wait, self.left = int(rng.integers(3, 40)), 0

    def drive(self, action: np.ndarray) -> tuple[np.ndarray, int]:
        """(action, who drove)."""
        if self.left == 0 and not self.quiet:
            self.wait -= 1
            if self.wait <= 0:
                self.left, self.wait = int(self.rng.integers(2, 9)), int(self.rng.integers(15, 41))
        if self.left == 0:
            return action, TEACHER
        self.left -= 1
        noise = self.rng.normal(0, 0.25, action.shape) * (self.high - self.low)
        return np.clip(action + noise, self.low, self.high).astype(np.float32), DISTURBED


class Turns:
    """DAgger: the agent drives 10 to 40 steps (at times up to 100), the teacher 10 to 30, and so on.

    The agent is what it is in use, loop and all. Each of its turns starts from the teacher's memory, as if it
    had been driving all along and well. In half of the episodes the teacher writes its plans: what the
    controller gets wrong under good plans is seldom seen under bad ones. late: the share of its turns in
    which its answers come late (`training/late.py`); then `told` is the plan that it goes by.
    """

    def __init__(self, rng: np.random.Generator, agent: Agent, late: float = 0.0):
        self.rng, self.agent, self.late = rng, agent, late
        self.told: Plan | None = None
        self._now = agent  # whose turn it is, with its clock
        self.agents = bool(rng.random() < 0.8)
        self.left = self._length()
        self.begun = False
        self.instruction = self.memory = ""

    def _begin(self, instruction: str) -> None:
        self._now = agent = self.agent
        if self.late and self.rng.random() < self.late:
            self._now = agent = late_agent(agent.policy, agent.planner, self.rng)
            self.left += agent.clock.ticks(agent.clock.plan or 0.0, 0.0)  # until it has something to do
        agent.reset(instruction, int(self.rng.integers(2**31)))
        agent.memory, self.begun = self.memory, True
        agent.execute = int(self.rng.integers(4, 10))

    def _length(self) -> int:
        if not self.agents:
            return int(self.rng.integers(10, 31))
        return int(self.rng.integers(*((40, 101) if self.rng.random() < 0.25 else (10, 41))))

    def drive(
        self, world: World, label: Label, instruction: str, look: Callable[[], Observation]
    ) -> tuple[np.ndarray, int]:
        """(action, who drove)."""
        if self.left == 0:
            self.agents, self.begun = not self.agents, False
            self.left = self._length()
        self.left -= 1
        self.told = None
        if not self.agents:
            self.memory = label.memory
            return label.action, TEACHER
        if not self.begun:
            self._begin(instruction)
        elif instruction != self.instruction:
            self._now.say(instruction)
        self.instruction, agent = instruction, self._now
        step = agent.step(look() if agent.needs_observation else None)
        self.memory = agent.memory
        if agent.clock.realtime:
            self.told = step.plan
        return np.clip(step.action, -1, 1).astype(np.float32), AGENT
