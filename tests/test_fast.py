"""FAST tokens: there and back within the quantisation, files, and whatever a network may write."""

from __future__ import annotations

import json

import numpy as np
import pytest

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
    # Each coefficient is off by at most half a step, and the transform keeps lengths.
    error = np.linalg.norm(again - actions, axis=1)
    assert error.max() <= 0.5 / SCALE * np.sqrt(HORIZON) + 1e-6
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
    fast.save(tmp_path / "fast")
    config = json.loads((tmp_path / "fast" / CONFIG).read_text())
    assert config["scale"] == SCALE and config["min_token"] == fast.least
    again = FAST.load(tmp_path / "fast")
    assert again.encode(chunks(9)) == fast.encode(chunks(9))
    # The published files say more than we need.
    more = {"action_dim": None, "time_horizon": None, "processor_class": "UniversalActionProcessor"}
    (tmp_path / "fast" / CONFIG).write_text(json.dumps(config | more))
    assert FAST.load(tmp_path / "fast").scale == SCALE
    (tmp_path / "fast" / CONFIG).write_text("{}")
    with pytest.raises(UserError, match="expected 'scale'"):
        FAST.load(tmp_path / "fast")
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
