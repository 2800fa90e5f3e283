"""What planners that are language models have in common: what they are told, and how their answer is read.

The model sees the pictures, the instruction, its own memory and its last subtask, and answers with one JSON
object. Its memory is what it writes, handed back at the next look, as the learned planner's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backbone.errors import UserError
from backbone.observation import Observation
from highlevel.loose_json import objects
from highlevel.plan import DONE, Plan, Target, parse_plan_text

SHOWN = 120  # characters of an answer in an error
RULES = """You steer a robot arm. A controller moves it; you tell the controller what to do next, one short
subtask at a time. You are asked again and again while the arm moves: repeat your subtask word for word until
the pictures show that it is finished, then name the next one.

You get the instruction of a person, the memory that you wrote last, your last subtask, and pictures of now.
You see nothing of the past: write into the memory what you will need to know of it, in one short sentence.

Answer with one JSON object and nothing else:
{{"memory": what to remember, "subtask": what to do now, "done": true once the whole instruction is fulfilled,
else false, "target": {target}}}
When done is true, the subtask is "{done}"."""
POINTING = (
    'where the thing or place of the subtask is in the picture "{camera}", as [y, x] from 0 to 1 from its '
    "top left corner, or null"
)
NO_POINTING = "null"


@dataclass(frozen=True)
class Dialect:
    """What a controller wants to hear.

    subtasks: the only ones there are, if they can be listed. examples: how it likes them worded. camera: the
    picture that is pointed into, the first one if there is none of that name; None: no pointing.
    """

    subtasks: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    camera: str | None = "front"

    def __post_init__(self):
        for name in ("subtasks", "examples"):
            given = getattr(self, name)
            if isinstance(given, str) or not all(isinstance(s, str) and s.strip() for s in given):
                raise UserError(f"{name}: expected a list of subtasks, got {given!r}")
            object.__setattr__(self, name, tuple(given))

    def pointed(self, observation: Observation) -> str | None:
        """The name of the picture that is pointed into."""
        names = list(observation.images)
        if self.camera is None or not names:
            return None
        return self.camera if self.camera in names else names[0]

    def rules(self, camera: str | None) -> str:
        """The system text."""
        target = NO_POINTING if camera is None else POINTING.format(camera=camera)
        parts = [RULES.format(target=target, done=DONE)]
        if self.subtasks:
            parts.append("The subtask is one of these, word for word:\n" + _lines(self.subtasks))
        if self.examples:
            parts.append(
                "Word subtasks like these, with the things that are there:\n" + _lines(self.examples)
            )
        return "\n\n".join(parts)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of an answer, of the kind that servers call strict."""
        subtask: dict[str, Any] = {"type": "string"}
        if self.subtasks:
            subtask["enum"] = list(dict.fromkeys([*self.subtasks, DONE]))
        point = {"type": "array", "items": {"type": "number"}}
        properties = {
            "memory": {"type": "string"},
            "subtask": subtask,
            "done": {"type": "boolean"},
            "target": {"anyOf": [point, {"type": "null"}]},
        }
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def read(self, text: str, memory: str = "", camera: str | None = None, seconds: float = 0.0) -> Plan:
        """What a model answered, as a plan: of the first whole object that says what to do.

        memory: stands where the answer has none. camera: that the point is in. UserError if nothing can be
        used.
        """
        for found in objects(text):
            done = _true(found.get("done"))
            said, pointed = "", None
            if isinstance(found.get("subtask"), str):
                said, pointed = parse_plan_text(found["subtask"])
            done = done or said.strip(" .").lower() == DONE
            if not said and not done:
                continue
            said = DONE if done else self._worded(said)
            written = found.get("memory")
            if isinstance(written, list) and all(isinstance(part, str) for part in written):
                written = "; ".join(written)
            written = " ".join(written.split()) if isinstance(written, str) else memory
            target = None if done or camera is None else _target(found.get("target"), camera) or pointed
            return Plan(said, target, written, done, origin="decoded", seconds=seconds)
        raise UserError(f'answer: expected a JSON object with "subtask", got {shortened(text)}')

    def _worded(self, said: str) -> str:
        """The subtask of the list that is meant, whatever its case and punctuation."""
        if not self.subtasks:
            return said
        known = {_plain(subtask): subtask for subtask in self.subtasks}
        if _plain(said) not in known:
            raise UserError(
                f"subtask: expected one of the {len(known)} that were listed, got {shortened(said)}"
            )
        return known[_plain(said)]


def question(
    observation: Observation, instruction: str, memory: str, previous: Plan | None
) -> tuple[str, list[tuple[str, np.ndarray]]]:
    """What is asked at a look: the text, and the pictures in their order, (camera, (H, W, 3) uint8).

    UserError for pictures that are none, and for no instruction.
    """
    if not instruction.strip():
        raise UserError("instruction: expected some words, got nothing")
    pictures = [(name, np.asarray(image)) for name, image in observation.now().images.items()]
    for name, picture in pictures:
        if picture.ndim != 3 or picture.shape[-1] != 3 or picture.dtype != np.uint8 or not picture.size:
            raise UserError(
                f"observation: camera '{name}' expected (H, W, 3) uint8, got {picture.shape} {picture.dtype}"
            )
    named = ", ".join(f'"{name}"' for name, _ in pictures)
    lines = [
        f"Instruction: {instruction}",
        f"Memory: {memory or 'none yet'}",
        f"Last subtask: {previous.subtask if previous is not None else 'none yet'}",
        f"Pictures, in order: {named or 'none'}",
    ]
    return "\n".join(lines), pictures


def shortened(text: str, most: int = SHOWN) -> str:
    """A text as one quoted line of a bearable length, its unprintable characters escaped."""
    line = " ".join(str(text)[: 8 * most].split())
    return repr(line if len(line) <= most else line[: most - 3] + "...") if line else "nothing"


def _true(value: Any) -> bool:
    said = value.strip().lower() if isinstance(value, str) else value
    return said in ("true", "yes") if isinstance(said, str) else said is True or said == 1


def _target(value: Any, camera: str) -> Target | None:
    """[y, x] or {"y": y, "x": x}; None for what is no place in the picture: the words stand without it."""
    if isinstance(value, Mapping):
        value = [value.get("y"), value.get("x")]
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return None
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1 for v in value):
        return None
    return Target(*(min(float(v), math.nextafter(1.0, 0.0)) for v in value), camera)


def _plain(subtask: str) -> str:
    return " ".join(subtask.lower().split()).strip(" .!\"'")


def _lines(subtasks: Sequence[str]) -> str:
    return "\n".join(f"- {subtask}" for subtask in subtasks)
