"""A tokenizer made of a dataset's own words, for small networks that start from nothing."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel

from backbone.family import WORD_LENGTHS
from backbone.prompts import METADATA, PROMPTS
from backbone.tokenizer import LOC_BINS
from backbone.words import Words

SPECIALS = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
PIECE = r"\d+|[^\W\d]+|[^\w\s]|\n"  # a number, a word, a mark, the end of a line


def vocabulary(texts: Iterable[str]) -> Words:
    """Words, the numbers of a state, marks and <loc0000> .. <loc1023>. Case does not count; what is in none
    of the texts is <unk>.
    """
    from transformers import PreTrainedTokenizerFast

    said = [*texts, *METADATA, *WORD_LENGTHS, "memory past -"]
    said += [
        re.sub(r"\{\w+\}|<eos>", " ", part) for p in PROMPTS.values() for part in (p.template, p.response)
    ]
    known = sorted({word for text in said for word in re.findall(PIECE, text.lower())})
    tokens = dict.fromkeys([*SPECIALS.values(), *map(str, range(256)), *known])
    model = Tokenizer(WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    model.normalizer = normalizers.Lowercase()
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[^\S\n]+"), "removed"),
            pre_tokenizers.Split(Regex(PIECE), "isolated"),
        ]
    )
    places = [f"<loc{i:04d}>" for i in range(LOC_BINS)]
    model.add_tokens([AddedToken(p, special=False, normalized=False) for p in places])
    return Words(PreTrainedTokenizerFast(tokenizer_object=model, **SPECIALS))


def size(words: Words) -> int:
    """The number of ids there are."""
    return max(words.tokenizer.get_vocab().values()) + 1


def fingerprint(words: Words) -> str:
    """Says whether two tokenizers give every token the same id."""
    known = sorted(words.tokenizer.get_vocab().items(), key=lambda item: item[1])
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


def knows_places(words: Words) -> bool:
    """Whether <loc0000> .. <loc1023> are tokens of their own."""
    marks = [f"<loc{i:04d}>" for i in (0, 412, LOC_BINS - 1)]
    return all(len(words.encode(m)) == 1 and words.decode(words.encode(m)) == m for m in marks)
