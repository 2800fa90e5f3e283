"""Faults put into a live loop at random: does it go on, within its limits, and act again when they end?

    setsid python benchmarks/faults.py --faults 10000 --out faults.json
    setsid python benchmarks/faults.py --faults 50 --kinds "planner hangs" "camera frozen"
    python benchmarks/faults.py --merge seed0.json seed1.json    # the table of several runs

(It stops itself now and then, which a shell would take for Ctrl-Z: hence setsid.)

The shipped agent acts in the tabletop world through `agent.live.act_live`: its own threads, safety layer and
watchdogs. The world is stepped `rate` times a second (100 by default, five times as fast as it is made for,
so that ten thousand faults take less than an hour); thinking takes the time it takes. In half of the episodes
planner and controller are one network on one thread, in the others two on two.

A fault is put in where it would come from: what the robot shows, what it does with an action, what a level
answers, the process (SIGSTOP and SIGCONT), the wall clock (`time.time` jumps), the disk (/dev/full). When it
is over, it is waited for that the robot is sent an action that was thought of ("acts"), and one of a look
that began after the fault ("anew"); then comes the next. Every action that reaches the robot is checked
against its limits by code of its own.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from injection import CHANGE, KINDS, Apart, Draw, Fault, Faulty, Injector, Robot

from agent import live
from agent.evaluation.statistics import quantile
from agent.loop import Agent
from agent.policy import load
from agent.safety import Limits, Safety
from agent.step import Step
from envs.registry import make


@dataclass
class Settings:
    """faults: how many; draw: of which kinds, how long. rate: ticks a second. patience: seconds until a
    question is given up; stale: until the robot is held for want of observations. limit: to act again in.
    ticks: of an episode, at most. merge: nothing is run, what these runs found is shown together.
    """

    checkpoint: str = "nano"
    suite: str = "core"
    faults: int = 10_000
    seed: int = 0
    draw: tyro.conf.OmitArgPrefixes[Draw] = field(default_factory=Draw)
    rate: float = 100.0
    patience: float = live.PATIENCE
    stale: float = 0.3
    limit: float = 2.0
    ticks: int = 400
    out: Path | None = None
    merge: tuple[Path, ...] = ()


def agents(checkpoint: str, injector: Injector, patience: float = live.PATIENCE) -> tuple[Agent, Agent]:
    """One network on one thread, and two on two."""
    one, hand, head = (load(checkpoint) for _ in range(3))
    clocks = [live.clock(injector.rate, patience=patience) for _ in range(2)]
    return (
        Agent(Faulty(one, injector, "both"), clock=clocks[0]),
        Agent(Faulty(hand, injector, "controller"), Apart(head, injector), clock=clocks[1]),
    )


def limits(env, rate: float) -> Limits:
    """Those of the world's actions, and one on acceleration."""
    low, high = (bound.tolist() for bound in (env.action_space.low, env.action_space.high))
    most = (CHANGE * rate,) * 6 + (np.inf,)
    return Limits(low, high, (False,) * 6 + (True,), rate, acceleration=most)


def episode(
    agent: Agent, env, injector: Injector, seed: int, faults: int, ticks: int, stale: float, totals: Counter
) -> None:
    """One episode, until its task is done or said to be, after so many ticks, or when there have been so many
    faults; not in the middle of one. What `act_live` raises is raised.
    """
    env.begin(seed)
    allowed = limits(env, injector.rate)
    robot, safety = Robot(env, injector, allowed), Safety(allowed, stale=stale)
    agent.reset(env.task_description, seed)

    def watch(step: Step, tick: int) -> bool:
        reached = robot.reached and "held" not in step.events and safety.refused is None
        chunk = agent._hand.chunk
        taken_at = chunk.taken_at if chunk is not None else 0.0
        injector.after(step, reached, time.perf_counter(), taken_at)
        totals["violations"] += robot.wrong
        if injector.now("disk full"):
            with open("/dev/full", "w") as disk:
                disk.write("a frame")
        enough = tick >= ticks or len(injector.done) >= faults
        return injector.fault is None and (enough or step.done or env.task.success(env.world))

    totals["episodes"] += 1
    cadence = live.act_live(agent, robot, safety, 600.0, watch)
    sent = np.array(robot.sent)
    totals["bursts"] += int((sent[2:] - sent[:-2] < 0.5 / injector.rate).sum())
    totals["solved"] += bool(env.task.success(env.world))
    totals["ticks"] += cadence.ticks
    totals["overruns"] += cadence.overruns


