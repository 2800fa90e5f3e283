"""FAST: chunks of actions as a few discrete tokens (Pertsch et al., 2025, arXiv:2501.09747).

A cosine transform along time, rounded to integers, the integers written as characters, the characters joined
by byte-pair encoding. Files are those of the published processor ("physical-intelligence/fast"):
processor_config.json and tokenizer.json.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from scipy.fft import dct, idct
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from backbone.errors import UserError

CONFIG, TOKENS, ABOUT_TOKENS = "processor_config.json", "tokenizer.json", "tokenizer_config.json"
NESTED = "bpe_tokenizer"  # where some versions of transformers put a processor's tokenizer
CODE = "physical-intelligence/fast--processing_action_tokenizer.UniversalActionProcessor"
REACH = 4.0  # no normalised action is larger, so no coefficient is larger than this times the horizon's root


class FAST:
    """scale: integer steps of a coefficient per unit of a normalised action. least: the smallest integer that
    has a character of its own; what is smaller becomes it.
    """

    def __init__(self, tokenizer: Tokenizer, scale: float, least: int):
        self.tokenizer, self.scale, self.least = tokenizer, float(scale), int(least)

    @property
    def size(self) -> int:
        """The number of tokens there are."""
        return self.tokenizer.get_vocab_size()

    # --- both ways -----------------------------------------------------------------------------------------

    def encode(self, actions: np.ndarray) -> list[list[int]]:
        """Normalised actions (B, H, A), best within [-1, 1] -> token ids of each chunk."""
        actions = np.asarray(actions, np.float64)
        if actions.ndim != 3 or not np.isfinite(actions).all():
            raise UserError(f"FAST: expected finite actions of shape (B, H, A), got {actions.shape}")
        return [self.tokenizer.encode(text, add_special_tokens=False).ids for text in self._written(actions)]

    def decode(self, ids: Sequence[Sequence[int]], horizon: int, dims: int) -> np.ndarray:
        """Token ids -> actions (B, horizon, dims) float32.

        Any ids give actions: what is too long is cut, what is missing is zero, and so is a character that
        stands for no number, so a garbled tail leaves the slow part of the motion as it was.
        """
        out = np.zeros((len(ids), horizon * dims))
        for row, chunk in zip(out, ids, strict=True):
            known = [int(i) for i in chunk if 0 <= int(i) < self.size]
            text = self.tokenizer.decode(known, skip_special_tokens=False)[: row.size]
            codes = np.array([ord(character) for character in text], np.int64) + self.least
            row[: len(codes)] = np.where(np.abs(codes) <= REACH * self.scale * horizon**0.5, codes, 0)
        shaped = out.reshape(-1, horizon, dims) / self.scale
        return idct(shaped, axis=1, norm="ortho").astype(np.float32)

    def pad(self, chunks: Sequence[Sequence[int]], length: int) -> tuple[np.ndarray, np.ndarray, int]:
        """ids (B, length) padded with 0, which are real (B, length) bool, and how many chunks were cut."""
        out, real = np.zeros((len(chunks), length), np.int64), np.zeros((len(chunks), length), bool)
        for at, chunk in enumerate(chunks):
            kept = chunk[:length]
            out[at, : len(kept)], real[at, : len(kept)] = kept, True
        return out, real, sum(len(chunk) > length for chunk in chunks)

    def _written(self, actions: np.ndarray) -> list[str]:
        steps = np.around(dct(actions, axis=1, norm="ortho") * self.scale)
        codes = np.maximum(steps.reshape(len(actions), -1) - self.least, 0).astype(int)
        return ["".join(map(chr, row)) for row in codes]

    # --- making one ----------------------------------------------------------------------------------------

    @classmethod
    def fit(cls, chunks: Iterable[np.ndarray], scale: float = 10.0, size: int = 1024) -> FAST:
        """Learn the pairs to join from chunks (H, A) of normalised actions. UserError if `size` is too small
        for the numbers that occur.
        """
        chunks = [np.asarray(chunk, np.float64)[None] for chunk in chunks]
        if not chunks:
            raise UserError("FAST: expected some chunks of actions to learn from, got none")
        steps = [np.around(dct(chunk, axis=1, norm="ortho") * scale) for chunk in chunks]
        least, most = int(min(s.min() for s in steps)), int(max(s.max() for s in steps))
        alphabet = [chr(i) for i in range(most - least + 1)]
        letters = sorted({piece for character in alphabet for piece in _bytes(character)})
        if len(letters) > size:
            raise UserError(f"FAST: expected a size of at least {len(letters)} for these actions, got {size}")
        tokenizer = Tokenizer(BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        made = cls(tokenizer, scale, least)
        trainer = BpeTrainer(
            vocab_size=size,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=letters,
            max_token_length=10_000,
        )
        texts = (text for chunk in chunks for text in made._written(chunk))
        tokenizer.train_from_iterator(texts, trainer)
        return made

    # --- files ---------------------------------------------------------------------------------------------

    def save(self, directory: str | Path) -> Path:
        """Write the published processor's files, which its own code reads too (`AutoProcessor`).

        A reader finds the old ones or the new ones.
        """
        directory = Path(directory).absolute()
        fresh = directory.with_name(f".{directory.name}.{os.getpid()}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        config = {
            "processor_class": "UniversalActionProcessor",
            "auto_map": {"AutoProcessor": CODE},
            "scale": self.scale,
            "min_token": self.least,
            "vocab_size": self.size,
            "time_horizon": None,
            "action_dim": None,
        }
        # Spaces are numbers here, not spaces: nothing may be tidied.
        words = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        (fresh / CONFIG).write_text(json.dumps(config, indent=1))
        (fresh / ABOUT_TOKENS).write_text(json.dumps(words, indent=1))
        self.tokenizer.save(str(fresh / TOKENS))
        directory.mkdir(parents=True, exist_ok=True)
        for name in (TOKENS, ABOUT_TOKENS, CONFIG):
            os.replace(fresh / name, directory / name)
        fresh.rmdir()
        return directory

    @classmethod
    def load(cls, directory: str | Path) -> FAST:
        """UserError if a file is missing, cannot be read, or does not fit the other."""
        directory = Path(directory)
        nested = directory / NESTED / TOKENS
        try:
            config = json.loads((directory / CONFIG).read_text())
            tokenizer = Tokenizer.from_file(str(nested if nested.is_file() else directory / TOKENS))
            made = cls(tokenizer, config["scale"], config["min_token"])
        except KeyError as error:
            raise UserError(f"FAST: expected {error} in {directory / CONFIG}, found none") from error
        except Exception as error:  # tokenizers raises bare Exceptions
            raise UserError(f"FAST: {directory} cannot be read ({error})") from error
        if not made.scale > 0:
            raise UserError(f"FAST: expected a scale above 0 in {directory / CONFIG}, got {made.scale:g}")
        if made.size > config.get("vocab_size", made.size):
            raise UserError(f"FAST: expected {config['vocab_size']} tokens in {directory}, got {made.size}")
        return made


def _bytes(character: str) -> str:
    """How byte-level BPE writes a character: one letter for each of its bytes."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(character)[0][0]
