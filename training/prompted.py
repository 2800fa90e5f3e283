"""What a run of the π family trains: a preset from nothing, or what `steersman convert` made, on LeRobot
datasets. All that a robot needs is kept with the weights: tokenizer, FAST, prompt, cameras, normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backbone import checkpoint, family, statistics
from backbone.config import Preset
from backbone.errors import UserError
from backbone.network import Network
from backbone.prompts import FITTING, Prompt, metadata_words, prompt, prompt_ids
from backbone.reader import Reader
from backbone.words import Words
from highlevel.plan import Target
from lowlevel.fast import FAST
from training.config import Config
from training.course import weighted
from training.lerobot import LeRobotDataset
from training.samples import Frames, PromptedSampler, Reading, chunk_at, places
from training.start import action_range
from training.vocabulary import fingerprint, knows_places, vocabulary

FIT_CHUNKS = 4096  # that a FAST tokenizer learns from
TINY_FAST = 512  # its words in a tiny network
SPARE = 6  # tokens beyond the longest text, for what people say
EXPERT = ("expert.", "action_", "time_")  # what a run that trains the expert only trains


class PromptedCourse:
    """Batches of both levels at once (see backbone/joint.py) from any number of datasets."""

    shown = {"text_loss": "text", "fast_loss": "fast", "flow_loss": "flow"}

    def __init__(self, config: Config, process: int, first: Callable[[], AbstractContextManager]):
        self.config, self.process = config, process
        self.datasets = _open(config)
        start = checkpoint.preset(config.init) if config.init else None
        self.about = checkpoint.about(config.init) if config.init else {}
        self.name = start.name if start else config.preset
        if start and config.preset not in (None, start.name):
            raise UserError(
                f"train: expected --preset {start.name}, as {config.init} has, got {config.preset}"
            )
        tiny = start is None and self.name.endswith("_tiny")
        if config.sizes and not tiny:
            raise UserError(f"train: --sizes are those of a tiny network from scratch, got '{self.name}'")
        self.words = self._words(tiny)
        usual = self.about.get("prompt") or FITTING.get(self.name.removesuffix("_tiny"), "")
        self.how = config.prompt or usual
        self.reading = self._reading(prompt(self.how))
        layout = (start or family.PRESETS[self.name]()).layout
        self.ranges = _ranges(self.datasets)
        dims = {name: len(low) for name, (low, _) in self.ranges.items()}
        sizes = self._sizes(dims, layout) if tiny else {}
        made = start or (family.build(self.name.removesuffix("_tiny"), True, **sizes) if tiny else None)
        made = made or family.PRESETS[self.name]()
        subtasks = any(s.name == "response" for s in layout.segments) or config.told == "subtask"
        self.fast = self._fast(made, subtasks, first) if made.fast_words else None
        if tiny and self.fast and "fast" not in (config.sizes or {}):
            made = family.build(self.name.removesuffix("_tiny"), True, **sizes, fast=self._fast_length)
        self.network, self.dims = self._network(made, start is not None)
        self.about |= {"prompt": self.how, "dims": self.dims, "history_interval": self.reading.interval}
        self.about |= {"told": config.told, "grounded": self.reading.grounded}
        self.about |= {"metadata": dict(self.reading.metadata), "datasets": [d.name for d in self.datasets]}
        self.about["cameras"] = self.cameras = self._cameras()
        self.loaded()
        targets = any(s.target for s in made.layout.segments)
        partly = config.planner_weight <= 0 or config.controller_weight <= 0
        self.unused = config.train == "all" and (partly or not targets)
        self.held_out = len(self._held_out.places) > 0
        self.vocabulary, self.samples = fingerprint(self.words), config.batch
        self.learning_rate = config.learning_rate or (2.5e-5 if config.init else 1e-3)

    # --- the course --------------------------------------------------------------------------------------

    def loaded(self) -> None:
        """The network's weights are others now, and so may be its normalisation."""
        c = self.config
        reader = Reader(
            self.network, self.words, prompt(self.how), self.dims["state"], self.cameras, device="cpu"
        )
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
        """What belongs to the weights comes first: a checkpoint with its weights has everything."""
        out.mkdir(parents=True, exist_ok=True)
        self.words.save(out)
        if self.fast is not None:
            self.fast.save(out / "fast")
        checkpoint.save(out, self.network, None, about=self.about | about)

    def summary(self) -> str:
        sets, held = self.datasets, len(self._held_out.places)
        cameras = ", ".join(f"{ours}: {theirs}" for ours, theirs in self.cameras.items())
        episodes = sum(len(d.numbers) for d in sets)
        facts = f"{sum(map(len, sets))} frames ({held} held out) of {episodes} episodes; {cameras}; "
        facts += f"prompt {self.how}"
        return facts + (f"; FAST cuts {self._cut:.1%} of chunks" if self.fast else "")

    # --- what it is made of ------------------------------------------------------------------------------

    def _words(self, tiny: bool) -> Words:
        if self.config.tokenizer or self.config.init:
            return Words.load(self.config.tokenizer or checkpoint.find(self.config.init))
        if not tiny:
            raise UserError(f"train: expected a --tokenizer for '{self.name}', got none")
        texts = [f"{k} {v}" for k, v in (self.config.metadata or {}).items()]
        for dataset in self.datasets:
            for said in (dataset.task, dataset.subtask, dataset.memory):
                texts += said.table if said else ()
            texts += [str(v) for values in dataset.metadata.values() for v in np.unique(values.astype(str))]
        return vocabulary(texts)

    def _reading(self, how: Prompt) -> Reading:
        c, about = self.config, self.about
        metadata = c.metadata or about.get("metadata") or {}
        metadata_words(metadata)  # an unknown field is a mistake
        placed = any(d.target is not None and (d.target >= 0).any() for d in self.datasets)
        grounded = c.grounded if c.grounded is not None else placed and knows_places(self.words)
        if grounded and not (placed and knows_places(self.words)):
            lack = "a dataset with a column 'target'" if not placed else "a tokenizer that knows <loc0000>"
            raise UserError(f"train: --grounded needs {lack}, got none")
        second = round(self.datasets[0].fps)
        interval = c.history_interval or about.get("history_interval") or max(1, second)
        if interval < 1:
            raise UserError(f"train: expected a --history-interval of at least 1, got {interval}")
        return Reading(interval, c.told, grounded, metadata, c.dropout, c.jitter, c.z_weight)

    def _sizes(self, dims: Mapping[str, int], layout) -> dict[str, int]:
        """Of a tiny network: as long as the texts are, as wide as the robot."""
        words, how, sets = self.words, prompt(self.how), self.datasets
        place = f" {Target(0.5, 0.5).tokens}" if self.reading.grounded else ""

        def said(name: str) -> list[str]:
            return [t for d in sets if getattr(d, name) for t in getattr(d, name).table] or [""]

        memory = max((t for t in said("memory")), key=lambda t: len(words.encode(t)))
        prompts, many = [], 10**6
        for state in (np.full(dims["state"], -2.0), np.full(dims["state"], 2.0)):
            prompts += [
                prompt_ids(how, words, many, t, state, memory) for t in said("task") + said("subtask")
            ]
        subtasks = [how.response.format(text=t + place) for t in said("subtask")]
        fields = {**{name: 100 for d in sets for name in d.metadata}, **self.reading.metadata}
        length = {
            "prompt": max(map(len, prompts)) + SPARE,
            "response": max(len(words.encode(t)) for t in subtasks) + SPARE,
            "memory": len(words.encode(memory)) + SPARE,
            "metadata": len(words.encode(metadata_words(fields))) + SPARE,
        }
        sizes = {"words": len(words.tokenizer), "state_dim": dims["state"], "fast_words": TINY_FAST, **length}
        sizes |= {"action_dim": dims["actions"]} if "actions" in dims else {}
        known = {*sizes, "fast", "horizon", "steps"}
        unknown = sorted(set(self.config.sizes or {}) - known)
        if unknown:
            raise UserError(f"train: expected --sizes of {', '.join(sorted(known))}, got '{unknown[0]}'")
        return sizes | (self.config.sizes or {})

    def _fast(self, made: Preset, subtasks: bool, first: Callable[[], AbstractContextManager]) -> FAST:
        """The one that is given, the checkpoint's, that of the run as it began, or one that is fitted now."""
        c, kept = self.config, self.config.out / "fast"
        if "actions" not in self.ranges:
            raise UserError(
                f"dataset: '{self.name}' needs a column 'action', {self.datasets[0].root} has none"
            )
        low, high = self.ranges["actions"]
        if c.keep_normalisation:
            norm = checkpoint.load_network(c.init).action_norm
            low, high = norm.low[: len(low)].numpy(), norm.high[: len(low)].numpy()
        half = np.where(high - low < 1e-3, 1.0, (high - low) / 2)
        drawn = places(self.datasets, False)
        rng = np.random.default_rng(c.seed)
        drawn = drawn[np.sort(rng.permutation(len(drawn))[:FIT_CHUNKS])]
        found = [chunk_at(self.datasets[d], int(r), made.horizon, not subtasks) for d, r in drawn]
        chunks = [((a - (low + high) / 2) / half).clip(-1, 1) for a, valid in found if valid.all()]
        given = c.fast or (checkpoint.find(c.init) / "fast" if c.init else None)
        with first():
            if not (kept / "tokenizer.json").is_file():
                if given and (given / "tokenizer.json").is_file():
                    fast = FAST.load(given)
                elif c.fast:
                    fast = FAST.load(c.fast)  # says what is missing
                else:
                    fast = FAST.fit(chunks, size=made.fast_words)
                if fast.size > made.fast_words:
                    most = made.fast_words
                    raise UserError(
                        f"FAST: expected at most {most} tokens for '{self.name}', got {fast.size}"
                    )
                fast.save(kept)
            fast = FAST.load(kept)
        counts = [len(ids) for ids in fast.encode(np.stack(chunks))] if chunks else [1]
        self._fast_length = int(np.quantile(counts, 0.99)) + 1
        tiny = not c.init and self.name.endswith("_tiny") and "fast" not in (c.sizes or {})
        room = self._fast_length if tiny else made.layout["fast"].length
        self._cut = float(np.mean(np.array(counts) > room))
        return fast

    def _network(self, made: Preset, loaded: bool) -> tuple[Network, dict[str, int]]:
        c = self.config
        if not loaded or not any(any(s.ids) for s in made.layout.segments if s.kind == "constant"):
            made = family.with_words(made, self.words.encode)
        targets = any(s.target for s in made.layout.segments)
        insulated = targets if c.insulated is None else c.insulated
        delay = made.trained_delay if c.trained_delay is None else c.trained_delay
        if not 0 <= delay < made.horizon:
            raise UserError(f"train: expected a --trained-delay from 0 to {made.horizon - 1}, got {delay}")
        made = replace(made, knowledge_insulation=insulated, trained_delay=delay)
        if c.train == "expert" and made.expert is None:
            raise UserError(f"train: '{self.name}' has no action expert, got --train expert")
        if loaded:
            network = checkpoint.load_network(c.init)
            network.preset, network.layout = made, made.layout  # no weight depends on what differs
        else:
            torch.manual_seed(c.seed)
            network = Network(made)
        dims = {name: len(low) for name, (low, _) in self.ranges.items()}
        if not c.keep_normalisation:
            ranges = {k: tuple(torch.as_tensor(v) for v in r) for k, r in self.ranges.items()}
            where = ", ".join(str(d.root) for d in self.datasets)
            dims = statistics.put(network, ranges, where)
        elif not loaded:
            raise UserError("train: --keep-normalisation needs a checkpoint (--init), got none")
        if c.train == "expert":
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(name.startswith(EXPERT))
        network.recompute(c.recompute)
        return network.train(), dims

    def _cameras(self) -> dict[str, str]:
        names = [name for name, _ in self.network.preset.cameras]
        chosen = self.config.cameras or self.about.get("cameras")
        if chosen:
            return dict(chosen)
        theirs = list(dict.fromkeys(camera for d in self.datasets for camera in d.cameras))
        if len(theirs) > len(names):
            got = ", ".join(theirs)
            raise UserError(f"train: expected --cameras to say which are {', '.join(names)}, got {got}")
        return dict(zip(names, theirs, strict=False))


def _open(config: Config) -> list[LeRobotDataset]:
    if not config.datasets:
        raise UserError("train: expected --datasets, the paths of LeRobot v3 datasets, got none")
    datasets = [LeRobotDataset(path) for path in config.datasets]
    for name in ("state", "action"):
        widths = {None if (x := getattr(d, name)) is None else x.shape[1] for d in datasets}
        if len(widths) > 1:
            raise UserError(
                f"train: expected datasets with the same {name}, got widths {sorted(map(str, widths))}"
            )
    return datasets


def _ranges(datasets: Sequence[LeRobotDataset]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What becomes -1 and 1 of state and actions, over the frames that training sees."""
    drawn, found = places(datasets, False), {}
    for name, column in (("state", "state"), ("actions", "action")):
        if any(getattr(d, column) is None for d in datasets):
            continue
        values = np.concatenate(
            [getattr(d, column)[drawn[drawn[:, 0] == n, 1]] for n, d in enumerate(datasets)]
        )
        ours = name == "actions" and all(d.driver is not None for d in datasets)
        low, high = action_range(values) if ours else np.quantile(values, [0.01, 0.99], axis=0)
        found[name] = low.astype(np.float32), high.astype(np.float32)
    return found
