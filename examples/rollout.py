"""Watch the agent read an instruction, write its own subtasks and move the arm; saves a video and a record.

Without arguments: the shipped agent puts the red block in the drawer and closes it.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from agent.evaluation.episode import run_episode
from agent.evaluation.recorded import who
from agent.evaluation.settings import Settings, build, check_run, recovers
from agent.evaluation.store import make_folder, write_json
from agent.recording import Recording
from agent.recording.film import FilmWriter
from agent.recording.rerun_file import RerunWriter
from agent.recording.runs import RunWriter
from agent.terminal import EpisodeView
from backbone.errors import UserError
from envs.registry import benchmark
from envs.tabletop.reading import read, scenes

SHOWN = "put the red block in the drawer and close it"  # said when nothing is asked for


def main(
    suite: str = "core",
    family: str | None = None,
    seed: int | None = None,
    instruction: str | None = None,
    checkpoint: str = "nano",
    episodes: int = 1,
    out: Path = Path("outputs/rollout"),
    planner: str = "learned",
    controller: str = "learned",
    execute: int | None = None,
    recover: bool | None = None,
    video: bool = True,
    record: Path | None = None,
    rerun: bool = False,
) -> int:
    """Options of `steersman rollout`.

    Args:
        suite: which suite of tasks.
        family: only this task family (sort, stack, stow, clear, swap, press), or task of a benchmark.
        seed: scene of the first episode; the next ones count up.
        instruction: say this. Without a seed, scenes of the tabletop are chosen on which it makes sense.
        checkpoint: "nano" (shipped), a checkpoint directory, or somebody else's policy (see `evaluate`).
        episodes: how many to run.
        out: folder for episode-SEED.mp4 and episode-SEED.json.
        planner: learned; oracle (the scripted teacher, for diagnosis); none (the instruction in the subtask's
            place); or another model, vlm:NAME, openai:MODEL@BASE_URL or ws://HOST:PORT (see `evaluate`).
        controller: learned; teacher (the scripted teacher moves the arm, for diagnosis); zero and random,
            with --planner none.
        execute: control ticks between looks; those of the suite's published protocol by default (tabletop:
            8).
        recover: where it is stuck, back off and try again; give up with a reason after some tries. By default
            where its times are known: a learned planner on the tabletop.
        video: write the video.
        record: folder for the runs as a LeRobot dataset; more are added to what is there (docs/recording.md).
        rerun: also write episode-SEED.rrd, for the rerun viewer.
    """
    check_run(episodes, seed)
    if seed is None and instruction is not None and benchmark(suite).name != "tabletop":
        raise UserError(
            "instruction: expected a seed with it, since only the tabletop's scenes can be chosen by what is "
            f"said, got none for suite {suite}"
        )
    if (suite, family, seed, instruction) == ("core", None, None, None):
        instruction = SHOWN
    make_folder(out)
    console = Console(highlight=False)
    recover = recovers(suite, planner) if recover is None else recover
    settings = Settings(suite, family, checkpoint, planner, controller, execute, recover=recover)
    learned = (planner, controller) == ("learned", "learned")
    note = "" if learned else f"planner: {planner}, controller: {controller}"
    solved = 0
    with ExitStack() as stack:
        recording = stack.enter_context(Recording(tell=lambda line: console.print(line, soft_wrap=True)))
        if video:
            recording.writers.append(FilmWriter(out, suite, note))
        if rerun:
            recording.writers.append(RerunWriter(out))
        if record is not None:
            recording.writers.append(RunWriter(record, who(settings)))
        with console.status("waking up"):
            torch.set_num_threads(1)  # so small a network is no faster on more, and far slower on busy ones
            env, agent = build(settings, render_mode="rgb_array" if video else None)
        stack.callback(env.close)
        stack.callback(agent.close)
        for number in chosen(console, suite, family, seed, instruction, episodes):
            result = roll(console, env, agent, number, instruction, out, recording)
            solved += bool(result["success"])
            console.print(outcome(result), soft_wrap=True)
    if episodes > 1:
        console.print(f"{solved} of {episodes} solved")
    written = lambda place: place is not None and any(path.is_file() for path in place.rglob("*"))
    places = [str(place) for place in (out, record) if written(place)]
    if places:
        console.print(f"saved in {' and '.join(places)}", soft_wrap=True)
    return 0


def chosen(console, suite: str, family: str | None, seed: int | None, instruction: str | None, episodes: int):
    """The seeds to run: from the one asked for, or scenes on which the instruction makes sense."""
    if seed is None and instruction is not None:
        asked = read(instruction)
        if asked is not None and family in (None, asked[0]):
            seeds = list(islice(scenes(asked, suite), episodes))
            if len(seeds) == episodes:
                return seeds
        console.print("[dim]no scene of this suite is made for this instruction; saying it on the first[/]")
    return range(seed or 0, (seed or 0) + episodes)


def roll(
    console, env, agent, seed: int, instruction: str | None, out: Path, recording: Recording
) -> dict[str, Any]:
    """One episode: watched, recorded, its files written."""
    view: EpisodeView | None = None

    def watch(env, step, moment) -> None:
        nonlocal view
        if view is None:
            title = f"{env.suite} {env.stratum} {seed}"
            view = stack.enter_context(EpisodeView(console, title, moment["instruction"], env.rate))
        view.update(step, moment)

    try:
        with ExitStack() as stack:
            record = run_episode(env, agent, seed, instruction, watch=watch, recording=recording)
    except KeyboardInterrupt:  # what was filmed so far is worth seeing; interrupted again, it is dropped
        films = [writer for writer in recording.writers if isinstance(writer, FilmWriter)]
        for film in films if view is not None else []:
            with console.status("drawing the last pictures of the video"), suppress(RuntimeError):
                film.end()
                console.print(f"saved {out / f'episode-{seed}.mp4'} up to here", soft_wrap=True)
        raise
    with console.status("writing down the last of it"):
        stopped = recording.end()
    record |= {"recording": stopped} if stopped else {}
    try:
        write_json(out / f"episode-{seed}.json", record)
    except OSError as error:  # a full disk
        console.print(f"no record of this episode in {out}: {error.strerror}", soft_wrap=True)
    return record


def outcome(record: dict) -> str:
    """One line on how it went."""
    times = record["timings"]
    if record["success"] is None:
        what = "[dim]not judged: this instruction has no goal that the world can check[/]"
    elif record["success"]:
        what = f"[bold green]solved[/] after {record['success_time']:.1f} s"
    else:
        what = f"[bold red]not solved[/], progress {record['progress']:.0%}"
    looks = "" if times["look_ms_p50"] is None else f"plan and chunk {times['look_ms_p50']:.0f} ms · "
    pace = f"{times['real_time_factor']:.1f} times real time"
    return f"{what} · {len(record['subtasks'])} subtasks · {looks}{pace}"


if __name__ == "__main__":
    import sys

    from steersman.cli import run

    sys.exit(run("examples.rollout", "rollout.py", sys.argv[1:]))
