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


def check_leftover(leftover: np.ndarray | None, dim: int) -> np.ndarray | None:
    """What the last chunk had behind the promised actions as (M, dim) float32, None if there is nothing."""
    if leftover is None or len(leftover) == 0:
        return None
    leftover = np.asarray(leftover, dtype=np.float32)
    if leftover.ndim != 2 or leftover.shape[1] != dim:
        raise UserError(f"leftover actions: expected shape (any, {dim}), got {leftover.shape}")
    return leftover


class Controller(Protocol):
    def act(self, observation: Observation, subtask: str, committed: np.ndarray | None = None) -> ActionChunk:
        """A chunk for the subtask's text. `committed` (K, A): actions already promised to the robot.

        Those that draw chunks on a network also take `leftover` (M, A): what the last chunk had behind them.
        """
        ...
