"""Published weights: every key has its place or is an error, and comes back bit by bit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backbone import checkpoint, convert, statistics
from backbone.errors import UserError
from backbone.network import Network
from backbone.presets import preset
from backbone.weights import Weights
from steersman.cli import main

torch.set_num_threads(1)


def published(name: str, seed: int = 0) -> tuple[Network, dict[str, torch.Tensor]]:
    """A tiny network of ours and the same weights under OpenTau's names."""
    torch.manual_seed(seed)
    network = Network(preset(f"{name}_tiny"))
    return network, their_names(network)


def their_names(network: Network) -> dict[str, torch.Tensor]:
    big = network.preset.decoder.sandwich
    stem = "model.gemma3_with_expert." if big else "model.paligemma_with_expert."
    vlm, layers = stem + ("gemma3." if big else "paligemma."), "model.language_model.layers."
    out: dict[str, torch.Tensor] = {}
    for key, tensor in network.state_dict().items():
        if "norm." in key and key.split(".")[0] in ("state_norm", "action_norm"):
            continue
        part = split(network, key)
        for theirs, rows in part or [(key, slice(None))]:
            value = tensor[rows].clone()
            theirs = re.sub(r"^towers\.\w+\.", vlm + "model.vision_tower.vision_model.", theirs)
            theirs = re.sub(r"^decoder\.blocks\.", vlm + layers, theirs)
            theirs = re.sub(r"^expert\.blocks\.", stem + "gemma_expert.model.layers.", theirs)
            theirs = theirs.replace("expert.norm.dense", stem + "gemma_expert.model.norm.dense")
            theirs = theirs.replace("decoder.norm", vlm + "model.language_model.norm")
            theirs = theirs.replace("text.table", vlm + "model.language_model.embed_tokens")
            theirs = re.sub(r"^fast\.", stem + "discrete_action_embedding.", theirs)
            theirs = re.sub(r"^fast_head\.", stem + "da_head.", theirs)
            theirs = re.sub(r"^action_(in|out)\.", r"model.action_\1_proj.", theirs)
            theirs = re.sub(r"^time_(in|out)\.", r"model.time_mlp_\1.", theirs)
            theirs = theirs.replace("state.linear", "model.state_proj")
            theirs = re.sub(r"^modality\.", "model.modality_embedding.", theirs)
            theirs = re.sub(r"^action_slot", "model.action_modality_embedding.weight", theirs)
            if "vision_tower" in theirs:
                theirs, value = seen(theirs, value, big)
            else:
                theirs = spoken(theirs, big and "gemma_expert" not in theirs)
            out[theirs] = value
    out[vlm + "lm_head.weight"] = out[vlm + "model.language_model.embed_tokens.weight"].clone()
    return out


def split(network: Network, key: str) -> list[tuple[str, slice]]:
    """What lies in one matrix of ours."""
    found = re.match(r"(.*\.blocks\.\d+)\.(qkv|gate_up)\.(weight|bias)$", key)
    if not found:
        return []
    parts, start = [], 0
    for name in ("q", "k", "v") if found[2] == "qkv" else ("gate", "up"):
        whole, rows, _ = convert._place(network, f"{found[1]}.{found[2]}/{name}.{found[3]}")
        assert whole == key and rows.start == start
        start = rows.stop
        parts.append((f"{found[1]}.{name}_proj.{found[3]}", rows))
    return parts


def seen(key: str, value: torch.Tensor, big: bool) -> tuple[str, torch.Tensor]:
    key = key.replace("stem.patch", "embeddings.patch_embedding").replace("blocks.", "encoder.layers.")
    key = re.sub(r"position$", "embeddings.position_embedding.weight", key)
    key = re.sub(r"\.norm(\d)\.", r".layer_norm\1.", key)
    key = re.sub(r"\.([qkv]_proj)\.", r".self_attn.\1.", key)
    key = re.sub(r"(layers\.\d+)\.out\.", r"\1.self_attn.out_proj.", key)
    key = re.sub(r"(layers\.\d+)\.up\.", r"\1.mlp.fc1.", key)
    key = re.sub(r"(layers\.\d+)\.down\.", r"\1.mlp.fc2.", key)
    key = key.replace("vision_model.norm.", "vision_model.post_layernorm.")
    projector = key.replace("vision_tower.vision_model.", "multi_modal_projector.")
    if ".project." in key:
        if big:
            return projector.replace("project.weight", "mm_input_projection_weight"), value.T.contiguous()
        return projector.replace("project.", "linear."), value
    return (projector.replace("soft_norm", "mm_soft_emb_norm") if "soft_norm" in key else key), value


