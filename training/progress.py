"""A progress bar with the time left on a terminal, a plain line now and then where there is none."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def clock(seconds: float) -> str:
    """125 -> 2:05."""
    minutes, seconds = divmod(int(max(0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Bar:
    """`with Bar("collect", total) as bar: bar.update(done, "text")`. Both done and total may be fractions."""

    def __init__(self, label: str, total: float, every: float = 30.0, quiet: bool = False):
        self.label, self.total, self.every = label, total, every
        self.start = self.last = time.monotonic()
        self.first: float | None = None  # what was done already when this run began
        console = Console(stderr=True)
        self._rich: Progress | None = None
        self._quiet = quiet
        if console.is_terminal and not quiet:
            self._rich = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=console,
            )
            self._task = self._rich.add_task(label, total=total, text="")

    def __enter__(self) -> Bar:
        if self._rich:
            self._rich.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._rich:
            self._rich.stop()

    def update(self, done: float, text: str = "") -> None:
        if self._quiet:
            return
        if self._rich:
            self._rich.update(self._task, completed=done, text=text)
            return
        now = time.monotonic()
        if self.first is None:
            self.first = done
        if now - self.last < self.every and done < self.total:
            return
        self.last = now
        rate = (done - self.first) / max(now - self.start, 1e-6)
        left = clock((self.total - done) / rate) if rate > 0 else "?"
        share = 100 * done / max(self.total, 1e-9)
        self.log(f"{self.label} {share:.0f}%  {clock(now - self.start)} gone, {left} left  {text}")

    def log(self, text: str) -> None:
        """A line of its own, above the bar if there is one."""
        if self._rich:
            self._rich.console.print(text, highlight=False)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)
