"""What a person showed in recorded runs, for nano's training cache and for the π family: which frames teach,
as far as which action, and that a network can be trained on them."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from test_lerobot import write_set
from test_teach import one_thread  # noqa: F401 (a fixture)

from agent.recording import Frame, Recording, Run
from agent.recording.columns import TABLETOP
from agent.recording.runs import RunReader, RunWriter
from agent.step import Step
from backbone.errors import UserError
from backbone.tokenizer import Tokenizer
from envs.tabletop.language import all_words
from highlevel.plan import Plan, Target
from training.batches import Sampler
from training.cache import Cache, build_cache
from training.episodes import PERSON, TEACHER
from training.lerobot import LeRobotDataset
from training.loop import Config, Trainer
from training.prepare import open_datasets
from training.samples import chunk_at, places
from training.taught import moving, stretches


@pytest.fixture
def runs(taught_runs):
    """nano's run in which a scripted person drove from tick 10 to 50."""
    return taught_runs[0]


def write(root, *who: str, success: bool = True, words: str = "press the red button") -> None:
    """One run; who acted at each tick: "p"erson, "h"eld though the person had the arm, "a"gent; a "q" is a
    person who says nothing."""
    rng = np.random.default_rng(len(who))
    with Recording(RunWriter(root)) as recording:
        recording.begin(Run("core", "press", len(who), "press the red button", TABLETOP))
        for tick, actor in enumerate("".join(who)):
            seen = {"front": (128, 128, 3), "wrist": (64, 64, 3)}
            pictures = {n: rng.integers(0, 255, shape, dtype=np.uint8) for n, shape in seen.items()}
            mine, said = actor in "phq", words if actor in "ph" else ""
            plan = Plan(said, Target(0.5, 0.5) if said else None, "", origin="person" if mine else "decoded")
            step = Step(np.zeros(7), plan.text, plan, ("held",) if actor == "h" else (), person=mine)
            state, action = rng.normal(size=8), rng.normal(size=7)
            recording.add(Frame(tick, pictures, state, action, step, "press the red button", success=success))
        assert recording.end() == []


def test_pauses_are_nothing_that_was_shown():
    action, state = np.zeros((60, 7)), np.zeros((60, 8))
    action[:20, 0] = state[:20, 0] = np.arange(20)
    state[20:, 0] = 19
    action[20:, 0] = 0.5  # positions that stay, or a speed that leads nowhere
    action[45:, -1] = 1.0  # the gripper closes, and what it takes is no pause
    shown = moving(action, state, 20)
    assert stretches(shown) == [(0, 21), (45, 60)]
    state[20:, 0] += np.arange(40)  # a key that is held down moves on
    assert moving(action, state, 20).all()
    assert stretches(np.array([True, False, True, True])) == [(0, 1), (2, 4)] and stretches(np.zeros(0)) == []


def test_what_was_shown_goes_into_the_cache(runs, tmp_path):
    build_cache([runs], tmp_path, quiet=True, workers=1)
    assert build_cache([runs], tmp_path, quiet=True, workers=1) == 40, "once"
    cache, rows = Cache(tmp_path, touch=False), RunReader(runs).rows(0)[10:50]
    assert cache.step.tolist() == list(range(10, 50)) and set(cache.driver) == {PERSON}
    assert [cache.strings[i] for i in cache.subtask] == [row["subtask"] for row in rows]
    assert [cache.strings[i] for i in cache.memory] == [row["memory"] or "nothing" for row in rows]
    assert np.array_equal(cache.chunk[:, 0], np.array([row["action"] for row in rows]))
    assert cache.valid[:30].all() and cache.valid[30:].sum(1).tolist()[-1] == 1, "not past the hand-back"
    first = next(t for t in range(40) if rows[t]["subtask"] != rows[0]["subtask"])
    assert not cache.chunk[first - 1, 1:, :6].any(), "a subtask that has ended holds still"
    assert {cache.strings[i] for i in cache.inventory} != {""}, "what it sees is the checkpoint's word"
    config = Config(out=tmp_path / "run", init="nano", cache=tmp_path, steps=2, precision="no", warmup=1)
    trainer = Trainer(config)
    drawn = trainer.batches(0)
    assert torch.isfinite(trainer.learn(drawn, 0.0)["loss"])


