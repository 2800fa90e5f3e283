"""Is one agent better than another? Results of `evaluate` on the same seeds, compared pair by pair.

The first folder is what the others are compared with. The overall rates and difference are put together
from the families in fixed shares; the sequential verdict holds however often you looked on the way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from agent.evaluation.comparison import compare
from agent.evaluation.store import make_folder, write_json

WIDTH = 110  # of a table that nobody's window limits
SEEDS = 20  # named per family and agent; all are in the JSON


def main(
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional],
    out: Path | None = None,
    weights: Literal["pairs", "equal"] = "pairs",
) -> int:
    """Options of `steersman compare`.

    Args:
        folders: two or more result folders.
        out: write everything as JSON into this file.
        weights: of the families, for what is said overall: as many as there are pairs, or equal ones.
    """
    found = compare(folders, weights)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    for comparison in found["comparisons"]:
        console.print(table(comparison))
        for line in lines(comparison):
            console.print(line, markup=False, soft_wrap=True)
    for line in (*remarks(found), *found["notes"]):
        console.print(line, markup=False, soft_wrap=True)
    if out is not None:
        make_folder(out.parent)
        write_json(out, found)
        console.print(f"saved {out}", markup=False, soft_wrap=True)
    return 0


def table(comparison: dict[str, Any]) -> Table:
    """A row per family and the whole; differences in percentage points, second minus first."""
    first, second = comparison["first"], comparison["second"]
    shown = Table(title=f"{second} against {first}", title_justify="left", box=box.SIMPLE_HEAD)
    shown.add_column("", no_wrap=True, min_width=7)
    columns = (first, second, "difference, 95% interval", "only one", "McNemar p")
    for name in columns:
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("sequential verdict")
    for name, row in (*comparison["families"].items(), ("overall", comparison["overall"])):
        style = "bold" if name == "overall" else None
        shown.add_row(name, *_cells(row), style=style, end_section=name == list(comparison["families"])[-1])
    return shown


def _cells(row: dict[str, Any]) -> list[str]:
    d, p = row["difference"], row.get("mcnemar_holm", row["mcnemar"])
    return [
        *(f"{row[who]['successes']}/{row[who]['n']}" for who in ("first", "second")),
        f"{100 * d['value']:+.1f} ({100 * d['low']:+.1f} to {100 * d['high']:+.1f})",
        f"{row['only_first']} : {row['only_second']}",
        _p(p),
        verdict(row["sequential"]),
    ]


def verdict(found: dict[str, Any]) -> str:
    if found["verdict"] is not None:
        return f"{found['verdict']}, after {found['settled_at']} pairs"
    more = found["more_pairs"]
    return "open, no end in sight" if more is None else f"open, about {more} more"


def _p(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"


def lines(comparison: dict[str, Any]) -> list[str]:
    """The rates, seeds where the two differ, and what could not be paired."""
    rates = []
    for who in ("first", "second"):
        r = comparison["overall"][who]
        rates.append(f"{comparison[who]} {r['rate']:.1%} ({r['low']:.1%} to {r['high']:.1%})")
    said = ["overall: " + ", ".join(rates)]
    for who in (comparison["first"], comparison["second"]):
        seeds: dict[str, list[int]] = {}
        for pair in comparison["differ"]:
            if pair["solved_by"] == who:
                seeds.setdefault(pair["family"], []).append(pair["seed"])
        if seeds:
            said.append(f"only {who} solves " + "; ".join(_seeds(*item) for item in sorted(seeds.items())))
    for name, count in comparison["unpaired"].items():
        if count:
            said.append(f"{count} episodes of {name} have no partner")
    return said


def _seeds(family: str, seeds: list[int]) -> str:
    more = f" and {len(seeds) - SEEDS} more" if len(seeds) > SEEDS else ""
    return f"{family} {', '.join(map(str, seeds[:SEEDS]))}{more}"


def remarks(found: dict[str, Any]) -> list[str]:
    """How to read the table."""
    shares = "as in the pairs" if found["weights"] == "pairs" else "all equal"
    said = [
        "difference: in percentage points; overall: stratified by family, the families' shares "
        f"{shares}; only one: pairs that only the left : only the right one solves",
        "sequential verdict: at 5%, however often you look; pairs to come are a guess from those so far",
    ]
    if (tests := len(found["comparisons"])) > 1:
        said.append(
            f"{tests} comparisons with {found['results'][0]['name']}: p and verdict overall have Holm's "
            "correction, intervals and families have none"
        )
    return said


if __name__ == "__main__":
    import sys

    from steersman.cli import run

    sys.exit(run("examples.compare", "compare.py", sys.argv[1:]))
