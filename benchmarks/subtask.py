"""How fast a subtask is written, against what is usually done, with equal weights and equal tokens.

    python benchmarks/subtask.py [--preset pi05_subtask] [--sizes tiny mid] [--tokens 24] [--threads 2]

- no cache: the whole prefix and the text so far through the decoder for every token, as in the published
  diagram. Its pictures are encoded once, which the diagram does not promise.
- growing cache: the prefix is read once, then one token at a time, keys and values joined with torch.cat. It
  leaves out padding and, for single tokens, the mask; it uses our blocks, and so our kernels and precision.
- ours: what `Policy.plan` does. Confirming the last plan is timed apart: nothing is written anew.

"subtask": from the observation to the text. "writing": the text alone, onto a prefix that has been read. All
have to give the same tokens. Ratios are medians over rounds in which every way has its turn. "floor": the
least that the device as measured here allows any of them that has a cache (benchmarks/floor.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import floor
import measure
import torch
import tyro
from torch import Tensor

from agent.prompted import PromptedPolicy
from backbone.attention import mask_bias
from backbone.cache import Collect
from backbone.errors import UserError
from backbone.observation import Observation

WISHED = {"no cache": 10.0, "growing cache": 2.0}  # times as long as ours, at 24 tokens


@dataclass
class Options(measure.Settings):
    preset: str = "pi05_subtask"  # of the π family, one that writes subtasks on plain text positions
    sizes: tuple[Annotated[str, tyro.conf.arg(metavar="tiny|small|mid|full")], ...] = ("tiny", "mid")
    tokens: int = 24
    prompt: int = 64  # tokens of the prompt, none of them padding
    cameras: int = 2
    mode: Literal["eager", "compiled", "graphs"] = "eager"  # of ours
    profile: bool = False  # of our writing, by operation


# --- what is usually done --------------------------------------------------------------------------------


class Growing(Collect):
    """Keys and values of all layers, longer with every token."""

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if layer == len(self.keys):
            return super().extend(layer, k, v)
        self.keys[layer] = torch.cat((self.keys[layer], k), 1)
        self.values[layer] = torch.cat((self.values[layer], v), 1)
        return self.keys[layer], self.values[layer]


class Usual:
    """A network's planner without our inference: the tokens of a prefix, and the decoder called on them."""

    def __init__(self, policy: PromptedPolicy, look: Observation, tokens: int):
        self.policy, self.network, self.look, self.tokens = policy, policy.network, look, tokens
        layout = self.network.layout.inference
        lengths = (("prompt", len(look.instruction.split()) + 2),)  # <bos> ... \n
        self.prefix = layout.select(layout.context, lengths)
        names = (*self.prefix.names, "response")
        whole = layout.select(names, (*lengths, ("response", tokens)))
        self.mask = whole.mask(torch.ones(1, whole.length, dtype=torch.bool, device=self.network.device))
        if layout.positions != "packed" or self.network.modality is not None:
            raise UserError(
                f"preset: expected plain positions and embeddings, '{policy.network.preset.name}'"
            )

    def embed(self) -> Tensor:
        return self.network.embed(self.prefix, self.policy.reader.inputs(self.look, self.look.instruction))[0]

    def decode(self, x: Tensor, memory: Collect, first: int = 0) -> int:
        """x (1, n, width), the tokens from position `first` on -> the word that comes next."""
        end, bias = first + x.shape[1], None
        if x.shape[1] > 1:
            bias = mask_bias(self.mask[:, first:end, :end], x.dtype)
        positions = torch.arange(first, end, device=x.device)
        hidden = self.network.decoder(x, positions, bias, memory)
        return int(self.network.logits(hidden[:, -1]).argmax(-1))

    def word(self, token: int) -> Tensor:
        return self.network.text(torch.tensor([[token]], device=self.network.device))

    @torch.inference_mode()
    def no_cache(self) -> list[int]:
        x, ids = self.embed(), [self.policy.reader.words.bos]
        for _ in range(self.tokens):
            x = torch.cat((x, self.word(ids[-1])), 1)
            ids.append(self.decode(x, Collect()))
        return ids

    @torch.inference_mode()
    def read(self) -> Growing:
        memory = Growing()
        self.decode(self.embed(), memory)
        return memory

    @torch.inference_mode()
    def grow(self, read: Growing) -> list[int]:
        memory = Growing()  # what is joined is new: the prefix itself stays as it was
        memory.keys, memory.values = list(read.keys), list(read.values)
        ids = [self.policy.reader.words.bos]
        for at in range(self.tokens):
            ids.append(self.decode(self.word(ids[-1]), memory, self.prefix.length + at))
        return ids

    def growing(self) -> list[int]:
        return self.grow(self.read())


