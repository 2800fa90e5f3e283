"""OGBench through the contract: goals in words, what the policy sees, and a teacher that looks afresh."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

pytest.importorskip("ogbench")

from benchmark_checks import check_contract, world  # noqa: E402

from envs.benchmarks.ogbench import TASKS  # noqa: E402
from envs.contract import DONE  # noqa: E402
from envs.registry import make  # noqa: E402

scene = world("ogbench_scene")
double = world("ogbench_cube_double")


def solve(env):
    """The teacher's subtasks in turn until the end -> (subtasks, info)."""
    teacher, said, done, cut = env.teacher(), [], False, False
    while not (done or cut):
        label = teacher.label()
        if label.subtask not in said[-1:]:
            said.append(label.subtask)
        _, _, done, cut, info = env.step(label.action)
    return said, info


def test_tasks_are_the_packages(scene, double):
    for env, steps in ((scene, 750), (double, 500)):
        assert tuple(task["task_name"] for task in env.world.task_infos) == TASKS[env.suite]
        assert env.max_steps == steps and env.rate == 1 / env.world.control_timestep()
    scene.begin(8)
    assert (scene.stratum, scene.trial) == ("task4_put_in_drawer", 1)


def test_contract(scene):
    check_contract(scene, {"front": (64, 64, 3)}, seeds=(3, 9), other="ogbench_cube_single")


def test_the_goal_in_words(scene, double):
    told = []
    for seed in range(5):
        scene.begin(seed)
        told.append(scene.task_description)
    assert told == [
        "open the drawer; open the window",
        "close the drawer and lock it; close the window and lock it",
        "open the drawer; close the window and leave it unlocked; "
        "move the red cube to the middle row, 15 cm right",
        "put the red cube in the drawer; close the drawer and leave it unlocked",
        "put the red cube in the drawer; close the drawer and lock it; open the window and lock it",
    ]
    told = set()
    for trial in range(6):  # the package deals the colours anew
        double.begin(5 * trial + 4)
        told.add(double.task_description)
    where = "cube to the middle row, at the centre; stack the"
    assert told == {
        f"move the red {where} blue cube on the red one",
        f"move the blue {where} red cube on the blue one",
    }


def test_the_picture_is_upright(scene):
    """The pale boxes with the buttons are near the camera, so low in the middle of the picture."""
    scene.begin(0)
    light = scene.look()["pixels"]["front"].mean(-1)
    assert light[46:57, 22:42].mean() > 100 > 60 > light[46:57, 2:18].mean()
    assert light[46:57, 22:42].mean() > light[6:17, 22:42].mean()


def test_the_policy_is_not_told_where_things_are(scene):
    scene.begin(3)
    here = scene.look()["agent_pos"]
    scene.world.data.joint("object_joint_0").qpos[:3] += 0.05
    scene.world.data.joint("drawer_slide").qpos[0] = -0.1
    assert np.array_equal(here, scene.look()["agent_pos"])
    assert np.allclose(here[:3], scene.world.compute_ob_info()["proprio/effector_pos"])
    assert np.isclose(np.hypot(here[3], here[4]), 1)


def test_the_teacher_unlocks_stows_and_shuts(scene):
    info = scene.begin(3)
    assert not info["is_success"] and info["progress"] == 0
    state = np.random.get_state()[1].copy()
    said, info = solve(scene)
    assert said == [
        "unlock the drawer by pressing the left button",
        "open the drawer",
        "put the red cube in the drawer",
        "close the drawer",
    ]
    assert info["is_success"] and info["progress"] == 1
    assert np.array_equal(state, np.random.get_state()[1])  # numpy's global generator is left alone
    label = scene.teacher().label()
    assert label.subtask == DONE and not label.action.any()


def test_the_teacher_looks_afresh(scene):
    """A teacher that comes to a scene midway says what one says that was there all along; a drawer that falls
    shut is opened again."""
    scene.begin(3)
    teacher = scene.teacher()
    for tick in range(70):
        label = teacher.label()
        if tick % 10 == 0:
            fresh = scene.teacher().label()
            assert fresh.subtask == label.subtask and np.array_equal(fresh.action, label.action)
        scene.step(label.action)
    assert label.subtask == "put the red cube in the drawer"
    scene.world.data.joint("drawer_slide").qpos[0] = 0.0
    scene.step(np.zeros(5))
    assert teacher.label().subtask == "open the drawer"
    assert solve(scene)[1]["is_success"]


def test_the_teacher_swaps(double):
    double.begin(3)
    said, info = solve(double)
    assert info["is_success"] and len(said) == 3
    assert said[0].endswith("cube aside") and said[1].startswith("move the")
    assert said[0].split()[2] == said[2].split()[2] != said[1].split()[2]  # the one put aside comes last


def test_published_pictures_are_the_packages():
    theirs = gymnasium.make("visual-scene-v0")
    there, _ = theirs.reset(seed=1, options={"task_id": 3})
    ours = make("ogbench_scene", "task3_rearrange_medium")
    here = ours.reset(seed=1)[0]["pixels"]["front"]
    assert np.abs(there.astype(int) - here).mean() < 0.5
    theirs.close(), ours.close()


def test_a_lack_of_opengl_is_told_in_a_line():
    told = subprocess.run(
        [sys.executable, "-c", "from envs.registry import make; make('ogbench_scene')"],
        env=os.environ | {"MUJOCO_GL": "nonsense"},
        capture_output=True,
        text=True,
    )
    assert told.stderr.splitlines()[-1].startswith("envs.errors.WorldError: no OpenGL") and not told.stdout


def test_experts_tell_what_a_teacher_reaches(tmp_path):
    script, out = Path(__file__).parent.parent / "benchmarks/experts.py", tmp_path / "found.json"
    asked = ["--suite", "ogbench_cube_single", "--family", "task1_horizontal", "--episodes", "2"]
    told = subprocess.run(
        [sys.executable, script, *asked, "--workers", "1", "--out", out], capture_output=True, text=True
    )
    assert told.returncode == 0 and "all: 2/2 = 100.0%" in told.stdout
    assert json.loads(out.read_text())["tasks"]["task1_horizontal"]["low"] > 0
    wrong = subprocess.run([sys.executable, script, "--suite", "ogbench"], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: unknown suite 'ogbench'; did you mean")
