"""The report says what the records say: nothing else, and all of it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from html.parser import HTMLParser

import pytest
from recorded import OLD, records, rewrite

from agent.evaluation import figures
from agent.evaluation.films import film
from agent.evaluation.page import Cell, Page, Table, Text
from agent.evaluation.report import NO_PLOTS, run_page
from agent.evaluation.results import read_results
from agent.evaluation.sidebyside import comparison_page
from backbone.errors import UserError
from steersman.cli import main

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


def test_where_the_time_goes_how_old_plans_are_and_where_episodes_begin(solved, copy):
    text = run_page(read_results(solved)).markdown()
    read = read_results(solved)
    share = read.summary["timings"]["share"]
    told = " | ".join(f"{share[part]:.1%}" for part in ("world", "rendering", "thinking", "harness"))
    assert f"| {told} |" in text and sum(share.values()) == pytest.approx(1.0)
    assert "age of a plan" not in text and "| state |" not in text and "published initial" not in text
    run = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(run | {"clock": "realtime", "plan_delay": 300.0}))
    rewrite(copy, lambda r: r | {"looks": [x | {"age": 6} for x in r["looks"]], "state_id": r["seed"] + 40})
    text = run_page(read_results(copy)).markdown()
    looks = sum(len(r["looks"]) for r in read.records)
    assert f"| age of a plan when it comes | {looks} | 300.0 | 300.0 | 300.0 | 300.0 |" in text
    assert "| published initial states | 40 to 45, 6 of them |" in text and "| state |" in text
    rewrite(copy, lambda r: r | {"timings": {k: v for k, v in r["timings"].items() if k != "seconds"}})
    assert "share of the wall time" not in run_page(read_results(copy)).markdown()


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
