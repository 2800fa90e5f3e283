"""What any controller has to beat: no motion, and any motion."""

from __future__ import annotations

import numpy as np

from backbone.observation import Observation
from lowlevel.controller import ActionChunk


class ZeroController:
    """Zero actions."""

    blind = True

    def __init__(self, action_dim: int = 7, horizon: int = 10):
        self.action_dim, self.horizon = action_dim, horizon

    def act(self, observation: Observation, subtask: str, committed: np.ndarray | None = None) -> ActionChunk:
        return ActionChunk(np.zeros((self.horizon, self.action_dim), np.float32), subtask)


class RandomController(ZeroController):
    """Uniform between low and high, anew at every step. The same seed gives the same actions.

    walk: where actions are positions, each is a step from the last, from where the robot is (its state) on,
    as a joint cannot be anywhere at once; a step is uniform within so many of the ranges.
    """

    def __init__(self, action_dim: int = 7, horizon: int = 10, low=-1.0, high=1.0, walk: float = 0.0):
        super().__init__(action_dim, horizon)
        self.low, self.high, self.walk = low, high, walk
        self.reset()

    def reset(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def act(self, observation: Observation, subtask: str, committed: np.ndarray | None = None) -> ActionChunk:
        actions = self.rng.uniform(self.low, self.high, (self.horizon, self.action_dim))
        if self.walk:
            low, high = np.asarray(self.low, float), np.asarray(self.high, float)
            here = np.asarray(observation.state, float)
            for tick, step in enumerate(self.walk * 2 * (actions - (low + high) / 2)):
                actions[tick] = here = np.clip(here + step, low, high)
        return ActionChunk(actions.astype(np.float32), subtask)
