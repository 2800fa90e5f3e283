"""What is recorded elsewhere: evaluations, each process its own part; robots in real time."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_dataset import check_schema
from test_recording import TEACHER, files_up_to, frame, run_of

from agent import live
from agent.evaluation.episode import limits
from agent.evaluation.runner import evaluate
from agent.evaluation.settings import Settings
from agent.loop import Agent
from agent.policy import load
from agent.recording import Recording, Run
from agent.recording.replay import replay, replay_agent
from agent.recording.robot import RecordedRobot
from agent.recording.runs import RunReader, RunWriter
from agent.safety import Safety
from backbone.errors import UserError
from envs.tabletop.env import TabletopEnv


def test_each_process_records_its_own_part(tmp_path):
    summary = evaluate(TEACHER, range(2), tmp_path / "out", workers=2, record=tmp_path / "runs")
    assert summary["overall"]["successes"] == 2
    parts = [RunReader(path) for path in sorted((tmp_path / "runs").iterdir())]
    assert sorted(e["seed"] for part in parts for e in part.episodes) == [0, 1]
    for part in parts:
        check_schema(part.root)
        assert all(replay(part, n).differs is None for n in range(len(part)))


def test_episodes_side_by_side_are_recorded_apart(tmp_path):
    settings = Settings(family="press", batch=2)
    evaluate(settings, range(2), tmp_path / "out", workers=0, record=tmp_path / "runs")
    runs = RunReader(tmp_path / "runs/part-000")
    assert sorted(e["seed"] for e in runs.episodes) == [0, 1]
    assert all(replay(runs, n).differs is None for n in range(2))
    with pytest.raises(UserError, match="expected an agent that ran by itself, got a batch of 2"):
        replay_agent(runs, 0)


def test_an_evaluation_goes_on_where_its_recording_cannot(tmp_path):
    with files_up_to(60_000):
        evaluate(TEACHER, range(2), tmp_path / "out", workers=0, record=tmp_path / "runs")
    records = [json.loads(line) for line in (tmp_path / "out/episodes.jsonl").read_text().splitlines()]
    assert [record["success"] for record in records] == [True, True]
    assert all(record["recording"] == ["recording stopped: dataset: File too large"] for record in records)
    with pytest.raises(UserError, match="is a dataset itself"):
        (tmp_path / "one/meta").mkdir(parents=True)
        evaluate(TEACHER, range(1), workers=0, record=tmp_path / "one")


def test_a_run_in_real_time_repeats_its_world(tmp_path):
    env = TabletopEnv("core", "press", pixels="lazy")
    env.begin(2)
    agent = Agent(load("nano"), clock=live.clock(20))
    agent.reset(env.task_description)
    with Recording(RunWriter(tmp_path)) as recording:
        recording.begin(Run.of(env, 2))
        robot = RecordedRobot(env, agent, recording)
        live.act_live(agent, robot, Safety(limits(env)), 1.0, robot.watch)
        assert recording.end() == []
    env.close()
    runs = RunReader(tmp_path)
    found = replay(runs, 0)
    assert found.differs is None and found.ticks == robot.ticks >= 15
    with pytest.raises(UserError, match="expected the agent's settings in .*, found none"):
        replay_agent(runs, 0)


class Blinking:
    """A robot whose camera fails in the second tick."""

    def __init__(self):
        self.told: list[np.ndarray] = []

    def look(self):
        if len(self.told) == 1:
            raise OSError("no camera")
        seen = frame(len(self.told))
        return {"pixels": seen.images, "agent_pos": seen.state}

    def step(self, action):
        self.told.append(action)


def test_a_robot_gets_its_actions_whatever_its_camera_does(tmp_path):
    agent = Agent(load("nano"))
    agent.reset("press the red button")
    with Recording(RunWriter(tmp_path)) as recording:
        recording.begin(run_of(0))
        robot = RecordedRobot(Blinking(), agent, recording)
        for tick in range(3):
            robot.step(np.full(7, tick, np.float32))
            robot.watch(frame(tick).step, tick)
        assert recording.end() == []
    rows = RunReader(tmp_path).rows(0)
    assert [row["action"][0] for row in rows] == [0, 1, 2] == [action[0] for action in robot.robot.told]
    assert np.array_equal(rows[1]["observation.state"], rows[0]["observation.state"])
    with pytest.raises(UserError, match="expected a run in a simulated world"):
        replay(RunReader(tmp_path), 0)
