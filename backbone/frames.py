"""What the vision tower made of the last frames, before it looked at their past.

The blocks before the first one that attends over time see one frame by itself, whatever its age: what they
make of it can be used again as long as the frame is in the history. What comes after depends on ages, and is
not kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backbone.network import Network


class Frames:
    """Keeps the frames of the last look, and recognises them by their pixels."""

    def __init__(self, network: Network):
        self.network = network
        self.computed = 0  # frames that had to be
        self._kept: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def forget(self) -> None:
        self._kept.clear()

    @torch.no_grad()
    def add(self, inputs: dict) -> dict:
        """Inputs of `Network.embed` with "early" {source: (B, T, n, width)} for the pictures with a past."""
        early = {}
        for camera, images in inputs.get("images", {}).items():
            tower = self.network.towers[
                camera if camera in self.network.towers else next(iter(self.network.towers))
            ]
            if images.dim() != 5 or images.shape[1] == 1 or not 0 < tower.alone < len(tower.blocks):
                continue
            frames, known = list(images.flatten(0, 1)), self._kept.get(camera, [])
            found, new = [], []
            for frame in frames:
                at = next((made for seen, made in known if torch.equal(seen, frame)), None)
                if at is None:
                    at = next((k for k, other in enumerate(new) if torch.equal(other, frame)), len(new))
                    new += [frame] if at == len(new) else []
                found.append(at)
            made = tower.early(torch.stack(new))[0] if new else None
            self.computed += len(new)
            kept = [at if isinstance(at, Tensor) else made[at] for at in found]
            self._kept[camera] = list(zip(frames, kept, strict=True))
            early[f"images.{camera}"] = torch.stack(kept).unflatten(0, images.shape[:2])
        return inputs | {"early": early} if early else inputs
