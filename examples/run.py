"""Run the agent on a robot in real time: one that LeRobot drives, any with its interface, or a simulated one.

What it plans and what happens is told in lines; what is typed meanwhile is said to it: an instruction, a
correction, "stop", "go on", "subtask: ...", "next", "quit". With --teleop a person may take the arm over and
hand it back: when the teleop is moved, or by the words "take over" and "hand back" (docs/teaching.md). See
docs/hardware.md.
"""

from __future__ import annotations

import os
import sys
import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from agent import live
from agent.console.keys import leaving
from agent.console.plain import Lines, told
from agent.loop import Agent
from agent.operate import HELP, Operator, Outcome
from agent.planners import FOREIGN, is_foreign_planner, open_planner
from agent.policies import is_foreign, open_policy
from agent.recording import Recording
from agent.recording.runs import RunWriter
from agent.recovery import Recovery
from agent.robots import resize_with_pad
from agent.teach import Nobody, Taught
from agent.teleop import Keyboard
from agent.when import read_rules
from backbone.errors import UserError
from envs.hardware import Hardware
from envs.robots.config import Config, read_config
from envs.robots.named import make_robot
from highlevel.plan import DONE

TEACHING = (
    "take over, hand back; while you drive: subtask: ... (what you show), "
    "memory: ... (what there is to remember)"
)


def main(
    robot: str = "sim",
    instruction: str | None = None,
    checkpoint: str = "nano",
    planner: str = "learned",
    execute: int = 8,
    replan: str = "every-look",
    recover: bool | None = None,
    episodes: int = 1,
    seed: int = 0,
    seconds: float | None = None,
    rest: bool = True,
    record: Path | None = None,
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE ...")] = (),
    safety: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE ...")] = (),
    teleop: str | None = None,
    teleop_set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE ...")] = (),
    moves: float | None = None,
    rests: float | None = None,
    driving: bool = False,
) -> int:
    """Options of `steersman run`.

    Args:
        robot: "sim", or a file .toml that tells about a robot (docs/hardware.md).
        instruction: what to do. Of the simulated robot the scene's own words by default.
        checkpoint: "nano" (shipped), a checkpoint directory, somebody else's policy (see `evaluate`); or
            "none", where a person drives from start to end.
        planner: learned; none (the instruction in the subtask's place); or another model, vlm:NAME,
            openai:MODEL@BASE_URL or ws://HOST:PORT (see `evaluate`).
        execute: control ticks between looks of the agent.
        replan: rules that call for a plan (see `evaluate`).
        recover: where it is stuck, back off and try again. By default on the simulated robot.
        episodes: how many to run.
        seed: number of the first episode; of the simulated robot the scene. The next ones count up.
        seconds: that an episode may take; 60 by default, of the simulated robot its scene's own.
        rest: go to the rest pose after each episode.
        record: folder for the runs as a LeRobot dataset; more are added to what is there (docs/recording.md).
        set: settings of the robot's own instead of its file's, as latency=0.05.
        safety: the same of its safety, as stale=0.2.
        teleop: what a person moves the arm with: a type of LeRobot's, module:Class, or "words" (typed: left
            10).
        teleop_set: settings of it, as port=/dev/ttyACM1.
        moves: take over when a number of the teleop has gone so far (in the robot's units); else by "take
            over".
        rests: hand back when the teleop has rested for so many seconds; else by "hand back".
        driving: the person drives from the start of each episode.
    """
    if episodes < 1 or seed < 0:
        raise UserError(f"episodes: expected at least 1 and a seed of 0 or more, got {episodes} and {seed}")
    if seconds is not None and not 0 < seconds < 86400:
        raise UserError(f"seconds: expected above 0 and less than a day, got {seconds}")
    config = read_config(robot, read_settings(set), read_settings(safety))
    torch.set_num_threads(1)  # so small a network is no faster on more, and far slower on busy ones
    with ExitStack() as stack:
        stack.enter_context(leaving())
        if checkpoint == "none" and teleop is None:
            raise UserError("checkpoint: expected a policy, or a --teleop for a person, got none")
        policy = Nobody(len(config.action)) if checkpoint == "none" else open_policy(checkpoint)
        hardware = Hardware(config, fit=resize_with_pad, sizes=sizes_of(policy))
        simulated = hasattr(hardware.robot, "begin")
        if not simulated and instruction is None:
            raise UserError("instruction: expected what to do with a real robot, got none")
        recording = stack.enter_context(Recording(tell=print))
        if record is not None:
            recording.writers.append(RunWriter(record, who(checkpoint, planner, execute, config.name)))
        how = {"replan": read_rules(replan)}
        if recover or (recover is None and simulated and planner == "learned"):
            how["recovery"] = Recovery(home=DONE if planner == "learned" else None)
        planner, driving = ("none", True) if checkpoint == "none" else (planner, driving)
        agent = build(policy, checkpoint, planner, execute, hardware, how)
        stack.callback(agent.close)
        if teleop is not None:
            agent = taught(agent, teleop, read_settings(teleop_set), config, moves, rests, driving)
            stack.enter_context(agent)
        stack.enter_context(hardware)
        there = os.isatty(sys.stdin.fileno())
        if there:
            print(HELP if teleop is None else f"{HELP}; {TEACHING}")
        operator = Operator(hardware, agent, recording, Lines(sys.stdin.fileno()), told, keeps=there)
        judged, solved = 0, 0
        for number in range(seed, seed + episodes):
            outcome = one(operator, number, instruction, seconds, rest)
            judged, solved = judged + (outcome.solved is not None), solved + bool(outcome.solved)
            print(line_of(outcome), flush=True)
            if operator.over:
                break
    if judged > 1:
        print(f"{solved} of {judged} solved")
    return 0


