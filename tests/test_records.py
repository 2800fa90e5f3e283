"""Records say what happened, and what follows from them is computed anew."""

from __future__ import annotations

import json
import re

import pytest
from recorded import OLD, TEACHER, Idle, episode, records, rewrite

from agent.evaluation.analysis import REASONS, attempts, derive, kind, reason, setbacks, teacher_timeline
from agent.evaluation.provenance import SCHEMA, schema
from agent.evaluation.report import run_page
from agent.evaluation.results import read_results
from agent.evaluation.runner import evaluate
from agent.evaluation.settings import Settings, build
from agent.loop import Agent
from backbone.errors import UserError

NEW = ("initial_state", "teacher", "progress_steps")  # to a record of schema 1, besides what is derived


# -- the schema

KINDS = {
    "object": [dict], "array": [list], "string": [str], "boolean": [bool], "null": [type(None)],
    "number": [int, float], "integer": [int],
}  # fmt: skip
SILENT = {"$schema", "title", "description", "$defs"}


def check(value, rule: dict, where: str = "") -> None:
    """The part of JSON Schema that the published one uses; AssertionError where the value does not fit, and
    for a word that is not known here."""
    for word, told in rule.items():
        match word:
            case "$ref":
                check(value, schema()["$defs"][told.rsplit("/", 1)[1]], where)
            case "type":
                kinds = [told] if isinstance(told, str) else told
                fits = [type(value) in KINDS[kind] for kind in kinds]
                assert any(fits), f"{where}: {told}, got {value!r:.80}"
            case "const":
                assert value == told, where
            case "enum":
                assert value in told, f"{where}: {value!r}"
            case "pattern":
                assert re.search(told, value), where
            case "minLength" | "minItems":
                assert len(value) >= told, where
            case "minimum":
                assert value is None or value >= told, where
            case "maximum":
                assert value is None or value <= told, where
            case "required":
                assert value is None or not set(told) - set(value), f"{where}: {set(told) - set(value or ())}"
            case "properties":
                for key in (told.keys() & value.keys()) if value is not None else ():
                    check(value[key], told[key], f"{where}.{key}")
            case "propertyNames":
                for key in value:
                    check(key, told, f"{where}.{key}")
            case "additionalProperties":
                for key in (value or {}).keys() - rule.get("properties", {}).keys():
                    assert told is not False, f"{where}: unknown {key}"
                    check(value[key], {} if told is True else told, f"{where}.{key}")
            case "items":
                for i, item in enumerate(value or ()):
                    check(item, told, f"{where}[{i}]")
            case _:
                assert word in SILENT, f"{where}: {word}"


def test_what_is_written_fits_the_published_schema(solved, failed, perturbed):
    rules = schema()["$defs"]
    for folder in (solved, failed):
        check(json.loads((folder / "run.json").read_text()), rules["run"], "run")
        check(json.loads((folder / "summary.json").read_text()), rules["summary"], "summary")
        for record in records(folder):
            check(record, rules["episode"], f"seed {record['seed']}")
    for record in perturbed.values():
        check(json.loads(json.dumps(record)), rules["episode"], "perturbed")
    check({"seed": 3, "error": "RuntimeError: no", "traceback": "..."}, rules["error"], "error")
    assert set(rules["episode"]["properties"]["reason"]["enum"]) == {*REASONS, None}
    assert rules["run"]["properties"]["schema"]["const"] == SCHEMA


@pytest.mark.parametrize(
    "change",
    [
        {"success": "yes"},
        {"steps": -1},
        {"steps": True},
        {"initial_state": "xyz"},
        {"reason": "bad luck"},
        {"mood": "good"},
        {"switches": [{"text": "done", "time": 1.0}]},
        {"progress": None, "looks": None},
    ],
)
def test_the_schema_refuses(solved, change):
    with pytest.raises(AssertionError):
        check(records(solved)[0] | change, schema()["$defs"]["episode"], "record")


# -- what a record tells


