"""Counterfactuals: from the same states, another command, another place, another instruction. Is that what
happens?

An agent that does the right thing may do it whatever it is told: a table with one block needs no words. Here
the words and the state disagree on purpose, so what happens tells what was obeyed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agent.evaluation.planners import told
from agent.evaluation.statistics import rate
from agent.loop import Agent
from backbone.observation import Observation
from envs.contract import Label
from envs.suites import EVALUATION_START
from envs.tabletop import language as L
from envs.tabletop import scene as S
from envs.tabletop import tables
from envs.tabletop.commands import Command, happened, place, possible, understand
from envs.tabletop.env import TabletopEnv
from envs.tabletop.sampling import RESERVED_SORT, RESERVED_STACK
from envs.tabletop.tasks import Task, at_rest
from envs.tabletop.teacher import Teacher, free_place
from envs.tabletop.world import Snapshot, World
from highlevel.plan import DONE, Plan, Target

Record = dict[str, Any]
HEADINGS = {
    "command": "told otherwise",  # another subtask that can be done there, with its point
    "place": "pointed elsewhere",  # and the words as they were
    "instruction": "asked otherwise",  # another instruction for the scene: the planner's first subtask
}
LASTING = 3  # ticks
MOMENTS = 2  # decision points of an episode, of those there are
LIMIT = 120  # ticks that a command may take; the teacher needs less than half of that
AWAY = 0.12  # metres between the pointed place and the named one
AT = 0.04  # metres: a block this near to the pointed place was put there


@dataclass(frozen=True)
class Moment:
    """A state in which the next subtask begins, and what the teacher would do there."""

    state: Snapshot
    label: Label
    instruction: str


class Telling:
    """A planner that says what it is told to say, looking afresh each time."""

    def __init__(self, say: Callable[[], Plan]):
        self.say = say

    def plan(self, observation: Observation, instruction: str, memory: str, previous: Plan | None) -> Plan:
        return self.say()


def measure(env: TabletopEnv, agent: Agent, seed: int) -> Record:
    """All counterfactuals of one evaluation seed as a record of the runner; `trials` has a row for each."""
    rng = np.random.default_rng([seed, 7])
    trials = [other_instruction(env, agent, seed, rng)]
    moments = decision_points(env, seed)
    for i in sorted(rng.permutation(len(moments))[:MOMENTS]):
        trials.append(other_command(env, agent, moments[i], rng, seed))
        trials.append(other_place(env, agent, moments[i], rng, seed))
    record = {"seed": seed, "suite": env.suite, "family": env.task.family, "success": None}
    return record | {"trials": [trial for trial in trials if trial is not None]}


def decision_points(env: TabletopEnv, seed: int) -> list[Moment]:
    """The moments of an episode, driven by the teacher, at which a new subtask begins.

    One that is over after `LASTING` ticks is none: a grip can seem lost for a tick. Nor is "done", nor
    letting go of a button, which whatever comes next begins with.
    """
    env.reset(seed=EVALUATION_START + seed)
    teacher, moments, last, since = Teacher(), [], None, 0
    for tick in range(env.task.max_steps):
        label = teacher.label(env.world)
        if label.subtask != last:
            if moments and moments[-1].label.subtask == last and tick - since < LASTING:
                moments.pop()
            since = tick
            if understand(label.subtask).kind not in ("lift", "done"):
                moments.append(Moment(env.world.save(), label, env.unwrapped.task_description))
        elif label.subtask == DONE and tick - since > LASTING:
            break
        last = label.subtask
        env.step(label.action)
    return moments


def other_command(
    env: TabletopEnv, agent: Agent, moment: Moment, rng: np.random.Generator, seed: int
) -> Record | None:
    """Tell the controller another subtask, with its true point, that can be done in this state. None where
    there is no other.
    """
    world = env.world
    world.restore(moment.state)
    presses, could = len(world.press_log), _not_yet(world, possible(world))
    others = [c for c in could if c.text != moment.label.subtask]
    if not others:
        return None
    chosen = others[int(rng.integers(len(others)))]
    ends = {c.text: _ends(world, c, presses) for c in could if c.kind != "lift" or c is chosen}
    outcome, ticks = _run(
        world, agent, moment, lambda: told(world, chosen), ends, first=chosen.text, seed=seed
    )
    return _trial("command", chosen.kind, chosen.text, moment.label.subtask, outcome, ticks)


def other_place(
    env: TabletopEnv, agent: Agent, moment: Moment, rng: np.random.Generator, seed: int
) -> Record | None:
    """Keep the subtask's words and point elsewhere: a pick or press at another thing of its kind, a put at a
    free place of the table. Followed means that the point was obeyed, kept that the words were.
    """
    world = env.world
    world.restore(moment.state)
    command, presses = understand(moment.label.subtask), len(world.press_log)
    if command.kind in ("pick", "press"):
        others = [c for c in possible(world) if c.kind == command.kind and c.thing != command.thing]
        if not others or command not in possible(world):
            return None
        other = others[int(rng.integers(len(others)))]
        ends = {
            c.text: _ends(world, c, presses) for c in _not_yet(world, possible(world)) if c.kind != "lift"
        }
        meant, where = other.text, lambda: place(world, other)
    elif command.kind in ("put", "stack"):
        at = _elsewhere(world, command, rng)
        if at is None:
            return None
        meant, where, thing = "there", lambda: at, command.thing
        near = lambda: bool(np.linalg.norm((world.block_pos(thing) - at)[:2]) < AT)
        rest = lambda: (
            world.held() != thing and at_rest(world, thing) and bool(world.block_pos(thing)[2] < 0.1)
        )
        ends = {
            meant: lambda: rest() and near(),
            command.text: _ends(world, command, presses),
            "elsewhere": lambda: rest() and not near() and not happened(world, command, presses),
        }
    else:
        return None

    def say() -> Plan:
        return replace(told(world, command), target=Target(*world.project(where(), "front")))

    outcome, ticks = _run(world, agent, moment, say, ends, first=meant, seed=seed)
    return _trial("place", command.kind, meant, command.text, outcome, ticks)


def other_instruction(env: TabletopEnv, agent: Agent, seed: int, rng: np.random.Generator) -> Record | None:
    """Say another instruction that makes sense on the seed's table: is the planner's first subtask the one
    that follows from it? None where the table allows no other first subtask (clear and swap: what comes first
    does not depend on the words).
    """
    env.reset(seed=EVALUATION_START + seed)
    world, task = env.world, env.task
    if task.family == "stow":  # a shut drawer has to be opened for whatever is to go in
        world.set_drawer(S.DRAWER_TRAVEL)
    before = Teacher().label(world).subtask
    new = _other_task(world, task, before, rng)
    if new is None:
        return None
    original = _first(world, agent, task.instruction, seed)
    world.task = new
    expected = Teacher().label(world).subtask
    if expected == before:
        return None
    said = _first(world, agent, new.instruction, seed)
    trial = _trial("instruction", task.family, expected, before, said, 0)
    return trial | {"instruction": new.instruction, "unswapped": original == before}


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One for each (what, kind) and one for all kinds: {what, kind, n, successes, rate, low, high, kept,
    nothing}. successes: the commanded thing is what happened first; kept: what the plan would have been is;
    nothing: neither that nor anything else was finished in time.

    The intervals take trials for independent; an episode gives up to two of a sort.
    """
    trials = [trial for record in records if not record.get("error") for trial in record["trials"]]
    out = []
    for what in HEADINGS:
        of = [trial for trial in trials if trial["what"] == what]
        for kind in [*sorted({trial["kind"] for trial in of}), "all"]:
            some = [trial for trial in of if kind in ("all", trial["kind"])]
            row = {"what": what, "kind": kind} | rate(sum(t["followed"] for t in some), len(some))
            row["kept"] = sum(t["outcome"] == t["planned"] for t in some)
            row["nothing"] = sum(t["outcome"] is None for t in some)
            if what == "instruction":
                row["unswapped"] = sum(t["unswapped"] for t in some)
            out.append(row)
    return out


