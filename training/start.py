"""What a run starts from: fresh weights with the data's normalisation, or those of a checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backbone.network import Network
from backbone.presets import preset
from backbone.tokenizer import Tokenizer
from training.cache import Cache
from training.config import Config

LEAST_RANGE = 0.4  # of an action dimension, full scale being 2


def new_network(config: Config, cache: Cache) -> tuple[Network, Tokenizer]:
    """The network of `config.preset` (or of the checkpoint), fresh or with the weights of `config.init`.

    A checkpoint of another preset gives the weights that both have (`share_weights`): the rest is fresh.
    """
    if not config.init:
        from envs.tabletop.language import all_words

        tokenizer = Tokenizer.from_words(all_words())
        network = _fresh(config, config.preset or "nano", tokenizer)
        train = ~cache.held_out
        network.state_norm.set_quantiles(*np.quantile(cache.state[train], [0.01, 0.99], axis=0))
        chunk, valid = cache.chunks(through=not network.layout.reads_plans)
        network.action_norm.set_quantiles(*action_range(chunk[train][valid[train]]))
        return network, tokenizer
    from backbone import checkpoint

    source, tokenizer = checkpoint.load(config.init)
    if config.preset in (None, source.preset.name):
        source.preset = config.delayed(source.preset)
        return source.train(), tokenizer
    network = _fresh(config, config.preset, tokenizer)
    missing = share_weights(source, network)
    print(f"start: weights of {config.init}, but for {', '.join(missing) or 'none'} of {config.preset}")
    return network, tokenizer


def _fresh(config: Config, name: str, tokenizer: Tokenizer) -> Network:
    torch.manual_seed(config.seed)
    made = preset(name, words=tokenizer.words, vocabulary=tokenizer.fingerprint)
    return Network(config.delayed(made))


@torch.no_grad()
def share_weights(source: nn.Module, target: nn.Module) -> list[str]:
    """Copy the tensors that both have by name, normalisation among them; returns the names of the others.

    A table with more rows in one of the two gives the rows that both have: slots are counted from the first
    segment on, so they mean the same as long as the layouts begin alike.
    """
    have: dict[str, Tensor] = source.state_dict()
    missing = []
    for name, tensor in target.state_dict().items():
        other = have.get(name)
        if other is None or other.shape[1:] != tensor.shape[1:]:
            missing.append(name)
        elif tensor.dim():
            rows = min(len(tensor), len(other))
            tensor[:rows] = other[:rows]
        else:
            tensor.copy_(other)
    return missing


def action_range(actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, A) -> what becomes -1 and 1: the quantiles 0.01 and 0.99, at least LEAST_RANGE apart.

    A dimension that hardly ever moves (roll, pitch) would else be blown up: its jitter would weigh as much as
    the motion that matters, and its rare corrections, at 30 times the range, more than all of it.
    """
    low, high = np.quantile(actions, [0.01, 0.99], axis=0)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, LEAST_RANGE / 2)
    return middle - half, middle + half


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Only matrices decay: not norms, biases, embeddings of slots."""
    named = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    decays = [p for n, p in named if p.dim() >= 2 and "slot" not in n]
    others = [p for n, p in named if p.dim() < 2 or "slot" in n]
    return [{"params": decays, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
