"""Records say what happened, and the report says what the records say: nothing else, and all of it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from agent.evaluation import figures
from agent.evaluation.analysis import REASONS, attempts, derive, kind, reason, setbacks, teacher_timeline
from agent.evaluation.films import film
from agent.evaluation.page import Cell, Page, Table, Text
from agent.evaluation.provenance import SCHEMA, schema
from agent.evaluation.report import NO_PLOTS, run_page
from agent.evaluation.results import read_results
from agent.evaluation.runner import evaluate
from agent.evaluation.settings import Settings, build
from agent.evaluation.sidebyside import comparison_page
from backbone.errors import UserError
from highlevel.plan import Plan
from lowlevel.controller import ActionChunk
from steersman.cli import main

TEACHER = Settings(planner="oracle", controller="teacher")
NEW = ("initial_state", "teacher", "progress_steps")  # to a record of schema 1, besides what is derived
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


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """Six episodes of the teacher, one a family."""
    folder = tmp_path_factory.mktemp("results") / "teacher"
    evaluate(TEACHER, range(6), folder, workers=0)
    return folder


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """Three of one who says "done" at once."""
    folder = tmp_path_factory.mktemp("results") / "idle"
    evaluate(Settings(), range(7, 10), folder, workers=0, policy=Idle("done"))
    return folder


@pytest.fixture(scope="module")
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
    agent.controller = Idle("")  # the planner is right, and nothing comes of it
    stuck = episode(env, agent, 7)
    agent.planner, agent.policy, agent._joint = "learned", Idle("open the drawer"), True
    wrong = episode(env, agent, 7)
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
        ("{half", ("episodes.jsonl: line 2", "no JSON")),
        ("[1, 2]", ("line 2", "got list")),
        ('{"seed": "one"}', ("line 2", "seed", "'one'")),
        ('{"seed": 1}', ("line 2", "'family'", "seed 1")),
    ],
)
def test_a_corrupt_record_is_named_by_file_and_line(copy, line, words):
    first, _, *rest = (copy / "episodes.jsonl").read_text().splitlines()
    (copy / "episodes.jsonl").write_text("\n".join([first, line, *rest]) + "\n")
    with pytest.raises(UserError) as error:
        read_results(copy)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_a_record_with_a_broken_part_is_named(copy):
    rewrite(copy, lambda r: r | ({"looks": [{"tick": 3}]} if r["seed"] == 2 else {}))
    with pytest.raises(UserError, match="line 3: expected a whole record of seed 2"):
        read_results(copy)


def test_folders_without_results_are_refused(tmp_path):
    with pytest.raises(UserError, match="found none at"):
        read_results(tmp_path / "nowhere")
    with pytest.raises(UserError, match="found none"):
        read_results(tmp_path)
    (tmp_path / "episodes.jsonl").write_text("\n")
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


# -- pages


class Reader(HTMLParser):
    """Which tags are not closed, and what a page would fetch."""

    VOID = {"meta", "use", "path", "source"}

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.ids, self.words = [], [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self._look(attributes)

    def handle_startendtag(self, tag, attributes):
        self._look(attributes)

    def _look(self, attributes):
        for name, value in attributes:
            if name in ("src", "href", "xlink:href") and not value.startswith(("#", "data:")):
                self.fetched.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        self.words.append(data)


def parsed(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert not reader.open and not reader.fetched and len(set(reader.ids)) == len(reader.ids)
    return reader


def test_the_page_of_a_run_stands_alone_and_tells_what_the_records_do(failed, solved):
    html = run_page(read_results(failed)).html()
    words = " ".join(parsed(html).words)
    assert "solved, 0 of 3; 95% 0.0% to 56.1%" in words and "premature done" in words
    assert all(record["instruction"] in words for record in records(failed))
    assert "@import" not in html and "url(http" not in html
    for record in records(failed):
        assert f"Seed {record['seed']}, {record['family']}" in words
    good = run_page(read_results(solved))
    assert "Nothing failed." in " ".join(parsed(good.html()).words)
    seen = sum(r["decisions"]["seen"] for r in records(solved))
    assert f"| 100.0% ({seen} of {seen}) |" in good.markdown()


@pytest.mark.skipif(not figures.available(), reason="needs the extra `plots`")
def test_figures_take_the_colours_of_the_page(failed):
    html = run_page(read_results(failed)).html()
    drawn = re.findall(r"<svg.*?</svg>", html, flags=re.S)
    assert len(drawn) >= 5  # rates, solved by, subtasks, latency and the failures
    assert all("var(--" in svg and not any(name in svg for name in figures.NAMES) for svg in drawn)
    assert figures.timeline(records(failed)[0]).count("<text") >= 3
    assert run_page(read_results(failed)).html() == html  # the same records, the same page


def test_without_matplotlib_there_are_tables(failed, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    html = run_page(read_results(failed)).html()
    parsed(html)
    assert NO_PLOTS in html.replace("&#x27;", "'") and "<svg" not in html and "premature done" in html


def test_words_cannot_break_a_page():
    page = Page("<b>", blocks=[Text("a <script> & b"), Table(["a|b"], [[Cell("<i>", "good")]])])
    assert "<script>" not in page.html() and "<i>" not in page.html()
    assert "a\\|b" in page.markdown() and "<script>" not in page.markdown()
    parsed(page.html())


def test_runs_side_by_side(solved, failed, tmp_path):
    other = shutil.copytree(solved, tmp_path / "other")
    rewrite(other, lambda r: r | ({"success": False, "success_time": None} if r["seed"] in (1, 4) else {}))
    runs = [read_results(solved), read_results(other), read_results(failed)]
    page = comparison_page(runs)
    text, html = page.markdown(), page.html()
    parsed(html)
    assert "teacher  ######" in text and "other    #.##.#" in text and "0 seeds in common" in text
    assert "| overall | 100.0% (61.0% to 100.0%) | 66.7% (30.0% to 90.3%) |" in text
    pair = comparison_page(runs[:2]).markdown()
    assert "| only teacher | 2 |" in pair and "| all | 4 |" in pair and "Where they differ: 2" in pair


def test_runs_that_do_not_compare(solved, tmp_path):
    other = shutil.copytree(solved, tmp_path / "other")
    rewrite(other, lambda r: r | {"initial_state": "0" * 16})
    page = comparison_page([read_results(solved), read_results(other)])
    assert "6 seeds began differently in different runs, the first of them 0" in page.markdown()
    (other / "run.json").write_text(json.dumps(OLD | {"suite": "long"}))
    with pytest.raises(UserError, match="results of one suite, got core in teacher and long in other"):
        comparison_page([read_results(solved), read_results(other)])


# -- videos and the command


def test_an_episode_is_played_anew(copy, tmp_path):
    import av

    read = read_results(copy)
    shortest = min(read.records, key=lambda r: r["steps"])
    films, notes = film(read, [shortest["seed"]])
    mp4, about = films[shortest["seed"]]
    assert notes == [] and "did not go as recorded" not in about
    (tmp_path / "film.mp4").write_bytes(mp4)
    with av.open(str(tmp_path / "film.mp4")) as shown:
        frames = sum(1 for _ in shown.decode(shown.streams.video[0]))
    assert frames == shortest["steps"] // 4  # of 20 ticks a second, ten pictures a second, twice as fast
    html = run_page(read, films).html()
    parsed(html)


def test_no_videos_where_the_weights_are_not_there(failed, copy):
    films, notes = film(read_results(failed), [7])  # a policy object, not the checkpoint its settings name
    assert films == {} and len(notes) == 1 and notes[0].startswith("no videos: ")
    run = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(run | {"planner": "learned", "checkpoint": "nowhere"}))
    films, notes = film(read_results(copy), [0])
    assert films == {} and "nowhere" in notes[0]
    (copy / "run.json").write_text("{")
    assert film(read_results(copy), [0])[0] == {}


def test_the_command_writes_a_page(solved, failed, tmp_path, capsys):
    html, markdown = tmp_path / "deep" / "page.html", tmp_path / "page.md"
    assert (
        main(["report", str(failed), "--out", str(html), "--markdown", str(markdown), "--videos", "1"]) == 0
    )
    assert "0 of 3 solved" in capsys.readouterr().out
    assert "no videos: " in html.read_text() and markdown.read_text().startswith("# Evaluation of idle")
    assert main(["report", str(solved), str(failed), "--out", str(html)]) == 0
    assert "Runs side by side" in html.read_text() and not list(tmp_path.rglob("*.part"))


def test_two_folders_of_one_name_are_told_apart(solved, tmp_path):
    shutil.copytree(solved, tmp_path / "second" / "teacher")
    out = tmp_path / "page.html"
    assert main(["report", str(solved), str(tmp_path / "second" / "teacher"), "--out", str(out)]) == 0
    assert "second/teacher" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ("a folder of results",)),
        (["nowhere"], ("nowhere",)),
        (["RESULTS", "--videos", "-1"], ("videos", "-1")),
        (["RESULTS", "RESULTS", "--videos", "2"], ("videos", "one folder", "2")),
        (["RESULTS", "--out", "/proc/nothing/page.html"], ("/proc/nothing",)),
    ],
)
def test_mistakes_are_told_in_one_line(solved, capsys, arguments, words):
    assert main(["report", *(str(solved) if a == "RESULTS" else a for a in arguments)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and all(word in lines[0] for word in words)
