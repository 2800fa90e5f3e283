"""Statistics against known values, summaries, and the runner with the real world and the scripted teacher."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from agent.evaluation.analysis import derive
from agent.evaluation.episode import run_episode
from agent.evaluation.metrics import summarize
from agent.evaluation.provenance import SCHEMA, provenance
from agent.evaluation.runner import evaluate
from agent.evaluation.settings import Settings, build
from agent.evaluation.statistics import quantile, rate, wilson
from agent.loop import Agent
from backbone.errors import UserError

TEACHER = Settings(planner="oracle", controller="teacher")


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),  # Newcombe (1998), Statistics in Medicine 17, and R's prop.test
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_against_published_values(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_wilson_edges():
    assert wilson(0, 0) == (0.0, 1.0)
    assert rate(0, 0)["rate"] is None
    with pytest.raises(ValueError, match="successes"):
        wilson(3, 2)


def test_wilson_covers():
    rng = np.random.default_rng(0)
    n, trials = 200, 4000
    for p in (0.5, 0.9, 0.97):
        intervals = [wilson(int(k), n) for k in rng.binomial(n, p, trials)]
        inside = sum(low <= p <= high for low, high in intervals)
        assert 0.93 < inside / trials < 0.97


def test_quantile_is_numpys():
    values = list(np.random.default_rng(1).normal(size=37))
    for q in (0.0, 0.5, 0.9, 1.0):
        assert quantile(values, q) == pytest.approx(np.quantile(values, q))
    assert quantile([], 0.5) is None


def _record(seed: int, family: str, success: bool, looks: list[dict], **more) -> dict:
    record = {"seed": seed, "family": family, "success": success, "progress": float(success), "looks": looks}
    record |= {"done_early": False, "done_late": False if success else None}
    return record | {"timings": {"real_time_factor": 2.0}} | more


def _look(agree: bool, near: bool, pixels: float | None = None, origin: str = "decoded") -> dict:
    look = {"truth": "x", "agree": agree, "near_switch": near, "memory_agree": True, "ms": 20.0}
    return look | {"origin": origin} | ({} if pixels is None else {"pixels": pixels})


def test_summary_counts_errors_apart():
    records = [
        _record(0, "sort", True, [_look(True, False, 1.0), _look(False, True)]),
        _record(1, "sort", False, [_look(True, False, 3.0)], done_early=True),
        _record(2, "stow", True, [_look(False, False)], done_late=True),
    ]
    summary = summarize(records, [{"seed": 3, "error": "RuntimeError: no"}])
    assert summary["overall"] == rate(2, 3) and summary["families"]["sort"] == rate(1, 2)
    assert set(summary["overall"]) == {"n", "successes", "rate", "low", "high"}
    assert summary["errors"] == 1 and summary["error_seeds"] == [3]
    planner = summary["planner"]
    assert planner["agreement"] == 0.5
    assert planner["agreement_away_from_switches"] == pytest.approx(2 / 3)
    assert planner["grounding_pixels_median"] == 2.0
    assert planner["done_early"]["successes"] == 1 and planner["done_late"] == rate(1, 2)


def test_summary_of_decisions_switches_and_reasons():
    timed = [{"text": "x", "time": 1.0, "error": e} for e in (0.0, 0.4, None)]
    of = {"switches": timed, "replans": 2, "recoveries": 1, "corrections": 0}
    records = [
        _record(
            0, "sort", False, [_look(True, False)], reason="dropped", interventions=[{"what": "box"}], **of
        )
        | {"decisions": {"points": 4, "seen": 3, "right": 2}},
        _record(
            1, "sort", True, [_look(True, False)], reason=None, replans=4, recoveries=None, interventions=[]
        ),
    ]
    summary = summarize(records)
    assert summary["reasons"] == {"dropped": 1}
    assert summary["counts"] == {
        "replans": 3.0,
        "corrections": 0.0,
        "recoveries": 1.0,
        "interventions": 0.5,
    }
    assert summary["planner"]["decision_points"] == rate(2, 3)
    switches = summary["planner"]["switches"]
    assert switches["n"] == 3 and switches["missed"] == 1 and switches["seconds_median"] == 0.2


def test_an_agent_without_a_planner_is_not_scored_as_one():
    records = [_record(0, "sort", True, [_look(False, False, origin="instruction")])]
    assert summarize(records)["planner"] is None


def test_the_teacher_solves_and_is_resumed_and_repeats_itself(tmp_path):
    seen = []
    first = evaluate(TEACHER, range(2), tmp_path, workers=0, watch=lambda *a: seen.append(a))
    assert first["overall"]["n"] == 2 and first["overall"]["successes"] == 2 and first["errors"] == 0
    assert [(done, total) for _, done, total in seen] == [(1, 2), (2, 2)]
    assert first["planner"]["agreement"] == 1.0 and first["planner"]["done_early"]["successes"] == 0
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    record = json.loads(lines[0])
    assert record["success"] and record["subtasks"][-1]["text"] == "done"
    assert record["subtasks"][0]["start"] == 0.0 and record["looks"] and record["timings"]["wall_seconds"] > 0
    ends = [part["end"] for part in record["subtasks"]]
    assert ends == sorted(ends) and ends[-1] == record["steps"] / 20
    # killed in the middle of writing a line: that episode runs again, the others do not
    (tmp_path / "episodes.jsonl").write_text(lines[0] + "\n" + lines[1][: len(lines[1]) // 2])
    again = evaluate(TEACHER, range(2), tmp_path, workers=0)
    assert again["episodes_resumed"] == 1 and again["overall"] == first["overall"]
    repeated = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert [r["steps"] for r in repeated] == [json.loads(line)["steps"] for line in lines]
    assert json.loads((tmp_path / "summary.json").read_text())["overall"] == again["overall"]
    # a folder of another agent is not mixed with this one
    other = Settings(suite="long", planner="oracle", controller="teacher")
    with pytest.raises(UserError, match="another folder"):
        evaluate(other, range(2), tmp_path, workers=0)


def test_an_episode_begins_the_same_for_everybody():
    env, agent = build(TEACHER)
    states = [run_episode(env, agent, seed)["initial_state"] for seed in (3, 4, 3)]
    env.close()
    other, agent = build(Settings(family="stack", planner="oracle", controller="teacher"))
    states.append(run_episode(other, agent, 3)["initial_state"])  # seed 3 of core is a stack as well
    other.close()
    assert states[0] == states[2] == states[3] != states[1]


def test_a_run_says_who_ran_it(tmp_path):
    summary = evaluate(TEACHER, [7], tmp_path, workers=0)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["schema"] == summary["schema"] == SCHEMA and run["suite"] == "core"
    (now,) = run["runs"]
    assert now == provenance() and now["versions"]["mujoco"] == summary["versions"]["mujoco"]
    evaluate(TEACHER, [7, 9], tmp_path, workers=0)  # resumed by the same
    assert json.loads((tmp_path / "run.json").read_text()) == run
    old = {key: value for key, value in run.items() if key not in ("schema", "runs")}
    (tmp_path / "run.json").write_text(json.dumps(old))  # begun before there was a schema
    evaluate(TEACHER, [7, 9, 13], tmp_path, workers=0)
    assert json.loads((tmp_path / "run.json").read_text())["runs"] == [{}, now]


def test_what_is_derived_can_be_derived_again(tmp_path):
    summary = evaluate(TEACHER, range(2), tmp_path, workers=0)
    records = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert all(derive(r).items() <= r.items() for r in records)
    again = json.loads(json.dumps(summarize(records)))
    assert again["planner"]["switches"]["n"] > 0 and again["planner"] == summary["planner"]
    assert again["reasons"] == {} and again["counts"] == summary["counts"]


def test_worker_processes_agree_with_this_one(tmp_path):
    here = evaluate(TEACHER, range(3), tmp_path / "a", workers=0)
    there = evaluate(TEACHER, range(3), tmp_path / "b", workers=2)
    assert here["overall"] == there["overall"] and here["planner"] == there["planner"]

    def steps(name: str) -> dict:
        lines = (tmp_path / name / "episodes.jsonl").read_text().splitlines()
        return {r["seed"]: (r["steps"], r["success"], r["subtasks"]) for r in map(json.loads, lines)}

    assert steps("a") == steps("b")


class Broken:
    """A policy whose controller breaks at its third look."""

    action_dim = 7

    def __init__(self):
        self.looks = 0

    def step(self, observation, memory, previous):
        from highlevel.plan import Plan
        from lowlevel.controller import ActionChunk

        self.looks += 1
        if self.looks == 3:
            raise RuntimeError("out of memory")
        return Plan("done", done=True), ActionChunk(np.zeros((10, 7), np.float32), "done")


def test_software_errors_are_neither_successes_nor_failures(tmp_path):
    summary = evaluate(Settings(), range(2), tmp_path, workers=0, policy=Broken())
    assert summary["errors"] == 1 and summary["error_seeds"] == [0] and summary["overall"]["n"] == 1
    assert summary["planner"]["done_early"]["successes"] == 1  # it says "done" at once
    record = json.loads((tmp_path / "episodes.jsonl").read_text().splitlines()[0])
    assert record["error"] == "planner failed: RuntimeError: out of memory"


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A small random network, saved as checkpoints are."""
    import torch

    from backbone import checkpoint
    from backbone.nano import nano
    from backbone.network import Network
    from backbone.tokenizer import Tokenizer
    from envs.tabletop.language import all_words

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the worker processes: sums are the same to the last bit
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_words(all_words())
    preset = replace(nano(depth=1), words=tokenizer.words, vocabulary=tokenizer.fingerprint)
    yield checkpoint.save(tmp_path_factory.mktemp("checkpoints") / "random", Network(preset), tokenizer)
    torch.set_num_threads(threads)


