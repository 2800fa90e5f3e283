"""Episodes in one process, their questions answered together: each as if it were alone with its kind."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from agent.asks import Ask, answer_together, run_alone
from agent.evaluation.runner import evaluate
from agent.evaluation.settings import Settings
from agent.evaluation.slots import Slots
from agent.policy import load
from backbone.errors import UserError

NANO = Settings(family="press", batch=3, device="cpu")


def records(settings: Settings, seeds, policy=None) -> dict[int, dict]:
    found: dict[int, dict] = {}
    slots = Slots(settings, policy=policy)
    slots.run(iter(seeds), lambda record: found.update({record["seed"]: record}))
    slots.close()
    return found


def told(record: dict) -> dict:
    """A record without what depends on the clock on the wall."""
    looks = [{k: v for k, v in look.items() if not k.endswith("ms")} for look in record["looks"]]
    return {k: v for k, v in record.items() if k != "timings"} | {"looks": looks}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in the worker processes: sums are the same to the last bit, and busy machines do not stall."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def nano():
    policy = load("nano")
    policy.engine.fix_shapes()
    return policy


def test_an_episode_does_not_depend_on_those_beside_it(nano):
    together = records(NANO, (3, 9, 15, 21), nano)
    assert all(r["success"] is not None and not r.get("error") for r in together.values())
    alone = records(NANO, (15,), nano)
    other = records(NANO, (21, 15), nano)
    assert told(alone[15]) == told(together[15]) == told(other[15])  # to the last bit of every margin
    assert told(other[21]) == told(together[21])


def test_one_at_a_time_is_what_it_was():
    """A batch of one computes what an agent by itself computes."""
    from agent.evaluation.episode import run_episode
    from agent.evaluation.settings import build

    settings = dataclasses.replace(NANO, batch=1)
    env, agent = build(settings)
    record = run_episode(env, agent, 3)
    env.close()
    assert told(records(settings, (3,))[3]) == told(record)


def test_processes_of_several_are_one_process_of_several(tmp_path):
    settings = dataclasses.replace(NANO, batch=2)
    here = evaluate(settings, (3, 9, 15), tmp_path / "a", workers=0)
    there = evaluate(settings, (3, 9, 15), tmp_path / "b", workers=2)
    lines = [
        {
            r["seed"]: told(r)
            for r in map(json.loads, (tmp_path / n / "episodes.jsonl").read_text().splitlines())
        }
        for n in "ab"
    ]
    assert lines[0] == lines[1] and here["overall"] == there["overall"]
    shares = here["timings"]["share"]
    assert sum(shares.values()) == pytest.approx(1.0) and min(shares.values()) > 0


def test_one_bad_question_spoils_no_other():
    class Policy:
        passes: list = []

        def together(self, asks, size):
            self.passes.append((len(asks), size))
            if any(ask.content == "bad" for ask in asks):
                raise ValueError("a bad row")
            return [ask.content.upper() for ask in asks]

        def ask(self, content):
            return (ask := Ask(lambda: self.together([ask], 1)[0], self.together, ("say",), content))

    policy = Policy()
    asks = [policy.ask(c) for c in ("a", "bad", "b", "c")]
    lone = Ask(lambda: 7)
    answers = answer_together([*asks, lone], 3)
    assert isinstance(answers[1], ValueError) and [*answers[:1], *answers[2:]] == ["A", "B", "C", 7]
    assert policy.passes == [(3, 3), (1, 1), (1, 1), (1, 1), (1, 3)]
    assert all(ask.seconds > 0 for ask in (*asks, lone))


def test_alone_errors_reach_who_asked():
    def asking():
        try:
            yield Ask(lambda: 1 / 0)
        except ZeroDivisionError:
            return (yield Ask(lambda: "told"))

    assert run_alone(asking()) == "told"


def test_a_failing_episode_leaves_the_others(nano):
    def measure(env, agent, seed):
        if seed == 9:
            raise RuntimeError("no such table")
        return {"seed": seed, "value": np.pi}

    found: list = []
    slots = Slots(NANO, measure, nano)
    slots.run(iter((3, 9, 15, None, 21)), lambda record: found.append(record))
    slots.close()
    assert [r["seed"] for r in found][:3] == [3, 9, 15] and found[1]["error"] == "RuntimeError: no such table"


def test_what_is_no_batch():
    with pytest.raises(UserError, match="batch: expected at least 1"):
        Settings(batch=0)
    with pytest.raises(UserError, match="device: expected one that is here"):
        Slots(Settings(device="cuda:7"))
