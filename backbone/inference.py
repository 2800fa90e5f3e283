"""One look of the network at the world: a prefix computed once, text written onto it, actions read off it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from backbone.attention import mask_bias
from backbone.cache import Beside, Cache, Collect
from backbone.errors import UserError
from backbone.inputs import leaves, tree
from backbone.network import Network
from backbone.prefix import check_ids, given
from backbone.tokenizer import PAD

# (name, work, its tensors) -> what the work returns
Replayed = Callable[[tuple, Callable, Sequence[Tensor]], tuple]


class Run:
    """Inference over one static store of keys and values, for `batch` samples and `chunks` of actions each.

    Segments may be read in any order their `sees` allows. valid (B, slots): which slots of the layout hold
    something. A static run gives every slot its own place in the store, so that all shapes are known
    beforehand (compiled code, CUDA graphs). Else what is not there, absent cameras and the padding of texts,
    is not computed, and takes no place: places are given in the order of reading.

    replayed: how a step of work (a function of tensors, with a name) is done; see backbone/engine.py.
    """

    @torch.inference_mode(False)  # so that what is kept can be written to in every mode
    def __init__(
        self,
        network: Network,
        batch: int = 1,
        chunks: int = 1,
        static: bool = True,
        replayed: Replayed | None = None,
    ):
        c, p = network.preset.decoder, network.preset
        self.network, self.layout = network, network.layout.inference
        self.prefix, self.batch, self.chunks, self.static = self.layout.prefix, batch, chunks, static
        self.slots, self.suffix = self.prefix.slots_needed, chunks * p.horizon * (p.expert is not None)
        kind = network.decoder.blocks[0].qkv.weight.dtype
        places, device = self.slots + self.suffix, network.device
        self.cache = Cache(c.depth, batch, places, c.kv_heads, c.head_dim, device, kind)
        self.valid = torch.zeros(batch, self.slots, dtype=torch.bool, device=device)
        self.replayed: Replayed = replayed or (lambda name, work, tensors: work(*tensors))
        self._range = torch.arange(places, device=device)
        self._never: dict[tuple[int, ...], Tensor] = {}
        pairs = zip(self.prefix.starts, self.prefix.segments, strict=True)
        self._lay_out({s.name: (start, s.length) for start, s in pairs} if static else {})
        self.reset()

    @torch.inference_mode(False)
    def reset(self) -> Run:
        """Forget the last look."""
        self.valid.zero_()
        self.fine: dict[str, Tensor] = {}  # cameras' fine maps
        self.hidden: dict[str, Tensor] = {}  # hidden states of what was read, (B, n, width)
        if not self.static:
            self._lay_out({})
        return self

    @torch.no_grad()
    def read(self, names: tuple[str, ...], inputs: dict, keep: tuple[str, ...] | None = None) -> None:
        """Compute these segments from what `Network.embed` takes. keep: whose hidden states are wanted
        afterwards, by default all; the others are spared half of the last layer.
        """
        if self.static:
            part, inputs = self.prefix.part(names), self.whole(inputs)
        else:
            part = self.prefix.part(*self._used(names, inputs))
            self._give({segment.name: segment.length for segment in part.segments})
            for start, segment in zip(part.starts, part.segments, strict=True):
                self.valid[:, start : start + self.prefix[segment.name].length] = False
        kept = part.names if keep is None else tuple(name for name in part.names if name in keep)
        spans = [part.span(name) for name in kept]
        wanted = (min(s.start for s in spans), max(s.stop for s in spans)) if spans else (0, 0)
        keys, tensors = leaves(inputs)

        def work(*tensors: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            x, valid, fine = self.network.embed(part, tree(keys, tensors))
            places = torch.cat([self._place(segment.name)[: segment.length] for segment in part.segments])
            slots = part.on(x.device).slots
            self.valid[:, slots] = valid
            return self._attend(x, slots, places, None if keep is None else wanted), fine

        hidden, fine = self.replayed(("read", names, keys, wanted), work, tensors)
        self.fine |= fine
        first = 0 if keep is None else wanted[0]
        for name, span in zip(kept, spans, strict=True):
            self.hidden[name] = hidden[:, span.start - first : span.stop - first]

    @torch.no_grad()
    def predict(
        self, ids: Tensor, slots: Tensor, never: tuple[int, ...] = (), ahead: int = 1, limit: int = 0
    ) -> tuple[Tensor, ...]:
        """Words ids (B, k) into slots (B, k) -> ids and slots that were fed, hidden (B, n, width), and the
        best next word of each and its lead in log-probability over the second, (B, n).

        never: ids that are not to be written. ahead: if k is 1, so many words are fed, each the best after
        the one before, up to slot `limit`; there the last is fed again, which changes nothing.
        """
        if never not in self._never:
            self._never[never] = torch.tensor(never, dtype=torch.long, device=ids.device)
        banned = self._never[never]

        def work(ids: Tensor, slots: Tensor) -> tuple[Tensor, ...]:
            steps = []
            for _ in range(ahead):
                hidden = self.put(ids, slots, torch.ones_like(ids, dtype=torch.bool))
                logits = self.network.logits(hidden)
                top = (logits.index_fill_(-1, banned, -torch.inf) if never else logits).topk(2, -1)
                best, second = top.values.unbind(-1)
                steps.append((ids, slots, hidden, top.indices[..., 0], best - second))
                over = slots >= limit
                ids, slots = torch.where(over, ids, steps[-1][3]), torch.where(over, slots, slots + 1)
            return (
                steps[0] if ahead == 1 else tuple(torch.cat(parts, 1) for parts in zip(*steps, strict=True))
            )

        return self.replayed(("predict", ids.shape[1], never, ahead, limit), work, (ids, slots))

    @torch.no_grad()
    def write(self, name: str, ids: Tensor, offset: int, real: Tensor | None = None) -> Tensor:
        """Put ids (B, k) into a causal text segment from its column `offset` on -> hidden (B, k, width).

        Whatever the segment held from there on is forgotten. real (B, k) bool: which ids count, all if not
        given.
        """
        start, length = self.layout.start(name), self.layout[name].length
        check_ids(name, ids, self.network.text.size)
        if offset + ids.shape[1] > length:
            got = offset + ids.shape[1]
            raise UserError(f"{name}: expected at most {length} tokens, got {got}")
        self.valid[:, start + offset : start + length] = False
        slots = self._range[start + offset : start + offset + ids.shape[1]].expand(self.batch, -1)
        return self.put(ids, slots, torch.ones_like(ids, dtype=torch.bool) if real is None else real)

    @torch.no_grad()
    def put(self, ids: Tensor, slots: Tensor, real: Tensor) -> Tensor:
        """Words ids (B, k) into slots (B, k) of texts that the layout has there -> hidden (B, k, width)."""
        network = self.network
        x = network.text(ids)
        if network.slot is not None:
            x = x + network.slot(slots)
        self.valid.scatter_(1, slots, real)
        return self._attend(x, slots, self._of(slots), None)

    def open(self, names: Iterable[str]) -> None:
        """Give texts that are about to be written their places."""
        self._give({name: self.layout[name].length for name in names})

    @torch.no_grad()
    def prepare_actions(self) -> None:
        """Fix what the action suffix sees: call once after the last `read`, before `velocity`."""
        positions, mask = self.network.suffix_view(self.prefix, self.valid, self.chunks)
        mask = torch.cat((mask[:, :, : self.slots][:, :, self._held], mask[:, :, self.slots :]), 2)
        self.positions, self.bias = positions, mask_bias(mask, torch.float32)

    @torch.no_grad()
    def velocity(self, actions: Tensor, modulation: list[Tensor]) -> Tensor:
        """Noisy normalised actions (B, H, A), or (B, chunks, H, A), and the modulation of their time ->
        velocity, alike; overwrites the suffix.
        """
        end = self._end + self.suffix

        def work(actions: Tensor, positions: Tensor, bias: Tensor, *modulation: Tensor) -> Tensor:
            memory = self.cache.at(self._range[self._end : end], end)
            return self.network.velocity(actions, list(modulation), positions, bias, memory)

        chunks = actions if actions.dim() == 4 else actions[:, None]
        tensors = chunks, self.positions, self.bias, *modulation
        return self.replayed(("velocity",), work, tensors).reshape(actions.shape)

    def traced(self, actions: Tensor, modulation: list[Tensor]) -> Tensor:
        """`velocity` in plain torch, for gradients with respect to the actions (call it where they are
        enabled); what was read is constant, and nothing is overwritten.
        """
        read = Collect()
        read.keys = [keys[:, : self._end] for keys in self.cache.keys]
        read.values = [values[:, : self._end] for values in self.cache.values]
        # Copies: what inference mode made cannot be kept for a backward pass.
        positions, bias, *modulation = (t.clone() for t in (self.positions, self.bias, *modulation))
        chunks = actions if actions.dim() == 4 else actions[:, None]
        memory = Beside(read, insulated=True)
        return self.network.velocity(chunks, modulation, positions, bias, memory).reshape(actions.shape)

    # --- where things are ----------------------------------------------------------------------------------

    def _used(self, names: tuple[str, ...], inputs: dict) -> tuple[tuple[str, ...], tuple]:
        """The segments that anything is given for, and how long the texts among them are."""
        used, lengths = [], []
        for segment in self.prefix.part(names).segments:
            found = given(segment, inputs)
            if found is None and segment.optional:
                continue
            used.append(segment.name)
            # `embed` refuses what is not there, or too long
            if segment.kind == "text" and found is not None and found.shape[-1] <= segment.length:
                there = inputs.get("there", {}).get(segment.name)
                real = found != PAD if there is None or there.dim() == 1 else there
                columns = real.any(0).nonzero()
                lengths.append((segment.name, int(columns.max()) + 1 if len(columns) else 1))
        return tuple(used), tuple(lengths)

    def whole(self, inputs: dict) -> dict:
        """Texts padded to their segments' lengths, so that shapes do not depend on what is said."""
        lengths = {s.source: s.length for s in self.prefix.segments if s.kind == "text"}
        return {
            name: F.pad(value, (0, max(0, lengths[name] - value.shape[1])), value=PAD)
            if name in lengths and value.dim() == 2
            else value
            for name, value in inputs.items()
        }

    def _give(self, lengths: dict[str, int]) -> None:
        """Places for so many tokens of each segment, unless it has them."""
        places, end = dict(self._places), self._end
        for name, length in lengths.items():
            if name not in places:
                places[name] = end, length
                end += length
            elif places[name][1] < length:
                raise ValueError(f"run: '{name}' was read with {places[name][1]} tokens, now {length}")
        if end > self._end:
            self._lay_out(places)

    @torch.inference_mode(False)
    def _lay_out(self, places: dict[str, tuple[int, int]]) -> None:
        """Each segment's first place and how many it has, and what follows: the slot that a place holds, the
        place of a slot, and what a slot may see at each place.
        """
        self._places, self._end = places, sum(length for _, length in places.values())
        starts = [(self.prefix.start(name), length) for name, (_, length) in places.items()]
        spans = [self._range[start : start + length] for start, length in starts]
        self._held = torch.cat(spans) if spans else self._range[:0]
        self._at = torch.zeros_like(self._range).index_copy_(0, self._held, self._range[: self._end])
        self._allowed = self.prefix.on(self._held.device).allowed[:, self._held]

    def _place(self, name: str) -> Tensor:
        first, length = self._places[name]
        return self._range[first : first + length]

    def _of(self, slots: Tensor) -> Tensor:
        """The places of slots (B, k) of segments that have been given theirs."""
        return slots if self.static else self._at[slots]

    def _attend(self, x: Tensor, slots: Tensor, places: Tensor, wanted: tuple[int, int] | None) -> Tensor:
        """x (B, S, width) in slots and places, (S,) or (B, S) -> hidden states of the wanted tokens."""
        rows = slots if slots.dim() == 2 else slots[None]
        seen = self._allowed[rows] & self.valid[:, None, self._held]
        mask = seen | (rows[..., None] == self._held)  # a token sees itself, so that no row is empty
        positions = slots
        if self.layout.positions != "slots":
            positions = self.prefix.token_positions(self.valid)
            if slots.dim() == 1:
                positions = positions[..., slots]
            else:
                at = slots.expand(*positions.shape[:-1], -1)
                positions = positions.gather(-1, at)
        memory = self.cache.at(places, self._end)
        return self.network.decoder(x, positions, mask_bias(mask, x.dtype), memory, wanted=wanted)
