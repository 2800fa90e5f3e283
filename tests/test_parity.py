"""Training and inference see the same: a recorded frame of a cache, and that moment lived through again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agent.oracle import plan_of
from agent.policy import Policy
from backbone.attention import mask_bias
from backbone.cache import Beside
from backbone.inference import Run
from backbone.inputs import encode_words, observed
from backbone.network import Network
from backbone.observation import Observation
from backbone.presets import preset
from backbone.tokenizer import Tokenizer
from envs.tabletop.env import TabletopEnv
from envs.tabletop.language import all_words
from envs.tabletop.teacher import Teacher
from training.batches import Jitter, Sampler
from training.cache import Cache, build_cache
from training.collect import Recorder
from training.dataset import DatasetReader, DatasetWriter
from training.episodes import Job

JOB = Job("core", "stow", 4)  # no block is pushed in its first frames, so its actions alone repeat it
FRAMES = 24


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    root = tmp_path_factory.mktemp("parity")
    with DatasetWriter(root / "data") as writer:
        writer.add(Recorder().episode(JOB, max_steps=FRAMES))
    build_cache([root / "data"], root / "cache", workers=1, quiet=True)
    return DatasetReader(root / "data").read(0, images=False), Cache(root / "cache", touch=False)


@pytest.fixture(scope="module")
def moment(recorded):
    """(row of the cache, observation and teacher's label of that moment in a world of the loop's kind)"""
    episode, cache = recorded
    row = int(np.argmax(cache.step >= 12))
    env = TabletopEnv(suite=JOB.suite, family=JOB.family, pixels="lazy")
    env.reset(seed=JOB.seed)
    for action in episode.action_executed[: cache.step[row]]:
        env.step(action)
    look, label = Observation.from_env(env.look(), env.task_description), Teacher().label(env.world)
    env.close()
    return row, look, label


def network_and_batches(name: str, recorded, row: int) -> tuple[Network, Tokenizer, Sampler]:
    cache = recorded[1]
    tokenizer = Tokenizer.from_words(all_words())
    torch.manual_seed(0)
    network = Network(preset(name, words=tokenizer.words, vocabulary=tokenizer.fingerprint))
    for parameter in network.parameters():
        if parameter.std() == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    network.state_norm.set_quantiles(cache.state.min(0) - 0.1, cache.state.max(0) + 0.1)
    jitter = Jitter(images=0, point=0, far_share=0)
    side = bool(cache.held_out[row])
    sampler = Sampler(cache, tokenizer, jitter=jitter, held_out=side, layout=network.layout)
    sampler.planner_rows = sampler.controller_rows = lambda size, rng: np.full(size, row)
    return network.eval(), tokenizer, sampler


def test_the_frame_is_the_moment(recorded, moment):
    (episode, cache), (row, look, label) = recorded, moment
    assert np.array_equal(cache.state[row], look.state) and look.instruction == episode.instruction[0]
    for camera, image in look.images.items():
        assert np.array_equal(cache.images(camera, np.array([row]))[0], image)
    assert np.array_equal(cache.chunk[row, 0], label.action), "the first action answers this very observation"
    assert cache.strings[cache.subtask[row]] == label.subtask


def test_planner_reads_in_use_what_it_reads_in_training(recorded, moment):
    row, look, _ = moment
    network, tokenizer, sampler = network_and_batches("nano", recorded, row)
    batch = sampler.planner(0, 1)
    memory = tokenizer.decode(batch["memory_ids"][0])
    planner = Policy(network, tokenizer).planner
    inputs = planner.inputs([look], [memory])
    for name, image in inputs.pop("images").items():
        assert torch.equal(image, batch["images"][name])
    assert set(inputs) == {"state", "instruction_ids", "memory_ids"}
    for name, values in inputs.items():
        assert torch.equal(values, batch[name]), name
    run = Run(network)
    target = batch["target_ids"]
    written = int((target != 0).sum()) - 1  # the last token is predicted, not read
    shifted = {**batch, "target_ids": target[:, :written]}
    encoded = network.encode(network._shortened(network.layout.planner, shifted), shifted)  # with gradients
    run.read(planner.context, planner.inputs([look], [memory]))
    run.hidden["decoded"] = run.write("decoded", target[:, :written], 0)
    for name in encoded.layout.names:
        span = encoded.layout.span(name)
        real = encoded.valid[0, span]
        got = run.hidden[name][0, : len(real)][real]
        torch.testing.assert_close(got, encoded.hidden[0, span][real], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["nano", "nano_flat"])
def test_controller_reads_in_use_what_it_reads_in_training(recorded, moment, name):
    row, look, label = moment
    network, tokenizer, sampler = network_and_batches(name, recorded, row)
    batch = sampler.controller(0, 1)
    controller = Policy(network, tokenizer).controller
    text = plan_of(label).text if name == "nano" else look.instruction
    segment = controller.plan_segment
    ids = torch.tensor([encode_words(tokenizer, text, segment.length, "text")])
    assert torch.equal(ids, batch[segment.source])
    inputs = observed([look], controller.cameras, network.device)
    assert set(inputs["images"]) == set(batch["images"]) and torch.equal(inputs["state"], batch["state"])
    for camera, image in inputs["images"].items():
        assert torch.equal(image, batch["images"][camera])
    run = Run(network)
    if controller.context:
        run.read(controller.context, inputs)
    run.read(controller.with_plan, {**inputs, segment.source: ids})
    run.prepare_actions()
    chunk = controller.act(look, text)
    x, time = torch.randn(1, 1, *batch["actions"].shape[1:]), torch.tensor([[0.4]])
    encoded = network.encode(network._shortened(network.layout.controller, batch), batch)
    positions, mask = network.suffix_view(encoded.layout, encoded.valid, 1)
    bias, beside = mask_bias(mask, x.dtype), Beside(encoded.memory, False)
    expected = network.velocity(x, network.modulation(time), positions, bias, beside)
    for part in encoded.layout.names:
        span = encoded.layout.span(part)
        real = encoded.valid[0, span]
        got = run.hidden[part][0, : len(real)][real]
        torch.testing.assert_close(got, encoded.hidden[0, span][real], atol=2e-5, rtol=1e-4)
    got = run.velocity(x[:, 0], network.modulation(time))
    torch.testing.assert_close(got, expected[:, 0], atol=2e-5, rtol=1e-4)
    assert chunk.actions.shape == (10, 7) and chunk.subtask == text
