"""The controller of a network: reads a subtask beside wrist camera and state, makes a chunk of actions."""

from __future__ import annotations

import time

import numpy as np
import torch

from backbone.inference import Run, encode_words, observed
from backbone.network import Network
from backbone.observation import Observation
from backbone.tokenizer import Tokenizer
from lowlevel.controller import ActionChunk, check_committed
from lowlevel.flow import integrate, times


class LearnedController:
    """Any planner's text, or a person's, will do: it is read again, never taken over as hidden states."""

    def __init__(self, network: Network, tokenizer: Tokenizer, seed: int = 0):
        self.network, self.tokenizer = network, tokenizer
        self.steps, self.action_dim = network.preset.steps, network.preset.action_dim
        layout = network.layout.controller
        self.plan_segment = next(s for s in layout.segments if s.kind == "text")
        # What is in one block with the text, or sees it, has to be read together with it.
        plan = self.plan_segment.name
        self.context = tuple(name for name in layout.names if plan not in layout.closure((name,)))
        self.with_plan = tuple(name for name in layout.names if name not in self.context)
        self.cameras = {
            camera: (config.image_size,) * 2
            for camera, config in network.preset.cameras
            if any(s.source == f"images.{camera}" for s in layout.segments)
        }
        self.reset(seed)

    def reset(self, seed: int = 0) -> None:
        """Start the noise anew: the same seed and observations give the same actions."""
        self.generator = torch.Generator().manual_seed(seed)

    def act(self, observation: Observation, subtask: str, committed: np.ndarray | None = None) -> ActionChunk:
        """A chunk (H, A) in robot units. committed (K, A), K < H: actions already promised, kept."""
        started = time.perf_counter()
        observation.check(self.cameras, self.network.preset.state_dim)
        run = Run(self.network)
        inputs = observed(observation, self.cameras, self.network.device)
        run.read(self.context, inputs)
        return self.act_on(run, subtask, committed, started, inputs)

    @torch.inference_mode()
    def act_on(
        self,
        run: Run,
        subtask: str,
        committed: np.ndarray | None = None,
        started: float | None = None,
        inputs: dict | None = None,
    ) -> ActionChunk:
        """The same on a prefix that has already been read. `inputs`: for what is read with the text."""
        started = time.perf_counter() if started is None else started
        net, p = self.network, self.network.preset
        ids = encode_words(self.tokenizer, subtask, self.plan_segment.length, "subtask")
        ids = {self.plan_segment.source: torch.tensor([ids], device=net.device)}
        run.read(self.with_plan, {**(inputs or {}), **ids})
        run.prepare_actions()
        modulation = net.modulation(times(self.steps).to(net.device)[:, None])  # every step's, at once
        kept = self._committed(committed)
        noise = torch.randn(1, p.horizon, p.action_dim, generator=self.generator).to(net.device)

        def velocity(x, step):
            return run.velocity(x, [m[step : step + 1] for m in modulation])

        actions = net.action_norm.inverse(integrate(velocity, noise, self.steps, kept))[0]
        if committed is not None:
            actions[: len(committed)] = torch.as_tensor(np.asarray(committed), dtype=torch.float32)
        return ActionChunk(actions.cpu().numpy(), subtask, started, time.perf_counter() - started)

    def _committed(self, committed: np.ndarray | None) -> torch.Tensor | None:
        promised = check_committed(committed, self.network.preset.horizon, self.action_dim)
        if promised is None:
            return None
        return self.network.action_norm(torch.from_numpy(promised).to(self.network.device))[None]
