"""Success over how late plans and chunks come: a surface with Wilson intervals, the same seeds in each cell.

    python benchmarks/delays.py --episodes 60 --out outputs/delays

The clock is `realtime` with the delays given (agent/clock.py), so a cell is the same on any machine. A chunk
may be entered where its path meets what was done ("align", the default for speeds), passed over as far as
something was done ("skip": naive switching) or begun with its first action ("first").
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table

from agent.evaluation.runner import evaluate
from agent.evaluation.settings import Settings as Evaluated

SKIP = {"align": None, "skip": True, "first": False}


@dataclass
class Settings:
    """Delays in milliseconds. Evaluation seeds SEED, SEED + 1, ..."""

    plans: tuple[float, ...] = (0, 500, 1000, 2000, 5000)
    chunks: tuple[float, ...] = (0, 50, 100, 200, 500)
    late: Literal["align", "skip", "first"] = "align"
    suite: str = "core"
    checkpoint: str = "nano"
    keep: bool = False
    episodes: int = 60
    seed: int = 1000
    workers: int | None = None
    out: Path = Path("outputs/delays")


def main(settings: Settings) -> None:
    seeds = range(settings.seed, settings.seed + settings.episodes)
    table = Table("plan late", *(f"chunk {chunk:.0f} ms" for chunk in settings.chunks))
    cells = []
    for plan in settings.plans:
        row = [f"{plan:.0f} ms"]
        for chunk in settings.chunks:
            delays = {"plan_delay": plan, "chunk_delay": chunk, "skip": SKIP[settings.late]}
            how = {"clock": "realtime", "keep": settings.keep, **delays}
            folder = settings.out / f"{settings.late}-plan{plan:.0f}-chunk{chunk:.0f}"
            run = Evaluated(settings.suite, checkpoint=settings.checkpoint, **how)
            found = evaluate(run, seeds, folder, settings.workers)["overall"]
            cells.append({"plan_ms": plan, "chunk_ms": chunk, **found})
            row.append(f"{found['successes']}/{found['n']} ({found['low']:.0%} to {found['high']:.0%})")
            print(*row[:1], f"chunk {chunk:.0f} ms", row[-1], flush=True)
        table.add_row(*row)
    Console().print(table)
    text = json.dumps({"late": settings.late, "keep": settings.keep, "cells": cells}, indent=1)
    (settings.out / f"{settings.late}.json").write_text(text)


if __name__ == "__main__":
    main(tyro.cli(Settings))
