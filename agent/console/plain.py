"""A session in lines of text, for pipes and screen readers: what happens is told, what is typed is obeyed."""

from __future__ import annotations

import os
import select
import sys
import time

from agent.console.session import HELP, Session
from agent.console.shown import Note

KINDS = {"start": "", "you": "* ", "warn": "! ", "good": "= ", "event": "  ", "subtask": "> "}


def told(note: Note) -> None:
    """One line, at once."""
    print(f"{note.seconds:6.1f} s {KINDS[note.kind]}{note.text}", flush=True)


def run(session: Session, seconds: float | None = None) -> None:
    """At the world's pace until the input says "quit", for so many seconds, or, when the input has ended, to
    the end of the episode.
    """
    lines, began = Lines(sys.stdin.fileno()), time.perf_counter()
    due = began
    if os.isatty(lines.fd):
        session.shown.note(HELP, "you")
    while not session.over and (seconds is None or time.perf_counter() - began < seconds):
        if session.wanted or not session.shown.paused:
            session.tick()
            session.wanted = False
        due = max(due + session.period, time.perf_counter())
        for text in lines.read(due):
            session.obey(text)
        shown = session.shown
        if lines.ended and (session.finished or shown.paused or shown.stopped or shown.waits):
            break  # nobody is left who could say what comes next


class Lines:
    """Whole lines from a pipe, a file or a terminal, without waiting longer than asked."""

    def __init__(self, fd: int):
        self.fd, self.ended, self._rest = fd, False, b""

    def read(self, until: float) -> list[str]:
        """Those that come until then (`time.perf_counter`)."""
        found: list[str] = []
        while (left := until - time.perf_counter()) > 0:
            if self.ended:
                time.sleep(left)
                break
            if not select.select([self.fd], [], [], left)[0]:
                break
            data = os.read(self.fd, 4096)
            self.ended = not data
            *whole, self._rest = (self._rest + (data or b"\n")).split(b"\n")
            found += [text.decode(errors="replace") for text in whole]
        return [text for text in found if text.strip()]
