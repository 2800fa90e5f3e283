"""What the benchmarks share: fair timing, networks with random weights, a table and a JSON file.

Everything that knows how our inference is built inside stands in the last part, "ours, piece by piece".
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from agent.evaluation.provenance import hardware
from agent.levels import Levels, Look
from agent.policy import Policy
from agent.prompted import PromptedPolicy
from backbone import checkpoint, family
from backbone.config import Preset
from backbone.errors import UserError
from backbone.inference import Run
from backbone.network import Network
from backbone.observation import Observation
from backbone.words import Words
from highlevel.decoding import Writing
from highlevel.learned import ALPHABET
from highlevel.plan import Plan

Call = Callable[[], Any]
MODES = ("eager", "compiled", "graphs")


@dataclass
class Settings:
    threads: int = 1  # of the CPU
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the matrices
    attention: Literal["auto", "math", "sdpa", "folded"] = "auto"  # of our networks
    seconds: float = 15.0  # spent on each comparison once it is warm, at least three rounds
    seed: int = 0
    out: Path | None = None  # a JSON file for the numbers

    def begin(self) -> torch.device:
        """Set the threads; UserError if the device is not there."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device: expected a CUDA device for 'cuda', found none")
        if self.threads < 1:
            raise UserError(f"threads: expected at least 1, got {self.threads}")
        torch.set_num_threads(self.threads)
        return torch.device(self.device)

    @property
    def kind(self) -> torch.dtype:
        return getattr(torch, self.dtype)


# --- timing ----------------------------------------------------------------------------------------------


@dataclass
class Timing:
    """Milliseconds of every round."""

    ms: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.ms)

    @property
    def p95(self) -> float:
        return float(np.percentile(self.ms, 95))

    def times(self, other: Timing) -> float:
        """How many times as long as the other, in the median over rounds: neighbours share their weather."""
        return statistics.median(mine / theirs for mine, theirs in zip(self.ms, other.ms, strict=True))

    def to_dict(self) -> dict[str, float]:
        return {"median_ms": self.median, "p95_ms": self.p95, "rounds": len(self.ms)}


def compare(
    calls: Mapping[str, Call], seconds: float, device: torch.device, least: int = 3, most: int = 300
) -> dict[str, Timing]:
    """Time some calls in turn, every round in another order, after one round that does not count."""
    found = {name: Timing() for name in calls}
    names = list(calls)
    for call in calls.values():
        call()
    finished, begun = 0, time.perf_counter()
    while finished < least or (finished < most and time.perf_counter() - begun < seconds):
        first = finished % len(names)
        for name in names[first:] + names[:first]:
            found[name].ms.append(once(calls[name], device))
        finished += 1
    return found


