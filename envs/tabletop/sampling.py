"""Drawing tasks: which colours, how many, in which words, and what goes wrong midway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from envs.errors import WorldError
from envs.tabletop import language
from envs.tabletop.language import COLORS, FAMILIES, SIDES
from envs.tabletop.tasks import Event, Task, in_order

# Pairs that no suite but `unseen` uses: block colour -> bin colour, and upper block -> lower block.
RESERVED_SORT = {
    "red": "blue",
    "green": "yellow",
    "blue": "orange",
    "yellow": "purple",
    "purple": "green",
    "orange": "red",
}
RESERVED_STACK = {
    "red": "yellow",
    "green": "red",
    "blue": "green",
    "yellow": "orange",
    "purple": "blue",
    "orange": "purple",
}


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
        return Task(
            "sort", language.sort_by_color_instruction(rng), dict(moves=moves, bins=bins, others=others)
        )
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
    return Task(
        "swap", language.swap_instruction(pair, rng), dict(places=places, free=sides[2], others=others)
    )


def _sample_press(rng: np.random.Generator, suite: str) -> Task:
    buttons = _colors(rng, 2 + _some(rng, 0.4, 0.6))
    n = 3 + _some(rng, 0.5, 0.5) if suite in ("long", "memory") else 2 + _some(rng, 0.5, 0.5)
    if rng.random() < 0.35:  # n times
        if suite != "long" and rng.random() < 0.25:
            n = 1
        sequence = (buttons[0],) * n
    else:
        sequence = tuple(buttons[rng.integers(len(buttons))] for _ in range(n))
    return Task(
        "press",
        language.press_instruction(sequence, rng),
        dict(sequence=sequence, buttons=_colors_of(buttons, rng)),
    )


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
        while not (changed := _with_correction(task, rng)).events:  # nothing else to want on that table
            task = _SAMPLERS[family](rng, suite)
        return changed
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
            # The other blocks of the first instruction may be in a bin by then: they are no longer asked
            # about.
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
        return replace(
            task, events=(Event(int(rng.integers(8, 18 * task.subtasks + 12)), "say", task=later),)
        )
    return task


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
