"""What policies trained elsewhere are shown of a world: pictures, state and words under the names that they
were trained with; and the way back, what a client of such a robot showed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from backbone.errors import UserError
from backbone.observation import Observation

SIDES = 8, 4096  # pixels that a side of a picture may have


@dataclass(frozen=True)
class RobotFormat:
    """openpi's names for one robot.

    cameras: its key -> our camera; optional: those a world may lack. state: its key -> the numbers
    [first, last) of our state. action_dim: numbers in an action.
    images: the key under which the pictures stand together, None where each stands alone.
    channels_first: pictures as (3, S, S), else (S, S, 3). size: S, after `resize_with_pad`; None: as they
    are.
    rest: how the robot is held still: "zero" where actions are speeds, "last" where they are positions.
    """

    cameras: Mapping[str, str]
    state: Mapping[str, tuple[int, int]]
    action_dim: int
    optional: Mapping[str, str] = field(default_factory=dict)
    images: str | None = None
    channels_first: bool = False
    size: int | None = 224
    rest: str = "zero"

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

    def observation(self, message: Mapping[str, Any]) -> Observation:
        """What a client of this robot showed: its cameras as (H, W, 3) uint8 of whatever size, copied; the
        state in float32; the prompt as instruction, "" without one. UserError where something is missing or
        odd.
        """
        group = message if self.images is None else message.get(self.images)
        if not isinstance(group, Mapping):
            raise UserError(f"observation: expected pictures under '{self.images}', got {_kind(group)}")
        for key in self.cameras:
            if key not in group:
                raise UserError(f"observation: expected a picture '{key}', got {_names(group)}")
        there = {**self.cameras, **{k: v for k, v in self.optional.items() if k in group}}
        pictures = {camera: read_picture(group[key], key) for key, camera in there.items()}
        state = np.zeros(self.state_dim, np.float32)
        for key, (first, last) in self.state.items():
            if key not in message:
                raise UserError(f"observation: expected numbers '{key}', got {_names(message)}")
            state[first:last] = read_numbers(message[key], key, last - first)
        prompt = message.get("prompt", "")
        if not isinstance(prompt, str):
            raise UserError(f"prompt: expected text, got {_kind(prompt)}")
        return Observation(pictures, state, prompt)

    def shows(self, message: Mapping[str, Any]) -> bool:
        """Whether there is any of a picture or the state in it."""
        pictures = self.cameras if self.images is None else (self.images,)
        return any(key in message for key in (*pictures, *self.state))

    def _extra(self, observation: Observation) -> dict[str, str]:
        return {key: camera for key, camera in self.optional.items() if camera in observation.images}

    def _picture(self, image: np.ndarray) -> np.ndarray:
        fitted = image if self.size is None else resize_with_pad(image, self.size, self.size)
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
        rest="last",
    ),
}  # openpi's examples/libero, droid and aloha_real
ROBOTS["steersman"] = replace(ROBOTS["libero"], size=None)  # for servers that fit pictures themselves


OWN = "lerobot"  # LeRobot's names for the cameras and the numbers of whatever robot


def check_name(name: str) -> None:
    """UserError unless it is one of ROBOTS, or OWN."""
    if name not in (*ROBOTS, OWN):
        raise UserError(f"robot: expected one of {', '.join(ROBOTS)} or {OWN}, got '{name}'")


def format_of(name: str) -> RobotFormat:
    """One of ROBOTS; UserError naming them."""
    if name not in ROBOTS:
        raise UserError(f"robot: expected one of {', '.join(ROBOTS)}, got '{name}'")
    return ROBOTS[name]


def own_format(cameras: Iterable[str], state_dim: int, action_dim: int) -> RobotFormat:
    """Of a robot with these cameras (by our names), as many numbers and positions."""
    return RobotFormat(
        cameras={f"observation.images.{name}": name for name in cameras},
        state={"observation.state": (0, state_dim)},
        action_dim=action_dim,
        size=None,
        rest="last",
    )


def resize_with_pad(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (height, width, 3) uint8: as large as fits, bilinear, black around it, in the
    middle. To the pixel what openpi's client does, and so what its policies see.
    """
    if image.shape[:2] == (height, width):
        return image
    scale = max(image.shape[1] / width, image.shape[0] / height)
    inner = max(1, int(image.shape[1] / scale)), max(1, int(image.shape[0] / scale))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    fitted = Image.new("RGB", (width, height))
    fitted.paste(Image.fromarray(image).resize(inner, Image.Resampling.BILINEAR), (left, top))
    return np.asarray(fitted)


def read_picture(given: Any, key: str) -> np.ndarray:
    """(H, W, 3) uint8, a copy. Also taken, as openpi's servers do: (3, H, W), and floats in [0, 1]. UserError
    for what is no picture, is smaller than 8 or larger than 4096 pixels, or has numbers out of range.
    """
    if not isinstance(given, np.ndarray) or given.dtype.kind not in "uf":
        raise UserError(f"observation: '{key}' expected a picture of uint8, got {_kind(given)}")
    image = given
    if image.ndim == 3 and image.shape[0] == 3 and image.shape[2] != 3:
        image = image.transpose(1, 2, 0)
    fits = image.ndim == 3 and image.shape[2] == 3 and SIDES[0] <= min(image.shape[:2])
    if not fits or max(image.shape[:2]) > SIDES[1]:
        expected = f"shape (H, W, 3) of {SIDES[0]} to {SIDES[1]} pixels"
        raise UserError(f"observation: '{key}' expected {expected}, got {given.shape}")
    if image.dtype.kind == "f":
        if not (np.isfinite(image).all() and 0 <= image.min() and image.max() <= 1):
            raise UserError(f"observation: '{key}' expected uint8 or floats in [0, 1], got others")
        image = 255 * image
    elif image.dtype != np.uint8:
        raise UserError(f"observation: '{key}' expected uint8, got {image.dtype}")
    return np.array(image, np.uint8, order="C")


def read_numbers(given: Any, key: str, size: int) -> np.ndarray:
    """(size,) float32, finite; UserError for others."""
    found = np.asarray(given) if isinstance(given, np.generic | float | int) else given
    if isinstance(given, list) and len(given) == size and all(type(v) in (int, float) for v in given):
        found = np.array(given, np.float64)
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        raise UserError(f"observation: '{key}' expected {size} numbers, got {_kind(given)}")
    if found.size != size or found.ndim > 1:
        raise UserError(f"observation: '{key}' expected {size} numbers, got shape {found.shape}")
    with np.errstate(over="ignore"):  # what overflows is not finite
        numbers = found.reshape(-1).astype(np.float32)
    if not np.isfinite(numbers).all():
        raise UserError(f"observation: '{key}' expected finite numbers, got {numbers.tolist()}")
    return numbers


def _kind(given: Any) -> str:
    return f"{given.dtype} {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__


def _names(given: Mapping) -> str:
    names = [str(key)[:40] for key in list(given)[:12]]
    return ", ".join(sorted(names)) or "nothing"
