"""What a run of the π family starts from: datasets, their words and ranges, a network, its FAST tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from backbone import checkpoint, family, published, statistics
from backbone.config import Preset
from backbone.errors import UserError
from backbone.layout import Layout
from backbone.network import Network
from backbone.prompts import Prompt, metadata_ids, metadata_words, prompt_ids
from backbone.words import Words
from highlevel.plan import Target
from lowlevel.fast import FAST, TOKENS
from training.config import Config
from training.lerobot import LeRobotDataset
from training.samples import Frames, Reading, places
from training.start import action_range
from training.vocabulary import knows_places, vocabulary

FIT_CHUNKS = 4096  # that a FAST tokenizer learns from
TINY_FAST = 512  # its words in a tiny network
SPARE = 6  # tokens beyond the longest text, for what people say
EXPERT = ("expert.", "action_", "time_")  # the parameters of the action expert begin so
SIZES = ("words", "state_dim", "action_dim", "prompt", "response", "memory", "metadata", "fast_words", "fast")
SIZES += ("horizon", "steps")


def open_datasets(paths: Sequence[str] | None, own_runs: bool = False) -> list[LeRobotDataset]:
    """UserError unless there are some and they are of one robot. Of an agent's own runs what a person showed
    is learnt from; what it solved by itself (which teaches it what it does already, mistakes and all) only if
    that is asked for.
    """
    if not paths:
        raise UserError("train: expected --datasets, paths or hub ids of LeRobot v3 datasets, got none")
    datasets = [LeRobotDataset(path) for path in paths]
    for dataset in datasets:
        if dataset.shown is not None and not own_runs:
            dataset.teaches = dataset.shown
        if dataset.own and not dataset.teaches.any():
            got = f"an agent's own runs in {dataset.root}"
            raise UserError(f"train: expected demonstrations, got {got}; --own-runs takes the solved ones")
    for name in ("state", "action"):
        widths = [None if (x := getattr(d, name)) is None else x.shape[1] for d in datasets]
        if len(set(widths)) > 1:
            raise UserError(f"train: expected datasets with one width of {name}, got {widths}")
    return datasets


def own_words(datasets: Sequence[LeRobotDataset], metadata: Mapping[str, object]) -> Words:
    """A tokenizer of all that the datasets say."""
    texts = [str(value) for value in metadata.values()]
    for dataset in datasets:
        for said in (dataset.task, dataset.subtask, dataset.memory):
            texts += said.table if said else ()
        texts += {str(v) for values in dataset.metadata.values() for v in values}
    return vocabulary(texts)


def reading(config: Config, about: Mapping, datasets: Sequence[LeRobotDataset], words: Words) -> Reading:
    """The configuration's, the checkpoint's where that says nothing, or what usually fits."""
    metadata = config.metadata or about.get("metadata") or {}
    metadata_words(metadata)  # an unknown field is a mistake
    placed, known = any(d.target is not None and (d.target >= 0).any() for d in datasets), knows_places(words)
    grounded = placed and known and about.get("grounded", True)
    grounded = grounded if config.grounded is None else config.grounded
    if grounded and not (placed and known):
        lack = "a tokenizer that knows <loc0000>" if placed else "a dataset with a column 'target'"
        raise UserError(f"train: --grounded needs {lack}, got none")
    second = max(1, round(datasets[0].fps))
    interval = about.get("history_interval", second)
    interval = interval if config.history_interval is None else config.history_interval
    if interval < 1:
        raise UserError(f"train: expected a --history-interval of at least 1, got {interval}")
    c, told = config, config.told or about.get("told", "task")
    return Reading(interval, told, grounded, metadata, c.dropout, c.jitter, c.z_weight)


def tiny_preset(
    name: str,
    chosen: Mapping[str, int],
    datasets: Sequence[LeRobotDataset],
    words: Words,
    how: Prompt,
    read: Reading,
) -> Preset:
    """A tiny network as wide as the robot and as long as the texts. chosen: sizes that are so or so."""
    unknown = sorted(set(chosen) - set(SIZES))
    if unknown:
        raise UserError(f"train: expected --sizes of {', '.join(SIZES)}, got '{unknown[0]}'")
    place = f" {Target(0.5, 0.5).tokens}" if read.grounded else ""

    def said(name: str) -> list[str]:
        return [t for d in datasets if getattr(d, name) for t in getattr(d, name).table] or [""]

    def longest(texts: Sequence[str]) -> int:
        return max(len(words.encode(text)) for text in texts) + SPARE

    memory = max(said("memory"), key=lambda text: len(words.encode(text)))
    width, prompts = datasets[0].state.shape[1], []
    for extreme in (-2.0, 2.0):  # the longest numbers that a state can be written as
        state = np.full(width, extreme)
        prompts += [prompt_ids(how, words, 10**6, t, state, memory) for t in said("task") + said("subtask")]
    fields = {name: 100 for dataset in datasets for name in dataset.metadata} | dict(read.metadata)
    sizes = {
        "words": len(words.tokenizer),
        "state_dim": width,
        "prompt": max(map(len, prompts)) + SPARE,
        "response": longest([how.response.format(text=text + place) for text in said("subtask")]),
        "memory": longest([memory]),
        "metadata": len(metadata_ids(how, words, fields)) + SPARE,
        "fast_words": TINY_FAST,
    }
    if datasets[0].action is not None:
        sizes["action_dim"] = datasets[0].action.shape[1]
    return family.build(name.removesuffix("_tiny"), True, **sizes | dict(chosen))


def make_network(config: Config, preset: Preset, words: Words) -> Network:
    """The checkpoint's or a fresh one, with what is this run's to choose."""
    if not config.init or not any(any(s.ids) for s in preset.layout.segments if s.kind == "constant"):
        preset = published.with_words(preset, words.encode)
    targets = any(s.target for s in preset.layout.segments)
    insulated = targets if config.insulated is None else config.insulated
    if config.train == "expert" and preset.expert is None:
        raise UserError(f"train: '{preset.name}' has no action expert, got --train expert")
    preset = replace(config.delayed(preset), knowledge_insulation=insulated)
    if config.init:
        network = checkpoint.load_network(config.init)
        rename(network, preset)
    else:
        torch.manual_seed(config.seed)
        network = Network(preset)
    if config.train == "expert":
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith(EXPERT))
    network.recompute(config.recompute)
    return network.train()


def rename(network: Network, preset: Preset) -> None:
    """Give a network a preset that differs in nothing that weights depend on."""
    network.preset, network.layout = preset, preset.layout


def widths(datasets: Sequence[LeRobotDataset], preset: Preset) -> dict[str, int]:
    """The robot's numbers of state and actions. UserError if the network has not so many."""
    found = {"state": datasets[0].state.shape[1]}
    if preset.expert and datasets[0].action is not None:
        found["actions"] = datasets[0].action.shape[1]
    for name, most in (("state", preset.state_dim), ("actions", preset.action_dim)):
        if found.get(name, 0) > most:
            raise UserError(f"dataset: expected at most {most} numbers of {name}, got {found[name]}")
    return found


