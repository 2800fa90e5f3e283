"""What every adapter of a public benchmark has to keep of the contract."""

import numpy as np
import pytest

from envs.errors import WorldError
from envs.registry import benchmark, make


def world(suite, family=None):
    """A fixture: a world that draws quickly, one for all tests of a module."""

    @pytest.fixture(scope="module")
    def made():
        env = make(suite, family, pixels="lazy", drawing="fast")
        yield env
        env.close()

    return made


def check_contract(env, shapes, seeds, other, starts_differ=True):
    """All of it; `other`: a suite to be tried as it is by default."""
    assert set(env.tasks) == set(benchmark(env.suite).suites)
    check_lazy(env, shapes)
    check_same_bits(env, seeds, starts_differ=starts_differ)
    check_bad_input(env)
    check_space(make(other))


def check_lazy(env, shapes):
    """Pictures only when they are looked at, and of the right kind."""
    obs, info = env.reset(seed=0)
    assert obs["pixels"] is None and set(info) >= {"is_success", "progress"}
    seen = env.look()
    assert {name: picture.shape for name, picture in seen["pixels"].items()} == shapes
    for picture in seen["pixels"].values():
        assert picture.dtype == np.uint8 and picture.std() > 5
    assert seen["agent_pos"].dtype == np.float32 and np.isfinite(seen["agent_pos"]).all()
    assert np.array_equal(obs["agent_pos"], seen["agent_pos"])
    assert env.step(np.zeros(env.action_space.shape))[0]["pixels"] is None


def check_same_bits(env, seeds, steps=12, starts_differ=True):
    """A seed gives the same start, pictures and motion, whatever was played before it."""
    runs = {}
    for seed in (seeds[0], seeds[1], seeds[0]):
        env.reset(seed=seed)
        key, first = env.initial_state(), env.look()["pixels"]
        rng = np.random.default_rng(0)
        low, high = env.action_space.low, env.action_space.high
        states = [env.step(rng.uniform(low, high))[0]["agent_pos"] for _ in range(steps)]
        last = env.look()["pixels"]
        found = (key, env.task_description, np.stack(states), first, last)
        if seed in runs:
            before = runs[seed]
            assert before[:2] == found[:2] and np.array_equal(before[2], found[2])
            for old, new in zip(before[3:], found[3:], strict=True):
                assert all(np.array_equal(old[name], new[name]) for name in old)
        runs[seed] = found
    assert (runs[seeds[0]][0] != runs[seeds[1]][0]) == starts_differ
    assert len(runs[seeds[0]][0]) == 16


def check_bad_input(env):
    """One line each."""
    size = env.action_space.shape[0]
    env.reset(seed=0)
    for call in (
        lambda: env.step(np.full(size, np.nan)),
        lambda: env.step(np.zeros(size + 1)),
        lambda: env.reset(seed=-1),
        lambda: make(env.suite, "no such task"),
        lambda: make(env.suite, pixels="sometimes"),
        lambda: make(env.suite, render_mode="braille"),
        lambda: make(env.suite).step(np.zeros(size)),
        lambda: make(env.suite).look(),
    ):
        with pytest.raises(WorldError) as error:
            call()
        assert "\n" not in str(error.value)


def check_space(env):
    """Observations lie in the space, with a seed or without; closes the environment."""
    assert env.observation_space.contains(env.reset()[0])
    obs = env.step(env.action_space.sample())[0]
    assert env.observation_space.contains(obs)
    env.close()
