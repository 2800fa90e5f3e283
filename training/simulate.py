"""Frames for training, straight from the simulator into the cache: a few of each of very many episodes.

A planner learns a scene by heart when it sees a hundred frames of it, so what it needs is scenes. Here an
episode runs without pictures; afterwards a few of its moments are restored and drawn. Where something else
than the teacher drove next, the teacher is rolled out from the moment itself, so every frame has a whole
chunk, whoever led there.

    python -m training.simulate --out data/cache --episodes 12000

A shard is a pure function of its arguments (and the checkpoint, if one drives) and is renamed into place when
whole: the same command again makes what is missing.
"""

from __future__ import annotations

import multiprocessing
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from backbone.errors import UserError
from training.cache import LATER, SMALL, clear_leftovers, write_shard
from training.collect import Walker, begin_worker, plan_episodes
from training.episodes import AGENT, CAMERAS, DISTURBED, TEACHER, Job, Row
from training.labels import DONE, HORIZON, NOTHING, chunk_labels, past_memory, switch_distance
from training.late import overtaken, waiting
from training.progress import Bar

if TYPE_CHECKING:
    from agent.policy import Policy
    from envs.contract import Label

GROUP = 256  # episodes in a shard
SHARE, LEAST, MOST = 0.1, 6, 30  # frames kept of an episode
DETOURS = 0.2  # of those, how many rest though there is work left (twice as many before a swap begins)
GIVEN, GIVEN_SHARE = 4, 0.6  # of late agents: actions that were done anyway, at most; share of their frames
NEAR, BOOST = 5, 2.0  # frames so near a switch are kept more often


@dataclass(frozen=True)
class _Group:
    name: str
    jobs: tuple[Job, ...]
    out: str


