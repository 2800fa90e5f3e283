"""Where a late chunk of speeds is entered: nothing is done twice, nothing is left out."""

from __future__ import annotations

import numpy as np
import pytest
from test_agent import OBSERVATION, Script

from agent.align import entered
from agent.clock import Clock
from agent.loop import Agent
from highlevel.plan import Plan
from lowlevel.controller import ActionChunk

RNG = np.random.default_rng(0)


def chunk(grip=1.0, length: int = 10) -> np.ndarray:
    """Speeds of a hand that slows down on its way."""
    actions = RNG.uniform(0.2, 1.0, (1, 7)) * np.linspace(1, 0.1, length)[:, None]
    actions[:, 6] = grip
    return actions.astype(np.float32)


def test_what_was_done_of_it_is_passed_over():
    actions = chunk()
    for late in range(5):
        found, start = entered(actions, actions[:late])
        assert start == late and np.allclose(found[start:], actions[start:])


def test_what_was_not_done_is_done():
    actions = chunk()
    found, start = entered(actions, np.tile([[0, 0, 0, 0, 0, 0, 1.0]], (4, 1)) * (1, 1, 1, 1, 1, 1, 0))
    assert start == 0 and np.array_equal(found, actions)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.2])
def test_it_ends_where_it_would_have_ended(share):
    """Whatever was done of it; and no faster than anything that was asked for."""
    actions = chunk()
    done = actions[:4] * share
    done[:, 6] = 1.0
    found, start = entered(actions, done)
    assert np.allclose((done.sum(0) + found[start:].sum(0))[:6], actions.sum(0)[:6], atol=1e-4)
    assert (np.abs(found) <= np.maximum(np.abs(actions).max(0), np.abs(done).max(0)) + 1e-6).all()


def test_fingers_that_were_not_told_to_close_get_their_time():
    """The hand has stood still, open; the chunk closes it for four ticks and then lifts."""
    actions, done = np.zeros((10, 7), np.float32), np.zeros((4, 7), np.float32)
    actions[:, 6], actions[4:, 2], done[:, 6] = 1.0, 0.8, -1.0
    assert entered(actions, done)[1] == 0
    done[:, 6] = 1.0  # they have been closing all the while
    assert entered(actions, done)[1] == 4


class Reacher(Script):
    """Goes to a place on the x axis, in steps of 0.03 m at most, from where it sees the hand."""

    def __init__(self, world: dict):
        super().__init__(Plan("go there"))
        self.world = world

    def act(self, observation, subtask, committed=None):
        here, made = self.world["hand"], np.zeros((10, 7), np.float32)
        for action in made:
            action[0] = np.clip(0.6 * (self.world["place"] - here) / 0.03, -1, 1)
            here += 0.03 * action[0]
        return ActionChunk(made, subtask)


def walk(skip: bool | None) -> tuple[float, float]:
    """Metres that a hand is off in the end, and that it went too far, whose chunks come four ticks late."""
    world = {"hand": 0.0, "place": 0.3}
    agent = Agent(Reacher(world), clock=Clock(True, rate=20, chunk=0.2, skip=skip))
    agent.reset("go")
    least = np.inf
    for tick in range(160):
        world["place"] = 0.3 if tick < 80 else 0.1
        step = agent.step(OBSERVATION if agent.needs_observation else None)
        world["hand"] += 0.03 * float(np.clip(step.action[0], -1, 1))
        least = min(least, world["hand"]) if tick > 80 else np.inf
    return abs(world["hand"] - 0.1), 0.1 - least


def test_a_hand_that_is_always_late_arrives():
    assert max(walk(None)) < 0.002
    off, _ = walk(True)  # told at every look to jump, it comes too late for that
    assert off > 0.02
    _, past = walk(False)  # it jumps twice
    assert past > 0.02
