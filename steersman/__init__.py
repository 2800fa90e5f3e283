"""Steersman: a planner that writes the next subtask, a controller that does it, and the loop that runs both.

from steersman import Agent, make

env = make("core")
observation, info = env.reset(seed=0)
agent = Agent.from_pretrained("nano")
agent.reset(env.task_description)
step = agent.step(observation)  # step.action, step.subtask, step.events
"""

from __future__ import annotations

from typing import Any

__all__ = ["Agent", "Observation", "Plan", "Step", "make"]

_HOMES = {
    "Agent": "agent.loop",
    "Step": "agent.loop",
    "Observation": "backbone.observation",
    "Plan": "highlevel.plan",
}


def make(suite: str = "core", family: str | None = None, **options: Any):
    """The tabletop world of a suite: a gymnasium environment. Options: those of `TabletopEnv`."""
    from envs.tabletop.env import TabletopEnv

    return TabletopEnv(suite=suite, family=family, **options)


def __getattr__(name: str) -> Any:
    """Names are handed on when asked for: `import steersman` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'steersman' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
