"""Which level fails, and does the language matter: planners x controllers on the same seeds, counterfactuals.

Writes OUT/PLANNER-CONTROLLER (each as `evaluate` does; run again to resume) and OUT/blame.json.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agent.evaluation.blame import COUNTERFACTUALS, blame, points
from agent.evaluation.planners import typed_text
from agent.evaluation.settings import Settings, check_run
from agent.terminal import EvaluationView

HEADINGS = {
    "command": "told otherwise",  # another subtask that can be done there, with its point
    "place": "pointed elsewhere",  # and the words as they were
    "instruction": "asked otherwise",  # another instruction for the scene: the planner's first subtask
}


def main(
    suite: str = "core",
    episodes: int = 40,
    seed: int = 0,
    checkpoint: str = "nano",
    out: Path | None = None,
    family: str | None = None,
    plan: str | None = None,
    execute: int = 8,
    workers: int | None = None,
    counterfactuals: bool = True,
) -> int:
    """Args:
    suite: which suite of tasks.
    episodes: how many seeds; each is run once per cell of the matrix.
    seed: the first seed; the others are seed + 1, seed + 2, ...
    checkpoint: "nano" (shipped) or a checkpoint directory.
    out: folder for the results; outputs/blame/SUITE by default.
    family: only this task family (sort, stack, stow, clear, swap, press).
    plan: a person's plan as one more row: subtasks with ";" between, or a file with one a line (or with
    instructions, and the subtasks of each indented below it).
    execute: control steps (of 1/20 s) between looks.
    workers: processes; the number of cores by default.
    counterfactuals: also tell the controller something else, point elsewhere, and say other instructions.
    """
    check_run(episodes, seed, workers)
    typed = None if plan is None else typed_text(plan)
    settings = Settings(suite, family, checkpoint, execute=execute, plan=typed)
    out = out or Path("outputs/blame") / "-".join(filter(None, (suite, family)))
    console = Console(highlight=False)
    with ExitStack() as stack:

        def begin(title: str, total: int):
            stack.close()  # the last cell's view
            view = stack.enter_context(EvaluationView(console, title, total))
            if not view.rich:
                console.print(title)
            return view.update if view.rich or title != COUNTERFACTUALS else None  # which solve nothing

        try:
            report = blame(
                settings,
                range(seed, seed + episodes),
                out,
                workers,
                begin=begin,
                told=counterfactuals,
            )
        except KeyboardInterrupt:
            console.print(f"finished episodes are kept in {out}; the same command goes on from there")
            raise
    console.print(matrix_table(report))
    for why in dict.fromkeys(cell["absent"] for cell in report["cells"].values() if "absent" in cell):
        console.print(f"[dim]- no such cell: {why}[/]", soft_wrap=True)
    console.print(losses_table(report))
    if counterfactuals:
        console.print(counterfactuals_table(report))
    for line in report["warnings"]:
        console.print(line, style="bold red", soft_wrap=True)
    errors = sum(cell.get("errors", 0) for cell in report["cells"].values())
    errors += report.get("counterfactual_errors", 0)
    if errors:
        console.print(f"errors: {errors} episodes not finished", style="red")
    console.print(f"saved in {out}", soft_wrap=True)
    return 1 if errors else 0


def matrix_table(report: dict[str, Any]) -> Table:
    """Success per cell with its Wilson interval, and below it the paired difference to the agent itself."""
    table = Table(title=f"success, and the difference to {report['base']}", title_justify="left")
    table.add_column("planner")
    for column in report["columns"]:
        table.add_column(f"{column} controller", justify="right")
    for row in report["rows"]:
        found = [report["cells"][f"{row}-{column}"] for column in report["columns"]]
        table.add_row(row, *map(_cell, found), style="bold" if row == report["rows"][0] else None)
    return table


def _cell(cell: dict[str, Any]) -> str:
    if "absent" in cell:
        return "-"
    found = cell["overall"]
    if not found["n"]:
        return "no episode finished"
    lines = (
        f"{found['successes']}/{found['n']} = {found['rate']:.0%} ({found['low']:.0%} to {found['high']:.0%})"
    )
    return f"{lines}\n[dim]{points(cell['difference'])}[/]" if "difference" in cell else lines


def losses_table(report: dict[str, Any]) -> Table:
    """Which level loses how much, and what each part of a plan is worth."""
    table = Table(title="who loses how much, what is worth how much", title_justify="left")
    for name in ("", "paired difference", "for"):
        table.add_column(name)
    for row in report["losses"]:
        table.add_row(row["what"], points(row), row["instead"], end_section=row["what"] == "both")
    return table


def counterfactuals_table(report: dict[str, Any]) -> Table:
    """The share in which the commanded thing is what happens."""
    table = Table(title="from the same states: is what is said what happens?", title_justify="left")
    for name in ("", "", "followed", "95% interval", "as planned", "nothing"):
        table.add_column(name, justify="right" if name else "left")
    rows = [row for row in report["counterfactuals"] if row["n"]]
    for before, row in zip([None, *rows], rows, strict=False):
        first = before is None or before["what"] != row["what"]
        share = f"{row['successes']}/{row['n']} = {row['rate']:.0%}"
        interval = f"{row['low']:.0%} to {row['high']:.0%}"
        cells = (share, interval, str(row["kept"]), str(row["nothing"]))
        last = row["kind"] == "all"
        heading = HEADINGS[row["what"]] if first else ""
        table.add_row(heading, row["kind"], *cells, style="bold" if last else None, end_section=last)
    return table


if __name__ == "__main__":
    import sys

    from steersman.cli import run

    sys.exit(run("examples.blame", "blame.py", sys.argv[1:]))
