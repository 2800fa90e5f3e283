"""The controller of a π network: a subtask is read as text, a chunk of actions flows out of noise."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from backbone.errors import UserError
from backbone.inference import Run
from backbone.observation import Observation
from backbone.reader import Reader
from lowlevel.controller import ActionChunk, check_committed
from lowlevel.flow import integrate, integrate_promised, promised_times, times


class PromptedController:
    """Where the subtask goes is the layout's choice: into a segment of its own (π0.7), behind the prompt as
    if the network had written it (π0.5, π0.6 with a planner), or into the prompt in the task's place.

    action_dim: the robot's own.
    """

    def __init__(self, reader: Reader, action_dim: int, seed: int = 0):
        if reader.network.preset.expert is None:
            raise UserError(f"controller: '{reader.network.preset.name}' makes no actions")
        self.reader, self.network, self.words = reader, reader.network, reader.words
        self.action_dim, self.steps = action_dim, reader.network.preset.steps
        self.written = next((s for s in reader.layout.segments if s.name == "response"), None)
        self.reset(seed)

    def reset(self, seed: int = 0) -> None:
        """Start the noise anew: the same seed and observations give the same actions."""
        self.generator = torch.Generator().manual_seed(seed)

    @torch.inference_mode()
    def act(self, observation: Observation, subtask: str, committed: np.ndarray | None = None) -> ActionChunk:
        """A chunk (H, A) in robot units. committed (K, A), K < H: actions already promised, kept."""
        started, run = time.perf_counter(), Run(self.network)
        task = observation.instruction if self.written and observation.instruction else subtask
        run.read(run.layout.context, self.reader.inputs(observation, task, subtask=subtask))
        if self.written and self.written.target:
            self._say(run, subtask)
        return self.act_on(run, subtask, committed, started)

    @torch.inference_mode()
    def act_on(
        self, run: Run, subtask: str, committed: np.ndarray | None = None, started: float | None = None
    ) -> ActionChunk:
        """The same on a prefix that has been read, with a subtask that has been written."""
        started = time.perf_counter() if started is None else started
        net, p = self.network, self.network.preset
        run.prepare_actions()
        noise = torch.randn(1, p.horizon, p.action_dim, generator=self.generator).to(net.device)
        kept = self._committed(committed)
        if kept is not None and p.trained_delay:
            delay = torch.tensor([kept.shape[1]], device=net.device)
            modulation = [net.modulation(t[:, None]) for t in promised_times(self.steps, p.horizon, delay)]
            whole = torch.cat((kept, noise[:, kept.shape[1] :]), 1)
            actions = integrate_promised(
                lambda x, step: run.velocity(x, modulation[step]), noise, self.steps, whole, delay
            )
        else:
            all_steps = net.modulation(times(self.steps).to(net.device)[:, None])
            actions = integrate(
                lambda x, step: run.velocity(x, [m[step : step + 1] for m in all_steps]),
                noise,
                self.steps,
                kept,
            )
        actions = net.action_norm.inverse(actions)[0, :, : self.action_dim]
        if committed is not None:
            actions[: len(committed)] = torch.as_tensor(np.asarray(committed), dtype=torch.float32)
        return ActionChunk(actions.float().cpu().numpy(), subtask, started, time.perf_counter() - started)

    def _say(self, run: Run, subtask: str) -> None:
        ids = [self.words.bos, *self.words.encode(subtask), self.words.eos]
        if len(ids) > self.written.length:
            raise UserError(f"subtask: expected at most {self.written.length} tokens, got {len(ids)}")
        run.write(self.written.name, torch.tensor([ids], device=self.network.device), 0)

    def _committed(self, committed: np.ndarray | None) -> Tensor | None:
        p, promised = (
            self.network.preset,
            check_committed(committed, self.network.preset.horizon, self.action_dim),
        )
        if promised is None:
            return None
        if p.trained_delay and len(promised) > p.trained_delay:
            raise UserError(f"committed actions: expected at most {p.trained_delay}, got {len(promised)}")
        wide = torch.zeros(1, len(promised), p.action_dim)
        wide[0, :, : self.action_dim] = torch.from_numpy(promised)
        return self.network.action_norm(wide.to(self.network.device))
