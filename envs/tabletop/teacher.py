"""The scripted teacher: from any state of the world, the next subtask, where it points, what to remember, and
an action.

It reads the true state and keeps nothing itself, so it can label noisy, failed and foreign states as well as
its own:
a block in the wrong place, a drawer that fell shut, a hand that closed on nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from envs.contract import Label
from envs.errors import WorldError
from envs.tabletop import language as L
from envs.tabletop import scene as S
from envs.tabletop import skills, tables, tasks
from envs.tabletop.tasks import Task
from envs.tabletop.world import World

LIFTED = 0.04  # a block this far above what carried it is on its way
OVER = 0.045  # a held block this close to where it goes is being put down, however low
BIN_SPOTS = ((-0.028, 0.0), (0.028, 0.0), (0.0, 0.0))
BOX_SPOTS = ((0.037, 0.037), (0.037, -0.037), (-0.037, 0.037), (-0.037, -0.037), (0.0, 0.0))
DRAWER_SPOTS = ((0.0, 0.0), (0.0, 0.05), (0.0, -0.05))


@dataclass(frozen=True)
class _Step:
    """One subtask: its sentence, its place in the world (3,), its motion."""

    subtask: str
    at: np.ndarray | None
    motion: Callable[[], np.ndarray]


class Teacher:
    """`label(world)` for the task the world was reset with (or that the person changed it to)."""

    def reset(self) -> None:
        """Nothing to forget: everything is read from the world."""

    def label(self, world: World, act: bool = True) -> Label:
        """The next subtask, point, memory and action (none if not asked to `act`, which is most of the work).
        Raises WorldError if the world has no task."""
        task: Task | None = world.task
        if task is None:
            raise WorldError("the teacher needs a world that was reset with a task")
        step = _DECIDE[task.family](task, world)
        point = None if step.at is None else world.project(step.at, "front")
        return Label(step.subtask, point, self._memory(task, world), step.motion() if act else None)

    @staticmethod
    def _memory(task: Task, world: World) -> str:
        if task.family == "press":
            return L.press_memory(world.press_log, any(world.lamp_on(c) for c in world.scene.buttons))
        if task.family == "swap":
            return L.swap_memory(task.params["places"])
        return L.NO_MEMORY


def _done(world: World) -> _Step:
    return _Step(L.DONE, None, lambda: skills.rest(world))


def _pick(world: World, color: str) -> _Step:
    return _Step(L.pick(color), world.block_pos(color), lambda: skills.pick(world, color))


def support(world: World, color: str) -> float:
    """Height of what lies under a block."""
    p = world.block_pos(color)
    top = 0.0
    for other in world.scene.blocks:
        q = world.block_pos(other)
        if other != color and np.abs(q[:2] - p[:2]).max() < 0.035 and q[2] < p[2] - 0.02:
            top = max(top, float(q[2]) + S.BLOCK_HALF)
    return top


def _carry(
    world: World,
    color: str,
    sentence: str,
    at: np.ndarray,
    height: float,
    tolerance: float,
    over: float = OVER,
) -> _Step:
    """The held block on its way to `at` (3,); still "pick up" as long as it is barely off the ground
    elsewhere."""
    p = world.block_pos(color)
    near = float(np.linalg.norm(p[:2] - at[:2])) < over
    if not near and p[2] - S.BLOCK_HALF - support(world, color) < LIFTED:
        return _pick(world, color)
    return _Step(sentence, at, lambda: skills.place(world, color, at[:2], height, tolerance))


def _to_table(world: World, color: str) -> _Step:
    """A block that should not be in the hand goes to the nearest free place."""
    at = free_place(world, world.block_pos(color)[:2], color)
    step = lambda: skills.place(world, color, at[:2], S.BLOCK_HALF + 0.002, 0.02)
    return _Step(L.put_on_table(color), at, step)


def free_place(world: World, near: np.ndarray, color: str | None, gap: float = 0.0) -> np.ndarray:
    """(3,) the free place on the table nearest to `near` (2,), on a 2 cm grid; `color` is the block that goes
    there."""
    (x0, x1), (y0, y1) = tables.AREA
    grid = np.stack(np.meshgrid(np.arange(x0, x1, 0.02), np.arange(y0, y1, 0.02), indexing="ij"), -1).reshape(
        -1, 2
    )
    free = np.ones(len(grid), dtype=bool)

    def keep_out(center: np.ndarray, hx: float, hy: float) -> None:
        nonlocal free
        free &= (np.abs(grid[:, 0] - center[0]) > hx) | (np.abs(grid[:, 1] - center[1]) > hy)

    half, scene = tables.HALF, world.scene
    room = half["block"] + 0.03 + gap
    for other in scene.blocks:
        if other != color:
            keep_out(world.block_pos(other), half["block"] + room, half["block"] + room)
    for c in scene.bins:
        keep_out(world.bin_pos(c), half["bin"] + room, half["bin"] + room)
    if scene.box is not None:
        keep_out(world.box_pos(), half["box"] + room, half["box"] + room)
    for i in range(len(scene.mats)):
        keep_out(world.mat_pos(i), half["mat"] + 0.02, half["mat"] + 0.02)
    if scene.drawer is not None:
        x, y = scene.drawer
        keep_out(np.array([x - 0.03, y]), 0.20 + room, S.CABINET_HALF_WIDTH + room)
        keep_out(np.array([0.8, y]), 0.8 - x + 0.05, 1.0)  # the palm needs room beside the cabinet
    distance = np.where(free, np.linalg.norm(grid - near, axis=1), np.inf)
    best = grid[int(np.argmin(distance))]
    return np.array([best[0], best[1], S.BLOCK_HALF])


def top_at(world: World, at: np.ndarray, color: str) -> float:
    """Height of the highest block (but this one) under a place."""
    others = [world.block_pos(c) for c in world.scene.blocks if c != color]
    return max(
        (float(p[2]) + S.BLOCK_HALF for p in others if np.abs(p[:2] - at[:2]).max() < 0.036), default=0.0
    )


def free_spot(world: World, center: np.ndarray, spots: tuple, room: float, color: str) -> np.ndarray:
    """The first of a container's spots that no other block is on."""
    others = [world.block_pos(c) for c in world.scene.blocks if c != color]
    for spot in spots:
        at = center + (*spot, 0.0)
        if all(np.abs(p[:2] - at[:2]).max() > room or p[2] > 0.1 for p in others):
            return at
    return center.copy()


