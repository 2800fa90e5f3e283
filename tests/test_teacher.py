"""The teacher reaches every goal, from its own states and from states it would not get into."""

import numpy as np
import pytest

from envs.errors import WorldError
from envs.suites import SUITES, suite_task
from envs.tabletop import language as L
from envs.tabletop import skills
from envs.tabletop.scene import Scene
from envs.tabletop.tasks import Task, swap_goal
from envs.tabletop.teacher import Teacher
from envs.tabletop.world import World


@pytest.fixture(scope="module")
def world():
    return World(render=False)


def run(world, task, disturb=None, limit=None):
    """Drives until success; returns the subtasks in order without repeats, and whether it succeeded."""
    teacher, said = Teacher(), []
    for tick in range(limit or task.max_steps):
        label = teacher.label(world)
        if not said or said[-1] != label.subtask:
            said.append(label.subtask)
        action = label.action
        if disturb is not None:
            action = disturb(tick, action.copy())
        world.step(action)
        if task.success(world):
            return said, True
    return said, False


@pytest.mark.parametrize("family", L.FAMILIES)
def test_reaches_the_goal(world, family):
    for seed in (20_000_001, 20_000_002):
        task = suite_task("core", seed, family)
        world.reset(task, seed)
        said, success = run(world, task)
        assert success, (task.instruction, said)
        assert set(said) <= set(L.all_subtasks())
        assert Teacher().label(world).subtask in ("done", said[-1])


def test_long_and_unseen(world):
    for suite, family in (("long", "stow"), ("long", "stack"), ("unseen", "sort")):
        task = suite_task(suite, 20_000_003, family)
        world.reset(task, 3)
        assert run(world, task)[1], task.instruction


@pytest.mark.parametrize("family", ["sort", "press", "stow"])
def test_reaches_the_goal_with_bursts_of_noise(world, family):
    task = suite_task("core", 20_000_007, family)
    world.reset(task, 7)
    rng = np.random.default_rng(7)

    def disturb(tick, action):
        if tick % 30 >= 25:
            action[:6] += rng.normal(0, 0.5, 6)
            action[6] = rng.choice([-1.0, 1.0])
        return action

    assert run(world, task, disturb)[1]


def test_labels_are_a_function_of_the_state(world):
    task = suite_task("core", 20_000_004, "clear")
    world.reset(task, 4)
    teacher = Teacher()
    for _ in range(45):
        world.step(teacher.label(world).action)
    here = world.save()
    first = teacher.label(world)
    for _ in range(20):
        world.step(teacher.label(world).action)
    world.restore(here)
    again = Teacher().label(world)
    assert first.subtask == again.subtask and first.point == again.point and first.memory == again.memory
    assert np.array_equal(first.action, again.action)
    assert first.action.shape == (7,) and first.action.dtype == np.float32 and np.abs(first.action).max() <= 1


def test_points_lie_in_the_picture(world):
    for suite in SUITES:
        for seed in range(6):
            task = suite_task(suite, 20_000_010 + seed)
            world.reset(task, seed)
            y, x = Teacher().label(world).point
            assert 0 < y < 1 and 0 < x < 1


def hold(world, color, task):
    """The block in the hand, lifted, whatever the task thinks of it."""
    grab = Task("sort", "", dict(moves=((color, "nowhere"),), bins=(), others=()))
    world.task = grab
    teacher = Teacher()
    for _ in range(60):
        world.step(skills.pick(world, color))
        if skills.in_hand(world) == color and world.block_pos(color)[2] > 0.09:
            break
    assert skills.in_hand(world) == color
    world.task = task
    return teacher.label(world)


def test_a_wrong_block_in_the_hand_is_put_down(world):
    task = Task("sort", "x", dict(moves=(("red", "blue"),), bins=("blue",), others=("green",)))
    blocks = {"red": (0.4, 0.2, 0.02, 0.3), "green": (0.4, -0.2, 0.02, 0.0)}
    world.reset_scene(Scene(blocks=blocks, bins={"blue": (0.55, 0.0)}))
    assert hold(world, "green", task).subtask == "put the green block on the table"
    said, success = run(world, task)
    assert success and said[1] == "pick up the red block"


