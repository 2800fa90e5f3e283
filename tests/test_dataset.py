"""Datasets on disk: the LeRobot v3 schema, resuming, and what a kill leaves behind."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from agent.recording.statistics import describe_images
from backbone.errors import UserError
from training.collect import Recorder, collect, plan_episodes
from training.dataset import DatasetReader, DatasetWriter, data_path, repair
from training.episodes import AGENT, CAMERAS, DISTURBED, TEACHER, Episode, Job, decode_png, encode_png
from training.labels import choose_frames, chunk_labels, past_memory, switch_distance

ROOT = Path(__file__).parent.parent


def fake_episode(seed: int, length: int = 12, family: str = "sort") -> Episode:
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 255, (length, *hw, 3), dtype=np.uint8) for name, hw in CAMERAS.items()}
    colour = ["red", "blue", "green"][seed % 3]
    half = length // 2
    return Episode(
        seed=seed,
        suite="core",
        family=family,
        images={name: [encode_png(i) for i in stack] for name, stack in images.items()},
        state=rng.normal(size=(length, 8)).astype(np.float32),
        action=rng.uniform(-1, 1, (length, 7)).astype(np.float32),
        action_executed=rng.uniform(-1, 1, (length, 7)).astype(np.float32),
        target=rng.random((length, 2)).astype(np.float32),
        driver=rng.integers(0, 2, length),
        success=np.arange(length) == length - 1,
        instruction=[f"put the {colour} block in the red bin"] * length,
        subtask=[f"pick up the {colour} block"] * half + ["done"] * (length - half),
        memory=["nothing"] * length,
        image_stats={name: describe_images(stack) for name, stack in images.items()},
    )


def check_schema(root: Path) -> None:
    """A strict reading of the v3 schema: columns as declared, indices that meet, statistics for every
    number.
    """
    info = json.loads((root / "meta/info.json").read_text())
    tasks = pq.read_table(root / "meta/tasks.parquet")
    episodes = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    stats = json.loads((root / "meta/stats.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["fps"] == 20
    assert tasks["task_index"].to_pylist() == list(range(info["total_tasks"]))
    assert len(episodes) == info["total_episodes"]
    types = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_(), "string": pa.string()}
    start = 0
    for number, row in enumerate(episodes):
        path = root / info["data_path"].format(
            chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
        )
        table = pq.read_table(path)
        assert table.column_names == list(info["features"]), "columns must be exactly the declared features"
        assert (row["episode_index"], row["length"], row["dataset_from_index"]) == (number, len(table), start)
        assert table["index"].to_pylist() == list(range(start, start + len(table)))
        assert set(table["episode_index"].to_pylist()) == {number}
        assert np.allclose(table["timestamp"].to_numpy() * 20, table["frame_index"].to_numpy())
        assert set(table["task_index"].to_pylist()) <= set(range(info["total_tasks"]))
        for name, feature in info["features"].items():
            assert "/" not in name
            column = table[name]
            if feature["dtype"] == "image":
                assert Image.open(io.BytesIO(column[0].as_py()["bytes"])).size == tuple(
                    feature["shape"][1::-1]
                )
                assert np.array(row[f"stats/{name}/mean"]).shape == (3, 1, 1)
                assert "q99" in stats[name]
                continue
            kind = types[feature["dtype"]]
            assert column.type == (kind if feature["shape"] == [1] else pa.list_(kind, feature["shape"][0]))
            if feature["dtype"] != "string":
                assert len(stats[name]["q01"]) == feature["shape"][0]
                assert stats[name]["count"] == [info["total_frames"]]
        start = row["dataset_to_index"]
    assert start == info["total_frames"]


def test_the_files_follow_the_schema_and_read_back(tmp_path):
    with DatasetWriter(tmp_path) as writer:
        for seed in range(3):
            writer.add(fake_episode(seed))
    check_schema(tmp_path)
    want, got = fake_episode(1), DatasetReader(tmp_path).read(1)
    assert got.instruction == want.instruction and got.subtask == want.subtask and got.seed == 1
    assert np.array_equal(got.state, want.state) and np.array_equal(got.driver, want.driver)
    assert np.array_equal(decode_png(got.images["wrist"][3]), decode_png(want.images["wrist"][3]))
    some = DatasetReader(tmp_path).read(1, rows=np.array([5]))
    assert some.images["front"] == [want.images["front"][5]]


def test_resuming_keeps_what_is_there_and_a_stale_meta_is_mended(tmp_path):
    writer = DatasetWriter(tmp_path)
    writer.add(fake_episode(0))
    writer.close()
    writer.add(fake_episode(1))  # and then it dies: meta/ knows of one episode only
    (tmp_path / "data/chunk-000/.file-002.parquet.1.tmp").write_bytes(b"half an episode")
    assert len(DatasetReader(tmp_path)) == 2
    again = DatasetWriter(tmp_path)
    assert again.keys == {"core/sort/0", "core/sort/1"}
    again.add(fake_episode(2))
    again.close()
    check_schema(tmp_path)
    assert not list(tmp_path.glob("**/.*.tmp"))


def test_a_writer_that_is_killed_leaves_whole_episodes(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from test_dataset import fake_episode\n"
        "from training.dataset import DatasetWriter\n"
        f"w = DatasetWriter({str(tmp_path)!r})\n"
        "e = fake_episode(0, 60)\n"
        "for seed in range(10**6):\n"
        "    e.seed = seed; w.add(e)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)
    try:
        deadline = time.time() + 30
        while not data_path(tmp_path, 3).exists() and time.time() < deadline:
            time.sleep(0.003)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    reader = DatasetReader(tmp_path)
    assert len(reader) >= 4
    assert all(len(reader.read(n).images["front"]) == 60 for n in range(len(reader)))
    repair(tmp_path)
    check_schema(tmp_path)


def test_bad_episodes_are_refused_in_one_line(tmp_path):
    writer, episode = DatasetWriter(tmp_path), fake_episode(0)
    episode.memory = episode.memory[:-1]
    with pytest.raises(UserError, match="rows in every column"):
        writer.add(episode)
    with pytest.raises(UserError, match="got none"):
        DatasetReader(tmp_path / "nowhere")
    assert len(writer.episodes) == 0


def test_chunks_stop_at_the_first_frame_that_something_else_drove():
    action = np.arange(8, dtype=np.float32)[:, None] * np.ones(7, np.float32)
    driver = np.array([TEACHER, TEACHER, DISTURBED, TEACHER, TEACHER, AGENT, TEACHER, TEACHER])
    actions, valid = chunk_labels(action, driver, np.zeros(8, int), horizon=4)
    assert valid.sum(1).tolist() == [3, 2, 1, 3, 2, 1, 2, 1]  # the label at the first such frame still counts
    assert actions[0, :, 0].tolist() == [0, 1, 2, 0]


def test_chunks_hold_still_after_their_subtask():
    action = np.ones((6, 7), np.float32) * 0.5
    action[:, -1] = [1, 1, 1, -1, -1, -1]
    subtask = np.array([4, 4, 4, 5, 5, 5])
    driver = np.array([0, 0, 0, DISTURBED, 0, 0])
    actions, valid = chunk_labels(action, driver, subtask, horizon=5)
    assert valid[0].all(), "a hold is right whatever happens afterwards"
    assert actions[0, :, 0].tolist() == [0.5, 0.5, 0.5, 0, 0] and (actions[0, :, -1] == 1).all()
    assert valid[4].tolist() == [True, True, False, False, False], (
        "nobody knows what comes after the last frame"
    )
    actions, valid = chunk_labels(action, driver * 0, subtask, done=5, horizon=5)
    assert valid.all() and actions[5, 4].tolist() == [0] * 6 + [-1]


def test_switches_memory_and_the_choice_of_frames():
    ids = np.array([1, 1, 1, 1, 2, 2, 2])
    assert switch_distance(ids).tolist() == [0, 1, 2, 1, 0, 1, 2]
    assert switch_distance(ids * 0).tolist() == list(range(7))
    assert past_memory(ids, 9, 3)[[0, 4]].tolist() == [[9, 9, 9], [1, 1, 1]]
    distance = switch_distance(np.repeat([0, 1], 60))
    rows = choose_frames(distance, np.random.default_rng(0))
    assert 40 <= len(rows) <= 50 and len(rows) == len(set(rows.tolist()))


def test_an_episode_of_the_real_world_repeats_and_bursts_are_marked():
    recorder = Recorder()
    first = recorder.episode(Job("long", "clear", 3), max_steps=60)
    recorder.episode(Job("perturbed", "stow", 4), max_steps=5)
    again = recorder.episode(Job("long", "clear", 3), max_steps=60)
    assert first.images == again.images and np.array_equal(first.action_executed, again.action_executed)
    assert len(first) == 60 and first.state.shape == (60, 8) and first.suite == "long"
    clean = first.driver == TEACHER
    assert 0 < clean.sum() < 60, "this seed has bursts"
    assert np.array_equal(first.action[clean], first.action_executed[clean])
    assert not np.array_equal(first.action[~clean], first.action_executed[~clean])
    assert ((first.target >= 0) & (first.target < 1)).all()


def test_collecting_again_makes_only_what_is_missing(tmp_path):
    collect(tmp_path, ("core",), episodes=1, families=("stack",), seed=5, workers=0, quiet=True)
    stamp = data_path(tmp_path, 0).stat().st_mtime_ns
    writer = collect(tmp_path, ("core",), episodes=2, families=("stack",), seed=5, workers=1, quiet=True)
    assert (
        writer.keys == {"core/stack/5", "core/stack/6"} and data_path(tmp_path, 0).stat().st_mtime_ns == stamp
    )
    check_schema(tmp_path)
    episode = DatasetReader(tmp_path).read(1)
    assert episode.subtask[-1] == "done" and episode.success[-1]


def test_only_training_seeds_and_suites_are_collected():
    jobs = plan_episodes(("core", "memory"), 8, 100, None)
    assert [j.seed for j in jobs] == list(range(100, 108)) and jobs[1].suite == "memory"
    assert [j.family for j in jobs if j.suite == "memory"] == ["press", "swap"] * 2
    for arguments in (
        (("core",), 1, 10_000_000, None),
        (("unseen",), 1, 0, None),
        (("memory",), 1, 0, ("sort",)),
    ):
        with pytest.raises(UserError, match="expected"):
            plan_episodes(*arguments)
