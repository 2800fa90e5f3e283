"""Instructions read back: every sampled wording is understood, and as nothing but what it was made from."""

from __future__ import annotations

import pytest

from envs.suites import EVALUATION_START, SUITES, suite_task
from envs.tabletop.reading import fits, read, scenes


@pytest.mark.parametrize("suite", ["core", "long", "unseen", "memory"])
def test_every_wording_is_read_as_what_it_asks(suite):
    for family in SUITES[suite].families:
        for seed in range(150):
            task = suite_task(suite, seed, family)
            asked = read(task.instruction)
            assert asked is not None and fits(asked, task), task.instruction


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("Put the red block in the drawer, and close it!", ("stow", frozenset({"red"}))),
        ("press the red button twice", ("press", ("red", "red"))),
        ("stack red on blue", ("stack", ("blue", "red"))),
        ("tidy up the table", ("clear", "all")),
        ("swap the red and the blue blocks please", ("swap", frozenset({"red", "blue"}))),
        ("dance", None),
        ("put the red block on the moon", None),
        ("swap red and red", None),
        ("", None),
    ],
)
def test_a_persons_words(words, asked):
    assert read(words) == asked


def test_another_goal_does_not_fit():
    task = suite_task("core", 2, "stow")
    (block,) = task.params["blocks"]
    assert fits(read(f"stow the {block} block in the drawer"), task)
    other = "red" if block != "red" else "blue"
    assert not fits(read(f"stow the {other} block in the drawer"), task)
    assert not fits(read("clear the table"), task)


def test_a_table_is_found_for_a_sentence():
    asked = read("put the red block in the drawer and close it")
    seed = next(scenes(asked))
    task = suite_task("core", EVALUATION_START + seed)
    assert task.family == "stow" and task.params["blocks"] == ("red",)
    assert next(scenes(("swap", frozenset({"red", "blue"})), "unseen"), None) is None
