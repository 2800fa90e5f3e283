"""How fast a chunk of actions is made, against stock transformers modules run as the public code runs them.

    python benchmarks/chunks.py [--sizes tiny mid] [--threads 2] [--mode compiled]

Both have the same weights, the same prefix and the same noise, and have to make the same actions. "chunk": N
denoising steps on a prefix that has been read. "policy step": pictures and words in, actions out. The other
side is benchmarks/stock.py: eager attention, a copy of the prefix cache, mask, time and AdaRMS in every step,
cameras one by one. Ratios are medians over rounds in which both have their turn. "floor": the least that the
device as measured here allows either of them (benchmarks/floor.py); means little where it is far below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import floor
import measure
import numpy as np
import torch
import tyro
from stock import StockPi05

from agent.prompted import PromptedPolicy
from backbone.errors import UserError
from backbone.observation import Observation

WISHED = {"chunk": 2.0}  # times as long as ours
EQUAL = {"float32": 1e-4, "bfloat16": 0.1}  # between actions of about 1


@dataclass
class Options(measure.Settings):
    sizes: tuple[Annotated[str, tyro.conf.arg(metavar="tiny|small|mid|full")], ...] = ("tiny", "mid")
    prompt: int = 64  # tokens that there is room for
    words: int = 64  # tokens of the prompt, the rest is padding (public code: room for 200)
    cameras: int = 2
    steps: int = 10
    mode: Literal["eager", "compiled", "graphs"] = "eager"  # of ours


class Public:
    """The stock modules behind our reader, so that both sides start from the same observation."""

    def __init__(self, policy: PromptedPolicy, options: Options):
        preset = policy.network.preset
        self.policy, self.steps = policy, options.steps
        self.modules = StockPi05(preset).eval()
        generator = torch.Generator().manual_seed(options.seed)
        with torch.no_grad():
            for name, parameter in self.modules.named_parameters():
                fan_in = parameter.shape[1:].numel() if parameter.dim() > 1 else 100
                parameter.normal_(std=fan_in**-0.5 * (0.3 if ".dense." in name else 1), generator=generator)
        self.modules.to(options.device)
        self.modules.share_weights(policy.network)
        if options.dtype == "bfloat16":
            self.modules.halve()

    def prefill(self, look: Observation):
        inputs = self.policy.reader.inputs(look, look.instruction)
        length = self.modules.preset.layout["prompt"].length
        ids = torch.nn.functional.pad(inputs["prompt_ids"], (0, length - inputs["prompt_ids"].shape[1]))
        images = [picture.permute(0, 3, 1, 2).float() / 127.5 - 1 for picture in inputs["images"].values()]
        return self.modules.prefill(images, ids, ids != 0)

    def chunk(self, read, seed: int) -> np.ndarray:
        p = self.modules.preset
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, p.horizon, p.action_dim, generator=generator).to(self.policy.network.device)
        return self.modules.chunk(*read, noise, self.steps)[0].cpu().numpy()


def measured(options: Options, size: str) -> dict:
    device = options.begin()
    names = tuple(f"camera{i}" for i in range(options.cameras))
    preset = measure.sized("pi05", size, cameras=names, prompt=options.prompt, steps=options.steps)
    policy = measure.random_policy(preset, options)
    look = measure.random_look(preset, options.seed, tokens=min(options.words, options.prompt))
    public = Public(policy, options)
    missing = measure.prepare(policy, options.mode)
    if missing:
        raise UserError(f"mode: '{options.mode}' cannot be had ({missing})")

    policy.reset(options.seed)
    ours = policy.act(look, look.instruction).actions
    read = public.prefill(look)
    away = float(np.abs(public.chunk(read, options.seed) - ours).max())
    if not away <= EQUAL[options.dtype]:
        raise AssertionError(f"actions: expected the stock modules' to {EQUAL[options.dtype]}, {away} away")
    both = {
        "chunk": {
            "stock": lambda: public.chunk(read, options.seed),
            "ours": measure.chunking(policy, look),
        },
        "policy step": {
            "stock": lambda: public.chunk(public.prefill(look), options.seed),
            "ours": lambda: policy.act(look, look.instruction),
        },
    }
    rows = {}
    for part, calls in both.items():
        timings = measure.compare(calls, options.seconds, device)
        for name, timing in timings.items():
            rows[f"{part}, {name}"] = timing.to_dict() | {"times_ours": timing.times(timings["ours"])}
    can = floor.measured(device, options.kind, min(1.0, options.seconds))
    least = floor.parts(
        preset, options.cameras, len(look.instruction.split()) + 2, 0, size=options.kind.itemsize
    )
    chunk, prefill = (least[part].ms(can) for part in ("chunk", "prefill"))
    return {
        "weights": sum(p.numel() for p in policy.network.parameters()),
        "prefix": int(read[1].shape[1]),
        "largest_difference": away,
        "floor_ms": {"chunk": chunk, "policy step": prefill + chunk},
        "rows": rows,
    }


def main(options: Options) -> dict:
    found = {size: measured(options, size) for size in options.sizes}
    columns, rows = measure.against(found, lambda part, way: WISHED.get(part) if way == "stock" else None)
    record = {"benchmark": "chunks", "mode": options.mode, "steps": options.steps, "sizes": found}
    return measure.report(options, f"pi05: a chunk in {options.steps} steps", columns, rows, record)


if __name__ == "__main__":
    measure.command(main, Options, __doc__)