def normalise(network: Network, datasets: Sequence[LeRobotDataset]) -> None:
    """Set what becomes -1 and 1: quantiles of the frames that training sees."""
    drawn, found = places(datasets, False), {}
    for name, column in (("state", "state"), ("actions", "action")):
        if any(getattr(d, column) is None for d in datasets):
            continue
        parts = [getattr(d, column)[drawn[drawn[:, 0] == n, 1]] for n, d in enumerate(datasets)]
        values = np.concatenate(parts)
        ours = name == "actions" and all(d.driver is not None for d in datasets)
        limits = action_range(values) if ours else np.quantile(values, [0.01, 0.99], axis=0)
        found[name] = tuple(torch.as_tensor(limit, dtype=torch.float32) for limit in limits)
    statistics.put(network, found, ", ".join(str(d.root) for d in datasets))


def fast_tokens(
    config: Config, frames: Frames, first: Callable[[], AbstractContextManager]
) -> tuple[FAST, np.ndarray]:
    """The tokenizer of FAST actions and how many tokens chunks have: the one that is given, the checkpoint's,
    the run's own from before, or one that is fitted now. It is kept in OUT/fast.
    """
    preset, kept = frames.reader.network.preset, config.out / "fast"
    drawn = places(frames.datasets, False)
    drawn = drawn[np.sort(np.random.default_rng(config.seed).permutation(len(drawn))[:FIT_CHUNKS])]
    labels = [frames.actions(frames.datasets[which], int(row)) for which, row in drawn]
    chunks = frames.scaled(np.stack([chunk for chunk, valid in labels if valid.all()] or [labels[0][0]]))
    given = config.fast or (checkpoint.find(config.init) / "fast" if config.init else None)
    with first():  # one process makes it, all read it
        if not (kept / TOKENS).is_file():
            there = given is not None and (config.fast is not None or (given / TOKENS).is_file())
            fast = FAST.load(Path(given)) if there else FAST.fit(chunks, size=preset.fast_words)
            if fast.size > preset.fast_words:
                most = preset.fast_words
                raise UserError(f"FAST: expected at most {most} tokens for '{preset.name}', got {fast.size}")
            fast.save(kept)
        fast = FAST.load(kept)
    return fast, np.array([len(ids) for ids in fast.encode(chunks)])


def shorten_fast(network: Network, length: int) -> None:
    """Room for so many FAST tokens."""
    layout = network.layout
    segments = tuple(replace(s, length=length) if s.name == "fast" else s for s in layout.segments)
    rename(network, replace(network.preset, layout=Layout(segments, layout.positions)))
