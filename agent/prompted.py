"""A π network from disk as something that plans, acts, or both."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import ModelHubMixin

from backbone import checkpoint
from backbone.errors import UserError
from backbone.inference import Run
from backbone.network import Network
from backbone.observation import Observation
from backbone.prompts import FITTING, prompt
from backbone.reader import Reader
from backbone.words import Words
from highlevel.plan import Plan
from highlevel.prompted import PromptedPlanner
from lowlevel.controller import ActionChunk
from lowlevel.prompted import PromptedController


class PromptedPolicy(ModelHubMixin):
    """`planner` and `controller` as far as the network has them; where it has both they share one prefill.

    dims: the robot's own numbers of state and actions. cameras: the network's names -> the robot's.
    `save_pretrained` and `push_to_hub` are Hugging Face's.
    """

    def __init__(
        self,
        network: Network,
        words: Words,
        how: str,
        dims: Mapping[str, int],
        cameras: Mapping[str, str] | None = None,
        seed: int = 0,
    ):
        p = network.preset
        self.network, self.about = network.eval(), {"prompt": how, "dims": dict(dims)}
        self.reader = Reader(network, words, prompt(how), dims.get("state", p.state_dim), cameras)
        writes = any(s.target for s in self.reader.layout.segments)
        self.planner = PromptedPlanner(self.reader) if writes else None
        actions = dims.get("actions", p.action_dim)
        self.controller = PromptedController(self.reader, actions, seed) if p.expert else None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        tokenizer: str | Path | None = None,
        how: str | None = None,
        cameras: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> PromptedPolicy:
        """A directory or hub id that `steersman convert` made. tokenizer, how: where they are not in it."""
        about, network = checkpoint.about(name), checkpoint.load_network(name, device, dtype)
        how = how or about.get("prompt") or FITTING.get(network.preset.name.removesuffix("_tiny"), "")
        words = Words.load(tokenizer or checkpoint.find(name))
        return cls(network, words, how, about.get("dims", {}), cameras, seed)

    def _save_pretrained(self, save_directory: Path) -> None:
        checkpoint.save(save_directory, self.network, None, about=self.about)
        self.reader.words.save(save_directory)

    @property
    def horizon(self) -> int:
        return self.network.preset.horizon

    @property
    def action_dim(self) -> int:
        return self._controller.action_dim

    @property
    def _controller(self) -> PromptedController:
        if self.controller is None:
            raise UserError(f"controller: '{self.network.preset.name}' makes no actions")
        return self.controller

    def check(self, observation: Observation) -> None:
        """UserError unless it fits."""
        self.reader.inputs(observation, observation.instruction or "go")

    def reset(self, seed: int = 0) -> None:
        """Start the controller's noise anew."""
        if self.controller is not None:
            self.controller.reset(seed)

    def plan(self, observation: Observation, memory: str = "", previous: Plan | None = None) -> Plan:
        if self.planner is None:
            raise UserError(f"planner: '{self.network.preset.name}' writes no text")
        return self.planner.plan(observation, observation.instruction, memory, previous)

    def act(self, observation: Observation, subtask: str, committed: np.ndarray | None = None) -> ActionChunk:
        return self._controller.act(observation, subtask, committed)

    def step(
        self,
        observation: Observation,
        memory: str = "",
        previous: Plan | None = None,
        committed: np.ndarray | None = None,
    ) -> tuple[Plan, ActionChunk]:
        """Plan, then act on that plan; everything is encoded once for both."""
        controller = self._controller
        if self.planner is None:
            plan = Plan(observation.instruction, memory=memory, origin="instruction")
            return plan, self.act(observation, plan.text, committed)
        run = Run(self.network)
        plan = self.planner.plan_on(run, observation, observation.instruction, memory, previous)
        return plan, controller.act_on(run, plan.text, committed, time.perf_counter())