def drop_at(world: World, at: np.ndarray, low: float, color: str) -> float:
    """The height at which a block is let go in a container: `low`, or clear of what lies there."""
    return max(low, top_at(world, at, color) + S.BLOCK_HALF + 0.006)


def _sort(task: Task, world: World) -> _Step:
    moves = dict(task.params["moves"])
    held = skills.in_hand(world)
    if held in moves:
        at, tolerance = world.bin_pos(moves[held]), 0.024
        if sum(b == moves[held] for b in moves.values()) > 1:  # side by side, so that none lies on another
            at, tolerance = free_spot(world, at, BIN_SPOTS, 0.036, held), 0.014
        height = drop_at(world, at, skills.IN_BIN, held)
        return _carry(world, held, L.put_in_bin(held, moves[held]), at, height, tolerance)
    if held is not None:
        return _to_table(world, held)
    for color, bin_color in moves.items():
        if not tasks.in_bin(world, color, bin_color):
            return _pick(world, color)
    if not task.params.get("corrected"):
        for color in world.scene.blocks:
            if color not in moves and any(tasks.in_bin(world, color, b) for b in world.scene.bins):
                return _pick(world, color)
    return _done(world)


def on_top(world: World, color: str) -> str | None:
    """The block that rests on this one."""
    p = world.block_pos(color)
    for other in world.scene.blocks:
        offset = world.block_pos(other) - p
        if other != color and np.abs(offset[:2]).max() < 0.035 and 0.025 < offset[2] < 0.055:
            return other
    return None


