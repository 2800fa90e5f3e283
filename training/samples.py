"""Batches for the π family, drawn from LeRobot datasets. What is in them follows from the network's layout.

A sample is what `Reader` makes of the observation at that frame, so it is bit by bit what the network will be
shown when it acts, and beside it what it should write and do. A batch is a pure function of (seed, process,
step): resuming needs no state but the step.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backbone.errors import UserError
from backbone.inputs import together
from backbone.observation import Observation
from backbone.prompts import prompt_ids
from backbone.reader import Reader
from highlevel.plan import DONE, Target
from lowlevel.fast import FAST
from training.batches import Jitter, jitter_images
from training.cache import held_out
from training.dropout import Dropout
from training.labels import MEMORY_LAGS, chunk_labels
from training.lerobot import LeRobotDataset

AHEAD = 4.0  # seconds that a subgoal's picture lies ahead, at most
SEGMENT_END = 0.25  # share of subgoals that show the end of the subtask
MOST_APART = 0.1  # of a dataset's episodes are held out, or none: a few episodes have none to spare

Batch = dict[str, object]


@dataclass(frozen=True)
class Reading:
    """How frames become samples.

    interval: frames between two moments of a history. told: what a controller without a place for a subtask
    reads as its task. grounded: subtasks carry their place as location tokens. metadata: of all the data.
    """

    interval: int = 1
    told: Literal["task", "subtask"] = "task"
    grounded: bool = False
    metadata: Mapping[str, object] = field(default_factory=dict)
    dropout: Dropout = field(default_factory=Dropout)
    jitter: Jitter = field(default_factory=Jitter)
    z_weight: float = 0.0


class Frames:
    """The frames of some datasets as what a network is shown and what it should answer, one by one."""

    def __init__(self, datasets: Sequence[LeRobotDataset], reader: Reader, how: Reading):
        self.datasets, self.reader, self.how = list(datasets), reader, how
        layout, preset = reader.network.layout, reader.network.preset
        self.horizon = preset.horizon if preset.expert else 0
        self.written = [s.name for s in layout.prefix.segments if s.target and s.kind == "text"]
        self.eye = preset.cameras[0][1]
        self.subgoals = any(s.source.startswith("subgoals.") for s in layout.segments)
        apart = bool(self.written) or reader.told is not None  # a subtask has a place of its own
        self._task = "task" if apart else how.told
        # A copy: the network's own may be on a device, and busy.
        self._action_norm = copy.deepcopy(reader.network.action_norm).cpu() if preset.expert else None
        self.knows_subtask = apart or how.told == "subtask"
        self._check()

    def _check(self) -> None:
        """UserError for what the network needs and a dataset lacks, and for texts that do not fit."""
        needs = {"observation.state": "state"}
        needs |= {"task_index": "task"} if self._task == "task" else {}
        needs |= {"action": "action"} if self.horizon else {}
        needs |= {"memory": "memory"} if "memory" in self.written else {}
        if "response" in self.written or self._task == "subtask":
            needs["subtask_index"] = "subtask"
        for dataset in self.datasets:
            for column, name in needs.items():
                if getattr(dataset, name) is None:
                    kind = self.reader.network.preset.name
                    raise UserError(f"dataset: '{kind}' needs a column '{column}', {dataset.root} has none")
            if not set(self.reader.cameras.values()) & set(dataset.cameras):
                expected, got = ", ".join(self.reader.cameras.values()), ", ".join(dataset.cameras) or "none"
                raise UserError(f"cameras: expected some of {expected} in {dataset.root}, got {got}")
        reader, words, most = self.reader, self.reader.words, self.reader.network.preset.words
        if words.pad != 0:
            raise UserError(f"tokenizer: expected one that pads with 0, got {words.pad}")
        ids = [0]
        for extreme in (-2.0, 2.0):  # the longest numbers that a state can be written as
            state = np.full(reader.state_dim, extreme)
            for task in self.tasks():
                ids += prompt_ids(reader.how, words, reader.lengths["prompt"], task, state)
        for name in self.written:
            for text in self.texts(name):
                ids += reader.written(name, text)
        if reader.told is not None:
            for text in self.texts("response"):
                ids += reader.told_ids(text)
        if max(ids) >= most:
            raise UserError(f"tokenizer: expected ids below {most}, got {max(ids)}")

    def tasks(self) -> list[str]:
        """Every text that is a prompt's task."""
        if self._task == "subtask":
            return self.texts("response")
        return sorted({text for dataset in self.datasets for text in dataset.task.table})

    def texts(self, name: str) -> list[str]:
        """Every text of a segment, with a place where there may be one."""
        kind = "subtask" if name == "response" else name
        known = {t for d in self.datasets if getattr(d, kind) for t in getattr(d, kind).table}
        place = f" {Target(0.5, 0.5).tokens}" if kind == "subtask" and self.how.grounded else ""
        return sorted(text + place for text in known)

    # --- one frame ------------------------------------------------------------------------------------------

    def observation(self, dataset: LeRobotDataset, row: int) -> Observation:
        """The moment of a frame with its past, as `History` would have kept it."""
        frames, first = self.eye.frames, dataset.rows(row)[0]
        past = [row - self.how.interval * k for k in reversed(range(frames))]
        there = np.array([p >= first for p in past])
        kept = [p for p in past if p >= first]
        cameras = [name for name in self.reader.cameras.values() if name in dataset.cameras]
        images = {name: dataset.images(name, kept) for name in cameras}
        if frames == 1:
            now = {name: pictures[0] for name, pictures in images.items()}
            return Observation(now, dataset.state[row], dataset.task[row] if dataset.task else "")
        missing = frames - len(kept)
        stacks = {n: np.stack([np.zeros_like(p[0])] * missing + p) for n, p in images.items()}
        states = np.concatenate([np.zeros_like(dataset.state[[row] * missing]), dataset.state[kept]])
        return Observation(stacks, states, dataset.task[row] if dataset.task else "", history=there)

    def subtask(self, dataset: LeRobotDataset, row: int) -> str:
        """The words of a frame's subtask and, in a grounded set, where it is."""
        text = dataset.subtask[row] if dataset.subtask else ""
        if text and self.how.grounded and dataset.target is not None and dataset.target[row, 0] >= 0:
            return f"{text} {Target(*(float(v) for v in dataset.target[row])).tokens}"
        return text

    def metadata(self, dataset: LeRobotDataset, row: int) -> dict[str, object]:
        found = dict(self.how.metadata)
        for name, values in dataset.metadata.items():
            value = values[row]
            if value is None or value == "" or value != value:
                continue
            whole = not isinstance(value, str) and float(value).is_integer()
            found[name] = int(value) if whole else value
        return found

    def later(self, dataset: LeRobotDataset, row: int, rng: np.random.Generator) -> int:
        """The frame that a subgoal shows: of the same subtask, a few seconds ahead at most, or its last."""
        last, soon = dataset.end(row) - 1, row + round(AHEAD * dataset.fps)
        end, draw, share = last, rng.random(), rng.random()
        if dataset.subtask is not None:
            ids = dataset.subtask.ids[row : last + 1]
            other = np.flatnonzero(ids != ids[0])
            end = row + int(other[0]) - 1 if len(other) else last
            if share < SEGMENT_END:
                return end
        return row + int(draw * (min(soon, end) - row + 1))

    def actions(self, dataset: LeRobotDataset, row: int) -> tuple[np.ndarray, np.ndarray]:
        return chunk_at(dataset, row, self.horizon, not self.knows_subtask)

    def scaled(self, chunks: np.ndarray) -> np.ndarray:
        """Chunks (B, H, A) in robot units -> what FAST writes: normalised, within [-1, 1]."""
        spare = self.reader.network.preset.action_dim - chunks.shape[-1]
        wide = self._action_norm(F.pad(torch.from_numpy(chunks), (0, spare)))
        return wide[..., : chunks.shape[-1]].clamp(-1, 1).numpy()

    def inputs(
        self, dataset: LeRobotDataset, row: int, rng: np.random.Generator, train: bool = False
    ) -> dict:
        """One sample: `Reader.inputs` of the frame's observation, as a batch of one, and the texts to write.

        train: with the dropouts and changes of colour that are a sample's own.
        """
        reader, how = self.reader, self.how
        seen = self.observation(dataset, row)
        metadata = self.metadata(dataset, row)
        first, lag = dataset.rows(row)[0], int(rng.integers(1, MEMORY_LAGS + 1))
        memory = dataset.memory[row - lag] if dataset.memory is not None and row - lag >= first else ""
        ahead = self.later(dataset, row, rng)
        subgoals = {n: dataset.images(n, [ahead])[0] for n in seen.images} if self.subgoals else {}
        images = dict(seen.images)
        if train:
            metadata = how.dropout.fields(metadata, rng)
            for pictures in (images, subgoals):
                for name, picture in pictures.items():
                    flat = np.array(picture).reshape(1, -1, picture.shape[-2], 3)  # the past changes alike
                    jitter_images(flat, rng, how.jitter)
                    pictures[name] = flat.reshape(picture.shape)
        seen = Observation(images, seen.state, seen.instruction, metadata, subgoals, seen.history)
        subtask = self.subtask(dataset, row)
        task = seen.instruction if self._task == "task" else subtask
        found = reader.inputs(seen, task, memory, subtask)
        texts = {"response": subtask, "memory": dataset.memory[row] if dataset.memory is not None else ""}
        for name in self.written:
            ids = reader.written(name, texts[name]) if texts[name] else [0]
            found[f"{name}_ids"] = torch.tensor([ids])
        return found


