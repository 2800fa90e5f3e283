"""FrankaKitchen through the contract: D4RL's sets of tasks, and what counts as one of them done."""

import numpy as np
import pytest

pytest.importorskip("gymnasium_robotics")

from benchmark_checks import check_contract, world  # noqa: E402
from gymnasium_robotics.envs.franka_kitchen.kitchen_env import (  # noqa: E402
    OBS_ELEMENT_GOALS,
    OBS_ELEMENT_INDICES,
)

from envs.benchmarks.kitchen import ASKED  # noqa: E402
from envs.registry import make  # noqa: E402

env = world("kitchen_mixed")


def test_contract(env):
    env.begin(0)
    assert env.rate == 1 / env._env.robot_env.dt and env.max_steps == 280 and env.teacher() is None
    shapes = {"front": (480, 480, 3)}
    # It always begins alike, seen with other noise.
    check_contract(env, shapes, seeds=(1, 2), other="kitchen_complete", starts_differ=False)


def test_the_instruction_names_what_is_asked_in_order(env):
    assert env.task_description == (
        "open the microwave, move the kettle to the top left burner, turn on the bottom burner with its knob "
        "and turn on the light"
    )
    assert set(ASKED["kitchen_complete"]) - set(ASKED["kitchen_mixed"]) == {"slide cabinet"}


def test_each_task_counts_once_and_all_are_success(env):
    info = env.begin(0)
    assert not info["is_success"] and info["progress"] == 0
    _, data = env._simulation
    seen = []
    for name in ASKED["kitchen_mixed"]:
        data.qpos[OBS_ELEMENT_INDICES[name]] = OBS_ELEMENT_GOALS[name]
        _, reward, done, _, info = env.step(np.zeros(9))
        seen.append((reward, done, info["progress"], info["is_success"]))
    assert seen == [
        (1, False, 0.25, False),
        (1, False, 0.5, False),
        (1, False, 0.75, False),
        (1, True, 1, True),
    ]
    assert env.begin(1)["progress"] == 0


def test_the_policy_is_told_of_the_arm_alone(env):
    env.begin(0)
    _, data = env._simulation
    obs = env.step(np.zeros(9))[0]["agent_pos"]
    assert np.abs(obs[:9] - data.qpos[:9]).max() < 0.05 and obs.shape == (18,)  # what is measured is noisy
    assert 0 < np.abs(obs[:9] - data.qpos[:9]).max()


def test_published_pictures_are_the_packages():
    from gymnasium_robotics.envs.franka_kitchen import KitchenEnv

    theirs = KitchenEnv(render_mode="rgb_array")
    theirs.reset(seed=0)
    ours = make("kitchen_complete")
    here = ours.reset(seed=0)[0]["pixels"]["front"]
    assert np.abs(theirs.render().astype(int) - here).mean() < 0.5
    theirs.close(), ours.close()
