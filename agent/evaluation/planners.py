"""Planners that are wrong on purpose, or a person's: in the learned one's place they tell what each part of a
plan is worth.

Each is a `Planner`. Those that need to know that an episode (or a new instruction) begins see it by
`previous`, which is None then; nothing else is kept between episodes, so a seed gives the same episode again.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from agent.planners import is_foreign_planner, open_planner
from backbone.errors import UserError
from backbone.observation import Observation
from envs.contract import EvaluationEnv, Guide
from envs.tabletop import language as L
from envs.tabletop.commands import Command, happened, point, possible, understand
from envs.tabletop.env import TabletopEnv
from envs.tabletop.world import World
from highlevel.language_model import Dialect
from highlevel.plan import DONE, Plan, Target, parse_plan_text
from highlevel.planner import Planner

NEUTRAL = "the"  # a word that every network reads and that commands nothing
PLANNERS = (
    "learned", "oracle", "none", "frozen", "shuffled", "empty", "words-only", "point-only", "typed"
)  # fmt: skip
NETWORKED = ("learned", "frozen", "shuffled", "words-only", "point-only")  # these ask the learned planner


class Frozen:
    """The first plan, words and point, for as long as the instruction stands."""

    def __init__(self, inner: Planner):
        self.inner = inner

    def plan(self, observation: Observation, instruction: str, memory: str, previous: Plan | None) -> Plan:
        return previous or self.inner.plan(observation, instruction, memory, None)


class Shuffled:
    """Another subtask than the one that was written, with its true point, drawn from those that can be done
    from the same state; it stands until it has happened or the inner planner wants something else.

    Why not another episode's words: those name things that are not on this table, and a controller may stand
    still for that reason alone. Here all it is told can be done, only it is not what was planned. One that
    reads its words does the wrong thing, one that ignores them solves the task as before.
    """

    def __init__(self, inner: Planner, world: World, seed: int = 0):
        self.inner, self.world, self.seed = inner, world, seed
        self._planned: Plan | None = None  # the inner planner's last word
        self._said: Command | None = None
        self._presses = 0

    def plan(self, observation: Observation, instruction: str, memory: str, previous: Plan | None) -> Plan:
        if previous is None:
            self._planned = self._said = None
        before = self._planned
        self._planned = self.inner.plan(observation, instruction, memory, before)
        if self._planned.done:
            return self._planned
        changed = before is None or before.subtask != self._planned.subtask
        if changed or self._said is None or not self._stands(self._said):
            self._said, self._presses = self._draw(instruction), len(self.world.press_log)
        return told(self.world, self._said, self._planned)

    def _stands(self, said: Command) -> bool:
        return said in possible(self.world) and not happened(self.world, said, self._presses)

    def _draw(self, instruction: str) -> Command:
        written = self._planned.subtask
        others = [c for c in possible(self.world) if c.text != written]
        if not others:
            raise UserError(f"shuffled: expected a scene in which more can be done than '{written}'")
        key = zlib.crc32(f"{instruction}|{written}".encode())
        rng = np.random.default_rng([self.seed, key, self.world.steps])
        return others[int(rng.integers(len(others)))]


class Empty:
    """A plan without content: one neutral word, no point, never done."""

    def plan(self, observation: Observation, instruction: str, memory: str, previous: Plan | None) -> Plan:
        return Plan(NEUTRAL, memory=memory, origin="empty")


class WordsOnly:
    """The inner planner's words without its point."""

    def __init__(self, inner: Planner):
        self.inner = inner

    def plan(self, observation: Observation, instruction: str, memory: str, previous: Plan | None) -> Plan:
        return replace(self.inner.plan(observation, instruction, memory, previous), target=None)


class PointOnly:
    """The inner planner's point behind a neutral word. "done" stays: it has no point."""

    def __init__(self, inner: Planner):
        self.inner = inner

    def plan(self, observation: Observation, instruction: str, memory: str, previous: Plan | None) -> Plan:
        written = self.inner.plan(observation, instruction, memory, previous)
        return written if written.done else replace(written, subtask=NEUTRAL)


class Typed:
    """A person's subtasks in their order: the next one when the world says that the last has happened, or
    when the person says `next()`. "done" after the last.

    plans: of each instruction, or of every one under "". A subtask may bring its point as location tokens;
    else, with `pointing`, it gets the true one, as if the person had clicked there.
    """

    def __init__(self, world: World, plans: dict[str, Sequence[str]], pointing: bool = True):
        self.world, self.plans, self.pointing = world, plans, pointing
        self._at, self._presses, self._steps = 0, 0, []

    def next(self) -> None:
        """On to the next subtask, whatever the world says."""
        self._at, self._presses = min(self._at + 1, len(self._steps)), len(self.world.press_log)

    def plan(self, observation: Observation, instruction: str, memory: str, previous: Plan | None) -> Plan:
        if previous is None:
            self._steps = self._of(instruction)
            self._at, self._presses = 0, len(self.world.press_log)
        while self._at < len(self._steps):
            words, target = self._steps[self._at]
            command = understand(words)
            if command is None or not happened(self.world, command, self._presses):
                break
            self.next()
        if self._at == len(self._steps):
            return Plan(DONE, memory=memory, done=True, origin="person")
        if target is not None or command is None or not self.pointing:
            return Plan(words, target, memory, origin="person")
        return replace(told(self.world, command), memory=memory, origin="person")

    def _of(self, instruction: str) -> list[tuple[str, Target | None]]:
        texts = self.plans.get(" ".join(instruction.split()), self.plans.get(""))
        if texts is None:
            raise UserError(f"plan: expected subtasks for the instruction '{instruction}', got none")
        return [parse_plan_text(text) for text in texts]


