"""The one thread that talks to a robot's driver, so that a driver which hangs stops nobody else.

It reads when asked to and sends what it is given, one call at a time. A robot that is gone is connected
again, after 0.1 s, 0.2 s, ... 2 s, until it is there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

TRIES = 5  # readings or commands that fail in a row, after which it is connected anew
BACKOFF = (0.1, 2.0)  # seconds until it is tried again: at first, at most
HANGS = "the driver does not answer"  # the same words each time: it is one fault
LEAVE = 2.0  # seconds that disconnecting may take


@dataclass(frozen=True)
class Seen:
    """A reading. time: when it was asked for (`time.perf_counter`)."""

    time: float
    values: Any


class Line(threading.Thread):
    """robot: with LeRobot's interface. read: makes of its observation what is kept, in this thread.

    down: why nothing gets through, or None. reconnected: how often it was connected again.
    """

    def __init__(self, robot: Any, read: Callable[[Any], Any]):
        super().__init__(name="robot", daemon=True)
        self.robot, self._read = robot, read
        self.down: str | None = None
        self.reconnected = 0
        self._change = threading.Condition()
        self._asked = self._answered = 0
        self._given = self._sent = 0
        self._command: tuple[int, dict[str, Any]] | None = None
        self._seen: Seen | None = None
        self._trouble: dict[str, Exception] = {}  # of the last reading, and of the last command
        self._failed = 0
        self._since: float | None = None  # of the call under way
        self._open = self._ending = False

    # -- for the control loop

    def open(self, wait: float) -> None:
        """Begin: connect. Raises what the driver raised, TimeoutError after `wait` seconds."""
        self.start()
        with self._change:
            self._change.wait_for(lambda: self._open or "connect" in self._trouble, wait)
            if "connect" in self._trouble:
                raise self._trouble["connect"]
            if not self._open:
                raise TimeoutError(HANGS)

    def look(self, wait: float) -> Seen:
        """A reading that begins now, or the last one where it takes longer than `wait` seconds. Raises what
        the driver raised, ConnectionError while it is down, TimeoutError while it hangs.
        """
        until = time.perf_counter() + wait
        with self._change:
            self._check(wait)
            self._asked = number = self._asked + 1
            self._change.notify_all()
            self._change.wait_for(lambda: self._answered >= number or self.down, until - time.perf_counter())
            if self.down is not None:
                raise ConnectionError(self.down)
            if self._answered >= number and "read" in self._trouble:
                raise self._trouble["read"]
            if self._seen is None:
                raise TimeoutError(f"no observation within {wait:.2f} s")
            return self._seen

    def send(self, command: dict[str, Any], wait: float) -> None:
        """Give it to the driver. The same errors: TimeoutError where the driver has been at something for
        over `wait` seconds, and then the command is taken back. Of one that is late for want of time, no more
        is heard unless it fails; a newer one takes its place.
        """
        until = time.perf_counter() + wait
        with self._change:
            self._check(wait)
            self._given = number = self._given + 1
            self._command = number, command
            self._change.notify_all()
            self._change.wait_for(lambda: self._sent >= number or self.down, until - time.perf_counter())
            if self.down is not None:
                raise ConnectionError(self.down)
            if self._sent < number and self._since is not None and time.perf_counter() - self._since > wait:
                self._command = None
                raise TimeoutError(HANGS)
            if "send" in self._trouble:
                raise self._trouble["send"]

    def close(self) -> None:
        """Disconnect, whatever the driver is at."""
        with self._change:
            self._ending = True
            self._change.notify_all()
        self.join(LEAVE)
        if self.is_alive():  # it hangs: perhaps it hears another thread
            leaving = threading.Thread(target=self._leave, daemon=True)
            leaving.start()
            leaving.join(LEAVE)

    def _check(self, wait: float) -> None:
        if self.down is not None:
            raise ConnectionError(self.down)
        if self._since is not None and time.perf_counter() - self._since > 2 * wait:
            raise TimeoutError(HANGS)

    # -- its thread

    def run(self) -> None:
        if self._begin():
            self._serve()
        self._leave()

    def _begin(self) -> bool:
        try:
            self.robot.connect(calibrate=False)
        except Exception as error:
            self._trouble["connect"] = error
        with self._change:
            self._open = "connect" not in self._trouble
            self._change.notify_all()
        return self._open

    def _serve(self) -> None:
        delay = BACKOFF[0]
        while True:
            with self._change:
                due = lambda: self._ending or self._command or self._asked > self._answered
                self._change.wait_for(due if self.down is None else lambda: self._ending, self._pause(delay))
                if self._ending:
                    return
                command, self._command = self._command, None
                asked = self._asked
            if self.down is not None:
                delay = BACKOFF[0] if self._connect() else min(2 * delay, BACKOFF[1])
            elif command is not None:
                self._call("send", lambda given=command[1]: self.robot.send_action(given))
                self._tell(sent=command[0])
            elif asked > self._answered:
                began = time.perf_counter()
                found = self._call("read", lambda: self._read(self.robot.get_observation()))
                self._tell(answered=asked, seen=None if found is None else Seen(began, found))

    def _pause(self, delay: float) -> float | None:
        return None if self.down is None else delay

    def _call(self, what: str, call: Callable[[], Any]) -> Any:
        self._since = time.perf_counter()
        try:
            found = call()
            self._trouble.pop(what, None)
            self._failed = 0
            return found
        except Exception as error:
            self._trouble[what] = error
            self._failed += 1
            if self._failed >= TRIES or not self._connected():
                reason = " ".join(str(error).split()) or type(error).__name__
                with self._change:
                    self.down = reason
            return None
        finally:
            self._since = None

    def _tell(self, sent: int | None = None, answered: int | None = None, seen: Seen | None = None) -> None:
        with self._change:
            self._sent = self._sent if sent is None else sent
            self._answered = self._answered if answered is None else answered
            self._seen = seen or self._seen
            self._change.notify_all()

    def _connected(self) -> bool:
        try:
            return bool(self.robot.is_connected)
        except Exception:
            return False

    def _connect(self) -> bool:
        self._since = time.perf_counter()
        try:
            with suppress(Exception):
                self.robot.disconnect()  # what is left of the old connection
            self.robot.connect(calibrate=False)
            self._read(self.robot.get_observation())
        except Exception as error:
            self.down = " ".join(str(error).split()) or type(error).__name__
            return False
        finally:
            self._since = None
        with self._change:
            self.down, self._failed, self._seen = None, 0, None
            self._trouble.clear()
            self._command, self._answered = None, self._asked
            self.reconnected += 1
        return True

    def _leave(self) -> None:
        with suppress(Exception):
            self.robot.disconnect()
