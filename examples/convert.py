"""Take published weights of the π family into a Steersman checkpoint, with an account of every key.

steersman convert lerobot/pi05_base runs/pi05 --preset pi05 --tokenizer google/paligemma-3b-pt-224
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from backbone import checkpoint, convert, published, statistics
from backbone.config import Preset
from backbone.errors import UserError
from backbone.network import Network
from backbone.prompts import prompt as prompt_format
from backbone.weights import Weights
from backbone.words import Words

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main(
    source: tyro.conf.Positional[str],
    out: tyro.conf.Positional[Path],
    preset_name: Annotated[str, tyro.conf.arg(name="preset")],
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
    tokenizer: str | None = None,
    prompt: str | None = None,
    horizon: int | None = None,
    stretch: float | None = None,
    warm_start: tuple[str, ...] = (),
    without_statistics: bool = False,
    lenient: bool = False,
) -> int:
    """Options of `steersman convert`.

    Args:
        source: a directory, a safetensors file or a hub id.
        out: where the checkpoint goes.
        preset_name: what it becomes, by name.
        dtype: of the weights.
        tokenizer: a directory or hub id, by default the source's own if it has one; it goes with the
            checkpoint, and the words between the segments are its.
        prompt: how the policy is told things (openpi, lerobot_0.4, openpi_libero, ...); the preset's usual
            one.
        horizon: actions of a chunk, where the source's config.json does not say it (openpi's LIBERO: 10).
        stretch: linear scaling of the global layers' rotary positions, where config.json does not say it: 8
            for Gemma 3's own weights, 1 for what OpenTau trained.
        warm_start: beginnings of our names that may start afresh ("state." from pi06 to pi07).
        without_statistics: convert although there is no normalisation with them; numbers go through as they
            are.
        lenient: convert although some keys are not understood; they are listed.
    """
    path = convert.source(source)
    weights = Weights(path)
    chosen, usual = published.settings(published.config(weights.directory), preset_name, horizon, stretch)
    how = prompt or usual
    prompt_format(how)  # an unknown one is a mistake before anything is read
    words = _words(tokenizer or published.tokenizer(weights.directory), chosen, source)
    chosen = published.with_words(chosen, words.encode) if words else chosen
    if warm_start:
        network = checkpoint.cast(Network(chosen), DTYPES[dtype])
    else:
        network = checkpoint.empty(chosen, DTYPES[dtype])
    report = convert.Report()
    try:
        convert.fill(network, weights.keys(), weights.read, warm_start, strict=not lenient, report=report)
    finally:
        print(report)
    dims = {}
    if not without_statistics:
        dims = statistics.put(network, statistics.find(weights.directory, weights), str(path))
    about = {"source": source, "dims": dims, "warm_start": list(warm_start), "prompt": how}
    checkpoint.save(out, network, None, about=about)
    if words:
        words.save(out)
    print(f"{out}: {sum(p.numel() for p in network.parameters()) / 1e6:,.1f} M parameters, {dtype}")
    return 0


def _words(tokenizer: str | Path | None, preset: Preset, source: str) -> Words | None:
    """The tokenizer, None where the network can do without; UserError if it does not fit or is needed."""
    unknown = ", ".join(map(repr, published.without_words(preset)))
    if tokenizer is None and unknown:
        expected = f"expected --tokenizer, for {unknown} of '{preset.name}'"
        raise UserError(f"tokenizer: {expected}, got none, and none lies in {source}")
    words = Words.load(tokenizer) if tokenizer else None
    if words and words.size > preset.words:
        raise UserError(
            f"tokenizer: expected at most {preset.words} ids for '{preset.name}', got {words.size}"
        )
    return words


if __name__ == "__main__":
    import sys

    from steersman.cli import run

    sys.exit(run("examples.convert", "convert.py", sys.argv[1:]))
