"""The loop's rules, against a policy that says what the test tells it to."""

from __future__ import annotations

import numpy as np
import pytest

from agent.loop import Agent
from agent.recorder import Caption, Video, compose
from backbone.errors import UserError
from backbone.observation import Observation
from highlevel.plan import Plan, Target
from lowlevel.controller import ActionChunk

HORIZON = 10
OBSERVATION = Observation({"front": np.zeros((128, 128, 3), np.uint8)}, np.zeros(8, np.float32))


class Script:
    """Plans from a list (the last one repeats; an exception in it is raised); chunks count their actions."""

    action_dim = 7

    def __init__(self, *plans: Plan | Exception, chunks: list | None = None):
        self.plans, self.chunks = list(plans), chunks or []
        self.seen: list[tuple[str, str, Plan | None]] = []
        self.acted: list[str] = []

    def check(self, observation: Observation) -> None:
        observation.check({"front": (128, 128)}, 8)

    def check_subtask(self, text: str) -> None:
        pass

    def check_instruction(self, text: str) -> None:
        if "bonjour" in text:
            raise UserError("instruction: expected English, got 'bonjour'")

    def plan(self, observation, memory, previous):
        self.seen.append((observation.instruction, memory, previous))
        said = self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]
        if isinstance(said, Exception):
            raise said
        return said

    def act(self, observation, subtask, committed=None):
        self.acted.append(subtask)
        made = self.chunks.pop(0) if self.chunks else None
        if isinstance(made, Exception):
            raise made
        if made is None:
            made = np.zeros((HORIZON, 7), np.float32)
            made[:, 0] = np.arange(HORIZON) / 10
            made[:, 6] = 1.0
        return ActionChunk(made, subtask)

    def step(self, observation, memory, previous):
        plan = self.plan(observation, memory, previous)
        return plan, self.act(observation, plan.text)


def run(agent: Agent, ticks: int):
    return [agent.step(OBSERVATION if agent.needs_observation else None) for _ in range(ticks)]


PICK = Plan("pick up the red block", Target(0.25, 0.5), memory="one")
PUT = Plan("put the red block in the drawer", Target(0.5, 0.5), memory="two")
DONE = Plan("done", memory="two", done=True)


def test_looks_every_execute_ticks_and_needs_no_picture_between():
    policy = Script(PICK, PUT)
    agent = Agent(policy, execute=4)
    agent.reset("put the red block in the drawer")
    steps = run(agent, 9)
    assert [s.looked for s in steps] == [True, False, False, False] * 2 + [True]
    assert [round(float(s.action[0]), 1) for s in steps] == [0.0, 0.1, 0.2, 0.3] * 2 + [0.0]
    assert {s.subtask for s in steps[:4]} == {PICK.text} and {s.subtask for s in steps[4:]} == {PUT.text}
    assert "<loc0256><loc0512>" in steps[0].subtask
    assert steps[4].events == ("replanned",) and steps[8].events == ("planned",)
    # the planner was given the memory it had written
    assert [memory for _, memory, _ in policy.seen] == ["", "one", "two"]
    assert [previous for _, _, previous in policy.seen] == [None, PICK, PUT]


def test_execute_is_cut_to_the_chunk():
    agent = Agent(Script(PICK), execute=50)
    agent.reset("go")
    assert sum(s.looked for s in run(agent, 21)) == 3


def test_the_first_tick_needs_an_observation():
    agent = Agent(Script(PICK))
    with pytest.raises(UserError, match="reset"):
        agent.step(OBSERVATION)
    agent.reset("go")
    with pytest.raises(UserError, match="expected an observation"):
        agent.step(None)


def test_say_drops_plan_and_chunk_at_the_next_tick():
    policy = Script(PICK)
    agent = Agent(policy)
    agent.reset("put the red block away")
    first = run(agent, 3)
    agent.say("no the blue one")
    assert agent.needs_observation
    step = agent.step(OBSERVATION)
    assert step.looked and step.revision == first[0].revision + 1
    assert step.events[0] == "corrected"
    assert policy.seen[-1][0] == "no put the blue block away"
    assert policy.seen[-1][2] is None  # nothing of the old plan is confirmed
    assert policy.seen[-1][1] == "one"  # what happened has still happened


def test_done_counts_when_said_twice():
    policy = Script(PICK, DONE, PICK, DONE, DONE)
    agent = Agent(policy, execute=1)
    agent.reset("go")
    steps = run(agent, 6)
    assert [s.done for s in steps] == [False, False, False, False, True, True]
    # at the first "done" the last subtask goes on
    assert [s.subtask for s in steps] == [PICK.text] * 4 + ["done"] * 2
    assert steps[1].said == DONE and steps[1].plan == PICK
    assert ["done" in s.events for s in steps] == [False] * 4 + [True, False]


