"""What a source says beside its weights is believed: settings, words, statistics, and what we refuse."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_convert import published as public
from test_convert import write
from test_family import randomised
from test_prompted import some_words
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from backbone import checkpoint, family, published, statistics
from backbone.errors import UserError
from backbone.network import Network
from backbone.presets import preset
from backbone.prompts import FITTING
from backbone.published import config, settings
from steersman.cli import main

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("pi05", {"action_horizon": 10}, {"horizon": 10, "how": "openpi"}),  # openpi's LIBERO
        ("pi05", {"chunk_size": 16, "num_inference_steps": 5, "rtc_training_max_delay": 4},
         {"horizon": 16, "steps": 5, "trained_delay": 4}),
        ("pi06", {"chunk_size": 30, "num_steps": 4, "max_delay": 3},
         {"horizon": 30, "steps": 4, "trained_delay": 3}),
        ("pi05_mem", {"rope_type": "rope"}, {"positions": "packed", "frames": 8}),
        ("pi05_mem", {"rope_type": "mrope_interleaved", "n_obs_steps": 4},
         {"positions": "mrope", "frames": 4}),
        ("pi07", {"n_obs_steps": 1, "spacetime_layer_stride": 3}, {"frames": 1, "every": 3}),
        ("pi05_subtask",
         {"state_type": "continuous", "predict_response": True, "use_modality_embedding": True},
         {"state": 1, "response": True, "modalities": 5, "how": "opentau_pi05_continuous"}),
        ("pi05_subtask", {"predict_response": False}, {"state": 0, "response": False, "how": "opentau_pi05"}),
        ("pi06", {"predict_response": False}, {"response": False, "how": "opentau_pi06"}),
        ("pi05", {"use_visual_memory": True, "use_proprioceptive_memory": True, "memory_frames": 5},
         {"state": 5, "frames": 5, "every": 4, "ages": "powers", "how": "lerobot_memory"}),
        ("pi05", {"use_visual_memory": True}, {"state": 0, "frames": 6, "every": 4, "how": "openpi"}),
        ("pi05", {"use_proprioceptive_memory": True}, {"state": 6, "every": 0, "how": "lerobot_memory"}),
    ],
)  # fmt: skip
def test_settings_of_the_source(name, source, expected):
    for suffix in ("", "_tiny"):
        made, how = settings(source, name + suffix)
        names, eye = made.layout.names, made.cameras[0][1]
        got = {
            "horizon": made.layout["actions"].length, "steps": made.steps, "positions": made.layout.positions,
            "trained_delay": made.trained_delay, "frames": eye.frames, "every": eye.spacetime_every,
            "ages": eye.ages, "state": made.layout["state"].length if "state" in names else 0,
            "response": "response" in names, "modalities": made.modalities, "how": how,
        }  # fmt: skip
        assert {key: got[key] for key in expected} == expected
        assert made.horizon == got["horizon"] and made.name == name + suffix


def test_a_source_that_says_nothing_is_the_preset():
    for name in family.PRESETS:
        assert settings({}, name) == (preset(name), FITTING[name.removesuffix("_tiny")])
    assert settings({}, "pi05", horizon=15)[0].horizon == 15


def test_configs_are_found_where_they_lie(tmp_path):
    assert config(tmp_path) == {}
    (tmp_path / "train_config.json").write_text(json.dumps({"policy": {"max_delay": 2}, "seed": 1}))
    assert config(tmp_path) == {"max_delay": 2}
    (tmp_path / "config.json").write_text(json.dumps({"max_delay": 3}))
    assert config(tmp_path) == {"max_delay": 3}
    for wrong in ("{", "[1]"):
        (tmp_path / "config.json").write_text(wrong)
        with pytest.raises(UserError, match="config.json cannot be read"):
            config(tmp_path)


@pytest.mark.parametrize(
    "key", ["use_motion", "per_group_projection", "use_relative_actions", "delta_action_state_map"]
)
def test_networks_that_none_of_ours_is_are_refused(key, tmp_path, capsys):
    _, theirs = public("pi05_mem")
    source = write(tmp_path / "src", theirs)
    (source / "config.json").write_text(json.dumps({key: {"0": 1}}))
    assert main(["convert", str(source), str(tmp_path / "out"), "--preset", "pi05_mem_tiny"]) == 2
    error = capsys.readouterr().err
    assert f"expected a source without {key}" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_motion_module_is_refused_by_its_keys(tmp_path, capsys):
    _, theirs = public("pi05_mem")
    theirs["model.video_encoder.motion_module.stss_encoders.0.in_proj.weight"] = torch.ones(2, 2)
    source = write(tmp_path / "src", theirs)
    arguments = [str(source), str(tmp_path / "out"), "--preset", "pi05_mem_tiny"]
    for more in ([], ["--lenient"]):
        assert main(["convert", *arguments, *more]) == 2
        out, error = capsys.readouterr()
        assert "motion_module.stss_encoders.0.in_proj.weight" in error and error.count("\n") == 1
        assert "unknown: model.video_encoder" in out, "the account is given all the same"


# --- words between segments ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FITTING)
def test_full_size_presets_need_a_tokenizer_for_their_words(name, tmp_path, capsys):
    (tmp_path / "src").mkdir()
    save_file({"lm_head.weight": torch.ones(2)}, tmp_path / "src/model.safetensors")
    needed = published.without_words(preset(name))
    assert bool(needed) == (name not in ("pi05", "pi06", "pi05_mem"))
    if needed:
        assert main(["convert", str(tmp_path / "src"), str(tmp_path / "out"), "--preset", name]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: tokenizer: expected --tokenizer, for ") and repr(needed[0]) in error
    known = published.with_words(preset(name), some_words().encode)
    assert not published.without_words(known)


def test_a_tokenizer_beside_the_weights_is_taken(tmp_path, capsys):
    words = some_words()
    _, theirs = public("pi07")
    source = write(tmp_path / "src", theirs)
    words.save(source)
    arguments = [str(source), str(tmp_path / "out"), "--preset", "pi07_tiny"]
    assert main(["convert", *arguments]) == 0
    made = checkpoint.load_network(tmp_path / "out")
    assert list(made.layout["state_word"].ids) == words.encode("State: ")
    assert (tmp_path / "out/tokenizer.json").is_file()
    words.tokenizer.add_tokens([f"<loc{i:04d}>" for i in range(100)])
    words.save(source)
    assert main(["convert", *arguments]) == 2
    assert "expected at most 96 ids for 'pi07_tiny', got 1" in capsys.readouterr().err


# --- Gemma 3's own weights -------------------------------------------------------------------------------


def stock_gemma3(factor: float) -> Gemma3ForConditionalGeneration:
    """With the sizes of our tiny preset."""
    c = preset("pi07_planner_tiny")
    text, eye = c.decoder, c.cameras[0][1]
    made = Gemma3Config(
        text_config={
            "model_type": "gemma3_text", "vocab_size": c.words, "hidden_size": text.width, "pad_token_id": 0,
            "num_hidden_layers": text.depth, "num_attention_heads": text.heads, "head_dim": text.head_dim,
            "num_key_value_heads": text.kv_heads, "intermediate_size": text.mlp,
            "query_pre_attn_scalar": text.head_dim, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
            "sliding_window": 512, "hidden_activation": "gelu_pytorch_tanh",
        },
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": eye.width, "intermediate_size": eye.mlp,
            "num_hidden_layers": eye.depth, "num_attention_heads": eye.heads, "patch_size": eye.patch,
            "image_size": eye.image_size, "vision_use_head": False,
        },
        mm_tokens_per_image=eye.tokens, image_token_id=95, attn_implementation="eager",
    )  # fmt: skip
    if factor != 1:
        made.text_config.rope_parameters["full_attention"] |= {"rope_type": "linear", "factor": factor}
    return randomised(Gemma3ForConditionalGeneration(made))


@pytest.mark.parametrize("factor", [1.0, 8.0])
def test_stock_gemma_3_brings_its_rope_scaling(factor, tmp_path):
    model = stock_gemma3(factor)
    model.save_pretrained(tmp_path / "src")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "src"), str(out), "--preset", "pi07_planner_tiny", "--dtype", "float32"]
    assert main(["convert", *arguments, "--without-statistics"]) == 0
    made = checkpoint.load_network(out)
    assert made.preset.decoder.stretch == (1.0,) * 5 + (factor,), "kept in the checkpoint"
    images, ids = torch.rand(2, 56, 56, 3) * 2 - 1, torch.randint(1, 90, (2, 10))
    layout = made.layout.select(("camera0", "camera1", "prompt"))
    with torch.no_grad():
        encoded = made.encode(layout, {"images": {"camera0": images}, "prompt_ids": ids})
        ours = made.logits(encoded.hidden[encoded.valid].unflatten(0, (2, -1)))
        whole = torch.cat((torch.full((2, 4), 95), ids), 1)
        pixels, kinds = images.permute(0, 3, 1, 2), (whole == 95).long()
        theirs = model(input_ids=whole, pixel_values=pixels, token_type_ids=kinds).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_rope_scaling_as_older_configs_and_options_say_it():
    old = {"model_type": "gemma3", "text_config": {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}}}
    for name in ("pi06", "pi07", "pi07_planner"):
        made, _ = settings(old, name)
        for stream in filter(None, (made.decoder, made.expert)):
            eight = [i for i, by in enumerate(stream.stretch) if by == 8]
            assert eight == [5, 11, 17, 23, 29] and set(stream.stretch) == {1.0, 8.0}
        assert settings(old, name, stretch=1)[0] == preset(name)
        assert settings({}, name, stretch=8)[0].decoder == made.decoder
    assert settings({"type": "pi06", "vlm_config": old}, "pi06")[0] == preset("pi06"), "OpenTau's have none"
    for name, factor in (("pi05", 8), ("pi06", 0.5)):
        with pytest.raises(UserError, match="stretch: expected at least 1 and a Gemma 3 preset"):
            settings({}, name, stretch=factor)


# --- statistics ------------------------------------------------------------------------------------------


def test_lerobots_mode_says_which_statistics_count(tmp_path):
    numbers = {
        "q01": -3.0,
        "q99": 3.0,
        "q10": -2.0,
        "q90": 2.0,
        "min": -9.0,
        "max": 9.0,
        "mean": 1.0,
        "std": 0.5,
    }
    tensors = {
        f"{feature}.{kind}": torch.full((2,), value)
        for feature in ("observation.state", "action")
        for kind, value in numbers.items()
    }
    save_file(tensors, tmp_path / "policy_preprocessor_step_2_normalizer_processor.safetensors")
    assert statistics.find(tmp_path)["state"][1].tolist() == [3.0, 3.0], "quantiles if nothing is said"
    for mode, high in (
        ("QUANTILES", 3),
        ("QUANTILE10", 2),
        ("MIN_MAX", 9),
        ("MEAN_STD", 1.5),
        ("IDENTITY", 1),
    ):
        steps = [
            {"registry_name": "normalizer_processor", "config": {"norm_map": {"STATE": mode, "ACTION": mode}}}
        ]
        (tmp_path / "policy_preprocessor.json").write_text(json.dumps({"steps": steps}))
        found = statistics.find(tmp_path)
        for name in ("state", "actions"):
            assert found[name][1].tolist() == pytest.approx([high, high], abs=1e-6), mode
    few = {k: v for k, v in tensors.items() if "std" not in k}
    save_file(few, tmp_path / "policy_preprocessor_step_2_normalizer_processor.safetensors")
    steps[0]["config"]["norm_map"] = {"STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    (tmp_path / "policy_preprocessor.json").write_text(json.dumps({"steps": steps}))
    with pytest.raises(UserError, match="expected mean and std of 'state'"):
        statistics.find(tmp_path)


def test_a_checkpoint_without_its_normalisation_is_refused(tmp_path):
    path = checkpoint.save(tmp_path / "net", Network(preset("pi06_tiny")), None)
    tensors = load_file(path / "model.safetensors")
    for name in ("state_norm.low", "action_norm.high"):
        save_file({k: v for k, v in tensors.items() if k != name}, path / "model.safetensors")
        with pytest.raises(UserError, match=f"weight '{name}' is missing"):
            checkpoint.load_network(path)
    save_file(tensors | {"action_norm.high": torch.ones(3)}, path / "model.safetensors")
    with pytest.raises(
        UserError, match=r"'action_norm.high' does not fit: expected shape \(4,\), got \(3,\)"
    ):
        checkpoint.load_network(path)
