"""What a person moves the arm with: anything with LeRobot's `Teleoperator` interface, or a keyboard.

Of that interface `connect`, `get_action` (a dict of numbers by feature name) and `disconnect` are used.
"""

from __future__ import annotations

import inspect
import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np

from agent.sound import line
from backbone.errors import UserError

FIRST = 1.0  # seconds that a device has for its first reading
PATIENCE = 0.2  # seconds without a new reading, from which on a device gives nothing


class Teleop(Protocol):
    """LeRobot's `Teleoperator`, as far as it is needed."""

    def connect(self) -> None: ...
    def get_action(self) -> Mapping[str, Any]: ...
    def disconnect(self) -> None: ...


def numbers(given: Any, names: Sequence[str], called: Mapping[str, str]) -> np.ndarray:
    """What a device gave as an action (A,) float32: the robot's `names` in order, each under the name that
    the device has for it (`called`). UserError for what is missing or no number.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"teleop: expected numbers by name, got {type(given).__name__}")
    wanted = [called.get(name, name) for name in names]
    if missing := [name for name in wanted if name not in given]:
        raise UserError(
            f"teleop: expected a number '{missing[0]}', got {', '.join(map(str, given)) or 'none'}"
        )
    try:
        found = np.array([float(given[name]) for name in wanted], np.float32)
    except (TypeError, ValueError):
        raise UserError(f"teleop: expected numbers, got {[given[name] for name in wanted]}") from None
    if not np.isfinite(found).all():
        raise UserError(f"teleop: expected finite numbers, got {found.tolist()}")
    return found


class Reader:
    """Reads a device in a thread of its own, so that one that hangs holds up nobody. `get_action` gives what
    was read last; UserError where that is too old.
    """

    def __init__(self, device: Teleop, rate: float):
        self.device, self.period = device, 1.0 / rate
        self._over, self._begun = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._read: tuple[float, Any] | None = None  # when, and what or the error

    def connect(self) -> None:
        connect(self.device)
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name="teleop", daemon=True)
        self._thread.start()
        self._begun.wait(FIRST)

    def get_action(self) -> Mapping[str, Any]:
        if self._read is None:
            raise UserError("teleop: nothing read yet")
        at, found = self._read
        if isinstance(found, Exception):
            raise found
        if time.monotonic() - at > PATIENCE:
            raise UserError("teleop: nothing new from it")  # the same words in every tick: told once
        return found

    def disconnect(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(PATIENCE)
        self.device.disconnect()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                found: Any = dict(self.device.get_action())
            except Exception as error:  # a cable, a driver: many kinds
                found = error
            self._read = time.monotonic(), found
            self._begun.set()
            self._over.wait(self.period)


KEYS = {
    "left": (1, -1), "right": (1, 1), "up": (0, -1), "down": (0, 1), "w": (2, 1), "s": (2, -1),
    "a": (5, 1), "d": (5, -1),
}  # key -> which number of an action, and its sign  # fmt: skip
WORDS = {
    "left": "left", "right": "right", "away": "up", "near": "down", "up": "w", "down": "s",
    "turn left": "a", "turn right": "d",
}  # fmt: skip
GRIP = "g"
_MOVE = re.compile(rf"({'|'.join(sorted(WORDS, key=len, reverse=True))})(?: (\d+))?")


class Keyboard:
    """A hand whose actions are speeds (dx, dy, dz, turns, gripper), moved by keys: the arrows across the
    table as the front camera sees it, w and s up and down, a and d turn it, g closes and opens the gripper.

    A terminal tells no key's release, so each press moves for `lasts` ticks, and a key that is held down
    moves on. speed: of 1, the most.
    """

    instant = True  # never waits, so no thread is needed

    def __init__(self, names: Sequence[str], speed: float = 0.5, lasts: int = 3):
        self.names, self.speed, self.lasts = tuple(names), speed, lasts
        if len(self.names) != 7:
            raise UserError(f"teleop: expected a hand with 7 numbers for the keyboard, got {len(self.names)}")
        self.action_features = dict.fromkeys(self.names, float)
        self.closed = False
        self._left: dict[str, int] = {}  # ticks that a key goes on

    def connect(self) -> None:
        self._left.clear()

    def disconnect(self) -> None:
        self._left.clear()

    def begin(self, last: np.ndarray | None) -> None:
        """The person takes over: the gripper stays as it was told to be (the last action, (7,))."""
        self.closed = last is not None and last[-1] > 0
        self._left.clear()

    def press(self, key: str) -> bool:
        """Whether it is one of its keys."""
        if key == GRIP:
            self.closed = not self.closed
        elif key in KEYS:
            self._left[key] = max(self.lasts, self._left.get(key, 0))
        return key == GRIP or key in KEYS

    def obey(self, words: str) -> bool:
        """The same in words: "left 10" (ticks), "turn right", "grip". Whether it is one of them."""
        if words in ("grip", "grasp", "let go"):
            self.closed = not self.closed if words == "grip" else words == "grasp"
            return True
        found = _MOVE.fullmatch(words)
        if found:
            self._left[WORDS[found[1]]] = min(200, int(found[2] or 5))
        return found is not None

    def get_action(self) -> dict[str, float]:
        action = np.zeros(7)
        for key in list(self._left):
            number, sign = KEYS[key]
            action[number] += sign * self.speed
            self._left[key] -= 1
            if not self._left[key]:
                del self._left[key]
        action[-1] = 1.0 if self.closed else -1.0
        return dict(zip(self.names, action.tolist(), strict=True))


def connect(device: Teleop) -> None:
    """UserError in one line where it is not there. Nobody is asked to calibrate it now."""
    try:
        options = inspect.signature(device.connect).parameters
        device.connect(**({"calibrate": False} if "calibrate" in options else {}))
        ready = getattr(device, "is_calibrated", True)
    except Exception as error:
        close(device)
        raise UserError(f"teleop: expected one that connects, got: {said(error)}") from error
    if not ready:
        close(device)
        raise UserError("teleop: expected it calibrated (lerobot-calibrate), it is not")


def close(device: Teleop) -> None:
    """Let go of a device, whatever state it is in."""
    with suppress(Exception):
        device.disconnect()


def said(error: Exception) -> str:
    """In one line, without its own "teleop: "."""
    return line(error).removeprefix("teleop: ")
