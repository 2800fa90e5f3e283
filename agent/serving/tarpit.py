"""Those who send nothing but errors leave the others their time."""

from __future__ import annotations

import time
from collections import deque

WAIT = 0.25  # seconds


class Tarpit:
    """most: refusals in a second that are told at once; each one beyond that waits."""

    def __init__(self, most: int):
        self.most = most
        self._times: deque[float] = deque()

    def wait(self) -> float:
        """Seconds that one more refusal has to wait."""
        now = time.monotonic()
        while self._times and self._times[0] < now - 1.0:
            self._times.popleft()
        self._times.append(now)
        return WAIT if len(self._times) > self.most else 0.0
