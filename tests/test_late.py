"""Frames of an agent whose answers come late: what was done anyway, and words that are no longer true."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agent.policy import load
from backbone.errors import UserError
from backbone.tokenizer import PAD, Tokenizer
from envs.tabletop.language import all_words
from training.batches import Jitter, Sampler
from training.cache import Cache
from training.episodes import AGENT, Job
from training.late import overtaken
from training.simulate import Simulator, simulate


@pytest.fixture(scope="module")
def driven():
    """The frames of an episode, and all its ticks."""
    torch.set_num_threads(1)
    simulator, job = Simulator(load("nano"), share=0.5, late=1.0), Job("core", "press", 8)
    return simulator.frames(job), simulator.walk(job, lambda world: world.save()), simulator


def test_a_chunk_begins_with_what_was_done_anyway(driven):
    frames, rows, simulator = driven
    given = np.flatnonzero(np.array(frames["given"]) > 0)
    assert len(given)
    for k in given:
        t, count, chunk = frames["step"][k], frames["given"][k], frames["chunk"][k]
        assert rows[t].who == AGENT and frames["told"][k] == frames["subtask"][k]
        assert np.allclose(chunk[:count], [row.executed for row in rows[t : t + count]])
        simulator.env.world.restore(rows[t + count].kept)
        label = simulator.teacher.label(simulator.env.world)
        still = {row.label.subtask for row in rows[t : t + count]} | {label.subtask}
        if len(still) == 1:
            assert np.allclose(chunk[count], label.action, atol=1e-5)
        else:  # the subtask ended meanwhile
            assert not chunk[count:, :6].any()


def test_words_that_were_overtaken_ask_for_standing_still(driven):
    frames, rows, _ = driven
    old = [k for k in range(len(frames["step"])) if frames["told"][k] != frames["subtask"][k]]
    assert old
    for k in old:
        t = frames["step"][k]
        assert frames["told"][k] == rows[t].told.subtask
        assert frames["told"][k] in [row.label.subtask for row in rows[:t]]
        assert not frames["chunk"][k][:, :6].any() and (np.abs(frames["chunk"][k][:, 6]) == 1).all()
        assert not frames["given"][k] and not np.any(frames["through_valid"][k])
    assert overtaken(rows, 0) is None


def test_the_controller_reads_the_old_words_and_the_planner_writes_the_new(tmp_path):
    how = {"suites": ("core",), "families": ("press",), "seed": 8, "checkpoint": "nano", "name": "late"}
    simulate(tmp_path, episodes=2, share=0.5, late=1.0, workers=1, quiet=True, **how)
    cache, tokenizer = Cache(tmp_path), Tokenizer.from_words(all_words())
    old = np.flatnonzero(cache.told != cache.subtask)
    assert len(old) and (cache.given > 0).any()
    plain = Jitter(images=0, point=0, far_share=0)
    sampler = Sampler(cache, tokenizer, jitter=plain, delay=4)
    words = sampler._plan_ids(old[:1], np.random.default_rng(0))[0]
    text = cache.strings[cache.told[old[0]]]
    assert tokenizer.decode([i for i in words[words != PAD] if i < tokenizer.loc_start]) == text
    batch = sampler.controller(0, 256)
    assert set(batch["delay"].tolist()) == {0, 1, 2, 3, 4}
    none = Sampler(cache, tokenizer, jitter=plain)  # one that is promised nothing
    assert "delay" not in none.controller(0, 4)
    assert not cache.given[none.controller_rows(256, np.random.default_rng(0))].any()
    with pytest.raises(UserError, match="late: expected a share"):
        simulate(tmp_path, episodes=1, late=0.5, quiet=True)
