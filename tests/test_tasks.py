"""Tasks, wordings and suites: what is asked is on the table, said in known words, and never leaks from
`unseen`."""

import numpy as np
import pytest

from envs.errors import WorldError
from envs.suites import EVALUATION_START, SUITES, suite_family, suite_task
from envs.tabletop import language as L
from envs.tabletop import tasks
from envs.tabletop.sampling import RESERVED_SORT, RESERVED_STACK, sample_task
from envs.tabletop.scene import Scene
from envs.tabletop.world import World

SEEDS = range(120)


@pytest.fixture(scope="module")
def world():
    return World(render=False)


def pairs(task):
    """The (reserved kind, upper/block, lower/bin) pairs that a task and its corrections ask for."""
    for t in [task, *(e.task for e in task.events if e.task)]:
        if t.family == "sort":
            yield from (RESERVED_SORT[c] == b for c, b in t.params["moves"])
        if t.family == "stack":
            tower = t.params["tower"]
            yield from (RESERVED_STACK[up] == low for low, up in zip(tower, tower[1:], strict=False))


@pytest.mark.parametrize("suite", SUITES)
def test_tasks_are_repeatable_and_said_in_known_words(suite):
    words = set(L.all_words())
    for seed in SEEDS:
        task = suite_task(suite, seed)
        assert task == suite_task(suite, seed)
        for t in [task, *(e.task for e in task.events if e.task)]:
            said = t.instruction.split()
            assert set(said) <= words, t.instruction
            assert 1 < len(said) <= L.MAX_INSTRUCTION_WORDS
            assert t.instruction == " ".join(said).lower()


@pytest.mark.parametrize("suite", SUITES)
def test_reserved_pairs_are_only_in_unseen(suite):
    asked = [p for seed in SEEDS for p in pairs(suite_task(suite, seed))]
    assert all(asked) if suite == "unseen" else not any(asked)


@pytest.mark.parametrize("suite", SUITES)
def test_scenes_hold_what_the_task_needs(suite):
    for seed in SEEDS:
        task = suite_task(suite, seed)
        scene = task.scene(np.random.default_rng(seed))
        p = task.params
        named = [c for c, _ in p.get("moves", ())] + [*p.get("tower", ()), *p.get("blocks", ())]
        named += [c for c, _ in p.get("places", ())]
        assert set(named) <= set(scene.blocks)
        assert {b for _, b in p.get("moves", ())} <= set(scene.bins)
        assert set(p.get("sequence", ())) <= set(scene.buttons)
        spots = np.array([b[:2] for b in scene.blocks.values()])
        for i, a in enumerate(spots):
            for b in spots[i + 1 :]:
                assert np.abs(a - b).max() > 0.08
            for b in scene.bins.values():
                assert np.abs(a - b).max() > 0.1
        assert scene == task.scene(np.random.default_rng(seed))


def test_long_is_long_and_families_take_turns():
    for seed in SEEDS:
        assert 4 <= suite_task("long", seed).subtasks <= 8
    for name, suite in SUITES.items():
        n = len(suite.families)
        turn = [suite_family(name, EVALUATION_START + s) for s in range(2 * n)]
        assert sorted(turn[:n]) == sorted(suite.families) and turn[:n] == turn[n:]


def test_wordings_vary():
    for family in L.FAMILIES:
        rng = np.random.default_rng(0)
        assert len({sample_task(family, rng).instruction for _ in range(100)}) > 35


def test_unknown_names_are_one_line():
    for call in (
        lambda: suite_task("kitchen", 0),
        lambda: suite_task("core", 0, "juggle"),
        lambda: suite_task("memory", 0, "sort"),
        lambda: suite_task("core", -1),
        lambda: sample_task("juggle", np.random.default_rng(0)),
    ):
        with pytest.raises(WorldError) as error:
            call()
        assert "\n" not in str(error.value)
    with pytest.raises(WorldError, match="core, long, memory"):
        suite_task("kitchen", 0)


