"""Planner and controller of one network, on one prefill: look once, write the subtask, read it, act."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from huggingface_hub import ModelHubMixin

from backbone.engine import Engine
from backbone.errors import UserError
from backbone.observation import Observation
from highlevel.plan import Plan
from lowlevel.controller import ActionChunk


@dataclass(frozen=True)
class Look:
    """One agent's moment in a batch of several: what it sees and is told, what it remembers, its last plan,
    the actions (K, A) it has promised, and where its noise comes from (the controller's by default).
    """

    observation: Observation
    memory: str = ""
    previous: Plan | None = None
    committed: np.ndarray | None = None
    generator: torch.Generator | None = None


class Levels(ModelHubMixin):
    """What every policy of ours is: `planner` and `controller` can be used, and replaced, one by one.
    Observations leave nothing behind.

    A network may lack either: without a planner it acts on the instruction itself. `save_pretrained` and
    `push_to_hub` are Hugging Face's.
    """

    def __init__(self, engine: Engine, planner, controller):
        self.engine, self.planner, self.controller = engine, planner, controller
        self.network = engine.network.eval()

    @property
    def horizon(self) -> int:
        return self.network.preset.horizon

    @property
    def action_dim(self) -> int:
        return self._there(self.controller, "controller", "makes actions").action_dim

    def prepare(self, how: str = "eager") -> None:
        """Run "eager" (the readable reference), "compiled" or as CUDA "graphs"; see backbone/engine.py."""
        self.engine.prepare(how)

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
        return self.step_batch([Look(observation, memory, previous, committed)])[0]

    @torch.inference_mode()
    def step_batch(self, looks: Sequence[Look]) -> list[tuple[Plan, ActionChunk]]:
        """The same for several agents in one pass; each gets what it would get alone."""
        controller = self._there(self.controller, "controller", "makes actions")
        if not looks:
            return []
        started, run, copies = time.perf_counter(), controller.look(len(looks)), controller.copies
        seen, kept = [look.observation for look in looks], [look.committed for look in looks]
        if self.planner is None:
            plans = [
                Plan(o.instruction, memory=x.memory, origin="instruction")
                for o, x in zip(seen, looks, strict=True)
            ]
            controller.read(run, seen * copies, [plan.text for plan in plans] * copies)
        else:
            memories, before = [look.memory for look in looks], [look.previous for look in looks]
            plans = self.planner.plan_on(run, seen * copies, memories * copies, before * copies)
            controller.tell(run, [plan.text for plan in plans])
            plans, started = plans[: len(looks)], time.perf_counter()
        texts, noise = [plan.text for plan in plans], [look.generator for look in looks]
        return list(zip(plans, controller.act_on(run, seen, texts, kept, noise, started), strict=True))

    def _there(self, level, name: str, does: str):
        if level is None:
            got = self.network.preset.name
            raise UserError(f"{name}: expected a network that {does}, got '{got}', which has none")
        return level
