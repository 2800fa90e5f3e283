"""Sit at a terminal beside the agent: see what it sees and thinks, talk to it, stop it, disturb it.

Keys: space pauses, "." steps, - and + change the speed, r resets, n is the next task, x the emergency stop
(again: free), p nudges a block, d drops what is held, v starts and ends a video, q quits; t takes the arm
over (arrows, w and s, a and d, g move it) and hands it back; two letters or enter begin a line to type to it.
Typed: an instruction, a correction, "stop", "go on"; "subtask: pick up the red block" plans in the planner's
place, with "at 40% 62%" there (across and down), until "subtask:", or says what a person shows who drives.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from agent import live
from agent.console import plain as lines
from agent.console import screen
from agent.console.keys import leaving
from agent.console.session import SPEEDS, Session
from agent.evaluation.episode import limits
from agent.evaluation.recorded import who
from agent.evaluation.settings import Settings, build, check_run, recovers
from agent.recording.columns import TABLETOP
from agent.recording.runs import RunWriter
from agent.safety import Safety
from agent.teach import Taught
from agent.teleop import Keyboard
from backbone.errors import UserError
from examples.rollout import SHOWN, chosen

KNOWING = ("oracle", "shuffled", "teacher", "obedient")  # these read the world's state, not pictures of it


def main(
    suite: str = "core",
    family: str | None = None,
    seed: int | None = None,
    instruction: str | None = None,
    checkpoint: str = "nano",
    planner: str = "learned",
    controller: str = "learned",
    execute: int | None = None,
    recover: bool | None = None,
    clock: Literal["sync", "realtime"] = "sync",
    speed: float = 1.0,
    pictures: Literal["half", "none"] = "half",
    plain: bool = False,
    seconds: float | None = None,
    out: Path = Path("outputs/demo"),
    record: Path | None = None,
) -> int:
    """Options of `steersman demo`.

    Args:
        suite: which suite of tasks.
        family: only this task family (sort, stack, stow, clear, swap, press), or task of a benchmark.
        seed: the scene to begin with; the next ones count up.
        instruction: say this. Without a seed, a scene of the tabletop is chosen on which it makes sense.
        checkpoint: "nano" (shipped), a checkpoint directory, or somebody else's policy (see `evaluate`).
        planner: learned; oracle (the scripted teacher); none (the instruction in the subtask's place); or
            another model, vlm:NAME, openai:MODEL@BASE_URL or ws://HOST:PORT (see `evaluate`).
        controller: learned; teacher (the scripted teacher moves the arm); obedient (it does as it is told).
        execute: control ticks between looks; those of the suite's published protocol by default (tabletop:
            8).
        recover: where it is stuck, back off and try again; give up with a reason after some tries. By default
            where its times are known: a learned planner on the tabletop.
        clock: sync (the world waits while the agent thinks) or realtime (it thinks in threads, the world goes
            on).
        speed: of the world, 1 is its own; the keys - and + change it.
        pictures: half (blocks of two pixels) or none.
        plain: lines of text instead of a screen, as in a pipe; what is typed is obeyed line by line.
        seconds: end by itself after so many.
        out: folder for videos.
        record: folder for all that is done here, as a LeRobot dataset; more is added to what is there.
    """
    check_run(1, seed)
    if not SPEEDS[0] <= speed <= SPEEDS[-1]:
        raise UserError(f"speed: expected {SPEEDS[0]} to {SPEEDS[-1]:g} times the world's, got {speed}")
    if (suite, family, seed, instruction) == ("core", None, None, None):
        instruction = SHOWN
    console = Console(highlight=False)
    there = console.is_terminal and not console.is_dumb_terminal and os.isatty(sys.stdin.fileno())
    plain = plain or not there
    recover = recovers(suite, planner) if recover is None else recover
    settings = Settings(suite, family, checkpoint, planner, controller, execute, recover=recover)
    with ExitStack() as stack:
        stack.enter_context(leaving())
        waking = ExitStack()
        if not plain:
            waking.enter_context(console.status("waking up"))
        with waking:
            torch.set_num_threads(1)  # so small a network is no faster on more, and far slower on busy ones
            session = wake(settings, clock, out, lines.told if plain else lambda note: None)
            if record is not None:
                session.recording.writers.append(RunWriter(record, who(settings)))
            stack.callback(close, session, console)
            session.shown.speed = speed
            [first] = chosen(console, suite, family, seed, instruction, 1)
            session.begin(first, instruction)
        if plain:
            lines.run(session, seconds)
        else:
            screen.run(session, console, pictures, seconds)
    return 0


def wake(settings: Settings, clock: str, out: Path, told) -> Session:
    """The world and the agent."""
    if clock == "realtime" and (knows := {settings.planner, settings.controller} & {*KNOWING}):
        raise UserError(
            f"clock: expected 'sync' for '{knows.pop()}', which reads the world's state, got 'realtime'"
        )
    ticking = live.clock if clock == "realtime" else None
    env, agent = build(settings, render_mode="rgb_array", ticking=ticking)
    names = TABLETOP.action
    if env.action_space.shape == (len(names),) and env.rest == "zero":  # a hand that is moved by its speeds
        agent = Taught(agent, Keyboard(names))
    return Session(env, agent, Safety(limits(env)), out, told)


def close(session: Session, console: Console) -> None:
    """End a video that is being made, and say where those are that were."""
    with ExitStack() as stack:
        if session.film.state and console.is_terminal:
            stack.enter_context(console.status("drawing the last pictures of the video"))
        session.close()
    for path in session.film.saved:
        console.print(f"saved {path}", soft_wrap=True)


if __name__ == "__main__":
    from steersman.cli import run

    sys.exit(run("examples.demo", "demo.py", sys.argv[1:]))
