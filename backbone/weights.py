"""Tensors in safetensors files: one file, or shards with an index."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from backbone.errors import UserError

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = 5_000_000_000  # bytes


def write(directory: Path, tensors: dict[str, Tensor], shard: int = SHARD) -> None:
    """Write tensors into an empty directory; more than `shard` bytes go into several files with an index."""
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=shard)
    for file, keys in split.filename_to_tensors.items():
        save_file({key: tensors[key] for key in keys}, directory / file, metadata={"format": "pt"})
        (directory / file).chmod(0o644)  # safetensors writes for the owner alone
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (directory / INDEX).write_text(json.dumps(index, indent=1))


class Weights:
    """What a file, or a directory with one file or an index, holds. Tensors are read when asked for, straight
    to where they go. UserError if a file is missing, damaged or cut short.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.directory = self.path if self.path.is_dir() else self.path.parent
        self._files: dict[str, safe_open] = {}

    @cached_property
    def place(self) -> dict[str, str]:
        """Each key's file."""
        if self.path.is_file():
            return dict.fromkeys(self._open(self.path.name).keys(), self.path.name)
        if (self.directory / INDEX).is_file():
            try:
                return dict(json.loads((self.directory / INDEX).read_text())["weight_map"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"weights: {self.directory / INDEX} cannot be read ({error})") from error
        return dict.fromkeys(self._open(FILE).keys(), FILE)

    def keys(self) -> Iterable[str]:
        return self.place.keys()

    def __len__(self) -> int:
        return len(self.place)

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._open(self.place[key]).get_slice(key).get_shape())

    def dtype(self, key: str) -> str:
        return self._open(self.place[key]).get_slice(key).get_dtype()

    def read(self, key: str, device: str | torch.device = "cpu") -> Tensor:
        try:
            tensor = self._open(self.place[key]).get_tensor(key)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise UserError(f"weights: '{key}' in {self.path} cannot be read ({error})") from error
        return tensor.to(device)

    def _open(self, file: str) -> safe_open:
        if file not in self._files:
            path = self.directory / file
            if not path.is_file():
                raise UserError(f"weights: expected a file {file} in {self.directory}, found none")
            try:
                self._files[file] = safe_open(path, "pt")
            except (SafetensorError, OSError, ValueError) as error:
                raise UserError(f"weights: {file} is damaged or cut short ({error})") from error
        return self._files[file]
