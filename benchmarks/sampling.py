"""What fewer steps of flow cost, and what a second-order solver saves: nano on real observations.

    python benchmarks/sampling.py                   how far chunks are from exact ones, how long they take
    python benchmarks/sampling.py --episodes 200    and how often the agent then solves its task

"away": root mean square over looks, actions and dimensions, of the difference to 64 midpoint evaluations from
the same noise; full scale of an action is 2. Closed loop: the same seeds for every row, 95% intervals.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import measure
import numpy as np
from tick import along

from agent.evaluation.runner import evaluate
from agent.evaluation.settings import Settings as Evaluation
from agent.policy import Policy
from backbone.errors import UserError
from lowlevel.sampling import Sampling

EXACT = Sampling(steps=64, solver="midpoint")


@dataclass
class Options(measure.Settings):
    checkpoint: str = "nano"
    looks: int = 60  # from three episodes
    steps: tuple[int, ...] = (1, 2, 3, 4, 5, 8)
    solvers: tuple[str, ...] = ("euler", "midpoint", "adams")
    episodes: int = 0  # of the core suite, in closed loop, for each row
    first: int = 0  # seed


def offline(
    policy: Policy, options: Options, rows: list[Sampling]
) -> dict[Sampling, tuple[float, list[float]]]:
    """Of each way, how far its chunks are from exact ones, and the milliseconds of each."""
    looks = along(policy, 3, options.looks)
    squared: dict[Sampling, list[float]] = {way: [] for way in rows}
    taken: dict[Sampling, list[float]] = {way: [] for way in rows}
    for seed, look in enumerate(looks):

        def chunk(way: Sampling, seed=seed, look=look) -> np.ndarray:
            policy.controller.sampling = way
            policy.reset(seed)
            return policy.act(look.seen, look.plan.text).actions

        exact = chunk(EXACT)
        for way in rows[seed % len(rows) :] + rows[: seed % len(rows)]:
            squared[way].append(float(np.square(chunk(way) - exact).mean()))
            taken[way].append(measure.once(lambda way=way: chunk(way), policy.network.device))
    return {way: (float(np.sqrt(np.mean(squared[way]))), taken[way]) for way in rows}


def closed_loop(options: Options, way: Sampling) -> dict:
    settings = Evaluation(checkpoint=options.checkpoint, steps=way.steps, solver=way.solver)
    seeds = range(options.first, options.first + options.episodes)
    with tempfile.TemporaryDirectory() as folder:
        summary = evaluate(settings, seeds, Path(folder))
    if summary["errors"]:
        raise UserError(f"closed loop: expected no errors, got {summary['errors']}")
    return summary["overall"]


def main(options: Options) -> dict:
    options.begin()
    policy = Policy.from_pretrained(options.checkpoint, seed=options.seed)
    rows = [
        Sampling(steps=n, solver=solver)
        for n in options.steps
        for solver in options.solvers
        if (solver != "midpoint" or n % 2 == 0) and (solver == "euler" or n > 1)
    ]
    found, cells, records = offline(policy, options, rows), [], []
    for way in rows:
        away, taken = found[way]
        timing = measure.Timing(taken)
        record = {"steps": way.steps, "solver": way.solver, "away": away, **timing.to_dict()}
        cell = [way.steps, way.solver, away, timing.median, timing.p95]
        if options.episodes:
            score = closed_loop(options, way)
            record["closed_loop"] = score
            cell.append(f"{score['successes']}/{score['n']}")
            cell.append(f"{score['low']:.0%} - {score['high']:.0%}")
        records.append(record)
        cells.append(cell)
    columns = ["steps", "solver", "away", "chunk, ms", "p95"] + ["solved", "95%"] * bool(options.episodes)
    record = {
        "benchmark": "sampling",
        "checkpoint": options.checkpoint,
        "looks": options.looks,
        "rows": records,
    }
    return measure.report(options, f"{options.checkpoint}: steps of flow", columns, cells, record)


if __name__ == "__main__":
    measure.command(main, Options, __doc__)
