"""How the cost of a tick grows with what is looked at, written, done, and with how many agents there are.

    python benchmarks/growth.py [--size small] [--plot growth.png]
    python benchmarks/growth.py --size full --device cuda --dtype bfloat16 --attention sdpa --mode graphs

One thing is changed at a time, all else stays at its default: cameras 1-4, moments that are seen 1-6 (space-
time vision), tokens of the plan 1-52, actions of the chunk 10-100, agents in one batch 1-32. Every row is the
whole tick (`Policy.step`) and its parts; "times" is against the first row of the same thing, whose rows take
turns. Agents that a policy cannot step at once are stepped one after another. The plot needs matplotlib:
`pip install steersman[plots]`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import measure
import numpy as np

from agent.prompted import PromptedPolicy
from backbone.errors import UserError
from backbone.observation import Observation

WHAT = {
    "cameras": (1, 2, 3, 4),
    "history": (1, 2, 4, 6),
    "plan": (1, 8, 24, 52),
    "chunk": (10, 25, 50, 100),
    "batch": (1, 2, 8, 32),
}
RING = 16  # frames of a camera that come again and again
DEFAULT = {"cameras": 2, "history": 1, "plan": 8, "chunk": 50, "batch": 1}


@dataclass
class Options(measure.Settings):
    preset: str = "pi05_subtask"  # of the π family, one that plans and acts
    size: Literal["tiny", "small", "mid", "full"] = "small"
    what: tuple[Literal["cameras", "history", "plan", "chunk", "batch"], ...] = tuple(WHAT)
    few: bool = False  # only the least and the most of everything
    prompt: int = 64
    seconds: float = 8.0
    mode: Literal["eager", "compiled", "graphs"] = "eager"
    plot: Path | None = None  # a picture of the curves


def policy_for(options: Options, sizes: dict[str, int]) -> tuple[PromptedPolicy, Observation]:
    """A policy of these sizes, prepared, and what it looks at."""
    frames = max(WHAT["history"]) if sizes["history"] > 1 else 1
    made = measure.sized(
        options.preset,
        options.size,
        frames,
        cameras=tuple(f"camera{i}" for i in range(sizes["cameras"])),
        prompt=options.prompt,
        response=sizes["plan"] + 1,
        horizon=sizes["chunk"],
    )
    policy = measure.random_policy(made, options)
    if policy.planner is None or policy.controller is None:
        raise UserError(f"preset: expected one that plans and acts, got '{options.preset}'")
    missing = measure.prepare(policy, options.mode)
    if missing:
        raise UserError(f"mode: '{options.mode}' cannot be had ({missing})")
    return policy, measure.random_look(made, options.seed, frames=sizes["history"])


def moving(look: Observation, seed: int) -> Iterator[Observation]:
    """The same look for ever or, where it has a past, one frame later every time."""
    if look.history is None:
        return itertools.repeat(look)
    rng, frames = np.random.default_rng(seed), len(look.history)
    ring = {n: rng.integers(0, 256, (RING, *v.shape[1:]), np.uint8) for n, v in look.images.items()}
    return (
        replace(look, images={n: v[np.arange(first, first + frames) % RING] for n, v in ring.items()})
        for first in itertools.count()
    )


def measured(options: Options, what: str) -> list[dict]:
    device, values = options.begin(), WHAT[what]
    values = (values[0], values[-1]) if options.few else values
    calls: dict[str, measure.Call] = {}
    for value in values:
        if what != "batch" or not calls:
            policy, look = policy_for(options, DEFAULT | {what: value})
        if what == "batch":
            looks = [look] * value
            calls[f"tick {value}"] = lambda policy=policy, looks=looks: measure.step_batch(policy, looks)
            continue
        seen = moving(look, options.seed)
        calls[f"tick {value}"] = lambda policy=policy, seen=seen: policy.step(next(seen))
        calls[f"plan {value}"] = lambda policy=policy, seen=seen: policy.plan(next(seen))
        calls[f"chunk {value}"] = measure.chunking(policy, look)
    timings = measure.compare(calls, options.seconds, device)
    rows = []
    for value in values:
        row = {"what": what, "value": value}
        for part in ("tick", "plan", "chunk"):
            if f"{part} {value}" in timings:
                timing = timings[f"{part} {value}"]
                row[part] = timing.to_dict() | {"times": timing.times(timings[f"{part} {values[0]}"])}
        rows.append(row)
    return rows


def plot(rows: list[dict], path: Path, title: str) -> None:
    """One picture per thing that grows."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("plot: expected matplotlib (pip install steersman[plots]), found none") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["what"] for row in rows))
    figure, axes = pyplot.subplots(1, len(names), figsize=(3.2 * len(names), 3), squeeze=False)
    for name, axis in zip(names, axes[0], strict=True):
        mine = [row for row in rows if row["what"] == name]
        for part in ("tick", "plan", "chunk"):
            if part in mine[0]:
                values = [row[part]["median_ms"] for row in mine]
                axis.plot([row["value"] for row in mine], values, "o-", label=part)
        axis.set(xlabel=name, ylim=(0, None))
    axes[0][0].set_ylabel("ms")
    figure.suptitle(title, x=0.01, ha="left")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="upper right", ncols=3, frameon=False)
    figure.tight_layout()
    fresh = path.with_name(f".{path.stem}.new{path.suffix or '.png'}")
    figure.savefig(fresh)
    pyplot.close(figure)
    fresh.replace(path)


def main(options: Options) -> dict:
    rows = [row for what in options.what for row in measured(options, what)]
    shown = []
    for row in rows:
        cells = [row["what"], row["value"]]
        for part in ("tick", "plan", "chunk"):
            cells += [row[part]["median_ms"], row[part]["p95_ms"]] if part in row else [None, None]
        shown.append((*cells, row["tick"]["times"]))
    title = f"{options.preset}, {options.size}; else " + ", ".join(f"{k} {v}" for k, v in DEFAULT.items())
    columns = ("what", "how many", "tick, ms", "p95", "plan, ms", "p95", "chunk, ms", "p95", "tick, times")
    measure.show(options, title, columns, shown)
    about = {"preset": options.preset, "size": options.size, "mode": options.mode, "default": DEFAULT}
    record = {"benchmark": "growth", **about, "rows": rows}
    measure.save(options, record)
    if options.plot is not None:
        plot(rows, options.plot, title)
    return record


if __name__ == "__main__":
    measure.command(main, Options, __doc__)
