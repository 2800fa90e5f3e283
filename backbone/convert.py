"""Weights of the π family as others publish them, into our network, with an account of every key.

Understood: openpi (PyTorch), LeRobot pi05, OpenTau pi05, pi06, pi07, pi07_paligemma and pi05_mem, and stock
PaliGemma, Gemma 3, Gemma and SigLIP. A key that is not understood, a tensor that does not fit and a weight of
ours that nothing fills are errors: a checkpoint never loads partly in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from backbone.errors import UserError
from backbone.network import Network

# Public names, first brought to one form: vlm.*, expert.* and the rest.
_WITH = r"^(?:model\.)?(?:paligemma|gemma3)_with_expert\."
_ROOTS = [
    (_WITH + r"(?:paligemma|gemma3)\.", "vlm."),
    (_WITH + r"gemma_expert\.(?:model\.)?", "expert."),
    (_WITH + r"interleaved_layers\.(\d+)\.backbone_layer\.", r"vlm.model.language_model.layers.\1."),
    (_WITH + r"interleaved_layers\.(\d+)\.expert_layer\.", r"expert.layers.\1."),
    (_WITH + r"(discrete_action_embedding|da_head)\.", r"\1."),
    (r"^model\.((?:\w+_)?(?:proj|mlp_in|mlp_out|embedding)\.)", r"\1"),
    (r"^(?:model\.)?vision_tower\.", "vlm.model.vision_tower."),
    (r"^(?:model\.)?multi_modal_projector\.", "vlm.model.multi_modal_projector."),
    (r"^language_model\.lm_head\.|^lm_head\.", "vlm.lm_head."),
    (r"^(?:language_model\.model|model\.language_model)\.", "vlm.model.language_model."),
    (r"^model\.(layers|embed_tokens|norm)\.", r"vlm.model.language_model.\1."),
    (r"^(?:vision_model\.)?((?:embeddings|encoder|post_layernorm)\.)", r"vlm.model.vision_tower.\1"),
    (r"^vision_model\.", "vlm.model.vision_tower.vision_model."),
]
_TOWER, _TEXT = r"^vlm\.model\.vision_tower\.(?:vision_model\.)?", r"^vlm\.model\.language_model\."
_BLOCK = r"layers\.(\d+)\."
# Then to ours. Projections that we keep in one matrix have a name of their own here: blocks.0.qkv/q.weight.
_NAMES = [
    (_TOWER + r"embeddings\.patch_embedding\.", "tower.stem.patch."),
    (_TOWER + r"embeddings\.position_embedding\.weight", "tower.position"),
    (_TOWER + r"encoder\." + _BLOCK + r"layer_norm(\d)\.", r"tower.blocks.\1.norm\2."),
    (_TOWER + r"encoder\." + _BLOCK + r"self_attn\.([qkv])_proj\.", r"tower.blocks.\1.qkv/\2."),
    (_TOWER + r"encoder\." + _BLOCK + r"self_attn\.out_proj\.", r"tower.blocks.\1.out."),
    (_TOWER + r"encoder\." + _BLOCK + r"mlp\.fc1\.", r"tower.blocks.\1.up."),
    (_TOWER + r"encoder\." + _BLOCK + r"mlp\.fc2\.", r"tower.blocks.\1.down."),
    (_TOWER + r"post_layernorm\.", "tower.norm."),
    (r"^vlm\.model\.multi_modal_projector\.linear\.", "tower.project."),
    (r"^vlm\.model\.multi_modal_projector\.mm_input_projection_weight", "tower.project.weight/T"),
    (r"^vlm\.model\.multi_modal_projector\.mm_soft_emb_norm\.", "tower.soft_norm."),
    (_TEXT + r"embed_tokens\.", "text.table."),
    (_TEXT + r"norm\.", "decoder.norm."),
    (_TEXT + _BLOCK, r"decoder.blocks.\1."),
    (r"^expert\." + _BLOCK, r"expert.blocks.\1."),
    (r"\.self_attn\.([qkv])_proj\.", r".qkv/\1."),
    (r"\.self_attn\.o_proj\.", ".out."),
    (r"\.self_attn\.([qk]_norm)\.", r".\1."),
    (r"\.mlp\.(gate|up)_proj\.", r".gate_up/\1."),
    (r"\.mlp\.down_proj\.", ".down."),
    (r"\.input_layernorm\.", ".attention_norm."),
    (r"\.pre_feedforward_layernorm\.", ".mlp_norm."),
    (r"\.post_feedforward_layernorm\.", ".after_mlp."),
    (r"^discrete_action_embedding\.", "fast."),
    (r"^da_head\.", "fast_head."),
    (r"^action_(in|out)_proj\.", r"action_\1."),
    (r"^(?:action_)?time_mlp_(in|out)\.", r"time_\1."),
    (r"^(?:state_proj|proprio_history_proj)\.", "state.linear."),
    (r"^modality_embedding\.", "modality."),
    (r"^action_modality_embedding\.weight", "action_slot"),
]


_USELESS = [  # to every network here
    (r"^expert\.lm_head", "never used"),
    (r"^(?:un)?normalize_|^model\.(?:un)?normalize_", "statistics, read apart"),
    (r"\.vision_model\.head\.|^text_model\.|^logit_", "SigLIP's own heads"),
]
_OURS = re.compile(
    r"(towers?|decoder|expert|text|fast|fast_head|action_(in|out|slot|norm)|time_(in|out)|state|state_norm|"
    r"modality|slot|head|pointer)(\.|$)"
)
TIED = "the head is the embedding"


@dataclass
class Report:
    """What became of every key. loaded, converted: theirs -> ours; ignored: theirs -> why; missing: ours that
    nothing fills; fresh: those of them that may stay as they are.
    """

    loaded: dict[str, str] = field(default_factory=dict)
    converted: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = f"{len(self.loaded)} loaded as they are, {len(self.converted)} converted"
        lines = [f"{counts}, {len(self.ignored)} ignored, {len(self.missing)} missing"]
        reasons: dict[str, list[str]] = {}
        for key, reason in self.ignored.items():
            reasons.setdefault(reason, []).append(key)
        lines += [f"  ignored, {reason}: {_few(keys)}" for reason, keys in reasons.items()]
        lines += [
            f"  {what}: {_few(keys)}"
            for what, keys in (("fresh", self.fresh), ("missing", self.missing), ("unknown", self.unknown))
            if keys
        ]
        return "\n".join(lines)


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def source(name: str | Path) -> Path:
    """A directory, a file, or a hub id (downloaded) as a path."""
    path = Path(name)
    if path.exists():
        return path
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise UserError(f"convert: expected a directory, a safetensors file or a hub id, got '{name}'")
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.json", "tokenizer.model", "assets/*"]
    try:
        return Path(snapshot_download(str(name), allow_patterns=patterns))
    except Exception as error:  # offline, missing, private: many types, one meaning
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"convert: '{name}' not found here or on the hub ({reason})") from error


def our_name(key: str, sandwich: bool) -> str:
    """A public key in our words; what is not understood stays as it is. sandwich: Gemma 3's four norms."""
    for pattern, name in _ROOTS:
        renamed = re.sub(pattern, name, key)
        if renamed != key:
            key = renamed
            break
    for pattern, name in _NAMES:
        key = re.sub(pattern, name, key)
    after = "after_attention" if sandwich and key.startswith("decoder.") else "mlp_norm"
    return key.replace(".post_attention_layernorm.", f".{after}.")


