"""The least that each part of a tick can cost: multiplications and bytes, computed from a preset.

FLOPs: two for every multiply-add of a matrix product, a convolution or attention; all else is small. Bytes:
every matrix that is used read once per pass, and the keys and values of what is attended to. What need not be
done is not counted: padding, absent cameras, the second half of the last layer where only its keys and values
are read, time and AdaRMS, which are the same in every chunk.

A part takes at least the longer of FLOPs / the device's rate and bytes / its bandwidth. What fits into a
cache on the chip need not be read again, so a tiny network may be faster than its floor.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import measure
import torch

from backbone.config import Preset, StreamConfig, VisionConfig
from backbone.errors import UserError


@dataclass(frozen=True)
class Cost:
    flops: int = 0
    bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: int) -> Cost:
        return Cost(self.flops * times, self.bytes * times)

    def ms(self, device: Device) -> float:
        return max(self.flops / device.flops, self.bytes / device.bandwidth) * 1e3


@dataclass(frozen=True)
class Device:
    """What a device was measured to do: FLOPs and bytes a second."""

    flops: float
    bandwidth: float


def dense(inputs: int, outputs: int, tokens: int, size: int) -> Cost:
    """A matrix with `size` bytes a number, on some tokens."""
    return Cost(2 * inputs * outputs * tokens, inputs * outputs * size)


def stream(c: StreamConfig, queries: int, keys: int, size: int, whole: bool = True) -> Cost:
    """A pass of `queries` tokens that attend to `keys` each, themselves among them.

    whole: False if only keys and values are wanted, no hidden states: the last layer stops there.
    """
    inner, both = c.heads * c.head_dim, 2 * c.kv_heads * c.head_dim
    attention = Cost(4 * queries * keys * inner, keys * both * size)
    layer = dense(c.width, inner + both, queries, size) + attention + dense(inner, c.width, queries, size)
    layer += dense(c.width, 2 * c.mlp, queries, size) + dense(c.mlp, c.width, queries, size)
    if whole:
        return layer * c.depth
    return layer * (c.depth - 1) + dense(c.width, both, queries, size)


def pictures(v: VisionConfig, out: int, cameras: int, frames: int, size: int) -> Cost:
    """Some cameras with their past through one tower; its matrices are read once for all of them."""
    if v.stem != "patch":
        raise UserError("floor: expected a tower with a patch stem, got a convolutional one")
    patches, shown = v.grid**2, v.grid**2 * cameras * frames

    def block(seen: int, kept: int) -> Cost:
        """One that sees so many patches, of which some go on."""
        rest = dense(v.width, v.width, kept, size) + dense(v.width, v.mlp, kept, size)
        rest += dense(v.mlp, v.width, kept, size) + Cost(4 * patches * kept * v.width)
        return dense(v.width, 3 * v.width, seen, size) + rest

    total = dense(3 * v.patch**2, v.width, shown, size)
    back = v.depth // v.spacetime_every if frames > 1 and v.spacetime_every else 0
    if not back:
        total += block(shown, shown) * v.depth
    else:  # behind the last block that looks back, only the current frames go on
        last, now = back * v.spacetime_every - 1, patches * cameras
        total += block(shown, shown) * last + block(shown, now) + block(now, now) * (v.depth - last - 1)
        total += Cost(4 * frames * shown * v.width) * back
    return total + dense(v.width, out, v.tokens * cameras, size)


def head(preset: Preset, tokens: int, size: int) -> Cost:
    return dense(preset.decoder.width, preset.words, tokens, size)


def parts(
    preset: Preset, cameras: int, prompt: int, plan: int, frames: int = 1, size: int = 2
) -> dict[str, Cost]:
    """prefill, plan (written word by word), confirm (the same words in one pass), and chunk, those that the
    preset has. cameras, prompt and plan: how many and how long they really are; size: bytes of a number.
    """
    p, vision, found = preset, preset.cameras[0][1], {}
    layout = p.layout.inference
    fixed = sum(s.length for s in layout.segments if s.kind in ("constant", "state"))
    prefix = cameras * vision.tokens + prompt + fixed
    found["prefill"] = pictures(vision, p.decoder.width, cameras, frames, size)
    found["prefill"] += stream(p.decoder, prefix, prefix, size, whole=False)
    if layout.writes_plans:
        words = [stream(p.decoder, 1, prefix + at + 1, size) + head(p, 1, size) for at in range(plan)]
        found["plan"] = sum(words, Cost())
        found["confirm"] = stream(p.decoder, plan, prefix + plan, size) + head(p, plan, size)
        prefix += plan
    if p.expert:
        step = stream(p.expert, p.horizon, prefix + p.horizon, size)
        ends = dense(p.action_dim, p.expert.width, p.horizon, size) * 2
        found["chunk"] = (step + ends) * p.steps
    return found


# --- what a device can do --------------------------------------------------------------------------------


def measured(device: torch.device, kind: torch.dtype, seconds: float = 1.0) -> Device:
    """By one big matrix product (read and multiplied again and again) and one big copy; the best of some."""
    cuda = device.type == "cuda"
    side, numbers = (8192, 2**29) if cuda else (1024, 2**25)
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    product = _best(lambda: torch.mm(a, b), device, seconds)
    source = torch.ones(numbers, dtype=torch.float32 if not cuda else torch.bfloat16, device=device)
    target = torch.empty_like(source)
    copied = _best(lambda: target.copy_(source), device, seconds)
    return Device(2 * side**3 / product, 2 * source.numel() * source.element_size() / copied)


def _best(call, device: torch.device, seconds: float) -> float:
    """Seconds of the fastest call, the first left out."""
    measure.once(call, device)
    taken, begun = [], time.perf_counter()
    while not taken or (len(taken) < 1000 and time.perf_counter() - begun < seconds):
        taken.append(measure.once(call, device))
    return min(taken) / 1e3
