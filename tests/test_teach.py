"""A person takes the arm over and hands it back: whose actions count when, what is written down of it."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from test_agent import DONE, PICK, PUT, Script, run
from test_live import HAND, Still

from agent import live
from agent.evaluation.episode import run_episode
from agent.evaluation.recorded import who
from agent.evaluation.settings import Settings, build
from agent.loop import Agent
from agent.oracle import GuideTeleop
from agent.recording import Recording, Run
from agent.recording.columns import TABLETOP
from agent.recording.dataset import data_path
from agent.recording.replay import replay, replay_agent
from agent.recording.robot import RecordedRobot
from agent.recording.runs import RunReader, RunWriter
from agent.safety import Safety
from agent.teach import Nobody, Taught
from agent.teleop import Keyboard
from backbone.errors import UserError
from envs.errors import WorldError

NAMES = TABLETOP.action


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Leader:
    """A device that stands where the test puts it; an exception is raised."""

    def __init__(self, names=NAMES):
        self.at: dict | Exception = dict.fromkeys(names, 0.0)
        self.action_features = dict.fromkeys(names, float)
        self.connected = False

    def connect(self) -> None:
        self.connected = True

    def disconnect(self) -> None:
        self.connected = False

    def get_action(self):
        if isinstance(self.at, Exception):
            raise self.at
        return self.at


def taught(*plans, device=None, **options) -> tuple[Taught, Leader]:
    device = device or Leader()
    found = Taught(Agent(Script(*plans), execute=4), device, **options)
    found.reset("put the red block in the drawer")
    return found, device


# -- whose turn it is


def test_while_a_person_drives_only_the_teleop_counts_and_afterwards_it_looks_anew():
    agent, device = taught(PICK, PUT)
    before = run(agent, 6)
    asked = len(agent.policy.seen)
    device.at |= {"dx": 0.25, "gripper": 1.0}
    agent.take_over()
    agent.say("subtask: press the red button at 40% 62%")
    during = run(agent, 10)
    assert len(agent.policy.seen) == asked and not agent.needs_observation
    assert during[0].events == ("taken over",) and not any(s.events for s in during[1:])
    assert all(s.person and s.action[0] == 0.25 and s.plan.origin == "person" for s in during)
    assert {s.plan.subtask for s in during} == {"press the red button"}
    assert abs(during[0].plan.target.x - 0.40) < 1e-2 and abs(during[0].plan.target.y - 0.62) < 1e-2
    assert {s.plan.memory for s in during} == {"two"}, "the agent's, kept"
    agent.hand_back()
    after = run(agent, 2)
    assert after[0].looked and after[0].why == ("handed back",) and after[0].events[0] == "handed back"
    assert not after[0].person and after[0].subtask == PUT.text
    instruction, memory, previous = agent.policy.seen[-1]
    assert (instruction, memory, previous) == ("put the red block in the drawer", "two", None)
    assert before[-1].revision < after[0].revision


def test_an_order_in_force_is_what_is_shown_and_typed_words_hold_until_changed():
    agent, _ = taught(PICK)
    run(agent, 2)
    agent.say("subtask: open the drawer")
    run(agent, 2)
    agent.say("take over")
    assert run(agent, 3)[-1].plan.subtask == "open the drawer"
    agent.say("subtask: close the drawer")
    agent.say("memory: opened it")
    steps = run(agent, 3)
    assert {s.plan.text for s in steps} == {"close the drawer"} and steps[0].plan.memory == "opened it"
    agent.say("subtask:")
    assert run(agent, 1)[0].plan.subtask == ""
    agent.say("hand back")
    assert run(agent, 1)[0].plan.subtask == PICK.subtask and agent.policy.seen[-1][1] == "opened it"
    agent.take_over()
    assert run(agent, 1)[0].plan.subtask == "", "words of an earlier turn are over"
    with pytest.raises(UserError, match="expected words with the location"):
        agent.say("subtask: at 10% 10%")


def test_done_and_giving_up_do_not_count_while_a_person_drives():
    agent, _ = taught(DONE)
    run(agent, 8)
    assert agent.done
    agent.take_over()
    assert not any(s.done for s in run(agent, 12)) and not agent.done
    agent.hand_back()
    run(agent, 2)
    assert not agent.done, "it has to be said twice again"


def test_a_device_that_fails_holds_the_arm_and_says_so_once():
    agent, device = taught(PICK, driving=True)
    device.at |= {"dx": 0.5, "gripper": 1.0}
    assert run(agent, 2)[0].events == ("taken over",)
    device.at = OSError("cable")
    steps = run(agent, 3)
    assert [s.events for s in steps] == [("teleop failed: OSError: cable", "held"), ("held",), ("held",)]
    assert all(s.person and s.action.tolist() == [0] * 6 + [1] for s in steps), "never the old action"
    device.at = {"dx": 0.1}
    assert run(agent, 1)[0].events == ("held",)  # no whole action
    device.at = dict.fromkeys(NAMES, 0.1)
    assert run(agent, 1)[0].events == ("teleop back",)
    for wrong, words in (({"dx": np.nan}, "finite"), ({"dx": "far"}, "expected numbers")):
        device.at = dict.fromkeys(NAMES, 0.1) | wrong
        assert words in run(agent, 1)[0].events[0]
        device.at = dict.fromkeys(NAMES, 0.1)
        run(agent, 1)
    with pytest.raises(UserError, match="expected the names of its numbers"):
        Taught(agent.agent, Still())


def test_who_moves_the_device_has_the_arm_until_it_rests():
    agent, device = taught(PICK, moves=0.2, rests=0.2)
    device.at |= {"dz": 0.15}  # it lies somewhere
    assert not any(s.person for s in run(agent, 3))
    device.at = device.at | {"dz": 0.25}
    assert not any(s.person for s in run(agent, 3)), "a nudge"
    device.at = device.at | {"dz": 0.5}
    steps = run(agent, 7)
    assert [s.person for s in steps] == [True] * 4 + [False] * 3
    assert not any(s.person for s in run(agent, 5)), "where it was let go is where it rests"


def test_other_names_and_lerobots_two_ways_to_tell_them():
    device = Leader(("delta_x", "grip"))
    device.action_features = {"dtype": "float32", "shape": (2,), "names": {"delta_x": 0, "grip": 1}}
    agent = Taught(Agent(Script(PICK)), device)
    assert agent.names == ("delta_x", "grip")
    device.at = {"delta_x": 0.5, "grip": 1.0, "more": 3}
    agent, _ = taught(
        PICK, device=device, names=("x", "g"), called={"x": "delta_x", "g": "grip"}, driving=True
    )
    assert run(agent, 1)[0].action.tolist() == [0.5, 1.0]


class Degrees(Leader):
    """As LeRobot's leader arms: the robot's own names and units."""

    def __init__(self, gain: float):
        super().__init__(("elbow.pos", "grip.pos"))
        self.at = {"elbow.pos": gain, "grip.pos": 100.0}


def test_a_robots_teleop_has_the_robots_names_and_units():
    from envs.robots.config import parse
    from examples.run import taught as with_a_teleop

    elbow = {"feature": "elbow.pos", "unit": "degrees"}
    grip = {"feature": "grip.pos", "name": "gripper", "unit": "percent"}
    told = {"robot": "some:Arm", "rate": 20, "state": ["elbow.pos"], "action": [elbow, grip]}
    made = "test_teach:Degrees", {"gain": 90.0}, parse(told, "arm"), None, None, True
    agent = with_a_teleop(Agent(Script(PICK)), *made)
    agent.reset("go")
    assert np.allclose(run(agent, 1)[0].action, [np.pi / 2, 1.0])
    with pytest.raises(WorldError, match="expected LeRobot's Teleoperator interface, got .* without connect"):
        with_a_teleop(Agent(Script(PICK)), "test_live:Still", {}, *made[2:])


def test_a_device_is_connected_and_let_go_whatever_happens():
    device = Leader()
    with pytest.raises(KeyError), Taught(Agent(Script(PICK)), device):
        assert device.connected
        raise KeyError
    assert not device.connected
    device.connect = lambda: (_ for _ in ()).throw(OSError("no such port"))
    with pytest.raises(UserError, match="expected one that connects, got: OSError: no such port"):
        Taught(Agent(Script(PICK)), device).__enter__()


def test_where_there_is_no_policy_the_person_drives_to_the_end():
    device = Leader()
    agent = Taught(Agent(Nobody(7), "none"), device, driving=True, rests=0.1)
    agent.reset("wipe the table")
    assert all(s.person for s in run(agent, 30)), "however long the device rests"
    with pytest.raises(UserError, match="expected a policy to go on, got none"):
        agent.say("hand back")


def test_keys_move_the_hand_for_a_moment():
    keys = Keyboard(NAMES, speed=0.5, lasts=2)
    keys.begin(np.array([0, 0, 0, 0, 0, 0, 1.0]))
    assert keys.get_action()["gripper"] == 1, "as the agent had it"
    assert keys.press("right") and keys.press("w") and not keys.press("k")
    moved = [keys.get_action() for _ in range(3)]
    assert [(m["dy"], m["dz"]) for m in moved] == [(0.5, 0.5)] * 2 + [(0, 0)]
    assert keys.press("g") and keys.get_action()["gripper"] == -1
    assert keys.obey("turn left 3") and not keys.obey("fly")
    assert [keys.get_action()["dyaw"] for _ in range(4)] == [0.5] * 3 + [0]


# -- in real time


def test_a_device_that_hangs_holds_up_nobody():
    freed = threading.Event()

    class Hanging(Leader):
        def get_action(self):
            if len(robot.told) > 8:
                freed.wait(60)
            return {**self.at, "dx": 0.5, "gripper": 1.0}

    robot, agent, seen = Still(), Agent(Script(PICK), clock=live.clock(20)), []
    with Taught(agent, Hanging(), driving=True) as person:
        person.reset("go")
        over = lambda step, tick: seen.append(step) or len([s for s in seen if s.action[0] == 0]) > 4
        live.act_live(person, robot, Safety(HAND), 30, over)
        freed.set()
    actions = np.array([action for _, action in robot.told])
    assert len(seen) > 12 and 0.5 in actions[:, 0]
    assert np.abs(actions[-1, :6]).max() == 0 and actions[-1, 6] == 1
    assert sum(e.startswith("teleop failed: nothing new") for s in seen for e in s.events) == 1


def test_in_real_time_it_looks_anew_after_a_person_and_all_is_recorded(tmp_path):
    robot, agent, device = Still(), Agent(Script(PICK), clock=live.clock(20)), Leader()
    layout = replace(TABLETOP, cameras={"front": (128, 128)})
    person = Taught(agent, device)
    recording = Recording(RunWriter(tmp_path))
    recorded = RecordedRobot(robot, person, recording)
    ticks: list = []

    def watch(step, tick):
        ticks.append(step)
        recorded.watch(step, tick)
        if len(ticks) > 16 and step.subtask == PICK.text:
            return True
        if len(ticks) == 6:
            device.at |= {"dx": 0.5}
            person.take_over()
        if len(ticks) == 14:
            person.hand_back()

    with recording, person:
        recording.begin(Run("robot", "robot", 0, "go", layout, judged=False))
        person.reset("go")
        live.act_live(person, recorded, Safety(HAND), 30, watch)
        assert recording.end() == []
    rows = RunReader(tmp_path).rows(0)
    mine = [t for t, row in enumerate(rows) if row["intervention"]]
    assert mine == list(range(mine[0], mine[-1] + 1)) and len(mine) == 8
    assert {row["acted_by"] for t, row in enumerate(rows) if t in mine} <= {"person", "held"}
    assert "handed back" in json.loads(rows[mine[-1] + 1]["events"])
    assert ticks[-1].subtask == PICK.text and not ticks[-1].person


# -- on the tabletop, and on disk


def corrected(root, seed: int = 2, family: str = "press", first: int = 10, ticks: int = 40):
    """nano works, a scripted person takes over at a tick and hands back later -> (folder, record)."""
    settings = Settings(family=family)
    env, agent = build(settings)
    device = GuideTeleop(env.teacher(), NAMES)
    with Recording(RunWriter(root, who(settings))) as recording, Taught(agent, device) as person:

        def watch(_env, _step, moment) -> None:
            if moment["tick"] == first:
                person.take_over()
            if first <= moment["tick"] < first + ticks:
                for text in device.typed():
                    person.say(text)
            if moment["tick"] == first + ticks:
                person.hand_back()

        record = run_episode(env, person, seed, watch=watch, recording=recording)
        assert recording.end() == []
    env.close()
    return record


def test_what_a_person_showed_is_in_the_dataset(taught_runs):
    root, record = taught_runs
    reader = RunReader(root)
    rows = reader.rows(0)
    assert record["success"] and reader.episodes[0]["interventions"] == 40
    mine = [row for row in rows if row["intervention"]]
    assert [row["intervention"] for row in rows] == [10 <= t < 50 for t in range(len(rows))]
    assert {row["acted_by"] for row in mine} == {"person"} == {row["planned_by"] for row in mine}
    assert all(row["subtask"] and row["target"][0] >= 0 for row in mine if row["subtask"] != "done")
    assert len({row["subtask"] for row in mine}) > 1
    assert json.loads(rows[10]["events"]) == ["taken over"]
    assert json.loads(rows[50]["events"])[0] == "handed back" and rows[50]["looked"]
    assert replay(reader, 0).differs is None, "the actions again"
    with pytest.raises(UserError, match="a person had the arm"):
        replay_agent(reader, 0)


def test_runs_of_before_are_read_and_not_added_to(taught_runs, tmp_path):
    root, _ = taught_runs
    path = data_path(tmp_path, 0)
    path.parent.mkdir(parents=True)
    table = pq.read_table(data_path(root, 0))
    pq.write_table(table.drop_columns(["intervention"]), path)
    reader = RunReader(tmp_path)
    assert not any(row["intervention"] for row in reader.rows(0)) and replay(reader, 0).differs is None
    with pytest.raises(UserError, match="got older ones in .*; choose another folder"):
        RunWriter(tmp_path)
