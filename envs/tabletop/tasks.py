"""Six task families: what an episode sets on the table, what it asks for, when it is done.

A `Task` is a plain value: the family, its parameters, the wording, and what happens midway (`events`). Goals are
predicates of the world's true state, so they hold for any robot that drives it. Colours decide the order of work where the
instruction leaves it open (`language.COLORS`), so what comes next can always be seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.errors import WorldError
from envs.tabletop import language
from envs.tabletop import scene as S
from envs.tabletop.arm import FINGER_OPEN
from envs.tabletop.language import COLORS, FAMILIES, SIDES
from envs.tabletop.scene import Scene

if TYPE_CHECKING:
    from envs.tabletop.world import World

AREA = ((0.33, 0.67), (-0.31, 0.31))  # where things stand: x, y
HALF = {"block": 0.028, "bin": S.BIN_INNER + 0.006, "box": S.BOX_INNER + 0.006, "button": 0.046, "mat": S.MAT_HALF}
GAP_BLOCK, GAP_FIXTURE = 0.038, 0.02  # an open finger fits beside a block; fixtures stand closer
CLOSED, OPEN = 0.012, 0.115  # metres of drawer opening that count as closed, as open
# Pairs that no suite but `unseen` uses: block colour -> bin colour, and upper block -> lower block.
RESERVED_SORT = {"red": "blue", "green": "yellow", "blue": "orange", "yellow": "purple", "purple": "green", "orange": "red"}
RESERVED_STACK = {"red": "yellow", "green": "red", "blue": "green", "yellow": "orange", "purple": "blue", "orange": "purple"}


@dataclass(frozen=True)
class Event:
    """Something that happens midway, once `at` control steps have passed and it can happen.

    kind: "say" (the instruction becomes `task`'s), "slip" (the held block falls out of the hand), "move" (a block that
    still has work to do is moved), "shut" (the drawer is pushed shut), "take" (a placed block is put back on the table).
    """

    at: int
    kind: str
    task: Task | None = None
    seed: int = 0


@dataclass(frozen=True)
class Task:
    """One episode's work. `params` by family:

    sort: moves ((block, bin), ...), bins; stack: tower (bottom first); stow: blocks; clear: blocks;
    swap: places ((block, side), ...) at the start, in the order of work, and free (side); press: sequence, buttons.
    All but press: `others`, blocks that are only in the way.
    """

    family: str
    instruction: str
    params: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[Event, ...] = ()

    def scene(self, rng: np.random.Generator) -> Scene:
        """A random table for this task: nothing overlaps, all within reach."""
        for _ in range(200):
            scene = _SCENES[self.family](self, rng)
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


# ---- what is where ---------------------------------------------------------------------------------------------


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


# ---- goals -----------------------------------------------------------------------------------------------------


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
        return world.eef_pos()[2] > S.BUTTON_TOP + 0.04 and not any(world.lamp_on(c) for c in world.scene.buttons)
    return all(at_rest(world, c) for c in world.scene.blocks)


# ---- tables ----------------------------------------------------------------------------------------------------


class _Layout:
    """Rejection sampling of axis-aligned footprints."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.taken: list[tuple[str, float, float, float, float]] = []
        self.full = False

    def fits(self, kind: str, x: float, y: float, hx: float, hy: float) -> bool:
        for other, ox, oy, ohx, ohy in self.taken:
            gap = GAP_BLOCK if "block" in (kind, other) else GAP_FIXTURE
            if abs(x - ox) < hx + ohx + gap and abs(y - oy) < hy + ohy + gap:
                return False
        return True

    def put(self, kind: str, x: float, y: float, hx: float | None = None, hy: float | None = None) -> tuple[float, float]:
        self.taken.append((kind, x, y, hx or HALF[kind], hy or HALF[kind]))
        return x, y

    def place(self, kind: str, xs: tuple[float, float] | None = None, ys: tuple[float, float] | None = None):
        half = HALF[kind]
        for _ in range(60):
            (x0, x1), (y0, y1) = xs or AREA[0], ys or AREA[1]
            if xs is None and kind != "block":  # fixtures stay within the area as a whole
                x0, x1, y0, y1 = x0 + half - 0.03, x1 - half + 0.03, y0 + half - 0.03, y1 - half + 0.03
            x, y = float(self.rng.uniform(x0, x1)), float(self.rng.uniform(y0, y1))
            if self.fits(kind, x, y, half, half):
                return self.put(kind, x, y)
        self.full = True
        return 0.5, 0.0

    def blocks(self, colors: Sequence[str], xs: tuple[float, float] | None = None) -> dict[str, tuple]:
        order = self.rng.permutation(len(colors))
        out = {}
        for i in order:
            x, y = self.place("block", xs)
            out[colors[i]] = (x, y, S.BLOCK_HALF, float(self.rng.uniform(-np.pi / 4, np.pi / 4)))
        return out


