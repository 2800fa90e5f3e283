"""The gymnasium contract, seeding, and what happens midway."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs  # noqa: F401  (registers the environment)
from envs.errors import WorldError
from envs.suites import EVALUATION_START
from envs.tabletop.env import TabletopEnv, disturb
from envs.tabletop.tasks import Event
from envs.tabletop.teacher import Teacher


@pytest.fixture(scope="module")
def lazy():
    return {}


def make(lazy, suite, family=None):
    if (suite, family) not in lazy:
        lazy[suite, family] = TabletopEnv(suite, family, pixels="lazy")
    return lazy[suite, family]


@pytest.mark.filterwarnings("ignore")
def test_passes_the_checker_and_is_registered():
    env = gymnasium.make("steersman/Tabletop-v0", render_mode="rgb_array")
    check_env(env.unwrapped)
    obs, info = env.reset(seed=EVALUATION_START)
    assert obs["pixels"]["front"].shape == (128, 128, 3) and obs["pixels"]["wrist"].shape == (64, 64, 3)
    assert obs["agent_pos"].shape == (8,) and obs["agent_pos"].dtype == np.float32
    assert info["task_description"] == env.unwrapped.task_description
    assert env.render().shape == (480, 640, 3)
    env.close()


def test_same_seed_same_bits(lazy):
    env = make(lazy, "core")
    runs = []
    for _ in range(2):
        env.reset(seed=5)
        rng = np.random.default_rng(0)
        states = [env.step(rng.uniform(-1, 1, 7).astype(np.float32))[0]["agent_pos"] for _ in range(15)]
        runs.append((env.task_description, np.stack(states), env.look()["pixels"]["front"]))
    assert runs[0][0] == runs[1][0]
    assert np.array_equal(runs[0][1], runs[1][1]) and np.array_equal(runs[0][2], runs[1][2])


def test_lazy_renders_only_when_looked_at(lazy):
    env = make(lazy, "core")
    obs, _ = env.reset(seed=1)
    assert obs["pixels"] is None
    assert set(env.look()["pixels"]) == {"front", "wrist"}


def test_unknown_names_are_one_line():
    for options in (
        dict(suite="kitchen"),
        dict(suite="core", family="juggle"),
        dict(suite="memory", family="sort"),
        dict(render_mode="ascii"),
        dict(pixels="sometimes"),
    ):
        with pytest.raises(WorldError, match="known:") as error:
            TabletopEnv(**options)
        assert "\n" not in str(error.value)


def test_actions_are_checked(lazy):
    with pytest.raises(WorldError, match="reset"):
        TabletopEnv(pixels="lazy").step(np.zeros(7, np.float32))
    env = make(lazy, "core")
    env.reset(seed=0)
    with pytest.raises(WorldError, match="7"):
        env.step(np.zeros(6, np.float32))


def test_the_instruction_changes_midway_and_the_new_one_counts(lazy):
    env, teacher = make(lazy, "correction"), Teacher()
    for seed in (EVALUATION_START, EVALUATION_START + 1, EVALUATION_START + 2):
        _, info = env.reset(seed=seed)
        first, changed, done = env.task_description, [], False
        for tick in range(env.task.max_steps):
            _, reward, done, _, info = env.step(teacher.label(env.world).action)
            if info["instruction_changed"]:
                changed.append(tick)
                assert env.task_description == info["task_description"] != first
            assert changed or not info["is_success"]
            if done:
                break
        assert done and len(changed) == 1


def test_disturbances_happen_and_are_recovered_from(lazy):
    env, teacher = make(lazy, "perturbed"), Teacher()
    fired = 0
    for seed in range(EVALUATION_START, EVALUATION_START + 4):
        env.reset(seed=seed)
        planned, done = len(env.task.events), False
        for _ in range(env.task.max_steps):
            _, _, done, _, _ = env.step(teacher.label(env.world).action)
            if done:
                break
        fired += planned - len(env._pending)
        assert done, env.task_description
    assert fired >= 3


def test_a_slip_waits_for_a_block_in_the_hand(lazy):
    env, teacher = make(lazy, "core", "sort"), Teacher()
    env.reset(seed=3)
    slip = Event(0, "slip", seed=1)
    assert not disturb(env.world, env.task, slip)
    for _ in range(80):
        env.step(teacher.label(env.world).action)
        if disturb(env.world, env.task, slip):
            break
    else:
        pytest.fail("never slipped")
    assert env.world.held() is None
    assert not disturb(env.world, env.task, Event(0, "take", seed=1))  # nothing is placed yet
