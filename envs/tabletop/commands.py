"""Subtasks read back: what a sentence commands, whether it makes sense now, whether it has happened, and the
motion that does it.

The teacher decides what comes next from the task; here somebody else has decided, and only the words (and the
place that they point to) count. So a plan that is not the teacher's can be carried out and judged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from envs.errors import WorldError
from envs.tabletop import language as L
from envs.tabletop import scene as S
from envs.tabletop import skills, tasks, teacher
from envs.tabletop.inventory import place_of
from envs.tabletop.world import World

NEAR = 0.03  # metres: what is named and this near to the point is meant exactly; else the point decides
KINDS = ("pick", "put", "stack", "press", "lift", "open", "close", "done")
_COLOR = "|".join(L.COLORS)
_HEIGHT = r"(?: (?:two|three|four) up)?"
_WORDS = (
    ("pick", rf"pick up the (?P<thing>{_COLOR}) block"),
    ("put", rf"put the (?P<thing>{_COLOR}) block in the (?P<place>(?:{_COLOR}) bin|drawer|box)"),
    ("put", rf"put the (?P<thing>{_COLOR}) block on the (?P<place>(?:{'|'.join(L.SIDES)}) mat|table)"),
    ("stack", rf"stack the (?P<thing>{_COLOR}) block on the (?P<place>{_COLOR}) block{_HEIGHT}"),
    ("press", rf"press the (?P<thing>{_COLOR}) button"),
    ("lift", rf"lift from the (?P<thing>{_COLOR}) button"),
    ("open", L.OPEN_DRAWER),
    ("close", L.CLOSE_DRAWER),
    ("done", L.DONE),
)  # fmt: skip
_PATTERNS = [(kind, re.compile(words)) for kind, words in _WORDS]


@dataclass(frozen=True)
class Command:
    """What a subtask asks for. kind: one of KINDS. thing: the colour of a block or button. place: "blue bin",
    "drawer", "box", "left mat", "table", or the colour of the block below.
    """

    text: str
    kind: str
    thing: str = ""
    place: str = ""


def understand(subtask: str) -> Command | None:
    """A subtask of `language`, without location tokens; None for anything else, never a guess."""
    text = " ".join(subtask.split())
    for kind, pattern in _PATTERNS:
        if found := pattern.fullmatch(text):
            return Command(text, kind, **found.groupdict())
    return None


def possible(world: World) -> list[Command]:
    """What can be commanded now, in this scene: each of them can be done from this state as it is."""
    scene, held = world.scene, skills.in_hand(world)
    if held is not None:
        texts = [L.put_in_bin(held, c) for c in scene.bins]
        texts += [L.put_in_box(held)] * (scene.box is not None)
        texts += [L.put_in_drawer(held)] * (_drawer(world) > tasks.OPEN)
        texts += [
            L.put_on_mat(held, s) for i, s in enumerate(L.SIDES) if scene.mats and _mat_free(world, i, held)
        ]
        if not (scene.bins or scene.box or scene.drawer or scene.mats):
            bases = [c for c in scene.blocks if c != held and teacher.on_top(world, c) in (None, held)]
            texts += [L.stack_on(held, c, _below(world, c)) for c in bases]
        texts += [L.put_on_table(held)]
        return [c for c in map(understand, texts) if c is not None]
    shut = scene.drawer is not None and _drawer(world) < tasks.OPEN
    inside = [c for c in scene.blocks if shut and tasks.in_drawer(world, c)]
    texts = [L.pick(c) for c in scene.blocks if c not in inside and teacher.on_top(world, c) is None]
    lit = [c for c in scene.buttons if world.lamp_on(c)]
    texts += [L.lift(c) for c in lit] + [L.press(c) for c in scene.buttons if c not in lit]
    texts += [] if scene.drawer is None else [L.OPEN_DRAWER if shut else L.CLOSE_DRAWER]
    return [c for c in map(understand, texts) if c is not None]


def happened(world: World, command: Command, presses: int = 0) -> bool:
    """Whether what was commanded holds now. presses: how many there had been when it was said."""
    thing, log = command.thing, world.press_log[presses:]
    if command.kind == "pick":
        rise = world.block_pos(thing)[2] - S.BLOCK_HALF - teacher.support(world, thing)
        return skills.in_hand(world) == thing and bool(rise > teacher.LIFTED)
    if command.kind in ("put", "stack"):
        low = command.place != "table" or world.block_pos(thing)[2] < S.BLOCK_HALF + 0.01
        return low and tasks.at_rest(world, thing) and place_of(world, thing) == _where(command)
    if command.kind == "press":
        return log[:1] == [thing]
    if command.kind == "lift":
        return not world.button_pressed(thing) and bool(world.eef_pos()[2] > S.BUTTON_TOP + 0.04)
    if command.kind == "open":
        return _drawer(world) > tasks.OPEN
    if command.kind == "close":
        return _drawer(world) < tasks.CLOSED
    return False


def place(world: World, command: Command) -> np.ndarray | None:
    """(3,) where the command is to be done: what the teacher would point at; None for "done". WorldError for
    what is not in this scene.
    """
    thing, kind = command.thing, command.kind
    if kind == "pick":
        return world.block_pos(thing)
    if kind in ("press", "lift"):
        return world.button_pos(thing)
    if kind in ("open", "close"):
        _there(world.scene.drawer is not None, "drawer")
        return world.drawer_handle_pos()
    return None if kind == "done" else _spot(world, command)[0]


def point(world: World, command: Command) -> tuple[float, float] | None:
    """The same as (y, x) in the front camera's picture."""
    at = place(world, command)
    return None if at is None else world.project(at, "front")