def _finish(rng: np.random.Generator, layout: _Layout, **parts: Any) -> Scene | None:
    if layout.full:
        return None
    finger = FINGER_OPEN if rng.random() < 0.5 else float(rng.uniform(0.0, FINGER_OPEN))
    offset = (
        float(rng.uniform(-0.08, 0.08)), float(rng.uniform(-0.18, 0.18)), float(rng.uniform(-0.07, 0.06)),
        float(rng.uniform(-0.4, 0.4)), finger,
    )  # fmt: skip
    return Scene(
        arm_offset=offset, light=float(rng.uniform(0.85, 1.15)), tone=float(rng.uniform(-1, 1)), **parts
    )


def _sort_scene(task: Task, rng: np.random.Generator) -> Scene | None:
    layout = _Layout(rng)
    bins = {c: layout.place("bin") for c in task.params["bins"]}
    blocks = layout.blocks([c for c, _ in task.params["moves"]] + list(task.params["others"]))
    return _finish(rng, layout, blocks=blocks, bins=bins)


def _stack_scene(task: Task, rng: np.random.Generator) -> Scene | None:
    layout = _Layout(rng)
    return _finish(rng, layout, blocks=layout.blocks([*task.params["tower"], *task.params["others"]]))


def _stow_scene(task: Task, rng: np.random.Generator) -> Scene | None:
    layout = _Layout(rng)
    x, y = float(rng.uniform(0.58, 0.62)), float(rng.uniform(-0.10, 0.10))
    reach = S.DRAWER_TRAVEL + 0.085  # the open drawer's handle
    layout.put("drawer", x - reach / 2, y, reach / 2 + 0.01, S.CABINET_HALF_WIDTH + 0.02)
    blocks = layout.blocks([*task.params["blocks"], *task.params["others"]], xs=(0.33, x - 0.05))
    opening = 0.0 if rng.random() < 0.7 else float(rng.uniform(0.03, S.DRAWER_TRAVEL))
    return _finish(rng, layout, blocks=blocks, drawer=(x, y), drawer_opening=opening)


def _clear_scene(task: Task, rng: np.random.Generator) -> Scene | None:
    layout = _Layout(rng)
    box = layout.place("box")
    return _finish(rng, layout, blocks=layout.blocks(list(task.params["blocks"])), box=box)


def _swap_scene(task: Task, rng: np.random.Generator) -> Scene | None:
    layout = _Layout(rng)
    x, y, pitch = rng.uniform(0.42, 0.58), rng.uniform(-0.06, 0.06), rng.uniform(0.14, 0.19)
    mats = []
    for k in (1, 0, -1):
        at = float(x + rng.uniform(-0.04, 0.04)), float(y + k * pitch + rng.uniform(-0.01, 0.01))
        mats.append(layout.put("mat", *at))
    blocks = {}
    for color, side in task.params["places"]:
        mx, my = mats[SIDES.index(side)]
        dx, dy, yaw = rng.uniform(-0.012, 0.012), rng.uniform(-0.012, 0.012), rng.uniform(-np.pi / 4, np.pi / 4)
        blocks[color] = (float(mx + dx), float(my + dy), S.BLOCK_HALF, float(yaw))
    blocks |= layout.blocks(list(task.params["others"]))
    blocks = {c: blocks[c] for c in (COLORS[i] for i in rng.permutation(len(COLORS))) if c in blocks}
    return _finish(rng, layout, blocks=blocks, mats=tuple(mats))


def _press_scene(task: Task, rng: np.random.Generator) -> Scene | None:
    layout = _Layout(rng)
    buttons = {c: layout.place("button", (0.37, 0.63), (-0.26, 0.26)) for c in task.params["buttons"]}
    return _finish(rng, layout, buttons=buttons)


