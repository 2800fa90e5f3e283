"""What a published checkpoint says beside its weights: in config.json, and which tokenizer lies with it.

Two checkpoints with the same keys can be different networks: how many actions a chunk has, how rotary
positions are counted, whether the state is text. None of that may be guessed where the source says it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from backbone import family
from backbone.config import Preset
from backbone.errors import UserError
from backbone.layout import Layout
from backbone.presets import preset
from backbone.prompts import FITTING

# What no network of ours has, and why it matters. See docs/family.md.
_REFUSED = {
    "use_motion": "a motion module between frames",
    "per_group_projection": "projections of each robot's own",
    "use_relative_actions": "actions relative to the state",
    "delta_action_state_map": "actions relative to the state",
}


CONFIGS = ("config.json", "hf_config.json", "train_config.json")  # the latter two are OpenTau's


def config(directory: Path) -> Mapping:
    """What the source says of itself, {} if nothing; UserError if it cannot be read."""
    path = next((directory / name for name in CONFIGS if (directory / name).is_file()), None)
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text())
        return dict(found.get("policy") or found)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"convert: {path} cannot be read ({error})") from error


def tokenizer(directory: Path) -> Path | None:
    """The directory itself if a tokenizer lies in it."""
    return (
        directory if any((directory / f"tokenizer.{kind}").is_file() for kind in ("json", "model")) else None
    )


def without_words(preset: Preset) -> list[str]:
    """The words between its segments whose tokens are not known yet: a tokenizer has to say them."""
    constants = [s for s in preset.layout.segments if s.kind == "constant"]
    return list(dict.fromkeys(s.source for s in constants if not any(s.ids)))


def with_words(preset: Preset, encode: Callable[[str], Sequence[int]]) -> Preset:
    """The preset with a tokenizer's ids for the words between its segments. UserError if it knows others."""
    segments = []
    for segment in preset.layout.segments:
        if segment.kind == "constant":
            ids = tuple(encode(segment.source))
            if not ids or max(ids) >= preset.words:
                got = f"{list(ids)} for {segment.source!r}"
                raise UserError(
                    f"{segment.name}: expected a tokenizer with ids below {preset.words}, got {got}"
                )
            segment = replace(segment, ids=ids, length=len(ids))
        segments.append(segment)
    return replace(preset, layout=Layout(tuple(segments), preset.layout.positions))


def settings(
    source: Mapping, name: str, horizon: int | None = None, stretch: float | None = None
) -> tuple[Preset, str]:
    """The preset `name` as the source's config has it, and the prompt it was trained with, "" if unknown.

    horizon, stretch: actions of a chunk and linear RoPE scaling, if not the source's. UserError for a source
    that is a network none of ours is.
    """
    for key, what in _REFUSED.items():
        if source.get(key):
            raise UserError(f"convert: expected a source without {key} ({what}), got {source[key]!r}")
    plain = name.removesuffix("_tiny")
    if name not in family.PRESETS:
        return preset(name), FITTING.get(plain, "")
    options, vision, how = {}, {}, FITTING[plain]
    if plain in ("pi05", "pi05_subtask"):
        options, vision, how = _pi05(source, plain, how)
    elif plain == "pi06" and source.get("predict_response") is False:
        options, how = {"subtask": False}, "opentau_pi06"
    elif plain == "pi05_mem" and source.get("rope_type") == "rope":
        options = {"positions": "packed"}
    if plain in family.FRAMES:
        vision = {
            "frames": source.get("n_obs_steps"),
            "spacetime_every": source.get("spacetime_layer_stride"),
        }
    sizes = {
        "horizon": horizon or source.get("action_horizon") or source.get("chunk_size"),
        "steps": source.get("num_steps") or source.get("num_inference_steps"),
    }
    made = family.build(plain, name != plain, options, _given(vision), **_given(sizes))
    delay = source.get("max_delay") or source.get("rtc_training_max_delay") or 0
    factor = stretch or _stretch(source)
    made = family.stretched(made, factor) if factor != 1 else made
    return replace(made, trained_delay=delay), how


def _given(values: Mapping) -> dict:
    return {key: value for key, value in values.items() if value is not None}


def _pi05(source: Mapping, plain: str, how: str) -> tuple[dict, dict, str]:
    """π0.5's variants: options, the tower's fields, the prompt."""
    options: dict = {"modalities": True} if source.get("use_modality_embedding") else {}
    if plain == "pi05_subtask" and "predict_response" in source:
        options["subtask"] = bool(source["predict_response"])
    if source.get("state_type") == "continuous":
        return options | {"state": "token"}, {}, "opentau_pi05_continuous"
    seen, felt = source.get("use_visual_memory"), source.get("use_proprioceptive_memory")
    if not (seen or felt):
        return options, {}, how
    every = source.get("memory_temporal_attention_every", 4) if seen else 0
    vision = {"frames": source.get("memory_frames", 6), "spacetime_every": every, "ages": "powers"}
    return (options | {"state": "history"}, vision, "lerobot_memory") if felt else (options, vision, how)


def _stretch(source: Mapping) -> float:
    """The linear RoPE scaling of stock Gemma 3 (8), else 1. What was trained from it says itself."""
    if source.get("model_type") not in ("gemma3", "gemma3_text"):
        return 1.0
    text = source.get("text_config", source)
    scaling = text.get("rope_scaling") or (text.get("rope_parameters") or {}).get("full_attention") or {}
    return (
        float(scaling.get("factor", 1.0))
        if scaling.get("rope_type", scaling.get("type")) == "linear"
        else 1.0
    )
