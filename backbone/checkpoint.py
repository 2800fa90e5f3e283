"""Checkpoints on disk: config.json, model.safetensors, tokenizer.json, README.md. All or nothing.

Everything that can be wrong with one raises a UserError of one line; a network is never left partly random.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from backbone.config import Preset
from backbone.errors import UserError
from backbone.network import Network
from backbone.tokenizer import Tokenizer

FORMAT = 1
CONFIG, WEIGHTS, TOKENIZER, CARD = "config.json", "model.safetensors", "tokenizer.json", "README.md"
SHIPPED = Path(__file__).resolve().parent.parent / "steersman" / "checkpoints"


def shipped() -> list[str]:
    """Names of the checkpoints that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))


def save(
    directory: str | Path,
    network: Network,
    tokenizer: Tokenizer,
    card: str = "",
    half: bool = False,
    about: dict | None = None,
) -> Path:
    """Write a checkpoint; a reader finds the old one or the new one, never a half-written one.

    half: weights as float16 (normalisation stays float32). about: facts to keep beside (steps, data, scores).
    Files of others in the directory are kept.
    """
    _fit(network.preset, tokenizer, "checkpoint")
    directory = Path(directory).absolute()
    fresh = directory.with_name(f".{directory.name}.{os.getpid()}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        config = {"format": FORMAT, "network": network.preset.to_dict(), "about": about or {}}
        (fresh / CONFIG).write_text(json.dumps(config, indent=1))
        save_file(_weights(network, half), fresh / WEIGHTS, metadata={"format": "pt"})
        (fresh / WEIGHTS).chmod(0o644)  # safetensors writes for the owner alone
        tokenizer.save(fresh / TOKENIZER)
        (fresh / CARD).write_text(card or f"# {network.preset.name}\n\nA Steersman checkpoint.\n")
        _swap(fresh, directory)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return directory


def load(name: str | Path, device: str | torch.device = "cpu") -> tuple[Network, Tokenizer]:
    """A directory, a shipped name or a hub id -> network (float32, eval mode), tokenizer."""
    directory = find(name)
    for file in (CONFIG, WEIGHTS, TOKENIZER):
        if not (directory / file).is_file():
            raise UserError(f"checkpoint {name}: expected a file {file} in {directory}, found none")
    preset = _read_config(directory / CONFIG, name)
    tokenizer = Tokenizer.load(directory / TOKENIZER)
    _fit(preset, tokenizer, f"checkpoint {name}")
    try:
        weights = load_file(directory / WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"checkpoint {name}: {WEIGHTS} is damaged or cut short ({error})") from error
    network = Network(preset)
    _check(network.state_dict(), weights, f"checkpoint {name}")
    network.load_state_dict(weights)
    return network.to(device).eval(), tokenizer


def about(name: str | Path) -> dict:
    """The facts kept beside a checkpoint."""
    try:
        return json.loads((find(name) / CONFIG).read_text()).get("about", {})
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint {name}: {CONFIG} cannot be read ({error})") from error


def find(name: str | Path) -> Path:
    """The directory of a checkpoint, downloaded if it is a hub id."""
    text = str(name)
    if Path(text).is_dir():
        return Path(text)
    if text in shipped():
        return SHIPPED / text
    known = f"expected a directory, a hub id (owner/name) or one of: {', '.join(shipped()) or 'none shipped'}"
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise UserError(f"checkpoint '{text}' not found; {known}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(text, allow_patterns=[CONFIG, WEIGHTS, TOKENIZER, CARD]))
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
    if config.get("format") != FORMAT:
        raise UserError(f"checkpoint {name}: expected format {FORMAT}, got {config.get('format')}")
    return Preset.from_dict(config["network"])


def _fit(preset: Preset, tokenizer: Tokenizer, what: str) -> None:
    if (preset.words, preset.vocabulary) != (tokenizer.words, tokenizer.fingerprint):
        raise UserError(
            f"{what}: its tokenizer does not fit: expected {preset.words} words ({preset.vocabulary}), "
            f"got {tokenizer.words} ({tokenizer.fingerprint})"
        )


def _check(expected: dict, got: dict, what: str) -> None:
    for key, value in expected.items():
        if key not in got:
            raise UserError(f"{what}: weight '{key}' is missing")
        if got[key].shape != value.shape:
            shapes = f"expected shape {tuple(value.shape)}, got {tuple(got[key].shape)}"
            raise UserError(f"{what}: weight '{key}' does not fit: {shapes}")
        if not got[key].isfinite().all():
            raise UserError(f"{what}: weight '{key}' is not finite")
    extra = sorted(set(got) - set(expected))
    if extra:
        raise UserError(f"{what}: weight '{extra[0]}' belongs to another network")
