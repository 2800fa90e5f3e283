"""One look of the network at the world: a prefix computed once, text written onto it, actions read off it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from backbone.attention import mask_bias
from backbone.cache import Cache
from backbone.errors import UserError
from backbone.layout import Layout
from backbone.network import Network
from backbone.observation import Observation
from backbone.tokenizer import Tokenizer


class Run:
    """Inference over one static cache. Segments may come in any order their `sees` allows."""

    def __init__(self, network: Network, batch: int = 1):
        c = network.preset.decoder
        self.network, self.layout = network, network.layout.inference
        slots = self.layout.slots_needed
        kind = network.decoder.blocks[0].qkv.weight.dtype
        self.cache = Cache(c.depth, batch, slots, c.kv_heads, c.head_dim, network.device, kind)
        self.fine: dict[str, Tensor] = {}
        self.hidden: dict[str, Tensor] = {}

    @torch.inference_mode()
    def read(self, names: tuple[str, ...], inputs: dict) -> None:
        """Compute these segments; keeps their hidden states (B, n, width) and the cameras' fine maps."""
        part = self.layout.prefix.part(names)
        x, valid, fine = self.network.embed(part, inputs)
        hidden = self._pass(part, x, valid)
        self.fine |= fine
        self.hidden |= {name: hidden[:, part.span(name)] for name in part.names}

    @torch.inference_mode()
    def write(self, name: str, ids: Tensor, offset: int, real: Tensor | None = None) -> Tensor:
        """Put ids (B, k) into a causal text segment from place `offset` on -> hidden (B, k, width).

        Whatever the segment held from `offset` on is forgotten. real (B, k) bool: which ids count, by default
        all.
        """
        network, start = self.network, self.layout.start(name)
        first, length = start + offset, ids.shape[1]
        self.cache.valid[:, first : start + self.layout[name].length] = False
        x = network.text(ids)
        slots = torch.arange(first, first + length, device=x.device)
        if network.slot is not None:
            x = x + network.slot(slots)
        real = torch.ones_like(ids, dtype=torch.bool) if real is None else real
        return self._attend(x, real, slots, [(first, length)])

    @torch.inference_mode()
    def prepare_actions(self) -> None:
        """Fix what the action suffix sees: call once after the last `read`, before `velocity`."""
        prefix = self.layout.prefix
        self.positions, mask = self.network.suffix_view(prefix, self.cache.valid[:, : prefix.length], 1)
        self.bias = mask_bias(mask, torch.float32)

    @torch.inference_mode()
    def velocity(self, actions: Tensor, modulation: list[Tensor]) -> Tensor:
        """Noisy normalised actions (B, H, A), modulation of their time -> velocity; overwrites the suffix."""
        start, horizon = self.layout.prefix.length, actions.shape[1]
        memory = self.cache.at([(start, horizon)], start + horizon)
        return self.network.velocity(actions[:, None], modulation, self.positions, self.bias, memory)[:, 0]

    def _pass(self, part: Layout, x: Tensor, valid: Tensor) -> Tensor:
        runs = [(start, s.length) for start, s in zip(part.starts, part.segments, strict=True)]
        return self._attend(x, valid, part.slots.to(x.device), runs)

    def _attend(self, x: Tensor, valid: Tensor, slots: Tensor, runs: list[tuple[int, int]]) -> Tensor:
        cache = self.cache
        cache.valid[:, slots] = valid
        end = max(start + length for start, length in runs)
        allowed = self.layout.allowed.to(x.device)[slots, :end]
        itself = slots[:, None] == torch.arange(end, device=x.device)
        mask = (allowed & cache.valid[:, None, :end]) | itself
        positions = slots
        if self.layout.positions != "slots":
            prefix = self.layout.prefix
            positions = prefix.token_positions(cache.valid[:, : prefix.length])[..., slots]
        return self.network.decoder(x, positions, mask_bias(mask, x.dtype), cache.at(runs, end))


def observed(observation: Observation, cameras: Iterable[str], device: torch.device) -> dict:
    """What `Run.read` needs of an observation, as a batch of one."""
    images = {
        c: torch.from_numpy(np.ascontiguousarray(observation.images[c]))[None].to(device) for c in cameras
    }
    state = torch.as_tensor(np.asarray(observation.state), dtype=torch.float32, device=device)[None]
    return {"images": images, "state": state}


def encode_words(tokenizer: Tokenizer, text: str, length: int, what: str) -> list[int]:
    """Padded ids; UserError naming the unknown words if they are more than a third of the text."""
    unknown = tokenizer.unknown_words(text)
    if len(unknown) * 3 > len(text.split()):
        raise UserError(f"{what}: this network does not know the words {', '.join(map(repr, unknown))}")
    try:
        return tokenizer.encode(text, length)
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
