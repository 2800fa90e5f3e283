"""One moment as the robot sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from backbone.errors import UserError


@dataclass(frozen=True)
class Observation:
    """What both levels look at.

    images: camera name -> (H, W, 3) uint8, rows from the top.
    state: (D,) float32 in physical units (metres, radians).
    instruction: the person's words.
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    instruction: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

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
