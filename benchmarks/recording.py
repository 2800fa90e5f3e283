"""What recording costs: milliseconds of a control tick and of an episode's end, bytes of a tick, by writer.

python benchmarks/recording.py            (the shipped agent, three episodes of `core`; a minute)
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import tyro

from agent.evaluation.episode import run_episode
from agent.evaluation.recorded import who
from agent.evaluation.settings import Settings, build
from agent.recording import Recording
from agent.recording.film import FilmWriter
from agent.recording.rerun_file import RerunWriter
from agent.recording.runs import RunWriter
from backbone.errors import UserError


class Timed(Recording):
    """Keeps the seconds that each call took."""

    def __init__(self, *writers):
        super().__init__(*writers)
        self.seconds: dict[str, list[float]] = {"look": [], "add": [], "end": []}

    def look(self, *given):
        return self._timed("look", *given)

    def add(self, *given):
        return self._timed("add", *given)

    def end(self):
        return self._timed("end")

    def _timed(self, what: str, *given):
        started = time.perf_counter()
        found = getattr(super(), what)(*given)
        self.seconds[what].append(time.perf_counter() - started)
        return found


def make(name: str, folder: Path, settings: Settings):
    if name == "dataset":
        return RunWriter(folder, who(settings))
    return RerunWriter(folder) if name == "rerun" else FilmWriter(folder)


def main(seeds: tuple[int, ...] = (1, 2, 3), family: str = "stow") -> None:
    torch.set_num_threads(1)
    settings = Settings(family=family)
    env, agent = build(settings, render_mode="rgb_array")
    run_episode(env, agent, 0)
    print(f"{'':14}{'look p50':>10}{'add p50':>10}{'add p99':>10}{'end':>10}  bytes a tick")
    for name in ("dataset", "rerun", "video"):
        with tempfile.TemporaryDirectory() as folder:
            try:
                writer = make(name, Path(folder), settings)
            except UserError as error:
                print(f"{name:14}{error}")
                continue
            with Timed(writer) as recording:
                for seed in seeds:
                    run_episode(env, agent, seed, recording=recording)
                    recording.end()
            found = recording.seconds
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        look, add, end = (np.array(found[part]) * 1000 for part in ("look", "add", "end"))
        ticks = len(add)
        row = f"{np.median(look):10.2f}{np.median(add):10.2f}{np.quantile(add, 0.99):10.2f}"
        print(f"{name:14}{row}{np.median(end):10.0f}  {size / ticks:.0f}")
    env.close()


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
