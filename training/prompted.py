"""What a run of the π family trains: a preset from nothing, or what `steersman convert` made, on LeRobot
datasets. All that a robot needs is kept with the weights: tokenizer, FAST, prompt, cameras, normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from backbone import checkpoint, family
from backbone.errors import UserError
from backbone.prompts import FITTING, prompt
from backbone.reader import Reader
from backbone.words import Words
from lowlevel.fast import FAST
from training import prepare
from training.config import Config
from training.course import weighted
from training.samples import Frames, PromptedSampler
from training.vocabulary import fingerprint

RATE, FURTHER_RATE = 1e-3, 2.5e-5  # peaks, from nothing and from a checkpoint


class PromptedCourse:
    """Batches for both levels at once (see backbone/joint.py) from any number of datasets."""

    shown = {"text_loss": "text", "fast_loss": "fast", "flow_loss": "flow"}

    def __init__(self, config: Config, process: int, first: Callable[[], AbstractContextManager]):
        self.config, self.process = config, process
        start, about = None, {}
        if config.init:
            start, about = checkpoint.preset(config.init), checkpoint.about(config.init)
        name = start.name if start else config.preset
        if config.preset not in (None, name):
            raise UserError(f"train: expected --preset {name}, as {config.init} is, got {config.preset}")
        tiny = start is None and name.endswith("_tiny")
        if config.sizes and not tiny:
            raise UserError(f"train: --sizes are those of a tiny network from scratch, got '{name}'")
        if config.keep_normalisation and start is None:
            raise UserError("train: --keep-normalisation needs a checkpoint (--init), got none")
        if config.evaluate_minutes and "planner" in name:
            raise UserError(f"train: --evaluate-minutes needs a network that acts, got '{name}'")
        self.datasets = prepare.open_datasets(config.datasets, config.own_runs)
        if any(d.state is None for d in self.datasets):
            raise UserError(f"dataset: '{name}' needs a column 'observation.state', got none")
        self.words = self._words(name, tiny)
        self.how = config.prompt or about.get("prompt") or FITTING.get(name.removesuffix("_tiny"), "")
        self.reading = read = prepare.reading(config, about, self.datasets, self.words)
        if tiny:
            texts = self.datasets, self.words, prompt(self.how)
            start = prepare.tiny_preset(name, config.sizes or {}, *texts, read)
        self.network = prepare.make_network(config, start or family.PRESETS[name](), self.words)
        self.cameras = config.cameras or about.get("cameras") or self._cameras()
        self.dims = prepare.widths(self.datasets, self.network.preset)
        if not config.keep_normalisation:
            prepare.normalise(self.network, self.datasets)
        elif about.get("dims", self.dims) != self.dims:
            got = f"expected datasets with {about['dims']}, got {self.dims}"
            raise UserError(f"train: --keep-normalisation of {config.init}: {got}")
        self.about = {"source": about["source"]} if "source" in about else {}
        self.about |= {"prompt": self.how, "dims": self.dims, "cameras": self.cameras}
        self.about |= {"history_interval": read.interval, "told": read.told, "grounded": read.grounded}
        self.about |= {"metadata": dict(read.metadata), "datasets": [d.name for d in self.datasets]}
        self.fast: FAST | None = None
        self.loaded()
        if any(s.kind == "fast" for s in self.network.layout.segments):
            self.fast, counts = prepare.fast_tokens(config, self.frames, first)
            if tiny and "fast" not in (config.sizes or {}):
                prepare.shorten_fast(self.network, int(np.quantile(counts, 0.99)) + 1)
            self._cut = np.mean(counts > self.network.layout["fast"].length)
            self.loaded()
        weightless = config.planner_weight <= 0 or config.controller_weight <= 0
        targets = any(s.target for s in self.network.layout.segments)
        self.unused = config.train == "all" and (weightless or not targets)
        self.held_out = len(self._held_out.places) > 0
        self.vocabulary, self.samples = fingerprint(self.words), config.batch
        self.learning_rate = config.learning_rate or (FURTHER_RATE if config.init else RATE)

    def _words(self, name: str, tiny: bool) -> Words:
        if self.config.tokenizer or self.config.init:
            return Words.load(self.config.tokenizer or checkpoint.find(self.config.init))
        if not tiny:
            raise UserError(f"train: expected a --tokenizer for '{name}', got none")
        return prepare.own_words(self.datasets, self.config.metadata or {})

    def _cameras(self) -> dict[str, str]:
        """The datasets' cameras in their order, where there are not too many."""
        ours = [name for name, _ in self.network.preset.cameras]
        theirs = list(dict.fromkeys(camera for d in self.datasets for camera in d.cameras))
        if len(theirs) > len(ours):
            expected, got = ", ".join(ours), ", ".join(theirs)
            raise UserError(f"train: expected --cameras to say which are {expected}, got {got}")
        return dict(zip(ours, theirs, strict=False))

    # --- the course --------------------------------------------------------------------------------------

    def loaded(self) -> None:
        """The network is another now, and so may be its normalisation."""
        c, how = self.config, prompt(self.how)
        reader = Reader(self.network, self.words, how, self.dims["state"], self.cameras, device="cpu")
        self.frames = Frames(self.datasets, reader, self.reading)
        threads = c.threads if c.threads > 1 else 0
        self.sampler = PromptedSampler(self.frames, self.fast, c.seed, self.process, threads=threads)
        self._held_out = PromptedSampler(self.frames, self.fast, c.seed, 0, held=True)

    def batches(self, step: int) -> tuple[dict]:
        return (self.sampler.batch(step, self.config.batch),)

    def held_out_batches(self, k: int) -> tuple[dict]:
        return (self._held_out.batch(k, self.config.batch),)

    def losses(self, network: nn.Module, batch: dict) -> dict[str, Tensor]:
        out = network(flow_samples=self.config.flow_samples, both=batch)
        return {name: value for name, value in out.items() if isinstance(value, Tensor)}

    def loss(self, out: Mapping[str, Tensor]) -> Tensor:
        levels = dict.fromkeys(("flow_loss", "fast_loss"), self.config.controller_weight)
        return weighted(self.network, out, levels, self.config)

    def save(self, out: Path, about: dict[str, Any]) -> None:
        """What belongs to the weights comes first: where there are weights, there is everything."""
        out.mkdir(parents=True, exist_ok=True)
        self.words.save(out)
        if self.fast is not None:
            self.fast.save(out / "fast")
        checkpoint.save(out, self.network, None, about=self.about | about)

    def summary(self) -> str:
        sets, held = self.datasets, len(self._held_out.places)
        cameras = ", ".join(f"{ours}: {theirs}" for ours, theirs in self.cameras.items())
        episodes = sum(len(d.numbers) for d in sets)
        frames = len(self.sampler.places) + held
        facts = f"{frames} frames ({held} held out) of {episodes} episodes; {cameras}; "
        facts += f"prompt {self.how}"
        return facts + (f"; FAST cuts {self._cut:.1%} of chunks" if self.fast else "")