def test_a_drawer_that_fell_shut_is_opened_again(world):
    task = Task("stow", "x", dict(blocks=("red",), others=()))
    world.reset_scene(Scene(blocks={"red": (0.42, 0.28, 0.02, 0)}, drawer=(0.6, 0.0), drawer_opening=0.14))
    assert hold(world, "red", task).subtask == "put the red block in the drawer"
    world.set_drawer(0.0)
    said, success = run(world, task)
    assert success
    assert said[0] == "put the red block on the table" and "open the drawer" in said
    assert said.index("open the drawer") < said.index("put the red block in the drawer")


def test_memory_tells_what_the_picture_does_not(world):
    press = Task("press", "x", dict(sequence=("red", "red"), buttons=("red", "blue")))
    world.reset_scene(Scene(buttons={"red": (0.5, 0.1), "blue": (0.5, -0.1)}))
    world.task = press
    seen, teacher = [], Teacher()
    for _ in range(press.max_steps):
        label = teacher.label(world)
        if not seen or seen[-1] != (label.memory, label.subtask):
            seen.append((label.memory, label.subtask))
        world.step(label.action)
        if press.success(world):
            break
    assert seen == [
        ("nothing", "press the red button"),
        ("pressed red up", "lift from the red button"),
        ("pressed red", "press the red button"),
        ("pressed red red up", "lift from the red button"),
    ]
    swap = suite_task("memory", 20_000_001, "swap")
    world.reset(swap, 1)
    start = Teacher().label(world).memory
    assert start == L.swap_memory(swap.params["places"])
    for color, side in swap_goal(swap).items():
        world.place_block(color, world.mat_pos(L.SIDES.index(side)) + (0, 0, 0.02))
    label = Teacher().label(world)
    assert label.subtask == "done" and label.point is None and label.memory == start


def test_needs_a_task():
    with pytest.raises(WorldError, match="task"):
        Teacher().label(World(render=False))


def test_a_block_on_another_is_taken_off(world):
    task = Task("stack", "x", dict(tower=("green", "red"), others=("yellow",)))
    blocks = {
        "red": (0.35, 0.21, 0.02, 0.0),
        "yellow": (0.35, 0.212, 0.06, 0.0),
        "green": (0.46, -0.02, 0.02, 0.0),
    }
    world.reset_scene(Scene(blocks=blocks))
    world.task = task
    said, success = run(world, task)
    assert success and said[:2] == ["pick up the yellow block", "put the yellow block on the table"]


def test_the_words_tell_how_high_a_block_goes(world):
    task = Task("stack", "x", dict(tower=("green", "red", "blue"), others=()))
    blocks = {"red": (0.5, 0.1, 0.02, 0.0), "green": (0.4, 0.0, 0.02, 0.0), "blue": (0.5, -0.1, 0.02, 0.0)}
    world.reset_scene(Scene(blocks=blocks))
    world.task = task
    said, success = run(world, task)
    assert success and said[1] == "stack the red block on the green block"
    assert said[3] == "stack the blue block on the red block two up"


def test_a_hand_with_nothing_to_do_goes_home_over_what_stands_there(world):
    task = Task("stack", "x", dict(tower=("green", "red"), others=()))
    blocks = {"green": (0.6, 0.2, 0.02, 0.0), "red": (0.6, 0.2, 0.06, 0.0)}
    world.reset_scene(Scene(blocks=blocks, arm_offset=(0.18, 0.2, -0.17, 0.0, 0.04)))
    world.task = task
    assert Teacher().label(world).subtask == "done" and world.eef_pos()[2] < 0.08
    for _ in range(45):
        world.step(Teacher().label(world).action)
    assert np.allclose(world.eef_pos(), skills.HOME, atol=0.01)
    assert task.success(world), "the tower still stands"
