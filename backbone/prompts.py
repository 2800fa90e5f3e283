"""How the published policies write what they are told. The strings are part of the weights: a space that is
missing costs success, so they are literal, and each is named after who trained with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from backbone.errors import UserError
from backbone.words import Words

METADATA = ("Speed", "Quality", "Mistake", "Robot", "FPS", "Control")


@dataclass(frozen=True)
class Prompt:
    """template: with {task}, and {memory} and {state} where they belong. `<eos>` is the token of that name;
    what a zero byte parts is put into tokens apart.

    numbers: how many of the state's are written, the missing ones as zeros; None: those the robot has.
    below: what is written for a number under -1, the least of the range: openpi prints -1, OpenTau 0.
    tidy: whether underscores and line ends of a task become spaces (openpi, LeRobot) or it is taken as it is.
    response: how the subtask is written when it is learnt or, by a controller, read. padding: where a picture
    that is not square gets its margins, "centre" or "left_top".
    fields: the metadata it is told. decimal: those of them that are written like "30.0". always: `Metadata: `
    stands there with a <bos> of its own, even if nothing is known.
    """

    template: str
    numbers: int | None = None
    below: int = -1
    tidy: bool = True
    response: str = "{text}<eos>"
    padding: str = "centre"
    fields: tuple[str, ...] = METADATA
    decimal: tuple[str, ...] = ()
    always: bool = False


_OPENTAU = {"numbers": 32, "below": 0, "tidy": False, "padding": "left_top"}
_REMEMBERING = "Task: {task}, Past Memory: {memory}, State: {state}, "
PROMPTS = {
    "openpi": Prompt("Task: {task}, State: {state};\nAction: "),
    "lerobot_0.4": Prompt("Task: {task}, State: {state};\nAction: ", numbers=32),
    "openpi_libero": Prompt("{task}\0\n"),
    "lerobot_memory": Prompt("Task: {task};\nAction: "),
    "opentau_pi05": Prompt("Task: {task}, State: {state};\n", response="{text}<eos>;\n", **_OPENTAU),
    "opentau_pi05_continuous": Prompt("Task: {task}, ", response="{text}<eos>;\n", **_OPENTAU),
    "opentau_pi06": Prompt("Task: {task}<eos>State: {state}<eos>Actions:", **_OPENTAU),
    "opentau_pi06_subtask": Prompt(
        "Task: {task}<eos>State: {state}<eos>Response:", response="{text}<eos>Actions:", **_OPENTAU
    ),
    "opentau_pi07": Prompt("Task: {task}, ", response="Subtask: {text}, ", **_OPENTAU),
    "opentau_pi07_planner": Prompt(_REMEMBERING, **_OPENTAU),
    # No comma behind the subtask here; speed and quality went through float32.
    "opentau_pi07_paligemma": Prompt(
        "Task: {task}, ", response="Subtask: {text}", decimal=("Speed", "Quality"), **_OPENTAU
    ),
    "opentau_pi07_paligemma_planner": Prompt(
        _REMEMBERING, fields=("Speed", "Quality", "Mistake", "FPS"), always=True, **_OPENTAU
    ),
    "opentau_pi05_mem": Prompt("Task: {task}<eos>Actions:", **_OPENTAU),
}
FITTING = {  # the usual one of each preset
    "pi05": "openpi",
    "pi05_subtask": "opentau_pi05",
    "pi06": "opentau_pi06_subtask",
    "pi07": "opentau_pi07",
    "pi07_planner": "opentau_pi07_planner",
    "pi07_paligemma": "opentau_pi07_paligemma",
    "pi07_paligemma_planner": "opentau_pi07_paligemma_planner",
    "pi05_mem": "opentau_pi05_mem",
}


def prompt(name: str) -> Prompt:
    """A prompt format by name; UserError names the known ones."""
    if name not in PROMPTS:
        raise UserError(f"prompt: expected one of {', '.join(PROMPTS)}, got '{name}'")
    return PROMPTS[name]


def state_words(state: np.ndarray, how: Prompt) -> str:
    """A normalised state (D,) as numbers 0 .. 255: [-1, 1) in 256 steps."""
    values = np.asarray(state, np.float64).ravel()
    if how.numbers is not None:
        if len(values) > how.numbers:
            raise UserError(f"state: expected at most {how.numbers} dimensions, got {len(values)}")
        values = np.pad(values, (0, how.numbers - len(values)))
    bins = np.digitize(values, np.linspace(-1, 1, 257)[:-1]) - 1
    return " ".join(str(max(int(b), how.below)) for b in bins)


def metadata_words(metadata: Mapping[str, object], how: Prompt | None = None) -> str:
    """What is known of how and with what, "" if nothing is. UserError for a field that no network knows."""
    known, how = {name.lower(): name for name in METADATA}, how or PROMPTS["opentau_pi07"]
    unknown = sorted(set(metadata) - set(known))
    if unknown:
        raise UserError(f"metadata: expected some of {', '.join(known)}, got '{unknown[0]}'")
    told = {name: metadata.get(name.lower()) for name in how.fields}
    told = {name: value for name, value in told.items() if value is not None and value != ""}
    try:
        told |= {name: float(told[name]) for name in how.decimal if name in told}
    except (TypeError, ValueError):
        got = ", ".join(f"{name.lower()} {told[name]!r}" for name in how.decimal if name in told)
        raise UserError(f"metadata: expected numbers, got {got}") from None
    parts = [f"{name}: {value}, " for name, value in told.items()]
    return f"Metadata: {' '.join(parts)}" if parts or how.always else ""


def metadata_ids(how: Prompt, words: Words, metadata: Mapping[str, object]) -> list[int]:
    """The same as tokens, none if there is nothing to say."""
    return words.encode(metadata_words(metadata, how), begin=how.always)


def prompt_ids(
    how: Prompt, words: Words, length: int, task: str, state: np.ndarray | None = None, memory: str = ""
) -> list[int]:
    """The prompt with <bos>, at most `length` ids. Too long a memory loses its beginning, the state nothing
    (the public code cuts at the end, where the state is). UserError if even so it does not fit.
    """
    tidied = task.strip().replace("_", " ").replace("\n", " ") if how.tidy else task
    fields = {"task": tidied, "state": "" if state is None else state_words(state, how)}
    while True:
        ids = words.encode(how.template.format(memory=memory, **fields), begin=True)
        if len(ids) <= length:
            return ids
        left = memory.split()
        if not left or "{memory}" not in how.template:
            raise UserError(f"prompt: expected at most {length} tokens, got {len(ids)} for {task!r}")
        memory = " ".join(left[max(1, (len(ids) - length) // 2) :])
