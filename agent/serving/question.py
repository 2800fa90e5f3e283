"""A client's frame as a question: what it shows, says and wants. Read in a thread, never by the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agent.sound import LONGEST
from agent.wire import unpack
from backbone.errors import UserError
from backbone.observation import Observation

WANTS = ("both", "plan", "actions")
NAME = 64  # characters of a session's name, and of an id
TRIED = 16  # subtasks that led nowhere
SAID = 1000  # characters of what a person says
Shown = tuple[Observation | None, Observation | None]


class Refused(UserError):
    """A frame that is no question. id: which it would have been, if that could be read."""

    def __init__(self, reason: str, id: int | str | None = None):
        super().__init__(reason)
        self.id = id


@dataclass(frozen=True)
class Question:
    """`observation`: what is shown, as the network wants it; `whole`: as a planner apart does. `reset`: the
    seed of a new episode. `subtask`: in the planner's place; "" gives it back. `memory`, `previous`: instead
    of the session's own. `refused`: subtasks that led nowhere, another one is wanted.
    Whatever is None was not said. passes: seconds of each pass of a network for it.
    """

    observation: Observation | None = None
    whole: Observation | None = None
    prompt: str | None = None
    id: int | str | None = None
    session: str | None = None
    reset: int | None = None
    say: str | None = None
    subtask: str | None = None
    memory: str | None = None
    previous: str | None = None
    refused: tuple[str, ...] = ()
    want: str = "both"
    committed: np.ndarray | None = None
    born: float = field(default_factory=time.perf_counter)
    passes: list[float] = field(default_factory=list)

    @property
    def stateless(self) -> bool:
        """Whether the client keeps in mind itself what it was told."""
        return self.memory is not None or self.previous is not None or self.want == "plan"


def read(frame: bytes | str, observe: Callable[[Mapping], Shown], action_dim: int) -> Question:
    """The question in a frame; Refused where it is none. observe: what is shown in a message, if anything, as
    the network wants it and as a planner apart does.
    """
    born, id = time.perf_counter(), None
    try:
        if isinstance(frame, str):
            raise UserError("request: expected a binary frame of msgpack, got text")
        message = unpack(frame)
        if not isinstance(message, Mapping):
            raise UserError(f"request: expected a dict, got {type(message).__name__}")
        id = _id(message.get("id"))
        want = message.get("want", "both")
        if not isinstance(want, str) or want not in WANTS:
            raise UserError(f"want: expected one of {', '.join(WANTS)}, got {str(want)[:40]!r}")
        observation, whole = observe(message)
        found = Question(
            observation=observation,
            whole=whole,
            prompt=_text(message, "prompt", SAID),
            id=id,
            session=_text(message, "session", NAME),
            reset=_seed(message.get("reset")),
            want=want,
            refused=_refused(message.get("refused")),
            committed=_committed(message.get("committed"), action_dim),
            born=born,
            say=_text(message, "say", SAID),
            **{name: _text(message, name) for name in ("subtask", "memory", "previous")},
        )
        if found.session == "":
            raise UserError(f"session: expected 1 to {NAME} characters, got none")
        said = (found.say, found.subtask, found.reset)
        if found.observation is None and all(value is None for value in said):
            raise UserError("request: expected an observation, `say`, `subtask` or `reset`, got none of them")
        return found
    except UserError as error:
        raise Refused(str(error), id) from None


def _id(given: Any) -> int | str | None:
    whole = isinstance(given, int | np.integer) and not isinstance(given, bool)
    if given is None or whole:
        return given if given is None else int(given)
    if isinstance(given, str) and len(given) <= NAME:
        return given
    raise UserError(f"id: expected a whole number or up to {NAME} characters, got {type(given).__name__}")


def _seed(given: Any) -> int | None:
    if given is None or given is False:
        return None
    if given is True:
        return 0
    if isinstance(given, int | np.integer) and 0 <= given < 1 << 63:
        return int(given)
    raise UserError(f"reset: expected true or a seed of 0 or more, got {str(given)[:40]!r}")


def _text(message: Mapping, name: str, most: int = LONGEST) -> str | None:
    given = message.get(name)
    if given is None:
        return None
    if not isinstance(given, str):
        raise UserError(f"{name}: expected text, got {type(given).__name__}")
    if len(given) > most:
        raise UserError(f"{name}: expected at most {most} characters, got {len(given)}")
    if not all(c.isprintable() or c.isspace() for c in given):
        raise UserError(f"{name}: expected words, got characters that nobody can read")
    return given


def _refused(given: Any) -> tuple[str, ...]:
    texts = [] if given is None else given
    fits = isinstance(texts, list) and len(texts) <= TRIED
    if not fits or not all(isinstance(text, str) and len(text) <= LONGEST for text in texts):
        raise UserError(f"refused: expected a list of up to {TRIED} subtasks, got {type(given).__name__}")
    return tuple(texts)


def _committed(given: Any, action_dim: int) -> np.ndarray | None:
    if given is None:
        return None
    fits = isinstance(given, np.ndarray) and given.dtype.kind == "f" and given.ndim == 2
    if not fits or given.shape[1] != action_dim or len(given) > 1000:
        got = getattr(given, "shape", type(given).__name__)
        raise UserError(f"committed: expected an array of floats (K, {action_dim}), got {got}")
    with np.errstate(over="ignore"):  # what overflows is not finite
        found = given.astype(np.float32)
    if not np.isfinite(found).all():
        raise UserError("committed: expected finite numbers, got others")
    return found if len(found) else None