def spoken(key: str, sandwich: bool) -> str:
    key = re.sub(r"\.([qkv]_proj|q_norm|k_norm)\.", r".self_attn.\1.", key)
    key = re.sub(r"(layers\.\d+)\.out\.", r"\1.self_attn.o_proj.", key)
    key = re.sub(r"\.(gate|up)_proj\.", r".mlp.\1_proj.", key)
    key = re.sub(r"(layers\.\d+)\.down\.", r"\1.mlp.down_proj.", key)
    key = key.replace("attention_norm", "input_layernorm").replace("after_mlp", "post_feedforward_layernorm")
    key = key.replace("mlp_norm", "pre_feedforward_layernorm" if sandwich else "post_attention_layernorm")
    return key.replace("after_attention", "post_attention_layernorm")


def write(directory: Path, tensors: dict, stats: bool = True) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors")
    if stats:
        numbers = {"q01": [-1.0, -2.0, 0.0], "q99": [1.0, 2.0, 4.0]}
        (directory / "assets/arm").mkdir(parents=True)
        norms = {"norm_stats": {"state": numbers, "actions": numbers}}
        (directory / "assets/arm/norm_stats.json").write_text(json.dumps(norms))
    return directory


@pytest.mark.parametrize(
    "name", ["pi05", "pi05_subtask", "pi06", "pi07", "pi07_planner", "pi07_paligemma", "pi05_mem"]
)
def test_there_and_back_bit_by_bit(name, tmp_path, capsys):
    network, theirs = published(name)
    source = write(tmp_path / "src", theirs)
    arguments = [str(source), str(tmp_path / "out"), "--preset", f"{name}_tiny", "--dtype", "float32"]
    assert main(["convert", *arguments]) == 0
    assert "1 ignored" in capsys.readouterr().out
    again = checkpoint.load_network(tmp_path / "out")
    ours = network.state_dict()
    for key, tensor in again.state_dict().items():
        if "_norm.low" not in key and "_norm.high" not in key:
            assert torch.equal(tensor, ours[key]), key
    if network.preset.expert:
        assert again.action_norm.high[:3].tolist() == [1.0, 2.0, 4.0]
        assert (again.action_norm.high[3:] == 1).all(), "padded dimensions stay as they are"
    assert checkpoint.about(tmp_path / "out")["dims"] == {"state": 3, "actions": 3}
    assert main(["inspect", str(source)]) == 0
    out = capsys.readouterr().out
    assert f"{len(theirs)} keys" in out and "(unknown)" not in out
    assert "statistics: 3 of state, 3 of actions\ntokenizer: none" in out


@pytest.mark.parametrize(
    ("old", "new", "fresh"),
    [
        ("pi06", "pi07", ("state.",)),
        ("pi05_subtask", "pi05_mem", ("state.",)),
        ("pi05", "pi05_mem", ("state.", "fast")),
        ("pi05", "pi07_paligemma", ("state.", "fast")),
        ("pi07_planner", "pi07", ("state.", "fast", "expert.", "action_", "time_")),
    ],
)
def test_warm_starts(old, new, fresh, tmp_path, capsys):
    before, theirs = published(old)
    source = write(tmp_path / old, theirs)
    arguments = [str(source), str(tmp_path / new), "--preset", f"{new}_tiny", "--dtype", "float32"]
    assert main(["convert", *arguments]) == 2
    error = capsys.readouterr().err
    assert "state.linear.weight" in error and error.count("\n") == 1
    assert main(["convert", *arguments, "--warm-start", *fresh]) == 0
    assert "0 missing\n" in (out := capsys.readouterr().out) and "  fresh: state.linear.weight" in out
    made, shared = checkpoint.load_network(tmp_path / new), 0
    assert made.preset.name == f"{new}_tiny"
    for name, tensor in made.state_dict().items():
        if name in before.state_dict() and "_norm.low" not in name and "_norm.high" not in name:
            assert torch.equal(tensor, before.state_dict()[name]), name
            shared += 1
        else:
            assert tensor.isfinite().all() and (name.startswith(fresh) or "_norm." in name), name
    assert shared > 50
    assert made.action_norm.high[:3].tolist() == [1.0, 2.0, 4.0], "the statistics come along"


