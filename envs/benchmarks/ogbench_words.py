"""OGBench's goals in words: the benchmark shows a goal as a picture, an agent that is told gets a sentence.

Left, right, near and far are as the front camera sees them, facing the robot. The drawer is at the left and
the left button locks it; the window is at the right and the right button locks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

COLORS = ("red", "blue", "orange", "green")  # the order in which the package colours its cubes
SLIDES = ("drawer", "window")
OPENED = {"drawer": -0.16, "window": 0.2}  # joint positions in metres; 0 is closed
SIDES = {"drawer": "left", "window": "right"}  # of the button that locks it
LOCKED, FREE = 0, 1  # the states of a button
STOWED_Y = -0.3  # a cube's goal beyond this lies in the closed drawer


@dataclass(frozen=True)
class Arrangement:
    """How a scene stands: cubes (N, 3) in metres, and in the scene suite slides' openings and locks."""

    cubes: np.ndarray
    slides: tuple[float, ...] = ()  # joint positions of the drawer and the window
    locks: tuple[int, ...] = ()  # of the drawer and the window


def place(xyz: np.ndarray) -> str:
    """ "to the middle row, 10 cm left": rows are 7 cm wide, the middle one lies 42 cm before the robot."""
    row = "far" if xyz[0] < 0.39 else "near" if xyz[0] > 0.46 else "middle"
    aside = round(float(xyz[1]) * 100)
    where = f"{abs(aside)} cm {'left' if aside < 0 else 'right'}" if aside else "at the centre"
    return f"to the {row} row, {where}"


def is_open(slide: str, position: float) -> bool:
    return abs(position) > abs(OPENED[slide]) / 2


def move(cube: int, to: np.ndarray) -> str:
    return f"move the {COLORS[cube]} cube {place(to)}"


def turn_lock(slide: str, state: int) -> str:
    return f"{'lock' if state == LOCKED else 'unlock'} the {slide} by pressing the {SIDES[slide]} button"


def slide_to(slide: str, position: float) -> str:
    return f"{'open' if is_open(slide, position) else 'close'} the {slide}"


def scene_instruction(start: Arrangement, goal: Arrangement) -> str:
    """What differs between start and goal, and how each lock is to be left where it matters."""
    parts = []
    stow = goal.cubes[0, 1] < STOWED_Y
    if stow:
        parts.append("put the red cube in the drawer")
    for at, name in enumerate(SLIDES):
        asked = []
        opened = is_open(name, goal.slides[at])
        touched = opened != is_open(name, start.slides[at]) or (stow and name == "drawer")
        if touched:
            asked.append(slide_to(name, goal.slides[at]))
        if goal.locks[at] == LOCKED and (touched or start.locks[at] == FREE):
            asked.append("lock it" if touched else f"lock the {name}")
        elif goal.locks[at] == FREE and start.locks[at] == LOCKED:
            asked.append("leave it unlocked" if touched else f"unlock the {name}")
        if asked:
            parts.append(" and ".join(asked))
    if not stow and _far_apart(start.cubes[0], goal.cubes[0]):
        parts.append(move(0, goal.cubes[0]))
    return "; ".join(parts)


def cubes_instruction(start: Arrangement, goal: Arrangement) -> str:
    """Where each cube goes that is not there; a tower from the bottom upwards."""
    order = sorted(range(len(goal.cubes)), key=lambda i: tuple(np.round(goal.cubes[i], 3)))
    towers: list[list[int]] = []
    for i in order:
        if towers and not _far_apart(goal.cubes[towers[-1][0], :2], goal.cubes[i, :2], 0.01):
            towers[-1].append(i)
        else:
            towers.append([i])
    parts = []
    for tower in sorted(towers, key=min):
        if not any(_far_apart(start.cubes[i], goal.cubes[i]) for i in tower):
            continue
        parts.append(move(tower[0], goal.cubes[tower[0]]))
        parts += [f"stack the {COLORS[above]} cube on the {COLORS[i]} one" for i, above in pairwise(tower)]
    return "; ".join(parts)


def _far_apart(a: np.ndarray, b: np.ndarray, limit: float = 0.04) -> bool:
    return bool(np.linalg.norm(np.asarray(a) - np.asarray(b)) > limit)