def test_untyped_and_held_frames_end_what_is_shown_and_the_pointer_says_where(tmp_path):
    write(tmp_path / "runs", "aaa", "p" * 6, "h", "p" * 5, "q" * 4, "aa", success=False)
    build_cache([tmp_path / "runs"], tmp_path / "cache", quiet=True, workers=1, pointer=None)
    cache = Cache(tmp_path / "cache", touch=False)
    assert cache.step.tolist() == [*range(3, 9), *range(10, 15)]
    assert cache.valid.sum(1).tolist() == [6, 5, 4, 3, 2, 1, 5, 4, 3, 2, 1]
    assert cache.target[0].tolist() == [0.5, 0.5]
    drawn = Sampler(cache, Tokenizer.from_words(all_words()), person_boost=3.0).planner_rows
    assert sorted(set(drawn(200, np.random.default_rng(0)))) == list(range(11))
    cache.driver[3:] = TEACHER
    drawn = Sampler(cache, Tokenizer.from_words(all_words()), person_boost=3.0).planner_rows
    assert abs(np.mean(drawn(4000, np.random.default_rng(0)) < 3) - 9 / 17) < 0.05, "three times as often"
    write(tmp_path / "silent", "a", "q" * 5)
    with pytest.raises(UserError, match="expected frames with a subtask that a person typed"):
        build_cache([tmp_path / "silent"], tmp_path / "other", quiet=True, workers=1)
    write(tmp_path / "alone", "aaaa")
    with pytest.raises(UserError, match="expected runs in which a person drove in .*alone, found none"):
        build_cache([tmp_path / "alone"], tmp_path / "other", quiet=True, workers=1)
    write(tmp_path / "unknown", "pppp", words="grab the doohickey")
    with pytest.raises(UserError, match="typed"):
        build_cache([tmp_path / "unknown"], tmp_path / "other", quiet=True, workers=1)


def test_the_pi_family_learns_what_was_shown_and_only_if_asked_what_was_solved(tmp_path):
    root = tmp_path / "runs"
    write(root, "aaa", "p" * 6, "h", "q" * 5, "aa", success=False)
    write(root, "a" * 4, success=True)
    write(root, "a" * 5, success=False)
    (shown,) = open_datasets([str(root)])
    assert shown.numbers.tolist() == [0, 1], "neither solved nor helped"
    assert places([shown], False)[:, 1].tolist() == [*range(3, 9), *range(10, 15)]
    (all_of_it,) = open_datasets([str(root)], own_runs=True)
    solved = places([all_of_it], False)[:, 1].tolist()
    assert solved == [*range(3, 9), *range(10, 15), *range(17, 21)], "not the agent's part of a helped run"
    known = [int(chunk_at(shown, row, 4, True)[1].sum()) for row in (3, 5, 8, 10, 13, 14)]
    assert known == [4, 4, 1, 4, 2, 1], "never past where the person let go"
    assert (shown.subtask[3], shown.subtask[12]) == ("press the red button", "")
    write(tmp_path / "alone", "aaaa")
    with pytest.raises(UserError, match="--own-runs"):
        open_datasets([str(tmp_path / "alone")])


def test_a_network_of_the_pi_family_is_trained_on_a_taught_run(runs, tmp_path):
    config = Config(
        out=tmp_path, preset="pi05_subtask_tiny", datasets=(str(runs),), steps=2, batch=3, precision="no",
        warmup=1, threads=1,
    )  # fmt: skip
    trainer = Trainer(config)
    data = trainer.course.frames.datasets[0]
    assert set(trainer.course.sampler.places[:, 1]) == set(range(10, 50)) == set(np.flatnonzero(data.shown))
    metrics = trainer.learn(trainer.batches(0), 0.0)
    assert np.isfinite(float(metrics["loss"]))


def test_older_runs_read_as_nobody_having_helped(runs, tmp_path):
    """Without the column `intervention` and without `interventions` in meta/episodes."""
    data, meta = (tmp_path / f"{part}/chunk-000/file-000.parquet" for part in ("data", "meta/episodes"))
    for path, column in ((data, "intervention"), (meta, "interventions")):
        path.parent.mkdir(parents=True)
        pq.write_table(pq.read_table(runs / path.relative_to(tmp_path)).drop_columns([column]), path)
    for name in ("info.json", "tasks.parquet", "subtasks.parquet"):
        (tmp_path / "meta" / name).write_bytes((runs / "meta" / name).read_bytes())
    dataset = LeRobotDataset(tmp_path)
    assert dataset.numbers.tolist() == [0] and dataset.own


def test_datasets_of_others_say_who_drove_too(tmp_path):
    """As LeRobot records corrections: a column `intervention`."""
    flags = [False] * 3 + [True] * 6 + [False] * 19
    (shown,) = open_datasets([str(write_set(tmp_path / "corrected", intervention=flags))])
    assert not shown.own and places([shown], False)[:, 1].tolist() == [*range(3, 9)]
    known = [int(chunk_at(shown, row, 4, True)[1].sum()) for row in (3, 6, 7, 8)]
    assert known == [4, 1, 2, 1], "not past the episode's end at 7, nor the hand-back at 9"
    (all_of_it,) = open_datasets([str(tmp_path / "corrected")], own_runs=True)
    assert len(places([all_of_it], False)) == 28 and chunk_at(all_of_it, 1, 4, True)[1].sum() == 2
    (shown,) = open_datasets([str(write_set(tmp_path / "unhelped", intervention=[False] * 28))])
    assert len(places([shown], False)) == 28