def one(
    operator: Operator, number: int, instruction: str | None, seconds: float | None, rest: bool
) -> Outcome:
    """Set the table, where that can be done, and run."""
    robot = operator.hardware.robot
    if hasattr(robot, "begin"):
        robot.begin(number)
        instruction = instruction or robot.instruction
        seconds = seconds or robot.max_ticks / operator.hardware.rate
    return operator.episode(number, instruction or "", seconds or 60.0, rest)


def build(policy, checkpoint: str, planner: str, execute: int, hardware: Hardware, how: dict[str, Any]):
    """The agent, its clock that of the robot. UserError where they do not fit."""
    has, needs = getattr(policy, "action_dim", None), len(hardware.config.action)
    if has not in (None, needs):
        raise UserError(f"action: expected a controller of {needs} numbers for this robot, got {has}")
    if is_foreign(checkpoint) and planner == "learned" and getattr(policy, "planner", None) is None:
        planner = "none"  # this one writes no plans
    plans = open_planner(planner) if is_foreign_planner(planner) else planner
    if isinstance(plans, str) and plans not in ("learned", "none"):
        raise UserError(f"planner: expected learned, none, {FOREIGN}, got '{planner}'")
    clock = live.clock(hardware.rate)
    return Agent(policy, plans, None, execute, clock, hardware.rest, **how)


def taught(
    agent: Agent,
    name: str,
    settings: dict[str, Any],
    config: Config,
    moves: float | None,
    rests: float | None,
    driving: bool,
) -> Taught:
    """The agent with a person who may take over. A teleop has the robot's names and units, as LeRobot's have;
    words have ours.
    """
    names = tuple(command.name for command in config.action)
    how: dict[str, Any] = {"moves": moves, "rests": rests, "driving": driving}
    if name == "words":
        return Taught(agent, Keyboard(names), names, **how)
    device = make_robot(name, settings, "teleop")
    how["called"] = {command.name: command.feature for command in config.action}
    how["ours"] = lambda values: [c.ours(float(v)) for c, v in zip(config.action, values, strict=True)]
    return Taught(agent, device, names, **how)


def sizes_of(policy) -> dict[str, tuple[int, int]]:
    """Sizes of the pictures that a network of ours takes, by camera."""
    network = getattr(policy, "network", None)
    cameras = () if network is None else network.preset.cameras
    return {name: (config.image_size,) * 2 for name, config in cameras}


def who(checkpoint: str, planner: str, execute: int, robot: str) -> dict[str, Any]:
    """What is the same for all runs that are recorded."""
    return {
        "settings": {
            "checkpoint": checkpoint, "planner": planner, "controller": "learned", "execute": execute,
            "clock": "realtime", "robot": robot,
        }
    }  # fmt: skip


def read_settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    """ "latency=0.05" -> {"latency": 0.05}: values as TOML has them, or words."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"set: expected KEY=VALUE, got '{pair}'")
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found


def line_of(outcome: Outcome) -> str:
    """How an episode went."""
    what = {None: outcome.ended, True: "solved", False: f"not solved ({outcome.ended})"}[outcome.solved]
    told = outcome.cadence.summary()
    faults = ", ".join(f"{count} of {part}" for part, count in told["faults"].items()) or "no faults"
    rested = {None: "", True: ", at rest", False: ", not at rest"}[outcome.rested]
    return f"{what} after {outcome.seconds:.1f} s, {told['hertz']} Hz, {faults}{rested}"


if __name__ == "__main__":
    from steersman.cli import run

    sys.exit(run("examples.run", "run.py", sys.argv[1:]))
