"""A session on a terminal's screen: ticks at their time, keys at once, pictures in between."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.control import Control
from rich.segment import Segment, Segments

from agent.beside import Beside
from agent.console.keys import CLICK, CTRL_X, ENTER, MOUSE, Keyboard, Line
from agent.console.session import Session
from agent.console.view import Frame

FRAMES = 20.0  # a second, at most
SPARE = 0.7  # of a drawing's time at least is left until the next tick when it begins
GLANCE = 0.01  # seconds between looks at the keys while the agent thinks


class Screen:
    """Draws frames, and of each line only what is not there yet."""

    def __init__(self, console: Console):
        self.console = console
        self._there: list[list[Segment]] = []
        self._size: tuple[int, int] | None = None
        self.frame: Frame | None = None  # the last one
        self.frames, self.seconds = 0, 0.0

    def draw(self, frame: Frame) -> None:
        started, size = time.perf_counter(), self.console.size
        if size != self._size:
            self._there, self._size = [], size
            self.console.control(Control.clear(), Control.home())
        lines = frame.lines(self.console, size.width, size.height)
        out: list[Segment] = []
        for row, line in enumerate(lines):
            column, new = _changed(self._there[row], line) if row < len(self._there) else (0, line)
            if new:
                out += [Control.move_to(column, row).segment, *new]
        if out:
            self.console.print(Segments(out), end="", crop=False, soft_wrap=True)
        self._there, self.frame = lines, frame
        self.frames += 1
        self.seconds += time.perf_counter() - started

    @property
    def takes(self) -> float:
        """Seconds for a drawing."""
        return self.seconds / max(1, self.frames)


def _changed(before: list[Segment], now: list[Segment]) -> tuple[int, list[Segment]]:
    """Of two lines of the same width: the column where they begin to differ, and from there to the last
    difference what is there now.
    """
    first, shorter = 0, min(len(before), len(now))
    while first < shorter and before[first] == now[first]:
        first += 1
    last = 0
    while last < shorter - first and before[-1 - last] == now[-1 - last]:
        last += 1
    return Segment.get_line_length(now[:first]), now[first : len(now) - last]


def run(session: Session, console: Console, pictures: str = "half", seconds: float | None = None) -> Screen:
    """Until the person leaves, or for so many seconds. The terminal is then as it was.

    The agent's questions are answered in a thread, so that keys are heard and its words seen while it thinks;
    the world waits for it all the same, unless the agent has a clock of its own.
    """
    screen, line, thinking = Screen(console), Line(), Beside(math.inf, math.inf)  # the world waits
    session.listen()
    try:
        with Keyboard() as keyboard, console.screen(), _mouse(console):
            began = due = time.perf_counter()
            drawn = began - 1.0
            while not session.over and (seconds is None or time.perf_counter() - began < seconds):
                now, busy = time.perf_counter(), thinking.busy("tick")
                going = session.wanted or not session.shown.paused
                if busy:
                    thinking.wait("tick", GLANCE)
                elif session.wanted or (going and now >= due):
                    # late: no hurry to catch up, which would be two actions at once
                    due, session.wanted = max(due + session.period, now), False
                    thinking.begin("tick", session.ticking())
                now, busy = time.perf_counter(), thinking.busy("tick")
                spare = busy or not going or due - now > SPARE * screen.takes
                if now - drawn >= 1 / FRAMES - 0.005 and (spare or now - drawn > 3 / FRAMES):
                    session.show()
                    screen.draw(Frame(session.shown, line.text, pictures))
                    drawn = now
                until = drawn + 1 / FRAMES if busy or not going else min(due, drawn + 1 / FRAMES)
                for key in keyboard.read(0.0 if busy else until - time.perf_counter()):
                    typed(session, line, key, screen.frame)
                session.press(line.let_go())
    finally:
        thinking.close()
    return screen


def typed(session: Session, line: Line, key: str, frame: Frame | None = None) -> None:
    """A key: of a line that is open, or one that does something; two letters in a row begin a line, but while
    the person drives those that move the hand are heard at once, as the emergency stop always is. frame: what
    there is to click on.
    """
    if line.text is None and session.steer(key):
        return
    letter = key.isalpha() and len(key) == 1 and line.text is None and key != "x"
    if letter and line.held:
        line.open(line.held + key)
        return
    session.press(line.let_go(now=True))
    if letter:
        line.hold(key) if key in session.keys else line.open(key)
    elif key == CTRL_X:
        session.press(key)
    elif click := CLICK.fullmatch(key):
        if frame is not None and (place := frame.place(int(click[1]), int(click[2]))):
            history = session.shown.history
            words = f"subtask: {history[-1].text if history else ''}"
            line.open(f"{words if line.text is None else line.text} at {place[1]:.0%} {place[0]:.0%}")
    elif line.text is not None:
        text = line.press(key)
        if text:
            session.obey(text)
    elif key in (ENTER, ":", "/"):
        session.shown.message = ""
        line.open()
    else:
        session.press(key)


@contextmanager
def _mouse(console: Console) -> Iterator[None]:
    """Clicks are told to us, as far as the terminal can."""
    console.file.write(MOUSE.format("h"))
    try:
        yield
    finally:
        console.file.write(MOUSE.format("l"))
