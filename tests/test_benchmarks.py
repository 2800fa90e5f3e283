"""Every benchmark at its smallest: it runs, writes its figures whole, and what is compared does the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from backbone.errors import UserError

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import chunks  # noqa: E402
import full_size  # noqa: E402
import growth  # noqa: E402
import measure  # noqa: E402
import subtask  # noqa: E402
import tick  # noqa: E402
from measure import Timing  # noqa: E402

TIMED = {"median_ms", "p95_ms", "rounds"}


def run(benchmark, options) -> dict:
    """What it wrote, which is what it returned."""
    returned = benchmark.main(options)
    written = json.loads(options.out.read_text())
    assert {"processor", "cores", "torch", "device", "dtype"} <= set(written.pop("machine"))
    assert written == json.loads(json.dumps(returned))
    assert [file.name for file in options.out.parent.iterdir()] == [options.out.name]
    return written


# --- what is shared --------------------------------------------------------------------------------------


def test_ratios_are_taken_round_by_round():
    calm, busy = Timing([1.0, 2.0, 10.0]), Timing([2.0, 4.0, 20.0])
    assert busy.times(calm) == 2 and busy.median == 4 and busy.to_dict()["rounds"] == 3


def test_calls_take_turns():
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    found = measure.compare(calls, 0, torch.device("cpu"))
    assert "".join(order) == "ab" + "abbaab" and {len(t.ms) for t in found.values()} == {3}


def test_wrong_settings_are_refused():
    with pytest.raises(UserError, match="threads: expected at least 1, got 0"):
        measure.Settings(threads=0).begin()
    with pytest.raises(UserError, match="size: expected one of tiny, small, mid, full, got 'huge'"):
        measure.sized("pi05", "huge")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="expected a CUDA device"):
            measure.Settings(device="cuda").begin()


@pytest.mark.parametrize("name", ["pi05_subtask", "pi06"])
def test_random_networks_write_to_the_end_and_not_always_the_same(name):
    preset = measure.sized(name, "tiny", prompt=20, response=16)
    policy = measure.random_policy(preset, measure.Settings())
    tokens = policy.plan(measure.random_look(preset)).tokens
    assert len(tokens) == 16 and min(tokens[1:]) >= len(measure.MARKS) and len(set(tokens)) > 5


# --- every benchmark -------------------------------------------------------------------------------------


def test_all_ways_of_writing_a_subtask_write_the_same(tmp_path):
    options = subtask.Options(sizes=("tiny",), tokens=12, prompt=20, seconds=0, out=tmp_path / "out.json")
    found = run(subtask, options)["sizes"]["tiny"]
    policy = measure.random_policy(
        measure.sized("pi05_subtask", "tiny", prompt=20, response=13), measure.Settings()
    )
    usual = subtask.Usual(policy, measure.random_look(policy.network.preset), 12)
    assert found["tokens"] == usual.no_cache() == usual.growing() and len(found["tokens"]) == 13
    assert 0 < found["floor_ms"]["writing"] < found["floor_ms"]["subtask"]
    assert {"subtask, no cache", "subtask, growing cache", "writing, ours"} <= set(found["rows"])
    for row in found["rows"].values():
        assert set(row) == TIMED | {"times_ours"}
    assert found["rows"]["subtask, ours"]["times_ours"] == 1
    with pytest.raises(AssertionError, match="growing cache: expected our tokens"):
        subtask.same("growing cache", usual.growing()[:-1] + [5], found["tokens"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stock_modules_make_the_same_chunk(tmp_path, dtype):
    out = tmp_path / "out.json"
    options = chunks.Options(sizes=("tiny",), prompt=20, seconds=0, dtype=dtype, out=out)
    found = run(chunks, options)["sizes"]["tiny"]
    assert 0 < found["largest_difference"] < chunks.EQUAL[dtype]
    parts = {f"{part}, {way}" for part in ("chunk", "policy step") for way in ("stock", "ours")}
    assert set(found["rows"]) == parts and set(found["floor_ms"]) == {"chunk", "policy step"}
    for row in found["rows"].values():
        assert set(row) == TIMED | {"times_ours"}


def test_padding_and_noise_change_nothing_between_the_two(tmp_path):
    """The stock modules read 9 of 20 tokens, and another noise makes other actions."""
    options = chunks.Options(steps=3)
    policy = measure.random_policy(measure.sized("pi05", "tiny", prompt=20, steps=3), options)
    look = measure.random_look(policy.network.preset, tokens=9)
    public = chunks.Public(policy, options)
    policy.reset(7)
    ours, read = policy.act(look, look.instruction).actions, public.prefill(look)
    assert read[1].sum() == read[1].shape[1] - 11
    assert np.abs(public.chunk(read, 7) - ours).max() < 1e-4
    assert np.abs(public.chunk(read, 8) - ours).max() > 0.1
    assert np.abs(public.chunk(read, 7) - ours).max() < 1e-4, "the prefix cache is as it was"


def test_growth(tmp_path):
    out = tmp_path / "out.json"
    found = run(growth, growth.Options(size="tiny", prompt=20, few=True, seconds=0, out=out))
    assert [(row["what"], row["value"]) for row in found["rows"]] == [
        (what, value) for what, values in growth.WHAT.items() for value in (values[0], values[-1])
    ]
    for row in found["rows"]:
        parts = ("tick",) if row["what"] == "batch" else ("tick", "plan", "chunk")
        assert all(set(row[part]) == TIMED | {"times"} for part in parts)


def test_growth_draws(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "growth.png"
    growth.main(growth.Options(size="tiny", prompt=20, what=("cameras",), few=True, seconds=0, plot=path))
    assert path.read_bytes()[1:4] == b"PNG" and list(tmp_path.iterdir()) == [path]


def test_full_size_at_tiny_size(tmp_path):
    presets = ("pi05_tiny", "pi06_tiny")
    options = full_size.Options(
        presets=presets, cameras=(1, 3), modes=("eager",), tokens=3, seconds=0, out=tmp_path / "out.json"
    )
    found = run(full_size, options)
    assert found["device"]["flops"] > 1e9 and found["device"]["bandwidth"] > 1e8
    rows = {(row["preset"], row["cameras"]): row for row in found["rows"]}
    assert set(rows) == {(name, cameras) for name in presets for cameras in (1, 3)}
    assert {"prefill", "chunk", "observation to chunk"} <= set(rows["pi05_tiny", 1]["parts"])
    for name in ("prefill", "writing", "plan", "chunk", "tick"):
        assert rows["pi06_tiny", 3]["parts"][name]["floor_ms"] > 0
    one, three = (rows["pi06_tiny", n]["parts"]["prefill"]["gflops"] for n in (1, 3))
    assert one < three and all(row["peak_memory_mb"] > 0 for row in rows.values())
    assert full_size.wished("pi06", "tick", 3) == 45 and full_size.wished("pi06", "tick", 2) is None


def test_nano_on_real_looks(tmp_path):
    options = tick.Options(episodes=1, looks=3, cores=(1,), steps=(2,), out=tmp_path / "out.json")
    found = run(tick, options)
    parts = found["cores"]["1"]["parts"]
    assert {"plan", "written", "chunk, 2 steps", "tick, 2 steps"} <= set(parts)
    assert all(set(part) == TIMED for part in parts.values())
    if found["looks_confirmed"]:
        assert set(found["cores"]["1"]["shares"]) == {"confirmed / written", "plan confirmed / plan"}
    assert found["looks"] == 3 and found["tokens_per_plan"] > 3
