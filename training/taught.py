"""What a person showed in recorded runs: which frames teach, what was done from there, what was said of it.

Frames that a person drove teach the actions, and where words were typed these and what to remember. Frames
that the agent drove teach nothing: they are what led to being taken over, and who was good enough not to be
corrected knows it already (HG-DAgger's rule). A chunk of actions ends where the person let go, or said
something else; a pause, in which people type, is nothing that was shown.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from agent.recording.columns import IMAGES, TABLETOP, decode_png
from agent.recording.dataset import FOOTER, RUNS, data_path
from agent.recording.runs import RunReader
from backbone.errors import UserError
from backbone.observation import Observation
from training.episodes import CAMERAS, PERSON, TEACHER
from training.labels import DONE, NOTHING, chunk_labels, past_memory, switch_distance

if TYPE_CHECKING:
    from highlevel.learned import LearnedPlanner

BY_PERSON = "person"  # in the column acted_by
PAUSE = 1.0  # seconds without a motion, from which on nothing is shown
STILL = 2e-3  # the least that is a motion: of an action, and as a share of all the way that the arm went


def stretches(shown: np.ndarray) -> list[tuple[int, int]]:
    """(T,) bool -> the first frame of each stretch, and the one after its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], shown.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def moving(action: np.ndarray, state: np.ndarray, fps: float) -> np.ndarray:
    """(T, A), (T, D) of one stretch -> (T,) bool: not within a pause, in which the same action leaves the arm
    where it is. Whether actions are speeds or positions does not matter.
    """
    if not len(action):
        return np.zeros(0, bool)
    change = lambda values: np.abs(np.diff(values, axis=0, prepend=values[:1]))
    still = (change(action) <= STILL).all(1)
    still &= (change(state) <= STILL * np.maximum(np.ptp(state, axis=0), 1e-6)).all(1)
    out = np.ones(len(action), bool)
    for a, b in stretches(still):
        if b - a >= PAUSE * fps:
            out[a:b] = False
    return out


def are_runs(root: str | Path) -> bool:
    """Whether a dataset holds recorded runs, as far as its first episode tells."""
    path = data_path(Path(root), 0)
    if not path.exists():
        return False
    return f'"kind": "{RUNS}"'.encode() in (pq.read_schema(path).metadata or {}).get(FOOTER, b"")


def episodes(root: str | Path) -> list[tuple[int, int]]:
    """The runs of a dataset in which a person drove: number and frames. UserError for another robot's."""
    runs = RunReader(root)
    if (robot := runs.episodes[0]["layout"]["robot"]) != TABLETOP.robot:
        raise UserError(f"cache: expected runs of {TABLETOP.robot} in {root}, got {robot}")
    return [(n, e["interventions"]) for n, e in enumerate(runs.episodes) if e.get("interventions")]


