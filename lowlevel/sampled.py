"""What the controllers of networks have in common: a chunk is drawn from noise on what has been read."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from backbone.engine import Engine
from backbone.errors import UserError
from backbone.inference import Run
from backbone.observation import Observation
from lowlevel.controller import ActionChunk
from lowlevel.sampling import Modulation, Sampling, draw, promises


class SampledController(ABC):
    """sampling: how a chunk is drawn; set it as you like. action_dim: the robot's own."""

    def __init__(self, engine: Engine, action_dim: int, seed: int = 0):
        self.engine, self.network, self.action_dim = engine, engine.network, action_dim
        self.sampling, self.modulation = Sampling(), Modulation(engine.network)
        self.reset(seed)

    def reset(self, seed: int = 0) -> None:
        """Start the noise anew: the same seed and observations give the same actions."""
        self.generator = torch.Generator().manual_seed(seed)

    @abstractmethod
    def read(self, run: Run, observations: Sequence[Observation], subtasks: Sequence[str]) -> None:
        """Everything that the actions depend on, into an empty run."""

    @abstractmethod
    def tell(self, run: Run, subtasks: Sequence[str], inputs: dict | None = None) -> None:
        """The subtasks, onto a prefix that the planner has read."""

    @abstractmethod
    def untell(self, run: Run, half: int) -> None:
        """Take the subtask from the samples of a run from number `half` on."""

    @property
    def copies(self) -> int:
        """Samples of a run for each observation: with guidance, one that is told and one that is not."""
        return 1 if self.sampling.guidance == 1.0 else 2

    def look(self, batch: int = 1) -> Run:
        """An empty run for so many observations."""
        return self.engine.look(batch * self.copies, self.sampling.candidates)

    def act(
        self,
        observation: Observation,
        subtask: str,
        committed: np.ndarray | None = None,
        leftover: np.ndarray | None = None,
    ) -> ActionChunk:
        """A chunk (H, A) in robot units. committed (K, A), K < H: actions already promised, kept. leftover
        (M, A): what the last chunk had behind them, which guided sampling goes on from.
        """
        started = time.perf_counter()
        with self.engine.quietly():
            run = self.look()
            self.read(run, [observation] * self.copies, [subtask] * self.copies)
            kept, left = [committed], [leftover]
            return self.act_on(run, [observation], [subtask], kept, started=started, leftover=left)[0]

    @torch.no_grad()
    def act_on(
        self,
        run: Run,
        observations: Sequence[Observation],
        subtasks: Sequence[str],
        committed: Sequence[np.ndarray | None],
        generators: Sequence[torch.Generator | None] | None = None,
        started: float | None = None,
        leftover: Sequence[np.ndarray | None] | None = None,
    ) -> list[ActionChunk]:
        """The same for the samples of a run in which everything has been read. generators: of each one's
        noise; the controller's own by default.
        """
        started = time.perf_counter() if started is None else started
        if self.copies > 1:
            self.untell(run, len(observations))
        promised = self.promised(run, committed, leftover)
        noise = self.noise(generators or [None] * len(observations))
        drawn = draw(run, self.modulation, noise, self.sampling, promised)
        return self.chunks(drawn, observations, subtasks, committed, started)

    def noise(self, generators: Sequence[torch.Generator | None]) -> Tensor:
        """(B, candidates, H, A) on the network's device."""
        p = self.network.preset
        shape = 1, self.sampling.candidates, p.horizon, p.action_dim
        noise = torch.cat([torch.randn(shape, generator=g or self.generator) for g in generators])
        return noise.to(self.network.device)

    def promised(
        self,
        run: Run,
        committed: Sequence[np.ndarray | None],
        leftover: Sequence[np.ndarray | None] | None = None,
    ) -> tuple[Tensor, ...]:
        """What a chunk has to go on from (see `promises`). UserError where it cannot be done this way."""
        lead = self.sampling.prefix
        if lead is not None and lead.jacobian == "true" and self.engine.how != "eager":
            raise UserError(
                f"guided: expected 'eager' for the true Jacobian, got '{self.engine.how}' ('identity' can)"
            )
        return promises(run, committed, self.action_dim, leftover, lead)

    def chunks(
        self,
        drawn: Tensor,
        observations: Sequence[Observation],
        subtasks: Sequence[str],
        committed: Sequence[np.ndarray | None],
        started: float,
    ) -> list[ActionChunk]:
        """Normalised candidates (B, F, H, A) -> the chosen ones in robot units."""
        actions = self.network.action_norm.inverse(drawn)[..., : self.action_dim]
        rows, seconds = actions.float().cpu().numpy(), time.perf_counter() - started
        out = []
        for of_one, look, text, kept in zip(rows, observations, subtasks, committed, strict=True):
            if kept is not None:
                of_one[:, : len(kept)] = kept
            best = 0 if len(of_one) == 1 else self._choose(look, text, of_one)
            out.append(ActionChunk(of_one[best], text, started, seconds))
        return out

    def _choose(self, observation: Observation, subtask: str, candidates: np.ndarray) -> int:
        scores = np.asarray(self.sampling.critic(observation, subtask, candidates))
        if scores.shape != (len(candidates),) or np.isnan(scores).any():
            raise ValueError(f"critic: expected {len(candidates)} scores, got {scores!r}")
        return int(scores.argmax())
