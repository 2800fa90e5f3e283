"""FAST tokens: there and back within the quantisation, files, and whatever a network may write."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.fft import dct

from backbone.errors import UserError
from lowlevel.fast import CONFIG, FAST

HORIZON, DIMS, SCALE = 12, 3, 10.0


def chunks(count: int, seed: int = 0) -> np.ndarray:
    """Smooth motions within [-1, 1]."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, HORIZON)[None, :, None]
    phase, rate, size = (rng.uniform(*r, (count, 1, DIMS)) for r in ((0, 6), (0.5, 3), (0.1, 1)))
    return size * np.sin(phase + rate * t)


@pytest.fixture(scope="module")
def fast():
    return FAST.fit(chunks(400), SCALE, size=400)


def test_it_comes_back_within_the_quantisation(fast):
    actions = chunks(50, seed=1)
    ids = fast.encode(actions)
    again = fast.decode(ids, HORIZON, DIMS)
    assert again.shape == actions.shape and again.dtype == np.float32
    # Each coefficient is off by at most half a step.
    error = dct(again - actions, axis=1, norm="ortho")
    assert 0.4 / SCALE < np.abs(error).max() <= 0.5 / SCALE + 1e-6
    assert np.mean([len(chunk) for chunk in ids]) < 0.6 * HORIZON * DIMS, "joined: fewer tokens than numbers"
    assert max(max(chunk) for chunk in ids) < fast.size


def test_what_a_network_may_write_gives_actions(fast):
    ids = fast.encode(chunks(1))[0]
    whole = fast.decode([ids], HORIZON, DIMS)[0]
    assert np.array_equal(fast.decode([ids + ids], HORIZON, DIMS)[0], whole), "what is too long is cut"
    for garbled in ([], ids[:3], ids[:-1], [10**6, -5, *ids], list(range(fast.size))):
        actions = fast.decode([garbled], HORIZON, DIMS)
        assert actions.shape == (1, HORIZON, DIMS) and np.isfinite(actions).all()
        assert np.abs(actions).max() < 4 * HORIZON
    assert not fast.decode([[]], HORIZON, DIMS).any()
    rng = np.random.default_rng(0)
    for _ in range(50):
        fast.decode([rng.integers(0, fast.size, rng.integers(0, 60)).tolist()], HORIZON, DIMS)


def test_the_files_of_the_published_processor(fast, tmp_path):
    from transformers import AutoTokenizer

    path = fast.save(tmp_path / "fast")
    config = json.loads((path / CONFIG).read_text())
    assert (config["scale"], config["min_token"], config["vocab_size"]) == (SCALE, fast.least, fast.size)
    assert config["time_horizon"] is None and config["action_dim"] is None
    assert config["processor_class"] == "UniversalActionProcessor" and "AutoProcessor" in config["auto_map"]
    assert FAST.load(path).encode(chunks(9)) == fast.encode(chunks(9))
    # The published code reads the tokenizer through transformers; characters are numbers there as well.
    theirs = AutoTokenizer.from_pretrained(path)
    codes = np.around(dct(chunks(9), axis=1, norm="ortho") * SCALE).reshape(9, -1) - fast.least
    texts = ["".join(map(chr, row.astype(int))) for row in codes]
    ids = fast.encode(chunks(9))
    assert theirs(texts).input_ids == ids
    assert [theirs.decode(row) for row in ids] == texts
    # What a processor's save_pretrained makes of it: the tokenizer in a folder of its own.
    (path / "bpe_tokenizer").mkdir()
    (path / "tokenizer.json").rename(path / "bpe_tokenizer/tokenizer.json")
    assert FAST.load(path).encode(chunks(9)) == ids


def test_files_that_are_wrong(fast, tmp_path):
    path = fast.save(tmp_path / "fast")
    good = json.loads((path / CONFIG).read_text())
    for change, words in (
        ({"scale": None}, "cannot be read"),
        ({"scale": 0}, "expected a scale above 0 in .*, got 0"),
        ({"vocab_size": 7}, f"expected 7 tokens in .*, got {fast.size}"),
    ):
        (path / CONFIG).write_text(json.dumps(good | change))
        with pytest.raises(UserError, match=words):
            FAST.load(path)
    for name in ("scale", "min_token"):
        (path / CONFIG).write_text(json.dumps({k: v for k, v in good.items() if k != name}))
        with pytest.raises(UserError, match=f"expected '{name}'"):
            FAST.load(path)
    with pytest.raises(UserError, match="cannot be read"):
        FAST.load(tmp_path / "nowhere")


def test_padding_and_bad_input(fast):
    ids, real, cut = fast.pad([[5, 6, 7], [8], []], 2)
    assert ids.tolist() == [[5, 6], [8, 0], [0, 0]] and real.sum(1).tolist() == [2, 1, 0] and cut == 1
    with pytest.raises(UserError, match=r"shape \(B, H, A\)"):
        fast.encode(np.zeros((3, 2)))
    with pytest.raises(UserError, match="finite"):
        fast.encode(np.full((1, 2, 3), np.nan))
    with pytest.raises(UserError, match="size of at least"):
        FAST.fit(chunks(20), SCALE, size=5)
    with pytest.raises(UserError, match="got none"):
        FAST.fit([])
