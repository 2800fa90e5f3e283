"""What every controller is: something that looks, reads a subtask and makes a chunk of actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from backbone.observation import Observation


@dataclass(frozen=True)
class ActionChunk:
    """`actions` (H, A) float32 in robot units; `taken_at`: when their observation was taken."""

    actions: np.ndarray
    subtask: str
    taken_at: float = 0.0
    seconds: float = 0.0


class Controller(Protocol):
    def act(self, observation: Observation, subtask: str, committed: np.ndarray | None = None) -> ActionChunk:
        """A chunk for the subtask's text. `committed` (K, A): actions already promised to the robot."""
        ...
