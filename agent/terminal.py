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
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agent.evaluation import page
from agent.evaluation.statistics import quantile, wilson
from agent.loop import Step

HISTORY = 8  # subtasks shown
FAMILIES = 12  # or tasks, while an evaluation runs
MARKS = {"good": "green", "bad": "red", "warn": "yellow", "dim": "dim", "strong": "bold"}


class EpisodeView:
    """An episode as it runs: a context manager, `update` after every tick."""

    def __init__(self, console: Console, title: str, instruction: str):
        self.console, self.title, self.instruction = console, title, instruction
        self.rich = console.is_terminal and not console.is_dumb_terminal
        self._live: Live | None = None
        self._history: list[tuple[str, str, float]] = []  # subtask, where it points, since when
        self._looks: list[float] = []
        self._moment: dict[str, Any] = {"seconds": 0.0, "progress": 0.0, "success": False}
        self._step: Step | None = None
        self._solved_at: float | None = None
        self._started = time.perf_counter()

    def __enter__(self) -> EpisodeView:
        if self.rich:
            self._live = Live(
                self._draw(), console=self.console, refresh_per_second=8, get_renderable=self._draw
            )
            self._live.start()
        else:
            self._line(f"{self.title}: {self.instruction}")
        return self

    def __exit__(self, *_) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, step: Step, moment: dict[str, Any]) -> None:
        """moment: seconds, progress, success, instruction."""
        self._step, self._moment = step, moment
        now = moment["seconds"]
        if step.said is not None:
            self._looks.append(step.seconds * 1000)
        if moment["instruction"] != self.instruction:
            self.instruction = moment["instruction"]
            self._line(f"{now:5.1f} s  new instruction: {self.instruction}")
        if step.plan is not None and (not self._history or self._history[-1][0] != step.plan.subtask):
            target = step.plan.target
            where = "" if target is None else f"at {target.x * 100:.0f}%, {target.y * 100:.0f}%"
            self._history.append((step.plan.subtask, where, now))
            self._line(f"{now:5.1f} s  {step.plan.subtask}")
        if moment["success"] and self._solved_at is None:
            self._solved_at = now
            self._line(f"{now:5.1f} s  goal reached")
        if self.rich:  # at the world's pace: a person wants to see it happen
            time.sleep(max(0.0, self._started + now - time.perf_counter()))
        for event in step.events:
            if " failed: " in event:
                self.console.print(f"[red]{now:5.1f} s  {escape(event)}[/]")

    def _line(self, text: str) -> None:
        if not self.rich:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _draw(self) -> Panel:
        step, moment = self._step, self._moment
        now = moment["seconds"]
        words = Table.grid(padding=(0, 2))
        words.add_column(style="dim", justify="right", width=11)
        words.add_column(ratio=1)
        words.add_row("instruction", Text(self.instruction, style="bold"))
        memory = step.plan.memory if step and step.plan else ""
        words.add_row("memory", Text(memory or "nothing", style="italic dim" if not memory else "italic"))
        scene = step.plan.scene if step and step.plan else ""
        if scene:
            words.add_row("sees", Text(scene, style="italic"))
        for i, (subtask, where, since) in enumerate(self._history[-HISTORY:]):
            last = i == len(self._history[-HISTORY:]) - 1
            mark = "[yellow]→[/]" if last and subtask != "done" else "[green]✓[/]"
            style = "bold yellow" if last else "dim"
            row = Text.assemble((subtask, style), (f"  {where}" if last else "", "dim"))
            words.add_row(f"{since:5.1f} s {mark}", row)
        bar = Table.grid(padding=(0, 2), expand=True)
        bar.add_column(style="dim", justify="right", width=11)
        bar.add_column(ratio=1)
        bar.add_column(width=8)
        solved = self._solved_at is not None
        shown = ProgressBar(
            total=1.0, completed=moment["progress"], complete_style="green" if solved else "yellow"
        )
        bar.add_row("progress", shown, "[green]solved[/]" if solved else f"{moment['progress']:.0%}")
        return Panel(
            Group(words, bar, Text(self._timings(now), style="dim")),
            title=escape(self.title),
            title_align="left",
            border_style="green" if solved else "blue",
        )

    def _timings(self, now: float) -> str:
        wall = time.perf_counter() - self._started
        look = quantile(self._looks[1:] or self._looks, 0.5)
        parts = [f"world {now:.1f} s", f"wall {wall:.1f} s"]
        if look is not None:
            parts.append(f"plan and chunk {look:.0f} ms")
        if self._step is not None and self._step.plan is not None:
            parts.append(f"margin {self._step.plan.margin:.1f}")
        return "  ·  ".join(parts)


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
