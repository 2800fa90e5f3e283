"""What a person sees while it runs: a live view in a terminal, plain lines in a pipe or a dumb terminal."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from agent.console.shown import Note, Shown
from agent.console.view import facts, part_line
from agent.evaluation import page
from agent.evaluation.statistics import wilson
from agent.step import Step

HISTORY = 8  # subtasks shown
FAMILIES = 12  # or tasks, while an evaluation runs
MARKS = {"good": "green", "bad": "red", "warn": "yellow", "dim": "dim", "strong": "bold"}


class EpisodeView:
    """An episode as it runs: a context manager, `update` after every tick."""

    def __init__(self, console: Console, title: str, instruction: str, rate: float):
        self.console, self.rate = console, rate
        self.rich = console.is_terminal and not console.is_dumb_terminal
        self.shown = Shown(title, instruction, self._told)
        self._live: Live | None = None
        self._started = time.perf_counter()

    def __enter__(self) -> EpisodeView:
        if self.rich:
            self._live = Live(
                self._draw(), console=self.console, refresh_per_second=8, get_renderable=self._draw
            )
            self._live.start()
        else:
            self.console.print(f"{self.shown.title}: {self.shown.instruction}", markup=False, soft_wrap=True)
        return self

    def __exit__(self, *_) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, step: Step, moment: dict[str, Any]) -> None:
        """moment: seconds, progress, success, instruction."""
        shown = self.shown
        shown.seconds = moment["seconds"]
        if moment["instruction"] != shown.instruction:
            shown.told_anew(moment["instruction"])
            shown.note(f"new instruction: {shown.instruction}", "you")
        shown.happened(step, self.rate)
        shown.progressed(moment["progress"], moment["success"])
        if self.rich:  # at the world's pace: a person wants to see it happen
            time.sleep(max(0.0, self._started + shown.seconds - time.perf_counter()))

    def _told(self, note: Note) -> None:
        if note.kind == "warn" or not self.rich:
            style = "red" if note.kind == "warn" else None
            line = f"{note.seconds:5.1f} s  {note.text}"
            self.console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)

    def _draw(self) -> Panel:
        shown = self.shown
        words = facts(shown, self.console.width - 4)
        parts = map(part_line, shown.history[-HISTORY:])
        return Panel(
            Group(words, Text(), *parts),
            title=escape(shown.title),
            title_align="left",
            border_style="blue" if shown.solved is None else "green",
        )


class EvaluationView:
    """Running success over episodes, overall and by family, with intervals and an ETA."""

    def __init__(self, console: Console, title: str, total: int):
        self.console, self.title, self.total = console, title, total
        self.rich = console.is_terminal and not console.is_dumb_terminal
        self._families: dict[str, list[bool]] = {}
        self._errors = 0
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[success]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not self.rich,
        )
        self._task = self._progress.add_task(title, total=total, success="")
        self._live: Live | None = None

    def __enter__(self) -> EvaluationView:
        if self.rich:
            self._live = Live(
                self._draw(), console=self.console, refresh_per_second=4, get_renderable=self._draw,
                transient=True,
            )  # fmt: skip
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live is not None:
            self._live.stop()

    def _draw(self) -> Group:
        """The families, of many those that go worst, above the bar."""
        rates = {name: wilson(sum(values), len(values)) for name, values in self._families.items()}
        worst = sorted(rates, key=lambda name: (sum(rates[name]), name))[:FAMILIES]
        rows = {}
        for name in sorted(worst):
            values, (low, high) = self._families[name], rates[name]
            share = sum(values) / len(values)
            rows[name] = {"successes": sum(values), "n": len(values), "rate": share, "low": low, "high": high}
        table = rates_table(rows, box=None, padding=(0, 2))
        rest = len(rates) - len(worst)
        more = [Text(f"  and {rest} more that go better", "dim")] if rest else []
        return Group(*([table] if rates else []), *more, self._progress)

    def update(self, record: dict[str, Any], finished: int, total: int) -> None:
        if record.get("error"):
            self._errors += 1
            line = f"seed {record['seed']}: error: {record['error']}"
            self.console.print(line, style="red", markup=False, highlight=False)
        elif record["success"] is not None:
            self._families.setdefault(record["family"], []).append(record["success"])
        every = [s for values in self._families.values() for s in values]
        low, high = wilson(sum(every), len(every))
        errors = f"  [red]{self._errors} errors[/]" if self._errors else ""
        success = f"{sum(every)}/{len(every)} solved  [dim]{low:.0%} to {high:.0%}[/]" if every else ""
        success += errors
        self._progress.update(self._task, completed=finished, success=success)
        if not self.rich and (finished == total or finished % 10 == 0):
            line = f"{finished}/{total}: {sum(every)} of {len(every)} solved, {self._errors} errors"
            self.console.print(line, highlight=False, markup=False)


def shown(table: page.Table) -> Table:
    """A page's table for the terminal."""
    out = Table(title=table.about or None, title_justify="left")
    for number, name in enumerate(table.columns):
        words = number in table.left  # which may go over several lines
        out.add_column(name, justify="left" if words else "right", no_wrap=not words)
    for row in table.rows:
        out.add_row(*map(_marked, row))
    return out