def once(call: Call, device: torch.device) -> float:
    """Milliseconds of one call; on a GPU until its work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - begun) * 1e3


# --- what is shown ---------------------------------------------------------------------------------------


def machine(settings: Settings) -> dict[str, Any]:
    here = hardware()
    about = {
        "processor": here["cpu"],
        "cores": here["cores"],
        "threads": settings.threads,
        "load": round(os.getloadavg()[0], 1),  # over the last minute, ourselves among it: others disturb
        "torch": torch.__version__,
        "device": settings.device,
        "dtype": settings.dtype,
    }
    if "gpu" in here:
        about["gpu"] = here["gpu"]
    return about


def show(settings: Settings, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on the terminal, the machine under it. Numbers get three digits."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*[_plain(cell) for cell in row])
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in machine(settings).items()), soft_wrap=True)


def _plain(cell: Any) -> str:
    if not isinstance(cell, float):
        return "" if cell is None else str(cell)
    return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.3g}"


def save(settings: Settings, record: Mapping[str, Any]) -> None:
    """The numbers as JSON, whole or not at all."""
    if settings.out is None:
        return
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    fresh = settings.out.with_name(f".{settings.out.name}.{os.getpid()}.new")
    fresh.write_text(json.dumps({"machine": machine(settings), **record}, indent=1))
    os.replace(fresh, settings.out)


def against(found: Mapping[str, dict], wished: Callable[[str, str], float | None]) -> tuple[Sequence, list]:
    """Columns and rows of "rows" {"part, way": timing} and "floor_ms" {part: ms} at each size. wished(part,
    way): how many times as long as ours a way should take, if anybody said.
    """
    rows = []
    for size, record in found.items():
        for name, row in record["rows"].items():
            part, way = name.split(", ", 1)
            cells = row["median_ms"], row["p95_ms"], row["times_ours"], wished(part, way)
            rows.append((size, part, way, *cells))
        for part, ms in record["floor_ms"].items():
            rows.append((size, part, "floor", ms, None, ms / record["rows"][f"{part}, ours"]["median_ms"]))
    return ("size", "part", "way", "ms", "p95", "times ours", "wished, at least"), rows


def report(
    settings: Settings, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], record: dict
) -> dict:
    """Show the rows, save the record, and return it."""
    show(settings, title, columns, rows)
    save(settings, record)
    return record


def command(main: Callable[[Any], dict], options: type, about: str) -> None:
    """A benchmark from the command line; what is wrong with it in one line."""
    try:
        main(tyro.cli(options, description=about))
    except UserError as error:
        sys.exit(f"error: {error}")


# --- networks with random weights ------------------------------------------------------------------------

# Between a network for tests ("tiny") and a published one ("full"): the tower, the decoder's width, depth,
# heads and MLP, the expert's width and MLP, tokens per side of a picture, words.
SIZES = {
    "small": ({"width": 128, "depth": 4, "heads": 4, "mlp": 512}, (256, 6, 4, 1024), (128, 512), 8, 2048),
    "mid": ({"width": 256, "depth": 4, "heads": 4, "mlp": 1024}, (512, 8, 8, 2048), (256, 1024), 16, 8192),
}


def sized(name: str, size: str, frames: int = 1, **changes) -> Preset:
    """A member of the π family, "tiny", "small", "mid" or "full"; `changes` are fields of `family.Sizes`.
    frames: if more than 1, of the vision, whose every fourth block then looks back.

    mid: 2 cameras of 224 pixels give 256 tokens each; width 512, 8 layers, some 50 million weights.
    """
    base = family.build(name, size != "full")
    vision = base.cameras[0][1]
    if frames > 1:
        vision = replace(vision, frames=frames, spacetime_every=4)
    if size in ("tiny", "full"):
        return family.build(name, size == "tiny", vision=asdict(vision), **changes)
    if size not in SIZES:
        raise UserError(f"size: expected one of tiny, {', '.join(SIZES)}, full, got '{size}'")
    eye, (width, depth, heads, mlp), (expert_width, expert_mlp), side, words = SIZES[size]
    shape = {"depth": depth, "heads": heads, "head_dim": 64, "stretch": (), "windows": ()}
    shape["thetas"] = tuple((base.decoder.thetas * depth)[:depth])
    vision = replace(vision, image_size=side * vision.pool * vision.patch, **eye)
    parts = {
        "vision": asdict(vision),
        "decoder": replace(base.decoder, width=width, mlp=mlp, **shape),
        "words": words, "horizon": 50, "action_dim": 32, "state_dim": 32, "prompt": 64,
        "steps": family.build(name).steps,
    }  # fmt: skip
    if base.expert:
        parts["expert"] = replace(base.expert, width=expert_width, mlp=expert_mlp, **shape)
    return replace(family.build(name, True, **(parts | changes)), name=f"{name}_{size}")


def random_network(preset: Preset, settings: Settings) -> Network:
    """Weights that keep numbers at an ordinary size. The rows of the marks (<pad>, <eos>, <bos>) are zero, so
    their scores are, some other word always wins, and texts are as long as their segment.
    """
    device = torch.device(settings.device)
    network = checkpoint.empty(replace(preset, attention=settings.attention), settings.kind, device)
    generator = torch.Generator(device).manual_seed(settings.seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            fan_in = parameter.shape[1:].numel() if parameter.dim() > 1 else 100
            parameter.normal_(std=fan_in**-0.5, generator=generator)
            if name.endswith(("_norm.dense.weight", "expert.norm.dense.weight")):
                parameter.mul_(0.3)
        # Words would follow themselves for ever if embeddings drowned what layers bring, or if attention were
        # the same average of everything for every query.
        network.text.table.weight.mul_(0.1)
        for block in network.decoder.blocks:
            c = block.config
            if c.qk_norm:
                block.q_norm.weight.add_(9)
            else:
                block.qkv.weight[: (c.heads + c.kv_heads) * c.head_dim].mul_(4)
        network.text.table.weight[: len(MARKS)] = 0
    return network.eval()


MARKS = ("<pad>", "<eos>", "<bos>", "<unk>")
KNOWN = 90  # words of the tokenizer; networks may have more


def fake_words() -> Words:
    """A tokenizer whose every word is one token: "word4" is token 4."""
    vocabulary = {mark: at for at, mark in enumerate((*MARKS, "\n"))}
    vocabulary |= {f"word{at}": at for at in range(len(vocabulary), KNOWN)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("\n"), "isolated"),
            pre_tokenizers.Split(Regex(" +"), "removed"),
        ]
    )
    marks = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return Words(PreTrainedTokenizerFast(tokenizer_object=backend, **marks))


def random_policy(preset: Preset, settings: Settings) -> PromptedPolicy:
    dims = {"state": preset.state_dim, "actions": preset.action_dim}
    network = random_network(preset, settings)
    return PromptedPolicy(network, fake_words(), "openpi_libero", dims, seed=settings.seed)


def random_look(
    preset: Preset, seed: int = 0, cameras: int | None = None, tokens: int = 0, frames: int = 1
) -> Observation:
    """Noise before the first `cameras` cameras (all by default), now and before; a prompt of `tokens` (as
    many as there is room for by default).
    """
    rng = np.random.default_rng(seed)
    vision = preset.cameras[0][1]
    past = (frames,) if frames > 1 else ()
    names = [name for name, _ in preset.cameras][:cameras]
    shape = (*past, vision.image_size, vision.image_size, 3)
    images = {name: rng.integers(0, 256, shape, np.uint8) for name in names}
    state = rng.uniform(-1, 1, (*past, preset.state_dim)).astype(np.float32)
    tokens = tokens or preset.layout["prompt"].length
    task = " ".join(f"word{i}" for i in rng.integers(len(MARKS) + 1, KNOWN, tokens - 2))  # <bos> ... \n
    return Observation(images, state, task, history=np.ones(past, bool) if past else None)


# --- ours, piece by piece --------------------------------------------------------------------------------


def prepare(policy: Levels, mode: str) -> str:
    """Set how a policy computes; "" or why it cannot be had."""
    try:
        policy.prepare(mode)
    except UserError as error:
        return str(error)
    return "" if policy.engine.how == mode else f"stays {policy.engine.how}"


def prefilled(policy: PromptedPolicy, look: Observation, run: Run | None = None) -> Run:
    """A look's pictures and words, read."""
    run = run.reset() if run else apart(policy)
    run.read(run.layout.context, policy.reader.inputs(look, look.instruction), keep=())
    return run