def told(world: World, command: Command, like: Plan | None = None) -> Plan:
    """A command as a plan, with its true point; the rest is as in `like`."""
    at = point(world, command)
    target = None if at is None else Target(*at)
    base = like or Plan(command.text, origin="told")
    return replace(base, subtask=command.text, target=target, done=command.kind == "done")


def read_plans(text: str) -> dict[str, list[str]]:
    """Typed plans: subtasks, one a line or with ";" between; or several, each an instruction with its
    subtasks indented below. UserError where there are none.
    """
    plans: dict[str, list[str]] = {}
    lines = [line for line in text.replace(";", "\n").splitlines() if line.strip()]
    by_instruction = ";" not in text and any(line[0].isspace() for line in lines)
    instruction = ""
    for line in lines:
        words = " ".join(line.split())
        if by_instruction and not line[0].isspace():
            instruction = words
        else:
            plans.setdefault(instruction, []).append(words)
    if not plans or (by_instruction and "" in plans):
        raise UserError("plan: expected subtasks, one a line, or indented below their instruction")
    for words in (words for texts in plans.values() for words in texts):
        parse_plan_text(words)
    return plans


def typed_text(given: str) -> str:
    """What was typed: the words themselves, or what is in the file of that name."""
    path = Path(given)
    try:
        text = path.read_text() if path.is_file() else given
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"plan: expected a text file, got '{path}' ({error})") from None
    read_plans(text)
    return text


def make(
    name: str, env: EvaluationEnv, policy=None, plan: str | None = None, device: str = "cpu"
) -> str | Planner:
    """A planner by its name (one of PLANNERS, or of `agent.planners`), for this world and network; "learned"
    and "none" are the agent's own. plan: the subtasks of a typed one. device: for somebody else's model.
    """
    if name in ("learned", "none"):
        return name
    if is_foreign_planner(name):
        return open_planner(name, dialect(env), device)
    if name == "oracle":
        from agent.oracle import OraclePlanner

        return OraclePlanner(guide(env, "planner", name))
    if name == "empty":
        return Empty()
    if name == "typed":
        return Typed(tabletop(env, "planner", name), _readable(read_plans(plan or ""), policy))
    inner = getattr(policy, "planner", None)
    if inner is None:
        raise UserError(
            f"planner: expected a checkpoint that writes plans for '{name}', got one that does not"
        )
    if name == "shuffled":
        return Shuffled(inner, tabletop(env, "planner", name))
    return {"frozen": Frozen, "words-only": WordsOnly, "point-only": PointOnly}[name](inner)


def dialect(env: EvaluationEnv) -> Dialect:
    """What a language model is told of the controller: on the tabletop how subtasks are worded there, all of
    them and whatever the scene; elsewhere nothing, and it does not point.
    """
    return spoken() if isinstance(env, TabletopEnv) else Dialect(camera=None)


def spoken() -> Dialect:
    """How subtasks are worded on the tabletop."""
    puts = L.put_in_bin("red", "blue"), L.put_in_box("red"), L.put_in_drawer("red"), L.put_on_table("red")
    mats = tuple(L.put_on_mat("red", side) for side in L.SIDES)
    stacks = L.stack_on("red", "blue"), L.stack_on("green", "red", 2)
    buttons = L.press("red"), L.lift("red")
    return Dialect(examples=(L.pick("red"), *puts, *mats, *stacks, *buttons, L.OPEN_DRAWER, L.CLOSE_DRAWER))


def guide(env: EvaluationEnv, level: str, name: str) -> Guide:
    """The world's teacher; UserError where it has none."""
    found = env.teacher()
    if found is None:
        raise UserError(f"{level}: expected a suite with a scripted teacher for '{name}', got '{env.suite}'")
    return found


def tabletop(env: EvaluationEnv, level: str, name: str) -> World:
    """The tabletop's world; UserError for another one, whose objects nobody here knows by name."""
    if not isinstance(env, TabletopEnv):
        raise UserError(f"{level}: expected a suite of the tabletop for '{name}', got '{env.suite}'")
    return env.world


def _readable(plans: dict[str, list[str]], policy) -> dict[str, list[str]]:
    """The same; UserError if the controller cannot read a subtask."""
    check = getattr(policy, "check_subtask", None)
    for words in (words for texts in plans.values() for words in texts):
        if check is not None:
            check(words)
        elif policy is None and understand(parse_plan_text(words)[0]) is None:
            raise UserError(f"plan: expected subtasks of the tabletop, got '{words}'")
    return plans