def test_failing_planner_keeps_the_last_subtask():
    policy = Script(PICK, RuntimeError("lost"))
    agent = Agent(policy, execute=2)
    agent.reset("go")
    steps = run(agent, 6)
    assert {s.subtask for s in steps} == {PICK.text} and not any("held" in s.events for s in steps)
    assert steps[2].events == ("planner failed: RuntimeError: lost",) and steps[2].said is None
    assert agent.failures == 2


@pytest.mark.parametrize("garbage", [Plan("  ", memory="the the"), UserError("subtask: too long")])
def test_a_garbled_plan_keeps_the_last_subtask_and_is_no_software_error(garbage):
    agent = Agent(Script(PICK, garbage), execute=2)
    agent.reset("go")
    steps = run(agent, 6)
    assert {s.subtask for s in steps} == {PICK.text} and agent.memory == "one"
    assert steps[2].events[0].startswith("planner garbled") and agent.failures == 0


def test_failing_planner_without_a_subtask_holds():
    agent = Agent(Script(RuntimeError("lost")))
    agent.reset("go")
    step = agent.step(OBSERVATION)
    assert not step.action.any() and step.action.shape == (7,) and "held" in step.events


@pytest.mark.parametrize("fault", [RuntimeError("no"), np.full((HORIZON, 7), np.nan, np.float32)])
def test_failing_controller_finishes_its_chunk_then_holds_then_acts_again(fault):
    policy = Script(PICK, chunks=[None, fault])
    agent = Agent(policy, controller=policy, execute=8)
    agent.reset("go")
    steps = run(agent, 13)
    assert [round(float(s.action[0]), 1) for s in steps[8:10]] == [0.8, 0.9]  # the rest of the old chunk
    held = steps[10:12]
    assert all("held" in s.events and not s.action[:6].any() and s.action[6] == 1.0 for s in held)
    assert steps[8].events[-1].startswith("controller failed") and steps[12].events == ("planned",)
    assert steps[12].action[6] == 1.0 and "held" not in steps[12].events  # it acts again
    assert all(np.isfinite(s.action).all() for s in steps)


def test_wrong_observation_is_the_callers_to_mend():
    agent = Agent(Script(PICK))
    agent.reset("go")
    with pytest.raises(UserError, match="camera 'front'"):
        agent.step(Observation({}, np.zeros(8, np.float32)))
    with pytest.raises(UserError, match="finite"):
        agent.step(Observation(OBSERVATION.images, np.full(8, np.nan, np.float32)))
    with pytest.raises(UserError, match="pixels"):
        agent.step({"image": 1})


def test_without_a_planner_the_instruction_is_the_subtask():
    policy = Script(PICK)
    agent = Agent(policy, planner="none")
    agent.reset("put the red block in the drawer")
    step = agent.step(OBSERVATION)
    assert step.subtask == "put the red block in the drawer" and step.plan.origin == "instruction"
    assert policy.seen == []


def test_any_planner_drives_any_controller():
    class Person:
        def plan(self, observation, instruction, memory, previous):
            return Plan("open the drawer", origin="person")

    policy = Script(PICK)
    agent = Agent(policy, planner=Person())
    agent.reset("go")
    assert agent.step(OBSERVATION).subtask == "open the drawer" and policy.acted == ["open the drawer"]


@pytest.mark.parametrize("words", ["", "   ", None, "bonjour bloc rouge"])
def test_instructions_that_nobody_can_follow(words):
    agent = Agent(Script(PICK))
    with pytest.raises(UserError, match="instruction: expected"):
        agent.reset(words)


def test_options_that_make_no_sense():
    with pytest.raises(UserError, match="planner"):
        Agent(Script(PICK), planner="clever")
    with pytest.raises(UserError, match="execute"):
        Agent(Script(PICK), execute=0)


def test_video_frames_carry_the_words(tmp_path):
    import av

    view = np.full((480, 640, 3), 200, np.uint8)
    pixels = {"front": np.zeros((128, 128, 3), np.uint8), "wrist": np.zeros((64, 64, 3), np.uint8)}
    bare = compose(view, pixels, Caption("go", "open the drawer"))
    words = Caption("go " * 80, "open the drawer", "red left", (0.5, 0.5), 1.0, 0.5, success=True)
    marked = compose(view, pixels, words)
    assert bare.shape == marked.shape and bare.shape[0] % 2 == 0 and bare.shape[1] % 2 == 0
    assert (bare[:480, 640:] != marked[:480, 640:]).any(), "the point is drawn on the front camera"
    assert (bare[480:] != marked[480:]).any()
    with Video(tmp_path / "a.mp4") as video:
        for _ in range(12):
            video.add(marked)
    with av.open(str(tmp_path / "a.mp4")) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.height == bare.shape[0]
        assert sum(1 for _ in film.decode(stream)) == 12
    with pytest.raises(UserError, match="frame"), Video(tmp_path / "b.mp4"):
        pass
