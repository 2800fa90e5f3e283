"""A published tokenizer, as the π family uses it: <bos> where it is asked for, <eos> in the middle too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backbone.errors import UserError

EOS_MARK = "<eos>"


class Words:
    """Wraps a Hugging Face tokenizer that has <bos> and <eos>."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.bos, self.eos, self.pad = (
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id or 0,
        )
        if self.bos is None or self.eos is None:
            raise UserError("tokenizer: expected one with <bos> and <eos>, got one without")

    @classmethod
    def load(cls, name: str | Path) -> Words:
        """A directory or a hub id; UserError if it cannot be had."""
        from transformers import AutoTokenizer

        try:
            return cls(AutoTokenizer.from_pretrained(str(name)))
        except UserError:
            raise
        except Exception as error:  # offline, gated, missing, damaged: many types, one meaning
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"tokenizer: '{name}' cannot be loaded ({reason})") from error

    @property
    def size(self) -> int:
        """The number of ids it may give."""
        return len(self.tokenizer)

    def encode(self, text: str, begin: bool = False) -> list[int]:
        """Ids of a text; `<eos>` in it becomes the token, a zero byte parts it."""
        ids = [self.bos] if begin else []
        for at, part in enumerate(text.split(EOS_MARK)):
            ids += [self.eos] if at else []
            for piece in filter(None, part.split("\0")):
                ids += self.tokenizer(piece, add_special_tokens=False).input_ids
        return ids

    def decode(self, ids: list[int]) -> str:
        """The words up to the first <eos>, without special tokens."""
        ids = [int(i) for i in ids]
        ids = ids[: ids.index(self.eos)] if self.eos in ids else ids
        return " ".join(self.tokenizer.decode(ids, skip_special_tokens=True).split())

    def save(self, directory: Path) -> None:
        self.tokenizer.save_pretrained(str(directory))
