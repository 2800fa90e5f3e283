"""One episode: the agent against a world, and what is worth knowing about it afterwards.

Where the world has a scripted teacher it watches every tick (it is cheap: no pictures), so that each look of
the planner can be compared with what the teacher would have said there. Nothing of that reaches the agent.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from agent.evaluation.analysis import RATE, derive
from agent.evaluation.statistics import quantile
from agent.loop import Agent, Step
from backbone.observation import Observation
from envs.suites import EVALUATION_START
from envs.tabletop.env import TabletopEnv
from envs.tabletop.inventory import inventory
from envs.tabletop.reading import fits, read
from envs.tabletop.tasks import Task
from envs.tabletop.teacher import Teacher
from envs.tabletop.world import World
from highlevel.plan import DONE, Plan

__all__ = ["RATE", "initial_state", "run_episode"]

AFTER = 30  # ticks that an episode runs on after its goal is reached: time to say "done"
NEAR = (
    10  # ticks: a look this close to a switch of the teacher's subtask is not counted as "away from switches"
)
FRONT = 128  # pixels: grounding errors are given in those of the front camera

Watcher = Callable[[TabletopEnv, Step, dict[str, Any]], None]


def run_episode(
    env: TabletopEnv,
    agent: Agent,
    seed: int,
    instruction: str | None = None,
    after: int = AFTER,
    watch: Watcher | None = None,
) -> dict[str, Any]:
    """Run evaluation seed `seed` (its world seed is EVALUATION_START + seed) and return its record,
    JSON-ready.

    instruction: said instead of the scene's own. Where it asks for something else than the scene's goal the
    episode is not judged: success is None and it ends when the agent says "done" or has had its time.
    watch: called after every tick with (env, step, moment); moment has tick, progress, success, instruction.
    """
    started = time.perf_counter()
    _, info = env.reset(seed=EVALUATION_START + seed)
    state = initial_state(env.world)
    said = instruction or env.unwrapped.task_description
    judged = instruction is None or _asks_for(instruction, env.task)
    agent.reset(said, seed)
    teacher = Teacher()
    teacher.reset()
    log = _Log(said, float(info["progress"]))
    limit, tick, success_tick, watching = env.task.max_steps, 0, None, 0.0
    while tick < limit if success_tick is None else tick < success_tick + after:
        observation = Observation.from_env(env.look(), said) if agent.needs_observation else None
        truth = teacher.label(env.world) if judged else None
        step = agent.step(observation)
        scene = inventory(env.world) if step.said is not None and step.said.scene else None
        log.tick(tick, step, truth, scene)
        _, _, _, _, info = env.step(step.action)
        tick += 1
        log.progress(tick, float(info["progress"]))
        if instruction is None and info.get("instruction_changed"):
            said = env.unwrapped.task_description
            agent.say(said)
            log.instructions.append({"time": tick / RATE, "text": said})
            limit = max(limit, env.task.max_steps)
        if judged and success_tick is None and info["is_success"]:
            success_tick = tick
        if watch is not None:
            moment = {"tick": tick, "progress": float(info["progress"]) if judged else 0.0}
            moment |= {"success": success_tick is not None, "instruction": said}
            began = time.perf_counter()
            watch(env, step, moment)
            watching += time.perf_counter() - began
        if not judged and agent.done:
            break
    record = {
        "seed": seed,
        "initial_state": state,
        "suite": env.suite,
        "family": env.task.family,
        "instruction": said,
        "instructions": log.instructions,
        "success": (success_tick is not None) if judged else None,
        "success_time": None if success_tick is None else success_tick / RATE,
        "held_at_end": bool(info["is_success"]) if judged else None,
        "progress": float(info["progress"]) if judged else None,
        "steps": tick,
    }
    record |= log.record(judged, success_tick, tick, time.perf_counter() - started - watching)
    return record | derive(record)


def initial_state(world: World) -> str:
    """16 hex digits that stand for the table as it is: where every object and the arm are, and their colours.

    Rounded to 10 micrometres, so that another machine's last bits do not make it another table.
    """
    parts = (world.data.qpos, world.data.qvel, world.data.mocap_pos, world.model.geom_rgba)
    rounded = [np.round(np.asarray(part, np.float64), 5) + 0.0 for part in parts]  # + 0.0: no minus zero
    return hashlib.sha256(b"".join(part.tobytes() for part in rounded)).hexdigest()[:16]


def _asks_for(instruction: str, task: Task) -> bool:
    asked = read(instruction)
    return asked is not None and fits(asked, task) and not any(e.kind == "say" for e in task.events)


class _Log:
    """Collects an episode's looks, subtasks and failures, what the teacher said and how progress went."""

    def __init__(self, instruction: str, progress: float):
        self.instructions = [{"time": 0.0, "text": instruction}]
        self.looks: list[dict[str, Any]] = []
        self.subtasks: list[dict[str, Any]] = []
        self.failures: list[dict[str, Any]] = []
        self.switches: list[int] = []
        self.teacher: list[dict[str, Any]] = []
        self.course = [[0.0, round(progress, 4)]]
        self.done_tick: int | None = None
        self.true_done: int | None = None
        self._truth: str | None = None

    def tick(self, tick: int, step: Step, truth, scene: str | None = None) -> None:
        if truth is not None:
            if self._truth is not None and truth.subtask != self._truth:
                self.switches.append(tick)
            if truth.subtask != self._truth:
                self.teacher.append({"text": truth.subtask, "start": tick / RATE})
            self.teacher[-1]["end"] = (tick + 1) / RATE
            self._truth = truth.subtask
            if truth.subtask == DONE and self.true_done is None:
                self.true_done = tick
        if step.said is not None:
            self.looks.append(_look(tick, step, truth, scene))
        if "done" in step.events and self.done_tick is None:
            self.done_tick = tick
        for event in step.events:
            if " failed: " in event:
                self.failures.append({"time": tick / RATE, "event": event})
        self._subtask(tick, step.plan)

    def progress(self, tick: int, value: float) -> None:
        if round(value, 4) != self.course[-1][1]:
            self.course.append([tick / RATE, round(value, 4)])

    def _subtask(self, tick: int, plan: Plan | None) -> None:
        if plan is None:
            return
        last = self.subtasks[-1] if self.subtasks else None
        if last is None or last["text"] != plan.subtask:
            target = None if plan.target is None else [round(plan.target.y, 4), round(plan.target.x, 4)]
            last = {"text": plan.subtask, "who": plan.origin, "start": tick / RATE, "target": target}
            last |= {"memory": plan.memory, "margin": plan.margin}
            self.subtasks.append(last)
        last["end"] = (tick + 1) / RATE
        last["memory"] = plan.memory
        last["margin"] = round(min(last["margin"], plan.margin), 4)

    def record(self, judged: bool, success_tick: int | None, ticks: int, wall: float) -> dict[str, Any]:
        for look in self.looks:
            look["near_switch"] = any(abs(look["tick"] - s) <= NEAR for s in self.switches)
        milliseconds = [look["ms"] for look in self.looks]
        done = None if self.done_tick is None else self.done_tick / RATE
        # too early: believed "done" before the goal was reached (and before the teacher would have said it)
        early = self.done_tick is not None and (success_tick is None or self.done_tick < success_tick)
        if early and self.true_done is not None and self.true_done <= self.done_tick:
            early = False
        late = None
        if success_tick is not None:
            late = self.done_tick is None or self.done_tick > success_tick + AFTER
        told = {"teacher": self.teacher, "progress_steps": self.course} if judged else {}
        return told | {
            "done_time": done,
            "done_early": early if judged else None,
            "done_late": late,
            "subtasks": self.subtasks,
            "looks": self.looks,
            "failures": self.failures,
            "timings": {
                "look_ms_p50": quantile(milliseconds, 0.5),
                "look_ms_p95": quantile(milliseconds, 0.95),
                "wall_seconds": round(wall, 3),
                "real_time_factor": round(ticks / RATE / wall, 3),
            },
        }


def _look(tick: int, step: Step, truth, scene: str | None) -> dict[str, Any]:
    """What the planner wrote at one look, the teacher's answer to the same state, and what stands where."""
    said = step.said
    look = {"tick": tick, "text": said.subtask, "margin": round(said.margin, 4), "origin": said.origin}
    look["ms"] = round(step.seconds * 1000, 3)
    if said.seconds:
        look["plan_ms"] = round(said.seconds * 1000, 3)
    if truth is not None:
        agree = said.subtask == truth.subtask
        look |= {"truth": truth.subtask, "agree": agree, "memory_agree": said.memory == truth.memory}
        if agree and said.target is not None and truth.point is not None:
            dy, dx = said.target.y - float(truth.point[0]), said.target.x - float(truth.point[1])
            look["pixels"] = round(FRONT * (dy * dy + dx * dx) ** 0.5, 3)
    if scene is not None:
        look |= {"scene": said.scene, "scene_agree": said.scene == scene}
    return look
