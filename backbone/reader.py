"""An observation as the inputs of a π network: pictures of the right size, a normalised state, prompts.

Training reads its samples through the same functions, so what a network learns on is what it will be shown.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backbone.errors import UserError
from backbone.layout import Segment
from backbone.network import Network
from backbone.observation import Observation
from backbone.prompts import Prompt, metadata_ids, prompt_ids
from backbone.words import Words


class Reader:
    """cameras: the network's names of cameras -> the robot's; those that a robot lacks are simply not there.
    state_dim: the robot's own; the rest of what the network takes is zero. metadata: what is known of how and
    with what where an observation says nothing. device: where inputs are made, by default where the network
    is; a reader on another one keeps its own copy of the normalisation and never waits for the network.
    """

    def __init__(
        self,
        network: Network,
        words: Words,
        how: Prompt,
        state_dim: int,
        cameras: Mapping[str, str] | None = None,
        metadata: Mapping[str, object] | None = None,
        device: str | torch.device | None = None,
    ):
        if words.size > network.text.size:
            raise UserError(f"tokenizer: expected at most {network.text.size} words, got {words.size}")
        self.network, self.words, self.how, self.state_dim = network, words, how, state_dim
        self.metadata, self._device = dict(metadata or {}), device
        self._norm = network.state_norm if device is None else copy.deepcopy(network.state_norm).to(device)
        self.layout = network.layout.inference.prefix
        self.lengths = {s.name: s.length for s in self.layout.segments}
        known = {name: name for name, _ in network.preset.cameras}
        unknown = sorted(set(cameras or ()) - set(known))
        if unknown:
            raise UserError(f"cameras: expected names of {', '.join(known)}, got '{unknown[0]}'")
        self.cameras = dict(cameras) if cameras else known

    def inputs(self, observation: Observation, instruction: str, memory: str = "", subtask: str = "") -> dict:
        """A batch of one. subtask: for a network that is told one. UserError says what does not fit."""
        self.check(observation)
        device, found = self.device, {"images": {}, "subgoals": {}, "history": {}}
        config = self.network.preset.cameras[0][1]
        for ours, theirs in self.cameras.items():
            for group, pictures in (("images", observation.images), ("subgoals", observation.subgoals)):
                if theirs in pictures:
                    picture = np.asarray(pictures[theirs])
                    frames = config.frames if group == "images" else 1
                    found[group][ours] = fit(picture, config.image_size, frames, theirs, self.how.padding).to(
                        device
                    )
        state = self._state(observation)
        if "state" in self.lengths:  # a past that is not given is not there: nothing will be read of it
            known = state[-self.lengths["state"] :]
            found["state"] = F.pad(known, (0, 0, self.lengths["state"] - len(known), 0))[None].to(device)
        if observation.history is not None and config.frames > 1:
            there = torch.as_tensor(np.asarray(observation.history, bool))[None, -config.frames :].to(device)
            found["history"] = {name: there for name in (*found["images"], "state")}
        now = self._norm(state[-1].to(device))[: self.state_dim].cpu().numpy()
        texts = {"prompt": prompt_ids(self.how, self.words, self.lengths["prompt"], instruction, now, memory)}
        if self.told is not None and subtask:
            texts["response"] = self.told_ids(subtask)
        metadata = {**self.metadata, **observation.metadata}
        said = metadata_ids(self.how, self.words, metadata) if "metadata" in self.lengths else []
        if said:
            texts["metadata"] = said
        for name, ids in texts.items():
            found[f"{name}_ids"] = torch.tensor([self._fitting(name, ids)], device=device)
        return found

    def written(self, name: str, text: str) -> list[int]:
        """The ids of a text that the network writes, as it writes it: from <bos> to <eos>. UserError if it
        does not fit. What published policies append to it in training they never see when they act, so it is
        left out.
        """
        return self._fitting(name, [self.words.bos, *self.words.encode(text), self.words.eos], text)

    def told_ids(self, subtask: str) -> list[int]:
        """The ids of a subtask that the network is told by another. UserError if it does not fit."""
        return self._fitting("response", self.words.encode(self.how.response.format(text=subtask)), subtask)

    @property
    def device(self) -> torch.device | str:
        return self.network.device if self._device is None else self._device

    @property
    def told(self) -> Segment | None:
        """Where a subtask is read that another has written, if there is such a place."""
        return next((s for s in self.layout.segments if s.name == "response" and not s.target), None)

    def _fitting(self, name: str, ids: list[int], text: str = "") -> list[int]:
        if len(ids) > self.lengths[name]:
            what = f" for {text!r}" if text else ""
            raise UserError(f"{name}: expected at most {self.lengths[name]} tokens, got {len(ids)}{what}")
        return ids

    def check(self, observation: Observation) -> None:
        """UserError unless there is a camera it knows, pictures are pictures and the state fits."""
        if not set(self.cameras.values()) & set(observation.images):
            expected, got = ", ".join(self.cameras.values()), ", ".join(sorted(observation.images)) or "none"
            raise UserError(f"observation: expected some camera of {expected}, got {got}")
        for name in self.cameras.values():
            for pictures in (observation.images, observation.subgoals):
                if name in pictures:
                    check_picture(np.asarray(pictures[name]), name)
        self._state(observation)

    def _state(self, observation: Observation) -> Tensor:
        """(T, D) in physical units, padded to the network's width."""
        state = torch.as_tensor(np.asarray(observation.state), dtype=torch.float32)
        state = state[None] if state.dim() == 1 else state
        if state.dim() != 2 or state.shape[1] != self.state_dim:
            got = tuple(state.shape)
            raise UserError(f"observation: expected a state of {self.state_dim} numbers, got {got}")
        if not state[-1].isfinite().all():
            raise UserError(f"observation: expected finite numbers in the state, got {state[-1].tolist()}")
        return F.pad(state, (0, self.network.preset.state_dim - self.state_dim))


def check_picture(picture: np.ndarray, name: str) -> None:
    if picture.dtype != np.uint8 or picture.ndim not in (3, 4) or picture.shape[-1] != 3:
        got = f"{picture.dtype} of shape {picture.shape}"
        raise UserError(f"observation: camera '{name}' expected uint8 of shape (H, W, 3), got {got}")


def fit(picture: np.ndarray, side: int, frames: int, name: str, padding: str = "centre") -> Tensor:
    """(H, W, 3) or (T, H, W, 3) uint8 -> (1, [T,] side, side, 3): as it is, or scaled with its proportions
    kept, then in [-1, 1], black where nothing is.
    """
    check_picture(picture, name)
    if picture.ndim == 4:  # a network that looks less far back takes the last
        picture = picture[-frames:] if frames > 1 else picture[-1]
    image = torch.from_numpy(np.ascontiguousarray(picture))
    if picture.shape[-3:-1] == (side, side):
        return image[None]
    flat = (image if image.dim() == 4 else image[None]).movedim(-1, 1).float()
    ratio = max(flat.shape[-2:]) / side
    size = [max(1, int(n / ratio)) for n in flat.shape[-2:]]
    flat = F.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    spare = [side - n for n in size]
    before = spare if padding == "left_top" else [n // 2 for n in spare]
    flat = F.pad(flat, (before[1], spare[1] - before[1], before[0], spare[0] - before[0]))
    flat = flat.movedim(1, -1) / 127.5 - 1
    return flat[None] if image.dim() == 4 else flat
