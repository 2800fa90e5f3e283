"""Demonstrations in memory: which column holds what, what is to be recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agent.recording.columns import (
    CAMERAS,
    COUNTED,
    TABLETOP,
    Layout,
    decode_png,
    encode_png,
    named,
    pictures,
    scalar,
)
from backbone.errors import UserError

if TYPE_CHECKING:
    from envs.contract import Label
    from highlevel.plan import Plan

__all__ = ["CAMERAS", "TABLETOP", "Layout", "decode_png", "encode_png"]  # handed on

TEACHER, DISTURBED, AGENT, PERSON = range(4)  # who chose `action_executed`


def features(layout: Layout = TABLETOP) -> dict[str, dict[str, Any]]:
    """The columns of the data files. LeRobot wants exactly those that info.json declares."""
    return pictures(layout) | {
        "observation.state": named(layout.state),
        "action": named(layout.action),  # the teacher's
        "action_executed": named(layout.action),
        "target": named(("y", "x")),  # front camera, or -1
        "driver": scalar("int64"),
        "subtask_index": scalar("int64"),
        "memory": scalar("string"),
        "next.success": scalar("bool"),
        **COUNTED,
    }


@dataclass
class Episode:
    """One episode of T frames in memory; `images` holds PNG bytes, the rest is described in `features`."""

    seed: int
    suite: str
    family: str
    images: dict[str, list[bytes]]
    state: np.ndarray  # (T, D) float32, D = 8 in the tabletop world
    action: np.ndarray  # (T, A) float32, A = 7 there
    action_executed: np.ndarray  # (T, A) float32
    target: np.ndarray  # (T, 2) float32
    driver: np.ndarray  # (T,) int64
    success: np.ndarray  # (T,) bool
    instruction: list[str]
    subtask: list[str]
    memory: list[str]
    image_stats: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.state)

    @property
    def key(self) -> str:
        return episode_key(self.suite, self.family, self.seed)


def episode_key(suite: str, family: str, seed: int) -> str:
    """What makes an episode the same one when collection resumes."""
    return f"{suite}/{family}/{seed}"


@dataclass(frozen=True)
class Job:
    """One episode to be recorded."""

    suite: str
    family: str
    seed: int

    @property
    def key(self) -> str:
        return episode_key(self.suite, self.family, self.seed)


def take_turns(
    tasks: Mapping[str, Sequence[str]], suites: Sequence[str], episodes: int, families: Sequence[str] | None
) -> list[tuple[str, str, int]]:
    """Suites in turn (name one twice for twice the share), in each its `tasks` in turn -> suite, task, how
    often that has come before."""
    places = dict.fromkeys(suites, 0)
    turns = []
    for n in range(episodes):
        suite = suites[n % len(suites)]
        known = [task for task in tasks[suite] if families is None or task in families]
        if not known:
            raise UserError(f"family: expected one of suite '{suite}', got {', '.join(families or ())}")
        before, task = divmod(places[suite], len(known))
        places[suite] += 1
        turns.append((suite, known[task], before))
    return turns


class Row(NamedTuple):
    """One control step: what the caller kept before it, what the teacher said, who did what. told: the plan
    that an agent went by whose answers come late.
    """

    kept: Any
    state: np.ndarray
    label: Label
    instruction: str
    executed: np.ndarray
    who: int
    success: bool
    told: Plan | None = None


def from_rows(
    job: Job, rows: Sequence[Row], images: dict[str, list[bytes]], image_stats: dict[str, Any]
) -> Episode:
    """The episode of all its steps and their pictures."""
    _, state, labels, instruction, executed, who, success, _ = zip(*rows, strict=True)
    points = [(-1.0, -1.0) if label.point is None else label.point for label in labels]
    return Episode(
        seed=job.seed,
        suite=job.suite,
        family=job.family,
        images=images,
        state=np.array(state, np.float32),
        action=np.array([label.action for label in labels], np.float32),
        action_executed=np.array(executed, np.float32),
        target=np.array(points, np.float32),
        driver=np.array(who, np.int64),
        success=np.array(success, bool),
        instruction=list(instruction),
        subtask=[label.subtask for label in labels],
        memory=[label.memory for label in labels],
        image_stats=image_stats,
    )