def _stack(task: Task, world: World) -> _Step:
    tower, held = task.params["tower"], skills.in_hand(world)
    for base, color in zip(tower, tower[1:], strict=False):
        if tasks.on_block(world, color, base) and held != color:
            continue
        above = on_top(world, base)
        if held is not None and (held != color or above not in (None, color)):
            return _to_table(world, held)
        if held == color:
            top = world.block_pos(base) + (0, 0, S.BLOCK_HALF)
            height = float(top[2]) + S.BLOCK_HALF + 0.002
            sentence = L.stack_on(color, base, round(top[2] / (2 * S.BLOCK_HALF)))
            return _carry(world, color, sentence, top, height, 0.012, over=0.03)
        if above not in (None, color):
            return _pick(world, above)
        return _pick(world, on_top(world, color) or color)
    if held is not None:
        return _to_table(world, held)
    return _done(world)


def _stow(task: Task, world: World) -> _Step:
    blocks, held = task.params["blocks"], skills.in_hand(world)
    is_open = world.drawer_opening() > tasks.OPEN
    if held is not None:
        if held not in blocks or not is_open:
            return _to_table(world, held)
        at = free_spot(world, world.drawer_pos(), DRAWER_SPOTS, 0.04, held)
        height = drop_at(world, at, skills.IN_DRAWER, held)
        return _carry(world, held, L.put_in_drawer(held), at, height, 0.018)
    left = [c for c in blocks if not tasks.in_drawer(world, c)]
    if left:
        pulling = skills.hooked(world) and world.drawer_opening() < S.DRAWER_TRAVEL - 0.008
        if not is_open or pulling:
            return _Step(L.OPEN_DRAWER, world.drawer_handle_pos(), lambda: skills.open_drawer(world))
        return _pick(world, left[0])
    if world.drawer_opening() >= tasks.CLOSED * 0.6:
        return _Step(L.CLOSE_DRAWER, world.drawer_handle_pos(), lambda: skills.close_drawer(world))
    return _done(world)


def _clear(task: Task, world: World) -> _Step:
    held = skills.in_hand(world)
    if held is not None:
        at = free_spot(world, world.box_pos(), BOX_SPOTS, 0.04, held)
        height = drop_at(world, at, skills.IN_BOX, held)
        return _carry(world, held, L.put_in_box(held), at, height, 0.018)
    for color in tasks.in_order(list(world.scene.blocks)):
        if not tasks.in_box(world, color):
            return _pick(world, color)
    return _done(world)


def _swap(task: Task, world: World) -> _Step:
    goal, held = tasks.swap_goal(task), skills.in_hand(world)

    def is_free(side: str) -> bool:
        at = world.mat_pos(L.SIDES.index(side))
        others = [world.block_pos(c) for c in world.scene.blocks if c != held]
        return all(np.abs(p[:2] - at[:2]).max() > 0.055 for p in others)

    if held is not None:
        sides = [goal.get(held), task.params["free"], *L.SIDES]
        side = next((s for s in sides if s is not None and is_free(s)), None)
        if held not in goal or side is None:
            return _to_table(world, held)
        at = world.mat_pos(L.SIDES.index(side))
        return _carry(world, held, L.put_on_mat(held, side), at, S.BLOCK_HALF + 0.002, 0.012)
    left = [c for c, side in goal.items() if not tasks.on_mat(world, c, side)]
    ready = [c for c in left if is_free(goal[c])]
    if ready or left:
        return _pick(world, (ready or left)[0])
    return _done(world)


def _press(task: Task, world: World) -> _Step:
    lit = [c for c in world.scene.buttons if world.lamp_on(c)]
    if lit:
        hand = world.eef_pos()
        color = min(lit, key=lambda c: float(np.linalg.norm(world.button_pos(c)[:2] - hand[:2])))
        return _Step(L.lift(color), world.button_pos(color), lambda: skills.lift(world, color))
    log = list(world.press_log)
    for color in task.params["sequence"]:  # what is left of the order; a press too many is passed over
        if color in log:
            log = log[log.index(color) + 1 :]
        else:
            return _Step(L.press(color), world.button_pos(color), lambda c=color: skills.press(world, c))
    return _done(world)


_DECIDE = {"sort": _sort, "stack": _stack, "stow": _stow, "clear": _clear, "swap": _swap, "press": _press}
