"""Success over many seeds with 95% intervals per family, and the planner against the scripted teacher.

Writes OUT/episodes.jsonl (a record per episode as it finishes; run again to resume) and OUT/summary.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from agent.evaluation.runner import evaluate
from agent.evaluation.settings import Settings, check_run
from agent.terminal import EvaluationView, planner_lines, summary_table


def main(
    suite: str = "core",
    episodes: int = 200,
    seed: int = 0,
    checkpoint: str = "nano",
    planner: str = "learned",
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
    workers: int | None = None,
    batch: int = 1,
    drawing: Literal["published", "fast"] = "published",
    device: str | None = None,
    ray: str | None = None,
    until_sure: float | None = None,
) -> int:
    """Args:
    suite: which suite of tasks: ours (core, long, memory, correction, perturbed, unseen) or a public
    benchmark's (libero_10, metaworld_mt50, ogbench_scene, aloha_insertion, kitchen_complete, ...).
    episodes: how many seeds.
    seed: the first seed; the others are seed + 1, seed + 2, ...
    checkpoint: "nano" (shipped), a checkpoint directory, or somebody else's policy: ws://HOST:PORT?robot=NAME
    (openpi's protocol) or lerobot:PATH.
    planner: learned; oracle (the scripted teacher writes the plan); none (the instruction in the subtask's
    place); frozen, shuffled, empty, words-only, point-only (see `steersman blame`).
    out: folder for the results; outputs/evaluate/SUITE-PLANNER by default.
    family: only this task family (sort, stack, stow, clear, swap, press), or task of a benchmark.
    controller: learned; teacher (the scripted teacher moves the arm, for diagnosis); random and zero, which
    any controller has to beat (with --planner none); or somebody else's policy below our planner.
    execute: control ticks between looks; those of the suite's published protocol by default (tabletop: 8).
    steps: evaluations of the flow for a chunk of actions; the checkpoint's own number by default.
    solver: of the flow; midpoint and adams are of second order, at the same cost.
    clock: sync, in which the world waits while the agent thinks; or realtime, in which it goes on.
    plan_delay: milliseconds that a plan takes under the realtime clock, beside the controller; without it,
    both take one after the other as long as they do take here.
    chunk_delay: milliseconds that a chunk takes, likewise.
    keep: promise the controller the actions that are done while it thinks (real-time chunking).
    workers: processes; the number of cores by default.
    batch: episodes at a time in a process, their networks in one pass. An episode's outcome does not depend
    on which others ran beside it, only on this number, which rounds sums in another order.
    drawing: of a benchmark's pictures: as its own package draws them, or fast, without shadows and the like.
    device: cpu, cuda, ...; a GPU where there is one, by default.
    ray: the address of a Ray cluster to run on ("auto": the one this machine is in), or local.
    until_sure: stop as soon as success is above or below this rate at 5%, by a test made to be looked at
    after every episode; --episodes is then the most.
    """
    check_run(episodes, seed, workers)
    late = {"clock": clock, "plan_delay": plan_delay, "chunk_delay": chunk_delay, "keep": keep}
    how = {"steps": steps, "solver": solver, "batch": batch, "drawing": drawing, "device": device}
    settings = Settings(suite, family, checkpoint, planner, controller, execute, **how, **late)
    out = out or Path("outputs/evaluate") / "-".join(filter(None, (suite, family, planner)))
    console = Console(highlight=False)
    try:
        with EvaluationView(console, f"{suite}, {planner} planner", episodes) as view:
            seeds = range(seed, seed + episodes)
            summary = evaluate(settings, seeds, out, workers, None, view.update, until_sure, ray)
    except KeyboardInterrupt:
        console.print(f"finished episodes are kept in {out}; the same command goes on from there")
        raise
    console.print(summary_table(summary))
    for line in planner_lines(summary):
        console.print(line)
    if until_sure is not None:
        console.print(sure_line(summary))
    console.print(f"saved in {out}")
    return 1 if summary["errors"] else 0


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
