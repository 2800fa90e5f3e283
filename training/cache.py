"""The training cache: the frames of datasets that training draws from, decoded, as plain arrays.

    CACHE/NAME-00000-00040/{front,wrist,state,chunk,...}.npy  meta.json      one shard, a run of episodes

A shard is built under a temporary name and renamed, and building again adds only episodes that are in no
shard yet, so a new dataset (a round of DAgger) costs what it brings. The pictures are memory-mapped:
processes that train together share the pages. They should stay in memory, so they are touched when the
cache is opened.

Chunks are kept in two forms: `chunk` holds still where its subtask ends, `through` goes on (for networks that
know no subtasks). Shards from before there were two are completed, from their datasets, by building again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from backbone.errors import UserError
from training import taught
from training.dataset import DatasetReader
from training.episodes import CAMERAS, PERSON, decode_png, episode_key
from training.labels import DONE, NOTHING, choose_frames, chunk_labels, past_memory, switch_distance
from training.progress import Bar

SHARD = 4096  # frames in a shard, about: 250 MB
KEPT = 0.48  # share of frames that `choose_frames` keeps, about
HELD_OUT = 0.03  # share of episodes for offline metrics
SMALL = ("state", "chunk", "valid", "target", "instruction", "subtask", "memory", "past_memory")
SMALL += ("step", "driver", "episode", "distance")
THROUGH = ("through_valid", "through")  # written in this order
TOLD = ("told", "told_at", "given")  # what a late agent's controller went by (see training/late.py)
LATER = (*THROUGH, "inventory", *TOLD)  # arrays that a shard may lack
TEXTS = ("instruction", "subtask", "memory", "past_memory", "inventory", "told")  # arrays of ids of strings


def held_out(key: str, share: float = HELD_OUT) -> bool:
    """Whether an episode is kept out of training: by its name, so that every process and every run agrees."""
    return zlib.crc32(key.encode()) % 10_000 < share * 10_000


@dataclass(frozen=True)
class _Job:
    dataset: str
    episodes: tuple[int, ...]
    out: str
    keep: float
    pointer: str | None = None  # runs that a person drove: the checkpoint that says what nobody typed


def _build(job: _Job) -> int:
    """Write one shard; returns its frames."""
    if taught.are_runs(job.dataset):
        arrays, pictures, meta = taught.shard(job.dataset, job.episodes, job.keep, _planner(job.pointer))
        write_shard(Path(job.out), arrays, pictures, meta)
        return meta["frames"]
    reader, out = DatasetReader(job.dataset), Path(job.out)
    strings: dict[str, int] = {NOTHING: 0}

    def ids(texts: Sequence[str]) -> np.ndarray:
        return np.array([strings.setdefault(t, len(strings)) for t in texts], np.int32)

    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*SMALL, *THROUGH)}
    episodes, rows_of = [], []
    for place, number in enumerate(job.episodes):
        episode = reader.read(number, images=False)
        instruction, subtask, memory = ids(episode.instruction), ids(episode.subtask), ids(episode.memory)
        labels = episode.action, episode.driver, subtask, strings.get(DONE, -1)
        chunk, valid = chunk_labels(*labels)
        through, through_valid = chunk_labels(*labels, through=True)
        distance = switch_distance(instruction, subtask, memory)
        rng = np.random.default_rng(zlib.crc32(episode.key.encode()))
        rows = choose_frames(distance, rng)
        rows = rows[rng.random(len(rows)) < job.keep]
        columns = {
            "state": episode.state,
            "chunk": chunk,
            "valid": valid,
            "through": through,
            "through_valid": through_valid,
            "target": episode.target,
            "instruction": instruction,
            "subtask": subtask,
            "memory": memory,
            "past_memory": past_memory(memory, 0).astype(np.int32),
            "step": np.arange(len(episode), dtype=np.int32),
            "driver": episode.driver.astype(np.int8),
            "episode": np.full(len(episode), place, np.int32),
            "distance": distance,
        }
        for name in parts:
            parts[name].append(columns[name][rows])
        rows_of.append(rows)
        fields = {"suite": episode.suite, "family": episode.family, "seed": episode.seed}
        episodes.append(fields | {"number": number, "length": len(episode)})

    frames = sum(map(len, rows_of))
    pictures = {name: np.empty((frames, *size, 3), np.uint8) for name, size in CAMERAS.items()}
    at = 0
    for number, rows in zip(job.episodes, rows_of, strict=True):
        episode = reader.read(number, rows=rows)
        for name, stack in pictures.items():
            for k, data in enumerate(episode.images[name]):
                stack[at + k] = decode_png(data)
        at += len(rows)
    meta = {"dataset": job.dataset, "frames": frames, "episodes": episodes, "strings": list(strings)}
    write_shard(out, {name: np.concatenate(values) for name, values in parts.items()}, pictures, meta)
    return frames


def _planner(checkpoint: str | None):
    """The planner of a checkpoint, if it has one."""
    if checkpoint is None:
        return None
    import torch

    from agent.policy import load

    torch.set_num_threads(1)
    return load(checkpoint).planner


def write_shard(
    out: Path, arrays: Mapping[str, np.ndarray], pictures: Mapping[str, np.ndarray], meta: Mapping[str, Any]
) -> None:
    """A shard, whole or not at all."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    for name, values in (arrays | pictures).items():
        np.save(temporary / f"{name}.npy", values)
    (temporary / "meta.json").write_text(json.dumps(meta))
    os.rename(temporary, out)


