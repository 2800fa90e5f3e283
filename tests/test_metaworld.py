"""Meta-World through the contract: which episode a number is, what a policy sees and must not see."""

import numpy as np
import pytest
from benchmark_checks import check_contract, world

from envs.benchmarks.metaworld_tasks import INSTRUCTIONS, TASKS
from envs.errors import WorldError
from envs.registry import make

pytest.importorskip("metaworld")

env = world("metaworld_mt50", "drawer-open-v3")


def test_suites_are_the_packages_and_cover_it():
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS, MT10_V3

    assert set(INSTRUCTIONS) == set(ALL_V3_ENVIRONMENTS) and TASKS["metaworld_mt10"] == tuple(MT10_V3)
    groups = [TASKS[f"metaworld_{name}"] for name in ("easy", "medium", "hard", "very_hard")]
    assert [len(group) for group in groups] == [28, 11, 6, 5]
    assert sorted(sum(groups, ())) == sorted(INSTRUCTIONS)
    assert len(set(INSTRUCTIONS.values())) == 50  # an instruction names its task


def test_a_seed_is_a_task_and_a_trial():
    env = make("metaworld_hard", pixels="lazy", drawing="fast")
    with pytest.raises(WorldError, match="task 'push' of suite 'metaworld_hard': expected one, 2 have it"):
        make("metaworld_hard", "push")
    assert make("metaworld_hard", "Pick place").family == "pick-place-v3"
    env.begin(8)
    assert (env.stratum, env.trial, env.state_id) == ("pick-out-of-hole-v3", 1, 1)
    env.begin(6 * 53)
    assert (env.stratum, env.trial, env.state_id) == ("assembly-v3", 53, 3)
    env.close()


def test_trials_are_the_published_goals(env):
    from metaworld import MT1

    keys = []
    for trial in (3, 4, 53):
        env.begin(trial)
        keys.append(env.initial_state())
    assert keys[0] == keys[2] != keys[1]
    bench = MT1("drawer-open-v3", seed=42)
    theirs = bench.train_classes["drawer-open-v3"]()
    theirs.set_task(bench.train_tasks[3])
    theirs.reset()
    env.begin(3)
    assert np.array_equal(theirs.data.qpos, env._env.data.qpos)
    assert np.array_equal(theirs.model.body("drawer").pos, env._env.model.body("drawer").pos)
    assert env.rate == round(1 / theirs.dt)


def test_contract(env):
    shapes = {"front": (480, 480, 3), "wrist": (480, 480, 3)}
    check_contract(env, shapes, seeds=(2, 7), other="metaworld_mt10")


def test_the_picture_is_upright(env):
    """The grey wall and floor are at the top, the wooden table, reddish, is below."""
    env.begin(0)
    red, _, blue = np.moveaxis(env.look()["pixels"]["front"].astype(float), -1, 0)
    warm = red - blue
    assert abs(warm[:40, 240:].mean()) < 8 < 15 < warm[-120:, 240:].mean()


def test_the_policy_is_not_told_where_things_are(env):
    env.begin(0)
    here = env.look()["agent_pos"]
    env.begin(1)
    assert not np.array_equal(env._full[4:], np.zeros(35))
    assert np.array_equal(here, env.look()["agent_pos"])  # another drawer, the same hand


def test_the_scripted_policy_opens_the_drawer(env):
    info, teacher = env.begin(0), env.teacher()
    assert info["is_success"] is False and info["progress"] == 0
    label = teacher.label()
    assert label.subtask == env.task_description == info["task_description"] and label.point is None
    done, reward = False, 0.0
    while not done:
        action = teacher.label().action
        assert action.dtype == np.float32 and np.abs(action).max() <= 1
        _, reward, done, cut, info = env.step(action)
        assert not cut
    assert info["is_success"] and info["progress"] == 1 and reward > 0
    _, _, still, _, info = env.step(np.ones(4))
    assert still and info["is_success"]  # what was reached at any step counts


def test_published_pictures_are_lerobots():
    """Its camera is corner2, moved; its picture is flipped both ways."""
    from metaworld import MT1

    bench = MT1("drawer-open-v3", seed=42)
    theirs = bench.train_classes["drawer-open-v3"](render_mode="rgb_array", camera_name="corner2")
    theirs.model.cam_pos[2] = (0.75, 0.075, 0.7)
    theirs.set_task(bench.train_tasks[3])
    theirs.reset()
    ours = make("metaworld_mt50", "drawer-open-v3", pixels="lazy")
    ours.begin(3)
    there, here = theirs.render()[::-1, ::-1].astype(int), ours.look()["pixels"]["front"]
    assert np.abs(there - here).mean() < 0.5
    theirs.close(), ours.close()
