"""Evaluation on a Ray cluster: a real one, on this machine."""

from __future__ import annotations

import json
import os
import sys

import pytest
from test_slots import told

from agent.evaluation.runner import evaluate, gather
from agent.evaluation.settings import Settings
from agent.evaluation.store import Store
from backbone.errors import UserError

ray = pytest.importorskip("ray")
TEACHER = Settings(planner="oracle", controller="teacher")


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one processor each."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found.add_node(num_cpus=1)
    ray.init(address=found.address, log_to_driver=False, logging_level="error")
    yield found
    ray.shutdown()
    found.shutdown()


def lines(folder) -> dict[int, dict]:
    return {r["seed"]: r for r in map(json.loads, (folder / "episodes.jsonl").read_text().splitlines())}


def test_the_same_seeds_give_the_same_records(cluster, tmp_path):
    here = evaluate(TEACHER, range(6), tmp_path / "here", workers=0)
    there = evaluate(TEACHER, range(4), tmp_path / "there", ray="auto")
    assert there["overall"]["successes"] == 4
    there = evaluate(TEACHER, range(6), tmp_path / "there", ray="auto")
    assert there["episodes_resumed"] == 4 and here["overall"] == there["overall"]
    one, other = lines(tmp_path / "here"), lines(tmp_path / "there")
    assert {s: told(r) for s, r in one.items()} == {s: told(r) for s, r in other.items()}
    assert len(json.loads((tmp_path / "there" / "run.json").read_text())["runs"]) == 1


def test_a_checkpoint_goes_where_it_is_needed(cluster, tmp_path):
    from agent.policy import load

    folder = tmp_path / "mine"
    load("nano").save_pretrained(folder)
    settings = Settings(family="press", checkpoint=str(folder))
    there = evaluate(settings, [3], tmp_path / "there", ray="auto")
    here = evaluate(settings, [3], tmp_path / "here", workers=1)
    assert there["errors"] == 0 and there["checkpoint_sha256"] == here["checkpoint_sha256"]
    assert told(lines(tmp_path / "here")[3]) == told(lines(tmp_path / "there")[3])


def end(env, agent, seed: int) -> dict:
    if seed == 1:
        os._exit(3)
    return {"seed": seed, "value": seed * 2}


def test_a_worker_that_dies_costs_its_episode(cluster):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers have no tests
    found = gather(TEACHER, range(4), Store(None, TEACHER, None), measure=end, ray="auto")
    assert [r.get("value") for r in found] == [0, None, 4, 6]
    assert "the worker ended" in found[1]["error"]


def test_what_a_cluster_cannot_do(cluster):
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    with pytest.raises(UserError, match="expected workers that begin, one ended .*test_machines"):
        gather(TEACHER, [0], Store(None, TEACHER, None), measure=end, ray="auto")
    with pytest.raises(UserError, match="checkpoint 'absent'"):
        evaluate(Settings(checkpoint="absent"), [0], ray="auto")
    with pytest.raises(UserError, match="free gpus"):
        evaluate(Settings(device="cuda"), [0], ray="auto")
