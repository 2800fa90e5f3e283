"""A controller on another machine."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from agent.remote.level import RemoteLevel
from agent.remote.reply import actions_of
from backbone.errors import UserError
from backbone.observation import Observation
from lowlevel.controller import ActionChunk


class RemoteController(RemoteLevel):
    """A `Controller` whose actions come from a server (see `RemoteLevel`). It connects at once.

    UserError, in one line, for what cannot be sent; PolicyError where the server is not there, and for an
    answer that is late, an error, or no actions. A server of ours is given the subtask as it stands, and its
    planner is not asked; any other gets it as prompt.
    """

    @property
    def action_dim(self) -> int:
        return self.format.action_dim

    def act(self, observation: Observation, subtask: str, committed: np.ndarray | None = None) -> ActionChunk:
        """(H, action_dim) for the subtask. committed: (K, action_dim); UserError where the server takes
        none.
        """
        start, more = time.perf_counter(), self._promised(committed)
        if self.link.ours:
            told = observation.instruction or subtask
            reply = self._asked(observation, told, want="actions", subtask=subtask, **more)
        else:
            reply = self._asked(observation, subtask)
        actions = actions_of(reply, self.name, self.action_dim)
        said = reply.get("subtask")
        said = said if isinstance(said, str) and said.strip() and not self.link.ours else subtask
        return ActionChunk(actions, said, seconds=time.perf_counter() - start)

    def _promised(self, committed: np.ndarray | None) -> dict[str, Any]:
        if committed is None or not len(committed):
            return {}
        if not self.link.ours:
            raise UserError("committed actions: expected none, the protocol has no place for them")
        return {"committed": np.ascontiguousarray(committed, np.float32)}
