"""Planner and controller of one network, on one prefill: look once, write the subtask, read it, act."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import ModelHubMixin

from backbone import checkpoint
from backbone.errors import UserError
from backbone.inference import Run, encode_words
from backbone.network import Network
from backbone.observation import Observation
from backbone.tokenizer import Tokenizer
from highlevel.learned import LearnedPlanner
from highlevel.plan import Plan
from lowlevel.controller import ActionChunk
from lowlevel.learned import LearnedController


class Policy(ModelHubMixin):
    """`planner` and `controller` can be used, and replaced, one by one. Observations leave nothing behind.

    A network without a planner has None there, and acts on the instruction itself. `save_pretrained` and
    `push_to_hub` are Hugging Face's.
    """

    def __init__(self, network: Network, tokenizer: Tokenizer, seed: int = 0):
        self.network, self.tokenizer = network.eval(), tokenizer
        self.planner = LearnedPlanner(network, tokenizer) if network.layout.writes_plans else None
        self.controller = LearnedController(network, tokenizer, seed)

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str | torch.device = "cpu", seed: int = 0) -> Policy:
        """A shipped name ("nano"), a directory or a hub id; UserError in one line if it cannot be had."""
        return cls(*checkpoint.load(name, device), seed=seed)

    def _save_pretrained(self, save_directory: Path) -> None:
        checkpoint.save(save_directory, self.network, self.tokenizer)

    @property
    def horizon(self) -> int:
        return self.network.preset.horizon

    @property
    def action_dim(self) -> int:
        return self.network.preset.action_dim

    def check(self, observation: Observation) -> None:
        """UserError unless every camera and the state are there and fit."""
        cameras = {name: (config.image_size,) * 2 for name, config in self.network.preset.cameras}
        observation.check(cameras, self.network.preset.state_dim)

    def check_instruction(self, text: str) -> None:
        """UserError if it has words that the network was never taught, or too many: it would be misread."""
        unknown = self.tokenizer.unknown_words(text)
        if unknown:
            words = ", ".join(map(repr, unknown[:5]))
            raise UserError(f"instruction: expected English words the agent was taught, got unknown {words}")
        lengths = {s.source: s.length for s in self.network.layout.segments}
        encode_words(self.tokenizer, text, lengths["instruction_ids"], "instruction")

    def check_subtask(self, text: str) -> None:
        """UserError if the controller cannot read it."""
        encode_words(self.tokenizer, text, self.controller.plan_segment.length, "subtask")

    def reset(self, seed: int = 0) -> None:
        """Start the controller's noise anew."""
        self.controller.reset(seed)

    def plan(self, observation: Observation, memory: str = "", previous: Plan | None = None) -> Plan:
        if self.planner is None:
            name = self.network.preset.name
            raise UserError(f"planner: expected a network that writes plans, got '{name}', which has none")
        return self.planner.plan(observation, observation.instruction, memory, previous)

    def act(self, observation: Observation, subtask: str, committed: np.ndarray | None = None) -> ActionChunk:
        return self.controller.act(observation, subtask, committed)

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
        run = Run(self.network)
        plan = self.planner.plan_on(run, observation, observation.instruction, memory, previous)
        return plan, self.controller.act_on(run, plan.text, committed, time.perf_counter())
