"""A program on a terminal of its own, and what is to be seen there."""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

_CODE = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")
_OPEN = re.compile(r"\x1b(\[\??[\d;]*)?$")
PATIENCE = 60.0  # seconds after which something that was waited for will not come any more


class Shows:
    """Reads what a program writes, as far as rich's codes go. cells[row][column]: (character, SGR codes)."""

    def __init__(self, width: int, height: int):
        self.modes: dict[str, bool] = {}
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        self.cells = [[(" ", "")] * width for _ in range(height)]
        self.row = self.column = 0
        self.style = ""

    @property
    def text(self) -> str:
        return "\n".join("".join(cell[0] for cell in row).rstrip() for row in self.cells)

    def write(self, text: str) -> None:
        at = 0
        while at < len(text):
            if found := _CODE.match(text, at):
                self._obey(*found.groups())
                at = found.end()
                continue
            char = text[at]
            if char == "\n":
                self.row += 1
            elif char == "\r":
                self.column = 0
            elif char >= " " and self.row < len(self.cells) and self.column < len(self.cells[0]):
                self.cells[self.row][self.column] = char, self.style
                self.column += 1
            at += 1

    def _obey(self, numbers: str, what: str) -> None:
        if what == "m":
            self.style = "" if numbers in ("", "0") else f"{self.style};{numbers}".strip(";")
        elif what == "H":
            row, column = (int(n) for n in (numbers or "1;1").split(";"))
            self.row, self.column = row - 1, column - 1
        elif what == "J":
            self.resize(len(self.cells[0]), len(self.cells))
        elif what in "hl":
            self.modes[numbers] = what == "h"


class Terminal:
    """A program on a pty. `see` waits until a text is there; `type` sends keys."""

    def __init__(self, *command: str, width: int = 100, height: int = 30):
        self.master, self.slave = os.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.shows, self.said, self._rest = Shows(width, height), "", ""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace")
        self._size(width, height)
        env = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=self.slave, stdout=self.slave, stderr=self.slave, env=env,
            start_new_session=True, preexec_fn=self._lead,
        )  # fmt: skip

    def _lead(self) -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that closing the terminal hangs up
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def resize(self, width: int, height: int) -> None:
        self._drain(0.2)
        self.shows.resize(width, height)
        self._size(width, height)
        os.killpg(self.process.pid, signal.SIGWINCH)

    def _size(self, width: int, height: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def see(self, words: str) -> str:
        """The whole screen, once these words are on it."""
        until = time.monotonic() + PATIENCE
        while not re.search(words, self.shows.text):
            assert self.process.poll() is None and time.monotonic() < until, (words, self.shows.text)
            self._drain(0.05)
        return self.shows.text

    def end(self) -> int:
        """Its exit code, and all it said until then."""
        until = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < until, self.shows.text
            self._drain(0.05)
        self._drain(0.1)
        return self.process.returncode

    def restored(self) -> bool:
        """Whether the terminal's modes are as they were, its own screen is back and the cursor is there."""
        modes = self.shows.modes
        same = termios.tcgetattr(self.slave) == self.before
        taken = [modes.get(mode) for mode in ("?1049", "?1000", "?1006")]  # its other screen, the mouse
        return same and taken == [False] * 3 and modes.get("?25") is True

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for fd in (self.master, self.slave):
            if fd >= 0:
                os.close(fd)

    def _drain(self, seconds: float) -> None:
        while select.select([self.master], [], [], seconds)[0]:
            text = self._decode.decode(os.read(self.master, 65536))
            self.said += text
            whole = _OPEN.sub("", self._rest + text)  # a code may be cut in two
            self._rest = (self._rest + text)[len(whole) :]
            self.shows.write(whole)
            seconds = 0.0