def motion(world: World, command: Command, pointed: tuple[float, float] | None = None) -> np.ndarray:
    """(7,) the next action of a perfect hand that does as it is told. `pointed` (y, x): the point decides
    which thing or what place, the words what to do with it.
    """
    kind, thing, held = command.kind, command.thing, skills.in_hand(world)
    if kind in ("pick", "press") and pointed is not None:
        thing = _pointed_thing(world, command, pointed)
    if held is not None and (kind not in ("pick", "put", "stack", "done") or held != thing != ""):
        at = teacher.free_place(world, world.block_pos(held)[:2], held)  # the hand is full of something else
        return skills.place(world, held, at[:2], S.BLOCK_HALF + 0.002, 0.02)
    if kind in ("put", "stack") and held != thing:
        _there(thing in world.scene.blocks, f"{thing} block")
        if place_of(world, thing) == _where(command):  # let go, and where it was to go
            return skills.rest(world)
        return skills.pick(world, thing)
    if kind in ("put", "stack"):
        at, height, tolerance = _spot(world, command)
        if pointed is not None:
            there = world.unproject(pointed, float(at[2]), "front")
            if np.linalg.norm((there - at)[:2]) > NEAR:
                height = max(S.BLOCK_HALF, teacher.top_at(world, there, thing) + S.BLOCK_HALF) + 0.004
                at, tolerance = there, 0.014
        return skills.place(world, thing, at[:2], height, tolerance)
    if kind == "done":
        return skills.rest(world)
    if kind in ("open", "close"):
        _there(world.scene.drawer is not None, "drawer")
        return skills.open_drawer(world) if kind == "open" else skills.close_drawer(world)
    return {"pick": skills.pick, "press": skills.press, "lift": skills.lift}[kind](world, thing)


# -- inside


def _spot(world: World, command: Command) -> tuple[np.ndarray, float, float]:
    """Where a block goes: place (3,), the height at which it is let go, how exact that has to be."""
    thing, place = command.thing, command.place
    _there(thing in world.scene.blocks, f"{thing} block")
    if command.kind == "stack":
        top = world.block_pos(place) + (0, 0, S.BLOCK_HALF)
        return top, float(top[2]) + S.BLOCK_HALF + 0.002, 0.012
    if place == "table":
        at = teacher.free_place(world, world.block_pos(thing)[:2], thing)
        return at, S.BLOCK_HALF + 0.002, 0.02
    if place.endswith("mat"):
        _there(bool(world.scene.mats), "mat")
        return world.mat_pos(L.SIDES.index(place.split()[0])), S.BLOCK_HALF + 0.002, 0.012
    if place == "box":
        _there(world.scene.box is not None, "box")
        at, low, tolerance = world.box_pos(), skills.IN_BOX, 0.018
        spots, room = teacher.BOX_SPOTS, 0.04
    elif place == "drawer":
        _there(world.scene.drawer is not None, "drawer")
        at, low, tolerance = world.drawer_pos(), skills.IN_DRAWER, 0.018
        spots, room = teacher.DRAWER_SPOTS, 0.04
    else:
        at, low, tolerance = world.bin_pos(place.split()[0]), skills.IN_BIN, 0.014
        spots, room = teacher.BIN_SPOTS, 0.036  # as if more were to come: words do not say
    at = teacher.free_spot(world, at, spots, room, thing)
    return at, teacher.drop_at(world, at, low, thing), tolerance


def _pointed_thing(world: World, command: Command, pointed: tuple[float, float]) -> str:
    """The block or button that is pointed at; the one that is named where the point is at nothing."""
    kind = command.kind
    where = world.block_pos if kind == "pick" else world.button_pos
    things = {c: where(c) for c in (world.scene.blocks if kind == "pick" else world.scene.buttons)}
    _there(command.thing in things, f"{command.thing} {'block' if kind == 'pick' else 'button'}")
    away = {
        c: float(np.linalg.norm(world.unproject(pointed, float(at[2]), "front")[:2] - at[:2]))
        for c, at in things.items()
    }
    nearest = min(away, key=away.__getitem__)
    return nearest if away[nearest] < NEAR < away[command.thing] else command.thing


def _where(command: Command) -> str:
    """The place in the words of the inventory."""
    if command.kind == "stack":
        return f"on {command.place}"
    colour = command.place.split()[0]
    return f"in {colour}" if command.place.endswith("bin") else colour


def _below(world: World, base: str) -> int:
    return max(1, round((world.block_pos(base)[2] + S.BLOCK_HALF) / (2 * S.BLOCK_HALF)))


def _drawer(world: World) -> float:
    return 0.0 if world.scene.drawer is None else world.drawer_opening()


def _mat_free(world: World, i: int, held: str) -> bool:
    at = world.mat_pos(i)
    others = [world.block_pos(c) for c in world.scene.blocks if c != held]
    return all(np.abs(p[:2] - at[:2]).max() > 0.055 for p in others)


def _there(there: bool, what: str) -> None:
    if not there:
        raise WorldError(f"there is no {what} in this scene")
