"""Batches for the two levels, drawn from a cache. What is in them follows from the network's layout.

A batch is a pure function of (seed, process, step): resuming needs no state but the step, and processes
that train together draw different samples. Texts are tokenised once per distinct string, so a draw is only
indexing.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from backbone.layout import Layout
from backbone.nano import NANO_LAYOUT
from backbone.tokenizer import EOS, LOC_BINS, PAD, POINT, SCENE, Tokenizer
from training.cache import Cache
from training.episodes import AGENT, PERSON, TEACHER

NEAR, FAR = 4, 10  # frames to a switch that count as near, as far
COLOURS = {"red", "green", "blue", "yellow", "purple", "orange"}

Batch = dict[str, torch.Tensor | dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Jitter:
    """What makes samples differ from the recorded ones. Pixels are of 128; gains are one sigma."""

    images: float = 0.5  # share of samples whose pictures are changed
    brightness: float = 0.06
    contrast: float = 0.08
    colour: float = 0.03
    point: float = 0.3  # pixels, one sigma, of the place that the controller is told
    far_share: float = 0.05  # share of samples whose place is further off
    far_point: float = 2.5  # pixels, for those
    state: float = 0.0  # metres and radians, one sigma
    plain: float = 0.0  # share of controller samples that are told no place


def jitter_images(images: np.ndarray, rng: np.random.Generator, jitter: Jitter) -> None:
    """Brightness, contrast and colour gain of (B, H, W, 3) uint8, in place, one table per sample and
    channel.
    """
    chosen = np.flatnonzero(rng.random(len(images)) < jitter.images)
    shape = (len(chosen), 1)
    gain = (
        1
        + jitter.contrast * rng.standard_normal(shape)
        + jitter.colour * rng.standard_normal((len(chosen), 3))
    )
    shift = 255 * jitter.brightness * rng.standard_normal(shape)
    levels = np.arange(256, dtype=np.float32)
    tables = (levels - 128) * gain[..., None] + 128 + shift[..., None]
    tables = np.clip(tables + 0.5, 0, 255).astype(np.uint8)
    for k, i in enumerate(chosen):
        for channel in range(3):
            plane = images[i, ..., channel]
            # bytes.translate: the quickest way to send bytes through a table
            through = plane.tobytes().translate(tables[k, channel].tobytes())
            images[i, ..., channel] = np.frombuffer(through, np.uint8).reshape(plane.shape)


def kind_of(subtask: str) -> str:
    """Turns "put the red block in the blue bin" into "put bin": what to balance, whatever the colours."""
    words = [w for w in subtask.split() if w not in COLOURS] or [""]
    return f"{words[0]} {words[-1]}"


def _balance(groups: np.ndarray) -> np.ndarray:
    """Weights that make a group's share grow with the root of its size."""
    counts = np.bincount(groups, minlength=groups.max(initial=0) + 1)
    return 1 / np.sqrt(np.maximum(counts, 1))[groups]


