"""What a server's reply has in it, checked before anybody sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from backbone.errors import PolicyError, UserError
from highlevel.plan import Plan, parse_plan_text


def actions_of(reply: dict[str, Any], name: str, action_dim: int) -> np.ndarray:
    """(H, action_dim) float32, finite, taken out of the reply; PolicyError where they are not that."""
    given = reply.pop("actions", None)
    if given is None:
        got = ", ".join(sorted(map(str, reply))) or "nothing"
        raise PolicyError(f"{name}: expected 'actions' in the reply, got {got}")
    if not isinstance(given, np.ndarray) or given.dtype.kind not in "fiu":
        kind = getattr(given, "dtype", type(given).__name__)
        raise PolicyError(f"{name}: expected actions as an array of numbers, got {kind}")
    if given.ndim != 2 or not len(given) or given.shape[1] != action_dim:
        raise PolicyError(f"{name}: expected actions (H, {action_dim}), got {given.shape}")
    with np.errstate(over="ignore"):  # what overflows is not finite
        actions = np.array(given, np.float32)
    if not np.isfinite(actions).all():
        count = int((~np.isfinite(actions)).sum())
        raise PolicyError(f"{name}: expected finite actions, got {count} of {actions.size} that are not")
    return actions


def plan_of(reply: Mapping[str, Any], name: str, camera: str = "front") -> Plan:
    """The plan in it; PolicyError where there is none. `tokens` are the server's own: (1,) stands for those
    that it may confirm (see `told`).
    """
    subtask, memory = reply.get("subtask"), reply.get("memory", "")
    for what, found in (("subtask", subtask), ("memory", memory)):
        if not isinstance(found, str):
            raise PolicyError(f"{name}: expected '{what}' as words, got {type(found).__name__}")
    try:
        words, target = parse_plan_text(subtask)
    except UserError as error:
        raise PolicyError(f"{name}: {error}") from None
    margin, origin = reply.get("margin", 0.0), reply.get("origin", "decoded")
    margin = float(margin) if isinstance(margin, int | float | np.number) else math.nan
    if not math.isfinite(margin):
        raise PolicyError(f"{name}: expected a finite margin, got {reply.get('margin')!r}")
    said = {
        "done": bool(reply.get("done", False)),
        "origin": origin if isinstance(origin, str) else "decoded",
    }
    return Plan(words, target, memory, margin=margin, tokens=(1,), **said)


def told(memory: str, previous: Plan | None) -> dict[str, str]:
    """What a planner is told of before. One that is to write anew is given no `previous`. ("" and not
    nothing: else the server goes by what it remembers itself.)
    """
    return {"memory": memory, "previous": previous.text if previous is not None and previous.tokens else ""}
