"""Somebody else's policy through the evaluation: a real server on loopback, in worker processes."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("msgpack")
pytest.importorskip("websockets")

from serving import PolicyServer, unpackb  # noqa: E402

from agent.evaluation.runner import evaluate  # noqa: E402
from agent.evaluation.settings import Settings, build  # noqa: E402
from backbone.errors import UserError  # noqa: E402

UP = np.tile(np.array([0, 0, 0.3, 0, 0, 0, -1.0]), (50, 1))


def test_a_server_is_evaluated_like_anybody(tmp_path):
    with PolicyServer(lambda o: {"actions": UP}, {"name": "up"}) as server:
        settings = Settings(family="press", checkpoint=f"{server.url}?robot=libero", execute=25)
        assert (settings.planner, settings.networked, settings.foreign) == (
            "none",
            False,
            settings.checkpoint,
        )
        summary = evaluate(settings, [3, 9], tmp_path, workers=2)
        asked = unpackb(server.asked[0])
        assert evaluate(settings, [3, 9], tmp_path, workers=2)["episodes_resumed"] == 2
    assert summary["overall"]["n"] == 2 and summary["errors"] == 0 and summary["planner"] is None
    assert server.url in summary["checkpoint_sha256"]
    records = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert asked["prompt"] in {r["instruction"] for r in records}
    assert all(r["timings"]["seconds"]["thinking"] > 0 for r in records)
    with PolicyServer(lambda o: {"actions": UP}, {"name": "other"}, port=server.port):
        with pytest.raises(UserError, match="choose another folder"):  # not the one of before
            evaluate(settings, [3, 9, 15], tmp_path, workers=0)


def test_a_server_that_fails_is_an_error_and_no_failure_of_the_policy(tmp_path):
    def answer(observation):
        raise RuntimeError("out of memory")

    with PolicyServer(answer) as server:
        settings = Settings(family="press", checkpoint=f"{server.url}?robot=libero")
        summary = evaluate(settings, [3], workers=0)
    assert summary["errors"] == 1 and summary["overall"]["n"] == 0
    with PolicyServer(lambda o: {"actions": np.full((10, 7), np.nan)}) as server:
        settings = dataclasses.replace(settings, checkpoint=f"{server.url}?robot=libero")
        store = tmp_path / "nan"
        assert evaluate(settings, [3], store, workers=0)["errors"] == 1
    line = json.loads((store / "episodes.jsonl").read_text())
    assert "finite" in line["error"]


def test_our_planner_writes_the_words_of_a_server():
    with PolicyServer(lambda o: {"actions": UP}) as server:
        settings = Settings(family="press", planner="oracle", controller=f"{server.url}?robot=libero")
        summary = evaluate(settings, [3], workers=0)
        prompts = {unpackb(frame)["prompt"] for frame in server.asked}
    assert summary["errors"] == 0 and summary["planner"]["agreement"] == 1.0
    assert prompts and all(prompt.startswith("press") for prompt in prompts)


def test_a_hand_with_other_joints_is_refused():
    with PolicyServer(lambda o: {"actions": np.zeros((5, 14))}) as server:
        with pytest.raises(UserError, match="expected 7 numbers an action, got 14"):
            build(Settings(checkpoint=f"{server.url}?robot=aloha"))
