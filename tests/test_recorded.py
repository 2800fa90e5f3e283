"""Evaluations that are recorded: each process its own part, and what happens where it cannot."""

from __future__ import annotations

import json

import pytest
from test_dataset import check_schema
from test_recording import TEACHER, files_up_to

from agent.evaluation.runner import evaluate
from agent.evaluation.settings import Settings
from agent.recording.replay import replay, replay_agent
from agent.recording.runs import RunReader
from backbone.errors import UserError


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
