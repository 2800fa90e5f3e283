"""How the shipped checkpoint was made, as one command: `python -m training.recipe`.

Frames of simulated demonstrations, training; then rounds of DAgger: the agent of the moment drives in turn
with the teacher, the cache grows, training goes on. Every stage knows what it has done already, so the same
command resumes after a kill wherever it was, and OUT/recipe.jsonl tells when each stage ended.
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
from training.loop import Config, train
from training.simulate import SHARE, simulate

ROUND = 1_000_000  # seeds between two rounds
ROUND_SHARE = 0.15  # an agent's episode costs more, so more of its frames are kept


@dataclass(frozen=True)
class Recipe:
    """The stages' sizes.

    Args:
        out: where everything goes: cache and run.
        episodes: demonstrations that are simulated.
        suites: taken in turn.
        hard: families of the core suite that need more than their share.
        hard_share: so many more episodes, of demonstrations and of every round, are of those.
        datasets: recorded datasets (`steersman collect`) whose frames are added.
        frames: of those datasets, at most.
        preset: the network: nano, or nano_flat, the baseline without a planner.
        init: a checkpoint to start from instead of random weights.
        init_episodes: simulated before any training, with the agent of `init` driving in turn.
        minutes: training before the first round.
        rounds: of DAgger.
        round_episodes: simulated in each.
        round_minutes: training after each; the last has `final_minutes` on top, in which the rate falls.
        final_minutes: see above.
        batches: samples of a planner's and of a controller's batch in each process.
        last_batches: the same in the last training, if they should differ (one level may need more).
        processes: for all stages.
        seed: of the demonstrations' scenes and of the training.
    """

    out: Path = Path("runs/nano")
    episodes: int = 12_800
    suites: tuple[str, ...] = ("core", "core", "core", "core", "memory", "correction", "perturbed", "long")
    hard: tuple[str, ...] = ("stack", "swap", "press")
    hard_share: float = 0.3
    datasets: tuple[Path, ...] = ()
    frames: int = 60_000
    preset: str = "nano"
    init: str | None = None
    init_episodes: int = 0
    minutes: float = 45.0
    rounds: int = 2
    round_episodes: int = 2048
    round_minutes: float = 20.0
    final_minutes: float = 25.0
    batches: tuple[int, int] = (24, 16)
    last_batches: tuple[int, int] | None = None
    processes: int = min(2, os.cpu_count() or 1)
    seed: int = 0

    @property
    def total_minutes(self) -> float:
        return self.minutes + self.rounds * self.round_minutes + self.final_minutes


def follow(recipe: Recipe) -> Path:
    """Do what is not done yet; returns the policy's directory. UserError if a stage cannot be done."""
    out, cache = recipe.out, recipe.out / "cache"
    out.mkdir(parents=True, exist_ok=True)
    policy = out / "run/policy"

    def note(stage: str, **facts: object) -> None:
        line = {"stage": stage, "time": time.strftime("%Y-%m-%d %H:%M:%S")} | facts
        with (out / "recipe.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"== {stage}  " + "  ".join(f"{k} {v}" for k, v in facts.items()), flush=True)

    def frames(stage: str, name: str, episodes: int, seed: int, checkpoint: str | None = None) -> None:
        more = round(episodes * recipe.hard_share) if recipe.hard else 0
        common = {"checkpoint": checkpoint, "name": name, "share": ROUND_SHARE if checkpoint else SHARE}
        common["workers"] = recipe.processes
        simulate(cache, recipe.suites, episodes, seed, None, **common)
        if more:
            simulate(cache, ("core",), more, seed + episodes, recipe.hard, **common)
        note(stage, episodes=episodes + more, cache=Cache(cache, touch=False).summary())

    def teach(stage: str, until: float) -> None:
        final = until >= recipe.total_minutes and recipe.last_batches
        planner_batch, controller_batch = recipe.last_batches if final else recipe.batches
        config = Config(
            cache=cache,
            out=out / "run",
            preset=recipe.preset,
            init=recipe.init,
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
    frames("demonstrations", "demonstrations", recipe.episodes, recipe.seed)
    if recipe.datasets:
        room = len(Cache(cache, touch=False)) + recipe.frames
        build_cache(recipe.datasets, cache, room, recipe.processes)
    if recipe.init and recipe.init_episodes:
        frames("round 0", "dagger-0", recipe.init_episodes, recipe.seed + 9 * ROUND // 10, recipe.init)
    until, last = recipe.minutes, recipe.total_minutes
    teach("first training", until if recipe.rounds else last)
    for number in range(1, recipe.rounds + 1):
        seed = recipe.seed + number * ROUND
        frames(f"round {number}", f"dagger-{number}", recipe.round_episodes, seed, str(policy))
        until += recipe.round_minutes
        teach(f"training {number}", last if number == recipe.rounds else until)
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
