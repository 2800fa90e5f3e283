"""nano from disk, or a network like it: one that brings its own words."""

from __future__ import annotations

from pathlib import Path

import torch

from agent.levels import Levels
from backbone import checkpoint
from backbone.engine import Engine
from backbone.errors import UserError
from backbone.inputs import encode_words
from backbone.network import Network
from backbone.observation import Observation
from backbone.tokenizer import Tokenizer
from highlevel.learned import LearnedPlanner
from lowlevel.learned import LearnedController


def load(name: str | Path, device: str | torch.device = "cpu", seed: int = 0) -> Levels:
    """A checkpoint of either kind: one that brings its own words, or one of the π family."""
    from agent.prompted import PromptedPolicy

    own = checkpoint.preset(name).vocabulary
    kind = Policy if own else PromptedPolicy
    return kind.from_pretrained(name, device=device, seed=seed)


class Policy(Levels):
    """A network with a tokenizer of its own (see `Levels`)."""

    def __init__(self, network: Network, tokenizer: Tokenizer, seed: int = 0):
        engine = Engine(network)
        planner = LearnedPlanner(engine, tokenizer) if network.layout.writes_plans else None
        super().__init__(engine, planner, LearnedController(engine, tokenizer, seed))
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str | torch.device = "cpu", seed: int = 0) -> Policy:
        """A shipped name ("nano"), a directory or a hub id; UserError in one line if it cannot be had."""
        return cls(*checkpoint.load(name, device), seed=seed)

    def _save_pretrained(self, save_directory: Path) -> None:
        checkpoint.save(save_directory, self.network, self.tokenizer)

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
        """UserError if the controller cannot read it: words it was never taught, or too many."""
        unknown = self.tokenizer.unknown_words(text)
        if unknown:
            words = ", ".join(map(repr, unknown[:5]))
            raise UserError(f"subtask: expected words the agent was taught, got unknown {words}")
        encode_words(self.tokenizer, text, self.controller.plan_segment.length, "subtask")
