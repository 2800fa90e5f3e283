"""A planner on another machine."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace

from agent.remote.level import RemoteLevel
from agent.remote.link import Link
from agent.remote.reply import plan_of, told
from agent.robots import RobotFormat
from backbone.errors import PolicyError
from backbone.observation import Observation
from highlevel.plan import Plan, Target

BEAT = 1.0  # seconds without a sign of life: the last subtask may stand that long


class RemotePlanner(RemoteLevel):
    """A `Planner` on a server of ours (see `RemoteLevel`). It is told everything at each question, so that a
    server that was started anew goes on. PolicyError as for a `RemoteController`.
    """

    def __init__(
        self, link: str | Link, robot: str | RobotFormat | None = None, heartbeat: float = BEAT, **options
    ):
        super().__init__(link, robot, heartbeat=heartbeat, **options)
        if not (self.link.ours or {}).get("planner"):
            self.close() if not isinstance(link, Link) else None
            raise PolicyError(f"{self.name}: expected a server that plans, got one that does not")

    def plan(self, observation: Observation, instruction: str, memory: str, previous: Plan | None) -> Plan:
        """The next plan; `previous`, if it was this server's, is confirmed rather than written again."""
        return self._planned(observation, instruction, memory, previous)

    def ground(
        self, observation: Observation, instruction: str, memory: str, previous: Plan | None, subtask: str
    ) -> tuple[Target | None, Plan]:
        """Where it points for that subtask, and the subtask with the memory that it writes: what it would
        have said itself the protocol does not tell.
        """
        plan = self._planned(observation, instruction, memory, previous, subtask)
        return plan.target, replace(plan, tokens=())

    def otherwise(
        self,
        observation: Observation,
        instruction: str,
        memory: str,
        previous: Plan | None,
        refused: Collection[str],
    ) -> Plan:
        """The likeliest plan with another subtask than those, which led nowhere."""
        return self._planned(observation, instruction, memory, previous, refused=list(refused))

    def _planned(self, observation, instruction, memory, previous, order="", **more) -> Plan:
        start, prompt = time.perf_counter(), instruction or observation.instruction
        about = {**told(memory, previous), "subtask": order, **more}
        reply = self._asked(observation, prompt, want="plan", **about)
        return replace(plan_of(reply, self.name), seconds=time.perf_counter() - start)