class Draw:
    """Rows of a cache with given weights, as a function of the generator."""

    def __init__(self, rows: np.ndarray, weights: np.ndarray):
        weights = np.minimum(weights / weights.mean(), 10.0)
        self.rows, self._upto = rows, np.cumsum(weights) / weights.sum()

    def __call__(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return self.rows[np.searchsorted(self._upto, rng.random(count)).clip(max=len(self.rows) - 1)]


class Sampler:
    """Draws planner and controller batches (see the module's note) of what the layout's segments name.

    `held_out`: the other part of the episodes. delay: most actions of a chunk that are given already; half of
    the chunks have none.
    """

    def __init__(
        self,
        cache: Cache,
        tokenizer: Tokenizer,
        seed: int = 0,
        process: int = 0,
        jitter: Jitter | None = None,
        near_boost: float = 1.0,
        far_boost: float = 1.0,
        agent_boost: float = 1.0,
        person_boost: float = 1.0,
        held_out: bool = False,
        layout: Layout = NANO_LAYOUT,
        delay: int = 0,
    ):
        self.cache, self.tokenizer, self.layout = cache, tokenizer, layout
        self.seed, self.process = seed, process
        self.jitter = jitter or Jitter()
        self.held_out, self.delay = held_out, delay
        self._tokenise()
        side = cache.held_out == held_out
        kinds: dict[str, int] = {}
        kind = np.array([kinds.setdefault(kind_of(s), len(kinds)) for s in cache.strings], np.int64)[
            cache.subtask
        ]
        weights = _balance(cache.family) * _balance(kind)
        weights = weights * np.where(cache.distance <= NEAR, near_boost, 1.0)
        weights = weights * np.where(cache.distance >= FAR, far_boost, 1.0)
        weights = weights * np.where(cache.driver == AGENT, agent_boost, 1.0)
        weights = weights * np.where(cache.driver == PERSON, person_boost, 1.0)
        rows = np.flatnonzero(side)
        self.planner_rows = Draw(rows, np.ones(len(rows)) if held_out else weights[rows])
        # A chunk of which only the first action is known teaches less than a whole one.
        self.chunk, self.valid = cache.chunks(through=not layout.reads_plans)
        useful = weights * (0.3 + 0.7 * self.valid.mean(1))
        rows = np.flatnonzero(side & self.valid[:, 0] & (cache.given <= delay))
        if held_out:
            rows = rows[np.isin(cache.driver[rows], (TEACHER, PERSON))]
        self.controller_rows = Draw(rows, np.ones(len(rows)) if held_out else useful[rows])

    def _tokenise(self) -> None:
        cache, tok = self.cache, self.tokenizer
        texts = cache.instruction, cache.past_memory, cache.told
        used = dict(zip(("instruction_ids", "memory_ids", "plan_ids"), texts, strict=True))
        self._tables: dict[str, np.ndarray] = {}  # source -> a row of ids for every string
        for segment in self.layout.segments:
            if segment.source in used:
                table = np.zeros((len(cache.strings), segment.length), np.int64)
                for i in np.unique(used[segment.source]):
                    table[i] = tok.encode(cache.strings[i], segment.length)
                self._tables[segment.source] = table
        if not self.layout.writes_plans:
            return
        # Targets: one row per distinct (memory, subtask, has a place, inventory).
        grounded = cache.target[:, 0] >= 0
        parts = np.stack([cache.memory, cache.subtask, grounded, cache.inventory], 1).astype(np.int64)
        distinct, self._target_of = np.unique(parts, axis=0, return_inverse=True)
        texts = [self._target_ids(*row) for row in distinct]
        self._target = np.zeros((len(texts), max(map(len, texts))), np.int64)
        for row, ids in zip(self._target, texts, strict=True):
            row[: len(ids)] = ids

    def _target_ids(self, memory: int, subtask: int, grounded: int, inventory: int) -> list[int]:
        """A whole plan; a scene too long for it loses its last words."""
        strings, ids = self.cache.strings, self.tokenizer.ids
        before, scene = ids(f"Updated Memory: {strings[memory]}"), ids(strings[inventory])
        after = ids(f"Subtask: {strings[subtask]}") + [POINT if grounded else EOS]
        room = next(s.length for s in self.layout.segments if s.target) - len(before) - len(after)
        return before + ([SCENE, *scene[: max(0, room)]] if scene else []) + after

    def rng(self, step: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.process, step, stream, int(self.held_out)])

    def _pictures(self, rows: np.ndarray, cameras: tuple[str, ...], rng: np.random.Generator) -> dict:
        out = {}
        for name in cameras:
            images = self.cache.images(name, rows)
            if self.jitter.images and not self.held_out:
                jitter_images(images, rng, self.jitter)
            out[name] = torch.from_numpy(images)
        return out

    def _state(self, rows: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        state = self.cache.state[rows]
        if self.jitter.state and not self.held_out:
            state = state + rng.normal(0, self.jitter.state, state.shape).astype(np.float32)
        return torch.from_numpy(state)

    def _inputs(self, layout: Layout, rows: np.ndarray, rng: np.random.Generator) -> Batch:
        """What the segments of a part of the layout name, but for the text that is to be written."""
        cache, sources = self.cache, {s.source for s in layout.segments}
        lag = rng.integers(cache.past_memory.shape[1], size=len(rows)) if "memory_ids" in sources else None
        cameras = sorted(s.removeprefix("images.") for s in sources if s.startswith("images."))
        batch: Batch = {"images": self._pictures(rows, tuple(cameras), rng)}
        if "state" in sources:
            batch["state"] = self._state(rows, rng)
        if "instruction_ids" in sources:
            ids = self._tables["instruction_ids"][cache.instruction[rows]]
            batch["instruction_ids"] = torch.from_numpy(ids)
        if lag is not None:
            ids = self._tables["memory_ids"][cache.past_memory[rows, lag]]
            batch["memory_ids"] = torch.from_numpy(ids)
        if "plan_ids" in sources:
            batch["plan_ids"] = torch.from_numpy(self._plan_ids(rows, rng))
        return batch | {"weight": torch.ones(len(rows))}

    def planner(self, step: int, size: int) -> Batch:
        """images {front, wrist}, state, instruction_ids, memory_ids, target_ids, point (nan: none),
        weight.
        """
        rng, cache = self.rng(step, 0), self.cache
        rows = self.planner_rows(size, rng)
        target = cache.target[rows]
        point = np.where(target[:, :1] >= 0, target.clip(0, 1 - 1e-6), np.nan).astype(np.float32)
        return self._inputs(self.layout.planner, rows, rng) | {
            "target_ids": torch.from_numpy(self._target[self._target_of[rows]]),
            "point": torch.from_numpy(point),
        }

    def controller(self, step: int, size: int) -> Batch:
        """What the controller reads (nano: images {wrist}, state, plan_ids), actions (B, H, 7), valid (B, H),
        weight; with delays also delay (B,).
        """
        rng = self.rng(step, 1)
        rows = self.controller_rows(size, rng)
        batch = self._inputs(self.layout.controller, rows, rng) | {
            "actions": torch.from_numpy(self.chunk[rows]),
            "valid": torch.from_numpy(self.valid[rows]),
        }
        return batch | ({"delay": torch.from_numpy(self._delay(rows, rng))} if self.delay else {})

    def _delay(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """How many actions of each chunk are given: those that were done anyway, or any number."""
        given, some = self.cache.given[rows].astype(np.int64), rng.random(len(rows)) < 0.5
        return np.where(given > 0, given, some * rng.integers(1, self.delay + 1, len(rows)))

    def _plan_ids(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Words and the two location tokens, the place moved a little: a planner's is never exact either."""
        target, jitter = self.cache.told_at[rows], self.jitter
        grounded = target[:, 0] >= 0
        if not self.held_out:
            far = rng.random((len(rows), 1)) < jitter.far_share
            sigma = np.where(far, jitter.far_point, jitter.point) / 128
            target = target + sigma * rng.standard_normal(target.shape)
            grounded = grounded & (rng.random(len(rows)) >= jitter.plain)
        bins = np.clip(target * LOC_BINS, 0, LOC_BINS - 1).astype(np.int64) + self.tokenizer.loc_start
        ids = self._tables["plan_ids"][self.cache.told[rows]]
        at = (ids != PAD).sum(1)
        where = np.flatnonzero(grounded)
        ids[where, at[where]], ids[where, at[where] + 1] = bins[where, 0], bins[where, 1]
        return ids


class Prefetch:
    """Calls `make(step)` for step = start, start + 1, ... in a thread, `depth` ahead. Errors surface in the
    loop.
    """

    def __init__(self, make: Callable[[int], object], start: int, depth: int = 2):
        self._queue: queue.Queue = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(make, start), daemon=True)
        self._thread.start()

    def _run(self, make: Callable[[int], object], step: int) -> None:
        while not self._stop.is_set():
            try:
                item = make(step)
            except Exception as error:  # handed over to whoever asks for the batch
                item = error
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue
            step += 1

    def __iter__(self) -> Iterator:
        while True:
            item = self._queue.get()
            if isinstance(item, Exception):
                raise item
            yield item

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)