def test_an_idle_agent_fails_for_its_own_reason(failed):
    env, agent = build(TEACHER)
    stuck = episode(env, Agent(agent.policy, agent.planner, Idle("")), 7)  # a right plan comes to nothing
    wrong = episode(env, Agent(Idle("open the drawer")), 7)
    env.close()
    assert stuck["reason"] == "controller_stuck" and stuck["decisions"]["right"] == 1
    assert stuck["teacher"] == [
        {"text": stuck["looks"][0]["truth"], "start": 0.0, "end": stuck["steps"] / 20}
    ]
    assert wrong["reason"] == "wrong_subtask" and wrong["decisions"] == {"points": 1, "seen": 1, "right": 0}
    for record in records(failed):
        assert record["reason"] == "premature_done" and record["replans"] == 0
        assert [s["text"] for s in record["subtasks"]] == ["done"]


def test_a_slipped_block_is_a_setback_that_is_made_good(perturbed):
    slipped, calm = perturbed[0], perturbed[1]
    (back,) = slipped["setbacks"]
    assert back["recovered"] and back["text"].startswith("pick up") and slipped["recoveries"] == 1
    assert calm["setbacks"] == [] and calm["recoveries"] == 0
    before = [a for a in attempts(slipped) if a["start"] < back["time"]]
    assert [a["done"] for a in before] == [True, False] and all(a["done"] for a in attempts(calm))
    # the same episode, had its time been over before it was made good
    at = back["time"] + 0.5
    cut = slipped | {"success": False, "steps": int(at * 20), "subtasks": slipped["subtasks"][:2]}
    cut["teacher"] = [p | {"end": min(p["end"], at)} for p in slipped["teacher"] if p["start"] < at]
    cut["looks"] = [x for x in slipped["looks"] if x["tick"] / 20 < at]
    cut["progress_steps"] = [step for step in slipped["progress_steps"] if step[0] < at]
    assert setbacks(cut)[0]["recovered"] is False and reason(cut) == "dropped"
    assert reason(cut | {"error": "RuntimeError: no"}) == "software_error"


def test_what_a_task_asks_for_twice_is_no_setback(solved):
    by_family = {r["family"]: r for r in records(solved)}
    for family in ("swap", "press"):  # a block that moves twice, a button that is pressed twice
        texts = [part["text"] for part in teacher_timeline(by_family[family])]
        assert len(set(texts)) < len(texts) and by_family[family]["setbacks"] == []


def test_switches_are_timed_against_the_teacher(solved):
    for record in records(solved):
        looks = [x["tick"] / 20 for x in record["looks"]]
        assert record["decisions"]["right"] == record["decisions"]["seen"] > 0  # the planner is the teacher
        for switch in record["switches"]:
            late = 2 if switch["text"] == "done" else 1  # believed at the second look in a row
            due = [t for t in looks if t >= switch["time"] - 1e-6][late - 1]
            assert switch["error"] == pytest.approx(due - switch["time"], abs=1e-3)
        assert record["replans"] == len(record["subtasks"]) - 1 and record["corrections"] == 0


def test_a_flicker_of_the_teachers_is_passed_over():
    parts = [("a", 0.0, 1.0), ("b", 1.0, 1.1), ("a", 1.1, 2.0), ("c", 2.0, 2.25)]
    steady = teacher_timeline(
        {"teacher": [dict(zip(("text", "start", "end"), p, strict=True)) for p in parts]}
    )
    assert [(p["text"], p["start"], p["end"]) for p in steady] == [("a", 0.0, 2.0), ("c", 2.0, 2.25)]
    assert kind("put the red block in the blue bin") == "put the block in the bin"


def test_a_correction_is_counted():
    env, agent = build(Settings("correction", planner="oracle", controller="teacher"))
    record = episode(env, agent, 0)
    env.close()
    assert record["corrections"] == 1 == len(record["instructions"]) - 1 and record["success"]


# -- reading


def test_derived_numbers_are_computed_anew(copy):
    honest = run_page(read_results(copy)).html()
    rewrite(copy, lambda r: r | {"reason": "dropped", "replans": 99, "switches": [], "decisions": None})
    read = read_results(copy)
    assert all(r == r | derive(r) for r in read.records) and run_page(read).html() == honest


