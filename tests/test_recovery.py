"""Noticing that it is stuck, trying from elsewhere, another plan, giving up."""

from __future__ import annotations

import numpy as np
import pytest
from test_agent import OBSERVATION, PICK, PUT, Script, run

from agent.loop import Agent
from agent.recovery import Recovery, Watch, way_back
from agent.trace import Trace
from agent.when import read_rules
from backbone.errors import UserError
from highlevel.plan import Plan

QUICK = Recovery(patience=1.0, returns=3, retreat=0.4, tries=2)


def of_parts(*parts: tuple[int, str] | tuple[int, str, str]) -> Trace:
    trace = Trace(20.0)
    for tick, subtask, *memory in parts:
        trace.plan(tick, Plan(subtask, memory="".join(memory)))
    return trace


def test_a_subtask_that_lasts_too_long_has_stalled():
    watch, trace = Watch(QUICK), of_parts((0, "a"), (10, "b"))
    assert watch.wrong(trace, 29) is None and watch.wrong(trace, 30) == "stalled"
    assert Watch(QUICK).wrong(of_parts((0, "done")), 1000) is None  # at rest it may be


def test_swinging_and_failing_are_told_apart():
    swings = of_parts(*((8 * k, "ab"[k % 2]) for k in range(5)))
    assert Watch(QUICK).wrong(swings, 32) == "oscillates"
    fails = of_parts((0, "a"), (8, "b"), (16, "c"), (24, "a"), (32, "b"), (40, "d"), (48, "a"))
    assert Watch(QUICK).wrong(fails, 48) == "failed again"


def test_the_same_words_with_another_memory_are_another_thing():
    presses = [(8 * k, "lift" if k % 2 else "press", f"pressed {k // 2}") for k in range(9)]
    assert Watch(QUICK).wrong(of_parts(*presses), 64) is None


def test_what_was_tried_again_is_forgiven_once():
    watch, trace = Watch(QUICK), of_parts(*((8 * k, "ab"[k % 2]) for k in range(5)))
    assert watch.again(trace, 40) == 1 and watch.wrong(trace, 41) is None
    trace.plan(48, Plan("b"))
    trace.plan(56, Plan("a"))
    assert watch.wrong(trace, 56) is None and watch.refused == ("a",)
    assert watch.wrong(trace, 76) == "stalled" and watch.again(trace, 76) == 2


@pytest.mark.parametrize("positions", [False, True])
def test_the_way_back_undoes_the_last_motion(positions):
    trace, rng = Trace(20.0), np.random.default_rng(0)
    steps = rng.uniform(0.1, 1, (12, 3))
    path = np.cumsum(steps, 0) if positions else steps
    for row in path:
        trace.sent.append(np.append(row, 1.0).astype(np.float32))
    for _ in range(5):  # then it stood
        trace.sent.append(np.append(path[-1] if positions else np.zeros(3), 1.0).astype(np.float32))
    back = way_back(trace, 16, positions)
    assert back.shape == (16, 4) and (back[:, 3] == 1.0).all()
    if positions:
        assert np.allclose(back[:11, :3], path[:-1][::-1]) and np.allclose(back[11:, :3], path[0])
    else:
        assert np.allclose(back[:12, :3], -steps[::-1]) and not back[12:, :3].any()


def test_it_backs_off_and_in_the_end_gives_up_with_a_reason():
    agent = Agent(Script(PICK), execute=4, recovery=QUICK)
    agent.reset("put the red block away")
    steps = run(agent, 120)
    events = [(k, e) for k, s in enumerate(steps) for e in s.events if e not in ("planned", "replanned")]
    names = [e for _, e in events if e != "held"]
    assert names[:4] == ["stalled", "backs off"] * 2 and names[4] == "stalled"
    assert names[5] == "gave up: stalled at 'pick up the red block', 2 times tried again" and len(names) == 6
    first = events[0][0]
    assert first == 20 and {s.plan.subtask for s in steps[first : first + 8]} == {"done"}  # home
    assert steps[first + 8].plan == PICK and not any(s.done for s in steps)
    assert agent.gave_up and not agent.needs_observation and "held" in steps[-1].events
    agent.go_on()
    assert agent.step(OBSERVATION).plan == PICK and agent.gave_up is None


def test_without_words_for_home_it_goes_back_the_way_it_came():
    agent = Agent(Script(PICK), execute=4, recovery=Recovery(1.0, retreat=0.4, home=None))
    agent.reset("go")
    steps = run(agent, 28)
    back = steps[20:28]
    assert {s.subtask for s in back} == {"back off"} and not any(s.looked for s in back[1:])
    assert [round(float(s.action[0]), 1) for s in back[:3]] == [-0.3, -0.2, -0.1]


