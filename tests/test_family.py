"""The π family's sizes, and its parts against stock transformers with the same random weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from backbone import convert, family
from backbone.config import StreamConfig, VisionConfig
from backbone.inference import Run
from backbone.layout import Segment
from backbone.network import Network
from backbone.presets import preset

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("no_gradients")
EXACT = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def no_gradients():
    with torch.no_grad():
        yield


PARAMETERS = {
    "pi05": 3_353_433_872,  # openpi's
    "pi05_subtask": 3_361_824_528,
    "pi06": 5_585_658_768,
    "pi07": 5_585_743_248,
    "pi07_planner": 4_296_540_528,
    "pi07_paligemma": 3_361_892_112,
    "pi07_paligemma_planner": 2_923_335_408,
    "pi05_mem": 3_361_892_112,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_number_of_parameters(name):
    with torch.device("meta"):
        network = Network(preset(name))
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]


def test_the_planners_are_the_stock_models_and_nothing_else():
    tower = {
        "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
        "num_hidden_layers": 27, "num_attention_heads": 16, "patch_size": 14, "vision_use_head": False,
    }  # fmt: skip
    words = {"num_attention_heads": 8, "head_dim": 256}
    gemma1 = words | {
        "model_type": "gemma", "hidden_size": 2048, "num_hidden_layers": 18, "intermediate_size": 16384,
        "num_key_value_heads": 1, "vocab_size": 257152,
    }  # fmt: skip
    gemma3 = words | {
        "model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34,
        "intermediate_size": 10240, "num_key_value_heads": 4, "vocab_size": 262208,
    }  # fmt: skip
    with torch.device("meta"):
        small = PaliGemmaForConditionalGeneration(
            PaliGemmaConfig(
                vision_config=tower | {"image_size": 224}, text_config=gemma1, projection_dim=2048
            )
        )
        large = Gemma3ForConditionalGeneration(
            Gemma3Config(
                vision_config=tower | {"image_size": 448}, text_config=gemma3, mm_tokens_per_image=256
            )
        )
    assert sum(p.numel() for p in small.parameters()) == PARAMETERS["pi07_paligemma_planner"]
    assert sum(p.numel() for p in large.parameters()) == PARAMETERS["pi07_planner"]


# --- against stock transformers --------------------------------------------------------------------------


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15)
    return model.eval()


def filled(sizes: family.Sizes, segments: list[Segment], source: torch.nn.Module) -> Network:
    network = Network(replace(sizes, expert=None).preset("test", segments)).eval()
    weights = source.state_dict()
    report = convert.fill(network, list(weights), weights.__getitem__)
    assert not report.missing and not report.unknown
    return network


def language(words: int = 90, gemma3: bool = False, **more) -> StreamConfig:
    kinds = (family.SLIDING, family.SLIDING, family.FULL) if gemma3 else ()
    return StreamConfig(32, 3, 4, 2, 8, 48, sandwich=gemma3, qk_norm=gemma3, thetas=kinds, **more)


def text_settings(**more) -> dict:
    return {
        "vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48, "attn_implementation": "eager",
        "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 0, **more,
    }  # fmt: skip


def gemma3_settings(window: int = 512, **more) -> dict:
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    return text_settings(
        layer_types=kinds, sliding_window=window, query_pre_attn_scalar=8, rope_theta=family.FULL,
        rope_local_base_freq=family.SLIDING, **more,
    )  # fmt: skip


NO_EYES = VisionConfig(28, 16, 1, 2, 16)


def test_gemma_1_logits():
    model = randomised(GemmaForCausalLM(GemmaConfig(**text_settings())))
    sizes = family.Sizes(NO_EYES, language(), None, 90, cameras=(), prompt=12)
    network = filled(sizes, [sizes.text("prompt", 12, "causal")], model)
    ids = torch.randint(1, 90, (2, 12))
    ours = network.logits(network.encode(network.layout, {"prompt_ids": ids}).hidden)
    torch.testing.assert_close(ours, model(ids).logits, **EXACT)


@pytest.mark.parametrize(("window", "stretch"), [(512, 1.0), (4, 1.0), (512, 8.0)])
def test_gemma_3_logits(window, stretch):
    config = Gemma3TextConfig(**gemma3_settings(window))
    if stretch > 1:
        config.rope_parameters["full_attention"] |= {"rope_type": "linear", "factor": stretch}
    model = randomised(Gemma3ForCausalLM(config))
    decoder = language(gemma3=True, stretch=(1.0, 1.0, stretch), windows=(window, window, 0))
    sizes = family.Sizes(NO_EYES, decoder, None, 90, cameras=(), prompt=12)
    network = filled(sizes, [sizes.text("prompt", 12, "causal")], model)
    ids = torch.randint(1, 90, (2, 12))
    ours = network.logits(network.encode(network.layout, {"prompt_ids": ids}).hidden)
    torch.testing.assert_close(ours, model(ids).logits, **EXACT)


def vision_settings(size: int) -> dict:
    return {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2,
        "image_size": size, "patch_size": 14, "vision_use_head": False, "attn_implementation": "eager",
    }  # fmt: skip


def eyes(size: int, **more) -> VisionConfig:
    return VisionConfig(size, 16, 4, 2, 24, **more)


def test_siglip_features():
    model = randomised(SiglipVisionModel(SiglipVisionConfig(**vision_settings(56))))
    sizes = family.Sizes(eyes(56, frames=6, spacetime_every=4), language(), None, 90, cameras=("a",))
    network = Network(replace(sizes, expert=None).preset("test", [*sizes.images()]))
    weights = model.state_dict()
    rest = ("decoder", "text", "towers.a.project")
    report = convert.fill(network, list(weights), weights.__getitem__, rest)
    assert not report.missing
    images = torch.rand(2, 56, 56, 3) * 2 - 1
    theirs = model(images.permute(0, 3, 1, 2)).last_hidden_state
    torch.testing.assert_close(network.towers["a"].features(images)[0], theirs, **EXACT)
    ours = set(network.towers["a"].state_dict())
    plain = Network(sizes.preset("test", [*sizes.images()])).towers["a"]
    assert ours == set(plain.state_dict()), "frames bring no parameters of their own"


def test_paligemma_reads_a_picture_and_words():
    config = PaliGemmaConfig(
        vision_config={**vision_settings(28), "model_type": "siglip_vision_model"},
        text_config={**text_settings(), "model_type": "gemma"},
        projection_dim=32, image_token_id=89, vocab_size=90, attn_implementation="eager",
    )  # fmt: skip
    model = randomised(PaliGemmaForConditionalGeneration(config))
    sizes = family.Sizes(eyes(28), language(), None, 90, cameras=("a",), prompt=6)
    network = filled(sizes, [*sizes.images(), sizes.text("prompt", 6, "joins")], model)
    images, ids = torch.rand(2, 28, 28, 3) * 2 - 1, torch.randint(1, 88, (2, 6))
    theirs = model(
        input_ids=torch.cat((torch.full((2, 4), 89), ids), 1),
        pixel_values=images.permute(0, 3, 1, 2),
        token_type_ids=torch.zeros(2, 10, dtype=torch.long),
    )
    ours = network.encode(network.layout, {"images": {"a": images}, "prompt_ids": ids})
    torch.testing.assert_close(network.logits(ours.hidden), theirs.logits, **EXACT)


def test_gemma_3_reads_a_picture_between_words():
    config = Gemma3Config(
        vision_config={**vision_settings(56), "model_type": "siglip_vision_model"},
        text_config={**gemma3_settings(), "model_type": "gemma3_text"},
        mm_tokens_per_image=4, image_token_id=89, attn_implementation="eager",
    )  # fmt: skip
    model = randomised(Gemma3ForConditionalGeneration(config))
    tower = eyes(56, pool=2, projector="gemma3")
    sizes = family.Sizes(tower, language(gemma3=True), None, 90, cameras=("a",))
    segments = [sizes.text("before", 3, "causal"), *sizes.images(), sizes.text("after", 5, "causal")]
    network = filled(sizes, segments, model)
    images, before, after = torch.rand(2, 56, 56, 3) * 2 - 1, *torch.randint(1, 88, (2, 8)).split((3, 5), 1)
    ids = torch.cat((before, torch.full((2, 4), 89), after), 1)
    theirs = model(input_ids=ids, pixel_values=images.permute(0, 3, 1, 2), token_type_ids=(ids == 89).long())
    inputs = {"images": {"a": images}, "before_ids": before, "after_ids": after}
    ours = network.logits(network.encode(network.layout, inputs).hidden)
    torch.testing.assert_close(ours, theirs.logits, **EXACT)
    run = Run(network, 2)
    run.read(("before", "a"), inputs)  # a cached prefix, then the rest
    run.read(("after",), inputs)
    torch.testing.assert_close(network.logits(run.hidden["after"]), theirs.logits[:, -5:], **EXACT)


def test_gemma_3s_positions_are_resampled_for_smaller_pictures():
    sizes = family.Sizes(eyes(56), language(), None, 90, cameras=("a",))
    network = Network(replace(sizes, expert=None).preset("test", [*sizes.images()]))
    ramp = torch.arange(8.0).repeat(8, 1)  # 8 x 8 patches, each its column
    table = torch.stack([ramp.flatten()] * 16, 1)
    key = "vision_tower.vision_model.embeddings.position_embedding.weight"
    report = convert.fill(network, [key], {key: table}.__getitem__, allow_missing=("",))
    columns = network.towers["a"].position.detach()[:, 0].view(4, 4)
    assert key in report.converted and torch.equal(columns, columns[:1].expand(4, -1))
    assert (columns[0].diff() > 1.5).all(), "still from left to right"
