"""Talking to the shipped agent in mid-episode: does it obey, how soon, and does it come back to its task?

    python benchmarks/talking.py --episodes 50 --out talking.json

Each row is a way to interrupt, said once an episode at a random tick from 20 to 60 (or when it can be said at
all), on evaluation seeds of `core`. Nothing but words goes in: where a subtask is to be done, the learned
planner points. The world's state is used to choose what can be said and to judge what came of it.
"""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from agent.evaluation.statistics import quantile, wilson
from agent.loop import Agent
from agent.step import Step
from envs.tabletop import commands
from envs.tabletop.env import TabletopEnv

NEARER = 0.01  # metres that the hand has come nearer: now the motion follows
STILL = 0.001  # metres in a tick
SOON = 8  # ticks after which it has to stand still for good
PATIENCE = 120  # ticks for what was said
WAYS = ("subtask", "stop", "slower", "another one", "put it back")


@dataclass
class Settings:
    """Evaluation seeds SEED, SEED + 1, ... for each way."""

    episodes: int = 50
    seed: int = 6000
    processes: int = 2
    ways: tuple[str, ...] = WAYS
    out: Path | None = None


class Episode:
    """One episode in which somebody speaks."""

    def __init__(self, env: TabletopEnv, agent: Agent, seed: int, family: str | None = None):
        env.family = family
        env.begin(seed)
        agent.reset(env.task_description, seed)
        self.env, self.agent, self.world, self.ticks, self.solved = env, agent, env.world, 0, False
        self.seed, self.rng = seed, np.random.default_rng([seed, 5])
        self.when = int(self.rng.integers(20, 61))

    def tick(self) -> Step:
        step = self.agent.step(self.env.look() if self.agent.needs_observation else None)
        info = self.env.step(step.action)[4]
        self.ticks, self.solved = self.ticks + 1, self.solved or info["is_success"]
        return step

    def until(self, ready, most: int) -> bool:
        """Run until so, or so long."""
        for _ in range(most):
            if ready():
                return True
            self.tick()
        return ready()

    def finish(self, spent: int = 0) -> bool:
        """Run on as long as the task gives, and what was spent on being talked to."""
        self.solved = False
        return self.until(lambda: self.solved, self.env.max_steps + spent - self.ticks)


def subtask(e: Episode) -> dict[str, Any] | None:
    """Another subtask than the present one, of those that can be done now; then the planner plans again."""
    e.until(lambda: e.ticks >= e.when, e.when)
    here = e.agent.plan.subtask
    able = [c for c in commands.possible(e.world) if c.text != here and c.place != "table"]
    if not able or e.solved:
        return None
    said = able[int(e.rng.integers(len(able)))]
    place = commands.place(e.world, said)
    far = lambda: float(np.linalg.norm(e.world.eef_pos() - place))
    presses, start, tick, nearest = len(e.world.press_log), far(), e.ticks, None
    e.agent.say(f"subtask: {said.text}")
    obeyed = False
    for _ in range(PATIENCE):
        e.tick()
        if nearest is None and far() < start - NEARER:
            nearest = e.ticks - tick
        if commands.happened(e.world, said, presses):
            obeyed = True
            break
    took = e.ticks - tick
    e.agent.say("subtask:")
    told = {"family": e.env.task.family, "seed": e.seed, "said": said.text, "instead": here}
    return told | {"obeyed": obeyed, "follows": nearest, "took": took, "returned": e.finish(took)}


def stop(e: Episode) -> dict[str, Any] | None:
    """Two seconds of standing still."""
    e.until(lambda: e.ticks >= e.when, e.when)
    if e.solved:
        return None
    e.agent.say("stop")
    still, before = 0, e.world.eef_pos().copy()
    for tick in range(1, 41):
        e.tick()
        moved, before = float(np.linalg.norm(e.world.eef_pos() - before)), e.world.eef_pos().copy()
        still = tick + 1 if moved >= STILL else still
    e.agent.say("go on")
    return {"obeyed": still <= SOON, "follows": still, "returned": e.finish(40)}


def slower(e: Episode) -> dict[str, Any] | None:
    """From the start, against the same seed at full pace: its fastest tenth of ticks is slower by a third."""
    full = pace(e, e.env.max_steps)
    e = Episode(e.env, e.agent, e.seed)
    e.agent.say("slower")
    half = pace(e, 2 * e.env.max_steps)
    found = {"obeyed": half[0] < 2 / 3 * full[0], "returned": e.solved}
    return found | {"seconds": half[1], "full": full[1], "speed": half[0], "full_speed": full[0]}


