"""An agent here and its networks on the real server: what it does is what it does with them at hand."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("msgpack")
pytest.importorskip("websockets")

from agent.loop import Agent  # noqa: E402
from agent.planners import open_planner  # noqa: E402
from agent.policies import open_policy  # noqa: E402
from agent.policy import load  # noqa: E402
from agent.serving import Serving  # noqa: E402
from agent.serving.background import Background  # noqa: E402
from backbone.errors import PolicyError, UserError  # noqa: E402
from backbone.observation import Observation  # noqa: E402
from envs.tabletop.env import TabletopEnv  # noqa: E402


@pytest.fixture(scope="module")
def served():
    with Background(Serving(port=0)) as server:
        yield server


@pytest.fixture
def env():
    env = TabletopEnv(family="press", pixels="lazy")
    env.begin(3)
    yield env
    env.close()


def act(agent: Agent, env: TabletopEnv, ticks: int, seed: int = 5) -> list:
    env.begin(3)
    agent.reset(env.task_description, seed)
    steps = []
    for _ in range(ticks):
        steps.append(agent.step(env.look() if agent.needs_observation else None))
        env.step(steps[-1].action)
    return steps


def test_both_levels_elsewhere_are_those_at_hand_to_the_bit(served, env):
    here = act(Agent(load("nano")), env, 17)
    with open_policy(served.url) as policy:
        there = act(Agent(policy), env, 17)
        again = act(Agent(policy), env, 9)  # the same seed, the same noise
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one.action, other.action)
        assert (one.subtask, one.events, one.done) == (other.subtask, other.events, other.done)
    said = [(step.said.memory, step.said.origin) for step in here if step.said is not None]
    assert said == [(step.said.memory, step.said.origin) for step in there if step.said is not None]
    assert "confirmed" in {origin for _, origin in said}
    assert all((one.action == other.action).all() for one, other in zip(again, here, strict=False))


def test_a_server_that_was_started_anew_goes_on(env):
    with Background(Serving(port=0)) as server:
        port, policy = server.port, open_policy(server.url)
        agent = Agent(policy)
        before = act(agent, env, 9)
    with Background(Serving(port=port)), policy:
        steps = [agent.step(env.look() if agent.needs_observation else None) for _ in range(8)]
    told = [event for step in steps for event in step.events]
    assert "link back" in told and not any("held" in step.events for step in steps)
    assert steps[-1].subtask.split("<")[0] == before[-1].subtask.split("<")[0]


@pytest.mark.parametrize("apart", [False, True])
def test_a_person_orders_and_the_server_points(served, env, apart):
    policy = load("nano") if apart else open_policy(served.url)
    planner = open_planner(served.url) if apart else "learned"
    agent = Agent(policy, planner, execute=1)
    act(agent, env, 1)
    assert agent.say("subtask: press the red button") == "subtask: press the red button"
    step = agent.step(env.look())
    assert step.plan.origin == "person" and step.plan.target is not None and "ordered" in step.events
    assert step.subtask.startswith("press the red button <loc")
    agent.say("subtask:")
    step = agent.step(env.look())
    assert step.plan.origin in ("decoded", "confirmed") and "given back" in step.events
    assert agent.say("no, press the blue button").startswith("no, press")
    assert "corrected" in agent.step(env.look()).events
    agent.close()


def test_one_that_is_stuck_is_told_the_likeliest_other_plan(served, env):
    env.begin(3)
    seen = Observation.from_env(env.look(), env.task_description)
    here = load("nano").planner
    said = here.plan(seen, seen.instruction, "", None)
    other = here.otherwise(seen, seen.instruction, "", said, [said.subtask])
    assert other.subtask != said.subtask
    with open_policy(served.url) as policy:
        there = policy.planner.otherwise(seen, seen.instruction, "", said, [said.subtask])
        assert (there.text, there.memory) == (other.text, other.memory)
        with pytest.raises(PolicyError, match="refused: expected a list of up to 16 subtasks, got list"):
            policy.planner.otherwise(seen, seen.instruction, "", said, ["a"] * 17)


def test_words_that_nobody_was_taught_are_refused_with_the_servers_reason(served, env):
    with open_policy(served.url) as policy:
        agent = Agent(policy)
        with pytest.raises(PolicyError, match=f"^{served.url}: instruction: expected English words .* 'zyx'"):
            agent.reset("zyx")
            agent.step(env.look())
        with pytest.raises(UserError, match="^ws://.*: memory: this network does not know") as error:
            policy.plan(Observation.from_env(env.look(), "press the red button"), "zyx")
        assert error.type is UserError  # its memory is at fault: the loop gives it an older one
        act(agent, env, 1)


def test_a_robot_without_a_name_is_what_the_checkpoint_was_taught_for(env):
    """LeRobot's names, as many cameras and numbers as there are: nobody has to write them down twice."""
    here = act(Agent(load("nano")), env, 9)
    with Background(Serving(port=0, robot="lerobot")) as server, open_policy(server.url) as policy:
        assert policy.robot == "lerobot" and policy.format.rest == "last"
        assert policy.format.cameras == {f"observation.images.{n}": n for n in ("front", "wrist")}
        there = act(Agent(policy), env, 9)
        with pytest.raises(
            PolicyError, match="expected a server for the robot 'droid', got one for 'lerobot'"
        ):
            open_policy(f"{server.url}?robot=droid")
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one.action, other.action)
