"""The realtime clock: what comes late, what is done meanwhile, and that no delay is the sync clock."""

from __future__ import annotations

import time

import numpy as np
import pytest
from test_agent import OBSERVATION, Script

from agent.clock import SYNC, Clock
from agent.evaluation.episode import run_episode
from agent.evaluation.settings import Settings, build
from agent.loop import Agent
from backbone.errors import UserError
from backbone.observation import Observation
from highlevel.plan import Plan


def agent_of(script, **clock) -> Agent:
    agent = Agent(script, clock=Clock(realtime=True, rate=20, **{"skip": True} | clock))
    agent.reset("go")
    return agent


def run(agent: Agent, ticks: int) -> list:
    steps = []
    for _ in range(ticks):
        steps.append(agent.step(OBSERVATION if agent.needs_observation else None))
    return steps


def numbers(steps) -> list[float | None]:
    """Each tick's number of the action in its chunk, None while holding."""
    return [None if "held" in s.events else round(float(s.action[0]) * 10) for s in steps]


def test_what_is_done_meanwhile_is_passed_over():
    agent = agent_of(Script(Plan("go on")), chunk=0.1)  # two ticks
    steps = run(agent, 24)
    # nothing to do at first; then the whole chunk, for nothing was done since its observation
    assert numbers(steps)[:2] == [None, None] and numbers(steps)[2:8] == [0, 1, 2, 3, 4, 5]
    # the second was asked for at tick 8 and is there at tick 10: its first two actions lie behind
    assert numbers(steps)[8:10] == [6, 7] and numbers(steps)[10:16] == [2, 3, 4, 5, 6, 7]
    assert [i for i, s in enumerate(steps) if s.looked] == [0, 8, 16]
    assert [(i, s.age) for i, s in enumerate(steps) if s.said is not None] == [(2, 2), (10, 2), (18, 2)]
    assert "held" not in [e for s in steps[2:] for e in s.events]


def test_positions_are_passed_over_and_speeds_made_up_for():
    for skip, rest, first in ((None, "last", 2), (True, "zero", 2), (False, "zero", 0)):
        clock = Clock(True, rate=20, chunk=0.1, skip=skip)
        agent = Agent(Script(Plan("go on")), clock=clock, rest=rest)
        agent.reset("go")
        assert numbers(run(agent, 12))[10] == first
    agent = Agent(Script(Plan("go on")), clock=Clock(True, rate=20, chunk=0.1))
    agent.reset("go")
    # a chunk 0, .1, .2, ... comes when .6 and .7 have been done: too much by 1.2 at its third action
    assert numbers(run(agent, 14))[8:] == [6, 7, -9, 2, 4, 5]


def test_a_chunk_that_is_nearly_used_up_is_asked_for_in_time():
    steps = run(agent_of(Script(Plan("go on")), chunk=0.25), 40)  # five ticks of a chunk of ten, execute 8
    assert "held" not in [e for s in steps[5:] for e in s.events]
    assert [i for i, s in enumerate(steps) if s.looked][:3] == [0, 5, 10]


def test_slower_than_its_chunks_it_stops_and_goes():
    steps = run(agent_of(Script(Plan("go on")), chunk=0.6), 36)  # twelve ticks for ten actions
    held = [s for s in steps if "held" in s.events]
    assert held and all(not s.action[:6].any() for s in held)
    assert numbers(steps)[12:22] == list(range(10))  # looked before anything was done: nothing to pass over


def test_no_delay_is_the_sync_clock():
    plans = [Plan("one"), Plan("two"), Plan("done", done=True), Plan("done", done=True)]
    late, sync = agent_of(Script(*plans), chunk=0.0), Agent(Script(*plans))
    sync.reset("go")
    for one, other in zip(run(late, 40), run(sync, 40), strict=True):
        assert np.array_equal(one.action, other.action)
        assert (one.subtask, one.events, one.done) == (other.subtask, other.events, other.done)