_SCENES = {
    "sort": _sort_scene, "stack": _stack_scene, "stow": _stow_scene,
    "clear": _clear_scene, "swap": _swap_scene, "press": _press_scene,
}  # fmt: skip
_PROGRESS = {
    "sort": _sort_progress, "stack": _stack_progress, "stow": _stow_progress,
    "clear": _clear_progress, "swap": _swap_progress, "press": _press_progress,
}  # fmt: skip


# ---- sampling --------------------------------------------------------------------------------------------------


def _colors(rng: np.random.Generator, n: int, without: Sequence[str] = ()) -> tuple[str, ...]:
    """n different colours in random order."""
    pool = [c for c in COLORS if c not in without]
    return tuple(pool[i] for i in rng.permutation(len(pool))[:n])


def _some(rng: np.random.Generator, *weights: float) -> int:
    """An index drawn with these weights."""
    return int(rng.choice(len(weights), p=np.array(weights) / sum(weights)))


def _sample_sort(rng: np.random.Generator, suite: str) -> Task:
    long, unseen = suite == "long", suite == "unseen"
    n = 2 + _some(rng, 0.2, 0.6, 0.2) if long else 1 + _some(rng, 0.55, 0.45)
    n_bins = 3 if long and rng.random() < 0.4 else 2
    if not unseen and n >= 2 and rng.random() < 0.3:  # by colour: one block for each of some bins
        bins = _colors(rng, 3 if long else 2)
        n = min(n, len(bins))
        moves = tuple((c, c) for c in in_order(bins[:n]))
        others = _colors(rng, _some(rng, 0.4, 0.6), without=bins)
        return Task("sort", language.sort_by_color_instruction(rng), dict(moves=moves, bins=bins, others=others))
    while True:
        bins, blocks = _colors(rng, n_bins), _colors(rng, n)
        if unseen:
            blocks = tuple(c for c in COLORS if RESERVED_SORT[c] in bins)
            blocks = tuple(blocks[i] for i in rng.permutation(len(blocks))[:n])
            moves = tuple((c, RESERVED_SORT[c]) for c in blocks)
        else:
            moves = tuple((c, bins[rng.integers(n_bins)]) for c in blocks)
        if unseen or all(RESERVED_SORT[c] != b for c, b in moves):
            break
    extra = 1 if n < 4 and rng.random() < 0.85 else 0
    others = _colors(rng, extra + (n == 1 and rng.random() < 0.4), without=blocks)
    return Task("sort", language.sort_instruction(moves, rng), dict(moves=moves, bins=bins, others=others))


def _sample_stack(rng: np.random.Generator, suite: str) -> Task:
    n = 3 + _some(rng, 0.4, 0.6) if suite == "long" else 2 + _some(rng, 0.75, 0.25)
    while True:
        tower = _colors(rng, n)
        reserved = [RESERVED_STACK[up] == low for low, up in zip(tower, tower[1:], strict=False)]
        if all(reserved) if suite == "unseen" else not any(reserved):
            break
    others = _colors(rng, (n < 4) + (n == 2 and rng.random() < 0.4), without=tower)
    return Task("stack", language.stack_instruction(tower, rng), dict(tower=tower, others=others))


def _sample_stow(rng: np.random.Generator, suite: str) -> Task:
    n = 2 + _some(rng, 0.7, 0.3) if suite == "long" else 1
    blocks = _colors(rng, n)
    others = _colors(rng, 1 if n > 1 else 1 + _some(rng, 0.6, 0.4), without=blocks)
    return Task("stow", language.stow_instruction(blocks, rng), dict(blocks=blocks, others=others))


def _sample_clear(rng: np.random.Generator, suite: str) -> Task:
    blocks = _colors(rng, 3 + _some(rng, 0.5, 0.5) if suite == "long" else 2 + _some(rng, 0.5, 0.5))
    return Task("clear", language.clear_instruction(rng), dict(blocks=blocks, others=()))


def _sample_swap(rng: np.random.Generator, suite: str) -> Task:
    pair = _colors(rng, 2)
    sides = [SIDES[i] for i in rng.permutation(3)]
    places = tuple((c, sides[i]) for i, c in enumerate(in_order(pair)))
    others = _colors(rng, int(rng.random() < 0.35), without=pair)
    return Task("swap", language.swap_instruction(pair, rng), dict(places=places, free=sides[2], others=others))


