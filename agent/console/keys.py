"""What a person types, without waiting for it: single keys and a line of text. POSIX terminals."""

from __future__ import annotations

import atexit
import codecs
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from backbone.errors import UserError

ENTER, ESCAPE, BACKSPACE, UP, CTRL_U, CTRL_W, CTRL_X = "\n", "\x1b", "\x7f", "up", "\x15", "\x17", "\x18"
ARROWS = {"A": UP, "B": "down", "C": "right", "D": "left"}
CLICK = re.compile(r"click (\d+) (\d+)")  # the column and the row of a key that is a mouse's
MOUSE = "\x1b[?1000{0}\x1b[?1006{0}"  # h: clicks are told, l: they are the terminal's own
_CLICKED = re.compile(r"\x1b\[<0;(\d+);(\d+)M")
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.)")  # arrows, function keys, pastes' brackets


@contextmanager
def leaving() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program as `sys.exit` would: what is open is closed."""

    def leave(number: int, frame) -> None:
        sys.exit(128 + number)

    here = threading.current_thread() is threading.main_thread()
    numbers = [n for n in (signal.SIGTERM, getattr(signal, "SIGHUP", None)) if n is not None and here]
    numbers = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


MOMENT = 0.3  # seconds that a letter waits for another one


class Keyboard:
    """A context manager: keys come one by one and unseen, and the terminal is as it was afterwards."""

    def __init__(self, fd: int | None = None):
        self.fd = sys.stdin.fileno() if fd is None else fd
        self._text = codecs.getincrementaldecoder("utf-8")("ignore")
        self._before: list | None = None

    def __enter__(self) -> Keyboard:
        try:
            import termios
            import tty
        except ImportError:
            raise UserError("terminal: expected a POSIX one for keys; use --plain here") from None
        self._before = termios.tcgetattr(self.fd)
        atexit.register(self.restore)
        tty.setcbreak(self.fd)
        now = termios.tcgetattr(self.fd)
        now[6][termios.VSUSP] = b"\0"  # Ctrl-Z would leave the arm, and the screen, in the middle
        termios.tcsetattr(self.fd, termios.TCSANOW, now)
        return self

    def __exit__(self, *_) -> None:
        self.restore()
        atexit.unregister(self.restore)

    def restore(self) -> None:
        """The terminal as it was."""
        if self._before is not None:
            import termios

            before, self._before = self._before, None
            with suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(self.fd, termios.TCSANOW, before)

    def read(self, timeout: float) -> list[str]:
        """The keys that come within so many seconds, as soon as there is one. EOFError if the terminal is
        gone.
        """
        if not select.select([self.fd], [], [], max(0.0, timeout))[0]:
            return []
        data = os.read(self.fd, 4096)
        if not data:
            raise EOFError("the terminal is gone")
        return split(self._text.decode(data))


def split(text: str) -> list[str]:
    """Keys out of what a terminal sends: arrows and a click by name, others of their kind left out."""
    keys, at = [], 0
    while at < len(text):
        if found := _SEQUENCE.match(text, at):
            if click := _CLICKED.fullmatch(found[0]):
                keys.append(f"click {int(click[1]) - 1} {int(click[2]) - 1}")
            arrow = len(found[0]) == 3 and ARROWS.get(found[0][2])
            keys += [arrow] if arrow else []
            at = found.end()
        else:
            keys.append({"\r": ENTER, "\b": BACKSPACE}.get(text[at], text[at]))
            at += 1
    return keys


class Line:
    """A line that is being typed. `text` is None while nobody types. A letter that is a key waits a moment in
    `held`: if another one follows, the two begin a line, so that one may simply type.
    """

    def __init__(self):
        self.text: str | None = None
        self.held, self._since = "", 0.0
        self._said: list[str] = []
        self._back = 0

    def open(self, text: str = "") -> None:
        self.text, self._back, self.held = text, 0, ""

    def hold(self, key: str) -> None:
        self.held, self._since = key, time.monotonic()

    def let_go(self, now: bool = False) -> str:
        """The key that was held, once nothing has followed for a moment (or now)."""
        key = self.held if now or time.monotonic() - self._since > MOMENT else ""
        self.held = "" if key else self.held
        return key

    def press(self, key: str) -> str | None:
        """The whole line once it is entered, else None. Escape gives it up, Up brings back an earlier one."""
        text = self.text or ""
        if key == ENTER:
            self.text = None
            if text.strip():
                self._said.append(text)
            return text.strip()
        if key == ESCAPE:
            self.text = None
        elif key == UP:
            self._back = min(self._back + 1, len(self._said))
            self.text = self._said[-self._back] if self._back else text
        elif key == BACKSPACE:
            self.text = text[:-1]
        elif key == CTRL_U:
            self.text = ""
        elif key == CTRL_W:
            self.text = text.rstrip().rpartition(" ")[0]
        elif key.isprintable() and len(key) == 1:
            self.text = text + key
        return None
