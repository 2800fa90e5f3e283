"""Both levels on another machine: one question, and both are answered on what was seen once."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from agent.asks import Ask
from agent.remote.controller import RemoteController
from agent.remote.planner import RemotePlanner
from agent.remote.reply import actions_of, plan_of, told
from backbone.errors import PolicyError
from backbone.observation import Observation
from highlevel.plan import Plan
from lowlevel.controller import ActionChunk


class RemotePolicy(RemoteController):
    """`plan`, `act` and `step` on a server of ours, over one link. planner: the planner alone."""

    def __init__(self, *given, **options):
        super().__init__(*given, **options)
        try:
            self.planner = RemotePlanner(self.link, self.format)
            self.planner.robot, self.planner.episode = self.robot, self.episode
        except PolicyError:
            self.close()
            raise

    def plan(self, observation: Observation, memory: str = "", previous: Plan | None = None) -> Plan:
        return self.planner.plan(observation, observation.instruction, memory, previous)

    def step(
        self,
        observation: Observation,
        memory: str = "",
        previous: Plan | None = None,
        committed: np.ndarray | None = None,
    ) -> tuple[Plan, ActionChunk]:
        """Plan, then act on that plan."""
        start = time.perf_counter()
        more = {**told(memory, previous), "subtask": "", **self._promised(committed)}  # "": nobody's order
        reply = self._asked(observation, observation.instruction, **more)
        actions, seconds = actions_of(reply, self.name, self.action_dim), time.perf_counter() - start
        plan = replace(plan_of(reply, self.name), seconds=seconds)
        return plan, ActionChunk(actions, plan.text, seconds=seconds)

    def ask(self, what: str, *look, subtask: str = "", committed=None, **more: Any) -> Ask:
        """A question for `agent.asks`. `more` (noise, what a chunk left) is the server's own affair."""
        given = (*look, subtask) if what == "act" else look
        kept = () if committed is None or what == "plan" else (committed,)
        return Ask(lambda: getattr(self, what)(*given, *kept), kind=(id(self),), renew=self.renew)