class PromptedSampler:
    """Draws batches of the datasets' frames, each as likely as the other, of either side of the hold-out."""

    def __init__(
        self,
        frames: Frames,
        fast: FAST | None,
        seed: int = 0,
        process: int = 0,
        held: bool = False,
        threads: int = 0,
    ):
        self.frames, self.fast, self.seed, self.process, self.held = frames, fast, seed, process, held
        self.preset = frames.reader.network.preset
        self.places = places(frames.datasets, held)
        self._pool = ThreadPoolExecutor(threads) if threads > 0 else None

    def batch(self, step: int, size: int) -> Batch:
        """The prefix's inputs, actions (B, H, A) in robot units, valid (B, H), dims (B,)."""
        key = [self.seed, self.process, step, int(self.held)]
        drawn = self.places[np.random.default_rng(key).integers(len(self.places), size=size)]
        jobs = [(*place, np.random.default_rng([*key, n])) for n, place in enumerate(drawn)]
        parts = list(self._pool.map(self._sample, jobs) if self._pool else map(self._sample, jobs))
        out = together(parts)
        if self.preset.expert:
            out |= self._actions(drawn)
        if "fast_ids" in out:
            out["there"]["fast"] = out.pop("fast_there")
        if not self.held:
            generator = torch.Generator().manual_seed(
                int(np.random.default_rng([*key, 1 << 20]).integers(2**62))
            )
            out = self.frames.how.dropout.batch(out, generator)
        return out | ({"z_weight": self.frames.how.z_weight} if self.frames.how.z_weight else {})

    def _sample(self, job: tuple[int, int, np.random.Generator]) -> dict:
        which, row, rng = job
        return self.frames.inputs(self.frames.datasets[which], int(row), rng, train=not self.held)

    def _actions(self, drawn: np.ndarray) -> dict[str, Tensor]:
        chunks, valid = zip(
            *(self.frames.actions(self.frames.datasets[d], int(r)) for d, r in drawn), strict=True
        )
        chunk, known = torch.from_numpy(np.stack(chunks)), torch.from_numpy(np.stack(valid))
        dims, wide = chunk.shape[-1], self.preset.action_dim
        out = {"actions": F.pad(chunk, (0, wide - dims)), "valid": known}
        out["dims"] = torch.full((len(drawn),), dims)
        if self.fast is not None:
            length = self.frames.reader.network.layout["fast"].length
            ids, real, _ = self.fast.pad(self.fast.encode(self.frames.scaled(np.stack(chunks))), length)
            out["fast_ids"] = torch.from_numpy(ids)
            out["fast_there"] = torch.from_numpy(real) & known.all(1)[:, None]  # tokens are of whole chunks
        return out


