"""One moment as the robot sees it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from backbone.errors import UserError


@dataclass(frozen=True)
class Observation:
    """What both levels look at.

    images: camera name -> (H, W, 3) uint8, rows from the top; (T, H, W, 3) with the past, oldest first.
    state: (D,) float32 in physical units (metres, radians); (T, D) with the past.
    instruction: the person's words.
    metadata: how to do it and with what: speed, quality, mistake, robot, fps, control, those that are known.
    subgoals: camera name -> (H, W, 3) uint8, what it should look like soon.
    history: (T,) bool, which of the T moments there were; without it only the last. See `History`.
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    instruction: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)
    subgoals: Mapping[str, np.ndarray] = field(default_factory=dict)
    history: np.ndarray | None = None

    @classmethod
    def from_env(cls, obs: Mapping, instruction: str) -> Observation:
        """From a gymnasium observation `{"pixels": {camera: HWC uint8}, "agent_pos": (D,)}`."""
        if "pixels" not in obs or "agent_pos" not in obs:
            raise UserError(f"observation: expected keys 'pixels' and 'agent_pos', got {sorted(obs)}")
        pixels = obs["pixels"]
        if not isinstance(pixels, Mapping):
            raise UserError(f"observation: expected pixels as {{camera: image}}, got {type(pixels).__name__}")
        return cls(dict(pixels), np.asarray(obs["agent_pos"]), instruction)

    def with_instruction(self, instruction: str) -> Observation:
        return replace(self, instruction=instruction)

    def now(self) -> Observation:
        """The last moment alone, where this has the past."""
        if self.history is None:
            return self
        images = {name: np.asarray(image)[-1] for name, image in self.images.items()}
        return replace(self, images=images, state=np.asarray(self.state)[-1], history=None)

    def check(self, cameras: Mapping[str, tuple[int, int]], state_dim: int) -> None:
        """UserError unless every camera is there with its (height, width), uint8, and the state fits."""
        for name, (height, width) in cameras.items():
            if name not in self.images:
                got = ", ".join(sorted(self.images)) or "none"
                raise UserError(f"observation: expected camera '{name}', got {got}")
            image = np.asarray(self.images[name])
            if image.shape != (height, width, 3):
                raise UserError(
                    f"observation: camera '{name}' expected shape ({height}, {width}, 3), got {image.shape}"
                )
            if image.dtype != np.uint8:
                raise UserError(f"observation: camera '{name}' expected uint8, got {image.dtype}")
        state = np.asarray(self.state)
        if state.shape != (state_dim,):
            raise UserError(f"observation: expected a state of shape ({state_dim},), got {state.shape}")
        if not np.issubdtype(state.dtype, np.floating):
            raise UserError(f"observation: expected a floating point state, got {state.dtype}")
        if not np.isfinite(state).all():
            raise UserError(f"observation: expected finite numbers in the state, got {state.tolist()}")


class History:
    """The last moments of an episode, for networks that look back: every `interval`-th of the last frames.

    Call `add` with each observation, also those between two looks.
    """

    def __init__(self, frames: int, interval: int = 1):
        if frames < 1 or interval < 1:
            raise UserError(f"history: expected at least 1 frame and interval, got {frames} and {interval}")
        self.frames, self.interval = frames, interval
        self._kept: deque[Observation] = deque(maxlen=(frames - 1) * interval + 1)

    def reset(self) -> None:
        self._kept.clear()

    def add(self, observation: Observation) -> Observation:
        """The same moment with its past. What there was not is zero, and `history` says so."""
        self._kept.append(observation)
        if self.frames == 1:
            return observation
        past = list(self._kept)[:: -self.interval][: self.frames][::-1]
        missing = self.frames - len(past)
        images = {
            name: np.stack([np.zeros_like(image)] * missing + [np.asarray(o.images[name]) for o in past])
            for name, image in observation.images.items()
        }
        states = [np.zeros_like(observation.state)] * missing + [np.asarray(o.state) for o in past]
        there = np.arange(self.frames) >= missing
        return replace(observation, images=images, state=np.stack(states), history=there)