def test_a_network_is_evaluated_the_same_in_any_process(untrained, tmp_path):
    """An untrained one solves nothing and breaks nothing: its garbage is its failure, not the software's."""
    settings = Settings(family="press", checkpoint=str(untrained))
    here = evaluate(settings, range(2), tmp_path / "a", workers=0)
    there = evaluate(settings, range(2), tmp_path / "b", workers=2)
    for summary in (here, there):
        assert summary["errors"] == 0 and summary["overall"] == rate(0, 2)
        assert len(summary["checkpoint_sha256"]) == 64
    assert here["planner"] == there["planner"] and here["progress"] == there["progress"]


def test_a_network_can_follow_the_oracle_or_the_bare_instruction(untrained):
    for planner in ("oracle", "none"):
        settings = Settings(family="press", checkpoint=str(untrained), planner=planner)
        summary = evaluate(settings, [0], workers=0)
        assert summary["errors"] == 0 and summary["overall"]["n"] == 1
        assert (summary["planner"] is None) == (planner == "none")


def test_what_cannot_be_evaluated():
    with pytest.raises(UserError, match="planner: expected one of"):
        Settings(planner="clever")
    with pytest.raises(UserError, match="episodes"):
        evaluate(TEACHER, [])
    with pytest.raises(ValueError, match="hard"):
        build(Settings(suite="hard", planner="oracle", controller="teacher"))


