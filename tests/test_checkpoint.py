"""A checkpoint comes back whole, or one line says what is wrong with it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from agent.policy import Policy
from backbone import checkpoint, weights
from backbone.errors import UserError
from backbone.network import Network
from backbone.presets import preset
from backbone.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_words(["pick", "up", "the", "red", "block"])


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    network = Network(preset("nano", words=TOKENIZER.words, vocabulary=TOKENIZER.fingerprint))
    network.state_norm.set_quantiles(torch.arange(8.0), torch.arange(8.0) + 0.1)
    return network


@pytest.fixture
def saved(network, tmp_path):
    return checkpoint.save(tmp_path / "net", network, TOKENIZER, about={"steps": 3})


def test_round_trip(network, saved):
    again, tokenizer = checkpoint.load(saved)
    assert again.preset == network.preset and tokenizer.fingerprint == TOKENIZER.fingerprint
    for (name, a), (_, b) in zip(network.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert checkpoint.about(saved) == {"steps": 3} and not again.training
    policy = Policy.from_pretrained(saved)
    assert policy.horizon == 10
    policy.save_pretrained(saved.parent / "again")
    assert (saved.parent / "again" / checkpoint.WEIGHTS).read_bytes() == (
        saved / checkpoint.WEIGHTS
    ).read_bytes()


def test_half(network, tmp_path):
    path = checkpoint.save(tmp_path / "half", network, TOKENIZER, half=True)
    assert (path / checkpoint.WEIGHTS).stat().st_size < 25e6
    again, _ = checkpoint.load(path)
    for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert torch.equal(network.state_norm.high, again.state_norm.high)


def test_in_several_files(network, tmp_path):
    path = checkpoint.save(tmp_path / "net", network, TOKENIZER, shard=4_000_000)
    files = sorted(path.glob("*.safetensors"))
    assert len(files) > 2 and not (path / checkpoint.WEIGHTS).exists()
    again, _ = checkpoint.load(path)
    for (name, a), (_, b) in zip(network.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    half, _ = checkpoint.load(path, dtype=torch.bfloat16)
    assert half.text.table.weight.dtype == torch.bfloat16 and half.state_norm.low.dtype == torch.float32
    files[1].unlink()
    assert f"expected a file {files[1].name}" in complaint(path)


def test_saving_again_replaces_ours_and_keeps_theirs(network, saved):
    (saved / "log.jsonl").write_text("{}")
    (saved / "state").mkdir()
    checkpoint.save(saved, network, TOKENIZER, card="# second")
    assert (saved / "README.md").read_text() == "# second"
    assert (saved / "log.jsonl").exists() and (saved / "state").is_dir()
    assert [p.name for p in saved.parent.iterdir()] == ["net"]


def test_a_failed_save_leaves_the_old_one(network, saved, monkeypatch):
    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(weights, "save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(saved, network, TOKENIZER, card="# second")
    checkpoint.load(saved)
    assert [p.name for p in saved.parent.iterdir()] == ["net"]


def complaint(path) -> str:
    with pytest.raises(UserError) as error:
        checkpoint.load(path)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_folder_that_happens_to_have_the_name(tmp_path, monkeypatch):
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)
    assert checkpoint.find("nano") == checkpoint.SHIPPED / "nano"
    (tmp_path / "nano" / checkpoint.CONFIG).write_text("{}")
    assert checkpoint.find("nano").resolve() == tmp_path / "nano"


def test_unknown_names(tmp_path):
    assert "not found" in complaint("no-such-checkpoint")
    assert "hub id" in complaint(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    assert "config.json" in complaint(tmp_path / "empty")


@pytest.mark.parametrize("file", [checkpoint.CONFIG, checkpoint.WEIGHTS, checkpoint.TOKENIZER])
def test_missing_and_cut_files(saved, file):
    path, data = saved / file, (saved / file).read_bytes()
    for size in (len(data) // 2, 5, 0):
        path.write_bytes(data[:size])
        complaint(saved)
    path.unlink()
    assert f"expected a file {file}" in complaint(saved)


def test_weights_that_do_not_fit(saved):
    path = saved / checkpoint.WEIGHTS
    tensors = load_file(path)
    save_file({k: v for k, v in tensors.items() if k != "head.weight"}, path)
    assert "'head.weight' is missing" in complaint(saved)
    save_file({**tensors, "head.weight": torch.zeros(2, 2)}, path)
    assert "'head.weight' does not fit: expected shape" in complaint(saved)
    save_file({**tensors, "spare": torch.zeros(1)}, path)
    assert "'spare' belongs to another network" in complaint(saved)
    save_file({**tensors, "head.weight": tensors["head.weight"] * torch.nan}, path)
    assert "not finite" in complaint(saved)


def test_configs_that_do_not_fit(saved):
    path = saved / checkpoint.CONFIG
    config = json.loads(path.read_text())
    for change in ({"format": 99}, {"network": {}}, {"network": {**config["network"], "wings": 2}}):
        path.write_text(json.dumps({**config, **change}))
        complaint(saved)
    path.write_text("[]")
    assert "does not describe" in complaint(saved)


def test_a_tokenizer_that_does_not_fit(network, saved):
    Tokenizer.from_words(["pick", "up", "the", "red", "cube"]).save(saved / checkpoint.TOKENIZER)
    assert "tokenizer does not fit" in complaint(saved)
    with pytest.raises(UserError, match="does not fit"):
        checkpoint.save(saved, network, Tokenizer.from_words(["x"]))
