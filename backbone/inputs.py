"""What a network is asked, as tensors: observations and words as a batch, several batches as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backbone.errors import UserError
from backbone.observation import Observation
from backbone.tokenizer import PAD, Tokenizer


def leaves(inputs: dict, above: tuple[str, ...] = ()) -> tuple[tuple[tuple[str, ...], ...], list[Tensor]]:
    """The tensors of a tree of dictionaries, and the way to each."""
    keys, tensors = [], []
    for name, value in inputs.items():
        found = leaves(value, (*above, name)) if isinstance(value, dict) else ([(*above, name)], [value])
        keys += found[0]
        tensors += found[1]
    return tuple(keys), tensors


def tree(keys: tuple[tuple[str, ...], ...], tensors: Iterable[Tensor]) -> dict:
    """The inverse of `leaves`."""
    inputs: dict = {}
    for way, tensor in zip(keys, tensors, strict=True):
        here = inputs
        for name in way[:-1]:
            here = here.setdefault(name, {})
        here[way[-1]] = tensor
    return inputs


def together(batches: Sequence[dict]) -> dict:
    """Inputs of `Network.embed` for one sample each as those of a batch. A picture that some lack is flagged
    absent for them; a picture without a past gets one that is not there.
    """
    out: dict = {"there": {}, "history": {}}
    if len(batches) == 1:
        return out | batches[0]
    for name in ("images", "subgoals"):
        out[name] = {}
        for camera in sorted({camera for batch in batches for camera in batch.get(name, {})}):
            given = [batch.get(name, {}).get(camera) for batch in batches]
            out[name][camera] = _pictures(given)
            if any(picture is None for picture in given):
                segment = camera if name == "images" else f"{name}.{camera}"
                there = torch.tensor([picture is not None for picture in given])
                out["there"][segment] = there.to(out[name][camera].device)
    histories = {name for batch in batches for name in batch.get("history", {})}
    for name in sorted(histories):
        given = [batch.get("history", {}).get(name) for batch in batches]
        width = next(h.shape[1] for h in given if h is not None)
        device = next(h.device for h in given if h is not None)
        now = torch.arange(width, device=device)[None] == width - 1
        out["history"][name] = torch.cat([now if h is None else h for h in given])
    for name in sorted({n for batch in batches for n in batch} - {"there", "history", "images", "subgoals"}):
        given = [batch.get(name) for batch in batches]
        like = next(value for value in given if value is not None)
        if name.endswith("_ids"):
            given = [like.new_full((1, 1), PAD) if value is None else value for value in given]
            length = max(value.shape[1] for value in given)
            given = [F.pad(value, (0, length - value.shape[1]), value=PAD) for value in given]
        out[name] = torch.cat(given)
    return out


def _pictures(given: Sequence[Tensor | None]) -> Tensor:
    there = [picture for picture in given if picture is not None]
    frames = max(picture.shape[1] if picture.dim() == 5 else 1 for picture in there)
    alike = all(picture.dtype == torch.uint8 for picture in there)
    parts = []
    for picture in given:
        picture = torch.zeros_like(there[0]) if picture is None else picture
        if not alike and picture.dtype == torch.uint8:
            picture = picture.float() / 127.5 - 1
        if frames > 1:
            picture = picture if picture.dim() == 5 else picture[:, None]
            picture = F.pad(picture, (0, 0) * 3 + (frames - picture.shape[1], 0))
        parts.append(picture)
    return torch.cat(parts)


def observed(observations: list[Observation], cameras: Iterable[str], device: torch.device) -> dict:
    """What `Run.read` needs of some observations, as a batch."""
    images = {
        c: torch.from_numpy(np.stack([np.asarray(o.images[c]) for o in observations])).to(device)
        for c in cameras
    }
    states = np.stack([np.asarray(o.state, np.float32) for o in observations])
    return {"images": images, "state": torch.from_numpy(states).to(device)}


def encode_words(tokenizer: Tokenizer, text: str, length: int, what: str) -> list[int]:
    """Padded ids; UserError naming the unknown words if they are more than a third of the text."""
    unknown = tokenizer.unknown_words(text)
    if len(unknown) * 3 > len(text.split()):
        raise UserError(f"{what}: this network does not know the words {', '.join(map(repr, unknown))}")
    try:
        return tokenizer.encode(text, length)
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
