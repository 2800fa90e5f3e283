"""gym-aloha through the contract, against the package's own environment."""

import numpy as np
import pytest
from benchmark_checks import check_contract, world

from envs.registry import make

pytest.importorskip("gym_aloha")

env = world("aloha_transfer_cube")


def test_contract(env):
    assert env.rate == 50 and env.max_steps == 400 and env.rest == "last"
    check_contract(env, {"front": (480, 640, 3)}, seeds=(1, 2), other="aloha_insertion")


@pytest.mark.parametrize("task", ["transfer_cube", "insertion"])
def test_as_the_package_does(task):
    """The same start, state, reward and, drawn as published, picture."""
    from gym_aloha.env import AlohaEnv as Theirs

    theirs, ours = Theirs(task, "pixels_agent_pos"), make(f"aloha_{task}")
    there, here = theirs.reset(seed=7)[0], ours.reset(seed=7)[0]
    assert np.array_equal(there["agent_pos"].astype(np.float32), here["agent_pos"])
    action = here["agent_pos"] + np.float32(0.05)
    there, reward, *_ = theirs.step(action)
    here, ours_reward, *_ = ours.step(action)
    assert np.array_equal(there["agent_pos"].astype(np.float32), here["agent_pos"])
    assert reward == ours_reward
    assert np.abs(there["pixels"]["top"].astype(int) - here["pixels"]["front"]).mean() < 0.5
    ours.close()


def test_the_last_action_holds_still(env):
    env.begin(0)
    start = env.look()["agent_pos"]
    for _ in range(20):
        here = env.step(start)[0]["agent_pos"]
    assert np.abs(here - start).max() < 0.02


def test_a_cube_in_the_left_gripper_is_success(env):
    info = env.begin(0)
    assert not info["is_success"] and info["progress"] == 0
    rest = env.look()["agent_pos"]
    _, data = env._simulation
    right = data.geom("vx300s_right/10_right_gripper_finger").xpos
    left = data.geom("vx300s_left/10_left_gripper_finger").xpos
    seen = []
    for at in (right, left):
        data.joint("red_box_joint").qpos[:3] = at
        _, reward, done, _, info = env.step(rest)
        seen.append((reward, done, info["progress"]))
    assert seen == [(2, False, 0.5), (4, True, 1.0)]
