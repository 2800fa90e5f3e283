"""The gates on the way to an agent, in order. One that fails tells what to mend before hours of training.

    python benchmarks/gates.py overfit    --cache runs/nano/cache   64 samples to almost no loss, in minutes
    python benchmarks/gates.py controller --checkpoint nano         closed loop with the teacher's plans
    python benchmarks/gates.py grounding  --checkpoint nano         where the planner points, pixels of 128
    python benchmarks/gates.py joint      --checkpoint nano         learned planner, learned controller
    python benchmarks/gates.py dagger     --checkpoint WITH/policy --control WITHOUT/policy

Scenes are held out (evaluation seeds of the suite). The gate `dagger` wants two runs that differ in nothing
but the data: from the same checkpoint, for the same minutes, with and without the round's episodes (datasets
are named by their folders):

    steersman train --cache CACHE --init BEFORE/policy --minutes 20 --out WITH
    steersman train --cache CACHE --init BEFORE/policy --minutes 20 --out WITHOUT --datasets demonstrations

Exit code 0 for PASS, 1 for FAIL, 2 for a mistake in what was asked.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from agent.evaluation import Settings, evaluate
from backbone.errors import UserError
from envs.errors import WorldError


@dataclass
class Options:
    gate: Annotated[Literal["overfit", "controller", "grounding", "joint", "dagger"], tyro.conf.Positional]
    checkpoint: str = "nano"  # "nano" (shipped) or a checkpoint directory
    control: str | None = None  # dagger: the checkpoint that was trained without the round
    suite: str = "core"
    episodes: int = 60
    seed: int = 0
    workers: int | None = None  # processes, all cores by default
    out: Path | None = None  # a folder for the records, so that a gate can be resumed
    cache: Path = Path("runs/nano/cache")  # overfit: where the samples are from
    preset: str = "nano"  # overfit: the network
    samples: int = 64
    minutes: float = 10.0  # overfit: give up after


def run(options: Options, planner: str, controller: str = "learned", checkpoint: str | None = None) -> dict:
    """The evaluation's summary; UserError if an episode could not be finished."""
    checkpoint = checkpoint or options.checkpoint
    settings = Settings(options.suite, None, checkpoint, planner, controller)
    name = f"{planner}-{controller}-{Path(checkpoint).absolute().parent.name}-{Path(checkpoint).name}"
    out = options.out / name if options.out else None
    seeds = range(options.seed, options.seed + options.episodes)

    def watch(record: dict, count: int, total: int) -> None:
        print(f"\r{count}/{total}", end="", file=sys.stderr, flush=True)

    summary = evaluate(settings, seeds, out, options.workers, watch=watch)
    print(file=sys.stderr)
    if summary["errors"]:
        raise UserError(f"gate: expected whole episodes, got errors on seeds {summary['error_seeds']}")
    return summary


def text_of(row: dict) -> str:
    return f"{row['successes']}/{row['n']} = {row['rate']:.1%} (95% {row['low']:.1%} to {row['high']:.1%})"


def controller(options: Options) -> tuple[bool, str]:
    """The teacher's subtasks and points, the learned controller: more than 95%."""
    overall = run(options, "oracle")["overall"]
    return overall["rate"] > 0.95, f"{text_of(overall)}, wanted > 95%"


def grounding(options: Options) -> tuple[bool, str]:
    """The learned planner watches the teacher move: half its points within 1 pixel, nine in ten within 3."""
    found = run(options, "learned", "teacher")["planner"]
    middle, most = found["grounding_pixels_median"], found["grounding_pixels_p90"]
    if middle is None:
        return False, f"no point to measure in {found['looks']} looks: the words never agreed"
    words = f"words agree away from switches {found['agreement_away_from_switches'] or 0:.1%}"
    text = f"median {middle:.2f} px, 90% within {most:.2f} px of 128, wanted 1 and 3; {words}"
    return middle <= 1 and most <= 3, text


def joint(options: Options) -> tuple[bool, str]:
    """Both levels learned: 90% and no family under 75%."""
    summary = run(options, "learned")
    worst = min(summary["families"], key=lambda name: summary["families"][name]["rate"])
    low = summary["families"][worst]["rate"]
    text = f"{text_of(summary['overall'])}, worst family {worst} {low:.1%}, wanted 90% and 75%"
    return summary["overall"]["rate"] >= 0.9 and low >= 0.75, text


def dagger(options: Options) -> tuple[bool, str]:
    """The round's data help more than the minutes spent on them would have without."""
    if options.control is None:
        raise UserError("dagger: expected --control, the checkpoint trained without the round, got none")
    treated = run(options, "learned")["overall"]
    control = run(options, "learned", checkpoint=options.control)["overall"]
    apart = treated["low"] > control["rate"]
    text = f"with {text_of(treated)}, without {text_of(control)}" + ("" if apart else "; within the noise")
    return treated["rate"] > control["rate"], text


def overfit(options: Options) -> tuple[bool, str]:
    """A few samples to almost no loss: every text right, points within a pixel, flow loss under 0.1."""
    import torch

    from training.batches import Jitter, Sampler
    from training.cache import Cache
    from training.config import Config
    from training.start import new_network

    cache = Cache(options.cache, touch=False)
    network, tokenizer = new_network(Config(cache=options.cache, preset=options.preset, steps=1), cache)
    still = Jitter(images=0, point=0, far_share=0)
    sampler = Sampler(cache, tokenizer, jitter=still, layout=network.layout)
    parts = {"controller": sampler.controller(0, options.samples)}
    if network.layout.writes_plans:
        parts["planner"] = sampler.planner(0, options.samples)

    def some(batch: dict, rows: torch.Tensor) -> dict:
        return {k: some(v, rows) if isinstance(v, dict) else v[rows] for k, v in batch.items()}

    optimiser = torch.optim.AdamW(network.parameters(), 1e-3, betas=(0.9, 0.98))
    start, step, good, late = time.monotonic(), 0, False, False
    while not good and not late:
        optimiser.param_groups[0]["lr"] = 1e-3 * min(1.0, (step + 1) / 20, (400 / (step + 1)) ** 0.5)
        rows = torch.randperm(options.samples)[:16]
        network(**{name: some(batch, rows) for name, batch in parts.items()})["loss"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        step, late = step + 1, time.monotonic() - start > 60 * options.minutes
        if step % 50 == 0 or late:
            with torch.no_grad():
                out = {k: float(v) for k, v in network(**parts).items()}
            good = out["flow_loss"] < 0.1
            good &= out.get("text_accuracy", 1) == 1 and out.get("point_error_px", 0) < 1
            print(step, {k: round(v, 3) for k, v in out.items()}, file=sys.stderr, flush=True)
    names = [n for n in ("text_accuracy", "point_error_px", "flow_loss") if n in out]
    text = ", ".join(f"{name} {out[name]:.3f}" for name in names)
    return good, f"{text} after {step} steps, {(time.monotonic() - start) / 60:.1f} minutes"


def main(options: Options) -> int:
    try:
        good, text = globals()[options.gate](options)
    except (UserError, WorldError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{'PASS' if good else 'FAIL'} {options.gate}: {text}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
