"""Checkpoints on disk: config.json, model.safetensors, tokenizer.json, README.md. All or nothing.

Everything that can be wrong with one raises a UserError of one line; a network is never left partly random.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import torch

from backbone.config import Preset
from backbone.errors import UserError
from backbone.network import Network
from backbone.normalise import Normaliser
from backbone.tokenizer import Tokenizer
from backbone.weights import FILE, INDEX, SHARD, Weights, write

FORMAT = 1
# What stays float32 in a half-precision network: norms, what time and actions go through, the first look.
ISLANDS = re.compile(r"norm|^time_|^action_|^state\.|\.stem\.|\.position$")
CONFIG, WEIGHTS, TOKENIZER, CARD = "config.json", FILE, "tokenizer.json", "README.md"
SHIPPED = Path(__file__).resolve().parent.parent / "steersman" / "checkpoints"


def shipped() -> list[str]:
    """Names of the checkpoints that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))


def save(
    directory: str | Path,
    network: Network,
    tokenizer: Tokenizer | None,
    card: str = "",
    half: bool = False,
    about: dict | None = None,
    shard: int = SHARD,
) -> Path:
    """Write a checkpoint; a reader finds the old one or the new one, never a half-written one.

    tokenizer: None for a network whose tokenizer is published elsewhere. half: weights as float16
    (normalisation stays float32). about: facts to keep beside (steps, data, scores). shard: bytes of a
    weights file, at most. Files of others in the directory are kept.
    """
    if tokenizer is not None:
        _fit(network.preset, tokenizer, "checkpoint")
    directory = Path(directory).absolute()
    fresh = directory.with_name(f".{directory.name}.{os.getpid()}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        config = {"format": FORMAT, "network": network.preset.to_dict(), "about": about or {}}
        (fresh / CONFIG).write_text(json.dumps(config, indent=1))
        write(fresh, _weights(network, half), shard)
        if tokenizer is not None:
            tokenizer.save(fresh / TOKENIZER)
        (fresh / CARD).write_text(card or f"# {network.preset.name}\n\nA Steersman checkpoint.\n")
        _swap(fresh, directory)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return directory


def load(
    name: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Network, Tokenizer]:
    """A directory, a shipped name or a hub id -> network (in eval mode), tokenizer.

    Weights go straight to the device, one by one. dtype: of the matrices; what needs it stays float32
    (`ISLANDS`), and so does what flows between the layers.
    """
    directory = find(name)
    for file in (CONFIG, TOKENIZER):
        if not (directory / file).is_file():
            raise UserError(f"checkpoint {name}: expected a file {file} in {directory}, found none")
    preset = _read_config(directory / CONFIG, name)
    tokenizer = Tokenizer.load(directory / TOKENIZER)
    _fit(preset, tokenizer, f"checkpoint {name}")
    return _load_network(preset, directory, f"checkpoint {name}", device, dtype), tokenizer


def load_network(
    name: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Network:
    """The same of a checkpoint without a tokenizer of its own."""
    directory = find(name)
    if not (directory / CONFIG).is_file():
        raise UserError(f"checkpoint {name}: expected a file {CONFIG} in {directory}, found none")
    return _load_network(
        _read_config(directory / CONFIG, name), directory, f"checkpoint {name}", device, dtype
    )


def _load_network(preset: Preset, directory: Path, what: str, device, dtype) -> Network:
    if dtype == torch.bfloat16 and not has_bfloat16(device):
        raise UserError(
            f"{what}: expected a device that computes in bfloat16, got {device}; load it as float32"
        )
    with torch.device("meta"):
        network = Network(preset)
    try:
        weights = Weights(directory)
        expected = network.state_dict()
        _check(expected, weights)
        buffers, filled = {key for key, _ in network.named_buffers()}, {}
        for key in expected:
            tensor = weights.read(key, device)
            if not tensor.isfinite().all():
                raise UserError(f"weight '{key}' is not finite")
            filled[key] = tensor.to(torch.float32 if key in buffers or ISLANDS.search(key) else dtype)
    except UserError as error:
        raise UserError(f"{what}: {str(error).removeprefix('weights: ')}") from error
    network.load_state_dict(filled, assign=True)
    return network.eval()


def has_bfloat16(device: str | torch.device) -> bool:
    """Whether a device computes in bfloat16 (CPUs do, slowly; GPUs from Ampere on)."""
    return torch.device(device).type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def empty(preset: Preset, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Network:
    """A network whose weights are memory and nothing else, to be filled: making random ones takes minutes."""
    with torch.device("meta"):
        network = Network(preset)
    network.to_empty(device=device)
    for module in network.modules():
        if isinstance(module, Normaliser):
            module.set_quantiles(*torch.tensor([-1.0, 1.0])[:, None].expand(2, len(module.low)))
    return cast(network, dtype)


def cast(network: Network, dtype: torch.dtype) -> Network:
    """The matrices in `dtype`, what needs it in float32 (`ISLANDS`)."""
    for name, parameter in network.named_parameters():
        if not ISLANDS.search(name):
            parameter.data = parameter.data.to(dtype)
    return network


def about(name: str | Path) -> dict:
    """The facts kept beside a checkpoint."""
    try:
        return json.loads((find(name) / CONFIG).read_text()).get("about", {})
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint {name}: {CONFIG} cannot be read ({error})") from error


def preset(name: str | Path) -> Preset:
    """What network a checkpoint holds, without its weights."""
    directory = find(name)
    if not (directory / CONFIG).is_file():
        raise UserError(f"checkpoint {name}: expected a file {CONFIG} in {directory}, found none")
    return _read_config(directory / CONFIG, name)


def find(name: str | Path) -> Path:
    """The directory of a checkpoint, downloaded if it is a hub id."""
    text = str(name)
    if Path(text).is_dir() and (text not in shipped() or (Path(text) / CONFIG).is_file()):
        return Path(text)
    if text in shipped():
        return SHIPPED / text
    known = f"expected a directory, a hub id (owner/name) or one of: {', '.join(shipped()) or 'none shipped'}"
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise UserError(f"checkpoint '{text}' not found; {known}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(text, allow_patterns=[CONFIG, "*.safetensors", INDEX, "*.json", CARD]))
    except Exception as error:  # offline, missing, private: many types, one meaning
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"checkpoint '{text}' not found here or on the hub ({reason}); {known}") from error


def _weights(network: Network, half: bool) -> dict[str, torch.Tensor]:
    weights = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    for key, value in weights.items():
        if not value.isfinite().all():
            raise UserError(f"checkpoint: expected finite weights, '{key}' is not")
    if half:
        buffers = {name for name, _ in network.named_buffers()}
        weights = {k: v if k in buffers or v.abs().max() > 6e4 else v.half() for k, v in weights.items()}
    return weights


def _swap(fresh: Path, directory: Path) -> None:
    """Put `fresh` in the place of `directory`, keeping other people's files."""
    if not directory.exists():
        os.rename(fresh, directory)
        return
    old = directory.with_name(f".{directory.name}.{os.getpid()}.old")
    os.rename(directory, old)
    os.rename(fresh, directory)
    for entry in old.iterdir():
        if not (directory / entry.name).exists():
            os.rename(entry, directory / entry.name)
    shutil.rmtree(old, ignore_errors=True)


def _read_config(path: Path, name: str | Path) -> Preset:
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint {name}: {CONFIG} cannot be read ({error})") from error
    if not isinstance(config, dict) or "network" not in config:
        raise UserError(f"checkpoint {name}: {CONFIG} does not describe a Steersman network")
    if isinstance(config.get("format"), int) and config["format"] > FORMAT:
        got = f"got {config['format']}: a newer Steersman made it"
        raise UserError(f"checkpoint {name}: expected format {FORMAT} or older, {got}")
    if config.get("format") != FORMAT:
        raise UserError(f"checkpoint {name}: expected format {FORMAT}, got {config.get('format')}")
    return Preset.from_dict(config["network"])


def _fit(preset: Preset, tokenizer: Tokenizer, what: str) -> None:
    if (preset.words, preset.vocabulary) != (tokenizer.words, tokenizer.fingerprint):
        raise UserError(
            f"{what}: its tokenizer does not fit: expected {preset.words} words ({preset.vocabulary}), "
            f"got {tokenizer.words} ({tokenizer.fingerprint})"
        )


def _check(expected: dict, got: Weights) -> None:
    present = set(got.keys())
    for key, value in expected.items():
        if key not in present:
            raise UserError(f"weight '{key}' is missing")
        if got.shape(key) != tuple(value.shape):
            shapes = f"expected shape {tuple(value.shape)}, got {got.shape(key)}"
            raise UserError(f"weight '{key}' does not fit: {shapes}")
    extra = sorted(present - set(expected))
    if extra:
        raise UserError(f"weight '{extra[0]}' belongs to another network")