def becomes(key: str, sandwich: bool) -> str:
    """What a key is, for a person who wants to know what a file holds."""
    name = our_name(key, sandwich)
    if name == "vlm.lm_head.weight":
        return "text.table.weight (the head is the embedding)"
    for pattern, what in _USELESS:
        if re.search(pattern, name):
            return f"({what})"
    return name if _OURS.match(name) else "(unknown)"


def fill(
    network: Network,
    keys: Iterable[str],
    read: Callable[[str], Tensor],
    allow_missing: tuple[str, ...] = (),
    strict: bool = True,
    report: Report | None = None,
) -> Report:
    """Copy public weights into the network, tensor by tensor. `read` gives a key's tensor.

    allow_missing: beginnings of our names that may stay as they are (a new projection in a warm start).
    strict: UserError if a key is not understood; else the report says so. A weight of ours that is not filled
    is always an error. report: to be written, for who wants the account of what failed too.
    """
    report, ours = report or Report(), dict(network.state_dict())
    tower = f"towers.{next(iter(network.towers), '')}."
    filled = {name: 0 for name in ours}
    names = {key: our_name(key, network.preset.decoder.sandwich) for key in keys}
    for key, name in names.items():
        name = re.sub(r"^tower\.", tower, name)
        reason = _ignored(network, name, names)
        if reason == TIED and not torch.equal(read(key), read(_key_of("text.table.weight", names))):
            raise UserError(f"convert: expected {key} to be the text embedding, got another matrix")
        if reason:
            report.ignored[key] = reason
            continue
        name = "text.table.weight" if name == "vlm.lm_head.weight" else name
        whole, rows, transposed = _place(network, name)
        if whole not in ours:
            report.unknown.append(key)
            continue
        tensor = read(key)
        tensor = tensor.T if transposed else tensor
        tensor, resampled = _fitted(whole, tensor, ours[whole])
        target = ours[whole][rows]
        if tensor.shape != target.shape:
            raise UserError(f"convert: {key} expected shape {tuple(target.shape)}, got {tuple(tensor.shape)}")
        if not tensor.isfinite().all():
            raise UserError(f"convert: {key} expected finite numbers, got some that are not")
        with torch.no_grad():
            target.copy_(tensor)
        filled[whole] += target.numel()
        changed = resampled or transposed or target.shape != ours[whole].shape
        (report.converted if changed else report.loaded)[key] = whole
    norms = ("state_norm.", "action_norm.")  # statistics come from elsewhere
    for name, count in filled.items():
        if count == ours[name].numel() or name.startswith(norms):
            continue
        may = count == 0 and name.startswith(tuple(allow_missing))
        (report.fresh if may else report.missing).append(name)
    motion = [key for key in report.unknown if "motion_module." in key]
    if motion:
        got = f"{_few(motion)}: OpenTau's use_motion, which no network here has"
        raise UserError(f"convert: expected no motion module, got {got}")
    wrong = {"missing": report.missing, "unknown": report.unknown if strict else []}
    got = "; ".join(f"{len(keys)} {what}: {_few(keys)}" for what, keys in wrong.items() if keys)
    if got:
        raise UserError(f"convert: expected every key to find its place, got {got}")
    return report