def test_at_the_second_failure_a_planner_is_asked_for_something_else():
    class Stubborn:
        def __init__(self):
            self.refused = []

        def plan(self, observation, instruction, memory, previous):
            return PICK

        def otherwise(self, observation, instruction, memory, previous, refused):
            self.refused.append(refused)
            return PUT

    planner = Stubborn()
    agent = Agent(Script(PICK), planner, execute=4, recovery=QUICK)
    agent.reset("go")
    steps = run(agent, 90)
    assert planner.refused == [("pick up the red block",)]
    kept = [k for k, s in enumerate(steps) if s.plan.subtask == PUT.subtask]
    assert len(kept) == 20 and kept == list(range(kept[0], kept[0] + 20))  # as long as patience lasts
    assert steps[kept[-1] + 1].plan == PICK


def test_a_planner_that_goes_back_with_a_closed_hand_has_seen_something_fall():
    agent = Agent(Script(PICK, PUT, PICK, PUT), execute=4)
    agent.reset("put the red block away")
    events = [s.events for s in run(agent, 16) if s.looked]
    assert ["went back" in e for e in events] == [False, False, True, False]
    opened = Agent(Script(PICK, PUT, PICK, chunks=[-np.ones((10, 7))] * 9), execute=4)
    opened.reset("put the red block away")
    assert not any("went back" in s.events for s in run(opened, 16))


def test_an_instruction_in_the_subtask_s_place_is_never_stuck():
    agent = Agent(Script(PICK), "none", execute=4, recovery=QUICK)
    agent.reset("go")
    assert not any("stalled" in s.events for s in run(agent, 60))


def test_a_person_s_order_is_never_stuck():
    agent = Agent(Script(PICK), execute=4, recovery=QUICK)
    agent.reset("go")
    agent.order("press the red button <loc0512><loc0512>")
    assert not any("stalled" in s.events for s in run(agent, 60))


def test_the_second_choice_of_the_shipped_planner_makes_sense():
    from agent.evaluation.settings import Settings, build
    from backbone.observation import Observation
    from envs.tabletop.commands import understand

    env, agent = build(Settings(family="sort"))
    env.begin(1002)
    observation = Observation.from_env(env.look(), env.task_description)
    planner, told = agent.policy.planner, (observation, env.task_description, "", None)
    own = planner.plan(*told)
    assert planner.otherwise(*told, ()) == own or planner.otherwise(*told, ()).subtask == own.subtask
    other = planner.otherwise(*told, (own.subtask,))
    assert other.subtask != own.subtask and understand(other.subtask) is not None
    third = planner.otherwise(*told, (own.subtask, other.subtask))
    assert third.subtask not in (own.subtask, other.subtask) and other.target is not None
    env.close()


def test_bad_settings_are_told():
    with pytest.raises(UserError, match="recovery: expected patience above 0 seconds, got 0"):
        Recovery(patience=0)
    with pytest.raises(UserError, match="at least 2 returns"):
        Recovery(returns=1)


@pytest.mark.parametrize("when", ["while it backs off", "while a plan is kept"])
def test_a_correction_counts_at_once(when):
    """What recovery was at is about the old instruction."""
    policy = Script(PICK, PUT, PICK, PUT, PICK, PICK)
    agent = Agent(policy, execute=4, recovery=QUICK)
    agent.reset("put the red block away")
    steps = run(agent, 21)
    assert "oscillates" in steps[20].events and steps[20].plan.subtask == "done"
    if when == "while a plan is kept":
        steps = run(agent, 12)
        assert steps[-1].plan.origin == "kept"
    policy.plans = [PUT]
    agent.say("clear the table")
    step = agent.step(OBSERVATION)
    assert step.plan == PUT and step.subtask == PUT.text and step.why == ("correction",)


def test_a_new_instruction_ends_an_order_and_an_errand():
    policy = Script(PICK)
    agent = Agent(policy, execute=4)
    agent.reset("put the red block away")
    run(agent, 6)
    agent.order("press the red button <loc0512><loc0512>")
    agent.say("clear the table")
    assert agent.step(OBSERVATION).plan == PICK and not agent.ordered


def test_an_errand_goes_on_under_sparse_rules():
    policy = Script(PICK, PUT)
    agent = Agent(policy, execute=4, replan=read_rules("interval:100"))
    agent.reset("put the red block away")
    run(agent, 6)
    agent.go_on()
    run(agent, 4)
    assert agent.plan == PUT
    policy.chunks = [np.full((10, 7), -1.0)] + [np.ones((10, 7))] * 8 + [np.full((10, 7), -1.0)] * 30
    agent.step(OBSERVATION if agent.needs_observation else None)
    run(agent, 3)
    agent.say("put it back")
    subtasks = [s.plan.subtask for s in run(agent, 110)]
    assert subtasks[0] == "pick up the red block" and subtasks[-1] == "put the red block on the table"
    assert agent.stopped
