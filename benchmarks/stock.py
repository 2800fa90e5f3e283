"""π0.5 put together from stock transformers modules and run as the public PyTorch code runs it.

That is: one SigLIP call per camera, text padded to its full length, eager attention, a `DynamicCache`; then
in every denoising step a copy of the prefix cache, the mask and the positions built anew, the time embedded
and every AdaRMS computed from it. (openpi and LeRobot, facts from reading them; the code is ours.)
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GemmaConfig, GemmaModel, SiglipVisionConfig, SiglipVisionModel
from transformers.models.gemma.modeling_gemma import GemmaAttention, GemmaMLP, GemmaRotaryEmbedding

from backbone import convert
from backbone.config import Preset, StreamConfig, VisionConfig
from backbone.errors import UserError
from backbone.network import Network

MASKED = -2.3819763e38


def _gemma(stream: StreamConfig, words: int) -> GemmaConfig:
    config = GemmaConfig(
        vocab_size=words,
        hidden_size=stream.width,
        intermediate_size=stream.mlp,
        num_hidden_layers=stream.depth,
        num_attention_heads=stream.heads,
        num_key_value_heads=stream.kv_heads,
        head_dim=stream.head_dim,
        hidden_activation="gelu_pytorch_tanh",
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    config._attn_implementation = "eager"
    return config


def _siglip(vision: VisionConfig) -> SiglipVisionConfig:
    config = SiglipVisionConfig(
        hidden_size=vision.width,
        intermediate_size=vision.mlp,
        num_hidden_layers=vision.depth,
        num_attention_heads=vision.heads,
        image_size=vision.image_size,
        patch_size=vision.patch,
        vision_use_head=False,
    )
    config._attn_implementation = "eager"
    return config


class AdaptiveNorm(nn.Module):
    """RMS norm whose scale, shift and gate are computed from the time, here and now."""

    def __init__(self, width: int):
        super().__init__()
        self.dense = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, H, D), condition (B, D) -> normed x, gate (B, 1, D)."""
        exact = x.float()
        unit = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + 1e-6)
        modulation = self.dense(condition.to(self.dense.weight.dtype))[:, None].float()
        scale, shift, gate = modulation.chunk(3, dim=-1)
        return (unit * (1 + scale) + shift).to(x.dtype), gate.to(x.dtype)


class ExpertLayer(nn.Module):
    def __init__(self, config: GemmaConfig, layer: int):
        super().__init__()
        self.self_attn, self.mlp = GemmaAttention(config, layer), GemmaMLP(config)
        self.input_layernorm = AdaptiveNorm(config.hidden_size)
        self.post_attention_layernorm = AdaptiveNorm(config.hidden_size)

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor, rope, cache: DynamicCache) -> Tensor:
        y, gate = self.input_layernorm(x, condition)
        kind = self.mlp.up_proj.weight.dtype
        x = x + gate * self.self_attn(y.to(kind), rope, mask, past_key_values=cache)[0]
        y, gate = self.post_attention_layernorm(x, condition)
        return x + gate * self.mlp(y.to(kind))