# --- the comparison --------------------------------------------------------------------------------------


def made(options: Options, size: str) -> tuple[PromptedPolicy, Observation]:
    names = tuple(f"camera{i}" for i in range(options.cameras))
    sizes = {"cameras": names, "prompt": options.prompt, "response": options.tokens + 1}
    preset = measure.sized(options.preset, size, **sizes)
    policy = measure.random_policy(preset, options)
    if policy.planner is None:
        raise UserError(f"preset: expected one that writes subtasks, got '{options.preset}'")
    missing = measure.prepare(policy, options.mode)
    if missing:
        raise UserError(f"mode: '{options.mode}' cannot be had ({missing})")
    return policy, measure.random_look(preset, options.seed)


def checked(policy: PromptedPolicy, look: Observation, count: int) -> list[int]:
    """Our tokens; AssertionError unless every way writes them."""
    usual, tokens = Usual(policy, look, count), list(policy.plan(look).tokens)
    same("no cache", usual.no_cache(), tokens)
    same("growing cache", usual.growing(), tokens)
    same("writing", measure.writing(policy, look)(), tokens)
    return tokens


def same(name: str, found: list[int], tokens: list[int]) -> None:
    if found != tokens:
        raise AssertionError(f"{name}: expected our tokens {tokens}, got {found}")


def measured(options: Options, size: str) -> dict:
    device = options.begin()
    # Half precision rounds every way differently, and random networks are seldom sure: equal in float32.
    exact, look = made(replace(options, dtype="float32", mode="eager"), size)
    tokens = checked(exact, look, options.tokens)
    alike = options.dtype == "float32"
    plain = exact if alike else made(replace(options, mode="eager"), size)[0]
    policy = plain if options.mode == "eager" else made(options, size)[0]
    usual, plan = Usual(plain, look, options.tokens), policy.plan(look)
    if alike:
        same(options.mode, list(plan.tokens), tokens)
    del exact
    calls = {
        "no cache": usual.no_cache,
        "growing cache": usual.growing,
        "ours": lambda: policy.plan(look),
    }
    confirmed = policy.plan(look, previous=plan)
    if confirmed.origin == "confirmed":
        calls["ours, confirming"] = lambda: policy.plan(look, previous=plan)
    whole = measure.compare(calls, options.seconds, device)

    memory, write = usual.read(), measure.writing(policy, look)
    calls = {"growing cache": lambda: usual.grow(memory), "ours": write}
    alone = measure.compare(calls, options.seconds / 3, device)
    if options.profile:
        profile(write, size)
    rows = {}
    for part, timings in (("subtask", whole), ("writing", alone)):
        for name, timing in timings.items():
            times = timing.times(timings["ours"])
            rows[f"{part}, {name}"] = timing.to_dict() | {"times_ours": times}
    can = floor.measured(device, options.kind, min(1.0, options.seconds))
    sizes = (options.cameras, options.prompt, options.tokens)
    least = floor.parts(policy.network.preset, *sizes, size=options.kind.itemsize)
    prefill, written = (least[part].ms(can) for part in ("prefill", "plan"))
    return {
        "weights": sum(p.numel() for p in policy.network.parameters()),
        "prefix": usual.prefix.length,
        "tokens": tokens,
        "floor_ms": {"subtask": prefill + written, "writing": written},
        "rows": rows,
    }


def profile(write: measure.Call, size: str) -> None:
    """Where the time of our writing goes: by operation, and outside of any."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        write()
    print(f"our writing, {size}")
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=18, max_name_column_width=40))


def main(options: Options) -> dict:
    if options.tokens < 1 or options.prompt < 3:
        raise UserError(f"tokens: expected some, and 3 in a prompt, got {options.tokens}, {options.prompt}")
    found = {size: measured(options, size) for size in options.sizes}
    columns, rows = measure.against(found, lambda part, way: WISHED.get(way) if part == "subtask" else None)
    record = {"benchmark": "subtask", "preset": options.preset, "mode": options.mode, "sizes": found}
    return measure.report(options, f"{options.preset}: {options.tokens} tokens", columns, rows, record)


if __name__ == "__main__":
    measure.command(main, Options, __doc__)
