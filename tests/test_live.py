"""Acting in real time, with a real network in threads and a world that does not wait."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from test_agent import OBSERVATION, Script

from agent import live
from agent.beside import Beside
from agent.clock import Clock
from agent.loop import Agent
from agent.policy import load
from agent.safety import Limits, Safety
from backbone.errors import PolicyError, UserError
from envs.tabletop.env import TabletopEnv
from highlevel.plan import Plan
from lowlevel.controller import ActionChunk

HAND = Limits((-1,) * 7, (1,) * 7, (False,) * 6 + (True,), 20)


class Still:
    """A robot that notes when it was told what."""

    def __init__(self):
        self.told: list[tuple[float, np.ndarray]] = []

    def look(self):
        return {"pixels": dict(OBSERVATION.images), "agent_pos": OBSERVATION.state}

    def step(self, action):
        self.told.append((time.perf_counter(), action))


class Slow(Script):
    """Takes its time, in a thread that is not the control loop's."""

    def __init__(self, *plans, seconds: float):
        super().__init__(*plans)
        self.seconds, self.threads = seconds, set()

    def step(self, *given):
        self.threads.add(threading.current_thread().name)
        time.sleep(self.seconds)
        return super().step(*given)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(policy, seconds: float, robot=None, planner="learned", watch=None, controller=None, rate=20.0):
    agent = Agent(policy, planner, controller, clock=live.clock(rate))
    agent.reset("go")
    limits = Limits((-1,) * 7, (1,) * 7, (False,) * 6 + (True,), rate)
    return live.act_live(agent, robot or Still(), Safety(limits), seconds, watch)


def test_the_loop_never_waits_for_thinking():
    robot, slow = Still(), Slow(Plan("go on"), seconds=0.3)
    cadence = run(slow, 1.5, robot)
    assert threading.current_thread().name not in slow.threads and len(slow.threads) == 1
    gaps = np.diff([at for at, _ in robot.told])
    assert np.median(gaps) < 0.15  # though a look takes six ticks of a twentieth of a second
    assert cadence.ticks >= 12
    assert min(cadence.ages) >= 0.25 and cadence.first >= 0.3
    assert sum(cadence.summary()["share"].values()) < 0.5


def test_a_slow_planner_elsewhere_does_not_hold_up_the_hand():
    class Elsewhere:
        asked = 0

        def plan(self, observation, instruction, memory, previous):
            self.asked += 1
            time.sleep(0.5 if self.asked > 1 else 0.0)
            return Plan(f"part {self.asked}")

    subtasks: list[str] = []
    hand = Script(Plan("unused"))
    cadence = run(hand, 1.6, planner=Elsewhere(), watch=lambda step, tick: subtasks.append(step.subtask))
    assert len(hand.acted) >= 3 and cadence.held == 0  # it goes by the plan that it has
    assert list(dict.fromkeys(s for s in subtasks if s))[:3] == ["part 1", "part 2", "part 3"]


def test_a_failing_side_never_stops_the_other():
    class Broken:
        asked = 0

        def plan(self, observation, instruction, memory, previous):
            self.asked += 1
            if self.asked > 1:
                raise PolicyError("the line is down")
            return Plan("go on")

    events: list[str] = []
    hand = Script(Plan("unused"))
    cadence = run(hand, 1.0, planner=Broken(), watch=lambda step, tick: events.extend(step.events))
    assert any("planner garbled: the line is down" in e for e in events)
    assert cadence.held == 0 and len(hand.acted) >= 2 and "go on" in hand.acted


def test_who_is_quick_enough_is_not_late():
    quick = Slow(Plan("go on"), seconds=0.01)
    steps: list = []
    cadence = run(quick, 2.0, watch=lambda step, tick: steps.append(step) is not None and tick > 9, rate=5.0)
    assert steps[0].said is not None and set(cadence.ages) == {0.0} and cadence.held == 0


def test_what_was_asked_under_an_old_instruction_is_dropped():
    slow = Slow(Plan("one"), Plan("two"), seconds=0.2)
    agent = Agent(slow, clock=live.clock(20))
    agent.reset("go")
    steps: list = []

    def watch(step, tick):
        steps.append(step)
        if len(steps) == 2:
            agent.say("no, this")

    live.act_live(agent, Still(), Safety(HAND), 0.6, watch)
    assert any("late both dropped" in s.events for s in steps)
    assert "one" not in {s.subtask for s in steps} and steps[-1].subtask == "two"


def test_an_old_episode_is_not_heard_in_the_next():
    slow = Slow(Plan("old"), Plan("new"), seconds=0.3)
    agent = Agent(slow, clock=live.clock(20))
    agent.reset("go")
    agent.step(OBSERVATION)
    agent.reset("go again")
    steps: list = []
    live.act_live(agent, Still(), Safety(HAND), 0.3, lambda step, tick: steps.append(step) is not None)
    assert "old" not in {s.subtask for s in steps} and steps[-1].subtask == "new"


def test_nano_acts_in_real_time():
    env = TabletopEnv(family="press", pixels="lazy")
    env.begin(3)
    agent = Agent(load("nano"), clock=live.clock(20))
    agent.reset(env.task_description)
    where = [env.world.eef_pos()]
    cadence = live.act_live(
        agent, env, Safety(HAND), 2.0, lambda step, tick: where.append(env.world.eef_pos()) is not None
    )
    env.close()
    told = cadence.summary()
    assert agent.failures == 0 and np.linalg.norm(where[-1] - where[0]) > 0.02
    assert told["ticks"] >= 10 and 5 < told["hertz"] <= 21


def test_whatever_ends_it_brakes_the_robot():
    class Fast(Script):
        def act(self, observation, subtask):
            return ActionChunk(np.ones((10, 7), np.float32), subtask)

        def step(self, observation, memory="", previous=None):
            return Plan("go on"), self.act(observation, "go on")

    def interrupt(step, tick):
        if tick == 12:
            raise KeyboardInterrupt

    limits = Limits((-1,) * 7, (1,) * 7, (False,) * 6 + (True,), 20, acceleration=(5,) * 7)
    robot, safety = Still(), Safety(limits)
    agent = Agent(Fast(), clock=live.clock(20))
    agent.reset("go")
    with pytest.raises(KeyboardInterrupt):
        live.act_live(agent, robot, safety, 9.0, interrupt)
    sent = np.array([action for _, action in robot.told])
    assert sent[-5, 0] > 0.5 and np.abs(sent[-1, :6]).max() == 0 and sent[-1, 6] == sent[-5, 6]
    assert np.abs(np.diff(sent[:, 0])).max() <= 0.25 + 1e-6  # braked, within the limits
    assert safety.stopped


def test_what_cannot_be_live():
    with pytest.raises(UserError, match="thinks in threads"):
        live.act_live(Agent(Script(Plan("go on"))), Still(), Safety(HAND), 1.0)
    with pytest.raises(UserError, match="expected 20 a second of this robot, got 50"):
        live.act_live(Agent(Script(Plan("x")), clock=live.clock(50)), Still(), Safety(HAND), 1.0)
    with pytest.raises(UserError, match="expected 'realtime'"):
        Clock(beside=Beside())
    with pytest.raises(UserError, match="expected none beside threads"):
        Clock(True, plan=0.5, beside=Beside())
    agent = Agent(Slow(Plan("x"), seconds=2.0), clock=live.clock(20))
    agent.reset("go")
    with pytest.raises(UserError, match="first plan within 0 s"):
        live.act_live(agent, Still(), Safety(HAND), 1.0, first=0.2)
