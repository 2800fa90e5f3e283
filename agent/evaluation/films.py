"""Short videos of episodes, played anew from their seeds: twice as fast as it happened, to be small."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.evaluation.episode import run_episode
from agent.evaluation.results import Results
from agent.evaluation.settings import Settings, build
from agent.evaluation.store import fingerprint
from agent.recorder import Recorder
from backbone.errors import UserError
from envs.errors import WorldError

SPEED = 2
Films = dict[int, tuple[bytes, str]]  # by seed: the mp4 and what to say below it


def failed_seeds(results: Results, count: int) -> list[int]:
    """The first failures, at most `count`."""
    return [r["seed"] for r in results.judged if not r["success"]][:count]


def film(
    results: Results, seeds: Sequence[int], watch: Callable[[int], None] | None = None
) -> tuple[Films, list[str]]:
    """The videos of these seeds and, where there can be none, a line that says why. watch: told each seed
    before it plays."""
    if not seeds:
        return {}, []
    run = results.run
    try:
        known = {f.name for f in dataclasses.fields(Settings)}
        settings = Settings(**{key: value for key, value in run.items() if key in known})
        if not run or fingerprint(settings) != run.get("checkpoint_sha256"):
            return {}, ["no videos: these episodes were run with other weights than the checkpoint has now"]
        env, agent = build(settings, render_mode="rgb_array")
    except (UserError, WorldError) as error:
        return {}, [f"no videos: {error}"]
    before = {r["seed"]: r for r in results.records}
    films: Films = {}
    with tempfile.TemporaryDirectory() as folder, Recorder(settings.suite, SPEED) as recorder:
        for seed in seeds:
            if watch is not None:
                watch(seed)
            path = Path(folder) / f"{seed}.mp4"
            recorder.begin(path)
            record = run_episode(env, agent, seed, watch=recorder.add)
            recorder.end()
            same = record["steps"] == before[seed]["steps"] and record["success"] == before[seed]["success"]
            about = f"Seed {seed}, played anew, {SPEED} times as fast"
            if not same:  # another machine, other versions
                about += "; it did not go as recorded: " + ("solved" if record["success"] else "not solved")
            films[seed] = (path.read_bytes(), about)
    env.close()
    agent.close()
    return films, []
