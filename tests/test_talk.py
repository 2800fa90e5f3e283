"""What a person says in mid-episode: how it is understood, and what the loop does."""

from __future__ import annotations

import numpy as np
import pytest
from test_agent import OBSERVATION, PICK, PUT, Script, run

from agent.loop import Agent
from agent.talk import Said, understand
from backbone.errors import UserError
from highlevel.plan import Plan, Target

RED = "put the red block in the green bin"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("stop", "stop"), ("Wait!", "stop"), ("please stop", "stop"), ("hold on", "stop"),
        ("go on", "go on"), ("Continue.", "go on"), ("never mind", "cancel"), ("slow down", "slower"),
        ("faster please", "faster"), ("put it back", "put back"),
    ],
)  # fmt: skip
def test_a_few_words_are_for_the_agent(text, kind):
    assert understand(text, RED) == Said(kind)


@pytest.mark.parametrize("text", ["stop put the red block in the blue bin instead", "wait clear the table"])
def test_sentences_that_begin_like_them_are_for_the_planner(text):
    assert understand(text, RED, "pick up the red block") == Said("instruction", text)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("no, the blue one", "no put the blue block in the green bin"),
        ("not the red one, the blue one", "no put the blue block in the green bin"),
        ("I meant the blue one", "no put the blue block in the green bin"),
        ("no not the green but the blue one", "no put the red block in the blue bin"),
        ("no the blue", "no put the blue block in the green bin"),
    ],
)
def test_another_one_is_put_into_the_instruction(text, whole):
    assert understand(text, RED, "pick up the red block") == Said("instruction", whole)


def test_another_one_of_nothing_is_refused():
    with pytest.raises(UserError, match="no subtask that names one; say it all"):
        understand("no, the blue one", RED, "")
    with pytest.raises(UserError, match="'yellow', which 'clear the table' does not name"):
        understand("no, the blue one", "clear the table", "pick up the yellow block")
    with pytest.raises(UserError, match="expected another word than 'red'"):
        understand("no, the red one", RED, "pick up the red block")


def test_an_order_may_point():
    assert understand("subtask: pick up the red block", RED) == Said("order", "pick up the red block")
    assert understand("subtask:", RED) == Said("order")
    words = understand("subtask: pick up the red block at 50% 25%", RED).text
    assert words == f"pick up the red block {Target(0.25, 0.5).tokens}"
    with pytest.raises(UserError, match="a point below 100% 100%"):
        understand("subtask: pick up the red block at 120% 10%", RED)


def started(*plans, **options) -> tuple[Agent, Script]:
    policy = Script(*(plans or (PICK,)))
    agent = Agent(policy, execute=4, **options)
    agent.reset(RED)
    run(agent, 2)
    return agent, policy


def test_stop_holds_and_go_on_plans_anew():
    agent, policy = started()
    assert agent.say("stop") == "stop" and not agent.needs_observation
    steps = run(agent, 10)
    assert steps[0].events == ("stopped", "held") and not any(s.looked for s in steps)
    assert all((s.action[:6] == 0).all() and s.action[6] == 1.0 for s in steps)  # the grip stays
    assert agent.instruction == RED
    agent.say("go on")
    step = agent.step(OBSERVATION)
    assert step.looked and step.why == ("go on",) and "held" not in step.events


def test_a_new_instruction_ends_a_stop():
    agent, policy = started()
    agent.say("stop")
    run(agent, 2)
    agent.say("clear the table")
    assert agent.step(OBSERVATION).looked and policy.seen[-1][0] == "clear the table"


def test_slower_does_the_same_way_in_more_time():
    agent, _ = started()
    agent.say("slower")
    assert agent.pace == 0.5
    steps = run(agent, 8)
    assert steps[0].events == ("pace 0.5", "planned")  # it looks: the chunk lasts longer now
    assert [round(float(s.action[0]), 2) for s in steps] == [0.0, 0.0, 0.05, 0.05, 0.1, 0.1, 0.15, 0.15]
    assert all(s.action[6] == 1.0 for s in steps)
    agent.say("faster")
    assert agent.pace == 1.0
    with pytest.raises(UserError, match="as fast as it was taught"):
        agent.say("faster")