def chunk_at(dataset: LeRobotDataset, row: int, horizon: int, through: bool) -> tuple[np.ndarray, np.ndarray]:
    """The chunk (H, A) to learn at a frame, and which of it is known (H,): see training/labels.py.

    Where another may have acted (a `driver`), what follows is known only as far as the teacher drove, and a
    finished subtask ends in holding still (not `through`: for networks that know no subtasks). In other
    datasets a chunk goes on to the episode's end, or until a person let go.
    """
    here = slice(row, min(row + horizon, dataset.end(row)))
    action, driver, done = dataset.action[here], np.zeros(here.stop - row, int), None
    subtask = dataset.subtask.ids[here] if dataset.subtask else driver
    if dataset.driver is None:
        through = True
    else:
        known = dataset.subtask.table if dataset.subtask else ()
        driver, done = dataset.driver[here], known.index(DONE) if DONE in known else None
    chunks, valid = chunk_labels(action, driver, subtask, done, horizon, through)
    chunk, count = chunks[0], int(valid[0].sum())
    chunk[count:] = chunk[count - 1]  # the flow sees these too: rather a pause than a jump
    return chunk, valid[0]


def places(datasets: Sequence[LeRobotDataset], held: bool) -> np.ndarray:
    """(N, 2): dataset and row of every frame that teaches, of the episodes on one side of the hold-out."""
    found = []
    for which, dataset in enumerate(datasets):
        apart = np.array([held_out(f"{dataset.name}/{n}") for n in dataset.numbers])
        apart &= apart.mean() <= MOST_APART
        rows = apart[dataset.episode] == held
        rows = np.flatnonzero(rows if dataset.teaches is None else rows & dataset.teaches)
        found.append(np.stack([np.full(len(rows), which), rows], 1))
    return np.concatenate(found)