# -- inside


def _run(
    world: World,
    agent: Agent,
    moment: Moment,
    say: Callable[[], Plan],
    ends: dict[str, Callable[[], bool]],
    first: str,
    seed: int,
) -> tuple[str | None, int]:
    """Run the controller on what it is told until one of the ends comes true (`first` is asked first). Which,
    None if none does in time; and after how many ticks.
    """
    controller = None if agent.controller is agent.policy else agent.controller
    hand = Agent(agent.policy, Telling(say), controller, agent.execute)
    hand.reset(moment.instruction, seed)
    order = sorted(ends, key=lambda end: end != first)
    for tick in range(1, LIMIT + 1):
        seen = Observation.from_env(world.observe(), moment.instruction) if hand.needs_observation else None
        step = hand.step(seen)
        failed = next((event for event in step.events if " failed: " in event), None)
        if failed is not None:
            raise RuntimeError(failed)
        world.step(step.action)
        outcome = next((end for end in order if ends[end]()), None)
        if outcome is not None:
            return outcome, tick
    return None, LIMIT


def _first(world: World, agent: Agent, instruction: str, seed: int) -> str:
    """The subtask that the planner writes first."""
    agent.reset(instruction, seed)
    said = agent.step(Observation.from_env(world.observe(), instruction)).said
    return "" if said is None else said.subtask


