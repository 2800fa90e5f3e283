"""Result folders compared: pairs, strata, verdicts, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.evaluation.comparison import compare
from agent.evaluation.paired import mcnemar, paired_interval, stratified_difference
from agent.evaluation.runner import evaluate
from agent.evaluation.settings import Settings
from agent.evaluation.statistics import wilson
from backbone.errors import UserError
from steersman.cli import main

FAMILIES = ("sort", "stow")
TEACHER = Settings(family="press", planner="oracle", controller="teacher")


def record(seed: int, success: bool | None, **more) -> dict:
    family = FAMILIES[seed % 2]
    told = {"seed": seed, "suite": "core", "family": family, "instruction": f"{family} {seed}"}
    return told | {"success": success} | more


def write(folder: Path, records: list[dict], ended: bool = True, versions: str = "4.0.0", **settings) -> Path:
    folder.mkdir(parents=True)
    (folder / "episodes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / "run.json").write_text(json.dumps({"suite": "core", "execute": 8} | settings))
    if ended:
        (folder / "summary.json").write_text(json.dumps({"versions": {"mujoco": versions}}))
    return folder


@pytest.fixture
def two(tmp_path) -> list[Path]:
    """100 seeds; of sort the second solves seeds 0, 2, .., 18 alone, of stow the first 1 and 3."""
    first = [record(seed, seed >= 20 or seed % 2 == 1) for seed in range(100)]
    second = [record(seed, seed not in (1, 3)) for seed in range(100)]
    return [write(tmp_path / "a", first), write(tmp_path / "b", second)]


def test_pairs_per_family_and_overall(two):
    found = compare(two)["comparisons"][0]
    sort, stow, overall = found["families"]["sort"], found["families"]["stow"], found["overall"]
    assert (sort["only_first"], sort["only_second"], sort["pairs"]) == (0, 10, 50)
    assert (stow["only_first"], stow["only_second"], stow["pairs"]) == (2, 0, 50)
    assert sort["first"]["successes"] == 40 and sort["second"]["successes"] == 50
    assert sort["mcnemar"] == mcnemar(10, 0) and overall["mcnemar"] == mcnemar(10, 2)
    assert (sort["difference"]["low"], sort["difference"]["high"]) == paired_interval(10, 0, 50)
    assert tuple(overall["difference"].values()) == stratified_difference([10, 0], [0, 2], [50, 50])
    assert overall["first"]["rate"] == pytest.approx(0.9) and overall["second"]["rate"] == pytest.approx(0.98)
    # sort: 0, 2, 4, ... are losses of the first, one after the other: nine of one kind are enough
    assert sort["sequential"]["verdict"] == "better" and sort["sequential"]["settled_at"] == 9
    assert stow["sequential"]["verdict"] is None and stow["sequential"]["more_pairs"] > 50
    assert [(d["seed"], d["solved_by"]) for d in found["differ"]][:3] == [(0, "b"), (1, "a"), (2, "b")]
    turned = compare(two[::-1])["comparisons"][0]["overall"]
    assert turned["difference"]["value"] == -overall["difference"]["value"]
    assert turned["difference"]["low"] == pytest.approx(-overall["difference"]["high"])


def test_equal_weights_do_not_let_the_bigger_family_win(tmp_path):
    """10 seeds of sort, where the second is worse, 90 of stow, where it is a little better."""
    seeds = [*range(0, 20, 2), *range(1, 181, 2)]
    first = [record(s, s % 2 == 0 or s > 20) for s in seeds]
    second = [record(s, s % 2 == 1) for s in seeds]
    folders = write(tmp_path / "a", first), write(tmp_path / "b", second)
    by_pairs, equal = (compare(folders, w)["comparisons"][0]["overall"] for w in ("pairs", "equal"))
    assert by_pairs["difference"]["value"] == pytest.approx(0.0)
    assert equal["difference"]["high"] < 0 and equal["second"]["rate"] == pytest.approx(0.5)


def test_errors_are_counted_apart_and_not_paired(tmp_path, two):
    """An error that went well when it was tried again is no error."""
    records = [record(0, True), record(1, True), {"seed": 2, "error": "RuntimeError: no"}]
    records += [{"seed": 3, "error": "the worker process ended with -9"}, record(3, False), record(4, None)]
    found = compare([two[0], write(tmp_path / "c", records)])
    second, comparison = found["results"][1], found["comparisons"][0]
    assert (second["episodes"], second["errors"], second["error_seeds"], second["unjudged"]) == (3, 1, [2], 1)
    assert comparison["overall"]["pairs"] == 3 and comparison["unpaired"] == {"a": 97, "c": 0}
    assert any("1 episodes with errors" in note and "seeds 2" in note for note in found["notes"])


def test_several_are_all_compared_with_the_first(tmp_path, two):
    same = write(tmp_path / "c", [record(seed, seed >= 20 or seed % 2 == 1) for seed in range(100)])
    found = compare([*two, same])
    b, c = (comparison["overall"] for comparison in found["comparisons"])
    assert b["mcnemar_holm"] == pytest.approx(2 * b["mcnemar"]) and c["mcnemar_holm"] == 1.0
    assert b["sequential"]["level"] == 0.025 and b["sequential"]["p_holm"] == 2 * b["sequential"]["p"]
    assert c["difference"]["value"] == 0 and c["sequential"]["more_pairs"] is None
    alone = compare(two)["comparisons"][0]["overall"]
    assert alone["mcnemar_holm"] == alone["mcnemar"] and alone["sequential"]["level"] == 0.05


def test_the_command_says_it_and_writes_it(tmp_path, two, capsys):
    out = tmp_path / "deep" / "found.json"
    assert main(["compare", *map(str, two), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "10 : 0" not in said and "0 : 10" in said and "better, after 9 pairs" in said
    assert "only b solves sort 0, 2, 4" in said and "only a solves stow 1, 3" in said
    assert "overall: a 90.0%" in said and "Holm" not in said
    assert json.loads(out.read_text()) == compare(two)
    again = write(tmp_path / "deeper" / "b", [record(seed, True) for seed in range(100)])
    assert main(["compare", *map(str, two), str(again)]) == 0
    said = capsys.readouterr().out
    assert "Holm's correction" in said and "deeper/b" in said  # as much of a name as tells them apart


def test_what_evaluate_writes_can_be_compared(tmp_path):
    """Real episodes; the second evaluation stopped when it was sure."""
    evaluate(TEACHER, range(8), tmp_path / "a", workers=0)
    summary = evaluate(TEACHER, range(40), tmp_path / "b", workers=0, until_sure=0.3)
    sure = summary["until_sure"]
    assert sure["verdict"] == "above" and sure["low"] > 0.3 and sure["episodes_planned"] == 40
    ran = summary["settings"]["episodes"]
    assert ran < 8 and summary["overall"]["n"] == ran
    found = compare([tmp_path / "a", tmp_path / "b"])
    row = found["comparisons"][0]["overall"]
    assert row["pairs"] == ran and row["first"]["rate"] == row["second"]["rate"] == 1.0
    assert row["first"]["low"] == pytest.approx(wilson(ran, ran)[0])
    assert any("stopped early" in note for note in found["notes"])
    # the same again, from the records alone; and with processes, which begin more than they need
    again = evaluate(TEACHER, range(40), tmp_path / "b", workers=0, until_sure=0.3)
    assert again["overall"] == summary["overall"] and again["episodes_resumed"] == ran
    apart = evaluate(TEACHER, range(40), tmp_path / "c", workers=2, until_sure=0.3)
    assert apart["overall"] == summary["overall"] and apart["until_sure"] == sure


def test_an_evaluation_that_has_not_ended_is_pointed_out(tmp_path, two):
    cut = write(tmp_path / "c", [record(seed, True) for seed in range(10)], ended=False)
    assert any("has not ended" in note for note in compare([two[0], cut])["notes"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"execute": 4}, ("execute", "8", "4")),
        ({"suite": "long"}, ("suite", "core", "long")),
        ({"versions": "3.3.1"}, ("mujoco", "4.0", "3.3")),
    ],
)
def test_different_protocols_are_not_compared(tmp_path, two, settings, words):
    other = write(tmp_path / "c", [record(seed, True) for seed in range(10)], **settings)
    with pytest.raises(UserError) as told:
        compare([two[0], other])
    assert all(word in str(told.value) for word in (*words, "one protocol"))


def test_what_is_compared_is_said(tmp_path, two):
    """Settings that may differ; one that an older run does not tell is what it was then."""
    late = {"clock": "realtime", "plan_delay": 300.0, "batch": 1, "device": "cuda", "planner": "oracle"}
    other = write(tmp_path / "c", [record(seed, True) for seed in range(10)], **late)
    (note,) = compare([two[0], other])["notes"]
    assert note == (
        "a and c differ in planner (learned, oracle), clock (sync, realtime), plan_delay (None, 300.0), "
        "device (None, cuda)"
    )
    assert compare(two)["notes"] == []


def lines(*records, end: str = "\n") -> str:
    return "\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + end


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (lines(record(0, True), '{"seed": 1, "suc', end=""), ("episodes.jsonl, line 2", "whole JSON")),
        (lines(record(0, True), "[1, 2]"), ("line 2", "whole JSON")),
        (lines(record(0, True), "", record(1, True)), ("line 2",)),
        (lines({"seed": 0, "success": True}), ("line 1", "no 'suite'")),
        (lines(record(0, "yes")), ("line 1", "success", "'yes'")),
        (lines(record(0, True) | {"instructions": [3]}), ("line 1", "what was said", "seed 0")),
        (lines(record(0, True) | {"seed": "0"}), ("line 1", "seed", "'0'")),
        (lines(record(0, True), record(1, True), record(0, False)), ("line 3", "seed 0 of sort again")),
        (lines(record(200, True)), ("seeds in common", "100 and 1")),
        (lines(record(0, True) | {"instruction": "do what you like"}), ("seed 0", "do what you like")),
        (lines({"seed": 0, "error": "no"}), ("finished episodes", "1 with errors")),
        ("", ("finished episodes, got none",)),
        ("\xff\xfe", ("line 1",)),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(tmp_path, two, capsys, text, words):
    other = write(tmp_path / "c", [])
    (other / "episodes.jsonl").write_text(text, encoding="latin-1")
    assert main(["compare", str(two[0]), str(other)]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and all(word in told[0] for word in words), told


def test_folders_that_are_none(tmp_path, two, capsys):
    for folders, words in (
        ([two[0]], "at least 2"),
        ([two[0], two[0] / "."], "different folders"),
        ([two[0], tmp_path], "found no episodes.jsonl"),
        ([two[0], tmp_path / "nowhere"], "found no episodes.jsonl"),
    ):
        assert main(["compare", *map(str, folders)]) == 2
        assert words in capsys.readouterr().err
    (two[1] / "run.json").unlink()
    (two[1] / "summary.json").unlink()
    assert main(["compare", *map(str, two)]) == 2 and "found neither" in capsys.readouterr().err
    (two[1] / "run.json").write_text("{")
    assert main(["compare", *map(str, two)]) == 2 and "run.json" in capsys.readouterr().err
    with pytest.raises(UserError, match="weights"):
        compare(two, "by taste")


def test_until_sure_wants_a_rate(tmp_path, capsys):
    arguments = ["evaluate", "--planner", "oracle", "--controller", "teacher", "--out", str(tmp_path)]
    assert main([*arguments, "--until-sure", "95"]) == 2
    assert "between 0 and 1, got 95" in capsys.readouterr().err
