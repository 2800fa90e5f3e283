"""What a person says while the agent works: commands to the agent itself, or a correction for the planner.

Whole instructions go to the planner as they are. What leans on what was said before is made whole here, as a
planner reads one instruction and no conversation: "no, the blue one" is the instruction with another word in
the place of the one that the present subtask names; "put it back" is a subtask that ends where the thing came
from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from backbone.errors import UserError

_STOP = ("stop", "halt", "wait", "pause", "hold on", "freeze", "hold still", "stop it", "stop please")
_GO = ("go on", "continue", "resume", "go", "carry on", "go ahead", "keep going")
_CANCEL = ("cancel", "cancel that", "never mind", "forget it", "abort")
_SLOWER = ("slower", "slow down", "more slowly", "not so fast", "go slower")
_FASTER = ("faster", "speed up", "quicker", "hurry up", "go faster")
_BACK = ("put it back", "put that back", "undo", "undo that", "bring it back")
_SINGLE = {
    phrase: kind
    for kind, phrases in (
        ("stop", _STOP), ("go on", _GO), ("cancel", _CANCEL), ("slower", _SLOWER), ("faster", _FASTER),
        ("put back", _BACK),
    )
    for phrase in phrases
}  # fmt: skip
_NO = r"(?:no|not that|not that one|sorry|actually|wait|i meant|i mean|please)"
_OTHER = re.compile(
    rf"(?:{_NO} )*(?:not the (?P<old>\w+)(?: one)? (?:but )?)?(?:i meant? )?"
    r"the (?P<new>\w+) (?:one|instead)"
    rf"|(?:{_NO} )+the (?P<bare>\w+)"
)
_NAMED = re.compile(r"\bthe (\w+) (?:\w+)")
_ORDER = re.compile(r"subtask ?:(.*)", re.IGNORECASE | re.DOTALL)
_AT = re.compile(r"\bat (\d+(?:\.\d+)?) ?% ?,? ?(\d+(?:\.\d+)?) ?%\s*$")


@dataclass(frozen=True)
class Said:
    """kind: "stop", "go on", "cancel", "slower", "faster", "put back", "order" (text: the subtask, empty to
    give it back) or "instruction" (text: all of it).
    """

    kind: str
    text: str = ""


def understand(text: str, instruction: str = "", subtask: str = "") -> Said:
    """What is meant. instruction, subtask: those in force. UserError for no words, and where it is not clear
    which thing is meant instead of which.
    """
    if order := _ORDER.fullmatch(text.strip()):
        return Said("order", pointed(" ".join(order[1].split())))
    words = " ".join(re.sub(r"[.,!?;]+", " ", text.lower()).split())
    if not words:
        raise UserError("say: expected some words, got none")
    plain = words.removeprefix("please ").removesuffix(" please")
    if plain in _SINGLE:
        return Said(_SINGLE[plain])
    if other := _OTHER.fullmatch(words):
        return Said(
            "instruction", _exchanged(instruction, subtask, other["old"], other["new"] or other["bare"])
        )
    return Said("instruction", text)


def pointed(subtask: str) -> str:
    """ "pick up the red block at 40% 62%" (x, then y, of the picture) with the location in the words that
    networks read.
    """
    found = _AT.search(subtask)
    if found is None:
        return subtask
    from highlevel.plan import Target

    x, y = (float(v) / 100 for v in found.groups())
    if not (x < 1 and y < 1):
        raise UserError(f"subtask: expected a point below 100% 100% of the picture, got '{found[0].strip()}'")
    return f"{subtask[: found.start()].strip()} {Target(y, x).tokens}"


def _exchanged(instruction: str, subtask: str, old: str | None, new: str) -> str:
    """The instruction with `new` in the place of `old`: by default the word for the subtask's thing."""
    if old is None:
        named = _NAMED.search(subtask)
        old = named[1] if named else None
    if old is None or not re.search(rf"\b{re.escape(old)}\b", instruction):
        got = f"'{old}', which '{instruction}' does not name" if old else "no subtask that names one"
        raise UserError(
            f"say: expected to know which thing the {new} one is meant for, got {got}; say it all"
        )
    if old == new:
        raise UserError(f"say: expected another word than '{new}', which is what it is doing")
    whole = re.sub(rf"\b{re.escape(old)}\b", new, instruction, count=1)
    return whole if whole.startswith("no ") else f"no {whole}"
