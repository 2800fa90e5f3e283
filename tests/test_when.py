"""Rules that call for a plan, and the loop that asks only when they do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_agent import OBSERVATION, PICK, PUT, Script, run

from agent.loop import Agent
from agent.trace import Trace, small
from agent.when import Completion, Interval, Margin, Moment, Perturbation, Stall, read_rules
from backbone.errors import UserError
from backbone.observation import Observation
from envs.suites import SUITES
from highlevel.plan import Plan


def moment(tick: int, trace: Trace, asked: int = 0, margin: float = 5.0) -> Moment:
    return Moment(tick, trace, asked, Plan("go", margin=margin))


def seen(states, every: int = 8) -> Trace:
    trace = Trace(20.0)
    for k, x in enumerate(states):
        trace.see(every * k, replace(OBSERVATION, state=np.full(8, x, np.float32)))
    return trace


def test_between_calls_the_plan_stands_and_a_look_makes_a_chunk():
    policy = Script(PICK, PUT)
    agent = Agent(policy, execute=4, replan=read_rules("interval:0.6"))
    agent.reset("put the red block away")
    steps = run(agent, 17)
    looks = [s for s in steps if s.looked]
    assert [s.why for s in looks] == [("start",), (), (), ("interval",), ()]
    assert [s.said is not None for s in looks] == [True, False, False, True, False]
    assert policy.acted == [PICK.text] * 3 + [PUT.text] * 2  # a chunk at every look


def test_every_look_is_the_default():
    agent = Agent(Script(PICK), execute=4)
    agent.reset("go")
    assert [s.why for s in run(agent, 9) if s.looked] == [("start",), ("every-look",), ("every-look",)]


def test_a_correction_a_failure_and_a_first_done_ask_whatever_the_rules_say():
    done = Plan("done", done=True)
    policy = Script(PICK, RuntimeError("no"), PICK, done, done)
    agent = Agent(policy, execute=4, replan=read_rules("interval:100"))
    agent.reset("put the red block away")
    run(agent, 4)
    agent.say("clear the table")
    assert agent.step(OBSERVATION).why == ("correction",)  # which fails
    assert agent.plan is None
    run(agent, 4)
    assert agent.plan == PICK
    agent.go_on()
    whys = [s.why for s in run(agent, 9) if s.looked]
    assert whys == [("go on",), ("again",), ()] and agent.done


def test_a_low_margin_asks_until_it_is_sure():
    calls = Margin(2.0).calls
    trace = seen([0.0])
    assert calls(moment(8, trace, margin=1.9)) and not calls(moment(8, trace, margin=2.0))


def test_an_interval_is_counted_from_the_last_plan():
    rule, trace = Interval(1.0), seen([0.0])
    assert not rule.calls(moment(27, trace, asked=8)) and rule.calls(moment(28, trace, asked=8))


def test_a_hand_that_stands_still_has_stalled():
    rule = Stall(seconds=1.0, motion=0.01)
    still, moving = seen([0.2, 0.5, 0.5, 0.505, 0.5]), seen([0.2, 0.5, 0.52, 0.54, 0.56])
    assert rule.calls(moment(32, still)) and not rule.calls(moment(32, moving))
    assert not rule.calls(moment(32, still, asked=24))  # it was asked just now


def test_a_grasp_or_a_release_completes():
    trace = Trace(20.0)
    for k in range(20):
        trace.sent.append(np.array([0, 0, 0, 0, 0, 0, 1.0 if k >= 10 else -1.0]))
    rule = Completion(seconds=0.4)
    assert rule.calls(moment(20, trace, asked=0))
    assert not rule.calls(moment(20, trace, asked=12))  # it closed before the last plan
    trace.sent.extend([np.array([0, 0, 0, 0, 0, 0, -1.0])] * 7)
    assert not rule.calls(moment(27, trace, asked=20))  # a moment ago
    trace.sent.append(trace.sent[-1])
    assert rule.calls(moment(28, trace, asked=20))


def test_something_that_moves_far_from_the_arm_is_a_perturbation():
    def picture(*squares):
        image = np.full((128, 128, 3), 90, np.uint8)
        for y, x in squares:
            image[y : y + 20, x : x + 20] = 250
        return Observation({"front": image}, np.zeros(8, np.float32))

    def calls(before, now):
        trace = Trace(20.0)
        trace.see(0, before)
        trace.see(8, now)
        return Perturbation().calls(moment(8, trace))

    arm, moved = (10, 10), (20, 20)
    assert not calls(picture(arm), picture(arm)) and not calls(picture(arm), picture(moved))
    assert calls(picture(arm, (100, 20)), picture(moved, (90, 100)))


def test_small_pictures_are_block_means_of_the_last_frame():
    image = np.zeros((2, 64, 128, 3), np.uint8)
    image[1, :2, :2] = 200
    found = small(image)
    assert found.shape == (32, 64) and found[0, 0] == 200 and found.sum() == 200


def test_rules_are_read_from_words():
    assert read_rules("interval:2, completion,margin") == (Interval(2.0), Completion(), Margin())
    with pytest.raises(UserError, match="replan: expected some of every-look, .* got 'sometimes'"):
        read_rules("sometimes")
    with pytest.raises(UserError, match="expected stall with a number or none, got 'stall:x'"):
        read_rules("stall:x")
    with pytest.raises(UserError, match="expected every-look with a number"):
        read_rules("every-look:1")
    with pytest.raises(UserError, match="got nothing"):
        read_rules(" , ")


@pytest.mark.parametrize("rules", ["completion,stall:1", "interval:1,perturbation"])
def test_the_shipped_agent_plans_seldom_and_still_solves(rules):
    from agent.evaluation.episode import run_episode
    from agent.evaluation.settings import Settings, build

    assert "core" in SUITES
    env, agent = build(Settings(replan=rules))
    record = run_episode(env, agent, 1002)
    env.close()
    assert record["success"]
    planned, ticks = len(record["looks"]), record["steps"]
    assert planned < ticks / 8 * 0.8 and all(look["why"] for look in record["looks"])
