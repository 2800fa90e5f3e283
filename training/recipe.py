"""How the shipped checkpoint was made, as one command: `python -m training.recipe`.

Demonstrations, a cache, training; then rounds of DAgger: the agent of the moment drives in turn with the
teacher, the cache grows, training goes on. Every stage knows what it has done already, so the same command
resumes after a kill wherever it was, and OUT/recipe.jsonl tells when each stage ended.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from backbone.errors import UserError
from training.beside import on_processes
from training.cache import Cache, build_cache
from training.collect import collect
from training.loop import Config, train

ROUND = 1_000_000  # seeds between two rounds


@dataclass(frozen=True)
class Recipe:
    """The stages' sizes.

    Args:
        out: where everything goes: data, cache, run.
        episodes: demonstrations.
        suites: taken in turn.
        preset: the network: nano, or nano_flat, the baseline without a planner.
        minutes: training before the first round.
        rounds: of DAgger.
        round_episodes: recorded in each.
        round_minutes: training after each; the last has `final_minutes` on top, in which the rate falls.
        final_minutes: see above.
        frames: in the cache for the demonstrations; each round adds up to `round_frames`.
        round_frames: see above.
        batches: samples of a planner's and of a controller's batch in each process.
        last_batches: the same in the last training, if they should differ (one level may need more).
        processes: for all stages.
        seed: of the demonstrations' scenes and of the training.
    """

    out: Path = Path("runs/nano")
    episodes: int = 3600
    suites: tuple[str, ...] = ("core", "core", "long", "memory", "correction", "perturbed")
    preset: str = "nano"
    minutes: float = 60.0
    rounds: int = 2
    round_episodes: int = 480
    round_minutes: float = 20.0
    final_minutes: float = 30.0
    frames: int = 130_000
    round_frames: int = 25_000
    batches: tuple[int, int] = (16, 32)
    last_batches: tuple[int, int] | None = None
    processes: int = min(2, os.cpu_count() or 1)
    seed: int = 0

    @property
    def total_minutes(self) -> float:
        return self.minutes + self.rounds * self.round_minutes + self.final_minutes


def follow(recipe: Recipe) -> Path:
    """Do what is not done yet; returns the policy's directory. UserError if a stage cannot be done."""
    out = recipe.out
    out.mkdir(parents=True, exist_ok=True)
    policy, datasets = out / "run/policy", [out / "data/demonstrations"]

    def note(stage: str, **facts: object) -> None:
        line = {"stage": stage, "time": time.strftime("%Y-%m-%d %H:%M:%S")} | facts
        with (out / "recipe.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"== {stage}  " + "  ".join(f"{k} {v}" for k, v in facts.items()), flush=True)

    def teach(stage: str, until: float, frames: int) -> None:
        build_cache(datasets, out / "cache", frames, recipe.processes)
        note(f"cache for {stage}", holds=Cache(out / "cache", touch=False).summary())
        final = until >= recipe.total_minutes and recipe.last_batches
        planner_batch, controller_batch = recipe.last_batches if final else recipe.batches
        config = Config(
            cache=out / "cache",
            out=out / "run",
            preset=recipe.preset,
            minutes=recipe.total_minutes,
            until=until,
            planner_batch=planner_batch,
            controller_batch=controller_batch,
            seed=recipe.seed,
        )
        if recipe.processes > 1:
            if on_processes(recipe.processes, train, config):
                raise UserError(
                    f"recipe: expected {stage} to end well, got an error (above); the same command resumes"
                )
        else:
            train(config)
        if _minutes(out / "run") < until - 0.5:
            raise KeyboardInterrupt  # stopped by the user: saved, to be resumed
        note(stage, minutes=until)

    note("recipe", **{k: str(v) for k, v in asdict(recipe).items()})
    writer = collect(datasets[0], recipe.suites, recipe.episodes, recipe.seed, workers=recipe.processes)
    note("demonstrations", episodes=len(writer.episodes), frames=writer.frames)
    until, frames = recipe.minutes, recipe.frames
    last = recipe.total_minutes
    teach("first training", until if recipe.rounds else last, frames)
    for number in range(1, recipe.rounds + 1):
        datasets.append(out / f"data/dagger-{number}")
        writer = collect(
            datasets[-1],
            recipe.suites,
            recipe.round_episodes,
            recipe.seed + number * ROUND,
            checkpoint=str(policy),
            workers=recipe.processes,
        )
        note(f"round {number}", episodes=len(writer.episodes), frames=writer.frames)
        until, frames = until + recipe.round_minutes, frames + recipe.round_frames
        teach(f"training {number}", last if number == recipe.rounds else until, frames)
    return policy


def _minutes(run: Path) -> float:
    """Training time so far."""
    import torch

    return torch.load(run / "state.pt", map_location="cpu", weights_only=True)["elapsed"] / 60


def main(recipe: Annotated[Recipe, tyro.conf.arg(name="")]) -> int:
    """Make a checkpoint from nothing."""
    print(f"the policy is in {follow(recipe)}")
    return 0


if __name__ == "__main__":
    from steersman.cli import run

    sys.exit(run("training.recipe", "training.recipe", sys.argv[1:]))
