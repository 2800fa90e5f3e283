"""The page of a blame matrix says what the cells' records say, and what is missing or does not agree."""

from __future__ import annotations

import json
import shutil

import pytest
from recorded import rewrite
from test_report import parsed

from agent.evaluation.blame import BLAME, blame
from agent.evaluation.blamepage import blame_page, is_blame, read_blame
from agent.evaluation.settings import Settings
from backbone.errors import UserError
from steersman.cli import main

ROWS = ("oracle", "frozen", "shuffled", "empty")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two seeds, with the teacher's plans and a hand that obeys: no network, and all that a page tells."""
    out = tmp_path_factory.mktemp("blame") / "small"
    settings = Settings(family="press", planner="oracle")
    report = blame(settings, range(2), out, workers=0, rows=ROWS, columns=("obedient",), told=False)
    return out, report


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The agent itself on one seed, its words taken away, and its counterfactuals."""
    out = tmp_path_factory.mktemp("blame") / "told"
    return out, blame(Settings(family="press"), [3], out, 0, rows=("learned", "empty"), columns=("learned",))


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole[0], tmp_path / "copy")


def test_the_page_tells_what_the_run_found(whole):
    out, report = whole
    read = read_blame(out)
    assert all(read.report[key] == report[key] for key in ("base", "rows", "columns", "cells", "losses"))
    assert read.notes == ["the counterfactuals were not run"]
    page = blame_page(read)
    text, words = page.markdown(), " ".join(parsed(page.html()).words)
    assert "| oracle | 2/2 = 100% (34% to 100%) |" in text and "| empty | - |" in text
    assert "no such cell: the teacher's hand" in text and "by family" in words
    lost = report["cells"]["frozen-obedient"]["difference"]["difference"]
    assert f"{lost * 100:+.0f} points" in words and "oracle-obedient" in words


def test_counterfactuals_are_told_and_checked(told, tmp_path):
    out, report = told
    read = read_blame(out)
    assert read.notes == [] and read.report["counterfactuals"] == report["counterfactuals"]
    assert read.report["losses"] == report["losses"] and read.report["losses"][0]["what"] == "any plan"
    text = blame_page(read).markdown()
    assert all(words in text for words in ("told otherwise", "asked otherwise", "any plan"))
    other = shutil.copytree(out, tmp_path / "other")
    rewrite(other / "counterfactuals", lambda r: r | {"trials": [t | {"followed": 1} for t in r["trials"]]})
    with pytest.raises(UserError, match="line 1: expected 'followed' of another kind"):
        read_blame(other)
    rewrite(other / "counterfactuals", lambda r: r | {"trials": []})
    read = read_blame(other)
    assert any(line.startswith("blame.json disagrees") for line in read.notes)
    assert "No trial was made." in blame_page(read).markdown()


def test_what_blame_json_says_is_not_believed(copy):
    honest = blame_page(read_blame(copy)).markdown()
    rewrite(copy / "oracle-obedient", lambda r: r | {"success": False, "success_time": None})
    read = read_blame(copy)
    assert any("cells.oracle-obedient.overall.successes is 2 there, 0 in" in line for line in read.notes)
    assert "| oracle | 0/2 = 0% (0% to 66%) |" in blame_page(read).markdown() != honest
    (copy / BLAME).write_text("{")
    assert any(line.startswith("there is no blame.json") for line in read_blame(copy).notes)


def test_cells_that_are_missing_or_not_finished_are_named(copy):
    shutil.rmtree(copy / "frozen-obedient")
    lines = (copy / "shuffled-obedient" / "episodes.jsonl").read_text().splitlines()
    (copy / "shuffled-obedient" / "episodes.jsonl").write_text(lines[0] + "\n")
    (copy / "shuffled-obedient" / "summary.json").unlink()
    read = read_blame(copy)
    assert "not run: frozen-obedient" in read.notes
    assert any(line.startswith("shuffled-obedient: 1 of 2 seeds") for line in read.notes)
    assert any(line.startswith("shuffled-obedient: there is no summary.json") for line in read.notes)
    page = blame_page(read)
    parsed(page.html())
    assert "| frozen | - |" in page.markdown()
    (copy / BLAME).unlink()  # a run that was killed: what was asked for is what is asked for by default
    assert is_blame(copy) and "learned-learned" in next(n for n in read_blame(copy).notes if "not run" in n)
    run = json.loads((copy / "shuffled-obedient" / "run.json").read_text())
    (copy / "shuffled-obedient" / "run.json").write_text(json.dumps(run | {"execute": 3}))
    assert any("not of one experiment: execute is" in line for line in read_blame(copy).notes)


def test_a_matrix_whose_base_is_missing_still_has_a_page(copy):
    shutil.rmtree(copy / "oracle-obedient")
    read = read_blame(copy)
    assert read.report["losses"] == [] and "not run: oracle-obedient" in read.notes
    assert "No two cells to compare." in blame_page(read).markdown()
    for name in ("frozen", "shuffled"):
        (copy / f"{name}-obedient" / "episodes.jsonl").write_text('{"seed": 0, "er')
    with pytest.raises(UserError, match="PLANNER-CONTROLLER"):
        read_blame(copy)


def test_the_command_chooses_the_page_by_the_folder(whole, solved, tmp_path, capsys):
    out, markdown = tmp_path / "page.html", tmp_path / "page.md"
    assert main(["report", str(whole[0]), "--out", str(out), "--markdown", str(markdown)]) == 0
    assert "oracle-obedient: 2 of 2 solved" in capsys.readouterr().out
    assert markdown.read_text().startswith("# Blame: small") and "<svg" in out.read_text()
    assert not is_blame(solved) and not is_blame(tmp_path)
    for more in ([str(solved)], ["--videos", "1"]):
        assert main(["report", str(whole[0]), *more]) == 2
        line = capsys.readouterr().err.strip()
        assert line.startswith("error: ") and "blame folder" in line and "\n" not in line
