"""Faults of every kind in a live loop: the shipped agent, its threads, the world, the safety layer."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from test_agent import OBSERVATION, PICK, Script
from test_live import HAND, Still

BENCHMARKS = str(Path(__file__).parents[1] / "benchmarks")
sys.path.insert(0, BENCHMARKS)

import faults as benchmark  # noqa: E402
import injection  # noqa: E402

from agent import live  # noqa: E402
from agent.asks import Ask  # noqa: E402
from agent.beside import LEFT, Beside  # noqa: E402
from agent.loop import Agent  # noqa: E402
from agent.safety import Limits, Safety  # noqa: E402
from agent.sound import line, sound_chunk, sound_plan  # noqa: E402
from agent.watchdog import Eyes, Faults  # noqa: E402
from backbone.errors import UserError  # noqa: E402
from envs.registry import make  # noqa: E402
from highlevel.plan import Plan, Target  # noqa: E402
from lowlevel.controller import ActionChunk  # noqa: E402


@pytest.fixture(scope="module")
def world():
    torch.set_num_threads(1)
    env, injector = make("core", pixels="lazy"), injection.Injector(injection.Draw(), 50.0)
    yield env, injector, benchmark.agents("nano", injector, patience=0.5)
    env.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full is needed")
@pytest.mark.parametrize("kind", [kind for kind in injection.KINDS if kind != "process stopped"])
def test_it_goes_on_and_acts_again(world, kind):
    env, injector, agents = world
    injector.draw = injection.Draw((kind,), 0.1, 0.1, told=kind != "clock jumps")
    injector.done, injector.next, totals = [], time.perf_counter(), Counter()
    benchmark.episode(agents[injection.KINDS.index(kind) % 2], env, injector, 3, 1, 400, 0.5, totals)
    (fault,) = injector.done
    assert totals["violations"] == fault.violations == 0 and totals["bursts"] == 0
    assert fault.acts is not None and fault.acts < 2.0 and fault.anew is not None
    assert fault.noticed or kind == "clock jumps"  # which nobody looks at


def test_a_process_that_was_stopped_is_in_no_hurry():
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as child:
        assert child.stdout.readline() == "moving\n"
        child.send_signal(signal.SIGSTOP)
        time.sleep(0.8)
        child.send_signal(signal.SIGCONT)
        told = json.loads(child.stdout.read())
    sent = np.array(told["sent"])
    gaps, after = np.diff(sent), int(np.diff(sent).argmax()) + 1
    assert gaps.max() > 0.7 and (sent[after:] < sent[after] + 0.5).sum() <= 12  # 20 a second, no more
    assert any(e.startswith("nothing done for 0.") for e in told["events"]) and "clock back" in told["events"]
    assert "held" not in told["last"]


STOPPED = """
import json, time
import numpy as np
from agent import live
from agent.loop import Agent
from agent.safety import Limits, Safety
from highlevel.plan import Plan
from lowlevel.controller import ActionChunk

class Policy:
    action_dim = 7

    def step(self, observation, memory, previous):
        return Plan("go on"), ActionChunk(np.zeros((10, 7), np.float32), "go on")

class Robot:
    sent = []

    def look(self):
        return {"pixels": {"front": np.zeros((8, 8, 3), np.uint8)}, "agent_pos": np.zeros(8, np.float32)}

    def step(self, action):
        self.sent.append(time.perf_counter())

agent, robot, events, last = Agent(Policy(), clock=live.clock(20)), Robot(), [], []
agent.reset("go")
def watch(step, tick):
    if tick == 6:
        print("moving", flush=True)
    events.extend(step.events)
    last[:] = step.events
    return tick == 30