def test_inspect_says_what_is_of_no_use(tmp_path, capsys):
    more = {"model.wings.weight": 2, "model.paligemma_with_expert.gemma_expert.lm_head.weight": 3}
    source = write(tmp_path / "src", {k: torch.ones(n) for k, n in more.items()}, stats=False)
    assert main(["inspect", str(source)]) == 0
    out = capsys.readouterr().out
    assert "model.wings.weight  ->  (unknown)" in out and "lm_head.weight  ->  (never used)" in out
    assert "2 keys" in out and "statistics: none" in out


def complaint(network: Network, tensors: dict) -> str:
    with pytest.raises(UserError) as error:
        convert.fill(network, list(tensors), tensors.__getitem__)
    return str(error.value)


def test_nothing_is_loaded_in_part():
    network, theirs = published("pi05_subtask")
    first, *_ = theirs
    assert "missing" in complaint(network, {k: v for k, v in theirs.items() if k != first})
    assert "unknown: model.wings.weight" in complaint(network, theirs | {"model.wings.weight": torch.ones(2)})
    assert "expected shape" in complaint(network, theirs | {first: torch.ones(2, 2)})
    assert "finite" in complaint(network, theirs | {first: theirs[first] * torch.nan})
    head = next(key for key in theirs if key.endswith("paligemma.lm_head.weight"))
    assert "another matrix" in complaint(network, theirs | {head: theirs[head] + 1})
    tied = {k: v for k, v in theirs.items() if "embed_tokens" not in k}
    report = convert.fill(network, list(tied), tied.__getitem__)
    assert report.loaded[head] == "text.table.weight", "the head alone is the embedding too"


def test_statistics_of_three_kinds(tmp_path):
    network = Network(preset("pi07_tiny"))
    numbers = {"mean": torch.tensor([1.0, 2.0]), "std": torch.tensor([0.5, 1.0])}
    lerobot = {f"{f}.{k}": v.clone() for f in ("observation.state", "action") for k, v in numbers.items()}
    (tmp_path / "lerobot").mkdir()
    save_file(lerobot, tmp_path / "lerobot/policy_preprocessor_step_3_normalizer_processor.safetensors")
    assert statistics.put(network, statistics.find(tmp_path / "lerobot"), "x") == {"state": 2, "actions": 2}
    normed = network.state_norm(torch.tensor([[1.5, 1.0, 0.3, 0.0, 0.0]]))[0, :2]
    torch.testing.assert_close(normed, torch.tensor([1.0, -1.0]))
    opentau = {
        f"{group}.buffer_{feature}.{kind}": torch.tensor([value])
        for group, feature in (("normalize_inputs", "state"), ("normalize_targets", "actions"))
        for kind, value in (("min", [-2.0, 0.0]), ("max", [2.0, 4.0]))
    }
    source = write(tmp_path / "opentau", opentau, stats=False)
    found = statistics.find(source, Weights(source))
    assert found["actions"][1].tolist() == [2.0, 4.0]
    with pytest.raises(UserError, match="expected those of 'state'"):
        statistics.put(network, {}, "there")
    with pytest.raises(UserError, match="at most 5 dimensions"):
        statistics.put(network, {"state": (torch.zeros(9), torch.ones(9))}, "there")


def test_mistakes_on_the_command_line(tmp_path, capsys):
    _, theirs = published("pi05_subtask")
    source = str(write(tmp_path / "src", theirs, stats=False))
    out = str(tmp_path / "out")
    for arguments, words in (
        ([source, out, "--preset", "pi99"], "preset: expected one of"),
        (["./nowhere", out, "--preset", "pi05_subtask_tiny"], "expected a directory"),
        ([source, out, "--preset", "pi05_subtask_tiny"], "statistics: expected those of 'state'"),
        ([source, out, "--preset", "pi06_tiny"], "convert: "),
    ):
        assert main(["convert", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and words in error
    assert not (tmp_path / "out").exists()
    assert main(["convert", source, out, "--preset", "pi05_subtask_tiny", "--without-statistics"]) == 0
    config = json.loads((tmp_path / "out/config.json").read_text())
    (tmp_path / "out/config.json").write_text(json.dumps(config | {"format": 2}))
    with pytest.raises(UserError, match="a newer Steersman made it"):
        checkpoint.load_network(tmp_path / "out")
