"""What every controller is: something that looks, reads a subtask and makes a chunk of actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from backbone.errors import UserError
from backbone.observation import Observation


@dataclass(frozen=True)
class ActionChunk:
    """`actions` (H, A) float32 in robot units; `taken_at`: when their observation was taken."""

    actions: np.ndarray
    subtask: str
    taken_at: float = 0.0
    seconds: float = 0.0


def check_committed(committed: np.ndarray | None, horizon: int, dim: int) -> np.ndarray | None:
    """Actions already promised as (K, dim) float32, None if there are none; UserError if they do not fit."""
    if committed is None or len(committed) == 0:
        return None
    committed = np.asarray(committed, dtype=np.float32)
    if committed.ndim != 2 or committed.shape[1] != dim or len(committed) >= horizon:
        shape = f"(fewer than {horizon}, {dim})"
        raise UserError(f"committed actions: expected shape {shape}, got {committed.shape}")
    return committed


class Controller(Protocol):
    def act(self, observation: Observation, subtask: str, committed: np.ndarray | None = None) -> ActionChunk:
        """A chunk for the subtask's text. `committed` (K, A): actions already promised to the robot."""
        ...