class Expert(nn.Module):
    def __init__(self, config: GemmaConfig):
        super().__init__()
        self.layers = nn.ModuleList(ExpertLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = AdaptiveNorm(config.hidden_size)
        self.rotary = GemmaRotaryEmbedding(config)


class StockPi05(nn.Module):
    """The modules under their public names, so that a public checkpoint's keys are `public_weights()`."""

    def __init__(self, preset: Preset):
        super().__init__()
        p, vision = preset, preset.cameras[0][1]
        if p.layout.positions != "packed" or p.decoder.sandwich or p.decoder.qk_norm or vision.frames > 1:
            raise UserError(f"stock modules: expected a preset like pi05, got '{p.name}'")
        self.preset = p
        self.vision_tower = SiglipVisionModel(_siglip(vision))
        self.projector = nn.Linear(vision.width, p.decoder.width)
        self.language_model = GemmaModel(_gemma(p.decoder, p.words))
        self.expert = Expert(_gemma(p.expert, 1))
        self.action_in_proj = nn.Linear(p.action_dim, p.expert.width)
        self.action_out_proj = nn.Linear(p.expert.width, p.action_dim)
        self.time_mlp_in = nn.Linear(p.expert.width, p.expert.width)
        self.time_mlp_out = nn.Linear(p.expert.width, p.expert.width)

    def public_weights(self) -> dict[str, Tensor]:
        """Key of a published checkpoint -> our tensor (not a copy)."""
        vlm, found = "paligemma_with_expert.paligemma.model.", {}
        places = {
            "vision_tower.": vlm + "vision_tower.",
            "projector.": vlm + "multi_modal_projector.linear.",
            "language_model.": vlm + "language_model.",
            "expert.": "paligemma_with_expert.gemma_expert.model.",
        }
        for key, value in self.state_dict().items():
            place = next((place for place in places if key.startswith(place)), "")
            found[places.get(place, "") + key.removeprefix(place)] = value
        return found

    def share_weights(self, network: Network) -> None:
        """Give the network these weights, random or not."""
        weights = self.public_weights()
        report = convert.fill(network, list(weights), weights.__getitem__)
        if report.missing or report.unknown:
            raise AssertionError(str(report))

    def halve(self) -> None:
        """Matrices in bfloat16; what time and actions go through, and AdaRMS, stay float32."""
        for name, parameter in self.named_parameters():
            if not any(part in name for part in (".dense.", "time_mlp", "action_")):
                parameter.data = parameter.data.bfloat16()

    # --- the prefix --------------------------------------------------------------------------------------

    @torch.no_grad()
    def prefill(self, images: list[Tensor], ids: Tensor, there: Tensor) -> tuple[DynamicCache, Tensor]:
        """images (B, 3, H, W) in [-1, 1] each, ids (B, L) padded, there (B, L) bool -> cache, pads (B, n)."""
        parts, pads = [], []
        for image in images:
            tokens = self.projector(
                self.vision_tower(image.to(self.projector.weight.dtype)).last_hidden_state
            )
            parts.append(tokens)
            pads.append(torch.ones(tokens.shape[:2], dtype=torch.bool, device=ids.device))
        parts.append(self.language_model.embed_tokens(ids))
        pads.append(there)
        x, pads = torch.cat(parts, 1), torch.cat(pads, 1)
        visible = pads[:, None, :] & pads[:, :, None]
        out = self.language_model(
            inputs_embeds=x,
            attention_mask=_additive(visible, x.dtype),
            position_ids=pads.cumsum(1) - 1,
            past_key_values=DynamicCache(),
            use_cache=True,
        )
        return out.past_key_values, pads

    # --- the chunk ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def chunk(self, cache: DynamicCache, pads: Tensor, noise: Tensor, steps: int) -> Tensor:
        """noise (B, H, A) -> normalised actions (B, H, A)."""
        x = noise
        for step in range(steps):
            time = torch.tensor(1.0 - step / steps, dtype=torch.float32, device=x.device).expand(len(x))
            x = x - self.denoise(cache, pads, x, time) / steps
        return x

    def denoise(self, cache: DynamicCache, pads: Tensor, actions: Tensor, time: Tensor) -> Tensor:
        """One step's velocity (B, H, A)."""
        batch, horizon = actions.shape[:2]
        condition = F.silu(self.time_mlp_in(_embedded(time, self.preset.expert.width)))
        condition = F.silu(self.time_mlp_out(condition))
        x = self.action_in_proj(actions)
        own = torch.ones(batch, horizon, dtype=torch.bool, device=x.device)
        visible = pads[:, None, :].expand(batch, horizon, -1)
        visible = torch.cat((visible, own[:, None, :] & own[:, :, None]), 2)
        positions = pads.sum(-1, keepdim=True) + own.cumsum(1) - 1
        kind = self.expert.layers[0].mlp.up_proj.weight.dtype
        x, mask = x.to(kind), _additive(visible, kind)
        cache = copy.deepcopy(cache)  # or the next step would find this one's keys and values in it
        rope = self.expert.rotary(x, positions)
        for layer in self.expert.layers:
            x = layer(x, condition, mask, rope, cache)
        return self.action_out_proj(self.expert.norm(x, condition)[0].float())


def _additive(visible: Tensor, kind: torch.dtype) -> Tensor:
    return torch.where(visible[:, None], 0.0, MASKED).to(kind)


def _embedded(time: Tensor, width: int, shortest: float = 4e-3, longest: float = 4.0) -> Tensor:
    """time (B,) -> (B, width): sines, then cosines, in double precision first."""
    fraction = torch.linspace(0, 1, width // 2, dtype=torch.float64, device=time.device)
    period = shortest * (longest / shortest) ** fraction
    angle = 2 * math.pi / period * time[:, None].double()
    return torch.cat((angle.sin(), angle.cos()), 1).float()
