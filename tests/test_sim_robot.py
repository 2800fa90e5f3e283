"""The robot that everyone has, and the agent on it: what breaks holds the arm, and it goes on by itself."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from test_agent import Script
from test_hardware import ARM, Arm, fit

from agent import live
from agent.loop import Agent
from agent.operate import Operator
from agent.recording import Recording
from agent.recording.runs import RunReader, RunWriter
from agent.watchdog import Eyes
from backbone.errors import UserError
from envs.errors import WorldError
from envs.hardware import Hardware
from envs.robots.config import parse, read_config
from envs.robots.sim import ACTION, STATE, SimRobot
from highlevel.plan import Plan
from lowlevel.controller import ActionChunk


class Waving(Script):
    """Moves the hand slowly to and fro."""

    def __init__(self):
        super().__init__(Plan("wave"))
        self.way = 1

    def step(self, observation, memory="", previous=None):
        self.way = -1 if observation.state[1] > 0.05 else 1 if observation.state[1] < -0.05 else self.way
        actions = np.zeros((10, 7), np.float32)
        actions[:, 1], actions[:, 6] = 0.3 * self.way, -1
        return Plan("wave"), ActionChunk(actions, "wave")


@pytest.fixture
def robot():
    made = SimRobot(seed=1000)
    yield made
    made.close()


def test_it_is_a_robot_of_lerobots_kind(robot):
    with pytest.raises(ConnectionError, match="not connected"):
        robot.get_observation()
    robot.connect()
    seen = robot.get_observation()
    assert set(seen) == set(robot.observation_features) and isinstance(seen["x"], float)
    for name in ("front", "wrist"):
        assert seen[name].shape == robot.observation_features[name] and seen[name].dtype == np.uint8
    sent = robot.send_action(dict.fromkeys(ACTION, 2.0))
    assert sent == dict.fromkeys(ACTION, 1.0)
    with pytest.raises(WorldError, match="action: expected dx, .* got a difference in 'gripper'"):
        robot.send_action(dict.fromkeys(ACTION[:-1], 0.0))
    with pytest.raises(WorldError, match="finite"):
        robot.send_action(dict.fromkeys(ACTION, np.nan))
    before = robot.instruction
    robot.begin(1001)
    assert robot.instruction != before and not robot.solved
    robot.disconnect()
    with pytest.raises(ConnectionError, match="not connected"):
        robot.send_action(dict.fromkeys(ACTION, 0.0))
    assert STATE[:3] == ("x", "y", "z") and set(robot.demonstrate()) == set(ACTION)


def test_neither_torch_nor_lerobot_is_imported_for_it():
    code = "import sys, envs.robots.sim, envs.hardware; print({'torch', 'lerobot'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_frames_are_late_and_lost_as_asked():
    slow = SimRobot(seed=1000, latency=5.0)
    lossy = SimRobot(seed=1000, drop=0.9)
    for robot in (slow, lossy):
        robot.connect()
    first = slow.get_observation()
    seen = set()
    end = slow.ticks + 8
    while slow.ticks < end:
        slow.send_action(dict.fromkeys(ACTION, 0.0) | {"dx": 0.5})
        seen.add(lossy.get_observation()["front"].tobytes())
        time.sleep(0.02)
    last = slow.get_observation()
    assert np.array_equal(last["front"], first["front"]) and last["x"] > first["x"] + 0.01
    assert len(seen) <= 5
    for robot in (slow, lossy):
        robot.close()
    with pytest.raises(WorldError, match="expected latency and jitter of 0 to 10 s"):
        SimRobot(drop=1.0)


def test_whatever_fails_holds_the_arm_and_it_goes_on_by_itself(tmp_path):
    """Fault after fault in one run: each once it moves, and over when it has been held for some ticks."""
    hardware = Hardware(dataclasses.replace(read_config("sim", {"seed": 1000}), stale=0.3))
    faults = hardware.robot.faults
    left = [faults.freeze, faults.disconnect, faults.hang]
    told: list[list[str]] = []
    held: list[int] = []
    broken, rests = False, 0

    def watch(step, tick):
        nonlocal broken, rests
        if stop := Operator._watch(operator, step, tick):
            return stop
        if told:
            told[-1].extend(step.events)
        rests = 0 if hardware.robot.commanded[:6].any() else rests + 1
        if broken and rests >= 5:
            held.append(rests)
            broken = False
            faults.heal()
        elif not broken and not rests and (not told or "safety back" in told[-1]):
            if not left:
                return True
            told.append([])
            left.pop(0)()
            broken = True
        return tick >= 600

    with hardware, Recording(RunWriter(tmp_path)) as recording:
        operator = Operator(hardware, Agent(Waving(), clock=live.clock(20)), recording)
        operator._watch = watch
        outcome = operator.episode(7, "wave", 60.0, rest=False)
        assert hardware.reconnected == 1 and recording.stopped == []
    assert len(held) == 3 and not left and outcome.cadence.ticks < 600  # each time it moved again
    for events, part in zip(told, ("camera", "robot", "robot"), strict=True):
        assert any(event.startswith(part) for event in events) and f"{part} back" in events, events
    assert "camera frozen: front, wrist" in told[0] and "held: stale" in told[0]
    [episode] = RunReader(tmp_path).episodes
    assert episode["length"] == operator.robot.ticks
    assert (episode["suite"], episode["family"], episode["seed"]) == ("robot", "sim", 7)


def test_eyes_believe_no_picture_that_stays_while_the_arm_moves():
    picture, at = np.zeros((4, 4, 3), np.uint8), [0.0]
    look = lambda: {"pixels": {"front": picture}, "agent_pos": np.array(at), "time": clock[0]}
    clock = [0.0]
    eyes = Eyes(look, frozen=2, motion=0.01, again=False)
    for tick in range(30):  # nothing moves: nothing has to change
        clock[0] = tick
        eyes.look("go", tick)
        assert eyes.sure == tick
    at[0] = 0.02
    clock[0] = 30
    eyes.look("go", 30)
    assert eyes.sure == 29  # since then it may be old
    for tick in range(31, 90):
        with pytest.raises(UserError, match="camera frozen: front"):
            eyes.look("go", tick)
        assert eyes.sure == -np.inf
    picture = picture + np.uint8(1)
    clock[0] = 90
    eyes.look("go", 90)
    assert eyes.sure == 90


def test_a_person_stands_beside_it_and_the_run_is_kept_when_it_is_ended(tmp_path, monkeypatch, capsys):
    from steersman.cli import main

    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(os.fdopen(reading, "rb")))

    def person():
        until_there = time.perf_counter() + 30
        while "> " not in capsys_text() and time.perf_counter() < until_there:
            time.sleep(0.05)
        os.write(writing, b"stop\nfly\ngo on\n")
        time.sleep(0.6)
        os.kill(os.getpid(), signal.SIGTERM)

    seen: list[str] = []

    def capsys_text() -> str:
        seen.append(capsys.readouterr().out)
        return "".join(seen)

    thread = threading.Thread(target=person)
    thread.start()
    with pytest.raises(SystemExit) as ended:
        main(["run", "--robot", "sim", "--seed", "1000", "--no-rest", "--record", str(tmp_path)])
    thread.join()
    os.close(writing)
    out = capsys_text()
    assert ended.value.code == 128 + signal.SIGTERM
    assert "sim 1000: i want the blue cube in the shut drawer" in out
    assert "* stop" in out and "* go on" in out and "! instruction: expected English words" in out
    runs = RunReader(tmp_path)
    told = runs.episodes[0]["run"]["inputs"]
    assert [item["text"] for item in told] == ["stop", "go on"] and len(runs.rows(0)) > 5


def test_what_does_not_fit_is_told_before_anything_moves():
    from examples.run import build, main

    hardware = Hardware(parse(ARM, "arm"), Arm(), fit)
    with pytest.raises(UserError, match="expected a controller of 2 numbers for this robot, got 7"):
        build(Waving(), "nano", "learned", 8, hardware, {})
    with pytest.raises(UserError, match="planner: expected learned, none, .* got 'oracle'"):
        build(object(), "nano", "oracle", 8, hardware, {})
    with pytest.raises(UserError, match="set: expected KEY=VALUE, got 'latency'"):
        main(set=("latency",))
    with pytest.raises(WorldError, match="unknown suite 'nowhere'"):
        main(set=("suite=nowhere",))