def _key_of(ours: str, names: Mapping[str, str]) -> str:
    return next(key for key, name in names.items() if name == ours)


def _ignored(network: Network, name: str, names: Mapping[str, str]) -> str | None:
    """Why a weight is of no use to this network, or None."""
    p = network.preset
    if name == "vlm.lm_head.weight" and "text.table.weight" in names.values():
        return TIED
    if name.startswith("expert.") and p.expert is None:
        return "this network has no expert"
    if name.startswith("fast") and not p.fast_words:
        return "this network writes no FAST tokens"
    if name.startswith("state.") and not hasattr(network, "state"):
        return "this network reads its state as text"
    if name.startswith("modality.") and network.modality is None:
        return "this network has no modality embedding"
    if name == "action_slot" and network.action_slot is None:
        return "this network has no modality embedding"
    return next((what for pattern, what in _USELESS if re.search(pattern, name)), None)


def _place(network: Network, name: str) -> tuple[str, slice, bool]:
    """Where a tensor goes: our name, rows of it, and whether it lies on its side."""
    if name.endswith("/T"):
        return name[:-2], slice(None), True
    found = re.match(r"(.*)/(\w+)\.(\w+)$", name)
    if not found:
        return name, slice(None), False
    whole, part = f"{found[1]}.{found[3]}", found[2]
    if whole.startswith("towers."):
        width = network.preset.cameras[0][1].width
        sizes = {"q": width, "k": width, "v": width}
    else:
        c = network.preset.decoder if whole.startswith("decoder.") else network.preset.expert
        sizes = {"gate": c.mlp, "up": c.mlp}
        if part in "qkv":
            sizes = {"q": c.heads * c.head_dim, "k": c.kv_heads * c.head_dim, "v": c.kv_heads * c.head_dim}
    start = 0
    for other, size in sizes.items():
        if other == part:
            return whole, slice(start, start + size), False
        start += size
    return whole, slice(None), False


def _fitted(name: str, tensor: Tensor, target: Tensor) -> tuple[Tensor, bool]:
    """Position tables of another picture size are resampled (Gemma 3: 896 to 448 pixels)."""
    if not name.endswith(".position") or tensor.shape == target.shape or tensor.shape[1] != target.shape[1]:
        return tensor, False
    old, new = round(len(tensor) ** 0.5), round(len(target) ** 0.5)
    square = tensor.float().T.reshape(1, -1, old, old)
    square = F.interpolate(square, size=(new, new), mode="bilinear", antialias=new < old, align_corners=False)
    return square[0].flatten(1).T, True