def test_a_summary_that_was_tampered_with_changes_nothing_and_is_named(copy):
    rewrite(copy, lambda r: r | {"success": r["seed"] > 0, "success_time": 1.0 if r["seed"] else None})
    numbers = lambda page: page.markdown().split("## Where")[0].split("- **", 1)[1]
    read = read_results(copy)
    assert any("overall.successes is 6 there, 5 in the records" in line for line in read.warnings)
    page = run_page(read)
    assert "summary.json disagrees" in page.html() and "5 of 6" in page.html()
    summary = json.loads((copy / "summary.json").read_text())
    summary["overall"] = {"n": 6, "successes": 1, "rate": 1 / 6, "low": 0.0, "high": 0.5}
    summary["timings"]["look_ms_p50"] = 0.001
    (copy / "summary.json").write_text(json.dumps(summary))
    assert numbers(run_page(read_results(copy))) == numbers(page)
    (copy / "summary.json").unlink()
    assert numbers(run_page(read_results(copy))) == numbers(page)
    (line,) = read_results(copy).warnings
    assert line.startswith("there is no summary.json")


def test_an_honest_summary_agrees(solved, failed):
    assert read_results(solved).warnings == [] and read_results(failed).warnings == []


def test_an_episode_that_has_no_record_is_missed(copy):
    lines = (copy / "episodes.jsonl").read_text().splitlines()
    (copy / "episodes.jsonl").write_text("\n".join(lines[:-2]) + "\n" + lines[-2][:100])  # killed as it wrote
    first, second, *_ = read_results(copy).warnings
    assert "line 5 is cut off" in first and "without record: 2 (seeds 4, 5)" in second


def test_a_run_that_stopped_early_is_said_to(tmp_path):
    evaluate(Settings(), range(7, 15), tmp_path, workers=0, policy=Idle("done"), until_sure=0.9)
    (line,) = read_results(tmp_path).warnings
    assert line.startswith("the run stopped early") and len(read_results(tmp_path).records) < 8


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{half", ("episodes.jsonl, line 2", "no JSON")),
        ("[1, 2]", ("line 2", "got list")),
        ('{"seed": "one"}', ("line 2", "seed", "'one'")),
        ('{"seed": 1}', ("line 2", "'family'", "seed 1")),
        ("", ("line 2", "no JSON")),
    ],
)
def test_a_corrupt_record_is_named_by_file_and_line(copy, line, words):
    first, _, *rest = (copy / "episodes.jsonl").read_text().splitlines()
    (copy / "episodes.jsonl").write_text("\n".join([first, line, *rest]) + "\n")
    with pytest.raises(UserError) as error:
        read_results(copy)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_a_seed_that_was_finished_twice_is_refused(copy):
    first, *rest = (copy / "episodes.jsonl").read_text().splitlines()
    (copy / "episodes.jsonl").write_text("\n".join([first, *rest, first]) + "\n")
    with pytest.raises(UserError, match="line 7: expected every seed once, got seed 0 of"):
        read_results(copy)


def test_a_record_with_a_broken_part_is_named(copy):
    rewrite(copy, lambda r: r | ({"looks": [{"tick": 3}]} if r["seed"] == 2 else {}))
    with pytest.raises(UserError, match="line 3: expected a whole record of seed 2"):
        read_results(copy)


def test_folders_without_results_are_refused(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match="found no episodes.jsonl"):
            read_results(folder)
    (tmp_path / "episodes.jsonl").write_text("")
    with pytest.raises(UserError, match="expected records of episodes"):
        read_results(tmp_path)


def test_an_episode_run_again_after_an_error_counts_once(copy):
    good = (copy / "episodes.jsonl").read_text()
    (copy / "episodes.jsonl").write_text('{"seed": 0, "error": "a worker died"}\n' + good)
    read = read_results(copy)
    assert read.errors == [] and len(read.records) == 6 and read.warnings == []
    (copy / "episodes.jsonl").write_text(good + '{"seed": 0, "error": "a worker died"}\n')
    assert read_results(copy).errors == []
    (copy / "episodes.jsonl").write_text(good + '{"seed": 9, "error": "a worker died"}\n')
    read = read_results(copy)
    assert [e["seed"] for e in read.errors] == [9] and read.summary["overall"]["n"] == 6
    assert "a worker died" in run_page(read).html()


def test_records_of_before_the_schema_are_still_told(copy):
    rewrite(copy, lambda r: {k: v for k, v in r.items() if k not in NEW and k not in derive(r)})
    (copy / "run.json").write_text(json.dumps(OLD))
    read = read_results(copy)
    assert any("before schema 1" in line for line in read.warnings)
    assert read.summary["counts"]["recoveries"] is None and read.summary["overall"]["successes"] == 6
    text = run_page(read).markdown()
    assert "recoveries an episode" not in text and "not known" in text