class Shown:
    """One run: arrays of the T frames that teach, by the names of the cache's arrays, texts as lists; `rows`,
    where in the run they are.
    """

    def __init__(self, runs: RunReader, number: int):
        rows, self.about = runs.rows(number), runs.episodes[number]
        fps = self.about["layout"]["fps"]
        column = lambda name: [row[name] for row in rows]
        state, action, target = (np.array(column(n)) for n in ("observation.state", "action", "target"))
        subtask, memory = np.array(column("subtask"), object), np.array(column("memory"), object)
        instruction = np.array(column("instruction"), object)
        memory[memory == ""] = NOTHING
        shown = np.array([row["acted_by"] == BY_PERSON and bool(row["subtask"]) for row in rows])
        teaches, parts = np.zeros(len(rows), bool), {}
        for a, b in stretches(shown) or [(0, 0)]:
            teaches[a:b] = moving(action[a:b], state[a:b], fps) | (subtask[a:b] == DONE)
            labels = action[a:b], np.full(b - a, TEACHER), subtask[a:b], DONE
            found = (*chunk_labels(*labels), *chunk_labels(*labels, through=True))
            for name, values in zip(("chunk", "valid", "through", "through_valid"), found, strict=True):
                parts.setdefault(name, []).append(values[teaches[a:b]])
        self.rows = keep = np.flatnonzero(teaches)
        self.arrays = {name: np.concatenate(values) for name, values in parts.items()}
        self.arrays |= {"state": state[keep], "target": target[keep], "step": keep.astype(np.int32)}
        self.arrays["distance"] = switch_distance(*map(_ids, (instruction, subtask, memory)))[keep]
        self.arrays["driver"] = np.full(len(keep), PERSON, np.int8)
        self.texts: dict[str, Any] = {
            "instruction": list(instruction[keep]),
            "subtask": list(subtask[keep]),
            "memory": list(memory[keep]),
            "past_memory": past_memory(memory, NOTHING)[keep],
            "inventory": [""] * len(keep),
        }

    def choose(self, which: np.ndarray) -> None:
        """Only these of them, by place."""
        self.rows = self.rows[which]
        self.arrays = {name: values[which] for name, values in self.arrays.items()}
        self.texts = {name: [values[i] for i in which] for name, values in self.texts.items()}

    def pictures(self, root: Path, number: int) -> dict[str, np.ndarray]:
        """(T, H, W, 3) uint8 by camera."""
        table = pq.read_table(data_path(root, number), columns=[f"{IMAGES}{name}" for name in CAMERAS])
        table, found = table.take(self.rows), {}
        for name, size in CAMERAS.items():
            found[name] = np.zeros((len(table), *size, 3), np.uint8)
            for t, row in enumerate(table[f"{IMAGES}{name}"].to_pylist()):
                found[name][t] = decode_png(row["bytes"])
        return found

    def complete(self, planner: LearnedPlanner, pictures: dict[str, np.ndarray]) -> Counter[str]:
        """What nobody typed, as this planner says it: what it sees, and where the words point. It is asked
        with the words as if they were its own. Frames with words that it does not know are left out: how
        many, by word.
        """
        known, unknown = [], Counter()
        for t in range(len(self.rows)):
            subtask = self.texts["subtask"][t]
            if words := planner.tokenizer.unknown_words(subtask):
                unknown[words[0]] += 1
                continue
            known.append(t)
            seen = Observation({n: p[t] for n, p in pictures.items()}, self.arrays["state"][t])
            given = self.texts["instruction"][t], self.texts["past_memory"][t][0], None, subtask
            place, said = planner.ground(seen, *given)
            self.texts["inventory"][t] = said.scene
            if place is not None and self.arrays["target"][t, 0] < 0 and subtask != DONE:
                self.arrays["target"][t] = place.y, place.x
        if unknown:
            self.choose(np.array(known, int))
            for name in pictures:
                pictures[name] = pictures[name][known]
        return unknown


def shard(
    root: str, numbers: Sequence[int], keep: float, planner: LearnedPlanner | None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, pictures, meta) of a shard of the training cache (see `training.cache`)."""
    runs, strings = RunReader(root), {NOTHING: 0}
    ids = lambda texts: np.array([strings.setdefault(t, len(strings)) for t in np.ravel(texts)], np.int32)
    parts: dict[str, list[np.ndarray]] = {}
    about, left_out = [], Counter()
    for place, (number, shown) in enumerate(_shown(runs, numbers)):
        rng = np.random.default_rng([zlib.crc32(str(root).encode()), number])
        if keep < 1:
            shown.choose(np.flatnonzero(rng.random(len(shown.rows)) < keep))
        pictures = shown.pictures(Path(root), number)
        if planner is not None:
            left_out += shown.complete(planner, pictures)
        columns = shown.arrays | {"episode": np.full(len(shown.rows), place, np.int32)} | pictures
        for name, texts in shown.texts.items():
            columns[name] = ids(texts).reshape(len(shown.rows), *np.shape(texts)[1:])
        for name, values in columns.items():
            parts.setdefault(name, []).append(values)
        fields = {name: shown.about[name] for name in ("suite", "family", "seed", "length")}
        about.append(fields | {"number": number})
    for word, count in left_out.items():
        print(f"{root}: {count} frames left out, whose subtask has the unknown word '{word}'")
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    if not len(arrays["step"]):
        raise UserError(f"cache: expected frames with a subtask that a person typed in {root}, found none")
    pictures = {name: arrays.pop(name) for name in CAMERAS}
    meta = {"dataset": root, "frames": len(arrays["step"]), "episodes": about, "strings": list(strings)}
    return arrays, pictures, meta


def _shown(runs: RunReader, numbers: Sequence[int]) -> Iterator[tuple[int, Shown]]:
    for number in numbers:
        yield number, Shown(runs, number)


def _ids(texts: np.ndarray) -> np.ndarray:
    return np.unique(texts.astype(str), return_inverse=True)[1]
