"""Planner and controller of one network, on one prefill: look once, write the subtask, read it, act."""

from __future__ import annotations

import time

import numpy as np
from huggingface_hub import ModelHubMixin

from backbone.errors import UserError
from backbone.inference import Run
from backbone.network import Network
from backbone.observation import Observation
from highlevel.plan import Plan
from lowlevel.controller import ActionChunk


class Levels(ModelHubMixin):
    """What every policy of ours is: `planner` and `controller` can be used, and replaced, one by one.
    Observations leave nothing behind.

    A network may lack either: without a planner it acts on the instruction itself. `save_pretrained` and
    `push_to_hub` are Hugging Face's.
    """

    def __init__(self, network: Network, planner, controller):
        self.network, self.planner, self.controller = network.eval(), planner, controller

    @property
    def horizon(self) -> int:
        return self.network.preset.horizon

    @property
    def action_dim(self) -> int:
        return self._there(self.controller, "controller", "makes actions").action_dim

    def reset(self, seed: int = 0) -> None:
        """Start the controller's noise anew."""
        if self.controller is not None:
            self.controller.reset(seed)

    def plan(self, observation: Observation, memory: str = "", previous: Plan | None = None) -> Plan:
        planner = self._there(self.planner, "planner", "writes plans")
        return planner.plan(observation, observation.instruction, memory, previous)

    def act(self, observation: Observation, subtask: str, committed: np.ndarray | None = None) -> ActionChunk:
        controller = self._there(self.controller, "controller", "makes actions")
        return controller.act(observation, subtask, committed)

    def step(
        self,
        observation: Observation,
        memory: str = "",
        previous: Plan | None = None,
        committed: np.ndarray | None = None,
    ) -> tuple[Plan, ActionChunk]:
        """Plan, then act on that plan; cameras, state and words are encoded once for both."""
        if self.planner is None:
            plan = Plan(observation.instruction, memory=memory, origin="instruction")
            return plan, self.act(observation, plan.text, committed)
        controller = self._there(self.controller, "controller", "makes actions")
        run = Run(self.network)
        plan = self.planner.plan_on(run, observation, observation.instruction, memory, previous)
        return plan, controller.act_on(run, plan.text, committed, time.perf_counter())

    def _there(self, level, name: str, does: str):
        if level is None:
            got = self.network.preset.name
            raise UserError(f"{name}: expected a network that {does}, got '{got}', which has none")
        return level