class Simulator(Walker):
    """Makes the rows of a shard (see `Cache` for what they hold)."""

    def __init__(
        self, policy: Policy | None = None, share: float = SHARE, detours: float = DETOURS, late: float = 0.0
    ):
        super().__init__(policy, late)
        self.share, self.detours = share, detours

    def frames(self, job: Job) -> dict[str, Any]:
        """The chosen frames of one episode: pictures, arrays, and texts as lists."""
        from envs.tabletop.inventory import inventory

        world, rng = self.env.world, np.random.default_rng([job.seed, 11])
        rows = self.walk(job, lambda world: world.save())
        labels = [row.label for row in rows]
        subtask, memory = [label.subtask for label in labels], [label.memory for label in labels]
        driver = np.array([row.who for row in rows], np.int8)
        action = np.array([label.action for label in labels], np.float32)
        past = past_memory(np.array(memory, object), NOTHING)
        instruction = [row.instruction for row in rows]
        distance = switch_distance(*(np.array(texts) for texts in (instruction, subtask, memory)))
        known = self._chunks(action, driver, subtask)
        out: dict[str, Any] = {name: [] for name in (*SMALL, *LATER, *CAMERAS)}
        for t in self._choose(distance, driver, rng):
            label, who, far = labels[t], driver[t], distance[t]
            whole = known[1][t].all() and known[3][t].all()
            world.restore(rows[t].kept)
            unbegun = job.family == "swap" and world.task.progress(world) == 0
            share = self.detours * (1 + unbegun)
            told, count = overtaken(rows, t), self._given(rows, t, rng)
            detour = t > 0 and rows[t].told is None and rng.random() < share
            if detour and self._rest(label, int(rng.integers(4, 41))):
                label, whole, who, far = self.teacher.label(world), False, DISTURBED, len(rows)
            pixels = world.observe()["pixels"]
            lags = list(past[t])
            if unbegun:
                lags[::2] = [NOTHING] * len(lags[::2])  # before it began, one look tells what to remember
            frame = {
                **pixels,
                "state": world.state_vector(),
                "target": (-1.0, -1.0) if label.point is None else label.point,
                "instruction": instruction[t],
                "subtask": label.subtask,
                "memory": label.memory,
                "past_memory": lags,
                "inventory": inventory(world),
                "step": t,
                "driver": who,
                "distance": far,
                "given": 0 if told else count,
            }
            frame |= {"told": frame["subtask"], "told_at": frame["target"]}
            if told:
                place = (-1.0, -1.0) if told.target is None else (told.target.y, told.target.x)
                frame |= {"told": told.subtask, "told_at": place}
                chunks = self._alone(waiting(rows, t, told))
            elif count:
                chunks = self._alone(self._go_on(rows, t, count))
            else:
                chunks = [part[t] for part in known] if whole else self._roll_out()
            frame |= dict(zip(("chunk", "valid", "through", "through_valid"), chunks, strict=True))
            for name, value in frame.items():
                out[name].append(value)
        return out | {"length": len(rows), "solved": rows[-1].success}

    def _rest(self, label: Label, steps: int) -> bool:
        """Let the hand go home and wait as it does when all is done, though it is not; False where that would
        change more than the hand's place. An agent that stops too early sees just this, and has to know
        better.
        """
        from envs.tabletop import skills

        world = self.env.world
        lit = any(world.lamp_on(color) for color in world.scene.buttons)
        if label.subtask == DONE or lit or world.held() is not None:
            return False
        for _ in range(steps):
            world.step(skills.rest(world))
        return True

    def _choose(self, distance: np.ndarray, driver: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The first frame and a random few, those near a switch and those an agent led to more often."""
        count = min(len(distance), int(np.clip(self.share * len(distance), LEAST, MOST)))
        weight = np.where(distance <= NEAR, BOOST, 1.0) * np.where(driver == AGENT, 2.0, 1.0)
        weight[0] = 0
        rest = rng.choice(len(weight), count - 1, replace=False, p=weight / weight.sum())
        return np.sort(np.concatenate([[0], rest]))

    def _chunks(self, action: np.ndarray, driver: np.ndarray, subtask: Sequence[str]) -> tuple:
        """(chunk, valid, through, through_valid) of all frames, as far as they are known."""
        labels = action, driver, np.array(subtask), DONE
        return (*chunk_labels(*labels), *chunk_labels(*labels, through=True))

    def _roll_out(self) -> list[np.ndarray]:
        """The same for the present moment, by letting the teacher drive from here."""
        actions, subtasks = self._driven()
        return [part[0] for part in self._chunks(actions, np.full(HORIZON, TEACHER), subtasks)]

    def _driven(self) -> tuple[np.ndarray, list[str]]:
        """What the teacher does from here, (H, A), and for which subtasks."""
        world, actions, subtasks = self.env.world, [], []
        for _ in range(HORIZON):
            label = self.teacher.label(world)
            actions.append(label.action)
            subtasks.append(label.subtask)
            world.step(label.action)
        return np.array(actions, np.float32), subtasks

    def _given(self, rows: Sequence[Row], t: int, rng: np.random.Generator) -> int:
        """How many of a late agent's actions from frame t on its chunk begins with; most often some."""
        if rows[t].told is None or rng.random() >= GIVEN_SHARE:
            return 0
        return min(int(rng.integers(1, GIVEN + 1)), len(rows) - 1 - t)

    def _go_on(self, rows: Sequence[Row], t: int, count: int) -> np.ndarray:
        """The chunk (H, A) of frame t whose first `count` actions are those that were done, whoever did them:
        the teacher goes on from where they led, as far as the subtask of frame t.
        """
        done = rows[t : t + count]
        self.env.world.restore(rows[t + count].kept)
        actions, subtasks = self._driven()
        actions = np.concatenate(([row.label.action for row in done], actions))
        subtask = np.array([*(row.label.subtask for row in done), *subtasks])
        chunk = chunk_labels(actions, np.full(len(actions), TEACHER), subtask, DONE)[0][0]
        chunk[:count] = [row.executed for row in done]
        return chunk

    def _alone(self, chunk: np.ndarray) -> list[np.ndarray]:
        """A chunk that is for its words alone, as one of `_chunks`."""
        known = np.ones(len(chunk), bool)
        return [chunk.astype(np.float32), known, np.zeros_like(chunk, np.float32), ~known]


_simulator: Simulator | None = None


def _start(checkpoint: str | None, share: float, detours: float, late: float) -> None:
    """A worker's first act."""
    global _simulator
    _simulator = Simulator(begin_worker(checkpoint), share, detours, late)


def _make(group: _Group) -> tuple[int, int]:
    """Write one shard; returns its frames and how many of its episodes were solved."""
    assert _simulator is not None
    strings: dict[str, int] = {NOTHING: 0}

    def ids(texts: Any) -> np.ndarray:
        return np.array([strings.setdefault(text, len(strings)) for text in np.ravel(texts)], np.int32)

    columns: dict[str, list] = {name: [] for name in (*SMALL, *LATER, *CAMERAS)}
    episodes, solved = [], 0
    for place, job in enumerate(group.jobs):
        frames = _simulator.frames(job)
        solved += bool(frames["solved"])
        for name in columns:
            columns[name] += [place] * len(frames["step"]) if name == "episode" else frames[name]
        fields = {"suite": job.suite, "family": job.family, "seed": job.seed}
        episodes.append(fields | {"number": place, "length": frames["length"]})
    pictures = {name: np.stack(columns.pop(name)) for name in CAMERAS}
    arrays = {}
    for name, values in columns.items():
        if name == "past_memory":
            arrays[name] = ids(values).reshape(len(values), -1)
        elif isinstance(values[0], str):
            arrays[name] = ids(values)
        else:
            kind = np.array(values).dtype.kind
            arrays[name] = np.array(values, {"f": np.float32, "b": bool, "i": np.int32}[kind])
    frames = len(arrays["step"])
    meta = {"dataset": group.name, "frames": frames, "episodes": episodes, "strings": list(strings)}
    write_shard(Path(group.out), arrays, pictures, meta)
    return frames, solved


def simulate(
    out: str | Path,
    suites: Sequence[str] = ("core",),
    episodes: int = 6000,
    seed: int = 0,
    families: Sequence[str] | None = None,
    checkpoint: str | None = None,
    name: str = "simulated",
    share: float = SHARE,
    detours: float = DETOURS,
    late: float = 0.0,
    workers: int | None = None,
    quiet: bool = False,
) -> int:
    """Add to the cache `out` what it lacks of these episodes (see `plan_episodes`). Returns the new frames.

    checkpoint: a policy that drives in turn with the teacher (DAgger). share: frames kept of an episode.
    detours: how many of those show the hand at rest though there is work left, where that can be. late: share
    of the policy's turns in which its answers come late.
    """
    out = Path(out)
    if not 0 <= late <= 1 or (late and checkpoint is None):
        raise UserError(f"late: expected a share in [0, 1] of a checkpoint's turns, got {late}")
    if not 0 < share <= 1:
        raise UserError(f"share: expected a share of the frames in (0, 1], got {share}")
    if not 0 <= detours <= 1:
        raise UserError(f"detours: expected a share of the frames in [0, 1], got {detours}")
    jobs = plan_episodes(suites, episodes, seed, families)
    if checkpoint is not None:
        from backbone import checkpoint as checkpoints

        checkpoint = str(checkpoints.find(checkpoint))
    out.mkdir(parents=True, exist_ok=True)
    clear_leftovers(out)
    groups = []
    for first in range(0, len(jobs), GROUP):
        part = tuple(jobs[first : first + GROUP])
        how = f"{share} {detours} {checkpoint is None}{f' {late}' if late else ''}"
        mark = zlib.crc32(f"{part} {how}".encode()) & 0xFFFF
        folder = out / f"{name}-{mark:04x}-{part[0].seed:07d}"
        if not folder.exists():
            groups.append(_Group(name, part, str(folder)))
    frames = solved = done = 0
    context = multiprocessing.get_context("spawn")
    count = max(1, min(workers or os.cpu_count() or 1, len(groups)))
    with (
        Bar("simulate", len(groups), quiet=quiet) as bar,
        ProcessPoolExecutor(
            count, context, initializer=_start, initargs=(checkpoint, share, detours, late)
        ) as pool,
    ):
        waiting = {pool.submit(_make, group): group for group in groups}
        try:
            for n, future in enumerate(as_completed(waiting)):
                more, good = future.result()
                frames, solved, done = frames + more, solved + good, done + len(waiting[future].jobs)
                bar.update(n + 1, f"{frames} frames of {done} episodes, {solved / done:.0%} solved")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return frames


def main(
    out: Path = Path("data/cache"),
    suites: tuple[str, ...] = ("core",),
    episodes: int = 6000,
    seed: int = 0,
    families: Annotated[tuple[str, ...] | None, tyro.conf.arg(help="of each suite")] = None,
    checkpoint: str | None = None,
    name: str = "simulated",
    share: float = SHARE,
    detours: float = DETOURS,
    late: float = 0.0,
    workers: int | None = None,
) -> int:
    """Simulate episodes and add a few frames of each to a training cache.

    Args:
        out: the cache.
        suites: taken in turn; name one twice for twice the share.
        episodes: how many.
        seed: of the first; the following count up.
        checkpoint: a policy that drives in turn with the teacher (DAgger).
        name: under which `--datasets` finds these frames.
        share: of an episode's frames that is kept.
        detours: how many of those show the hand at rest though there is work left, where that can be.
        late: share of the policy's turns in which its answers come late.
        workers: processes; all cores by default.
    """
    simulate(out, suites, episodes, seed, families, checkpoint, name, share, detours, late, workers)
    from training.cache import Cache

    print(Cache(out, touch=False).summary())
    return 0


if __name__ == "__main__":
    import sys

    from steersman.cli import run

    sys.exit(run("training.simulate", "training.simulate", sys.argv[1:]))