def test_sort_goal_in_the_world(world):
    task = tasks.Task("sort", "x", dict(moves=(("red", "blue"),), bins=("blue",), others=("green",)))
    blocks = {"red": (0.4, 0.1, 0.02, 0.0), "green": (0.4, -0.2, 0.02, 0.0)}
    world.reset_scene(Scene(blocks=blocks, bins={"blue": (0.55, 0.0)}))
    assert task.progress(world) == 0 and not task.success(world)
    world.place_block("red", (0.55, 0.01, 0.024))
    assert task.progress(world) == 1 and task.success(world)
    world.place_block("green", (0.53, -0.03, 0.024))  # a block that nobody asked for
    assert not task.success(world)


def test_a_block_in_the_air_is_not_at_its_place(world):
    task = tasks.Task("stack", "x", dict(tower=("red", "green"), others=()))
    world.reset_scene(Scene(blocks={"red": (0.4, 0.1, 0.02, 0.0), "green": (0.4, -0.2, 0.02, 0.0)}))
    world.place_block("green", (0.4, 0.1, 0.075))
    assert not task.success(world)
    world.place_block("green", (0.4, 0.1, 0.06))
    assert task.success(world)


def test_press_wants_exactly_the_order(world):
    task = tasks.Task("press", "x", dict(sequence=("red", "blue"), buttons=("red", "blue")))
    world.reset_scene(Scene(buttons={"red": (0.5, 0.1), "blue": (0.5, -0.1)}))
    seen = {}
    for log in ((), ("red",), ("red", "blue"), ("blue",), ("red", "blue", "blue"), ("red", "red", "blue")):
        world.press_log = list(log)
        seen[log] = task.progress(world), task.success(world)
    assert seen[()] == (0, False) and seen[("red",)] == (0.5, False) and seen[("red", "blue")] == (1, True)
    assert not any(seen[log][1] for log in seen if log != ("red", "blue"))


def test_swap_and_clear_and_stow_goals(world):
    mats = ((0.5, 0.16), (0.5, 0.0), (0.5, -0.16))
    swap = tasks.Task(
        "swap", "x", dict(places=(("red", "left"), ("blue", "right")), free="middle", others=())
    )
    world.reset_scene(Scene(blocks={"red": (0.5, 0.16, 0.02, 0), "blue": (0.5, -0.16, 0.02, 0)}, mats=mats))
    marks = [swap.progress(world)]
    for color, y in (("red", 0.0), ("blue", 0.16), ("red", -0.16)):
        world.place_block(color, (0.5, y, 0.02))
        marks.append(swap.progress(world))
    assert marks[0] == 0 and marks == sorted(marks) and marks[-1] == 1 and swap.success(world)
    clear = tasks.Task("clear", "x", dict(blocks=("red", "blue"), others=()))
    blocks = {"red": (0.4, 0.2, 0.02, 0), "blue": (0.4, -0.2, 0.02, 0)}
    world.reset_scene(Scene(blocks=blocks, box=(0.55, 0.0)))
    world.place_block("red", (0.56, 0.02, 0.024))
    assert clear.progress(world) == 0.5
    stow = tasks.Task("stow", "x", dict(blocks=("red",), others=()))
    world.reset_scene(Scene(blocks={"red": (0.4, 0.28, 0.02, 0)}, drawer=(0.6, 0.0), drawer_opening=0.14))
    world.place_block("red", world.drawer_pos() + (0, 0, 0.02))
    assert stow.progress(world) == 0.5
    world.reset_scene(Scene(blocks={"red": (0.4, 0.28, 0.02, 0)}, drawer=(0.6, 0.0)))
    assert stow.progress(world) == 0  # closed, but empty


def test_subtasks_and_memory_are_a_closed_set():
    sentences = L.all_subtasks()
    assert len(set(sentences)) == len(sentences)
    assert L.press_memory([], False) == "nothing"
    assert L.press_memory(["red", "blue"], True) == "pressed red blue up"
    assert L.swap_memory((("red", "left"), ("blue", "right"))) == "red left blue right"
    assert len(L.press_memory(["red"] * 40, True).split()) <= L.MAX_MEMORY_WORDS