def pace(e: Episode, most: int) -> tuple[float, float]:
    """Run until it is solved: the hand's speed in its fastest tenth of ticks (m/s), and the seconds."""
    way, before = [], e.world.eef_pos().copy()
    while not e.solved and e.ticks < most:
        e.tick()
        way.append(float(np.linalg.norm(e.world.eef_pos() - before)) * e.env.rate)
        before = e.world.eef_pos().copy()
    return float(np.quantile(way, 0.9)), e.ticks / e.env.rate


def another_one(e: Episode) -> dict[str, Any] | None:
    """ "no, the blue one" while another block is being picked up, where one was asked for."""
    task = e.env.task
    moves = task.params.get("moves", ())
    others = [c for c in e.world.scene.blocks if c != moves[0][0]] if len(moves) == 1 else []
    color, bin_ = moves[0] if others else (None, None)
    if not others or color not in task.instruction.split():
        return None
    e.until(lambda: e.agent.plan is not None and e.ticks >= e.when % 20 + 5, 60)
    if e.agent.plan.subtask != f"pick up the {color} block":
        return None
    new = others[int(e.rng.integers(len(others)))]
    start = float(np.linalg.norm(e.world.eef_pos() - e.world.block_pos(new)))
    said = e.agent.say(f"no, the {new} one")
    left = tuple(c for c in e.world.scene.blocks if c != new)
    params = dict(task.params, moves=((new, bin_),), others=left, corrected=True)
    e.env.task = e.world.task = replace(task, instruction=said, params=params)
    tick = e.ticks
    near = lambda: float(np.linalg.norm(e.world.eef_pos() - e.world.block_pos(new))) < start - NEARER
    follows = e.ticks - tick if e.until(near, PATIENCE) else None
    return {"obeyed": e.finish(PATIENCE), "follows": follows}


def put_it_back(e: Episode) -> dict[str, Any] | None:
    """Said while a block is carried: back to the table, near where it was, and stop."""
    at_first = {c: e.world.block_pos(c).copy() for c in e.world.scene.blocks}
    held = lambda: e.world.held()
    carried = lambda: held() is not None and e.agent.plan.subtask.startswith(("put", "stack"))
    if not e.until(lambda: e.agent.plan is not None and carried(), 200):
        return None
    color, tick = held(), e.ticks
    if at_first[color][2] > 0.04:
        return None  # it was not on the table
    e.agent.say("put it back")
    e.until(lambda: e.agent.stopped, PATIENCE)
    off = float(np.linalg.norm((e.world.block_pos(color) - at_first[color])[:2]))
    down = e.agent.stopped and held() is None and e.world.block_pos(color)[2] < 0.03
    took = e.ticks - tick
    e.agent.say("go on")
    found = {"obeyed": bool(down and off < 0.05), "off": off, "took": took}
    return found | {"returned": e.finish(took)}


DO = {
    "subtask": (subtask, None), "stop": (stop, None), "slower": (slower, None),
    "another one": (another_one, "sort"), "put it back": (put_it_back, None),
}  # fmt: skip
_BUILT: list = []


def run(job: tuple[str, int]) -> tuple[str, dict[str, Any] | None]:
    import torch

    from agent.evaluation.settings import Settings as Evaluated
    from agent.evaluation.settings import build

    way, seed = job
    torch.set_num_threads(1)
    if not _BUILT:
        _BUILT.append(build(Evaluated()))
    env, agent = _BUILT[0]
    do, family = DO[way]
    return way, do(Episode(env, agent, seed, family))


def main(settings: Settings) -> None:
    jobs = [(way, settings.seed + n) for way in settings.ways for n in range(settings.episodes)]
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in settings.ways}
    with multiprocessing.get_context("spawn").Pool(settings.processes) as pool:
        for way, result in pool.imap_unordered(run, jobs):
            found[way] += [] if result is None else [result]
    table = Table("said", "times", "obeyed", "95%", "motion follows: p50, p95 ticks", "back to the task")
    summary = {}
    for way, rows in found.items():
        n, obeyed = len(rows), sum(row["obeyed"] for row in rows)
        low, high = wilson(obeyed, n)
        follows = [row["follows"] for row in rows if row.get("follows") is not None]
        back = [row["returned"] for row in rows if "returned" in row]
        quick = [quantile(follows, q) for q in (0.5, 0.95)] if follows else None
        summary[way] = {"n": n, "obeyed": obeyed, "low": low, "high": high, "follows": quick}
        summary[way] |= {"returned": sum(back), "of": len(back), "episodes": rows}
        ticks = "" if quick is None else f"{quick[0]:.0f}, {quick[1]:.0f}"
        cells = way, str(n), str(obeyed), f"{low:.0%} to {high:.0%}", ticks
        table.add_row(*cells, f"{sum(back)}/{len(back)}" if back else "")
    Console().print(table)
    if settings.out is not None:
        settings.out.write_text(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Settings))
