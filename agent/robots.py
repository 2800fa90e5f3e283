"""What policies trained elsewhere are shown of a world: pictures, state and words under the names that they
were trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from backbone.errors import UserError
from backbone.observation import Observation


@dataclass(frozen=True)
class RobotFormat:
    """openpi's names for one robot.

    cameras: its key -> our camera; optional: those a world may lack. state: its key -> the numbers
    [first, last) of our state. action_dim: numbers in an action.
    images: the key under which the pictures stand together, None where each stands alone.
    channels_first: pictures as (3, S, S), else (S, S, 3). size: S, after `resize_with_pad`.
    """

    cameras: Mapping[str, str]
    state: Mapping[str, tuple[int, int]]
    action_dim: int
    optional: Mapping[str, str] = field(default_factory=dict)
    images: str | None = None
    channels_first: bool = False
    size: int = 224

    @property
    def state_dim(self) -> int:
        return max(last for _, last in self.state.values())

    def check(self, observation: Observation) -> None:
        """UserError unless its cameras and state are there and fit."""
        seen = observation.now()
        cameras = {**self.cameras, **self._extra(seen)}.values()
        shapes = {camera: np.shape(seen.images[camera])[:2] for camera in cameras if camera in seen.images}
        seen.check({camera: shapes.get(camera, (0, 0)) for camera in cameras}, self.state_dim)

    def message(self, observation: Observation, prompt: str) -> dict[str, Any]:
        """What a server of this robot is sent. UserError where the observation does not fit."""
        self.check(observation)
        seen = observation.now()
        cameras = {**self.cameras, **self._extra(seen)}
        pictures = {key: self._picture(np.asarray(seen.images[camera])) for key, camera in cameras.items()}
        state = np.asarray(seen.state)
        numbers = {key: state[first:last] for key, (first, last) in self.state.items()}
        return {**(pictures if self.images is None else {self.images: pictures}), **numbers, "prompt": prompt}

    def _extra(self, observation: Observation) -> dict[str, str]:
        return {key: camera for key, camera in self.optional.items() if camera in observation.images}

    def _picture(self, image: np.ndarray) -> np.ndarray:
        fitted = resize_with_pad(image, self.size, self.size)
        return np.ascontiguousarray(fitted.transpose(2, 0, 1)) if self.channels_first else fitted


ROBOTS: dict[str, RobotFormat] = {
    "libero": RobotFormat(
        cameras={"observation/image": "front", "observation/wrist_image": "wrist"},
        state={"observation/state": (0, 8)},
        action_dim=7,
    ),
    "droid": RobotFormat(
        cameras={"observation/exterior_image_1_left": "front", "observation/wrist_image_left": "wrist"},
        state={"observation/joint_position": (0, 7), "observation/gripper_position": (7, 8)},
        action_dim=8,
    ),
    "aloha": RobotFormat(
        cameras={"cam_high": "front"},
        optional={"cam_low": "low", "cam_left_wrist": "left_wrist", "cam_right_wrist": "right_wrist"},
        state={"state": (0, 14)},
        action_dim=14,
        images="images",
        channels_first=True,
    ),
}  # openpi's examples/libero, droid and aloha_real


def format_of(name: str) -> RobotFormat:
    """One of ROBOTS; UserError naming them."""
    if name not in ROBOTS:
        raise UserError(f"robot: expected one of {', '.join(ROBOTS)}, got '{name}'")
    return ROBOTS[name]


def resize_with_pad(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (height, width, 3) uint8: as large as fits, bilinear, black around it, in the
    middle. To the pixel what openpi's client does, and so what its policies see.
    """
    if image.shape[:2] == (height, width):
        return image
    scale = max(image.shape[1] / width, image.shape[0] / height)
    inner = int(image.shape[1] / scale), int(image.shape[0] / scale)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    fitted = Image.new("RGB", (width, height))
    fitted.paste(Image.fromarray(image).resize(inner, Image.Resampling.BILINEAR), (left, top))
    return np.asarray(fitted)
