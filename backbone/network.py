"""One network for both levels: cameras, words and state go in; text, a place and actions come out.

A planner's sample computes the segments its target needs, a controller's sample those the action expert reads
(see backbone/layout.py); both are one forward, so that one optimiser step, and DDP, see one network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone import joint, losses, prefix
from backbone.attention import mask_bias, project
from backbone.cache import Collect
from backbone.config import Preset
from backbone.embeddings import StateToken, TextEmbedding
from backbone.layout import Layout
from backbone.normalise import Normaliser
from backbone.pointer import Pointer
from backbone.prefix import Encoded
from backbone.tokenizer import LOC_BINS, PAD, POINT
from backbone.transformer import Stream, time_features
from backbone.vision import VisionTower


class Network(nn.Module):
    """Build one with `Network(preset)`; read one with `backbone.checkpoint.load`."""

    def __init__(self, preset: Preset):
        super().__init__()
        p = self.preset = preset
        self.layout = p.layout
        width = p.decoder.width
        if p.words <= POINT:
            raise ValueError("network: the preset does not say how many words its tokenizer has")
        cameras = p.cameras[:1] if p.shared_tower else p.cameras
        self.towers = nn.ModuleDict({name: VisionTower(c, width, p.attention) for name, c in cameras})
        self.text = TextEmbedding(p.words, width, p.location_embedding, p.embed_scale)
        if any(s.kind == "state" for s in p.layout.segments):
            self.state = StateToken(p.state_dim, width, p.state_octaves)
        self.state_norm = Normaliser(p.state_dim, p.narrow)  # a state that is read as text is normalised too
        self.slot = nn.Embedding(p.layout.slots_needed, width) if p.slot_embedding else None
        self.modality = nn.Embedding(p.modalities, width) if p.modalities else None
        if p.fast_words:
            self.fast = nn.Embedding(p.fast_words, width)
            self.fast_head = nn.Linear(width, p.fast_words)
        self.decoder = Stream(p.decoder, attention=p.attention)
        self.head = None
        if p.layout.writes_plans:
            outputs = p.words + (0 if p.pointer else LOC_BINS)
            self.head = None if p.tied_head else nn.Linear(width, outputs, bias=False)
            if p.pointer:
                self.pointer = Pointer(p.vision(p.pointer).channels[0], width, p.pointer_width)
        if p.expert:
            self.action_norm = Normaliser(p.action_dim, p.narrow)
            self.expert = Stream(p.expert, adaptive=True, attention=p.attention)
            self.action_in = nn.Linear(p.action_dim, p.expert.width)
            self.action_out = nn.Linear(p.expert.width, p.action_dim)
            self.time_in = nn.Linear(p.expert.width, p.expert.width)
            self.time_out = nn.Linear(p.expert.width, p.expert.width)
            if p.slot_embedding:
                self.action_slot = nn.Parameter(torch.randn(p.horizon, p.expert.width) * 0.02)
            elif p.modalities:
                self.action_slot = nn.Parameter(torch.zeros(1, p.expert.width))
            else:
                self.action_slot = None
        if self.slot is not None:
            nn.init.normal_(self.slot.weight, std=0.1)

    @property
    def device(self) -> torch.device:
        return self.text.table.weight.device

    def recompute(self, on: bool = True) -> None:
        """Compute blocks again in the backward pass instead of keeping what they made."""
        for part in (self.decoder, *self.towers.values(), *([self.expert] if self.preset.expert else [])):
            part.recompute = on

    # --- prefix ------------------------------------------------------------------------------------------

    def embed(self, layout: Layout, inputs: dict) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The tokens of a prefix: x (B, n, width), valid (B, n) bool, fine maps (see backbone/prefix.py)."""
        return prefix.embed(self, layout, inputs)

    def encode(self, layout: Layout, inputs: dict) -> Encoded:
        """Compute a prefix in one pass (training; inference goes through backbone/inference.py)."""
        x, valid, fine = self.embed(layout, inputs)
        memory = Collect()
        bias = mask_bias(layout.mask(valid), x.dtype)
        hidden = self.decoder(x, layout.token_positions(valid), bias, memory)
        return Encoded(layout, hidden, valid, memory, fine)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., width) -> scores of the next token (..., words), float32."""
        if self.head is None:
            words = self.text.table.weight[: self.preset.words]
            return F.linear(hidden.to(words.dtype) if words.dtype != torch.float32 else hidden, words).float()
        return project(self.head, hidden).float()

    # --- suffix ------------------------------------------------------------------------------------------

    def modulation(self, time: Tensor) -> list[Tensor]:
        """Flow time (B, F) or (B, F, H) -> the expert's modulation, (B, F, 1 or H, 3 D) each."""
        return self.expert.modulation(self.condition(time))

    def condition(self, time: Tensor) -> Tensor:
        """The same -> what all AdaRMS norms are computed from, (B, F, 1 or H, D)."""
        time = time[..., None] if time.dim() == 2 else time
        x = self.time_in(time_features(time, self.preset.expert.width))
        return F.silu(self.time_out(F.silu(x)))

    def velocity(
        self, actions: Tensor, modulation: list[Tensor], positions: Tensor, bias: Tensor, memory
    ) -> Tensor:
        """Noisy normalised actions (B, F, H, A) -> velocity, alike, float32. F chunks share one prefix."""
        with torch.autocast(actions.device.type, enabled=False):
            x = self.action_in(actions)
            x = x if self.action_slot is None else x + self.action_slot
        x = self.expert(x, positions, bias, memory, modulation)
        with torch.autocast(actions.device.type, enabled=False):
            return self.action_out(x.float())

    # --- losses ------------------------------------------------------------------------------------------

    def forward(
        self,
        planner: dict | None = None,
        controller: dict | None = None,
        flow_samples: int = 4,
        both: dict | None = None,
    ) -> dict:
        """Losses of a planner's batch, a controller's batch, or both, or of a batch for both levels at once
        (see backbone/joint.py).

        planner: images, state (B, 8), instruction_ids, memory_ids, target_ids (B, L; `Updated Memory:` first,
        <point> or <eos> last, padded), point (B, 2; nan if none), weight (B,).
        controller: images, state, plan_ids, actions (B, H, A) in robot units, valid (B, H) bool, weight (B,),
        and what else `joint.flow` takes.
        Returns "loss" = weighted sum of "text_loss", "scene_loss", "point_loss", "flow_loss" (those that
        apply), and metrics.
        """
        p, out = self.preset, {}
        if planner is not None:
            out |= self._planner_losses(planner)
        if controller is not None:
            out |= self._controller_losses(controller, flow_samples)
        if both is not None:
            out |= joint.losses(self, both, flow_samples)
        out["loss"] = sum(out[name] * weight for name, weight in p.loss_weights.items() if name in out)
        return out

    def _shortened(self, layout: Layout, inputs: dict) -> Layout:
        """Drop the columns that are padding in every sample; what remains keeps its slots and its numbers."""
        lengths = []
        for segment in layout.segments:
            if segment.kind == "text":
                used = int((inputs[segment.source] != PAD).sum(1).max())
                lengths.append((segment.name, max(1, used)))  # select() refuses what is too long
        return layout.select(layout.names, tuple(lengths))

    def _planner_losses(self, batch: dict) -> dict[str, Tensor]:
        target = batch["target_ids"]
        inputs = {**batch, "target_ids": target[:, :-1].masked_fill(target[:, 1:] == PAD, PAD)}
        layout = self._shortened(self.layout.planner, inputs)
        name = next(s.name for s in layout.segments if s.target)
        encoded = self.encode(layout, inputs)
        hidden = encoded.hidden[:, layout.span(name)]
        target = target[:, 1 : 1 + hidden.shape[1]]
        weight = batch.get("weight", torch.ones(len(target), device=target.device))
        out = losses.text(self.logits(hidden), target, weight)
        if self.preset.pointer:
            camera = self.preset.pointer
            image = next(s.name for s in layout.segments if s.source == f"images.{camera}")
            points = target == POINT
            query = hidden[torch.arange(len(target), device=target.device), points.int().argmax(1)]
            scores = self.pointer(encoded.fine[camera], encoded.hidden[:, layout.span(image)], query)
            pixels = self.preset.vision(camera).image_size
            weight = weight * (points.any(1) & ~batch["point"].isnan().any(1))
            out |= losses.point(scores, batch["point"], weight, self.preset.pointer_sigma, pixels)
        return out

    def _controller_losses(self, batch: dict, samples: int) -> dict[str, Tensor]:
        encoded = self.encode(self._shortened(self.layout.controller, batch), batch)
        return {"flow_loss": joint.flow(self, encoded, batch, samples)["flow_loss"]}

    def suffix_view(self, layout: Layout, valid: Tensor, chunks: int) -> tuple[Tensor, Tensor]:
        """Rotary positions and mask (B, F * H, n + F * H) of F chunks that share a prefix of n columns."""
        device, horizon = valid.device, self.preset.horizon
        columns = valid & layout.on(device).expert_columns
        positions = torch.arange(horizon, device=device).repeat(chunks)
        if layout.positions == "slots":
            positions = positions + self.layout.start(self.layout.suffix.name)
        else:
            positions = positions + layout.next_position(valid, layout.on(device).expert_columns)
        own = torch.block_diag(*[torch.ones(horizon, horizon, dtype=torch.bool, device=device)] * chunks)
        rows = (-1, chunks * horizon, -1)
        mask = torch.cat((columns[:, None].expand(*rows), own.expand(len(valid), -1, -1)), 2)
        return positions, mask
