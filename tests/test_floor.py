"""The floor's FLOPs and bytes against those of the networks themselves."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from backbone import family
from backbone.attention import mask_bias
from backbone.cache import Beside
from backbone.network import Network
from backbone.presets import preset

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import floor  # noqa: E402


def counted(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def pictures(network: Network, frames: int = 1) -> dict:
    side = network.preset.cameras[0][1].image_size
    shape = (1, frames, side, side, 3) if frames > 1 else (1, side, side, 3)
    return {name: torch.rand(*shape) for name, _ in network.preset.cameras}


@torch.no_grad()
@pytest.mark.parametrize("name", ["pi05", "pi05_subtask", "pi06"])
def test_what_each_part_multiplies(name):
    torch.manual_seed(0)
    network = Network(replace(family.build(name, True), attention="math")).eval()  # which is counted
    p = network.preset
    layout = network.layout.inference.select(network.layout.inference.context)
    n, horizon = layout.length, p.horizon
    inputs = {"images": pictures(network), "prompt_ids": torch.ones(1, p.layout["prompt"].length, dtype=int)}
    encoded = network.encode(layout, inputs)
    expected = floor.pictures(p.cameras[0][1], p.decoder.width, len(p.cameras), 1, 4)
    expected += floor.stream(p.decoder, n, n, 4)
    assert counted(lambda: network.encode(layout, inputs)) == expected.flops

    def word():
        memory = Beside(encoded.memory, False)
        hidden = network.decoder(torch.rand(1, 1, p.decoder.width), torch.tensor([n]), None, memory)
        network.logits(hidden)

    expected = floor.stream(p.decoder, 1, n + 1, 4) + floor.head(p, 1, 4)
    assert counted(word) == expected.flops

    modulation = network.modulation(torch.ones(1, 1))
    columns = torch.ones(1, horizon, n + horizon, dtype=torch.bool)
    positions, bias = torch.arange(horizon), mask_bias(columns, torch.float32)
    noise = torch.randn(1, 1, horizon, p.action_dim)
    step = counted(
        lambda: network.velocity(noise, modulation, positions, bias, Beside(encoded.memory, False))
    )
    chunk = floor.parts(p, len(p.cameras), p.layout["prompt"].length, plan=0)["chunk"]
    assert step * p.steps == chunk.flops


@torch.no_grad()
def test_what_past_frames_multiply():
    network = Network(replace(family.build("pi05_mem", True), attention="math")).eval()
    p, (camera, vision) = network.preset, network.preset.cameras[0]
    images, history = pictures(network, 3)[camera], torch.ones(1, 3, dtype=torch.bool)
    expected = floor.pictures(vision, p.decoder.width, 1, 3, 4)
    assert counted(lambda: network.towers[camera](images, history)) == expected.flops


@pytest.mark.parametrize("name", ["pi05_subtask", "pi06"])
def test_bytes_are_those_of_the_weights(name):
    with torch.device("meta"):
        network = Network(preset(name))
    p, (camera, vision) = network.preset, network.preset.cameras[0]
    for made, part in (
        (floor.stream(p.decoder, 1, 0, 2), network.decoder),
        (floor.pictures(vision, p.decoder.width, 1, 1, 2), network.towers[camera]),
        (floor.head(p, 1, 2), network.text.table),
    ):
        weights = sum(2 * w.numel() for w in part.parameters())
        assert made.bytes == pytest.approx(weights, rel=0.01)
    steps = [w for w in network.expert.named_parameters() if ".dense." not in w[0]]
    weights = sum(2 * w.numel() for _, w in steps)
    assert floor.stream(p.expert, 50, 0, 2).bytes == pytest.approx(weights, rel=0.01)


def test_parts_of_a_tick():
    p = preset("pi06")
    least = floor.parts(p, cameras=3, prompt=100, plan=8)
    assert list(least) == ["prefill", "plan", "confirm", "chunk"]
    more = floor.parts(p, cameras=3, prompt=100, plan=16)
    assert more["prefill"] == least["prefill"] and more["plan"].flops > 2 * least["plan"].flops
    assert least["confirm"].bytes < least["plan"].bytes / 7, "the weights are read once for all words"
    device = floor.Device(flops=1e12, bandwidth=1e9)
    assert floor.Cost(flops=2 * 10**12, bytes=10**9).ms(device) == 2000
    assert floor.Cost(flops=10**12, bytes=3 * 10**9).ms(device) == 3000
    assert list(floor.parts(preset("pi05"), 2, 20, 8)) == ["prefill", "chunk"]
