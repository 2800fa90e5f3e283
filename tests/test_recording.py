"""Runs on disk: what is written, what recording leaves alone, kills, full disks, and who may learn of it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from test_dataset import ROOT, check_schema, fake_episode

from agent.evaluation.episode import run_episode
from agent.evaluation.recorded import who
from agent.evaluation.settings import Settings, build
from agent.recording import Recording, Run
from agent.recording.columns import TABLETOP, decode_png
from agent.recording.dataset import data_path
from agent.recording.film import FilmWriter
from agent.recording.recording import Frame
from agent.recording.replay import replay, replay_agent
from agent.recording.runs import RunReader, Runs, RunWriter
from agent.step import Step
from backbone.errors import UserError
from highlevel.plan import Plan, Target
from training.dataset import DatasetReader, DatasetWriter
from training.lerobot import LeRobotDataset
from training.prepare import open_datasets

NANO = Settings(family="press")
TEACHER = Settings(family="press", planner="oracle", controller="teacher")
PLAN = Plan("press the red button", Target(0.25, 0.5), "pressed blue", margin=1.5)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def world():
    env, agent = build(NANO)
    yield env, agent
    env.close()


@pytest.fixture(scope="module")
def recorded(world, tmp_path_factory):
    """(folder, record) of the shipped agent's run of one seed."""
    root = tmp_path_factory.mktemp("recorded") / "runs"
    with Recording(RunWriter(root, who(NANO))) as recording:
        record = run_episode(*world, 2, recording=recording)
        assert recording.end() == []
    return root, record


def run_of(seed: int, **more) -> Run:
    start = {"suite": "core", "family": "press", "instruction": "press the red button", "layout": TABLETOP}
    return Run(seed=seed, **start | more)


def frame(tick: int, images: bool = True, success: bool = False, events: tuple[str, ...] = ()) -> Frame:
    rng = np.random.default_rng(tick)
    seen = {"front": (128, 128, 3), "wrist": (64, 64, 3)}
    pictures = {name: rng.integers(0, 255, shape, dtype=np.uint8) for name, shape in seen.items()}
    step = Step(np.zeros(7, np.float32), PLAN.text, PLAN, events)
    told = {"instruction": "press the red button", "progress": tick / 10, "success": success}
    state, action = rng.normal(size=8).astype(np.float32), rng.normal(size=7).astype(np.float32)
    return Frame(tick, pictures if images else None, state, action, step, **told, after=state)


def write(recording: Recording, seed: int, ticks: int = 6, success: bool = True) -> list[str]:
    recording.begin(run_of(seed))
    for tick in range(ticks):
        recording.add(frame(tick, success=success and tick == ticks - 1))
    return recording.end()


# -- what is written


def test_recording_changes_nothing(world, recorded):
    seen = []
    again = run_episode(*world, 2, watch=lambda env, step, moment: seen.append((step.action, env.state())))
    root, record = recorded
    rows = RunReader(root).rows(0)
    assert len(rows) == len(seen) == record["steps"] == again["steps"]
    for t, (action, after) in enumerate(seen):
        assert np.array_equal(rows[t]["action"], np.clip(action, -1, 1)), "as it was sent"
        assert t + 1 == len(rows) or np.array_equal(rows[t + 1]["observation.state"], after)
    same = ("initial_state", "success", "subtasks", "progress_steps", "instructions")
    assert all(record[name] == again[name] for name in same)


def test_frames_say_what_was_planned_by_whom_and_what_happened(recorded):
    root, record = recorded
    check_schema(root)
    runs = RunReader(root)
    rows, about = runs.rows(0), runs.episodes[0]
    table = pq.read_table(data_path(root, 0))
    assert about["success"] and about["run"]["settings"]["family"] == "press"
    assert list(dict.fromkeys(row["subtask"] for row in rows)) == list(
        dict.fromkeys(subtask["text"] for subtask in record["subtasks"])
    )
    looks = [look["tick"] for look in record["looks"]]
    assert [t for t, row in enumerate(rows) if row["looked"]] == looks
    assert {row["planned_by"] for row in rows} == {"decoded", "confirmed"}
    assert {row["acted_by"] for row in rows} == {"learned"}
    assert json.loads(rows[0]["events"]) == ["replanned"] and rows[0]["margin"] > 0
    assert (rows[0]["target"] >= 0).all()
    assert sum(table["next.reward"].to_pylist()) == pytest.approx(1.0)
    assert table["next.done"].to_pylist() == [False] * (len(rows) - 1) + [True]
    first = decode_png(table["observation.images.front"][0].as_py()["bytes"])
    later = decode_png(table["observation.images.front"][60].as_py()["bytes"])
    assert first.shape == (128, 128, 3) and (first != later).any()