def test_levels_apart_the_hand_goes_by_the_plan_that_it_has():
    script = Script(Plan("one"), Plan("two"))
    steps = run(agent_of(script, plan=0.5, chunk=0.05), 40)  # ten ticks and one
    assert [(i, s.said.subtask, s.age) for i, s in enumerate(steps) if s.said][:2] == [
        (10, "one", 10),
        (20, "two", 10),
    ]
    assert all("held" in s.events for s in steps[:11])
    assert {s.subtask for s in steps[11:20]} == {"one"}
    # a new subtask is acted on at once, not when the chunk has run out
    assert steps[20].looked and steps[21].subtask == "two"
    assert script.acted[:3] == ["one", "one", "two"]


def test_an_answer_to_the_old_instruction_is_dropped():
    agent = agent_of(Script(Plan("one"), Plan("two")), chunk=0.2)
    run(agent, 2)
    agent.say("something else")
    steps = run(agent, 12)
    assert "corrected" in steps[0].events and "late both dropped" in steps[2].events
    assert all("held" in s.events for s in steps[:6]) and steps[6].subtask == "two"
    assert "one" not in {s.subtask for s in steps}


def test_as_late_as_it_took():
    class Slow(Script):
        def step(self, *given):
            time.sleep(0.12)
            return super().step(*given)

    steps = run(agent_of(Slow(Plan("go on"))), 12)
    first = next(i for i, s in enumerate(steps) if s.said is not None)
    assert first >= 3 and steps[first].age == first


def test_what_will_be_done_meanwhile_is_promised():
    class Hand(Script):
        def act(self, observation, subtask, committed=None):
            self.promised = [] if committed is None else committed[:, 0].tolist()
            given.append(self.promised)
            return super().act(observation, subtask)

    given: list = []
    hand = Hand()

    class Same:
        def plan(self, observation, instruction, memory, previous):
            return Plan("go on")

    clock = Clock(realtime=True, rate=20, chunk=0.1, keep=True)
    agent = Agent(Script(Plan("go on")), Same(), hand, clock=clock)
    agent.reset("go")
    run(agent, 20)
    assert given[0] == [] and given[1] == pytest.approx([0.6, 0.7])


def test_what_comes_within_the_tick_is_not_late():
    script = Script(Plan("go on"))
    steps = run(agent_of(script, chunk=0.03, grace=0.03), 12)
    assert "held" not in [e for s in steps for e in s.events] and steps[0].age == 0
    with pytest.raises(UserError, match="less than a tick"):
        Clock(True, rate=20, grace=0.05)


def test_a_robot_of_positions_is_held_where_it_is():
    agent = Agent(Script(Plan("go on")), clock=Clock(True, rate=20, chunk=0.1), rest="last")
    agent.reset("go")
    here = np.linspace(0.1, 0.8, 8).astype(np.float32)
    seen = Observation(OBSERVATION.images, here)
    steps = [agent.step(seen if agent.needs_observation else None) for _ in range(3)]
    assert all(np.array_equal(s.action, here) for s in steps[:2])  # nothing has been thought yet
    assert not np.array_equal(steps[2].action[:7], here[:7])


def test_what_is_no_clock():
    assert SYNC.ticks(None, 3.0) == 0 and Clock(True, 20).ticks(None, 0.101) == 3
    with pytest.raises(UserError, match="0 seconds or more"):
        Clock(True, plan=-1.0)
    with pytest.raises(UserError, match="expected the clock 'realtime'"):
        Settings(plan_delay=300)
    with pytest.raises(UserError, match="clock: expected one of sync, realtime"):
        Settings(clock="lamport")


def test_late_plans_are_recorded_with_their_age():
    env, agent = build(
        Settings(planner="oracle", controller="obedient", clock="realtime", plan_delay=400, chunk_delay=50)
    )
    record = run_episode(env, agent, 0)
    env.close()
    assert record["success"] and record["subtasks"][0]["start"] == pytest.approx(0.4)
    assert {look["age"] for look in record["looks"]} == {8}
