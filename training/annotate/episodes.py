"""Episodes of a dataset as whoever labels them sees them: times, words and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from backbone.errors import UserError
from training.lerobot import LeRobotDataset


class Shown:
    """One episode. number: in the dataset. times (T,): seconds of its frames from 0 on; end: when the last
    one is over. cameras: those that are shown.
    """

    def __init__(self, dataset: LeRobotDataset, episode: int, cameras: Sequence[str]):
        self.dataset, self.cameras, self.name = dataset, tuple(cameras), dataset.name
        self.first, last = int(dataset.first[episode]), int(dataset.first[episode + 1])
        self.number, self.fps = int(dataset.numbers[episode]), dataset.fps
        self.times = dataset.timestamp[self.first : last] - dataset.timestamp[self.first]
        self.end = float(self.times[-1]) + 1 / self.fps
        said = [] if dataset.task is None else [dataset.task[row] for row in range(self.first, last)]
        self.instructions = [
            (float(self.times[k]), text) for k, text in enumerate(said) if k == 0 or text != said[k - 1]
        ]

    def __len__(self) -> int:
        return len(self.times)

    @property
    def instruction(self) -> str:
        """The words, and from when on others count."""
        if not self.instructions:
            return "(none was recorded)"
        return "; ".join(
            t if not k else f"from {s:.2f} s on: {t}" for k, (s, t) in enumerate(self.instructions)
        )

    def picture(self, camera: str, frame: int, side: int | None = None) -> np.ndarray:
        """(H, W, 3) uint8, its longer side at most `side`."""
        image = self.dataset.images(camera, [self.first + frame])[0]
        if side is None or max(image.shape[:2]) <= side:
            return image
        small = Image.fromarray(image)
        small.thumbnail((side, side), Image.Resampling.BOX)
        return np.asarray(small)

    def frame(self, seconds: float) -> int:
        """The frame at a time, or the number of frames for the end."""
        return int(np.searchsorted(self.times, seconds - 0.5 / self.fps))

    def second(self, frame: int) -> float:
        """When a frame begins."""
        return float(self.times[frame]) if frame < len(self) else self.end

    def spread(self, most: int, rate: float) -> list[int]:
        """Frames evenly spread from the first to the last: about `rate` a second, at most so many."""
        count = int(np.clip(np.ceil(self.end * rate) + 1, 2, most))
        return sorted({int(k) for k in np.linspace(0, len(self) - 1, count).round()})


def cameras(dataset: LeRobotDataset, wanted: Sequence[str]) -> tuple[str, ...]:
    """Those of a dataset that are wanted, by default its first. UserError for one that it does not have."""
    if not dataset.cameras:
        raise UserError(f"cameras: expected some in {dataset.root}, found none")
    for name in wanted:
        if name not in dataset.cameras:
            raise UserError(f"cameras: expected some of {', '.join(dataset.cameras)}, got '{name}'")
    return tuple(dict.fromkeys(wanted)) or dataset.cameras[:1]
