"""What every planner is: something that looks and writes the next plan."""

from __future__ import annotations

from typing import Protocol

from backbone.observation import Observation
from highlevel.plan import Plan


class Planner(Protocol):
    def plan(self, observation: Observation, instruction: str, memory: str, previous: Plan | None) -> Plan:
        """The next plan. `memory`: the last plan's ("" at the start); `previous`: the plan that ran."""
        ...
