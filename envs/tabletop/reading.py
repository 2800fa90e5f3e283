"""From an instruction back to what it asks for: the wordings of `language`, read the other way round.

So a person's own sentence can be given a table on which it makes sense, and be judged. Sentences that say the
same as one of the templates are understood; anything else is None, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from envs.suites import EVALUATION_START, get_suite, suite_family, suite_task
from envs.tabletop import language
from envs.tabletop.language import COLORS
from envs.tabletop.tasks import Task

Asked = tuple[str, object]  # family, and what about it: blocks, moves, a tower, a sequence
BY_COLOR = "by color"  # sort each block into the bin of its own color, whichever there are

_COLOR = "|".join(COLORS)
_IDLE = ("the", "please")  # say nothing, neither in a sentence nor in a template
_LIST = rf"(?:(?:{_COLOR}|and|then|block|blocks|cube|cubes)\s*)+"  # "red block and blue block"
_COUNT = {"": 1, "once": 1, "twice": 2, "thrice": 3} | {
    f"{word} time{'s' * (n > 1)}": n for n, word in enumerate(("one", "two", "three", "four"), 1)
}
_TIMES = "|".join(sorted(_COUNT, key=len, reverse=True))
_CLAUSE = re.compile(rf"({_LIST})(?:in|into|inside)\s+({_COLOR})(?:\s+(?:bin|tray))?")


def read(instruction: str) -> Asked | None:
    """What an instruction asks for, None if it is not understood."""
    words = re.sub(r"[^\w\s]", " ", instruction.lower()).split()
    text = " ".join(word for word in words if word not in _IDLE)
    for family, patterns in _patterns().items():
        for pattern in patterns:
            if found := pattern.fullmatch(text):
                asked = _from_words(family, found.groupdict())
                if asked is not None:
                    return family.split()[0], asked
    return _read_many(text)


def fits(asked: Asked, task: Task) -> bool:
    """Whether the goal of a task is what was asked for."""
    (family, what), p = asked, task.params
    if family != task.family:
        return False
    if what == BY_COLOR:
        others_stay = not set(p["others"]) & set(p["bins"])
        return others_stay and all(c == b for c, b in p["moves"])
    return (
        what
        == {
            "sort": lambda: frozenset(p["moves"]),
            "stack": lambda: tuple(p["tower"]),
            "stow": lambda: frozenset(p["blocks"]),
            "clear": lambda: "all",
            "swap": lambda: frozenset(c for c, _ in p["places"]),
            "press": lambda: tuple(p["sequence"]),
        }[family]()
    )


def scenes(asked: Asked, suite: str = "core", limit: int = 20_000) -> Iterator[int]:
    """Evaluation seeds (0, 1, ...) of a suite whose tables are set for what is asked."""
    family = asked[0]
    if family not in get_suite(suite).families:
        return
    for seed in range(limit):
        number = EVALUATION_START + seed
        if suite_family(suite, number) == family and fits(asked, suite_task(suite, number)):
            yield seed


@cache
def _patterns() -> dict[str, tuple[re.Pattern, ...]]:
    """Templates as regular expressions, by family and wording (which says what the slots mean)."""
    templates = {
        "sort one": language._SORT_ONE,
        "sort color": language._SORT_BY_COLOR,
        "stack one": language._STACK_ONE,
        "stack three": language._STACK_THREE,
        "stack more": language._STACK_MORE,
        "stow": language._STOW,
        "clear": language._CLEAR,
        "swap": language._SWAP,
        "press count": language._PRESS_COUNT,
        "press order": language._PRESS_ORDER,
    }
    return {name: tuple(re.compile(_regex(name, t)) for t in group) for name, group in templates.items()}


def _regex(name: str, template: str) -> str:
    """`[a|b|]` becomes alternatives, `{slot}` a named group; any number of spaces between words."""
    out, taken = "", set()
    for part in re.split(r"(\[[^\[\]]*\]|\{\w+\}|\s+)", template):
        if part.startswith("["):
            choices = ([w for w in choice.split() if w not in _IDLE] for choice in part[1:-1].split("|"))
            out += "(?:" + "|".join(r"\s+".join(map(re.escape, words)) for words in choices) + ")"
        elif part.startswith("{"):
            slot = part[1:-1]
            if slot in taken:
                out += f"(?P={slot})"
            else:
                taken.add(slot)
                out += f"(?P<{slot}>{_slot(name, slot)})"
        elif part.isspace():
            out += r"\s*"
        elif part not in _IDLE:
            out += re.escape(part)
    return out


def _slot(name: str, slot: str) -> str:
    if slot == "n":
        return _TIMES
    if slot == "it":
        return "it|them"
    if slot in ("x", "all", "rest", "then"):
        return _LIST
    return _COLOR


def _from_words(family: str, words: dict[str, str]) -> object | None:
    """What the slots of a wording say; None if that makes no sense (a color twice in a tower)."""
    if family == "sort one":
        return frozenset([(words["c"], words["b"])])
    if family == "sort color":
        return BY_COLOR
    if family == "stack one":
        tower = (words["b"], words["t"])
    elif family == "stack three":
        tower = (words["a"], words["b"], words["c"])
    elif family == "stack more":
        tower = _colors(words.get("all") or f"{words['first']} {words['rest']}")
    elif family == "stow":
        return frozenset(_colors(words["x"])) or None
    elif family == "clear":
        return "all"
    elif family == "swap":
        return frozenset((words["a"], words["b"])) if words["a"] != words["b"] else None
    elif family == "press count":
        return (words["c"],) * _COUNT[" ".join(words["n"].split())]
    else:  # press order
        order = words.get("all") or words.get("then") or f"{words['first']} {words['rest']}"
        return _colors(order) or None
    return tower if len(tower) > 1 and len(set(tower)) == len(tower) else None


def _read_many(text: str) -> Asked | None:
    """Several blocks into several bins: clauses joined by "and" or "then"."""
    found = re.fullmatch(r"(?:now)?\s*(?:put|place|drop|sort|move)\s+(.*)", text)
    if not found:
        return None
    moves, place = [], 0
    for clause in _CLAUSE.finditer(found[1]):
        between = found[1][place : clause.start()].split()
        if set(between) - {"and", "then"}:
            return None
        moves += [(color, clause[2]) for color in _colors(clause[1])]
        place = clause.end()
    if not moves or place != len(found[1]) or len({c for c, _ in moves}) != len(moves):
        return None
    return "sort", frozenset(moves)


def _colors(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split() if word in COLORS)