def step_batch(policy: Levels, looks: Sequence[Observation]) -> Sequence:
    """Several agents at once."""
    return policy.step_batch([Look(look) for look in looks])


def apart(policy: Levels) -> Run:
    """A store of its own: the policy's is used by whatever is timed in between."""
    engine = copy.copy(policy.engine)
    engine.forget()
    return engine.look()


def writing(policy: PromptedPolicy, look: Observation, previous: Plan | None = None) -> Call:
    """A call that writes the subtask's ids again and again onto what has been read once."""
    run, planner = prefilled(policy, look), policy.planner
    guess = [planner.guess(previous)]

    def write() -> list[int]:
        with policy.engine.quietly():
            return list(Writing(run, planner.alphabet, guess).finish(read=False)[0].texts[0])

    return write


def chunking(policy: PromptedPolicy, look: Observation) -> Call:
    """A call that makes a chunk (H, A) again and again from what has been read (and written) once."""
    run = prefilled(policy, look)
    if policy.planner is not None:
        Writing(run, policy.planner.alphabet).finish()

    def chunk() -> np.ndarray:
        with policy.engine.quietly():
            return policy.controller.act_on(run, [look], [""], [None])[0].actions

    return chunk


def nano_writing(policy: Policy, look: Observation, memory: str, previous: Plan | None) -> Call:
    """A call that writes (or confirms) nano's plan again and again onto what has been read once."""
    planner, run = policy.planner, apart(policy)
    run.read(planner.context, planner.inputs([look], [memory]), planner.keep)
    guess = [(previous.tokens,) if previous is not None else None]

    def write() -> tuple[int, ...]:
        with policy.engine.quietly():
            return Writing(run, ALPHABET, guess).finish(read=False)[0].texts[0]

    return write