@pytest.mark.parametrize("controller", ["random", "zero"])
def test_chance_solves_nothing_and_repeats_itself(tmp_path, controller):
    settings = Settings(family="press", planner="none", controller=controller)
    summaries = [evaluate(settings, range(2), tmp_path / str(k), workers=0) for k in range(2)]
    assert [s["overall"]["successes"] for s in summaries] == [0, 0] and not summaries[0]["errors"]
    first, second = ((tmp_path / str(k) / "episodes.jsonl").read_text().splitlines() for k in range(2))
    same = [[json.loads(line)[k] for k in ("steps", "progress", "initial_state")] for line in first]
    assert same == [[json.loads(line)[k] for k in ("steps", "progress", "initial_state")] for line in second]
    assert summaries[0]["checkpoint_sha256"] is None


def test_a_hand_with_other_joints_is_an_error_and_seeds_count_once():
    class Other:
        action_dim = 5

        def act(self, observation, subtask):
            from lowlevel.controller import ActionChunk

            return ActionChunk(np.zeros((4, 5), np.float32), subtask)

    env, agent = build(TEACHER)
    agent = Agent(agent.policy, agent.planner, Other())
    with pytest.raises(UserError, match="expected 7 numbers"):
        run_episode(env, agent, 0)
    env.close()
    with pytest.raises(UserError, match="each of them once, got 3 again"):
        evaluate(TEACHER, [1, 3, 3], workers=0)


def test_random_positions_are_a_walk_from_where_the_robot_is():
    from backbone.observation import Observation
    from lowlevel.baselines import RandomController

    low, high = np.array([-1.0, 0.0]), np.array([1.0, 0.1])
    hand = RandomController(2, 50, low, high, walk=0.02)
    here = np.array([0.99, 0.05])
    path = np.concatenate([here[None], hand.act(Observation({}, here), "go").actions])
    assert (np.abs(np.diff(path, axis=0)) <= 0.02 * (high - low) + 1e-6).all() and np.ptp(path[:, 0]) > 0.05
    assert (path >= low - 1e-6).all() and (path <= high + 1e-6).all()