def _marked(cell: str | page.Cell) -> Text:
    cell = page.Cell(cell) if isinstance(cell, str) else cell
    first, *below = cell.text.split("\n")
    return Text("\n").join([Text(first, MARKS.get(cell.mark, "")), *(Text(line, "dim") for line in below)])


def summary_table(summary: dict[str, Any]) -> Table:
    """Success per family with Wilson intervals."""
    return rates_table(summary["families"] | {"overall": summary["overall"]})


def rates_table(rows: dict[str, dict[str, Any]], **looks: Any) -> Table:
    """Solved, rate and interval of each row."""
    table = Table(**looks)
    for name, justify in (("", "left"), ("solved", "right"), ("rate", "right"), ("95% interval", "right")):
        table.add_column(name, justify=justify)
    for name, row in rows.items():
        share = "" if row["rate"] is None else f"{row['rate']:.1%}"
        cells = (name, f"{row['successes']}/{row['n']}", share, f"{row['low']:.1%} to {row['high']:.1%}")
        table.add_row(*cells, style="bold" if name == "overall" else None)
    return table


def planner_lines(summary: dict[str, Any]) -> list[str]:
    """The planner against the teacher, and the timings, as a few lines of text."""
    lines, planner, times = [], summary["planner"], summary["timings"]
    if planner is not None:
        away, every = planner["agreement_away_from_switches"], planner["agreement"]
        early, late = planner["done_early"], planner["done_late"]
        lines.append(
            f"planner: same subtask as the teacher at {_percent(away)} of "
            f"{planner['looks_away_from_switches']} looks away from switches ({_percent(every)} of all "
            f"{planner['looks']}), same memory at {_percent(planner['memory_agreement'])}"
        )
        if planner["grounding_pixels_median"] is not None:
            median, p90 = planner["grounding_pixels_median"], planner["grounding_pixels_p90"]
            lines.append(f"point: off by {median:.2f} pixels of 128 (median), {p90:.2f} (90%)")
        lines.append(
            f"done: too early in {early['successes']} of {early['n']} episodes, "
            f"late in {late['successes']} of {late['n']} solved ones"
        )
    if times["look_ms_p50"] is not None:
        lines.append(
            f"plan and chunk {times['look_ms_p50']:.0f} ms (median), {times['look_ms_p95']:.0f} ms (95%); "
            f"{times['real_time_factor']:.1f} times real time per episode"
        )
    if summary["errors"]:
        lines.append(f"errors: {summary['errors']} episodes not finished, seeds {summary['error_seeds']}")
    return lines


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
