"""Frames straight from the simulator: what a shard holds is what the world and the teacher say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backbone import losses
from backbone.errors import UserError
from backbone.tokenizer import EOS, POINT, SCENE, SUBTASK, Tokenizer
from envs.tabletop.env import TabletopEnv
from envs.tabletop.inventory import inventory
from envs.tabletop.language import COLORS, all_words
from envs.tabletop.skills import HOME
from envs.tabletop.teacher import Teacher
from training.batches import Jitter, Sampler
from training.cache import Cache
from training.episodes import DISTURBED, Job
from training.simulate import Simulator, simulate


@pytest.fixture(scope="module")
def simulator():
    return Simulator(share=0.2, detours=0.0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    out = tmp_path_factory.mktemp("cache")
    arguments = {"suites": ("core",), "episodes": 12, "seed": 300, "workers": 1, "quiet": True}
    frames = simulate(out, **arguments)
    assert simulate(out, **arguments) == 0, "what is there is not made again"
    cache = Cache(out)
    assert len(cache) == frames
    return cache


@pytest.mark.parametrize("family", ["clear", "swap"])
def test_a_frame_shows_its_moment(simulator, family):
    """The pictures, drawn afterwards, are those of the episode as it ran."""
    job = Job("core", family, 321)
    frames = simulator.frames(job)
    rows = simulator.walk(job, lambda world: world.observe()["pixels"])
    assert frames["step"][0] == 0 and len(set(frames["step"])) == len(frames["step"])
    for k, t in enumerate(frames["step"]):
        assert np.array_equal(frames["front"][k], rows[t].kept["front"])
        assert np.array_equal(frames["wrist"][k], rows[t].kept["wrist"])
        assert frames["subtask"][k] == rows[t].label.subtask


def test_every_chunk_is_whole_and_the_teachers(simulator):
    """Also after a frame that a disturbance follows: the teacher is rolled out from there."""
    env, teacher = TabletopEnv(), Teacher()
    frames = simulator.frames(Job("core", "sort", 305))
    assert np.all(frames["valid"]) and np.all(frames["through_valid"])
    env.family = "sort"
    env.reset(seed=305)
    for k in range(10):
        action = teacher.label(env.world).action
        assert np.allclose(frames["through"][0][k], action, atol=1e-5)
        env.step(action)


def test_before_a_swap_begins_one_look_tells_what_to_remember(simulator):
    frames = simulator.frames(Job("core", "swap", 306))
    late = [lags for lags, step in zip(frames["past_memory"], frames["step"], strict=True) if step > 12]
    assert all("nothing" not in lags for lags in late[-2:])
    memory = frames["memory"][0]
    assert memory != "nothing" and set(frames["past_memory"][0]) == {"nothing"}
    assert any(set(lags) == {"nothing", memory} for lags in frames["past_memory"])


@pytest.mark.parametrize("family", ["clear", "press"])
def test_a_detour_shows_a_resting_hand_with_work_left(family):
    frames = Simulator(share=0.2, detours=1.0).frames(Job("core", family, 307))
    resting = [k for k, who in enumerate(frames["driver"]) if who == DISTURBED]
    assert len(resting) >= 3
    for k in resting:
        assert frames["subtask"][k] != "done" and frames["valid"][k].all()
        assert not frames["memory"][k].endswith(" up"), "a lit lamp goes out when the hand leaves"
    home = [k for k in resting if np.allclose(frames["state"][k][:3], HOME, atol=0.02)]
    assert home and all(frames["state"][k][6] > 0.03 for k in home), "with an open hand"


def test_the_inventory_says_what_stands_where():
    env, teacher = TabletopEnv(family="clear"), Teacher()
    env.reset(seed=10_000_003)
    blocks = [c for c in COLORS if c in env.world.scene.blocks]
    assert inventory(env.world) == " ".join(f"{c} table" for c in blocks)
    said = set()
    for _ in range(env.task.max_steps):
        said.add(inventory(env.world))
        if env.step(teacher.label(env.world).action)[2]:
            break
    assert inventory(env.world) == " ".join(f"{c} box" for c in blocks)
    assert any(f"{blocks[0]} up" in text for text in said)
    assert {word for text in said for word in text.split()} <= set(all_words())


def test_a_plan_says_what_stands_where_before_what_to_do(cache):
    tokenizer = Tokenizer.from_words(all_words())
    sampler = Sampler(cache, tokenizer, jitter=Jitter(images=0))
    batch = sampler.planner(0, 16)
    rows = sampler.planner_rows(16, sampler.rng(0, 0))
    for ids, row in zip(batch["target_ids"].tolist(), rows, strict=True):
        said = tokenizer.decode(ids[ids.index(SCENE) + 1 : ids.index(SUBTASK)])
        assert said and cache.strings[cache.inventory[row]].startswith(said)
        assert tokenizer.decode(ids[ids.index(SUBTASK) + 1 :]) == cache.strings[cache.subtask[row]]


def test_the_scene_counts_by_itself():
    """A wrong word in it leaves the plan right."""
    target = torch.tensor([[11, SCENE, 13, 14, SUBTASK, 12, POINT], [11, SCENE, 13, SUBTASK, 12, EOS, 0]])
    logits = torch.nn.functional.one_hot(target, 20) * 50.0
    logits[0, 3] = 0
    out = losses.text(logits, target, torch.ones(2))
    assert out["text_accuracy"] == 1 and out["text_loss"] < 1e-4
    assert out["scene_loss"] > 0.5 and out["scene_accuracy"] == pytest.approx(2 / 3)


def test_a_share_that_is_none(tmp_path):
    with pytest.raises(UserError, match="share: expected"):
        simulate(tmp_path, episodes=2, share=0.0)
    with pytest.raises(UserError, match="detours: expected"):
        simulate(tmp_path, episodes=2, detours=1.5)