def main(settings: Settings) -> None:
    if settings.merge:
        runs = [json.loads(path.read_text()) for path in settings.merge]
        show(rows([Fault(**fault) for run in runs for fault in run["faults"]], settings.limit))
        print(dict(sum((Counter(run["totals"]) for run in runs), Counter())))
        return
    torch.set_num_threads(1)
    s, env = settings, make(settings.suite, pixels="lazy")
    injector = Injector(s.draw, s.rate, s.seed)
    both = agents(s.checkpoint, injector, s.patience)
    totals, started, crashes, died = Counter(), time.perf_counter(), [], []
    threading.excepthook = lambda told: died.append(str(told.exc_value))
    while len(injector.done) < s.faults:
        before, number = len(injector.done), totals["episodes"]
        try:
            episode(both[number % 2], env, injector, number, s.faults, s.ticks, s.stale, totals)
        except Exception as error:
            crashes.append(f"{type(error).__name__}: {error}")
            print(f"crash: {crashes[-1]}", flush=True)
            injector.close(crashed=crashes[-1])
        done = len(injector.done)
        if done // 250 != before // 250 or done >= s.faults:
            seconds, found = time.perf_counter() - started, rows(injector.done, s.limit)
            totals["given up"] = sum(agent.clock.beside.given_up for agent in both)
            print(f"{done} faults, {seconds / 60:.1f} minutes, {dict(totals)}", flush=True)
            if s.out is not None:
                save(s, found, totals, crashes, seconds, injector.done)
    show(found)
    left = sum(agent.clock.beside.left for agent in both)
    print(f"threads left to themselves: {left}; threads that died: {len(died)} {died[:3]}")
    env.close()


def rows(faults: Sequence[Fault], limit: float) -> dict[str, dict[str, Any]]:
    """What came of each kind, and of all."""
    kinds: dict[str, list[Fault]] = defaultdict(list)
    for fault in faults:
        kinds[fault.kind].append(fault)
    return {kind: row(kinds[kind], limit) for kind in KINDS if kinds[kind]} | {"all": row(faults, limit)}


def row(faults: Sequence[Fault], limit: float) -> dict[str, Any]:
    """late: how often it took longer than the limit, or for ever; seconds: p50, p99 and the most."""
    found: dict[str, Any] = {
        "faults": len(faults),
        "told": round(sum(f.noticed for f in faults) / len(faults), 4),
        "held": round(sum(f.held > 0 for f in faults) / len(faults), 4),
        "crashes": sum(bool(f.crashed) for f in faults),
        "violations": sum(f.violations for f in faults),
    }
    for name in ("acts", "anew"):
        taken = [getattr(f, name) for f in faults]
        there = [t for t in taken if t is not None]
        found[f"{name}_seconds"] = [round(quantile(there, q), 3) if there else None for q in (0.5, 0.99, 1.0)]
        found[f"{name}_late"] = sum(t is None or t > limit for t in taken)
    return found


def show(found: dict[str, dict[str, Any]]) -> None:
    times = f"{'p50':>8}{'p99':>7}{'most':>7}{'late':>6}"
    print(f"{'':59}{'acts again, seconds':>28}{'anew, seconds':>28}")
    print(f"{'kind':28}{'faults':>7}{'told':>6}{'held':>6}{'crash':>6}{'wrong':>6}{times}{times}")
    for kind, r in found.items():
        line = f"{kind:28}{r['faults']:7}{r['told']:6.0%}{r['held']:6.0%}{r['crashes']:6}{r['violations']:6}"
        for name in ("acts", "anew"):
            p50, p99, most = (np.nan if t is None else t for t in r[f"{name}_seconds"])
            line += f"{p50:8.2f}{p99:7.2f}{most:7.2f}{r[f'{name}_late']:6}"
        print(line)


def save(
    s: Settings, found: dict, totals: Counter, crashes: list[str], seconds: float, faults: Sequence[Fault]
) -> None:
    told = {"settings": asdict(s) | {"out": str(s.out)}, "seconds": round(seconds, 1)}
    told |= {"totals": totals, "crashes": crashes, "kinds": found, "faults": [asdict(f) for f in faults]}
    part = s.out.with_name(s.out.name + ".part")
    part.write_text(json.dumps(told, indent=1))
    os.replace(part, s.out)


if __name__ == "__main__":
    main(tyro.cli(Settings))
