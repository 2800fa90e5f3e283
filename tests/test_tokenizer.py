"""Words, specials and locations keep their ids and survive the way to text and back."""

from __future__ import annotations

import pytest
import torch

from backbone.embeddings import TextEmbedding
from backbone.errors import UserError
from backbone.tokenizer import EOS, MEMORY, PAD, POINT, SPECIALS, SUBTASK, Tokenizer
from highlevel.plan import Target, parse_plan_text

TOKENIZER = Tokenizer.from_words(["pick up", "the", "red", "Block", "nothing", "no"])


def test_ids():
    assert TOKENIZER.size == TOKENIZER.words + 1024 == len(SPECIALS) + 7 + 1024
    ids = TOKENIZER.ids("Updated Memory: nothing Subtask: pick up the red block<point>")
    assert ids[0] == MEMORY and ids[2] == SUBTASK and ids[-1] == POINT and len(ids) == 9
    assert TOKENIZER.ids("done<eos>")[-1] == EOS
    assert TOKENIZER.encode("red", 3)[1:] == [PAD, PAD]
    assert max(TOKENIZER.ids("red <loc1023>")) == TOKENIZER.size - 1


def test_case_and_punctuation_do_not_count():
    assert TOKENIZER.ids("No, the RED block!") == TOKENIZER.ids("no the red block")


def test_locations_round_trip():
    target = Target(0.4031, 0.6155)
    text = f"pick up the red block {target.tokens}"
    ids = TOKENIZER.ids(text)
    assert ids[-2:] == [TOKENIZER.location(target.y), TOKENIZER.location(target.x)]
    assert TOKENIZER.decode(ids) == text
    words, read = parse_plan_text(TOKENIZER.decode(ids))
    assert words == "pick up the red block" and abs(read.y - target.y) < 1 / 1024
    assert TOKENIZER.location(1.5) == TOKENIZER.size - 1 and TOKENIZER.location(-1) == TOKENIZER.words


def test_unknown_and_long_texts():
    assert TOKENIZER.unknown_words("pick up the purple mug <loc0001><loc0002>") == ["purple", "mug"]
    assert TOKENIZER.unknown_words("Updated Memory: nothing Subtask: no") == []
    with pytest.raises(UserError, match="at most 2 words"):
        TOKENIZER.encode("pick up the", 2)


def test_save_and_load(tmp_path):
    TOKENIZER.save(tmp_path / "t.json")
    again = Tokenizer.load(tmp_path / "t.json")
    text = "Updated Memory: no, Subtask: pick up the Red block <loc0003><loc1000><point>"
    assert again.fingerprint == TOKENIZER.fingerprint and again.ids(text) == TOKENIZER.ids(text)
    assert Tokenizer.from_words(["other"]).fingerprint != TOKENIZER.fingerprint
    (tmp_path / "t.json").write_text('{"version": "1.0"')
    with pytest.raises(UserError, match="cannot read"):
        Tokenizer.load(tmp_path / "t.json")


def test_near_locations_embed_near_and_axes_differ():
    torch.manual_seed(0)
    embedding = TextEmbedding(TOKENIZER.words, 64, "fourier", False)
    base = TOKENIZER.words + 500
    with torch.no_grad():
        near, far = embedding(torch.tensor([[base, base], [base + 1, base], [base + 300, base]]))[:, 0][1:]
        first, second = embedding(torch.tensor([[base, base]]))[0]
        same = embedding(torch.tensor([[base, base]]))[0, 0]
    assert (near - same).norm() < 0.3 * (far - same).norm()
    assert not torch.allclose(first, second)
    assert TextEmbedding(TOKENIZER.words, 8, "table", True)(torch.tensor([[base]])).shape == (1, 1, 8)
