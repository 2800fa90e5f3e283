"""The prefix as a list of segments. Masks, positions, what the expert reads and what is learnt follow.

Rules of attention:
- a segment that `opens` starts a new bidirectional block, one that `joins` belongs to the block before it;
- inside a block everything sees everything; a `causal` segment is a block of its own, read left to right;
- towards earlier blocks a segment sees the segments it names in `sees` (None: all of them);
- the action suffix sees the segments marked `expert_reads` and itself.

A constant segment (a word like "State: ") can hang on others: it is there `when` any of the named segments
is, or `unless` any is, sample by sample.

Every segment has a fixed length and so a fixed slot; what a sample lacks is masked (`valid`), never removed.
Since no segment sees a later block, a selection of segments that is closed under `sees` can be computed
alone, with the very same numbers: that is how the controller trains without the planner's inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

KINDS = ("image", "text", "constant", "state", "fast", "actions")
POSITIONS = ("slots", "packed", "mrope")


@dataclass(frozen=True)
class Segment:
    """`source`: where its content comes from in a batch, e.g. "images.front", "state", "instruction_ids".

    target: its text is learnt and written. training: it is there in training only. optional: its input may be
    missing. ids: of a constant's tokens.
    modality: row of the preset's modality embedding, if it has one.
    """

    name: str
    kind: str
    length: int
    source: str
    attend: str = "opens"  # opens, joins, causal
    sees: tuple[str, ...] | None = None
    expert_reads: bool = False
    target: bool = False
    training: bool = False
    optional: bool = False
    ids: tuple[int, ...] = ()
    when: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    modality: int = 0


@dataclass(frozen=True)
class Tables:
    """What follows from a layout, as tensors on a device: allowed (n, n), slots, modalities, expert_columns
    (n,), and the ids (length,) of its constants.
    """

    allowed: Tensor
    slots: Tensor
    modalities: Tensor
    expert_columns: Tensor
    ids: dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """`starts`: first slot of every segment (given by `select`; by default the segments lie end to end).

    positions "slots": a token's rotary position is its slot. "packed": pads take no position (PaliGemma
    family). "mrope": three numbers a token, packed likewise: a picture's tokens share the first and count
    rows and columns in the others, and it takes as many positions as it has rows.
    """

    segments: tuple[Segment, ...]
    positions: str = "slots"
    starts: tuple[int, ...] | None = None

    def __post_init__(self):
        seen: list[str] = []
        names = {segment.name for segment in self.segments}
        if self.positions not in POSITIONS:
            raise ValueError(f"layout: positions are one of {', '.join(POSITIONS)}, got '{self.positions}'")
        for segment in self.segments:
            if segment.kind == "constant" and len(segment.ids) != segment.length:
                raise ValueError(
                    f"layout: '{segment.name}' has {len(segment.ids)} ids for {segment.length} tokens"
                )
            if self.starts is None and not set(segment.when + segment.unless) <= names:
                raise ValueError(f"layout: '{segment.name}' hangs on a segment that is not there")
            if segment.kind not in KINDS or segment.attend not in ("opens", "joins", "causal"):
                raise ValueError(f"layout: segment '{segment.name}' has an unknown kind or way to attend")
            for name in segment.sees or ():
                if name not in seen:
                    raise ValueError(f"layout: '{segment.name}' sees '{name}', which does not come before it")
            if segment.name in seen:
                raise ValueError(f"layout: two segments are named '{segment.name}'")
            seen.append(segment.name)
        if self.starts is None:
            starts = [0]
            for segment in self.segments:
                starts.append(starts[-1] + segment.length)
            object.__setattr__(self, "starts", tuple(starts[:-1]))

    # --- finding one's way -------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Segment:
        return self.segments[self.names.index(name)]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.segments)

    @cached_property
    def length(self) -> int:
        """Number of tokens (columns) of this layout."""
        return sum(s.length for s in self.segments)

    @cached_property
    def slots_needed(self) -> int:
        return max((start + s.length for start, s in zip(self.starts, self.segments, strict=True)), default=0)

    def start(self, name: str) -> int:
        """The first slot of a segment."""
        return self.starts[self.names.index(name)]

    def span(self, name: str) -> slice:
        """The segment's columns in a sequence that holds exactly this layout's segments."""
        at = self.names.index(name)
        first = sum(s.length for s in self.segments[:at])
        return slice(first, first + self.segments[at].length)

    # --- parts -------------------------------------------------------------------------------------------

    @cached_property
    def prefix(self) -> Layout:
        """Without the action suffix."""
        return self.select(tuple(s.name for s in self.segments if s.kind != "actions"))

    @cached_property
    def inference(self) -> Layout:
        """Without what is there in training only."""
        kept = tuple(s for s in self.segments if not s.training)
        return self if len(kept) == len(self.segments) else Layout(kept, self.positions)

    @cached_property
    def suffix(self) -> Segment | None:
        return next((s for s in self.segments if s.kind == "actions"), None)

    @cached_property
    def context(self) -> tuple[str, ...]:
        """Names of what is known before anything is written: all before the first target."""
        known = []
        for segment in self.prefix.segments:
            if segment.target or segment.training:
                break
            known.append(segment.name)
        return tuple(known)

    @cached_property
    def planner(self) -> Layout:
        """All that has to be computed to predict the target text."""
        return self.select(self.closure(tuple(s.name for s in self.segments if s.target)))

    @cached_property
    def controller(self) -> Layout:
        """All that has to be computed for the action expert."""
        return self.select(self.closure(tuple(s.name for s in self.segments if s.expert_reads)))

    @cached_property
    def writes_plans(self) -> bool:
        """Whether there is a planner."""
        return bool(self.planner.segments)

    @cached_property
    def reads_plans(self) -> bool:
        """Whether the controller is told a subtask. If not, it knows none: its words are the instruction."""
        return any(s.source == "plan_ids" for s in self.controller.segments)

    def closure(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The named segments and, transitively, everything they see, in order."""
        wanted = set(names)
        for at in reversed(range(len(self.segments))):
            if self.names[at] in wanted:
                wanted |= {self.names[j] for j in range(len(self.segments)) if self._sees(at, j)}
        return tuple(name for name in self.names if name in wanted)

    def select(self, names: tuple[str, ...], lengths: tuple[tuple[str, int], ...] = ()) -> Layout:
        """Only these segments, in their slots; `lengths` shortens some (text whose tail is padding)."""
        return _select(self, tuple(names), tuple(lengths))

    def part(self, names: tuple[str, ...], lengths: tuple[tuple[str, int], ...] = ()) -> Layout:
        """These segments in their slots, to be computed onto a cache that already holds what they see;
        `lengths` shortens some.
        """
        parts, key = self._kept, ("part", names, lengths)
        if key not in parts:
            short = dict(lengths)
            picked = [(s, t) for s, t in zip(self.segments, self.starts, strict=True) if s.name in names]
            segments = tuple(replace(s, sees=(), length=short.get(s.name, s.length)) for s, _ in picked)
            parts[key] = replace(self, segments=segments, starts=tuple(start for _, start in picked))
        return parts[key]

    def on(self, device: torch.device) -> Tables:
        """Its tables, made once for each device."""
        if device not in self._kept:
            with torch.inference_mode(False):  # kept, so they must also serve training
                self._kept[device] = self._tables(device)
        return self._kept[device]

    def _tables(self, device: torch.device) -> Tables:
        rows = torch.cat([torch.full((s.length,), s.modality) for s in self.segments])
        ids = {s.name: torch.tensor(s.ids, device=device) for s in self.segments if s.kind == "constant"}
        made = self.allowed, self.slots, rows, self.expert_columns
        return Tables(*(table.to(device) for table in made), ids)

    @cached_property
    def _kept(self) -> dict:
        return {}

    # --- what follows from the list ----------------------------------------------------------------------

    @cached_property
    def _blocks(self) -> tuple[int, ...]:
        blocks: list[int] = []
        for at, segment in enumerate(self.segments):
            joins = segment.attend == "joins" and at > 0 and self.segments[at - 1].attend != "causal"
            blocks.append(blocks[-1] if joins else (blocks[-1] + 1 if blocks else 0))
        return tuple(blocks)

    def _sees(self, query: int, key: int) -> bool:
        if self._blocks[query] == self._blocks[key]:
            return True
        if key > query:
            return False
        segment = self.segments[query]
        if segment.kind == "actions":
            return self.segments[key].expert_reads
        return segment.sees is None or self.segments[key].name in segment.sees

    @cached_property
    def allowed(self) -> Tensor:
        """(n, n) bool: may row look at column, before anything about pads."""
        rows = []
        for q, query in enumerate(self.segments):
            row = []
            for k, key in enumerate(self.segments):
                tile = torch.full((query.length, key.length), self._sees(q, k))
                row.append(tile.tril() if q == k and query.attend == "causal" else tile)
            rows.append(torch.cat(row, 1))
        return torch.cat(rows)

    @cached_property
    def slots(self) -> Tensor:
        """(n,) the slot of every column."""
        pairs = zip(self.starts, self.segments, strict=True)
        return torch.cat([torch.arange(start, start + s.length) for start, s in pairs])

    @cached_property
    def expert_columns(self) -> Tensor:
        """(n,) bool: columns the action expert may read."""
        return torch.cat([torch.full((s.length,), s.expert_reads) for s in self.segments])

    def mask(self, valid: Tensor) -> Tensor:
        """valid (B, n) bool -> (B, n, n) bool. A pad sees itself (no row is empty); nobody else does."""
        allowed = self.on(valid.device).allowed
        return (allowed & valid[:, None, :]) | torch.eye(self.length, dtype=torch.bool, device=valid.device)

    def token_positions(self, valid: Tensor) -> Tensor:
        """Rotary positions, (n,) or (B, n), or (3, B, n) for "mrope"."""
        if self.positions == "slots":
            return self.on(valid.device).slots
        if self.positions == "packed":
            return (valid.long().cumsum(1) - 1).clamp(min=0)
        cursor, parts = torch.zeros(len(valid), 1, dtype=torch.long, device=valid.device), []
        for segment in self.segments:
            real = valid[:, self.span(segment.name)].long()
            if segment.kind == "image":
                side = round(segment.length**0.5)
                cell = torch.arange(segment.length, device=valid.device).expand(len(valid), -1)
                axes = (torch.zeros_like(cell), cell // side, cell % side)
                parts.append(torch.stack([cursor + axis for axis in axes]))
                cursor = cursor + side * real[:, :1]
            else:
                line = cursor + (real.cumsum(1) - 1).clamp(min=0)
                parts.append(line.expand(3, -1, -1))
                cursor = cursor + real.sum(1, keepdim=True)
        return torch.cat(parts, 2)

    def next_position(self, valid: Tensor, columns: Tensor) -> Tensor:
        """(B, 1): where the suffix begins, behind the real ones of these columns (n,)."""
        if self.positions == "slots":
            raise ValueError("layout: a suffix in slots begins at its own")
        real = valid & columns
        if self.positions == "packed":
            return real.sum(1, keepdim=True)
        last = self.token_positions(valid).amax(0).masked_fill(~real, -1)
        return last.amax(1, keepdim=True) + 1


@lru_cache(maxsize=4096)
def _select(layout: Layout, names: tuple[str, ...], lengths: tuple[tuple[str, int], ...]) -> Layout:
    unknown = set(names) - set(layout.names)
    if unknown:
        raise ValueError(f"layout: no segment named {sorted(unknown)}")
    missing = set(layout.closure(names)) - set(names)
    if missing:
        raise ValueError(f"layout: {list(names)} cannot be computed without {sorted(missing)}")
    short = dict(lengths)
    picked, starts = [], []
    for start, segment in zip(layout.starts, layout.segments, strict=True):
        if segment.name in names:
            length = short.get(segment.name, segment.length)
            if not 0 < length <= segment.length:
                raise ValueError(f"layout: '{segment.name}' holds 1 to {segment.length} tokens, got {length}")
            picked.append(replace(segment, length=length))
            starts.append(start)
    return replace(layout, segments=tuple(picked), starts=tuple(starts))
