"""Which level fails, and does the language matter: planners x controllers on the same seeds, counterfactuals.

Writes OUT/PLANNER-CONTROLLER (each as `evaluate` does; run again to resume) and OUT/blame.json.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from agent.evaluation.blame import COUNTERFACTUALS, blame
from agent.evaluation.blamepage import absences, counterfactuals_table, losses_table, matrix_table
from agent.evaluation.planners import typed_text
from agent.evaluation.settings import Settings, check_run
from agent.terminal import EvaluationView, shown


def main(
    suite: str = "core",
    episodes: int = 40,
    seed: int = 0,
    checkpoint: str = "nano",
    out: Path | None = None,
    family: str | None = None,
    plan: str | None = None,
    execute: int | None = None,
    workers: int | None = None,
    batch: int = 1,
    device: str | None = None,
    counterfactuals: bool = True,
) -> int:
    """Options of `steersman blame`.

    Args:
        suite: which suite of tasks.
        episodes: how many seeds; each is run once per cell of the matrix.
        seed: the first seed; the others are seed + 1, seed + 2, ...
        checkpoint: "nano" (shipped) or a checkpoint directory.
        out: folder for the results; outputs/blame/SUITE by default.
        family: only this task family (sort, stack, stow, clear, swap, press).
        plan: a person's plan as one more row: subtasks with ";" between, or a file with one a line (or with
            instructions, and the subtasks of each indented below it).
        execute: control ticks between looks; those of the suite's published protocol by default (tabletop:
            8).
        workers: processes; the number of cores by default.
        batch: episodes at a time in a process, their networks in one pass.
        device: cpu, cuda, ...; a GPU where there is one, by default.
        counterfactuals: also tell the controller something else, point elsewhere, and say other instructions.
    """
    check_run(episodes, seed, workers)
    typed = None if plan is None else typed_text(plan)
    settings = Settings(suite, family, checkpoint, execute=execute, plan=typed, batch=batch, device=device)
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
    console.print(shown(matrix_table(report)))
    for line in absences(report):
        console.print(f"- {line}", style="dim", soft_wrap=True)
    console.print(shown(losses_table(report)))
    if "counterfactuals" in report:
        console.print(shown(counterfactuals_table(report)))
    for line in report["warnings"]:
        console.print(line, style="bold red", soft_wrap=True)
    errors = sum(cell.get("errors", 0) for cell in report["cells"].values())
    errors += report.get("counterfactual_errors", 0)
    if errors:
        console.print(f"errors: {errors} episodes not finished", style="red")
    console.print(f"saved in {out}", soft_wrap=True)
    return 1 if errors else 0


if __name__ == "__main__":
    import sys

    from steersman.cli import run

    sys.exit(run("examples.blame", "blame.py", sys.argv[1:]))
