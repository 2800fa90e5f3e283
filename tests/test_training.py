"""From datasets to batches to a training run that can be cut off and resumed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_dataset import fake_episode

from backbone import checkpoint
from backbone.errors import UserError
from backbone.tokenizer import EOS, POINT, Tokenizer
from envs.tabletop.language import all_words
from training.batches import Jitter, Prefetch, Sampler, jitter_images, kind_of
from training.cache import Cache, build_cache
from training.dataset import DatasetReader, DatasetWriter
from training.episodes import decode_png
from training.loop import Config, Trainer
from training.schedule import Average, learning_rate
from training.start import LEAST_RANGE, action_range


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "fake"
    with DatasetWriter(root) as writer:
        for seed in range(40):
            writer.add(fake_episode(seed, 20, "sort" if seed % 4 else "stow"))
    return root


@pytest.fixture(scope="module")
def cache(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("cache")
    build_cache([dataset], out, workers=1, quiet=True)
    return Cache(out)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_words(all_words())


def test_the_cache_holds_the_frames_of_the_dataset(cache, dataset):
    assert 300 < len(cache) < 600 and cache.families == ["stow", "sort"]
    reader = DatasetReader(dataset)
    for row in (0, 57, len(cache) - 1):
        episode = reader.read(int(cache.episode[row]))
        step = cache.step[row]
        assert np.array_equal(
            cache.images("front", np.array([row]))[0], decode_png(episode.images["front"][step])
        )
        assert np.array_equal(cache.state[row], episode.state[step])
        assert np.array_equal(cache.chunk[row, 0], episode.action[step])
        assert cache.strings[cache.subtask[row]] == episode.subtask[step]
        assert cache.strings[cache.instruction[row]] == episode.instruction[step]
    assert "fake" not in cache.summary() and f"{len(cache)} frames" in cache.summary()


def test_a_new_dataset_only_adds_to_the_cache(dataset, tmp_path):
    out = tmp_path / "cache"
    first = build_cache([dataset], out, workers=1, quiet=True)
    files = {p: p.stat().st_mtime_ns for p in out.glob("*/front.npy")}
    with DatasetWriter(tmp_path / "more") as writer:
        writer.add(fake_episode(1000, 20, "press"))
    (out / ".half.tmp").mkdir()  # what a killed run leaves
    total = build_cache([dataset, tmp_path / "more"], out, workers=1, quiet=True)
    assert total > first and all(p.stat().st_mtime_ns == t for p, t in files.items())
    assert build_cache([dataset, tmp_path / "more"], out, workers=1, quiet=True) == total
    cache = Cache(out)
    assert len(cache) == total and cache.families[-1] == "press" and not (out / ".half.tmp").exists()
    with pytest.raises(UserError, match="--max-frames"):
        with DatasetWriter(tmp_path / "third") as writer:
            writer.add(fake_episode(1001, 20))
        build_cache([tmp_path / "third"], out, max_frames=total, workers=1, quiet=True)


def test_batches_say_what_the_frames_say(cache, tokenizer):
    sampler = Sampler(cache, tokenizer, seed=3, jitter=Jitter(images=0, point=0, far_point=0))
    batch = sampler.planner(5, 16)
    assert (
        batch["images"]["front"].shape == (16, 128, 128, 3) and batch["images"]["front"].dtype == torch.uint8
    )
    rows = sampler.planner_rows(16, sampler.rng(5, 0))
    for k, row in enumerate(rows):
        ids = [i for i in batch["target_ids"][k].tolist() if i]
        words = cache.strings[cache.subtask[row]]
        assert ids[-1] == POINT and tokenizer.decode(ids) == f"Updated Memory: nothing Subtask: {words}"
        assert tokenizer.decode(batch["instruction_ids"][k]) == cache.strings[cache.instruction[row]]
        assert torch.equal(batch["state"][k], torch.from_numpy(cache.state[row]))
    assert not batch["point"].isnan().any()
    batch = sampler.controller(5, 16)
    rows = sampler.controller_rows(16, sampler.rng(5, 1))
    for k, row in enumerate(rows):
        y, x = (int(v * 1024) for v in cache.target[row])
        text = f"{cache.strings[cache.subtask[row]]} <loc{y:04d}><loc{x:04d}>"
        assert tokenizer.decode(batch["plan_ids"][k]) == text
    assert batch["actions"].shape == (16, 10, 7) and batch["valid"][:, 0].all()


def test_a_frame_without_a_place_ends_with_eos(tmp_path, tokenizer):
    episode = fake_episode(0, 20)
    episode.target[:] = -1
    with DatasetWriter(tmp_path / "d") as writer:
        writer.add(episode)
    build_cache([tmp_path / "d"], tmp_path / "c", workers=1, quiet=True)
    sampler = Sampler(Cache(tmp_path / "c"), tokenizer)
    batch = sampler.planner(0, 4)
    assert batch["point"].isnan().all() and (batch["target_ids"] == EOS).sum() == 4
    assert (sampler.controller(0, 4)["plan_ids"] < tokenizer.loc_start).all()


def test_draws_depend_on_seed_process_and_step_only(cache, tokenizer):
    def states(process: int, step: int) -> torch.Tensor:
        return Sampler(cache, tokenizer, seed=1, process=process).planner(step, 8)["state"]

    assert torch.equal(states(0, 4), states(0, 4))
    assert not torch.equal(states(0, 4), states(1, 4)) and not torch.equal(states(0, 4), states(0, 5))


def test_held_out_episodes_are_never_drawn(cache, tokenizer):
    assert 0 < cache.held_out.sum() < len(cache) / 4
    train, held = Sampler(cache, tokenizer), Sampler(cache, tokenizer, held_out=True)
    for step in range(5):
        assert not cache.held_out[train.planner_rows(64, train.rng(step, 0))].any()
        assert not cache.held_out[train.controller_rows(64, train.rng(step, 1))].any()
        assert cache.held_out[held.planner_rows(64, held.rng(step, 0))].all()


def test_colour_jitter_stays_small_and_kinds_ignore_colours():
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    before = images.copy()
    jitter_images(images, np.random.default_rng(1), Jitter(images=0.5))
    changed = (images != before).any(axis=(1, 2, 3))
    assert 0 < changed.sum() < 6
    assert abs(images.astype(int) - before).mean() < 30
    assert kind_of("put the red block in the blue bin") == "put bin" and kind_of("done") == "done done"


def test_prefetch_keeps_the_order_and_hands_errors_over():
    def make(step: int) -> int:
        if step == 6:
            raise UserError("expected a cache, got nothing")
        return step

    prefetch = Prefetch(make, 3)
    items = iter(prefetch)
    assert [next(items) for _ in range(3)] == [3, 4, 5]
    with pytest.raises(UserError):
        next(items)
    prefetch.close()


def small_run(cache_dir, out, **changes) -> Trainer:
    torch.set_num_threads(1)
    settings = {"steps": 20, "planner_batch": 2, "controller_batch": 4, "precision": "no", "warmup": 5}
    return Trainer(Config(cache=cache_dir, out=out, **(settings | changes)))


def losses_of(trainer: Trainer, steps: int) -> list[float]:
    return [
        float(trainer.learn(trainer.batches(trainer.step), trainer.progress())["loss"]) for _ in range(steps)
    ]


def test_a_resumed_run_has_the_same_losses(cache, tmp_path):
    whole = losses_of(small_run(cache.root, tmp_path / "whole"), 12)
    first = small_run(cache.root, tmp_path / "parts")
    before = losses_of(first, 6)
    first.save()
    after = losses_of(small_run(cache.root, tmp_path / "parts"), 6)
    assert before + after == whole
    assert whole[-1] < whole[0]


def test_a_run_leaves_a_policy_with_the_averaged_weights(cache, tmp_path):
    trainer = small_run(cache.root, tmp_path / "run", steps=3, planner_weight=0.0)
    trainer.run()
    network, _ = checkpoint.load(tmp_path / "run/policy")
    name, parameter = next(iter(network.named_parameters()))
    assert torch.equal(parameter, trainer.average.shadow[0]) and name
    lines = (tmp_path / "run/log.jsonl").read_text()
    assert '"held_out"' in lines and "flow_loss" in lines and "text_loss" not in lines
    again = small_run(cache.root, tmp_path / "next", init=str(tmp_path / "run/policy"))
    assert torch.equal(next(again.bare.parameters()), parameter)
    with pytest.raises(UserError, match="--minutes or --steps"):
        Config()


def test_a_run_with_delays_says_so_and_goes_on_from_a_network_without(cache, tmp_path):
    small_run(cache.root, tmp_path / "plain", steps=1).run()
    plain = tmp_path / "plain" / "policy"
    assert checkpoint.preset(plain).trained_delay == 0
    small_run(cache.root, tmp_path / "late", steps=2, init=str(plain), trained_delay=4).run()
    assert checkpoint.preset(tmp_path / "late" / "policy").trained_delay == 4
    with pytest.raises(UserError, match="--trained-delay from 0 to 9, got 10"):
        small_run(cache.root, tmp_path / "none", steps=1, init=str(plain), trained_delay=10)


def test_what_hardly_moves_is_not_blown_up():
    actions = np.random.default_rng(0).normal(0, [0.5, 0.005], (5000, 2))
    low, high = action_range(actions)
    assert high[0] - low[0] > 2 and high[1] - low[1] == pytest.approx(LEAST_RANGE)


def test_the_rate_warms_up_and_falls_and_averages_follow():
    assert learning_rate("stable", 0, 0.0, 10) == pytest.approx(0.1)
    assert learning_rate("stable", 100, 0.7, 10) == 1.0
    assert learning_rate("stable", 100, 1.0, 10) == pytest.approx(0.02)
    assert learning_rate("cosine", 100, 0.5, 10) == pytest.approx(0.51)
    weight = torch.nn.Parameter(torch.zeros(2))
    average = Average([weight], 0.9)
    weight.data += 1
    for _ in range(200):
        average.update()
    assert torch.allclose(average.shadow[0], weight, atol=1e-4)
    with average.swapped():
        assert torch.equal(weight.data, average.shadow[0])
    assert (weight == 1).all()
