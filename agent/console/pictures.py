"""Pictures in a terminal: each character cell is two pixels, ▀ with a colour above and one below."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image
from rich.color import Color
from rich.segment import Segment
from rich.style import Style

HALF = "▀"
MARK, EDGE = (255, 64, 255), (0, 0, 0)  # of the point: no block has this colour


def half_blocks(
    image: np.ndarray, columns: int, point: tuple[float, float] | None = None
) -> list[list[Segment]]:
    """Lines of `columns` cells. image: (H, W, 3) uint8. point: (y, x) in it, normalised, marked by a cross
    with an open middle. Colours keep 5 bits each, so that even faces are long runs and little is sent.
    """
    high = max(1, round(columns * image.shape[0] / image.shape[1] / 2)) * 2
    pixels = np.array(Image.fromarray(image).resize((columns, high), Image.Resampling.BOX))
    pixels = (pixels & 0xF8) | (pixels >> 5)
    if point is not None:
        _cross(pixels, int(point[0] * high), int(point[1] * columns))
    cells = np.concatenate([pixels[0::2], pixels[1::2]], axis=-1)  # (rows, columns, 6)
    return [_line(row) for row in cells]


def _cross(pixels: np.ndarray, y: int, x: int) -> None:
    """Four arms, dark at their ends, around what is pointed at."""
    high, wide = pixels.shape[:2]
    arm = 2 if wide < 48 else 3
    for reach in range(2, arm + 2):
        for dy, dx in ((-reach, 0), (reach, 0), (0, -reach), (0, reach)):
            if 0 <= y + dy < high and 0 <= x + dx < wide:
                pixels[y + dy, x + dx] = MARK if reach <= arm else EDGE


def _line(row: np.ndarray) -> list[Segment]:
    """(columns, 6) -> runs of cells that are alike."""
    starts = [0, *(np.flatnonzero((row[1:] != row[:-1]).any(-1)) + 1).tolist()]
    ends = [*starts[1:], len(row)]
    colours = row[starts].tolist()
    return [Segment(HALF * (b - a), _style(*c)) for a, b, c in zip(starts, ends, colours, strict=True)]


@lru_cache(maxsize=32768)
def _style(*colours: int) -> Style:
    return Style(color=Color.from_rgb(*colours[:3]), bgcolor=Color.from_rgb(*colours[3:]))
