"""What is in a checkpoint, ours or a published one: sizes, and what each key would become."""

from __future__ import annotations

import re
from collections import Counter
from math import prod

import tyro

from backbone import convert, published, statistics
from backbone.weights import Weights


def main(source: tyro.conf.Positional[str]) -> int:
    """Options of `steersman inspect`.

    Args:
        source: a directory, a safetensors file or a hub id.
    """
    weights = Weights(convert.source(source))
    keys = list(weights.keys())
    four_norms = any("pre_feedforward_layernorm" in key for key in keys)
    rows: Counter = Counter()
    count = 0
    for key in keys:
        shape, ours = weights.shape(key), convert.becomes(key, four_norms)
        count += prod(shape)
        theirs, ours = (re.sub(r"\.\d+\.", ".N.", name) for name in (key, ours))
        rows[theirs, ours if ours != theirs else "(as it is)", str(shape), weights.dtype(key)] += 1
    for (theirs, ours, shape, dtype), n in sorted(rows.items()):
        print(f"{n:4d} x {dtype:5} {shape:20} {theirs}  ->  {ours}")
    print(f"{len(keys)} keys, {count / 1e6:,.1f} M numbers")
    ranges = statistics.find(weights.directory, weights)
    known = ", ".join(f"{len(low)} of {name}" for name, (low, _) in ranges.items())
    print(f"statistics: {known or 'none'}")
    print(f"tokenizer: {'beside the weights' if published.tokenizer(weights.directory) else 'none'}")
    return 0


if __name__ == "__main__":
    import sys

    from steersman.cli import run

    sys.exit(run("examples.inspect_weights", "inspect_weights.py", sys.argv[1:]))
