"""Success over many seeds with 95% intervals per family, and the planner against the scripted teacher.

Writes OUT/episodes.jsonl (a record per episode as it finishes; run again to resume) and OUT/summary.json; of
several suites, checkpoints or planners OUT has a folder for each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from agent.evaluation.runner import evaluate
from agent.evaluation.settings import Settings, check_run
from agent.terminal import EvaluationView, planner_lines, rates_table, summary_table
from backbone.errors import UserError


def main(
    suite: tuple[str, ...] = ("core",),
    episodes: int = 200,
    seed: int = 0,
    checkpoint: tuple[str, ...] = ("nano",),
    planner: tuple[str, ...] = ("learned",),
    out: Path | None = None,
    family: str | None = None,
    controller: str = "learned",
    execute: int | None = None,
    steps: int | None = None,
    solver: Literal["euler", "midpoint", "adams"] = "euler",
    clock: Literal["sync", "realtime"] = "sync",
    plan_delay: float | None = None,
    chunk_delay: float | None = None,
    keep: bool = False,
    skip: bool | None = None,
    guided: Literal["true", "identity"] | None = None,
    replan: str = "every-look",
    recover: bool = False,
    workers: int | None = None,
    batch: int = 1,
    drawing: Literal["published", "fast"] = "published",
    device: str | None = None,
    ray: str | None = None,
    until_sure: float | None = None,
    record: Path | None = None,
) -> int:
    """Options of `steersman evaluate`.

    Args:
        suite: of tasks, one or several: ours (core, long, memory, correction, perturbed, unseen) or a public
            benchmark's (libero_10, metaworld_mt50, ogbench_scene, aloha_insertion, kitchen_complete, ...).
        episodes: how many seeds.
        seed: the first seed; the others are seed + 1, seed + 2, ...
        checkpoint: "nano" (shipped), a checkpoint directory; ws://HOST:PORT (`steersman serve`, both levels
            where it plans); or somebody else's policy: ws://HOST:PORT?robot=NAME (openpi's protocol) or
            lerobot:PATH; one or several.
        planner: learned; oracle (the scripted teacher writes the plan); none (the instruction in the
            subtask's place); frozen, shuffled, empty, words-only, point-only (see `steersman blame`); or
            another model: vlm:NAME (transformers), openai:MODEL@BASE_URL (see docs/planners.md) or
            ws://HOST:PORT (the planner of `steersman serve`); one or several.
        out: folder for the results; outputs/evaluate/SUITE-PLANNER by default.
        family: only this task family (sort, stack, stow, clear, swap, press), or task of a benchmark.
        controller: learned; teacher (the scripted teacher moves the arm, for diagnosis); random and zero,
            which any controller has to beat (with --planner none); or somebody else's policy below our
            planner.
        execute: control ticks between looks; those of the suite's published protocol by default (tabletop:
            8).
        steps: evaluations of the flow for a chunk of actions; the checkpoint's own number by default.
        solver: of the flow; midpoint and adams are of second order, at the same cost.
        clock: sync, in which the world waits while the agent thinks; or realtime, in which it goes on.
        plan_delay: milliseconds that a plan takes under the realtime clock, beside the controller; without
            it, both take one after the other as long as they do take here.
        chunk_delay: milliseconds that a chunk takes, likewise.
        keep: promise the controller the actions that are done while it thinks (real-time chunking).
        skip: of a chunk that comes late, pass over what was done meanwhile (as is usual where actions are
            positions), or begin with its first action (as is usual where they are speeds).
        guided: with keep, for networks that were not trained with delays: lead each chunk on from what was
            left of the last one, by the network's true Jacobian, or taken as the identity (half the work).
        replan: what calls for a new plan: every-look; or some of interval:SECONDS, completion, margin:LEAST,
            stall:SECONDS, perturbation with commas between. Else a look makes a chunk for the plan that
            stands.
        recover: where it is stuck, back off and try again; give up with a reason after some tries.
        workers: processes; the number of cores by default.
        batch: episodes at a time in a process, their networks in one pass. An episode's outcome does not
            depend on which others ran beside it, only on this number, which rounds sums in another order.
        drawing: of a benchmark's pictures: as its own package draws them, or fast, without shadows and the
            like.
        device: cpu, cuda, ...; a GPU where there is one, by default.
        ray: the address of a Ray cluster to run on ("auto": the one this machine is in), or local.
        until_sure: stop as soon as success is above or below this rate at 5%, by a test made to be looked at
            after every episode; --episodes is then the most.
        record: folder for the runs as LeRobot datasets, a part-NNN of each process (of several suites,
            checkpoints or planners a folder for each); see docs/recording.md.
    """
    check_run(episodes, seed, workers)
    late = {"clock": clock, "plan_delay": plan_delay, "chunk_delay": chunk_delay, "keep": keep, "skip": skip}
    late |= {"guided": guided, "replan": replan, "recover": recover}
    how = {"steps": steps, "solver": solver, "batch": batch, "drawing": drawing, "device": device}
    runs = [
        Settings(of, family, who, by, controller, execute, **how, **late)
        for of, who, by in product(suite, checkpoint, planner)
    ]
    if not runs:
        raise UserError("evaluate: expected a suite, a checkpoint and a planner, got none of one of them")
    console, found = Console(highlight=False), {}
    for settings, name in zip(runs, names(runs), strict=True):
        folder = Path("outputs/evaluate") / name if out is None else out / name if len(runs) > 1 else out
        title = f"{settings.suite}, {settings.planner} planner"
        try:
            with EvaluationView(console, title, episodes) as view:
                seeds = range(seed, seed + episodes)
                kept = record if record is None or len(runs) == 1 else record / name
                more = {"until_sure": until_sure, "ray": ray, "record": kept}
                found[name] = evaluate(settings, seeds, folder, workers, watch=view.update, **more)
        except KeyboardInterrupt:
            console.print(f"finished episodes are kept in {folder}; the same command goes on from there")
            raise
        console.print(summary_table(found[name]))
        for line in planner_lines(found[name]):
            console.print(line)
        if until_sure is not None:
            console.print(sure_line(found[name]))
        console.print(f"saved in {folder}")
    if len(runs) > 1:
        console.print(rates_table({name: summary["overall"] for name, summary in found.items()}))
    return 1 if any(summary["errors"] for summary in found.values()) else 0


def names(runs: Sequence[Settings]) -> list[str]:
    """Of each run, SUITE-PLANNER with what else tells it from the others."""
    several = len({settings.checkpoint for settings in runs}) > 1
    found = []
    for settings in runs:
        who = _plain(settings.checkpoint) if several else None
        parts = settings.suite, settings.family, _plain(settings.planner), who
        found.append("-".join(filter(None, parts)))
    return found


def _plain(name: str) -> str:
    """A name as a folder may be called."""
    return re.sub(r"[^\w.-]+", "_", str(name)).strip("_.")


def sure_line(summary: dict[str, Any]) -> str:
    """What the sequential test found, and its own interval, which is wider."""
    found, ran = summary["until_sure"], summary["settings"]["episodes"]
    verdict = found["verdict"] or "neither above nor below"
    early = "stopped early, " if ran < found["episodes_planned"] else ""
    return (
        f"success is {verdict} {found['rate']:.1%} (5%, anytime-valid): {early}{ran} of "
        f"{found['episodes_planned']} episodes; confidence sequence {found['low']:.1%} to "
        f"{found['high']:.1%} (the intervals above are for a number of episodes fixed beforehand)"
    )


if __name__ == "__main__":
    import sys

    from steersman.cli import run

    sys.exit(run("examples.evaluate", "evaluate.py", sys.argv[1:]))
