"""Every word of the tabletop world: instructions in many wordings, subtasks in one wording, memory sentences.

Instructions are drawn from templates in which `[a|b|]` means one of the alternatives (possibly none) and
`{name}` a slot. Subtasks and memory come from a closed set so that a planner can be scored exactly and a
controller learns few sentences. Everything is lower case without punctuation; `all_words()` is the whole
vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from envs.contract import DONE, NO_MEMORY

COLORS = ("red", "green", "blue", "yellow", "purple", "orange")  # also the fixed order of work
SIDES = ("left", "middle", "right")  # mats, as the robot sees them
FAMILIES = ("sort", "stack", "stow", "clear", "swap", "press")
MAX_INSTRUCTION_WORDS = 23
MAX_MEMORY_WORDS = 11

_COUNTS = {1: "[|once|one time]", 2: "[twice|two times]", 3: "[three times|thrice]", 4: "four times"}
_PUT = "[put|place|drop|set]"
_TAKE = "[take|grab|pick up|get]"
_CUBE = "[block|cube]"
_IN = "[in|into|inside]"
_POLITE = "[|||please|now|can you|could you please|i want you to]"
_THEN = "[then|and then|and after that|next]"
_PRESS = "[press|push|hit]"

_SORT_ONE = (
    f"{_POLITE} {_PUT} the {{c}} {_CUBE} {_IN} the {{b}} [bin|tray]",
    f"{_POLITE} move the {{c}} {_CUBE} [to|into] the {{b}} [bin|tray]",
    f"{_TAKE} the {{c}} {_CUBE} and {_PUT} it {_IN} the {{b}} [bin|tray]",
    f"the {{c}} {_CUBE} [goes|belongs] {_IN} the {{b}} bin",
    f"i [want|need] the {{c}} {_CUBE} in the {{b}} [bin|tray]",
    f"sort the {{c}} {_CUBE} into the {{b}} [bin|tray]",
    f"[bring|carry] the {{c}} {_CUBE} to the {{b}} bin",
    f"in the {{b}} bin [put|place] the {{c}} {_CUBE}",
    "{c} [block|cube|] [in|into] [the|] {b} [bin|tray]",
)
_SORT_BY_COLOR = (
    f"{_POLITE} sort the [blocks|cubes] by [colour|color]",
    f"{_POLITE} {_PUT} [every|each] {_CUBE} {_IN} the bin of its [own|] [colour|color]",
    f"{_PUT} the [blocks|cubes] {_IN} the bins [of|with] the same [colour|color]",
    "sort [everything|all the blocks] into the matching [bins|trays]",
    f"match the [colours|colors] of the [blocks|cubes] and the [bins|trays]",  # noqa: F541
    f"[each|every] {_CUBE} [goes|belongs] in the bin of its [own|] [colour|color]",
    f"{_POLITE} move [each|every] {_CUBE} to its matching [bin|tray]",
    "tidy the [blocks|cubes] by [colour|color]",
)
_STACK_ONE = (
    f"{_POLITE} stack the {{t}} {_CUBE} on [|top of] the {{b}} [block|cube|one]",
    f"{_POLITE} {_PUT} the {{t}} {_CUBE} on [|top of] the {{b}} [block|cube|one]",
    f"{_TAKE} the {{t}} {_CUBE} and {_PUT} it on [|top of] the {{b}} [block|cube|one]",
    f"the {{t}} {_CUBE} [goes|belongs] on [|top of] the {{b}} {_CUBE}",
    f"i [want|need] the {{t}} {_CUBE} on [|top of] the {{b}} [block|cube|one]",
    "[build|make] a tower [of|with] {b} at the bottom and {t} on top",
    f"move the {{t}} {_CUBE} onto the {{b}} {_CUBE}",
    f"on [|top of] the {{b}} {_CUBE} [put|place] the {{t}} {_CUBE}",
    "stack {t} on {b}",
)
_STACK_THREE = (
    "[build|make] a tower [of|with] {a} at the bottom {b} in the middle and {c} on top",
    f"stack the {{b}} {_CUBE} on the {{a}} {_CUBE} {_THEN} the {{c}} {_CUBE} on the {{b}} {_CUBE}",
    f"stack {{b}} on {{a}} {_THEN} {{c}} on {{b}}",
    "[build|make] a tower [that is|] {a} {b} {c} from bottom to top",
    f"{_PUT} the {{b}} {_CUBE} on the {{a}} one and the {{c}} {_CUBE} on [|top of] that",
    f"{_POLITE} stack the {{a}} {{b}} and {{c}} [blocks|cubes] [with|] {{a}} at the bottom",
    "tower from bottom to top {a} {b} {c}",
    f"on the {{a}} {_CUBE} stack {{b}} {_THEN} {{c}}",
)
_STACK_MORE = (
    "[build|make] a tower [that is|] {all} from bottom to top",
    "stack [the blocks|the cubes|] {all} from bottom to top",
    "tower from bottom to top {all}",
    "[build|make] a tower [with|of] {all} starting at the bottom",
    "starting at the bottom stack {all}",
    "[from bottom to top|starting at the bottom] [build|make] {all}",
    f"{_POLITE} stack {{all}} with {{first}} at the bottom",
    f"on the {{first}} {_CUBE} stack {{rest}}",
)
_STOW = (
    f"{_POLITE} {_PUT} the {{x}} in the drawer [and|then] [close|shut] it",
    f"{_POLITE} open the drawer {_PUT} the {{x}} [in|inside] and [close|shut] it",
    "[stow|store|keep] the {x} in the drawer",
    f"{_POLITE} [put|stow|tidy] the {{x}} away in the drawer",
    "the {x} [goes|belongs] in the drawer [close|shut] it [after that|]",
    f"{_POLITE} hide the {{x}} in the drawer",
    f"{_TAKE} the {{x}} and {_PUT} {{it}} in the drawer then [close|shut] the drawer",
    "i [want|need] the {x} in the [closed|shut] drawer",
    "into the drawer with the {x} and [close|shut] it",
)
_CLEAR = (
    f"{_POLITE} clear the table",
    f"{_POLITE} {_PUT} [everything|all the blocks|all the cubes] {_IN} the box",
    f"{_POLITE} [tidy up|clean up] the table",
    f"{_PUT} [every|each] {_CUBE} {_IN} the box",
    "pack [everything|all the blocks|all the cubes] into the box",
    "clear [everything|all the blocks|all the cubes] [away|off the table]",
    "i want [nothing|no blocks|no cubes] left on the table",
    f"{_PUT} [the blocks|the cubes] {_IN} the box until none is left",
    "empty the table into the box",
    "fill the box with [the blocks|the cubes|everything]",
)
_SWAP = (
    f"{_POLITE} swap the {{a}} and {{b}} [blocks|cubes]",
    f"{_POLITE} swap the {{a}} {_CUBE} [and|with] the {{b}} {_CUBE}",
    f"{_POLITE} [exchange|switch] the {{a}} {_CUBE} [and|with] the {{b}} [block|cube|one]",
    "let the {a} and {b} [blocks|cubes] [trade|change|switch] places",
    "[switch|exchange] the places of the {a} and {b} [blocks|cubes]",
    "[exchange|swap|switch] {a} and {b}",
    "make the {a} and the {b} [blocks|cubes] [trade|change|swap] places",
    f"{_PUT} the {{a}} {_CUBE} where the {{b}} one is and the {{b}} {_CUBE} where the {{a}} one is",
    f"the {{a}} {_CUBE} and the {{b}} {_CUBE} should [change|trade|swap] places",
)
_PRESS_COUNT = (
    f"{_POLITE} {_PRESS} the {{c}} button {{n}}",
    f"{_POLITE} {_PRESS} {{c}} {{n}}",
    f"{_PRESS} {{n}} the {{c}} button",
    f"{_PRESS} the button that is {{c}} {{n}}",
    "the {c} button [has|needs] to be pressed {n}",
    "i [want|need] the {c} button pressed {n}",
    "{n} [press|push] the {c} button",
    "make the {c} [lamp|light] [light up|go on] {n}",
)
_PRESS_ORDER = (
    f"{_POLITE} {_PRESS} {{then}}",
    f"{_POLITE} {_PRESS} the [buttons|lamps] in the order {{all}}",
    f"{_PRESS} the {{first}} button {_THEN} {{rest}}",
    f"{_POLITE} {_PRESS} {{all}} in [this|that] order",
    f"first {_PRESS} {{first}} {_THEN} {{rest}}",
    f"{_PRESS} the buttons {{all}}",
    "make the lamps light up {all} in [this|that] order",
    f"the order is {{all}} {_PRESS} the buttons",
    f"start with the {{first}} button {_THEN} {{rest}}",
)
_CORRECTION = (
    "[no|actually|wait|sorry|stop] {new} [|instead]",
    "[no wait|change of plan|i changed my mind|not that] {new}",
    "{new} instead",
)
_ALL = (
    _SORT_ONE, _SORT_BY_COLOR, _STACK_ONE, _STACK_THREE, _STACK_MORE, _STOW, _CLEAR, _SWAP, _PRESS_COUNT,
    _PRESS_ORDER, _CORRECTION, tuple(_COUNTS.values()),
)  # fmt: skip
_CHOICE = re.compile(r"\[([^\[\]]*)\]")


def _fill(templates: Sequence[str], rng: np.random.Generator, **slots: str) -> str:
    """One wording: pick a template, resolve its alternatives, fill its slots."""
    text = templates[rng.integers(len(templates))]
    text = _CHOICE.sub(lambda m: str(rng.choice(m.group(1).split("|"))), text)
    return " ".join(text.format(**slots).split())


def _draw(templates: Sequence[str], rng: np.random.Generator, **slots: str) -> str:
    """Like `_fill`, drawn again while longer than a network reads."""
    for _ in range(50):
        text = _fill(templates, rng, **slots)
        if len(text.split()) <= MAX_INSTRUCTION_WORDS:
            return text
    raise ValueError(f"no wording of at most {MAX_INSTRUCTION_WORDS} words for {slots}")


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{' '.join(words[:-1])} and {words[-1]}"


def _blocks(colors: Sequence[str], rng: np.random.Generator) -> str:
    """ "red block", "red and blue blocks", "red block and the blue block"."""
    noun = str(rng.choice(["block", "cube"]))
    if len(colors) == 1:
        return f"{colors[0]} {noun}"
    if len(colors) == 2 and rng.random() < 0.3:
        return f"{colors[0]} {noun} and the {colors[1]} {noun}"
    return f"{_join(colors)} {noun}s"


def sort_instruction(moves: Sequence[tuple[str, str]], rng: np.random.Generator) -> str:
    """Name every move (block color, bin color), in the order of work."""
    if len(moves) == 1:
        return _draw(_SORT_ONE, rng, c=moves[0][0], b=moves[0][1])
    for _ in range(50):
        text = _sort_many(moves, rng)
        if len(text.split()) <= MAX_INSTRUCTION_WORDS:
            return text
    raise ValueError(f"no wording of at most {MAX_INSTRUCTION_WORDS} words for {moves}")


def _sort_many(moves: Sequence[tuple[str, str]], rng: np.random.Generator) -> str:
    """Clauses joined in the order of work; neighbours that go to the same bin share one."""
    groups: list[tuple[list[str], str]] = []
    for block, bin_ in moves:
        if groups and groups[-1][1] == bin_:
            groups[-1][0].append(block)
        else:
            groups.append(([block], bin_))
    verb = str(rng.choice(["put", "place", "drop", "sort", "move"]))
    inn = str(rng.choice(["in", "into"]))
    link = str(rng.choice(["and", "then", "and then"]))
    polite = str(rng.choice(["", "", "please ", "now "]))
    terse = len(groups) > 2 or (len(moves) > 3 and rng.random() < 0.5)
    if terse:
        parts = [f"{_join(blocks)} {inn} {bin_}" for blocks, bin_ in groups]
        return f"{verb} " + " then ".join(parts)
    parts = [f"the {_blocks(blocks, rng)} {inn} the {bin_} bin" for blocks, bin_ in groups]
    return f"{polite}{verb} " + f" {link} ".join(parts)


def sort_by_color_instruction(rng: np.random.Generator) -> str:
    return _draw(_SORT_BY_COLOR, rng)


def stack_instruction(tower: Sequence[str], rng: np.random.Generator) -> str:
    """`tower`: block colors from the bottom up."""
    if len(tower) == 2:
        return _draw(_STACK_ONE, rng, b=tower[0], t=tower[1])
    if len(tower) == 3 and rng.random() < 0.7:
        return _draw(_STACK_THREE, rng, a=tower[0], b=tower[1], c=tower[2])
    then = rng.random() < 0.5
    text = " then ".join(tower) if then else " ".join(tower)
    rest = " then ".join(tower[1:]) if then else _join(tower[1:])
    return _draw(_STACK_MORE, rng, all=text, first=tower[0], rest=rest)


def stow_instruction(blocks: Sequence[str], rng: np.random.Generator) -> str:
    return _draw(_STOW, rng, x=_blocks(blocks, rng), it="it" if len(blocks) == 1 else "them")


def clear_instruction(rng: np.random.Generator) -> str:
    return _draw(_CLEAR, rng)


def swap_instruction(pair: tuple[str, str], rng: np.random.Generator) -> str:
    return _draw(_SWAP, rng, a=pair[0], b=pair[1])


def press_instruction(sequence: Sequence[str], rng: np.random.Generator) -> str:
    if len(set(sequence)) == 1 and (len(sequence) == 1 or rng.random() < 0.85):
        count = _fill((_COUNTS[len(sequence)],), rng)
        return _draw(_PRESS_COUNT, rng, c=sequence[0], n=count)
    link = str(rng.choice([" then ", " and then ", " then the "])) if len(sequence) < 4 else " then "
    first = "the " if link.endswith("the ") else ""
    return _draw(
        _PRESS_ORDER,
        rng,
        all=" ".join(sequence),
        then=first + link.join(sequence),
        first=sequence[0],
        rest=" then ".join(sequence[1:]),
    )


def correction_instruction(new: str, rng: np.random.Generator) -> str:
    """The new instruction as one says it while the robot is doing something else (it stands on its own)."""
    return _draw(_CORRECTION, rng, new=new)


# ---- subtasks: a closed set --------------------------------------------------------------------------------


def pick(color: str) -> str:
    return f"pick up the {color} block"


def put_in_bin(color: str, bin_color: str) -> str:
    return f"put the {color} block in the {bin_color} bin"


def put_in_drawer(color: str) -> str:
    return f"put the {color} block in the drawer"


def put_in_box(color: str) -> str:
    return f"put the {color} block in the box"


def put_on_mat(color: str, side: str) -> str:
    return f"put the {color} block on the {side} mat"


def put_on_table(color: str) -> str:
    """What to do with a block that is in the hand for no good reason (a correction, a drawer that fell
    shut)."""
    return f"put the {color} block on the table"


def stack_on(color: str, base: str, below: int = 1) -> str:
    """`below`: blocks under the new one. A place in a picture does not tell its height, so the words do."""
    high = f" {_HEIGHTS[min(below, max(_HEIGHTS))]} up" if below > 1 else ""
    return f"stack the {color} block on the {base} block{high}"


_HEIGHTS = {2: "two", 3: "three", 4: "four"}
OPEN_DRAWER = "open the drawer"
CLOSE_DRAWER = "close the drawer"


def press(color: str) -> str:
    return f"press the {color} button"


def lift(color: str) -> str:
    return f"lift from the {color} button"


def all_subtasks() -> list[str]:
    """Every subtask sentence there is."""
    out = [DONE, OPEN_DRAWER, CLOSE_DRAWER]
    for c in COLORS:
        out += [pick(c), put_in_drawer(c), put_in_box(c), put_on_table(c), press(c), lift(c)]
        out += [put_in_bin(c, b) for b in COLORS]
        out += [stack_on(c, b, below) for b in COLORS if b != c for below in (1, *_HEIGHTS)]
        out += [put_on_mat(c, s) for s in SIDES]
    return out


# ---- memory ------------------------------------------------------------------------------------------------


def press_memory(log: Sequence[str], lamp: bool) -> str:
    """Presses so far, oldest first; "up" while the lamp of the last one is lit (the hand has to let go of
    it)."""
    if not log:
        return NO_MEMORY
    kept = list(log)[: MAX_MEMORY_WORDS - 2]
    return " ".join(["pressed", *kept, *(["up"] if lamp else [])])


def swap_memory(start: Sequence[tuple[str, str]]) -> str:
    """`start`: (block color, side) as the episode began, in the order of work: "red left blue right"."""
    return " ".join(f"{color} {side}" for color, side in start)


def all_words() -> list[str]:
    """Every word of instructions, subtasks and memory, sorted."""
    words: set[str] = set(COLORS) | set(SIDES)
    for templates in _ALL:
        for template in templates:
            words.update(re.sub(r"\{\w+\}|[\[\]|]", " ", template).split())
    words.update(
        "block blocks cube cubes and the in into bin then put place drop sort move please now it them".split()
    )
    for sentence in all_subtasks():
        words.update(sentence.split())
    words.update([NO_MEMORY, "pressed", "up"])
    return sorted(words)