def test_pictures_are_kept_exactly_and_repeated_where_nobody_looked(tmp_path):
    with Recording(RunWriter(tmp_path / "runs")) as recording:
        recording.begin(run_of(0))
        for tick in range(3):
            recording.add(frame(tick, images=tick != 1, events=("held",) if tick == 1 else ()))
        recording.told("push", "red")
        recording.end()
    column = pq.read_table(data_path(tmp_path / "runs", 0))["observation.images.wrist"].to_pylist()
    pictures = [decode_png(row["bytes"]) for row in column]
    assert np.array_equal(pictures[2], frame(2).images["wrist"])
    assert np.array_equal(pictures[1], pictures[0]) and not np.array_equal(pictures[2], pictures[0])
    runs = RunReader(tmp_path / "runs")
    assert [row["acted_by"] for row in runs.rows(0)] == ["", "held", ""]
    assert runs.rows(0)[0]["target"].tolist() == [0.25, 0.5]
    assert runs.episodes[0]["run"]["inputs"] == [{"tick": 3, "what": "push", "text": "red"}]


def test_a_run_that_is_not_ended_is_not_kept(tmp_path):
    with Recording(RunWriter(tmp_path), FilmWriter(tmp_path)) as recording:
        film = recording.writers[1]
        recording.begin(run_of(0))
        recording.begin(run_of(1))  # instead
        recording.drop()
        assert film.name == "video" and recording.stopped == []
    with pytest.raises(UserError, match="found none"):
        RunReader(tmp_path)
    assert not list(tmp_path.glob("**/*.part")) and not list(tmp_path.glob("*.mp4"))