def clear_leftovers(root: Path) -> None:
    """Remove the halves of shards whose writer is gone."""
    for leftover in root.glob(".*.tmp"):
        writer = leftover.name.split(".")[-2]
        if not (writer.isdigit() and Path(f"/proc/{writer}").exists()):
            shutil.rmtree(leftover, ignore_errors=True)


def _complete(shard: Path, meta: dict[str, Any], reader: DatasetReader) -> None:
    """Add THROUGH to a shard that lacks it."""
    place, step = np.load(shard / "episode.npy"), np.load(shard / "step.npy")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in THROUGH}
    for n, fields in enumerate(meta["episodes"]):
        episode = reader.read(fields["number"], images=False)
        ids = np.unique(episode.subtask, return_inverse=True)[1]
        done = ids[episode.subtask.index(DONE)] if DONE in episode.subtask else -1
        chunk, valid = chunk_labels(episode.action, episode.driver, ids, done, through=True)
        rows = step[place == n]
        for name, values in zip(THROUGH, (valid, chunk), strict=True):
            parts[name].append(values[rows])
    for name, values in parts.items():
        temporary = shard / f".{name}.{os.getpid()}.npy"
        np.save(temporary, np.concatenate(values))
        os.replace(temporary, shard / f"{name}.npy")


def _shards(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    paths = sorted(p for p in root.glob("*/meta.json") if not p.parent.name.startswith("."))
    return [(p.parent, json.loads(p.read_text())) for p in paths]


def build_cache(
    datasets: Sequence[str | Path],
    out: str | Path,
    max_frames: int = 160_000,
    workers: int | None = None,
    quiet: bool = False,
    pointer: str | None = "nano",
) -> int:
    """Add what `out` lacks of the datasets' episodes: demonstrations, or recorded runs in which a person
    drove. Returns the frames in the cache.

    max_frames: of the whole cache, about; new episodes are thinned to what is left, evenly. pointer: the
    checkpoint that says of runs what nobody typed (`training.taught`).
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    clear_leftovers(out)
    shards = _shards(out)
    known = {(m["dataset"], e["number"]) for _, m in shards for e in m["episodes"]}
    total = sum(m["frames"] for _, m in shards)
    new: list[tuple[str, int, int]] = []
    for dataset in datasets:
        path = str(Path(dataset).resolve())
        if taught.are_runs(path):  # all of their few frames are kept
            shown = taught.episodes(path)
            if not shown:
                raise UserError(f"cache: expected runs in which a person drove in {dataset}, found none")
            new += [(path, n, round(length / KEPT)) for n, length in shown if (path, n) not in known]
            continue
        reader = DatasetReader(path)
        for shard, meta in shards:
            if meta["dataset"] == path and not (shard / "through.npy").exists():
                _complete(shard, meta, reader)
        lengths = [e["length"] for e in reader.episodes]
        new += [(path, n, length) for n, length in enumerate(lengths) if (path, n) not in known]
    if not new:
        return total
    expected = KEPT * sum(length for *_, length in new)
    keep = min(1.0, (max_frames - total) / expected)
    if keep <= 0.01:
        raise UserError(f"cache: expected room for new frames, got {total} of --max-frames {max_frames}")

    jobs: list[_Job] = []
    group: list[tuple[str, int, int]] = []
    for at, item in enumerate(new):
        group.append(item)
        following = new[at + 1][0] if at + 1 < len(new) else None
        if KEPT * keep * sum(g[2] for g in group) >= SHARD or following != item[0]:
            path, first, last = item[0], group[0][1], group[-1][1]
            name = f"{Path(path).name}-{zlib.crc32(path.encode()) & 0xFFFF:04x}-{first:06d}-{last:06d}"
            jobs.append(_Job(path, tuple(g[1] for g in group), str(out / name), keep, pointer))
            group = []
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    with Bar("cache", len(jobs), quiet=quiet) as bar:
        if workers == 1:
            for n, job in enumerate(jobs):
                total += _build(job)
                bar.update(n + 1, f"{total} frames")
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, context) as pool:
                for n, future in enumerate(as_completed([pool.submit(_build, job) for job in jobs])):
                    total += future.result()
                    bar.update(n + 1, f"{total} frames")
    return total


class Cache:
    """A cache opened for training. Small arrays are in memory as attributes, pictures come through `images`.

    state (N, 8), chunk (N, 10, 7), valid (N, 10), target (N, 2), step, driver, distance (N,); instruction,
    subtask, memory, inventory (N,; "" if unknown) and past_memory (N, 12) are ids into `strings`; family (N,)
    into `families`; told and told_at are the words and the place that the controller reads, most often those
    of the subtask; given (N,) is how many of the first actions are not the teacher's but were done anyway;
    episode (N,) counts through; held_out (N,) bool.

    datasets: only what comes from datasets with these folder names; max_frames: only the first so many.
    """

    def __init__(
        self,
        root: str | Path,
        max_frames: int | None = None,
        touch: bool = True,
        datasets: Sequence[str] | None = None,
    ):
        self.root = Path(root)
        shards = _shards(self.root)
        if datasets is not None:
            there = {Path(meta["dataset"]).name for _, meta in shards}
            if not set(datasets) <= there:
                names = ", ".join(sorted(there))
                raise UserError(f"datasets: expected some of {names or 'none'}, got {' '.join(datasets)}")
            shards = [(path, meta) for path, meta in shards if Path(meta["dataset"]).name in datasets]
        if not shards:
            raise UserError(
                f"cache: expected shards under {root}, got none: python -m training.cache builds it"
            )
        self.strings: list[str] = []
        self.families: list[str] = []
        texts: dict[str, int] = {}
        families: dict[str, int] = {}
        names = (*SMALL, "family", "held_out", "inventory", *TOLD)
        columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
        self._images: dict[str, list[np.ndarray]] = {name: [] for name in CAMERAS}
        through: dict[str, list[np.ndarray]] = {name: [] for name in THROUGH}
        starts, frames, episodes = [0], 0, 0
        for path, meta in shards:
            if max_frames is not None and frames >= max_frames:
                break
            small = {name: np.load(path / f"{name}.npy") for name in SMALL}
            strings = [*meta["strings"], ""]
            table = np.array([texts.setdefault(s, len(texts)) for s in strings], np.int32)
            small["inventory"] = np.full(meta["frames"], len(strings) - 1)
            if (path / "inventory.npy").exists():
                small["inventory"] = np.load(path / "inventory.npy")
            small |= {"told": small["subtask"], "told_at": small["target"]}
            small["given"] = np.zeros(meta["frames"], np.int32)
            small |= {n: np.load(path / f"{n}.npy") for n in TOLD if (path / f"{n}.npy").exists()}
            family = [families.setdefault(e["family"], len(families)) for e in meta["episodes"]]
            held = [held_out(episode_key(e["suite"], e["family"], e["seed"])) for e in meta["episodes"]]
            for name in TEXTS:
                small[name] = table[small[name]]
            small["family"] = np.array(family, np.int32)[small["episode"]]
            small["held_out"] = np.array(held, bool)[small["episode"]]
            small["episode"] = small["episode"] + episodes
            for name, values in small.items():
                columns[name].append(values)
            if (path / "through.npy").exists():
                for name, parts in through.items():
                    parts.append(np.load(path / f"{name}.npy"))
            for name, parts in self._images.items():
                parts.append(np.load(path / f"{name}.npy", mmap_mode="r"))
                if touch:  # read every page once, front to back
                    for k in range(0, len(parts[-1]), 64):
                        parts[-1][k : k + 64].max()
            frames += meta["frames"]
            episodes += len(meta["episodes"])
            starts.append(frames)
        self.strings, self.families, self._starts = list(texts), list(families), np.array(starts)
        for name, values in columns.items():
            setattr(self, name, np.concatenate(values))
        whole = len(through["through"]) == len(columns["chunk"])
        self._through = [np.concatenate(through[name]) for name in THROUGH] if whole else None

    def chunks(self, through: bool) -> tuple[np.ndarray, np.ndarray]:
        """Actions (N, 10, 7) and valid (N, 10); through: those that go on through the end of a subtask."""
        if not through:
            return self.chunk, self.valid
        if self._through is None:
            raise UserError(
                f"cache: expected chunks that go on through a subtask's end, got an older cache {self.root}: "
                "build it again from its datasets (python -m training.cache) to add them"
            )
        return self._through[1], self._through[0]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def images(self, camera: str, rows: np.ndarray) -> np.ndarray:
        """(B,) rows -> (B, H, W, 3) uint8."""
        parts = self._images[camera]
        out = np.empty((len(rows), *parts[0].shape[1:]), np.uint8)
        shard = np.searchsorted(self._starts, rows, side="right") - 1
        for s in np.unique(shard):
            where = np.flatnonzero(shard == s)
            out[where] = parts[s][rows[where] - self._starts[s]]
        return out

    def summary(self) -> str:
        """One line for people: how much of what."""
        names, counts = np.unique(self.family, return_counts=True)
        families = ", ".join(f"{self.families[n]} {c}" for n, c in zip(names, counts, strict=True))
        drivers = np.bincount(self.driver.astype(int), minlength=PERSON + 1)
        return (
            f"{len(self)} frames ({self.held_out.sum()} held out), {len(self.strings)} texts; {families}; "
            f"driven by teacher {drivers[0]}, disturbance {drivers[1]}, agent {drivers[2]}, "
            f"a person {drivers[PERSON]}"
        )


def main(
    datasets: Annotated[tuple[Path, ...], tyro.conf.Positional],
    out: Path = Path("data/cache"),
    max_frames: int = 160_000,
    workers: int | None = None,
    pointer: str = "nano",
) -> None:
    """Build (or extend) the training cache from datasets.

    Args:
        datasets: dataset directories: demonstrations, or recorded runs in which a person drove.
        out: where the cache is.
        max_frames: frames in the whole cache, about; 60 KB each.
        workers: processes; all cores by default.
        pointer: of runs that a person drove: the checkpoint that says what nobody typed, where a subtask is
            and what else is seen.
    """
    build_cache(datasets, out, max_frames, workers, pointer=pointer)
    print(Cache(out, touch=False).summary())


if __name__ == "__main__":
    tyro.cli(main)
