"""The baseline without a planner: its layout, its labels, its batches, and that it trains and acts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_dataset import fake_episode
from test_training import cache, dataset, small_run, tokenizer  # noqa: F401 (fixtures)

from agent.loop import Agent
from agent.policy import Policy
from backbone import checkpoint
from backbone.errors import UserError
from backbone.nano import NANO_FLAT_LAYOUT
from backbone.network import Network
from backbone.observation import Observation
from backbone.presets import preset
from training.batches import Jitter, Sampler
from training.cache import THROUGH, Cache, build_cache
from training.dataset import DatasetReader, DatasetWriter
from training.episodes import AGENT, DISTURBED
from training.labels import chunk_labels
from training.start import share_weights


def test_the_layout_has_no_planner_and_the_expert_reads_everything():
    layout = NANO_FLAT_LAYOUT
    assert not layout.writes_plans and not layout.reads_plans
    assert preset("nano").layout.writes_plans and preset("nano").layout.reads_plans
    assert layout.controller.names == ("wrist", "state", "front", "instruction")
    assert layout.controller.expert_columns.all()
    flat, nano = preset("nano_flat"), preset("nano")
    assert (flat.cameras, flat.decoder, flat.expert) == (nano.cameras, nano.decoder, nano.expert)


def test_chunks_can_go_on_through_the_end_of_a_subtask():
    action = np.arange(6, dtype=np.float32)[:, None] * np.ones(7, np.float32)
    subtask, driver = np.array([4, 4, 5, 5, 6, 6]), np.zeros(6, int)
    actions, valid = chunk_labels(action, driver, subtask, done=6, horizon=4, through=True)
    assert valid.all() and actions[0, :, 0].tolist() == [0, 1, 2, 3]
    assert actions[4, :, 0].tolist() == [4, 5, 0, 0] and actions[4, 3, -1] == 5, "finished is finished"
    _, valid = chunk_labels(action, driver, subtask, done=9, horizon=4, through=True)
    assert valid.sum(1).tolist() == [4, 4, 4, 3, 2, 1]
    driver[[1, 3]] = DISTURBED, AGENT
    actions, valid = chunk_labels(action, driver, subtask, done=6, horizon=4, through=True)
    assert valid.sum(1).tolist() == [2, 1, 2, 1, 4, 4]
    hold, known = chunk_labels(action, driver, subtask, done=6, horizon=4)
    inside = valid & (hold == actions).all(2)
    assert (known[:, 0] & inside[:, 0]).all(), "the two forms begin alike"


def test_an_older_cache_is_completed_by_building_it_again(dataset, tmp_path):  # noqa: F811
    build_cache([dataset], tmp_path, workers=1, quiet=True)
    whole = Cache(tmp_path, touch=False)
    (shard,) = [path.parent for path in tmp_path.glob("*/meta.json")]
    for name in THROUGH:
        (shard / f"{name}.npy").unlink()
    old = Cache(tmp_path, touch=False)
    assert old.chunks(through=False)[0] is old.chunk
    with pytest.raises(UserError, match="python -m training.cache"):
        old.chunks(through=True)
    assert build_cache([dataset], tmp_path, workers=1, quiet=True) == len(whole)
    for got, want in zip(Cache(tmp_path).chunks(through=True), whole.chunks(through=True), strict=True):
        assert np.array_equal(got, want)
    row, reader = len(whole) // 2, DatasetReader(dataset)
    episode, step = reader.read(int(whole.episode[row]), images=False), whole.step[row]
    chunk, valid = (part[row] for part in whole.chunks(through=True))
    for k in np.flatnonzero(valid & (step + np.arange(10) < len(episode))):
        assert np.array_equal(chunk[k], episode.action[step + k])


def test_datasets_of_a_cache_can_be_left_out(dataset, tmp_path):  # noqa: F811
    with DatasetWriter(tmp_path / "more") as writer:
        writer.add(fake_episode(1000, 20, "press"))
    build_cache([dataset, tmp_path / "more"], tmp_path / "c", workers=1, quiet=True)
    assert Cache(tmp_path / "c", datasets=["fake"]).families == ["stow", "sort"]
    assert Cache(tmp_path / "c", datasets=["more"]).families == ["press"]
    with pytest.raises(UserError, match="expected some of fake, more, got less"):
        Cache(tmp_path / "c", datasets=["less"])


def test_its_batches_hold_what_its_layout_names(cache, tokenizer):  # noqa: F811
    sampler = Sampler(cache, tokenizer, jitter=Jitter(images=0), layout=NANO_FLAT_LAYOUT)
    batch, rows = sampler.controller(3, 8), sampler.controller_rows(8, sampler.rng(3, 1))
    assert set(batch) == {"images", "state", "instruction_ids", "actions", "valid", "weight"}
    assert np.array_equal(batch["images"]["front"], cache.images("front", rows))
    assert [tokenizer.decode(ids) for ids in batch["instruction_ids"]] == [
        cache.strings[i] for i in cache.instruction[rows]
    ]
    actions, valid = cache.chunks(through=True)
    assert np.array_equal(batch["actions"], actions[rows]) and np.array_equal(batch["valid"], valid[rows])


def test_it_trains_and_acts_without_a_planner(cache, tmp_path):  # noqa: F811
    trainer = small_run(cache.root, tmp_path, preset="nano_flat", steps=2)
    planner, controller = trainer.batches(0)
    assert planner is None and "plan_ids" not in controller
    trainer.run()
    assert "text_loss" not in (tmp_path / "log.jsonl").read_text()
    policy = Policy.from_pretrained(tmp_path / "policy")
    rng = np.random.default_rng(0)
    images = {n: rng.integers(0, 256, (s, s, 3), dtype=np.uint8) for n, s in (("front", 128), ("wrist", 64))}
    words = "put the red block in the blue bin"
    look = Observation(images, np.zeros(8, np.float32), words)
    with pytest.raises(UserError, match="'nano_flat'"):
        policy.plan(look)
    with pytest.raises(UserError, match="writes no plans, expected 'none'"):
        Agent(policy)
    agent = Agent(policy, planner="none")
    agent.reset(words, seed=1)
    step = agent.step(look)
    assert step.subtask == words and not any("fail" in event for event in step.events)
    policy.reset(1)
    plan, chunk = policy.step(look)
    assert plan.text == words and np.array_equal(chunk.actions[0], step.action)
    other = policy.act(look, "put the green block in the blue bin")
    policy.reset(1)
    assert not np.array_equal(other.actions, policy.act(look, words).actions)
    with pytest.raises(UserError, match="--controller-weight"):
        small_run(cache.root, tmp_path / "no", preset="nano_flat", controller_weight=0.0)


def test_it_can_start_from_the_weights_of_the_network_with_a_planner(cache, tmp_path):  # noqa: F811
    nano = checkpoint.load("nano")[0].state_dict()
    borrowed = small_run(cache.root, tmp_path, preset="nano_flat", init="nano").bare
    for name, tensor in borrowed.state_dict().items():
        assert torch.equal(tensor, nano[name][: len(tensor)]), name
    back = Network(borrowed.preset), Network(preset("nano", words=borrowed.preset.words))
    assert {name.split(".")[0] for name in share_weights(*back)} == {"head", "pointer"}