def test_a_rerun_file_is_whole(tmp_path):
    pytest.importorskip("rerun")
    from agent.recording.rerun_file import RerunWriter

    with Recording(RerunWriter(tmp_path)) as recording:
        assert write(recording, 3) == []
        recording.begin(run_of(4))
        recording.add(frame(0))  # and is left there
    assert [path.name for path in tmp_path.iterdir()] == ["episode-3.rrd"]
    rerun = Path(sys.executable).with_name("rerun")
    done = subprocess.run(
        [rerun, "rrd", "verify", tmp_path / "episode-3.rrd"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    shown = subprocess.run(
        [rerun, "rrd", "stats", tmp_path / "episode-3.rrd"], capture_output=True, text=True
    )
    assert all(f"/{name}: " in shown.stdout for name in ("camera/front", "state", "margin", "subtask"))


# -- again


def test_worlds_and_agents_repeat_and_what_differs_is_named(recorded, tmp_path):
    root, record = recorded
    runs = RunReader(root)
    for again in (replay, replay_agent):
        assert again(runs, 0).differs is None and again(runs, 0).ticks == record["steps"]
    path = data_path(tmp_path, 0)
    path.parent.mkdir(parents=True)
    table = pq.read_table(data_path(root, 0))
    column = table.schema.get_field_index("action")
    values = table["action"].to_pylist()
    values[40][0] += 0.01
    changed = pa.array(values, table.schema.field(column).type)
    pq.write_table(table.set_column(column, table.field(column), changed), path)
    other = RunReader(tmp_path)
    assert replay(other, 0).ticks == 41 and replay(other, 0).differs.startswith("tick 41: state x ")
    assert replay_agent(other, 0).differs.startswith("tick 40: action [")


def test_what_a_person_says_is_repeated(world, tmp_path):
    env, agent = world
    told = {4: ("order", "press the green button"), 10: ("order", None), 14: ("stop", ""), 18: ("go_on", "")}

    def watch(_env, _step, moment) -> None:
        if moment["tick"] in told:
            what, text = told[moment["tick"]]
            recording.told(what, text)
            getattr(agent, what)(*(() if what in ("stop", "go_on") else (text,)))

    with Recording(RunWriter(tmp_path, who(NANO))) as recording:
        run_episode(env, agent, 2, watch=watch, recording=recording)
        assert recording.end() == []
    runs = RunReader(tmp_path)
    rows = runs.rows(0)
    assert {row["planned_by"] for row in rows} >= {"person", "decoded"}
    assert "stopped" in rows[14]["events"] and rows[15]["acted_by"] == "held"
    assert replay(runs, 0).differs is None and replay_agent(runs, 0).differs is None


def test_a_changed_instruction_is_repeated(tmp_path):
    settings = Settings("correction", "stow", planner="oracle", controller="teacher")
    env, agent = build(settings)
    with Recording(RunWriter(tmp_path, who(settings))) as recording:
        record = run_episode(env, agent, 1, recording=recording)
        recording.end()
    env.close()
    runs = RunReader(tmp_path)
    said = runs.episodes[0]["run"]["instructions"]
    assert [(s["tick"] / 20, s["text"]) for s in said] == [
        (s["time"], s["text"]) for s in record["instructions"]
    ]
    assert len(said) == 2 and "corrected" in runs.rows(0)[said[1]["tick"]]["events"]
    assert replay(runs, 0).differs is None and replay_agent(runs, 0).differs is None


# -- kills, full disks, others


def test_a_killed_run_leaves_whole_episodes_and_the_next_goes_on(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from test_recording import Recording, RunWriter, frame, run_of\n"
        f"recording = Recording(RunWriter({str(tmp_path)!r}))\n"
        "for seed in range(10**6):\n"
        "    recording.begin(run_of(seed))\n"
        "    for tick in range(20):\n"
        "        recording.add(frame(tick, success=True))\n"
        "    assert not recording.end()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)
    try:
        deadline = time.time() + 60
        while not data_path(tmp_path, 3).exists() and time.time() < deadline:
            time.sleep(0.003)
        with pytest.raises(UserError, match="another run is writing in"):
            RunWriter(tmp_path)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    there = len(RunReader(tmp_path))
    assert there >= 4 and all(len(RunReader(tmp_path).rows(n)) == 20 for n in range(there))
    dataset = LeRobotDataset(tmp_path)  # as a reader who knows nothing of us: by meta/ alone
    assert len(dataset.numbers) >= there - 1
    assert dataset.images("front", [len(dataset) - 1])[0].shape == (128, 128, 3)
    with Recording(RunWriter(tmp_path)) as recording:
        assert write(recording, 7) == []
    check_schema(tmp_path)
    assert len(RunReader(tmp_path)) == there + 1 and not list(tmp_path.glob("**/.*.tmp"))


@contextlib.contextmanager
def files_up_to(size: int):
    """No file may grow larger: a write fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_stops_the_recording_and_not_the_run(world, tmp_path):
    told: list[str] = []
    recording = Recording(RunWriter(tmp_path / "runs", who(NANO)), tell=told.append)
    assert write(recording, 0) == []
    with files_up_to(50_000):
        record = run_episode(*world, 2, recording=recording)
        stopped = recording.end()
        assert stopped == told == ["recording stopped: dataset: File too large"]
        assert record["success"] and recording.writers == []
        assert write(recording, 1) == [], "it says so once"
    recording.close()
    assert len(RunReader(tmp_path / "runs")) == 1 and not list(tmp_path.glob("**/.*.tmp"))
    assert len(LeRobotDataset(tmp_path / "runs")) == 6
    with Recording(RunWriter(tmp_path / "runs")) as recording:  # there is room again
        assert write(recording, 2) == []
    check_schema(tmp_path / "runs")


def test_a_full_disk_stops_a_rerun_file(tmp_path):
    pytest.importorskip("rerun")
    from agent.recording.rerun_file import RerunWriter

    with Recording(RerunWriter(tmp_path)) as recording:
        assert write(recording, 0) == []
        with files_up_to(20_000):
            (line,) = write(recording, 1)
    assert line == "recording stopped: rerun file: File too large"
    assert [path.name for path in tmp_path.glob("*.rrd*")] == ["episode-0.rrd"]


def test_folders_that_hold_something_else_are_refused(tmp_path):
    with DatasetWriter(tmp_path / "demonstrations") as writer:
        writer.add(fake_episode(0))
    with pytest.raises(UserError, match="expected runs in .*, got demonstrations"):
        RunWriter(tmp_path / "demonstrations")
    with pytest.raises(UserError, match="expected runs in .*, got demonstrations"):
        RunReader(tmp_path / "demonstrations")
    with Recording(RunWriter(tmp_path / "runs")) as recording:
        write(recording, 0)
        with pytest.raises(UserError, match="expected frames of steersman_tabletop as in .*, got other"):
            recording.begin(run_of(1, layout=TABLETOP.from_dict(TABLETOP.to_dict() | {"robot": "other"})))
        with pytest.raises(UserError, match="another run is writing"):
            Runs(tmp_path / "runs")
    with pytest.raises(UserError, match="expected demonstrations in .*, got runs"):
        DatasetReader(tmp_path / "runs")
    with pytest.raises(UserError, match="expected a folder to write in"):
        RunWriter("/proc/nothing")


def test_training_takes_the_solved_runs_and_only_when_asked(tmp_path):
    with Recording(RunWriter(tmp_path / "runs")) as recording:
        for seed, success in enumerate((True, False, True)):
            write(recording, seed, 5 + seed, success)
    with pytest.raises(UserError, match="expected demonstrations, got an agent's own runs in .*; --own-runs"):
        open_datasets([str(tmp_path / "runs")])
    (dataset,) = open_datasets([str(tmp_path / "runs")], own_runs=True)
    assert dataset.numbers.tolist() == [0, 2] and len(dataset) == 5 + 7
    assert dataset.subtask[0] == PLAN.subtask and dataset.memory[0] == PLAN.memory
    assert np.array_equal(dataset.action[3], frame(3).action)
