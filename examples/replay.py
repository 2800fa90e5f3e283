"""Recorded runs once more, compared bit by bit: the recorded actions in the same world, or the agent itself
from the same weights and seed.

steersman rollout --record runs/mine && steersman replay runs/mine --agent
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro
from rich.console import Console

from agent.recording.replay import changed_versions, replay, replay_agent
from agent.recording.runs import RunReader


def main(dataset: tyro.conf.Positional[Path], episode: int | None = None, agent: bool = False) -> int:
    """Options of `steersman replay`.

    Args:
        dataset: what `steersman rollout --record` wrote, or a part of what `steersman evaluate --record`
            wrote.
        episode: only this one, from 0; all by default.
        agent: run the agent again and compare actions, plans and events; else send the recorded actions and
            compare states and success.
    """
    torch.set_num_threads(1)
    console, runs = Console(highlight=False), RunReader(dataset)
    numbers = range(len(runs)) if episode is None else [episode]
    same = 0
    for number in numbers:
        found = (replay_agent if agent else replay)(runs, number)
        about = runs.episodes[number]
        title = f"episode {number}: {about['suite']} {about['family']}, seed {about['seed']}"
        if found.differs is None:
            console.print(f"{title}: [green]the same[/], {found.ticks} ticks", soft_wrap=True)
            same += 1
            continue
        console.print(f"{title}: [red]differs[/] at {found.differs}", soft_wrap=True)
        if (other := changed_versions(runs, number)) is not None:
            console.print(f"  recorded with {other}", soft_wrap=True)
    if len(numbers) > 1:
        console.print(f"{same} of {len(numbers)} the same")
    return 0 if same == len(numbers) else 1


if __name__ == "__main__":
    import sys

    from steersman.cli import run

    sys.exit(run("examples.replay", "replay.py", sys.argv[1:]))
