"""How fast the shipped agent is: what is measured beside what is wished for.

- from process start to the first action, world and checkpoint included (a fresh process, the median of some);
- planning plus one chunk on one core, along a real episode: written anew, and with the last plan confirmed;
- an episode with its video, against the world's clock.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

FIRST_ACTION = """
import sys
import torch
torch.set_num_threads(1)
from agent.evaluation.settings import Settings, build
from backbone.observation import Observation
env, agent = build(Settings(checkpoint=sys.argv[1]))
env.reset(seed=10_000_000)
said = env.unwrapped.task_description
agent.reset(said)
agent.step(Observation.from_env(env.look(), said))
"""


@dataclass
class Options:
    checkpoint: str = "nano"  # "nano" (shipped) or a checkpoint directory
    repeats: int = 3
    out: Path | None = None  # a JSON file for the numbers


def first_action(options: Options) -> float:
    """Seconds from starting a process to the first action, in the median."""
    seconds = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", FIRST_ACTION, options.checkpoint], check=True)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def looks(options: Options) -> dict[str, float]:
    """Milliseconds of plan and chunk on one core over an episode; the first look (warm-up) does not count."""
    import torch

    from agent.evaluation.episode import run_episode
    from agent.evaluation.settings import Settings, build

    torch.set_num_threads(1)
    env, agent = build(Settings(checkpoint=options.checkpoint))
    record = run_episode(env, agent, 0)
    env.close()
    kinds: dict[str, list[float]] = {"decoded": [], "confirmed": []}
    for look in record["looks"][1:]:
        kinds[look["origin"]].append(look["ms"])
    both = kinds["decoded"] + kinds["confirmed"]
    rows = {"plan and chunk": both} | {f"plan {name}, and chunk": values for name, values in kinds.items()}
    return {name: statistics.median(values) for name, values in rows.items() if values}


def episode(options: Options) -> float:
    """World seconds per wall second of `steersman rollout` after start-up, the video's drawing included."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "steersman", "rollout", "--out", out]
        command += ["--checkpoint", options.checkpoint]
        spent = []
        for episodes in (1, 3):  # the difference leaves start-up out
            start = time.perf_counter()
            run = [*command, "--episodes", str(episodes)]
            subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
            spent.append(time.perf_counter() - start)
        records = [json.loads(path.read_text()) for path in sorted(Path(out).glob("*.json"))]
    more = sum(record["steps"] for record in records[1:]) / 20
    return more / (spent[1] - spent[0])


def main(options: Options) -> None:
    console, numbers = Console(highlight=False), {}
    with console.status("measuring"):
        numbers["process start to first action, s"] = (first_action(options), "10 or less")
        for name, ms in looks(options).items():
            numbers[f"{name}, ms"] = (ms, "100 or less")
        numbers["episode with video, times real time"] = (episode(options), "1 or more")
    table = Table("", "measured", "wished for")
    for name, (value, wish) in numbers.items():
        table.add_row(name, f"{value:.2f}" if value < 10 else f"{value:.0f}", wish)
    console.print(table)
    console.print(f"{os.cpu_count()} cores")
    if options.out is not None:
        options.out.write_text(json.dumps({name: value for name, (value, _) in numbers.items()}, indent=2))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
