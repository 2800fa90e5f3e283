"""Runs to test what is recorded and reported on: real episodes, made once for all tests (see conftest.py)."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from agent.evaluation.runner import evaluate
from agent.evaluation.settings import Settings, build
from highlevel.plan import Plan
from lowlevel.controller import ActionChunk

TEACHER = Settings(planner="oracle", controller="teacher")
OLD = {"suite": "core", "planner": "oracle", "controller": "teacher"}  # a run.json of before


class Idle:
    """Says the same at every look and holds still."""

    action_dim = 7

    def __init__(self, text: str):
        self.text = text

    def step(self, observation, memory, previous):
        plan = Plan(self.text, done=self.text == "done", margin=1.0)
        return plan, ActionChunk(np.zeros((10, 7), np.float32), plan.text)

    def act(self, observation, subtask):
        return ActionChunk(np.zeros((10, 7), np.float32), subtask)


def episode(env, agent, seed: int) -> dict:
    from agent.evaluation.episode import run_episode

    return run_episode(env, agent, seed)


@pytest.fixture(scope="session")
def solved(tmp_path_factory):
    """Six episodes of the teacher, one a family."""
    folder = tmp_path_factory.mktemp("results") / "teacher"
    evaluate(TEACHER, range(6), folder, workers=0)
    return folder


@pytest.fixture(scope="session")
def failed(tmp_path_factory):
    """Three of one who says "done" at once."""
    folder = tmp_path_factory.mktemp("results") / "idle"
    evaluate(Settings(), range(7, 10), folder, workers=0, policy=Idle("done"))
    return folder


@pytest.fixture(scope="session")
def perturbed():
    """By seed, with a block that slips and is taken up again in the first."""
    env, agent = build(Settings("perturbed", None, planner="oracle", controller="teacher"))
    records = {seed: episode(env, agent, seed) for seed in (0, 1)}
    env.close()
    return records


@pytest.fixture
def copy(solved, tmp_path):
    return shutil.copytree(solved, tmp_path / "copy")


def records(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]


def rewrite(folder, change) -> None:
    lines = [json.dumps(change(record)) for record in records(folder)]
    (folder / "episodes.jsonl").write_text("\n".join(lines) + "\n")
