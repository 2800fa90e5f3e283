"""Words to numbers for networks trained from scratch: a closed word-level vocabulary with location tokens."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel

from backbone.errors import UserError

PAD, UNK, BOS, EOS, POINT, MEMORY, SUBTASK, SCENE = range(8)
SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>", "<point>", "Updated Memory:", "Subtask:", "Scene:")
LOC_BINS = 1024
_LOCS = tuple(f"<loc{i:04d}>" for i in range(LOC_BINS))


class Tokenizer:
    """Ids: the specials (0..7), the words, then <loc0000> .. <loc1023>. Case and punctuation do not count."""

    def __init__(self, backend: Backend):
        self.backend = backend
        vocab = backend.get_vocab()
        for number, token in enumerate(SPECIALS):
            if vocab.get(token) != number:
                raise UserError(f"tokenizer: expected {token!r} to have id {number}, got {vocab.get(token)}")
        self.loc_start = vocab.get(_LOCS[0], -1)
        self.size = len(vocab)
        if self.loc_start < 0 or self.loc_start + LOC_BINS != self.size:
            raise UserError("tokenizer: expected the location tokens to be the last 1024 ids")
        self.words = self.loc_start  # ids below this are words and specials
        self._tokens = [token for token, _ in sorted(vocab.items(), key=lambda item: item[1])]

    @classmethod
    def from_words(cls, words: Iterable[str]) -> Tokenizer:
        """A vocabulary of these words (any order, lower-cased, split at spaces)."""
        known = sorted({part for word in words for part in _plain(word).split()})
        vocab = {token: i for i, token in enumerate((*SPECIALS, *known, *_LOCS))}
        backend = Backend(WordLevel(vocab, unk_token="<unk>"))
        backend.normalizer = normalizers.Sequence(
            [normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\w\s]"), " ")]
        )
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.add_special_tokens(
            [AddedToken(t, special=True, normalized=False) for t in (*SPECIALS, *_LOCS)]
        )
        return cls(backend)

    def ids(self, text: str) -> list[int]:
        """The token ids of a text, without padding."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode(self, text: str, length: int) -> list[int]:
        """Ids, padded with 0 to `length`; UserError if the text is longer."""
        ids = self.ids(text)
        if len(ids) > length:
            raise UserError(f"text: expected at most {length} words and tokens, got {len(ids)} in {text!r}")
        return ids + [PAD] * (length - len(ids))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids without <pad>, <bos>, <eos>, <point>; location tokens stick together."""
        hidden = (PAD, BOS, EOS, POINT)
        text = " ".join(self._tokens[int(i)] for i in ids if int(i) not in hidden)
        return text.replace("> <loc", "><loc")

    def token(self, number: int) -> str:
        return self._tokens[number]

    def location(self, value: float) -> int:
        """The id of the location token of a coordinate in [0, 1)."""
        return self.loc_start + min(LOC_BINS - 1, max(0, int(value * LOC_BINS)))

    def unknown_words(self, text: str) -> list[str]:
        """The words of a text that are not in the vocabulary, in order."""
        for token in SPECIALS:
            text = text.replace(token, " ")
        words = re.sub(r"<loc\d{4}>", " ", text)
        return [w for w in _plain(words).split() if self.backend.token_to_id(w) is None]

    @property
    def fingerprint(self) -> str:
        """Says whether two tokenizers give every token the same id."""
        return hashlib.sha256(json.dumps(self._tokens).encode()).hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        self.backend.save(str(path))

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        try:
            return cls(Backend.from_file(str(path)))
        except UserError:
            raise
        except Exception as error:  # the library raises bare Exceptions
            raise UserError(f"tokenizer: cannot read {path}: {error}") from error


def _plain(text: str) -> str:
    return re.sub(r"[^\w\s]", " ", text.lower())
