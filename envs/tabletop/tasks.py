"""Six task families: what an episode sets on the table, what it asks for, when it is done.

A `Task` is a plain value: the family, its parameters, the wording, and what happens midway (`events`). Goals
are predicates of the world's true state, so they hold for any robot that drives it. Colours decide the order
of work where the instruction leaves it open (`language.COLORS`), so what comes next can always be seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.errors import WorldError
from envs.tabletop import scene as S
from envs.tabletop import tables
from envs.tabletop.language import COLORS, SIDES
from envs.tabletop.scene import Scene

if TYPE_CHECKING:
    from envs.tabletop.world import World

CLOSED, OPEN = 0.012, 0.115  # metres of drawer opening that count as closed, as open


@dataclass(frozen=True)
class Event:
    """Something that happens midway, once `at` control steps have passed and it can happen.

    kind: "say" (the instruction becomes `task`'s), "slip" (the held block falls out of the hand), "move" (a
    block that still has work to do is moved), "shut" (the drawer is pushed shut), "take" (a placed block is
    put back on the table).
    """

    at: int
    kind: str
    task: Task | None = None
    seed: int = 0


@dataclass(frozen=True)
class Task:
    """One episode's work. `params` by family:

    sort: moves ((block, bin), ...), bins; stack: tower (bottom first); stow: blocks; clear: blocks;
    swap: places ((block, side), ...) at the start, in the order of work, and free (side); press: sequence,
    buttons.
    All but press: `others`, blocks that are only in the way.
    """

    family: str
    instruction: str
    params: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[Event, ...] = ()

    def scene(self, rng: np.random.Generator) -> Scene:
        """A random table for this task: nothing overlaps, all within reach."""
        for _ in range(200):
            scene = tables.SCENES[self.family](self.params, rng)
            if scene is not None:
                return scene
        raise WorldError(f"no room on the table for this {self.family} task: {dict(self.params)}")

    def success(self, world: World) -> bool:
        """Whether the goal holds, every block let go and at rest."""
        return self.progress(world) >= 1.0 and _settled(self, world)

    def progress(self, world: World) -> float:
        """Share of the goal that holds now, in [0, 1]."""
        return _PROGRESS[self.family](self, world)

    @property
    def subtasks(self) -> int:
        """How many subtasks it takes when nothing goes wrong."""
        p = self.params
        return {
            "sort": lambda: 2 * len(p["moves"]),
            "stack": lambda: 2 * (len(p["tower"]) - 1),
            "stow": lambda: 2 * len(p["blocks"]) + 2,
            "clear": lambda: 2 * len(p["blocks"]),
            "swap": lambda: 6,
            "press": lambda: 2 * len(p["sequence"]),
        }[self.family]()

    @property
    def max_steps(self) -> int:
        """Control steps after which an episode is given up: more than twice what the teacher needs."""
        later = sum(e.task.subtasks + 2 if e.task else 4 for e in self.events)
        return 100 + 70 * (self.subtasks + later)


# ---- what is where -----------------------------------------------------------------------------------------


def at_rest(world: World, color: str) -> bool:
    """Let go and not moving."""
    velocity = world.data.joint(color).qvel
    return world.held() != color and float(np.abs(velocity[:3]).max()) < 0.03


def in_bin(world: World, color: str, bin_color: str) -> bool:
    offset = world.block_pos(color) - world.bin_pos(bin_color)
    return bool(np.abs(offset[:2]).max() < S.BIN_INNER and offset[2] < S.BIN_WALL + 0.035)


def in_box(world: World, color: str) -> bool:
    offset = world.block_pos(color) - world.box_pos()
    return bool(np.abs(offset[:2]).max() < S.BOX_INNER and offset[2] < S.BOX_WALL + 0.045)


def in_drawer(world: World, color: str) -> bool:
    offset = world.block_pos(color) - world.drawer_pos()
    return bool((np.abs(offset[:2]) < S.DRAWER_INNER).all() and offset[2] < 0.06)


def on_mat(world: World, color: str, side: str) -> bool:
    offset = world.block_pos(color) - world.mat_pos(SIDES.index(side))
    return bool(np.abs(offset[:2]).max() < 0.03 and offset[2] < 0.03)


def on_block(world: World, color: str, base: str) -> bool:
    offset = world.block_pos(color) - world.block_pos(base)
    return bool(np.abs(offset[:2]).max() < 0.022 and abs(offset[2] - 2 * S.BLOCK_HALF) < 0.01)


def in_order(colors: Sequence[str]) -> tuple[str, ...]:
    """Colours in the fixed order of work."""
    return tuple(sorted(colors, key=COLORS.index))


# ---- goals -------------------------------------------------------------------------------------------------


def _sort_progress(task: Task, world: World) -> float:
    moves = task.params["moves"]
    done = sum(in_bin(world, c, b) and world.held() != c for c, b in moves)
    named = {c for c, _ in moves}
    if task.params.get("corrected"):
        return done / len(moves)
    stray = any(in_bin(world, c, b) for c in world.scene.blocks if c not in named for b in world.scene.bins)
    return (done - 0.5 * stray if done == len(moves) else done) / len(moves)


def _stack_progress(task: Task, world: World) -> float:
    tower = task.params["tower"]
    level = 0
    while level + 1 < len(tower) and on_block(world, tower[level + 1], tower[level]):
        if world.held() == tower[level + 1]:
            break
        level += 1
    return level / (len(tower) - 1)


def _stow_progress(task: Task, world: World) -> float:
    blocks = task.params["blocks"]
    done = sum(in_drawer(world, c) and world.held() != c for c in blocks)
    closed = done == len(blocks) and world.drawer_opening() < CLOSED
    return (done + closed) / (len(blocks) + 1)


def _clear_progress(task: Task, world: World) -> float:
    blocks = list(world.scene.blocks)
    return sum(in_box(world, c) and world.held() != c for c in blocks) / len(blocks)


def _swap_progress(task: Task, world: World) -> float:
    goal = swap_goal(task)
    done = sum(on_mat(world, c, side) and world.held() != c for c, side in goal.items())
    begun = any(not on_mat(world, c, side) for c, side in task.params["places"])
    return 0.4 * done + 0.2 * (begun or done > 0)


def swap_goal(task: Task) -> dict[str, str]:
    """Block -> side where it has to end."""
    (a, side_a), (b, side_b) = task.params["places"]
    return {a: side_b, b: side_a}


def _press_progress(task: Task, world: World) -> float:
    sequence, log = list(task.params["sequence"]), world.press_log
    right = 0
    while right < min(len(log), len(sequence)) and log[right] == sequence[right]:
        right += 1
    if len(log) > right:  # pressed something else, or once too often: the order asked for was not kept
        right = min(right, len(sequence) - 1)
    return right / len(sequence)


def _settled(task: Task, world: World) -> bool:
    if task.family == "press":
        return world.eef_pos()[2] > S.BUTTON_TOP + 0.04 and not any(
            world.lamp_on(c) for c in world.scene.buttons
        )
    return all(at_rest(world, c) for c in world.scene.blocks)


_PROGRESS = {
    "sort": _sort_progress, "stack": _stack_progress, "stow": _stow_progress,
    "clear": _clear_progress, "swap": _swap_progress, "press": _press_progress,
}  # fmt: skip
