"""Golden cases made anew with other sizes: nothing that reads them is tuned to the sizes that are given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from golden_cases import Case, cases
from safetensors.torch import save_file
from test_convert import their_names
from test_golden import Check, context_of, decode, sample

from backbone import joint
from backbone.network import Network

GOLDEN = Path(__file__).parent / "golden"
LONGER = 3  # tokens that every text may have more of
OTHER = {  # field of a config: from what is given to what it becomes
    "image_size": lambda n: n * 3 // 2, "num_attention_heads": lambda n: n + 2, "head_dim": lambda n: n + 4,
    "num_key_value_heads": lambda n: 2, "hidden_size": lambda n: n + n // 4 * 2,
    "vocab_size": lambda n: n + 9,
    "intermediate_size": lambda n: n + 8, "mm_tokens_per_image": lambda n: 9, "chunk_size": lambda n: n - 3,
    "query_pre_attn_scalar": lambda n: n + 7, "num_steps": lambda n: n - 2,
    "num_inference_steps": lambda n: 3,
    "action_horizon": lambda n: n - 3, "max_state_dim": lambda n: 13, "max_action_dim": lambda n: 11,
    "action_dim": lambda n: 11, "n_obs_steps": lambda n: max(1, n - 1), "rope_theta": lambda n: n * 3,
    "prompt_max_length": lambda n: n + LONGER, "response_max_length": lambda n: n + LONGER,
    "metadata_max_length": lambda n: n + LONGER, "memory_max_length": lambda n: n + LONGER,
    "discrete_action_max_length": lambda n: n + LONGER, "discrete_action_vocab_size": lambda n: n + 5,
    "rope_local_base_freq": lambda n: n / 2, "adarms_cond_dim": lambda n: n + n // 4 * 2,
    "encoder_max_num_frames": lambda n: n - 1,
}  # fmt: skip


def resized(config):
    """The same with other numbers, one layer more in both streams, three more in the tower."""
    if not isinstance(config, dict):
        return config
    out = {k: OTHER[k](v) if k in OTHER and v is not None else resized(v) for k, v in config.items()}
    if "num_hidden_layers" in out:
        out["num_hidden_layers"] += 3 if "patch_size" in out else 1
    if "layer_types" in out:
        out["layer_types"] = ["full_attention", *out["layer_types"]]
    return out


def fitted(name: str, tensor: torch.Tensor, config: dict) -> torch.Tensor:
    """An input at the new sizes: pictures of another size, fewer frames, other dimensions, longer texts."""
    settings = config["policy_config"]
    short = name.split(".")[-1]
    if name.endswith("_u8"):
        side = tensor.shape[-1] * 3 // 2
        video = tensor[:, 1:] if tensor.dim() == 5 and tensor.shape[1] > 1 else tensor
        return torch.randint(0, 256, (*video.shape[:-2], side, side)).to(tensor.dtype)
    if name in ("obs_history_is_pad", "state_mask") or name.startswith("frame_mask."):
        return tensor[:, 1:] if tensor.shape[1] > 1 else tensor
    if name in ("state", "states"):
        tensor = tensor[:, 1:] if tensor.dim() == 3 and tensor.shape[1] > 1 else tensor
        return tensor[..., : settings.get("max_state_dim", 32)]
    if short in ("actions", "noise", "action_prefix", "x_t"):
        horizon = settings.get("chunk_size", settings.get("action_horizon"))
        return tensor[:, :horizon, :11]
    if short == "actions_is_pad":
        return tensor[:, : settings.get("chunk_size", settings.get("action_horizon"))]
    if short == "real_action_dim":
        return tensor.clamp(max=11)
    if tensor.dim() == 2 and not name.startswith(("image_mask", "video_mask", "subgoal_mask", "pad.")):
        return torch.nn.functional.pad(tensor, (0, LONGER))
    return tensor


def remade(case: Case, root: Path) -> Case:
    """The case's folder at other sizes, with random weights under the sources' names."""
    folder = root / case.policy / case.folder.name
    folder.mkdir(parents=True)
    config = resized(case.config) | {"common_inputs_used": []}
    inputs = {k: fitted(k, v, config).contiguous() for k, v in case.inputs.items() if k[:4] != "pad."}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"_empty": torch.zeros(1)}, folder.parent / "common_inputs.safetensors")
    save_file(inputs, folder / "inputs.safetensors")
    save_file({"_empty": torch.zeros(1)}, folder / "outputs.safetensors")
    made = Case(folder)
    network = Network(made.preset())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1)
    tensors = {k: v.contiguous() for k, v in their_names(network).items()}
    save_file(tensors, folder.parent / "weights.safetensors")
    made.__dict__["expected"] = network
    return made


@pytest.mark.parametrize("case", cases(GOLDEN), ids=str)
@torch.no_grad()
def test_case_at_other_sizes(case, tmp_path):
    torch.manual_seed(0)
    made = remade(case, tmp_path)
    network, report = made.network()
    assert not report.missing and not report.unknown
    p, old = network.preset, case.preset()
    for name, tensor in made.expected.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name
    assert p.decoder.depth == old.decoder.depth + 1 and p.decoder.width != old.decoder.width
    assert p.cameras[0][1].tokens == 9 and len(p.decoder.thetas) == p.decoder.depth
    if p.decoder.sandwich:  # Gemma 3
        assert p.decoder.thetas[0] == 3e6 and p.decoder.thetas[1] == 5e3 and p.decoder.query_scale == 23
    if case.folder.name == "encoder":
        return
    batch = made.batch()
    size = len(next(iter(batch["images"].values())))
    encoded = network.encode(context_of(network), batch)
    assert encoded.hidden.shape == (size, encoded.layout.length, p.decoder.width)
    out = joint.losses(network, batch | made.training())
    assert all(bool(loss.isfinite().all()) for loss, _ in out["tokens"].values())
    run, texts = decode(network, batch, made, Check(made))
    assert all(len(text) <= p.layout.slots_needed for written in texts for text in written.texts)
    if p.expert:
        run.prepare_actions()
        check = Check(made)
        check.outputs["sample.actions"] = torch.zeros(size, p.horizon, 11)
        sample(network, run, made, check)
        assert p.horizon == old.horizon - 3 and check.differences["sample.actions"] > 0
