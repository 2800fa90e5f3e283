"""Datasets of other worlds than the tabletop: their layout on disk, and a benchmark's teacher recorded."""

import json
from dataclasses import replace

import numpy as np
import pytest
from test_dataset import fake_episode

from backbone.errors import UserError
from envs.suites import EVALUATION_START
from training.collect import collect
from training.dataset import DatasetReader, DatasetWriter, repair
from training.demonstrations import plan_trials
from training.episodes import Layout, decode_png, encode_png
from training.lerobot import LeRobotDataset

ARM = Layout("an_arm", 50, {"top": (6, 8)}, ("a", "b", "c"), ("u", "v"))


def small_episode(seed: int):
    rng = np.random.default_rng(seed)
    episode = fake_episode(seed)
    length = len(episode)
    pictures = rng.integers(0, 255, (length, 6, 8, 3), dtype=np.uint8)
    return replace(
        episode,
        images={"top": [encode_png(picture) for picture in pictures]},
        state=rng.normal(size=(length, 3)).astype(np.float32),
        action=rng.normal(size=(length, 2)).astype(np.float32),
        action_executed=rng.normal(size=(length, 2)).astype(np.float32),
        image_stats={},
    )


def test_another_layout_is_kept_with_the_episodes(tmp_path):
    with DatasetWriter(tmp_path, ARM) as writer:
        writer.add(small_episode(0))
    (tmp_path / "meta/info.json").unlink()
    repair(tmp_path)  # from the episodes alone
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert (info["fps"], info["robot_type"]) == (50, "an_arm")
    assert info["features"]["observation.images.top"]["shape"] == [6, 8, 3]
    assert info["features"]["action"] == {"dtype": "float32", "shape": [2], "names": ["u", "v"]}
    DatasetWriter(tmp_path, ARM).add(small_episode(1))
    reader = DatasetReader(tmp_path)
    assert reader.read(1).state.shape == (12, 3)
    assert np.array_equal(reader.read(1).action, small_episode(1).action)
    with pytest.raises(UserError, match="expected frames of an_arm"):
        DatasetWriter(tmp_path, replace(ARM, action=("u",)))


def test_worlds_are_not_mixed(tmp_path):
    with pytest.raises(UserError, match="of one world"):
        collect(tmp_path, ("ogbench_scene", "core"), 2)


def test_tasks_take_turns_and_trials_follow():
    tasks = {"one": ("a", "b"), "two": ("c",)}
    jobs = plan_trials(tasks, ("one", "two"), 6, 10, None)
    assert [job.key for job in jobs] == [
        "one/a/10",
        "two/c/10",
        "one/b/10",
        "two/c/11",
        "one/a/11",
        "two/c/12",
    ]
    assert [job.key for job in plan_trials(tasks, ("one",), 2, 0, ["b"])] == ["one/b/0", "one/b/1"]
    for wrong in (dict(seed=-1, families=None), dict(seed=0, families=["z"])):
        with pytest.raises(UserError):
            plan_trials(tasks, ("one",), 1, **wrong)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    pytest.importorskip("ogbench")
    root = tmp_path_factory.mktemp("recorded")
    collect(root, ("ogbench_cube_single",), 1, seed=3, workers=0, quiet=True, drawing="fast")
    return root


def test_a_benchmarks_teacher_is_recorded(recorded):
    from envs.registry import make

    reader, data = DatasetReader(recorded), LeRobotDataset(recorded)
    env = make("ogbench_cube_single", "task1_horizontal", pixels="lazy", drawing="fast")
    env.reset(seed=EVALUATION_START + 3)  # no trial that an evaluation begins with
    first = reader.read(0)
    assert (first.suite, first.family, first.seed) == ("ogbench_cube_single", "task1_horizontal", 3)
    assert np.array_equal(first.state[0], env.look()["agent_pos"])
    assert np.array_equal(decode_png(first.images["front"][0]), env.look()["pixels"]["front"])
    for action in first.action_executed:
        *_, info = env.step(action)
    assert info["is_success"] and first.success.tolist() == [False] * (len(first) - 1) + [True]
    assert first.instruction == [env.task_description] * len(first)
    assert data.fps == 20 and data.cameras == ("front",)
    assert data.state.shape[1:] == (6,) and data.action.shape[1:] == (5,)
    env.close()


def test_collecting_again_makes_nothing_again(recorded):
    before = (recorded / "data/chunk-000/file-000.parquet").stat().st_mtime_ns
    writer = collect(recorded, ("ogbench_cube_single",), 1, seed=3, workers=0, quiet=True, drawing="fast")
    assert len(writer.episodes) == 1
    assert (recorded / "data/chunk-000/file-000.parquet").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="DAgger"):
        collect(
            recorded, ("ogbench_cube_single",), 2, checkpoint="nano", workers=0, quiet=True, drawing="fast"
        )
