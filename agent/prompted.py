"""A π network from disk as something that plans, acts, or both."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from agent.levels import Levels
from backbone import checkpoint
from backbone.engine import Engine
from backbone.network import Network
from backbone.observation import Observation
from backbone.prompts import FITTING, prompt
from backbone.reader import Reader
from backbone.words import Words
from highlevel.prompted import PromptedPlanner
from lowlevel.prompted import PromptedController


class PromptedPolicy(Levels):
    """A network of the π family with a published tokenizer (see `Levels`).

    dims: the robot's own numbers of state and actions. cameras: the network's names -> the robot's.
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
        self.about = {"prompt": how, "dims": dict(dims)}
        self.reader = Reader(network, words, prompt(how), dims.get("state", p.state_dim), cameras)
        engine, actions = Engine(network), dims.get("actions", p.action_dim)
        writes = any(s.target for s in self.reader.layout.segments)
        planner = PromptedPlanner(engine, self.reader) if writes else None
        controller = PromptedController(engine, self.reader, actions, seed) if p.expert else None
        super().__init__(engine, planner, controller)

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
        """A directory or hub id that `steersman convert` or `steersman train` made. tokenizer, how, cameras:
        where they are not in it, or others.
        """
        about, network = checkpoint.about(name), checkpoint.load_network(name, device, dtype)
        how = how or about.get("prompt") or FITTING.get(network.preset.name.removesuffix("_tiny"), "")
        words = Words.load(tokenizer or checkpoint.find(name))
        cameras = cameras or about.get("cameras")
        policy = cls(network, words, how, about.get("dims", {}), cameras, seed)
        policy.about = about | policy.about | ({"cameras": dict(cameras)} if cameras else {})
        policy.reader.metadata = about.get("metadata", {})
        policy.fast = checkpoint.find(name) / "fast"
        return policy

    def _save_pretrained(self, save_directory: Path) -> None:
        checkpoint.save(save_directory, self.network, None, about=self.about)
        self.reader.words.save(save_directory)
        if (fast := getattr(self, "fast", None)) and fast.is_dir():
            shutil.copytree(fast, save_directory / "fast", dirs_exist_ok=True)

    def check(self, observation: Observation) -> None:
        """UserError unless its cameras and its state fit."""
        self.reader.check(observation)
