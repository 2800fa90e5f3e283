"""How fast the π family is at full size, random weights, against the least that the device allows.

    python benchmarks/full_size.py --device cuda                                   pi05, pi05_subtask, pi06
    python benchmarks/full_size.py --presets pi05_tiny pi06_tiny                   the same, tiny, on a CPU

For 1-3 cameras and every mode that the policy offers (eager, compiled, graphs): prefill, plan of 8 tokens,
confirm, chunk of 50, the whole tick, and peak memory. "floor" is computed from the preset and from the
device's rate and bandwidth, both measured here (benchmarks/floor.py); "times" is what we take over the floor.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass, replace
from typing import Literal

import floor
import measure
import torch
from floor import Cost

from agent.prompted import PromptedPolicy
from backbone import family
from backbone.errors import UserError

# ms on an H200: preset -> what -> (cameras, wished). chunk: from the observation to the actions.
WISHED = {
    "pi06": {"observation to chunk": (3, 30.0), "tick": (3, 45.0)},
    "pi05": {"observation to chunk": (2, 25.0)},
}
FLOORS = {  # the parts that each row is made of
    "prefill": ("prefill",),
    "writing": ("plan",),
    "plan": ("prefill", "plan"),
    "plan confirmed": ("prefill", "confirm"),
    "chunk": ("chunk",),
    "observation to chunk": ("prefill", "chunk"),
    "tick": ("prefill", "plan", "chunk"),
    "tick confirmed": ("prefill", "confirm", "chunk"),
}


@dataclass
class Options(measure.Settings):
    presets: tuple[str, ...] = ("pi05", "pi05_subtask", "pi06")
    cameras: tuple[int, ...] = (1, 2, 3)
    modes: tuple[Literal["eager", "compiled", "graphs"], ...] = measure.MODES
    tokens: int = 8  # of the plan
    prompt: int = 64  # tokens of it that are there; its segment is as long as ever
    chunk: int = 50
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    attention: Literal["math", "sdpa"] = "sdpa"
    seconds: float = 5.0


def calls(policy: PromptedPolicy, cameras: int, options: Options) -> dict[str, measure.Call]:
    """What is timed, from the observation on if nothing else is said."""
    look = measure.random_look(policy.network.preset, options.seed, cameras, options.prompt)
    if policy.planner is None:
        return {
            "prefill": lambda: measure.prefilled(policy, look),
            "chunk": measure.chunking(policy, look),
            "observation to chunk": lambda: policy.act(look, look.instruction),
        }
    plan, said = policy.plan(look), "word5 word6"
    found = {
        "prefill": lambda: measure.prefilled(policy, look),
        "writing": measure.writing(policy, look),
        "plan": lambda: policy.plan(look),
        "chunk": measure.chunking(policy, look),
        "observation to chunk": lambda: policy.act(look, said),
        "tick": lambda: policy.step(look),
    }
    if policy.plan(look, previous=plan).origin == "confirmed":
        found["plan confirmed"] = lambda: policy.plan(look, previous=plan)
        found["tick confirmed"] = lambda: policy.step(look, previous=plan)
    return found


def measured(options: Options, name: str, device: torch.device, can: floor.Device) -> list[dict]:
    known = {f"{n}{end}" for n in ("pi05", "pi05_subtask", "pi06") for end in ("", "_tiny")}
    if name not in known:
        raise UserError(f"preset: expected one of {', '.join(sorted(known))}, got '{name}'")
    small = name.endswith("_tiny")
    sizes = {"horizon": options.chunk}
    sizes |= {} if name.startswith("pi05") and "subtask" not in name else {"response": options.tokens + 1}
    sizes |= (
        {"prompt": max(64, options.prompt), "cameras": ("camera0", "camera1", "camera2")} if small else {}
    )
    preset = family.build(name.removesuffix("_tiny"), small, **sizes)
    if small:  # as many steps as at full size
        preset = replace(preset, steps=family.build(name.removesuffix("_tiny")).steps)
    policy = measure.random_policy(preset, options)
    rows: list[dict] = []
    for mode in options.modes:
        missing = measure.prepare(policy, mode)
        if missing:
            rows.append({"preset": name, "mode": mode, "missing": missing})
            continue
        for cameras in options.cameras:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            timings = measure.compare(calls(policy, cameras, options), options.seconds, device)
            size = options.kind.itemsize
            least = floor.parts(preset, cameras, options.prompt, options.tokens, size=size)
            parts = {}
            for part, timing in timings.items():
                cost = sum((least[p] for p in FLOORS[part]), Cost())
                ms = sum(least[p].ms(can) for p in FLOORS[part])
                parts[part] = timing.to_dict() | {
                    "floor_ms": ms,
                    "times_floor": timing.median / ms,
                    "gflops": cost.flops / 1e9,
                    "megabytes": cost.bytes / 1e6,
                    "wished_ms": wished(name, part, cameras),
                }
            row = {"preset": name, "mode": mode, "cameras": cameras, "parts": parts}
            rows.append(row | {"peak_memory_mb": peak_memory(device)})
    return rows


def wished(name: str, part: str, cameras: int) -> float | None:
    of, ms = WISHED.get(name, {}).get(part, (0, None))
    return ms if of == cameras else None


def peak_memory(device: torch.device) -> float:
    """MB: what the device gave out at most; on a CPU of the whole process, which only ever grows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def show(options: Options, rows: list[dict], can: floor.Device) -> None:
    cells: list[tuple] = []
    for row in rows:
        if "missing" in row:
            cells.append((row["preset"], row["mode"], None, row["missing"]))
            continue
        for part, found in row["parts"].items():
            head = (row["preset"], row["mode"], row["cameras"], part, found["median_ms"], found["p95_ms"])
            cells.append((*head, found["floor_ms"], found["times_floor"], found["wished_ms"]))
        cells.append((row["preset"], row["mode"], row["cameras"], f"peak {row['peak_memory_mb']:.0f} MB"))
    columns = (
        "preset",
        "mode",
        "cameras",
        "part",
        "ms",
        "p95",
        "floor, ms",
        "times",
        "wished on an H200, ms",
    )
    can_do = f"{can.flops / 1e12:.3g} TFLOP/s and {can.bandwidth / 1e9:.0f} GB/s measured"
    measure.show(options, f"chunk {options.chunk}, plan {options.tokens}; {can_do}", columns, cells)


def main(options: Options) -> dict:
    device = options.begin()
    if min(options.cameras, default=0) < 1 or max(options.cameras) > 3 or options.tokens < 1:
        raise UserError("cameras and tokens: expected 1 to 3 cameras and some tokens")
    can = floor.measured(device, options.kind, min(1.0, options.seconds))
    rows = [row for name in options.presets for row in measured(options, name, device, can)]
    record = {"benchmark": "full_size", "chunk": options.chunk, "tokens": options.tokens}
    record |= {"device": {"flops": can.flops, "bandwidth": can.bandwidth}, "rows": rows}
    measure.save(options, record)
    show(options, rows, can)
    return record


if __name__ == "__main__":
    measure.command(main, Options, __doc__)