def _trial(what: str, kind: str, meant: str, planned: str, outcome: str | None, ticks: int) -> Record:
    trial = {"what": what, "kind": kind, "told": meant, "planned": planned, "outcome": outcome}
    return trial | {"followed": outcome == meant, "ticks": ticks}


def _not_yet(world: World, commands: Sequence[Command]) -> list[Command]:
    """Those that do not hold already."""
    return [c for c in commands if not happened(world, c, len(world.press_log))]


def _ends(world: World, command: Command, presses: int) -> Callable[[], bool]:
    return lambda: happened(world, command, presses)


def _elsewhere(world: World, command: Command, rng: np.random.Generator) -> np.ndarray | None:
    """(3,) a free place of the table away from the named one, at the height that the words say."""
    named = place(world, command)
    (x0, x1), (y0, y1) = tables.AREA
    for _ in range(20):
        at = free_place(world, rng.uniform((x0, y0), (x1, y1)), command.thing)
        if np.linalg.norm((at - named)[:2]) > AWAY:
            return np.array([at[0], at[1], named[2]])
    return None


def _other_task(world: World, task: Task, before: str, rng: np.random.Generator) -> Task | None:
    """Another task of this family on this table, whose first subtask is not `before`."""
    first, blocks = understand(before), list(world.scene.blocks)
    wanted = [c for c in blocks if c != first.thing]
    if task.family == "sort":
        pairs = [(c, b) for c in wanted for b in world.scene.bins if RESERVED_SORT[c] != b]
        if pairs:
            move = pairs[int(rng.integers(len(pairs)))]
            params = dict(moves=(move,), bins=task.params["bins"], others=_rest(blocks, move[:1]))
            return Task("sort", L.sort_instruction((move,), rng), params)
    if task.family == "stack":
        pairs = [(low, up) for up in wanted for low in blocks if low != up and RESERVED_STACK[up] != low]
        if pairs:
            tower = pairs[int(rng.integers(len(pairs)))]
            return Task(
                "stack", L.stack_instruction(tower, rng), dict(tower=tower, others=_rest(blocks, tower))
            )
    if task.family == "stow" and wanted:
        block = wanted[int(rng.integers(len(wanted)))]
        params = dict(blocks=(block,), others=_rest(blocks, (block,)))
        return Task("stow", L.stow_instruction((block,), rng), params)
    if task.family == "press":
        colors = [c for c in world.scene.buttons if c != first.thing]
        if colors:
            start = colors[int(rng.integers(len(colors)))]
            sequence = (start, first.thing)
            params = dict(sequence=sequence, buttons=task.params["buttons"])
            return Task("press", L.press_instruction(sequence, rng), params)
    return None


def _rest(blocks: Sequence[str], used: Sequence[str]) -> tuple[str, ...]:
    return tuple(c for c in blocks if c not in used)