live.act_live(agent, robot, Safety(Limits((-1,) * 7, (1,) * 7, (False,) * 7, 20)), 20, watch)
print(json.dumps({"sent": robot.sent, "events": events, "last": last}))
"""


def shown(value: int, state: float) -> dict:
    picture = np.full((8, 8, 3), value, np.uint8)
    return {"pixels": {"front": picture, "wrist": picture + 1}, "agent_pos": np.full(3, state, np.float32)}


def test_a_frozen_camera_is_one_that_shows_no_motion():
    views: list[dict] = []
    eyes = Eyes(lambda: views[-1], frozen=8)

    def look(tick: int, front: int, wrist: int, state: float) -> None:
        view = shown(front, state)
        view["pixels"]["wrist"] = np.full((8, 8, 3), wrist, np.uint8)
        views.append(view)
        eyes.look("go", tick)

    for tick in range(0, 64, 8):
        look(tick, 5, 5, 0.001 * tick / 8)  # at rest
    look(64, 6, 6, 0.1)
    look(68, 6, 7, 0.2)  # not for long
    with pytest.raises(UserError, match="^camera frozen: front$"):
        look(72, 6, 8, 0.2)
    look(73, 7, 9, 0.2)
    look(81, 7, 9, -0.2)  # half a turn, written the other way round


def test_a_camera_that_does_not_see_the_robot_does_not_hold_it_for_ever():
    at, believed = 0.0, []
    eyes = Eyes(lambda: shown(5, at))
    for tick in range(400):
        try:
            eyes.look("go", tick)
            believed.append(tick)
            at += 0.01  # it moves when it sees
        except UserError:
            pass
    starts = [tick for tick, before in zip(believed[1:], believed, strict=False) if tick - before > 1]
    assert len(starts) == 4 and (np.diff(starts) > 20).all()  # held for 20 ticks, 40, 80, 160


def test_what_is_not_like_the_first_is_not_believed():
    views = [shown(0, 0.0)]
    eyes = Eyes(lambda: views[-1])
    eyes.look("go", 1)
    wrong: dict = {
        "camera missing: wrist": {**shown(1, 0), "pixels": {"front": np.zeros((8, 8, 3), np.uint8)}},
        "expected finite numbers": shown(1, np.nan),
        "expected .3,. float32, got .2,. float32": {**shown(1, 0), "agent_pos": np.zeros(2, np.float32)},
        "float64": {**shown(1, 0), "pixels": dict.fromkeys(("front", "wrist"), np.zeros((8, 8, 3)))},
        "got .'agent_pos'": {"agent_pos": np.zeros(3, np.float32)},
    }
    for tick, (words, view) in enumerate(wrong.items()):
        views.append(view)
        with pytest.raises(UserError, match=words):
            eyes.look("go", tick)
    views.append(shown(2, 0.0))
    seen = eyes.look("go", 9)
    views[-1]["pixels"]["front"][:] = 0  # a driver that writes into it again
    assert (seen.images["front"] == 2).all()


def test_before_it_moves_faults_are_the_callers():
    class NoCamera(Still):
        def look(self):
            raise OSError("no such device")

    class NoArm(Still):
        def step(self, action):
            raise ConnectionError("no arm")

    class Narrow(Script):
        action_dim = 3

        def act(self, observation, subtask, committed=None):
            return ActionChunk(np.zeros((4, 3), np.float32), subtask)

    class Blind(Still):
        def look(self):
            return {"pixels": {}, "agent_pos": OBSERVATION.state}

    def run(robot, policy):
        agent = Agent(policy, clock=live.clock(20))
        agent.reset("go")
        live.act_live(agent, robot, Safety(HAND), 1.0, first=0.3)

    blind = NoCamera()
    with pytest.raises(OSError, match="no such device"):
        run(blind, Script(PICK))
    assert not blind.told  # not even to hold, at joints that nobody knows
    with pytest.raises(ConnectionError):
        run(NoArm(), Script(PICK))
    with pytest.raises(UserError, match="expected 7 numbers of this robot, got .3,."):
        run(Still(), Narrow(PICK))
    with pytest.raises(UserError, match="expected camera 'front'"):
        run(Blind(), Script(PICK))
    with pytest.raises(UserError, match="within 0 s, got none .planner failed: RuntimeError: no GPU"):
        run(Still(), Script(RuntimeError("no GPU")))


def asking(question, heard: list):
    def look():
        try:
            heard.append((yield Ask(question, kind=("who",))))
        except Exception as error:
            heard.append(error)

    return look()


def until(condition) -> None:
    end = time.perf_counter() + 5
    while not condition() and time.perf_counter() < end:
        time.sleep(0.005)
    assert condition()


def test_a_question_that_hangs_is_given_up_and_its_answer_dropped():
    beside, heard, go_on = Beside(patience=0.1, first=0.1), [], threading.Event()

    def ask(question) -> None:
        count = len(heard)
        beside.begin("lane", asking(question, heard))
        until(lambda: (beside.go_on(), len(heard) > count)[1])

    def hang():
        go_on.wait(20)
        return "late"

    ask(hang)
    assert isinstance(heard[0], TimeoutError) and beside.left == 1
    ask(lambda: "in time")
    assert heard[1] == "in time"
    for _ in range(LEFT + 2):
        beside._habits.clear()  # each as if it were the first
        ask(hang)
    assert beside.left == LEFT and "no more are begun" in str(heard[-1])
    go_on.set()
    until(lambda: beside.left == 0)
    beside.go_on()
    ask(lambda: "again")
    assert heard[-1] == "again" and "late" not in heard
    beside.close()


def test_a_level_that_ends_the_program_does_not():
    beside, heard = Beside(), []
    beside.begin("lane", asking(sys.exit, heard))
    until(lambda: (beside.go_on(), heard)[1])
    assert "SystemExit" in str(heard[0])
    beside.close()


def test_a_program_ends_with_a_thread_that_hangs():
    code = (
        "import time\nfrom agent.asks import Ask\nfrom agent.beside import Beside\n"
        "def look():\n    yield Ask(lambda: time.sleep(60))\n"
        "Beside().begin('lane', look())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30)
    assert done.returncode == 0 and not done.stderr


def test_what_no_plan_and_no_chunk_is():
    assert sound_plan(PICK) is PICK
    for wrong in (None, "pick", Plan(3), Plan("go", memory=None), Plan("go", margin="much")):
        with pytest.raises(TypeError):
            sound_plan(wrong)
    for wrong in (
        Plan("a\x1b[2J"),
        Plan("x" * 5000),
        Plan("go", Target(np.nan, 0.5)),
        Plan("go", margin=np.inf),
    ):
        with pytest.raises(UserError):
            sound_plan(wrong)
    good = ActionChunk(np.zeros((2, 7), np.float32), "go")
    assert sound_chunk(good, np.zeros(7)) is good
    assert sound_chunk(ActionChunk([[1, 2]], "go")).actions.dtype == np.float32
    for wrong in ([], [[]], [1.0], [["x"]], [[np.nan]], [[1e300]], [[1, 2], [3]], None, [[1j]]):
        with pytest.raises((TypeError, ValueError, FloatingPointError)):
            sound_chunk(ActionChunk(wrong, "go"))
    with pytest.raises(ValueError, match="shape .H, 7."):
        sound_chunk(ActionChunk(np.zeros((2, 3)), "go"), np.zeros(7))
    assert line(OSError("a\nb\x1b")) == "OSError: a b?" and len(line("x" * 999)) == 200


def test_positions_that_a_robot_did_not_take_are_still_to_be_reached():
    safety = Safety(Limits((-1,), (1,), (True,), 10, speed=(1,), acceleration=(10,)))
    safety.reset((0.0,))
    assert safety([1.0])[0] == pytest.approx(0.1)
    for _ in range(5):
        safety([1.0])
        safety.lost()
    assert safety([1.0])[0] == pytest.approx(0.2)


def test_a_fault_is_told_when_it_begins_and_ends():
    faults = Faults()
    for _ in range(3):
        faults.failed("robot", OSError("gone"))
    faults.failed("camera", UserError("camera missing: front"))
    assert faults.news() == ("robot failed: OSError: gone", "camera missing: front")
    faults.end("robot")
    assert faults.news() == ("robot back",) and faults.count == {"robot": 1, "camera": 1}


def test_a_planner_that_cannot_read_what_it_wrote_gets_what_it_could():
    class Poisoned:
        told: list[str] = []

        def plan(self, observation, instruction, memory, previous):
            self.told.append(memory)
            if "#" in memory:
                raise UserError("memory: expected words")
            return Plan("go", memory="#" if len(self.told) == 2 else f"{memory}a")

    planner = Poisoned()
    agent = Agent(Script(PICK), planner, execute=1)
    agent.reset("go")
    for _ in range(20):
        agent.step(OBSERVATION if agent.needs_observation else None)
    assert planner.told[:6] == ["", "a", "#", "#", "#", "a"] and planner.told[6] == "aa"