def _sample_press(rng: np.random.Generator, suite: str) -> Task:
    buttons = _colors(rng, 2 + _some(rng, 0.4, 0.6))
    n = 3 + _some(rng, 0.5, 0.5) if suite in ("long", "memory") else 2 + _some(rng, 0.5, 0.5)
    if rng.random() < 0.35:  # n times
        if suite != "long" and rng.random() < 0.25:
            n = 1
        sequence = (buttons[0],) * n
    else:
        sequence = tuple(buttons[rng.integers(len(buttons))] for _ in range(n))
    return Task("press", language.press_instruction(sequence, rng), dict(sequence=sequence, buttons=_colors_of(buttons, rng)))


def _colors_of(colors: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    """Shuffled, so that the order in the scene says nothing about the order of work."""
    return tuple(colors[i] for i in rng.permutation(len(colors)))


_SAMPLERS = {
    "sort": _sample_sort, "stack": _sample_stack, "stow": _sample_stow,
    "clear": _sample_clear, "swap": _sample_swap, "press": _sample_press,
}  # fmt: skip


def sample_task(family: str, rng: np.random.Generator, suite: str = "core") -> Task:
    """A random task of a family as a suite has them. Raises WorldError for an unknown family."""
    if family not in _SAMPLERS:
        raise WorldError(f"unknown task family {family!r}; known: {', '.join(FAMILIES)}")
    task = _SAMPLERS[family](rng, suite)
    if suite == "correction":
        return _with_correction(task, rng)
    if suite == "perturbed":
        return _with_disturbances(task, rng)
    return task


def _with_correction(task: Task, rng: np.random.Generator) -> Task:
    """Midway the person wants something else: another bin, another block, another base."""
    p = dict(task.params)
    for _ in range(100):
        if task.family == "sort":
            block, bin_ = p["moves"][int(rng.integers(len(p["moves"])))]
            pool = [c for c, _ in p["moves"]] + list(p["others"])
            if rng.random() < 0.5:
                bin_ = p["bins"][int(rng.integers(len(p["bins"])))]
            else:
                block = pool[int(rng.integers(len(pool)))]
            if RESERVED_SORT[block] == bin_ or (block, bin_) in p["moves"]:
                continue
            # The other blocks of the first instruction may be in a bin by then: they are no longer asked about.
            new = dict(p, moves=((block, bin_),), others=tuple(c for c in pool if c != block))
            words = language.sort_instruction(new["moves"], rng)
        elif task.family == "stack":
            pool = list(p["tower"]) + list(p["others"])
            low, up = (pool[i] for i in rng.permutation(len(pool))[:2])
            if RESERVED_STACK[up] == low or (low, up) == tuple(p["tower"][:2]):
                continue
            new = dict(tower=(low, up), others=tuple(c for c in pool if c not in (low, up)))
            words = language.stack_instruction((low, up), rng)
        else:
            pool = list(p["blocks"]) + list(p["others"])
            block = pool[int(rng.integers(len(pool)))]
            if (block,) == tuple(p["blocks"]):
                continue
            new = dict(blocks=(block,), others=tuple(c for c in pool if c != block))
            words = language.stow_instruction((block,), rng)
        later = Task(task.family, language.correction_instruction(words, rng), dict(new, corrected=True))
        return replace(task, events=(Event(int(rng.integers(8, 18 * task.subtasks + 12)), "say", task=later),))
    return task  # nothing else to want on this table (a single block)


def _with_disturbances(task: Task, rng: np.random.Generator) -> Task:
    """One or two things that go wrong, none of them the robot's doing."""
    kinds = ["slip", "slip", "move"]
    if task.family == "stow":
        kinds += ["shut", "shut"]
    if task.subtasks > 2:
        kinds += ["take"]
    span = max(20, 13 * task.subtasks)  # the teacher takes 17 steps a subtask
    events = tuple(
        Event(int(rng.integers(5, span)), str(rng.choice(kinds)), seed=int(rng.integers(2**31)))
        for _ in range(1 + _some(rng, 0.6, 0.4))
    )
    return replace(task, events=tuple(sorted(events, key=lambda e: e.at)))