def test_slower_goes_to_positions_in_smaller_steps():
    agent = Agent(Script(PICK, chunks=[np.arange(1, 11)[:, None] * np.ones(7)]), rest="last")
    agent.reset("go")
    agent.say("slower")
    agent.step(OBSERVATION)
    found = [round(float(agent.step(None).action[0]), 2) for _ in range(5)]
    assert found == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_an_order_stands_until_it_is_given_back():
    agent, policy = started(PICK, PUT)
    agent.order("press the blue button <loc0512><loc0256>")
    steps = run(agent, 12)
    assert agent.ordered and {s.subtask for s in steps} == {agent.plan.text}
    assert agent.plan.origin == "person" and agent.plan.target.y == pytest.approx(0.5, abs=1e-3)
    assert len(policy.seen) == 1  # this planner cannot point: it is not asked
    agent.order(None)
    step = agent.step(OBSERVATION)
    assert "given back" in step.events and step.subtask == PUT.text and not agent.ordered


def test_orders_need_words_and_a_planner_to_replace():
    agent, _ = started()
    with pytest.raises(UserError, match="expected words with the location"):
        agent.order("<loc0512><loc0256>")
    flat = Agent(Script(PICK), "none")
    flat.reset("go")
    with pytest.raises(UserError, match="one that goes by the instruction"):
        flat.order("press the blue button")


def test_put_it_back_puts_what_was_taken_where_it_was_and_stops():
    agent, _ = started(PICK, PUT)
    run(agent, 6)
    assert agent.plan.subtask == PUT.subtask
    agent.say("put it back")
    step = agent.step(OBSERVATION)
    assert step.plan.subtask == "put the red block on the table" and step.plan.target == PICK.target
    agent.policy.chunks = [np.full((10, 7), -1.0)] * 20  # it lets go
    run(agent, 60)
    assert agent.stopped and not agent.ordered


def test_what_is_in_no_hand_is_taken_first_and_what_was_not_taken_stays():
    agent, policy = started(PICK, PUT)
    policy.chunks = [np.full((10, 7), -1.0)]
    run(agent, 6)
    agent.say("put it back")
    assert agent.step(OBSERVATION).plan.subtask == "pick up the red block"
    agent.say("go on")
    assert agent.step(OBSERVATION).plan == PUT and not agent.ordered
    agent, policy = started(PICK)
    policy.chunks = [np.full((10, 7), -1.0)]
    run(agent, 6)
    agent.say("put it back")
    assert agent.stopped and not agent.ordered
    bare = Agent(Script(Plan("press the red button")))
    bare.reset("go")
    run(bare, 2)
    with pytest.raises(UserError, match="something that was picked up"):
        bare.say("put it back")


def test_the_learned_planner_points_for_a_person():
    """Where the shipped planner points with words that it did not choose, against the world's truth."""
    from agent.evaluation.settings import Settings, build
    from backbone.observation import Observation
    from envs.tabletop.commands import point
    from envs.tabletop.commands import understand as command

    env, agent = build(Settings(family="sort"))
    env.begin(1002)
    observation = Observation.from_env(env.look(), env.task_description)
    agent.reset(env.task_description)
    for color in env.world.scene.blocks:
        words = f"pick up the {color} block"
        agent.order(words)
        step = agent.step(observation)
        true = point(env.world, command(words))
        assert step.plan.subtask == words and step.plan.origin == "person"
        assert 128 * np.hypot(step.plan.target.y - true[0], step.plan.target.x - true[1]) < 4
    with pytest.raises(UserError, match="words the agent was taught, got unknown 'banana'"):
        agent.order("pick up the banana")
    env.close()
